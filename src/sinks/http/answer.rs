//! What an API says of each record of a batch.

use crate::clients::Class;
use crate::clients::http::{HttpAnswer, class_of};
use crate::model::{FieldPath, Json, read_json};

/// The answer to one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Taken.
    Done,
    /// Not now.
    Again(String),
    /// It will never be taken.
    Refused(String),
}

/// The answers to `count` records, in their order: from the list at `list` of the answer, by what stands at `status` in each.
/// Records that have none may be sent again.
///
/// # Errors
/// There is no such list.
pub(super) fn verdicts(
    answer: &HttpAnswer,
    list: &FieldPath,
    status: &FieldPath,
    count: usize,
) -> Result<Vec<Verdict>, String> {
    let json = read_json(&answer.body).map_err(|e| format!("{e}: {}", answer.said()))?;
    let Some(Json::Array(items)) = list.get(&json) else {
        return Err(format!("no list at `{}` of the answer: {}", list.text(), answer.said()));
    };
    let mut verdicts: Vec<Verdict> = items.iter().take(count).map(|item| verdict(item, status)).collect();
    verdicts
        .resize_with(count, || Verdict::Again("the answer has fewer records than the request".to_owned()));
    Ok(verdicts)
}

fn verdict(item: &Json, path: &FieldPath) -> Verdict {
    let status = if item.is_object() { path.get(item) } else { Some(item) };
    let number = match status {
        Some(Json::Bool(true)) => Some(200),
        Some(Json::Bool(false)) => Some(422),
        Some(Json::Number(number)) => number.as_u64(),
        Some(Json::String(text)) => text.parse().ok(),
        _ => None,
    };
    let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else {
        return Verdict::Again(format!("no status at `{}` of an answer: {}", path.text(), short(item)));
    };
    match class_of(number) {
        None => Verdict::Done,
        Some(Class::Row) => Verdict::Refused(format!("status {number}: {}", short(item))),
        Some(_) => Verdict::Again(format!("status {number}: {}", short(item))),
    }
}

/// The start of an answer, for messages.
fn short(item: &Json) -> String {
    item.to_string().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Each as a letter: done, again, refused.
    fn check(body: Json, list: &str, expected: Result<&str, &str>) {
        let answer = HttpAnswer { status: 200, retry_after: None, body: body.to_string().into(), cut: false };
        let (list, status) = (list.parse().expect("a path"), ".status".parse().expect("a path"));
        let letters = verdicts(&answer, &list, &status, 3).map(|all| {
            let letter = |verdict: &Verdict| match verdict {
                Verdict::Done => 'd',
                Verdict::Again(_) => 'a',
                Verdict::Refused(_) => 'r',
            };
            all.iter().map(letter).collect::<String>()
        });
        match (letters, expected) {
            (Ok(letters), Ok(expected)) => assert_eq!(letters, expected, "{body}"),
            (Err(said), Err(part)) => assert!(said.contains(part), "{said}"),
            (letters, expected) => panic!("{letters:?}, not {expected:?}"),
        }
    }

    #[test]
    fn each_record_has_the_answer_at_its_place() {
        check(
            json!({"items": [{"status": 201}, {"status": 409, "why": "x"}, {"status": 503}]}),
            ".items",
            Ok("dra"),
        );
        check(json!([200, "422", 429]), ".", Ok("dra"));
        check(json!([true, false, null]), ".", Ok("dra"));
        check(json!([{"status": 200}]), ".", Ok("daa"));
        check(json!([{"status": 401}, {"state": 1}, {"status": 99_999}, {"status": 200}]), ".", Ok("aaa"));
        check(json!({"items": {}}), ".items", Err("no list at `.items`"));
        check(json!("text"), ".items", Err("no list"));
    }
}

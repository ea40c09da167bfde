//! What came out and what should have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

/// What the topology promises of its sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    ExactlyOnce,
    AtLeastOnce,
}

impl Guarantee {
    pub fn name(self) -> &'static str {
        match self {
            Guarantee::ExactlyOnce => "exactly_once",
            Guarantee::AtLeastOnce => "at_least_once",
        }
    }
}

/// How much of a result does not depend on the order between partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Every row of a key, in order.
    Rows,
    /// Every row of a key, in any order.
    Bag,
    /// The last row of each key and window; none is the same as a tombstone.
    Newest,
}

/// Key and value, in order.
pub type Rows = Vec<(String, Json)>;

/// Rows by key. What has no key has no order either: `None`.
fn by_key(rows: &Rows) -> BTreeMap<&str, Vec<&Json>> {
    let mut out: BTreeMap<&str, Vec<&Json>> = BTreeMap::new();
    rows.iter().for_each(|(key, value)| out.entry(key).or_default().push(value));
    out
}

fn newest(rows: &Rows) -> BTreeMap<(&str, String), &Json> {
    let mut out = BTreeMap::new();
    for (key, value) in rows {
        out.insert((key.as_str(), value["w"].to_string()), value);
    }
    out.retain(|_, value| !value["v"].is_null());
    out
}

fn sorted(rows: &[&Json]) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
    rows.sort();
    rows
}

/// Each row where it came first.
fn firsts(rows: &[&Json]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    rows.iter().map(ToString::to_string).filter(|row| seen.insert(row.clone())).collect()
}

/// Text of what differs first, and how many keys differ; empty where nothing does.
pub fn difference(how: How, guarantee: Guarantee, got: &Rows, want: &Rows) -> String {
    if how == How::Newest {
        let (got, want) = (newest(got), newest(want));
        let keys: BTreeSet<_> = got.keys().chain(want.keys()).collect();
        let wrong: Vec<_> = keys.into_iter().filter(|key| got.get(*key) != want.get(*key)).collect();
        return wrong.first().map_or(String::new(), |key| {
            format!("{} keys, e.g. {key:?}: {:?}, not {:?}", wrong.len(), got.get(*key), want.get(*key))
        });
    }
    let (got, want) = (by_key(got), by_key(want));
    let none = Vec::new();
    let keys: BTreeSet<&str> = got.keys().chain(want.keys()).copied().collect();
    let mut wrong = Vec::new();
    for key in keys {
        let (got, want) = (got.get(key).unwrap_or(&none), want.get(key).unwrap_or(&none));
        let how = if key.is_empty() { How::Bag } else { how };
        let of = |rows: &[&Json]| match (how, guarantee) {
            (How::Rows, Guarantee::ExactlyOnce) => rows.iter().map(ToString::to_string).collect(),
            (How::Rows, Guarantee::AtLeastOnce) => firsts(rows),
            (_, Guarantee::ExactlyOnce) => sorted(rows),
            (_, Guarantee::AtLeastOnce) => {
                let mut rows = sorted(rows);
                rows.dedup();
                rows
            }
        };
        let (a, b) = (of(got), of(want));
        let last = how == How::Rows && got.last() != want.last();
        if a != b || last {
            let at = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            wrong.push(format!(
                "`{key}`: {} rows, not {}; row {at}: {:?}, not {:?}; last {:?}, not {:?}",
                got.len(),
                want.len(),
                a.get(at),
                b.get(at),
                got.last(),
                want.last()
            ));
        }
    }
    match wrong.first() {
        Some(first) => format!("{} keys, e.g. {first}", wrong.len()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_sees_what_differs() {
        let rows = |list: &[(&str, i64)]| -> Rows {
            list.iter().map(|(k, v)| ((*k).to_owned(), json!({ "v": v }))).collect()
        };
        let want = [("a", 1), ("b", 5), ("a", 2), ("a", 3)];
        let lost = [("a", 1), ("b", 5), ("a", 3)];
        let twice = [("a", 1), ("a", 2), ("a", 1), ("a", 2), ("b", 5), ("a", 3)];
        let turned = [("a", 2), ("a", 1), ("b", 5), ("a", 3)];
        let old = [("a", 1), ("a", 2), ("a", 3), ("b", 5), ("a", 2)];
        let (eo, al) = (Guarantee::ExactlyOnce, Guarantee::AtLeastOnce);
        for (got, how, guarantee, equal) in [
            (&want[..], How::Rows, eo, true),
            (&lost, How::Rows, eo, false),
            (&lost, How::Rows, al, false),
            (&lost, How::Bag, al, false),
            (&lost, How::Newest, eo, true),
            (&twice, How::Rows, eo, false),
            (&twice, How::Bag, eo, false),
            (&twice, How::Rows, al, true),
            (&twice, How::Bag, al, true),
            (&turned, How::Rows, eo, false),
            (&turned, How::Bag, eo, true),
            (&turned, How::Rows, al, false),
            (&old, How::Rows, al, false),
            (&old, How::Newest, al, false),
            (&[], How::Newest, al, false),
        ] {
            let text = difference(how, guarantee, &rows(got), &rows(&want));
            assert_eq!(text.is_empty(), equal, "{got:?} {how:?} {guarantee:?}: {text}");
        }
    }
}

//! `replace` as VRL has it, with a limit: replacing every letter of a text by a long text could make any amount of it.

use ::vrl::compiler::value::VrlValueConvert;
use ::vrl::compiler::{
    Context, Expression, Function, FunctionExpression, Parameter, Resolved, TypeDef, TypeState,
};
use ::vrl::value::Value;

use super::bounds::RESULT_MAX;
use super::own::Own;

/// Its name, the same as VRL's.
pub(super) const NAME: &str = "replace";

/// The function, with the parameters of VRL's: `value`, `pattern` (text or a regular expression), `with`, `count`.
pub(super) fn function(parameters: &'static [Parameter]) -> Box<dyn Function> {
    Own::boxed(NAME, parameters, |_, _, all| {
        let [value, pattern, with] = ["value", "pattern", "with"].map(|name| all.required(name));
        Ok(Replace { value, pattern, with, count: all.optional("count") }.as_expr())
    })
}

#[derive(Clone, Debug)]
struct Replace {
    value: Box<dyn Expression>,
    pattern: Box<dyn Expression>,
    with: Box<dyn Expression>,
    count: Option<Box<dyn Expression>>,
}

impl FunctionExpression for Replace {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        let value = self.value.resolve(cx)?;
        let with = self.with.resolve(cx)?;
        let count = self.count.as_ref().map(|count| count.resolve(cx)).transpose()?;
        let pattern = self.pattern.resolve(cx)?;
        let [value, with] =
            [value, with].map(|text| text.try_bytes_utf8_lossy().map(|text| text.into_owned()));
        let times = match count.map(|count| count.try_integer()).transpose()? {
            Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        Ok(replaced(&value?, &pattern, &with?, times)?.into())
    }
    fn type_def(&self, _: &TypeState) -> TypeDef {
        TypeDef::bytes().infallible()
    }
}

/// The text with at most `times` matches replaced.
fn replaced(value: &str, pattern: &Value, with: &str, times: usize) -> Result<String, String> {
    let mut out = String::new();
    // Appends the text before a match, and checks that `more` bytes still fit.
    let before = |out: &mut String, text: &str, more: usize| {
        if out.len().saturating_add(text.len()).saturating_add(more) > RESULT_MAX {
            return Err(format!("the text with its replacements is more than {RESULT_MAX} bytes"));
        }
        out.push_str(text);
        Ok(())
    };
    let mut done = 0;
    match pattern {
        Value::Regex(regex) => {
            let groups = with.matches('$').count();
            for found in regex.captures_iter(value).take(times) {
                let Some(whole) = found.get(0) else { continue };
                // Each `$1` is at most the whole match.
                let more = with.len().saturating_add(groups.saturating_mul(whole.len()));
                before(&mut out, &value[done..whole.start()], more)?;
                found.expand(with, &mut out);
                done = whole.end();
            }
        }
        text => {
            let text = text.try_bytes_utf8_lossy().map_err(|e| e.to_string())?;
            for (at, found) in value.match_indices(&*text).take(times) {
                before(&mut out, &value[done..at], with.len())?;
                out.push_str(with);
                done = at + found.len();
            }
        }
    }
    before(&mut out, &value[done..], 0)?;
    Ok(out)
}

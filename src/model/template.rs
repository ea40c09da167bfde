//! Text with expressions in it, for URLs, keys and messages.

use std::borrow::Cow;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};

use super::expr::{EvalError, Expr, Scope};
use super::problem::Refused;
use super::value::Json;

/// Text with expressions in double braces: `${API}/accounts/{{ key }}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Expr(Expr),
}

impl Template {
    /// Splits the text at its braces.
    ///
    /// # Errors
    /// A `{{` without `}}`, or nothing between them.
    pub fn new(text: impl Into<String>, span: Option<Range<usize>>) -> Result<Template, Refused> {
        let text = text.into();
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, tail) = after
                .split_once("}}")
                .ok_or_else(|| Refused::new("`{{` has no `}}`", "write `{{ key }}`"))?;
            if inside.trim().is_empty() {
                return Err(Refused::new(
                    "nothing between `{{` and `}}`",
                    "write `{{ key }}` or `{{ .id }}`",
                ));
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Expr(Expr::new(inside.trim(), span.clone())));
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Template { text, parts })
    }

    /// The text as written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text with `with` in place of each expression.
    #[must_use]
    pub fn filled(&self, with: &str) -> String {
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text,
            Part::Expr(_) => with,
        });
        parts.collect()
    }

    /// Replaces the first `len` bytes. False, and nothing changes, if there is an expression in them.
    pub fn replace_start(&mut self, len: usize, with: &str) -> bool {
        let Some(Part::Text(first)) = self.parts.first_mut() else { return false };
        if len > first.len() || !first.is_char_boundary(len) {
            return false;
        }
        first.replace_range(..len, with);
        self.text.replace_range(..len, with);
        true
    }

    /// The expressions inside, to be compiled.
    pub fn exprs_mut(&mut self) -> impl Iterator<Item = &mut Expr> {
        self.parts.iter_mut().filter_map(|p| match p {
            Part::Expr(e) => Some(e),
            Part::Text(_) => None,
        })
    }

    /// The text with every expression replaced by `escape` of its result.
    ///
    /// # Errors
    /// An expression fails, or yields nothing (`null`) or an object or array.
    pub fn render(&self, scope: &Scope<'_>, escape: impl Fn(&str, &mut String)) -> Result<String, EvalError> {
        let mut out = String::with_capacity(self.text.len() + 16);
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Expr(expr) => match expr.eval(scope)? {
                    Json::String(s) => escape(&s, &mut out),
                    Json::Number(n) => escape(&n.to_string(), &mut out),
                    Json::Bool(b) => escape(&b.to_string(), &mut out),
                    other => {
                        return Err(EvalError::Failed(format!(
                            "`{{{{ {} }}}}` gave {other}, no text",
                            expr.text()
                        )));
                    }
                },
            }
        }
        Ok(out)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let whole = Expr::deserialize(d)?;
        Template::new(whole.text(), whole.span()).map_err(de::Error::custom)
    }
}

impl JsonSchema for Template {
    fn schema_name() -> Cow<'static, str> {
        "Template".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "Text with expressions in double braces.", "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Record, Timestamp, Value};

    #[test]
    fn a_template_renders_and_refuses_nothing() {
        let record = Record::new("a/b", Value::Null, Timestamp(0));
        let plain = |s: &str, out: &mut String| out.push_str(s);
        let t = Template::new("x/{{ key }}/y", None).expect("is a template");
        assert_eq!(t.render(&Scope::of(&record), plain).as_deref(), Ok("x/a/b/y"));
        let t = Template::new("{{ .id }}", None).expect("is a template");
        assert!(t.render(&Scope::of(&record), plain).is_err());
        assert!(Template::new("{{ key", None).is_err());
        assert!(Template::new("{{ }}", None).is_err());
    }
}

//! `fields` of an aggregate: names with `count()`, `sum(.amount)`, `top(.amount, 3)`.
//!
//! The text between the parentheses is an expression like any other; mistakes in it are shown at the whole text's place
//! in the file.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::model::{Expr, Refused};

/// Names in the order of the file, each with its aggregation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldsConfig(pub Vec<(String, FieldConfig)>);

/// One aggregation in `fields`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldConfig {
    /// The function.
    pub function: FieldFunction,
    /// The expression of its values; `None` for `count`.
    pub of: Option<Expr>,
    /// The bound of `collect` and `top`.
    pub limit: Option<u32>,
}

/// The functions that may stand in `fields`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see the fields of the same names in `AggregateConfig`")]
pub enum FieldFunction {
    Count,
    Sum,
    Min,
    Max,
    Avg,
    First,
    Last,
    Collect,
    Top,
    Distinct,
    ApproxDistinct,
}

const FUNCTIONS: &[(&str, FieldFunction)] = &[
    ("count", FieldFunction::Count),
    ("sum", FieldFunction::Sum),
    ("min", FieldFunction::Min),
    ("max", FieldFunction::Max),
    ("avg", FieldFunction::Avg),
    ("first", FieldFunction::First),
    ("last", FieldFunction::Last),
    ("collect", FieldFunction::Collect),
    ("top", FieldFunction::Top),
    ("distinct", FieldFunction::Distinct),
    ("approx_distinct", FieldFunction::ApproxDistinct),
];

impl FieldFunction {
    /// The name as it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(_, f)| *f == self).map_or("", |(name, _)| name)
    }
}

impl FieldConfig {
    /// Reads `name(expression)`.
    ///
    /// # Errors
    /// What is wrong and what to write.
    pub fn parse(whole: &Expr) -> Result<FieldConfig, Refused> {
        let text = whole.text().trim();
        let forms = "write `count()`, `sum(.amount)`, `collect(.id, 50)` or `top(.amount, 3)`";
        let (name, rest) =
            text.split_once('(').ok_or_else(|| Refused::new(format!("`{text}` is no aggregation"), forms))?;
        let name = name.trim();
        let known = FUNCTIONS.iter().find(|(n, _)| *n == name);
        let inside = rest.strip_suffix(')').ok_or_else(|| {
            let help = match known {
                // A comma between `{ }` has ended it.
                Some((_, FieldFunction::Collect | FieldFunction::Top)) if !rest.contains(')') => {
                    format!("write it in quotes between `{{ }}`: `'{name}(.amount, 3)'`")
                }
                _ => forms.to_owned(),
            };
            Refused::new(format!("`{text}` has no `)` at its end"), help)
        })?;
        let Some((_, function)) = known else {
            let known: Vec<_> = FUNCTIONS.iter().map(|(n, _)| format!("`{n}`")).collect();
            let message = format!("there is no aggregation `{name}`");
            return Err(Refused::new(message, format!("one of {}", known.join(", "))));
        };
        let bounded = matches!(function, FieldFunction::Collect | FieldFunction::Top);
        let (of, limit) = match inside.rsplit_once(',').filter(|_| bounded) {
            Some((of, limit)) if limit.trim().bytes().all(|b| b.is_ascii_digit()) => {
                let limit = limit.trim();
                let wrong = |_| Refused::new(format!("`{limit}` is no number"), "write fewer digits");
                let limit = limit.parse().map_err(wrong)?;
                (of.trim(), Some(limit))
            }
            _ => (inside.trim(), None),
        };
        let of = match (function, of) {
            (FieldFunction::Count, "") => None,
            (FieldFunction::Count, _) => {
                return Err(Refused::new("`count()` counts records and takes nothing", "write `count()`"));
            }
            (_, "") => {
                let message = format!("`{name}()` does not say of what");
                return Err(Refused::new(message, format!("write `{name}(.amount)`")));
            }
            (FieldFunction::Top, _) if limit.is_none() => {
                let of = match of.rsplit_once(',') {
                    // `top(.x, n)`: the part after the last comma is a number or a plain word only if that comma is not
                    // inside another call.
                    Some((of, n)) if n.trim().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
                        of.trim()
                    }
                    _ => of,
                };
                let message = format!("`{text}` does not say how many, as a whole number");
                return Err(Refused::new(message, format!("write `top({of}, 3)`")));
            }
            (_, of) => Some(Expr::new(of, whole.span())),
        };
        Ok(FieldConfig { function: *function, of, limit })
    }
}

impl<'de> Deserialize<'de> for FieldConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        FieldConfig::parse(&Expr::deserialize(d)?).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for FieldsConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = FieldsConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names, each with an aggregation such as `sum(.amount)`")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FieldsConfig, A::Error> {
                let mut out = Vec::new();
                while let Some(pair) = map.next_entry::<String, FieldConfig>()? {
                    out.push(pair);
                }
                Ok(FieldsConfig(out))
            }
        }
        d.deserialize_map(Pairs)
    }
}

impl JsonSchema for FieldsConfig {
    fn schema_name() -> Cow<'static, str> {
        "AggregateFields".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Name: aggregation, such as `count()` or `sum(.amount)`.",
            "type": "object",
            "additionalProperties": {
                "type": "string",
                "pattern": r"^\s*(count|sum|min|max|avg|first|last|collect|top|distinct|approx_distinct)\s*\(.*\)\s*$"
            },
            "minProperties": 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_name_and_an_expression() {
        let parse = |text: &str| FieldConfig::parse(&Expr::new(text, Some(3..9)));
        let check = |text: &str, function, of: Option<&str>, limit| {
            let field = parse(text).unwrap();
            assert_eq!((field.function, field.limit), (function, limit), "{text}");
            assert_eq!(field.of.as_ref().map(Expr::text), of, "{text}");
            assert!(field.of.is_none_or(|of| of.span() == Some(3..9)));
        };
        check("count()", FieldFunction::Count, None, None);
        check(" sum( .amount ) ", FieldFunction::Sum, Some(".amount"), None);
        check("last(.a[0])", FieldFunction::Last, Some(".a[0]"), None);
        check("max(length(.a) + (1))", FieldFunction::Max, Some("length(.a) + (1)"), None);
        check("sum(add(.a, 3))", FieldFunction::Sum, Some("add(.a, 3)"), None);
        check("approx_distinct(.id)", FieldFunction::ApproxDistinct, Some(".id"), None);
        check("collect(.id)", FieldFunction::Collect, Some(".id"), None);
        check("collect(.id, 50)", FieldFunction::Collect, Some(".id"), Some(50));
        check("collect(f(.a, 3))", FieldFunction::Collect, Some("f(.a, 3)"), None);
        check("top(f(.a, 3), 2)", FieldFunction::Top, Some("f(.a, 3)"), Some(2));
        let refused = |text: &str, part: &str| {
            let message = parse(text).unwrap_err();
            assert!(message.to_string().contains(part), "{message}");
        };
        refused("count", "`count()`");
        refused("count(", "no `)`");
        refused("count(.a)", "takes nothing");
        refused("sum()", "sum(.amount)");
        refused("top(.a)", "write `top(.a, 3)`");
        refused("top(.a, n)", "write `top(.a, 3)`");
        refused("top(.a, -1)", "write `top(.a, 3)`");
        refused("top(.a", "in quotes");
        refused("median(.a)", "no aggregation `median`");
    }
}

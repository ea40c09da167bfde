//! JSON documents made of expressions: one for the whole, or an object with one for each field.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::expr::{EvalError, Expr, Scope};
use super::value::Json;

/// `{ uid: id, of: { title: .title } }`, or one expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// An object, its fields in the order of the file.
    Object(Vec<(String, Document)>),
    /// Anything.
    Expr(Expr),
}

impl Document {
    /// The document for one scope.
    ///
    /// # Errors
    /// An expression fails.
    pub fn eval(&self, scope: &Scope<'_>) -> Result<Json, EvalError> {
        match self {
            Document::Expr(expr) => expr.eval(scope),
            Document::Object(fields) => {
                let fields = fields.iter().map(|(name, of)| Ok((name.clone(), of.eval(scope)?)));
                fields.collect::<Result<_, _>>().map(Json::Object)
            }
        }
    }

    /// The expressions inside, to be compiled.
    pub fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            Document::Expr(expr) => vec![expr],
            Document::Object(fields) => fields.iter_mut().flat_map(|(_, of)| of.exprs_mut()).collect(),
        }
    }
}

/// The name under which a [`Document`] asks its deserializer for a map or for something else. The deserializer in `yaml/`
/// knows it.
pub const DOCUMENT_TOKEN: &str = "$slackwater::Document";

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Document;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression, or an object of expressions")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Document::Object(fields))
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Document, D::Error> {
                Expr::deserialize(d).map(Document::Expr)
            }
        }
        d.deserialize_newtype_struct(DOCUMENT_TOKEN, Fields)
    }
}

impl JsonSchema for Document {
    fn schema_name() -> Cow<'static, str> {
        "Document".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let of = generator.subschema_for::<Document>();
        json_schema!({
            "description": "JSON made of expressions: one expression, or an object of them.",
            "anyOf": [
                { "type": ["string", "number", "boolean", "array", "null"] },
                { "type": "object", "additionalProperties": of }
            ]
        })
    }
}

//! Values of a given shape, made up: for topics whose `schema` says what they hold.

use serde_json::{Map, json};

use crate::model::{Field, Json, Shape, Timestamp};

/// A value of this shape, the `number`-th about `id`. Texts say which field they are of.
#[must_use]
pub fn made_up(shape: &Shape, field: &str, id: &str, number: u64, now: Timestamp) -> Json {
    let inside = |inner: &Field, name: &str| made_up(&inner.shape, name, id, number, now);
    match shape {
        Shape::Any => Json::Null,
        Shape::Boolean => json!(number.is_multiple_of(2)),
        Shape::Integer | Shape::Number => json!(number),
        Shape::String | Shape::Text => json!(format!("{field} {number} of {id}")),
        Shape::Timestamp => json!(now.rfc3339()),
        Shape::Array(element) => json!([inside(element, field)]),
        Shape::Object { fields, .. } => {
            let all: Map<String, Json> =
                fields.iter().map(|(name, inner)| (name.clone(), inside(inner, name))).collect();
            Json::Object(all)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_up_fits_its_shape() {
        let field = |shape| Field { shape, optional: false };
        let fields = [
            ("title", Shape::String),
            ("likes", Shape::Integer),
            ("score", Shape::Number),
            ("open", Shape::Boolean),
            ("at", Shape::Timestamp),
            ("tags", Shape::Array(Box::new(field(Shape::String)))),
        ];
        let fields = fields.into_iter().map(|(name, shape)| (name.to_owned(), field(shape))).collect();
        let shape = Shape::Object { fields, rest: None };
        let value = made_up(&shape, "", "a", 7, Timestamp(0));
        assert_eq!(shape.check(&value), Ok(()));
        assert_eq!(value["title"], json!("title 7 of a"));
        assert_ne!(value, made_up(&shape, "", "b", 7, Timestamp(0)));
    }
}

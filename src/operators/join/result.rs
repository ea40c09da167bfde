//! The value of a join's result.

use std::sync::Arc;

use bytes::Bytes;

use super::config::JoinConfig;
use crate::model::{
    EvalError, Expr, Headers, Json, NotJson, Origin, Record, Scope, Timestamp, Value, Window, pick,
};
use crate::operators::{Cx, OperatorError};

/// The record that a result stands for: what the expression may read besides the two values.
pub(super) struct Around<'a> {
    pub key: Option<&'a Bytes>,
    pub ts: Timestamp,
    pub window: Option<Window>,
    pub headers: &'a Headers,
}

impl<'a> Around<'a> {
    /// A result that stands for this record.
    pub(super) fn of(record: &'a Record) -> Around<'a> {
        Around { key: record.key.as_ref(), ts: record.ts, window: record.window, headers: &record.headers }
    }
}

/// Makes results.
pub(super) struct Maker {
    value: Option<Expr>,
}

impl Maker {
    pub(super) fn new(config: &JoinConfig) -> Maker {
        Maker { value: config.value.clone() }
    }

    /// The result of two values; `Value::Null` for a side that is missing.
    ///
    /// # Errors
    /// A value is not JSON, or the expression fails.
    pub(super) fn make(&self, around: &Around<'_>, left: &Value, right: &Value) -> Result<Value, EvalError> {
        if let Some(expr) = &self.value
            && let Some(text) = expr.text_of(left, &[("left", left), ("right", right)])
        {
            return text.map(Value::Bytes);
        }
        let side = |value: &Value, name: &str| {
            let refused = |e: String| NotJson(format!("{e} (the {name} side)"));
            // `.` is the left value as well, and which of its fields are read is not known here.
            if let (Value::Bytes(bytes), Some(expr)) = (value, &self.value)
                && let Some(fields) = expr.fields_of(name).filter(|_| name != "left" || !expr.reads_value())
                && let Some(found) = pick::<Json>(bytes, fields).map_err(|e| refused(e.to_string()))?
            {
                let named = fields.iter().zip(found).filter_map(|(name, value)| Some((name.clone(), value?)));
                return Ok(Arc::new(Json::Object(named.collect())));
            }
            value.json().map_err(|NotJson(e)| refused(e))
        };
        let left_json = side(left, "left")?;
        let right_json = side(right, "right")?;
        let Some(value) = &self.value else {
            let mut both = serde_json::Map::new();
            both.insert("left".into(), Arc::unwrap_or_clone(left_json));
            both.insert("right".into(), Arc::unwrap_or_clone(right_json));
            return Ok(Value::from(Json::Object(both)));
        };
        let vars = [("left", &*left_json), ("right", &*right_json)];
        let parsed = Value::Json(Arc::clone(&left_json));
        let scope = Scope {
            key: around.key,
            value: if left.is_null() { left } else { &parsed },
            ts: around.ts,
            window: around.window,
            headers: around.headers,
            // Two records come together here.
            origin: Origin::default(),
            topics: &[],
            vars: &vars,
        };
        value.eval(&scope).map(Value::from)
    }
}

/// Refuses a record whose result cannot be made; others of the same call go on.
pub(super) fn refuse(record: Record, error: &EvalError, cx: &mut Cx<'_>) {
    if let OperatorError::Reject(reject) = OperatorError::expression(record, error) {
        cx.reject(*reject);
    }
}

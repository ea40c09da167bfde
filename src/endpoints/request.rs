//! `request`: the message that is made of a request.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::http::is_token;
use super::names::Names;
use crate::expressions::Typing;
use crate::kafka::topic_problem;
use crate::model::{Expr, Problem};

/// What every Kafka header of our own begins with; such a header is never a user's, neither in HTTP nor here.
pub const OWN_HEADERS: &str = "slackwater-";

/// The message that is produced for a request. The client is answered when the broker has it.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RequestConfig {
    /// Kafka topic; it must exist.
    pub topic: String,
    /// The message's key: text or a number, written as text; anything else is answered 422. Default: none.
    #[serde(default)]
    pub key: Option<Expr>,
    /// The message's value, written as JSON. Default: the body.
    #[serde(default = "RequestConfig::whole_body")]
    pub value: Expr,
    /// Headers of the message: text. Those that begin with `slackwater-` are the program's own.
    #[serde(default)]
    pub headers: BTreeMap<String, Expr>,
}

impl RequestConfig {
    fn whole_body() -> Expr {
        Expr::new(".", None)
    }

    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some((message, help)) = topic_problem(&self.topic) {
            problems.push(Problem::setting("topic", message, help));
        }
        for name in self.headers.keys() {
            let field = format!("headers.{name}");
            if name.to_ascii_lowercase().starts_with(OWN_HEADERS) {
                let message = format!("`{name}` is a header of the program's own");
                problems.push(Problem::setting(field, message, "give it another name"));
            } else if !is_token(name) {
                let message = format!("`{name}` is no name of a header");
                problems.push(Problem::setting(field, message, "names have letters, digits, `-` or `_`"));
            }
        }
        problems
    }

    pub(super) fn compile(&mut self, names: &Names, typing: &mut Typing<'_>) {
        for expr in self.key.iter_mut().chain([&mut self.value]).chain(self.headers.values_mut()) {
            names.compile(expr, typing);
        }
    }
}

//! `reply`: the answer to a request, made of the message that answers it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::names::Names;
use crate::expressions::{Kind, Typing};
use crate::kafka::topic_problem;
use crate::model::{Document, Expr, Millis, Problem, Types};

/// Waits for a message that carries the request's id in its header `slackwater-request-id`, as everything has that a
/// topology makes of the request. Expressions read the reply as `.`, and the request as `body`, `path`, `query` and `id`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ReplyConfig {
    /// The topics in which it may come, each with the status of the answer, from 200 to 599:
    /// `{ user-created: 201, user-rejected: 409 }`.
    pub topics: BTreeMap<String, Expr>,
    /// How long the client waits; then the answer is 504 with the request's id. Default 20s.
    #[serde(default = "ReplyConfig::default_timeout")]
    pub timeout: Millis,
    /// The body of the answer: an expression, or an object of them. Default: the reply as it is, which has to be JSON.
    #[serde(default)]
    pub body: Option<Document>,
    /// Requests of an instance that wait at a time, those of other endpoints counted; one more is answered 429. Default
    /// 10000.
    #[serde(default = "ReplyConfig::default_waiting")]
    pub max_waiting: usize,
}

/// The longest time that a client waits.
const TIMEOUT_MAX: Millis = Millis::secs(600);

impl ReplyConfig {
    fn default_timeout() -> Millis {
        Millis::secs(20)
    }
    fn default_waiting() -> usize {
        10_000
    }

    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.topics.is_empty() {
            let help = "write `topics: { TOPIC: 200 }`";
            problems.push(Problem::setting("topics", "no topic in which a reply could come", help));
        }
        for (topic, status) in &self.topics {
            let field = format!("topics.{topic}");
            if let Some((message, help)) = topic_problem(topic) {
                problems.push(Problem::setting(field, message, help));
            } else if let Ok(status) = status.text().trim().parse::<i64>()
                && !(200..=599).contains(&status)
            {
                let message = format!("{status} is no status of an answer");
                problems.push(Problem::setting(field, message, "write 200 to 599, for example `TOPIC: 201`"));
            } else if status.is_compiled() && !status.yields().may_be(Types::NUMBER) {
                let message = format!("the status is always {}", status.yields());
                problems.push(Problem::setting(field, message, "write 200 to 599, for example `TOPIC: 201`"));
            }
        }
        if !(Millis(1)..=TIMEOUT_MAX).contains(&self.timeout) {
            let message = format!("{} is no time to wait", self.timeout);
            problems.push(Problem::setting("timeout", message, "write a time from 1ms to 10m"));
        }
        if self.max_waiting == 0 {
            problems.push(Problem::setting("max_waiting", "no request may wait", "the default is 10000"));
        }
        problems
    }

    pub(super) fn compile(&mut self, names: &Names, typing: &mut Typing<'_>) {
        let body = self.body.iter_mut().flat_map(Document::exprs_mut);
        for expr in self.topics.values_mut().chain(body) {
            names.compile_for(expr, typing, &Kind::any(), &[]);
        }
    }
}

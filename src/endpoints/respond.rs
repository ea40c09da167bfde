//! `respond`: the answer to a request, made of the request.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::http::is_token;
use super::names::Names;
use crate::expressions::Typing;
use crate::model::{Document, EvalError, Expr, Json, Problem, Scope, Template, Types};

/// The answer once the broker has the message. It is made before the message is sent, so that a request whose answer cannot
/// be made leaves nothing behind.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RespondConfig {
    /// Status, from 200 to 599. Default 202.
    #[serde(default = "RespondConfig::accepted")]
    pub status: Expr,
    /// Headers: text with expressions in double braces.
    #[serde(default)]
    pub headers: BTreeMap<String, Template>,
    /// The body, written as JSON: an expression, or an object of them. Default: the request's id as `id`.
    #[serde(default = "RespondConfig::id_alone")]
    pub body: Document,
}

impl Default for RespondConfig {
    fn default() -> Self {
        RespondConfig { status: Self::accepted(), headers: BTreeMap::new(), body: Self::id_alone() }
    }
}

/// The request's id.
fn named_id(scope: &Scope<'_>) -> Result<Json, EvalError> {
    let id = scope.vars.iter().find(|(name, _)| *name == "id");
    Ok(id.map_or(Json::Null, |(_, id)| (*id).clone()))
}

/// Headers that the server writes itself.
const SERVERS: [&str; 5] = ["content-length", "transfer-encoding", "connection", "date", "x-request-id"];

impl RespondConfig {
    fn accepted() -> Expr {
        Expr::new("202", None)
    }

    fn id_alone() -> Document {
        Document::Object(vec![("id".into(), Document::Expr(Expr::native("id", named_id)))])
    }

    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Ok(status) = self.status.text().trim().parse::<i64>()
            && !(200..=599).contains(&status)
        {
            let help = "write 200 to 599, for example `status: 202`";
            problems.push(Problem::setting("status", format!("{status} is no status of an answer"), help));
        } else if self.status.is_compiled() && !self.status.yields().may_be(Types::NUMBER) {
            let message = format!("the status is always {}", self.status.yields());
            problems.push(Problem::setting("status", message, "write 200 to 599, for example `status: 202`"));
        }
        for name in self.headers.keys() {
            let lower = name.to_ascii_lowercase();
            if !is_token(name) || SERVERS.contains(&lower.as_str()) {
                let message = format!("`{name}` is no header that can be set here");
                let help =
                    "write names such as `Location`; the server sets length, date and X-Request-Id itself";
                problems.push(Problem::setting(format!("headers.{name}"), message, help));
            }
        }
        problems
    }

    pub(super) fn compile(&mut self, names: &Names, typing: &mut Typing<'_>) {
        names.compile(&mut self.status, typing);
        let headers = self.headers.values_mut().flat_map(Template::exprs_mut);
        for expr in headers.chain(self.body.exprs_mut()) {
            names.compile(expr, typing);
        }
    }
}

//! `auth`: who may use an endpoint.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Problem;
use crate::model::secret::Secret;

/// Who may use an endpoint: bearer tokens, or users with passwords. Others are answered 401.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Tokens by the name of the caller: `Authorization: Bearer TOKEN`; write a token as `${API_TOKEN}`.
    #[serde(default)]
    pub bearer: BTreeMap<String, Secret>,
    /// Passwords by user: `Authorization: Basic ...`; write a password as `${API_PASSWORD}`.
    #[serde(default)]
    pub basic: BTreeMap<String, Secret>,
}

impl Auth {
    /// What is wrong, with fields counted from `auth`.
    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.bearer.is_empty() && self.basic.is_empty() {
            let help = "write `auth: { bearer: { NAME: \"${API_TOKEN}\" } }` or `auth: { basic: { USER: \"${PASSWORD}\" } }`";
            problems.push(Problem::setting("", "no one may use it", help));
        }
        let all = [("bearer", &self.bearer), ("basic", &self.basic)];
        for (kind, name, secret) in
            all.into_iter().flat_map(|(kind, map)| map.iter().map(move |(n, s)| (kind, n, s)))
        {
            let mut wrong = |message: String, help: &str| {
                problems.push(Problem::setting(format!("{kind}.{name}"), message, help));
            };
            if secret.is_empty() {
                wrong(format!("`{name}` has an empty secret"), "write one that is hard to guess");
            }
            if kind == "basic" && name.contains(':') {
                wrong(format!("`{name}` is no user"), "users of basic auth have no `:` in their names");
            }
        }
        problems
    }
}

//! One endpoint: a line of the section `endpoints`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::names::Names;
use super::{Auth, Method, ReadConfig, ReplyConfig, RequestConfig, RespondConfig, Route};
use crate::clients::Uses;
use crate::expressions::{Typing, VrlCompiler};
use crate::model::kinds::placed;
use crate::model::{Expr, Field, Json, Problem, Scope};

/// An endpoint: a route, and what is done with its requests.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Method and path: `POST /post`, `GET /post/{slug}`. `GET` answers `HEAD` too.
    pub route: Route,
    /// Who may use it. Default: everyone who reaches the port.
    #[serde(default)]
    pub auth: Option<Auth>,
    /// What the body has to be; another one is answered 422 with the name of the field.
    #[serde(default)]
    pub schema: Option<Field>,
    /// What else has to be true of a request, in this order; the first that is not is answered 422.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// The message that is produced for a request.
    #[serde(default)]
    pub request: Option<RequestConfig>,
    /// Where a `GET` looks up what it answers: one place after another, until one has it.
    #[serde(default)]
    pub read: Vec<ReadConfig>,
    /// The answer, when the broker has the message. Default: 202 with the request's id.
    #[serde(default)]
    pub respond: Option<RespondConfig>,
    /// The message that answers the request, in place of `respond`: the client waits until it comes.
    #[serde(default)]
    pub reply: Option<ReplyConfig>,
}

/// One thing that has to be true of a request.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The field that it is about, as the answer names it.
    pub field: String,
    /// An expression that gives true where the request is good.
    #[serde(rename = "that")]
    pub condition: Expr,
    /// What the client is told.
    pub message: String,
}

/// Why a request was answered 422.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The field that is wrong; empty for the body as a whole.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl EndpointConfig {
    /// An endpoint that does nothing yet.
    #[must_use]
    pub fn new(route: Route) -> EndpointConfig {
        EndpointConfig {
            route,
            auth: None,
            schema: None,
            checks: Vec::new(),
            request: None,
            read: Vec::new(),
            respond: None,
            reply: None,
        }
    }

    /// What is wrong with its own settings, with fields counted from the endpoint.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.route.check();
        if self.request.is_none() && self.read.is_empty() {
            let help = "write what it does, for example `request: { topic: TOPIC, key: .id }` or `read: [ { store: NODE, key: path.account } ]`";
            problems.push(Problem::setting("", "the endpoint does nothing", help));
        }
        if self.reads_body() && !self.route.method.has_body() {
            let message = format!("a {} has no body", self.route.method);
            let help = "remove it, or write `route: POST /...`";
            let field = if self.schema.is_some() { "schema" } else { "request" };
            problems.push(Problem::setting(field, message, help));
        }
        for (n, check) in self.checks.iter().enumerate() {
            if check.field.is_empty() {
                let help = "write the name of the field that is wrong then";
                problems.push(Problem::setting(format!("checks.{n}.field"), "no field", help));
            }
        }
        if !self.read.is_empty() {
            let mut wrong = |field: &str, message: &str, help: &str| {
                problems.push(Problem::setting(field, message, help));
            };
            if self.route.method != Method::Get {
                wrong("route", "only a GET looks things up", "write `route: GET /...`");
            }
            if self.request.is_some() {
                wrong("read", "a read produces no message", "make two endpoints of it");
            }
            if self.respond.is_some() {
                wrong(
                    "respond",
                    "a read answers with what it finds",
                    "write `body` beside the place that is asked",
                );
            }
        }
        let mut cached = false;
        for (n, read) in self.read.iter().enumerate() {
            problems.extend(placed(&format!("read.{n}"), read.check(cached)));
            cached |= read.redis.is_some();
        }
        problems.extend(placed("auth", self.auth.iter().flat_map(Auth::check).collect()));
        problems.extend(placed("request", self.request.iter().flat_map(RequestConfig::check).collect()));
        problems.extend(placed("respond", self.respond.iter().flat_map(RespondConfig::check).collect()));
        problems.extend(placed("reply", self.reply.iter().flat_map(ReplyConfig::check).collect()));
        if self.reply.is_some() && self.request.is_none() {
            let help = "add `request: { topic: TOPIC, key: .id }`: a reply answers a message";
            problems.push(Problem::setting("reply", "nothing is asked that could be replied to", help));
        }
        if self.reply.is_some() && self.respond.is_some() {
            let help =
                "keep `reply` to wait for a message, or `respond` to answer when the broker has the request";
            problems.push(Problem::setting("respond", "the request would be answered twice", help));
        }
        problems
    }

    /// Compiles its expressions.
    pub fn compile(&mut self, compiler: &VrlCompiler, problems: &mut Vec<Problem>) {
        let names = Names::new(&self.route, self.schema.as_ref().map(|field| &field.shape));
        let mut typing = Typing::new(compiler, crate::expressions::Kind::any(), problems);
        for check in &mut self.checks {
            names.compile(&mut check.condition, &mut typing);
        }
        self.request.iter_mut().for_each(|request| request.compile(&names, &mut typing));
        self.read.iter_mut().for_each(|read| read.compile(&names, &mut typing));
        if self.request.is_some() && self.reply.is_none() {
            self.respond.get_or_insert_default();
        }
        self.respond.iter_mut().for_each(|respond| respond.compile(&names, &mut typing));
        self.reply.iter_mut().for_each(|reply| reply.compile(&names, &mut typing));
    }

    /// What it does with a request, in short.
    #[must_use]
    pub fn label(&self) -> String {
        let key = |request: &RequestConfig| request.key.as_ref().map(|key| format!(" by {}", key.text()));
        let request = self.request.as_ref();
        let request = request.map(|r| format!("writes {}{}", r.topic, key(r).unwrap_or_default()));
        request.unwrap_or_else(|| {
            let places: Vec<String> = self.read.iter().map(ReadConfig::label).collect();
            format!("reads {}", places.join(", then "))
        })
    }

    /// The topics that it writes, each with the field that names it.
    #[must_use]
    pub fn written_topics(&self) -> Vec<(&str, &'static str)> {
        self.request.iter().map(|request| (request.topic.as_str(), "request.topic")).collect()
    }

    /// The servers that it asks, each with the field that names the connection.
    pub fn connections(&self) -> impl Iterator<Item = (Uses<'_>, String)> {
        let places = self.read.iter().enumerate();
        places.filter_map(|(n, read)| read.uses().map(|(uses, field)| (uses, format!("read.{n}.{field}"))))
    }

    /// The nodes whose rows it reads, each with the field that names it.
    pub fn stores(&self) -> impl Iterator<Item = (&str, String)> {
        let places = self.read.iter().enumerate();
        places.filter_map(|(n, read)| read.store.as_deref().map(|store| (store, format!("read.{n}.store"))))
    }

    /// Whether the body of its requests is read.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        self.request.is_some() || self.schema.is_some()
    }

    /// Whether a request may pass on.
    ///
    /// # Errors
    /// The first field that is wrong: by the schema, then by the checks. An expression that fails is a check that is not
    /// met.
    pub fn accept(&self, body: &Json, scope: &Scope<'_>) -> Result<(), Refusal> {
        if let Some(schema) = &self.schema
            && let Some((field, message)) = schema.shape.misfit(body)
        {
            return Err(Refusal { field, message });
        }
        for check in &self.checks {
            if check.condition.eval(scope) != Ok(Json::Bool(true)) {
                return Err(Refusal { field: check.field.clone(), message: check.message.clone() });
            }
        }
        Ok(())
    }
}

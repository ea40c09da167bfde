//! `read`: where an endpoint looks up what it answers, one place after another.

use schemars::JsonSchema;
use serde::Deserialize;

use super::names::Names;
use crate::clients::{Server, Uses};
use crate::expressions::{Kind, Typing};
use crate::model::{Document, EvalError, Expr, Json, Millis, Problem, Scope, Template};

/// One place where a read looks: a key of Redis, a row of PostgreSQL, or a key of a node's state. The first that has it
/// gives the answer.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ReadConfig {
    /// A key of Redis, whose value is JSON.
    #[serde(default)]
    pub redis: Option<RedisRead>,
    /// One row of PostgreSQL.
    #[serde(default)]
    pub postgres: Option<PostgresRead>,
    /// A node that keeps rows, for example an `aggregate` or a `table`. Whichever instance is asked, the one that owns the
    /// key answers.
    #[serde(default)]
    pub store: Option<String>,
    /// With `store`: the key, text or a number.
    #[serde(default)]
    pub key: Option<Expr>,
    /// With `store`: a record that has to be in the state, as `topic/partition/offset`; from older state nothing is
    /// answered. Default: `query.at`.
    #[serde(default)]
    pub at: Option<Expr>,
    /// With `store`: how the records of the source are partitioned by their keys. Default `any`.
    #[serde(default)]
    pub partitioner: Option<Partitioner>,
    /// With `postgres`: a row that is found is put where `redis` looked for it before, for as long as `ttl`. Default false.
    #[serde(default)]
    pub fill: bool,
    /// With `fill`: how long the row stays in Redis; up to 10 % less, so that not all expire at once. No default.
    #[serde(default)]
    pub ttl: Option<Millis>,
    /// With `fill`: for how long it is remembered, in Redis too, that there is no such row, so that nothing is asked twice
    /// at once; a new row may be hidden for so long. 0s to 10s. Default 1s.
    #[serde(default)]
    pub miss_ttl: Option<Millis>,
    /// The body of the answer: an expression, or an object of them, in which `.` is what was found. Default: what was found.
    #[serde(default)]
    pub body: Option<Document>,
}

/// A key of Redis.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RedisRead {
    /// The key, text with expressions in double braces: `post:{{ slug }}`.
    pub get: Template,
    /// Name of the connection under `redis`. Default: the only one.
    #[serde(default)]
    pub connection: Option<String>,
    /// How long connecting may take, and an answer; then the next place is asked. Default 200ms.
    #[serde(default = "RedisRead::default_timeout")]
    pub timeout: Millis,
}

impl RedisRead {
    fn default_timeout() -> Millis {
        Millis(200)
    }
}

/// One row of PostgreSQL.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PostgresRead {
    /// A `SELECT` that gives no row or one; the columns become fields. Values come as `$1`, `$2` ...
    pub query: String,
    /// The values, in order; they are bound, never put into the text of the query. Default: none.
    #[serde(default)]
    pub params: Vec<Expr>,
    /// Name of the connection under `postgres`. Default: the only one.
    #[serde(default)]
    pub connection: Option<String>,
    /// How long the query may take, and connecting. Default 1s.
    #[serde(default = "PostgresRead::default_timeout")]
    pub timeout: Millis,
    /// Connections for the reads of this endpoint, apart from those of sinks; so many queries run at a time. Default 4.
    #[serde(default = "PostgresRead::default_pool")]
    pub pool: usize,
}

impl PostgresRead {
    fn default_timeout() -> Millis {
        Millis::secs(1)
    }
    fn default_pool() -> usize {
        4
    }
}

/// How the records of a store's sources are partitioned by their keys.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Partitioner {
    /// Somehow. A key that is not where Java's clients and this program put it is looked for in all partitions.
    #[default]
    Any,
    /// As Java's clients and this program do it: a key is looked for in one partition only.
    Murmur2,
}

/// What a read looks for, made of one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// A key of Redis.
    Redis(String),
    /// The values of a query, as text.
    Postgres(Vec<Option<String>>),
    /// A key of a store.
    Store {
        /// The key.
        key: String,
        /// `topic/partition/offset` of a record that has to be in the state.
        at: Option<String>,
    },
}

/// The longest time for which a missing row is remembered.
const MISS_MAX: Millis = Millis::secs(10);

impl ReadConfig {
    /// How long a missing row is remembered.
    #[must_use]
    pub fn miss_ttl(&self) -> Millis {
        self.miss_ttl.unwrap_or(Millis::secs(1))
    }

    /// Whether a key that is not in its partition may be in another one.
    #[must_use]
    pub fn anywhere(&self) -> bool {
        self.partitioner.unwrap_or_default() == Partitioner::Any
    }

    /// For people: `redis post:{{ slug }}`.
    #[must_use]
    pub fn label(&self) -> String {
        match (&self.redis, &self.postgres, &self.store) {
            (Some(redis), ..) => format!("redis {}", redis.get.text()),
            (None, Some(_), _) if self.fill => "postgres, which fills it".to_owned(),
            (None, Some(_), _) => "postgres".to_owned(),
            (None, None, store) => format!("store {}", store.as_deref().unwrap_or_default()),
        }
    }

    /// The server that it asks, and the field that names the connection.
    #[must_use]
    pub fn uses(&self) -> Option<(Uses<'_>, &'static str)> {
        let uses = |server, name| Uses { server, name };
        match (&self.redis, &self.postgres) {
            (Some(redis), _) => Some((uses(Server::Redis, redis.connection.as_deref()), "redis.connection")),
            (None, Some(read)) => {
                Some((uses(Server::Postgres, read.connection.as_deref()), "postgres.connection"))
            }
            (None, None) => None,
        }
    }

    /// What is wrong with one of an endpoint's places, with fields counted from it. `cached`: Redis is asked before it.
    pub(super) fn check(&self, cached: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |field: &str, message: String, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        let places = usize::from(self.redis.is_some())
            + usize::from(self.postgres.is_some())
            + usize::from(self.store.is_some());
        if places != 1 {
            let help = "write one of `redis: { get: KEY }`, `postgres: { query: SQL }` and `store: NODE`";
            let message = if places == 0 { "it looks nowhere" } else { "it looks in several places at once" };
            wrong("", message.into(), help);
        }
        if self.store.is_some() != self.key.is_some() {
            match self.key {
                None => wrong("", "no key to look for".into(), "add `key`, for example `key: path.account`"),
                Some(_) => wrong("key", "only a `store` is asked for a key".into(), "remove `key`"),
            }
        }
        let of_store = [("at", self.at.is_some()), ("partitioner", self.partitioner.is_some())];
        for (field, _) in of_store.iter().filter(|(_, set)| *set && self.store.is_none()) {
            wrong(field, format!("`{field}` is for a `store`"), "remove it");
        }
        if self.fill && (self.postgres.is_none() || !cached) {
            let help = "put `{ redis: { get: KEY } }` before `{ postgres: .., fill: true }`";
            wrong("fill", "there is nothing to fill".into(), help);
        }
        match self.ttl {
            None if self.fill => wrong(
                "",
                "`fill` without `ttl`".into(),
                "add how long a row stays, as its sink does: `ttl: 24h`",
            ),
            Some(_) if !self.fill => {
                wrong("ttl", "`ttl` is for `fill: true`".into(), "remove it, or add `fill: true`")
            }
            Some(ttl) if ttl < Millis::secs(1) => {
                wrong("ttl", format!("{ttl} is no time to keep a row"), "write a time from 1s on");
            }
            _ => {}
        }
        match self.miss_ttl {
            Some(_) if !self.fill => {
                wrong("miss_ttl", "`miss_ttl` is for `fill: true`".into(), "remove it, or add `fill: true`");
            }
            Some(ttl) if !(Millis::ZERO..=MISS_MAX).contains(&ttl) => {
                let help = "write 0s to 10s: a new row may be hidden for so long";
                wrong("miss_ttl", format!("{ttl} is no time to remember a miss"), help);
            }
            _ => {}
        }
        let times = [
            ("redis.timeout", self.redis.as_ref().map(|redis| redis.timeout)),
            ("postgres.timeout", self.postgres.as_ref().map(|postgres| postgres.timeout)),
        ];
        for (field, time) in times {
            if time.is_some_and(|time| !(Millis(1)..=Millis::secs(60)).contains(&time)) {
                wrong(field, "no time in which a client is answered".into(), "write a time from 1ms to 60s");
            }
        }
        if let Some(postgres) = &self.postgres {
            if postgres.pool == 0 {
                wrong("postgres.pool", "no connection at all".into(), "the default is 4");
            }
            if postgres.query.trim().is_empty() {
                wrong("postgres.query", "no query".into(), "write `select .. from .. where id = $1`");
            }
            let (given, used) = (postgres.params.len(), values_in(&postgres.query));
            if given != used {
                let message = format!("the query has {used} values, and `params` gives {given}");
                wrong(
                    "postgres.params",
                    message,
                    "give one expression for each of `$1`, `$2` .. in the query",
                );
            }
        }
        problems
    }

    pub(super) fn compile(&mut self, names: &Names, typing: &mut Typing<'_>) {
        if self.store.is_some() {
            self.at.get_or_insert_with(|| Expr::new("query.at", None));
        }
        let get = self.redis.iter_mut().flat_map(|redis| redis.get.exprs_mut());
        let params = self.postgres.iter_mut().flat_map(|postgres| &mut postgres.params);
        for expr in get.chain(params).chain(&mut self.key).chain(&mut self.at) {
            names.compile(expr, typing);
        }
        for expr in self.body.iter_mut().flat_map(Document::exprs_mut) {
            names.compile_for(expr, typing, &Kind::any(), &[]);
        }
    }

    /// What it looks for, for one request.
    ///
    /// # Errors
    /// An expression fails, or gives something that is no key.
    pub fn lookup(&self, scope: &Scope<'_>) -> Result<Lookup, EvalError> {
        if let Some(redis) = &self.redis {
            return Ok(Lookup::Redis(redis.get.render(scope, |part, out| out.push_str(part))?));
        }
        if let Some(postgres) = &self.postgres {
            let values = postgres.params.iter().map(|expr| Ok(as_value(expr.eval(scope)?)));
            return Ok(Lookup::Postgres(values.collect::<Result<_, EvalError>>()?));
        }
        let text = |expr: &Option<Expr>| match expr.as_ref().map(|expr| expr.eval(scope)).transpose()? {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(Json::Number(n)) => Ok(Some(n.to_string())),
            Some(other) => Err(EvalError::Failed(format!("{other} is no key"))),
        };
        let key = text(&self.key)?.ok_or_else(|| EvalError::Failed("there is no key".into()))?;
        Ok(Lookup::Store { key, at: text(&self.at)? })
    }
}

/// A value as PostgreSQL reads it in text.
fn as_value(json: Json) -> Option<String> {
    match json {
        Json::Null => None,
        Json::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// The highest number of a value in a query: `$2` is 2. Text in quotes that looks so is taken for one, which the server
/// then refuses.
fn values_in(query: &str) -> usize {
    let after = query.split('$').skip(1);
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    after.filter_map(number).max().unwrap_or(0)
}

//! The `redis` sink: one command of Redis for each record, many of them in one pipeline.
//!
//! What is written is decided inside the task (`row`): key, value, time to live, version. A lane makes commands of it
//! (`encode`), and sends those of a batch together: to a cluster one pipeline for each slot, several at a time. A time to
//! live is part of the write, so that no crash leaves a key without its end; what needs more than one command is a script.
//!
//! Invariants: commands of one key reach the server in their order, and no row is answered while an older one of its key
//! may be sent again. Commands that leave the same when they are sent again are, for as long as it takes. Those that do
//! not (`xadd`, `publish`) are only where it is known that nothing was done.

mod command;
mod encode;
mod lifetime;
mod row;
mod script;

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::command::{Command, OnDelete, OnUnknown};
pub use self::lifetime::Lifetime;

use self::encode::{Encoded, groups, pipeline};
use super::memory::TableSink;
use super::table::Deletes;
use super::{Answers, Batch, Connected, Lane, Sink, SinkError, SinkSettings, Surroundings};
use crate::clients::redis::Redis;
use crate::clients::{Class, Failure, Server, Uses};
use crate::model::{
    Clock, EvalError, Expr, Json, Millis, Payload, Problem, Record, SinkRow, Template, Timestamp,
};

/// Most pipelines in flight.
const LANES_MAX: usize = 100;
/// Slots of a cluster that a batch writes to at a time.
const SLOTS_AT_ONCE: usize = 16;
/// By how much a time to live is shortened at most.
const JITTER: f64 = 0.1;

/// Writes to Redis, one command for each record.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisSinkConfig {
    /// Which of the connections in `redis` it uses. Default: the only one.
    #[serde(default)]
    pub connection: Option<String>,
    /// What is done with a record. Default `set`.
    #[serde(default)]
    pub command: Command,
    /// The key: text with expressions in it, `post:{{ .slug }}`. Of `publish` the channel.
    pub key: Template,
    /// What is written. Default: the record's value. Text is written as it is, anything else as JSON; null is refused.
    #[serde(default)]
    pub value: Option<Expr>,
    /// The member's score, a number. Only with `zadd`, which needs it.
    #[serde(default)]
    pub score: Option<Expr>,
    /// How long the key is kept from then on: a duration, `24h`, or an expression that gives one as text or as a number of
    /// seconds; null: for ever. It is part of the write. Default: for ever.
    #[serde(default)]
    #[schemars(with = "Option<Expr>")]
    pub ttl: Option<Lifetime>,
    /// By which part `ttl` is shortened at most, from 0 to 0.9, so that keys that were written together do not end
    /// together; always the same for a key. Default 0.1.
    #[serde(default = "RedisSinkConfig::default_jitter")]
    pub jitter: f64,
    /// A field of the value. A value is replaced, or deleted by a record with a value, only by one in which this field is
    /// greater, whatever the order in which they come. Numbers, or text by its letters (times all in one form, in UTC).
    /// Only with `set` and `hset`. Default: the last one that comes wins.
    #[serde(default)]
    pub newer_wins: Option<String>,
    /// A record for which this is true deletes the key (`set`, `hset`) or the member (`sadd`, `zadd`). Default: with `set`
    /// and `hset` a tombstone does (a record whose value is null), so that `key` must come from the record's key; `false`:
    /// none does.
    #[serde(default)]
    pub delete_when: Option<Expr>,
    /// What a deletion leaves of the key: `delete` (default) nothing, `{ marker: 30s }` the value `null` for so long. Only
    /// with `set`.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// Entries that a stream keeps, about. Only with `xadd`. Default: all.
    #[serde(default)]
    pub max_len: Option<u64>,
    /// With `xadd` and `publish`: what becomes of records whose answer was lost. Default `refuse`. All other commands are
    /// sent again.
    #[serde(default)]
    pub on_unknown: OnUnknown,
    /// How rows are gathered into a pipeline.
    #[serde(default)]
    pub batch: Batch,
    /// Pipelines under way at a time, at most 100. Default 4.
    #[serde(default = "RedisSinkConfig::default_in_flight")]
    pub max_in_flight: usize,
}

impl RedisSinkConfig {
    /// A sink with the defaults.
    #[must_use]
    pub fn new(command: Command, key: Template) -> RedisSinkConfig {
        RedisSinkConfig {
            connection: None,
            command,
            key,
            value: None,
            score: None,
            ttl: None,
            jitter: JITTER,
            newer_wins: None,
            delete_when: None,
            on_delete: OnDelete::default(),
            max_len: None,
            on_unknown: OnUnknown::default(),
            batch: Batch::default(),
            max_in_flight: Self::default_in_flight(),
        }
    }

    fn default_jitter() -> f64 {
        JITTER
    }
    fn default_in_flight() -> usize {
        4
    }

    /// Which records take away what others wrote.
    fn deletes(&self) -> Deletes<'_> {
        match &self.delete_when {
            Some(expr) => Deletes::When(expr),
            None if self.command.owns_its_key() => Deletes::Tombstones,
            None => Deletes::Never,
        }
    }

    /// May a command be sent again of which nothing is known?
    fn repeats(&self) -> bool {
        self.command.is_repeatable() || self.on_unknown == OnUnknown::Repeat
    }
}

impl SinkSettings for RedisSinkConfig {
    fn label(&self) -> String {
        self.key.text().to_owned()
    }

    fn connect<'a>(
        &'a self,
        around: Surroundings<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async move {
            let redis = around.clients.redis(self.connection.as_deref()).await.map_err(away)?;
            let sink = Box::pin(RedisSink::connect(self, redis)).await?;
            Ok(Arc::new(sink) as Arc<dyn Connected>)
        })
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        let command = self.command;
        if self.key.text().is_empty() {
            add("key", "the key is empty", "write `key: \"post:{{ key }}\"`");
        }
        if self.value.is_some() && !command.takes_value() {
            add("value", "the command writes no value", "remove `value`");
        }
        match (&self.score, command) {
            (None, Command::Zadd) => {
                add("command", "a member of a sorted set has a score", "add `score: .points`");
            }
            (None, _) | (Some(_), Command::Zadd) => {}
            (Some(_), _) => add("score", "only members of sorted sets have a score", "remove `score`"),
        }
        match &self.ttl {
            None if command == Command::Expire => {
                add("command", "there is no time to live to set", "add `ttl: 24h`");
            }
            Some(_) if !command.takes_ttl() => add("ttl", "the command leaves no key", "remove `ttl`"),
            Some(Lifetime::Fixed(ttl)) if *ttl <= Millis::ZERO => {
                add("ttl", "no time at all to live", "write `ttl: 24h`, or remove it");
            }
            _ => {}
        }
        if !(0.0..=0.9).contains(&self.jitter) {
            add("jitter", "not from 0 to 0.9", "the default is 0.1, a tenth of `ttl`");
        }
        if self.newer_wins.is_some() && !command.owns_its_key() {
            let help = "remove it, or write `command: set` or `hset`";
            add("newer_wins", "the command replaces no value", help);
        }
        if self.delete_when.is_some() && !command.can_delete() {
            let message = "the command has nothing that a record could delete";
            add("delete_when", message, "remove it: `set`, `hset`, `sadd` and `zadd` have");
        }
        match self.on_delete {
            OnDelete::Marker(_) if command != Command::Set => {
                add(
                    "on_delete",
                    "a marker is a value as `set` writes it",
                    "remove it, or write `command: set`",
                );
            }
            OnDelete::Marker(time) if time <= Millis::ZERO => {
                add("on_delete", "no time at all for the marker", "write `on_delete: { marker: 30s }`");
            }
            OnDelete::Marker(_) | OnDelete::Delete => {}
        }
        if self.max_len.is_some() && command != Command::Xadd {
            add("max_len", "only streams have a length to keep", "remove `max_len`");
        }
        if self.on_unknown != OnUnknown::default() && command.is_repeatable() {
            add("on_unknown", "the command is sent again without being asked to", "remove `on_unknown`");
        }
        if !(1..=LANES_MAX).contains(&self.max_in_flight) {
            add("max_in_flight", "not from 1 to 100", "the default is 4");
        }
        problems
    }

    fn connection(&self) -> Option<Uses<'_>> {
        Some(Uses { server: Server::Redis, name: self.connection.as_deref() })
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        let ttl = self.ttl.iter_mut().filter_map(Lifetime::expr_mut);
        let others = [&mut self.value, &mut self.score, &mut self.delete_when].into_iter().flatten();
        self.key.exprs_mut().chain(others).chain(ttl).collect()
    }

    fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        self.row(record)
    }

    fn batch(&self) -> Batch {
        self.batch.clone()
    }

    fn stand_in(&self, clock: Arc<dyn Clock>) -> Option<TableSink> {
        Some(self.table_in_memory(clock))
    }

    fn shows_rows(&self) -> bool {
        true
    }

    fn show(&self, row: &SinkRow, _: Timestamp) -> (Json, Json) {
        self.show_row(row)
    }
}

/// A connected sink. Cheap to clone; lanes share the connection.
#[derive(Clone)]
pub struct RedisSink {
    redis: Redis,
    config: Arc<RedisSinkConfig>,
}

impl RedisSink {
    /// Asks the server whether it is there.
    ///
    /// # Errors
    /// `Retry`: it cannot be reached. `Config`: it refuses the login, or the settings cannot work.
    pub async fn connect(config: &RedisSinkConfig, mut redis: Redis) -> Result<RedisSink, SinkError> {
        if let Some(Problem { field, message, help, .. }) = config.check().into_iter().next() {
            let help = help.unwrap_or_default();
            return Err(SinkError::Config { message: format!("`{field}`: {message}: {help}"), column: None });
        }
        redis.ping().await.map_err(away)?;
        Ok(RedisSink { redis, config: Arc::new(config.clone()) })
    }

    /// A lane: what one driver lane delivers to.
    #[must_use]
    pub fn lane(&self) -> RedisLane {
        RedisLane { sink: self.clone() }
    }
}

impl Connected for RedisSink {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(RedisSink::lane(self))
    }

    fn lanes(&self) -> usize {
        self.config.max_in_flight
    }
}

/// A failure of the connection, for which no row is to blame.
fn away(failure: Failure) -> SinkError {
    let Failure { class, message, .. } = failure;
    match class {
        Class::Config | Class::Row => SinkError::Config { message, column: None },
        Class::Transient | Class::Contention | Class::Overload | Class::Unknown => {
            SinkError::Retry { message, after: None }
        }
    }
}

/// One lane of a Redis sink.
pub struct RedisLane {
    sink: RedisSink,
}

impl Sink for RedisLane {
    async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
        let config = &*self.sink.config;
        let rows = config.encode(batch, |at, why| out.refused(at, why));
        if rows.is_empty() {
            return Ok(());
        }
        if !config.repeats() {
            // What fails here was certainly not sent.
            self.sink.redis.ping().await.map_err(away)?;
        }
        let groups = groups(rows, self.sink.redis.is_cluster());
        // All or nothing, where what was done must not be done again.
        let whole = config.command == Command::Xadd;
        let pipelines: Vec<_> = groups.iter().map(|rows| pipeline(rows, whole)).collect();
        let redis = &self.sink.redis;
        let sent: Vec<_> = stream::iter(pipelines.into_iter().enumerate())
            .map(|(n, pipeline)| {
                let mut redis = redis.clone();
                async move { (n, redis.each(pipeline).await) }
            })
            .buffer_unordered(SLOTS_AT_ONCE)
            .collect()
            .await;
        let mut worst = None;
        for (n, result) in sent {
            let rows = &groups[n];
            let failed = match result {
                Ok(answers) => answer(rows, answers, out),
                Err(failure) => self.sink.failed(rows, failure, out),
            };
            worst = match (worst, failed) {
                (Some(worst), Some(failed)) if weight(&worst) >= weight(&failed) => Some(worst),
                (worst, failed) => failed.or(worst),
            };
        }
        worst.map_or(Ok(()), Err)
    }
}

/// Which of two errors a batch ends with: none must hide one that stops the topology, or one that finds a bad row.
fn weight(error: &SinkError) -> u8 {
    match error {
        SinkError::Config { .. } => 2,
        SinkError::Refused { .. } => 1,
        SinkError::Retry { .. } => 0,
    }
}

impl RedisSink {
    /// Answers for a pipeline that failed as a whole.
    fn failed(&self, rows: &[Encoded<'_>], failure: Failure, out: &mut Answers) -> Option<SinkError> {
        match failure.class {
            Class::Unknown if !self.config.repeats() => {
                let why = format!(
                    "whether Redis has done it is not known, and it is not done twice (`on_unknown: repeat` does): \
                     {failure}"
                );
                rows.iter().flat_map(Encoded::all).for_each(|at| out.refused(at, why.clone()));
                None
            }
            // Redis did nothing of it for the sake of one of the commands.
            Class::Row if failure.is(EXECABORT) => Some(SinkError::Refused { message: failure.message }),
            _ => Some(away(failure)),
        }
    }
}

/// A transaction was not begun.
const EXECABORT: &str = "EXECABORT";

/// Answers row by row; what is left of it, to be sent again.
fn answer(rows: &[Encoded<'_>], answers: Vec<Result<(), Failure>>, out: &mut Answers) -> Option<SinkError> {
    let mut again: HashSet<&str> = HashSet::new();
    let mut worst: Option<SinkError> = None;
    for (row, answer) in rows.iter().zip(answers) {
        match answer {
            // Behind one that is sent again, it is too.
            Ok(()) if again.contains(&*row.key) => {}
            Ok(()) => row.all().for_each(|at| out.written(at)),
            Err(failure) if failure.class == Class::Row => {
                row.all().for_each(|at| out.refused(at, failure.message.clone()));
            }
            Err(failure) => {
                again.insert(&row.key);
                let error = away(failure);
                if worst.as_ref().is_none_or(|worst| weight(worst) < weight(&error)) {
                    worst = Some(error);
                }
            }
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::Answer;

    fn failure(class: Class) -> Failure {
        Failure::new(class, format!("{class:?}"))
    }

    /// Rows by their keys, the answer of each (`w` done, `r` its row is bad, `t` not now, `c` never); what each row is
    /// told, and how it ends.
    #[track_caller]
    fn check(rows: &str, answers: &str, told: &str, ends: &str) {
        let rows: Vec<Encoded<'_>> = (0..).zip(rows.chars()).map(|(at, key)| Encoded::of(at, key)).collect();
        let mut out = Answers::new(rows.len());
        let answers = answers.chars().map(|answer| match answer {
            'w' => Ok(()),
            'r' => Err(failure(Class::Row)),
            't' => Err(failure(Class::Overload)),
            _ => Err(failure(Class::Config)),
        });
        let end = answer(&rows, answers.collect(), &mut out);
        let said: String = out
            .into_vec()
            .into_iter()
            .map(|answer| match answer {
                Some(Answer::Written | Answer::Wrote(_)) => 'w',
                Some(Answer::Refused(_)) => 'x',
                None => '-',
            })
            .collect();
        let end = end.map_or("ok", |end| match end {
            SinkError::Retry { .. } => "retry",
            SinkError::Refused { .. } => "refused",
            SinkError::Config { .. } => "config",
        });
        assert_eq!((said.as_str(), end), (told, ends), "{answers:?}", answers = rows.len());
    }

    #[test]
    fn a_row_is_answered_once_no_older_one_of_its_key_is_left() {
        check("abc", "www", "www", "ok");
        check("abc", "wrw", "wxw", "ok");
        check("aba", "tww", "-w-", "retry");
        check("aab", "wtw", "w-w", "retry");
        // A bad row says so at once, whatever is before it.
        check("aab", "trw", "-xw", "retry");
        check("abc", "tcw", "--w", "config");
    }

    #[test]
    fn settings_that_cannot_work_are_named_all_at_once() {
        let key = || Template::new("k:{{ key }}", None).expect("a template");
        let fields = |config: RedisSinkConfig| -> Vec<String> {
            config.check().into_iter().map(|problem| problem.field).collect()
        };
        for command in [Command::Set, Command::Hset, Command::Del, Command::Sadd, Command::Srem] {
            assert_eq!(fields(RedisSinkConfig::new(command, key())), Vec::<String>::new(), "{command:?}");
        }
        assert_eq!(fields(RedisSinkConfig::new(Command::Zadd, key())), ["command"]);
        assert_eq!(fields(RedisSinkConfig::new(Command::Expire, key())), ["command"]);
        let wrong = RedisSinkConfig {
            value: Some(Expr::new(".", None)),
            score: Some(Expr::new(".n", None)),
            ttl: Some(Lifetime::Fixed(Millis(1))),
            jitter: 1.0,
            newer_wins: Some("version".into()),
            delete_when: Some(Expr::new(".gone", None)),
            on_delete: OnDelete::Marker(Millis(1)),
            max_len: Some(1),
            on_unknown: OnUnknown::Repeat,
            max_in_flight: 0,
            ..RedisSinkConfig::new(Command::Del, key())
        };
        let all = "value score ttl jitter newer_wins delete_when on_delete max_len on_unknown max_in_flight";
        assert_eq!(fields(wrong).join(" "), all);
        let none = RedisSinkConfig {
            ttl: Some(Lifetime::Fixed(Millis::ZERO)),
            on_delete: OnDelete::Marker(Millis::ZERO),
            ..RedisSinkConfig::new(Command::Set, key())
        };
        assert_eq!(fields(none), ["ttl", "on_delete"]);
    }
}

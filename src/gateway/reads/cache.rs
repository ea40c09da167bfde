//! Redis in front of something else: values are read, and what was found elsewhere is filled in.
//!
//! A fill is `SET key value NX`: it never replaces what is there, so that what a reader has found a while ago does not take
//! the place of what a sink has written since. The marker of a miss stands under another key, so that a key of the user's
//! holds nothing but values; the value `null` is what a sink writes for a deleted row.
//!
//! A connection of its own with short time limits: where Redis is away, a request goes on to the next place at once.

use std::time::Duration;

use tokio::sync::OnceCell;

use super::health::Health;
use crate::clients::redis::{Cmd, FromRedisValue, Redis, RedisConfig, cmd};
use crate::clients::{Class, Failure};
use crate::model::{Json, Millis, read_json};

/// What a cache says of a key.
#[derive(Debug, PartialEq)]
pub(super) enum Cached {
    /// Its value, and the value's text.
    Value(Json, String),
    /// A sink has deleted it.
    Deleted,
    /// Nothing.
    Nothing,
}

/// One Redis server as the reads of this process use it.
pub(super) struct Cache {
    config: RedisConfig,
    link: OnceCell<Redis>,
    health: Health,
}

/// The part of a lifetime by which it may be shorter.
const JITTER: f64 = 0.1;

impl Cache {
    /// Asks that server, with a time limit for connecting and for an answer.
    pub(super) fn new(config: &RedisConfig, timeout: Millis) -> Cache {
        let shorter = |limit: Millis| limit.min(timeout);
        let config = RedisConfig {
            connect_timeout: shorter(config.connect_timeout),
            timeout: shorter(config.timeout),
            ..config.clone()
        };
        Cache { config, link: OnceCell::new(), health: Health::new("Redis") }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Redis does not answer, or what stands there is no JSON.
    pub(super) async fn get(&self, key: &str) -> Result<Cached, String> {
        let mut get = cmd("GET");
        get.arg(key);
        let Some(bytes) = self.ask::<Option<Vec<u8>>>(&get).await? else { return Ok(Cached::Nothing) };
        match (read_json(&bytes), String::from_utf8(bytes)) {
            (Ok(Json::Null), _) => Ok(Cached::Deleted),
            (Ok(json), Ok(text)) => Ok(Cached::Value(json, text)),
            (Err(e), _) => Err(format!("Redis has no JSON at the key: {e}")),
            (_, Err(e)) => Err(format!("Redis has no JSON at the key: {e}")),
        }
    }

    /// Whether it was noted a moment ago that there is nothing for a key.
    pub(super) async fn is_marked(&self, key: &str) -> bool {
        let mut exists = cmd("EXISTS");
        exists.arg(marker(key));
        // Without an answer the next place is asked.
        self.ask::<i64>(&exists).await.is_ok_and(|n| n > 0)
    }

    /// Puts a value where there is none, for `ttl` and up to 10 % less.
    pub(super) async fn fill(&self, key: &str, value: &str, ttl: Millis) {
        let less = rand::random_range(0.0..JITTER);
        self.set(key, value, ttl.duration().mul_f64(1.0 - less)).await;
    }

    /// Notes that there is nothing for a key.
    pub(super) async fn mark(&self, key: &str, ttl: Millis) {
        self.set(&marker(key), "1", ttl.duration()).await;
    }

    async fn set(&self, key: &str, value: &str, ttl: Duration) {
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut set = cmd("SET");
        set.arg(key).arg(value).arg("NX").arg("PX").arg(millis);
        // What is not filled in now is looked up again.
        if let Err(error) = self.ask::<Option<String>>(&set).await {
            tracing::debug!(error, "Redis was not filled");
        }
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, String> {
        let attempt = self.health.attempt()?;
        let limit = self.config.connect_timeout.duration() + self.config.timeout.duration();
        let asked = async {
            let link = self.link.get_or_try_init(|| Box::pin(Redis::connect(&self.config))).await?;
            link.clone().command::<T>(command).await
        };
        let answer: Result<T, Failure> = match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                attempt.end(false);
                return Err(format!("Redis: no answer within {} ms", limit.as_millis()));
            }
        };
        // `Row`: it has answered, the key or the command is wrong.
        attempt.end(answer.as_ref().map_or_else(|failure| failure.class == Class::Row, |_| true));
        answer.map_err(|failure| failure.message)
    }
}

/// Where a miss is noted: in the slot of the key itself, where Redis is a cluster.
fn marker(key: &str) -> String {
    format!("slackwater:miss:{{{key}}}")
}

//! Floor 1: clients of servers other than Kafka. A server that several parts of the program ask (sinks, calls, checks)
//! has its one client here, which also decides what the server's answers mean.
//!
//! Where servers are stands in the topology's [`Connections`]; [`Clients`] has what is connected of them, one pool or
//! connection per server and process.

mod connections;
mod failure;
pub mod http;
pub mod postgres;
pub mod redis;
pub mod request;
pub mod smtp;
mod tls;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

pub use self::connections::{Connection, ConnectionSettings, Connections, Named, Server, Uses};
pub use self::failure::{Class, Failure, causes};
pub use self::tls::Tls;

use self::http::HttpCaller;
use self::postgres::Postgres;
use self::redis::Redis;
use self::smtp::Smtp;
use crate::model::{CallRequest, Millis, Reply};

/// A rate limit of the topology, as what asks an API sees it: shared by everything in this process that asks it.
pub trait Pace: Send + Sync {
    /// Waits until one request may be sent; it is to be sent at once. Cancel safe.
    fn turn(&self) -> BoxFuture<'_, ()>;

    /// No request for this long, of anything: the server asked for it.
    fn pause_for(&self, time: Duration);
}

/// Makes the calls of one node.
pub enum Caller {
    /// An HTTP API.
    Http(HttpCaller),
}

/// The outcome of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Called {
    /// The answer to the call.
    pub reply: Reply,
    /// What it is counted as: one of [`Caller::outcomes`].
    pub outcome: &'static str,
    /// Whether it shows that the server works, for the circuit breaker.
    pub alive: bool,
    /// For how long the server wants no calls at all.
    pub pause: Option<Millis>,
}

impl Caller {
    /// One attempt. It never fails: errors are outcomes.
    pub async fn call(&self, request: &CallRequest) -> Called {
        match (self, request) {
            (Caller::Http(http), CallRequest::Http(request)) => http.call(request).await,
        }
    }

    /// The possible values of [`Called::outcome`], for the metrics' label `status`.
    #[must_use]
    pub fn outcomes(&self) -> &'static [&'static str] {
        match self {
            Caller::Http(_) => &http::OUTCOMES,
        }
    }
}

/// The clients of a process: what is connected of a topology's connections, each made when it is first asked for.
pub struct Clients {
    connections: Connections,
    /// Locked for moments, when sinks, calls and checks connect. The names are those of the file.
    postgres: Mutex<BTreeMap<String, Postgres>>,
    smtp: Mutex<BTreeMap<String, Smtp>>,
    /// Held while one connects, which takes its time in a cluster.
    redis: tokio::sync::Mutex<BTreeMap<String, Redis>>,
}

impl Clients {
    /// Nothing connected yet.
    #[must_use]
    pub fn new(connections: &Connections) -> Clients {
        Clients {
            connections: connections.clone(),
            postgres: Mutex::default(),
            smtp: Mutex::default(),
            redis: tokio::sync::Mutex::default(),
        }
    }

    /// The PostgreSQL server of that name; the only one without a name.
    ///
    /// # Errors
    /// `Config`: there is none, or its settings cannot be used.
    pub fn postgres(&self, name: Option<&str>) -> Result<Postgres, Failure> {
        let (name, config) = found(self.connections.postgres.find(Uses { server: Server::Postgres, name }))?;
        let mut made = locked(&self.postgres);
        if let Some(client) = made.get(name) {
            return Ok(client.clone());
        }
        let client = Postgres::new(config)?;
        made.insert(name.to_owned(), client.clone());
        Ok(client)
    }

    /// The mail server of that name; the only one without a name.
    ///
    /// # Errors
    /// `Config`: there is none, or its settings cannot be used.
    pub fn smtp(&self, name: Option<&str>) -> Result<Smtp, Failure> {
        let (name, config) = found(self.connections.smtp.find(Uses { server: Server::Smtp, name }))?;
        let mut made = locked(&self.smtp);
        if let Some(client) = made.get(name) {
            return Ok(client.clone());
        }
        let client = Smtp::new(config)?;
        made.insert(name.to_owned(), client.clone());
        Ok(client)
    }

    /// The Redis server of that name; the only one without a name.
    ///
    /// # Errors
    /// `Config`: there is none, or its settings cannot be used. `Transient`: it does not answer.
    pub async fn redis(&self, name: Option<&str>) -> Result<Redis, Failure> {
        let (name, config) = found(self.connections.redis.find(Uses { server: Server::Redis, name }))?;
        let mut made = self.redis.lock().await;
        if let Some(client) = made.get(name) {
            return Ok(client.clone());
        }
        let client = Box::pin(Redis::connect(config)).await?;
        made.insert(name.to_owned(), client.clone());
        Ok(client)
    }

    /// Asks a server something that costs nothing.
    ///
    /// # Errors
    /// Its address, and why it does not answer.
    pub async fn ping(&self, uses: Uses<'_>) -> Result<(), Failure> {
        match uses.server {
            Server::Postgres => Box::pin(self.postgres(uses.name)?.ping()).await,
            Server::Redis => Box::pin(self.redis(uses.name).await?.ping()).await,
            Server::Smtp => self.smtp(uses.name)?.ping().await,
        }
    }
}

fn found<T>(found: Result<T, (String, String)>) -> Result<T, Failure> {
    found.map_err(|(message, help)| Failure::new(Class::Config, format!("{message}: {help}")))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

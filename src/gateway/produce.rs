//! `request` and `respond`: a message is made of a request and produced, and the answer follows from the delivery report.
//!
//! A client that is told 503 will ask again, so 503 means that the message is not in the topic and never will be; where
//! that is not known the answer is 504 and says so. See [`crate::kafka::Messenger`].

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::answer::{self, Problem};
use super::request::Request;
use super::serve::Handler;
use crate::endpoints::{RequestConfig, RespondConfig};
use crate::kafka::{Delivery, Messenger, NotSent, OutRecord};
use crate::model::{Headers, Json, Scope, key_text};

/// The Kafka header with the request's id.
pub const ID_HEADER: &str = "slackwater-request-id";
/// The Kafka header with the hash of path, query and body, where the client gave an `Idempotency-Key`: the owner of the
/// key can tell another request under the same `Idempotency-Key` by it.
pub const HASH_HEADER: &str = "slackwater-request-hash";
/// HTTP headers that go with the message: the trace that it is part of (W3C).
const TRACE: [&str; 2] = ["traceparent", "tracestate"];
/// The longest of them that is passed on; W3C asks for 512 bytes at least.
const TRACE_MAX: usize = 1024;

/// Makes messages of requests, and sends them.
pub struct Produce {
    config: RequestConfig,
    topic: Arc<str>,
    messenger: Arc<Messenger>,
}

impl Produce {
    /// For an endpoint's `request`.
    #[must_use]
    pub fn new(config: &RequestConfig, messenger: Arc<Messenger>) -> Produce {
        Produce { topic: config.topic.as_str().into(), config: config.clone(), messenger }
    }

    /// The message of a request.
    ///
    /// # Errors
    /// An expression fails on it, or gives a key or a header that is none.
    pub fn message(&self, request: &Request) -> Result<OutRecord, Problem> {
        request.read(|scope| {
            let value = self.config.value.eval(scope).map_err(|e| Problem::expression("the value", &e))?;
            Ok(OutRecord {
                topic: Arc::clone(&self.topic),
                partition: None,
                key: self.key(scope)?,
                value: (!value.is_null()).then(|| Bytes::from(value.to_string())),
                headers: self.headers(request, scope)?,
                ts: Some(request.at),
            })
        })
    }

    fn key(&self, scope: &Scope<'_>) -> Result<Option<Bytes>, Problem> {
        let Some(expr) = &self.config.key else { return Ok(None) };
        match expr.eval(scope).map_err(|e| Problem::expression("the key", &e))? {
            key @ (Json::String(_) | Json::Number(_)) => Ok(key_text(&key)),
            other => {
                let message = format!("the key of this request is {other}, and a key is text or a number");
                Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, message))
            }
        }
    }

    fn headers(&self, request: &Request, scope: &Scope<'_>) -> Result<Headers, Problem> {
        let mut list = vec![(ID_HEADER.to_owned(), Some(Bytes::from(request.id.clone())))];
        list.extend(request.hash.clone().map(|hash| (HASH_HEADER.to_owned(), Some(Bytes::from(hash)))));
        list.extend(trace(&request.headers));
        for (name, expr) in &self.config.headers {
            let what = format!("the header `{name}`");
            match expr.eval(scope).map_err(|e| Problem::expression(&what, &e))? {
                Json::Null => {}
                value => list.push((name.clone(), key_text(&value))),
            }
        }
        Ok(Headers::new(list))
    }

    /// Sends a message; returns when all in-sync replicas have it. It is sent also where the future is dropped.
    ///
    /// # Errors
    /// 413, 503: it is not in the topic and never will be. 504: that is not known.
    pub async fn send(&self, record: &OutRecord) -> Result<(), Problem> {
        let topic = &*self.topic;
        match self.messenger.send(record).await {
            Delivery::Written { .. } => Ok(()),
            Delivery::Never(NotSent::TooLarge(_)) => Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the message is larger than the broker takes",
            )),
            Delivery::Never(why) => {
                tracing::warn!(topic, %why, "a request's message was not sent");
                Err(Problem::unavailable("the message was not sent, and will not be: ask again"))
            }
            Delivery::Unknown(why) => {
                tracing::warn!(topic, why, "what became of a request's message is not known");
                let message = "the broker did not say in time whether it has the message: ask again with the same Idempotency-Key";
                let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, message);
                Err(problem.with("accepted", "unknown".into()))
            }
        }
    }
}

/// The trace that a request is part of, as it came.
fn trace(headers: &HeaderMap) -> Vec<(String, Option<Bytes>)> {
    let found = TRACE.iter().filter_map(|name| {
        let value = headers.get(*name).filter(|value| value.len() <= TRACE_MAX)?;
        Some(((*name).to_owned(), Some(Bytes::copy_from_slice(value.as_bytes()))))
    });
    found.collect()
}

/// The handler of an endpoint with `request` and `respond`.
pub(super) struct Accept {
    produce: Produce,
    respond: RespondConfig,
}

impl Accept {
    pub(super) fn new(produce: Produce, respond: RespondConfig) -> Accept {
        Accept { produce, respond }
    }

    async fn accept(&self, request: &Request) -> Result<Response, Problem> {
        let record = self.produce.message(request)?;
        // Made before the message is sent: what cannot be answered leaves nothing behind.
        let response = request.read(|scope| answer::made(&self.respond, scope))?;
        self.produce.send(&record).await?;
        Ok(response)
    }
}

impl Handler for Accept {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response> {
        Box::pin(
            async move { self.accept(request).await.unwrap_or_else(|problem| problem.response(&request.id)) },
        )
    }
}

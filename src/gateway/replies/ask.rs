//! The handler of an endpoint with `request` and `reply`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::future::BoxFuture;
use serde::de::IgnoredAny;

use super::{Full, REPLY_TO, Replies, Reply};
use crate::endpoints::ReplyConfig;
use crate::gateway::answer::{self, Problem};
use crate::gateway::produce::Produce;
use crate::gateway::{Handler, Request, Waiting};
use crate::model::{Record, Scope};

/// Sends a request, and answers with its reply.
pub struct Ask {
    produce: Produce,
    config: ReplyConfig,
    topics: Arc<[String]>,
    replies: Arc<Replies>,
}

impl Ask {
    pub(in crate::gateway) fn new(produce: Produce, config: &ReplyConfig, replies: Arc<Replies>) -> Ask {
        let topics = config.topics.keys().cloned().collect();
        Ask { produce, topics, config: config.clone(), replies }
    }

    async fn ask(&self, request: &Request) -> Result<Response, Problem> {
        let mut record = self.produce.message(request)?;
        record.headers = record.headers.with(REPLY_TO, self.replies.instance().to_owned());
        // Before the request is sent: its reply may be here before the broker has said that it has the request.
        let waiter =
            self.replies.wait(&request.id, request.hash.as_deref(), &self.topics, self.config.max_waiting);
        let mut waiter = waiter.map_err(|Full| {
            let problem =
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many requests wait for their reply");
            problem.header(header::RETRY_AFTER, HeaderValue::from(1))
        })?;
        // What has been handed to the producer is sent, also where nothing waits for its report any more.
        let reply = tokio::select! {
            biased;
            reply = waiter.reply() => reply,
            sent = self.produce.send(&record) => {
                sent?;
                let within = tokio::time::timeout(self.config.timeout.duration(), waiter.reply());
                within.await.map_err(|_| self.too_late(&request.id))?
            }
        };
        let answer = self.answer(request, &reply);
        self.replies.metrics().count(if answer.is_ok() { "answered" } else { "bad" });
        answer
    }

    fn too_late(&self, id: &str) -> Problem {
        self.replies.metrics().count("timeout");
        tracing::warn!(id, topics = ?self.topics, "no reply came in time");
        let message = format!(
            "no reply in {}: what was asked may still be done; ask again with the same Idempotency-Key",
            self.config.timeout
        );
        Problem::new(StatusCode::GATEWAY_TIMEOUT, message)
    }

    /// The answer that a reply makes.
    ///
    /// # Errors
    /// 502: it makes none.
    fn answer(&self, request: &Request, reply: &Reply) -> Result<Response, Problem> {
        let Reply { topic, record } = reply;
        let unusable = |what: &str| {
            tracing::warn!(
                id = request.id,
                topic = &**topic,
                partition = record.origin.partition,
                offset = record.origin.offset,
                what,
                "a reply makes no answer"
            );
            Problem::new(StatusCode::BAD_GATEWAY, format!("the reply makes no answer: {what}"))
        };
        let bytes = record.value.bytes().ok_or_else(|| unusable("it has no value"))?;
        if serde_json::from_slice::<IgnoredAny>(&bytes).is_err() {
            return Err(unusable("it is no JSON"));
        }
        let status = self.config.topics.get(&**topic).ok_or_else(|| unusable("it came in another topic"))?;
        request.read(|scope| {
            let scope = of_reply(record, scope);
            let status = status.eval(&scope).map_err(|e| unusable(&format!("status: {e}")))?;
            let code = status.as_u64().and_then(|code| u16::try_from(code).ok());
            let code = code.filter(|code| (200..=599).contains(code));
            let code = code.and_then(|code| StatusCode::from_u16(code).ok());
            let code = code.ok_or_else(|| unusable(&format!("{status} is no status")))?;
            match &self.config.body {
                Some(body) => {
                    let body = body.eval(&scope).map_err(|e| unusable(&format!("body: {e}")))?;
                    Ok(answer::json(code, &body))
                }
                None => {
                    let mut response = Response::new(Body::from(bytes.clone()));
                    *response.status_mut() = code;
                    let json = HeaderValue::from_static("application/json");
                    response.headers_mut().insert(header::CONTENT_TYPE, json);
                    Ok(response)
                }
            }
        })
    }
}

/// What expressions over a reply read: the reply, and the names of the request.
fn of_reply<'a>(record: &'a Record, request: &Scope<'a>) -> Scope<'a> {
    Scope { vars: request.vars, ..Scope::of(record) }
}

impl Handler for Ask {
    fn prepare<'a>(&'a self, waiting: &'a Waiting) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !self.replies.is_ready() {
                let topics: BTreeSet<&String> = self.config.topics.keys().collect();
                waiting.say(&format!("the ends of the reply topics are looked up: {topics:?}"));
                self.replies.ready().await;
            }
        })
    }

    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response> {
        Box::pin(
            async move { self.ask(request).await.unwrap_or_else(|problem| problem.response(&request.id)) },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Json, Value};

    #[test]
    fn a_reply_is_read_with_the_names_of_its_request() {
        let record = Record { value: Value::from(Json::from(7)), ..Record::default() };
        let (id, nothing) = (Json::from("x"), Record::default());
        let vars = [("id", &id)];
        let request = Scope { vars: &vars, ..Scope::of(&nothing) };
        let scope = of_reply(&record, &request);
        assert_eq!((scope.vars, scope.value.show()), (&vars[..], Json::from(7)));
    }
}

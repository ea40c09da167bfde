//! Answers a node's calls where there is no API.

use std::collections::VecDeque;

use crate::clients::http::judge;
use crate::model::{Json, Millis, Reply};

/// One scripted answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// HTTP status; 0 means no answer at all (a timeout).
    pub status: u16,
    /// Body, as JSON.
    pub body: Json,
    /// Virtual time until it comes.
    pub latency: Millis,
    /// `Retry-After`, if the answer has one.
    pub retry_after: Option<Millis>,
}

impl Default for Answer {
    fn default() -> Self {
        Answer {
            status: 200,
            body: Json::Object(serde_json::Map::new()),
            latency: Millis::ZERO,
            retry_after: None,
        }
    }
}

impl Answer {
    /// The reply to the call, judged as an API's answer is.
    #[must_use]
    pub fn reply(&self) -> Reply {
        match self.status {
            0 => Reply::Again { message: "no answer".into(), after: None },
            status => judge(status, self.retry_after, self.body.to_string().as_bytes()),
        }
    }
}

/// The answers of one node: scripted ones first, each for its number of calls, then the default (200, `{}`, at once).
#[derive(Clone, Debug, Default)]
pub struct Mock {
    script: VecDeque<(Answer, u64)>,
}

impl Mock {
    /// The next `times` calls get this answer, after those already scripted.
    pub fn push(&mut self, answer: Answer, times: u64) {
        if times > 0 {
            self.script.push_back((answer, times));
        }
    }

    /// The answer to the next call.
    pub fn next_answer(&mut self) -> Answer {
        let Some((answer, left)) = self.script.front_mut() else { return Answer::default() };
        let answer = answer.clone();
        *left -= 1;
        if *left == 0 {
            self.script.pop_front();
        }
        answer
    }
}

//! Whether a server is asked at all: after a few failures it is left alone for a moment, and then one request tries it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::breaker::{Admission, Breaker, Limits, Pass};

/// A reader has other places to look: it gives a server up sooner than calls do, and tries it again sooner.
const LIMITS: Limits =
    Limits { in_a_row: 3, first: Duration::from_millis(500), longest: Duration::from_secs(2) };

/// The health of one server.
pub(super) struct Health {
    /// For people.
    name: String,
    began: Instant,
    /// Requests that begin and end; for moments.
    breaker: Mutex<Breaker>,
}

/// A request that may be made.
pub(super) struct Attempt<'a> {
    health: &'a Health,
    pass: Option<Pass>,
}

impl Health {
    pub(super) fn new(name: impl Into<String>) -> Health {
        Health { name: name.into(), began: Instant::now(), breaker: Mutex::new(Breaker::new(LIMITS)) }
    }

    /// Asks to make a request.
    ///
    /// # Errors
    /// Not now: it has failed lately.
    pub(super) fn attempt(&self) -> Result<Attempt<'_>, String> {
        match self.locked().admit(self.began.elapsed()) {
            Admission::Go(pass) => Ok(Attempt { health: self, pass: Some(pass) }),
            Admission::Wait(_) | Admission::Probing => {
                Err(format!("{} has failed lately and is left alone for a moment", self.name))
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: its end is not known.
    fn done(&self, pass: Pass, ok: Option<bool>) {
        let opened = {
            let mut breaker = self.locked();
            // That a client went away is no sign of anything; but a server that is tried has to show that it works.
            let ok = ok.unwrap_or(!breaker.is_open());
            breaker.done(self.began.elapsed(), pass, ok) && breaker.is_open()
        };
        if opened {
            tracing::warn!(server = self.name, "reads do not ask it for a moment: it fails");
        }
    }
}

impl Attempt<'_> {
    /// The server answered, whatever it said; or it did not.
    pub(super) fn end(mut self, answered: bool) {
        if let Some(pass) = self.pass.take() {
            self.health.done(pass, Some(answered));
        }
    }
}

impl Drop for Attempt<'_> {
    /// The client went away before there was an answer.
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.health.done(pass, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_give_a_server_a_rest() {
        let health = Health::new("Redis at x:1");
        health.attempt().expect("may be asked").end(true);
        for _ in 0..9 {
            drop(health.attempt().expect("clients may go away"));
        }
        for _ in 0..3 {
            health.attempt().expect("is asked three times").end(false);
        }
        let why = health.attempt().err().expect("is left alone");
        assert!(why.contains("Redis at x:1"), "{why}");
        std::thread::park_timeout(Duration::from_millis(600));
        let probe = health.attempt().expect("is tried again");
        assert!(health.attempt().is_err(), "by one request");
        probe.end(true);
        health.attempt().expect("is asked as before").end(true);
    }
}

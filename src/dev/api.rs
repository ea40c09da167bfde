//! The simulated API of `dev`: an HTTP server on a free loopback port that behaves like a busy internal service.
//!
//! `GET /accounts/{id}` answers the account's settled state; any other path answers `{}`. An answer takes 20 to 60 ms;
//! about one in a hundred is 429 with `Retry-After: 1`, and as many are 503. A seed decides which, in the order in
//! which calls arrive. Every request counts as a call, including refused ones.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::accounts::Accounts;
use crate::model::{Clock, SystemClock};

/// How long an answer takes, milliseconds.
pub const LATENCY_MS: std::ops::RangeInclusive<u64> = 20..=60;
/// The share of calls that get 429, and the share that get 503.
const FAULT: f64 = 0.01;
const SECOND: Duration = Duration::from_secs(1);

/// Counts of the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallStats {
    /// Requests that arrived.
    pub calls: u64,
    /// Calls answered with 429.
    pub throttled: u64,
    /// Calls answered with 503.
    pub unavailable: u64,
    /// Calls that arrived in the last second.
    pub last_second: usize,
    /// The most calls that arrived in any one second.
    pub busiest_second: usize,
}

/// Calls by the second in which they arrived.
struct Arrivals {
    rng: SmallRng,
    stats: CallStats,
    /// Arrivals of the last second; the limit bounds them.
    recent: VecDeque<Instant>,
}

enum Fault {
    None,
    Throttled,
    Unavailable,
}

impl Arrivals {
    fn new(seed: u64) -> Arrivals {
        Arrivals { rng: SmallRng::seed_from_u64(seed), stats: CallStats::default(), recent: VecDeque::new() }
    }

    fn arrive(&mut self, now: Instant) -> (Duration, Fault) {
        self.forget(now);
        self.recent.push_back(now);
        self.stats.calls += 1;
        self.stats.busiest_second = self.stats.busiest_second.max(self.recent.len());
        let latency = Duration::from_millis(self.rng.random_range(LATENCY_MS));
        let dice: f64 = self.rng.random();
        let fault = if dice < FAULT {
            self.stats.throttled += 1;
            Fault::Throttled
        } else if dice < 2.0 * FAULT {
            self.stats.unavailable += 1;
            Fault::Unavailable
        } else {
            Fault::None
        };
        (latency, fault)
    }

    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|at| now.duration_since(*at) >= SECOND) {
            self.recent.pop_front();
        }
    }

    fn stats(&mut self, now: Instant) -> CallStats {
        self.forget(now);
        CallStats { last_second: self.recent.len(), ..self.stats }
    }
}

struct Served {
    /// Shared by the handlers and the live view, which lock it for moments.
    arrivals: Mutex<Arrivals>,
    /// Shared with the feed, the live view and the proof, which lock it for moments.
    accounts: Arc<Mutex<Accounts>>,
}

impl Served {
    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call arrives; `answer` is used unless the call gets a fault.
    async fn arrive(&self, answer: impl FnOnce() -> crate::model::Json) -> Response {
        let (latency, fault) = self.arrivals().arrive(Instant::now());
        // The answer is decided when the call comes: later would hide a call that came too early.
        let response = match fault {
            Fault::None => Json(answer()).into_response(),
            Fault::Throttled => {
                (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")], "slow down\n").into_response()
            }
            Fault::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "try again\n").into_response(),
        };
        tokio::time::sleep(latency).await;
        response
    }
}

/// A running API.
pub struct Api {
    /// Where it listens.
    pub address: SocketAddr,
    served: Arc<Served>,
}

impl Api {
    /// Listens on a free loopback port until `stop`.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start(
        accounts: Arc<Mutex<Accounts>>,
        seed: u64,
        stop: CancellationToken,
    ) -> std::io::Result<Api> {
        let served = Arc::new(Served { arrivals: Mutex::new(Arrivals::new(seed)), accounts });
        let app = Router::new()
            .route("/accounts/{id}", get(account))
            .fallback(anything)
            .with_state(Arc::clone(&served));
        let address = super::serve(app, stop).await?;
        Ok(Api { address, served })
    }

    /// `http://127.0.0.1:port`: what every call's URL begins with in `dev`.
    #[must_use]
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the calls came to so far.
    #[must_use]
    pub fn stats(&self) -> CallStats {
        self.served.arrivals().stats(Instant::now())
    }
}

async fn account(State(served): State<Arc<Served>>, Path(id): Path<String>) -> Response {
    let now = SystemClock.now();
    let answer = || served.accounts.lock().unwrap_or_else(PoisonError::into_inner).answer(&id, now);
    served.arrive(answer).await
}

async fn anything(State(served): State<Arc<Served>>) -> Response {
    served.arrive(|| serde_json::json!({})).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_is_any_second() {
        let mut arrivals = Arrivals::new(1);
        let start = Instant::now();
        for ms in [0, 900, 950, 1000, 1899, 1950, 5000] {
            arrivals.arrive(start + Duration::from_millis(ms));
        }
        let stats = arrivals.stats(start + Duration::from_millis(5500));
        // 900, 950, 1000 and 1899; a call exactly a second later is in the next second.
        assert_eq!((stats.calls, stats.busiest_second, stats.last_second), (7, 4, 1));
    }

    #[test]
    fn about_one_in_a_hundred_is_refused_and_the_seed_says_which() {
        let run = |seed| {
            let mut arrivals = Arrivals::new(seed);
            let now = Instant::now();
            for _ in 0..10_000 {
                arrivals.arrive(now);
            }
            arrivals.stats(now)
        };
        let stats = run(7);
        assert!((60..140).contains(&stats.throttled), "{stats:?}");
        assert!((60..140).contains(&stats.unavailable), "{stats:?}");
        assert_eq!(run(7), stats);
        assert_ne!(run(8), stats);
    }
}

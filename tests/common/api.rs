//! The accounts API that account-sync calls: it answers versions, has moods, and remembers every call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// How the API behaves.
#[derive(Clone, Debug, Default)]
pub struct Mood {
    /// Latency, ms.
    pub latency_ms: u64,
    /// The next calls get 429 with `Retry-After: 2`.
    pub throttle_next: u64,
    /// Accounts that are unknown.
    pub missing: Vec<String>,
    /// Answer 503 to everything.
    pub broken: bool,
}

#[derive(Default)]
struct ApiState {
    accounts: Mutex<BTreeMap<String, u64>>,
    calls: Mutex<Vec<(Instant, String)>>,
    in_flight: Mutex<BTreeMap<String, Vec<String>>>,
    overlaps: Mutex<Vec<Overlap>>,
    answers: Mutex<BTreeMap<(String, u64), u64>>,
    throttled_at: Mutex<Vec<Instant>>,
    mood: Mutex<Mood>,
}

/// Two calls of one account at a time.
#[derive(Clone, Debug)]
pub struct Overlap {
    pub at: Instant,
    pub account: String,
    /// Who called, and who called before and was not answered yet: what stands behind [`Api::url_of`].
    pub who: String,
    pub others: Vec<String>,
}

/// The accounts API: `GET /accounts/{id}` answers the account's version.
pub struct Api {
    state: Arc<ApiState>,
    port: u16,
    stop: Mutex<CancellationToken>,
    runtime: tokio::runtime::Runtime,
}

impl Api {
    pub fn start() -> Api {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut api = Api { state: Arc::default(), port: 0, stop: Mutex::default(), runtime };
        api.port = api.listen(0);
        api
    }

    fn listen(&self, port: u16) -> u16 {
        let listener = self.runtime.block_on(async {
            loop {
                match tokio::net::TcpListener::bind(("127.0.0.1", port)).await {
                    Ok(l) => break l,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        let port = listener.local_addr().unwrap().port();
        let app = Router::new()
            .route("/accounts/{id}", get(answer))
            .route("/of/{who}/accounts/{id}", get(answer_whom))
            .with_state(Arc::clone(&self.state));
        let stop = CancellationToken::new();
        *self.stop.lock().unwrap() = stop.clone();
        self.runtime.spawn(async move {
            tokio::select! {
                r = axum::serve(listener, app) => r.unwrap(),
                () = stop.cancelled() => {}
            }
        });
        port
    }

    /// Stops listening.
    pub fn down(&self) {
        self.stop.lock().unwrap().cancel();
        // Connections that are open stay served: make them fail.
        self.mood(|m| m.broken = true);
    }

    pub fn up(&self) {
        self.mood(|m| m.broken = false);
        self.listen(self.port);
    }

    pub fn mood(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.state.mood.lock().unwrap());
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The address for one caller, by which it is told from others.
    pub fn url_of(&self, who: &str) -> String {
        format!("{}/of/{who}", self.url())
    }

    pub fn set(&self, account: &str, version: u64) {
        self.state.accounts.lock().unwrap().insert(account.into(), version);
    }

    pub fn calls(&self) -> usize {
        self.state.calls.lock().unwrap().len()
    }

    pub fn call_times(&self) -> Vec<Instant> {
        self.state.calls.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }

    /// Every call so far: when it came, and for which account.
    pub fn call_log(&self) -> Vec<(Instant, String)> {
        self.state.calls.lock().unwrap().clone()
    }

    /// The most calls that began in any window of one second.
    pub fn busiest_second(&self) -> usize {
        let times = self.call_times();
        let mut start = 0;
        let mut most = 0;
        for (end, at) in times.iter().enumerate() {
            while *at - times[start] >= Duration::from_secs(1) {
                start += 1;
            }
            most = most.max(end - start + 1);
        }
        most
    }

    /// How often two calls of one account ran at a time.
    pub fn overlaps(&self) -> usize {
        self.state.overlaps.lock().unwrap().len()
    }

    pub fn all_overlaps(&self) -> Vec<Overlap> {
        self.state.overlaps.lock().unwrap().clone()
    }

    /// Answers that gave a version of an account once more.
    pub fn superfluous(&self) -> u64 {
        self.state.answers.lock().unwrap().values().map(|n| n - 1).sum()
    }

    pub fn throttled_at(&self) -> Vec<Instant> {
        self.state.throttled_at.lock().unwrap().clone()
    }
}

async fn answer(State(api): State<Arc<ApiState>>, UrlPath(id): UrlPath<String>) -> Response {
    answer_call(api, String::new(), id).await
}

async fn answer_whom(
    State(api): State<Arc<ApiState>>,
    UrlPath((who, id)): UrlPath<(String, String)>,
) -> Response {
    answer_call(api, who, id).await
}

async fn answer_call(api: Arc<ApiState>, who: String, id: String) -> Response {
    let mood = api.mood.lock().unwrap().clone();
    api.calls.lock().unwrap().push((Instant::now(), id.clone()));
    if mood.broken {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if mood.throttle_next > 0 {
        api.mood.lock().unwrap().throttle_next -= 1;
        api.throttled_at.lock().unwrap().push(Instant::now());
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]).into_response();
    }
    if mood.missing.contains(&id) {
        return (StatusCode::NOT_FOUND, "no such account").into_response();
    }
    let busy = Busy::new(&api, &id, &who);
    let version = api.accounts.lock().unwrap().get(&id).copied().unwrap_or(0);
    if mood.latency_ms > 0 {
        tokio::time::sleep(Duration::from_millis(mood.latency_ms)).await;
    }
    drop(busy);
    *api.answers.lock().unwrap().entry((id.clone(), version)).or_default() += 1;
    axum::Json(json!({ "account": id, "version": version })).into_response()
}

/// One call of an account under way; ends also when the caller is gone and the handler is dropped.
struct Busy {
    api: Arc<ApiState>,
    id: String,
    who: String,
}

impl Busy {
    fn new(api: &Arc<ApiState>, id: &str, who: &str) -> Busy {
        let mut in_flight = api.in_flight.lock().unwrap();
        let others = in_flight.entry(id.to_owned()).or_default();
        if !others.is_empty() {
            let overlap = Overlap {
                at: Instant::now(),
                account: id.to_owned(),
                who: who.to_owned(),
                others: others.clone(),
            };
            api.overlaps.lock().unwrap().push(overlap);
        }
        others.push(who.to_owned());
        Busy { api: Arc::clone(api), id: id.to_owned(), who: who.to_owned() }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut in_flight = self.api.in_flight.lock().unwrap();
        let others = in_flight.entry(self.id.clone()).or_default();
        if let Some(at) = others.iter().position(|w| *w == self.who) {
            others.remove(at);
        }
    }
}

//! The driver against a real server on a free port of this machine.

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use serde_json::json;

use super::*;

impl Ticket for &'static str {}

use crate::clients::http::{HttpCaller, judge};
use crate::model::{CallRequest, Expr, HttpRequest, Millis, Size, SystemClock, Template};
use crate::operators::enrich::HttpConfig;
use crate::operators::shared::rate_limit::{RateLimitConfig, RateScope};

struct Bench {
    base: String,
    counters: Arc<CallCounters>,
    driver: CallDriver<&'static str>,
    replies: mpsc::Receiver<(&'static str, u64, Reply)>,
    cancel: CancellationToken,
    next: u64,
}

#[derive(Clone, Copy)]
struct Setup {
    in_flight_max: usize,
    max_body: u64,
    limit: Option<&'static str>,
}

const SETUP: Setup = Setup { in_flight_max: 8, max_body: 1000, limit: None };

async fn serve(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("has an address"));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    base
}

async fn bench(routes: Router, setup: Setup) -> Bench {
    let base = serve(routes).await;
    let config = HttpConfig {
        body: None::<Expr>,
        max_body: Size(setup.max_body),
        ..HttpConfig::get(Template::new("http://unused", None).expect("is a template"))
    };
    let limiter = setup.limit.map(|limit| {
        let limit = limit.parse().expect("is a rate");
        Arc::new(Limiter::new(&RateLimitConfig { limit, scope: RateScope::Instance }))
    });
    let caller =
        HttpCaller::new(config.connections, config.max_body, setup.in_flight_max, Arc::new(SystemClock));
    let caller = Caller::Http(caller.expect("a client"));
    let counters = Arc::new(CallCounters::new(caller.outcomes()));
    let cancel = CancellationToken::new();
    let (tx, replies) = mpsc::channel(1000);
    let parts = CallParts {
        node: "account".into(),
        limiter,
        caller,
        in_flight_max: setup.in_flight_max,
        counters: Arc::clone(&counters),
        cancel: cancel.clone(),
    };
    let driver = CallDriver::spawn(&Handle::current(), parts, move |ticket, id, reply| {
        tx.try_send((ticket, id, reply)).expect("room for the replies of a test");
    });
    Bench { base, counters, driver, replies, cancel, next: 0 }
}

impl Bench {
    fn job(&mut self, ticket: &'static str, path: &str) -> Job<&'static str> {
        let request = HttpRequest {
            method: "GET".into(),
            url: format!("{}{path}", self.base),
            headers: vec![("accept".into(), "application/json".into())],
            login: None,
            body: None,
            timeout: Millis(2000),
        };
        let id = self.next;
        self.next += 1;
        Job { ticket, call: Call { id, attempt: 1, key: None, request: CallRequest::Http(request) } }
    }

    fn submit(&mut self, ticket: &'static str, path: &str) {
        let job = self.job(ticket, path);
        self.driver.try_submit(job).expect("room in the queue");
    }

    async fn reply(&mut self) -> (&'static str, u64, Reply) {
        tokio::time::timeout(Duration::from_secs(20), self.replies.recv())
            .await
            .expect("in time")
            .expect("a reply")
    }

    /// The counters, as `2xx 8`.
    fn counted(&self) -> Vec<String> {
        let counted = self.counters.by_outcome().filter(|(_, n)| *n > 0);
        counted.map(|(outcome, n)| format!("{outcome} {n}")).collect()
    }
}

fn http(status: u16, body: &str) -> Reply {
    judge(status, None, body.as_bytes())
}

#[tokio::test]
async fn calls_run_in_parallel_up_to_the_bound() {
    let gate = Arc::new(tokio::sync::Barrier::new(8));
    let route = get(move || {
        let gate = Arc::clone(&gate);
        async move {
            gate.wait().await;
            "1"
        }
    });
    let mut b = bench(Router::new().route("/a", route), SETUP).await;
    for _ in 0..8 {
        b.submit("t", "/a");
    }
    let mut ids = Vec::new();
    for _ in 0..8 {
        let (ticket, id, reply) = b.reply().await;
        assert_eq!((ticket, reply), ("t", http(200, "1")));
        ids.push(id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..8).collect::<Vec<_>>());
    assert_eq!(b.counted(), ["2xx 8"]);
    assert_eq!(b.counters.in_flight.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_full_queue_gives_the_job_back_and_cancelling_drops_what_is_under_way() {
    let (seen, mut arrived) = mpsc::channel(10);
    let route = get(move || {
        let seen = seen.clone();
        async move {
            seen.send(()).await.expect("the test listens");
            std::future::pending::<()>().await;
        }
    });
    let mut b = bench(Router::new().route("/never", route), Setup { in_flight_max: 1, ..SETUP }).await;
    b.submit("on the wire", "/never");
    arrived.recv().await.expect("arrives");
    b.submit("queued", "/never");
    let job = b.job("too many", "/never");
    assert_eq!(b.driver.try_submit(job).expect_err("comes back").ticket, "too many");
    b.cancel.cancel();
    drop(b.driver);
    assert!(b.replies.recv().await.is_none(), "no reply");
    assert_eq!(b.counters.in_flight.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn retry_after_pauses_every_caller() {
    for limit in [None, Some("1000/s")] {
        let routes = Router::new()
            .route(
                "/busy",
                get(|| async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "slow down") }),
            )
            .route("/ok", get(|| async { "1" }));
        let mut b = bench(routes, Setup { limit, ..SETUP }).await;
        b.submit("busy", "/busy");
        let (_, _, reply) = b.reply().await;
        assert_eq!(reply, judge(429, Some(Millis(1000)), b"slow down"));
        let began = Instant::now();
        b.submit("ok", "/ok");
        assert_eq!(b.reply().await.2, http(200, "1"));
        assert!(began.elapsed() >= Duration::from_millis(950), "{limit:?}: after {:?}", began.elapsed());
        assert_eq!(b.counted(), ["2xx 1", "429 1"]);
    }
}

#[tokio::test]
async fn failures_are_told_in_words() {
    let redirect = get(|| async { (StatusCode::FOUND, [("location", "/ok")]) });
    let routes = Router::new()
        .route("/never", get(std::future::pending::<()>))
        .route("/redirect", redirect)
        .route("/big", get(|| async { "x".repeat(1001) }))
        .route("/fits", get(|| async { "x".repeat(1000) }))
        .route("/bad", get(|| async { (StatusCode::BAD_REQUEST, "x".repeat(5000)) }));
    let mut b = bench(routes, SETUP).await;
    let mut job = b.job("t", "/never");
    let CallRequest::Http(request) = &mut job.call.request;
    request.timeout = Millis(100);
    b.driver.try_submit(job).expect("room");
    assert_eq!(b.reply().await.2, Reply::Again { message: "no answer within 100ms".into(), after: None });

    b.submit("t", "/redirect");
    assert_eq!(b.reply().await.2, http(302, ""));
    b.submit("t", "/fits");
    assert_eq!(b.reply().await.2, http(200, &"x".repeat(1000)));
    b.submit("t", "/big");
    assert_eq!(
        b.reply().await.2,
        Reply::Refused { message: "status 200: the body is larger than 1000B".into() }
    );
    b.submit("t", "/bad");
    assert_eq!(b.reply().await.2, http(400, &"x".repeat(1000)));

    // A port that was just free: nothing listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let refused = format!("http://{}/secret", free.local_addr().expect("has an address"));
    drop(free);
    for (url, refuses, says) in [
        (refused.as_str(), false, "Connection refused"),
        ("http://", true, "cannot be sent"),
        ("no url", true, "cannot be sent"),
        ("ftp://h/x", true, "cannot be sent"),
    ] {
        let mut job = b.job("t", "");
        let CallRequest::Http(request) = &mut job.call.request;
        request.url = url.to_owned();
        b.driver.try_submit(job).expect("room");
        let reply = b.reply().await.2;
        let (Reply::Again { message, .. } | Reply::Refused { message }) = &reply else { panic!("{reply:?}") };
        assert!(message.contains(says) && !message.contains("secret"), "{url}: {message}");
        assert_eq!(matches!(reply, Reply::Refused { .. }), refuses, "{url}: {message}");
    }
    assert_eq!(b.counted(), ["2xx 1", "3xx 1", "4xx 1", "failed 2", "refused 4"]);
}

#[tokio::test]
async fn method_headers_and_body_arrive() {
    let echo = |headers: HeaderMap, body: String| async move {
        let x = headers.get("x-key").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        axum::Json(json!({"x": x, "body": body})).into_response()
    };
    let mut b = bench(Router::new().route("/echo", post(echo)), SETUP).await;
    let mut job = b.job("t", "/echo");
    let CallRequest::Http(request) = &mut job.call.request;
    request.method = "POST".into();
    request.headers.push(("x-key".into(), "ü k".into()));
    request.headers.push(("x-key".into(), "k2".into()));
    request.headers.swap(1, 2);
    request.body = Some(Bytes::from("{\"a\":1}"));
    b.driver.try_submit(job).expect("room");
    assert_eq!(b.reply().await.2, http(200, r#"{"x":"k2","body":"{\"a\":1}"}"#));
}

#[tokio::test]
async fn a_dead_api_is_left_alone_and_probed() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let route = get(move || {
        let n = count.fetch_add(1, Ordering::SeqCst);
        async move { if n < 20 { StatusCode::BAD_GATEWAY.into_response() } else { "1".into_response() } }
    });
    let mut b = bench(Router::new().route("/", route), Setup { in_flight_max: 4, ..SETUP }).await;
    // Two workers' calls, and one circuit that opens for both.
    let other = b.driver.clone();
    for n in 0..20 {
        let job = b.job("t", "/");
        let driver = if n % 2 == 0 { &b.driver } else { &other };
        driver.try_submit(job).expect("room in the queue");
        assert_eq!(b.reply().await.2, http(502, ""));
    }
    assert_eq!(b.counters.breaker_opened(), 1);
    assert!(b.counters.call_time() > Duration::ZERO);
    let began = Instant::now();
    for _ in 0..4 {
        b.submit("t", "/");
    }
    for _ in 0..4 {
        assert_eq!(b.reply().await.2, http(200, "1"));
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "after {:?}", began.elapsed());
    assert_eq!(calls.load(Ordering::SeqCst), 24);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_holds_as_the_server_sees_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let stamps = Arc::clone(&seen);
    let start = std::time::Instant::now();
    let route = get(move || {
        stamps.lock().expect("not poisoned").push(start.elapsed());
        async { "1" }
    });
    let setup = Setup { in_flight_max: 128, limit: Some("1500/s"), ..SETUP };
    let mut b = bench(Router::new().route("/", route), setup).await;
    let mut left = 4000;
    let mut open = 0;
    while left > 0 || open > 0 {
        while left > 0 && open < 128 {
            b.submit("t", "/");
            left -= 1;
            open += 1;
        }
        assert_eq!(b.reply().await.2, http(200, "1"));
        open -= 1;
    }
    let mut stamps = seen.lock().expect("not poisoned").clone();
    stamps.sort_unstable();
    let within =
        |i: usize| stamps[i..].iter().take_while(|at| **at - stamps[i] <= Duration::from_secs(1)).count();
    let busiest = (0..stamps.len()).map(within).max().unwrap_or(0);
    let rate = 4000.0 / (stamps[3999] - stamps[0]).as_secs_f64();
    println!("4000 calls: {rate:.0}/s, {busiest} in the busiest second at the server");
    assert!(rate > 1000.0, "{rate:.0}/s");
    // 3 % for calls that bunch between the limiter and the server.
    assert!(busiest <= 1545, "{busiest} in one second");
}

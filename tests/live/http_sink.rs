//! The `http` sink against a real server in this process, which is told how to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use serde_json::{Value as Json, json};
use slackwater::clients::Pace;
use slackwater::model::{Expr, Millis, Template};
use slackwater::sinks::http::{HttpSink, Sends, Unanswered};
use slackwater::sinks::{Answer, Answers, HttpSinkConfig, Lane, SinkConfig, SinkError};
use tokio_util::sync::CancellationToken;

use crate::common::lane::connected;
use crate::common::{Instance, Stage, TestLane, wait};

/// One request as it came.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    line: String,
    key: Option<String>,
    kind: Option<String>,
    body: String,
    at: Instant,
}

/// What the API has, and how it behaves.
#[derive(Default)]
struct Shelf {
    calls: Vec<Call>,
    /// Answers by `Idempotency-Key`: a request that comes again gets the same one.
    seen: BTreeMap<String, (u16, String)>,
    /// Items by their id (`id`), in the order in which they came.
    items: BTreeMap<String, Vec<Json>>,
    /// The next answers, in place of its own: status and `Retry-After`.
    next: Vec<(u16, Option<&'static str>)>,
    /// Largest body.
    body_max: Option<usize>,
    /// Take it, and answer later than anything waits.
    hang: bool,
}

/// An API: `/one` takes an item, `/all` a list or lines of them, all or none, `/each` each by itself. An item with `bad` is
/// refused.
struct Api {
    shelf: Arc<Mutex<Shelf>>,
    url: String,
    stop: CancellationToken,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Api {
    fn start() -> Api {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let mut api = Api {
            shelf: Arc::default(),
            url: String::new(),
            stop: CancellationToken::new(),
            runtime: Some(runtime.expect("a runtime")),
        };
        api.listen("127.0.0.1:0");
        api
    }

    fn listen(&mut self, at: &str) {
        let listener = TcpListener::bind(at).expect("a port");
        listener.set_nonblocking(true).expect("is set");
        self.url = format!("http://{}", listener.local_addr().expect("has an address"));
        self.stop = CancellationToken::new();
        let (app, stop) =
            (Router::new().fallback(answer).with_state(Arc::clone(&self.shelf)), self.stop.clone());
        self.runtime.as_ref().expect("runs").spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            tokio::select! {
                served = axum::serve(listener, app) => served.expect("serves"),
                () = stop.cancelled() => {}
            }
        });
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("is whole")
    }

    fn config(&self, path: &str) -> HttpSinkConfig {
        let url = format!("{}{path}", self.url);
        let url = Template::new(url, None).expect("is a template");
        HttpSinkConfig { timeout: Millis(1000), ..HttpSinkConfig::new(url) }
    }

    /// The values of an item, in the order in which they came.
    fn values(&self, id: &str) -> Vec<Json> {
        self.shelf().items.get(id).into_iter().flatten().map(|item| item["n"].clone()).collect()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // A test may be asynchronous, which must not wait for another runtime's end.
        self.runtime.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
    }
}

async fn answer(State(shelf): State<Arc<Mutex<Shelf>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| Some(parts.headers.get(name)?.to_str().expect("is text").to_owned());
    let (line, key) = (format!("{} {}", parts.method, parts.uri), header("idempotency-key"));
    let (path, kind) = (parts.uri.path().to_owned(), header("content-type"));
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    let body = String::from_utf8(body.to_vec()).expect("is text");
    let (answer, hang) = {
        let mut shelf = shelf.lock().expect("is whole");
        shelf.calls.push(Call { line, key: key.clone(), kind, body: body.clone(), at: Instant::now() });
        if let Some((status, after)) = shelf.next.pop() {
            let status = StatusCode::from_u16(status).expect("a status");
            return match after {
                Some(after) => (status, [("retry-after", after)]).into_response(),
                None => status.into_response(),
            };
        }
        if shelf.body_max.is_some_and(|max| body.len() > max) {
            return StatusCode::PAYLOAD_TOO_LARGE.into_response();
        }
        let known = key.as_ref().and_then(|key| shelf.seen.get(key)).cloned();
        let answer = known.unwrap_or_else(|| take(&mut shelf, &path, &body));
        if let Some(key) = key {
            shelf.seen.insert(key, answer.clone());
        }
        (answer, shelf.hang)
    };
    if hang {
        std::future::pending::<()>().await;
    }
    (StatusCode::from_u16(answer.0).expect("a status"), answer.1).into_response()
}

fn take(shelf: &mut Shelf, path: &str, body: &str) -> (u16, String) {
    let parse = |text: &str| serde_json::from_str::<Json>(text).expect("is JSON");
    let items: Vec<Json> = match (path, body.trim_start().starts_with('[')) {
        ("/one", _) => vec![parse(body)],
        (_, true) => parse(body).as_array().expect("a list").clone(),
        (_, false) => body.lines().map(parse).collect(),
    };
    let is_bad = |item: &Json| item["bad"] == json!(true);
    if path != "/each" && items.iter().any(is_bad) {
        return (422, "one of them is bad".into());
    }
    let mut statuses = Vec::new();
    for item in items {
        statuses.push(json!({ "status": if is_bad(&item) { 422 } else { 201 } }));
        if !is_bad(&item) {
            shelf.items.entry(item["id"].as_str().unwrap_or_default().to_owned()).or_default().push(item);
        }
    }
    (200, json!({ "items": statuses }).to_string())
}

fn item(id: &str, n: usize) -> Json {
    json!({ "id": id, "n": n })
}

async fn lane(config: HttpSinkConfig) -> TestLane {
    TestLane::new(SinkConfig::Http(config)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_is_a_request_that_is_the_same_when_it_is_sent_again() {
    let api = Api::start();
    let mut config = api.config("/one?for={{ key }}");
    config.method = Template::new("{{ .method }}", None).ok();
    config.headers.insert("x-id".into(), Template::new("{{ .id }}", None).expect("a template"));
    let mut sink = lane(config).await;
    api.shelf().next = vec![(500, None)];
    let row = json!({"id": "a", "n": 1, "method": "PUT"});
    sink.put(&[("a/b", row.clone()), ("b", json!({"id": "b", "n": 2, "method": "PATCH"}))]).await;
    let calls = api.shelf().calls.clone();
    let lines: Vec<&str> = calls.iter().map(|call| call.line.as_str()).collect();
    assert_eq!(lines, ["PUT /one?for=a%2Fb", "PUT /one?for=a%2Fb", "PATCH /one?for=b"]);
    assert_eq!((&calls[0].key, &calls[0].body), (&calls[1].key, &calls[1].body), "the same, sent again");
    let key = calls[0].key.clone().expect("has one");
    assert!(key.starts_with("t.out.0.0.0.") && calls[2].key.as_deref() != Some(&key), "{calls:?}");
    assert_eq!(calls[0].kind.as_deref(), Some("application/json"));
    assert_eq!(serde_json::from_str::<Json>(&calls[0].body).expect("is JSON"), row);
    // What is processed once more has the same key, and two records of one place have two.
    let mut other = api.config("/one");
    other.body = Some(Expr::new(".", None));
    let mut sink = lane(other).await;
    sink.put(&[("a", item("c", 1))]).await;
    sink.put(&[("a", item("c", 1))]).await;
    sink.put(&[("a", item("c", 2))]).await;
    assert_eq!(api.values("c"), [1, 2], "the API knew what it had");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_two_and_999_bad_rows_of_1000_are_refused_and_the_others_are_there() {
    for (send, path, answers) in [
        (Sends::Array, "/all", None),
        (Sends::Ndjson, "/all", None),
        (Sends::Ndjson, "/each", Some(".items")),
    ] {
        for bad in [1usize, 2, 999] {
            let api = Api::start();
            let answers = answers.map(|path| path.parse().expect("a path"));
            let mut sink = lane(HttpSinkConfig { send, answers, ..api.config(path) }).await;
            let is_bad = |n: usize| if bad == 999 { n != 500 } else { n % 500 < bad && n < 500 };
            let id = |n: usize| format!("k{n:03}");
            let row = |n: usize| sink.row(n, &id(n), json!({"id": id(n), "n": n, "bad": is_bad(n)}));
            let rows: Vec<_> = (0..1000).map(row).collect();
            let refused: Vec<String> = sink.settle(rows).await.into_iter().map(|(key, _)| key).collect();
            let expected: Vec<String> = (0..1000).filter(|n| is_bad(*n)).map(id).collect();
            assert_eq!(refused, expected, "{send:?} {path}");
            let shelf = api.shelf();
            assert_eq!(shelf.items.len(), 1000 - bad);
            assert!(shelf.items.values().all(|item| item.len() == 1), "each once");
            if path == "/each" {
                assert_eq!(shelf.calls.len(), 1, "every row has its answer");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_that_go_to_different_places_are_in_different_requests_in_their_order() {
    let api = Api::start();
    let config = HttpSinkConfig { send: Sends::Array, ..api.config("/{{ .to }}") };
    let mut sink = lane(config).await;
    let row = |to: &str, n: usize| json!({"to": to, "id": "a", "n": n});
    sink.put(&[("a", row("all", 1)), ("a", row("all", 2)), ("a", row("each", 3)), ("a", row("all", 4))])
        .await;
    assert_eq!(api.values("a"), [1, 2, 3, 4]);
    assert_eq!(api.shelf().calls.len(), 3);
    // Where rows have answers of their own, a key is in a request once.
    let answers = ".items".parse().ok();
    let mut sink = lane(HttpSinkConfig { send: Sends::Ndjson, answers, ..api.config("/each") }).await;
    sink.put(&[("b", item("b", 1)), ("c", item("c", 2)), ("b", item("b", 3))]).await;
    assert_eq!((api.values("b"), api.shelf().calls.len()), (vec![json!(1), json!(3)], 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_status_says_what_becomes_of_a_row() {
    let api = Api::start();
    let mut sink = lane(api.config("/one")).await;
    let rows = sink.rows(&[("a", item("a", 1))]);
    for (status, after, expected) in [
        (408, None, None),
        (425, None, None),
        (500, None, None),
        (502, Some("1"), Some(1)),
        (401, None, None),
        (403, None, None),
        (429, Some("2"), Some(2)),
        (503, Some("99999999"), Some(300)),
        (429, Some("soon"), None),
    ] {
        api.shelf().next = vec![(status, after)];
        let (answers, result) = sink.deliver(&rows).await;
        let Err(SinkError::Retry { message, after }) = result else { panic!("{status}: {result:?}") };
        assert!(message.contains(&status.to_string()), "{message}");
        assert_eq!((answers, after), (vec![None], expected.map(Duration::from_secs)), "{status}");
    }
    for status in [302, 400, 404, 409, 413, 422] {
        // An answer in between: what came before does not count.
        sink.put(&[("b", item("b", 1))]).await;
        api.shelf().next = vec![(status, None)];
        let (answers, result) = sink.deliver(&rows).await;
        assert_eq!(result, Ok(()), "{status}");
        assert!(
            matches!(&answers[..], [Some(Answer::Refused(why))] if why.contains(&status.to_string())),
            "{answers:?}"
        );
    }
    assert_eq!(api.values("a"), [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_too_large_is_sent_in_parts() {
    let api = Api::start();
    api.shelf().body_max = Some(2_000);
    let mut sink = lane(HttpSinkConfig { send: Sends::Array, ..api.config("/all") }).await;
    let row = |n: usize| {
        let padding = "x".repeat(if n == 3 { 3_000 } else { 100 });
        sink.row(n, &format!("k{n}"), json!({"id": format!("k{n}"), "n": n, "padding": padding}))
    };
    let rows: Vec<_> = (0..100).map(row).collect();
    let refused = sink.settle(rows).await;
    assert!(matches!(&refused[..], [(key, why)] if key == "k3" && why.contains("413")), "{refused:?}");
    assert_eq!(api.shelf().items.len(), 99);
}

/// A request that was taken, whose answer is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_without_an_answer_is_sent_again_or_refused_as_the_file_says() {
    let api = Api::start();
    let mut sink = lane(api.config("/one")).await;
    let rows = sink.rows(&[("a", item("a", 1))]);
    api.shelf().hang = true;
    let began = Instant::now();
    let (answers, result) = sink.deliver(&rows).await;
    assert!(matches!(result, Err(SinkError::Retry { .. })) && answers == [None], "{result:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    api.shelf().hang = false;
    assert_eq!(sink.settle(rows).await, []);
    assert_eq!(api.values("a"), [1], "once, by its key");

    // An API that knows no such keys, and says that it has the item: after an attempt without an answer that is ours.
    let mut sink = lane(HttpSinkConfig { idempotency_key: String::new(), ..api.config("/one") }).await;
    let rows = sink.rows(&[("b", item("b", 1))]);
    api.shelf().hang = true;
    assert!(sink.deliver(&rows).await.1.is_err());
    api.shelf().hang = false;
    api.shelf().next = vec![(409, None); 9];
    assert_eq!(sink.settle(rows.clone()).await, [], "it is there");
    let (answers, _) = sink.deliver(&rows).await;
    assert!(matches!(answers[0], Some(Answer::Refused(_))), "and a 409 by itself is another's");
    api.shelf().next.clear();

    let mut sink = lane(HttpSinkConfig { unanswered: Unanswered::Refuse, ..api.config("/one") }).await;
    api.shelf().hang = true;
    let refused = sink.settle(sink.rows(&[("c", item("c", 1))])).await;
    assert!(matches!(&refused[..], [(_, why)] if why.contains("may have been taken")), "{refused:?}");
    api.shelf().hang = false;
    // What was surely not taken is sent again even so.
    api.shelf().next = vec![(503, None), (429, None)];
    assert_eq!(sink.settle(sink.rows(&[("d", item("d", 1))])).await, []);
    assert_eq!((api.values("c"), api.values("d")), (vec![json!(1)], vec![json!(1)]));
}

/// Connections that break: refused, reset before and in the middle of the answer, an answer that drips.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_breaks_loses_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/one", listener.local_addr().expect("has one"));
    thread::spawn(move || {
        let texts = [
            "",
            "HTTP/1.1 200",
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart",
            "drip",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ];
        for text in texts.into_iter().chain(std::iter::repeat(texts[4])) {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut buffer = [0; 4096];
            drop(stream.read(&mut buffer));
            if text == "drip" {
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"));
                for _ in 0..30 {
                    drop(stream.write_all(b" "));
                    thread::park_timeout(Duration::from_millis(100));
                }
            }
            drop(stream.write_all(text.as_bytes()));
        }
    });
    let url = Template::new(url, None).expect("a template");
    let mut sink = lane(HttpSinkConfig { timeout: Millis(500), ..HttpSinkConfig::new(url) }).await;
    let rows = sink.rows(&[("a", item("a", 1))]);
    for what in ["reset", "cut head", "cut body", "drip"] {
        let began = Instant::now();
        let (answers, result) = sink.deliver(&rows).await;
        assert!(matches!(result, Err(SinkError::Retry { .. })), "{what}: {result:?}");
        assert_eq!((answers, began.elapsed() < Duration::from_secs(3)), (vec![None], true), "{what}");
    }
    // The dripping one still holds the server.
    assert_eq!(sink.settle(rows).await, []);
    let gone = Template::new("http://127.0.0.1:1/x", None).expect("a template");
    let gone = SinkConfig::Http(HttpSinkConfig::new(gone));
    let sink = connected(&gone).await.expect("connects while the API is away");
    assert!(matches!(sink.reach().await, Err(SinkError::Retry { .. })));
}

/// Grants one request every 100 ms, and remembers what it was told.
#[derive(Default)]
struct Slow(Mutex<Vec<Duration>>);

impl Pace for Slow {
    fn turn(&self) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(Duration::from_millis(100)))
    }
    fn pause_for(&self, time: Duration) {
        self.0.lock().expect("is whole").push(time);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_request_counts_in_the_rate_limit_and_retry_after_pauses_it() {
    let api = Api::start();
    let (config, pace) = (api.config("/one"), Arc::new(Slow::default()));
    let sink =
        HttpSink::new(&config, "t.out", Some(Arc::<Slow>::clone(&pace) as Arc<dyn Pace>)).expect("a sink");
    let rows = lane(config).await.rows(&[("a", item("a", 1)), ("b", item("b", 2)), ("c", item("c", 3))]);
    let mut lane = sink.lane();
    api.shelf().next = vec![(429, Some("7"))];
    let mut out = Answers::new(1);
    assert!(lane.deliver_batch(&rows[..1], &mut out).await.is_err());
    assert_eq!(*pace.0.lock().expect("is whole"), [Duration::from_secs(7)]);
    lane.deliver_batch(&rows, &mut Answers::new(3)).await.expect("is sent");
    let calls = api.shelf().calls.clone();
    assert_eq!(calls.len(), 4);
    assert!(calls.windows(2).all(|two| two[1].at - two[0].at >= Duration::from_millis(90)), "one turn each");
}

const CALLER: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}" }
rate_limits: { api: { limit: 2000/s } }
sources:
  in: { kafka: { topic: NAME.in } }
sinks:
  out: { from: in, http: { url: "${API}/one", rate_limit: api, timeout: 1s } }
errors: { dead_letter: { topic: NAME.dlq } }
"#;

/// A stop in the middle of everything: nothing is lost, the API knows what it gets again, and the dead letter holds exactly
/// the bad rows.
#[test]
fn whatever_is_killed_every_request_is_made_and_only_the_bad_rows_are_refused() {
    let mut api = Api::start();
    let stage = Stage::new("caller", &[("in", 2), ("dlq", 1)], CALLER);
    let url = api.url.clone();
    let start = |id: &str| {
        let mut command = stage.command();
        command.env("API", &url);
        Instance::spawn(command, &stage.yaml, id, &[])
    };
    let send = |from: usize, to: usize| {
        let value = |n: usize| json!({"id": format!("k{}", n % 500), "n": n, "bad": n % 1000 == 7});
        stage.send("in", (from..to).map(|n| (format!("k{}", n % 500), value(n))));
    };
    let taken = |api: &Api| api.shelf().items.values().map(Vec::len).sum::<usize>();
    send(0, 1500);
    let mut first = start("a");
    first.wait_ready(Duration::from_secs(60));
    wait("something was sent", Duration::from_secs(60), || taken(&api) > 100);
    first.child.kill().expect("is killed");
    first.child.wait().expect("is gone");
    // Away while the instance starts.
    api.stop.cancel();
    let mut second = start("a");
    second.wait_ready(Duration::from_secs(60));
    send(1500, 3000);
    api.listen(url.trim_start_matches("http://"));
    wait("all were sent", Duration::from_secs(120), || taken(&api) == 2997);
    let mut dead = BTreeSet::new();
    wait("the bad rows are in the dead letter", Duration::from_secs(60), || {
        let read = stage.read("dlq").unwrap_or_default();
        dead = read
            .iter()
            .filter_map(|(_, v)| serde_json::from_slice::<Json>(v.as_ref()?).ok()?["n"].as_i64())
            .collect();
        dead.len() >= 3
    });
    assert_eq!(dead, BTreeSet::from([7, 1007, 2007]));
    for (id, items) in &api.shelf().items {
        let n: Vec<i64> = items.iter().map(|item| item["n"].as_i64().expect("a number")).collect();
        assert!(n.windows(2).all(|two| two[0] < two[1]), "{id}: in order, each once: {n:?}");
    }
}

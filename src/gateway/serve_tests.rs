//! Requests in the process: from the head to the handler, without a server and without a broker.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request as Http;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use futures_util::future::BoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::answer;
use super::request::Request;
use super::serve::{App, Handler};
use crate::endpoints::{EndpointConfig, Route, ServeConfig};
use crate::model::{Json, Millis, Scope, Size};
use crate::runtime::EngineHandle;
use crate::yaml::{Mode, load};

/// Answers with what expressions read.
struct Echo;

impl Handler for Echo {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            let read = |scope: &Scope<'_>| {
                let vars: serde_json::Map<String, Json> =
                    scope.vars.iter().map(|(name, json)| ((*name).to_owned(), (*json).clone())).collect();
                let header = |name: &str| {
                    scope.headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
                };
                json!({ "vars": vars, "x": header("x-many"), "authorization": header("authorization") })
            };
            answer::json(StatusCode::OK, &request.read(read))
        })
    }
}

const FILE: &str = r#"
name: t
kafka: { brokers: "127.0.0.1:1" }
http: { listen: "127.0.0.1:0", produce_timeout: 200ms }
endpoints:
  create:
    route: POST /things
    schema: { title: text, "*": any }
    request: { topic: things, key: .title, value: '{ "n": .n + 1 }' }
    respond: { headers: { Location: "/things/{{ .title }}" } }
"#;

/// The endpoints of `FILE`, without a broker, and one that echoes.
fn app() -> App {
    let loaded = load("t.yaml", FILE, Mode::Required, &|_| None);
    let topology = loaded.map_err(|report| report.render(false)).expect("a good file").topology;
    let engine = EngineHandle::new(&Arc::new(topology)).expect("metrics");
    let settings = &engine.topology().settings;
    let kafka = settings.kafka.as_ref().expect("a cluster");
    let within = settings.http.as_ref().expect("a server").produce_timeout.duration();
    let messenger = Arc::new(crate::kafka::Messenger::open(kafka, within).expect("a producer"));
    let config = ServeConfig {
        max_body: Size(1000),
        body_timeout: Millis(200),
        access_log: false,
        ..ServeConfig::new("127.0.0.1:0")
    };
    let mut app = App::new(&config, &engine, Some(&messenger), None, None).expect("the endpoints are made");
    for (name, route) in [("get", "GET /echo/{slug}"), ("post", "POST /echo/{slug}")] {
        let mut endpoint = EndpointConfig::new(Route::new(route).expect("a route"));
        endpoint.schema = (name == "post").then(|| serde_json::from_value(json!("any")).expect("a shape"));
        app.add(name, &endpoint, Arc::new(Echo));
    }
    app
}

async fn ask(app: &App, request: Http) -> (u16, axum::http::HeaderMap, Json) {
    let response = app.answer(request).await;
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    (parts.status.as_u16(), parts.headers, serde_json::from_slice(&body).unwrap_or(Json::Null))
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)], body: &str) -> Http {
    let mut request = Http::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).expect("a request")
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn a_handler_gets_what_the_request_has() {
    let app = app();
    let headers = [JSON, ("x-many", "a"), ("x-many", "b"), ("idempotency-key", "k")];
    let (status, headers, body) =
        ask(&app, request("POST", "/echo/a%2Fb?q=1&q=2&r=x+y", &headers, "{\"n\":[1]}")).await;
    assert_eq!(status, 200);
    let id = headers["x-request-id"].to_str().expect("text");
    let vars = json!({
        "body": {"n": [1]}, "path": {"slug": "a/b"}, "query": {"q": "2", "r": "x y"}, "id": id, "slug": "a/b"
    });
    assert_eq!(body, json!({"vars": vars, "x": "a, b", "authorization": null}));

    let (status, get, body) = ask(&app, request("GET", "/echo/x", &[], "")).await;
    assert_eq!((status, &body["vars"]["body"]), (200, &Json::Null));
    assert!(get.get(header::CONTENT_LENGTH).is_none(), "hyper says it");
    let (status, head, body) = ask(&app, request("HEAD", "/echo/x", &[], "")).await;
    assert_eq!((status, body), (200, Json::Null), "no body");
    assert!(head[header::CONTENT_LENGTH].to_str().is_ok_and(|n| n.parse::<u32>().is_ok_and(|n| n > 100)));
    let (status, ..) = ask(&app, request("GET", "/echo/x?q=%FF", &[], "")).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_body_has_bounds() {
    let app = app();
    let (status, ..) = ask(&app, request("POST", "/echo/x", &[JSON], &"[".repeat(1001))).await;
    assert_eq!(status, 413);
    let body = Body::from_stream(futures_util::stream::pending::<Result<String, std::io::Error>>());
    let slow = Http::builder().method(Method::POST).uri("/echo/x").header(JSON.0, JSON.1).body(body);
    assert_eq!(ask(&app, slow.expect("a request")).await.0, 408);
    // An announced length is believed when the client waits for the word to go on.
    let headers = [JSON, ("expect", "100-continue"), ("content-length", "1001")];
    assert_eq!(ask(&app, request("POST", "/echo/x", &headers, "")).await.0, 413);
}

#[tokio::test]
async fn without_a_broker_the_answer_is_503_and_what_cannot_be_made_is_422() {
    let app = app();
    let (status, headers, body) =
        ask(&app, request("POST", "/things", &[JSON], r#"{"title":"a","n":1}"#)).await;
    assert_eq!((status, headers["retry-after"].to_str().ok()), (503, Some("1")), "{body}");
    for (body, what) in
        [(r#"{"title":"a"}"#, "the value"), (r#"{"title":"a\nb","n":1}"#, "the answer's header")]
    {
        let began = std::time::Instant::now();
        let (status, _, said) = ask(&app, request("POST", "/things", &[JSON], body)).await;
        assert!(matches!(status, 422 | 500) && said["error"].to_string().contains(what), "{status} {said}");
        assert!(began.elapsed() < Duration::from_millis(150), "nothing was sent");
    }
}

/// Bytes of good requests with some changed: an answer that the contract names, and never a panic.
#[tokio::test]
async fn changed_bytes_are_answered_in_words() {
    let app = app();
    let mut random = SmallRng::seed_from_u64(15);
    let good: [(&str, &str, &str, &str); 4] = [
        (
            "POST",
            "/echo/a%20b?q=1&r=%C3%A4",
            "application/json",
            r#"{"title": "x", "n": [1, 2.5e3, null, {"a": "\u00e4"}]}"#,
        ),
        ("POST", "/echo/x", "application/x-www-form-urlencoded", "title=a+b%26&n=1&n=2"),
        ("GET", "/echo/y?z", "", ""),
        ("POST", "/things", "application/json", r#"{"titel": "x"}"#),
    ];
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..30_000 {
        let (method, uri, kind, body) = good[random.random_range(0..good.len())];
        let mut change = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..=bytes.len());
                match random.random_range(0..3) {
                    0 => bytes.insert(at, random.random()),
                    1 if at < bytes.len() => drop(bytes.remove(at)),
                    _ if at < bytes.len() => bytes[at] = random.random(),
                    _ => {}
                }
            }
            bytes
        };
        let (method, uri, kind, key, body) =
            (change(method), change(uri), change(kind), change("\"key-1\""), change(body));
        let (Ok(method), Ok(uri)) = (Method::from_bytes(&method), axum::http::Uri::try_from(uri)) else {
            continue;
        };
        let mut request = Http::builder().method(method).uri(uri);
        for (name, value) in [("content-type", kind), ("idempotency-key", key)] {
            if let Ok(value) = axum::http::HeaderValue::from_bytes(&value) {
                request = request.header(name, value);
            }
        }
        let Ok(request) = request.body(Body::from(body)) else { continue };
        let (status, headers, said) = ask(&app, request).await;
        *seen.entry(status).or_insert(0) += 1;
        assert!(headers.contains_key("x-request-id"));
        match status {
            200 => {}
            400 | 404 | 405 | 413 | 415 | 422 => {
                assert!(said["error"].is_string() || said.is_null(), "{said}")
            }
            other => panic!("{other} {said}"),
        }
    }
    for status in [200, 400, 404, 405, 415, 422] {
        assert!(seen.contains_key(&status), "no {status}: {seen:?}");
    }
}

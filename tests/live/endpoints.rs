//! HTTP endpoints that produce, on a real Kafka: `KAFKA_BROKERS=host:port cargo test --test live endpoints`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Client, Method};
use serde_json::{Value as Json, json};

use crate::common::{Instance, OwnServer, Stage, text, wait};

const LONG: Duration = Duration::from_secs(60);

const THINGS: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}" }
http:
  listen: "127.0.0.1:0"
  max_body: 64KiB
  header_timeout: 1s
  body_timeout: 3s
  cors: { origins: ["https://app.example.com"] }
endpoints:
  create:
    route: POST /things
    schema: { title: text, note: string? }
    checks:
      - { field: title, that: 'length(.title) < 1000', message: is too long }
    request:
      topic: NAME.things
      key: id
      value: '{ "id": id, "title": .title }'
    respond:
      headers: { Location: "/things/{{ id }}" }
      body: { uid: id, of: { title: .title } }
  put:
    route: PUT /things/{thing}
    auth: { bearer: { ci: token-1234 }, basic: { ann: password-1234 } }
    request: { topic: NAME.things, key: thing }
"#;

/// An answer: status, headers, and the body as JSON (null if it is none).
type Answer = (u16, HeaderMap, Json);

/// A client of an instance's endpoints.
struct Asking<'s> {
    stage: &'s Stage,
    client: Client,
    base: String,
}

impl<'s> Asking<'s> {
    fn new(stage: &'s Stage, instance: &Instance) -> Asking<'s> {
        // An idle connection may be closed by the server while the next request is on its way.
        let client = Client::builder().timeout(Duration::from_secs(20)).pool_max_idle_per_host(0);
        let client = client.build().expect("a client");
        Asking { stage, client, base: format!("http://{}", instance.http()) }
    }

    fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.stage.runtime.block_on(async {
            let answer = request.send().await.expect("an answer");
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let body = answer.bytes().await.expect("a body");
            (status, headers, serde_json::from_slice(&body).unwrap_or(Json::Null))
        })
    }

    fn post(&self, body: &Json) -> Answer {
        self.ask(Method::POST, "/things", &[("content-type", "application/json")], body.to_string())
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().expect("is text"))
}

fn started(stage: &Stage) -> Instance {
    let mut instance = stage.start("one");
    instance.wait_ready(LONG);
    instance
}

#[test]
fn endpoints_produce_a_message_and_answer_when_the_broker_has_it() {
    let stage = Stage::new("endpoints", &[("things", 1)], THINGS);
    let instance = started(&stage);
    let asking = Asking::new(&stage, &instance);

    let (status, headers, body) = asking.post(&json!({"title": "one", "more": 1}));
    let id = body["uid"].as_str().expect("an id").to_owned();
    assert_eq!((status, &body), (202, &json!({"uid": id, "of": {"title": "one"}})));
    assert_eq!(header(&headers, "location"), format!("/things/{id}"));
    assert_eq!(header(&headers, "x-request-id"), id);
    let mut rows = vec![(id.clone(), json!({"id": id, "title": "one"}))];
    assert_eq!(stage.rows("things"), rows, "it is there when the answer is");

    let form = [("content-type", "application/x-www-form-urlencoded")];
    let (status, _, body) = asking.ask(Method::POST, "/things", &form, "title=zw%C3%B6lf+%26&note=x");
    let id = body["uid"].as_str().expect("an id").to_owned();
    assert_eq!(status, 202);
    rows.push((id.clone(), json!({"id": id, "title": "zwölf &"})));

    // The same key, quoted or not, is the same id.
    let ids = ["\"k-1\"", "k-1", "k-2"].map(|key| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let (status, _, body) = asking.ask(Method::POST, "/things", &headers, r#"{"title": "same"}"#);
        assert_eq!(status, 202);
        let id = body["uid"].as_str().expect("an id").to_owned();
        rows.push((id.clone(), json!({"id": id, "title": "same"})));
        id
    });
    assert!(ids[0] == ids[1] && ids[1] != ids[2], "{ids:?}");

    // A key with everything in it, decoded once; a caller by token and by password.
    let json_type = ("content-type", "application/json");
    for credentials in ["Bearer token-1234", "Basic YW5uOnBhc3N3b3JkLTEyMzQ="] {
        let headers = [json_type, ("authorization", credentials)];
        let (status, ..) = asking.ask(Method::PUT, "/things/a%2Fb%20%C3%A4%3F%2525", &headers, "{}");
        assert_eq!(status, 202, "{credentials}");
        rows.push(("a/b ä?%25".to_owned(), json!({})));
    }
    assert_eq!(stage.rows("things"), rows);

    // What is refused leaves nothing behind.
    let refused = |method: Method, path: &str, headers: &[(&str, &str)], body: &str, want: u16| {
        let (status, answered, said) = asking.ask(method, path, headers, body);
        assert_eq!(status, want, "{path} {headers:?} {said}");
        assert_eq!(said["request_id"], header(&answered, "x-request-id"), "{said}");
        assert!(said["error"].as_str().is_some_and(|error| !error.is_empty()), "{said}");
        (answered, said)
    };
    for (body, field) in [
        ("{}", "title"),
        (r#"{"title": ""}"#, "title"),
        (r#"{"title": 7}"#, "title"),
        (r#"{"title": "x", "note": 7}"#, "note"),
        ("[]", ""),
    ] {
        let (_, said) = refused(Method::POST, "/things", &[json_type], body, 422);
        assert_eq!(said["field"], field, "{body}");
    }
    let long = json!({"title": "x".repeat(1000)}).to_string();
    assert_eq!(refused(Method::POST, "/things", &[json_type], &long, 422).1["error"], "`title` is too long");
    let (_, said) = refused(Method::POST, "/things", &[json_type], "{\n \"title\" 1}", 400);
    assert!(said["error"].as_str().is_some_and(|e| e.contains("line 2 column")), "{said}");
    refused(Method::POST, "/things", &[json_type], &"x".repeat((64 << 10) + 1), 413);
    refused(Method::POST, "/things", &[json_type], &"x".repeat(3 << 20), 413);
    refused(Method::POST, "/things", &[("content-type", "text/plain")], "{}", 415);
    refused(Method::POST, "/things", &[json_type, ("idempotency-key", "\"\"")], "{}", 400);
    refused(Method::POST, "/thing", &[json_type], "{}", 404);
    let (answered, _) = refused(Method::DELETE, "/things", &[], "", 405);
    assert_eq!(header(&answered, "allow"), "POST");
    refused(Method::PUT, "/things/", &[json_type, ("authorization", "Bearer token-1234")], "{}", 400);
    let (answered, _) =
        refused(Method::PUT, "/things/x", &[json_type, ("authorization", "Bearer no")], "{}", 401);
    assert_eq!(answered.get_all("www-authenticate").iter().count(), 2);
    assert_eq!(stage.rows("things"), rows);

    // A page of another origin asks first.
    let preflight = [("origin", "https://app.example.com"), ("access-control-request-method", "POST")];
    let (status, answered, _) = asking.ask(Method::OPTIONS, "/things", &preflight, "");
    assert_eq!((status, header(&answered, "access-control-allow-origin")), (200, "https://app.example.com"));

    // HTTP/2, from the first byte on.
    let client = Client::builder().http2_prior_knowledge().build().expect("a client");
    let http2 = Asking { stage: &stage, client, base: asking.base.clone() };
    assert_eq!(http2.post(&json!({"title": "two"})).0, 202);
    let requests =
        instance.metric("slackwater_endpoint_requests_total", "endpoint=\"create\",status=\"202\"");
    assert_eq!((requests, instance.metric("slackwater_endpoint_requests_in_flight", "")), (6.0, 0.0));
    assert!(instance.text().contains("path=/things status=202"), "the access log");

    // The port is taken.
    let busy = stage.dir.path().join("busy.yaml");
    let other = std::fs::read_to_string(&stage.yaml).expect("the file");
    std::fs::write(&busy, other.replace("127.0.0.1:0", &instance.http())).expect("is written");
    let mut command = stage.command();
    command
        .args(["run", "--admin", "127.0.0.1:0", "--state-dir"])
        .arg(stage.dir.path().join("busy"))
        .arg(&busy);
    let ended = command.output().expect("it ends");
    let said = text(&ended);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("for the endpoints") && said.contains("http: { listen }"), "{said}");
    assert_eq!(instance.stop(LONG), 0);
}

/// A connection on which half a request was sent.
fn half(address: &str, begin: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
    stream.write_all(begin.as_bytes()).expect("is sent");
    stream
}

fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(_) => text,
        // Closed with bytes in it that were not read.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => text,
        Err(e) => panic!("it is not closed: {e}"),
    }
}

#[test]
fn endpoints_bound_what_a_client_may_take_and_answer_what_they_owe_at_the_end() {
    let stage = Stage::new("endpoints-slow", &[("things", 1)], THINGS);
    let mut instance = started(&stage);
    let address = instance.http();
    let asking = Asking::new(&stage, &instance);
    // Nothing at all, half a line, half of HTTP/2's first bytes, half a head.
    let began = Instant::now();
    let slow: Vec<_> = ["", "POST /thi", "PRI * HT", "POST /things HTTP/1.1\r\nhost: x\r\n"]
        .into_iter()
        .map(|begin| half(&address, begin))
        .collect();
    let post = "POST /things HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 17\r\n";
    let body = half(&address, &format!("{post}\r\n{{\"title\""));
    assert!(rest(body).starts_with("HTTP/1.1 408"), "a slow body");
    for stream in slow {
        assert_eq!(rest(stream).split(' ').nth(1).filter(|status| *status != "408"), None);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    // Clients that go away, before and after they were understood.
    for _ in 0..50 {
        drop(half(&address, &format!("{post}\r\n{{\"title\": \"gone\"}}")));
        drop(half(&address, &format!("{post}\r\n{{\"title\"")));
    }
    assert_eq!(asking.post(&json!({"title": "on it goes"})).0, 202);
    wait("nothing is left of them", LONG, || {
        instance.metric("slackwater_endpoint_requests_in_flight", "") == 0.0
            && instance.metric("slackwater_endpoint_connections", "") <= 1.0
    });

    // What has begun is finished; nothing new is taken.
    let mut owed = half(&address, &format!("{post}\r\n{{\"title\""));
    wait("it is being read", LONG, || instance.metric("slackwater_endpoint_requests_in_flight", "") == 1.0);
    instance.signal("-TERM");
    wait("the port is closed", LONG, || TcpStream::connect(&address).is_err());
    assert_eq!(instance.get("/ready").0, 503);
    owed.write_all(b": \"owed\"}").expect("is sent");
    let answer = rest(owed).to_lowercase();
    assert!(answer.starts_with("http/1.1 202") && answer.contains("connection: close"), "{answer}");
    let mut code = None;
    wait("it ends", LONG, || {
        code = instance.child.try_wait().expect("its end");
        code.is_some()
    });
    assert_eq!(code.and_then(|code| code.code()), Some(0));
    assert!(stage.rows("things").iter().any(|(_, value)| value["title"] == "owed"));
}

#[test]
fn endpoints_never_send_later_what_was_not_sent() {
    let broker = OwnServer::kafka();
    let stage = Stage::on(&broker.address, "endpoints-down", &[("things", 1)], THINGS);
    let instance = started(&stage);
    let asking = Asking::new(&stage, &instance);
    let titled = |title: &str| {
        let began = Instant::now();
        let (status, headers, body) = asking.post(&json!({ "title": title }));
        assert!(began.elapsed() < Duration::from_secs(8), "{title} took {:?}", began.elapsed());
        (status, header(&headers, "retry-after").to_owned(), body)
    };
    assert_eq!(titled("before").0, 202);
    broker.act("stop");
    let mut unknown = Vec::new();
    for n in 0..3 {
        let title = format!("down {n}");
        let (status, retry_after, body) = titled(&title);
        match status {
            503 => assert_eq!(retry_after, "1", "{body}"),
            504 => {
                assert_eq!(body["accepted"], "unknown", "{body}");
                unknown.push(title);
            }
            other => panic!("{other} {body}"),
        }
    }
    assert!(unknown.len() < 3, "none of them was known not to be sent");
    broker.act("resume");
    let mut tries = 0;
    wait("it goes on", LONG, || {
        tries += 1;
        titled(&format!("after {tries}")).0 == 202
    });
    // Frozen: what became of the message cannot be known, or it was never sent.
    broker.freeze();
    let (status, _, body) = titled("frozen");
    assert!(status == 503 || status == 504 && body["accepted"] == "unknown", "{status} {body}");
    broker.thaw();
    if status == 504 {
        unknown.push("frozen".into());
    }
    wait("it goes on", LONG, || titled("last").0 == 202);
    let titles: Vec<String> =
        stage.rows("things").into_iter().filter_map(|(_, v)| v["title"].as_str().map(Into::into)).collect();
    let bad: Vec<&String> = titles
        .iter()
        .filter(|title| title.starts_with("down") || *title == "frozen")
        .filter(|title| !unknown.contains(title))
        .collect();
    assert_eq!(bad, Vec::<&String>::new(), "sent behind the caller's back: {titles:?}");
    assert!(titles.contains(&format!("after {tries}")) && titles.contains(&"last".to_owned()), "{titles:?}");
    assert_eq!(instance.stop(LONG), 0);
}

/// A certificate of this machine's own, in two files.
fn certificate(dir: &std::path::Path, name: &str) {
    let made = std::process::Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj".split(' '))
        .args([&format!("/CN={name}"), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(dir.join("cert.pem"))
        .output()
        .expect("openssl is needed: scripts/prerequisites.sh test");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn endpoints_speak_tls_and_take_a_new_certificate_without_a_restart() {
    let tls = THINGS.replace("  max_body:", "  tls: { certificate: cert.pem, key: key.pem }\n  max_body:");
    let stage = Stage::new("endpoints-tls", &[("things", 1)], &tls);
    certificate(stage.dir.path(), "first");
    let instance = started(&stage);
    let ask = || {
        let pem = std::fs::read(stage.dir.path().join("cert.pem")).expect("the certificate");
        let trusted = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        let client = Client::builder().tls_certs_only([trusted]).build().expect("a client");
        let url = format!("https://{}/openapi.json", instance.http());
        stage.runtime.block_on(async { Some(client.get(url).send().await.ok()?.version()) })
    };
    assert_eq!(ask(), Some(reqwest::Version::HTTP_2), "by ALPN");
    certificate(stage.dir.path(), "second");
    wait("the new one is shown", LONG, || ask().is_some());
    assert_eq!(instance.stop(LONG), 0);
}

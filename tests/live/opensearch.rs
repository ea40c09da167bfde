//! The `elasticsearch` sink against a real OpenSearch. Every test has an index of its own in the shared server; those that need
//! other settings, stop or freeze it have a server of their own, and those for answers that no server gives on demand a stub.
//!
//! Needs `OPENSEARCH_URL` (`scripts/opensearch.sh start DIR` prints it). Without it a test fails; it never skips.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use slackwater::model::{Expr, Millis, Template};
use slackwater::sinks::elasticsearch::Action;
use slackwater::sinks::{Answer, ElasticsearchConfig, SinkConfig, SinkError};

use crate::common::lane::connected;
use crate::common::{OwnServer, Stage, TestLane, unique, wait};

fn url() -> String {
    std::env::var("OPENSEARCH_URL")
        .expect("OPENSEARCH_URL is not set: start one with scripts/opensearch.sh start DIR")
}

/// An index that no other test has.
struct Room {
    url: String,
    index: String,
    client: reqwest::Client,
}

impl Room {
    async fn new(mapping: Json) -> Room {
        Room::at(&url(), mapping).await
    }

    async fn at(url: &str, mapping: Json) -> Room {
        let room = Room { url: url.to_owned(), index: unique("i"), client: reqwest::Client::new() };
        if !mapping.is_null() {
            room.put("", mapping).await;
        }
        room
    }

    /// Puts something at a path of the index.
    async fn put(&self, path: &str, body: Json) {
        let url = format!("{}/{}{path}", self.url, self.index);
        let request = self.client.put(url).header("content-type", "application/json").body(body.to_string());
        let answer = request.send().await.expect("OpenSearch answers");
        let status = answer.status();
        assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap_or_default());
    }

    async fn get(&self, path: &str) -> Json {
        let url = format!("{}/{}{path}", self.url, self.index);
        let text = self.client.get(url).send().await.expect("it answers").text().await.expect("a body");
        serde_json::from_str(&text).expect("is JSON")
    }

    /// A document and its version; null where there is none.
    async fn document(&self, id: &str) -> Json {
        let found = self.get(&format!("/_doc/{id}")).await;
        match found["found"] == json!(true) {
            true => json!([found["_version"], found["_source"]]),
            false => Json::Null,
        }
    }

    async fn count(&self) -> i64 {
        let refreshed = self.client.post(format!("{}/{}/_refresh", self.url, self.index)).send().await;
        assert!(refreshed.expect("it answers").status().is_success());
        self.get("/_count").await["count"].as_i64().expect("a number")
    }

    fn config(&self) -> ElasticsearchConfig {
        config(&self.url, &self.index)
    }

    async fn lane(&self, change: impl FnOnce(&mut ElasticsearchConfig)) -> TestLane {
        let mut config = self.config();
        change(&mut config);
        TestLane::new(SinkConfig::Elasticsearch(config)).await
    }
}

fn config(url: &str, index: &str) -> ElasticsearchConfig {
    ElasticsearchConfig::new(url, Template::new(index, None).expect("is a template"))
}

fn strict() -> Json {
    json!({ "mappings": { "dynamic": "strict",
            "properties": { "n": { "type": "long" }, "s": { "type": "keyword" }, "t": { "type": "date" } } } })
}

/// Rows `(key, version, value)` of a sink whose version is `.v` of the record, and whose document is `.d`.
async fn put_versions(lane: &mut TestLane, rows: &[(&str, i64, Json)]) -> Vec<(String, String)> {
    let rows = rows.iter().enumerate();
    let rows = rows.map(|(n, (key, version, doc))| {
        lane.row(n, key, json!({ "v": version, "d": doc, "gone": doc.is_null() }))
    });
    let rows = rows.collect();
    lane.settle(rows).await
}

fn by_version(config: &mut ElasticsearchConfig) {
    config.version = Some(Expr::new(".v", None));
    config.document = Some(Expr::new(".d", None));
    config.delete_when = Some(Expr::new(".gone", None));
}

#[tokio::test]
async fn documents_are_written_replaced_and_deleted() {
    let room = Room::new(Json::Null).await;
    for compress in [true, false] {
        let mut lane = room.lane(|c| c.compress = compress).await;
        lane.put(&[("a", json!({"n": 1, "text": "ä\n\"x\""})), ("b/ c?", json!({"n": 2}))]).await;
        assert_eq!(room.document("a").await[1], json!({"n": 1, "text": "ä\n\"x\""}));
        assert_eq!(room.document("b%2F%20c%3F").await[1], json!({"n": 2}));
        lane.put(&[("a", json!({"n": 3})), ("b/ c?", Json::Null), ("never", Json::Null)]).await;
        assert_eq!(room.document("a").await[1], json!({"n": 3}), "replaced, not merged");
        assert_eq!(room.document("b%2F%20c%3F").await, Json::Null);
    }
    // A value is written as it came, in one line.
    let mut lane = room.lane(|_| {}).await;
    let mut row = lane.row(0, "raw", json!({}));
    row.record.value = slackwater::model::Value::Bytes("{\r\n  \"n\": 1.50,\n  \"s\": \"x\\ny\"\n}".into());
    row.payload = lane.config.payload(&row.record).expect("is JSON");
    assert_eq!(lane.settle(vec![row]).await, []);
    assert_eq!(room.document("raw").await[1], json!({"n": 1.5, "s": "x\ny"}));
    assert_eq!(room.count().await, 2);
}

#[tokio::test]
async fn the_version_decides_and_an_older_one_is_done() {
    let room = Room::new(strict()).await;
    let mut lane = room.lane(by_version).await;
    for (version, stands) in [(10, 10), (9, 10), (10, 10), (11, 11)] {
        assert_eq!(put_versions(&mut lane, &[("a", version, json!({ "n": version }))]).await, []);
        assert_eq!(room.document("a").await, json!([stands, { "n": stands }]), "after {version}");
    }
    // A deletion has a version too, and what is older than it stays gone.
    assert_eq!(put_versions(&mut lane, &[("a", 12, Json::Null)]).await, []);
    assert_eq!(put_versions(&mut lane, &[("a", 11, json!({"n": 1}))]).await, []);
    assert_eq!(room.document("a").await, Json::Null);
    assert_eq!(put_versions(&mut lane, &[("missing", 1, Json::Null)]).await, [], "404, and as it should be");
    // In one batch the greatest wins, wherever it stands; a refused one does not take the others along.
    let rows = [("b", 1, json!({"n": 1})), ("b", 3, json!({"n": 3})), ("b", 2, json!({"n": 2}))];
    assert_eq!(put_versions(&mut lane, &rows).await, []);
    assert_eq!(room.document("b").await, json!([3, { "n": 3 }]));
    let rows = [("c", 1, json!({"n": 1})), ("c", 3, json!({"n": "bad"})), ("c", 2, json!({"n": 2}))];
    let refused = put_versions(&mut lane, &rows).await;
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(room.document("c").await, json!([2, { "n": 2 }]));
}

#[tokio::test]
async fn of_equal_ids_in_a_batch_the_last_stands_and_what_creates_is_first() {
    let room = Room::new(strict()).await;
    let mut lane = room.lane(|_| {}).await;
    let n = |n: i64| json!({ "n": n });
    lane.put(&[("a", n(1)), ("b", n(2)), ("a", n(3)), ("b", Json::Null), ("c", Json::Null), ("c", n(4))])
        .await;
    assert_eq!(room.document("a").await[1], n(3));
    assert_eq!(room.document("b").await, Json::Null);
    assert_eq!(room.document("c").await[1], n(4));
    let rows = lane.rows(&[("d", n(1)), ("d", json!({"n": "bad"}))]);
    assert_eq!(lane.settle(rows).await.len(), 1);
    assert_eq!(room.document("d").await[1], n(1), "the row before the refused one");

    let mut lane = room.lane(|c| c.action = Action::Create).await;
    lane.put(&[("e", n(1)), ("e", n(2))]).await;
    lane.put(&[("e", n(3)), ("f", n(4))]).await;
    assert_eq!(room.document("e").await, json!([1, { "n": 1 }]), "created once, and done twice");
    assert_eq!(room.document("f").await[1], n(4));
    lane.put(&[("e", Json::Null), ("e", n(5)), ("e", n(6))]).await;
    assert_eq!(room.document("e").await[1], n(5));
}

#[tokio::test]
async fn a_bad_row_is_refused_alone() {
    let room = Room::new(strict()).await;
    let mut lane = room.lane(|_| {}).await;
    let check = async |lane: &mut TestLane, value: Json, says: &str| {
        let rows = lane.rows(&[("before", json!({"n": 1})), ("bad", value), ("after", json!({"n": 2}))]);
        let refused = lane.settle(rows).await;
        assert!(
            matches!(&refused[..], [(key, why)] if key == "bad" && why.contains(says)),
            "{says}: {refused:?}"
        );
        assert_eq!((room.document("bad").await, room.document("after").await.is_null()), (Json::Null, false));
    };
    check(&mut lane, json!({"n": "no number"}), "mapper_parsing_exception").await;
    check(&mut lane, json!({"t": "no time"}), "no time").await;
    check(&mut lane, json!({"unknown": 1}), "strict_dynamic_mapping_exception").await;
    let mut by_value = room.lane(|c| c.index = Template::new("{{ .s }}", None).expect("a template")).await;
    let good = room.index.clone();
    let rows = by_value.rows(&[("x", json!({"s": good})), ("y", json!({"s": "<no{math>"}))]);
    let refused = by_value.settle(rows).await;
    assert!(matches!(&refused[..], [(key, _)] if key == "y"), "{refused:?}");
    assert!(!room.document("x").await.is_null());
}

#[tokio::test]
async fn one_two_and_999_bad_rows_of_1000_are_refused_and_the_others_are_there() {
    for bad in [1usize, 2, 999] {
        let room = Room::new(strict()).await;
        let mut lane = room.lane(|_| {}).await;
        let is_bad = |n: usize| if bad == 999 { n != 500 } else { n % 500 < bad && n < 500 };
        let row = |n: usize| {
            let value = if is_bad(n) { json!({"n": "bad"}) } else { json!({ "n": n }) };
            lane.row(n, &format!("k{n:03}"), value)
        };
        let rows: Vec<_> = (0..1000).map(row).collect();
        let refused = lane.settle(rows).await;
        let expected: Vec<String> = (0..1000).filter(|n| is_bad(*n)).map(|n| format!("k{n:03}")).collect();
        assert_eq!(expected.len(), bad);
        assert_eq!(refused.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), expected);
        assert_eq!(room.count().await, 1000 - bad as i64);
    }
}

#[tokio::test]
async fn an_index_that_is_closed_to_writers_makes_rows_wait() {
    let room = Room::new(strict()).await;
    let mut lane = room.lane(|_| {}).await;
    room.put("/_settings", json!({"index.blocks.write": true})).await;
    let rows = lane.rows(&[("a", json!({"n": 1}))]);
    let (answers, result) = lane.deliver(&rows).await;
    assert_eq!(answers, [None]);
    assert!(
        matches!(&result, Err(SinkError::Retry { message, .. }) if message.contains("cluster_block")),
        "{result:?}"
    );
    room.put("/_settings", json!({"index.blocks.write": false})).await;
    assert_eq!(lane.settle(rows).await, []);
    assert_eq!(room.document("a").await[1], json!({"n": 1}));
}

#[tokio::test]
async fn an_index_that_is_not_there_stops_the_sink_or_refuses_the_row_that_names_it() {
    let server = OwnServer::opensearch(&["action.auto_create_index=false", "http.max_content_length=200kb"]);
    let room = Room::at(&server.address, strict()).await;
    let mut lane = TestLane::new(SinkConfig::Elasticsearch(config(&server.address, "missing"))).await;
    let rows = lane.rows(&[("a", json!({"n": 1}))]);
    let (_, result) = lane.deliver(&rows).await;
    assert!(
        matches!(&result, Err(SinkError::Config { message, .. }) if message.contains("index_not_found")),
        "{result:?}"
    );
    let mut by_value = room.lane(|c| c.index = Template::new("{{ .s }}", None).expect("a template")).await;
    let rows = by_value.rows(&[("a", json!({"s": room.index})), ("b", json!({"s": "missing"}))]);
    let refused = by_value.settle(rows).await;
    assert!(matches!(&refused[..], [(key, _)] if key == "b"), "{refused:?}");

    // 413: more than the server takes at a time is sent in parts, and what is too large by itself is refused.
    let mut lane = room.lane(|c| c.compress = false).await;
    let row = |n: usize| {
        lane.row(n, &format!("l{n}"), json!({ "s": "x".repeat(if n == 7 { 300_000 } else { 5_000 }) }))
    };
    let rows: Vec<_> = (0..100).map(row).collect();
    let refused = lane.settle(rows).await;
    assert!(matches!(&refused[..], [(key, why)] if key == "l7" && why.contains("413")), "{refused:?}");
    assert_eq!(room.count().await, 1 + 99);
}

/// Whole requests of 429: `indexing_pressure` counts about twice the bytes of a body.
#[tokio::test]
async fn a_server_with_too_much_to_do_gets_less_until_all_is_written() {
    let server = OwnServer::opensearch(&["indexing_pressure.memory.limit=20kb"]);
    let room = Room::at(&server.address, strict()).await;
    let mut lane = room.lane(|_| {}).await;
    let rows: Vec<_> =
        (0..1000).map(|n| lane.row(n, &format!("k{n}"), json!({"s": "x".repeat(100)}))).collect();
    let (answers, result) = lane.deliver(&rows).await;
    assert!(
        matches!(&result, Err(SinkError::Retry { message, .. }) if message.contains("429")),
        "{result:?}"
    );
    assert!(answers.iter().all(Option::is_none), "the whole request");
    assert_eq!(lane.settle(rows).await, []);
    assert_eq!(room.count().await, 1000);
}

/// HTTP 200 in which rows have 429: one thread with a queue of one, and six lanes that write to three shards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_busy_server_puts_off_are_written_later_and_only_they() {
    let server = OwnServer::opensearch(&["thread_pool.write.size=1", "thread_pool.write.queue_size=1"]);
    let room = Room::at(&server.address, json!({"settings": {"number_of_shards": 3}})).await;
    let put_off = Arc::new(AtomicUsize::new(0));
    let lanes = (0..6).map(|n| {
        let (config, put_off) = (room.config(), Arc::clone(&put_off));
        tokio::spawn(async move {
            let mut lane = TestLane::new(SinkConfig::Elasticsearch(config)).await;
            let row = |i: usize| lane.row(i, &format!("{n}-{i}"), json!({"n": i, "s": "x".repeat(200)}));
            let mut left: Vec<_> = (0..300).map(row).collect();
            for _ in 0..1000 {
                let (answers, result) = lane.deliver(&left).await;
                let answered = answers.iter().filter(|a| **a == Some(Answer::Written)).count();
                match result {
                    Ok(()) => return,
                    Err(SinkError::Retry { message, .. }) if message.contains("429") => {
                        put_off.fetch_add(left.len() - answered, Ordering::Relaxed);
                    }
                    Err(other) => panic!("{other:?}"),
                }
                let kept = left.into_iter().zip(answers).filter(|(_, answer)| answer.is_none());
                left = kept.map(|(row, _)| row).collect();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("never done");
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.expect("a lane ends");
    }
    assert!(put_off.load(Ordering::Relaxed) > 0, "the server was never busy: the test shows nothing");
    assert_eq!(room.count().await, 1800);
}

#[tokio::test]
async fn a_server_that_is_killed_stops_or_freezes_is_a_retry_until_it_is_back() {
    let server = OwnServer::opensearch(&[]);
    let room = Room::at(&server.address, strict()).await;
    let mut lane = room.lane(|c| c.timeout = Millis(700)).await;
    lane.put(&[("a", json!({"n": 0}))]).await;
    for (n, (how, back)) in [("kill", "resume"), ("freeze", "thaw")].into_iter().enumerate() {
        let rows = lane.rows(&[("a", json!({ "n": n + 1 }))]);
        if how == "freeze" {
            server.freeze()
        } else {
            server.act(how)
        }
        for _ in 0..2 {
            let began = Instant::now();
            let (answers, result) = lane.deliver(&rows).await;
            assert!(matches!(result, Err(SinkError::Retry { .. })), "{how}: {result:?}");
            assert_eq!((answers, began.elapsed() < Duration::from_secs(6)), (vec![None], true), "{how}");
        }
        let sink = connected(&lane.config).await.expect("connects while the server is away");
        assert!(matches!(sink.reach().await, Err(SinkError::Retry { .. })), "{how}");
        if back == "thaw" {
            server.thaw()
        } else {
            server.act(back)
        }
        assert_eq!(lane.settle(rows).await, [], "{back}");
        assert_eq!(room.document("a").await[1], json!({ "n": n + 1 }), "{back}");
        assert_eq!(connected(&lane.config).await.expect("connects").reach().await, Ok(()), "{back}");
    }
}

/// A server that answers each request with the next of these texts, as they are; then it says nothing any more. The heads of
/// the requests.
fn stub(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("has one"));
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let (mut text, mut byte) = (Vec::new(), [0]);
            while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                text.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&text).to_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let mut body = vec![0; length.and_then(|n| n.parse().ok()).unwrap_or(0)];
            drop(stream.read_exact(&mut body));
            seen.lock().expect("is whole").push(head);
            // Slowly, a part at a time.
            for part in answer.as_bytes().chunks(answer.len().max(4) / 4) {
                drop(stream.write_all(part));
                thread::park_timeout(Duration::from_millis(20));
            }
        }
    });
    (address, heads)
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_cut_answer_says_nothing_of_the_rows_it_does_not_name() {
    let two = r#"{"items":[{"index":{"status":201}},{"index":{"status":201}},{"index":{"status":201}}]}"#;
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", two.len(), &two[..40]);
    let fewer = r#"{"items":[{"index":{"status":201}},{"index":{"status":429,"error":{"type":"es_rejected_execution_exception"}}}]}"#;
    let answers = vec![
        cut,
        http("200 OK", "", "<html>"),
        String::new(),
        http("200 OK", "", fewer),
        http("200 OK", "", two),
    ];
    let (address, _) = stub(answers);
    let mut lane = TestLane::new(SinkConfig::Elasticsearch(config(&address, "i"))).await;
    let rows = lane.rows(&[("a", json!({})), ("b", json!({})), ("c", json!({}))]);
    for what in ["cut", "no JSON", "closed"] {
        let (answers, result) = lane.deliver(&rows).await;
        assert!(matches!(result, Err(SinkError::Retry { .. })), "{what}: {result:?}");
        assert_eq!(answers, [None, None, None], "{what}");
        lane = TestLane::new(lane.config).await;
    }
    let (answers, result) = lane.deliver(&rows).await;
    assert!(
        matches!(&result, Err(SinkError::Retry { message, .. }) if message.contains("fewer")),
        "{result:?}"
    );
    assert_eq!(answers, [Some(Answer::Written), None, None]);
}

#[tokio::test]
async fn what_a_proxy_or_the_security_says_is_understood() {
    let denied = r#"{"error":{"type":"security_exception","reason":"no permissions"},"status":403}"#;
    let answers = vec![
        http("429 Too Many Requests", "retry-after: 2\r\n", ""),
        http("503 Service Unavailable", "retry-after: 999999\r\n", ""),
        http("401 Unauthorized", "", ""),
        http("403 Forbidden", "", denied),
        http("404 Not Found", "", "no such page"),
        http("302 Found", "location: /login\r\n", ""),
    ];
    let (address, heads) = stub(answers);
    let mut config = config(&format!("{address}/es/"), "i");
    config.user = Some("elastic".into());
    config.password = Some("s3cret".into());
    config.headers.insert("x-tenant".into(), "t1".into());
    let mut lane = TestLane::new(SinkConfig::Elasticsearch(config)).await;
    let rows = lane.rows(&[("a", json!({}))]);
    for seconds in [2, 300] {
        let (_, result) = lane.deliver(&rows).await;
        let Err(SinkError::Retry { after, .. }) = result else { panic!("{result:?}") };
        assert_eq!(after, Some(Duration::from_secs(seconds)), "obeyed, within bounds");
    }
    for what in ["401", "security_exception", "404", "302"] {
        let (_, result) = lane.deliver(&rows).await;
        assert!(
            matches!(&result, Err(SinkError::Config { message, .. }) if message.contains(what)),
            "{result:?}"
        );
    }
    let heads = heads.lock().expect("is whole");
    assert!(heads[0].starts_with("post /es/_bulk?filter_path=error,status,items.*.status,"), "{}", heads[0]);
    // base64 of elastic:s3cret, in small letters as the head is here
    let login = "authorization: basic zwxhc3rpyzpzm2nyzxq=";
    for part in [login, "x-tenant: t1", "content-encoding: gzip", "content-type: application/x-ndjson"] {
        assert!(heads[0].contains(part), "{part}: {}", heads[0]);
    }
}

const INDEXER: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}" }
sources:
  users: { kafka: { topic: NAME.users } }
sinks:
  index:
    from: users
    elasticsearch: { url: "${OPENSEARCH_URL}", index: INDEX, version: .n, timeout: 2s, batch: { max_rows: 200 } }
errors: { dead_letter: { topic: NAME.dlq } }
"#;

/// A stop in the middle of everything, of the instance and of the server: the dead letter holds exactly the bad rows.
#[test]
fn whatever_is_killed_every_document_is_there_and_only_the_bad_rows_are_not() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let server = OwnServer::opensearch(&[]);
    let room = runtime.block_on(Room::at(&server.address, strict()));
    let text = INDEXER.replace("INDEX", &room.index);
    let stage = Stage::new("indexer", &[("users", 1), ("dlq", 1)], &text);
    let start = |id: &str| {
        let mut command = stage.command();
        command.env("OPENSEARCH_URL", &server.address);
        crate::common::Instance::spawn(command, &stage.yaml, id, &[])
    };
    let send = |from: usize, to: usize| {
        let value = |n: usize| match n % 1000 {
            7 => json!({ "n": n, "t": "no time" }),
            _ => json!({ "n": n, "s": "x" }),
        };
        stage.send("users", (from..to).map(|n| (format!("k{n:05}"), value(n))));
    };
    // Down from the start: the instance runs, and waits.
    server.act("kill");
    let mut first = start("a");
    first.wait_ready(Duration::from_secs(60));
    send(0, 3000);
    server.act("resume");
    wait("something is written", Duration::from_secs(60), || runtime.block_on(room.count()) > 0);
    first.child.kill().expect("is killed");
    first.child.wait().expect("is gone");
    send(3000, 6000);
    let mut second = start("a");
    second.wait_ready(Duration::from_secs(60));
    server.act("kill");
    send(6000, 8000);
    server.act("resume");
    wait("all are there", Duration::from_secs(120), || runtime.block_on(room.count()) == 7992);
    let mut dead = Vec::new();
    wait("the bad rows are in the dead letter", Duration::from_secs(60), || {
        dead = stage
            .read("dlq")
            .unwrap_or_default()
            .iter()
            .map(|(k, _)| String::from_utf8_lossy(k).into_owned())
            .collect();
        dead.sort();
        dead.dedup();
        dead.len() >= 8
    });
    let bad: Vec<String> = (0..8).map(|n| format!("k{:05}", n * 1000 + 7)).collect();
    assert_eq!(dead, bad);
    assert_eq!(runtime.block_on(room.document("k07999")), json!([7999, { "n": 7999, "s": "x" }]));
}

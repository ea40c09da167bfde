//! Avro and Protobuf with a real schema registry and a real Kafka, through the real binary:
//! `KAFKA_BROKERS=... SCHEMA_REGISTRY_URL=... cargo test --test live formats_registry` (`./test` sets both).
//!
//! What is read was written by others: fastavro and Google's protobuf for Python made `fixtures/registry/fixtures.json`
//! (`make.py` there). What is written is compared with their bytes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{Instance, OwnServer, Stage, wait};
use serde_json::{Value as Json, json};

const LONG: Duration = Duration::from_secs(60);
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/registry");

fn registry() -> String {
    std::env::var("SCHEMA_REGISTRY_URL").expect(
        "SCHEMA_REGISTRY_URL is not set: start a registry with `scripts/registry.sh start DIR` and export what it prints",
    )
}

fn fixture(name: &str) -> Vec<u8> {
    let all: Json = serde_json::from_str(include_str!("../fixtures/registry/fixtures.json")).unwrap();
    let hex = all[name].as_str().unwrap_or_else(|| panic!("{name} is a fixture"));
    (0..hex.len()).step_by(2).map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap()).collect()
}

fn schema_text(file: &str) -> String {
    std::fs::read_to_string(Path::new(FIXTURES).join(file)).unwrap()
}

/// Confluent's header before the data.
fn framed(id: u64, data: &[u8]) -> Vec<u8> {
    [&[0], u32::try_from(id).unwrap().to_be_bytes().as_slice(), data].concat()
}

/// A stage with a schema registry.
struct Desk {
    stage: Stage,
    registry: String,
    http: reqwest::Client,
}

impl Desk {
    /// `NAME` in the text is the test's own name, `FIXTURES` the folder of schemas.
    fn new(text: &str, topics: &[&str], registry: String) -> Desk {
        let topics: Vec<(&str, i32)> = topics.iter().map(|t| (*t, 1)).collect();
        let stage = Stage::new("formats", &topics, &text.replace("FIXTURES", FIXTURES));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Desk { stage, registry, http }
    }

    fn command(&self) -> Command {
        let mut command = self.stage.command();
        command.env("SCHEMA_REGISTRY_URL", &self.registry);
        command
    }

    fn start(&self) -> Instance {
        Instance::spawn(self.command(), &self.stage.yaml, "one", &[])
    }

    /// Registers a schema; its id.
    fn register(&self, subject: &str, kind: &str, file: &str) -> u64 {
        let body = json!({ "schema": schema_text(file), "schemaType": kind }).to_string();
        let url = format!("{}/subjects/{subject}/versions", self.registry);
        self.stage.runtime.block_on(async {
            let answer =
                self.http.post(url).header("content-type", "application/json").body(body).send().await;
            let answer: Json = serde_json::from_slice(&answer.unwrap().bytes().await.unwrap()).unwrap();
            answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))
        })
    }

    /// A subject's latest version.
    fn latest(&self, subject: &str) -> Json {
        let url = format!("{}/subjects/{subject}/versions/latest", self.registry);
        self.stage.runtime.block_on(async {
            let answer = self.http.get(url).send().await.unwrap();
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
        })
    }

    /// Keys and values of a topic, as far as it is shown yet.
    fn read(&self, topic: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.stage.read(topic).unwrap_or_default();
        rows.iter().map(|(k, v)| (k.to_vec(), v.as_ref().map(|v| v.to_vec()).unwrap_or_default())).collect()
    }

    fn wait_for(&self, topic: &str, count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        wait(&format!("{count} records in {topic}"), LONG, || {
            found = self.read(topic);
            found.len() >= count
        });
        assert_eq!(found.len(), count);
        found
    }
}

const SHOP: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}", session_timeout: 6s }
schema_registry: { url: "${SCHEMA_REGISTRY_URL}" }
state: { checkpoint: 100ms }
sources:
  orders:
    kafka:
      topic: NAME.orders
      format: avro
      key_format: long
      reader_schema: { file: FIXTURES/order_v2.avsc }
operators:
  paid: { from: orders, filter: .status == "PAID" }
  slim: { from: paid, map: '{ "id": .id, "amount": .amount, "day": .day, "at": .at, "tier": .tier }' }
  totals:
    from: paid
    aggregate: { by: .customer, fields: { orders: count(), sum: 'sum(.lines[1].price)', last: last(.customer) } }
sinks:
  slim: { from: slim, kafka: { topic: NAME.paid, format: avro, key_format: long } }
  totals:
    from: totals
    kafka:
      topic: NAME.totals
      format: protobuf
      value: '{ "customer": .last, "orders": .orders, "sum": .sum }'
      writer_schema: { file: FIXTURES/total.proto, message: Total, auto_register: true }
errors: { dead_letter: { topic: NAME.dlq } }
"#;

/// Sinks and operators share names nowhere: the sink of `slim` needs its own.
fn shop() -> String {
    SHOP.replace("sinks:\n  slim: {", "sinks:\n  paid-out: {")
        .replace("  totals:\n    from: totals", "  totals-out:\n    from: totals")
}

#[test]
fn avro_in_avro_and_protobuf_out_as_others_write_them() {
    let desk = Desk::new(&shop(), &["orders", "paid", "totals", "dlq"], registry());
    let orders = format!("{}.orders-value", desk.stage.name);
    let v1 = desk.register(&orders, "AVRO", "order_v1.avsc");
    let paid = desk.register(&format!("{}.paid-value", desk.stage.name), "AVRO", "paid.avsc");
    let mut one = desk.start();
    one.wait_ready(LONG);
    let key = |n: i64| n.to_be_bytes();
    desk.stage.send_bytes(
        "orders",
        &[
            (&key(1), &framed(v1, &fixture("order_v1_1"))),
            (&key(3), &framed(v1, &fixture("order_v1_3_new"))),
            // Not Avro, an unknown id, a key that is no long, data that ends too early.
            (&key(9), b"{\"id\":1}"),
            (&key(8), &framed(1_999_999, &fixture("order_v1_1"))),
            (b"text", &framed(v1, &fixture("order_v1_1"))),
            (&key(7), &framed(v1, &[2])),
        ],
    );
    // The schema goes on while the topology runs.
    let v2 = desk.register(&orders, "AVRO", "order_v2.avsc");
    assert_ne!(v1, v2);
    desk.stage.send_bytes("orders", &[(&key(2), &framed(v2, &fixture("order_v2_2_gold")))]);

    let written = desk.wait_for("paid", 2);
    assert_eq!(
        written[0],
        (key(1).to_vec(), framed(paid, &fixture("paid_1"))),
        "the reader's default is there"
    );
    assert_eq!(written[1], (key(2).to_vec(), framed(paid, &fixture("paid_2"))));

    let totals = desk.wait_for("totals", 2);
    let registered = desk.latest(&format!("{}.totals-value", desk.stage.name));
    assert_eq!(registered["schemaType"], json!("PROTOBUF"), "{registered}");
    let id = registered["id"].as_u64().unwrap();
    // Total is the second message of the file: one index, 1, in zigzag.
    let total = |name: &str| framed(id, &[&[2, 2], fixture(name).as_slice()].concat());
    let sums: Vec<Vec<u8>> = totals.iter().map(|(_, value)| value.clone()).collect();
    assert_eq!(totals[0].0, b"ann");
    assert_eq!(sums, [total("total_a"), total("total_b")]);

    let refused = desk.wait_for("dlq", 4);
    let values: Vec<&[u8]> = refused.iter().map(|(_, value)| value.as_slice()).collect();
    assert_eq!(values[0], b"{\"id\":1}", "the bytes as they came");
    assert_eq!(values[1], framed(1_999_999, &fixture("order_v1_1")));
    assert_eq!(
        (refused[2].0.as_slice(), values[2]),
        (b"text".as_slice(), framed(v1, &fixture("order_v1_1")).as_slice())
    );
    assert_eq!(values[3], framed(v1, &[2]));
    assert_eq!(one.metric("slackwater_records_dropped_total", "reason=\"bad_format\""), 4.0);
    assert_eq!(
        one.metric("slackwater_schema_lookups_total", "result=\"found\""),
        2.0,
        "an id is asked for once"
    );
    assert_eq!(one.metric("slackwater_schema_lookups_total", "result=\"unknown\""), 1.0);
    assert_eq!(one.stop(LONG), 0);
}

const PASS: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}", session_timeout: 6s }
schema_registry: { url: "${SCHEMA_REGISTRY_URL}", timeout: 1s }
state: { checkpoint: 100ms }
sources:
  totals: { kafka: { topic: NAME.totals, format: protobuf } }
  plain: { kafka: { topic: NAME.plain, format: long } }
sinks:
  json: { from: totals, kafka: { topic: NAME.json } }
  text: { from: plain, kafka: { topic: NAME.text, format: string } }
  again:
    from: totals
    kafka:
      topic: NAME.again
      format: protobuf
      writer_schema: { file: FIXTURES/total.proto, message: shop.Total, auto_register: true }
errors: { dead_letter: { topic: NAME.dlq } }
"#;

#[test]
fn a_registry_that_is_away_holds_back_what_needs_it_and_nothing_else() {
    let server = OwnServer::registry();
    let topics = ["totals", "plain", "json", "text", "again", "dlq"];
    let desk = Desk::new(PASS, &topics, server.address.clone());
    server.act("stop");
    let mut one = desk.start();
    wait("it says what it waits for", LONG, || {
        let (status, body) = one.get("/ready");
        status == 503 && body.contains("schema registry")
    });
    server.act("resume");
    one.wait_ready(LONG);
    let id = desk.register(&format!("{}.totals-value", desk.stage.name), "PROTOBUF", "total.proto");

    // Frozen while an id is unknown: the record waits, another topic goes on.
    server.freeze();
    let data = [&[2, 2], fixture("total_full").as_slice()].concat();
    desk.stage.send_bytes("totals", &[(b"bob", &framed(id, &data))]);
    desk.stage.send_bytes("plain", &[(b"k", &42i64.to_be_bytes())]);
    assert_eq!(desk.wait_for("text", 1), [(b"k".to_vec(), b"42".to_vec())]);
    wait("it says what it waits for", LONG, || {
        let (status, body) = one.get("/ready");
        status == 503 && body.contains("schema registry")
    });
    assert_eq!(one.metric("slackwater_schemas_waiting", ""), 1.0);
    assert!(desk.read("json").is_empty());
    server.thaw();

    let read = desk.wait_for("json", 1);
    let value: Json = serde_json::from_slice(&read[0].1).unwrap();
    let expected = json!({
        "customer": "bob", "orders": 7, "sum": 0.5, "last_at": "2024-01-02T03:04:05.500Z", "note": "",
        "lines": [{ "sku": "a", "price": 1.5 }]
    });
    assert_eq!(value, expected);
    let again = desk.wait_for("again", 1);
    assert_eq!(again[0].1[5..], data, "the bytes that Google's protobuf wrote");
    one.wait_ready(LONG);
    assert_eq!(one.metric("slackwater_schemas_waiting", ""), 0.0);
    assert!(desk.read("dlq").is_empty());
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn a_sink_whose_schema_is_not_registered_does_not_start() {
    let desk = Desk::new(&shop(), &["orders", "paid", "totals", "dlq"], registry());
    let out =
        desk.command().args(["check", "--connect", desk.stage.yaml.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(78), "{text}");
    assert!(text.contains("the registry has no schema there"), "{text}");
    let out = desk
        .command()
        .args(["run", desk.stage.yaml.to_str().unwrap(), "--admin", "127.0.0.1:0", "--state-dir"])
        .arg(desk.stage.dir.path().join("state"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(78), "{text}");
    assert!(text.contains(".paid-value") && text.contains("register one"), "{text}");
}

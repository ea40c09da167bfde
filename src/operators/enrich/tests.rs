//! The operator on its own: records and answers go in, and what comes out is compared as text.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::clients::http::judge;
use crate::operators::{Effects, Emit, Tally};
use crate::state::{Backend, MemoryBackend, Store};

/// One node of one task, its calls and its state; answers are given by hand.
struct Bench {
    config: EnrichConfig,
    backend: Arc<MemoryBackend>,
    stores: Vec<Store>,
    node: Enrich,
    now: Timestamp,
    clock: Timestamp,
    /// What came out since it was last read, as text.
    log: Vec<String>,
    tally: Tally,
}

fn config(more: Json) -> EnrichConfig {
    let mut all = json!({"http": {"get": "http://api/accounts/{{ key }}"}, "into": ".account"});
    let (Json::Object(all), Json::Object(more)) = (&mut all, more) else { panic!("objects") };
    all.extend(more);
    all["http"] = config::spelled(all["http"].take());
    serde_json::from_value(Json::Object(all.clone())).expect("is a config")
}

fn ok(body: &str) -> Reply {
    judge(200, None, body.as_bytes())
}

fn status(status: u16, retry_after: Option<i64>) -> Reply {
    judge(status, retry_after.map(Millis), b"no")
}

impl Bench {
    fn new(more: Json) -> Bench {
        let config = config(more);
        let backend = Arc::new(MemoryBackend::default());
        let mut bench = Bench {
            node: Enrich::new(config.clone()).expect("is valid"),
            stores: vec![Store::new("n", Arc::clone(&backend) as Arc<dyn Backend>)],
            config,
            backend,
            now: Timestamp(0),
            clock: Timestamp(0),
            log: Vec::new(),
            tally: Tally::default(),
        };
        bench.run(|node, cx| node.open(cx).expect("opens"));
        bench.watermark(0);
        bench.expect(&["clock 0"]);
        bench
    }

    fn run(&mut self, f: impl FnOnce(&mut Enrich, &mut Cx<'_>)) {
        let mut effects = Effects::default();
        let mut cx = Cx::new(self.now, self.clock, 0, &mut self.stores, &[0], &mut effects, &mut self.tally);
        f(&mut self.node, &mut cx);
        for reject in effects.rejects {
            let key = show(reject.record.key.as_ref());
            let (reason, times) = (reject.reason.name(), reject.attempts);
            self.log.push(format!("reject {key} {reason} x{times}: {}", reject.detail));
        }
        for emit in effects.emits {
            self.log.push(match emit {
                Emit::Record { record, stream, .. } => {
                    format!("{} {} @{}", show(record.key.as_ref()), record.value.show(), stream.0)
                }
                Emit::Watermark(stream) => format!("clock {}", stream.0),
            });
        }
        for call in effects.calls {
            self.log.push(format!("call {} {} x{}", call.id, show(call.key.as_ref()), call.attempt));
        }
    }

    fn send(&mut self, key: &str, ts: i64) {
        self.send_value(Some(key), Value::from(json!({"n": ts})), ts);
    }

    fn send_value(&mut self, key: Option<&str>, value: Value, ts: i64) {
        let mut record = Record::new(key.unwrap_or_default().to_owned(), value, Timestamp(ts));
        if key.is_none() {
            record.key = None;
        }
        self.clock = self.clock.max(record.ts);
        let mut refused = None;
        self.run(|node, cx| match node.on_record(record, cx) {
            Ok(()) => {}
            Err(OperatorError::Reject(reject)) => refused = Some(reject),
            Err(OperatorError::Fatal(e)) => panic!("{e}"),
        });
        if let Some(r) = refused {
            let key = show(r.record.key.as_ref());
            self.log.push(format!("reject {key} {} x{}: {}", r.reason.name(), r.attempts, r.detail));
        }
    }

    fn reply(&mut self, call: u64, reply: Reply) {
        self.run(|node, cx| node.on_reply(call, reply, cx).expect("replies are no errors"));
    }

    fn watermark(&mut self, ts: i64) {
        self.clock = self.clock.max(Timestamp(ts));
        self.run(|node, cx| node.on_watermark(cx));
    }

    fn advance_to(&mut self, now: i64) {
        while let Some(at) = self.node.wall_deadline().filter(|at| at.0 <= now) {
            self.now = self.now.max(at);
            self.run(|node, cx| node.on_wall(cx).expect("the wall clock is no error"));
        }
        self.now = Timestamp(now);
    }

    /// The epoch ends and is applied.
    fn checkpoint(&mut self) {
        let mut rows = Vec::new();
        for store in &mut self.stores {
            store.seal(&mut rows);
        }
        self.backend.write(&rows).expect("writes");
        for store in &mut self.stores {
            store.applied();
        }
    }

    /// What was in no checkpoint is lost; the task starts again, with these settings.
    fn crash(&mut self) {
        self.stores = vec![Store::new("n", Arc::clone(&self.backend) as Arc<dyn Backend>)];
        self.node = Enrich::new(self.config.clone()).expect("is valid");
        self.log.push("crash".into());
        self.run(|node, cx| node.open(cx).expect("opens"));
    }

    #[track_caller]
    fn expect(&mut self, expected: &[&str]) {
        let got = std::mem::take(&mut self.log);
        assert_eq!(got, expected);
    }
}

fn show(key: Option<&Bytes>) -> String {
    key.map_or("-".into(), |k| String::from_utf8_lossy(k).into_owned())
}

#[test]
fn keys_run_in_parallel_and_one_key_in_order() {
    let mut b = Bench::new(json!({}));
    for (key, ts) in [("a", 1), ("b", 2), ("a", 3), ("a", 4)] {
        b.send(key, ts);
    }
    b.expect(&["call 0 a x1", "call 1 b x1"]);
    b.reply(1, ok("\"B\""));
    b.expect(&[r#"b {"n":2,"account":"B"} @0"#]);
    b.reply(0, ok("{\"s\":1}"));
    b.expect(&[r#"a {"n":1,"account":{"s":1}} @1"#, "clock 2", "call 2 a x1"]);
    b.reply(2, ok("2"));
    b.expect(&[r#"a {"n":3,"account":2} @3"#, "call 3 a x1"]);
    b.reply(3, ok(""));
    b.expect(&[r#"a {"n":4,"account":null} @4"#]);
    assert_eq!((b.node.load(), b.tally.counted(&RETRIES)), (Load::default(), 0));
    b.checkpoint();
    assert_eq!(b.backend.snapshot(), [], "a call that came and went leaves no row");
}

#[test]
fn records_without_a_key_wait_for_nobody() {
    let mut b = Bench::new(json!({"http": {"get": "http://api/x?n={{ .n }}"}}));
    b.send_value(None, Value::from(json!({"n": 1})), 1);
    b.send_value(None, Value::from(json!({"n": 2})), 2);
    b.expect(&["call 0 - x1", "call 1 - x1"]);
}

#[test]
fn calls_in_flight_are_bounded_and_the_oldest_goes_first() {
    let mut b =
        Bench::new(json!({"calls_in_flight_max": 2, "calls_pending_max": 3, "retry": {"base": "0ms"}}));
    b.send("a", 1);
    b.send("b", 2);
    b.send("c", 3);
    b.expect(&["call 0 a x1", "call 1 b x1"]);
    assert!(b.node.load().full);
    assert_eq!((b.node.load().keys, b.node.load().calls), (3, 3));
    b.reply(0, status(500, None));
    b.expect(&["call 2 c x1"]);
    b.advance_to(0);
    b.expect(&[]);
    b.reply(2, ok("1"));
    b.expect(&[r#"c {"n":3,"account":1} @0"#, "call 0 a x2"]);
    assert!(!b.node.load().full);
}

#[test]
fn what_cannot_take_the_answer_is_refused_before_the_call() {
    let bytes = |text: &str| Value::Bytes(Bytes::from(text.to_owned()));
    let check = |value: Value, into: &str, expected: &str| {
        let mut b = Bench::new(json!({"into": into}));
        b.send_value(Some("k"), value, 1);
        let line = b.log.concat();
        assert!(line.starts_with(expected), "{line}");
        assert_eq!(b.node.load().calls, usize::from(expected.starts_with("call")));
    };
    check(bytes("{"), ".account", "reject k not_json x1: the value is not JSON");
    check(bytes("3"), ".account", "reject k not_json x1: `.account` cannot be set");
    check(bytes("null"), ".account", "reject k not_json x1");
    check(bytes("[1]"), ".account", "reject k not_json x1");
    check(bytes("{\"a\":1}"), ".a.b", "reject k not_json x1");
    check(bytes("{\"a\":1}"), ".a", "call 0");
    check(bytes("{\"a\":null}"), ".a.b", "call 0");
    check(bytes("{"), ".", "call 0");
    check(Value::Null, ".account", "call 0");
}

#[test]
fn a_tombstone_becomes_an_object_and_a_dot_replaces_the_value() {
    let mut b = Bench::new(json!({}));
    b.send_value(Some("k"), Value::Null, 1);
    b.reply(0, ok("7"));
    b.expect(&["call 0 k x1", r#"k {"account":7} @1"#]);
    let mut b = Bench::new(json!({"into": "."}));
    b.send_value(Some("k"), Value::Bytes(Bytes::from("x")), 1);
    b.reply(0, ok("[7]"));
    b.expect(&["call 0 k x1", "k [7] @1"]);
}

#[test]
fn an_expression_that_fails_and_a_url_that_leads_elsewhere_are_refused() {
    let mut b = Bench::new(json!({"http": {"get": "http://api/{{ .id }}"}}));
    b.send("k", 1);
    b.expect(&["reject k expression x1: `{{ .id }}` gave null, no text"]);
    let mut b = Bench::new(json!({}));
    b.send("..", 1);
    b.expect(&[
        "reject .. expression x1: `http://api/accounts/..` would call another path: a part of it is empty, `.` or `..`",
    ]);
}

#[test]
fn answers_by_status() {
    let check = |reply: Reply, expected: &str| {
        let mut b = Bench::new(json!({"retry": {"max_attempts": 1}}));
        b.send("k", 1);
        b.log.clear();
        b.reply(0, reply);
        assert!(b.log[0].starts_with(expected), "{:?}", b.log);
        assert_eq!(b.node.load().calls, 0);
    };
    check(ok("{\"a\":1}"), r#"k {"n":1,"account":{"a":1}} @1"#);
    check(judge(204, None, b""), r#"k {"n":1,"account":null} @1"#);
    check(ok("<html>"), "reject k refused x1: status 200, but the body is no JSON (");
    for code in [400, 404, 409, 410, 422] {
        check(status(code, None), &format!("reject k refused x1: status {code}: no"));
    }
    check(status(301, None), "reject k refused x1: status 301: redirects are not followed");
    for code in [408, 425, 429, 500, 502, 503, 504, 599] {
        let says = format!("reject k exhausted x1: gave up after attempt 1: status {code}: no");
        check(status(code, None), &says);
    }
    for code in [401, 403] {
        let says = "the API does not accept who calls it: no";
        check(
            status(code, None),
            &format!("reject k exhausted x1: gave up after attempt 1: status {code}, {says}"),
        );
    }
    let failed = Reply::Again { message: "timeout".into(), after: None };
    check(failed, "reject k exhausted x1: gave up after attempt 1: timeout");
    let refused = Reply::Refused { message: "the body is larger than 1MiB".into() };
    check(refused, "reject k refused x1: the body is larger than 1MiB");
}

#[test]
fn retries_wait_by_the_wall_clock_and_their_number_is_bounded() {
    let mut b = Bench::new(json!({"retry": {"max_attempts": 3}}));
    b.send("a", 1);
    b.send("a", 2);
    b.expect(&["call 0 a x1"]);
    b.reply(0, status(503, None));
    b.expect(&[]);
    let first = b.node.wall_deadline().expect("a retry waits");
    assert_eq!(first, Timestamp(b.config.retry.delay(b"a", 1, None).0), "hash of key and attempt");
    b.advance_to(100);
    b.expect(&["call 0 a x2"]);
    b.reply(0, Reply::Again { message: "timeout after 5s".into(), after: None });
    b.advance_to(300);
    b.expect(&["call 0 a x3"]);
    b.reply(0, status(500, None));
    b.expect(&["reject a exhausted x3: gave up after attempt 3: status 500: no", "clock 1", "call 1 a x1"]);
    assert_eq!(b.tally.counted(&RETRIES), 2);
}

#[test]
fn retry_after_is_obeyed() {
    let mut b = Bench::new(json!({}));
    b.send("a", 1);
    b.log.clear();
    b.reply(0, status(429, Some(2000)));
    b.advance_to(1999);
    b.expect(&[]);
    b.advance_to(2000);
    b.expect(&["call 0 a x2"]);
}

#[test]
fn after_a_404_the_keys_next_call_goes_on() {
    let mut b = Bench::new(json!({}));
    b.send("a", 1);
    b.send("a", 2);
    b.reply(0, status(404, None));
    b.expect(&["call 0 a x1", "reject a refused x1: status 404: no", "clock 1", "call 1 a x1"]);
    b.reply(1, ok("1"));
    b.expect(&[r#"a {"n":2,"account":1} @2"#]);
}

#[test]
fn answers_that_nobody_waits_for_are_ignored() {
    let mut b = Bench::new(json!({}));
    b.send("a", 1);
    b.reply(0, status(503, None));
    b.reply(0, ok("1"));
    b.reply(7, ok("1"));
    b.expect(&["call 0 a x1"]);
}

#[test]
fn pending_calls_are_made_again_after_a_crash() {
    let mut b = Bench::new(json!({}));
    b.send("a", 10);
    b.send("b", 20);
    b.send("a", 30);
    b.checkpoint();
    b.reply(1, ok("1"));
    b.reply(0, status(500, None));
    b.send("c", 40);
    b.log.clear();
    b.crash();
    b.expect(&["crash", "call 0 a x1", "call 1 b x1"]);
    b.reply(0, ok("1"));
    b.expect(&[r#"a {"n":10,"account":1} @10"#, "call 2 a x1"]);
    b.checkpoint();
    b.crash();
    b.expect(&["crash", "call 1 b x1", "call 2 a x1"]);
    b.send("c", 50);
    b.expect(&["call 3 c x1"]);
    b.reply(2, ok("1"));
    b.expect(&[r#"a {"n":30,"account":1} @10"#]);
    b.reply(1, ok("1"));
    b.expect(&[r#"b {"n":20,"account":1} @20"#, "clock 40"]);
    b.reply(3, ok("1"));
    b.checkpoint();
    assert_eq!(b.backend.snapshot(), []);
}

#[test]
fn a_pending_record_that_new_settings_cannot_send_is_refused() {
    let mut b = Bench::new(json!({}));
    b.send("a", 1);
    b.send("a", 2);
    b.checkpoint();
    b.log.clear();
    b.config = config(json!({"http": {"get": "http://api/{{ .id }}"}}));
    b.crash();
    b.advance_to(0);
    let says = "expression x0: `{{ .id }}` gave null, no text";
    b.expect(&["crash", &format!("reject a {says}"), &format!("reject a {says}"), "clock 2"]);
    assert_eq!(b.node.load(), Load::default());
}

#[test]
fn clocks_below_wait_for_the_oldest_pending_record() {
    let mut b = Bench::new(json!({}));
    b.watermark(5);
    b.expect(&["clock 5"]);
    b.send("a", 100);
    b.send("b", 200);
    b.send("late", 150);
    b.watermark(300);
    b.send("d", 310);
    b.log.clear();
    b.reply(3, ok("1"));
    b.expect(&[r#"d {"n":310,"account":1} @5"#]);
    b.reply(1, ok("1"));
    b.expect(&[r#"b {"n":200,"account":1} @5"#]);
    // The oldest leaves with its own time; then the clock moves up to just before the next, which came at 200.
    b.reply(0, ok("1"));
    b.expect(&[r#"a {"n":100,"account":1} @100"#, "clock 200"]);
    b.watermark(400);
    b.expect(&[]);
    b.reply(2, ok("1"));
    b.expect(&[r#"late {"n":150,"account":1} @150"#, "clock 400"]);
    b.watermark(500);
    b.expect(&["clock 500"]);
}

/// Sent (key, timestamp, the node's clock before), out, calls under way, clock below.
type World = (Vec<(u64, i64, i64)>, Vec<String>, Vec<u64>, i64);

/// Random schedules of records, answers, time, checkpoints and crashes. In all of them each record leaves once, those
/// of one key in order, and no record meets clocks below that have passed what the node's clock was before it came.
#[test]
fn random_schedules_keep_order_and_time() {
    for seed in 0..300u64 {
        let mut state = seed;
        let mut random = move |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut b = Bench::new(json!({"calls_in_flight_max": 3}));
        // The state now, and as of the last checkpoint.
        let mut world = World::default();
        let mut saved = (world.clone(), b.clock, b.now);
        for step in 0..400 {
            let draining = step >= 300;
            match random(20) {
                0..=5 if !draining => {
                    let (key, ts) = (random(4), b.clock.0 + i64::try_from(random(30)).expect("small") - 10);
                    world.0.push((key, ts, b.clock.0));
                    b.send_value(Some(&key.to_string()), Value::from(json!({"n": world.0.len() - 1})), ts);
                }
                6 if !draining => b.watermark(b.clock.0 + 5),
                7 => b.advance_to(b.now.0 + 500),
                8 => {
                    b.checkpoint();
                    saved = (world.clone(), b.clock, b.now);
                }
                9 if !draining => {
                    world = saved.0.clone();
                    world.2.clear();
                    (b.clock, b.now) = (saved.1, saved.2);
                    b.log.clear();
                    b.crash();
                }
                _ if !world.2.is_empty() => {
                    let at = usize::try_from(random(world.2.len() as u64)).expect("small");
                    let call = world.2.swap_remove(at);
                    b.reply(call, if random(4) == 0 { status(503, None) } else { ok("1") });
                }
                _ => b.advance_to(b.now.0 + 10_000),
            }
            for line in std::mem::take(&mut b.log) {
                let words: Vec<_> = line.split(' ').collect();
                match words[0] {
                    "crash" => {}
                    "call" => world.2.push(words[1].parse().expect("is an id")),
                    "clock" => world.3 = world.3.max(words[1].parse().expect("is a time")),
                    _ => {
                        let n = line
                            .split(['{', ':', ','])
                            .nth(2)
                            .expect("has n")
                            .parse::<usize>()
                            .expect("is n");
                        let (_, _, before) = world.0[n];
                        assert!(
                            world.3 <= before,
                            "seed {seed} step {step}: {line} meets {}, before {before}",
                            world.3
                        );
                        let stream = line.split('@').next_back().expect("has a time");
                        world.3 = world.3.max(stream.parse().expect("is a time"));
                        world.1.push(format!("{n}"));
                    }
                }
            }
        }
        while let Some(call) = world.2.pop() {
            b.reply(call, ok("1"));
            b.advance_to(b.now.0 + 10_000);
            for line in std::mem::take(&mut b.log) {
                match line.split_once(' ') {
                    Some(("call", rest)) => {
                        world
                            .2
                            .push(rest.split(' ').next().and_then(|id| id.parse().ok()).expect("is an id"));
                    }
                    Some(("clock", at)) => world.3 = world.3.max(at.parse().expect("is a time")),
                    _ => world.1.push(line.split(['{', ':', ',']).nth(2).expect("has n").to_owned()),
                }
            }
        }
        assert_eq!(b.node.load(), Load::default(), "seed {seed}: all answered");
        for key in 0..4 {
            let of_key = |n: usize| world.0[n].0 == key;
            let sent: Vec<usize> = (0..world.0.len()).filter(|n| of_key(*n)).collect();
            let out: Vec<usize> =
                world.1.iter().map(|n| n.parse().expect("is n")).filter(|n| of_key(*n)).collect();
            assert_eq!(sent, out, "seed {seed} key {key}");
        }
        assert_eq!(world.3, b.clock.0, "seed {seed}: the clocks below have caught up");
    }
}

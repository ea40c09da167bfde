//! Joins of two streams: tables of rows at every boundary, and a naive model over random records.

use proptest::prelude::*;
use serde_json::json;

use super::config::{JoinConfig, JoinType, Within};
use super::stream_stream::StreamStream;
use crate::model::{Expr, Json, Millis, Reason, Record, Timestamp, Value, Window};
use crate::operators::Operator;
use crate::operators::harness::{Harness, Out};

fn config(kind: JoinType, before: i64, after: i64, grace: i64) -> JoinConfig {
    let mut config = JoinConfig::new("right");
    config.kind = kind;
    config.within = Some(Within { before: Millis(before), after: Millis(after) });
    config.grace = Some(Millis(grace));
    config
}

fn node(config: &JoinConfig) -> Harness {
    let config = config.clone();
    Harness::new(move || Box::new(StreamStream::new(&config)) as Box<dyn Operator>).time_first(true)
}

/// `L a x 5`: input, key, value, timestamp; `-` is null. `W 9` is a watermark.
fn send(node: &mut Harness, line: &str) -> Vec<Out> {
    let parts: Vec<&str> = line.split(' ').collect();
    if let ["W", ts] = parts.as_slice() {
        return node.watermark(ts.parse().unwrap());
    }
    let [side, key, value, ts] = parts.as_slice() else { panic!("{line}") };
    let value = if *value == "-" { Value::Null } else { Value::from(json!(value)) };
    let mut record = Record::new((*key).to_owned(), value, Timestamp(ts.parse().unwrap()));
    if *key == "-" {
        record.key = None;
    }
    node.record(u16::from(*side == "R"), record)
}

fn show(outs: &[Out]) -> String {
    let side = |value: &Json| value.as_str().unwrap_or("-").to_owned();
    let one = |out: &Out| match out {
        Out::Record { key, value, ts } => {
            let key = key.as_deref().unwrap_or("-");
            format!("{key}:{}+{}@{ts}", side(&value["left"]), side(&value["right"]))
        }
        Out::Dropped(reason) => reason.name().to_owned(),
        Out::Rejected(reason) => format!("!{}", reason.name()),
    };
    outs.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// What comes out at each line; a restart before each changes nothing.
fn check(config: &JoinConfig, lines: &[(&str, &str)]) {
    for restarts in [false, true] {
        let mut node = node(config);
        for (n, (line, want)) in lines.iter().enumerate() {
            if restarts {
                node.checkpoint();
                node.restart();
            }
            assert_eq!(show(&send(&mut node, line)), *want, "line {n}: {line}, restarts: {restarts}");
        }
    }
}

use JoinType::{Inner, Left, Outer};

#[test]
fn a_pair_is_in_the_window_with_both_ends() {
    let config = config(Inner, 5, 10, 100);
    check(&config, &[("L a l 100", ""), ("R a r 95", "a:l+r@100")]);
    check(&config, &[("L a l 100", ""), ("R a r 94", "")]);
    check(&config, &[("L a l 100", ""), ("R a r 110", "a:l+r@110")]);
    check(&config, &[("L a l 100", ""), ("R a r 111", "")]);
    check(&config, &[("R a r 95", ""), ("L a l 100", "a:l+r@100")]);
    check(&config, &[("R a r 94", ""), ("L a l 100", "")]);
    check(&config, &[("R a r 110", ""), ("L a l 100", "a:l+r@110")]);
    check(&config, &[("R a r 111", ""), ("L a l 100", "")]);
    check(&config, &[("L a l 100", ""), ("R b r 100", "")]);
}

#[test]
fn partners_come_in_order_of_time_and_duplicates_stay() {
    check(
        &config(Inner, 10, 10, 10),
        &[
            ("L a l3 7", ""),
            ("L a l1 5", ""),
            ("L a l2 5", ""),
            ("L a l1 5", ""),
            ("R a r 6", "a:l1+r@6 a:l2+r@6 a:l1+r@6 a:l3+r@7"),
            ("R a r 6", "a:l1+r@6 a:l2+r@6 a:l1+r@6 a:l3+r@7"),
        ],
    );
}

#[test]
fn an_unmatched_record_leaves_when_time_is_past_its_window_and_grace() {
    check(&config(Left, 5, 10, 3), &[("L a l 100", ""), ("R b r 113", ""), ("R b r 114", "a:l+-@100")]);
    check(&config(Outer, 5, 10, 3), &[("R a r 100", ""), ("L b l 108", ""), ("L b l 109", "a:-+r@100")]);
    check(&config(Left, 5, 10, 3), &[("R a r 100", ""), ("L b l 200", "")]);
    check(
        &config(Left, 5, 10, 3),
        &[("L a l 100", ""), ("W 113", ""), ("W 114", "a:l+-@100"), ("W 200", "")],
    );
}

#[test]
fn what_leaves_comes_by_time_right_before_left_then_by_key_and_before_the_record() {
    check(
        &config(Outer, 10, 10, 0),
        &[
            ("L b l1 5", ""),
            ("L a l2 5", ""),
            ("R c r1 5", ""),
            ("L ab l3 5", ""),
            ("L d l4 4", ""),
            ("R d2 r2 6", ""),
            ("L x l5 30", "d:l4+-@4 c:-+r1@5 a:l2+-@5 ab:l3+-@5 b:l1+-@5 d2:-+r2@6"),
            ("R x r3 30", "x:l5+r3@30"),
        ],
    );
    check(
        &config(Left, 10, 10, 0),
        &[("L a l 5", ""), ("L b l 14", ""), ("R b r 16", "a:l+-@5 b:l+r@16"), ("W 99", "")],
    );
}

#[test]
fn sides_with_different_spans_leave_at_their_own_times() {
    check(
        &config(Outer, 2, 20, 0),
        &[
            ("L a l 10", ""),
            ("R b r 11", ""),
            ("R c r 13", ""),
            ("L z z 14", "b:-+r@11"),
            ("L z z 16", "c:-+r@13"),
            ("L z z 30", ""),
            ("L z z 31", "a:l+-@10"),
        ],
    );
}

#[test]
fn one_past_its_window_leaves_at_once_even_inside_grace() {
    check(
        &config(Left, 10, 10, 50),
        &[("R z z 100", ""), ("L a l 90", ""), ("W 150", ""), ("W 151", "a:l+-@90")],
    );
    check(&config(Left, 10, 10, 50), &[("R z z 100", ""), ("L a l 89", "a:l+-@89"), ("W 200", "")]);
    check(&config(Left, 10, 10, 50), &[("R z z 100", ""), ("L a l 0", "a:l+-@0"), ("W 200", "")]);
    check(&config(Outer, 20, 10, 50), &[("L z z 100", ""), ("R a r 80", ""), ("R a r 79", "a:-+r@79")]);
}

#[test]
fn a_match_that_comes_after_the_unmatched_result_is_late() {
    for kind in [Left, Outer] {
        check(
            &config(kind, 10, 10, 0),
            &[("L a l 0", ""), ("L b l 11", "a:l+-@0"), ("R a r 10", "late"), ("R a r 0", "late")],
        );
        // It was sent alone at once, within grace; its partner is late all the same.
        check(
            &config(kind, 10, 10, 50),
            &[("L z z 100", ""), ("L a l 80", "a:l+-@80"), ("R a r 85", "late")],
        );
    }
    check(
        &config(Outer, 10, 10, 0),
        &[("R a r 0", ""), ("L b l 11", "a:-+r@0"), ("L a l 10", "late"), ("W 50", "b:l+-@11")],
    );
    // Another partner is there: the pair with that one is made.
    check(&config(Left, 10, 10, 0), &[("L a l 0", ""), ("L a m 11", "a:l+-@0"), ("R a r 10", "a:m+r@11")]);
    // The late record itself is kept: one that has not left may find it.
    check(
        &config(Left, 10, 10, 0),
        &[("L a l 0", ""), ("L b l 11", "a:l+-@0"), ("R a r 10", "late"), ("L a m 12", "a:m+r@12")],
    );
    // A match that came in time keeps its record joinable.
    check(
        &config(Left, 10, 10, 0),
        &[("L a l 0", ""), ("R a r 0", "a:l+r@0"), ("L b l 11", ""), ("R a q 10", "a:l+q@10")],
    );
}

#[test]
fn a_record_is_kept_until_its_own_side_has_gone_on() {
    // Kept for 10 + 10 + 5 of its own side's time, and as long as time allows a partner.
    check(&config(Inner, 10, 10, 5), &[("L a l 0", ""), ("L b l 24", ""), ("R a r 0", "a:l+r@0")]);
    check(&config(Inner, 10, 10, 5), &[("L a l 0", ""), ("L b l 25", ""), ("R a r 0", "")]);
    check(&config(Inner, 10, 10, 5), &[("L a l 0", ""), ("R b r 99", ""), ("R a r 0", "a:l+r@0")]);
    // Older than that on its own side, and no partner: late.
    check(&config(Inner, 10, 10, 5), &[("L b l 25", ""), ("L a l 0", "late")]);
    check(&config(Inner, 10, 10, 5), &[("L b l 25", ""), ("L a l 1", "")]);
    check(&config(Inner, 10, 10, 5), &[("R a r 0", ""), ("L b l 25", ""), ("L a l 0", "a:l+r@0")]);
    // On time by the window alone: in Kafka Streams the left record is forgotten one millisecond too early.
    check(&config(Inner, 0, 10, 0), &[("L a l 0", ""), ("L b l 10", ""), ("R a r 10", "a:l+r@10")]);
    check(&config(Inner, 0, 10, 0), &[("L a l 0", ""), ("L b l 11", ""), ("R a r 10", "")]);
    check(
        &config(Inner, 0, 0, 0),
        &[("L a l 5", ""), ("R a r 5", "a:l+r@5"), ("R b r 6", ""), ("R a r 5", "late")],
    );
}

#[test]
fn records_without_key_or_value() {
    check(
        &config(Inner, 5, 5, 0),
        &[("L - l 5", "null_key"), ("R - r 5", "null_key"), ("L a - 5", "null_value")],
    );
    check(
        &config(Left, 5, 5, 0),
        &[("L - l 5", "-:l+-@5"), ("R - r 5", "null_key"), ("R a - 5", "null_value")],
    );
    check(
        &config(Outer, 5, 5, 0),
        &[("L - l 5", "-:l+-@5"), ("R - r 5", "-:-+r@5"), ("L - - 5", "null_value")],
    );
    // They move stream time as others do.
    check(&config(Left, 5, 5, 0), &[("L a l 5", ""), ("R a - 11", "a:l+-@5 null_value")]);
}

#[test]
fn the_expression_sees_both_sides_and_its_failure_refuses_the_record() {
    let mut left = config(Left, 5, 5, 0);
    left.value = Some(Expr::native("left and right", |scope| {
        let var = |name: &str| scope.vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).clone());
        let (left, right) = (var("left").unwrap_or_default(), var("right").unwrap_or_default());
        if left == "bad" {
            return Err(crate::model::EvalError::Failed("it is bad".into()));
        }
        let own = scope.value.json()?;
        assert_eq!(*own, left, "`.` is the left value");
        Ok(json!({ "left": left, "right": right, "key": scope.key_json(), "ts": scope.ts.0 }))
    }));
    let mut node = node(&left);
    send(&mut node, "L a l 5");
    let whole = json!({ "left": "l", "right": "r", "key": "a", "ts": 6 });
    let key = Some("a".to_owned());
    assert_eq!(send(&mut node, "R a r 6"), [Out::Record { key, value: whole, ts: 6 }]);
    send(&mut node, "L a bad 6");
    let outs = send(&mut node, "R a s 6");
    assert_eq!(outs.len(), 2, "the good pair, and one refusal: {outs:?}");
    assert_eq!(outs[1], Out::Rejected(Reason::Expression));
    send(&mut node, "L b bad 7");
    assert_eq!(node.watermark(100), [Out::Rejected(Reason::Expression)]);
    let bytes = Record::new("a", Value::Bytes(bytes::Bytes::from("{")), Timestamp(100));
    assert_eq!(node.record(1, bytes), [Out::Rejected(Reason::NotJson)]);
}

#[test]
fn windows_belong_to_the_key_and_headers_stay() {
    let mut node = node(&config(Left, 5, 5, 0));
    let window = |start: i64| Some(Window { start: Timestamp(start), end: Timestamp(start + 10) });
    let record = |window| Record { window, ..Record::new("a", Value::from(json!("x")), Timestamp(5)) };
    assert_eq!(node.record(0, record(window(0))), []);
    assert_eq!(node.record(1, record(window(10))), []);
    assert_eq!(node.record(1, record(None)), []);
    assert_eq!(show(&node.record(1, record(window(0)))), "a:x+x@5");
    let mut plain = record(window(20));
    plain.headers = crate::model::Headers::default().with("h", "v");
    node.record(0, plain);
    node.checkpoint();
    node.restart();
    let records = node.records_at(11);
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].window, records[0].key.as_deref()), (window(20), Some(&b"a"[..])));
    assert_eq!(records[0].headers.get("h").map(|v| &v[..]), Some(&b"v"[..]));
}

#[test]
fn the_watermark_waits_for_what_will_leave() {
    let mut node = node(&config(Left, 5, 5, 10));
    send(&mut node, "L a l 5");
    assert_eq!(node.watermark_out(9), Some(5));
    assert_eq!(node.watermark_out(20), Some(5));
    assert_eq!(node.watermark_out(21), Some(21));
}

#[test]
fn what_has_expired_is_deleted() {
    let mut node = node(&config(Left, 5, 5, 0));
    for n in 0..2_000 {
        send(&mut node, &format!("L a l {n}"));
        send(&mut node, &format!("R a r {n}"));
        if n % 100 == 0 {
            node.checkpoint();
            node.restart();
        }
    }
    node.checkpoint();
    // Segments of 10 ms; those that hold anything younger than 10 ms of either side.
    assert!(node.rows() <= 2 * 20 + 1, "{}", node.rows());
}

/// The model: it keeps every record and searches all of them.
struct Model {
    config: JoinConfig,
    clock: i64,
    newest: [i64; 2],
    seen: Vec<Seen>,
}

struct Seen {
    side: usize,
    key: String,
    value: String,
    ts: i64,
    gone: bool,
    waits: bool,
}

impl Model {
    fn spans(&self) -> [i64; 2] {
        let within = self.config.within.unwrap();
        [within.after.0, within.before.0]
    }

    fn record(&mut self, side: usize, key: Option<&str>, value: Option<&str>, ts: i64) -> String {
        let grace = self.config.grace.unwrap().0;
        let spans = self.spans();
        let kept_for = spans[0] + spans[1] + grace;
        let outer = [self.config.kind != Inner, self.config.kind == Outer];
        self.clock = self.clock.max(ts);
        let clock = self.clock;
        let mut out = Vec::new();
        let text = |side: usize, own: &str, other: &str| {
            if side == 0 { format!("{own}+{other}") } else { format!("{other}+{own}") }
        };
        let mut leaving: Vec<&mut Seen> =
            self.seen.iter_mut().filter(|s| s.waits && clock > s.ts + spans[s.side] + grace).collect();
        leaving.sort_by(|a, b| (a.ts, 1 - a.side, &a.key).cmp(&(b.ts, 1 - b.side, &b.key)));
        for one in leaving {
            out.push(format!("{}:{}@{}", one.key, text(one.side, &one.value, "-"), one.ts));
            (one.waits, one.gone) = (false, true);
        }
        if key.is_some() {
            self.newest[side] = self.newest[side].max(ts);
        }
        let (key, value) = match (key, value) {
            (Some(key), Some(value)) => (key, value),
            (None, Some(value)) if outer[side] => {
                out.push(format!("-:{}@{ts}", text(side, value, "-")));
                return out.join(" ");
            }
            (None, _) if !outer[side] => {
                out.push("null_key".into());
                return out.join(" ");
            }
            _ => {
                out.push("null_value".into());
                return out.join(" ");
            }
        };
        let newest = self.newest;
        let kept = |side: usize, ts: i64| ts > newest[side] - kept_for || clock <= ts + spans[side] + grace;
        let other = 1 - side;
        let mut partners: Vec<&mut Seen> = self
            .seen
            .iter_mut()
            .filter(|s| s.side == other && s.key == key && kept(other, s.ts))
            .filter(|s| {
                let (left, right) = if side == 0 { (ts, s.ts) } else { (s.ts, ts) };
                left - spans[1] <= right && right <= left + spans[0]
            })
            .collect();
        partners.sort_by_key(|s| s.ts);
        let missed = partners.iter().any(|s| s.gone);
        partners.retain(|s| !s.gone);
        for one in &mut partners {
            one.waits = false;
            out.push(format!("{key}:{}@{}", text(side, value, &one.value), ts.max(one.ts)));
        }
        let alone = partners.is_empty() && !missed;
        let at_once = alone && outer[side] && ts + spans[side] < clock;
        if at_once {
            out.push(format!("{key}:{}@{ts}", text(side, value, "-")));
        } else if partners.is_empty() && (missed || !kept(side, ts)) {
            out.push("late".into());
        }
        if kept(side, ts) {
            let waits = alone && outer[side] && !at_once;
            self.seen.push(Seen { side, key: key.into(), value: value.into(), ts, gone: at_once, waits });
        }
        out.join(" ")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn outputs_are_those_of_the_model_and_a_restart_changes_nothing(
        kind in prop_oneof![Just(Inner), Just(Left), Just(Outer)],
        before in 0..8i64,
        after in 0..8i64,
        grace in 0..12i64,
        records in prop::collection::vec(
            (0..2usize, prop_oneof![9 => (0..3u8).prop_map(Some), 1 => Just(None)], 0..20u8, 0..12i64, 0..10u8),
            1..60,
        ),
    ) {
        let config = config(kind, before, after, grace);
        let mut model = Model { config: config.clone(), clock: i64::MIN, newest: [i64::MIN / 2; 2], seen: Vec::new() };
        let mut node = node(&config);
        let mut base = 100;
        for (n, (side, key, null, back, restart)) in records.into_iter().enumerate() {
            base += i64::from(null) % 4;
            let ts = base - back;
            let key = key.map(|k| ["a", "b", "ab"][usize::from(k)]);
            let value = (null != 0).then(|| format!("v{n}"));
            let line = format!("{} {} {} {ts}", ["L", "R"][side], key.unwrap_or("-"), value.as_deref().unwrap_or("-"));
            if restart == 0 {
                node.checkpoint();
                node.restart();
            } else if restart == 1 {
                node.checkpoint();
            }
            let want = model.record(side, key, value.as_deref(), ts);
            prop_assert_eq!(show(&send(&mut node, &line)), want, "{}: {}", n, line);
        }
    }
}

//! Tables of cases from the semantics page: both sides of every boundary.

mod properties;
pub mod rig;

use bytes::Bytes;
use serde_json::json;

use self::rig::{Out, Rig, out};
use super::*;
use crate::model::{Expr, Json, Millis, Record, Timestamp, Value};
use crate::operators::{OperatorSettings, WindowConfig};

fn new_rig(config: Json) -> Rig {
    let config = self::rig::config(config).unwrap();
    assert_eq!(config.check(), []);
    Rig::new(move || build(&config, false))
}

fn count(window: Json, emit: &str) -> Rig {
    new_rig(json!({ "count": {}, "window": window, "emit": emit }))
}

fn tombstone(key: &str, start: i64, end: i64) -> Out {
    out(key, (start, end), Json::Null, end)
}

fn null(key: &str, ts: i64) -> Record {
    Record::new(key.to_owned(), Value::Null, Timestamp(ts))
}

fn keyless(ts: i64) -> Record {
    Record { key: None, ..Record::new("", Value::from(json!(1)), Timestamp(ts)) }
}

#[test]
fn without_a_window_a_key_has_one_row_for_ever() {
    let mut n = new_rig(json!({ "count": {} }));
    let row = |key: &str, value: i64, ts| (key.to_owned(), None, json!(value), ts);
    assert_eq!(n.send("a", json!(1), 10), [row("a", 1, 10)]);
    assert_eq!(n.send("a", json!(1), 5), [row("a", 2, 10)], "the highest timestamp stays");
    assert_eq!(n.send("b", json!(1), 5), [row("b", 1, 5)]);
    assert!(n.record(null("a", 20)).unwrap().is_empty());
    assert!(n.record(keyless(20)).unwrap().is_empty());
    assert_eq!(n.dropped(), [Reason::NullValue, Reason::NullKey]);
    n.restart();
    assert_eq!(n.send("a", json!(1), 30), [row("a", 3, 30)]);
    assert_eq!(n.rows(), 2);
}

#[test]
fn a_time_window_takes_records_while_its_end_is_after_t_minus_grace() {
    let mut n = count(json!({ "tumbling": "10ms", "grace": "5ms" }), "update");
    assert_eq!(n.send("a", json!(1), 9), [out("a", (0, 10), json!(1), 9)]);
    assert_eq!(n.send("a", json!(1), 10), [out("a", (10, 20), json!(1), 10)]);
    assert_eq!(n.send("a", json!(1), 14), [out("a", (10, 20), json!(2), 14)]);
    assert_eq!(n.send("a", json!(1), 0), [out("a", (0, 10), json!(2), 9)], "10 > 14 - 5");
    assert_eq!(n.rows(), 2);
    assert_eq!(n.send("b", json!(1), 15), [out("b", (10, 20), json!(1), 15)]);
    assert_eq!(n.rows(), 2, "the closed window's row is gone");
    assert_eq!(n.send("a", json!(1), 9), [], "10 = 15 - 5");
    assert_eq!(n.dropped(), [Reason::Late]);
    assert_eq!(n.record(null("a", 16)).map(|r| r.len()), Ok(1), "a null value counts");
    assert_eq!(n.send("a", json!(1), 10), [out("a", (10, 20), json!(4), 16)]);
}

#[test]
fn each_window_of_a_record_is_judged_by_itself() {
    let mut n = count(json!({ "hopping": "10ms", "every": "4ms" }), "update");
    assert_eq!(
        n.send("a", json!(1), 12),
        [out("a", (4, 14), json!(1), 12), out("a", (8, 18), json!(1), 12), out("a", (12, 22), json!(1), 12)]
    );
    assert_eq!(n.send("b", json!(1), 14).len(), 2);
    assert_eq!(n.send("a", json!(1), 9), [out("a", (8, 18), json!(2), 12)]);
    assert_eq!(n.dropped(), [Reason::Late, Reason::Late], "[0,10) and [4,14)");
}

#[test]
fn a_final_result_comes_at_end_plus_grace_and_is_not_lost_on_a_jump() {
    let mut n = count(json!({ "tumbling": "10ms", "grace": "5ms" }), "final");
    assert_eq!(n.send("a", json!(1), 10), []);
    assert_eq!(n.send("b", json!(1), 31), [out("a", (10, 20), json!(1), 10)]);
    assert_eq!(n.send("a", json!(1), 30), []);
    assert_eq!(n.at(44), []);
    n.restart();
    assert_eq!(n.watermark, Some(Timestamp(30)), "held to the open window");
    assert_eq!(
        n.at(45),
        [out("a", (30, 40), json!(1), 30), out("b", (30, 40), json!(1), 31)],
        "in order of keys"
    );
    assert_eq!(n.watermark, Some(Timestamp(45)));
    assert_eq!(n.send("a", json!(1), 39), [], "40 = 45 - 5");
    assert_eq!(n.dropped(), [Reason::Late]);
    assert_eq!(n.rows(), 0);
    assert_eq!(n.at(1000), []);
}

#[test]
fn windows_close_in_the_order_of_start_then_key_and_in_bounded_pieces() {
    for restart in [false, true] {
        let mut n = count(json!({ "hopping": "20ms", "every": "10ms" }), "final");
        for i in 0..3000 {
            n.send(&format!("k{:04}", (i * 7) % 3000), json!(1), 10);
        }
        if restart {
            n.restart();
            n.send("k0001", json!(1), 11);
        }
        let result = n.at(30);
        let want: Vec<Out> = [0, 10]
            .iter()
            .flat_map(|s| (0..3000).map(move |i| (format!("k{i:04}"), Some((*s, s + 20)), i)))
            .map(|(key, window, i)| {
                let twice = restart && i == 1;
                (key, window, json!(if twice { 2 } else { 1 }), if twice { 11 } else { 10 })
            })
            .collect();
        assert_eq!(result, want);
        assert_eq!(n.rows(), 0);
    }
}

#[test]
fn sessions_join_within_the_gap_both_ends_included() {
    let mut n = count(json!({ "session": "10ms", "grace": "5ms" }), "update");
    assert_eq!(n.send("a", json!(1), 20), [out("a", (20, 20), json!(1), 20)]);
    assert_eq!(
        n.send("a", json!(1), 20),
        [out("a", (20, 20), json!(2), 20)],
        "the same window: no tombstone"
    );
    assert_eq!(n.send("a", json!(1), 30), [tombstone("a", 20, 20), out("a", (20, 30), json!(3), 30)]);
    assert_eq!(n.send("a", json!(1), 10), [tombstone("a", 20, 30), out("a", (10, 30), json!(4), 30)]);
    assert_eq!(n.send("a", json!(1), 25), [tombstone("a", 10, 30), out("a", (10, 30), json!(5), 30)]);
    assert_eq!(n.send("a", json!(1), 41), [out("a", (41, 41), json!(1), 41)], "11 from the end");
    n.restart();
    assert_eq!(
        n.send("a", json!(1), 35),
        [tombstone("a", 10, 30), tombstone("a", 41, 41), out("a", (10, 41), json!(7), 41)]
    );
    assert_eq!(n.record(null("a", 41)).map(|r| r.len()), Ok(2), "a null value counts");
    assert_eq!(n.rows(), 1);
}

#[test]
fn a_session_is_late_and_closed_past_end_gap_and_grace() {
    // At exactly T = end + gap + grace it is still found and merged.
    let mut n = count(json!({ "session": "10ms", "grace": "5ms" }), "update");
    n.send("a", json!(1), 5);
    n.send("b", json!(1), 20);
    assert_eq!(n.send("a", json!(1), 5), [out("a", (5, 5), json!(2), 5)]);
    assert_eq!(n.send("c", json!(1), 5), [out("c", (5, 5), json!(1), 5)], "5 = 20 - 5 - 10");
    assert_eq!(n.send("c", json!(1), 4), [tombstone("c", 5, 5), out("c", (4, 5), json!(2), 5)]);
    assert_eq!(n.send("d", json!(1), 4), []);
    assert_eq!(n.dropped(), [Reason::Late]);
    n.send("b", json!(1), 21);
    assert_eq!(n.rows(), 1);
    assert_eq!(n.send("a", json!(1), 5), [], "one later it is gone");
    assert_eq!(n.dropped(), [Reason::Late]);

    let mut n = count(json!({ "session": "10ms", "grace": "5ms" }), "final");
    n.send("a", json!(1), 5);
    n.send("b", json!(1), 2);
    n.send("c", json!(1), 5);
    n.send("c", json!(1), 4);
    assert_eq!(n.at(17), []);
    n.restart();
    assert_eq!(n.at(18), [out("b", (2, 2), json!(1), 2)]);
    assert_eq!(n.at(20), []);
    assert_eq!(n.watermark, Some(Timestamp(5)));
    assert_eq!(n.at(21), [out("c", (4, 5), json!(2), 5), out("a", (5, 5), json!(1), 5)], "end, start, key");
    assert_eq!(n.rows(), 0);
}

#[test]
fn a_growing_session_is_closed_by_its_last_end() {
    let mut n = count(json!({ "session": "10ms" }), "final");
    for ts in [0, 10, 20, 15, 30] {
        assert_eq!(n.send("a", json!(1), ts), []);
    }
    assert_eq!(n.at(40), []);
    assert_eq!(n.at(41), [out("a", (0, 30), json!(5), 30)]);
}

#[test]
fn sliding_windows_end_at_records_and_begin_after_them() {
    let mut n = count(json!({ "sliding": "10ms", "grace": "20ms" }), "update");
    assert_eq!(n.send("a", json!(1), 20), [out("a", (10, 20), json!(1), 20)]);
    // The record at 30 belongs to the window after 20 and begins its own, which 20 belongs to.
    assert_eq!(
        n.send("a", json!(1), 30),
        [out("a", (21, 31), json!(1), 30), out("a", (20, 30), json!(2), 30)]
    );
    // A record at 25: the newest window first, then its own, then the one after it.
    assert_eq!(
        n.send("a", json!(1), 25),
        [
            out("a", (21, 31), json!(2), 30),
            out("a", (20, 30), json!(3), 30),
            out("a", (15, 25), json!(2), 25),
            out("a", (26, 36), json!(1), 30),
        ]
    );
    // 11 after the last record: its own window is also the one after the last record, and is sent twice, as in Kafka
    // Streams.
    let own = out("a", (31, 41), json!(1), 41);
    assert_eq!(n.send("a", json!(1), 41), [own.clone(), own]);
    n.restart();
    assert!(n.record(null("a", 41)).unwrap().is_empty());
    assert_eq!(n.dropped(), [Reason::NullValue]);
    // All early records share [0, 10].
    let mut n = count(json!({ "sliding": "10ms", "grace": "20ms" }), "update");
    assert_eq!(n.send("a", json!(1), 3), [out("a", (0, 10), json!(1), 3)]);
    assert_eq!(n.send("a", json!(1), 9), [out("a", (4, 14), json!(1), 9), out("a", (0, 10), json!(2), 9)]);
    assert_eq!(
        n.send("a", json!(1), 10),
        [out("a", (4, 14), json!(2), 10), out("a", (0, 10), json!(3), 10), out("a", (10, 20), json!(1), 10)]
    );
}

#[test]
fn a_sliding_window_is_late_and_closed_by_its_end() {
    let mut n = count(json!({ "sliding": "10ms", "grace": "5ms" }), "update");
    n.send("b", json!(1), 40);
    assert_eq!(n.send("a", json!(1), 24), []);
    assert_eq!(n.dropped(), [Reason::Late], "24 + 10 < 40 - 5");
    assert_eq!(n.send("a", json!(1), 25), [], "[15,25] is closed");
    assert_eq!(n.dropped(), [Reason::Late]);
    assert_eq!(n.send("a", json!(1), 34), []);
    assert_eq!(n.dropped(), [Reason::Late]);
    assert_eq!(n.send("a", json!(1), 35), [out("a", (25, 35), json!(1), 35)], "35 = 40 - 5");

    let mut n = count(json!({ "sliding": "10ms", "grace": "5ms" }), "final");
    n.send("a", json!(1), 20);
    n.send("b", json!(1), 20);
    n.send("a", json!(1), 22);
    assert_eq!(n.at(25), []);
    assert_eq!(n.at(26), [out("a", (10, 20), json!(1), 20), out("b", (10, 20), json!(1), 20)]);
    n.restart();
    assert_eq!(n.at(27), []);
    assert_eq!(n.at(36), [out("a", (12, 22), json!(2), 22)]);
    assert_eq!(n.at(37), [out("a", (21, 31), json!(1), 22)]);
    assert_eq!(n.at(200), []);
    assert_eq!(n.rows(), 0);
}

#[test]
fn every_function_gives_its_result() {
    let check = |aggregation: Json, values: &[Json], want: Json| {
        for window in [json!(null), json!({ "session": "1ms" }), json!({ "sliding": "10ms" })] {
            let mut config = aggregation.clone();
            if !window.is_null() {
                config["window"] = window;
            }
            let mut n = new_rig(config);
            let mut last = Json::Null;
            for (i, value) in values.iter().enumerate() {
                if i == 2 {
                    n.restart();
                }
                last = n.send("a", json!({ "v": value }), 20).last().unwrap().2.clone();
            }
            assert_eq!(last, want, "{aggregation}");
        }
    };
    let v = |list: &[i64]| list.iter().map(|n| json!(n)).collect::<Vec<_>>();
    check(json!({ "count": {} }), &v(&[5, 5, 5]), json!(3));
    check(json!({ "sum": ".v" }), &v(&[1, 2, 3]), json!(6));
    check(json!({ "sum": ".v" }), &[json!(1), json!(0.5), Json::Null], json!(1.5));
    check(json!({ "min": ".v" }), &v(&[2, 1, 3]), json!(1));
    check(json!({ "min": ".v" }), &[json!("b"), json!("a"), json!("c")], json!("a"));
    check(json!({ "max": ".v" }), &v(&[2, 10, 3]), json!(10));
    check(json!({ "avg": ".v" }), &v(&[1, 2, 6]), json!(3.0));
    check(json!({ "first": ".v" }), &[Json::Null, json!(1), json!(2)], json!(1));
    check(json!({ "last": ".v" }), &[json!(1), json!(2), Json::Null], json!(2));
    check(json!({ "collect": { "of": ".v" } }), &v(&[3, 1, 2]), json!([3, 1, 2]));
    check(json!({ "collect": { "of": ".v", "max": 2 } }), &v(&[3, 1, 2]), json!([3, 1]));
    check(json!({ "top": { "of": ".v", "n": 2 } }), &v(&[1, 3, 2, 3]), json!([3, 3]));
    check(json!({ "distinct": ".v" }), &[json!(1), json!(1.0), json!("1"), json!({"a": 1})], json!(3));
    check(json!({ "approx_distinct": ".v" }), &[json!(1), json!(1.0), json!("1"), json!({"a": 1})], json!(3));
    check(
        json!({ "fields": { "orders": "count()", "total": "sum(.v)", "newest": "last(.v)", "best": "top(.v, 1)", "kinds": "distinct(.v)", "about": "approx_distinct(.v)" } }),
        &v(&[4, 5, 4]),
        json!({ "orders": 3, "total": 13, "newest": 4, "best": [5], "kinds": 2, "about": 2 }),
    );
}

fn refused_at(n: &mut Rig, value: Json, ts: i64) -> Reason {
    n.record(Record::new("a", Value::from(value), Timestamp(ts))).unwrap_err().0
}

#[test]
fn values_that_do_not_fit_are_refused_and_change_nothing() {
    let mut n = new_rig(json!({ "sum": ".v" }));
    n.send("a", json!({ "v": 1 }), 0);
    let refused = |n: &mut Rig, value: Value| n.record(Record::new("a", value, Timestamp(0))).unwrap_err();
    assert_eq!(refused(&mut n, Value::from(json!({ "v": "x" }))).0, Reason::Expression);
    assert_eq!(refused(&mut n, Value::Bytes(Bytes::from("{"))).0, Reason::NotJson);
    assert_eq!(n.send("a", json!({ "v": 1 }), 0)[0].2, json!(2));
    for function in ["sum", "avg"] {
        for window in [json!(null), json!({ "session": "1ms" }), json!({ "sliding": "10ms" })] {
            let mut config = json!({ function: ".v" });
            if !window.is_null() {
                config["window"] = window;
            }
            let mut n = new_rig(config);
            n.send("a", json!({ "v": 1.7e308 }), 20);
            assert_eq!(refused_at(&mut n, json!({ "v": 1.7e308 }), 20), Reason::Expression, "{function}");
            let left = n.send("a", json!({ "v": -1.7e308 }), 20);
            assert_eq!(left.last().map(|result| result.2.clone()), Some(json!(0.0)), "{function}");
        }
    }
    // Two sessions are merged: each had a sum, together they have none.
    let mut n = new_rig(json!({ "sum": ".v", "window": { "session": "5ms", "grace": "1s" } }));
    n.send("a", json!({ "v": 1.7e308 }), 20);
    n.send("a", json!({ "v": 1.7e308 }), 30);
    assert_eq!(refused_at(&mut n, json!({ "v": 0 }), 25), Reason::Expression);
    let mut n = new_rig(json!({ "min": ".v" }));
    assert_eq!(refused(&mut n, Value::from(json!({ "v": [1] }))).0, Reason::Expression);
    let mut n = new_rig(json!({ "collect": { "of": ".v" } }));
    let large = json!({ "v": "x".repeat(3 << 20) });
    n.send("a", large.clone(), 0);
    assert_eq!(refused(&mut n, Value::from(large)).0, Reason::Full);
    let mut n = new_rig(json!({ "collect": { "of": ".v", "max": 1 } }));
    n.send("a", json!({ "v": 1 }), 0);
    n.send("a", json!({ "v": 2 }), 0);
    assert_eq!(n.dropped(), [Reason::Full]);
}

#[test]
fn by_groups_by_an_expression_and_gives_the_result_its_key() {
    let mut n = new_rig(json!({ "count": {}, "by": ".user" }));
    assert_eq!(n.send("a", json!({ "user": "u1" }), 0), [("u1".to_owned(), None, json!(1), 0)]);
    assert_eq!(n.send("b", json!({ "user": "u1" }), 0), [("u1".to_owned(), None, json!(2), 0)]);
    assert_eq!(n.send("b", json!({}), 0), []);
    assert_eq!(n.dropped(), [Reason::NullKey]);
}

fn number(json: &Json) -> i64 {
    json.as_i64().unwrap_or_default()
}

/// An expression as a Rust function of `acc` and the record's value; it gives `null` for `None`.
fn native(names: &'static [&'static str], f: fn(i64, i64) -> Option<i64>) -> Expr {
    Expr::native("f", move |scope| {
        let var = |n: usize| scope.vars.iter().find(|(name, _)| *name == names[n]).map(|(_, v)| number(v));
        let second = if names.len() > 1 { var(1) } else { scope.value.json().ok().map(|j| number(&j)) };
        Ok(f(var(0).unwrap_or_default(), second.unwrap_or_default()).map_or(Json::Null, Json::from))
    })
}

#[test]
fn reduce_and_fold_step_and_merge_by_expressions() {
    let add = |a: i64, b: i64| Some(a + b);
    let mut config = AggregateConfig { reduce: Some(native(&["acc"], add)), ..AggregateConfig::default() };
    config.window = Some(WindowConfig::session(Millis(10)).with_grace(Millis(20)));
    let reduce = config.clone();
    let mut n = Rig::new(move || build(&reduce, false));
    assert_eq!(n.send("a", json!(5), 0), [out("a", (0, 0), json!(5), 0)]);
    n.send("a", json!(7), 8);
    n.restart();
    n.send("a", json!(1), 19);
    assert_eq!(n.send("a", json!(2), 12).last(), Some(&out("a", (0, 19), json!(15), 19)));

    // A fold from 100: merging begins with `init`, as in Kafka Streams.
    config.reduce = None;
    config.fold = Some(FoldConfig {
        init: json!(100),
        step: native(&["acc"], |a, b| (b >= 0).then_some(a + b)),
        merge: Some(native(&["left", "right"], add)),
        subtract: None,
    });
    let fold = config.clone();
    let mut n = Rig::new(move || build(&fold, false));
    assert_eq!(n.send("a", json!(1), 0), [out("a", (0, 0), json!(101), 0)]);
    assert_eq!(n.send("a", json!(2), 1).last(), Some(&out("a", (0, 1), json!(203), 1)));
    assert_eq!(n.send("a", json!(-1), 2).last(), Some(&tombstone("a", 0, 2)), "nothing is left");
    assert_eq!(n.rows(), 0);

    config.window = Some(WindowConfig::tumbling(Millis(10)));
    config.emit = EmitConfig::Final;
    let mut n = Rig::new(move || build(&config, false));
    n.send("a", json!(1), 0);
    n.send("a", json!(-1), 0);
    n.send("b", json!(-1), 0);
    n.send("c", json!(1), 1);
    n.send("a", json!(3), 1);
    assert_eq!(n.at(10), [out("a", (0, 10), json!(103), 1), out("c", (0, 10), json!(101), 1)]);
}

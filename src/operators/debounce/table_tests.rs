//! The table against a model: a sorted map that is searched from end to end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::entry::HEADER;
use super::row::HEADER_BYTES;
use super::table::Reason;
use super::*;

#[derive(Clone, Debug)]
enum Op {
    Upsert {
        key: usize,
        behind: i64,
        value: Option<usize>,
        extra: usize,
        keep: Keep,
    },
    Advance(i64),
    Pop(usize),
    Take(usize),
    Checkpoint,
    /// A checkpoint begins; the rest of the one before is copied first.
    Freeze,
    /// So many rows of it are copied.
    Copy(usize),
    Restart {
        backwards: bool,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let size = prop_oneof![8 => 0usize..40, 3 => 40usize..300, 1 => 3900usize..4300, 1 => 9000usize..9100];
    let keep = prop_oneof![1 => Just(Keep::First), 3 => Just(Keep::Last), 1 => Just(Keep::Append)];
    let jump = prop_oneof![
        4 => 0i64..3,
        4 => 0i64..200,
        4 => 0i64..40_000,
        1 => 0i64..400_000_000,
        1 => 0i64..40_000_000_000,
    ];
    let op = prop_oneof![
        12 => (0usize..14, -300i64..300, prop::option::weighted(0.9, size), prop_oneof![4 => Just(0usize), 1 => 1usize..50], keep)
            .prop_map(|(key, behind, value, extra, keep)| Op::Upsert { key, behind, value, extra, keep }),
        6 => jump.prop_map(Op::Advance),
        2 => (0usize..4).prop_map(Op::Pop),
        1 => (0usize..14).prop_map(Op::Take),
        2 => Just(Op::Checkpoint),
        2 => Just(Op::Freeze),
        2 => (0usize..4).prop_map(Op::Copy),
        1 => any::<bool>().prop_map(|backwards| Op::Restart { backwards }),
    ];
    prop::collection::vec(op, 1..120)
}

fn rules() -> impl Strategy<Value = Rule> {
    let span =
        || prop_oneof![Just(0i64), 1i64..100, 100i64..60_000, 60_000i64..100_000_000_000, Just(i64::MAX)];
    prop_oneof![
        3 => (span(), prop::option::of(span())).prop_map(|(quiet, max_wait)| Rule::Quiet { quiet, max_wait }),
        1 => span().prop_map(|settle| Rule::Settle { settle }),
    ]
}

/// Keys with shared beginnings, an empty one, and ones that do not fit a block.
fn key(n: usize) -> Vec<u8> {
    match n {
        0 => Vec::new(),
        1 => vec![b'k'; 4096 - HEADER],
        2 => vec![b'k'; 5000],
        3 => vec![b'z'; 4090],
        _ => format!("account-{}", n * 7 % 13).into_bytes(),
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    count: u32,
    times: [i64; 4],
    extra: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Entry {
    fn of(row: &Row<'_>) -> Entry {
        Entry {
            count: row.count,
            times: [row.first, row.last, row.first_ts, row.last_ts],
            extra: row.extra.to_vec(),
            value: row.value.map(<[u8]>::to_vec),
        }
    }

    fn row(&self) -> Vec<u8> {
        let [first, last, first_ts, last_ts] = self.times;
        let mut out = Vec::new();
        Row {
            count: self.count,
            first,
            last,
            first_ts,
            last_ts,
            extra: &self.extra,
            value: self.value.as_deref(),
        }
        .encode(&mut out);
        out
    }
}

type Model = BTreeMap<Vec<u8>, Entry>;
type Out = Vec<(i64, Vec<u8>, Entry)>;

fn due(model: &Model, rule: Rule, clock: i64) -> Vec<(i64, Vec<u8>)> {
    let mut due: Vec<_> = model
        .iter()
        .map(|(key, e)| (rule.deadline(e.times[0], e.times[1]), key.clone()))
        .filter(|(deadline, _)| *deadline <= clock)
        .collect();
    due.sort();
    due
}

fn pop(table: &mut PendingTable, model: &mut Model, (rule, trailing): (Rule, bool), clock: i64, max: usize) {
    let mut got: Out = Vec::new();
    let n = table.pop_due(clock, max, |f| got.push((f.deadline, f.key.to_vec(), Entry::of(&f.row))));
    assert_eq!(n, got.len());
    let mut want: Out = Vec::new();
    while want.len() < max {
        let Some((deadline, key)) = due(model, rule, clock).into_iter().next() else { break };
        let entry = model.get_mut(&key).unwrap();
        want.push((deadline, key.clone(), entry.clone()));
        let quiet =
            matches!(rule, Rule::Quiet { quiet, .. } if entry.times[1].saturating_add(quiet) == deadline);
        if trailing && !quiet {
            (entry.count, entry.times[0]) = (0, entry.times[1]);
        } else {
            model.remove(&key);
        }
    }
    assert_eq!(got, want);
}

/// What is written, and the model at the moment at which the checkpoint under way began.
#[derive(Default)]
struct Disk {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    frozen: Option<Model>,
}

impl Disk {
    fn freeze(&mut self, table: &mut PendingTable, model: &Model) {
        self.copy(table, usize::MAX);
        assert!(self.frozen.is_none() && !table.is_frozen());
        table.freeze();
        assert_eq!(table.dirty(), 0);
        self.frozen = Some(model.clone());
    }

    fn copy(&mut self, table: &mut PendingTable, rows: usize) {
        let Some(mut batch) = table.copy_frozen(rows) else { return };
        batch.sort();
        let mut before: Option<&[u8]> = None;
        for (key, row) in batch.iter() {
            assert!(before.is_none_or(|b| b < key), "out of order");
            before = Some(key);
            match row {
                Some(row) => {
                    let old = self.rows.insert(key.to_vec(), row.to_vec());
                    assert_ne!(old.as_deref(), Some(row), "not dirty");
                }
                None => {
                    assert!(self.rows.remove(key).is_some(), "a tombstone of a key that was never written")
                }
            }
        }
        let model = self.frozen.take().expect("a checkpoint was under way");
        let want: BTreeMap<_, _> = model.iter().map(|(key, e)| (key.clone(), e.row())).collect();
        assert_eq!(self.rows, want);
    }
}

fn run(rule: Rule, trailing: bool, start: i64, ops: &[Op]) {
    // It needs a `max_wait` that is not shorter than `quiet`.
    let trailing = trailing
        && matches!(rule, Rule::Quiet { quiet, max_wait } if max_wait.is_some_and(|max_wait| max_wait >= quiet));
    let make = || if trailing { PendingTable::new(rule).trailing() } else { PendingTable::new(rule) };
    let mut table = make();
    let mut model = Model::new();
    let mut disk = Disk::default();
    let mut clock = start;
    for (n, op) in ops.iter().enumerate() {
        match op {
            Op::Upsert { key: k, behind, value, extra, keep } => {
                let (k, ts) = (key(*k), clock - behind);
                let counted = ts.max(clock);
                let fill = u8::try_from(n).unwrap();
                let value = value.map(|len| vec![fill; len]);
                let extra = vec![fill; *extra];
                let got = table.upsert(&k, counted, ts, value.as_deref(), &extra, *keep);
                let anew = model.get(&k).is_some_and(|e| e.count == 0);
                let created = anew || !model.contains_key(&k);
                let fresh = Entry {
                    count: 0,
                    times: [counted, counted, ts, ts],
                    extra: extra.clone(),
                    value: value.clone(),
                };
                let entry = model.entry(k).or_insert(fresh);
                if anew {
                    (entry.times[0], entry.times[2]) = (counted.max(entry.times[1]), ts);
                    (entry.extra, entry.value) = (extra.clone(), value.clone());
                }
                entry.count += 1;
                entry.times[1] = entry.times[1].max(counted);
                entry.times[3] = ts;
                if !created {
                    match keep {
                        Keep::First => {}
                        Keep::Last => (entry.extra, entry.value) = (extra, value),
                        Keep::Append => {
                            entry.value.get_or_insert_default().extend(value.unwrap_or_default());
                        }
                    }
                }
                assert_eq!(got, Upserted { created, count: entry.count });
            }
            Op::Advance(by) => {
                clock += by;
                pop(&mut table, &mut model, (rule, trailing), clock, usize::MAX);
            }
            Op::Pop(max) => pop(&mut table, &mut model, (rule, trailing), clock, *max),
            Op::Take(k) => {
                let got = table.take(&key(*k), |f| Entry::of(&f.row));
                assert_eq!(got, model.remove(&key(*k)));
            }
            Op::Checkpoint => {
                disk.freeze(&mut table, &model);
                disk.copy(&mut table, usize::MAX);
            }
            Op::Freeze => disk.freeze(&mut table, &model),
            Op::Copy(rows) => disk.copy(&mut table, *rows),
            Op::Restart { backwards } => {
                disk.freeze(&mut table, &model);
                disk.copy(&mut table, usize::MAX);
                table = make();
                let mut rows: Vec<_> = disk.rows.iter().collect();
                if *backwards {
                    rows.reverse();
                }
                for (key, row) in rows {
                    table.insert_row(key, row).unwrap();
                }
            }
        }
        assert_eq!(table.len(), model.len());
        assert_eq!(table.next_deadline().is_none(), model.is_empty());
        if let (Some(next), Some(first)) = (table.next_deadline(), due(&model, rule, i64::MAX).first()) {
            assert!(next <= first.0, "late: {next} > {}", first.0);
        }
    }
    for (key, entry) in &model {
        let got = table.get(key).map(|p| Entry::of(&p.row));
        assert_eq!(got.as_ref(), Some(entry));
    }
    pop(&mut table, &mut model, (rule, trailing), i64::MAX, usize::MAX);
    assert!(table.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_sorted_map_that_is_searched(
        rule in rules(),
        trailing in any::<bool>(),
        start in prop_oneof![Just(0i64), Just(1_700_000_000_000), -1_000_000i64..1_000_000],
        ops in ops(),
    ) {
        run(rule, trailing, start, &ops);
    }
}

const QUIET: Rule = Rule::Quiet { quiet: 30_000, max_wait: Some(60_000) };

#[test]
fn the_reason_says_which_limit_fired() {
    let reason = |rule, times: &[i64]| {
        let mut table = PendingTable::new(rule);
        for &at in times {
            table.upsert(b"k", at, at, None, b"", Keep::Last);
        }
        let mut fired = None;
        table.pop_due(i64::MAX, 1, |f| fired = Some((f.reason, f.deadline)));
        fired.unwrap()
    };
    assert_eq!(reason(QUIET, &[0]), (Reason::Quiet, 30_000));
    assert_eq!(reason(QUIET, &[0, 20_000, 30_000]), (Reason::Quiet, 60_000));
    assert_eq!(reason(QUIET, &[0, 20_000, 40_000]), (Reason::MaxWait, 60_000));
    assert_eq!(reason(Rule::Settle { settle: 5 }, &[0, 4]), (Reason::Settle, 5));
}

/// A whole checkpoint at once.
fn drain(table: &mut PendingTable) -> DirtyBatch {
    table.freeze();
    let mut done = None;
    while table.is_frozen() {
        done = done.or(table.copy_frozen(usize::MAX));
    }
    done.expect("a checkpoint that was begun ends")
}

#[test]
fn a_key_and_a_value_of_a_megabyte_are_kept() {
    let mut table = PendingTable::new(QUIET);
    let (key, value) = (vec![1; 1 << 20], vec![2; 1 << 20]);
    for n in 0..3 {
        table.upsert(&key, n, n, Some(&value[..usize::try_from(n).unwrap() * 500_000]), b"x", Keep::Last);
    }
    assert!(table.bytes() > 2 << 20);
    let batch = drain(&mut table);
    assert_eq!((batch.len(), batch.bytes()), (1, (1 << 20) + 1_000_000 + 1 + HEADER_BYTES));
    assert!(!table.is_frozen());
    assert_eq!(table.pop_due(30_002, 9, |f| assert_eq!(f.row.value.map(<[u8]>::len), Some(1_000_000))), 1);
    assert_eq!(drain(&mut table).len(), 1, "a tombstone");
    assert!(table.bytes() < 1 << 20, "{}", table.bytes());
}

#[test]
fn memory_is_as_designed_and_comes_back() {
    let mut table = PendingTable::new(QUIET);
    table.pop_due(0, 1, |_| ());
    for n in 0..300_000u64 {
        let key = format!("account-{n:012}");
        table.upsert(key.as_bytes(), 0, 0, Some(&[7; 128]), b"", Keep::Last);
    }
    let each = table.bytes() / 300_000;
    assert!(each < 240, "{each} bytes per key");
    assert_eq!(table.pop_due(30_000, usize::MAX, |_| ()), 300_000);
    assert!(table.bytes() < 8 << 20, "{}", table.bytes());
}

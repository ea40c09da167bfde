//! What slackwater has written once, it reads for ever: state directories and changelogs, kept as files.
//!
//! Each case in `tests/fixtures/formats` is a topology, what makes its state, and the changelog that each version of the
//! format wrote. Every one of them must open and go on as if nothing had been; and today's program must still write
//! exactly the bytes of the newest one. A change of a format that is meant adds a file beside the old ones, which stay:
//!
//! ```text
//! FORMATS_WRITE=debounce:2 cargo test --test sim formats write            writes v2.jsonl of a case; never over a file
//! FORMATS_WRITE=state-directory:2 cargo test --test sim formats write     the same for a state directory
//! FORMATS_WRITE=changed cargo test --test sim formats write               the next version of every case whose bytes changed
//! ```
//!
//! A new case is `topology.yaml`, `before.jsonl` and `after.jsonl` in a directory of its own, a line in `CASES`, and that
//! command.

mod directory;
mod fixture;
mod run;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use fixture::{Case, as_lines, rows};
use run::{Run, topology};
use serde_json::Value as Json;
use slackwater::state::{Backend, META_FORMAT, MemoryBackend, Row, changelog, codec};
use slackwater::topology::{NodeKind, Topology};

/// A kind of row: the store that has it, how its key goes on behind the store's name, and the first byte of its value.
type Kind = (&'static str, &'static [u8], Option<u8>);

/// The cases, and the kinds of rows that each must hold.
const CASES: &[(&str, &[Kind])] = &[
    (
        "aggregate",
        &[
            ("every", b"a", Some(1)),
            ("count", b"a", Some(1)),
            ("folded", b"a", Some(1)),
            ("tumbling", b"\x80", Some(1)),
            ("final", b"\x80", Some(1)),
            ("hopping", b"\x80", Some(1)),
            ("sliding", b"", Some(1)),
            ("session", b"", Some(1)),
        ],
    ),
    ("debounce", &[("last", b"a", Some(1)), ("all", b"a", Some(1)), ("merged", b"b", Some(1))]),
    ("dedupe", &[("unique", b"\x80", Some(1))]),
    ("delivery", &[("posts", b"\0\0\0\0\0\0\0", Some(1))]),
    (
        "enrich",
        &[
            ("raw", b"\0\0\0\0\0\0\0", Some(1)),
            ("json", b"\0\0\0\0\0\0\0", Some(1)),
            ("windowed", b"\0\0\0\0\0\0\0", Some(1)),
        ],
    ),
    // Rows with a result; who names which key.
    ("foreign-key-left", &[("j", b"o1", None), ("orders", b"o1", Some(1))]),
    ("foreign-key-right", &[("j-right", b"\0\0\0\x01ao1", Some(1)), ("customers", b"a", Some(1))]),
    (
        "stream-stream-join",
        &[
            // Left, right, waiting, counters.
            ("j", b"\0\x80", Some(1)),
            ("j", b"\x01\x80", Some(1)),
            ("j", b"\x02\x80", None),
            ("j", b"\x03", Some(1)),
        ],
    ),
    ("stream-table-join", &[("both", b"\0\x80", Some(1)), ("both", b"\x01", Some(1))]),
    ("suppress", &[("closed", b"", Some(1)), ("timed", b"", Some(1))]),
    // Without and with a window in the key.
    ("table", &[("customers", b"a", Some(1)), ("latest", b"a\x80", Some(1))]),
    (
        "versioned-table",
        &[
            // Newest, earlier, when one may go, the highest timestamp.
            ("rates", b"\0b", Some(1)),
            ("rates", b"\x01\0\0\0\x01a", Some(1)),
            ("rates", b"\x02\x80", None),
            ("rates", b"\x03", Some(1)),
        ],
    ),
];

/// Everything that `state_kind` of a node can be. A new one gets a case.
const STATE_KINDS: &[&str] = &[
    "aggregate",
    "debounce",
    "dedupe",
    "enrich",
    "foreign-key join, left half",
    "foreign-key join, right half",
    "sink",
    "stream-stream join",
    "stream-table join",
    "suppress",
    "table",
    "versioned table",
];

fn cases() -> impl Iterator<Item = Case> {
    CASES.iter().map(|(name, _)| Case::new(name))
}

/// State as a restore leaves it: a changelog, replayed in two pieces.
fn restored(log: &[Row]) -> Arc<MemoryBackend> {
    let backend = Arc::new(MemoryBackend::default());
    let (first, second) = log.split_at(log.len() / 2);
    for (rows, next) in [(first, first.len()), (second, log.len())] {
        let next = i64::try_from(next).expect("a few rows");
        backend.write(&changelog::batch(rows, next).expect("encodes")).expect("writes");
    }
    backend
}

/// What comes out of a case when it goes on with this state.
fn go_on(case: &Case, topology: &Topology, state: Arc<dyn Backend>) -> Result<Vec<Json>, String> {
    let mut run = Run::open(topology, &case.topic(), state).map_err(|e| e.to_string())?;
    run.lines(&case.lines("after.jsonl")).map_err(|e| e.to_string())?;
    Ok(run.out)
}

/// What today's program writes, and what comes out when it goes on without a stop.
fn today(case: &Case, topology: &Topology) -> (Vec<Row>, Vec<Json>) {
    let mut run = Run::open(topology, &case.topic(), Arc::new(MemoryBackend::default())).expect("starts");
    run.lines(&case.lines("before.jsonl")).expect("runs");
    let changelog = run.changelog;
    let out = go_on(case, topology, restored(&changelog)).expect("goes on");
    (changelog, out)
}

#[test]
fn every_version_opens_and_goes_on() {
    for case in cases() {
        let topology = topology(&case.name, &case.yaml());
        let versions = case.versions();
        assert_eq!(versions.first(), Some(&1), "{} has no first version", case.name);
        for version in versions {
            let got = go_on(&case, &topology, restored(&case.changelog(version)));
            let got = got.unwrap_or_else(|e| panic!("{} v{version}: {e}", case.name));
            let want = case.lines("expected.jsonl");
            assert!(!want.is_empty());
            assert_eq!(as_lines(&got), as_lines(&want), "{} v{version}", case.name);
        }
    }
}

#[test]
fn todays_rows_are_those_of_the_newest_version() {
    for case in cases() {
        let topology = topology(&case.name, &case.yaml());
        let newest = case.versions().last().copied().expect("a version");
        let (changelog, _) = today(&case, &topology);
        assert_eq!(
            as_lines(&rows(&changelog)),
            as_lines(&rows(&case.changelog(newest))),
            "{} is not written as v{newest} any more. State and changelogs of that format are out there: keep reading it, \
             give what is new a new version byte, and add a fixture (see the top of this file)",
            case.name
        );
    }
}

#[test]
fn the_fixtures_hold_every_kind_of_row() {
    let mut listed: Vec<&str> = CASES.iter().map(|(name, _)| *name).chain([directory::NAME]).collect();
    listed.sort_unstable();
    let mut found: Vec<String> = std::fs::read_dir(fixture::root())
        .expect("fixtures")
        .map(|e| e.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    found.sort_unstable();
    assert_eq!(found, listed, "directories, and the list of cases");
    let mut kinds = BTreeSet::new();
    let mut notes = BTreeSet::new();
    for (name, wanted) in CASES {
        let case = Case::new(name);
        for version in case.versions() {
            let log = case.changelog(version);
            for (store, key, first) in *wanted {
                let prefix = [store.as_bytes(), b"\0", *key].concat();
                let is = |(k, v): &&Row| {
                    k.starts_with(&prefix)
                        && v.as_ref().is_some_and(|v| first.is_none() || v.first().copied() == *first)
                };
                assert!(
                    log.iter().find(is).is_some(),
                    "{name} v{version} has no row {store} {key:x?} {first:?}"
                );
            }
            notes.extend(
                log.iter()
                    .filter(|(k, _)| k[0] == 0)
                    .map(|(k, _)| String::from_utf8_lossy(&k[1..]).into_owned()),
            );
        }
        let topology = topology(name, &case.yaml());
        for (n, node) in topology.nodes.iter().enumerate() {
            kinds.extend(match &node.kind {
                NodeKind::Operator(config) => config.state_kind(&node.plan),
                NodeKind::Source(_) => node.table.map(|table| table.state_kind()),
                NodeKind::Sink(_) => topology.readers(n).next().map(|_| "sink"),
            });
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), STATE_KINDS);
    assert_eq!(notes.iter().collect::<Vec<_>>(), ["clocks", "format", "positions", "shape"]);
}

#[test]
fn the_whole_is_refused_if_a_newer_program_wrote_it() {
    for case in cases() {
        let topology = topology(&case.name, &case.yaml());
        let mut log = case.changelog(1);
        log.push((Bytes::from_static(META_FORMAT), Some(codec::encode(1, &2u32).expect("encodes"))));
        let error = go_on(&case, &topology, restored(&log)).expect_err("is refused");
        assert!(error.contains("the state has format 2, and this program reads format 1"), "{error}");
        // What was written before there was that row.
        log.retain(|(k, _)| &k[..] != META_FORMAT);
        let got = go_on(&case, &topology, restored(&log)).expect("opens");
        assert_eq!(as_lines(&got), as_lines(&case.lines("expected.jsonl")), "{}", case.name);
    }
}

/// A row of an unknown version is never taken for something else.
#[test]
fn a_row_of_a_newer_version_is_refused() {
    for (name, wanted) in CASES {
        let case = Case::new(name);
        let topology = topology(name, &case.yaml());
        for (store, key, first) in *wanted {
            if first.is_none() {
                continue;
            }
            let mut log = case.changelog(1);
            let prefix = [store.as_bytes(), b"\0", *key].concat();
            for (_, value) in log.iter_mut().filter(|(k, _)| k.starts_with(&prefix)) {
                *value = value.as_ref().map(|v| [&[99], &v[1..]].concat().into());
            }
            let got = go_on(&case, &topology, restored(&log));
            assert!(got.is_err(), "{name}: rows {store} {key:x?} of version 99 are read: {got:?}");
        }
    }
}

#[test]
fn write() {
    let Ok(wanted) = std::env::var("FORMATS_WRITE") else { return };
    if wanted == "changed" {
        for case in cases() {
            let newest = case.versions().last().copied();
            let (changelog, expected) = today(&case, &topology(&case.name, &case.yaml()));
            if newest.is_none_or(|version| case.changelog(version) != changelog) {
                case.write(newest.unwrap_or(0) + 1, &changelog, &expected);
            }
        }
        return directory::write_first();
    }
    let parsed = wanted.split_once(':').and_then(|(name, n)| Some((name, n.parse::<u32>().ok()?)));
    let (name, version) = parsed.expect("FORMATS_WRITE=CASE:VERSION");
    if name == directory::NAME {
        return directory::write(version);
    }
    let case = Case::new(name);
    assert_eq!(version, case.versions().last().map_or(1, |v| v + 1), "versions of {name} follow each other");
    let topology = topology(name, &case.yaml());
    let (changelog, expected) = today(&case, &topology);
    case.write(version, &changelog, &expected);
}

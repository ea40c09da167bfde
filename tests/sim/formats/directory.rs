//! A state directory as a version left it, in `state-directory/vN`: the case `table` behind a RocksDB, whose first rows
//! are in a table file and whose last ones are in the log alone.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slackwater::state::{Backend, RocksBackend, RocksEnv, Row, StateDir, changelog};

use super::fixture::{self, Case, as_lines, rows, versions};
use super::{go_on, restored, run, today};

pub const NAME: &str = "state-directory";

fn env() -> RocksEnv {
    RocksEnv::new(1 << 20, 1 << 20)
}

fn dir() -> PathBuf {
    fixture::root().join(NAME)
}

/// The files of one directory, those of a running process left out: its lock, and what it told about itself.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        let target = to.join(&name);
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else if name != "LOCK" && !name.to_string_lossy().starts_with("LOG") {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

fn all(backend: &dyn Backend) -> Vec<Row> {
    let mut out = Vec::new();
    let mut visit = |k: &[u8], v: &[u8]| {
        out.push((k.to_vec().into(), Some(v.to_vec().into())));
        ControlFlow::Continue(())
    };
    backend.scan(b"", &[0xff; 8], &mut visit).expect("scans");
    out
}

#[test]
fn every_state_directory_opens_and_goes_on() {
    let case = Case::new("table");
    let topology = run::topology(NAME, &case.yaml());
    let found = versions(&dir());
    assert_eq!(found.first(), Some(&1));
    for version in found {
        let temp = tempfile::tempdir().expect("a directory");
        copy(&dir().join(format!("v{version}")), temp.path());
        let state = StateDir::lock(temp.path()).expect("locks");
        let tasks = state.tasks().expect("lists");
        let [task] = &tasks[..] else { panic!("v{version}: not one task: {tasks:?}") };
        assert_eq!((task.sub.as_str(), task.partition), (topology.subs[0].name.as_str(), 0));
        assert_eq!(task.path, StateDir::task(temp.path(), &topology.subs[0].name, 0));
        let looked = RocksBackend::open_read_only(&task.path).expect("can be looked into");
        let held = as_lines(&rows(&all(&looked)));
        drop(looked);
        // It holds what one of the versions of the rows left.
        let states =
            case.versions().into_iter().map(|v| as_lines(&rows(&all(&*restored(&case.changelog(v))))));
        assert!(states.into_iter().any(|state| state == held), "v{version} holds other rows:\n{held}");
        let opened = RocksBackend::open(&task.path, &env()).expect("opens");
        assert_eq!(as_lines(&rows(&all(&opened))), held, "v{version}, opened");
        assert!(changelog::position(&opened).expect("a position") > 0);
        let got = go_on(&case, &topology, Arc::new(opened)).expect("goes on");
        assert_eq!(as_lines(&got), as_lines(&case.lines("expected.jsonl")), "v{version}");
    }
}

/// Writes the first version, where there is none.
pub fn write_first() {
    if versions(&dir()).is_empty() {
        write(1);
    }
}

/// Writes a version that is not there yet.
pub fn write(version: u32) {
    let new = dir().join(format!("v{version}"));
    assert!(!new.exists(), "{} is there: a format that was written stays as it is", new.display());
    let case = Case::new("table");
    let topology = run::topology(NAME, &case.yaml());
    let (log, _) = today(&case, &topology);
    let temp = tempfile::tempdir().expect("a directory");
    let path = StateDir::task(temp.path(), &topology.subs[0].name, 0);
    let (first, second) = log.split_at(log.len() / 2);
    for (rows, next) in [(first, first.len()), (second, log.len())] {
        // Opening writes what is in the log alone to a table file.
        let backend = RocksBackend::open(&path, &env()).expect("opens");
        let next = i64::try_from(next).expect("few");
        backend.write(&changelog::batch(rows, next).expect("encodes")).expect("writes");
    }
    copy(temp.path(), &new);
}

//! The files of a case, in `tests/fixtures/formats/CASE`:
//!
//! - `topology.yaml`, `before.jsonl`: what makes the state
//! - `after.jsonl`, `expected.jsonl`: what comes when it is open again, and what must come out
//! - `v1.jsonl`, `v2.jsonl`, ...: the changelog that a version wrote, one row a line, `{"key": HEX, "value": HEX or null}`

use std::fmt::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Value as Json, json};
use slackwater::state::Row;

/// Where all cases are.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats")
}

/// One case.
pub struct Case {
    pub name: String,
    dir: PathBuf,
}

impl Case {
    pub fn new(name: &str) -> Case {
        Case { name: name.to_owned(), dir: root().join(name) }
    }

    fn read(&self, file: &str) -> String {
        let path = self.dir.join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The text of `topology.yaml`.
    pub fn yaml(&self) -> String {
        self.read("topology.yaml")
    }

    /// The lines of a script or of an output.
    pub fn lines(&self, file: &str) -> Vec<Json> {
        let text = self.read(file);
        let line = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{}/{file}: {e}: {line}", self.name))
        };
        text.lines().filter(|l| !l.trim().is_empty()).map(line).collect()
    }

    /// The topic of the first record: its task is the one that runs.
    pub fn topic(&self) -> String {
        let lines = self.lines("before.jsonl");
        lines.iter().find_map(|line| line["topic"].as_str()).expect("a record").to_owned()
    }

    /// The versions that there are, in order.
    pub fn versions(&self) -> Vec<u32> {
        versions(&self.dir)
    }

    /// The changelog that a version wrote.
    pub fn changelog(&self, version: u32) -> Vec<Row> {
        let row = |line: &Json| {
            let bytes = |name: &str| line[name].as_str().map(from_hex);
            (bytes("key").expect("a key"), bytes("value"))
        };
        self.lines(&format!("v{version}.jsonl")).iter().map(row).collect()
    }

    /// Writes a version that is not there yet, and `expected.jsonl` where there is none.
    pub fn write(&self, version: u32, changelog: &[Row], expected: &[Json]) {
        let new = self.dir.join(format!("v{version}.jsonl"));
        assert!(!new.exists(), "{} is there: a format that was written stays as it is", new.display());
        std::fs::write(&new, as_lines(&rows(changelog))).expect("the fixture is written");
        let path = self.dir.join("expected.jsonl");
        if !path.exists() {
            std::fs::write(path, as_lines(expected)).expect("the fixture is written");
        }
    }
}

/// Entries `vN` or `vN.jsonl` of a directory.
pub fn versions(dir: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.expect("an entry").file_name().into_string().expect("text");
        name.strip_prefix('v')?.trim_end_matches(".jsonl").parse().ok()
    };
    let mut all: Vec<u32> = entries.filter_map(number).collect();
    all.sort_unstable();
    all
}

/// Rows as JSON, for files and comparisons.
pub fn rows(rows: &[Row]) -> Vec<Json> {
    rows.iter().map(|(k, v)| json!({ "key": hex(k), "value": v.as_deref().map(hex) })).collect()
}

/// One line each.
pub fn as_lines(all: &[Json]) -> String {
    all.iter().map(|line| format!("{line}\n")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

pub fn from_hex(text: &str) -> Bytes {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digit).collect::<Vec<u8>>().into()
}

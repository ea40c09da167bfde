//! Topologies of lines (`file`, `stdin`) from outside: several sources in one sub-topology. Nothing here needs a server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// A folder with files of lines and a topology that writes to `out.jsonl`.
struct Lines {
    dir: TempDir,
}

impl Lines {
    fn new() -> Lines {
        Lines { dir: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes lines of JSON.
    fn put(&self, name: &str, lines: &[Json]) {
        let text = lines.iter().fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").expect("is text");
            text
        });
        std::fs::write(self.path(name), text).expect("is written");
    }

    /// Runs `text`, in which `DIR` stands for the folder, to the end of its sources; the lines of `out.jsonl`.
    fn run(&self, command: &str, args: &[&str], text: &str, stdin: &str) -> Vec<Json> {
        let path = self.path("t.yaml");
        std::fs::write(&path, text.replace("DIR", &self.dir.path().display().to_string()))
            .expect("is written");
        let out = self.path("out.jsonl");
        // Of an earlier run: a file is appended to.
        drop(std::fs::remove_file(&out));
        let state = tempfile::tempdir().expect("a folder");
        let ended = Command::new(env!("CARGO_BIN_EXE_slackwater"))
            .arg(command)
            .arg(&path)
            .args(["--admin", "127.0.0.1:0", "--state-dir"])
            .arg(state.path())
            .args(args)
            .write_stdin(stdin)
            .timeout(std::time::Duration::from_secs(60))
            .output()
            .expect("it runs");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect()
    }

    /// `run`, and `dev`, which does the same with nothing of Kafka.
    fn check(&self, text: &str, mut expected: Vec<Json>) {
        expected.sort_by_key(Json::to_string);
        for (command, args) in
            [("run", [].as_slice()), ("dev", &["--plain", "--duration", "2s", "--speed", "1"])]
        {
            let mut got = self.run(command, args, text, "");
            got.sort_by_key(Json::to_string);
            assert_eq!(got, expected, "{command}");
        }
    }
}

#[test]
fn a_merge_of_two_files_has_each_line_once_with_the_settings_of_its_own_source() {
    let lines = Lines::new();
    lines.put("a.jsonl", &[json!({"id": "a1", "at": 1000}), json!({"id": "a2", "at": 3000})]);
    lines.put("b.jsonl", &[json!({"name": "b1", "ms": 2000}), json!({"name": "b2", "ms": 4000})]);
    let text = "
name: t
sources:
  a: { file: { path: DIR/a.jsonl, key: .id, timestamp: .at } }
  b: { file: { path: DIR/b.jsonl, key: .name, timestamp: .ms } }
operators:
  all: { from: [a, b], merge: {} }
sinks:
  out: { from: all, file: { path: DIR/out.jsonl } }
";
    let expected = vec![
        json!({"key": "a1", "value": {"id": "a1", "at": 1000}, "ts": 1000}),
        json!({"key": "b1", "value": {"name": "b1", "ms": 2000}, "ts": 2000}),
        json!({"key": "a2", "value": {"id": "a2", "at": 3000}, "ts": 3000}),
        json!({"key": "b2", "value": {"name": "b2", "ms": 4000}, "ts": 4000}),
    ];
    lines.check(text, expected.clone());
    assert_eq!(lines.run("run", &[], text, ""), expected, "in the order of time");
}

#[test]
fn a_join_of_two_files_sees_the_table_as_of_the_time_of_each_line() {
    let lines = Lines::new();
    let city = |at: u64, city: &str| json!({"user": "u", "city": city, "at": at});
    lines.put("users.jsonl", &[city(1000, "Bonn"), city(3000, "Kiel")]);
    let order = |at: u64| json!({"user": "u", "at": at});
    lines.put("orders.jsonl", &[order(500), order(2000), order(4000)]);
    // The stream is declared first: order comes from time.
    let text = "
name: t
sources:
  orders: { file: { path: DIR/orders.jsonl, key: .user, timestamp: .at } }
  users: { file: { path: DIR/users.jsonl, key: .user, timestamp: .at }, table: {} }
operators:
  with-user:
    from: orders
    join: { with: users, type: left, value: '{ \"at\": left.at, \"city\": right.city }' }
sinks:
  out: { from: with-user, file: { path: DIR/out.jsonl } }
";
    let row = |at: u64, city: Json| json!({"key": "u", "value": {"at": at, "city": city}, "ts": at});
    let expected = vec![row(500, Json::Null), row(2000, json!("Bonn")), row(4000, json!("Kiel"))];
    lines.check(text, expected);
}

#[test]
fn a_join_of_two_streams_of_lines_finds_every_pair_however_long_the_files_are() {
    // More than is read at a time of one source, and far more time than the join waits: were one file read first, the
    // lines of the other would all be late.
    const PAIRS: u64 = 2000;
    let lines = Lines::new();
    let all = |late: u64| -> Vec<Json> {
        (0..PAIRS).map(|n| json!({"id": n.to_string(), "at": 1_000_000 + n * 1000 + late})).collect()
    };
    lines.put("orders.jsonl", &all(0));
    lines.put("payments.jsonl", &all(300));
    let text = "
name: t
time: { clock: stream }
sources:
  orders: { file: { path: DIR/orders.jsonl, key: .id, timestamp: .at } }
  payments: { file: { path: DIR/payments.jsonl, key: .id, timestamp: .at } }
operators:
  paid:
    from: orders
    join: { with: payments, within: { before: 0s, after: 1s }, value: right.at - left.at }
sinks:
  out: { from: paid, file: { path: DIR/out.jsonl } }
";
    let got = lines.run("run", &[], text, "");
    let keys: BTreeMap<&str, &Json> =
        got.iter().map(|row| (row["key"].as_str().expect("a key"), &row["value"])).collect();
    assert_eq!((got.len() as u64, keys.len() as u64), (PAIRS, PAIRS));
    assert!(keys.values().all(|late| **late == json!(300)));
}

#[test]
fn lines_of_standard_input_do_not_wait_for_made_up_records_nor_these_for_them() {
    let lines = Lines::new();
    lines.put("a.jsonl", &[json!({"id": "a"})]);
    let text = "
name: t
sources:
  in: { stdin: { key: .id } }
  a: { file: { path: DIR/a.jsonl, key: .id } }
  made: { generate: { rate: 100/s, keys: 1, count: 3 } }
operators:
  all: { from: [in, a, made], merge: {} }
sinks:
  out: { from: all, file: { path: DIR/out.jsonl } }
";
    let rows = lines.run("run", &[], text, "{\"id\": \"x\"}\n{\"id\": \"y\"}\n");
    let mut keys: Vec<&str> = rows.iter().filter_map(|row| row["key"].as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["a", "key-0", "key-0", "key-0", "x", "y"]);
}

#[test]
fn the_run_test_send_to_each_source_of_lines() {
    let lines = Lines::new();
    let text = "
name: t
sources:
  a: { file: { path: none.jsonl, key: .id } }
  b: { stdin: { key: .name } }
operators:
  all: { from: [a, b], merge: {} }
sinks:
  out: { from: all, stdout: {} }
tests:
  - name: each has its own settings
    steps:
      - send: { to: a, value: { id: x } }
      - send: { to: b, value: { name: y } }
      - expect: { out: [ { key: x, value: { id: x } }, { key: y, value: { name: y } } ] }
";
    std::fs::write(lines.path("t.yaml"), text).expect("is written");
    let ended = Command::new(env!("CARGO_BIN_EXE_slackwater"))
        .arg("test")
        .arg(lines.path("t.yaml"))
        .output()
        .expect("it runs");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
}

/// `run` of these bytes: whether it ended well, the values that came out, and what was said.
fn run_bytes(bytes: &[u8], format: &str) -> (bool, Vec<Json>, String) {
    let lines = Lines::new();
    std::fs::write(lines.path("in.txt"), bytes).expect("is written");
    let text = format!(
        "name: t
sources: {{ in: {{ file: {{ path: DIR/in.txt, format: {format} }} }} }}
operators: {{ all: {{ from: in, filter: 'true' }} }}
sinks: {{ out: {{ from: all, file: {{ path: DIR/out.jsonl }} }} }}
errors: {{ on_failure: skip }}
"
    );
    let path = lines.path("t.yaml");
    std::fs::write(&path, text.replace("DIR", &lines.dir.path().display().to_string())).expect("is written");
    let state = tempfile::tempdir().expect("a folder");
    let ended = Command::new(env!("CARGO_BIN_EXE_slackwater"))
        .arg("run")
        .arg(&path)
        .args(["--admin", "127.0.0.1:0", "--state-dir"])
        .arg(state.path())
        .timeout(std::time::Duration::from_secs(60))
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let text = std::fs::read_to_string(lines.path("out.jsonl")).unwrap_or_default();
    let value = |line| serde_json::from_str::<Json>(line).expect("is JSON")["value"].clone();
    (ended.status.success(), text.lines().map(value).collect(), said)
}

#[test]
fn a_line_that_is_no_text_is_refused_and_the_file_goes_on() {
    let bytes = b"\xef\xbb\xbf{\"n\":1}\r\n{\"n\":\"\xff\"}\n\xfe\n{\"n\":2}";
    let (good, out, said) = run_bytes(bytes, "json");
    assert!(good, "{said}");
    assert_eq!(out, [json!({"n": 1}), json!({"n": 2})], "{said}");
    let (good, out, said) = run_bytes(b"\xef\xbb\xbfa\n\xff\nb\n", "string");
    assert_eq!((good, out), (true, vec![json!("a"), json!("b")]), "{said}");
}

#[test]
fn what_cannot_be_read_ends_with_an_error() {
    let utf_16: Vec<u8> =
        "\u{feff}{\"n\":1}\n{\"n\":2}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (good, out, said) = run_bytes(&utf_16, "json");
    assert!(!good && out.is_empty() && said.contains("UTF-16"), "{said}");
}

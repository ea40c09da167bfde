//! The built program from outside: exit codes, what stands on standard output, the line protocol of `simulate`, the
//! admin port, stopping. Nothing here needs a server.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command as Process, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::{Value as Json, json};
use slackwater::runtime::metrics::Metrics;
use slackwater::yaml::{Mode, load};
use tempfile::TempDir;

const ACCOUNT_SYNC: &str = "topology/account-sync.yaml";

/// A command in the repository's root without our variables.
pub(super) fn slackwater(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slackwater"));
    for name in ["KAFKA_BROKERS", "ACCOUNTS_API", "SPANNER_DATABASE", "SLACKWATER_LOG_FORMAT"] {
        command.env_remove(name);
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args);
    command
}

pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

pub(super) fn end(command: &mut Command) -> Ended {
    let output = command.output().expect("it runs");
    Ended {
        code: output.status.code().expect("no signal"),
        out: String::from_utf8(output.stdout).expect("is text"),
        err: String::from_utf8(output.stderr).expect("is text"),
    }
}

/// Exit code, and a part of what it says on standard error.
#[track_caller]
pub(super) fn check(args: &[&str], code: i32, part: &str) -> Ended {
    let ended = end(&mut slackwater(args));
    assert_eq!(ended.code, code, "{args:?}\n{}{}", ended.out, ended.err);
    assert!(ended.err.contains(part), "{part:?} is not in {:?}", ended.err);
    ended
}

pub(super) fn file(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("is written");
    path.display().to_string()
}

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

const GOOD: &str =
    "name: t\nsources: { in: { generate: {} } }\nsinks: { out: { from: in, blackhole: {} } }\n";

#[test]
fn exit_codes_say_what_happened() {
    let dir = folder();
    let good = file(&dir, "good.yaml", GOOD);
    let bad = file(&dir, "bad.yaml", "name: t\n");
    let none = dir.path().join("none.yaml").display().to_string();
    check(&["check", &good], 0, "");
    check(&["--version"], 0, "");
    check(&[], 2, "Usage");
    check(&["chekc"], 2, "similar subcommand");
    check(&["run", &good, "--workers", "0"], 2, "1..=256");
    check(&["run", &good, "--stop-deadline", "30"], 2, "is no duration");
    check(&["graph", &good, "--format", "svg"], 2, "possible values");
    for command in ["run", "check", "test", "graph"] {
        check(&[command, &none], 2, "cannot read");
        check(&[command, &bad], 78, "the topology has no source");
    }
    check(&["simulate", &good, "--records", &none], 2, "cannot read");
    check(&["simulate", &good, "--records", "/"], 2, "cannot read /: is a directory");
    check(&["simulate", &bad, "--records", "-"], 78, "the topology has no source");
    check(&["test", &good], 1, "no test was run");
}

#[test]
fn check_reports_everything_for_people_and_for_programs() {
    let dir = folder();
    let ended = check(&["check", ACCOUNT_SYNC], 78, "`SPANNER_DATABASE` is not set");
    assert!(ended.err.contains("account-sync.yaml: 2 problems") && ended.out.is_empty(), "{}", ended.err);
    assert!(!ended.err.contains('\u{1b}'), "no colours where no terminal is");
    let bad = file(&dir, "bad.yaml", &GOOD.replace("generate: {}", "generate: { rate: 5 }"));
    let good = file(&dir, "good.yaml", GOOD);
    let ended = check(&["check", &bad, &good, "--format", "json"], 78, "");
    let problems: Vec<Json> = serde_json::from_str(&ended.out).expect("is a list");
    let fields = ["code", "line", "column"].map(|f| problems[0][f].clone());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(fields, [json!("wrong-type"), json!(2), json!(36)]);
    assert_eq!(problems[0]["file"], json!(bad));
    let ended = check(&["check", &good, "--format", "json"], 0, "");
    assert_eq!(ended.out, "[]\n");
    let ended = check(&["check", &good, "--connect"], 0, "");
    assert_eq!(ended.out, format!("{good}: ok\n"));
}

#[test]
fn a_warning_refuses_nothing() {
    let dir = folder();
    let path = file(
        &dir,
        "t.yaml",
        "name: t\nsources: { in: { generate: {} } }\noperators: { a: { from: in, filter: .ok } }\n",
    );
    let ended = check(&["check", &path], 0, "the topology has no sink");
    assert!(ended.err.contains("1 warning") && ended.out.contains(": ok"), "{}{}", ended.err, ended.out);
    let ended = check(&["check", "--format", "json", &path], 0, "");
    let rows: Json = serde_json::from_str(&ended.out).expect("is JSON");
    assert_eq!((&rows[0]["code"], &rows[0]["severity"]), (&json!("graph::no_sink"), &json!("warning")));
}

#[test]
fn check_connect_says_which_server_is_away() {
    let ended = end(slackwater(&["check", ACCOUNT_SYNC, "--connect", "--format", "json"])
        .env("KAFKA_BROKERS", "127.0.0.1:1")
        .env("ACCOUNTS_API", "http://127.0.0.1:1")
        .env("SPANNER_DATABASE", "projects/p/instances/i/databases/d")
        .env("SPANNER_EMULATOR_HOST", "127.0.0.1:1"));
    let problems: Vec<Json> = serde_json::from_str(&ended.out).expect("is a list");
    let codes: Vec<&str> = problems.iter().filter_map(|p| p["code"].as_str()).collect();
    assert_eq!(codes, ["connect::kafka", "connect::api", "connect::sink"], "{problems:?}");
    assert_eq!(ended.code, 69, "{}", ended.err);
}

#[test]
fn the_run_test_are_run() {
    let ended = check(&["test", ACCOUNT_SYNC], 0, "");
    assert!(ended.out.contains("ok      a burst is one call and one row\n"), "{}", ended.out);
    assert!(ended.out.ends_with(" passed, 0 failed\n"), "{}", ended.out);
    let dir = folder();
    let tests = "tests:\n  - name: wrong\n    steps:\n      - send: { to: in, key: a, value: 1 }\n      - expect: { out: [] }\n";
    let bad = file(&dir, "bad.yaml", &format!("{GOOD}{tests}"));
    let ended = check(&["test", &bad], 1, "");
    let place = format!("FAILED  wrong\n        {bad}:8: out: expected 0 records, got 1");
    assert!(ended.out.contains(&place), "{}", ended.out);
    assert!(ended.out.ends_with("0 passed, 1 failed\n"), "{}", ended.out);
}

/// Lines in, lines out, all of them.
#[track_caller]
fn simulate(args: &[&str], input: &[Json], expected: &[Json]) {
    let lines: String = input.iter().map(|line| format!("{line}\n")).collect();
    let mut command = slackwater(&["simulate", ACCOUNT_SYNC, "--records", "-"]);
    let ended = end(command.args(args).write_stdin(lines));
    let out: Vec<Json> =
        ended.out.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert_eq!(out, expected, "{}", ended.err);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}

fn event(key: &str, n: u64, ts: u64) -> Json {
    json!({ "topic": "user-changes", "key": key, "value": { "n": n }, "ts": ts })
}

fn call(step: u64, key: &str, attempt: u64) -> Json {
    json!({ "step": step, "call": "account", "key": key, "attempt": attempt })
}

fn row(step: u64, key: &str, state: &Json, updated: &str, ts: u64) -> Json {
    let value = json!({ "AccountId": key, "State": state, "UpdatedAt": updated });
    json!({ "step": step, "to": "accounts", "key": key, "value": value, "ts": ts })
}

#[test]
fn three_events_of_a_key_are_one_call_and_one_row() {
    let none = json!({});
    let input = [
        event("a", 1, 0),
        event("b", 1, 10_000),
        event("a", 2, 20_000),
        event("a", 3, 40_000),
        json!({"advance_ms": 29_999}),
        json!({"advance_ms": 1}),
    ];
    // `b` is not held up: its 30 s end while the wall clock goes to the third event.
    let expected = [
        call(3, "b", 1),
        row(3, "b", &none, "1970-01-01T00:00:40Z", 40_000),
        call(5, "a", 1),
        row(5, "a", &none, "1970-01-01T00:01:10Z", 70_000),
    ];
    simulate(&[], &input, &expected);
    // A restart in the middle changes nothing but the numbers of the lines, however old the checkpoint is.
    for every in ["1", "2", "100"] {
        let mut input = input.to_vec();
        input.insert(3, json!({"restart": true}));
        let expected: Vec<Json> = expected
            .iter()
            .cloned()
            .map(|mut line| {
                line["step"] = json!(line["step"].as_u64().expect("a number") + 1);
                line
            })
            .collect();
        simulate(&["--checkpoint-every", every], &input, &expected);
    }
}

#[test]
fn calls_are_answered_as_told() {
    let state = json!({"plan": "pro"});
    simulate(
        &[],
        &[
            json!({"on_call": "account", "status": 429, "retry_after_ms": 2000}),
            json!({"on_call": "account", "status": 200, "body": state, "latency_ms": 40}),
            event("a", 1, 1000),
            json!({"advance_ms": 30_000}),
            json!({"advance_ms": 2000}),
            json!({"advance_ms": 39}),
            json!({"advance_ms": 1}),
            // Nothing scripted any more: 200, {}, at once.
            event("a", 2, 40_000),
            json!({"advance_ms": 30_000}),
        ],
        &[
            call(3, "a", 1),
            call(4, "a", 2),
            row(6, "a", &state, "1970-01-01T00:00:33.04Z", 31_000),
            call(8, "a", 1),
            row(8, "a", &json!({}), "1970-01-01T00:01:10Z", 70_000),
        ],
    );
}

#[test]
fn a_call_under_way_is_made_again_after_a_restart() {
    simulate(
        &[],
        &[
            json!({"on_call": "account", "latency_ms": 10_000}),
            event("a", 1, 0),
            json!({"advance_ms": 31_000}),
            json!({"restart": true}),
        ],
        &[call(2, "a", 1), call(3, "a", 1), row(3, "a", &json!({}), "1970-01-01T00:00:31Z", 30_000)],
    );
}

#[test]
fn a_tombstone_is_an_event_and_a_record_without_key_is_refused() {
    let dead = |step: u64, key: Json, value: Json, ts: u64| json!({"step": step, "to": "account-sync.dlq", "key": key, "value": value, "ts": ts});
    simulate(
        &[],
        &[
            json!({"topic": "user-changes", "key": "a", "value": null, "ts": 1000}),
            json!({"topic": "user-changes", "key": null, "value": {"n": 1}, "ts": 1000}),
            json!({"topic": "user-changes", "value": {"n": 2}}),
            json!({"topic": "user-changes", "key": 7, "value": "text"}),
            json!({"advance_ms": 30_000}),
        ],
        &[
            dead(1, Json::Null, json!({"n": 1}), 1000),
            dead(2, Json::Null, json!({"n": 2}), 1000),
            call(4, "a", 1),
            // `.account` has no place in a text: refused when the call would be made.
            dead(4, json!("7"), json!("text"), 31_000),
            row(4, "a", &json!({}), "1970-01-01T00:00:31Z", 31_000),
        ],
    );
}

#[test]
fn a_line_that_is_none_ends_the_simulation_with_its_number() {
    for (line, part) in [
        ("nope", "line 3: no JSON"),
        ("{}", "line 3: the line has none of `topic`, `advance_ms`, `restart`, `on_call` or `commit`"),
        ("{\"topic\": \"user-changes\", \"kye\": \"a\"}", "line 3: unknown field `kye`"),
        (
            "{\"topic\": \"elsewhere\"}",
            "line 3: no source reads the topic `elsewhere`; the topology reads: user-changes",
        ),
        ("{\"advance_ms\": -1}", "line 3: `advance_ms` is negative"),
        ("{\"advance_ms\": \"1s\"}", "line 3: invalid type"),
        ("{\"on_call\": \"settled\"}", "line 3: there is no node `settled` that makes calls"),
        ("{\"on_call\": \"account\", \"times\": 0}", "line 3: `times` is 0"),
        ("{\"on_call\": \"account\", \"status\": 99}", "line 3: `status` is 99: write 100 to 599"),
        ("{\"on_call\": \"account\", \"latency_ms\": -1}", "line 3: `latency_ms` is negative"),
        ("{\"on_call\": \"account\", \"retry_after_ms\": -1}", "line 3: `retry_after_ms` is negative"),
        ("{\"restart\": false}", "line 3: `restart` is false"),
    ] {
        // An empty line counts as a line and as no step; what came before is there.
        let input = format!(
            "{}\n\n{line}\n{{\"advance_ms\": 60000}}\n",
            json!({"topic": "user-changes", "value": 1})
        );
        let ended = end(slackwater(&["simulate", ACCOUNT_SYNC, "--records", "-"]).write_stdin(input));
        assert_eq!(ended.code, 1, "{}", ended.err);
        assert!(ended.err.starts_with(&format!("error: {part}")), "{line}: {}", ended.err);
        assert_eq!(ended.out.lines().count(), 1, "{}", ended.out);
    }
}

#[test]
fn bytes_that_are_no_text_have_a_place() {
    let dir = folder();
    let path = dir.path().join("t.yaml");
    std::fs::write(&path, b"name: t\nsources: { gr\xf6sse: { generate: {} } }\n").expect("writes");
    let path = path.display().to_string();
    let ended = check(&["check", &path], 78, "this byte is no UTF-8");
    assert!(
        ended.err.contains("t.yaml:2:14") && ended.err.contains("save the file as UTF-8"),
        "{}",
        ended.err
    );
    let utf16: Vec<u8> = "\u{feff}name: t\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(&path, utf16).expect("writes");
    check(&["check", &path], 78, "this is UTF-16");
    // The other files are looked at all the same.
    let good = file(&dir, "good.yaml", GOOD);
    let ended = check(&["check", &path, &good], 78, "this is UTF-16");
    assert!(ended.out.contains("good.yaml: ok"), "{}", ended.out);
    // A byte order mark of UTF-8 is no mistake, in lines neither.
    std::fs::write(&path, format!("\u{feff}{GOOD}").replace('\n', "\r\n")).expect("writes");
    check(&["check", &path], 0, "");
    let line = "\u{feff}{\"advance_ms\": 1}\r\n";
    let ended = end(slackwater(&["simulate", &path, "--records", "-"]).write_stdin(line));
    assert_eq!((ended.code, &*ended.err), (0, ""));
    let bytes = b"{\"advance_ms\": 1}\n{\"topic\": \"\xff\"}\n".to_vec();
    let ended = end(slackwater(&["simulate", &path, "--records", "-"]).write_stdin(bytes));
    assert_eq!((ended.code, &*ended.err), (1, "error: line 2: byte 12 is no UTF-8\n"));
}

#[test]
fn graphs_are_pictures() {
    let mermaid = check(&["graph", ACCOUNT_SYNC], 0, "").out;
    insta::assert_snapshot!(mermaid, @r#"
    flowchart LR
      n0(["user-changes<br/>kafka user-changes"])
      n1["settled<br/>debounce 30s, at most 5m"]
      n2["account<br/>enrich GET ${ACCOUNTS_API}/accounts/{{ key }}"]
      n3[("accounts<br/>spanner Accounts")]
      n0 --> n1
      n1 --> n2
      n2 --> n3
    "#);
    let dot = check(&["graph", ACCOUNT_SYNC, "--format", "dot"], 0, "").out;
    insta::assert_snapshot!(dot, @r#"
    digraph "account-sync" {
      rankdir=LR;
      node [fontname="sans-serif"];
      n0 [shape=oval, label="user-changes\nkafka user-changes"];
      n1 [shape=box, label="settled\ndebounce 30s, at most 5m"];
      n2 [shape=box, label="account\nenrich GET ${ACCOUNTS_API}/accounts/{{ key }}"];
      n3 [shape=cylinder, label="accounts\nspanner Accounts"];
      n0 -> n1;
      n1 -> n2;
      n2 -> n3;
    }
    "#);
}

#[test]
fn the_schema_in_docs_is_the_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema.json");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let made = check(&["schema"], 0, "").out;
    // Where a key stands says nothing.
    let read = |text: &str| serde_json::from_str::<Json>(text).unwrap_or_default();
    assert!(
        read(&made) == read(&written),
        "docs/schema.json is old: run `cargo run -- schema > docs/schema.json`"
    );
}

/// A running topology; killed when dropped.
pub(super) struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
    admin: String,
}

impl Running {
    /// `run` on a free admin port, once it has said which.
    fn start(path: &str, state: &Path, envs: &[(&str, &str)]) -> Running {
        Running::start_all(&[path], state, envs)
    }

    /// The same of several files.
    pub(super) fn start_all(paths: &[&str], state: &Path, envs: &[(&str, &str)]) -> Running {
        let mut child = Process::new(env!("CARGO_BIN_EXE_slackwater"))
            .arg("run")
            .args(paths)
            .args(["--admin", "127.0.0.1:0", "--log-format", "json", "--workers", "2"])
            .arg("--state-dir")
            .arg(state)
            .envs(envs.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut log = BufReader::new(child.stderr.take().expect("is piped"));
        let mut line = String::new();
        log.read_line(&mut line).expect("it says something");
        let said: Json = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(said["message"], "starting", "{line}");
        let admin = said["admin"].as_str().expect("an address").to_owned();
        assert!(!admin.ends_with(":0"), "the port that was taken: {admin}");
        Running { child, log, admin }
    }

    /// Status and body.
    pub(super) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.admin).expect("the admin port answers");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("is sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    /// Asks until it is as wanted.
    pub(super) fn until(&self, path: &str, wanted: impl Fn(u16, &str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (status, body) = self.get(path);
            if wanted(status, &body) {
                return body;
            }
            assert!(Instant::now() < deadline, "{path} says {status} after 30 s: {body}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Process::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// SIGTERM, then exit code and the rest of the log.
    pub(super) fn stop(self) -> (Option<i32>, String) {
        self.signal("-TERM");
        self.end()
    }

    /// Exit code and the rest of the log.
    pub(super) fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("is text");
        (self.child.wait().expect("it ends").code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// An API on a free port: the first two calls are answered 503, every other one 200 with an object.
fn api() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("is bound");
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            let mut head = BufReader::new(stream.try_clone().expect("is cloned")).lines();
            while head.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let status = if n < 2 { "503 Busy" } else { "200 OK" };
            let answer =
                format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 7\r\n\r\n{{\"x\":1}}");
            // The caller may be gone: the test is over.
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    format!("http://{address}")
}

/// Everything that is counted, without Kafka: bad records are skipped, keys settle, calls are made and retried.
const BUSY: &str = r#"
name: busy
errors: { on_failure: skip }
rate_limits:
  api: { limit: 100/s, scope: cluster }
sources:
  in: { generate: { rate: 200/s, keys: 5 } }
operators:
  bad: { from: in, filter: .missing }
  settled: { from: in, debounce: { quiet: 50ms, max_wait: 200ms } }
  quick: { from: in, debounce: { quiet: 10ms } }
  account:
    from: settled
    enrich: { http: { get: "${ACCOUNTS_API}/accounts/{{ key }}" }, rate_limit: api, into: .account }
sinks:
  out: { from: [account, bad, quick], blackhole: {} }
"#;

/// Name, type and labels of every metric (`topology` is on all of them). Dashboards and alerts hang on these: a change
/// here is a change for every user.
const METRICS: &[&str] = &[
    "slackwater_calls_in_flight gauge node",
    "slackwater_calls_pending gauge node partition",
    "slackwater_calls_total counter node status",
    "slackwater_call_breaker_opened_total counter node",
    "slackwater_call_retries_total counter node",
    "slackwater_call_seconds_total counter node",
    "slackwater_checkpoint_duration_seconds histogram",
    "slackwater_checkpoint_phase_seconds_total counter phase",
    "slackwater_checkpoint_timestamp_seconds gauge node partition",
    "slackwater_checkpoints_failed_total counter",
    "slackwater_commit_lag_records gauge partition topic",
    "slackwater_debounce_events_collapsed_total counter node",
    "slackwater_debounce_fired_total counter node reason",
    "slackwater_debounce_pending_keys gauge node partition",
    "slackwater_end_to_end_latency_seconds histogram node",
    "slackwater_endpoint_connections gauge",
    "slackwater_endpoint_request_seconds histogram endpoint",
    "slackwater_endpoint_requests_in_flight gauge endpoint",
    "slackwater_endpoint_requests_total counter endpoint status",
    "slackwater_gate_blocked gauge group node",
    "slackwater_gate_blocked_seconds_total counter group node",
    "slackwater_gate_lag_records gauge group node partition",
    "slackwater_gate_polls_total counter group result",
    "slackwater_limiter_used_ratio gauge limit",
    "slackwater_limiter_wait_seconds_total counter limit",
    "slackwater_records_dropped_total counter node reason",
    "slackwater_records_in_total counter node",
    "slackwater_records_out_total counter node",
    "slackwater_records_skewed_total counter node",
    "slackwater_replies_total counter result",
    "slackwater_requests_waiting gauge",
    "slackwater_restore_remaining_rows gauge node partition",
    "slackwater_schema_lookups_total counter result",
    "slackwater_schemas_waiting gauge",
    "slackwater_sink_batches_total counter node",
    "slackwater_sink_failures_total counter node",
    "slackwater_sink_rows_total counter node",
    "slackwater_sink_write_seconds histogram node",
    "slackwater_state_bytes gauge node partition",
    "slackwater_state_keys gauge node partition",
    "slackwater_tasks gauge state",
];

/// Those that show only with Kafka: a wrong producer's clock, a changelog, other groups' commits; with a schema registry, its
/// questions; with endpoints, their requests.
const WITH_KAFKA: [&str; 14] = [
    "slackwater_endpoint_connections",
    "slackwater_endpoint_request_seconds",
    "slackwater_endpoint_requests_in_flight",
    "slackwater_endpoint_requests_total",
    "slackwater_gate_blocked",
    "slackwater_gate_blocked_seconds_total",
    "slackwater_gate_lag_records",
    "slackwater_gate_polls_total",
    "slackwater_records_skewed_total",
    "slackwater_replies_total",
    "slackwater_requests_waiting",
    "slackwater_restore_remaining_rows",
    "slackwater_schema_lookups_total",
    "slackwater_schemas_waiting",
];

/// `name type labels` of every metric in a scrape.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| {
            let sample = text
                .lines()
                .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', '_'])));
            let labels = sample
                .and_then(|line| Some(line.split_once('{')?.1.split_once("\"}")?.0))
                .unwrap_or_default();
            let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
            let own: BTreeSet<&str> = names.filter(|name| !["topology", "le"].contains(name)).collect();
            let own: Vec<&str> = own.into_iter().collect();
            format!("{name} {kind} {}", own.join(" ")).trim_end().to_owned()
        })
        .collect()
}

#[test]
fn a_run_is_ready_shows_its_metrics_and_stops_on_sigterm() {
    let dir = folder();
    let path = file(&dir, "busy.yaml", BUSY);
    let (state, api) = (dir.path().join("state"), api());
    let running = Running::start(&path, &state, &[("ACCOUNTS_API", &api)]);
    assert_eq!(running.get("/live"), (200, "ok\n".into()));
    let ready: Json =
        serde_json::from_str(&running.until("/ready", |status, _| status == 200)).expect("is JSON");
    assert_eq!(
        ready,
        json!({"ready": true, "waiting_for": [], "joined": true, "tasks": {"in-0": "running"}})
    );
    assert_eq!(running.get("/nowhere").0, 404);
    assert!(running.get("/topology").1.starts_with("flowchart LR\n"));
    assert!(running.get("/").1.contains("<h1>busy</h1>"));

    let readme = include_str!("../../README.md");
    let named = |m: &&str| m.split(' ').next().is_some_and(|name| readme.contains(&format!("`{name}`")));
    let unnamed: Vec<_> = METRICS.iter().filter(|m| !named(m)).collect();
    assert!(unnamed.is_empty(), "the README does not have {unnamed:?}");

    // The second process on the same state directory.
    let second = end(slackwater(&["run", &path, "--admin", "127.0.0.1:0", "--state-dir"])
        .arg(&state)
        .env("ACCOUNTS_API", &api));
    assert_eq!(second.code, 1);
    let clear = format!(
        "error: another process uses the state directory {}: give this one its own with --state-dir",
        state.display()
    );
    assert!(second.err.contains(&clear), "{}", second.err);
    // The same admin port.
    let second = end(slackwater(&["run", &path, "--admin", &running.admin])
        .env("ACCOUNTS_API", &api)
        .current_dir(dir.path()));
    assert_eq!(second.code, 1);
    assert!(second.err.contains("cannot listen on") && second.err.contains("--admin"), "{}", second.err);

    let all: BTreeSet<String> = METRICS.iter().map(|m| (*m).to_owned()).collect();
    let rare = |metric: &String| WITH_KAFKA.iter().any(|name| metric.starts_with(&format!("{name} ")));
    let busy = "slackwater_calls_total{node=\"account\",status=\"5xx\",topology=\"busy\"} 2";
    let text = running.until("/metrics", |_, text| {
        metrics_in(text).len() + WITH_KAFKA.len() >= all.len()
            && text.contains(busy)
            && text.contains("reason=\"quiet\"")
    });
    let seen = metrics_in(&text);
    let frozen: BTreeSet<String> = all.into_iter().filter(|m| !rare(m)).collect();
    assert_eq!(seen, frozen);
    let topology =
        load("busy.yaml", BUSY, Mode::Lenient, &|_| Some(api.clone())).map_err(|r| r.render(false));
    let metrics = Metrics::new(&topology.expect("loads").topology).expect("metrics");
    let named: BTreeSet<&str> = metrics.names().iter().map(String::as_str).collect();
    let all: BTreeSet<&str> = METRICS.iter().filter_map(|metric| metric.split(' ').next()).collect();
    assert_eq!(named, all);
    assert!(
        text.contains(
            "slackwater_records_dropped_total{node=\"bad\",reason=\"expression\",topology=\"busy\"}"
        )
    );
    let linted = Command::new("promtool").args(["check", "metrics"]).write_stdin(text).output();
    let linted =
        linted.expect("promtool is needed (Debian's package prometheus): scripts/prerequisites.sh test");
    let said =
        String::from_utf8_lossy(&linted.stderr).into_owned() + &String::from_utf8_lossy(&linted.stdout);
    assert!(linted.status.success() && said.is_empty(), "{said}");

    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.lines().last().is_some_and(|line| line.contains("\"message\":\"stopped\"")), "{log}");
    assert!(state.join("in-0").is_dir(), "state has its folder");
}

/// What a running instance has, without Kafka: one task, so that every key is here.
const COUNTED: &str = "
name: counted
sources: { in: { generate: { rate: 500/s, keys: 4, count: 40 } } }
operators:
  counts: { from: in, aggregate: { count: {} } }
  odd: { from: counts, filter: \". == 3\" }
  settled: { from: in, debounce: { quiet: 1h } }
sinks: { out: { from: [odd, settled], blackhole: {} } }
";

#[test]
fn a_running_instance_is_asked_for_the_rows_of_a_key_and_for_the_next_records_of_a_node() {
    let dir = folder();
    let path = file(&dir, "counted.yaml", COUNTED);
    let running = Running::start(&path, &dir.path().join("state"), &[]);
    let lines = |body: &str| -> Vec<Json> {
        body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let all = |status: u16, body: &str| status == 200 && lines(body)[0]["value"] == json!(10);
    let row = lines(&running.until("/state/counts/key-2", all)).remove(0);
    assert_eq!(
        (&row["task"], &row["node"], &row["key"]),
        (&json!("in-0"), &json!("counts"), &json!("key-2"))
    );
    let (status, body) = running.get("/state/settled/key-2");
    assert_eq!((status, &lines(&body)[0]["value"]["count"]), (200, &json!(10)));
    let said = |path: &str| running.get(path);
    assert_eq!(said("/state/counts/nobody"), (404, "`counts` has no key `nobody` in this instance\n".into()));
    assert_eq!(said("/state/odd/key-1"), (404, "`odd` keeps no state\n".into()));
    let (status, body) = said("/state/none/key-1");
    assert_eq!((status, body.starts_with("there is no node `none`; there are in, ")), (404, true), "{body}");
    assert_eq!(said("/tap/none").0, 404);
    assert_eq!(said("/tap/odd?wait=20ms"), (200, String::new()), "nothing comes any more");
    assert_eq!(said("/tap/odd?wait=soon").0, 400);
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_look_at_a_node_ends_with_the_records_that_were_asked_for() {
    let dir = folder();
    let endless = COUNTED.replace(", count: 40", "");
    let path = file(&dir, "counted.yaml", &endless);
    let running = Running::start(&path, &dir.path().join("state"), &[]);
    running.until("/ready", |status, _| status == 200);
    let began = Instant::now();
    let (status, body) = running.get("/tap/counts?n=3&wait=30s");
    assert!(began.elapsed() < Duration::from_secs(20), "it waited for more");
    let seen: Vec<Json> = body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((status, seen.len()), (200, 3), "{body}");
    for record in seen {
        assert_eq!(record["task"], "in-0");
        assert!(
            record["key"].as_str().is_some_and(|key| key.starts_with("key-")) && record["value"].is_u64()
        );
    }
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}

/// Two workers, and the node's only task on the first of them: the metric is that of the process, not of one worker.
#[test]
fn calls_in_flight_are_those_of_every_worker() {
    let dir = folder();
    let text = "name: t\nsources:\n  a: { generate: { rate: 100/s, count: 3 } }\noperators:\n  call: { from: a, enrich: \
                { http: { get: \"${ACCOUNTS_API}/x\", timeout: 1h }, into: .x } }\nsinks:\n  out: { from: call, blackhole: {} }\n";
    let path = file(&dir, "t.yaml", text);
    // Accepts calls and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let api = format!("http://{}", listener.local_addr().expect("is bound"));
    let running = Running::start(&path, &dir.path().join("state"), &[("ACCOUNTS_API", &api)]);
    let pending = "slackwater_calls_pending{node=\"call\",partition=\"0\",topology=\"t\"} 3\n";
    let text = running.until("/metrics", |_, text| text.contains(pending));
    let (_call, _) = listener.accept().expect("a call");
    let in_flight = "slackwater_calls_in_flight{node=\"call\",topology=\"t\"} ";
    assert!(text.contains(in_flight), "{text}");
    running.until("/metrics", |_, text| text.contains(&format!("{in_flight}3\n")));
    running.signal("-KILL");
}

#[test]
fn the_admin_port_is_there_until_the_end_of_a_stop() {
    let dir = folder();
    // The call is under way when the stop begins, and is waited for; the other task commits at once, for the only time.
    let text = "name: t\nstate: { checkpoint: 1h }\nsources:\n  a: { generate: { rate: 100/s, count: 1 } }\n  \
                b: { generate: { rate: 100/s, count: 1 } }\noperators:\n  call: { from: a, enrich: { http: \
                { get: \"${ACCOUNTS_API}/x\" }, into: .x } }\nsinks:\n  out: { from: call, blackhole: {} }\n  \
                other: { from: b, blackhole: {} }\n";
    let path = file(&dir, "t.yaml", text);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let api = format!("http://{}", listener.local_addr().expect("is bound"));
    let running = Running::start(&path, &dir.path().join("state"), &[("ACCOUNTS_API", &api)]);
    let (_call, _) = listener.accept().expect("a call");
    running.until("/ready", |status, _| status == 200);
    let checkpoints = "slackwater_checkpoint_duration_seconds_count{topology=\"t\"}";
    assert!(running.get("/metrics").1.contains(&format!("{checkpoints} 0\n")));
    running.signal("-TERM");
    let body = running.until("/ready", |status, _| status == 503);
    assert!(body.contains("it is stopping"), "{body}");
    running.until("/metrics", |_, text| text.contains(&format!("{checkpoints} 1\n")));
    assert_eq!(running.get("/live").0, 200);
    assert_eq!(running.get("/ready").0, 503);
    let (code, log) = running.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_run_ends_when_its_sources_have() {
    let dir = folder();
    let (lines, out) = (file(&dir, "in.jsonl", "{\"id\":1}\n\n{\"id\":2}\n"), dir.path().join("out.jsonl"));
    let text = format!(
        "name: t\nsources: {{ in: {{ file: {{ path: {lines}, key: .id, timestamp: \"1000\" }} }} }}\n\
         sinks: {{ out: {{ from: in, file: {{ path: {} }} }} }}\n",
        out.display()
    );
    let path = file(&dir, "t.yaml", &text);
    let state = dir.path().join("state").display().to_string();
    let ended = check(&["run", &path, "--admin", "127.0.0.1:0", "--state-dir", &state], 0, "has ended");
    assert_eq!(ended.out, "");
    let written = std::fs::read_to_string(out).expect("is written");
    assert_eq!(
        written,
        "{\"key\":\"1\",\"value\":{\"id\":1},\"ts\":1000}\n{\"key\":\"2\",\"value\":{\"id\":2},\"ts\":1000}\n"
    );
}

#[test]
fn state_outlives_the_process() {
    let dir = folder();
    // Keys wait far longer than the first run lives.
    let text = "name: t\nsources: { in: { generate: { rate: 100/s, keys: 3, count: 30 } } }\noperators:\n  \
                settled: { from: in, debounce: { quiet: 1h } }\nsinks: { out: { from: settled, blackhole: {} } }\n";
    let path = file(&dir, "t.yaml", text);
    let keys = "slackwater_debounce_pending_keys{node=\"settled\",partition=\"0\",topology=\"t\"} 3";
    let collapsed = "slackwater_debounce_events_collapsed_total{node=\"settled\",topology=\"t\"} 27";
    let running = Running::start(&path, &dir.path().join("state"), &[]);
    running.until("/metrics", |_, text| text.contains(collapsed));
    assert_eq!(running.stop().0, Some(0));
    // The same keys are there, and no record has come.
    let path = file(&dir, "t.yaml", &text.replace("100/s", "1/h"));
    let running = Running::start(&path, &dir.path().join("state"), &[]);
    running.until("/metrics", |_, text| text.contains(keys));
    assert_eq!(running.stop().0, Some(0));
}

#[test]
fn a_broker_that_is_away_is_waited_for_and_a_stop_does_not_wait() {
    let dir = folder();
    let text = "name: t\nkafka: { brokers: \"127.0.0.1:1\" }\nsources: { in: { kafka: { topic: in } } }\nsinks: { out: { from: in, blackhole: {} } }\n";
    let path = file(&dir, "t.yaml", text);
    let running = Running::start(&path, &dir.path().join("state"), &[]);
    assert_eq!(running.get("/live").0, 200);
    let body =
        running.until("/ready", |status, body| status == 503 && body.contains("cannot look up topic `in`"));
    assert!(body.contains("\"ready\":false"), "{body}");
    let asked = Instant::now();
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
}

#[test]
fn what_shows_only_at_the_start_points_into_the_file() {
    let dir = folder();
    let path: PathBuf = dir.path().join("no/such/file");
    let text = format!(
        "name: t\nsources:\n  in: {{ file: {{ path: {} }} }}\nsinks: {{ out: {{ from: in, blackhole: {{}} }} }}\n",
        path.display()
    );
    let file = file(&dir, "t.yaml", &text);
    let ended =
        end(slackwater(&["run", &file, "--admin", "127.0.0.1:0", "--state-dir"])
            .arg(dir.path().join("state")));
    assert_eq!(ended.code, 78, "{}", ended.err);
    assert!(ended.err.contains("t.yaml:3:23") && ended.err.contains("cannot read file"), "{}", ended.err);
}

#[test]
fn a_starter_is_a_good_topology_that_explains_itself() {
    let dir = folder();
    for template in ["count", "enrich", "join"] {
        let path = dir.path().join(format!("my-{template}.yaml")).display().to_string();
        check(&["new", &path, "--template", template], 0, "");
        check(&["new", &path], 2, "is there already");
        check(&["check", &path], 0, "");
        check(&["test", &path], 0, "");
        let text = std::fs::read_to_string(&path).expect("is there");
        assert!(text.contains(&format!("name: my-{template}\n")), "{text}");
    }
    check(&["new", &dir.path().join("my orders.yaml").display().to_string()], 2, "is no name");
    let path = dir.path().join("my-count.yaml").display().to_string();
    insta::assert_snapshot!(check(&["explain", &path], 0, "").out);
    let said = check(&["explain", &path, "--format", "json"], 0, "").out;
    let json: Json = serde_json::from_str(&said).expect("is JSON");
    let topic = &json["sub_topologies"][0]["repartition_topics"][0]["topic"];
    assert_eq!(topic, "my-count-per-minute-repartition");
}

/// What `docs/changing-a-topology.md` says: state is kept, or the start is refused with the way out.
#[test]
fn state_of_another_shape_is_refused_and_what_may_change_may() {
    let dir = folder();
    let state = dir.path().join("state").display().to_string();
    let run = |operators: &str, from: &str| {
        let text = format!(
            "name: t\nsources: {{ in: {{ generate: {{ rate: 10000/s, keys: 1, count: 5 }} }} }}\noperators:\n{operators}\
             sinks: {{ out: {{ from: {from}, stdout: {{}} }} }}\n"
        );
        let path = file(&dir, "t.yaml", &text);
        end(&mut slackwater(&["run", &path, "--state-dir", &state, "--admin", "127.0.0.1:0"]))
    };
    let counts = |ended: &Ended| -> Vec<u64> {
        assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
        let rows = ended.out.lines().map(|line| serde_json::from_str::<Json>(line).expect("is JSON"));
        rows.filter_map(|row| row["value"].as_u64()).collect()
    };
    let count = "  n: { from: in, aggregate: { count: {} } }\n";
    assert_eq!(counts(&run(count, "n")), [1, 2, 3, 4, 5]);
    // New nodes without state, a new node with state, another expression: what was counted is kept.
    let more = "  some: { from: in, filter: .n >= 0 }\n  n: { from: some, aggregate: { count: {} } }\n  \
                m: { from: some, aggregate: { sum: .n } }\n";
    assert_eq!(counts(&run(more, "n")), [6, 7, 8, 9, 10]);
    let refused = [
        ("  renamed: { from: in, aggregate: { count: {} } }\n", "renamed"),
        ("  n: { from: in, aggregate: { sum: .n } }\n", "n"),
        ("  n: { from: in, aggregate: { count: {}, window: { tumbling: 1m } } }\n", "n"),
        ("  n: { from: in, debounce: { quiet: 1s } }\n", "n"),
        ("  n: { from: in, filter: true }\n", "n"),
    ];
    for (operators, from) in refused {
        let ended = run(operators, from);
        assert_eq!((ended.code, ended.out.as_str()), (78, ""), "{operators}{}", ended.err);
        for part in ["`aggregate: count`", "slackwater reset --node n", "give the topology a new `name`"] {
            let said = ended.err.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains(part), "{operators}: {part} is not in {said}");
        }
    }
    // Nothing of it was lost by that.
    assert_eq!(counts(&run(more, "n")), [11, 12, 13, 14, 15]);
}

/// `slackwater schema | head -1`: the reader has gone. No panic, no message, and the code of a process that SIGPIPE
/// ended.
#[test]
fn who_reads_may_go_away() {
    let dir = folder();
    let good = file(&dir, "good.yaml", GOOD);
    let tested = file(
        &dir,
        "tested.yaml",
        &format!(
            "{GOOD}tests:\n  - name: nothing\n    steps:\n      - expect: {{ out: {{ records: 0 }} }}\n"
        ),
    );
    let topic = file(
        &dir,
        "topic.yaml",
        "name: t\nsources: { in: { kafka: { topic: in } } }\nsinks: { out: { from: in, stdout: {} } }\n",
    );
    let lines = file(&dir, "lines.json", "{\"topic\": \"in\", \"key\": \"a\", \"value\": 1}\n");
    for args in [
        &["schema"][..],
        &["graph", &good],
        &["explain", &good],
        &["explain", &good, "--format", "json"],
        &["check", &good],
        &["test", &tested],
        &["simulate", &topic, "--records", &lines],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = Process::new(env!("CARGO_BIN_EXE_slackwater"))
            .args(args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn();
        let output = child.expect("it runs").wait_with_output().expect("it ends");
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()),
            (Some(141), ""),
            "{args:?}"
        );
    }
}

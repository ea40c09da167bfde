//! `slackwater dev` with nothing installed: everything is inside the process, so this needs no server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use assert_cmd::Command;

const DEADLINE: Duration = Duration::from_secs(100);

/// Variables of which none may reach it, since it calls nothing outside; and a port of its own for endpoints.
const VARIABLES: [(&str, &str); 6] = [
    ("KAFKA_BROKERS", "192.0.2.1:9092"),
    ("ACCOUNTS_API", "http://192.0.2.1"),
    ("SPANNER_DATABASE", "projects/real/instances/real/databases/real"),
    ("POSTGRES_URL", "postgres://192.0.2.1/real"),
    ("REDIS_URL", "redis://192.0.2.1"),
    ("HTTP_LISTEN", "127.0.0.1:0"),
];

/// Standard output and exit code.
fn dev(topology: &str, args: &[&str]) -> (String, i32) {
    let mut command = Command::cargo_bin("slackwater").expect("is built");
    command.envs(VARIABLES);
    let output =
        command.args(["dev", topology, "--plain"]).args(args).timeout(DEADLINE).output().expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let code = output.status.code();
    (out.into_owned(), code.unwrap_or_else(|| panic!("killed after {DEADLINE:?}\n{err}")))
}

/// The number behind a name in the summary.
fn number(out: &str, name: &str) -> u64 {
    let line = out.lines().find_map(|line| line.trim_start().strip_prefix(name));
    let text =
        line.and_then(|l| l.split_whitespace().next()).unwrap_or_else(|| panic!("no {name:?} in\n{out}"));
    text.replace(',', "").parse().unwrap_or_else(|_| panic!("{name}: {text} is no number"))
}

/// A topology file that is account-sync with something else in it.
fn changed(from: &str, to: &str) -> tempfile::TempPath {
    let text = std::fs::read_to_string("topology/account-sync.yaml").expect("is there");
    assert!(text.contains(from), "{from} is in the file");
    let path = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file").into_temp_path();
    std::fs::write(&path, text.replace(from, to)).expect("is written");
    path
}

#[test]
fn account_sync_runs_without_servers_and_proves_every_row() {
    let started = Instant::now();
    // `--speed` twice: ./demo gives one and passes on the user's.
    let args = "--speed 10 --speed 30 --duration 8s --events-per-second 40 --accounts 30";
    let (out, code) = dev("topology/account-sync.yaml", &args.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{out}");
    assert!(started.elapsed() < Duration::from_secs(60), "{out}");
    let accounts = number(&out, "PROVED: all");
    assert!((15..=30).contains(&accounts), "{accounts} accounts\n{out}");
    assert!(out.contains("accounts that changed have their settled state in their row"), "{out}");
    assert!(out.contains("settled.quiet 30s -> 1s, settled.max_wait 5m -> 10s"), "{out}");
    assert!(out.contains("first saved call after"), "{out}");
    let (events, calls, rows) =
        (number(&out, "events"), number(&out, "calls made"), number(&out, "rows written"));
    assert!(events >= 200, "{events} events\n{out}");
    assert!(calls >= accounts && calls * 2 < events, "{calls} calls for {events} events\n{out}");
    assert!((accounts..=calls).contains(&rows), "{rows} rows\n{out}");
    assert!(number(&out, "calls saved") >= 50, "{out}");
    assert!((1..=1500).contains(&number(&out, "most calls in one second")), "{out}");
    assert_eq!(number(&out, "dead letters"), 0, "{out}");
}

/// Nothing hangs on what the variables are called, nor on the kind of database.
#[test]
fn connections_are_replaced_whatever_they_are_called() {
    let text = std::fs::read_to_string("topology/account-sync.yaml").expect("is there");
    let (before, sink) = text.split_once("    spanner:\n").expect("the sink");
    let (_, after) = sink.split_once("      table: Accounts\n").expect("its table");
    let text = format!(
        "{before}    postgres:\n      table: accounts\n{after}\npostgres: {{ url: \"${{DATABASE}}\" }}\n"
    );
    let text = text.replace("KAFKA_BROKERS", "BROKERS").replace("ACCOUNTS_API", "OTHER_API");
    let path = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file").into_temp_path();
    std::fs::write(&path, text).expect("is written");
    let args = "--speed 30 --duration 3s --events-per-second 40 --accounts 10";
    let (out, code) = dev(path.to_str().unwrap(), &args.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{out}");
    assert!(number(&out, "PROVED: all") >= 5, "{out}");
}

#[test]
fn a_wait_shorter_than_the_settling_is_found_out() {
    let file = changed("quiet: 30s", "quiet: 10s");
    let args = "--speed 30 --duration 3s --events-per-second 40 --accounts 10";
    let (out, code) = dev(file.to_str().unwrap(), &args.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 1, "{out}");
    let wrong = number(&out, "NOT PROVED:");
    assert!((5..=10).contains(&wrong), "{wrong} accounts\n{out}");
    assert_eq!(out.lines().filter(|l| l.contains("the row has")).count(), 5, "five are listed\n{out}");
    assert!(number(&out, "calls before settled") >= wrong, "{out}");
}

#[test]
fn a_state_directory_of_an_earlier_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x"), "").unwrap();
    let (_, code) = dev("topology/account-sync.yaml", &["--state-dir", dir.path().to_str().unwrap()]);
    assert_eq!(code, 2);
}

#[test]
fn the_blog_runs_without_servers() {
    let (out, code) = dev("topology/blog.yaml", &["--duration", "3s", "--events-per-second", "40"]);
    assert_eq!(code, 0, "{out}");
    let events = number(&out, "events");
    assert!(events >= 40, "{events} events\n{out}");
    assert_eq!(number(&out, "posts:"), events, "what the schema says is made up, and stored\n{out}");
    assert!(out.contains("http://127.0.0.1:") && out.contains(": the endpoints"), "{out}");
    assert_eq!(number(&out, "cache:"), events, "what is announced is cached, and nothing else\n{out}");
    assert_eq!(number(&out, "dead letters"), 0, "{out}");
}

/// Head and body of the answer to one request.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
    let head = head.replace('\n', "\r\n");
    write!(stream, "{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n{body}").expect("is sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("is answered");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

/// Between two questions to another process, which says nothing when it is ready.
#[expect(clippy::disallowed_methods, reason = "another process is waited for")]
fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}

#[test]
fn a_post_of_the_blog_can_be_read_where_it_was_sent() {
    let mut dev = std::process::Command::new(env!("CARGO_BIN_EXE_slackwater"))
        .args(["dev", "topology/blog.yaml", "--plain", "--duration", "60s", "--events-per-second", "1"])
        .envs(VARIABLES)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    // Kept until the end: what is written to a closed pipe ends the program.
    let mut lines = BufReader::new(dev.stdout.take().expect("is piped")).lines().map_while(Result::ok);
    let address = lines
        .find_map(|line| Some(line.split_once("http://")?.1.strip_suffix(": the endpoints")?.to_owned()))
        .expect("it says where");
    let post = r#"{"title": "In dev", "content": "x"}"#;
    let head = format!("POST /post HTTP/1.1\nContent-Type: application/json\nContent-Length: {}", post.len());
    let (began, mut sent) = (Instant::now(), String::new());
    // The port listens as soon as the engine runs.
    while !sent.starts_with("HTTP/1.1 202") {
        assert!(began.elapsed() < DEADLINE, "{sent}");
        pause();
        sent = match TcpStream::connect(&address) {
            Ok(_) => ask(&address, &format!("{head}\n\n{post}")).0,
            Err(e) => e.to_string(),
        };
    }
    let at = sent.lines().find_map(|line| line.strip_prefix("location: ")).expect("a location");
    let (mut head, mut body) = (String::new(), String::new());
    while !head.starts_with("HTTP/1.1 200") {
        assert!(began.elapsed() < DEADLINE, "{head}\n{body}");
        pause();
        (head, body) = ask(&address, &format!("GET {at} HTTP/1.1"));
    }
    assert!(body.contains(r#""title":"In dev""#) && body.contains(&at["/post/".len()..]), "{body}");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an ETag");
    let (again, _) = ask(&address, &format!("GET {at} HTTP/1.1\nIf-None-Match: {etag}"));
    assert!(again.starts_with("HTTP/1.1 304"), "{again}");
    let (none, _) = ask(&address, "GET /post/no-such-post HTTP/1.1");
    assert!(none.starts_with("HTTP/1.1 404"), "{none}");
    dev.kill().expect("it still ran");
    dev.wait().expect("it ends");
    drop(lines);
}

//! `slackwater dev` with nothing installed: everything is inside the process, so this needs no server.

use std::time::{Duration, Instant};

use assert_cmd::Command;

const DEADLINE: Duration = Duration::from_secs(100);

/// Standard output and exit code.
fn dev(topology: &str, args: &[&str]) -> (String, i32) {
    let mut command = Command::cargo_bin("slackwater").expect("is built");
    // None of these may reach it: it calls nothing outside.
    for (name, value) in [
        ("KAFKA_BROKERS", "192.0.2.1:9092"),
        ("ACCOUNTS_API", "http://192.0.2.1"),
        ("SPANNER_DATABASE", "projects/real/instances/real/databases/real"),
        ("POSTGRES_URL", "postgres://192.0.2.1/real"),
        ("REDIS_URL", "redis://192.0.2.1"),
        // A port of its own.
        ("HTTP_LISTEN", "127.0.0.1:0"),
    ] {
        command.env(name, value);
    }
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

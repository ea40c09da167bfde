//! No output shows a secret, whatever it came through: a URL, a header, an expression, the answer of an API, a file. With the
//! real binary on a real Kafka: `KAFKA_BROKERS=host:port cargo test --test live secrets`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{Instance, Stage, text, wait};
use serde_json::json;
use slackwater::kafka::{Follower, KafkaConfig, TopicPartition};

const LONG: Duration = Duration::from_secs(60);
const TOKEN: &str = "t0ken-in-a/variable&more";
const FIRST: &str = "first-s3cret-of-a-file";
const SECOND: &str = "second-s3cret-of-a-file";

/// An API that refuses everything, and says all that it was sent.
fn echo() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines();
            let mut request = String::new();
            while let Some(Ok(line)) = lines.next().filter(|line| line.as_ref().is_ok_and(|l| !l.is_empty()))
            {
                request += &format!("{line} ");
            }
            heard.lock().unwrap().push(request.clone());
            let head =
                format!("HTTP/1.1 400 Bad\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", request.len());
            drop((&stream).write_all((head + &request).as_bytes()));
        }
    });
    (address, seen)
}

fn no_secret(what: &str, shown: &str) {
    for secret in [TOKEN, FIRST, SECOND, "t0ken", "s3cret"] {
        assert!(!shown.contains(secret), "{what} shows {secret}:\n{shown}");
    }
}

/// Modes of everything below a directory that others may read.
fn open_to_others(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        // A file may go while it is looked at.
        let Ok(about) = entry.metadata() else { continue };
        if about.permissions().mode() & 0o077 != 0 {
            found.push(format!("{} {:o}", entry.path().display(), about.permissions().mode()));
        }
        if about.is_dir() {
            open_to_others(&entry.path(), found);
        }
    }
}

#[test]
fn no_output_shows_a_secret() {
    let (address, seen) = echo();
    let file = "name: NAME
kafka: { brokers: \"${KAFKA_BROKERS}\" }
state: { checkpoint: 100ms }
sources: { in: { kafka: { topic: NAME.in } } }
operators:
  counted: { from: in, aggregate: { count: {} } }
  called:
    from: in
    enrich:
      http: { get: \"${ECHO}/{{ key }}?k=${API_TOKEN}\", headers: { authorization: \"Bearer ${file:token.txt}\" } }
      into: .answer
  checked: { from: in, map: 'if .n == 1 { parse_int!(\"${API_TOKEN}\") } else { . }' }
sinks:
  out: { from: [called, checked], blackhole: {} }
  counts: { from: counted, blackhole: {} }
errors: { dead_letter: { topic: NAME.dlq } }
";
    let stage = Stage::new("masked", &[("in", 1), ("dlq", 1)], file);
    let token = stage.dir.path().join("token.txt");
    std::fs::write(&token, format!("{FIRST}\n")).unwrap();
    let with = |mut command: std::process::Command| {
        // As an env file leaves it.
        command.env("API_TOKEN", format!("{TOKEN}\n")).env("ECHO", &address).env("SLACKWATER_LOG", "debug");
        command
    };
    let mut one = Instance::spawn(with(stage.command()), &stage.yaml, "one", &[]);
    one.wait_ready(LONG);
    stage.send("in", [("a".to_owned(), json!({ "n": 1 }))]);
    let dlq = [TopicPartition::new(stage.topic("dlq"), 0)];
    let dead = |n: i64| stage.admin.end_offsets(&dlq).is_ok_and(|ends| ends[0] >= n);
    wait("the call and the expression are refused", LONG, || dead(2));
    let request = seen.lock().unwrap()[0].clone();
    assert!(
        request.contains(&format!("k={TOKEN} ")) && request.contains(&format!("Bearer {FIRST} ")),
        "{request}"
    );
    // Another secret in the file: calls go with it, without a restart.
    std::fs::write(&token, format!("{SECOND}\n")).unwrap();
    wait("it is read", LONG, || one.text().contains("a secret has changed"));
    stage.send("in", [("b".to_owned(), json!({ "n": 2 }))]);
    wait("the next call is refused", LONG, || dead(3));
    let request = seen.lock().unwrap()[1].clone();
    assert!(request.contains(&format!("Bearer {SECOND} ")), "{request}");

    for path in ["/", "/topology", "/ready", "/metrics", "/state/counted/a"] {
        let (code, body) = one.get(path);
        assert!(code == 200 && !body.is_empty(), "{path}: {code} {body}");
        no_secret(path, &body);
    }
    assert!(one.get("/topology").1.contains("k=***"), "{}", one.get("/topology").1);
    let config = KafkaConfig::new(crate::common::brokers());
    let mut follower = Follower::open(&config, "reader", &[(dlq[0].clone(), 0, 0)]).unwrap();
    let mut letters = Vec::new();
    wait("the dead letters", LONG, || {
        follower.poll(10, Duration::from_millis(200), &mut letters).unwrap();
        letters.len() == 3
    });
    let mut masked = 0;
    for letter in &letters {
        let error = String::from_utf8_lossy(letter.headers.get("slackwater-error").unwrap()).into_owned();
        println!("{error}");
        masked += usize::from(error.contains("***"));
        no_secret("a dead letter", &error);
    }
    assert!(masked >= 2, "both answers of the API");
    let mut open = Vec::new();
    open_to_others(&stage.dir.path().join("state-one"), &mut open);
    assert!(open.is_empty(), "{open:?}");
    let log = one.log.clone();
    assert_eq!(one.stop(LONG), 0);
    no_secret("the log", &std::fs::read_to_string(log).unwrap());

    std::fs::write(stage.dir.path().join("lines"), "{\"topic\":\"in\",\"key\":\"a\",\"value\":{\"n\":1}}\n")
        .unwrap();
    let lines = stage.dir.path().join("lines");
    let commands: [&[&str]; 10] = [
        &["explain"],
        &["explain", "--format", "json"],
        &["graph"],
        &["graph", "--format", "dot"],
        &["check"],
        &["check", "--connect"],
        &["state", "ls"],
        &["state", "export"],
        &["offsets"],
        &["simulate", "--records", lines.to_str().unwrap()],
    ];
    for words in commands {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut command = with(stage.command());
        let (sub, more) = words.split_at(if words[0] == "state" { 2 } else { 1 });
        command.args(sub).arg(&stage.yaml).args(more);
        command.env("SLACKWATER_STATE_DIR", stage.dir.path().join("state-one"));
        let output = command.output().unwrap();
        let said = text(&output);
        no_secret(&words.join(" "), &said);
        assert!(!said.is_empty(), "{words:?}");
    }
    // A file that is wrong, at the secret.
    let wrong = std::fs::read_to_string(&stage.yaml)
        .unwrap()
        .replace("get: \"", "timeout: \"${API_TOKEN}\", get: \"");
    std::fs::write(&stage.yaml, wrong).unwrap();
    let mut command = with(stage.command());
    command.arg("check").arg(&stage.yaml);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    no_secret("a report", &text(&output));
}

//! The `spanner` sink against the real thing: Google's Cloud Spanner emulator. Every test has its own database.
//!
//! Needs `SPANNER_EMULATOR_HOST` (`scripts/spanner.sh start DIR` prints it), and for the restart the emulator's program
//! (`SPANNER_EMULATOR_BIN`, or Debian's google-cloud-cli-spanner-emulator). Without them a test fails; it never skips.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use gcloud_gax::conn::Environment;
use gcloud_spanner::client::{Client, ClientConfig};
use gcloud_spanner::session::SessionConfig;
use gcloud_spanner::statement::Statement;
use serde_json::{Value as Json, json};
use slackwater::model::{Cell, Clock, Expr, Payload, Record, SinkRow, SystemClock, Timestamp, Value};
use slackwater::sinks::columns::Columns;
use slackwater::sinks::spanner::{Spanner, SpannerConfig, create_database, statements};
use slackwater::sinks::{Answers, Operation, Sink, SinkError};

const ACCOUNTS: &str = include_str!("../../topology/account-sync.sql");
const ACCOUNT_COLUMNS: [(&str, &str); 3] =
    [("AccountId", "key"), ("State", "."), ("UpdatedAt", "commit_timestamp()")];

/// `host:port` of the emulator that all tests share.
fn emulator() -> String {
    std::env::var("SPANNER_EMULATOR_HOST")
        .ok()
        .filter(|host| !host.is_empty())
        .expect("SPANNER_EMULATOR_HOST is not set: start one with scripts/spanner.sh start DIR")
}

/// A name that no other test, and no earlier run on the same emulator, has.
fn database() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("projects/test/instances/test/databases/d{}-{n}", SystemClock.now())
}

fn no_env(_: &str) -> Option<String> {
    None
}

fn config(host: &str, database: &str, table: &str, columns: &[(&str, &str)]) -> SpannerConfig {
    let columns = columns.iter().map(|(name, text)| (*name, Expr::new(*text, None)));
    SpannerConfig {
        emulator: Some(host.to_owned()),
        ..SpannerConfig::new(database, table, Columns::new(columns))
    }
}

/// A database of its own with this DDL, and its name.
async fn fresh(ddl: &str) -> String {
    let database = database();
    create_database(&database, Some(&emulator()), &statements(ddl)).await.expect("the database is made");
    database
}

async fn connect(config: &SpannerConfig) -> Spanner {
    Spanner::connect(config, &no_env).await.expect("connects")
}

fn row(key: &str, cells: Vec<Json>, commit: bool) -> SinkRow {
    let cells = cells.into_iter().map(Cell::Json).chain(commit.then_some(Cell::CommitTimestamp));
    SinkRow {
        reply_to: None,
        record: Record::new(key.to_owned(), Value::Null, Timestamp(0)),
        payload: Payload::Columns(cells.collect()),
    }
}

fn account(id: &str, state: Json) -> SinkRow {
    row(id, vec![json!(id), state], true)
}

/// The rows of a query that yields one text a row.
async fn query(database: &str, sql: &str) -> Vec<String> {
    let mut config =
        ClientConfig { environment: Environment::Emulator(emulator()), ..ClientConfig::default() };
    config.session_config = SessionConfig::default();
    config.session_config.min_opened = 1;
    let client = Client::new(database, config).await.expect("the emulator answers");
    let mut out = Vec::new();
    let mut tx = client.single().await.expect("a session");
    let mut rows = tx.query(Statement::new(sql)).await.expect("the query runs");
    while let Some(row) = rows.next().await.expect("a row") {
        out.push(row.column::<Option<String>>(0).expect("is text").unwrap_or_else(|| "NULL".to_owned()));
    }
    out
}

/// Writes rows; this sink answers for batches only.
trait Put: Sink {
    async fn put(&mut self, rows: &[SinkRow]) -> Result<(), SinkError> {
        let mut answers = Answers::new(rows.len());
        let result = self.deliver(rows, &mut answers).await;
        assert!(answers.into_vec().iter().all(Option::is_none));
        result
    }
}

impl<S: Sink> Put for S {}

async fn accounts(database: &str) -> Vec<String> {
    query(database, "SELECT CONCAT(AccountId, '=', TO_JSON_STRING(State)) FROM Accounts ORDER BY AccountId")
        .await
}

#[tokio::test]
async fn rows_are_upserted_and_the_last_of_a_key_wins() {
    let database = fresh(ACCOUNTS).await;
    let spanner = connect(&config(&emulator(), &database, "Accounts", &ACCOUNT_COLUMNS)).await;
    assert_eq!(spanner.lanes(), 1, "the emulator runs one transaction at a time");
    let mut lane = spanner.lane();
    let state = json!({"id": 18_446_744_073_709_551_615_u64, "tags": ["ä", null], "deep": {"x": 1.5}});
    lane.put(&[account("a", json!(1)), account("b", json!(2)), account("a", state)]).await.unwrap();
    let stored = r#"a={"deep":{"x":1.5},"id":18446744073709551615,"tags":["ä",null]}"#;
    assert_eq!(accounts(&database).await, [stored, "b=2"]);

    let stamps = "SELECT STRING(UpdatedAt) FROM Accounts
                  WHERE TIMESTAMP_DIFF(CURRENT_TIMESTAMP(), UpdatedAt, SECOND) BETWEEN 0 AND 60
                  ORDER BY AccountId";
    let first = query(&database, stamps).await;
    assert_eq!(first.len(), 2, "both rows have the time of their commit");
    assert_eq!(first[0], first[1], "one batch is one commit");

    lane.put(&[account("a", Json::Null)]).await.unwrap();
    let nulls = "SELECT AccountId FROM Accounts WHERE State IS NULL";
    assert_eq!(query(&database, nulls).await, ["a"]);
    assert_ne!(query(&database, stamps).await[0], first[0]);
    lane.put(&[]).await.unwrap();
}

#[tokio::test]
async fn every_column_type_is_written() {
    let ddl = "CREATE TABLE Wide (
        Id INT64 NOT NULL, B BOOL, F FLOAT64, F32 FLOAT32, N NUMERIC, S STRING(MAX), Y BYTES(MAX), D DATE,
        T TIMESTAMP, J JSON, A ARRAY<INT64>, Ts ARRAY<TIMESTAMP>, G INT64 AS (Id * 2) STORED
    ) PRIMARY KEY (Id)";
    let database = fresh(ddl).await;
    // Each column, what is written, and how SQL shows it as text.
    let cells = [
        ("Id", json!("7"), "CAST(Id AS STRING)", "7"), // a record's key is text
        ("B", json!(true), "CAST(B AS STRING)", "true"),
        ("F", json!(1.5), "CAST(F AS STRING)", "1.5"),
        ("F32", json!("Infinity"), "CAST(F32 AS STRING)", "inf"),
        ("N", json!(12.25), "CAST(N AS STRING)", "12.25"),
        ("S", json!("ä"), "S", "ä"),
        ("Y", json!("aGk"), "CAST(Y AS STRING)", "hi"),
        ("D", json!("2025-01-31"), "CAST(D AS STRING)", "2025-01-31"),
        (
            "T",
            json!("2025-01-31T12:00:00.123456789+02:00"),
            "FORMAT_TIMESTAMP('%FT%H:%M:%E*SZ', T, 'UTC')",
            "2025-01-31T10:00:00.123456789Z",
        ),
        ("J", json!({"a": [1, null]}), "TO_JSON_STRING(J)", r#"{"a":[1,null]}"#),
        (
            "A",
            json!([1, null, i64::MAX]),
            "ARRAY_TO_STRING(ARRAY(SELECT IFNULL(CAST(x AS STRING), 'null') FROM UNNEST(A) x WITH OFFSET o ORDER BY o), ' ')",
            "1 null 9223372036854775807",
        ),
        (
            "Ts",
            json!(["2025-01-31T12:00:00Z", 1500]),
            "ARRAY_TO_STRING(ARRAY(SELECT FORMAT_TIMESTAMP('%FT%H:%M:%E*SZ', x, 'UTC') FROM UNNEST(Ts) x WITH OFFSET o ORDER BY o), ' ')",
            "2025-01-31T12:00:00Z 1970-01-01T00:00:01.5Z",
        ),
    ];
    let columns: Vec<_> = cells.iter().map(|(name, ..)| (*name, "key")).collect();
    let mut lane = connect(&config(&emulator(), &database, "Wide", &columns)).await.lane();
    let full: Vec<Json> = cells.iter().map(|(_, json, ..)| json.clone()).collect();
    let blank = |at: usize, json: Json| {
        let mut cells = vec![Json::Null; columns.len()];
        cells[0] = json!(8);
        cells[at] = json;
        row("8", cells, false)
    };
    lane.put(&[row("7", full, false), blank(0, json!(8))]).await.unwrap();
    for (name, _, sql, expected) in &cells {
        let got = query(&database, &format!("SELECT {sql} FROM Wide WHERE Id = 7")).await;
        assert_eq!(got, [*expected], "{name}");
    }
    let nulls: Vec<String> = columns[1..].iter().map(|(name, _)| format!("{name} IS NULL")).collect();
    let sql = format!("SELECT CAST(G AS STRING) FROM Wide WHERE {}", nulls.join(" AND "));
    assert_eq!(query(&database, &sql).await, ["16"]);

    // What the sink can see is refused before the server is asked, by column and value; what only the server can
    // see, after.
    for (at, bad, part) in [
        (1, json!("yes"), "column `B` of table `Wide`: \"yes\" is no BOOL"),
        (0, json!(1.5), "column `Id` of table `Wide`: 1.5 is no INT64"),
        (0, Json::Null, "column `Id` of table `Wide`: null in a NOT NULL column"),
        (10, json!([1, "x"]), "column `A` of table `Wide`: \"x\" is no INT64"),
        (7, json!("2025-02-31"), "2025-02-31"),
    ] {
        let refused = lane.put(&[blank(at, bad)]).await;
        let Err(SinkError::Refused { message }) = refused else { panic!("{refused:?}") };
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn one_bad_row_is_the_only_one_refused() {
    let database = fresh(ACCOUNTS).await;
    let mut lane = connect(&config(&emulator(), &database, "Accounts", &ACCOUNT_COLUMNS)).await.lane();
    let long = "x".repeat(65); // the server's own check: STRING(64)
    let mut batch: Vec<_> = (0..9).map(|n| account(&format!("k{n}"), json!(n))).collect();
    batch.insert(5, account(&long, json!(0)));
    // As the driver does: split what is refused until the row stands alone.
    let mut refused = Vec::new();
    let mut parts = vec![batch];
    while let Some(mut part) = parts.pop() {
        match lane.put(&part).await {
            Ok(()) => {}
            Err(SinkError::Refused { .. }) if part.len() > 1 => {
                let rest = part.split_off(part.len() / 2);
                parts.extend([rest, part]);
            }
            Err(SinkError::Refused { message }) => refused.push(message),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].contains("AccountId"), "{}", refused[0]);
    assert_eq!(accounts(&database).await.len(), 9);
}

#[tokio::test]
async fn operations_do_what_they_say() {
    let database = fresh(ACCOUNTS).await;
    let lane = async |operation| {
        let base = config(&emulator(), &database, "Accounts", &ACCOUNT_COLUMNS);
        connect(&SpannerConfig { operation, ..base }).await.lane()
    };
    let refused = |result| matches!(result, Err(SinkError::Refused { .. }));
    let mut insert = lane(Operation::Insert).await;
    insert.put(&[account("a", json!(1))]).await.unwrap();
    assert!(refused(insert.put(&[account("a", json!(2))]).await));
    let mut update = lane(Operation::Update).await;
    assert!(refused(update.put(&[account("b", json!(2))]).await));
    update.put(&[account("a", json!(3))]).await.unwrap();
    assert_eq!(accounts(&database).await, ["a=3"]);
    // Replace forgets the columns that are not written.
    let base = config(&emulator(), &database, "Accounts", &[("AccountId", "key")]);
    let mut replace = connect(&SpannerConfig { operation: Operation::Replace, ..base }).await.lane();
    replace.put(&[row("a", vec![json!("a")], false)]).await.unwrap();
    let nulls = "SELECT AccountId FROM Accounts WHERE State IS NULL AND UpdatedAt IS NULL";
    assert_eq!(query(&database, nulls).await, ["a"]);
}

#[tokio::test]
async fn a_large_batch_becomes_several_commits() {
    let database = fresh(ACCOUNTS).await;
    let base = config(&emulator(), &database, "Accounts", &ACCOUNT_COLUMNS);
    let mut lane = connect(&SpannerConfig { max_cells: 30, ..base }).await.lane();
    let batch: Vec<_> = (0..95).map(|n| account(&format!("k{n}"), json!(n))).collect();
    lane.put(&batch).await.unwrap();
    let count = "SELECT CONCAT(CAST(COUNT(*) AS STRING), ' ', CAST(COUNT(DISTINCT UpdatedAt) AS STRING))
                 FROM Accounts";
    assert_eq!(query(&database, count).await, ["95 10"]);
}

#[tokio::test]
async fn lanes_share_the_emulator_without_conflicts() {
    let database = fresh(ACCOUNTS).await;
    let spanner = connect(&config(&emulator(), &database, "Accounts", &ACCOUNT_COLUMNS)).await;
    let lanes: Vec<_> = (0..4)
        .map(|lane| {
            let mut sink = spanner.lane();
            tokio::spawn(async move {
                for n in 0..20 {
                    sink.put(&[account(&format!("{lane}-{n}"), json!(n))]).await.unwrap();
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
    assert_eq!(accounts(&database).await.len(), 80);
}

#[tokio::test]
async fn what_can_never_be_written_stops_the_start_and_names_the_column() {
    let ddl = "CREATE TABLE Accounts (
                 AccountId STRING(64) NOT NULL, State JSON NOT NULL, Plain TIMESTAMP,
                 Made STRING(36) NOT NULL DEFAULT (GENERATE_UUID()),
                 UpdatedAt TIMESTAMP OPTIONS (allow_commit_timestamp=true)
               ) PRIMARY KEY (AccountId);
               CREATE INDEX ByPlain ON Accounts (Plain)";
    let database = fresh(ddl).await;
    let host = emulator();
    let fault = async |config: SpannerConfig| match Spanner::connect(&config, &no_env).await {
        Err(SinkError::Config { message, column }) => (column.unwrap_or_default(), message),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("connected"),
    };
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);
    let rows: [Row; 6] = [
        ("Acounts", &[("AccountId", "key")], "", "did you mean `Accounts`?"),
        ("Accounts", &[("AccountId", "key"), ("Stat", ".")], "Stat", "did you mean `State`?"),
        ("Accounts", &[("State", ".")], "AccountId", "primary key"),
        ("Accounts", &[("AccountId", "key")], "State", "NOT NULL"),
        (
            "Accounts",
            &[("AccountId", "key"), ("State", "."), ("Plain", "commit_timestamp()")],
            "Plain",
            "allow_commit_timestamp",
        ),
        ("Accounts", &[("AccountId", "key"), ("State", "commit_timestamp()")], "State", "is JSON"),
    ];
    for (table, columns, name, part) in rows {
        let (column, message) = fault(config(&host, &database, table, columns)).await;
        assert_eq!(column, name, "{message}");
        assert!(message.contains(part), "{message}");
    }
    let good = [("AccountId", "key"), ("State", "."), ("UpdatedAt", "commit_timestamp()")];
    connect(&config(&host, &database, "Accounts", &good)).await;

    let gone = database.replace("databases/d", "databases/x");
    let (_, message) = fault(config(&host, &gone, "Accounts", &good)).await;
    assert!(message.contains("Database not found"), "{message}");
    let (_, message) = fault(config(&host, "accounts", "Accounts", &good)).await;
    assert!(message.contains("projects/P/instances/I/databases/D"), "{message}");
}

#[tokio::test]
async fn a_column_that_goes_away_stops_a_running_sink_and_is_named() {
    let database = fresh(ACCOUNTS).await;
    let mut lane = connect(&config(&emulator(), &database, "Accounts", &ACCOUNT_COLUMNS)).await.lane();
    lane.put(&[account("a", json!(1))]).await.unwrap();
    for (ddl, column, part) in [
        ("ALTER TABLE Accounts DROP COLUMN State", Some("State"), "Column not found"),
        ("DROP TABLE Accounts", None, "Table not found"),
    ] {
        create_database(&database, Some(&emulator()), &[ddl.to_owned()]).await.expect("the DDL runs");
        let stopped = lane.put(&[account("a", json!(2))]).await;
        let Err(SinkError::Config { message, column: named }) = stopped else { panic!("{stopped:?}") };
        assert_eq!(named.as_deref(), column, "{message}");
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn the_environment_names_the_emulator() {
    let database = fresh(ACCOUNTS).await;
    let unset = SpannerConfig { emulator: None, ..config("", &database, "Accounts", &ACCOUNT_COLUMNS) };
    let host = emulator();
    let env = |name: &str| (name == "SPANNER_EMULATOR_HOST").then(|| host.clone());
    Spanner::connect(&unset, &env).await.map(drop).expect("connects");
}

/// A TCP relay in front of the emulator that can be cut.
struct Relay {
    host: String,
    cut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn start(to: String) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let relay = Relay {
            host: listener.local_addr().expect("is bound").to_string(),
            cut: Arc::default(),
            streams: Arc::default(),
        };
        let (cut, streams) = (Arc::clone(&relay.cut), Arc::clone(&relay.streams));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if cut.load(Ordering::SeqCst) {
                    continue; // dropped: the client sees the connection end
                }
                let server = TcpStream::connect(&to).expect("the emulator answers");
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let twin = |stream: &TcpStream| stream.try_clone().expect("a socket");
                    let (mut from, mut to) = (twin(from), twin(to));
                    thread::spawn(move || {
                        let mut buffer = [0; 16 << 10];
                        while let Ok(n @ 1..) = from.read(&mut buffer) {
                            if to.write_all(&buffer[..n]).is_err() {
                                break;
                            }
                        }
                    });
                }
                streams.lock().expect("nobody panicked").extend([client, server]);
            }
        });
        relay
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for stream in self.streams.lock().expect("nobody panicked").drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_a_retry() {
    let database = fresh(ACCOUNTS).await;
    let relay = Relay::start(emulator());
    let config = config(&relay.host, &database, "Accounts", &ACCOUNT_COLUMNS);
    relay.cut();
    let away = Spanner::connect(&config, &no_env).await.map(drop);
    assert!(matches!(away, Err(SinkError::Retry { .. })), "{away:?}");
    relay.mend();
    let mut lane = connect(&config).await.lane();
    lane.put(&[account("a", json!(1))]).await.unwrap();
    relay.cut();
    for _ in 0..3 {
        let start = Instant::now();
        let away = lane.put(&[account("a", json!(2))]).await;
        assert!(matches!(away, Err(SinkError::Retry { .. })), "{away:?}");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "the driver waits, not the client: {took:?}");
    }
    relay.mend();
    lane.put(&[account("a", json!(2))]).await.expect("works again at once");
    assert_eq!(accounts(&database).await, ["a=2"]);
}

/// An emulator of a test's own.
struct Emulator {
    child: Child,
}

impl Emulator {
    fn start(port: u16) -> Emulator {
        let program = std::env::var("SPANNER_EMULATOR_BIN").ok().or_else(|| {
            let listed =
                Command::new("dpkg").args(["-L", "google-cloud-cli-spanner-emulator"]).output().ok()?;
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            listed.lines().find(|path| path.ends_with("/emulator_main")).map(str::to_owned)
        });
        let program = program.expect(
            "the Spanner emulator's program was not found: set SPANNER_EMULATOR_BIN to emulator_main, or install \
             Google's Debian package google-cloud-cli-spanner-emulator",
        );
        let child = Command::new(program)
            .arg(format!("--host_port=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the emulator starts");
        let emulator = Emulator { child };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "the emulator does not answer");
            thread::yield_now();
        }
        emulator
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_memory_is_used_again_once_the_table_is_back() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let host = format!("127.0.0.1:{port}");
    let database = database();
    let config = config(&host, &database, "Accounts", &ACCOUNT_COLUMNS);
    let create = async || create_database(&database, Some(&host), &statements(ACCOUNTS)).await;

    let server = Emulator::start(port);
    create().await.expect("is made");
    create().await.expect("what exists is fine");
    let mut lane = connect(&config).await.lane();
    lane.put(&[account("a", json!(1))]).await.unwrap();

    drop(server);
    let away = lane.put(&[account("a", json!(2))]).await;
    assert!(matches!(away, Err(SinkError::Retry { .. })), "{away:?}");

    // It comes back with nothing: every session is lost, and the first write goes through all the same.
    let _server = Emulator::start(port);
    create().await.expect("is made again");
    lane.put(&[account("a", json!(3))]).await.expect("all sessions were lost, and that is no failure");
}

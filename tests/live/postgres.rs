//! The `postgres` sink against a real PostgreSQL. Every test has a schema of its own in the shared server; those that stop or
//! freeze it have a server of their own.
//!
//! Needs `POSTGRES_URL` and `POSTGRES_CA` (`scripts/postgres.sh start DIR` prints them). Without them a test fails; it never
//! skips.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use slackwater::clients::postgres::{Postgres, PostgresConfig};
use slackwater::clients::{Class, Tls};
use slackwater::model::{Clock, Expr, Millis, Record, SinkRow, SystemClock, Timestamp, Value};
use slackwater::sinks::columns::Columns;
use slackwater::sinks::postgres::{Conflict, PostgresLane, PostgresSink};
use slackwater::sinks::{Answer, Answers, PostgresSinkConfig, Sink, SinkError, SinkSettings};
use tokio_postgres::{Client, NoTls};

use crate::common::{OwnServer, Stage, wait};

fn url() -> String {
    std::env::var("POSTGRES_URL")
        .expect("POSTGRES_URL is not set: start one with scripts/postgres.sh start DIR")
}

/// A session of the test's own.
async fn session(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    client
}

/// A schema that no other test, and no earlier run on the same server, has.
struct Room {
    schema: String,
    client: Client,
    url: String,
}

impl Room {
    /// With these tables: `S.` in the DDL is the schema.
    async fn new(ddl: &str) -> Room {
        Room::at(&url(), ddl).await
    }

    async fn at(url: &str, ddl: &str) -> Room {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let schema = format!("s{}_{}", SystemClock.now(), NEXT.fetch_add(1, Ordering::Relaxed));
        let client = session(url).await;
        let room = Room { schema, client, url: url.to_owned() };
        room.run(&format!("CREATE SCHEMA {}", room.schema)).await;
        room.run(ddl).await;
        room
    }

    fn sql(&self, sql: &str) -> String {
        sql.replace("S.", &format!("{}.", self.schema))
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(&self.sql(sql)).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// The rows of a query that yields one text a row.
    async fn query(&self, sql: &str) -> Vec<String> {
        let rows = self.client.query(&self.sql(sql), &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_else(|| "NULL".to_owned())).collect()
    }

    fn config(&self, table: &str, columns: &[(&str, &str)]) -> PostgresSinkConfig {
        let columns = columns.iter().map(|(name, text)| (*name, Expr::new(*text, None)));
        PostgresSinkConfig::new(format!("{}.{table}", self.schema), Columns::new(columns))
    }

    async fn writer(&self, config: PostgresSinkConfig) -> Writer {
        self.writer_by(PostgresConfig::new(&self.url), config).await
    }

    async fn writer_by(&self, server: PostgresConfig, config: PostgresSinkConfig) -> Writer {
        let postgres = Postgres::new(&server).expect("a pool");
        let sink = PostgresSink::connect(&config, &postgres).await.expect("connects");
        Writer { lane: sink.lane(), config }
    }

    /// What stops a sink at its start: the column and the words.
    async fn fault(&self, server: PostgresConfig, config: &PostgresSinkConfig) -> (String, String) {
        let postgres = Postgres::new(&server).expect("a pool");
        match PostgresSink::connect(config, &postgres).await {
            Err(SinkError::Config { message, column }) => (column.unwrap_or_default(), message),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("connected"),
        }
    }
}

/// A lane, and how its rows are made.
struct Writer {
    lane: PostgresLane,
    config: PostgresSinkConfig,
}

impl Writer {
    fn row(&self, key: &str, value: Json) -> SinkRow {
        let value = if value.is_null() { Value::Null } else { Value::from(value) };
        let record = Record::new(key.to_owned(), value, Timestamp(0));
        SinkRow { reply_to: None, payload: self.config.payload(&record).expect("is evaluated"), record }
    }

    fn rows(&self, rows: &[(&str, Json)]) -> Vec<SinkRow> {
        rows.iter().map(|(key, value)| self.row(key, value.clone())).collect()
    }

    /// One delivery, as the driver makes it: what is said of each row, and how it ended.
    async fn deliver(&mut self, rows: &[SinkRow]) -> (Vec<Option<Answer>>, Result<(), SinkError>) {
        let mut answers = Answers::new(rows.len());
        let result = self.lane.deliver(rows, &mut answers).await;
        (answers.into_vec(), result)
    }

    /// Writes rows of which none is refused.
    async fn put(&mut self, rows: &[(&str, Json)]) {
        let rows = self.rows(rows);
        let (answers, result) = self.deliver(&rows).await;
        assert_eq!(result, Ok(()), "{answers:?}");
        assert!(!answers.iter().any(|a| matches!(a, Some(Answer::Refused(_)))), "{answers:?}");
    }

    /// Writes rows; those that stand in the table then, one by one.
    async fn stands(&mut self, rows: &[(&str, Json)]) -> Vec<Json> {
        let rows = self.rows(rows);
        let (answers, result) = self.deliver(&rows).await;
        assert_eq!(result, Ok(()), "{answers:?}");
        let row = |answer| match answer {
            Some(Answer::Wrote(row)) => row,
            Some(Answer::Refused(why)) => Json::String(why),
            Some(Answer::Written) | None => Json::Null,
        };
        answers.into_iter().map(row).collect()
    }

    /// Writes rows as the driver does: what is refused as a whole is halved until the row stands alone. The refused
    /// ones, by their keys.
    async fn settle(&mut self, rows: &[(&str, Json)]) -> Vec<(String, String)> {
        let mut refused = Vec::new();
        let mut parts = vec![self.rows(rows)];
        while let Some(part) = parts.pop() {
            let (answers, result) = self.deliver(&part).await;
            let mut left = Vec::new();
            for (row, answer) in part.into_iter().zip(answers) {
                match answer {
                    Some(Answer::Refused(why)) => refused.push((key_of(&row), why)),
                    None if result.is_err() => left.push(row),
                    _ => {}
                }
            }
            match result {
                Ok(()) => {}
                Err(SinkError::Refused { .. }) if left.len() > 1 => {
                    let second = left.split_off(left.len() / 2);
                    parts.extend([second, left]);
                }
                Err(SinkError::Refused { message }) => {
                    refused.extend(left.into_iter().map(|row| (key_of(&row), message.clone())));
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        refused.sort();
        refused
    }
}

fn key_of(row: &SinkRow) -> String {
    String::from_utf8_lossy(row.record.key.as_deref().unwrap_or_default()).into_owned()
}

const POSTS: &str =
    "CREATE TABLE S.posts (id text PRIMARY KEY, title varchar(10) NOT NULL, version int8, slug text UNIQUE)";
const POST_COLUMNS: [(&str, &str); 4] =
    [("id", "key"), ("title", ".title"), ("version", ".version"), ("slug", ".slug")];

fn post(title: &str, version: i64) -> Json {
    json!({ "title": title, "version": version })
}

const SHOWN: &str =
    "SELECT id || '=' || title || ':' || coalesce(version::text, '-') FROM S.posts ORDER BY id";

#[tokio::test]
async fn every_column_type_is_written_and_comes_back() {
    let room = Room::new(
        "CREATE TYPE S.mood AS ENUM ('sad', 'glad');
         CREATE DOMAIN S.short AS varchar(3);
         CREATE TABLE S.wide (
           id int8 PRIMARY KEY, t text, v varchar(3), i2 int2, i4 int4, n numeric(10, 2), f4 float4, f8 float8, b bool,
           tz timestamptz, ts timestamp, d date, u uuid, y bytea, j json, jb jsonb, ta text[], ia int4[], tza timestamptz[],
           m S.mood, iv interval, dom S.short, g int8 GENERATED ALWAYS AS (id * 2) STORED, made timestamptz DEFAULT now())",
    )
    .await;
    // Each column, what is written, and what stands there.
    let cells = [
        ("id", json!("7"), json!(7)), // a record's key is text
        ("t", json!("ä\n\"'\\"), json!("ä\n\"'\\")),
        ("v", json!("abc"), json!("abc")),
        ("i2", json!(-5), json!(-5)),
        ("i4", json!("70000"), json!(70000)),
        ("n", json!("12.345"), json!(12.35)),
        ("f4", json!(1.5), json!(1.5)),
        ("f8", json!("-Infinity"), json!("-Infinity")),
        ("b", json!(true), json!(true)),
        ("tz", json!("2025-01-31T12:00:00.123456+02:00"), json!("2025-01-31T10:00:00.123456+00:00")),
        ("ts", json!(1500), json!("1970-01-01T00:00:01.5")),
        ("d", json!("2025-01-31"), json!("2025-01-31")),
        ("u", json!("123E4567E89B12D3A456426614174000"), json!("123e4567-e89b-12d3-a456-426614174000")),
        ("y", json!("aGk"), json!("aGk=")),
        ("j", json!({"b": 1, "a": null}), json!({"b": 1, "a": null})),
        ("jb", json!(["ä", {"x": 1.5}]), json!(["ä", {"x": 1.5}])),
        ("ta", json!(["a\"b", null, "{,}"]), json!(["a\"b", null, "{,}"])),
        ("ia", json!([1, null, -2]), json!([1, null, -2])),
        (
            "tza",
            json!(["2025-01-31T12:00:00Z", 1500]),
            json!(["2025-01-31T12:00:00+00:00", "1970-01-01T00:00:01.5+00:00"]),
        ),
        ("m", json!("glad"), json!("glad")),
        ("iv", json!("1 day 2 hours"), json!("1 day 02:00:00")),
        ("dom", json!("abc"), json!("abc")),
    ];
    let columns: Vec<(String, String)> = cells
        .iter()
        .map(|(name, ..)| {
            ((*name).to_owned(), if *name == "id" { "key".to_owned() } else { format!(".{name}") })
        })
        .collect();
    let columns: Vec<(&str, &str)> =
        columns.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let config =
        PostgresSinkConfig { returning: Some(".row".parse().unwrap()), ..room.config("wide", &columns) };
    let mut writer = room.writer(config).await;
    let value: serde_json::Map<String, Json> =
        cells.iter().map(|(name, json, _)| ((*name).to_owned(), json.clone())).collect();
    let stands = writer.stands(&[("7", Json::Object(value)), ("8", json!({}))]).await;
    for (name, _, expected) in &cells {
        assert_eq!(&stands[0][name], expected, "{name}");
    }
    assert_eq!(
        (&stands[0]["g"], stands[0]["made"].is_string()),
        (&json!(14), true),
        "all columns of the row"
    );
    for (name, ..) in &cells[1..] {
        assert_eq!(stands[1][name], Json::Null, "{name}");
    }
    // What does not fit is refused by column, the rest of the batch is written.
    for (name, bad, part) in [
        ("v", json!("abcd"), "column `v`: 4 characters, and it takes 3"),
        ("i2", json!(40000), "column `i2`: 40000 is no int2"),
        ("b", json!("yes"), "column `b`: \"yes\" is no bool"),
        ("d", json!("2025-02-30"), "column `d`: \"2025-02-30\" is no date"),
        ("ta", json!([1]), "column `ta`: 1 is no text"),
        ("t", json!("a\u{0}b"), "column `t`: text with a NUL"),
        ("jb", json!({"a": "\u{0}"}), "column `jb`: text with a NUL"),
        ("dom", json!("abcd"), "column `dom`: 4 characters, and it takes 3"),
        // What only the server can judge.
        ("m", json!("cross"), "invalid input value for enum"),
        ("n", json!("123456789012"), "numeric field overflow"),
        ("iv", json!("soon"), "invalid input syntax for type interval"),
    ] {
        let refused =
            writer.settle(&[("8", json!({})), ("9", json!({ name: bad })), ("10", json!({}))]).await;
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert_eq!(refused[0].0, "9");
        assert!(refused[0].1.contains(part), "{refused:?}");
    }
    assert_eq!(room.query("SELECT count(*)::text FROM S.wide").await, ["3"]);
}

#[tokio::test]
async fn a_row_that_is_there_is_dealt_with_as_the_sink_says() {
    let room = Room::new(POSTS).await;
    let config = |conflict| {
        let returning = Some(".row".parse().unwrap());
        PostgresSinkConfig { conflict, returning, ..room.config("posts", &POST_COLUMNS) }
    };
    let titles = |rows: Vec<Json>| -> Vec<String> {
        rows.iter()
            .map(|row| row["title"].as_str().unwrap_or(row.as_str().unwrap_or("none")).to_owned())
            .collect()
    };
    let mut upsert = room.writer(config(Conflict::Upsert)).await;
    let rows = [("a", post("1", 1)), ("b", post("2", 1)), ("a", post("3", 1))];
    assert_eq!(titles(upsert.stands(&rows).await), ["3", "2", "3"], "as it stands after the batch");

    let mut keep = room.writer(config(Conflict::Keep)).await;
    let rows = [("a", post("4", 1)), ("c", post("5", 1)), ("c", post("6", 1))];
    assert_eq!(titles(keep.stands(&rows).await), ["3", "5", "5"], "the older row");
    // Processed twice: created stays created.
    assert_eq!(titles(keep.stands(&rows[1..]).await), ["5", "5"]);

    let mut fail = room.writer(config(Conflict::Fail)).await;
    let rows = [("d", post("7", 1)), ("a", post("8", 1)), ("d", post("7", 1)), ("d", post("9", 1))];
    let said = titles(fail.stands(&rows).await);
    assert_eq!((said[0].as_str(), said[2].as_str()), ("7", "7"), "the same row is what a crash leaves");
    assert!(said[1].contains("another row has its key") && said[3].contains("another row"), "{said:?}");
    assert_eq!(titles(fail.stands(&rows[..1]).await), ["7"]);
    assert_eq!(room.query(SHOWN).await, ["a=3:1", "b=2:1", "c=5:1", "d=7:1"]);
}

#[tokio::test]
async fn the_newest_wins_in_whatever_order_they_come() {
    let room = Room::new(POSTS).await;
    let newer_wins = Some("version".to_owned());
    let config = PostgresSinkConfig { newer_wins, ..room.config("posts", &POST_COLUMNS) };
    let mut writer = room.writer(config).await;
    writer.put(&[("a", post("two", 2)), ("a", post("one", 1)), ("b", json!({"title": "none"}))]).await;
    assert_eq!(room.query(SHOWN).await, ["a=two:2", "b=none:-"]);
    writer.put(&[("a", post("one", 1)), ("a", post("again", 2)), ("b", post("first", -1))]).await;
    assert_eq!(room.query(SHOWN).await, ["a=two:2", "b=first:-1"]);
    writer.put(&[("a", post("three", 3)), ("b", json!({"title": "null"}))]).await;
    assert_eq!(room.query(SHOWN).await, ["a=three:3", "b=first:-1"]);

    // Of text only the server knows the order.
    let config = PostgresSinkConfig {
        newer_wins: Some("slug".to_owned()),
        ..room.config("posts", &[("id", "key"), ("title", ".title"), ("slug", ".slug")])
    };
    let mut writer = room.writer(config).await;
    let slug = |title: &str, slug: &str| json!({ "title": title, "slug": slug });
    writer.put(&[("c", slug("b", "b")), ("c", slug("a", "a")), ("c", slug("c", "c"))]).await;
    assert_eq!(room.query("SELECT title FROM S.posts WHERE id = 'c'").await, ["c"]);
}

#[tokio::test]
async fn tombstones_and_a_condition_delete() {
    let room = Room::new(POSTS).await;
    let mut writer = room.writer(room.config("posts", &POST_COLUMNS)).await;
    writer.put(&[("a", post("1", 1)), ("b", post("2", 1)), ("c", post("3", 1))]).await;
    writer
        .put(&[
            ("a", Json::Null),
            ("b", Json::Null),
            ("b", post("4", 2)),
            ("d", post("5", 1)),
            ("d", Json::Null),
        ])
        .await;
    assert_eq!(room.query(SHOWN).await, ["b=4:2", "c=3:1"]);

    let delete_when = Some(Expr::new(".gone", None));
    let config = PostgresSinkConfig { delete_when, ..room.config("posts", &POST_COLUMNS) };
    let mut writer = room.writer(config).await;
    writer
        .put(&[("b", json!({"gone": true})), ("c", json!({"gone": false, "title": "6", "version": 2}))])
        .await;
    assert_eq!(room.query(SHOWN).await, ["c=6:2"]);
    writer.put(&[("c", Json::Null)]).await;
    assert_eq!(room.query(SHOWN).await, Vec::<String>::new(), "and tombstones as well");

    // A version that is older than the row deletes nothing.
    let config = PostgresSinkConfig {
        newer_wins: Some("version".to_owned()),
        delete_when: Some(Expr::new(".gone", None)),
        ..room.config("posts", &POST_COLUMNS)
    };
    let mut writer = room.writer(config).await;
    writer.put(&[("a", post("1", 5)), ("a", json!({"gone": true, "version": 4}))]).await;
    assert_eq!(room.query(SHOWN).await, ["a=1:5"]);
    writer.put(&[("a", json!({"gone": true, "version": 6}))]).await;
    assert_eq!(room.query(SHOWN).await, Vec::<String>::new());
    // A row whose key cannot be made of a tombstone.
    let mut writer = room.writer(room.config("posts", &[("id", ".id"), ("title", ".title")])).await;
    let refused = writer.settle(&[("x", Json::Null)]).await;
    assert!(refused[0].1.contains("column `id`: null in the key"), "{refused:?}");
}

#[tokio::test]
async fn bad_rows_are_the_only_ones_refused_however_many() {
    let room = Room::new(
        "CREATE TABLE S.parents (id text PRIMARY KEY); INSERT INTO S.parents VALUES ('p');
         CREATE TABLE S.kids (id text PRIMARY KEY, parent text REFERENCES S.parents, size int4 CHECK (size < 100),
                              name varchar(4) NOT NULL)",
    )
    .await;
    let columns = [("id", "key"), ("parent", ".parent"), ("size", ".size"), ("name", ".name")];
    let good = json!({"parent": "p", "size": 1, "name": "ok"});
    let with = |field: &str, value: Json| {
        let mut row = good.clone();
        row[field] = value;
        row
    };
    let kinds = [
        (with("name", json!("12345")), "column `name`: 5 characters"),
        (with("name", Json::Null), "column `name`: null in a NOT NULL column"),
        (with("size", json!("big")), "column `size`: \"big\" is no int4"),
        (with("parent", json!("nobody")), "23503"),
        (with("size", json!(100)), "23514"),
    ];
    let names: Vec<String> = (0..1000).map(|n| format!("k{n:04}")).collect();
    for bad_rows in [1, 2, 999] {
        for (bad, part) in &kinds {
            room.run("TRUNCATE S.kids").await;
            let mut writer = room.writer(room.config("kids", &columns)).await;
            // Spread over the batch; of 999 the good one is in the middle.
            let is_bad = |n: usize| match bad_rows {
                1 => n == 617,
                2 => n == 3 || n == 998,
                _ => n != 500,
            };
            let rows: Vec<(&str, Json)> = names
                .iter()
                .enumerate()
                .map(|(n, name)| (name.as_str(), if is_bad(n) { bad.clone() } else { good.clone() }))
                .collect();
            let refused = writer.settle(&rows).await;
            let expected: Vec<&String> =
                names.iter().enumerate().filter(|(n, _)| is_bad(*n)).map(|(_, name)| name).collect();
            assert_eq!(refused.iter().map(|(key, _)| key).collect::<Vec<_>>(), expected, "{part}");
            assert!(refused.iter().all(|(_, why)| why.contains(part)), "{:?}", refused[0]);
            let count = room.query("SELECT count(*)::text FROM S.kids").await;
            assert_eq!(count, [(1000 - bad_rows).to_string()], "{part}");
        }
    }
}

#[tokio::test]
async fn a_second_unique_column_is_taken_in_the_order_of_the_rows() {
    let room = Room::new(POSTS).await;
    let mut writer = room.writer(room.config("posts", &POST_COLUMNS)).await;
    let slug = |slug: &str| json!({"title": "t", "slug": slug});
    let slugs = "SELECT id || '=' || slug FROM S.posts ORDER BY id";
    writer.put(&[("a", slug("x")), ("b", slug("y"))]).await;
    // In their order all of these work: `a` frees the value that `b` takes, and that `c` takes after it.
    writer.put(&[("a", slug("z")), ("b", slug("x")), ("c", slug("y"))]).await;
    assert_eq!(room.query(slugs).await, ["a=z", "b=x", "c=y"]);
    // Sorted by their keys they would not: the row that frees it comes behind.
    writer.put(&[("c", slug("w")), ("a", slug("y"))]).await;
    assert_eq!(room.query(slugs).await, ["a=y", "b=x", "c=w"]);
    // A delete frees it.
    writer.put(&[("c", Json::Null), ("b", slug("w"))]).await;
    assert_eq!(room.query(slugs).await, ["a=y", "b=w"]);
    // Two that swap: neither can go first. The rest is written.
    let refused =
        writer.settle(&[("a", slug("w")), ("d", slug("v")), ("b", slug("y")), ("e", slug("v"))]).await;
    assert_eq!(
        refused.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["a", "b", "e"],
        "{refused:?}"
    );
    assert!(refused[0].1.contains("23505") && refused[0].1.contains("(slug)=(w)"), "{refused:?}");
    assert_eq!(room.query(slugs).await, ["a=y", "b=w", "d=v"]);
    // Reduced to its last row, a key would take what it had let go of before.
    writer.put(&[("b", slug("u")), ("a", slug("w")), ("b", slug("y"))]).await;
    assert_eq!(room.query(slugs).await, ["a=w", "b=y", "d=v"]);
}

#[tokio::test]
async fn keys_that_only_the_server_finds_equal_are_one_row() {
    let room = Room::new("CREATE TABLE S.prices (amount numeric PRIMARY KEY, name text)").await;
    let mut writer = room.writer(room.config("prices", &[("amount", ".amount"), ("name", ".name")])).await;
    let row = |amount: Json, name: &str| json!({"amount": amount, "name": name});
    writer
        .put(&[("", row(json!("1.0"), "a")), ("", row(json!(1), "b")), ("", row(json!("1.00"), "c"))])
        .await;
    assert_eq!(room.query("SELECT name FROM S.prices").await, ["c"]);
}

#[tokio::test]
async fn rows_without_a_key_are_added() {
    let room = Room::new("CREATE TABLE S.log (id bigserial PRIMARY KEY, line text, at timestamptz)").await;
    let columns = [("line", "."), ("at", "commit_timestamp()")];
    let config = PostgresSinkConfig { conflict: Conflict::Fail, ..room.config("log", &columns) };
    let mut writer = room.writer(config).await;
    writer.put(&[("a", json!("1")), ("a", json!("1"))]).await;
    assert_eq!(room.query("SELECT line FROM S.log WHERE at > now() - interval '1 minute'").await, ["1", "1"]);
    let (column, said) = room.fault(PostgresConfig::new(url()), &room.config("log", &columns)).await;
    assert_eq!(column, "id", "{said}");
}

#[tokio::test]
async fn what_can_never_be_written_stops_the_start_and_names_the_column() {
    let room = Room::new(
        "CREATE TABLE S.posts (id text PRIMARY KEY, title text NOT NULL, slug text UNIQUE, part text UNIQUE, state jsonb,
                               made timestamptz NOT NULL DEFAULT now(), twice int8 GENERATED ALWAYS AS (1) STORED);
         CREATE TABLE S.heap (a int4)",
    )
    .await;
    let server = || PostgresConfig::new(url());
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);
    let rows: [Row; 8] = [
        ("post", &[("id", "key")], "", "did you mean"),
        ("posts", &[("id", "key"), ("titel", ".")], "titel", "did you mean `title`?"),
        ("posts", &[("id", "key"), ("zzz", ".")], "zzz", "it has id, title, slug"),
        ("posts", &[("title", ".")], "id", "part of the primary key"),
        ("posts", &[("id", "key")], "title", "NOT NULL"),
        ("posts", &[("id", "key"), ("title", "."), ("twice", "1")], "twice", "generated"),
        (
            "posts",
            &[("id", "key"), ("title", "commit_timestamp()")],
            "title",
            "is text and takes no commit_timestamp()",
        ),
        ("heap", &[("a", "key")], "", "has no primary key"),
    ];
    for (table, columns, name, part) in rows {
        let (column, message) = room.fault(server(), &room.config(table, columns)).await;
        assert_eq!(column, name, "{message}");
        assert!(message.contains(part), "{message}");
    }
    let good = [
        ("id", "key"),
        ("title", ".title"),
        ("slug", ".slug"),
        ("made", "commit_timestamp()"),
        ("state", "."),
    ];
    let with = |change: &dyn Fn(&mut PostgresSinkConfig)| {
        let mut config = room.config("posts", &good);
        change(&mut config);
        config
    };
    for (config, part) in [
        (with(&|c| c.key = Some(vec!["title".into()])), "no unique index"),
        (with(&|c| c.newer_wins = Some("state".into())), "nothing says which is newer"),
        (with(&|c| c.newer_wins = Some("made".into())), "the last one is always the newest"),
        (
            with(&|c| c.table = "nowhere.posts".into()),
            "there is no table `nowhere.posts` in database `postgres`",
        ),
    ] {
        let (_, message) = room.fault(server(), &config).await;
        assert!(message.contains(part), "{message}");
    }
    room.writer(with(&|c| c.key = Some(vec!["slug".into()]))).await;
}

#[tokio::test]
async fn logins_and_rights_that_are_refused_stop_the_start() {
    let room = Room::new(POSTS).await;
    let ca = std::env::var("POSTGRES_CA").expect("POSTGRES_CA is not set: scripts/postgres.sh prints it");
    let secret = |password: &str| {
        let url = url().replace("slackwater@", "secret@");
        let tls = Some(Tls { ca: Some(ca.clone().into()), ..Tls::default() });
        PostgresConfig { password: Some(password.into()), tls, ..PostgresConfig::new(url) }
    };
    let config = room.config("posts", &POST_COLUMNS);
    let (_, said) = room.fault(secret("wrong"), &config).await;
    assert!(said.contains("28P01") && !said.contains("wrong"), "{said}");
    let (_, said) = room.fault(PostgresConfig { tls: None, ..secret("s3cret") }, &config).await;
    assert!(said.contains("28000"), "without TLS: {said}");
    let (_, said) =
        room.fault(PostgresConfig { tls: Some(Tls::default()), ..secret("s3cret") }, &config).await;
    assert!(said.contains("certificate"), "an authority that this machine does not know: {said}");
    let (_, said) = room.fault(secret("s3cret"), &config).await;
    assert!(said.contains("there is no table") || said.contains("no right to"), "{said}");
    room.run(&format!(
        "GRANT USAGE ON SCHEMA {} TO secret; GRANT SELECT, INSERT ON S.posts TO secret",
        room.schema
    ))
    .await;
    let (_, said) = room.fault(secret("s3cret"), &config).await;
    assert!(said.contains("no right to UPDATE on table"), "{said}");
    room.run("GRANT UPDATE, DELETE ON S.posts TO secret").await;
    let mut writer = room.writer_by(secret("s3cret"), config.clone()).await;
    writer.put(&[("a", post("tls", 1))]).await;
    assert_eq!(room.query(SHOWN).await, ["a=tls:1"]);
    let nowhere =
        PostgresConfig::new(url().replace("/postgres", "/nowhere").replace("//nowhere", "//postgres"));
    let failure = Postgres::new(&nowhere).expect("a pool").ping().await;
    let failure = failure.expect_err("there is no such database");
    assert_eq!(failure.class, Class::Config, "{failure}");
    assert!(failure.message.contains("3D000"), "{failure}");
}

#[tokio::test]
async fn a_table_that_changes_while_rows_are_written() {
    let room = Room::new(POSTS).await;
    let mut writer = room.writer(room.config("posts", &POST_COLUMNS)).await;
    writer.put(&[("a", post("1", 1))]).await;
    // What still fits goes on.
    room.run("ALTER TABLE S.posts ALTER title TYPE text, ADD extra int4 NOT NULL DEFAULT 5, ALTER version TYPE numeric").await;
    writer.put(&[("a", post("2", 2)), ("b", post("3", 1))]).await;
    assert_eq!(room.query(SHOWN).await, ["a=2:2", "b=3:1"]);
    let stopped = async |writer: &mut Writer| {
        let rows = writer.rows(&[("c", post("4", 1)), ("d", post("5", 1))]);
        match writer.deliver(&rows).await {
            (answers, Err(SinkError::Config { message, column })) => {
                assert!(answers.iter().all(Option::is_none), "no row is to blame: {answers:?}");
                (column, message)
            }
            other => panic!("{other:?}"),
        }
    };
    room.run("ALTER TABLE S.posts ALTER extra DROP DEFAULT").await;
    let (column, message) = stopped(&mut writer).await;
    assert!(column.is_none() && message.contains("extra"), "{message}");
    room.run("ALTER TABLE S.posts DROP extra").await;
    writer.put(&[("c", post("4", 1))]).await;
    room.run("ALTER TABLE S.posts DROP version").await;
    let (column, message) = stopped(&mut writer).await;
    assert_eq!(column.as_deref(), Some("version"), "{message}");
    room.run("DROP TABLE S.posts").await;
    let (_, message) = stopped(&mut writer).await;
    assert!(message.contains("42P01"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn contention_and_overload_are_tried_again_and_refuse_nothing() {
    let room = Room::new(POSTS).await;
    let quick = PostgresConfig { timeout: Millis(700), pool: 2, ..PostgresConfig::new(url()) };
    let mut writer = room.writer_by(quick, room.config("posts", &POST_COLUMNS)).await;
    let retry = async |writer: &mut Writer, code: &str| {
        let rows = writer.rows(&[("a", post("1", 1)), ("b", post("2", 1))]);
        match writer.deliver(&rows).await {
            (answers, Err(SinkError::Retry { message, .. })) => {
                assert!(answers.iter().all(Option::is_none), "{answers:?}");
                assert!(message.contains(code), "{message}");
            }
            other => panic!("{other:?}"),
        }
    };
    writer.put(&[("a", post("0", 0)), ("b", post("0", 0))]).await;
    // A lock that somebody keeps.
    let other = session(&url()).await;
    other.batch_execute(&room.sql("BEGIN; UPDATE S.posts SET title = 'x' WHERE id = 'b'")).await.unwrap();
    retry(&mut writer, "57014").await;
    // Less at a time then: the row that is free is written, the other waits.
    let rows = writer.rows(&[("a", post("1", 1)), ("b", post("2", 1))]);
    let (answers, result) = writer.deliver(&rows).await;
    assert!(matches!(result, Err(SinkError::Retry { .. })), "{result:?}");
    assert_eq!(answers, [Some(Answer::Written), None]);
    other.batch_execute("ROLLBACK").await.unwrap();
    writer.put(&[("b", post("2", 1))]).await;
    assert_eq!(room.query(SHOWN).await, ["a=1:1", "b=2:1"]);

    // A deadlock: the sink holds `a` and wants `b`.
    let patient = PostgresConfig::new(url());
    let mut writer = room.writer_by(patient, room.config("posts", &POST_COLUMNS)).await;
    other.batch_execute(&room.sql("BEGIN; UPDATE S.posts SET title = 'x' WHERE id = 'b'")).await.unwrap();
    let wanted = room.sql("UPDATE S.posts SET title = 'y' WHERE id = 'a'");
    let meet = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        other.batch_execute(&wanted).await
    };
    let ((), met) = tokio::join!(retry(&mut writer, "40P01"), meet);
    met.expect("the sink was the one that gave way");
    other.batch_execute("ROLLBACK").await.unwrap();
    writer.put(&[("a", post("3", 2)), ("b", post("4", 2))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_and_too_many_connections_are_waited_for() {
    let server = OwnServer::postgres();
    let room = Room::at(&server.address, POSTS).await;
    let mut writer = room.writer(room.config("posts", &POST_COLUMNS)).await;
    let rows = writer.rows(&[("a", post("1", 1))]);
    let retry = async |writer: &mut Writer, code: &str| match writer.deliver(&rows).await {
        (_, Err(SinkError::Retry { message, .. })) => assert!(message.contains(code), "{message}"),
        other => panic!("{code}: {other:?}"),
    };
    // Read only, for the session that is there and for new ones.
    room.run("ALTER SYSTEM SET default_transaction_read_only = on").await;
    room.run("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    retry(&mut writer, "25006").await;
    retry(&mut writer, "25006").await;
    room.run("SET default_transaction_read_only = off").await;
    room.run("ALTER SYSTEM RESET default_transaction_read_only").await;
    room.run("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    writer.put(&[("a", post("1", 1))]).await;
    // No session is left: others have them all.
    let mut others = Vec::new();
    let all = loop {
        match tokio_postgres::connect(&server.address, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                others.push(client);
            }
            Err(e) => break e,
        }
    };
    assert_eq!(all.code().map(|code| code.code()), Some("53300"));
    let mut late = Writer {
        lane: {
            let postgres = Postgres::new(&PostgresConfig::new(&server.address)).expect("a pool");
            let failure = postgres.ping().await.expect_err("there is no room");
            assert_eq!(
                (failure.class, failure.code.as_deref()),
                (Class::Overload, Some("53300")),
                "{failure}"
            );
            others.truncate(10);
            let end = Instant::now() + Duration::from_secs(10);
            while postgres.ping().await.is_err() {
                assert!(Instant::now() < end, "room again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            PostgresSink::connect(&writer.config, &postgres).await.expect("connects").lane()
        },
        config: writer.config,
    };
    late.put(&[("a", post("2", 2))]).await;
    assert_eq!(room.query(SHOWN).await, ["a=2:2"]);
}

/// A relay in front of the server that can lose answers: the next `cuts` times the server says that a transaction has
/// ended, the connection breaks instead of passing it on.
struct Relay {
    port: u16,
    cuts: Arc<AtomicUsize>,
}

impl Relay {
    fn start(to: String) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("is bound").port();
        let cuts = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&cuts);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&to).expect("the server answers");
                let twin = |stream: &TcpStream| stream.try_clone().expect("a socket");
                let (mut from, mut into) = (twin(&client), twin(&server));
                thread::spawn(move || {
                    let mut buffer = [0; 16 << 10];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        if into.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    into.shutdown(Shutdown::Both).ok();
                });
                let cuts = Arc::clone(&shared);
                thread::spawn(move || {
                    let (mut from, mut into) = (server, client);
                    let mut buffer = [0; 16 << 10];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        let inserted = buffer[..n].windows(8).any(|w| w == b"INSERT 0");
                        let lose = || {
                            cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                                .is_ok()
                        };
                        if inserted && lose() || into.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    into.shutdown(Shutdown::Both).ok();
                    from.shutdown(Shutdown::Both).ok();
                });
            }
        });
        Relay { port, cuts }
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> String {
    let rest = url.split_once('@').map_or(url, |(_, rest)| rest);
    rest.split('/').next().expect("an address").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_asked_for_again() {
    let room = Room::new(POSTS).await;
    let relay = Relay::start(address(&url()));
    let through = url().replace(&address(&url()), &format!("127.0.0.1:{}", relay.port));
    for conflict in [Conflict::Upsert, Conflict::Keep, Conflict::Fail] {
        room.run("TRUNCATE S.posts").await;
        let returning = Some(".row".parse().unwrap());
        let config = PostgresSinkConfig { conflict, returning, ..room.config("posts", &POST_COLUMNS) };
        let mut writer = room.writer_by(PostgresConfig::new(&through), config).await;
        writer.put(&[("z", post("0", 0))]).await;
        relay.cuts.store(1, Ordering::SeqCst);
        let rows = writer.rows(&[("a", post("1", 1)), ("b", post("2", 1))]);
        let (answers, result) = writer.deliver(&rows).await;
        assert!(matches!(result, Err(SinkError::Retry { .. })), "{result:?}");
        assert!(
            answers.iter().all(Option::is_none),
            "nothing is said of a row whose answer was lost: {answers:?}"
        );
        assert_eq!(relay.cuts.load(Ordering::SeqCst), 0);
        assert_eq!(room.query(SHOWN).await, ["a=1:1", "b=2:1", "z=0:0"], "it had been written");
        let (answers, result) = writer.deliver(&rows).await;
        assert_eq!(result, Ok(()), "{conflict:?}");
        assert!(answers.iter().all(|a| matches!(a, Some(Answer::Wrote(_)))), "{conflict:?} {answers:?}");
        assert_eq!(room.query(SHOWN).await, ["a=1:1", "b=2:1", "z=0:0"], "{conflict:?}: once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_freezes_or_is_killed_is_a_retry_until_it_is_back() {
    let server = OwnServer::postgres();
    let room = Room::at(&server.address, POSTS).await;
    let quick = PostgresConfig {
        timeout: Millis(500),
        connect_timeout: Millis(500),
        ..PostgresConfig::new(&server.address)
    };
    let mut writer = room.writer_by(quick, room.config("posts", &POST_COLUMNS)).await;
    writer.put(&[("a", post("1", 1))]).await;
    let rows = writer.rows(&[("a", post("2", 2))]);
    let (break_it, mend): (&[&str], &[&str]) = (&["stop", "kill", "freeze"], &["resume", "resume", "thaw"]);
    for (n, (how, back)) in break_it.iter().zip(mend).enumerate() {
        match *how {
            "freeze" => server.freeze(),
            verb => server.act(verb),
        }
        // More than once: with a connection that breaks, and with none.
        for _ in 0..3 {
            let began = Instant::now();
            let (answers, result) = writer.deliver(&rows).await;
            assert!(matches!(result, Err(SinkError::Retry { .. })), "{how}: {result:?}");
            assert_eq!(answers, [None], "{how}");
            assert!(began.elapsed() < Duration::from_secs(6), "{how}: {:?}", began.elapsed());
        }
        match *back {
            "thaw" => server.thaw(),
            verb => server.act(verb),
        }
        let version = i64::try_from(n).expect("a small number") + 10;
        let again = writer.rows(&[("a", post("back", version))]);
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match writer.deliver(&again).await {
                (_, Ok(())) => break,
                (_, Err(SinkError::Retry { .. })) if Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                other => panic!("{back}: {other:?}"),
            }
        }
        let now = session(&server.address).await;
        let rows = now.query(&room.sql(SHOWN), &[]).await.expect("it answers");
        assert_eq!(rows[0].get::<_, String>(0), format!("a=back:{version}"), "{how}");
    }
}

const PUBLISHER: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}" }
postgres: { url: "${POSTGRES_URL}" }
sources:
  new: { kafka: { topic: NAME.new } }
operators:
  made: { from: posts, filter: .row.title == .title }
  taken: { from: posts, filter: .row.title != .title }
sinks:
  posts:
    from: new
    postgres:
      table: SCHEMA.posts
      columns: { id: key, title: .title, version: .version, slug: .slug }
      conflict: keep
      returning: .row
  published: { from: made, kafka: { topic: NAME.published, value: .row } }
  refused: { from: taken, kafka: { topic: NAME.taken, value: .row.title } }
errors: { dead_letter: { topic: NAME.dlq } }
"#;

/// Rows whose first letter is a bad one's name are refused: by their length, for NULL, by their slug.
#[test]
fn what_is_stored_is_announced_once_it_is_and_the_dead_letter_holds_exactly_the_bad_rows() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let room = runtime.block_on(Room::new(POSTS));
    let text = PUBLISHER.replace("SCHEMA", &room.schema);
    let topics = [("new", 1), ("published", 1), ("taken", 1), ("dlq", 1)];
    let stage = Stage::new("publish", &topics, &text);
    let start = |id: &str| {
        let mut command = stage.command();
        command.env("POSTGRES_URL", url());
        crate::common::Instance::spawn(command, &stage.yaml, id, &[])
    };
    // 1 of 1,000, then 2, then 999.
    let batches = [1usize, 2, 999].map(|bad| {
        (0..1000).map(move |n| {
            let is_bad = if bad == 999 { n != 500 } else { n < bad };
            let key = format!("{bad}-{n}");
            // Not for the sink to see, but for the server: the second unique index.
            let slug = if is_bad { json!("same") } else { json!(format!("{bad}-{n}")) };
            (key, json!({ "title": "t", "version": 1, "slug": slug }))
        })
    });
    runtime.block_on(room.run("INSERT INTO S.posts VALUES ('first', 'x', 1, 'same')"));
    stage.send("new", batches.into_iter().flatten());
    stage.send("new", [("1-5".to_owned(), json!({ "title": "other", "version": 2 }))]);
    let mut instance = start("a");
    instance.wait_ready(Duration::from_secs(60));
    wait("every post is announced, taken or dead", Duration::from_secs(120), || {
        stage.read("taken").is_ok_and(|rows| rows.len() == 1)
            && stage.read("published").is_ok_and(|rows| rows.len() == 1998)
            && stage.read("dlq").is_ok_and(|rows| rows.len() == 1002)
    });
    assert_eq!(stage.rows("taken"), [("1-5".to_owned(), json!("t"))], "the older row");
    let stored = runtime.block_on(room.query("SELECT id FROM S.posts WHERE id <> 'first' ORDER BY id"));
    let mut announced: Vec<String> = stage.rows("published").into_iter().map(|(key, _)| key).collect();
    announced.sort();
    assert_eq!(announced, stored, "announced is what is stored");
    let mut dead: Vec<String> = stage.rows("dlq").into_iter().map(|(key, _)| key).collect();
    dead.sort();
    let mut expected: Vec<String> = (0..1).map(|n| format!("1-{n}")).collect();
    expected.extend((0..2).map(|n| format!("2-{n}")));
    expected.extend((0..1000).filter(|n| *n != 500).map(|n| format!("999-{n}")));
    expected.sort();
    assert_eq!(dead, expected, "exactly the bad rows");
}

#[test]
fn check_connect_names_the_server_and_the_column() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let room = runtime.block_on(Room::new(POSTS));
    let dir = tempfile::tempdir().expect("a folder");
    let check = |sink: &str, url: &str| {
        let file = dir.path().join("t.yaml");
        let text = format!(
            "name: t\npostgres:\n  main: {{ url: \"{url}\" }}\nsources: {{ in: {{ stdin: {{}} }} }}\nsinks:\n  out:\n    \
             from: in\n    postgres: {{ table: {}.posts, {sink} }}\n",
            room.schema
        );
        std::fs::write(&file, text).expect("is written");
        let output =
            crate::common::program().args(["check", "--connect"]).arg(&file).output().expect("it runs");
        (crate::common::text(&output), output.status.code())
    };
    let good = "columns: { id: key, title: .title }";
    let (said, code) = check(good, &url());
    assert_eq!(code, Some(0), "{said}");
    let (said, code) = check("columns: { id: key, titel: .title }", &url());
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("did you mean `title`?") && said.contains("titel: .title"), "{said}");
    let (said, code) = check(&format!("connection: mian, {good}"), &url());
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("did you mean `main`?"), "{said}");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("is bound");
    let (said, code) = check(good, &format!("postgres://bob:geheim@{free}/x"));
    assert_eq!(code, Some(69), "{said}");
    assert!(
        said.contains(&free.to_string()) && said.contains("refused") && !said.contains("geheim"),
        "{said}"
    );
}

/// A stop in the middle of everything: killed, the instance goes on where its last checkpoint was.
#[test]
fn an_instance_that_is_killed_loses_nothing_and_announces_what_it_stored() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let server = OwnServer::postgres();
    let room = runtime.block_on(Room::at(&server.address, POSTS));
    let text = PUBLISHER.replace("SCHEMA", &room.schema);
    let stage = Stage::new("killed", &[("new", 1), ("published", 1), ("taken", 1), ("dlq", 1)], &text);
    let start = |id: &str| {
        let mut command = stage.command();
        command.env("POSTGRES_URL", &server.address);
        crate::common::Instance::spawn(command, &stage.yaml, id, &[])
    };
    let send = |from: usize, to: usize| {
        stage.send(
            "new",
            (from..to).map(|n| {
                (format!("k{n:05}"), json!({ "title": "t", "version": n, "slug": format!("k{n:05}") }))
            }),
        );
    };
    send(0, 3000);
    let mut first = start("a");
    first.wait_ready(Duration::from_secs(60));
    wait("something is announced", Duration::from_secs(60), || {
        stage.read("published").is_ok_and(|r| !r.is_empty())
    });
    first.child.kill().expect("is killed");
    first.child.wait().expect("is gone");
    send(3000, 6000);
    let mut second = start("a");
    second.wait_ready(Duration::from_secs(60));
    // The server too, under load.
    server.act("kill");
    send(6000, 8000);
    server.act("resume");
    let keys = || {
        let mut keys: Vec<String> = stage
            .read("published")
            .unwrap_or_default()
            .iter()
            .map(|(k, _)| String::from_utf8_lossy(k).into_owned())
            .collect();
        keys.sort();
        keys.dedup();
        keys
    };
    wait("all are announced", Duration::from_secs(120), || keys().len() == 8000);
    let now = runtime.block_on(session(&server.address));
    let count = runtime
        .block_on(now.query(&room.sql("SELECT count(*)::text FROM S.posts"), &[]))
        .expect("it answers");
    assert_eq!(count[0].get::<_, String>(0), "8000");
    assert_eq!(stage.read("dlq").expect("is read").len(), 0);
    assert_eq!(
        stage.read("taken").expect("is read").len(),
        0,
        "what was stored before the crash is still ours"
    );
}

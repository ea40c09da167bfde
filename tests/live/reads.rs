//! Reads of endpoints with the real binary: Redis before PostgreSQL, and state of whichever instance has it.
//!
//! Needs `KAFKA_BROKERS`, `POSTGRES_URL` and `REDIS_URL`. Tests that stop servers have servers of their own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value as Json, json};
use slackwater::clients::Failure;
use slackwater::clients::redis::{FromRedisValue, Redis, RedisConfig, cmd};
use slackwater::kafka::{OutRecord, TopicPartition, partition_of};
use tokio_postgres::{Client, NoTls};

use crate::common::{Instance, OwnServer, Stage, wait};

const LONG: Duration = Duration::from_secs(60);

/// What an endpoint answered.
struct Said {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Said {
    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or(Json::Null)
    }
}

fn ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Said {
    let mut stream = TcpStream::connect(address).expect("the endpoints listen");
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Said { status, headers, body: body.to_owned() }
}

fn get(address: &str, path: &str) -> Said {
    ask(address, "GET", path, &[])
}

/// An address that nothing listens on now.
fn free() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn escape(text: &str) -> String {
    slackwater::clients::http::escape(text).to_string()
}

/// Posts in a table of the test's own, and their copies in Redis.
struct Posts {
    stage: Stage,
    table: String,
    postgres: String,
    redis: String,
    sql: Client,
    cache: Redis,
}

const POSTS: &str = r#"
name: NAME
postgres: { url: "${POSTGRES_URL}" }
redis: { url: "${REDIS_URL}" }
http: { listen: "${HTTP_LISTEN}" }
endpoints:
  get-post:
    route: GET /post/{slug}
    read:
      - redis: { get: "NAME:{{ slug }}" }
      - postgres: { query: "QUERY", params: [slug] }
        fill: true
        ttl: 24h
"#;

const QUERY: &str = "select uid, title, content, slug, created_at from POSTS where slug = $1";

impl Posts {
    fn new(postgres: String, redis: String, query: &str) -> Posts {
        let table = format!("posts_{:x}", rand::random::<u64>());
        let stage = Stage::new("posts", &[], &POSTS.replace("QUERY", &query.replace("POSTS", &table)));
        let (sql, cache) = stage.runtime.block_on(async {
            let (sql, connection) =
                tokio_postgres::connect(&postgres, NoTls).await.expect("PostgreSQL answers");
            tokio::spawn(connection);
            let cache = Redis::connect(&RedisConfig::new(&redis)).await.expect("Redis answers");
            (sql, cache)
        });
        let mut posts = Posts { stage, table, postgres, redis, sql, cache };
        posts.run(
            "CREATE TABLE POSTS (uid text PRIMARY KEY, title text NOT NULL, content text NOT NULL, slug text NOT NULL UNIQUE,
             created_at timestamptz NOT NULL)",
        );
        posts
    }

    fn shared() -> Posts {
        let of = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
        Posts::new(of("POSTGRES_URL"), of("REDIS_URL"), QUERY)
    }

    fn start(&self) -> (Instance, String) {
        let listen = free();
        let mut command = self.stage.command();
        command.env("POSTGRES_URL", &self.postgres).env("REDIS_URL", &self.redis).env("HTTP_LISTEN", &listen);
        let mut instance = Instance::spawn(command, &self.stage.yaml, "one", &[]);
        instance.wait_ready(LONG);
        (instance, listen)
    }

    fn run(&mut self, sql: &str) {
        let sql = sql.replace("POSTS", &self.table);
        self.stage.runtime.block_on(self.sql.batch_execute(&sql)).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    fn insert(&mut self, slug: &str, title: &str) {
        let sql = format!(
            "INSERT INTO {} VALUES ($1, $2, 'text', $1, '2026-11-30T12:00:00.25+01:00')
             ON CONFLICT (slug) DO UPDATE SET title = $2",
            self.table
        );
        self.stage.runtime.block_on(self.sql.execute(&sql, &[&slug, &title])).expect("it is inserted");
    }

    fn redis<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        self.try_redis(words).expect("Redis answers")
    }

    /// One command of Redis.
    fn try_redis<T: FromRedisValue>(&mut self, words: &[&str]) -> Result<T, Failure> {
        let mut command = cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        self.stage.runtime.block_on(self.cache.command(&command))
    }

    fn key(&self, slug: &str) -> String {
        format!("{}:{slug}", self.stage.name)
    }
}

#[test]
fn a_miss_is_read_from_postgres_and_written_back() {
    let mut posts = Posts::shared();
    let (one, at) = posts.start();
    let key = posts.key("a");
    let none = get(&at, "/post/a");
    assert_eq!(none.status, 404, "{}", none.body);
    assert!(none.json()["error"].is_string(), "{}", none.body);
    let there: i64 = posts.redis(&["EXISTS", &key]);
    assert_eq!(there, 0, "the marker of a miss stands under another key");

    posts.insert("a", "one");
    let began = Instant::now();
    wait("the new row is seen", Duration::from_secs(3), || get(&at, "/post/a").status == 200);
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    let first = get(&at, "/post/a");
    assert_eq!(
        first.json(),
        json!({"uid": "a", "title": "one", "content": "text", "slug": "a", "created_at": "2026-11-30T11:00:00.25+00:00"})
    );
    assert_eq!(first.headers["content-type"], "application/json");
    let (value, ttl): (String, i64) = (posts.redis(&["GET", &key]), posts.redis(&["TTL", &key]));
    assert_eq!(serde_json::from_str::<Json>(&value).unwrap(), first.json());
    assert!((77_700..=86_400).contains(&ttl), "24 h and up to 10 % less: {ttl}");

    // What is in Redis is the answer, until it is gone; the same content has the same ETag from both.
    let etag = first.headers["etag"].clone();
    assert!(etag.starts_with("W/\""), "{etag}");
    posts.insert("a", "two");
    assert_eq!(get(&at, "/post/a").json()["title"], "one");
    posts.insert("a", "one");
    let _: i64 = posts.redis(&["DEL", &key]);
    for (given, status) in [
        (etag.as_str(), 304),
        (etag.trim_start_matches("W/"), 304),
        (&format!("\"x\", {etag}"), 304),
        ("*", 304),
        ("\"x\"", 200),
    ] {
        let _: i64 = posts.redis(&["DEL", &key]);
        for from in ["PostgreSQL", "Redis"] {
            let said = ask(&at, "GET", "/post/a", &[("If-None-Match", given)]);
            assert_eq!(said.status, status, "{given} from {from}");
            assert_eq!(said.headers["etag"], etag, "{given} from {from}");
            assert_eq!(said.body.is_empty(), status == 304, "{given} from {from}");
        }
    }
    let head = ask(&at, "HEAD", "/post/a", &[]);
    assert_eq!((head.status, head.body.as_str(), &head.headers["etag"]), (200, "", &etag));
    assert_eq!(ask(&at, "HEAD", "/post/none", &[]).status, 404);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn a_key_may_be_any_text() {
    let mut posts = Posts::shared();
    let (one, at) = posts.start();
    let long = "ü/%?&#{}' \"".repeat(1000);
    for slug in [
        "a/b",
        "100%",
        "a?b=c",
        "..",
        "ümläut 日本語 🦀",
        "a'; DROP TABLE x; --",
        "{x}",
        "a b+c",
        "%2F",
        &long[..8000],
        &long,
    ] {
        let path = format!("/post/{}", escape(slug));
        assert_eq!(get(&at, &path).status, 404, "{slug:.20}");
        if slug.len() > 2000 {
            // No index of PostgreSQL takes it.
            continue;
        }
        posts.insert(slug, "x");
        let mut seen = Json::Null;
        wait("it is seen", Duration::from_secs(20), || {
            let said = get(&at, &path);
            seen = if said.status == 200 { said.json()["slug"].clone() } else { Json::Null };
            !seen.is_null()
        });
        assert_eq!(seen, json!(slug));
        // A fill that a busy machine has no time for comes with the next read.
        wait("it is filled", Duration::from_secs(20), || {
            get(&at, &path);
            posts.redis::<i64>(&["EXISTS", &posts.key(slug)]) == 1
        });
    }
    assert_eq!(get(&at, "/post/a%00b").status, 404, "no text of PostgreSQL has a NUL");
    assert_eq!(get(&at, "/post/").status, 400);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn a_late_fill_never_puts_an_older_row_over_a_newer_one() {
    // The row is read, and then it takes a while.
    let slow = "select t.* from POSTS t, pg_sleep(0.5) where slug = $1";
    let of = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let mut posts = Posts::new(of("POSTGRES_URL"), of("REDIS_URL"), slow);
    let (one, at) = posts.start();
    let key = posts.key("a");
    // On a busy machine the read may begin too late, or take too long: then it is tried again.
    wait("it reads the older row, and a sink writes meanwhile", Duration::from_secs(60), || {
        posts.insert("a", "old");
        let _: i64 = posts.redis(&["DEL", &key]);
        let reading = {
            let at = at.clone();
            thread::spawn(move || get(&at, "/post/a"))
        };
        thread::park_timeout(Duration::from_millis(250));
        posts.insert("a", "new");
        let _: String = posts.redis(&["SET", &key, r#"{"title":"new"}"#, "PX", "60000"]);
        reading.join().unwrap().json()["title"] == "old"
    });
    assert_eq!(get(&at, "/post/a").json()["title"], "new");
    // A deleted row is marked by its sink, which a late fill does not undo either.
    let _: String = posts.redis(&["SET", &key, "null", "PX", "60000"]);
    assert_eq!(get(&at, "/post/a").status, 404);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn many_who_miss_the_same_key_are_one_query() {
    let counted = "select t.* from POSTS t, pg_sleep(0.3) where slug = $1";
    let of = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let mut posts = Posts::new(of("POSTGRES_URL"), of("REDIS_URL"), counted);
    let (one, at) = posts.start();
    posts.insert("a", "x");
    let began = Instant::now();
    let asked: Vec<_> = (0..64)
        .map(|_| {
            let at = at.clone();
            thread::spawn(move || get(&at, "/post/a").status)
        })
        .collect();
    let all: Vec<u16> = asked.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(all.iter().all(|status| *status == 200), "{all:?}");
    // 64 queries at 4 connections would take 4.8 s.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn one_server_down_is_passed_over_and_both_down_is_503() {
    let (postgres, redis) = (OwnServer::postgres(), OwnServer::redis());
    let mut posts = Posts::new(postgres.address.clone(), redis.address.clone(), QUERY);
    let (one, at) = posts.start();
    posts.insert("a", "one");
    posts.insert("b", "two");
    assert_eq!(get(&at, "/post/a").status, 200);

    // Redis lost everything.
    let _: String = posts.redis(&["FLUSHALL"]);
    assert_eq!(get(&at, "/post/a").status, 200);
    let back: i64 = posts.redis(&["EXISTS", &posts.key("a")]);
    assert_eq!(back, 1, "the key is back");

    // PostgreSQL down: what is in Redis goes on, the rest is not known.
    postgres.act("stop");
    assert_eq!(get(&at, "/post/a").status, 200);
    let unknown = get(&at, "/post/b");
    assert_eq!(unknown.status, 503, "{}", unknown.body);
    assert!(unknown.headers["retry-after"].parse::<u32>().is_ok_and(|seconds| seconds > 0));
    assert_eq!(get(&at, "/post/none").status, 503, "nobody can know");
    postgres.act("resume");
    wait("PostgreSQL is asked again", LONG, || get(&at, "/post/b").status == 200);
    assert_eq!(get(&at, "/post/none").status, 404);

    // Redis down, and frozen: PostgreSQL answers, soon.
    for (down, up) in [("stop", "resume"), ("freeze", "thaw")] {
        match down {
            "freeze" => redis.freeze(),
            verb => redis.act(verb),
        }
        for n in 0..20 {
            let began = Instant::now();
            let said = get(&at, "/post/a");
            assert_eq!(said.status, 200, "{down}: {}", said.body);
            assert!(
                began.elapsed() < Duration::from_secs(2),
                "{down}: request {n} took {:?}",
                began.elapsed()
            );
        }
        match up {
            "thaw" => redis.thaw(),
            verb => redis.act(verb),
        }
        let key = posts.key("b");
        wait("the key is back", LONG, || {
            get(&at, "/post/b").status == 200
                && posts.try_redis::<i64>(&["EXISTS", &key]).is_ok_and(|n| n == 1)
        });
    }

    redis.act("stop");
    postgres.act("stop");
    let said = get(&at, "/post/a");
    assert_eq!(said.status, 503, "{}", said.body);
    postgres.act("resume");
    redis.act("resume");
    wait("all is well", LONG, || get(&at, "/post/a").status == 200);
    assert_eq!(one.stop(LONG), 0);
}

const COUNTS: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}", session_timeout: 6s }
state: { checkpoint: 100ms }
http: { listen: "${HTTP_LISTEN}" }
sources: { in: { kafka: { topic: NAME.in } } }
operators:
  counts: { from: in, aggregate: { fields: { n: count(), sum: sum(.amount) } } }
  by-to: { from: in, key_by: .to }
  received: { from: by-to, aggregate: { count: {} } }
sinks: { out: { from: [counts, received], blackhole: {} } }
endpoints:
  counts:
    route: GET /counts/{account}
    read: [ { store: counts, key: account, body: { account: account, n: .n, sum: .sum } } ]
  received:
    route: GET /received/{account}
    read: [ { store: received, key: account } ]
"#;

const PARTITIONS: i32 = 4;

struct Fleet {
    stage: Stage,
}

impl Fleet {
    fn new() -> Fleet {
        Fleet { stage: Stage::new("counts", &[("in", PARTITIONS)], COUNTS) }
    }

    fn start(&self, id: &str, more: &[&str]) -> (Instance, String) {
        let listen = free();
        let mut command = self.stage.command();
        command.env("HTTP_LISTEN", &listen);
        (Instance::spawn(command, &self.stage.yaml, id, more), listen)
    }

    /// One payment of each account.
    fn pay(&self, accounts: &[String]) {
        self.stage
            .send("in", accounts.iter().map(|a| (a.clone(), json!({"amount": 5, "to": format!("to-{a}")}))));
    }

    /// The end of a partition.
    fn end(&self, partition: i32) -> i64 {
        self.stage.admin.end_offsets(&[TopicPartition::new(self.stage.topic("in"), partition)]).unwrap()[0]
    }

    fn partition(&self, account: &str) -> i32 {
        partition_of(account.as_bytes(), PARTITIONS)
    }

    fn half_each(&self, instances: &mut [&mut Instance]) {
        for instance in instances.iter_mut() {
            instance.wait_ready(LONG);
        }
        let (group, name) = (&self.stage.name, &self.stage.admin);
        wait("every instance has partitions", LONG, || {
            let members = name.assignments(group).unwrap_or_default();
            members.len() == instances.len() && members.iter().all(|member| !member.partitions.is_empty())
        });
        for instance in instances.iter_mut() {
            instance.wait_ready(LONG);
        }
    }
}

fn accounts(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("acc/{n} ü?%")).collect()
}

fn counts(at: &str, account: &str, query: &str) -> Said {
    get(at, &format!("/counts/{}{query}", escape(account)))
}

#[test]
fn whichever_instance_is_asked_the_owner_answers() {
    let fleet = Fleet::new();
    let (mut one, at_one) = fleet.start("one", &[]);
    let (mut two, at_two) = fleet.start("two", &[]);
    fleet.half_each(&mut [&mut one, &mut two]);
    let all = accounts(40);
    fleet.pay(&all);
    for account in &all {
        for at in [&at_one, &at_two] {
            wait("the count is seen", LONG, || counts(at, account, "").status == 200);
            assert_eq!(counts(at, account, "").json(), json!({"account": account, "n": 1, "sum": 5}));
            wait("what is counted by another key too", LONG, || {
                get(at, &format!("/received/{}", escape(&format!("to-{account}")))).body.trim() == "1"
            });
        }
    }
    for at in [&at_one, &at_two] {
        for n in 0..12 {
            let said = counts(at, &format!("nobody-{n}"), "");
            assert_eq!(said.status, 404, "{}", said.body);
        }
        // At a record: only from state that has taken it in.
        let account = &all[0];
        let (topic, partition) = (fleet.stage.topic("in"), fleet.partition(account));
        let end = fleet.end(partition);
        let said = counts(at, account, &format!("?at={topic}/{partition}/{}", end - 1));
        assert_eq!((said.status, &said.json()["n"]), (200, &json!(1)), "{}", said.body);
        let beyond = counts(at, account, &format!("?at={topic}/{partition}/{end}"));
        assert_eq!(beyond.status, 503, "{}", beyond.body);
        assert!(beyond.headers.contains_key("retry-after"), "{}", beyond.body);
        // Of another partition than the key's: that partition is past it, and the key is where it is.
        let other = (partition + 1) % PARTITIONS;
        let end = fleet.end(other);
        assert_eq!(counts(at, account, &format!("?at={topic}/{other}/{}", end - 1)).status, 200);
        assert_eq!(counts(at, account, &format!("?at={topic}/{other}/{end}")).status, 503);
        for bad in ["x", "a/b/c", &format!("{topic}/99/0"), &format!("other/{partition}/0")] {
            let said = counts(at, account, &format!("?at={bad}"));
            assert_eq!(said.status, 400, "{bad}: {}", said.body);
        }
        let said = get(at, &format!("/received/x?at={topic}/0/0"));
        assert_eq!(said.status, 400, "its state is behind a topic of its own: {}", said.body);
    }
    assert_eq!((one.stop(LONG), two.stop(LONG)), (0, 0));
}

#[test]
fn a_key_is_found_where_another_partitioner_put_it() {
    let fleet = Fleet::new();
    let (mut one, at_one) = fleet.start("one", &[]);
    let (mut two, at_two) = fleet.start("two", &[]);
    fleet.half_each(&mut [&mut one, &mut two]);
    let all = accounts(12);
    let topic = fleet.stage.topic("in");
    let records: Vec<OutRecord> = all
        .iter()
        .map(|account| OutRecord {
            partition: Some((fleet.partition(account) + 1) % PARTITIONS),
            ..crate::common::record(
                &topic,
                Some(Bytes::from(account.clone())),
                Some(Bytes::from_static(b"{\"amount\":5}")),
                slackwater::model::Timestamp(1),
            )
        })
        .collect();
    fleet.stage.send_records(records);
    for account in &all {
        for at in [&at_one, &at_two] {
            wait("the count is seen", LONG, || counts(at, account, "").status == 200);
        }
    }
    for at in [&at_one, &at_two] {
        assert_eq!(counts(at, "nobody", "").status, 404);
    }
    // Where one of the partitions cannot be asked, it is not known that there is none.
    two.kill9();
    let said = counts(&at_one, "nobody", "");
    assert_eq!(said.status, 503, "{}", said.body);
    wait("the other has taken over", LONG, || counts(&at_one, "nobody", "").status == 404);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn an_owner_that_is_gone_is_not_known_until_another_has_taken_over() {
    let fleet = Fleet::new();
    let (mut one, at_one) = fleet.start("one", &[]);
    let (mut two, at_two) = fleet.start("two", &[]);
    fleet.half_each(&mut [&mut one, &mut two]);
    let all = accounts(20);
    fleet.pay(&all);
    for account in &all {
        wait("the count is seen", LONG, || counts(&at_one, account, "").status == 200);
        wait("and committed", LONG, || counts(&at_two, account, "").status == 200);
    }
    thread::park_timeout(Duration::from_millis(500));
    two.kill9();
    let said: Vec<Said> = all.iter().map(|account| counts(&at_one, account, "")).collect();
    let (known, unknown): (Vec<&Said>, Vec<&Said>) = said.iter().partition(|said| said.status == 200);
    assert!(!known.is_empty() && !unknown.is_empty(), "each had some: {} {}", known.len(), unknown.len());
    for said in unknown {
        assert_eq!(said.status, 503, "{}", said.body);
    }
    for account in &all {
        wait("the other answers", LONG, || {
            let said = counts(&at_one, account, "");
            assert!(
                matches!(said.status, 200 | 503),
                "never that there is none: {} {}",
                said.status,
                said.body
            );
            said.status == 200
        });
        assert_eq!(counts(&at_one, account, "").json()["n"], json!(1));
    }
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn an_instance_that_lost_its_partitions_without_knowing_does_not_answer_from_older_state() {
    let fleet = Fleet::new();
    let (mut one, at_one) = fleet.start("one", &[]);
    let (mut two, at_two) = fleet.start("two", &[]);
    fleet.half_each(&mut [&mut one, &mut two]);
    let all = accounts(20);
    fleet.pay(&all);
    for account in &all {
        wait("the count is seen", LONG, || counts(&at_one, account, "").status == 200);
    }
    // It sleeps for longer than a session; the other takes over and goes on.
    one.signal("-STOP");
    fleet.pay(&all);
    let topic = fleet.stage.topic("in");
    let at: Vec<String> = all
        .iter()
        .map(|account| {
            let partition = fleet.partition(account);
            format!("?at={topic}/{partition}/{}", fleet.end(partition) - 1)
        })
        .collect();
    for (account, at) in all.iter().zip(&at) {
        wait("the other has all", LONG, || counts(&at_two, account, at).status == 200);
        assert_eq!(counts(&at_two, account, at).json()["n"], json!(2));
    }
    one.signal("-CONT");
    let began = Instant::now();
    let (mut right, mut unknown) = (0, 0);
    while began.elapsed() < Duration::from_secs(4) {
        for (account, at) in all.iter().zip(&at) {
            let said = counts(&at_one, account, at);
            match said.status {
                200 => assert_eq!(said.json()["n"], json!(2), "from older state"),
                503 => unknown += 1,
                other => panic!("{other}: {}", said.body),
            }
            right += usize::from(said.status == 200);
        }
    }
    println!("{right} answers, {unknown} times unknown");
    assert!(right > 0, "it asks the other");
    assert_eq!((one.stop(LONG), two.stop(LONG)), (0, 0));
}

#[test]
fn two_instances_that_name_the_same_address_are_noticed() {
    let fleet = Fleet::new();
    let same = free();
    let (mut one, at_one) = fleet.start("one", &["--advertise", &same]);
    let (mut two, _) = fleet.start("two", &["--advertise", &same]);
    fleet.half_each(&mut [&mut one, &mut two]);
    let all = accounts(20);
    fleet.pay(&all);
    wait("its own are answered", LONG, || {
        all.iter().any(|account| counts(&at_one, account, "").status == 200)
    });
    wait("it is in the log", LONG, || one.text().contains("name the same address"));
    let others: Vec<Said> = all.iter().map(|account| counts(&at_one, account, "")).collect();
    let unknown: Vec<&Said> = others.iter().filter(|said| said.status != 200).collect();
    assert!(!unknown.is_empty());
    for said in unknown {
        assert_eq!(said.status, 503, "{}", said.body);
        assert!(said.body.contains("several instances name"), "{}", said.body);
    }
    assert_eq!((one.stop(LONG), two.stop(LONG)), (0, 0));
}

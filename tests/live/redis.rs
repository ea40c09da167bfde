//! The `redis` sink against real Redis: one server, by TLS, and a cluster of three. Every test has keys of its own in the
//! shared servers; those that stop, freeze or fill one have a server of their own.
//!
//! Needs what `scripts/redis.sh start DIR` prints. Without it a test fails; it never skips.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use slackwater::clients::redis::{FromRedisValue, GONE, Redis, RedisConfig, cmd, slot};
use slackwater::clients::{Class, Tls};
use slackwater::model::{Expr, Millis, Record, SinkRow, Template, Timestamp, Value};
use slackwater::sinks::redis::{Command, Lifetime, OnDelete, OnUnknown, RedisLane, RedisSink};
use slackwater::sinks::{Answer, Answers, RedisSinkConfig, Sink, SinkError, SinkSettings};

use crate::common::{Instance, OwnServer, Stage, unique, wait};

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: start one with scripts/redis.sh start DIR"))
}

fn single() -> RedisConfig {
    RedisConfig::new(variable("REDIS_URL"))
}

fn cluster() -> RedisConfig {
    RedisConfig { cluster: true, ..RedisConfig::new(format!("redis://{}", variable("REDIS_CLUSTER"))) }
}

/// A server of the test's own, which is given up soon.
fn quick(server: &OwnServer) -> RedisConfig {
    let (timeout, connect_timeout) = (Millis(500), Millis(500));
    RedisConfig { timeout, connect_timeout, ..RedisConfig::new(&server.address) }
}

/// A sink whose keys are `PREFIX:KEY`, and a client that looks.
struct Room {
    prefix: String,
    server: RedisConfig,
    client: Redis,
}

impl Room {
    async fn at(server: RedisConfig) -> Room {
        let client = Redis::connect(&server).await.expect("connects");
        Room { prefix: unique("sink"), server, client }
    }

    fn key(&self, key: &str) -> String {
        format!("{}:{key}", self.prefix)
    }

    fn config(&self, command: Command) -> RedisSinkConfig {
        let key = Template::new(format!("{}:{{{{ key }}}}", self.prefix), None).expect("a template");
        RedisSinkConfig::new(command, key)
    }

    async fn writer(&self, config: RedisSinkConfig) -> Writer {
        let redis = Redis::connect(&self.server).await.expect("connects");
        let sink = RedisSink::connect(&config, redis).await.expect("connects");
        Writer { lane: sink.lane(), config }
    }

    /// The answer to a command on a key.
    async fn ask<T: FromRedisValue>(&mut self, command: &str, key: &str, more: &[&str]) -> T {
        let mut command = cmd(command);
        command.arg(self.key(key)).arg(more);
        let mut tries = 0;
        loop {
            match self.client.command(&command).await {
                Ok(answer) => return answer,
                // The server has been away.
                Err(e) if e.class == Class::Unknown && tries < 3 => tries += 1,
                Err(e) => panic!("{e}"),
            }
        }
    }

    async fn get(&mut self, key: &str) -> Option<String> {
        self.ask("GET", key, &[]).await
    }

    async fn hash(&mut self, key: &str) -> BTreeMap<String, String> {
        let all: HashMap<String, String> = self.ask("HGETALL", key, &[]).await;
        all.into_iter().collect()
    }

    /// Is a key's time to live between a tenth less than this and this, but for a few seconds?
    async fn lives(&mut self, key: &str, seconds: i64) {
        let left: i64 = self.ask("PTTL", key, &[]).await;
        let (most, least) = (seconds * 1000, seconds * 900 - 30_000);
        assert!((least..=most).contains(&left), "{key} lives {left} ms");
    }
}

/// A lane, and how its rows are made.
struct Writer {
    lane: RedisLane,
    config: RedisSinkConfig,
}

type Told = (Vec<Option<Answer>>, Result<(), SinkError>);

impl Writer {
    fn rows(&self, rows: &[(&str, Json)]) -> Vec<SinkRow> {
        let row = |(key, value): &(&str, Json)| {
            let value = if value.is_null() { Value::Null } else { Value::from(value.clone()) };
            let record = Record::new((*key).to_owned(), value, Timestamp(0));
            SinkRow { reply_to: None, payload: self.config.payload(&record).expect("is evaluated"), record }
        };
        rows.iter().map(row).collect()
    }

    async fn deliver(&mut self, rows: &[SinkRow]) -> Told {
        let mut answers = Answers::new(rows.len());
        let result = self.lane.deliver(rows, &mut answers).await;
        (answers.into_vec(), result)
    }

    async fn send(&mut self, rows: &[(&str, Json)]) -> Told {
        let rows = self.rows(rows);
        self.deliver(&rows).await
    }

    /// Writes rows of which none is refused.
    async fn put(&mut self, rows: &[(&str, Json)]) {
        let (answers, result) = self.send(rows).await;
        assert_eq!(result, Ok(()), "{answers:?}");
        assert!(answers.iter().all(|answer| *answer == Some(Answer::Written)), "{answers:?}");
    }

    /// Delivers as the driver does until it is done, for a bounded time.
    async fn until_done(&mut self, rows: &[SinkRow]) {
        let end = Instant::now() + Duration::from_secs(30);
        let mut left = rows.to_vec();
        loop {
            let (answers, result) = self.deliver(&left).await;
            match result {
                Ok(()) => return,
                Err(SinkError::Retry { .. }) if Instant::now() < end => {
                    let rest = left.into_iter().zip(answers).filter(|(_, answer)| answer.is_none());
                    left = rest.map(|(row, _)| row).collect();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn every_command_does_what_it_says_also_by_tls_and_in_a_cluster() {
    let tls = RedisConfig {
        tls: Some(Tls { ca: Some(variable("REDIS_CA").into()), ..Tls::default() }),
        ..RedisConfig::new(variable("REDIS_TLS_URL"))
    };
    for server in [single(), tls, cluster()] {
        let mut room = Room::at(server).await;
        let hour = || Some(Lifetime::Fixed(Millis::secs(3600)));
        let value = |text: &str| Some(Expr::new(text, None));

        let mut set = room.writer(RedisSinkConfig { ttl: hour(), ..room.config(Command::Set) }).await;
        set.put(&[("a", json!({"n": 1, "t": "ä\n\""})), ("b", json!("text")), ("c", json!(7))]).await;
        assert_eq!(room.get("a").await.as_deref(), Some(r#"{"n":1,"t":"ä\n\""}"#));
        assert_eq!(room.get("b").await.as_deref(), Some("text"), "text is not quoted");
        assert_eq!(room.get("c").await.as_deref(), Some("7"));
        room.lives("a", 3600).await;
        // The last of equal keys, and a tombstone.
        set.put(&[("a", json!(1)), ("b", json!(null)), ("a", json!(2)), ("d", json!(1)), ("d", json!(null))])
            .await;
        assert_eq!((room.get("a").await.as_deref(), room.get("b").await), (Some("2"), None));
        assert_eq!(room.get("d").await, None);

        let on_delete = OnDelete::Marker(Millis::secs(30));
        let mut marking = room.writer(RedisSinkConfig { on_delete, ..room.config(Command::Set) }).await;
        marking.put(&[("m", json!(1)), ("n", json!(1))]).await;
        marking.put(&[("m", json!(null))]).await;
        assert_eq!(room.get("m").await.as_deref(), Some(GONE));
        room.lives("m", 30).await;
        assert_eq!(room.ask::<i64>("PTTL", "n", &[]).await, -1, "for ever");

        let by_record = Some(Lifetime::By(Expr::new(".ttl", None)));
        let mut own = room.writer(RedisSinkConfig { ttl: by_record, ..room.config(Command::Set) }).await;
        own.put(&[("own", json!({"ttl": "2h"})), ("ever", json!({}))]).await;
        room.lives("own", 7200).await;
        assert_eq!(room.ask::<i64>("PTTL", "ever", &[]).await, -1);

        let mut hset = room.writer(RedisSinkConfig { ttl: hour(), ..room.config(Command::Hset) }).await;
        hset.put(&[("h", json!({"a": 1, "b": "x", "c": [1]})), ("h", json!({"b": null, "d": true}))]).await;
        assert_eq!(room.hash("h").await, map([("a", "1"), ("c", "[1]"), ("d", "true")]));
        room.lives("h", 3600).await;
        hset.put(&[("h", json!(null)), ("i", json!({"a": null}))]).await;
        assert_eq!(room.hash("h").await, map([]));

        let mut expire = room.writer(RedisSinkConfig { ttl: hour(), ..room.config(Command::Expire) }).await;
        expire.put(&[("n", json!({})), ("none", json!({}))]).await;
        room.lives("n", 3600).await;
        let mut del = room.writer(room.config(Command::Del)).await;
        del.put(&[("n", json!({})), ("none", json!(null))]).await;
        assert_eq!(room.get("n").await, None);

        let member = |room: &Room, command| RedisSinkConfig { value: value(".m"), ..room.config(command) };
        let delete_when = || value(".gone");
        let m = |member: &str| json!({ "m": member });
        let mut sadd = room
            .writer(RedisSinkConfig {
                delete_when: delete_when(),
                ttl: hour(),
                ..member(&room, Command::Sadd)
            })
            .await;
        sadd.put(&[
            ("s", m("x")),
            ("s", m("y")),
            ("s", m("z")),
            ("s", m("x")),
            ("s", json!({"m": "y", "gone": true})),
        ])
        .await;
        let mut srem = room.writer(member(&room, Command::Srem)).await;
        srem.put(&[("s", m("z")), ("s", m("nothing"))]).await;
        assert_eq!(room.ask::<Vec<String>>("SMEMBERS", "s", &[]).await, ["x"]);
        room.lives("s", 3600).await;

        let zadd = RedisSinkConfig {
            score: value(".s"),
            delete_when: delete_when(),
            ..member(&room, Command::Zadd)
        };
        let mut zadd = room.writer(zadd).await;
        let z = |member: &str, score: f64| json!({ "m": member, "s": score });
        zadd.put(&[("z", z("a", 2.5)), ("z", z("b", 1.0)), ("z", z("a", 0.5)), ("z", z("c", 9.0))]).await;
        zadd.put(&[("z", json!({"m": "c", "gone": true}))]).await;
        assert_eq!(
            room.ask::<Vec<String>>("ZRANGE", "z", &["0", "-1", "WITHSCORES"]).await,
            ["a", "0.5", "b", "1"]
        );

        let mut xadd = room.writer(RedisSinkConfig { ttl: hour(), ..room.config(Command::Xadd) }).await;
        xadd.put(&[("x", json!({"a": 1})), ("x", json!("text")), ("y", json!({"a": 2}))]).await;
        let entries: Vec<(String, Vec<String>)> = room.ask("XRANGE", "x", &["-", "+"]).await;
        let fields: Vec<Vec<String>> = entries.into_iter().map(|(_, fields)| fields).collect();
        assert_eq!(fields, [["a", "1"], ["value", "text"]], "in their order");
        room.lives("x", 3600).await;
        let mut short = room.writer(RedisSinkConfig { max_len: Some(1), ..room.config(Command::Xadd) }).await;
        let many: Vec<(&str, Json)> = (0..1000).map(|n| ("short", json!(n))).collect();
        short.put(&many).await;
        let length: usize = room.ask("XLEN", "short", &[]).await;
        assert!(length < 300, "about one: {length}");

        let mut publish = room.writer(room.config(Command::Publish)).await;
        publish.put(&[("channel", json!({"a": 1})), ("channel", json!("text"))]).await;
    }
}

#[tokio::test]
async fn the_newest_wins_in_whatever_order_they_come() {
    for server in [single(), cluster()] {
        let mut room = Room::at(server).await;
        let newer = |room: &Room, command| RedisSinkConfig {
            newer_wins: Some("v".into()),
            delete_when: Some(Expr::new(".gone", None)),
            ttl: Some(Lifetime::Fixed(Millis::secs(60))),
            ..room.config(command)
        };
        let mut set = room.writer(newer(&room, Command::Set)).await;
        let v = |v: Json, t: &str| json!({ "v": v, "t": t });
        // In one batch, then in another; by numbers, not by letters.
        set.put(&[("a", v(json!(9), "nine")), ("a", v(json!(10), "ten")), ("a", v(json!(2), "two"))]).await;
        assert_eq!(room.get("a").await.as_deref(), Some(r#"{"v":10,"t":"ten"}"#));
        set.put(&[("a", v(json!(10), "again")), ("a", json!({"v": 9, "gone": true}))]).await;
        assert_eq!(room.get("a").await.as_deref(), Some(r#"{"v":10,"t":"ten"}"#));
        room.lives("a", 60).await;
        set.put(&[("a", json!({"v": 10, "gone": true}))]).await;
        assert_eq!(room.get("a").await, None, "an equal version deletes");
        set.put(&[("a", v(json!(11), "eleven")), ("a", json!(null))]).await;
        assert_eq!(room.get("a").await, None, "a tombstone has no version");
        // Text by its letters; what is there without a version is older.
        let _: () = room.ask("SET", "b", &["no JSON"]).await;
        set.put(&[
            ("b", v(json!("2025-01-02T00:00:00Z"), "new")),
            ("b", v(json!("2025-01-01T00:00:00Z"), "old")),
        ])
        .await;
        assert_eq!(room.get("b").await.as_deref(), Some(r#"{"v":"2025-01-02T00:00:00Z","t":"new"}"#));

        let mut hset = room.writer(newer(&room, Command::Hset)).await;
        hset.put(&[("h", v(json!(2), "two")), ("h", v(json!(1), "one")), ("h", json!({"v": 3, "t": null}))])
            .await;
        assert_eq!(room.hash("h").await, map([("v", "3")]));
        hset.put(&[("h", json!({"v": 2, "gone": true}))]).await;
        assert_eq!(room.hash("h").await, map([("v", "3")]));
        hset.put(&[("h", json!({"v": 4, "gone": true}))]).await;
        assert_eq!(room.hash("h").await, map([]));
    }
}

#[tokio::test]
async fn exactly_the_bad_rows_are_refused() {
    for server in [single(), cluster()] {
        let mut room = Room::at(server).await;
        let ttl = Some(Lifetime::Fixed(Millis::secs(60)));
        for (round, config) in
            [room.config(Command::Hset), RedisSinkConfig { ttl, ..room.config(Command::Hset) }]
                .into_iter()
                .enumerate()
        {
            let mut writer = room.writer(config).await;
            for bad in [1usize, 2, 999] {
                let keys: Vec<String> = (0..1000).map(|n| format!("{round}-{bad}-{n}")).collect();
                // What is no hash refuses to be one.
                for key in &keys[..bad] {
                    let _: () = room.ask("SET", key, &["text"]).await;
                }
                let rows: Vec<(&str, Json)> =
                    keys.iter().map(|key| (key.as_str(), json!({"f": 1}))).collect();
                let (answers, result) = writer.send(&rows).await;
                assert_eq!(result, Ok(()));
                for (n, answer) in answers.iter().enumerate() {
                    match answer {
                        Some(Answer::Refused(why)) if n < bad => assert!(why.contains("WRONGTYPE"), "{why}"),
                        Some(Answer::Written) if n >= bad => {}
                        other => panic!("{bad}: {n}: {other:?}"),
                    }
                }
                assert_eq!(room.hash(&keys[999]).await, map([("f", "1")]));
                assert_eq!(room.get(&keys[0]).await.as_deref(), Some("text"), "as it was");
            }
        }
    }
}

#[tokio::test]
async fn what_is_ours_to_mend_stops_the_sink() {
    let mut room = Room::at(single()).await;
    let user = unique("user");
    let acl = |rules: &[&str]| {
        let mut command = cmd("ACL");
        command.arg("SETUSER").arg(&user).arg(rules);
        command
    };
    let fresh = acl(&["on", ">geheim", "~elsewhere:*", "+@all"]);
    let _: () = room.client.command(&fresh).await.expect("a user");
    let limited =
        RedisConfig { user: Some(user.clone()), password: Some("geheim".into()), ..room.server.clone() };
    let redis = Redis::connect(&limited).await.expect("connects");
    let sink = RedisSink::connect(&room.config(Command::Set), redis).await.expect("may log in");
    let mut writer = Writer { lane: sink.lane(), config: room.config(Command::Set) };
    let (answers, result) = writer.send(&[("a", json!(1))]).await;
    assert!(
        matches!(&result, Err(SinkError::Config { message, .. }) if message.contains("no permissions")),
        "{result:?} {answers:?}"
    );
    let wrong = RedisConfig { password: Some("falsch".into()), ..limited };
    let redis = Redis::connect(&wrong).await.expect("connects later");
    let refused = RedisSink::connect(&room.config(Command::Set), redis).await.map(drop);
    let Err(SinkError::Config { message, .. }) = refused else { panic!("{refused:?}") };
    assert!(message.contains("Password authentication failed") && !message.contains("falsch"), "{message}");
    let _: () = room.client.command(cmd("ACL").arg("DELUSER").arg(&user)).await.expect("is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_freezes_or_is_killed_is_a_retry_until_it_is_back() {
    let server = OwnServer::redis();
    let mut room = Room::at(quick(&server)).await;
    let mut writer = room.writer(room.config(Command::Set)).await;
    writer.put(&[("a", json!(1))]).await;
    for (n, (how, back)) in
        [("stop", "resume"), ("kill", "resume"), ("freeze", "thaw")].into_iter().enumerate()
    {
        match how {
            "freeze" => server.freeze(),
            verb => server.act(verb),
        }
        let rows = writer.rows(&[("a", json!("lost")), ("b", json!(n))]);
        for _ in 0..3 {
            let began = Instant::now();
            let (answers, result) = writer.deliver(&rows).await;
            assert!(matches!(result, Err(SinkError::Retry { .. })), "{how}: {result:?}");
            assert_eq!(answers, [None, None], "{how}");
            assert!(began.elapsed() < Duration::from_secs(5), "{how}: {:?}", began.elapsed());
        }
        match back {
            "thaw" => server.thaw(),
            verb => server.act(verb),
        }
        let again = writer.rows(&[("a", json!(how))]);
        writer.until_done(&again).await;
        assert_eq!(room.get("a").await.as_deref(), Some(how));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_memory_and_a_replica_hold_the_rows_back_and_nothing_overtakes() {
    let server = OwnServer::redis();
    let mut room = Room::at(quick(&server)).await;
    let mut set = room.writer(room.config(Command::Set)).await;
    let gone = Expr::native("gone", |scope| Ok(Json::Bool(*scope.value.json()? == json!("gone"))));
    let mut sadd =
        room.writer(RedisSinkConfig { delete_when: Some(gone), ..room.config(Command::Sadd) }).await;
    let mut xadd = room.writer(room.config(Command::Xadd)).await;
    set.put(&[("a", json!(1)), ("b", json!(1))]).await;
    let config = async |room: &mut Room, value: &str| {
        let mut command = cmd("CONFIG");
        command.arg("SET").arg("maxmemory").arg(value);
        let _: () = room.client.command(&command).await.expect("is set");
    };
    config(&mut room, "1").await;
    // A delete needs no memory; it is done, and the others wait.
    let rows = set.rows(&[("a", json!(2)), ("b", json!(null)), ("c", json!(1))]);
    let (answers, result) = set.deliver(&rows).await;
    assert!(
        matches!(&result, Err(SinkError::Retry { message, .. }) if message.contains("OOM")),
        "{result:?}"
    );
    assert_eq!(answers, [None, Some(Answer::Written), None]);
    assert_eq!(room.get("a").await.as_deref(), Some("1"));
    // Of one key, what comes behind waits too.
    let (answers, result) = sadd.send(&[("s", json!("x")), ("s", json!("gone")), ("t", json!("gone"))]).await;
    assert!(matches!(result, Err(SinkError::Retry { .. })), "{result:?}");
    assert_eq!(answers, [None, None, Some(Answer::Written)]);
    let entries = xadd.rows(&[("x", json!(1)), ("x", json!(2))]);
    let (answers, result) = xadd.deliver(&entries).await;
    assert!(matches!(result, Err(SinkError::Retry { .. })), "{result:?} {answers:?}");
    assert_eq!(answers, [None, None]);
    config(&mut room, "0").await;
    set.until_done(&rows).await;
    assert_eq!(room.get("a").await.as_deref(), Some("2"));
    xadd.until_done(&entries).await;
    assert_eq!(room.ask::<usize>("XLEN", "x", &[]).await, 2, "each once");

    let replica = async |room: &mut Room, of: [&str; 2]| {
        let mut command = cmd("REPLICAOF");
        command.arg(&of);
        let _: () = room.client.command(&command).await.expect("is a replica");
    };
    replica(&mut room, ["127.0.0.1", "1"]).await;
    let rows = set.rows(&[("a", json!(3))]);
    let (_, result) = set.deliver(&rows).await;
    assert!(
        matches!(&result, Err(SinkError::Retry { message, .. }) if message.contains("read only replica")),
        "{result:?}"
    );
    replica(&mut room, ["NO", "ONE"]).await;
    set.until_done(&rows).await;
    assert_eq!(room.get("a").await.as_deref(), Some("3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_done_twice_is_not_sent_again() {
    let server = OwnServer::redis();
    let mut room = Room::at(quick(&server)).await;
    let mut once = room.writer(room.config(Command::Xadd)).await;
    let on_unknown = OnUnknown::Repeat;
    let mut twice = room.writer(RedisSinkConfig { on_unknown, ..room.config(Command::Xadd) }).await;
    once.put(&[("x", json!(0))]).await;
    // Not there: certainly not sent.
    server.act("kill");
    let rows = once.rows(&[("x", json!(1))]);
    let (answers, result) = once.deliver(&rows).await;
    assert!(matches!(result, Err(SinkError::Retry { .. })), "{result:?}");
    assert_eq!(answers, [None]);
    server.act("resume");
    once.until_done(&rows).await;
    assert_eq!(room.ask::<usize>("XLEN", "x", &[]).await, 2);
    // Paused, it answers PING, and takes a write that it does later.
    let pause = async |room: &mut Room, ms: &str| {
        let mut command = cmd("CLIENT");
        command.arg("PAUSE").arg(ms).arg("WRITE");
        let _: () = room.client.command(&command).await.expect("is paused");
    };
    pause(&mut room, "1500").await;
    let (answers, result) = once.send(&[("x", json!(2))]).await;
    assert_eq!(result, Ok(()), "{answers:?}");
    let Some(Answer::Refused(why)) = &answers[0] else { panic!("{answers:?}") };
    assert!(why.contains("not known") && why.contains("on_unknown"), "{why}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(room.ask::<usize>("XLEN", "x", &[]).await, 3, "it was done after all, and once");
    pause(&mut room, "1500").await;
    let rows = twice.rows(&[("x", json!(3))]);
    twice.until_done(&rows).await;
    assert!(room.ask::<usize>("XLEN", "x", &[]).await > 4, "more than once, as it was asked to");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_is_followed() {
    let server = OwnServer::redis();
    let nodes = server.variable("REDIS_CLUSTER");
    let config = RedisConfig {
        cluster: true,
        timeout: Millis::secs(2),
        ..RedisConfig::new(format!("redis://{nodes}"))
    };
    let mut room = Room::at(config).await;
    let mut writer = room.writer(room.config(Command::Sadd)).await;
    // Keys of one slot: by the braces in the record's key.
    let rows = |n: usize| -> Vec<(String, Json)> {
        (0..50).map(|k| (format!("{{x}}{k}"), json!(format!("{n}")))).collect()
    };
    let put = async |writer: &mut Writer, n: usize| {
        let rows = rows(n);
        let rows: Vec<(&str, Json)> = rows.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        let rows = writer.rows(&rows);
        writer.until_done(&rows).await;
    };
    put(&mut writer, 0).await;
    let number = format!("{:?}", slot(&room.key("{x}0")));
    let number: String = number.chars().filter(char::is_ascii_digit).collect();
    let mut clients = Vec::new();
    for node in nodes.split(',') {
        let mut client = Redis::connect(&RedisConfig::new(format!("redis://{node}"))).await.expect("a node");
        let id: String = client.command(cmd("CLUSTER").arg("MYID")).await.expect("its name");
        let all: String = client.command(cmd("CLUSTER").arg("NODES")).await.expect("the nodes");
        let own = all.lines().find(|line| line.contains("myself")).expect("is among them").to_owned();
        let has = own.split(' ').skip(8).any(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let number: u32 = number.parse().expect("a number");
            from.parse::<u32>().is_ok_and(|from| from <= number)
                && to.parse::<u32>().is_ok_and(|to| to >= number)
        });
        clients.push((client, id, node.to_owned(), has));
    }
    let from = clients.iter().position(|(.., has)| *has).expect("one has the slot");
    let to = (from + 1) % clients.len();
    let (from_id, to_id) = (clients[from].1.clone(), clients[to].1.clone());
    let setslot = async |client: &mut Redis, words: &[&str]| {
        let mut command = cmd("CLUSTER");
        command.arg("SETSLOT").arg(&number).arg(words);
        let _: () = client.command(&command).await.expect("is set");
    };
    setslot(&mut clients[to].0, &["IMPORTING", &from_id]).await;
    setslot(&mut clients[from].0, &["MIGRATING", &to_id]).await;
    let (host, port) = clients[to].2.split_once(':').expect("an address");
    let (host, port) = (host.to_owned(), port.to_owned());
    for k in 0..50 {
        let mut command = cmd("MIGRATE");
        command.arg(&host).arg(&port).arg(room.key(&format!("{{x}}{k}"))).arg(0).arg(1000);
        let _: String = clients[from].0.command(&command).await.expect("moves");
        if k == 25 {
            // Half of the keys are here, half there.
            put(&mut writer, 1).await;
        }
    }
    for client in &mut clients {
        setslot(&mut client.0, &["NODE", &to_id]).await;
    }
    put(&mut writer, 2).await;
    for k in 0..50 {
        let mut members: Vec<String> = room.ask("SMEMBERS", &format!("{{x}}{k}"), &[]).await;
        members.sort();
        assert_eq!(members, ["0", "1", "2"], "{k}");
    }
}

const CACHE: &str = r#"
name: NAME
kafka: { brokers: "${KAFKA_BROKERS}" }
redis: { url: "${REDIS_URL}", timeout: 1s, connect_timeout: 1s }
sources:
  new: { kafka: { topic: NAME.new } }
sinks:
  cache:
    from: new
    redis: { command: COMMAND, key: "NAME:{{ key }}", ttl: 1h }
  announced: { from: cache, kafka: { topic: NAME.announced } }
errors: { dead_letter: { topic: NAME.dlq } }
"#;

/// Killed in the middle, instance and server: what is there in the end is what folding the topic gives.
#[test]
fn nothing_is_lost_or_stale_when_instance_and_server_are_killed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let server = OwnServer::redis();
    let stage =
        Stage::new("cache", &[("new", 1), ("announced", 1), ("dlq", 1)], &CACHE.replace("COMMAND", "set"));
    let start = |id: &str| {
        let mut command = stage.command();
        command.env("REDIS_URL", &server.address);
        Instance::spawn(command, &stage.yaml, id, &[])
    };
    // Each key several times; the last word is a tombstone now and then.
    let mut fold: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut sent = 0;
    let mut send = |from: usize, to: usize| {
        let rows: Vec<(String, Json)> = (from..to)
            .map(|n| {
                let key = format!("k{:03}", n * 7 % 500);
                let value = if n % 11 == 0 { Json::Null } else { json!({ "n": n }) };
                fold.insert(key.clone(), (!value.is_null()).then(|| value.to_string()));
                (key, value)
            })
            .collect();
        sent += rows.len();
        stage.send("new", rows);
    };
    send(0, 4000);
    let mut first = start("a");
    first.wait_ready(Duration::from_secs(60));
    let announced = || stage.read("announced").unwrap_or_default().len();
    wait("something is announced", Duration::from_secs(60), || announced() > 0);
    first.kill9();
    send(4000, 7000);
    let mut second = start("a");
    second.wait_ready(Duration::from_secs(60));
    server.act("kill");
    send(7000, 9000);
    std::thread::park_timeout(Duration::from_secs(1));
    server.act("resume");
    send(9000, 10_000);
    server.freeze();
    // Longer than every timeout.
    std::thread::park_timeout(Duration::from_secs(3));
    server.thaw();
    send(10_000, 10_001);
    // What was announced before a kill may be announced again, so their number says nothing: the state does.
    let client = runtime.block_on(Redis::connect(&RedisConfig::new(&server.address))).expect("connects");
    let ask = |command: &str, key: &str| {
        let (mut client, mut asked) = (client.clone(), cmd(command));
        asked.arg(format!("{}:{key}", stage.name));
        runtime.block_on(async move { client.command::<Option<String>>(&asked).await.expect("answers") })
    };
    wait("what is there is what the topic folds to", Duration::from_secs(120), || {
        fold.iter().all(|(key, expected)| ask("GET", key) == *expected)
    });
    wait("everything is announced", Duration::from_secs(60), || announced() >= sent);
    assert!(fold.iter().all(|(key, expected)| ask("GET", key) == *expected), "and stays");
    assert_eq!(stage.read("dlq").expect("is read").len(), 0);
    for (key, _) in fold.iter().filter(|(_, expected)| expected.is_some()) {
        let ttl: i64 = ask("PTTL", key).and_then(|ttl| ttl.parse().ok()).expect("a number");
        assert!(ttl > 0, "{key} lives {ttl} ms");
    }
}

#[test]
fn the_dead_letter_holds_exactly_the_bad_rows_and_the_others_are_announced() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let stage =
        Stage::new("bad", &[("new", 1), ("announced", 1), ("dlq", 1)], &CACHE.replace("COMMAND", "hset"));
    runtime.block_on(async {
        let mut client = Redis::connect(&single()).await.expect("connects");
        for n in (0..1000).step_by(100) {
            let key = format!("{}:k{n}", stage.name);
            let _: () = client.command(cmd("SET").arg(key).arg("text")).await.expect("is set");
        }
    });
    // No object: refused before it comes to Redis.
    stage.send("new", [("early".to_owned(), json!([1]))]);
    stage.send("new", (0..1000).map(|n| (format!("k{n}"), json!({ "n": n }))));
    let mut command = stage.command();
    command.env("REDIS_URL", variable("REDIS_URL"));
    let mut instance = Instance::spawn(command, &stage.yaml, "a", &[]);
    instance.wait_ready(Duration::from_secs(60));
    wait("all are announced or dead", Duration::from_secs(60), || {
        stage.read("announced").is_ok_and(|rows| rows.len() == 990)
            && stage.read("dlq").is_ok_and(|rows| rows.len() == 11)
    });
    let mut dead: Vec<String> = stage.rows("dlq").into_iter().map(|(key, _)| key).collect();
    dead.sort();
    let mut expected: Vec<String> = (0..1000).step_by(100).map(|n| format!("k{n}")).collect();
    expected.push("early".to_owned());
    expected.sort();
    assert_eq!(dead, expected);
}

#[test]
fn check_connect_names_the_server() {
    let dir = tempfile::tempdir().expect("a folder");
    let check = |url: &str| {
        let file = dir.path().join("t.yaml");
        let text = format!(
            "name: t\nredis: {{ url: \"{url}\" }}\nsources: {{ in: {{ stdin: {{}} }} }}\nsinks:\n  out: {{ from: in, \
             redis: {{ key: \"k:{{{{ key }}}}\" }} }}\n"
        );
        std::fs::write(&file, text).expect("is written");
        let output =
            crate::common::program().args(["check", "--connect"]).arg(&file).output().expect("it runs");
        (crate::common::text(&output), output.status.code())
    };
    let (said, code) = check(&variable("REDIS_URL"));
    assert_eq!(code, Some(0), "{said}");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("is bound");
    let (said, code) = check(&format!("redis://:geheim@{free}"));
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains(&free.to_string()) && !said.contains("geheim"), "{said}");
}

//! The shipped blog, `topology/blog.yaml`, with the real binary on real Kafka, PostgreSQL and Redis: each sentence that
//! `topology/blog.yaml` promises, also while servers are down and instances are killed.
//!
//! Needs what `scripts/kafka.sh`, `scripts/postgres.sh` and `scripts/redis.sh` print. Without it a test fails; it never
//! skips.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value as Json, json};
use slackwater::clients::redis::{FromRedisValue, Redis, RedisConfig, cmd};
use slackwater::kafka::{Follower, KafkaConfig, TopicPartition};
use slackwater::model::Record;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use crate::common::{Instance, OwnServer, Stage, brokers, wait};

const LONG: Duration = Duration::from_secs(60);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: start the servers of ./test, scripts/NAME.sh start DIR")
    })
}

/// The blog with topics and a database of the test's own.
struct Blog {
    stage: Stage,
    postgres: String,
    redis: String,
    runtime: Runtime,
}

impl Blog {
    fn new(what: &str, postgres: &str, redis: &str) -> Blog {
        let text = std::fs::read_to_string("topology/blog.yaml")
            .expect("is there")
            .replace("\nname: blog\n", "\nname: NAME\n")
            .replace("app.newPosts", "NAME.newPosts")
            .replace("app.publishedPosts", "NAME.publishedPosts")
            .replace("blog.dlq", "NAME.dlq");
        let stage = Stage::new(what, &[("newPosts", 1), ("publishedPosts", 1), ("dlq", 1)], &text);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let (server, _) = postgres.rsplit_once('/').expect("a database");
        let blog =
            Blog { postgres: format!("{server}/{}", stage.name), redis: redis.to_owned(), stage, runtime };
        let create = format!("CREATE DATABASE \"{}\"", blog.stage.name);
        blog.runtime.block_on(async {
            session(postgres).await.batch_execute(&create).await.expect("a database");
            let ddl = include_str!("../../topology/blog.sql");
            session(&blog.postgres).await.batch_execute(ddl).await.expect("a table");
        });
        blog
    }

    fn start(&self, id: &str) -> Instance {
        let mut command = self.stage.command();
        command.env("POSTGRES_URL", &self.postgres).env("REDIS_URL", &self.redis);
        command.env("HTTP_LISTEN", "127.0.0.1:0");
        Instance::spawn(command, &self.stage.yaml, id, &[])
    }

    fn send(&self, posts: impl IntoIterator<Item = Json>) {
        let key = |post: &Json| post["uid"].as_str().unwrap_or("none").to_owned();
        self.stage.send("newPosts", posts.into_iter().map(|post| (key(&post), post)));
    }

    fn follow(&self, topic: &str) -> Follower {
        let config = KafkaConfig::new(brokers());
        let at = TopicPartition::new(self.stage.topic(topic), 0);
        Follower::open(&config, "reader", &[(at, 0, 0)]).expect("a reader")
    }

    /// All rows by their uids, as PostgreSQL has them.
    fn rows(&self) -> BTreeMap<String, Json> {
        let sql = "SELECT uid, row_to_json(posts)::text FROM posts";
        let rows = self.runtime.block_on(async { session(&self.postgres).await.query(sql, &[]).await });
        let row =
            |row: &tokio_postgres::Row| (row.get(0), serde_json::from_str(row.get(1)).expect("is JSON"));
        rows.expect("is read").iter().map(row).collect()
    }

    fn cached<T: FromRedisValue>(&self, command: &str, slug: &str) -> T {
        self.runtime.block_on(async {
            let mut client = Redis::connect(&RedisConfig::new(&self.redis)).await.expect("connects");
            client.command(cmd(command).arg(format!("post:{slug}"))).await.expect("answers")
        })
    }

    /// What is cached of each row.
    fn cache(&self, rows: &BTreeMap<String, Json>) -> BTreeMap<String, Json> {
        self.runtime.block_on(async {
            let mut client = Redis::connect(&RedisConfig::new(&self.redis)).await.expect("connects");
            let mut found = BTreeMap::new();
            for (uid, row) in rows {
                let key = format!("post:{}", row["slug"].as_str().expect("a slug"));
                let text: Option<String> = client.command(cmd("GET").arg(key)).await.expect("answers");
                found.extend(text.map(|text| (uid.clone(), serde_json::from_str(&text).expect("is JSON"))));
            }
            found
        })
    }

    /// Status, `Location` and body of the answer to `POST /post`.
    fn post(&self, instance: &Instance, kind: &str, body: impl Into<String>) -> (u16, String, Json) {
        let url = format!("http://{}/post", instance.http());
        self.runtime.block_on(async {
            let request = reqwest::Client::new().post(url).header("content-type", kind).body(body.into());
            let answer = request.send().await.expect("an answer");
            let location = answer.headers().get("location").map_or("", |at| at.to_str().expect("is text"));
            let (status, location) = (answer.status().as_u16(), location.to_owned());
            let body = answer.bytes().await.expect("a body");
            (status, location, serde_json::from_slice(&body).expect("is JSON"))
        })
    }

    /// Status, `ETag` and body of the answer to `GET /post/SLUG`.
    fn get(&self, instance: &Instance, slug: &str, known: &str) -> (u16, String, Json) {
        let url = format!("http://{}/post/{slug}", instance.http());
        self.runtime.block_on(async {
            let request = reqwest::Client::new().get(url).header("if-none-match", known);
            let answer = request.send().await.expect("an answer");
            let etag = answer.headers().get("etag").map_or("", |etag| etag.to_str().expect("is text"));
            let (status, etag) = (answer.status().as_u16(), etag.to_owned());
            let body = answer.bytes().await.expect("a body");
            (status, etag, serde_json::from_slice(&body).unwrap_or(Json::Null))
        })
    }

    /// The uids that were announced, each time.
    fn announced(&self) -> Vec<String> {
        let rows = self.stage.read("publishedPosts").unwrap_or_default();
        rows.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
    }
}

async fn session(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    client
}

fn post(uid: impl Into<String>, title: impl Into<String>) -> Json {
    json!({ "uid": uid.into(), "title": title.into(), "content": "text\nof it" })
}

#[test]
fn a_post_is_announced_only_once_it_is_stored_and_is_cached_as_it_is_stored() {
    let blog = Blog::new("blog", &variable("POSTGRES_URL"), &variable("REDIS_URL"));
    let mut instance = blog.start("a");
    instance.wait_ready(LONG);
    // A title that no other run has, since the cache is shared.
    let own = |n: usize| format!("{}-{n}", blog.stage.name);
    blog.send((0..500).map(|n| post(own(n), "Same Title")));
    let client = blog.runtime.block_on(session(&blog.postgres));
    let mut follower = blog.follow("publishedPosts");
    let mut seen: BTreeMap<String, Json> = BTreeMap::new();
    let mut batch: Vec<Record> = Vec::new();
    wait("500 posts are announced", LONG, || {
        batch.clear();
        follower.poll(50, Duration::from_millis(200), &mut batch).expect("is read");
        for record in &batch {
            let uid = String::from_utf8_lossy(record.key.as_deref().expect("a key")).into_owned();
            let value: Json = Json::clone(&record.value.json().expect("is JSON"));
            let sql = "SELECT row_to_json(posts)::text FROM posts WHERE uid = $1";
            let row = blog
                .runtime
                .block_on(client.query_one(sql, &[&uid]))
                .expect("is stored when it is announced");
            let row: Json = serde_json::from_str(row.get(0)).expect("is JSON");
            assert_eq!(value, row, "the whole row");
            assert!(row["created_at"].as_str().is_some_and(|at| at.ends_with("+00:00")), "{row}");
            seen.insert(uid, value);
        }
        seen.len() == 500
    });
    let slugs: BTreeSet<&str> = seen.values().filter_map(|row| row["slug"].as_str()).collect();
    assert_eq!(slugs.len(), 500, "of one title, each has its own");
    assert!(slugs.iter().all(|slug| slug.starts_with("same-title-")), "{slugs:?}");
    let rows = blog.rows();
    wait("all are cached", LONG, || blog.cache(&rows) == rows);
    for slug in slugs.iter().take(20) {
        let left: i64 = blog.cached("PTTL", slug);
        let day = 24 * 3600 * 1000;
        assert!((day * 9 / 10 - 60_000..=day).contains(&left), "{left}");
    }

    // The same messages again: the same rows.
    blog.send((0..500).map(|n| post(own(n), "Same Title")));
    blog.send([post(own(0), "Another title, too late")]);
    wait("they are announced again", LONG, || blog.announced().len() == 1001);
    assert_eq!(blog.rows(), rows);
    assert_eq!(instance.stop(LONG), 0);
}

#[test]
fn titles_of_any_script_have_slugs_and_what_is_no_post_is_dead_with_its_reason() {
    let blog = Blog::new("scripts", &variable("POSTGRES_URL"), &variable("REDIS_URL"));
    let mut instance = blog.start("a");
    instance.wait_ready(LONG);
    let titles = [
        ("Hello, World!", "hello-world-"),
        ("Привет, мир", "privet-mir-"),
        ("北京的春天", "bei-jing-de-chun-tian-"),
        ("مرحبا", "mrhb-"),
        ("?!", ""),
    ];
    let own = |n: usize| format!("{}/ü {n}", blog.stage.name);
    for (n, (title, _)) in titles.iter().enumerate() {
        blog.send([post(own(n), *title)]);
        match n {
            0 => blog.stage.send_bytes("newPosts", &[(b"broken", b"{\"uid\": \"x\"")]),
            1 => blog.send([json!({ "uid": "lacks", "title": "no content" })]),
            2 => blog.send([json!({ "uid": "nul", "title": "a\u{0}b", "content": "c" })]),
            _ => blog.send([json!({ "uid": "wrong", "title": 5, "content": "c" })]),
        }
    }
    wait("the posts are announced", LONG, || blog.announced().len() == titles.len());
    let rows = blog.rows();
    assert_eq!(rows.len(), titles.len(), "those that are none did not hold them up");
    for (n, (title, begins)) in titles.iter().enumerate() {
        let row = &rows[&own(n)];
        let slug = row["slug"].as_str().expect("a slug");
        assert_eq!(row["title"], json!(title));
        let good = slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        assert!(good && slug.starts_with(begins) && slug.len() > begins.len(), "{title}: {slug}");
    }
    let mut follower = blog.follow("dlq");
    let mut dead: Vec<Record> = Vec::new();
    wait("five are dead", LONG, || {
        follower.poll(10, Duration::from_millis(200), &mut dead).expect("is read");
        dead.len() == 5
    });
    let header = |record: &Record, name: &str| {
        String::from_utf8_lossy(record.headers.get(name).map(|v| &**v).unwrap_or_default()).into_owned()
    };
    let mut reasons: Vec<(String, String)> = dead
        .iter()
        .map(|record| {
            assert!(!header(record, "slackwater-error").is_empty());
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
            (key, header(record, "slackwater-reason"))
        })
        .collect();
    reasons.sort();
    let expected = [
        ("broken", "not_json"),
        ("lacks", "schema"),
        ("nul", "sink_refused"),
        ("wrong", "schema"),
        ("wrong", "schema"),
    ];
    assert_eq!(reasons, expected.map(|(key, reason)| (key.to_owned(), reason.to_owned())));
    let nul = dead.iter().find(|record| record.key.as_deref() == Some(b"nul")).expect("is among them");
    assert!(header(nul, "slackwater-error").contains("NUL"), "{}", header(nul, "slackwater-error"));
    assert_eq!(instance.stop(LONG), 0);
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

#[test]
fn a_post_by_http_is_accepted_with_its_slug_and_one_that_lacks_something_leaves_nothing() {
    let blog = Blog::new("http", &variable("POSTGRES_URL"), &variable("REDIS_URL"));
    let mut instance = blog.start("a");
    instance.wait_ready(LONG);
    let mut expected = Vec::new();
    for (kind, body, title, begins) in [
        (JSON, json!({"title": "Für Elise", "content": "a"}).to_string(), "Für Elise", "fur-elise-"),
        (FORM, "title=F%C3%BCr+Elise&content=a".to_owned(), "Für Elise", "fur-elise-"),
        (JSON, json!({"title": "北京", "content": "a", "more": 1}).to_string(), "北京", "bei-jing-"),
    ] {
        let (status, location, body) = blog.post(&instance, kind, body);
        assert_eq!(status, 202, "{body}");
        let (uid, slug) = (body["uid"].as_str().expect("a uid"), body["slug"].as_str().expect("a slug"));
        assert_eq!(location, format!("/post/{slug}"));
        assert!(slug.starts_with(begins), "{slug}");
        let message = json!({ "uid": uid, "title": title, "content": "a" });
        assert_eq!(
            blog.stage.rows("newPosts").last(),
            Some(&(uid.to_owned(), message)),
            "when it is answered"
        );
        expected.push((uid.to_owned(), slug.to_owned()));
    }
    for (body, field) in [
        (json!({"content": "a"}), "title"),
        (json!({"title": "a"}), "content"),
        (json!({"title": "", "content": "a"}), "title"),
        (json!({"title": "a", "content": ""}), "content"),
        (json!({"title": 1, "content": "a"}), "title"),
        (json!({"title": "a", "content": ["a"]}), "content"),
        (json!({"title": "a", "content": "a\u{0}b"}), "content"),
        (json!({"title": "a\u{0}b", "content": "a"}), "title"),
    ] {
        let (status, _, said) = blog.post(&instance, JSON, body.to_string());
        assert_eq!((status, &said["field"]), (422, &json!(field)), "{body}: {said}");
    }
    let (status, _, said) = blog.post(&instance, FORM, "title=a");
    assert_eq!((status, &said["field"]), (422, &json!("content")), "{said}");
    assert_eq!(blog.stage.rows("newPosts").len(), expected.len(), "nothing else was produced");
    wait("they are announced", LONG, || blog.announced().len() == expected.len());
    let rows = blog.rows();
    for (uid, slug) in &expected {
        assert_eq!(rows[uid]["slug"], json!(slug), "the slug that was answered");
    }
    wait("they are cached", LONG, || blog.cache(&rows) == rows);
    for (uid, slug) in &expected {
        let (status, etag, body) = blog.get(&instance, slug, "\"another\"");
        assert_eq!((status, &body), (200, &rows[uid]));
        // From PostgreSQL it is the same, and it is back in Redis.
        assert_eq!(blog.cached::<i64>("DEL", slug), 1);
        assert_eq!(blog.get(&instance, slug, &etag), (304, etag.clone(), Json::Null));
        wait("it is back", LONG, || blog.cached::<Option<String>>("GET", slug).is_some());
        let left: i64 = blog.cached("PTTL", slug);
        assert!((77_000_000..=86_400_000).contains(&left), "{left}");
        assert_eq!(blog.get(&instance, slug, &etag), (304, etag, Json::Null));
    }
    assert_eq!(blog.get(&instance, "no-such-post", "\"x\"").0, 404);
    assert_eq!(instance.stop(LONG), 0);
}

#[test]
fn nothing_is_lost_while_postgres_or_redis_is_down_and_instances_are_killed() {
    let (postgres, redis) = (OwnServer::postgres(), OwnServer::redis());
    let blog = Blog::new("outages", &postgres.address, &redis.address);
    let mut instance = blog.start("a");
    instance.wait_ready(LONG);
    let mut sent = 0;
    let mut send = |count: usize| {
        blog.send((sent..sent + count).map(|n| post(format!("p{n:05}"), format!("Post {n}"))));
        sent += count;
        sent
    };
    let announced = || -> BTreeSet<String> { blog.announced().into_iter().collect() };

    // PostgreSQL is down: nothing is announced that it has not; when it is back, everything is.
    send(200);
    wait("200 are announced", LONG, || announced().len() == 200);
    let before = blog.rows();
    wait("200 are cached", LONG, || blog.cache(&before) == before);
    postgres.act("kill");
    let by_http = |title: &str| {
        let body = json!({ "title": title, "content": "by HTTP" });
        let (status, _, said) = blog.post(&instance, JSON, body.to_string());
        assert_eq!(status, 202, "{said}");
    };
    by_http("while PostgreSQL is down");
    let (uid, row) = before.first_key_value().expect("a row");
    let slug = row["slug"].as_str().expect("a slug");
    assert_eq!(blog.get(&instance, slug, "\"x\"").2, *row, "{uid} from Redis");
    let total = send(299) + 1;
    std::thread::park_timeout(Duration::from_secs(2));
    assert_eq!(announced().len(), 200, "only once it is stored");
    postgres.act("resume");
    wait("500 are announced", LONG, || announced().len() == total);

    // Redis is down: posts are stored and announced all the same, and are cached when it is back.
    let rows = blog.rows();
    wait("500 are cached", LONG, || blog.cache(&rows) == rows);
    redis.act("kill");
    by_http("while Redis is down");
    assert_eq!(blog.get(&instance, slug, "\"x\"").2, *row, "{uid} from PostgreSQL");
    let total = send(299) + 2;
    wait("800 are announced", LONG, || announced().len() == total);
    redis.act("resume");
    let rows = blog.rows();
    assert_eq!(rows.len(), total);
    wait("800 are cached", LONG, || blog.cache(&rows) == rows);

    // The instance is killed in the middle; another one goes on.
    let total = send(3000) + 2;
    wait("it is at it", LONG, || announced().len() > 1000);
    instance.kill9();
    let mut second = blog.start("a");
    second.wait_ready(LONG);
    wait("all are announced", Duration::from_secs(120), || announced().len() == total);
    let rows = blog.rows();
    assert_eq!(rows.len(), total, "one row each");
    wait("all are cached", LONG, || blog.cache(&rows) == rows);
    assert_eq!(blog.stage.read("dlq").expect("is read").len(), 0);
    assert_eq!(second.stop(LONG), 0);
}

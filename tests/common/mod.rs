//! What the end-to-end tests share: a world of real servers around the real binary.
//!
//! Needs `KAFKA_BROKERS` and `SPANNER_EMULATOR_HOST` (`./test` sets both). Nothing is skipped without them.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use gcloud_gax::conn::Environment;
use gcloud_spanner::client::{Client, ClientConfig};
use gcloud_spanner::session::SessionConfig;
use gcloud_spanner::statement::Statement;
use serde_json::{Value as Json, json};
use slackwater::kafka::{Admin, KafkaConfig, OutRecord, TopicPartition, TopicSpec, Writer};
use slackwater::model::{Clock, Headers, SystemClock};
use slackwater::sinks::spanner::{create_database, statements};
use tokio_util::sync::CancellationToken;

pub mod fleet;
/// Key and value.
pub type Sent<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A name that no other test or run has.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{what}-{}-{}-{}", SystemClock.now().0, std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn brokers() -> String {
    std::env::var("KAFKA_BROKERS")
        .expect("KAFKA_BROKERS is not set: start a broker with `scripts/kafka.sh start DIR` and export what it prints")
}

pub fn emulator() -> String {
    std::env::var("SPANNER_EMULATOR_HOST").expect(
        "SPANNER_EMULATOR_HOST is not set: start the emulator with `scripts/spanner.sh start DIR` and export what it prints",
    )
}

/// Waits for a condition; panics with `what` after `limit`.
pub fn wait(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// How the API behaves.
#[derive(Clone, Debug, Default)]
pub struct Mood {
    /// Latency, ms.
    pub latency_ms: u64,
    /// The next calls get 429 with `Retry-After: 2`.
    pub throttle_next: u64,
    /// Accounts that are unknown.
    pub missing: Vec<String>,
    /// Answer 503 to everything.
    pub broken: bool,
}

#[derive(Default)]
struct ApiState {
    accounts: Mutex<BTreeMap<String, u64>>,
    calls: Mutex<Vec<(Instant, String)>>,
    in_flight: Mutex<BTreeMap<String, Vec<String>>>,
    overlaps: Mutex<Vec<Overlap>>,
    answers: Mutex<BTreeMap<(String, u64), u64>>,
    throttled_at: Mutex<Vec<Instant>>,
    mood: Mutex<Mood>,
}

/// Two calls of one account at a time.
#[derive(Clone, Debug)]
pub struct Overlap {
    pub at: Instant,
    pub account: String,
    /// Who called, and who called before and was not answered yet: what stands behind [`Api::url_of`].
    pub who: String,
    pub others: Vec<String>,
}

/// The accounts API: `GET /accounts/{id}` answers the account's version.
pub struct Api {
    state: Arc<ApiState>,
    port: u16,
    stop: Mutex<CancellationToken>,
    runtime: tokio::runtime::Runtime,
}

impl Api {
    pub fn start() -> Api {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut api = Api { state: Arc::default(), port: 0, stop: Mutex::default(), runtime };
        api.port = api.listen(0);
        api
    }

    fn listen(&self, port: u16) -> u16 {
        let listener = self.runtime.block_on(async {
            loop {
                match tokio::net::TcpListener::bind(("127.0.0.1", port)).await {
                    Ok(l) => break l,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        let port = listener.local_addr().unwrap().port();
        let app = Router::new()
            .route("/accounts/{id}", get(answer))
            .route("/of/{who}/accounts/{id}", get(answer_whom))
            .with_state(Arc::clone(&self.state));
        let stop = CancellationToken::new();
        *self.stop.lock().unwrap() = stop.clone();
        self.runtime.spawn(async move {
            tokio::select! {
                r = axum::serve(listener, app) => r.unwrap(),
                () = stop.cancelled() => {}
            }
        });
        port
    }

    /// Nobody listens any more.
    pub fn down(&self) {
        self.stop.lock().unwrap().cancel();
        // Connections that are open stay served: make them fail.
        self.mood(|m| m.broken = true);
    }

    pub fn up(&self) {
        self.mood(|m| m.broken = false);
        self.listen(self.port);
    }

    pub fn mood(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.state.mood.lock().unwrap());
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The address for one caller, by which it is told from others.
    pub fn url_of(&self, who: &str) -> String {
        format!("{}/of/{who}", self.url())
    }

    pub fn set(&self, account: &str, version: u64) {
        self.state.accounts.lock().unwrap().insert(account.into(), version);
    }

    pub fn accounts(&self) -> BTreeMap<String, u64> {
        self.state.accounts.lock().unwrap().clone()
    }

    pub fn calls(&self) -> usize {
        self.state.calls.lock().unwrap().len()
    }

    pub fn call_times(&self) -> Vec<Instant> {
        self.state.calls.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }

    /// Every call so far: when it came, and for which account.
    pub fn call_log(&self) -> Vec<(Instant, String)> {
        self.state.calls.lock().unwrap().clone()
    }

    /// The most calls that began in any window of one second.
    pub fn busiest_second(&self) -> usize {
        let times = self.call_times();
        let mut start = 0;
        let mut most = 0;
        for (end, at) in times.iter().enumerate() {
            while *at - times[start] >= Duration::from_secs(1) {
                start += 1;
            }
            most = most.max(end - start + 1);
        }
        most
    }

    /// How often two calls of one account ran at a time.
    pub fn overlaps(&self) -> usize {
        self.state.overlaps.lock().unwrap().len()
    }

    pub fn all_overlaps(&self) -> Vec<Overlap> {
        self.state.overlaps.lock().unwrap().clone()
    }

    /// Answers that gave a version of an account once more.
    pub fn superfluous(&self) -> u64 {
        self.state.answers.lock().unwrap().values().map(|n| n - 1).sum()
    }

    pub fn throttled_at(&self) -> Vec<Instant> {
        self.state.throttled_at.lock().unwrap().clone()
    }
}

async fn answer(State(api): State<Arc<ApiState>>, UrlPath(id): UrlPath<String>) -> Response {
    answer_call(api, String::new(), id).await
}

async fn answer_whom(
    State(api): State<Arc<ApiState>>,
    UrlPath((who, id)): UrlPath<(String, String)>,
) -> Response {
    answer_call(api, who, id).await
}

async fn answer_call(api: Arc<ApiState>, who: String, id: String) -> Response {
    let mood = api.mood.lock().unwrap().clone();
    api.calls.lock().unwrap().push((Instant::now(), id.clone()));
    if mood.broken {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if mood.throttle_next > 0 {
        api.mood.lock().unwrap().throttle_next -= 1;
        api.throttled_at.lock().unwrap().push(Instant::now());
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]).into_response();
    }
    if mood.missing.contains(&id) {
        return (StatusCode::NOT_FOUND, "no such account").into_response();
    }
    let busy = Busy::new(&api, &id, &who);
    let version = api.accounts.lock().unwrap().get(&id).copied().unwrap_or(0);
    if mood.latency_ms > 0 {
        tokio::time::sleep(Duration::from_millis(mood.latency_ms)).await;
    }
    drop(busy);
    *api.answers.lock().unwrap().entry((id.clone(), version)).or_default() += 1;
    axum::Json(json!({ "account": id, "version": version })).into_response()
}

/// One call of an account under way; ends also when the caller is gone and the handler is dropped.
struct Busy {
    api: Arc<ApiState>,
    id: String,
    who: String,
}

impl Busy {
    fn new(api: &Arc<ApiState>, id: &str, who: &str) -> Busy {
        let mut in_flight = api.in_flight.lock().unwrap();
        let others = in_flight.entry(id.to_owned()).or_default();
        if !others.is_empty() {
            let overlap = Overlap {
                at: Instant::now(),
                account: id.to_owned(),
                who: who.to_owned(),
                others: others.clone(),
            };
            api.overlaps.lock().unwrap().push(overlap);
        }
        others.push(who.to_owned());
        Busy { api: Arc::clone(api), id: id.to_owned(), who: who.to_owned() }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut in_flight = self.api.in_flight.lock().unwrap();
        let others = in_flight.entry(self.id.clone()).or_default();
        if let Some(at) = others.iter().position(|w| *w == self.who) {
            others.remove(at);
        }
    }
}

/// A topic, a database, an API and a topology file of one test.
pub struct World {
    pub name: String,
    pub topic: String,
    pub database: String,
    pub api: Api,
    pub dir: tempfile::TempDir,
    pub yaml: PathBuf,
    pub brokers: String,
    pub emulator: String,
    writer: Writer,
    runtime: tokio::runtime::Runtime,
    versions: Mutex<BTreeMap<String, u64>>,
}

/// What differs from the shipped topology.
pub struct Setup {
    pub partitions: i32,
    pub quiet: &'static str,
    pub max_wait: &'static str,
    pub limit: &'static str,
    pub brokers: Option<String>,
    pub emulator: Option<String>,
    /// Text put behind the file.
    pub extra: &'static str,
    /// Replaced in the file: from, to.
    pub replace: Vec<(&'static str, &'static str)>,
    pub make_topic: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            partitions: 4,
            quiet: "1s",
            max_wait: "10s",
            limit: "1500/s",
            brokers: None,
            emulator: None,
            extra: "",
            replace: Vec::new(),
            make_topic: true,
        }
    }
}

impl World {
    pub fn new(setup: Setup) -> World {
        let name = unique("sync");
        let topic = format!("{name}-changes");
        let brokers = setup.brokers.unwrap_or_else(brokers);
        let emulator = setup.emulator.unwrap_or_else(emulator);
        let kafka = KafkaConfig::new(brokers.clone());
        let admin = Admin::open(&kafka, Duration::from_secs(30)).unwrap();
        if setup.make_topic {
            admin.create_topics(&[TopicSpec::new(&topic, setup.partitions)]).unwrap();
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let database = format!(
            "projects/test/instances/test/databases/e{}_{}",
            SystemClock.now().0,
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let ddl = statements(include_str!("../../topology/account-sync.sql"));
        runtime.block_on(create_database(&database, Some(&emulator), &ddl)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut text = include_str!("../../topology/account-sync.yaml").to_owned();
        for (from, to) in [
            ("name: account-sync\n", format!("name: {name}\n")),
            ("topic: user-changes", format!("topic: {topic}")),
            ("topic: account-sync.dlq", format!("topic: {name}.dlq")),
            ("quiet: 30s", format!("quiet: {}", setup.quiet)),
            ("max_wait: 5m", format!("max_wait: {}", setup.max_wait)),
            ("limit: 1500/s", format!("limit: {}", setup.limit)),
            // A dead instance's partitions are taken over sooner.
            ("localhost:9092}\" }", "localhost:9092}\", session_timeout: 6s }".to_owned()),
        ] {
            assert!(text.contains(from), "the shipped topology has `{from}`");
            text = text.replacen(from, &to, 1);
        }
        for (from, to) in setup.replace {
            assert!(text.contains(from), "the shipped topology has `{from}`");
            text = text.replacen(from, to, 1);
        }
        // The tests inside the file are another test's business.
        text.truncate(text.find("\ntests:").unwrap() + 1);
        text.push_str(setup.extra);
        let yaml = dir.path().join("topology.yaml");
        std::fs::write(&yaml, text).unwrap();
        let writer = Writer::open(&kafka).unwrap();
        World {
            name,
            topic,
            database,
            api: Api::start(),
            dir,
            yaml,
            brokers,
            emulator,
            writer,
            runtime,
            versions: Mutex::default(),
        }
    }

    pub fn admin(&self) -> Admin {
        Admin::open(&KafkaConfig::new(self.brokers.clone()), Duration::from_secs(30)).unwrap()
    }

    /// Sends raw records.
    pub fn send(&self, topic: &str, records: &[Sent<'_>]) {
        let records: Vec<OutRecord> = records
            .iter()
            .map(|(key, value)| OutRecord {
                topic: topic.into(),
                partition: None,
                key: key.map(Bytes::copy_from_slice),
                value: value.map(Bytes::copy_from_slice),
                headers: Headers::default(),
                ts: Some(SystemClock.now()),
            })
            .collect();
        self.runtime.block_on(self.writer.send_all(&records)).unwrap();
    }

    /// Accounts change: first the API knows, then the event says so.
    pub fn change(&self, accounts: &[String]) {
        let mut batch = Vec::new();
        for account in accounts {
            let mut versions = self.versions.lock().unwrap();
            let version = versions.entry(account.clone()).or_default();
            *version += 1;
            self.api.set(account, *version);
            batch.push((account.clone(), json!({ "n": *version }).to_string()));
        }
        let records: Vec<Sent<'_>> =
            batch.iter().map(|(k, v)| (Some(k.as_bytes()), Some(v.as_bytes()))).collect();
        self.send(&self.topic, &records);
    }

    /// Rows of the table: account and version.
    pub fn rows(&self) -> BTreeMap<String, u64> {
        self.runtime.block_on(async {
            let mut config = ClientConfig {
                environment: Environment::Emulator(self.emulator.clone()),
                ..ClientConfig::default()
            };
            config.session_config = SessionConfig::default();
            config.session_config.min_opened = 1;
            let client = Client::new(self.database.clone(), config).await.unwrap();
            let mut tx = client.single().await.unwrap();
            let sql = "SELECT AccountId, TO_JSON_STRING(State) FROM Accounts";
            let mut rows = tx.query(Statement::new(sql)).await.unwrap();
            let mut out = BTreeMap::new();
            while let Some(row) = rows.next().await.unwrap() {
                let id: String = row.column(0).unwrap();
                let state: Option<String> = row.column(1).unwrap();
                let state: Json = serde_json::from_str(&state.unwrap_or_default()).unwrap_or_default();
                out.insert(id, state["version"].as_u64().unwrap_or(0));
            }
            out
        })
    }

    /// Waits until every account that changed has the row of its newest state.
    pub fn wait_synced(&self, limit: Duration) {
        let want = self.versions.lock().unwrap().clone();
        let end = Instant::now() + limit;
        loop {
            let rows = self.rows();
            let behind: Vec<_> = want
                .iter()
                .filter(|(k, v)| rows.get(*k) != Some(v))
                .map(|(k, v)| (k, v, rows.get(k)))
                .collect();
            if behind.is_empty() {
                return;
            }
            assert!(
                Instant::now() < end,
                "{} of {} accounts are behind after {limit:?}, e.g. {:?}",
                behind.len(),
                want.len(),
                &behind[..behind.len().min(5)]
            );
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// Records of a topic's partition 0, keys and headers, read without a group.
    pub fn dead_letters(&self) -> Vec<(String, String)> {
        let topic = TopicPartition::new(format!("{}.dlq", self.name), 0);
        let admin = self.admin();
        let Ok(ends) = admin.end_offsets(std::slice::from_ref(&topic)) else { return Vec::new() };
        let mut out = Vec::new();
        slackwater::kafka::restore(
            &KafkaConfig::new(self.brokers.clone()),
            "dlq-reader",
            &topic,
            0,
            ends[0],
            |rows, _, _| {
                let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                out.extend(
                    rows.iter().map(|(k, v)| (text(k), v.as_ref().map(|v| text(v)).unwrap_or_default())),
                );
                std::ops::ControlFlow::Continue(())
            },
        )
        .unwrap();
        out
    }

    pub fn command(&self, args: &[&str]) -> Command {
        // Another build of it, for example one that must not change during a long run.
        let binary =
            std::env::var("SLACKWATER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_slackwater").into());
        let mut command = Command::new(binary);
        command
            .args(args)
            .env("KAFKA_BROKERS", &self.brokers)
            .env("ACCOUNTS_API", self.api.url())
            .env("SPANNER_DATABASE", &self.database)
            .env("SPANNER_EMULATOR_HOST", &self.emulator)
            .env_remove("SLACKWATER_LOG");
        command
    }

    /// Starts an instance and waits until its admin port is known.
    pub fn start(&self, id: &str) -> Instance {
        Instance::start(self, id, &[])
    }
}

/// A running `slackwater run`.
pub struct Instance {
    pub child: Child,
    pub log: PathBuf,
    pub admin: String,
    pub id: String,
}

impl Instance {
    pub fn start(world: &World, id: &str, more: &[&str]) -> Instance {
        Instance::start_with(world, id, more, &[])
    }

    pub fn start_with(world: &World, id: &str, more: &[&str], env: &[(&str, &str)]) -> Instance {
        let mut command = world.command(&[]);
        command.envs(env.iter().copied());
        Instance::spawn(command, &world.yaml, id, more)
    }

    /// `command` without arguments; log and state stand beside the topology file.
    pub fn spawn(mut command: Command, yaml: &Path, id: &str, more: &[&str]) -> Instance {
        static RUN: AtomicU64 = AtomicU64::new(0);
        let log = yaml.with_file_name(format!("{id}-{}.log", RUN.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&log).unwrap();
        let state = yaml.with_file_name(format!("state-{id}"));
        let child = command
            .args([
                "run",
                yaml.to_str().unwrap(),
                "--admin",
                "127.0.0.1:0",
                "--state-dir",
                state.to_str().unwrap(),
            ])
            .args(more)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut instance = Instance { child, log, admin: String::new(), id: id.into() };
        let mut admin = String::new();
        wait("the admin address is in the log", Duration::from_secs(20), || {
            let text = instance.text();
            if let Some(at) = text.find("admin=") {
                admin = text[at + 6..].split_whitespace().next().unwrap_or_default().to_owned();
            }
            assert!(
                instance.child.try_wait().unwrap().is_none() || !admin.is_empty(),
                "it ended: {}",
                instance.text()
            );
            !admin.is_empty()
        });
        instance.admin = admin;
        instance
    }

    pub fn text(&self) -> String {
        strip_colours(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// `GET` on the admin port: status and body; status 0 when it does not answer.
    pub fn get(&self, path: &str) -> (u16, String) {
        http_get(&self.admin, path).unwrap_or((0, String::new()))
    }

    pub fn wait_ready(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let (status, body) = self.get("/ready");
            if status == 200 {
                return;
            }
            if let Some(code) = self.child.try_wait().unwrap() {
                panic!("{} ended with {code}:\n{}", self.id, self.text());
            }
            assert!(Instant::now() < end, "{} not ready in {limit:?}: {body}\n{}", self.id, self.text());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// A metric's value, summed over its labels that contain `part`.
    pub fn metric(&self, name: &str, part: &str) -> f64 {
        self.get("/metrics")
            .1
            .lines()
            .filter(|l| l.starts_with(name) && l[name.len()..].starts_with(['{', ' ']) && l.contains(part))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    pub fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success()
        );
    }

    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; the exit code.
    pub fn stop(mut self, limit: Duration) -> i32 {
        self.signal("-TERM");
        let mut code = None;
        wait(&format!("{} stops", self.id), limit, || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|c| c.code()).unwrap_or(-1)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            let text = self.text();
            let tail: Vec<&str> = text.lines().rev().take(40).collect();
            eprintln!("--- {} ---", self.log.display());
            tail.iter().rev().for_each(|l| eprintln!("{l}"));
        }
    }
}

pub fn http_get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split_whitespace().nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default();
    Some((status, body))
}

pub fn strip_colours(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// A broker of the test's own, that it may stop and start again.
pub struct OwnServer {
    script: PathBuf,
    dir: tempfile::TempDir,
    pub address: String,
}

impl OwnServer {
    pub fn kafka() -> OwnServer {
        OwnServer::start("kafka.sh")
    }

    fn start(script: &str) -> OwnServer {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
        let dir = match std::env::var("SLACKWATER_TEST_DIR") {
            Ok(base) => tempfile::Builder::new().prefix("own").tempdir_in(base).unwrap(),
            Err(_) => tempfile::tempdir().unwrap(),
        };
        let out =
            Command::new(&script).arg("start").arg(dir.path()).stderr(Stdio::inherit()).output().unwrap();
        assert!(out.status.success(), "{} start failed", script.display());
        let text = String::from_utf8(out.stdout).unwrap();
        let address = text.lines().find_map(|l| l.split_once('=')).unwrap().1.trim().to_owned();
        OwnServer { script, dir, address }
    }

    pub fn spanner() -> OwnServer {
        // `spanner.sh` would only print a running one.
        OwnServer::start("spanner.sh")
    }

    pub fn registry() -> OwnServer {
        OwnServer::start("registry.sh")
    }

    fn pid(&self) -> String {
        std::fs::read_to_string(self.dir.path().join(self.script.with_extension("pid").file_name().unwrap()))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn freeze(&self) {
        assert!(Command::new("kill").args(["-STOP", &self.pid()]).status().unwrap().success());
    }

    pub fn thaw(&self) {
        assert!(Command::new("kill").args(["-CONT", &self.pid()]).status().unwrap().success());
    }

    pub fn act(&self, verb: &str) {
        let status =
            Command::new(&self.script).arg(verb).arg(self.dir.path()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{} {verb} failed", self.script.display());
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        drop(Command::new(&self.script).arg("stop").arg(self.dir.path()).stdout(Stdio::null()).status());
    }
}

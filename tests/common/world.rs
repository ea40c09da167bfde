//! The shipped account-sync in a world of its own: a topic, a table in the Spanner emulator, an API.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gcloud_gax::conn::Environment;
use gcloud_spanner::client::{Client, ClientConfig};
use gcloud_spanner::session::SessionConfig;
use gcloud_spanner::statement::Statement;
use serde_json::{Value as Json, json};
use slackwater::kafka::{Admin, KafkaConfig, OutRecord, TopicSpec, Writer};
use slackwater::model::{Clock, SystemClock};
use slackwater::sinks::spanner::{create_database, statements};

use super::{Api, Instance, Sent, brokers, emulator, program, read, record, unique};

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
        let bytes = |part: &Option<&[u8]>| part.map(Bytes::copy_from_slice);
        let records: Vec<OutRecord> = records
            .iter()
            .map(|(key, value)| record(topic, bytes(key), bytes(value), SystemClock.now()))
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

    /// Keys and values of the dead letters.
    pub fn dead_letters(&self) -> Vec<(String, String)> {
        self.read(&format!("{}.dlq", self.name), 1).unwrap_or_default()
    }

    /// Keys and values of a topic as a read_committed reader sees them, in the order of each partition.
    ///
    /// # Errors
    /// There is no such topic, or it was just made.
    pub fn read(&self, topic: &str, partitions: i32) -> Result<Vec<(String, String)>, String> {
        let text = |b: &Bytes| String::from_utf8_lossy(b).into_owned();
        let rows = read(&self.brokers, &self.admin(), topic, partitions)?;
        Ok(rows.iter().map(|(k, v)| (text(k), v.as_ref().map(text).unwrap_or_default())).collect())
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = program();
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

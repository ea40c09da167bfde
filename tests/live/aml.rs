//! aml-detection with profiles and relations on a real Kafka with the real binary, together in one process and apart:
//! `KAFKA_BROKERS=host:port cargo test --test live aml`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value as Json, json};

use crate::common::instance::http_get;
use crate::common::{Instance, Stage, brokers, read, wait};

const LONG: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 6;
/// Noon of a day: payments are a second apart.
const NOON: i64 = 1_772_366_400;

/// The three shipped files, with names, topics and groups of this test's own.
struct Aml {
    stage: Stage,
    verdicts: Reader,
    /// Payments sent so far, by account: their ids in order.
    sent: BTreeMap<String, Vec<String>>,
    total: usize,
}

/// What is committed of a topic, read on and on.
struct Reader {
    consumer: BaseConsumer,
    rows: Vec<(String, Json)>,
}

impl Reader {
    fn new(topic: &str) -> Reader {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers()).set("group.id", "reader");
        config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("is assigned");
        Reader { consumer, rows: Vec::new() }
    }

    /// Takes what has come; how many rows there are.
    fn read(&mut self) -> usize {
        while let Some(message) = self.consumer.poll(Duration::from_millis(200)) {
            // A topic that was just made may not be shown whole yet.
            let Ok(message) = message else { continue };
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            let value = serde_json::from_str(&text(message.payload())).expect("JSON");
            self.rows.push((text(message.key()), value));
        }
        self.rows.len()
    }
}

/// A file of `topology/`, changed in these places, each of which must be there.
fn shipped(file: &str, changes: &[(&str, String)]) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("topology").join(file);
    let mut text = std::fs::read_to_string(path).expect("the file is there");
    // Its tests are run elsewhere.
    text.truncate(text.find("\ntests:").expect("it has tests"));
    for (old, new) in changes {
        assert!(text.contains(old), "{file} has {old}");
        text = text.replace(old, new);
    }
    text
}

fn named(file: &str, name: &str) -> String {
    let kafka = "brokers: \"${KAFKA_BROKERS:-localhost:9092}\"";
    let mut changes = vec![
        ("topic: payments }", "topic: NAME.payments }".to_owned()),
        (kafka, format!("{kafka}, session_timeout: 6s")),
    ];
    match name {
        "" => changes.extend([
            ("name: aml-detection\n", "name: NAME\n".to_owned()),
            ("groups: [profiles, relations]", "groups: [NAME-profiles, NAME-relations]".to_owned()),
            ("topic: verdicts", "topic: NAME.verdicts".to_owned()),
            ("topic: alerts", "topic: NAME.alerts".to_owned()),
            ("topic: aml-detection.dlq", "topic: NAME.dlq".to_owned()),
        ]),
        name => changes.extend([
            (
                if name == "profiles" { "name: profiles\n" } else { "name: relations\n" },
                format!("name: NAME-{name}\n"),
            ),
            (
                if name == "profiles" { "topic: profiles.dlq" } else { "topic: relations.dlq" },
                format!("topic: NAME-{name}.dlq"),
            ),
        ]),
    }
    shipped(file, &changes)
}

/// An address that is free at the moment.
fn free() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("is bound").to_string()
}

impl Aml {
    fn new(what: &str) -> Aml {
        let topics = [("payments", PARTITIONS), ("verdicts", PARTITIONS), ("alerts", PARTITIONS)];
        let stage = Stage::new(what, &topics, &named("aml-detection.yaml", ""));
        for name in ["profiles", "relations"] {
            let text = named(&format!("{name}.yaml"), name).replace("NAME", &stage.name);
            std::fs::write(stage.dir.path().join(format!("{name}.yaml")), text).expect("the file is written");
        }
        let verdicts = Reader::new(&stage.topic("verdicts"));
        Aml { stage, verdicts, sent: BTreeMap::new(), total: 0 }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.stage.dir.path().join(format!("{name}.yaml"))
    }

    /// An instance of one file, with its endpoints at `listen`.
    fn start(&self, name: &str, id: &str, listen: &str) -> Instance {
        let mut command = self.stage.command();
        command.env("HTTP_LISTEN", listen);
        Instance::spawn(command, &self.file(name), id, &["--workers", "2"])
    }

    fn detection(&self, id: &str, profiles: &str, relations: &str) -> Instance {
        let mut command = self.stage.command();
        command.env("PROFILES_API", format!("http://{profiles}"));
        command.env("RELATIONS_API", format!("http://{relations}"));
        Instance::spawn(command, &self.stage.yaml, id, &["--workers", "2"])
    }

    /// Sends payments of these accounts in turn: the amount of each is 1, and every tenth goes to a counterparty of its own.
    fn pay(&mut self, accounts: usize, payments: usize) {
        let mut rows = Vec::new();
        for _ in 0..payments {
            let n = self.total;
            self.total += 1;
            let (account, id) = (format!("account-{}", n % accounts), format!("p{n}"));
            let to = if n.is_multiple_of(10) { format!("new-{n}") } else { "shop".to_owned() };
            let at = time_text(NOON + i64::try_from(n).expect("few"));
            rows.push((
                account.clone(),
                json!({ "id": id, "from": account, "to": to, "amount": 1, "at": at }),
            ));
            self.sent.entry(account).or_default().push(id);
        }
        self.stage.send("payments", rows);
    }

    fn verdicts(&mut self) -> usize {
        self.verdicts.read()
    }

    /// Waits for a verdict on every payment.
    fn wait_for_all(&mut self) {
        let Aml { verdicts, total, .. } = self;
        wait("every payment has a verdict", LONG, || verdicts.read() >= *total);
    }

    /// One verdict for each payment, and each answer counts the payment itself.
    fn check(&mut self) {
        // One too many would have come by then.
        std::thread::park_timeout(Duration::from_secs(1));
        self.verdicts.read();
        let rows = &self.verdicts.rows;
        let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut suspicious = BTreeSet::new();
        for (key, value) in rows {
            let (account, verdict) = (key.clone(), value);
            let judged = seen.entry(account.clone()).or_default();
            judged.push(verdict["id"].as_str().expect("an id").to_owned());
            let n = judged.len() as u64;
            assert_eq!(verdict["account"], account.as_str(), "{verdict}");
            assert_eq!(verdict["profile"]["account"], account.as_str(), "{verdict}");
            assert!(
                verdict["profile"]["count_all"].as_u64() >= Some(n),
                "payment {n} of {account}: {verdict}"
            );
            let relations = verdict["relations"].as_array().expect("a list");
            let paid: u64 = relations.iter().filter_map(|relation| relation["count"].as_u64()).sum();
            assert!(paid >= n, "payment {n} of {account}: {verdict}");
            if verdict["suspicious"] == true {
                suspicious.insert(verdict["id"].as_str().expect("an id").to_owned());
            }
        }
        // Each account's payments in their order, none twice, none missing.
        assert_eq!(seen, self.sent);
        let mut alerts = Reader::new(&self.stage.topic("alerts"));
        wait("every alert is there", LONG, || alerts.read() >= suspicious.len());
        let alerts: Vec<String> =
            alerts.rows.iter().map(|(_, alert)| alert["id"].as_str().expect("an id").to_owned()).collect();
        assert_eq!(alerts.len(), suspicious.len());
        assert_eq!(alerts.into_iter().collect::<BTreeSet<_>>(), suspicious);
    }
}

/// RFC 3339 of seconds since 1970, for the days of this test.
fn time_text(seconds: i64) -> String {
    let at = seconds - NOON + 12 * 3600;
    let (day, at) = (1 + at / 86_400, at % 86_400);
    format!("2026-03-{day:02}T{:02}:{:02}:{:02}Z", at / 3600, at / 60 % 60, at % 60)
}

#[test]
fn aml_runs_in_one_process() {
    let mut aml = Aml::new("aml");
    let (profiles, relations) = (free(), free());
    let mut command = aml.stage.command();
    command
        .env("PROFILES_LISTEN", &profiles)
        .env("RELATIONS_LISTEN", &relations)
        .env("PROFILES_API", format!("http://{profiles}"))
        .env("RELATIONS_API", format!("http://{relations}"));
    let files = [aml.file("profiles"), aml.file("relations")];
    let more: Vec<&str> = files.iter().map(|file| file.to_str().expect("a path")).collect();
    let mut one = Instance::spawn(command, &aml.stage.yaml, "all", &more);
    one.wait_ready(LONG);
    aml.pay(20, 1000);
    // What is no payment holds up none of the three.
    aml.stage.send(
        "payments",
        [("account-1".to_owned(), json!({ "id": "bad", "from": "account-1", "to": "x", "at": "soon" }))],
    );
    aml.pay(20, 1000);
    aml.wait_for_all();
    aml.check();
    for dead in [".dlq", "-profiles.dlq", "-relations.dlq"] {
        let topic = format!("{}{dead}", aml.stage.name);
        let dead = read(&brokers(), &aml.stage.admin, &topic, 1);
        assert_eq!(dead.map(|rows| rows.len()), Ok(1), "{topic}");
    }
    // 100 payments of 1 in less than an hour are a burst, and no large sum.
    let (status, body) = http_get(&profiles, "/profiles/account-3").expect("an answer");
    let profile: Json = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (status, profile),
        (
            200,
            json!({ "account": "account-3", "count_1h": 100, "sum_1h": 100, "count_1d": 100, "sum_1d": 100, "count_all": 100 })
        )
    );
    let (status, body) = http_get(&relations, "/relations/account-3").expect("an answer");
    let known: Json = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &known["account"]), (200, &json!("account-3")));
    assert_eq!(http_get(&profiles, "/profiles/nobody").expect("an answer").0, 404);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn aml_detection_waits_for_services_that_are_away_or_killed() {
    let mut aml = Aml::new("aml-apart");
    let (profiles, relations) = (free(), free());
    let mut p1 = aml.start("profiles", "p1", &profiles);
    let mut p2 = aml.start("profiles", "p2", &free());
    let r1 = aml.start("relations", "r1", &relations);
    let r2 = aml.start("relations", "r2", &free());
    let mut d1 = aml.detection("d1", &profiles, &relations);
    let d2 = aml.detection("d2", &profiles, &relations);
    for instance in [&mut p1, &mut p2, &mut d1] {
        instance.wait_ready(LONG);
    }
    aml.pay(60, 600);
    // The one whose endpoints are not asked: its partitions move to the other, which answers for them when it has them.
    p2.kill9();
    aml.pay(60, 600);
    aml.wait_for_all();

    // No profiles at all: the payments wait, and it is said for whom.
    assert_eq!(p1.stop(LONG), 0);
    aml.pay(60, 600);
    let group = format!("group=\"{}-profiles\"", aml.stage.name);
    let blocked = || [&d1, &d2].map(|d| d.metric("slackwater_gate_blocked", &group)).iter().sum::<f64>();
    wait("detection waits for profiles", LONG, || blocked() >= 1.0);
    let (status, ready) = d1.get("/ready");
    assert_eq!(status, 200, "it is no fault of this instance: {ready}");
    let before = aml.verdicts();
    std::thread::park_timeout(Duration::from_secs(1));
    assert_eq!((before, aml.verdicts()), (1200, 1200), "none is judged before profiles have counted it");

    let p3 = aml.start("profiles", "p3", &profiles);
    // One of two instances of detection goes while it is at work.
    d2.kill9();
    aml.wait_for_all();
    wait("nothing is held back", LONG, || d1.metric("slackwater_gate_blocked", &group) == 0.0);
    aml.check();
    for instance in [p3, r1, r2, d1] {
        assert_eq!(instance.stop(LONG), 0);
    }
}

//! Two instances of one topology, fed and killed at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};
use slackwater::kafka::{GroupOffset, KafkaConfig, OutRecord, TopicPartition, Writer};
use slackwater::model::{Clock, SystemClock, Timestamp};
use slackwater::testing::simulate;
use slackwater::yaml::{Mode, load};

use super::compare::{Guarantee, How, Rows, difference};
use crate::common::fleet::{FENCED, tail};
use crate::common::{Instance, Stage, brokers, record};

pub const LONG: Duration = Duration::from_secs(90);
/// Partitions of each source.
pub const PARTITIONS: i32 = 4;

/// One record on its way in.
#[derive(Clone, Debug)]
pub struct Sent {
    pub topic: &'static str,
    /// `None`: as the key says.
    pub partition: Option<i32>,
    pub key: Option<String>,
    /// Null is a tombstone.
    pub value: Json,
    pub ts: i64,
}

impl Sent {
    /// As a line for `simulate`.
    pub fn line(&self, stage: &Stage) -> String {
        let line =
            json!({ "topic": stage.topic(self.topic), "key": self.key, "value": self.value, "ts": self.ts });
        format!("{line}\n")
    }

    fn record(&self, stage: &Stage) -> OutRecord {
        let value = (!self.value.is_null()).then(|| self.value.to_string().into());
        let key = self.key.clone().map(Into::into);
        OutRecord {
            partition: self.partition,
            ..record(&stage.topic(self.topic), key, value, Timestamp(self.ts))
        }
    }
}

/// A sink: its name, how much of it is compared, and its settings where they are not the usual ones.
pub type Out = (&'static str, How, &'static str);

/// The usual settings: the value with its time and window.
pub const WHOLE: &str = "value: '{ \"v\": ., \"ts\": timestamp, \"w\": window }'";
/// The value alone: its time depends on the order.
pub const VALUE: &str = "value: '{ \"v\": . }'";

/// `CHAOS_ROUNDS`; where it is not set most kinds of bad things happen in each play, and all of them in one or the other.
fn rounds() -> usize {
    std::env::var("CHAOS_ROUNDS").map_or(5, |n| n.parse().expect("CHAOS_ROUNDS is a number"))
}

#[derive(Clone, Copy, Debug)]
enum Bad {
    Kill,
    KillAndLoseDisk,
    KillBothOneLosesItsDisk,
    KillAndStayAway,
    Stop,
    /// Between two steps of a checkpoint; then its disk is lost, or not.
    DiesAtAPoint,
    /// Every third checkpoint fails from now on, or is reported as failed: tasks go back to the last one and read
    /// again.
    CheckpointsFail,
}

const BAD: [Bad; 7] = [
    Bad::Kill,
    Bad::KillAndLoseDisk,
    Bad::KillBothOneLosesItsDisk,
    Bad::KillAndStayAway,
    Bad::Stop,
    Bad::DiesAtAPoint,
    Bad::CheckpointsFail,
];

/// See `runtime/checkpoint/failpoint.rs`: there are none in a release build.
const POINTS: [&str; 6] = ["sealed", "settled", "produced", "offsets", "committed", "applied"];

/// The instances, their input and what they wrote.
pub struct Show {
    pub stage: Stage,
    pub guarantee: Guarantee,
    outs: &'static [Out],
    members: [Option<Instance>; 2],
    pub rng: SmallRng,
    feeder: Arc<Feeder>,
    began: Instant,
}

/// Nothing more happens: the feeder need not wait, also when the test fails.
struct Last<'a>(&'a AtomicUsize);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.0.store(usize::MAX, Ordering::Release);
    }
}

/// Writes from a thread of its own.
struct Feeder {
    writer: Writer,
    runtime: tokio::runtime::Runtime,
}

impl Feeder {
    fn new() -> Feeder {
        let writer = Writer::open(&KafkaConfig::new(brokers())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Feeder { writer, runtime }
    }

    fn send(&self, records: &[OutRecord]) {
        self.runtime.block_on(self.writer.send_all(records)).unwrap();
    }
}

const NAMES: [&str; 2] = ["one", "two"];

impl Show {
    /// The topics of a topology and its file. Nothing runs yet.
    pub fn new(
        what: &str,
        text: &str,
        guarantee: Guarantee,
        sources: &[(&'static str, i32)],
        outs: &'static [Out],
        seed: u64,
    ) -> Show {
        let sinks: String = outs
            .iter()
            .map(|(name, _, how)| {
                format!("  out-{name}: {{ from: {name}, kafka: {{ topic: NAME.{name}, {how} }} }}\n")
            })
            .collect();
        let text = format!("{}{sinks}", text.replace("GUARANTEE", guarantee.name()));
        let topics: Vec<(&str, i32)> =
            sources.iter().copied().chain(outs.iter().map(|(name, ..)| (*name, 1))).collect();
        let stage = Stage::new(what, &topics, &text);
        println!("CHAOS_SEED={seed} CHAOS_ROUNDS={} {} {}", rounds(), stage.name, guarantee.name());
        Show {
            stage,
            guarantee,
            outs,
            members: [None, None],
            rng: SmallRng::seed_from_u64(seed),
            feeder: Arc::new(Feeder::new()),
            began: Instant::now(),
        }
    }

    pub fn say(&self, what: &str) {
        println!("{:7.2} {} {what}", self.began.elapsed().as_secs_f64(), self.stage.name);
    }

    fn launch(&mut self, at: usize) {
        self.launch_with(at, "");
    }

    fn launch_with(&mut self, at: usize, failpoint: &str) {
        let more = ["--instance-id", NAMES[at]];
        let mut command = self.stage.command();
        if !failpoint.is_empty() {
            command.env("SLACKWATER_FAILPOINT", failpoint);
        }
        self.members[at] = Some(Instance::spawn(command, &self.stage.yaml, NAMES[at], &more));
    }

    /// Runs it until it dies there by itself.
    fn dies_at(&mut self, at: usize, point: &str) {
        self.kill(at);
        self.launch_with(at, point);
        // Where nothing is left to be checkpointed it lives on.
        let instance = self.members[at].as_mut().unwrap();
        let end = Instant::now() + Duration::from_secs(8);
        while instance.child.try_wait().unwrap().is_none() && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        self.kill(at);
    }

    fn kill(&mut self, at: usize) {
        if let Some(instance) = self.members[at].take() {
            instance.kill9();
        }
    }

    fn lose_disk(&self, at: usize) {
        let dir = self.stage.dir.path().join(format!("state-{}", NAMES[at]));
        std::fs::remove_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    }

    fn stop(&mut self, at: usize) {
        if let Some(instance) = self.members[at].take() {
            let (began, log) = (Instant::now(), instance.log.clone());
            let code = instance.stop(LONG);
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(
                code == 0 || text.contains(FENCED),
                "{} stops with {code}:\n{}",
                NAMES[at],
                tail(&text, 60)
            );
            if began.elapsed() > Duration::from_secs(5) {
                self.say(&format!("{} took {:?} to stop:\n{}", NAMES[at], began.elapsed(), tail(&text, 60)));
            }
        }
    }

    fn pause(&mut self, from_ms: u64, to_ms: u64) {
        std::thread::park_timeout(Duration::from_millis(self.rng.random_range(from_ms..=to_ms)));
    }

    fn happens(&mut self, bad: Bad) {
        let at = self.rng.random_range(0..2);
        self.say(&format!("{bad:?} {}", NAMES[at]));
        match bad {
            Bad::Kill => self.kill(at),
            Bad::KillAndLoseDisk => {
                self.kill(at);
                self.lose_disk(at);
            }
            Bad::KillBothOneLosesItsDisk => {
                self.kill(at);
                self.kill(1 - at);
                self.lose_disk(at);
                self.launch(1 - at);
            }
            Bad::KillAndStayAway => {
                self.kill(at);
                // Longer than its session: the other takes over, and gives back.
                self.pause(6_500, 8_500);
            }
            Bad::Stop => self.stop(at),
            Bad::DiesAtAPoint => {
                let point = POINTS[self.rng.random_range(0..POINTS.len())];
                let nth = self.rng.random_range(1..6);
                self.say(&format!("  {point}:{nth}"));
                self.dies_at(at, &format!("{point}:{nth}"));
                if self.rng.random_bool(0.3) {
                    self.lose_disk(at);
                }
            }
            Bad::CheckpointsFail => {
                self.kill(at);
                let how = if self.rng.random_bool(0.5) { "failed:3" } else { "doubtful:3" };
                return self.launch_with(at, how);
            }
        }
        self.launch(at);
    }

    /// Starts both, feeds them, and bad things happen. Returns when everything was sent and both are ready.
    pub fn feed(&mut self, records: &[Sent]) {
        for at in 0..2 {
            self.launch(at);
        }
        self.ready();
        let rounds = rounds();
        let done = AtomicUsize::new(0);
        let batches: Vec<Vec<OutRecord>> = records
            .chunks(records.len().div_ceil(20 * (rounds + 1)).max(1))
            .map(|some| some.iter().map(|sent| sent.record(&self.stage)).collect())
            .collect();
        let feeder = Arc::clone(&self.feeder);
        std::thread::scope(|scope| {
            let (done, all) = (&done, batches.len());
            scope.spawn(move || {
                for (n, batch) in batches.into_iter().enumerate() {
                    // Some is left for every bad thing.
                    while n * (rounds + 1)
                        > done.load(Ordering::Acquire).saturating_add(1).saturating_mul(all)
                    {
                        std::thread::park_timeout(Duration::from_millis(10));
                    }
                    feeder.send(&batch);
                    std::thread::park_timeout(Duration::from_millis(80));
                }
            });
            let _last = Last(done);
            let mut bad = Vec::new();
            for round in 0..rounds {
                if bad.is_empty() {
                    bad.extend(BAD);
                    bad.shuffle(&mut self.rng);
                }
                if self.rng.random_bool(0.6) {
                    self.ready();
                }
                self.pause(200, 1_500);
                let what = bad.pop().unwrap();
                self.happens(what);
                done.store(round + 1, Ordering::Release);
            }
        });
        self.ready();
        // Without what it was told to do wrong.
        for at in 0..2 {
            self.kill(at);
            self.launch(at);
        }
        self.ready();
        self.say("all is sent");
    }

    /// Sends some more, with a kill right behind it.
    pub fn flush(&mut self, records: &[Sent]) {
        self.send(records);
        self.pause(0, 300);
        self.happens(Bad::Kill);
        self.ready();
    }

    pub fn send(&self, records: &[Sent]) {
        let records: Vec<OutRecord> = records.iter().map(|sent| sent.record(&self.stage)).collect();
        self.feeder.send(&records);
    }

    fn ready(&mut self) {
        let end = Instant::now() + LONG;
        for (at, name) in NAMES.iter().enumerate() {
            while self.members[at].as_ref().is_some_and(|member| member.get("/ready").0 != 200) {
                self.alive(at);
                let text = || self.members[at].as_ref().map(Instance::text).unwrap_or_default();
                assert!(Instant::now() < end, "{name} not ready in {LONG:?}:\n{}", text());
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    }

    /// Starts an instance again that was fenced by its own new life, as a supervisor would (see the README's limits).
    /// No other instance may end.
    fn alive(&mut self, at: usize) {
        let Some(member) = &mut self.members[at] else { return };
        let Some(code) = member.child.try_wait().unwrap() else { return };
        let text = member.text();
        assert!(text.contains(FENCED), "{} ended by itself with {code}:\n{}", NAMES[at], tail(&text, 60));
        self.say(&format!("  {} was fenced by itself", NAMES[at]));
        self.launch(at);
    }

    /// Records of these topics that the group has not committed yet.
    fn lag(&self, topics: &[String]) -> Option<i64> {
        let all: Vec<TopicPartition> = topics
            .iter()
            .flat_map(|topic| (0..PARTITIONS).map(|p| TopicPartition::new(topic.as_str(), p)))
            .collect();
        let ends = self.stage.admin.end_offsets(&all).ok()?;
        let committed = self.stage.admin.committed(&self.stage.name, &all).ok()?;
        let behind = |(end, committed): (&i64, &GroupOffset)| match committed {
            GroupOffset::At(next) => Some(end - next),
            GroupOffset::None => Some(*end),
            GroupOffset::Pending => None,
        };
        ends.iter().zip(&committed).map(behind).sum()
    }

    /// Waits until all that is left to be read are so many records of the sources, and none of the repartition topics.
    pub fn settle(&mut self, sources: &[&str], repartitions: &[&str], left: i64) {
        let mut topics: Vec<String> = sources.iter().map(|topic| self.stage.topic(topic)).collect();
        topics.extend(repartitions.iter().map(|name| format!("{}-{name}-repartition", self.stage.name)));
        // What was written while it was asked shows the next time: once for each topic on the longest way.
        let mut seen = 0;
        let end = Instant::now() + LONG;
        while seen < 6 {
            (0..2).for_each(|at| self.alive(at));
            let lag = self.lag(&topics);
            seen = if lag == Some(left) { seen + 1 } else { 0 };
            assert!(Instant::now() < end, "everything is read: {lag:?} are left, not {left}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        self.say("all is read and committed");
    }

    /// What `simulate` gives for these lines, by sink.
    pub fn simulated(&self, lines: &str) -> BTreeMap<&'static str, Rows> {
        let text = std::fs::read_to_string(&self.stage.yaml).unwrap();
        let loaded = load("t.yaml", &text, Mode::Lenient, &|_| None)
            .unwrap_or_else(|report| panic!("{}", report.render(false)));
        let mut out = Vec::new();
        simulate(Arc::new(loaded.topology), lines.as_bytes(), &mut out, 64).expect("simulates");
        let mut rows: BTreeMap<&'static str, Rows> = BTreeMap::new();
        let topics: BTreeMap<String, &'static str> =
            self.outs.iter().map(|(name, ..)| (self.stage.topic(name), *name)).collect();
        for line in String::from_utf8(out).unwrap().lines() {
            let line: Json = serde_json::from_str(line).unwrap();
            let Some(name) = line["to"].as_str().and_then(|to| topics.get(to)) else { continue };
            let key = line["key"].as_str().unwrap_or_default().to_owned();
            rows.entry(name).or_default().push((key, line["value"].clone()));
        }
        rows
    }

    /// Stops both and compares what is in the sinks' topics. `skip`: keys that are not compared.
    pub fn compare(mut self, want: &BTreeMap<&'static str, Rows>, skip: fn(&str) -> bool) {
        for at in 0..2 {
            self.stop(at);
        }
        let (mut wrong, mut count, mut empty) = (Vec::new(), 0, Vec::new());
        let none = Rows::new();
        for (name, how, _) in self.outs {
            let kept = |rows: &Rows| -> Rows { rows.iter().filter(|(key, _)| !skip(key)).cloned().collect() };
            let got = kept(&self.stage.rows(name));
            let want = kept(want.get(name).unwrap_or(&none));
            count += got.len();
            if want.is_empty() {
                empty.push(*name);
            }
            let text = difference(*how, self.guarantee, &got, &want);
            if !text.is_empty() {
                wrong.push(format!("{name}: {} rows, want {}: {text}", got.len(), want.len()));
            }
        }
        self.say(&format!("{count} rows, {} results differ", wrong.len()));
        assert!(empty.is_empty(), "the records say nothing of {empty:?}");
        assert!(wrong.is_empty(), "{} {}:\n{}", self.stage.name, self.guarantee.name(), wrong.join("\n"));
    }
}

/// A time of which windows of every length begin, long enough ago for what comes.
pub fn base() -> i64 {
    const HOUR: i64 = 3_600_000;
    (SystemClock.now().0 / HOUR - 4) * HOUR
}

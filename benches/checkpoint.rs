//! What durability costs, each figure beside what bounds it, in the same run.
//!
//! ```text
//! export KAFKA_BROKERS=...      (scripts/kafka.sh)
//! scripts/bench.sh checkpoint [--keys 1000000] [--rows 1000,10000] [--seconds 20] [--only commit|state|pause|restart]
//! ```
//!
//! - `commit`: the real program takes a checkpoint a second of so many changed rows (seal, one transaction, RocksDB);
//!   beside it a bare transaction of as many records of the same size, with offsets, a second.
//! - `state`: so many keys pending in the real program, killed with -9. Ready again from its disk, beside a bare scan of
//!   the same database; then without its disk from the changelog, beside a bare consumer of the same partition.
//! - `restart`: the real program is killed with -9 while records come. The same one starts again with its static id, until
//!   the first record that it has processed is in a file; then another one takes over. Beside bare consumers of the same
//!   ids, and the session timeout.
//! - `pause`: in this process, how long a task's turns are during a checkpoint with so many changed keys and with records
//!   coming, and what the commit thread does with it. A turn is what a worker's is: 256 records, then a piece of the seal.

#![expect(clippy::cast_possible_truncation, reason = "counts read from metrics")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot start says so; shares code with the tests")]

#[expect(dead_code, unused_imports, reason = "a bench uses its own part of what the tests share")]
#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::instance::{http_get, strip_colours};
use common::{brokers, unique, wait};
use cpu_time::ThreadTime;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use slackwater::kafka::{Admin, KafkaConfig, OutRecord, TopicPartition, TopicSpec, Writer};
use slackwater::model::{Headers, Origin, Record, Timestamp, Value};
use slackwater::runtime::{Input, Step, Task, TaskId, TaskOptions};
use slackwater::state::{Backend, RocksBackend, RocksEnv};
use slackwater::yaml::{Mode, load};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const LONG: Duration = Duration::from_secs(180);
const KEY: usize = 20;
const VALUE: usize = 128;
/// A changelog row of such an event: the key behind the node's name, the value behind the entry's header.
const ROW_KEY: usize = KEY + 8;
const ROW_VALUE: usize = VALUE + 46;

fn key(n: usize) -> Vec<u8> {
    format!("account-{n:012}").into_bytes()
}

fn value(n: usize) -> Vec<u8> {
    let mut value = format!("{{\"n\":{n},\"note\":\"").into_bytes();
    value.resize(VALUE - 2, b'x');
    value.extend_from_slice(b"\"}");
    value
}

fn yaml(name: &str, topic: &str, brokers: &str) -> String {
    format!(
        "name: {name}
kafka: {{ brokers: \"{brokers}\", session_timeout: 6s }}
sources: {{ changes: {{ kafka: {{ topic: {topic} }} }} }}
operators: {{ settled: {{ from: changes, debounce: {{ quiet: 1h, max_wait: 2h }} }} }}
errors: {{ on_failure: stop }}
sinks:
  out: {{ from: settled, blackhole: {{}} }}
"
    )
}

/// A topic of one partition, and a topology that debounces it.
struct World {
    name: String,
    topic: String,
    brokers: String,
    dir: tempfile::TempDir,
    writer: Writer,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn new() -> World {
        let (name, brokers) = (unique("checkpoint"), brokers());
        let topic = format!("{name}-changes");
        let kafka = KafkaConfig::new(brokers.clone());
        let admin = Admin::open(&kafka, LONG).unwrap();
        admin.create_topics(&[TopicSpec::new(&topic, 1), TopicSpec::new(format!("{name}-bare"), 1)]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("topology.yaml"), yaml(&name, &topic, &brokers)).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        World { writer: Writer::open(&kafka).unwrap(), name, topic, brokers, dir, runtime }
    }

    /// One event of each of these keys.
    fn send(&self, keys: std::ops::Range<usize>) {
        let topic: Arc<str> = self.topic.as_str().into();
        let record = |n: usize| OutRecord {
            topic: Arc::clone(&topic),
            partition: Some(0),
            key: Some(key(n).into()),
            value: Some(value(n).into()),
            headers: Headers::default(),
            ts: None,
        };
        let mut at = keys.start;
        while at < keys.end {
            let batch: Vec<OutRecord> = (at..keys.end.min(at + 20_000)).map(record).collect();
            self.runtime.block_on(self.writer.send_all(&batch)).unwrap();
            at += batch.len();
        }
    }

    fn start(&self, state: &str) -> Instance {
        self.start_as("one", state)
    }

    fn start_as(&self, id: &str, state: &str) -> Instance {
        let log = self.dir.path().join(format!("{}.log", unique("run")));
        let file = File::create(&log).unwrap();
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_slackwater"))
            .args(["run", self.dir.path().join("topology.yaml").to_str().unwrap()])
            .args(["--admin", "127.0.0.1:0", "--instance-id", id, "--state-dir"])
            .arg(self.dir.path().join(state))
            .env_remove("SLACKWATER_LOG")
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut instance = Instance { child, log, admin: String::new(), started };
        let mut admin = String::new();
        wait("the admin address is in the log", LONG, || {
            admin = instance.field("admin=").unwrap_or_default();
            assert!(instance.child.try_wait().unwrap().is_none(), "it ended: {}", instance.text());
            !admin.is_empty()
        });
        instance.admin = admin;
        instance
    }
}

struct Instance {
    child: Child,
    log: PathBuf,
    admin: String,
    started: Instant,
}

impl Instance {
    fn text(&self) -> String {
        strip_colours(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// What stands behind `name` in the log, up to the next space.
    fn field(&self, name: &str) -> Option<String> {
        let text = self.text();
        let at = text.find(name)? + name.len();
        text[at..].split_whitespace().next().map(ToOwned::to_owned)
    }

    /// Since the process was started.
    fn wait_ready(&self) -> Duration {
        let end = Instant::now() + LONG;
        while http_get(&self.admin, "/ready").is_none_or(|(status, _)| status != 200) {
            assert!(Instant::now() < end, "not ready: {}", self.text());
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.started.elapsed()
    }

    fn metric(&self, name: &str) -> f64 {
        let body = http_get(&self.admin, "/metrics").map(|(_, body)| body).unwrap_or_default();
        body.lines()
            .filter(|l| l.starts_with(name) && l[name.len()..].starts_with(['{', ' ', ',', '}']))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn percentile(list: &[f64], p: usize) -> f64 {
    let mut list = list.to_vec();
    list.sort_by(f64::total_cmp);
    list.get((list.len() * p / 100).min(list.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// A transactional producer with our own settings, and a member of a group whose offsets it commits.
struct Bare {
    producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
    member: BaseConsumer,
    topic: String,
    offsets: TopicPartitionList,
}

impl Bare {
    fn open(world: &World) -> Bare {
        let member: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &world.brokers)
            .set("group.id", unique("bare"))
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        member.subscribe(&[&world.topic]).unwrap();
        wait("the bare member has its partition", LONG, || {
            drop(member.poll(Duration::from_millis(50)));
            member.assignment().unwrap().count() == 1
        });
        member.pause(&member.assignment().unwrap()).unwrap();
        let producer: ThreadedProducer<_> = ClientConfig::new()
            .set("bootstrap.servers", &world.brokers)
            .set("transactional.id", unique("bare"))
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            .create()
            .unwrap();
        producer.init_transactions(LONG).unwrap();
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&world.topic, 0, Offset::Offset(1)).unwrap();
        Bare { producer, member, topic: format!("{}-bare", world.name), offsets }
    }

    #[expect(unsafe_code, reason = "the wrapper's flush waits for 100 ms; the program does the same")]
    fn flush(&self) {
        // SAFETY: the producer is alive, and the call keeps nothing.
        unsafe { rdkafka::bindings::rd_kafka_flush(self.producer.client().native_ptr(), 60_000) };
    }

    fn transact(&self, rows: &[(Vec<u8>, Vec<u8>)]) {
        drop(self.member.poll(Duration::ZERO));
        self.producer.begin_transaction().unwrap();
        for (key, value) in rows {
            loop {
                let record = BaseRecord::to(&self.topic).partition(0).key(key).payload(value);
                match self.producer.send(record) {
                    Ok(()) => break,
                    Err(_) => self.flush(),
                }
            }
        }
        self.flush();
        let group = self.member.group_metadata().unwrap();
        self.producer.send_offsets_to_transaction(&self.offsets, &group, LONG).unwrap();
        self.producer.commit_transaction(LONG).unwrap();
    }
}

/// Labels of `slackwater_checkpoint_phase_seconds_total`, in order.
const PHASES: [&str; 6] = ["sort", "produce", "flush", "offsets", "commit", "apply"];

fn commit(rows_list: &[usize], seconds: u64) {
    let world = World::new();
    let instance = world.start("state");
    instance.wait_ready();
    let bare = Bare::open(&world);
    println!("\na checkpoint a second beside a bare transaction of as many records of the same size, ms");
    println!(
        "{:>8} {:>22} {:>22} {:>22} {:>8} {:>8}",
        "rows", "bare p50 / p90", "transaction p50 / p90", "with sort, RocksDB", "ratio", "ratio"
    );
    for &rows in rows_list {
        let bytes: Vec<(Vec<u8>, Vec<u8>)> = (0..rows)
            .map(|n| {
                let mut row_key = b"settled\0".to_vec();
                row_key.extend_from_slice(&key(n));
                let mut row = vec![0; 46];
                row.extend_from_slice(&value(n));
                assert_eq!((row_key.len(), row.len()), (ROW_KEY, ROW_VALUE));
                (row_key, row)
            })
            .collect();
        bare.transact(&bytes);
        let stop = AtomicBool::new(false);
        let (mut ours, mut theirs): (Vec<(f64, [f64; PHASES.len()])>, Vec<f64>) = (Vec::new(), Vec::new());
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let read = || {
                    let name = "slackwater_checkpoint_duration_seconds";
                    let [count, sum] =
                        ["count", "sum"].map(|part| instance.metric(&format!("{name}_{part}")));
                    let phases = PHASES.map(|phase| {
                        instance
                            .metric(&format!("slackwater_checkpoint_phase_seconds_total{{phase=\"{phase}\""))
                    });
                    (count, sum, phases)
                };
                let mut last = read();
                let mut all = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    std::thread::park_timeout(Duration::from_millis(100));
                    let now = read();
                    if now.0 > last.0 {
                        let each = |from: f64, to: f64| (to - from) / (now.0 - last.0) * 1e3;
                        let phases = std::array::from_fn(|n| each(last.2[n], now.2[n]));
                        all.push((each(last.1, now.1), phases));
                        last = now;
                    }
                }
                all
            });
            for second in 0..seconds + 2 {
                let began = Instant::now();
                world.send(0..rows);
                std::thread::park_timeout(Duration::from_millis(500).saturating_sub(began.elapsed()));
                let start = Instant::now();
                bare.transact(&bytes);
                if second >= 2 {
                    theirs.push(start.elapsed().as_secs_f64() * 1e3);
                }
                std::thread::park_timeout(Duration::from_secs(1).saturating_sub(began.elapsed()));
            }
            stop.store(true, Ordering::Release);
            ours = watcher.join().unwrap();
        });
        ours.drain(..2.min(ours.len()));
        let pair = |list: &[f64]| format!("{:.1} / {:.1}", percentile(list, 50), percentile(list, 90));
        // Produce, flush, offsets and commit are what the bare one does too.
        let transaction: Vec<f64> = ours.iter().map(|(_, phases)| phases[1..5].iter().sum()).collect();
        let whole: Vec<f64> = ours.iter().map(|(whole, _)| *whole).collect();
        println!(
            "{rows:>8} {:>22} {:>22} {:>22} {:>8.2} {:>8.2}",
            pair(&theirs),
            pair(&transaction),
            pair(&whole),
            percentile(&transaction, 50) / percentile(&theirs, 50),
            percentile(&whole, 50) / percentile(&theirs, 50)
        );
        let medians: Vec<String> = (0..PHASES.len())
            .map(|n| (PHASES[n], ours.iter().map(|(_, phases)| phases[n]).collect::<Vec<f64>>()))
            .map(|(phase, list)| format!("{phase} {:.1}", percentile(&list, 50)))
            .collect();
        println!("         p50 of {} checkpoints: {}", ours.len(), medians.join(", "));
    }
}

/// The only directory in `dir` that is a task's database.
fn database(dir: &Path) -> PathBuf {
    let mut found = std::fs::read_dir(dir).unwrap().filter_map(Result::ok).filter(|e| e.path().is_dir());
    found.next().expect("a task's state").path()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().filter_map(Result::ok) {
        if file.path().is_file() && file.file_name() != "LOCK" {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

fn env() -> RocksEnv {
    RocksEnv::new(64 << 20, 64 << 20)
}

fn scan(backend: &dyn Backend) -> (usize, usize) {
    let (mut rows, mut bytes) = (0, 0);
    backend
        .scan(b"", &[0xff; 8], &mut |key, value| {
            rows += 1;
            bytes += key.len() + value.len();
            ControlFlow::Continue(())
        })
        .unwrap();
    (rows, bytes)
}

fn state(keys: usize) {
    let world = World::new();
    let mut instance = world.start("state");
    instance.wait_ready();
    println!("\n{keys} keys pending, of {KEY} + {VALUE} bytes");
    let start = Instant::now();
    world.send(0..keys);
    let sent = start.elapsed();
    let pending = |instance: &Instance| instance.metric("slackwater_debounce_pending_keys");
    wait("everything is in a checkpoint", LONG, || {
        pending(&instance) as usize == keys && instance.metric("slackwater_commit_lag_records") == 0.0
    });
    let done = start.elapsed();
    let count = instance.metric("slackwater_checkpoint_duration_seconds_count");
    let sum = instance.metric("slackwater_checkpoint_duration_seconds_sum");
    println!(
        "  fed in {:.1} s, committed and applied after {:.1} s; {count} checkpoints, {:.2} us of commit per row",
        sent.as_secs_f64(),
        done.as_secs_f64(),
        sum * 1e6 / keys as f64
    );
    instance.kill9();

    // The same files, as they are after the kill.
    let copied = world.dir.path().join("copy");
    copy(&database(&world.dir.path().join("state")), &copied);
    let start = Instant::now();
    let backend = RocksBackend::open(&copied, &env()).unwrap();
    let opened = start.elapsed();
    let (rows, bytes) = scan(&backend);
    let scanned = start.elapsed();
    drop(backend);

    let mut instance = world.start("state");
    let ready = instance.wait_ready();
    wait("its keys are back", LONG, || pending(&instance) as usize == keys);
    let restored: f64 = instance.field("restored task=").map_or(f64::NAN, |_| {
        let text = instance.text();
        let line = text.lines().find(|l| l.contains("restored task=")).unwrap_or_default().to_owned();
        line.split("ms=").nth(1).and_then(|n| n.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
    });
    println!(
        "  killed with -9, same disk: the task is there after {restored:.0} ms, ready {:.0} ms after the process started",
        ready.as_secs_f64() * 1e3
    );
    println!(
        "    bare: open {:.0} ms and scan {rows} rows, {:.0} MB: {:.0} ms together; ratio {:.2}",
        opened.as_secs_f64() * 1e3,
        bytes as f64 / 1e6,
        scanned.as_secs_f64() * 1e3,
        restored / 1e3 / scanned.as_secs_f64()
    );
    instance.kill9();

    let changelog = format!("{}-changes-changelog", world.name);
    let start = Instant::now();
    let bare = consume(&world.brokers, &changelog);
    let took = start.elapsed().as_secs_f64();
    let instance = world.start("elsewhere");
    let ready = instance.wait_ready();
    wait("its keys are back", LONG, || pending(&instance) as usize == keys);
    let text = instance.text();
    let line = text.lines().find(|l| l.contains("restored task=")).unwrap_or_default().to_owned();
    let number = |name: &str| -> f64 {
        line.split(name).nth(1).and_then(|n| n.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
    };
    let (rows, ms) = (number("rows="), number(" ms="));
    println!(
        "  no disk: {rows} rows of the changelog in {ms:.0} ms, {:.0} rows/s; ready {:.0} ms after the process started",
        rows / ms * 1e3,
        ready.as_secs_f64() * 1e3
    );
    println!(
        "    bare consumer: {bare} records in {:.0} ms, {:.0} records/s; ratio {:.2}",
        took * 1e3,
        bare as f64 / took,
        (rows / ms * 1e3) / (bare as f64 / took)
    );
}

/// Reads a topic's partition 0 to its end with librdkafka alone, set as our restore is.
fn consume(brokers: &str, topic: &str) -> usize {
    let admin = Admin::open(&KafkaConfig::new(brokers), LONG).unwrap();
    let end = admin.end_offsets(&[TopicPartition::new(topic, 0)]).unwrap()[0];
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bare")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("queued.min.messages", "100000")
        .set("queued.max.messages.kbytes", "65536")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(0)).unwrap();
    consumer.assign(&list).unwrap();
    let (mut records, mut bytes) = (0, 0);
    loop {
        match consumer.poll(Duration::from_millis(10)) {
            Some(Ok(message)) => {
                records += 1;
                bytes += message.key_len() + message.payload_len();
            }
            Some(Err(e)) => panic!("{e}"),
            None => {
                let position = consumer.position().unwrap();
                if position.elements().iter().any(|e| matches!(e.offset(), Offset::Offset(at) if at >= end)) {
                    assert!(bytes > 0);
                    return records;
                }
            }
        }
    }
}

/// Sends a record every 10 ms until dropped.
struct Feed {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Feed {
    fn start(brokers: &str, topic: &str) -> Feed {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, topic) = (Arc::clone(&stop), topic.to_owned());
        let producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext> =
            ClientConfig::new().set("bootstrap.servers", brokers).set("linger.ms", "0").create().unwrap();
        let thread = std::thread::spawn(move || {
            for n in 0.. {
                if seen.load(Ordering::Acquire) {
                    break;
                }
                let (key, value) = (key(n % 1_000), value(n));
                producer.send(BaseRecord::to(&topic).partition(0).key(&key).payload(&value)).unwrap();
                std::thread::park_timeout(Duration::from_millis(10));
            }
            producer.flush(LONG).unwrap();
        });
        Feed { stop, thread: Some(thread) }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

/// A bare member with a static id, without the settings that only we need.
fn member(world: &World, group: &str, id: &str) -> BaseConsumer {
    let member: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.brokers)
        .set("group.id", group)
        .set("group.instance.id", id)
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "600")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "latest")
        .create()
        .unwrap();
    member.subscribe(&[&world.topic]).unwrap();
    member
}

/// Until the first record.
fn first_record(member: &BaseConsumer) {
    let end = Instant::now() + LONG;
    while !matches!(member.poll(Duration::from_millis(5)), Some(Ok(_))) {
        assert!(Instant::now() < end, "no record");
    }
}

fn restart(rounds: usize) {
    let world = World::new();
    let file = world.dir.path().join("out.jsonl");
    let text = std::fs::read_to_string(world.dir.path().join("topology.yaml")).unwrap();
    let seen = format!(
        "  seen: {{ from: changes, file: {{ path: {}, batch: {{ linger: 0ms }} }} }}\n",
        file.display()
    );
    let text = text + &seen;
    std::fs::write(world.dir.path().join("topology.yaml"), text).unwrap();
    let _feed = Feed::start(&world.brokers, &world.topic);
    let size = || std::fs::metadata(&file).map_or(0, |m| m.len());
    // Another record is in the file.
    let processed = |what: &str| {
        let before = size();
        let end = Instant::now() + LONG;
        while size() <= before {
            assert!(Instant::now() < end, "{what}: no record");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    };
    println!("\nkilled with -9 while 100 records a second come, session timeout 6 s; ms");
    let mut one = world.start_as("one", "one");
    one.wait_ready();
    processed("one");
    let group = unique("bare");
    let mut bare = member(&world, &group, "one");
    first_record(&bare);
    let (mut ours, mut ready, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        // A checkpoint or two.
        std::thread::park_timeout(Duration::from_millis(2_300));
        one.kill9();
        std::thread::park_timeout(Duration::from_millis(100));
        let (mut after, mut instance) = (0.0, None);
        std::thread::scope(|scope| {
            let start = Instant::now();
            let works = scope.spawn(move || {
                processed("started again");
                start.elapsed().as_secs_f64() * 1e3
            });
            let started = world.start_as("one", "one");
            ready.push(started.wait_ready().as_secs_f64() * 1e3);
            instance = Some(started);
            after = works.join().unwrap();
        });
        one = instance.unwrap();
        ours.push(after);
        // A static member that goes without a word, as a killed one does.
        drop(bare);
        let start = Instant::now();
        bare = member(&world, &group, "one");
        first_record(&bare);
        theirs.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let show = |list: &[f64]| {
        format!("{:.0} ({:.0} to {:.0})", percentile(list, 50), percentile(list, 0), percentile(list, 100))
    };
    println!(
        "  started again, static id: first record after {} of process start, ready after {}; bare consumer {}; ratio {:.2}",
        show(&ours),
        show(&ready),
        show(&theirs),
        percentile(&ours, 50) / percentile(&theirs, 50)
    );
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let name = format!("other-{round}");
        let next = world.start_as(&name, &name);
        next.wait_ready();
        let other = member(&world, &group, &name);
        // In the group, and without a partition: the first one keeps it.
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            drop((bare.poll(Duration::from_millis(5)), other.poll(Duration::from_millis(5))));
        }
        assert_eq!(other.assignment().unwrap().count(), 0);
        one.kill9();
        let start = Instant::now();
        std::thread::park_timeout(Duration::from_millis(100));
        processed("taken over");
        ours.push(start.elapsed().as_secs_f64() * 1e3);
        one = next;
        drop(bare);
        let start = Instant::now();
        first_record(&other);
        theirs.push(start.elapsed().as_secs_f64() * 1e3);
        bare = other;
    }
    println!(
        "  taken over by another: first record after {} of the kill; bare consumer {}; session timeout 6000; ratio {:.2}",
        show(&ours),
        show(&theirs),
        percentile(&ours, 50) / percentile(&theirs, 50)
    );
}

/// Records of one visit of a worker.
const BATCH: usize = 256;

/// The `batch`th batch of a walk over all keys that is not the order in which they lie in memory.
fn events(keys: usize, round: usize, batch: usize) -> Vec<Record> {
    let ts = Timestamp(1_700_000_000_000 + i64::try_from(round).unwrap());
    let stride = 7_919;
    (batch * BATCH..keys.min((batch + 1) * BATCH))
        .map(|n| {
            let offset = i64::try_from(round * keys + n).unwrap();
            let key = Bytes::from(key(n * stride % keys));
            let mut record = Record::new(key, Value::Bytes(value(n).into()), ts);
            record.origin = Origin { topic: 0, partition: 0, offset };
            record
        })
        .collect()
}

/// One event of each key.
fn touch(task: &mut Task, step: &mut Step, keys: usize, round: usize) {
    for batch in 0..keys.div_ceil(BATCH) {
        let records = events(keys, round, batch);
        let now = records[0].ts;
        task.step(Input::Records { topic: 0, records }, now, step).unwrap();
    }
}

/// How long the turns of a worker took, ms of wall clock and of its own CPU time.
#[derive(Default)]
struct Turns {
    wall: Vec<f64>,
    cpu_max: f64,
}

impl Turns {
    fn time<T>(&mut self, turn: impl FnOnce() -> T) -> T {
        let (start, cpu) = (Instant::now(), ThreadTime::now());
        let result = turn();
        self.cpu_max = self.cpu_max.max(cpu.elapsed().as_secs_f64() * 1e3);
        self.wall.push(start.elapsed().as_secs_f64() * 1e3);
        result
    }

    fn show(&self) -> String {
        let (n, p99, max) = (self.wall.len(), percentile(&self.wall, 99), percentile(&self.wall, 100));
        format!("{n} turns, p99 {p99:.1}, longest {max:.1} ms ({:.1} ms CPU)", self.cpu_max)
    }
}

fn pause(yaml: &str, keys: usize) {
    let loaded = load("pause.yaml", yaml, Mode::Required, &|_| None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let rocks: Arc<dyn Backend> = Arc::new(RocksBackend::open(dir.path(), &env()).unwrap());
    let (mut step, id) = (Step::default(), TaskId { sub: 0, partition: 0 });
    let mut task =
        Task::open(&loaded.topology, id, &rocks, &TaskOptions::default(), Timestamp(0), &mut step).unwrap();
    task.start_at(0, 0);
    for round in 0..4 {
        touch(&mut task, &mut step, keys, round);
        step = Step::default();
        let (mut turns, mut copying) = (Turns::default(), Turns::default());
        let mut batch = 0;
        let mut next = || {
            batch += 1;
            events(keys, round, batch % keys.div_ceil(BATCH))
        };
        let began = Instant::now();
        // A turn is what a worker's is: a batch of records, then a piece of the seal.
        let records = next();
        let now = records[0].ts;
        let mut sealed = copying.time(|| {
            task.step(Input::Records { topic: 0, records }, now, &mut step).unwrap();
            task.seal_begin(now).unwrap().expect("something to seal")
        });
        while task.is_copying() {
            let records = next();
            copying.time(|| {
                task.step(Input::Records { topic: 0, records }, now, &mut step).unwrap();
                task.seal_more(&mut sealed, now).unwrap();
            });
        }
        let copied = began.elapsed().as_secs_f64() * 1e3;
        // The commit thread has it now, and the epoch is dropped there.
        let backend = Arc::clone(&rocks);
        let committer = std::thread::spawn(move || {
            let start = ThreadTime::now();
            sealed.finish();
            let finish = start.elapsed().as_secs_f64();
            let start = ThreadTime::now();
            backend.write(&sealed.rows).unwrap();
            (sealed.rows.len() as f64, finish, start.elapsed().as_secs_f64())
        });
        while !committer.is_finished() {
            let records = next();
            turns.time(|| {
                task.step(Input::Records { topic: 0, records }, now, &mut step).unwrap();
                step.deliveries.clear();
            });
        }
        let (rows, finish, write) = committer.join().unwrap();
        let spent = turns.time(|| {
            task.applied();
            task.take_spent()
        });
        drop(spent);
        println!(
            "  copied in {copied:.0} ms: {}; while it is committed: {}; commit thread: finish {:.2} us/row, RocksDB {:.2} us/row, {rows} rows",
            copying.show(),
            turns.show(),
            finish * 1e6 / rows,
            write * 1e6 / rows,
        );
    }
}

/// Counts for ever, by key: an operator whose rows are cached over RocksDB.
const COUNTING: &str = "name: pause
kafka: { brokers: none:1 }
sources: { changes: { kafka: { topic: changes } } }
operators: { count: { from: changes, aggregate: { count: {} } } }
sinks: { out: { from: count, blackhole: {} } }
errors: { on_failure: stop }
";

fn main() -> ExitCode {
    let (mut keys, mut rows, mut seconds, mut only) = (1_000_000, vec![1_000, 10_000], 20, String::new());
    let mut given = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(name) = given.next() {
        let value = given.next().unwrap_or_default();
        let number = value.parse::<usize>().ok().filter(|n| *n > 0);
        match (name.as_str(), number) {
            ("--keys", Some(n)) => keys = n,
            ("--seconds", Some(n)) => seconds = n as u64,
            ("--rows", _) => rows = value.split(',').filter_map(|n| n.parse().ok()).collect(),
            ("--only", _) => only = value,
            _ => {
                eprintln!(
                    "usage: checkpoint [--keys N] [--rows N,N] [--seconds N] [--only commit|state|pause|restart]"
                );
                return ExitCode::from(2);
            }
        }
    }
    if only.is_empty() || only == "pause" {
        println!(
            "\na checkpoint of {keys} changed keys, with records coming: how long the task's turns are, then the commit thread's work, CPU"
        );
        println!("  debounce:");
        pause(&yaml("pause", "changes", "none:1"), keys);
        println!("  aggregate:");
        pause(COUNTING, keys);
    }
    if only.is_empty() || only == "commit" {
        commit(&rows, seconds);
    }
    if only.is_empty() || only == "restart" {
        restart(5);
    }
    if only.is_empty() || only == "state" {
        state(keys);
    }
    ExitCode::SUCCESS
}

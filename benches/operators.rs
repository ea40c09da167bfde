//! Operators beside the same ones of Apache Kafka Streams: the same records, CPU time of all threads, no network.
//!
//! ```text
//! scripts/bench.sh operators [--events 1000000] [--keys 100000] [--checkpoint 200000] [--only OPERATOR] [--ours]
//! ```
//!
//! 20-byte keys drawn uniformly, JSON values of 128 bytes, ten records per millisecond of stream time; windows of 10 s with
//! 1 s grace, sessions with a gap of 5 s and 1 s grace, a table with a row for each key. Rates are **records per second of
//! CPU time of the whole process**, without the making of the records.
//!
//! Ours is the production task: JSON is checked at the source, every result becomes bytes in a row of a sink that takes
//! everything and is acknowledged. Every `checkpoint` records the epoch is sealed, turned into rows and written to RocksDB by a second
//! thread; not in it are the changelog's records to Kafka. Theirs (`scripts/kafka-streams.sh bench`) is Kafka Streams' own
//! `StreamTask` with its usual RocksDB stores, committed every `checkpoint` records, its changelog records given to
//! Kafka's MockProducer, results to a `foreach` that does nothing (stream-table: makes them bytes); once without cache and once with its default of 10 MiB. Values stay
//! bytes there except where the operator reads them (stateless, stream-table: JSON by Jackson).
//!
//! Each figure is of a process of its own.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use cpu_time::{ProcessTime, ThreadTime};
use slackwater::model::{Origin, Record, Timestamp, Value};
use slackwater::runtime::{Input, Sealed, Step, Task, TaskId, TaskOptions};
use slackwater::state::{Backend, RocksBackend, RocksEnv};
use slackwater::yaml::{Mode, load};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Error = Box<dyn std::error::Error + Send + Sync>;

const KEY: usize = 20;
const VALUE: usize = 128;
const BATCH: usize = 256;
/// The stream time of the first record, ms.
const START: i64 = 1_700_000_000_000;

#[derive(Clone, Copy)]
struct Args {
    keys: u64,
    events: u64,
    checkpoint: u64,
}

impl Args {
    /// Records before the measured ones.
    fn warm(&self) -> u64 {
        self.events / 2
    }

    fn flags(&self) -> [String; 6] {
        let flag = |name: &str, n: u64| [name.to_owned(), n.to_string()];
        let [a, b] = flag("--events", self.events);
        let [c, d] = flag("--keys", self.keys);
        let [e, f] = flag("--checkpoint", self.checkpoint);
        [a, b, c, d, e, f]
    }
}

/// Operators by name: what follows the source `in`, and how many times Kafka Streams' rate is the goal.
const OPERATORS: [(&str, &str, f64); 6] = [
    (
        "stateless",
        "operators: { some: { from: in, filter: '.amount > 100' }, out: { from: some, key_by: .event } }",
        0.0,
    ),
    ("count", "operators: { out: { from: in, aggregate: { count: {} } } }", 3.0),
    (
        "tumbling",
        "operators: { out: { from: in, aggregate: { count: {}, window: { tumbling: 10s, grace: 1s } } } }",
        3.0,
    ),
    (
        "session",
        "operators: { out: { from: in, aggregate: { count: {}, window: { session: 5s, grace: 1s } } } }",
        3.0,
    ),
    (
        "suppress",
        "operators: { agg: { from: in, aggregate: { count: {}, window: { tumbling: 10s, grace: 1s } } }, \
         out: { from: agg, suppress: { until: window_closes } } }",
        3.0,
    ),
    (
        "stream-table",
        "operators: { out: { from: in, join: { with: rows, value: '{ \"n\": left.n, \"plan\": right.plan }' } } }",
        3.0,
    ),
];

/// The records of both sides.
struct Feed {
    keys: u64,
    seed: u64,
    made: u64,
}

impl Feed {
    fn record(&self, key: u64, offset: u64, data: &mut Vec<u8>) -> Record {
        data.clear();
        data.extend_from_slice(format!("account-{key:012}").as_bytes());
        let amount = self.made % 1000;
        data.extend_from_slice(
            format!(
                r#"{{"event":"changed","n":{},"amount":{amount},"paid":{},"plan":{{"name":"pro"}},"note":""#,
                self.made,
                !amount.is_multiple_of(10)
            )
            .as_bytes(),
        );
        data.resize(KEY + VALUE - 2, b'x');
        data.extend_from_slice(b"\"}");
        let bytes = Bytes::copy_from_slice(data);
        let at = i64::try_from(self.made / 10).unwrap_or(0);
        Record {
            key: Some(bytes.slice(..KEY)),
            value: Value::Bytes(bytes.slice(KEY..)),
            ts: Timestamp(START + at),
            origin: Origin { topic: 0, partition: 0, offset: i64::try_from(offset).unwrap_or(0) },
            ..Record::default()
        }
    }

    fn next(&mut self) -> Vec<Record> {
        let mut data = Vec::new();
        (0..BATCH)
            .map(|_| {
                self.seed =
                    self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let key = ((u128::from(self.seed) * u128::from(self.keys)) >> 64) as u64;
                let record = self.record(key, self.made, &mut data);
                self.made += 1;
                record
            })
            .collect()
    }
}

/// Sealed epochs go to a second thread, which writes them.
struct Writer {
    submit: mpsc::SyncSender<Sealed>,
    done: mpsc::Receiver<()>,
    busy: bool,
}

impl Writer {
    fn start(backend: Arc<dyn Backend>) -> Writer {
        let (submit, jobs) = mpsc::sync_channel::<Sealed>(1);
        let (finished, done) = mpsc::sync_channel::<()>(1);
        std::thread::spawn(move || {
            for mut sealed in jobs {
                sealed.finish();
                backend.write(&sealed.rows).expect("RocksDB takes the rows");
                drop(sealed);
                if finished.send(()).is_err() {
                    break;
                }
            }
        });
        Writer { submit, done, busy: false }
    }

    /// Waits for the last epoch; costs no CPU.
    fn settle(&mut self, task: &mut Task) -> Result<(), Error> {
        if std::mem::take(&mut self.busy) {
            self.done.recv()?;
            task.applied();
        }
        Ok(())
    }

    fn checkpoint(&mut self, task: &mut Task, now: Timestamp) -> Result<(), Error> {
        self.settle(task)?;
        if let Some(sealed) = task.seal_late(now)? {
            self.submit.send(sealed)?;
            self.busy = true;
        }
        Ok(())
    }
}

/// One batch, and the acknowledgement of what it delivered, as the worker and its sinks do it. Results.
fn feed(task: &mut Task, step: &mut Step, topic: usize, records: Vec<Record>) -> Result<u64, Error> {
    let now = records.last().map_or(Timestamp(START), |r| r.ts);
    task.step(Input::Records { topic, records }, now, step)?;
    step.drops.clear();
    let rows = step.deliveries.len();
    if let Some(last) = step.deliveries.last() {
        let epoch = last.epoch;
        // What a sink would have to write.
        for delivery in step.deliveries.drain(..) {
            std::hint::black_box(delivery.row.record.value.bytes());
        }
        task.step(Input::Acked { epoch, rows: u32::try_from(rows)? }, now, step)?;
    }
    Ok(rows as u64)
}

/// Nanoseconds per record here, and results per record.
fn ours(operators: &str, args: Args) -> Result<(f64, f64), Error> {
    let rows =
        if operators.contains("with: rows") { ", rows: { kafka: { topic: rows }, table: {} }" } else { "" };
    let text = format!(
        "name: bench\nkafka: {{ brokers: \"none:1\" }}\nerrors: {{ on_failure: stop }}\nsources: {{ in: {{ kafka: {{ topic: \
         in }} }}{rows} }}\n{operators}\nsinks: {{ sink: {{ from: out, blackhole: {{}} }} }}\n"
    );
    let topology =
        load("bench.yaml", &text, Mode::Required, &|_| None).map_err(|r| r.render(false))?.topology;
    let dir = tempfile::tempdir()?;
    let env = RocksEnv::new(64 << 20, 64 << 20);
    let backend: Arc<dyn Backend> = Arc::new(RocksBackend::open(dir.path(), &env)?);
    let mut step = Step::default();
    let id = TaskId { sub: 0, partition: 0 };
    let mut task = Task::open(&topology, id, &backend, &TaskOptions::default(), Timestamp(START), &mut step)?;
    let topics: Vec<String> = task.topics().iter().map(ToString::to_string).collect();
    (0..topics.len()).for_each(|topic| task.start_at(topic, 0));
    let mut writer = Writer::start(backend);
    let mut source = Feed { keys: args.keys, seed: 42, made: 0 };
    if let Some(topic) = topics.iter().position(|t| t == "rows") {
        let mut data = Vec::new();
        for key in 0..args.keys {
            let row = source.record(key, key, &mut data);
            feed(&mut task, &mut step, topic, vec![row])?;
        }
        writer.checkpoint(&mut task, Timestamp(START))?;
        writer.settle(&mut task)?;
    }
    let input = topics.iter().position(|t| t == "in").ok_or("no topic")?;
    let (mut next, mut results) = (args.checkpoint, 0);
    let (mut making, mut measured, mut since) = (0.0, 0, None);
    while source.made < args.warm() + args.events {
        if source.made >= args.warm() && since.is_none() {
            since = Some(ProcessTime::now());
        }
        let start = ThreadTime::now();
        let records = source.next();
        if since.is_some() {
            making += start.elapsed().as_secs_f64();
            measured += records.len();
        }
        let now = records.last().map_or(Timestamp(START), |r| r.ts);
        results += feed(&mut task, &mut step, input, records)?;
        if source.made >= next {
            next += args.checkpoint;
            writer.checkpoint(&mut task, now)?;
        }
    }
    writer.settle(&mut task)?;
    let spent = since.map_or(0.0, |since| since.elapsed().as_secs_f64()) - making;
    Ok((spent * 1e9 / measured as f64, results as f64 / source.made as f64))
}

/// The same of a process that prints both.
fn run(command: &mut Command) -> Result<(f64, f64), Error> {
    let out = command.output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(nanos)), Some(Ok(results))) => Ok((nanos, results)),
        _ => Err(format!("{command:?}: {text}{}", String::from_utf8_lossy(&out.stderr)).into()),
    }
}

fn theirs(operator: &str, args: Args, cache_bytes: u64) -> Result<(f64, f64), Error> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka-streams.sh");
    let more = ["--warm", &args.warm().to_string(), "--cache", &cache_bytes.to_string()].map(String::from);
    run(Command::new(script).args(["bench", operator]).args(args.flags()).args(more))
}

fn all(args: Args, only: Option<&str>, alone: bool) -> Result<(), Error> {
    println!(
        "{} records after {} to warm up, {} keys, a checkpoint every {}; M records per CPU second",
        args.events,
        args.warm(),
        args.keys,
        args.checkpoint
    );
    println!(
        "{:<14} {:>10} {:>16} {:>16} {:>8}  {:>6}",
        "", "slackwater", "KS, no cache", "KS, 10 MiB", "ratio*", "goal"
    );
    for (name, _, goal) in OPERATORS {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let (mine, results) =
            run(Command::new(std::env::current_exe()?).args(["--raw", name]).args(args.flags()))?;
        if alone {
            println!("{name:<14} {:>10.3}   ({mine:.0} ns, {results:.2} results per record)", 1e3 / mine);
            continue;
        }
        let (bare, _) = theirs(name, args, 0)?;
        let (cached, _) = theirs(name, args, 10 << 20)?;
        let goal = if goal > 0.0 { format!(">= {goal}") } else { "-".into() };
        println!(
            "{name:<14} {:>10.3} {:>16.3} {:>16.3} {:>8.1}  {goal:>6}",
            1e3 / mine,
            1e3 / bare,
            1e3 / cached,
            bare.min(cached) / mine
        );
    }
    println!("* of ours to the better of the two");
    Ok(())
}

fn main() -> ExitCode {
    let mut args = Args { keys: 100_000, events: 1_000_000, checkpoint: 200_000 };
    let (mut only, mut raw, mut alone) = (None, None, false);
    let mut given = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(name) = given.next() {
        if name == "--ours" {
            alone = true;
            continue;
        }
        let value = given.next().unwrap_or_default();
        let number = value.parse::<u64>().ok().filter(|n| *n > 0);
        match (name.as_str(), number) {
            ("--keys", Some(n)) => args.keys = n,
            ("--events", Some(n)) => args.events = n,
            ("--checkpoint", Some(n)) => args.checkpoint = n,
            ("--only", _) => only = Some(value),
            ("--raw", _) => raw = Some(value),
            _ => {
                eprintln!(
                    "usage: operators [--events N] [--keys N] [--checkpoint N] [--only OPERATOR] [--ours]"
                );
                return ExitCode::from(2);
            }
        }
    }
    let result = match raw {
        None => all(args, only.as_deref(), alone),
        Some(name) => match OPERATORS.iter().find(|(n, ..)| *n == name) {
            None => Err(format!("no operator {name}").into()),
            Some((_, operators, _)) => {
                ours(operators, args).map(|(nanos, results)| println!("{nanos:.1} {results:.3}"))
            }
        },
    };
    if let Err(error) = result {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

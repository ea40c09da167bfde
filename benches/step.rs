//! What one record costs in a task: `Task::step` over records in memory, in batches of 256 as a worker reads them.
//!
//! ```text
//! scripts/bench.sh step [--keys 1000000] [--events 3000000] [--rho 3] [--checkpoint 1000000] [--only NAME]
//! ```
//!
//! First account-sync's hot path, source -> debounce (what fires goes to a sink that takes everything): beside it the
//! bare pending table fed with the same events, so that the difference is what the task adds. `+ checkpoints` seals an
//! epoch every so many events, as a checkpoint a second does at that rate, and another thread writes it to RocksDB.
//! Then stateless nodes: filters and maps, by bare paths and by VRL.
//!
//! Keys are drawn uniformly: 20 bytes; values are JSON objects of 128 bytes; quiet 30 s, max_wait 60 s, `rho` events per
//! key and quiet time, virtual time. Rates are **events per second of CPU time of the thread that runs the task**, the
//! median of five segments after a warm-up of `rho` events per key; making the records is not counted, dropping them is.

mod common;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use bytes::Bytes;
use common::{Error, Feed, KEY, MAX_WAIT, QUIET, RULE, SEGMENTS, VALUE, in_a_process, median, spent};
use cpu_time::ThreadTime;
use slackwater::model::{Origin, Record, Timestamp, Value};
use slackwater::operators::debounce::{Keep, PendingTable};
use slackwater::runtime::{Input, Sealed, Step, Task, TaskId, TaskOptions};
use slackwater::state::{Backend, MemoryBackend, RocksBackend, RocksEnv};
use slackwater::topology::Topology;
use slackwater::yaml::{Mode, load};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BATCH: usize = 256;
/// The virtual time of the first event, ms.
const START: i64 = 1_700_000_000_000;

#[derive(Clone, Copy)]
struct Args {
    keys: u64,
    rho: u64,
    events: usize,
    checkpoint: usize,
}

/// Records as a partition's reader hands them over: keys and values of a batch in one buffer.
fn batch(feed: &mut Feed) -> Vec<Record> {
    let mut data = vec![0; BATCH * (KEY + VALUE)];
    let first = feed.made;
    let times: Vec<i64> = data.chunks_mut(KEY + VALUE).map(|event| feed.event(event, object)).collect();
    let data = Bytes::from(data);
    (first..)
        .zip(times)
        .enumerate()
        .map(|(n, (count, at))| {
            let event = data.slice(n * (KEY + VALUE)..(n + 1) * (KEY + VALUE));
            Record {
                key: Some(event.slice(..KEY)),
                value: Value::Bytes(event.slice(KEY..)),
                ts: Timestamp(START + at),
                origin: Origin { topic: 0, partition: 0, offset: i64::try_from(count).unwrap_or(0) },
                ..Record::default()
            }
        })
        .collect()
}

/// A JSON object that fills the value.
fn object(n: u64, value: &mut [u8]) {
    let amount = n % 1000;
    let paid = !amount.is_multiple_of(10);
    let text = format!(
        r#"{{"event":"changed","n":{n},"amount":{amount},"paid":{paid},"plan":{{"name":"pro"}},"note":""#
    );
    value.fill(b'x');
    value[..text.len()].copy_from_slice(text.as_bytes());
    value[VALUE - 2..].copy_from_slice(b"\"}");
}

/// What a variant measured.
#[derive(Default)]
struct Figures {
    /// Nanoseconds of the task's thread per event.
    hot: f64,
    /// The same, of the thread that writes checkpoints.
    behind: f64,
    notes: String,
}

/// `warm` events, then the segments: `step` handles one batch and says how many nanoseconds behind its own it caused.
fn drive(
    args: Args,
    warm: u64,
    mut step: impl FnMut(Vec<Record>) -> Result<(), Error>,
) -> Result<f64, Error> {
    let mut feed = Feed::new(args.keys, args.rho);
    let mut hot = Vec::new();
    for segment in 0..=SEGMENTS {
        let events = if segment == 0 { usize::try_from(warm)? } else { args.events / SEGMENTS };
        let batches = events.div_ceil(BATCH);
        let mut nanos = 0.0;
        for _ in 0..batches {
            let records = batch(&mut feed);
            let start = ThreadTime::now();
            step(records)?;
            nanos += spent(start);
        }
        if segment > 0 {
            hot.push(nanos / (batches * BATCH) as f64);
        }
    }
    Ok(median(hot))
}

fn topology(nodes: &str) -> Result<Topology, Error> {
    let text =
        format!("name: step\nkafka: {{ brokers: \"none:1\" }}\nerrors: {{ on_failure: stop }}\n{nodes}");
    let loaded =
        load("step.yaml", &text, Mode::Required, &|_| None).map_err(|report| format!("{report:?}"))?;
    Ok(loaded.topology)
}

fn debounce(format: &str) -> String {
    format!(
        "sources: {{ in: {{ kafka: {{ topic: in, format: {format} }} }} }}
operators: {{ settled: {{ from: in, debounce: {{ quiet: {QUIET}ms, max_wait: {MAX_WAIT}ms }} }} }}
sinks: {{ out: {{ from: settled, blackhole: {{}} }} }}
"
    )
}

fn open(topology: &Topology, backend: &Arc<dyn Backend>) -> Result<Task, Error> {
    let mut step = Step::default();
    let id = TaskId { sub: 0, partition: 0 };
    let mut task = Task::open(topology, id, backend, &TaskOptions::default(), Timestamp(START), &mut step)?;
    task.start_at(0, 0);
    Ok(task)
}

/// One batch, and the acknowledgement of what it delivered, as the worker and its sinks do it.
fn feed(task: &mut Task, step: &mut Step, records: Vec<Record>) -> Result<usize, Error> {
    let now = records.last().map_or(Timestamp(START), |r| r.ts);
    task.step(Input::Records { topic: 0, records }, now, step)?;
    let rows = step.deliveries.len();
    if let Some(last) = step.deliveries.last() {
        let epoch = last.epoch;
        step.deliveries.clear();
        task.step(Input::Acked { epoch, rows: u32::try_from(rows)? }, now, step)?;
    }
    Ok(rows)
}

/// A task alone, nothing sealed.
fn ram(args: Args, warm: u64, nodes: &str) -> Result<Figures, Error> {
    let topology = topology(nodes)?;
    let mut task = open(&topology, &(Arc::new(MemoryBackend::default()) as Arc<dyn Backend>))?;
    let mut step = Step::default();
    let (mut out, mut seen) = (0usize, 0usize);
    let hot = drive(args, warm, |records| {
        seen += records.len();
        out += feed(&mut task, &mut step, records)?;
        Ok(())
    })?;
    Ok(Figures { hot, behind: 0.0, notes: format!("{:.2} rows out per event", out as f64 / seen as f64) })
}

/// A task whose epochs are sealed every `checkpoint` events and written by a second thread.
fn durable(args: Args, warm: u64, nodes: &str) -> Result<Figures, Error> {
    let dir = tempfile::tempdir()?;
    let topology = topology(nodes)?;
    let backend: Arc<dyn Backend> =
        Arc::new(RocksBackend::open(dir.path(), &RocksEnv::new(64 << 20, 64 << 20))?);
    let mut task = open(&topology, &backend)?;
    let (submit, jobs) = mpsc::sync_channel::<Sealed>(1);
    let (finished, done) = mpsc::sync_channel::<()>(1);
    let writer = std::thread::spawn(move || -> Result<(f64, usize), Error> {
        let (mut nanos, mut rows) = (0.0, 0);
        for mut sealed in jobs {
            let start = ThreadTime::now();
            sealed.finish();
            backend.write(&sealed.rows)?;
            rows += sealed.rows.len();
            drop(sealed);
            nanos += spent(start);
            if finished.send(()).is_err() {
                break;
            }
        }
        Ok((nanos, rows))
    });
    let mut step = Step::default();
    let (mut seen, mut next, mut writing) = (0usize, args.checkpoint, false);
    let mut pauses = Vec::new();
    let hot = drive(args, warm, |records| {
        let now = records.last().map_or(Timestamp(START), |r| r.ts);
        seen += records.len();
        feed(&mut task, &mut step, records)?;
        if writing && done.try_recv().is_ok() {
            task.applied();
            writing = false;
        }
        if seen >= next {
            next += args.checkpoint;
            if writing {
                // The writer is the bound: wait, which costs no CPU here.
                done.recv()?;
                task.applied();
                writing = false;
            }
            let start = Instant::now();
            if let Some(sealed) = task.seal_late(now)? {
                pauses.push(start.elapsed().as_secs_f64() * 1e3);
                submit.send(sealed)?;
                writing = true;
            }
        }
        Ok(())
    })?;
    drop(submit);
    drop(done);
    let (nanos, rows) = writer.join().map_err(|_| "the writer panicked")??;
    let last = pauses.split_off(pauses.len() / 2);
    let most = last.iter().copied().fold(0.0, f64::max);
    Ok(Figures {
        hot,
        behind: nanos / seen as f64,
        notes: format!(
            "{:.2} rows written per event, {:.2} us each; pause {:.0} ms, at most {most:.0} ms",
            rows as f64 / seen as f64,
            nanos / rows as f64 / 1e3,
            median(last)
        ),
    })
}

/// The table alone, fed with the same records.
fn table(args: Args, warm: u64, warmed: bool) -> Result<Figures, Error> {
    const GROUP: usize = 64;
    let mut table = PendingTable::new(RULE);
    let mut out = Vec::new();
    let mut clock = i64::MIN;
    let hot = drive(args, warm, |records| {
        out.clear();
        for group in records.chunks(GROUP) {
            if warmed {
                table.warm(group.iter().filter_map(|r| r.key.as_deref()));
            }
            for record in group {
                let (Some(key), Value::Bytes(value)) = (&record.key, &record.value) else { continue };
                let at = record.ts.0;
                if at > clock {
                    clock = at;
                    if table.next_deadline().is_some_and(|deadline| deadline <= clock) {
                        table.pop_due(clock, usize::MAX, |fired| {
                            out.extend_from_slice(fired.key);
                            out.extend_from_slice(fired.row.value.unwrap_or_default());
                        });
                    }
                }
                table.upsert(key, at, at, Some(value), b"", Keep::Last);
            }
        }
        black_box(&out);
        Ok(())
    })?;
    Ok(Figures { hot, ..Figures::default() })
}

fn stateless(operators: &str, last: &str) -> String {
    format!(
        "sources: {{ in: {{ kafka: {{ topic: in }} }} }}
operators: {{ {operators} }}
sinks: {{ out: {{ from: {last}, blackhole: {{}} }} }}
"
    )
}

/// JSON checked without being kept, as the source does it.
fn json(args: Args) -> Result<Figures, Error> {
    let hot = drive(args, 0, |records| {
        for record in &records {
            if let Value::Bytes(bytes) = &record.value {
                black_box(serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok());
            }
        }
        Ok(())
    })?;
    Ok(Figures { hot, ..Figures::default() })
}

const VARIANTS: [(&str, &str); 13] = [
    ("table", "pending table, key by key"),
    ("warmed", "pending table, warmed in groups"),
    ("json", "JSON checked (IgnoredAny), nothing else"),
    ("bytes", "task: source (format: bytes) -> debounce"),
    ("debounce", "task: source -> debounce"),
    ("durable", "task: source -> debounce, + checkpoints"),
    ("source", "task: source (format: bytes) -> sink"),
    ("filter", "task: filter `.paid` (bare path)"),
    ("filter-vrl", "task: filter `.amount > 100` (VRL)"),
    ("key", "task: map `key` (bare)"),
    ("filter-key", "task: filter `.paid`, map `key`"),
    ("map-vrl", "task: map `{ n, double }` (VRL)"),
    ("filter-map", "task: filter and map (VRL)"),
];

fn run(variant: &str, args: Args) -> Result<Figures, Error> {
    let warm = args.keys * args.rho;
    let filter_vrl = "rich: { from: in, filter: '.amount > 100' }";
    let map_vrl = "map: '{ \"n\": .n, \"double\": int!(.amount) * 2 }'";
    match variant {
        "table" => table(args, warm, false),
        "warmed" => table(args, warm, true),
        "json" => json(args),
        "bytes" => ram(args, warm, &debounce("bytes")),
        "debounce" => ram(args, warm, &debounce("json")),
        "durable" => durable(args, warm, &debounce("json")),
        "source" => ram(
            args,
            0,
            "sources: { in: { kafka: { topic: in, format: bytes } } }\nsinks: { out: { from: in, blackhole: {} } }\n",
        ),
        "filter" => ram(args, 0, &stateless("paid: { from: in, filter: .paid }", "paid")),
        "filter-vrl" => ram(args, 0, &stateless(filter_vrl, "rich")),
        "key" => ram(args, 0, &stateless("mapped: { from: in, map: key }", "mapped")),
        "filter-key" => ram(
            args,
            0,
            &stateless("paid: { from: in, filter: .paid }, mapped: { from: paid, map: key }", "mapped"),
        ),
        "map-vrl" => ram(args, 0, &stateless(&format!("mapped: {{ from: in, {map_vrl} }}"), "mapped")),
        "filter-map" => {
            ram(args, 0, &stateless(&format!("{filter_vrl}, mapped: {{ from: rich, {map_vrl} }}"), "mapped"))
        }
        other => Err(format!("no variant {other}").into()),
    }
}

/// Runs each variant in a process of its own and prints the table.
fn all(args: Args) -> Result<(), Error> {
    println!(
        "{} keys, {KEY} B keys + {VALUE} B values, rho {}, batches of {BATCH}, a checkpoint every {} events, {} events in {SEGMENTS} segments",
        args.keys, args.rho, args.checkpoint, args.events
    );
    println!("{:<44} {:>9} {:>8} {:>12}", "", "k ev/s", "ns/ev", "writer ns/ev");
    let mut found: Vec<(&str, f64)> = Vec::new();
    for (name, title) in VARIANTS {
        let flag = |flag: &str, value: String| [format!("--{flag}"), value];
        let flags = [
            flag("only", name.to_owned()),
            flag("keys", args.keys.to_string()),
            flag("rho", args.rho.to_string()),
            flag("events", args.events.to_string()),
            flag("checkpoint", args.checkpoint.to_string()),
        ];
        let raw = [flags.as_flattened(), &["--raw".to_owned()]].concat();
        let ([hot, behind], notes) = in_a_process(&raw)?;
        let writer = if behind > 0.0 { format!("{behind:.0}") } else { "-".into() };
        println!("{title:<44} {:>9.0} {hot:>8.0} {writer:>12}  {notes}", 1e6 / hot);
        found.push((name, hot));
    }
    let of = |name: &str| found.iter().find(|(n, _)| *n == name).map_or(f64::NAN, |(_, ns)| *ns);
    println!("\ntime of a task's event over the table's, both warmed or not as they are");
    for name in ["bytes", "debounce", "durable"] {
        println!(
            "{name:<10} {:.2}x the table key by key, {:.2}x warmed",
            of(name) / of("table"),
            of(name) / of("warmed")
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut args = Args { keys: 1_000_000, rho: 3, events: 3_000_000, checkpoint: 1_000_000 };
    let (mut only, mut raw) = (None, false);
    let mut given = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(name) = given.next() {
        if name == "--raw" {
            raw = true;
            continue;
        }
        let value = given.next().unwrap_or_default();
        let number = value.parse::<u64>().ok().filter(|n| *n > 0);
        let size = number.and_then(|n| usize::try_from(n).ok());
        match (name.as_str(), number, size) {
            ("--keys", Some(n), _) => args.keys = n,
            ("--rho", Some(n), _) => args.rho = n,
            ("--events", _, Some(n)) => args.events = n,
            ("--checkpoint", _, Some(n)) => args.checkpoint = n,
            ("--only", _, _) => only = Some(value),
            _ => {
                eprintln!("usage: step [--keys N] [--events N] [--rho N] [--checkpoint N] [--only VARIANT]");
                return ExitCode::from(2);
            }
        }
    }
    let result = match &only {
        None => all(args),
        Some(name) => run(name, args).map(|f| {
            if raw {
                println!("{:.2} {:.2} {}", f.hot, f.behind, f.notes);
            } else {
                println!("{name}: {:.0} ns/event, writer {:.0} ns/event; {}", f.hot, f.behind, f.notes);
            }
        }),
    };
    if let Err(error) = result {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

//! What one event costs in debounce's pending table, beside what an ordinary program would do.
//!
//! ```text
//! P=profile.dev.package.slackwater
//! cargo bench --profile dev --bench debounce --config $P.opt-level=3 --config $P.debug-assertions=false \
//!     --config $P.overflow-checks=false --config $P.codegen-units=1 [-- --keys 1000000 --events 5000000 --rho 3]
//! ```
//!
//! (The development profile already builds every dependency optimised; this builds ours as a release without building
//! them again. Plain `cargo bench` works as well and takes long the first time.)
//!
//! Workload: keys drawn uniformly, 20-byte keys, 128-byte values, quiet 30 s, max_wait 60 s, `rho` events per key and
//! quiet time, virtual time, batches of 4,096 events that lie one after the other as in a fetched batch. What fires is
//! copied to an output buffer. Rates are **events per second of CPU time of the thread that runs the operator**; the
//! median of five segments after a warm-up of `rho` events per key. "all threads" is the CPU time of the whole process
//! but the generator's. Every variant runs in a process of its own (this program calls itself), so that its resident
//! memory is its own.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use common::{Error, Feed, KEY, RULE, SEGMENTS, VALUE, in_a_process, median, spent};
use cpu_time::{ProcessTime, ThreadTime};
use rocksdb::{
    DB, DBCompressionType, IngestExternalFileOptions, Options, SstFileWriter, WriteBatch, WriteOptions,
};
use slackwater::operators::debounce::{DirtyBatch, Keep, PendingTable};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BATCH: usize = 4096;

#[derive(Clone, Copy)]
struct Args {
    keys: u64,
    events: usize,
    rho: u64,
}

/// Events of one batch, one after the other: key, value.
struct Batch {
    feed: Feed,
    bytes: Vec<u8>,
    times: Vec<i64>,
}

impl Batch {
    fn new(args: Args) -> Batch {
        Batch { feed: Feed::new(args.keys, args.rho), bytes: Vec::new(), times: Vec::new() }
    }

    fn next(&mut self, n: usize) {
        self.bytes.resize(BATCH * (KEY + VALUE), b'v');
        self.times.clear();
        for event in self.bytes.chunks_mut(KEY + VALUE).take(n) {
            let number = |n: u64, value: &mut [u8]| value[..8].copy_from_slice(&n.to_le_bytes());
            self.times.push(self.feed.event(event, number));
        }
    }

    fn events(&self) -> impl Iterator<Item = (&[u8], &[u8], i64)> {
        self.bytes.chunks(KEY + VALUE).zip(&self.times).map(|(e, at)| (&e[..KEY], &e[KEY..], *at))
    }
}

/// What a variant measured.
#[derive(Default)]
struct Figures {
    /// Nanoseconds of the operator's thread per event.
    hot: f64,
    /// The same of all threads.
    all: f64,
    /// Resident bytes per pending key.
    rss: f64,
    notes: String,
}

fn rss() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) * 4096.0
}

/// Warms up, measures the segments, asks for the resident memory. `step` handles one batch; `after` ends a segment and
/// says how many keys are pending.
fn drive(
    args: Args,
    mut step: impl FnMut(&Batch) -> Result<(), Error>,
    mut after: impl FnMut() -> Result<usize, Error>,
) -> Result<Figures, Error> {
    let mut batch = Batch::new(args);
    batch.next(BATCH);
    let base = rss();
    batch.feed.made = 0;
    let (mut hot, mut all) = (Vec::new(), Vec::new());
    let mut figures = Figures::default();
    for segment in 0..=SEGMENTS {
        let events =
            if segment == 0 { usize::try_from(args.keys * args.rho)? } else { args.events / SEGMENTS };
        let process = ProcessTime::now();
        let (mut thread, mut feeding) = (0.0, 0.0);
        let mut left = events;
        while left > 0 {
            let n = left.min(BATCH);
            let start = ThreadTime::now();
            batch.next(n);
            feeding += spent(start);
            let start = ThreadTime::now();
            step(&batch)?;
            thread += spent(start);
            left -= n;
        }
        let start = ThreadTime::now();
        let pending = after()?;
        thread += spent(start);
        if segment == 0 {
            figures.rss = (rss() - base) / pending as f64;
        } else {
            hot.push(thread / events as f64);
            all.push((process.elapsed().as_secs_f64() * 1e9 - feeding) / events as f64);
        }
    }
    figures.hot = median(hot);
    figures.all = median(all);
    Ok(figures)
}

/// a: what one writes first. A hash map, and a sorted set of deadlines that every event moves.
fn reference(args: Args) -> Result<Figures, Error> {
    struct Entry {
        value: Vec<u8>,
        count: u64,
        first: i64,
        last: i64,
        deadline: i64,
    }
    let mut map: HashMap<Bytes, Entry, ahash::RandomState> = HashMap::default();
    let mut timers: BTreeSet<(i64, Bytes)> = BTreeSet::new();
    let mut out = Vec::new();
    let pending = std::cell::Cell::new(0);
    drive(
        args,
        |feed| {
            out.clear();
            let mut clock = i64::MIN;
            for (key, value, at) in feed.events() {
                if at > clock {
                    clock = at;
                    while timers.first().is_some_and(|(deadline, _)| *deadline <= clock) {
                        let Some((_, key)) = timers.pop_first() else { break };
                        let Some(entry) = map.remove(&key) else { continue };
                        out.extend_from_slice(&key);
                        out.extend_from_slice(&entry.value);
                        black_box(entry.count);
                    }
                }
                if let Some(entry) = map.get_mut(key) {
                    entry.value.clear();
                    entry.value.extend_from_slice(value);
                    entry.count += 1;
                    entry.last = at;
                    let deadline = RULE.deadline(entry.first, entry.last);
                    if let Some(mut timer) = timers.take(&(entry.deadline, Bytes::copy_from_slice(key))) {
                        timer.0 = deadline;
                        timers.insert(timer);
                    }
                    entry.deadline = deadline;
                } else {
                    let key = Bytes::copy_from_slice(key);
                    let deadline = RULE.deadline(at, at);
                    timers.insert((deadline, key.clone()));
                    map.insert(key, Entry { value: value.to_vec(), count: 1, first: at, last: at, deadline });
                }
            }
            black_box(&out);
            pending.set(map.len());
            Ok(())
        },
        || Ok(pending.get()),
    )
}

/// A checkpoint of the table in one go.
fn whole_checkpoint(table: &mut PendingTable) -> DirtyBatch {
    table.freeze();
    let mut done = None;
    while table.is_frozen() {
        done = done.or(table.copy_frozen(usize::MAX));
    }
    done.unwrap_or_default()
}

/// One batch into the table, as the operator does it: what is due at a record's time fires before the record.
fn feed_table(table: &mut PendingTable, feed: &Batch, out: &mut Vec<u8>, warm: bool) {
    const GROUP: usize = 64;
    out.clear();
    let mut events = feed.events();
    let mut clock = i64::MIN;
    for group in feed.bytes.chunks(GROUP * (KEY + VALUE)) {
        if warm {
            table.warm(group.chunks(KEY + VALUE).map(|e| &e[..KEY]));
        }
        for (key, value, at) in events.by_ref().take(GROUP) {
            if at > clock {
                clock = at;
                if table.next_deadline().is_some_and(|deadline| deadline <= clock) {
                    table.pop_due(clock, usize::MAX, |fired| {
                        out.extend_from_slice(fired.key);
                        out.extend_from_slice(fired.row.value.unwrap_or_default());
                        black_box(fired.row.count);
                    });
                }
            }
            table.upsert(key, at, at, Some(value), b"", Keep::Last);
        }
    }
    black_box(out);
}

/// c: the table alone.
fn table(args: Args, warm: bool) -> Result<Figures, Error> {
    let table = std::cell::RefCell::new(PendingTable::new(RULE));
    let mut out = Vec::new();
    let mut figures = drive(
        args,
        |feed| {
            feed_table(&mut table.borrow_mut(), feed, &mut out, warm);
            Ok(())
        },
        || Ok(table.borrow().len()),
    )?;
    let table = table.into_inner();
    figures.notes =
        format!("{} pending, {} B/key by its own count", table.len(), table.bytes() / table.len().max(1));
    Ok(figures)
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_max_background_jobs(2);
    options.set_write_buffer_size(64 << 20);
    options
}

fn no_wal() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

/// d: the table with a checkpoint after each segment: copied here, sorted and written by a second thread.
fn durable(args: Args, ingest: bool) -> Result<Figures, Error> {
    let dir = tempfile::tempdir()?;
    let table = std::cell::RefCell::new(PendingTable::new(RULE));
    let (to_writer, jobs) = mpsc::sync_channel::<DirtyBatch>(1);
    let path = dir.path().to_owned();
    let writer =
        thread::Builder::new().name("writer".into()).spawn(move || -> Result<(f64, f64), Error> {
            let db = DB::open(&options(), path.join("db"))?;
            let (mut rows, mut cpu) = (0.0, 0.0);
            for (n, mut batch) in jobs.into_iter().enumerate() {
                let start = ThreadTime::now();
                batch.sort();
                if ingest {
                    write_sst(&db, &path.join(format!("{n}.sst")), &batch)?;
                } else {
                    write_batch(&db, &batch)?;
                }
                cpu += spent(start);
                rows += batch.len() as f64;
            }
            Ok((rows, cpu))
        })?;
    let mut out = Vec::new();
    let mut pauses = Vec::new();
    let mut seen = 0usize;
    let mut figures = drive(
        args,
        |feed| {
            let before = seen / 1_000_000;
            seen += feed.times.len();
            feed_table(&mut table.borrow_mut(), feed, &mut out, true);
            if seen / 1_000_000 > before {
                let start = ThreadTime::now();
                let batch = whole_checkpoint(&mut table.borrow_mut());
                pauses.push((spent(start) / 1e6, batch.len()));
                to_writer.send(batch)?;
            }
            Ok(())
        },
        || Ok(table.borrow().len()),
    )?;
    drop(to_writer);
    let (rows, cpu) = writer.join().map_err(|_| "the writer panicked")??;
    let last = pauses.split_off(pauses.len().min(3));
    let pause = median(last.iter().map(|p| p.0).collect());
    let copied = median(last.iter().map(|p| p.1 as f64).collect());
    figures.notes = format!(
        "a checkpoint's copy {pause:.0} ms for {:.2} M rows; writer {:.2} us/row",
        copied / 1e6,
        cpu / rows / 1000.0
    );
    Ok(figures)
}

fn write_sst(db: &DB, path: &Path, batch: &DirtyBatch) -> Result<(), Error> {
    let options = options();
    let mut file = SstFileWriter::create(&options);
    file.open(path)?;
    for (key, row) in batch.iter() {
        match row {
            Some(row) => file.put(key, row)?,
            None => file.delete(key)?,
        }
    }
    file.finish()?;
    let mut how = IngestExternalFileOptions::default();
    how.set_move_files(true);
    db.ingest_external_file_opts(&how, vec![path])?;
    Ok(())
}

fn write_batch(db: &DB, batch: &DirtyBatch) -> Result<(), Error> {
    let mut write = WriteBatch::default();
    for (key, row) in batch.iter() {
        match row {
            Some(row) => write.put(key, row),
            None => write.delete(key),
        }
    }
    db.write_opt(write, &no_wal())?;
    Ok(())
}

/// b: state in RocksDB, read and written for each event; writes in batches of 1,000, no log, no timers at all.
fn rocks(args: Args) -> Result<Figures, Error> {
    let dir = tempfile::tempdir()?;
    let db = DB::open(&options(), dir.path())?;
    let mut row = vec![0; 46 + VALUE];
    let mut key = [0; KEY];
    let mut batch = WriteBatch::default();
    for n in 0..args.keys {
        Feed::key(n, &mut key);
        batch.put(key, &row);
        if batch.len() == 1000 {
            db.write_opt(std::mem::take(&mut batch), &no_wal())?;
        }
    }
    db.write_opt(std::mem::take(&mut batch), &no_wal())?;
    db.flush()?;
    db.compact_range::<&[u8], &[u8]>(None, None);
    let mut overlay: HashMap<Vec<u8>, Vec<u8>, ahash::RandomState> = HashMap::default();
    let mut feed = Batch::new(args);
    let events = (args.events / 25).max(10_000);
    let (mut hot, mut all) = (Vec::new(), Vec::new());
    for _ in 0..SEGMENTS {
        let process = ProcessTime::now();
        let (mut thread, mut feeding) = (0.0, 0.0);
        let mut left = events / SEGMENTS;
        while left > 0 {
            let start = ThreadTime::now();
            feed.next(left.min(BATCH));
            feeding += spent(start);
            let start = ThreadTime::now();
            for (key, value, at) in feed.events() {
                if let Some(row) = overlay.get_mut(key) {
                    row[6..14].copy_from_slice(&at.to_be_bytes());
                    row[46..].copy_from_slice(value);
                    continue;
                }
                if let Some(old) = db.get_pinned(key)? {
                    row.copy_from_slice(&old);
                }
                row[6..14].copy_from_slice(&at.to_be_bytes());
                row[46..].copy_from_slice(value);
                overlay.insert(key.to_vec(), row.clone());
                if overlay.len() == 1000 {
                    for (key, row) in overlay.drain() {
                        batch.put(key, row);
                    }
                    db.write_opt(std::mem::take(&mut batch), &no_wal())?;
                }
            }
            thread += spent(start);
            left -= left.min(BATCH);
        }
        let events = (events / SEGMENTS) as f64;
        hot.push(thread / events);
        all.push((process.elapsed().as_secs_f64() * 1e9 - feeding) / events);
    }
    Ok(Figures {
        hot: median(hot),
        all: median(all),
        rss: 0.0,
        notes: format!("{events} events, keys loaded before"),
    })
}

const VARIANTS: [(&str, &str); 6] = [
    ("a", "a  HashMap + BTreeSet, re-armed per event"),
    ("b", "b  RocksDB get + put per event"),
    ("c1", "   pending table, key by key"),
    ("c", "c  pending table, warmed in groups"),
    ("d1", "   c + checkpoints, write batch"),
    ("d", "d  c + checkpoints, sorted file ingested"),
];

fn run(variant: &str, args: Args) -> Result<Figures, Error> {
    match variant {
        "a" => reference(args),
        "b" => rocks(args),
        "c1" => table(args, false),
        "c" => table(args, true),
        "d1" => durable(args, false),
        "d" => durable(args, true),
        other => Err(format!("no variant {other}").into()),
    }
}

/// Runs each variant in a process of its own and prints the table.
fn all(args: Args) -> Result<(), Error> {
    println!(
        "{} keys, {KEY} B keys + {VALUE} B values, rho {}, quiet 30 s, max_wait 60 s, {} events in {SEGMENTS} segments",
        args.keys, args.rho, args.events
    );
    println!("{:<42} {:>9} {:>8} {:>11} {:>9} {:>9}", "", "M ev/s", "ns/ev", "M ev/s", "ns/ev", "RSS B");
    println!(
        "{:<42} {:>9} {:>8} {:>11} {:>9} {:>9}",
        "", "thread", "thread", "all threads", "all", "per key"
    );
    let mut found: HashMap<&str, Arc<Figures>> = HashMap::new();
    for (name, title) in VARIANTS {
        let flag = |flag: &str, value: String| [format!("--{flag}"), value];
        let flags = [
            flag("variant", name.to_owned()),
            flag("keys", args.keys.to_string()),
            flag("events", args.events.to_string()),
            flag("rho", args.rho.to_string()),
        ];
        let ([hot, all, rss], notes) = in_a_process(flags.as_flattened())?;
        let bytes = if rss > 0.0 { format!("{rss:.0}") } else { "-".into() };
        println!(
            "{title:<42} {:>9.2} {hot:>8.0} {:>11.2} {all:>9.0} {bytes:>9}  {notes}",
            1000.0 / hot,
            1000.0 / all
        );
        found.insert(name, Arc::new(Figures { hot, all, rss, notes }));
    }
    println!("\nratios of events per second of CPU time");
    for (over, under) in [("c", "a"), ("c", "b"), ("d", "a"), ("d", "b"), ("d", "c")] {
        if let (Some(x), Some(y)) = (found.get(over), found.get(under)) {
            println!("{over}/{under}   thread {:>7.1}x   all threads {:>7.1}x", y.hot / x.hot, y.all / x.all);
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut args = Args { keys: 1_000_000, events: 5_000_000, rho: 3 };
    let mut variant = None;
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        // `cargo bench` adds this one.
        if name == "--bench" {
            continue;
        }
        let value = given.next().unwrap_or_default();
        let number = value.parse::<u64>().ok().filter(|n| *n > 0);
        match (name.as_str(), number) {
            ("--keys", Some(n)) => args.keys = n,
            ("--rho", Some(n)) => args.rho = n,
            ("--events", Some(n)) => args.events = usize::try_from(n).unwrap_or(usize::MAX),
            ("--variant", _) => variant = Some(value),
            _ => {
                eprintln!("usage: debounce [--keys N] [--events N] [--rho N] [--variant a|b|c1|c|d1|d]");
                return ExitCode::from(2);
            }
        }
    }
    let result = match &variant {
        None => all(args),
        Some(name) => run(name, args).map(|f| println!("{:.2} {:.2} {:.1} {}", f.hot, f.all, f.rss, f.notes)),
    };
    if let Err(error) = result {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

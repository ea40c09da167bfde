//! account-sync as it is shipped, on a real broker and the Spanner emulator: 20,000 events over 2,000 accounts in 30 s,
//! two instances, 4 partitions, 30 s of quiet, 1,500 calls a second.
//!
//! ```text
//! export KAFKA_BROKERS=... SPANNER_EMULATOR_HOST=...      (scripts/kafka.sh, scripts/spanner.sh)
//! scripts/bench.sh end_to_end [--events N] [--accounts N] [--seconds N] [--limit 1500] [--changelog on|off|both]
//! ```
//!
//! Every 200 ms a watcher looks at what the group has committed, then at what is durable, in this order: committed
//! offsets, the changelog up to its end (`read_committed`), the rows. No event below a committed offset may be in
//! neither of the last two; without a changelog, none may lack its row. What an event's row must hold: the state of its
//! account that the event told of, or a newer one. The run fails when that, or anything else that is promised, is not so.

#![expect(clippy::unwrap_used, reason = "a bench that cannot start says so; shares code with the tests")]

#[expect(dead_code, unused_imports, reason = "a bench uses its own part of what the tests share")]
#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Instance, Setup, World, wait};
use gcloud_gax::conn::Environment;
use gcloud_spanner::client::{Client, ClientConfig};
use gcloud_spanner::statement::Statement;
use rdkafka::config::ClientConfig as KafkaClient;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use slackwater::kafka::{Admin, GroupOffset, KafkaConfig, TopicPartition};
use slackwater::model::{Clock, SystemClock};

const LONG: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 4;
const QUIET: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_millis(200);
/// How far the two clocks of this program may drift apart while it runs, ms.
const DRIFT: i64 = 2;

struct Args {
    events: usize,
    accounts: usize,
    seconds: u64,
    limit: usize,
    changelog: Vec<bool>,
}

/// An account's number and version, wherever its name and `{"n":VERSION}` stand in the bytes.
fn find_event(bytes: &[u8]) -> Option<(String, u64)> {
    let after = |mark: &[u8]| {
        let at = bytes.windows(mark.len()).rposition(|w| w == mark)?;
        let digits: Vec<u8> =
            bytes[at + mark.len()..].iter().copied().take_while(u8::is_ascii_digit).collect();
        String::from_utf8(digits).ok()
    };
    Some((format!("acct-{}", after(b"acct-")?), after(b"{\"n\":")?.parse().ok()?))
}

struct Event {
    account: String,
    version: u64,
    /// Its timestamp, ms.
    ts: i64,
}

/// A topic read from its start, as `read_committed`, without a group.
struct Log {
    consumer: BaseConsumer,
    partitions: Vec<TopicPartition>,
}

impl Log {
    fn open(brokers: &str, topic: &str) -> Log {
        let consumer: BaseConsumer = KafkaClient::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "watcher")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "50")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        for p in 0..PARTITIONS {
            list.add_partition_offset(topic, p, Offset::Offset(0)).unwrap();
        }
        consumer.assign(&list).unwrap();
        Log { consumer, partitions: (0..PARTITIONS).map(|p| TopicPartition::new(topic, p)).collect() }
    }

    /// Reads on until every partition's position has reached `ends`.
    fn read_to(&self, ends: &[i64], mut record: impl FnMut(usize, &rdkafka::message::BorrowedMessage<'_>)) {
        loop {
            match self.consumer.poll(Duration::from_millis(2)) {
                Some(Ok(message)) => {
                    record(usize::try_from(message.partition()).unwrap(), &message);
                    continue;
                }
                Some(Err(e)) => eprintln!("watcher: {e}"),
                None => {}
            }
            let position = self.consumer.position().unwrap();
            let there = self.partitions.iter().zip(ends).all(|(p, end)| {
                *end == 0
                    || matches!(
                        position.find_partition(&p.topic, p.partition).map(|e| e.offset()),
                        Some(Offset::Offset(at)) if at >= *end
                    )
            });
            if there {
                return;
            }
        }
    }
}

/// What every look found.
#[derive(Default)]
struct Found {
    looks: usize,
    /// Looks at which the oldest event without a row was below what is committed: state held it.
    held_by_state: usize,
    violations: Vec<String>,
    /// All events read, by partition.
    events: Vec<Vec<Event>>,
}

struct Watcher {
    group: String,
    admin: Admin,
    source: Log,
    changelog: Option<Log>,
    client: Client,
    runtime: tokio::runtime::Runtime,
    /// Newest row per key of the changelog, as account and version.
    state: BTreeMap<(usize, Vec<u8>), (String, u64)>,
    rows: BTreeMap<String, u64>,
    /// Events below this index have their rows, by partition.
    done: Vec<usize>,
    found: Found,
}

impl Watcher {
    fn new(world: &World, changelog: bool) -> Watcher {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = ClientConfig {
            environment: Environment::Emulator(world.emulator.clone()),
            ..ClientConfig::default()
        };
        let client = runtime.block_on(Client::new(world.database.clone(), config)).unwrap();
        let source = Log::open(&world.brokers, &world.topic);
        let changelog = changelog.then(|| {
            let metadata = source.consumer.fetch_metadata(None, LONG).unwrap();
            let name = metadata
                .topics()
                .iter()
                .map(|t| t.name())
                .find(|t| t.starts_with(&world.name) && t.ends_with("-changelog"))
                .expect("there is a changelog");
            Log::open(&world.brokers, name)
        });
        Watcher {
            group: world.name.clone(),
            admin: Admin::open(&KafkaConfig::new(world.brokers.clone()), LONG).unwrap(),
            source,
            changelog,
            client,
            runtime,
            state: BTreeMap::new(),
            rows: BTreeMap::new(),
            done: vec![0; PARTITIONS as usize],
            found: Found { events: (0..PARTITIONS).map(|_| Vec::new()).collect(), ..Found::default() },
        }
    }

    fn read_rows(&mut self) {
        self.rows = self.runtime.block_on(async {
            let mut tx = self.client.single().await.unwrap();
            let sql = "SELECT AccountId, TO_JSON_STRING(State) FROM Accounts";
            let mut rows = tx.query(Statement::new(sql)).await.unwrap();
            let mut out = BTreeMap::new();
            while let Some(row) = rows.next().await.unwrap() {
                let id: String = row.column(0).unwrap();
                let state: Option<String> = row.column(1).unwrap();
                let state: serde_json::Value = serde_json::from_str(&state.unwrap_or_default()).unwrap();
                out.insert(id, state["version"].as_u64().unwrap_or(0));
            }
            out
        });
    }

    /// One look, in the order that makes it sound: what is durable only grows between the steps.
    fn look(&mut self) {
        let committed: Vec<i64> = self
            .admin
            .committed(&self.group, &self.source.partitions)
            .unwrap()
            .into_iter()
            .map(|offset| match offset {
                GroupOffset::At(next) => next,
                GroupOffset::None | GroupOffset::Pending => 0,
            })
            .collect();
        let events = &mut self.found.events;
        self.source.read_to(&committed, |p, message| {
            let value = message.payload().unwrap();
            let all = [message.key().unwrap(), value].concat();
            let (account, version) = find_event(&all).unwrap();
            assert_eq!(message.offset(), i64::try_from(events[p].len()).unwrap());
            events[p].push(Event { account, version, ts: message.timestamp().to_millis().unwrap() });
        });
        if let Some(log) = &self.changelog {
            let ends = self.admin.end_offsets(&log.partitions).unwrap();
            let state = &mut self.state;
            log.read_to(&ends, |p, message| {
                let key = message.key().unwrap().to_vec();
                let event = message.payload().and_then(|value| find_event(&[&key, value].concat()));
                match event {
                    Some(event) => state.insert((p, key), event),
                    None => state.remove(&(p, key)),
                };
            });
        }
        let mut held: BTreeMap<(usize, &str), u64> = BTreeMap::new();
        for ((p, _), (account, version)) in &self.state {
            let newest = held.entry((*p, account)).or_default();
            *newest = (*newest).max(*version);
        }
        let held: BTreeMap<(usize, String), u64> =
            held.into_iter().map(|((p, account), v)| ((p, account.to_owned()), v)).collect();
        let in_row = |rows: &BTreeMap<String, u64>, e: &Event| rows.get(&e.account) >= Some(&e.version);
        let in_state = |p: usize, e: &Event| held.get(&(p, e.account.clone())) >= Some(&e.version);
        let below = |p: usize| usize::try_from(committed[p]).unwrap();
        let open = |found: &Found, done: &[usize], rows: &BTreeMap<String, u64>| {
            (0..done.len()).any(|p| {
                let events = found.events[p][..below(p)].iter().skip(done[p]);
                events.into_iter().any(|e| !in_row(rows, e) && !in_state(p, e))
            })
        };
        // The rows are only asked where what was seen of them before is not enough.
        if open(&self.found, &self.done, &self.rows) {
            self.read_rows();
        }
        self.found.looks += 1;
        let mut by_state = false;
        #[expect(clippy::needless_range_loop, reason = "`p` is a partition, the index of several lists")]
        for p in 0..self.done.len() {
            for (offset, e) in self.found.events[p].iter().enumerate().take(below(p)).skip(self.done[p]) {
                if in_row(&self.rows, e) {
                    continue;
                }
                by_state = true;
                if !in_state(p, e) {
                    self.found.violations.push(format!(
                        "partition {p}: committed {}, but offset {offset} ({} version {}) is nowhere durable",
                        committed[p], e.account, e.version
                    ));
                }
            }
            while self.found.events[p].get(self.done[p]).is_some_and(|e| in_row(&self.rows, e)) {
                self.done[p] += 1;
            }
        }
        self.found.held_by_state += usize::from(by_state);
    }

    fn run(mut self, stop: &AtomicBool) -> Found {
        while !stop.load(Ordering::Acquire) {
            let began = Instant::now();
            self.look();
            std::thread::park_timeout(EVERY.saturating_sub(began.elapsed()));
        }
        self.look();
        self.found
    }
}

/// CPU seconds of a process so far.
fn cpu(instance: &Instance) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", instance.child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn resident_mb(instance: &Instance) -> f64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", instance.child.id())).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0 / 1e6
}

fn run(args: &Args, changelog: bool) -> bool {
    println!(
        "\nchangelog {}: {} events over {} accounts in {} s, two instances, {PARTITIONS} partitions, quiet 30 s, limit {}/s",
        if changelog { "on" } else { "off" },
        args.events,
        args.accounts,
        args.seconds,
        args.limit
    );
    let world = World::new(Setup {
        quiet: "30s",
        max_wait: "5m",
        limit: format!("{}/s", args.limit).leak(),
        partitions: PARTITIONS,
        extra: if changelog { "" } else { "\nstate: { changelog: off }\n" },
        ..Setup::default()
    });
    let mut one = world.start("one");
    one.wait_ready(LONG);
    let mut two = world.start("two");
    wait("both have two tasks", LONG, || {
        one.metric("slackwater_tasks", "running") == 2.0 && two.metric("slackwater_tasks", "running") == 2.0
    });
    two.wait_ready(LONG);
    let idle = [cpu(&one), cpu(&two)];
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (watcher, stop) = (Watcher::new(&world, changelog), Arc::clone(&stop));
        std::thread::spawn(move || watcher.run(&stop))
    };

    // Both clocks at one moment, the beginning of a millisecond: calls are known by the first, events by the second.
    let before = SystemClock.now().0;
    let (instant, wall) = loop {
        let now = (Instant::now(), SystemClock.now().0);
        if now.1 > before {
            break now;
        }
    };
    let mut seed = 42u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((seed >> 33) % below as u64).unwrap()
    };
    let ticks = usize::try_from(args.seconds * 10).unwrap();
    let mut sent = 0;
    for tick in 0..ticks {
        let until = args.events * (tick + 1) / ticks;
        let mut batch: Vec<String> = Vec::new();
        while sent < until {
            // Each account once, then at random.
            let n = if sent < args.accounts { sent } else { random(args.accounts) };
            batch.push(format!("acct-{n}"));
            sent += 1;
        }
        world.change(&batch);
        let due = Duration::from_millis(100 * (tick as u64 + 1));
        std::thread::park_timeout(due.saturating_sub(instant.elapsed()));
    }
    let fed = instant.elapsed();
    world.wait_synced(LONG);
    let synced = instant.elapsed();
    wait("everything is committed", LONG, || {
        [&one, &two].iter().all(|i| i.metric("slackwater_commit_lag_records", "") == 0.0)
    });
    let spent: f64 = [cpu(&one), cpu(&two)].iter().zip(idle).map(|(now, before)| now - before).sum();
    let resident = resident_mb(&one).max(resident_mb(&two));
    stop.store(true, Ordering::Release);
    let found = watcher.join().unwrap();

    // What should have been: an account's events, cut where it was quiet, are a call each.
    let mut times: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for e in found.events.iter().flatten() {
        times.entry(&e.account).or_default().push(e.ts);
    }
    let quiet = i64::try_from(QUIET.as_millis()).unwrap();
    let mut due: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (account, times) in &times {
        let ends = times.windows(2).filter(|w| w[1] - w[0] >= quiet).map(|w| w[0] + quiet);
        let all = ends.chain(times.last().map(|t| t + quiet)).collect();
        due.insert(account, all);
    }
    let expected: usize = due.values().map(Vec::len).sum();
    let calls = world.api.call_log();
    let mut late: Vec<i64> = Vec::new();
    let (mut early, mut duplicates) = (0, 0);
    let mut made: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, account) in &calls {
        let at = wall + i64::try_from(at.duration_since(instant).as_millis()).unwrap();
        let n = made.entry(account).or_default();
        match due[account.as_str()].get(*n) {
            Some(due) => {
                early += usize::from(at + DRIFT < *due);
                late.push(at - due);
            }
            None => duplicates += 1,
        }
        *n += 1;
    }
    late.sort_unstable();
    let percentile = |p: usize| late.get((late.len() * p / 100).min(late.len().saturating_sub(1))).copied();
    let rows = world.rows();
    let read: usize = found.events.iter().map(Vec::len).sum();
    println!("  events                         {read} (fed in {:.1} s)", fed.as_secs_f64());
    println!("  calls                          {} (a call per settled key: {expected})", calls.len());
    println!("  calls saved                    {:.1} %", 100.0 * (1.0 - calls.len() as f64 / read as f64));
    println!(
        "  rows                           {} of {} accounts, every one its newest state ({:.1} s after the first event)",
        rows.len(),
        times.len(),
        synced.as_secs_f64()
    );
    println!("  most calls in any one second   {} (limit {})", world.api.busiest_second(), args.limit);
    println!(
        "  duplicate calls                {duplicates}; early calls {early}; two calls of a key at once {}",
        world.api.overlaps()
    );
    println!(
        "  call after its deadline        p50 {} ms, p99 {} ms, most {} ms",
        percentile(50).unwrap_or(0),
        percentile(99).unwrap_or(0),
        late.last().copied().unwrap_or(0)
    );
    println!(
        "  committed offsets              {} looks, {} violations; at {} looks committed events were without a row, in state",
        found.looks,
        found.violations.len(),
        found.held_by_state
    );
    println!("  both instances                 {spent:.1} CPU s, at most {resident:.0} MB resident");
    for violation in found.violations.iter().take(5) {
        println!("    {violation}");
    }
    let stopped = [one.stop(LONG), two.stop(LONG)];
    let good = read == args.events
        && rows.len() == times.len()
        && calls.len() == expected
        && duplicates == 0
        && early == 0
        && world.api.overlaps() == 0
        && world.api.busiest_second() <= args.limit
        && found.violations.is_empty()
        && (changelog || found.held_by_state == 0)
        && stopped == [0, 0];
    println!("  {}", if good { "as promised" } else { "NOT AS PROMISED" });
    good
}

fn main() -> ExitCode {
    let mut args =
        Args { events: 20_000, accounts: 2_000, seconds: 30, limit: 1500, changelog: vec![true, false] };
    let mut given = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(name) = given.next() {
        let value = given.next().unwrap_or_default();
        let number = value.parse::<usize>().ok().filter(|n| *n > 0);
        match (name.as_str(), number, value.as_str()) {
            ("--events", Some(n), _) => args.events = n,
            ("--accounts", Some(n), _) => args.accounts = n,
            ("--seconds", Some(n), _) => args.seconds = n as u64,
            ("--limit", Some(n), _) => args.limit = n,
            ("--changelog", _, "on") => args.changelog = vec![true],
            ("--changelog", _, "off") => args.changelog = vec![false],
            ("--changelog", _, "both") => args.changelog = vec![true, false],
            _ => {
                eprintln!(
                    "usage: end_to_end [--events N] [--accounts N] [--seconds N] [--limit N] [--changelog on|off|both]"
                );
                return ExitCode::from(2);
            }
        }
    }
    let mut good = true;
    for changelog in args.changelog.clone() {
        good &= run(&args, changelog);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

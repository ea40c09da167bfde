//! The crash model: random schedules of everything that can happen around a checkpoint, over the production `Task` and
//! a broker in memory.
//!
//! What is real: the task, its operators, its stores, the rules of an assignment (`Assigned`), the rules of the
//! changelog. What stands in: the threads around them (`process/`), Kafka (`MemoryBroker`), tables and the API. What
//! is checked, and when, is in `ledger.rs`.
//!
//! Every seed is a schedule: it draws a topology, how often each thing happens, and what happens when. A topology whose
//! results depend on its records alone (windows, tables, joins on stream time) is compared with a task that reads them
//! in one go; in all others each event is followed from its offset to its result.
//!
//! ```text
//! cargo test --test crash                                               CRASH_SCHEDULES=100000 for more, as `./test long` does;
//!                                                                       CRASH_FRESH_SEED=N: CRASH_FRESH more from N on
//! CRASH_SEED=4711 cargo test --test crash one_seed -- --nocapture       its trace
//! cargo test --test crash mutations -- --nocapture                      which seed finds each fault put in on purpose;
//!                                                                       CRASH_MUTATIONS=20000: tries so many at most
//! ```

mod broker;
mod env;
mod ledger;
mod mutation;
mod process;
mod replay;
mod shape;
mod world;

use std::cell::Cell;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::thread::available_parallelism;
use std::time::Instant;

use env::Tally;
use mutation::Mutation;
use world::World;

/// Schedules of a plain `cargo test`.
const SCHEDULES: u64 = 3_000;
/// Schedules beyond those, of seeds that change with the commit.
const FRESH: u64 = 1_000;
/// Seeds that a plain `cargo test` tries for each mutation at most.
const MUTATION_SEEDS: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

thread_local! {
    /// Panics of this thread are violations, and told as such.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Panics of a schedule are not printed where they happen.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                print(info);
            }
        }));
    });
    QUIET.set(true);
}

/// Runs one schedule. A panic is a violation too: the task asserts as well.
fn run(seed: u64, mutation: Option<Mutation>) -> Result<World, String> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed);
        world.run(mutation).map(|()| world)
    }));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
    })
}

/// Runs it with its trace.
fn trace(seed: u64, mutation: Option<Mutation>) -> String {
    let mut world = World::new(seed);
    world.env.trace = Some(String::new());
    let result = catch_unwind(AssertUnwindSafe(|| world.run(mutation)));
    let mut trace = world.env.trace.take().unwrap_or_default();
    match result {
        Ok(Ok(())) => trace.push_str("ok\n"),
        Ok(Err(violation)) => trace.push_str(&format!("VIOLATION: {violation}\n")),
        Err(_) => trace.push_str("PANIC\n"),
    }
    trace
}

fn fail(seed: u64, violation: &str) -> ! {
    panic!(
        "seed {seed}: {violation}\n\nrun it again with\n    CRASH_SEED={seed} cargo test --test crash one_seed -- --nocapture\n\n\
         what happened:\n{}",
        trace(seed, None)
    );
}

/// What came of many seeds.
#[derive(Default)]
struct Outcome {
    schedules: u64,
    tally: Tally,
    /// The first seed that fails, and how.
    failed: Option<(u64, String)>,
}

/// Runs seeds on all cores until one fails. Then every seed in front of it has been run as well: the same seeds, the
/// same answer, on any number of cores.
fn search(seeds: Range<u64>, mutation: Option<Mutation>) -> Outcome {
    let next = AtomicU64::new(seeds.start);
    let end = AtomicU64::new(seeds.end);
    let all = Mutex::new(Outcome::default());
    let work = || {
        hush();
        let mut mine = Outcome::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                break;
            }
            mine.schedules += 1;
            match run(seed, mutation) {
                Ok(world) => mine.tally.add(&world.env.tally),
                Err(violation) => {
                    end.fetch_min(seed, Ordering::Relaxed);
                    mine.failed = Some((seed, violation));
                    break;
                }
            }
        }
        let mut all = all.lock().expect("nobody panics with it");
        all.schedules += mine.schedules;
        all.tally.add(&mine.tally);
        all.failed = [all.failed.take(), mine.failed].into_iter().flatten().min_by_key(|(seed, _)| *seed);
    };
    std::thread::scope(|scope| {
        for _ in 0..available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    all.into_inner().expect("nobody panics with it")
}

#[test]
fn random_schedules_lose_nothing_and_count_nothing_twice() {
    run_many(number("CRASH_FIRST_SEED").unwrap_or(0), number("CRASH_SCHEDULES").unwrap_or(SCHEDULES));
}

/// The same schedules find the same every time: these are others for each commit.
#[test]
fn schedules_of_this_commit_lose_nothing_and_count_nothing_twice() {
    run_many(number("CRASH_FRESH_SEED").unwrap_or(SCHEDULES), number("CRASH_FRESH").unwrap_or(FRESH));
}

fn run_many(first: u64, schedules: u64) {
    let started = Instant::now();
    let outcome = search(first..first + schedules, None);
    if let Some((seed, violation)) = outcome.failed {
        fail(seed, &violation);
    }
    assert_eq!(outcome.schedules, schedules);
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{schedules} schedules from seed {first} on in {seconds:.1} s, {:.0} a second\na schedule on average: {}",
        schedules as f64 / seconds,
        outcome.tally.mean(schedules)
    );
}

/// Of `CRASH_SEED`, to be looked at; else of the first.
#[test]
fn one_seed() {
    let seed = number("CRASH_SEED").unwrap_or(0);
    let trace = trace(seed, None);
    println!("{trace}");
    assert!(trace.ends_with("ok\n"), "seed {seed} fails");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..40 {
        assert_eq!(trace(seed, None), trace(seed, None), "seed {seed}");
    }
}

#[test]
fn mutations_are_caught() {
    let seeds = number("CRASH_MUTATIONS").unwrap_or(MUTATION_SEEDS);
    let mut escaped = Vec::new();
    for mutation in Mutation::ALL {
        match search(0..seeds, Some(mutation)).failed {
            Some((seed, violation)) => println!("{mutation:?}: seed {seed}: {violation}"),
            None => escaped.push(mutation),
        }
    }
    assert!(escaped.is_empty(), "not caught by {seeds} seeds: {escaped:?}");
}

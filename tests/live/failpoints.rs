//! The process dies between two steps of a checkpoint, at each of the points that `runtime/checkpoint/failpoint.rs` names, and
//! starts again: what it left must be what a run without a crash leaves. (Debug builds only: a release has no
//! failpoints.)
#![cfg(debug_assertions)]
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::fleet::{Until, all_committed, feed_numbers, gathering, numbers};
use crate::common::{Instance, Setup, World, wait};
use slackwater::kafka::TopicSpec;

const LONG: Duration = Duration::from_secs(60);

/// Starts an instance that is to die at `point`, and waits until it has.
fn dies(world: &World, id: &str, point: &str) {
    let mut instance =
        Instance::start_with(world, id, &["--instance-id", id], &[("SLACKWATER_FAILPOINT", point)]);
    let mut code = None;
    wait(&format!("dies at {point}"), LONG, || {
        code = instance.child.try_wait().unwrap();
        code.is_some()
    });
    assert!(instance.text().contains("failpoint"), "{point}: {code:?}: {}", instance.text());
}

/// Starts it again with the same name; how long until it is ready.
fn again(world: &World, id: &str) -> (Instance, Duration) {
    let began = Instant::now();
    let mut instance = Instance::start(world, id, &["--instance-id", id]);
    instance.wait_ready(LONG);
    (instance, began.elapsed())
}

/// Is nothing pending in any of the partitions? A task shows what it has some time after it runs, and before that nothing.
fn nothing_is_pending(instance: &Instance) -> bool {
    let name = "slackwater_debounce_pending_keys";
    let shown =
        instance.get("/metrics").1.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
    shown == usize::try_from(Setup::default().partitions).unwrap() && instance.metric(name, "") == 0.0
}

fn exactly_once(points: &[&str], lose_disk: bool) {
    let world = World::new(Setup::default());
    let out = format!("{}-out", world.name);
    world.admin().create_topics(&[TopicSpec::new(&out, 2)]).unwrap();
    gathering(&world, &out, "");
    let stop = AtomicBool::new(false);
    let (sent, instance) = std::thread::scope(|scope| {
        let until = Until(&stop);
        let feeder = scope.spawn(|| feed_numbers(&world, &stop, Duration::from_millis(100)));
        let lose = || {
            if lose_disk {
                drop(std::fs::remove_dir_all(world.dir.path().join("state-one")));
            }
        };
        for point in points {
            lose();
            dies(&world, "one", point);
            // Half restored it must go on from where it was.
            if !point.starts_with("restoring") {
                lose();
            }
            let (instance, took) = again(&world, "one");
            println!("{point}: ready {} ms after the start of the process", took.as_millis());
            std::thread::park_timeout(Duration::from_secs(1));
            // The next one begins where a plain kill left it.
            instance.kill9();
        }
        let (instance, _) = again(&world, "one");
        drop(until);
        (feeder.join().unwrap(), instance)
    });
    wait("everything is read and committed", LONG, || all_committed(&world));
    wait("nothing is pending", LONG, || nothing_is_pending(&instance));
    assert_eq!(instance.stop(LONG), 0);
    let (seen, disordered) = numbers(&world.read(&out, 2).unwrap());
    let wrong: Vec<u64> = (0..sent).filter(|n| seen.get(n) != Some(&1)).collect();
    assert!(
        wrong.is_empty() && disordered == 0,
        "{points:?}: not once: {wrong:?}; {disordered} out of order"
    );
}

fn accounts(points: &[&str]) {
    let world = World::new(Setup { quiet: "1s", max_wait: "3s", ..Setup::default() });
    world.api.mood(|m| m.latency_ms = 20);
    let stop = AtomicBool::new(false);
    let (changes, instance) = std::thread::scope(|scope| {
        let until = Until(&stop);
        let feeder = scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Acquire) {
                let some: Vec<String> = (n..n + 10).map(|n| format!("acct-{}", n * 7 % 80)).collect();
                world.change(&some);
                n += some.len();
                std::thread::park_timeout(Duration::from_millis(100));
            }
            n
        });
        for point in points {
            dies(&world, "one", point);
            let (instance, took) = again(&world, "one");
            println!("{point}: ready {} ms after the start of the process", took.as_millis());
            std::thread::park_timeout(Duration::from_secs(1));
            instance.kill9();
        }
        let (instance, _) = again(&world, "one");
        drop(until);
        (feeder.join().unwrap(), instance)
    });
    world.wait_synced(LONG);
    assert_eq!(world.api.overlaps(), 0);
    println!("{changes} changes, {} calls, {} superfluous", world.api.calls(), world.api.superfluous());
    assert_eq!(instance.stop(LONG), 0);
}

/// Checkpoints that fail take their tasks back while records, calls and rows are under way, in a process that lives on.
fn taken_back(point: &str) {
    let world = World::new(Setup { quiet: "1s", max_wait: "3s", ..Setup::default() });
    world.api.mood(|m| m.latency_ms = 300);
    let start = |id: &str| {
        let mut instance = Instance::start_with(&world, id, &[], &[("SLACKWATER_FAILPOINT", point)]);
        instance.wait_ready(LONG);
        instance
    };
    let back = |instance: &Instance| instance.text().matches("goes on from its last checkpoint").count();

    let one = start("one");
    for n in 0..80 {
        let some: Vec<String> = (n..n + 10).map(|n| format!("acct-{}", n * 7 % 80)).collect();
        world.change(&some);
        std::thread::park_timeout(Duration::from_millis(100));
    }
    world.wait_synced(LONG);
    println!(
        "{point}: taken back {} times; {} calls, {} superfluous",
        back(&one),
        world.api.calls(),
        world.api.superfluous()
    );
    assert_eq!(world.api.overlaps(), 0, "a task taken back waits for its calls on the wire");
    assert!(back(&one) > 5);
    one.kill9();

    // A sink that is part of the transaction.
    let world = World::new(Setup::default());
    let out = format!("{}-out", world.name);
    world.admin().create_topics(&[TopicSpec::new(&out, 2)]).unwrap();
    gathering(&world, &out, "");
    let mut one = Instance::start_with(&world, "one", &[], &[("SLACKWATER_FAILPOINT", point)]);
    one.wait_ready(LONG);
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let until = Until(&stop);
        let feeder = scope.spawn(|| feed_numbers(&world, &stop, Duration::from_millis(50)));
        std::thread::park_timeout(Duration::from_secs(10));
        drop(until);
        feeder.join().unwrap()
    });
    wait("everything is read and committed", LONG, || all_committed(&world));
    println!("{point}: taken back {} times; {sent} events", back(&one));
    assert!(back(&one) > 5);
    one.kill9();
    // Without failures: a task that is being taken back shows nothing pending, and a stop does not wait for it.
    let (one, _) = again(&world, "one");
    wait("nothing is pending", LONG, || nothing_is_pending(&one));
    assert_eq!(one.stop(LONG), 0);
    let (seen, disordered) = numbers(&world.read(&out, 2).unwrap());
    let wrong: Vec<u64> = (0..sent).filter(|n| seen.get(n) != Some(&1)).collect();
    assert!(wrong.is_empty() && disordered == 0, "{point}: not once: {wrong:?}; {disordered} out of order");
}

#[test]
fn a_checkpoint_that_fails_takes_its_tasks_back() {
    taken_back("failed:3");
}

#[test]
fn a_checkpoint_that_may_have_happened_takes_its_tasks_back() {
    taken_back("doubtful:3");
}

const BEFORE: &[&str] = &["sealed:3", "settled:2", "produced:2", "offsets:1", "offsets:3"];
const AFTER: &[&str] = &["committed:1", "committed:3", "applied:2"];

#[test]
fn exactly_once_in_spite_of_a_crash_before_the_commit() {
    exactly_once(BEFORE, false);
}

#[test]
fn exactly_once_in_spite_of_a_crash_after_the_commit() {
    exactly_once(AFTER, false);
}

#[test]
fn exactly_once_in_spite_of_a_crash_and_a_lost_disk_or_in_a_restore() {
    exactly_once(&["produced:2", "offsets:2", "committed:2", "restoring:1", "restoring:3"], true);
}

#[test]
fn accounts_are_in_step_in_spite_of_a_crash_in_a_checkpoint() {
    accounts(BEFORE);
    accounts(AFTER);
}

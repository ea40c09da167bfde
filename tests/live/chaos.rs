//! A seeded crash driver over the real Kafka and the real binary: instances are killed with -9, lose their disks, come
//! and go, and the broker goes down, all under a steady load. At the end everything settles and the outputs are
//! compared with what went in.
//!
//! `CHAOS_ROUNDS` (4) bad things per topology; `CHAOS_SEED` repeats the choices, not their exact moments. A long run:
//! `CHAOS_ROUNDS=100 cargo test --test live chaos -- --nocapture`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::fleet::{Fleet, Until, all_committed, feed_numbers, gathering, numbers, rounds, seed};
use crate::common::{Instance, OwnServer, Setup, World, arrivals, timings, wait};
use slackwater::kafka::{Admin, KafkaConfig, OutRecord, TopicPartition, TopicSpec, Writer};
use slackwater::model::Headers;

const LONG: Duration = Duration::from_secs(90);

/// A world on a broker of its own.
fn world(setup: Setup) -> (OwnServer, World) {
    let broker = OwnServer::kafka();
    let world = World::new(Setup { brokers: Some(broker.address.clone()), ..setup });
    (broker, world)
}

#[test]
fn accounts_are_in_step_whatever_happens() {
    let (broker, world) = world(Setup { limit: "200/s", max_wait: "4s", ..Setup::default() });
    world.api.mood(|m| m.latency_ms = 30);
    let mut fleet = Fleet::start(&world, &broker, seed());
    let stop = AtomicBool::new(false);
    let events = std::thread::scope(|scope| {
        let _until = Until(&stop);
        let feeder = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Acquire) {
                let group = (sent / 600) % 3;
                let some: Vec<String> =
                    (sent..sent + 20).map(|n| format!("acct-{}", group * 50 + n * 7 % 60)).collect();
                world.change(&some);
                sent += some.len();
                std::thread::park_timeout(Duration::from_millis(150));
            }
            sent
        });
        (0..rounds()).for_each(|_| fleet.round());
        drop(_until);
        feeder.join().unwrap()
    });
    fleet.settle();
    world.wait_synced(LONG);
    fleet.stop_all();
    let own: Vec<_> = world.api.all_overlaps().into_iter().filter(|o| o.others.contains(&o.who)).collect();
    println!(
        "{events} events, {} calls, {} of them gave what was known, {} overlapped another instance's, {} in the busiest second",
        world.api.calls(),
        world.api.superfluous(),
        world.api.overlaps() - own.len(),
        world.api.busiest_second()
    );
    let told: Vec<_> = own
        .iter()
        .map(|o| format!("{:?}: {} by {} besides {:?}", o.at, o.account, o.who, o.others))
        .collect();
    assert!(told.is_empty(), "calls of one account by one instance never overlap: {told:?}");
    assert!(world.api.busiest_second() <= arrivals(200), "the limit holds: {}", world.api.busiest_second());
}

#[test]
fn exactly_once_with_state_is_exactly_once() {
    let (broker, world) = world(Setup::default());
    let out = format!("{}-out", world.name);
    world.admin().create_topics(&[TopicSpec::new(&out, 2)]).unwrap();
    gathering(&world, &out, "");
    let mut fleet = Fleet::start(&world, &broker, seed());
    fleet.freeze_members = true;
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let until = Until(&stop);
        let feeder = scope.spawn(|| feed_numbers(&world, &stop, Duration::from_millis(100)));
        (0..rounds()).for_each(|_| fleet.round());
        drop(until);
        feeder.join().unwrap()
    });
    fleet.settle();
    wait("nothing is pending", LONG, || {
        fleet.metric("slackwater_debounce_pending_keys", "") == 0.0
            && fleet.metric("slackwater_tasks", "running") == 4.0
    });
    fleet.stop_all();
    let (seen, disordered) = numbers(&world.read(&out, 2).unwrap());
    let lost: Vec<u64> = (0..sent).filter(|n| !seen.contains_key(n)).collect();
    let twice: Vec<_> = seen.iter().filter(|(_, n)| **n > 1).map(|(n, times)| (*n, *times)).collect();
    println!("{sent} events, {} lost, {} twice, {disordered} out of order", lost.len(), twice.len());
    assert!(
        lost.is_empty() && twice.is_empty() && disordered == 0,
        "lost {:?}, twice {:?}, out of order {disordered}",
        &lost[..lost.len().min(20)],
        &twice[..twice.len().min(20)]
    );
}

#[test]
fn a_copy_at_least_once_loses_nothing() {
    let (broker, world) = world(Setup::default());
    let out = format!("{}-out", world.name);
    world.admin().create_topics(&[TopicSpec::new(&out, 2)]).unwrap();
    std::fs::write(
        &world.yaml,
        format!(
            "name: {}\nkafka: {{ brokers: \"${{KAFKA_BROKERS}}\", session_timeout: 6s }}\n\
             sources:\n  in: {{ kafka: {{ topic: {} }} }}\n\
             sinks:\n  out: {{ from: in, kafka: {{ topic: {out}, value: '[.]' }} }}\n",
            world.name, world.topic
        ),
    )
    .unwrap();
    let mut fleet = Fleet::start(&world, &broker, seed());
    fleet.freeze_members = true;
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let until = Until(&stop);
        let feeder = scope.spawn(|| feed_numbers(&world, &stop, Duration::from_millis(50)));
        (0..rounds()).for_each(|_| fleet.round());
        drop(until);
        feeder.join().unwrap()
    });
    fleet.settle();
    fleet.stop_all();
    assert!(all_committed(&world));
    let (seen, _) = numbers(&world.read(&out, 2).unwrap());
    let lost: Vec<u64> = (0..sent).filter(|n| !seen.contains_key(n)).collect();
    let again: BTreeMap<usize, usize> = seen.values().fold(BTreeMap::new(), |mut all, n| {
        *all.entry(*n).or_default() += 1;
        all
    });
    println!("{sent} events, {} lost; written N times: events {again:?}", lost.len());
    assert!(lost.is_empty(), "lost {:?}", &lost[..lost.len().min(20)]);
}

/// librdkafka 2.12.1 aborts the process when a coordinator comes back after it gave a question up (see `kafka/ffi.rs`).
#[test]
fn questions_that_nobody_answered_do_not_end_the_process() {
    let broker = OwnServer::kafka();
    let config = KafkaConfig::new(broker.address.clone());
    let admin = Admin::open(&config, Duration::from_millis(500)).unwrap();
    let at = [TopicPartition::new("t", 0)];
    wait("it answers", LONG, || admin.committed("g", &at).is_ok());
    for act in ["stop", "kill"] {
        broker.act(act);
        (0..4).for_each(|_| assert!(admin.committed("g", &at).is_err()));
        broker.act("resume");
        wait("it answers again", LONG, || admin.committed("g", &at).is_ok());
    }
    broker.freeze();
    (0..4).for_each(|_| assert!(admin.committed("g", &at).is_err()));
    broker.thaw();
    wait("it answers again", LONG, || admin.committed("g", &at).is_ok());
}

/// A broker that stood still for longer than its own session in the cluster comes back fenced: for a moment there are
/// topics and no broker. librdkafka 2.12.1 then forgets all brokers and never looks for them again (its issue 5301).
#[test]
fn clients_find_a_cluster_again_that_had_no_broker_for_a_moment() {
    let broker = OwnServer::kafka();
    let config = KafkaConfig::new(broker.address.clone());
    let admin = Admin::open(&config, Duration::from_secs(30)).unwrap();
    admin.create_topics(&[TopicSpec::new("t", 4)]).unwrap();
    wait("the topic is there", LONG, || admin.topics(&["t"]).is_ok_and(|t| t[0].1.is_some()));
    let writer = Writer::open(&config).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let until = Until(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                let record = |n: u64| OutRecord {
                    topic: "t".into(),
                    partition: None,
                    key: Some(n.to_string().into()),
                    value: None,
                    headers: Headers::default(),
                    ts: None,
                };
                let batch: Vec<OutRecord> = (0..20).map(record).collect();
                runtime.block_on(writer.send_all(&batch)).unwrap();
                sent.fetch_add(1, Ordering::AcqRel);
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        for round in 0..rounds().div_ceil(2) {
            broker.freeze();
            std::thread::park_timeout(Duration::from_secs(12));
            broker.thaw();
            let (before, began) = (sent.load(Ordering::Acquire), Instant::now());
            wait("records arrive", Duration::from_secs(30), || sent.load(Ordering::Acquire) > before + 3);
            println!("{round}: on after {} ms", began.elapsed().as_millis());
        }
        drop(until);
    });
}

/// How long a restart and a take-over take. The bounds are those of a busy machine, where it runs beside other tests; with
/// `TIMINGS` set, those that are promised.
#[test]
fn takeovers_are_quick() {
    let promised = timings();
    let within = |what: &str, took: Duration, busy: u64, idle: u64| {
        println!("{what}: {} ms", took.as_millis());
        let bound = Duration::from_secs(if promised { idle } else { busy });
        assert!(took < bound, "{what}: {took:?}, not within {bound:?}");
    };
    let world = World::new(Setup { quiet: "1s", ..Setup::default() });
    let out = format!("{}-out", world.name);
    world.admin().create_topics(&[TopicSpec::new(&out, 2)]).unwrap();
    gathering(&world, &out, "");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _until = Until(&stop);
        scope.spawn(|| feed_numbers(&world, &stop, Duration::from_millis(20)));
        let read = |i: &Instance| i.metric("slackwater_records_in_total", "in");
        let tasks = |i: &Instance| i.metric("slackwater_tasks", "running");

        let mut one = Instance::start(&world, "one", &["--instance-id", "one"]);
        one.wait_ready(LONG);
        wait("it reads", LONG, || read(&one) > 500.0);
        for _ in 0..rounds().min(5) {
            one.kill9();
            let began = Instant::now();
            one = Instance::start(&world, "one", &["--instance-id", "one"]);
            one.wait_ready(LONG);
            within("kill -9, start again with a static id: ready", began.elapsed(), 10, 2);
            wait("it reads", LONG, || read(&one) > 0.0);
            within("kill -9, start again with a static id: reads", began.elapsed(), 10, 2);
            wait("it has committed", LONG, || read(&one) > 300.0);
        }
        for way in ["kill -9", "stop"] {
            let two = Instance::start(&world, way, &[]);
            wait("both have tasks", LONG, || tasks(&one) == 2.0 && tasks(&two) == 2.0);
            std::thread::park_timeout(Duration::from_secs(2));
            let began = Instant::now();
            // The broker gives up on one that was killed after its session's 6 s.
            let session = if way == "kill -9" {
                two.kill9();
                6
            } else {
                assert_eq!(two.stop(LONG), 0);
                within("stop: ended", began.elapsed(), 10, 2);
                0
            };
            wait("the other has all", LONG, || tasks(&one) == 4.0);
            within(
                &format!("{way} of one of two: the other runs all"),
                began.elapsed(),
                session + 12,
                session + 3,
            );
        }
        assert_eq!(one.stop(LONG), 0);
    });
}

/// SIGTERM; how long it took to end, with which exit code.
fn stopped(instance: Instance) -> (i32, Duration) {
    let began = Instant::now();
    let code = instance.stop(LONG);
    (code, began.elapsed())
}

#[test]
fn a_stop_ends_in_time_whatever_is_down() {
    let deadline = Duration::from_secs(8);
    let in_time = |what: &str, (code, took): (i32, Duration)| {
        println!("{what}: stopped after {} ms with code {code}", took.as_millis());
        assert_eq!(code, 0, "{what}");
        assert!(took < deadline + Duration::from_secs(1), "{what}: {took:?}");
    };
    let broker = OwnServer::kafka();
    let spanner = OwnServer::spanner();
    let world = World::new(Setup {
        brokers: Some(broker.address.clone()),
        emulator: Some(spanner.address.clone()),
        ..Setup::default()
    });
    let start = |id: &str| Instance::start(&world, id, &["--stop-deadline", "8s"]);
    let all: Vec<String> = (0..100).map(|n| format!("acct-{n}")).collect();

    // Two at once: each gets partitions of the other while it is on its way out.
    let (mut one, mut two) = (start("one"), start("two"));
    one.wait_ready(LONG);
    two.wait_ready(LONG);
    world.change(&all);
    std::thread::scope(|scope| {
        let both = [scope.spawn(|| stopped(one)), scope.spawn(|| stopped(two))];
        both.into_iter().for_each(|one| in_time("two at once", one.join().unwrap()));
    });

    // Rows on their way into a sink that hangs.
    let mut one = start("one");
    one.wait_ready(LONG);
    world.wait_synced(LONG);
    spanner.freeze();
    world.change(&all);
    wait("rows are on their way", LONG, || world.api.calls() >= 200);
    in_time("a sink that hangs", stopped(one));
    spanner.thaw();

    // Tasks that restore, from a broker that hangs.
    let mut one = start("one");
    one.wait_ready(LONG);
    world.wait_synced(LONG);
    world.change(&all);
    one.kill9();
    let one = start("one");
    std::thread::park_timeout(Duration::from_millis(100));
    broker.freeze();
    std::thread::park_timeout(Duration::from_millis(500));
    in_time("a broker that hangs, at the start", stopped(one));
    broker.thaw();

    // A broker that is gone, with work under way.
    let mut one = start("one");
    one.wait_ready(LONG);
    world.change(&all);
    std::thread::park_timeout(Duration::from_millis(300));
    broker.act("stop");
    in_time("a broker that is gone", stopped(one));
    in_time("a broker that was never there", stopped(start("one")));
    broker.act("resume");

    // And nothing was lost by all that.
    let mut one = start("one");
    one.wait_ready(LONG);
    world.wait_synced(LONG);
    in_time("nothing is down", stopped(one));
}

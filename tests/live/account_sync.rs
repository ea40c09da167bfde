//! account-sync end to end: real Kafka, the real Spanner emulator, the real binary, a real HTTP API, and bad days.

use std::time::{Duration, Instant};

use crate::common::{Instance, OwnServer, Setup, World, arrivals, timings, wait};

const LONG: Duration = Duration::from_secs(60);

fn accounts(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("acct-{i}")).collect()
}

#[test]
fn a_burst_is_one_call_and_one_row() {
    let world = World::new(Setup::default());
    let mut one = world.start("one");
    one.wait_ready(LONG);
    for _ in 0..5 {
        world.change(&accounts(20));
    }
    world.wait_synced(LONG);
    assert_eq!(world.api.calls(), 20, "one call per settled account");
    assert_eq!(world.api.overlaps(), 0);
    wait("offsets are committed", LONG, || one.metric("slackwater_commit_lag_records", "") == 0.0);
    assert_eq!(one.stop(LONG), 0);
    // A second start has nothing left to do.
    let mut again = world.start("one");
    again.wait_ready(LONG);
    assert_eq!(world.api.calls(), 20);
    assert_eq!(again.stop(LONG), 0);
}

#[test]
fn kill_9_ten_times_under_load_loses_nothing() {
    let world = World::new(Setup { quiet: "2s", max_wait: "8s", ..Setup::default() });
    world.api.mood(|m| m.latency_ms = 30);
    let all = accounts(300);
    let mut instance = Some(Instance::start(&world, "one", &["--instance-id", "one"]));
    for round in 0..10 {
        let mut running = instance.take().unwrap();
        running.wait_ready(LONG);
        for batch in all.chunks(60) {
            world.change(batch);
            std::thread::park_timeout(Duration::from_millis(100 + 37 * round));
        }
        running.kill9();
        instance = Some(Instance::start(&world, "one", &["--instance-id", "one"]));
    }
    world.wait_synced(LONG);
    assert_eq!(world.api.overlaps(), 0, "one account's calls never overlap");
    let events = 10 * all.len();
    let calls = world.api.calls();
    println!("{events} events, {calls} calls, {} rows, 10 x kill -9", world.rows().len());
    // A kill comes between a call and its commit at most, so that it is made again; with time to spare, most are saved.
    let most = if timings() { events } else { 2 * events };
    assert!(calls < most, "calls were saved in spite of it: {calls} of {events}");
    assert_eq!(instance.take().unwrap().stop(LONG), 0);
}

#[test]
fn a_lost_disk_is_restored_from_the_changelog() {
    let world = World::new(Setup { quiet: "5s", ..Setup::default() });
    let mut one = world.start("one");
    one.wait_ready(LONG);
    world.change(&accounts(200));
    wait("everything is read and in a checkpoint", LONG, || {
        one.metric("slackwater_debounce_pending_keys", "") == 200.0
            && one.metric("slackwater_commit_lag_records", "") == 0.0
    });
    assert_eq!(world.api.calls(), 0, "nothing has settled yet");
    one.kill9();
    // Another machine: no local state, and the offsets are past every event.
    let mut two = world.start("two");
    two.wait_ready(LONG);
    world.wait_synced(LONG);
    assert_eq!(world.api.calls(), 200);
    assert!(two.text().contains("restored"), "the log says what was restored");
    assert_eq!(two.stop(LONG), 0);
}

#[test]
fn two_instances_share_the_partitions_and_one_takes_over() {
    let world = World::new(Setup { limit: "200/s", ..Setup::default() });
    // Calls are on the wire when partitions move.
    world.api.mood(|m| m.latency_ms = 100);
    let mut one = world.start("one");
    one.wait_ready(LONG);
    let mut two = world.start("two");
    wait("both have tasks", LONG, || {
        let tasks = |i: &Instance| i.metric("slackwater_tasks", "running");
        tasks(&one) == 2.0 && tasks(&two) == 2.0
    });
    two.wait_ready(LONG);
    let all = accounts(600);
    for batch in all.chunks(100) {
        world.change(batch);
    }
    world.wait_synced(LONG);
    assert_eq!(world.api.calls(), 600);
    assert!(
        world.api.busiest_second() <= arrivals(200),
        "the limit holds over both: {}",
        world.api.busiest_second()
    );
    // One goes in order; the other takes its work over, pending keys included.
    world.change(&all);
    assert_eq!(two.stop(LONG), 0);
    world.wait_synced(LONG);
    assert!(
        world.api.busiest_second() <= arrivals(200),
        "the limit holds in the rebalance: {}",
        world.api.busiest_second()
    );
    assert_eq!(world.api.overlaps(), 0);
    // And one is killed.
    let mut three = world.start("three");
    wait("three has tasks", LONG, || three.metric("slackwater_tasks", "running") == 2.0);
    three.wait_ready(LONG);
    world.change(&all);
    three.kill9();
    world.wait_synced(LONG);
    assert!(world.api.busiest_second() <= arrivals(200), "{}", world.api.busiest_second());
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn an_api_that_is_down_slows_the_input_and_loses_nothing() {
    let world = World::new(Setup {
        replace: vec![(
            "rate_limit: accounts-api\n",
            "rate_limit: accounts-api\n      calls_pending_max: 50\n",
        )],
        ..Setup::default()
    });
    let mut one = world.start("one");
    one.wait_ready(LONG);
    world.api.down();
    let down = Instant::now();
    let all = accounts(1000);
    while down.elapsed() < LONG {
        world.change(&all[..500]);
        world.change(&all[500..]);
        std::thread::park_timeout(Duration::from_secs(2));
    }
    let (_, ready) = one.get("/live");
    assert_eq!(ready, "ok\n", "it lives on");
    assert_eq!(one.metric("slackwater_tasks", "running"), 4.0, "the group is kept");
    let pending = one.metric("slackwater_calls_pending", "");
    assert!(pending <= 4.0 * 1100.0, "calls waiting are bounded: {pending}");
    world.api.up();
    world.wait_synced(LONG);
    assert_eq!(world.api.overlaps(), 0);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn retry_after_slows_every_call() {
    let world = World::new(Setup::default());
    let mut one = world.start("one");
    one.wait_ready(LONG);
    world.api.mood(|m| m.throttle_next = 1);
    world.change(&accounts(200));
    world.wait_synced(LONG);
    let at = world.api.throttled_at()[0];
    let early: Vec<u128> = world
        .api
        .call_times()
        .into_iter()
        .filter(|t| *t > at + Duration::from_millis(300) && *t < at + Duration::from_millis(1900))
        .map(|t| (t - at).as_millis())
        .collect();
    assert!(early.is_empty(), "calls in the two seconds after `Retry-After: 2`, ms: {early:?}");
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn bad_records_go_to_the_dead_letter_and_the_rest_goes_on() {
    let world = World::new(Setup::default());
    world.api.mood(|m| m.missing = vec!["acct-3".into()]);
    let mut one = world.start("one");
    one.wait_ready(LONG);
    let huge = "k".repeat(1 << 20);
    world.send(
        &world.topic,
        &[
            (Some(b"acct-1"), Some(b"{not json")),
            (None, Some(b"{\"n\":1}")),
            (Some(huge.as_bytes()), Some(b"{\"n\":1}")),
            (Some(b"acct-2"), None),
        ],
    );
    world.api.set("acct-2", 1);
    world.change(&accounts(10).into_iter().filter(|a| a != "acct-3" && a != "acct-2").collect::<Vec<_>>());
    world.send(&world.topic, &[(Some(b"acct-3"), Some(b"{\"n\":1}"))]);
    world.wait_synced(LONG);
    wait("the dead letters are there", LONG, || world.dead_letters().len() >= 4);
    let letters = world.dead_letters();
    let keys: Vec<&str> = letters.iter().map(|(k, _)| &k[..k.len().min(10)]).collect();
    assert!(keys.contains(&"acct-1") && keys.contains(&"") && keys.contains(&"acct-3"), "{keys:?}");
    assert!(keys.contains(&"kkkkkkkkkk"), "a key of 1 MB does not fit STRING(64): {keys:?}");
    assert_eq!(letters.len(), 4);
    wait("a tombstone is a change like any other", LONG, || world.rows().get("acct-2") == Some(&1));
    assert!(!world.rows().contains_key("acct-3"));
    wait("offsets are committed", LONG, || one.metric("slackwater_commit_lag_records", "") == 0.0);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn a_topic_that_does_not_exist_is_waited_for() {
    let world = World::new(Setup { make_topic: false, ..Setup::default() });
    let mut one = world.start("one");
    wait("the log says it", LONG, || one.text().contains(&format!("`{}` does not exist", world.topic)));
    let (status, body) = one.get("/ready");
    assert_eq!(status, 503);
    assert!(body.contains("does not exist"), "{body}");
    assert_eq!(one.get("/live").0, 200);
    world.admin().create_topics(&[slackwater::kafka::TopicSpec::new(&world.topic, 2)]).unwrap();
    one.wait_ready(LONG);
    world.change(&accounts(5));
    world.wait_synced(LONG);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn a_table_or_column_that_does_not_exist_stops_at_start_with_its_place() {
    for (from, to, place) in
        [("table: Accounts", "table: Acounts", "Acounts"), ("State: .account", "Stat: .account", "Stat")]
    {
        let world = World::new(Setup { replace: vec![(from, to)], ..Setup::default() });
        let out = world
            .command(&["run", world.yaml.to_str().unwrap(), "--admin", "127.0.0.1:0", "--state-dir"])
            .arg(world.dir.path().join("state"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(78), "{text}");
        assert!(text.contains("topology.yaml:") && text.contains(place), "{text}");
    }
}

#[test]
fn an_empty_topic_is_ready_and_idle() {
    let world = World::new(Setup::default());
    let mut one = world.start("one");
    one.wait_ready(LONG);
    assert_eq!(world.api.calls(), 0);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn spanner_that_hangs_for_30_seconds_delays_and_drops_nothing() {
    let own = OwnServer::spanner();
    let world = World::new(Setup { emulator: Some(own.address.clone()), ..Setup::default() });
    let mut one = world.start("one");
    one.wait_ready(LONG);
    world.change(&accounts(50));
    world.wait_synced(LONG);
    own.freeze();
    world.change(&accounts(100));
    std::thread::park_timeout(Duration::from_secs(30));
    assert_eq!(one.get("/live").0, 200);
    own.thaw();
    world.wait_synced(LONG);
    assert_eq!(one.stop(LONG), 0);
}

#[test]
fn a_broker_that_is_gone_for_20_seconds_is_waited_for() {
    let own = OwnServer::kafka();
    let world = World::new(Setup { brokers: Some(own.address.clone()), ..Setup::default() });
    let mut one = world.start("one");
    one.wait_ready(LONG);
    world.change(&accounts(100));
    std::thread::park_timeout(Duration::from_millis(700));
    own.act("stop");
    std::thread::park_timeout(Duration::from_secs(20));
    assert_eq!(one.get("/live").0, 200);
    own.act("resume");
    world.change(&accounts(150));
    world.wait_synced(Duration::from_secs(90));
    assert_eq!(one.stop(LONG), 0);
}

//! Questions without an answer: a connection that is dead and stays open, a broker that stood still, a transaction that
//! somebody left open. What has to wait must not hold up anything else, and goes on when it can:
//! `KAFKA_BROKERS=host:port cargo test --test live stuck`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{OwnServer, Stage, brokers, unique, wait};
use serde_json::{Value as Json, json};
use slackwater::kafka::{
    Admin, GroupMetadata, GroupOffset, KafkaConfig, TopicPartition, TopicSpec, TxnWriter,
};
use slackwater::model::Millis;

const LONG: Duration = Duration::from_secs(60);

/// Stands in front of a broker, and names itself where the broker's answers name the broker.
struct Proxy {
    port: u16,
    /// Counts connections.
    opened: Arc<AtomicU64>,
    /// Connections up to this one get no more answers.
    silent: Arc<AtomicU64>,
}

impl Proxy {
    fn start(broker: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (opened, silent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let broker = broker.to_owned();
        let (count, quiet) = (Arc::clone(&opened), Arc::clone(&silent));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&broker)) else { continue };
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    drop(std::io::copy(&mut from, &mut to));
                    drop(to.shutdown(std::net::Shutdown::Both));
                });
                let (broker, quiet) = (broker.clone(), Arc::clone(&quiet));
                std::thread::spawn(move || drop(answers(server, client, &broker, port, number, &quiet)));
            }
        });
        Proxy { port, opened, silent }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// No connection of now gets an answer any more. None is closed.
    fn silence(&self) {
        self.silent.store(self.opened.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn answers(
    mut server: TcpStream,
    mut client: TcpStream,
    broker: &str,
    port: u16,
    number: u64,
    silent: &AtomicU64,
) -> std::io::Result<()> {
    let (host, broker_port) = broker.rsplit_once(':').unwrap();
    let name = |port: u16| [host.as_bytes(), &i32::from(port).to_be_bytes()].concat();
    let (theirs, ours) = (name(broker_port.parse().unwrap()), name(port));
    loop {
        let mut size = [0; 4];
        server.read_exact(&mut size)?;
        let mut frame = vec![0; u32::from_be_bytes(size) as usize];
        server.read_exact(&mut frame)?;
        if number <= silent.load(Ordering::SeqCst) {
            continue;
        }
        for at in 0..frame.len().saturating_sub(theirs.len() - 1) {
            if frame[at..].starts_with(&theirs) {
                frame[at..at + ours.len()].copy_from_slice(&ours);
            }
        }
        client.write_all(&size)?;
        client.write_all(&frame)?;
    }
}

/// How long until a question is answered again.
fn answered(what: &str, mut ask: impl FnMut() -> Result<(), String>) -> Duration {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(()) => return began.elapsed(),
            Err(e) => println!("{what}: {:.1} s: {e}", began.elapsed().as_secs_f64()),
        }
        assert!(began.elapsed() < Duration::from_secs(40), "{what}: no answer");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn a_client_whose_connections_are_dead_is_made_anew() {
    let name = unique("dead");
    let proxy = Proxy::start(&brokers());
    let admin = Admin::open(&KafkaConfig::new(proxy.address()), Duration::from_secs(2)).unwrap();
    admin.create_topics(&[TopicSpec::new(&name, 1)]).unwrap();
    let at = [TopicPartition::new(name.as_str(), 0)];
    wait("the topic is there", LONG, || admin.end_offsets(&at).is_ok());
    assert_eq!(admin.committed(&name, &at).unwrap(), [GroupOffset::None]);
    for round in 0..3 {
        proxy.silence();
        // This question alone: others would end the connection by their own timeouts.
        let took = answered("offsets of a group", || match admin.committed(&name, &at) {
            Ok(found) => {
                assert_eq!(found, [GroupOffset::None]);
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        });
        println!("round {round}: {took:?}");
        assert!(took < Duration::from_secs(15), "{took:?}");
        proxy.silence();
        let took = answered("ends", || admin.end_offsets(&at).map(drop).map_err(|e| e.to_string()));
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
    // What was given up has ended without a word.
    std::thread::park_timeout(Duration::from_secs(3));
    assert_eq!(admin.committed(&name, &at).unwrap(), [GroupOffset::None]);
}

const COUNT: &str = "name: NAME
kafka: { brokers: \"${KAFKA_BROKERS}\", session_timeout: 6s }
state: { checkpoint: 100ms }
sources: { in: { kafka: { topic: NAME.in } } }
operators: { seen: { from: in, aggregate: { count: {} } } }
sinks: { out: { from: seen, blackhole: {} } }
";

/// More partitions than are restored at a time have to wait.
#[test]
fn partitions_that_wait_hold_up_no_others() {
    let stage = Stage::new("wait", &[("in", 12)], COUNT);
    let mut one = stage.start("one");
    one.wait_ready(LONG);
    stage.send("in", (0..100).map(|n| (format!("k{n}"), json!({}))));
    wait("everything is read", LONG, || one.metric("slackwater_records_in_total", "node=\"in\"") == 100.0);
    assert_eq!(one.stop(LONG), 0);
    // Somebody has died in a transaction with offsets of eight of them.
    let mut config = KafkaConfig::new(brokers());
    config.transaction_timeout = Millis(40_000);
    let mut writer = TxnWriter::open(&config, &stage.name, LONG).unwrap();
    writer.begin().unwrap();
    let offsets: Vec<_> = (0..8).map(|p| (TopicPartition::new(stage.topic("in"), p), 1)).collect();
    let nobody = GroupMetadata::of_nobody(&config, &stage.name).unwrap();
    writer.add_offsets(&offsets, Some(&nobody), LONG).unwrap();
    let mut one = stage.start("one");
    let running = |n: usize| {
        let body: Json = serde_json::from_str(&one.get("/ready").1).unwrap_or_default();
        let tasks = body["tasks"].as_object().cloned().unwrap_or_default();
        tasks.values().filter(|state| **state == "running").count() == n
    };
    wait("the other four run", Duration::from_secs(15), || running(4));
    writer.abort(LONG).unwrap();
    wait("all run", Duration::from_secs(15), || running(12));
    assert!(one.child.try_wait().unwrap().is_none());
    assert_eq!(one.stop(LONG), 0);
}

/// An instance that was under way when its broker stood still for half a minute, with everything restored anew after it.
#[test]
fn an_instance_goes_on_after_its_broker_stood_still() {
    let broker = OwnServer::kafka();
    let config = KafkaConfig::new(broker.address.clone());
    let admin = Admin::open(&config, LONG).unwrap();
    let name = unique("still");
    admin.create_topics(&[TopicSpec::new(format!("{name}.in"), 12)]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let yaml = dir.path().join("still.yaml");
    std::fs::write(&yaml, COUNT.replace("NAME", &name)).unwrap();
    let mut command = crate::common::program();
    command
        .env("KAFKA_BROKERS", &broker.address)
        .env_remove("SLACKWATER_LOG")
        .env_remove("SLACKWATER_STATE_DIR");
    let mut one = crate::common::Instance::spawn(command, &yaml, "one", &[]);
    one.wait_ready(LONG);
    for seconds in [28, 12] {
        broker.freeze();
        std::thread::park_timeout(Duration::from_secs(seconds));
        broker.thaw();
        let began = Instant::now();
        one.wait_ready(LONG);
        println!("ready {:.1} s after {seconds} s", began.elapsed().as_secs_f64());
    }
    assert_eq!(one.stop(LONG), 0);
}

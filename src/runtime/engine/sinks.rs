//! Connects the sinks of a topology: each is checked and gets its driver and lanes; also finds the sinks whose records
//! are part of the checkpoint's transaction.
//!
//! Called by the engine before any record is read. A table or a schema that does not fit is an error of its node; a
//! server that does not answer is waited for.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::start::Start;
use super::wait::{blocking, pause, unless_stopped};
use super::{EngineError, Shared};
use crate::clients::Pace;
use crate::formats::{Formats, WriterError};
use crate::kafka::{Admin, MESSAGE_BYTES_MAX, Writer};
use crate::runtime::calls::limiter::Limiter;
use crate::runtime::delivery::{Fatal, SinkDriver};
use crate::sinks::{KafkaLane, SinkError, Surroundings};
use crate::topology::{Guarantee, Made, NodeKind, Topology};

/// Finds the registry's ids of the schemas that sinks write with; waits while the registry cannot be reached.
pub(super) async fn connect_schemas(
    formats: &Formats,
    shared: &Arc<Shared>,
    stop: &CancellationToken,
) -> Result<(), EngineError> {
    loop {
        match formats.connect_writers().await {
            Ok(()) => {
                shared.go_on();
                return Ok(());
            }
            Err(WriterError::Away(message)) => {
                shared.wait_for(&message);
                pause(stop, shared).await?;
            }
            Err(WriterError::Config { node, field, message }) => {
                return Err(EngineError::Config { node: Some(node), field, message });
            }
        }
    }
}

/// Connects every sink, the dead letter's too; returns their drivers by node.
pub(super) async fn connect(
    start: &Start<'_>,
    limiters: &BTreeMap<String, Arc<Limiter>>,
) -> Result<BTreeMap<usize, SinkDriver>, EngineError> {
    let Start { topology, stand_ins, shared, lanes: tracker, lanes_stop, stop, .. } = start;
    let writer = start.writer.as_ref();
    let names: Arc<Vec<String>> = Arc::new(topology.nodes.iter().map(|n| n.name.clone()).collect());
    let fatal: Fatal = {
        let (shared, names) = (Arc::clone(shared), Arc::clone(&names));
        Arc::new(move |node, error| {
            shared.fail(EngineError::Failed(format!("sink {}: {error}", names[node])));
        })
    };
    let limit = |name: &str| limiters.get(name).map(|limiter| Arc::clone(limiter) as Arc<dyn Pace>);
    let mut out = BTreeMap::new();
    for (n, node) in topology.nodes.iter().enumerate() {
        let NodeKind::Sink(config) = &node.kind else { continue };
        let connection = match stand_ins.sinks.get(&n) {
            Some(connection) => connection.clone(),
            None => loop {
                let env = |name: &str| std::env::var(name).ok();
                match unless_stopped(
                    stop,
                    config.connect(Surroundings {
                        topology: &topology.name,
                        node: &node.name,
                        env: &env,
                        kafka: writer,
                        clients: &shared.clients,
                        limit: &limit,
                    }),
                )
                .await?
                {
                    Ok(connection) => break connection,
                    Err(SinkError::Config { message, column }) => {
                        let field = config.field_of(column.as_deref());
                        return Err(EngineError::Config { node: Some(node.name.clone()), field, message });
                    }
                    Err(SinkError::Retry { message, .. } | SinkError::Refused { message }) => {
                        shared.wait_for(&format!("sink {}: {message}", node.name));
                        pause(stop, shared).await?;
                    }
                }
            },
        };
        // Dead letters of all keys stand in the order in which the records died.
        let count = if node.made == Made::DeadLetter { 1 } else { connection.lanes().max(1) };
        let lanes = (0..count).map(|_| connection.lane()).collect();
        let metrics = shared.metrics.sink(&node.name);
        out.insert(
            n,
            SinkDriver::start((n, &node.name), lanes, &config.batch(), &metrics, &fatal, tracker, lanes_stop),
        );
    }
    shared.go_on();
    Ok(out)
}

/// Sinks whose records are part of the checkpoint's transaction, each with the largest message that its topic takes, in
/// bytes.
pub(super) type Transactional = BTreeMap<usize, (KafkaLane, usize)>;

/// Looks up how large a message of each lane may be. A topic that does not exist yet counts as one of our own.
pub(super) async fn message_limits(
    admin: &Arc<Admin>,
    lanes: BTreeMap<usize, KafkaLane>,
    shared: &Shared,
    stop: &CancellationToken,
) -> Result<Transactional, EngineError> {
    let topics: Vec<String> = lanes.values().map(|lane| lane.topic().to_owned()).collect();
    loop {
        let (asked, names) = (Arc::clone(admin), topics.clone());
        let look = blocking(move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            asked.message_bytes_max(&names)
        });
        match unless_stopped(stop, look).await? {
            Ok(found) => {
                shared.go_on();
                let limits = found.into_iter().map(|found| found.unwrap_or(MESSAGE_BYTES_MAX as usize));
                return Ok(lanes.into_iter().zip(limits).map(|((n, lane), max)| (n, (lane, max))).collect());
            }
            Err(message) => {
                shared.wait_for(&message);
                pause(stop, shared).await?;
            }
        }
    }
}

/// The lanes that turn rows into records of the checkpoint's transaction: always those of repartition topics, since
/// state is exactly once below them too; with `exactly_once` those of every Kafka sink, the dead letter among them.
pub(super) fn transactional_lanes(topology: &Topology, writer: &Arc<Writer>) -> BTreeMap<usize, KafkaLane> {
    let all = topology.settings.guarantee == Guarantee::ExactlyOnce;
    let sinks = topology.nodes.iter().enumerate().filter_map(|(n, node)| match &node.kind {
        NodeKind::Sink(sink) => {
            let ours = node.made_for().is_some() || all && sink.kafka().is_some();
            sink.topic().filter(|_| ours).map(|topic| (n, KafkaLane::new(Arc::clone(writer), topic)))
        }
        NodeKind::Source(_) | NodeKind::Operator(_) => None,
    });
    sinks.collect()
}

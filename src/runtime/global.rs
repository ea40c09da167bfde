//! A global table: the rows of whole topics, the same in every instance. Sans-I/O: records and positions go in, rows are
//! written. The thread that reads the topics is in `global_reader.rs`, the test driver calls it directly.
//!
//! The rows are in a database of their own, without a changelog: the topics are what they can be read from again. One
//! write holds the rows of a batch and the positions behind it, so what is on disk is always what the topics say up to the
//! positions. One thread writes; tasks read the same database through stores that never change anything, so they see a
//! batch whole or not at all, and nothing else orders it with their own records: as in Kafka Streams, a global table is
//! not synchronised by time.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::nodes::SourceNode;
use super::task::TaskError;
use crate::model::{Record, Timestamp};
use crate::operators::{Cx, Effects, Operator, OperatorError, Reason, Reject, Tally};
use crate::state::{Backend, META_POSITIONS, META_SHAPE, Row, StateError, Store, codec};
use crate::topology::{NodeKind, OnFailure, Topology};

/// See the module.
pub struct GlobalTable {
    node: usize,
    name: String,
    topics: Vec<String>,
    source: SourceNode,
    stores: Vec<Store>,
    backend: Arc<dyn Backend>,
    positions: BTreeMap<String, i64>,
    policy: OnFailure,
    effects: Effects,
    tally: Tally,
    rows: Vec<Row>,
}

/// What the positions know a partition by.
fn place(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

impl GlobalTable {
    /// The table of that node over what a database holds; nothing is asked of the topics.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn open(
        topology: &Topology,
        node: usize,
        backend: &Arc<dyn Backend>,
    ) -> Result<GlobalTable, StateError> {
        let (name, kind, table) =
            (&topology.nodes[node].name, &topology.nodes[node].kind, topology.nodes[node].table.as_ref());
        let NodeKind::Source(config) = kind else {
            return Err(StateError(format!("`{name}` is no source")));
        };
        let positions: Vec<(String, i64)> = match backend.get(META_POSITIONS)? {
            Some(bytes) => codec::decode(1, &bytes)?,
            None => Vec::new(),
        };
        let mut source = SourceNode::new(config, &topology.settings.time, table);
        let mut stores = vec![Store::new(name, Arc::clone(backend))];
        let (mut effects, mut tally) = (Effects::default(), Tally::default());
        let at = Timestamp::MIN;
        source.open(&mut Cx::new(at, at, 0, &mut stores, &[0], &mut effects, &mut tally))?;
        Ok(GlobalTable {
            node,
            name: name.clone(),
            topics: config.topics().into_iter().map(str::to_owned).collect(),
            source,
            stores,
            backend: Arc::clone(backend),
            positions: positions.into_iter().collect(),
            policy: topology.settings.errors.policy(),
            effects,
            tally,
            rows: Vec::new(),
        })
    }

    /// Its topics, in the order in which records count them.
    #[must_use]
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// The next offset of a partition that it has not got; 0 where it has nothing.
    #[must_use]
    pub fn position(&self, topic: &str, partition: i32) -> i64 {
        self.positions.get(&place(topic, partition)).copied().unwrap_or(0)
    }

    fn shape(&self) -> Bytes {
        Bytes::from(format!("{} = global table of {}", self.name, self.topics.join(", ")))
    }

    /// Was what is on disk made of the same topics? If not it is of no use.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn fits(&self) -> Result<bool, StateError> {
        let shape = self.backend.get(META_SHAPE)?;
        Ok(shape.is_none_or(|shape| shape == self.shape()))
    }

    /// Takes records in, each partition's in order, and writes them with the positions behind them: topic, partition and
    /// next offset of each partition read. What was dropped. A record that cannot be taken ends it where the policy is
    /// `stop`; else it is dropped: every instance reads it, so it is no dead letter.
    ///
    /// # Errors
    /// The database failed, or a record was refused and the policy is `stop`.
    pub fn apply<'a>(
        &mut self,
        records: impl IntoIterator<Item = Record>,
        next: impl IntoIterator<Item = (&'a str, i32, i64)>,
        now: Timestamp,
    ) -> Result<Vec<Reason>, TaskError> {
        let mut drops = Vec::new();
        for record in records {
            self.tally.records_in += 1;
            let mut cx =
                Cx::new(now, Timestamp::MIN, 0, &mut self.stores, &[0], &mut self.effects, &mut self.tally);
            match self.source.on_record(record, &mut cx) {
                Ok(()) => {}
                Err(OperatorError::Fatal(e)) => return Err(TaskError::State(e)),
                Err(OperatorError::Reject(reject)) => {
                    if self.policy == OnFailure::Stop {
                        return Err(self.refused(*reject));
                    }
                    tracing::warn!(
                        table = self.name,
                        reason = reject.reason.name(),
                        detail = reject.detail,
                        partition = reject.record.origin.partition,
                        offset = reject.record.origin.offset,
                        "a record is not in the global table"
                    );
                    self.tally.drop(reject.reason);
                    drops.push(reject.reason);
                }
            }
            drops.append(&mut self.effects.drops);
            // Nobody reads a global table as a stream.
            self.effects.emits.clear();
        }
        let mut moved = false;
        for (topic, partition, next) in next {
            let before = self.positions.insert(place(topic, partition), next);
            moved |= before != Some(next);
        }
        if moved {
            self.write()?;
        }
        Ok(drops)
    }

    fn write(&mut self) -> Result<(), StateError> {
        self.rows.clear();
        self.stores[0].seal(&mut self.rows);
        let positions: Vec<(String, i64)> =
            self.positions.iter().map(|(at, next)| (at.clone(), *next)).collect();
        self.rows.push((Bytes::from_static(META_POSITIONS), Some(codec::encode(1, &positions)?)));
        self.rows.push((Bytes::from_static(META_SHAPE), Some(self.shape())));
        self.rows.sort_by(|a, b| a.0.cmp(&b.0));
        self.backend.write(&self.rows)?;
        self.stores[0].applied();
        Ok(())
    }

    fn refused(&self, reject: Reject) -> TaskError {
        let origin = reject.record.origin;
        let topic = self.topics.get(usize::from(origin.topic)).map_or("", String::as_str);
        TaskError::Rejected {
            node: self.name.clone(),
            reason: reject.reason.name(),
            detail: reject.detail,
            place: format!(" (topic {topic}, partition {}, offset {})", origin.partition, origin.offset),
        }
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> usize {
        self.node
    }

    /// Takes what was counted since the last time.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }
}

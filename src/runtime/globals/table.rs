//! A global table: the rows of whole topics, the same in every instance. It does no I/O on the topics: records and
//! positions come in as arguments. The thread that reads the topics is in `reader.rs`; the test driver calls this
//! directly.
//!
//! The rows are in a database of their own, without a changelog, since they can be read from the topics again. One
//! write holds the rows of a batch and the positions after it, so the rows on disk always match the positions on disk.
//! One thread writes; tasks read the same database through stores that never write. They see a batch whole or not at
//! all, but when they see it is not coordinated with their own records: as in Kafka Streams, a global table is not
//! synchronised by time.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::formats::Formats;
use crate::model::{Reason, Record, Timestamp};
use crate::operators::table::Table;
use crate::operators::{Answer, Cx, Effects, Operator, OperatorError, Query, Reject, Stores, Tally};
use crate::runtime::task::source::SourceNode;
use crate::runtime::task::{Place, TaskError};
use crate::state::{Backend, META_POSITIONS, META_SHAPE, Row, StateError, Store, codec};
use crate::topology::{NodeKind, OnFailure, Topology};

/// The rows of a global table, written by one thread.
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

/// The rows that a global table has under a key, as its last batch left them.
///
/// # Errors
/// The database cannot be read.
pub fn query_global(
    topology: &Topology,
    node: usize,
    rows: &Arc<dyn Backend>,
    key: &[u8],
) -> Result<Answer, StateError> {
    let Some(config) = &topology.nodes[node].table else { return Ok(Answer::default()) };
    let stores = [Store::new(&topology.nodes[node].name, Arc::clone(rows))];
    let mut query = Query::new(key, Stores::new(&stores, &[0]));
    Table::new(config).query(&mut query)?;
    Ok(query.into_answer())
}

/// The name of a partition in the stored positions.
fn place(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

impl GlobalTable {
    /// The table of this node over a database, without reading its topics.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn open(
        topology: &Topology,
        formats: &Arc<Formats>,
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
        let mut source = SourceNode::new(topology, formats, name, config, table, false);
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

    /// The next offset to read from a partition; 0 if nothing was read.
    #[must_use]
    pub fn position(&self, topic: &str, partition: i32) -> i64 {
        self.positions.get(&place(topic, partition)).copied().unwrap_or(0)
    }

    fn shape(&self) -> Bytes {
        Bytes::from(format!("{} = global table of {}", self.name, self.topics.join(", ")))
    }

    /// Whether the rows on disk are from the same topics. If not, they cannot be used.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn fits(&self) -> Result<bool, StateError> {
        let shape = self.backend.get(META_SHAPE)?;
        Ok(shape.is_none_or(|shape| shape == self.shape()))
    }

    /// Applies records (in order for each partition) and writes the rows together with the positions after them: topic,
    /// partition and next offset of each partition read. Returns what was dropped. A record that is refused ends the
    /// table if the policy is `stop`; otherwise it is dropped, not dead-lettered, because every instance reads it.
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
            // No node reads a global table as a stream.
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
            place: Some(Place {
                topic: topic.to_owned(),
                input: usize::from(origin.topic),
                partition: origin.partition,
                offset: origin.offset,
            }),
        }
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> usize {
        self.node
    }

    /// Takes the counts since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Origin, Value};
    use crate::operators::TableConfig;
    use crate::sources::{KafkaSource, SourceConfig};
    use crate::state::MemoryBackend;
    use crate::topology::{DeadLetter, Errors, Settings, TopologyBuilder};

    fn topology(topics: &[&str], policy: OnFailure) -> Topology {
        let source = SourceConfig::Kafka(KafkaSource {
            topics: Some(topics.iter().map(|topic| (*topic).to_owned()).collect()),
            ..KafkaSource::default()
        });
        let dead_letter = (policy == OnFailure::DeadLetter).then(|| DeadLetter { topic: "dlq".into() });
        let errors = Errors { dead_letter, on_failure: Some(policy) };
        TopologyBuilder::new("t")
            .settings(Settings { errors, ..Settings::default() })
            .table("world", source, TableConfig { global: true, ..TableConfig::default() })
            .build()
            .expect("is sound")
    }

    fn record(topic: u16, partition: i32, offset: i64, key: &str, value: Option<&str>) -> Record {
        let value = value.map_or(Value::Null, |text| Value::Bytes(Bytes::from(text.to_owned())));
        let origin = Origin { topic, partition, offset };
        Record { origin, ..Record::new(key.to_owned(), value, Timestamp(5)) }
    }

    /// Keys of the rows on disk.
    fn keys(backend: &MemoryBackend) -> Vec<String> {
        let rows = backend.snapshot();
        let keys = rows.iter().filter_map(|(key, _)| key.strip_prefix(b"world\0"));
        keys.map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    fn unconnected(topology: &Topology) -> Arc<Formats> {
        Arc::new(Formats::unconnected(&topology.named_schemas))
    }

    #[test]
    fn rows_and_positions_of_all_partitions_are_one_write() {
        let topology = topology(&["a", "b"], OnFailure::Stop);
        assert_eq!((topology.subs.len(), topology.globals()), (0, vec![0]));
        assert_eq!(topology.global_topics(), ["a", "b"]);
        assert!(topology.source_topics().is_empty(), "the group reads none of it");
        assert_eq!(topology.external_topics(), ["a", "b"], "but they have to be there");
        let memory = Arc::new(MemoryBackend::default());
        let backend: Arc<dyn Backend> = Arc::clone(&memory) as Arc<dyn Backend>;
        let mut table = GlobalTable::open(&topology, &unconnected(&topology), 0, &backend).expect("opens");
        assert!(table.fits().expect("reads"), "nothing there fits everything");
        let batch = [
            record(0, 0, 0, "x", Some("1")),
            record(0, 2, 7, "y", Some("2")),
            record(1, 0, 3, "z", Some("3")),
        ];
        let next = [("a", 0, 1), ("a", 2, 8), ("b", 0, 4)];
        assert_eq!(table.apply(batch, next, Timestamp(9)).expect("takes them"), []);
        assert_eq!(keys(&memory), ["x", "y", "z"]);
        table.apply([record(0, 0, 1, "x", None)], [("a", 0, 2)], Timestamp(9)).expect("a tombstone");
        assert_eq!(keys(&memory), ["y", "z"]);
        let before = memory.snapshot();
        table
            .apply(
                [],
                next.map(|(topic, partition, _)| (topic, partition, table_next(topic, partition))),
                Timestamp(9),
            )
            .expect("nothing new");
        assert_eq!(memory.snapshot(), before);
        let again = GlobalTable::open(&topology, &unconnected(&topology), 0, &backend).expect("opens again");
        let at = |topic, partition| again.position(topic, partition);
        assert_eq!((at("a", 0), at("a", 1), at("a", 2), at("b", 0)), (2, 0, 8, 4));
        assert!(again.fits().expect("reads"));
        let other = super::tests::topology(&["a"], OnFailure::Stop);
        let other = GlobalTable::open(&other, &unconnected(&other), 0, &backend).expect("opens");
        assert!(!other.fits().expect("reads"), "it was made of other topics");
    }

    fn table_next(topic: &str, partition: i32) -> i64 {
        match (topic, partition) {
            ("a", 0) => 2,
            ("a", _) => 8,
            _ => 4,
        }
    }

    #[test]
    fn a_record_that_cannot_be_taken_stops_it_or_is_dropped() {
        for policy in [OnFailure::Stop, OnFailure::Skip, OnFailure::DeadLetter] {
            let topology = topology(&["a"], policy);
            let memory = Arc::new(MemoryBackend::default());
            let backend: Arc<dyn Backend> = Arc::clone(&memory) as Arc<dyn Backend>;
            let mut table =
                GlobalTable::open(&topology, &unconnected(&topology), 0, &backend).expect("opens");
            let keyless = Record { key: None, ..record(0, 1, 5, "", Some("1")) };
            let batch = [keyless, record(0, 1, 6, "x", Some("{")), record(0, 1, 7, "y", Some("1"))];
            let result = table.apply(batch, [("a", 1, 8)], Timestamp(9));
            if policy == OnFailure::Stop {
                let error = result.expect_err("stops").to_string();
                assert!(
                    error.contains("world: not_json") && error.contains("topic a, partition 1, offset 6"),
                    "{error}"
                );
                assert_eq!((keys(&memory).len(), table.position("a", 1)), (0, 0), "nothing was written");
                continue;
            }
            assert_eq!(result.expect("goes on"), [Reason::NullKey, Reason::NotJson]);
            assert_eq!(keys(&memory), ["y"]);
            let tally = table.take_tally();
            assert_eq!(
                (tally.records_in, tally.dropped),
                (3, vec![(Reason::NullKey, 1), (Reason::NotJson, 1)])
            );
        }
    }
}

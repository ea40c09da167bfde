//! A partition whose records may need a schema first: they are held back until it is known.
//!
//! A task may not wait, so nothing reaches it whose schema id was not looked up. Records keep their order: the first
//! that has to wait holds back those behind it, of this partition only. What is held is one batch.
//!
//! It also knows up to when it has everything, which of a repartition topic is not for itself to say.

use std::collections::VecDeque;
use std::sync::Arc;

use super::horizon::Upstream;
use crate::formats::{Format, Formats};
use crate::kafka::{Lease, PartitionReader, Polled, ReadError};
use crate::model::{Record, Timestamp, Value};
use crate::topology::{NodeKind, Topology};

/// What the records of one topic need.
#[derive(Clone)]
pub struct Gate {
    formats: Arc<Formats>,
    key: Option<Format>,
    value: Option<Format>,
}

impl Gate {
    /// The gate of a topic of a sub-topology; `None` where its records need no schema.
    #[must_use]
    pub fn of(topology: &Topology, sub: usize, topic: usize) -> Option<Gate> {
        let part = &topology.subs[sub];
        let topic = part.topics.get(topic)?;
        let sources = part.nodes.iter().filter_map(|n| match &topology.nodes[*n].kind {
            NodeKind::Source(source) if source.topics().contains(&topic.as_str()) => Some(source),
            _ => None,
        });
        let mut gate = Gate { formats: Arc::clone(&topology.formats), key: None, value: None };
        for source in sources {
            let schema = |format: Format| Some(format).filter(|f| f.has_schema());
            gate.key = gate.key.or(schema(source.key_format()));
            gate.value = gate.value.or(schema(source.format()));
        }
        (gate.key.is_some() || gate.value.is_some()).then_some(gate)
    }

    /// Is all known that this record needs? If not, it is asked for.
    fn is_open(&self, record: &Record) -> bool {
        let ready = |format: Option<Format>, bytes: Option<&[u8]>| match (format, bytes) {
            (Some(format), Some(bytes)) => self.formats.is_ready(format, bytes),
            _ => true,
        };
        let value = match &record.value {
            Value::Bytes(bytes) => Some(&**bytes),
            Value::Null | Value::Json(_) => None,
        };
        // Both are asked for at once.
        let (key, value) = (ready(self.key, record.key.as_deref()), ready(self.value, value));
        key && value
    }
}

/// See the module. Used like the [`PartitionReader`] in it.
pub struct HeldReader {
    reader: PartitionReader,
    hold: Option<Box<Hold>>,
    upstream: Option<Upstream>,
}

struct Hold {
    gate: Gate,
    held: VecDeque<Record>,
    batch: Vec<Record>,
}

impl HeldReader {
    /// A reader that holds back what `gate` does not let through; `upstream`: of a repartition topic.
    #[must_use]
    pub fn new(reader: PartitionReader, gate: Option<Gate>, upstream: Option<Upstream>) -> HeldReader {
        let hold = |gate| Box::new(Hold { gate, held: VecDeque::new(), batch: Vec::new() });
        HeldReader { reader, hold: gate.map(hold), upstream }
    }

    /// As [`PartitionReader::poll_batch`].
    ///
    /// # Errors
    /// The partition cannot be read now.
    pub fn poll_batch(&mut self, max: usize, out: &mut Vec<Record>) -> Result<Polled, ReadError> {
        let Some(hold) = &mut self.hold else { return self.reader.poll_batch(max, out) };
        let Hold { gate, held, batch } = &mut **hold;
        if held.is_empty() {
            self.reader.poll_batch(max, batch)?;
            held.extend(batch.drain(..));
        }
        let mut records = 0;
        while let Some(record) = held.pop_front_if(|record| gate.is_open(record)) {
            out.push(record);
            records += 1;
        }
        Ok(Polled { records, eof: self.caught_up() })
    }

    /// The first record that waits.
    fn waits(&self) -> Option<&Record> {
        self.hold.as_ref().and_then(|hold| hold.held.front())
    }

    /// As [`PartitionReader::caught_up`].
    #[must_use]
    pub fn caught_up(&self) -> bool {
        self.waits().is_none() && self.reader.caught_up()
    }

    /// Up to when everything that was on its way to this partition has been read; `None`: not so, or nobody knows.
    #[must_use]
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.upstream {
            Some(upstream) => upstream.until(self.next_offset().or(self.start_offset()).unwrap_or(0)),
            None => self.caught_up().then_some(now),
        }
    }

    /// As [`PartitionReader::next_offset`].
    #[must_use]
    pub fn next_offset(&self) -> Option<i64> {
        match self.waits() {
            Some(record) => Some(record.origin.offset),
            None => self.reader.next_offset(),
        }
    }

    /// As [`PartitionReader::start_offset`].
    #[must_use]
    pub fn start_offset(&self) -> Option<i64> {
        self.reader.start_offset()
    }

    /// As [`PartitionReader::lease`].
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.reader.lease()
    }

    /// As [`PartitionReader::seek`].
    ///
    /// # Errors
    /// The partition is not ours any more.
    pub fn seek(&mut self, offset: i64) -> Result<(), ReadError> {
        if let Some(hold) = &mut self.hold {
            hold.held.clear();
        }
        self.reader.seek(offset)
    }
}

//! What must be true: the events, what became of each, and the model of committed state.
//!
//! At every commit each event below the committed offsets is in exactly one place, in a row of the committed state or
//! in a result of a committed epoch that is durable in its sink, and no other event is in any. So no offset is
//! committed without its effect, and no effect counts twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use slackwater::model::{Headers, Origin, Record, SinkRow, Timestamp, Value};
use slackwater::runtime::Sealed;
use slackwater::state::{META_CLOCKS, Row, codec};

use super::replay::{Replay, text};
use super::shape::{EVENT, Named, Shape};

/// A topic and a partition.
pub type Input = (usize, i32);

/// Which life of a task: process, partition, assignment.
pub type Life = (u64, i32, u64);

pub struct Event {
    pub to: Input,
    pub key: Option<Bytes>,
    /// Not JSON: refused by the source.
    pub broken: bool,
    /// Its place among the good events of its key.
    place: usize,
    /// Results of committed epochs that hold it.
    done: u32,
    /// Rows of committed state that hold it.
    pub held: u32,
}

struct Delivered {
    events: Vec<usize>,
    durable: bool,
    /// The sink refused it for good: its dead letter counts instead.
    refused: bool,
    /// Of a shape that replays: what it is.
    text: String,
}

/// One partition's committed state.
#[derive(Default)]
pub struct Committed {
    pub rows: BTreeMap<Bytes, Bytes>,
    /// Next offset by topic.
    pub offsets: BTreeMap<usize, i64>,
    /// Commits so far.
    pub version: u64,
    clocks: BTreeMap<String, i64>,
    /// Of a shape that replays: the results of all epochs.
    pub results: Vec<String>,
}

pub struct Ledger {
    shape: &'static Shape,
    pub events: Vec<Event>,
    /// The good events of a key, in order.
    by_key: BTreeMap<(i32, Bytes), Vec<usize>>,
    by_partition: BTreeMap<i32, Vec<usize>>,
    /// Offsets of the events.
    offsets: Vec<i64>,
    ends: BTreeMap<Input, i64>,
    pub committed: BTreeMap<i32, Committed>,
    deliveries: Vec<Delivered>,
    /// Deliveries that an epoch of a task must see durable.
    epochs: BTreeMap<(Life, u64), Vec<usize>>,
    /// The last event of a key that a task sent to a node.
    sent: BTreeMap<(Life, usize, Bytes), usize>,
    /// Of a shape that replays: a task without a crash, by partition.
    replays: BTreeMap<i32, Replay>,
}

impl Ledger {
    pub fn new(shape: &'static Shape) -> Ledger {
        Ledger {
            shape,
            events: Vec::new(),
            by_key: BTreeMap::new(),
            by_partition: BTreeMap::new(),
            offsets: Vec::new(),
            ends: BTreeMap::new(),
            committed: BTreeMap::new(),
            deliveries: Vec::new(),
            epochs: BTreeMap::new(),
            sent: BTreeMap::new(),
            replays: BTreeMap::new(),
        }
    }

    /// A new event at the end of an input; its record.
    pub fn event(&mut self, to: Input, key: Option<Bytes>, kind: Kind, ts: Timestamp) -> Record {
        let n = self.events.len();
        let end = self.ends.entry(to).or_insert(0);
        self.offsets.push(*end);
        *end += 1;
        let broken = kind == Kind::Broken;
        let mut place = 0;
        if let (Some(key), false) = (&key, broken) {
            let list = self.by_key.entry((to.1, key.clone())).or_default();
            place = list.len();
            list.push(n);
        }
        self.by_partition.entry(to.1).or_default().push(n);
        self.events.push(Event { to, key: key.clone(), broken, place, done: 0, held: 0 });
        let value = match kind {
            Kind::Good => Value::Bytes(Bytes::from(format!("{{\"n\":{n}}}"))),
            Kind::Tombstone => Value::Null,
            Kind::Broken => Value::Bytes(Bytes::from_static(b"{broken")),
        };
        let headers = Headers::new(vec![(EVENT.into(), Bytes::from(n.to_string()))]);
        let record = Record { key, value, ts, headers, ..Record::default() };
        if self.shape.replays() {
            let offset = self.offsets[n];
            let origin = Origin { topic: 0, partition: to.1, offset };
            self.replays
                .entry(to.1)
                .or_insert_with(|| Replay::new(self.shape, to.1))
                .records
                .push(Record { origin, ..record.clone() });
        }
        record
    }

    /// The events that a record or row stands for.
    fn events_of(&self, named: Named) -> Result<Vec<usize>, String> {
        match named {
            Named::Items(items) => Ok(items),
            Named::Last { event, count } => {
                let found = self.events.get(event).ok_or("an event that never was")?;
                if count == 1 {
                    return Ok(vec![event]);
                }
                let key = found.key.clone().ok_or("a count without a key")?;
                let list = &self.by_key[&(found.to.1, key)];
                let start = (found.place + 1).checked_sub(count).ok_or_else(|| {
                    format!("event {event} stands for {count} events, and there were not as many")
                })?;
                Ok(list[start..=found.place].to_vec())
            }
        }
    }

    /// A task wants a row written. Returns the delivery's number.
    pub fn delivered(&mut self, life: Life, node: usize, epoch: u64, row: &SinkRow) -> Result<usize, String> {
        let number = self.deliveries.len();
        if self.shape.replays() {
            self.epochs.entry((life, epoch)).or_default().push(number);
            let (events, text) = (Vec::new(), text(node, row));
            self.deliveries.push(Delivered { events, durable: false, refused: false, text });
            return Ok(number);
        }
        let events = self.events_of(self.shape.named(&row.record))?;
        if self.shape.is_ordered()
            && !self.shape.is_dead_letter(node)
            && let (Some(key), Some(first), Some(last)) = (&row.record.key, events.first(), events.last())
            && let Some(before) = self.sent.insert((life, node, key.clone()), *last)
            && before >= *first
        {
            return Err(format!("node {node} got event {first} of its key after event {before}"));
        }
        if row.reply_to.is_none() {
            self.epochs.entry((life, epoch)).or_default().push(number);
        }
        self.deliveries.push(Delivered { events, durable: false, refused: false, text: String::new() });
        Ok(number)
    }

    /// The last event of a delivery.
    pub fn last_event(&self, delivery: usize) -> Option<usize> {
        self.deliveries[delivery].events.last().copied()
    }

    /// A sink has it. True if it had it before.
    pub fn durable(&mut self, delivery: usize) -> bool {
        std::mem::replace(&mut self.deliveries[delivery].durable, true)
    }

    /// A sink refused it.
    pub fn refused(&mut self, delivery: usize) {
        self.deliveries[delivery].refused = true;
    }

    fn hold(&mut self, key: &[u8], value: &[u8], more: bool) -> Result<(), String> {
        if self.shape.replays() {
            return Ok(());
        }
        if let Some(named) = self.shape.named_in_row(key, value)? {
            for event in self.events_of(named)? {
                let held = &mut self.events[event].held;
                *held = if more { *held + 1 } else { held.saturating_sub(1) };
            }
        }
        Ok(())
    }

    /// One task's part of a transaction that was committed now. `base`: the version of the state it was restored from,
    /// and its own commits since. `rows` and `offsets`: what is in the transaction.
    pub fn commit(
        &mut self,
        life: Life,
        base: u64,
        sealed: &Sealed,
        rows: &[Row],
        offsets: &[(Input, i64)],
    ) -> Result<(), String> {
        let partition = life.1;
        let version = self.committed.entry(partition).or_default().version;
        if self.shape.stateful && base != version {
            return Err(format!(
                "partition {partition}: a commit on top of version {base}, and {version} is committed"
            ));
        }
        for number in self.epochs.remove(&(life, sealed.epoch)).unwrap_or_default() {
            let delivered = &self.deliveries[number];
            if !delivered.durable && !delivered.refused {
                return Err(format!(
                    "epoch {} is committed, and {:?} is in no sink",
                    sealed.epoch, delivered.events
                ));
            }
            if delivered.durable {
                for event in &self.deliveries[number].events {
                    self.events[*event].done += 1;
                }
                if self.shape.replays() {
                    let text = self.deliveries[number].text.clone();
                    self.committed.entry(partition).or_default().results.push(text);
                }
            }
        }
        // Without a changelog rows go with the task.
        for (key, value) in rows.iter().filter(|_| self.shape.stateful) {
            let committed = self.committed.entry(partition).or_default();
            let old = match value {
                Some(value) => committed.rows.insert(key.clone(), value.clone()),
                None => committed.rows.remove(key),
            };
            if let Some(old) = old {
                self.hold(key, &old, false)?;
            }
            if let Some(value) = value {
                self.hold(key, value, true)?;
            }
            if &key[..] == META_CLOCKS {
                self.clocks(partition, value.as_deref())?;
            }
        }
        let committed = self.committed.entry(partition).or_default();
        committed.version += 1;
        for ((topic, _), next) in offsets {
            committed.offsets.insert(*topic, *next);
        }
        Ok(())
    }

    /// The records in a transaction that was committed now.
    pub fn outputs(&mut self, sealed: &Sealed) -> Result<(), String> {
        for (_, row) in &sealed.outputs {
            for event in self.events_of(self.shape.named(&row.record))? {
                self.events[event].done += 1;
            }
        }
        Ok(())
    }

    /// The records of a transaction as rows of an output topic: the events that each stands for.
    pub fn output_rows(&self, sealed: &Sealed) -> Result<Vec<Row>, String> {
        let row = |(_, row): &(usize, SinkRow)| {
            let events: Vec<String> =
                self.events_of(self.shape.named(&row.record))?.iter().map(usize::to_string).collect();
            Ok((Bytes::new(), Some(Bytes::from(events.join(",")))))
        };
        sealed.outputs.iter().map(row).collect()
    }

    /// What a reader of the output topics has seen: each event once.
    pub fn check_outputs(&self, rows: &[Row]) -> Result<(), String> {
        let mut seen = vec![0u32; self.events.len()];
        for (_, value) in rows {
            let text = value.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            for event in text.split(',').filter_map(|n| n.parse::<usize>().ok()) {
                seen[event] += 1;
            }
        }
        for (n, (event, seen)) in self.events.iter().zip(seen).enumerate() {
            if seen != u32::from(event.broken || !self.shape.is_filtered(n)) {
                return Err(format!("a reader of the output sees event {n} {seen} times"));
            }
        }
        Ok(())
    }

    /// Clocks only go forward, crash or not.
    fn clocks(&mut self, partition: i32, row: Option<&[u8]>) -> Result<(), String> {
        let row = row.ok_or("the clocks are gone")?;
        let clocks: Vec<(String, i64)> = codec::decode(1, row).map_err(|e| e.to_string())?;
        let clocks: BTreeMap<String, i64> = clocks.into_iter().collect();
        let committed = self.committed.entry(partition).or_default();
        for (node, old) in &committed.clocks {
            let new = clocks.get(node).copied().unwrap_or(i64::MIN);
            if new < *old {
                return Err(format!("the clock of {node} went back from {old} to {new}"));
            }
        }
        committed.clocks = clocks;
        Ok(())
    }

    /// Is every event of a partition where it must be, after a commit?
    pub fn check(&mut self, partition: i32) -> Result<(), String> {
        let committed = &self.committed[&partition];
        if let Some(replay) = self.replays.get_mut(&partition) {
            return replay.check(committed);
        }
        for &n in self.by_partition.get(&partition).into_iter().flatten() {
            let event = &self.events[n];
            let below = self.offsets[n] < committed.offsets.get(&event.to.0).copied().unwrap_or(0);
            let once = below && (event.broken || !self.shape.is_filtered(n));
            let found = event.done + event.held;
            if self.shape.forgets {
                if once && found == 0 {
                    return Err(format!(
                        "event {n} is below the committed offset of {:?} and in no result",
                        event.to
                    ));
                }
                continue;
            }
            if found != u32::from(once) {
                let side = if below { "below" } else { "behind" };
                return Err(format!(
                    "event {n} is {side} the committed offset of {:?}; it is in {} results and {} rows",
                    event.to, event.done, event.held
                ));
            }
        }
        Ok(())
    }

    /// Restored rows are those of the committed epochs, byte for byte.
    pub fn check_restored(&self, partition: i32, rows: &[(Bytes, Bytes)]) -> Result<(), String> {
        let empty = BTreeMap::new();
        let want = self.committed.get(&partition).map_or(&empty, |c| &c.rows);
        let same =
            want.len() == rows.len() && want.iter().zip(rows).all(|((k, v), (rk, rv))| k == rk && v == rv);
        if same {
            return Ok(());
        }
        let show = |k: &Bytes| String::from_utf8_lossy(k).into_owned();
        let restored: BTreeMap<&Bytes, &Bytes> = rows.iter().map(|(k, v)| (k, v)).collect();
        let missing: Vec<String> = want.keys().filter(|k| !restored.contains_key(k)).map(show).collect();
        let extra: Vec<String> =
            restored.keys().filter(|k| !want.contains_key(**k)).map(|k| show(k)).collect();
        let other: Vec<String> = want
            .iter()
            .filter(|(k, v)| restored.get(k).is_some_and(|r| r != v))
            .map(|(k, _)| show(k))
            .collect();
        Err(format!(
            "partition {partition}: the restored state is not the committed one: missing {missing:?}, extra {extra:?}, \
             other {other:?}"
        ))
    }

    /// Is everything read, committed and out of state?
    pub fn is_drained(&self) -> bool {
        let read = self.ends.iter().all(|((topic, partition), end)| {
            self.committed.get(partition).and_then(|c| c.offsets.get(topic)) == Some(end)
        });
        read && self.events.iter().all(|e| e.held == 0)
    }

    /// At the end each event is in exactly one result.
    pub fn check_end(&self) -> Result<(), String> {
        if self.shape.replays() {
            return Ok(());
        }
        for (n, event) in self.events.iter().enumerate() {
            let want = u32::from(event.broken || !self.shape.is_filtered(n));
            let done = if self.shape.forgets { event.done.min(want) } else { event.done };
            if (done, event.held) != (want, 0) {
                return Err(format!(
                    "at the end event {n} is in {} results and {} rows",
                    event.done, event.held
                ));
            }
        }
        for (partition, committed) in &self.committed {
            if let Some(key) = committed.rows.keys().find(|k| k.first() != Some(&0)) {
                let key = String::from_utf8_lossy(key);
                return Err(format!("at the end partition {partition} still has the row {key}"));
            }
        }
        Ok(())
    }

    /// The last event of a key that a table shows at the end.
    pub fn last_of_key(&self, key: &Bytes) -> Option<usize> {
        let all = self.by_key.iter().filter(|((_, k), _)| k == key).flat_map(|(_, list)| list);
        all.copied().filter(|n| !self.shape.is_filtered(*n)).max()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Good,
    Tombstone,
    Broken,
}

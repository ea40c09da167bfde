//! Kafka as the checkpoint protocol sees it, in memory and step by step.
//!
//! Input logs, one changelog, one consumer group with committed offsets, transactional producers. It knows no time and
//! no threads: the caller decides when a marker is written, when a transaction times out, when the group rebalances.
//! These properties, on which checkpoints depend, are right:
//!
//! - A transaction is all or nothing, but it becomes visible piece by piece: its end is answered first, then each
//!   partition it touched gets its marker, in any order ([`MemoryBroker::write_marker`]). Markers and aborted rows take
//!   offsets. `read_committed` stops in front of the first open transaction.
//! - A producer that takes an id over ends what its last owner left open, and fences it.
//! - Offsets are refused to a member that has missed a rebalance, and only to it: who owns a partition is not asked.
//! - Any call may fail before it did anything, or after it did all of it and only its answer was lost: [`Faults`].
//! - Compaction keeps the last row of each key, and drops deletions once they are old enough.

use std::collections::{BTreeMap, BTreeSet};

use slackwater::model::Record;
use slackwater::state::Row;

/// A small seeded generator (splitmix64): the same numbers on every machine and in every release.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `below` - 1; 0 for 0.
    pub fn below(&mut self, below: usize) -> usize {
        let below = below.max(1) as u64;
        usize::try_from(((self.roll() >> 32) * below) >> 32).unwrap_or(0)
    }

    /// True so often in a thousand times.
    pub fn chance(&mut self, permille: u32) -> bool {
        self.below(1000) < permille as usize
    }
}

/// How often calls fail, in a thousand times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Before they did anything.
    pub refused: u32,
    /// After they did all of it: the answer is lost.
    pub unanswered: u32,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BrokerError {
    /// Another producer has the id, or the transaction was ended for this one.
    #[error("fenced")]
    Fenced,
    /// The member has missed a rebalance.
    #[error("illegal generation")]
    IllegalGeneration,
    /// The last transaction's markers are not all written: try again.
    #[error("concurrent transactions")]
    Concurrent,
    /// No answer came: nothing was done, or all of it.
    #[error("no answer")]
    NoAnswer,
}

/// A partition of an input topic.
pub type Input = (usize, i32);

/// What the group has committed on a partition, as a reader that wants stable offsets sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommittedOffset {
    /// Nothing.
    None,
    /// The next offset.
    At(i64),
    /// An offset is in a transaction that has not ended here yet.
    Pending,
}

struct Entry {
    offset: i64,
    row: Row,
    /// The transaction that wrote it, until its marker is here.
    txn: Option<u64>,
}

#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
    next: i64,
    /// First offset of each transaction without marker.
    open: BTreeMap<u64, i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Log(i32),
    Offsets,
}

struct Txn {
    number: u64,
    rows: BTreeSet<i32>,
    offsets: Vec<(Input, i64)>,
    /// `Some(commit)`: ended; these places wait for their markers.
    end: Option<bool>,
    waiting: Vec<Place>,
}

#[derive(Default)]
struct Producer {
    epoch: u64,
    txn: Option<Txn>,
}

/// The broker of the crash model.
#[derive(Default)]
pub struct MemoryBroker {
    inputs: BTreeMap<Input, Vec<Record>>,
    logs: BTreeMap<i32, Log>,
    generation: u64,
    committed: BTreeMap<Input, i64>,
    producers: BTreeMap<u64, Producer>,
    txns: u64,
    faults: Faults,
    dice: Option<Dice>,
}

impl MemoryBroker {
    /// An empty broker whose calls fail by a plan: the same seed and calls, the same failures.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> MemoryBroker {
        MemoryBroker { faults, dice: Some(Dice::new(seed)), ..MemoryBroker::default() }
    }

    /// From now on nothing fails.
    pub fn heal(&mut self) {
        self.faults = Faults::default();
    }

    fn refused(&mut self) -> Result<(), BrokerError> {
        let permille = self.faults.refused;
        self.fault(permille)
    }

    fn answered(&mut self) -> Result<(), BrokerError> {
        let permille = self.faults.unanswered;
        self.fault(permille)
    }

    fn fault(&mut self, permille: u32) -> Result<(), BrokerError> {
        let failed = permille > 0 && self.dice.as_mut().is_some_and(|dice| dice.chance(permille));
        if failed { Err(BrokerError::NoAnswer) } else { Ok(()) }
    }

    /// Appends a record to an input; its offset is set.
    pub fn append(&mut self, to: Input, mut record: Record) {
        let log = self.inputs.entry(to).or_default();
        record.origin.topic = u16::try_from(to.0).unwrap_or(u16::MAX);
        record.origin.partition = to.1;
        record.origin.offset = length(log.len());
        log.push(record);
    }

    /// Up to `max` records from an offset on.
    #[must_use]
    pub fn read(&self, from: Input, offset: i64, max: usize) -> &[Record] {
        let log = self.inputs.get(&from).map_or(&[][..], Vec::as_slice);
        let start = usize::try_from(offset).unwrap_or(0).min(log.len());
        &log[start..(start + max).min(log.len())]
    }

    /// The end of an input.
    #[must_use]
    pub fn input_end(&self, of: Input) -> i64 {
        self.inputs.get(&of).map_or(0, |log| length(log.len()))
    }

    /// The group's generation: a member knows it once it has taken part in the last rebalance.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A rebalance.
    pub fn rebalance(&mut self) {
        self.generation += 1;
    }

    /// Commits offsets outside of any transaction.
    ///
    /// # Errors
    /// The member's generation is not the group's, or a fault.
    pub fn commit_offsets(&mut self, generation: u64, offsets: &[(Input, i64)]) -> Result<(), BrokerError> {
        self.refused()?;
        if generation != self.generation {
            return Err(BrokerError::IllegalGeneration);
        }
        self.committed.extend(offsets.iter().copied());
        self.answered()
    }

    /// The committed offset, or that one is pending.
    #[must_use]
    pub fn committed(&self, of: Input) -> CommittedOffset {
        let pending = |p: &Producer| {
            p.txn.as_ref().is_some_and(|t| {
                t.offsets.iter().any(|(at, _)| *at == of)
                    && (t.end.is_none() || t.waiting.contains(&Place::Offsets))
            })
        };
        if self.producers.values().any(pending) {
            return CommittedOffset::Pending;
        }
        self.committed.get(&of).map_or(CommittedOffset::None, |next| CommittedOffset::At(*next))
    }

    /// The committed offset as a careless reader sees it: what is pending is not looked at.
    #[must_use]
    pub fn committed_unstable(&self, of: Input) -> Option<i64> {
        self.committed.get(&of).copied()
    }

    /// Takes a transactional id: its open transaction is aborted, its last owner is fenced. Returns the epoch that
    /// every call must carry.
    ///
    /// # Errors
    /// `Concurrent`: markers of its last transaction are missing. A fault.
    pub fn init(&mut self, id: u64) -> Result<u64, BrokerError> {
        self.refused()?;
        self.expire(id);
        let producer = self.producers.entry(id).or_default();
        if producer.txn.is_some() {
            return Err(BrokerError::Concurrent);
        }
        producer.epoch += 1;
        let epoch = producer.epoch;
        self.answered()?;
        Ok(epoch)
    }

    /// The open transaction of an id is aborted and its owner fenced, as after `transaction.timeout.ms`.
    pub fn expire(&mut self, id: u64) {
        let producer = self.producers.entry(id).or_default();
        if producer.txn.as_ref().is_some_and(|t| t.end.is_none()) {
            producer.epoch += 1;
            end(producer, false);
        }
    }

    /// Ids with a transaction that is not ended.
    #[must_use]
    pub fn open_transactions(&self) -> Vec<u64> {
        let open = |p: &&Producer| p.txn.as_ref().is_some_and(|t| t.end.is_none());
        self.producers.iter().filter(|(_, p)| open(p)).map(|(id, _)| *id).collect()
    }

    fn txn(&mut self, id: u64, epoch: u64) -> Result<&mut Txn, BrokerError> {
        let producer = self.producers.entry(id).or_default();
        if producer.epoch != epoch {
            return Err(BrokerError::Fenced);
        }
        if producer.txn.as_ref().is_some_and(|t| t.end.is_some()) {
            return Err(BrokerError::Concurrent);
        }
        let number = &mut self.txns;
        Ok(producer.txn.get_or_insert_with(|| {
            *number += 1;
            Txn {
                number: *number,
                rows: BTreeSet::new(),
                offsets: Vec::new(),
                end: None,
                waiting: Vec::new(),
            }
        }))
    }

    /// Produces rows to a partition of the changelog, in the producer's transaction. Returns the offset behind them.
    ///
    /// # Errors
    /// Fenced, concurrent, or a fault: then the transaction must be aborted.
    pub fn produce(&mut self, id: u64, epoch: u64, partition: i32, rows: &[Row]) -> Result<i64, BrokerError> {
        self.refused()?;
        let txn = self.txn(id, epoch)?;
        txn.rows.insert(partition);
        let number = txn.number;
        let log = self.logs.entry(partition).or_default();
        log.open.entry(number).or_insert(log.next);
        for row in rows {
            log.entries.push(Entry { offset: log.next, row: row.clone(), txn: Some(number) });
            log.next += 1;
        }
        let next = log.next;
        self.answered()?;
        Ok(next)
    }

    /// Adds offsets to the producer's transaction.
    ///
    /// # Errors
    /// Fenced, concurrent, the wrong generation, or a fault: then the transaction must be aborted.
    pub fn send_offsets(
        &mut self,
        id: u64,
        epoch: u64,
        generation: u64,
        offsets: &[(Input, i64)],
    ) -> Result<(), BrokerError> {
        self.refused()?;
        let illegal = generation != self.generation;
        let txn = self.txn(id, epoch)?;
        if illegal {
            return Err(BrokerError::IllegalGeneration);
        }
        txn.offsets.extend(offsets.iter().copied());
        self.answered()
    }

    /// Ends the producer's transaction. Its markers are written later.
    ///
    /// # Errors
    /// Fenced: it was ended otherwise. Concurrent. A fault: whether it was ended is not known.
    pub fn end(&mut self, id: u64, epoch: u64, commit: bool) -> Result<(), BrokerError> {
        self.refused()?;
        let producer = self.producers.entry(id).or_default();
        if producer.epoch != epoch {
            return Err(BrokerError::Fenced);
        }
        match producer.txn.as_ref().map(|t| t.end) {
            // Nothing was written: nothing to end.
            None => {}
            Some(None) => end(producer, commit),
            Some(Some(was)) if was == commit => {}
            Some(Some(_)) => return Err(BrokerError::Fenced),
        }
        self.answered()
    }

    /// Has the producer's transaction been committed, markers or not?
    #[must_use]
    pub fn is_committed(&self, id: u64, epoch: u64) -> bool {
        self.producers
            .get(&id)
            .is_some_and(|p| p.epoch == epoch && p.txn.as_ref().is_some_and(|t| t.end == Some(true)))
    }

    /// Markers that ended transactions wait for.
    #[must_use]
    pub fn missing_markers(&self) -> usize {
        self.producers.values().filter_map(|p| p.txn.as_ref()).map(|t| t.waiting.len()).sum()
    }

    /// Writes the `n`-th of the missing markers.
    pub fn write_marker(&mut self, mut n: usize) {
        for producer in self.producers.values_mut() {
            let Some(txn) = &mut producer.txn else { continue };
            if n >= txn.waiting.len() {
                n -= txn.waiting.len();
                continue;
            }
            let commit = txn.end == Some(true);
            match txn.waiting.remove(n) {
                Place::Log(partition) => {
                    let log = self.logs.entry(partition).or_default();
                    log.open.remove(&txn.number);
                    log.next += 1;
                    if commit {
                        for entry in log.entries.iter_mut().filter(|e| e.txn == Some(txn.number)) {
                            entry.txn = None;
                        }
                    } else {
                        log.entries.retain(|e| e.txn != Some(txn.number));
                    }
                }
                Place::Offsets if commit => self.committed.extend(txn.offsets.iter().copied()),
                Place::Offsets => {}
            }
            if txn.waiting.is_empty() {
                producer.txn = None;
            }
            return;
        }
    }

    /// The end of a changelog partition, whatever is open in front of it.
    #[must_use]
    pub fn end_offset(&self, partition: i32) -> i64 {
        self.logs.get(&partition).map_or(0, |log| log.next)
    }

    /// The end of a changelog partition as `read_committed` sees it: in front of the first open transaction.
    #[must_use]
    pub fn stable_offset(&self, partition: i32) -> i64 {
        self.logs.get(&partition).map_or(0, Log::stable)
    }

    /// Up to `max` committed rows of a changelog partition from `from` on, and the offset behind what was looked at.
    #[must_use]
    pub fn read_changelog(&self, partition: i32, from: i64, max: usize) -> (Vec<Row>, i64) {
        let Some(log) = self.logs.get(&partition) else { return (Vec::new(), from) };
        let stable = log.stable();
        let mut rows = Vec::new();
        for entry in log.entries.iter().filter(|e| (from..stable).contains(&e.offset) && e.txn.is_none()) {
            if rows.len() == max {
                return (rows, entry.offset);
            }
            rows.push(entry.row.clone());
        }
        (rows, stable.max(from))
    }

    /// Compacts a changelog partition as far as no transaction is open: the last row of each key stays, and a deletion
    /// only from the offset `deletions_from` on.
    pub fn compact(&mut self, partition: i32, deletions_from: i64) {
        let Some(log) = self.logs.get_mut(&partition) else { return };
        let stable = log.stable();
        let mut last = BTreeMap::new();
        for entry in log.entries.iter().filter(|e| e.offset < stable) {
            last.insert(entry.row.0.clone(), entry.offset);
        }
        log.entries.retain(|e| {
            let deleted = e.row.1.is_none() && e.offset < deletions_from;
            e.offset >= stable || last.get(&e.row.0) == Some(&e.offset) && !deleted
        });
    }
}

impl Log {
    fn stable(&self) -> i64 {
        self.open.values().copied().min().unwrap_or(self.next)
    }
}

fn end(producer: &mut Producer, commit: bool) {
    if let Some(txn) = &mut producer.txn {
        txn.end = Some(commit);
        txn.waiting = txn.rows.iter().map(|p| Place::Log(*p)).collect();
        if !txn.offsets.is_empty() {
            txn.waiting.push(Place::Offsets);
        }
        if txn.waiting.is_empty() {
            producer.txn = None;
        }
    }
}

fn length(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn row(key: &'static str, value: Option<&'static str>) -> Row {
        (Bytes::from(key), value.map(Bytes::from))
    }

    fn text(rows: &[Row]) -> String {
        let one = |(k, v): &Row| {
            let v = v.as_ref().map_or("-".into(), |v| String::from_utf8_lossy(v).into_owned());
            format!("{}={v}", String::from_utf8_lossy(k))
        };
        rows.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    const P: Input = (0, 0);

    #[test]
    fn a_transaction_is_seen_place_by_place_and_open_ones_hide_what_is_behind() {
        let mut broker = MemoryBroker::default();
        let one = broker.init(1).unwrap();
        let two = broker.init(2).unwrap();
        assert_eq!(broker.produce(1, one, 0, &[row("a", Some("1"))]), Ok(1));
        assert_eq!(broker.produce(2, two, 0, &[row("b", Some("1"))]), Ok(2));
        broker.send_offsets(2, two, 0, &[(P, 7)]).unwrap();
        assert_eq!(broker.committed(P), CommittedOffset::Pending);
        broker.end(2, two, true).unwrap();
        assert_eq!(broker.missing_markers(), 2);
        broker.write_marker(1);
        assert_eq!(broker.committed(P), CommittedOffset::At(7), "the offsets first");
        broker.write_marker(0);
        assert_eq!((broker.stable_offset(0), broker.end_offset(0)), (0, 3), "the first is still open");
        broker.end(1, one, false).unwrap();
        broker.write_marker(0);
        assert_eq!((broker.stable_offset(0), broker.end_offset(0)), (4, 4));
        let (rows, next) = broker.read_changelog(0, 0, 9);
        assert_eq!((text(&rows).as_str(), next), ("b=1", 4));
    }

    #[test]
    fn a_new_owner_of_an_id_ends_what_was_open_and_fences() {
        let mut broker = MemoryBroker::default();
        let old = broker.init(1).unwrap();
        broker.produce(1, old, 0, &[row("a", Some("1"))]).unwrap();
        assert_eq!(broker.open_transactions(), [1]);
        assert_eq!(broker.init(1), Err(BrokerError::Concurrent), "its markers first");
        broker.write_marker(0);
        let new = broker.init(1).unwrap();
        assert_eq!(broker.produce(1, old, 0, &[]), Err(BrokerError::Fenced));
        assert_eq!(broker.end(1, old, true), Err(BrokerError::Fenced));
        assert_eq!(broker.produce(1, new, 0, &[row("b", Some("1"))]), Ok(3));
        assert_eq!(broker.send_offsets(1, new, 9, &[(P, 1)]), Err(BrokerError::IllegalGeneration));
        assert_eq!(broker.read_changelog(0, 0, 9), (Vec::new(), 2));
    }

    #[test]
    fn compaction_keeps_the_last_row_of_a_key_and_young_deletions() {
        let mut broker = MemoryBroker::default();
        let epoch = broker.init(1).unwrap();
        let rows = [row("a", Some("1")), row("b", Some("1")), row("a", None), row("b", Some("2"))];
        broker.produce(1, epoch, 0, &rows).unwrap();
        broker.compact(0, 9);
        broker.end(1, epoch, true).unwrap();
        broker.write_marker(0);
        for (deletions_from, want) in [(2, "a=- b=2"), (3, "b=2")] {
            broker.compact(0, deletions_from);
            assert_eq!(text(&broker.read_changelog(0, 0, 9).0), want);
        }
        assert_eq!(broker.read_changelog(0, 0, 0), (Vec::new(), 3), "the position is at the row left over");
    }

    #[test]
    fn the_same_seed_fails_the_same_calls() {
        let run = |seed| {
            let mut broker = MemoryBroker::new(seed, Faults { refused: 300, unanswered: 300 });
            (0..200).map(|_| broker.commit_offsets(0, &[(P, 1)]).is_ok()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let failed = run(3).iter().filter(|ok| !**ok).count();
        assert!((60..140).contains(&failed), "{failed}");
    }
}

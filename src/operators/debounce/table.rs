//! The pending entries of one debounce node on one partition, in memory.
//!
//! Used by the debounce operator on the task's thread: no I/O, no clock, no allocation per entry. An entry is one
//! block: a fixed header, the key, and the value. The block never moves while the entry lives, so the index and the
//! timer wheel can hold its handle without being updated; a value that outgrows its block moves to a second one.
//!
//! Invariants:
//! - each block has exactly one live timer, so a block is freed only when its timer comes. An entry that is taken out before
//!   leaves its block behind until then, as a husk;
//! - an entry's deadline never moves back (`first` is fixed, `last` only grows), so a lazy timer is never late;
//! - what is due fires by (deadline, key bytes), whatever the hash seed, the memory layout or the number of restarts.
//!
//! A checkpoint ([`PendingTable::freeze`]) fixes which entries belong to it at one moment. They are copied in pieces
//! ([`PendingTable::copy_frozen`]), so that the task never stops for long; an entry that is about to change before its
//! turn is copied first. An entry's mark says whether it has changed, and for which checkpoint: the next one, or the
//! one under way.
//!
//! Deliberately absent: spilling to disk (10 % more data than memory made it ten times slower; see the design) and any
//! knowledge of records.

use std::hint::black_box;

use ahash::RandomState;

use super::batch::{DirtyBatch, Removed};
use super::entry::{Big, FLAGS, HUSK, Head, MARK, PERSISTED, Payload, Store, i64_at};
use super::index::Index;
use super::row::{Row, RowError};
use super::slab::Slab;
use super::wheel::Wheel;

/// When an entry fires. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `quiet` after the last event, at the latest `max_wait` after the first.
    Quiet {
        /// Milliseconds without an event.
        quiet: i64,
        /// Milliseconds after the first event; `None` waits for quiet however long it takes.
        max_wait: Option<i64>,
    },
    /// `settle` after the first event, whatever comes after.
    Settle {
        /// Milliseconds after the first event.
        settle: i64,
    },
}

impl Rule {
    /// The deadline of an entry whose events count from `first` to `last`.
    #[must_use]
    pub fn deadline(self, first: i64, last: i64) -> i64 {
        match self {
            Rule::Quiet { quiet, max_wait } => {
                let quiet = last.saturating_add(quiet);
                max_wait.map_or(quiet, |wait| quiet.min(first.saturating_add(wait)))
            }
            Rule::Settle { settle } => first.saturating_add(settle),
        }
    }

    fn reason(self, last: i64, deadline: i64) -> Reason {
        match self {
            Rule::Quiet { quiet, .. } if last.saturating_add(quiet) == deadline => Reason::Quiet,
            Rule::Quiet { .. } => Reason::MaxWait,
            Rule::Settle { .. } => Reason::Settle,
        }
    }
}

/// Why an entry left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No event for `quiet`.
    Quiet,
    /// `max_wait` after its first event.
    MaxWait,
    /// `settle` after its first event.
    Settle,
    /// Taken out by [`PendingTable::take`], before its deadline.
    Taken,
}

/// What an event does to the value of an entry that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The entry keeps its value.
    First,
    /// The event's value replaces it (also for merges: read with [`PendingTable::get`], store the result).
    Last,
    /// The event's bytes are appended to the value.
    Append,
}

/// What an upsert did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upserted {
    /// The key was not pending, or all that was pending had fired at `max_wait`.
    pub created: bool,
    /// Events in the entry now.
    pub count: u32,
}

/// A pending entry, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending<'a> {
    /// When it fires if nothing more comes.
    pub deadline: i64,
    /// Counts, times, extra bytes and value.
    pub row: Row<'a>,
}

/// An entry that fires. The slices live until the callback returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Its deadline, at or before the time it was asked for.
    pub deadline: i64,
    /// Why now.
    pub reason: Reason,
    /// Counts, times, extra bytes and value.
    pub row: Row<'a>,
}

/// The mark of an entry that is in the last checkpoint as it is. Checkpoints have the marks 1 and 2, alternating.
const CLEAN: u8 = 0;

/// A checkpoint that is being copied.
#[derive(Debug)]
struct Frozen {
    batch: DirtyBatch,
    /// How far the walk has come.
    cursor: (usize, usize),
}

/// The pending entries of one node on one partition.
#[derive(Debug)]
pub struct PendingTable {
    rule: Rule,
    /// Whether an entry that fires because of `max_wait` stays until its key is quiet.
    trailing: bool,
    hasher: RandomState,
    index: Index,
    store: Store,
    wheel: Wheel,
    /// Entries whose deadline is `due_at`, due but not fired yet, with their keys' hashes; by key, descending.
    due: Vec<(u32, u64)>,
    due_at: i64,
    /// Entries to check, kept to save allocations.
    look: Vec<u32>,
    len: usize,
    husks: usize,
    dirty: usize,
    /// The mark for changes from now on.
    mark: u8,
    frozen: Option<Frozen>,
    /// Keys that the last checkpoint has and that were removed since.
    removed: Removed,
}

impl PendingTable {
    /// An empty table.
    #[must_use]
    pub fn new(rule: Rule) -> PendingTable {
        PendingTable {
            rule,
            trailing: false,
            hasher: RandomState::new(),
            index: Index::new(),
            store: Store { slab: Slab::new(), big: Big::default() },
            wheel: Wheel::new(),
            due: Vec::new(),
            due_at: i64::MAX,
            look: Vec::new(),
            len: 0,
            husks: 0,
            dirty: 0,
            mark: CLEAN + 1,
            frozen: None,
            removed: Removed::default(),
        }
    }

    /// An entry that fires because of `max_wait` fires once more, with a count of 0, when its key has gone quiet; an
    /// event that comes first begins a new entry instead. Needs a rule whose `max_wait` is not shorter than its
    /// `quiet`.
    #[must_use]
    pub fn trailing(mut self) -> PendingTable {
        self.trailing = true;
        self
    }

    /// Keys pending.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries changed since the last checkpoint began.
    #[must_use]
    pub fn dirty(&self) -> usize {
        self.dirty
    }

    /// Memory in bytes: about what the table adds to the process's resident memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.store.slab.bytes()
            + self.store.big.bytes()
            + self.index.bytes()
            + self.wheel.bytes(self.len + self.husks)
            + self.removed.bytes()
    }

    #[inline]
    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |handle| self.store.key_is(handle, key))
    }

    /// The entry of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Pending<'_>> {
        let handle = self.find(self.hasher.hash_one(key), key)?;
        let head = self.store.head(handle);
        Some(Pending {
            deadline: self.rule.deadline(head.first, head.last),
            row: self.store.row(handle, &head),
        })
    }

    /// Touches the memory that upserts of these keys will need, so that the cache misses of many keys overlap.
    /// Optional; pays off for groups of 16 to 64 keys when the table is larger than the processor's caches.
    pub fn warm<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) {
        const GROUP: usize = 64;
        let (mut hashes, mut slots, mut handles) = ([0; GROUP], [0; GROUP], [0; GROUP]);
        let mut keys = keys.into_iter();
        loop {
            // Each loop does independent reads only, so the processor need not wait for one before it starts the next.
            let mut n = 0;
            for (hash, key) in hashes.iter_mut().zip(&mut keys) {
                *hash = self.hasher.hash_one(key);
                n += 1;
            }
            for (slot, hash) in slots.iter_mut().zip(&hashes[..n]) {
                *slot = self.index.home_slot(*hash);
            }
            let mut known = 0;
            for (slot, hash) in slots.iter().zip(&hashes[..n]) {
                if let Some(handle) = self.index.guess(*hash, *slot) {
                    handles[known] = handle;
                    known += 1;
                }
            }
            let mut sum = 0;
            for handle in &handles[..known] {
                sum += u64::from(self.store.slab.block(*handle)[0]);
            }
            for handle in &handles[..known] {
                let block = self.store.slab.block(*handle);
                for line in [64, 128, 192] {
                    sum += u64::from(block.get(line).copied().unwrap_or(0));
                }
            }
            black_box(sum);
            if n < GROUP {
                return;
            }
        }
    }

    /// Folds one event into the key's entry, or makes one. `counted` is the time that the event counts from (the later
    /// of its own timestamp and the node's clock), `ts` its own timestamp. `extra` is stored as it is when the entry is
    /// made and when `keep` is [`Keep::Last`].
    pub fn upsert(
        &mut self,
        key: &[u8],
        counted: i64,
        ts: i64,
        value: Option<&[u8]>,
        extra: &[u8],
        keep: Keep,
    ) -> Upserted {
        let hash = self.hasher.hash_one(key);
        let Some(handle) = self.find(hash, key) else {
            let row =
                Row { count: 1, first: counted, last: counted, first_ts: ts, last_ts: ts, extra, value };
            let handle = self.create(hash, key, &row, 0, self.mark);
            self.dirty += 1;
            self.store.slab.set_dirty(handle);
            return Upserted { created: true, count: 1 };
        };
        let mut head = self.store.head(handle);
        self.touch(handle, &mut head);
        // Its events have fired already, so this one begins a new entry. The new deadline is not before the old one.
        let anew = head.count == 0;
        if anew {
            (head.first, head.first_ts) = (counted.max(head.last), ts);
        }
        head.count = head.count.saturating_add(1);
        head.last = head.last.max(counted);
        head.last_ts = ts;
        match keep {
            Keep::First if !anew => {}
            Keep::Append if !anew => self.store.append(handle, &mut head, value.unwrap_or_default()),
            _ => self.store.replace(handle, &mut head, Payload { extra, value }),
        }
        head.store(self.store.slab.block_mut(handle));
        Upserted { created: anew, count: head.count }
    }

    /// Called before an entry changes: gives it the current mark. The caller stores `head`.
    #[inline]
    fn touch(&mut self, handle: u32, head: &mut Head) {
        if head.mark != self.mark {
            self.copy_before_write(handle, head);
            head.mark = self.mark;
            self.dirty += 1;
            self.store.slab.set_dirty(handle);
        }
    }

    fn create(&mut self, hash: u64, key: &[u8], row: &Row<'_>, flags: u8, mark: u8) -> u32 {
        let mut head = Head {
            first: row.first,
            last: row.last,
            first_ts: row.first_ts,
            last_ts: row.last_ts,
            count: row.count,
            key_len: 0,
            len: 0,
            second: 0,
            flags,
            mark,
        };
        let handle = self.store.create(&mut head, key, Payload { extra: row.extra, value: row.value });
        self.index.insert(hash, handle);
        self.wheel.arm(handle, self.rule.deadline(row.first, row.last));
        self.len += 1;
        handle
    }

    /// Sets the time if it is not known yet, so that entries added from now on are placed in the wheel at once.
    pub fn start(&mut self, clock: i64) {
        if !self.wheel.is_started() {
            self.wheel.advance(clock, &mut self.look);
            self.rearm();
        }
    }

    /// No entry is due before this; it may be early, never late. `None` when nothing is pending.
    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        let left = if self.due.is_empty() { i64::MAX } else { self.due_at };
        (self.len > 0).then(|| self.wheel.next().min(left))
    }

    /// Fires what is due at `clock`, at most `max` entries, by (deadline, key bytes). Returns how many; fewer than
    /// `max` means that nothing more is due.
    pub fn pop_due(&mut self, clock: i64, max: usize, mut fire: impl FnMut(Fired<'_>)) -> usize {
        self.wheel.advance(clock, &mut self.look);
        if !self.look.is_empty() {
            self.rearm();
        }
        let mut fired = 0;
        while fired < max {
            match (self.wheel.peek().filter(|(at, _)| *at <= clock), self.due.is_empty()) {
                (None, true) => {
                    self.wheel.relax();
                    self.due.shrink_to(16 * 1024);
                    break;
                }
                (Some((at, _)), true) => {
                    self.take_tie(at);
                    continue;
                }
                // An entry was added that is due before what was left over, or at the same time.
                (Some((at, _)), false) if at <= self.due_at => {
                    for (handle, _) in self.due.drain(..) {
                        self.wheel.arm(handle, self.due_at);
                    }
                    continue;
                }
                (_, false) if self.due_at > clock => break,
                (_, false) => {}
            }
            let Some((handle, hash)) = self.due.pop() else { continue };
            let mut head = self.store.head(handle);
            let deadline = self.rule.deadline(head.first, head.last);
            if head.is(HUSK) {
                self.bury(handle);
            } else if deadline != self.due_at {
                self.wheel.arm(handle, deadline);
            } else {
                let key = self.store.key(handle, &head);
                let reason = self.rule.reason(head.last, deadline);
                fire(Fired { key, deadline, reason, row: self.store.row(handle, &head) });
                if self.trailing && reason == Reason::MaxWait {
                    self.touch(handle, &mut head);
                    (head.count, head.first) = (0, head.last);
                    head.store(self.store.slab.block_mut(handle));
                    self.wheel.arm(handle, self.rule.deadline(head.first, head.last));
                } else {
                    self.remove(hash, handle, &head);
                    self.store.slab.free(handle);
                }
                fired += 1;
            }
        }
        fired
    }

    /// Puts entries that the wheel handed over back in, at their present deadlines.
    fn rearm(&mut self) {
        let mut look = std::mem::take(&mut self.look);
        let mut heads = [(0, 0); 32];
        for group in look.chunks(heads.len()) {
            // All reads come first, so that their cache misses overlap.
            for (head, handle) in heads.iter_mut().zip(group) {
                let block = self.store.slab.block(*handle);
                *head = (i64_at(block, 0), i64_at(block, 8));
            }
            for ((first, last), handle) in heads.iter().zip(group) {
                self.wheel.arm(*handle, self.rule.deadline(*first, *last));
            }
        }
        look.clear();
        // A jump over very many timers must not keep its memory.
        look.shrink_to(64 * 1024);
        self.look = look;
    }

    /// Moves the entries that are really due at `at` from the wheel to `due`, by key.
    fn take_tie(&mut self, at: i64) {
        self.due_at = at;
        while let Some((_, handle)) = self.wheel.peek().filter(|(deadline, _)| *deadline == at) {
            self.wheel.pop();
            let head = self.store.head(handle);
            let deadline = self.rule.deadline(head.first, head.last);
            if head.is(HUSK) {
                self.bury(handle);
            } else if deadline == at {
                self.due.push((handle, self.hasher.hash_one(self.store.key(handle, &head))));
            } else {
                self.wheel.arm(handle, deadline);
            }
        }
        let store = &self.store;
        let key = |handle: u32| store.key(handle, &store.head(handle));
        if self.due.len() > 1 {
            self.due.sort_unstable_by(|a, b| key(b.0).cmp(key(a.0)));
        }
        // Touches what firing will read, all at once.
        let mut sum = 0;
        for (handle, hash) in &self.due {
            let payload = store.slab.block(*handle);
            sum ^= self.index.home_slot(*hash) ^ u64::from(payload.get(128).copied().unwrap_or(0));
        }
        black_box(sum);
    }

    /// Removes a key's entry before its deadline; `taken` sees it with its present deadline. `None` if it is not
    /// pending.
    pub fn take<T>(&mut self, key: &[u8], taken: impl FnOnce(Fired<'_>) -> T) -> Option<T> {
        let hash = self.hasher.hash_one(key);
        let handle = self.find(hash, key)?;
        let head = self.store.head(handle);
        let result = taken(Fired {
            key: self.store.key(handle, &head),
            deadline: self.rule.deadline(head.first, head.last),
            reason: Reason::Taken,
            row: self.store.row(handle, &head),
        });
        self.remove(hash, handle, &head);
        // The husk keeps its times, so that its timer computes the same deadline.
        let block = self.store.slab.block_mut(handle);
        block[FLAGS] = HUSK;
        block[MARK] = CLEAN;
        self.store.slab.clear_dirty(handle);
        self.husks += 1;
        Some(result)
    }

    /// Removes the entry from everywhere, except for its block and its timer.
    fn remove(&mut self, hash: u64, handle: u32, head: &Head) {
        let mut head = *head;
        if head.mark == self.mark {
            self.dirty -= 1;
        } else {
            self.copy_before_write(handle, &mut head);
        }
        self.index.remove(hash, handle);
        if head.is(PERSISTED) {
            self.removed.push(self.store.key(handle, &head));
        }
        self.store.free_rest(&head);
        self.len -= 1;
    }

    /// Called before an entry with an older mark changes or is removed: the checkpoint under way may need it as it is,
    /// so copies it.
    fn copy_before_write(&mut self, handle: u32, head: &mut Head) {
        if head.mark == CLEAN {
            return;
        }
        if let Some(frozen) = &mut self.frozen {
            frozen.batch.push(self.store.key(handle, head), &self.store.row(handle, head));
            head.flags |= PERSISTED;
        }
        head.mark = CLEAN;
    }

    /// Frees a husk whose timer has come.
    fn bury(&mut self, handle: u32) {
        self.store.slab.free(handle);
        self.husks -= 1;
    }

    /// Begins a checkpoint of what changed since the last one began, as it is now. These entries count as persisted
    /// from here on, so the batch from [`PendingTable::copy_frozen`] must be made durable, or the table dropped. An
    /// entry that was made and fired between two checkpoints is in neither. Call `copy_frozen` until it is done before
    /// the next `freeze`.
    pub fn freeze(&mut self) {
        assert!(self.frozen.is_none(), "one checkpoint at a time");
        let mut batch = DirtyBatch::new();
        batch.begin(self.dirty, &mut self.removed);
        self.store.slab.freeze();
        self.mark = if self.mark == CLEAN + 1 { CLEAN + 2 } else { CLEAN + 1 };
        self.dirty = 0;
        self.frozen = Some(Frozen { batch, cursor: (0, 0) });
    }

    /// Whether a checkpoint is being copied.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Continues the checkpoint that [`PendingTable::freeze`] began, looking at up to `rows_max` more entries. Returns
    /// the batch, unsorted, once it is complete; `None` before that, or if no checkpoint is under way.
    pub fn copy_frozen(&mut self, rows_max: usize) -> Option<DirtyBatch> {
        let mut frozen = self.frozen.take()?;
        let theirs = if self.mark == CLEAN + 1 { CLEAN + 2 } else { CLEAN + 1 };
        let mut group = Vec::with_capacity(64);
        let mut seen = 0;
        while seen < rows_max {
            if !self.store.slab.next_frozen(&mut frozen.cursor, rows_max - seen, &mut group) {
                return Some(frozen.batch);
            }
            // Looking at an entry costs time too, even if it was copied before.
            seen += group.len();
            for handle in group.drain(..) {
                let head = self.store.head(handle);
                // Otherwise it changed meanwhile and was copied then.
                if head.mark == theirs {
                    frozen.batch.push(self.store.key(handle, &head), &self.store.row(handle, &head));
                    let block = self.store.slab.block_mut(handle);
                    block[FLAGS] = head.flags | PERSISTED;
                    block[MARK] = CLEAN;
                }
            }
        }
        self.frozen = Some(frozen);
        None
    }

    /// Puts back a row of a checkpoint. It is not dirty; a row of the same key that is there already is replaced.
    ///
    /// # Errors
    /// The row's bytes are damaged or of another version; nothing has changed then.
    pub fn insert_row(&mut self, key: &[u8], row: &[u8]) -> Result<(), RowError> {
        let row = Row::decode(row)?;
        self.remove_row(key);
        self.create(self.hasher.hash_one(key), key, &row, PERSISTED, CLEAN);
        Ok(())
    }

    /// Takes back a row of a checkpoint, because a later row of the changelog is its tombstone.
    pub fn remove_row(&mut self, key: &[u8]) {
        let removed = self.removed.mark();
        self.take(key, |_| ());
        // The changelog has the tombstone already: the next checkpoint need not write it.
        self.removed.back_to(removed);
    }
}

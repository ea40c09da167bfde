//! The pending entries of one debounce node on one partition, in memory.
//!
//! Called by the debounce operator on the task's thread; no I/O, no clock, no allocation per entry. An entry is one
//! block: a fixed header, the key, and the value. The block never moves while the entry lives, so that the index and the
//! wheel may hold its handle without ever being told; a value that outgrows its block goes to a second one.
//!
//! Invariants:
//! - exactly one live timer per block, so a block is freed only when its timer comes; an entry taken out before that
//!   leaves its block behind as a husk until then;
//! - an entry's deadline never moves back (`first` is fixed, `last` only grows): a lazy timer is never late;
//! - what is due fires by (deadline, key bytes), whatever the hash seed, the memory layout or the number of restarts.
//!
//! Deliberately absent: spilling to disk (10 % over memory costs ten times; see the design) and any knowledge of records.

use std::hint::black_box;

use ahash::RandomState;

use super::batch::DirtyBatch;
use super::index::Index;
use super::row::{Row, RowError, length};
use super::slab::{BLOCK_MAX, NONE, Slab, low32};
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
    /// The key was not pending.
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

// A block, numbers little-endian as the machine's:
//   0 first i64 | 8 last i64 | 16 first_ts i64 | 24 last_ts i64 | 32 count u32 | 36 key_len u32 | 40 len u32 | 44 second u32 | 48 flags u8
// then, at HEADER: key, then the payload, unless they are elsewhere. The payload is [extra_len u32, extra,] value.
const HEADER: usize = 52;
const FLAGS: usize = 48;

/// Changed since the last checkpoint (then the slab has its bit as well).
const DIRTY: u8 = 1;
/// The last checkpoint, or an older one, has a row of this key.
const PERSISTED: u8 = 2;
/// The value is null.
const NULL: u8 = 4;
/// The payload begins with extra bytes.
const EXTRA: u8 = 8;
/// The payload is in the second block.
const SECOND: u8 = 16;
/// The payload is in `big`.
const BIG: u8 = 32;
/// The key is in `big`, before the payload.
const BIG_KEY: u8 = 64;
/// The entry is gone; the block waits for its timer.
const HUSK: u8 = 128;

#[derive(Clone, Copy)]
struct Head {
    first: i64,
    last: i64,
    first_ts: i64,
    last_ts: i64,
    count: u32,
    key_len: u32,
    /// Bytes of payload.
    len: u32,
    /// The second block's handle, or the position in `big`.
    second: u32,
    flags: u8,
}

#[inline]
fn i64_at(block: &[u8], at: usize) -> i64 {
    let mut n = [0; 8];
    n.copy_from_slice(&block[at..at + 8]);
    i64::from_le_bytes(n)
}

#[inline]
fn u32_at(block: &[u8], at: usize) -> u32 {
    let mut n = [0; 4];
    n.copy_from_slice(&block[at..at + 4]);
    u32::from_le_bytes(n)
}

impl Head {
    #[inline]
    fn load(block: &[u8]) -> Head {
        let block = &block[..HEADER];
        Head {
            first: i64_at(block, 0),
            last: i64_at(block, 8),
            first_ts: i64_at(block, 16),
            last_ts: i64_at(block, 24),
            count: u32_at(block, 32),
            key_len: u32_at(block, 36),
            len: u32_at(block, 40),
            second: u32_at(block, 44),
            flags: block[FLAGS],
        }
    }

    #[inline]
    fn store(&self, block: &mut [u8]) {
        let block = &mut block[..HEADER];
        block[0..8].copy_from_slice(&self.first.to_le_bytes());
        block[8..16].copy_from_slice(&self.last.to_le_bytes());
        block[16..24].copy_from_slice(&self.first_ts.to_le_bytes());
        block[24..32].copy_from_slice(&self.last_ts.to_le_bytes());
        block[32..36].copy_from_slice(&self.count.to_le_bytes());
        block[36..40].copy_from_slice(&self.key_len.to_le_bytes());
        block[40..44].copy_from_slice(&self.len.to_le_bytes());
        block[44..48].copy_from_slice(&self.second.to_le_bytes());
        block[FLAGS] = self.flags;
    }

    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Where the payload begins in a block that holds it.
    fn payload_at(&self) -> usize {
        HEADER + self.key_len as usize
    }
}

/// What goes into a payload.
#[derive(Clone, Copy)]
struct Payload<'a> {
    extra: &'a [u8],
    value: Option<&'a [u8]>,
}

impl Payload<'_> {
    fn flags(&self) -> u8 {
        let null = if self.value.is_none() { NULL } else { 0 };
        if self.extra.is_empty() { null } else { null | EXTRA }
    }

    fn len(&self) -> usize {
        let extra = if self.extra.is_empty() { 0 } else { 4 + self.extra.len() };
        extra + self.value.map_or(0, <[u8]>::len)
    }

    fn write(&self, to: &mut [u8]) {
        let mut to = to;
        if !self.extra.is_empty() {
            let (head, rest) = to.split_at_mut(4 + self.extra.len());
            head[..4].copy_from_slice(&length(self.extra).to_le_bytes());
            head[4..].copy_from_slice(self.extra);
            to = rest;
        }
        if let Some(value) = self.value {
            to[..value.len()].copy_from_slice(value);
        }
    }
}

/// Values over 4 KiB: one allocation each.
#[derive(Debug, Default)]
struct Big {
    list: Vec<Vec<u8>>,
    free: Vec<u32>,
    bytes: usize,
}

impl Big {
    fn put(&mut self, bytes: Vec<u8>) -> u32 {
        self.bytes += bytes.capacity();
        if let Some(at) = self.free.pop() {
            self.list[at as usize] = bytes;
            return at;
        }
        self.list.push(bytes);
        low32(self.list.len() as u64 - 1)
    }

    fn free(&mut self, at: u32) {
        self.bytes -= std::mem::take(&mut self.list[at as usize]).capacity();
        self.free.push(at);
    }

    fn edit(&mut self, at: u32, f: impl FnOnce(&mut Vec<u8>)) {
        let bytes = &mut self.list[at as usize];
        let before = bytes.capacity();
        f(bytes);
        self.bytes = self.bytes + bytes.capacity() - before;
    }
}

/// The memory that entries lie in; apart from the index and the wheel, so that they can be borrowed beside it.
#[derive(Debug)]
struct Store {
    slab: Slab,
    big: Big,
}

impl Store {
    #[inline]
    fn head(&self, handle: u32) -> Head {
        Head::load(self.slab.block(handle))
    }

    #[inline]
    fn key_is(&self, handle: u32, key: &[u8]) -> bool {
        let block = self.slab.block(handle);
        if u32_at(block, 36) as usize != key.len() {
            return false;
        }
        if block[FLAGS] & BIG_KEY != 0 {
            let at = u32_at(block, 44) as usize;
            return self.big.list[at][..key.len()] == *key;
        }
        block[HEADER..HEADER + key.len()] == *key
    }

    fn key<'a>(&'a self, handle: u32, head: &Head) -> &'a [u8] {
        let len = head.key_len as usize;
        if head.is(BIG_KEY) {
            return &self.big.list[head.second as usize][..len];
        }
        &self.slab.block(handle)[HEADER..HEADER + len]
    }

    fn payload<'a>(&'a self, handle: u32, head: &Head) -> &'a [u8] {
        let len = head.len as usize;
        if head.is(BIG) {
            let start = if head.is(BIG_KEY) { head.key_len as usize } else { 0 };
            return &self.big.list[head.second as usize][start..start + len];
        }
        if head.is(SECOND) {
            return &self.slab.block(head.second)[..len];
        }
        &self.slab.block(handle)[head.payload_at()..head.payload_at() + len]
    }

    #[inline]
    fn row<'a>(&'a self, handle: u32, head: &Head) -> Row<'a> {
        let payload = self.payload(handle, head);
        let (extra, value) = if head.is(EXTRA) {
            let len = u32_at(payload, 0) as usize;
            payload[4..].split_at(len)
        } else {
            (&payload[..0], payload)
        };
        Row {
            count: head.count,
            first: head.first,
            last: head.last,
            first_ts: head.first_ts,
            last_ts: head.last_ts,
            extra,
            value: (!head.is(NULL)).then_some(value),
        }
    }

    /// A new block with key and payload; fills in what `head` says of where they are.
    fn create(&mut self, head: &mut Head, key: &[u8], payload: Payload<'_>) -> u32 {
        let len = payload.len();
        head.key_len = length(key);
        head.len = u32::try_from(len).expect("a record is under 4 GiB");
        head.flags |= payload.flags();
        head.second = NONE;
        let inline = HEADER + key.len() + len;
        let handle = if inline <= BLOCK_MAX {
            let handle = self.slab.alloc(inline);
            let block = self.slab.block_mut(handle);
            block[HEADER..HEADER + key.len()].copy_from_slice(key);
            payload.write(&mut block[HEADER + key.len()..inline]);
            handle
        } else {
            let key_inline = HEADER + key.len() <= BLOCK_MAX;
            let key_start = if key_inline { 0 } else { key.len() };
            let mut bytes = vec![0; key_start + len];
            payload.write(&mut bytes[key_start..]);
            bytes[..key_start].copy_from_slice(&key[..key_start]);
            head.second = self.big.put(bytes);
            head.flags |= if key_inline { BIG } else { BIG | BIG_KEY };
            let handle = self.slab.alloc(if key_inline { HEADER + key.len() } else { HEADER });
            if key_inline {
                self.slab.block_mut(handle)[HEADER..HEADER + key.len()].copy_from_slice(key);
            }
            handle
        };
        head.store(self.slab.block_mut(handle));
        handle
    }

    /// Room for `len` bytes of payload where the entry has its payload now; only `big` grows.
    fn room(&mut self, handle: u32, head: &Head, len: usize) -> Option<&mut [u8]> {
        if head.is(BIG) {
            let start = if head.is(BIG_KEY) { head.key_len as usize } else { 0 };
            self.big.edit(head.second, |bytes| bytes.resize(start + len, 0));
            return Some(&mut self.big.list[head.second as usize][start..]);
        }
        if head.is(SECOND) {
            let fits = len <= self.slab.capacity(head.second);
            return fits.then(|| &mut self.slab.block_mut(head.second)[..len]);
        }
        let end = head.payload_at() + len;
        let fits = end <= self.slab.capacity(handle);
        fits.then(|| &mut self.slab.block_mut(handle)[head.payload_at()..end])
    }

    /// Replaces the payload. The header is the caller's to store.
    #[inline]
    fn replace(&mut self, handle: u32, head: &mut Head, payload: Payload<'_>) {
        let len = payload.len();
        head.flags = head.flags & !(NULL | EXTRA) | payload.flags();
        if let Some(room) = self.room(handle, head, len) {
            payload.write(room);
        } else {
            self.move_out(head, len, |to| payload.write(to));
        }
        head.len = u32::try_from(len).expect("a record is under 4 GiB");
    }

    /// Appends to the payload; a null value becomes one with bytes.
    fn append(&mut self, handle: u32, head: &mut Head, more: &[u8]) {
        let (old, len) = (head.len as usize, head.len as usize + more.len());
        head.flags &= !NULL;
        if let Some(room) = self.room(handle, head, len) {
            room[old..].copy_from_slice(more);
        } else {
            let mut all = self.payload(handle, head).to_vec();
            all.extend_from_slice(more);
            self.move_out(head, len, |to| to.copy_from_slice(&all));
        }
        head.len = u32::try_from(len).expect("an entry is under 4 GiB");
    }

    /// Gives the payload a new place, with room to grow: values that grow once tend to grow again.
    fn move_out(&mut self, head: &mut Head, len: usize, write: impl FnOnce(&mut [u8])) {
        if head.is(SECOND) {
            self.slab.free(head.second);
            head.flags &= !SECOND;
        }
        if len <= BLOCK_MAX {
            head.second = self.slab.alloc((len + len / 4).min(BLOCK_MAX));
            head.flags |= SECOND;
            write(&mut self.slab.block_mut(head.second)[..len]);
        } else {
            let mut bytes = vec![0; len];
            write(&mut bytes);
            head.second = self.big.put(bytes);
            head.flags |= BIG;
        }
    }

    /// Frees what the entry has beside its block.
    fn free_rest(&mut self, head: &Head) {
        if head.is(BIG) {
            self.big.free(head.second);
        } else if head.is(SECOND) {
            self.slab.free(head.second);
        }
    }
}

/// The pending entries of one node on one partition.
#[derive(Debug)]
pub struct PendingTable {
    rule: Rule,
    hasher: RandomState,
    index: Index,
    store: Store,
    wheel: Wheel,
    /// Entries of `due_at` with their keys' hashes, by key descending: what is due and not yet fired.
    due: Vec<(u32, u64)>,
    due_at: i64,
    /// Entries to look at, kept for its memory.
    look: Vec<u32>,
    len: usize,
    husks: usize,
    dirty: usize,
    /// Keys that the last checkpoint has and that are gone, with their lengths.
    removed: Vec<u8>,
}

impl PendingTable {
    /// An empty table.
    #[must_use]
    pub fn new(rule: Rule) -> PendingTable {
        PendingTable {
            rule,
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
            removed: Vec::new(),
        }
    }

    /// Keys pending.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing pending?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries changed since the last checkpoint.
    #[must_use]
    pub fn dirty(&self) -> usize {
        self.dirty
    }

    /// Bytes of memory in use, about what the table adds to the process's resident memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.store.slab.bytes()
            + self.store.big.bytes
            + self.store.big.list.capacity() * size_of::<Vec<u8>>()
            + self.index.bytes()
            + self.wheel.bytes(self.len + self.husks)
            + self.removed.capacity()
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

    /// Reads what upserts of these keys will need, so that the cache misses of many keys overlap. Optional; worth it
    /// for groups of 16 to 64 keys when the table is larger than the caches.
    pub fn warm<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) {
        const GROUP: usize = 64;
        let (mut hashes, mut slots, mut handles) = ([0; GROUP], [0; GROUP], [0; GROUP]);
        let mut keys = keys.into_iter();
        loop {
            // Each loop does nothing but independent reads, so that the processor runs far ahead of the slow ones.
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
            let row = Row { count: 1, first: counted, last: counted, first_ts: ts, last_ts: ts, extra, value };
            self.create(hash, key, &row, DIRTY);
            return Upserted { created: true, count: 1 };
        };
        let mut head = self.store.head(handle);
        head.count = head.count.saturating_add(1);
        head.last = head.last.max(counted);
        head.last_ts = ts;
        match keep {
            Keep::First => {}
            Keep::Last => self.store.replace(handle, &mut head, Payload { extra, value }),
            Keep::Append => self.store.append(handle, &mut head, value.unwrap_or_default()),
        }
        if !head.is(DIRTY) {
            head.flags |= DIRTY;
            self.dirty += 1;
            self.store.slab.set_dirty(handle);
        }
        head.store(self.store.slab.block_mut(handle));
        Upserted { created: false, count: head.count }
    }

    fn create(&mut self, hash: u64, key: &[u8], row: &Row<'_>, flags: u8) {
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
        };
        let handle = self.store.create(&mut head, key, Payload { extra: row.extra, value: row.value });
        if flags & DIRTY != 0 {
            self.dirty += 1;
            self.store.slab.set_dirty(handle);
        }
        self.index.insert(hash, handle);
        self.wheel.arm(handle, self.rule.deadline(row.first, row.last));
        self.len += 1;
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
                // Something came in before, or level with, what was left over.
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
            let head = self.store.head(handle);
            let deadline = self.rule.deadline(head.first, head.last);
            if head.is(HUSK) {
                self.bury(handle);
            } else if deadline != self.due_at {
                self.wheel.arm(handle, deadline);
            } else {
                let key = self.store.key(handle, &head);
                let reason = self.rule.reason(head.last, deadline);
                fire(Fired { key, deadline, reason, row: self.store.row(handle, &head) });
                self.remove(hash, handle, &head);
                self.store.slab.free(handle);
                fired += 1;
            }
        }
        fired
    }

    /// Arms again what the wheel handed over, by the deadline of now.
    fn rearm(&mut self) {
        let mut look = std::mem::take(&mut self.look);
        let mut heads = [(0, 0); 32];
        for group in look.chunks(heads.len()) {
            // All reads first: their cache misses overlap.
            for (head, handle) in heads.iter_mut().zip(group) {
                let block = self.store.slab.block(*handle);
                *head = (i64_at(block, 0), i64_at(block, 8));
            }
            for ((first, last), handle) in heads.iter().zip(group) {
                self.wheel.arm(*handle, self.rule.deadline(*first, *last));
            }
        }
        look.clear();
        // One jump over everything must not keep its memory for ever.
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
        // What firing will read, all at once.
        let mut sum = 0;
        for (handle, hash) in &self.due {
            let payload = store.slab.block(*handle);
            sum ^= self.index.home_slot(*hash) ^ u64::from(payload.get(128).copied().unwrap_or(0));
        }
        black_box(sum);
    }

    /// Takes a key's entry out before its deadline (its `deadline` is then that of now). `None` if it is not pending.
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
        // The husk keeps its times: its timer finds the deadline as it was.
        let block = self.store.slab.block_mut(handle);
        block[FLAGS] = HUSK;
        self.store.slab.clear_dirty(handle);
        self.husks += 1;
        Some(result)
    }

    /// Removes the entry from everything but its block and its timer.
    fn remove(&mut self, hash: u64, handle: u32, head: &Head) {
        self.index.remove(hash, handle);
        if head.is(PERSISTED) {
            let key = self.store.key(handle, head);
            self.removed.extend_from_slice(&head.key_len.to_le_bytes());
            self.removed.extend_from_slice(key);
        }
        if head.is(DIRTY) {
            self.dirty -= 1;
        }
        self.store.free_rest(head);
        self.len -= 1;
    }

    /// Frees a husk whose timer has come.
    fn bury(&mut self, handle: u32) {
        self.store.slab.free(handle);
        self.husks -= 1;
    }

    /// Copies everything that changed since the last call into `batch` (emptied first), unsorted, and takes it for
    /// persisted: the batch must be made durable, or the table dropped. An entry made and fired between two calls
    /// is in neither.
    pub fn drain_into(&mut self, batch: &mut DirtyBatch) {
        batch.clear();
        let mut cursor = (0, 0);
        let mut group = Vec::with_capacity(64);
        while self.store.slab.next_dirty(&mut cursor, &mut group) {
            for handle in group.drain(..) {
                let head = self.store.head(handle);
                let row = self.store.row(handle, &head);
                batch.push(self.store.key(handle, &head), |out| row.encode(out));
                self.store.slab.block_mut(handle)[FLAGS] = head.flags & !DIRTY | PERSISTED;
            }
        }
        self.dirty = 0;
        let mut rest = self.removed.as_slice();
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let (key, after) = after.split_at(u32::from_le_bytes(*len) as usize);
            batch.push_tombstone(key);
            rest = after;
        }
        self.removed.clear();
        self.removed.shrink_to(64 * 1024);
    }

    /// [`PendingTable::drain_into`] with everything done here: `f` gets keys in order, each with its row, or `None`
    /// where the key is gone.
    pub fn drain_dirty(&mut self, mut f: impl FnMut(&[u8], Option<&[u8]>)) {
        let mut batch = DirtyBatch::new();
        self.drain_into(&mut batch);
        batch.sort();
        for (key, row) in batch.iter() {
            f(key, row);
        }
    }

    /// Puts back a row of a checkpoint. It is not dirty; a row of the same key that is there already is replaced.
    ///
    /// # Errors
    /// The row's bytes are damaged or of another version; nothing has changed then.
    pub fn insert_row(&mut self, key: &[u8], row: &[u8]) -> Result<(), RowError> {
        let row = Row::decode(row)?;
        self.remove_row(key);
        self.create(self.hasher.hash_one(key), key, &row, PERSISTED);
        Ok(())
    }

    /// Takes back a row of a checkpoint: the next one has its tombstone (when a changelog is replayed).
    pub fn remove_row(&mut self, key: &[u8]) {
        let removed = self.removed.len();
        self.take(key, |_| ());
        // The checkpoint being restored says so itself.
        self.removed.truncate(removed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Upsert { key: usize, behind: i64, value: Option<usize>, extra: usize, keep: Keep },
        Advance(i64),
        Pop(usize),
        Take(usize),
        Checkpoint,
        Restart { backwards: bool },
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let size = prop_oneof![8 => 0usize..40, 3 => 40usize..300, 1 => 3900usize..4300, 1 => 9000usize..9100];
        let keep = prop_oneof![1 => Just(Keep::First), 3 => Just(Keep::Last), 1 => Just(Keep::Append)];
        let jump = prop_oneof![
            4 => 0i64..3,
            4 => 0i64..200,
            4 => 0i64..40_000,
            1 => 0i64..400_000_000,
            1 => 0i64..40_000_000_000,
        ];
        let op = prop_oneof![
            12 => (0usize..14, -300i64..300, prop::option::weighted(0.9, size), prop_oneof![4 => Just(0usize), 1 => 1usize..50], keep)
                .prop_map(|(key, behind, value, extra, keep)| Op::Upsert { key, behind, value, extra, keep }),
            6 => jump.prop_map(Op::Advance),
            2 => (0usize..4).prop_map(Op::Pop),
            1 => (0usize..14).prop_map(Op::Take),
            2 => Just(Op::Checkpoint),
            1 => any::<bool>().prop_map(|backwards| Op::Restart { backwards }),
        ];
        prop::collection::vec(op, 1..120)
    }

    fn rules() -> impl Strategy<Value = Rule> {
        let span = || prop_oneof![Just(0i64), 1i64..100, 100i64..60_000, 60_000i64..100_000_000_000, Just(i64::MAX)];
        prop_oneof![
            3 => (span(), prop::option::of(span())).prop_map(|(quiet, max_wait)| Rule::Quiet { quiet, max_wait }),
            1 => span().prop_map(|settle| Rule::Settle { settle }),
        ]
    }

    /// Keys with shared beginnings, an empty one, and ones that do not fit a block.
    fn key(n: usize) -> Vec<u8> {
        match n {
            0 => Vec::new(),
            1 => vec![b'k'; 4096 - HEADER],
            2 => vec![b'k'; 5000],
            3 => vec![b'z'; 4090],
            _ => format!("account-{}", n * 7 % 13).into_bytes(),
        }
    }

    #[derive(Clone, Debug, PartialEq)]
    struct Entry {
        count: u32,
        times: [i64; 4],
        extra: Vec<u8>,
        value: Option<Vec<u8>>,
    }

    impl Entry {
        fn of(row: &Row<'_>) -> Entry {
            Entry {
                count: row.count,
                times: [row.first, row.last, row.first_ts, row.last_ts],
                extra: row.extra.to_vec(),
                value: row.value.map(<[u8]>::to_vec),
            }
        }

        fn row(&self) -> Vec<u8> {
            let [first, last, first_ts, last_ts] = self.times;
            let mut out = Vec::new();
            Row {
                count: self.count,
                first,
                last,
                first_ts,
                last_ts,
                extra: &self.extra,
                value: self.value.as_deref(),
            }
            .encode(&mut out);
            out
        }
    }

    type Model = BTreeMap<Vec<u8>, Entry>;
    type Out = Vec<(i64, Vec<u8>, Entry)>;

    fn due(model: &Model, rule: Rule, clock: i64) -> Vec<(i64, Vec<u8>)> {
        let mut due: Vec<_> = model
            .iter()
            .map(|(key, e)| (rule.deadline(e.times[0], e.times[1]), key.clone()))
            .filter(|(deadline, _)| *deadline <= clock)
            .collect();
        due.sort();
        due
    }

    fn pop(table: &mut PendingTable, model: &mut Model, rule: Rule, clock: i64, max: usize) {
        let mut got: Out = Vec::new();
        let n = table.pop_due(clock, max, |f| got.push((f.deadline, f.key.to_vec(), Entry::of(&f.row))));
        assert_eq!(n, got.len());
        let mut want: Out = Vec::new();
        for (deadline, key) in due(model, rule, clock).into_iter().take(max) {
            let entry = model.remove(&key).unwrap();
            want.push((deadline, key, entry));
        }
        assert_eq!(got, want);
    }

    fn checkpoint(table: &mut PendingTable, model: &Model, disk: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut before: Option<Vec<u8>> = None;
        table.drain_dirty(|key, row| {
            assert!(before.as_deref().is_none_or(|b| b < key), "out of order");
            before = Some(key.to_vec());
            match row {
                Some(row) => assert_ne!(disk.insert(key.to_vec(), row.to_vec()).as_deref(), Some(row), "not dirty"),
                None => assert!(disk.remove(key).is_some(), "a tombstone of a key that was never written"),
            }
        });
        assert_eq!(table.dirty(), 0);
        let want: BTreeMap<_, _> = model.iter().map(|(key, e)| (key.clone(), e.row())).collect();
        assert_eq!(*disk, want);
    }

    fn run(rule: Rule, start: i64, ops: &[Op]) {
        let mut table = PendingTable::new(rule);
        let mut model = Model::new();
        let mut disk = BTreeMap::new();
        let mut clock = start;
        for (n, op) in ops.iter().enumerate() {
            match op {
                Op::Upsert { key: k, behind, value, extra, keep } => {
                    let (k, ts) = (key(*k), clock - behind);
                    let counted = ts.max(clock);
                    let fill = u8::try_from(n).unwrap();
                    let value = value.map(|len| vec![fill; len]);
                    let extra = vec![fill; *extra];
                    let got = table.upsert(&k, counted, ts, value.as_deref(), &extra, *keep);
                    let created = !model.contains_key(&k);
                    let fresh = Entry {
                        count: 0,
                        times: [counted, counted, ts, ts],
                        extra: extra.clone(),
                        value: value.clone(),
                    };
                    let entry = model.entry(k).or_insert(fresh);
                    entry.count += 1;
                    entry.times[1] = entry.times[1].max(counted);
                    entry.times[3] = ts;
                    if !created {
                        match keep {
                            Keep::First => {}
                            Keep::Last => (entry.extra, entry.value) = (extra, value),
                            Keep::Append => {
                                entry.value.get_or_insert_default().extend(value.unwrap_or_default());
                            }
                        }
                    }
                    assert_eq!(got, Upserted { created, count: entry.count });
                }
                Op::Advance(by) => {
                    clock += by;
                    pop(&mut table, &mut model, rule, clock, usize::MAX);
                }
                Op::Pop(max) => pop(&mut table, &mut model, rule, clock, *max),
                Op::Take(k) => {
                    let got = table.take(&key(*k), |f| Entry::of(&f.row));
                    assert_eq!(got, model.remove(&key(*k)));
                }
                Op::Checkpoint => checkpoint(&mut table, &model, &mut disk),
                Op::Restart { backwards } => {
                    checkpoint(&mut table, &model, &mut disk);
                    table = PendingTable::new(rule);
                    let mut rows: Vec<_> = disk.iter().collect();
                    if *backwards {
                        rows.reverse();
                    }
                    for (key, row) in rows {
                        table.insert_row(key, row).unwrap();
                    }
                }
            }
            assert_eq!(table.len(), model.len());
            assert_eq!(table.next_deadline().is_none(), model.is_empty());
            if let (Some(next), Some(first)) = (table.next_deadline(), due(&model, rule, i64::MAX).first()) {
                assert!(next <= first.0, "late: {next} > {}", first.0);
            }
        }
        for (key, entry) in &model {
            let got = table.get(key).map(|p| Entry::of(&p.row));
            assert_eq!(got.as_ref(), Some(entry));
        }
        pop(&mut table, &mut model, rule, i64::MAX, usize::MAX);
        assert!(table.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn behaves_as_a_sorted_map_that_is_searched(
            rule in rules(),
            start in prop_oneof![Just(0i64), Just(1_700_000_000_000), -1_000_000i64..1_000_000],
            ops in ops(),
        ) {
            run(rule, start, &ops);
        }
    }

    const QUIET: Rule = Rule::Quiet { quiet: 30_000, max_wait: Some(60_000) };

    #[test]
    fn the_reason_says_which_limit_fired() {
        let reason = |rule, times: &[i64]| {
            let mut table = PendingTable::new(rule);
            for &at in times {
                table.upsert(b"k", at, at, None, b"", Keep::Last);
            }
            let mut fired = None;
            table.pop_due(i64::MAX, 1, |f| fired = Some((f.reason, f.deadline)));
            fired.unwrap()
        };
        assert_eq!(reason(QUIET, &[0]), (Reason::Quiet, 30_000));
        assert_eq!(reason(QUIET, &[0, 20_000, 30_000]), (Reason::Quiet, 60_000));
        assert_eq!(reason(QUIET, &[0, 20_000, 40_000]), (Reason::MaxWait, 60_000));
        assert_eq!(reason(Rule::Settle { settle: 5 }, &[0, 4]), (Reason::Settle, 5));
    }

    #[test]
    fn a_key_and_a_value_of_a_megabyte_are_kept() {
        let mut table = PendingTable::new(QUIET);
        let (key, value) = (vec![1; 1 << 20], vec![2; 1 << 20]);
        for n in 0..3 {
            table.upsert(&key, n, n, Some(&value[..usize::try_from(n).unwrap() * 500_000]), b"x", Keep::Last);
        }
        assert!(table.bytes() > 2 << 20);
        let mut batch = DirtyBatch::new();
        table.drain_into(&mut batch);
        assert_eq!((batch.len(), batch.bytes()), (1, (1 << 20) + 1_000_000 + 1 + super::super::row::HEADER_BYTES));
        assert_eq!(table.pop_due(30_002, 9, |f| assert_eq!(f.row.value.map(<[u8]>::len), Some(1_000_000))), 1);
        table.drain_into(&mut batch);
        assert_eq!(batch.len(), 1, "a tombstone");
        assert!(table.bytes() < 1 << 20, "{}", table.bytes());
    }

    #[test]
    fn memory_is_as_designed_and_comes_back() {
        let mut table = PendingTable::new(QUIET);
        table.pop_due(0, 1, |_| ());
        for n in 0..300_000u64 {
            let key = format!("account-{n:012}");
            table.upsert(key.as_bytes(), 0, 0, Some(&[7; 128]), b"", Keep::Last);
        }
        let each = table.bytes() / 300_000;
        assert!(each < 240, "{each} bytes per key");
        assert_eq!(table.pop_due(30_000, usize::MAX, |_| ()), 300_000);
        assert!(table.bytes() < 8 << 20, "{}", table.bytes());
    }
}

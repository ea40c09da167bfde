//! The memory of one pending entry: a block with a fixed header, the key and the value.
//!
//! Used by `table.rs` only. The block never moves while the entry lives, so the index and the timer wheel can hold its
//! handle without being updated. A value that outgrows its block moves to a second block; a value over 4 KiB has an
//! allocation of its own.

use super::row::{Row, length};
use super::slab::{BLOCK_MAX, NONE, Slab, low32};

// A block, numbers little-endian as the machine's:
//   0 first i64 | 8 last i64 | 16 first_ts i64 | 24 last_ts i64 | 32 count u32 | 36 key_len u32 | 40 len u32 | 44 second u32 | 48 flags u8 | 49 mark u8
// then, at HEADER: key, then the payload, unless they are elsewhere. The payload is [extra_len u32, extra,] value.
pub(super) const HEADER: usize = 52;
pub(super) const FLAGS: usize = 48;
pub(super) const MARK: usize = 49;

/// The last checkpoint, or an older one, has a row of this key.
pub(super) const PERSISTED: u8 = 2;
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
/// The entry was removed; the block stays until its timer comes.
pub(super) const HUSK: u8 = 128;

#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) first_ts: i64,
    pub(super) last_ts: i64,
    pub(super) count: u32,
    pub(super) key_len: u32,
    /// Bytes of payload.
    pub(super) len: u32,
    /// The second block's handle, or the position in `big`.
    pub(super) second: u32,
    pub(super) flags: u8,
    /// The checkpoint to which the change belongs: see `table.rs`.
    pub(super) mark: u8,
}

#[inline]
pub(super) fn i64_at(block: &[u8], at: usize) -> i64 {
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
            mark: block[MARK],
        }
    }

    #[inline]
    pub(super) fn store(&self, block: &mut [u8]) {
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
        block[MARK] = self.mark;
    }

    pub(super) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Where the payload begins in a block that holds it.
    fn payload_at(&self) -> usize {
        HEADER + self.key_len as usize
    }
}

/// What goes into a payload.
#[derive(Clone, Copy)]
pub(super) struct Payload<'a> {
    pub(super) extra: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
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
pub(super) struct Big {
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

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.list.capacity() * size_of::<Vec<u8>>()
    }

    fn edit(&mut self, at: u32, f: impl FnOnce(&mut Vec<u8>)) {
        let bytes = &mut self.list[at as usize];
        let before = bytes.capacity();
        f(bytes);
        self.bytes = self.bytes + bytes.capacity() - before;
    }
}

/// The memory of the entries, separate from the index and the wheel so that both can be borrowed at once.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) slab: Slab,
    pub(super) big: Big,
}

impl Store {
    #[inline]
    pub(super) fn head(&self, handle: u32) -> Head {
        Head::load(self.slab.block(handle))
    }

    #[inline]
    pub(super) fn key_is(&self, handle: u32, key: &[u8]) -> bool {
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

    pub(super) fn key<'a>(&'a self, handle: u32, head: &Head) -> &'a [u8] {
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
    pub(super) fn row<'a>(&'a self, handle: u32, head: &Head) -> Row<'a> {
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

    /// Creates a block with key and payload; sets in `head` where they are.
    pub(super) fn create(&mut self, head: &mut Head, key: &[u8], payload: Payload<'_>) -> u32 {
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

    /// Room for `len` bytes at the payload's present place, if there is enough; only `big` can grow.
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
    pub(super) fn replace(&mut self, handle: u32, head: &mut Head, payload: Payload<'_>) {
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
    pub(super) fn append(&mut self, handle: u32, head: &mut Head, more: &[u8]) {
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

    /// Moves the payload to a larger place with room to spare, since values that grow once tend to grow again.
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

    /// Frees what the entry has besides its block.
    pub(super) fn free_rest(&mut self, head: &Head) {
        if head.is(BIG) {
            self.big.free(head.second);
        } else if head.is(SECOND) {
            self.slab.free(head.second);
        }
    }
}

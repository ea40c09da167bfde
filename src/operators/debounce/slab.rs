//! Blocks of memory by size class: where the pending entries live.
//!
//! Used by `table.rs` only. Memory is allocated in chunks of 1 MiB, each cut into blocks of one size class, so that an
//! entry needs no allocation of its own. A `u32` handle (chunk, and offset in units of 8 bytes) names a block and stays
//! valid until the block is freed. A chunk without blocks can serve any class, or is returned to the allocator, so
//! memory use shrinks with the load.
//!
//! Each chunk also has two bits per block: "changed since the last checkpoint began", and "changed before that, not
//! copied yet". A checkpoint thus walks memory in address order, which costs a fraction of following a list of handles,
//! and it can pause on the way.
//!
//! Invariants: a handle is never used after `free`; both bits of a free block are clear. What is inside a block is not
//! known here.

/// No block.
pub(super) const NONE: u32 = u32::MAX;
/// The largest block.
pub(super) const BLOCK_MAX: usize = 4096;

const UNIT: usize = 8;
const CHUNK_BYTES: usize = 1 << 20;
const UNIT_BITS: u32 = 17;
const UNIT_MASK: u32 = (1 << UNIT_BITS) - 1;
const CHUNKS_MAX: usize = 1 << (32 - UNIT_BITS);
const CLASSES: usize = 96;
/// Empty chunks that are kept for later; more are returned to the allocator.
const SPARE_MIN: usize = 2;

/// Truncates to the low 32 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the callers have bounded the number, or want its low half"
)]
pub(super) const fn low32(n: u64) -> u32 {
    n as u32
}

/// The class whose blocks hold `size` bytes: steps of 8 up to 256, then 16 classes for each doubling.
fn class_of(size: usize) -> usize {
    debug_assert!(size <= BLOCK_MAX, "a block of {size} bytes");
    if size <= 256 {
        return size.div_ceil(8).max(1) - 1;
    }
    let doubling = ((size - 1) / 256).ilog2() as usize;
    let base = 256usize << doubling;
    32 + 16 * doubling + (size - base).div_ceil(16 << doubling) - 1
}

/// The size of a class's blocks.
const fn class_size(class: usize) -> usize {
    if class < 32 {
        return (class + 1) * 8;
    }
    let doubling = (class - 32) / 16;
    (256 << doubling) + ((class - 32) % 16 + 1) * (16 << doubling)
}

#[derive(Debug)]
struct Chunk {
    /// One bit per block.
    dirty: Box<[u64]>,
    /// Those of the checkpoint under way.
    frozen: Box<[u64]>,
    /// Bytes of one block.
    size: usize,
    class: usize,
    /// Blocks in use.
    live: u32,
    /// Units handed out so far; memory after them has not been touched since the chunk got its class.
    bump: u32,
    /// First free block (its first 4 bytes name the next), in units; `NONE` without one.
    free: u32,
    /// Position in the class's list of chunks with room; `NONE` when full.
    open_at: u32,
    /// Units ever touched, which is what the chunk costs in resident memory.
    touched: u32,
}

/// The blocks of one table.
#[derive(Debug)]
pub(super) struct Slab {
    /// The chunks' memory, separate from the rest so that the whole list stays in the first-level cache.
    memory: Vec<Box<[u8]>>,
    chunks: Vec<Chunk>,
    /// Chunks with room, by class.
    open: Vec<Vec<u32>>,
    /// Chunks that hold memory and no block.
    spare: Vec<u32>,
    /// Numbers of chunks whose memory was returned.
    vacant: Vec<u32>,
    touched_units: usize,
}

impl Slab {
    pub(super) fn new() -> Slab {
        Slab {
            memory: Vec::new(),
            chunks: Vec::new(),
            open: vec![Vec::new(); CLASSES],
            spare: Vec::new(),
            vacant: Vec::new(),
            touched_units: 0,
        }
    }

    /// The block and whatever lies behind it in its chunk.
    #[inline]
    pub(super) fn block(&self, handle: u32) -> &[u8] {
        let at = (handle & UNIT_MASK) as usize * UNIT;
        &self.memory[(handle >> UNIT_BITS) as usize][at..]
    }

    /// The block, to write, and whatever lies behind it: write no more than [`Slab::capacity`].
    #[inline]
    pub(super) fn block_mut(&mut self, handle: u32) -> &mut [u8] {
        let at = (handle & UNIT_MASK) as usize * UNIT;
        &mut self.memory[(handle >> UNIT_BITS) as usize][at..]
    }

    /// Bytes in the block: what was asked for, or a little more.
    #[inline]
    pub(super) fn capacity(&self, handle: u32) -> usize {
        self.chunks[(handle >> UNIT_BITS) as usize].size
    }

    /// A block of at least `size` bytes (at most [`BLOCK_MAX`]). Its content is whatever was there before.
    pub(super) fn alloc(&mut self, size: usize) -> u32 {
        let class = class_of(size);
        let number = match self.open[class].last() {
            Some(&number) => number,
            None => self.open_chunk(class),
        };
        let chunk = &mut self.chunks[number as usize];
        let stride = low32(chunk.size as u64) / low32(UNIT as u64);
        let unit = if chunk.free == NONE {
            let unit = chunk.bump;
            chunk.bump += stride;
            if chunk.bump > chunk.touched {
                self.touched_units += (chunk.bump - chunk.touched) as usize;
                chunk.touched = chunk.bump;
            }
            unit
        } else {
            let unit = chunk.free;
            let at = unit as usize * UNIT;
            let mut next = [0; 4];
            next.copy_from_slice(&self.memory[number as usize][at..at + 4]);
            chunk.free = u32::from_le_bytes(next);
            unit
        };
        chunk.live += 1;
        if chunk.free == NONE && chunk.bump + stride > UNIT_MASK + 1 {
            chunk.open_at = NONE;
            self.open[class].pop();
        }
        (number << UNIT_BITS) | unit
    }

    /// Frees a block.
    pub(super) fn free(&mut self, handle: u32) {
        self.clear_dirty(handle);
        let number = handle >> UNIT_BITS;
        let unit = handle & UNIT_MASK;
        let chunk = &mut self.chunks[number as usize];
        let at = unit as usize * UNIT;
        self.memory[number as usize][at..at + 4].copy_from_slice(&chunk.free.to_le_bytes());
        chunk.free = unit;
        chunk.live -= 1;
        let class = chunk.class;
        if chunk.open_at == NONE {
            chunk.open_at = low32(self.open[class].len() as u64);
            self.open[class].push(number);
        }
        if chunk.live == 0 {
            self.close_chunk(number, class);
        }
    }

    fn open_chunk(&mut self, class: usize) -> u32 {
        let number = self.spare.pop().unwrap_or_else(|| {
            let fresh = || Chunk {
                dirty: Box::default(),
                frozen: Box::default(),
                size: 0,
                class: 0,
                live: 0,
                bump: 0,
                free: NONE,
                open_at: NONE,
                touched: 0,
            };
            let memory = vec![0; CHUNK_BYTES].into_boxed_slice();
            if let Some(number) = self.vacant.pop() {
                self.memory[number as usize] = memory;
                self.chunks[number as usize] = fresh();
                return number;
            }
            assert!(self.chunks.len() < CHUNKS_MAX, "one table holds at most 32 GiB of entries");
            self.memory.push(memory);
            self.chunks.push(fresh());
            low32(self.chunks.len() as u64 - 1)
        });
        let chunk = &mut self.chunks[number as usize];
        chunk.class = class;
        chunk.size = class_size(class);
        let words = (CHUNK_BYTES / chunk.size).div_ceil(64);
        chunk.dirty = vec![0; words].into_boxed_slice();
        chunk.frozen = vec![0; words].into_boxed_slice();
        chunk.bump = 0;
        chunk.free = NONE;
        chunk.open_at = low32(self.open[class].len() as u64);
        self.open[class].push(number);
        number
    }

    fn close_chunk(&mut self, number: u32, class: usize) {
        let list = &mut self.open[class];
        if list.len() == 1 {
            // It is the class's only room, so it is kept: otherwise a class with a single entry would allocate and free
            // a chunk each time.
            return;
        }
        let at = self.chunks[number as usize].open_at as usize;
        list.swap_remove(at);
        if let Some(&moved) = list.get(at) {
            self.chunks[moved as usize].open_at = low32(at as u64);
        }
        let keep = SPARE_MIN.max(self.chunks.len() / 16);
        let chunk = &mut self.chunks[number as usize];
        chunk.open_at = NONE;
        if self.spare.len() < keep {
            self.spare.push(number);
        } else {
            self.touched_units -= chunk.touched as usize;
            chunk.touched = 0;
            self.memory[number as usize] = Box::default();
            chunk.dirty = Box::default();
            chunk.frozen = Box::default();
            self.vacant.push(number);
        }
    }

    /// Sets the block's "changed" bit.
    pub(super) fn set_dirty(&mut self, handle: u32) {
        let chunk = &mut self.chunks[(handle >> UNIT_BITS) as usize];
        let nth = (handle & UNIT_MASK) as usize * UNIT / chunk.size;
        chunk.dirty[nth / 64] |= 1 << (nth % 64);
    }

    /// Clears the block's bits.
    pub(super) fn clear_dirty(&mut self, handle: u32) {
        let chunk = &mut self.chunks[(handle >> UNIT_BITS) as usize];
        let nth = (handle & UNIT_MASK) as usize * UNIT / chunk.size;
        chunk.dirty[nth / 64] &= !(1 << (nth % 64));
        chunk.frozen[nth / 64] &= !(1 << (nth % 64));
    }

    /// Begins a checkpoint: blocks with the "changed" bit are what [`Slab::next_frozen`] returns from now on; all
    /// "changed" bits are cleared.
    pub(super) fn freeze(&mut self) {
        for chunk in &mut self.chunks {
            debug_assert!(chunk.frozen.iter().all(|word| *word == 0), "the last walk ended");
            std::mem::swap(&mut chunk.dirty, &mut chunk.frozen);
        }
    }

    /// Clears the frozen bits of up to 64 neighbouring blocks, at most `max`, and appends their handles to `out`.
    /// `cursor` starts at (0, 0) and is advanced. False when there are no more.
    pub(super) fn next_frozen(
        &mut self,
        cursor: &mut (usize, usize),
        max: usize,
        out: &mut Vec<u32>,
    ) -> bool {
        while let Some(chunk) = self.chunks.get_mut(cursor.0) {
            while let Some(word) = chunk.frozen.get_mut(cursor.1) {
                let first = cursor.1 * 64;
                let mut left = max;
                while *word != 0 && left > 0 {
                    let nth = first + word.trailing_zeros() as usize;
                    let unit = low32((nth * chunk.size / UNIT) as u64);
                    out.push((low32(cursor.0 as u64) << UNIT_BITS) | unit);
                    *word &= *word - 1;
                    left -= 1;
                }
                // The rest of this word comes with the next call.
                if *word != 0 {
                    return true;
                }
                cursor.1 += 1;
                if left < max {
                    return true;
                }
            }
            *cursor = (cursor.0 + 1, 0);
        }
        false
    }

    /// Bytes of memory touched: what the blocks cost in resident memory.
    pub(super) fn bytes(&self) -> usize {
        self.touched_units * UNIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_what_was_asked_for_and_wastes_little() {
        for size in 1..=BLOCK_MAX {
            let class = class_of(size);
            assert!(class < CLASSES);
            assert!(class_size(class) >= size, "{size}");
            assert!(class_size(class) - size < 8.max(size / 14), "{size} -> {}", class_size(class));
            assert_eq!(class_size(class) % UNIT, 0);
        }
    }

    #[test]
    fn blocks_do_not_overlap_and_memory_comes_back() {
        let mut slab = Slab::new();
        let handles: Vec<_> = (0..400_000).map(|n| slab.alloc(60 + n % 90)).collect();
        for (n, &h) in handles.iter().enumerate() {
            let len = slab.capacity(h);
            slab.block_mut(h)[..len].fill(u8::try_from(n % 251).unwrap());
        }
        for (n, &h) in handles.iter().enumerate() {
            let want = u8::try_from(n % 251).unwrap();
            let block = &slab.block(h)[..slab.capacity(h)];
            assert!(block.len() >= 60 + n % 90 && block.iter().all(|b| *b == want));
        }
        let full = slab.bytes();
        for h in handles {
            slab.free(h);
        }
        assert!(slab.vacant.len() > slab.chunks.len() / 3, "memory goes back");
        assert!(slab.bytes() < full);
    }

    #[test]
    fn dirty_bits_are_handed_out_once_and_never_for_a_freed_block() {
        let mut slab = Slab::new();
        let handles: Vec<_> = (0..3000).map(|_| slab.alloc(200)).collect();
        for &h in &handles[..2000] {
            slab.set_dirty(h);
        }
        for &h in &handles[..500] {
            slab.free(h);
        }
        let mut got = Vec::new();
        let mut cursor = (0, 0);
        slab.freeze();
        slab.set_dirty(handles[2500]);
        slab.free(handles[1999]);
        while slab.next_frozen(&mut cursor, 7, &mut got) {}
        assert_eq!(got, handles[500..1999]);
        got.clear();
        for want in [&handles[2500..2501], &[]] {
            slab.freeze();
            let mut cursor = (0, 0);
            while slab.next_frozen(&mut cursor, usize::MAX, &mut got) {}
            assert_eq!(got, want);
            got.clear();
        }
    }
}

//! Timers: a lazy wheel that holds each entry exactly once.
//!
//! Used by `table.rs` only. An entry is armed when it is created and *not* touched when its deadline moves on. At the
//! old deadline the table gets the entry back, computes its present deadline from the header, and arms it again or
//! fires it. So an event costs no timer work at all, and a key is looked at once per window at most.
//!
//! Level 0 has 1024 buckets of 64 ms, level 1 has 256 of 65 s, level 2 has 256 of 4.7 h. An entry beyond that waits in
//! the furthest bucket and is placed again when that one comes. When time reaches a bucket, its entries move to a heap
//! that is exact to the millisecond. However far time jumps, only non-empty buckets are visited.
//!
//! Invariants: every non-empty bucket is after `tick`; a deadline is never reported late (`next` may be early). Before
//! the time is known, entries are kept unplaced, because their bucket depends on it (a restore arms millions of entries
//! before the first look at a clock).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::slab::low32;

/// Level 0's buckets, as a power of two of milliseconds.
const TICK_BITS: u32 = 6;

#[derive(Debug)]
struct Level {
    /// A bucket's width, as a power of two of milliseconds.
    shift: u32,
    buckets: Vec<Vec<u32>>,
    /// One bit per bucket: holds something.
    full: Vec<u64>,
}

impl Level {
    fn new(shift: u32, buckets: usize) -> Level {
        Level { shift, buckets: vec![Vec::new(); buckets], full: vec![0; buckets / 64] }
    }

    fn len(&self) -> i64 {
        i64::try_from(self.buckets.len()).unwrap_or(i64::MAX)
    }

    fn slot(&self, tick: i64) -> usize {
        let mask = self.buckets.len() as u64 - 1;
        low32(tick.cast_unsigned() & mask) as usize
    }

    fn push(&mut self, tick: i64, handle: u32) {
        let slot = self.slot(tick);
        self.full[slot / 64] |= 1 << (slot % 64);
        self.buckets[slot].push(handle);
    }

    /// Calls `f` for each non-empty bucket in `(after, until]`, in order, with its distance from `after` in ticks,
    /// until `f` says stop.
    fn visit(&mut self, after: i64, until: i64, mut f: impl FnMut(&mut Self, i64, usize) -> bool) {
        let mut left = until.saturating_sub(after).min(self.len() - 1);
        let mut at = self.slot(after.wrapping_add(1));
        let mut ticks = 1;
        while left > 0 {
            let bit = at % 64;
            let run = i64::from(64 - low32(bit as u64)).min(left);
            let mut bits = self.full[at / 64] >> bit;
            if run < 64 {
                bits &= (1 << run) - 1;
            }
            while bits != 0 {
                let skip = bits.trailing_zeros();
                if !f(self, ticks + i64::from(skip), at + skip as usize) {
                    return;
                }
                bits &= bits - 1;
            }
            left -= run;
            ticks += run;
            at = self.slot(after.wrapping_add(ticks));
        }
    }

    /// Moves everything in `(after, until]` to `out`.
    fn take(&mut self, after: i64, until: i64, out: &mut Vec<u32>) {
        self.visit(after, until, |level, _, slot| {
            level.full[slot / 64] &= !(1 << (slot % 64));
            out.append(&mut std::mem::take(&mut level.buckets[slot]));
            true
        });
    }

    /// When the first non-empty bucket after `after` begins, in milliseconds.
    fn next(&mut self, after: i64) -> i64 {
        let mut next = i64::MAX;
        let shift = self.shift;
        self.visit(after, i64::MAX, |_, ticks, _| {
            next = (after + ticks) << shift;
            false
        });
        next
    }
}

/// The timers of one table.
#[derive(Debug)]
pub(super) struct Wheel {
    /// The level 0 bucket that time has reached; `None` before time is known.
    tick: Option<i64>,
    levels: [Level; 3],
    /// Entries of buckets that time has reached, exact to the millisecond.
    near: BinaryHeap<Reverse<(i64, u32)>>,
    /// Entries armed before the time was known, and the earliest of their deadlines.
    unplaced: Vec<u32>,
    unplaced_next: i64,
    /// When the first bucket that holds something begins.
    bucket_next: i64,
}

impl Wheel {
    pub(super) fn new() -> Wheel {
        Wheel {
            tick: None,
            levels: [
                Level::new(TICK_BITS, 1024),
                Level::new(TICK_BITS + 10, 256),
                Level::new(TICK_BITS + 18, 256),
            ],
            near: BinaryHeap::new(),
            unplaced: Vec::new(),
            unplaced_next: i64::MAX,
            bucket_next: i64::MAX,
        }
    }

    /// Whether the time is known.
    #[inline]
    pub(super) fn is_started(&self) -> bool {
        self.tick.is_some()
    }

    /// Arms an entry. It must not be armed already.
    pub(super) fn arm(&mut self, handle: u32, deadline: i64) {
        let Some(now) = self.tick else {
            self.unplaced.push(handle);
            self.unplaced_next = self.unplaced_next.min(deadline);
            return;
        };
        if deadline >> TICK_BITS <= now {
            self.near.push(Reverse((deadline, handle)));
            return;
        }
        for level in &mut self.levels {
            let down = level.shift - TICK_BITS;
            let (tick, now) = (deadline >> level.shift, now >> down);
            if tick - now < level.len() {
                level.push(tick, handle);
                self.bucket_next = self.bucket_next.min(tick << level.shift);
                return;
            }
        }
        let [.., last] = &mut self.levels;
        let tick = (now >> (last.shift - TICK_BITS)) + last.len() - 1;
        last.push(tick, handle);
        self.bucket_next = self.bucket_next.min(tick << last.shift);
    }

    /// Advances time to `now` (never back) and appends to `out` every entry to look at; each must be armed again.
    pub(super) fn advance(&mut self, now: i64, out: &mut Vec<u32>) {
        let to = now >> TICK_BITS;
        let Some(from) = self.tick else {
            self.tick = Some(to);
            out.append(&mut std::mem::take(&mut self.unplaced));
            self.unplaced_next = i64::MAX;
            return;
        };
        if to <= from {
            return;
        }
        self.tick = Some(to);
        if now < self.bucket_next {
            return;
        }
        self.bucket_next = i64::MAX;
        for level in &mut self.levels {
            let down = level.shift - TICK_BITS;
            level.take(from >> down, to >> down, out);
            self.bucket_next = self.bucket_next.min(level.next(to >> down));
        }
    }

    /// The earliest of the entries whose bucket time has reached.
    pub(super) fn peek(&self) -> Option<(i64, u32)> {
        self.near.peek().map(|Reverse(first)| *first)
    }

    /// Removes the entry that [`Wheel::peek`] shows.
    pub(super) fn pop(&mut self) -> Option<(i64, u32)> {
        self.near.pop().map(|Reverse(first)| first)
    }

    /// Returns memory that only a jump over many timers needed.
    pub(super) fn relax(&mut self) {
        if self.near.is_empty() {
            self.near.shrink_to(16 * 1024);
        }
    }

    /// No timer is due before this; `i64::MAX` without timers.
    pub(super) fn next(&self) -> i64 {
        let near = self.peek().map_or(i64::MAX, |(deadline, _)| deadline);
        near.min(self.bucket_next).min(self.unplaced_next)
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self, entries: usize) -> usize {
        // Buckets grow by doubling: three quarters full on average.
        let buckets: usize = self.levels.iter().map(|l| l.buckets.len() * size_of::<Vec<u32>>()).sum();
        buckets + entries * 16 / 3 + self.near.capacity() * size_of::<(i64, u32)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arms one timer per deadline and steps through `times`: what comes near must come at or before its deadline's
    /// step, and everything does come.
    fn check(start: i64, deadlines: &[i64], times: &[i64]) {
        let mut wheel = Wheel::new();
        let mut out = Vec::new();
        wheel.advance(start, &mut out);
        for (n, &deadline) in deadlines.iter().enumerate() {
            wheel.arm(u32::try_from(n).unwrap(), deadline);
        }
        let mut open: std::collections::BTreeSet<(i64, u32)> =
            deadlines.iter().enumerate().map(|(n, d)| (*d, u32::try_from(n).unwrap())).collect();
        for &now in times {
            if let Some(first) = open.first() {
                assert!(wheel.next() <= first.0, "late: {} > {}", wheel.next(), first.0);
            }
            wheel.advance(now, &mut out);
            for handle in out.drain(..) {
                wheel.arm(handle, deadlines[handle as usize]);
            }
            while let Some((deadline, handle)) = wheel.peek().filter(|(d, _)| *d <= now) {
                wheel.pop();
                assert!(open.remove(&(deadline, handle)), "{deadline} twice");
            }
            assert!(open.first().is_none_or(|first| first.0 > now), "missed at {now}: {open:?}");
        }
        assert!(open.is_empty(), "left over: {open:?}");
        assert_eq!(wheel.next(), i64::MAX);
    }

    const HOUR: i64 = 3_600_000;

    #[test]
    fn every_timer_comes_at_its_millisecond_and_no_later() {
        for start in [0, 1_700_000_000_000, -5_000_000] {
            let deadlines: Vec<_> = [
                0,
                1,
                63,
                64,
                65,
                30_000,
                65_535,
                65_536,
                65_600,
                131_072,
                HOUR,
                5 * HOUR,
                100 * HOUR,
                5000 * HOUR,
            ]
            .iter()
            .map(|d| start + d)
            .collect();
            let far = start + 6000 * HOUR;
            check(start, &deadlines, &[far]);
            check(start, &deadlines, &[start + 64, start + 29_999, start + 30_000, start + 4 * HOUR, far]);
            let steps: Vec<_> = (1..200_000).map(|n| start + n).chain([start + 99 * HOUR, far]).collect();
            check(start, &deadlines, &steps);
        }
    }

    #[test]
    fn random_jumps_lose_nothing() {
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from((seed >> 33) % below).unwrap()
        };
        for _ in 0..300 {
            let start = random(2_000_000_000);
            let deadlines: Vec<_> = (0..100)
                .map(|_| {
                    let scale = 1 << random(36);
                    start + random(scale)
                })
                .collect();
            let mut now = start;
            let mut times: Vec<_> = (0..200)
                .map(|_| {
                    let scale = 1 << random(30);
                    now += random(scale);
                    now
                })
                .collect();
            times.push(start + (1 << 37));
            check(start, &deadlines, &times);
        }
    }
}

//! Estimates how many different values there are, in at most 4 KiB: a HyperLogLog sketch. The one home of
//! `datasketches`.
//!
//! It has 2^12 registers of 8 bits. The standard error is 1.04 / sqrt(4096) = 1.6 %: two of three results are that
//! near, 99.7 % within three times that; up to a few hundred values the count is practically exact. The estimate
//! depends neither on the order of the values nor on how sketches were merged, so a result is the same after any
//! restart, and for sessions however they were merged.

use std::hash::{Hash, Hasher};

use datasketches::hll::{HllSketch, HllType, HllUnion};

use crate::state::StateError;

/// Binary logarithm of the number of registers. Part of the format on disk.
const LG_REGISTERS: u8 = 12;

/// A sketch that estimates how many different values there were.
#[derive(Clone, PartialEq)]
pub(super) struct Sketch(HllSketch);

impl std::fmt::Debug for Sketch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sketch({})", self.count())
    }
}

/// Hashes only these bytes, without what the standard library adds to the hash of a text.
struct Raw<'a>(&'a [u8]);

impl Hash for Raw<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0);
    }
}

impl Sketch {
    pub(super) fn new() -> Sketch {
        Sketch(HllSketch::new(LG_REGISTERS, HllType::Hll8).expect("4 to 21 is allowed"))
    }

    /// Adds a value, given as the text that tells values apart.
    pub(super) fn add(&mut self, text: &str) {
        self.0.update(Raw(text.as_bytes()));
    }

    /// Adds everything that another sketch has seen.
    pub(super) fn merge(&mut self, other: &Sketch) {
        let mut union = HllUnion::new(LG_REGISTERS).expect("4 to 21 is allowed");
        union.update(&self.0);
        union.update(&other.0);
        self.0 = union.to_sketch(HllType::Hll8);
    }

    /// The estimated number of different values.
    pub(super) fn count(&self) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "never negative, and far below 2^63"
        )]
        let count = self.0.composite_estimate().round() as u64;
        count
    }

    /// Apache DataSketches' own format, which carries a version.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.serialize()
    }

    /// Reads [`Sketch::to_bytes`].
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Sketch, StateError> {
        let sketch = HllSketch::deserialize(bytes).map_err(|e| StateError(format!("a sketch: {e}")))?;
        if sketch.lg_config_k() != LG_REGISTERS || sketch.target_type() != HllType::Hll8 {
            return Err(StateError("a sketch of another size".into()));
        }
        Ok(Sketch(sketch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: std::ops::Range<u64>) -> Sketch {
        let mut sketch = Sketch::new();
        values.for_each(|n| sketch.add(&format!("value-{n}")));
        sketch
    }

    fn error(sketch: &Sketch, truth: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let (count, truth) = (sketch.count() as f64, truth as f64);
        (count - truth).abs() / truth
    }

    #[test]
    fn counts_are_within_the_bound() {
        assert_eq!(Sketch::new().count(), 0);
        for n in [1, 2, 10, 100, 300] {
            assert_eq!(of(0..n).count(), n, "small ones are exact");
        }
        // One after the other over a wide range: each within three standard errors, half of them within one.
        let mut within_one = 0;
        let sizes = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000];
        for n in sizes {
            let error = error(&of(0..n), n);
            assert!(error < 3.0 * 0.01625, "{n}: {error}");
            within_one += usize::from(error < 0.01625);
        }
        assert!(within_one >= sizes.len() / 2, "{within_one}");
    }

    #[test]
    fn merging_is_as_if_one_had_seen_everything() {
        for (left, right) in [(0..5, 3..9), (0..5, 0..50_000), (0..40_000, 20_000..60_000), (0..0, 0..7)] {
            let mut merged = of(left.clone());
            merged.merge(&of(right.clone()));
            let mut other = of(right.clone());
            other.merge(&of(left.clone()));
            let mut whole = of(left.clone());
            right.clone().for_each(|n| whole.add(&format!("value-{n}")));
            assert_eq!(merged.count(), whole.count(), "{left:?} {right:?}");
            assert_eq!(merged.count(), other.count(), "{left:?} {right:?}");
        }
    }

    #[test]
    fn it_comes_back_from_its_bytes() {
        for n in [0, 3, 100, 5_000] {
            let sketch = of(0..n);
            let mut back = Sketch::from_bytes(&sketch.to_bytes()).unwrap();
            assert_eq!(back.count(), sketch.count());
            assert!(sketch.to_bytes().len() < 5_000);
            back.add("value-0");
            back.add("one more");
            let mut both = sketch;
            both.add("value-0");
            both.add("one more");
            assert_eq!(back.count(), both.count(), "it goes on as if nothing had been");
        }
        assert!(Sketch::from_bytes(b"").is_err());
        let small = HllSketch::new(10, HllType::Hll8).unwrap();
        assert!(Sketch::from_bytes(&small.serialize()).is_err(), "another size");
    }

    /// Never edit: sketches on users' disks have this format.
    #[test]
    fn the_bytes_are_those_on_users_disks() {
        let bytes = of(0..2).to_bytes();
        assert_eq!(bytes, FIXTURE, "{bytes:?}");
        assert_eq!(Sketch::from_bytes(FIXTURE).unwrap().count(), 2);
    }

    const FIXTURE: &[u8] = &[2, 1, 7, 12, 3, 8, 2, 8, 81, 184, 5, 8, 82, 219, 27, 17];
}

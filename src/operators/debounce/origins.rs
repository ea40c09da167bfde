//! Where pending entries began, for topologies without a changelog. Their committed offsets must stay before the oldest
//! event whose effect is not durable yet. Separate from the table, so that other topologies do not pay for it.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use crate::model::Origin;

/// The first event of every pending key.
#[derive(Default)]
pub(super) struct Origins {
    first: HashMap<Bytes, Origin, ahash::RandomState>,
    order: BTreeSet<(u16, i64, Bytes)>,
}

impl Origins {
    /// An event of a key: the first one counts.
    pub(super) fn add(&mut self, key: &[u8], origin: Origin) {
        if !self.first.contains_key(key) {
            let key = Bytes::copy_from_slice(key);
            self.order.insert((origin.topic, origin.offset, key.clone()));
            self.first.insert(key, origin);
        }
    }

    /// Where the key's entry began.
    pub(super) fn get(&self, key: &[u8]) -> Origin {
        self.first.get(key).copied().unwrap_or_default()
    }

    /// Removes the key's entry; returns where it began.
    pub(super) fn take(&mut self, key: &[u8]) -> Origin {
        let Some((key, origin)) = self.first.remove_entry(key) else { return Origin::default() };
        self.order.remove(&(origin.topic, origin.offset, key));
        origin
    }

    /// The lowest offset of this topic at which a pending entry began.
    pub(super) fn oldest(&self, topic: u16) -> Option<i64> {
        let from = (topic, i64::MIN, Bytes::new());
        self.order.range(from..).next().filter(|(t, _, _)| *t == topic).map(|(_, offset, _)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_event_holds_the_offset_until_its_entry_leaves() {
        let at = |offset| Origin { topic: 0, partition: 0, offset };
        let mut origins = Origins::default();
        for (key, offset) in [("a", 5), ("b", 6), ("a", 7)] {
            origins.add(key.as_bytes(), at(offset));
        }
        assert_eq!((origins.oldest(0), origins.oldest(1)), (Some(5), None));
        assert_eq!(origins.take(b"a"), at(5));
        assert_eq!(origins.oldest(0), Some(6));
        origins.add(b"a", at(8));
        assert_eq!(origins.take(b"b"), at(6));
        assert_eq!(origins.oldest(0), Some(8));
    }
}

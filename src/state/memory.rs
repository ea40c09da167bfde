//! State in memory: for `test`, `simulate`, `dev` and the crash model.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Backend, Row, StateError, Visit};

/// An ordered map in memory. The mutex is shared with the commit thread, or with the crash model, which restores a task
/// from it.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    rows: Mutex<BTreeMap<Bytes, Bytes>>,
}

impl MemoryBackend {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<Bytes, Bytes>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every row, sorted: for comparisons in the crash model.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Bytes, Bytes)> {
        self.rows().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

impl Backend for MemoryBackend {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.rows().get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StateError> {
        if from >= to {
            return Ok(());
        }
        for (k, v) in self.rows().range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if visit(k, v).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, rows: &[Row]) -> Result<(), StateError> {
        let mut map = self.rows();
        for (key, value) in rows {
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
        Ok(())
    }
}

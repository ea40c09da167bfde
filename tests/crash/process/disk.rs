//! A machine's disk: the local state of its tasks, which outlives processes.

use std::rc::Rc;
use std::sync::Arc;

use slackwater::state::{Backend, MemoryBackend, Row};

/// A task's local state on one machine: it outlives processes. Remembers its writes, for a loss of power.
#[derive(Clone, Default)]
pub struct Disk {
    pub(super) backend: Arc<MemoryBackend>,
    writes: Rc<std::cell::RefCell<Vec<Vec<Row>>>>,
}

impl Disk {
    pub(super) fn write(&self, rows: Vec<Row>) -> Result<(), String> {
        self.backend.write(&rows).map_err(|e| e.to_string())?;
        self.writes.borrow_mut().push(rows);
        Ok(())
    }

    /// Whether no other process has it open.
    pub(super) fn is_free(&self) -> bool {
        Arc::strong_count(&self.backend) == 1
    }

    /// The last `n` writes never reached the disk.
    pub fn lose(&mut self, n: usize) {
        let keep = self.writes.borrow().len().saturating_sub(n);
        let writes: Vec<Vec<Row>> = self.writes.borrow()[..keep].to_vec();
        *self = Disk::default();
        for rows in writes {
            self.write(rows).expect("memory takes everything");
        }
    }
}

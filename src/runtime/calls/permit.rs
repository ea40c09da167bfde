//! Whether calls of an assignment may still be sent, and how many are in flight.
//!
//! A task that leaves starts no more calls, and waits a moment for those in flight: their answers become part of its
//! last checkpoint, so its next owner does not make them again, and calls of one key do not overlap between two owners.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by the worker, which closes it, and the calls of one assignment.
#[derive(Clone, Debug, Default)]
pub struct CallGate(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    closed: bool,
    under_way: usize,
}

impl CallGate {
    /// Held for moments, by a worker or a call that begins or ends.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call is about to be sent. False if it may not be; after true, [`CallGate::end`] must follow.
    #[must_use]
    pub fn begin(&self) -> bool {
        let mut state = self.state();
        state.under_way += usize::from(!state.closed);
        !state.closed
    }

    /// The call was answered.
    pub fn end(&self) {
        self.state().under_way -= 1;
    }

    /// Allows no more calls.
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// Whether no call is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state().under_way == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_calls_end_and_none_begin() {
        let gate = CallGate::default();
        assert!(gate.begin() && !gate.is_idle());
        gate.close();
        assert!(!gate.begin(), "closed");
        assert!(!gate.is_idle(), "one is under way");
        gate.end();
        assert!(gate.is_idle());
    }
}

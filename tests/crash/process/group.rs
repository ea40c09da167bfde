//! The group's side of a process: partitions are given and taken away, and the poller looks up where they start.

use std::cell::Cell;
use std::rc::Rc;

use super::{Mail, Process};
use crate::broker::CommittedOffset;
use crate::env::{Env, note};
use crate::mutation::Mutation;

/// Is the partition still ours? Set before the group can give it to anybody else.
#[derive(Clone, Default)]
pub struct Lease(Rc<Cell<bool>>);

impl Lease {
    pub fn end(&self) {
        self.0.set(true);
    }

    pub fn is_over(&self) -> bool {
        self.0.get()
    }
}

impl Process {
    /// The group gives it a partition.
    pub fn give(&mut self, partition: i32) {
        if !self.fresh.contains(&partition) {
            self.fresh.push(partition);
        }
    }

    /// Has it, or is it about to get it?
    pub fn holds(&self, partition: i32) -> bool {
        let assigning = |m: &Mail| matches!(m, Mail::Assign { partition: p, .. } if *p == partition);
        self.fresh.contains(&partition)
            || self.mail.iter().any(assigning)
            || self.slots.get(&partition).is_some_and(|s| !s.lease.is_over() && !s.assigned.is_leaving())
    }

    pub fn has_slot(&self, partition: i32) -> bool {
        self.slots.contains_key(&partition)
    }

    /// The group takes it away, politely or by telling it that it is gone already.
    pub fn revoke(&mut self, partition: i32, lost: bool) {
        self.fresh.retain(|p| *p != partition);
        if lost {
            self.end_lease(partition);
        }
        self.mail.push_back(Mail::Revoke { partition, lost });
    }

    /// It was released, or it took too long.
    pub fn end_lease(&mut self, partition: i32) {
        if let Some(slot) = self.slots.get(&partition) {
            slot.lease.end();
        }
        for mail in &self.mail {
            if let Mail::Assign { partition: p, lease, .. } = mail
                && *p == partition
            {
                lease.end();
            }
        }
    }

    /// The poller looks up where new partitions start; it waits while a transaction holds offsets of one of them.
    pub fn look_up(&mut self, env: &mut Env) -> bool {
        let mut found = Vec::new();
        for &partition in &self.fresh {
            let mut starts = Vec::new();
            for input in env.inputs(partition) {
                starts.push(match env.broker.committed(input) {
                    CommittedOffset::Pending if env.is(Mutation::PendingOffsetsIgnored) => {
                        env.broker.committed_unstable(input)
                    }
                    CommittedOffset::Pending => {
                        env.tally.pending += 1;
                        return false;
                    }
                    CommittedOffset::At(next) => Some(next),
                    CommittedOffset::None => None,
                });
            }
            found.push((partition, starts));
        }
        self.fresh.clear();
        let busy = !found.is_empty();
        for (partition, starts) in found {
            note!(env, "p{} is given {partition} from {starts:?}", self.number);
            self.mail.push_back(Mail::Assign { partition, starts, lease: Lease::default() });
        }
        busy
    }
}

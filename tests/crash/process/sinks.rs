//! The sinks' and the API's side of a process: rows are written, acknowledged and refused, calls are answered.

use slackwater::model::Reply;
use slackwater::runtime::Input as TaskInput;

use super::{Flight, Parcel, Process};
use crate::env::{Env, note};
use crate::mutation::Mutation;
use crate::shape::Shape;

impl Process {
    /// A sink takes one of the rows: the first of its key.
    pub fn write(&mut self, env: &mut Env, nth: usize) -> Result<bool, String> {
        if self.parcels.is_empty() {
            return Ok(false);
        }
        let n = first_of_key(env.shape, &self.parcels, nth % self.parcels.len());
        let parcel = &self.parcels[n];
        let owner = env.owners.get(&parcel.handle.id.partition) == Some(&self.machine);
        if env.shape.is_table(parcel.node) && (parcel.lease.is_over() || !owner || self.expelled) {
            // A member cut off from the group is cut off from the table as well. Nothing else keeps a late write of a
            // former owner from a newer row: a table has no fence.
            self.parcels.remove(n);
            return Ok(true);
        }
        if env.is_refused(parcel.node, &parcel.row) {
            env.ledger.refused(parcel.delivery);
        } else {
            env.write(parcel.node, parcel.delivery, &parcel.row);
            let last = env.ledger.last_event(parcel.delivery);
            note!(env, "p{} wrote {last:?} to {}", self.number, parcel.node);
            if !env.calm && env.dice.chance(60) {
                // Written, but the answer was lost: the batch is tried again.
                return Ok(true);
            }
        }
        let parcel = self.parcels.remove(n);
        self.acks.push(parcel);
        Ok(true)
    }

    /// The acknowledgement of a row comes back: late, in any order but a key's own.
    pub fn acknowledge(&mut self, env: &mut Env, nth: usize) -> Result<bool, String> {
        if self.acks.is_empty() {
            return Ok(false);
        }
        let n = first_of_key(env.shape, &self.acks, nth % self.acks.len());
        let Parcel { handle, epoch, node, row, .. } = self.acks.remove(n);
        let refused = env.is_refused(node, &row) && !env.is(Mutation::RefusedCountedAsAcked);
        note!(env, "p{} hears of {}'s row in {node}, refused: {refused}", self.number, handle.generation);
        if env.is(Mutation::CommitWithoutWaiting) && row.reply_to.is_none() {
            // Counted already.
            return Ok(true);
        }
        let input = match (row.reply_to, refused) {
            (Some(call), false) => {
                // Some sinks answer with what now stands there (`RETURNING`).
                let row = env.dice.chance(500).then(|| row.record.value.show());
                env.tally.given_back += u64::from(row.is_some());
                TaskInput::Reply { node, call, reply: Reply::Delivered(row) }
            }
            (Some(call), true) => {
                TaskInput::Reply { node, call, reply: Reply::Refused { message: "no".into() } }
            }
            (None, false) => TaskInput::Acked { epoch, rows: 1 },
            (None, true) => TaskInput::Refused { epoch, node, record: row.record, message: "no".into() },
        };
        self.feed(env, handle, input)?;
        Ok(true)
    }

    /// A call is answered.
    pub fn reply(&mut self, env: &mut Env, nth: usize) -> Result<bool, String> {
        if self.calls.is_empty() {
            return Ok(false);
        }
        let Flight { handle, node, call } = self.calls.remove(nth % self.calls.len());
        let reply = env.answer(&call);
        note!(env, "p{} hears of {}'s call {}: {reply:?}", self.number, handle.generation, call.id);
        self.feed(env, handle, TaskInput::Reply { node, call: call.id, reply })?;
        Ok(true)
    }

    /// The process is gone. What was on its way to a sink may still arrive there, in order.
    pub fn die(mut self, env: &mut Env) {
        let mut arriving = env.dice.below(self.parcels.len() + 1);
        while arriving > 0 && !self.parcels.is_empty() {
            arriving -= 1;
            let nth = env.dice.below(self.parcels.len());
            if self.write(env, nth).is_err() {
                return;
            }
        }
    }
}

/// The first parcel of the same key and sink as the `n`-th: sinks keep the order of a key.
fn first_of_key(shape: &Shape, parcels: &[Parcel], n: usize) -> usize {
    let (node, key) = (parcels[n].node, &parcels[n].row.record.key);
    if key.is_none() || shape.is_dead_letter(node) {
        return n;
    }
    parcels.iter().position(|p| p.node == node && p.row.record.key == *key).unwrap_or(n)
}

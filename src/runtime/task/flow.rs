//! How records and time move through the graph.
//!
//! Open work is on a stack: depth first, in declared order. A record that goes to one node only is passed on directly,
//! without the stack.

use std::sync::Arc;

use super::{Delivery, Step, Task, TaskError, too_large};
use crate::model::{Record, Timestamp};
use crate::operators::{Cx, Emit, Operator, OperatorError};

/// A record's way into a node.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub(super) node: usize,
    pub(super) input: u16,
    pub(super) stream: Timestamp,
    /// It must not move the node's clock: it has moved it before, or never does.
    pub(super) timed: bool,
}

/// Open work.
pub(super) enum Work {
    Record(Arrival, Record),
    Time { node: usize },
    Watermark { node: usize, input: u16, stream: Timestamp },
    Pass { node: usize },
}

impl Task {
    /// Calls into an operator; its effects become work and parts of `step`.
    pub(super) fn with_op(
        &mut self,
        n: usize,
        input: u16,
        now: Timestamp,
        call: impl FnOnce(&mut dyn Operator, &mut Cx<'_>) -> Result<(), OperatorError>,
        step: &mut Step,
    ) -> Result<(), TaskError> {
        self.call(n, input, now, call, step)?;
        self.push_emits(n);
        Ok(())
    }

    /// As [`Task::with_op`], without what the operator emitted.
    fn call(
        &mut self,
        n: usize,
        input: u16,
        now: Timestamp,
        call: impl FnOnce(&mut dyn Operator, &mut Cx<'_>) -> Result<(), OperatorError>,
        step: &mut Step,
    ) -> Result<(), TaskError> {
        let node = &mut self.nodes[n];
        let mut cx =
            Cx::new(now, node.clock, input, &mut self.stores, &node.own, &mut self.effects, &mut node.tally);
        let result = call(node.op.as_mut(), &mut cx);
        match result {
            Ok(()) => {}
            Err(OperatorError::Reject(reject)) => self.effects.rejects.push(*reject),
            Err(OperatorError::Fatal(e)) => return Err(TaskError::State(e)),
        }
        if !self.taps.is_empty() {
            self.show(n, step);
        }
        let global = self.global[n];
        for reason in self.effects.drops.drain(..) {
            step.drops.push((global, reason));
        }
        for call in self.effects.calls.drain(..) {
            step.calls.push((global, call));
        }
        let gather = self.nodes[n].message_bytes_max;
        for row in self.effects.rows.drain(..) {
            if let Some(bytes_max) = gather {
                if row.exceeds(bytes_max) {
                    self.effects.rejects.push(too_large(row, bytes_max));
                    continue;
                }
                self.outputs.push((global, row));
                continue;
            }
            if row.reply_to.is_none() {
                self.outstanding += 1;
            }
            step.deliveries.push(Delivery { node: global, epoch: self.epoch, row });
        }
        let rejects = std::mem::take(&mut self.effects.rejects);
        for reject in rejects {
            let name = Arc::clone(&self.nodes[n].shown);
            self.nodes[n].tally.drop(reject.reason);
            let (epoch, policy) = (self.epoch, self.policy);
            self.reject(reject, &name, global, epoch, policy, step)?;
        }
        Ok(())
    }

    /// Puts what a node emitted on the stack, so that the first emit goes to the first child first.
    fn push_emits(&mut self, n: usize) {
        let mut emits = std::mem::take(&mut self.effects.emits);
        while let Some(emit) = emits.pop() {
            match emit {
                Emit::Record { port, record, stream } => {
                    let mut record = Some(record);
                    let children = &self.nodes[n].children;
                    let first = children.iter().position(|(p, _, _)| *p == port);
                    for (at, &(p, child, input)) in children.iter().enumerate().rev() {
                        if p != port {
                            continue;
                        }
                        let record = if Some(at) == first { record.take() } else { record.clone() };
                        if let Some(record) = record {
                            let (arrival, record) = self.sent(child, input, stream, record);
                            self.stack.push(Work::Record(arrival, record));
                        }
                    }
                }
                Emit::Watermark(stream) => {
                    for &(_, child, input) in self.nodes[n].children.iter().rev() {
                        self.stack.push(Work::Watermark { node: child, input, stream });
                    }
                }
            }
        }
        // The buffer is used again for the next call.
        self.effects.emits = emits;
    }

    fn due(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        node.op.deadline().is_some_and(|at| at <= node.clock)
    }

    /// Takes a record through a node, and on through those below it as long as there is one record for one node. The
    /// order is the stack's, without a detour over it.
    pub(super) fn process(
        &mut self,
        arrival: Arrival,
        record: Record,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<(), TaskError> {
        let (mut arrival, mut record) = (arrival, record);
        loop {
            let Arrival { node: n, input, stream, timed } = arrival;
            let node = &mut self.nodes[n];
            if !timed && node.timing.moved_by.takes(&record) {
                let seen = &mut node.seen[usize::from(input)];
                *seen = stream.max(*seen);
                node.clock = stream.max(node.clock);
                if node.timing.time_first && self.due(n) {
                    self.stack.push(Work::Record(Arrival { timed: true, ..arrival }, record));
                    self.stack.push(Work::Time { node: n });
                    return Ok(());
                }
            }
            self.nodes[n].tally.records_in += 1;
            let held = stream < record.ts;
            let on_record = |op: &mut dyn Operator, cx: &mut Cx<'_>| {
                cx.held = held;
                op.on_record(record, cx)
            };
            self.call(n, input, now, on_record, step)?;
            // Timers come after everything that the record itself caused, so they lie below that on the stack.
            if self.due(n) {
                self.stack.push(Work::Time { node: n });
            }
            match self.only_one(n) {
                Some((next, one)) => (arrival, record) = (next, one),
                None => {
                    self.push_emits(n);
                    return Ok(());
                }
            }
        }
    }

    /// The record that a node emitted, if it emitted just one and one node takes it.
    fn only_one(&mut self, n: usize) -> Option<(Arrival, Record)> {
        let ([Emit::Record { port, .. }], [(p, child, input)]) =
            (&self.effects.emits[..], &self.nodes[n].children[..])
        else {
            return None;
        };
        if port != p {
            return None;
        }
        let (node, input) = (*child, *input);
        let Some(Emit::Record { record, stream, .. }) = self.effects.emits.pop() else { return None };
        Some(self.sent(node, input, stream, record))
    }

    /// A record on its way to a node. The change that it carries is removed unless the node asks for changes.
    fn sent(&self, node: usize, input: u16, stream: Timestamp, mut record: Record) -> (Arrival, Record) {
        if !self.nodes[node].takes_changes {
            record.change = None;
        }
        (Arrival { node, input, stream, timed: false }, record)
    }

    pub(super) fn drain(&mut self, now: Timestamp, step: &mut Step) -> Result<(), TaskError> {
        while let Some(work) = self.stack.pop() {
            match work {
                Work::Record(arrival, record) => self.process(arrival, record, now, step)?,
                Work::Time { node: n } => {
                    let before = self.nodes[n].op.deadline();
                    let base = self.stack.len();
                    self.with_op(n, 0, now, |op, cx| op.on_time(cx), step)?;
                    let sent = self.stack.len() > base;
                    // The clock caused records, so the clock must be part of the checkpoint.
                    self.moved |= sent;
                    let progress = sent || self.nodes[n].op.deadline() != before;
                    if progress && self.due(n) {
                        self.stack.insert(base, Work::Time { node: n });
                    }
                }
                Work::Watermark { node: n, input, stream } => {
                    let node = &mut self.nodes[n];
                    let delays = node.delays[usize::from(input)];
                    let stream = if delays { stream.minus(self.delay) } else { stream };
                    let seen = &mut node.seen[usize::from(input)];
                    *seen = stream.max(*seen);
                    let all = node.seen.iter().copied().min().unwrap_or(stream);
                    if all > node.clock {
                        node.clock = all;
                        self.stack.push(Work::Pass { node: n });
                        if self.due(n) {
                            self.stack.push(Work::Time { node: n });
                        }
                    }
                }
                Work::Pass { node: n } => {
                    self.with_op(
                        n,
                        0,
                        now,
                        |op, cx| {
                            op.on_watermark(cx);
                            Ok(())
                        },
                        step,
                    )?;
                }
            }
        }
        Ok(())
    }
}

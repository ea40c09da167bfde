//! Decides whether a record may come in, before it is fed to the task.
//!
//! Two things may hold a record back. One is a schema that the record names and that is not known yet: a task may not
//! wait, so the record waits outside. The other is an operator directly below the record's source that [decides about
//! records](crate::operators::Operator::gates). Topics with neither are never asked about.

use std::sync::Arc;

use super::{Step, Task, TaskError};
use crate::formats::{Format, Formats};
use crate::model::{Record, Timestamp, Value};
#[cfg(test)]
use crate::operators::Operator;
use crate::operators::{Admits, Blocked, Reject};
use crate::topology::{NodeKind, OnFailure, Topology};

/// What decides about the records of one topic.
#[derive(Default)]
pub(super) struct Admission {
    /// The formats in which the records name schemas.
    schemas: Option<Schemas>,
    /// The operators that decide, by index in the task.
    gates: Vec<usize>,
}

impl Admission {
    pub(super) fn gates(&self) -> &[usize] {
        &self.gates
    }
}

struct Schemas {
    formats: Arc<Formats>,
    key: Option<Format>,
    value: Option<Format>,
}

impl Schemas {
    /// The formats of a topic that these sources read (by index in the topology); `None` if its records name no
    /// schemas.
    fn of(topology: &Topology, formats: &Arc<Formats>, sources: &[usize]) -> Option<Schemas> {
        let mut found = Schemas { formats: Arc::clone(formats), key: None, value: None };
        for n in sources {
            let NodeKind::Source(source) = &topology.nodes[*n].kind else { continue };
            let schema = |format: Format| Some(format).filter(|f| f.has_schema());
            found.key = found.key.or(schema(source.key_format()));
            found.value = found.value.or(schema(source.format()));
        }
        (found.key.is_some() || found.value.is_some()).then_some(found)
    }

    /// Whether all schemas that this record names are known. Unknown ones are looked up.
    fn are_known(&self, record: &Record) -> bool {
        let known = |format: Option<Format>, bytes: Option<&[u8]>| match (format, bytes) {
            (Some(format), Some(bytes)) => self.formats.is_ready(format, bytes),
            _ => true,
        };
        let value = match &record.value {
            Value::Bytes(bytes) => Some(&**bytes),
            Value::Null | Value::Json(_) => None,
        };
        // Both are evaluated, so that both look-ups begin at once.
        let (key, value) = (known(self.key, record.key.as_deref()), known(self.value, value));
        key && value
    }
}

impl Task {
    /// Finds what decides about the records of each topic, once the task's nodes exist.
    pub(super) fn set_admission(&mut self, topology: &Topology, formats: &Arc<Formats>) {
        let inputs = topology.inputs(self.id.sub);
        let admission = |(input, sources): (usize, &Vec<usize>)| {
            let behind = sources.iter().flat_map(|n| &self.nodes[*n].children).map(|(_, child, _)| *child);
            let mut gates: Vec<usize> = behind.filter(|n| self.nodes[*n].op.gates()).collect();
            gates.sort_unstable();
            gates.dedup();
            Admission { schemas: Schemas::of(topology, formats, &inputs[input].sources), gates }
        };
        self.admission = self.sources.iter().enumerate().map(admission).collect();
    }

    /// Whether [`Task::admits`] must be asked about records of this topic. Never changes.
    #[must_use]
    pub fn asks(&self, topic: usize) -> bool {
        let Admission { schemas, gates } = &self.admission[topic];
        schemas.is_some() || !gates.is_empty()
    }

    /// Whether this record of a topic may come in now. Asked only about the next record, since those behind it come
    /// later anyway. A record that is refused is fed like any other; [`Task::step`] then treats it as `errors` says.
    #[must_use]
    pub fn admits(&self, topic: usize, record: &Record, now: Timestamp) -> Admits {
        if self.admission[topic].schemas.as_ref().is_some_and(|schemas| !schemas.are_known(record)) {
            return Admits::Wait;
        }
        // Waiting outweighs refusing: the reason for refusing may have passed by then.
        let mut answer = Admits::Yes;
        for n in &self.admission[topic].gates {
            match self.nodes[*n].op.admits(record, now) {
                Admits::Yes => {}
                Admits::Wait => return Admits::Wait,
                refused @ (Admits::Refuse(_) | Admits::Stop(_)) => answer = refused,
            }
        }
        answer
    }

    /// Has an operator a say in what comes in? Never changes.
    #[must_use]
    pub fn has_gates(&self) -> bool {
        self.admission.iter().any(|a| !a.gates.is_empty())
    }

    /// What operators do not let in, each with its node in the topology.
    pub fn blocked(&self) -> impl Iterator<Item = (usize, Blocked)> + '_ {
        let mut gates: Vec<usize> = self.admission.iter().flat_map(|a| a.gates.iter().copied()).collect();
        gates.sort_unstable();
        gates.dedup();
        gates.into_iter().flat_map(|n| {
            let node = self.global[n];
            self.nodes[n].op.blocked().into_iter().map(move |blocked| (node, blocked))
        })
    }

    /// Passes on a record that was fed, unless an operator refuses it.
    pub(super) fn refuse(
        &mut self,
        topic: usize,
        record: Record,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<Option<Record>, TaskError> {
        let refused =
            self.admission[topic].gates.iter().find_map(|n| match self.nodes[*n].op.admits(&record, now) {
                Admits::Refuse(reason) => Some((*n, reason, self.policy)),
                Admits::Stop(reason) => Some((*n, reason, OnFailure::Stop)),
                Admits::Yes | Admits::Wait => None,
            });
        let Some((n, reason, policy)) = refused else { return Ok(Some(record)) };
        self.nodes[n].tally.drop(reason);
        let (name, epoch) = (Arc::clone(&self.nodes[n].shown), self.epoch);
        let detail = "it may not come in".to_owned();
        self.reject(
            Reject { reason, detail, record, attempts: 1 },
            &name,
            self.global[n],
            epoch,
            policy,
            step,
        )?;
        Ok(None)
    }

    /// Replaces a node's operator.
    #[cfg(test)]
    pub(crate) fn stand_in(&mut self, topology: &Topology, node: usize, op: Box<dyn Operator>) {
        self.nodes[self.by_global[&node]].op = op;
        self.set_admission(topology, &Arc::new(Formats::unconnected(&topology.named_schemas)));
    }
}

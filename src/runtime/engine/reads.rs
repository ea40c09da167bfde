//! Reads for applications: what a task of this instance knows of a key, in answers that cannot be mistaken for each other.
//!
//! A read sees at least what is committed: a task answers from its state in memory, which is ahead of its last commit. What
//! only memory has may be gone after a crash, and comes again when its records are processed again.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::handle::{ANSWER, AskError, EngineHandle};
use super::plan::Plan;
use crate::kafka::partition_of;
use crate::model::Refused;
use crate::operators::shared::describe::Described;
use crate::runtime::globals::query_global;
use crate::runtime::inbox::{Message, TaskSays};
use crate::runtime::task::{TaskId, inspect};
use crate::topology::Readable;

/// The only partition of a table that every instance has whole.
pub const WHOLE: i32 = 0;

/// A node's rows, and where a key's are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOf {
    node: usize,
    /// How they are found.
    pub readable: Readable,
    /// How many partitions they are spread over.
    pub partitions: i32,
}

impl StoreOf {
    /// The partition of a key that was partitioned as Java's clients do it, and as we do.
    #[must_use]
    pub fn partition_of(&self, key: &[u8]) -> i32 {
        partition_of(key, self.partitions)
    }
}

/// A record that has to be in the rows that are read. As text: `topic/partition/offset`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Its topic, one of [`Readable::positions`].
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

impl FromStr for Position {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Position, Refused> {
        let read = || {
            let (rest, offset) = text.rsplit_once('/')?;
            let (topic, partition) = rest.rsplit_once('/')?;
            let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
            if topic.is_empty() || !number(partition) || !number(offset) {
                return None;
            }
            Some(Position {
                topic: topic.to_owned(),
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        };
        read().ok_or_else(|| {
            Refused::new(
                format!("`{text}` is no position"),
                "write topic/partition/offset: `payments/3/1042`",
            )
        })
    }
}

/// What an instance knows of a key in one partition. It travels between instances as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "snake_case")]
pub enum Said {
    /// The rows that its task has.
    Rows {
        /// In the order of the store.
        rows: Vec<Described>,
        /// Whether there are, or may be, more.
        cut: bool,
    },
    /// Its task is here, restored, and has none.
    Absent,
    /// Its task has not gone past the record yet.
    Behind {
        /// The offset that it processes next.
        next: i64,
    },
    /// Its task is being restored.
    Restoring,
    /// Its task is not here.
    NotHere,
    /// Its rows cannot be read.
    Failed {
        /// In words.
        why: String,
    },
}

impl EngineHandle {
    /// Where the rows of a node are.
    ///
    /// # Errors
    /// There is no such node, it keeps no rows, or nothing runs yet: until then it is not known how many partitions there
    /// are.
    pub fn store(&self, node: &str) -> Result<StoreOf, AskError> {
        let n = self.node(node)?;
        let readable = self.topology().readable(n).ok_or_else(|| AskError::NoState(node.to_owned()))?;
        let partitions = self.asked(|asked| match readable.sub {
            Some(sub) => asked.plan.partitions(self.topology(), sub),
            None => WHOLE + 1,
        })?;
        Ok(StoreOf { node: n, readable, partitions })
    }

    /// What this instance knows of a key, for each of these partitions.
    ///
    /// # Errors
    /// Nothing runs, or a worker does not answer.
    pub async fn read(
        &self,
        store: &StoreOf,
        key: &Bytes,
        partitions: &[i32],
        at: Option<&Position>,
    ) -> Result<BTreeMap<i32, Said>, AskError> {
        let Some(sub) = store.readable.sub else {
            let said = self.read_global(store.node, key).await?;
            return Ok(partitions.iter().map(|partition| (*partition, said.clone())).collect());
        };
        if let Some(at) = at.filter(|at| !store.readable.positions.contains(&at.topic)) {
            let node = self.topology().nodes[store.node].name.clone();
            let positions = store.readable.positions.clone();
            return Err(AskError::NoPosition { node, topic: at.topic.clone(), positions });
        }
        let asked = self.asked(|asked| {
            let position = |at: &Position| Some((asked.plan.places.get(&at.topic)?.1, at.offset));
            let at = at.map(|at| (at.partition, position(at)));
            let ask = |&partition: &i32| {
                let id = TaskId { sub, partition };
                let (answer, receive) = oneshot::channel();
                let at = match at {
                    Some((of, Some(position))) if of == partition => Some(position),
                    _ => None,
                };
                // Sources that are no topics are on the first worker.
                let worker = match store.readable.topics.is_empty() {
                    true => 0,
                    false => Plan::worker_of(id, asked.inboxes.len()),
                };
                asked.inboxes[worker].send(Message::Read {
                    id,
                    node: store.node,
                    key: key.clone(),
                    at,
                    answer,
                });
                (partition, receive)
            };
            partitions.iter().map(ask).collect::<Vec<_>>()
        })?;
        let mut all = BTreeMap::new();
        for (partition, answer) in asked {
            let says = tokio::time::timeout(ANSWER, answer).await.map_err(|_| AskError::Silent)?;
            // Without an answer the worker has ended, and so have its tasks.
            let said = match says.unwrap_or(TaskSays::NotHere) {
                TaskSays::Rows(Err(e)) => Said::Failed { why: e.to_string() },
                TaskSays::Rows(Ok(answer)) if answer.rows.is_empty() && !answer.cut => Said::Absent,
                TaskSays::Rows(Ok(answer)) => {
                    Said::Rows { rows: self.described(store.node, &answer.rows), cut: answer.cut }
                }
                TaskSays::Behind(next) => Said::Behind { next },
                TaskSays::Restoring => Said::Restoring,
                TaskSays::NotHere => Said::NotHere,
            };
            all.insert(partition, said);
        }
        Ok(all)
    }

    async fn read_global(&self, node: usize, key: &Bytes) -> Result<Said, AskError> {
        let rows = self.asked(|asked| asked.globals.get(&node).map(Arc::clone))?;
        let rows = rows.ok_or(AskError::NotRunning)?;
        let (topology, key) = (Arc::clone(self.topology()), key.clone());
        let read = tokio::task::spawn_blocking(move || query_global(&topology, node, &rows, &key));
        Ok(match read.await.map_err(|e| AskError::State(e.to_string()))? {
            Err(e) => Said::Failed { why: e.to_string() },
            Ok(answer) if answer.rows.is_empty() => Said::Absent,
            Ok(answer) => Said::Rows { rows: self.described(node, &answer.rows), cut: answer.cut },
        })
    }

    fn described(&self, node: usize, rows: &[(Bytes, Bytes)]) -> Vec<Described> {
        rows.iter().map(|(key, row)| inspect::describe(self.topology(), node, key, row)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_or_refused() {
        let read = |text: &str| text.parse::<Position>().map(|at| (at.topic, at.partition, at.offset)).ok();
        assert_eq!(read("payments/3/1042"), Some(("payments".into(), 3, 1042)));
        assert_eq!(read("a.b-c/0/0"), Some(("a.b-c".into(), 0, 0)));
        for bad in [
            "",
            "payments",
            "payments/3",
            "/3/1",
            "payments/-1/3",
            "payments/3/+1",
            "p/3/",
            "p//1",
            "p/3/99999999999999999999",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}

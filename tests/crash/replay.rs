//! The same records in a task without faults: its state and its outputs at any offset.

use std::sync::Arc;

use slackwater::model::{Record, SinkRow, Timestamp};
use slackwater::runtime::{Input, Step, Task, TaskOptions};
use slackwater::state::{Backend, MemoryBackend, Row};

use super::ledger::Committed;
use super::shape::Shape;

/// A task that reads one partition from its start.
pub struct Replay {
    task: Task,
    backend: Arc<MemoryBackend>,
    /// What is to be read: all records of the partition.
    pub records: Vec<Record>,
    read: usize,
    results: Vec<String>,
}

/// A result, to be compared.
pub fn text(node: usize, row: &SinkRow) -> String {
    let Record { key, value, ts, window, headers, .. } = &row.record;
    format!("{node} {key:?} {} {ts} {window:?} {headers:?} {:?}", value.show(), row.payload)
}

impl Replay {
    pub fn new(shape: &Shape, partition: i32) -> Replay {
        let backend = Arc::new(MemoryBackend::default());
        let dynamic = Arc::clone(&backend) as Arc<dyn Backend>;
        let id = shape.task(partition);
        let task = Task::open(
            &shape.topology,
            id,
            &dynamic,
            &TaskOptions::default(),
            Timestamp(0),
            &mut Step::default(),
        );
        let task = task.expect("starts");
        Replay { task, backend, records: Vec::new(), read: 0, results: Vec::new() }
    }

    /// Reads on to the committed offset, and compares.
    pub fn check(&mut self, committed: &Committed) -> Result<(), String> {
        let next = committed.offsets.get(&0).copied().unwrap_or(0);
        let next = usize::try_from(next).unwrap_or(0);
        let records = self.records[self.read..next.max(self.read)].to_vec();
        self.read = next.max(self.read);
        let mut step = Step::default();
        let failed = |e: &dyn std::fmt::Display| format!("without a crash the task stops: {e}");
        let now = Timestamp(0);
        self.task.step(Input::Records { topic: 0, records }, now, &mut step).map_err(|e| failed(&e))?;
        for delivery in step.deliveries {
            self.results.push(text(delivery.node, &delivery.row));
            let input = Input::Acked { epoch: delivery.epoch, rows: 1 };
            self.task.step(input, now, &mut Step::default()).map_err(|e| failed(&e))?;
        }
        if let Some(sealed) = self.task.seal(now).map_err(|e| failed(&e))? {
            self.backend.write(&sealed.rows).map_err(|e| failed(&e))?;
            self.task.applied();
        }
        if self.results != committed.results {
            let n = self.results.iter().zip(&committed.results).take_while(|(a, b)| a == b).count();
            return Err(format!(
                "at offset {next} result {n} is {:?}; without a crash it is {:?}",
                committed.results.get(n),
                self.results.get(n)
            ));
        }
        let want = self.backend.snapshot();
        let got: Vec<Row> = committed.rows.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
        let want: Vec<Row> = want.into_iter().map(|(k, v)| (k, Some(v))).collect();
        if got != want {
            let other = |a: &[Row], b: &[Row]| -> Vec<String> {
                a.iter().filter(|r| !b.contains(r)).map(|(k, v)| format!("{k:?} {v:?}")).collect()
            };
            return Err(format!(
                "at offset {next} the state is not that without a crash: {:?} instead of {:?}",
                other(&got, &want),
                other(&want, &got)
            ));
        }
        Ok(())
    }
}

//! The global tables of a topology at its start: opened, and read to their end before any task runs.
//!
//! Called by the engine, which owns their threads from then on. A thread that fails later stops the topology.

use std::sync::Arc;

use super::EngineError;
use super::plan::Plan;
use super::start::Start;
use super::wait::unless_stopped;
use crate::kafka::Admin;
use crate::runtime::globals::reader::{GlobalReaders, Reading};

/// Opens the global tables and waits until they have been read.
pub(super) async fn read_globals(
    start: &Start<'_>,
    admin: &Arc<Admin>,
    plan: &Plan,
) -> Result<GlobalReaders, EngineError> {
    let Start { topology, formats, shared, env, stop, .. } = start;
    let Some(kafka) = &start.kafka else { return Ok(GlobalReaders::default()) };
    let dir = &start.options.state_dir;
    let failed = {
        let shared = Arc::clone(shared);
        Arc::new(move |message| shared.fail(EngineError::Failed(message)))
    };
    let reading = Reading {
        topology,
        formats,
        kafka,
        admin,
        count: &|topic| plan.counts.get(topic).copied().unwrap_or(0),
        dir,
        env,
        metrics: &shared.metrics,
        failed,
    };
    let mut readers = GlobalReaders::start(&reading).map_err(EngineError::Failed)?;
    for (name, read) in std::mem::take(&mut readers.pending) {
        // This is no warning.
        shared.status_mut().waiting = vec![format!("the global table {name} is being read")];
        match unless_stopped(stop, read).await? {
            Ok(Ok(())) => {}
            Ok(Err(message)) => return Err(EngineError::Failed(message)),
            Err(_) => {
                return Err(EngineError::Failed(format!("the thread of the global table {name} ended")));
            }
        }
    }
    shared.go_on();
    Ok(readers)
}

//! Compares the state of an earlier run at the start, before topics are created and the group is joined; moves it to
//! other names if the file says so, and records the layout. `runtime/layout/` has the comparison itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::topics::make_topics;
use super::wait::{blocking, pause, unless_stopped};
use super::{EngineError, Shared};
use crate::kafka::{Admin, KafkaConfig, Writer};
use crate::runtime::layout::moving::{MoveError, Mover, Work, gathering};
use crate::runtime::layout::{Examined, Places, examine, local, record};
use crate::state::{RocksEnv, StateDir};
use crate::topology::{Home, Layout, Topology};

/// How long to wait before looking again at a move that another instance has begun: twice as long each time, or two
/// instances would keep fencing each other.
const OTHERS: Duration = Duration::from_secs(10);

/// What the comparison needs.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) topology: Arc<Topology>,
    pub(super) config: Option<KafkaConfig>,
    pub(super) dir: PathBuf,
    pub(super) env: RocksEnv,
}

impl Keeper {
    /// Compares, and waits for a cluster that does not answer.
    pub(super) async fn examine(
        &self,
        admin: Option<&Arc<Admin>>,
        counts: &BTreeMap<String, i32>,
        shared: &Shared,
        stop: &CancellationToken,
    ) -> Result<Examined, EngineError> {
        loop {
            let (this, admin, counts) = (self.clone(), admin.map(Arc::clone), counts.clone());
            let look = blocking(move || {
                let kafka = admin.as_deref().zip(this.config.as_ref());
                examine(&Places { topology: &this.topology, kafka, counts: &counts, dir: Some(&this.dir) })
            });
            match unless_stopped(stop, look).await? {
                Ok(Ok(examined)) => {
                    shared.go_on();
                    return Ok(examined);
                }
                Ok(Err(problems)) => return Err(EngineError::Unfit(problems)),
                // On this machine, waiting would change nothing.
                Err(message) if self.config.is_none() => return Err(EngineError::Failed(message)),
                Err(message) => shared.wait_for(&message),
            }
            pause(stop, shared).await?;
        }
    }

    /// Makes the topology's own topics, moves what has other names, and writes down what there is.
    pub(super) async fn settle(
        &self,
        examined: Examined,
        (admin, plan): (&Arc<Admin>, &Plan),
        writer: &Writer,
        shared: &Shared,
        stop: &CancellationToken,
    ) -> Result<(), EngineError> {
        make_topics(admin, &self.topology, plan, shared, stop, false).await?;
        let Examined { mut written, recorded, moves, .. } = examined;
        let moving = !moves.is_empty() || !written.moving.is_empty() || !written.leftover.is_empty();
        if moving {
            written = self.move_all(admin, &plan.counts, shared, stop).await?;
        }
        let all = written.with(&self.topology.layout(Home::Topics));
        if (recorded || moving) && all == written || all.is_empty() && !recorded {
            return Ok(());
        }
        let record = record::record(&self.topology, &all).map_err(EngineError::Failed)?;
        loop {
            let sent = writer.send_all(std::slice::from_ref(&record));
            match unless_stopped(stop, sent).await? {
                Ok(()) => break,
                Err(e) => shared.wait_for(&e.to_string()),
            }
            pause(stop, shared).await?;
        }
        shared.go_on();
        Ok(())
    }

    async fn move_all(
        &self,
        admin: &Arc<Admin>,
        counts: &BTreeMap<String, i32>,
        shared: &Shared,
        stop: &CancellationToken,
    ) -> Result<Layout, EngineError> {
        let mut others = OTHERS;
        loop {
            let (this, admin_of, stop_of) = (self.clone(), Arc::clone(admin), stop.clone());
            let moved = tokio::task::spawn_blocking(move || {
                let Some(config) = &this.config else { return Ok(Layout::default()) };
                let dir = gathering(&this.dir);
                let (topology, env) = (&*this.topology, &this.env);
                Mover { topology, admin: &admin_of, config, dir, env, stop: &stop_of }.run(&Work::Rename)
            });
            match moved.await {
                Ok(Ok(layout)) => {
                    shared.go_on();
                    return Ok(layout);
                }
                Ok(Err(MoveError::Stopped)) => return Err(EngineError::Stopped),
                Ok(Err(e @ MoveError::Other)) => {
                    shared.wait_for(&e.to_string());
                    tokio::select! {
                        () = stop.cancelled() => return Err(EngineError::Stopped),
                        () = tokio::time::sleep(others) => {}
                    }
                    others *= 2;
                }
                Ok(Err(MoveError::Later(message))) => shared.wait_for(&message),
                Err(e) => return Err(EngineError::Failed(e.to_string())),
            }
            pause(stop, shared).await?;
            // A topic that does not fit is reported, whichever program has changed it in the meantime.
            self.examine(Some(admin), counts, shared, stop).await?;
        }
    }

    /// Moves the state that is only in the state directory, and records which topology the directory belongs to.
    pub(super) fn settle_local(&self, examined: &Examined, lock: &StateDir) -> Result<(), EngineError> {
        let failed = EngineError::Failed;
        local::rename(&self.dir, &self.env, &examined.local).map_err(failed)?;
        // Of sub-topologies with other names: their rows are in the changelog.
        for from in
            examined.moves.changelogs.iter().filter(|(from, to)| **from != to.to).map(|(from, _)| from)
        {
            self.forget(from, lock).map_err(|e| failed(e.to_string()))?;
        }
        lock.set_owner(&self.topology.name).map_err(|e| failed(e.to_string()))
    }

    fn forget(&self, changelog: &str, lock: &StateDir) -> std::io::Result<()> {
        let sub = changelog.strip_prefix(&format!("{}-", self.topology.name));
        let Some(sub) = sub.and_then(|sub| sub.strip_suffix("-changelog")) else { return Ok(()) };
        for task in lock.tasks().unwrap_or_default() {
            if task.sub == sub && task.partition >= 0 {
                remove(&task.path)?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(path)
}

//! `reset`: back to the beginning. Deletes the group's offsets, the topology's own topics and its local state; never a
//! topic that other programs write or read.
//!
//! A dry run unless `--execute` is given. The group is deleted first: the broker refuses while it has members, and then
//! nothing else has been touched. What a failed run leaves behind is deleted by the next one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use tokio_util::sync::CancellationToken;

use super::connect::{failed, open_admin, state_dir};
use super::{BAD_FILE, Exit, load_file};
use crate::kafka::{Admin, GroupOffset};
use crate::runtime::layout::moving::{Mover, Work};
use crate::runtime::layout::{Edit, local, record};
use crate::state::{RocksEnv, StateDir, TaskDir};
use crate::topology::{Layout, Topology};
use crate::yaml::{Mode, Registry};

/// How long deleted topics may stay visible.
const GONE: Duration = Duration::from_secs(10);

/// Arguments of `reset`.
#[derive(Debug, Args)]
pub(super) struct ResetArgs {
    /// Topology file.
    topology: PathBuf,
    /// Only the state on this machine: it is restored from the changelog at the next start.
    #[arg(long)]
    local: bool,
    /// Only the state of this node, named as the state knows it: it may be gone from the file. Everything else stays.
    #[arg(long, value_name = "NODE", conflicts_with = "local")]
    node: Option<String>,
    /// Delete. Without it, only what would be deleted is said.
    #[arg(long)]
    execute: bool,
    /// Where state lives. Default: ./state/NAME.
    #[arg(long, env = "SLACKWATER_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// What is to be deleted.
#[derive(Default)]
struct Plan {
    /// Partitions with committed offsets; `None` if the group has none.
    offsets: Option<usize>,
    /// Addresses of the group's members.
    members: Vec<String>,
    /// The topology's own topics, with their partitions.
    topics: Vec<(String, i32)>,
    /// Local state.
    tasks: Vec<TaskDir>,
    /// Topics that other programs write or read.
    kept: Vec<String>,
    /// Topics with names like ours that the topology does not have today.
    strays: Vec<String>,
}

pub(super) fn reset(registry: &Registry, args: &ResetArgs) -> Result<(), Exit> {
    let loaded = load_file(registry, &args.topology, Mode::Lenient)?;
    let topology = &loaded.topology;
    let dir = state_dir(args.state_dir.as_deref(), topology);
    // The lock is held to the end: no instance starts on this directory meanwhile.
    let held =
        StateDir::lock_existing(&dir).map_err(|e| Exit::failed(format!("{e}: stop that instance first")))?;
    if held.is_some()
        && let Some(problem) = local::owner(&dir, &topology.name).map_err(Exit::failed)?
    {
        return Err(Exit { code: BAD_FILE, message: Some(format!("error: {problem}")) });
    }
    if let Some(node) = &args.node {
        return reset_node(topology, node, args.execute, &dir, held.as_ref());
    }
    let mut plan = Plan::default();
    if let Some(held) = &held {
        plan.tasks = held.tasks().map_err(|e| Exit::failed(e.to_string()))?;
    }
    let admin =
        if args.local || topology.settings.kafka.is_none() { None } else { Some(open_admin(topology)?) };
    if let Some(admin) = &admin {
        plan.ask(admin, topology)?;
    }
    print!("{}", plan.text(&topology.name, args.local, args.execute));
    if !plan.members.is_empty() {
        return Err(Exit::failed(format!(
            "the group `{}` has {}, at {}: stop every instance first; nothing was deleted",
            topology.name,
            count(plan.members.len(), "member"),
            plan.members.join(", ")
        )));
    }
    if !args.execute {
        return Ok(());
    }
    if let Some(admin) = &admin {
        plan.delete(admin, &topology.name)?;
    }
    for task in &plan.tasks {
        remove(&task.path)?;
    }
    Ok(())
}

/// Drops the state of one node: its rows in changelogs, the repartition topics made for it where nothing reads them any
/// more, and what this machine alone has.
fn reset_node(
    topology: &Topology,
    node: &str,
    execute: bool,
    dir: &Path,
    held: Option<&StateDir>,
) -> Result<(), Exit> {
    let verb = if execute { "delete  " } else { "would delete  " };
    let mut any = false;
    let here = match held {
        Some(_) => local::found(dir).map_err(Exit::failed)?.layout,
        None => Layout::default(),
    };
    for (name, kept) in here.nodes.iter().filter(|(name, _)| *name == node) {
        any = true;
        println!("{verb}local state of {name} in {}", dir.join(&kept.changelog).display());
    }
    let kafka = topology.settings.kafka.as_ref().filter(|_| !topology.source_topics().is_empty());
    let asked = match kafka {
        Some(config) => Some((open_admin(topology)?, config)),
        None => None,
    };
    if let Some((admin, config)) = &asked {
        let written = match record::read(admin, config, topology).map_err(Exit::failed)? {
            Some(written) => written,
            None => record::found(admin, config, topology).map_err(Exit::failed)?,
        };
        let left = written.without(node);
        for (name, kept) in written.nodes.iter().filter(|(name, _)| !left.nodes.contains_key(*name)) {
            any = true;
            println!("{verb}state of {name} in the topic {}", kept.changelog);
        }
        for topic in written.repartitions.keys().filter(|topic| !left.repartitions.contains_key(*topic)) {
            if !topology.repartitions().iter().any(|r| r.topic == *topic) {
                any = true;
                println!("{verb}topic {topic}");
            }
        }
        if !any {
            let known: Vec<&str> =
                written.nodes.keys().chain(here.nodes.keys()).map(String::as_str).collect();
            let help = if known.is_empty() {
                String::new()
            } else {
                format!("; there is state of {}", known.join(", "))
            };
            return Err(Exit::failed(format!("there is no state of a node `{node}`{help}")));
        }
    }
    if !any {
        return Err(Exit::failed(format!("there is no state of a node `{node}`")));
    }
    if !execute {
        println!("nothing was deleted: add --execute");
        return Ok(());
    }
    let env = RocksEnv::new(8 << 20, 8 << 20);
    if let Some((admin, config)) = &asked {
        let stop = CancellationToken::new();
        // It goes when the process does.
        let work = gathering_dir(dir);
        let mover = Mover { topology, admin, config, dir: work.clone(), env: &env, stop: &stop };
        let done = mover.run(&Work::Drop(node.to_owned()));
        drop(std::fs::remove_dir_all(work));
        done.map_err(|e| Exit::failed(format!("{e}; what is left goes when this is run again")))?;
    }
    if let Some(kept) = here.nodes.get(node) {
        let edit = Edit { dropped: BTreeSet::from([node.to_owned()]), ..Edit::default() };
        local::rewrite(&dir.join(&kept.changelog), &env, &edit).map_err(Exit::failed)?;
    }
    println!("deleted  the state of {node}");
    Ok(())
}

/// Where rows are gathered: in the state directory where there is one.
fn gathering_dir(dir: &Path) -> PathBuf {
    let base = if dir.is_dir() { dir.to_owned() } else { std::env::temp_dir() };
    base.join(format!("moving-{}", std::process::id()))
}

fn remove(path: &Path) -> Result<(), Exit> {
    std::fs::remove_dir_all(path)
        .map_err(|e| Exit::failed(format!("cannot delete {}: {e}", path.display())))?;
    println!("deleted  local state {}", path.display());
    Ok(())
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Topics that an earlier version of this topology may have made. Only maybe: another topology's name may begin like
/// ours.
fn strays(topology: &str, all: &[String], own: &[String]) -> Vec<String> {
    let ours = |t: &&String| {
        t.strip_prefix(topology)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| rest.ends_with("-changelog") || rest.ends_with("-repartition"))
    };
    all.iter().filter(ours).filter(|t| !own.contains(t)).cloned().collect()
}

impl Plan {
    fn ask(&mut self, admin: &Admin, topology: &Topology) -> Result<(), Exit> {
        self.members = admin.members(&topology.name).map_err(failed)?;
        let offsets = admin.all_committed(&topology.name).map_err(failed)?;
        let known = offsets.iter().filter(|(_, o)| *o != GroupOffset::None).count();
        self.offsets = (known > 0).then_some(known);
        let mut own = topology.internal_topics();
        if let Some(config) = &topology.settings.kafka {
            // Topics of nodes that were renamed or removed since.
            let written = record::read(admin, config, topology).map_err(Exit::failed)?.unwrap_or_default();
            let known = written.changelogs().into_iter().map(str::to_owned);
            own.extend(
                known.chain(written.repartitions.keys().cloned()).chain(written.leftover.iter().cloned()),
            );
            own.push(topology.layout_topic());
            own.sort();
            own.dedup();
        }
        let names: Vec<&str> = own.iter().map(String::as_str).collect();
        let found = admin.topics(&names).map_err(failed)?;
        self.topics = found.into_iter().filter_map(|(topic, n)| Some((topic, n?))).collect();
        self.kept = topology.external_topics();
        self.strays = strays(&topology.name, &admin.topic_names().map_err(failed)?, &own);
        Ok(())
    }

    fn text(&self, group: &str, local: bool, execute: bool) -> String {
        let mut out = String::new();
        let verb = if execute { "delete  " } else { "would delete  " };
        if let Some(n) = self.offsets {
            out += &format!("{verb}group {group}, with its offsets of {}\n", count(n, "partition"));
        }
        for (topic, n) in &self.topics {
            let n = usize::try_from(*n).unwrap_or(0);
            out += &format!("{verb}topic {topic}, {}\n", count(n, "partition"));
        }
        for task in &self.tasks {
            out += &format!("{verb}local state {}\n", task.path.display());
        }
        if out.is_empty() {
            return format!("{group}: nothing to delete\n");
        }
        if !local {
            if !self.kept.is_empty() {
                out += &format!("kept: {}, and everything that sinks wrote\n", self.kept.join(", "));
            }
            out += "local state of other machines: `slackwater reset --local --execute` there\n";
        }
        for topic in &self.strays {
            out += &format!("left alone: {topic}, perhaps of an earlier form of this topology\n");
        }
        if !execute {
            out += "nothing was deleted: add --execute\n";
        }
        out
    }

    fn delete(&self, admin: &Admin, group: &str) -> Result<(), Exit> {
        admin.delete_group(group).map_err(failed)?;
        if self.offsets.is_some() {
            println!("deleted  group {group}");
        }
        let names: Vec<&str> = self.topics.iter().map(|(t, _)| t.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        admin.delete_topics(&names).map_err(failed)?;
        let deadline = Instant::now() + GONE;
        while admin.topics(&names).map_err(failed)?.iter().any(|(_, n)| n.is_some()) {
            if Instant::now() > deadline {
                return Err(Exit::failed("the broker has taken the order, but the topics are still there"));
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        for name in names {
            println!("deleted  topic {name}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_everything_and_keeps_what_is_not_ours() {
        let plan = Plan {
            offsets: Some(4),
            members: Vec::new(),
            topics: vec![("t-in-changelog".into(), 4), ("t-k-repartition".into(), 1)],
            tasks: vec![TaskDir { sub: "in".into(), partition: 0, path: "state/t/in-0".into() }],
            kept: vec!["in".into()],
            strays: vec!["t-old-changelog".into()],
        };
        let expected = "\
would delete  group t, with its offsets of 4 partitions
would delete  topic t-in-changelog, 4 partitions
would delete  topic t-k-repartition, 1 partition
would delete  local state state/t/in-0
kept: in, and everything that sinks wrote
local state of other machines: `slackwater reset --local --execute` there
left alone: t-old-changelog, perhaps of an earlier form of this topology
nothing was deleted: add --execute
";
        assert_eq!(plan.text("t", false, false), expected);
        assert!(
            !plan.text("t", false, true).contains("would")
                && !plan.text("t", false, true).contains("nothing")
        );
        assert_eq!(Plan::default().text("t", false, true), "t: nothing to delete\n");
    }

    #[test]
    fn only_names_that_the_topology_could_have_made_are_strays() {
        let all = [
            "t",
            "t-a-changelog",
            "t-b-changelog",
            "t-b-repartition",
            "t2-a-changelog",
            "t-orders",
            "x-t-a-changelog",
        ];
        let all = all.map(str::to_owned);
        assert_eq!(strays("t", &all, &["t-a-changelog".to_owned()]), ["t-b-changelog", "t-b-repartition"]);
    }
}

//! `state ls|get|export`: what a stopped instance has on disk.
//!
//! It takes the directory's lock, as an instance does, so it never reads state that is being written; it writes
//! nothing. The state of a running instance is read over HTTP instead.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::connect::state_dir;
use super::{Exit, load_file};
use crate::model::Json;
use crate::model::secret::Masked;
use crate::operators::shared::describe::Described;
use crate::runtime::inspect::{Found, look};
use crate::state::{RocksBackend, StateDir, TaskDir};
use crate::topology::{NodeKind, Topology};
use crate::yaml::{Mode, Registry};

/// Arguments of `state`.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print how many rows each node has; with a node, its keys.
    Ls {
        #[command(flatten)]
        place: Place,
        /// Only this node's keys.
        node: Option<String>,
    },
    /// Print the rows of a key as JSON lines.
    Get {
        #[command(flatten)]
        place: Place,
        /// The node.
        node: String,
        /// The key, as `ls` shows it.
        key: String,
    },
    /// Print all rows as JSON lines.
    Export {
        #[command(flatten)]
        place: Place,
        /// Only this node's rows.
        node: Option<String>,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Topology file.
    topology: PathBuf,
    /// Where state lives. Default: ./state/NAME.
    #[arg(long, env = "SLACKWATER_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Only this task's: SUB-PARTITION, as `ls` shows it.
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
}

/// A topology's tasks on disk, locked.
struct Opened {
    topology: Topology,
    tasks: Vec<TaskDir>,
    _lock: StateDir,
}

pub(super) fn state(registry: &Registry, args: &StateArgs) -> Result<(), Exit> {
    let mut out = BufWriter::new(Masked::new(stdout().lock()));
    let result = match &args.what {
        What::Ls { place, node: None } => summary(&open(registry, place)?, &mut out),
        What::Ls { place, node: Some(node) } => rows(
            &open(registry, place)?,
            Some(node),
            None,
            &mut |task, _, row| keys_line(task, row),
            &mut out,
        ),
        What::Get { place, node, key } => rows(
            &open(registry, place)?,
            Some(node),
            Some(key),
            &mut |t, s, row| json_line(t, s, row),
            &mut out,
        ),
        What::Export { place, node } => rows(
            &open(registry, place)?,
            node.as_deref(),
            None,
            &mut |t, s, row| json_line(t, s, row),
            &mut out,
        ),
    };
    let found = result?;
    out.flush().map_err(|e| Exit::output(&e))?;
    match (&args.what, found) {
        (What::Get { node, key, .. }, 0) => Err(Exit::failed(format!("`{node}` has no key `{key}`"))),
        _ => Ok(()),
    }
}

fn open(registry: &Registry, place: &Place) -> Result<Opened, Exit> {
    let topology = load_file(registry, &place.topology, Mode::Lenient)?.topology;
    let dir = state_dir(place.state_dir.as_deref(), &topology);
    let lock = StateDir::lock_existing(&dir).map_err(|e| {
        Exit::failed(format!("{e}: stop that instance, or read a copy of the directory with --state-dir"))
    })?;
    let Some(lock) = lock else {
        return Err(Exit::failed(format!("there is no state in {}", dir.display())));
    };
    let all = lock.tasks().map_err(|e| Exit::failed(e.to_string()))?;
    let known: Vec<String> = all.iter().map(TaskDir::name).collect();
    let tasks: Vec<TaskDir> =
        all.into_iter().filter(|t| place.task.as_ref().is_none_or(|wanted| *wanted == t.name())).collect();
    if let (Some(wanted), true) = (&place.task, tasks.is_empty()) {
        let there = if known.is_empty() { "no task".to_owned() } else { known.join(", ") };
        return Err(Exit::failed(format!(
            "there is no task `{wanted}` in {}; there is {there}",
            dir.display()
        )));
    }
    if tasks.is_empty() {
        return Err(Exit::failed(format!("there is no state in {}", dir.display())));
    }
    Ok(Opened { topology, tasks, _lock: lock })
}

fn each(
    opened: &Opened,
    task: &TaskDir,
    visit: &mut dyn FnMut(Found) -> Result<(), Exit>,
) -> Result<(), Exit> {
    let backend = RocksBackend::open_read_only(&task.path).map_err(|e| Exit::failed(e.to_string()))?;
    let mut result = Ok(());
    look(&opened.topology, &backend, &mut |found| {
        result = visit(found);
        if result.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .map_err(|e| Exit::failed(format!("task {}: {e}", task.name())))?;
    result
}

/// Rows and bytes, by store.
type Sizes = BTreeMap<String, (u64, u64)>;

fn summary(opened: &Opened, out: &mut impl Write) -> Result<u64, Exit> {
    for task in &opened.tasks {
        let mut sizes: Sizes = declared(&opened.topology, task).map(|node| (node, (0, 0))).collect();
        let mut notes = Vec::new();
        each(opened, task, &mut |found| {
            match found {
                Found::Row { store, bytes, .. } => {
                    let size = sizes.entry(store).or_default();
                    *size = (size.0 + 1, size.1 + bytes as u64);
                }
                Found::Note { name, value } if name == "positions" || name == "changelog" => {
                    notes.push(format!("{name} {value}"));
                }
                Found::Note { .. } => {}
            }
            Ok(())
        })?;
        line(out, &format!("{}  {}", task.name(), notes.join("  ")))?;
        for (store, (rows, bytes)) in sizes {
            let kind = opened.topology.node(&store).map_or("not of this topology", |n| {
                match &opened.topology.nodes[n].kind {
                    NodeKind::Operator(config) => config.kind_name(),
                    NodeKind::Sink(sink) => sink.kind_name(),
                    NodeKind::Source(_) => "source",
                }
            });
            line(out, &format!("  {store}  {kind}  {rows} rows  {bytes} B"))?;
        }
    }
    Ok(1)
}

/// The nodes of a task that keep state, whether they have rows or not.
fn declared<'a>(topology: &'a Topology, task: &'a TaskDir) -> impl Iterator<Item = String> + 'a {
    let sub = topology.subs.iter().find(|s| s.name == task.sub);
    sub.into_iter().flat_map(|s| &s.nodes).map(|n| &topology.nodes[*n]).filter_map(|node| match &node.kind {
        NodeKind::Operator(config) if config.is_stateful(&node.plan) => Some(node.name.clone()),
        _ => None,
    })
}

fn keys_line(task: &str, row: &Described) -> String {
    let at: String = row.at.iter().map(|(name, part)| format!("  {name} {part}")).collect();
    format!("{task}  {}{at}", shown(&row.key))
}

fn json_line(task: &str, store: &str, row: &Described) -> String {
    row.json(task, store).to_string()
}

fn shown(key: &Json) -> String {
    key.as_str().map_or_else(|| key.to_string(), str::to_owned)
}

/// How a row is printed: task, store, row.
type Print<'a> = &'a mut dyn FnMut(&str, &str, &Described) -> String;

fn rows(
    opened: &Opened,
    node: Option<&str>,
    key: Option<&str>,
    print: Print<'_>,
    out: &mut impl Write,
) -> Result<u64, Exit> {
    if let Some(node) = node
        && opened.topology.node(node).is_none()
    {
        let known: Vec<&str> = opened.topology.nodes.iter().map(|n| n.name.as_str()).collect();
        return Err(Exit::failed(format!("there is no node `{node}`; there are {}", known.join(", "))));
    }
    let mut found = 0;
    for task in &opened.tasks {
        let task_name = task.name();
        each(opened, task, &mut |row| {
            let Found::Row { store, row, .. } = row else { return Ok(()) };
            if node.is_some_and(|n| n != store) || key.is_some_and(|k| k != shown(&row.key)) {
                return Ok(());
            }
            found += 1;
            line(out, &print(&task_name, &store, &row))
        })?;
    }
    Ok(found)
}

fn line(out: &mut impl Write, text: &str) -> Result<(), Exit> {
    writeln!(out, "{}", text.trim_end()).map_err(|e| Exit::output(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lines() {
        let row = Described { key: "a b".into(), at: serde_json::Map::new(), value: 7.into() }
            .at("window", vec![0, 5]);
        assert_eq!(keys_line("s-0", &row), "s-0  a b  window [0,5]");
        assert_eq!(
            json_line("s-0", "n", &row),
            r#"{"task":"s-0","node":"n","key":"a b","window":[0,5],"value":7}"#
        );
    }
}

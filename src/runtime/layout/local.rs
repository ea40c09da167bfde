//! The contents of a state directory: which topology it belongs to, the state of nodes below sources that are not
//! topics, and how much of which changelog the rest has. Databases are opened read-only; only [`rename`] writes.

use std::path::Path;

use super::Edit;
use crate::model::Problem;
use crate::state::{
    Backend, META_SHAPE, RocksBackend, RocksEnv, StateDir, after_prefix, changelog, task_dirs,
};
use crate::topology::{Kept, LAYOUT_FORMAT, Layout, Moves};

/// What a state directory holds.
#[derive(Debug, Default)]
pub struct Found {
    /// State that exists only here.
    pub layout: Layout,
    /// For state that is in a changelog too: sub-topology, partition, the next offset.
    pub positions: Vec<(String, i32, i64)>,
}

/// What is wrong if the directory belongs to another topology.
///
/// # Errors
/// The directory cannot be read.
pub fn owner(dir: &Path, topology: &str) -> Result<Option<Problem>, String> {
    let owner = StateDir::owner(dir).map_err(|e| e.to_string())?;
    Ok(owner.filter(|owner| owner != topology).map(|owner| {
        let message = format!("the state in {} is that of the topology `{owner}`", dir.display());
        let help =
            "give this one a directory of its own with --state-dir; or remove that one if it is not needed";
        Problem::new("state::owner", message).field("name").help(help)
    }))
}

/// Reads a state directory that no other process uses.
///
/// # Errors
/// A database cannot be read.
pub fn found(dir: &Path) -> Result<Found, String> {
    let mut found =
        Found { layout: Layout { format: LAYOUT_FORMAT, ..Layout::default() }, ..Found::default() };
    for task in task_dirs(dir).map_err(|e| e.to_string())?.into_iter().filter(|task| task.partition >= 0) {
        let backend = RocksBackend::open_read_only(&task.path).map_err(|e| e.to_string())?;
        if let Some(position) = changelog::known_position(&backend).map_err(|e| e.to_string())? {
            found.positions.push((task.sub, task.partition, position));
            continue;
        }
        let Some(lines) = backend.get(META_SHAPE).map_err(|e| e.to_string())? else { continue };
        for line in String::from_utf8_lossy(&lines).lines() {
            let Some((node, form)) = line.split_once(" = ") else { continue };
            let kept = Kept { changelog: task.name(), form: form.to_owned(), owner: None };
            found.layout.nodes.insert(node.to_owned(), kept);
        }
    }
    Ok(found)
}

/// Carries out moves in the state directory. May be stopped at any moment, and repeated.
///
/// # Errors
/// A database or directory cannot be written.
pub fn rename(dir: &Path, env: &RocksEnv, moves: &Moves) -> Result<(), String> {
    for (from, to) in &moves.changelogs {
        let edit = Edit { names: to.names.clone(), ..Edit::default() };
        rewrite(&dir.join(from), env, &edit)?;
        if *from != to.to {
            std::fs::rename(dir.join(from), dir.join(&to.to)).map_err(|e| format!("{from}: {e}"))?;
        }
        tracing::info!(from, to = to.to, "local state moved");
    }
    Ok(())
}

/// Changes the rows of one database, all or none.
///
/// # Errors
/// The database cannot be written.
pub fn rewrite(database: &Path, env: &RocksEnv, edit: &Edit) -> Result<(), String> {
    let backend = RocksBackend::open(database, env).map_err(|e| e.to_string())?;
    let (mut rows, mut failed) = (Vec::new(), None);
    backend
        .scan(b"", &after_prefix(&[0xff]), &mut |key, value| match edit.in_place(key, value, &mut rows) {
            Ok(()) => std::ops::ControlFlow::Continue(()),
            Err(e) => {
                failed = Some(e);
                std::ops::ControlFlow::Break(())
            }
        })
        .map_err(|e| e.to_string())?;
    if let Some(e) = failed {
        return Err(e.to_string());
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    backend.write(&rows).map_err(|e| e.to_string())
}

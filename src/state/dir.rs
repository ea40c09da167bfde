//! The state directory: one process at a time, one database per task in `<sub-topology>-<partition>`.
//!
//! Called by the engine, which holds the lock while it runs, and by the commands that look into a stopped instance's
//! state or delete it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// Another process holds the lock.
    #[error("another process uses the state directory {}", .0.display())]
    InUse(PathBuf),
    /// The file system refuses.
    #[error("state directory {}: {error}", .dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A state directory that is ours until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    _lock: File,
}

/// State of one task on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskDir {
    /// Name of the sub-topology.
    pub sub: String,
    /// Partition.
    pub partition: i32,
    /// Where it is.
    pub path: PathBuf,
}

impl StateDir {
    /// Locks the directory; makes it where it does not exist.
    ///
    /// # Errors
    /// Another process has it, or it cannot be made.
    pub fn lock(dir: &Path) -> Result<StateDir, DirError> {
        let failed = |error: io::Error| DirError::Io { dir: dir.to_owned(), error };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let file = File::create(dir.join("LOCK")).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(StateDir { dir: dir.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => Err(DirError::InUse(dir.to_owned())),
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }

    /// Locks the directory if it exists.
    ///
    /// # Errors
    /// Another process has it.
    pub fn lock_existing(dir: &Path) -> Result<Option<StateDir>, DirError> {
        if dir.is_dir() { StateDir::lock(dir).map(Some) } else { Ok(None) }
    }

    /// Where a task's state is.
    #[must_use]
    pub fn task(dir: &Path, sub: &str, partition: i32) -> PathBuf {
        dir.join(format!("{sub}-{partition}"))
    }

    /// The tasks with state here, in order. Only directories that look like a database: nothing else is ours.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn tasks(&self) -> Result<Vec<TaskDir>, DirError> {
        let failed = |error: io::Error| DirError::Io { dir: self.dir.clone(), error };
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some((sub, partition)) = path.file_name().and_then(|n| n.to_str()?.rsplit_once('-')) else {
                continue;
            };
            let Ok(partition) = partition.parse::<i32>() else { continue };
            if partition >= 0 && path.join("CURRENT").is_file() {
                out.push(TaskDir { sub: sub.to_owned(), partition, path: path.clone() });
            }
        }
        out.sort();
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_and_only_databases_are_tasks() {
        let root = tempfile::tempdir().expect("a temp dir");
        let dir = root.path().join("s");
        assert!(StateDir::lock_existing(&dir).expect("no error").is_none());
        assert!(!dir.exists(), "looking makes nothing");
        let owner = StateDir::lock(&dir).expect("locks");
        assert!(matches!(StateDir::lock(&dir), Err(DirError::InUse(_))));
        for (name, database) in
            [("b-2", true), ("a-x-10", true), ("a-x-9", true), ("other", true), ("c-1", false), ("d-x", true)]
        {
            std::fs::create_dir(dir.join(name)).expect("makes");
            if database {
                std::fs::write(dir.join(name).join("CURRENT"), "").expect("writes");
            }
        }
        let found: Vec<_> = owner.tasks().expect("lists").into_iter().map(|t| (t.sub, t.partition)).collect();
        let expected = [("a-x", 9), ("a-x", 10), ("b", 2)].map(|(s, p)| (s.to_owned(), p));
        assert_eq!(found, expected);
        assert_eq!(StateDir::task(&dir, "a-x", 9), dir.join("a-x-9"));
        drop(owner);
        assert!(StateDir::lock_existing(&dir).expect("free again").is_some());
    }
}

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

/// State of one task, or of a global table, on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskDir {
    /// Name of the sub-topology, or of the global table.
    pub sub: String,
    /// Partition; -1 for a global table.
    pub partition: i32,
    /// Where it is.
    pub path: PathBuf,
}

impl TaskDir {
    /// As people see it, and as the directory is named: `orders-0`, `countries.global`.
    #[must_use]
    pub fn name(&self) -> String {
        if self.partition < 0 {
            format!("{}{GLOBAL}", self.sub)
        } else {
            format!("{}-{}", self.sub, self.partition)
        }
    }
}

/// What a global table's directory ends with: no node's name has a point.
const GLOBAL: &str = ".global";

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

    /// Where a global table's rows are.
    #[must_use]
    pub fn global(dir: &Path, table: &str) -> PathBuf {
        dir.join(format!("{table}{GLOBAL}"))
    }

    /// The tasks and global tables with state here, in order. Only directories that look like a database: nothing else is ours.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn tasks(&self) -> Result<Vec<TaskDir>, DirError> {
        let failed = |error: io::Error| DirError::Io { dir: self.dir.clone(), error };
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let task = |(sub, partition): (&str, &str)| {
                let partition = partition.parse::<i32>().ok().filter(|p| *p >= 0)?;
                Some((sub.to_owned(), partition))
            };
            let found = match name.strip_suffix(GLOBAL) {
                Some(table) => Some((table.to_owned(), -1)),
                None => name.rsplit_once('-').and_then(task),
            };
            if let Some((sub, partition)) = found
                && path.join("CURRENT").is_file()
            {
                out.push(TaskDir { sub, partition, path: path.clone() });
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
        for (name, database) in [
            ("b-2", true),
            ("w-1.global", true),
            ("a-x-10", true),
            ("a-x-9", true),
            ("other", true),
            ("c-1", false),
            ("d-x", true),
        ] {
            std::fs::create_dir(dir.join(name)).expect("makes");
            if database {
                std::fs::write(dir.join(name).join("CURRENT"), "").expect("writes");
            }
        }
        let found: Vec<_> = owner.tasks().expect("lists").into_iter().map(|t| (t.sub, t.partition)).collect();
        let expected = [("a-x", 9), ("a-x", 10), ("b", 2), ("w-1", -1)].map(|(s, p)| (s.to_owned(), p));
        assert_eq!(found, expected);
        assert_eq!(StateDir::task(&dir, "a-x", 9), dir.join("a-x-9"));
        assert_eq!(StateDir::global(&dir, "w-1"), dir.join("w-1.global"));
        assert_eq!(
            owner.tasks().expect("lists").iter().map(TaskDir::name).next_back().as_deref(),
            Some("w-1.global")
        );
        drop(owner);
        assert!(StateDir::lock_existing(&dir).expect("free again").is_some());
    }
}

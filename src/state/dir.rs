//! The state directory: used by one process at a time, with one database per task in `<sub-topology>-<partition>`.
//!
//! The engine holds its lock while it runs; the commands that show or delete the state of a stopped instance take it
//! too.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why the state directory cannot be used.
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

/// A state directory that this process has locked. Dropping it releases the lock.
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
    /// The partition; -1 for a global table.
    pub partition: i32,
    /// Its directory.
    pub path: PathBuf,
}

impl TaskDir {
    /// Its name as people see it, which is also the directory's: `orders-0`, `countries.global`.
    #[must_use]
    pub fn name(&self) -> String {
        if self.partition < 0 {
            format!("{}{GLOBAL}", self.sub)
        } else {
            format!("{}-{}", self.sub, self.partition)
        }
    }
}

/// What a global table's directory name ends with. No clash is possible, since no node's name has a dot.
const GLOBAL: &str = ".global";

impl StateDir {
    /// Locks the directory, which is created if it does not exist.
    ///
    /// # Errors
    /// Another process has locked it, or it cannot be created.
    pub fn lock(dir: &Path) -> Result<StateDir, DirError> {
        let failed = |error: io::Error| DirError::Io { dir: dir.to_owned(), error };
        make_private(dir).map_err(failed)?;
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
    /// Another process has locked it.
    pub fn lock_existing(dir: &Path) -> Result<Option<StateDir>, DirError> {
        if dir.is_dir() { StateDir::lock(dir).map(Some) } else { Ok(None) }
    }

    /// The directory of a task's state.
    #[must_use]
    pub fn task(dir: &Path, sub: &str, partition: i32) -> PathBuf {
        dir.join(format!("{sub}-{partition}"))
    }

    /// The directory of a global table's rows.
    #[must_use]
    pub fn global(dir: &Path, table: &str) -> PathBuf {
        dir.join(format!("{table}{GLOBAL}"))
    }

    /// The tasks and global tables that have state here, sorted. Directories that do not look like a database are left
    /// out: they are not ours.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn tasks(&self) -> Result<Vec<TaskDir>, DirError> {
        task_dirs(&self.dir)
    }

    /// The topology whose state is here, as far as that was written down.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn owner(dir: &Path) -> Result<Option<String>, DirError> {
        match std::fs::read_to_string(dir.join(OWNER)) {
            Ok(name) => Ok(Some(name.trim_end().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DirError::Io { dir: dir.to_owned(), error }),
        }
    }

    /// Writes down whose state is here.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn set_owner(&self, topology: &str) -> Result<(), DirError> {
        let failed = |error: io::Error| DirError::Io { dir: self.dir.clone(), error };
        if StateDir::owner(&self.dir)?.as_deref() == Some(topology) {
            return Ok(());
        }
        // Whole or not at all.
        let new = self.dir.join(format!("{OWNER}.new"));
        std::fs::write(&new, format!("{topology}\n")).map_err(failed)?;
        std::fs::rename(&new, self.dir.join(OWNER)).map_err(failed)
    }
}

/// Makes a task's directory, which is for this user alone, also where a version that did not say so made it.
///
/// # Errors
/// It cannot be made.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    make_private(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

/// Makes a directory and those above it, for this user alone. One that is there stays as it is: it may be more than ours.
fn make_private(dir: &Path) -> io::Result<()> {
    match dir.is_dir() {
        true => Ok(()),
        false => std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir),
    }
}

/// The file that names the topology whose state is here.
const OWNER: &str = "TOPOLOGY";

/// What [`StateDir::tasks`] finds, for who holds the lock already.
///
/// # Errors
/// The directory cannot be read.
pub fn task_dirs(dir: &Path) -> Result<Vec<TaskDir>, DirError> {
    let failed = |error: io::Error| DirError::Io { dir: dir.to_owned(), error };
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
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

//! Where the engine of `dev` keeps its state: a directory that was given and is empty, or one that is removed at the end.

use std::path::{Path, PathBuf};

use super::DevError;

/// Where the engine keeps its state.
pub(super) struct StateDir {
    pub(super) path: PathBuf,
    /// Remove it at the end?
    ours: bool,
}

impl StateDir {
    pub(super) fn new(given: Option<&Path>) -> Result<StateDir, DevError> {
        let Some(path) = given else {
            let name = format!("slackwater-dev-{}-{:08x}", std::process::id(), rand::random::<u32>());
            return Ok(StateDir { path: std::env::temp_dir().join(name), ours: true });
        };
        let used = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if used {
            return Err(DevError::StateDir(format!(
                "{} is not empty: the embedded broker starts empty, so state of an earlier run does not fit \
                     it. Give an empty directory with --state-dir, or none",
                path.display()
            )));
        }
        Ok(StateDir { path: path.to_owned(), ours: false })
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = std::fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the state directory");
        }
    }
}

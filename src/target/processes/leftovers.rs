//! The folder of a run on this machine, and the removal of what dead runs left: servers, and their folders.
//!
//! A living suite holds a lock on a file in its folder; the system releases it however the suite ends.

use crate::target::TargetError;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Below the system's folder for temporary files.
const PARENT: &str = "redis-cluster-conformance-processes";
const LOCK: &str = "lock";

/// A run's own folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    // Held, never read: its lock says that this suite lives.
    _lock: File,
}

impl Folder {
    /// Makes the folder of a run and takes its lock.
    pub(super) fn create(run_id: &str) -> Result<Self, TargetError> {
        use std::os::unix::fs::DirBuilderExt;
        let path = parent().join(run_id);
        let failed = |error: std::io::Error| TargetError::Surroundings(format!("{}: {error}", path.display()));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(failed)?;
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder.
    pub(super) fn remove(self) -> Result<(), TargetError> {
        std::fs::remove_dir_all(&self.path)
            .map_err(|error| TargetError::Surroundings(format!("{} is left behind: {error}", self.path.display())))
    }

    /// Leaves the folder where it is, marked so that no later run removes it.
    pub(super) fn leave(self) {
        // Without its lock file a folder is nobody's: the sweep passes it over.
        let _ = std::fs::remove_file(self.path.join(LOCK));
    }
}

fn parent() -> PathBuf {
    std::env::temp_dir().join(PARENT)
}

/// Removes what dead runs left; a line for each thing removed.
pub(super) async fn sweep() -> Vec<String> {
    let mut told = Vec::new();
    let Ok(entries) = std::fs::read_dir(parent()) else {
        return told;
    };
    for folder in entries.flatten().map(|entry| entry.path()) {
        let Ok(lock) = File::open(folder.join(LOCK)) else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => {
                let killed = kill_servers_of(&folder).await;
                if std::fs::remove_dir_all(&folder).is_ok() {
                    told.push(format!(
                        "removed what a run that ended without its clean-up had left: {killed} servers, {}",
                        folder.display()
                    ));
                }
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
    told
}

/// Kills the processes whose working folder lies in `folder`: that is how servers are started, and nothing else is.
async fn kill_servers_of(folder: &Path) -> usize {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let pids: Vec<i32> = processes
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for pid in &pids {
        // It may have ended since: then there is nothing to do.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
    }
    for _ in 0..50 {
        if pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}/cwd")).exists()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pids.len()
}

//! The folder of a run on this machine, with those of its servers, and the folders of runs that ended without their clean-up.
//!
//! A living suite holds a lock on a file in its folder; the system releases it however the suite ends.

use super::TargetError;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";

/// Removes what a server that has ended left in its folder, but for the files named.
pub(super) fn empty(folder: &Path, kept: &[&str]) -> Result<(), TargetError> {
    let emptied = || {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if kept.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    emptied().map_err(|error: std::io::Error| {
        TargetError::Surroundings(format!("{} could not be emptied: {error}", folder.display()))
    })
}

/// A run's own folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    // Held, never read: its lock says that this suite lives.
    _lock: File,
}

impl Folder {
    /// Makes the folder of a run below `parent` and takes its lock.
    pub(super) fn create(parent: &Path, run_id: &str) -> Result<Self, TargetError> {
        use std::os::unix::fs::DirBuilderExt;
        let path = parent.join(run_id);
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

    /// Removes the folder. Where that fails, the next run over the target tries again: the lock file is put back.
    pub(super) fn remove(self) -> Result<(), TargetError> {
        std::fs::remove_dir_all(&self.path).map_err(|error| {
            let _ = File::create(self.path.join(LOCK));
            TargetError::Surroundings(format!("{} is left behind: {error}", self.path.display()))
        })
    }

    /// Leaves the folder where it is, marked so that no later run removes it.
    pub(super) fn leave(self) {
        // Without its lock file a folder is nobody's: the sweep passes it over.
        let _ = std::fs::remove_file(self.path.join(LOCK));
    }
}

/// The folder of a run that ended without its clean-up, taken over: nobody else removes it meanwhile.
#[derive(Debug)]
pub(super) struct Abandoned {
    pub(super) path: PathBuf,
    // Held, never read.
    _lock: File,
}

/// The folders below `parent` that dead runs left.
pub(super) fn abandoned(parent: &Path) -> Vec<Abandoned> {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let taken = entries.flatten().filter_map(|entry| {
        let lock = File::open(entry.path().join(LOCK)).ok()?;
        match lock.try_lock() {
            Ok(()) => Some(Abandoned {
                path: entry.path(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
        }
    });
    taken.collect()
}

/// The name of the folder that holds the folders of all runs over a kind of target.
fn name_of(kind: super::TargetKind) -> String {
    format!("redis-cluster-conformance-{kind}")
}

/// The folder below the system's one for temporary files that holds the folders of all runs over a kind of target.
pub(super) fn parent_of(kind: super::TargetKind) -> PathBuf {
    std::env::temp_dir().join(name_of(kind))
}

/// Where Linux has a file system in memory.
const MEMORY: &str = "/dev/shm";
/// What it must have free before servers are put there, in bytes.
const ENOUGH: u64 = 1 << 30;

/// As [`parent_of`], in memory: no write waits there for a disk that is busy with something else.
pub(super) fn parent_in_memory(kind: super::TargetKind) -> PathBuf {
    Path::new(MEMORY).join(name_of(kind))
}

/// Whether servers can be put into memory.
pub(super) fn memory_has_room() -> bool {
    // The width of both numbers is the platform's.
    #[allow(clippy::unnecessary_cast)]
    nix::sys::statvfs::statvfs(MEMORY)
        .is_ok_and(|found| found.blocks_available() as u64 * found.fragment_size() as u64 >= ENOUGH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_folder_holds_only_what_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["redis.conf", "nodes.conf", "dump.rdb"] {
            std::fs::write(folder.path().join(name), "text").unwrap();
        }
        std::fs::create_dir(folder.path().join("appendonlydir")).unwrap();
        std::fs::write(folder.path().join("appendonlydir/1"), "text").unwrap();
        empty(folder.path(), &["redis.conf", "redis.log"]).unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].file_name(), "redis.conf");
    }
}

//! The folder of a run on this machine, with those of its servers, and the folders of runs that ended without their clean-up.
//!
//! A living suite holds a lock on a file in its folder; the system releases it however the suite ends.

use super::TargetError;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
/// What the lock's file is called until it is locked.
const NOT_YET: &str = "lock.new";

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
        // Without its lock file a folder is nobody's: another suite that looks in between does not take it for one that was left.
        let not_yet = path.join(NOT_YET);
        let lock = File::create(&not_yet).map_err(failed)?;
        lock.lock().map_err(failed)?;
        std::fs::rename(&not_yet, path.join(LOCK)).map_err(failed)?;
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
        let file = entry.path().join(LOCK);
        let lock = File::open(&file).ok()?;
        // A run that ends meanwhile has removed its folder, or left it where it is to stay.
        (lock.try_lock().is_ok() && is_at(&lock, &file)).then(|| Abandoned {
            path: entry.path(),
            _lock: lock,
        })
    });
    taken.collect()
}

/// Whether a path still names a file that was opened there: one that was removed meanwhile is locked by nobody, and says
/// nothing.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(opened), Ok(named)) => (opened.dev(), opened.ino()) == (named.dev(), named.ino()),
        (Ok(_) | Err(_), _) => false,
    }
}

/// The name of the folder that holds the folders of all runs over a kind of target. Each user has one: what one has made
/// there, another can neither use nor remove.
fn name_of(kind: super::TargetKind) -> String {
    format!("redis-cluster-conformance-{kind}-{}", user())
}

/// The user that the suite runs as, who owns its entry in the system's list of processes.
fn user() -> u32 {
    std::fs::metadata("/proc/self").map_or(0, |own| own.uid())
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
    use crate::target::TargetKind;
    use rstest::rstest;
    use std::sync::atomic::{AtomicBool, Ordering};

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

    #[derive(Debug)]
    enum End {
        Killed,
        Removed,
        Left,
    }

    #[rstest]
    #[case::killed(End::Killed, true, true)]
    #[case::cleaned_up(End::Removed, false, false)]
    #[case::to_be_kept(End::Left, true, false)]
    fn only_what_a_dead_run_left_is_taken_over(#[case] end: End, #[case] there: bool, #[case] taken: bool) {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(parent.path(), "run").unwrap();
        let path = folder.path().to_owned();
        assert!(
            abandoned(parent.path()).is_empty(),
            "{end:?}: taken over from a living run"
        );
        match end {
            End::Killed => drop(folder),
            End::Removed => folder.remove().unwrap(),
            End::Left => folder.leave(),
        }
        assert_eq!(path.exists(), there);
        let found: Vec<_> = abandoned(parent.path()).into_iter().map(|left| left.path).collect();
        assert_eq!(found, if taken { vec![path] } else { Vec::new() });
    }

    #[test]
    fn a_folder_that_is_being_made_is_not_taken_over() {
        let parent = tempfile::tempdir().unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for left in abandoned(parent.path()) {
                        let _ = std::fs::remove_dir_all(&left.path);
                    }
                }
            });
            let made: Vec<_> = (0..200)
                .map(|run| Folder::create(parent.path(), &run.to_string()))
                .collect();
            done.store(true, Ordering::Relaxed);
            for folder in made {
                assert!(folder.unwrap().path().join(LOCK).exists());
            }
        });
    }

    #[test]
    fn a_lock_on_a_file_that_is_gone_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        let file = File::create(&path).unwrap();
        assert!(is_at(&file, &path));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path));
        let _another = File::create(&path).unwrap();
        assert!(!is_at(&file, &path));
    }

    #[test]
    fn each_user_has_folders_of_their_own() {
        let own = tempfile::tempfile().unwrap().metadata().unwrap().uid();
        let name = format!("redis-cluster-conformance-docker-{own}");
        assert!(parent_of(TargetKind::Docker).ends_with(&name));
        assert!(parent_in_memory(TargetKind::Docker).ends_with(&name));
    }
}

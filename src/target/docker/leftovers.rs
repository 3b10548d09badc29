//! The removal of what dead runs left: containers, networks, folders.

use super::daemon;
use crate::target::folder::{abandoned, parent_of};
use crate::target::{TargetError, TargetKind, volume};
use bollard::Docker;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(super) fn parent() -> PathBuf {
    parent_of(TargetKind::Docker)
}

/// Removes what dead runs left; a line for each thing removed.
pub(super) async fn sweep(docker: &Docker) -> Result<Vec<String>, TargetError> {
    let mut told = Vec::new();
    let line = |count: usize, folder: &Path| {
        format!(
            "removed what a run that ended without its clean-up had left: {count} containers, {}",
            folder.display()
        )
    };
    for left in abandoned(&parent()) {
        let count = daemon::remove_all_of(docker, &left.path.display().to_string()).await?;
        volume::unmount_below(&left.path).await?;
        if std::fs::remove_dir_all(&left.path).is_ok() {
            told.push(line(count, &left.path));
        }
    }
    // Where the folder itself is gone (an emptied /tmp), nobody can be at work with it either.
    let mut orphans = BTreeSet::new();
    for found in daemon::containers(docker, None).await? {
        orphans.insert(found.folder);
    }
    for found in daemon::networks(docker, None).await? {
        orphans.insert(found.folder);
    }
    for folder in orphans {
        if matches!(Path::new(&folder).try_exists(), Ok(false)) {
            let count = daemon::remove_all_of(docker, &folder).await?;
            told.push(line(count, Path::new(&folder)));
        }
    }
    Ok(told)
}

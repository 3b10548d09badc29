//! The removal of what dead runs left: containers, networks, folders.

use super::daemon::{self, Found};
use crate::target::folder::{abandoned, parent_of};
use crate::target::plain::digest;
use crate::target::{TargetError, TargetKind, volume};
use bollard::Docker;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(super) fn parent() -> PathBuf {
    parent_of(TargetKind::Docker)
}

/// This machine, as far as it has files of its own: several may use one daemon, also as containers, and a folder that is not
/// there on one may be there on another. One image may have given machines their id; then their names differ.
pub(super) fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let id = Some(read("/etc/machine-id")).filter(|id| !id.trim().is_empty());
    let id = id.unwrap_or_else(|| read("/proc/sys/kernel/random/boot_id"));
    let name = read("/proc/sys/kernel/hostname");
    let files = std::fs::metadata("/proc/self/ns/mnt").map_or(0, |namespace| namespace.ino());
    // The id itself is to be told to nobody.
    digest(&format!("{id}\n{name}\n{files}"))
}

/// Removes what dead runs left; a line for each thing removed. What cannot be removed is told, too, and is no reason not to
/// begin: the next run tries again.
pub(super) async fn sweep(docker: &Docker) -> Vec<String> {
    let mut told = Vec::new();
    let line = |count: usize, folder: &Path| {
        format!(
            "removed what a run that ended without its clean-up had left: {count} containers, {}",
            folder.display()
        )
    };
    for left in abandoned(&parent()) {
        match empty(docker, &left.path).await {
            Ok(count) if std::fs::remove_dir_all(&left.path).is_ok() => told.push(line(count, &left.path)),
            Ok(_) => {}
            Err(left_behind) => told.push(left_behind.to_string()),
        }
    }
    match all(docker).await {
        Ok(found) => {
            for folder in orphaned(found, &machine()) {
                match daemon::remove_all_of(docker, &folder).await {
                    Ok(count) => told.push(line(count, Path::new(&folder))),
                    Err(left_behind) => told.push(left_behind.to_string()),
                }
            }
        }
        Err(error) => told.push(error.to_string()),
    }
    told
}

/// Removes the containers and networks that belong to a folder, and what is mounted in it; how many containers there were.
async fn empty(docker: &Docker, folder: &Path) -> Result<usize, TargetError> {
    let count = daemon::remove_all_of(docker, &folder.display().to_string()).await?;
    volume::unmount_below(folder).await?;
    Ok(count)
}

/// All containers and networks that runs made, of whichever machine.
async fn all(docker: &Docker) -> Result<Vec<Found>, TargetError> {
    let mut found = daemon::containers(docker, None).await?;
    found.extend(daemon::networks(docker, None).await?);
    Ok(found)
}

/// The folders that are gone, as in an emptied /tmp, of what was made on this machine: nobody can be at work with them.
fn orphaned(found: Vec<Found>, here: &str) -> BTreeSet<String> {
    let of_here = found.into_iter().filter(|one| one.machine.as_deref() == Some(here));
    let folders = of_here.map(|one| one.folder);
    folders
        .filter(|folder| matches!(Path::new(folder).try_exists(), Ok(false)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::its_folder_is_gone(Some("here"), false, true)]
    #[case::its_folder_is_there(Some("here"), true, false)]
    #[case::its_folder_is_elsewhere(Some("there"), false, false)]
    #[case::nobody_knows_where_its_folder_is(None, false, false)]
    fn what_is_missed_here_was_made_here(#[case] machine: Option<&str>, #[case] there: bool, #[case] orphan: bool) {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        if there {
            std::fs::create_dir(&folder).unwrap();
        }
        let folder = folder.display().to_string();
        let found = Found {
            id: "1".into(),
            folder: folder.clone(),
            machine: machine.map(str::to_owned),
        };
        assert_eq!(orphaned(vec![found], "here").contains(&folder), orphan);
    }

    #[test]
    fn a_machine_is_known_again_and_does_not_show_its_id() {
        assert_eq!(machine(), machine());
        assert_eq!(machine().len(), 16);
    }
}

//! The removal of what dead runs left: servers, cuts of their links, and their folders.

use super::links;
use crate::target::folder::{abandoned, memory_has_room, parent_in_memory, parent_of};
use crate::target::{TargetKind, volume};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) fn parent() -> PathBuf {
    parent_of(TargetKind::Processes)
}

/// The folder that holds the folders of runs whose servers' data need not outlive this machine, if it can be had.
pub(super) fn parent_in_memory_if_room() -> PathBuf {
    if memory_has_room() {
        parent_in_memory(TargetKind::Processes)
    } else {
        parent()
    }
}

/// Removes what dead runs left; a line for each thing removed.
pub(super) async fn sweep() -> Vec<String> {
    let mut told = Vec::new();
    // One and the same, where the system's folder for temporary files is the one in memory.
    let parents = BTreeSet::from([parent(), parent_in_memory(TargetKind::Processes)]);
    for left in parents.iter().flat_map(|parent| abandoned(parent)) {
        let killed = kill_servers_of(&left.path).await;
        match links::sweep(&left.path).await {
            Ok(false) => {}
            Ok(true) => told.push("mended the links that a run which ended without its clean-up had cut".into()),
            Err(left_behind) => {
                told.push(left_behind);
                // Its folder says how the chain is named: the next run tries again.
                continue;
            }
        }
        if let Err(left_behind) = volume::unmount_below(&left.path).await {
            told.push(left_behind.to_string());
            continue;
        }
        if std::fs::remove_dir_all(&left.path).is_ok() {
            told.push(format!(
                "removed what a run that ended without its clean-up had left: {killed} servers, {}",
                left.path.display()
            ));
        }
    }
    told
}

/// Kills the processes whose working folder lies in `folder`: that is how servers are started, and nothing else is.
/// Returns how many there were, when they have ended or a second has passed.
pub(super) async fn kill_servers_of(folder: &Path) -> usize {
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

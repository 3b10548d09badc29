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

/// Kills the servers whose folders lie in `folder`, with the children that they have forked. Returns how many there were,
/// when they have ended or a second has passed.
pub(super) async fn kill_servers_of(folder: &Path) -> usize {
    let (Ok(folder), Ok(processes)) = (folder.canonicalize(), std::fs::read_dir("/proc")) else {
        return 0;
    };
    let pids: Vec<i32> = processes
        .flatten()
        .filter(|entry| is_server_of(&entry.path(), &folder))
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

/// Whether a process, by its folder in /proc, is a server in `folder` or a child of one: it works there, and what it says
/// goes to a file there. A user's shell only works there. A variable would not tell: a server writes its title over its
/// environment.
fn is_server_of(process: &Path, folder: &Path) -> bool {
    let leads_there = |link: &str| std::fs::read_link(process.join(link)).is_ok_and(|file| file.starts_with(folder));
    leads_there("cwd") && (leads_there("fd/1") || leads_there("fd/2"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::{Command, Stdio};

    #[tokio::test]
    async fn a_user_who_looks_at_a_folder_is_no_server() {
        let folder = tempfile::tempdir().unwrap();
        let server = folder.path().join("17000");
        std::fs::create_dir(&server).unwrap();
        let output = File::create(server.join("output.txt")).unwrap();
        let started = |output: Stdio| {
            let mut command = Command::new("sleep");
            command
                .arg("60")
                .current_dir(&server)
                .stdout(output)
                .stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let (mut of_ours, mut user_s) = (started(output.into()), started(Stdio::null()));
        let killed = kill_servers_of(folder.path()).await;
        let goes_on = user_s.try_wait().unwrap().is_none();
        let _ = (of_ours.kill(), user_s.kill());
        let _ = (of_ours.wait(), user_s.wait());
        assert_eq!((killed, goes_on), (1, true));
    }
}

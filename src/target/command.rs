//! A command of the user's on this machine: in a process group of its own, with a bound, and ended whole, with whatever it
//! started, however the suite goes on.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::Child;
use tokio::sync::Mutex;

/// How long a group has to end after SIGTERM before SIGKILL ends it.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// How long the system may take to take a process away that was killed.
const TAKEN_AWAY: Duration = Duration::from_secs(5);

/// How often it is looked whether a group has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How many of a command's last lines come with an error.
const LINES: usize = 15;

/// How much of the end of what a command said is looked at for them, in bytes.
const END: u64 = 64 * 1024;

/// What is to be run.
pub(super) struct Invocation<'a> {
    /// The program's file.
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [String],
    /// Where it runs.
    pub(super) folder: &'a Path,
    /// Variables that it has beside those of the suite; one without a value it does not have.
    pub(super) environment: &'a [(&'a str, Option<&'a OsStr>)],
    /// The file to which its output goes: it is made, or written on.
    pub(super) log: &'a Path,
    pub(super) limit: Duration,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself.
    With(ExitStatus),
    /// Its bound passed, and it was ended.
    TooLate,
}

/// Runs one command at a time. When its call is dropped, the command's group is told to end; [`Runner::end`] sees to it
/// that it does, and at the latest the drop of the runner.
#[derive(Default)]
pub(super) struct Runner {
    group: Mutex<Option<Group>>,
}

impl Runner {
    /// Runs a command to its end, or to the end of its bound. What it has started and left in its group is ended with it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) async fn run(&self, invocation: &Invocation<'_>) -> io::Result<Ended> {
        let mut running = self.group.lock().await;
        if let Some(left) = running.take() {
            left.end(GRACE).await;
        }
        let group = running.insert(Group::start(invocation)?);
        let told = Told(Some(group.id));
        let waited = tokio::time::timeout(invocation.limit, group.child.wait()).await;
        told.disarm();
        if let Some(group) = running.take() {
            group.end(GRACE).await;
        }
        match waited {
            Ok(status) => Ok(Ended::With(status?)),
            Err(_) => Ok(Ended::TooLate),
        }
    }

    /// Ends what a dropped call has left.
    pub(super) async fn end(&self) {
        if let Some(left) = self.group.lock().await.take() {
            left.end(GRACE).await;
        }
    }
}

/// Tells a group to end when the call is dropped that awaits it.
struct Told(Option<Pid>);

impl Told {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGTERM);
        }
    }
}

/// A process group whose first process is a child of the suite.
struct Group {
    child: Child,
    id: Pid,
    ended: bool,
}

impl Group {
    fn start(invocation: &Invocation<'_>) -> io::Result<Self> {
        let mut options = File::options();
        // What it says may be for nobody else.
        let log = options.create(true).append(true).mode(0o600).open(invocation.log)?;
        let mut command = tokio::process::Command::new(invocation.program);
        command
            .args(invocation.arguments)
            .current_dir(invocation.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the suite, which then ends its children in order.
            .process_group(0);
        for (name, value) in invocation.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let child = command.spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.ok_or_else(|| io::Error::other("it has no process id"))?;
        Ok(Self {
            child,
            id: Pid::from_raw(id),
            ended: false,
        })
    }

    /// Whether any process of the group is there.
    fn is_there(&self) -> bool {
        killpg(self.id, None).is_ok()
    }

    /// Ends the group: SIGTERM, and after the grace SIGKILL. Done when nothing of it runs, or when the system takes it away too
    /// slowly, which is told.
    async fn end(mut self, grace: Duration) {
        let _ = killpg(self.id, Signal::SIGTERM);
        let told = Instant::now();
        loop {
            let first_ended = matches!(self.child.try_wait(), Ok(Some(_)) | Err(_));
            if first_ended && !self.is_there() {
                break;
            }
            if told.elapsed() >= grace {
                let _ = killpg(self.id, Signal::SIGKILL);
            }
            if told.elapsed() >= grace + TAKEN_AWAY {
                tracing::warn!(
                    "process group {} still runs {} s after SIGKILL: the system has not taken it away",
                    self.id,
                    TAKEN_AWAY.as_secs()
                );
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.ended = true;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            let _ = killpg(self.id, Signal::SIGKILL);
        }
    }
}

/// Kills what still runs of the commands of a suite that was killed itself: their output goes to a file in its folder, and
/// nobody else's does.
pub(super) fn kill_left(folder: &Path) {
    let (Ok(folder), Ok(processes)) = (folder.canonicalize(), std::fs::read_dir("/proc")) else {
        return;
    };
    for process in processes.flatten() {
        let says_there = |stream| {
            let file = std::fs::read_link(process.path().join("fd").join(stream));
            file.is_ok_and(|file| file.starts_with(&folder))
        };
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && (says_there("1") || says_there("2"))
        {
            // It may have ended since: then there is nothing to do.
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The last lines of what a command said; nothing where it said nothing.
pub(super) fn last_lines(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let over = file.metadata()?.len().saturating_sub(END);
        file.seek(SeekFrom::Start(over))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok::<_, io::Error>(match (over, text.split_once('\n')) {
            // The first line may be cut in the middle of what is to be taken out of it.
            (1.., Some((_, whole))) => whole.to_owned(),
            _ => text,
        })
    };
    let said = read().unwrap_or_default();
    let lines: Vec<&str> = said.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests;

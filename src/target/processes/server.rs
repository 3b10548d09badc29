//! One server process: its configuration, start, signals and end.

use super::ProcessesOptions;
use crate::cluster::connection::{Address, Connection};
use crate::cluster::node::Member;
use crate::target::addresses::connect_tcp;
use crate::target::{Secret, TargetError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// A server and its process, while that runs.
#[derive(Debug)]
pub(super) struct Server {
    binary: PathBuf,
    folder: PathBuf,
    port: u16,
    name: String,
    password: Option<Secret>,
    redis_conf: String,
    /// What comes after everything else in this server's redis.conf.
    altered: Vec<String>,
    child: Option<Child>,
}

/// Directives that the target sets itself, whatever the manifest says.
const REPLACED: [&str; 12] = [
    "bind",
    "cluster-announce-ip",
    "cluster-config-file",
    "daemonize",
    "dir",
    "include",
    "logfile",
    "masterauth",
    "pidfile",
    "port",
    "requirepass",
    "unixsocket",
];

impl Server {
    pub(super) fn new(options: &ProcessesOptions, parent: &Path, port: u16, node: usize) -> Self {
        let alterations = options.alterations.iter().filter(|altered| altered.node == node);
        Self {
            binary: options.server.clone(),
            folder: parent.join(port.to_string()),
            port,
            name: format!("127.0.0.1:{port}"),
            password: options.password.clone(),
            redis_conf: options.redis_conf.clone(),
            altered: alterations.flat_map(|altered| altered.directives.clone()).collect(),
            child: None,
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            address: Address::new("127.0.0.1", self.port),
        }
    }

    /// Writes the folder and the redis.conf, readable by nobody else: it holds the password.
    pub(super) fn write_configuration(&self) -> Result<(), TargetError> {
        let failed = |error: std::io::Error| TargetError::Surroundings(format!("{}: {error}", self.folder.display()));
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let mut text = configuration(&self.redis_conf, &self.folder, self.port, self.password.as_ref());
        text.extend(self.altered.iter().flat_map(|line| [line, "\n"]));
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.folder.join("redis.conf"))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(failed)
    }

    /// Starts the process and waits until it answers.
    pub(super) async fn start(&mut self, bound: Duration) -> Result<(), TargetError> {
        let output = |error: std::io::Error| TargetError::Surroundings(format!("{}: {error}", self.folder.display()));
        let out = std::fs::File::create(self.folder.join("output.txt")).map_err(output)?;
        let err = out.try_clone().map_err(output)?;
        let child = Command::new(&self.binary)
            .arg(self.folder.join("redis.conf"))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                TargetError::Usage(format!(
                    "the server {} cannot be started: {error}; install it (Debian: redis-server), or name another with --server",
                    self.binary.display()
                ))
            })?;
        let child = self.child.insert(child);
        let started = Instant::now();
        let address = Address::new("127.0.0.1", self.port);
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                self.child = None;
                return Err(TargetError::NotDeployed(format!(
                    "the server {} on port {} ended at once ({status}): {}",
                    self.binary.display(),
                    self.port,
                    self.last_words()
                )));
            }
            // NOAUTH is an answer too; LOADING is not yet one.
            let last = match connect_tcp(&address).await {
                Ok(stream) => match Connection::new(stream, address.clone(), Duration::from_secs(1))
                    .call(&["PING"])
                    .await
                {
                    Ok(reply) if reply.error_prefix() != Some("LOADING") => return Ok(()),
                    Ok(reply) => reply.to_string(),
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            if started.elapsed() >= bound {
                return Err(TargetError::NotDeployed(format!(
                    "the server on port {} does not answer after {:.0} s: {last}",
                    self.port,
                    bound.as_secs_f64()
                )));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// SIGTERM, and waits until the process has ended; SIGKILL when it has not within `patience`, as Kubernetes does after
    /// the grace period. The signal is sent again every second: Redis drops one that comes while it writes its first
    /// append-only file after a synchronisation ("Writing initial AOF, can't exit").
    pub(super) async fn terminate(&mut self, patience: Duration) -> Result<(), TargetError> {
        let started = Instant::now();
        while started.elapsed() < patience {
            self.signal(Signal::SIGTERM)?;
            let Some(child) = &mut self.child else {
                return Ok(());
            };
            match tokio::time::timeout(Duration::from_secs(1), child.wait()).await {
                Ok(Ok(_)) => {
                    self.child = None;
                    return Ok(());
                }
                Ok(Err(error)) => return Err(TargetError::Surroundings(format!("{}: {error}", self.name))),
                Err(_) => {}
            }
        }
        self.kill().await
    }

    /// SIGKILL, and waits until the process has ended.
    pub(super) async fn kill(&mut self) -> Result<(), TargetError> {
        match self.child.take() {
            Some(mut child) => child
                .kill()
                .await
                .map_err(|error| TargetError::Surroundings(format!("{}: {error}", self.name))),
            None => Ok(()),
        }
    }

    pub(super) fn pause(&self) -> Result<(), TargetError> {
        self.signal(Signal::SIGSTOP)
    }

    pub(super) fn resume(&self) -> Result<(), TargetError> {
        self.signal(Signal::SIGCONT)
    }

    /// Lets the process go on when the suite ends.
    pub(super) fn leave(&mut self) {
        if let Some(child) = self.child.take() {
            // `kill_on_drop` acts when the handle is dropped: this one never is.
            std::mem::forget(child);
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), TargetError> {
        let Some(pid) = self
            .child
            .as_ref()
            .and_then(Child::id)
            .and_then(|pid| i32::try_from(pid).ok())
        else {
            return Ok(());
        };
        kill(Pid::from_raw(pid), signal)
            .map_err(|error| TargetError::Surroundings(format!("{}: {signal} could not be sent: {error}", self.name)))
    }

    /// The last lines that the server wrote, for an error.
    fn last_words(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let text = format!("{}\n{}", read("redis.log"), read("output.txt"));
        let text = self
            .password
            .as_ref()
            .map_or(text.clone(), |password| password.redact(&text));
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(4)..].join(" / ")
    }
}

/// The manifest's redis.conf with what must differ on loopback replaced.
fn configuration(base: &str, folder: &Path, port: u16, password: Option<&Secret>) -> String {
    let kept = base.lines().filter(|line| {
        let word = line.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        !REPLACED.contains(&word.as_str())
    });
    let mut text: String = kept.flat_map(|line| [line, "\n"]).collect();
    let folder = folder.display();
    text.push_str(&format!(
        "bind 127.0.0.1\nport {port}\ndir \"{folder}\"\nlogfile \"{folder}/redis.log\"\npidfile \"{folder}/redis.pid\"\n\
         daemonize no\ncluster-config-file nodes.conf\ncluster-announce-ip 127.0.0.1\n"
    ));
    if let Some(password) = password {
        // Every byte escaped: no password can then end the quotes or be taken for an escape.
        let escaped: String = password.expose().bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        text.push_str(&format!("requirepass \"{escaped}\"\nmasterauth \"{escaped}\"\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_differ_on_loopback_is_replaced_and_the_rest_is_kept() {
        let base = "bind 0.0.0.0\nappendonly yes\ncluster-node-timeout 5000\nPORT 6379\n  requirepass \"x\"\n# port\n";
        let text = configuration(base, Path::new("/t"), 17000, Some(&Secret::new("a\"")));
        assert!(text.starts_with("appendonly yes\ncluster-node-timeout 5000\n# port\nbind 127.0.0.1\nport 17000\n"));
        assert!(text.ends_with("requirepass \"\\x61\\x22\"\nmasterauth \"\\x61\\x22\"\n"));
        assert!(!text.contains("6379"));
    }
}

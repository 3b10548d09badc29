//! One server process: its configuration, start, signals and end.

use super::{ProcessesOptions, links, ports};
use crate::cluster::connection::Address;
use crate::cluster::node::Member;
use crate::target::addresses::answers;
use crate::target::{Secret, TLS_PORT, TargetError, redis_conf};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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
    /// Whether its connections come from an address of its own, so that its links can be cut.
    told_apart: bool,
    child: Option<Child>,
}

impl Server {
    pub(super) fn new(options: &ProcessesOptions, parent: &Path, port: u16, node: usize, told_apart: bool) -> Self {
        Self {
            told_apart,
            binary: options.server.clone(),
            folder: parent.join(port.to_string()),
            port,
            name: format!("127.0.0.1:{port}"),
            password: options.password.clone(),
            redis_conf: options.redis_conf.clone(),
            altered: redis_conf::altered(&options.alterations, node),
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

    /// Gives the server, which is down, another port; all that it has on disk stays its own.
    pub(super) fn move_to(&mut self, port: u16) -> Result<(), TargetError> {
        self.port = port;
        self.name = format!("127.0.0.1:{port}");
        self.write_configuration()
    }

    /// Writes the folder and the redis.conf, readable by nobody else: it holds the password.
    pub(super) fn write_configuration(&self) -> Result<(), TargetError> {
        let mut own = on_loopback(&self.folder, self.port);
        if self.told_apart {
            own.extend(links::directives(self.port));
        }
        let text = redis_conf::configuration(&self.redis_conf, &own, self.password.as_ref());
        let tls_port = (self.port - ports::TLS_OFFSET).to_string();
        let altered: Vec<String> = self
            .altered
            .iter()
            .map(|line| line.replace(TLS_PORT, &tls_port))
            .collect();
        redis_conf::write(&self.folder, &text, &altered)
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
            // By this a later run knows what a killed one has left: see `leftovers`.
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
            let last = match answers(&address).await {
                Ok(()) => return Ok(()),
                Err(last) => last,
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
        // Ours until it has ended: a call that is dropped before that can be made again.
        if let Some(child) = &mut self.child {
            let killed = child.kill().await;
            killed.map_err(|error| TargetError::Surroundings(format!("{}: {error}", self.name)))?;
        }
        self.child = None;
        Ok(())
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

/// What must differ on loopback.
fn on_loopback(folder: &Path, port: u16) -> Vec<String> {
    let folder = folder.display();
    vec![
        "bind 127.0.0.1".into(),
        format!("port {port}"),
        format!("dir \"{folder}\""),
        format!("logfile \"{folder}/redis.log\""),
        format!("pidfile \"{folder}/redis.pid\""),
        "daemonize no".into(),
        "cluster-config-file nodes.conf".into(),
        "cluster-announce-ip 127.0.0.1".into(),
    ]
}

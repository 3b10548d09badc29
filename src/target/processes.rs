//! Target `processes`: servers on loopback, from the manifest's own redis.conf, formed by the suite. The quick way.

mod leftovers;
mod server;

use self::server::Server;
use super::addresses::{connect_tcp, resolve};
use super::{Fault, Phase, Secret, Target, TargetDescription, TargetError, TargetKind};
use crate::case::Capability;
use crate::cluster::connection::{Address, BoxedStream, Connection, LinkError};
use crate::cluster::formation;
use crate::cluster::node::Member;
use crate::cluster::view::Shape;
use crate::progress::Progress;
use crate::timing::Timing;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;
use tokio::sync::Mutex;

/// How many ports above a node's own its bus listens (the default that `cluster-port 0` stands for).
const BUS_OFFSET: u16 = 10000;
/// Where the search for free ports begins; bus ports then stay below 65536.
const PORTS: std::ops::Range<u16> = 17000..27000;

/// What is started.
#[derive(Clone, Debug)]
pub struct ProcessesOptions {
    /// The redis.conf that every server starts from; paths, ports and passwords in it are replaced.
    pub redis_conf: String,
    /// Where the redis.conf comes from, for the report.
    pub source: String,
    /// The server's binary.
    pub server: PathBuf,
    /// The password of every server; `None` starts them with none.
    pub password: Option<Secret>,
    /// How many servers, and in what roles.
    pub shape: Shape,
    /// The run's name, part of the folder's.
    pub run_id: String,
    /// The time limits.
    pub timing: Timing,
    /// Leave servers and folder behind.
    pub keep: bool,
    /// What single servers' redis.conf says otherwise: for deployments that are wrong on purpose.
    pub alterations: Vec<Alteration>,
}

/// Directives that one server alone is started with.
#[derive(Clone, Debug)]
pub struct Alteration {
    /// The server, counted from 0 in the order of its port: masters first, then the first replica of each, and so on.
    pub node: usize,
    /// Lines of redis.conf. They come last, and so take the place of the target's own.
    pub directives: Vec<String>,
}

/// Servers on loopback.
#[derive(Debug)]
pub struct ProcessesTarget {
    options: ProcessesOptions,
    folder: Mutex<Option<leftovers::Folder>>,
    /// Filled once by `prepare`. Each process has a lock of its own: while one is being stopped, all others are served.
    servers: OnceLock<Vec<Slot>>,
    faults: std::sync::Mutex<Faults>,
}

/// A server, with what is asked of it while its process is locked.
#[derive(Debug)]
struct Slot {
    member: Member,
    folder: PathBuf,
    process: Mutex<Server>,
}

/// The servers under a fault that lasts, by name.
#[derive(Debug, Default)]
struct Faults {
    away: BTreeSet<String>,
    paused: BTreeSet<String>,
}

impl ProcessesTarget {
    /// A target that will be made by `prepare`.
    pub fn new(options: ProcessesOptions) -> Self {
        Self {
            options,
            folder: Mutex::default(),
            servers: OnceLock::new(),
            faults: std::sync::Mutex::default(),
        }
    }

    fn servers(&self) -> &[Slot] {
        self.servers.get().map_or(&[], Vec::as_slice)
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn member_connections(&self, members: &[Member]) -> Result<Vec<Connection>, LinkError> {
        let mut connections = Vec::new();
        for member in members {
            let stream = connect_tcp(&member.address).await?;
            let mut connection = Connection::new(stream, member.address.clone(), self.options.timing.reply());
            if let Some(password) = &self.options.password {
                connection.ask(&["AUTH", password.expose()]).await?;
            }
            connections.push(connection);
        }
        Ok(connections)
    }
}

#[async_trait]
impl Target for ProcessesTarget {
    fn description(&self) -> TargetDescription {
        TargetDescription {
            kind: TargetKind::Processes,
            descriptor: BTreeMap::from([
                ("redis.conf".to_owned(), self.options.source.clone()),
                ("server".to_owned(), self.options.server.display().to_string()),
            ]),
            shape: self.options.shape,
        }
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        BTreeSet::from([
            Capability::Restart,
            Capability::KeepAway,
            Capability::Crash,
            Capability::Pause,
        ])
    }

    fn is_ours(&self) -> bool {
        true
    }

    async fn prepare(&self, progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        let started = Instant::now();
        for line in leftovers::sweep().await {
            progress.line(line);
        }
        let folder = leftovers::Folder::create(&self.options.run_id)?;
        let path = folder.path().to_owned();
        *self.folder.lock().await = Some(folder);
        let mut slots = Vec::new();
        for (node, port) in free_ports(self.options.shape.nodes())?.into_iter().enumerate() {
            let server = Server::new(&self.options, &path, port, node);
            server.write_configuration()?;
            slots.push(Slot {
                member: server.member(),
                folder: server.folder().to_owned(),
                process: Mutex::new(server),
            });
        }
        let slots = self.servers.get_or_init(|| slots);
        let bound = self.options.timing.scheduling();
        let starts: Vec<_> = slots.iter().map(|slot| slot.start(bound)).collect();
        progress
            .during("the servers to answer", bound, futures::future::try_join_all(starts))
            .await?;
        let began = Instant::now();
        let members: Vec<Member> = slots.iter().map(|slot| slot.member.clone()).collect();
        let mut connections = self.member_connections(&members).await?;
        let bound = self.options.timing.deployment();
        let forming = formation::form(&members, &mut connections, self.options.shape, bound);
        progress
            .during("the servers to form a cluster", bound, forming)
            .await
            .map_err(|error| TargetError::NotDeployed(error.to_string()))?;
        Ok(vec![
            Phase {
                name: format!("{} servers answer", members.len()),
                seconds: (began - started).as_secs_f64(),
                floor: None,
            },
            Phase {
                name: "the suite forms the cluster, links up".into(),
                seconds: began.elapsed().as_secs_f64(),
                // repl-diskless-sync-delay: the first synchronisation of a replica waits that long for others.
                floor: Some(5.0),
            },
        ])
    }

    fn password(&self) -> Option<Secret> {
        self.options.password.clone()
    }

    async fn members(&self) -> Result<Vec<Member>, TargetError> {
        let faults = self.faults();
        let present = self
            .servers()
            .iter()
            .filter(|slot| !faults.away.contains(&slot.member.name));
        Ok(present.map(|slot| slot.member.clone()).collect())
    }

    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        connect_tcp(address).await
    }

    async fn dial(&self, address: &Address) -> Result<SocketAddr, LinkError> {
        resolve(address).await
    }

    async fn inject(&self, fault: Fault, member: &Member) -> Result<(), TargetError> {
        let slot = self
            .servers()
            .iter()
            .find(|slot| slot.member.name == member.name)
            .ok_or_else(|| TargetError::Usage(format!("{member} is no server of this target")))?;
        let timing = &self.options.timing;
        let (patience, bound) = (timing.shutdown() + timing.reply(), timing.scheduling());
        match fault {
            Fault::Restart => {
                let mut process = slot.process.lock().await;
                process.terminate(patience).await?;
                process.start(bound).await
            }
            Fault::KeepAway => {
                self.faults().away.insert(member.name.clone());
                slot.process.lock().await.terminate(patience).await
            }
            Fault::Crash => {
                let mut process = slot.process.lock().await;
                process.kill().await?;
                process.start(bound).await
            }
            Fault::Pause => {
                self.faults().paused.insert(member.name.clone());
                slot.process.lock().await.pause()
            }
        }
    }

    async fn undo_faults(&self) -> Result<(), TargetError> {
        for slot in self.servers() {
            let name = &slot.member.name;
            let (paused, away) = {
                let mut faults = self.faults();
                (faults.paused.remove(name), faults.away.contains(name))
            };
            if paused {
                slot.process.lock().await.resume()?;
            }
            if away {
                slot.start(self.options.timing.scheduling()).await?;
                self.faults().away.remove(name);
            }
        }
        Ok(())
    }

    async fn collect_evidence(&self, folder: &Path) {
        for slot in self.servers() {
            for name in ["redis.log", "nodes.conf"] {
                let text = match tokio::fs::read_to_string(slot.folder.join(name)).await {
                    Ok(text) => self
                        .options
                        .password
                        .as_ref()
                        .map_or(text.clone(), |password| password.redact(&text)),
                    Err(error) => format!("could not be read: {error}\n"),
                };
                let file = folder.join(format!("{}-{name}", slot.member.address.port));
                // Evidence never fails a run; a full disk shows itself when run.json is written.
                let _ = tokio::fs::write(file, text).await;
            }
        }
    }

    async fn release(&self) -> Result<(), TargetError> {
        for slot in self.servers() {
            let mut process = slot.process.lock().await;
            process.resume()?;
            if self.options.keep {
                process.leave();
            } else {
                process.kill().await?;
            }
        }
        match self.folder.lock().await.take() {
            Some(folder) if self.options.keep => {
                folder.leave();
                Ok(())
            }
            Some(folder) => folder.remove(),
            None => Ok(()),
        }
    }
}

impl Slot {
    async fn start(&self, bound: std::time::Duration) -> Result<(), TargetError> {
        self.process.lock().await.start(bound).await
    }
}

/// Ports that are free at this moment, with their bus ports. The search begins at a place that depends on the process,
/// so that two runs at once seldom look at the same ones.
fn free_ports(count: usize) -> Result<Vec<u16>, TargetError> {
    let span = u32::from(PORTS.end - PORTS.start);
    let offset = std::process::id().wrapping_mul(97) % span;
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let ports: Vec<u16> = (0..span)
        .map(|step| PORTS.start + ((offset + step) % span) as u16)
        .filter(|port| free(*port) && free(port + BUS_OFFSET))
        .take(count)
        .collect();
    if ports.len() < count {
        return Err(TargetError::Surroundings(format!(
            "only {} of {count} pairs of free ports between {} and {}",
            ports.len(),
            PORTS.start,
            PORTS.end
        )));
    }
    Ok(ports)
}

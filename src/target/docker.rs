//! Target `docker`: containers of any image on a network of their own on this machine's Docker, from the manifest's own
//! redis.conf, formed by the suite.

mod daemon;
mod leftovers;
mod links;
mod server;

use self::daemon::{Network, failed};
use self::links::Links;
use self::server::{Container, Plan, Server};
use super::addresses::{connect_tcp, resolve};
use super::folder::{self, Folder};
use super::plain::Cuttable;
use super::{
    Alteration, Cut, Execution, Fault, Phase, Scratch, Secret, Target, TargetDescription, TargetError, TargetKind,
    Upheaval, plain, redis_conf, volume,
};
use crate::case::Capability;
use crate::cluster::connection::{Address, BoxedStream, Connection, LinkError};
use crate::cluster::node::Member;
use crate::cluster::view::Shape;
use crate::progress::Progress;
use crate::timing::Timing;
use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures::StreamExt;
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, RwLock};

/// The image that is judged where none is named; `scripts/setup --for docker` builds it.
pub const DEFAULT_IMAGE: &str = "redis-cluster-conformance/redis:7.0";

/// The label of every container and network that a run makes; its value is the run's folder.
const LABEL: &str = "redis-cluster-conformance.folder";

/// The label beside it; its value is the machine that the folder is on.
const MACHINE: &str = "redis-cluster-conformance.machine";

/// What is started.
#[derive(Clone, Debug)]
pub struct DockerOptions {
    /// The redis.conf that every server starts from; paths, ports and passwords in it are replaced.
    pub redis_conf: String,
    /// Where the redis.conf comes from, for the report.
    pub source: String,
    /// The servers' image.
    pub image: String,
    /// The password of every server; `None` starts them with none.
    pub password: Option<Secret>,
    /// How many servers form the cluster, and in what roles; with no masters none is formed.
    pub shape: Shape,
    /// How many servers stand beside it and have joined nothing.
    pub spare: usize,
    /// The run's name, part of the containers' and the folder's.
    pub run_id: String,
    /// The time limits.
    pub timing: Timing,
    /// Leave containers, network and folder behind.
    pub keep: bool,
    /// What the redis.conf of single servers, or of all, says otherwise.
    pub alterations: Vec<Alteration>,
}

/// Servers in containers.
#[derive(Debug)]
pub struct DockerTarget {
    options: DockerOptions,
    /// The server's program in the image, and its version: found by `prepare`, or known from the target that this one
    /// stands beside.
    program: OnceLock<(String, String)>,
    beside: bool,
    folder: Mutex<Option<Folder>>,
    /// Filled once by `prepare`.
    plan: OnceLock<Plan>,
    slots: OnceLock<Vec<Slot>>,
    /// How many addresses of the network have been given out.
    addresses: AtomicU32,
    faults: std::sync::Mutex<Faults>,
    /// Whether links between the servers can be cut, else why not; known by `prepare`, or from the target that this one
    /// stands beside.
    cuttable: OnceLock<Cuttable>,
    links: Links,
    /// The servers made beside this target, until they are released.
    scratches: Mutex<Vec<Arc<DockerTarget>>>,
    /// Read by whatever makes something, written by what removes all: true once nothing may be made any more.
    ended: Arc<RwLock<bool>>,
    /// The size of each server's volume, where that is limited.
    volume: Option<u64>,
}

/// A server, with its container while there is one. While it is being stopped or started, all others are served.
#[derive(Debug)]
struct Slot {
    server: Server,
    container: Mutex<Option<Container>>,
}

/// The servers under a fault that lasts, by name.
#[derive(Debug, Default)]
struct Faults {
    away: BTreeSet<String>,
    /// On the way from one start to the next: they are to come back by themselves, unless that is cut short.
    down: BTreeSet<String>,
    paused: BTreeSet<String>,
    disconnected: BTreeSet<String>,
}

impl DockerTarget {
    /// A target that will be made by `prepare`.
    pub fn new(options: DockerOptions) -> Self {
        Self {
            options,
            program: OnceLock::new(),
            beside: false,
            folder: Mutex::default(),
            plan: OnceLock::new(),
            slots: OnceLock::new(),
            addresses: AtomicU32::new(0),
            faults: std::sync::Mutex::default(),
            cuttable: OnceLock::new(),
            links: Links::default(),
            scratches: Mutex::default(),
            ended: Arc::default(),
            volume: None,
        }
    }

    fn slots(&self) -> &[Slot] {
        self.slots.get().map_or(&[], Vec::as_slice)
    }

    fn slot(&self, member: &Member) -> Result<&Slot, TargetError> {
        let found = self.slots().iter().find(|slot| slot.server.name() == member.name);
        found.ok_or_else(|| TargetError::Usage(format!("{member} is no server of this target")))
    }

    fn servers(&self) -> Vec<&Server> {
        self.slots().iter().map(|slot| &slot.server).collect()
    }

    /// Tries whether links can be cut, once, on the first server.
    async fn find_out_whether_cuttable(&self) {
        if let (None, Some(first)) = (self.cuttable.get(), self.slots().first()) {
            let possible = links::possible(&first.server).await;
            let _ = self.cuttable.set(possible);
        }
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets what makes something run to its end, whatever becomes of the run meanwhile: only what has been made can be
    /// found and removed.
    async fn to_its_end<T: Send + 'static>(
        &self,
        making: impl Future<Output = Result<T, TargetError>> + Send + 'static,
    ) -> Result<T, TargetError> {
        let ended = self.ended.clone();
        let task = tokio::spawn(async move {
            let ended = ended.read_owned().await;
            if *ended {
                return Err(TargetError::Surroundings("the run has ended".into()));
            }
            making.await
        });
        task.await
            .map_err(|error| TargetError::Surroundings(format!("containers could not be made: {error}")))?
    }

    /// The next free address of the network.
    fn next_address(&self, network: &Network) -> Result<std::net::Ipv4Addr, TargetError> {
        network.address(self.addresses.fetch_add(1, Ordering::Relaxed))
    }

    /// Everything that is there before the first server.
    async fn ground(&self, progress: &Progress) -> Result<(&Plan, PathBuf), TargetError> {
        let docker = daemon::connect().await?;
        let options = &self.options;
        if !self.beside {
            for line in leftovers::sweep(&docker).await {
                progress.line(line);
            }
            daemon::fetch(&docker, &options.image, progress).await?;
        }
        let folder = Folder::create(&leftovers::parent(), &options.run_id)?;
        let path = folder.path().to_owned();
        *self.folder.lock().await = Some(folder);
        volume::find_out(&path).await;
        let labels = server::labels(&options.run_id, &path);
        if self.program.get().is_none() {
            let (docker, image, labels) = (docker.clone(), options.image.clone(), labels.clone());
            let looking = async move { server::program_of(&docker, &image, &labels).await };
            let found = self.to_its_end(looking).await?;
            self.program.get_or_init(|| found);
        }
        let network = {
            let (docker, name, labels) = (docker.clone(), format!("rcc-{}", options.run_id), labels.clone());
            let making = async move { Network::create(&docker, &name, &labels).await };
            self.to_its_end(making).await?
        };
        let plan = self.plan.get_or_init(|| Plan {
            docker,
            image: options.image.clone(),
            program: self
                .program
                .get()
                .map(|(program, _)| program.clone())
                .unwrap_or_default(),
            network,
            labels,
            redis_conf: options.redis_conf.clone(),
            password: options.password.clone(),
        });
        Ok((plan, path))
    }

    /// Makes a server's container and waits until it answers.
    async fn make(&self, slot: &Slot, bound: Duration) -> Result<(), TargetError> {
        let mut container = slot.container.lock().await;
        *container = Some(self.to_its_end(slot.server.making()?).await?);
        slot.server.until_answering(bound).await
    }

    async fn member_connections(&self, members: &[Member]) -> Result<Vec<Connection>, LinkError> {
        let mut connections = Vec::new();
        for member in members {
            let stream = self.connect(&member.address).await?;
            let mut connection = Connection::new(stream, member.address.clone(), self.options.timing.reply());
            if let Some(password) = &self.options.password {
                connection.ask(&["AUTH", password.expose()]).await?;
            }
            connections.push(connection);
        }
        Ok(connections)
    }

    /// Ends what a fault that lasts does to one server.
    async fn undo(&self, slot: &Slot) -> Result<(), TargetError> {
        let name = slot.server.name();
        let container = slot.container.lock().await;
        let (paused, disconnected, stopped) = {
            let faults = self.faults();
            let under = |names: &BTreeSet<String>| names.contains(name);
            let stopped = under(&faults.away) || under(&faults.down);
            (under(&faults.paused), under(&faults.disconnected), stopped)
        };
        if let (true, Some(container)) = (paused, container.as_ref()) {
            match container.unpause().await {
                // It may have been thawed, or have ended, since.
                Err(error)
                    if !error.to_string().contains("is not paused") && !error.to_string().contains("not running") =>
                {
                    return Err(TargetError::Surroundings(format!(
                        "{name} could not be thawed: {error}"
                    )));
                }
                _ => {}
            }
        }
        if disconnected {
            slot.server.attach().await?;
        }
        if stopped {
            slot.server.start(self.options.timing.scheduling()).await?;
        }
        let mut faults = self.faults();
        faults.paused.remove(name);
        faults.disconnected.remove(name);
        faults.away.remove(name);
        faults.down.remove(name);
        Ok(())
    }
}

#[async_trait]
impl Target for DockerTarget {
    fn description(&self) -> TargetDescription {
        let mut descriptor = BTreeMap::from([
            ("image".to_owned(), self.options.image.clone()),
            ("redis.conf".to_owned(), self.options.source.clone()),
        ]);
        if let Some((program, version)) = self.program.get() {
            descriptor.insert("server".to_owned(), format!("{program} {version}"));
        }
        TargetDescription {
            kind: TargetKind::Docker,
            descriptor,
            shape: self.options.shape,
        }
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        let mut capabilities = plain::capabilities(self.cuttable.get());
        capabilities.insert(Capability::Disconnect);
        capabilities
    }

    fn lacks(&self, capability: Capability) -> Option<String> {
        plain::lacks(capability, self.cuttable.get())
    }

    fn is_ours(&self) -> bool {
        true
    }

    async fn prepare(&self, progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        let started = Instant::now();
        let (plan, folder) = self.ground(progress).await?;
        let count = self.options.shape.nodes() + self.options.spare;
        let mut slots = Vec::new();
        for node in 0..count {
            let altered = redis_conf::altered(&self.options.alterations, node);
            let name = format!("rcc-{}-{node}", self.options.run_id);
            let address = self.next_address(&plan.network)?;
            let server = Server::new(plan, &folder, name, address, node, altered);
            if let Some(bytes) = self.volume {
                volume::mount(server.folder(), bytes).await?;
            }
            slots.push(Slot {
                server,
                container: Mutex::default(),
            });
        }
        let slots = self.slots.get_or_init(|| slots);
        let bound = self.options.timing.scheduling();
        let starts: Vec<_> = slots.iter().map(|slot| self.make(slot, bound)).collect();
        progress
            .during("the servers to answer", bound, futures::future::try_join_all(starts))
            .await?;
        self.find_out_whether_cuttable().await;
        let began = Instant::now();
        let answering = Phase {
            name: format!("{count} servers answer"),
            seconds: (began - started).as_secs_f64(),
            floor: None,
        };
        if self.options.shape.masters == 0 {
            return Ok(vec![answering]);
        }
        let members = slots.iter().take(self.options.shape.nodes());
        let members: Vec<Member> = members.map(|slot| slot.server.member()).collect();
        let mut connections = self.member_connections(&members).await?;
        let bound = self.options.timing.deployment();
        let formed = plain::form(&members, &mut connections, self.options.shape, bound, progress).await?;
        Ok(vec![answering, formed])
    }

    fn password(&self) -> Option<Secret> {
        self.options.password.clone()
    }

    async fn members(&self) -> Result<Vec<Member>, TargetError> {
        let faults = self.faults();
        let present = self
            .slots()
            .iter()
            .filter(|slot| !faults.away.contains(slot.server.name()));
        Ok(present.map(|slot| slot.server.member()).collect())
    }

    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        connect_tcp(address).await.map_err(|error| match error {
            // The way is this machine's own bridge, and cannot break: nobody is at that address.
            LinkError::Unreachable { address, reason } if nobody_is_there(&reason) => {
                LinkError::Refused { address, reason }
            }
            other => other,
        })
    }

    async fn dial(&self, address: &Address) -> Result<SocketAddr, LinkError> {
        resolve(address).await
    }

    async fn inject(&self, fault: Fault, member: &Member) -> Result<(), TargetError> {
        let slot = self.slot(member)?;
        let (server, name) = (&slot.server, &member.name);
        let timing = &self.options.timing;
        let (patience, bound) = (timing.shutdown() + timing.reply(), timing.scheduling());
        let container = slot.container.lock().await;
        match fault {
            Fault::Restart | Fault::Crash => {
                self.faults().down.insert(name.clone());
                if fault == Fault::Restart {
                    server.terminate(patience).await?;
                } else {
                    server.kill().await?;
                }
                server.start(bound).await?;
                self.faults().down.remove(name);
                Ok(())
            }
            Fault::Kill => {
                self.faults().away.insert(name.clone());
                server.kill().await
            }
            Fault::KeepAway => {
                self.faults().away.insert(name.clone());
                server.terminate(patience).await
            }
            Fault::LoseVolume => {
                self.faults().away.insert(name.clone());
                // With the container all its processes end, also those that would still write.
                server.kill().await?;
                folder::empty(server.folder(), &redis_conf::NO_DATA)
            }
            Fault::Pause => {
                self.faults().paused.insert(name.clone());
                match container.as_ref() {
                    Some(container) => container
                        .pause()
                        .await
                        .map_err(|error| TargetError::Surroundings(format!("{name} could not be frozen: {error}"))),
                    None => Err(TargetError::Usage(format!("{member} has no container"))),
                }
            }
            Fault::Disconnect => {
                self.faults().disconnected.insert(name.clone());
                server.detach().await
            }
            Fault::NewAddress => {
                let plan = self.plan.get();
                let plan = plan.ok_or_else(|| TargetError::Usage(format!("{member} has no network")))?;
                let address = self.next_address(&plan.network)?;
                // Should it end half way, undo_faults finds a server that is off its network and away.
                self.faults().disconnected.insert(name.clone());
                self.faults().away.insert(name.clone());
                server.terminate(patience).await?;
                server.move_to(address).await?;
                server.start(bound).await?;
                let mut faults = self.faults();
                faults.disconnected.remove(name);
                faults.away.remove(name);
                Ok(())
            }
            Fault::Evict | Fault::ForceDelete => {
                Err(TargetError::Usage(format!("{member} cannot be {} here", fault.past())))
            }
        }
    }

    async fn upheave(&self, upheaval: &Upheaval) -> Result<(), TargetError> {
        let Upheaval::SwapAddresses(one, other) = upheaval else {
            return Err(TargetError::Usage(format!(
                "nothing looks after containers that could be told: {upheaval}"
            )));
        };
        let (first, second) = (&self.slot(one)?.server, &self.slot(other)?.server);
        let off = [one, other].map(|member| member.name.clone());
        // Should it end half way, undo_faults finds servers that are off their network and away.
        self.faults().disconnected.extend(off.clone());
        self.faults().away.extend(off.clone());
        let timing = &self.options.timing;
        let (patience, bound) = (timing.shutdown() + timing.reply(), timing.scheduling());
        let (here, there) = (first.address(), second.address());
        tokio::try_join!(first.terminate(patience), second.terminate(patience))?;
        // Neither address is free before both have given theirs up.
        first.detach().await?;
        second.detach().await?;
        first.move_to(there).await?;
        second.move_to(here).await?;
        tokio::try_join!(first.start(bound), second.start(bound))?;
        let mut faults = self.faults();
        faults.disconnected.retain(|name| !off.contains(name));
        faults.away.retain(|name| !off.contains(name));
        Ok(())
    }

    async fn cut(&self, cuts: &[Cut]) -> Result<(), TargetError> {
        if let Some(reason) = self.lacks(Capability::CutLink) {
            return Err(TargetError::Usage(reason));
        }
        self.links.cut(&self.servers(), cuts).await
    }

    async fn undo_faults(&self) -> Result<(), TargetError> {
        let mut first = self.links.mend(&self.servers()).await;
        for slot in self.slots() {
            first = first.and(self.undo(slot).await);
        }
        first
    }

    async fn collect_evidence(&self, folder: &Path) {
        let slots = self.slots().iter();
        futures::future::join_all(slots.map(|slot| slot.server.collect_evidence(folder))).await;
    }

    async fn scratch(&self, scratch: &Scratch) -> Result<Arc<dyn Target>, TargetError> {
        let mut scratches = self.scratches.lock().await;
        let milliseconds = scratch.node_timeout.as_millis();
        let mut alterations = self.options.alterations.clone();
        alterations.push(Alteration::everywhere(format!("cluster-node-timeout {milliseconds}")));
        alterations.extend_from_slice(&scratch.alterations);
        let mut target = Self::new(DockerOptions {
            password: scratch.password.clone(),
            shape: scratch.shape,
            spare: scratch.spare,
            run_id: format!("{}-scratch-{}", self.options.run_id, scratches.len()),
            // What is to be kept is the deployment; the servers beside it would burden it as long as the run goes on.
            keep: false,
            alterations,
            ..self.options.clone()
        });
        target.program = self.program.clone();
        target.cuttable = self.cuttable.clone();
        target.beside = true;
        target.volume = scratch.volume;
        let target = Arc::new(target);
        scratches.push(target.clone());
        Ok(target)
    }

    async fn exec(
        &self,
        member: &Member,
        command: &[&str],
        environment: &[(&str, &Secret)],
        limit: Duration,
    ) -> Result<Execution, TargetError> {
        let server = &self.slot(member)?.server;
        let program = command.first().copied().unwrap_or_default();
        let told = format!("{program} in {member}");
        // By the API's own field, not by an argument: no list of processes shows it.
        let environment = environment
            .iter()
            .map(|(name, value)| format!("{name}={}", value.expose()));
        let options = CreateExecOptions {
            cmd: Some(command.iter().map(|&word| word.to_owned()).collect()),
            env: Some(environment.collect()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let docker = server.docker();
        let made = OnceLock::new();
        let running = async {
            let exec = docker
                .create_exec(server.name(), options)
                .await
                .map_err(failed(&told))?;
            let _ = made.set(exec.id.clone());
            let started = docker.start_exec(&exec.id, None::<StartExecOptions>).await;
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            if let StartExecResults::Attached { mut output, .. } = started.map_err(failed(&told))? {
                while let Some(piece) = output.next().await {
                    match piece.map_err(failed(&told))? {
                        LogOutput::StdErr { message } => stderr.extend_from_slice(&message),
                        LogOutput::StdOut { message }
                        | LogOutput::Console { message }
                        | LogOutput::StdIn { message } => stdout.extend_from_slice(&message),
                    }
                }
            }
            // The output may end a moment before the daemon has the exit code.
            let status = loop {
                match docker.inspect_exec(&exec.id).await.map_err(failed(&told))?.exit_code {
                    Some(status) => break i32::try_from(status).unwrap_or(-1),
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            Ok(Execution {
                stdout: String::from_utf8_lossy(&stdout).into_owned(),
                stderr: String::from_utf8_lossy(&stderr).into_owned(),
                status,
            })
        };
        if let Ok(done) = tokio::time::timeout(limit, running).await {
            return done;
        }
        let ended = match made.get() {
            Some(id) => daemon::end_exec(docker, id).await,
            None => true,
        };
        Err(TargetError::Surroundings(format!(
            "{told} did not end within {:.0} s{}",
            limit.as_secs_f64(),
            if ended { "" } else { ", could not be ended and goes on" }
        )))
    }

    fn data_folder(&self, member: &Member) -> Option<PathBuf> {
        self.slot(member).ok().map(|slot| slot.server.folder().to_owned())
    }

    async fn release(&self) -> Result<(), TargetError> {
        let scratches = std::mem::take(&mut *self.scratches.lock().await);
        let releases = scratches.iter().map(|scratch| scratch.release());
        let mut outcomes = futures::future::join_all(releases).await;
        outcomes.push(self.remove_own().await);
        outcomes.into_iter().collect()
    }
}

impl DockerTarget {
    /// Removes this target's containers, network and folder, or leaves them where that is wanted.
    async fn remove_own(&self) -> Result<(), TargetError> {
        *self.ended.write().await = true;
        let Some(folder) = self.folder.lock().await.take() else {
            return Ok(());
        };
        if self.options.keep {
            // What could not be undone is told; all of it is to stay nonetheless.
            let mut first = self.links.mend(&self.servers()).await;
            for slot in self.slots() {
                first = first.and(self.undo(slot).await);
                // What removes it acts when the handle is dropped: this one never is.
                std::mem::forget(slot.container.lock().await.take());
            }
            folder.leave();
            return first;
        }
        let docker = daemon::connect().await?;
        let removed = daemon::remove_all_of(&docker, &folder.path().display().to_string()).await;
        for slot in self.slots() {
            // Removed above, or told as left behind: another try on drop would only block.
            std::mem::forget(slot.container.lock().await.take());
        }
        removed?;
        let unmounted = volume::unmount_below(folder.path()).await;
        folder.remove().and(unmounted)
    }
}

/// Whether the system said that nobody is at an address. Whatever else keeps it from connecting (no descriptor is left, no
/// port, no memory) is this machine's own trouble, and says nothing of a server.
fn nobody_is_there(reason: &str) -> bool {
    let nobody = [Errno::EHOSTUNREACH, Errno::ENETUNREACH];
    nobody.iter().any(|errno| said(*errno) == reason)
}

/// An error as the system says it.
fn said(errno: Errno) -> String {
    std::io::Error::from(errno).to_string()
}

/// What this machine's Docker says of itself, or why it does not.
pub async fn daemon_version() -> Result<String, String> {
    let docker = daemon::connect().await.map_err(|error| error.to_string())?;
    let version = docker.version().await.map_err(|error| error.to_string())?;
    Ok(version.version.unwrap_or_default())
}

/// Whether an image is on this machine: its id.
pub async fn image_id(image: &str) -> Result<String, String> {
    let docker = daemon::connect().await.map_err(|error| error.to_string())?;
    let about = docker.inspect_image(image).await.map_err(|error| error.to_string())?;
    Ok(about.id.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(Errno::EHOSTUNREACH, true)]
    #[case(Errno::ENETUNREACH, true)]
    #[case(Errno::EMFILE, false)]
    #[case(Errno::EADDRNOTAVAIL, false)]
    #[case(Errno::ENOBUFS, false)]
    fn the_suite_s_own_trouble_is_no_refusal(#[case] errno: Errno, #[case] nobody: bool) {
        assert_eq!(nobody_is_there(&said(errno)), nobody);
    }
}

//! Target `processes`: servers on loopback, from the manifest's own redis.conf, formed by the suite. The quick way.

mod leftovers;
mod links;
mod options;
mod ports;
mod release;
mod server;

pub use self::options::ProcessesOptions;

use self::links::Links;
use self::ports::Port;
use self::release::{of_release, path_of_release};
use self::server::Server;
use super::addresses::{connect_tcp, resolve};
use super::folder::{self, Folder};
use super::kept;
use super::plain::{self, Cuttable};
use super::redis_conf;
use super::volume;
use super::{
    Alteration, Cut, Execution, Fault, Phase, Scratch, Secret, Target, TargetDescription, TargetError, TargetKind,
    Upheaval,
};
use crate::case::Capability;
use crate::cluster::connection::{Address, BoxedStream, Connection, LinkError};
use crate::cluster::node::Member;
use crate::progress::Progress;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Servers on loopback.
#[derive(Debug)]
pub struct ProcessesTarget {
    options: ProcessesOptions,
    /// The node-timeout that the configuration says and the one that the servers have instead, in milliseconds, where
    /// they are too many for the machine.
    raised: Option<(u64, u64)>,
    folder: Mutex<Option<Folder>>,
    /// Filled once by `prepare`. Each process has a lock of its own: while one is being stopped, all others are served.
    servers: OnceLock<Vec<Slot>>,
    /// The servers made beside this target, until they are released.
    scratches: Mutex<Vec<Arc<ProcessesTarget>>>,
    /// Whether links between the servers can be cut, else why not; known by `prepare`.
    cuttable: OnceLock<Cuttable>,
    links: Links,
    /// The size of each server's volume, where that is limited.
    volume: Option<u64>,
}

/// A server, with what is asked of it while its process is locked.
#[derive(Debug)]
struct Slot {
    folder: PathBuf,
    process: Mutex<Server>,
    state: std::sync::Mutex<State>,
}

/// What is known of a server without asking its process.
#[derive(Debug)]
struct State {
    /// Its present name and address. A server is named by its address: under another one it has another name.
    member: Member,
    /// The present port and those before it, all held: nobody else takes one while the server is down, or is found where
    /// the server once was.
    ports: Vec<Port>,
    /// Stopped, until the fault is undone.
    away: bool,
    /// On the way from one start to the next: it is to come back by itself, unless that is cut short.
    down: bool,
    /// Frozen, until the fault is undone.
    paused: bool,
}

impl ProcessesTarget {
    /// A target that will be made by `prepare`.
    pub fn new(mut options: ProcessesOptions) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let raised = options.raised_node_timeout(cores);
        if let Some((_, raised)) = raised {
            options
                .alterations
                .push(Alteration::everywhere(format!("cluster-node-timeout {raised}")));
        }
        Self {
            options,
            raised,
            folder: Mutex::default(),
            servers: OnceLock::new(),
            scratches: Mutex::default(),
            cuttable: OnceLock::new(),
            links: Links::default(),
            volume: None,
        }
    }

    fn servers(&self) -> &[Slot] {
        self.servers.get().map_or(&[], Vec::as_slice)
    }

    fn slot(&self, member: &Member) -> Result<&Slot, TargetError> {
        let found = self.servers().iter().find(|slot| slot.member().name == member.name);
        found.ok_or_else(|| TargetError::Usage(format!("{member} is no server of this target")))
    }

    /// Tries whether links can be cut, once.
    async fn find_out_whether_cuttable(&self) -> bool {
        let altered = self.options.alterations.iter();
        let altered = altered.flat_map(|alteration| alteration.directives.iter().map(String::as_str));
        let possible = links::possible(&self.options.server, altered).await;
        self.cuttable.get_or_init(|| possible).is_ok()
    }

    /// Stops servers gracefully, and once all have ended starts each on another port; which, `ports` says then.
    async fn stop_and_move(
        &self,
        slots: &[&Slot],
        ports: impl FnOnce() -> Result<Vec<Port>, TargetError> + Send,
    ) -> Result<(), TargetError> {
        let timing = &self.options.timing;
        let patience = timing.shutdown() + timing.reply();
        let mut processes = Vec::new();
        for slot in slots {
            processes.push(slot.process.lock().await);
        }
        // Should it end half way, undo_faults finds servers that are down.
        for slot in slots {
            slot.state().down = true;
        }
        let ends = processes.iter_mut().map(|process| process.terminate(patience));
        futures::future::try_join_all(ends).await?;
        for ((slot, process), port) in slots.iter().zip(&mut processes).zip(ports()?) {
            process.move_to(port.number())?;
            let mut state = slot.state();
            state.member = process.member();
            state.ports.push(port);
        }
        let starts = processes.iter_mut().map(|process| process.start(timing.scheduling()));
        futures::future::try_join_all(starts).await?;
        for slot in slots {
            slot.state().down = false;
        }
        Ok(())
    }

    /// Ends what a fault that lasts does to one server.
    async fn undo(&self, slot: &Slot) -> Result<(), TargetError> {
        let timing = &self.options.timing;
        let mut process = slot.process.lock().await;
        let (paused, stopped) = {
            let state = slot.state();
            (state.paused, state.away || state.down)
        };
        if paused {
            process.resume()?;
            slot.state().paused = false;
        }
        if stopped {
            // Nothing is left to end, unless the fault was cut short.
            process.terminate(timing.shutdown() + timing.reply()).await?;
            process.start(timing.scheduling()).await?;
            let mut state = slot.state();
            state.away = false;
            state.down = false;
        }
        Ok(())
    }

    async fn member_connections(&self, members: &[Member]) -> Result<Vec<Connection>, LinkError> {
        let connecting = members.iter().map(async |member| {
            let stream = connect_tcp(&member.address).await?;
            // Hundreds of servers that meet at once keep a small machine busy: only the whole time counts here.
            let patience = self.options.timing.deployment();
            let mut connection = Connection::new(stream, member.address.clone(), patience);
            if let Some(password) = &self.options.password {
                connection.ask(&["AUTH", password.expose()]).await?;
            }
            Ok(connection)
        });
        futures::future::try_join_all(connecting).await
    }
}

#[async_trait]
impl Target for ProcessesTarget {
    fn description(&self) -> TargetDescription {
        let mut descriptor = BTreeMap::from([
            ("redis.conf".to_owned(), self.options.source.clone()),
            ("server".to_owned(), self.options.server.display().to_string()),
        ]);
        if let Some((configured, raised)) = self.raised {
            let servers = self.options.shape.nodes() + self.options.spare;
            descriptor.insert(
                "cluster-node-timeout".to_owned(),
                format!(
                    "{raised} ms instead of {configured} ms, which {servers} servers on this machine could not keep to"
                ),
            );
        }
        TargetDescription {
            kind: TargetKind::Processes,
            descriptor,
            shape: self.options.shape,
        }
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        plain::capabilities(self.cuttable.get())
    }

    fn lacks(&self, capability: Capability) -> Option<String> {
        plain::lacks(capability, self.cuttable.get())
    }

    fn is_ours(&self) -> bool {
        true
    }

    async fn prepare(&self, progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        let started = Instant::now();
        for line in leftovers::sweep().await {
            progress.line(line);
        }
        let parent = if self.options.in_memory {
            leftovers::parent_in_memory_if_room()
        } else {
            leftovers::parent()
        };
        let folder = Folder::create(&parent, &self.options.run_id)?;
        let path = folder.path().to_owned();
        *self.folder.lock().await = Some(folder);
        let told_apart = self.find_out_whether_cuttable().await;
        volume::find_out(&path).await;
        let mut slots = Vec::new();
        let count = self.options.shape.nodes() + self.options.spare;
        for (node, port) in ports::take(count)?.into_iter().enumerate() {
            let server = Server::new(&self.options, &path, port.number(), node, told_apart);
            if let Some(bytes) = self.volume {
                volume::mount(server.folder(), bytes).await?;
            }
            server.write_configuration()?;
            slots.push(Slot {
                folder: server.folder().to_owned(),
                state: std::sync::Mutex::new(State {
                    member: server.member(),
                    ports: vec![port],
                    away: false,
                    down: false,
                    paused: false,
                }),
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
        let answering = Phase {
            name: format!("{count} servers answer"),
            seconds: (began - started).as_secs_f64(),
            floor: None,
        };
        if self.options.shape.masters == 0 {
            return Ok(vec![answering]);
        }
        let members = slots.iter().take(self.options.shape.nodes());
        let members: Vec<Member> = members.map(Slot::member).collect();
        let mut connections = self.member_connections(&members).await?;
        let bound = self.options.timing.deployment();
        let formed = plain::form(&members, &mut connections, self.options.shape, bound, progress).await?;
        Ok(vec![answering, formed])
    }

    fn password(&self) -> Option<Secret> {
        self.options.password.clone()
    }

    async fn members(&self) -> Result<Vec<Member>, TargetError> {
        let present = self.servers().iter().filter(|slot| !slot.state().away);
        Ok(present.map(Slot::member).collect())
    }

    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        connect_tcp(address).await
    }

    async fn dial(&self, address: &Address) -> Result<SocketAddr, LinkError> {
        resolve(address).await
    }

    async fn inject(&self, fault: Fault, member: &Member) -> Result<(), TargetError> {
        let slot = self.slot(member)?;
        let timing = &self.options.timing;
        let (patience, bound) = (timing.shutdown() + timing.reply(), timing.scheduling());
        match fault {
            Fault::Restart | Fault::Crash => {
                let mut process = slot.process.lock().await;
                slot.state().down = true;
                if fault == Fault::Restart {
                    process.terminate(patience).await?;
                } else {
                    process.kill().await?;
                }
                process.start(bound).await?;
                slot.state().down = false;
                Ok(())
            }
            Fault::KeepAway => {
                slot.state().away = true;
                slot.process.lock().await.terminate(patience).await
            }
            Fault::Kill => {
                slot.state().away = true;
                slot.process.lock().await.kill().await
            }
            Fault::Pause => {
                slot.state().paused = true;
                slot.process.lock().await.pause()
            }
            Fault::NewAddress => {
                let ports = ports::take(1)?;
                self.stop_and_move(&[slot], || Ok(ports)).await
            }
            Fault::LoseVolume => {
                slot.state().away = true;
                slot.process.lock().await.kill().await?;
                // A child that writes a snapshot would put it where there is to be nothing.
                leftovers::kill_servers_of(&slot.folder).await;
                folder::empty(&slot.folder, &redis_conf::NO_DATA)
            }
            Fault::Disconnect | Fault::Evict | Fault::ForceDelete => Err(TargetError::Usage(format!(
                "{member} cannot be {} on loopback",
                fault.past()
            ))),
        }
    }

    async fn cut(&self, cuts: &[Cut]) -> Result<(), TargetError> {
        if let Some(reason) = self.lacks(Capability::CutLink) {
            return Err(TargetError::Usage(reason));
        }
        let mut drops = Vec::new();
        for cut in cuts {
            let by_port = cut.renamed(|member| Ok::<_, TargetError>(self.slot(member)?.member().address.port))?;
            drops.extend(links::drops(&by_port));
        }
        let folder = self.folder.lock().await.as_ref().map(|folder| folder.path().to_owned());
        let Some(folder) = folder else {
            return Err(TargetError::Usage("the target has not been prepared".into()));
        };
        self.links.cut(&folder, &drops).await
    }

    async fn upheave(&self, upheaval: &Upheaval) -> Result<(), TargetError> {
        match upheaval {
            Upheaval::Recreate => {
                let slots: Vec<&Slot> = self.servers().iter().collect();
                let ports = ports::take(slots.len())?;
                self.stop_and_move(&slots, || Ok(ports)).await
            }
            Upheaval::SwapAddresses(one, other) => {
                let slots = [self.slot(one)?, self.slot(other)?];
                let swapped = || {
                    let ports = slots.map(|slot| slot.state().ports.pop());
                    let ports: Vec<Port> = ports.into_iter().rev().flatten().collect();
                    Ok(ports)
                };
                self.stop_and_move(&slots, swapped).await
            }
            Upheaval::ScaleIn(_)
            | Upheaval::ScaleToNothing
            | Upheaval::ScaleOut(_)
            | Upheaval::RollOut
            | Upheaval::Upgrade
            | Upheaval::Delete
            | Upheaval::LoseApi
            | Upheaval::Drain(_)
            | Upheaval::FreezeHost(_)
            | Upheaval::RestartHost(_) => Err(TargetError::Usage(format!(
                "there is no platform on loopback that could be told: {upheaval}"
            ))),
        }
    }

    async fn undo_faults(&self) -> Result<(), TargetError> {
        let mut first = self.links.mend().await;
        for slot in self.servers() {
            first = first.and(self.undo(slot).await);
        }
        first
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
                let file = folder.join(format!("{}-{name}", slot.member().address.port));
                // Evidence never fails a run; a full disk shows itself when run.json is written.
                let _ = kept::write(&file, &text).await;
            }
        }
    }

    async fn scratch(&self, scratch: &Scratch) -> Result<Arc<dyn Target>, TargetError> {
        let mut scratches = self.scratches.lock().await;
        let milliseconds = scratch.node_timeout.as_millis();
        let mut alterations = self.options.alterations.clone();
        alterations.push(Alteration::everywhere(format!("cluster-node-timeout {milliseconds}")));
        alterations.extend_from_slice(&scratch.alterations);
        let mut target = Self::new(ProcessesOptions {
            password: scratch.password.clone(),
            shape: scratch.shape,
            spare: scratch.spare,
            run_id: format!("{}-scratch-{}", self.options.run_id, scratches.len()),
            // What is to be kept is the deployment; the servers beside it would burden it as long as the run goes on.
            keep: false,
            alterations,
            ..self.options.clone()
        });
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
        let slot = self.slot(member)?;
        let Some((program, arguments)) = command.split_first() else {
            return Err(TargetError::Usage("no program to run".into()));
        };
        let server = &self.options.server;
        let running = tokio::process::Command::new(of_release(server, program))
            .args(arguments)
            .envs(path_of_release(server).map(|path| ("PATH", path)))
            .envs(environment.iter().map(|(name, value)| (name, value.expose())))
            .current_dir(&slot.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(limit, running).await {
            Ok(Ok(output)) => Ok(Execution {
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
                status: output.status.code().unwrap_or(-1),
            }),
            Ok(Err(error)) => Err(TargetError::Surroundings(format!("{program} cannot be run: {error}"))),
            Err(_) => Err(TargetError::Surroundings(format!(
                "{program} did not end within {:.0} s",
                limit.as_secs_f64()
            ))),
        }
    }

    fn data_folder(&self, member: &Member) -> Option<PathBuf> {
        self.slot(member).ok().map(|slot| slot.folder.clone())
    }

    async fn release(&self) -> Result<(), TargetError> {
        let scratches = std::mem::take(&mut *self.scratches.lock().await);
        let mut outcomes = Vec::new();
        for scratch in scratches {
            outcomes.push(scratch.release().await);
        }
        let mended = self.links.mend().await;
        let is_mended = mended.is_ok();
        outcomes.push(mended);
        // All at once: on a busy machine each takes its time to end.
        let ends = self.servers().iter().map(async |slot| {
            let mut process = slot.process.lock().await;
            if self.options.keep {
                let resumed = process.resume();
                process.leave();
                resumed
            } else {
                // A frozen one ends by it, too.
                process.kill().await
            }
        });
        outcomes.extend(futures::future::join_all(ends).await);
        match self.folder.lock().await.take() {
            Some(folder) if self.options.keep => folder.leave(),
            Some(folder) => {
                // A server's own child, which writes a snapshot or an append-only file, outlives a killed server for a
                // moment, and would go on writing into the folder while that is removed.
                leftovers::kill_servers_of(folder.path()).await;
                outcomes.push(volume::unmount_below(folder.path()).await);
                // Else it says how the chain is named that is left behind: the next run tries again.
                if is_mended {
                    outcomes.push(folder.remove());
                }
            }
            None => {}
        }
        outcomes.into_iter().collect()
    }
}

impl Slot {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn member(&self) -> Member {
        self.state().member.clone()
    }

    async fn start(&self, bound: std::time::Duration) -> Result<(), TargetError> {
        self.process.lock().await.start(bound).await
    }
}

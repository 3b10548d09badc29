//! A target that is deliberately wrong: another one, with something done to it after its cluster has formed, or with a
//! proxy before its nodes, or with faults and programs that do not do what they should.

use super::proxy::{self, Alter, Answer, Meddling};
use crate::case::Capability;
use crate::cluster::connection::{Address, BoxedStream, Connection, LinkError};
use crate::cluster::node::Member;
use crate::progress::Progress;
use crate::target::{
    Alteration, Cut, Execution, Fault, Phase, Scratch, Secret, Target, TargetDescription, TargetError, Upheaval,
};
use async_trait::async_trait;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a wrong state may take to be seen by all nodes.
const SPREAD: Duration = Duration::from_secs(20);

/// An authenticated connection to a node.
pub(super) async fn open(target: &dyn Target, member: &Member) -> Result<Connection, TargetError> {
    let stream = target.connect(&member.address).await?;
    let mut connection = Connection::new(stream, member.address.clone(), SPREAD);
    crate::context::authenticate(&mut connection, target).await?;
    Ok(connection)
}

/// Makes the deployment wrong.
pub(super) type Damage = for<'a> fn(&'a mut Nodes<'_>) -> BoxFuture<'a, Result<(), TargetError>>;

/// All nodes of a formed cluster, for whoever makes it wrong: masters first, then their replicas.
pub(super) struct Nodes<'t> {
    target: &'t dyn Target,
    members: Vec<Member>,
    connections: Vec<Connection>,
    ids: Vec<String>,
}

impl<'t> Nodes<'t> {
    /// The servers of a target at present.
    pub(super) async fn of(target: &'t dyn Target) -> Result<Self, TargetError> {
        let members = target.members().await?;
        let (mut connections, mut ids) = (Vec::new(), Vec::new());
        for member in &members {
            let mut connection = open(target, member).await?;
            ids.push(connection.ask_text(&["CLUSTER", "MYID"]).await?);
            connections.push(connection);
        }
        Ok(Self {
            target,
            members,
            connections,
            ids,
        })
    }

    /// The indices of all nodes.
    pub(super) fn all(&self) -> std::ops::Range<usize> {
        0..self.members.len()
    }

    /// A node, as the target knows it.
    pub(super) fn member(&self, node: usize) -> &Member {
        &self.members[node]
    }

    /// A node's id.
    pub(super) fn id(&self, node: usize) -> String {
        self.ids[node].clone()
    }

    /// Sends a command that the node must take.
    pub(super) async fn ask(&mut self, node: usize, command: &[&str]) -> Result<(), TargetError> {
        Ok(self.connections[node].ask(command).await.map(|_| ())?)
    }

    /// Has a master raise its epoch. One that has the highest does not; and a replica, as one may have become on a busy machine,
    /// shows its master's.
    pub(super) async fn raise_an_epoch(&mut self) -> Result<(), TargetError> {
        for connection in &mut self.connections {
            let role = connection.ask(&["ROLE"]).await?;
            let role = role.array().and_then(|role| role.first()?.text());
            if role != Some("master") {
                continue;
            }
            let bumped = connection.ask(&["CLUSTER", "BUMPEPOCH"]).await?;
            if bumped.text().is_some_and(|text| text.starts_with("BUMPED")) {
                return Ok(());
            }
        }
        Err(TargetError::Surroundings("no master raises its epoch".to_owned()))
    }

    /// Does a fault to a node.
    pub(super) async fn inject(&mut self, fault: Fault, node: usize) -> Result<(), TargetError> {
        self.target.inject(fault, &self.members[node]).await
    }

    /// Waits until a node's reply holds a text.
    pub(super) async fn until(&mut self, node: usize, command: &[&str], text: &str) -> Result<(), TargetError> {
        let started = Instant::now();
        loop {
            let reply = self.connections[node].ask(command).await?;
            let reply = reply.text().map_or_else(|| reply.to_string(), str::to_owned);
            if reply.contains(text) {
                return Ok(());
            }
            if started.elapsed() >= SPREAD {
                let name = &self.members[node].name;
                let told = format!("{name}: {} does not show \"{text}\": {reply}", command.join(" "));
                return Err(TargetError::NotDeployed(told));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What is wrong.
#[derive(Clone, Copy)]
pub(super) enum Wrong {
    /// Nothing, or what the inner target was started with.
    Nothing,
    /// What is done to the formed cluster.
    State(Damage),
    /// How replies are altered, of the servers beside the deployment too.
    Replies(Alter),
    /// What the proxy answers in a server's place, of the servers beside the deployment too.
    Answers(Answer),
    /// What is done to every cluster that is made beside the deployment, once it has formed.
    Beside(Damage),
    /// What a fault does in place of what it should.
    Faults(Misfault),
    /// What a cut does in place of what it should.
    Cuts(Miscut),
    /// What an upheaval does in place of what it should: servers on loopback have no platform, so this stands in for one.
    Upheavals(Misheaval),
    /// What is cut stays cut the first time that faults are undone.
    HealsLate,
    /// How the outcome of a program that was run beside a server is altered; it is given the program and its arguments.
    Programs(fn(&[&str], Execution) -> Execution),
}

/// A fault that is not what it should be: given the target, the fault and the node.
pub(super) type Misfault = for<'a> fn(&'a dyn Target, Fault, &'a Member) -> BoxFuture<'a, Result<(), TargetError>>;

/// An upheaval that is not what it should be: given the target and the upheaval.
pub(super) type Misheaval = for<'a> fn(&'a dyn Target, &'a Upheaval) -> BoxFuture<'a, Result<(), TargetError>>;

/// A cut that is not what it should be: given the target and the cuts.
pub(super) type Miscut = for<'a> fn(&'a dyn Target, &'a [Cut]) -> BoxFuture<'a, Result<(), TargetError>>;

/// A target with something wrong.
pub(super) struct Broken {
    inner: Arc<dyn Target>,
    wrong: Wrong,
    /// Others use the inner target too: whoever lends it prepares and releases it.
    lent: bool,
    /// What servers beside the deployment are started with.
    beside: Vec<Alteration>,
    /// What it is said to be able to do beyond what the inner target can.
    granted: &'static [Capability],
    /// The addresses of all nodes, once it is prepared; they follow the nodes.
    addresses: Mutex<Arc<[Address]>>,
    /// Something was cut, and faults have not been undone since.
    cut: AtomicBool,
}

impl Broken {
    /// The target `inner`, made wrong by its own `prepare`, or at once where it is lent.
    pub(super) fn new(inner: Arc<dyn Target>, wrong: Wrong, lent: bool, beside: Vec<Alteration>) -> Self {
        Self {
            inner,
            wrong,
            lent,
            beside,
            granted: &[],
            addresses: Mutex::new(Arc::new([])),
            cut: AtomicBool::new(false),
        }
    }

    /// The same, said to be able to do more: what cases ask for that is about a platform.
    pub(super) fn granting(mut self, granted: &'static [Capability]) -> Self {
        self.granted = granted;
        self
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, Arc<[Address]>> {
        self.addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts the address that a node has got in the place of the one that it had.
    async fn follow(&self, moved: &Member) -> Result<(), TargetError> {
        let members = self.inner.members().await?;
        let mut addresses = self.addresses();
        let fresh = members.iter().find(|member| !addresses.contains(&member.address));
        if let Some(fresh) = fresh {
            let followed = addresses.iter().map(|address| match *address == moved.address {
                true => fresh.address.clone(),
                false => address.clone(),
            });
            *addresses = followed.collect();
        }
        Ok(())
    }
}

#[async_trait]
impl Target for Broken {
    fn description(&self) -> TargetDescription {
        self.inner.description()
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        let mut capabilities = self.inner.capabilities();
        capabilities.extend(self.granted);
        capabilities
    }

    fn is_ours(&self) -> bool {
        self.inner.is_ours()
    }

    async fn prepare(&self, progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        let mut phases = Vec::new();
        if !self.lent {
            phases = self.inner.prepare(progress).await?;
        }
        let members = self.inner.members().await?;
        *self.addresses() = members.into_iter().map(|member| member.address).collect();
        if let Wrong::State(damage) = self.wrong {
            damage(&mut Nodes::of(&*self.inner).await?).await?;
        }
        Ok(phases)
    }

    fn password(&self) -> Option<Secret> {
        self.inner.password()
    }

    fn user(&self) -> Option<String> {
        self.inner.user()
    }

    async fn client_options(&self, member: &Member) -> Result<Vec<String>, TargetError> {
        self.inner.client_options(member).await
    }

    async fn members(&self) -> Result<Vec<Member>, TargetError> {
        self.inner.members().await
    }

    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        let far = self.inner.connect(address).await?;
        let addresses = self.addresses().clone();
        let node = addresses.iter().position(|other| other == address);
        let meddling = match self.wrong {
            Wrong::Replies(alter) => Some(Meddling::Alters(alter)),
            Wrong::Answers(answer) => Some(Meddling::Answers(answer)),
            _ => None,
        };
        Ok(match (meddling, node) {
            (Some(meddling), Some(node)) => proxy::before(far, node, addresses, meddling),
            _ => far,
        })
    }

    async fn dial(&self, address: &Address) -> Result<SocketAddr, LinkError> {
        self.inner.dial(address).await
    }

    async fn inject(&self, fault: Fault, member: &Member) -> Result<(), TargetError> {
        match self.wrong {
            Wrong::Faults(misfault) => misfault(&*self.inner, fault, member).await?,
            _ => self.inner.inject(fault, member).await?,
        }
        if fault == Fault::NewAddress {
            self.follow(member).await?;
        }
        Ok(())
    }

    fn lacks(&self, capability: Capability) -> Option<String> {
        self.inner.lacks(capability)
    }

    async fn cut(&self, cuts: &[Cut]) -> Result<(), TargetError> {
        self.cut.store(true, Ordering::Relaxed);
        match self.wrong {
            Wrong::Cuts(miscut) => miscut(&*self.inner, cuts).await,
            _ => self.inner.cut(cuts).await,
        }
    }

    async fn upheave(&self, upheaval: &Upheaval) -> Result<(), TargetError> {
        match self.wrong {
            Wrong::Upheavals(misheaval) => misheaval(&*self.inner, upheaval).await?,
            _ => self.inner.upheave(upheaval).await?,
        }
        // Those that have moved are other nodes to a proxy: masters first, then their replicas, as they were made.
        let members = self.inner.members().await?;
        *self.addresses() = members.into_iter().map(|member| member.address).collect();
        Ok(())
    }

    async fn undo_faults(&self) -> Result<(), TargetError> {
        let was_cut = self.cut.swap(false, Ordering::Relaxed);
        if was_cut && matches!(self.wrong, Wrong::HealsLate) {
            return Ok(());
        }
        self.inner.undo_faults().await
    }

    async fn collect_evidence(&self, folder: &Path) {
        self.inner.collect_evidence(folder).await;
    }

    async fn scratch(&self, scratch: &Scratch) -> Result<Arc<dyn Target>, TargetError> {
        let mut scratch = scratch.clone();
        scratch.alterations.extend_from_slice(&self.beside);
        let inner = self.inner.scratch(&scratch).await?;
        let wrong = match self.wrong {
            Wrong::Beside(damage) => Wrong::State(damage),
            Wrong::State(_) => Wrong::Nothing,
            other => other,
        };
        Ok(Arc::new(Self::new(inner, wrong, false, Vec::new())))
    }

    async fn exec(
        &self,
        member: &Member,
        command: &[&str],
        environment: &[(&str, &Secret)],
        limit: Duration,
    ) -> Result<Execution, TargetError> {
        let outcome = self.inner.exec(member, command, environment, limit).await?;
        Ok(match self.wrong {
            Wrong::Programs(alter) => alter(command, outcome),
            _ => outcome,
        })
    }

    fn data_folder(&self, member: &Member) -> Option<PathBuf> {
        self.inner.data_folder(member)
    }

    async fn release(&self) -> Result<(), TargetError> {
        if self.lent { Ok(()) } else { self.inner.release().await }
    }
}

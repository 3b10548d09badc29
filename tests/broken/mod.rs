//! A target that is deliberately wrong: one of processes, with something done to it after its cluster has formed, or
//! with a proxy before its nodes.

use crate::proxy::{self, Alter};
use async_trait::async_trait;
use futures::future::BoxFuture;
use redis_cluster_conformance::case::Capability;
use redis_cluster_conformance::cluster::connection::{Address, BoxedStream, Connection, LinkError};
use redis_cluster_conformance::cluster::node::Member;
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::target::{Fault, Phase, Secret, Target, TargetDescription, TargetError};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long a wrong state may take to be seen by all nodes.
const SPREAD: Duration = Duration::from_secs(20);

/// Makes the deployment wrong.
pub(crate) type Damage = for<'a> fn(&'a mut Nodes<'_>) -> BoxFuture<'a, Result<(), TargetError>>;

/// All nodes of a formed cluster, for whoever makes it wrong: masters first, then their replicas.
pub(crate) struct Nodes<'t> {
    target: &'t dyn Target,
    members: Vec<Member>,
    connections: Vec<Connection>,
    ids: Vec<String>,
}

impl<'t> Nodes<'t> {
    async fn of(target: &'t dyn Target) -> Result<Self, TargetError> {
        let members = target.members().await?;
        let (mut connections, mut ids) = (Vec::new(), Vec::new());
        for member in &members {
            let stream = target.connect(&member.address).await?;
            let mut connection = Connection::new(stream, member.address.clone(), SPREAD);
            if let Some(password) = target.password() {
                connection.ask(&["AUTH", password.expose()]).await?;
            }
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
    pub(crate) fn all(&self) -> std::ops::Range<usize> {
        0..self.members.len()
    }

    /// A node's id.
    pub(crate) fn id(&self, node: usize) -> String {
        self.ids[node].clone()
    }

    /// Sends a command that the node must take.
    pub(crate) async fn ask(&mut self, node: usize, command: &[&str]) -> Result<(), TargetError> {
        Ok(self.connections[node].ask(command).await.map(|_| ())?)
    }

    /// Does a fault to a node.
    pub(crate) async fn inject(&mut self, fault: Fault, node: usize) -> Result<(), TargetError> {
        self.target.inject(fault, &self.members[node]).await
    }

    /// Waits until a node's reply holds a text.
    pub(crate) async fn until(&mut self, node: usize, command: &[&str], text: &str) -> Result<(), TargetError> {
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
pub(crate) enum Wrong {
    /// Nothing, or what the inner target was started with.
    Nothing,
    /// What is done to the formed cluster.
    State(Damage),
    /// How replies are altered.
    Replies(Alter),
}

/// A target with something wrong.
pub(crate) struct Broken {
    inner: Arc<dyn Target>,
    wrong: Wrong,
    /// Others use the inner target too: whoever lends it prepares and releases it.
    lent: bool,
    /// Held while servers are started: free ports are free only until the next one takes them.
    starting: Arc<tokio::sync::Mutex<()>>,
    addresses: OnceLock<Arc<[Address]>>,
}

impl Broken {
    /// The target `inner`, made wrong by its own `prepare`, or at once where it is lent.
    pub(crate) fn new(inner: Arc<dyn Target>, wrong: Wrong, lent: bool, starting: Arc<tokio::sync::Mutex<()>>) -> Self {
        Self {
            inner,
            wrong,
            lent,
            starting,
            addresses: OnceLock::new(),
        }
    }
}

#[async_trait]
impl Target for Broken {
    fn description(&self) -> TargetDescription {
        self.inner.description()
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        self.inner.capabilities()
    }

    fn is_ours(&self) -> bool {
        self.inner.is_ours()
    }

    async fn prepare(&self, progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        let mut phases = Vec::new();
        if !self.lent {
            let _one_at_a_time = self.starting.lock().await;
            phases = self.inner.prepare(progress).await?;
        }
        let members = self.inner.members().await?;
        self.addresses
            .get_or_init(|| members.into_iter().map(|member| member.address).collect());
        if let Wrong::State(damage) = self.wrong {
            damage(&mut Nodes::of(&*self.inner).await?).await?;
        }
        Ok(phases)
    }

    fn password(&self) -> Option<Secret> {
        self.inner.password()
    }

    async fn members(&self) -> Result<Vec<Member>, TargetError> {
        self.inner.members().await
    }

    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        let far = self.inner.connect(address).await?;
        let addresses = self.addresses.get();
        let node = addresses.and_then(|addresses| addresses.iter().position(|other| other == address));
        Ok(match (self.wrong, addresses, node) {
            (Wrong::Replies(alter), Some(addresses), Some(node)) => proxy::before(far, node, addresses.clone(), alter),
            (Wrong::Replies(_) | Wrong::State(_) | Wrong::Nothing, _, _) => far,
        })
    }

    async fn dial(&self, address: &Address) -> Result<SocketAddr, LinkError> {
        self.inner.dial(address).await
    }

    async fn inject(&self, fault: Fault, member: &Member) -> Result<(), TargetError> {
        self.inner.inject(fault, member).await
    }

    async fn undo_faults(&self) -> Result<(), TargetError> {
        self.inner.undo_faults().await
    }

    async fn collect_evidence(&self, folder: &Path) {
        self.inner.collect_evidence(folder).await;
    }

    async fn release(&self) -> Result<(), TargetError> {
        if self.lent { Ok(()) } else { self.inner.release().await }
    }
}

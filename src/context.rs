//! What a case is given: connections, the cluster's view, keys of its own, timings, faults, and the deployment's
//! Kubernetes side. A case reaches everything through here and never imports a target.

mod asking;
mod beside;
mod clients;
pub(crate) mod ending;
mod files;
mod records;

pub use self::ending::with_cleanup;
pub use self::records::Measurement;

use crate::case::{Case, CaseId};
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::node::{Member, NodeId};
use crate::cluster::slot;
use crate::cluster::view::Shape;
use crate::progress::Progress;
use crate::timeline::Timeline;
use crate::timing::Timing;
use crate::verdict::{Mismatch, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use crate::target::{
    Alteration, Budget, Change, Claim, Companion, Cut, DeployedVariant, Deployment, Event, Execution, Fault, Host,
    LiveKind, Objects, Pod, Scaling, Scratch, Secret, TLS_PORT, Target, TargetError, Traffic, Upheaval, Variant, Way,
};

/// What all cases of a run share.
pub struct Shared {
    /// The deployment under test.
    pub target: Arc<dyn Target>,
    /// The run's own name, part of every key and label.
    pub run_id: String,
    /// The time limits, from the target's node-timeout.
    pub timing: Timing,
    /// Where progress is told.
    pub progress: Progress,
    /// The failover that several cases look at: done once, by the first that asks.
    pub failover: tokio::sync::OnceCell<Result<Arc<crate::failover::Failover>, crate::moving::Unobserved>>,
    /// The change of one node's address that several cases look at: done once, by the first that asks.
    pub moved: tokio::sync::OnceCell<Result<Arc<crate::moving::Step>, crate::moving::Unobserved>>,
    /// The change of every node's address in turn: done once, by the first that asks.
    pub rolled: tokio::sync::OnceCell<Result<Arc<crate::moving::Roll>, crate::moving::Unobserved>>,
    /// The partition that several cases look at: done once, by the first that asks.
    pub partition: crate::partition::Observed,
    /// The partition of the bus alone: done once, by the first that asks.
    pub bus_partition: crate::partition::Observed,
    /// The absence of a replica that several cases look at: done once, by the first that asks.
    pub absence: tokio::sync::OnceCell<Result<Arc<crate::failover::Absence>, crate::moving::Unobserved>>,
    /// The outage of a whole shard that several cases look at: done once, by the first that asks.
    pub outage: tokio::sync::OnceCell<Result<Arc<crate::outage::Outage>, crate::moving::Unobserved>>,
    /// The crash of a master that several cases look at: done once, by the first that asks.
    pub crash: tokio::sync::OnceCell<Result<Arc<crate::crash::Crash>, crate::moving::Unobserved>>,
    /// The crash of every server that several cases look at: done once, by the first that asks.
    pub full_crash: tokio::sync::OnceCell<Result<Arc<crate::crash::FullCrash>, crate::moving::Unobserved>>,
    /// The rolling restart that several cases look at: done once, by the first that asks.
    pub rolling: tokio::sync::OnceCell<Result<Result<Arc<crate::rolling::Rolling>, Mismatch>, String>>,
    /// The deployment deleted and applied again, which several cases look at: done once, by the first that asks.
    pub reapplied: tokio::sync::OnceCell<Result<Arc<crate::away::Away>, crate::moving::Unobserved>>,
    /// Who reaches the bus, which several cases look at: seen once, by the first that asks.
    pub fence: tokio::sync::OnceCell<Result<Arc<crate::fence::Seen>, crate::moving::Unobserved>>,
    /// The bootstrap pod made again, which several cases look at: done once, by the first that asks.
    pub hook: tokio::sync::OnceCell<Result<Arc<crate::hook::Hook>, crate::moving::Unobserved>>,
    /// A server that takes another password than its platform knows, which several cases look at: done once.
    pub unready: tokio::sync::OnceCell<Result<Arc<crate::unready::Unready>, crate::moving::Unobserved>>,
    /// The scale-out that several cases look at: done once, by the first that asks.
    pub scaled_out: tokio::sync::OnceCell<Result<Arc<crate::scaling::ScaledOut>, crate::moving::Unobserved>>,
    /// The soak that several cases look at: done once, by the first that asks.
    pub soak: tokio::sync::OnceCell<Result<Result<Arc<crate::soak::Soak>, Mismatch>, String>>,
    /// The deployment's objects, which several cases look at: asked for once, by the first that wants them.
    pub objects: tokio::sync::OnceCell<Result<Arc<Objects>, String>>,
    /// The config epoch of every master when the cluster was last whole, and when a shard was last seen to have got a
    /// new one: there was an election then, or little before.
    pub votes: Mutex<(BTreeMap<NodeId, u64>, BTreeMap<NodeId, Instant>)>,
    /// Connections that looks at the cluster use again: opening one can cost far more than the question itself.
    pub pool: Mutex<BTreeMap<Address, Connection>>,
    /// How the waits for a whole cluster ended, each with its place (`after FAIL-01`): the time, or what was missing.
    pub settled: Mutex<Vec<(String, Result<Duration, String>)>>,
    /// The copies that cases made and have not yet removed; the runner removes what is left.
    pub copies: Mutex<Vec<(CaseId, Arc<dyn DeployedVariant>)>>,
    /// What cases made beside the deployment and have not yet removed; the runner removes what is left.
    pub scratches: Mutex<Vec<(CaseId, Arc<Shared>)>>,
    /// The case that made each observation which is made once in a run and judged by several.
    pub observed_by: Mutex<BTreeMap<&'static str, CaseId>>,
    /// Passwords of theirs: they must not be shown either.
    pub secrets: Mutex<Vec<Secret>>,
}

impl Shared {
    /// What cases over a target share, at the beginning.
    pub fn new(target: Arc<dyn Target>, run_id: String, timing: Timing, progress: Progress) -> Self {
        Self {
            target,
            run_id,
            timing,
            progress,
            failover: tokio::sync::OnceCell::new(),
            moved: tokio::sync::OnceCell::new(),
            rolled: tokio::sync::OnceCell::new(),
            partition: tokio::sync::OnceCell::new(),
            bus_partition: tokio::sync::OnceCell::new(),
            absence: tokio::sync::OnceCell::new(),
            outage: tokio::sync::OnceCell::new(),
            crash: tokio::sync::OnceCell::new(),
            full_crash: tokio::sync::OnceCell::new(),
            rolling: tokio::sync::OnceCell::new(),
            reapplied: tokio::sync::OnceCell::new(),
            fence: tokio::sync::OnceCell::new(),
            hook: tokio::sync::OnceCell::new(),
            unready: tokio::sync::OnceCell::new(),
            scaled_out: tokio::sync::OnceCell::new(),
            soak: tokio::sync::OnceCell::new(),
            objects: tokio::sync::OnceCell::new(),
            votes: Mutex::default(),
            pool: Mutex::default(),
            settled: Mutex::default(),
            copies: Mutex::default(),
            scratches: Mutex::default(),
            observed_by: Mutex::default(),
            secrets: Mutex::default(),
        }
    }
}

/// What one case is given.
pub struct Context {
    shared: Arc<Shared>,
    id: CaseId,
    measurements: Mutex<Vec<Measurement>>,
    notes: Mutex<Vec<String>>,
    timeline: Arc<Timeline>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("case", &self.id)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context for one case of a run.
    pub fn new(shared: Arc<Shared>, case: &Case) -> Self {
        Self::of(shared, case.id)
    }

    fn of(shared: Arc<Shared>, id: CaseId) -> Self {
        Self {
            shared,
            id,
            measurements: Mutex::default(),
            notes: Mutex::default(),
            timeline: Arc::default(),
        }
    }

    /// The case that this is for.
    pub fn case_id(&self) -> CaseId {
        self.id
    }

    /// What all cases of the run share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where progress is told.
    pub fn progress(&self) -> &Progress {
        &self.shared.progress
    }

    /// What happened during the case.
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    /// The time limits.
    pub fn timing(&self) -> &Timing {
        &self.shared.timing
    }

    /// The shape that the deployment is meant to have.
    pub fn shape(&self) -> Shape {
        self.shared.target.description().shape
    }

    /// The password that every node should ask for.
    ///
    /// # Errors
    /// A mismatch when the deployment has none: every case that asks for it is about a password.
    pub fn password(&self) -> Result<Secret, Stop> {
        self.shared
            .target
            .password()
            .filter(|password| !password.expose().is_empty())
            .ok_or_else(|| {
                Mismatch::new(
                    "a deployment with a password",
                    "the target's description names no password",
                )
                .into()
            })
    }

    /// `AUTH` with a password, as the deployment's user.
    pub fn auth(&self, password: &str) -> Vec<String> {
        auth(self.shared.target.user(), password)
    }

    /// The user whose password the deployment's is.
    pub fn user(&self) -> String {
        self.shared.target.user().unwrap_or_else(|| "default".to_owned())
    }

    /// The deployment's servers at present.
    ///
    /// # Errors
    /// When the platform cannot be asked.
    pub async fn members(&self) -> Result<Vec<Member>, Stop> {
        Ok(self.shared.target.members().await?)
    }

    /// How long a reply is waited for: `T_reply`, and what the way to the nodes may add.
    pub fn patience(&self) -> Duration {
        self.timing().reply() + self.shared.target.detour()
    }

    /// A connection that has not authenticated.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn connect_raw(&self, address: &Address) -> Result<Connection, LinkError> {
        let patience = self.patience();
        let stream = tokio::time::timeout(patience, self.shared.target.connect(address))
            .await
            .map_err(|_| LinkError::TimedOut {
                address: address.clone(),
                command: "connect".into(),
                after: patience,
                got: None,
            })??;
        Ok(Connection::new(stream, address.clone(), patience))
    }

    /// A connection that has authenticated, where the deployment has a password.
    ///
    /// # Errors
    /// When the node cannot be reached, or refuses the password.
    pub async fn connect(&self, address: &Address) -> Result<Connection, LinkError> {
        let mut connection = self.connect_raw(address).await?;
        authenticate(&mut connection, &*self.shared.target).await?;
        Ok(connection)
    }

    /// A key of this run and case, in the slot wanted: `rcc:<run>:<case>:<name>:{<tag>}`.
    pub fn key_in(&self, slot: u16, name: &str) -> String {
        format!(
            "rcc:{}:{}:{name}:{{{}}}",
            self.shared.run_id,
            self.id,
            slot::tag_for(slot)
        )
    }

    /// A key of this run and case, with no hash tag.
    pub fn key(&self, name: &str) -> String {
        format!("rcc:{}:{}:{name}", self.shared.run_id, self.id)
    }

    /// Does a fault to a node and notes it in the timeline.
    ///
    /// # Errors
    /// When it could not be done.
    pub async fn inject(&self, fault: Fault, member: &Member) -> Result<Instant, Stop> {
        self.note_time(format!("{member} is to be {}", fault.past()));
        let at = Instant::now();
        self.shared.target.inject(fault, member).await?;
        self.note_time(format!("{member} was {}", fault.past()));
        Ok(at)
    }

    /// Cuts links, until faults are undone, and notes it in the timeline; the instant at which all cuts were there.
    ///
    /// # Errors
    /// When it could not be done.
    pub async fn cut(&self, cuts: &[Cut]) -> Result<Instant, Stop> {
        self.shared.target.cut(cuts).await?;
        let at = Instant::now();
        cuts.iter().for_each(|cut| self.note_time(cut.to_string()));
        Ok(at)
    }

    /// Does something to the deployment as a whole and notes it in the timeline; the instant at which it was done.
    ///
    /// # Errors
    /// When it could not be done.
    pub async fn upheave(&self, upheaval: &Upheaval) -> Result<Instant, Stop> {
        let done = self.shared.target.upheave(upheaval).await;
        // The way to every server may be another now.
        self.forget_connections();
        done?;
        self.note_time(upheaval.to_string());
        Ok(Instant::now())
    }

    /// How long a shard with these nodes cannot be relied on to elect anew. No master votes about one and the same master
    /// again within twice the node-timeout (Redis source, cluster.c, clusterSendFailoverAuthIfNeeded), and a replica that
    /// is asked to take over within four times the node-timeout of an election that it won counts the votes from then,
    /// claims its old epoch, and is refused (seen on 7.0.15).
    pub fn no_vote_for(&self, ids: &[&str]) -> Duration {
        let votes = self
            .shared
            .votes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let last = ids.iter().filter_map(|id| votes.1.get(*id)).max();
        let ban = 4 * self.timing().node_timeout();
        last.map_or(Duration::ZERO, |last| ban.saturating_sub(last.elapsed()))
    }

    /// Undoes every fault that lasts.
    ///
    /// # Errors
    /// When one could not be undone.
    pub async fn undo_faults(&self) -> Result<(), Stop> {
        self.note_time("faults are undone");
        let undone = self.shared.target.undo_faults().await;
        self.forget_connections();
        Ok(undone?)
    }

    /// The deployment's Kubernetes side.
    ///
    /// # Errors
    /// When there is none: the case should have declared the need.
    pub fn deployment(&self) -> Result<&dyn Deployment, Stop> {
        self.shared.target.deployment().ok_or_else(|| {
            anyhow::anyhow!(
                "{}: the target has no Kubernetes side; the case must declare that it needs one",
                self.id
            )
            .into()
        })
    }

    /// The folder on this machine that holds a server's data, where the suite can reach it.
    ///
    /// # Errors
    /// When it cannot: the case must declare that it needs [`crate::case::Capability::Files`].
    pub fn data_folder(&self, member: &Member) -> Result<std::path::PathBuf, Stop> {
        let folder = self.shared.target.data_folder(member);
        folder.ok_or_else(|| anyhow::anyhow!("the files of {member} cannot be reached").into())
    }

    /// The capabilities of the target.
    pub fn capabilities(&self) -> BTreeSet<crate::case::Capability> {
        self.shared.target.capabilities()
    }
}

/// `AUTH` with a password, as a user where one is named.
fn auth(user: Option<String>, password: &str) -> Vec<String> {
    let words = [Some("AUTH".to_owned()), user, Some(password.to_owned())];
    words.into_iter().flatten().collect()
}

/// Authenticates a connection to a server of the target, where there is a password.
///
/// # Errors
/// When the node refuses the password. A node that has none, and serves all the same, does not refuse: chapter AUTH is
/// about that.
pub async fn authenticate(connection: &mut Connection, target: &dyn Target) -> Result<(), LinkError> {
    match target.password() {
        Some(password) => authenticate_as(connection, target.user(), &password).await,
        None => Ok(()),
    }
}

/// Authenticates a connection with a password, as a user where one is named.
///
/// # Errors
/// As [`authenticate`].
pub async fn authenticate_as(
    connection: &mut Connection,
    user: Option<String>,
    password: &Secret,
) -> Result<(), LinkError> {
    let reply = connection.call(&auth(user, password.expose())).await?;
    let open = reply
        .error()
        .is_some_and(|text| text.contains("without any password") || text.contains("no password is set"));
    if reply.is_ok() || open {
        Ok(())
    } else {
        Err(connection.nonsense("AUTH", reply.to_string()))
    }
}

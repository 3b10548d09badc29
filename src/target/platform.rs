//! The Kubernetes side of a deployment, as cases see it: its pods, what the API shows of them, altered copies.

use super::{Budget, Host, Objects, TargetError};
use crate::cluster::connection::{Address, BoxedStream, LinkError};
use crate::cluster::node::Member;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// A pod as cases see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid: another pod of the same name has another.
    pub uid: String,
    /// `status.podIP`, where assigned.
    pub address: Option<String>,
    /// `status.phase`.
    pub phase: String,
    /// The condition `Ready`.
    pub ready: bool,
    /// The sum of its containers' restart counts.
    pub restarts: i32,
    /// The reason why a container waits, or has last terminated, with its message: `CrashLoopBackOff: …`.
    pub trouble: Option<String>,
    /// The Kubernetes node that it runs on.
    pub host: Option<String>,
    /// The volume claims that it mounts, by name.
    pub claims: Vec<String>,
    /// Whether it has been told to end.
    pub leaving: bool,
}

/// A volume claim as cases see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Its uid: another claim of the same name has another.
    pub uid: String,
    /// `status.phase`: `Bound`, `Pending`, `Lost`.
    pub phase: String,
    /// `spec.accessModes`: `ReadWriteOnce`, …
    pub access_modes: Vec<String>,
    /// The volume that it is bound to.
    pub volume: Option<String>,
    /// Whether it is being deleted.
    pub leaving: bool,
}

/// An event as cases see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// `Normal` or `Warning`.
    pub kind: String,
    /// `FailedPostStartHook`, `FailedScheduling`, …
    pub reason: String,
    /// `Pod/redis-cluster-5`.
    pub object: String,
    /// The text.
    pub message: String,
    /// How often it was seen.
    pub count: i32,
    /// When it was seen last, by Kubernetes' clock; most are told to the second only.
    pub at: Option<jiff::Timestamp>,
}

impl fmt::Display for Event {
    /// `Warning x2 Pod/redis-cluster-5 FailedPostStartHook: …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            count,
            object,
            reason,
            ..
        } = self;
        write!(f, "{kind} x{count} {object} {reason}: {}", self.message.trim())
    }
}

/// What a command in a container gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit status.
    pub status: i32,
}

/// How an altered copy of the deployment differs from it. How that is written as a patch is the descriptor's matter:
/// a target offers only the variants that its descriptor can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// The pods' `dnsConfig.searches` has one more domain, `example.internal`.
    ExtraSearchDomain,
    /// The password is empty.
    EmptyPassword,
    /// The bootstrap uses another password than the servers.
    WrongBootstrapPassword,
    /// One server never listens.
    SilentPeer,
    /// No node's bus port can be reached.
    BlockedBus,
    /// One server begins to listen 10 s after its container was started.
    SlowPeer,
    /// The Service that gives the pods their names is made 15 s after the bootstrap's pod.
    LateNames,
    /// The bootstrap's pod has its hook and its server killed once, when it first hears of assigned slots.
    KilledBootstrap,
    /// The workload and its headless Service have other names, and there are two pods more.
    OtherIdentity,
    /// All pods are started at once.
    Parallel,
    /// The hook of the bootstrap's pod fails as many times as the file `hook-fails` in the server's data folder says.
    FailingHook,
    /// A server with a file `stuck` in its data folder ends at once.
    StuckPod,
    /// Nothing is changed but the namespace. Every description can make it, whether it says how or not.
    Unaltered,
}

/// The kinds of objects of a deployment that cases look at as they are in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveKind {
    /// What makes the servers' pods.
    Workload,
    /// The servers' pods.
    Pod,
    /// The ConfigMaps of the namespace.
    ConfigMap,
    /// The Services of the namespace.
    Service,
    /// The NetworkPolicies of the namespace.
    NetworkPolicy,
}

/// A pod that the suite makes in the deployment's namespace, from the deployment's own image. It has none of the labels
/// by which the servers are found, so it is a stranger to Services and policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companion {
    /// It does nothing by itself: programs are run in it, as a client would run them.
    Client,
    /// It runs an empty server that nobody uses: whether connections to it can be forbidden is tried on it.
    Bait,
}

/// How servers are added to a deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// The deployment does it itself, once the platform is told how many there are to be.
    #[default]
    Automatic,
    /// Its people do it, as its documentation says.
    Manual,
}

/// What became of a change that the platform was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Made,
    /// It was refused, for this reason.
    Refused(String),
}

/// The Kubernetes side of a deployment: what the API shows of it.
#[async_trait]
pub trait Deployment: Send + Sync {
    /// How many pods the workload declares, and how many of them the workload's status calls ready.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn replicas(&self) -> Result<(i32, i32), TargetError>;

    /// The deployment's pods, ordered by name.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn pods(&self) -> Result<Vec<Pod>, TargetError>;

    /// The hosts of the cluster, ordered by name.
    ///
    /// # Errors
    /// When the API cannot be asked, or does not say.
    async fn hosts(&self) -> Result<Vec<Host>, TargetError>;

    /// The events of the deployment's namespace, oldest first.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn events(&self) -> Result<Vec<Event>, TargetError>;

    /// The name of the pod that forms the cluster, where one does.
    fn bootstrap_pod(&self) -> Option<String>;

    /// The container in which the bootstrap runs: its own, or the server's, whose hook it is. None where no pod has one.
    fn bootstrap_container(&self) -> Option<String>;

    /// Whether the cluster is formed beside the servers, by a Job or in a container of its own: then that all pods are Ready does
    /// not say that it is. In a server's hook it is formed before that one's pod is Ready.
    fn is_formed_beside(&self) -> bool {
        let own = self.bootstrap_container();
        self.bootstrap_pod().is_none() || own.is_some_and(|own| own != self.server_container())
    }

    /// The bootstrap's log: the hook's own log file where the descriptor names one and the container still has it, else
    /// the container's log.
    ///
    /// # Errors
    /// When neither can be had.
    async fn bootstrap_log(&self) -> Result<String, TargetError>;

    /// What the bootstrap has said in its present run: of a container of its own only the one that runs now.
    ///
    /// # Errors
    /// When it cannot be had.
    async fn bootstrap_said(&self) -> Result<String, TargetError>;

    /// The log of a pod's container, or of its previous one.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn log(&self, pod: &str, previous: bool) -> Result<String, TargetError>;

    /// Runs a command in a pod's container, for at most `limit`.
    ///
    /// # Errors
    /// When it could not be run to its end.
    async fn exec(&self, pod: &str, command: &[&str], limit: Duration) -> Result<Execution, TargetError>;

    /// Makes a container of a pod start again in place (what runs in it is stopped; the pod stays). Returns when the new
    /// container runs.
    ///
    /// # Errors
    /// When it could not be done within `limit`.
    async fn restart_container(&self, pod: &str, container: &str, limit: Duration) -> Result<(), TargetError>;

    /// The volume claims of the deployment's namespace, ordered by name.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn claims(&self) -> Result<Vec<Claim>, TargetError>;

    /// The Service that clients use, and its port, where the deployment has one.
    fn client_service(&self) -> Option<(String, u16)>;

    /// The addresses that a Service leads to at present, by its Endpoints.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn behind(&self, service: &str) -> Result<Vec<String>, TargetError>;

    /// The namespace that the deployment is in.
    fn namespace(&self) -> String;

    /// The headless Service, which gives the pods their names, where the deployment has one.
    fn headless_service(&self) -> Option<String>;

    /// The container of a pod that runs the server, by name.
    fn server_container(&self) -> String;

    /// Objects as the API has them, each with `Kind/name`. Nothing is taken out of them: they are to be judged, never shown.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn live(&self, kind: LiveKind) -> Result<Vec<(String, serde_json::Value)>, TargetError>;

    /// A pod of the suite's own, made by the first that asks, and there until the run ends. Programs are run in it as in
    /// a server's ([`Target::exec`](super::Target::exec)).
    ///
    /// # Errors
    /// A usage error when the platform refuses the pod; another when it does not run within `limit`.
    async fn companion(&self, which: Companion, limit: Duration) -> Result<Member, TargetError>;

    /// Makes a NetworkPolicy by which nobody may reach [`Companion::Bait`], nor it anybody.
    ///
    /// # Errors
    /// A usage error when the platform refuses the policy.
    async fn fence_bait(&self) -> Result<(), TargetError>;

    /// How servers are added to it, by the target's description.
    fn scaling(&self) -> Scaling;

    /// Adds a line to the servers' redis.conf where the platform keeps it; `None` where the target's description does not
    /// name the place. Nothing takes it back.
    ///
    /// # Errors
    /// When the platform cannot be asked.
    async fn configure(&self, line: &str) -> Result<Option<Change>, TargetError>;

    /// The objects that the deployment is made of. A kind that may not be looked at is told in what is given, and is no error.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn objects(&self) -> Result<Objects, TargetError>;

    /// What would change, or be refused, if the manifest that this run has applied were applied once more, strictly
    /// validated: one line each. Nothing is changed. `None` where the run has applied none.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn rehearse_apply(&self) -> Result<Option<Vec<String>>, TargetError>;

    /// The limits on evictions that there are in the namespace.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn budgets(&self) -> Result<Vec<Budget>, TargetError>;

    /// Whether a pod might be evicted now, else why not, in the platform's words. It is not evicted.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn may_evict(&self, pod: &str) -> Result<Result<(), String>, TargetError>;

    /// Waits until a pod's server has ended and gives its exit code; `None` where the pod has gone without telling it.
    /// The caller sets the limit.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn exit_code(&self, pod: &Pod) -> Result<Option<i32>, TargetError>;

    /// What is there of the deployment but its volume claims, `StatefulSet/redis-cluster`: in a namespace that the run has
    /// made everything, else the manifest's objects and the pods.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn remains(&self) -> Result<Vec<String>, TargetError>;

    /// The variants that can be made.
    fn variants(&self) -> BTreeSet<Variant>;

    /// Makes an altered copy of the deployment in a namespace of its own. Returns as soon as its objects are applied.
    ///
    /// # Errors
    /// When it could not be applied.
    async fn deploy_variant(&self, variant: Variant) -> Result<Box<dyn DeployedVariant>, TargetError>;
}

/// An altered copy of a deployment. It must be removed; what is left by a crash goes with the next run.
#[async_trait]
pub trait DeployedVariant: Send + Sync {
    /// The copy's Kubernetes side.
    fn deployment(&self) -> &dyn Deployment;

    /// The servers of the copy.
    ///
    /// # Errors
    /// When the API cannot be asked.
    async fn members(&self) -> Result<Vec<Member>, TargetError>;

    /// As [`Target::connect`](super::Target::connect).
    ///
    /// # Errors
    /// As [`Target::connect`](super::Target::connect).
    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError>;

    /// Stops every server gracefully, all at once; the platform makes them again. Returns when they have ended.
    ///
    /// # Errors
    /// When it could not be done.
    async fn stop_all(&self) -> Result<(), TargetError>;

    /// Writes what the platform knows of it below `folder`.
    async fn collect_evidence(&self, folder: &Path);

    /// Removes it, and waits until its pods are gone.
    ///
    /// # Errors
    /// When something is left.
    async fn remove(&self) -> Result<(), TargetError>;
}

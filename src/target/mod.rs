//! Targets: the deployment under test, and how it is reached, broken and put back. Here is what every target has in
//! common; each kind of target has a file of its own. Targets never import cases.

pub mod addresses;
mod cut;
pub mod descriptor;
pub mod docker;
mod filter;
mod folder;
mod kept;
pub mod kind;
pub mod kubernetes;
mod netns;
mod objects;
pub mod processes;
mod redis_conf;
mod volume;

pub use self::cut::{Cut, Traffic, Way};
pub use self::objects::{Budget, Host, Objects};

use crate::case::Capability;
use crate::cluster::connection::{Address, BoxedStream, LinkError};
use crate::cluster::node::Member;
use crate::cluster::view::Shape;
use crate::progress::Progress;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The kinds of target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// A kind cluster that the suite makes, with a manifest applied to it.
    Kind,
    /// An existing Kubernetes cluster and namespace.
    Kubernetes,
    /// Containers of any image on this machine's Docker, from the manifest's own redis.conf.
    Docker,
    /// Servers on loopback, from the manifest's own redis.conf.
    Processes,
    /// A list of host:port.
    Addresses,
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kind => "kind",
            Self::Kubernetes => "kubernetes",
            Self::Docker => "docker",
            Self::Processes => "processes",
            Self::Addresses => "addresses",
        })
    }
}

/// A password. It shows itself to nobody: not in `Debug`, not in `Display`, not in serialised form.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The password itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text with every occurrence of the password replaced, also in the escaped forms of redis.conf and JSON.
    pub fn redact(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        let hex: String = self.0.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        let json = serde_json::to_string(&self.0).unwrap_or_default();
        let mut redacted = text.replace(&self.0, "<password>").replace(&hex, "<password>");
        let escaped = json.trim_matches('"');
        if escaped != self.0 && !escaped.is_empty() {
            redacted = redacted.replace(escaped, "<password>");
        }
        redacted
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<password>")
    }
}

/// What went wrong with a target, in the user's words.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// What the user gave cannot be used: a file, a context, an option. The text names it and what to do.
    #[error("{0}")]
    Usage(String),
    /// The deployment did not come up. The text names the first thing that went wrong, in Kubernetes' or Redis's words.
    #[error("{0}")]
    NotDeployed(String),
    /// The platform does not let the suite do it: the text names the right that is missing.
    #[error("{0}")]
    NotAllowed(String),
    /// The surroundings broke: no Docker, an API that does not answer, a child process that failed.
    #[error("{0}")]
    Surroundings(String),
    /// A node could not be asked.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What a disruptive case does to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Stopped gracefully; the platform brings it back as it does (Kubernetes: the pod is deleted, its controller makes
    /// another; processes, docker: SIGTERM, then started again).
    Restart,
    /// Stopped gracefully and kept away until the fault is undone.
    KeepAway,
    /// The server gets SIGKILL; the platform brings it back as it does.
    Crash,
    /// The server gets SIGKILL and stays away until the fault is undone.
    Kill,
    /// The server is frozen until the fault is undone.
    Pause,
    /// Stopped gracefully and brought back with its data, under another address, where it stays. Where servers are named
    /// by their addresses it has another name then: whoever looks for it again knows it by its node id.
    NewAddress,
    /// Off the network, for clients and for the bus, until the fault is undone.
    Disconnect,
    /// The server gets SIGKILL, all that it has on disk is lost, and it stays away until the fault is undone; then it
    /// comes back empty, by its name and with its configuration: at its address, but for Kubernetes, where it is another
    /// pod with another address and another volume.
    LoseVolume,
    /// The platform is asked to evict it, as by a drain: it may refuse, else it does as for a restart.
    Evict,
    /// Its platform strikes it off at once and makes another, whether its server has ended or not.
    ForceDelete,
}

impl Fault {
    /// The capability that the fault needs.
    pub fn capability(self) -> Capability {
        match self {
            Self::Restart => Capability::Restart,
            Self::KeepAway => Capability::KeepAway,
            Self::Crash => Capability::Crash,
            Self::Kill => Capability::Kill,
            Self::Pause => Capability::Pause,
            Self::NewAddress => Capability::NewAddress,
            Self::Disconnect => Capability::Disconnect,
            Self::LoseVolume => Capability::LoseVolume,
            Self::Evict => Capability::Evict,
            Self::ForceDelete => Capability::ForceDelete,
        }
    }

    /// The fault in the past tense, for the timeline: `redis-cluster-0 was …`.
    pub fn past(self) -> &'static str {
        match self {
            Self::Restart => "stopped gracefully",
            Self::KeepAway => "stopped gracefully and kept away",
            Self::Crash => "killed",
            Self::Kill => "killed and kept away",
            Self::Pause => "frozen",
            Self::NewAddress => "stopped gracefully and brought back under another address",
            Self::Disconnect => "taken off the network",
            Self::LoseVolume => "killed, with all that it had on disk lost",
            Self::Evict => "evicted",
            Self::ForceDelete => "struck off by force",
        }
    }
}

/// What a disruptive case does to the deployment as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upheaval {
    /// Every server is stopped gracefully, all at once, and made again by its platform with its data, under another
    /// address, where it stays.
    Recreate,
    /// There is to be one server less: this one, the last. It stays away until the upheaval is undone.
    ScaleIn(Member),
    /// There is to be no server at all, until the upheaval is undone.
    ScaleToNothing,
    /// There are to be so many servers more. Returns when the platform has been told. Undone, they are gone again, with
    /// their volumes; that the others forget them is not the platform's matter.
    ScaleOut(usize),
    /// The platform is to make every server anew, by its own way of rolling out a change. Returns when it has been told.
    /// There is nothing to undo.
    RollOut,
    /// All that makes the servers is deleted, but what holds their data; it is applied again when the upheaval is undone.
    Delete,
    /// Two servers are stopped gracefully, and each comes back under the address of the other, where it stays.
    SwapAddresses(Member, Member),
    /// The platform's API answers nobody until the upheaval is undone. The servers run.
    LoseApi,
    /// A host is given no more pods, and every server on it is asked to leave, as by `kubectl drain`: the platform may
    /// refuse for as long as others are disrupted. Done when all have left, or when those that are left are refused and
    /// nothing more can happen. Until the upheaval is undone the host is given no pods.
    Drain(String),
    /// A host, and with it every server on it, is frozen until the upheaval is undone: it answers nobody, and the platform
    /// cannot reach it either.
    FreezeHost(String),
    /// A host is started again, and with it every server on it, after as much warning as a machine gets that is switched
    /// off. Done when the platform has it back.
    RestartHost(String),
}

impl Upheaval {
    /// The capability that it needs.
    pub fn capability(&self) -> Capability {
        match self {
            Self::Recreate => Capability::NewAddress,
            Self::ScaleIn(_) | Self::ScaleToNothing | Self::ScaleOut(_) => Capability::Scale,
            Self::RollOut => Capability::RollOut,
            Self::Delete => Capability::Reapply,
            Self::SwapAddresses(..) => Capability::SwapAddresses,
            Self::LoseApi => Capability::LoseApi,
            Self::Drain(_) => Capability::Drain,
            Self::FreezeHost(_) | Self::RestartHost(_) => Capability::LoseHost,
        }
    }
}

/// In the past tense, for the timeline.
impl fmt::Display for Upheaval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recreate => write!(f, "every server was stopped gracefully, to be made again"),
            Self::ScaleIn(member) => write!(f, "scaled in by {member}"),
            Self::ScaleToNothing => write!(f, "scaled to no server at all"),
            Self::ScaleOut(more) => write!(f, "scaled out by {more}"),
            Self::RollOut => write!(f, "the platform was told to roll out a change to every server"),
            Self::Delete => write!(f, "what makes the servers was deleted, all but their volumes"),
            Self::SwapAddresses(one, other) => write!(f, "{one} and {other} got the address of each other"),
            Self::LoseApi => write!(f, "the platform's API answers nobody"),
            Self::Drain(host) => write!(f, "{host} was drained, and is given no pods"),
            Self::FreezeHost(host) => write!(f, "{host} was frozen with all that runs on it"),
            Self::RestartHost(host) => write!(f, "{host} was started again"),
        }
    }
}

/// What stands in an [`Alteration`] for the port on which a server may serve clients over TLS: each has one of its own.
pub const TLS_PORT: &str = "{tls-port}";

/// Directives that servers are started with beyond the deployment's own. They come last, and so take their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alteration {
    /// The server, counted from 0 in the order of its start (masters first, then the first replica of each, and so on);
    /// `None` for every server.
    pub node: Option<usize>,
    /// Lines of redis.conf.
    pub directives: Vec<String>,
}

impl Alteration {
    /// One line for every server.
    pub fn everywhere(directive: impl Into<String>) -> Self {
        Self {
            node: None,
            directives: vec![directive.into()],
        }
    }

    /// One line for one server.
    pub fn of(node: usize, directive: impl Into<String>) -> Self {
        Self {
            node: Some(node),
            directives: vec![directive.into()],
        }
    }

    /// Whether a server is meant.
    pub fn concerns(&self, node: usize) -> bool {
        self.node.is_none_or(|meant| meant == node)
    }
}

/// Servers that a case wants beside the deployment: from the same configuration, but for what is said here.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// The cluster that they form; with no masters they form none.
    pub shape: Shape,
    /// Servers beside it that have joined nothing: they come last in [`Target::members`].
    pub spare: usize,
    /// `cluster-node-timeout` of every server; the scratch's time limits follow it.
    pub node_timeout: Duration,
    /// The password; `None` starts the servers with none.
    pub password: Option<Secret>,
    /// What else is different.
    pub alterations: Vec<Alteration>,
    /// The size in bytes of the volume that each server has its folder on; `None` where that is of no concern. It needs
    /// [`Capability::SmallVolume`].
    pub volume: Option<u64>,
}

/// A phase of a run, for the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What it cannot take less than, in seconds, where the protocol or the platform sets that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
}

/// The target as the report names it. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TargetDescription {
    /// Which kind.
    pub kind: TargetKind,
    /// What it is made of, by name: manifest, namespace, context, image, binary, addresses.
    pub descriptor: std::collections::BTreeMap<String, String>,
    /// The shape that it is meant to have.
    pub shape: Shape,
}

/// The deployment under test.
///
/// Every method may be called while others run. `prepare` comes first, `release` last; `release` may come at any time,
/// also after a failed or interrupted `prepare`, and may be called twice.
#[async_trait]
pub trait Target: Send + Sync {
    /// What the report says of it.
    fn description(&self) -> TargetDescription;

    /// What it can do.
    fn capabilities(&self) -> BTreeSet<Capability>;

    /// Whether this run created the deployment: if not, disruptive cases need the user's word.
    fn is_ours(&self) -> bool;

    /// Makes it, or attaches to it; returns when the bootstrap has ended, in success or visible failure that still
    /// leaves servers to be judged. What it made is removed by [`Target::release`].
    ///
    /// # Errors
    /// When there is nothing to be judged: the text names the cause and the next step.
    async fn prepare(&self, progress: &Progress) -> Result<Vec<Phase>, TargetError>;

    /// The password that every node should ask for; known after `prepare`. `None` where the deployment has none.
    fn password(&self) -> Option<Secret>;

    /// The servers that the deployment is made of at present, ordered by name, with their present addresses. A server
    /// that is being replaced is missing.
    ///
    /// # Errors
    /// When the platform cannot be asked.
    async fn members(&self) -> Result<Vec<Member>, TargetError>;

    /// Opens a byte stream to a node's client port, by the address that the cluster announces.
    ///
    /// # Errors
    /// [`LinkError::Refused`] when the node does not accept, [`LinkError::Unreachable`] when the way to it broke.
    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError>;

    /// How much longer than the server itself the way to it may take, where it leads through something that can be busy:
    /// an API server's streams. A reply is waited for that much longer before a node counts as silent.
    fn detour(&self) -> Duration {
        Duration::ZERO
    }

    /// A TCP address on this machine through which `address` is reached, for clients that open connections themselves.
    /// It stays valid until `release`.
    ///
    /// # Errors
    /// When no such way can be made.
    async fn dial(&self, address: &Address) -> Result<SocketAddr, LinkError>;

    /// Does a fault to a node; returns when it has been done (for a stop: when the server has ended).
    ///
    /// # Errors
    /// When it could not be done; what was half done is undone by [`Target::undo_faults`].
    async fn inject(&self, fault: Fault, member: &Member) -> Result<(), TargetError>;

    /// Why the target lacks a capability, where there is more to say than that its kind does.
    fn lacks(&self, capability: Capability) -> Option<String> {
        untended(capability)
    }

    /// Cuts links, until faults are undone; these cuts take the place of those that there are. Returns when they are done.
    ///
    /// # Errors
    /// When the target cannot, or could not: then nothing is cut.
    async fn cut(&self, _cuts: &[Cut]) -> Result<(), TargetError> {
        Err(TargetError::Usage("this target cannot cut links".into()))
    }

    /// Does something to the deployment as a whole; returns when it has been done (for stops: when the servers have ended).
    ///
    /// # Errors
    /// When it could not be done; what was half done is undone by [`Target::undo_faults`].
    async fn upheave(&self, upheaval: &Upheaval) -> Result<(), TargetError> {
        let lacking = upheaval.capability();
        Err(TargetError::Usage(format!("this target has no {lacking:?}")))
    }

    /// Undoes every fault that lasts ([`Fault::KeepAway`], [`Fault::Kill`], [`Fault::Pause`], [`Fault::Disconnect`],
    /// [`Fault::LoseVolume`]), every [`Cut`], and every [`Upheaval`] that lasts. Cheap when there is none.
    ///
    /// # Errors
    /// When one could not be undone.
    async fn undo_faults(&self) -> Result<(), TargetError>;

    /// Servers beside the deployment, of the same program and configuration: a target of its own, to be prepared and
    /// released like any other. [`Target::release`] of this target releases those that are left.
    ///
    /// # Errors
    /// When the target cannot make any.
    async fn scratch(&self, _scratch: &Scratch) -> Result<std::sync::Arc<dyn Target>, TargetError> {
        Err(TargetError::Usage(
            "this target makes no servers beside the deployment".into(),
        ))
    }

    /// Runs a program where a server runs, for at most `limit`: with the network that the server has, in its container
    /// or on its machine. What is secret goes by `environment`, never by `command`.
    ///
    /// # Errors
    /// When it could not be run to its end. Its own exit status is no error.
    async fn exec(
        &self,
        member: &Member,
        _command: &[&str],
        _environment: &[(&str, &Secret)],
        _limit: Duration,
    ) -> Result<Execution, TargetError> {
        Err(TargetError::Usage(format!(
            "this target runs no programs beside {member}"
        )))
    }

    /// The folder on this machine that holds a server's data (`dir`), where the suite can reach it.
    fn data_folder(&self, _member: &Member) -> Option<std::path::PathBuf> {
        None
    }

    /// The Kubernetes side of the deployment, where there is one.
    fn deployment(&self) -> Option<&dyn Deployment> {
        None
    }

    /// Writes what the platform knows (pods, events, logs) as files below `folder`. Never fails as a whole: what cannot
    /// be had is said in a file.
    async fn collect_evidence(&self, folder: &Path);

    /// Removes everything that the run made.
    ///
    /// # Errors
    /// When something is left behind: the text names it and how to remove it.
    async fn release(&self) -> Result<(), TargetError>;
}

/// Why a target that starts servers, or finds them, and leaves them alone is not [`Capability::Tended`].
fn untended(capability: Capability) -> Option<String> {
    let reason = "nothing looks after these servers, and alone they do not find each other again";
    (capability == Capability::Tended).then(|| reason.into())
}

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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

    /// The name of the pod whose hook runs the bootstrap.
    fn bootstrap_pod(&self) -> String;

    /// The bootstrap's log: the hook's own log file where the descriptor names one and the container still has it, else
    /// the container's log.
    ///
    /// # Errors
    /// When neither can be had.
    async fn bootstrap_log(&self) -> Result<String, TargetError>;

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

    /// Makes the container of a pod start again in place (its server is stopped; the pod stays). Returns when the new
    /// container runs.
    ///
    /// # Errors
    /// When it could not be done within `limit`.
    async fn restart_container(&self, pod: &str, limit: Duration) -> Result<(), TargetError>;

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
    /// a server's ([`Target::exec`]).
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

    /// As [`Target::connect`].
    ///
    /// # Errors
    /// As [`Target::connect`].
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_itself_to_nobody() {
        let secret = Secret::new("p\"w");
        assert_eq!(format!("{secret:?}"), "<password>");
        assert_eq!(secret.redact("requirepass p\"w"), "requirepass <password>");
        assert_eq!(secret.redact(r#"{"a":"p\"w"}"#), r#"{"a":"<password>"}"#);
        assert_eq!(
            secret.redact(r#"requirepass "\x70\x22\x77""#),
            r#"requirepass "<password>""#
        );
        assert_eq!(Secret::new("").redact("text"), "text");
    }
}

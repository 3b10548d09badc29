//! Targets: the deployment under test, and how it is reached, broken and put back. Here is what every target has in
//! common; each kind of target has a file of its own. Targets never import cases.

pub mod addresses;
mod command;
mod cut;
pub mod descriptor;
pub mod docker;
mod faults;
mod filter;
mod folder;
mod kept;
pub mod kind;
pub mod kubernetes;
mod netns;
mod objects;
mod plain;
mod platform;
pub mod processes;
pub(crate) mod redis_conf;
mod tls;
mod volume;

pub use self::cut::{Cut, Traffic, Way};
pub use self::faults::{Fault, Upheaval};
pub use self::objects::{Budget, Host, Objects};
pub use self::platform::{
    Change, Claim, Companion, DeployedVariant, Deployment, Event, Execution, LiveKind, Pod, Scaling, Variant,
};

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

    /// The user whose password that is, where it is not `default`'s.
    fn user(&self) -> Option<String> {
        None
    }

    /// What a command-line client (`redis-cli`) must be given where a server runs, or in a companion, to speak to the
    /// servers: the options of TLS, where they speak it.
    ///
    /// # Errors
    /// [`TargetError::Usage`] where no client there can.
    async fn client_options(&self, _member: &Member) -> Result<Vec<String>, TargetError> {
        Ok(Vec::new())
    }

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
        plain::untended(capability)
    }

    /// Why nothing that was judged holds, if something came in between.
    fn spoilt(&self) -> Option<String> {
        None
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

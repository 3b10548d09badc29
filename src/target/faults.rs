//! What a disruptive case may have a target do: faults of one node, upheavals of the whole deployment.

use crate::case::Capability;
use crate::cluster::node::Member;
use serde::Serialize;
use std::fmt;

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
    /// The platform is to make every server anew from the image that the user names. Returns when it has been told. It
    /// cannot be undone: an older server need not read what a newer one has written.
    Upgrade,
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
            Self::Upgrade => Capability::Upgrade,
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
            Self::Upgrade => write!(f, "the platform was told to make every server anew from another image"),
            Self::Delete => write!(f, "what makes the servers was deleted, all but their volumes"),
            Self::SwapAddresses(one, other) => write!(f, "{one} and {other} got the address of each other"),
            Self::LoseApi => write!(f, "the platform's API answers nobody"),
            Self::Drain(host) => write!(f, "{host} was drained, and is given no pods"),
            Self::FreezeHost(host) => write!(f, "{host} was frozen with all that runs on it"),
            Self::RestartHost(host) => write!(f, "{host} was started again"),
        }
    }
}

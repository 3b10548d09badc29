//! What a case is: one requirement, what it needs, and the code that checks it.
//!
//! A case is a value in a static table, so that it can be listed, explained, selected and counted without a cluster.

use crate::cluster::view::Shape;
use crate::context::Context;
pub use crate::feature::Feature;
use crate::verdict::Outcome;
use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The identifier of a case, as in the catalogue: `SLOT-03`. Written down, never counted and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CaseId(pub &'static str);

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl CaseId {
    /// The chapter the case belongs to: `SLOT` of `SLOT-03`.
    pub fn chapter(&self) -> &'static str {
        self.0.split('-').next().unwrap_or(self.0)
    }
}

/// How binding the requirement is, in the words of RFC 2119.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A failure makes the deployment not conformant.
    Must,
    /// A failure counts only with `--strict`.
    Should,
}

/// Which part of the catalogue a case belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The wire protocol, on any deployment.
    Core,
    /// Optional, or dependent on the version.
    Extended,
    /// Needs the Kubernetes API.
    Kubernetes,
    /// Faults.
    Chaos,
}

/// The six assertions that the project started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Seed {
    /// Slot coverage.
    A1,
    /// Replica pairing.
    A2,
    /// Password enforcement.
    A3,
    /// Hash tags and colocation.
    A4,
    /// Failover after deleting a master's pod.
    A5,
    /// Bootstrap by the postStart hook.
    A6,
}

impl Seed {
    /// All six, in order.
    pub const ALL: [Self; 6] = [Self::A1, Self::A2, Self::A3, Self::A4, Self::A5, Self::A6];

    /// What the assertion says, in a few words.
    pub fn title(&self) -> &'static str {
        match self {
            Self::A1 => "slot coverage",
            Self::A2 => "replica pairing",
            Self::A3 => "password enforcement",
            Self::A4 => "hash tags and colocation",
            Self::A5 => "failover after a master's pod is deleted",
            Self::A6 => "bootstrap by the postStart hook",
        }
    }
}

/// What a case does to the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Impact {
    /// It only reads.
    ReadOnly,
    /// It writes keys of its own, and removes them.
    Writes,
    /// It leaves the deployment alone: it makes servers or pods of its own beside it, and does with them what it likes.
    Apart,
    /// It breaks nodes or links, or changes the topology, and puts all back.
    Disruptive,
}

impl fmt::Display for Impact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ReadOnly => "read-only",
            Self::Writes => "writes",
            Self::Apart => "apart",
            Self::Disruptive => "disruptive",
        })
    }
}

/// What a target can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// Stop a node gracefully and let the platform bring it back.
    Restart,
    /// Stop a node gracefully and keep it away until told otherwise.
    KeepAway,
    /// Kill a server's process without warning.
    Crash,
    /// Kill a server's process without warning and keep it away until told otherwise.
    Kill,
    /// Freeze a server's process.
    Pause,
    /// Ask the Kubernetes API about the deployment: pods, events, logs.
    Kubernetes,
    /// Make an altered copy of the deployment beside it.
    Variant,
    /// Drop packets on chosen links between servers of the deployment.
    CutLink,
    /// Drop packets to the bus ports of a copy of the deployment.
    BlockBus,
    /// Stop a node and bring it back under another address, with its data.
    NewAddress,
    /// Take a node off the network, clients and bus, and put it back.
    Disconnect,
    /// Lose all that a server has on disk, and let it come back empty.
    LoseVolume,
    /// Have the platform evict a node, as a drain does.
    Evict,
    /// Strike a node off the platform's list at once, whether its server has ended or not.
    ForceDelete,
    /// Give servers of its own a volume of a limited size.
    SmallVolume,
    /// Make servers of its own beside the deployment, from the same configuration.
    Scratch,
    /// Run a program where a server runs: the deployment's own command-line client, for example.
    Exec,
    /// Make pods of its own in the deployment's namespace, which are no members of it, and run programs in them.
    Companion,
    /// Read and change the files of a server that is stopped.
    Files,
    /// Something of the deployment's own looks after its servers, a script or an operator: it is more than its servers,
    /// which alone never find each other again once all addresses have changed.
    Tended,
    /// Change how many servers there are to be, down to none, and take that back.
    Scale,
    /// Have the platform make every server anew, as it does for a change of what they are made from.
    RollOut,
    /// Have the platform make every server anew from another image, which the user names.
    Upgrade,
    /// Delete what makes the servers, all but their volumes, and apply it again.
    Reapply,
    /// Stop two servers and bring each back, with its data, under the address of the other.
    SwapAddresses,
    /// Have the API of the platform answer nobody, while the servers run.
    LoseApi,
    /// Drain one of several hosts (Kubernetes nodes), as for its maintenance.
    Drain,
    /// Freeze one of several hosts (Kubernetes nodes) with all that runs on it, and start one again.
    LoseHost,
    /// Its masters have replicas, by its declared shape.
    Replicas,
    /// It has more than one shard, by its declared shape.
    Shards,
    /// It has more than one node, by its declared shape.
    Peers,
}

impl Capability {
    /// Why a deployment of this shape lacks it; `None` where the shape does not decide that.
    pub fn lacking_in(self, shape: Shape) -> Option<&'static str> {
        match self {
            Self::Replicas if shape.replicas_per_master == 0 => Some("the deployment has no replicas"),
            Self::Shards if shape.masters < 2 => Some("the deployment has one shard"),
            Self::Peers if shape.nodes() < 2 => Some("the deployment has one node"),
            _ => None,
        }
    }

    /// Whether the shape of a deployment decides it, and not what reaches it.
    pub fn is_of_shape(self) -> bool {
        matches!(self, Self::Replicas | Self::Shards | Self::Peers)
    }
}

/// A row of the catalogue that is no case on any target.
#[derive(Clone, Copy, Debug)]
pub struct Omission {
    /// The catalogue's identifier.
    pub id: CaseId,
    /// A fact in the present tense, at most 80 characters.
    pub title: &'static str,
    /// One normative sentence with MUST or SHOULD.
    pub requirement: &'static str,
    /// Where the requirement comes from.
    pub source: &'static str,
    /// How binding it is.
    pub level: Level,
    /// The part of the catalogue.
    pub profile: Profile,
    /// The seed assertions that it belongs to.
    pub seed: &'static [Seed],
    /// Why there is no case, and which cases show the harm all the same.
    pub reason: &'static str,
}

/// The body of a case.
pub type Body = for<'a> fn(&'a Context) -> LocalBoxFuture<'a, Outcome>;

/// One requirement and the code that checks it.
pub struct Case {
    /// The catalogue's identifier.
    pub id: CaseId,
    /// A fact in the present tense, at most 80 characters.
    pub title: &'static str,
    /// One normative sentence with MUST or SHOULD.
    pub requirement: &'static str,
    /// Where the requirement comes from: a section of the specification, a command page, the seed's line.
    pub source: &'static str,
    /// How binding it is; agrees with the requirement's wording.
    pub level: Level,
    /// The part of the catalogue.
    pub profile: Profile,
    /// The seed assertions that it belongs to.
    pub seed: &'static [Seed],
    /// What it does to the deployment.
    pub impact: Impact,
    /// What the target must be able to do.
    pub needs: &'static [Capability],
    /// What the implementation must offer.
    pub features: &'static [Feature],
    /// The time limit, as a formula over the timings (see `timing.rs`), or `-`.
    pub bound: &'static str,
    /// The controls that must make it fail.
    pub controls: &'static [&'static str],
    /// How it is checked: one or two sentences for `explain`, with the expected replies.
    pub method: &'static str,
    /// The body.
    pub run: Body,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("id", &self.id).finish_non_exhaustive()
    }
}

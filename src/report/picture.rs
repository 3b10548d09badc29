//! The cluster at one moment, as every node told it: who is what, who replicates whom and where, and who owns which slots.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What all nodes said of the cluster at about one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    /// Which moment of the run: `before the cases` or `after the cases`.
    pub moment: String,
    /// When the nodes had answered, in UTC.
    #[schemars(with = "String")]
    pub at: jiff::Timestamp,
    /// The nodes that answered, by their own word, in the order of their names.
    pub nodes: Vec<Pictured>,
    /// Who owns which slots: one map where all nodes say the same. The one that most nodes tell comes first.
    pub maps: Vec<SlotMap>,
    /// The nodes that did not answer.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub silent: Vec<Silent>,
}

/// A node, by its own word (`ROLE`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pictured {
    /// Its name.
    pub name: String,
    /// Whether it is a master.
    pub master: bool,
    /// Of a replica: the name of its master, or its address where nobody is known there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replicates: Option<String>,
    /// Of a replica: its link to the master; `connected` is well.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link: Option<String>,
    /// The Kubernetes node that it runs on; absent where there is no Kubernetes, or its API did not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
}

/// One answer to the question who owns which slots (`CLUSTER NODES`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlotMap {
    /// The nodes that say so.
    pub told_by: Vec<String>,
    /// The owners, in the order of their first slots.
    pub owners: Vec<Owner>,
}

/// A node and the slots that are said to be its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    /// The node's name, or the beginning of its id where no server is known by it.
    pub name: String,
    /// Ranges of slots, as few as possible, ascending: first and last.
    pub slots: Vec<(u16, u16)>,
}

/// A node that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Silent {
    /// Its name.
    pub name: String,
    /// What came instead of an answer.
    pub why: String,
}

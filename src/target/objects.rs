//! What a platform shows of the objects that a deployment is made of, and of what they run on.

use crate::manifest::Manifest;
use std::collections::BTreeMap;

/// The objects of a deployment, as its platform has them.
#[derive(Clone, Debug)]
pub struct Objects {
    /// What is there, without what the platform adds: states, managers of fields, the namespace. Its file is the place.
    /// Passwords are taken out, see [`crate::manifest::Document::redact`].
    pub live: Manifest,
    /// What makes the servers: `StatefulSet/redis-cluster`. Nothing where their pods were made one by one.
    pub workloads: Vec<String>,
    /// The manifest that this run has applied, with its parameters set.
    pub applied: Option<Manifest>,
    /// The kinds that may not be looked at, each with the right that is missing.
    pub refused: BTreeMap<String, String>,
}

/// A Kubernetes node as cases see it: a host, since a node is a server here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its labels, by which pods choose it.
    pub labels: BTreeMap<String, String>,
    /// The zone that its labels tell.
    pub zone: Option<String>,
    /// Whether an ordinary pod can be given to it: it is Ready, not cordoned, and has no taint that keeps pods away.
    pub schedulable: bool,
}

/// A limit on how many pods may be evicted at once, as the platform counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Its name.
    pub name: String,
    /// How many may go now: `status.disruptionsAllowed`.
    pub allowed: i64,
    /// How many pods it counts: `status.expectedPods`.
    pub pods: i64,
}

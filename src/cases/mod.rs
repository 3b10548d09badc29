//! The cases, one file a chapter of the catalogue; this is the contents page.

pub mod authentication;
pub mod bootstrap;
pub mod consistency;
pub mod failover;
pub mod hash;
pub mod kubernetes;
pub mod multi;
pub mod networking;
pub mod omissions;
pub mod operations;
pub mod partitions;
pub mod persistence;
pub mod redirection;
pub mod replication;
pub mod sharding;
pub mod slots;
pub mod topology;
pub mod workload;

use crate::case::Case;

/// Every chapter, in the catalogue's order.
pub static CHAPTERS: &[&[Case]] = &[
    bootstrap::CASES,
    slots::CASES,
    replication::CASES,
    authentication::CASES,
    hash::CASES,
    redirection::CASES,
    multi::CASES,
    failover::CASES,
    partitions::CASES,
    consistency::CASES,
    sharding::CASES,
    topology::CASES,
    persistence::CASES,
    workload::CASES,
    kubernetes::CASES,
    networking::CASES,
    operations::CASES,
];

/// Every case, in the catalogue's order.
pub fn all() -> impl Iterator<Item = &'static Case> {
    CHAPTERS.iter().flat_map(|chapter| chapter.iter())
}

/// The case with an id, in upper or lower case.
pub fn find(id: &str) -> Option<&'static Case> {
    all().find(|case| case.id.0.eq_ignore_ascii_case(id))
}

//! `redis-cluster-conformance` says, with evidence, whether a Redis Cluster deployment keeps its promises.

pub mod case;
pub mod cases;
pub mod check;
pub mod cluster;
pub mod context;
pub mod evidence;
pub mod failover;
pub mod progress;
pub mod report;
pub mod target;
pub mod timing;
pub mod verdict;

//! `redis-cluster-conformance` says, with evidence, whether a Redis Cluster deployment keeps its promises.

pub mod case;
pub mod cases;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod context;
pub mod evidence;
pub mod exit;
pub mod failover;
pub mod manifest;
pub mod progress;
pub mod report;
pub mod request;
pub mod runner;
pub mod selection;
pub mod settle;
pub mod surroundings;
pub mod target;
pub mod timing;
pub mod verdict;
pub mod workload;

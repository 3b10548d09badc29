//! `redis-cluster-conformance` says, with evidence, whether a Redis Cluster deployment keeps its promises.
//!
//! The map of this tree, one way only: `cli` and `tests/conformance.rs` → [`runner`] → [`cases`] → [`check`], [`context`] →
//! [`cluster`] (what is known of Redis) and [`target`] (reaching the deployment). [`report`] sees a finished run only.
//!
//! - **Asked for:** [`cli`], [`selection`] (which cases), [`request`] (which target), [`surroundings`] (what the machine
//!   has), [`exit`] (the codes).
//! - **The engine:** [`runner`], [`settle`] (between the cases), [`evidence`] (of cases that did not pass), [`progress`].
//! - **Cases:** [`case`] (what one is), [`cases`] (all of them), [`context`] (what one is given), [`check`]
//!   (expectations and waits), [`timing`] (every time limit), [`workload`] (the continuous writer), [`failover`] (one
//!   observed failover for many cases), [`verdict`].
//! - **The deployment:** [`cluster`], [`target`], [`manifest`].
//! - **Afterwards:** [`report`].

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

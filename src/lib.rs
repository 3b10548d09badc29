//! `redis-cluster-conformance` says, with evidence, whether a Redis Cluster deployment keeps its promises.
//!
//! The map of this tree, one way only: `cli` and `tests/conformance.rs` → [`runner`] → [`cases`] → [`check`], [`context`] →
//! [`cluster`] (what is known of Redis) and [`target`] (reaching the deployment). [`report`] sees a finished run only.
//!
//! - **Asked for:** [`cli`], [`selection`] and [`budget`] (which cases), [`contents`] (the cases as people read them), [`request`] (which target), [`known`] (which failures are known), [`matrix`] (the cells of many runs), [`surroundings`] (what the machine
//!   has), [`exit`] (the codes).
//! - **The engine:** [`runner`], [`settle`] (between the cases), [`evidence`] (of cases that did not pass), [`progress`] and [`log`].
//! - **Cases:** [`case`] (what one is), [`cases`] (all of them), [`context`] (what one is given), [`check`]
//!   (expectations and waits), [`feature`] (what servers may lack), [`timing`] (every time limit), [`workload`] (the continuous writer), [`failover`] (one
//!   observed failover for many cases), [`joining`] (nodes that meet), [`reintegration`] (a server that has lost its volume), [`migration`] (slots
//!   moved from one master to another), [`moving`] (nodes that change their addresses, for several), [`outage`] (one lost
//!   shard, for several), [`partition`] (one observed partition, for several), [`crash`] (servers that are killed, for several), [`register`] (whether operations on a key
//!   happened in one order), [`rolling`] (one rolling restart, for several), [`away`] (all servers away at once and back, for several), [`soak`] (a long time under load, for several),
//!   [`trials`] (one fault done several times, measured), [`verdict`].
//! - **The deployment:** [`cluster`], [`target`], [`manifest`], [`lint`] (what a manifest says before anything runs).
//! - **What is kept of a case:** [`timeline`] (what happened when, by whose word). Of the cluster: [`picture`] (what every node says of it).
//! - **Afterwards:** [`report`].
//! - **The proof that cases can fail:** [`controls`].

pub mod away;
pub mod budget;
pub mod case;
pub mod cases;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod contents;
pub mod context;
pub mod controls;
pub mod crash;
pub mod evidence;
pub mod exit;
pub mod failover;
pub mod feature;
pub mod fence;
pub mod hook;
pub mod inside;
pub mod joining;
pub mod known;
pub mod lint;
pub mod log;
pub mod loss;
pub mod manifest;
pub mod matrix;
pub mod migration;
pub mod moving;
pub mod outage;
pub mod partition;
pub mod picture;
pub mod placement;
pub mod probe;
pub mod progress;
pub mod register;
pub mod reintegration;
pub mod report;
pub mod request;
pub mod rolling;
pub mod runner;
pub mod scaling;
pub mod selection;
pub mod settle;
pub mod soak;
pub mod surroundings;
pub mod target;
pub mod timeline;
pub mod timing;
pub mod trials;
pub mod unready;
pub mod verdict;
pub mod workload;

//! Writing at a rate, whatever the answers: to every shard as a client of the whole cluster, and to nodes directly.
//!
//! Each writer has a key and a connection of its own, and its writes are numbered. They are due at even intervals, and a
//! server that stalls does not slow that down: what it did not do stands in the ledger, at the instant when it was due.

use super::lane::{Way, write_on};
use super::pending::Pending;
use super::route::Route;
use super::schedule::Schedule;
use super::{LIST, Ledger, not_begun};
use crate::cluster::node::Member;
use crate::context::Context;
use crate::verdict::Stop;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// How many writes a second each writer does, where no rate is asked for.
const EACH: u32 = 100;

/// How much is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Writes a second, of all writers together; without it, 100 of each writer.
    pub operations: Option<NonZeroU32>,
    /// How many writers there are for each shard, and for each node that is written to directly.
    pub writers: NonZeroU16,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            operations: None,
            writers: NonZeroU16::MIN,
        }
    }
}

/// Writers at work. When dropped, they end by themselves.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<(Ledger, Duration)>>,
    direct: Vec<(String, JoinHandle<(Ledger, Duration)>)>,
    began: Instant,
}

/// What they did.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What was written as a client of the whole cluster: the ledgers of each slot, in the order asked for.
    pub clients: Vec<Ledger>,
    /// What was written to one node each, by the nodes' names.
    pub by_node: Vec<(String, Ledger)>,
    /// When the writers began.
    pub began: Instant,
    /// When they were stopped.
    pub ended: Instant,
    /// The longest time that a write was sent later than it was due, though nobody but the suite itself held it up.
    pub latest: Duration,
}

impl Load {
    /// The keys that [`Self::start`] writes.
    pub fn keys(cx: &Context, rate: Rate, slots: &[u16], nodes: &[(Member, u16)]) -> Vec<String> {
        let clients = slots.iter().flat_map(|slot| of_slot(cx, rate, *slot));
        let direct = nodes.iter().flat_map(|(node, slot)| of_node(cx, rate, node, *slot));
        clients.chain(direct).map(|ledger| ledger.key).collect()
    }

    /// Starts writing to each of `slots` as a client of the whole cluster, and to each of `nodes`, in a slot that is meant
    /// for it. Returns when each slot has had an acknowledged write by every writer.
    ///
    /// # Errors
    /// When a slot's first write is not acknowledged within the patience for one reply.
    pub async fn start(cx: &Context, rate: Rate, slots: &[u16], nodes: &[(Member, u16)]) -> Result<Self, Stop> {
        let target = &cx.shared().target;
        let (stop, stopped) = watch::channel(false);
        let members = cx.members().await?;
        let writers = (slots.len() + nodes.len()) * usize::from(rate.writers.get());
        let by_default = EACH.saturating_mul(u32::try_from(writers).unwrap_or(u32::MAX));
        let operations = rate
            .operations
            .or(NonZeroU32::new(by_default))
            .unwrap_or(NonZeroU32::MIN);
        let began = Instant::now();
        let mut schedules = Schedule::of_all(began, operations, writers);
        let mut load = Self {
            stop,
            clients: Vec::new(),
            direct: Vec::new(),
            began,
        };
        let mut firsts = Vec::new();
        for ledger in slots.iter().flat_map(|slot| of_slot(cx, rate, *slot)) {
            let mut route = Route::new(target.clone());
            route.entries = members.iter().map(|member| member.address.clone()).collect();
            let way = Way::Owner {
                route: Box::new(route),
                key: ledger.key.clone(),
            };
            let Some(schedule) = schedules.next() else { break };
            let (first, acked) = oneshot::channel();
            firsts.push((ledger.slot, acked));
            let pending = Pending::new(ledger, schedule, true);
            let task = tokio::spawn(write_on(way, pending, stopped.clone(), first));
            load.clients.push(task);
        }
        let direct = nodes
            .iter()
            .flat_map(|(node, slot)| of_node(cx, rate, node, *slot).map(move |ledger| (node, ledger)));
        for ((node, ledger), schedule) in direct.zip(schedules) {
            let way = Way::Node {
                target: target.clone(),
                node: node.clone(),
            };
            // A replica acknowledges nothing: nobody waits for that.
            let (first, _) = oneshot::channel();
            let pending = Pending::new(ledger, schedule, false);
            let task = tokio::spawn(write_on(way, pending, stopped.clone(), first));
            load.direct.push((node.name.clone(), task));
        }
        let patience = cx.patience();
        for (slot, acked) in firsts {
            if !matches!(tokio::time::timeout(patience, acked).await, Ok(Ok(()))) {
                let loaded = load.stop().await;
                return Err(not_begun(&loaded.clients, slot, (loaded.began, loaded.ended), patience));
            }
        }
        Ok(load)
    }

    /// Stops, and returns what was done.
    pub async fn stop(self) -> Loaded {
        // The receivers may be gone: then the tasks have ended.
        let _ = self.stop.send(true);
        let mut loaded = Loaded {
            clients: Vec::new(),
            by_node: Vec::new(),
            began: self.began,
            ended: Instant::now(),
            latest: Duration::ZERO,
        };
        for task in self.clients {
            if let Ok((ledger, latest)) = task.await {
                loaded.clients.push(ledger);
                loaded.latest = loaded.latest.max(latest);
            }
        }
        for (name, task) in self.direct {
            if let Ok((ledger, latest)) = task.await {
                loaded.by_node.push((name, ledger));
                loaded.latest = loaded.latest.max(latest);
            }
        }
        loaded
    }
}

/// The ledgers that clients of the whole cluster write in a slot.
fn of_slot(cx: &Context, rate: Rate, slot: u16) -> impl Iterator<Item = Ledger> + '_ {
    (1..=rate.writers.get()).map(move |writer| ledger(cx, slot, &format!("{LIST}-{writer}")))
}

/// The ledgers that are written at a node.
fn of_node<'a>(cx: &'a Context, rate: Rate, node: &'a Member, slot: u16) -> impl Iterator<Item = Ledger> + 'a {
    (1..=rate.writers.get()).map(move |writer| ledger(cx, slot, &format!("by-{}-{writer}", node.name)))
}

fn ledger(cx: &Context, slot: u16, name: &str) -> Ledger {
    Ledger {
        slot,
        key: cx.key_in(slot, name),
        writes: Vec::new(),
    }
}

//! What every node says, from before a fault until all is whole again: of the master that was stopped, in its `CLUSTER
//! NODES`, and of one key in the master's shard, whose value never changes.

use super::Shard;
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::node::{Endpoint, Member, parse_nodes};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::cluster::view::ClusterView;
use crate::context::Context;
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The pause between two looks at one node.
const PAUSE: Duration = Duration::from_millis(100);

/// What a node says of another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// No flag.
    #[default]
    Fine,
    /// `fail?`: it does not answer this node.
    Suspected,
    /// `fail`: most masters say so.
    Failed,
}

/// A change of what a survivor says of the victim.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// The survivor.
    pub by: String,
    /// What it says from now on.
    pub health: Health,
    /// When it was last asked without saying so yet.
    pub before: Instant,
    /// When it said so.
    pub seen: Instant,
}

/// What the watch gave.
#[derive(Debug, Default)]
pub struct Watched {
    /// The survivors.
    pub survivors: Vec<String>,
    /// When the victim was last asked with success, before it first gave no answer.
    pub alive: Option<Instant>,
    /// Every change, in the order seen.
    pub sightings: Vec<Sighting>,
    /// How the reads of the key ended, and how often: `the value`, `MOVED`, `CLUSTERDOWN`, `no connection`.
    pub reads: BTreeMap<String, usize>,
    /// Answers that no client should be given, each told once.
    pub strange: BTreeSet<String>,
}

/// A watch at work.
pub(super) struct Watch {
    members: Vec<Member>,
    /// As which a redirection may name them.
    endpoints: Vec<Endpoint>,
    victim: (String, String),
    key: String,
    value: String,
    watched: Mutex<Watched>,
}

impl Watch {
    /// A watch of all nodes of a view; `pair` is a key of the shard, and its value.
    pub(super) fn new(view: &ClusterView, shard: &Shard, pair: (String, String)) -> Self {
        let members: Vec<Member> = view.nodes.iter().map(|node| node.member.clone()).collect();
        let names = members.iter().map(|member| member.name.clone());
        let survivors = names.filter(|name| *name != shard.master.name).collect();
        Self {
            members,
            endpoints: view.nodes.iter().map(|node| view.endpoint_of(node)).collect(),
            victim: (shard.master.name.clone(), shard.master_id.clone()),
            key: pair.0,
            value: pair.1,
            watched: Mutex::new(Watched {
                survivors,
                ..Watched::default()
            }),
        }
    }

    pub(super) fn into_watched(self) -> Watched {
        self.watched.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers that are left.
    pub(super) fn survivors(&self) -> Vec<Member> {
        let others = self.members.iter().filter(|member| member.name != self.victim.0);
        others.cloned().collect()
    }

    /// The survivors that do not flag the victim `fail`.
    pub(super) fn unflagged(&self) -> Vec<String> {
        let watched = self.lock();
        let failed = |name: &String| {
            let last = watched.sightings.iter().rfind(|sighting| sighting.by == *name);
            last.is_some_and(|sighting| sighting.health == Health::Failed)
        };
        watched.survivors.iter().filter(|name| !failed(name)).cloned().collect()
    }

    /// Watches until it is dropped.
    pub(super) async fn on(&self, cx: &Context) {
        join_all(self.members.iter().map(|member| self.follow(cx, member))).await;
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(&self, cx: &Context, member: &Member) {
        let mut connection = None;
        let (mut health, mut before) = (Health::Fine, Instant::now());
        let mut is_victim = member.name == self.victim.0;
        loop {
            let asked = Instant::now();
            match self.ask(cx, &mut connection, member).await {
                Ok((nodes, read)) => {
                    self.judge(member, &read);
                    if is_victim {
                        self.lock().alive = Some(asked);
                    }
                    let said = self.health(&nodes).filter(|_| member.name != self.victim.0);
                    if let Some(said) = said.filter(|said| *said != health) {
                        health = said;
                        self.lock().sightings.push(Sighting {
                            by: member.name.clone(),
                            health,
                            before,
                            seen: Instant::now(),
                        });
                    }
                    before = asked;
                }
                Err(error) => {
                    is_victim = false;
                    self.count(kind(&error));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask(
        &self,
        cx: &Context,
        connection: &mut Option<Connection>,
        member: &Member,
    ) -> Result<(Reply, Reply), LinkError> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => cx.connect(&member.address).await?,
        };
        let questions = [vec!["CLUSTER", "NODES"], vec!["GET", &self.key]];
        let mut replies = open.pipeline(&questions).await?.into_iter();
        *connection = Some(open);
        Ok((
            replies.next().unwrap_or(Reply::Nil),
            replies.next().unwrap_or(Reply::Nil),
        ))
    }

    /// What a node says of the victim; nothing where it does not know it or says nothing at all.
    fn health(&self, nodes: &Reply) -> Option<Health> {
        let lines = parse_nodes(nodes).ok()?;
        let line = lines.iter().find(|line| line.id == self.victim.1)?;
        Some(match (line.is("fail"), line.is("fail?")) {
            (true, _) => Health::Failed,
            (false, true) => Health::Suspected,
            (false, false) => Health::Fine,
        })
    }

    fn judge(&self, member: &Member, read: &Reply) {
        if read.text() == Some(&self.value) {
            return self.count("the value");
        }
        let known = |address: &Address| self.endpoints.iter().any(|endpoint| endpoint.is(address));
        match (Redirect::parse(read), read.error_prefix()) {
            (Some(moved), _) if known(&moved.address) => self.count("MOVED"),
            (None, Some(prefix)) if CLEAN.contains(&prefix) => self.count(prefix),
            _ => {
                let strange = format!("{member}: GET {} -> {read}", self.key);
                self.lock().strange.insert(strange);
            }
        }
    }

    fn count(&self, kind: &str) {
        *self.lock().reads.entry(kind.to_owned()).or_default() += 1;
    }
}

/// The errors that a server may give to clients while a master is gone: each says that the command was not done. The
/// last two are given by a server that loads its data, and by one that was told to refuse writes with no replica.
pub(super) const CLEAN: [&str; 5] = ["CLUSTERDOWN", "MASTERDOWN", "MOVED", "LOADING", "NOREPLICAS"];

fn kind(error: &LinkError) -> &'static str {
    match error {
        LinkError::Refused { .. } | LinkError::Unreachable { .. } => "no connection",
        LinkError::Closed { .. } => "connection closed",
        LinkError::TimedOut { .. } => "no reply in time",
        LinkError::Nonsense { .. } => "no login",
    }
}

impl Watched {
    /// What a writer was told that no client should be: replies that are no error, and errors of another kind.
    pub fn strange_refusals<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
        let clean = |text: &str| {
            let prefix = text.trim_start_matches('-').split(' ').next().unwrap_or_default();
            text.starts_with('-') && CLEAN.contains(&prefix)
        };
        texts.filter(|text| !clean(text)).map(str::to_owned).collect()
    }

    /// The first change of a survivor to at least this state.
    pub fn first(&self, survivor: &str, health: Health) -> Option<&Sighting> {
        let mut of_survivor = self.sightings.iter().filter(|sighting| sighting.by == survivor);
        of_survivor.find(|sighting| sighting.health >= health)
    }
}

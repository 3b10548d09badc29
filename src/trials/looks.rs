//! What every node says of the shard that is hit, asked again and again from before the fault until all is whole.

use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::node::{Member, Role, parse_fields, parse_nodes, parse_role};
use crate::cluster::resp::Reply;
use crate::context::Context;
use crate::failover::Health;
use futures::future::join_all;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The pause between two looks at one node: with the look itself it stays below 10 ms on loopback.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a node may take to answer before it counts as silent. It is asked on a connection of its own: that keeps
/// nobody else waiting.
const PATIENCE: Duration = Duration::from_millis(1000);

/// What one node said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Whether it answered at all; otherwise all else is as if it knew nothing.
    pub(super) answers: bool,
    /// What it says of the victim.
    pub(super) health: Health,
    /// `cluster_current_epoch`.
    pub(super) current_epoch: u64,
    /// `cluster_my_epoch`.
    pub(super) own_epoch: u64,
    /// Whether it calls itself a master.
    pub(super) master: bool,
    /// Whether it calls itself a replica whose link is connected.
    pub(super) connected: bool,
    /// Whether it read the shard's value to a client that had not sent `READONLY`.
    pub(super) reads: bool,
}

/// A change of what a node says.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The node, as it is named.
    pub(super) node: String,
    /// When it had said so.
    pub(super) at: Instant,
    /// What it says from now on.
    pub(super) said: Said,
}

/// The looks at all nodes.
pub(super) struct Looks {
    members: Vec<Member>,
    victim_id: String,
    key: String,
    value: String,
    seen: Mutex<Seen>,
}

/// What the looks gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Every change, in the order seen.
    pub(super) changes: Vec<Change>,
    /// The longest time between an answer of a node that told something new and its answer before: so well is each moment
    /// known.
    pub(super) coarsest: Duration,
}

impl Looks {
    /// Looks at these nodes; `pair` is a key of the shard that is hit, and its value.
    pub(super) fn new(members: Vec<Member>, victim_id: String, pair: (String, String)) -> Self {
        Self {
            members,
            victim_id,
            key: pair.0,
            value: pair.1,
            seen: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has been seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Whether every node has answered.
    pub(super) fn begun(&self) -> bool {
        let seen = self.lock();
        self.members.iter().all(|member| {
            let mut changes = seen.changes.iter();
            changes.any(|change| change.node == member.name && change.said.answers)
        })
    }

    /// Looks until it is dropped.
    pub(super) async fn on(&self, cx: &Context) {
        join_all(self.members.iter().map(|member| self.follow(cx, member))).await;
    }

    async fn follow(&self, cx: &Context, member: &Member) {
        let mut member = member.clone();
        let mut connection = None;
        let mut last: Option<Said> = None;
        let mut answered: Option<Instant> = None;
        loop {
            let said = self.ask(cx, &mut connection, &mut member).await.unwrap_or_default();
            let at = Instant::now();
            {
                let mut seen = self.lock();
                let before = answered;
                answered = said.answers.then_some(at);
                if last.as_ref() != Some(&said) {
                    if let (Some(before), Some(now)) = (before, answered) {
                        seen.coarsest = seen.coarsest.max(now - before);
                    }
                    seen.changes.push(Change {
                        node: member.name.clone(),
                        at,
                        said: said.clone(),
                    });
                    last = Some(said);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask(
        &self,
        cx: &Context,
        connection: &mut Option<Connection>,
        member: &mut Member,
    ) -> Result<Said, LinkError> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => {
                // A server that was replaced has its name still, but perhaps another address.
                let now = cx.shared().target.members().await.ok();
                if let Some(now) = now.and_then(|all| all.into_iter().find(|other| other.name == member.name)) {
                    *member = now;
                }
                let connected = tokio::time::timeout(PATIENCE, cx.connect(&member.address)).await;
                let silent = |_| LinkError::Unreachable {
                    address: member.address.clone(),
                    reason: "no connection in time".into(),
                };
                connected.map_err(silent)??.with_patience(PATIENCE)
            }
        };
        let questions = [
            vec!["CLUSTER", "INFO"],
            vec!["CLUSTER", "NODES"],
            vec!["ROLE"],
            vec!["GET", &self.key],
        ];
        let replies = open.pipeline(&questions).await?;
        *connection = Some(open);
        Ok(self.said(&replies))
    }

    fn said(&self, replies: &[Reply]) -> Said {
        let [info, nodes, role, read] = replies else {
            return Said::default();
        };
        let fields = parse_fields(info).unwrap_or_default();
        let number = |field: &str| fields.get(field).and_then(|text| text.parse().ok()).unwrap_or(0);
        let lines = parse_nodes(nodes).unwrap_or_default();
        let health = match lines.iter().find(|line| line.id == self.victim_id) {
            Some(line) if line.is("fail") => Health::Failed,
            Some(line) if line.is("fail?") => Health::Suspected,
            Some(_) | None => Health::Fine,
        };
        let role = parse_role(role).ok();
        Said {
            answers: true,
            health,
            current_epoch: number("cluster_current_epoch"),
            own_epoch: number("cluster_my_epoch"),
            master: role.as_ref().is_some_and(Role::is_master),
            connected: matches!(&role, Some(Role::Replica { link, .. }) if link == "connected"),
            reads: read.text() == Some(&self.value),
        }
    }
}

//! Moving slots from one master to another, by the protocol's own means: a slot is opened, its keys are moved, it is
//! assigned. Every step can be taken alone, so that cases can look at what lies between, and everything can be undone.
//!
//! Source: Redis Cluster specification, section Live reconfiguration; Redis command pages CLUSTER SETSLOT and MIGRATE.
//! A node that refuses a step is a mismatch; one that cannot be asked is an error. Both name node, slot and step.

use crate::check::{Look, eventually};
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::node::{Endpoint, Member, NodeId, NodeLine, NodeView};
use crate::cluster::resp::Reply;
use crate::cluster::view::ClusterView;
use crate::context::Context;
use crate::verdict::{Mismatch, Stop};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many keys `MIGRATE` is given at once.
const KEYS_AT_ONCE: usize = 100;
/// How many questions are sent at once.
const QUESTIONS_AT_ONCE: usize = 1000;
/// How long moving a list of slots may take before it is given up. No statement on speed: a watchdog only.
const LONGEST_MOVE: Duration = Duration::from_secs(300);

/// A master that takes part, with a connection to it.
#[derive(Debug)]
pub struct Master {
    /// The server.
    pub member: Member,
    /// Its id.
    pub id: NodeId,
    /// How redirections name it.
    pub endpoint: Endpoint,
    /// An authenticated connection: cases may send on it what they like.
    pub connection: Connection,
}

impl Master {
    async fn of(cx: &Context, view: &ClusterView, node: &NodeView) -> Result<Self, Stop> {
        let line = node
            .myself()
            .ok_or_else(|| anyhow::anyhow!("{}: CLUSTER NODES shows no line of itself", node.member))?;
        Ok(Self {
            member: node.member.clone(),
            id: line.id.clone(),
            endpoint: view.endpoint_of(node),
            connection: cx.connect(&node.member.address).await?,
        })
    }

    /// `CLUSTER SETSLOT`, which the node must take.
    ///
    /// # Errors
    /// A mismatch when it refuses.
    pub async fn set_slot(&mut self, cx: &Context, slot: u16, action: &[&str]) -> Result<(), Stop> {
        let number = slot.to_string();
        let mut command = vec!["CLUSTER", "SETSLOT", &number];
        command.extend_from_slice(action);
        let words = command.join(" ");
        // A server that replicates the change first (Valkey 8) says NOREPLICAS when no replica has confirmed it in time:
        // then nothing has changed, and it may be asked again.
        let (member, connection) = (&self.member, &mut self.connection);
        let what = format!("{words} on {member}");
        let reply = eventually(cx, &what, cx.timing().sync(), async || {
            let reply = connection.call(&command).await;
            Ok(match &reply {
                Ok(reply) if reply.error_prefix() == Some("NOREPLICAS") => Look::NotYet(reply.to_string()),
                // What comes of a connection that failed would be taken for the answer to something else.
                Ok(_) | Err(_) => Look::Reached(reply),
            })
        })
        .await??;
        if reply.is_ok() {
            return Ok(());
        }
        Err(Mismatch::new("+OK", format!("{member}: {words} -> {reply}")).into())
    }

    /// How many keys the node has in a slot.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn count(&mut self, slot: u16) -> Result<usize, Stop> {
        let command = ["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()];
        let reply = self.connection.ask(&command).await?;
        let count = reply.integer().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| anyhow::anyhow!("{}: {} -> {reply}", self.member, command.join(" ")).into())
    }

    /// The names of some of the keys that the node has in a slot.
    async fn keys(&mut self, slot: u16) -> Result<Vec<Vec<u8>>, Stop> {
        let command = ["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &KEYS_AT_ONCE.to_string()];
        let reply = self.connection.ask(&command).await?;
        let names = reply.array().unwrap_or_default().iter();
        Ok(names.filter_map(|name| name.bytes().map(<[u8]>::to_vec)).collect())
    }

    /// `MIGRATE` of keys to another master, with the deployment's password.
    async fn migrate(&mut self, cx: &Context, to: &Address, keys: &[Vec<u8>]) -> Result<Reply, Stop> {
        let (port, patience) = (to.port.to_string(), cx.timing().reply().as_millis().to_string());
        let password = cx.shared().target.password();
        let mut command: Vec<&[u8]> = vec![b"MIGRATE", to.host.as_bytes(), port.as_bytes(), b"", b"0"];
        command.push(patience.as_bytes());
        let user = cx.shared().target.user();
        if let Some(password) = &password {
            command.extend(as_migrate_takes_it(user.as_deref(), password.expose()).map(str::as_bytes));
        }
        command.push(b"KEYS");
        command.extend(keys.iter().map(Vec::as_slice));
        Ok(self.connection.call(&command).await?)
    }
}

/// The words by which MIGRATE is told how to authenticate: with a password, as a user where one is named.
pub fn as_migrate_takes_it<'a>(user: Option<&'a str>, password: &'a str) -> impl Iterator<Item = &'a str> {
    let word = if user.is_some() { "AUTH2" } else { "AUTH" };
    std::iter::once(word).chain(user).chain([password])
}

/// Two masters between which slots are moved, and the others, which are told.
#[derive(Debug)]
pub struct Mover<'a> {
    cx: &'a Context,
    /// The master that slots leave.
    pub source: Master,
    /// The master that slots come to.
    pub destination: Master,
    /// The other masters with slots.
    pub others: Vec<Master>,
}

/// What moving slots took.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// How many slots.
    pub slots: usize,
    /// How many keys.
    pub keys: usize,
    /// How long.
    pub took: Duration,
}

impl<'a> Mover<'a> {
    /// Between the two masters with these ids, as `view` shows them: the destination may have no slots yet.
    ///
    /// # Errors
    /// When one of them is not in the view, or a master cannot be reached.
    pub async fn between(cx: &'a Context, view: &ClusterView, source: &str, destination: &str) -> Result<Self, Stop> {
        let master = async |id: &str| {
            let node = view
                .by_id(id)
                .ok_or_else(|| anyhow::anyhow!("no server has the id {id}"))?;
            Master::of(cx, view, node).await
        };
        let (from, to) = (master(source).await?, master(destination).await?);
        let mut others = Vec::new();
        for node in view.nodes.iter().filter(|node| !node.own_slots().is_empty()) {
            if node.member != from.member && node.member != to.member {
                others.push(Master::of(cx, view, node).await?);
            }
        }
        Ok(Self {
            cx,
            source: from,
            destination: to,
            others,
        })
    }

    /// The same two masters, in the other direction.
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ..self
        }
    }

    /// Opens a slot: the destination is to import it, then the source to migrate it. The other way round, the source
    /// would send clients to a node that knows of nothing.
    ///
    /// # Errors
    /// When a node refuses or cannot be asked.
    pub async fn open(&mut self, slot: u16) -> Result<(), Stop> {
        let (cx, source, destination) = (self.cx, self.source.id.clone(), self.destination.id.clone());
        self.destination.set_slot(cx, slot, &["IMPORTING", &source]).await?;
        self.source.set_slot(cx, slot, &["MIGRATING", &destination]).await
    }

    /// Moves these keys of an open slot.
    ///
    /// # Errors
    /// When the source refuses, or has none of them.
    pub async fn move_keys(&mut self, slot: u16, keys: &[impl AsRef<[u8]>]) -> Result<(), Stop> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.as_ref().to_vec()).collect();
        let to = &self.destination.member.address;
        let reply = self.source.migrate(self.cx, to, &keys).await?;
        if reply.is_ok() {
            return Ok(());
        }
        Err(Mismatch::new("+OK", moving(&self.source, &self.destination, slot, keys.len(), &reply)).into())
    }

    /// Moves every key of an open slot; returns how many there were.
    ///
    /// # Errors
    /// When the source refuses, or keys are still left when they should long have been moved.
    pub async fn move_all_keys(&mut self, slot: u16) -> Result<usize, Stop> {
        drain(self.cx, &mut self.source, &self.destination, slot).await
    }

    /// Assigns a slot without keys to the destination: there first, so that no client is sent in circles, then at the
    /// source. The others learn it by gossip.
    ///
    /// # Errors
    /// When a node refuses or cannot be asked.
    pub async fn hand_over(&mut self, slot: u16) -> Result<(), Stop> {
        let (cx, id) = (self.cx, self.destination.id.clone());
        self.destination.set_slot(cx, slot, &["NODE", &id]).await?;
        told(self.source.set_slot(cx, slot, &["NODE", &id]).await)
    }

    /// [`Self::hand_over`], and tells the other masters.
    ///
    /// # Errors
    /// When a node refuses or cannot be asked.
    pub async fn finish(&mut self, slot: u16) -> Result<(), Stop> {
        self.hand_over(slot).await?;
        let (cx, id) = (self.cx, self.destination.id.clone());
        for other in &mut self.others {
            told(other.set_slot(cx, slot, &["NODE", &id]).await)?;
        }
        Ok(())
    }

    /// Closes a slot that still belongs to the source, and moves keys back that have already gone.
    ///
    /// # Errors
    /// When a node refuses or cannot be asked.
    pub async fn undo(&mut self, slot: u16) -> Result<(), Stop> {
        // First the source: while it migrates, it sends keys that it does not have away.
        self.source.set_slot(self.cx, slot, &["STABLE"]).await?;
        drain(self.cx, &mut self.destination, &self.source, slot).await?;
        self.destination.set_slot(self.cx, slot, &["STABLE"]).await
    }

    /// Moves slots with all their keys, one after another.
    ///
    /// # Errors
    /// When a node refuses or cannot be asked; [`bring_home`] puts back what had been done by then.
    pub async fn move_slots(&mut self, slots: &[u16]) -> Result<Moved, Stop> {
        let began = Instant::now();
        let mut keys = 0;
        for (done, slot) in slots.iter().enumerate() {
            if began.elapsed() > LONGEST_MOVE {
                let told = format!(
                    "{done} of {} slots moved from {} to {} within {} s",
                    slots.len(),
                    self.source.member,
                    self.destination.member,
                    LONGEST_MOVE.as_secs()
                );
                return Err(anyhow::anyhow!(told).into());
            }
            self.open(*slot).await?;
            keys += self.move_all_keys(*slot).await?;
            self.finish(*slot).await?;
        }
        Ok(Moved {
            slots: slots.len(),
            keys,
            took: began.elapsed(),
        })
    }
}

/// A master that loses its last slot becomes a replica, and a replica is told nothing: it follows its master.
fn told(outcome: Result<(), Stop>) -> Result<(), Stop> {
    match outcome {
        Err(Stop::Mismatch(mismatch)) if mismatch.actual.contains("SETSLOT only with") => Ok(()),
        other => other,
    }
}

fn moving(from: &Master, to: &Master, slot: u16, keys: usize, reply: &Reply) -> String {
    format!(
        "{}: MIGRATE of {keys} keys of slot {slot} to {} -> {reply}",
        from.member, to.member
    )
}

/// Moves every key that a node has in a slot.
async fn drain(cx: &Context, from: &mut Master, to: &Master, slot: u16) -> Result<usize, Stop> {
    let began = Instant::now();
    let mut moved = 0;
    loop {
        let keys = from.keys(slot).await?;
        if keys.is_empty() {
            return Ok(moved);
        }
        let reply = from.migrate(cx, &to.member.address, &keys).await?;
        // NOKEY: what was listed is gone, deleted or expired.
        let fine = matches!(&reply, Reply::Simple(text) if text == "OK" || text == "NOKEY");
        if !fine || began.elapsed() > LONGEST_MOVE {
            return Err(Mismatch::new("+OK", moving(from, to, slot, keys.len(), &reply)).into());
        }
        moved += keys.len();
    }
}

/// How many databases a server has: in a cluster one, unless Valkey 9 is told otherwise.
async fn databases(connection: &mut Connection) -> Result<u32, LinkError> {
    let setting = connection.setting("cluster-databases").await?;
    Ok(setting.and_then(|count| count.parse().ok()).unwrap_or(1))
}

/// What a node counts of the keys of each of these slots, in each of so many databases: `CLUSTER COUNTKEYSINSLOT` counts those
/// of the selected one alone. The first database is the last that is selected.
async fn counted(connection: &mut Connection, slots: &[u16], databases: u32) -> Result<Vec<Vec<Reply>>, LinkError> {
    let questions: Vec<Vec<String>> = slots
        .iter()
        .map(|slot| vec!["CLUSTER".into(), "COUNTKEYSINSLOT".into(), slot.to_string()])
        .collect();
    let mut counts = vec![Vec::new(); slots.len()];
    for database in (0..databases).rev() {
        // With one there is nothing to select.
        if databases > 1 {
            connection.ask(&["SELECT", &database.to_string()]).await?;
        }
        for (of_slot, count) in counts.iter_mut().zip(connection.pipeline(&questions).await?) {
            of_slot.push(count);
        }
    }
    Ok(counts)
}

/// Whether a slot holds no key, by what its node counts in each database; one reply that is no count leaves that open.
fn is_empty(counts: &[Reply]) -> Result<bool, &Reply> {
    match counts.iter().find(|count| count.integer().is_none()) {
        Some(uncounted) => Err(uncounted),
        None => Ok(counts.iter().all(|count| count.integer() == Some(0))),
    }
}

/// At most `wanted` slots of a master that hold no key in any database, in ascending order: what is moved there and back must be
/// the suite's own.
///
/// # Errors
/// An unsupported stop when no slot is empty; an error when the master does not count.
pub async fn empty_slots(cx: &Context, node: &NodeView, wanted: usize) -> Result<Vec<u16>, Stop> {
    let mut connection = cx.connect(&node.member.address).await?;
    let databases = databases(&mut connection).await?;
    let slots = node.own_slots();
    let (mut empty, mut uncounted) = (Vec::new(), None);
    // Not at an end of the range, where other cases look.
    let (before, after) = slots.split_at(slots.len() / 4);
    for chunk in [after, before].iter().flat_map(|part| part.chunks(QUESTIONS_AT_ONCE)) {
        for (slot, counts) in chunk.iter().zip(counted(&mut connection, chunk, databases).await?) {
            match is_empty(&counts) {
                Ok(true) => empty.push(*slot),
                Ok(false) => {}
                Err(count) => {
                    uncounted.get_or_insert_with(|| format!("{}: keys of slot {slot} -> {count}", node.member));
                }
            }
        }
        if empty.len() >= wanted {
            break;
        }
    }
    empty.truncate(wanted);
    empty.sort_unstable();
    match (empty.is_empty(), uncounted) {
        (false, _) => Ok(empty),
        (true, Some(told)) => Err(anyhow::anyhow!(told).into()),
        (true, None) => Err(Stop::Unsupported(format!(
            "none of the {} slots of {} is empty: none can be moved without touching others' keys",
            slots.len(),
            node.member
        ))),
    }
}

/// Slots that hold no key, and the two masters between which they are to be moved.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The slots, in ascending order.
    pub slots: Vec<u16>,
    /// The id of their owner.
    pub source: NodeId,
    /// The id of the master that they are to go to.
    pub destination: NodeId,
}

impl Plan {
    /// At most `wanted` slots of the first master, for the second.
    ///
    /// # Errors
    /// A mismatch when there are no two masters with slots; else as [`empty_slots`].
    pub async fn of(cx: &Context, view: &ClusterView, wanted: usize) -> Result<Self, Stop> {
        let owners: Vec<&NodeView> = view.nodes.iter().filter(|node| !node.own_slots().is_empty()).collect();
        let [source, destination, ..] = owners[..] else {
            return Err(Mismatch::new("two masters with slots", format!("{} masters", owners.len())).into());
        };
        Self::between(cx, source, destination, wanted).await
    }

    /// At most `wanted` slots of one master, for another.
    ///
    /// # Errors
    /// As [`empty_slots`].
    pub async fn between(cx: &Context, source: &NodeView, destination: &NodeView, wanted: usize) -> Result<Self, Stop> {
        let id = |node: &NodeView| node.myself().map(|line| line.id.clone()).unwrap_or_default();
        Ok(Self {
            slots: empty_slots(cx, source, wanted).await?,
            source: id(source),
            destination: id(destination),
        })
    }

    /// A mover from the source to the destination.
    ///
    /// # Errors
    /// As [`Mover::between`].
    pub async fn mover<'a>(&self, cx: &'a Context, view: &ClusterView) -> Result<Mover<'a>, Stop> {
        Mover::between(cx, view, &self.source, &self.destination).await
    }

    /// [`bring_home`] of the slots.
    ///
    /// # Errors
    /// As [`bring_home`].
    pub async fn undo(&self, cx: &Context) -> Result<(), Stop> {
        bring_home(cx, &self.slots, &self.source).await
    }
}

/// Puts slots back to the master `home`, wherever a move of them had come to: open slots are closed with their keys, slots
/// of other masters are moved back. Returns when no slot is open and all nodes agree.
///
/// # Errors
/// When a node refuses or cannot be asked, or they do not agree within T_fail.
pub async fn bring_home(cx: &Context, slots: &[u16], home: &str) -> Result<(), Stop> {
    let view = cx.look().await?;
    let mut away: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for slot in slots {
        let owner = view.owner_of(*slot).and_then(NodeView::myself);
        let owner = owner.ok_or_else(|| anyhow::anyhow!("nobody owns slot {slot}, which was to be put back"))?;
        close(cx, &view, *slot, &owner.id).await?;
        if owner.id != home {
            away.entry(&owner.id).or_default().push(*slot);
        }
    }
    if !away.is_empty() {
        // Moving back gives `home` the highest epoch. A node that has not heard yet of the way there would hold that against
        // the other master and tell it so: its slots would be gone before they are moved (Redis source, cluster.c,
        // clusterProcessPacket, CLUSTERMSG_TYPE_UPDATE; seen on 6.0). Where nodes do not agree at all, the moves say so.
        if let Err(Stop::Mismatch(mismatch)) = agreed(cx, cx.timing().fail()).await {
            cx.note_time(format!("slots are moved back though nodes do not agree: {mismatch}"));
        }
    }
    for (owner, slots) in away {
        Mover::between(cx, &view, owner, home).await?.move_slots(&slots).await?;
    }
    agreed(cx, cx.timing().fail()).await
}

/// Waits until no slot is open and all nodes agree.
///
/// # Errors
/// A mismatch that says what was left after `bound`.
pub async fn agreed(cx: &Context, bound: Duration) -> Result<(), Stop> {
    eventually(cx, "every slot closed and all nodes agreed", bound, async || {
        let view = cx.look().await?;
        let silent = view
            .silent
            .iter()
            .map(|(member, error)| format!("{}: {error}", member.name));
        let open = view.nodes.iter().filter_map(|node| {
            let line = node.myself().filter(|line| !line.open_slots.is_empty())?;
            Some(format!("{}: {}", node.member, line.open_slots.join(" ")))
        });
        let findings: Vec<String> = silent.chain(open).chain(view.disagreements()).collect();
        Ok(if findings.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(findings.join("\n"))
        })
    })
    .await
}

/// Closes a slot wherever it is open, with its keys at its owner.
async fn close(cx: &Context, view: &ClusterView, slot: u16, owner: &str) -> Result<(), Stop> {
    let open = |line: &&NodeLine| {
        let entry = format!("[{slot}-");
        line.is_master() && line.open_slots.iter().any(|open| open.starts_with(&entry))
    };
    let lines = view.nodes.iter().filter_map(NodeView::myself).filter(open);
    let (owners, others): (Vec<&NodeLine>, Vec<&NodeLine>) = lines.partition(|line| line.id == owner);
    for other in &others {
        Mover::between(cx, view, owner, &other.id).await?.undo(slot).await?;
    }
    if let (Some(line), true) = (owners.first(), others.is_empty())
        && let Some(node) = view.by_id(&line.id)
    {
        // Nobody is left to import it.
        let mut owner = Master::of(cx, view, node).await?;
        owner.set_slot(cx, slot, &["STABLE"]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::one_database(&[Reply::Integer(0)], Ok(true))]
    #[case::a_key(&[Reply::Integer(1)], Ok(false))]
    #[case::several_databases(&[Reply::Integer(0), Reply::Integer(0)], Ok(true))]
    #[case::a_key_in_another_database(&[Reply::Integer(1), Reply::Integer(0)], Ok(false))]
    #[case::not_counted(&[Reply::Nil], Err("nil"))]
    #[case::not_counted_in_one_of_them(&[Reply::Integer(1), Reply::Nil], Err("nil"))]
    fn a_slot_is_empty_where_no_database_has_a_key(#[case] counts: &[Reply], #[case] empty: Result<bool, &str>) {
        let found = is_empty(counts).map_err(ToString::to_string);
        assert_eq!(found, empty.map_err(str::to_owned));
    }
}

//! One observed partition, which several cases look at from their own side: a master alone against all other servers,
//! with a client on each side that writes all the time, until both sides have settled; and the heal.
//!
//! It is done once in a run, by the first case that asks: once with every packet between the sides dropped, and once with
//! the bus alone. Each expectation is kept apart: what one case fails on does not fail the others. Beside it stands what
//! the other cases about cut links share.

mod side;

pub use side::{Attempt, Client, Confirmation, Told};

use crate::check::{LOOK_AGAIN, Look, eventually, expect};
use crate::cluster::connection::LinkError;
use crate::cluster::node::{Member, NodeId, NodeView};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Cut, Shared, Traffic, Way, with_cleanup};
use crate::failover::{Shard, election_lost, highest_epoch, kept, pick_shard};
use crate::moving::Unobserved;
use crate::verdict::{Mismatch, Stop};
use futures::FutureExt;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the clients write before the cut.
const BEFORE: Duration = Duration::from_secs(1);

/// What was seen.
#[derive(Debug)]
pub struct Partition {
    /// The master that was alone, and its id.
    pub alone: (Member, NodeId),
    /// The replica of it, on the other side, that took writes in its place, and its id; where none did, the first.
    pub successor: (Member, NodeId),
    /// Before the cut: every write acknowledged before this was on every replica when the cut came.
    pub replicated: Instant,
    /// When all packets were dropped.
    pub cut: Instant,
    /// Just before the links were mended.
    pub healing: Instant,
    /// How long it took from the cut until the successor took writes, and every other master of its side took them again.
    pub recovery: Result<Duration, Mismatch>,
    /// Whether an election was lost before that.
    pub election_lost: bool,
    /// How long it took from the heal until the master that was alone was a replica of its successor.
    pub demotion: Result<Duration, Mismatch>,
    /// The client of the master that was alone. It writes to the same key as the successor's client.
    pub minority: Client,
    /// The clients of the other side: the successor's first, then one of every other master.
    pub majority: Vec<Client>,
    /// The clients of the shard's other replicas: they are told of no write, but where one was promoted beside the successor.
    pub passed_over: Vec<Client>,
    /// What `WAIT` told the client of the master that was alone.
    pub confirmations: Vec<Confirmation>,
    /// What the successor holds under the key in the end.
    pub held: Vec<String>,
    /// How many nodes of the shard hold the same as the successor once the old master is synchronised; else who does not.
    pub same: Result<usize, Mismatch>,
    /// The acknowledged writes to every other master that the owner of its slot does not hold in the end.
    pub lost_elsewhere: Result<Vec<String>, Mismatch>,
}

/// A partition of a run, once it was made to happen by the cases that ask; or why it could not be.
pub type Observed = tokio::sync::OnceCell<Result<Arc<Partition>, Unobserved>>;

impl Partition {
    /// The last write that the master took while it was alone.
    pub fn last_of_minority(&self) -> Option<&Attempt> {
        let mut taken = self
            .minority
            .attempts()
            .iter()
            .filter(|attempt| attempt.told == Told::Done);
        taken.rfind(|attempt| attempt.sent < self.healing)
    }

    /// The clients of the replicas of the master that was alone, the successor's first.
    pub fn of_replicas(&self) -> impl Iterator<Item = &Client> {
        self.majority.iter().take(1).chain(&self.passed_over)
    }

    /// The first write that a replica took in its master's place.
    pub fn first_of_majority(&self) -> Option<&Attempt> {
        let firsts = self.of_replicas().filter_map(|client| client.done().next());
        firsts.min_by_key(|attempt| attempt.sent)
    }
}

/// The observed partition of this run, with everything between the sides dropped.
///
/// # Errors
/// The same for every case that asks: a mismatch where the cluster did not serve before the cut already; else why it could
/// not be observed.
pub async fn observe(cx: &Context) -> Result<Arc<Partition>, Stop> {
    once(cx, |shared| &shared.partition, Traffic::All).await
}

/// The observed partition of this run in which the bus alone was cut: clients, and replicas, reached everything.
///
/// # Errors
/// As [`observe`].
pub async fn observe_bus(cx: &Context) -> Result<Arc<Partition>, Stop> {
    once(cx, |shared| &shared.bus_partition, Traffic::Bus).await
}

async fn once(cx: &Context, cell: fn(&Shared) -> &Observed, traffic: Traffic) -> Result<Arc<Partition>, Stop> {
    cx.note_observation(match traffic {
        Traffic::Bus => "the partition of the bus",
        Traffic::Clients | Traffic::All => "the partition",
    });
    let shared = cx.shared().clone();
    let observed = cell(&shared).get_or_init(|| async { Ok(Arc::new(make_happen(cx, traffic).await?)) });
    Ok(observed.await.clone()?)
}

/// The limit for the majority to take writes again after the cut, and the one with a lost election.
pub fn recovery_bounds(cx: &Context) -> (Duration, Duration) {
    let timing = cx.timing();
    let retry = timing.failover_retry().saturating_sub(timing.failover_hard());
    (timing.majority(), timing.majority() + retry)
}

/// The clients at work.
struct Clients {
    /// Of the master that is alone.
    minority: side::Writing,
    /// Of each of its replicas, in the shard's order: any of them may win the election.
    replicas: Vec<side::Writing>,
    /// Of every other master, with the slot that it is written to in.
    masters: Vec<(u16, side::Writing)>,
}

impl Clients {
    fn new(cx: &Context, view: &ClusterView, shard: &Shard) -> Self {
        let key = cx.key_in(shard.slot, "partition");
        let of_majority = |member: &Member, key: String| {
            let side = format!("majority-{}", member.name);
            side::Writing::new(side, member.clone(), key)
        };
        let replicas = shard.replicas.iter();
        let masters = shard.other_slots.iter().filter_map(|slot| {
            let owner = view.owner_of(*slot)?;
            Some((*slot, of_majority(&owner.member, cx.key_in(*slot, "partition"))))
        });
        Self {
            replicas: replicas.map(|(member, _)| of_majority(member, key.clone())).collect(),
            masters: masters.collect(),
            minority: side::Writing::new("minority".into(), shard.master.clone(), key),
        }
    }

    fn of_masters(&self) -> impl Iterator<Item = &side::Writing> {
        self.masters.iter().map(|(_, client)| client)
    }

    fn all(&self) -> impl Iterator<Item = &side::Writing> {
        std::iter::once(&self.minority)
            .chain(&self.replicas)
            .chain(self.of_masters())
    }

    /// Which replica has taken the last write of its client, sent after an instant; else which has taken one at all.
    fn promoted(&self, since: Instant) -> Option<usize> {
        let mut replicas = self.replicas.iter();
        let takes = replicas.position(|client| client.taken_since(since).is_ok());
        takes.or_else(|| self.replicas.iter().position(|client| client.idle().is_none()))
    }

    /// What the last writes were told, where no replica, or not every other master, has taken one sent after an instant.
    fn waiting_since(&self, since: Instant) -> Vec<String> {
        let waiting = |client: &side::Writing| client.taken_since(since).err();
        let replicas: Vec<String> = self.replicas.iter().filter_map(waiting).collect();
        let none = replicas.len() == self.replicas.len();
        let replicas = replicas.into_iter().filter(|_| none);
        replicas.chain(self.of_masters().filter_map(waiting)).collect()
    }
}

async fn make_happen(cx: &Context, traffic: Traffic) -> Result<Partition, Stop> {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let key = cx.key_in(shard.slot, "partition");
    let waited = cx.key_in(shard.slot, "confirmed");
    let clients = Clients::new(cx, &view, &shard);
    let waiting = side::Waiting::new(shard.master.clone(), waited.clone());
    let mut writing = Box::pin(async {
        futures::join!(join_all(clients.all().map(|client| client.on(cx))), waiting.on(cx));
    })
    .fuse();
    let mut happening = Box::pin(cut_and_heal(cx, &view, &shard, traffic, &clients)).fuse();
    let seen = futures::select_biased! {
        seen = happening => seen?,
        () = writing => return Err(anyhow::anyhow!("the clients ended by themselves").into()),
    };
    drop((happening, writing));
    let same = match &seen.demotion {
        Ok(_) => kept(synchronised(cx, &shard.master, &seen.successor, &key).await)?,
        Err(mismatch) => Err(mismatch.clone()),
    };
    let held = values(cx, &seen.successor.0, &key).await?;
    let lost_elsewhere = match &seen.recovery {
        Ok(_) => kept(lost_elsewhere(cx, &clients.masters).await)?,
        Err(mismatch) => Err(mismatch.clone()),
    };
    if same.is_ok() {
        let others = clients.of_masters().map(|client| client.key().to_owned());
        cx.remove_keys(&others.chain([key, waited]).collect::<Vec<_>>()).await?;
    }
    let replicas = clients.replicas.into_iter().map(side::Writing::into_client);
    let (successor, passed_over): (Vec<Client>, Vec<Client>) =
        replicas.partition(|client| client.member == seen.successor.0);
    let others = clients.masters.into_iter().map(|(_, client)| client.into_client());
    Ok(Partition {
        alone: (shard.master, shard.master_id),
        successor: seen.successor,
        replicated: seen.replicated,
        cut: seen.cut,
        healing: seen.healing,
        recovery: seen.recovery,
        election_lost: seen.election_lost,
        demotion: seen.demotion,
        minority: clients.minority.into_client(),
        majority: successor.into_iter().chain(others).collect(),
        passed_over,
        confirmations: waiting.into_confirmations(),
        held,
        same,
        lost_elsewhere,
    })
}

/// What the cut and the heal gave.
struct Seen {
    successor: (Member, NodeId),
    replicated: Instant,
    cut: Instant,
    healing: Instant,
    recovery: Result<Duration, Mismatch>,
    election_lost: bool,
    demotion: Result<Duration, Mismatch>,
}

async fn cut_and_heal(
    cx: &Context,
    view: &ClusterView,
    shard: &Shard,
    traffic: Traffic,
    clients: &Clients,
) -> Result<Seen, Stop> {
    let timing = cx.timing();
    hold(cx, "the clients write before the cut", BEFORE).await;
    // Replicas redirect: they have nothing to take yet.
    let writers = std::iter::once(&clients.minority).chain(clients.of_masters());
    let idle: Vec<String> = writers.filter_map(side::Writing::idle).collect();
    crate::check::no_findings("an acknowledged write on every master, before any fault", &idle)?;
    let replicated = until_replicated(cx, shard, timing.reply()).await?;
    let parted = async {
        let cut = cx
            .cut(&[alone(view, std::slice::from_ref(&shard.master), traffic, Way::Both)])
            .await?;
        let what = format!("a replica of {} and every other master take writes", shard.master.name);
        let (_, patience) = recovery_bounds(cx);
        let recovery = eventually(cx, &what, patience, async || {
            Ok(match clients.waiting_since(cut).as_slice() {
                [] => Look::Reached(cut.elapsed()),
                waiting => Look::NotYet(waiting.join("\n")),
            })
        });
        let recovery = kept(recovery.await)?;
        let election_lost = election_lost(highest_epoch(view), highest_epoch(&cx.look().await?));
        let promoted = clients.promoted(cut).and_then(|at| shard.replicas.get(at));
        // Longer than the master may go on, and than it may outlast its replacement.
        let least = (timing.minority() + BEFORE).saturating_sub(cut.elapsed());
        hold(cx, "both sides settle", least.max(timing.overlap() + BEFORE)).await;
        Ok((cut, recovery, election_lost, promoted))
    };
    let mut healing = Instant::now();
    let mend = async {
        healing = Instant::now();
        cx.undo_faults().await
    };
    let (cut, recovery, election_lost, promoted) = with_cleanup(parted, mend).await?;
    let healed = Instant::now();
    let none = || (shard.replica.clone(), shard.replica_id.clone());
    let successor = promoted.cloned().unwrap_or_else(none);
    let what = format!("{} is a replica of {}", shard.master.name, successor.0.name);
    let demotion = eventually(cx, &what, timing.demotion(), async || {
        let view = cx.look().await?;
        Ok(match view.of(&shard.master.name).and_then(|node| node.myself()) {
            Some(line) if line.master.as_ref() == Some(&successor.1) => Look::Reached(healed.elapsed()),
            Some(line) if line.is_master() => Look::NotYet(format!("a master at epoch {}", line.config_epoch)),
            Some(_) => Look::NotYet("a replica of another".into()),
            None => Look::NotYet(format!("{} does not answer", shard.master.name)),
        })
    });
    let demotion = kept(demotion.await)?;
    // A stale write that is taken late must be seen.
    hold(cx, "the clients write after the heal", BEFORE).await;
    Ok(Seen {
        successor,
        replicated,
        cut,
        healing,
        recovery,
        election_lost,
        demotion,
    })
}

/// What a node holds under the key.
async fn values(cx: &Context, member: &Member, key: &str) -> Result<Vec<String>, Stop> {
    let mut connection = cx.connect(&member.address).await?;
    connection.ask(&["READONLY"]).await?;
    let reply = connection.ask(&["LRANGE", key, "0", "-1"]).await?;
    let items = reply.array().unwrap_or_default().iter();
    Ok(items.filter_map(|item| item.text().map(str::to_owned)).collect())
}

/// The acknowledged writes to other shards that the owners of their slots do not hold.
async fn lost_elsewhere(cx: &Context, masters: &[(u16, side::Writing)]) -> Result<Vec<String>, Stop> {
    let what = "the list of every other shard is read from the owner of its slot";
    eventually(cx, what, cx.timing().arrange(), async || {
        let view = cx.look().await?;
        let mut lost = Vec::new();
        for (slot, client) in masters {
            let Some(owner) = view.owner_of(*slot) else {
                return Ok(Look::NotYet(format!("no node claims slot {slot}")));
            };
            lost.extend(client.lost(&values(cx, &owner.member, client.key()).await?));
        }
        Ok(Look::Reached(lost))
    })
    .await
}

/// Waits until the old master is synchronised with its successor, and every node of the shard holds the same under the
/// key; how many they are.
async fn synchronised(
    cx: &Context,
    old: &Member,
    (successor, successor_id): &(Member, NodeId),
    key: &str,
) -> Result<usize, Stop> {
    let linked = format!("{} is a synchronised replica", old.name);
    let bound = cx.timing().demotion() + cx.timing().sync();
    eventually(cx, &linked, bound, async || {
        let view = cx.look().await?;
        let node = view.of(&old.name);
        Ok(match node.is_some_and(NodeView::linked) {
            true => Look::Reached(()),
            false => Look::NotYet(format!("{}: {:?}", old.name, node.map(|node| &node.role))),
        })
    })
    .await?;
    let view = cx.look().await?;
    let replicas: Vec<&Member> = view.replicas_of(successor_id).map(|node| &node.member).collect();
    let what = "every node of the shard holds the same data";
    eventually(cx, what, cx.timing().catch_up(), async || {
        let first = values(cx, successor, key).await?;
        for member in &replicas {
            let other = values(cx, member, key).await?;
            if other != first {
                return Ok(Look::NotYet(difference(successor, &first, member, &other)));
            }
        }
        Ok(Look::Reached(1 + replicas.len()))
    })
    .await
}

/// Where what two nodes hold is first different.
fn difference(first: &Member, one: &[String], second: &Member, other: &[String]) -> String {
    let at = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let shown = |values: &[String]| values.get(at).map_or("nothing", String::as_str).to_owned();
    format!(
        "at place {at} {} of {} holds {}, {} of {} holds {}",
        first.name,
        one.len(),
        shown(one),
        second.name,
        other.len(),
        shown(other)
    )
}

/// Lets time pass, where what comes of it is judged afterwards.
pub async fn hold(cx: &Context, what: &str, duration: Duration) {
    let what = format!("{}: {what}", cx.case_id());
    cx.progress()
        .during(&what, duration, tokio::time::sleep(duration))
        .await;
}

/// The cut between some servers and all others of a view.
pub fn alone(view: &ClusterView, some: &[Member], traffic: Traffic, way: Way) -> Cut {
    let all = view.nodes.iter().map(|node| node.member.clone());
    Cut::Between {
        some: some.to_vec(),
        others: all.filter(|member| !some.contains(member)).collect(),
        traffic,
        way,
    }
}

/// The cuts between groups of servers, each from each.
pub fn groups_apart(groups: &[Vec<Member>], traffic: Traffic) -> Vec<Cut> {
    let split = (1..groups.len()).map(|at| Cut::Between {
        some: groups[at - 1].clone(),
        others: groups[at..].concat(),
        traffic,
        way: Way::Both,
    });
    split.collect()
}

/// Waits until a write to a shard's master has reached all its replicas that were connected; the instant before that write.
/// All that was acknowledged before it has then reached them too. After a cut TCP sends anew what was lost, with pauses
/// that have grown with the cut.
///
/// # Errors
/// A mismatch when none has reached all within `bound`.
pub async fn until_replicated(cx: &Context, shard: &Shard, bound: Duration) -> Result<Instant, Stop> {
    let key = cx.key_in(shard.slot, "replicated");
    let replicas = shard.replicas.len();
    let all = replicas.to_string();
    let what = format!("a write to {} reaches each of {all} replicas", shard.master.name);
    let at = eventually(cx, &what, bound, async || {
        let mut connection = cx.connect(&shard.master.address).await?;
        let before = Instant::now();
        let set = connection.call(&["SET", &key, "1"]).await?;
        let reply = connection.call(&["WAIT", &all, "500"]).await?;
        let reached = reply.integer().and_then(|count| usize::try_from(count).ok());
        Ok(if set.is_ok() && reached >= Some(replicas) {
            Look::Reached(before)
        } else {
            Look::NotYet(format!("SET -> {set}, WAIT {all} 500 -> {reply}"))
        })
    })
    .await?;
    cx.remove_keys(&[key]).await?;
    Ok(at)
}

/// Cuts a shard's master off for a while, and mends the links; how long that took, from before the first was cut until the
/// last was mended: a busy machine takes its time for both. A master that takes no write meanwhile, since it misses its
/// replicas or has been replaced, has none that a replica could have.
///
/// # Errors
/// An error when the master's replica has a write all the same: what follows would then say nothing.
pub async fn cut_off_for(cx: &Context, cuts: &[Cut], shard: &Shard, length: Duration) -> Result<Duration, Stop> {
    let key = cx.key_in(shard.slot, "cut off");
    let mut connection = cx.connect(&shard.master.address).await?;
    let cutting = Instant::now();
    let parted = async {
        cx.cut(cuts).await?;
        let witness = async {
            let began = Instant::now();
            // Without a write `WAIT` would count whoever is attached.
            while !connection.call(&["SET", key.as_str(), "1"]).await?.is_ok() {
                if began.elapsed() >= length / 2 {
                    return Ok(None);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            let reply = connection.call(&["WAIT", "1", "100"]).await?;
            Ok::<_, LinkError>(reply.integer())
        };
        let (confirmed, ()) = futures::join!(witness, hold(cx, "the links are cut", length));
        match confirmed? {
            Some(1..) => Err(anyhow::anyhow!("{} is not cut off: a replica has its write", shard.master).into()),
            Some(_) | None => Ok(()),
        }
    };
    with_cleanup(parted, cx.undo_faults()).await?;
    Ok(cutting.elapsed())
}

/// What keeps the nodes from serving every slot, each with one owner: silence, another state than `ok`, a node that is
/// called failed, slots with no owner or with several. Links of replicas may still be coming up.
fn not_served(cx: &Context, view: &ClusterView) -> Vec<String> {
    let silent = view
        .silent
        .iter()
        .map(|(member, error)| format!("{}: {error}", member.name));
    let mut findings: Vec<String> = silent.collect();
    let (nodes, expected) = (view.nodes.len(), cx.shape().nodes());
    findings.extend((nodes != expected).then(|| format!("{nodes} of {expected} nodes answer")));
    for node in &view.nodes {
        let (name, state) = (&node.member.name, node.info("cluster_state"));
        findings.extend((state != "ok").then(|| format!("{name}: cluster_state:{state}")));
        let flagged = node.nodes.iter().filter(|line| line.is("fail") || line.is("fail?"));
        findings.extend(flagged.map(|line| format!("{name}: flags {}", view.name_of(&line.id))));
        match node.owners() {
            Err(claim) => findings.push(format!("{name}: {claim}")),
            Ok(owners) if owners.contains(&None) => findings.push(format!("{name}: slots without an owner")),
            Ok(_) => {}
        }
    }
    findings.extend(view.disagreements());
    findings
}

/// Waits until every node serves, with no slot in doubt; the view then. Links of replicas may still be coming up.
///
/// # Errors
/// A mismatch when something does after `bound`.
pub async fn until_served(cx: &Context, bound: Duration) -> Result<ClusterView, Stop> {
    let what = "every node says cluster_state:ok, flags nobody and names the same owner of each slot";
    let began = Instant::now();
    let view = eventually(cx, what, bound, async || {
        let view = cx.look().await?;
        let findings = not_served(cx, &view);
        Ok(if findings.is_empty() {
            Look::Reached(view)
        } else {
            Look::NotYet(findings.join("\n"))
        })
    })
    .await?;
    cx.measure("served by all after the heal", began.elapsed(), None, Some(bound));
    Ok(view)
}

/// Every master that owns slots, by its id, with its epoch.
pub fn epochs(view: &ClusterView) -> BTreeMap<NodeId, u64> {
    let lines = view.masters().filter_map(|master| master.myself());
    let owners = lines.filter(|line| !line.slots.is_empty());
    owners.map(|line| (line.id.clone(), line.config_epoch)).collect()
}

/// Expects the masters and their epochs to be those that they were.
///
/// # Errors
/// A mismatch that names what has changed.
pub fn expect_no_failover(before: &ClusterView, after: &ClusterView) -> Result<(), Mismatch> {
    let told = |view: &ClusterView| {
        let each = epochs(view).into_iter();
        let each = each.map(|(id, epoch)| format!("{} at epoch {epoch}", view.name_of(&id)));
        each.collect::<Vec<_>>().join(", ")
    };
    expect(
        epochs(before) == epochs(after),
        format!("the masters {}, as before", told(before)),
        told(after),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connection::Address;

    fn member(name: &str) -> Member {
        Member {
            name: name.into(),
            address: Address::new("127.0.0.1", 1),
        }
    }

    #[test]
    fn groups_are_cut_each_from_each() {
        let groups = [vec![member("a"), member("b")], vec![member("c")], vec![member("d")]];
        let told: Vec<String> = groups_apart(&groups, Traffic::Bus)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "the bus between a, b and c, d was cut",
                "the bus between c and d was cut"
            ]
        );
    }

    #[test]
    fn the_first_difference_is_told() {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let (one, other) = (values(&["1", "2"]), values(&["1", "2", "3"]));
        assert_eq!(
            difference(&member("a"), &one, &member("b"), &other),
            "at place 2 a of 2 holds nothing, b of 3 holds 3"
        );
    }
}

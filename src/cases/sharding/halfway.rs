//! The body of chapter SHARD about masters that are killed while slots are moved from one to the other: on servers of its
//! own.

use super::beside;
use super::joining::{ended_well, tool};
use super::moving::{KEYS_PER_SLOT, Kept, read_kept};
use crate::check::{self, Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::node::{Member, NodeId, NodeView, Role};
use crate::cluster::slot::SLOT_COUNT;
use crate::cluster::view::{ClusterView, Shape};
use crate::context::{Alteration, Context, Fault, Scratch};
use crate::migration::{self, Plan};
use crate::verdict::{Outcome, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// How many slots were to be moved.
const SLOTS: usize = 20;

/// Which of the two masters is killed.
#[derive(Clone, Copy, Debug)]
enum End {
    Source,
    Destination,
}

/// A reshard that has come half way: slots that were to be moved, with their keys.
struct Half {
    plan: Plan,
    kept: Vec<Kept>,
    written: Instant,
    /// The slot that is open.
    open: u16,
    victim: (Member, NodeId),
}

async fn write(connection: &mut Connection, kept: &[Kept]) -> Outcome {
    let commands: Vec<Vec<String>> = kept.iter().map(Kept::set).collect();
    let replies = connection.pipeline(&commands).await?;
    let refused = replies.iter().find(|reply| !reply.is_ok());
    Ok(check::expect(
        refused.is_none(),
        "+OK to every SET",
        format!("{refused:?}"),
    )?)
}

/// Moves half of the slots, and half of the keys of the next one; returns when a kill finds nothing under way.
async fn come_half_way(cx: &Context, end: End) -> Result<Half, Stop> {
    let view = cx.view().await?;
    let plan = Plan::of(cx, &view, SLOTS).await?;
    let kept = Kept::all(cx, &plan.slots);
    let mut mover = plan.mover(cx, &view).await?;
    let written = Instant::now();
    write(&mut mover.source.connection, &kept).await?;
    let (moved, left) = plan.slots.split_at(plan.slots.len() / 2);
    mover.move_slots(moved).await?;
    let open = *left
        .first()
        .ok_or_else(|| anyhow::anyhow!("too few empty slots: {}", plan.slots.len()))?;
    let from = moved.len() * KEYS_PER_SLOT;
    let gone = &kept[from..from + KEYS_PER_SLOT / 2];
    mover.open(open).await?;
    mover
        .move_keys(open, &gone.iter().map(|kept| &kept.key).collect::<Vec<_>>())
        .await?;
    let master = match end {
        End::Source => &mover.source,
        End::Destination => &mover.destination,
    };
    let victim = (master.member.clone(), master.id.clone());
    caught_up(cx).await?;
    Ok(Half {
        plan,
        kept,
        written,
        open,
        victim,
    })
}

/// Waits until every replica has acknowledged what its master had by now, and all nodes name the same owners: what a kill
/// takes before that is the price of asynchronous replication, and no fault of the reshard.
async fn caught_up(cx: &Context) -> Outcome {
    let mut wanted: Option<BTreeMap<String, i64>> = None;
    let what = "every replica has its master's writes, and all nodes name the same owners";
    eventually(cx, what, cx.timing().arrange(), async || {
        let view = cx.look().await?;
        let offsets = view.nodes.iter().filter_map(|node| match &node.role {
            Role::Master { offset, .. } => Some((node.member.name.clone(), *offset)),
            Role::Replica { .. } => None,
        });
        let wanted = wanted.get_or_insert_with(|| offsets.collect());
        let mut missing = view.disagreements();
        for node in &view.nodes {
            if let (Role::Master { replicas, .. }, Some(wanted)) = (&node.role, wanted.get(&node.member.name)) {
                let behind = replicas.iter().filter(|(_, acked)| acked < wanted);
                missing.extend(behind.map(|(replica, acked)| format!("{replica} has {acked} of {wanted} bytes")));
            }
        }
        Ok(match missing.first() {
            None => Look::Reached(()),
            Some(_) => Look::NotYet(missing.join("\n")),
        })
    })
    .await
}

/// Whether a survivor still gives the victim slots that are its replica's now. The slot that is open is none of them: a
/// node that imports a slot lets nobody but an operator say whose it is (Redis source, cluster.c,
/// clusterUpdateSlotsConfigWith), and with its owner dead may call the cluster down.
fn unaware(node: &NodeView, half: &Half) -> bool {
    let slots = node.line(&half.victim.1).map(|line| line.slots.as_slice());
    slots.is_none_or(|slots| {
        slots
            .iter()
            .any(|range| (range.first, range.last) != (half.open, half.open))
    })
}

/// Waits until the victim's replica has its slots, as every survivor says.
async fn replaced(cx: &Context, half: &Half) -> Outcome {
    let (began, bound) = (Instant::now(), cx.timing().failover_retry());
    let what = format!("the replica of {} has its slots", half.victim.0);
    let view = eventually(cx, &what, bound, async || {
        let view = cx.look().await?;
        let unaware = view.nodes.iter().filter(|node| unaware(node, half));
        let mut missing: Vec<String> = unaware.map(|node| node.member.to_string()).collect();
        missing.extend(view.silent.iter().map(|(_, error)| error.to_string()));
        Ok(if missing.is_empty() {
            Look::Reached(view)
        } else {
            Look::NotYet(format!("not yet for {}", missing.join(", ")))
        })
    })
    .await?;
    cx.measure(
        "promotion",
        began.elapsed(),
        Some(cx.timing().failover_floor()),
        Some(bound),
    );
    for node in view.nodes.iter().filter(|node| node.info("cluster_state") != "ok") {
        let open = node.myself().map_or(String::new(), |line| line.open_slots.join(" "));
        cx.note(format!(
            "before the repair {} says cluster_state:fail {open}",
            node.member
        ));
    }
    Ok(())
}

/// Waits until the victim is back as a connected replica: `--cluster fix` does nothing while a master is missing.
async fn returned(cx: &Context, (victim, id): &(Member, NodeId)) -> Outcome {
    cx.undo_faults().await?;
    let bound = cx.timing().scheduling() + cx.timing().heal();
    let what = format!("{victim} is back as a connected replica, and missed by nobody");
    eventually(cx, &what, bound, async || {
        let view = cx.look().await?;
        let connected = view.by_id(id).is_some_and(NodeView::linked);
        let missed = view.nodes.iter().filter(|node| {
            let line = node.line(id);
            line.is_none_or(|line| line.is_master() || !(line.connected || line.is("myself")))
        });
        let missed: Vec<String> = missed.map(|node| node.member.to_string()).collect();
        Ok(if connected && missed.is_empty() && view.silent.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(format!("connected: {connected}; missed by {}", missed.join(", ")))
        })
    })
    .await
}

/// What is wrong with who owns the slots, by the masters' own lines.
fn wrong_owners(view: &ClusterView) -> Option<String> {
    let claimed: Vec<u16> = view.masters().flat_map(NodeView::own_slots).collect();
    let all: BTreeSet<u16> = claimed.iter().copied().collect();
    let right = claimed.len() == usize::from(SLOT_COUNT) && all.len() == claimed.len();
    (!right).then(|| {
        format!(
            "the masters claim {} slots, {} different ones",
            claimed.len(),
            all.len()
        )
    })
}

/// What is wrong with a key: it must be at the owner of its slot, and nowhere else.
async fn wrong_keys(cx: &Context, view: &ClusterView, half: &Half) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for node in view.masters() {
        let mut connection = cx.connect(&node.member.address).await?;
        for (slot, kept) in half.plan.slots.iter().zip(half.kept.chunks(KEYS_PER_SLOT)) {
            let owns = view.owner_of(*slot).is_some_and(|owner| owner.member == node.member);
            let expected = if owns { KEYS_PER_SLOT as i64 } else { 0 };
            let command = ["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()];
            let count = connection.call(&command).await?;
            findings.extend(check::unless(
                count.integer() == Some(expected),
                &node.member,
                command.join(" "),
                &count,
            ));
            if owns {
                let wrong = read_kept(&mut connection, kept, half.written.elapsed()).await?;
                findings.extend(wrong.into_iter().map(|wrong| format!("{}: {wrong}", node.member)));
            }
        }
    }
    Ok(findings)
}

async fn judge(cx: &Context, half: &Half) -> Outcome {
    let view = cx.look().await?;
    let mut findings: Vec<String> = wrong_owners(&view).into_iter().collect();
    findings.extend(wrong_keys(cx, &view, half).await?);
    cx.count("keys read at their owners", half.kept.len(), "keys");
    let expected = "every slot with one owner, and every key there alone, with its value and time to live";
    Ok(check::no_findings(expected, &findings)?)
}

async fn interrupted(cx: &Context, end: End) -> Outcome {
    let half = come_half_way(cx, end).await?;
    cx.inject(Fault::Kill, &half.victim.0).await?;
    replaced(cx, &half).await?;
    returned(cx, &half.victim).await?;
    let members = cx.all_members().await?;
    let entry = members[0].address.to_string();
    let (began, arguments) = (Instant::now(), ["fix", entry.as_str()]);
    ended_well(&arguments, &tool(cx, &arguments).await?)?;
    cx.measure("fix", began.elapsed(), None, Some(cx.timing().reshape()));
    migration::agreed(cx, cx.timing().fail()).await?;
    judge(cx, &half).await
}

pub(super) async fn killed(cx: &Context) -> Outcome {
    let mut scratch = Scratch {
        shape: Shape {
            masters: 3,
            replicas_per_master: 1,
        },
        ..beside(cx, 3, 0)
    };
    scratch
        .alterations
        .push(Alteration::everywhere("repl-diskless-sync-delay 0"));
    cx.with_scratch(&scratch, async |cx| {
        for end in [End::Source, End::Destination] {
            interrupted(cx, end).await?;
        }
        Ok(())
    })
    .await
}

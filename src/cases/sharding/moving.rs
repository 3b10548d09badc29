//! The bodies of chapter SHARD about slots that are moved on the deployment itself, there and back.

use crate::check::{self, Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::node::{NodeLine, NodeView};
use crate::cluster::resp::Reply;
use crate::cluster::slot::{self, SLOT_COUNT};
use crate::cluster::view::ClusterView;
use crate::context::{Context, with_cleanup};
use crate::migration::{Master, Moved, Plan, agreed};
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::Writer;
use std::time::{Duration, Instant};

/// How many slots are moved: enough for a writer to meet every step of a move, few enough to be quick.
const SLOTS: usize = 100;
/// In how many of them a writer writes all the while.
const WRITERS: usize = 10;
/// How many keys each slot holds.
pub(super) const KEYS_PER_SLOT: usize = 10;
/// What every second key has left to live when it is written.
const LIFE: Duration = Duration::from_secs(3600);

/// Records what a move took: a figure for people, never judged.
fn record(cx: &Context, moved: Moved) {
    cx.measure(&format!("{} slots moved", moved.slots), moved.took, None, None);
    cx.count("keys moved", moved.keys, "keys");
}

/// Waits until the writer has written to each of its slots at the new owner.
async fn written_at(cx: &Context, owner: &mut Master, slots: &[u16]) -> Result<(), Stop> {
    let lengths: Vec<Vec<String>> = slots
        .iter()
        .map(|slot| vec!["LLEN".to_owned(), cx.key_in(*slot, "ledger")])
        .collect();
    let before = owner.connection.pipeline(&lengths).await?;
    let what = format!("every writer writing at the new owner {}", owner.member);
    let connection = &mut owner.connection;
    eventually(cx, &what, cx.patience(), async || {
        let now = connection.pipeline(&lengths).await?;
        let still = now
            .iter()
            .zip(&before)
            .zip(&lengths)
            .filter(|((now, before), _)| now.integer() <= before.integer());
        let still: Vec<String> = still
            .map(|((now, _), command)| format!("{} -> {now}", command.join(" ")))
            .collect();
        Ok(if still.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(still.join("\n"))
        })
    })
    .await
}

pub(super) async fn live(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let plan = Plan::of(cx, &view, SLOTS).await?;
    let step = (plan.slots.len() / WRITERS).max(1);
    let written: Vec<u16> = plan.slots.iter().copied().step_by(step).collect();
    let writer = Writer::start_patiently(cx, &written).await?;
    let work = async {
        let mut mover = plan.mover(cx, &view).await?;
        let there = mover.move_slots(&plan.slots).await?;
        record(cx, there);
        written_at(cx, &mut mover.destination, &written).await?;
        // Who has not heard yet of the way there would hold the epoch of the way back against it: see `bring_home`.
        agreed(cx, cx.timing().fail()).await?;
        mover.reversed().move_slots(&plan.slots).await
    };
    let outcome = with_cleanup(work, plan.undo(cx)).await;
    let record = writer.stop().await;
    let lost = record.lost(cx).await;
    cx.count("writes acknowledged", record.acked(), "writes");
    let redirected = record.ledgers.iter().flat_map(|ledger| &ledger.writes);
    let redirected = redirected.filter(|write| write.redirections > 0).count();
    cx.count("writes redirected", redirected, "writes");
    outcome?;
    let interrupted = record.interruptions(cx.timing().reply())?;
    let findings: Vec<String> = interrupted.into_iter().chain(lost?).collect();
    Ok(check::no_findings(
        "no failed write, and every acknowledged one there, while slots were moved",
        &findings,
    )?)
}

/// A key that is to be moved, with what it holds.
pub(super) struct Kept {
    pub(super) key: String,
    value: String,
    expires: bool,
}

impl Kept {
    /// [`KEYS_PER_SLOT`] keys in each slot.
    pub(super) fn all(cx: &Context, slots: &[u16]) -> Vec<Self> {
        let numbers = slots
            .iter()
            .flat_map(|slot| (0..KEYS_PER_SLOT).map(move |number| (*slot, number)));
        numbers
            .map(|(slot, number)| Self {
                key: cx.key_in(slot, &format!("kept-{number}")),
                value: format!("value-{slot}-{number}"),
                expires: number % 2 == 1,
            })
            .collect()
    }

    /// The command that writes it.
    pub(super) fn set(&self) -> Vec<String> {
        let mut command = vec!["SET".to_owned(), self.key.clone(), self.value.clone()];
        if self.expires {
            command.extend(["PX".to_owned(), LIFE.as_millis().to_string()]);
        }
        command
    }

    /// What is wrong with the value and the time to live, `written` ago.
    fn findings(&self, value: &Reply, left: &Reply, written: Duration) -> Option<String> {
        let fine = value.text() == Some(&self.value);
        let milliseconds = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let left_is_right = match left.integer() {
            // A second of grace to either side of what the clock says.
            Some(left) if self.expires => {
                let most = milliseconds(LIFE) + 1000;
                (milliseconds(LIFE.saturating_sub(written)) - 1000..=most).contains(&left)
            }
            Some(left) => left == -1,
            None => false,
        };
        let expected = if self.expires { "about an hour left" } else { "no end" };
        (!fine || !left_is_right).then(|| {
            format!(
                "GET {} -> {value} (written: {}), PTTL -> {left} (expected: {expected})",
                self.key, self.value
            )
        })
    }
}

/// Reads every key and its time to live at one master.
pub(super) async fn read_kept(
    connection: &mut Connection,
    kept: &[Kept],
    written: Duration,
) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for chunk in kept.chunks(200) {
        let gets: Vec<Vec<&str>> = chunk.iter().map(|kept| vec!["GET", &kept.key]).collect();
        let ends: Vec<Vec<&str>> = chunk.iter().map(|kept| vec!["PTTL", &kept.key]).collect();
        let values = connection.pipeline(&gets).await?;
        let left = connection.pipeline(&ends).await?;
        let read = chunk.iter().zip(values.iter().zip(&left));
        findings.extend(read.filter_map(|(kept, (value, left))| kept.findings(value, left, written)));
    }
    Ok(findings)
}

pub(super) async fn keys_kept(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let plan = Plan::of(cx, &view, SLOTS).await?;
    let kept = Kept::all(cx, &plan.slots);
    let work = async {
        let mut mover = plan.mover(cx, &view).await?;
        let began = Instant::now();
        for chunk in kept.chunks(200) {
            let commands: Vec<Vec<String>> = chunk.iter().map(Kept::set).collect();
            let replies = mover.source.connection.pipeline(&commands).await?;
            let refused = replies.iter().find(|reply| !reply.is_ok());
            check::expect(refused.is_none(), "+OK to every SET", format!("{refused:?}"))?;
        }
        record(cx, mover.move_slots(&plan.slots).await?);
        let at = mover.destination.member.to_string();
        let mut findings = read_kept(&mut mover.destination.connection, &kept, began.elapsed()).await?;
        findings
            .iter_mut()
            .for_each(|finding| *finding = format!("{at}: {finding}"));
        let mut left = 0;
        let mut there = 0;
        for slot in &plan.slots {
            left += mover.source.count(*slot).await?;
            there += mover.destination.count(*slot).await?;
        }
        if (left, there) != (0, kept.len()) {
            findings.push(format!(
                "COUNTKEYSINSLOT of the moved slots: {left} at the old owner, {there} at the new (expected 0 and {})",
                kept.len()
            ));
        }
        check::no_findings("every key once, with its value and its time to live", &findings)?;
        Ok(())
    };
    let keys: Vec<String> = kept.iter().map(|kept| kept.key.clone()).collect();
    with_cleanup(work, async {
        plan.undo(cx).await?;
        cx.remove_keys(&keys).await
    })
    .await
}

/// How many slots each of two masters has in one node's view, and how many all have.
fn counts(node: &NodeView, plan: &Plan) -> (usize, usize, usize) {
    let of = |id: &str| node.line(id).map_or(0, NodeLine::slot_count);
    let all = node.nodes.iter().map(NodeLine::slot_count).sum();
    (of(&plan.source), of(&plan.destination), all)
}

pub(super) async fn counts_move(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let plan = Plan::of(cx, &view, SLOTS).await?;
    let moved = plan.slots.len();
    let before: Vec<(usize, usize, usize)> = view.nodes.iter().map(|node| counts(node, &plan)).collect();
    let (from, to, all) = before[0];
    check::expect(
        before.iter().all(|seen| *seen == before[0]) && all == usize::from(SLOT_COUNT) && from >= moved,
        "one view of who has how many slots, 16384 in all",
        format!("{before:?}"),
    )?;
    let work = async {
        plan.mover(cx, &view).await?.move_slots(&plan.slots).await?;
        let began = Instant::now();
        let right = (from - moved, to + moved, all);
        let bound = cx.timing().gossip();
        let what = format!("{} and {} slots on every node, {all} in all", right.0, right.1);
        eventually(cx, &what, bound, async || {
            let view = cx.view().await?;
            let wrong = view.nodes.iter().filter_map(|node| {
                let seen = counts(node, &plan);
                (seen != right).then(|| format!("{}: {} and {}, {} in all", node.member, seen.0, seen.1, seen.2))
            });
            let wrong: Vec<String> = wrong.collect();
            Ok(if wrong.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(wrong.join("\n"))
            })
        })
        .await?;
        cx.measure("the new counts known to all", began.elapsed(), None, Some(bound));
        Ok(())
    };
    with_cleanup(work, plan.undo(cx)).await
}

/// The configuration epoch of a master in a node's view.
fn epoch(node: &NodeView, id: &str) -> u64 {
    node.line(id).map_or(0, |line| line.config_epoch)
}

/// A master with slots whose epoch is not the highest, to import, and another to give: only then must an import raise it.
fn giver_and_taker(view: &ClusterView) -> Result<(&NodeView, &NodeView), Mismatch> {
    let own = |node: &&NodeView| node.myself().map_or(0, |line| line.config_epoch);
    let owners: Vec<&NodeView> = view.nodes.iter().filter(|node| !node.own_slots().is_empty()).collect();
    let highest = owners.iter().map(own).max().unwrap_or_default();
    let taker = owners.iter().rev().find(|node| own(node) < highest);
    let giver = owners
        .iter()
        .find(|node| taker.is_some_and(|taker| taker.member != node.member));
    match (giver, taker) {
        (Some(giver), Some(taker)) => Ok((giver, taker)),
        _ => Err(Mismatch::new(
            "two masters with slots and configuration epochs of their own",
            format!("{} masters, highest epoch {highest}", owners.len()),
        )),
    }
}

pub(super) async fn epoch_raised(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let (giver, taker) = giver_and_taker(&view)?;
    let plan = Plan::between(cx, giver, taker, 1).await?;
    let highest = |view: &ClusterView| {
        let lines = view.nodes.iter().filter_map(NodeView::myself);
        lines.map(|line| line.config_epoch).max().unwrap_or_default()
    };
    let before = highest(&view);
    let work = async {
        plan.mover(cx, &view).await?.move_slots(&plan.slots).await?;
        let began = Instant::now();
        let bound = cx.timing().gossip();
        let what = format!("an epoch above {before} for {}, on every node", taker.member);
        eventually(cx, &what, bound, async || {
            let view = cx.view().await?;
            let importer = view.by_id(&plan.destination);
            let own = importer.map_or("", |node| node.info("cluster_my_epoch"));
            let behind = view.nodes.iter().filter_map(|node| {
                let seen = epoch(node, &plan.destination);
                (seen <= before).then(|| format!("{}: epoch {seen}", node.member))
            });
            let raised = own.parse().is_ok_and(|own: u64| own > before);
            let told = (!raised).then(|| format!("its own cluster_my_epoch:{own}"));
            let behind: Vec<String> = behind.chain(told).collect();
            Ok(if behind.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(behind.join("\n"))
            })
        })
        .await?;
        cx.measure("the raised epoch known to all", began.elapsed(), None, Some(bound));
        Ok(())
    };
    with_cleanup(work, plan.undo(cx)).await
}

pub(super) async fn guards(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let plan = Plan::of(cx, &view, 1).await?;
    let (slot, key) = (plan.slots[0].to_string(), cx.key_in(plan.slots[0], "guarded"));
    let work = async {
        let mut mover = plan.mover(cx, &view).await?;
        mover.source.connection.ask(&["SET", &key, "1"]).await?;
        let nobody = "0".repeat(40);
        let (source, destination) = (plan.source.as_str(), plan.destination.as_str());
        let at_source: [(&str, &str); 4] = [
            ("IMPORTING", destination),
            ("MIGRATING", nobody.as_str()),
            ("NODE", nobody.as_str()),
            // It still has a key.
            ("NODE", destination),
        ];
        let at_destination: [(&str, &str); 2] = [("MIGRATING", source), ("IMPORTING", nobody.as_str())];
        let mut findings = Vec::new();
        let nodes = [
            (&mut mover.source, &at_source[..]),
            (&mut mover.destination, &at_destination[..]),
        ];
        for (master, actions) in nodes {
            for (action, id) in actions {
                let command = ["CLUSTER", "SETSLOT", &slot, action, id];
                let reply = master.connection.call(&command).await?;
                let refused = reply.error_prefix() == Some("ERR");
                findings.extend(check::unless(refused, &master.member, command.join(" "), &reply));
            }
        }
        for replica in view.replicas() {
            let command = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", destination];
            let reply = cx.connect(&replica.member.address).await?.call(&command).await?;
            let refused = reply.error_prefix() == Some("ERR");
            findings.extend(check::unless(refused, &replica.member, command.join(" "), &reply));
        }
        let after = cx.view().await?;
        findings.extend(after.nodes.iter().filter_map(|node| {
            let line = node.myself().filter(|line| !line.open_slots.is_empty())?;
            Some(format!("{}: {} is open now", node.member, line.open_slots.join(" ")))
        }));
        let owner = after.owner_of(plan.slots[0]).and_then(NodeView::myself);
        if owner.is_none_or(|line| line.id != plan.source) {
            findings.push(format!("slot {} has changed hands", slot::describe(plan.slots.clone())));
        }
        check::no_findings("-ERR to every step that is not allowed, and nothing changed", &findings)?;
        Ok(())
    };
    with_cleanup(work, async {
        plan.undo(cx).await?;
        cx.remove_keys(std::slice::from_ref(&key)).await
    })
    .await
}

/// A move that the servers make by themselves: how its state is asked for, and how many such moves had succeeded before.
struct Atomic {
    /// Whether the importing master is asked (Redis), or the migrating one (Valkey).
    import: bool,
    status: Vec<String>,
    done: &'static str,
    before: usize,
}

impl Atomic {
    /// Starts the move; the connections lead to the source and to the destination.
    async fn begin(plan: &Plan, from: &mut Connection, to: &mut Connection) -> Result<Self, Stop> {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        let ends: Vec<String> = slot::ranges(plan.slots.iter().copied())
            .iter()
            .flat_map(|range| [range.first.to_string(), range.last.to_string()])
            .collect();
        let status = words("CLUSTER GETSLOTMIGRATIONS");
        let import = from.call(&status).await?.error().is_some();
        let mut job = Self {
            import,
            status,
            done: if import { "completed" } else { "success" },
            before: 0,
        };
        let mut command = words("CLUSTER MIGRATESLOTS SLOTSRANGE");
        if import {
            command = words("CLUSTER MIGRATION IMPORT");
        } else {
            job.before = job.succeeded(from, to).await?.0;
        }
        command.extend(ends);
        if !import {
            command.extend(["NODE".to_owned(), plan.destination.clone()]);
        }
        let connection = if import { to } else { from };
        let reply = connection.call(&command).await?;
        if reply.error().is_some() {
            let told = format!("{}: {} -> {reply}", connection.address(), command.join(" "));
            return Err(Mismatch::new("a migration that begins", told).into());
        }
        if import {
            job.status = words("CLUSTER MIGRATION STATUS ID");
            job.status.push(reply.text().unwrap_or_default().to_owned());
        }
        Ok(job)
    }

    /// How many of the jobs listed have succeeded, and the whole list.
    async fn succeeded(&self, from: &mut Connection, to: &mut Connection) -> Result<(usize, Reply), Stop> {
        let connection = if self.import { to } else { from };
        let reply = connection.ask(&self.status).await?;
        let state = |job: &Reply| {
            let mut pairs = job.array()?.chunks(2);
            let state = pairs.find(|pair| pair[0].text() == Some("state"))?;
            Some(state.get(1)?.text()? == self.done)
        };
        let jobs = reply.array().unwrap_or_default();
        let done = jobs.iter().filter(|job| state(job) == Some(true)).count();
        Ok((done, reply))
    }
}

pub(super) async fn atomic(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let plan = Plan::of(cx, &view, SLOTS).await?;
    let kept = Kept::all(cx, &plan.slots);
    let absent = cx.key_in(plan.slots[0], "absent");
    let work = async {
        let mover = plan.mover(cx, &view).await?;
        let (mut from, mut to) = (mover.source.connection, mover.destination.connection);
        let began = Instant::now();
        let commands: Vec<Vec<String>> = kept.iter().map(Kept::set).collect();
        let replies = from.pipeline(&commands).await?;
        let refused = replies.iter().find(|reply| !reply.is_ok());
        check::expect(refused.is_none(), "+OK to every SET", format!("{refused:?}"))?;
        let job = Atomic::begin(&plan, &mut from, &mut to).await?;
        let bound = cx.timing().reshape();
        eventually(cx, "the servers' own migration done", bound, async || {
            let reply = from.call(&["GET", &absent]).await?;
            let told = format!("{}: GET {absent} -> {reply}", from.address());
            check::expect(reply.error_prefix() != Some("ASK"), "no ASK at any time", told)?;
            let (done, reply) = job.succeeded(&mut from, &mut to).await?;
            Ok(if done > job.before {
                Look::Reached(())
            } else {
                Look::NotYet(reply.to_string())
            })
        })
        .await?;
        cx.measure("moved by the servers", began.elapsed(), None, Some(bound));
        // The destination may say that it is done before the last message about it has arrived.
        eventually(cx, "every key at the new owner", cx.timing().gossip(), async || {
            let findings = read_kept(&mut to, &kept, began.elapsed()).await?;
            Ok(if findings.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(findings[..findings.len().min(5)].join("\n"))
            })
        })
        .await
    };
    let keys: Vec<String> = kept.iter().map(|kept| kept.key.clone()).collect();
    with_cleanup(work, async {
        plan.undo(cx).await?;
        cx.remove_keys(&keys).await
    })
    .await
}

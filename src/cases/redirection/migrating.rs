//! The bodies of chapter REDIR about slots that are being moved from one master to another.

use super::checks::Asked;
use crate::check::{self, Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::node::{Endpoint, Member};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::context::{Context, with_cleanup};
use crate::migration::{Mover, Plan};
use crate::verdict::{Outcome, Stop};
use std::time::Instant;

/// Picks an empty slot and two masters between which `judge` moves it, as far as it likes, with keys of these names; and
/// puts all back: the keys too.
pub(super) async fn with_slot<const N: usize, F>(cx: &Context, names: [&str; N], judge: F) -> Outcome
where
    F: AsyncFnOnce(&mut Mover<'_>, u16, [&str; N]) -> Outcome,
{
    let view = cx.view().await?;
    let plan = Plan::of(cx, &view, 1).await?;
    let slot = plan.slots[0];
    let keys = names.map(|name| cx.key_in(slot, name));
    let work = async {
        let mut mover = plan.mover(cx, &view).await?;
        judge(&mut mover, slot, keys.each_ref().map(String::as_str)).await
    };
    with_cleanup(work, async {
        plan.undo(cx).await?;
        cx.remove_keys(&keys).await
    })
    .await
}

/// What is asked, of which two keys, and which reply is right.
type Question<'a> = (&'a str, [&'a str; 2], &'a dyn Fn(&Reply) -> bool);

pub(super) async fn try_again(cx: &Context) -> Outcome {
    // Before Redis 7.0 (no CLUSTER SHARDS) the source asks to go on; the destination says the rest.
    let old = cx.view().await?.nodes.iter().any(|node| node.shards.is_err());
    let names = ["moved", "moved-too", "left", "left-too", "none", "none-either"];
    with_slot(cx, names, async |mover, slot, keys| {
        let [moved, moved2, left, left2, ..] = keys;
        let write = ["MSET", moved, "1", moved2, "1", left, "1", left2, "1"];
        mover.source.connection.ask(&write).await?;
        mover.open(slot).await?;
        mover.move_keys(slot, &[moved, moved2]).await?;
        let findings = split_keys(mover, slot, keys, old).await?;
        Ok(check::no_findings(
            "TRYAGAIN for split keys, ASK for absent ones, values for whole sets",
            &findings,
        )?)
    })
    .await
}

/// What the two nodes answer wrongly while the slot is open: the first two keys moved, the next two left, the last two
/// never written.
async fn split_keys(
    mover: &mut Mover<'_>,
    slot: u16,
    [moved, moved2, left, left2, none, none2]: [&str; 6],
    old: bool,
) -> Result<Vec<String>, Stop> {
    let (source, destination) = (mover.source.member.clone(), mover.destination.member.clone());
    let again = |reply: &Reply| reply.error_prefix() == Some("TRYAGAIN");
    let served = |reply: &Reply| *reply == Reply::Array(vec![Reply::Bulk("1".into()), Reply::Bulk("1".into())]);
    let (from, to) = (mover.source.endpoint.clone(), mover.destination.endpoint.clone());
    let asks = |reply: &Reply| Redirect::is_ask(reply, slot, &to);
    let moves = |reply: &Reply| Redirect::is_moved(reply, slot, &from);
    let again_or_ask = |reply: &Reply| again(reply) || (old && asks(reply));
    let questions: [Question<'_>; 3] = [
        ("MGET of a moved and a left key", [moved, left], &again_or_ask),
        ("MGET of two left keys", [left, left2], &served),
        ("MGET of two absent keys", [none, none2], &asks),
    ];
    let mut findings = Vec::new();
    for (what, [one, other], right) in questions {
        let reply = mover.source.connection.call(&["MGET", one, other]).await?;
        findings.extend(check::unless(right(&reply), &source, what, &reply));
    }
    let importing = &mut mover.destination.connection;
    let reply = importing.call(&["MGET", moved, moved2]).await?;
    let what = "MGET of two moved keys without ASKING";
    findings.extend(check::unless(moves(&reply), &destination, what, &reply));
    let questions: [Question<'_>; 2] = [
        ("MGET of two moved keys after ASKING", [moved, moved2], &served),
        ("MGET of a moved and a left key after ASKING", [moved, left], &again),
    ];
    for (what, [one, other], right) in questions {
        importing.ask(&["ASKING"]).await?;
        let reply = importing.call(&["MGET", one, other]).await?;
        findings.extend(check::unless(right(&reply), &destination, what, &reply));
    }
    Ok(findings)
}

pub(super) async fn ask(cx: &Context) -> Outcome {
    with_slot(cx, ["there", "absent"], async |mover, slot, [there, absent]| {
        mover.source.connection.ask(&["SET", there, "1"]).await?;
        mover.open(slot).await?;
        let (source, to) = (mover.source.member.clone(), mover.destination.endpoint.clone());
        let served = |reply: &Reply| reply.text() == Some("1");
        let asks = |reply: &Reply| Redirect::is_ask(reply, slot, &to);
        let questions: [Asked<'_>; 3] = [
            (&["GET", there], &served),
            (&["GET", absent], &asks),
            (&["SET", absent, "1"], &asks),
        ];
        let mut findings = Vec::new();
        for (command, right) in questions {
            let reply = mover.source.connection.call(command).await?;
            findings.extend(check::unless(right(&reply), &source, command.join(" "), &reply));
        }
        Ok(check::no_findings(
            format!("the key that is there served, -ASK {slot} {to} for the other"),
            &findings,
        )?)
    })
    .await
}

pub(super) async fn asking_once(cx: &Context) -> Outcome {
    with_slot(cx, ["asked"], async |mover, slot, [key]| {
        mover.open(slot).await?;
        let (from, destination) = (mover.source.endpoint.clone(), mover.destination.member.clone());
        let done = |reply: &Reply| reply.is_ok();
        let served = |reply: &Reply| reply.text() == Some("9");
        let moves = |reply: &Reply| Redirect::is_moved(reply, slot, &from);
        let questions: [Asked<'_>; 6] = [
            (&["ASKING"], &done),
            (&["SET", key, "9"], &done),
            (&["GET", key], &moves),
            (&["ASKING"], &done),
            (&["GET", key], &served),
            (&["GET", key], &moves),
        ];
        let mut findings = Vec::new();
        for (command, right) in questions {
            let reply = mover.destination.connection.call(command).await?;
            findings.extend(check::unless(right(&reply), &destination, command.join(" "), &reply));
        }
        Ok(check::no_findings(
            format!("one command executed after each ASKING, and -MOVED {slot} {from} for the next"),
            &findings,
        )?)
    })
    .await
}

pub(super) async fn not_asked(cx: &Context) -> Outcome {
    with_slot(cx, ["moved", "absent"], async |mover, slot, [moved, absent]| {
        mover.source.connection.ask(&["SET", moved, "1"]).await?;
        mover.open(slot).await?;
        mover.move_keys(slot, &[moved]).await?;
        let (from, destination) = (mover.source.endpoint.clone(), mover.destination.member.clone());
        let questions: [&[&str]; 4] = [
            &["GET", moved],
            &["SET", moved, "2"],
            &["GET", absent],
            &["SET", absent, "2"],
        ];
        let mut findings = Vec::new();
        for command in questions {
            let reply = mover.destination.connection.call(command).await?;
            let moves = Redirect::is_moved(&reply, slot, &from);
            findings.extend(check::unless(moves, &destination, command.join(" "), &reply));
        }
        let expected = format!("-MOVED {slot} {from} for whoever has not sent ASKING");
        Ok(check::no_findings(expected, &findings)?)
    })
    .await
}

/// Where the nodes that have no part in a migration send a key's clients: those that do not name `right`, one line each.
async fn astray(
    bystanders: &mut [(Member, Connection)],
    key: &str,
    slot: u16,
    right: &[&Endpoint],
) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for (member, connection) in bystanders {
        let reply = connection.call(&["GET", key]).await?;
        let fine = right.iter().any(|endpoint| Redirect::is_moved(&reply, slot, *endpoint));
        findings.extend(check::unless(fine, member, format!("GET {key}"), &reply));
    }
    Ok(findings)
}

pub(super) async fn third_parties(cx: &Context) -> Outcome {
    if cx.shape().nodes() < 3 {
        return Err(Stop::Unsupported(
            "the deployment has two nodes, and both have a part in it".into(),
        ));
    }
    with_slot(cx, ["watched"], async |mover, slot, [key]| {
        let (source, destination) = (mover.source.member.clone(), mover.destination.member.clone());
        let (from, to) = (mover.source.endpoint.clone(), mover.destination.endpoint.clone());
        let mut bystanders = Vec::new();
        for member in cx.all_members().await? {
            if member != source && member != destination {
                let connection = cx.connect(&member.address).await?;
                bystanders.push((member, connection));
            }
        }
        check::expect(!bystanders.is_empty(), "a node that has no part in it", "there is none")?;
        mover.source.connection.ask(&["SET", key, "1"]).await?;
        mover.open(slot).await?;
        mover.move_all_keys(slot).await?;
        let early = astray(&mut bystanders, key, slot, &[&from]).await?;
        let expected = format!("-MOVED {slot} {from} until the slot is assigned");
        check::no_findings(expected, &early)?;
        let assigned = Instant::now();
        mover.hand_over(slot).await?;
        let bound = cx.timing().gossip();
        let what = format!("-MOVED {slot} {to} from every other node");
        eventually(cx, &what, bound, async || {
            let lost = astray(&mut bystanders, key, slot, &[&from, &to]).await?;
            check::no_findings("the old owner or the new one, and nobody else", &lost)?;
            let behind = astray(&mut bystanders, key, slot, &[&to]).await?;
            Ok(if behind.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(behind.join("\n"))
            })
        })
        .await?;
        cx.measure("the new owner known to all", assigned.elapsed(), None, Some(bound));
        Ok(())
    })
    .await
}

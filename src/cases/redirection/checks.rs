//! The bodies of chapter REDIR.

use crate::cases::slots::boundary_slots;
use crate::check;
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::node::NodeView;
use crate::cluster::redirect::{Redirect, RedirectKind};
use crate::cluster::resp::Reply;
use crate::cluster::slot::slot_of;
use crate::cluster::view::ClusterView;
use crate::context::{Context, with_cleanup};
use crate::failover;
use crate::feature::is_unknown;
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::workload::{Fate, MOST_REDIRECTIONS};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// A command, and which reply to it is right.
pub(super) type Asked<'a> = (&'a [&'a str], &'a dyn Fn(&Reply) -> bool);

pub(super) async fn moved_format(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut targets = Vec::new();
    for owner in view.nodes.iter().filter(|node| !node.own_slots().is_empty()) {
        let key = cx.key_in(owner.inner_slot().unwrap_or_default(), "moved");
        targets.push((owner, slot_of(&key), key, view.endpoint_of(owner)));
    }
    let masters = cx.shape().masters;
    check::expect(
        targets.len() == masters,
        format!("{masters} masters with slots"),
        targets.len().to_string(),
    )?;
    cx.judge_every_node(
        "-MOVED <slot> <owner> from every node that is not the owner",
        async |member, connection| {
            let mut findings = Vec::new();
            for (owner, slot, key, to) in targets.iter().filter(|(owner, ..)| owner.member != *member) {
                let reply = connection.call(&["GET", key.as_str()]).await?;
                let moved = Redirect::is_moved(&reply, *slot, to);
                findings.extend(check::unless(
                    moved,
                    member,
                    format!("GET {key} (slot {slot} of {})", owner.member),
                    &reply,
                ));
            }
            Ok(findings)
        },
    )
    .await
}

pub(super) async fn one_hop(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let keys: Vec<String> = boundary_slots(&view)
        .into_iter()
        .map(|slot| cx.key_in(slot, "hop"))
        .collect();
    let unfollowed = RefCell::new(BTreeSet::<String>::new());
    let judged = cx.judge_every_node(
        "GET executed at the entry, or after one MOVED",
        async |member, entry| {
            let (mut findings, mut hops) = (Vec::new(), BTreeMap::<Address, Vec<&str>>::new());
            for key in &keys {
                let reply = entry.call(&["GET", key.as_str()]).await?;
                match Redirect::parse(&reply) {
                    Some(to) if to.kind == RedirectKind::Moved && view.named(&to.address).is_some() => {
                        hops.entry(to.address).or_default().push(key);
                    }
                    // Nobody has written the key.
                    Some(_) | None => {
                        findings.extend(check::unless(reply == Reply::Nil, member, format!("GET {key}"), &reply))
                    }
                }
            }
            for (address, keys) in hops {
                let (mut connection, told) = follow(cx, &view, &address).await?;
                unfollowed.borrow_mut().extend(told);
                for key in keys {
                    let reply = connection.call(&["GET", key]).await?;
                    let command = format!("GET {key} at {address}, where it was sent");
                    findings.extend(check::unless(reply == Reply::Nil, member, command, &reply));
                }
            }
            Ok(findings)
        },
    );
    let judged = judged.await;
    for told in unfollowed.into_inner() {
        cx.note(told);
    }
    judged
}

/// A connection to where a redirection leads. An announced host name need not lead anywhere from here: it is for those who
/// are where clients run. Its node is then asked at its address, which is told.
async fn follow(cx: &Context, view: &ClusterView, to: &Address) -> Result<(Connection, Option<String>), LinkError> {
    let error = match cx.connect(to).await {
        Ok(connection) => return Ok((connection, None)),
        Err(error) => error,
    };
    match view.named(to) {
        Some(node) if node.member.address != *to => {
            let told = format!("the host name of {} leads nowhere from here: {error}", node.member);
            Ok((cx.connect(&node.member.address).await?, Some(told)))
        }
        Some(_) | None => Err(error),
    }
}

/// The addresses that a node's replies hold and that lead nowhere.
fn empty_endpoints(node: &NodeView) -> Vec<String> {
    let by_nodes = node.nodes.iter().map(|line| ("NODES", &line.address));
    let by_slots = node
        .slots
        .iter()
        .flat_map(|entry| entry.nodes.iter().map(|(address, _)| ("SLOTS", address)));
    let shards = node.shards.iter().flatten().flat_map(|shard| &shard.nodes);
    let by_shards = shards.map(|node| ("SHARDS", &node.address));
    by_nodes
        .chain(by_slots)
        .chain(by_shards)
        .filter(|(_, address)| address.host.is_empty() || address.port == 0)
        .map(|(command, address)| format!("{}: CLUSTER {command} shows {address}", node.member))
        .collect()
}

pub(super) async fn no_empty_endpoint(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut findings: Vec<String> = view.nodes.iter().flat_map(empty_endpoints).collect();
    let firsts = view
        .nodes
        .iter()
        .filter_map(NodeView::myself)
        .flat_map(|line| &line.slots)
        .map(|range| range.first);
    let keys: Vec<String> = firsts.map(|slot| cx.key_in(slot, "endpoint")).collect();
    for node in &view.nodes {
        let mut connection = cx.connect(&node.member.address).await?;
        let mut redirected = 0;
        for key in &keys {
            let reply = connection.call(&["GET", key.as_str()]).await?;
            let fine = match Redirect::parse(&reply) {
                Some(to) => {
                    redirected += 1;
                    view.named(&to.address).is_some()
                }
                None => reply == Reply::Nil,
            };
            findings.extend(check::unless(fine, &node.member, format!("GET {key}"), &reply));
        }
        if redirected == 0 {
            findings.push(format!(
                "{}: no key of {} ranges was redirected",
                node.member,
                keys.len()
            ));
        }
    }
    Ok(check::no_findings(
        "only addresses of the deployment's servers in every reply of every node",
        &findings,
    )?)
}

/// A key in a slot of each master, with its owner: at least two.
fn key_of_each_master<'a>(
    cx: &Context,
    view: &'a ClusterView,
    name: &str,
) -> Result<Vec<(&'a NodeView, String)>, Stop> {
    let owners = view.nodes.iter().filter_map(|node| Some((node, node.inner_slot()?)));
    let keys: Vec<_> = owners.map(|(node, slot)| (node, cx.key_in(slot, name))).collect();
    let masters = cx.shape().masters;
    check::expect(
        keys.len() == masters && masters > 1,
        format!("{masters} masters with slots, and more than one"),
        keys.len().to_string(),
    )?;
    Ok(keys)
}

pub(super) async fn precedence(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let keys = key_of_each_master(cx, &view, "order")?;
    let (owner, key) = &keys[0];
    let (_, other) = &keys[1];
    let judge = async {
        let mut connection = cx.connect(&owner.member.address).await?;
        let written = connection.call(&["SET", key, "text"]).await?;
        check::expect(
            written.is_ok(),
            "+OK",
            format!("{}: SET {key} -> {written}", owner.member),
        )?;
        cx.judge_every_node("the error that comes first in the order", async |member, connection| {
            let (here, locked) = (*member == owner.member, cx.shared().target.password().is_some());
            let mut findings = Vec::new();
            let mut judge = |command: &[&str], expected: &str, reply: &Reply| {
                let right = reply.error_prefix() == Some(expected);
                let told = format!("{} (expected -{expected})", command.join(" "));
                findings.extend(check::unless(right, member, told, reply));
            };
            let wrong_kind = if here { "WRONGTYPE" } else { "MOVED" };
            let questions: [(&[&str], &str); 4] = [
                (&["RCC.NO.SUCH.COMMAND", key], "ERR"),
                (&["GET"], "ERR"),
                (&["MGET", key, other], "CROSSSLOT"),
                (&["LPUSH", key, "1"], wrong_kind),
            ];
            for (command, expected) in questions {
                judge(command, expected, &connection.call(command).await?);
            }
            if locked {
                let command = ["GET", key.as_str()];
                let reply = cx.connect_raw(&member.address).await?.call(&command).await?;
                judge(&command, "NOAUTH", &reply);
            }
            Ok(findings)
        })
        .await
    };
    with_cleanup(judge, cx.remove_keys(std::slice::from_ref(key))).await
}

pub(super) async fn keyless(cx: &Context) -> Outcome {
    let channel = cx.key("channel");
    let (digest, number) = ("0".repeat(40), |reply: &Reply| reply.integer().is_some());
    let text = |reply: &Reply| reply.text().is_some_and(|text| !text.is_empty());
    let list = |reply: &Reply| reply.array().is_some_and(|items| !items.is_empty());
    cx.judge_every_node("an answer from every node", async |member, connection| {
        let questions: [Asked<'_>; 7] = [
            (&["PING"], &text),
            (&["ECHO", "here"], &text),
            (&["TIME"], &list),
            (&["DBSIZE"], &number),
            (&["INFO", "server"], &text),
            (&["SCRIPT", "EXISTS", &digest], &list),
            (&["PUBLISH", &channel, "message"], &number),
        ];
        let mut findings = Vec::new();
        for (command, right) in questions {
            let reply = connection.call(command).await?;
            // A server without scripts, or with these switched off, has none that could be looked for.
            if command[0] == "SCRIPT" && reply.error().is_some_and(is_unknown) {
                cx.note(format!("{member}: SCRIPT EXISTS is left out: {reply}"));
                continue;
            }
            findings.extend(check::unless(right(&reply), member, command.join(" "), &reply));
        }
        Ok(findings)
    })
    .await
}

pub(super) async fn convergence(cx: &Context) -> Outcome {
    let failover = failover::observe(cx).await?;
    failover.promotion.clone()?;
    let writes = failover.writes.ledgers.iter().flat_map(|ledger| &ledger.writes);
    let most = writes.clone().map(|write| write.redirections).max().unwrap_or_default();
    let followed = writes.clone().filter(|write| write.redirections > 0).count();
    cx.count("most redirections of one operation", most, "redirections");
    cx.count("operations that were redirected", followed, "operations");
    // A client that was sent on and on, and gave up, still holds the last redirection.
    let astray = writes.filter_map(|write| match &write.fate {
        Fate::Refused(text) if text.starts_with("-MOVED") || text.starts_with("-ASK") => Some(format!(
            "write {}: after {} redirections {text}",
            write.number, write.redirections
        )),
        Fate::Refused(_) | Fate::Acked | Fate::Unsent(_) | Fate::Indeterminate(_) => None,
    });
    let astray: Vec<String> = astray.collect();
    let expected = format!("no operation with more than {MOST_REDIRECTIONS} redirections");
    check::no_findings(&expected, &astray)?;
    // The victim's clients have been redirected at least once, and have come to rest.
    check::expect(followed > 0, "operations that were redirected", "none was")?;
    // A connection that broke on its way to the node is made anew, and may be redirected once: not all of the last ones are.
    let restless = failover.writes.ledgers.iter().filter(|ledger| {
        let acked: Vec<usize> = ledger.acked().map(|write| write.redirections).collect();
        !acked[acked.len().saturating_sub(10)..].contains(&0)
    });
    let restless: Vec<String> = restless
        .map(|ledger| {
            format!(
                "slot {}: each of the last 10 acknowledged writes was redirected",
                ledger.slot
            )
        })
        .collect();
    Ok(check::no_findings("no redirections any more at the end", &restless)?)
}

pub(super) async fn counted(cx: &Context) -> Outcome {
    const REDIRECTIONS: usize = 3;
    let view = cx.view().await?;
    let keys = key_of_each_master(cx, &view, "counted")?;
    cx.judge_every_node(
        "errorstat_MOVED raised by every redirection",
        async |member, connection| {
            let foreign = keys.iter().find(|(owner, _)| owner.member != *member);
            let (_, key) = foreign.ok_or_else(|| Mismatch::new("a key of another node", "there is none"))?;
            let before = moved_so_far(connection).await?;
            for _ in 0..REDIRECTIONS {
                let reply = connection.call(&["GET", key]).await?;
                if reply.error_prefix() != Some("MOVED") {
                    return Ok(vec![format!("{member}: GET {key} -> {reply} (expected -MOVED)")]);
                }
            }
            let after = moved_so_far(connection).await?;
            let risen = after >= before + REDIRECTIONS;
            let told = format!("{member}: errorstat_MOVED count {before}, after {REDIRECTIONS} redirections {after}");
            Ok(if risen { Vec::new() } else { vec![told] })
        },
    )
    .await
}

/// How many redirections a server says that it has sent.
async fn moved_so_far(connection: &mut Connection) -> Result<usize, Stop> {
    let info = connection.ask_text(&["INFO", "errorstats"]).await?;
    let count = info
        .lines()
        .find_map(|line| line.trim_end().strip_prefix("errorstat_MOVED:count="));
    Ok(count.and_then(|count| count.parse().ok()).unwrap_or(0))
}

pub(super) async fn in_order(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let keys = key_of_each_master(cx, &view, "piped")?;
    let names: Vec<String> = keys.iter().map(|(_, key)| key.clone()).collect();
    let judge = cx.judge_every_node("a reply for each command, in order", async |member, connection| {
        // Twice, so that a reply that is missing or doubled shifts what follows; the echo marks its place.
        let mut commands = Vec::new();
        for round in ["first", "second"] {
            for (_, key) in &keys {
                commands.push(vec!["SET", key.as_str(), round]);
                commands.push(vec!["ECHO", key.as_str()]);
            }
        }
        let replies = connection.pipeline(&commands).await?;
        let mut findings = Vec::new();
        for (place, (command, reply)) in commands.iter().zip(&replies).enumerate() {
            let owner = keys.iter().find(|(_, key)| key == command[1]).map(|(owner, _)| *owner);
            let right = match (command[0], owner) {
                ("ECHO", _) => reply.text() == Some(command[1]),
                (_, Some(owner)) if owner.member == *member => reply.is_ok(),
                _ => Redirect::parse(reply)
                    .is_some_and(|to| to.kind == RedirectKind::Moved && to.slot == slot_of(command[1])),
            };
            let told = format!("{} (place {place} of the pipeline)", command.join(" "));
            findings.extend(check::unless(right, member, told, reply));
        }
        Ok(findings)
    });
    with_cleanup(judge, cx.remove_keys(&names)).await
}

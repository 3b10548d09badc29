//! The bodies of chapter REDIR.

use crate::cases::slots::boundary_slots;
use crate::check::{self, Look, eventually};
use crate::cluster::connection::{Address, Connection};
use crate::cluster::node::NodeView;
use crate::cluster::redirect::{Redirect, RedirectKind};
use crate::cluster::resp::Reply;
use crate::cluster::slot::slot_of;
use crate::context::{Context, with_cleanup};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::collections::BTreeMap;

pub(super) async fn moved_format(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut targets = Vec::new();
    for owner in view.nodes.iter().filter(|node| !node.own_slots().is_empty()) {
        let key = cx.key_in(owner.inner_slot().unwrap_or_default(), "moved");
        targets.push((owner, slot_of(&key), key));
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
            for (owner, slot, key) in targets.iter().filter(|(owner, ..)| owner.member != *member) {
                let reply = connection.call(&["GET", key.as_str()]).await?;
                let moved = Redirect::is_moved(&reply, *slot, &owner.member.address);
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
    cx.judge_every_node(
        "GET executed at the entry, or after one MOVED",
        async |member, entry| {
            let (mut findings, mut hops) = (Vec::new(), BTreeMap::<Address, Vec<&str>>::new());
            for key in &keys {
                let reply = entry.call(&["GET", key.as_str()]).await?;
                match Redirect::parse(&reply) {
                    Some(to) if to.kind == RedirectKind::Moved && view.by_address(&to.address).is_some() => {
                        hops.entry(to.address).or_default().push(key);
                    }
                    // Nobody has written the key.
                    Some(_) | None => {
                        findings.extend(check::unless(reply == Reply::Nil, member, format!("GET {key}"), &reply))
                    }
                }
            }
            for (address, keys) in hops {
                let mut connection = cx.connect(&address).await?;
                for key in keys {
                    let reply = connection.call(&["GET", key]).await?;
                    let command = format!("GET {key} at {address}, where it was sent");
                    findings.extend(check::unless(reply == Reply::Nil, member, command, &reply));
                }
            }
            Ok(findings)
        },
    )
    .await
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
                    view.by_address(&to.address).is_some()
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

/// What is asked, of which two keys, and which reply is right.
type Question<'a> = (&'a str, [&'a str; 2], &'a dyn Fn(&Reply) -> bool);

/// A slot that is open between two masters, with keys of the case: the first two moved, the next two left, the last two
/// never written.
struct Migration<'a> {
    slot: u16,
    source: &'a NodeView,
    destination: &'a NodeView,
    keys: [String; 6],
}

impl Migration<'_> {
    /// Writes the keys, opens the slot and moves two keys.
    async fn begin(&self, cx: &Context, from: &mut Connection, to: &mut Connection) -> Result<(), Stop> {
        let slot = self.slot.to_string();
        let [moved, moved2, left, left2, ..] = self.keys.each_ref().map(String::as_str);
        from.ask(&["MSET", moved, "1", moved2, "1", left, "1", left2, "1"])
            .await?;
        let id = |node: &NodeView| node.myself().map(|line| line.id.clone()).unwrap_or_default();
        to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(self.source)])
            .await?;
        from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(self.destination)])
            .await?;
        let Address { host, port } = &self.destination.member.address;
        let (port, patience) = (port.to_string(), cx.timing().reply().as_millis().to_string());
        let password = cx.shared().target.password();
        let mut migrate = vec!["MIGRATE", host, &port, "", "0", &patience];
        migrate.extend(password.iter().flat_map(|password| ["AUTH", password.expose()]));
        migrate.extend(["KEYS", moved, moved2]);
        from.ask(&migrate).await?;
        Ok(())
    }

    /// Deletes the keys, closes the slot on both nodes, and waits until no node sees an open slot and all agree.
    async fn undo(&self, cx: &Context) -> Result<(), Stop> {
        let slot = self.slot.to_string();
        let mut to = cx.connect(&self.destination.member.address).await?;
        for key in &self.keys {
            to.ask(&["ASKING"]).await?;
            // Where the slot was never opened, this is redirected: nothing was moved then.
            to.call(&["DEL", key.as_str()]).await?;
        }
        to.ask(&["CLUSTER", "SETSLOT", &slot, "STABLE"]).await?;
        let mut from = cx.connect(&self.source.member.address).await?;
        from.ask(&["CLUSTER", "SETSLOT", &slot, "STABLE"]).await?;
        for key in &self.keys {
            from.ask(&["DEL", key.as_str()]).await?;
        }
        eventually(
            cx,
            "the slot closed and all nodes agreed",
            cx.timing().gossip(),
            async || {
                let view = cx.look().await?;
                let open = view
                    .nodes
                    .iter()
                    .flat_map(|node| node.myself().map_or(&[] as &[String], |line| &line.open_slots));
                let findings: Vec<String> = open.cloned().chain(view.disagreements()).collect();
                Ok(if findings.is_empty() {
                    Look::Reached(())
                } else {
                    Look::NotYet(findings.join("\n"))
                })
            },
        )
        .await
    }

    /// What the two nodes answer wrongly while the slot is open.
    async fn judge(&self, from: &mut Connection, to: &mut Connection) -> Result<Vec<String>, Stop> {
        let [moved, moved2, left, left2, none, none2] = self.keys.each_ref().map(String::as_str);
        let (source, destination) = (&self.source.member, &self.destination.member);
        let again = |reply: &Reply| reply.error_prefix() == Some("TRYAGAIN");
        let served = |reply: &Reply| *reply == Reply::Array(vec![Reply::Bulk("1".into()), Reply::Bulk("1".into())]);
        let asks = |reply: &Reply| Redirect::is_ask(reply, self.slot, &destination.address);
        let moves = |reply: &Reply| Redirect::is_moved(reply, self.slot, &source.address);
        // Before Redis 7.0 (no CLUSTER SHARDS) the source asks to go on; the destination says the rest.
        let old = self.source.shards.is_err();
        let again_or_ask = |reply: &Reply| again(reply) || (old && asks(reply));
        let questions: [Question<'_>; 3] = [
            ("MGET of a moved and a left key", [moved, left], &again_or_ask),
            ("MGET of two left keys", [left, left2], &served),
            ("MGET of two absent keys", [none, none2], &asks),
        ];
        let mut findings = Vec::new();
        for (what, [one, other], right) in questions {
            let reply = from.call(&["MGET", one, other]).await?;
            findings.extend(check::unless(right(&reply), source, what, &reply));
        }
        let reply = to.call(&["MGET", moved, moved2]).await?;
        findings.extend(check::unless(
            moves(&reply),
            destination,
            "MGET of two moved keys without ASKING",
            &reply,
        ));
        let questions: [Question<'_>; 2] = [
            ("MGET of two moved keys after ASKING", [moved, moved2], &served),
            ("MGET of a moved and a left key after ASKING", [moved, left], &again),
        ];
        for (what, [one, other], right) in questions {
            to.ask(&["ASKING"]).await?;
            let reply = to.call(&["MGET", one, other]).await?;
            findings.extend(check::unless(right(&reply), destination, what, &reply));
        }
        Ok(findings)
    }
}

/// A slot of a node that holds no key.
async fn empty_slot(node: &NodeView, connection: &mut Connection) -> Result<u16, Stop> {
    let slots = node.own_slots();
    for slot in slots.iter().skip(slots.len() / 4).take(100) {
        let count = connection
            .ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()])
            .await?;
        if count.integer() == Some(0) {
            return Ok(*slot);
        }
    }
    Err(anyhow::anyhow!(
        "none of 100 slots of {} is empty: no slot can be opened without touching others' keys",
        node.member
    )
    .into())
}

pub(super) async fn try_again(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut owners = view.nodes.iter().filter(|node| !node.own_slots().is_empty());
    let (Some(source), Some(destination)) = (owners.next(), owners.next()) else {
        return Err(Mismatch::new("two masters with slots", "there are fewer").into());
    };
    let mut from = cx.connect(&source.member.address).await?;
    let mut to = cx.connect(&destination.member.address).await?;
    let slot = empty_slot(source, &mut from).await?;
    let keys = ["moved", "moved-too", "left", "left-too", "none", "none-either"].map(|name| cx.key_in(slot, name));
    let migration = Migration {
        slot,
        source,
        destination,
        keys,
    };
    let judge = async {
        migration.begin(cx, &mut from, &mut to).await?;
        let findings = migration.judge(&mut from, &mut to).await?;
        Ok(check::no_findings(
            "TRYAGAIN for split keys, ASK for absent ones, values for whole sets",
            &findings,
        )?)
    };
    with_cleanup(judge, migration.undo(cx)).await
}

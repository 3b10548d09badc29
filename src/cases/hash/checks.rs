//! The bodies of chapter HASH.

use crate::check;
use crate::cluster::node::NodeView;
use crate::cluster::resp::Reply;
use crate::cluster::slot::{SLOT_COUNT, slot_of};
use crate::cluster::view::ClusterView;
use crate::context::{Context, with_cleanup};
use crate::feature::Feature;
use crate::verdict::{Outcome, Stop};

/// Keys with the slot that each belongs to: hexadecimal key, shown key, hexadecimal hashed part, CRC16, slot.
const VECTORS: &str = include_str!("../vectors.csv");

/// A key and its slot.
type Vector = (Vec<u8>, u16);

/// The rows of the vector table; a row whose slot is not our own CRC's is an error of the suite.
fn vectors() -> anyhow::Result<Vec<Vector>> {
    VECTORS
        .lines()
        .skip(1)
        .map(|row| {
            let hex = row.split(',').next().unwrap_or_default();
            let digits: Vec<char> = hex.chars().collect();
            let key: Vec<u8> = digits
                .chunks(2)
                .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16))
                .collect::<Result<_, _>>()?;
            let slot = row.rsplit(',').next().unwrap_or_default().parse()?;
            anyhow::ensure!(slot_of(&key) == slot, "row {row}: our own slot is {}", slot_of(&key));
            Ok((key, slot))
        })
        .collect()
}

/// Expects `CLUSTER KEYSLOT` of every key on every node to be the slot given.
async fn key_slots(cx: &Context, vectors: &[Vector]) -> Outcome {
    let commands: Vec<Vec<&[u8]>> = vectors
        .iter()
        .map(|(key, _)| vec![b"CLUSTER".as_slice(), b"KEYSLOT", key])
        .collect();
    let expected = format!("the right slot for each of {} keys on every node", vectors.len());
    cx.judge_every_node(&expected, async |member, connection| {
        let replies = connection.pipeline(&commands).await?;
        let judged = vectors.iter().zip(&replies).filter_map(|((key, slot), reply)| {
            let right = reply.integer() == Some(i64::from(*slot));
            let shown = &key[..key.len().min(40)];
            check::unless(
                right,
                member,
                format!("CLUSTER KEYSLOT \"{}\" (expected :{slot})", shown.escape_ascii()),
                reply,
            )
        });
        Ok(judged.collect())
    })
    .await
}

/// [`key_slots`] for keys written as literals.
async fn literal_key_slots(cx: &Context, vectors: &[(&[u8], u16)]) -> Outcome {
    let vectors: Vec<Vector> = vectors.iter().map(|(key, slot)| (key.to_vec(), *slot)).collect();
    key_slots(cx, &vectors).await
}

pub(super) async fn all_vectors(cx: &Context) -> Outcome {
    let vectors = vectors()?;
    cx.count("vectors", vectors.len(), "keys");
    key_slots(cx, &vectors).await
}

pub(super) async fn check_value(cx: &Context) -> Outcome {
    literal_key_slots(cx, &[(b"123456789", 12739)]).await
}

pub(super) async fn first_tag(cx: &Context) -> Outcome {
    literal_key_slots(
        cx,
        &[
            (b"foo{bar}{zap}", 5061),
            (b"bar", 5061),
            (b"{a}{b}", 15495),
            (b"a", 15495),
        ],
    )
    .await
}

pub(super) async fn empty_tag(cx: &Context) -> Outcome {
    let vectors: [(&[u8], u16); 5] = [
        (b"{}", 15257),
        (b"foo{}{bar}", 8363),
        (b"{}{a}", 13650),
        (b"{}{user1000}.following", 8443),
        (b"{user1000}.following", 3443),
    ];
    literal_key_slots(cx, &vectors).await
}

pub(super) async fn nested_brace(cx: &Context) -> Outcome {
    literal_key_slots(
        cx,
        &[(b"foo{{bar}}zap", 4015), (b"{bar", 4015), (b"{{}}", 4092), (b"{", 4092)],
    )
    .await
}

pub(super) async fn unbalanced_braces(cx: &Context) -> Outcome {
    let vectors: [(&[u8], u16); 5] = [
        (b"foo{", 7673),
        (b"foo{bar", 15278),
        (b"foo}bar{", 11073),
        (b"foo}{bar}", 5061),
        (b"bar", 5061),
    ];
    literal_key_slots(cx, &vectors).await
}

pub(super) async fn binary_safe(cx: &Context) -> Outcome {
    let vectors: [(&[u8], u16); 5] = [
        (b"\x00", 0),
        (b"\xff", 7920),
        (b"\r\n", 5910),
        (b"\x80{\xff\x00}z", 1023),
        ("{用户}:1".as_bytes(), 5340),
    ];
    literal_key_slots(cx, &vectors).await
}

pub(super) async fn empty_key(cx: &Context) -> Outcome {
    literal_key_slots(cx, &[(b"", 0)]).await?;
    let view = cx.view().await?;
    let owner = view.owner_of(0).map(|node| &node.member);
    let owner = owner.ok_or_else(|| crate::verdict::Mismatch::new("an owner of slot 0", "no node claims it"))?;
    let value = cx.key("value of the empty key");
    let judge = async {
        let mut connection = cx.connect(&owner.address).await?;
        let set = connection.call(&["SET", "", &value, "NX"]).await?;
        let (command, reply, right) = if set == Reply::Nil {
            cx.note("the deployment has an empty key of its own; it was left alone");
            let reply = connection.call(&["EXISTS", ""]).await?;
            ("EXISTS", reply.clone(), reply.integer() == Some(1))
        } else {
            let reply = connection.call(&["GET", ""]).await?;
            (
                "GET",
                reply.clone(),
                set.is_ok() && reply.bytes() == Some(value.as_bytes()),
            )
        };
        let seen = format!("{owner}: SET \"\" … NX -> {set}, {command} \"\" -> {reply}");
        Ok(check::expect(
            right,
            "SET -> +OK and GET -> the value, or SET -> nil and EXISTS -> :1",
            seen,
        )?)
    };
    let cleanup = async {
        let mut connection = cx.connect(&owner.address).await?;
        if connection.call(&["GET", ""]).await?.bytes() == Some(value.as_bytes()) {
            connection.ask(&["DEL", ""]).await?;
        }
        Ok(())
    };
    with_cleanup(judge, cleanup).await
}

pub(super) async fn seed_example(cx: &Context) -> Outcome {
    literal_key_slots(
        cx,
        &[(b"this{foo}key", 12182), (b"another{foo}key", 12182), (b"foo", 12182)],
    )
    .await
}

/// A slot of every node that claims some, well inside what it claims.
pub(super) fn inner_slots(view: &ClusterView) -> Vec<u16> {
    view.nodes.iter().filter_map(NodeView::inner_slot).collect()
}

/// The keys that a node holds in a slot, by `CLUSTER GETKEYSINSLOT`.
pub(super) async fn keys_in_slot(cx: &Context, node: &NodeView, slot: u16) -> Result<Vec<Vec<u8>>, Stop> {
    let slot = slot.to_string();
    let mut connection = cx.connect(&node.member.address).await?;
    let count = connection
        .ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot])
        .await?
        .integer()
        .unwrap_or(0);
    // More than there are, since others may be added between the two questions.
    let limit = (count + 1000).to_string();
    let reply = connection.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, &limit]).await?;
    let keys = reply
        .array()
        .ok_or_else(|| connection.nonsense("CLUSTER GETKEYSINSLOT", reply.to_string()))?;
    Ok(keys.iter().filter_map(Reply::bytes).map(<[u8]>::to_vec).collect())
}

/// Whether no node tells which keys it holds of a slot: one alone that does not is at fault.
async fn nowhere_known(cx: &Context) -> Result<bool, Stop> {
    let answers = cx.on_every_node(async |_, connection| Ok(Feature::SlotKeys.lacking(connection).await?));
    Ok(answers.await?.iter().all(Option::is_some))
}

/// What the owner of a slot answers wrongly about two keys of it.
pub(super) async fn apart(cx: &Context, owner: &NodeView, slot: u16, pair: &[String]) -> Result<Vec<String>, Stop> {
    let member = &owner.member;
    let (name, surname) = (pair[0].as_str(), pair[1].as_str());
    let mut connection = cx.connect(&member.address).await?;
    let set = connection.call(&["MSET", name, "Angela", surname, "White"]).await?;
    let got = connection.call(&["MGET", name, surname]).await?;
    let both = Reply::Array(vec![Reply::Bulk("Angela".into()), Reply::Bulk("White".into())]);
    let together = [
        check::unless(set.is_ok(), member, format!("MSET in slot {slot}"), &set),
        check::unless(got == both, member, format!("MGET in slot {slot}"), &got),
    ];
    let mut findings: Vec<String> = together.into_iter().flatten().collect();
    if let Some(reason) = Feature::SlotKeys.lacking(&mut connection).await?
        && nowhere_known(cx).await?
    {
        cx.note(format!(
            "{member}: {reason}; which keys it holds was judged by their use alone"
        ));
        return Ok(findings);
    }
    let count = connection
        .call(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()])
        .await?;
    let enough = count.integer().is_some_and(|count| count >= 2);
    let stored = keys_in_slot(cx, owner, slot).await?;
    let named = pair
        .iter()
        .all(|key| stored.iter().any(|other| other == key.as_bytes()));
    findings.extend(check::unless(
        enough,
        member,
        format!("CLUSTER COUNTKEYSINSLOT {slot}"),
        &count,
    ));
    findings.extend((!named).then(|| format!("{member}: CLUSTER GETKEYSINSLOT {slot} does not name both keys")));
    Ok(findings)
}

pub(super) async fn colocation(cx: &Context) -> Outcome {
    const USER_1000: u16 = 1649;
    let view = cx.view().await?;
    let slots: Vec<u16> = inner_slots(&view).into_iter().chain([USER_1000]).collect();
    let keys: Vec<String> = slots
        .iter()
        .flat_map(|slot| ["name", "surname"].map(|name| cx.key_in(*slot, name)))
        .collect();
    let judge = async {
        let mut findings = Vec::new();
        for (slot, pair) in slots.iter().zip(keys.chunks(2)) {
            match view.owner_of(*slot) {
                Some(owner) => findings.extend(apart(cx, owner, *slot, pair).await?),
                None => findings.push(format!("no node claims slot {slot}")),
            }
        }
        Ok(check::no_findings(
            "MSET, MGET and the slot's keys show both keys on the owner",
            &findings,
        )?)
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

/// Keys in two neighbouring slots of a node; none where it claims fewer.
fn neighbours(cx: &Context, node: &NodeView) -> Option<[String; 2]> {
    let slots = node.own_slots();
    let mut slots = slots.iter().skip(slots.len() / 3);
    Some([cx.key_in(*slots.next()?, "one"), cx.key_in(*slots.next()?, "other")])
}

pub(super) async fn cross_slot(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let pairs: Vec<(&NodeView, [String; 2])> = view
        .nodes
        .iter()
        .filter_map(|node| Some((node, neighbours(cx, node)?)))
        .collect();
    let keys: Vec<String> = pairs.iter().flat_map(|(_, pair)| pair.clone()).collect();
    let judge = async {
        check::expect(!pairs.is_empty(), "a master with two slots", "no node claims two slots")?;
        let mut findings = Vec::new();
        for (node, [one, other]) in &pairs {
            let slots = format!("{} and {}", slot_of(one), slot_of(other));
            let mut connection = cx.connect(&node.member.address).await?;
            let reply = connection.call(&["MSET", one, "1", other, "2"]).await?;
            let refused = reply.error_prefix() == Some("CROSSSLOT");
            findings.extend(check::unless(
                refused,
                &node.member,
                format!("MSET in slots {slots}"),
                &reply,
            ));
            for key in [one, other] {
                let exists = connection.call(&["EXISTS", key]).await?;
                let absent = exists.integer() == Some(0);
                findings.extend(check::unless(
                    absent,
                    &node.member,
                    format!("EXISTS {key} after it"),
                    &exists,
                ));
            }
        }
        Ok(check::no_findings(
            "MSET -> -CROSSSLOT, and neither key exists",
            &findings,
        )?)
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn stored_where_mapped(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let slots = inner_slots(&view);
    let keys: Vec<String> = slots.iter().map(|slot| cx.key_in(*slot, "stored")).collect();
    let judge = async {
        let mut findings = Vec::new();
        check::expect(
            slots.len() == cx.shape().masters,
            format!("{} masters with slots", cx.shape().masters),
            slots.len().to_string(),
        )?;
        for (slot, key) in slots.iter().zip(&keys) {
            let reply = cx.call_anywhere(&["SET", key, "1"]).await?;
            check::expect(reply.is_ok(), format!("SET {key} -> +OK"), reply.to_string())?;
            for node in view.masters() {
                let owners = node
                    .owners_by_slots()
                    .unwrap_or_else(|_| vec![None; usize::from(SLOT_COUNT)]);
                let owner = owners[usize::from(*slot)].clone().unwrap_or_else(|| "nobody".into());
                let is_owner = node.myself().is_some_and(|line| line.id == owner);
                let stored = keys_in_slot(cx, node, *slot)
                    .await?
                    .iter()
                    .any(|other| other == key.as_bytes());
                if stored != is_owner {
                    let named = if stored { "names" } else { "does not name" };
                    let owner = view.name_of(&owner);
                    let member = &node.member;
                    findings.push(format!("{member}: CLUSTER GETKEYSINSLOT {slot} {named} {key}; its CLUSTER SLOTS gives the slot to {owner}"));
                }
            }
        }
        Ok(check::no_findings(
            "every key on the owner of its slot, and on no other master",
            &findings,
        )?)
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn case_and_space(cx: &Context) -> Outcome {
    literal_key_slots(cx, &[(b"{Foo}", 10576), (b"{foo}", 12182), (b"{ }", 9314)]).await
}

pub(super) async fn no_illustration(cx: &Context) -> Outcome {
    literal_key_slots(cx, &[(b"x", 16287)]).await
}

pub(super) async fn long_keys(cx: &Context) -> Outcome {
    let key = [b'x'; 1000];
    let tag = format!("{{{}}}", "t".repeat(300));
    let before = format!("{}{{foo}}", "p".repeat(300));
    literal_key_slots(cx, &[(&key, 3195), (tag.as_bytes(), 9496), (before.as_bytes(), 12182)]).await
}

pub(super) async fn one_key_alone(cx: &Context) -> Outcome {
    let expected = "an integer for one key, and an error that begins with ERR for none and for two";
    cx.judge_every_node(expected, async |member, connection| {
        let mut findings = Vec::new();
        for arguments in [&[] as &[&str], &["one", "two"]] {
            let command = [&["CLUSTER", "KEYSLOT"], arguments].concat();
            let reply = connection.call(&command).await?;
            // The words after it differ by version and by server.
            let refused = reply.error_prefix() == Some("ERR");
            findings.extend(check::unless(refused, member, command.join(" "), &reply));
        }
        // A server that knows no such command refuses those two as well.
        let reply = connection.call(&["CLUSTER", "KEYSLOT", "one"]).await?;
        let taken = reply.integer().is_some();
        findings.extend(check::unless(taken, member, "CLUSTER KEYSLOT one", &reply));
        Ok(findings)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_our_own_slots() {
        let vectors = vectors().unwrap();
        assert_eq!(vectors.len(), 97);
        assert!(vectors.contains(&(b"this{foo}key".to_vec(), 12182)));
    }
}

//! Many keys at once: random ones, and all those of a tag.

use super::checks::inner_slots;
use crate::cases::multi::keys::scan;
use crate::check;
use crate::cluster::node::NodeView;
use crate::cluster::slot::slot_of;
use crate::context::{Context, with_cleanup};
use crate::verdict::Outcome;

/// How many random keys are asked for.
const RANDOM_KEYS: usize = 20_000;
/// How many of them at once.
const KEYS_AT_ONCE: usize = 500;

/// Keys of up to 40 bytes, always the same, half of their bytes braces: numbers of splitmix64 from a fixed seed.
fn random_keys_of(mut seed: u64) -> Vec<Vec<u8>> {
    let mut next = move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    (0..RANDOM_KEYS)
        .map(|_| {
            (0..next() % 41)
                .map(|_| {
                    let [kind, byte, ..] = next().to_le_bytes();
                    match kind % 4 {
                        0 => b'{',
                        1 => b'}',
                        _ => byte,
                    }
                })
                .collect()
        })
        .collect()
}

pub(super) async fn random_keys(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let asked: Vec<&NodeView> = [view.masters().next(), view.replicas().next()]
        .into_iter()
        .flatten()
        .collect();
    check::expect(!asked.is_empty(), "a master", "no node says that it is one")?;
    let keys = random_keys_of(41);
    cx.count("random keys", keys.len(), "keys");
    let mut findings = Vec::new();
    for node in asked {
        let mut connection = cx.connect(&node.member.address).await?;
        for chunk in keys.chunks(KEYS_AT_ONCE) {
            let commands: Vec<Vec<&[u8]>> = chunk
                .iter()
                .map(|key| vec![b"CLUSTER".as_slice(), b"KEYSLOT", key])
                .collect();
            let replies = connection.pipeline(&commands).await?;
            findings.extend(chunk.iter().zip(&replies).filter_map(|(key, reply)| {
                let slot = slot_of(key);
                let command = format_args!("CLUSTER KEYSLOT \"{}\" (expected :{slot})", key.escape_ascii());
                check::unless(reply.integer() == Some(slot.into()), &node.member, command, reply)
            }));
        }
    }
    let expected = format!("the suite's own slot for each of {RANDOM_KEYS} keys");
    Ok(check::no_findings(expected, &findings)?)
}

/// How many keys with one tag are written to each master.
const TAGGED_KEYS: usize = 100;

pub(super) async fn tagged_scan(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let slots = inner_slots(&view);
    let common: Vec<String> = slots.iter().map(|slot| cx.key_in(*slot, "scan")).collect();
    let tagged = |common: &String| (0..TAGGED_KEYS).map(|number| format!("{common}{number}")).collect();
    let keys: Vec<Vec<String>> = common.iter().map(tagged).collect();
    let judge = async {
        let masters = cx.shape().masters;
        check::expect(
            slots.len() == masters,
            format!("{masters} masters with slots"),
            slots.len().to_string(),
        )?;
        let mut findings = Vec::new();
        for ((slot, common), keys) in slots.iter().zip(&common).zip(&keys) {
            let Some(owner) = view.owner_of(*slot) else {
                findings.push(format!("no node claims slot {slot}"));
                continue;
            };
            let mut connection = cx.connect(&owner.member.address).await?;
            let sets: Vec<Vec<&str>> = keys.iter().map(|key| vec!["SET", key, "1"]).collect();
            let replies = connection.pipeline(&sets).await?;
            let refused = replies.iter().find(|reply| !reply.is_ok());
            findings.extend(refused.map(|reply| format!("{}: SET -> {reply}", owner.member)));
            let found = scan(&mut connection, &format!("{common}*")).await?;
            let missing = keys.iter().filter(|key| !found.contains(*key)).count();
            if missing > 0 || found.len() != keys.len() {
                findings.push(format!(
                    "{}: SCAN 0 MATCH {common}* finds {} keys; {missing} of {} are missing",
                    owner.member,
                    found.len(),
                    keys.len()
                ));
            }
        }
        Ok(check::no_findings(
            format!("all {TAGGED_KEYS} keys of a tag by SCAN, and no other"),
            &findings,
        )?)
    };
    with_cleanup(judge, cx.remove_keys(&keys.concat())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_keys_are_the_same_each_time_and_rich_in_tags() {
        let keys = random_keys_of(41);
        assert_eq!(keys, random_keys_of(41));
        let tagged = keys
            .iter()
            .filter(|key| crate::cluster::slot::hashed_part(key).len() < key.len());
        assert!(tagged.count() > RANDOM_KEYS / 3);
    }
}

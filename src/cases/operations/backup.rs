//! The case of chapter OPS about a backup that is restored into another cluster.

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile};
use crate::check::{self, Look, eventually, expect, no_findings};
use crate::cluster::node::Member;
use crate::cluster::slot;
use crate::cluster::view::Shape;
use crate::context::{Alteration, Context, Fault, Scratch};
use crate::verdict::{Outcome, Stop};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub(super) const RESTORED: Case = Case {
    id: CaseId("OPS-14"),
    title: "a backup of every master comes back in a new cluster of the same slots",
    requirement: "A backup of every master SHOULD restore into a new cluster with the same map of slots.",
    source: "redis-cli --cluster help, command backup; Redis documentation, Persistence, section Backing up Redis data",
    level: Level::Should,
    profile: Profile::Extended,
    seed: &[],
    impact: Impact::Apart,
    needs: &[Capability::Scratch, Capability::Exec, Capability::Files],
    features: &[Feature::Config],
    bound: "T_hook for the backup, T_sched + T_w + T_fail for the new cluster",
    controls: &["restored-elsewhere"],
    method: "Makes two clusters beside the deployment, of masters alone. `--cluster backup` of the one must end with exit status 0, and \
             name every master with its slots in nodes.json. Each snapshot is put in the place of that of the other cluster's master \
             of the same slots while that is stopped: all keys must then be there by value, and no other.",
    run: |cx| Box::pin(restored(cx)),
};

/// How many keys are written to each shard.
const KEYS: usize = 50;

/// A snapshot of each master that the client made, by the master's slots.
type Snapshots = BTreeMap<String, PathBuf>;

async fn restored(cx: &Context) -> Outcome {
    let scratch = Scratch {
        shape: Shape {
            masters: cx.shape().masters,
            replicas_per_master: 0,
        },
        // What is loaded at a start is the snapshot, and nothing is saved at a stop.
        alterations: ["appendonly no", "save \"\"", "dbfilename dump.rdb"]
            .map(Alteration::everywhere)
            .into(),
        ..cx.scratch_like_the_deployment()
    };
    cx.with_scratch(&scratch, async |source| {
        let data = write(source).await?;
        let snapshots = back_up(source).await?;
        cx.with_scratch(&scratch, async |empty| {
            restore(empty, &snapshots).await?;
            compare(empty, &data).await
        })
        .await
    })
    .await
}

/// The slots of every master, described as one text each, with the master.
async fn masters(beside: &Context) -> Result<BTreeMap<String, (Member, String)>, Stop> {
    let view = beside.view().await?;
    let masters: BTreeMap<String, (Member, String)> = view
        .nodes
        .iter()
        .filter_map(|node| {
            let id = node.myself()?.id.clone();
            Some((slot::describe(node.own_slots()), (node.member.clone(), id)))
        })
        .collect();
    let count = beside.shape().masters;
    expect(
        masters.len() == count,
        format!("{count} masters with slots"),
        masters.len().to_string(),
    )?;
    Ok(masters)
}

async fn write(source: &Context) -> Result<Vec<String>, Stop> {
    let mut keys = Vec::new();
    for node in source.view().await?.nodes {
        let Some(slot) = node.inner_slot() else { continue };
        let mut connection = source.connect(&node.member.address).await?;
        for number in 0..KEYS {
            let key = source.key_in(slot, &number.to_string());
            let reply = connection.call(&["SET", &key, &key]).await?;
            let seen = format!("{}: SET {key} -> {reply}", node.member);
            expect(reply.is_ok(), "+OK to every key written before the backup", seen)?;
            keys.push(key);
        }
    }
    let expected = KEYS * source.shape().masters;
    expect(
        keys.len() == expected,
        format!("{expected} keys written"),
        keys.len().to_string(),
    )?;
    Ok(keys)
}

async fn back_up(source: &Context) -> Result<Snapshots, Stop> {
    let masters = masters(source).await?;
    let Some((first, _)) = masters.values().next() else {
        return Err(anyhow::anyhow!("there is no master").into());
    };
    let folder = source.data_folder(first)?;
    // The same folder, by the name that it has where the server and the client run.
    let mut connection = source.connect(&first.address).await?;
    let reply = connection.ask(&["CONFIG", "GET", "dir"]).await?;
    let Some([_, dir]) = reply.array() else {
        return Err(connection.nonsense("CONFIG GET", reply.to_string()).into());
    };
    let dir = dir.text().unwrap_or_default();
    let address = first.address.to_string();
    let outcome = source
        .client_program(first, &["--cluster", "backup", &address, dir], source.timing().hook())
        .await?;
    let printed = format!("{} {}", outcome.stdout.trim(), outcome.stderr.trim());
    expect(
        outcome.status == 0,
        "--cluster backup ends with exit status 0",
        format!("{}: {printed}", outcome.status),
    )?;
    let read = std::fs::read_to_string(folder.join("nodes.json"));
    let text = read.map_err(|error| check_file("nodes.json", &error))?;
    let listed: Vec<serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| anyhow::anyhow!("nodes.json: {error}"))?;
    let mut snapshots = Snapshots::new();
    let mut findings = Vec::new();
    for (slots, (member, id)) in &masters {
        let of_it = listed.iter().find(|node| node["name"] == id.as_str());
        let named = of_it.map(|node| slots_of(&node["slots"])).unwrap_or_default();
        if &named != slots {
            findings.push(format!("{member} has the slots {slots}, in nodes.json {named}"));
        }
        let address = &member.address;
        // `redis-node-…`, `valkey-node-…`: each client's own.
        let end = format!("-node-{}-{}-{id}.rdb", address.host, address.port);
        let entries = std::fs::read_dir(&folder).map_err(anyhow::Error::from)?;
        let mut files = entries.flatten().map(|entry| entry.path());
        match files.find(|file| file.to_string_lossy().ends_with(&end)) {
            Some(file) => {
                snapshots.insert(slots.clone(), file);
            }
            None => findings.push(format!("{member}: the backup has no …{end} in {}", folder.display())),
        }
    }
    no_findings("a snapshot of every master, and its slots in nodes.json", &findings)?;
    Ok(snapshots)
}

fn check_file(name: &str, error: &std::io::Error) -> crate::verdict::Mismatch {
    crate::verdict::Mismatch::new(format!("{name} in the backup"), error.to_string())
}

/// The slots of a node in nodes.json, a list of pairs of a first and a last one.
fn slots_of(ranges: &serde_json::Value) -> String {
    let pairs = ranges.as_array().into_iter().flatten();
    let bounds = pairs.filter_map(|pair| {
        let bound = |at: usize| u16::try_from(pair.get(at)?.as_u64()?).ok();
        Some((bound(0)?, bound(1)?))
    });
    slot::describe(bounds.flat_map(|(first, last)| first..=last))
}

/// Gives every master of the new cluster the snapshot of that with the same slots.
async fn restore(empty: &Context, snapshots: &Snapshots) -> Outcome {
    let masters = masters(empty).await?;
    for (slots, (member, _)) in &masters {
        let Some(snapshot) = snapshots.get(slots) else {
            let known: Vec<&str> = snapshots.keys().map(String::as_str).collect();
            let expected = "a new cluster whose masters have the slots of the old ones";
            expect(
                false,
                expected,
                format!("{member}: {slots}; backed up: {}", known.join("; ")),
            )?;
            continue;
        };
        empty.inject(Fault::KeepAway, member).await?;
        let place = empty.data_folder(member)?.join("dump.rdb");
        let copied = std::fs::copy(snapshot, &place);
        copied.map_err(|error| anyhow::anyhow!("{}: {error}", place.display()))?;
    }
    empty.undo_faults().await?;
    let timing = empty.timing();
    let bound = timing.scheduling() + timing.writable_delay() + timing.fail() + Duration::from_secs(1);
    eventually(empty, "the restored cluster is whole", bound, async || {
        let missing = empty.view().await?.not_whole(empty.shape());
        Ok(if missing.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(missing.join("\n"))
        })
    })
    .await
}

async fn compare(empty: &Context, keys: &[String]) -> Outcome {
    let view = empty.view().await?;
    let mut findings = Vec::new();
    let mut count = 0;
    for node in &view.nodes {
        let mut connection = empty.connect(&node.member.address).await?;
        let size = connection.ask(&["DBSIZE"]).await?;
        count += size.integer().and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
    }
    for key in keys {
        let Some(owner) = view.owner_of(slot::slot_of(key.as_bytes())) else {
            findings.push(format!("nobody owns the slot of {key}"));
            continue;
        };
        let mut connection = empty.connect(&owner.member.address).await?;
        let reply = connection.call(&["GET", key]).await?;
        let there = reply.text() == Some(key);
        findings.extend(check::unless(there, &owner.member, format!("GET {key}"), &reply));
    }
    if count != keys.len() {
        findings.push(format!("{count} keys in all"));
    }
    let expected = format!("{} keys by value in the new cluster, and no other", keys.len());
    no_findings(expected, &findings)?;
    empty.count("keys restored", keys.len(), "keys");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_slots_of_a_backup_are_read() {
        assert_eq!(slots_of(&json!([[0, 2], [5, 5]])), slot::describe([0, 1, 2, 5]));
        assert_eq!(slots_of(&json!(null)), slot::describe([]));
    }
}

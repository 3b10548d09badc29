//! The body of REPL-25: a replica's data set is its master's.

use super::pairing::{attached_view, pairs};
use crate::check::{self, Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::node::NodeView;
use crate::cluster::resp::Reply;
use crate::context::{Context, with_cleanup};
use crate::verdict::{Mismatch, Outcome, Stop};

/// How many keys of other clients are compared in a shard.
const SAMPLE: usize = 100;

/// What is written to each shard: a key of every type. Small values, whose serialised form does not depend on the server's
/// hash seed.
fn contents(keys: &[String]) -> Vec<Vec<&str>> {
    let values: [&[&str]; 5] = [
        &["SET", "text"],
        &["RPUSH", "one", "two", "three"],
        &["SADD", "1", "2", "3"],
        &["HSET", "field", "value"],
        &["ZADD", "1", "one", "2", "two"],
    ];
    let commands = keys.iter().zip(values.iter().cycle());
    commands
        .map(|(key, value)| [&value[..1], &[key.as_str()], &value[1..]].concat())
        .collect()
}

pub(super) async fn same_data(cx: &Context) -> Outcome {
    let view = attached_view(cx).await?;
    let pairs = pairs(cx, &view)?;
    let mut keys: Vec<Vec<String>> = Vec::new();
    for (replica, master) in &pairs {
        let slot = master.inner_slot().ok_or_else(|| {
            let actual = format!("{} claims none", master.member);
            Mismatch::new("a master with slots", actual)
        })?;
        let name = |number: usize| cx.key_in(slot, &format!("{}-{number}", replica.member.name));
        keys.push((0..25).map(name).collect());
    }
    let judge = async {
        for ((replica, master), keys) in pairs.iter().zip(&keys) {
            compare(cx, replica, master, keys).await?;
        }
        Ok(())
    };
    with_cleanup(judge, cx.remove_keys(&keys.concat())).await
}

async fn compare(cx: &Context, replica: &NodeView, master: &NodeView, keys: &[String]) -> Outcome {
    let mut writing = cx.connect(&master.member.address).await?;
    let mut reading = cx.connect(&replica.member.address).await?;
    let replies = writing.pipeline(&contents(keys)).await?;
    if let Some(refused) = replies.iter().find(|reply| reply.error().is_some()) {
        let actual = format!("{}: a write -> {refused}", master.member);
        return Err(Mismatch::new("every write done", actual).into());
    }
    let reply = reading.call(&["READONLY"]).await?;
    let seen = format!("{}: READONLY -> {reply}", replica.member);
    check::expect(reply.is_ok(), "READONLY -> +OK", seen)?;
    let others = sample(&mut writing).await?;
    let compared: Vec<&String> = keys.iter().chain(&others).collect();
    let bound = cx.timing().catch_up();
    eventually(cx, "the same data on the replica", bound, async || {
        let findings = differences(&mut writing, &mut reading, &compared, keys.len()).await?;
        Ok(if findings.is_empty() {
            Look::Reached(())
        } else {
            let shown: Vec<String> = findings
                .iter()
                .take(5)
                .map(|text| format!("{}: {text}", replica.member))
                .collect();
            Look::NotYet(shown.join("\n"))
        })
    })
    .await?;
    cx.count(
        &format!("keys compared on {}", replica.member.name),
        compared.len(),
        "keys",
    );
    Ok(())
}

/// Some keys that are there already, whoever wrote them.
async fn sample(connection: &mut Connection) -> Result<Vec<String>, Stop> {
    let reply = connection.ask(&["SCAN", "0", "COUNT", &SAMPLE.to_string()]).await?;
    let keys = match reply.array() {
        Some([_, keys]) => keys.array().unwrap_or_default(),
        _ => return Err(connection.nonsense("SCAN", reply.to_string()).into()),
    };
    Ok(keys
        .iter()
        .filter_map(Reply::text)
        .take(SAMPLE)
        .map(str::to_owned)
        .collect())
}

/// What the two ends say of keys, and how many keys each has. The master is asked before and after: what changed
/// between is not judged.
async fn differences(
    writing: &mut Connection,
    reading: &mut Connection,
    keys: &[&String],
    ours: usize,
) -> Result<Vec<String>, Stop> {
    // Another client's sets and hashes may be serialised in another order: only their type is compared.
    let question =
        |(index, key): (usize, &&String)| vec![if index < ours { "DUMP" } else { "TYPE" }.to_owned(), (*key).clone()];
    let mut questions: Vec<Vec<String>> = keys.iter().enumerate().map(question).collect();
    questions.push(vec!["DBSIZE".to_owned()]);
    let before = writing.pipeline(&questions).await?;
    let there = reading.pipeline(&questions).await?;
    let after = writing.pipeline(&questions).await?;
    let mut findings = Vec::new();
    for ((question, there), (before, after)) in questions.iter().zip(&there).zip(before.iter().zip(&after)) {
        let absent = question[0] == "DUMP" && before.bytes().is_none();
        if absent || (before == after && before != there) {
            findings.push(format!("{} -> {there}, on its master {before}", question.join(" ")));
        }
    }
    Ok(findings)
}

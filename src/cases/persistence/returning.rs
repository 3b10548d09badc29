//! The bodies of chapter PERS about servers that are stopped or killed and come back, with helpers for other chapters.

use crate::case::Capability;
use crate::check::{self, Look, eventually};
use crate::cluster::node::{Member, NodeView};
use crate::cluster::resp::Reply;
use crate::context::{Context, Fault, with_cleanup};
use crate::crash::flushed;
use crate::failover::pick_master;
use crate::feature::is_unknown;
use crate::verdict::{Mismatch, Outcome, Stop};
use std::time::Duration;

/// How many keys must survive.
const KEYS: usize = 500;

/// Keys of the case in one slot, each with its value.
pub(in crate::cases) fn numbered(cx: &Context, slot: u16) -> Vec<(String, String)> {
    (0..KEYS)
        .map(|number| {
            let key = cx.key_in(slot, &format!("kept-{number}"));
            (key, format!("value-{number}"))
        })
        .collect()
}

/// Writes the keys, and has a replica confirm them where there are any: unsupported where the server does not know `WAIT`.
pub(in crate::cases) async fn write_numbered(
    cx: &Context,
    master: &Member,
    keys: &[(String, String)],
    replicas: usize,
) -> Outcome {
    let mut connection = cx.connect(&master.address).await?;
    let commands: Vec<Vec<&str>> = keys.iter().map(|(key, value)| vec!["SET", key, value]).collect();
    let replies = connection.pipeline(&commands).await?;
    if let Some(refused) = replies.iter().find(|reply| !reply.is_ok()) {
        return Err(Mismatch::new("SET -> +OK before the fault", format!("{master}: {refused}")).into());
    }
    if replicas == 0 {
        return Ok(());
    }
    let limit = (cx.timing().reply() * 4 / 5).as_millis().to_string();
    let reply = connection.call(&["WAIT", "1", &limit]).await?;
    if reply.error().is_some_and(is_unknown) {
        return Err(Stop::Unsupported(format!("{master}: WAIT 1 {limit} -> {reply}")));
    }
    let expected = format!("WAIT 1 {limit} -> at least :1 before the fault");
    Ok(check::expect(
        reply.integer() >= Some(1),
        expected,
        format!("{master}: {reply}"),
    )?)
}

/// The keys that a server does not answer with their value; or an error with which it refuses one.
pub(in crate::cases) async fn unread(
    cx: &Context,
    member: &Member,
    keys: &[(String, String)],
) -> Result<Result<Vec<String>, String>, Stop> {
    let commands: Vec<Vec<&str>> = keys.iter().map(|(key, _)| vec!["GET", key]).collect();
    let replies = cx.connect(&member.address).await?.pipeline(&commands).await?;
    let mut wrong = Vec::new();
    for ((key, value), reply) in keys.iter().zip(replies) {
        match reply {
            Reply::Error(text) => return Ok(Err(format!("{member}: GET {key} -> -{text}"))),
            reply if reply.text() == Some(value) => {}
            reply => wrong.push(format!("{member}: GET {key} -> {reply} (written: {value})")),
        }
    }
    Ok(Ok(wrong))
}

/// A field of a server's `INFO server`.
pub(super) async fn server_field(cx: &Context, member: &Member, field: &str) -> Result<String, Stop> {
    let mut connection = cx.connect(&member.address).await?;
    let info = connection.ask_text(&["INFO", "server"]).await?;
    let value = info
        .lines()
        .find_map(|line| line.trim_end().strip_prefix(field)?.strip_prefix(':'));
    Ok(value
        .ok_or_else(|| connection.nonsense("INFO server", format!("no {field}")))?
        .to_owned())
}

/// The limits for a server to be back, and for its slots to be served again by whomever then has them.
fn bounds(cx: &Context) -> (Duration, Duration) {
    let timing = cx.timing();
    (timing.shutdown() + timing.scheduling(), timing.failover_retry())
}

/// Does a fault to a server that comes back by itself, and waits until another process runs in its place.
async fn replaced(cx: &Context, fault: Fault, member: &Member) -> Result<NodeView, Stop> {
    let before = server_field(cx, member, "run_id").await?;
    let (bound, _) = bounds(cx);
    let began = cx.inject(fault, member).await?;
    let what = format!("another process in the place of {}", member.name);
    let node = eventually(cx, &what, bound, async || {
        let view = cx.look().await?;
        let Some(at) = view.nodes.iter().position(|node| node.member.name == member.name) else {
            return Ok(Look::NotYet(format!("{} does not answer", member.name)));
        };
        if server_field(cx, &view.nodes[at].member, "run_id").await? == before {
            return Ok(Look::NotYet(format!(
                "{} is still the process from before",
                member.name
            )));
        }
        let node = view.nodes.into_iter().nth(at);
        Ok(node.map_or_else(|| Look::NotYet("gone again".into()), Look::Reached))
    })
    .await?;
    cx.measure("back", began.elapsed(), None, Some(bound));
    Ok(node)
}

/// Writes keys to a master, does the fault to it, and expects every value of whoever then owns them.
pub(in crate::cases) async fn keys_survive(cx: &Context, fault: Fault) -> Outcome {
    let (master, _, slot) = pick_master(cx, &cx.view().await?).await?;
    let keys = numbered(cx, slot);
    let names: Vec<String> = keys.iter().map(|(key, _)| key.clone()).collect();
    let judge = async {
        write_numbered(cx, &master, &keys, cx.shape().replicas_per_master).await?;
        flushed(cx, &master).await?;
        replaced(cx, fault, &master).await?;
        let (_, bound) = bounds(cx);
        eventually(cx, "the owner of the keys serves them", bound, async || {
            let view = cx.look().await?;
            let Some(owner) = view.owner_of(slot) else {
                return Ok(Look::NotYet(format!("no node claims slot {slot}")));
            };
            match unread(cx, &owner.member, &keys).await? {
                Err(refused) => Ok(Look::NotYet(refused)),
                Ok(wrong) => {
                    cx.note(format!("the owner afterwards: {}", owner.member.name));
                    cx.count("keys lost", wrong.len(), "keys");
                    check::no_findings(format!("every one of {KEYS} keys by value"), &wrong)?;
                    Ok(Look::Reached(()))
                }
            }
        })
        .await
    };
    with_cleanup(judge, cx.remove_keys(&names)).await
}

pub(super) async fn deletion_survived(cx: &Context) -> Outcome {
    keys_survive(cx, Fault::Restart).await
}

/// The value of a directive; unsupported where the server gives none, as other implementations do.
pub(super) async fn setting(cx: &Context, member: &Member, directive: &str) -> Result<String, Stop> {
    let value = cx.setting(member, directive).await?;
    value.ok_or_else(|| Stop::Unsupported(format!("{member}: CONFIG GET {directive} gives no value")))
}

/// The epoch on the line `vars` of a server's nodes.conf, which must name the node itself too; nothing where no program
/// can be run beside the server to read the file.
async fn saved_epoch(cx: &Context, member: &Member, id: &str) -> Result<Option<u64>, Stop> {
    if !cx.capabilities().contains(&Capability::Exec) {
        return Ok(None);
    }
    let path = cx.nodes_conf(member).await?;
    let shown = cx.exec(member, &["cat", &path], &[], cx.patience()).await?;
    let seen = format!(
        "{member}: cat {path} -> status {}: {}",
        shown.status,
        shown.stderr.trim()
    );
    check::expect(shown.status == 0, format!("the file {path}"), seen)?;
    let vars = shown.stdout.lines().find_map(|line| line.strip_prefix("vars "));
    let words: Vec<&str> = vars.map_or(Vec::new(), |vars| vars.split(' ').collect());
    let epoch = match words.as_slice() {
        ["currentEpoch", epoch, "lastVoteEpoch", _, ..] => epoch.parse().ok(),
        _ => None,
    };
    let named = shown
        .stdout
        .lines()
        .any(|line| line.starts_with(id) && line.contains("myself"));
    let expected = format!("the line `vars currentEpoch … lastVoteEpoch …` and {id} as `myself` in {path}");
    match epoch.filter(|_| named) {
        Some(epoch) => Ok(Some(epoch)),
        None => Err(Mismatch::new(expected, format!("{member}: {}", shown.stdout.trim())).into()),
    }
}

/// Whether a node that has come back is in its old place, or a replica of the node that took its slots.
fn place_kept(node: &NodeView, slots: &[u16], epoch: u64) -> Result<&'static str, String> {
    let Some(line) = node.myself() else {
        return Err("it has no line of its own".into());
    };
    if line.is_master() {
        return if node.own_slots() == slots && line.config_epoch == epoch {
            Ok("came back before it was replaced, with the same slots and epoch")
        } else {
            Err(format!(
                "a master with {} slots at epoch {}",
                line.slot_count(),
                line.config_epoch
            ))
        };
    }
    let successor = line.master.as_deref().and_then(|id| node.line(id));
    match successor {
        Some(master) if master.config_epoch > epoch => Ok("came back as a replica of its successor"),
        Some(master) => Err(format!("a replica of a node at epoch {}", master.config_epoch)),
        None => Err("a replica of a node that it does not know".into()),
    }
}

pub(super) async fn identity_kept(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let (master, id, _) = pick_master(cx, &view).await?;
    let before = view
        .by_id(&id)
        .and_then(|node| Some((node.own_slots(), node.myself()?)));
    let (slots, line) = before.ok_or_else(|| Mismatch::new("a line of its own", master.name.clone()))?;
    let saved = saved_epoch(cx, &master, &id).await?;
    let node = replaced(cx, Fault::Restart, &master).await?;
    let now = node.myself().map_or("none", |line| line.id.as_str());
    let seen = format!("{}: {now}", master.name);
    check::expect(now == id, format!("the id {id}"), seen)?;
    let (_, bound) = bounds(cx);
    let what = "the node is back in its place, or a replica of its successor";
    let member = eventually(cx, what, bound, async || {
        let view = cx.look().await?;
        let Some(node) = view.by_id(&id) else {
            return Ok(Look::NotYet(format!("no server has the id {id}")));
        };
        let state = node.info("cluster_state");
        Ok(match place_kept(node, &slots, line.config_epoch) {
            Ok(outcome) if state == "ok" => {
                cx.note(format!("outcome: {} {outcome}", master.name));
                Look::Reached(node.member.clone())
            }
            Ok(_) => Look::NotYet(format!("{}: cluster_state:{state}", node.member)),
            Err(seen) => Look::NotYet(format!("{}: {seen}", node.member)),
        })
    })
    .await?;
    let after = saved_epoch(cx, &member, &id).await?;
    if after.is_none() {
        cx.note("the target cannot run a program beside a server: the file itself was not read");
    }
    let expected = format!("an epoch of at least {saved:?} in nodes.conf");
    Ok(check::expect(after >= saved, expected, format!("{member}: {after:?}"))?)
}

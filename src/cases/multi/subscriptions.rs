//! Publish and subscribe, to all nodes and by slot.

use super::arrange::*;
use crate::check::{self, no_findings};
use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::links::parse_links;
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::context::Context;
use crate::verdict::{Outcome, Stop};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::time::Instant;

/// What is published on each node, in this order. A link of the bus keeps the order: when the second message of a node has
/// arrived, a second copy of its first would have come before it.
const TEXTS: [&str; 2] = ["the first", "the last"];

/// How often it is published at most.
const ROUNDS: usize = 5;

/// The message that a node publishes.
fn message(publisher: &Member, text: &str, round: usize) -> String {
    format!("{text} in round {round} of {}", publisher.name)
}

/// The messages that a subscriber gets, until it has the last of every publisher, or none comes any more.
async fn heard(subscriber: &mut Connection, publishers: &[Member], round: usize) -> Result<Vec<String>, Stop> {
    let mut heard: Vec<String> = Vec::new();
    let is_last = |publisher: &Member, heard: &[String]| heard.contains(&message(publisher, TEXTS[1], round));
    while !publishers.iter().all(|publisher| is_last(publisher, &heard)) {
        match subscriber.receive().await {
            Ok(reply) => match reply.array() {
                Some([kind, _, text]) if kind.text() == Some("message") => {
                    heard.extend(text.text().map(str::to_owned));
                }
                Some(_) | None => heard.push(format!("no message: {reply}")),
            },
            Err(LinkError::TimedOut { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(heard)
}

/// When each of a node's own links of the bus was made, by the node that it leads to. A server that cannot show its links
/// has none.
async fn own_links(connection: &mut Connection) -> Result<Option<BTreeMap<String, i64>>, Stop> {
    let reply = connection.call(&["CLUSTER", "LINKS"]).await?;
    Ok(parse_links(&reply).map(|links| {
        let own = links.into_iter().filter(|link| link.direction == "to");
        own.map(|link| (link.node, link.created)).collect()
    }))
}

/// Whether a node's own link of the bus to another was made anew since its links were last looked at, or is about to be.
/// A node frees a link on which no pong has come for half the node-timeout (Redis source, cluster.c, clusterCron), and what
/// was under way on it is lost. A server that cannot show its links has no such excuse.
async fn made_anew(
    cx: &Context,
    from: &Member,
    to: &Member,
    before: Option<&BTreeMap<String, i64>>,
) -> Result<bool, Stop> {
    let now = own_links(&mut cx.connect(&from.address).await?).await?;
    let Some((before, now)) = before.zip(now) else {
        return Ok(false);
    };
    let id = cx.connect(&to.address).await?.ask_text(&["CLUSTER", "MYID"]).await?;
    let now = now.get(&id);
    Ok(now.is_none() || now != before.get(&id))
}

/// One round: every node publishes. Returns what was wrong, and what was lost with a link.
async fn round(
    cx: &Context,
    members: &[Member],
    subscribers: &mut [Connection],
    channel: &str,
    round: usize,
) -> Result<(Vec<String>, Vec<String>), Stop> {
    let (mut findings, mut lost, mut links) = (Vec::new(), Vec::new(), Vec::new());
    for member in members {
        let mut publisher = cx.connect(&member.address).await?;
        links.push(own_links(&mut publisher).await?);
        for text in TEXTS {
            let text = message(member, text, round);
            let reply = publisher.call(&["PUBLISH", channel, &text]).await?;
            // How many got it on this node alone: the sum over all nodes is told to nobody.
            let counted = reply.integer().is_some();
            findings.extend(check::unless(counted, member, format!("PUBLISH {channel}"), &reply));
        }
    }
    let heard = subscribers.iter_mut().map(|one| heard(one, members, round));
    for (member, heard) in members.iter().zip(join_all(heard).await) {
        let heard = heard?;
        for (publisher, before) in members.iter().zip(&links) {
            for wanted in TEXTS.map(|text| message(publisher, text, round)) {
                let copies = heard.iter().filter(|text| **text == wanted).count();
                let told = format!("{member}: its subscriber got {copies} copies of \"{wanted}\"");
                match copies {
                    1 => {}
                    0 if publisher != member && made_anew(cx, publisher, member, before.as_ref()).await? => {
                        lost.push(told)
                    }
                    _ => findings.push(told),
                }
            }
        }
        let strange = heard.iter().filter(|text| text.starts_with("no message"));
        findings.extend(strange.map(|text| format!("{member}: {text}")));
    }
    Ok((findings, lost))
}

pub(super) async fn broadcast(cx: &Context) -> Outcome {
    let members = cx.all_members().await?;
    let channel = cx.key("broadcast");
    let mut subscribers = Vec::new();
    let expected = "each message once for the subscriber of every node, whichever node it was published on";
    for member in &members {
        let mut subscriber = cx.connect(&member.address).await?;
        let confirmed = format!("[\"subscribe\", \"{channel}\", :1]");
        let steps = [("SUBSCRIBE @1", confirmed.as_str())];
        let findings = play(member, &mut subscriber, &[&channel], &steps).await?;
        no_findings(expected, &findings)?;
        subscribers.push(subscriber);
    }
    let mut last = Vec::new();
    for number in 1..=ROUNDS {
        let began = Instant::now();
        let (findings, lost) = round(cx, &members, &mut subscribers, &channel, number).await?;
        no_findings(expected, &findings)?;
        if lost.is_empty() {
            cx.measure("last message", began.elapsed(), None, None);
            return Ok(());
        }
        cx.note(format!(
            "lost with a link of the bus that was made anew: {}",
            lost.join("; ")
        ));
        last = lost;
    }
    Ok(no_findings(
        format!("links of the bus that last, in one of {ROUNDS} rounds"),
        &last,
    )?)
}

pub(super) async fn by_slot(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let masters = masters(cx, &view)?;
    judge_masters(
        cx,
        &masters,
        "channels served by the owner of their slot, -MOVED on other shards, -CROSSSLOT for two slots",
        async |master, connection| {
            let member = master.member();
            let (channel, other) = (cx.key_in(master.slot, "channel"), cx.key_in(master.other, "channel"));
            let arguments = [channel.as_str(), &other];
            let mut subscriber = cx.connect(&member.address).await?;
            let confirmed = format!("[\"ssubscribe\", \"{channel}\", :1]");
            let mut findings = play(member, &mut subscriber, &arguments, &[("SSUBSCRIBE @1", &confirmed)]).await?;
            findings.extend(play(member, connection, &arguments, &[("SPUBLISH @1 text", ":1")]).await?);
            match subscriber.receive().await {
                Ok(reply) => {
                    let right = Reply::Array(["smessage", &channel, "text"].map(bulk).to_vec());
                    findings.extend(check::unless(
                        reply == right,
                        member,
                        "the subscriber's message",
                        &reply,
                    ));
                }
                Err(LinkError::TimedOut { .. }) => findings.push(format!("{member}: its subscriber got no message")),
                Err(error) => return Err(error.into()),
            }
            let steps = [("SSUBSCRIBE @1 @2", "-CROSSSLOT*")];
            findings.extend(play(member, connection, &arguments, &steps).await?);
            let owner = view.endpoint_of(master.node);
            for stranger in master.strangers(&view) {
                let (stranger, mut connection) = (&stranger.member, cx.connect(&stranger.member.address).await?);
                let (commands, to) = (["SPUBLISH @1 text", "SSUBSCRIBE @1"], (master.slot, &owner));
                findings.extend(redirected(stranger, &mut connection, &arguments, &commands, to).await?);
            }
            Ok(findings)
        },
    )
    .await
}

fn bulk(text: &str) -> Reply {
    Reply::Bulk(bytes::Bytes::copy_from_slice(text.as_bytes()))
}

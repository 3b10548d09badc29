//! Joining: what `CLUSTER MEET` takes, and that one introduction is enough.

use crate::check::{Look, eventually, expect, unless};
use crate::cluster::node::parse_nodes;
use crate::cluster::view::Shape;
use crate::context::{Context, Scratch};
use crate::verdict::{Outcome, Stop};
use std::time::Duration;

pub(super) async fn discovery(cx: &Context) -> Outcome {
    let scratch = Scratch {
        shape: Shape {
            masters: 0,
            replicas_per_master: 0,
        },
        spare: 3,
        node_timeout: node_timeout(cx),
        ..cx.scratch_like_the_deployment()
    };
    cx.with_scratch(&scratch, async |beside| chain(beside).await).await
}

/// Long enough for a busy machine, short enough to be waited for.
fn node_timeout(cx: &Context) -> Duration {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(2));
    cx.timing().node_timeout().clamp(least, most)
}

async fn chain(beside: &Context) -> Outcome {
    let members = beside.members().await?;
    expect(members.len() == 3, "3 servers", members.len().to_string())?;
    for pair in members.windows(2) {
        let (port, host) = (pair[1].address.port.to_string(), &pair[1].address.host);
        let mut connection = beside.connect(&pair[0].address).await?;
        let reply = connection.call(&["CLUSTER", "MEET", host, &port]).await?;
        let told = format!("{}: CLUSTER MEET {host} {port} -> {reply}", pair[0].name);
        expect(reply.is_ok(), "+OK", told)?;
    }
    let bound = 2 * beside.timing().node_timeout() + Duration::from_secs(5);
    let what = "each of three servers, met in a chain, has a connected link to both others";
    let took = eventually(beside, what, bound, async || {
        let view = beside.look().await?;
        let mut findings: Vec<String> = view.silent.iter().map(|(_, error)| error.to_string()).collect();
        for node in &view.nodes {
            let linked = node.nodes.iter().filter(|line| line.connected && !line.is("handshake"));
            let linked = linked.count();
            if linked != members.len() || node.nodes.len() != members.len() {
                let (name, known) = (&node.member.name, node.nodes.len());
                findings.push(format!(
                    "{name}: knows {known} of 3 nodes, {linked} of them with a link"
                ));
            }
        }
        Ok(if findings.is_empty() && view.nodes.len() == members.len() {
            Look::Reached(std::time::Instant::now())
        } else {
            Look::NotYet(findings.join("\n"))
        })
    });
    let began = std::time::Instant::now();
    let took = took.await? - began;
    beside.measure("full mesh", took, None, Some(bound));
    Ok(())
}

pub(super) async fn bad_addresses(cx: &Context) -> Outcome {
    // An address that is none, and a port that is none of an address that is nobody's (RFC 5737).
    let bad = [("notanip", "6379"), ("192.0.2.1", "99999")];
    let expected = "-ERR to CLUSTER MEET of a bad address, and no new node, on every node";
    cx.judge_every_node(expected, async |member, connection| {
        let mut findings = Vec::new();
        for (host, port) in bad {
            let reply = connection.call(&["CLUSTER", "MEET", host, port]).await?;
            let refused = reply.error_prefix() == Some("ERR");
            findings.extend(unless(
                refused,
                &member.name,
                format!("CLUSTER MEET {host} {port}"),
                &reply,
            ));
        }
        let reply = connection.ask(&["CLUSTER", "NODES"]).await?;
        let lines = parse_nodes(&reply).map_err(|reason| connection.nonsense("CLUSTER NODES", reason))?;
        let new = lines
            .iter()
            .filter(|line| bad.iter().any(|(host, _)| line.address.host == *host));
        findings.extend(new.map(|line| format!("{}: now knows {}", member.name, line.address)));
        Ok::<_, Stop>(findings)
    })
    .await
}

//! What nodes may announce: host names, and addresses of the other family.

use crate::case::Capability;
use crate::check::{Look, expect, unless};
use crate::cluster::connection::Address;
use crate::cluster::redirect::Redirect;
use crate::cluster::view::Shape;
use crate::context::{Alteration, Context, Scratch};
use crate::joining::meet;
use crate::surroundings;
use crate::verdict::{Outcome, Stop};
use std::time::Duration;

/// The longest host name, in bytes.
const LONGEST_HOST: usize = 255;
/// The longest address, in bytes.
const LONGEST_ADDRESS: usize = 45;

/// A [`Scratch`] of servers that have joined nothing.
pub(super) fn spares(cx: &Context, count: usize, alterations: Vec<Alteration>) -> Scratch {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(2));
    Scratch {
        shape: Shape {
            masters: 0,
            replicas_per_master: 0,
        },
        spare: count,
        node_timeout: cx.timing().node_timeout().clamp(least, most),
        alterations,
        ..cx.scratch_like_the_deployment()
    }
}

pub(super) async fn host_names(cx: &Context) -> Outcome {
    let expected = "host names of at most 255 bytes and addresses of at most 45, unshortened on every node's own line";
    let announced = cx.judge_every_node(expected, async |member, connection| {
        let text = connection.ask_text(&["CLUSTER", "NODES"]).await?;
        let own = text.lines().find(|line| line.contains("myself"));
        let endpoint = own.and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let mut findings = Vec::new();
        for (setting, longest) in [
            ("cluster-announce-hostname", LONGEST_HOST),
            ("cluster-announce-ip", LONGEST_ADDRESS),
        ] {
            let reply = connection.call(&["CONFIG", "GET", setting]).await?;
            let value = reply.array().and_then(|items| items.get(1)?.text());
            findings.extend(unless(
                value.is_some(),
                &member.name,
                format!("CONFIG GET {setting}"),
                &reply,
            ));
            let value = value.unwrap_or_default();
            if value.len() > longest {
                findings.push(format!("{}: {setting} has {} bytes", member.name, value.len()));
            }
            if !endpoint.contains(value) {
                findings.push(format!(
                    "{}: {setting} is {value}, its own line: {endpoint}",
                    member.name
                ));
            }
        }
        Ok(findings)
    });
    announced.await?;
    if !cx.capabilities().contains(&Capability::Scratch) {
        cx.note("what the server would take was not tried: the target makes no servers beside the deployment");
        return Ok(());
    }
    let scratch = spares(cx, 2, Vec::new());
    cx.with_scratch(&scratch, async |beside| limits(beside).await).await
}

async fn limits(beside: &Context) -> Outcome {
    let members = beside.members().await?;
    let [one, other] = members.as_slice() else {
        return Err(anyhow::anyhow!("{} servers beside the deployment, not 2", members.len()).into());
    };
    let mut connection = beside.connect(&one.address).await?;
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{label}");
    let too_long = format!("{longest}a");
    for (name, taken) in [(&too_long, false), (&"host name".to_owned(), false), (&longest, true)] {
        let reply = connection
            .call(&["CONFIG", "SET", "cluster-announce-hostname", name])
            .await?;
        let told = format!(
            "{one}: CONFIG SET cluster-announce-hostname <{} bytes> -> {reply}",
            name.len()
        );
        let expected = if taken { "+OK" } else { "-ERR" };
        expect(
            reply.is_ok() == taken && (taken || reply.error().is_some()),
            expected,
            told,
        )?;
    }
    let what = "a peer shows the host name of 255 bytes unshortened";
    meet(beside, &one.address, &[&other.address], what, async || {
        let mut peer = beside.connect(&other.address).await?;
        let text = peer.ask_text(&["CLUSTER", "NODES"]).await?;
        Ok(if text.contains(&longest) {
            Look::Reached(())
        } else {
            Look::NotYet(text)
        })
    })
    .await
}

/// Servers that are not on this machine's loopback cannot be reached there, nor read its files.
pub(super) async fn only_on_loopback(cx: &Context) -> Outcome {
    let elsewhere = cx
        .members()
        .await?
        .into_iter()
        .find(|member| member.address.host != "127.0.0.1");
    match elsewhere {
        Some(member) => Err(Stop::Unsupported(format!("{member} is not on this machine's loopback"))),
        None => Ok(()),
    }
}

pub(super) async fn ipv6(cx: &Context) -> Outcome {
    only_on_loopback(cx).await?;
    if !surroundings::has_ipv6_loopback() {
        return Err(Stop::Unsupported("this machine has no address ::1".into()));
    }
    let alterations = vec![
        Alteration::everywhere("bind 127.0.0.1 ::1"),
        Alteration::everywhere("cluster-announce-ip ::1"),
        // One slot is enough to see a redirection.
        Alteration::everywhere("cluster-require-full-coverage no"),
    ];
    let scratch = spares(cx, 3, alterations);
    cx.with_scratch(&scratch, async |beside| over_ipv6(beside).await).await
}

async fn over_ipv6(beside: &Context) -> Outcome {
    let members = beside.members().await?;
    let there: Vec<Address> = members
        .iter()
        .map(|member| Address::new("::1", member.address.port))
        .collect();
    let [owner, others @ ..] = there.as_slice() else {
        return Err(anyhow::anyhow!("no servers beside the deployment").into());
    };
    let slot = 0;
    let mut connection = beside.connect(&members[0].address).await?;
    let reply = connection.call(&["CLUSTER", "ADDSLOTS", "0"]).await?;
    expect(reply.is_ok(), "+OK", format!("{owner}: CLUSTER ADDSLOTS -> {reply}"))?;
    let key = beside.key_in(slot, "ipv6");
    let what = "three servers that met over IPv6 are linked, and redirect to the owner's IPv6 address";
    let met: Vec<&Address> = others.iter().collect();
    meet(beside, &members[0].address, &met, what, async || {
        let view = beside.look().await?;
        let mut findings: Vec<String> = view.silent.iter().map(|(_, error)| error.to_string()).collect();
        for node in &view.nodes {
            let linked = node
                .nodes
                .iter()
                .filter(|line| line.connected && there.contains(&line.address));
            let linked = linked.count();
            if linked != there.len() || node.nodes.len() != there.len() {
                findings.push(format!(
                    "{}: {linked} of {} nodes linked at ::1",
                    node.member.name,
                    there.len()
                ));
            }
        }
        for other in others {
            let reply = beside.connect(other).await?.call(&["GET", &key]).await?;
            if Redirect::parse(&reply).is_none_or(|redirect| redirect.address != *owner) {
                findings.push(format!(
                    "{other}: GET in slot {slot} -> {reply} (its owner is at {owner})"
                ));
            }
        }
        let reply = beside.connect(owner).await?.call(&["SET", &key, "1"]).await?;
        findings.extend(unless(reply.is_ok(), owner, "SET", &reply));
        Ok(if findings.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(findings.join("\n"))
        })
    })
    .await
}

//! The bus: its links, its port, and what it says to those who do not belong to it.

use super::settled;
use crate::check;
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::links::parse_links;
use crate::cluster::node::{Member, NodeLine, parse_fields, parse_nodes};
use crate::cluster::resp::Reply;
use crate::context::Context;
use crate::feature::Feature;
use crate::verdict::{Outcome, Stop};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How far above its own port a node's bus listens where nothing else is said.
const BUS_OFFSET: u16 = 10000;

/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(1000);

/// The lines of a node's `CLUSTER NODES`.
async fn lines_of(connection: &mut Connection) -> Result<Vec<NodeLine>, Stop> {
    let reply = connection.ask(&["CLUSTER", "NODES"]).await?;
    Ok(parse_nodes(&reply).map_err(|reason| connection.nonsense("CLUSTER NODES", reason))?)
}

pub(super) async fn full_mesh(cx: &Context) -> Outcome {
    let peers = cx.shape().nodes() - 1;
    let without_links = RefCell::new(None);
    let what = format!("every node has a link in and a link out to each of {peers} others, all connected");
    settled(cx, &what, 2 * cx.timing().node_timeout(), async |member, connection| {
        let lines = lines_of(connection).await?;
        let others: BTreeSet<&str> = lines
            .iter()
            .filter(|line| !line.is("myself"))
            .map(|line| line.id.as_str())
            .collect();
        let mut findings = Vec::new();
        if others.len() != peers {
            findings.push(format!("{}: knows {} others", member.name, others.len()));
        }
        for line in lines.iter().filter(|line| !line.connected) {
            findings.push(format!("{}: the link to {} is disconnected", member.name, line.address));
        }
        if let Some(reason) = Feature::ClusterLinks.lacking(connection).await? {
            *without_links.borrow_mut() = Some(reason);
            return Ok(findings);
        }
        let reply = connection.ask(&["CLUSTER", "LINKS"]).await?;
        let links = parse_links(&reply).ok_or_else(|| connection.nonsense("CLUSTER LINKS", reply.to_string()))?;
        for direction in ["to", "from"] {
            let ends: Vec<&str> = links
                .iter()
                .filter(|link| link.direction == direction)
                .map(|link| link.node.as_str())
                .collect();
            let reached: BTreeSet<&str> = ends.iter().copied().collect();
            if reached != others || ends.len() != peers {
                findings.push(format!(
                    "{}: CLUSTER LINKS has {} links \"{direction}\" {} nodes",
                    member.name,
                    ends.len(),
                    reached.len()
                ));
            }
        }
        Ok(findings)
    })
    .await?;
    if let Some(reason) = without_links.into_inner() {
        cx.note(format!("links are judged by CLUSTER NODES alone: {reason}"));
    }
    Ok(())
}

/// The settings that make a node's bus port.
const SETTINGS: [&str; 5] = [
    "cluster-announce-bus-port",
    "cluster-port",
    "tls-cluster",
    "tls-port",
    "port",
];

/// The bus port that a node is meant to announce, by its settings; without them, the usual one for the port that it shows.
async fn meant_port(connection: &mut Connection, client_port: u16) -> Result<u16, Stop> {
    let mut settings = BTreeMap::new();
    for name in SETTINGS {
        settings.extend(connection.setting(name).await?.map(|value| (name, value)));
    }
    Ok(port_by(&settings).unwrap_or(client_port.saturating_add(BUS_OFFSET)))
}

/// The bus port that [`SETTINGS`] make, where there are any: one that is named, else that above the port at which the nodes
/// find each other. With a plain port and one of TLS, a line shows the one by which it was asked for, which may be the other.
///
/// Source: Redis source, cluster.c, deriveAnnouncedPorts.
fn port_by(settings: &BTreeMap<&str, String>) -> Option<u16> {
    let port = |name: &str| settings.get(name)?.parse::<u16>().ok();
    let named = ["cluster-announce-bus-port", "cluster-port"]
        .into_iter()
        .filter_map(port);
    let with_tls = settings.get("tls-cluster").is_some_and(|value| value == "yes");
    let own = port(if with_tls { "tls-port" } else { "port" });
    let above = own.map(|port| port.saturating_add(BUS_OFFSET));
    named.filter(|port| *port != 0).chain(above).next()
}

/// Where a node's bus listens by its own line.
fn own_bus(lines: &[NodeLine], member: &Member) -> Option<Address> {
    let port = lines.iter().find(|line| line.is("myself"))?.bus_port?;
    Some(Address::new(member.address.host.clone(), port))
}

/// Whether a firewall may stand between the suite and the bus: where all that is known of the deployment is a list of
/// addresses. Everywhere else the suite stands where the servers do.
fn may_be_fenced(cx: &Context) -> bool {
    cx.capabilities().is_empty()
}

pub(super) async fn bus_port(cx: &Context) -> Outcome {
    let meant: RefCell<BTreeMap<String, u16>> = RefCell::default();
    let seen: RefCell<Vec<(String, NodeLine)>> = RefCell::default();
    let expected =
        "the client port + 10000, or `cluster-port`, as the bus port of every node, and it accepts connections";
    let own = cx.judge_every_node(expected, async |member, connection| {
        let lines = lines_of(connection).await?;
        seen.borrow_mut()
            .extend(lines.iter().map(|line| (member.name.clone(), line.clone())));
        let Some(myself) = lines.iter().find(|line| line.is("myself")) else {
            return Ok(vec![format!("{}: no line of its own", member.name)]);
        };
        let port = meant_port(connection, myself.address.port).await?;
        meant.borrow_mut().insert(myself.id.clone(), port);
        if myself.bus_port != Some(port) {
            let shown = myself.bus_port.map_or("none".into(), |port| port.to_string());
            return Ok(vec![format!(
                "{}: announces bus port {shown} (expected {port})",
                member.name
            )]);
        }
        if may_be_fenced(cx) {
            return Ok(Vec::new());
        }
        let address = Address::new(member.address.host.clone(), port);
        // A port-forward tells only at the first read that nobody listens.
        let opened = async { cx.connect_raw(&address).await?.with_patience(SILENCE).receive().await };
        Ok(match opened.await {
            Err(error @ LinkError::Refused { .. }) => vec![format!("{}: {error}", member.name)],
            Err(error @ LinkError::Unreachable { .. }) => return Err(error.into()),
            Ok(_) | Err(_) => Vec::new(),
        })
    });
    own.await?;
    if may_be_fenced(cx) {
        cx.note("the bus ports were not opened: between them and the suite there may be a firewall");
    }
    let meant = meant.into_inner();
    let told = seen.into_inner();
    let findings = told.iter().filter_map(|(name, line)| {
        let port = meant.get(&line.id)?;
        (line.bus_port != Some(*port)).then(|| {
            let shown = line.bus_port.map_or("none".into(), |port| port.to_string());
            format!("{name}: {} has bus port {shown} (its own: {port})", line.address)
        })
    });
    Ok(check::no_findings(expected, &findings.collect::<Vec<_>>())?)
}

pub(super) async fn bus_is_not_for_clients(cx: &Context) -> Outcome {
    let expected = "silence or the end of the connection from every bus port, and a healthy node after it";
    cx.judge_every_node(expected, async |member, connection| {
        let lines = lines_of(connection).await?;
        let Some(address) = own_bus(&lines, member) else {
            return Ok(vec![format!("{}: announces no bus port", member.name)]);
        };
        let said = match listen(cx, &address).await {
            Ok(said) => said,
            Err(LinkError::Refused { reason, .. }) if may_be_fenced(cx) => {
                return Err(Stop::Unsupported(format!(
                    "the bus port of {} is closed to the suite: {reason}",
                    member.name
                )));
            }
            Err(error) => return Err(error.into()),
        };
        let mut findings = Vec::new();
        if !said.is_empty() {
            let said = String::from_utf8_lossy(&said);
            findings.push(format!("{}: PING to {address} -> {:?}", member.name, said.trim_end()));
        }
        let reply = connection.call(&["PING"]).await?;
        let healthy = matches!(&reply, Reply::Simple(text) if text == "PONG");
        findings.extend(check::unless(healthy, &member.name, "PING after it", &reply));
        Ok(findings)
    })
    .await
}

/// What a client sends, as a line and as an array. The first is shorter than the header of a bus message, which is then
/// waited for; the second is long enough to be refused.
const PINGS: [&[u8]; 2] = [b"PING\r\n", b"*1\r\n$4\r\nPING\r\n"];

/// What a bus port answers to the commands of a client.
async fn listen(cx: &Context, address: &Address) -> Result<Vec<u8>, LinkError> {
    let refused = |reason: String| LinkError::Refused {
        address: address.clone(),
        reason,
    };
    let mut said = Vec::new();
    for ping in PINGS {
        let opening = tokio::time::timeout(cx.patience(), cx.shared().target.connect(address));
        let mut stream = opening.await.map_err(|_| refused("no connection in time".into()))??;
        // A connection that has ended is as good as a silent one; only what is said counts.
        if stream.write_all(ping).await.is_err() || stream.flush().await.is_err() {
            continue;
        }
        let mut buffer = [0; 256];
        match tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await {
            // A bus that speaks TLS ends such a connection with an alert.
            Ok(Ok(count)) if is_alert(&buffer[..count]) => {}
            Ok(Ok(count)) => said.extend_from_slice(&buffer[..count]),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Err(refused(error.to_string()));
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Ok(said)
}

/// Whether a record of TLS is an alert: type 21 and a version 3.x (RFC 8446, section 5.1).
fn is_alert(record: &[u8]) -> bool {
    matches!(record, [21, 3, ..])
}

/// The counters that grow while nodes ping each other.
const COUNTERS: [&str; 4] = [
    "cluster_stats_messages_ping_sent",
    "cluster_stats_messages_ping_received",
    "cluster_stats_messages_pong_sent",
    "cluster_stats_messages_pong_received",
];

pub(super) async fn gossip_lives(cx: &Context) -> Outcome {
    let firsts: RefCell<BTreeMap<String, BTreeMap<&str, u64>>> = RefCell::default();
    let what = "the counters of pings and pongs, sent and received, grow on every node";
    settled(cx, what, cx.timing().stable(), async |member, connection| {
        let reply = connection.ask(&["CLUSTER", "INFO"]).await?;
        let info = parse_fields(&reply).map_err(|reason| connection.nonsense("CLUSTER INFO", reason))?;
        let count = |name: &str| info.get(name).and_then(|value| value.parse::<u64>().ok());
        let mut firsts = firsts.borrow_mut();
        let first = firsts
            .entry(member.name.clone())
            .or_insert_with(|| COUNTERS.iter().filter_map(|name| Some((*name, count(name)?))).collect());
        let still = COUNTERS.iter().filter_map(|name| match (count(name), first.get(name)) {
            (None, _) => Some(format!("{}: no {name}", member.name)),
            (Some(now), Some(before)) if now == *before => Some(format!("{}: {name}:{now}, as before", member.name)),
            (Some(_), _) => None,
        });
        Ok(still.collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::plain(&[("port", "6379"), ("tls-cluster", "no"), ("tls-port", "0")], Some(16379))]
    #[case::tls(&[("port", "0"), ("tls-cluster", "yes"), ("tls-port", "6379")], Some(16379))]
    #[case::both_and_the_bus_is_plain(&[("port", "6379"), ("tls-cluster", "no"), ("tls-port", "6380")], Some(16379))]
    #[case::both_and_the_bus_has_tls(&[("port", "6379"), ("tls-cluster", "yes"), ("tls-port", "6380")], Some(16380))]
    #[case::built_without_tls(&[("port", "6379")], Some(16379))]
    #[case::not_set(&[("port", "6379"), ("cluster-port", "0"), ("cluster-announce-bus-port", "0")], Some(16379))]
    #[case::set(&[("port", "6379"), ("cluster-port", "7000"), ("cluster-announce-bus-port", "0")], Some(7000))]
    #[case::announced(&[("port", "6379"), ("cluster-port", "7000"), ("cluster-announce-bus-port", "7001")], Some(7001))]
    #[case::nothing_is_said(&[], None)]
    fn settings_make_the_bus_port(#[case] settings: &[(&str, &str)], #[case] port: Option<u16>) {
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        assert_eq!(port_by(&settings.collect()), port);
    }
}

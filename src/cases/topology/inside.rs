//! The cases of chapter TOPO that look from within the pods.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::no_findings;
use crate::cluster::connection::Address;
use crate::cluster::node::{Member, NodeLine};
use crate::context::{Context, Pod};
use crate::inside::{Knock, knock};
use crate::verdict::{Outcome, Stop};
use futures::future::try_join_all;

pub(super) const PODS_REACH_EACH_OTHER: Case = Case {
    id: CaseId("TOPO-03"),
    title: "every pod reaches every other on the client port and the bus port",
    requirement: "Every pod MUST reach every other pod on the client port and on the bus port.",
    source: "seed lines 22-25",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes, Capability::Exec],
    features: &[],
    bound: "T_reply for each connection",
    controls: &[],
    method: "From within every server's container opens a TCP connection to the client port and to the bus port of every other, at \
             the `status.podIP` of its pod: each must open (60 connections with 6 nodes).",
    run: |cx| Box::pin(pods_reach_each_other(cx)),
};

pub(super) const POD_ADDRESSES: Case = Case {
    id: CaseId("TOPO-09"),
    title: "every node announces its present pod IP and the client port",
    requirement: "Every node MUST announce its current pod IP and the client port, and every other know it so.",
    source: "seed manifest lines 149-150",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &[],
    method: "On every node the line of `CLUSTER NODES` with the flag `myself` must hold the `status.podIP` of its pod and the port that \
             the target's description names for clients; and so must the line of that id on every other node.",
    run: |cx| Box::pin(pod_addresses(cx)),
};

async fn pods_reach_each_other(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let doors: Vec<(Member, Vec<Address>)> = view
        .nodes
        .iter()
        .map(|node| {
            let (host, port) = (node.member.address.host.clone(), node.member.address.port);
            let bus = node.myself().and_then(|line| line.bus_port);
            let ports = [Some(port), Some(bus.unwrap_or(port.saturating_add(10_000)))];
            let doors = ports.into_iter().flatten().map(|port| Address::new(host.clone(), port));
            (node.member.clone(), doors.collect())
        })
        .collect();
    let asked = doors.iter().map(async |(from, _)| {
        let others = doors.iter().filter(|(other, _)| other.name != from.name);
        let others: Vec<Address> = others.flat_map(|(_, doors)| doors.clone()).collect();
        Ok::<_, Stop>((from, knock(cx, from, &others).await?))
    });
    let seen = try_join_all(asked).await?;
    let count: usize = seen.iter().map(|(_, knocks)| knocks.len()).sum();
    cx.count("connections tried", count, "connections");
    let mut findings: Vec<String> = seen
        .iter()
        .flat_map(|(from, knocks)| shut(&from.name, knocks))
        .collect();
    let nodes = cx.shape().nodes();
    if count != nodes * (nodes - 1) * 2 {
        findings.push(format!("{count} connections were tried"));
    }
    Ok(no_findings("every connection between pods opened", &findings)?)
}

/// The doors that did not open.
fn shut(from: &str, knocks: &[Knock]) -> Vec<String> {
    let shut = knocks.iter().filter(|knock| !knock.open);
    shut.map(|knock| format!("{from} does not reach {}: {}", knock.to, knock.said))
        .collect()
}

async fn pod_addresses(cx: &Context) -> Outcome {
    let pods = cx.deployment()?.pods().await?;
    let view = cx.view().await?;
    let mut findings = Vec::new();
    for node in &view.nodes {
        let Some(own) = node.myself() else {
            findings.push(format!("{}: no line with the flag myself", node.member.name));
            continue;
        };
        let pod = pods.iter().find(|pod| pod.name == node.member.name);
        let lines = view
            .nodes
            .iter()
            .map(|other| (other.member.name.as_str(), other.line(&own.id)));
        findings.extend(misknown(pod, node.member.address.port, &node.member.name, lines));
    }
    Ok(no_findings(
        "every node known to itself and to all by its status.podIP and the client port",
        &findings,
    )?)
}

/// The views in which a pod's server is not at the pod's address and its port.
fn misknown<'a>(
    pod: Option<&Pod>,
    port: u16,
    name: &str,
    lines: impl Iterator<Item = (&'a str, Option<&'a NodeLine>)>,
) -> Vec<String> {
    let Some(address) = pod.and_then(|pod| pod.address.as_deref()) else {
        return vec![format!("{name} has no podIP")];
    };
    let right = Address::new(address, port);
    let wrong = lines.filter_map(|(by, line)| match line {
        Some(line) if line.address == right => None,
        Some(line) => Some(format!("{by} knows {name} as {}, it is at {right}", line.address)),
        None => Some(format!("{by} does not know {name}")),
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn doors_that_stay_shut_are_told() {
        let knock = |port, open| Knock {
            to: Address::new("10.0.0.2", port),
            open,
            said: "no answer".into(),
        };
        assert!(shut("a", &[knock(6379, true), knock(16379, true)]).is_empty());
        assert_eq!(
            shut("a", &[knock(6379, true), knock(16379, false)]),
            ["a does not reach 10.0.0.2:16379: no answer"]
        );
    }

    fn line(address: &str) -> NodeLine {
        NodeLine::parse(&format!("id {address}@16379 master - 0 0 1 connected")).unwrap()
    }

    #[rstest]
    #[case::right(Some("10.0.0.1"), Some("10.0.0.1:6379"), 0)]
    #[case::an_old_address(Some("10.0.0.1"), Some("10.0.0.7:6379"), 1)]
    #[case::another_port(Some("10.0.0.1"), Some("10.0.0.1:7000"), 1)]
    #[case::no_address(Some("10.0.0.1"), Some(":0"), 1)]
    #[case::unknown(Some("10.0.0.1"), None, 1)]
    #[case::a_pod_without_one(None, Some("10.0.0.1:6379"), 1)]
    fn a_node_is_known_where_its_pod_is(
        #[case] address: Option<&str>,
        #[case] known: Option<&str>,
        #[case] count: usize,
    ) {
        let pod = Pod {
            name: "a".into(),
            uid: String::new(),
            address: address.map(str::to_owned),
            phase: "Running".into(),
            ready: true,
            leaving: false,
            restarts: 0,
            trouble: None,
            host: None,
            claims: Vec::new(),
        };
        let line = known.map(line);
        let lines = [("b", line.as_ref())];
        assert_eq!(misknown(Some(&pod), 6379, "a", lines.into_iter()).len(), count);
    }
}

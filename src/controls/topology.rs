//! Controls of the chapter in `cases::topology`.

use super::broken::{Wrong, open};
use super::proxy::Exchange;
use super::replies::{field, reworded};
use super::{Control, GOOD};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::target::{Fault, Target, TargetError, Upheaval};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::time::SystemTime;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "bus-on-client-port",
        what: "a master says that its bus, and everybody's, is on the client port",
        wrong: Wrong::Replies(bus_on_client_port),
        ..GOOD
    },
    Control {
        name: "no-bus-port",
        what: "a replica's CLUSTER NODES names no bus ports",
        wrong: Wrong::Replies(no_bus_port),
        ..GOOD
    },
    Control {
        name: "scratch-bus-astray",
        what: "the third server beside the deployment announces a bus port where nobody listens",
        scratch_conf: &[(Some(2), "cluster-announce-bus-port 1")],
        ..GOOD
    },
    Control {
        name: "identity-lost",
        what: "a node that is stopped loses its nodes.conf, and comes back as another",
        wrong: Wrong::Faults(identity_lost),
        ..GOOD
    },
    Control {
        name: "epoch-falls",
        what: "a replica's current epoch falls by one a second",
        wrong: Wrong::Replies(epoch_falls),
        ..GOOD
    },
    Control {
        name: "leftover-line",
        what: "a replica still knows a node that has gone for good",
        wrong: Wrong::Replies(leftover_line),
        ..GOOD
    },
    Control {
        name: "my-epoch-missing",
        what: "a master's CLUSTER INFO has no cluster_my_epoch",
        wrong: Wrong::Replies(my_epoch_missing),
        ..GOOD
    },
    Control {
        name: "gossip-stuck",
        what: "a replica's counts of pings and pongs stay what they are",
        wrong: Wrong::Replies(gossip_stuck),
        ..GOOD
    },
    Control {
        name: "id-denied",
        what: "a master's CLUSTER MYID is not the id of its own line",
        wrong: Wrong::Replies(id_denied),
        ..GOOD
    },
    Control {
        name: "meets-anybody",
        what: "a replica answers OK to CLUSTER MEET of any address",
        wrong: Wrong::Replies(meets_anybody),
        ..GOOD
    },
    Control {
        name: "clusters-introduced",
        what: "when two servers are stopped, one of another cluster is met at an address that is out of date",
        wrong: Wrong::Upheavals(clusters_introduced),
        ..GOOD
    },
    Control {
        name: "other-cluster-answers",
        what: "a server answers with the values of another cluster",
        wrong: Wrong::Replies(other_cluster_answers),
        ..GOOD
    },
    Control {
        name: "promotion-unseen",
        what: "a replica gives no slots to who was promoted",
        wrong: Wrong::Replies(promotion_unseen),
        ..GOOD
    },
];

/// Every line of a node's `CLUSTER NODES` altered.
fn lines(at: &Exchange<'_>, node: usize, reply: Reply, change: impl Fn(&str) -> String) -> Reply {
    if at.node != node || !at.is("CLUSTER NODES") {
        return reply;
    }
    reworded(reply, |text| text.lines().map(|line| change(line) + "\n").collect())
}

/// The second word of a line, `ip:port@cport`, in its parts.
fn ports(line: &str) -> Option<(&str, &str, &str)> {
    let endpoint = line.split(' ').nth(1)?;
    let (client, bus) = endpoint.split_once('@')?;
    Some((endpoint, client, bus))
}

fn bus_on_client_port(at: &Exchange<'_>, reply: Reply) -> Reply {
    lines(at, 1, reply, |line| match ports(line) {
        Some((endpoint, client, _)) => {
            let port = client.rsplit(':').next().unwrap_or_default();
            line.replace(endpoint, &format!("{client}@{port}"))
        }
        None => line.to_owned(),
    })
}

fn no_bus_port(at: &Exchange<'_>, reply: Reply) -> Reply {
    lines(at, 5, reply, |line| match ports(line) {
        Some((endpoint, client, _)) => line.replace(endpoint, client),
        None => line.to_owned(),
    })
}

fn identity_lost<'a>(
    target: &'a dyn Target,
    fault: Fault,
    member: &'a Member,
) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async move {
        target.inject(fault, member).await?;
        let file = target.data_folder(member).map(|folder| folder.join("nodes.conf"));
        match (fault, file) {
            (Fault::KeepAway, Some(file)) => tokio::fs::remove_file(&file)
                .await
                .map_err(|error| TargetError::Surroundings(format!("{}: {error}", file.display()))),
            _ => Ok(()),
        }
    })
}

fn epoch_falls(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 4 || !at.is("CLUSTER INFO") {
        return reply;
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    field(
        reply,
        "cluster_current_epoch",
        &(u64::from(u32::MAX) * 2 - seconds).to_string(),
    )
}

fn leftover_line(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 4 || !at.is("CLUSTER NODES") {
        return reply;
    }
    let (gone, master) = ("e".repeat(40), "d".repeat(40));
    reworded(reply, |text| {
        format!("{text}{gone} :0@0 slave,noaddr {master} 1426238316232 1426238316232 1 disconnected\n")
    })
}

fn my_epoch_missing(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 1 || !at.is("CLUSTER INFO") {
        return reply;
    }
    reworded(reply, |text| text.replace("cluster_my_epoch", "cluster_epoch"))
}

fn gossip_stuck(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 3 || !at.is("CLUSTER INFO") {
        return reply;
    }
    reworded(reply, |text| {
        let still = |line: &str| match line.split_once(':') {
            Some((name, _)) if name.starts_with("cluster_stats_messages_p") => format!("{name}:7\r\n"),
            _ => format!("{line}\r\n"),
        };
        text.lines().map(still).collect()
    })
}

fn id_denied(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply.text() {
        Some(id) if at.node == 2 && at.is("CLUSTER MYID") => {
            Reply::Bulk(Bytes::from(id.chars().rev().collect::<String>()))
        }
        _ => reply,
    }
}

fn meets_anybody(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 3 && at.is("CLUSTER MEET") {
        Reply::Simple("OK".into())
    } else {
        reply
    }
}

/// As when an operator, or a bootstrap, meets a server that was of its own cluster under that address.
fn clusters_introduced<'a>(target: &'a dyn Target, upheaval: &'a Upheaval) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async move {
        if let [first, .., last] = &target.members().await?[..] {
            let (host, port) = (&last.address.host, last.address.port.to_string());
            let mut connection = open(target, first).await?;
            connection.ask(&["CLUSTER", "MEET", host, &port]).await?;
        }
        target.upheave(upheaval).await
    })
}

fn other_cluster_answers(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply.text() {
        Some("the first cluster's") if at.node == 4 && at.is("GET") => {
            Reply::Bulk(Bytes::from_static(b"the second cluster's"))
        }
        _ => reply,
    }
}

fn promotion_unseen(at: &Exchange<'_>, reply: Reply) -> Reply {
    let promoted: Vec<String> = at.addresses[3..].iter().map(|address| format!(" {address}@")).collect();
    lines(at, 4, reply, |line| {
        let is_promoted = line.contains("master") && promoted.iter().any(|address| line.contains(address));
        match line.split_once(" connected ") {
            Some((node, _)) if is_promoted => format!("{node} connected"),
            _ => line.to_owned(),
        }
    })
}

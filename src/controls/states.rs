//! Wrong states, made with commands after the cluster has formed.

use super::PASSWORD;
use super::broken::Nodes;
use crate::target::{Fault, TargetError};
use futures::future::BoxFuture;

type Done<'a> = BoxFuture<'a, Result<(), TargetError>>;

pub(super) fn open_node<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(nodes.ask(1, &["CONFIG", "SET", "requirepass", ""]))
}

pub(super) fn other_password<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(nodes.ask(4, &["CONFIG", "SET", "requirepass", "another password"]))
}

pub(super) fn second_password<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(async {
        let rule = format!(">{}", PASSWORD.to_uppercase());
        nodes.ask(2, &["ACL", "SETUSER", "default", &rule]).await
    })
}

pub(super) fn no_masterauth<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(nodes.ask(3, &["CONFIG", "SET", "masterauth", ""]))
}

pub(super) fn links_down<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(async {
        for replica in 3..6 {
            nodes.ask(replica, &["CONFIG", "SET", "masterauth", ""]).await?;
            nodes.ask(replica, &["CLIENT", "KILL", "TYPE", "master"]).await?;
            nodes
                .until(replica, &["INFO", "replication"], "master_link_status:down")
                .await?;
        }
        for master in 0..3 {
            nodes
                .until(master, &["INFO", "replication"], "connected_slaves:0")
                .await?;
        }
        Ok(())
    })
}

pub(super) fn slot_deleted<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(async {
        for node in nodes.all() {
            let command = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
            nodes.ask(node, &command).await?;
        }
        // Within the range, where no boundary lies.
        nodes.ask(0, &["CLUSTER", "DELSLOTS", "100"]).await?;
        nodes
            .until(0, &["CLUSTER", "INFO"], "cluster_slots_assigned:16383")
            .await
    })
}

pub(super) fn master_down<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(async {
        nodes.ask(0, &["CLUSTER", "DELSLOTS", "100"]).await?;
        nodes.until(0, &["CLUSTER", "INFO"], "cluster_state:fail").await
    })
}

pub(super) fn open_slot<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(async {
        let source = nodes.id(0);
        nodes.ask(1, &["CLUSTER", "SETSLOT", "0", "IMPORTING", &source]).await
    })
}

pub(super) fn uneven_replicas<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(async {
        let (master, replica) = (nodes.id(0), nodes.id(5));
        nodes.ask(5, &["CLUSTER", "REPLICATE", &master]).await?;
        nodes
            .until(5, &["INFO", "replication"], "master_link_status:up")
            .await?;
        nodes.until(0, &["INFO", "replication"], "connected_slaves:2").await?;
        nodes.until(2, &["INFO", "replication"], "connected_slaves:0").await?;
        for node in nodes.all() {
            nodes.until(node, &["CLUSTER", "REPLICAS", &master], &replica).await?;
        }
        Ok(())
    })
}

pub(super) fn forgotten<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(async {
        let replica = nodes.id(5);
        // It is taken in again by gossip after a minute: no control takes as long.
        nodes.ask(1, &["CLUSTER", "FORGET", &replica]).await
    })
}

pub(super) fn frozen<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(nodes.inject(Fault::Pause, 5))
}

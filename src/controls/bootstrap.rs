//! Controls of the chapter in `cases::bootstrap`.

use super::broken::{Nodes, Wrong};
use super::proxy::Exchange;
use super::{Control, GOOD};
use crate::cluster::resp::Reply;
use crate::target::{Execution, TargetError};
use bytes::Bytes;
use futures::future::BoxFuture;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "cluster-mode-off",
        what: "a replica says that it does not run in cluster mode",
        wrong: Wrong::Replies(cluster_mode_off),
        ..GOOD
    },
    Control {
        name: "create-always-agrees",
        what: "the command-line client makes clusters of whatever it is given",
        wrong: Wrong::Programs(create_always_agrees),
        ..GOOD
    },
    Control {
        name: "id-given-twice",
        what: "two replicas have one id",
        wrong: Wrong::Replies(id_given_twice),
        ..GOOD
    },
    Control {
        name: "replicas-loading",
        what: "a replica's CLUSTER SHARDS calls all replicas loading",
        wrong: Wrong::Replies(replicas_loading),
        ..GOOD
    },
    Control {
        name: "slot-from-the-start",
        what: "a new server has a slot before anybody has given it one",
        wrong: Wrong::Beside(slot_from_the_start),
        ..GOOD
    },
];

fn cluster_mode_off(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 3 && at.is("INFO cluster") {
        Reply::Bulk(Bytes::from_static(b"# Cluster\r\ncluster_enabled:0\r\n"))
    } else {
        reply
    }
}

fn create_always_agrees(command: &[&str], outcome: Execution) -> Execution {
    if command.contains(&"create") {
        Execution {
            stdout: "[OK] All 16384 slots covered.\n".into(),
            stderr: String::new(),
            status: 0,
        }
    } else {
        outcome
    }
}

fn id_given_twice(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node >= 4 && at.is("CLUSTER MYID") {
        Reply::Bulk(Bytes::from("a".repeat(40)))
    } else {
        reply
    }
}

fn replicas_loading(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 3 && at.is("CLUSTER SHARDS") {
        loading(reply)
    } else {
        reply
    }
}

/// The same with `loading` in place of `online` among the fields of every replica.
fn loading(reply: Reply) -> Reply {
    match reply {
        Reply::Array(items) => {
            let replica = items.iter().any(|item| item.text() == Some("replica"));
            let item = |item: Reply| match item.text() {
                Some("online") if replica => Reply::Bulk(Bytes::from_static(b"loading")),
                _ => loading(item),
            };
            Reply::Array(items.into_iter().map(item).collect())
        }
        other => other,
    }
}

fn slot_from_the_start<'a>(nodes: &'a mut Nodes<'_>) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(nodes.ask(0, &["CLUSTER", "ADDSLOTS", "0"]))
}

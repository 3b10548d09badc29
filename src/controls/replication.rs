//! Controls of the chapter in `cases::replication`.

use super::broken::{Nodes, Wrong, open};
use super::proxy::Exchange;
use super::{Control, GOOD, PASSWORD};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::target::{Fault, Target, TargetError};
use bytes::Bytes;
use futures::future::BoxFuture;

type Done<'a> = BoxFuture<'a, Result<(), TargetError>>;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "readwrite-without-effect",
        what: "a replica answers OK to READWRITE and goes on serving reads",
        wrong: Wrong::Answers(readwrite_without_effect),
        ..GOOD
    },
    Control {
        name: "replicaof-obeyed",
        what: "a master answers OK to REPLICAOF",
        wrong: Wrong::Replies(replicaof_obeyed),
        ..GOOD
    },
    Control {
        name: "chain-allowed",
        what: "a replica answers OK when it is told to replicate a replica",
        wrong: Wrong::Replies(chain_allowed),
        ..GOOD
    },
    Control {
        name: "failed-replica-listed",
        what: "a master's CLUSTER SLOTS names another's replica whatever becomes of it",
        wrong: Wrong::Replies(failed_replica_listed),
        ..GOOD
    },
    Control {
        name: "replicas-stay",
        what: "beside the deployment, cluster-allow-replica-migration is off whatever was asked for",
        scratch_conf: &[(None, "cluster-allow-replica-migration no")],
        ..GOOD
    },
    Control {
        name: "replicas-move",
        what: "beside the deployment, cluster-allow-replica-migration is on whatever was asked for",
        scratch_conf: &[(None, "cluster-allow-replica-migration yes")],
        ..GOOD
    },
    Control {
        name: "replica-transactions-empty",
        what: "a replica in READONLY mode answers nil to EXEC",
        wrong: Wrong::Replies(replica_transactions_empty),
        ..GOOD
    },
    Control {
        name: "masterauth-after-all",
        what: "beside the deployment, every server has masterauth whatever was asked for",
        wrong: Wrong::Beside(masterauth_after_all),
        ..GOOD
    },
    Control {
        name: "replicas-unlisted",
        what: "a master's CLUSTER REPLICAS is empty",
        wrong: Wrong::Replies(replicas_unlisted),
        ..GOOD
    },
    Control {
        name: "other-data",
        what: "a replica's DUMP of a key differs from its master's",
        wrong: Wrong::Replies(other_data),
        ..GOOD
    },
    Control {
        name: "min-replicas",
        what: "masters refuse writes while they have no replica",
        conf: &[(None, "min-replicas-to-write 1")],
        ..GOOD
    },
    Control {
        name: "masterauth-forgotten",
        what: "a replica that is restarted comes back without masterauth",
        wrong: Wrong::Faults(masterauth_forgotten),
        ..GOOD
    },
];

fn ok() -> Reply {
    Reply::Simple("OK".into())
}

fn readwrite_without_effect(at: &Exchange<'_>) -> Option<Reply> {
    (at.node == 4 && at.is("READWRITE")).then(ok)
}

fn replicaof_obeyed(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("REPLICAOF") {
        ok()
    } else {
        reply
    }
}

fn chain_allowed(at: &Exchange<'_>, reply: Reply) -> Reply {
    let chain = reply
        .error()
        .is_some_and(|text| text.contains("only replicate a master"));
    if at.node == 4 && at.is("CLUSTER REPLICATE") && chain {
        ok()
    } else {
        reply
    }
}

fn failed_replica_listed(at: &Exchange<'_>, reply: Reply) -> Reply {
    let Reply::Array(ranges) = reply else { return reply };
    if at.node != 1 || !at.is("CLUSTER SLOTS") {
        return Reply::Array(ranges);
    }
    let text = |text: &str| Reply::Bulk(Bytes::copy_from_slice(text.as_bytes()));
    let (master, replica) = (&at.addresses[0], &at.addresses[3]);
    let leads = |node: &Reply| {
        let port = node.array().and_then(|node| node.get(1)?.integer());
        port == Some(master.port.into())
    };
    let completed = ranges.into_iter().map(|range| match range {
        // First slot, last slot, master, and no replica.
        Reply::Array(mut parts) if parts.len() == 3 && leads(&parts[2]) => {
            let id = text(&"0".repeat(40));
            parts.push(Reply::Array(vec![
                text(&replica.host),
                Reply::Integer(replica.port.into()),
                id,
            ]));
            Reply::Array(parts)
        }
        other => other,
    });
    Reply::Array(completed.collect())
}

fn replica_transactions_empty(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 4 && at.readonly && at.is("EXEC") && reply.array().is_some() {
        Reply::Nil
    } else {
        reply
    }
}

fn replicas_unlisted(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("CLUSTER REPLICAS") && reply.array().is_some() {
        Reply::Array(Vec::new())
    } else {
        reply
    }
}

fn other_data(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply {
        Reply::Bulk(bytes) if at.node == 4 && at.is("DUMP") => Reply::Bulk([&bytes, b"!".as_slice()].concat().into()),
        other => other,
    }
}

fn masterauth_after_all<'a>(nodes: &'a mut Nodes<'_>) -> Done<'a> {
    Box::pin(async {
        for node in nodes.all() {
            nodes.ask(node, &["CONFIG", "SET", "masterauth", PASSWORD]).await?;
        }
        Ok(())
    })
}

fn masterauth_forgotten<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> Done<'a> {
    Box::pin(async move {
        if fault == Fault::Restart {
            let mut connection = open(target, member).await?;
            connection.ask(&["CONFIG", "SET", "masterauth", ""]).await?;
            connection.ask(&["CONFIG", "REWRITE"]).await?;
        }
        target.inject(fault, member).await
    })
}

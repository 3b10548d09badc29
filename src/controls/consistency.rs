//! Controls of the chapter in `cases::consistency`.

use super::broken::{Nodes, Wrong, open};
use super::proxy::Exchange;
use super::{Control, GOOD, replies};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::target::{Fault, Target, TargetError};
use bytes::Bytes;
use futures::future::BoxFuture;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "wait-answers-none",
        what: "a master's WAIT says that no replica has the write",
        wrong: Wrong::Replies(wait_answers_none),
        ..GOOD
    },
    Control {
        name: "wait-counts-too-many",
        what: "a master's WAIT counts a replica more than it has",
        wrong: Wrong::Replies(wait_counts_too_many),
        ..GOOD
    },
    Control {
        name: "replica-waits",
        what: "a replica answers WAIT",
        wrong: Wrong::Replies(replica_waits),
        ..GOOD
    },
    Control {
        name: "no-persistence",
        what: "no server writes its data to disk",
        // Long enough for a server to be back before its replica is promoted.
        conf: &[(None, "appendonly no"), (None, "cluster-node-timeout 10000")],
        ..GOOD
    },
    Control {
        name: "never-written-value",
        what: "a key that was lost is answered with a value that nobody wrote",
        wrong: Wrong::Replies(never_written_value),
        ..GOOD
    },
    Control {
        name: "replicas-emptied",
        what: "when a server is killed, replicas lose their data",
        wrong: Wrong::Faults(replicas_emptied),
        ..GOOD
    },
    Control {
        name: "own-writes-unseen",
        what: "a master answers with the value before the last",
        wrong: Wrong::Replies(own_writes_unseen),
        ..GOOD
    },
    Control {
        name: "replica-steps-back",
        what: "a replica answers now and then with an older value than before",
        wrong: Wrong::Replies(replica_steps_back),
        ..GOOD
    },
    Control {
        name: "lonely-writes",
        what: "masters take writes without a replica, whatever min-replicas-to-write says",
        wrong: Wrong::Beside(lonely_writes),
        ..GOOD
    },
    Control {
        name: "fsync-never-on-one",
        what: "a replica leaves it to the system when to flush its append-only file",
        conf: &[(Some(4), "appendfsync no")],
        ..GOOD
    },
    Control {
        name: "killed-loses-all",
        what: "a server made from the deployment's configuration keeps no append-only file",
        scratch_conf: &[(None, "appendonly no")],
        ..GOOD
    },
    Control {
        name: "waitaof-unfulfilled",
        what: "a master's WAITAOF says that no replica has the write on disk",
        wrong: Wrong::Replies(waitaof_unfulfilled),
        ..GOOD
    },
    Control {
        name: "expired-key-kept",
        what: "a promoted replica answers with a key that has expired",
        wrong: Wrong::Replies(expired_key_kept),
        ..GOOD
    },
    Control {
        name: "expiry-lost",
        what: "replicas hold keys without their end",
        wrong: Wrong::Replies(expiry_lost),
        ..GOOD
    },
    Control {
        name: "counted-twice",
        what: "a master's counter counts each attempt twice",
        wrong: Wrong::Replies(counted_twice),
        ..GOOD
    },
    Control {
        name: "reads-lag",
        what: "a master's lists are read without their last values",
        wrong: Wrong::Replies(reads_lag),
        ..GOOD
    },
    Control {
        name: "value-steps-back",
        what: "a master answers with the value that a client had written before its last",
        wrong: Wrong::Replies(value_steps_back),
        ..GOOD
    },
];

fn lonely_writes<'a>(nodes: &'a mut Nodes<'_>) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async {
        for node in nodes.all() {
            nodes
                .ask(node, &["CONFIG", "SET", "min-replicas-to-write", "0"])
                .await?;
        }
        Ok(())
    })
}

fn never_written_value(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("GET") && replies::about(at, "CONS-05") && reply == Reply::Nil {
        Reply::Bulk(Bytes::from_static(b"never written"))
    } else {
        reply
    }
}

/// The replicas are emptied after the kill and before one of them is promoted: that takes a node-timeout at least.
fn replicas_emptied<'a>(
    inner: &'a dyn Target,
    fault: Fault,
    member: &'a Member,
) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async move {
        inner.inject(fault, member).await?;
        if fault != Fault::Kill {
            return Ok(());
        }
        for other in inner.members().await? {
            // One may be killed at the same time.
            let _ = empty_a_replica(inner, &other).await;
        }
        Ok(())
    })
}

async fn empty_a_replica(inner: &dyn Target, member: &Member) -> Result<(), TargetError> {
    let mut connection = open(inner, member).await?;
    let role = connection.ask(&["ROLE"]).await?;
    if role.array().and_then(|items| items.first()?.text()) == Some("slave") {
        connection.ask(&["CONFIG", "SET", "replica-read-only", "no"]).await?;
        connection.ask(&["FLUSHALL"]).await?;
    }
    Ok(())
}

fn wait_answers_none(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && at.is("WAIT") {
        Reply::Integer(0)
    } else {
        reply
    }
}

fn wait_counts_too_many(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply {
        Reply::Integer(count) if at.node == 0 && at.is("WAIT") => Reply::Integer(count + 1),
        other => other,
    }
}

fn replica_waits(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 4 && at.is("WAIT") {
        Reply::Integer(0)
    } else {
        reply
    }
}

/// The number of a reply, altered.
fn renumbered(reply: Reply, change: impl Fn(u64) -> u64) -> Reply {
    match reply.text().and_then(|text| text.parse().ok()) {
        Some(number) => Reply::Bulk(Bytes::from(change(number).to_string())),
        None => reply,
    }
}

fn own_writes_unseen(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("GET") && replies::about(at, "CONS-08") {
        renumbered(reply, |number| number.saturating_sub(1))
    } else {
        reply
    }
}

fn replica_steps_back(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 3 && at.is("GET") && replies::about(at, "CONS-09") {
        renumbered(reply, |number| if number % 10 < 5 { number } else { number / 2 })
    } else {
        reply
    }
}

fn waitaof_unfulfilled(at: &Exchange<'_>, reply: Reply) -> Reply {
    // Whatever the server is, it seems to know the command: so the case is judged on every version.
    if at.is("COMMAND INFO waitaof") {
        Reply::Array(vec![Reply::Array(vec![Reply::Bulk(Bytes::from_static(b"waitaof"))])])
    } else if at.is("WAITAOF") {
        let replicas = i64::from(at.node != 1);
        Reply::Array(vec![Reply::Integer(1), Reply::Integer(replicas)])
    } else {
        reply
    }
}

fn expired_key_kept(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node > 2 && at.is("GET") && replies::about(at, "CONS-14") && reply == Reply::Nil {
        Reply::Bulk(Bytes::from_static(b"mortal"))
    } else {
        reply
    }
}

fn expiry_lost(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node > 2 && at.is("PTTL") && replies::about(at, "CONS-14") && reply.integer().is_some() {
        Reply::Integer(-1)
    } else {
        reply
    }
}

fn value_steps_back(at: &Exchange<'_>, reply: Reply) -> Reply {
    if !(at.node == 1 && at.is("GET") && replies::about(at, "CONS-15")) {
        return reply;
    }
    match reply.text().and_then(|text| text.parse::<u64>().ok()) {
        // The first of a client has none before it.
        Some(number) if number % 1_000_000 > 0 => Reply::Bulk((number - 1).to_string().into()),
        Some(_) | None => reply,
    }
}

fn counted_twice(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("GET") && replies::about(at, "counter") {
        renumbered(reply, |number| number * 2)
    } else {
        reply
    }
}

fn reads_lag(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply {
        Reply::Array(values) if at.node == 1 && at.is("LRANGE") && replies::about(at, "CONS-15") => {
            let seen = values.len().saturating_sub(4);
            Reply::Array(values.into_iter().take(seen).collect())
        }
        other => other,
    }
}

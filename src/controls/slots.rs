//! Controls of the chapter in `cases::slots`.

use super::broken::{Nodes, Wrong};
use super::proxy::Exchange;
use super::{Control, GOOD, replies};
use crate::cluster::resp::Reply;
use crate::cluster::slot::slot_of;
use crate::target::TargetError;
use futures::future::BoxFuture;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "slot-moved",
        what: "a master has a slot more than its even share, another one less",
        wrong: Wrong::State(slot_moved),
        ..GOOD
    },
    Control {
        name: "slot-refused",
        what: "a master refuses the keys of one slot",
        wrong: Wrong::Replies(slot_refused),
        ..GOOD
    },
    Control {
        name: "slot-taken-twice",
        what: "a master answers OK to ADDSLOTS of a slot that has an owner",
        wrong: Wrong::Replies(slot_taken_twice),
        ..GOOD
    },
    Control {
        name: "keys-counted-elsewhere",
        what: "a master counts a key in slots that are not its own",
        wrong: Wrong::Replies(keys_counted_elsewhere),
        ..GOOD
    },
    Control {
        name: "unowned-slot-served",
        what: "a master answers for keys of a slot without an owner",
        wrong: Wrong::Replies(unowned_slot_served),
        ..GOOD
    },
    Control {
        name: "coverage-kept",
        what: "servers answer OK to a change of cluster-require-full-coverage and change nothing",
        wrong: Wrong::Answers(coverage_kept),
        ..GOOD
    },
    Control {
        name: "failed-slots-uncounted",
        what: "replicas count no failed slots",
        wrong: Wrong::Replies(failed_slots_uncounted),
        ..GOOD
    },
    Control {
        name: "keys-drawn",
        what: "a master answers for every second key of the others",
        wrong: Wrong::Replies(keys_drawn),
        ..GOOD
    },
    Control {
        name: "node-in-two-shards",
        what: "a replica's CLUSTER SHARDS lists a node in two shards",
        wrong: Wrong::Replies(node_in_two_shards),
        ..GOOD
    },
];

fn coverage_kept(at: &Exchange<'_>) -> Option<Reply> {
    at.is("CONFIG SET cluster-require-full-coverage")
        .then(|| Reply::Simple("OK".into()))
}

fn failed_slots_uncounted(at: &Exchange<'_>, reply: Reply) -> Reply {
    // Whichever shard is lost, there is one among the survivors.
    if at.node >= 3 && at.is("CLUSTER INFO") {
        replies::field(reply, "cluster_slots_fail", "0")
    } else {
        reply
    }
}

/// Gives slot 5461 to the master before, as a resharding would: that one then has the higher epoch.
fn slot_moved<'a>(nodes: &'a mut Nodes<'_>) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async {
        let (taker, giver) = (nodes.id(0), nodes.id(1));
        let slot = ["CLUSTER", "SETSLOT", "5461"];
        let open = |state: &'static str, id: &str| {
            [&slot[..], &[state]]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .chain([id.to_owned()])
                .collect::<Vec<_>>()
        };
        let steps = [
            (0, open("IMPORTING", &giver)),
            (1, open("MIGRATING", &taker)),
            (0, open("NODE", &taker)),
            (1, open("NODE", &taker)),
            (2, open("NODE", &taker)),
        ];
        for (node, command) in steps {
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            nodes.ask(node, &command).await?;
        }
        for node in nodes.all() {
            nodes.until(node, &["CLUSTER", "NODES"], " 0-5461").await?;
            nodes.until(node, &["CLUSTER", "NODES"], " 5462-10922").await?;
        }
        Ok(())
    })
}

fn slot_refused(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && replies::about(at, "SLOT-07") && slot_of(at.argument(1)) == 7000 {
        Reply::Error("CLUSTERDOWN Hash slot not served".into())
    } else {
        reply
    }
}

fn slot_taken_twice(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("CLUSTER ADDSLOTS") {
        Reply::Simple("OK".into())
    } else {
        reply
    }
}

fn keys_counted_elsewhere(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("CLUSTER COUNTKEYSINSLOT") && reply == Reply::Integer(0) {
        Reply::Integer(1)
    } else {
        reply
    }
}

fn unowned_slot_served(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && replies::about(at, "SLOT-14") && reply.error_prefix() == Some("CLUSTERDOWN") {
        Reply::Nil
    } else {
        reply
    }
}

fn keys_drawn(at: &Exchange<'_>, reply: Reply) -> Reply {
    let moved = reply.error_prefix() == Some("MOVED");
    if at.node == 0 && replies::about(at, "SLOT-15") && moved && slot_of(at.argument(1)).is_multiple_of(2) {
        Reply::Nil
    } else {
        reply
    }
}

fn node_in_two_shards(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 4 || !at.is("CLUSTER SHARDS") {
        return reply;
    }
    // The second shard is given all nodes of the first one but its master.
    let Reply::Array(mut shards) = reply else {
        return reply;
    };
    let doubled = match shards.first() {
        Some(Reply::Array(first)) => match first.last() {
            Some(Reply::Array(nodes)) => nodes.iter().filter(|node| !is_master(node)).cloned().collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    if let Some(Reply::Array(second)) = shards.get_mut(1)
        && let Some(Reply::Array(nodes)) = second.last_mut()
    {
        nodes.extend(doubled);
    }
    Reply::Array(shards)
}

/// Whether an entry of `CLUSTER SHARDS` is a master's.
fn is_master(node: &Reply) -> bool {
    node.array()
        .is_some_and(|fields| fields.iter().any(|field| field.text() == Some("master")))
}

//! Controls of chapter SHARD: masters between which slots cannot be moved as they should, and nodes that see it wrongly.

use super::broken::Wrong;
use super::proxy::Exchange;
use super::replies::{field, reworded};
use super::{Control, GOOD};
use crate::cluster::resp::Reply;
use crate::cluster::slot::slot_of;
use crate::target::Execution;
use std::time::Duration;

/// The last slot of node 0.
const LAST_OF_THE_FIRST: u16 = 5460;

/// The controls of this chapter.
pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "given-slots-unserved",
        what: "a master does not serve slots that it was given",
        wrong: Wrong::Replies(|at, reply| {
            let keyed = ["GET", "LLEN", "MGET", "RPUSH", "SET"].iter().any(|name| at.is(name));
            if keyed && reply.error().is_none() && is_given(at) {
                Reply::Error("CLUSTERDOWN Hash slot not served".into())
            } else {
                reply
            }
        }),
        ..GOOD
    },
    Control {
        name: "life-forgotten",
        what: "keys of slots that a master was given never expire",
        wrong: Wrong::Replies(|at, reply| {
            if at.is("PTTL") && reply.integer() > Some(0) && is_given(at) {
                Reply::Integer(-1)
            } else {
                reply
            }
        }),
        ..GOOD
    },
    Control {
        name: "slots-seen-as-made",
        what: "a replica shows the first two masters' slots as they were made",
        wrong: Wrong::Replies(as_made),
        ..GOOD
    },
    Control {
        name: "size-stuck",
        what: "a master always counts three masters with slots",
        wrong: Wrong::Replies(|at, reply| {
            if at.node == 2 && at.is("CLUSTER INFO") {
                field(reply, "cluster_size", "3")
            } else {
                reply
            }
        }),
        ..GOOD
    },
    Control {
        name: "last-server-locked-out",
        what: "the fifth server beside the deployment has another masterauth",
        scratch_conf: &[(Some(4), "masterauth other")],
        ..GOOD
    },
    Control {
        name: "tool-removes-anything",
        what: "del-node of a master with slots ends well",
        wrong: Wrong::Programs(|command, outcome| {
            if !command.contains(&"del-node") {
                return outcome;
            }
            Execution {
                stdout: ">>> Sending CLUSTER RESET SOFT to the deleted node.".into(),
                stderr: String::new(),
                status: 0,
            }
        }),
        ..GOOD
    },
    Control {
        name: "fix-refused",
        what: "--cluster fix ends without having closed the open slot",
        wrong: Wrong::Programs(|command, outcome| {
            if !command.contains(&"fix") {
                return outcome;
            }
            Execution {
                stdout: "[WARNING] The following slots are open".into(),
                stderr: String::new(),
                status: 1,
            }
        }),
        ..GOOD
    },
    Control {
        name: "forgotten-lingers",
        what: "a master still shows a replica that it was told to forget",
        wrong: Wrong::Replies(|at, reply| match at.addresses.get(5) {
            Some(gone) if at.node == 2 && at.is("CLUSTER NODES") => reworded(reply, |text| {
                if text.contains(&format!(" {gone}@")) {
                    return text.to_owned();
                }
                let (id, bus) = ("0".repeat(40), u32::from(gone.port) + 10000);
                format!("{text}{id} {gone}@{bus} slave - 0 0 1 connected\n")
            }),
            _ => reply,
        }),
        ..GOOD
    },
    Control {
        name: "migrate-disabled",
        what: "the second server beside the deployment does not know MIGRATE",
        scratch_conf: &[(Some(1), "rename-command MIGRATE \"\"")],
        ..GOOD
    },
    Control {
        name: "guards-missing",
        what: "a master takes any SETSLOT",
        wrong: Wrong::Replies(|at, reply| {
            if at.node == 0 && at.is("CLUSTER SETSLOT") {
                Reply::Simple("OK".into())
            } else {
                reply
            }
        }),
        ..GOOD
    },
    Control {
        name: "epoch-unraised",
        what: "no master's own configuration epoch is ever raised",
        wrong: Wrong::Replies(|at, reply| {
            // Of every node: which one takes the slot goes by the epochs that the nodes happen to have.
            if at.is("CLUSTER INFO") {
                field(reply, "cluster_my_epoch", "0")
            } else {
                reply
            }
        }),
        ..GOOD
    },
    Control {
        name: "no-role-switch",
        what: "servers beside the deployment stay masters whatever they lose",
        scratch_conf: &[(None, "cluster-allow-replica-migration no")],
        ..GOOD
    },
    Control {
        name: "promised-migration",
        what: "servers say yes to moving slots by themselves, and move none",
        wrong: Wrong::Replies(|at, reply| {
            if at.is("CLUSTER GETSLOTMIGRATIONS") {
                Reply::Array(Vec::new())
            } else if at.is("CLUSTER MIGRATESLOTS") {
                Reply::Simple("OK".into())
            } else {
                reply
            }
        }),
        overrides: &[("T_reshape", Duration::from_secs(2))],
        ..GOOD
    },
    Control {
        name: "small-values-only",
        what: "the second server beside the deployment takes no value above 1 MiB",
        scratch_conf: &[(Some(1), "proto-max-bulk-len 1048576")],
        ..GOOD
    },
    Control {
        name: "reset-promised",
        what: "a master says yes to a reset though it has keys",
        wrong: Wrong::Replies(|at, reply| {
            if at.node == 0 && at.is("CLUSTER RESET") {
                Reply::Simple("OK".into())
            } else {
                reply
            }
        }),
        ..GOOD
    },
];

/// Whether the command is about a key that the second master has only when the first one's slots were moved to it.
fn is_given(at: &Exchange<'_>) -> bool {
    at.node == 1 && slot_of(at.argument(1)) <= LAST_OF_THE_FIRST
}

fn as_made(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 5 || !at.is("CLUSTER NODES") {
        return reply;
    }
    let line = |line: &str| {
        let of = |node: usize| line.contains(&format!(" {}@", at.addresses[node]));
        let slots = match (of(0), of(1)) {
            (true, _) => "0-5460",
            (_, true) => "5461-10922",
            _ => return format!("{line}\n"),
        };
        let fixed: Vec<&str> = line.split(' ').take(8).collect();
        format!("{} {slots}\n", fixed.join(" "))
    };
    reworded(reply, |text| text.lines().map(line).collect())
}

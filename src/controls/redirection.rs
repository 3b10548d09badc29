//! Controls of chapter REDIR: nodes that say wrongly where a key is served.

use super::broken::Wrong;
use super::proxy::Exchange;
use super::replies::{is_moved, reworded};
use super::{Control, GOOD};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use bytes::Bytes;

/// The last slot of node 0.
const LAST_OF_THE_FIRST: u16 = 5460;

/// The controls of this chapter.
pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "redirected-across-slots",
        what: "a replica answers MOVED to keys of two slots",
        wrong: Wrong::Replies(|at, reply| {
            if at.node == 4 && at.is("MGET") && reply.error_prefix() == Some("CROSSSLOT") {
                Reply::Error(format!("MOVED 0 {}", at.addresses[0]))
            } else {
                reply
            }
        }),
        ..GOOD
    },
    Control {
        name: "keyless-redirected",
        what: "a replica redirects TIME",
        wrong: Wrong::Replies(|at, reply| {
            if at.node == 3 && at.is("TIME") {
                Reply::Error(format!("MOVED 0 {}", at.addresses[0]))
            } else {
                reply
            }
        }),
        ..GOOD
    },
    Control {
        name: "ask-as-moved",
        what: "a master answers MOVED in place of ASK",
        wrong: Wrong::Replies(|at, reply| match &reply {
            Reply::Error(text) if at.node == 0 => Reply::Error(text.replace("ASK ", "MOVED ")),
            _ => reply,
        }),
        ..GOOD
    },
    Control {
        name: "asking-sticks",
        what: "a master takes one ASKING for all commands after it",
        wrong: Wrong::Replies(|at, reply| {
            if at.node == 1 && at.sent("ASKING") && at.is("GET") && is_moved(&reply) {
                Reply::Bulk(Bytes::from_static(b"9"))
            } else {
                reply
            }
        }),
        ..GOOD
    },
    Control {
        name: "served-unasked",
        what: "a master serves a slot that it imports to whoever comes",
        wrong: Wrong::Replies(|at, reply| {
            let importing = at.sent("CLUSTER SETSLOT") && !at.sent("ASKING");
            if at.node == 1 && importing && is_moved(&reply) {
                Reply::Nil
            } else {
                reply
            }
        }),
        ..GOOD
    },
    Control {
        name: "split-keys-served",
        what: "masters answer nil where keys are split by a migration",
        wrong: Wrong::Replies(|_, reply| match reply.error_prefix() {
            Some("TRYAGAIN") => Reply::Array(vec![Reply::Nil, Reply::Nil]),
            _ => reply,
        }),
        ..GOOD
    },
    Control {
        name: "third-party-behind",
        what: "a master never learns that another gave slots away",
        wrong: Wrong::Replies(|at, reply| {
            let moved = Redirect::parse(&reply).filter(|_| at.node == 2 && is_moved(&reply));
            match moved.filter(|to| to.slot <= LAST_OF_THE_FIRST && to.address == at.addresses[1]) {
                Some(to) => Reply::Error(format!("MOVED {} {}", to.slot, at.addresses[0])),
                None => reply,
            }
        }),
        ..GOOD
    },
    Control {
        name: "one-text-for-down",
        what: "servers have one text for every CLUSTERDOWN",
        wrong: Wrong::Replies(|_, reply| match reply.error_prefix() {
            Some("CLUSTERDOWN") => Reply::Error("CLUSTERDOWN The cluster is down".into()),
            _ => reply,
        }),
        ..GOOD
    },
    Control {
        name: "writes-in-circles",
        what: "redirections of the writers' commands lead in circles",
        wrong: Wrong::Replies(in_circles),
        ..GOOD
    },
    Control {
        name: "ipv6-bracketed",
        what: "redirections have an IPv6 address in brackets",
        wrong: Wrong::Replies(|_, reply| match &reply {
            Reply::Error(text) => Reply::Error(text.replace("::1:", "[::1]:")),
            _ => reply,
        }),
        ..GOOD
    },
    Control {
        name: "no-host-marked",
        what: "redirections have a question mark where the host is to be left out",
        wrong: Wrong::Replies(|_, reply| match Redirect::parse(&reply) {
            Some(to) if to.address.host.is_empty() => Reply::Error(format!("MOVED {} ?:{}", to.slot, to.address.port)),
            _ => reply,
        }),
        ..GOOD
    },
    Control {
        name: "nameless-node",
        what: "a server announces no host name though the others do",
        scratch_conf: &[(Some(1), "cluster-announce-hostname \"\"")],
        ..GOOD
    },
    Control {
        name: "redirections-uncounted",
        what: "a replica's count of redirections stays where it is",
        wrong: Wrong::Replies(|at, reply| {
            if at.node != 4 || !at.is("INFO errorstats") {
                return reply;
            }
            reworded(reply, |text| {
                let others = text.lines().filter(|line| !line.starts_with("errorstat_MOVED"));
                others.map(|line| format!("{}\r\n", line.trim_end())).collect()
            })
        }),
        ..GOOD
    },
];

/// Sends the writers to and fro between two replicas.
fn in_circles(at: &Exchange<'_>, reply: Reply) -> Reply {
    match Redirect::parse(&reply).filter(|_| at.is("RPUSH") && is_moved(&reply)) {
        Some(to) => {
            let next = if at.node == 4 { 5 } else { 4 };
            Reply::Error(format!("MOVED {} {}", to.slot, at.addresses[next]))
        }
        None => reply,
    }
}

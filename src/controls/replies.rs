//! Wrong replies, of a proxy before one node.

use super::proxy::Exchange;
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::cluster::slot::{SLOT_COUNT, slot_of};
use bytes::Bytes;

/// The text of a reply altered, whatever kind of text it is.
pub(super) fn reworded(reply: Reply, change: impl Fn(&str) -> String) -> Reply {
    match &reply {
        Reply::Bulk(_) => match reply.text() {
            Some(text) => Reply::Bulk(Bytes::from(change(text))),
            None => reply,
        },
        _ => reply,
    }
}

/// Whether the request is about a key of a case: for faults that are to touch that one alone.
pub(super) fn about(at: &Exchange<'_>, case: &str) -> bool {
    let case = format!(":{case}:");
    at.argument(1).windows(case.len()).any(|part| part == case.as_bytes())
}

pub(super) fn is_moved(reply: &Reply) -> bool {
    reply.error_prefix() == Some("MOVED")
}

pub(super) fn moved_astray(at: &Exchange<'_>, reply: Reply) -> Reply {
    match Redirect::parse(&reply).filter(|_| at.node == 1 && is_moved(&reply)) {
        Some(moved) => {
            // To the master that is neither this one nor the owner.
            let astray = if moved.address == at.addresses[0] { 2 } else { 0 };
            Reply::Error(format!("MOVED {} {}", moved.slot, at.addresses[astray]))
        }
        None => reply,
    }
}

pub(super) fn replica_redirects_nothing(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 3 && is_moved(&reply) {
        Reply::Nil
    } else {
        reply
    }
}

pub(super) fn readonly_takes_all(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 3 || !at.readonly || !is_moved(&reply) {
        reply
    } else if at.is("GET") {
        Reply::Nil
    } else {
        Reply::Simple("OK".into())
    }
}

/// What a node answers to `CLUSTER KEYSLOT`, by another rule.
pub(super) fn key_slot(at: &Exchange<'_>, node: usize, reply: Reply, rule: impl Fn(&[u8]) -> u16) -> Reply {
    if at.node == node && at.is("CLUSTER KEYSLOT") && reply.integer().is_some() {
        Reply::Integer(rule(at.argument(2)).into())
    } else {
        reply
    }
}

pub(super) fn tags_ignored(at: &Exchange<'_>, reply: Reply) -> Reply {
    key_slot(at, 4, reply, |key| {
        crc::Crc::<u16>::new(&crc::CRC_16_XMODEM).checksum(key) % SLOT_COUNT
    })
}

pub(super) fn empty_tag_hashed(at: &Exchange<'_>, reply: Reply) -> Reply {
    key_slot(at, 2, reply, |key| match key.iter().position(|byte| *byte == b'{') {
        Some(brace) if key.get(brace + 1) == Some(&b'}') => slot_of(b""),
        _ => slot_of(key),
    })
}

pub(super) fn crc_off_by_one(at: &Exchange<'_>, reply: Reply) -> Reply {
    key_slot(at, 5, reply, |key| (slot_of(key) + 1) % SLOT_COUNT)
}

pub(super) fn cross_slot_taken(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && reply.error_prefix() == Some("CROSSSLOT") {
        Reply::Simple("OK".into())
    } else {
        reply
    }
}

pub(super) fn keys_unnamed(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 0 && at.is("CLUSTER GETKEYSINSLOT") {
        Reply::Array(Vec::new())
    } else {
        reply
    }
}

pub(super) fn open_command(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 4 && at.is("ECHO") && !at.authenticated {
        Reply::Bulk(Bytes::copy_from_slice(at.argument(1)))
    } else {
        reply
    }
}

pub(super) fn role_denied(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 0 || !at.is("ROLE") {
        return reply;
    }
    let text = |text: &str| Reply::Bulk(Bytes::copy_from_slice(text.as_bytes()));
    let master = &at.addresses[1];
    Reply::Array(vec![
        text("slave"),
        text(&master.host),
        Reply::Integer(master.port.into()),
        text("connected"),
        Reply::Integer(0),
    ])
}

pub(super) fn slots_cut_short(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply {
        Reply::Array(ranges) if at.node == 4 && at.is("CLUSTER SLOTS") => {
            Reply::Array(ranges.into_iter().skip(1).collect())
        }
        other => other,
    }
}

pub(super) fn replica_with_slots(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 5 || !at.is("CLUSTER NODES") {
        return reply;
    }
    reworded(reply, |text| {
        let line = |line: &str| match line.contains(" slave ") {
            true => format!("{line} 0\n"),
            false => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    })
}

pub(super) fn offset_stuck(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 3 || !at.is("INFO replication") {
        return reply;
    }
    field(reply, "slave_repl_offset", "1")
}

/// A field of `INFO` or `CLUSTER INFO` with another value.
pub(super) fn field(reply: Reply, name: &str, value: &str) -> Reply {
    reworded(reply, |text| {
        let line = |line: &str| match line.split_once(':') {
            Some((field, _)) if field == name => format!("{name}:{value}\r\n"),
            _ => format!("{}\r\n", line.trim_end()),
        };
        text.lines().map(line).collect()
    })
}

pub(super) fn offset_missing(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 2 || !at.is("INFO replication") {
        return reply;
    }
    reworded(reply, |text| text.replace("master_repl_offset:", "offset:"))
}

pub(super) fn state_fail(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 4 && at.is("CLUSTER INFO") {
        field(reply, "cluster_state", "fail")
    } else {
        reply
    }
}

pub(super) fn slot_failing(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 5 && at.is("CLUSTER INFO") {
        field(reply, "cluster_slots_pfail", "1")
    } else {
        reply
    }
}

pub(super) fn last_slot_lost(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("GET") && slot_of(at.argument(1)) == SLOT_COUNT - 1 {
        Reply::Nil
    } else {
        reply
    }
}

pub(super) fn empty_key_refused(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 0 && (at.is("SET") || at.is("GET")) && at.argument(1).is_empty() {
        Reply::Error("ERR the key is empty".into())
    } else {
        reply
    }
}

pub(super) fn replica_holds_nothing(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 4 && at.readonly && at.is("GET") && reply.bytes().is_some() {
        Reply::Nil
    } else {
        reply
    }
}

pub(super) fn any_password(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 3 && at.is("AUTH") {
        Reply::Simple("OK".into())
    } else {
        reply
    }
}

pub(super) fn moved_other_slot(at: &Exchange<'_>, reply: Reply) -> Reply {
    match Redirect::parse(&reply).filter(|_| at.node == 5 && is_moved(&reply)) {
        Some(moved) => Reply::Error(format!("MOVED {} {}", moved.slot ^ 1, moved.address)),
        None => reply,
    }
}

pub(super) fn keys_refused(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && (at.is("CLUSTER GETKEYSINSLOT") || at.is("CLUSTER COUNTKEYSINSLOT")) {
        Reply::Error("ERR unknown subcommand".into())
    } else {
        reply
    }
}

/// Not a reply at all: the proxy closes the connection in its place.
pub(super) fn hang_up(at: &Exchange<'_>, reply: Reply) -> Reply {
    let about_keys = ["GET", "SET", "MSET", "MGET"].iter().any(|name| at.is(name));
    if at.node == 1 && at.authenticated && about_keys {
        at.hang_up();
    }
    reply
}

//! Controls of the chapter in `cases::hash`.

use super::broken::Wrong;
use super::proxy::Exchange;
use super::replies::{about, key_slot};
use super::{Control, GOOD};
use crate::cluster::resp::Reply;
use crate::cluster::slot::{SLOT_COUNT, slot_of};

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "rare-keys-astray",
        what: "a replica's CLUSTER KEYSLOT is wrong for one key in a thousand",
        wrong: Wrong::Replies(rare_keys_astray),
        ..GOOD
    },
    Control {
        name: "case-ignored",
        what: "a master's CLUSTER KEYSLOT does not tell letters of both cases apart",
        wrong: Wrong::Replies(case_ignored),
        ..GOOD
    },
    Control {
        name: "long-keys-cut",
        what: "a replica's CLUSTER KEYSLOT looks at the first 255 bytes only",
        wrong: Wrong::Replies(long_keys_cut),
        ..GOOD
    },
    Control {
        name: "keyslot-takes-two",
        what: "a replica's CLUSTER KEYSLOT takes any number of keys",
        wrong: Wrong::Replies(keyslot_takes_two),
        ..GOOD
    },
    Control {
        name: "pairs-parted",
        what: "a replica that is promoted has not the second of two keys",
        wrong: Wrong::Replies(pairs_parted),
        ..GOOD
    },
    Control {
        name: "moved-pairs-parted",
        what: "a master that a slot was moved to has not the second of two keys",
        wrong: Wrong::Replies(moved_pairs_parted),
        ..GOOD
    },
    Control {
        name: "scan-short",
        what: "a master's SCAN leaves a key out",
        wrong: Wrong::Replies(scan_short),
        ..GOOD
    },
];

fn rare_keys_astray(at: &Exchange<'_>, reply: Reply) -> Reply {
    key_slot(at, 3, reply, |key| match slot_of(key) {
        slot if slot % 1000 == 999 => (slot + 1) % SLOT_COUNT,
        slot => slot,
    })
}

fn case_ignored(at: &Exchange<'_>, reply: Reply) -> Reply {
    key_slot(at, 2, reply, |key| slot_of(key.to_ascii_lowercase()))
}

fn long_keys_cut(at: &Exchange<'_>, reply: Reply) -> Reply {
    key_slot(at, 4, reply, |key| slot_of(&key[..key.len().min(255)]))
}

fn keyslot_takes_two(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 3 && at.is("CLUSTER KEYSLOT") && reply.error().is_some() {
        Reply::Integer(slot_of(at.argument(2)).into())
    } else {
        reply
    }
}

/// The first value of an `MGET` of two keys, without the second.
fn parted(reply: Reply) -> Reply {
    match reply {
        Reply::Array(values) if values.len() == 2 => Reply::Array(vec![values[0].clone(), Reply::Nil]),
        other => other,
    }
}

fn pairs_parted(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node >= 3 && at.is("MGET") && about(at, "HASH-16") {
        parted(reply)
    } else {
        reply
    }
}

fn moved_pairs_parted(at: &Exchange<'_>, reply: Reply) -> Reply {
    // The master that has the slot from the beginning.
    let home = match slot_of(at.argument(1)) {
        ..=5460 => 0,
        5461..=10922 => 1,
        _ => 2,
    };
    if at.node < 3 && at.node != home && at.is("MGET") && about(at, "HASH-16") {
        parted(reply)
    } else {
        reply
    }
}

fn scan_short(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply {
        Reply::Array(parts) if at.node == 1 && at.is("SCAN") => {
            let shorter = |part: &Reply| match part {
                Reply::Array(keys) => Reply::Array(keys.iter().skip(1).cloned().collect()),
                cursor => cursor.clone(),
            };
            Reply::Array(parts.iter().map(shorter).collect())
        }
        other => other,
    }
}

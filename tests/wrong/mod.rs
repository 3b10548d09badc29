//! The table of controls: what is wrong, and which cases must fail for it. Nodes 0 to 2 are the masters of slots
//! 0-5460, 5461-10922 and 10923-16383, nodes 3 to 5 their replicas in that order.

use crate::broken::Wrong;
use std::time::Duration;

mod replies;
mod states;

/// The cases that must fail on a control.
#[derive(Clone, Copy)]
pub(crate) enum Fails {
    /// These.
    Only(&'static [&'static str]),
    /// All but these: a node that cannot be asked leaves almost nothing to be judged.
    AllBut(&'static [&'static str]),
}

/// A deployment that is deliberately wrong.
#[derive(Clone, Copy)]
pub(crate) struct Control {
    /// Its name, as cases give it.
    pub(crate) name: &'static str,
    /// What is wrong.
    pub(crate) what: &'static str,
    /// Lines of redis.conf of single nodes.
    pub(crate) conf: &'static [(usize, &'static str)],
    /// What is done to the cluster, or to its replies.
    pub(crate) wrong: Wrong,
    /// The cases that must fail.
    pub(crate) fails: Fails,
    /// Time limits of its own.
    pub(crate) overrides: &'static [(&'static str, Duration)],
}

impl Control {
    /// Whether it leaves its servers as they were: such controls share a cluster.
    pub(crate) fn lends(&self) -> bool {
        self.conf.is_empty() && !matches!(self.wrong, Wrong::State(_))
    }
}

/// A control that is all as it should be; the others say where they differ.
const GOOD: Control = Control {
    name: "good",
    what: "nothing is wrong",
    conf: &[],
    wrong: Wrong::Nothing,
    fails: Fails::Only(&[]),
    overrides: &[],
};

/// Every control.
pub(crate) static CONTROLS: &[Control] = &[
    GOOD,
    Control {
        name: "open-node",
        what: "a master has no password",
        wrong: Wrong::State(states::open_node),
        fails: Fails::Only(&["AUTH-01", "AUTH-02", "AUTH-03", "AUTH-14", "AUTH-17", "AUTH-20"]),
        ..GOOD
    },
    Control {
        name: "other-password",
        what: "a replica has another password",
        wrong: Wrong::State(states::other_password),
        fails: Fails::AllBut(&["AUTH-01", "AUTH-02"]),
        ..GOOD
    },
    Control {
        name: "second-password",
        what: "a master takes a second password too",
        wrong: Wrong::State(states::second_password),
        fails: Fails::Only(&["AUTH-02"]),
        ..GOOD
    },
    Control {
        name: "no-masterauth",
        what: "a replica has no masterauth; its link is still up",
        wrong: Wrong::State(states::no_masterauth),
        fails: Fails::Only(&["AUTH-07"]),
        ..GOOD
    },
    Control {
        name: "links-down",
        what: "no replica has masterauth, and their links are down",
        wrong: Wrong::State(states::links_down),
        fails: Fails::Only(&[
            "REPL-02", "REPL-03", "REPL-04", "REPL-05", "REPL-06", "AUTH-07", "OPS-16",
        ]),
        ..GOOD
    },
    Control {
        name: "slot-deleted",
        what: "a master dropped a slot that all others give to it",
        wrong: Wrong::State(states::slot_deleted),
        fails: Fails::Only(&["BOOT-05", "SLOT-01", "SLOT-02", "SLOT-03", "SLOT-04", "OPS-16"]),
        ..GOOD
    },
    Control {
        name: "master-down",
        what: "a master misses a slot and so refuses every key",
        wrong: Wrong::State(states::master_down),
        fails: Fails::Only(&[
            "BOOT-03", "BOOT-05", "SLOT-01", "SLOT-02", "SLOT-03", "SLOT-04", "SLOT-06", "REPL-05", "REPL-06",
            "AUTH-20", "HASH-08", "HASH-10", "HASH-11", "HASH-13", "REDIR-01", "REDIR-02", "REDIR-19", "OPS-16",
        ]),
        ..GOOD
    },
    Control {
        name: "open-slot",
        what: "a master imports a slot that nobody migrates",
        wrong: Wrong::State(states::open_slot),
        fails: Fails::Only(&["SLOT-09", "OPS-16"]),
        ..GOOD
    },
    Control {
        name: "uneven-replicas",
        what: "a master has two replicas, another none",
        wrong: Wrong::State(states::uneven_replicas),
        fails: Fails::Only(&["REPL-01", "REPL-03", "OPS-16"]),
        ..GOOD
    },
    Control {
        name: "forgotten",
        what: "a master has forgotten another's replica",
        wrong: Wrong::State(states::forgotten),
        fails: Fails::Only(&["BOOT-04", "BOOT-05", "SLOT-08", "REPL-01", "REPL-04", "OPS-16"]),
        ..GOOD
    },
    Control {
        name: "frozen",
        what: "a replica's server is frozen",
        wrong: Wrong::State(states::frozen),
        fails: Fails::AllBut(&[]),
        // The less often it is waited for, the better; whatever else is slow fails too.
        overrides: &[("T_reply", Duration::from_secs(1))],
        ..GOOD
    },
    Control {
        name: "second-address",
        what: "a master announces another of its host's addresses",
        conf: &[(0, "bind 127.0.0.1 127.0.0.2"), (0, "cluster-announce-ip 127.0.0.2")],
        fails: Fails::Only(&[
            "REPL-02", "REPL-04", "REPL-07", "REPL-09", "REPL-10", "REDIR-01", "REDIR-02", "REDIR-19",
        ]),
        ..GOOD
    },
    Control {
        name: "no-endpoint",
        what: "a replica's redirections leave the host out",
        conf: &[(3, "cluster-preferred-endpoint-type unknown-endpoint")],
        fails: Fails::Only(&["REPL-07", "REPL-09", "REPL-10", "REDIR-01", "REDIR-02", "REDIR-19"]),
        ..GOOD
    },
    Control {
        name: "no-readonly",
        what: "a replica does not know READONLY",
        conf: &[(3, "rename-command READONLY \"\"")],
        fails: Fails::Only(&["REPL-05", "REPL-06", "REPL-09", "REPL-10"]),
        ..GOOD
    },
    Control {
        name: "moved-astray",
        what: "a master's MOVED names another server than the owner",
        wrong: Wrong::Replies(replies::moved_astray),
        fails: Fails::Only(&["REDIR-01", "REDIR-02"]),
        ..GOOD
    },
    Control {
        name: "replica-redirects-nothing",
        what: "a replica answers nil where it should redirect",
        wrong: Wrong::Replies(replies::replica_redirects_nothing),
        fails: Fails::Only(&["REPL-07", "REPL-09", "REPL-10", "REDIR-01", "REDIR-19"]),
        ..GOOD
    },
    Control {
        name: "readonly-takes-all",
        what: "a replica in READONLY mode takes writes, and reads of other shards",
        wrong: Wrong::Replies(replies::readonly_takes_all),
        fails: Fails::Only(&["REPL-09", "REPL-10"]),
        ..GOOD
    },
    Control {
        name: "tags-ignored",
        what: "a node's CLUSTER KEYSLOT ignores hash tags",
        wrong: Wrong::Replies(replies::tags_ignored),
        fails: Fails::Only(&[
            "HASH-01", "HASH-03", "HASH-04", "HASH-05", "HASH-06", "HASH-07", "HASH-09",
        ]),
        ..GOOD
    },
    Control {
        name: "empty-tag-hashed",
        what: "a node's CLUSTER KEYSLOT takes {} for a tag",
        wrong: Wrong::Replies(replies::empty_tag_hashed),
        fails: Fails::Only(&["HASH-01", "HASH-04"]),
        ..GOOD
    },
    Control {
        name: "crc-off-by-one",
        what: "a node's CLUSTER KEYSLOT is one too high",
        wrong: Wrong::Replies(replies::crc_off_by_one),
        fails: Fails::Only(&[
            "HASH-01", "HASH-02", "HASH-03", "HASH-04", "HASH-05", "HASH-06", "HASH-07", "HASH-08", "HASH-09",
        ]),
        ..GOOD
    },
    Control {
        name: "cross-slot-taken",
        what: "a master takes an MSET over two slots",
        wrong: Wrong::Replies(replies::cross_slot_taken),
        fails: Fails::Only(&["HASH-11"]),
        ..GOOD
    },
    Control {
        name: "keys-unnamed",
        what: "a master's CLUSTER GETKEYSINSLOT is empty",
        wrong: Wrong::Replies(replies::keys_unnamed),
        fails: Fails::Only(&["HASH-10", "HASH-13"]),
        ..GOOD
    },
    Control {
        name: "open-command",
        what: "a replica answers ECHO without a password",
        wrong: Wrong::Replies(replies::open_command),
        fails: Fails::Only(&["AUTH-01"]),
        ..GOOD
    },
    Control {
        name: "role-denied",
        what: "a master's ROLE says that it is a replica",
        wrong: Wrong::Replies(replies::role_denied),
        fails: Fails::Only(&["REPL-02", "REPL-04", "FAIL-30"]),
        ..GOOD
    },
    Control {
        name: "slots-cut-short",
        what: "a replica's CLUSTER SLOTS lacks a range",
        wrong: Wrong::Replies(replies::slots_cut_short),
        fails: Fails::Only(&["SLOT-03", "SLOT-04"]),
        ..GOOD
    },
    Control {
        name: "replica-with-slots",
        what: "a replica's CLUSTER NODES shows a replica with a slot",
        wrong: Wrong::Replies(replies::replica_with_slots),
        fails: Fails::Only(&["BOOT-05", "SLOT-04", "SLOT-08", "OPS-16"]),
        ..GOOD
    },
    Control {
        name: "offset-stuck",
        what: "a replica's offset stays where it is",
        wrong: Wrong::Replies(replies::offset_stuck),
        fails: Fails::Only(&["REPL-05"]),
        ..GOOD
    },
    Control {
        name: "state-fail",
        what: "a replica says cluster_state:fail",
        wrong: Wrong::Replies(replies::state_fail),
        fails: Fails::Only(&["BOOT-03", "OPS-16"]),
        ..GOOD
    },
    Control {
        name: "slot-failing",
        what: "a replica counts a slot as possibly failing",
        wrong: Wrong::Replies(replies::slot_failing),
        fails: Fails::Only(&["SLOT-02"]),
        ..GOOD
    },
    Control {
        name: "last-slot-lost",
        what: "a master has nothing of what is written to slot 16383",
        wrong: Wrong::Replies(replies::last_slot_lost),
        fails: Fails::Only(&["SLOT-06"]),
        ..GOOD
    },
    Control {
        name: "empty-key-refused",
        what: "a master refuses the empty key",
        wrong: Wrong::Replies(replies::empty_key_refused),
        fails: Fails::Only(&["HASH-08"]),
        ..GOOD
    },
    Control {
        name: "replica-holds-nothing",
        what: "a replica in READONLY mode finds no key",
        wrong: Wrong::Replies(replies::replica_holds_nothing),
        fails: Fails::Only(&["REPL-05", "REPL-06"]),
        ..GOOD
    },
    Control {
        name: "any-password",
        what: "a replica answers OK to any password",
        wrong: Wrong::Replies(replies::any_password),
        fails: Fails::Only(&["AUTH-02", "AUTH-14"]),
        ..GOOD
    },
    Control {
        name: "moved-other-slot",
        what: "a replica's MOVED names another slot than the key's",
        wrong: Wrong::Replies(replies::moved_other_slot),
        fails: Fails::Only(&["REPL-07", "REPL-09", "REPL-10", "REDIR-01"]),
        ..GOOD
    },
    Control {
        name: "keys-refused",
        what: "a master refuses CLUSTER GETKEYSINSLOT and COUNTKEYSINSLOT",
        wrong: Wrong::Replies(replies::keys_refused),
        fails: Fails::Only(&["HASH-10", "HASH-13"]),
        ..GOOD
    },
    Control {
        name: "offset-missing",
        what: "a master's INFO replication has no offset",
        wrong: Wrong::Replies(replies::offset_missing),
        fails: Fails::Only(&["REPL-05"]),
        ..GOOD
    },
    Control {
        name: "hang-up",
        what: "a master hangs up on commands about keys",
        wrong: Wrong::Replies(replies::hang_up),
        fails: Fails::Only(&[
            "SLOT-06", "REPL-05", "REPL-06", "HASH-10", "HASH-11", "HASH-13", "REDIR-01", "REDIR-02", "REDIR-19",
        ]),
        ..GOOD
    },
];

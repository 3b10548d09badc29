//! Controls of the first chapters: the seed's six assertions.

use super::broken::Wrong;
use super::{Control, GOOD, replies, states};
use std::time::Duration;

/// The controls of the seed's six assertions.
pub(super) static CONTROLS: &[Control] = &[
    GOOD,
    Control {
        name: "open-node",
        what: "a master has no password",
        wrong: Wrong::State(states::open_node),
        ..GOOD
    },
    Control {
        name: "other-password",
        blunt: true,
        what: "a replica has another password",
        wrong: Wrong::State(states::other_password),
        ..GOOD
    },
    Control {
        name: "second-password",
        what: "a master takes a second password too",
        wrong: Wrong::State(states::second_password),
        ..GOOD
    },
    Control {
        name: "no-masterauth",
        what: "a replica has no masterauth; its link is still up",
        wrong: Wrong::State(states::no_masterauth),
        ..GOOD
    },
    Control {
        name: "links-down",
        what: "no replica has masterauth, and their links are down",
        wrong: Wrong::State(states::links_down),
        ..GOOD
    },
    Control {
        name: "slot-deleted",
        what: "a master dropped a slot that all others give to it",
        wrong: Wrong::State(states::slot_deleted),
        ..GOOD
    },
    Control {
        name: "master-down",
        what: "a master misses a slot and so refuses every key",
        wrong: Wrong::State(states::master_down),
        ..GOOD
    },
    Control {
        name: "open-slot",
        what: "a master imports a slot that nobody migrates",
        wrong: Wrong::State(states::open_slot),
        ..GOOD
    },
    Control {
        name: "uneven-replicas",
        what: "a master has two replicas, another none",
        wrong: Wrong::State(states::uneven_replicas),
        ..GOOD
    },
    Control {
        name: "forgotten",
        what: "a master has forgotten another's replica",
        wrong: Wrong::State(states::forgotten),
        ..GOOD
    },
    Control {
        name: "frozen",
        blunt: true,
        what: "a replica's server is frozen",
        wrong: Wrong::State(states::frozen),
        // The less often it is waited for, the better; whatever else is slow fails too.
        overrides: &[("T_reply", Duration::from_secs(1))],
        ..GOOD
    },
    Control {
        name: "second-address",
        what: "a master announces another of its host's addresses",
        conf: &[
            (Some(0), "bind 127.0.0.1 127.0.0.2"),
            (Some(0), "cluster-announce-ip 127.0.0.2"),
        ],
        ..GOOD
    },
    Control {
        name: "no-endpoint",
        what: "a replica's redirections leave the host out",
        conf: &[(Some(3), "cluster-preferred-endpoint-type unknown-endpoint")],
        ..GOOD
    },
    Control {
        name: "no-readonly",
        what: "a replica does not know READONLY",
        conf: &[(Some(3), "rename-command READONLY \"\"")],
        ..GOOD
    },
    Control {
        name: "moved-astray",
        what: "a master's MOVED names another server than the owner",
        wrong: Wrong::Replies(replies::moved_astray),
        ..GOOD
    },
    Control {
        name: "replica-redirects-nothing",
        what: "a replica answers nil where it should redirect",
        wrong: Wrong::Replies(replies::replica_redirects_nothing),
        ..GOOD
    },
    Control {
        name: "readonly-takes-all",
        what: "a replica in READONLY mode takes writes, and reads of other shards",
        wrong: Wrong::Replies(replies::readonly_takes_all),
        ..GOOD
    },
    Control {
        name: "tags-ignored",
        what: "a node's CLUSTER KEYSLOT ignores hash tags",
        wrong: Wrong::Replies(replies::tags_ignored),
        ..GOOD
    },
    Control {
        name: "empty-tag-hashed",
        what: "a node's CLUSTER KEYSLOT takes {} for a tag",
        wrong: Wrong::Replies(replies::empty_tag_hashed),
        ..GOOD
    },
    Control {
        name: "crc-off-by-one",
        what: "a node's CLUSTER KEYSLOT is one too high",
        wrong: Wrong::Replies(replies::crc_off_by_one),
        ..GOOD
    },
    Control {
        name: "cross-slot-taken",
        what: "a master takes an MSET over two slots",
        wrong: Wrong::Replies(replies::cross_slot_taken),
        ..GOOD
    },
    Control {
        name: "keys-unnamed",
        what: "a master's CLUSTER GETKEYSINSLOT is empty",
        wrong: Wrong::Replies(replies::keys_unnamed),
        ..GOOD
    },
    Control {
        name: "open-command",
        what: "a replica answers ECHO without a password",
        wrong: Wrong::Replies(replies::open_command),
        ..GOOD
    },
    Control {
        name: "role-denied",
        what: "a master's ROLE says that it is a replica",
        wrong: Wrong::Replies(replies::role_denied),
        ..GOOD
    },
    Control {
        name: "slots-cut-short",
        what: "a replica's CLUSTER SLOTS lacks a range",
        wrong: Wrong::Replies(replies::slots_cut_short),
        ..GOOD
    },
    Control {
        name: "replica-with-slots",
        what: "a replica's CLUSTER NODES shows a replica with a slot",
        wrong: Wrong::Replies(replies::replica_with_slots),
        ..GOOD
    },
    Control {
        name: "offset-stuck",
        what: "a replica's offset stays where it is",
        wrong: Wrong::Replies(replies::offset_stuck),
        ..GOOD
    },
    Control {
        name: "state-fail",
        what: "a replica says cluster_state:fail",
        wrong: Wrong::Replies(replies::state_fail),
        ..GOOD
    },
    Control {
        name: "slot-failing",
        what: "a replica counts a slot as possibly failing",
        wrong: Wrong::Replies(replies::slot_failing),
        ..GOOD
    },
    Control {
        name: "last-slot-lost",
        what: "a master has nothing of what is written to slot 16383",
        wrong: Wrong::Replies(replies::last_slot_lost),
        ..GOOD
    },
    Control {
        name: "empty-key-refused",
        what: "a master refuses the empty key",
        wrong: Wrong::Replies(replies::empty_key_refused),
        ..GOOD
    },
    Control {
        name: "replica-holds-nothing",
        what: "a replica in READONLY mode finds no key",
        wrong: Wrong::Replies(replies::replica_holds_nothing),
        ..GOOD
    },
    Control {
        name: "any-password",
        what: "a replica answers OK to any password",
        wrong: Wrong::Replies(replies::any_password),
        ..GOOD
    },
    Control {
        name: "moved-other-slot",
        what: "a replica's MOVED names another slot than the key's",
        wrong: Wrong::Replies(replies::moved_other_slot),
        ..GOOD
    },
    Control {
        name: "keys-refused",
        what: "a master refuses CLUSTER GETKEYSINSLOT and COUNTKEYSINSLOT",
        wrong: Wrong::Replies(replies::keys_refused),
        ..GOOD
    },
    Control {
        name: "offset-missing",
        what: "a master's INFO replication has no offset",
        wrong: Wrong::Replies(replies::offset_missing),
        ..GOOD
    },
    Control {
        name: "hang-up",
        what: "a master hangs up on commands about keys",
        wrong: Wrong::Replies(replies::hang_up),
        ..GOOD
    },
];

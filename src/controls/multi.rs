//! Controls of the chapter in `cases::multi`.

use super::broken::Wrong;
use super::proxy::Exchange;
use super::{Control, GOOD};
use crate::cluster::resp::Reply;
use bytes::Bytes;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "same-slot-refused",
        what: "a master refuses SUNIONSTORE for keys of one slot",
        wrong: Wrong::Replies(same_slot_refused),
        ..GOOD
    },
    Control {
        name: "stored-across-slots",
        what: "a master carries out SUNIONSTORE over two slots",
        wrong: Wrong::Replies(stored_across_slots),
        ..GOOD
    },
    Control {
        name: "repeated-key-refused",
        what: "a master refuses MGET of one key twice",
        wrong: Wrong::Replies(repeated_key_refused),
        ..GOOD
    },
    Control {
        name: "last-reply-alone",
        what: "a master's EXEC answers the last reply alone",
        wrong: Wrong::Replies(last_reply_alone),
        ..GOOD
    },
    Control {
        name: "aborted-exec-done",
        what: "a master carries EXEC out after a redirection",
        wrong: Wrong::Replies(aborted_exec_done),
        ..GOOD
    },
    Control {
        name: "watch-ignored",
        what: "a master carries EXEC out after a watched key was changed",
        wrong: Wrong::Replies(watch_ignored),
        ..GOOD
    },
    Control {
        name: "exec-alone",
        what: "a replica takes EXEC without MULTI",
        wrong: Wrong::Replies(exec_alone),
        ..GOOD
    },
    Control {
        name: "script-not-redirected",
        what: "a master runs scripts about other nodes' keys",
        wrong: Wrong::Replies(script_not_redirected),
        ..GOOD
    },
    Control {
        name: "script-beyond-node",
        what: "a master's scripts use undeclared keys of other nodes",
        wrong: Wrong::Replies(script_beyond_node),
        ..GOOD
    },
    Control {
        name: "shebang-ignored",
        what: "a master's #!lua scripts use keys of two slots",
        wrong: Wrong::Replies(shebang_ignored),
        ..GOOD
    },
    Control {
        name: "scripts-everywhere",
        what: "a master knows scripts that only others were given",
        wrong: Wrong::Replies(scripts_everywhere),
        ..GOOD
    },
    Control {
        name: "second-database",
        what: "a replica has a second database",
        wrong: Wrong::Replies(second_database),
        ..GOOD
    },
    Control {
        name: "move-taken",
        what: "a master takes MOVE to another database",
        wrong: Wrong::Replies(move_taken),
        ..GOOD
    },
    Control {
        name: "message-lost",
        what: "a replica's subscribers get no messages of one node",
        wrong: Wrong::Replies(message_lost),
        ..GOOD
    },
    Control {
        name: "message-twice",
        what: "a replica's subscribers get every message twice",
        wrong: Wrong::Replies(message_twice),
        ..GOOD
    },
    Control {
        name: "shard-channel-anywhere",
        what: "a master takes SSUBSCRIBE for slots of others",
        wrong: Wrong::Replies(shard_channel_anywhere),
        ..GOOD
    },
    Control {
        name: "shard-message-lost",
        what: "a master's subscribers get no messages of SPUBLISH",
        wrong: Wrong::Replies(shard_message_lost),
        ..GOOD
    },
    Control {
        name: "random-key-of-others",
        what: "a master's RANDOMKEY names a key of another",
        wrong: Wrong::Replies(random_key_of_others),
        ..GOOD
    },
    Control {
        name: "keys-of-others",
        what: "a master's KEYS names a key of another",
        wrong: Wrong::Replies(keys_of_others),
        ..GOOD
    },
    Control {
        name: "size-of-all",
        what: "a master's DBSIZE counts keys of others",
        wrong: Wrong::Replies(size_of_all),
        ..GOOD
    },
    Control {
        name: "blocked-when-moved",
        what: "a client that waits for a key goes on waiting when its slot leaves",
        wrong: Wrong::Replies(blocked_when_moved),
        ..GOOD
    },
    Control {
        name: "blocked-when-demoted",
        what: "a client that waits for a key goes on waiting when its master is demoted",
        wrong: Wrong::Replies(blocked_when_demoted),
        ..GOOD
    },
];

fn ok() -> Reply {
    Reply::Simple("OK".into())
}

/// Whether a reply is an error that holds a text.
fn says(reply: &Reply, text: &str) -> bool {
    reply.error().is_some_and(|error| error.contains(text))
}

fn cross_slot() -> Reply {
    Reply::Error("CROSSSLOT Keys in request don't hash to the same slot".into())
}

fn same_slot_refused(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && at.is("SUNIONSTORE") {
        cross_slot()
    } else {
        reply
    }
}

fn stored_across_slots(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("SUNIONSTORE") && says(&reply, "CROSSSLOT") {
        Reply::Integer(0)
    } else {
        reply
    }
}

fn repeated_key_refused(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 0 && at.is("MGET") && at.argument(1) == at.argument(2) {
        cross_slot()
    } else {
        reply
    }
}

fn last_reply_alone(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply {
        Reply::Array(replies) if at.node == 2 && at.is("EXEC") && replies.len() == 2 => {
            Reply::Array(replies.into_iter().skip(1).collect())
        }
        other => other,
    }
}

fn aborted_exec_done(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 0 && at.is("EXEC") && says(&reply, "EXECABORT") {
        Reply::Array(vec![ok()])
    } else {
        reply
    }
}

fn watch_ignored(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && at.is("EXEC") && reply == Reply::Nil {
        Reply::Array(vec![ok()])
    } else {
        reply
    }
}

fn exec_alone(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 4 && at.is("EXEC") && says(&reply, "without MULTI") {
        Reply::Array(Vec::new())
    } else {
        reply
    }
}

fn script_not_redirected(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("EVAL") && says(&reply, "MOVED") {
        ok()
    } else {
        reply
    }
}

fn script_beyond_node(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && at.is("EVAL") && says(&reply, "non local key") {
        ok()
    } else {
        reply
    }
}

fn shebang_ignored(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 0 && at.is("EVAL") && says(&reply, "same slot") && !says(&reply, "CROSSSLOT") {
        Reply::Array(vec![ok(), ok()])
    } else {
        reply
    }
}

fn scripts_everywhere(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("EVALSHA") && says(&reply, "NOSCRIPT") {
        Reply::Bulk(Bytes::from_static(b"carried out"))
    } else {
        reply
    }
}

fn second_database(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 4 && at.is("SELECT 1") { ok() } else { reply }
}

fn move_taken(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 0 && at.is("MOVE") && says(&reply, "ERR") {
        Reply::Integer(0)
    } else {
        reply
    }
}

fn shard_message_lost(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && at.is("SSUBSCRIBE") && reply.is_message() {
        at.pass_on(0);
    }
    reply
}

fn random_key_of_others(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && at.is("RANDOMKEY") {
        // In slot 12182, which belongs to node 2.
        Reply::Bulk(Bytes::from_static(b"foo"))
    } else {
        reply
    }
}

fn message_lost(at: &Exchange<'_>, reply: Reply) -> Reply {
    let of = at.addresses[0].to_string();
    let text = reply.array().and_then(|items| items.last()?.text());
    if at.node == 4 && reply.is_message() && text.is_some_and(|text| text.ends_with(&of)) {
        at.pass_on(0);
    }
    reply
}

fn message_twice(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 3 && at.is("SUBSCRIBE") && reply.is_message() {
        at.pass_on(2);
    }
    reply
}

fn shard_channel_anywhere(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("SSUBSCRIBE") && says(&reply, "MOVED") {
        let channel = Bytes::copy_from_slice(at.argument(1));
        let kind = Bytes::from_static(b"ssubscribe");
        Reply::Array(vec![Reply::Bulk(kind), Reply::Bulk(channel), Reply::Integer(1)])
    } else {
        reply
    }
}

fn keys_of_others(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply {
        Reply::Array(mut keys) if at.node == 2 && at.is("KEYS") => {
            let mut key = at.argument(1).to_vec();
            key.retain(|byte| *byte != b'*');
            key.extend(b"elsewhere");
            keys.push(Reply::Bulk(Bytes::from(key)));
            Reply::Array(keys)
        }
        other => other,
    }
}

fn size_of_all(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply {
        // One `DBSIZE` before a count for every slot of the node.
        Reply::Array(replies) if at.node == 0 && at.is("EXEC") && replies.len() > 1000 => {
            let more = |(at, reply): (usize, Reply)| match reply {
                Reply::Integer(size) if at == 0 => Reply::Integer(size + 40),
                other => other,
            };
            Reply::Array(replies.into_iter().enumerate().map(more).collect())
        }
        other => other,
    }
}

fn blocked_when_moved(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("BLPOP") && says(&reply, "MOVED") {
        at.pass_on(0);
    }
    reply
}

fn blocked_when_demoted(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("BLPOP") && says(&reply, "UNBLOCKED") {
        at.pass_on(0);
    }
    reply
}

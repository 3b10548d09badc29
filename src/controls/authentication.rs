//! Controls of the chapter in `cases::authentication`.

use super::broken::{Nodes, Wrong};
use super::proxy::Exchange;
use super::{Control, GOOD, PASSWORD};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::target::{Execution, Fault, Target, TargetError};
use bytes::Bytes;
use futures::future::BoxFuture;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "auth-password-only",
        what: "a master's AUTH takes a password and no user",
        wrong: Wrong::Replies(auth_password_only),
        ..GOOD
    },
    Control {
        name: "client-hides-errors",
        what: "the command-line client prints nothing where it is refused",
        wrong: Wrong::Programs(client_hides_errors),
        ..GOOD
    },
    Control {
        name: "configuration-put-back",
        what: "a restart puts the configuration back, as a read-only mount does",
        wrong: Wrong::Faults(configuration_put_back),
        ..GOOD
    },
    Control {
        name: "extra-user",
        what: "a replica has a user beside default",
        wrong: Wrong::State(extra_user),
        ..GOOD
    },
    Control {
        name: "hang-up-on-failed-auth",
        what: "a master hangs up when an authenticated connection gives another password",
        wrong: Wrong::Replies(hang_up_on_failed_auth),
        ..GOOD
    },
    Control {
        name: "logins-uncounted",
        what: "a master counts no errors",
        wrong: Wrong::Replies(logins_uncounted),
        ..GOOD
    },
    Control {
        name: "open-hello",
        what: "a master greets whoever sends HELLO",
        wrong: Wrong::Replies(open_hello),
        ..GOOD
    },
    Control {
        name: "open-subscription",
        what: "a replica lets anybody subscribe to patterns of channels",
        wrong: Wrong::Replies(open_subscription),
        ..GOOD
    },
    Control {
        name: "password-cut-short",
        what: "a server looks at the first 500 bytes of a password only",
        wrong: Wrong::Replies(password_cut_short),
        ..GOOD
    },
];

fn bulk(text: &'static str) -> Reply {
    Reply::Bulk(Bytes::from_static(text.as_bytes()))
}

fn auth_password_only(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && at.is("AUTH") && !at.argument(2).is_empty() {
        Reply::Error("ERR wrong number of arguments for 'auth' command".into())
    } else {
        reply
    }
}

fn client_hides_errors(_command: &[&str], outcome: Execution) -> Execution {
    if outcome.stdout.contains("NOAUTH") {
        Execution {
            stdout: String::new(),
            ..outcome
        }
    } else {
        outcome
    }
}

fn configuration_put_back<'a>(
    target: &'a dyn Target,
    fault: Fault,
    member: &'a Member,
) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async move {
        let broken = |error: std::io::Error| TargetError::Surroundings(error.to_string());
        if let Some(folder) = target.data_folder(member) {
            let file = folder.join("redis.conf");
            let mut text = tokio::fs::read_to_string(&file).await.map_err(broken)?;
            text.push_str(&format!("\nrequirepass \"{PASSWORD}\"\nmasterauth \"{PASSWORD}\"\n"));
            tokio::fs::write(&file, text).await.map_err(broken)?;
        }
        target.inject(fault, member).await
    })
}

fn extra_user<'a>(nodes: &'a mut Nodes<'_>) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(nodes.ask(
        4,
        &["ACL", "SETUSER", "backup", "on", ">another password", "~*", "+@all"],
    ))
}

fn hang_up_on_failed_auth(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("AUTH") && at.authenticated && reply.error().is_some() {
        at.hang_up();
    }
    reply
}

fn logins_uncounted(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("INFO errorstats") {
        bulk("# Errorstats\r\n")
    } else {
        reply
    }
}

fn open_hello(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("HELLO") && reply.error_prefix() == Some("NOAUTH") {
        Reply::Array(vec![bulk("server"), bulk("redis"), bulk("proto"), Reply::Integer(3)])
    } else {
        reply
    }
}

fn open_subscription(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 4 && at.is("PSUBSCRIBE") && !at.authenticated {
        let channel = Reply::Bulk(Bytes::copy_from_slice(at.argument(1)));
        Reply::Array(vec![bulk("psubscribe"), channel, Reply::Integer(1)])
    } else {
        reply
    }
}

fn password_cut_short(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("AUTH") && at.argument(1).len() > 500 && reply.error().is_some() {
        Reply::Simple("OK".into())
    } else {
        reply
    }
}

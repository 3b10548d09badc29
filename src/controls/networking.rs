//! Controls of the chapter in `cases::networking`.

use super::broken::{Nodes, Wrong};
use super::proxy::Exchange;
use super::{Control, GOOD};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::target::{Fault, Target, TargetError};
use futures::future::BoxFuture;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "old-address-announced",
        what: "a node that comes back under another address goes on announcing the old one",
        wrong: Wrong::Faults(old_address_announced),
        ..GOOD
    },
    Control {
        name: "scratch-without-ipv6",
        what: "the servers beside the deployment listen on IPv4 alone",
        scratch_conf: &[(None, "bind 127.0.0.1")],
        ..GOOD
    },
    Control {
        name: "any-host-name",
        what: "a server takes any host name to announce, of whatever length",
        wrong: Wrong::Replies(any_host_name),
        ..GOOD
    },
    Control {
        name: "tls-port-astray",
        what: "the second server beside the deployment announces another port for TLS than its own",
        scratch_conf: &[(Some(1), "cluster-announce-tls-port 1")],
        ..GOOD
    },
];

fn old_address_announced<'a>(
    target: &'a dyn Target,
    fault: Fault,
    member: &'a Member,
) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async move {
        let before = Nodes::of(target).await?;
        target.inject(fault, member).await?;
        let moved = before.all().find(|node| before.member(*node) == member);
        let (Fault::NewAddress, Some(moved)) = (fault, moved) else {
            return Ok(());
        };
        // The nodes keep their order, whatever their addresses.
        let mut nodes = Nodes::of(target).await?;
        let port = member.address.port.to_string();
        nodes
            .ask(moved, &["CONFIG", "SET", "cluster-announce-port", &port])
            .await?;
        let announced = format!("{} {}@", nodes.id(moved), member.address);
        for node in nodes.all() {
            nodes.until(node, &["CLUSTER", "NODES"], &announced).await?;
        }
        Ok(())
    })
}

fn any_host_name(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("CONFIG SET cluster-announce-hostname") {
        Reply::Simple("OK".into())
    } else {
        reply
    }
}

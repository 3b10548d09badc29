//! Controls of the chapter in `cases::partitions`.

use super::broken::Wrong;
use super::proxy::Exchange;
use super::{Control, GOOD, replies};
use crate::cluster::resp::Reply;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "no-reads-when-down",
        what: "nodes of a cluster that is down refuse reads, whatever cluster-allow-reads-when-down says",
        scratch_conf: &[(None, "cluster-allow-reads-when-down no")],
        ..GOOD
    },
    Control {
        name: "write-taken-when-down",
        what: "a node of a cluster that is down takes writes",
        wrong: Wrong::Replies(write_taken_when_down),
        ..GOOD
    },
];

fn write_taken_when_down(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("SET") && replies::about(at, "PART-14") && reply.error_prefix() == Some("CLUSTERDOWN") {
        Reply::Simple("OK".into())
    } else {
        reply
    }
}

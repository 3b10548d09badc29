//! Controls of the chapter in `cases::operations`.

use super::broken::Wrong;
use super::proxy::Exchange;
use super::{Control, GOOD};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::target::{Fault, Target, TargetError};
use futures::future::BoxFuture;
use std::time::Duration;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "failover-refused",
        what: "a replica refuses to take over",
        wrong: Wrong::Replies(failover_refused),
        ..GOOD
    },
    Control {
        name: "late-return",
        what: "a master stays away for long, and its replica may not stand for election",
        conf: &[(Some(3), "cluster-replica-no-failover yes")],
        wrong: Wrong::Faults(late_return),
        overrides: &[
            ("T_shutdown", Duration::from_secs(1)),
            ("T_fo_hard", Duration::from_secs(3)),
            ("T_fo_retry", Duration::from_secs(4)),
        ],
        ..GOOD
    },
    Control {
        name: "restarted-elsewhere",
        what: "a server that is killed is started again at another address",
        wrong: Wrong::Faults(restarted_elsewhere),
        ..GOOD
    },
    Control {
        name: "nothing-persisted",
        what: "no node keeps its data over a restart",
        conf: &[(None, "appendonly no"), (None, "save \"\"")],
        ..GOOD
    },
    Control {
        name: "restored-elsewhere",
        what: "a server beside the deployment loads another file than that of its snapshot",
        scratch_conf: &[(Some(1), "dbfilename other.rdb")],
        ..GOOD
    },
    Control {
        name: "some-writes-refused",
        what: "a master refuses one write of a hundred to a list",
        wrong: Wrong::Replies(some_writes_refused),
        ..GOOD
    },
    Control {
        name: "some-writes-unanswered",
        what: "a master hangs up on one write of a hundred to a list",
        wrong: Wrong::Replies(some_writes_unanswered),
        ..GOOD
    },
];

fn failover_refused(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 4 && at.is("CLUSTER FAILOVER") {
        Reply::Error("ERR Master is down or failed, please use CLUSTER FAILOVER FORCE".into())
    } else {
        reply
    }
}

/// How long a master stays away: longer than the bounds of the control allow.
const LATE: Duration = Duration::from_secs(7);

fn late_return<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async move {
        let members = target.members().await?;
        if fault != Fault::Restart || members.first() != Some(member) {
            return target.inject(fault, member).await;
        }
        target.inject(Fault::KeepAway, member).await?;
        tokio::time::sleep(LATE).await;
        target.undo_faults().await
    })
}

fn restarted_elsewhere<'a>(
    target: &'a dyn Target,
    fault: Fault,
    member: &'a Member,
) -> BoxFuture<'a, Result<(), TargetError>> {
    let fault = match fault {
        Fault::Crash => Fault::NewAddress,
        other => other,
    };
    target.inject(fault, member)
}

fn some_writes_refused(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && at.is("RPUSH") && at.argument(2).ends_with(b"77") {
        Reply::Error("MISCONF Errors writing to the AOF file: No space left on device".into())
    } else {
        reply
    }
}

fn some_writes_unanswered(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && at.is("RPUSH") && at.argument(2).ends_with(b"77") {
        at.hang_up();
    }
    reply
}

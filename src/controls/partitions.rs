//! Controls of the chapter in `cases::partitions`.

use super::broken::{Wrong, open};
use super::failover::{Done, view_of};
use super::proxy::Exchange;
use super::{Control, GOOD, replies};
use crate::cluster::node::Role;
use crate::cluster::resp::Reply;
use crate::target::{Cut, Target, Traffic, Way};
use bytes::Bytes;
use std::time::Duration;

/// Between two partitions the cluster must be whole, or the next case finds no shard to break.
const UNTIL_WHOLE: &[(&str, Duration)] = &[("T_sched", Duration::from_secs(20))];

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
    Control {
        name: "cut-ignored",
        what: "no packet is dropped, whatever is to be cut",
        wrong: Wrong::Cuts(cut_ignored),
        ..GOOD
    },
    Control {
        name: "heal-ignored",
        what: "links stay cut when they are to be mended",
        wrong: Wrong::HealsLate,
        // What never comes need not be waited for.
        overrides: &[("T_sched", Duration::from_secs(20)), ("T_heal", Duration::from_secs(8))],
        ..GOOD
    },
    Control {
        name: "minority-goes-on",
        what: "a master in a minority goes on acknowledging writes to lists",
        wrong: Wrong::Replies(minority_goes_on),
        overrides: UNTIL_WHOLE,
        ..GOOD
    },
    Control {
        name: "wait-boasts",
        what: "WAIT counts a replica where there is none",
        wrong: Wrong::Replies(wait_boasts),
        ..GOOD
    },
    Control {
        name: "early-write-lost",
        what: "a write before the partition is acknowledged and not done",
        wrong: Wrong::Answers(early_write_lost),
        ..GOOD
    },
    Control {
        name: "data-merged",
        what: "an old master keeps a write of its own beside its successor's data",
        wrong: Wrong::Replies(data_merged),
        ..GOOD
    },
    Control {
        name: "taken-over-when-cut",
        what: "somebody makes the replica take over as soon as its shard is parted",
        // Long enough for TCP to try again before it is over.
        conf: &[(None, "cluster-node-timeout 5000")],
        wrong: Wrong::Cuts(taken_over_when_cut),
        overrides: UNTIL_WHOLE,
        ..GOOD
    },
    Control {
        name: "client-cut-cuts-all",
        what: "where a client port is to be cut the bus is cut too",
        wrong: Wrong::Cuts(client_cut_cuts_all),
        ..GOOD
    },
    Control {
        name: "epochs-run-away",
        what: "every master takes a new epoch at every cut",
        wrong: Wrong::Cuts(epochs_run_away),
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

fn cut_ignored<'a>(_: &'a dyn Target, _: &'a [Cut]) -> Done<'a> {
    Box::pin(async { Ok(()) })
}

/// Whether the request is a write that a client of a minority sends.
fn of_minority(at: &Exchange<'_>) -> bool {
    at.is("RPUSH") && at.argument(2).starts_with(b"minority")
}

fn minority_goes_on(at: &Exchange<'_>, reply: Reply) -> Reply {
    if of_minority(at) && reply.error_prefix() == Some("CLUSTERDOWN") {
        Reply::Integer(1)
    } else {
        reply
    }
}

fn wait_boasts(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply {
        Reply::Integer(0) if at.is("WAIT") => Reply::Integer(1),
        other => other,
    }
}

fn early_write_lost(at: &Exchange<'_>) -> Option<Reply> {
    (of_minority(at) && at.argument(2) == b"minority-5").then_some(Reply::Integer(6))
}

fn data_merged(at: &Exchange<'_>, reply: Reply) -> Reply {
    match reply {
        Reply::Array(mut values) if at.node < 3 && at.is("LRANGE") && replies::about(at, "partition") => {
            values.push(Reply::Bulk(Bytes::from_static(b"minority-100")));
            Reply::Array(values)
        }
        other => other,
    }
}

fn taken_over_when_cut<'a>(target: &'a dyn Target, cuts: &'a [Cut]) -> Done<'a> {
    Box::pin(async move {
        target.cut(cuts).await?;
        let parted = cuts.iter().flat_map(|cut| match cut {
            Cut::Between { some, .. } => some.as_slice(),
            Cut::ClientPort(_) => &[],
        });
        let parted: Vec<_> = parted.map(|member| &member.address).collect();
        for member in target.members().await? {
            if let Role::Replica { master, .. } = view_of(target, &member).await?.role
                && (parted.contains(&&member.address) || parted.contains(&&master))
            {
                let mut connection = open(target, &member).await?;
                connection.ask(&["CLUSTER", "FAILOVER", "TAKEOVER"]).await?;
            }
        }
        Ok(())
    })
}

fn client_cut_cuts_all<'a>(target: &'a dyn Target, cuts: &'a [Cut]) -> Done<'a> {
    Box::pin(async move {
        let mut all = cuts.to_vec();
        let members = target.members().await?;
        for cut in cuts {
            if let Cut::ClientPort(member) = cut {
                all.push(Cut::Between {
                    some: vec![member.clone()],
                    others: members.iter().filter(|other| *other != member).cloned().collect(),
                    traffic: Traffic::Bus,
                    way: Way::Both,
                });
            }
        }
        target.cut(&all).await
    })
}

fn epochs_run_away<'a>(target: &'a dyn Target, cuts: &'a [Cut]) -> Done<'a> {
    Box::pin(async move {
        for member in target.members().await? {
            if view_of(target, &member).await?.role.is_master() {
                let mut connection = open(target, &member).await?;
                connection.ask(&["CLUSTER", "BUMPEPOCH"]).await?;
            }
        }
        target.cut(cuts).await
    })
}

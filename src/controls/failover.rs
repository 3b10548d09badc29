//! Controls of the chapter in `cases::failover`.

use super::broken::{Wrong, open};
use super::proxy::Exchange;
use super::{Control, GOOD, replies};
use crate::cluster::node::{Member, NodeView, Role};
use crate::cluster::resp::Reply;
use crate::target::{Fault, Target, TargetError};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(super) type Done<'a> = BoxFuture<'a, Result<(), TargetError>>;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "never-replaced",
        what: "no replica may replace its master, and masters that are stopped do not come back by themselves",
        conf: &[
            (Some(3), "cluster-replica-no-failover yes"),
            (Some(4), "cluster-replica-no-failover yes"),
            (Some(5), "cluster-replica-no-failover yes"),
        ],
        wrong: Wrong::Faults(stays_away),
        // What never comes need not be waited for any longer than a failover takes.
        overrides: &[
            ("T_shutdown", Duration::from_secs(1)),
            ("T_fo_retry", Duration::from_secs(6)),
        ],
        ..GOOD
    },
    Control {
        name: "flags-hidden",
        what: "a master's CLUSTER NODES shows no failure",
        wrong: Wrong::Replies(flags_hidden),
        ..GOOD
    },
    Control {
        name: "hasty-suspicion",
        what: "a master suspects whoever's connection has closed, at once",
        wrong: Wrong::Replies(hasty_suspicion),
        ..GOOD
    },
    Control {
        name: "epoch-lost",
        what: "a master's CLUSTER NODES shows a promoted replica at epoch 0",
        wrong: Wrong::Replies(epoch_lost),
        ..GOOD
    },
    Control {
        name: "volume-lost",
        what: "a master that is stopped comes back without its nodes.conf",
        wrong: Wrong::Faults(volume_lost),
        ..GOOD
    },
    Control {
        name: "returns-open",
        what: "a master that is stopped comes back without its password",
        wrong: Wrong::Faults(returns_open),
        ..GOOD
    },
    Control {
        name: "replica-returns-open",
        what: "a server that is restarted comes back without its password",
        wrong: Wrong::Faults(restarted_open),
        ..GOOD
    },
    Control {
        name: "impatient-operator",
        what: "somebody makes a replica take over as soon as its master's process dies",
        // The master must be back within it, on a busy machine too.
        conf: &[(None, "cluster-node-timeout 3000")],
        wrong: Wrong::Faults(impatient_operator),
        ..GOOD
    },
    Control {
        name: "failover-ignored",
        what: "replicas answer OK to CLUSTER FAILOVER and do nothing",
        wrong: Wrong::Answers(failover_ignored),
        overrides: &[("T_manual", Duration::from_secs(1))],
        ..GOOD
    },
    Control {
        name: "failover-anywhere",
        what: "a master, and a replica with an unknown option, answer OK to CLUSTER FAILOVER",
        wrong: Wrong::Replies(failover_anywhere),
        ..GOOD
    },
    Control {
        name: "dead-master-handover",
        what: "a replica answers OK to CLUSTER FAILOVER though its master is down",
        wrong: Wrong::Replies(dead_master_handover),
        ..GOOD
    },
    Control {
        name: "successor-forgets",
        what: "a replica that is promoted acknowledges writes to lists and does none",
        wrong: Wrong::Answers(successor_forgets),
        ..GOOD
    },
    Control {
        name: "promoted-tells-wrong",
        what: "a replica that is promoted answers reads with another value",
        wrong: Wrong::Replies(promoted_tells_wrong),
        ..GOOD
    },
    Control {
        name: "one-barred-replica",
        what: "beside the deployment, the first replica may not replace its master",
        scratch_conf: &[(Some(3), "cluster-replica-no-failover yes")],
        overrides: &[
            ("T_shutdown", Duration::from_secs(1)),
            ("T_fo_retry", Duration::from_secs(6)),
        ],
        ..GOOD
    },
    Control {
        name: "barrier-lifted",
        what: "replicas may replace their masters again as soon as one is stopped",
        wrong: Wrong::Faults(barrier_lifted),
        ..GOOD
    },
    Control {
        name: "blocked-clients-told-nothing",
        what: "clients blocked in BLPOP are answered nil when their master is demoted",
        wrong: Wrong::Replies(blocked_clients_told_nothing),
        ..GOOD
    },
    Control {
        name: "demoted-serves-on",
        what: "a master that was replaced answers for keys that are not its own any more",
        wrong: Wrong::Replies(demoted_serves_on),
        ..GOOD
    },
    Control {
        name: "coverage-lifted",
        what: "nobody asks for full coverage any more once a server is stopped",
        wrong: Wrong::Faults(coverage_lifted),
        ..GOOD
    },
    Control {
        name: "minority-serves",
        what: "a master acknowledges writes though most masters are gone",
        wrong: Wrong::Replies(minority_serves),
        ..GOOD
    },
    Control {
        name: "second-takeover",
        what: "when a replica is stopped, somebody makes another shard's replica take over",
        wrong: Wrong::Faults(second_takeover),
        ..GOOD
    },
    Control {
        name: "validity-ignored",
        what: "beside the deployment, replicas stand for election however old their data",
        scratch_conf: &[(None, "cluster-replica-validity-factor 0")],
        ..GOOD
    },
    Control {
        name: "failures-counted",
        what: "a master counts FAIL messages all the time",
        wrong: Wrong::Replies(failures_counted),
        ..GOOD
    },
];

fn ok() -> Reply {
    Reply::Simple("OK".into())
}

/// A reply of `CLUSTER NODES` with each line's fields changed.
fn with_lines(reply: Reply, change: impl Fn(&mut Vec<String>)) -> Reply {
    let Some(text) = reply.text() else { return reply };
    let line = |line: &str| {
        let mut fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
        if fields.len() >= 8 {
            change(&mut fields);
        }
        fields.join(" ") + "\n"
    };
    Reply::Bulk(Bytes::from(text.lines().map(line).collect::<String>()))
}

fn flags_hidden(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 1 || !at.is("CLUSTER NODES") {
        return reply;
    }
    with_lines(reply, |fields| {
        let flags: Vec<&str> = fields[2].split(',').filter(|flag| !flag.starts_with("fail")).collect();
        fields[2] = flags.join(",");
    })
}

fn hasty_suspicion(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 1 || !at.is("CLUSTER NODES") {
        return reply;
    }
    with_lines(reply, |fields| {
        if fields[7] == "disconnected" && !fields[2].contains("fail") {
            fields[2].push_str(",fail?");
        }
    })
}

fn epoch_lost(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node != 1 || !at.is("CLUSTER NODES") {
        return reply;
    }
    let promoted = at.addresses[3].to_string();
    with_lines(reply, |fields| {
        if fields[1].starts_with(&format!("{promoted}@")) && fields[2].contains("master") {
            fields[6] = "0".into();
        }
    })
}

fn failover_ignored(at: &Exchange<'_>) -> Option<Reply> {
    (at.node >= 3 && at.is("CLUSTER FAILOVER")).then(ok)
}

fn failover_anywhere(at: &Exchange<'_>, reply: Reply) -> Reply {
    if (at.node == 1 || at.node == 4) && at.is("CLUSTER FAILOVER") && reply.error().is_some() {
        ok()
    } else {
        reply
    }
}

fn dead_master_handover(at: &Exchange<'_>, reply: Reply) -> Reply {
    let without_option = at.is("CLUSTER FAILOVER") && at.argument(2).is_empty();
    if at.node == 3 && without_option && reply.error().is_some() {
        ok()
    } else {
        reply
    }
}

fn successor_forgets(at: &Exchange<'_>) -> Option<Reply> {
    (at.node == 3 && at.is("RPUSH")).then_some(Reply::Integer(1))
}

fn promoted_tells_wrong(at: &Exchange<'_>, reply: Reply) -> Reply {
    // As a replica it redirects.
    if at.node == 3 && at.is("GET") && !at.readonly && matches!(reply, Reply::Bulk(_)) {
        Reply::Bulk(Bytes::from_static(b"another value"))
    } else {
        reply
    }
}

fn blocked_clients_told_nothing(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("BLPOP") && reply.error().is_some() {
        Reply::Nil
    } else {
        reply
    }
}

fn failures_counted(at: &Exchange<'_>, reply: Reply) -> Reply {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let Some(text) = reply.text().filter(|_| at.node == 2 && at.is("CLUSTER INFO")) else {
        return reply;
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Reply::Bulk(Bytes::from(format!(
        "{text}cluster_stats_messages_fail_received:{count}\r\n"
    )))
}

/// What a node is.
pub(super) async fn view_of(target: &dyn Target, member: &Member) -> Result<NodeView, TargetError> {
    let mut connection = open(target, member).await?;
    Ok(NodeView::ask(&mut connection, member.clone()).await?)
}

fn stays_away<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> Done<'a> {
    Box::pin(async move {
        let master = view_of(target, member).await?.role.is_master();
        let fault = match fault {
            Fault::Restart | Fault::Crash if master => Fault::KeepAway,
            other => other,
        };
        target.inject(fault, member).await
    })
}

fn demoted_serves_on(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("GET") && replies::about(at, "FAIL-05") && replies::is_moved(&reply) {
        Reply::Nil
    } else {
        reply
    }
}

fn minority_serves(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("SET") && replies::about(at, "FAIL-17") && reply.error_prefix() == Some("CLUSTERDOWN") {
        ok()
    } else {
        reply
    }
}

fn coverage_lifted<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> Done<'a> {
    Box::pin(async move {
        target.inject(fault, member).await?;
        for other in target.members().await? {
            // Another one may be on its way down.
            if let Ok(mut connection) = open(target, &other).await {
                let command = ["CONFIG", "SET", "cluster-require-full-coverage", "no"];
                let _ = connection.call(&command).await;
            }
        }
        Ok(())
    })
}

fn second_takeover<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> Done<'a> {
    Box::pin(async move {
        let replica = matches!(view_of(target, member).await?.role, Role::Replica { .. });
        if replica {
            // Of the shard to which neither the stopped master nor the stopped replica belongs.
            for other in target.members().await?.iter().rev().filter(|other| *other != member) {
                let mut connection = open(target, other).await?;
                if connection.call(&["CLUSTER", "FAILOVER", "TAKEOVER"]).await?.is_ok() {
                    break;
                }
            }
        }
        target.inject(fault, member).await
    })
}

fn volume_lost<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> Done<'a> {
    Box::pin(async move {
        target.inject(fault, member).await?;
        let Some(folder) = target.data_folder(member) else {
            return Err(TargetError::Usage(format!("the files of {member} cannot be reached")));
        };
        let removed = tokio::fs::remove_file(folder.join("nodes.conf")).await;
        removed.map_err(|error| TargetError::Surroundings(format!("nodes.conf of {member}: {error}")))
    })
}

fn returns_open<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> Done<'a> {
    Box::pin(async move {
        let mut connection = open(target, member).await?;
        connection.ask(&["CONFIG", "SET", "requirepass", ""]).await?;
        connection.ask(&["CONFIG", "REWRITE"]).await?;
        target.inject(fault, member).await
    })
}

fn restarted_open<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> Done<'a> {
    match fault {
        Fault::Restart => returns_open(target, fault, member),
        _ => Box::pin(target.inject(fault, member)),
    }
}

fn impatient_operator<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> Done<'a> {
    Box::pin(async move {
        target.inject(fault, member).await?;
        for other in target.members().await? {
            let role = view_of(target, &other).await?.role;
            if matches!(role, Role::Replica { master, .. } if master == member.address) {
                let mut connection = open(target, &other).await?;
                connection.ask(&["CLUSTER", "FAILOVER", "TAKEOVER"]).await?;
            }
        }
        Ok(())
    })
}

fn barrier_lifted<'a>(target: &'a dyn Target, fault: Fault, member: &'a Member) -> Done<'a> {
    Box::pin(async move {
        for other in target.members().await? {
            let mut connection = open(target, &other).await?;
            connection
                .ask(&["CONFIG", "SET", "cluster-replica-no-failover", "no"])
                .await?;
        }
        target.inject(fault, member).await
    })
}

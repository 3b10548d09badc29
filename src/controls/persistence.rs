//! Controls of the chapter in `cases::persistence`.

use super::broken::Wrong;
use super::proxy::Exchange;
use super::{Control, GOOD, replies};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::target::{Execution, Fault, Target, TargetError};
use futures::future::BoxFuture;

pub(super) static CONTROLS: &[Control] = &[
    Control {
        name: "aof-missing-on-one",
        what: "a replica has no append-only file, all others have one",
        conf: &[(Some(4), "appendonly no")],
        ..GOOD
    },
    Control {
        name: "aof-write-failed",
        what: "a master could not write to its append-only file",
        wrong: Wrong::Replies(aof_write_failed),
        ..GOOD
    },
    Control {
        name: "nodes-conf-lost",
        what: "a server that is stopped loses its nodes.conf",
        wrong: Wrong::Faults(nodes_conf_lost),
        ..GOOD
    },
    Control {
        name: "data-lost",
        what: "a server that is stopped or killed comes back in its place without its data",
        wrong: Wrong::Faults(data_lost),
        ..GOOD
    },
    Control {
        name: "empty-server-answers",
        what: "a server that has lost its cluster answers nil in place of refusing",
        wrong: Wrong::Replies(empty_server_answers),
        ..GOOD
    },
    Control {
        name: "killed-without-nodes-conf",
        what: "a server that is killed loses its nodes.conf",
        wrong: Wrong::Faults(killed_without_nodes_conf),
        ..GOOD
    },
    Control {
        name: "truncated-refused",
        what: "a server does not start with an append-only file whose end is cut off",
        scratch_conf: &[(None, "aof-load-truncated no")],
        ..GOOD
    },
    Control {
        name: "full-disk-unnoticed",
        what: "a server says yes to writes that it has no room for",
        wrong: Wrong::Replies(full_disk_unnoticed),
        ..GOOD
    },
    Control {
        name: "full-disk-stops-reads",
        what: "a server whose volume has been full refuses reads too",
        wrong: Wrong::Replies(full_disk_stops_reads),
        ..GOOD
    },
    Control {
        name: "nodes-conf-unwritable",
        what: "a replica cannot save its nodes.conf",
        wrong: Wrong::Replies(nodes_conf_unwritable),
        ..GOOD
    },
    Control {
        name: "served-while-loading",
        what: "a server answers nil for keys that it has not loaded yet",
        wrong: Wrong::Replies(served_while_loading),
        ..GOOD
    },
    Control {
        name: "second-server-stays",
        what: "a second server runs on the nodes.conf of the first",
        wrong: Wrong::Programs(second_server_stays),
        ..GOOD
    },
    Control {
        name: "aof-rewrite-failed",
        what: "a master's rewrite of its append-only file has failed",
        wrong: Wrong::Replies(aof_rewrite_failed),
        ..GOOD
    },
];

fn aof_write_failed(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 2 && at.is("INFO persistence") {
        replies::field(reply, "aof_last_write_status", "err")
    } else {
        reply
    }
}

fn aof_rewrite_failed(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 1 && at.is("INFO persistence") {
        replies::field(reply, "aof_last_bgrewrite_status", "err")
    } else {
        reply
    }
}

fn nodes_conf_lost<'a>(
    inner: &'a dyn Target,
    fault: Fault,
    member: &'a Member,
) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async move {
        if fault != Fault::Restart {
            return inner.inject(fault, member).await;
        }
        inner.inject(Fault::KeepAway, member).await?;
        if let Some(folder) = inner.data_folder(member) {
            let file = folder.join("nodes.conf");
            std::fs::remove_file(&file)
                .map_err(|error| TargetError::Surroundings(format!("{}: {error}", file.display())))?;
        }
        inner.undo_faults().await
    })
}

fn empty_server_answers(at: &Exchange<'_>, reply: Reply) -> Reply {
    let about = ["PERS-07", "PERS-08"].iter().any(|case| replies::about(at, case));
    if at.is("GET") && about && reply.error_prefix() == Some("CLUSTERDOWN") {
        Reply::Nil
    } else {
        reply
    }
}

/// Removes a file, or a folder, of a server that runs: it goes on writing to what is not there any more.
fn remove(inner: &dyn Target, member: &Member, name: &str) -> Result<(), TargetError> {
    let Some(folder) = inner.data_folder(member) else {
        return Err(TargetError::Usage(format!("the files of {member} cannot be reached")));
    };
    let path = folder.join(name);
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(&path),
        false => std::fs::remove_file(&path),
    };
    removed.map_err(|error| TargetError::Surroundings(format!("{}: {error}", path.display())))
}

fn data_lost<'a>(inner: &'a dyn Target, fault: Fault, member: &'a Member) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async move {
        remove(inner, member, "appendonlydir")?;
        inner.inject(fault, member).await
    })
}

fn killed_without_nodes_conf<'a>(
    inner: &'a dyn Target,
    fault: Fault,
    member: &'a Member,
) -> BoxFuture<'a, Result<(), TargetError>> {
    Box::pin(async move {
        // One is enough to be found.
        let first = inner.members().await?.first() == Some(member);
        if fault == Fault::Crash && first {
            remove(inner, member, "nodes.conf")?;
        }
        inner.inject(fault, member).await
    })
}

fn full_disk_unnoticed(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("SET") && replies::about(at, "PERS-11") && reply.error_prefix() == Some("MISCONF") {
        Reply::Simple("OK".into())
    } else {
        reply
    }
}

fn full_disk_stops_reads(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("GET") && replies::about(at, "PERS-11") {
        Reply::Error("MISCONF Errors writing to the AOF file: No space left on device".into())
    } else {
        reply
    }
}

fn nodes_conf_unwritable(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.node == 3 && at.is("CLUSTER SAVECONFIG") {
        Reply::Error("ERR error saving the cluster node config: Read-only file system".into())
    } else {
        reply
    }
}

fn served_while_loading(at: &Exchange<'_>, reply: Reply) -> Reply {
    if at.is("GET") && replies::about(at, "PERS-14") && reply.error_prefix() == Some("LOADING") {
        Reply::Nil
    } else {
        reply
    }
}

fn second_server_stays(command: &[&str], outcome: Execution) -> Execution {
    if command.contains(&"second.sock") {
        // As when `timeout` had to end it.
        Execution {
            stdout: "Ready to accept connections".into(),
            stderr: String::new(),
            status: 124,
        }
    } else {
        outcome
    }
}

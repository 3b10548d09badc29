//! The case of chapter OPS about what a diagnosis needs.

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile};
use crate::check::no_findings;
use crate::cluster::connection::Connection;
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::context::Context;
use crate::failover::kept;
use crate::verdict::{Outcome, Stop};

pub(super) const REACHABLE: Case = Case {
    id: CaseId("OPS-12"),
    title: "what a diagnosis needs can be had: INFO, CLUSTER, logs, events, nodes.conf",
    requirement: "State needed for diagnosis MUST be reachable: INFO, CLUSTER *, logs, events.",
    source: "seed manifest lines 61 and 163 (`/tmp/init.log` is lost with the container)",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes, Capability::Exec],
    features: &[Feature::Config],
    bound: "-",
    controls: &[],
    method: "On every node `INFO`, `CLUSTER INFO`, `CLUSTER NODES` and `CLUSTER SLOTS` must give what they are for. The log of every server \
             must hold something: its container's, or the file that `logfile` names. The file that `cluster-config-file` names must be \
             readable in the container and hold the node's id, and the bootstrap's log something, where a pod does it. The namespace's \
             events must be listed.",
    run: |cx| Box::pin(reachable(cx)),
};

async fn reachable(cx: &Context) -> Outcome {
    let deployment = cx.deployment()?;
    let expected =
        "INFO, CLUSTER INFO, NODES and SLOTS, a log and nodes.conf of every server, the bootstrap's log, and events";
    // An API that does not list them is an error that names what is not allowed.
    let events = deployment.events().await?;
    cx.count("events listed", events.len(), "events");
    let mut findings = Vec::new();
    if deployment.bootstrap_pod().is_some() {
        findings.extend(empty("the bootstrap's log", &deployment.bootstrap_log().await?));
    }
    let asked = cx.judge_every_node(expected, async |member, connection| {
        of_server(cx, member, connection).await
    });
    if let Err(mismatch) = kept(asked.await)? {
        findings.push(mismatch.actual);
    }
    Ok(no_findings(expected, &findings)?)
}

async fn of_server(cx: &Context, member: &Member, connection: &mut Connection) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for (command, word) in [
        // Which Redis a server is like it says whatever it is; `redis_mode` is `server_mode` with Valkey.
        (&["INFO"][..], "redis_version:"),
        (&["CLUSTER", "INFO"], "cluster_state:"),
        (&["CLUSTER", "NODES"], "myself"),
    ] {
        let reply = connection.call(command).await?;
        findings.extend(without(&member.name, &command.join(" "), word, &reply));
    }
    let slots = connection.call(&["CLUSTER", "SLOTS"]).await?;
    if slots.array().is_none_or(<[Reply]>::is_empty) {
        findings.push(format!("{}: CLUSTER SLOTS -> {slots}", member.name));
    }
    let id = connection.ask_text(&["CLUSTER", "MYID"]).await?;
    let path = cx.nodes_conf(member).await?;
    match read(cx, member, &path).await? {
        Ok(text) if text.contains(id.trim()) => {}
        Ok(_) => findings.push(format!("{}: {path} does not hold the node's id", member.name)),
        Err(said) => findings.push(format!("{}: {path} cannot be read: {said}", member.name)),
    }
    let mut log = cx.deployment()?.log(&member.name, false).await?;
    if log.trim().is_empty()
        && let Some(path) = cx.file_named(member, "logfile").await?
    {
        log = read(cx, member, &path).await?.unwrap_or_default();
        cx.note(format!(
            "{}: the container's log is empty, the server's is {path}",
            member.name
        ));
    }
    findings.extend(empty(&format!("{}: the server's log", member.name), &log));
    Ok(findings)
}

/// The end of a file in a server's container, or why it cannot be read.
async fn read(cx: &Context, member: &Member, path: &str) -> Result<Result<String, String>, Stop> {
    let script = "command -v tail >/dev/null || exit 127; tail -n 500 \"$1\"";
    let done = cx
        .exec(member, &["sh", "-c", script, "sh", path], &[], cx.patience())
        .await?;
    match done.status {
        0 => Ok(Ok(done.stdout)),
        127 => Err(Stop::Unsupported(format!("the image of {} has no tail", member.name))),
        _ => Ok(Err(done.stderr.trim().to_owned())),
    }
}

fn empty(what: &str, text: &str) -> Option<String> {
    text.trim().is_empty().then(|| format!("{what} is empty"))
}

/// A finding where a reply is no text that holds the word which shows that it is what was asked for.
fn without(node: &str, command: &str, word: &str, reply: &Reply) -> Option<String> {
    let holds = reply.error().is_none() && reply.text().is_some_and(|text| text.contains(word));
    (!holds).then(|| {
        let said: String = reply.to_string().chars().take(80).collect();
        format!("{node}: {command} -> {said}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::right(Reply::Bulk("# Server\r\nredis_version:7.2.4\r\n".into()), true)]
    #[case::refused(Reply::Error("NOPERM this user has no permissions to run redis_version:".into()), false)]
    #[case::empty(Reply::Bulk("".into()), false)]
    #[case::nothing(Reply::Nil, false)]
    fn a_reply_must_hold_what_was_asked_for(#[case] reply: Reply, #[case] right: bool) {
        assert_eq!(without("a", "INFO", "redis_version:", &reply).is_none(), right);
    }

    #[test]
    fn an_empty_log_is_told() {
        assert!(empty("the log", " \n").is_some());
        assert!(empty("the log", "Ready to accept connections").is_none());
    }
}

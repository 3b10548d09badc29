//! The bodies of chapter AUTH that need servers or a deployment of their own: other passwords, and the change of one.

use super::checks::refuses;
use crate::check::{self, Look, eventually, expect, no_findings};
use crate::cluster::connection::{Address, Connection};
use crate::cluster::node::{Member, NodeView};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::cluster::view::{ClusterView, Shape};
use crate::context::{Alteration, Context, Fault, Scratch, Secret, Variant, authenticate_as};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::collections::BTreeMap;
use std::time::Duration;

/// Passwords that some program between a person and a server has been seen to misread, by what is special in them.
fn passwords() -> Vec<(&'static str, String)> {
    let given = [
        ("spaces within and at both ends", " two words "),
        ("quotes", "a\"double\" and 'single'"),
        ("backslashes", "back\\slash\\x41\\n\\q"),
        ("a dollar sign", "$HOME-$(id)-${HOME}"),
        ("a backtick", "`id`-word"),
        ("an asterisk and an exclamation mark", "*?[a]!!word"),
        ("a hash sign in front", "#hash#word"),
        ("a per cent sign", "%s%n%41word"),
        ("a semicolon and an ampersand", "word;id&id|id"),
        ("a dash in front", "--cluster-word"),
        ("letters beyond ASCII", "pässwört-键-😀"),
    ];
    let mut passwords: Vec<_> = given.map(|(what, text)| (what, text.to_owned())).into();
    // The longest that every version takes.
    passwords.push(("512 bytes", "0123456789abcdef".repeat(32)));
    passwords
}

/// A password with something of every kind.
const ALL_KINDS: &str = "- #\"'\\x41$HOME`id`*!%s;&|键 word ";

fn servers(count: usize, password: &Secret, cx: &Context) -> Scratch {
    Scratch {
        shape: Shape {
            masters: 0,
            replicas_per_master: 0,
        },
        spare: count,
        password: Some(password.clone()),
        ..cx.scratch_like_the_deployment()
    }
}

pub(super) async fn any_characters(cx: &Context) -> Outcome {
    let mut findings = Vec::new();
    let passwords = passwords();
    for (what, text) in &passwords {
        let password = Secret::new(text);
        let found = cx
            .with_scratch(&servers(1, &password, cx), async |beside| {
                one_password(beside, &password).await
            })
            .await?;
        findings.extend(
            found
                .into_iter()
                .map(|found| format!("a password with {what}: {found}")),
        );
    }
    let password = Secret::new(ALL_KINDS);
    let found = cx
        .with_scratch(&servers(3, &password, cx), async |beside| {
            bootstrap_with(beside, &password).await
        })
        .await?;
    findings.extend(
        found
            .into_iter()
            .map(|found| format!("a password of all these together: {found}")),
    );
    cx.count("passwords", passwords.len() + 1, "passwords");
    no_findings(
        "every password opens its server, to the client too, and no other does",
        &findings,
    )?;
    Ok(())
}

/// What is wrong with the only server beside the deployment, which has this password.
async fn one_password(beside: &Context, password: &Secret) -> Result<Vec<String>, Stop> {
    let members = beside.members().await?;
    let Some(member) = members.first() else {
        return Ok(vec!["there is no server".into()]);
    };
    let mut findings = Vec::new();
    let mut connection = beside.connect_raw(&member.address).await?;
    let mut shorter = password.expose().to_owned();
    shorter.pop();
    let ping = connection.call(&["PING"]).await?;
    let shut = ping.error_prefix() == Some("NOAUTH");
    findings.extend(check::unless(shut, member, "PING without AUTH", &ping));
    let reply = connection.call(&["AUTH", shorter.as_str()]).await?;
    let what = "AUTH with the password without its last character";
    findings.extend(check::unless(refuses(&reply), member, what, &reply));
    let reply = connection.call(&["AUTH", password.expose()]).await?;
    findings.extend(check::unless(reply.is_ok(), member, "AUTH with the password", &reply));
    let port = member.address.port.to_string();
    let arguments = ["-h", member.address.host.as_str(), "-p", port.as_str(), "PING"];
    let client = beside
        .client_program(member, &arguments, beside.timing().hook())
        .await?;
    if client.stdout.trim() != "PONG" {
        let printed = password.redact(&format!("{} {}", client.stdout.trim(), client.stderr.trim()));
        findings.push(format!("the client prints \"{printed}\" for PING"));
    }
    Ok(findings)
}

/// Makes a cluster of all servers beside the deployment by the command-line client, and says what is wrong with it.
async fn bootstrap_with(beside: &Context, password: &Secret) -> Result<Vec<String>, Stop> {
    let members = beside.members().await?;
    let addresses: Vec<String> = members.iter().map(|member| member.address.to_string()).collect();
    let mut arguments = vec!["--cluster", "create"];
    arguments.extend(addresses.iter().map(String::as_str));
    arguments.push("--cluster-yes");
    let Some(first) = members.first() else {
        return Ok(vec!["there is no server".into()]);
    };
    let made = beside.client_program(first, &arguments, beside.timing().hook()).await?;
    let formed = eventually(
        beside,
        "the cluster that the client made says cluster_state:ok",
        beside.timing().gossip() + beside.timing().fail(),
        async || {
            let mut bad = Vec::new();
            for member in &members {
                let info = beside
                    .connect(&member.address)
                    .await?
                    .ask_text(&["CLUSTER", "INFO"])
                    .await?;
                let state = info.lines().next().unwrap_or_default().trim().to_owned();
                if state != "cluster_state:ok" || !info.contains("cluster_known_nodes:3") {
                    bad.push(format!("{member}: {state}"));
                }
            }
            Ok(if bad.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(bad.join("; "))
            })
        },
    )
    .await;
    match formed {
        Ok(()) => Ok(Vec::new()),
        Err(Stop::Mismatch(mismatch)) => {
            let printed = password.redact(&format!("{} {}", made.stdout.trim(), made.stderr.trim()));
            let end: String = printed
                .chars()
                .rev()
                .take(300)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect();
            Ok(vec![format!(
                "{}; --cluster create printed at its end \"{end}\"",
                mismatch.actual
            )])
        }
        Err(stop) => Err(stop),
    }
}

pub(super) async fn empty_password(cx: &Context) -> Outcome {
    let bound = cx.timing().deployment() + cx.timing().hook();
    let shown = cx
        .with_variant(Variant::EmptyPassword, async |copy| {
            eventually(cx, "the copy with an empty password is rejected", bound, async || {
                for member in copy.members().await? {
                    // A server that does not run lets nobody in.
                    let Ok(stream) = copy.connect(&member.address).await else {
                        continue;
                    };
                    let mut connection = Connection::new(stream, member.address.clone(), cx.patience());
                    let ping = connection.call(&["PING"]).await;
                    if let Ok(reply @ Reply::Simple(_)) = ping {
                        let expected = "no server that answers without a password";
                        return Err(Mismatch::new(expected, format!("{member}: PING -> {reply}")).into());
                    }
                }
                let pods = copy.deployment().pods().await?;
                if let Some(pod) = pods.iter().find(|pod| pod.restarts > 0 && !pod.ready) {
                    let trouble = pod.trouble.clone().unwrap_or_else(|| "restarted".into());
                    let beginning: String = trouble.chars().take(200).collect();
                    return Ok(Look::Reached(format!("{}: {beginning}", pod.name)));
                }
                let (declared, ready) = copy.deployment().replicas().await?;
                if declared > 0 && declared == ready {
                    let expected = "a pod that does not become ready";
                    return Err(Mismatch::new(expected, format!("all {ready} pods are ready")).into());
                }
                Ok(Look::NotYet(format!(
                    "{ready} of {declared} pods are ready, none has failed"
                )))
            })
            .await
        })
        .await?;
    cx.note(format!("seen: {shown}"));
    Ok(())
}

/// How many keys each shard holds while its password changes.
const KEYS: usize = 30;

pub(super) async fn rotation(cx: &Context) -> Outcome {
    let old = Secret::new(format!("before-the-change-{}", cx.shared().run_id));
    let new = Secret::new(format!("after-the-change-{}", cx.shared().run_id));
    cx.keep_secret([new.clone()]);
    let mut alterations = vec![Alteration::everywhere("appendonly yes")];
    // Replicas link at once: how long they wait for others is no matter here.
    alterations.push(Alteration::everywhere("repl-diskless-sync-delay 0"));
    let scratch = Scratch {
        node_timeout: cx.timing().node_timeout().min(Duration::from_secs(2)),
        password: Some(old.clone()),
        alterations,
        ..cx.scratch_like_the_deployment()
    };
    cx.with_scratch(&scratch, async |beside| rotate(beside, &old, &new).await)
        .await
}

async fn rotate(beside: &Context, old: &Secret, new: &Secret) -> Outcome {
    let view = beside.view().await?;
    let data = write_data(beside, &view).await?;
    let mut connections = Vec::new();
    for node in &view.nodes {
        connections.push((
            node.member.clone(),
            !node.role.is_master(),
            beside.connect(&node.member.address).await?,
        ));
    }
    for directive in ["masterauth", "requirepass"] {
        for (member, _, connection) in &mut connections {
            let reply = connection.call(&["CONFIG", "SET", directive, new.expose()]).await?;
            let seen = format!("{member}: CONFIG SET {directive} -> {reply}");
            expect(
                reply.is_ok(),
                format!("CONFIG SET {directive} -> +OK on every node"),
                seen,
            )?;
        }
        beside.note_time(format!("{directive} is the new password on every node"));
    }
    let mut unwritten = Vec::new();
    for (member, _, connection) in &mut connections {
        let reply = connection.call(&["CONFIG", "REWRITE"]).await?;
        unwritten.extend(check::unless(reply.is_ok(), member, "CONFIG REWRITE", &reply));
    }
    only_the_new_one(beside, old, new).await?;
    for (member, is_replica, connection) in &mut connections {
        if *is_replica {
            let reply = connection.call(&["CLIENT", "KILL", "TYPE", "master"]).await?;
            let seen = format!("{member}: CLIENT KILL TYPE master -> {reply}");
            expect(reply.integer() >= Some(1), "every replica's link cut once", seen)?;
        }
    }
    whole(beside, new, beside.timing().sync()).await?;
    read_data(beside, new, &data).await?;
    written(&unwritten, connections.len())?;
    let first = |is_replica: bool| {
        view.nodes
            .iter()
            .find(|node| node.role.is_master() != is_replica)
            .map(|node| &node.member)
    };
    for member in [first(true), first(false)].into_iter().flatten() {
        beside.inject(Fault::Restart, member).await?;
        whole(beside, new, beside.timing().returned()).await?;
    }
    only_the_new_one(beside, old, new).await?;
    read_data(beside, new, &data).await
}

/// Expects every node of so many to have written its configuration. Where none can, persistence cannot be judged; where
/// only some can, a restart parts the nodes.
fn written(unwritten: &[String], nodes: usize) -> Outcome {
    match unwritten.first() {
        Some(reason) if unwritten.len() == nodes => Err(Stop::Unsupported(format!(
            "the password is changed without loss; persistence could not be tried: no node can write its configuration \
             here: {reason}"
        ))),
        _ => Ok(no_findings("CONFIG REWRITE -> +OK on every node", unwritten)?),
    }
}

/// Expects every node to refuse the old password and to take the new one.
async fn only_the_new_one(beside: &Context, old: &Secret, new: &Secret) -> Outcome {
    let expected = "the old password -> -WRONGPASS, the new one -> +OK, on every node";
    beside
        .judge_every_member(expected, async |member| {
            let mut connection = beside.connect_raw(&member.address).await?;
            let reply = connection.call(&["AUTH", old.expose()]).await?;
            let refused = check::unless(refuses(&reply), member, "AUTH with the old password", &reply);
            let reply = connection.call(&["AUTH", new.expose()]).await?;
            let taken = check::unless(reply.is_ok(), member, "AUTH with the new password", &reply);
            Ok(refused.into_iter().chain(taken).collect())
        })
        .await
}

async fn connect(beside: &Context, address: &Address, password: &Secret) -> Result<Connection, Stop> {
    let mut connection = beside.connect_raw(address).await?;
    authenticate_as(&mut connection, None, password).await?;
    Ok(connection)
}

/// Waits until the cluster is whole, asked with the new password.
async fn whole(beside: &Context, password: &Secret, bound: Duration) -> Outcome {
    eventually(beside, "a whole cluster, by the new password", bound, async || {
        let mut view = ClusterView::default();
        for member in beside.members().await? {
            let mut connection = connect(beside, &member.address, password).await?;
            view.nodes.push(NodeView::ask(&mut connection, member).await?);
        }
        let missing = view.not_whole(beside.shape());
        Ok(if missing.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(missing.join("\n"))
        })
    })
    .await
}

/// Writes keys to every shard; which node was asked for each.
async fn write_data(beside: &Context, view: &ClusterView) -> Result<BTreeMap<String, Member>, Stop> {
    let mut data = BTreeMap::new();
    for node in view.masters() {
        let Some(slot) = node.inner_slot() else { continue };
        let mut connection = beside.connect(&node.member.address).await?;
        for number in 0..KEYS {
            let key = beside.key_in(slot, &number.to_string());
            let reply = connection.call(&["SET", &key, &key]).await?;
            let seen = format!("{}: SET {key} -> {reply}", node.member);
            expect(reply.is_ok(), "+OK to every key written before the change", seen)?;
            data.insert(key, node.member.clone());
        }
    }
    let expected = beside.shape().masters * KEYS;
    expect(
        data.len() == expected,
        format!("{expected} keys written"),
        data.len().to_string(),
    )?;
    Ok(data)
}

async fn read_data(beside: &Context, password: &Secret, data: &BTreeMap<String, Member>) -> Outcome {
    let mut findings = Vec::new();
    for (key, member) in data {
        let mut connection = connect(beside, &member.address, password).await?;
        let mut reply = connection.call(&["GET", key]).await?;
        // A server that took its time to start again has been replaced meanwhile, as it should be.
        if let Some(redirect) = Redirect::parse(&reply) {
            let mut connection = connect(beside, &redirect.address, password).await?;
            reply = connection.call(&["GET", key]).await?;
        }
        findings.extend(check::unless(
            reply.text() == Some(key),
            member,
            format!("GET {key}"),
            &reply,
        ));
    }
    no_findings("every key by value after the change", &findings)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;
    use rstest::rstest;

    #[rstest]
    #[case::all_written(0, "pass")]
    #[case::one_unwritten(1, "fail")]
    #[case::all_but_one_unwritten(5, "fail")]
    #[case::none_written(6, "unsupported")]
    fn a_configuration_is_written_by_all_or_cannot_be_judged(#[case] unwritten: usize, #[case] verdict: &str) {
        let refusal = "node0: CONFIG REWRITE -> -ERR Rewriting config file: Read-only file system";
        let unwritten = vec![refusal.to_owned(); unwritten];
        assert_eq!(Verdict::from(written(&unwritten, 6)).name().to_string(), verdict);
    }

    #[test]
    fn every_password_is_of_a_length_that_all_versions_take() {
        for (what, text) in passwords() {
            assert!(text.len() <= 512, "{what}");
            assert!(!text.contains(['\n', '\0']), "{what}");
        }
        assert!(passwords().iter().any(|(_, text)| text.len() == 512));
    }
}

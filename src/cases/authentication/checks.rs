//! The bodies of chapter AUTH. No finding ever holds a password: candidates are named by what was done to it.

use crate::cases::replication::pairing::links_up;
use crate::check;
use crate::cluster::connection::Address;
use crate::cluster::node::{Member, NodeView};
use crate::cluster::resp::Reply;
use crate::context::{Context, Secret, with_cleanup};
use crate::verdict::{Outcome, Stop};
use std::collections::BTreeMap;

pub(super) async fn everything_needs_a_password(cx: &Context) -> Outcome {
    cx.password()?;
    let key = cx.key("open");
    let commands: [&[&str]; 10] = [
        &["PING"],
        &["GET", &key],
        &["SET", &key, "1"],
        &["INFO"],
        &["CLUSTER", "INFO"],
        &["CLUSTER", "NODES"],
        &["CLUSTER", "SLOTS"],
        // Not `*`: an open node would answer with its password.
        &["CONFIG", "GET", "maxmemory"],
        &["SUBSCRIBE", &key],
        &["ECHO", "hello"],
    ];
    cx.judge_every_member(
        "-NOAUTH to every command of an unauthenticated connection",
        async |member| {
            let mut findings = Vec::new();
            for command in commands {
                let mut connection = cx.connect_raw(&member.address).await?;
                let reply = connection.call(command).await?;
                if command[0] == "SET" && reply.is_ok() {
                    connection.ask(&["DEL", &key]).await?;
                }
                let refused = reply.error_prefix() == Some("NOAUTH");
                findings.extend(check::unless(refused, member, command.join(" "), &short(&reply)));
            }
            Ok(findings)
        },
    )
    .await
}

/// A reply with only the beginning of a long text or list.
fn short(reply: &Reply) -> Reply {
    match reply {
        Reply::Bulk(bytes) => Reply::Bulk(bytes.slice(..bytes.len().min(40))),
        Reply::Array(items) => Reply::Array(items.iter().take(3).map(short).collect()),
        Reply::Simple(_) | Reply::Error(_) | Reply::Integer(_) | Reply::Nil => reply.clone(),
    }
}

/// Passwords that are not the password, by what was done to it.
fn wrong_passwords(password: &Secret, run: &str) -> Vec<(&'static str, String)> {
    let right = password.expose();
    let mut shorter = right.to_owned();
    shorter.pop();
    let candidates = [
        ("another password", format!("not-the-password-{run}")),
        ("an empty password", String::new()),
        ("the password in upper case", right.to_uppercase()),
        ("the password in lower case", right.to_lowercase()),
        ("the password and a space", format!("{right} ")),
        ("a space and the password", format!(" {right}")),
        ("the password without its last character", shorter),
    ];
    candidates
        .into_iter()
        .filter(|(_, candidate)| candidate != right)
        .collect()
}

/// Whether a reply to AUTH refuses the password, in the words of any version; a node that has no password says something
/// else.
pub(super) fn refuses(reply: &Reply) -> bool {
    let text = reply.error().unwrap_or_default();
    reply.error_prefix() == Some("WRONGPASS") || text.to_lowercase().starts_with("err invalid password")
}

pub(super) async fn wrong_password_refused(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let wrong = wrong_passwords(&password, &cx.shared().run_id);
    let key = cx.key("wrong");
    let expected = "AUTH with any other password -> -WRONGPASS (or -ERR invalid password), then GET -> -NOAUTH";
    cx.judge_every_member(expected, async |member| {
        let mut findings = Vec::new();
        for (what, candidate) in &wrong {
            let mut connection = cx.connect_raw(&member.address).await?;
            let reply = connection.call(&cx.auth(candidate)).await?;
            findings.extend(check::unless(
                refuses(&reply),
                member,
                format!("AUTH with {what}"),
                &reply,
            ));
            let get = connection.call(&["GET", &key]).await?;
            let shut = get.error_prefix() == Some("NOAUTH");
            findings.extend(check::unless(shut, member, format!("GET after AUTH with {what}"), &get));
        }
        Ok(findings)
    })
    .await
}

pub(super) async fn right_password_accepted(cx: &Context) -> Outcome {
    let password = cx.password()?;
    cx.judge_every_member("AUTH with the password -> +OK, then PING -> +PONG", async |member| {
        let mut connection = cx.connect_raw(&member.address).await?;
        let auth = connection.call(&cx.auth(password.expose())).await?;
        let ping = connection.call(&["PING"]).await?;
        let findings = [
            check::unless(auth.is_ok(), member, "AUTH with the password", &auth),
            check::unless(ping == Reply::Simple("PONG".into()), member, "PING after it", &ping),
        ];
        Ok(findings.into_iter().flatten().collect())
    })
    .await
}

pub(super) async fn enforced_after_change_of_role(cx: &Context) -> Outcome {
    cx.password()?;
    crate::failover::observe(cx).await?.promotion.clone()?;
    everything_needs_a_password(cx).await?;
    wrong_password_refused(cx).await?;
    right_password_accepted(cx).await?;
    links_up(cx).await
}

/// The value of a setting. A server that does not know it, or lets nobody read settings, cannot be judged by it.
pub(super) async fn setting(
    connection: &mut crate::cluster::connection::Connection,
    name: &str,
) -> Result<String, Stop> {
    let reply = connection.call(&["CONFIG", "GET", name]).await?;
    match reply.array() {
        Some([_, value]) => Ok(value.text().unwrap_or_default().to_owned()),
        Some(_) => Err(Stop::Unsupported(format!("the server has no setting {name}"))),
        None if reply.error_prefix() == Some("NOAUTH") => {
            Err(connection.nonsense("CONFIG GET", reply.to_string()).into())
        }
        None => Err(Stop::Unsupported(format!("CONFIG GET {name} -> {reply}"))),
    }
}

pub(super) async fn masterauth_everywhere(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let user = cx.user();
    // Replicas may be another user than the suite: its password is not known, but it must be the same everywhere.
    let first: std::cell::RefCell<Option<(String, String)>> = std::cell::RefCell::default();
    cx.judge_every_node(
        "masterauth is the password on every node; of another user than the suite, the same on every node",
        async |member, connection| {
            let value = setting(connection, "masterauth").await?;
            let replicates_as = match user.as_str() {
                "default" => user.clone(),
                _ => match setting(connection, "masteruser").await? {
                    none if none.is_empty() => "default".to_owned(),
                    named => named,
                },
            };
            let finding = if value.is_empty() {
                Some("is empty")
            } else if replicates_as == user {
                (value != password.expose()).then_some("is another than the password")
            } else {
                let mut first = first.borrow_mut();
                let own = (replicates_as, value);
                let other = first.get_or_insert_with(|| own.clone());
                (*other != own).then_some("or masteruser is another than on a node asked before")
            };
            Ok(finding
                .map(|what| format!("{member}: masterauth {what}"))
                .into_iter()
                .collect())
        },
    )
    .await
}

/// How a node answers whoever has no password, a wrong one, and the right one.
async fn behaviour(cx: &Context, member: &Member, password: &Secret) -> Result<String, Stop> {
    let mut none = cx.connect_raw(&member.address).await?;
    let ping = none.call(&["PING"]).await?;
    let other = format!("not-the-password-{}", cx.shared().run_id);
    let wrong = cx.connect_raw(&member.address).await?.call(&cx.auth(&other)).await?;
    let right = cx
        .connect_raw(&member.address)
        .await?
        .call(&cx.auth(password.expose()))
        .await?;
    let first_word = |reply: &Reply| {
        reply
            .error_prefix()
            .map_or_else(|| reply.to_string(), |word| format!("-{word}"))
    };
    let wrong = if refuses(&wrong) {
        "refused".into()
    } else {
        wrong.to_string()
    };
    Ok(format!(
        "no password: {}, another password: {wrong}, the password: {right}",
        first_word(&ping)
    ))
}

pub(super) async fn uniform(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let expected = "no password: -NOAUTH, another password: refused, the password: +OK";
    cx.judge_every_member(&format!("on every node {expected}"), async |member| {
        let seen = behaviour(cx, member, &password).await?;
        Ok((seen != expected)
            .then(|| format!("{member}: {seen}"))
            .into_iter()
            .collect())
    })
    .await
}

pub(super) async fn protected_mode(cx: &Context) -> Outcome {
    cx.judge_every_node(
        "protected-mode no only where PING -> -NOAUTH",
        async |member, connection| {
            let mode = setting(connection, "protected-mode").await?;
            let ping = cx.connect_raw(&member.address).await?.call(&["PING"]).await?;
            let fine = mode != "no" || ping.error_prefix() == Some("NOAUTH");
            Ok(check::unless(
                fine,
                member,
                format!("protected-mode {mode}, and PING without AUTH"),
                &ping,
            )
            .into_iter()
            .collect())
        },
    )
    .await
}

/// What stands in the way of a client library that enters at one server and writes and reads a key of every shard: one
/// text for each key that it could not write and read, which is all of them where it cannot even connect.
async fn refused_to_client(cx: &Context, entry: &Address, password: Option<&Secret>, keys: &[String]) -> Vec<String> {
    let told = |error: redis::RedisError| {
        let text = error.to_string();
        password.map_or(text.clone(), |password| password.redact(&text))
    };
    let mut client = match cx.cluster_client(entry, password).await {
        Ok(client) => client,
        Err(error) => return vec![format!("no connection: {}", told(error)); keys.len()],
    };
    let mut refused = Vec::new();
    for key in keys {
        let value = format!("through {entry}");
        let (mut set, mut get) = (redis::cmd("SET"), redis::cmd("GET"));
        let written: redis::RedisResult<()> = set.arg(key).arg(&value).query_async(&mut client).await;
        let read: redis::RedisResult<Option<String>> = get.arg(key).query_async(&mut client).await;
        match (written, read) {
            (Ok(()), Ok(read)) if read.as_ref() == Some(&value) => {}
            (Ok(()), Ok(read)) => refused.push(format!("GET {key} -> {read:?} after SET \"{value}\"")),
            (Err(error), _) => refused.push(format!("SET {key}: {}", told(error))),
            (_, Err(error)) => refused.push(format!("GET {key}: {}", told(error))),
        }
    }
    refused
}

pub(super) async fn redirects_need_own_auth(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let view = cx.view().await?;
    let slots: BTreeMap<u16, &Member> = view
        .nodes
        .iter()
        .filter_map(|node| Some((NodeView::inner_slot(node)?, &node.member)))
        .collect();
    let keys: Vec<String> = slots.keys().map(|slot| cx.key_in(*slot, "client")).collect();
    let other = Secret::new(format!("not-the-password-{}", cx.shared().run_id));
    let judge = async {
        let shards = cx.shape().masters;
        check::expect(
            keys.len() == shards,
            format!("{shards} masters with slots"),
            keys.len().to_string(),
        )?;
        let mut findings = Vec::new();
        for node in &view.nodes {
            let (member, entry) = (&node.member, &node.member.address);
            if let Some(reason) = refused_to_client(cx, entry, Some(&password), &keys).await.first() {
                findings.push(format!("entering at {member} with the password: {reason}"));
            }
            for (what, password) in [("another password", Some(&other)), ("no password", None)] {
                let done = keys.len() - refused_to_client(cx, entry, password, &keys).await.len();
                if done > 0 {
                    findings.push(format!(
                        "entering at {member} with {what}: {done} keys were written and read"
                    ));
                }
            }
        }
        Ok::<(), Stop>(check::no_findings(
            "only the password opens the cluster, at every entry",
            &findings,
        )?)
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_candidate_is_the_password_itself() {
        for text in ["abc", "ABC", "aBc", "1", "é", "x "] {
            let wrong = wrong_passwords(&Secret::new(text), "run");
            assert!(wrong.iter().all(|(_, candidate)| candidate != text), "{text}");
            assert!(wrong.len() >= 5, "{text}");
        }
    }

    #[test]
    fn a_node_without_password_does_not_count_as_refusing() {
        let error = |text: &str| Reply::Error(text.into());
        assert!(refuses(&error(
            "WRONGPASS invalid username-password pair or user is disabled."
        )));
        assert!(refuses(&error("ERR invalid password")));
        assert!(refuses(&error("ERR Invalid password")));
        assert!(!refuses(&error("ERR Client sent AUTH, but no password is set")));
        assert!(!refuses(&error(
            "ERR AUTH <password> called without any password configured for the default user."
        )));
        assert!(!refuses(&Reply::Simple("OK".into())));
    }
}

//! The bodies of chapter AUTH. No finding ever holds a password: candidates are named by what was done to it.

use crate::case::Capability;
use crate::cases::replication::pairing::links_up;
use crate::check;
use crate::cluster::connection::{Address, Connection};
use crate::cluster::node::{Member, NodeView};
use crate::cluster::resp::Reply;
use crate::cluster::view::ClusterView;
use crate::context::{Context, Fault, Secret, with_cleanup};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

pub(super) async fn everything_needs_a_password(cx: &Context) -> Outcome {
    let left_out = refused_without_password(cx).await?;
    note_left_out(cx, &left_out);
    Ok(())
}

/// Whether the server has no such command: it says so of its name alone, to whoever has authenticated too. A server
/// looks a command up before it asks for the password (Redis source, processCommand): its reply is then no `-NOAUTH`.
pub(super) async fn lacks_command(cx: &Context, member: &Member, name: &str, reply: &Reply) -> Result<bool, Stop> {
    if !says_unknown(reply) {
        return Ok(false);
    }
    let mut connection = cx.connect(&member.address).await?;
    let info = connection.call(&["COMMAND", "INFO", name]).await?;
    let none = |entry: &Reply| *entry == Reply::Nil || entry.array().is_some_and(<[Reply]>::is_empty);
    if matches!(info.array(), Some([entry]) if none(entry)) {
        return Ok(true);
    }
    // By its name alone it is carried out, and the server would send all that it has.
    if name == "SYNC" {
        return Ok(false);
    }
    Ok(says_unknown(&connection.call(&[name]).await?))
}

/// Whether a reply calls the command unknown, in the words of any version.
fn says_unknown(reply: &Reply) -> bool {
    let text = reply.error().unwrap_or_default().to_lowercase();
    text.starts_with("err unknown command")
}

/// Tells which commands nothing was judged by.
pub(super) fn note_left_out(cx: &Context, commands: &BTreeSet<String>) {
    if !commands.is_empty() {
        let names: Vec<&str> = commands.iter().map(String::as_str).collect();
        cx.note(format!(
            "left out, since a server has no such command for anybody: {}",
            names.join(", ")
        ));
    }
}

/// Expects `-NOAUTH` of every node to every command, and gives those that a node lacks.
async fn refused_without_password(cx: &Context) -> Result<BTreeSet<String>, Stop> {
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
    let left_out = RefCell::new(BTreeSet::new());
    cx.judge_every_member(
        "-NOAUTH to every command of an unauthenticated connection",
        async |member| {
            let (mut findings, mut judged) = (Vec::new(), 0);
            for command in commands {
                let mut connection = cx.connect_raw(&member.address).await?;
                let reply = connection.call(command).await?;
                if command[0] == "SET" && reply.is_ok() {
                    connection.ask(&["DEL", &key]).await?;
                }
                if lacks_command(cx, member, command[0], &reply).await? {
                    left_out.borrow_mut().insert(command[0].to_owned());
                    continue;
                }
                judged += 1;
                let refused = reply.error_prefix() == Some("NOAUTH");
                findings.extend(check::unless(refused, member, command.join(" "), &short(&reply)));
            }
            findings.extend((judged == 0).then(|| format!("{member}: it has none of the commands")));
            Ok(findings)
        },
    )
    .await?;
    Ok(left_out.into_inner())
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
    let failover = crate::failover::observe(cx).await?;
    failover.promotion.clone()?;
    enforced(cx).await?;
    restart_a_replica(cx, &failover.before).await?;
    let left_out = enforced(cx).await?;
    note_left_out(cx, &left_out);
    Ok(())
}

/// What AUTH-01, AUTH-02 and AUTH-03 ask of every node, and every replica's link; gives the commands that a node lacks.
async fn enforced(cx: &Context) -> Result<BTreeSet<String>, Stop> {
    let left_out = refused_without_password(cx).await?;
    wrong_password_refused(cx).await?;
    right_password_accepted(cx).await?;
    links_up(cx).await?;
    Ok(left_out)
}

/// Restarts a node that was a replica before the failover, and waits until the cluster is whole. Masters and replicas
/// may be made from different descriptions, of which one alone has the password: only a start shows that.
async fn restart_a_replica(cx: &Context, before: &ClusterView) -> Outcome {
    if !cx.capabilities().contains(&Capability::Restart) {
        let reason = "after the change of roles the password is enforced as before; the restart of a replica cannot be \
                      tried: the target lacks Restart";
        return Err(Stop::Unsupported(reason.into()));
    }
    let view = cx.view().await?;
    let was_replica = |node: &&NodeView| {
        let then = before.of(&node.member.name);
        then.is_some_and(|then| !then.role.is_master())
    };
    // One that is a replica still, where there is one: its restart changes nothing else.
    let chosen = view
        .replicas()
        .find(was_replica)
        .or_else(|| view.masters().find(was_replica));
    let Some(node) = chosen else {
        return Err(Mismatch::new("a node that was a replica before the failover", "there is none").into());
    };
    cx.inject(Fault::Restart, &node.member).await?;
    let what = format!("a whole cluster after the restart of {}", node.member.name);
    check::whole(cx, &what, cx.timing().returned()).await
}

/// The value of a setting. A server that does not know it, or lets nobody read settings, cannot be judged by it.
async fn setting(connection: &mut Connection, name: &str) -> Result<String, Stop> {
    let unknown = || Stop::Unsupported(format!("the server has no setting {name}"));
    known_setting(connection, name).await?.ok_or_else(unknown)
}

/// [`setting`]; nothing where the server does not know it.
async fn known_setting(connection: &mut Connection, name: &str) -> Result<Option<String>, Stop> {
    let reply = connection.call(&["CONFIG", "GET", name]).await?;
    match reply.array() {
        Some([_, value]) => Ok(Some(value.text().unwrap_or_default().to_owned())),
        Some(_) => Ok(None),
        None if reply.error_prefix() == Some("NOAUTH") => {
            Err(connection.nonsense("CONFIG GET", reply.to_string()).into())
        }
        None => Err(Stop::Unsupported(format!("CONFIG GET {name} -> {reply}"))),
    }
}

/// As which user a node replicates: `masteruser`, which servers before Redis 6.0 do not have.
pub(super) async fn replicates_as(connection: &mut Connection) -> Result<String, Stop> {
    let named = known_setting(connection, "masteruser").await?.unwrap_or_default();
    Ok(if named.is_empty() { "default".to_owned() } else { named })
}

pub(super) async fn masterauth_everywhere(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let user = cx.user();
    // Replicas may be another user than the suite: its password is not known, but it must be the same everywhere.
    let first: RefCell<Option<(String, Option<String>)>> = RefCell::default();
    cx.judge_every_node(
        "masterauth is the password on every node; of another user than the suite, the same on every node",
        async |member, connection| {
            let value = setting(connection, "masterauth").await?;
            let named = replicates_as(connection).await?;
            let own_user = named == user;
            let finding = if value.is_empty() {
                Some("is empty")
            } else if own_user && value != password.expose() {
                Some("is another than the password")
            } else {
                let mut first = first.borrow_mut();
                // What is the password is compared already.
                let own = (named, (!own_user).then_some(value));
                let other = first.get_or_insert_with(|| own.clone());
                (*other != own).then_some("or masteruser is another than on a node asked before")
            };
            Ok(finding
                .map(|what| format!("{member}: masterauth {what}"))
                .into_iter()
                .collect())
        },
    )
    .await?;
    // Whether that other user's password is the right one, only the links show.
    match first.into_inner() {
        Some((_, Some(_))) => links_up(cx).await,
        _ => Ok(()),
    }
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
    use rstest::rstest;

    #[rstest]
    #[case::redis("ERR unknown command 'CONFIG', with args beginning with: 'GET' 'maxmemory' ", true)]
    #[case::bare("ERR unknown command", true)]
    #[case::upper("ERR Unknown command `SYNC`, with args beginning with: ", true)]
    #[case::asks("NOAUTH Authentication required.", false)]
    #[case::open("ERR unknown subcommand 'INFO'. Try CLUSTER HELP.", false)]
    #[case::arity("ERR wrong number of arguments for 'get' command", false)]
    fn an_unknown_command_is_told_from_others(#[case] error: &str, #[case] unknown: bool) {
        assert_eq!(says_unknown(&Reply::Error(error.into())), unknown);
        assert!(!says_unknown(&Reply::Simple(error.into())));
    }

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

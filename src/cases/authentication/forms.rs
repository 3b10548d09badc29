//! The bodies of chapter AUTH about the forms of authenticating, and about what is said to whoever has not.

use super::checks::{lacks_command, note_left_out, refuses, replicates_as};
use crate::check;
use crate::cluster::connection::Connection;
use crate::cluster::node::parse_fields;
use crate::cluster::resp::Reply;
use crate::context::{Context, Secret};
use crate::migration::as_migrate_takes_it;
use crate::verdict::{Outcome, Stop};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// A password that no node has.
fn another(cx: &Context) -> String {
    format!("not-the-password-{}", cx.shared().run_id)
}

fn needs_auth(reply: &Reply) -> bool {
    reply.error_prefix() == Some("NOAUTH")
}

/// Whether a reply to `HELLO 3` is a server's greeting: its fields and their values in turn.
fn greets(reply: &Reply) -> bool {
    let fields = reply.array().unwrap_or_default();
    fields
        .chunks(2)
        .any(|pair| matches!(pair, [name, Reply::Integer(3)] if name.text() == Some("proto")))
}

pub(super) async fn hello(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let (wrong, user) = (another(cx), cx.user());
    let expected = "HELLO 3 -> -NOAUTH; with another password -> -WRONGPASS and PING -> -NOAUTH; with the password -> \
                    the server's greeting and PING -> +PONG";
    cx.judge_every_member(expected, async |member| {
        let mut findings = Vec::new();
        let mut connection = cx.connect_raw(&member.address).await?;
        let reply = connection.call(&["HELLO", "3"]).await?;
        findings.extend(check::unless(needs_auth(&reply), member, "HELLO 3", &reply));

        let mut connection = cx.connect_raw(&member.address).await?;
        let reply = connection.call(&["HELLO", "3", "AUTH", &user, &wrong]).await?;
        let what = format!("HELLO 3 AUTH {user} with another password");
        findings.extend(check::unless(refuses(&reply), member, what, &reply));
        let ping = connection.call(&["PING"]).await?;
        findings.extend(check::unless(needs_auth(&ping), member, "PING after it", &ping));

        let mut connection = cx.connect_raw(&member.address).await?;
        let hello = ["HELLO", "3", "AUTH", &user, password.expose()];
        let reply = connection.call(&hello).await?;
        let what = format!("HELLO 3 AUTH {user} with the password");
        findings.extend(check::unless(greets(&reply), member, what, &reply));
        let ping = connection.call(&["PING"]).await?;
        let answered = ping == Reply::Simple("PONG".into());
        findings.extend(check::unless(answered, member, "PING after it", &ping));
        Ok(findings)
    })
    .await
}

pub(super) async fn forms_of_auth(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let (nobody, user) = (format!("nobody-{}", cx.shared().run_id), cx.user());
    let expected = "AUTH of the user with the password -> +OK; AUTH alone -> -ERR wrong number of arguments; AUTH of an \
                    unknown user -> -WRONGPASS, and GET -> -NOAUTH";
    let key = cx.key("forms");
    cx.judge_every_member(expected, async |member| {
        let mut findings = Vec::new();
        let mut connection = cx.connect_raw(&member.address).await?;
        let reply = connection.call(&["AUTH"]).await?;
        let arity = reply
            .error()
            .is_some_and(|text| text.contains("wrong number of arguments"));
        findings.extend(check::unless(arity, member, "AUTH alone", &reply));
        let reply = connection.call(&["AUTH", &nobody, password.expose()]).await?;
        let refused = refuses(&reply);
        findings.extend(check::unless(refused, member, "AUTH of an unknown user", &reply));
        let get = connection.call(&["GET", &key]).await?;
        findings.extend(check::unless(needs_auth(&get), member, "GET after it", &get));
        let reply = connection.call(&["AUTH", &user, password.expose()]).await?;
        let what = format!("AUTH {user} with the password");
        findings.extend(check::unless(reply.is_ok(), member, what, &reply));
        Ok(findings)
    })
    .await
}

pub(super) async fn failed_auth_keeps_the_session(cx: &Context) -> Outcome {
    cx.password()?;
    let wrong = another(cx);
    cx.judge_every_node(
        "on an authenticated connection AUTH with another password -> -WRONGPASS, then PING -> +PONG",
        async |member, connection| {
            let mut findings = Vec::new();
            let reply = connection.call(&cx.auth(&wrong)).await?;
            let what = "AUTH with another password";
            findings.extend(check::unless(refuses(&reply), member, what, &reply));
            let ping = connection.call(&["PING"]).await?;
            let kept = ping == Reply::Simple("PONG".into());
            findings.extend(check::unless(kept, member, "PING after it", &ping));
            Ok(findings)
        },
    )
    .await
}

/// What a user is allowed, by the words of its line in `ACL LIST`. The line itself holds hashes of passwords and is not
/// shown.
fn trouble_with_user(line: &str, intended: &[String]) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["user", name, rules @ ..] = words.as_slice() else {
        return Some("a line that is no user's".into());
    };
    let has = |rule: &str| rules.contains(&rule);
    let enabled = has("on");
    if enabled && has("nopass") {
        return Some(format!("user {name} needs no password"));
    }
    if *name == "default" {
        let guarded = rules.iter().any(|rule| rule.starts_with('#'));
        return (enabled && !guarded).then(|| "user default has no password".into());
    }
    (enabled && !intended.iter().any(|user| user == name)).then(|| format!("there is a user {name}"))
}

pub(super) async fn no_extra_users(cx: &Context) -> Outcome {
    cx.password()?;
    let user = cx.user();
    cx.judge_every_node(
        "ACL LIST shows the user default off or with a password, and on no other but whom the description names, and masteruser",
        async |member, connection| {
            let mut intended = vec![user.clone()];
            match replicates_as(connection).await {
                Ok(named) => intended.push(named),
                // Nobody is told which user that would be: then none but the suite's is known to be intended.
                Err(Stop::Unsupported(_)) if user == "default" => {}
                Err(stop) => return Err(stop),
            }
            let reply = connection.call(&["ACL", "LIST"]).await?;
            let Some(users) = reply.array() else {
                return Err(Stop::Unsupported(format!("ACL LIST -> {reply}")));
            };
            let lines: Vec<&str> = users.iter().filter_map(Reply::text).collect();
            if !lines.iter().any(|line| line.starts_with("user default ")) {
                return Ok(vec![format!("{member}: ACL LIST shows no user default")]);
            }
            let findings = lines.iter().filter_map(|line| trouble_with_user(line, &intended));
            Ok(findings.map(|found| format!("{member}: {found}")).collect())
        },
    )
    .await
}

pub(super) async fn streams_need_a_password(cx: &Context) -> Outcome {
    cx.password()?;
    let channel = cx.key("channel");
    let harmless: [&[&str]; 5] = [
        &["SUBSCRIBE", &channel],
        &["PSUBSCRIBE", &channel],
        &["MULTI"],
        &["REPLCONF", "listening-port", "1"],
        &["MONITOR"],
    ];
    let copying: [&[&str]; 2] = [&["PSYNC", "?", "-1"], &["SYNC"]];
    let left_out = RefCell::new(BTreeSet::new());
    cx.judge_every_member(
        "-NOAUTH to SUBSCRIBE, PSUBSCRIBE, MULTI, REPLCONF, MONITOR, PSYNC and SYNC of an unauthenticated connection",
        async |member| {
            let (mut findings, mut judged) = (Vec::new(), 0);
            for command in harmless.into_iter().chain(copying) {
                if command.last() == Some(&"SYNC") || command[0] == "PSYNC" {
                    // An open node would send all that it has.
                    if !findings.is_empty() {
                        continue;
                    }
                }
                let mut connection = cx.connect_raw(&member.address).await?;
                let reply = connection.call(command).await?;
                if lacks_command(cx, member, command[0], &reply).await? {
                    left_out.borrow_mut().insert(command[0].to_owned());
                    continue;
                }
                judged += 1;
                findings.extend(check::unless(needs_auth(&reply), member, command[0], &reply));
            }
            findings.extend((judged == 0).then(|| format!("{member}: it has none of the commands")));
            Ok(findings)
        },
    )
    .await?;
    note_left_out(cx, &left_out.into_inner());
    Ok(())
}

/// How often a server has answered with an error, by its own count.
async fn counted(connection: &mut Connection, error: &str) -> Result<u64, Stop> {
    let reply = connection.ask(&["INFO", "errorstats"]).await?;
    let fields = parse_fields(&reply).map_err(|reason| connection.nonsense("INFO errorstats", reason))?;
    let Some(count) = fields.get(&format!("errorstat_{error}")) else {
        return Ok(0);
    };
    let number = count.strip_prefix("count=").and_then(|count| count.parse().ok());
    Ok(number.ok_or_else(|| connection.nonsense("INFO errorstats", format!("errorstat_{error}:{count}")))?)
}

pub(super) async fn failed_logins_are_counted(cx: &Context) -> Outcome {
    cx.password()?;
    let wrong = another(cx);
    let key = cx.key("uncounted");
    cx.judge_every_node(
        "errorstat_WRONGPASS and errorstat_NOAUTH in INFO errorstats rise with a failed AUTH and a GET without one",
        async |member, connection| {
            let mut findings = Vec::new();
            let before = [
                counted(connection, "WRONGPASS").await?,
                counted(connection, "NOAUTH").await?,
            ];
            let mut stranger = cx.connect_raw(&member.address).await?;
            let auth = stranger.call(&cx.auth(&wrong)).await?;
            findings.extend(check::unless(
                refuses(&auth),
                member,
                "AUTH with another password",
                &auth,
            ));
            let get = stranger.call(&["GET", &key]).await?;
            findings.extend(check::unless(needs_auth(&get), member, "GET after it", &get));
            for (error, before) in ["WRONGPASS", "NOAUTH"].into_iter().zip(before) {
                let after = counted(connection, error).await?;
                if after <= before {
                    findings.push(format!("{member}: errorstat_{error} was {before} and is {after}"));
                }
            }
            Ok(findings)
        },
    )
    .await
}

/// The client's first words, with the password taken out.
fn said(text: &str, password: &Secret) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    password.redact(&line.chars().take(200).collect::<String>())
}

pub(super) async fn exit_status_says_nothing(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let wrong = Secret::new(another(cx));
    let limit = cx.timing().hook();
    let expected = "the client prints NOAUTH without a password, WRONGPASS (invalid password, AUTH failed) with another, and PONG \
                    with the password";
    let statuses = std::sync::Mutex::new(Vec::new());
    let judged = cx
        .judge_every_member(expected, async |member| {
            // A server that does not answer at all would let the client wait for ever.
            cx.connect_raw(&member.address).await?.call(&["PING"]).await?;
            let port = member.address.port.to_string();
            let arguments = ["-h", member.address.host.as_str(), "-p", port.as_str(), "PING"];
            let mut findings = Vec::new();
            let none = cx.client_program_with(member, &arguments, None, limit).await?;
            if !none.stdout.contains("NOAUTH") {
                let seen = said(&none.stdout, &password);
                findings.push(format!("{member}: without a password the client prints \"{seen}\""));
            }
            let other = cx.client_program_with(member, &arguments, Some(&wrong), limit).await?;
            let printed = format!("{} {}", other.stdout, other.stderr);
            // The client of Redis 6.0 keeps the server's words to itself.
            let told = ["WRONGPASS", "invalid password", "AUTH failed"];
            if !told
                .iter()
                .any(|words| printed.to_lowercase().contains(&words.to_lowercase()))
            {
                let seen = said(&printed, &password);
                findings.push(format!("{member}: with another password the client prints \"{seen}\""));
            }
            let right = cx
                .client_program_with(member, &arguments, Some(&password), limit)
                .await?;
            if !right.stdout.contains("PONG") {
                let seen = said(&format!("{} {}", right.stdout, right.stderr), &password);
                findings.push(format!("{member}: with the password the client prints \"{seen}\""));
            }
            statuses
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push(format!("{}, {}, {}", none.status, other.status, right.status));
            Ok(findings)
        })
        .await;
    let mut statuses = statuses.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    statuses.sort();
    statuses.dedup();
    cx.note(format!(
        "exit status without a password, with another, with the right one: {}",
        statuses.join("; ")
    ));
    judged
}

pub(super) async fn migration_authenticates(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let user = cx.shared().target.user();
    let wrong = another(cx);
    let view = cx.view().await?;
    let masters: Vec<_> = view
        .nodes
        .iter()
        .filter(|node| node.myself().is_some_and(|line| line.is_master()))
        .filter_map(|node| Some((node, node.inner_slot()?)))
        .collect();
    let keys: Vec<String> = masters.iter().map(|(_, slot)| cx.key_in(*slot, "moved")).collect();
    let expected = "MIGRATE without AUTH -> NOAUTH of the target; with another password -> WRONGPASS (or invalid password); \
                    with the password -> no complaint about one";
    let judge = async {
        check::expect(
            masters.len() > 1,
            "two masters with slots or more",
            masters.len().to_string(),
        )?;
        for ((master, _), key) in masters.iter().zip(&keys) {
            let mut connection = cx.connect(&master.member.address).await?;
            let reply = connection.call(&["SET", key, "1"]).await?;
            let what = format!("{}: SET {key} -> {reply}", master.member);
            check::expect(reply.is_ok(), "+OK to the write of the key that is to be moved", what)?;
        }
        let mut findings = Vec::new();
        for target in &view.nodes {
            let from = masters
                .iter()
                .zip(&keys)
                .find(|((master, _), _)| master.member.name != target.member.name);
            let Some(((source, _), key)) = from else { continue };
            let mut connection = cx.connect(&source.member.address).await?;
            let host = target.member.address.host.as_str();
            // A node keeps a connection for later migrations, authenticated as it is, under the target's host and port as
            // they were written. Noughts before the port keep this case's connections apart from any other.
            let ports = ["0", "00", "000"].map(|noughts| format!("{noughts}{}", target.member.address.port));
            let as_user = |password| as_migrate_takes_it(user.as_deref(), password).collect::<Vec<&str>>();
            let attempts: [(&str, &str, Vec<&str>); 3] = [
                ("without AUTH", &ports[0], Vec::new()),
                ("with another password", &ports[1], as_user(&wrong)),
                ("with the password", &ports[2], as_user(password.expose())),
            ];
            for (number, (what, port, authentication)) in attempts.into_iter().enumerate() {
                let migrate = ["MIGRATE", host, port, key.as_str(), "0", "1000"];
                let command: Vec<&str> = migrate.into_iter().chain(authentication).collect();
                let reply = connection.call(&command).await?;
                let text = reply.error().unwrap_or_default().to_lowercase();
                let unauthenticated = text.contains("noauth");
                let refused = text.contains("wrongpass") || text.contains("invalid password");
                let holds = match number {
                    0 => unauthenticated,
                    1 => refused,
                    // The slot is not being moved there: the target refuses the key, and has accepted the password.
                    _ => reply.is_ok() || text.contains("moved"),
                };
                let place = format!("{} to {}", source.member, target.member);
                findings.extend(check::unless(holds, place, format!("MIGRATE {what}"), &reply));
            }
        }
        Ok::<(), Stop>(check::no_findings(expected, &findings)?)
    };
    crate::context::with_cleanup(judge, cx.remove_keys(&keys)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("user default on #6b86b273 ~* &* +@all", None)]
    #[case("user default on sanitize-payload #6b86b273 ~* resetchannels -@all", None)]
    #[case("user default off nopass ~* +@all", None)]
    #[case("user default on nopass ~* +@all", Some("user default needs no password"))]
    #[case("user default on ~* +@all", Some("user default has no password"))]
    #[case("user backup off #6b86b273 ~* +@all", None)]
    #[case("user backup on #6b86b273 ~* +@all", Some("there is a user backup"))]
    #[case("user suite on #6b86b273 ~* +@all", None)]
    #[case("user suite on nopass ~* +@all", Some("user suite needs no password"))]
    #[case("default", Some("a line that is no user's"))]
    fn users_are_judged_by_their_rules(#[case] line: &str, #[case] trouble: Option<&str>) {
        assert_eq!(trouble_with_user(line, &["suite".to_owned()]).as_deref(), trouble);
    }

    #[test]
    fn a_greeting_names_the_third_version() {
        let text = |text: &'static str| Reply::Bulk(text.into());
        let greeting = |version| Reply::Array(vec![text("server"), text("redis"), text("proto"), version]);
        assert!(greets(&greeting(Reply::Integer(3))));
        assert!(!greets(&greeting(Reply::Integer(2))));
        assert!(!greets(&Reply::Simple("OK".into())));
    }
}

//! The bodies of chapter REPL about what replicas hold, serve and refuse.

use super::pairing::{attached_view, pairs};
use crate::check::{self, Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::node::{Endpoint, NodeView, parse_fields};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::context::{Context, with_cleanup};
use crate::verdict::{Mismatch, Outcome, Stop};

/// A key in a slot of a master.
fn key_of(cx: &Context, master: &NodeView, name: &str) -> Result<(u16, String), Mismatch> {
    match master.inner_slot() {
        Some(slot) => Ok((slot, cx.key_in(slot, name))),
        None => Err(Mismatch::new(
            "a master with slots",
            format!("{} claims none", master.member),
        )),
    }
}

/// Keys in a slot of the master of each pair.
fn keys_of(cx: &Context, pairs: &[(&NodeView, &NodeView)]) -> Result<Vec<String>, Mismatch> {
    pairs
        .iter()
        .map(|(replica, master)| Ok(key_of(cx, master, &replica.member.name)?.1))
        .collect()
}

/// The number in a field of a node's `INFO replication`.
async fn offset(connection: &mut Connection, field: &str) -> Result<u64, Stop> {
    let reply = connection.ask(&["INFO", "replication"]).await?;
    let fields = parse_fields(&reply).map_err(|reason| connection.nonsense("INFO replication", reason))?;
    let number = fields.get(field).and_then(|value| value.parse().ok());
    Ok(number.ok_or_else(|| connection.nonsense("INFO replication", format!("no number {field}")))?)
}

/// Sends `READONLY`, which every replica takes: one that refuses it serves no reads at all.
async fn enter_readonly(connection: &mut Connection, replica: &NodeView) -> Result<(), Stop> {
    let reply = connection.call(&["READONLY"]).await?;
    let seen = format!("{}: READONLY -> {reply}", replica.member);
    Ok(check::expect(reply.is_ok(), "READONLY -> +OK", seen)?)
}

/// How often a shard's key is written before its offsets are compared.
const WRITES: usize = 1000;
/// How many of them are sent in one go: so many are answered in time on a busy machine too.
const BATCH: usize = 100;

/// Writes 1, 2, … to a key on its master; the offset after the last write, which must be above the one before the first.
async fn write_a_lot(cx: &Context, master: &NodeView, key: &str) -> Result<u64, Stop> {
    let mut connection = cx.connect(&master.member.address).await?;
    let before = offset(&mut connection, "master_repl_offset").await?;
    let values: Vec<String> = (1..=WRITES).map(|number| number.to_string()).collect();
    let writes: Vec<Vec<&str>> = values.iter().map(|value| vec!["SET", key, value]).collect();
    for writes in writes.chunks(BATCH) {
        let replies = connection.pipeline(writes).await?;
        if let Some(reply) = replies.into_iter().find(|reply| !reply.is_ok()) {
            return Err(Mismatch::new("SET -> +OK", format!("{}: SET {key} -> {reply}", master.member)).into());
        }
    }
    let after = offset(&mut connection, "master_repl_offset").await?;
    let seen = format!("{}: {before}, then {after}", master.member);
    check::expect(after > before, "a master_repl_offset that grows with writes", seen)?;
    Ok(after)
}

pub(super) async fn offsets_converge(cx: &Context) -> Outcome {
    let view = attached_view(cx).await?;
    let pairs = pairs(cx, &view)?;
    let keys = keys_of(cx, &pairs)?;
    let judge = async {
        for ((replica, master), key) in pairs.iter().zip(&keys) {
            let goal = write_a_lot(cx, master, key).await?;
            let mut reading = cx.connect(&replica.member.address).await?;
            eventually(
                cx,
                "the replica at its master's offset",
                cx.timing().catch_up(),
                async || {
                    let reached = offset(&mut reading, "slave_repl_offset").await?;
                    let seen = format!("{}: slave_repl_offset:{reached} of {goal}", replica.member);
                    Ok(if reached >= goal {
                        Look::Reached(())
                    } else {
                        Look::NotYet(seen)
                    })
                },
            )
            .await?;
            enter_readonly(&mut reading, replica).await?;
            let reply = reading.call(&["GET", key.as_str()]).await?;
            let seen = format!("{}: GET {key} -> {reply}", replica.member);
            check::expect(
                reply.text() == Some(&WRITES.to_string()),
                "the last value on the replica",
                seen,
            )?;
        }
        Ok(())
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn readonly_reads(cx: &Context) -> Outcome {
    let view = attached_view(cx).await?;
    let pairs = pairs(cx, &view)?;
    let keys = keys_of(cx, &pairs)?;
    let judge = async {
        for ((replica, master), key) in pairs.iter().zip(&keys) {
            let mut reading = cx.connect(&replica.member.address).await?;
            enter_readonly(&mut reading, replica).await?;
            let set = cx
                .connect(&master.member.address)
                .await?
                .call(&["SET", key.as_str(), "read me"])
                .await?;
            check::expect(
                set.is_ok(),
                "SET -> +OK",
                format!("{}: SET {key} -> {set}", master.member),
            )?;
            eventually(cx, "the value on the replica", cx.timing().visible(), async || {
                let reply = reading.call(&["GET", key.as_str()]).await?;
                let seen = format!("{}: GET {key} -> {reply}", replica.member);
                Ok(if reply.bytes() == Some(b"read me") {
                    Look::Reached(())
                } else {
                    Look::NotYet(seen)
                })
            })
            .await?;
        }
        Ok(())
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

pub(super) async fn redirects_by_default(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut findings = Vec::new();
    for (replica, master) in pairs(cx, &view)? {
        let (slot, key) = key_of(cx, master, "read")?;
        let reply = cx
            .connect(&replica.member.address)
            .await?
            .call(&["GET", key.as_str()])
            .await?;
        let moved = Redirect::is_moved(&reply, slot, view.endpoint_of(master));
        let command = format!("GET {key} (slot {slot} of {})", master.member);
        findings.extend(check::unless(moved, &replica.member, command, &reply));
    }
    Ok(check::no_findings(
        "-MOVED <slot> <its master> from every replica",
        &findings,
    )?)
}

pub(super) async fn writes_refused(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut findings = Vec::new();
    for (replica, master) in pairs(cx, &view)? {
        let (slot, key) = key_of(cx, master, "refused")?;
        let member = &replica.member;
        let mut connection = cx.connect(&member.address).await?;
        enter_readonly(&mut connection, replica).await?;
        // Where a replica wrongly executes the first, it executes the second too: nothing is left behind.
        for command in [&["SET", &key, "1"] as &[&str], &["DEL", &key]] {
            let reply = connection.call(command).await?;
            let moved = Redirect::is_moved(&reply, slot, view.endpoint_of(master));
            findings.extend(check::unless(
                moved,
                member,
                format!("{} {key} (slot {slot})", command[0]),
                &reply,
            ));
        }
        let read = connection.call(&["GET", &key]).await?;
        findings.extend(check::unless(
            read == Reply::Nil,
            member,
            format!("GET {key} after them"),
            &read,
        ));
        let swap = connection.call(&["SWAPDB", "0", "0"]).await?;
        if swap
            .error()
            .is_some_and(|text| text.to_lowercase().starts_with("err unknown command"))
        {
            cx.note(format!("{member}: SWAPDB -> {swap}; no write without keys was tried"));
        } else {
            let refused = swap.error_prefix() == Some("READONLY");
            findings.extend(check::unless(refused, member, "SWAPDB 0 0", &swap));
        }
    }
    let expected = "SET and DEL -> -MOVED <slot> <its master>, GET -> nil, SWAPDB 0 0 -> -READONLY on every replica";
    Ok(check::no_findings(expected, &findings)?)
}

pub(super) async fn foreign_slots_redirected(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut findings = Vec::new();
    for (replica, master) in pairs(cx, &view)? {
        let mut connection = cx.connect(&replica.member.address).await?;
        enter_readonly(&mut connection, replica).await?;
        for other in view.masters().filter(|other| other.member != master.member) {
            let (slot, key) = key_of(cx, other, "foreign")?;
            let reply = connection.call(&["GET", key.as_str()]).await?;
            let moved = Redirect::is_moved(&reply, slot, view.endpoint_of(other));
            let command = format!("GET {key} (slot {slot} of {})", other.member);
            findings.extend(check::unless(moved, &replica.member, command, &reply));
        }
    }
    Ok(check::no_findings(
        "-MOVED <slot> <its owner> for every other shard's slots, also after READONLY",
        &findings,
    )?)
}

pub(super) async fn readwrite_redirects_again(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let mut findings = Vec::new();
    for (replica, master) in pairs(cx, &view)? {
        let (slot, key) = key_of(cx, master, "again")?;
        let mut connection = cx.connect(&replica.member.address).await?;
        enter_readonly(&mut connection, replica).await?;
        let served = connection.call(&["GET", &key]).await?;
        let command = format!("GET {key} (slot {slot}) after READONLY");
        findings.extend(check::unless(served == Reply::Nil, &replica.member, command, &served));
        let reply = connection.call(&["READWRITE"]).await?;
        findings.extend(check::unless(reply.is_ok(), &replica.member, "READWRITE", &reply));
        let reply = connection.call(&["GET", &key]).await?;
        let moved = Redirect::is_moved(&reply, slot, view.endpoint_of(master));
        let command = format!("GET {key} (slot {slot} of {}) after READWRITE", master.member);
        findings.extend(check::unless(moved, &replica.member, command, &reply));
    }
    Ok(check::no_findings(
        "nil for an absent key after READONLY, and -MOVED <slot> <its master> after READWRITE, from every replica",
        &findings,
    )?)
}

/// Whether a replica in READONLY mode does a transaction of reads, and refuses one that writes.
async fn transactions(
    connection: &mut Connection,
    replica: &NodeView,
    master: &Endpoint,
    (slot, key): (u16, &str),
) -> Result<Vec<String>, Stop> {
    let member = &replica.member;
    let mut findings = Vec::new();
    for command in [&["MULTI"] as &[&str], &["GET", key]] {
        let reply = connection.call(command).await?;
        let fine = reply.text() == Some(if command.len() == 1 { "OK" } else { "QUEUED" });
        findings.extend(check::unless(fine, member, command.join(" "), &reply));
    }
    let reply = connection.call(&["EXEC"]).await?;
    let value = matches!(reply.array(), Some([value]) if value.text() == Some(VALUE));
    findings.extend(check::unless(value, member, "EXEC of a GET", &reply));
    let reply = connection.call(&["MULTI"]).await?;
    findings.extend(check::unless(reply.is_ok(), member, "MULTI", &reply));
    let set = connection.call(&["SET", key, "overwritten"]).await?;
    let exec = connection.call(&["EXEC"]).await?;
    let moved = |reply: &Reply| Redirect::is_moved(reply, slot, master);
    // Redis redirects when the write is queued, and then discards the transaction.
    let refused = moved(&set) || (set.text() == Some("QUEUED") && moved(&exec));
    findings.extend(check::unless(
        refused,
        member,
        format!("SET {key} (slot {slot}) in MULTI"),
        &set,
    ));
    findings.extend(check::unless(exec.error().is_some(), member, "EXEC of that SET", &exec));
    Ok(findings)
}

/// What is written to be read.
const VALUE: &str = "read me";

pub(super) async fn read_transactions(cx: &Context) -> Outcome {
    let view = attached_view(cx).await?;
    let pairs = pairs(cx, &view)?;
    let keys = keys_of(cx, &pairs)?;
    let judge = async {
        let mut findings = Vec::new();
        for ((replica, master), key) in pairs.iter().zip(&keys) {
            let mut reading = cx.connect(&replica.member.address).await?;
            enter_readonly(&mut reading, replica).await?;
            write_and_see(cx, &mut reading, (replica, master), key).await?;
            let slot = crate::cluster::slot::slot_of(key.as_bytes());
            let to = view.endpoint_of(master);
            findings.extend(transactions(&mut reading, replica, &to, (slot, key)).await?);
            let script = "return redis.call('get', KEYS[1])";
            let reply = reading.call(&["EVAL_RO", script, "1", key]).await?;
            if reply
                .error()
                .is_some_and(|text| text.to_lowercase().starts_with("err unknown command"))
            {
                cx.note(format!("{}: EVAL_RO -> {reply}; no script was tried", replica.member));
            } else {
                let read = reply.text() == Some(VALUE);
                findings.extend(check::unless(
                    read,
                    &replica.member,
                    format!("EVAL_RO, a GET of {key}"),
                    &reply,
                ));
            }
            let reply = reading.call(&["GET", key.as_str()]).await?;
            let kept = reply.text() == Some(VALUE);
            findings.extend(check::unless(
                kept,
                &replica.member,
                format!("GET {key} after all"),
                &reply,
            ));
        }
        Ok(check::no_findings(
            "on every READONLY replica MULTI, GET, EXEC -> the value, EVAL_RO -> the value, and SET in MULTI -> -MOVED",
            &findings,
        )?)
    };
    with_cleanup(judge, cx.remove_keys(&keys)).await
}

/// Writes [`VALUE`] on the master, and waits until the replica reads it.
async fn write_and_see(
    cx: &Context,
    reading: &mut Connection,
    (replica, master): (&NodeView, &NodeView),
    key: &str,
) -> Result<(), Stop> {
    let set = cx
        .connect(&master.member.address)
        .await?
        .call(&["SET", key, VALUE])
        .await?;
    let seen = format!("{}: SET {key} -> {set}", master.member);
    check::expect(set.is_ok(), "SET -> +OK", seen)?;
    eventually(cx, "the value on the replica", cx.timing().visible(), async || {
        let reply = reading.call(&["GET", key]).await?;
        let seen = format!("{}: GET {key} -> {reply}", replica.member);
        Ok(if reply.text() == Some(VALUE) {
            Look::Reached(())
        } else {
            Look::NotYet(seen)
        })
    })
    .await
}

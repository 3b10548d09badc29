//! One observed soak, which several cases look at from their own side: every shard is written to and read for a long
//! time with no fault done to anything, while append-only files are rewritten and snapshots taken, and all nodes are
//! watched.
//!
//! It is done once in a run, by the first case that asks, and leaves the deployment as it is: other cases that break
//! nothing may run beside it.

use crate::check::LOOK_AGAIN;
use crate::cluster::connection::LinkError;
use crate::cluster::node::{Member, parse_fields};
use crate::cluster::resp::Reply;
use crate::cluster::view::ClusterView;
use crate::context::Context;
use crate::rolling::slot_of_every_shard;
use crate::verdict::{Mismatch, Stop};
use crate::workload::{Fate, Record, Writer};
use futures::future::{join_all, try_join};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause between two looks at all nodes.
const PAUSE: Duration = Duration::from_millis(250);

/// The pause between two rounds of reads of one shard.
const READ_AGAIN: Duration = Duration::from_millis(20);

/// How many times in a soak each node is made to write its files anew, in turn the append-only file and a snapshot.
const BACKGROUND: u32 = 6;

/// What was seen. Each list holds one line for each thing that was seen, and is empty where all was well.
#[derive(Debug)]
pub struct Soak {
    /// How long it was watched.
    pub lasted: Duration,
    /// How often all nodes were looked at.
    pub looks: usize,
    /// How many rewrites and snapshots the nodes began.
    pub background: usize,
    /// What the continuous writer did, one ledger a shard.
    pub writes: Record,
    /// Refused writes, and times longer than `T_reply` in which one shard took none while others did. Where the way to
    /// the servers is direct, also writes in place of whose reply the connection ended, or nonsense came.
    pub interruptions: Vec<String>,
    /// How many reads were answered as they must be.
    pub reads: usize,
    /// Reads that were refused or answered with something else. Where the way to the servers is direct, also those in
    /// place of whose reply the connection ended, or nonsense came.
    pub misread: Vec<String>,
    /// Acknowledged writes that were not there at the end.
    pub lost: Vec<String>,
    /// Flags `fail?` and `fail`, and FAIL messages that nodes counted.
    pub detections: Vec<String>,
    /// Roles, masters and epochs that changed.
    pub changes: Vec<String>,
    /// Servers that did not answer, or are other processes than at the beginning.
    pub restarts: Vec<String>,
}

/// The soak of this run; the first case that asks makes it happen. It takes `T_soak`.
///
/// # Errors
/// The same for every case that asks: a mismatch where the cluster cannot be written to at the beginning already.
pub async fn observe(cx: &Context) -> Result<Arc<Soak>, Stop> {
    cx.note_observation("the soak");
    let shared = cx.shared().clone();
    let observed = shared
        .soak
        .get_or_init(|| async {
            match make_happen(cx).await {
                Ok(soak) => Ok(Ok(Arc::new(soak))),
                Err(Stop::Mismatch(mismatch)) => Ok(Err(mismatch)),
                Err(Stop::Error(error)) => Err(format!("{error:#}")),
                Err(Stop::Unsupported(reason)) => Err(reason),
            }
        })
        .await;
    match observed {
        Ok(Ok(soak)) => Ok(soak.clone()),
        Ok(Err(mismatch)) => Err(mismatch.clone().into()),
        Err(reason) => Err(anyhow::anyhow!("the soak could not be observed: {reason}").into()),
    }
}

async fn make_happen(cx: &Context) -> Result<Soak, Stop> {
    let first = cx.view().await?;
    let slots = slot_of_every_shard(cx, &first)?;
    let before = processes(cx).await?;
    let writer = match Writer::start_patiently(cx, &slots).await {
        Ok(writer) => writer,
        // All nodes have just answered: it is they who do not take the write.
        Err(Stop::Error(error)) => {
            return Err(Mismatch::new("an acknowledged write to every shard", format!("{error:#}")).into());
        }
        Err(stop) => return Err(stop),
    };
    let owners = slots
        .iter()
        .filter_map(|slot| Some((*slot, first.owner_of(*slot)?.member.clone())));
    let owners: Vec<(u16, Member)> = owners.collect();
    let duration = cx.timing().soak();
    let began = Instant::now();
    let mut watched = Watched::default();
    let mut rewritten = 0;
    let what = format!("{}: a soak under load", cx.case_id());
    let watching = async {
        while began.elapsed() < duration {
            let view = cx.look().await?;
            watched.add(&first, &view, began.elapsed());
            if began.elapsed() >= duration * (rewritten + 1) / (BACKGROUND + 1) {
                watched.background += rewrite(cx, rewritten % 2 == 0).await?;
                rewritten += 1;
            }
            tokio::time::sleep(PAUSE.max(LOOK_AGAIN)).await;
        }
        Ok::<(), Stop>(())
    };
    let until = began + duration;
    let reading = async {
        let readers = owners.iter().map(|(slot, owner)| read_on(cx, owner, *slot, until));
        Ok::<Vec<Read>, Stop>(join_all(readers).await)
    };
    let both = try_join(watching, reading);
    let outcome = cx.progress().during(&what, duration, both).await;
    let lasted = began.elapsed();
    let writes = writer.stop().await;
    let lost = writes.lost(cx).await?;
    let ((), read) = outcome?;
    let mut restarts: Vec<String> = watched.silent.into_iter().collect();
    let after = processes(cx).await?;
    for (name, process) in before {
        match after.get(&name) {
            Some(same) if *same == process => {}
            Some(_) => restarts.push(format!("{name} is another process than at the beginning")),
            None => restarts.push(format!("{name} does not say at the end which process it is")),
        }
    }
    Ok(Soak {
        lasted,
        looks: watched.looks,
        background: watched.background,
        interruptions: interruptions(&writes, cx.patience())?,
        reads: read.iter().map(|read| read.answered).sum(),
        misread: read.into_iter().flat_map(|read| read.findings).collect(),
        writes,
        lost,
        detections: watched.detections.into_iter().collect(),
        changes: watched.changes.into_iter().collect(),
        restarts,
    })
}

/// What interrupted the writing.
fn interruptions(writes: &Record, limit: Duration) -> Result<Vec<String>, Stop> {
    // A write that is not answered for a moment, on a busy machine, is sent again and is no failure.
    let patient = Record {
        direct: false,
        ..writes.clone()
    };
    let broken = match writes.direct {
        true => broken_off(writes),
        false => BTreeSet::new(),
    };
    match patient.interruptions(limit) {
        Ok(others) => Ok(broken.into_iter().chain(others).collect()),
        // Whoever hangs up has answered: the way to the servers was there.
        Err(_) if !broken.is_empty() => Ok(broken.into_iter().collect()),
        Err(stop) => Err(stop),
    }
}

/// The writes that the server broke off, one line for each kind and ledger.
fn broken_off(writes: &Record) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    for ledger in &writes.ledgers {
        for write in ledger.indeterminate() {
            if let Fate::Indeterminate(text) = &write.fate
                && tells_of_a_break(text)
            {
                told.insert(format!("slot {}: no reply to a write: {text}", ledger.slot));
            }
        }
    }
    told
}

/// Whether a server ended the connection in the reply's place, or sent nonsense: where the way to it is direct, nobody
/// else does. A reply that is only late may be the machine's doing.
fn is_a_break(error: &LinkError) -> bool {
    matches!(error, LinkError::Closed { .. } | LinkError::Nonsense { .. })
}

/// [`is_a_break`], by the words that a ledger keeps of an error.
fn tells_of_a_break(text: &str) -> bool {
    text.contains(": connection closed before the ") || text.contains(": unexpected reply to ")
}

/// What the reads of one shard gave.
#[derive(Default)]
struct Read {
    answered: usize,
    findings: BTreeSet<String>,
}

/// Reads at the owner of a slot until the end of the soak: the last value of the list that is written there all the
/// while, and a key that nobody writes.
async fn read_on(cx: &Context, owner: &Member, slot: u16, until: Instant) -> Read {
    let direct = cx.shared().target.detour().is_zero();
    let (list, absent) = (Writer::key(cx, slot), cx.key_in(slot, "absent"));
    let questions: [Vec<&str>; 2] = [vec!["LRANGE", &list, "-1", "-1"], vec!["GET", &absent]];
    let mut read = Read::default();
    let mut connection = None;
    let mut reachable = true;
    loop {
        for question in &questions {
            match cx.ask_kept(owner, &mut connection, question).await {
                Ok(reply) if is_right(&reply) => read.answered += 1,
                Ok(reply) => {
                    let words = question.join(" ");
                    read.findings.insert(format!("{owner}: {words} -> {reply}"));
                }
                Err(error) => {
                    reachable &= !matches!(error, LinkError::Unreachable { .. });
                    if direct && is_a_break(&error) {
                        read.findings
                            .insert(format!("slot {slot}: no reply to a read: {error}"));
                    }
                }
            }
        }
        if Instant::now() >= until {
            break;
        }
        tokio::time::sleep(READ_AGAIN).await;
    }
    // One that is late now and then may be; one that never answers while it takes writes is not.
    if read.answered == 0 && read.findings.is_empty() && reachable {
        read.findings
            .insert(format!("{owner}: no read was answered all the while"));
    }
    read
}

/// One value of a list, or none of a key that is not there.
fn is_right(reply: &Reply) -> bool {
    match reply {
        Reply::Array(values) => values.len() == 1,
        Reply::Nil => true,
        Reply::Simple(_) | Reply::Error(_) | Reply::Integer(_) | Reply::Bulk(_) => false,
    }
}

/// What the looks gave together.
#[derive(Default)]
struct Watched {
    looks: usize,
    background: usize,
    detections: BTreeSet<String>,
    changes: BTreeSet<String>,
    silent: BTreeSet<String>,
    /// The instants at which a flag was first seen, so that each is told once.
    flagged: BTreeSet<(String, String)>,
}

impl Watched {
    fn add(&mut self, first: &ClusterView, view: &ClusterView, at: Duration) {
        self.looks += 1;
        let at = format!("after {:.1} s", at.as_secs_f64());
        for (member, error) in &view.silent {
            // The way to a node can be busy: that says nothing of the node.
            if !matches!(error, LinkError::Unreachable { .. }) && self.once(&member.name, "silent") {
                self.silent.insert(format!("{at} {error}"));
            }
        }
        for old in &first.nodes {
            let name = &old.member.name;
            let Some(new) = view.of(name) else {
                if !view.silent.iter().any(|(member, _)| &member.name == name) && self.once(name, "missing") {
                    self.silent.insert(format!("{at} {name} is missing"));
                }
                continue;
            };
            for line in &new.nodes {
                for flag in ["fail?", "fail"].into_iter().filter(|flag| line.is(flag)) {
                    let other = view.name_of(&line.id);
                    if self.once(name, &format!("{flag} {other}")) {
                        self.detections.insert(format!("{at} {name} flags {other} as {flag}"));
                    }
                }
            }
            for field in [
                "cluster_stats_messages_fail_sent",
                "cluster_stats_messages_fail_received",
            ] {
                let count = |text: &str| text.parse::<u64>().unwrap_or(0);
                let more = count(new.info(field)).saturating_sub(count(old.info(field)));
                if more > 0 && self.once(name, field) {
                    self.detections
                        .insert(format!("{at} {name} has {field} risen by {more}"));
                }
            }
            if old.info("cluster_current_epoch") != new.info("cluster_current_epoch") && self.once(name, "epoch") {
                let (was, is) = (old.info("cluster_current_epoch"), new.info("cluster_current_epoch"));
                self.changes
                    .insert(format!("{at} {name}: cluster_current_epoch:{is}, which was {was}"));
            }
            let master = |node: &crate::cluster::node::NodeView| node.myself().and_then(|line| line.master.clone());
            let changed = old.role.is_master() != new.role.is_master() || master(old) != master(new);
            if changed && self.once(name, "role") {
                self.changes
                    .insert(format!("{at} {name} was {:?} and is {:?}", old.role, new.role));
            }
        }
    }

    fn once(&mut self, name: &str, what: &str) -> bool {
        self.flagged.insert((name.to_owned(), what.to_owned()))
    }
}

/// Which process each server is: one that has started anew has another `run_id`. Who does not answer is missing.
async fn processes(cx: &Context) -> Result<BTreeMap<String, String>, Stop> {
    let members = cx.members().await?;
    let answers = join_all(members.iter().map(async |member: &Member| {
        let reply = cx.connect(&member.address).await.ok()?.call(&["INFO", "server"]).await;
        let run_id = parse_fields(&reply.ok()?).ok()?.get("run_id")?.clone();
        Some((member.name.clone(), run_id))
    }))
    .await;
    Ok(answers.into_iter().flatten().collect())
}

/// Has every node that persists write its append-only file anew, or a snapshot. A server that keeps no files is left
/// alone: one that it finds at its next start would be loaded. How many nodes began; one that has begun already by
/// itself does not count.
async fn rewrite(cx: &Context, append_only: bool) -> Result<usize, Stop> {
    let members = cx.members().await?;
    let begun = join_all(members.iter().map(async |member: &Member| {
        let mut connection = cx.connect(&member.address).await.ok()?;
        let persistence = connection.call(&["INFO", "persistence"]).await.ok()?;
        let appends = parse_fields(&persistence).ok()?.get("aof_enabled").map(String::as_str) == Some("1");
        let saves = connection
            .setting("save")
            .await
            .ok()?
            .is_some_and(|points| !points.is_empty());
        let command = match (append_only, appends, saves) {
            (true, true, _) => "BGREWRITEAOF",
            (false, _, true) => "BGSAVE",
            (true, false, _) | (false, _, false) => return None,
        };
        let reply = connection.call(&[command]).await.ok()?;
        reply.error().is_none().then_some(())
    }))
    .await;
    Ok(begun.into_iter().flatten().count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connection::Address;
    use crate::workload::{Ledger, Write};
    use rstest::rstest;

    fn closed() -> LinkError {
        LinkError::Closed {
            address: Address::new("h", 1),
            command: "RPUSH".into(),
            got: None,
        }
    }

    fn closed_within() -> LinkError {
        LinkError::Closed {
            address: Address::new("h", 1),
            command: "RPUSH".into(),
            got: Some("\":1\"".into()),
        }
    }

    fn nonsense() -> LinkError {
        LinkError::Nonsense {
            address: Address::new("h", 1),
            command: "RPUSH".into(),
            reason: "not a RESP reply".into(),
        }
    }

    fn late() -> LinkError {
        LinkError::TimedOut {
            address: Address::new("h", 1),
            command: "RPUSH".into(),
            after: Duration::from_secs(5),
            got: None,
        }
    }

    fn refused() -> LinkError {
        LinkError::Refused {
            address: Address::new("h", 1),
            reason: "refused".into(),
        }
    }

    fn unreachable() -> LinkError {
        LinkError::Unreachable {
            address: Address::new("h", 1),
            reason: "no way".into(),
        }
    }

    #[rstest]
    #[case::closed(closed(), true)]
    #[case::closed_within_a_reply(closed_within(), true)]
    #[case::nonsense(nonsense(), true)]
    #[case::late(late(), false)]
    #[case::refused(refused(), false)]
    #[case::no_way(unreachable(), false)]
    fn an_error_and_its_words_tell_the_same(#[case] error: LinkError, #[case] expected: bool) {
        assert_eq!(is_a_break(&error), expected);
        assert_eq!(tells_of_a_break(&error.to_string()), expected);
    }

    /// Writes to one slot, one every 50 ms for 10 s: all acknowledged, but for one that met the error.
    fn record(error: &LinkError, direct: bool) -> Record {
        let began = Instant::now();
        let writes = (0..200).map(|number| {
            let at = began + Duration::from_millis(number * 50);
            let fate = match number {
                100 => Fate::Indeterminate(error.to_string()),
                _ => Fate::Acked,
            };
            Write {
                number,
                due: at,
                at,
                fate,
                redirections: 0,
            }
        });
        Record {
            ledgers: vec![Ledger {
                slot: 7,
                key: "k".into(),
                writes: writes.collect(),
            }],
            began,
            ended: began + Duration::from_secs(10),
            direct,
        }
    }

    #[rstest]
    #[case::closed(closed(), true, 1)]
    #[case::nonsense(nonsense(), true, 1)]
    #[case::late(late(), true, 0)]
    #[case::closed_on_a_way_that_may_break(closed(), false, 0)]
    fn a_write_that_is_broken_off_interrupts_where_the_way_is_direct(
        #[case] error: LinkError,
        #[case] direct: bool,
        #[case] count: usize,
    ) {
        let told = interruptions(&record(&error, direct), Duration::from_secs(5)).unwrap();
        assert_eq!(told.len(), count, "{told:?}");
    }

    #[rstest]
    #[case::a_value(Reply::Array(vec![Reply::Integer(1)]), true)]
    #[case::no_value(Reply::Array(vec![]), false)]
    #[case::nil(Reply::Nil, true)]
    #[case::refusal(Reply::Error("LOADING".into()), false)]
    #[case::text(Reply::Simple("OK".into()), false)]
    fn what_a_read_may_be_answered(#[case] reply: Reply, #[case] right: bool) {
        assert_eq!(is_right(&reply), right);
    }
}

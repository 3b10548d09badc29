//! The continuous workload: one ledger a writer, every write timestamped and told apart as acknowledged, refused (definitely
//! not done) or indeterminate (it may have been done); and the read-back.
//!
//! [`Writer`] writes as a client does that waits for each answer; [`Load`] writes at a rate, whatever the answers.

mod lane;
mod load;
mod pending;
mod route;
mod schedule;
mod writer;

pub use load::{Load, Loaded, Rate};
pub use writer::Writer;

use self::route::{Route, ask_owner};
use crate::cluster::connection::LinkError;
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::context::Context;
use crate::timeline::{Silence, Timeline};
use crate::verdict::{Mismatch, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The pause between two writes to a ledger.
const PACE: Duration = Duration::from_millis(10);
/// How long one write may take before its fate is unknown, where masters go away. Shorter than any node-timeout in use, longer than a busy
/// machine's hiccup.
const PATIENCE: Duration = Duration::from_millis(1000);

/// The name of a list that is written, in its key.
const LIST: &str = "ledger";

/// How many elements of a list are read at once: a long one is read in time that grows with its length and no faster, and
/// no server is kept from anything else meanwhile.
const BATCH: usize = 10_000;

/// How many redirections one command follows before it counts as refused (REDIR-12).
pub const MOST_REDIRECTIONS: usize = 5;

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server said it is done.
    Acked,
    /// The owner of the key, or the node that the last owner redirected to, said it is not done.
    Refused(String),
    /// No owner was found: no connection could be made, or a node that was asked without knowing better refused.
    Unsent(String),
    /// The connection broke, or no reply came, after the write had been sent.
    Indeterminate(String),
}

impl Fate {
    /// What an outcome says of a write; `by_owner` where whoever answered is the key's owner, or was named as such.
    fn of(outcome: Result<Reply, LinkError>, by_owner: bool) -> Self {
        match outcome {
            Ok(Reply::Integer(_)) => Self::Acked,
            Ok(reply) if by_owner => Self::Refused(reply.to_string()),
            Ok(reply) => Self::Unsent(reply.to_string()),
            Err(error @ (LinkError::Refused { .. } | LinkError::Unreachable { .. })) => Self::Unsent(error.to_string()),
            Err(error @ (LinkError::Closed { .. } | LinkError::TimedOut { .. } | LinkError::Nonsense { .. })) => {
                Self::Indeterminate(error.to_string())
            }
        }
    }
}

/// One attempt to write one number to a ledger.
#[derive(Clone, Debug)]
pub struct Write {
    /// The number.
    pub number: u64,
    /// When it was due: by the schedule where there is one, else when it was begun.
    pub due: Instant,
    /// When its outcome was known.
    pub at: Instant,
    /// How it ended.
    pub fate: Fate,
    /// How many redirections it followed.
    pub redirections: usize,
}

/// What the writer did to one ledger.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// The slot that the ledger's key is in.
    pub slot: u16,
    /// The key: a list of numbers.
    pub key: String,
    /// Every attempt, in order.
    pub writes: Vec<Write>,
}

impl Ledger {
    /// The writes that were acknowledged.
    pub fn acked(&self) -> impl Iterator<Item = &Write> {
        self.writes.iter().filter(|write| write.fate == Fate::Acked)
    }

    /// The writes that may have been done though nobody said so.
    pub fn indeterminate(&self) -> impl Iterator<Item = &Write> {
        let unknown = |write: &&Write| matches!(write.fate, Fate::Indeterminate(_));
        self.writes.iter().filter(unknown)
    }

    /// The instants between which nothing was acknowledged for longest, from `since` until `until`. What was acknowledged
    /// later is no more of it than what was before.
    pub fn longest_silence(&self, since: Instant, until: Instant) -> (Instant, Instant) {
        let mut longest = (since, since);
        let mut last = since;
        let acked = self.acked().map(|write| write.at);
        for at in acked.filter(|at| *at > since && *at < until).chain([until]) {
            if at.saturating_duration_since(last) > longest.1 - longest.0 {
                longest = (last, at);
            }
            last = at;
        }
        longest
    }

    /// The longest time between two acknowledged writes that follow each other, from `since` on; the time until the
    /// first one counts, and so does the time since the last one, until `until`.
    pub fn longest_gap(&self, since: Instant, until: Instant) -> Duration {
        let (from, until) = self.longest_silence(since, until);
        until - from
    }

    /// The times longer than `limit` without an acknowledged write.
    fn gaps(&self, since: Instant, until: Instant, limit: Duration) -> Vec<(Instant, Instant)> {
        let instants = std::iter::once(since)
            .chain(self.acked().map(|write| write.at))
            .chain(std::iter::once(until));
        let instants: Vec<Instant> = instants.collect();
        let pairs = instants.windows(2).map(|pair| (pair[0], pair[1]));
        pairs
            .filter(|(from, until)| until.saturating_duration_since(*from) > limit)
            .collect()
    }

    /// Reads the ledger back from its owner: every number that is there, and how often. Then it removes the key.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read_back(&self, cx: &Context) -> Result<BTreeMap<u64, usize>, Stop> {
        let (mut route, numbers) = self.read_on(cx).await?;
        let mut there = BTreeMap::new();
        for number in numbers {
            *there.entry(number).or_insert(0) += 1;
        }
        route.follow(&["DEL", &self.key]).await?;
        Ok(there)
    }

    /// Reads the ledger from its owner: every number that is there, in the order of the list.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self, cx: &Context) -> Result<Vec<u64>, Stop> {
        Ok(self.read_on(cx).await?.1)
    }

    /// [`Self::read`], with the way to the owner.
    async fn read_on(&self, cx: &Context) -> Result<(Route, Vec<u64>), Stop> {
        let list = |reply: &Reply| reply.array().is_some();
        let (mut route, mut reply) = ask_owner(cx, &self.batch(0), list).await?;
        let mut numbers = Numbers::default();
        while numbers.add(&reply).map_err(|what| self.unreadable(&what))? {
            reply = route.follow(&self.batch(numbers.read)).await?;
        }
        Ok((route, numbers.numbers))
    }

    /// Reads the ledger from one server of its shard, a replica too: what the server itself holds.
    ///
    /// # Errors
    /// When it cannot be read there.
    pub async fn read_at(&self, cx: &Context, member: &Member) -> Result<Vec<u64>, LinkError> {
        let mut connection = cx.connect(&member.address).await?;
        connection.ask(&["READONLY"]).await?;
        let mut numbers = Numbers::default();
        loop {
            let reply = connection.call(&self.batch(numbers.read)).await?;
            match numbers.add(&reply) {
                Ok(true) => {}
                Ok(false) => return Ok(numbers.numbers),
                Err(what) => return Err(connection.nonsense("LRANGE", what)),
            }
        }
    }

    /// The command that reads the elements from one place on.
    fn batch(&self, from: usize) -> Vec<String> {
        let last = (from + BATCH - 1).to_string();
        vec!["LRANGE".into(), self.key.clone(), from.to_string(), last]
    }

    fn unreadable(&self, what: &str) -> Stop {
        anyhow::anyhow!("LRANGE {} -> {what}", self.key).into()
    }

    /// What the last attempt within a gap met.
    fn last_words(&self, from: Instant, until: Instant) -> String {
        let within = self
            .writes
            .iter()
            .rfind(|write| write.at > from && write.at <= until && write.fate != Fate::Acked);
        match within.map(|write| &write.fate) {
            Some(Fate::Refused(text) | Fate::Unsent(text) | Fate::Indeterminate(text)) => text.clone(),
            Some(Fate::Acked) | None => "no attempt ended in it".into(),
        }
    }
}

/// What is cut off both ends of a gap before others are looked for in it: a stall that ends ends not for all at once.
const MARGIN: Duration = Duration::from_millis(500);

/// What the writer did.
#[derive(Clone, Debug)]
pub struct Record {
    /// One ledger a slot, in the order asked for.
    pub ledgers: Vec<Ledger>,
    /// When the writer began.
    pub began: Instant,
    /// When it was stopped.
    pub ended: Instant,
    /// Whether the way to the nodes is direct: then nothing but a node can keep a write from being answered.
    pub direct: bool,
}

impl Record {
    /// The ledger of a slot.
    pub fn ledger(&self, slot: u16) -> Option<&Ledger> {
        self.ledgers.iter().find(|ledger| ledger.slot == slot)
    }

    /// How many writes were acknowledged.
    pub fn acked(&self) -> usize {
        self.ledgers.iter().map(|ledger| ledger.acked().count()).sum()
    }

    /// What interrupted the writing: refusals by a key's owner, and times longer than `limit` in which one ledger had no
    /// acknowledged write while others had. At most one line for each kind and ledger.
    ///
    /// Where the way to the nodes is direct, so is every write that was sent and not answered. Where it leads through an
    /// API server, which can be slow for a moment, such a write is sent again and is no interruption by itself.
    ///
    /// # Errors
    /// When no ledger had an acknowledged write for longer than `limit`, with nobody refusing: then the way to the nodes
    /// was gone, and nothing can be said of them.
    pub fn interruptions(&self, limit: Duration) -> Result<Vec<String>, Stop> {
        let mut told = BTreeSet::new();
        let mut stall = Duration::ZERO;
        for ledger in &self.ledgers {
            for write in &ledger.writes {
                match &write.fate {
                    Fate::Refused(text) => told.insert(format!("slot {}: refused: {text}", ledger.slot)),
                    Fate::Indeterminate(text) if self.direct => {
                        told.insert(format!("slot {}: no reply: {text}", ledger.slot))
                    }
                    Fate::Acked | Fate::Unsent(_) | Fate::Indeterminate(_) => false,
                };
            }
            for (from, until) in ledger.gaps(self.began, self.ended, limit) {
                let others = self.ledgers.iter().filter(|other| other.slot != ledger.slot);
                let served = others
                    .flat_map(Ledger::acked)
                    .any(|write| write.at > from + MARGIN && write.at + MARGIN < until);
                if served || self.ledgers.len() == 1 {
                    told.insert(format!(
                        "slot {}: no acknowledged write for {:.1} s while others were written: {}",
                        ledger.slot,
                        (until - from).as_secs_f64(),
                        ledger.last_words(from, until)
                    ));
                } else {
                    stall = stall.max(until - from);
                }
            }
        }
        if told.is_empty() && stall > Duration::ZERO {
            return Err(anyhow::anyhow!(
                "no write to any shard was answered for {:.1} s, and none refused: the suite's own way to the nodes had stalled",
                stall.as_secs_f64()
            )
            .into());
        }
        Ok(told.into_iter().collect())
    }

    /// Reads every ledger back from its owner, and returns the acknowledged writes that are not there, one line a ledger.
    ///
    /// # Errors
    /// When a ledger cannot be read.
    pub async fn lost(&self, cx: &Context) -> Result<Vec<String>, Stop> {
        let missing = self.missing(cx).await?;
        let told = self
            .ledgers
            .iter()
            .zip(missing)
            .filter(|(_, missing)| !missing.is_empty());
        let told = told.map(|(ledger, missing)| {
            let shown: Vec<String> = missing.iter().take(10).map(|write| write.number.to_string()).collect();
            format!(
                "slot {}: {} of {} acknowledged writes are not there: {}",
                ledger.slot,
                missing.len(),
                ledger.acked().count(),
                shown.join(", ")
            )
        });
        Ok(told.collect())
    }

    /// Reads every ledger back from its owner and removes it: the acknowledged writes that are not there, ledger by ledger.
    ///
    /// # Errors
    /// When a ledger cannot be read.
    pub async fn missing(&self, cx: &Context) -> Result<Vec<Vec<Write>>, Stop> {
        let mut missing = Vec::new();
        for ledger in &self.ledgers {
            let there = ledger.read_back(cx).await?;
            let not_there = ledger.acked().filter(|write| !there.contains_key(&write.number));
            missing.push(not_there.cloned().collect());
        }
        Ok(missing)
    }

    /// Reads the counters of [`Writer::start_counting`] back from their owners and removes them, ledger by ledger.
    ///
    /// # Errors
    /// When one cannot be read.
    pub async fn counted(&self, cx: &Context) -> Result<Vec<u64>, Stop> {
        let mut counted = Vec::new();
        for ledger in &self.ledgers {
            let (mut route, reply) = ask_owner(cx, &["GET", &ledger.key], |reply| reply.error().is_none()).await?;
            counted.push(match (&reply, reply.text().and_then(|text| text.parse().ok())) {
                (_, Some(count)) => count,
                // Nothing was ever counted, or all of it is lost.
                (Reply::Nil, None) => 0,
                (_, None) => return Err(anyhow::anyhow!("GET {} -> {reply}", ledger.key).into()),
            });
            route.follow(&["DEL", &ledger.key]).await?;
        }
        Ok(counted)
    }
}

/// The shortest time without an acknowledged write to a shard that a case's timeline tells.
const GAP: Duration = Duration::from_millis(500);

/// Notes the gaps of a slot's writers in a case's timeline: where each begins, and where it ends.
fn note_gaps(timeline: &Timeline, ledgers: &[Ledger], (began, ended): (Instant, Instant)) {
    let slots: BTreeSet<u16> = ledgers.iter().map(|ledger| ledger.slot).collect();
    for slot in slots {
        let of_slot = || ledgers.iter().filter(|ledger| ledger.slot == slot);
        let acked = of_slot().flat_map(Ledger::acked).map(|write| write.at);
        let mut instants: Vec<Instant> = acked.filter(|at| *at < ended).chain([began, ended]).collect();
        instants.sort_unstable();
        for pair in instants.windows(2) {
            let (from, until) = (pair[0], pair[1]);
            if until - from <= GAP {
                continue;
            }
            let words: BTreeSet<String> = of_slot().map(|ledger| ledger.last_words(from, until)).collect();
            timeline.note_silence(Silence {
                slot,
                from,
                until,
                ended: until != ended,
                met: words.into_iter().collect::<Vec<_>>().join("; "),
            });
        }
    }
}

/// Why writing could not begin, where a slot's first write was not acknowledged in time.
fn not_begun(ledgers: &[Ledger], slot: u16, (began, ended): (Instant, Instant), patience: Duration) -> Stop {
    let words: Vec<String> = ledgers.iter().map(|ledger| ledger.last_words(began, ended)).collect();
    let what = format!(
        "no write to slot {slot} was acknowledged within {:.0} s, before any fault: {}",
        patience.as_secs_f64(),
        words.join("; ")
    );
    let mut of_slot = ledgers
        .iter()
        .filter(|ledger| ledger.slot == slot)
        .flat_map(|ledger| &ledger.writes);
    // A server that refuses has said something of itself; silence may be the way to it.
    if of_slot.any(|write| matches!(write.fate, Fate::Refused(_))) {
        Mismatch::new(format!("an acknowledged write to slot {slot}"), what).into()
    } else {
        anyhow::anyhow!(what).into()
    }
}

/// The numbers of a list that is read batch by batch.
#[derive(Default)]
struct Numbers {
    numbers: Vec<u64>,
    /// How many elements were read, numbers or not.
    read: usize,
}

impl Numbers {
    /// Takes a batch in; whether another may follow it.
    fn add(&mut self, batch: &Reply) -> Result<bool, String> {
        let items = batch.array().ok_or_else(|| batch.to_string())?;
        self.read += items.len();
        let parsed = items.iter().filter_map(|item| item.text()?.parse::<u64>().ok());
        self.numbers.extend(parsed);
        Ok(items.len() >= BATCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(began: Instant, fates: &[(u64, Fate)]) -> Ledger {
        let write = |(number, (after, fate)): (usize, &(u64, Fate))| Write {
            number: number as u64,
            due: began + Duration::from_millis(*after),
            at: began + Duration::from_millis(*after),
            fate: fate.clone(),
            redirections: 0,
        };
        Ledger {
            slot: 0,
            key: "k".into(),
            writes: fates.iter().enumerate().map(write).collect(),
        }
    }

    fn record(began: Instant, ledgers: Vec<Ledger>, millis: u64) -> Record {
        let slots = ledgers.into_iter().enumerate().map(|(slot, ledger)| Ledger {
            slot: slot as u16,
            ..ledger
        });
        Record {
            ledgers: slots.collect(),
            began,
            ended: began + Duration::from_millis(millis),
            direct: false,
        }
    }

    fn steady(began: Instant, except: std::ops::Range<u64>, fate: &Fate) -> Ledger {
        let at = |millis: u64| {
            (
                millis,
                if except.contains(&millis) {
                    fate.clone()
                } else {
                    Fate::Acked
                },
            )
        };
        ledger(began, &(0..200).map(|step| at(step * 50)).collect::<Vec<_>>())
    }

    #[test]
    fn one_silent_shard_is_an_interruption_and_a_stall_of_all_is_an_error_of_the_suite() {
        let began = Instant::now();
        let limit = Duration::from_secs(5);
        let silence = Fate::Indeterminate("no reply".into());
        let whole = || steady(began, 0..0, &silence);
        let stalled = || steady(began, 2000..8000, &silence);
        let short = || steady(began, 2000..5000, &silence);
        assert!(
            record(began, vec![whole(), whole()], 10000)
                .interruptions(limit)
                .unwrap()
                .is_empty()
        );
        assert!(
            record(began, vec![short(), whole()], 10000)
                .interruptions(limit)
                .unwrap()
                .is_empty()
        );
        let told = record(began, vec![stalled(), whole()], 10000)
            .interruptions(limit)
            .unwrap();
        assert_eq!(
            told,
            ["slot 0: no acknowledged write for 6.0 s while others were written: no reply"]
        );
        assert!(matches!(
            record(began, vec![stalled(), stalled()], 10000).interruptions(limit),
            Err(Stop::Error(_))
        ));
    }

    #[test]
    fn an_unanswered_write_is_an_interruption_where_the_way_is_direct() {
        let began = Instant::now();
        let hiccup = steady(began, 2000..2050, &Fate::Indeterminate("closed".into()));
        let mut record = record(began, vec![hiccup, steady(began, 0..0, &Fate::Acked)], 10000);
        let limit = Duration::from_secs(5);
        assert!(record.interruptions(limit).unwrap().is_empty());
        record.direct = true;
        assert_eq!(record.interruptions(limit).unwrap(), ["slot 0: no reply: closed"]);
    }

    #[test]
    fn a_refusal_by_the_owner_is_an_interruption_and_a_blind_one_is_not() {
        let began = Instant::now();
        let refused = steady(began, 2000..2050, &Fate::Refused("-CLUSTERDOWN".into()));
        let told = record(began, vec![refused, steady(began, 0..0, &Fate::Acked)], 10000);
        assert_eq!(
            told.interruptions(Duration::from_secs(5)).unwrap(),
            ["slot 0: refused: -CLUSTERDOWN"]
        );
        let blind = steady(began, 2000..2050, &Fate::Unsent("-CLUSTERDOWN".into()));
        assert!(
            record(began, vec![blind], 10000)
                .interruptions(Duration::from_secs(5))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn the_timeline_tells_the_gaps_of_a_slot() {
        let timeline = Timeline::default();
        let began = Instant::now();
        let after = |millis| began + Duration::from_millis(millis);
        let refused = Fate::Refused("-CLUSTERDOWN".into());
        let one = ledger(
            began,
            &[
                (10, Fate::Acked),
                (900, refused),
                (1000, Fate::Acked),
                (3000, Fate::Acked),
            ],
        );
        let other = Ledger {
            slot: 7,
            ..steady(began, 0..0, &Fate::Acked)
        };
        note_gaps(&timeline, &[one, other], (began, after(3100)));
        let told: Vec<String> = timeline.entries().into_iter().map(|entry| entry.what).collect();
        assert_eq!(
            told,
            [
                "slot 0: the last acknowledged write for 0.990 s; at its end: -CLUSTERDOWN",
                "slot 0: a write is acknowledged again, after 0.990 s",
                "slot 0: the last acknowledged write for 2.000 s; at its end: no attempt ended in it",
                "slot 0: a write is acknowledged again, after 2.000 s",
            ]
        );
    }

    #[test]
    fn the_longest_gap_counts_both_ends() {
        let began = Instant::now();
        let after = |millis: u64| began + Duration::from_millis(millis);
        let refused = || Fate::Refused("-CLUSTERDOWN".into());
        let ledger = ledger(
            began,
            &[
                (10, Fate::Acked),
                (20, refused()),
                (500, Fate::Acked),
                (600, Fate::Acked),
            ],
        );
        assert_eq!(ledger.longest_gap(began, after(610)), Duration::from_millis(490));
        assert_eq!(ledger.longest_gap(began, after(2000)), Duration::from_millis(1400));
        assert_eq!(ledger.longest_gap(after(520), after(610)), Duration::from_millis(80));
        assert_eq!(ledger.longest_gap(after(700), after(800)), Duration::from_millis(100));
        // What came after the time that is looked at: another gap of 390 ms until then.
        assert_eq!(ledger.longest_gap(began, after(400)), Duration::from_millis(390));
        assert_eq!(ledger.longest_gap(began, after(5)), Duration::from_millis(5));
        assert_eq!(ledger.longest_silence(began, after(550)), (after(10), after(500)));
    }
}

//! The continuous writer: one ledger a shard, every write timestamped and told apart as acknowledged, refused (definitely
//! not done) or indeterminate (it may have been done); and the read-back.

mod direct;

pub use direct::DirectWriter;

use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::redirect::{Redirect, RedirectKind};
use crate::cluster::resp::Reply;
use crate::context::{Context, authenticate};
use crate::target::Target;
use crate::verdict::{Mismatch, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The pause between two writes to a ledger.
const PACE: Duration = Duration::from_millis(10);
/// How long one write may take before its fate is unknown, where masters go away. Shorter than any node-timeout in use, longer than a busy
/// machine's hiccup.
const PATIENCE: Duration = Duration::from_millis(1000);

/// The name of a list that is written, in its key.
const LIST: &str = "ledger";

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

/// One attempt to write one number to a ledger.
#[derive(Clone, Debug)]
pub struct Write {
    /// The number.
    pub number: u64,
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

    /// The instants between which nothing was acknowledged for longest, from `since` until `until`.
    pub fn longest_silence(&self, since: Instant, until: Instant) -> (Instant, Instant) {
        let mut longest = (since, since);
        let mut last = since;
        let acked = self.acked().map(|write| write.at);
        for at in acked.filter(|at| *at > since).chain([until]) {
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
        let list = |reply: &Reply| reply.array().is_some();
        let (mut route, reply) = ask_owner(cx, &["LRANGE", &self.key, "0", "-1"], list).await?;
        let Some(items) = reply.array() else {
            return Err(anyhow::anyhow!("LRANGE {} -> {reply}", self.key).into());
        };
        let mut there = BTreeMap::new();
        for number in items.iter().filter_map(|item| item.text()?.parse().ok()) {
            *there.entry(number).or_insert(0) += 1;
        }
        route.follow(&["DEL", &self.key]).await?;
        Ok(there)
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

/// Asks whoever owns a command's key, beginning at one node after another until one gives an answer that is `wanted`, or
/// none is left; the way to the owner, and the last answer.
async fn ask_owner(cx: &Context, command: &[&str], wanted: impl Fn(&Reply) -> bool) -> Result<(Route, Reply), Stop> {
    let mut route = Route::new(cx.shared().target.clone());
    let members = cx.members().await?;
    route.entries = members.into_iter().map(|member| member.address).collect();
    route.patience = cx.patience();
    let mut reply = route.follow(command).await;
    for _ in 1..route.entries.len() {
        if reply.as_ref().is_ok_and(&wanted) {
            break;
        }
        // A node that has lost the cluster, or its way, does not speak for the others.
        reply = route.follow(command).await;
    }
    Ok((route, reply?))
}

/// What is written, each time once more: the command, by its key and the number of the attempt.
type Attempt = fn(&str, u64) -> Vec<String>;

fn append(key: &str, number: u64) -> Vec<String> {
    vec!["RPUSH".into(), key.into(), number.to_string()]
}

fn count(key: &str, _: u64) -> Vec<String> {
    vec!["INCR".into(), key.into()]
}

/// A writer at work. When dropped, it ends by itself.
#[derive(Debug)]
pub struct Writer {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<Ledger>>,
    began: Instant,
    direct: bool,
}

impl Writer {
    /// Starts writing to one ledger in each of `slots`, and returns when each has been acknowledged once.
    ///
    /// # Errors
    /// When a ledger's first write is not acknowledged within the patience for one reply.
    pub async fn start(cx: &Context, slots: &[u16]) -> Result<Self, Stop> {
        Self::start_with(cx, slots, PATIENCE, (LIST, append)).await
    }

    /// The key of the list that [`Self::start`] writes in a slot.
    pub fn key(cx: &Context, slot: u16) -> String {
        cx.key_in(slot, LIST)
    }

    /// [`Self::start`] where no master goes away: there is none to be given up early, and each write has as long as any
    /// other command (T_reply). A machine that is busy with something else lets a server wait for a second now and then.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_patiently(cx: &Context, slots: &[u16]) -> Result<Self, Stop> {
        Self::start_with(cx, slots, cx.patience(), (LIST, append)).await
    }

    /// [`Self::start`], for a counter in each slot in place of a list: `INCR`, which a list's reader could not tell from
    /// one that was done twice.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_counting(cx: &Context, slots: &[u16]) -> Result<Self, Stop> {
        Self::start_with(cx, slots, PATIENCE, ("counter", count)).await
    }

    async fn start_with(
        cx: &Context,
        slots: &[u16],
        one_write: Duration,
        (name, attempt): (&str, Attempt),
    ) -> Result<Self, Stop> {
        let (stop, stopped) = watch::channel(false);
        let entries: Vec<Address> = cx.members().await?.into_iter().map(|member| member.address).collect();
        let mut writer = Self {
            stop,
            tasks: Vec::new(),
            began: Instant::now(),
            direct: cx.shared().target.detour().is_zero(),
        };
        let mut firsts = Vec::new();
        for slot in slots {
            let (first, acked) = tokio::sync::oneshot::channel();
            let mut route = Route::new(cx.shared().target.clone());
            route.patience = one_write;
            route.entries.clone_from(&entries);
            let ledger = Ledger {
                slot: *slot,
                key: cx.key_in(*slot, name),
                writes: Vec::new(),
            };
            writer
                .tasks
                .push(tokio::spawn(write_on(route, ledger, attempt, stopped.clone(), first)));
            firsts.push(acked);
        }
        let patience = cx.patience();
        for (slot, acked) in slots.iter().zip(firsts) {
            match tokio::time::timeout(patience, acked).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    let record = writer.stop().await;
                    let words = record
                        .ledgers
                        .iter()
                        .map(|ledger| ledger.last_words(record.began, record.ended));
                    let words = words.collect::<Vec<_>>().join("; ");
                    let what = format!(
                        "no write to slot {slot} was acknowledged within {:.0} s, before any fault: {words}",
                        patience.as_secs_f64()
                    );
                    let of_slot = record.ledger(*slot).map_or(&[][..], |ledger| &ledger.writes);
                    // A server that refuses has said something of itself; silence may be the way to it.
                    return Err(if of_slot.iter().any(|write| matches!(write.fate, Fate::Refused(_))) {
                        Mismatch::new(format!("an acknowledged write to slot {slot}"), what).into()
                    } else {
                        anyhow::anyhow!(what).into()
                    });
                }
            }
        }
        Ok(writer)
    }

    /// Stops, and returns what was done.
    pub async fn stop(self) -> Record {
        // The receivers may be gone: then the tasks have ended.
        let _ = self.stop.send(true);
        let mut ledgers = Vec::new();
        for task in self.tasks {
            if let Ok(ledger) = task.await {
                ledgers.push(ledger);
            }
        }
        Record {
            ledgers,
            began: self.began,
            ended: Instant::now(),
            direct: self.direct,
        }
    }
}

async fn write_on(
    mut route: Route,
    mut ledger: Ledger,
    attempt: Attempt,
    mut stopped: watch::Receiver<bool>,
    first: tokio::sync::oneshot::Sender<()>,
) -> Ledger {
    let mut first = Some(first);
    for number in 0.. {
        let command = attempt(&ledger.key, number);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let fate = match route.follow(&command).await {
            Ok(Reply::Integer(_)) => Fate::Acked,
            Ok(reply) if route.knows_owner => Fate::Refused(reply.to_string()),
            Ok(reply) => Fate::Unsent(reply.to_string()),
            Err(error @ (LinkError::Refused { .. } | LinkError::Unreachable { .. })) => Fate::Unsent(error.to_string()),
            Err(error @ (LinkError::Closed { .. } | LinkError::TimedOut { .. } | LinkError::Nonsense { .. })) => {
                Fate::Indeterminate(error.to_string())
            }
        };
        if fate == Fate::Acked
            && let Some(first) = first.take()
        {
            // Nobody waits for it any more when the start has already failed.
            let _ = first.send(());
        }
        ledger.writes.push(Write {
            number,
            at: Instant::now(),
            fate,
            redirections: route.redirections,
        });
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(PACE) => {}
        }
    }
    ledger
}

/// The way of one client to the owner of one slot: it follows redirections, and starts anew at another node when its
/// own is gone.
struct Route {
    target: Arc<dyn Target>,
    entries: Vec<Address>,
    next_entry: usize,
    connection: Option<Connection>,
    /// Whether the connection leads to the key's owner: it has executed a command, or was redirected to.
    knows_owner: bool,
    /// How many redirections the last command followed.
    redirections: usize,
    patience: Duration,
}

impl Route {
    fn new(target: Arc<dyn Target>) -> Self {
        Self {
            target,
            entries: Vec::new(),
            next_entry: 0,
            connection: None,
            knows_owner: false,
            redirections: 0,
            patience: PATIENCE,
        }
    }

    /// Sends a command to the owner of its key, following at most [`MOST_REDIRECTIONS`].
    async fn follow(&mut self, command: &[&str]) -> Result<Reply, LinkError> {
        self.redirections = 0;
        let mut reply = self.call(command).await?;
        for _ in 0..MOST_REDIRECTIONS {
            let Some(redirect) = Redirect::parse(&reply) else {
                break;
            };
            self.redirections += 1;
            let mut connection = open(&*self.target, self.patience, &redirect.address).await?;
            self.knows_owner = true;
            reply = match redirect.kind {
                RedirectKind::Moved => {
                    self.connection = Some(connection);
                    self.call(command).await?
                }
                // For this command alone: the next one goes to the slot's owner again.
                RedirectKind::Ask => {
                    connection.call(&["ASKING"]).await?;
                    connection.call(command).await?
                }
            };
        }
        self.knows_owner |= reply.error().is_none();
        if reply.error().is_some() {
            // Another node may know better: a restarted one answers CLUSTERDOWN while the others are whole again.
            self.connection = None;
        }
        Ok(reply)
    }

    async fn call(&mut self, command: &[&str]) -> Result<Reply, LinkError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                if self.next_entry.is_multiple_of(self.entries.len().max(1))
                    && let Ok(members) = self.target.members().await
                    && !members.is_empty()
                {
                    self.entries = members.into_iter().map(|member| member.address).collect();
                }
                let entry = self.entries[self.next_entry % self.entries.len()].clone();
                self.next_entry += 1;
                self.knows_owner = false;
                open(&*self.target, self.patience, &entry).await?
            }
        };
        let reply = connection.call(command).await?;
        self.connection = Some(connection);
        Ok(reply)
    }
}

/// An authenticated connection for writing.
async fn open(target: &dyn Target, patience: Duration, address: &Address) -> Result<Connection, LinkError> {
    let unreachable = |reason: String| LinkError::Unreachable {
        address: address.clone(),
        reason,
    };
    let stream = tokio::time::timeout(patience, target.connect(address))
        .await
        .map_err(|_| unreachable(format!("no connection within {:.1} s", patience.as_secs_f64())))??;
    let mut connection = Connection::new(stream, address.clone(), patience);
    // A write has not been sent yet: whatever goes wrong here is a refusal, not an unknown fate.
    authenticate(&mut connection, target.password().as_ref())
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(began: Instant, fates: &[(u64, Fate)]) -> Ledger {
        let write = |(number, (after, fate)): (usize, &(u64, Fate))| Write {
            number: number as u64,
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
    }
}

//! The book of one writer at a rate: which writes are due, waiting or on their way, and what became of each. No input or
//! output: what is due when and what an answer means is all here.

use super::schedule::Schedule;
use super::{Fate, Ledger, MOST_REDIRECTIONS, Write};
use crate::cluster::connection::{Address, LinkError};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many writes of one writer may be without an answer. Those that fall due beyond that are not sent: they are put down
/// as such, and come no later.
pub(super) const MOST_UNANSWERED: usize = 1000;

/// A write without an answer.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    number: u64,
    due: Instant,
    redirections: usize,
}

/// The book.
#[derive(Debug)]
pub(super) struct Pending {
    ledger: Ledger,
    schedule: Schedule,
    /// The number of the next write.
    next: u64,
    /// Not sent yet, or redirected.
    waiting: VecDeque<Attempt>,
    /// Sent, each with the instant, in the order in which answers come.
    sent: VecDeque<(Attempt, Instant)>,
    /// Whether a redirection is followed, as clients of the whole cluster do; else it is a refusal.
    follows: bool,
    /// The longest time that a write was sent after it was due, of those that could be sent at once.
    latest: Duration,
    acked: usize,
}

/// What an answer means for the way on which it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Onward {
    /// Go on.
    Stay,
    /// Another node is the owner.
    To(Address),
    /// This node refuses; another may know better.
    Elsewhere,
}

impl Pending {
    pub(super) fn new(ledger: Ledger, schedule: Schedule, follows: bool) -> Self {
        Self {
            ledger,
            schedule,
            next: 0,
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            follows,
            latest: Duration::ZERO,
            acked: 0,
        }
    }

    /// When the next write is due.
    pub(super) fn next_due(&self) -> Instant {
        self.schedule.due(self.next)
    }

    /// Takes up every write that is due at an instant.
    pub(super) fn fall_due(&mut self, now: Instant) {
        loop {
            let due = self.next_due();
            if due > now {
                return;
            }
            let attempt = Attempt {
                number: self.next,
                due,
                redirections: 0,
            };
            self.next += 1;
            if self.waiting.len() + self.sent.len() < MOST_UNANSWERED {
                self.waiting.push_back(attempt);
            } else {
                let why = format!("not sent: {MOST_UNANSWERED} writes before it had no answer");
                self.put_down(attempt, now, Fate::Unsent(why));
            }
        }
    }

    /// What is to be sent now: from here on it counts as sent. Whoever was `free` to send all the while is late by nobody's
    /// fault but the suite's.
    pub(super) fn take_for_sending(&mut self, now: Instant, free: bool) -> Vec<Vec<String>> {
        let key = &self.ledger.key;
        let mut commands = Vec::with_capacity(self.waiting.len());
        for attempt in self.waiting.drain(..) {
            commands.push(vec!["RPUSH".into(), key.clone(), attempt.number.to_string()]);
            if free && attempt.redirections == 0 {
                self.latest = self.latest.max(now.saturating_duration_since(attempt.due));
            }
            self.sent.push_back((attempt, now));
        }
        commands
    }

    /// Since when the first of the writes that were sent has had no answer.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        self.sent.front().map(|(_, sent)| *sent)
    }

    /// The answer to the first of the writes that were sent.
    pub(super) fn answered(&mut self, reply: Reply, now: Instant) -> Onward {
        let Some((mut attempt, _)) = self.sent.pop_front() else {
            // Nobody asked: there is no telling any more which answer belongs to which write.
            return Onward::Elsewhere;
        };
        if self.follows
            && attempt.redirections < MOST_REDIRECTIONS
            && let Some(redirect) = Redirect::parse(&reply)
        {
            attempt.redirections += 1;
            // Before those that fell due since: the numbers of a key are written in their order.
            let place = self.waiting.partition_point(|other| other.number < attempt.number);
            self.waiting.insert(place, attempt);
            return Onward::To(redirect.address);
        }
        let fate = Fate::of(Ok(reply), true);
        self.acked += usize::from(fate == Fate::Acked);
        let onward = if self.follows && fate != Fate::Acked {
            Onward::Elsewhere
        } else {
            Onward::Stay
        };
        self.put_down(attempt, now, fate);
        onward
    }

    /// The connection is of no more use: whatever was sent on it may have been done.
    pub(super) fn broke(&mut self, error: &LinkError, now: Instant) {
        for (attempt, _) in std::mem::take(&mut self.sent) {
            self.put_down(attempt, now, Fate::Indeterminate(error.to_string()));
        }
    }

    /// No way was found to anybody: what waits has not been sent.
    pub(super) fn no_way(&mut self, why: &str, now: Instant) {
        for attempt in std::mem::take(&mut self.waiting) {
            self.put_down(attempt, now, Fate::Unsent(why.to_owned()));
        }
    }

    /// Whether every write that was sent has its answer.
    pub(super) fn all_answered(&self) -> bool {
        self.sent.is_empty()
    }

    /// How many writes were acknowledged.
    pub(super) fn acked(&self) -> usize {
        self.acked
    }

    /// What became of all writes, and the longest time that the suite itself was late. What still waits is no write: nobody
    /// refused it, the suite had stopped.
    pub(super) fn close(self) -> (Ledger, Duration) {
        (self.ledger, self.latest)
    }

    fn put_down(&mut self, attempt: Attempt, at: Instant, fate: Fate) {
        self.ledger.writes.push(Write {
            number: attempt.number,
            due: attempt.due,
            at,
            fate,
            redirections: attempt.redirections,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::num::NonZeroU32;

    /// A writer of a thousand writes a second.
    fn pending(began: Instant, follows: bool) -> Pending {
        let rate = NonZeroU32::new(1000).unwrap();
        let ledger = Ledger {
            slot: 0,
            key: "k".into(),
            writes: Vec::new(),
        };
        Pending::new(ledger, Schedule::of_all(began, rate, 1).next().unwrap(), follows)
    }

    fn after(began: Instant, millis: u64) -> Instant {
        began + Duration::from_millis(millis)
    }

    fn error(text: &str) -> Reply {
        Reply::Error(text.into())
    }

    fn closed() -> LinkError {
        LinkError::Closed {
            address: Address::new("h", 1),
            command: "RPUSH".into(),
            got: None,
        }
    }

    const CLOSED: &str = "h:1: connection closed before the reply to RPUSH";

    #[rstest]
    #[case::done(true, Reply::Integer(1), Onward::Stay, Some(Fate::Acked))]
    #[case::done_by_a_node(false, Reply::Integer(7), Onward::Stay, Some(Fate::Acked))]
    #[case::down(true, error("CLUSTERDOWN"), Onward::Elsewhere, Some(Fate::Refused("-CLUSTERDOWN".into())))]
    #[case::down_on_a_node(false, error("CLUSTERDOWN"), Onward::Stay, Some(Fate::Refused("-CLUSTERDOWN".into())))]
    #[case::moved(true, error("MOVED 0 h:2"), Onward::To(Address::new("h", 2)), None)]
    #[case::moved_by_a_node(false, error("MOVED 0 h:2"), Onward::Stay, Some(Fate::Refused("-MOVED 0 h:2".into())))]
    #[case::no_count(true, Reply::Nil, Onward::Elsewhere, Some(Fate::Refused("nil".into())))]
    fn an_answer_is_told_apart(
        #[case] follows: bool,
        #[case] reply: Reply,
        #[case] onward: Onward,
        #[case] fate: Option<Fate>,
    ) {
        let began = Instant::now();
        let mut pending = pending(began, follows);
        pending.fall_due(began);
        assert_eq!(pending.take_for_sending(began, true), [["RPUSH", "k", "0"]]);
        assert_eq!(pending.answered(reply, began), onward);
        let fates: Vec<Fate> = pending.ledger.writes.iter().map(|write| write.fate.clone()).collect();
        assert_eq!(fates, Vec::from_iter(fate));
        assert!(pending.all_answered());
    }

    #[test]
    fn what_was_sent_may_be_done_and_what_waits_is_not() {
        let began = Instant::now();
        let mut pending = pending(began, true);
        pending.fall_due(after(began, 1));
        pending.take_for_sending(after(began, 1), true);
        pending.fall_due(after(began, 2));
        pending.broke(&closed(), after(began, 3));
        pending.no_way("nobody", after(began, 4));
        pending.fall_due(after(began, 5));
        let (ledger, _) = pending.close();
        let told: Vec<(u64, Fate)> = ledger
            .writes
            .into_iter()
            .map(|write| (write.number, write.fate))
            .collect();
        // Numbers 3 to 5 were due, and the writer stopped before they were sent.
        assert_eq!(
            told,
            [
                (0, Fate::Indeterminate(CLOSED.into())),
                (1, Fate::Indeterminate(CLOSED.into())),
                (2, Fate::Unsent("nobody".into())),
            ]
        );
    }

    #[test]
    fn a_redirected_write_goes_before_those_that_fell_due_since() {
        let began = Instant::now();
        let mut pending = pending(began, true);
        pending.fall_due(after(began, 1));
        pending.take_for_sending(after(began, 1), true);
        pending.fall_due(after(began, 2));
        pending.answered(error("MOVED 0 h:2"), after(began, 3));
        pending.answered(error("MOVED 0 h:2"), after(began, 3));
        let sent = pending.take_for_sending(after(began, 4), true);
        let numbers: Vec<&str> = sent.iter().map(|command| command[2].as_str()).collect();
        assert_eq!(numbers, ["0", "1", "2"]);
    }

    #[test]
    fn a_write_that_is_redirected_for_ever_is_refused() {
        let began = Instant::now();
        let mut pending = pending(began, true);
        pending.fall_due(began);
        for _ in 0..=MOST_REDIRECTIONS {
            pending.take_for_sending(began, true);
            pending.answered(error("MOVED 0 h:2"), began);
        }
        let write = &pending.ledger.writes[0];
        assert_eq!(
            (&write.fate, write.redirections),
            (&Fate::Refused("-MOVED 0 h:2".into()), MOST_REDIRECTIONS)
        );
    }

    /// A server that says nothing for three seconds: the schedule goes on, and the gap is as long as the silence.
    #[test]
    fn a_stall_is_a_gap_and_no_slower_rate() {
        let began = Instant::now();
        let mut pending = pending(began, false);
        for millis in 0..5000 {
            let now = after(began, millis);
            pending.fall_due(now);
            pending.take_for_sending(now, true);
            while !(1000..4000).contains(&millis) && !pending.all_answered() {
                pending.answered(Reply::Integer(1), now);
            }
        }
        let (ledger, latest) = pending.close();
        assert_eq!(ledger.writes.len(), 5000);
        assert_eq!(
            ledger.longest_gap(began, after(began, 5000)),
            Duration::from_millis(3001)
        );
        let unsent = ledger
            .writes
            .iter()
            .filter(|write| matches!(write.fate, Fate::Unsent(_)));
        // The one that is due as the server comes back still finds all the others without an answer.
        assert_eq!(unsent.count(), 3001 - MOST_UNANSWERED);
        assert_eq!(latest, Duration::ZERO);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Pass(u64),
        Send,
        Answer(u8),
        Break,
        NoWay,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u64..400).prop_map(Step::Pass),
            Just(Step::Send),
            (0_u8..4).prop_map(Step::Answer),
            Just(Step::Break),
            Just(Step::NoWay),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: each number that fell due is in the book once, or still waits when the writer
        /// stops; no more than the bound are without an answer, and nothing that was never sent is of unknown fate.
        #[test]
        fn every_write_is_put_down_once(steps in prop::collection::vec(step(), 0..200), follows: bool) {
            let began = Instant::now();
            let mut pending = pending(began, follows);
            let mut now = began;
            let mut sent = std::collections::BTreeSet::new();
            for step in steps {
                match step {
                    Step::Pass(millis) => {
                        now += Duration::from_millis(millis);
                        pending.fall_due(now);
                    }
                    Step::Send => {
                        let commands = pending.take_for_sending(now, true);
                        sent.extend(commands.iter().map(|command| command[2].parse::<u64>().unwrap()));
                    }
                    Step::Answer(kind) if !pending.all_answered() => {
                        let reply = match kind {
                            0 => error("MOVED 0 h:2"),
                            1 => error("CLUSTERDOWN"),
                            _ => Reply::Integer(1),
                        };
                        pending.answered(reply, now);
                    }
                    Step::Answer(_) => {}
                    Step::Break => pending.broke(&closed(), now),
                    Step::NoWay => pending.no_way("nobody", now),
                }
                prop_assert!(pending.waiting.len() + pending.sent.len() <= MOST_UNANSWERED);
            }
            let due = pending.next;
            pending.broke(&closed(), now);
            let waiting: Vec<u64> = pending.waiting.iter().map(|attempt| attempt.number).collect();
            let (ledger, _) = pending.close();
            let mut numbers: Vec<u64> = ledger.writes.iter().map(|write| write.number).collect();
            numbers.extend(waiting);
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..due).collect::<Vec<_>>());
            for write in &ledger.writes {
                let was_sent = sent.contains(&write.number);
                prop_assert!(was_sent || matches!(write.fate, Fate::Unsent(_)), "{:?}", write);
            }
        }
    }
}

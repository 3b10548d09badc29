//! Clients of one server each, which stay with it whatever it answers: what each side of a partition tells its own.

use crate::cluster::connection::LinkError;
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::context::Context;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The pause between two writes of a client.
const PACE: Duration = Duration::from_millis(20);

/// How long `WAIT` is given, in milliseconds.
const LIMIT: &str = "300";

/// What a client was told of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is done.
    Done,
    /// It is not done.
    Refused(String),
    /// Nothing, by a server that hung up or was silent.
    Nothing(String),
    /// Nothing, since the way to the server broke: nothing is known about the server itself.
    Unreachable(String),
}

impl Told {
    /// What an error tells of the server. Where the way to it is not direct, whatever ends a connection, or keeps an answer
    /// back, may have happened on the way.
    fn of(error: &LinkError, direct: bool) -> Self {
        match error {
            LinkError::Closed { .. } | LinkError::TimedOut { .. } if !direct => Self::Unreachable(error.to_string()),
            LinkError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            LinkError::Refused { .. }
            | LinkError::Closed { .. }
            | LinkError::TimedOut { .. }
            | LinkError::Nonsense { .. } => Self::Nothing(error.to_string()),
        }
    }
}

/// One write.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What was appended: no other write appends the same.
    pub value: String,
    /// When it was sent.
    pub sent: Instant,
    /// When the answer was there.
    pub answered: Instant,
    /// The answer.
    pub told: Told,
}

/// What a client did, from the first write to the last.
#[derive(Debug)]
pub struct Client {
    /// The server that it stayed with.
    pub member: Member,
    attempts: Vec<Attempt>,
}

impl Client {
    /// Its writes, in order.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The writes of which it was told that they are done.
    pub fn done(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.told == Told::Done)
    }
}

/// What `WAIT 1` answered after a write that was acknowledged.
#[derive(Clone, Debug)]
pub struct Confirmation {
    /// When the write before it was sent.
    pub written: Instant,
    /// When `WAIT` had answered.
    pub answered: Instant,
    /// What.
    pub reply: Reply,
}

/// A client at work: it appends to a list all the time.
pub(super) struct Writing {
    side: String,
    member: Member,
    key: String,
    attempts: Mutex<Vec<Attempt>>,
}

impl Writing {
    /// A client of `member` that appends to `key`; the values of each `side` are its own.
    pub(super) fn new(side: String, member: Member, key: String) -> Self {
        Self {
            side,
            member,
            key,
            attempts: Mutex::default(),
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn into_client(self) -> Client {
        Client {
            member: self.member,
            attempts: self.attempts.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// What the last write was told, where none has been done yet.
    pub(super) fn idle(&self) -> Option<String> {
        let attempts = lock(&self.attempts);
        let idle = attempts.iter().all(|attempt| attempt.told != Told::Done);
        idle.then(|| self.last(&attempts))
    }

    /// Whether its last write was done, and sent after an instant; else what it was told.
    pub(super) fn taken_since(&self, since: Instant) -> Result<(), String> {
        let attempts = lock(&self.attempts);
        match attempts.last() {
            Some(last) if last.told == Told::Done && last.sent > since => Ok(()),
            _ => Err(self.last(&attempts)),
        }
    }

    /// Its writes that were done and are not among what is held, each with the server that had taken it.
    pub(super) fn lost(&self, held: &[String]) -> Vec<String> {
        lost(&self.member, &lock(&self.attempts), held)
    }

    fn last(&self, attempts: &[Attempt]) -> String {
        let told = match attempts.last().map(|attempt| &attempt.told) {
            None => "no write has been answered yet",
            Some(Told::Done) => "the last write was done",
            Some(Told::Refused(text) | Told::Nothing(text) | Told::Unreachable(text)) => text,
        };
        format!("{}: {told}", self.member.name)
    }

    /// Writes until it is dropped.
    pub(super) async fn on(&self, cx: &Context) {
        let direct = cx.shared().target.detour().is_zero();
        let mut connection = None;
        for number in 0_u64.. {
            let value = format!("{}-{number}", self.side);
            let sent = Instant::now();
            let told = match cx
                .ask_kept(&self.member, &mut connection, &["RPUSH", &self.key, &value])
                .await
            {
                Ok(Reply::Integer(_)) => Told::Done,
                Ok(reply) => Told::Refused(reply.to_string()),
                Err(error) => Told::of(&error, direct),
            };
            lock(&self.attempts).push(Attempt {
                value,
                sent,
                answered: Instant::now(),
                told,
            });
            tokio::time::sleep(PACE).await;
        }
    }
}

fn lost(member: &Member, attempts: &[Attempt], held: &[String]) -> Vec<String> {
    let held: BTreeSet<&str> = held.iter().map(String::as_str).collect();
    let done = attempts.iter().filter(|attempt| attempt.told == Told::Done);
    done.filter(|attempt| !held.contains(attempt.value.as_str()))
        .map(|attempt| format!("{}, acknowledged by {}", attempt.value, member.name))
        .collect()
}

/// A client at work: it has each of its writes confirmed by a replica.
pub(super) struct Waiting {
    member: Member,
    key: String,
    confirmations: Mutex<Vec<Confirmation>>,
}

impl Waiting {
    pub(super) fn new(member: Member, key: String) -> Self {
        Self {
            member,
            key,
            confirmations: Mutex::default(),
        }
    }

    pub(super) fn into_confirmations(self) -> Vec<Confirmation> {
        self.confirmations.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until it is dropped.
    pub(super) async fn on(&self, cx: &Context) {
        let mut connection = None;
        loop {
            let written = Instant::now();
            let set = cx
                .ask_kept(&self.member, &mut connection, &["SET", &self.key, "1"])
                .await;
            // `WAIT` after a refusal would speak of the write before it.
            if set.is_ok_and(|reply| reply.is_ok())
                && let Ok(reply) = cx.ask_kept(&self.member, &mut connection, &["WAIT", "1", LIMIT]).await
            {
                lock(&self.confirmations).push(Confirmation {
                    written,
                    answered: Instant::now(),
                    reply,
                });
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connection::Address;
    use rstest::rstest;

    /// An error of each kind.
    fn error(kind: &str) -> LinkError {
        let address = Address::new("h", 1);
        let (command, reason) = ("RPUSH".to_owned(), kind.to_owned());
        match kind {
            "refused" => LinkError::Refused { address, reason },
            "unreachable" => LinkError::Unreachable { address, reason },
            "closed" => LinkError::Closed {
                address,
                command,
                got: None,
            },
            "late" => LinkError::TimedOut {
                address,
                command,
                after: Duration::from_secs(5),
                got: None,
            },
            _ => LinkError::Nonsense {
                address,
                command,
                reason,
            },
        }
    }

    #[rstest]
    #[case("closed", true, true)]
    #[case("closed", false, false)]
    #[case("late", true, true)]
    #[case("late", false, false)]
    #[case("refused", true, true)]
    #[case("refused", false, true)]
    #[case("nonsense", true, true)]
    #[case("nonsense", false, true)]
    #[case("unreachable", true, false)]
    #[case("unreachable", false, false)]
    fn an_error_tells_of_the_server_where_nobody_else_can_cause_it(
        #[case] kind: &str,
        #[case] direct: bool,
        #[case] of_the_server: bool,
    ) {
        let error = error(kind);
        let expected = match of_the_server {
            true => Told::Nothing(error.to_string()),
            false => Told::Unreachable(error.to_string()),
        };
        assert_eq!(Told::of(&error, direct), expected);
    }

    #[rstest]
    #[case::held(Told::Done, &["1", "7"], &[])]
    #[case::not_held(Told::Done, &["1"], &["7, acknowledged by a"])]
    #[case::refused(Told::Refused("-CLUSTERDOWN".into()), &["1"], &[])]
    #[case::of_unknown_fate(Told::Nothing("silence".into()), &["1"], &[])]
    fn what_was_done_and_is_not_held_is_lost(#[case] told: Told, #[case] held: &[&str], #[case] lost_writes: &[&str]) {
        let now = Instant::now();
        let attempt = Attempt {
            value: "7".into(),
            sent: now,
            answered: now,
            told,
        };
        let member = Member {
            name: "a".into(),
            address: Address::new("127.0.0.1", 1),
        };
        let held: Vec<String> = held.iter().map(|value| (*value).to_owned()).collect();
        assert_eq!(lost(&member, &[attempt], &held), lost_writes);
    }
}

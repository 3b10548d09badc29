//! One writer at a rate, on a connection of its own: sends what is due, many writes on their way at once, and takes the
//! answers as they come.

use super::pending::{Onward, Pending};
use super::route::{Route, open};
use super::{Ledger, PACE, PATIENCE};
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::target::Target;
use futures::FutureExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, sleep_until};

/// A sending that took longer than this was held up by the other side.
const HELD_UP: Duration = Duration::from_millis(5);

/// Whom a writer writes to.
pub(super) enum Way {
    /// One node, whatever it is at the moment: a redirection is a refusal.
    Node { target: Arc<dyn Target>, node: Member },
    /// The owner of the key, wherever redirections lead.
    Owner { route: Box<Route>, key: String },
}

impl Way {
    /// A connection, to `toward` where an owner was told. Nothing is written before there is one.
    async fn open(&mut self, toward: Option<Address>) -> Result<Connection, String> {
        match self {
            Self::Node { target, node } => {
                // A server that was replaced has its name still, but perhaps another address.
                if let Ok(members) = target.members().await
                    && let Some(now) = members.into_iter().find(|member| member.name == node.name)
                {
                    *node = now;
                }
                let opened = open(&**target, PATIENCE, &node.address).await;
                opened.map_err(|error| error.to_string())
            }
            Self::Owner { route, key } => {
                route.connection = match toward {
                    Some(owner) => open(&*route.target, PATIENCE, &owner).await.ok(),
                    None => None,
                };
                match route.follow(&["EXISTS", key]).await {
                    Ok(Reply::Integer(_)) => route.connection.take().ok_or_else(|| "no owner was found".into()),
                    Ok(reply) => Err(reply.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    }
}

/// Writes until it is stopped; `first` is told when a write is acknowledged. What was written, and by how much the suite
/// itself was late at most.
pub(super) async fn write_on(
    mut way: Way,
    mut pending: Pending,
    mut stopped: watch::Receiver<bool>,
    first: oneshot::Sender<()>,
) -> (Ledger, Duration) {
    let mut first = Some(first);
    let mut toward = None;
    let mut served = true;
    while !ended(&stopped) {
        let mut opening = Box::pin(async {
            if !served {
                sleep(PACE).await;
            }
            way.open(toward.take()).await
        });
        let opened = loop {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => return pending.close(),
                opened = &mut opening => break opened,
                () = sleep_until(pending.next_due().into()) => pending.fall_due(Instant::now()),
            }
        };
        drop(opening);
        match opened {
            Ok(connection) => {
                let before = pending.acked();
                let mut stream = Stream {
                    connection,
                    pending: &mut pending,
                    onward: Onward::Stay,
                };
                stream.write_on(&mut stopped, &mut first).await;
                if let Onward::To(owner) = stream.onward {
                    toward = Some(owner);
                }
                served = pending.acked() > before || toward.is_some();
            }
            Err(why) => {
                served = false;
                pending.no_way(&why, Instant::now());
            }
        }
    }
    pending.close()
}

/// Whether the writer was stopped, or nobody is left who could.
fn ended(stopped: &watch::Receiver<bool>) -> bool {
    *stopped.borrow() || stopped.has_changed().is_err()
}

/// The writing on one connection.
struct Stream<'a> {
    connection: Connection,
    pending: &'a mut Pending,
    /// Where to go from here, once all that was sent is answered.
    onward: Onward,
}

impl Stream<'_> {
    /// Writes until there is a reason to leave, or the end, and every write has its answer or the connection is broken.
    async fn write_on(&mut self, stopped: &mut watch::Receiver<bool>, first: &mut Option<oneshot::Sender<()>>) {
        let mut free = false;
        loop {
            let stopping = ended(stopped);
            let leaving = stopping || self.onward != Onward::Stay;
            if !leaving {
                self.pending.fall_due(Instant::now());
                match self.send(free).await {
                    Ok(took) => free = took < HELD_UP,
                    Err(error) => return self.pending.broke(&error, Instant::now()),
                }
            } else if self.pending.all_answered() {
                return;
            }
            let unanswered = self.pending.unanswered_since();
            let received = tokio::select! {
                biased;
                received = self.connection.receive(), if unanswered.is_some() => Some(received),
                () = sleep_until(self.pending.next_due().into()), if !stopping => {
                    self.pending.fall_due(Instant::now());
                    None
                }
                _ = stopped.wait_for(|stop| *stop), if !stopping => None,
            };
            match received {
                Some(Ok(reply)) => self.take(reply),
                Some(Err(error)) => return self.pending.broke(&error, Instant::now()),
                None => {}
            }
            while !self.pending.all_answered() {
                match self.connection.receive().now_or_never() {
                    Some(Ok(reply)) => self.take(reply),
                    Some(Err(error)) => return self.pending.broke(&error, Instant::now()),
                    None => break,
                }
            }
            if self.pending.acked() > 0
                && let Some(first) = first.take()
            {
                // Nobody waits for it any more when the start has already failed.
                let _ = first.send(());
            }
            if let Some(since) = self.pending.unanswered_since()
                && since.elapsed() > PATIENCE
            {
                let error = LinkError::TimedOut {
                    address: self.connection.address().clone(),
                    command: "RPUSH".into(),
                    after: PATIENCE,
                    got: self.connection.unread(),
                };
                return self.pending.broke(&error, Instant::now());
            }
        }
    }

    /// Sends what is due; how long that took.
    async fn send(&mut self, free: bool) -> Result<Duration, LinkError> {
        let began = Instant::now();
        let commands = self.pending.take_for_sending(began, free);
        if !commands.is_empty() {
            self.connection.send_all(&commands).await?;
        }
        Ok(began.elapsed())
    }

    fn take(&mut self, reply: Reply) {
        match self.pending.answered(reply, Instant::now()) {
            Onward::Stay => {}
            onward => self.onward = onward,
        }
    }
}

//! A writer that waits for each answer before it writes again, one ledger a slot: a careful client of the whole cluster.

use super::route::Route;
use super::{Fate, LIST, Ledger, PACE, PATIENCE, Record, Write, not_begun, note_gaps};
use crate::cluster::connection::Address;
use crate::context::Context;
use crate::timeline::Timeline;
use crate::verdict::Stop;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

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
    timeline: Arc<Timeline>,
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
            timeline: cx.timeline().clone(),
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
                    return Err(not_begun(
                        &record.ledgers,
                        *slot,
                        (record.began, record.ended),
                        patience,
                    ));
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
        let ended = Instant::now();
        note_gaps(&self.timeline, &ledgers, (self.began, ended));
        Record {
            ledgers,
            began: self.began,
            ended,
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
        let due = Instant::now();
        let outcome = route.follow(&command).await;
        let fate = Fate::of(outcome, route.knows_owner);
        if fate == Fate::Acked
            && let Some(first) = first.take()
        {
            // Nobody waits for it any more when the start has already failed.
            let _ = first.send(());
        }
        ledger.writes.push(Write {
            number,
            due,
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

//! An interrupt in the middle of a case, or its time being over: work that has a clean-up is dropped, its clean-up is done, and
//! only then the run goes on, or ends. Clean-ups lie within each other; the innermost is done first. All is boxed: a future that holds another by value
//! several times, level after level, outgrows a thread's stack.

use crate::verdict::Stop;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

tokio::task_local! {
    /// What the present future is a part of; nothing in a clean-up, which no interrupt stops, and outside of a run.
    static AROUND: Option<Arc<Work>>;
}

/// Work that an interrupt stops.
struct Work {
    /// Whether there was an interrupt.
    asked: watch::Receiver<bool>,
    /// How many parts of it must end in order before it can be dropped.
    within: watch::Sender<usize>,
}

impl Work {
    fn new(asked: watch::Receiver<bool>) -> Arc<Self> {
        let within = watch::Sender::new(0);
        Arc::new(Self { asked, within })
    }

    /// Does `work`; after an interrupt drops it, as soon as no part of it must end in order any more.
    async fn run<T>(self: Arc<Self>, work: Pin<Box<impl Future<Output = T>>>) -> Option<T> {
        let ends = async {
            until(self.asked.clone(), |asked| *asked).await;
            until(self.within.subscribe(), |parts| *parts == 0).await;
        };
        tokio::select! {
            // The interrupt first: what would come next is no longer begun.
            biased;
            () = ends => None,
            output = AROUND.scope(Some(self.clone()), work) => Some(output),
        }
    }
}

/// A part of some work that must end in order; it has when this is dropped.
struct Part(Arc<Work>);

impl Part {
    fn of(work: &Arc<Work>) -> Self {
        work.within.send_modify(|parts| *parts += 1);
        Self(work.clone())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.within.send_modify(|parts| *parts -= 1);
    }
}

/// Ends when what is watched is so; never, where nobody changes it any more.
async fn until<T>(mut watched: watch::Receiver<T>, so: impl Fn(&T) -> bool) {
    while !so(&watched.borrow_and_update()) {
        if watched.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn around() -> Option<Arc<Work>> {
    AROUND.try_with(Option::clone).ok().flatten()
}

/// Whether an interrupt has asked for the end of what is being done.
pub(crate) fn is_asked() -> bool {
    around().is_some_and(|around| *around.asked.borrow())
}

/// Does all the work of a run; `None` where an interrupt, which `asked` tells, ended it.
pub(crate) fn until_asked<T>(
    asked: watch::Receiver<bool>,
    work: impl Future<Output = T>,
) -> impl Future<Output = Option<T>> {
    Work::new(asked).run(Box::pin(work))
}

/// How a part of a run's work ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended<T> {
    /// By itself.
    With(T),
    /// By an interrupt.
    Interrupted,
    /// Its time was over.
    TooLate {
        /// Whether its clean-ups ended in as much time again.
        cleaned_up: bool,
    },
}

/// Does a part of a run's work that by itself, whatever runs beside it, is stopped by an interrupt, and when its time is over.
/// Its clean-ups have as much time again.
pub(crate) fn within<T>(limit: Duration, work: impl Future<Output = T>) -> impl Future<Output = Ended<T>> {
    stoppable(limit, Box::pin(work))
}

async fn stoppable<T>(limit: Duration, work: Pin<Box<impl Future<Output = T>>>) -> Ended<T> {
    let around = around();
    let _part = around.as_ref().map(Part::of);
    let (ask, asked) = watch::channel(false);
    let late = AtomicBool::new(false);
    let asks = async {
        let interrupt = async {
            match &around {
                Some(around) => until(around.asked.clone(), |asked| *asked).await,
                None => std::future::pending().await,
            }
        };
        if tokio::time::timeout(limit, interrupt).await.is_err() {
            late.store(true, Ordering::Relaxed);
        }
        ask.send_modify(|asked| *asked = true);
        tokio::time::sleep(limit).await;
    };
    let (ended, cleaned_up) = tokio::select! {
        // What was asked before is heard before anything is begun.
        biased;
        () = asks => (None, false),
        ended = Work::new(asked).run(work) => (ended, true),
    };
    match ended {
        Some(output) => Ended::With(output),
        None if late.into_inner() => Ended::TooLate { cleaned_up },
        None => Ended::Interrupted,
    }
}

/// Runs `work`, and `cleanup` after it, whatever came of it; the first error counts. An interrupt drops `work`, and not
/// `cleanup`; what would come after both is then not begun.
///
/// # Errors
/// Those of both.
pub fn with_cleanup<T>(
    work: impl Future<Output = Result<T, Stop>>,
    cleanup: impl Future<Output = Result<(), Stop>>,
) -> impl Future<Output = Result<T, Stop>> {
    in_order(Box::pin(work), Box::pin(cleanup))
}

async fn in_order<T>(
    work: Pin<Box<impl Future<Output = Result<T, Stop>>>>,
    cleanup: Pin<Box<impl Future<Output = Result<(), Stop>>>>,
) -> Result<T, Stop> {
    let Some(around) = around() else {
        let outcome = work.await;
        let cleaned = cleanup.await;
        return both(outcome, cleaned);
    };
    let part = Part::of(&around);
    let outcome = Work::new(around.asked.clone()).run(work).await;
    let cleaned = AROUND.scope(None, cleanup).await;
    let asked = *around.asked.borrow();
    drop(part);
    match outcome {
        Some(outcome) if !asked => both(outcome, cleaned),
        // What is around is dropped now, and this with it.
        Some(_) | None => std::future::pending().await,
    }
}

fn both<T>(outcome: Result<T, Stop>, cleaned: Result<(), Stop>) -> Result<T, Stop> {
    let value = outcome?;
    cleaned?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    type Done = Mutex<Vec<&'static str>>;

    const LONG: Duration = Duration::from_secs(60);

    async fn note(done: &Done, what: &'static str) -> Result<(), Stop> {
        tokio::task::yield_now().await;
        done.lock().unwrap().push(what);
        Ok(())
    }

    #[tokio::test]
    async fn an_interrupt_has_every_clean_up_done_the_innermost_first() {
        let done = Done::default();
        let (ask, asked) = watch::channel(false);
        let work = within(LONG, async {
            let inner = async {
                let endless = std::future::pending::<Result<(), Stop>>();
                let _ = with_cleanup(endless, note(&done, "inner")).await;
                note(&done, "after the inner one").await
            };
            // A clean-up may hold another, and is not stopped either.
            let outer = with_cleanup(note(&done, "outer"), note(&done, "outer's own"));
            let _ = with_cleanup(inner, outer).await;
            note(&done, "after the outer one").await
        });
        let signal = async {
            tokio::task::yield_now().await;
            ask.send_modify(|asked| *asked = true);
            std::future::pending::<()>().await
        };
        tokio::select! {
            ended = until_asked(asked, work) => assert!(matches!(ended, None | Some(Ended::Interrupted))),
            () = signal => {}
        }
        assert_eq!(*done.lock().unwrap(), ["inner", "outer", "outer's own"]);
    }

    #[tokio::test]
    async fn without_an_interrupt_all_is_done() {
        let done = Done::default();
        let (_ask, asked) = watch::channel(false);
        let work = within(LONG, with_cleanup(note(&done, "work"), note(&done, "clean-up")));
        let ended = until_asked(asked, work).await;
        assert!(matches!(ended, Some(Ended::With(Ok(())))));
        let outside = with_cleanup(note(&done, "outside"), note(&done, "of a run")).await;
        assert!(outside.is_ok());
        assert_eq!(*done.lock().unwrap(), ["work", "clean-up", "outside", "of a run"]);
    }

    #[tokio::test]
    async fn nothing_is_begun_after_an_interrupt() {
        let done = Done::default();
        let (_ask, asked) = watch::channel(true);
        let ended = until_asked(asked, within(LONG, note(&done, "work"))).await;
        assert!(matches!(ended, None | Some(Ended::Interrupted)));
        assert!(done.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_case_whose_time_is_over_has_its_clean_ups_done_and_no_other_is_stopped() {
        let done = Done::default();
        let (_ask, asked) = watch::channel(false);
        let work = async {
            let endless = std::future::pending::<Result<(), Stop>>();
            let late = within(
                Duration::from_millis(20),
                with_cleanup(endless, note(&done, "clean-up")),
            );
            let other = within(LONG, async {
                tokio::time::sleep(Duration::from_millis(60)).await;
                note(&done, "another").await
            });
            let (late, other) = tokio::join!(late, other);
            assert!(matches!(late, Ended::TooLate { cleaned_up: true }));
            assert!(matches!(other, Ended::With(Ok(()))));
            is_asked()
        };
        assert_eq!(until_asked(asked, work).await, Some(false), "the run goes on");
        assert_eq!(*done.lock().unwrap(), ["clean-up", "another"]);
    }

    #[tokio::test]
    async fn clean_ups_that_do_not_end_are_left() {
        let endless = std::future::pending::<Result<(), Stop>>;
        let late = within(Duration::from_millis(20), with_cleanup(endless(), endless()));
        assert!(matches!(late.await, Ended::TooLate { cleaned_up: false }));
    }
}

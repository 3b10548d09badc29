//! What is going on, told while it goes on: what is waited for, how long, and of at most how long. Standard error only.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where progress is told. Cheap to clone.
#[derive(Clone)]
pub struct Progress {
    sink: Arc<dyn Sink>,
}

/// What progress is told to.
pub trait Sink: Send + Sync {
    /// Something happened: a line that stays.
    fn line(&self, text: &str);
    /// What is being waited for now, since when, of at most how long; a terminal shows it on a line that goes away.
    fn waiting(&self, what: &str, elapsed: Duration, bound: Duration);
    /// The wait is over.
    fn done(&self);
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    /// Progress told to `sink`.
    pub fn new(sink: impl Sink + 'static) -> Self {
        Self { sink: Arc::new(sink) }
    }

    /// Progress on standard error: live on a terminal, plain lines elsewhere.
    pub fn stderr() -> Self {
        if std::io::stderr().is_terminal() && std::env::var_os("CI").is_none() {
            Self::new(Live::default())
        } else {
            Self::new(Plain::default())
        }
    }

    /// Progress that is told to nobody.
    pub fn silent() -> Self {
        Self::new(Silent)
    }

    /// Tells that something happened.
    pub fn line(&self, text: impl AsRef<str>) {
        self.sink.line(text.as_ref());
    }

    /// Awaits `work`, telling every second what is waited for, how long, of at most how long. The bound is only told:
    /// `work` keeps it itself.
    pub async fn during<F: Future>(&self, what: &str, bound: Duration, work: F) -> F::Output {
        let started = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.tick().await;
        // Boxed: this stands around the longest pieces of work there are.
        let mut work = Box::pin(work);
        loop {
            tokio::select! {
                output = &mut work => {
                    self.sink.done();
                    return output;
                }
                _ = tick.tick() => self.sink.waiting(what, started.elapsed(), bound),
            }
        }
    }
}

/// Writes a line to standard error. Where nobody can read it any more (a terminal that went away), the run goes on without.
fn tell(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

struct Silent;

impl Sink for Silent {
    fn line(&self, _text: &str) {}
    fn waiting(&self, _what: &str, _elapsed: Duration, _bound: Duration) {}
    fn done(&self) {}
}

/// Plain lines, for logs: a wait is told when it begins to be long, then ever more rarely.
#[derive(Default)]
struct Plain {
    told: std::sync::Mutex<std::collections::BTreeMap<String, u64>>,
}

impl Sink for Plain {
    fn line(&self, text: &str) {
        tell(text);
    }

    fn waiting(&self, what: &str, elapsed: Duration, bound: Duration) {
        let seconds = elapsed.as_secs();
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let last = told.entry(what.to_owned()).or_default();
        if seconds < *last {
            *last = 0;
        }
        if seconds >= *last + 15 {
            *last = seconds;
            tell(&format!(
                "  waiting: {what} ({seconds} s of at most {} s)",
                bound.as_secs()
            ));
        }
    }

    fn done(&self) {}
}

/// One line at the bottom of a terminal that says what is waited for.
#[derive(Default)]
struct Live {
    bar: std::sync::Mutex<Option<indicatif::ProgressBar>>,
}

impl Live {
    fn bar(&self) -> std::sync::MutexGuard<'_, Option<indicatif::ProgressBar>> {
        self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Sink for Live {
    fn line(&self, text: &str) {
        match &*self.bar() {
            Some(bar) => bar.suspend(|| tell(text)),
            None => tell(text),
        }
    }

    fn waiting(&self, what: &str, elapsed: Duration, bound: Duration) {
        let mut bar = self.bar();
        let bar = bar.get_or_insert_with(indicatif::ProgressBar::new_spinner);
        bar.set_message(format!(
            "{what} ({} s of at most {} s)",
            elapsed.as_secs(),
            bound.as_secs()
        ));
        bar.tick();
    }

    fn done(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }
}

//! What happened during a case, in one order: what the suite did, what each node said and when it changed, the gaps of the
//! workload, and Kubernetes' events. Nothing here judges.

mod changes;
mod observer;

pub use observer::observe;

use crate::target::Event;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The most entries that are kept: a cluster that never comes to rest must not fill the disk.
const MOST_ENTRIES: usize = 5000;

/// Who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The suite, of what it did itself.
    Suite,
    /// A node, by its name.
    Node(String),
    /// The continuous writers.
    Workload,
    /// Kubernetes, by an event.
    Kubernetes,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Suite => "suite",
            Self::Node(name) => name,
            Self::Workload => "workload",
            Self::Kubernetes => "kubernetes",
        })
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When, in milliseconds since the case began; what Kubernetes says of the second in which it began may be before it.
    pub at: i64,
    /// Who says so.
    pub source: Source,
    /// What.
    pub what: String,
}

/// The timeline of one case.
#[derive(Debug)]
pub struct Timeline {
    began: Instant,
    clock: Timestamp,
    entries: Mutex<(Vec<Entry>, usize)>,
}

impl Default for Timeline {
    /// An empty one, that begins now.
    fn default() -> Self {
        Self {
            began: Instant::now(),
            clock: Timestamp::now(),
            entries: Mutex::default(),
        }
    }
}

impl Timeline {
    /// Adds what happens now.
    pub fn note(&self, source: Source, what: impl Into<String>) {
        self.note_at(Instant::now(), source, what);
    }

    /// Adds what happened at an instant.
    pub fn note_at(&self, at: Instant, source: Source, what: impl Into<String>) {
        let after = i64::try_from(at.saturating_duration_since(self.began).as_millis());
        self.push(after.unwrap_or(i64::MAX), source, what.into());
    }

    /// Adds those of Kubernetes' events that are of the case's time.
    pub fn note_events(&self, events: &[Event]) {
        for event in events {
            let Some(at) = event.at else { continue };
            let after = at.as_millisecond() - self.clock.as_millisecond();
            // Most events are told to the second only, without its parts.
            if after > -1000 {
                self.push(after, Source::Kubernetes, event.to_string());
            }
        }
    }

    /// All entries, in the order of their instants; of one instant, in the order in which they were noted.
    pub fn entries(&self) -> Vec<Entry> {
        let (mut entries, more) = self.lock().clone();
        if more > 0 {
            let at = entries.iter().map(|entry| entry.at).max().unwrap_or_default();
            entries.push(Entry {
                at,
                source: Source::Suite,
                what: format!("{more} more entries were not kept"),
            });
        }
        entries.sort_by_key(|entry| entry.at);
        entries
    }

    /// When the case began, by the clock.
    pub fn clock(&self) -> Timestamp {
        self.clock
    }

    fn push(&self, at: i64, source: Source, what: String) {
        let mut entries = self.lock();
        if entries.0.len() < MOST_ENTRIES {
            entries.0.push(Entry { at, source, what });
        } else {
            entries.1 += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Entry>, usize)> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries as lines of text: the seconds since the case began, who, what.
pub fn text(began: Timestamp, entries: &[Entry]) -> String {
    let widest = entries.iter().map(|entry| entry.source.to_string().chars().count());
    let width = widest.max().unwrap_or_default();
    let mut lines = vec![format!("seconds since {began:.3}")];
    if entries.is_empty() {
        lines.push("nothing was noted".into());
    }
    for entry in entries {
        // One thing, one line: what a server said may have several.
        let what: Vec<&str> = entry
            .what
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let seconds = entry.at as f64 / 1000.0;
        lines.push(format!(
            "{seconds:>9.3}  {:<width$}  {}",
            entry.source.to_string(),
            what.join("; ")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use std::time::Duration;

    fn event(at: Option<Timestamp>, reason: &str) -> Event {
        Event {
            kind: "Normal".into(),
            reason: reason.into(),
            object: "Pod/redis-cluster-0".into(),
            message: format!("{reason} it\n").to_lowercase(),
            count: 2,
            at,
        }
    }

    #[test]
    fn all_sources_stand_in_one_order() {
        let timeline = Timeline {
            clock: "2026-01-02T03:04:05.600Z".parse().unwrap(),
            ..Timeline::default()
        };
        let at = |millis| timeline.began + Duration::from_millis(millis);
        timeline.note_at(at(8350), Source::Workload, "slot 7: acknowledged again");
        timeline.note_at(at(20), Source::Suite, "redis-cluster-0 is to be killed");
        timeline.note_at(
            at(5020),
            Source::Node("redis-cluster-10".into()),
            "flags redis-cluster-0 fail? (PFAIL)",
        );
        timeline.note_at(at(5020), Source::Node("redis-cluster-1".into()), "says\n  two things\n");
        let second = |text: &str| Some(text.parse().unwrap());
        timeline.note_events(&[
            event(second("2026-01-02T03:04:04Z"), "TooEarly"),
            event(second("2026-01-02T03:04:05Z"), "Killing"),
            event(None, "Timeless"),
            event(second("2026-01-02T03:04:11Z"), "Started"),
        ]);
        let expected = "\
seconds since 2026-01-02T03:04:05.600Z
   -0.600  kubernetes        Normal x2 Pod/redis-cluster-0 Killing: killing it
    0.020  suite             redis-cluster-0 is to be killed
    5.020  redis-cluster-10  flags redis-cluster-0 fail? (PFAIL)
    5.020  redis-cluster-1   says; two things
    5.400  kubernetes        Normal x2 Pod/redis-cluster-0 Started: started it
    8.350  workload          slot 7: acknowledged again";
        assert_eq!(text(timeline.clock(), &timeline.entries()), expected);
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let began = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(
            text(began, &[]),
            "seconds since 2026-01-02T03:04:05.000Z\nnothing was noted"
        );
    }

    #[test]
    fn it_has_an_end_and_says_so() {
        let timeline = Timeline::default();
        for _ in 0..MOST_ENTRIES + 3 {
            timeline.note(Source::Suite, "again");
        }
        let entries = timeline.entries();
        assert_eq!(entries.len(), MOST_ENTRIES + 1);
        assert_eq!(entries[MOST_ENTRIES].what, "3 more entries were not kept");
    }

    #[test]
    fn an_entry_is_for_programs_too() {
        let entry = Entry {
            at: 20,
            source: Source::Node("a".into()),
            what: "is a master".into(),
        };
        let json = serde_json::to_string(&entry).unwrap();
        assert_eq!(json, r#"{"at":20,"source":"a","what":"is a master"}"#);
    }
}

//! What happened during a case, in one order: what the suite did, what each node said and when it changed, the gaps of the
//! workload, and Kubernetes' events. Nothing here judges.

mod changes;
mod observer;

pub use observer::observe;

use crate::report::course::{Course, Gap, Moment};
use crate::target::Event;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The most entries that are kept: a cluster that never comes to rest must not fill the disk.
const MOST_ENTRIES: usize = 5000;
/// How much before the first gap of the workload and after the last one belongs to its course, in seconds.
const AROUND: f64 = 3.0;
/// The most moments of a course; all entries are in the timeline's own file.
const MOST_MOMENTS: usize = 40;

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

/// A time without an acknowledged write to a slot.
#[derive(Clone, Debug)]
pub struct Silence {
    /// The slot.
    pub slot: u16,
    /// The last acknowledged write before it.
    pub from: Instant,
    /// The first one after it, or the end of the writing.
    pub until: Instant,
    /// Whether a write was acknowledged at its end.
    pub ended: bool,
    /// What the last attempt within it met.
    pub met: String,
}

/// The timeline of one case.
#[derive(Debug)]
pub struct Timeline {
    began: Instant,
    clock: Timestamp,
    entries: Mutex<(Vec<Entry>, usize)>,
    silences: Mutex<Vec<Silence>>,
}

impl Default for Timeline {
    /// An empty one, that begins now.
    fn default() -> Self {
        Self {
            began: Instant::now(),
            clock: Timestamp::now(),
            entries: Mutex::default(),
            silences: Mutex::default(),
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

    /// Adds a time without an acknowledged write to a slot: where it begins, and where it ends.
    pub fn note_silence(&self, silence: Silence) {
        let (slot, seconds) = (silence.slot, (silence.until - silence.from).as_secs_f64());
        let met = &silence.met;
        self.note_at(
            silence.from,
            Source::Workload,
            format!("slot {slot}: the last acknowledged write for {seconds:.3} s; at its end: {met}"),
        );
        self.note_at(
            silence.until,
            Source::Workload,
            match silence.ended {
                true => format!("slot {slot}: a write is acknowledged again, after {seconds:.3} s"),
                false => format!("slot {slot}: the writing ends, with no acknowledged write for {seconds:.3} s"),
            },
        );
        self.silences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(silence);
    }

    /// What happened around the gaps of the workload, out of `entries`; nothing where it met none. `clean` takes what is
    /// secret out of a text; that of the entries has been taken out already.
    pub fn course(&self, entries: &[Entry], clean: impl Fn(&str) -> String) -> Option<Course> {
        let silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let seconds = |at: Instant| {
            let millis = at.saturating_duration_since(self.began).as_millis();
            i64::try_from(millis).unwrap_or(i64::MAX) as f64 / 1000.0
        };
        let gaps: Vec<Gap> = silences
            .iter()
            .map(|silence| Gap {
                slot: silence.slot,
                from: seconds(silence.from),
                until: seconds(silence.until),
                ended: silence.ended,
                met: clean(&silence.met),
            })
            .collect();
        let first = gaps.iter().map(|gap| gap.from).reduce(f64::min)?;
        let last = gaps.iter().map(|gap| gap.until).reduce(f64::max)?;
        let mut told = BTreeSet::new();
        let moments = entries
            .iter()
            .filter(|entry| entry.source != Source::Workload)
            .map(|entry| (entry, entry.at as f64 / 1000.0))
            .filter(|(_, at)| (first - AROUND..=last + AROUND).contains(at))
            // What several nodes say is told once, when the first of them says it.
            .filter(|(entry, _)| !matches!(entry.source, Source::Node(_)) || told.insert(entry.what.as_str()))
            .take(MOST_MOMENTS)
            .map(|(entry, at)| Moment {
                at,
                source: entry.source.to_string(),
                what: entry.what.clone(),
            });
        Some(Course {
            moments: moments.collect(),
            gaps,
        })
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
    fn a_course_is_what_happened_around_the_gaps() {
        let timeline = Timeline::default();
        let at = |millis| timeline.began + Duration::from_millis(millis);
        let node = |name: &str| Source::Node(name.into());
        timeline.note_at(at(10), Source::Suite, "long before");
        timeline.note_at(at(9900), Source::Suite, "a is to be killed");
        timeline.note_at(at(15_000), node("b"), "flags a fail (FAIL)");
        timeline.note_at(at(15_100), node("c"), "flags a fail (FAIL)");
        timeline.note_at(at(40_000), node("c"), "long after");
        assert_eq!(timeline.course(&timeline.entries(), str::to_owned), None);
        timeline.note_silence(Silence {
            slot: 7,
            from: at(10_000),
            until: at(18_250),
            ended: true,
            met: "no hush".into(),
        });
        let course = timeline
            .course(&timeline.entries(), |text| text.replace("hush", "***"))
            .unwrap();
        let gap = Gap {
            slot: 7,
            from: 10.0,
            until: 18.25,
            ended: true,
            met: "no ***".into(),
        };
        assert_eq!(course.gaps, [gap]);
        let moments: Vec<(f64, &str)> = course
            .moments
            .iter()
            .map(|moment| (moment.at, moment.what.as_str()))
            .collect();
        assert_eq!(moments, [(9.9, "a is to be killed"), (15.0, "flags a fail (FAIL)")]);
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

//! The scorecard: figures beside their floors and bounds, and each trial on an axis of time with the writes around it.

use super::super::course::{Series, Writes};
use super::super::scorecard::{Figure, LostWrite, Scorecard, Trial};
use super::plot::{self, Axis, Label, Range, Tick};

/// How many lost writes of a trial are shown; all are in `run.json`.
const MOST_LOST: usize = 10;
/// How high a panel of writes is drawn.
const HIGH: f64 = 100.0;
/// What the scale of latencies begins with, in milliseconds.
const LEAST_LATENCY: f64 = 1.0;

/// The scorecard.
pub(super) struct Card<'a> {
    pub(super) card: &'a Scorecard,
    pub(super) figures: Vec<Row>,
    pub(super) trials: Vec<TrialOf<'a>>,
    pub(super) acked: usize,
    pub(super) refused: usize,
    pub(super) indeterminate: usize,
    pub(super) lost: usize,
    pub(super) phantom: usize,
}

/// A figure over all trials.
pub(super) struct Row {
    pub(super) words: &'static str,
    pub(super) minimum: String,
    pub(super) median: String,
    pub(super) maximum: String,
    pub(super) seen: usize,
    pub(super) floor: Option<String>,
    pub(super) bound: Option<String>,
    /// Whether the most is beyond the bound.
    pub(super) beyond: bool,
    pub(super) range: Range,
}

/// A trial.
pub(super) struct TrialOf<'a> {
    pub(super) trial: &'a Trial,
    pub(super) ticks: Vec<Tick>,
    pub(super) fault: f64,
    pub(super) marks: Vec<Mark>,
    pub(super) labels: Vec<Label>,
    pub(super) limits: Vec<Limit>,
    pub(super) panels: Vec<Panel>,
    /// Figures that are no moments: the gaps.
    pub(super) gaps: Vec<(&'static str, String)>,
    pub(super) lost: Vec<&'a LostWrite>,
    pub(super) more_lost: usize,
}

/// A moment of the failover, with its number.
pub(super) struct Mark {
    pub(super) number: usize,
    pub(super) words: &'static str,
    pub(super) time: String,
    pub(super) at: f64,
}

/// The floor or the bound of the first write.
pub(super) struct Limit {
    pub(super) word: &'static str,
    pub(super) at: f64,
    pub(super) time: String,
}

/// Writes and latencies over time, of the shard that was hit or of the others.
pub(super) struct Panel {
    pub(super) title: &'static str,
    /// The most writes of a step that were acknowledged, and that were not.
    pub(super) most: u32,
    pub(super) most_not: u32,
    /// Where the line between the two is.
    pub(super) base: f64,
    pub(super) bars: Vec<Column>,
    pub(super) latencies: Vec<Point>,
    pub(super) grid: Vec<Line>,
    pub(super) slowest: Option<String>,
    pub(super) words: String,
}

/// A bar of a step.
pub(super) struct Column {
    pub(super) class: &'static str,
    pub(super) left: f64,
    pub(super) wide: f64,
    pub(super) top: f64,
    pub(super) high: f64,
}

/// The slowest acknowledged write of a step.
pub(super) struct Point {
    pub(super) left: f64,
    pub(super) wide: f64,
    pub(super) top: f64,
}

/// A line of the scale of latencies.
pub(super) struct Line {
    pub(super) top: f64,
    pub(super) label: &'static str,
}

impl TrialOf<'_> {
    /// How well moments are known, in milliseconds.
    pub(super) fn coarsest(&self) -> String {
        format!("{:.0}", 1000.0 * self.trial.coarsest_look)
    }

    /// How late the suite itself sent writes, in milliseconds.
    pub(super) fn latest(&self) -> String {
        format!("{:.0}", 1000.0 * self.trial.latest_write)
    }
}

pub(super) fn card(card: &Scorecard) -> Card<'_> {
    let sum = |count: fn(&Trial) -> usize| card.trials.iter().map(count).sum();
    let time = |seconds: f64| format!("{seconds:.2}");
    // One scale for all, so that they can be compared.
    let ends = card
        .spread
        .values()
        .flat_map(|spread| [Some(spread.maximum), spread.floor, spread.bound]);
    let end = ends.flatten().fold(0.0, f64::max);
    let figures = card.spread.iter().map(|(figure, spread)| Row {
        words: figure.words(),
        minimum: time(spread.minimum),
        median: time(spread.median),
        maximum: time(spread.maximum),
        seen: spread.seen,
        floor: spread.floor.map(time),
        bound: spread.bound.map(time),
        beyond: spread.bound.is_some_and(|bound| spread.maximum > bound),
        range: Range::of(
            (spread.minimum, spread.median, spread.maximum),
            spread.floor,
            spread.bound,
            end,
        ),
    });
    Card {
        figures: figures.collect(),
        trials: card.trials.iter().map(|trial| of(card, trial)).collect(),
        acked: sum(|trial| trial.acked),
        refused: sum(|trial| trial.refused),
        indeterminate: sum(|trial| trial.indeterminate),
        lost: sum(|trial| trial.lost.len()),
        phantom: sum(|trial| trial.phantom.len()),
        card,
    }
}

/// Whether a figure is a moment, and not a length of time.
fn is_moment(figure: Figure) -> bool {
    match figure {
        Figure::Suspected
        | Figure::Failed
        | Figure::Election
        | Figure::Promoted
        | Figure::FirstWrite
        | Figure::FirstRead
        | Figure::Returned
        | Figure::Redundant
        | Figure::Whole => true,
        Figure::WriteGap | Figure::OtherGap | Figure::ReadyAndRefusing => false,
    }
}

fn of<'a>(card: &Scorecard, trial: &'a Trial) -> TrialOf<'a> {
    let mut moments: Vec<(Figure, f64)> = trial
        .figures
        .iter()
        .map(|(figure, at)| (*figure, *at))
        .filter(|(figure, _)| is_moment(*figure))
        .collect();
    moments.sort_by(|one, other| one.1.total_cmp(&other.1));
    let series = trial.series.as_ref();
    let from = series.map_or(-1.0, |series| series.from.min(0.0));
    let end = series.map_or(0.0, |series| series.from + series.step * series.hit.acked.len() as f64);
    let until = moments.iter().map(|(_, at)| at * 1.05).fold(end.max(1.0), f64::max);
    let axis = Axis::new(from, until);
    let lefts: Vec<f64> = moments.iter().map(|(_, at)| axis.percent(*at)).collect();
    let marks = moments.iter().enumerate().map(|(index, (figure, at))| Mark {
        number: index + 1,
        words: figure.words(),
        time: format!("{at:.2}"),
        at: axis.at(*at),
    });
    let protocol = card.spread.get(&Figure::FirstWrite);
    let limits = [
        ("floor", protocol.and_then(|spread| spread.floor)),
        ("bound", protocol.and_then(|spread| spread.bound)),
    ];
    let limits = limits.into_iter().filter_map(|(word, at)| {
        let at = at.filter(|at| axis.holds(*at))?;
        Some(Limit {
            word,
            at: axis.at(at),
            time: format!("{at:.2}"),
        })
    });
    let gaps = trial.figures.iter().filter(|(figure, _)| !is_moment(**figure));
    let panels = series.into_iter().flat_map(|series| {
        [
            ("the shard that was hit", &series.hit),
            ("all other shards", &series.others),
        ]
        .map(|(title, writes)| panel(axis, title, series, writes))
    });
    TrialOf {
        ticks: axis.ticks(),
        fault: axis.at(0.0),
        marks: marks.collect(),
        labels: plot::labels(&lefts),
        limits: limits.collect(),
        panels: panels.collect(),
        gaps: gaps
            .map(|(figure, seconds)| (figure.words(), format!("{seconds:.2} s")))
            .collect(),
        lost: trial.lost.iter().take(MOST_LOST).collect(),
        more_lost: trial.lost.len().saturating_sub(MOST_LOST),
        trial,
    }
}

fn panel(axis: Axis, title: &'static str, series: &Series, writes: &Writes) -> Panel {
    let not = |at: usize| {
        let of = |counts: &[u32]| counts.get(at).copied().unwrap_or(0);
        (of(&writes.refused), of(&writes.indeterminate))
    };
    let most = writes.acked.iter().copied().max().unwrap_or(0);
    let most_not = (0..writes.acked.len())
        .map(|at| not(at).0.saturating_add(not(at).1))
        .max()
        .unwrap_or(0);
    let scale = HIGH / f64::from(most.saturating_add(most_not).max(1));
    let base = tenths(f64::from(most) * scale);
    let place = |at: usize| {
        let left = series.from + series.step * at as f64;
        let (from, until) = (axis.at(left), axis.at(left + series.step));
        (from, tenths(until - from))
    };
    let mut bars = Vec::new();
    for (at, acked) in writes.acked.iter().enumerate() {
        let (left, wide) = place(at);
        let (refused, unknown) = not(at);
        let mut add = |class, from: f64, count: u32| {
            if count > 0 {
                bars.push(Column {
                    class,
                    left,
                    wide,
                    top: tenths(from),
                    high: tenths(f64::from(count) * scale),
                });
            }
        };
        add("acked", base - f64::from(*acked) * scale, *acked);
        add("refused", base, refused);
        add("unknown", base + f64::from(refused) * scale, unknown);
    }
    let slowest = writes.slowest.iter().flatten().copied().max();
    let decades = slowest.map_or(1.0, |most| {
        (f64::from(most.max(1)) / LEAST_LATENCY).log10().ceil().max(1.0)
    });
    let height = |millis: f64| tenths(HIGH - HIGH * (millis.max(LEAST_LATENCY) / LEAST_LATENCY).log10() / decades);
    let latencies = writes.slowest.iter().enumerate().filter_map(|(at, slowest)| {
        let (left, wide) = place(at);
        Some(Point {
            left,
            wide,
            top: height(f64::from((*slowest)?)),
        })
    });
    let scale_lines = [
        (1.0, "1 ms"),
        (10.0, "10 ms"),
        (100.0, "100 ms"),
        (1000.0, "1 s"),
        (10_000.0, "10 s"),
        (100_000.0, "100 s"),
    ];
    let grid = scale_lines
        .into_iter()
        .take(decades as usize + 1)
        .map(|(millis, label)| Line {
            top: height(millis),
            label,
        });
    let total = |counts: &[u32]| counts.iter().map(|count| u64::from(*count)).sum::<u64>();
    Panel {
        title,
        most,
        most_not,
        base,
        bars,
        latencies: latencies.collect(),
        grid: grid.collect(),
        slowest: slowest.map(|millis| format!("{millis} ms")),
        words: format!(
            "{} acknowledged, {} refused, {} of unknown fate",
            total(&writes.acked),
            total(&writes.refused),
            total(&writes.indeterminate)
        ),
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn what_was_not_acknowledged_stands_below_the_line() {
        let series = Series {
            from: 0.0,
            step: 1.0,
            hit: Writes {
                acked: vec![30, 0],
                refused: vec![0, 5],
                indeterminate: vec![0, 5],
                slowest: vec![Some(40), None],
            },
            others: Writes::default(),
        };
        let panel = panel(Axis::new(0.0, 2.0), "the shard that was hit", &series, &series.hit);
        let bars: Vec<(&str, f64, f64, f64)> = panel
            .bars
            .iter()
            .map(|bar| (bar.class, bar.left, bar.top, bar.high))
            .collect();
        assert_eq!(panel.base, 75.0);
        assert_eq!(
            bars,
            [
                ("acked", 0.0, 0.0, 75.0),
                ("refused", 500.0, 75.0, 12.5),
                ("unknown", 500.0, 87.5, 12.5)
            ]
        );
        assert_eq!(panel.latencies.len(), 1);
        let grid: Vec<(f64, &str)> = panel.grid.iter().map(|line| (line.top, line.label)).collect();
        assert_eq!(grid, [(100.0, "1 ms"), (50.0, "10 ms"), (0.0, "100 ms")]);
    }

    #[test]
    fn nothing_written_is_an_empty_panel() {
        let series = Series {
            from: 0.0,
            step: 1.0,
            hit: Writes::default(),
            others: Writes::default(),
        };
        let panel = panel(Axis::new(0.0, 1.0), "all other shards", &series, &series.others);
        assert_eq!((panel.bars.len(), panel.latencies.len(), panel.slowest), (0, 0, None));
    }
}

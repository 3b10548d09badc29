//! What the plots share: an axis of time, marks on it that do not cover each other, and numbers as people read them.

use super::super::text;

/// Plots are drawn this wide, and stretched to the page.
const WIDTH: f64 = 1000.0;
/// The most numbers on an axis.
const MOST_TICKS: f64 = 9.0;
/// How near two marks may stand, in percent of the width: as wide as one is on a narrow screen.
const NEAREST: f64 = 7.0;

/// An axis of time, from left to right, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    from: f64,
    until: f64,
}

/// A number on the axis.
#[derive(Debug, PartialEq)]
pub(super) struct Tick {
    /// Where, in percent of the width.
    pub(super) left: f64,
    /// The number.
    pub(super) label: String,
}

impl Axis {
    /// An axis that is never empty, whatever a file holds.
    pub(super) fn new(from: f64, until: f64) -> Self {
        let from = if from.is_finite() { from } else { 0.0 };
        let until = if until.is_finite() && until > from {
            until
        } else {
            from + 1.0
        };
        Self { from, until }
    }

    /// Where an instant is, from 0 to 1000; at an end where it is beyond it.
    pub(super) fn at(self, seconds: f64) -> f64 {
        let share = (seconds - self.from) / (self.until - self.from);
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        (share * WIDTH * 10.0).round() / 10.0
    }

    /// The same in percent.
    pub(super) fn percent(self, seconds: f64) -> f64 {
        (self.at(seconds) * 10.0).round() / 100.0
    }

    /// Whether an instant is on it.
    pub(super) fn holds(self, seconds: f64) -> bool {
        (self.from..=self.until).contains(&seconds)
    }

    /// Round numbers, at even distances.
    pub(super) fn ticks(self) -> Vec<Tick> {
        let rough = (self.until - self.from) / MOST_TICKS;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let first = (self.from / step).ceil() as i64;
        (first..first + MOST_TICKS as i64 + 2)
            .map(|count| count as f64 * step)
            .take_while(|at| *at <= self.until)
            .map(|at| Tick {
                left: self.percent(at),
                label: format!("{:.*}", if step < 1.0 { 1 } else { 0 }, at),
            })
            .collect()
    }
}

/// A label of one mark, or of several that stand too near each other to have one each.
#[derive(Debug, PartialEq)]
pub(super) struct Label {
    /// Where, in percent of the width.
    pub(super) left: f64,
    /// `3`, or `3–5`.
    pub(super) text: String,
    /// Whether it stands in the lower of two rows, so that wide ones do not cover each other.
    pub(super) low: bool,
}

/// Labels for marks that are numbered from 1 on, and stand from left to right.
pub(super) fn labels(lefts: &[f64]) -> Vec<Label> {
    let mut groups: Vec<(f64, usize, usize)> = Vec::new();
    for (at, left) in lefts.iter().enumerate() {
        match groups.last_mut() {
            Some((first, _, last)) if left - *first < NEAREST => *last = at + 1,
            Some(_) | None => groups.push((*left, at + 1, at + 1)),
        }
    }
    let labels = groups.into_iter().enumerate().map(|(at, (left, first, last))| Label {
        left,
        text: if first == last {
            first.to_string()
        } else {
            format!("{first}–{last}")
        },
        low: at % 2 == 1,
    });
    labels.collect()
}

/// A figure with its limits, drawn on a line of its own from 0 on.
#[derive(Debug)]
pub(super) struct Range {
    /// Where the least and the most of the figure are, in percent.
    pub(super) low: f64,
    /// How wide it is, in percent.
    pub(super) wide: f64,
    /// Where its middle is.
    pub(super) middle: f64,
    /// Where the floor is.
    pub(super) floor: Option<f64>,
    /// Where the bound is.
    pub(super) bound: Option<f64>,
}

impl Range {
    /// Of the least, the middle and the most of a figure, on a line that ends a little beyond `end`.
    pub(super) fn of((low, middle, high): (f64, f64, f64), floor: Option<f64>, bound: Option<f64>, end: f64) -> Self {
        let axis = Axis::new(0.0, end * 1.04);
        Self {
            low: axis.percent(low),
            wide: ((axis.percent(high) - axis.percent(low)) * 100.0).round() / 100.0,
            middle: axis.percent(middle),
            floor: floor.map(|floor| axis.percent(floor)),
            bound: bound.map(|bound| axis.percent(bound)),
        }
    }
}

/// A time as people say it: `0.03 s`, `41.2 s`, `33 min 27 s`.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 60.0 {
        return text::seconds(seconds.max(0.0));
    }
    let whole = seconds.round() as u64;
    match (whole / 3600, whole % 3600 / 60, whole % 60) {
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use rstest::rstest;

    #[rstest]
    #[case(-2.0, 28.0, &["0", "5", "10", "15", "20", "25"])]
    #[case(0.0, 1.0, &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"])]
    #[case(0.0, 0.0, &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"])]
    #[case(f64::NAN, f64::INFINITY, &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"])]
    fn an_axis_has_round_numbers(#[case] from: f64, #[case] until: f64, #[case] labels: &[&str]) {
        let ticks = Axis::new(from, until).ticks();
        let told: Vec<&str> = ticks.iter().map(|tick| tick.label.as_str()).collect();
        assert_eq!(told, labels);
    }

    #[test]
    fn what_is_beyond_an_axis_stands_at_its_end() {
        let axis = Axis::new(0.0, 10.0);
        assert_eq!(
            [-1.0, 2.5, 11.0, f64::NAN].map(|at| axis.at(at)),
            [0.0, 250.0, 1000.0, 0.0]
        );
        assert_eq!([-1.0, 2.5, 11.0].map(|at| axis.holds(at)), [false, true, false]);
    }

    #[test]
    fn marks_that_stand_too_near_share_a_label() {
        let labels = labels(&[0.0, 1.0, 2.0, 8.0, 50.0, 54.0]);
        let told: Vec<(f64, &str, bool)> = labels
            .iter()
            .map(|label| (label.left, label.text.as_str(), label.low))
            .collect();
        assert_eq!(told, [(0.0, "1–3", false), (8.0, "4", true), (50.0, "5–6", false)]);
    }

    #[rstest]
    #[case(0.031, "0.03 s")]
    #[case(123.5, "2 min 4 s")]
    #[case(7322.0, "2 h 2 min")]
    #[case(-1.0, "0.00 s")]
    fn durations_are_told_as_people_do(#[case] seconds: f64, #[case] told: &str) {
        assert_eq!(duration(seconds), told);
    }
}

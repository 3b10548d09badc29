//! The gaps of the workload during cases, on an axis of time, with what happened around them.

use super::super::course::{Course, Gap, Moment};
use super::super::{CaseResult, Run};
use super::cases::Link;
use super::plot::{self, Axis, Label, Tick};

/// How much is shown before the first gap and after the last, in seconds.
const MARGIN: f64 = 0.5;

/// The course of one case.
pub(super) struct CourseOf<'a> {
    pub(super) case: &'a CaseResult,
    pub(super) longest: String,
    pub(super) timeline: Option<Link<'a>>,
    pub(super) ticks: Vec<Tick>,
    pub(super) lanes: Vec<Lane<'a>>,
    pub(super) marks: Vec<Mark<'a>>,
    pub(super) labels: Vec<Label>,
}

/// The gaps of one slot.
pub(super) struct Lane<'a> {
    pub(super) slot: u16,
    pub(super) bars: Vec<Bar<'a>>,
}

/// A gap: where it is, in thousandths of the width.
pub(super) struct Bar<'a> {
    pub(super) gap: &'a Gap,
    pub(super) left: f64,
    pub(super) wide: f64,
}

impl Bar<'_> {
    /// How long the gap is.
    pub(super) fn seconds(&self) -> String {
        plot::duration(self.gap.until - self.gap.from)
    }
}

/// A moment, with its number.
pub(super) struct Mark<'a> {
    pub(super) number: usize,
    pub(super) moment: &'a Moment,
    pub(super) at: f64,
}

impl Mark<'_> {
    /// Its time.
    pub(super) fn time(&self) -> String {
        format!("{:.3}", self.moment.at)
    }
}

pub(super) fn courses(run: &Run) -> Vec<CourseOf<'_>> {
    let cases = run.cases.iter();
    cases.filter_map(|case| Some(of(case, case.course.as_ref()?))).collect()
}

fn of<'a>(case: &'a CaseResult, course: &'a Course) -> CourseOf<'a> {
    let from = course.gaps.iter().map(|gap| gap.from).fold(f64::INFINITY, f64::min);
    let until = course
        .gaps
        .iter()
        .map(|gap| gap.until)
        .fold(f64::NEG_INFINITY, f64::max);
    let moments = course.moments.iter().map(|moment| moment.at);
    let (first, last) = moments.fold((from, until), |(first, last), at| (first.min(at), last.max(at)));
    let axis = Axis::new(first - MARGIN, last + MARGIN);
    let mut lanes: Vec<Lane<'_>> = Vec::new();
    for gap in &course.gaps {
        let bar = Bar {
            gap,
            left: axis.at(gap.from),
            wide: ((axis.at(gap.until) - axis.at(gap.from)) * 10.0).round() / 10.0,
        };
        match lanes.iter_mut().find(|lane| lane.slot == gap.slot) {
            Some(lane) => lane.bars.push(bar),
            None => lanes.push(Lane {
                slot: gap.slot,
                bars: vec![bar],
            }),
        }
    }
    let mut moments: Vec<&Moment> = course.moments.iter().collect();
    moments.sort_by(|one, other| one.at.total_cmp(&other.at));
    let lefts: Vec<f64> = moments.iter().map(|moment| axis.percent(moment.at)).collect();
    let marks = moments.into_iter().enumerate().map(|(at, moment)| Mark {
        number: at + 1,
        moment,
        at: axis.at(moment.at),
    });
    let longest = course.gaps.iter().map(|gap| gap.until - gap.from).fold(0.0, f64::max);
    CourseOf {
        case,
        timeline: case.timeline.as_deref().map(Link::of),
        longest: plot::duration(longest),
        ticks: axis.ticks(),
        marks: marks.collect(),
        lanes,
        labels: plot::labels(&lefts),
    }
}

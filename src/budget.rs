//! A run within a time: which cases are worth it, and how long they are likely to take.
//!
//! Typical times stand in `costs.csv`, measured on servers of loopback; `scripts/costs` measures them anew. A case that
//! is not there counts with a default for its impact. What a choice of cases takes is reckoned as the runner runs them:
//! those that disturb nobody 8 at a time and those on servers of their own 3 at a time (the sum divided by that, but never
//! less than the longest), disruptive ones one after another, each with the wait for a whole
//! cluster after it. It is an estimate: nothing is cut off when the time is over.

use crate::case::{Case, CaseId, Impact};
use crate::report::Run;
use crate::runner::{AT_ONCE, SCRATCHES_AT_ONCE};
use crate::verdict::VerdictName;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// The table as it is checked in.
static TABLE: &str = include_str!("costs.csv");
/// The row of the table that is no case: what it takes to make the deployment, on servers of loopback.
const DEPLOYMENT: &str = "deployment";
/// The row of the table that is no case: from the end of a disruptive case to a whole cluster.
const BETWEEN: &str = "between";
/// A disruptive case that takes less has looked at what an earlier one of its chapter did (one failover serves many).
const LOOKS_ONLY: f64 = 0.1;

/// Typical times.
#[derive(Clone, Debug)]
pub struct Costs {
    seconds: BTreeMap<String, f64>,
}

/// The cases of a run with a budget.
#[derive(Debug)]
pub struct Plan {
    /// The cases that are run, in the order given.
    pub chosen: Vec<&'static Case>,
    /// The others.
    pub left_out: Vec<&'static Case>,
    /// How long the run is likely to take.
    pub likely: Duration,
}

/// Parses a length of time as people write it: `5m`, `90s`, `1h30m`.
///
/// # Errors
/// When it is none, or not above zero.
pub fn parse(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text
        .parse()
        .map_err(|error| format!("\"{text}\" is no length of time such as 90s or 5m: {error}"))?;
    match Duration::try_from(duration) {
        Ok(duration) if duration > Duration::ZERO => Ok(duration),
        Ok(_) | Err(_) => Err(format!("\"{text}\" is no time to run in")),
    }
}

impl Default for Costs {
    /// The table as it is checked in.
    fn default() -> Self {
        Self::parse(TABLE)
    }
}

impl Costs {
    fn parse(table: &str) -> Self {
        let rows = table.lines().filter(|line| !line.starts_with('#'));
        let seconds = rows.filter_map(|line| {
            let (id, seconds) = line.split_once(',')?;
            Some((id.to_owned(), seconds.parse().ok()?))
        });
        Self {
            seconds: seconds.collect(),
        }
    }

    /// The table of a run: cases that were judged, what came before them, and what between the disruptive ones.
    pub fn table(run: &Run) -> String {
        let judged: Vec<_> = run
            .cases
            .iter()
            .filter(|case| matches!(case.verdict, VerdictName::Pass | VerdictName::Fail))
            .collect();
        let before = run
            .phases
            .iter()
            .take_while(|phase| !phase.name.ends_with("disturb nobody"));
        let deployment: f64 = before.map(|phase| phase.seconds).sum();
        let disruptive = judged.iter().filter(|case| case.impact == Impact::Disruptive);
        let (count, sum) = disruptive.fold((0, 0.0), |(count, sum), case| (count + 1, sum + case.seconds));
        let phase = run.phases.iter().find(|phase| phase.name.contains("disruptive cases"));
        let between = phase.map_or(0.0, |phase| (phase.seconds - sum).max(0.0) / f64::from(count.max(1)));
        let mut text = format!(
            "# Typical seconds of each case on servers of loopback, for --budget. Written by scripts/costs.\n\
             id,seconds\n{DEPLOYMENT},{deployment:.1}\n{BETWEEN},{between:.1}\n"
        );
        for case in judged {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{},{:.1}", case.id, case.seconds);
        }
        text
    }

    /// What a case takes by itself, in seconds.
    pub fn of(&self, case: &Case) -> f64 {
        self.seconds.get(case.id.0).copied().unwrap_or(match case.impact {
            Impact::ReadOnly | Impact::Writes => 1.0,
            Impact::Apart => 10.0,
            Impact::Disruptive => 20.0,
        })
    }

    fn row(&self, name: &str) -> f64 {
        self.seconds.get(name).copied().unwrap_or_default()
    }

    /// The case whose work a case looks at: itself, but for disruptive ones that take no time.
    fn payer(&self, case: &'static Case, all: &[&'static Case]) -> &'static Case {
        let shares = |case: &Case| case.impact == Impact::Disruptive && self.of(case) < LOOKS_ONLY;
        if !shares(case) {
            return case;
        }
        let earlier = all.iter().take_while(|other| other.id != case.id);
        let payers = earlier.filter(|other| {
            other.id.chapter() == case.id.chapter() && other.impact == Impact::Disruptive && !shares(other)
        });
        payers.last().copied().unwrap_or(case)
    }

    /// How long a choice of cases is likely to take.
    fn likely(&self, chosen: &[&'static Case], all: &[&'static Case]) -> f64 {
        let group = |impacts: &[Impact], at_once: usize| {
            let costs = chosen.iter().filter(|case| impacts.contains(&case.impact));
            let (sum, longest) = costs.fold((0.0, 0.0), |(sum, longest): (f64, f64), case| {
                (sum + self.of(case), longest.max(self.of(case)))
            });
            (sum / at_once as f64).max(longest)
        };
        let disruptive = chosen.iter().filter(|case| case.impact == Impact::Disruptive);
        let waits = disruptive.clone().count() as f64 * self.row(BETWEEN);
        let mut paid: BTreeSet<CaseId> = BTreeSet::new();
        let one_by_one: f64 = disruptive
            .map(|case| self.payer(case, all))
            .filter(|payer| paid.insert(payer.id))
            .map(|payer| self.of(payer))
            .sum();
        group(&[Impact::ReadOnly, Impact::Writes], AT_ONCE)
            + group(&[Impact::Apart], SCRATCHES_AT_ONCE)
            + one_by_one
            + waits
    }

    /// Chooses cases for a budget: `core` before `extended` before `kubernetes` before `chaos`, within one `must` before
    /// `should`, within that the quicker first; what no longer fits is left out, and the next is tried. `makes` says
    /// whether the deployment is made on loopback first, which then counts too.
    pub fn plan(&self, cases: &[&'static Case], budget: Duration, makes: bool) -> Plan {
        let before = if makes { self.row(DEPLOYMENT) } else { 0.0 };
        let room = budget.as_secs_f64() - before;
        let mut order = cases.to_vec();
        order.sort_by(|one, other| {
            let key = |case: &Case| (case.profile, case.level as u8);
            let cost = |case: &&'static Case| self.of(self.payer(case, cases));
            key(one)
                .cmp(&key(other))
                .then(cost(one).total_cmp(&cost(other)))
                .then(one.id.cmp(&other.id))
        });
        let mut chosen: Vec<&'static Case> = Vec::new();
        for case in order {
            chosen.push(case);
            if self.likely(&chosen, cases) > room {
                chosen.pop();
            }
        }
        let likely = Duration::from_secs_f64(before + self.likely(&chosen, cases));
        let ids: BTreeSet<CaseId> = chosen.iter().map(|case| case.id).collect();
        let (chosen, left_out) = cases.iter().copied().partition(|case: &&Case| ids.contains(&case.id));
        Plan {
            chosen,
            left_out,
            likely,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Level, Profile};
    use crate::cases;
    use rstest::rstest;

    #[rstest]
    #[case("5m", Some(300))]
    #[case("90s", Some(90))]
    #[case("1h30m", Some(5400))]
    #[case("2 minutes", Some(120))]
    #[case("5", None)]
    #[case("-5m", None)]
    #[case("0s", None)]
    #[case("soon", None)]
    fn parses_lengths_of_time(#[case] text: &str, #[case] seconds: Option<u64>) {
        assert_eq!(parse(text).ok(), seconds.map(Duration::from_secs));
    }

    fn plan(seconds: u64) -> Plan {
        let all: Vec<&'static Case> = cases::all().collect();
        Costs::default().plan(&all, Duration::from_secs(seconds), true)
    }

    #[test]
    fn a_budget_for_all_leaves_none_out_and_one_for_nothing_all() {
        assert_eq!(plan(100_000).left_out.len(), 0);
        assert_eq!(plan(1).chosen.len(), 0);
    }

    #[test]
    fn more_time_is_more_cases_and_the_estimate_keeps_to_it() {
        let mut before = 0;
        for seconds in [15, 20, 30, 60, 120, 300] {
            let plan = plan(seconds);
            assert!(plan.chosen.len() >= before, "{seconds} s");
            assert!(plan.likely <= Duration::from_secs(seconds), "{seconds} s");
            before = plan.chosen.len();
        }
        assert!(before > 0);
    }

    #[test]
    fn what_binds_comes_first() {
        let plan = plan(20);
        let binding = |case: &&&Case| case.profile == Profile::Core && case.level == Level::Must;
        let harmless = |case: &&&Case| case.impact < Impact::Apart;
        let dearest = Costs::default();
        for case in plan.left_out.iter().filter(binding).filter(harmless) {
            assert!(dearest.of(case) > 0.5, "{} is quick and left out", case.id);
        }
    }

    #[test]
    fn cases_that_look_at_one_failover_cost_one() {
        let costs = Costs::parse("FAIL-01,12.0\nFAIL-02,0.0\nFAIL-03,0.0\nFAIL-04,0.0\nbetween,1.0");
        let all: Vec<&'static Case> = cases::all().filter(|case| case.id.chapter() == "FAIL").collect();
        let of = |ids: &[&str]| -> Vec<&'static Case> {
            all.iter().copied().filter(|case| ids.contains(&case.id.0)).collect()
        };
        assert_eq!(costs.likely(&of(&["FAIL-04"]), &all), 13.0);
        assert_eq!(costs.likely(&of(&["FAIL-01", "FAIL-02", "FAIL-04"]), &all), 15.0);
    }
}

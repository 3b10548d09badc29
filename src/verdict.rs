//! How a case can end, and the only conversions of errors into such an end.
//!
//! Only an expectation (a [`Mismatch`]) makes a case fail. An error of input or output, of the suite or of its
//! surroundings, makes it end as an error: `?` can never turn a broken suite into a verdict on the deployment.

use crate::case::CaseId;
use crate::cluster::connection::LinkError;
use crate::target::TargetError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a requirement allows, and what was seen instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Mismatch {
    /// Every acceptable observation, one line each.
    pub expected: Vec<String>,
    /// What was observed; may have several lines, one a node.
    pub actual: String,
}

impl Mismatch {
    /// A mismatch with a single acceptable observation.
    pub fn new(expected: impl Into<String>, actual: impl Into<String>) -> Self {
        Self {
            expected: vec![expected.into()],
            actual: actual.into(),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}; saw {}", self.expected.join(" or "), self.actual)
    }
}

/// Why a case's body stopped before its end.
#[derive(Debug)]
pub enum Stop {
    /// An expectation was not met: the case fails.
    Mismatch(Mismatch),
    /// The implementation lacks a feature, as a probe of the server showed: the case does not apply.
    Unsupported(String),
    /// The suite or its surroundings broke: nothing is said about the deployment.
    Error(anyhow::Error),
}

/// What the body of a case returns.
pub type Outcome = Result<(), Stop>;

impl From<Mismatch> for Stop {
    fn from(mismatch: Mismatch) -> Self {
        Self::Mismatch(mismatch)
    }
}

impl From<LinkError> for Stop {
    fn from(error: LinkError) -> Self {
        Self::Error(error.into())
    }
}

impl From<TargetError> for Stop {
    fn from(error: TargetError) -> Self {
        Self::Error(error.into())
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

/// The end of a case within a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every expectation was met.
    Pass,
    /// An expectation was not met.
    Fail(Mismatch),
    /// The target lacks a capability, or the implementation a feature; the reason says which, and how that was seen.
    Unsupported(String),
    /// Left out by the user or by the budget; the reason says by which.
    Skipped(String),
    /// Not run, because an earlier case left the cluster not whole.
    Blocked {
        /// The case that left it so.
        by: CaseId,
        /// What was still missing when the wait for a whole cluster ended.
        reason: String,
    },
    /// The suite or its surroundings broke.
    Error(String),
}

impl Verdict {
    /// The verdict's name as reports write it.
    pub fn name(&self) -> VerdictName {
        match self {
            Self::Pass => VerdictName::Pass,
            Self::Fail(_) => VerdictName::Fail,
            Self::Unsupported(_) => VerdictName::Unsupported,
            Self::Skipped(_) => VerdictName::Skipped,
            Self::Blocked { .. } => VerdictName::Blocked,
            Self::Error(_) => VerdictName::Error,
        }
    }
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(()) => Self::Pass,
            Err(Stop::Mismatch(mismatch)) => Self::Fail(mismatch),
            Err(Stop::Unsupported(reason)) => Self::Unsupported(reason),
            Err(Stop::Error(error)) => Self::Error(format!("{error:#}")),
        }
    }
}

/// The verdicts by name alone, as `run.json` holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerdictName {
    /// Every expectation was met.
    Pass,
    /// An expectation was not met.
    Fail,
    /// The target or the implementation lacks what the case needs.
    Unsupported,
    /// Left out by the user or by the budget.
    Skipped,
    /// An earlier case left the cluster not whole.
    Blocked,
    /// The suite or its surroundings broke.
    Error,
}

impl VerdictName {
    /// Every verdict, in the order in which summaries list them.
    pub const ALL: [Self; 6] = [
        Self::Pass,
        Self::Fail,
        Self::Error,
        Self::Blocked,
        Self::Unsupported,
        Self::Skipped,
    ];
}

impl fmt::Display for VerdictName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unsupported => "unsupported",
            Self::Skipped => "skipped",
            Self::Blocked => "blocked",
            Self::Error => "error",
        })
    }
}

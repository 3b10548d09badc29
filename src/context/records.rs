//! What a case leaves behind for the report: measurements, remarks, and its timeline.

use super::Context;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A figure that a case took, beside the limits that apply to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Measurement {
    /// What was measured: `write gap`.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit: `s`, `keys`.
    pub unit: String,
    /// What it cannot be below, by the protocol's arithmetic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// What it must not be above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
}

impl Context {
    /// Records a duration, with the protocol's floor and the bound where they apply.
    pub fn measure(&self, name: &str, value: Duration, floor: Option<Duration>, bound: Option<Duration>) {
        self.record(Measurement {
            name: name.into(),
            value: round(value.as_secs_f64()),
            unit: "s".into(),
            floor: floor.map(|floor| round(floor.as_secs_f64())),
            bound: bound.map(|bound| round(bound.as_secs_f64())),
        });
    }

    /// Records a count.
    pub fn count(&self, name: &str, value: usize, unit: &str) {
        self.record(Measurement {
            name: name.into(),
            value: value as f64,
            unit: unit.into(),
            floor: None,
            bound: None,
        });
    }

    pub(super) fn record(&self, measurement: Measurement) {
        self.measurements
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(measurement);
    }

    /// Adds a remark to the result: which of two legal outcomes was seen, for example.
    pub fn note(&self, text: impl Into<String>) {
        self.notes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(text.into());
    }

    /// Adds an instant to the case's timeline.
    pub fn note_time(&self, text: impl Into<String>) {
        let at = round(self.shared.started.elapsed().as_secs_f64());
        self.timeline
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push((at, text.into()));
    }

    /// What the case recorded: measurements, notes, timeline (seconds since the run began).
    pub fn into_records(self) -> (Vec<Measurement>, Vec<String>, Vec<(f64, String)>) {
        (
            self.measurements
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
            self.notes
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
            self.timeline
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}

/// To the millisecond: more digits would claim a precision that polling does not have.
fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

//! What a case leaves behind for the report: measurements, remarks, and what it did when.

use super::Context;
use crate::timeline::Source;
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

    /// Adds what the suite does now to the case's timeline.
    pub fn note_time(&self, text: impl Into<String>) {
        self.timeline.note(Source::Suite, text);
    }

    /// Notes that the case is judged by what happens once in a run: to the first case that asks it happens, and the others
    /// are told in whose timeline it stands.
    pub fn note_observation(&self, what: &'static str) {
        let mut by = self
            .shared
            .observed_by
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = *by.entry(what).or_insert(self.id);
        if first != self.id {
            self.note_time(format!(
                "judged by {what}, which {first} observed: evidence/{first}/timeline.txt"
            ));
        }
    }

    /// What the case recorded: measurements and notes.
    pub fn into_records(self) -> (Vec<Measurement>, Vec<String>) {
        (
            self.measurements
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
            self.notes
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}

/// To the millisecond: more digits would claim a precision that polling does not have.
fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

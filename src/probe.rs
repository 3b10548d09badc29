//! Probes of the server's container: when Kubernetes takes a server for lost, by the probe's own numbers.

use serde_json::Value;
use std::time::Duration;

/// How often a probe asks, and how often it must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `periodSeconds`.
    pub period: Duration,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// `failureThreshold`.
    pub failures: u32,
}

impl Probe {
    /// The probe of a kind (`readinessProbe`) that a container has, with Kubernetes' defaults for what it leaves out.
    pub fn of(container: &Value, kind: &str) -> Option<Self> {
        let probe = container.get(kind).filter(|probe| !probe.is_null())?;
        let number = |field: &str, default: u64| probe[field].as_u64().filter(|value| *value > 0).unwrap_or(default);
        Some(Self {
            period: Duration::from_secs(number("periodSeconds", 10)),
            timeout: Duration::from_secs(number("timeoutSeconds", 1)),
            failures: u32::try_from(number("failureThreshold", 3)).unwrap_or(u32::MAX),
        })
    }

    /// From the moment at which a server does not answer as it must until the probe has failed often enough.
    pub fn notices(&self) -> Duration {
        self.period * self.failures + self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::defaults(json!({"exec": {}}), Some(31))]
    #[case::written(json!({"periodSeconds": 5, "timeoutSeconds": 4, "failureThreshold": 2}), Some(14))]
    // The API server refuses it; it is then what is left out.
    #[case::nothing(json!({"periodSeconds": 0}), Some(31))]
    #[case::none(Value::Null, None)]
    fn a_probe_notices_by_its_own_numbers(#[case] probe: Value, #[case] seconds: Option<u64>) {
        let container = json!({"name": "redis", "readinessProbe": probe});
        let found = Probe::of(&container, "readinessProbe").map(|probe| probe.notices().as_secs());
        assert_eq!(found, seconds);
        assert_eq!(Probe::of(&container, "livenessProbe"), None);
    }
}

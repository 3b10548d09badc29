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

    /// From the moment at which a server does not answer as it must until the probe has failed often enough. The probe may
    /// have just asked; one that waits for longer than its period asks again as soon as it has given up.
    pub fn notices(&self) -> Duration {
        self.period.max(self.timeout) * self.failures + self.period.min(self.timeout)
    }
}

/// When a container may still not be ready by the own numbers of its startup and readiness probes, though all else was done
/// at `done`: both count from the container's start. `done` itself where it has none.
pub fn ready_by(container: &Value, done: Duration) -> Duration {
    let after = |done: Duration, kind: &str| {
        let Some(probe) = Probe::of(container, kind) else {
            return done;
        };
        let number = |field: &str| container[kind][field].as_u64().unwrap_or(0);
        let delay = Duration::from_secs(number("initialDelaySeconds"));
        let successes = u32::try_from(number("successThreshold").max(1)).unwrap_or(u32::MAX);
        done.max(delay) + probe.period.saturating_mul(successes) + probe.timeout
    };
    after(after(done, "startupProbe"), "readinessProbe")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::defaults(json!({"exec": {}}), Some(31))]
    #[case::written(json!({"periodSeconds": 5, "timeoutSeconds": 4, "failureThreshold": 2}), Some(14))]
    #[case::waits_for_long(json!({"periodSeconds": 10, "timeoutSeconds": 30, "failureThreshold": 3}), Some(100))]
    // The API server refuses it; it is then what is left out.
    #[case::nothing(json!({"periodSeconds": 0}), Some(31))]
    #[case::none(Value::Null, None)]
    fn a_probe_notices_by_its_own_numbers(#[case] probe: Value, #[case] seconds: Option<u64>) {
        let container = json!({"name": "redis", "readinessProbe": probe});
        let found = Probe::of(&container, "readinessProbe").map(|probe| probe.notices().as_secs());
        assert_eq!(found, seconds);
        assert_eq!(Probe::of(&container, "livenessProbe"), None);
    }

    #[rstest]
    #[case::none(Value::Null, Value::Null, 20)]
    #[case::defaults(Value::Null, json!({"exec": {}}), 31)]
    #[case::begins_late(Value::Null, json!({"initialDelaySeconds": 30}), 41)]
    #[case::asks_twice(Value::Null, json!({"successThreshold": 2, "periodSeconds": 5}), 31)]
    #[case::one_after_the_other(json!({"periodSeconds": 5}), json!({"periodSeconds": 5}), 32)]
    #[case::another_delay_is_over(json!({"initialDelaySeconds": 30}), json!({"initialDelaySeconds": 30}), 52)]
    fn a_probe_has_a_delay_of_its_own(#[case] startup: Value, #[case] readiness: Value, #[case] seconds: u64) {
        let container = json!({"startupProbe": startup, "readinessProbe": readiness});
        assert_eq!(ready_by(&container, Duration::from_secs(20)).as_secs(), seconds);
    }
}

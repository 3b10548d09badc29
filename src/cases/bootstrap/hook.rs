//! The cases of chapter BOOT about the hook that runs the bootstrap: what it may not ask, and how long it may take.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::cases::kubernetes::rules;
use crate::context::{Context, LiveKind};
use crate::hook;
use crate::probe::ready_by;
use crate::verdict::{Mismatch, Outcome, Stop};
use serde_json::Value;
use std::time::Duration;

pub(super) const OWN_NAME: Case = Case {
    id: CaseId("BOOT-11"),
    title: "the bootstrap's hook asks nobody for its own pod's name",
    requirement: "A bootstrap that runs inside a postStart hook MUST NOT resolve its own pod's DNS name.",
    source: "seed lines 399-405; kubernetes#85966, #26035; Kubernetes source, ShouldPodBeInEndpoints",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Restart],
    features: &[],
    bound: "T_sched + T_hook",
    controls: &[],
    method: "Applies the rules of `lint` for this row to the live objects: no script that the hook runs may look up its own pod. Then \
             deletes the bootstrap pod and looks at its successor, as NET-04 does: while it has no address, and so no name, the hook must \
             come to its end, in time and at once.",
    run: |cx| Box::pin(own_name(cx)),
};

pub(super) const ENDS_SOON: Case = Case {
    id: CaseId("BOOT-23"),
    title: "the bootstrap's hook ends within 30 s",
    requirement: "The postStart hook of the bootstrap SHOULD finish in seconds, because it blocks readiness.",
    source: "Kubernetes documentation, Container Lifecycle Hooks; measured: 10.1 s at the first run, 9.1 s at a further one",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "30 s",
    controls: &[],
    method: "In the status of the bootstrap pod, as its server's container last started: from `state.running.startedAt` to the last change of \
             the condition Ready at most 30 s, to the second. A longer time says nothing where the delay and the period of the container's \
             startup and readiness probes explain it, or where the run has not made the deployment and Ready may have been lost and \
             come back since.",
    run: |cx| Box::pin(ends_soon(cx)),
};

async fn own_name(cx: &Context) -> Outcome {
    hook::needed(cx).await?;
    rules(cx, Level::Must).await?;
    hook::judge(&*hook::observed(cx).await?)
}

/// How long the hook may take.
const SECONDS: Duration = Duration::from_secs(30);

async fn ends_soon(cx: &Context) -> Outcome {
    hook::needed(cx).await?;
    let deployment = cx.deployment()?;
    let name = format!("Pod/{}", hook::bootstrap_pod(deployment)?);
    let pods = deployment.live(LiveKind::Pod).await?;
    let pod = pods.iter().find(|(of, _)| *of == name);
    let (_, pod) = pod.ok_or_else(|| Mismatch::new(format!("{name}, which runs the bootstrap"), "no such pod"))?;
    let seen = started_to_ready(pod, &deployment.server_container())
        .ok_or_else(|| Mismatch::new(format!("{name} Ready, its server's container running"), "it is not"))?;
    cx.measure("from the container's start until Ready", seen.took, None, Some(SECONDS));
    let is_old = !cx.shared().target.is_ours() && (seen.has_probe || seen.took > cx.timing().hook());
    judge(seen.took, seen.by_probes, is_old)
}

/// What a pod's status tells of its start.
#[derive(Debug)]
struct Started {
    /// From the start of the container until the pod was Ready.
    took: Duration,
    /// Whether the container has a readiness probe.
    has_probe: bool,
    /// How long that may have been by the container's probes alone, the hook being in time.
    by_probes: Duration,
}

/// From the start of a pod's container until the pod was Ready. None where it does not run or is not ready.
fn started_to_ready(pod: &Value, container: &str) -> Option<Started> {
    let of_name = |all: &Value| {
        let mut all = all.as_array()?.iter();
        all.find(|one| one["name"] == container).cloned()
    };
    let instant = |value: &Value| value.as_str()?.parse::<jiff::Timestamp>().ok();
    let status = of_name(&pod["status"]["containerStatuses"])?;
    let started = instant(&status["state"]["running"]["startedAt"])?;
    let mut conditions = pod["status"]["conditions"].as_array()?.iter();
    let ready = conditions.find(|one| one["type"] == "Ready" && one["status"] == "True")?;
    let ready = instant(&ready["lastTransitionTime"])?;
    let described = of_name(&pod["spec"]["containers"]).unwrap_or_default();
    // Told to the second: the condition may seem to be a little before the start.
    let took = ready
        .duration_since(started)
        .max(jiff::SignedDuration::ZERO)
        .unsigned_abs();
    Some(Started {
        took,
        has_probe: !described["readinessProbe"].is_null(),
        by_probes: ready_by(&described, SECONDS),
    })
}

/// `by_probes`: how long it may take by the container's probes alone; `is_old`: Ready may have been lost and come back since
/// the container started.
fn judge(took: Duration, by_probes: Duration, is_old: bool) -> Result<(), Stop> {
    if took <= SECONDS {
        return Ok(());
    }
    let seen = format!("{} s from the start of the container until Ready", took.as_secs());
    if took <= by_probes {
        return Err(Stop::Unsupported(format!(
            "{seen}, which says nothing of the hook: by the numbers of its startup and readiness probes the container may be \
             Ready only after {} s",
            by_probes.as_secs()
        )));
    }
    match is_old {
        true => Err(Stop::Unsupported(format!(
            "{seen}, which says nothing of the hook: this run did not see the pod start, and Ready may have come back later"
        ))),
        false => Err(Mismatch::new(format!("at most {} s", SECONDS.as_secs()), seen).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn pod(started: Value, ready: &str, probe: Value) -> Value {
        json!({
            "spec": {"containers": [{"name": "other"}, {"name": "redis", "readinessProbe": probe}]},
            "status": {
                "containerStatuses": [
                    {"name": "other", "state": {"running": {"startedAt": "2026-11-26T20:00:00Z"}}},
                    {"name": "redis", "state": started},
                ],
                "conditions": [
                    {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-11-26T20:00:00Z"},
                    {"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-26T20:50:39Z"},
                ],
            },
        })
    }

    fn running(at: &str) -> Value {
        json!({"running": {"startedAt": at}})
    }

    #[rstest]
    #[case::soon(pod(running("2026-11-26T20:50:30Z"), "True", Value::Null), Some((9, false)))]
    #[case::with_a_probe(pod(running("2026-11-26T20:50:30Z"), "True", json!({"exec": {}})), Some((9, true)))]
    #[case::late(pod(running("2026-11-26T20:49:00Z"), "True", Value::Null), Some((99, false)))]
    #[case::rounded(pod(running("2026-11-26T20:50:40Z"), "True", Value::Null), Some((0, false)))]
    #[case::not_ready(pod(running("2026-11-26T20:50:30Z"), "False", Value::Null), None)]
    #[case::waiting(pod(json!({"waiting": {"reason": "ContainerCreating"}}), "True", Value::Null), None)]
    #[case::empty(json!({}), None)]
    fn the_time_of_a_hook_is_in_the_pod_s_status(#[case] pod: Value, #[case] expected: Option<(u64, bool)>) {
        let seen = started_to_ready(&pod, "redis");
        assert_eq!(seen.map(|seen| (seen.took.as_secs(), seen.has_probe)), expected);
    }

    #[rstest]
    #[case::soon(9, 30, false, "pass")]
    #[case::soon_enough(30, 30, true, "pass")]
    #[case::late(31, 30, false, "fail")]
    #[case::late_or_lost(31, 30, true, "unsupported")]
    #[case::late_or_probed_late(41, 41, false, "unsupported")]
    #[case::later_than_its_probes(42, 41, false, "fail")]
    fn a_hook_ends_within_seconds(
        #[case] seconds: u64,
        #[case] by_probes: u64,
        #[case] is_old: bool,
        #[case] expected: &str,
    ) {
        let verdict = match judge(Duration::from_secs(seconds), Duration::from_secs(by_probes), is_old) {
            Ok(()) => "pass",
            Err(Stop::Mismatch(_)) => "fail",
            Err(Stop::Unsupported(_) | Stop::Error(_)) => "unsupported",
        };
        assert_eq!(verdict, expected);
    }
}

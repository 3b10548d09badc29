//! What shows only when something is done to a pod: probes, evictions, the end of a server.

use super::objects::{Described, able, described, permitted, rules};
use super::placement::a_replica;
use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually, expect, ready};
use crate::cluster::node::Member;
use crate::context::{Context, Fault, Objects, Pod, with_cleanup};
use crate::failover::{observe, pick_shard};
use crate::inside::server_container;
use crate::lint;
use crate::lint::field::{Object, selects};
use crate::probe::Probe;
use crate::verdict::{Mismatch, Outcome, Stop};
use serde_json::Value;
use std::time::{Duration, Instant};

pub(super) const READINESS: Case = Case {
    id: CaseId("K8S-05"),
    title: "a frozen server's pod is not Ready",
    requirement: "A readiness probe MUST exist and ask the server: an authenticated PING that a loading server does not pass.",
    source: "Kubernetes documentation, Configure Liveness, Readiness and Startup Probes; spotahome/redis-operator#205",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "failureThreshold · periodSeconds + timeoutSeconds, or the other way round where that is longer, + T_reply",
    controls: &[
        "manifest:no-readiness-probe",
        "manifest:readiness-forgives",
        "manifest:readiness-of-the-port",
    ],
    method: "Applies the rules of `lint` for this row to the live objects; that the probe needs `cluster_state:ok` before the bootstrap is only \
             a remark. Then freezes a replica's server whose pod is Ready: it must be told not Ready within the probe's own arithmetic.",
    run: |cx| Box::pin(readiness(cx)),
};

pub(super) const LIVENESS: Case = Case {
    id: CaseId("K8S-06"),
    title: "a frozen server's container is started again",
    requirement: "A liveness probe SHOULD exist and ask the server with the password: a frozen server still accepts connections.",
    source: "Kubernetes documentation, Configure Liveness, Readiness and Startup Probes; the seed has none",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A5],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "failureThreshold · periodSeconds + timeoutSeconds, or the other way round where that is longer, + \
            terminationGracePeriodSeconds + T_sched",
    controls: &["manifest:liveness-of-the-port"],
    method: "Applies the rules of `lint` for this row to the live objects. Then freezes a replica's server: its container must be started again \
             within the probe's own arithmetic, the pod's grace period (a frozen process ends by SIGKILL only) and a start.",
    run: |cx| Box::pin(liveness(cx)),
};

pub(super) const BUDGET: Case = Case {
    id: CaseId("K8S-08"),
    title: "a PodDisruptionBudget lets one pod go at a time, and refuses a second",
    requirement: "A PodDisruptionBudget that lets one pod go at a time MUST select the servers' pods.",
    source: "Kubernetes documentation, Disruptions and Specifying a Disruption Budget; the seed has none",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A5],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "T_names for each count",
    controls: &["manifest:no-disruption-budget", "manifest:disruption-budget-of-three"],
    method: "Applies the rules of `lint` for this row to the live objects (policy/v1, or v1beta1). `status.disruptionsAllowed` must be 1 and an \
             eviction (`dryRun=All`) be let through; with a replica kept away it must be 0, and an eviction of every other server's pod be \
             refused by HTTP 429: with a budget for each of two StatefulSets a master and its replica might go at once.",
    run: |cx| Box::pin(budget(cx)),
};

pub(super) const GRACE: Case = Case {
    id: CaseId("K8S-12"),
    title: "a master that waits for a frozen replica ends before SIGKILL",
    requirement: "terminationGracePeriodSeconds MUST exceed the preStop hook and the server's shutdown-timeout together.",
    source: "seed line 115 of its listing; Redis documentation, SIGTERM handling; measured on 7.0.15: 10.11 s with a replica that \
             does not answer",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A5],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "terminationGracePeriodSeconds",
    controls: &["manifest:grace-period-of-a-second"],
    method: "Applies the rules of `lint` for this row to the live objects. Then freezes a replica, writes to its master, and deletes the \
             master's pod: the server waits for the replica and must have ended within the grace period; exit code 137 is SIGKILL's.",
    run: |cx| Box::pin(grace(cx)),
};

pub(super) const HANDOVER: Case = Case {
    id: CaseId("K8S-13"),
    title: "a master is handed over before it is stopped",
    requirement: "A preStop hook SHOULD fail a master over before it gets SIGTERM.",
    source: "Kubernetes documentation, Container Lifecycle Hooks; measured: a gap of 50-60 ms instead of 8.7-9.4 s; Valkey 9, \
             `shutdown-on-sigterm failover`",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A5],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes],
    features: &[Feature::Wait],
    bound: "1 s",
    controls: &["manifest:nothing-handed-over"],
    method: "Applies the rules of `lint` for this row to the live objects. Then looks at the failover of FAIL-04, a master's pod that is \
             deleted: its replica must be a master before the server has ended, and no write to the shard be missing for 1 s.",
    run: |cx| Box::pin(handover(cx)),
};

/// The longest time without writes that a handover before the stop leaves.
const HANDED_OVER: Duration = Duration::from_secs(1);

/// A probe of a server's container.
async fn probe(cx: &Context, of: &Member, kind: &str) -> Result<Probe, Stop> {
    let (container, _) = server_container(cx, &of.name).await?;
    let found = Probe::of(&container, kind);
    found.ok_or_else(|| Mismatch::new(format!("a {kind} of the server's container in {}", of.name), "none").into())
}

/// How long a server's pod is given to end.
async fn grace_of(cx: &Context, member: &Member) -> Result<Duration, Stop> {
    let (_, pod) = server_container(cx, &member.name).await?;
    Ok(grace_period(&pod))
}

/// `terminationGracePeriodSeconds` of a pod's `spec`.
fn grace_period(pod: &Value) -> Duration {
    Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(30))
}

async fn pod_of(cx: &Context, member: &Member) -> Result<Option<Pod>, Stop> {
    let pods = cx.deployment()?.pods().await?;
    Ok(pods.into_iter().find(|pod| pod.name == member.name))
}

/// Freezes a replica's server until its pod is as it must be; then has it go on.
async fn frozen(
    cx: &Context,
    replica: &Member,
    what: &str,
    bound: Duration,
    reached: impl Fn(&Pod, &Pod) -> bool,
) -> Result<Duration, Stop> {
    // One that was not Ready before, since it has just come back, would say nothing.
    ready(cx, replica, true, cx.timing().arrange()).await?;
    let before = pod_of(cx, replica).await?;
    let before = before.ok_or_else(|| anyhow::anyhow!("{replica} has no pod"))?;
    let work = async {
        let since = cx.inject(Fault::Pause, replica).await?;
        eventually(cx, &format!("{what} of {}", replica.name), bound, async || {
            let now = pod_of(cx, replica).await?;
            Ok(match now {
                Some(now) if reached(&before, &now) => Look::Reached(since.elapsed()),
                Some(now) => Look::NotYet(format!("{}: ready {}, restarts {}", now.name, now.ready, now.restarts)),
                None => Look::NotYet("there is no such pod".into()),
            })
        })
        .await
    };
    with_cleanup(work, cx.undo_faults()).await
}

async fn readiness(cx: &Context) -> Outcome {
    rules(cx, Level::Must).await?;
    let replica = a_replica(cx).await?;
    let probe = probe(cx, &replica, "readinessProbe").await?;
    able(cx, Capability::Pause, "that a frozen server is not Ready")?;
    let bound = probe.notices() + cx.patience();
    let what = "the frozen server is told not Ready, the pod";
    let took = frozen(cx, &replica, what, bound, |_, now| !now.ready).await?;
    cx.measure("until a frozen server was not Ready", took, None, Some(bound));
    Ok(())
}

async fn liveness(cx: &Context) -> Outcome {
    rules(cx, Level::Should).await?;
    let replica = a_replica(cx).await?;
    let probe = probe(cx, &replica, "livenessProbe").await?;
    able(cx, Capability::Pause, "that a frozen server is started again")?;
    let bound = probe.notices() + grace_of(cx, &replica).await? + cx.timing().scheduling();
    let again = |before: &Pod, now: &Pod| now.restarts > before.restarts;
    let what = "the frozen server's container is started again, the pod";
    let took = frozen(cx, &replica, what, bound, again).await?;
    cx.measure("until a frozen server was started again", took, None, Some(bound));
    Ok(())
}

/// The name of the budget that selects a pod.
fn budget_of(objects: &Objects, pods: &[Described], pod: &str) -> Result<String, Mismatch> {
    let deployment = lint::recognise(&objects.live);
    let of_pod: Vec<&Described> = pods.iter().filter(|described| described.pod.name == pod).collect();
    let selected =
        |budget: &Object<'_>, described: &Described| selects(&budget.at("spec/selector"), &described.labels());
    let budget = deployment
        .objects
        .iter()
        .filter(|object| object.is("PodDisruptionBudget"))
        .find(|budget| of_pod.iter().any(|described| selected(budget, described)));
    let expected = || Mismatch::new(format!("a PodDisruptionBudget that selects {pod}"), "none");
    Ok(budget.ok_or_else(expected)?.document.name().to_owned())
}

/// Waits until the platform counts that so many pods may be evicted.
async fn until_allowed(cx: &Context, name: &str, allowed: i64) -> Outcome {
    let what = format!("disruptionsAllowed of PodDisruptionBudget/{name} is {allowed}");
    eventually(cx, &what, cx.timing().names(), async || {
        let budgets = permitted(cx.deployment()?.budgets().await)?;
        let own = budgets.into_iter().find(|budget| budget.name == name);
        Ok(match own {
            Some(own) if own.allowed == allowed => Look::Reached(()),
            Some(own) => Look::NotYet(format!("{} of {} pods may go", own.allowed, own.pods)),
            None => Look::NotYet("it is not there".into()),
        })
    })
    .await
}

async fn budget(cx: &Context) -> Outcome {
    let objects = rules(cx, Level::Must).await?;
    let away = a_replica(cx).await?;
    let pods = described(cx).await?;
    let name = budget_of(&objects, &pods, &away.name)?;
    until_allowed(cx, &name, 1).await?;
    let deployment = cx.deployment()?;
    let first = permitted(deployment.may_evict(&away.name).await)?;
    judge_eviction(&away.name, &first, true)?;
    able(cx, Capability::KeepAway, "a second eviction")?;
    let work = async {
        cx.inject(Fault::KeepAway, &away).await?;
        until_allowed(cx, &name, 0).await?;
        let names = pods.iter().map(|described| described.pod.name.as_str());
        let others: Vec<&str> = names.filter(|name| *name != away.name).collect();
        // One by one: of many at once the API might refuse some for their number.
        for other in others {
            judge_eviction(other, &permitted(deployment.may_evict(other).await)?, false)?;
        }
        Ok(())
    };
    with_cleanup(work, cx.undo_faults()).await
}

/// Whether an eviction was answered as it must be.
fn judge_eviction(pod: &str, answer: &Result<(), String>, allowed: bool) -> Result<(), Mismatch> {
    let seen = match answer {
        Ok(()) => format!("{pod} may be evicted"),
        Err(refusal) => format!("{pod}: {refusal}"),
    };
    let by_budget = answer
        .as_ref()
        .is_err_and(|refusal| refusal.contains("disruption budget"));
    match allowed {
        true => expect(answer.is_ok(), "an eviction that is let through", seen),
        false => expect(
            by_budget,
            "with another pod away, an eviction that the disruption budget refuses",
            seen,
        ),
    }
}

async fn grace(cx: &Context) -> Outcome {
    rules(cx, Level::Must).await?;
    able(cx, Capability::Pause, "how a server ends that waits for its replica")?;
    able(cx, Capability::Restart, "how a server ends that waits for its replica")?;
    let shard = pick_shard(cx, &cx.view().await?).await?;
    let grace = grace_of(cx, &shard.master).await?;
    let pod = pod_of(cx, &shard.master).await?;
    let pod = pod.ok_or_else(|| anyhow::anyhow!("{} has no pod", shard.master))?;
    let key = cx.key_in(shard.slot, "unseen");
    let work = async {
        cx.inject(Fault::Pause, &shard.replica).await?;
        // What the replica has not seen is what the master waits for; it vanishes by itself.
        let mut connection = cx.connect(&shard.master.address).await?;
        let written = connection.call(&["SET", &key, "1", "PX", "120000"]).await?;
        expect(written.is_ok(), "OK to a write", written.to_string())?;
        let deployment = cx.deployment()?;
        let patience = grace + cx.timing().scheduling();
        let code = tokio::time::timeout(patience, deployment.exit_code(&pod));
        let began = Instant::now();
        let stopped = async {
            cx.inject(Fault::Restart, &shard.master).await?;
            Ok::<_, Stop>(began.elapsed())
        };
        let (stopped, code) = tokio::join!(stopped, code);
        // Where nobody tells it the time alone is judged.
        let code = code.ok().transpose()?.flatten();
        Ok((stopped?, code))
    };
    let (took, code) = with_cleanup(work, cx.undo_faults()).await?;
    cx.measure("until the server had ended", took, None, Some(grace));
    let told = code.map_or("was not told".to_owned(), |code| format!("was {code}"));
    cx.note(format!("the exit code of {} {told}", shard.master.name));
    Ok(ended_by_itself(took, grace, code)?)
}

/// Expects that a server ended before it was killed.
fn ended_by_itself(took: Duration, grace: Duration, code: Option<i32>) -> Result<(), Mismatch> {
    let told = code.map_or(String::new(), |code| format!(", with the exit code {code}"));
    expect(
        code != Some(137) && (took < grace || code == Some(0)),
        format!(
            "a server that ends by itself within the grace period of {} s",
            grace.as_secs()
        ),
        format!("it ended after {:.1} s{told}", took.as_secs_f64()),
    )
}

async fn handover(cx: &Context) -> Outcome {
    rules(cx, Level::Should).await?;
    able(cx, Capability::KeepAway, "that a master is handed over")?;
    let seen = observe(cx).await?;
    let promoted = seen.promotion.clone()?;
    let ended = seen.gone.duration_since(seen.fault);
    let gap = seen.write_gap();
    cx.measure("until the replica was a master", promoted, None, Some(ended));
    cx.measure(
        "longest time without an acknowledged write",
        gap,
        None,
        Some(HANDED_OVER),
    );
    Ok(handed_over(promoted, ended, gap)?)
}

/// Expects a handover before the end, with no gap to speak of.
fn handed_over(promoted: Duration, ended: Duration, gap: Duration) -> Result<(), Mismatch> {
    expect(
        promoted <= ended && gap < HANDED_OVER,
        "a replica that is a master before the server has ended, and less than 1 s without an acknowledged write",
        format!(
            "a master after {:.1} s, the server's end after {:.1} s, {:.1} s without a write",
            promoted.as_secs_f64(),
            ended.as_secs_f64(),
            gap.as_secs_f64()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::kubernetes::placement::tests::pod;
    use crate::manifest::Manifest;
    use rstest::rstest;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[rstest]
    #[case(json!({}), 30)]
    #[case(json!({"terminationGracePeriodSeconds": 75}), 75)]
    fn the_grace_period_has_kubernetes_default(#[case] pod: Value, #[case] seconds: u64) {
        assert_eq!(grace_period(&pod), Duration::from_secs(seconds));
    }

    fn budget(name: &str, labels: &str) -> String {
        format!(
            "---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: {name}}}\n\
             spec: {{maxUnavailable: 1, selector: {{matchLabels: {labels}}}}}\n"
        )
    }

    #[rstest]
    #[case::one_for_all(&[("all", "{app: r}")], Some("all"))]
    #[case::each_its_own(&[("a", "{role: follower}"), ("b", "{role: leader}")], Some("b"))]
    #[case::of_others(&[("a", "{role: follower}")], None)]
    fn a_pod_s_budget_is_found(#[case] budgets: &[(&str, &str)], #[case] expected: Option<&str>) {
        let text: String = budgets.iter().map(|(name, labels)| budget(name, labels)).collect();
        let objects = Objects {
            live: Manifest::parse("m.yaml", &text).unwrap(),
            workloads: Vec::new(),
            applied: None,
            refused: BTreeMap::new(),
        };
        let described = |name: &str| {
            let role = name.split('-').next().unwrap();
            let labels = json!({"metadata": {"labels": {"app": "r", "role": role, "pod": name}}});
            Described::new(pod(name, "host", "10.0.0.1"), labels)
        };
        let pods = ["leader-0", "leader-1", "follower-0"].map(described);
        assert_eq!(budget_of(&objects, &pods, "leader-0").ok().as_deref(), expected);
    }

    #[rstest]
    #[case(Ok(()), true, true)]
    #[case(Ok(()), false, false)]
    #[case(
        Err("Cannot evict pod as it would violate the pod's disruption budget."),
        false,
        true
    )]
    #[case(
        Err("Cannot evict pod as it would violate the pod's disruption budget."),
        true,
        false
    )]
    #[case(Err("pods \"x\" not found"), false, false)]
    fn an_eviction_is_answered_by_the_budget(
        #[case] answer: Result<(), &str>,
        #[case] allowed: bool,
        #[case] fine: bool,
    ) {
        let answer = answer.map_err(str::to_owned);
        assert_eq!(judge_eviction("r-0", &answer, allowed).is_ok(), fine);
    }

    #[rstest]
    #[case(10, Some(0), true)]
    #[case(10, None, true)]
    #[case(20, None, false)]
    #[case(19, Some(137), false)]
    // The end was seen late, and yet the server ended by itself.
    #[case(25, Some(0), true)]
    fn sigkill_is_no_end_of_its_own(#[case] seconds: u64, #[case] code: Option<i32>, #[case] fine: bool) {
        let judged = ended_by_itself(Duration::from_secs(seconds), Duration::from_secs(20), code);
        assert_eq!(judged.is_ok(), fine);
    }

    #[rstest]
    #[case(60, 100, 60, true)]
    #[case(200, 100, 60, false)]
    #[case(60, 100, 1000, false)]
    fn a_handover_comes_before_the_end(
        #[case] promoted: u64,
        #[case] ended: u64,
        #[case] gap: u64,
        #[case] fine: bool,
    ) {
        let [promoted, ended, gap] = [promoted, ended, gap].map(Duration::from_millis);
        assert_eq!(handed_over(promoted, ended, gap).is_ok(), fine);
    }
}

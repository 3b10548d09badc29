//! The deployment as a whole: left alone, twice at once, and taken away.

use super::objects::rules;
use crate::away::{EMPTIED, reapplied};
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile};
use crate::cases::bootstrap::copies::{look_at, not_ready};
use crate::check::{Look, eventually, no_findings};
use crate::cluster::view::ClusterView;
use crate::context::{Claim, Context, Event, Pod, Variant};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(super) const STEADY: Case = Case {
    id: CaseId("K8S-23"),
    title: "left alone, no container restarts and nothing is warned of",
    requirement: "In steady state containers MUST NOT be started again, nor Warning events be told of the deployment.",
    source: "Kubernetes documentation, Pod Lifecycle, section Container restarts",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "T_soak",
    controls: &[],
    method: "Watches the pods and the events for T_soak while the cases run that break nothing: no pod may be another, have restarted, or \
             wait in trouble, and no Warning about the pods or their workload be told, or told again. What was there before is a remark.",
    run: |cx| Box::pin(steady(cx)),
};

pub(super) const ANY_NAMESPACE: Case = Case {
    id: CaseId("K8S-24"),
    title: "the manifest works in two namespaces at once",
    requirement: "The manifest MUST work in any namespace that exists.",
    source: "seed line 319, and 133-136 of its listing",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant],
    features: &[],
    bound: "T_deploy, then T_sync + T_stable",
    controls: &["manifest:namespace-written-down"],
    method: "Applies the rules of `lint` for this row to the live objects. Then applies the manifest in a second namespace, unaltered: both must \
             be whole at the same time, each of its own pods alone, by the ids and addresses that all nodes tell.",
    run: |cx| Box::pin(any_namespace(cx)),
};

pub(super) const REMOVED: Case = Case {
    id: CaseId("K8S-26"),
    title: "deleting the manifest leaves nothing but volume claims",
    requirement: "Deleting the manifest's objects MUST remove all that belongs to the deployment, and keep its volume claims.",
    source: "Kubernetes documentation, StatefulSets, section Limitations; Garbage Collection",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Reapply],
    features: &[],
    bound: "60 s",
    controls: &[],
    method: "Looks at the deletion of OPS-09: within 60 s after the servers have ended the namespace may hold nothing but what the platform \
             (Kubernetes, Istio, OpenShift) puts into each; every volume claim must still be there, with the uid that it had.",
    run: |cx| Box::pin(removed(cx)),
};

/// How often the API is asked while the deployment is left alone.
const EVERY: Duration = Duration::from_secs(2);

/// How often each warning was told, by its object, its reason and its words.
type Warnings = BTreeMap<(String, String, String), i32>;

/// The warnings about the deployment: its workload, its pods, their claims.
fn warnings(events: &[Event], about: &BTreeSet<String>) -> Warnings {
    let mut told = Warnings::new();
    for event in events
        .iter()
        .filter(|event| event.kind == "Warning" && about.contains(&event.object))
    {
        let key = (
            event.object.clone(),
            event.reason.clone(),
            event.message.trim().to_owned(),
        );
        *told.entry(key).or_default() += event.count.max(1);
    }
    told
}

/// What was told since, or told more often.
fn new_warnings(before: &Warnings, now: &Warnings) -> Vec<String> {
    let more = now
        .iter()
        .filter(|(key, count)| before.get(*key).copied().unwrap_or(0) < **count);
    more.map(|((object, reason, message), _)| format!("Warning {object} {reason}: {message}"))
        .collect()
}

/// What is not as it was with the pods.
fn unsteady(before: &[Pod], now: &[Pod]) -> Vec<String> {
    let mut found = Vec::new();
    for old in before {
        match now.iter().find(|pod| pod.name == old.name) {
            None => found.push(format!("{} is gone", old.name)),
            Some(pod) if pod.uid != old.uid => found.push(format!("{} is another pod", old.name)),
            Some(pod) if pod.restarts > old.restarts => {
                let trouble = pod.trouble.as_deref().unwrap_or("no reason is told");
                found.push(format!(
                    "{}: {} restarts, {} before: {trouble}",
                    pod.name, pod.restarts, old.restarts
                ));
            }
            Some(_) => {}
        }
    }
    let waits = |pod: &&Pod| {
        pod.trouble
            .as_deref()
            .is_some_and(|trouble| trouble.starts_with("CrashLoopBackOff"))
    };
    found.extend(
        now.iter()
            .filter(waits)
            .map(|pod| format!("{}: CrashLoopBackOff", pod.name)),
    );
    found
}

/// The objects whose warnings count.
fn concerned(pods: &[Pod], workloads: &[String]) -> BTreeSet<String> {
    let own = pods.iter().map(|pod| format!("Pod/{}", pod.name));
    let claims = pods
        .iter()
        .flat_map(|pod| &pod.claims)
        .map(|claim| format!("PersistentVolumeClaim/{claim}"));
    own.chain(claims).chain(workloads.iter().cloned()).collect()
}

async fn steady(cx: &Context) -> Outcome {
    let workloads = super::objects::objects(cx).await?.workloads.clone();
    let deployment = cx.deployment()?;
    let before = deployment.pods().await?;
    let about = concerned(&before, &workloads);
    let told = warnings(&deployment.events().await?, &about);
    let restarts: i32 = before.iter().map(|pod| pod.restarts).sum();
    if restarts > 0 || !told.is_empty() {
        cx.note(format!("before: {restarts} restarts, {} kinds of warnings", told.len()));
    }
    let hold = cx.timing().soak();
    let (began, mut last) = (Instant::now(), None::<Instant>);
    eventually(
        cx,
        "nothing restarts and nothing is warned of",
        hold + cx.patience(),
        async || {
            if last.is_none_or(|last| last.elapsed() >= EVERY) {
                last = Some(Instant::now());
                let mut found = unsteady(&before, &deployment.pods().await?);
                found.extend(new_warnings(&told, &warnings(&deployment.events().await?, &about)));
                no_findings("no restart and no Warning event", &found)?;
            }
            Ok(match began.elapsed() >= hold {
                true => Look::Reached(()),
                false => Look::NotYet("all as it was".into()),
            })
        },
    )
    .await
}

async fn any_namespace(cx: &Context) -> Outcome {
    rules(cx, Level::Must).await?;
    cx.with_variant(Variant::Unaltered, async |copy| {
        eventually(
            cx,
            "all pods of the second one are Ready",
            cx.timing().deployment(),
            async || {
                let waiting = not_ready(copy).await?;
                Ok(match waiting.is_empty() {
                    true => Look::Reached(()),
                    false => Look::NotYet(waiting),
                })
            },
        )
        .await?;
        let bound = cx.timing().sync() + cx.timing().stable();
        eventually(cx, "both are whole, each of its own pods", bound, async || {
            let (ours, theirs) = (cx.look().await?, look_at(cx, copy).await?);
            let mut missing: Vec<String> = Vec::new();
            missing.extend(
                ours.not_whole(cx.shape())
                    .into_iter()
                    .map(|it| format!("the deployment: {it}")),
            );
            missing.extend(
                theirs
                    .not_whole(cx.shape())
                    .into_iter()
                    .map(|it| format!("the second one: {it}")),
            );
            missing.extend(shared_nodes(&ours, &theirs));
            Ok(match missing.is_empty() {
                true => Look::Reached(()),
                false => Look::NotYet(missing.join("\n")),
            })
        })
        .await
    })
    .await
}

/// The nodes that both clusters know.
fn shared_nodes(one: &ClusterView, other: &ClusterView) -> Vec<String> {
    let known = |view: &ClusterView| -> BTreeSet<String> {
        view.nodes
            .iter()
            .flat_map(|node| &node.nodes)
            .map(|line| line.id.clone())
            .collect()
    };
    known(one)
        .intersection(&known(other))
        .map(|id| format!("both know the node {id}"))
        .collect()
}

async fn removed(cx: &Context) -> Outcome {
    let seen = reapplied(cx).await?;
    let took = match &seen.emptied {
        Some(emptied) => emptied.clone()?,
        None => return Err(Stop::Unsupported("what a namespace holds may not be looked at".into())),
    };
    cx.measure("until nothing was left but claims", took, None, Some(EMPTIED));
    Ok(kept(&seen.claims[0], &seen.claims[1])?)
}

/// Expects every claim of before to be there still.
fn kept(before: &[Claim], meanwhile: &[Claim]) -> Result<(), Mismatch> {
    let there = |claim: &&Claim| !meanwhile.iter().any(|other| other.uid == claim.uid && !other.leaving);
    let lost = before
        .iter()
        .filter(there)
        .map(|claim| format!("volume claim {} is gone, or about to go", claim.name));
    no_findings("every volume claim of before", &lost.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::kubernetes::placement::tests::pod;
    use rstest::rstest;

    fn event(kind: &str, object: &str, count: i32) -> Event {
        Event {
            kind: kind.into(),
            reason: "Unhealthy".into(),
            object: object.into(),
            message: "the probe failed".into(),
            count,
            at: None,
        }
    }

    #[rstest]
    #[case(&[], &[event("Warning", "Pod/r-0", 1)], 1)]
    #[case(&[event("Warning", "Pod/r-0", 1)], &[event("Warning", "Pod/r-0", 2)], 1)]
    #[case(&[event("Warning", "Pod/r-0", 2)], &[event("Warning", "Pod/r-0", 2)], 0)]
    #[case(&[], &[event("Normal", "Pod/r-0", 1), event("Warning", "Pod/other", 1)], 0)]
    fn a_warning_that_is_new_is_told(#[case] before: &[Event], #[case] now: &[Event], #[case] expected: usize) {
        let about = concerned(&[pod("r-0", "a", "x")], &["StatefulSet/r".to_owned()]);
        assert_eq!(
            new_warnings(&warnings(before, &about), &warnings(now, &about)).len(),
            expected
        );
    }

    #[rstest]
    #[case(|_: &mut Pod| {}, 0)]
    #[case(|pod: &mut Pod| pod.restarts = 1, 1)]
    #[case(|pod: &mut Pod| pod.uid = "another".into(), 1)]
    #[case(|pod: &mut Pod| pod.name = "other".into(), 1)]
    #[case(|pod: &mut Pod| pod.trouble = Some("CrashLoopBackOff: back-off".into()), 1)]
    fn a_pod_that_is_not_what_it_was_is_told(#[case] change: fn(&mut Pod), #[case] expected: usize) {
        let before = [pod("r-0", "a", "x")];
        let mut now = before.clone();
        change(&mut now[0]);
        assert_eq!(unsteady(&before, &now).len(), expected);
    }

    #[rstest]
    #[case("u", false, true)]
    #[case("v", false, false)]
    #[case("u", true, false)]
    fn a_claim_that_is_lost_is_told(#[case] uid: &str, #[case] leaving: bool, #[case] fine: bool) {
        let claim = |uid: &str, leaving| Claim {
            name: "data-r-0".into(),
            uid: uid.into(),
            phase: "Bound".into(),
            access_modes: Vec::new(),
            volume: None,
            leaving,
        };
        assert_eq!(kept(&[claim("u", false)], &[claim(uid, leaving)]).is_ok(), fine);
    }
}

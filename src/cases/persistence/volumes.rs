//! The cases of chapter PERS about volume claims, and about what fills a volume.

use crate::away::reapplied;
use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile};
use crate::check::{Look, eventually, no_findings};
use crate::context::{Claim, Context, LiveKind, Pod};
use crate::verdict::{Outcome, Stop};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) const ONE_EACH: Case = Case {
    id: CaseId("PERS-05"),
    title: "every pod has one bound volume claim of its own",
    requirement: "Every pod MUST have a volume claim of its own that is Bound and ReadWriteOnce, and no two the same volume.",
    source: "seed, volumeClaimTemplates of the StatefulSet; Kubernetes documentation, Persistent Volumes, sections Binding and Access Modes",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "T_reply",
    controls: &[],
    method: "Asks the API for the pods and the volume claims of the namespace. Every pod must mount exactly one claim, which no other \
             pod mounts; the claim must be `Bound`, its access modes `ReadWriteOnce` or `ReadWriteOncePod` alone, and its volume that of no other.",
    run: |cx| Box::pin(one_each(cx)),
};

pub(super) const OUTLIVE: Case = Case {
    id: CaseId("PERS-06"),
    title: "the volume claims outlive the StatefulSet",
    requirement: "Deletion of the StatefulSet MUST NOT delete the volume claims of its pods, unless its retention policy says so.",
    source: "Kubernetes documentation, StatefulSets, sections Limitations and PersistentVolumeClaim retention",
    level: Level::Must,
    profile: Profile::Chaos,
    seed: &[],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Reapply],
    features: &[],
    bound: "-",
    controls: &[],
    method: "Looks at the deletion of OPS-09: once all servers have ended, every volume claim must still be there, the same by its uid, \
             `Bound` to the same volume and not about to go; applied again, the pods must have taken them, and no claim be new. \
             Unsupported where there are no claims, or `persistentVolumeClaimRetentionPolicy` has `whenDeleted: Delete`.",
    run: |cx| Box::pin(outlive(cx)),
};

pub(super) const LOGS: Case = Case {
    id: CaseId("PERS-12"),
    title: "the servers log to their standard output, not to their volumes",
    requirement: "A server's log SHOULD go to its standard output, where the platform rotates it, and not grow on its data volume.",
    source: "seed lines 58 and 61 of its listing (`logfile`); Kubernetes documentation, Logging Architecture",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[Feature::Config],
    bound: "-",
    controls: &[],
    method: "`CONFIG GET logfile` must be empty on every server, and the log of its container, as the API gives it, not be.",
    run: |cx| Box::pin(logs(cx)),
};

async fn one_each(cx: &Context) -> Outcome {
    let deployment = cx.deployment()?;
    let what = "one bound claim of its own for every pod";
    eventually(cx, what, cx.timing().reply(), async || {
        let findings = unfit(&deployment.pods().await?, &deployment.claims().await?);
        Ok(match findings.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(findings.join("\n")),
        })
    })
    .await
}

/// What is wrong with the claims of pods.
fn unfit(pods: &[Pod], claims: &[Claim]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pod in pods {
        if pod.claims.len() != 1 {
            findings.push(format!(
                "{} mounts {} claims: {:?}",
                pod.name,
                pod.claims.len(),
                pod.claims
            ));
        }
        for name in &pod.claims {
            let Some(claim) = claims.iter().find(|claim| claim.name == *name) else {
                findings.push(format!("{}: there is no claim {name}", pod.name));
                continue;
            };
            if claim.phase != "Bound" || claim.leaving {
                let leaving = if claim.leaving { ", being deleted" } else { "" };
                findings.push(format!("{}: {name} is {}{leaving}", pod.name, claim.phase));
            }
            let once = |mode: &String| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
            if claim.access_modes.is_empty() || !claim.access_modes.iter().all(once) {
                findings.push(format!("{}: {name} is {}", pod.name, claim.access_modes.join(", ")));
            }
            // A claim without a volume is not Bound, which has been said.
            users
                .entry(claim.volume.as_deref().unwrap_or(name))
                .or_default()
                .push(&pod.name);
        }
    }
    if pods.is_empty() {
        findings.push("there are no pods".into());
    }
    let shared = users.iter().filter(|(_, users)| users.len() > 1);
    findings.extend(shared.map(|(volume, users)| format!("{} have one volume: {volume}", users.join(" and "))));
    findings
}

/// The workload whose claims are meant to go with it, where there is one.
fn gives_claims_up(workloads: &[(String, Value)]) -> Option<&str> {
    let policy = "/spec/persistentVolumeClaimRetentionPolicy/whenDeleted";
    let deletes = |object: &Value| object.pointer(policy).and_then(Value::as_str) == Some("Delete");
    let found = workloads.iter().find(|(_, object)| deletes(object));
    found.map(|(name, _)| name.as_str())
}

async fn outlive(cx: &Context) -> Outcome {
    if let Some(name) = gives_claims_up(&cx.deployment()?.live(LiveKind::Workload).await?) {
        let reason = format!("{name}: persistentVolumeClaimRetentionPolicy has whenDeleted: Delete");
        return Err(Stop::Unsupported(reason));
    }
    let seen = reapplied(cx).await?;
    let [before, meanwhile, after] = &seen.claims;
    if before.is_empty() {
        return Err(Stop::Unsupported("there are no volume claims (PERS-05)".into()));
    }
    let mut findings = gone(before, meanwhile, "without the StatefulSet");
    findings.extend(gone(before, after, "once it was applied again"));
    no_findings("every volume claim of before, bound to its volume", &findings)?;
    cx.count("claims that outlived the StatefulSet", before.len(), "claims");
    Ok(())
}

/// Claims that are not what they were, and claims that were not there.
fn gone(before: &[Claim], now: &[Claim], when: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for claim in before {
        match now.iter().find(|other| other.uid == claim.uid) {
            None => findings.push(format!("{when}: {} is gone", claim.name)),
            Some(other) if other.leaving => findings.push(format!("{when}: {} is being deleted", claim.name)),
            Some(other) if (&other.phase, &other.volume) != (&claim.phase, &claim.volume) => findings.push(format!(
                "{when}: {} is {} to {:?}, before: {} to {:?}",
                claim.name, other.phase, other.volume, claim.phase, claim.volume
            )),
            Some(_) => {}
        }
    }
    let known = |claim: &&Claim| before.iter().any(|other| other.uid == claim.uid);
    let new = now.iter().filter(|claim| !known(claim));
    findings.extend(new.map(|claim| format!("{when}: {} was not there before", claim.name)));
    findings
}

async fn logs(cx: &Context) -> Outcome {
    let deployment = cx.deployment()?;
    let expected = "`CONFIG GET logfile` -> \"\", and a log of the container";
    cx.judge_every_node(expected, async |member, connection| {
        let file = connection.setting("logfile").await?;
        let log = deployment.log(&member.name, false).await?;
        Ok(unlogged(&member.name, file.as_deref(), &log))
    })
    .await
}

/// What is wrong with where a server logs.
fn unlogged(name: &str, file: Option<&str>, log: &str) -> Vec<String> {
    let mut findings = Vec::new();
    match file {
        Some("") => {}
        Some(file) => findings.push(format!("{name}: CONFIG GET logfile -> {file}")),
        None => findings.push(format!("{name}: CONFIG GET logfile gives nothing")),
    }
    if log.trim().is_empty() {
        findings.push(format!("{name}: the log of its container is empty"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn pod(number: usize, claims: &[&str]) -> Pod {
        Pod {
            name: format!("r-{number}"),
            uid: number.to_string(),
            address: None,
            phase: "Running".into(),
            ready: true,
            restarts: 0,
            trouble: None,
            host: None,
            claims: claims.iter().map(|claim| (*claim).to_owned()).collect(),
            leaving: false,
        }
    }

    fn claim(number: usize) -> Claim {
        Claim {
            name: format!("data-r-{number}"),
            uid: format!("claim {number}"),
            phase: "Bound".into(),
            access_modes: vec!["ReadWriteOnce".into()],
            volume: Some(format!("volume {number}")),
            leaving: false,
        }
    }

    fn pods() -> Vec<Pod> {
        vec![pod(0, &["data-r-0"]), pod(1, &["data-r-1"])]
    }

    #[rstest]
    #[case::as_it_should_be(pods(), vec![claim(0), claim(1)], "")]
    #[case::none(vec![pod(0, &[]), pod(1, &["data-r-1"])], vec![claim(1)], "r-0 mounts 0 claims")]
    #[case::two(vec![pod(0, &["data-r-0", "data-r-1"])], vec![claim(0), claim(1)], "r-0 mounts 2 claims")]
    #[case::missing(pods(), vec![claim(0)], "r-1: there is no claim data-r-1")]
    #[case::pending(pods(), vec![claim(0), Claim { phase: "Pending".into(), volume: None, ..claim(1) }], "r-1: data-r-1 is Pending")]
    #[case::leaving(pods(), vec![claim(0), Claim { leaving: true, ..claim(1) }], "data-r-1 is Bound, being deleted")]
    #[case::many(pods(), vec![claim(0), Claim { access_modes: vec!["ReadWriteMany".into()], ..claim(1) }], "r-1: data-r-1 is ReadWriteMany")]
    #[case::one_volume(pods(), vec![claim(0), Claim { volume: claim(0).volume, ..claim(1) }], "r-0 and r-1 have one volume: volume 0")]
    #[case::one_claim(vec![pod(0, &["data-r-0"]), pod(1, &["data-r-0"])], vec![claim(0)], "r-0 and r-1 have one volume")]
    #[case::no_pods(vec![], vec![], "there are no pods")]
    fn claims_that_are_unfit_are_told(#[case] pods: Vec<Pod>, #[case] claims: Vec<Claim>, #[case] told: &str) {
        let findings = unfit(&pods, &claims);
        assert_eq!(findings.len(), usize::from(!told.is_empty()), "{findings:?}");
        assert!(findings.iter().all(|finding| finding.contains(told)), "{findings:?}");
    }

    #[rstest]
    #[case::kept(vec![claim(0), claim(1)], "")]
    #[case::gone(vec![claim(0)], "then: data-r-1 is gone")]
    #[case::leaving(vec![claim(0), Claim { leaving: true, ..claim(1) }], "then: data-r-1 is being deleted")]
    #[case::other_volume(vec![claim(0), Claim { volume: Some("x".into()), ..claim(1) }], "then: data-r-1 is Bound to Some(\"x\")")]
    #[case::additional(vec![claim(0), claim(1), claim(2)], "then: data-r-2 was not there before")]
    fn claims_that_did_not_outlive_are_told(#[case] now: Vec<Claim>, #[case] told: &str) {
        let findings = gone(&[claim(0), claim(1)], &now, "then");
        assert_eq!(findings.len(), usize::from(!told.is_empty()), "{findings:?}");
        assert!(findings.iter().all(|finding| finding.starts_with(told)), "{findings:?}");
    }

    #[rstest]
    #[case::kept(serde_json::json!({"whenDeleted": "Retain", "whenScaled": "Delete"}), None)]
    #[case::given_up(serde_json::json!({"whenDeleted": "Delete", "whenScaled": "Retain"}), Some("StatefulSet/r"))]
    #[case::unsaid(Value::Null, None)]
    fn a_workload_that_gives_its_claims_up_is_told(#[case] policy: Value, #[case] told: Option<&str>) {
        let object = serde_json::json!({"spec": {"persistentVolumeClaimRetentionPolicy": policy}});
        assert_eq!(gives_claims_up(&[("StatefulSet/r".to_owned(), object)]), told);
    }

    /// A claim of the same name is another when it has another uid.
    #[test]
    fn a_claim_made_anew_is_not_the_old_one() {
        let anew = Claim {
            uid: "another".into(),
            ..claim(0)
        };
        let findings = gone(&[claim(0)], &[anew], "then");
        assert_eq!(
            findings,
            ["then: data-r-0 is gone", "then: data-r-0 was not there before"]
        );
    }

    #[rstest]
    #[case::standard_output(Some(""), "Ready to accept connections", 0)]
    #[case::a_file(Some("redis.log"), "hook: ok", 1)]
    #[case::a_file_and_no_log(Some("redis.log"), "\n", 2)]
    #[case::nothing(None, "Ready", 1)]
    fn a_log_that_goes_elsewhere_is_told(#[case] file: Option<&str>, #[case] log: &str, #[case] count: usize) {
        let findings = unlogged("r-0", file, log);
        assert_eq!(findings.len(), count, "{findings:?}");
    }
}

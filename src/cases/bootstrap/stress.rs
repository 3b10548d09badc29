//! The cases of chapter BOOT about a bootstrap under stress, in other surroundings, or cut short: each in altered copies.

use super::copies::{formed, look_at, not_ready, patience, whole_within};
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::cases::kubernetes::rules_where_seen;
use crate::check::{Look, eventually, expect};
use crate::cluster::view::ClusterView;
use crate::context::{Context, DeployedVariant, Event, Pod, Variant};
use crate::verdict::{Outcome, Stop};
use std::time::{Duration, Instant};

pub(super) const SLOW_PEER: Case = Case {
    id: CaseId("BOOT-10"),
    title: "the bootstrap waits for a slow peer, and for names that come late",
    requirement: "The bootstrap MUST retry until every peer accepts connections and has finished loading.",
    source: "Kubernetes documentation, Container hooks (a hook and the container's entry point run at the same time); Redis source, server.c",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant],
    features: &[],
    bound: "the delay + 30 s + T_sched once every pod has an address",
    controls: &[],
    method: "Applies the rules of `lint` for this row to the live objects, where they can be looked at. Then makes a copy in which one \
             server begins to listen 10 s after its container started, and, where the description says how, \
             another whose headless Service is made 15 s late, so that no peer has a name before. Each must become whole in time.",
    run: |cx| Box::pin(slow_peer(cx)),
};

pub(super) const ANY_IDENTITY: Case = Case {
    id: CaseId("BOOT-18"),
    title: "the bootstrap knows no name and no number of pods by heart",
    requirement: "The bootstrap SHOULD work for any name of the StatefulSet and its Service, any namespace and any even number of pods from 6 on.",
    source: "seed lines 15-20, 162; Kubernetes documentation, StatefulSets, section Stable Network ID",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant],
    features: &[],
    bound: "T_deploy until every server runs, then T_hook",
    controls: &[],
    method: "Makes a copy in a namespace of its own with another name of the StatefulSet, another of the headless Service, and two pods \
             more: every pod must end as a member of one cluster that serves every slot (`cluster_known_nodes`, `cluster_state:ok`).",
    run: |cx| Box::pin(any_identity(cx)),
};

pub(super) const PARALLEL: Case = Case {
    id: CaseId("BOOT-19"),
    title: "the cluster forms when all pods are started at once",
    requirement: "The bootstrap SHOULD work with `podManagementPolicy: Parallel`.",
    source: "Kubernetes documentation, StatefulSets, section Pod Management Policies",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant],
    features: &[],
    bound: "T_deploy + T_sync + T_stable",
    controls: &[],
    method: "Makes a copy with `podManagementPolicy: Parallel`; its pods must become Ready, and it a whole cluster.",
    run: |cx| Box::pin(parallel(cx)),
};

/// The delays of the variants.
const LISTENS_LATE: Duration = Duration::from_secs(10);
const NAMED_LATE: Duration = Duration::from_secs(15);

/// What the catalogue gives a bootstrap beyond a delay.
const AFTER_DELAY: Duration = Duration::from_secs(30);

async fn slow_peer(cx: &Context) -> Outcome {
    rules_where_seen(cx, Level::Must).await?;
    let mut waits = vec![(Variant::SlowPeer, LISTENS_LATE, "a peer that listens late")];
    if cx.deployment()?.variants().contains(&Variant::LateNames) {
        waits.push((Variant::LateNames, NAMED_LATE, "names that come late"));
    } else {
        cx.note("the target's description does not say how to have names come late");
    }
    for (variant, delay, what) in waits {
        let formed = cx.with_variant(variant, async |copy| formed_in_spite(cx, copy, delay, what).await);
        formed.await?;
    }
    Ok(())
}

async fn formed_in_spite(cx: &Context, copy: &dyn DeployedVariant, delay: Duration, what: &str) -> Outcome {
    let named = "every pod of the copy has an address";
    eventually(cx, named, cx.timing().deployment(), async || {
        let (declared, _) = copy.deployment().replicas().await?;
        let pods = copy.deployment().pods().await?;
        let addressed = pods.iter().filter(|pod| pod.address.is_some()).count();
        Ok(if usize::try_from(declared) == Ok(addressed) && addressed > 0 {
            Look::Reached(())
        } else {
            Look::NotYet(format!("{addressed} of {declared} have one"))
        })
    })
    .await?;
    let since = Instant::now();
    let whole = whole_within(cx, copy, delay + AFTER_DELAY + cx.timing().scheduling()).await;
    let log = copy.deployment().bootstrap_log().await.unwrap_or_default();
    if let Some(line) = log.lines().rfind(|line| line.contains("wait")) {
        cx.note(format!("{what}: the bootstrap says: {line}"));
    }
    whole?;
    let whole_after = format!("{what}: whole once every pod had an address");
    cx.measure(&whole_after, since.elapsed(), None, Some(delay + AFTER_DELAY));
    Ok(())
}

async fn parallel(cx: &Context) -> Outcome {
    cx.with_variant(Variant::Parallel, async |copy| formed(cx, copy).await)
        .await
}

async fn any_identity(cx: &Context) -> Outcome {
    cx.with_variant(Variant::OtherIdentity, async |copy| {
        let run = "every server of the copy runs";
        let nodes = eventually(cx, run, cx.timing().deployment(), async || {
            let (declared, _) = copy.deployment().replicas().await?;
            let running = copy.members().await?.len();
            Ok(if usize::try_from(declared) == Ok(running) && running > 0 {
                Look::Reached(running)
            } else {
                Look::NotYet(format!("{running} of {declared} run"))
            })
        })
        .await?;
        let member = format!("all {nodes} are members of one cluster");
        eventually(cx, &member, cx.timing().hook(), async || {
            let missing = strangers(&look_at(cx, copy).await?, nodes);
            Ok(if missing.is_empty() {
                Look::Reached(())
            } else {
                Look::NotYet(missing.join("\n"))
            })
        })
        .await
    })
    .await
}

/// What keeps servers from being members of one cluster that serves every slot, whatever its shape.
fn strangers(view: &ClusterView, nodes: usize) -> Vec<String> {
    let silent = view.silent.iter().map(|(member, error)| format!("{member}: {error}"));
    let mut findings: Vec<String> = silent.collect();
    if view.nodes.len() != nodes {
        findings.push(format!("{} of {nodes} servers answer", view.nodes.len()));
    }
    for node in &view.nodes {
        let expected = [
            ("cluster_known_nodes", nodes.to_string()),
            ("cluster_state", "ok".to_owned()),
            ("cluster_slots_ok", "16384".to_owned()),
        ];
        let wrong = expected.iter().filter(|(field, value)| node.info(field) != value);
        let wrong: Vec<String> = wrong
            .map(|(field, value)| format!("{field}:{} (expected {value})", node.info(field)))
            .collect();
        if !wrong.is_empty() {
            findings.push(format!("{}: {}", node.member.name, wrong.join(", ")));
        }
    }
    if findings.is_empty() {
        findings = view.disagreements();
    }
    findings
}

/// Waits for the end of a bootstrap that was killed in the middle; what the end was. Whole is one, a failure that the API
/// shows the other.
///
/// # Errors
/// A mismatch for all pods Ready without a cluster, or for a failure that nothing shows; an error when the bootstrap was
/// not cut short at all.
pub(super) async fn cut_short(cx: &Context, copy: &dyn DeployedVariant) -> Result<String, Stop> {
    let whole = whole_within(cx, copy, patience(cx)).await;
    let events = copy.deployment().events().await?;
    let pods = copy.deployment().pods().await?;
    let bootstrap = crate::hook::bootstrap_pod(copy.deployment())?;
    match whole {
        Ok(()) => {
            if !was_cut(&pods, &events, &bootstrap) {
                let reason = "the bootstrap was not cut short: its container was never started again";
                return Err(anyhow::anyhow!(reason).into());
            }
            Ok("a whole cluster".into())
        }
        Err(Stop::Mismatch(missing)) => {
            let waiting = not_ready(copy).await?;
            let shown = failure_shown(&waiting, &pods, &events, &bootstrap);
            expect(
                shown.is_some(),
                "a whole cluster, or a failure that the Kubernetes API shows",
                format!("pods not Ready: {waiting}; {}", missing.actual),
            )?;
            Ok(shown.unwrap_or_default())
        }
        Err(stop) => Err(stop),
    }
}

/// Whether the bootstrap's container was started more than once, or its hook failed.
fn was_cut(pods: &[Pod], events: &[Event], bootstrap: &str) -> bool {
    let restarted = pods.iter().any(|pod| pod.name == bootstrap && pod.restarts > 0);
    let object = format!("Pod/{bootstrap}");
    let failed = events
        .iter()
        .any(|event| event.object == object && event.reason == "FailedPostStartHook");
    restarted || failed
}

/// How the bootstrap's failure shows itself: a pod that is not Ready, and a reason that the API names of the bootstrap's own.
fn failure_shown(waiting: &str, pods: &[Pod], events: &[Event], bootstrap: &str) -> Option<String> {
    if waiting.is_empty() {
        return None;
    }
    let object = format!("Pod/{bootstrap}");
    let event = events
        .iter()
        .rfind(|event| event.object == object && event.reason == "FailedPostStartHook");
    if let Some(event) = event {
        return Some(format!("{} of {}", event.reason, event.object));
    }
    let pod = pods
        .iter()
        .find(|pod| pod.name == bootstrap && !pod.ready && pod.trouble.is_some())?;
    Some(format!("{}: {}", pod.name, pod.trouble.as_deref().unwrap_or_default()))
}

/// Pods and nodes for tables of tests.
#[cfg(test)]
pub(in crate::cases) mod made_up {
    use crate::cluster::connection::Address;
    use crate::cluster::node::{Member, NodeView, Role};
    use crate::context::Pod;

    /// A pod that runs: its name, whether it is Ready, its trouble, and its restarts with it.
    pub(in crate::cases) fn pod(name: &str, ready: bool, trouble: Option<&str>) -> Pod {
        Pod {
            name: name.into(),
            uid: format!("uid of {name}"),
            address: Some(format!("address of {name}")),
            phase: "Running".into(),
            ready,
            restarts: i32::from(trouble.is_some()),
            trouble: trouble.map(str::to_owned),
            host: None,
            claims: Vec::new(),
            leaving: false,
        }
    }

    /// A node that shows nobody: its name, fields of `CLUSTER INFO`, and the state of its link where it is a replica.
    pub(in crate::cases) fn node(name: &str, info: &[(&str, &str)], link: Option<&str>) -> NodeView {
        let address = Address::new(format!("address of {name}"), 6379);
        let role = match link {
            Some(link) => Role::Replica {
                master: address.clone(),
                link: link.into(),
                offset: 1,
            },
            None => Role::Master {
                offset: 1,
                replicas: Vec::new(),
            },
        };
        let text = |(field, value): &(&str, &str)| ((*field).to_owned(), (*value).to_owned());
        NodeView {
            member: Member {
                name: name.into(),
                address,
            },
            raw: Default::default(),
            info: info.iter().map(text).collect(),
            nodes: Vec::new(),
            slots: Vec::new(),
            shards: Ok(Vec::new()),
            role,
            replication: Default::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::made_up::{node, pod};
    use super::*;
    use rstest::rstest;

    fn event(object: &str, reason: &str) -> Event {
        Event {
            kind: "Warning".into(),
            reason: reason.into(),
            object: object.into(),
            message: String::new(),
            count: 1,
            at: None,
        }
    }

    const MEMBER: &[(&str, &str)] = &[
        ("cluster_known_nodes", "2"),
        ("cluster_state", "ok"),
        ("cluster_slots_ok", "16384"),
    ];
    const ALONE: &[(&str, &str)] = &[
        ("cluster_known_nodes", "1"),
        ("cluster_state", "fail"),
        ("cluster_slots_ok", "0"),
    ];

    #[rstest]
    #[case::members(&[MEMBER, MEMBER], "")]
    #[case::one_alone(&[MEMBER, ALONE], "r-1: cluster_known_nodes:1 (expected 2), cluster_state:fail")]
    #[case::one_missing(&[MEMBER], "1 of 2 servers answer")]
    #[case::nobody(&[], "0 of 2 servers answer")]
    fn a_server_that_is_no_member_is_told(#[case] infos: &[&[(&str, &str)]], #[case] told: &str) {
        let nodes = infos.iter().enumerate();
        let nodes = nodes.map(|(number, info)| node(&format!("r-{number}"), info, None));
        let view = ClusterView {
            nodes: nodes.collect(),
            silent: Vec::new(),
        };
        let findings = strangers(&view, 2).join("\n");
        assert_eq!(findings.is_empty(), told.is_empty(), "{findings}");
        assert!(findings.starts_with(told), "{findings}");
    }

    #[rstest]
    #[case::restarted(Some("Error: exit code 0"), "", true)]
    #[case::hook_failed(None, "Pod/r-5", true)]
    #[case::another_s_hook(None, "Pod/r-4", false)]
    #[case::neither(None, "", false)]
    fn a_bootstrap_that_ran_through_was_not_cut(#[case] trouble: Option<&str>, #[case] of: &str, #[case] cut: bool) {
        let events = [event(of, "FailedPostStartHook")];
        assert_eq!(was_cut(&[pod("r-5", true, trouble)], &events, "r-5"), cut);
    }

    #[rstest]
    #[case::ready_serves_nothing("", true, None, true, false)]
    #[case::event("r-5: Pending", false, None, true, true)]
    #[case::crash_loop("r-5: CrashLoopBackOff", false, Some("CrashLoopBackOff"), false, true)]
    #[case::silent("r-5: Running", false, None, false, false)]
    fn a_failure_is_shown_by_a_pod_that_is_not_ready_and_a_reason(
        #[case] waiting: &str,
        #[case] ready: bool,
        #[case] trouble: Option<&str>,
        #[case] hook_failed: bool,
        #[case] shown: bool,
    ) {
        let events: Vec<Event> = hook_failed
            .then(|| event("Pod/r-5", "FailedPostStartHook"))
            .into_iter()
            .collect();
        let pods = [pod("r-5", ready, trouble)];
        assert_eq!(failure_shown(waiting, &pods, &events, "r-5").is_some(), shown);
        // What another pod shows is no failure of the bootstrap.
        assert_eq!(failure_shown(waiting, &pods, &events, "r-4"), None);
    }
}

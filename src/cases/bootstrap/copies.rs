//! The cases of chapter BOOT that need a deployment with something wrong: each makes an altered copy beside the real one.

use super::stress;
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually};
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::node::NodeView;
use crate::cluster::view::ClusterView;
use crate::context::{Context, DeployedVariant, Event, LiveKind, Variant, authenticate};
use crate::lint;
use crate::verdict::{Mismatch, Outcome, Stop};
use serde_json::Value;
use std::time::{Duration, Instant};

pub(super) const FAILURE_IS_VISIBLE: Case = Case {
    id: CaseId("BOOT-09"),
    title: "a failed bootstrap is visible through the Kubernetes API",
    requirement: "A failed bootstrap MUST be observable through the Kubernetes API, and never end as Ready.",
    source: "Kubernetes documentation, Container hooks (FailedPostStartHook); seed lines 24, 43-44; measured",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant],
    features: &[],
    bound: "T_deploy + T_hook",
    controls: &[],
    method: "Makes a copy in which one server never listens. An event of the bootstrap pod's hook, its bootstrap's container that fails, \
             or, at the end, that pod not Ready must show it; where a Job forms the cluster, the event of its failure. All pods Ready \
             without a cluster is the failure: at once where the bootstrap is a postStart hook, which ends before its pod is Ready, else \
             at the end. In another copy, where the description says how, the bootstrap's pod is killed in the middle of the creation: \
             it must end in a whole cluster, or show its failure so.",
    run: |cx| Box::pin(failure_is_visible(cx)),
};

pub(super) const ANY_SEARCH_PATH: Case = Case {
    id: CaseId("BOOT-12"),
    title: "the cluster forms whatever the pods' DNS search path is",
    requirement: "The bootstrap MUST work whatever the pod's `search` list is.",
    source: "seed line 11; Kubernetes documentation, DNS for Services and Pods; measured",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant],
    features: &[],
    bound: "T_deploy",
    controls: &[],
    method: "Makes a copy whose pods have `dnsConfig.searches: [example.internal]`; it must become whole.",
    run: |cx| Box::pin(any_search_path(cx)),
};

pub(super) const NEVER_HANGS: Case = Case {
    id: CaseId("BOOT-14"),
    title: "the bootstrap ends in time when the bus ports are blocked",
    requirement: "The bootstrap MUST end, in success or reported failure, in bounded time when a bus port is unreachable.",
    source: "Redis Cluster tutorial, section Redis Cluster TCP ports; redis-cli source, clusterManagerWaitForClusterJoin; measured",
    level: Level::Must,
    profile: Profile::Chaos,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant, Capability::BlockBus],
    features: &[],
    bound: "T_hook after the bootstrap's pod exists",
    controls: &[],
    method: "Makes a copy in which packets to every bus port are dropped; the bootstrap must have ended T_hook after its pod was made, \
             with a failure that the Kubernetes API shows: an event of that pod's hook, or a container of the bootstrap that fails.",
    run: |cx| Box::pin(never_hangs(cx)),
};

pub(super) const WRONG_PASSWORD: Case = Case {
    id: CaseId("BOOT-20"),
    title: "a bootstrap with another password than the servers' fails visibly",
    requirement: "If the bootstrap's password differs from `requirepass`, the bootstrap MUST fail visibly.",
    source: "seed lines 63-64, 163; measured",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A3, Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant],
    features: &[],
    bound: "T_deploy + T_hook; what its log says T_hook after that",
    controls: &[],
    method: "Makes a copy whose bootstrap uses another password; the failure must be visible as in BOOT-09, and its text must name WRONGPASS, \
             NOAUTH or (Redis 5) an invalid password, or the bootstrap's log within T_hook more. Of a Job whose event names none of \
             them the log is not known: unsupported.",
    run: |cx| Box::pin(wrong_password(cx)),
};

/// How long a copy may take from its apply to the end of its bootstrap.
pub(super) fn patience(cx: &Context) -> Duration {
    cx.timing().deployment() + cx.timing().hook()
}

async fn failure_is_visible(cx: &Context) -> Outcome {
    let shown = cx
        .with_variant(Variant::SilentPeer, async |copy| {
            visible_failure(cx, copy, patience(cx), AtTheEnd::Unready).await
        })
        .await?;
    cx.note(format!("seen: {shown}"));
    if !cx.deployment()?.variants().contains(&Variant::KilledBootstrap) {
        cx.note("the target's description does not say how to kill a bootstrap in the middle");
        return Ok(());
    }
    let end = cx.with_variant(Variant::KilledBootstrap, async |copy| stress::cut_short(cx, copy).await);
    let end = end.await?;
    cx.note(format!("killed in the middle of the creation: {end}"));
    Ok(())
}

async fn never_hangs(cx: &Context) -> Outcome {
    let shown = cx
        .with_variant(Variant::BlockedBus, async |copy| {
            let pod = crate::hook::bootstrap_pod(copy.deployment())?;
            eventually(
                cx,
                &format!("the copy's pod {pod} exists"),
                cx.timing().deployment(),
                async || {
                    let pods = copy.deployment().pods().await?;
                    let found = pods.iter().any(|other| other.name == pod);
                    Ok(if found {
                        Look::Reached(())
                    } else {
                        Look::NotYet(format!("{} pods", pods.len()))
                    })
                },
            )
            .await?;
            let began = Instant::now();
            let shown = visible_failure(cx, copy, cx.timing().hook(), AtTheEnd::Nothing).await?;
            cx.measure(
                "the bootstrap's end after its pod was made",
                began.elapsed(),
                None,
                Some(cx.timing().hook()),
            );
            Ok(shown)
        })
        .await?;
    cx.note(format!("seen: {shown}"));
    Ok(())
}

async fn wrong_password(cx: &Context) -> Outcome {
    let named = |text: &str| {
        ["WRONGPASS", "NOAUTH", "invalid password"]
            .iter()
            .any(|word| text.contains(word))
    };
    cx.with_variant(Variant::WrongBootstrapPassword, async |copy| {
        let shown = visible_failure(cx, copy, patience(cx), AtTheEnd::Unready).await?;
        if named(&shown) {
            return Ok(());
        }
        if copy.deployment().bootstrap_pod().is_none() {
            return Err(Stop::Unsupported(format!(
                "the failure is seen ({shown}), and why it failed is not: the target's description names no pod whose log would tell"
            )));
        }
        // A container that has just been started again has said nothing yet.
        let what = "the bootstrap's log names WRONGPASS, NOAUTH or an invalid password";
        eventually(cx, what, cx.timing().hook(), async || {
            let log = copy.deployment().bootstrap_log().await.unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            Ok(match named(&log) {
                true => Look::Reached(()),
                false => Look::NotYet(format!("{shown}; the log's last lines: {}", last.join(" / "))),
            })
        })
        .await?;
        Ok(())
    })
    .await
}

async fn any_search_path(cx: &Context) -> Outcome {
    cx.with_variant(Variant::ExtraSearchDomain, async |copy| formed(cx, copy).await)
        .await
}

/// Waits until the copy's pods are Ready, and it is a whole cluster.
pub(in crate::cases) async fn formed(cx: &Context, copy: &dyn DeployedVariant) -> Outcome {
    let what = "all pods of the copy are Ready";
    eventually(cx, what, cx.timing().deployment(), async || {
        let waiting = not_ready(copy).await?;
        Ok(if waiting.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(waiting)
        })
    })
    .await?;
    let formed = match copy.deployment().is_formed_beside() {
        true => cx.timing().hook(),
        false => Duration::ZERO,
    };
    whole_within(cx, copy, formed + cx.timing().sync() + cx.timing().stable()).await
}

/// Waits until the copy is a whole cluster.
pub(in crate::cases) async fn whole_within(cx: &Context, copy: &dyn DeployedVariant, bound: Duration) -> Outcome {
    eventually(cx, "the copy is a whole cluster", bound, async || {
        let missing = look_at(cx, copy).await?.not_whole(cx.shape());
        Ok(if missing.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(missing.join("\n"))
        })
    })
    .await
}

/// What forms a copy's cluster: its failure alone says something of the bootstrap.
enum Forming {
    /// A container of a pod, by its name and the pod's.
    Pod {
        pod: String,
        container: String,
        /// Whether it does so in the server's postStart hook: then the pod is Ready only after the bootstrap has ended.
        in_hook: bool,
    },
    /// Jobs, each as `Job/name`.
    Jobs(Vec<String>),
}

/// What shows a failed bootstrap when the time is over, and nothing has shown it before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtTheEnd {
    /// That its pod is not Ready.
    Unready,
    /// Nothing: it must have ended.
    Nothing,
}

/// What forms the copy's cluster: the description's pod, else the Jobs among its objects that make a cluster.
async fn forming(cx: &Context, copy: &dyn DeployedVariant) -> Result<Forming, Stop> {
    let deployment = copy.deployment();
    if let Some(pod) = deployment.bootstrap_pod() {
        let container = deployment.bootstrap_container();
        return Ok(Forming::Pod {
            pod,
            container: container.unwrap_or_else(|| deployment.server_container()),
            in_hook: crate::hook::is_the_server_s(cx).await?,
        });
    }
    let objects = deployment.objects().await?;
    let jobs = lint::recognise(&objects.live).jobs.into_iter();
    let jobs: Vec<String> = jobs.map(|program| program.field.object.document.to_string()).collect();
    match jobs.is_empty() {
        true => Err(Stop::Unsupported(
            "the target's description names no pod that forms the cluster, and no Job is known that does: whose failure \
             would have to be seen cannot be said"
                .into(),
        )),
        false => Ok(Forming::Jobs(jobs)),
    }
}

/// Waits until the failed bootstrap shows itself; what showed it is returned. All pods Ready is the opposite where the
/// bootstrap is a hook: then it has ended in success, and the mismatch says what there is instead of a cluster. Any other
/// bootstrap may go on then, and has until the bound.
async fn visible_failure(
    cx: &Context,
    copy: &dyn DeployedVariant,
    bound: Duration,
    at_the_end: AtTheEnd,
) -> Result<String, Stop> {
    let forming = forming(cx, copy).await?;
    let what = "the failed bootstrap is visible through the Kubernetes API";
    let shown = eventually(cx, what, bound, async || {
        let events = copy.deployment().events().await?;
        let live = copy.deployment().live(LiveKind::Pod).await?;
        if let Some(shown) = failure_of(&forming, &events, &live) {
            return Ok(Look::Reached(shown));
        }
        let waiting = not_ready(copy).await?;
        if !waiting.is_empty() {
            return Ok(Look::NotYet(waiting));
        }
        let missing = look_at(cx, copy).await?.not_whole(cx.shape());
        if missing.is_empty() {
            return Err(
                anyhow::anyhow!("the copy formed a whole cluster: what was to break its bootstrap did not").into(),
            );
        }
        let mut seen = vec!["all pods are Ready, with no sign of a failed bootstrap, and no whole cluster:".to_owned()];
        seen.extend(missing.into_iter().take(6));
        let seen = seen.join("\n");
        match &forming {
            Forming::Pod { in_hook: true, .. } => {
                Err(Mismatch::new("a failure that the Kubernetes API shows", seen).into())
            }
            Forming::Pod { in_hook: false, .. } | Forming::Jobs(_) => Ok(Look::NotYet(seen)),
        }
    })
    .await;
    match (shown, &forming, at_the_end) {
        (Err(Stop::Mismatch(missing)), Forming::Pod { pod, container, .. }, AtTheEnd::Unready) => {
            let events = copy.deployment().events().await?;
            let live = copy.deployment().live(LiveKind::Pod).await?;
            match unready(pod, container, &events, &live) {
                true => Ok(format!("{pod} is not Ready: {}", missing.actual)),
                false => Err(missing.into()),
            }
        }
        (shown, _, _) => shown,
    }
}

/// How the bootstrap's failure shows itself, if it does: a pod of others may fail for reasons of its own.
fn failure_of(forming: &Forming, events: &[Event], live: &[(String, Value)]) -> Option<String> {
    // The reasons for which a Job gets the condition Failed.
    const FAILED: [&str; 3] = ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"];
    let told = |event: &Event| format!("{} of {}: {}", event.reason, event.object, brief(&event.message));
    match forming {
        Forming::Pod { pod, container, .. } => {
            let object = format!("Pod/{pod}");
            let failed = |event: &&Event| event.object == object && event.reason == "FailedPostStartHook";
            let event = events.iter().find(failed).map(told);
            event.or_else(|| ended_badly(&object, container, live))
        }
        Forming::Jobs(jobs) => {
            let failed = |event: &&Event| jobs.contains(&event.object) && FAILED.contains(&event.reason.as_str());
            events.iter().find(failed).map(told)
        }
    }
}

/// How a pod's container ended, where it was started again and the pod is not Ready, or the pod has failed.
fn ended_badly(object: &str, container: &str, live: &[(String, Value)]) -> Option<String> {
    let (_, pod) = live.iter().find(|(name, _)| name == object)?;
    if pod["status"]["phase"] == "Failed" {
        return Some(format!("{object} has failed"));
    }
    let statuses = ["containerStatuses", "initContainerStatuses"].map(|kind| &pod["status"][kind]);
    let mut statuses = statuses.into_iter().filter_map(Value::as_array).flatten();
    let status = statuses.find(|status| status["name"] == container)?;
    let restarted = status["restartCount"].as_i64().is_some_and(|count| count > 0);
    if !restarted || is_ready(pod) {
        return None;
    }
    let waits = status["state"]["waiting"]["reason"].as_str();
    let ended = [&status["state"], &status["lastState"]].map(|state| &state["terminated"]);
    let code = ended.into_iter().find_map(|ended| ended["exitCode"].as_i64());
    let code = code.map(|code| format!("its last run ended with {code}"));
    let how: Vec<String> = waits.map(str::to_owned).into_iter().chain(code).collect();
    Some(match how.is_empty() {
        true => format!("{object}: container {container} was started again"),
        false => format!("{object}: container {container}: {}", how.join(", ")),
    })
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether the bootstrap's pod is not Ready, though its container was started: one that found no place to run has not
/// formed anything, and not failed either.
fn unready(pod: &str, container: &str, events: &[Event], live: &[(String, Value)]) -> bool {
    let object = format!("Pod/{pod}");
    // Older kubelets name the container, newer ones do not.
    let is_its = |message: &str| match message.trim().strip_prefix("Started container ") {
        Some(name) => name == container,
        None => true,
    };
    let started = |event: &Event| event.object == object && event.reason == "Started" && is_its(&event.message);
    let seen = live.iter().find(|(name, _)| *name == object);
    seen.is_some_and(|(_, pod)| !is_ready(pod)) && events.iter().any(started)
}

/// What a hook itself said, out of an event's message: kubelet puts its command before it and its output once more
/// behind it.
fn brief(message: &str) -> String {
    let said = message.rsplit_once(" exited with ").map_or(message, |(_, said)| said);
    let said = said.split(", message: ").next().unwrap_or(said);
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().rev().nth(399) {
        Some((start, _)) if start > 0 => format!("…{}", &line[start..]),
        Some(_) | None => line,
    }
}

/// Which pods of the copy are not ready, or missing.
pub(in crate::cases) async fn not_ready(copy: &dyn DeployedVariant) -> Result<String, Stop> {
    let (declared, _) = copy.deployment().replicas().await?;
    let pods = copy.deployment().pods().await?;
    let mut waiting: Vec<String> = pods
        .iter()
        .filter(|pod| !pod.ready)
        .map(|pod| format!("{}: {}", pod.name, pod.trouble.as_deref().unwrap_or(&pod.phase)))
        .collect();
    if usize::try_from(declared) != Ok(pods.len()) {
        waiting.push(format!("{} of {declared} pods exist", pods.len()));
    }
    Ok(waiting.join("; "))
}

/// Every server's view in the copy.
pub(in crate::cases) async fn look_at(cx: &Context, copy: &dyn DeployedVariant) -> Result<ClusterView, Stop> {
    let mut view = ClusterView::default();
    for member in copy.members().await? {
        let asked = async {
            let mut connection = connected(cx, copy, &member.address).await?;
            NodeView::ask(&mut connection, member.clone()).await
        };
        match asked.await {
            Ok(node) => view.nodes.push(node),
            Err(error) => view.silent.push((member, error)),
        }
    }
    Ok(view)
}

/// An authenticated connection to a server of the copy.
pub(in crate::cases) async fn connected(
    cx: &Context,
    copy: &dyn DeployedVariant,
    address: &Address,
) -> Result<Connection, LinkError> {
    let stream = copy.connect(address).await?;
    let mut connection = Connection::new(stream, address.clone(), cx.patience());
    authenticate(&mut connection, &*cx.shared().target).await?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn event(object: &str, reason: &str, message: &str) -> Event {
        Event {
            kind: "Warning".into(),
            reason: reason.into(),
            object: object.into(),
            message: message.into(),
            count: 1,
            at: None,
        }
    }

    fn live(name: &str, ready: &str, restarts: &[(&str, i64)]) -> (String, Value) {
        let statuses = restarts
            .iter()
            .map(|(name, count)| json!({"name": name, "restartCount": count, "state": {"running": {}}}));
        let pod = json!({"status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": statuses.collect::<Vec<_>>(),
        }});
        (format!("Pod/{name}"), pod)
    }

    fn in_pod(container: &str) -> Forming {
        Forming::Pod {
            pod: "r-5".into(),
            container: container.into(),
            in_hook: container == "redis",
        }
    }

    #[rstest]
    #[case::its_hook(in_pod("redis"), "Pod/r-5", "FailedPostStartHook", live("r-5", "False", &[("redis", 0)]), true)]
    #[case::another_s_hook(in_pod("redis"), "Pod/r-4", "FailedPostStartHook", live("r-5", "False", &[("redis", 0)]), false)]
    #[case::restarted(in_pod("redis"), "", "", live("r-5", "False", &[("redis", 1)]), true)]
    #[case::restarted_and_ready(in_pod("redis"), "", "", live("r-5", "True", &[("redis", 1)]), false)]
    #[case::another_s_restart(in_pod("redis"), "", "", live("r-3", "False", &[("redis", 1)]), false)]
    #[case::its_container(in_pod("cluster"), "", "", live("r-5", "False", &[("redis", 0), ("cluster", 2)]), true)]
    #[case::its_server(in_pod("cluster"), "", "", live("r-5", "False", &[("redis", 2), ("cluster", 0)]), false)]
    #[case::its_job(Forming::Jobs(vec!["Job/form".into()]), "Job/form", "BackoffLimitExceeded", live("r-5", "True", &[]), true)]
    #[case::another_job(Forming::Jobs(vec!["Job/form".into()]), "Job/other", "BackoffLimitExceeded", live("r-5", "True", &[]), false)]
    #[case::a_pod_of_the_job(Forming::Jobs(vec!["Job/form".into()]), "Job/form", "SuccessfulCreate", live("r-5", "True", &[]), false)]
    fn only_the_bootstrap_s_own_failure_shows_it(
        #[case] forming: Forming,
        #[case] object: &str,
        #[case] reason: &str,
        #[case] live: (String, Value),
        #[case] shown: bool,
    ) {
        let events = [event(object, reason, "it went wrong")];
        assert_eq!(failure_of(&forming, &events, &[live]).is_some(), shown);
    }

    #[test]
    fn a_pod_that_has_failed_shows_it() {
        let pod = json!({"status": {"phase": "Failed"}});
        assert!(failure_of(&in_pod("cluster"), &[], &[("Pod/r-5".into(), pod)]).is_some());
    }

    #[rstest]
    #[case::hangs("False", "Started", "Started container redis", true)]
    #[case::hangs_by_a_newer_kubelet("False", "Started", "Container started", true)]
    #[case::ready("True", "Started", "Started container redis", false)]
    #[case::only_another_container("False", "Started", "Started container first", false)]
    #[case::no_place("False", "FailedScheduling", "0/1 nodes are available", false)]
    fn a_pod_whose_bootstrap_began_and_that_is_not_ready_shows_it(
        #[case] ready: &str,
        #[case] reason: &str,
        #[case] message: &str,
        #[case] shown: bool,
    ) {
        let events = [event("Pod/r-5", reason, message)];
        let pods = [live("r-5", ready, &[])];
        assert_eq!(unready("r-5", "redis", &events, &pods), shown);
    }

    #[test]
    fn a_hook_s_own_words_are_found_in_the_event() {
        let message = "Exec lifecycle hook ([/bin/bash -c x]) for Container \"redis\" failed - error: command '/bin/bash -c x\n' \
                       exited with 1: init FAILED:  no peer\n, message: \"init FAILED: no peer\\n\"";
        assert_eq!(brief(message), "1: init FAILED: no peer");
        assert_eq!(brief("another\n  text"), "another text");
        assert_eq!(brief(&"ä".repeat(1000)).chars().count(), 401);
    }
}

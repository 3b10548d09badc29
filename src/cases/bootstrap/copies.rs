//! The cases of chapter BOOT that need a deployment with something wrong: each makes an altered copy beside the real one.

use super::stress;
use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually};
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::node::NodeView;
use crate::cluster::view::ClusterView;
use crate::context::{Context, DeployedVariant, Variant, authenticate};
use crate::verdict::{Mismatch, Outcome, Stop};
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
    method: "Makes a copy in which one server never listens. A warning event of the hook, a container that fails, or a pod that does not \
             become ready must show it; all pods Ready without a cluster is the failure. In another copy, where the description says \
             how, the bootstrap's pod is killed in the middle of the creation: it must end in a whole cluster, or show its failure so.",
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
    method: "Makes a copy in which packets to every bus port are dropped; the hook must have ended T_hook after its pod was made, \
             with a failure that the Kubernetes API shows.",
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
    method: "Makes a copy whose hook uses another password; the failure must be visible as in BOOT-09, and its text must name WRONGPASS, \
             NOAUTH or (Redis 5) an invalid password, or the bootstrap's log within T_hook more.",
    run: |cx| Box::pin(wrong_password(cx)),
};

/// How long a copy may take from its apply to the end of its bootstrap.
pub(super) fn patience(cx: &Context) -> Duration {
    cx.timing().deployment() + cx.timing().hook()
}

async fn failure_is_visible(cx: &Context) -> Outcome {
    let shown = cx
        .with_variant(Variant::SilentPeer, async |copy| {
            visible_failure(cx, copy, patience(cx)).await
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
            let shown = visible_failure(cx, copy, cx.timing().hook()).await?;
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
        let shown = visible_failure(cx, copy, patience(cx)).await?;
        if named(&shown) {
            return Ok(());
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
    whole_within(cx, copy, cx.timing().sync() + cx.timing().stable()).await
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

/// Waits until the failed bootstrap shows itself; what showed it is returned. All pods Ready is the opposite: then the
/// bootstrap's hook has ended in success, and the mismatch says what there is instead of a cluster.
async fn visible_failure(cx: &Context, copy: &dyn DeployedVariant, bound: Duration) -> Result<String, Stop> {
    eventually(
        cx,
        "the failed bootstrap is visible through the Kubernetes API",
        bound,
        async || {
            let events = copy.deployment().events().await?;
            if let Some(event) = events.iter().find(|event| event.reason == "FailedPostStartHook") {
                return Ok(Look::Reached(format!(
                    "{} of {}: {}",
                    event.reason,
                    event.object,
                    brief(&event.message)
                )));
            }
            let pods = copy.deployment().pods().await?;
            if let Some(pod) = pods.iter().find(|pod| pod.restarts > 0 && !pod.ready) {
                let trouble = pod.trouble.clone().unwrap_or_else(|| "restarted".into());
                return Ok(Look::Reached(format!("{}: {trouble}", pod.name)));
            }
            let waiting = not_ready(copy).await?;
            if waiting.is_empty() {
                let missing = look_at(cx, copy).await?.not_whole(cx.shape());
                if missing.is_empty() {
                    return Err(anyhow::anyhow!(
                        "the copy formed a whole cluster: what was to break its bootstrap did not"
                    )
                    .into());
                }
                let mut seen =
                    vec!["all pods are Ready, with no event of a failed hook, and no whole cluster:".to_owned()];
                seen.extend(missing.into_iter().take(6));
                return Err(Mismatch::new("a failure that the Kubernetes API shows", seen.join("\n")).into());
            }
            Ok(Look::NotYet(waiting))
        },
    )
    .await
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
    use super::brief;

    #[test]
    fn a_hook_s_own_words_are_found_in_the_event() {
        let message = "Exec lifecycle hook ([/bin/bash -c x]) for Container \"redis\" failed - error: command '/bin/bash -c x\n' \
                       exited with 1: init FAILED:  no peer\n, message: \"init FAILED: no peer\\n\"";
        assert_eq!(brief(message), "1: init FAILED: no peer");
        assert_eq!(brief("another\n  text"), "another text");
        assert_eq!(brief(&"ä".repeat(1000)).chars().count(), 401);
    }
}

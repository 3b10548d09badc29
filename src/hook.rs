//! The bootstrap pod made again: done once in a run, and judged by several cases. Its postStart hook runs before Kubernetes
//! publishes the pod's address, so the pod's own name leads nowhere until the hook has ended.

use crate::check::{Look, eventually};
use crate::context::{Context, Deployment, Event, Fault};
use crate::failover::kept;
use crate::inside::server_container;
use crate::verdict::{Mismatch, Stop};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was seen.
#[derive(Debug)]
pub struct Hook {
    /// The pod.
    pub pod: String,
    /// In how many looks it was there and had no address.
    pub without_address: usize,
    /// Whether init containers run before the hook: then its address is published before.
    pub has_init_containers: bool,
    /// From when it was first seen until it was Ready.
    pub ready: Result<Duration, Mismatch>,
    /// How often its containers were started again meanwhile.
    pub restarts: i32,
    /// How often Kubernetes said meanwhile that its hook failed.
    pub failures: i32,
}

/// What was seen in this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all: the same for every case that asks.
pub async fn observed(cx: &Context) -> Result<Arc<Hook>, Stop> {
    cx.note_observation("the bootstrap pod made again");
    let shared = cx.shared().clone();
    let hook = shared.hook.get_or_init(|| async { Ok(Arc::new(observe(cx).await?)) });
    Ok(hook.await.clone()?)
}

/// The name of the pod that forms the cluster.
///
/// # Errors
/// An unsupported stop where none does, by the target's description.
pub fn bootstrap_pod(deployment: &dyn Deployment) -> Result<String, Stop> {
    deployment.bootstrap_pod().ok_or_else(|| {
        Stop::Unsupported(
            "the target's description names no pod that forms the cluster: a Job, an operator or people do".into(),
        )
    })
}

/// The pod whose hook may form the cluster; where none is known to, any.
async fn hooked_pod(cx: &Context) -> Result<String, Stop> {
    let deployment = cx.deployment()?;
    if let Some(pod) = deployment.bootstrap_pod() {
        return Ok(pod);
    }
    let first = deployment.pods().await?.into_iter().next();
    Ok(first
        .map(|pod| pod.name)
        .ok_or_else(|| Mismatch::new("pods of servers", "none"))?)
}

/// Expects that there is a postStart hook.
///
/// # Errors
/// An unsupported stop where there is none: then there is nothing to judge.
pub async fn needed(cx: &Context) -> Result<(), Stop> {
    let (container, _) = server_container(cx, &hooked_pod(cx).await?).await?;
    match container["lifecycle"]["postStart"].is_null() {
        true => Err(Stop::Unsupported("the server's container has no postStart hook".into())),
        false => Ok(()),
    }
}

/// Whether the bootstrap is a postStart hook of the server's own container: then its pod is Ready only after it has ended.
///
/// # Errors
/// When the API cannot be asked.
pub async fn is_the_server_s(cx: &Context) -> Result<bool, Stop> {
    let deployment = cx.deployment()?;
    let in_server = deployment.bootstrap_container() == Some(deployment.server_container());
    let (container, _) = server_container(cx, &hooked_pod(cx).await?).await?;
    Ok(in_server && !container["lifecycle"]["postStart"].is_null())
}

async fn observe(cx: &Context) -> Result<Hook, Stop> {
    needed(cx).await?;
    let deployment = cx.deployment()?;
    let name = bootstrap_pod(deployment)?;
    let (_, pod) = server_container(cx, &name).await?;
    let has_init_containers = pod["initContainers"].as_array().is_some_and(|all| !all.is_empty());
    let members = cx.members().await?;
    let member = members.iter().find(|member| member.name == name);
    let member = member.ok_or_else(|| Mismatch::new(format!("{name}, which runs the bootstrap"), "no such server"))?;
    let before = deployment.pods().await?.into_iter().find(|pod| pod.name == name);
    let old = before.map(|pod| pod.uid).unwrap_or_default();
    let failed_before = failures(&deployment.events().await?, &name);
    cx.inject(Fault::Restart, member).await?;
    let bound = cx.timing().scheduling() + cx.timing().hook();
    let what = format!("{name} is made again, and Ready");
    let (mut first, mut without_address, mut restarts) = (None, 0, 0);
    let ready = eventually(cx, &what, bound, async || {
        let pods = deployment.pods().await?;
        let Some(pod) = pods.into_iter().find(|pod| pod.name == name && pod.uid != old) else {
            return Ok(Look::NotYet("it is not there".into()));
        };
        let first = *first.get_or_insert_with(Instant::now);
        without_address += usize::from(pod.address.is_none());
        restarts = pod.restarts;
        Ok(match pod.ready {
            true => Look::Reached(first.elapsed()),
            false => Look::NotYet(format!(
                "{}, address {}, {}",
                pod.phase,
                pod.address.as_deref().unwrap_or("none yet"),
                pod.trouble.as_deref().unwrap_or("not ready")
            )),
        })
    })
    .await;
    let ready = kept(ready)?;
    let failures = failures(&deployment.events().await?, &name) - failed_before;
    Ok(Hook {
        pod: name,
        without_address,
        has_init_containers,
        ready,
        restarts,
        failures,
    })
}

/// How often Kubernetes said that a pod's hook failed.
fn failures(events: &[Event], pod: &str) -> i32 {
    let object = format!("Pod/{pod}");
    let failed = events
        .iter()
        .filter(|event| event.reason == "FailedPostStartHook" && event.object == object);
    failed.map(|event| event.count).sum()
}

/// Expects that the hook came to its end at once and in time while its pod's own name led nowhere.
///
/// # Errors
/// A mismatch where it did not; an unsupported stop where the name may have led somewhere.
pub fn judge(hook: &Hook) -> Result<(), Stop> {
    let expected = "a hook that ends in time and at once, while its pod's own name leads nowhere";
    hook.ready.clone()?;
    if hook.restarts > 0 || hook.failures > 0 {
        let actual = format!(
            "{}: its hook failed {} times, its containers were started again {} times",
            hook.pod, hook.failures, hook.restarts
        );
        return Err(Mismatch::new(expected, actual).into());
    }
    if hook.has_init_containers || hook.without_address == 0 {
        return Err(Stop::Unsupported(format!(
            "the address of {} may be published before its hook runs ({}): that the hook succeeds says nothing of its own name",
            hook.pod,
            match hook.has_init_containers {
                true => "it has init containers",
                false => "it was never seen without one",
            }
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn hook() -> Hook {
        Hook {
            pod: "redis-cluster-5".into(),
            without_address: 40,
            has_init_containers: false,
            ready: Ok(Duration::from_secs(4)),
            restarts: 0,
            failures: 0,
        }
    }

    #[rstest]
    #[case::fine(hook(), "pass")]
    #[case::never_ready(Hook { ready: Err(Mismatch::new("Ready", "ContainerCreating")), ..hook() }, "fail")]
    #[case::failed_first(Hook { failures: 1, ..hook() }, "fail")]
    #[case::started_again(Hook { restarts: 1, ..hook() }, "fail")]
    #[case::published_early(Hook { has_init_containers: true, ..hook() }, "unsupported")]
    #[case::seen_too_late(Hook { without_address: 0, ..hook() }, "unsupported")]
    #[case::failed_though_published_early(Hook { has_init_containers: true, failures: 1, ..hook() }, "fail")]
    fn a_hook_is_judged_by_how_it_ended(#[case] hook: Hook, #[case] expected: &str) {
        let verdict = match judge(&hook) {
            Ok(()) => "pass",
            Err(Stop::Mismatch(_)) => "fail",
            Err(Stop::Unsupported(_)) => "unsupported",
            Err(Stop::Error(_)) => "error",
        };
        assert_eq!(verdict, expected);
    }

    #[test]
    fn failures_are_those_of_the_pod_s_hook() {
        let event = |object: &str, reason: &str, count| Event {
            kind: "Warning".into(),
            reason: reason.into(),
            object: object.into(),
            message: String::new(),
            count,
            at: None,
        };
        let events = [
            event("Pod/redis-cluster-5", "FailedPostStartHook", 2),
            event("Pod/redis-cluster-4", "FailedPostStartHook", 1),
            event("Pod/redis-cluster-5", "BackOff", 7),
            event("Pod/redis-cluster-5", "FailedPostStartHook", 1),
        ];
        assert_eq!(failures(&events, "redis-cluster-5"), 3);
    }
}

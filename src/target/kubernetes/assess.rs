//! What keeps pods from becoming ready, in Kubernetes' words: a pure reading of pods and events, so that a deployment that
//! cannot come up is told so within seconds.

use super::site::is_a_server_s;
use super::summaries::{claims_of, condition, containers, happened, joined, trouble};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Something that will not go away by waiting, once it has lasted for its grace.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cause {
    /// What it is about; the same cause seen again has the same key.
    pub(super) key: String,
    /// The pod that it is about, where it is about one.
    pub(super) pod: Option<String>,
    /// What to tell.
    pub(super) text: String,
    /// How long it may last before it counts: some pass by themselves.
    pub(super) grace: Duration,
}

/// How the deployment stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Assessment {
    /// Every pod is Ready.
    Ready,
    /// Not yet, and nothing says that it will not be.
    Waiting(String),
    /// It will not be.
    Doomed(Cause),
}

/// Since when each cause has been seen.
#[derive(Debug, Default)]
pub(super) struct Watchman {
    since: HashMap<String, Instant>,
}

impl Watchman {
    /// Looks at the pods and events as they are at an instant.
    pub(super) fn assess(&mut self, expected: usize, pods: &[&Pod], events: &[&Event], now: Instant) -> Assessment {
        // A Job's pods have the labels too, and are Ready while they run.
        let ready = pods.iter().filter(|pod| is_a_server_s(pod) && is_ready(pod)).count();
        if ready >= expected {
            return Assessment::Ready;
        }
        let causes = causes(pods, events);
        self.since.retain(|key, _| causes.iter().any(|cause| cause.key == *key));
        for cause in causes {
            let since = *self.since.entry(cause.key.clone()).or_insert(now);
            if now.duration_since(since) >= cause.grace {
                return Assessment::Doomed(cause);
            }
        }
        Assessment::Waiting(waiting(expected, ready, pods))
    }
}

/// Whether a pod is Ready and to stay.
pub(super) fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && condition(pod, "Ready")
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("?")
}

fn waiting(expected: usize, ready: usize, pods: &[&Pod]) -> String {
    let next = pods.iter().find(|pod| is_a_server_s(pod) && !is_ready(pod));
    let state = match next {
        None => "the next is not made yet".to_owned(),
        Some(pod) => {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref())
                .unwrap_or("new");
            let reason = containers(pod)
                .iter()
                .find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
            match reason {
                Some(reason) => format!("{} is {phase}, {reason}", name(pod)),
                None => format!("{} is {phase}", name(pod)),
            }
        }
    };
    format!("{ready} of {expected} pods Ready; {state}")
}

/// Every cause that shows, the most telling first.
fn causes(pods: &[&Pod], events: &[&Event]) -> Vec<Cause> {
    let mut causes = Vec::new();
    for pod in pods.iter().filter(|pod| !is_ready(pod)) {
        for container in containers(pod) {
            causes.extend(image(pod, container, events));
            causes.extend(configuration(pod, container));
            // A Job may fail until the servers answer, and is started again for that.
            if is_a_server_s(pod) {
                causes.extend(hook(pod, container, events));
                causes.extend(crash(pod, container));
            }
        }
    }
    causes.extend(events.iter().filter_map(|event| volume(event, pods)));
    causes.extend(pods.iter().filter_map(|pod| unschedulable(pod)));
    causes.extend(events.iter().filter_map(|event| surroundings(event, pods)));
    causes
}

/// The image cannot be had. The waiting reason alternates, and only one of its messages says why; events keep it.
fn image(pod: &Pod, container: &ContainerStatus, events: &[&Event]) -> Option<Cause> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let at_once = matches!(reason, "InvalidImageName" | "ErrImageNeverPull");
    if !at_once && !matches!(reason, "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable") {
        return None;
    }
    let told = events
        .iter()
        .filter(|event| about(event, pod) && event.reason.as_deref() == Some("Failed"))
        .filter_map(|event| event.message.as_deref())
        .find(|message| message.starts_with("Failed to pull image"));
    let message = told.or(waiting.message.as_deref()).unwrap_or_default();
    Some(Cause {
        key: format!("image {}", name(pod)),
        pod: None,
        text: format!(
            "pod {}: the image {} cannot be had: {}\nIs its name right, and can the node pull it or has it been loaded?",
            name(pod),
            container.image,
            joined(Some(reason), Some(message))
        ),
        grace: Duration::from_secs(if at_once { 1 } else { 8 }),
    })
}

fn configuration(pod: &Pod, container: &ContainerStatus) -> Option<Cause> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if !matches!(
        reason,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError"
    ) {
        return None;
    }
    Some(Cause {
        key: format!("configuration {}", name(pod)),
        pod: None,
        text: format!(
            "pod {}: {}",
            name(pod),
            joined(Some(reason), waiting.message.as_deref())
        ),
        grace: Duration::from_secs(10),
    })
}

/// The postStart hook failed twice: once may be a matter of order.
fn hook(pod: &Pod, container: &ContainerStatus, events: &[&Event]) -> Option<Cause> {
    let event = events
        .iter()
        .rfind(|event| about(event, pod) && event.reason.as_deref() == Some("FailedPostStartHook"))?;
    let restarts = container.restart_count.max(event.count.unwrap_or(1) - 1);
    Some(Cause {
        key: format!("hook {}", name(pod)),
        pod: Some(name(pod).to_owned()),
        text: format!(
            "pod {}: its postStart hook fails, so its container was started again {restarts} times: {}",
            name(pod),
            joined(event.reason.as_deref(), event.message.as_deref())
        ),
        grace: if restarts >= 2 { Duration::ZERO } else { NEVER },
    })
}

/// A cause that is known, and does not count yet.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The container ends again and again. One that runs again may be well now.
fn crash(pod: &Pod, container: &ContainerStatus) -> Option<Cause> {
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
    let goes_on = waiting == Some("CrashLoopBackOff") || state.terminated.is_some();
    if container.restart_count < 2 || !goes_on {
        return None;
    }
    let last = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let ended = last.map_or_else(
        || trouble(container).unwrap_or_default(),
        |last| {
            let message = last.message.as_deref().unwrap_or_default();
            let code = format!("exit code {} {message}", last.exit_code);
            joined(last.reason.as_deref(), Some(code.trim()))
        },
    );
    Some(Cause {
        key: format!("crash {}", name(pod)),
        pod: Some(name(pod).to_owned()),
        text: format!(
            "pod {}: its container {} has ended {} times, the last time with {ended}",
            name(pod),
            container.name,
            container.restart_count,
        ),
        grace: Duration::ZERO,
    })
}

/// A volume claim that nothing will fill, and that a server has waited for since before the event.
fn volume(event: &Event, pods: &[&Pod]) -> Option<Cause> {
    let object = &event.involved_object;
    let reason = event.reason.as_deref()?;
    if object.kind.as_deref() != Some("PersistentVolumeClaim")
        || !matches!(reason, "ProvisioningFailed" | "FailedBinding")
    {
        return None;
    }
    let claim = object.name.as_deref().unwrap_or("?");
    // Such events stay after the trouble has gone, and outlive a run.
    let waits = |pod: &&Pod| {
        let is_placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let is_later = happened(event).zip(made).is_none_or(|(at, made)| at >= made);
        is_a_server_s(pod) && !is_placed && is_later && claims_of(pod).iter().any(|own| own == claim)
    };
    if !pods.iter().any(waits) {
        return None;
    }
    let message = event.message.as_deref().unwrap_or_default();
    Some(Cause {
        key: format!("volume {claim}"),
        pod: None,
        text: format!(
            "volume claim {claim} stays Pending: {}",
            joined(Some(reason), Some(message))
        ),
        grace: Duration::from_secs(5),
    })
}

fn unschedulable(pod: &Pod) -> Option<Cause> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    if condition.reason.as_deref() != Some("Unschedulable") {
        return None;
    }
    let message = condition.message.as_deref().unwrap_or_default();
    // Volumes bind late, and why they do not is told by the claim's own events.
    let grace = if message.contains("PersistentVolumeClaim") {
        30
    } else {
        10
    };
    let step = if message.contains("Insufficient") {
        "\nFree some of it on the nodes (other deployments?), or lower what the container asks for (--cpu-request)."
    } else {
        ""
    };
    Some(Cause {
        key: format!("schedule {}", name(pod)),
        pod: None,
        text: format!("pod {} stays Pending, Unschedulable: {message}{step}", name(pod)),
        grace: Duration::from_secs(grace),
    })
}

/// What only events tell: a pod that may not be made, or cannot be set up on its node.
fn surroundings(event: &Event, pods: &[&Pod]) -> Option<Cause> {
    let object = &event.involved_object;
    let named = object.name.as_deref().unwrap_or("?");
    let reason = event.reason.as_deref()?;
    let kind = object.kind.as_deref()?;
    let grace = match (kind, reason) {
        ("StatefulSet", "FailedCreate") => 10,
        ("Pod", "FailedMount") => 30,
        ("Pod", "FailedCreatePodSandBox") => 45,
        _ => return None,
    };
    // Such events stay after the trouble has gone: only a pod that has still not started is in it.
    let in_trouble = |pod: &Pod| containers(pod).iter().all(|container| container.container_id.is_none());
    let concerned = match kind {
        "Pod" => pods.iter().any(|pod| about(event, pod) && in_trouble(pod)),
        _ => !pods
            .iter()
            .any(|pod| pod.status.is_some() && containers(pod).iter().any(|c| !c.ready)),
    };
    let message = event.message.as_deref().unwrap_or_default();
    concerned.then(|| Cause {
        key: format!("{reason} {named} {message}"),
        pod: None,
        text: format!(
            "{} {named}: {}",
            kind.to_lowercase(),
            joined(Some(reason), Some(message))
        ),
        grace: Duration::from_secs(grace),
    })
}

/// Whether an event is about this pod, and about none that had its name before: events outlive their pods, and a run.
fn about(event: &Event, pod: &Pod) -> bool {
    let object = &event.involved_object;
    let is_a_pod_s = object.kind.as_deref() == Some("Pod");
    is_a_pod_s && object.name == pod.metadata.name && object.uid == pod.metadata.uid
}

#[cfg(test)]
mod tests;

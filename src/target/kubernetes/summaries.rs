//! What the API says of pods, volume claims and events, as cases see it.

use crate::target::{Claim, Event, Pod};
use k8s_openapi::api::core::v1 as core;

/// When an event last happened.
pub(super) fn happened(event: &core::Event) -> Option<jiff::Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let once = event.event_time.as_ref().map(|time| time.0);
    let made = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    last.or(once).or(made)
}

/// Whether a condition of a pod is true.
pub(super) fn condition(pod: &core::Pod, name: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == name && condition.status == "True")
}

/// Whether a condition of a node is true.
pub(super) fn condition_of_node(node: &core::Node, name: &str) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == name && condition.status == "True")
}

/// The statuses of a pod's containers.
pub(super) fn containers(pod: &core::Pod) -> &[core::ContainerStatus] {
    pod.status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default()
}

/// A pod as cases see it.
pub(super) fn summary(pod: &core::Pod) -> Pod {
    let status = pod.status.as_ref();
    Pod {
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        address: status
            .and_then(|status| status.pod_ip.clone())
            .filter(|ip| !ip.is_empty()),
        phase: status.and_then(|status| status.phase.clone()).unwrap_or_default(),
        ready: condition(pod, "Ready"),
        restarts: containers(pod).iter().map(|container| container.restart_count).sum(),
        trouble: containers(pod).iter().find_map(trouble),
        host: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        claims: claims_of(pod),
        leaving: pod.metadata.deletion_timestamp.is_some(),
    }
}

/// The names of the volume claims that a pod mounts.
pub(super) fn claims_of(pod: &core::Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let claims = volumes.into_iter().flatten();
    claims
        .filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone()))
        .collect()
}

/// A volume claim as cases see it.
pub(super) fn claim_summary(claim: &core::PersistentVolumeClaim) -> Claim {
    let spec = claim.spec.as_ref();
    let status = claim.status.as_ref();
    Claim {
        name: claim.metadata.name.clone().unwrap_or_default(),
        uid: claim.metadata.uid.clone().unwrap_or_default(),
        phase: status.and_then(|status| status.phase.clone()).unwrap_or_default(),
        access_modes: spec.and_then(|spec| spec.access_modes.clone()).unwrap_or_default(),
        volume: spec.and_then(|spec| spec.volume_name.clone()),
        leaving: claim.metadata.deletion_timestamp.is_some(),
    }
}

/// Why a container waits, or how it last ended.
pub(super) fn trouble(container: &core::ContainerStatus) -> Option<String> {
    let state = container.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref()).filter(|waiting| {
        !matches!(
            waiting.reason.as_deref(),
            None | Some("ContainerCreating" | "PodInitializing")
        )
    });
    if let Some(waiting) = waiting {
        return Some(joined(waiting.reason.as_deref(), waiting.message.as_deref()));
    }
    let ended = state
        .and_then(|state| state.terminated.as_ref())
        .or_else(|| container.last_state.as_ref()?.terminated.as_ref())?;
    let message = ended.message.as_deref().unwrap_or_default();
    let code = format!("exit code {} {message}", ended.exit_code);
    Some(joined(ended.reason.as_deref(), Some(code.trim())))
}

/// `reason: message`.
pub(super) fn joined(reason: Option<&str>, message: Option<&str>) -> String {
    match (reason.unwrap_or("?"), message.unwrap_or_default().trim()) {
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

/// An event as cases see it.
pub(super) fn event_summary(event: &core::Event) -> Event {
    let object = &event.involved_object;
    Event {
        kind: event.type_.clone().unwrap_or_default(),
        reason: event.reason.clone().unwrap_or_default(),
        object: format!(
            "{}/{}",
            object.kind.as_deref().unwrap_or("?"),
            object.name.as_deref().unwrap_or("?")
        ),
        message: event.message.clone().unwrap_or_default(),
        count: event.count.unwrap_or(1),
        at: happened(event),
    }
}

//! What the platform knows of a cause: pods that are not ready, events, and the log of the bootstrap.

use super::bootstrap;
use crate::cluster::view::Shape;
use crate::target::{Event, Pod, Secret};
use std::collections::BTreeMap;

/// What the platform says beside the nodes' own replies; empty where there is no Kubernetes.
#[derive(Clone, Debug, Default)]
pub struct PlatformHints {
    /// The deployment's pods, ordered by name.
    pub pods: Vec<Pod>,
    /// The events of its namespace, oldest first.
    pub events: Vec<Event>,
    /// The pod whose hook runs the bootstrap.
    pub bootstrap_pod: Option<String>,
    /// The bootstrap's log.
    pub bootstrap_log: Option<String>,
    /// Each pod's log: only there does a replica say why its master refuses it.
    pub logs: BTreeMap<String, String>,
}

impl PlatformHints {
    /// Takes a password out of every text.
    pub fn redact(&mut self, password: &Secret) {
        let clean = |text: &mut String| *text = password.redact(text);
        self.bootstrap_log.iter_mut().for_each(clean);
        self.logs.values_mut().for_each(clean);
        self.events.iter_mut().for_each(|event| clean(&mut event.message));
        self.pods.iter_mut().flat_map(|pod| &mut pod.trouble).for_each(clean);
    }
}

impl PlatformHints {
    /// What the hook's log says went wrong.
    pub(super) fn bootstrap_failure(&self) -> Option<String> {
        let log = self.bootstrap_log.as_deref()?;
        let hook = match &self.bootstrap_pod {
            Some(pod) => format!("{pod}'s hook"),
            None => "the bootstrap".to_owned(),
        };
        let wrong: Vec<(String, String)> = bootstrap::addresses(log)
            .into_iter()
            .enumerate()
            .filter_map(|(ordinal, taken)| {
                let pod = self.pod_of_ordinal(ordinal);
                let name = pod.map_or_else(|| format!("pod {ordinal}"), |pod| pod.name.clone());
                // A pod's address changes over time: what it is now counts only where the creation did not succeed.
                let real = pod
                    .and_then(|pod| pod.address.as_deref())
                    .filter(|_| !log.contains("All 16384 slots covered"));
                Some((bootstrap::wrong_address(&taken, real, &name)?, taken))
            })
            .collect();
        if let Some((what, taken)) = wrong.first() {
            let more = match wrong.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more like it)"),
            };
            let error = bootstrap::error_about(log, taken)
                .map(|error| format!(": \"{error}\""))
                .unwrap_or_default();
            return Some(format!("{hook} {what}{more}{error}"));
        }
        bootstrap::last_error(log).map(|error| format!("{hook} says \"{error}\""))
    }

    fn pod_of_ordinal(&self, ordinal: usize) -> Option<&Pod> {
        let suffix = format!("-{ordinal}");
        self.pods.iter().find(|pod| pod.name.ends_with(&suffix))
    }

    /// The pods that are not ready.
    pub(super) fn troubled(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| !pod.ready)
    }

    /// A pod that is not ready, or not there.
    pub(super) fn trouble(&self, shape: Shape) -> Option<String> {
        if let Some(pod) = self.troubled().next() {
            return Some(self.about_pod(pod));
        }
        let pods = &self.pods;
        if pods.is_empty() || pods.len() >= shape.nodes() {
            return None;
        }
        let why = self
            .warning(|event| event.reason == "FailedCreate")
            .map(|event| format!(": {}", event.message))
            .unwrap_or_default();
        Some(format!("{} of {} pods exist{why}", pods.len(), shape.nodes()))
    }

    pub(super) fn about_pod(&self, pod: &Pod) -> String {
        format!("{} is {}", pod.name, self.state_of_pod(pod))
    }

    pub(super) fn state_of_pod(&self, pod: &Pod) -> String {
        let state = if pod.phase == "Running" {
            "Running, not ready"
        } else {
            &pod.phase
        };
        let object = format!("Pod/{}", pod.name);
        // A volume that cannot be made shows on the pod only as a volume that is not bound.
        let volume = (self.warning(|event| event.reason == "ProvisioningFailed"))
            .filter(|event| event.object.ends_with(&pod.name));
        let mut said: Vec<String> = pod.trouble.iter().cloned().collect();
        for event in volume.into_iter().chain(self.warning(|event| event.object == object)) {
            if !said.iter().any(|text| text.contains(&event.message)) {
                said.push(format!("{} ({})", event.message, event.reason));
            }
        }
        if said.is_empty() {
            state.to_owned()
        } else {
            format!("{state}: {}", said.join("; "))
        }
    }

    fn warning(&self, wanted: impl Fn(&Event) -> bool) -> Option<&Event> {
        self.events
            .iter()
            .rev()
            .find(|event| event.kind == "Warning" && wanted(event))
    }
}

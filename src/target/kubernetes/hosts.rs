//! Hosts, which is what a Kubernetes node is called here: which there are, and one drained, frozen, or started again.

use super::apply::{fit, lock};
use super::client::failed;
use super::faults::{Lasting, ended, eviction, longest};
use super::site::{Site, bounded, timed_out};
use super::summaries::condition_of_node;
use crate::target::{Host, TargetError};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use std::time::{Duration, Instant};

/// The annotation of a host that the suite has cordoned: what a killed run leaves is put right by it.
const DRAINED: &str = "redis-cluster-conformance/drained";

/// How long evictions may be refused before a drain is left as it is.
const REFUSED: Duration = Duration::from_secs(120);

/// How often a refused eviction is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long a host may take to be Ready again.
const HOST_BACK: Duration = Duration::from_secs(180);

/// How often a state is looked at again that is not watched.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The hosts of a cluster, ordered by name.
pub(super) async fn hosts(client: &Client) -> Result<Vec<Host>, TargetError> {
    let api: Api<Node> = Api::all(client.clone());
    let nodes = bounded("listing the nodes", api.list(&ListParams::default())).await?;
    let mut hosts: Vec<Host> = nodes.iter().map(host).collect();
    hosts.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(hosts)
}

fn host(node: &Node) -> Host {
    let spec = node.spec.as_ref();
    let cordoned = spec.and_then(|spec| spec.unschedulable) == Some(true);
    let taints = spec.and_then(|spec| spec.taints.as_ref());
    let kept_away = taints
        .into_iter()
        .flatten()
        .any(|taint| ["NoSchedule", "NoExecute"].contains(&taint.effect.as_str()));
    let zones = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
    Host {
        name: node.name_any(),
        labels: node.labels().clone(),
        zone: zones.iter().find_map(|label| node.labels().get(*label).cloned()),
        schedulable: condition_of_node(node, "Ready") && !cordoned && !kept_away,
    }
}

/// Why no host can be lost: fewer than two can be given the deployment's pods.
pub(super) async fn lone(client: &Client) -> Option<String> {
    match hosts(client).await {
        Ok(hosts) => too_few(&hosts),
        Err(error) => Some(format!("it cannot be said which nodes there are: {error}")),
    }
}

fn too_few(hosts: &[Host]) -> Option<String> {
    let free: Vec<&str> = hosts
        .iter()
        .filter(|host| host.schedulable)
        .map(|host| host.name.as_str())
        .collect();
    (free.len() < 2).then(|| match free.first() {
        Some(only) => format!("of {} nodes only {only} can be given pods", hosts.len()),
        None => format!("none of {} nodes can be given pods", hosts.len()),
    })
}

impl Lasting {
    pub(super) async fn drain(&self, site: &Site, host: &str) -> Result<(), TargetError> {
        *lock(&self.upheavals.drained) = Some(host.to_owned());
        cordon(&site.client, host, Some(&site.run_id)).await?;
        let mut pods = site.raw_pods().await?;
        pods.retain(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(host));
        // All at once, as kubectl does it: it is the platform that says how many may go.
        let evictions = pods.iter().map(|pod| self.evict_patiently(site, pod));
        futures::future::join_all(evictions).await.into_iter().collect()
    }

    /// Asks for a pod's eviction until it is granted. Given up where nothing more can happen: a pod that has left finds no
    /// place, so that no other may.
    async fn evict_patiently(&self, site: &Site, pod: &Pod) -> Result<(), TargetError> {
        let (started, what) = (Instant::now(), format!("evicting pod {}", pod.name_any()));
        let mut homeless = false;
        loop {
            let asked = tokio::time::timeout(super::site::PATIENCE, eviction(site, pod)).await;
            match asked.map_err(|_| timed_out(&what, super::site::PATIENCE))? {
                Ok(()) => {
                    ended(site, pod, longest(pod)).await?;
                    self.strike_late(site, pod);
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 429 => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
                Err(error) => return Err(failed(&what, &error)),
            }
            let before = homeless;
            homeless = site.raw_pods().await?.iter().any(is_homeless);
            if homeless && before || started.elapsed() >= REFUSED {
                tracing::debug!(what, "given up: the platform refuses");
                return Ok(());
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Undoes what was done to hosts. Each is forgotten once it is undone.
    pub(super) async fn free_hosts(&self, site: &Site) -> Result<(), TargetError> {
        let mut first = Ok(());
        let frozen = lock(&self.upheavals.frozen).clone();
        if let Some(host) = frozen {
            let since = jiff::Timestamp::now();
            let thawed = site.node_access()?.freeze_host(&host, false).await;
            first = match thawed {
                Ok(()) => host_back(site, &host, since).await,
                failed => failed,
            };
            if first.is_ok() {
                *lock(&self.upheavals.frozen) = None;
            }
        }
        let drained = lock(&self.upheavals.drained).clone();
        if let Some(host) = drained {
            let undone = cordon(&site.client, &host, None).await;
            if undone.is_ok() {
                *lock(&self.upheavals.drained) = None;
            }
            first = first.and(undone);
        }
        first
    }

    pub(super) async fn freeze_host(&self, site: &Site, host: &str) -> Result<(), TargetError> {
        let nodes = site.node_access()?;
        *lock(&self.upheavals.frozen) = Some(host.to_owned());
        nodes.freeze_host(host, true).await
    }
}

/// Whether the scheduler has found no place for a pod.
fn is_homeless(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|it| it.type_ == "PodScheduled" && it.status == "False" && it.reason.as_deref() == Some("Unschedulable"))
}

/// Starts a host again, and waits until the platform has it back.
pub(super) async fn restart(site: &Site, host: &str) -> Result<(), TargetError> {
    site.node_access()?.restart_host(host).await?;
    host_back(site, host, jiff::Timestamp::now()).await
}

/// Waits until a host has told that it lives, and is Ready. What the API said before may be from before the fault.
async fn host_back(site: &Site, host: &str, since: jiff::Timestamp) -> Result<(), TargetError> {
    let nodes: Api<Node> = Api::all(site.client.clone());
    let leases: Api<Lease> = Api::namespaced(site.client.clone(), "kube-node-lease");
    let started = Instant::now();
    loop {
        let lease = bounded("looking at a node's lease", leases.get_opt(host)).await?;
        let renewed = lease.and_then(|lease| lease.spec?.renew_time);
        let ready = condition_of_node(&bounded("looking at a node", nodes.get(host)).await?, "Ready");
        if ready && renewed.as_ref().is_some_and(|at| at.0 > since) {
            return Ok(());
        }
        if started.elapsed() >= HOST_BACK {
            return Err(TargetError::Surroundings(format!(
                "node {host} is not back after {} s: Ready {ready}, its lease was renewed last at {}",
                HOST_BACK.as_secs(),
                renewed.map_or_else(|| "no time".to_owned(), |at| at.0.to_string())
            )));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Has a host be given no more pods, in the name of a run, or again.
pub(super) async fn cordon(client: &Client, host: &str, run: Option<&str>) -> Result<(), TargetError> {
    let change = serde_json::json!({
        "metadata": {"annotations": {DRAINED: run.map(fit)}},
        "spec": {"unschedulable": run.map(|_| true)},
    });
    let what = match run {
        Some(_) => format!("cordoning node {host}"),
        None => format!("uncordoning node {host} (else: kubectl uncordon {host})"),
    };
    let api: Api<Node> = Api::all(client.clone());
    let (how, patch) = (PatchParams::default(), Patch::Merge(&change));
    bounded(&what, api.patch(host, &how, &patch)).await.map(drop)
}

/// The hosts that runs have cordoned, each with the run. Who may not look could not have done it.
pub(super) async fn cordoned(client: &Client) -> Vec<(String, String)> {
    let api: Api<Node> = Api::all(client.clone());
    let Ok(nodes) = bounded("listing the nodes", api.list(&ListParams::default())).await else {
        return Vec::new();
    };
    let of_runs = nodes
        .iter()
        .filter_map(|node| Some((node.name_any(), node.annotations().get(DRAINED)?.clone())));
    of_runs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::ready(serde_json::json!({}), "True", true)]
    #[case::not_ready(serde_json::json!({}), "False", false)]
    #[case::silent(serde_json::json!({}), "Unknown", false)]
    #[case::cordoned(serde_json::json!({"unschedulable": true}), "True", false)]
    #[case::control_plane(serde_json::json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}), "True", false)]
    #[case::preferred(serde_json::json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}), "True", true)]
    fn a_host_is_given_pods(#[case] spec: serde_json::Value, #[case] ready: &str, #[case] schedulable: bool) {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "labels": {"topology.kubernetes.io/zone": "z"}},
            "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap();
        let wanted = Host {
            name: "a".into(),
            labels: [("topology.kubernetes.io/zone".to_owned(), "z".to_owned())].into(),
            zone: Some("z".into()),
            schedulable,
        };
        assert_eq!(host(&node), wanted);
    }

    #[rstest]
    #[case(&[true], Some("of 1 nodes only 0 can be given pods"))]
    #[case(&[false, false], Some("none of 2 nodes can be given pods"))]
    #[case(&[false, true, false], Some("of 3 nodes only 1 can be given pods"))]
    #[case(&[true, true], None)]
    fn one_host_cannot_be_lost(#[case] schedulable: &[bool], #[case] told: Option<&str>) {
        let hosts = schedulable.iter().enumerate();
        let hosts: Vec<Host> = hosts
            .map(|(number, schedulable)| Host {
                name: number.to_string(),
                labels: Default::default(),
                zone: None,
                schedulable: *schedulable,
            })
            .collect();
        assert_eq!(too_few(&hosts).as_deref(), told);
    }

    #[rstest]
    #[case("False", "Unschedulable", true)]
    #[case("False", "SchedulerError", false)]
    #[case("True", "", false)]
    fn a_pod_without_a_place_is_known(#[case] status: &str, #[case] reason: &str, #[case] homeless: bool) {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "status": {"conditions": [{"type": "PodScheduled", "status": status, "reason": reason}]},
        }))
        .unwrap();
        assert_eq!(is_homeless(&pod), homeless);
    }
}

//! Upheavals: the StatefulSet scaled, deleted and applied again; addresses exchanged; the API stopped.

use super::apply::{Made, lock};
use super::faults::{Lasting, allow_pods, ended, longest, refuse_pods, stop, strike};
use super::site::{Site, bounded};
use crate::cluster::node::Member;
use crate::progress::Progress;
use crate::target::{TargetError, Upheaval};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The annotation that says how many pods there were before the suite scaled: what a killed run leaves is put right by it.
const REPLICAS: &str = "redis-cluster-conformance/replicas";

/// What a pod of a StatefulSet may take to be made, once its predecessor is Ready.
const POD_MADE: Duration = Duration::from_secs(60);

/// What the platform may take to work again after its API did not answer: its controllers give up meanwhile, and are
/// started again.
const PLATFORM_BACK: Duration = Duration::from_secs(180);

/// What makes pods, and gives them a place: whichever of several leads renews a lease of that name.
const CONTROLLERS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// How often a state is looked at again that is not watched.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The upheavals that last, so that they can be undone.
#[derive(Default)]
pub(super) struct Upheavals {
    /// How many pods there were before.
    scaled: Mutex<Option<i32>>,
    deleted: Mutex<bool>,
    held: Mutex<bool>,
    muted: Mutex<bool>,
    /// The host that is given no pods.
    pub(super) drained: Mutex<Option<String>>,
    /// The host that is frozen.
    pub(super) frozen: Mutex<Option<String>>,
}

impl Lasting {
    pub(super) async fn upheave(&self, site: &Site, upheaval: &Upheaval, made: &Made) -> Result<(), TargetError> {
        site.forget_addresses();
        let done = match upheaval {
            Upheaval::Recreate => {
                let pods = site.raw_pods().await?;
                let stops = pods.iter().map(|pod| stop(site, pod));
                let stopped = futures::future::join_all(stops).await;
                stopped.into_iter().collect::<Result<(), _>>()?;
                all_end(site, &pods).await
            }
            Upheaval::ScaleIn(member) => self.scale_in(site, member).await,
            Upheaval::ScaleToNothing => self.scale(site, |_| 0).await,
            Upheaval::Delete => {
                let pods = site.raw_pods().await?;
                *lock(&self.upheavals.deleted) = true;
                site.delete_applied(made).await?;
                all_end(site, &pods).await
            }
            Upheaval::SwapAddresses(one, other) => self.swap(site, one, other).await,
            Upheaval::LoseApi => {
                let nodes = site.node_access()?;
                let pods = site.raw_pods().await?;
                *lock(&self.upheavals.muted) = true;
                nodes.stop_api(true).await?;
                site.do_without_api(Some(pods));
                Ok(())
            }
            Upheaval::Drain(host) => self.drain(site, host).await,
            Upheaval::FreezeHost(host) => self.freeze_host(site, host).await,
            Upheaval::RestartHost(host) => super::hosts::restart(site, host).await,
        };
        site.forget_addresses();
        done
    }

    /// Undoes the upheavals that last.
    pub(super) async fn settle(&self, site: &Site) -> Result<(), TargetError> {
        if std::mem::take(&mut *lock(&self.upheavals.muted)) {
            let started = jiff::Timestamp::now();
            let on = site.node_access()?.stop_api(false).await;
            site.do_without_api(None);
            on?;
            platform_back(site, started).await?;
        }
        let mut first = Ok(());
        if std::mem::take(&mut *lock(&self.upheavals.held)) {
            first = site.node_access()?.release_addresses().await;
        }
        if std::mem::take(&mut *lock(&self.upheavals.deleted)) {
            // The run's own list of what was made holds these already.
            first = first.and(site.apply(true, &Mutex::default(), &Progress::silent()).await);
        }
        let before = lock(&self.upheavals.scaled).take();
        if let Some(replicas) = before {
            first = first.and(set_replicas(site, replicas, None).await);
        }
        first
    }

    async fn scale_in(&self, site: &Site, member: &Member) -> Result<(), TargetError> {
        let pods = site.raw_pods().await?;
        let last = pods.iter().max_by_key(|pod| ordinal(&pod.name_any()));
        match last {
            Some(pod) if pod.name_any() == member.name => self.scale(site, |replicas| replicas - 1).await,
            Some(pod) => Err(TargetError::Usage(format!(
                "a StatefulSet gives up {} first, not {member}",
                pod.name_any()
            ))),
            None => Err(TargetError::Usage("there are no pods".into())),
        }
    }

    /// Changes how many pods there are to be; returns when the servers of those that are too many have ended.
    async fn scale(&self, site: &Site, wanted: impl Fn(i32) -> i32) -> Result<(), TargetError> {
        let before = site.workload().await?.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let wanted = wanted(before);
        let mut pods = site.raw_pods().await?;
        pods.retain(|pod| ordinal(&pod.name_any()).is_some_and(|number| number >= i64::from(wanted)));
        *lock(&self.upheavals.scaled) = Some(before);
        set_replicas(site, wanted, Some(before)).await?;
        all_end(site, &pods).await
    }

    /// Keeps both pods away, holds every address but the two that they had, and lets them come in an order that gives each
    /// the other's.
    async fn swap(&self, site: &Site, one: &Member, other: &Member) -> Result<(), TargetError> {
        let nodes = site.node_access()?.clone();
        let (first, second) = match ordinal(&one.name) < ordinal(&other.name) {
            true => (one, other),
            false => (other, one),
        };
        let pods = [site.raw_pod(&first.name).await?, site.raw_pod(&second.name).await?];
        let host = pods[0].spec.as_ref().and_then(|spec| spec.node_name.clone());
        *lock(&self.quota) = true;
        refuse_pods(site).await?;
        for stopped in futures::future::join_all(pods.iter().map(|pod| stop(site, pod))).await {
            stopped?;
        }
        let api = site.api::<Pod>();
        for pod in &pods {
            strike(&api, pod).await?;
        }
        *lock(&self.upheavals.held) = true;
        let free = [second.address.host.as_str(), first.address.host.as_str()];
        nodes
            .hold_addresses_but(host.as_deref().unwrap_or_default(), free)
            .await?;
        *lock(&self.quota) = false;
        allow_pods(site).await?;
        let back = both_back(site, first, second).await;
        *lock(&self.upheavals.held) = false;
        nodes.release_addresses().await?;
        back
    }
}

/// Waits until both pods run, each with the address of the other.
async fn both_back(site: &Site, first: &Member, second: &Member) -> Result<(), TargetError> {
    let started = Instant::now();
    loop {
        let members = site.members().await?;
        let host = |name: &str| {
            let found = members.iter().find(|member| member.name == name);
            found.map(|member| member.address.host.clone())
        };
        let now = (host(&first.name), host(&second.name));
        if let (Some(of_first), Some(of_second)) = &now {
            if *of_first == second.address.host && *of_second == first.address.host {
                return Ok(());
            }
            return Err(TargetError::Surroundings(format!(
                "{first} came back at {of_first} and {second} at {of_second}, not each at the other's address"
            )));
        }
        if started.elapsed() >= 2 * POD_MADE {
            return Err(TargetError::Surroundings(format!(
                "{first} and {second} did not both come back within {} s: they are at {now:?}",
                (2 * POD_MADE).as_secs()
            )));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The number at the end of a pod's name.
fn ordinal(name: &str) -> Option<i64> {
    name.rsplit_once('-').and_then(|(_, number)| number.parse().ok())
}

/// Waits until the servers of pods that are to go have ended, one after another at worst, and takes each pod off the API
/// then, where it can stay for a minute more.
async fn all_end(site: &Site, pods: &[Pod]) -> Result<(), TargetError> {
    let api = site.api::<Pod>();
    let count = u32::try_from(pods.len()).unwrap_or(1);
    let ends = pods.iter().map(async |pod| {
        ended(site, pod, count * longest(pod)).await?;
        strike(&api, pod).await
    });
    futures::future::join_all(ends).await.into_iter().collect()
}

async fn set_replicas(site: &Site, replicas: i32, before: Option<i32>) -> Result<(), TargetError> {
    let before = before.map(|before| before.to_string());
    let change = serde_json::json!({
        "metadata": {"annotations": {REPLICAS: before}},
        "spec": {"replicas": replicas},
    });
    let name = &site.descriptor.workload;
    let what = format!("scaling StatefulSet {name} to {replicas}");
    let api = site.api::<StatefulSet>();
    let (how, patch) = (PatchParams::default(), Patch::Merge(&change));
    bounded(&what, api.patch(name, &how, &patch)).await.map(drop)
}

/// Scales back what a killed run has scaled.
pub(super) async fn scale_back(site: &Site) -> Result<(), TargetError> {
    let workload = site.workload().await?;
    match workload
        .annotations()
        .get(REPLICAS)
        .and_then(|before| before.parse().ok())
    {
        Some(before) => set_replicas(site, before, None).await,
        None => Ok(()),
    }
}

/// Waits until the API answers, every node is Ready, and the controllers of the platform have taken up their work again:
/// those that lead renew a lease.
async fn platform_back(site: &Site, since: jiff::Timestamp) -> Result<(), TargetError> {
    let started = Instant::now();
    loop {
        let missing = match not_back(site, since).await {
            Ok(None) => return Ok(()),
            Ok(Some(missing)) => missing,
            Err(error) => error.to_string(),
        };
        if started.elapsed() >= PLATFORM_BACK {
            return Err(TargetError::Surroundings(format!(
                "the platform does not work again {} s after its API was let go on: {missing}",
                PLATFORM_BACK.as_secs()
            )));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn not_back(site: &Site, since: jiff::Timestamp) -> Result<Option<String>, TargetError> {
    let all = ListParams::default();
    let nodes: Api<Node> = Api::all(site.client.clone());
    for node in bounded("listing the nodes", nodes.list(&all)).await? {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions
            .into_iter()
            .any(|it| it.type_ == "Ready" && it.status == "True");
        if !ready {
            return Ok(Some(format!("node {} is not Ready", node.name_any())));
        }
    }
    let leases: Api<Lease> = Api::namespaced(site.client.clone(), "kube-system");
    for name in CONTROLLERS {
        let lease = bounded("looking at a lease", leases.get_opt(name)).await?;
        let renewed = lease.and_then(|lease| lease.spec?.renew_time);
        if renewed.is_some_and(|at| at.0 < since) {
            return Ok(Some(format!("{name} has not renewed its lease")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::ordinal;

    #[test]
    fn the_last_pod_is_that_of_the_highest_number() {
        let mut names = ["r-9", "r-10", "r-2"];
        names.sort_by_key(|name| ordinal(name));
        assert_eq!(names, ["r-2", "r-9", "r-10"]);
        assert_eq!(ordinal("none"), None);
    }
}

//! Upheavals: the StatefulSet scaled, rolled out, upgraded, deleted and applied again; addresses exchanged; the API stopped.

use super::apply::{Made, lock};
use super::faults::{Lasting, allow_one_pod, allow_pods, ended, longest, refuse_pods, stop, strike};
use super::site::{Site, bounded};
use super::summaries::condition_of_node;
use crate::cluster::node::Member;
use crate::progress::Progress;
use crate::target::{TargetError, Upheaval};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Container, Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The annotation that says how many pods there were before the suite scaled: what a killed run leaves is put right by it.
const REPLICAS: &str = "redis-cluster-conformance/replicas";

/// The annotation of the pods' template that is changed to have all pods made anew.
const ROLLED_OUT: &str = "redis-cluster-conformance/rolled-out";

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
    /// The volume claims that there were before there were more pods.
    grown: Mutex<Option<BTreeSet<String>>>,
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
            Upheaval::Recreate => stop_all(site).await,
            Upheaval::ScaleIn(member) => self.scale_in(site, member).await,
            Upheaval::ScaleToNothing => self.scale(site, |_| 0).await,
            Upheaval::ScaleOut(more) => self.scale_out(site, *more).await,
            Upheaval::RollOut => roll_out(site).await,
            Upheaval::Upgrade => upgrade(site).await,
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

    /// Undoes the upheavals that last. Each is forgotten once it is undone.
    pub(super) async fn settle(&self, site: &Site) -> Result<(), TargetError> {
        let muted = *lock(&self.upheavals.muted);
        if muted {
            let started = jiff::Timestamp::now();
            let on = site.node_access()?.stop_api(false).await;
            site.do_without_api(None);
            on?;
            platform_back(site, started).await?;
            *lock(&self.upheavals.muted) = false;
        }
        let mut first = Ok(());
        let held = *lock(&self.upheavals.held);
        if held {
            first = site.node_access()?.release_addresses().await;
            if first.is_ok() {
                *lock(&self.upheavals.held) = false;
            }
        }
        let deleted = *lock(&self.upheavals.deleted);
        if deleted {
            // The run's own list of what was made holds these already.
            let undone = site.apply(true, &Mutex::default(), &Progress::silent()).await;
            if undone.is_ok() {
                *lock(&self.upheavals.deleted) = false;
            }
            first = first.and(undone);
        }
        let before = *lock(&self.upheavals.scaled);
        if let Some(replicas) = before {
            let claims = lock(&self.upheavals.grown).clone();
            let undone = match &claims {
                Some(claims) => shrink(site, replicas, claims).await,
                None => set_replicas(site, replicas, None).await,
            };
            if undone.is_ok() {
                *lock(&self.upheavals.scaled) = None;
                *lock(&self.upheavals.grown) = None;
            }
            first = first.and(undone);
        }
        first
    }

    /// Has more pods made than there are.
    async fn scale_out(&self, site: &Site, more: usize) -> Result<(), TargetError> {
        let before = site
            .stateful_set()
            .await?
            .spec
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        let wanted = before + i32::try_from(more).unwrap_or(1);
        let claims = site.claims().await?;
        *lock(&self.upheavals.scaled) = Some(before);
        *lock(&self.upheavals.grown) = Some(claims);
        set_replicas(site, wanted, Some(before)).await
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
        let before = site
            .stateful_set()
            .await?
            .spec
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        let wanted = wanted(before);
        let pods = beyond(site, wanted).await?;
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
        // Where the controller makes all pods at once, the network gives addresses in any order: so one after the other.
        allow_one_pod(site).await?;
        addressed(site, first).await?;
        allow_pods(site).await?;
        *lock(&self.quota) = false;
        let back = both_back(site, first, second).await;
        nodes.release_addresses().await?;
        *lock(&self.upheavals.held) = false;
        back
    }
}

/// Waits until the pod that takes a server's place has an address.
async fn addressed(site: &Site, member: &Member) -> Result<(), TargetError> {
    let started = Instant::now();
    loop {
        let pods = site.raw_pods().await?;
        let pod = pods.iter().find(|pod| pod.name_any() == member.name);
        let state = pod.and_then(|pod| pod.status.as_ref());
        if state.is_some_and(|status| status.pod_ip.is_some()) {
            return Ok(());
        }
        if started.elapsed() >= POD_MADE {
            let seen = state.and_then(|status| status.phase.clone());
            return Err(TargetError::Surroundings(format!(
                "{member} has no address again after {} s: {}",
                POD_MADE.as_secs(),
                seen.as_deref().unwrap_or("there is no such pod")
            )));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Stops every server of a site gracefully, all at once; returns when they have ended.
pub(super) async fn stop_all(site: &Site) -> Result<(), TargetError> {
    let pods = site.raw_pods().await?;
    let stops = pods.iter().map(|pod| stop(site, pod));
    let stopped = futures::future::join_all(stops).await;
    stopped.into_iter().collect::<Result<(), _>>()?;
    let ended = all_end(site, &pods).await;
    site.forget_addresses();
    ended
}

/// The pods that go when there are to be so many.
async fn beyond(site: &Site, replicas: i32) -> Result<Vec<Pod>, TargetError> {
    let spec = site.stateful_set().await?.spec;
    // Since Kubernetes 1.27 the numbers may begin elsewhere.
    let first = spec.and_then(|spec| spec.ordinals?.start).unwrap_or(0);
    let mut pods = site.raw_pods().await?;
    pods.retain(|pod| ordinal(&pod.name_any()).is_some_and(|number| number >= i64::from(first) + i64::from(replicas)));
    Ok(pods)
}

/// Has so many pods again, waits until those that are too many have ended, and removes the volume claims that came with
/// them: nobody else does.
async fn shrink(site: &Site, replicas: i32, before: &BTreeSet<String>) -> Result<(), TargetError> {
    let pods = beyond(site, replicas).await?;
    let mut claims = Vec::new();
    for pod in &pods {
        claims.extend(super::volumes::claims(site, pod).await?);
    }
    claims.retain(|(name, _)| !before.contains(name));
    set_replicas(site, replicas, None).await?;
    all_end(site, &pods).await?;
    super::volumes::remove(site, &claims).await
}

/// Changes the pods' template, as `kubectl rollout restart` does.
async fn roll_out(site: &Site) -> Result<(), TargetError> {
    let now = jiff::Timestamp::now().to_string();
    let annotations = serde_json::json!({"metadata": {"annotations": {ROLLED_OUT: now}}});
    let change = serde_json::json!({"spec": {"template": annotations}});
    let name = site.stateful_set_name()?;
    let what = format!("changing the pods' template of StatefulSet {name}");
    let api = site.api::<StatefulSet>();
    let (how, patch) = (PatchParams::default(), Patch::Merge(&change));
    bounded(&what, api.patch(name, &how, &patch)).await.map(drop)
}

/// Changes the image of the pods' template: of the server's container, and of every other that runs the same one.
async fn upgrade(site: &Site) -> Result<(), TargetError> {
    let image = site.upgrade_to.as_deref();
    let image = image.ok_or_else(|| TargetError::Usage("--upgrade-to names no image".into()))?;
    let name = site.stateful_set_name()?;
    let api = site.api::<StatefulSet>();
    let set = bounded(&format!("looking at StatefulSet {name}"), api.get(name)).await?;
    let pod = set.spec.and_then(|spec| spec.template.spec).unwrap_or_default();
    let (all, first) = (&pod.containers, pod.init_containers.as_deref().unwrap_or_default());
    let server = all.iter().find(|one| one.name == site.descriptor.container);
    let old = server.and_then(|server| server.image.clone());
    if old.as_deref() == Some(image) {
        return Err(TargetError::Usage(format!(
            "StatefulSet {name} has the image {image} already: nothing is upgraded by it"
        )));
    }
    let changed = |containers: &[Container]| -> Vec<serde_json::Value> {
        let same = containers.iter().filter(|one| one.image == old);
        same.map(|one| serde_json::json!({"name": one.name, "image": image}))
            .collect()
    };
    let change = serde_json::json!({"spec": {"template": {"spec": {
        "containers": changed(all), "initContainers": changed(first),
    }}}});
    let what = format!("changing the image of StatefulSet {name} to {image}");
    let (how, patch) = (PatchParams::default(), Patch::Strategic(&change));
    bounded(&what, api.patch(name, &how, &patch)).await.map(drop)
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
    let before = before.map(|before| format!("{before} {replicas}"));
    let change = serde_json::json!({
        "metadata": {"annotations": {REPLICAS: before}},
        "spec": {"replicas": replicas},
    });
    let name = site.stateful_set_name()?;
    let what = format!("scaling StatefulSet {name} to {replicas}");
    let api = site.api::<StatefulSet>();
    let (how, patch) = (PatchParams::default(), Patch::Merge(&change));
    bounded(&what, api.patch(name, &how, &patch)).await.map(drop)
}

/// Scales back what a killed run has scaled.
pub(super) async fn scale_back(site: &Site) -> Result<(), TargetError> {
    // No other can have been scaled.
    if site.stateful_set_name().is_err() {
        return Ok(());
    }
    let workload = site.stateful_set().await?;
    let now = workload.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    match workload.annotations().get(REPLICAS) {
        Some(noted) => set_replicas(site, scaled_back(noted, now), None).await,
        None => Ok(()),
    }
}

/// How many pods there are to be, by what is noted (how many there were, and how many were asked for) and how many are asked for
/// now. Whoever has asked for others since is to have them.
fn scaled_back(noted: &str, now: i32) -> i32 {
    let numbers: Vec<i32> = noted.split(' ').filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [before, asked] if asked == now => before,
        _ => now,
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
        if !condition_of_node(&node, "Ready") {
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
    use super::{ordinal, scaled_back};
    use rstest::rstest;

    #[rstest]
    #[case::as_it_was_left("6 0", 0, 6)]
    #[case::scaled_by_somebody_since("6 0", 9, 9)]
    #[case::back_already("6 0", 6, 6)]
    #[case::nonsense("six", 3, 3)]
    fn whoever_scales_after_a_killed_run_keeps_the_number(#[case] noted: &str, #[case] now: i32, #[case] wanted: i32) {
        assert_eq!(scaled_back(noted, now), wanted);
    }

    #[test]
    fn the_last_pod_is_that_of_the_highest_number() {
        let mut names = ["r-9", "r-10", "r-2"];
        names.sort_by_key(|name| ordinal(name));
        assert_eq!(names, ["r-2", "r-9", "r-10"]);
        assert_eq!(ordinal("none"), None);
    }
}

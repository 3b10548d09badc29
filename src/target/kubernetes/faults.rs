//! Faults: a pod deleted, a pod kept away, and, where the node's own processes can be reached, a crash and a pause.

use super::apply::{RUN_LABEL, fit, lock};
use super::links::Links;
use super::site::{PATIENCE, Site, bounded, timed_out};
use super::upheaval::{Upheavals, scale_back};
use super::{ServerProcess, Signal};
use crate::cluster::connection::{Address, LinkError};
use crate::cluster::node::Member;
use crate::target::{Fault, TargetError};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The quota that keeps pods away.
const QUOTA: &str = "redis-cluster-conformance-keep-away";

/// What a pod may take to end beyond its own grace period. The kubelet can miss the end of a container until it collects
/// garbage, which is once a minute.
const SLACK: Duration = Duration::from_secs(90);

/// How long a server that is to end may think about one PING.
const PING: Duration = Duration::from_secs(2);

/// How long a pod may be on the API after its server has ended, on a cluster of the suite's own.
const LATE: Duration = Duration::from_secs(15);

/// How long the quota may take to be counted. Nothing is judged by the wait; beside builds, whose writes the API's store waited
/// for, it was seen to take more than 20 s.
const QUOTA_COUNTED: Duration = Duration::from_secs(60);

/// The faults that last, so that they can be undone.
#[derive(Default)]
pub(super) struct Lasting {
    pub(super) links: Links,
    pub(super) quota: Mutex<bool>,
    pub(super) upheavals: Upheavals,
    frozen: Mutex<Vec<ServerProcess>>,
    /// What waits for pods that are late to leave; ends with this.
    late: Mutex<tokio::task::JoinSet<()>>,
}

impl Lasting {
    pub(super) async fn inject(&self, site: &Site, fault: Fault, member: &Member) -> Result<(), TargetError> {
        let pod = site.raw_pod(&member.name).await?;
        site.forget_addresses();
        let done = match fault {
            // A pod that is made again has another address, unless something else takes care that it keeps it.
            Fault::Restart | Fault::NewAddress => {
                stop(site, &pod).await?;
                self.strike_late(site, &pod);
                Ok(())
            }
            Fault::KeepAway => {
                *lock(&self.quota) = true;
                refuse_pods(site).await?;
                stop(site, &pod).await?;
                strike(&site.api(), &pod).await
            }
            Fault::Crash => self.signal(site, &pod, Signal::Kill).await,
            Fault::Pause => self.signal(site, &pod, Signal::Stop).await,
            Fault::LoseVolume => {
                let claims = super::volumes::claims(site, &pod).await?;
                *lock(&self.quota) = true;
                refuse_pods(site).await?;
                kill(site, &pod).await?;
                super::volumes::remove(site, &claims).await
            }
            Fault::Kill => {
                *lock(&self.quota) = true;
                refuse_pods(site).await?;
                kill(site, &pod).await
            }
            Fault::Evict => {
                evict(site, &pod).await?;
                self.strike_late(site, &pod);
                Ok(())
            }
            Fault::ForceDelete => strike(&site.api(), &pod).await,
            Fault::Disconnect => Err(TargetError::Usage(format!(
                "{member} cannot be {} on this target",
                fault.past()
            ))),
        };
        site.forget_addresses();
        done
    }

    async fn signal(&self, site: &Site, pod: &Pod, signal: Signal) -> Result<(), TargetError> {
        let nodes = site.node_access()?;
        let process = process(site, pod)?;
        if signal == Signal::Stop {
            lock(&self.frozen).push(process.clone());
        }
        nodes.signal(&process, signal).await
    }

    /// On a cluster of the suite's own, sees to it that a pod that has ended makes way for its successor. The kubelet of
    /// Kubernetes 1.20 takes 6 s for that, but sometimes misses that the container is gone until it collects garbage, which
    /// is once a minute: that is no property of the deployment.
    pub(super) fn strike_late(&self, site: &Site, pod: &Pod) {
        if site.nodes.is_none() {
            return;
        }
        let (api, pod) = (site.api::<Pod>(), pod.clone());
        let mut late = lock(&self.late);
        while late.try_join_next().is_some() {}
        late.spawn(async move {
            tokio::time::sleep(LATE).await;
            if let Err(error) = strike(&api, &pod).await {
                tracing::debug!(%error, "an ended pod stays on the API");
            }
        });
    }

    /// Undoes what lasts. Each is forgotten once it is undone: what an error kept from it is tried again the next time.
    pub(super) async fn undo(&self, site: &Site) -> Result<(), TargetError> {
        // Before what reaches into hosts, or needs pods to have one.
        let mut first = self.free_hosts(site).await;
        first = first.and(self.links.mend(site).await);
        let frozen = lock(&self.frozen).clone();
        for process in frozen {
            let undone = site.node_access()?.signal(&process, Signal::Continue).await;
            if undone.is_ok() {
                lock(&self.frozen).retain(|other| *other != process);
            }
            first = first.and(undone);
        }
        // Before what needs the API: it may be what does not answer.
        first = first.and(self.settle(site).await);
        let refused = *lock(&self.quota);
        if refused {
            let undone = allow_pods(site).await;
            if undone.is_ok() {
                *lock(&self.quota) = false;
            }
            first = first.and(undone);
        }
        site.forget_addresses();
        first
    }
}

/// Where a pod's server runs.
pub(super) fn process(site: &Site, pod: &Pod) -> Result<ServerProcess, TargetError> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    match (node, pod.metadata.uid.clone()) {
        (Some(node), Some(pod)) => Ok(ServerProcess {
            node,
            pod,
            container: site.descriptor.container.clone(),
        }),
        (Some(_), None) | (None, _) => {
            let name = pod.name_any();
            Err(TargetError::Surroundings(format!("pod {name} has no node at present")))
        }
    }
}

/// Deletes a pod, with the grace period that it has, and waits until its server has ended.
pub(super) async fn stop(site: &Site, pod: &Pod) -> Result<(), TargetError> {
    let name = pod.name_any();
    delete(
        &site.api(),
        pod,
        DeleteParams::default(),
        &format!("deleting pod {name}"),
    )
    .await?;
    ended(site, pod, longest(pod)).await
}

/// Asks for a pod to be evicted, and waits until its server has ended.
async fn evict(site: &Site, pod: &Pod) -> Result<(), TargetError> {
    bounded(&format!("evicting pod {}", pod.name_any()), eviction(site, pod)).await?;
    ended(site, pod, longest(pod)).await
}

/// Asks for a pod to be evicted. The platform may refuse.
pub(super) async fn eviction(site: &Site, pod: &Pod) -> kube::Result<()> {
    let how = EvictParams {
        delete_options: Some(DeleteParams::default().preconditions(only(pod))),
        ..EvictParams::default()
    };
    site.api::<Pod>().evict(&pod.name_any(), &how).await.map(drop)
}

/// That no other pod of the same name is meant.
fn only(pod: &Pod) -> Preconditions {
    Preconditions {
        uid: pod.metadata.uid.clone(),
        resource_version: None,
    }
}

/// The longest that a pod may take to end.
pub(super) fn longest(pod: &Pod) -> Duration {
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    Duration::from_secs(grace.unwrap_or(30).unsigned_abs()) + SLACK
}

/// Waits until the server of a pod that is being deleted has ended.
pub(super) async fn ended(site: &Site, pod: &Pod, bound: Duration) -> Result<(), TargetError> {
    let (name, uid) = (pod.name_any(), pod.metadata.uid.clone().unwrap_or_default());
    // The API can learn of the end of a container long after it, so the node is asked as well, or the server's own port
    // where the node cannot be asked.
    tokio::select! {
        ended = site.await_end(&name, &uid, bound) => ended,
        ended = process_ends(site, pod, bound) => ended,
        () = refuses(site, pod) => Ok(()),
    }
}

/// Kills a pod's server for good. The pod goes first, or its container would be started again at once; and before it, where
/// the nodes can be reached, the server is frozen, so that it does nothing about the SIGTERM that it gets for that.
async fn kill(site: &Site, pod: &Pod) -> Result<(), TargetError> {
    let reached = site.nodes.as_ref().zip(process(site, pod).ok());
    if let Some((nodes, process)) = &reached {
        nodes.signal(process, Signal::Stop).await?;
    }
    strike(&site.api(), pod).await?;
    let Some((nodes, process)) = &reached else {
        return ended(site, pod, longest(pod)).await;
    };
    // Where the kubelet was quicker there is no process any more.
    if let Err(error) = nodes.signal(process, Signal::Kill).await {
        tracing::debug!(%error, "a pod's server was killed by the kubelet");
    }
    nodes.await_end(process, SLACK).await
}

/// Ends when the server's process is gone; never, where the nodes cannot be asked.
async fn process_ends(site: &Site, pod: &Pod, bound: Duration) -> Result<(), TargetError> {
    match (&site.nodes, process(site, pod)) {
        (Some(nodes), Ok(process)) => nodes.await_end(&process, bound).await,
        (None, _) | (_, Err(_)) => std::future::pending().await,
    }
}

/// Takes a pod off the API at once. One whose server has ended can stay there for a minute more, and keeps its successor away.
pub(super) async fn strike(api: &Api<Pod>, pod: &Pod) -> Result<(), TargetError> {
    let at_once = DeleteParams::default().grace_period(0);
    delete(api, pod, at_once, "taking an ended pod off the API").await
}

/// Deletes this pod, and no other of its name.
async fn delete(api: &Api<Pod>, pod: &Pod, how: DeleteParams, what: &str) -> Result<(), TargetError> {
    let this_one = how.preconditions(only(pod));
    match tokio::time::timeout(PATIENCE, api.delete(&pod.name_any(), &this_one)).await {
        Ok(Ok(_)) => Ok(()),
        // Gone by itself, or another of that name in its place.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
        Ok(Err(error)) => Err(super::client::failed(what, &error)),
        Err(_) => Err(timed_out(what, PATIENCE)),
    }
}

/// Ends when the server of a pod accepts no connection any more; never, where the pod has no address.
async fn refuses(site: &Site, pod: &Pod) {
    let host = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    let Some(host) = host else {
        return std::future::pending().await;
    };
    let address = Address::new(host, site.descriptor.client_port);
    while !refuses_now(site, &pod.name_any(), &address).await {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A refusal can come after the stream was taken to be good, and is then seen by the first read.
async fn refuses_now(site: &Site, pod: &str, address: &Address) -> bool {
    let mut stream = match site.forward_to(pod, address).await {
        Ok(stream) => stream,
        Err(error) => return matches!(error, LinkError::Refused { .. }),
    };
    let asked = async {
        stream.write_all(b"PING\r\n").await?;
        stream.read_u8().await
    };
    let answered = tokio::time::timeout(PING, asked).await;
    matches!(answered, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// From now on no pod is made in the namespace. Returns when the API server keeps to it.
pub(super) async fn refuse_pods(site: &Site) -> Result<(), TargetError> {
    let api = site.api::<ResourceQuota>();
    let mut quota = ResourceQuota::default();
    quota.metadata.name = Some(QUOTA.to_owned());
    quota.labels_mut().insert(RUN_LABEL.to_owned(), fit(&site.run_id));
    quota.spec = Some(k8s_openapi::api::core::v1::ResourceQuotaSpec {
        hard: Some([("pods".to_owned(), Quantity("0".to_owned()))].into()),
        ..Default::default()
    });
    let what = format!("making ResourceQuota {QUOTA}");
    match tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &quota)).await {
        Ok(Ok(_)) => {}
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
        Ok(Err(error)) => return Err(super::client::failed(&what, &error)),
        Err(_) => return Err(timed_out(&what, PATIENCE)),
    }
    counted(site, "0", None).await
}

/// Lets one pod more be made than there are, after [`refuse_pods`]: the controller makes that with the lowest number first.
pub(super) async fn allow_one_pod(site: &Site) -> Result<(), TargetError> {
    let list = bounded("counting pods", site.api::<Pod>().list(&ListParams::default())).await?;
    // Pods that have just gone are counted for a while: then two could come.
    counted(site, "0", Some(list.items.len())).await?;
    let hard = (list.items.len() + 1).to_string();
    let change = serde_json::json!({"spec": {"hard": {"pods": hard}}});
    let what = format!("letting ResourceQuota {QUOTA} have one pod more");
    let api = site.api::<ResourceQuota>();
    bounded(&what, api.patch(QUOTA, &PatchParams::default(), &Patch::Merge(&change))).await?;
    counted(site, &hard, None).await?;
    nudge(site).await
}

/// Waits until the API server counts pods against the quota with that limit, and counts so many where a number is given.
async fn counted(site: &Site, limit: &str, number: Option<usize>) -> Result<(), TargetError> {
    let api = site.api::<ResourceQuota>();
    let what = format!("looking at ResourceQuota {QUOTA}");
    let started = Instant::now();
    while started.elapsed() < QUOTA_COUNTED {
        let status = bounded(&what, api.get(QUOTA)).await?.status.unwrap_or_default();
        let pods = |map: &Option<std::collections::BTreeMap<String, Quantity>>| {
            map.as_ref()
                .and_then(|map| map.get("pods"))
                .map(|count| count.0.clone())
        };
        let used = pods(&status.used);
        if pods(&status.hard).as_deref() == Some(limit) && number.is_none_or(|number| used == Some(number.to_string()))
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(TargetError::Surroundings(format!(
        "ResourceQuota {QUOTA} with {limit} pods was not counted within {} s, so another pod than meant would come back",
        QUOTA_COUNTED.as_secs()
    )))
}

/// Takes back what a killed run left in a namespace that is not its own: no pod could be made there any more. The caller holds
/// the namespace's Lease.
pub(super) async fn take_back_leftovers(site: &Site) -> Result<(), TargetError> {
    if is_quota_left(site).await {
        allow_pods(site).await?;
    }
    scale_back(site).await
}

/// Whether a run that was killed has left its quota. Who may not look could not have made it.
async fn is_quota_left(site: &Site) -> bool {
    let what = format!("looking for ResourceQuota {QUOTA}");
    matches!(
        bounded(&what, site.api::<ResourceQuota>().get_opt(QUOTA)).await,
        Ok(Some(_))
    )
}

/// Takes away the quota that a killed run left in a namespace where the deployment is yet to be made: no pod could be. The
/// caller holds the namespace's Lease.
pub(super) async fn remove_leftover_quota(site: &Site) -> Result<(), TargetError> {
    match is_quota_left(site).await {
        true => remove_quota(site).await,
        false => Ok(()),
    }
}

/// Lets pods be made again, and has the controller look at once: after refusals it waits for ever longer.
pub(super) async fn allow_pods(site: &Site) -> Result<(), TargetError> {
    remove_quota(site).await?;
    // The quota's absence must have reached the API server's own view, or the first try is refused once more.
    tokio::time::sleep(Duration::from_millis(300)).await;
    nudge(site).await
}

/// Takes the quota away where there is one.
async fn remove_quota(site: &Site) -> Result<(), TargetError> {
    let what = format!("removing ResourceQuota {QUOTA}");
    let (api, how) = (site.api::<ResourceQuota>(), DeleteParams::default());
    match tokio::time::timeout(PATIENCE, api.delete(QUOTA, &how)).await {
        Ok(Err(error)) if !super::client::is_missing(&error) => return Err(super::client::failed(&what, &error)),
        Ok(Ok(_) | Err(_)) => {}
        Err(_) => return Err(timed_out(&what, PATIENCE)),
    }
    Ok(())
}

async fn nudge(site: &Site) -> Result<(), TargetError> {
    let annotation = "redis-cluster-conformance/look-again";
    for workload in site.descriptor.workloads() {
        let what = format!("asking the controller of {workload} to look again");
        for value in [serde_json::json!("now"), serde_json::Value::Null] {
            let change = serde_json::json!({"metadata": {"annotations": {annotation: value}}});
            let (how, patch) = (PatchParams::default(), Patch::Merge(&change));
            match workload.split_once('/') {
                Some(("Deployment", name)) => {
                    let api = site.api::<Deployment>();
                    unless_refused(bounded(&what, api.patch(name, &how, &patch)).await.map(drop))?;
                }
                Some((_, name)) => {
                    let api = site.api::<StatefulSet>();
                    unless_refused(bounded(&what, api.patch(name, &how, &patch)).await.map(drop))?;
                }
                None => {}
            }
        }
    }
    Ok(())
}

/// A controller makes the pods by itself too, only later: whoever may not have it look at once waits for that.
fn unless_refused(asked: Result<(), TargetError>) -> Result<(), TargetError> {
    match asked {
        Err(TargetError::NotAllowed(reason)) => {
            tracing::debug!(reason, "a controller is not asked to look again");
            Ok(())
        }
        done => done,
    }
}

/// Whether the context's user may do something to what is named as `kubectl auth can-i` takes it: `pods/exec` is a subresource,
/// and what is of an API group has it behind a dot, as `statefulsets.apps`.
pub(super) async fn allowed(client: &Client, namespace: Option<&str>, verb: &str, resource: &str) -> bool {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: namespace.map(str::to_owned),
                verb: Some(verb.to_owned()),
                ..attributes(resource)
            }),
            ..Default::default()
        },
        ..Default::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let how = PostParams::default();
    match tokio::time::timeout(Duration::from_secs(10), api.create(&how, &review)).await {
        Ok(Ok(answer)) => answer.status.is_some_and(|status| status.allowed),
        Ok(Err(_)) | Err(_) => false,
    }
}

/// The group of the API, the resource and the subresource that a name means.
fn attributes(name: &str) -> ResourceAttributes {
    let (name, subresource) = match name.split_once('/') {
        Some((name, subresource)) => (name, Some(subresource.to_owned())),
        None => (name, None),
    };
    let (resource, group) = name.split_once('.').unwrap_or((name, ""));
    ResourceAttributes {
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{TargetError, attributes, unless_refused};
    use rstest::rstest;

    #[rstest]
    #[case::core("pods", ("", "pods", None))]
    #[case::its_part("pods/exec", ("", "pods", Some("exec")))]
    #[case::of_a_group("statefulsets.apps", ("apps", "statefulsets", None))]
    #[case::its_part_of_a_group("deployments.apps/scale", ("apps", "deployments", Some("scale")))]
    #[case::of_a_long_group("networkpolicies.networking.k8s.io", ("networking.k8s.io", "networkpolicies", None))]
    fn rights_are_asked_for_in_their_group(#[case] name: &str, #[case] expected: (&str, &str, Option<&str>)) {
        let found = attributes(name);
        let (group, resource) = (found.group.unwrap(), found.resource.unwrap());
        assert_eq!(
            (group.as_str(), resource.as_str(), found.subresource.as_deref()),
            expected
        );
    }

    #[rstest]
    #[case::done(Ok(()), true)]
    #[case::refused(Err(TargetError::NotAllowed("no".into())), true)]
    #[case::broken(Err(TargetError::Surroundings("no answer".into())), false)]
    fn a_controller_that_may_not_be_asked_is_no_error(#[case] asked: Result<(), TargetError>, #[case] fine: bool) {
        assert_eq!(unless_refused(asked).is_ok(), fine);
    }
}

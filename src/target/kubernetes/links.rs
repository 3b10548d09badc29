//! Cuts of links between pods: packets are dropped in each pod's own network namespace. So it is the same whatever the
//! cluster's network is made of, the suite's streams, which are opened inside the pods, are not meant, and what a killed
//! run has cut goes with its pods.

use super::apply::lock;
use super::faults::process;
use super::site::Site;
use super::{NodeAccess, ServerProcess};
use crate::target::netns::{self, Endpoint};
use crate::target::{Cut, TargetError};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::sync::{Arc, Mutex};

/// The cuts of one run.
#[derive(Default)]
pub(super) struct Links {
    /// The pods whose namespaces have a chain, or may have.
    cut: Mutex<Vec<ServerProcess>>,
}

/// Whether links between the pods that there are can be cut.
///
/// # Errors
/// Why not, for people.
pub(super) async fn possible(site: &Site, nodes: &Arc<dyn NodeAccess>) -> Result<(), String> {
    let pods = site.raw_pods().await.map_err(|error| error.to_string())?;
    if let Some(pod) = pods.iter().find(|pod| on_its_node_s_network(pod)) {
        return Err(format!(
            "pod {} has no network of its own, but its node's",
            pod.name_any()
        ));
    }
    let servers = servers(site, &pods)?;
    let Some((server, _)) = servers.first() else {
        return Err("there is no pod to try it on".into());
    };
    let trial = async {
        let text = netns::chain().with(&netns::nothing());
        nodes.filter(&[(server.clone(), text)]).await?;
        nodes.unfilter(std::slice::from_ref(server)).await
    };
    trial.await.map_err(|error| error.to_string())
}

fn on_its_node_s_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
}

/// The pods that have an address, where they are, and as packets name them.
fn servers(site: &Site, pods: &[Pod]) -> Result<Vec<(ServerProcess, Endpoint)>, String> {
    let address = |pod: &Pod| {
        pod.status
            .as_ref()?
            .pod_ip
            .clone()
            .filter(|address| !address.is_empty())
    };
    let (mut places, mut hosts) = (Vec::new(), Vec::new());
    for pod in pods {
        if let (Ok(place), Some(host)) = (process(site, pod), address(pod)) {
            places.push(place);
            hosts.push(host);
        }
    }
    let port = site.descriptor.client_port;
    let endpoints = netns::endpoints(hosts.iter().map(|host| (host.as_str(), port)))?;
    Ok(places.into_iter().zip(endpoints).collect())
}

impl Links {
    /// Puts these cuts in the place of those that there are.
    pub(super) async fn cut(&self, site: &Site, cuts: &[Cut]) -> Result<(), TargetError> {
        let nodes = site.node_access()?;
        self.mend(site).await?;
        let servers = servers(site, &site.raw_pods().await?).map_err(TargetError::Usage)?;
        let by_address = |cut: &Cut| {
            cut.renamed(|member| {
                let host = member.address.host.as_str();
                let found = servers.iter().map(|(_, endpoint)| *endpoint);
                let mut found = found.filter(|endpoint| endpoint.address.to_string() == host);
                let gone = || TargetError::Usage(format!("no pod is at the address of {member}"));
                found.next().ok_or_else(gone)
            })
        };
        let cuts = cuts.iter().map(by_address).collect::<Result<Vec<_>, _>>()?;
        let texts = servers.iter().filter_map(|(server, endpoint)| {
            let drops = netns::drops(*endpoint, &cuts);
            (!drops.is_empty()).then(|| (server.clone(), netns::chain().with(&drops)))
        });
        let texts: Vec<(ServerProcess, String)> = texts.collect();
        *lock(&self.cut) = texts.iter().map(|(server, _)| server.clone()).collect();
        let done = nodes.filter(&texts).await;
        if done.is_err() {
            // Half a cut is none that anybody asked for; why it is half tells more than whether the rest could be mended.
            let _ = self.mend(site).await;
        }
        done
    }

    /// Takes all cuts away. Cheap when there is none.
    pub(super) async fn mend(&self, site: &Site) -> Result<(), TargetError> {
        let cut = lock(&self.cut).clone();
        if cut.is_empty() {
            return Ok(());
        }
        site.node_access()?.unfilter(&cut).await?;
        lock(&self.cut).clear();
        Ok(())
    }
}

//! Whose a namespace or a cordoned node is: those of a run go with it, those of runs that were killed with the next.

use super::KubernetesTarget;
use super::apply::{fit, namespaces, remove_namespaces};
use super::assess::is_ready;
use super::client::reach;
use super::hosts::{cordon, cordoned};
use super::site::bounded;
use super::summaries::condition_of_node;
use super::turn::living;
use crate::progress::Progress;
use crate::target::TargetError;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client};
use std::collections::BTreeSet;
use std::path::Path;

/// Removes the namespaces of a run: its own, and those of the copies that are left.
pub(super) async fn remove_run(client: &Client, run_id: &str, own: Option<String>) -> Result<(), TargetError> {
    let of_run = namespaces(client).await.unwrap_or_default();
    let mut names: BTreeSet<String> = own.into_iter().collect();
    names.extend(
        of_run
            .into_iter()
            .filter(|(_, run)| *run == fit(run_id))
            .map(|(name, _)| name),
    );
    let names: Vec<String> = names.into_iter().collect();
    remove_namespaces(client, &names, &Progress::silent()).await
}

/// Removes the namespaces of runs that have ended without doing so. The caller knows that no other run is going on.
pub(super) async fn remove_leftovers(client: &Client, run_id: &str, progress: &Progress) -> Result<(), TargetError> {
    let left: Vec<String> = namespaces(client)
        .await?
        .into_iter()
        .filter(|(_, run)| *run != fit(run_id))
        .map(|(name, _)| name)
        .collect();
    if !left.is_empty() {
        progress.line(format!(
            "  removing what an earlier run left: namespace {}",
            left.join(", ")
        ));
    }
    for (host, _) in cordoned(client).await {
        cordon(client, &host, None).await?;
    }
    remove_namespaces(client, &left, progress).await
}

impl KubernetesTarget {
    /// On a cluster that others use: puts right what runs that have ended left outside of the namespace of this one. Those that
    /// go on are known by their Leases. Namespaces are removed by a run that makes them itself.
    pub(super) async fn clear_after_others(
        &self,
        client: &Client,
        makes_namespaces: bool,
        progress: &Progress,
    ) -> Result<(), TargetError> {
        let mut hosts = cordoned(client).await;
        let mut left = match makes_namespaces {
            // Who may not list them cannot tell what is left.
            true => namespaces(client).await.unwrap_or_default(),
            false => Vec::new(),
        };
        for things in [&mut hosts, &mut left] {
            things.retain(|(_, run)| *run != fit(&self.options.run_id));
        }
        let runs: BTreeSet<String> = hosts.iter().chain(&left).map(|(_, run)| run.clone()).collect();
        if runs.is_empty() {
            return Ok(());
        }
        let living = match living(client, &runs, progress).await {
            Ok(living) => living,
            Err(TargetError::NotAllowed(_)) => {
                progress.line(format!("  {}", by_hand(&hosts, &left)));
                return Ok(());
            }
            // What others left keeps nobody from judging.
            Err(error) => {
                progress.line(format!("  {error}"));
                return Ok(());
            }
        };
        for (host, run) in hosts.iter().filter(|(_, run)| !living.contains(run)) {
            progress.line(format!("  uncordoning node {host}, which run {run} left cordoned"));
            if let Err(error) = cordon(client, host, None).await {
                progress.line(format!("  {error}"));
            }
        }
        left.retain(|(_, run)| !living.contains(run));
        let mut names = Vec::new();
        for (name, _) in left {
            // What a command installed may be elsewhere too, and only the marker there says so.
            if self.uninstall_leftover(client, &name, progress).await != Some(false) {
                names.push(name);
            }
        }
        if !names.is_empty() {
            progress.line(format!(
                "  removing what earlier runs left: namespace {}",
                names.join(", ")
            ));
        }
        if let Err(error) = remove_namespaces(client, &names, progress).await {
            progress.line(format!("  {error}"));
        }
        Ok(())
    }
}

/// What somebody has to do who knows which runs have ended.
fn by_hand(hosts: &[(String, String)], namespaces: &[(String, String)]) -> String {
    let hosts = hosts
        .iter()
        .map(|(host, run)| format!("{run}: kubectl uncordon {host}"));
    let namespaces = namespaces
        .iter()
        .map(|(name, run)| format!("{run}: kubectl delete namespace {name}"));
    let undo: Vec<String> = hosts.chain(namespaces).collect();
    format!(
        "there are other runs, or were: which of them have ended cannot be said without a right to list Leases. After one that has: {}",
        undo.join("; ")
    )
}

/// Whether the API server answers, every node is Ready, and the cluster's name service answers too: pods of a cluster that has
/// just been made may start before it does, and would be found slow for no fault of theirs.
pub(crate) async fn is_alive(kubeconfig: &Path) -> Result<(), String> {
    let reached = reach(Some(kubeconfig), None).await.map_err(|error| error.to_string())?;
    let nodes: Api<Node> = Api::all(reached.client.clone());
    let nodes = bounded("listing the nodes", nodes.list(&ListParams::default()))
        .await
        .map_err(|error| error.to_string())?;
    let unready = nodes.iter().find(|node| !condition_of_node(node, "Ready"));
    if let Some(node) = unready {
        let name = node.metadata.name.as_deref().unwrap_or("?");
        return Err(format!("its node {name} is not Ready"));
    }
    let pods: Api<Pod> = Api::namespaced(reached.client, "kube-system");
    // The label that every name service of Kubernetes has, whatever its name.
    let of_names = ListParams::default().labels("k8s-app=kube-dns");
    let pods = bounded("listing the pods of the cluster's name service", pods.list(&of_names))
        .await
        .map_err(|error| error.to_string())?;
    match pods.iter().any(is_ready) {
        true => Ok(()),
        false => Err("no pod of its name service (k8s-app=kube-dns in kube-system) is Ready".to_owned()),
    }
}

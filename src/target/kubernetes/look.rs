//! What there is in a namespace, for a description to be written of it (`init`).

use super::client::{is_missing, reach};
use super::site::{PATIENCE, bounded};
use crate::target::TargetError;
use crate::target::descriptor::found::{Maker, Seen};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use std::path::Path;

/// Looks at a namespace: the context's, where none is named. Nothing is changed, and no Secret is read.
///
/// # Errors
/// When the API cannot be reached, the namespace is not there, or what is in it may not be listed.
pub async fn look(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
    namespace: Option<&str>,
) -> Result<Seen, TargetError> {
    let reached = reach(kubeconfig, context).await?;
    let namespace = namespace.unwrap_or(&reached.namespace).to_owned();
    let spaces: Api<Namespace> = Api::all(reached.client.clone());
    if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, spaces.get(&namespace)).await
        && is_missing(&error)
    {
        return Err(TargetError::Usage(format!(
            "the namespace \"{namespace}\" does not exist; name one with --namespace"
        )));
    }
    let client = &reached.client;
    let (pods, sets, deployments, replicas, services, maps) = tokio::try_join!(
        all::<Pod>(client, &namespace, "pods"),
        all::<StatefulSet>(client, &namespace, "StatefulSets"),
        all::<Deployment>(client, &namespace, "Deployments"),
        all::<ReplicaSet>(client, &namespace, "ReplicaSets"),
        all::<Service>(client, &namespace, "Services"),
        all::<ConfigMap>(client, &namespace, "ConfigMaps"),
    )?;
    let sets = sets.into_iter().map(|set| {
        let name = format!("StatefulSet/{}", set.name_any());
        let spec = set.spec.unwrap_or_default();
        Maker {
            name,
            selector: spec.selector.match_labels.unwrap_or_default(),
            service: spec.service_name.filter(|service| !service.is_empty()),
        }
    });
    let deployments = deployments.into_iter().map(|deployment| {
        let name = format!("Deployment/{}", deployment.name_any());
        let spec = deployment.spec.unwrap_or_default();
        Maker {
            name,
            selector: spec.selector.match_labels.unwrap_or_default(),
            service: None,
        }
    });
    let of_deployment = |set: ReplicaSet| {
        let owners = set.owner_references();
        let owner = owners.iter().find(|owner| owner.kind == "Deployment")?;
        Some((set.name_any(), owner.name.clone()))
    };
    Ok(Seen {
        makers: sets.chain(deployments).collect(),
        replica_sets: replicas.into_iter().filter_map(of_deployment).collect(),
        namespace,
        pods,
        services,
        config_maps: maps,
    })
}

async fn all<K>(client: &Client, namespace: &str, kinds: &str) -> Result<Vec<K>, TargetError>
where
    K: kube::Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let what = format!("listing the {kinds} of namespace {namespace}");
    Ok(bounded(&what, api.list(&ListParams::default())).await?.items)
}

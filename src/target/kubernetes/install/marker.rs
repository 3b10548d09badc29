//! The ConfigMap that says, from before the one command to after the other, whose work is in its namespace.

use crate::target::TargetError;
use crate::target::kubernetes::apply::{RUN_LABEL, fit};
use crate::target::kubernetes::client;
use crate::target::kubernetes::site::{PATIENCE, Site, bounded, timed_out};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};
use std::collections::BTreeMap;

/// The ConfigMap that says that a command has installed something in its namespace.
pub(super) const MARKER: &str = "redis-cluster-conformance-install";

/// Its entry: the description's file, in full.
const DESCRIPTION: &str = "description";

/// What a marker says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) run: String,
    pub(super) description: String,
}

/// What is there already is somebody's: it is neither changed, nor removed at the end.
pub(super) async fn refuse_foreign(site: &Site) -> Result<(), TargetError> {
    if let Some(marked) = marked(&site.client, &site.namespace).await? {
        return Err(TargetError::Usage(format!(
            "namespace {0} has what a command of {1} installed for run {2}, which is going on, or ended without removing it: once it has \
             ended, run `remove` of that file, and kubectl delete configmap {MARKER} --namespace {0}; or choose another namespace",
            site.namespace, marked.description, marked.run
        )));
    }
    match site.all_pods().await?.first() {
        None => Ok(()),
        Some(pod) => Err(TargetError::Usage(format!(
            "pod {} is already in namespace {}, and not of this run: attach to it, or choose another namespace",
            pod.name_any(),
            site.namespace
        ))),
    }
}

fn markers(client: &Client, namespace: &str) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), namespace)
}

/// Puts the marker into the site's namespace.
pub(super) async fn mark(site: &Site, description: &str) -> Result<(), TargetError> {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(MARKER.to_owned());
    map.labels_mut().insert(RUN_LABEL.to_owned(), fit(&site.run_id));
    map.data = Some(BTreeMap::from([(DESCRIPTION.to_owned(), description.to_owned())]));
    let what = format!("making ConfigMap {MARKER} in namespace {}", site.namespace);
    let api = markers(&site.client, &site.namespace);
    bounded(&what, api.create(&PostParams::default(), &map)).await.map(drop)
}

/// The marker of a namespace, where it has one.
pub(super) async fn marked(client: &Client, namespace: &str) -> Result<Option<Marked>, TargetError> {
    let what = format!("looking for ConfigMap {MARKER} in namespace {namespace}");
    let map = bounded(&what, markers(client, namespace).get_opt(MARKER)).await?;
    Ok(map.map(|map| Marked {
        run: map.labels().get(RUN_LABEL).cloned().unwrap_or_default(),
        description: map
            .data
            .and_then(|mut data| data.remove(DESCRIPTION))
            .unwrap_or_default(),
    }))
}

/// Takes the marker away.
pub(super) async fn unmark(client: &Client, namespace: &str) -> Result<(), TargetError> {
    let what = format!("removing ConfigMap {MARKER} from namespace {namespace}");
    let api = markers(client, namespace);
    match tokio::time::timeout(PATIENCE, api.delete(MARKER, &DeleteParams::default())).await {
        Ok(Err(error)) if !client::is_missing(&error) => Err(client::failed(&what, &error)),
        Ok(Ok(_) | Err(_)) => Ok(()),
        Err(_) => Err(timed_out(&what, PATIENCE)),
    }
}

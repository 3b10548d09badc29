//! Altered copies of a deployment, each in a namespace of its own.

use super::apply::{Made, fit, lock, make_namespace, remove_namespaces};
use super::deployment::SharedSite;
use super::site::{Site, unusable};
use crate::cluster::connection::{Address, BoxedStream, LinkError};
use crate::cluster::node::Member;
use crate::manifest::Parameters;
use crate::progress::Progress;
use crate::target::descriptor::VariantRecipe;
use crate::target::{DeployedVariant, Deployment, TargetError, Variant};
use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, watcher};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;

/// Copies made by this process: two of one kind must not share a namespace.
static COPIES: AtomicU32 = AtomicU32::new(1);

/// An altered copy.
pub(super) struct AlteredCopy {
    site: SharedSite,
    blocker: Mutex<Option<JoinHandle<()>>>,
}

impl AlteredCopy {
    /// Applies the altered manifest in a namespace of its own.
    pub(super) async fn deploy(original: &Arc<Site>, variant: Variant) -> Result<Self, TargetError> {
        let missing = || {
            TargetError::Usage(format!(
                "the description does not say how to make the variant {variant:?}"
            ))
        };
        let recipe = match (original.descriptor.variants.get(&variant), variant) {
            (Some(recipe), _) => recipe.clone(),
            (None, Variant::Unaltered) => unaltered(),
            (None, _) => return Err(missing()),
        };
        let mut manifest = original.manifest.clone().ok_or_else(missing)?;
        manifest
            .set(&recipe.parameters, original.descriptor.places())
            .map_err(|error| unusable(error.into()))?;
        for patch in &recipe.patches {
            manifest.apply(patch).map_err(|error| unusable(error.into()))?;
        }
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("rcc-{}-copy-{number}", fit(&original.run_id));
        make_namespace(&original.client, &namespace, &original.run_id).await?;
        let site = Arc::new(Site::new(
            original.client.clone(),
            namespace,
            original.descriptor.clone(),
            Some(manifest),
            original.run_id.clone(),
            original.nodes.clone(),
        ));
        let password = original.password.get().cloned().flatten();
        let _ = site.password.set(password);
        let copy = Self {
            blocker: Mutex::new(recipe.blocked_port.map(|port| tokio::spawn(block(site.clone(), port)))),
            site: SharedSite(site),
        };
        let applied = copy
            .site
            .0
            .apply(true, &Mutex::new(Made::default()), &Progress::silent())
            .await;
        match applied {
            Ok(()) => Ok(copy),
            Err(error) => {
                // The first error tells more than one of the removal would; what is left goes with the run.
                let _ = copy.remove().await;
                Err(error)
            }
        }
    }
}

/// It asks for little processor time, so that it fits beside the deployment.
fn unaltered() -> VariantRecipe {
    VariantRecipe {
        parameters: Parameters {
            cpu_request: Some("10m".to_owned()),
            ..Parameters::default()
        },
        ..VariantRecipe::default()
    }
}

impl Drop for AlteredCopy {
    fn drop(&mut self) {
        if let Some(blocker) = lock(&self.blocker).take() {
            blocker.abort();
        }
    }
}

/// Blocks a port of every pod as soon as the pod has an address.
async fn block(site: Arc<Site>, port: u16) {
    let Some(nodes) = site.nodes.clone() else { return };
    let mut blocked = BTreeSet::new();
    let pods = watcher(site.api::<Pod>(), Config::default().labels(&site.descriptor.selector()));
    let mut pods = pods.default_backoff().applied_objects().boxed();
    while let Some(seen) = pods.next().await {
        let Ok(pod) = seen else { continue };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let address = pod.status.and_then(|status| status.pod_ip).filter(|ip| !ip.is_empty());
        if let (Some(node), Some(address)) = (node, address)
            && blocked.insert(address.clone())
            && let Err(error) = nodes.block(&node, &address, port, &site.namespace).await
        {
            tracing::warn!(%error, %address, "a link was not cut");
        }
    }
}

#[async_trait]
impl DeployedVariant for AlteredCopy {
    fn deployment(&self) -> &dyn Deployment {
        &self.site
    }

    async fn members(&self) -> Result<Vec<Member>, TargetError> {
        self.site.0.members().await
    }

    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        self.site.0.forward(address).await
    }

    async fn collect_evidence(&self, folder: &Path) {
        self.site.0.collect_evidence(folder).await;
    }

    async fn remove(&self) -> Result<(), TargetError> {
        let blocker = lock(&self.blocker).take();
        if let Some(blocker) = blocker {
            blocker.abort();
            let _ = blocker.await;
        }
        let site = &self.site.0;
        let unblocked = match &site.nodes {
            Some(nodes) => nodes.unblock(&site.namespace).await,
            None => Ok(()),
        };
        let names = [site.namespace.clone()];
        let removed = remove_namespaces(&site.client, &names, &Progress::silent()).await;
        removed.and(unblocked)
    }
}

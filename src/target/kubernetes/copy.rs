//! Altered copies of a deployment, each in a namespace of its own.

use super::apply::{Made, fit, lock, make_namespace, remove_namespaces};
use super::deployment::SharedSite;
use super::site::{Site, unusable};
use super::upheaval::stop_all;
use crate::cluster::connection::{Address, BoxedStream, LinkError};
use crate::cluster::node::Member;
use crate::manifest::{Manifest, Parameters};
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
use std::time::Duration;
use tokio::task::JoinHandle;

/// Copies made by this process: two of one kind must not share a namespace.
static COPIES: AtomicU32 = AtomicU32::new(1);

/// How soon is tried again what the API did not do.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// An altered copy.
pub(super) struct AlteredCopy {
    site: SharedSite,
    /// What goes on beside it: a port blocked of every pod, an object made late.
    tasks: Mutex<Vec<JoinHandle<()>>>,
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
        let (late, on_time): (Vec<_>, Vec<_>) = manifest.documents.drain(..).partition(|document| {
            let late = recipe.late.as_ref();
            late.is_some_and(|late| document.kind() == late.kind && document.name() == late.name)
        });
        if recipe.late.is_some() && late.is_empty() {
            return Err(TargetError::Usage(format!(
                "the description of the variant {variant:?} names an object to be made late that is not there"
            )));
        }
        let of_late = Manifest {
            documents: late,
            ..manifest.clone()
        };
        manifest.documents = on_time;
        let mut descriptor = (*original.descriptor).clone();
        if let Some(name) = &recipe.workload {
            (descriptor.workload, descriptor.workloads) = (Some(name.clone()), Vec::new());
        }
        if let (Some(bootstrap), Some(pod)) = (&mut descriptor.bootstrap, &recipe.bootstrap_pod) {
            bootstrap.pod.clone_from(pod);
        }
        let descriptor = Arc::new(descriptor);
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("rcc-{}-copy-{number}", fit(&original.run_id));
        make_namespace(&original.client, &namespace, &original.run_id).await?;
        let site = |manifest| {
            Arc::new(Site::new(
                original.client.clone(),
                namespace.clone(),
                descriptor.clone(),
                Some(manifest),
                original.run_id.clone(),
                original.nodes.clone(),
            ))
        };
        let (site, late_site) = (site(manifest), site(of_late));
        let password = original.password.get().cloned().flatten();
        let _ = site.password.set(password);
        let blocker = recipe.blocked_port.map(|port| tokio::spawn(block(site.clone(), port)));
        let late = recipe
            .late
            .as_ref()
            .map(|late| tokio::spawn(make_late(late_site, Duration::from_secs(late.seconds))));
        let copy = Self {
            tasks: Mutex::new(blocker.into_iter().chain(late).collect()),
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
        for task in lock(&self.tasks).drain(..) {
            task.abort();
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

/// Applies what is to be made late, once the bootstrap's pod has had an address for so long. Tries until it is made.
async fn make_late(site: Arc<Site>, delay: Duration) {
    let addressed = |pod: Option<&Pod>| {
        let status = pod.and_then(|pod| pod.status.as_ref());
        status.is_some_and(|status| status.pod_ip.as_ref().is_some_and(|ip| !ip.is_empty()))
    };
    let Some(pod) = site.descriptor.bootstrap_pod() else {
        return;
    };
    while let Err(error) = kube::runtime::wait::await_condition(site.api::<Pod>(), pod, addressed).await {
        tracing::warn!(%error, "the bootstrap's pod cannot be watched");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    tokio::time::sleep(delay).await;
    while let Err(error) = site.apply(true, &Mutex::default(), &Progress::silent()).await {
        tracing::warn!(%error, "what is to be made late is not made yet");
        tokio::time::sleep(LOOK_AGAIN).await;
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
        self.site.0.open(address).await
    }

    async fn stop_all(&self) -> Result<(), TargetError> {
        stop_all(&self.site.0).await
    }

    async fn collect_evidence(&self, folder: &Path) {
        self.site.0.collect_evidence(folder).await;
    }

    async fn remove(&self) -> Result<(), TargetError> {
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        for task in tasks {
            task.abort();
            let _ = task.await;
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

//! Target `kind`: the target `kubernetes` on a kind cluster that the suite makes, or takes where a good one runs. The
//! cluster is used by one process at a time, under a lock; what it made is its to remove.

mod children;
mod cluster;
mod layout;
mod nodes;

pub use cluster::{cluster_name, down, kubeconfig, up};
pub use layout::{IpFamily, Layout};

use super::descriptor::Descriptor;
use super::kubernetes::NodeAccess;
use super::kubernetes::{Disposition, KubernetesOptions, KubernetesTarget};
use super::{
    Cut, Deployment, Execution, Fault, Phase, Secret, Target, TargetDescription, TargetError, TargetKind, Upheaval,
};
use crate::case::Capability;
use crate::cluster::connection::{Address, BoxedStream, LinkError};
use crate::cluster::node::Member;
use crate::manifest::Parameters;
use crate::progress::Progress;
use crate::timing::Timing;
use async_trait::async_trait;
use cluster::{Cluster, Maker};
use nodes::DockerNodes;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the user says of a target on kind.
#[derive(Clone, Debug)]
pub struct KindOptions {
    /// The description of the deployment.
    pub descriptor: Descriptor,
    /// Parameters that win over those of the description.
    pub parameters: Parameters,
    /// The image to which the servers are upgraded in the run.
    pub upgrade_to: Option<String>,
    /// What the cluster is to be like.
    pub layout: Layout,
    /// Whether the cluster and what was applied stay when the run ends.
    pub keep: bool,
    /// The run's id, part of names and labels.
    pub run_id: String,
    /// The time limits.
    pub timing: Timing,
}

/// A deployment on a kind cluster.
pub struct KindTarget {
    options: KindOptions,
    inner: KubernetesTarget,
    nodes: Arc<DockerNodes>,
    /// The cluster, while this run holds its lock.
    cluster: Mutex<Option<Arc<Cluster>>>,
    /// Whether the cluster was there, made or taken.
    reached: AtomicBool,
}

impl std::fmt::Debug for KindTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KindTarget").finish_non_exhaustive()
    }
}

impl KindTarget {
    /// Reads the description's manifest; nothing is made yet.
    ///
    /// # Errors
    /// When the manifest cannot be used, or there is no place for the cluster's files.
    pub fn new(options: KindOptions) -> Result<Self, TargetError> {
        let nodes = Arc::new(DockerNodes::new(&cluster_name()));
        let mut parameters = options.parameters.clone();
        if parameters.password.is_none() && options.descriptor.places().secret.is_some() {
            // What stands in a manifest is known to everybody, and may be a placeholder.
            parameters.password = Some(made_up()?);
        }
        let inner = KubernetesTarget::with_nodes(
            KubernetesOptions {
                descriptor: options.descriptor.clone(),
                parameters,
                upgrade_to: options.upgrade_to.clone(),
                kubeconfig: Some(kubeconfig()?),
                context: None,
                in_cluster: false,
                // The cluster is the suite's own: a namespace of its own keeps runs apart.
                namespace: None,
                disposition: Disposition::Apply,
                keep: options.keep,
                run_id: options.run_id.clone(),
                timing: options.timing.clone(),
            },
            Some(nodes.clone()),
        )?;
        Ok(Self {
            options,
            inner,
            nodes,
            cluster: Mutex::default(),
            reached: AtomicBool::new(false),
        })
    }

    fn cluster(&self) -> std::sync::MutexGuard<'_, Option<Arc<Cluster>>> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn prepare_cluster(&self, cluster: &Cluster, progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        let mut phases = Vec::new();
        let started = Instant::now();
        let taken = cluster
            .ensure(&Maker::Run(self.options.run_id.clone()), progress)
            .await?;
        self.reached.store(true, Ordering::Relaxed);
        phases.push(phase(if taken { "cluster taken" } else { "cluster made" }, started));
        let started = Instant::now();
        if taken {
            self.inner.remove_leftovers(progress).await?;
            self.nodes.unblock_all().await?;
            self.nodes.release_addresses().await?;
            phases.push(phase("leftovers removed", started));
        }
        let started = Instant::now();
        let mut images = self
            .inner
            .manifest()
            .map(|manifest| manifest.images())
            .unwrap_or_default();
        if images.is_empty() {
            // Of what a command installs only this is known.
            images.extend(
                (self.options.descriptor.parameters)
                    .overridden_by(&self.options.parameters)
                    .image,
            );
        }
        images.extend(self.options.upgrade_to.clone());
        cluster.load(&images, progress).await?;
        phases.push(phase("images loaded", started));
        Ok(phases)
    }
}

/// A password that nobody can guess, of letters and digits.
fn made_up() -> Result<Secret, TargetError> {
    let mut bytes = [0; 18];
    let random = rustls::crypto::ring::default_provider().secure_random;
    let filled = random.fill(&mut bytes);
    filled.map_err(|_| TargetError::Surroundings("this machine gives no random bytes".to_owned()))?;
    Ok(Secret::new(
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    ))
}

fn phase(name: &str, started: Instant) -> Phase {
    Phase {
        name: name.to_owned(),
        seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        floor: None,
    }
}

#[async_trait]
impl Target for KindTarget {
    fn description(&self) -> TargetDescription {
        let mut description = self.inner.description();
        description.kind = TargetKind::Kind;
        description.descriptor.insert("cluster".to_owned(), cluster_name());
        description
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        self.inner.capabilities()
    }

    fn is_ours(&self) -> bool {
        true
    }

    async fn prepare(&self, progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        self.inner.find_commands()?;
        let cluster =
            Arc::new(Cluster::lock(&format!("run {}", self.options.run_id), self.options.layout, progress).await?);
        *self.cluster() = Some(cluster.clone());
        let mut phases = self.prepare_cluster(&cluster, progress).await?;
        phases.extend(self.inner.prepare(progress).await?);
        Ok(phases)
    }

    fn password(&self) -> Option<Secret> {
        self.inner.password()
    }

    fn user(&self) -> Option<String> {
        self.inner.user()
    }

    async fn client_options(&self, member: &Member) -> Result<Vec<String>, TargetError> {
        self.inner.client_options(member).await
    }

    async fn members(&self) -> Result<Vec<Member>, TargetError> {
        self.inner.members().await
    }

    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        self.inner.connect(address).await
    }

    fn detour(&self) -> Duration {
        self.inner.detour()
    }

    async fn dial(&self, address: &Address) -> Result<SocketAddr, LinkError> {
        self.inner.dial(address).await
    }

    async fn inject(&self, fault: Fault, member: &Member) -> Result<(), TargetError> {
        self.inner.inject(fault, member).await
    }

    fn lacks(&self, capability: Capability) -> Option<String> {
        self.inner.lacks(capability)
    }

    async fn cut(&self, cuts: &[Cut]) -> Result<(), TargetError> {
        self.inner.cut(cuts).await
    }

    async fn upheave(&self, upheaval: &Upheaval) -> Result<(), TargetError> {
        self.inner.upheave(upheaval).await
    }

    async fn undo_faults(&self) -> Result<(), TargetError> {
        self.inner.undo_faults().await
    }

    async fn exec(
        &self,
        member: &Member,
        command: &[&str],
        environment: &[(&str, &Secret)],
        limit: Duration,
    ) -> Result<Execution, TargetError> {
        self.inner.exec(member, command, environment, limit).await
    }

    fn deployment(&self) -> Option<&dyn Deployment> {
        self.inner.deployment()
    }

    async fn collect_evidence(&self, folder: &Path) {
        self.inner.collect_evidence(folder).await;
    }

    async fn release(&self) -> Result<(), TargetError> {
        let cluster = self.cluster().take();
        let Some(cluster) = cluster else {
            return self.inner.uninstall().await;
        };
        if self.options.keep {
            cluster.belongs_to(&Maker::Up);
            return self.inner.release().await;
        }
        if cluster.made_by_a_run() {
            // What is in it goes with it, but a command may have made something elsewhere too.
            let uninstalled = self.inner.uninstall().await;
            self.inner.abandon().await;
            return cluster.delete(&Progress::silent()).await.and(uninstalled);
        }
        if !self.reached.load(Ordering::Relaxed) {
            // The cluster was never there for this run: nothing in it is this run's.
            return self.inner.release().await;
        }
        // Faults are undone first: nothing can be done inside a node that is frozen.
        let released = self.inner.release().await;
        released.and(self.nodes.unblock_all().await)
    }
}

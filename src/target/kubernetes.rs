//! Target `kubernetes`: a deployment in a namespace of an existing cluster, attached to or applied there, through the API
//! alone. The target `kind` is this one on a cluster of its own, whose nodes' processes it reaches as well.

mod abilities;
mod apply;
mod assess;
mod bootstrap;
mod client;
mod commands;
mod companion;
mod copy;
mod deployment;
mod evidence;
#[cfg(test)]
mod fake_api;
mod faults;
mod forward;
mod hosts;
mod install;
mod links;
mod look;
mod nodes;
mod objects;
mod ownership;
mod secured;
mod site;
mod summaries;
mod turn;
mod upheaval;
mod volumes;

pub use apply::RUN_LABEL;

use super::descriptor::Descriptor;
use super::folder::parent_of;
use super::{
    Cut, Deployment, Execution, Fault, Phase, Secret, Target, TargetDescription, TargetError, TargetKind, Upheaval,
};
use crate::case::Capability;
use crate::cluster::connection::{Address, BoxedStream, LinkError};
use crate::cluster::node::Member;
use crate::manifest::{Manifest, Parameters};
use crate::progress::Progress;
use crate::timing::Timing;
use apply::{Made, fit, give_up_namespace, lock, make_namespace};
use async_trait::async_trait;
use client::reach;
use deployment::SharedSite;
use faults::{Lasting, allowed, take_back_leftovers};
use install::Installation;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
pub use look::look;
pub(crate) use nodes::{NodeAccess, ServerProcess, Signal};
pub(crate) use ownership::is_alive;
use ownership::remove_run;
use site::{Site, unusable};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use turn::Turn;

/// Whether the run makes the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is there; nothing is made, and nothing is removed.
    Attach,
    /// The description's manifest is applied, and removed at the end; or its commands do so.
    Apply,
}

/// What the user says of a target on Kubernetes.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// The description of the deployment.
    pub descriptor: Descriptor,
    /// Parameters that win over those of the description.
    pub parameters: Parameters,
    /// The image to which the servers are upgraded in the run.
    pub upgrade_to: Option<String>,
    /// The kubeconfig; the usual one where not named.
    pub kubeconfig: Option<PathBuf>,
    /// The context; the kubeconfig's current one where not named.
    pub context: Option<String>,
    /// Whether this program runs in a pod of the cluster: then the pod's service account takes the kubeconfig's place,
    /// its namespace the context's, and servers are reached by their addresses.
    pub in_cluster: bool,
    /// The namespace; wins over the description's.
    pub namespace: Option<String>,
    /// Attach or apply.
    pub disposition: Disposition,
    /// Whether what was applied stays when the run ends.
    pub keep: bool,
    /// The run's id, part of names and labels.
    pub run_id: String,
    /// The time limits.
    pub timing: Timing,
}

/// A deployment on Kubernetes.
pub struct KubernetesTarget {
    options: KubernetesOptions,
    descriptor: Arc<Descriptor>,
    manifest: Option<Manifest>,
    nodes: Option<Arc<dyn NodeAccess>>,
    site: OnceLock<SharedSite>,
    facts: Mutex<BTreeMap<String, String>>,
    probed: Mutex<Option<BTreeSet<Capability>>>,
    /// Whether links between the pods can be cut, else why not; known by `prepare`, where the nodes can be reached.
    cuttable: OnceLock<Result<(), String>>,
    /// Why no host can be lost, if none can; known by `prepare`.
    lone: OnceLock<Option<String>>,
    lasting: Lasting,
    /// The description's commands, where they make the deployment; known by `prepare`.
    installation: OnceLock<Arc<Installation>>,
    /// The folder that holds the folders of runs that have commands.
    folders: PathBuf,
    made: Mutex<Made>,
    made_namespace: Mutex<Option<(Client, String)>>,
    /// The Lease of the namespace.
    turn: Mutex<Option<Arc<Turn>>>,
    /// Whether it is held; known by `prepare`.
    held: OnceLock<bool>,
}

impl std::fmt::Debug for KubernetesTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesTarget").finish_non_exhaustive()
    }
}

impl KubernetesTarget {
    /// Reads the description's manifest; nothing is connected to yet.
    ///
    /// # Errors
    /// When the manifest cannot be used, or the deployment is to be made and the description names neither manifest nor command.
    pub fn new(options: KubernetesOptions) -> Result<Self, TargetError> {
        Self::with_nodes(options, None)
    }

    pub(crate) fn with_nodes(
        options: KubernetesOptions,
        nodes: Option<Arc<dyn NodeAccess>>,
    ) -> Result<Self, TargetError> {
        let manifest = match options.disposition {
            Disposition::Attach => None,
            Disposition::Apply => options.descriptor.manifest(&options.parameters).map_err(unusable)?,
        };
        if options.disposition == Disposition::Apply && manifest.is_none() {
            install::refuse_unusable(&options)?;
        }
        let mut facts = BTreeMap::from([("description".to_owned(), options.descriptor.file())]);
        if let Some(user) = &options.descriptor.user {
            facts.insert("user".to_owned(), user.clone());
        }
        if let Some(tls) = &options.descriptor.tls {
            facts.insert("TLS".to_owned(), tls.server_names.to_string());
        }
        facts.extend(options.upgrade_to.clone().map(|image| ("upgrade to".to_owned(), image)));
        if let Some(manifest) = &manifest {
            facts.insert("manifest".to_owned(), manifest.file.clone());
            facts.insert("images".to_owned(), manifest.images().join(", "));
            if !manifest.normalisations.is_empty() {
                facts.insert("normalised".to_owned(), manifest.normalisations.join("; "));
            }
        }
        let folders = parent_of(match nodes {
            Some(_) => TargetKind::Kind,
            None => TargetKind::Kubernetes,
        });
        Ok(Self {
            descriptor: Arc::new(options.descriptor.clone()),
            manifest,
            nodes,
            site: OnceLock::new(),
            facts: Mutex::new(facts),
            probed: Mutex::default(),
            cuttable: OnceLock::new(),
            lone: OnceLock::new(),
            lasting: Lasting::default(),
            installation: OnceLock::new(),
            folders,
            made: Mutex::default(),
            made_namespace: Mutex::default(),
            turn: Mutex::default(),
            held: OnceLock::new(),
            options,
        })
    }

    /// The manifest that is to be applied, with its parameters set.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Closes what is open here and leaves the rest: the whole cluster is about to go.
    pub(crate) async fn abandon(&self) {
        if let Some(shared) = self.site.get() {
            shared.0.listeners.close().await;
        }
        *lock(&self.made_namespace) = None;
        *lock(&self.turn) = None;
    }

    /// Whether no other run is in the namespace, for certain.
    fn holds_turn(&self) -> bool {
        self.held.get() == Some(&true)
    }

    /// Gives the namespace's Lease back: the last that is done there.
    async fn end_turn(&self) -> Result<(), TargetError> {
        let turn = lock(&self.turn).clone();
        match turn {
            Some(turn) => turn.end().await,
            None => Ok(()),
        }
    }

    /// Whether something makes the pods anew that are gone.
    fn is_tended(&self) -> bool {
        !self.descriptor.workloads().is_empty()
    }

    fn note(&self, name: &str, value: &str) {
        lock(&self.facts).insert(name.to_owned(), value.to_owned());
    }

    /// The namespace that the user, the description or the context names; none where the run is to make one.
    fn named_namespace(&self, of_context: &str) -> Option<String> {
        let named = self
            .options
            .namespace
            .clone()
            .or_else(|| self.descriptor.namespace.clone());
        match self.options.disposition {
            Disposition::Attach => named.or_else(|| Some(of_context.to_owned())),
            Disposition::Apply => named,
        }
    }

    /// Takes the Lease of the namespace, and puts right what runs that have ended left elsewhere: the target kind, whose cluster
    /// no other run of its kind uses meanwhile, has done that.
    async fn take_turn(&self, client: &Client, namespace: &str, progress: &Progress) -> Result<(), TargetError> {
        let turn = Arc::new(Turn::new(client, namespace, &self.options.run_id));
        *lock(&self.turn) = Some(turn.clone());
        let held = turn.take(progress).await?;
        let makes_namespaces = lock(&self.made_namespace).is_some();
        let _ = self.held.set(held);
        match (held, makes_namespaces) {
            (true, _) if self.nodes.is_some() => Ok(()),
            (true, _) => self.clear_after_others(client, makes_namespaces, progress).await,
            // The next run would take this namespace for one that was left.
            (false, true) => Err(TargetError::Usage(format!(
                "in namespace {namespace}, which was made for this run, no Lease may be made, by which other runs know that this one goes on: \
                 the context's user needs the verbs get, create, update and delete for leases of coordination.k8s.io"
            ))),
            (false, false) => {
                progress.line(format!(
                    "  no Lease may be made in namespace {namespace}: another run may begin beside this one, and what one that was \
                     killed left there stays"
                ));
                Ok(())
            }
        }
    }

    /// The site; from here on there is something to release.
    async fn settle(&self, client: &Client, of_context: &str, progress: &Progress) -> Result<Arc<Site>, TargetError> {
        let fresh = format!("rcc-{}", fit(&self.options.run_id));
        let named = self.named_namespace(of_context);
        let namespace = named.clone().unwrap_or_else(|| fresh.clone());
        if named.is_none() {
            *lock(&self.made_namespace) = Some((client.clone(), fresh));
            make_namespace(client, &namespace, &self.options.run_id).await?;
        } else {
            let api: Api<Namespace> = Api::all(client.clone());
            match tokio::time::timeout(std::time::Duration::from_secs(10), api.get(&namespace)).await {
                Ok(Err(error)) if client::is_missing(&error) => {
                    return Err(TargetError::Usage(format!(
                        "the namespace \"{namespace}\" does not exist: make it with kubectl create namespace {namespace}, \
                         or name none, and the run makes one of its own when it applies a manifest"
                    )));
                }
                // Who may not look at namespaces may still use this one.
                Ok(Ok(_) | Err(_)) | Err(_) => {}
            }
        }
        self.note("namespace", &namespace);
        self.take_turn(client, &namespace, progress).await?;
        let mut site = Site::new(
            client.clone(),
            namespace,
            self.descriptor.clone(),
            self.manifest.clone(),
            self.options.run_id.clone(),
            self.nodes.clone(),
        );
        site.inside = self.options.in_cluster;
        site.upgrade_to = self.options.upgrade_to.clone();
        // The namespaces of copies are known as this run's by its Lease.
        site.copies =
            self.manifest.is_some() && self.holds_turn() && allowed(client, None, "create", "namespaces").await;
        let site = Arc::new(site);
        let _ = self.site.set(SharedSite(site.clone()));
        Ok(site)
    }

    fn site(&self) -> Result<&Arc<Site>, TargetError> {
        self.site
            .get()
            .map(|shared| &shared.0)
            .ok_or_else(|| TargetError::Surroundings("the target has not been prepared".to_owned()))
    }

    fn link_site(&self, address: &Address) -> Result<&Arc<Site>, LinkError> {
        self.site().map_err(|error| LinkError::Unreachable {
            address: address.clone(),
            reason: error.to_string(),
        })
    }

    async fn make(&self, site: &Arc<Site>, progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        if lock(&self.made_namespace).is_none() && self.holds_turn() {
            // Of a run that was killed there: no pod could be made.
            faults::remove_leftover_quota(site).await?;
            companion::dismiss_leftovers(site).await?;
        }
        if let Some(phases) = self.install(site, progress).await? {
            return Ok(phases);
        }
        let started = Instant::now();
        if let Some(manifest) = &self.manifest {
            // Known before it is asked for, so that nothing that goes wrong meanwhile tells it.
            let password = self.descriptor.password(Some(manifest)).map_err(unusable)?;
            let _ = site.password.set(password);
            for change in &manifest.normalisations {
                progress.line(format!("  {}: {change}", manifest.file));
            }
        }
        let fresh = lock(&self.made_namespace).is_some();
        site.apply(fresh, &self.made, progress).await?;
        progress.line(format!("  applied to namespace {}", site.namespace));
        let mut phases = vec![bootstrap::phase("apply", started.elapsed())];
        phases.extend(site.await_pods(self.options.timing.deployment(), progress).await?);
        if site.descriptor.tls.is_some() {
            site.tls().await?;
        }
        Ok(phases)
    }

    async fn attach(&self, site: &Arc<Site>) -> Result<Vec<Phase>, TargetError> {
        let started = Instant::now();
        // Known before anything can fail: the evidence that is gathered then must not tell it.
        let password = site.find_password().await;
        if let Ok(found) = &password {
            let _ = site.password.set(found.clone());
        }
        site.workloads().await?;
        if self.holds_turn() {
            take_back_leftovers(site).await?;
            companion::dismiss_leftovers(site).await?;
        }
        if site.members().await?.is_empty() {
            return Err(TargetError::NotDeployed(format!(
                "no pod in namespace {} has the labels {} and runs",
                site.namespace,
                self.descriptor.selector()
            )));
        }
        password?;
        if site.descriptor.tls.is_some() {
            site.speaks_tls().await?;
        }
        Ok(vec![bootstrap::phase("attach", started.elapsed())])
    }
}

#[async_trait]
impl Target for KubernetesTarget {
    fn description(&self) -> TargetDescription {
        TargetDescription {
            kind: TargetKind::Kubernetes,
            descriptor: lock(&self.facts).clone(),
            shape: self.descriptor.shape(),
        }
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        self.abilities()
    }

    fn is_ours(&self) -> bool {
        self.options.disposition == Disposition::Apply
    }

    async fn prepare(&self, progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        self.find_commands()?;
        let reached = match self.options.in_cluster {
            true => client::from_inside().await?,
            false => reach(self.options.kubeconfig.as_deref(), self.options.context.as_deref()).await?,
        };
        self.note("context", &reached.context);
        self.note("server", &format!("Kubernetes {} at {}", reached.version, reached.url));
        self.remove_installed_leftovers(&reached, progress).await?;
        let site = self.settle(&reached.client, &reached.namespace, progress).await?;
        self.probe(&site).await;
        let phases = match self.options.disposition {
            Disposition::Apply => self.make(&site, progress).await?,
            Disposition::Attach => self.attach(&site).await?,
        };
        site.find_service_port().await?;
        self.probe_network(&site).await;
        Ok(phases)
    }

    fn password(&self) -> Option<Secret> {
        self.site.get()?.0.password.get()?.clone()
    }

    fn user(&self) -> Option<String> {
        self.descriptor.user.clone()
    }

    async fn client_options(&self, member: &Member) -> Result<Vec<String>, TargetError> {
        self.site()?.client_options(member).await
    }

    async fn members(&self) -> Result<Vec<Member>, TargetError> {
        self.site()?.members().await
    }

    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        self.link_site(address)?.open(address).await
    }

    fn detour(&self) -> Duration {
        if self.options.in_cluster {
            return Duration::ZERO;
        }
        // Streams through the API server and the kubelet were seen to stall for seconds on a machine that was busy with
        // four clusters at once.
        Duration::from_secs(10)
    }

    async fn dial(&self, address: &Address) -> Result<SocketAddr, LinkError> {
        let site = self.link_site(address)?;
        site.listeners.dial(site, address).await
    }

    async fn inject(&self, fault: Fault, member: &Member) -> Result<(), TargetError> {
        self.lasting.inject(self.site()?, fault, member).await
    }

    fn lacks(&self, capability: Capability) -> Option<String> {
        self.why_not(capability)
    }

    async fn cut(&self, cuts: &[Cut]) -> Result<(), TargetError> {
        self.lasting.links.cut(self.site()?, cuts).await
    }

    async fn upheave(&self, upheaval: &Upheaval) -> Result<(), TargetError> {
        let made = lock(&self.made).clone();
        self.lasting.upheave(self.site()?, upheaval, &made).await
    }

    async fn undo_faults(&self) -> Result<(), TargetError> {
        match self.site.get() {
            Some(shared) => self.lasting.undo(&shared.0).await,
            None => Ok(()),
        }
    }

    async fn exec(
        &self,
        member: &Member,
        command: &[&str],
        environment: &[(&str, &Secret)],
        limit: Duration,
    ) -> Result<Execution, TargetError> {
        self.site()?.run_with(&member.name, command, environment, limit).await
    }

    fn spoilt(&self) -> Option<String> {
        lock(&self.turn).as_ref().and_then(|turn| turn.lost())
    }

    fn deployment(&self) -> Option<&dyn Deployment> {
        self.site.get().map(|site| site as &dyn Deployment)
    }

    async fn collect_evidence(&self, folder: &Path) {
        if let Some(shared) = self.site.get() {
            shared.0.collect_evidence(folder).await;
            if let Some(installation) = self.installation.get() {
                shared.0.keep_said(folder, installation.said()).await;
            }
        }
    }

    async fn release(&self) -> Result<(), TargetError> {
        let progress = Progress::silent();
        let mut outcome = Ok(());
        if let Some(shared) = self.site.get() {
            shared.0.listeners.close().await;
            outcome = self.lasting.undo(&shared.0).await;
            outcome = outcome.and(companion::dismiss(&shared.0).await);
        }
        outcome = outcome.and(self.uninstall().await);
        let made = lock(&self.made_namespace).take();
        let applied = std::mem::take(&mut *lock(&self.made));
        if self.options.keep {
            if let Some((client, namespace)) = made {
                outcome = outcome.and(give_up_namespace(&client, &namespace).await);
            }
            let ended = self.end_turn().await;
            return outcome.and(ended);
        }
        if let Some(shared) = self.site.get()
            && made.is_none()
        {
            outcome = outcome.and(shared.0.unapply(applied.clone(), &progress).await);
            if shared.0.copies {
                outcome = outcome.and(remove_run(&shared.0.client, &self.options.run_id, None).await);
            }
        }
        if let Some((client, namespace)) = made {
            outcome = remove_run(&client, &self.options.run_id, Some(namespace))
                .await
                .and(outcome);
            // Last: volumes may need their class, and what removes objects its rights, until they are gone.
            if let Some(shared) = self.site.get() {
                outcome = outcome.and(shared.0.delete_beside_namespaces(applied).await);
            }
        }
        // Whatever failed: who no longer lives must not seem to.
        let ended = self.end_turn().await;
        outcome.and(ended)
    }
}

//! The Kubernetes side of a deployment, as cases see it.

use super::client::failed;
use super::companion;
use super::copy::AlteredCopy;
use super::site::{PATIENCE, Site, Workload, bounded, is_a_server_s, timed_out};
use super::summaries::{claim_summary, containers, event_summary, summary};
use crate::cluster::node::Member;
use crate::target::{
    Budget, Change, Claim, Companion, DeployedVariant, Deployment, Event, Execution, Host, LiveKind, Objects, Pod,
    Scaling, TargetError, Variant,
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, PersistentVolumeClaim, Pod as RawPod, Service, ServicePort};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::{EvictParams, ListParams, Patch, PatchParams, PostParams};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What is asked of the container's first process, in whichever shell there is. It must handle the signal: the kernel
/// drops it for a first process that does not. The signal is sent again every second: Redis drops one that comes while it
/// writes its first append-only file after a synchronisation ("Writing initial AOF, can't exit"). The shell dies with the
/// container, so the next one is never meant; and it ends by itself, for nobody else stops it where the container goes on.
const STOP: [&str; 3] = [
    "sh",
    "-c",
    "for round in 1 2 3 4 5 6 7 8 9 10; do kill 1 || exit; sleep 1; done",
];

/// A site that is shared: listeners and copies need it beyond one call.
#[derive(Clone)]
pub(super) struct SharedSite(pub(super) Arc<Site>);

#[async_trait]
impl Deployment for SharedSite {
    async fn replicas(&self) -> Result<(i32, i32), TargetError> {
        let workloads = self.0.workloads().await?;
        if workloads.is_empty() {
            // Pods that were made one by one: only the description says how many there are to be.
            let ready = self.pods().await?.iter().filter(|pod| pod.ready).count();
            let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);
            return Ok((count(self.0.descriptor.shape().nodes()), count(ready)));
        }
        let sum = |of: fn(&Workload) -> i32| workloads.iter().map(of).sum();
        Ok((sum(|workload| workload.declared), sum(|workload| workload.ready)))
    }

    async fn pods(&self) -> Result<Vec<Pod>, TargetError> {
        Ok(self.0.raw_pods().await?.iter().map(summary).collect())
    }

    async fn hosts(&self) -> Result<Vec<Host>, TargetError> {
        super::hosts::hosts(&self.0.client).await
    }

    async fn events(&self) -> Result<Vec<Event>, TargetError> {
        Ok(self.0.raw_events().await?.iter().map(event_summary).collect())
    }

    fn bootstrap_pod(&self) -> Option<String> {
        self.0.descriptor.bootstrap_pod().map(str::to_owned)
    }

    fn bootstrap_container(&self) -> Option<String> {
        let bootstrap = self.0.descriptor.bootstrap.as_ref()?;
        Some(self.0.bootstrap_container(bootstrap).to_owned())
    }

    async fn bootstrap_log(&self) -> Result<String, TargetError> {
        self.0.hook_log().await
    }

    async fn bootstrap_said(&self) -> Result<String, TargetError> {
        let bootstrap = self.0.bootstrap()?;
        match &bootstrap.container {
            Some(own) => self.0.log_of(&bootstrap.pod, own, false, None).await,
            None => self.0.hook_log().await,
        }
    }

    async fn log(&self, pod: &str, previous: bool) -> Result<String, TargetError> {
        self.0.container_log(pod, previous, None).await
    }

    async fn exec(&self, pod: &str, command: &[&str], limit: Duration) -> Result<Execution, TargetError> {
        self.0.run(pod, command, limit).await
    }

    async fn restart_container(&self, pod: &str, container: &str, limit: Duration) -> Result<(), TargetError> {
        let before = self.0.raw_pod(pod).await?;
        let old = status(&before, container).map_or(0, |status| status.restart_count);
        let what = format!("starting the container {container} of pod {pod} again");
        let stopped = std::sync::OnceLock::new();
        let stopping = async {
            // The command dies with the container that it stops, so how it ended says nothing while that may still be.
            let _ = stopped.set(self.0.run_in(pod, container, &STOP, limit).await);
            tracing::debug!(?stopped, "kill in the container");
            std::future::pending::<()>().await;
        };
        let api = self.0.api::<RawPod>();
        let again = |pod: Option<&RawPod>| {
            pod.and_then(|pod| status(pod, container)).is_some_and(|status| {
                let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
                running && status.restart_count > old
            })
        };
        let restarted = async {
            tokio::select! {
                started = kube::runtime::wait::await_condition(api, pod, again) => started
                    .map(drop)
                    .map_err(|error| TargetError::Surroundings(format!("{what}: {error}"))),
                () = stopping => Ok(()),
            }
        };
        match tokio::time::timeout(limit, restarted).await {
            Ok(done) => done,
            Err(_) => Err(not_restarted(&what, limit, stopped.get())),
        }
    }

    async fn claims(&self) -> Result<Vec<Claim>, TargetError> {
        let api = self.0.api::<PersistentVolumeClaim>();
        let list = bounded("listing the volume claims", api.list(&ListParams::default())).await?;
        let mut claims: Vec<Claim> = list.iter().map(claim_summary).collect();
        claims.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(claims)
    }

    fn client_service(&self) -> Option<(String, u16)> {
        let descriptor = &self.0.descriptor;
        let service = descriptor.services.client.clone()?;
        let port = self.0.service_port.get().copied();
        Some((service, port.unwrap_or(descriptor.client_port)))
    }

    async fn behind(&self, service: &str) -> Result<Vec<String>, TargetError> {
        let what = format!("looking at the Endpoints of Service {service}");
        let endpoints = bounded(&what, self.0.api::<Endpoints>().get(service)).await?;
        let subsets = endpoints.subsets.into_iter().flatten();
        let ready = subsets.flat_map(|subset| subset.addresses.unwrap_or_default());
        Ok(ready.map(|address| address.ip).collect())
    }

    fn namespace(&self) -> String {
        self.0.namespace.clone()
    }

    fn headless_service(&self) -> Option<String> {
        self.0.descriptor.services.headless.clone()
    }

    fn server_container(&self) -> String {
        self.0.descriptor.container.clone()
    }

    async fn live(&self, kind: LiveKind) -> Result<Vec<(String, serde_json::Value)>, TargetError> {
        match kind {
            LiveKind::Workload => {
                let workloads = self.0.workloads().await?.into_iter();
                Ok(workloads.map(|workload| (workload.name, workload.object)).collect())
            }
            LiveKind::Pod => {
                let mut pods = self.0.all_pods().await?;
                // Who looks at the first alone means a server.
                pods.sort_by_key(|pod| !is_a_server_s(pod));
                named("Pod", &pods)
            }
            LiveKind::ConfigMap => named("ConfigMap", &self.0.listed::<ConfigMap>("ConfigMaps").await?),
            LiveKind::Service => named("Service", &self.0.listed::<Service>("Services").await?),
            LiveKind::NetworkPolicy => named(
                "NetworkPolicy",
                &self.0.listed::<NetworkPolicy>("NetworkPolicies").await?,
            ),
        }
    }

    async fn companion(&self, which: Companion, limit: Duration) -> Result<Member, TargetError> {
        self.0.companions.get(&self.0, which, limit).await
    }

    async fn fence_bait(&self) -> Result<(), TargetError> {
        companion::fence_bait(&self.0).await
    }

    fn scaling(&self) -> Scaling {
        self.0.descriptor.scaling
    }

    async fn configure(&self, line: &str) -> Result<Option<Change>, TargetError> {
        let Some(place) = &self.0.descriptor.redis_conf else {
            return Ok(None);
        };
        let text = self.0.config_map(&place.config_map, &place.key).await?;
        let changed = format!("{}\n{line}\n", text.trim_end_matches('\n'));
        let change = serde_json::json!({"data": {place.key.as_str(): changed}});
        let what = format!("changing ConfigMap {}", place.config_map);
        let api = self.0.api::<ConfigMap>();
        let (how, patch) = (PatchParams::default(), Patch::Merge(&change));
        let patched = api.patch(&place.config_map, &how, &patch);
        match tokio::time::timeout(Duration::from_secs(20), patched).await {
            Ok(Ok(_)) => Ok(Some(Change::Made)),
            Ok(Err(kube::Error::Api(status))) if is_refusal(status.code, &status.message) => {
                Ok(Some(Change::Refused(status.message)))
            }
            Ok(Err(error)) => Err(failed(&what, &error)),
            Err(_) => Err(timed_out(&what, Duration::from_secs(20))),
        }
    }

    async fn objects(&self) -> Result<Objects, TargetError> {
        self.0.live_objects().await
    }

    async fn rehearse_apply(&self) -> Result<Option<Vec<String>>, TargetError> {
        self.0.rehearse().await
    }

    async fn budgets(&self) -> Result<Vec<Budget>, TargetError> {
        self.0.budgets().await
    }

    async fn may_evict(&self, pod: &str) -> Result<Result<(), String>, TargetError> {
        let how = EvictParams {
            post_options: PostParams {
                dry_run: true,
                ..PostParams::default()
            },
            ..EvictParams::default()
        };
        let what = format!("asking whether pod {pod} might be evicted");
        let api = self.0.api::<RawPod>();
        match tokio::time::timeout(PATIENCE, api.evict(pod, &how)).await {
            Ok(Ok(_)) => Ok(Ok(())),
            // 500: several budgets over one pod.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 429 | 500) => Ok(Err(status.message.clone())),
            Ok(Err(error)) => Err(failed(&what, &error)),
            Err(_) => Err(timed_out(&what, PATIENCE)),
        }
    }

    async fn exit_code(&self, pod: &Pod) -> Result<Option<i32>, TargetError> {
        let name = &self.0.descriptor.container;
        let code = std::sync::Mutex::new(None);
        let gone = |seen: Option<&RawPod>| {
            let same = seen.filter(|seen| seen.metadata.uid.as_deref() == Some(&pod.uid));
            let Some(seen) = same else { return true };
            let ended = status(seen, name).and_then(|status| status.state.as_ref()?.terminated.as_ref());
            if let Some(ended) = ended {
                *super::apply::lock(&code) = Some(ended.exit_code);
            }
            ended.is_some()
        };
        let watched = kube::runtime::wait::await_condition(self.0.api::<RawPod>(), &pod.name, gone).await;
        watched.map_err(|error| TargetError::Surroundings(format!("watching pod {}: {error}", pod.name)))?;
        let code = *super::apply::lock(&code);
        Ok(code)
    }

    async fn remains(&self) -> Result<Vec<String>, TargetError> {
        self.0.remains().await
    }

    fn variants(&self) -> BTreeSet<Variant> {
        if !self.0.copies {
            return BTreeSet::new();
        }
        let makeable = self.0.descriptor.variants.iter();
        makeable
            .filter(|(_, recipe)| recipe.blocked_port.is_none() || self.0.nodes.is_some())
            .map(|(variant, _)| *variant)
            .chain([Variant::Unaltered])
            .collect()
    }

    async fn deploy_variant(&self, variant: Variant) -> Result<Box<dyn DeployedVariant>, TargetError> {
        Ok(Box::new(AlteredCopy::deploy(&self.0, variant).await?))
    }
}

/// Objects with their names, as JSON.
fn named<K: ResourceExt + Serialize>(
    kind: &str,
    objects: &[K],
) -> Result<Vec<(String, serde_json::Value)>, TargetError> {
    let unwritable = |error| TargetError::Surroundings(format!("{kind} objects cannot be written as JSON: {error}"));
    let each = objects.iter().map(|object| {
        let value = serde_json::to_value(object).map_err(unwritable)?;
        Ok((format!("{kind}/{}", object.name_any()), value))
    });
    each.collect()
}

/// Whether the API says that an object may not be changed so: its own rules, or an admission controller. That whoever asks
/// may not change such objects says nothing of the object.
fn is_refusal(code: u16, message: &str) -> bool {
    match code {
        422 => true,
        400 | 403 => message.contains("admission"),
        _ => false,
    }
}

/// The error for a container that is not there again in time, with what went wrong with the command that was to stop it.
fn not_restarted(what: &str, limit: Duration, stopped: Option<&Result<Execution, TargetError>>) -> TargetError {
    let late = timed_out(what, limit);
    let reason = match stopped {
        Some(Err(error)) => error.to_string(),
        Some(Ok(done)) if done.status != 0 => {
            format!("the command ended with status {}: {}", done.status, done.stderr.trim())
        }
        Some(Ok(_)) | None => return late,
    };
    TargetError::Surroundings(format!("{late}; stopping it first: {reason}"))
}

impl Site {
    /// Asks which port clients are to use of the Service that is theirs: it need not have the container's number.
    pub(super) async fn find_service_port(&self) -> Result<(), TargetError> {
        let Some(name) = &self.descriptor.services.client else {
            return Ok(());
        };
        let what = format!("looking at Service {name}");
        let service = match bounded(&what, self.api::<Service>().get_opt(name)).await {
            Ok(service) => service,
            // Who may not look at it is told of no other port.
            Err(TargetError::NotAllowed(_)) => None,
            Err(error) => return Err(error),
        };
        if let Some(service) = service {
            let pods = self.raw_pods().await?;
            let port = service_port(&service, pods.first(), self.descriptor.client_port);
            let _ = self.service_port.set(port.unwrap_or(self.descriptor.client_port));
        }
        Ok(())
    }
}

/// The port of a Service that leads to a port of the pods; none where no port does, or where it is headless: its names are
/// those of the pods.
fn service_port(service: &Service, pod: Option<&RawPod>, wanted: u16) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    if spec.cluster_ip.as_deref() == Some("None") {
        return None;
    }
    let containers = pod.and_then(|pod| pod.spec.as_ref()).into_iter();
    let ports = containers.flat_map(|spec| spec.containers.iter().flat_map(|one| one.ports.iter().flatten()));
    let named: Vec<(&str, i32)> = ports
        .filter_map(|port| Some((port.name.as_deref()?, port.container_port)))
        .collect();
    let leads = |port: &&ServicePort| match &port.target_port {
        Some(IntOrString::Int(number)) => *number == i32::from(wanted),
        Some(IntOrString::String(name)) => named.contains(&(name.as_str(), i32::from(wanted))),
        None => port.port == i32::from(wanted),
    };
    let found = spec.ports.iter().flatten().find(leads)?;
    u16::try_from(found.port).ok()
}

fn status<'a>(pod: &'a RawPod, container: &str) -> Option<&'a k8s_openapi::api::core::v1::ContainerStatus> {
    containers(pod).iter().find(|status| status.name == container)
}

#[cfg(test)]
mod tests {
    use super::{Execution, RawPod, Service, TargetError, is_refusal, not_restarted, service_port};
    use rstest::rstest;
    use serde_json::{Value, json};
    use std::time::Duration;

    #[rstest]
    #[case::same(json!([{"port": 7000, "targetPort": 7000}]), Some(7000))]
    #[case::another(json!([{"port": 6379, "targetPort": 7000}]), Some(6379))]
    #[case::by_its_name(json!([{"port": 6379, "targetPort": "client"}]), Some(6379))]
    #[case::not_said(json!([{"port": 7000}]), Some(7000))]
    #[case::second(json!([{"port": 9121, "targetPort": "metrics"}, {"port": 80, "targetPort": "client"}]), Some(80))]
    #[case::elsewhere(json!([{"port": 7000, "targetPort": "metrics"}]), None)]
    #[case::nobody_s_name(json!([{"port": 7000, "targetPort": "redis"}]), None)]
    #[case::not_said_and_elsewhere(json!([{"port": 6379}]), None)]
    #[case::no_port(json!([]), None)]
    fn the_service_s_own_port_leads_to_the_container_s(#[case] ports: Value, #[case] expected: Option<u16>) {
        let pod = json!({"spec": {"containers": [
            {"name": "exporter", "ports": [{"name": "metrics", "containerPort": 9121}]},
            {"name": "redis", "ports": [{"name": "client", "containerPort": 7000}]},
        ]}});
        let pod: RawPod = serde_json::from_value(pod).unwrap();
        let of = |spec: Value| -> Service { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let service = of(json!({"clusterIP": "10.0.0.1", "ports": ports}));
        assert_eq!(service_port(&service, Some(&pod), 7000), expected);
        let headless = of(json!({"clusterIP": "None", "ports": ports}));
        assert_eq!(service_port(&headless, Some(&pod), 7000), None);
    }

    fn ended(status: i32, stderr: &str) -> Result<Execution, TargetError> {
        let (stdout, stderr) = (String::new(), stderr.to_owned());
        Ok(Execution { stdout, stderr, status })
    }

    #[rstest]
    #[case::goes_on(None, "")]
    #[case::signals_sent(Some(ended(0, "")), "")]
    #[case::not_permitted(
        Some(ended(1, "kill: not permitted\n")),
        "; stopping it first: the command ended with status 1: kill: not permitted"
    )]
    #[case::no_shell(
        Some(Err(TargetError::Surroundings("running sh in pod r-0: no such file".into()))),
        "; stopping it first: running sh in pod r-0: no such file"
    )]
    fn why_a_container_was_not_stopped_is_told(
        #[case] stopped: Option<Result<Execution, TargetError>>,
        #[case] told: &str,
    ) {
        let error = not_restarted("starting it again", Duration::from_secs(9), stopped.as_ref());
        assert_eq!(
            error.to_string(),
            format!("starting it again: not done within 9 s{told}")
        );
    }

    #[rstest]
    #[case::immutable(422, "data: Forbidden: field is immutable when `immutable` is set", true)]
    #[case::policy(403, "admission webhook \"guard\" denied the request: no", true)]
    #[case::not_permitted(403, "configmaps is forbidden: User \"x\" cannot patch resource", false)]
    #[case::broken(500, "etcdserver: request timed out", false)]
    #[case::conflict(409, "the object has been modified", false)]
    fn only_a_rule_about_the_object_refuses_a_change(#[case] code: u16, #[case] message: &str, #[case] refused: bool) {
        assert_eq!(is_refusal(code, message), refused);
    }
}

//! The Kubernetes side of a deployment, as cases see it.

use super::client::failed;
use super::companion;
use super::copy::AlteredCopy;
use super::site::{Site, Workload, bounded, is_a_server_s, timed_out};
use super::summaries::{claim_summary, containers, event_summary, summary};
use crate::cluster::node::Member;
use crate::target::{
    Budget, Change, Claim, Companion, DeployedVariant, Deployment, Event, Execution, Host, LiveKind, Objects, Pod,
    Scaling, TargetError, Variant,
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, PersistentVolumeClaim, Pod as RawPod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{EvictParams, ListParams, Patch, PatchParams, PostParams};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What is asked of the container's first process, in whichever shell there is. It must handle the signal: the kernel
/// drops it for a first process that does not. The signal is sent again every second: Redis drops one that comes while it
/// writes its first append-only file after a synchronisation ("Writing initial AOF, can't exit"). The shell dies with the
/// container, so the next one is never meant.
const STOP: [&str; 3] = ["sh", "-c", "while kill 1; do sleep 1; done"];

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
        let stopping = async {
            // The command dies with the container that it stops, so how it ended says nothing.
            let stopped = self.0.run_in(pod, container, &STOP, limit).await;
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
            Err(_) => Err(timed_out(&what, limit)),
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
        Some((service, descriptor.client_port))
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
        match self.0.api::<RawPod>().evict(pod, &how).await {
            Ok(_) => Ok(Ok(())),
            Err(kube::Error::Api(status)) if status.code == 429 => Ok(Err(status.message.clone())),
            // Several budgets over one pod.
            Err(kube::Error::Api(status)) if status.code == 500 => Ok(Err(status.message.clone())),
            Err(error) => Err(failed(&what, &error)),
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

fn status<'a>(pod: &'a RawPod, container: &str) -> Option<&'a k8s_openapi::api::core::v1::ContainerStatus> {
    containers(pod).iter().find(|status| status.name == container)
}

#[cfg(test)]
mod tests {
    use super::is_refusal;
    use rstest::rstest;

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

//! The Kubernetes side of a deployment, as cases see it.

use super::copy::AlteredCopy;
use super::site::{Site, bounded, claim_summary, containers, event_summary, summary, timed_out};
use crate::target::{Claim, DeployedVariant, Deployment, Event, Execution, Host, Pod, TargetError, Variant};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Endpoints, PersistentVolumeClaim, Pod as RawPod};
use kube::api::ListParams;
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
        let workload = self.0.workload().await?;
        let declared = workload.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = workload.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        Ok((declared, ready))
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

    fn bootstrap_pod(&self) -> String {
        self.0.descriptor.bootstrap.pod.clone()
    }

    async fn bootstrap_log(&self) -> Result<String, TargetError> {
        self.0.hook_log().await
    }

    async fn log(&self, pod: &str, previous: bool) -> Result<String, TargetError> {
        self.0.container_log(pod, previous, None).await
    }

    async fn exec(&self, pod: &str, command: &[&str], limit: Duration) -> Result<Execution, TargetError> {
        self.0.run(pod, command, limit).await
    }

    async fn restart_container(&self, pod: &str, limit: Duration) -> Result<(), TargetError> {
        let before = self.0.raw_pod(pod).await?;
        let name = &self.0.descriptor.container;
        let old = status(&before, name).map_or(0, |status| status.restart_count);
        let what = format!("starting the container {name} of pod {pod} again");
        let stopping = async {
            // The command dies with the container that it stops, so how it ended says nothing.
            let stopped = self.0.run(pod, &STOP, limit).await;
            tracing::debug!(?stopped, "kill in the container");
            std::future::pending::<()>().await;
        };
        let api = self.0.api::<RawPod>();
        let again = |pod: Option<&RawPod>| {
            pod.and_then(|pod| status(pod, name)).is_some_and(|status| {
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

    fn variants(&self) -> BTreeSet<Variant> {
        if !self.0.copies {
            return BTreeSet::new();
        }
        let makeable = self.0.descriptor.variants.iter();
        makeable
            .filter(|(_, recipe)| recipe.blocked_port.is_none() || self.0.nodes.is_some())
            .map(|(variant, _)| *variant)
            .collect()
    }

    async fn deploy_variant(&self, variant: Variant) -> Result<Box<dyn DeployedVariant>, TargetError> {
        Ok(Box::new(AlteredCopy::deploy(&self.0, variant).await?))
    }
}

fn status<'a>(pod: &'a RawPod, container: &str) -> Option<&'a k8s_openapi::api::core::v1::ContainerStatus> {
    containers(pod).iter().find(|status| status.name == container)
}

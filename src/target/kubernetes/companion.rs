//! Pods of the suite's own beside the deployment: a client, which is no member, and a bait, on which a NetworkPolicy is
//! tried. They are made when a case first asks for one, and removed when the run ends, or by the next run after a kill.

use super::apply::{RUN_LABEL, fit};
use super::client::{failed, is_missing};
use super::secured;
use super::site::{PATIENCE, Site, bounded, timed_out};
use super::summaries::{containers, trouble};
use crate::cluster::connection::Address;
use crate::cluster::node::Member;
use crate::target::{Companion, TargetError};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements, Volume, VolumeMount};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::OnceCell;

/// The label that says which companion a pod is; policies of the suite's own have it too.
pub(super) const COMPANION_LABEL: &str = "redis-cluster-conformance/companion";

/// For how long a companion runs at most, in seconds: one that nobody removes ends by itself.
const LONGEST: i64 = 4 * 60 * 60;

/// Where a companion has the certificates of TLS.
pub(super) const CERTIFICATES: &str = "/rcc-tls";

/// What a client does until programs are run in it. A shell ends at once when it is asked to.
const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 5 & wait $!; done";

/// A server with nothing in it, on the port that is given. It keeps nothing on disk.
const SERVE: &str = r#"
server=$(command -v redis-server || command -v valkey-server) || exit 127
cd /tmp && exec "$server" --port "$0" --save "" --appendonly no --protected-mode no
"#;

/// The companions that were made, each once; or why one could not be.
#[derive(Default)]
pub(super) struct Companions {
    client: OnceCell<Result<Member, (bool, String)>>,
    bait: OnceCell<Result<Member, (bool, String)>>,
}

impl Companions {
    /// A companion, made if there is none yet.
    pub(super) async fn get(&self, site: &Site, which: Companion, limit: Duration) -> Result<Member, TargetError> {
        let cell = match which {
            Companion::Client => &self.client,
            Companion::Bait => &self.bait,
        };
        let made = cell.get_or_init(|| async {
            make(site, which, limit).await.map_err(|error| match error {
                TargetError::Usage(text) | TargetError::NotAllowed(text) => (true, text),
                other => (false, other.to_string()),
            })
        });
        made.await.clone().map_err(|(refused, text)| match refused {
            true => TargetError::Usage(text),
            false => TargetError::Surroundings(text),
        })
    }

    fn any(&self) -> bool {
        self.client.initialized() || self.bait.initialized()
    }
}

fn role(which: Companion) -> &'static str {
    match which {
        Companion::Client => "client",
        Companion::Bait => "bait",
    }
}

fn name(site: &Site, which: Companion) -> String {
    format!("rcc-{}-{}", role(which), fit(&site.run_id))
}

fn labels(site: &Site, which: Companion) -> BTreeMap<String, String> {
    let own = [
        (RUN_LABEL, fit(&site.run_id)),
        (COMPANION_LABEL, role(which).to_owned()),
    ];
    own.map(|(label, value)| (label.to_owned(), value)).into()
}

/// The pod: the server's image and what lets it run where the servers run, and nothing else of theirs.
async fn described(site: &Site, which: Companion) -> Result<Pod, TargetError> {
    // As the pods are, whatever makes them.
    let theirs = site.raw_pods().await?.into_iter().find_map(|pod| pod.spec);
    let theirs = theirs.unwrap_or_default();
    let wanted = &site.descriptor.container;
    let Some(server) = theirs.containers.iter().find(|container| container.name == *wanted) else {
        return Err(TargetError::Usage(format!(
            "no pod with the labels {} has a container {wanted}; the target's description names it",
            site.descriptor.selector()
        )));
    };
    let command: Vec<String> = match which {
        Companion::Client => vec!["sh".into(), "-c".into(), IDLE.into()],
        Companion::Bait => vec![
            "sh".into(),
            "-c".into(),
            SERVE.into(),
            site.descriptor.client_port.to_string(),
        ],
    };
    let amount = |processor: &str, memory: &str| {
        let amounts = [("cpu", processor), ("memory", memory)];
        Some(
            amounts
                .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                .into(),
        )
    };
    let (volumes, mounts): (Vec<Volume>, Vec<VolumeMount>) = match which {
        Companion::Client => secured::volumes(site).into_iter().unzip(),
        Companion::Bait => (Vec::new(), Vec::new()),
    };
    let container = Container {
        volume_mounts: Some(mounts),
        name: server.name.clone(),
        image: server.image.clone(),
        image_pull_policy: server.image_pull_policy.clone(),
        security_context: server.security_context.clone(),
        command: Some(command),
        resources: Some(ResourceRequirements {
            requests: amount("5m", "16Mi"),
            limits: amount("1", "128Mi"),
            ..ResourceRequirements::default()
        }),
        ..Container::default()
    };
    let mut pod = Pod::default();
    pod.metadata.name = Some(name(site, which));
    pod.metadata.labels = Some(labels(site, which));
    pod.spec = Some(PodSpec {
        containers: vec![container],
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(1),
        active_deadline_seconds: Some(LONGEST),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: theirs.image_pull_secrets.clone(),
        security_context: theirs.security_context.clone(),
        node_selector: theirs.node_selector.clone(),
        tolerations: theirs.tolerations.clone(),
        volumes: Some(volumes),
        ..PodSpec::default()
    });
    Ok(pod)
}

/// Refused by the platform's rules: that is told apart from an API that broke.
fn refused(what: &str, error: kube::Error) -> TargetError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 403 | 422) => {
            TargetError::Usage(format!("{what}: refused: {}", status.message))
        }
        error => failed(what, &error),
    }
}

async fn make(site: &Site, which: Companion, limit: Duration) -> Result<Member, TargetError> {
    let (pod, name) = (described(site, which).await?, name(site, which));
    let what = format!("making pod {name} in namespace {}", site.namespace);
    let api = site.api::<Pod>();
    match tokio::time::timeout(limit, api.create(&PostParams::default(), &pod)).await {
        Ok(Ok(_)) => {}
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
        Ok(Err(error)) => return Err(refused(&what, error)),
        Err(_) => return Err(timed_out(&what, limit)),
    }
    let runs = |pod: Option<&Pod>| pod.is_some_and(|pod| address(pod).is_some());
    let running = kube::runtime::wait::await_condition(api.clone(), &name, runs);
    match tokio::time::timeout(limit, running).await {
        Ok(Ok(Some(pod))) => {
            let host = address(&pod).unwrap_or_default();
            Ok(Member {
                name,
                address: Address::new(host, site.descriptor.client_port),
            })
        }
        Ok(Ok(None)) => Err(TargetError::Surroundings(format!("{what}: it was deleted by somebody"))),
        Ok(Err(error)) => Err(TargetError::Surroundings(format!("{what}: {error}"))),
        Err(_) => {
            let seen = bounded(&what, api.get(&name)).await?;
            let status = seen.status.as_ref();
            let phase = status.and_then(|status| status.phase.clone()).unwrap_or_default();
            let why = containers(&seen).iter().find_map(trouble).unwrap_or_default();
            Err(TargetError::Surroundings(format!(
                "{what}: after {} s it does not run: {phase} {why}",
                limit.as_secs()
            )))
        }
    }
}

/// The address of a pod that runs.
fn address(pod: &Pod) -> Option<String> {
    let status = pod
        .status
        .as_ref()
        .filter(|status| status.phase.as_deref() == Some("Running"))?;
    status.pod_ip.clone().filter(|ip| !ip.is_empty())
}

/// Makes the policy that selects the bait alone and allows nothing.
pub(super) async fn fence_bait(site: &Site) -> Result<(), TargetError> {
    let mut policy = NetworkPolicy::default();
    let name = name(site, Companion::Bait);
    policy.metadata.name = Some(name.clone());
    policy.metadata.labels = Some(labels(site, Companion::Bait));
    policy.spec = Some(NetworkPolicySpec {
        pod_selector: LabelSelector {
            match_labels: Some(labels(site, Companion::Bait)),
            match_expressions: None,
        }
        .into(),
        policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
        ..NetworkPolicySpec::default()
    });
    let what = format!("making NetworkPolicy {name} in namespace {}", site.namespace);
    let (api, how) = (site.api::<NetworkPolicy>(), PostParams::default());
    match tokio::time::timeout(PATIENCE, api.create(&how, &policy)).await {
        Ok(made) => made.map(drop).map_err(|error| refused(&what, error)),
        Err(_) => Err(timed_out(&what, PATIENCE)),
    }
}

/// Removes the companions of this run, where there are any.
pub(super) async fn dismiss(site: &Site) -> Result<(), TargetError> {
    if !site.companions.any() {
        return Ok(());
    }
    let of_run = format!("{COMPANION_LABEL},{RUN_LABEL}={}", fit(&site.run_id));
    let policies = remove(&site.api::<NetworkPolicy>(), &of_run, "NetworkPolicies").await;
    remove(&site.api::<Pod>(), &of_run, "pods").await.and(policies)
}

/// Removes the companions of runs that were killed. Who may not look at them has left none. The caller holds the namespace's
/// Lease.
pub(super) async fn dismiss_leftovers(site: &Site) -> Result<(), TargetError> {
    let of_others = format!("{COMPANION_LABEL},{RUN_LABEL}!={}", fit(&site.run_id));
    for removed in [
        remove(&site.api::<Pod>(), &of_others, "pods").await,
        remove(&site.api::<NetworkPolicy>(), &of_others, "NetworkPolicies").await,
    ] {
        if let Err(error) = removed {
            tracing::debug!(%error, "leftovers of other runs were not removed");
        }
    }
    Ok(())
}

async fn remove<K>(api: &Api<K>, selector: &str, what: &str) -> Result<(), TargetError>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let what = format!("removing the suite's own {what}");
    let list = bounded(&what, api.list(&ListParams::default().labels(selector))).await;
    let list = match list {
        Ok(list) => list,
        // Who may not list them could not have made them.
        Err(TargetError::NotAllowed(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    for object in &list.items {
        let (name, how) = (object.name_any(), DeleteParams::default().grace_period(0));
        match tokio::time::timeout(PATIENCE, api.delete(&name, &how)).await {
            Ok(Err(error)) if !is_missing(&error) => return Err(failed(&what, &error)),
            Ok(Ok(_) | Err(_)) => {}
            Err(_) => return Err(timed_out(&what, PATIENCE)),
        }
    }
    Ok(())
}

//! A deployment in one namespace, as the API shows it: its pods, events, logs, and commands in its containers. The
//! deployment under test is one, and each altered copy of it another.

use super::NodeAccess;
use super::client::{failed, is_missing};
use super::forward::Listeners;
use super::summaries::happened;
use crate::cluster::connection::Address;
use crate::cluster::node::Member;
use crate::manifest::Manifest;
use crate::target::descriptor::{Bootstrap, Descriptor, DescriptorError, PasswordSource, required_password};
use crate::target::{Execution, Secret, TargetError};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{self as core, ConfigMap};
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, ResourceExt};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// For how long an address is taken to belong to the pod that had it: no address is given to another pod so soon.
const ADDRESSES_HOLD: Duration = Duration::from_millis(500);

/// How long one question to the API may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A deployment in one namespace.
pub(super) struct Site {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) descriptor: Arc<Descriptor>,
    pub(super) manifest: Option<Manifest>,
    pub(super) run_id: String,
    pub(super) nodes: Option<Arc<dyn NodeAccess>>,
    pub(super) password: OnceLock<Option<Secret>>,
    pub(super) listeners: Listeners,
    /// Whether copies of it can be made: namespaces may be created, and there is a manifest.
    pub(super) copies: bool,
    /// Whether this program runs in a pod of the same cluster, from where pods' addresses are reached without the API.
    pub(super) inside: bool,
    /// The image to which the servers are upgraded in the run, where the user names one.
    pub(super) upgrade_to: Option<String>,
    /// The port of the clients' Service, once it was found.
    pub(super) service_port: OnceLock<u16>,
    /// How TLS is spoken to the servers, once that was asked for.
    pub(super) secured: tokio::sync::OnceCell<crate::target::tls::Tls>,
    pub(super) companions: super::companion::Companions,
    addresses: Mutex<Option<(Instant, Vec<Located>)>>,
    /// The pods as they were when the API was made to answer nobody; none while it answers.
    remembered: Mutex<Option<Vec<core::Pod>>>,
}

/// A server, with all addresses of its pod: in a cluster of two families it has one of each.
type Located = (Member, Vec<String>);

/// What makes pods, as the API has it.
pub(super) struct Workload {
    /// Kind and name: `StatefulSet/redis-cluster`.
    pub(super) name: String,
    /// How many pods there are to be.
    pub(super) declared: i32,
    /// How many are Ready.
    pub(super) ready: i32,
    /// The whole object.
    pub(super) object: serde_json::Value,
}

impl Workload {
    fn of(
        name: String,
        declared: Option<i32>,
        ready: Option<i32>,
        object: &impl serde::Serialize,
    ) -> Result<Self, TargetError> {
        let object = serde_json::to_value(object)
            .map_err(|error| TargetError::Surroundings(format!("{name} cannot be shown: {error}")))?;
        Ok(Self {
            name,
            declared: declared.unwrap_or(1),
            ready: ready.unwrap_or(0),
            object,
        })
    }
}

impl Site {
    pub(super) fn new(
        client: Client,
        namespace: String,
        descriptor: Arc<Descriptor>,
        manifest: Option<Manifest>,
        run_id: String,
        nodes: Option<Arc<dyn NodeAccess>>,
    ) -> Self {
        Self {
            client,
            namespace,
            descriptor,
            manifest,
            run_id,
            nodes,
            password: OnceLock::new(),
            listeners: Listeners::default(),
            copies: false,
            inside: false,
            upgrade_to: None,
            service_port: OnceLock::new(),
            secured: tokio::sync::OnceCell::new(),
            companions: super::companion::Companions::default(),
            addresses: Mutex::default(),
            remembered: Mutex::default(),
        }
    }

    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The inside of the cluster's nodes.
    pub(super) fn node_access(&self) -> Result<&Arc<dyn NodeAccess>, TargetError> {
        self.nodes.as_ref().ok_or_else(|| {
            TargetError::Usage("this cluster's nodes cannot be reached; only the target kind can do that".into())
        })
    }

    /// The pods of the servers, ordered by name: those by the description's labels that are not a Job's, and have not ended for
    /// good.
    pub(super) async fn raw_pods(&self) -> Result<Vec<core::Pod>, TargetError> {
        let mut pods = self.all_pods().await?;
        pods.retain(is_a_server_s);
        Ok(pods)
    }

    /// The pods by the description's labels, ordered by name, also those that a chart's Job has made with the same labels, and
    /// what is left of evicted ones.
    pub(super) async fn all_pods(&self) -> Result<Vec<core::Pod>, TargetError> {
        if let Some(pods) = self.without_api() {
            return Ok(pods);
        }
        let selected = ListParams::default().labels(&self.descriptor.selector());
        let what = format!("listing the pods of namespace {}", self.namespace);
        let list = bounded(&what, self.api::<core::Pod>().list(&selected)).await?;
        let mut pods = list.items;
        pods.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
        Ok(pods)
    }

    pub(super) async fn raw_pod(&self, name: &str) -> Result<core::Pod, TargetError> {
        let remembered = self.without_api().into_iter().flatten();
        if let Some(pod) = remembered.into_iter().find(|pod| pod.name_any() == name) {
            return Ok(pod);
        }
        bounded(&format!("looking at pod {name}"), self.api::<core::Pod>().get(name)).await
    }

    /// From now on the API is not asked for the pods: these are those that there are. With none it is asked again.
    pub(super) fn do_without_api(&self, pods: Option<Vec<core::Pod>>) {
        *self.remembered.lock().unwrap_or_else(PoisonError::into_inner) = pods;
        self.forget_addresses();
    }

    /// The pods, where the API answers nobody at present.
    pub(super) fn without_api(&self) -> Option<Vec<core::Pod>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The name of the one StatefulSet that makes all pods.
    pub(super) fn stateful_set_name(&self) -> Result<&str, TargetError> {
        self.descriptor.stateful_set().ok_or_else(|| {
            TargetError::Usage("the target's description names no one StatefulSet that makes all pods".into())
        })
    }

    /// The one StatefulSet that makes all pods.
    pub(super) async fn stateful_set(&self) -> Result<StatefulSet, TargetError> {
        self.named(self.stateful_set_name()?, "StatefulSet").await
    }

    /// What makes the pods, as the description names it.
    pub(super) async fn workloads(&self) -> Result<Vec<Workload>, TargetError> {
        let asked = self.descriptor.workloads().into_iter().map(async |workload| {
            let name = workload.split_once('/').map_or("", |(_, name)| name);
            if workload.starts_with("Deployment/") {
                let found = self.named::<Deployment>(name, "Deployment").await?;
                let declared = found.spec.as_ref().and_then(|spec| spec.replicas);
                let ready = found.status.as_ref().and_then(|status| status.ready_replicas);
                Workload::of(workload.clone(), declared, ready, &found)
            } else {
                let found = self.named::<StatefulSet>(name, "StatefulSet").await?;
                let declared = found.spec.as_ref().and_then(|spec| spec.replicas);
                let ready = found.status.as_ref().and_then(|status| status.ready_replicas);
                Workload::of(workload.clone(), declared, ready, &found)
            }
        });
        futures::future::try_join_all(asked).await
    }

    async fn named<K>(&self, name: &str, kind: &str) -> Result<K, TargetError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug,
        K: serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        match tokio::time::timeout(PATIENCE, self.api::<K>().get(name)).await {
            Ok(Err(error)) if is_missing(&error) => Err(TargetError::Usage(format!(
                "there is no {kind} {name} in namespace {}; the target's description names it as what makes the pods",
                self.namespace
            ))),
            Ok(found) => found.map_err(|error| failed(&format!("looking at {kind} {name}"), &error)),
            Err(_) => Err(timed_out(&format!("looking at {kind} {name}"), PATIENCE)),
        }
    }

    /// The servers: pods that run and are not being deleted.
    pub(super) async fn members(&self) -> Result<Vec<Member>, TargetError> {
        let located = self.located().await?;
        Ok(located.into_iter().map(|(member, _)| member).collect())
    }

    async fn located(&self) -> Result<Vec<Located>, TargetError> {
        let pods = self.raw_pods().await?;
        let port = self.descriptor.client_port;
        let located: Vec<Located> = pods
            .iter()
            .filter_map(|pod| Some((member(pod, port)?, addresses_of(pod))))
            .collect();
        *self.addresses() = Some((Instant::now(), located.clone()));
        Ok(located)
    }

    /// The pod that has an address at present.
    pub(super) async fn pod_at(&self, address: &Address) -> Result<Option<String>, TargetError> {
        let recent = self
            .addresses()
            .as_ref()
            .filter(|(at, _)| at.elapsed() < ADDRESSES_HOLD)
            .and_then(|(_, located)| find(located, address));
        match recent {
            Some(name) => Ok(Some(name)),
            None => Ok(find(&self.located().await?, address)),
        }
    }

    /// Forgets which pod has which address: a fault is about to change it.
    pub(super) fn forget_addresses(&self) {
        *self.addresses() = None;
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Vec<Located>)>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn raw_events(&self) -> Result<Vec<core::Event>, TargetError> {
        let what = format!("listing the events of namespace {}", self.namespace);
        let list = bounded(&what, self.api::<core::Event>().list(&ListParams::default())).await?;
        let mut events = list.items;
        events.sort_by_key(happened);
        Ok(events)
    }

    /// All objects of a kind in the namespace.
    pub(super) async fn listed<K>(&self, kinds: &str) -> Result<Vec<K>, TargetError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug,
        K: serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        let what = format!("listing the {kinds} of namespace {}", self.namespace);
        let list = bounded(&what, self.api::<K>().list(&ListParams::default())).await?;
        Ok(list.items)
    }

    /// Asks the API for the password where the description says that it is there; else takes it from where it is.
    pub(super) async fn find_password(&self) -> Result<Option<Secret>, TargetError> {
        match &self.descriptor.password {
            Some(PasswordSource::Secret { name, key }) => {
                let what = format!(
                    "reading the password from Secret {name} of namespace {}",
                    self.namespace
                );
                let secret = bounded(&what, self.api::<core::Secret>().get(name)).await?;
                let text = secret
                    .data
                    .and_then(|mut data| data.remove(key))
                    .and_then(|bytes| String::from_utf8(bytes.0).ok());
                match text {
                    Some(text) => Ok(Some(Secret::new(text))),
                    None => Err(TargetError::Usage(format!(
                        "Secret {name} has no entry {key} that is text"
                    ))),
                }
            }
            Some(PasswordSource::RedisConf(entry)) => Ok(required_password(
                &self.config_map(&entry.config_map, &entry.key).await?,
            )),
            Some(PasswordSource::Environment(_) | PasswordSource::File(_)) | None => {
                self.descriptor.password(None).map_err(unusable)
            }
        }
    }

    /// An entry of a ConfigMap, as the API has it.
    pub(super) async fn config_map(&self, name: &str, key: &str) -> Result<String, TargetError> {
        let what = format!("reading ConfigMap {name} of namespace {}", self.namespace);
        let map = bounded(&what, self.api::<ConfigMap>().get(name)).await?;
        map.data
            .and_then(|mut data| data.remove(key))
            .ok_or_else(|| TargetError::Usage(format!("ConfigMap {name} has no entry {key}")))
    }

    /// The text with the password taken out.
    pub(super) fn redact(&self, text: &str) -> String {
        match self.password.get() {
            Some(Some(password)) => password.redact(text),
            Some(None) | None => text.to_owned(),
        }
    }

    pub(super) async fn container_log(
        &self,
        pod: &str,
        previous: bool,
        lines: Option<i64>,
    ) -> Result<String, TargetError> {
        self.log_of(pod, &self.descriptor.container, previous, lines).await
    }

    /// The log of a container of a pod, or of the one that ran before it.
    pub(super) async fn log_of(
        &self,
        pod: &str,
        container: &str,
        previous: bool,
        lines: Option<i64>,
    ) -> Result<String, TargetError> {
        let wanted = LogParams {
            container: Some(container.to_owned()),
            previous,
            tail_lines: lines,
            ..LogParams::default()
        };
        bounded(
            &format!("reading the log of pod {pod}"),
            self.api::<core::Pod>().logs(pod, &wanted),
        )
        .await
    }

    /// What the description says of how the cluster is formed.
    pub(super) fn bootstrap(&self) -> Result<&Bootstrap, TargetError> {
        self.descriptor
            .bootstrap
            .as_ref()
            .ok_or_else(|| TargetError::Usage("the target's description names no pod that forms the cluster".into()))
    }

    /// The container in which the bootstrap runs: its own, or the server's, whose hook it is.
    pub(super) fn bootstrap_container<'a>(&'a self, bootstrap: &'a Bootstrap) -> &'a str {
        bootstrap.container.as_ref().unwrap_or(&self.descriptor.container)
    }

    /// The hook's own log file; else what the container that forms the cluster said, or said before it was started again.
    pub(super) async fn hook_log(&self) -> Result<String, TargetError> {
        let bootstrap = self.bootstrap()?;
        if let Some(file) = &bootstrap.log_file {
            let read = self.run(&bootstrap.pod, &["cat", file], Duration::from_secs(10)).await;
            if let Ok(Execution { stdout, status: 0, .. }) = read
                && !stdout.is_empty()
            {
                return Ok(stdout);
            }
        }
        let container = self.bootstrap_container(bootstrap);
        let now = self.log_of(&bootstrap.pod, container, false, None).await;
        match now {
            Ok(log) if !log.trim().is_empty() => Ok(log),
            now => match self.log_of(&bootstrap.pod, container, true, None).await {
                Ok(log) => Ok(log),
                Err(_) => now,
            },
        }
    }
}

/// The pod at an address. A host name is that of the pod of which the name is its first label, as a headless Service gives
/// it: `<pod>.<Service>.<namespace>.svc`.
fn find(located: &[Located], address: &Address) -> Option<String> {
    let host = address.host.as_str();
    let label = host.split('.').next().filter(|_| host.parse::<IpAddr>().is_err());
    let at = located
        .iter()
        .find(|(member, others)| member.address.host == host || others.iter().any(|other| other == host));
    let found = at.or_else(|| located.iter().find(|(member, _)| Some(member.name.as_str()) == label));
    found.map(|(member, _)| member.name.clone())
}

/// Whether a pod may be a server's. One that is being deleted still is its server's until it is gone, whatever its phase: the
/// kubelet calls it ended a moment before.
pub(super) fn is_a_server_s(pod: &core::Pod) -> bool {
    let of_a_job = pod.owner_references().iter().any(|owner| owner.kind == "Job");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_leaving = pod.metadata.deletion_timestamp.is_some();
    !of_a_job && (is_leaving || !matches!(phase, Some("Succeeded" | "Failed")))
}

/// The server in a pod, where it runs and is not being deleted.
fn member(pod: &core::Pod, port: u16) -> Option<Member> {
    let status = pod.status.as_ref()?;
    if pod.metadata.deletion_timestamp.is_some() || status.phase.as_deref() != Some("Running") {
        return None;
    }
    Some(Member {
        name: pod.metadata.name.clone()?,
        address: Address::new(status.pod_ip.clone().filter(|ip| !ip.is_empty())?, port),
    })
}

/// Every address of a pod.
fn addresses_of(pod: &core::Pod) -> Vec<String> {
    let status = pod.status.as_ref();
    let addresses = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
    addresses.map(|address| address.ip.clone()).collect()
}

/// A question to the API, bounded; boxed, for the client's own futures are large.
pub(super) fn bounded<T>(
    what: &str,
    question: impl Future<Output = Result<T, kube::Error>>,
) -> impl Future<Output = Result<T, TargetError>> {
    let question = Box::pin(question);
    async move {
        match tokio::time::timeout(PATIENCE, question).await {
            Ok(answer) => answer.map_err(|error| failed(what, &error)),
            Err(_) => Err(timed_out(what, PATIENCE)),
        }
    }
}

pub(super) fn timed_out(what: &str, limit: Duration) -> TargetError {
    TargetError::Surroundings(format!("{what}: not done within {:.0} s", limit.as_secs_f64()))
}

pub(super) fn unusable(error: DescriptorError) -> TargetError {
    TargetError::Usage(error.to_string())
}

#[cfg(test)]
mod found_tests {
    use super::{Address, addresses_of, find, member};
    use k8s_openapi::api::core::v1::Pod;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::its_address("10.0.0.1", Some("redis-0"))]
    #[case::its_other_address("fd00::2", Some("redis-1"))]
    #[case::its_name("redis-1.redis.cache.svc.cluster.local", Some("redis-1"))]
    #[case::its_short_name("redis-1.redis", Some("redis-1"))]
    #[case::its_name_alone("redis-1", Some("redis-1"))]
    #[case::nobody_s_address("10.0.0.9", None)]
    #[case::an_address_is_no_name("10.0.0.3", None)]
    #[case::nobody_s_name("redis-2.redis", None)]
    #[case::the_beginning_of_a_name("redis.redis-1", None)]
    #[case::no_host("", None)]
    fn a_pod_is_found_by_its_address_or_its_name(#[case] host: &str, #[case] found: Option<&str>) {
        let located = |name: &str, hosts: &[&str]| {
            let pod = json!({"metadata": {"name": name}, "status": {"phase": "Running", "podIP": hosts[0],
                "podIPs": hosts.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()}});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            (member(&pod, 6379).unwrap(), addresses_of(&pod))
        };
        let located = [
            located("redis-0", &["10.0.0.1"]),
            located("redis-1", &["10.0.0.2", "fd00::2"]),
            located("10", &["10.0.0.4"]),
        ];
        assert_eq!(find(&located, &Address::new(host, 6379)).as_deref(), found);
    }
}

#[cfg(test)]
mod tests {
    use super::is_a_server_s;
    use k8s_openapi::api::core::v1::Pod;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case::runs(json!({}), "Running", true)]
    #[case::starts(json!({"ownerReferences": [owner("StatefulSet")]}), "Pending", true)]
    #[case::evicted(json!({"ownerReferences": [owner("ReplicaSet")]}), "Failed", false)]
    #[case::done(json!({}), "Succeeded", false)]
    #[case::leaves(json!({"deletionTimestamp": "2026-11-27T12:00:00Z"}), "Succeeded", true)]
    #[case::of_a_job(json!({"ownerReferences": [owner("Job")]}), "Running", false)]
    #[case::of_a_job_that_leaves(
        json!({"ownerReferences": [owner("Job")], "deletionTimestamp": "2026-11-27T12:00:00Z"}),
        "Running",
        false
    )]
    fn the_pods_of_jobs_and_those_that_have_ended_are_no_server_s(
        #[case] metadata: Value,
        #[case] phase: &str,
        #[case] expected: bool,
    ) {
        let pod = json!({"metadata": metadata, "status": {"phase": phase}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(is_a_server_s(&pod), expected);
    }

    fn owner(kind: &str) -> Value {
        json!({"apiVersion": "v1", "kind": kind, "name": "one", "uid": "u"})
    }
}

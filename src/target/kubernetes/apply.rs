//! Namespaces and objects of a run: made with its label, and removed by what was made.

use super::client::{failed, is_missing};
use super::site::{PATIENCE, Site, bounded, timed_out};
use crate::manifest::Document;
use crate::progress::Progress;
use crate::target::TargetError;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use kube::api::{
    DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams, ValidationDirective,
};
use kube::core::ApiResource;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// The label that everything a run makes carries, with the run's id.
pub const RUN_LABEL: &str = "redis-cluster-conformance/run";

/// Who the API server is told to own the fields that are applied.
const MANAGER: &str = "redis-cluster-conformance";

/// How long a namespace may take to be gone: its pods have their own grace periods.
const REMOVAL: Duration = Duration::from_secs(150);

/// How long a namespace may take to be emptied before it is left to its controller.
const EMPTYING: Duration = Duration::from_secs(30);

/// How long servers have to end, once they have been told with a grace period of a second.
const SERVERS_END: Duration = Duration::from_secs(4);

/// How often a state is looked at again that is not watched.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// An object that was applied.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    resource: ApiResource,
    namespaced: bool,
    name: String,
}

/// What was applied, and what had been there before.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    objects: Vec<Applied>,
    pub(super) claims_before: BTreeSet<String>,
    /// What the names of its StatefulSets' volume claims begin with.
    stems: Vec<String>,
    /// Whether a command installed it, so that only that one knows its objects; true once they are being removed.
    pub(super) installed: bool,
}

/// A name made fit for a namespace or a label's value.
pub(super) fn fit(text: &str) -> String {
    let kept: String = text
        .to_lowercase()
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(50)
        .collect();
    kept.trim_matches('-').to_owned()
}

/// Makes a namespace that carries the run's label, and waits until pods can be made in it.
pub(super) async fn make_namespace(client: &Client, name: &str, run_id: &str) -> Result<(), TargetError> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    namespace.labels_mut().insert(RUN_LABEL.to_owned(), fit(run_id));
    let api: Api<Namespace> = Api::all(client.clone());
    let what = format!("making namespace {name}");
    bounded(&what, api.create(&PostParams::default(), &namespace)).await?;
    // Without it, pods are refused, and their controller waits ever longer between its tries.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        if bounded(&what, accounts.get_opt("default")).await?.is_some() {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Makes a namespace that stays when its run ends nobody's but the user's: no later run removes it.
pub(super) async fn give_up_namespace(client: &Client, name: &str) -> Result<(), TargetError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let change = serde_json::json!({"metadata": {"labels": {RUN_LABEL: null}}});
    let (how, patch) = (PatchParams::default(), Patch::Merge(&change));
    let what = format!("taking the label {RUN_LABEL} off namespace {name}, which stays");
    bounded(&what, api.patch(name, &how, &patch)).await.map(drop)
}

/// The namespaces that carry the label, with the run that each is of.
pub(super) async fn namespaces(client: &Client) -> Result<Vec<(String, String)>, TargetError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let labelled = ListParams::default().labels(RUN_LABEL);
    let found = bounded("listing the namespaces of runs", api.list(&labelled)).await?;
    Ok(found
        .iter()
        .filter_map(|namespace| Some((namespace.name_any(), namespace.labels().get(RUN_LABEL)?.clone())))
        .collect())
}

/// Removes namespaces with all that is in them, and the volumes that were made for them; waits until they are gone.
pub(super) async fn remove_namespaces(
    client: &Client,
    names: &[String],
    progress: &Progress,
) -> Result<(), TargetError> {
    if names.is_empty() {
        return Ok(());
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let what = format!("namespace {} and its volumes to be removed", names.join(", "));
    let gone = async {
        futures::future::join_all(names.iter().map(|name| empty(client, name))).await;
        for name in names {
            delete(&api, name, &format!("removing namespace {name}")).await?;
        }
        let started = Instant::now();
        loop {
            let left = left_of(client, &api, names).await?;
            if left.is_empty() || started.elapsed() >= REMOVAL {
                return Ok::<_, TargetError>(left);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let left = progress.during(&what, REMOVAL, gone).await?;
    if left.is_empty() {
        return Ok(());
    }
    Err(TargetError::Surroundings(format!(
        "after {} s there is still {}; remove it with: kubectl delete namespace {}",
        REMOVAL.as_secs(),
        left.join(", "),
        names.join(" ")
    )))
}

/// Empties a namespace that is about to go, in the order in which it goes fastest: what makes pods, the pods, their
/// claims. The namespace's own controller would give the servers their grace, which nobody needs any more, and looks again
/// at what is left ever more rarely. What does not work here is left to that controller.
async fn empty(client: &Client, namespace: &str) {
    let all = ListParams::default();
    let workloads: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let emptied = async {
        workloads.delete_collection(&DeleteParams::background(), &all).await?;
        pods.delete_collection(&DeleteParams::background().grace_period(1), &all)
            .await?;
        // A node tells the end of its pods up to 20 s late. By then they have long ended, so they are not waited for.
        let told = Instant::now();
        while !pods.list(&all).await?.items.is_empty() && told.elapsed() < SERVERS_END {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        pods.delete_collection(&DeleteParams::background().grace_period(0), &all)
            .await?;
        claims.delete_collection(&DeleteParams::background(), &all).await?;
        while !claims.list(&all).await?.items.is_empty() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok::<_, kube::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(EMPTYING, emptied).await {
        tracing::debug!(%error, namespace, "the namespace was not emptied beforehand");
    }
}

/// What there still is of namespaces that are being removed.
async fn left_of(client: &Client, api: &Api<Namespace>, names: &[String]) -> Result<Vec<String>, TargetError> {
    let mut left = Vec::new();
    for name in names {
        let what = format!("looking whether namespace {name} is gone");
        if bounded(&what, api.get_opt(name)).await?.is_some() {
            left.push(format!("namespace {name}"));
        }
    }
    if left.is_empty() {
        left = volumes_of(client, names).await;
    }
    Ok(left)
}

/// The volumes that are bound to claims of the namespaces and go with them. None where they may not be listed.
async fn volumes_of(client: &Client, namespaces: &[String]) -> Vec<String> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let listed = tokio::time::timeout(Duration::from_secs(10), api.list(&ListParams::default())).await;
    let Ok(Ok(volumes)) = listed else { return Vec::new() };
    volumes
        .iter()
        .filter(|volume| {
            let spec = volume.spec.as_ref();
            let claim = spec
                .and_then(|spec| spec.claim_ref.as_ref())
                .and_then(|claim| claim.namespace.as_ref());
            let goes = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
            goes && claim.is_some_and(|claim| namespaces.contains(claim))
        })
        .map(|volume| format!("volume {}", volume.name_any()))
        .collect()
}

/// Deletes; what is not there counts as deleted.
async fn delete<K>(api: &Api<K>, name: &str, what: &str) -> Result<(), TargetError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    match tokio::time::timeout(PATIENCE, api.delete(name, &DeleteParams::background())).await {
        Ok(Err(error)) if !is_missing(&error) => Err(failed(what, &error)),
        Ok(Ok(_) | Err(_)) => Ok(()),
        Err(_) => Err(timed_out(what, PATIENCE)),
    }
}

impl Site {
    /// Applies every document of the manifest, and records each before it is made, so that an interruption leaves nothing
    /// unknown behind. `fresh` says that the namespace was made for this.
    pub(super) async fn apply(
        &self,
        fresh: bool,
        made: &std::sync::Mutex<Made>,
        progress: &Progress,
    ) -> Result<(), TargetError> {
        let Some(manifest) = &self.manifest else {
            return Err(TargetError::Usage(format!(
                "{} names no manifest to apply",
                self.descriptor.file()
            )));
        };
        let mut kinds: HashMap<(String, String), (ApiResource, bool)> = HashMap::new();
        let mut objects = Vec::new();
        for document in &manifest.documents {
            let kind = (document.api_version().to_owned(), document.kind().to_owned());
            let (resource, namespaced) = match kinds.get(&kind) {
                Some(known) => known.clone(),
                None => {
                    let found = self.discover(document, &manifest.file, progress).await?;
                    kinds.insert(kind, found.clone());
                    found
                }
            };
            if document.kind() == "Namespace" {
                // The run decides where the objects go.
                continue;
            }
            objects.push((
                document,
                Applied {
                    resource,
                    namespaced,
                    name: document.name().to_owned(),
                },
            ));
        }
        for (_, object) in objects.iter().filter(|(_, object)| !fresh || !object.namespaced) {
            self.refuse_foreign(object).await?;
        }
        let before = if fresh { BTreeSet::new() } else { self.claims().await? };
        lock(made).claims_before = before;
        for (document, object) in objects {
            {
                let mut made = lock(made);
                made.objects.push(object.clone());
                made.stems.extend(claim_stems(document));
            }
            self.apply_one(document, &object, &manifest.file).await?;
        }
        Ok(())
    }

    async fn discover(
        &self,
        document: &Document,
        file: &str,
        progress: &Progress,
    ) -> Result<(ApiResource, bool), TargetError> {
        let (group, version) = document
            .api_version()
            .split_once('/')
            .unwrap_or(("", document.api_version()));
        let kind = GroupVersionKind::gvk(group, version, document.kind());
        if let Some(found) = self.served(&kind).await? {
            return Ok(found);
        }
        let older = older_version(&kind).ok_or_else(|| unknown_kind(document, file))?;
        let found = self.served(&older).await?.ok_or_else(|| unknown_kind(document, file))?;
        let told = format!(
            "{document}: this server knows it as {} alone, and has it so",
            older.api_version()
        );
        progress.line(format!("  {told}"));
        Ok(found)
    }

    /// The kind, where the server knows it, and whether its objects are in namespaces.
    async fn served(&self, kind: &GroupVersionKind) -> Result<Option<(ApiResource, bool)>, TargetError> {
        match pinned_kind(&self.client, kind).await {
            Ok((resource, capabilities)) => Ok(Some((resource, capabilities.scope == Scope::Namespaced))),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(kube::Error::Discovery(_)) => Ok(None),
            Err(error) => Err(failed(&format!("asking for the kind {}", kind.kind), &error)),
        }
    }

    fn dynamic(&self, object: &Applied) -> Api<DynamicObject> {
        if object.namespaced {
            Api::namespaced_with(self.client.clone(), &self.namespace, &object.resource)
        } else {
            Api::all_with(self.client.clone(), &object.resource)
        }
    }

    /// What is there already is somebody's: it is neither changed, nor removed at the end.
    async fn refuse_foreign(&self, object: &Applied) -> Result<(), TargetError> {
        let what = format!("looking for {}/{}", object.resource.kind, object.name);
        match bounded(&what, self.dynamic(object).get_opt(&object.name)).await? {
            Some(found) if found.labels().get(RUN_LABEL) != Some(&fit(&self.run_id)) => {
                Err(TargetError::Usage(format!(
                    "{}/{} is already in namespace {}, and not of this run: attach to it, or choose another namespace",
                    object.resource.kind, object.name, self.namespace
                )))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What is sent for a document: it is of this run, and in its namespace.
    fn labelled(&self, document: &Document, object: &Applied) -> serde_json::Value {
        let mut value = document.value.clone();
        value["apiVersion"] = object.resource.api_version.as_str().into();
        if let Some(metadata) = value.get_mut("metadata").and_then(|metadata| metadata.as_object_mut()) {
            if object.namespaced {
                metadata.insert("namespace".to_owned(), self.namespace.as_str().into());
            }
            let labels = metadata.entry("labels").or_insert_with(|| serde_json::json!({}));
            if let Some(labels) = labels.as_object_mut() {
                labels.insert(RUN_LABEL.to_owned(), fit(&self.run_id).into());
            }
        }
        value
    }

    async fn apply_one(&self, document: &Document, object: &Applied, file: &str) -> Result<(), TargetError> {
        let value = self.labelled(document, object);
        let how = PatchParams::apply(MANAGER).force();
        let what = format!("applying {document} ({file}:{})", document.line);
        let api = self.dynamic(object);
        let patch = Patch::Apply(&value);
        let applied = tokio::time::timeout(Duration::from_secs(30), api.patch(&object.name, &how, &patch)).await;
        match applied {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) => Err(TargetError::NotDeployed(self.redact(&format!(
                "{document} ({file}:{}) was refused: {}",
                document.line, status.message
            )))),
            Ok(Err(error)) => Err(failed(&what, &error)),
            Err(_) => Err(super::site::timed_out(&what, Duration::from_secs(30))),
        }
    }

    /// Applies the manifest once more without changing anything, strictly validated: what is refused or would change.
    pub(super) async fn rehearse(&self) -> Result<Option<Vec<String>>, TargetError> {
        let Some(manifest) = &self.manifest else {
            return Ok(None);
        };
        let how = PatchParams {
            dry_run: true,
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply(MANAGER).force()
        };
        let mut findings = Vec::new();
        for document in manifest.documents.iter().filter(|it| it.kind() != "Namespace") {
            let (resource, namespaced) = self.discover(document, &manifest.file, &Progress::silent()).await?;
            let object = Applied {
                resource,
                namespaced,
                name: document.name().to_owned(),
            };
            let place = format!("{}:{}: {document}", manifest.file, document.line);
            let api = self.dynamic(&object);
            let what = format!("looking at {document}");
            let Some(there) = bounded(&what, api.get_opt(&object.name)).await? else {
                findings.push(format!("{place}: it is not there any more"));
                continue;
            };
            let value = self.labelled(document, &object);
            let patch = Patch::Apply(&value);
            let what = format!("applying {document} without any change");
            match tokio::time::timeout(Duration::from_secs(30), api.patch(&object.name, &how, &patch)).await {
                Ok(Ok(then)) => {
                    let changed = super::objects::differences(&there, &then);
                    findings.extend(
                        changed
                            .into_iter()
                            .map(|field| format!("{place}: {field} would change")),
                    );
                }
                Ok(Err(kube::Error::Api(status))) if !matches!(status.code, 401 | 403) => {
                    findings.push(self.redact(&format!("{place}: refused: {}", status.message)));
                }
                Ok(Err(error)) => return Err(failed(&what, &error)),
                Err(_) => return Err(super::site::timed_out(&what, Duration::from_secs(30))),
            }
        }
        Ok(Some(findings))
    }

    pub(super) async fn claims(&self) -> Result<BTreeSet<String>, TargetError> {
        let what = format!("listing the volume claims of namespace {}", self.namespace);
        let claims = bounded(&what, self.api::<PersistentVolumeClaim>().list(&ListParams::default())).await?;
        Ok(claims.iter().map(ResourceExt::name_any).collect())
    }

    /// Deletes what was applied; it does not wait for what goes with it.
    pub(super) async fn delete_applied(&self, made: &Made) -> Result<(), TargetError> {
        for object in made.objects.iter().rev() {
            let what = format!("removing {}/{}", object.resource.kind, object.name);
            delete(&self.dynamic(object), &object.name, &what).await?;
        }
        Ok(())
    }

    /// Deletes what was applied and is in no namespace: it goes with none.
    pub(super) async fn delete_beside_namespaces(&self, mut made: Made) -> Result<(), TargetError> {
        made.objects.retain(|object| !object.namespaced);
        self.delete_applied(&made).await
    }

    /// Removes what was applied, and the claims that came with it, from a namespace that was there before.
    pub(super) async fn unapply(&self, made: Made, progress: &Progress) -> Result<(), TargetError> {
        self.delete_applied(&made).await?;
        if !made.installed && !made.objects.iter().any(|object| object.namespaced) {
            return Ok(());
        }
        let what = format!(
            "the pods and volume claims of the run to be removed from namespace {}",
            self.namespace
        );
        let gone = async {
            let started = Instant::now();
            loop {
                let left = self.left(&made).await?;
                if left.is_empty() || started.elapsed() >= REMOVAL {
                    return Ok::<_, TargetError>(left);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let left = progress.during(&what, REMOVAL, gone).await?;
        if left.is_empty() {
            return Ok(());
        }
        Err(TargetError::Surroundings(format!(
            "after {} s there is still {} in namespace {}; remove it with kubectl",
            REMOVAL.as_secs(),
            left.join(", "),
            self.namespace
        )))
    }

    /// What there still is of objects that are being removed. The claims of a StatefulSet are removed here, once its pods
    /// are gone: nobody else does.
    async fn left(&self, made: &Made) -> Result<Vec<String>, TargetError> {
        let pods = self.raw_pods().await?;
        if !pods.is_empty() {
            return Ok(pods.iter().map(|pod| format!("pod {}", pod.name_any())).collect());
        }
        let workloads = self.descriptor.workloads();
        let sets: Vec<&str> = workloads
            .iter()
            .filter_map(|workload| workload.strip_prefix("StatefulSet/"))
            .collect();
        let api = self.api::<PersistentVolumeClaim>();
        let mut left = Vec::new();
        for claim in self.claims().await?.difference(&made.claims_before) {
            // Whose templates a command has installed is not known: there the StatefulSet's name must do.
            let is_own = match made.installed {
                true => sets.iter().any(|set| is_claim_of(claim, &format!("-{set}-"))),
                false => made
                    .stems
                    .iter()
                    .any(|stem| claim.starts_with(stem) && is_claim_of(claim, stem)),
            };
            if is_own {
                delete(&api, claim, &format!("removing volume claim {claim}")).await?;
                left.push(format!("volume claim {claim}"));
            }
        }
        Ok(left)
    }

    /// Waits until a pod of that uid is gone, or its server has ended.
    pub(super) async fn await_end(&self, name: &str, uid: &str, bound: Duration) -> Result<(), TargetError> {
        let api = self.api::<Pod>();
        let what = format!("waiting for pod {name} to end");
        let ended = kube::runtime::wait::await_condition(api, name, |pod: Option<&Pod>| {
            pod.is_none_or(|pod| pod.metadata.uid.as_deref() != Some(uid) || has_ended(pod, &self.descriptor.container))
        });
        match tokio::time::timeout(bound, ended).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(TargetError::Surroundings(format!("{what}: {error}"))),
            Err(_) => Err(super::site::timed_out(&what, bound)),
        }
    }
}

fn has_ended(pod: &Pod, container: &str) -> bool {
    super::summaries::containers(pod)
        .iter()
        .filter(|status| status.name == container)
        .any(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some()))
}

/// The version under which servers of before knew a kind, where its form was the same.
fn older_version(kind: &GroupVersionKind) -> Option<GroupVersionKind> {
    match (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str()) {
        // Before Kubernetes 1.21.
        ("policy", "v1", "PodDisruptionBudget") => Some(GroupVersionKind::gvk("policy", "v1beta1", &kind.kind)),
        _ => None,
    }
}

fn unknown_kind(document: &Document, file: &str) -> TargetError {
    TargetError::NotDeployed(format!(
        "{document} ({file}:{}): the server does not know {} of {}",
        document.line,
        document.kind(),
        document.api_version()
    ))
}

/// What the names of a StatefulSet's volume claims begin with: `template-set-`, before the pod's number.
fn claim_stems(document: &Document) -> Vec<String> {
    if document.kind() != "StatefulSet" {
        return Vec::new();
    }
    let templates = document.value["spec"]["volumeClaimTemplates"].as_array();
    let names = templates
        .into_iter()
        .flatten()
        .filter_map(|template| template["metadata"]["name"].as_str());
    names.map(|name| format!("{name}-{}-", document.name())).collect()
}

/// Whether a claim's name ends with the stem and a number.
fn is_claim_of(claim: &str, stem: &str) -> bool {
    let number = claim.rsplit_once(stem).map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

pub(super) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{claim_stems, fit, is_claim_of};
    use crate::manifest::Manifest;
    use rstest::rstest;

    #[rstest]
    #[case("data-redis-0", true)]
    #[case("data-redis-12", true)]
    #[case("data-other-redis-0", false)]
    #[case("data-redis-other-0", false)]
    #[case("data-redis-", false)]
    fn the_claims_of_a_stateful_set_are_told_by_its_templates(#[case] claim: &str, #[case] own: bool) {
        let text = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: redis}\n\
                    spec: {volumeClaimTemplates: [{metadata: {name: data}}]}\n";
        let manifest = Manifest::parse("m.yaml", text).unwrap();
        let stems = claim_stems(&manifest.documents[0]);
        let is_own = stems
            .iter()
            .any(|stem| claim.starts_with(stem) && is_claim_of(claim, stem));
        assert_eq!(is_own, own);
    }

    #[test]
    fn names_are_made_fit_for_kubernetes() {
        assert_eq!(fit("2026-11-22T17:12_Ab"), "2026-11-22t17-12-ab");
        assert_eq!(fit("-x-"), "x");
        assert!(fit(&"a".repeat(99)).len() <= 50);
    }
}

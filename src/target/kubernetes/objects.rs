//! The objects of a deployment as the API has them, and what they run on.

use super::apply::{RUN_LABEL, fit};
use super::client::{failed, is_missing};
use super::companion::COMPANION_LABEL;
use super::site::{Site, bounded, timed_out};
use crate::manifest::{Document, Lines, Manifest};
use crate::target::{Budget, Objects, TargetError};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DynamicObject, GroupVersionKind, ListParams};
use kube::core::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a list may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kind that rules look at.
struct Kind {
    group: &'static str,
    /// The versions, the newest first: servers of before know the older one alone.
    versions: &'static [&'static str],
    kind: &'static str,
    namespaced: bool,
    /// A kind that few clusters have: who may not look at it has none.
    rare: bool,
}

const fn kind(group: &'static str, versions: &'static [&'static str], kind: &'static str) -> Kind {
    Kind {
        group,
        versions,
        kind,
        namespaced: true,
        rare: false,
    }
}

/// Secrets are asked for by name: see [`Site::secrets`].
const KINDS: &[Kind] = &[
    kind("apps", &["v1"], "StatefulSet"),
    kind("apps", &["v1"], "Deployment"),
    kind("apps", &["v1"], "DaemonSet"),
    kind("batch", &["v1"], "Job"),
    kind("batch", &["v1", "v1beta1"], "CronJob"),
    kind("", &["v1"], "Pod"),
    kind("", &["v1"], "Service"),
    kind("", &["v1"], "ConfigMap"),
    kind("policy", &["v1", "v1beta1"], "PodDisruptionBudget"),
    kind("networking.k8s.io", &["v1"], "NetworkPolicy"),
    Kind {
        namespaced: false,
        ..kind("storage.k8s.io", &["v1"], "StorageClass")
    },
    Kind {
        rare: true,
        ..kind("cilium.io", &["v2"], "CiliumNetworkPolicy")
    },
    Kind {
        rare: true,
        ..kind("crd.projectcalico.org", &["v1"], "NetworkPolicy")
    },
];

const SECRET: Kind = kind("", &["v1"], "Secret");

/// What goes with a deployment beside the kinds that rules look at.
const MADE_BY_OTHERS: &[Kind] = &[
    kind("", &["v1"], "Endpoints"),
    kind("apps", &["v1"], "ControllerRevision"),
    kind("apps", &["v1"], "ReplicaSet"),
    SECRET,
];

/// What a list gave.
enum Listed {
    Found(Vec<Document>),
    Refused(String),
}

impl Site {
    pub(super) async fn live_objects(&self) -> Result<Objects, TargetError> {
        let mut documents = Vec::new();
        let mut refused = BTreeMap::new();
        for (kind, listed) in KINDS
            .iter()
            .zip(join_all(KINDS.iter().map(|kind| self.list(kind))).await)
        {
            match listed? {
                Listed::Found(found) => documents.extend(found),
                Listed::Refused(_) if kind.rare => {}
                Listed::Refused(right) => {
                    refused.insert(kind.kind.to_owned(), right);
                }
            }
        }
        // What another object makes is that one's matter.
        documents.retain(|document| !is_made(document));
        match self.secrets(&documents).await? {
            Listed::Found(found) => documents.extend(found),
            Listed::Refused(right) => {
                refused.insert(SECRET.kind.to_owned(), right);
            }
        }
        let password = self.password.get().cloned().flatten();
        for document in &mut documents {
            document.redact(password.as_ref());
            bare(&mut document.value);
        }
        Ok(Objects {
            live: Manifest {
                file: format!("namespace {}", self.namespace),
                documents,
                normalisations: Vec::new(),
            },
            workloads: self.descriptor.workloads(),
            applied: self.manifest.clone(),
            refused,
        })
    }

    fn dynamic_api(&self, kind: &Kind, version: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(kind.group, version, kind.kind));
        match kind.namespaced {
            true => Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// The objects of a kind; none where the server does not know it.
    async fn list(&self, kind: &Kind) -> Result<Listed, TargetError> {
        let what = format!(
            "listing the objects of kind {} in namespace {}",
            kind.kind, self.namespace
        );
        for version in kind.versions {
            let api = self.dynamic_api(kind, version);
            match tokio::time::timeout(PATIENCE, api.list(&ListParams::default())).await {
                Ok(Ok(list)) => {
                    let found = list.items.into_iter().map(|object| document(kind, version, &object));
                    return Ok(Listed::Found(found.collect()));
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                    return Ok(Listed::Refused(format!("{what}: {}", status.message)));
                }
                Ok(Err(error)) if is_missing(&error) => {}
                Ok(Err(error)) => return Err(failed(&what, &error)),
                Err(_) => return Err(timed_out(&what, PATIENCE)),
            }
        }
        Ok(Listed::Found(Vec::new()))
    }

    /// The Secrets that pods take something from, and no other: nobody needs the right to list them.
    async fn secrets(&self, documents: &[Document]) -> Result<Listed, TargetError> {
        let mut names = BTreeSet::new();
        // A CronJob is looked at for what stands in it; whose it is, and its Secrets, nobody says.
        let pods = documents.iter().filter(|document| document.kind() != "CronJob");
        pods.for_each(|document| secret_names(&document.value, &mut names));
        let api = self.dynamic_api(&SECRET, "v1");
        let mut found = Vec::new();
        for name in names {
            let what = format!("looking at Secret {name} of namespace {}", self.namespace);
            match tokio::time::timeout(PATIENCE, api.get_opt(&name)).await {
                Ok(Ok(object)) => found.extend(object.map(|object| document(&SECRET, "v1", &object))),
                Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                    return Ok(Listed::Refused(format!("{what}: {}", status.message)));
                }
                Ok(Err(error)) => return Err(failed(&what, &error)),
                Err(_) => return Err(timed_out(&what, PATIENCE)),
            }
        }
        Ok(Listed::Found(found))
    }

    pub(super) async fn budgets(&self) -> Result<Vec<Budget>, TargetError> {
        let kind = kind("policy", &["v1", "v1beta1"], "PodDisruptionBudget");
        for version in kind.versions {
            let what = format!("listing the PodDisruptionBudgets of namespace {}", self.namespace);
            let api = self.dynamic_api(&kind, version);
            match tokio::time::timeout(PATIENCE, api.list(&ListParams::default())).await {
                Ok(Ok(list)) => return Ok(list.iter().map(budget).collect()),
                Ok(Err(error)) if is_missing(&error) => {}
                Ok(Err(error)) => return Err(failed(&what, &error)),
                Err(_) => return Err(timed_out(&what, PATIENCE)),
            }
        }
        Ok(Vec::new())
    }

    pub(super) async fn remains(&self) -> Result<Vec<String>, TargetError> {
        let spaces: Api<Namespace> = Api::all(self.client.clone());
        let space = bounded("looking at the namespace", spaces.get(&self.namespace)).await?;
        let is_ours = space.labels().get(RUN_LABEL) == Some(&fit(&self.run_id));
        let mut left = Vec::new();
        let kinds = KINDS
            .iter()
            .chain(MADE_BY_OTHERS)
            .filter(|kind| kind.namespaced && !kind.rare);
        for kind in kinds {
            let documents = match self.list(kind).await? {
                Listed::Found(documents) => documents,
                Listed::Refused(right) => return Err(TargetError::NotAllowed(right)),
            };
            let of_ours = documents.iter().filter(|document| {
                // What the manifest names is its own, whatever it looks like.
                self.is_the_deployment_s(document) || (is_ours && !is_the_platform_s(document))
            });
            let of_ours = of_ours.filter(|document| !is_the_suite_s(document));
            left.extend(of_ours.map(ToString::to_string));
        }
        Ok(left)
    }

    /// In a namespace that others use as well: what the manifest names, and pods with the description's labels.
    fn is_the_deployment_s(&self, document: &Document) -> bool {
        let labels = &document.value["metadata"]["labels"];
        let labelled = |(name, value): (&String, &String)| labels[name.as_str()] == value.as_str();
        let known = self.manifest.iter().any(|manifest| {
            let same = manifest.find(document.kind(), document.name()).is_some();
            // Endpoints have the name of their Service.
            same || (document.kind() == "Endpoints" && manifest.find("Service", document.name()).is_some())
        });
        known || (document.kind() == "Pod" && self.descriptor.pods.iter().all(labelled))
    }
}

/// What controllers of the platform put into every namespace: Kubernetes itself, Istio, OpenShift.
fn is_the_platform_s(document: &Document) -> bool {
    const MAPS: [&str; 3] = ["kube-root-ca.crt", "istio-ca-root-cert", "openshift-service-ca.crt"];
    // The tokens of service accounts, and what OpenShift gives each of them for its registry.
    const SECRETS: [&str; 2] = ["kubernetes.io/service-account-token", "kubernetes.io/dockercfg"];
    match document.kind() {
        "ConfigMap" => MAPS.contains(&document.name()),
        "Secret" => document.value["type"]
            .as_str()
            .is_some_and(|kind| SECRETS.contains(&kind)),
        _ => false,
    }
}

/// Pods that the suite has beside the deployment, and their policy.
fn is_the_suite_s(document: &Document) -> bool {
    !document.value["metadata"]["labels"][COMPANION_LABEL].is_null()
}

fn document(kind: &Kind, version: &str, object: &DynamicObject) -> Document {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        // Items of a list do not say what they are.
        let api_version = match kind.group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        };
        fields.insert("apiVersion".to_owned(), api_version.into());
        fields.insert("kind".to_owned(), kind.kind.into());
    }
    Document {
        line: 0,
        value,
        lines: Lines::default(),
    }
}

/// Whether it was made by a controller from another object: a pod of a StatefulSet, a Job of a CronJob.
fn is_made(document: &Document) -> bool {
    let owners = document.value["metadata"]["ownerReferences"].as_array();
    ["Pod", "Job"].contains(&document.kind()) && owners.is_some_and(|owners| !owners.is_empty())
}

/// Takes away what the platform adds to what somebody has written: rules judge that alone.
fn bare(value: &mut Value) {
    const OF_THE_PLATFORM: [&str; 8] = [
        "managedFields",
        "resourceVersion",
        "uid",
        "generation",
        "creationTimestamp",
        "selfLink",
        "namespace",
        "ownerReferences",
    ];
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    for field in OF_THE_PLATFORM {
        metadata.remove(field);
    }
    // It holds the whole object once more, also a Secret's.
    let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
    annotations.and_then(|annotations| annotations.remove("kubectl.kubernetes.io/last-applied-configuration"));
}

/// The names of the Secrets that pods of an object take something from.
fn secret_names(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let named = [
                ("secretKeyRef", "name"),
                ("secretRef", "name"),
                ("secret", "secretName"),
                ("secret", "name"),
            ];
            for (field, name) in named {
                if let Some(name) = fields
                    .get(field)
                    .and_then(|field| field.get(name))
                    .and_then(Value::as_str)
                {
                    names.insert(name.to_owned());
                }
            }
            fields.values().for_each(|value| secret_names(value, names));
        }
        Value::Array(items) => items.iter().for_each(|item| secret_names(item, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn budget(object: &DynamicObject) -> Budget {
    let number = |field: &str| object.data["status"][field].as_i64().unwrap_or(0);
    Budget {
        name: object.name_any(),
        allowed: number("disruptionsAllowed"),
        pods: number("expectedPods"),
    }
}

/// The fields in which two states of an object differ, but for what the platform counts itself.
pub(super) fn differences(one: &DynamicObject, other: &DynamicObject) -> Vec<String> {
    let written = |object: &DynamicObject| {
        let mut value = serde_json::to_value(object).unwrap_or_default();
        bare(&mut value);
        value
    };
    let mut found = Vec::new();
    compare(&written(one), &written(other), "", &mut found);
    found
}

fn compare(one: &Value, other: &Value, at: &str, found: &mut Vec<String>) {
    let empty = Map::new();
    match (one, other) {
        (Value::Object(_), Value::Object(_)) => {
            let (one, other) = (one.as_object().unwrap_or(&empty), other.as_object().unwrap_or(&empty));
            for key in one.keys().chain(other.keys()).collect::<BTreeSet<_>>() {
                let (before, after) = (
                    one.get(key).unwrap_or(&Value::Null),
                    other.get(key).unwrap_or(&Value::Null),
                );
                let at = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                compare(before, after, &at, found);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                compare(before, after, &format!("{at}[{index}]"), found);
            }
        }
        (one, other) if one == other => {}
        _ => found.push(at.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn dynamic(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[rstest]
    #[case(json!({"metadata": {"resourceVersion": "1"}, "spec": {"a": 1}}), json!({"metadata": {"resourceVersion": "2"}, "spec": {"a": 1}, "status": {"b": 2}}), &[])]
    #[case(json!({"metadata": {}, "spec": {"a": 1, "b": [{"c": 1}]}}), json!({"metadata": {}, "spec": {"b": [{"c": 2}]}}), &["spec.a", "spec.b[0].c"])]
    #[case(json!({"metadata": {"labels": {"x": "y"}}, "spec": [1]}), json!({"metadata": {}, "spec": [1, 2]}), &["metadata.labels", "spec"])]
    fn what_differs_is_told_by_its_field(#[case] one: Value, #[case] other: Value, #[case] expected: &[&str]) {
        assert_eq!(differences(&dynamic(one), &dynamic(other)), expected);
    }

    #[test]
    fn what_the_platform_adds_is_taken_away() {
        let mut value = json!({
            "kind": "Secret",
            "metadata": {"name": "s", "namespace": "n", "uid": "u", "managedFields": [1],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "s3cret", "kept": "1"}},
            "status": {"x": 1},
        });
        bare(&mut value);
        assert_eq!(
            value,
            json!({"kind": "Secret", "metadata": {"name": "s", "annotations": {"kept": "1"}}})
        );
    }

    #[rstest]
    #[case("ConfigMap", "kube-root-ca.crt", Value::Null, true)]
    #[case("ConfigMap", "istio-ca-root-cert", Value::Null, true)]
    #[case("ConfigMap", "openshift-service-ca.crt", Value::Null, true)]
    #[case("ConfigMap", "redis-cluster-config", Value::Null, false)]
    #[case("Secret", "default-dockercfg-x7k2p", json!("kubernetes.io/dockercfg"), true)]
    #[case("Secret", "default-token-x7k2p", json!("kubernetes.io/service-account-token"), true)]
    #[case("Secret", "password", json!("Opaque"), false)]
    #[case("Service", "kube-root-ca.crt", Value::Null, false)]
    fn what_the_platform_puts_into_every_namespace_is_known(
        #[case] kind: &str,
        #[case] name: &str,
        #[case] of: Value,
        #[case] expected: bool,
    ) {
        let document = Document {
            line: 0,
            value: json!({"kind": kind, "metadata": {"name": name}, "type": of}),
            lines: Lines::default(),
        };
        assert_eq!(is_the_platform_s(&document), expected);
    }

    #[test]
    fn the_secrets_of_pods_are_found_wherever_they_are_named() {
        let pod = json!({"spec": {"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "a", "key": "k"}}}],
            "envFrom": [{"secretRef": {"name": "b"}}]}], "volumes": [{"name": "v", "secret": {"secretName": "c"}}]}});
        let mut names = BTreeSet::new();
        secret_names(&pod, &mut names);
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}

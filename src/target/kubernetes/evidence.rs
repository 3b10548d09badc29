//! What the platform knows of a deployment, as files: taken before anything is cleaned up, with no Secret and no password.

use super::site::Site;
use super::summaries::event_summary;
use crate::target::redis_conf::{below, directive};
use crate::target::{TargetError, kept};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// How long one piece may take: evidence is taken while something is broken.
const PATIENCE: Duration = Duration::from_secs(15);

impl Site {
    /// Writes pods, events, logs and the servers' own files below `folder`.
    pub(super) async fn collect_evidence(&self, folder: &Path) {
        if let Err(error) = tokio::fs::create_dir_all(folder).await {
            tracing::warn!(%error, folder = %folder.display(), "no evidence can be written");
            return;
        }
        let pods = self.all_pods().await;
        let names: Vec<String> = pods
            .as_deref()
            .unwrap_or_default()
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        let own = self.own_files().await;
        tokio::join!(
            async { self.keep(folder, "pods.yaml", pods.and_then(|pods| yaml(&pods))).await },
            async { self.keep(folder, "events.txt", self.events_text().await).await },
            async {
                self.keep(folder, "statefulsets.yaml", self.objects::<StatefulSet>().await)
                    .await
            },
            async {
                self.keep(folder, "services.yaml", self.objects::<Service>().await)
                    .await
            },
            async {
                self.keep(
                    folder,
                    "volumeclaims.yaml",
                    self.objects::<PersistentVolumeClaim>().await,
                )
                .await
            },
            async {
                if self.descriptor.bootstrap.is_some() {
                    self.keep(folder, "bootstrap.log", self.hook_log().await).await;
                }
            },
            join_all(names.iter().map(|pod| self.keep_pod(folder, pod, &own))),
        );
    }

    /// Writes down what the description's commands said.
    pub(super) async fn keep_said(&self, folder: &Path, said: Vec<(&'static str, String)>) {
        for (name, text) in said {
            self.keep(folder, name, Ok(text)).await;
        }
    }

    async fn keep_pod(&self, folder: &Path, pod: &str, own: &[(String, String)]) {
        let log = self.container_log(pod, false, None).await;
        self.keep(folder, &format!("{pod}.log"), log).await;
        // Most containers have none; only one that there is says something.
        if let Ok(previous) = self.container_log(pod, true, None).await {
            self.keep(folder, &format!("{pod}.previous.log"), Ok(previous)).await;
        }
        let bootstrap = self.descriptor.bootstrap.as_ref();
        if let Some(container) = bootstrap.and_then(|bootstrap| bootstrap.container.as_ref()) {
            let log = self.log_of(pod, container, false, None).await;
            self.keep(folder, &format!("{pod}.{container}.log"), log).await;
        }
        for (name, path) in own {
            let read = self.run(pod, &["tail", "-n", "500", path], PATIENCE).await;
            let text = read.map(|done| match done.status {
                0 => done.stdout,
                status => format!("tail {path}: exit status {status}: {}", done.stderr),
            });
            self.keep(folder, &format!("{pod}.{name}"), text).await;
        }
    }

    /// The files that the servers write, by the name to keep each under: where they are stands in redis.conf.
    async fn own_files(&self) -> Vec<(String, String)> {
        let conf = match &self.descriptor.redis_conf {
            Some(entry) => match &self.manifest {
                Some(manifest) => manifest
                    .config_map(&entry.config_map, &entry.key)
                    .map(str::to_owned)
                    .ok(),
                None => self.config_map(&entry.config_map, &entry.key).await.ok(),
            },
            None => None,
        };
        files(&conf.unwrap_or_default())
    }

    async fn events_text(&self) -> Result<String, TargetError> {
        let events = self.raw_events().await?;
        let lines = events.iter().map(|event| {
            let told = event_summary(event);
            let at = told.at.map_or_else(String::new, |at| at.to_string());
            format!("{at} {told}\n")
        });
        Ok(lines.collect())
    }

    async fn objects<K>(&self) -> Result<String, TargetError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug,
        K: serde::de::DeserializeOwned + Serialize,
        K::DynamicType: Default,
    {
        let api: Api<K> = self.api();
        let list = super::site::bounded("listing objects for evidence", api.list(&ListParams::default())).await?;
        yaml(&list.items)
    }

    /// Writes one file; what could not be had is said in it.
    async fn keep(&self, folder: &Path, name: &str, text: Result<String, TargetError>) {
        let text = match text {
            Ok(text) => text,
            Err(error) => format!("could not be had: {error}\n"),
        };
        if let Err(error) = kept::write(&folder.join(name), &self.redact(&text)).await {
            tracing::warn!(%error, name, "evidence was not written");
        }
    }
}

/// Takes out what environments say of secrets: other programs' are nobody's evidence.
fn hide_secrets(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        Value::Object(fields) => {
            let is_secret = fields.get("name").and_then(Value::as_str).is_some_and(names_a_secret);
            if let Some(value) = fields.get_mut("value").filter(|value| is_secret && value.is_string()) {
                *value = Value::from("(not shown)");
            }
            fields.values_mut().for_each(hide_secrets);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a variable of that name may hold a secret.
fn names_a_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let words = [
        "pass",
        "secret",
        "token",
        "key",
        "auth",
        "credential",
        "private",
        "cert",
    ];
    words.iter().any(|word| name.contains(word)) || name.ends_with("pwd")
}

/// Objects as YAML, without the fields that say who wrote which, the copy that `kubectl apply` keeps, and secrets.
fn yaml<K: Serialize>(objects: &[K]) -> Result<String, TargetError> {
    let unwritable = |error: String| TargetError::Surroundings(format!("objects cannot be written: {error}"));
    let mut value = serde_json::to_value(objects).map_err(|error| unwritable(error.to_string()))?;
    for object in value.as_array_mut().into_iter().flatten() {
        if let Some(metadata) = object.get_mut("metadata").and_then(|metadata| metadata.as_object_mut()) {
            metadata.remove("managedFields");
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
        }
    }
    hide_secrets(&mut value);
    serde_yaml::to_string(&value).map_err(|error| unwritable(error.to_string()))
}

/// The log file and the cluster's own file that a redis.conf names, below its `dir`.
fn files(conf: &str) -> Vec<(String, String)> {
    let setting = |wanted: &str| directive(conf, wanted);
    let folder = setting("dir").unwrap_or_else(|| "/data".to_owned());
    let nodes = setting("cluster-config-file").unwrap_or_else(|| "nodes.conf".to_owned());
    let mut files = vec![("nodes.conf".to_owned(), below(&folder, &nodes))];
    if let Some(log) = setting("logfile").filter(|log| !log.is_empty()) {
        files.push(("redis.log".to_owned(), below(&folder, &log)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::{files, yaml};
    use serde_json::json;

    #[test]
    fn secrets_of_other_programs_are_not_shown() {
        let environment = json!([
            {"name": "POSTGRES_PASSWORD", "value": "hidden-1"},
            {"name": "AWS_SECRET_ACCESS_KEY", "value": "hidden-2"},
            {"name": "LEVEL", "value": "shown-1"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "shown-2", "key": "shown-3"}}},
        ]);
        let pod = json!({
            "metadata": {
                "name": "p",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hidden-3", "note": "shown-4"},
            },
            "spec": {"containers": [{"name": "auth-key", "image": "shown-5", "env": environment}]},
        });
        let text = yaml(&[pod]).unwrap();
        assert!(!text.contains("hidden"), "{text}");
        for number in 1..=5 {
            assert!(text.contains(&format!("shown-{number}")), "{text}");
        }
    }

    #[test]
    fn the_servers_files_are_where_redis_conf_says() {
        let conf = "dir /data/\nlogfile \"redis.log\"\ncluster-config-file nodes.conf\n";
        let found = files(conf);
        assert_eq!(found[0].1, "/data/nodes.conf");
        assert_eq!(found[1].1, "/data/redis.log");
        assert_eq!(files("logfile \"\"\n").len(), 1);
        assert_eq!(files("logfile /var/log/r.log\n")[1].1, "/var/log/r.log");
    }
}

//! The way to the judged cluster, for commands: a kubeconfig of one context alone, with the namespace of the run.

use crate::target::{Secret, TargetError};
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What of a user in a kubeconfig nobody may see.
const SECRETS: [&str; 3] = ["token", "password", "client-key-data"];

/// A kubeconfig of one context.
pub(super) struct Way {
    context: String,
    config: Value,
}

impl Way {
    /// Reads the kubeconfig from which the run has its own way; `context` is the one that it uses.
    ///
    /// # Errors
    /// When it cannot be read any more.
    pub(super) fn of(kubeconfig: Option<&Path>, context: &str) -> Result<Self, TargetError> {
        let read = match kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let unusable = |error: &dyn std::fmt::Display| TargetError::Usage(format!("the kubeconfig: {error}"));
        let config = read.map_err(|error| unusable(&error))?;
        let config = serde_json::to_value(&config).map_err(|error| unusable(&error))?;
        Ok(Self {
            config: only(config, context),
            context: context.to_owned(),
        })
    }

    /// Writes it into a file that only its owner can read.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, file: &Path, namespace: &str) -> std::io::Result<()> {
        let mut config = self.config.clone();
        for context in named(&mut config, "contexts", &self.context) {
            context["context"]["namespace"] = namespace.into();
        }
        let text = serde_yaml::to_string(&config).map_err(std::io::Error::other)?;
        let mut options = File::options();
        options.create(true).truncate(true).write(true).mode(0o600);
        options.open(file)?.write_all(text.as_bytes())
    }

    /// What in it nobody may see.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let users = self.config["users"].as_array().into_iter().flatten();
        let texts = users.flat_map(|user| SECRETS.iter().filter_map(|name| user["user"][*name].as_str()));
        texts.filter(|text| !text.is_empty()).map(Secret::new).collect()
    }
}

/// The entries of a list of the kubeconfig that have a name.
fn named<'a>(config: &'a mut Value, list: &str, name: &'a str) -> impl Iterator<Item = &'a mut Value> {
    let entries = config.get_mut(list).and_then(Value::as_array_mut);
    entries.into_iter().flatten().filter(move |entry| entry["name"] == name)
}

/// What of a kubeconfig a context is made of: other clusters' keys are no matter of a command for this one.
fn only(mut config: Value, context: &str) -> Value {
    let parts = named(&mut config, "contexts", context)
        .next()
        .map_or_else(|| json!({}), |found| found["context"].take());
    let text = |name: &str| parts[name].as_str().unwrap_or_default().to_owned();
    let (cluster, user) = (text("cluster"), text("user"));
    for user in named(&mut config, "users", &user) {
        // As the suite itself has it found: from its own folder, not from the kubeconfig's.
        let program = user["user"]["exec"]["command"]
            .as_str()
            .filter(|program| program.contains('/'));
        if let Some(program) = program.and_then(|program| std::path::absolute(program).ok()) {
            user["user"]["exec"]["command"] = program.display().to_string().into();
        }
    }
    let mut kept = |list: &str, name: &str| {
        named(&mut config, list, name)
            .map(|entry| entry.take())
            .collect::<Vec<_>>()
    };
    let (clusters, users) = (kept("clusters", &cluster), kept("users", &user));
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": clusters,
        "users": users,
        "contexts": [{"name": context, "context": parts}],
        "current-context": context,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "apiVersion: v1\nkind: Config\ncurrent-context: prod\nclusters:\n\
        - name: a\n  cluster: {server: 'https://a:6443', certificate-authority: ca.pem}\n\
        - name: b\n  cluster: {server: 'https://b:6443'}\nusers:\n\
        - name: admin\n  user: {token: token-of-admin}\n\
        - name: suite\n  user: {client-certificate-data: Y2VydA==, client-key-data: a2V5LW9mLXN1aXRl}\ncontexts:\n\
        - name: prod\n  context: {cluster: b, user: admin}\n\
        - name: test\n  context: {cluster: a, user: suite, namespace: other}\n";

    #[test]
    fn a_command_gets_the_run_s_context_alone_with_its_namespace() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("config");
        std::fs::write(&from, KUBECONFIG).unwrap();
        let way = Way::of(Some(&from), "test").unwrap();
        let file = folder.path().join("kubeconfig");
        way.write(&file, "shop").unwrap();
        way.write(&file, "rcc-1").unwrap();
        let written = Kubeconfig::read_from(&file).unwrap();
        assert_eq!(written.current_context.as_deref(), Some("test"));
        assert_eq!((written.clusters.len(), written.contexts.len()), (1, 1));
        let cluster = written.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://a:6443"));
        let authority = cluster.certificate_authority.as_deref().unwrap();
        assert!(
            authority.ends_with("ca.pem") && authority.starts_with('/'),
            "{authority}"
        );
        let context = written.contexts[0].context.as_ref().unwrap();
        assert_eq!(context.namespace.as_deref(), Some("rcc-1"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            !text.contains("token-of-admin"),
            "another user's token must not be there"
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(way.secrets(), [Secret::new("a2V5LW9mLXN1aXRl")]);
    }

    #[test]
    fn a_plugin_is_found_from_where_the_suite_runs() {
        let user = |command: &str| {
            let config = json!({
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "users": [{"name": "u", "user": {"exec": {"command": command}}}],
            });
            only(config, "c")["users"][0]["user"]["exec"]["command"]
                .as_str()
                .map(str::to_owned)
        };
        let here = std::env::current_dir().unwrap().join("bin/login");
        assert_eq!(user("bin/login"), Some(here.display().to_string()));
        assert_eq!(user("aws").as_deref(), Some("aws"));
    }
}

//! The description of a deployment (`--target-file`): what to apply, and where in it the things stand that the suite must
//! know. The canonical deployment is such a file too; it is part of the program, so that a bare binary can use it.

mod command;
pub mod found;
mod tls;

pub use command::UserCommand;
pub use tls::{PemSource, ServerNames, Tls};

use super::{Scaling, Secret, Variant};
use crate::case::Impact;
use crate::cluster::view::Shape;
use crate::manifest::parameters::Places;
use crate::manifest::{Lines, Manifest, ManifestError, Parameters, Patch};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The version of the form that this program reads.
pub const VERSION: u32 = 1;

/// The kinds of what makes pods.
const WORKLOADS: [&str; 2] = ["StatefulSet", "Deployment"];

const CANONICAL: &str = include_str!("../../manifests/targets/canonical.yaml");
const CANONICAL_MANIFEST: &str = include_str!("../../manifests/redis-cluster.yaml");

/// Why a description cannot be used. The text names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// The file cannot be read or is not such a description.
    #[error("{0}")]
    Unusable(String),
    /// Its manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// A description as it is written. Every field is documented here and nowhere else.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Descriptor {
    /// The version of this form: 1.
    pub version: u32,
    /// The manifest, relative to this file. Without one, and without `install`, the suite can only attach to what is there.
    pub manifest: Option<PathBuf>,
    /// In the place of a manifest, the command that installs the deployment: `helm`, or whatever makes an operator's resource.
    /// It runs on the user's machine in this file's folder, where the suite would apply a manifest, and may wait itself until
    /// the deployment is formed; after it the suite waits until all pods that `workload` or `workloads` declare are Ready. Its
    /// environment has `KUBECONFIG`, whose current context is the cluster that is judged with the run's namespace, that
    /// namespace as `RCC_NAMESPACE`, and `RCC_IMAGE` where an image is named. Its output goes to the evidence.
    pub install: Option<UserCommand>,
    /// The command that removes what `install` made, in the same surroundings; the run ends with it however it ends, and the
    /// next run does it for one that was killed.
    pub remove: Option<UserCommand>,
    /// The most that a case may do to what this file describes, whatever the command line says: cases of more impact are
    /// skipped. Without it the command line alone decides.
    pub impact: Option<Impact>,
    /// The namespace; the command line's wins. Where neither names one, the run makes one of its own when it applies
    /// the manifest, and takes the context's when it attaches.
    pub namespace: Option<String>,
    /// The labels by which the servers' pods are found.
    pub pods: BTreeMap<String, String>,
    /// The StatefulSet that makes the pods, where one makes all of them.
    pub workload: Option<String>,
    /// Else what makes them: `StatefulSet/leader`, `Deployment/redis-0`. Nothing, where pods were made one by one.
    #[serde(default)]
    pub workloads: Vec<String>,
    /// The container of a pod that runs the server.
    pub container: String,
    /// The port for clients, in the container.
    #[serde(default = "redis_port")]
    pub client_port: u16,
    /// The Services of the deployment.
    #[serde(default)]
    pub services: Services,
    /// Where the password is; left out where the deployment has none.
    #[serde(default, deserialize_with = "serde_yaml::with::singleton_map_recursive::deserialize")]
    pub password: Option<PasswordSource>,
    /// The user (ACL) whose password that is; left out where it is that of `default`. It must be allowed every command on
    /// every key: what it may not do, cases report as the servers' refusal.
    pub user: Option<String>,
    /// That the port for clients speaks TLS, and how; left out where it does not.
    #[serde(default, deserialize_with = "serde_yaml::with::singleton_map_recursive::deserialize")]
    pub tls: Option<Tls>,
    /// Where the servers' configuration is, for the targets `processes` and `docker`.
    pub redis_conf: Option<ConfigMapEntry>,
    /// The shape that the cluster is meant to have.
    pub shape: ExpectedShape,
    /// The pod that forms the cluster; left out where nothing of the deployment does: a Job, an operator, its people.
    pub bootstrap: Option<Bootstrap>,
    /// How servers are added: `automatic`, where nothing else is said, or `manual`, where the deployment's documentation
    /// says how its people do it.
    #[serde(default)]
    pub scaling: Scaling,
    /// What is set in the manifest; the command line's parameters win.
    #[serde(default)]
    pub parameters: Parameters,
    /// How each altered copy of the deployment is made.
    #[serde(default)]
    pub variants: BTreeMap<Variant, VariantRecipe>,
    /// Where this was read from; paths in it are relative to its folder.
    #[serde(skip)]
    pub source: Source,
    /// Where its fields stand.
    #[serde(skip)]
    pub lines: Lines,
}

/// Where a description comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Part of the program.
    #[default]
    Embedded,
    /// A file.
    File(PathBuf),
}

/// The Services of a deployment.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Services {
    /// The headless one, which gives the pods their names.
    pub headless: Option<String>,
    /// The one that clients use.
    pub client: Option<String>,
}

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PasswordSource {
    /// `secret: {name, key}`: an entry of a Secret.
    Secret {
        /// The Secret.
        name: String,
        /// Its entry.
        key: String,
    },
    /// `environment: NAME`: an environment variable of the suite.
    Environment(String),
    /// `file: PATH`: the first line of a file, relative to the description.
    File(PathBuf),
    /// `redisConf: {configMap, key}`: `requirepass` of a redis.conf in a ConfigMap.
    RedisConf(ConfigMapEntry),
}

/// An entry of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigMapEntry {
    /// The ConfigMap.
    pub config_map: String,
    /// Its entry.
    pub key: String,
}

/// The shape that the cluster is meant to have.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExpectedShape {
    /// Masters that own slots.
    pub masters: usize,
    /// Replicas of each.
    pub replicas_per_master: usize,
}

/// How the cluster is formed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bootstrap {
    /// The pod that forms the cluster: in a postStart hook, or in a container of its own.
    pub pod: String,
    /// The container that does so, where it is no hook of the server's.
    pub container: Option<String>,
    /// The hook's log file in the server's container of that pod.
    pub log_file: Option<String>,
}

/// How an altered copy is made: what is changed in the manifest, and what is done to its links.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VariantRecipe {
    /// Changes of the manifest.
    #[serde(default)]
    pub patches: Vec<Patch>,
    /// Parameters set beside those of the deployment.
    #[serde(default)]
    pub parameters: Parameters,
    /// A port of every pod to which no packet gets through. Needs a target that can cut links.
    pub blocked_port: Option<u16>,
    /// The name that the patches give the StatefulSet.
    pub workload: Option<String>,
    /// The pod whose hook forms the cluster, where it has another name in the copy.
    pub bootstrap_pod: Option<String>,
    /// An object that is made late.
    pub late: Option<Late>,
}

/// An object of a copy that is made some time after the bootstrap's pod.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Late {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// How many seconds after the bootstrap's pod has an address.
    pub seconds: u64,
}

fn redis_port() -> u16 {
    6379
}

/// The JSON schema of a description, as `docs/target.schema.json` holds it.
///
/// # Errors
/// Never: a schema is JSON.
pub fn schema() -> serde_json::Result<String> {
    let mut schema = schemars::schema_for!(Descriptor);
    schema.insert(
        "title".into(),
        "The description of a target (--target-file) of redis-cluster-conformance".into(),
    );
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

impl Descriptor {
    /// The canonical deployment, which is part of the program.
    ///
    /// # Errors
    /// Never in a released program: a test parses it.
    pub fn canonical() -> Result<Self, DescriptorError> {
        Self::parse("manifests/targets/canonical.yaml", CANONICAL)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is not such a description.
    pub fn read(path: &Path) -> Result<Self, DescriptorError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| DescriptorError::Unusable(format!("{file}: cannot be read: {error}")))?;
        let mut descriptor = Self::parse(&file, &text)?;
        descriptor.source = Source::File(path.to_owned());
        Ok(descriptor)
    }

    fn parse(file: &str, text: &str) -> Result<Self, DescriptorError> {
        let mut descriptor: Self = serde_yaml::from_str(text).map_err(|error| {
            let place = error
                .location()
                .map_or(String::new(), |place| format!(":{}:{}", place.line(), place.column()));
            let message = error.to_string();
            let reason = message.split(" at line ").next().unwrap_or_default();
            DescriptorError::Unusable(format!("{file}{place}: not a description of a target: {reason}"))
        })?;
        descriptor.lines = Lines::read(text, 0);
        if let Some((field, flaw)) = descriptor.flaw_of_commands() {
            return Err(DescriptorError::Unusable(format!(
                "{}: {flaw}",
                descriptor.place_in(file, field)
            )));
        }
        if descriptor.version != VERSION {
            return Err(DescriptorError::Unusable(format!(
                "{file}: version {} of the description is not known; this program reads version {VERSION}",
                descriptor.version
            )));
        }
        if descriptor.pods.is_empty() {
            return Err(DescriptorError::Unusable(format!(
                "{file}: pods names no label, so every pod of the namespace would count as a server"
            )));
        }
        if descriptor.workload.is_some() && !descriptor.workloads.is_empty() {
            return Err(DescriptorError::Unusable(format!(
                "{file}: workload names the one StatefulSet that makes all pods, workloads what makes them otherwise: not both"
            )));
        }
        if let Some(user) = &descriptor.user {
            let flaw = match &descriptor.password {
                None => Some("names a user and no password: where is it?"),
                Some(_) if user.is_empty() || user.contains(char::is_whitespace) => {
                    Some("user: a user's name has no space in it, and is not empty")
                }
                Some(_) => None,
            };
            if let Some(flaw) = flaw {
                return Err(DescriptorError::Unusable(format!("{file}: {flaw}")));
            }
        }
        if let Some(flaw) = descriptor.tls.as_ref().and_then(Tls::flaw) {
            return Err(DescriptorError::Unusable(format!("{file}: {flaw}")));
        }
        let known = |workload: &&String| {
            let (kind, name) = workload.split_once('/').unwrap_or_default();
            WORKLOADS.contains(&kind) && !name.is_empty()
        };
        if let Some(unknown) = descriptor.workloads.iter().find(|workload| !known(workload)) {
            return Err(DescriptorError::Unusable(format!(
                "{file}: workloads: \"{unknown}\" is not {} with a name behind it",
                WORKLOADS.map(|kind| format!("{kind}/")).join(" or ")
            )));
        }
        Ok(descriptor)
    }

    /// The one StatefulSet that makes all pods, where it is so.
    pub fn stateful_set(&self) -> Option<&str> {
        match (&self.workload, self.workloads.as_slice()) {
            (Some(name), _) => Some(name),
            (None, [only]) => only.strip_prefix("StatefulSet/"),
            (None, _) => None,
        }
    }

    /// All that makes the pods, each by kind and name: `StatefulSet/redis-cluster`.
    pub fn workloads(&self) -> Vec<String> {
        let only = self.workload.as_ref().map(|name| format!("StatefulSet/{name}"));
        only.into_iter().chain(self.workloads.iter().cloned()).collect()
    }

    /// The pod that forms the cluster.
    pub fn bootstrap_pod(&self) -> Option<&str> {
        self.bootstrap.as_ref().map(|bootstrap| bootstrap.pod.as_str())
    }

    /// The file's name, for messages and reports.
    pub fn file(&self) -> String {
        match &self.source {
            Source::Embedded => "canonical".to_owned(),
            Source::File(path) => path.display().to_string(),
        }
    }

    /// The file and the line of a field, by its JSON pointer, for messages.
    pub fn place(&self, field: &str) -> String {
        self.place_in(&self.file(), field)
    }

    fn place_in(&self, file: &str, field: &str) -> String {
        match self.lines.of(field) {
            Some(line) => format!("{file}:{line}"),
            None => file.to_owned(),
        }
    }

    /// Why nothing of this impact is done to what is described; `None` where it may be.
    pub fn refusal(&self, impact: Impact) -> Option<String> {
        let most = self.impact.filter(|most| impact > *most)?;
        Some(format!(
            "{impact}: the description allows at most impact: {most} ({})",
            self.place("/impact")
        ))
    }

    /// The folder that paths in the description are relative to; `None` where it is part of the program.
    ///
    /// # Errors
    /// When the present folder is gone.
    pub fn folder(&self) -> std::io::Result<Option<PathBuf>> {
        match &self.source {
            Source::Embedded => Ok(None),
            Source::File(file) => Ok(std::path::absolute(file)?.parent().map(Path::to_owned)),
        }
    }

    /// The manifest with the parameters set: the description's, and `over` in their place. `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or a parameter has no field in it.
    pub fn manifest(&self, over: &Parameters) -> Result<Option<Manifest>, DescriptorError> {
        let Some(path) = &self.manifest else {
            return Ok(None);
        };
        let mut manifest = match &self.source {
            Source::Embedded => Manifest::parse("manifests/redis-cluster.yaml", CANONICAL_MANIFEST)?,
            Source::File(_) => Manifest::read(&self.beside(path))?,
        };
        manifest.set(&self.parameters.overridden_by(over), self.places())?;
        Ok(Some(manifest))
    }

    /// The fields that parameters are for.
    pub fn places(&self) -> Places<'_> {
        Places {
            container: &self.container,
            secret: match &self.password {
                Some(PasswordSource::Secret { name, key }) => Some((name, key)),
                Some(PasswordSource::Environment(_) | PasswordSource::File(_) | PasswordSource::RedisConf(_))
                | None => None,
            },
        }
    }

    /// A file that the description names.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file_beside(&self, path: &Path) -> Result<Vec<u8>, DescriptorError> {
        let path = self.beside(path);
        std::fs::read(&path).map_err(|error| {
            DescriptorError::Unusable(format!("{}: {} cannot be read: {error}", self.file(), path.display()))
        })
    }

    /// A path of this description, relative to its folder.
    fn beside(&self, path: &Path) -> PathBuf {
        match &self.source {
            Source::Embedded => path.to_owned(),
            Source::File(file) => {
                let mut folder = file.parent().unwrap_or(Path::new(""));
                let mut path = path;
                // `targets/../x.yaml` is told as `x.yaml`, where that is the same.
                while let (Ok(rest), Some(parent)) = (path.strip_prefix(".."), folder.parent())
                    && folder.file_name().is_some()
                    && !folder.is_symlink()
                {
                    (path, folder) = (rest, parent);
                }
                folder.join(path)
            }
        }
    }

    /// The shape that the cluster is meant to have.
    pub fn shape(&self) -> Shape {
        Shape {
            masters: self.shape.masters,
            replicas_per_master: self.shape.replicas_per_master,
        }
    }

    /// The selector of the servers' pods, as the API takes it.
    pub fn selector(&self) -> String {
        let labels: Vec<String> = self
            .pods
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        labels.join(",")
    }

    /// The password, from the environment, a file or the manifest alone; for a deployment that is already there, its
    /// Secret or ConfigMap is asked of the API instead.
    ///
    /// # Errors
    /// When the source that the description names is not there.
    pub fn password(&self, manifest: Option<&Manifest>) -> Result<Option<Secret>, DescriptorError> {
        let unusable = |reason: String| DescriptorError::Unusable(format!("{}: password: {reason}", self.file()));
        let needs_manifest = || unusable("it is in the manifest, and the description names none".to_owned());
        let text = match &self.password {
            None => return Ok(None),
            Some(PasswordSource::Environment(name)) => std::env::var(name)
                .map_err(|_| unusable(format!("the environment variable {name} is not set, or is not text")))?,
            Some(PasswordSource::File(path)) => {
                let path = self.beside(path);
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| unusable(format!("{} cannot be read: {error}", path.display())))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            Some(PasswordSource::Secret { name, key }) => manifest.ok_or_else(needs_manifest)?.secret(name, key)?,
            Some(PasswordSource::RedisConf(entry)) => {
                let manifest = manifest.ok_or_else(needs_manifest)?;
                let conf = manifest.config_map(&entry.config_map, &entry.key)?;
                return Ok(required_password(conf));
            }
        };
        Ok(Some(Secret::new(text)))
    }
}

/// `requirepass` of a redis.conf: the last one counts, as for the server. `None` where there is none, or an empty one.
pub fn required_password(conf: &str) -> Option<Secret> {
    conf.lines()
        .filter_map(|line| {
            let (name, value) = line.trim().split_once([' ', '\t'])?;
            name.eq_ignore_ascii_case("requirepass").then(|| unquote(value.trim()))
        })
        .next_back()
        .filter(|password| !password.is_empty())
        .map(Secret::new)
}

/// A value of redis.conf without its quotes and escapes, as the server reads it (`sdssplitargs`).
fn unquote(value: &str) -> String {
    if let Some(inner) = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return inner.replace("\\'", "'");
    }
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut bytes = Vec::new();
    let mut rest = inner.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'x') => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let code = std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok());
                bytes.push(code.unwrap_or(b'x'));
            }
            Some(b'n') => bytes.push(b'\n'),
            Some(b'r') => bytes.push(b'\r'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'b') => bytes.push(8),
            Some(b'a') => bytes.push(7),
            Some(other) => bytes.push(other),
            None => {}
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;

//! A description of a deployment, written by looking at what is in its namespace: what `init` prints.
//!
//! What can be seen is written down, what can only be guessed has a comment that says so, and what cannot be known is left
//! to the reader. The text is read back before it is given away.

mod secured;

use super::Descriptor;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, PodSpec, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What the names of images of servers have in them.
const PRODUCTS: [&str; 6] = ["redis", "valkey", "keydb", "dragonfly", "garnet", "kvrocks"];

/// What the names of images have in them that go with servers and are none.
const COMPANY: [&str; 5] = ["exporter", "sentinel", "insight", "commander", "operator"];

/// The port of servers, where nothing else is said.
const PORT: i32 = 6379;

/// Labels that the platform gives each pod for itself.
const OF_ONE_POD: [&str; 6] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
];

/// What makes pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maker {
    /// Kind and name: `StatefulSet/redis-cluster`.
    pub name: String,
    /// The labels by which it knows its pods.
    pub selector: BTreeMap<String, String>,
    /// The Service that gives a StatefulSet's pods their names.
    pub service: Option<String>,
}

/// What there is in a namespace.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The namespace.
    pub namespace: String,
    /// All its pods.
    pub pods: Vec<Pod>,
    /// Its StatefulSets and Deployments.
    pub makers: Vec<Maker>,
    /// Which Deployment each ReplicaSet is of, by their names.
    pub replica_sets: BTreeMap<String, String>,
    /// Its Services.
    pub services: Vec<Service>,
    /// Its ConfigMaps.
    pub config_maps: Vec<ConfigMap>,
}

/// A pod that runs a server, and in which container.
struct Server<'a> {
    pod: &'a Pod,
    container: &'a Container,
}

impl Seen {
    /// The description of the servers that are there; of those with these labels, where some are given.
    ///
    /// # Errors
    /// Why none can be written, for people: no server is seen, or what is seen does not belong together.
    pub fn describe(&self, labels: &BTreeMap<String, String>) -> Result<String, String> {
        let servers = self.servers(labels)?;
        let containers: BTreeSet<&str> = servers.iter().map(|server| server.container.name.as_str()).collect();
        if containers.len() > 1 {
            return Err(format!(
                "servers run in containers of several names ({}), and a description names one: say which pods are meant, with --selector",
                listed(&containers)
            ));
        }
        let makers = self.makers_of(&servers);
        let pods = match labels.is_empty() {
            true => self.common_labels(&servers, &makers)?,
            false => labels.clone(),
        };
        self.select_only(&servers, &pods)?;
        let mut text = String::new();
        self.head(&mut text, &servers, &pods, &makers);
        self.services(&mut text, &servers, &pods, &makers);
        self.password(&mut text, &servers);
        self.tls(&mut text, &servers[0]);
        self.configuration(&mut text, &servers);
        shape(&mut text, servers.len());
        bootstrap(&mut text, &servers);
        Descriptor::parse("the description", &text).map_err(|error| format!("{error}\n{text}"))?;
        Ok(text)
    }

    /// The pods that run servers, ordered by name.
    fn servers(&self, labels: &BTreeMap<String, String>) -> Result<Vec<Server<'_>>, String> {
        let wanted = |pod: &&Pod| has(pod.labels(), labels);
        let mut servers: Vec<Server<'_>> = self.pods.iter().filter(wanted).filter_map(server).collect();
        servers.sort_by_key(|server| natural(&server.pod.name_any()));
        if servers.is_empty() {
            let others: BTreeSet<String> = self.pods.iter().map(ResourceExt::name_any).collect();
            let others: BTreeSet<&str> = others.iter().map(String::as_str).collect();
            return Err(format!(
                "no pod in namespace {}{} runs a server: a container with port {PORT}, or with an image or a command of {}; pods there: {}",
                self.namespace,
                if labels.is_empty() { "" } else { " with these labels" },
                PRODUCTS.join(", "),
                if others.is_empty() {
                    "none".into()
                } else {
                    listed(&others)
                }
            ));
        }
        Ok(servers)
    }

    /// What makes the servers' pods, in their order, each once.
    fn makers_of(&self, servers: &[Server<'_>]) -> Vec<String> {
        let mut makers = Vec::new();
        for server in servers {
            for owner in server.pod.owner_references() {
                let name = match owner.kind.as_str() {
                    "StatefulSet" => format!("StatefulSet/{}", owner.name),
                    "ReplicaSet" => match self.replica_sets.get(&owner.name) {
                        Some(deployment) => format!("Deployment/{deployment}"),
                        None => continue,
                    },
                    _ => continue,
                };
                if !makers.contains(&name) {
                    makers.push(name);
                }
            }
        }
        makers
    }

    /// The labels that all servers' pods have: those by which the only maker knows them, else what they have in common.
    fn common_labels(&self, servers: &[Server<'_>], makers: &[String]) -> Result<BTreeMap<String, String>, String> {
        let only = self.makers.iter().find(|maker| makers == [maker.name.clone()]);
        if let Some(selector) = only
            .map(|maker| &maker.selector)
            .filter(|selector| !selector.is_empty())
            && servers.iter().all(|server| has(server.pod.labels(), selector))
        {
            return Ok(selector.clone());
        }
        let mut common: BTreeMap<String, String> = BTreeMap::new();
        for (index, server) in servers.iter().enumerate() {
            match index {
                0 => common.extend(server.pod.labels().clone()),
                _ => common.retain(|name, value| server.pod.labels().get(name) == Some(value)),
            }
        }
        common.retain(|name, _| !OF_ONE_POD.contains(&name.as_str()));
        if common.is_empty() {
            let names: BTreeSet<String> = servers.iter().map(|server| server.pod.name_any()).collect();
            let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            return Err(format!(
                "the pods {} run servers and have no label in common: say which of them are one cluster, with --selector",
                listed(&names)
            ));
        }
        Ok(common)
    }

    /// Expects that the labels select no pod that runs no server, among those that stay.
    fn select_only(&self, servers: &[Server<'_>], labels: &BTreeMap<String, String>) -> Result<(), String> {
        let known: BTreeSet<String> = servers.iter().map(|server| server.pod.name_any()).collect();
        let others = self
            .pods
            .iter()
            .filter(|pod| has(pod.labels(), labels) && stays(pod) && !known.contains(&pod.name_any()));
        let others: BTreeSet<String> = others.map(ResourceExt::name_any).collect();
        if others.is_empty() {
            return Ok(());
        }
        let others: BTreeSet<&str> = others.iter().map(String::as_str).collect();
        Err(format!(
            "the labels {} also select {}, in which no server is seen to run: name labels of the servers alone, with --selector",
            selector(labels),
            listed(&others)
        ))
    }

    fn head(&self, text: &mut String, servers: &[Server<'_>], labels: &BTreeMap<String, String>, makers: &[String]) {
        let first = &servers[0];
        let _ = writeln!(
            text,
            "# What `init` saw in namespace {}: {} servers. The form is documented in docs/target.schema.json.\nversion: 1\n\
             # manifest: FILE, where the suite is to apply it; or where a command is to install it, and another to remove it:\n\
             # install: {{command: [helm, install, NAME, CHART, --wait], seconds: 600}}\n\
             # remove: {{command: [helm, uninstall, NAME, --wait]}}\n\
             # Without, the suite judges what is there.\n\
             # The most that is done to it, whatever the command line says: read-only, writes, apart (servers and pods beside\n\
             # it), or disruptive. What is beyond that is skipped.\n\
             # impact: apart\nnamespace: {}\npods:",
            self.namespace,
            servers.len(),
            quoted(&self.namespace)
        );
        for (name, value) in labels {
            let _ = writeln!(text, "  {}: {}", quoted(name), quoted(value));
        }
        match makers {
            [] => text.push_str("# No StatefulSet and no Deployment makes these pods.\n"),
            [only] if only.starts_with("StatefulSet/") => {
                let name = only.trim_start_matches("StatefulSet/");
                let _ = writeln!(text, "workload: {}", quoted(name));
            }
            several => {
                text.push_str("workloads:\n");
                for maker in several {
                    let _ = writeln!(text, "  - {}", quoted(maker));
                }
            }
        }
        let _ = writeln!(
            text,
            "container: {}\nclientPort: {}",
            quoted(&first.container.name),
            port(first.container)
        );
    }

    fn services(
        &self,
        text: &mut String,
        servers: &[Server<'_>],
        labels: &BTreeMap<String, String>,
        makers: &[String],
    ) {
        let behind = |service: &&Service| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|selector| {
                !selector.is_empty() && servers.iter().all(|server| has(server.pod.labels(), selector))
            })
        };
        let of_all: Vec<&Service> = self.services.iter().filter(behind).collect();
        let headless = |service: &&&Service| {
            let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
            address == Some("None")
        };
        // Only that of a StatefulSet gives pods their names; of several sets each may have its own.
        let own = self.makers.iter().filter(|maker| makers.contains(&maker.name));
        let mut naming: BTreeSet<Option<&String>> = own.map(|maker| maker.service.as_ref()).collect();
        let headless_name = naming.pop_first().flatten().filter(|_| naming.is_empty()).cloned();
        let number = port(servers[0].container);
        let leads = |service: &&&Service| {
            let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            !headless(service)
                && ports.into_iter().any(|of| match &of.target_port {
                    Some(IntOrString::Int(target)) => *target == number,
                    Some(IntOrString::String(name)) => named_port(servers[0].container, name) == Some(number),
                    None => of.port == number,
                })
        };
        let clients: Vec<String> = of_all.iter().filter(leads).map(|service| service.name_any()).collect();
        if headless_name.is_none() && clients.is_empty() {
            let _ = writeln!(text, "# No Service leads to all pods with {}.", selector(labels));
            return;
        }
        text.push_str("services:\n");
        if let Some(name) = headless_name {
            let _ = writeln!(text, "  headless: {}", quoted(&name));
        }
        if let Some((first, others)) = clients.split_first() {
            let _ = writeln!(text, "  client: {}", quoted(first));
            if !others.is_empty() {
                let _ = writeln!(text, "  # or {}", others.join(", "));
            }
        }
    }

    fn password(&self, text: &mut String, servers: &[Server<'_>]) {
        let server = &servers[0];
        let spec = server.pod.spec.as_ref();
        // The server's own container says best what its password is.
        let others = spec.into_iter().flat_map(|spec| &spec.containers);
        let containers: Vec<&Container> = std::iter::once(server.container).chain(others).collect();
        let variables = containers.iter().flat_map(|container| container.env.iter().flatten());
        let secret = variables
            .clone()
            .filter(|variable| is_password(variable))
            .find_map(|variable| {
                let key = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
                Some((key.name.clone(), key.key.clone()))
            });
        if let Some((name, key)) = secret {
            let _ = writeln!(
                text,
                "password:\n  secret: {{name: {}, key: {}}}",
                quoted(&name),
                quoted(&key)
            );
            return;
        }
        if let Some((map, key)) = self.configured(server, |conf| super::required_password(conf).is_some()) {
            let _ = writeln!(
                text,
                "password:\n  redisConf: {{configMap: {}, key: {}}}",
                quoted(&map),
                quoted(&key)
            );
            return;
        }
        let plain = variables
            .into_iter()
            .find(|variable| is_password(variable) && variable.value.is_some());
        text.push_str(match plain {
            Some(_) => {
                "# The password stands in the pods' environment, in plain text. It is not written here: put it into a variable of\n\
                 # the suite's own.\npassword:\n  environment: REDIS_PASSWORD\n"
            }
            None => {
                "# No password was seen. Where there is one, say where:\n# password:\n#   secret: {name: NAME, key: KEY}   # or \
                 environment: VARIABLE, or file: PATH\n"
            }
        });
    }

    fn tls(&self, text: &mut String, server: &Server<'_>) {
        let conf = self.configured(server, clustered).and_then(|(map, key)| {
            let map = self.config_maps.iter().find(|seen| seen.name_any() == map)?;
            map.data.as_ref()?.get(&key).map(String::as_str)
        });
        let container = server.container;
        text.push_str(&secured::describe(server, &secured::Settings { container, conf }));
    }

    fn configuration(&self, text: &mut String, servers: &[Server<'_>]) {
        if let Some((map, key)) = self.configured(&servers[0], clustered) {
            let _ = writeln!(
                text,
                "redisConf: {{configMap: {}, key: {}}}",
                quoted(&map),
                quoted(&key)
            );
        }
    }

    /// The entry of a ConfigMap that the pod has among its volumes and that is as asked for.
    fn configured(&self, server: &Server<'_>, wanted: impl Fn(&str) -> bool) -> Option<(String, String)> {
        let volumes = server.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
        let maps = volumes
            .into_iter()
            .flatten()
            .filter_map(|volume| volume.config_map.as_ref());
        maps.map(|map| &map.name).find_map(|name| {
            let map = self.config_maps.iter().find(|map| map.name_any() == *name)?;
            let mut entries = map.data.iter().flatten();
            let (key, _) = entries.find(|(_, conf)| wanted(conf))?;
            Some((name.clone(), key.clone()))
        })
    }
}

/// Whether a text is the redis.conf of a server of a cluster.
fn clustered(conf: &str) -> bool {
    conf.lines().any(|line| {
        let mut words = line.split_whitespace();
        words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("cluster-enabled"))
            && words.next() == Some("yes")
    })
}

/// The shape, of which only the number of pods is seen.
fn shape(text: &mut String, servers: usize) {
    let (masters, replicas) = match servers {
        // Fewer than three masters are no cluster that survives anything.
        count if count >= 6 && count.is_multiple_of(2) => (count / 2, 1),
        count => (count, 0),
    };
    let _ = writeln!(
        text,
        "# Guessed of {servers} pods: put in what the cluster is meant to be.\nshape:\n  masters: {masters}\n  replicasPerMaster: {replicas}"
    );
}

/// The pod whose hook forms the cluster, as far as that is seen.
fn bootstrap(text: &mut String, servers: &[Server<'_>]) {
    let hook = |server: &&Server<'_>| {
        let lifecycle = server.container.lifecycle.as_ref();
        lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some())
    };
    // Where all have the hook it does its work in one of them: the last, before which all others are there.
    match servers.iter().rev().find(hook) {
        Some(server) => {
            let _ = writeln!(
                text,
                "# Guessed: the pod whose postStart hook forms the cluster; where none does, leave it out.\nbootstrap:\n  pod: {}",
                quoted(&server.pod.name_any())
            );
        }
        None => text.push_str(
            "# No server has a postStart hook. Where a container of a pod forms the cluster:\n# bootstrap:\n#   pod: POD\n#   container: \
             CONTAINER\n",
        ),
    }
}

/// Whether a pod is meant to stay: it is no Job's, has not ended, and is not about to.
fn stays(pod: &Pod) -> bool {
    let of_a_job = pod.owner_references().iter().any(|owner| owner.kind == "Job");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !of_a_job && pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// The container of a pod that runs a server, where one does.
fn server(pod: &Pod) -> Option<Server<'_>> {
    if !stays(pod) {
        return None;
    }
    let spec: &PodSpec = pod.spec.as_ref()?;
    let container = spec.containers.iter().find(|container| serves(container))?;
    Some(Server { pod, container })
}

fn serves(container: &Container) -> bool {
    let image = container.image.as_deref().unwrap_or_default();
    let image = image.rsplit('/').next().unwrap_or_default().to_lowercase();
    let image = image.split([':', '@']).next().unwrap_or_default();
    if COMPANY.iter().any(|word| image.contains(word)) {
        return false;
    }
    let command = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten());
    let command = command.map(String::as_str).collect::<Vec<_>>().join(" ");
    let of_product = PRODUCTS.iter().any(|product| image.contains(product));
    let starts = PRODUCTS
        .iter()
        .any(|product| command.contains(&format!("{product}-server")));
    let listens = container.ports.iter().flatten().any(|port| port.container_port == PORT);
    listens || starts || of_product && container.command.is_none() && container.args.is_none()
}

/// The port for clients: the usual one where it is told, else the first.
fn port(container: &Container) -> i32 {
    let ports: Vec<i32> = container
        .ports
        .iter()
        .flatten()
        .map(|port| port.container_port)
        .collect();
    match ports.contains(&PORT) {
        true => PORT,
        false => ports.first().copied().unwrap_or(PORT),
    }
}

fn named_port(container: &Container, name: &str) -> Option<i32> {
    let mut ports = container.ports.iter().flatten();
    ports
        .find(|port| port.name.as_deref() == Some(name))
        .map(|port| port.container_port)
}

/// Whether a variable's name says that it is a server's password.
fn is_password(variable: &EnvVar) -> bool {
    let name = variable.name.to_uppercase();
    let is_secret = [
        "PASSWORD",
        "REQUIREPASS",
        "MASTERAUTH",
        "CLI_AUTH",
        "REDIS_AUTH",
        "PASS",
    ];
    is_secret.iter().any(|word| name.ends_with(word)) && !name.contains("TLS")
}

fn has(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

fn selector(labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.join(",")
}

fn listed(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}

/// A name with the number at its end as one: `redis-9` comes before `redis-10`.
fn natural(name: &str) -> (String, u64) {
    match name.rsplit_once('-').map(|(stem, number)| (stem, number.parse())) {
        Some((stem, Ok(number))) => (stem.to_owned(), number),
        Some((_, Err(_))) | None => (name.to_owned(), 0),
    }
}

/// A text as YAML takes it for a text: JSON's form, where it could be taken for anything else.
fn quoted(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    let is_word = text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.chars().all(plain);
    let means_else = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    match is_word && !means_else.contains(&text.to_lowercase().as_str()) {
        true => text.to_owned(),
        false => serde_json::Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests;

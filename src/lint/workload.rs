//! Which objects run servers of a Redis Cluster, recognised by what they are: image, command, ports, configuration.

use super::configuration::Configuration;
use super::field::{Field, Object, selects};
use super::program::{Mounts, Program, variable, variable_name};
use super::words::{CREATE, REDIS_SERVER, pattern};
use regex::Regex;
use std::sync::LazyLock;

/// All that the files hold, and the servers in it.
#[derive(Debug)]
pub struct Deployment<'a> {
    /// Every object.
    pub objects: Vec<Object<'a>>,
    /// What runs servers of a Redis Cluster.
    pub workloads: Vec<Workload<'a>>,
    /// What runs a Redis server of which nothing says that it is one of a cluster.
    pub alone: Vec<Object<'a>>,
    /// Jobs that form the cluster.
    pub jobs: Vec<Program<'a>>,
}

/// An object whose pods run servers.
#[derive(Clone, Debug)]
pub struct Workload<'a> {
    /// The StatefulSet, Deployment, Pod, …
    pub object: Object<'a>,
    /// The pods' specification.
    pub pod: Field<'a>,
    /// The pods' `metadata`.
    pub metadata: Field<'a>,
    /// The container that runs the server.
    pub container: Field<'a>,
    /// What is mounted in it.
    pub mounts: Mounts<'a>,
    /// The command that starts it; empty where it is the image's own.
    pub start: Program<'a>,
    /// The postStart hook.
    pub post_start: Program<'a>,
    /// The preStop hook.
    pub pre_stop: Program<'a>,
    /// The server's configuration.
    pub configuration: Configuration<'a>,
    /// By what it was recognised.
    pub evidence: String,
}

impl<'a> Workload<'a> {
    /// Whether it is of a kind.
    pub fn is(&self, kind: &str) -> bool {
        self.object.is(kind)
    }

    /// How many pods it makes.
    pub fn replicas(&self) -> i64 {
        match self.object.document.kind() {
            "Pod" => 1,
            _ => self.object.at("spec/replicas").integer().unwrap_or(1),
        }
    }

    /// The labels of its pods.
    pub fn labels(&self) -> Field<'a> {
        self.metadata.at("labels")
    }

    /// The container's name in words.
    pub fn container_name(&self) -> String {
        format!("container {}", self.container.at("name").text().unwrap_or("?"))
    }

    /// The port for clients, that for TLS where there is no other, and the cluster bus's. `None` where what they are is not in
    /// sight: another port than is usual may be set where nobody sees it.
    pub fn ports(&self) -> Option<(i64, i64)> {
        let declared = self.declared_ports();
        let written = self.written_ports();
        written
            .filter(|(client, _)| self.configuration.is_whole || declared.contains(client))
            .or_else(|| {
                // Nobody declares two ports that are 10000 apart for something else.
                let mut pairs = declared.iter().filter(|port| declared.contains(&(*port + 10000)));
                let client = pairs.next().filter(|_| pairs.next().is_none())?;
                Some((*client, client + 10000))
            })
    }

    /// The ports that the container declares.
    pub fn declared_ports(&self) -> Vec<i64> {
        let ports = self.container.at("ports").items();
        ports
            .iter()
            .filter_map(|port| port.at("containerPort").integer())
            .collect()
    }

    /// The two ports as the configuration in sight has them; `None` where it leaves one of them to a variable of which it does not
    /// say the value.
    pub fn written_ports(&self) -> Option<(i64, i64)> {
        let (plain, tls, bus) = (self.port("port")?, self.port("tls-port")?, self.port("cluster-port")?);
        let client = match (plain, tls) {
            (Some(0), Some(tls)) => tls,
            (plain, _) => plain.unwrap_or(6379),
        };
        let base = match tls {
            Some(tls) if self.bus_is_certified() => tls,
            _ => client,
        };
        let bus = bus.filter(|port| *port != 0).unwrap_or(base + 10000);
        Some((client, bus))
    }

    /// The port of a directive, if there is one; `None` where there is one, and its value is not in sight.
    fn port(&self, directive: &str) -> Option<Option<i64>> {
        let Some(directive) = self.configuration.get(directive) else {
            return Some(None);
        };
        let value = directive.values.first()?;
        let value = variable_name(value).map_or(Some(value.as_str()), |name| variable(&self.container, name));
        value?.parse().ok().map(Some)
    }

    /// Whether members speak TLS to each other: then the bus asks whoever connects for a certificate (`tls-auth-clients` says
    /// nothing of the bus; Redis source, cluster.c, clusterAcceptHandler).
    pub fn bus_is_certified(&self) -> bool {
        match self.configuration.get("tls-cluster") {
            Some(directive) => directive.value() == "yes",
            // A variable that images of charts make this directive of.
            None => {
                variable(&self.container, "REDIS_TLS_ENABLED").is_some_and(|value| ["yes", "true"].contains(&value))
            }
        }
    }

    /// The environment variable of a name.
    pub fn variable(&self, name: &str) -> Option<Field<'a>> {
        self.container
            .at("env")
            .items()
            .into_iter()
            .find(|variable| variable.at("name").is(name))
    }

    /// Whether a text that it runs or reads, or the name of a variable, holds it.
    pub fn mentions(&self, what: &Regex) -> bool {
        let programs = [&self.start, &self.post_start, &self.pre_stop];
        programs.iter().any(|program| program.has(what))
            || self.configuration.files.iter().any(|text| text.has(what))
            || self
                .container
                .at("env")
                .items()
                .iter()
                .any(|variable| variable.at("name").text().is_some_and(|name| what.is_match(name)))
    }

    /// Whether clients need a password, as far as the manifest shows.
    pub fn has_password(&self) -> bool {
        static SETS: LazyLock<Regex> = LazyLock::new(|| pattern("requirepass|masterauth|aclfile"));
        static EMPTY: LazyLock<Regex> = LazyLock::new(|| pattern("(requirepass|masterauth)[ \t]+(\"\"|'')[ \t]*$"));
        let programs = [&self.start, &self.post_start, &self.pre_stop];
        let texts = programs.iter().flat_map(|program| program.texts());
        let mut lines = texts.chain(&self.configuration.files).flat_map(|text| text.lines());
        let variables = self.container.at("env").items();
        lines.any(|(_, line)| SETS.is_match(line) && !EMPTY.is_match(line))
            || variables.iter().any(|variable| {
                let name = variable.at("name").text().unwrap_or_default();
                is_of_the_password(name) && !variable.at("value").is("")
            })
    }

    /// Whether a chart made it: then names that it holds may come from its parameters.
    pub fn is_rendered(&self) -> bool {
        let labels = self.object.at("metadata/labels");
        labels.key("helm.sh/chart").is_there()
            || labels.key("app.kubernetes.io/managed-by").is("Helm")
            || labels.key("chart").is_there()
    }

    /// A program of its container: a hook or a probe.
    pub fn program(&self, way: &str) -> Program<'a> {
        exec(&self.container.at(way), &self.mounts)
    }
}

/// Whether a variable of this name holds the servers' password: of another one's, a database's, nothing is known.
fn is_of_the_password(name: &str) -> bool {
    static PASSWORD: LazyLock<Regex> = LazyLock::new(|| pattern("PASSWORD|CLI_AUTH|_PASS($|_)|_AUTH$"));
    let exact = ["PASSWORD", "REQUIREPASS", "MASTERAUTH"].contains(&name);
    let of_a_server = is_of_a_server(name) && PASSWORD.is_match(name);
    (exact || of_a_server) && !name.contains("ALLOW_EMPTY")
}

/// Whether a variable's name holds that of a server.
fn is_of_a_server(name: &str) -> bool {
    ["REDIS", "VALKEY", "KEYDB", "REDICT"]
        .iter()
        .any(|server| name.contains(server))
}

impl<'a> Deployment<'a> {
    /// Looks for servers among the objects.
    pub fn recognise(objects: Vec<Object<'a>>) -> Self {
        let mut workloads = Vec::new();
        let mut alone = Vec::new();
        for object in &objects {
            let Some(workload) = server(*object, &objects) else {
                continue;
            };
            match of_a_cluster(&workload) {
                Some(evidence) => workloads.push(Workload { evidence, ..workload }),
                None => alone.push(*object),
            }
        }
        let jobs = objects.iter().flat_map(|object| jobs(*object, &objects)).collect();
        Self {
            objects,
            workloads,
            alone,
            jobs,
        }
    }

    /// The objects of a kind that may be in the workload's namespace.
    pub fn of_kind(&self, kind: &'static str, workload: &Workload<'a>) -> impl Iterator<Item = Object<'a>> {
        let place = workload.object;
        self.objects
            .iter()
            .copied()
            .filter(move |object| object.is(kind) && object.may_meet(place))
    }

    /// The Services that a workload's pods are behind, with a selector.
    pub fn services(&self, workload: &Workload<'a>) -> Vec<Object<'a>> {
        let labels = workload.labels();
        let behind = |object: &Object<'_>| {
            let selector = object.at("spec/selector");
            !selector.entries().is_empty() && super::field::matches(&selector, &labels)
        };
        self.of_kind("Service", workload).filter(behind).collect()
    }

    /// The governing Service of a StatefulSet, where it is in the files.
    pub fn governing(&self, workload: &Workload<'a>) -> Option<Object<'a>> {
        let name = workload.object.at("spec/serviceName").text()?;
        self.of_kind("Service", workload)
            .find(|object| object.document.name() == name)
    }

    /// The NetworkPolicies for what comes in that select a workload's pods.
    pub fn policies(&self, workload: &Workload<'a>) -> Vec<Object<'a>> {
        self.selecting(workload, |object| {
            let types = object.at("spec/policyTypes").items();
            types.is_empty() || types.iter().any(|kind| kind.is("Ingress"))
        })
    }

    /// The NetworkPolicies for what goes out that select a workload's pods. One that names no type is for what goes out where it
    /// says anything of that.
    pub fn outward_policies(&self, workload: &Workload<'a>) -> Vec<Object<'a>> {
        self.selecting(workload, |object| {
            let types = object.at("spec/policyTypes").items();
            match types.is_empty() {
                true => object.at("spec/egress").is_there(),
                false => types.iter().any(|kind| kind.is("Egress")),
            }
        })
    }

    /// The NetworkPolicies of some types that select a workload's pods.
    fn selecting(&self, workload: &Workload<'a>, types: impl Fn(Object<'a>) -> bool) -> Vec<Object<'a>> {
        let labels = workload.labels();
        self.of_kind("NetworkPolicy", workload)
            .filter(|object| {
                let selector = object.at("spec/podSelector");
                types(*object) && selects(&selector, &labels)
            })
            .collect()
    }

    /// What makes a cluster: postStart hooks and Jobs that do.
    pub fn bootstraps(&self, workload: &Workload<'a>) -> Vec<Program<'a>> {
        let hook = Some(workload.post_start.clone()).filter(Program::is_there);
        hook.into_iter().chain(self.jobs_beside(workload).cloned()).collect()
    }

    /// What runs in the pods of an object before the others do.
    pub fn initial(&self, object: Object<'a>) -> Vec<Program<'a>> {
        let Some((pod, _)) = pods(object) else {
            return Vec::new();
        };
        let containers = pod.at("initContainers").items().into_iter();
        containers
            .map(|container| start(&container, &Mounts::new(&pod, &container, &self.objects)))
            .collect()
    }

    /// The programs of Jobs that form a cluster and may be in a workload's namespace.
    pub fn jobs_beside(&self, workload: &Workload<'a>) -> impl Iterator<Item = &Program<'a>> {
        let place = workload.object;
        self.jobs.iter().filter(move |job| job.field.object.may_meet(place))
    }
}

/// The pods' specification and metadata of an object that makes pods.
pub(super) fn pods<'a>(object: Object<'a>) -> Option<(Field<'a>, Field<'a>)> {
    match object.document.kind() {
        "StatefulSet" | "Deployment" | "ReplicaSet" | "DaemonSet" | "ReplicationController" | "Job" => {
            Some((object.at("spec/template/spec"), object.at("spec/template/metadata")))
        }
        "Pod" => Some((object.at("spec"), object.at("metadata"))),
        _ => None,
    }
}

fn exec<'a>(handler: &Field<'a>, mounts: &Mounts<'a>) -> Program<'a> {
    Program::new(handler.clone(), &handler.at("exec/command").items(), mounts)
}

fn start<'a>(container: &Field<'a>, mounts: &Mounts<'a>) -> Program<'a> {
    let command = container.at("command").items();
    let field = if command.is_empty() {
        container.at("args")
    } else {
        container.at("command")
    };
    let words: Vec<Field<'a>> = command.into_iter().chain(container.at("args").items()).collect();
    Program::new(field, &words, mounts)
}

/// The workload, where one of its containers runs a server. What it was recognised by is not filled in.
fn server<'a>(object: Object<'a>, objects: &[Object<'a>]) -> Option<Workload<'a>> {
    if object.is("Job") {
        return None;
    }
    let (pod, metadata) = pods(object)?;
    let mut found: Vec<(u8, Workload<'a>)> = Vec::new();
    for container in pod.at("containers").items() {
        let mounts = Mounts::new(&pod, &container, objects);
        let start = start(&container, &mounts);
        let score = likelihood(&container, &start);
        if score > 0 {
            found.push((
                score,
                Workload {
                    object,
                    pod: pod.clone(),
                    metadata: metadata.clone(),
                    configuration: Configuration::new(&start, &mounts, &container),
                    post_start: exec(&container.at("lifecycle/postStart"), &mounts),
                    pre_stop: exec(&container.at("lifecycle/preStop"), &mounts),
                    start,
                    container,
                    mounts,
                    evidence: String::new(),
                },
            ));
        }
    }
    // Of two that are as likely the first.
    found.reverse();
    found
        .into_iter()
        .max_by_key(|(score, _)| *score)
        .map(|(_, workload)| workload)
}

/// How likely a container runs a server: 0 is not.
fn likelihood(container: &Field<'_>, start: &Program<'_>) -> u8 {
    const OTHERS: [&str; 12] = [
        "exporter",
        "sentinel",
        "insight",
        "commander",
        "operator",
        "proxy",
        "browser",
        "admin",
        "backup",
        "twemproxy",
        "envoy",
        "stat",
    ];
    const SERVERS: [&str; 4] = ["redis", "valkey", "keydb", "redict"];
    static OTHER_PROGRAM: LazyLock<Regex> =
        LazyLock::new(|| pattern("^(/[a-z/]*/)?((redis|valkey|keydb|redict)-(cli|sentinel|benchmark)|sleep)$"));
    let image = container.at("image").text().unwrap_or_default();
    let repository = image.split('@').next().unwrap_or_default();
    let last = repository.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let first_word = start.words.first().map_or("", |word| word.text);
    if OTHERS.iter().any(|other| last.contains(other))
        || OTHER_PROGRAM.is_match(first_word)
        || start.has(&CREATE) && !start.has(&REDIS_SERVER)
    {
        return 0;
    }
    let sentinel = start.texts().any(|text| text.text.contains("--sentinel"));
    if sentinel {
        return 0;
    }
    let ports = container.at("ports").items();
    let listens = |port: i64| {
        ports
            .iter()
            .any(|item| item.at("containerPort").integer() == Some(port))
    };
    if start.has(&REDIS_SERVER) {
        3
    } else if SERVERS.iter().any(|server| last.contains(server)) {
        2
    } else {
        u8::from(listens(6379) && listens(16379))
    }
}

/// What says that the server is one of a cluster.
fn of_a_cluster(workload: &Workload<'_>) -> Option<String> {
    static CLUSTER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "cluster-enabled[ \t\"']+yes|--cluster[ \t]+create|cluster-(announce-ip|node-timeout|config-file)|cluster[ \t]+meet",
        )
    });
    if let Some(directive) = workload.configuration.get("cluster-enabled") {
        return (directive.value() == "yes").then(|| "cluster-enabled yes".to_owned());
    }
    let ports = workload.container.at("ports").items();
    let bus = workload.ports().map_or(16379, |(_, bus)| bus);
    if workload.mentions(&CLUSTER) {
        Some("its scripts speak of a cluster".to_owned())
    } else if ports.iter().any(|port| port.at("containerPort").integer() == Some(bus)) {
        Some(format!("the bus port {bus}"))
    } else if workload.container.at("env").items().iter().any(|variable| {
        let name = variable.at("name").text().unwrap_or_default();
        name.contains("CLUSTER") && is_of_a_server(name) && !name.ends_with("_DOMAIN")
    }) {
        Some("variables of a cluster".to_owned())
    } else {
        None
    }
}

/// The programs of a Job that form a cluster, also where each word of the command stands by itself.
fn jobs<'a>(object: Object<'a>, objects: &[Object<'a>]) -> Vec<Program<'a>> {
    let Some((pod, _)) = pods(object).filter(|_| object.is("Job")) else {
        return Vec::new();
    };
    let programs = pod.at("containers").items().into_iter().map(|container| {
        let mounts = Mounts::new(&pod, &container, objects);
        start(&container, &mounts)
    });
    programs
        .filter(|program| {
            let commands = program.commands();
            commands.iter().any(|(_, _, command)| CREATE.is_match(command))
        })
        .collect()
}

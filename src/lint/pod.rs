//! Rules about the pod: resources, image, user, mounts, volumes, and what a change of configuration does.

use super::field::Field;
use super::program::{File, Mount, Program, Text};
use super::words::pattern;
use super::workload::{Deployment, Workload};
use super::{Flaw, Rule};
use crate::case::Level;
use regex::Regex;
use std::sync::LazyLock;

/// The rules of this file.
pub(super) static RULES: &[Rule] = &[
    Rule {
        row: "K8S-11",
        name: "resources",
        level: Level::Must,
        requirement: "Requests for CPU and memory, and a memory limit, MUST be set.",
        shown_by: &["FAIL-29", "OPS-13"],
        traps: &["T-39"],
        check: resources,
    },
    Rule {
        row: "K8S-11",
        name: "maxmemory",
        level: Level::Should,
        requirement: "maxmemory SHOULD be set, to at most 75 % of the memory limit: a fork needs room beside the data.",
        shown_by: &["PERS-16", "OPS-13"],
        traps: &["T-38", "T-39"],
        check: maxmemory,
    },
    Rule {
        row: "K8S-14",
        name: "image",
        level: Level::Should,
        requirement: "The image SHOULD be pinned by digest, of a version that is supported, and pulled IfNotPresent.",
        shown_by: &["BOOT-01"],
        traps: &["T-33", "T-36"],
        check: image,
    },
    Rule {
        row: "K8S-15",
        name: "non-root",
        level: Level::Should,
        requirement: "The server SHOULD NOT run as root: runAsNonRoot, or a runAsUser other than 0.",
        shown_by: &["K8S-15"],
        traps: &["T-32"],
        check: non_root,
    },
    Rule {
        row: "K8S-16",
        name: "mounts",
        level: Level::Must,
        requirement: "Volume mounts MUST NOT hide files that the workload needs.",
        shown_by: &["BOOT-01", "K8S-22"],
        traps: &["T-34"],
        check: mounts,
    },
    Rule {
        row: "K8S-17",
        name: "rollout",
        level: Level::Must,
        requirement: "A change of the configuration in a ConfigMap MUST lead to a rollout or be rejected: a checksum in the pods' annotations, or an immutable ConfigMap.",
        shown_by: &["AUTH-14", "K8S-17"],
        traps: &["T-54"],
        check: rollout,
    },
    Rule {
        row: "PERS-05",
        name: "volume-per-pod",
        level: Level::Must,
        requirement: "Each pod's data folder MUST be on a persistent volume of its own.",
        shown_by: &["PERS-02", "PERS-03", "PERS-04"],
        traps: &[],
        check: volume,
    },
];

fn resources<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let resources = workload.container.at("resources");
    // Since Kubernetes 1.32 a pod may have them as a whole.
    let pods = workload.pod.at("resources");
    let has = |way: &str| resources.at(way).is_there() || pods.at(way).is_there();
    let mut missing = Vec::new();
    // A limit without a request is a request as well.
    for resource in ["cpu", "memory"] {
        if !has(&format!("requests/{resource}")) && !has(&format!("limits/{resource}")) {
            missing.push(format!("requests.{resource}"));
        }
    }
    if !has("limits/memory") {
        missing.push("limits.memory".to_owned());
    }
    if missing.is_empty() {
        return Vec::new();
    }
    vec![Flaw::at(
        &resources,
        format!("{}: {} not set", workload.container_name(), missing.join(", ")),
    )]
}

/// Bytes of a quantity of Kubernetes (`1Gi`, `500M`) or of redis.conf (`1gb`, `500m`).
fn bytes(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let at = text
        .find(|at: char| at != '.' && !at.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<f64>().ok().map(|number| number * factor)
}

const QUANTITIES: [(&str, f64); 10] = [
    ("", 1.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("m", 0.001),
];

const REDIS_UNITS: [(&str, f64); 8] = [
    ("", 1.0),
    ("b", 1.0),
    ("k", 1e3),
    ("kb", 1024.0),
    ("m", 1e6),
    ("mb", 1_048_576.0),
    ("g", 1e9),
    ("gb", 1_073_741_824.0),
];

fn maxmemory<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static MAXMEMORY: LazyLock<Regex> = LazyLock::new(|| pattern("maxmemory([ \t\"'=]|$)|MAXMEMORY"));
    let configuration = &workload.configuration;
    if !configuration.is_whole {
        return Vec::new();
    }
    let Some(directive) = configuration.get("maxmemory") else {
        let place = configuration
            .files
            .first()
            .map_or(&workload.start.field, |text| &text.field);
        let flaw = Flaw::at(
            place,
            "no maxmemory: the data may grow until the kernel kills the server",
        );
        return if workload.mentions(&MAXMEMORY) {
            Vec::new()
        } else {
            vec![flaw]
        };
    };
    let value = directive.value();
    let Some(maxmemory) = bytes(&value.to_ascii_lowercase(), &REDIS_UNITS) else {
        return Vec::new();
    };
    let at = |found: String| vec![Flaw::in_text(&directive.text, directive.line, "maxmemory", found)];
    if maxmemory == 0.0 {
        return at("maxmemory 0: the data may grow until the kernel kills the server".to_owned());
    }
    let text = limit_text(workload);
    match memory_limit(workload) {
        Some(limit) if maxmemory > 0.75 * limit => at(format!(
            "maxmemory {value} is {:.0} % of the limit {text}",
            100.0 * maxmemory / limit
        )),
        _ => Vec::new(),
    }
}

fn limit_text(workload: &Workload<'_>) -> String {
    let limit = workload.container.at("resources/limits/memory");
    match limit.value() {
        serde_json::Value::Number(number) => number.to_string(),
        _ => limit.text().unwrap_or_default().to_owned(),
    }
}

/// The memory limit of the server's container in bytes, where there is one.
pub fn memory_limit(workload: &Workload<'_>) -> Option<f64> {
    bytes(&limit_text(workload), &QUANTITIES)
}

/// The repository and the tag of an image, and whether a digest pins it.
fn parts(image: &str) -> (&str, Option<&str>, bool) {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    match name.rsplit_once(':') {
        // host:5000/name has no tag.
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag), digest),
        _ => (name, None, digest),
    }
}

/// The server's major version, where the tag of an image of Redis says it.
pub(super) fn major_version(workload: &Workload<'_>) -> Option<u64> {
    let image = workload.container.at("image").text()?;
    let (repository, tag, _) = parts(image);
    let name = repository.rsplit('/').next()?;
    if !name.contains("redis") {
        return None;
    }
    let tag = tag?.trim_start_matches('v');
    let number = tag.split(|at: char| !at.is_ascii_digit()).next()?;
    // A tag of one long number is a date or a build.
    number.parse().ok().filter(|major| (2..=20).contains(major))
}

fn image<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let field = workload.container.at("image");
    let Some(image) = field.text() else {
        return Vec::new();
    };
    let (_, tag, digest) = parts(image);
    let policy = workload.container.at("imagePullPolicy");
    let mut flaws = Vec::new();
    if !digest {
        let found = match tag {
            None => format!("{image}: neither tag nor digest"),
            Some("latest") => format!("{image}: a tag that means another image every time"),
            Some(_) => format!("{image}: no digest, so another image may come under this name"),
        };
        flaws.push(Flaw::at(&field, found));
    }
    // 5.0 left the official images in 2022, 6.0 before it.
    if let Some(major) = major_version(workload).filter(|major| *major < 6) {
        flaws.push(Flaw::at(&field, format!("{image}: Redis {major} is out of support")));
    }
    if policy.is("Always") {
        flaws.push(Flaw::at(&policy, "Always: no pod starts while the registry is away"));
    }
    flaws
}

fn non_root<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let contexts = [
        workload.container.at("securityContext"),
        workload.pod.at("securityContext"),
    ];
    let first = |way: &str| contexts.iter().map(|context| context.at(way)).find(Field::is_there);
    let (non_root, user) = (first("runAsNonRoot"), first("runAsUser"));
    if non_root.is_some_and(|field| field.value() == true) {
        return Vec::new();
    }
    match user {
        Some(field) if field.integer() == Some(0) => vec![Flaw::at(&field, "runAsUser 0: root")],
        Some(_) => Vec::new(),
        None => {
            let why = if workload.container.at("command").is_there() {
                "; its own command also passes by an entrypoint of the image that would change the user"
            } else {
                ""
            };
            let found = format!(
                "{}: nothing keeps it from running as root{why}",
                workload.container_name()
            );
            vec![Flaw::at(&contexts[0], found)]
        }
    }
}

/// Folders without which no program runs.
const NEEDED: [&str; 11] = [
    "/",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/etc",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/local/bin",
];

fn mounts<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    for mount in &workload.mounts.all {
        let whole = !mount.field.at("subPath").is_there() && !mount.field.at("subPathExpr").is_there();
        if whole && NEEDED.contains(&mount.path) {
            let found = format!(
                "{} hides that folder of the image, with the programs or libraries in it",
                mount.path
            );
            flaws.push(Flaw::at(&mount.field.at("mountPath"), found));
        }
    }
    let ways = [
        "lifecycle/postStart",
        "lifecycle/preStop",
        "startupProbe",
        "livenessProbe",
        "readinessProbe",
    ];
    let mut programs: Vec<Program<'a>> = ways.iter().map(|way| workload.program(way)).collect();
    programs.push(workload.start.clone());
    for word in programs.iter().flat_map(|program| &program.words) {
        for (line, path) in needed(word) {
            if let File::Missing(data) = workload.mounts.file(path) {
                let map = data.object.document.to_string();
                let found = format!("{path} is not in the container: {map} is mounted there and has no such entry");
                flaws.push(Flaw::in_text(word, line, path, found));
            }
        }
    }
    flaws
}

/// The files that a text needs, each with its line: none that a pattern or a variable is part of, that the text first asks for, or
/// whose lack it takes.
fn needed<'a>(text: &Text<'a>) -> Vec<(usize, &'a str)> {
    static PATH: LazyLock<Regex> =
        LazyLock::new(|| pattern("(?:^|[ \t;&|><(`=])[\"']?(/[^ \t;\"'&|><()`]*)([\"']?[$`(*?\\[{]|[^|;]*\\|\\|)?"));
    static ASKED: LazyLock<Regex> =
        LazyLock::new(|| pattern("(?:\\[|test)[ \t]+(?:![ \t]+)?-[a-z][ \t]+[\"']?(/[^ \t;\"'&|\\]]+)"));
    let asked: Vec<&str> = text
        .lines()
        .flat_map(|(_, line)| ASKED.captures_iter(line))
        .filter_map(|found| found.get(1))
        .map(|found| found.as_str())
        .collect();
    let paths = text
        .lines()
        .flat_map(|(line, code)| PATH.captures_iter(code).map(move |found| (line, found)));
    paths
        .filter(|(_, found)| found.get(2).is_none())
        .filter_map(|(line, found)| Some((line, found.get(1)?.as_str())))
        .filter(|(_, path)| !path.contains(['$', '*', '?', '[', '{']) && !asked.contains(path))
        .collect()
}

fn rollout<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    // kustomize and others put a hash of the content into the name.
    static HASHED: LazyLock<Regex> = LazyLock::new(|| pattern("-[a-z0-9]*[0-9][a-z0-9]*$"));
    let annotations = |field: Field<'a>| {
        field
            .entries()
            .iter()
            .map(|(key, _)| key.to_lowercase())
            .collect::<Vec<_>>()
    };
    let of_pods = annotations(workload.metadata.at("annotations"));
    let of_object = annotations(workload.object.at("metadata/annotations"));
    // By the name alone: in `vault.hashicorp.com/agent-inject` another one's name holds "hash".
    let is_sum = |word: &str| {
        const SUMS: [&str; 7] = ["sha", "sha1", "sha256", "md5", "digest", "revision", "version"];
        word.ends_with("checksum") || word.ends_with("hash") || SUMS.contains(&word)
    };
    let told = of_pods.iter().any(|key| match key.split_once('/') {
        // `checksum/configuration`: charts put the word before the slash.
        Some((prefix, name)) => is_sum(prefix) || name.split(|at: char| !at.is_ascii_alphanumeric()).any(is_sum),
        None => key.split(|at: char| !at.is_ascii_alphanumeric()).any(is_sum),
    });
    let reloaded = of_pods.iter().chain(&of_object).any(|key| key.contains("reload"));
    if told || reloaded {
        return Vec::new();
    }
    let mut flaws = Vec::new();
    for text in &workload.configuration.files {
        let object = text.field.object;
        let hashed = object
            .document
            .name()
            .rsplit_once('-')
            .is_some_and(|(_, end)| (8..=64).contains(&end.len()) && HASHED.is_match(object.document.name()));
        if object.at("immutable").value() != true && !hashed {
            let found = format!(
                "the pods' annotations hold no checksum of it, and it is not immutable: {} goes on with what it has read",
                workload.object.document
            );
            flaws.push(Flaw::at(&object.root(), found));
        }
    }
    flaws
}

fn volume<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let configuration = &workload.configuration;
    // Where nothing at all is kept the data is lost wherever it is: in the image's own folder then, where no other is written.
    let nothing_kept = !workload.mounts.all.iter().any(Mount::is_kept);
    let written = configuration
        .get("dir")
        .filter(|directive| !directive.is_open() && directive.value().starts_with('/'));
    let folder = match written {
        Some(directive) => directive.value(),
        None if nothing_kept => "/data".to_owned(),
        None => return Vec::new(),
    };
    if !configuration.is_whole && !nothing_kept {
        return Vec::new();
    }
    let Some(mount) = workload.mounts.around(folder.trim_end_matches('/')) else {
        let found = match written {
            Some(_) => format!("the data folder {folder} is on no volume: it is lost with the container"),
            None => "no volume that is mounted outlives the pod, and so no data does".to_owned(),
        };
        return vec![Flaw::at(&workload.container.at("volumeMounts"), found)];
    };
    let Some(volume) = &mount.volume else {
        return Vec::new();
    };
    let claim = volume.at("persistentVolumeClaim");
    for (kind, name) in [("emptyDir", "an emptyDir"), ("ephemeral", "an ephemeral volume")] {
        if volume.at(kind).is_there() {
            let found = format!("the data folder {folder} is {name}: it is lost with the pod");
            return vec![Flaw::at(volume, found)];
        }
    }
    if claim.is_there() && workload.replicas() > 1 && !mount.field.at("subPathExpr").is_there() {
        let found = format!(
            "{} pods share one volume for {folder}, and with it one nodes.conf",
            workload.replicas()
        );
        return vec![Flaw::at(&claim, found)];
    }
    Vec::new()
}

//! Manifests that are deliberately wrong (`manifests/controls/`): the rules find in each what it names and nothing else, and
//! on kind the cases fail on it. No cluster is needed but for the last: `cargo test --test manifests -- --ignored`, which
//! takes minutes; `RCC_CONTROL=no-memory-limit,as-root` runs these controls.

#![allow(clippy::unwrap_used, reason = "a test: a panic is a failure with a place")]

use pretty_assertions::assert_eq;
use redis_cluster_conformance::case::{Impact, Level, Profile};
use redis_cluster_conformance::cases;
use redis_cluster_conformance::controls::manifests::{self, ManifestControl, PREFIX};
use redis_cluster_conformance::lint::{self, Lint};
use redis_cluster_conformance::manifest::Manifest;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Rows of rules that no manifest control makes fail, each with the reason.
const WITHOUT: &[(&str, &str)] = &[
    (
        "K8S-07",
        "the canonical manifest has no startup probe itself, and there is no other way to miss the row",
    ),
    (
        "BOOT-10",
        "one loop anywhere in the bootstrap satisfies the rule: only another script would not",
    ),
    (
        "BOOT-18",
        "the canonical manifest misses it itself, and there is no other way",
    ),
    (
        "OPS-12",
        "one line of the bootstrap that reaches the container's log satisfies the rule: only another script would not",
    ),
    ("AUTH-17", "it needs a deployment with no password at all"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn base(of: &str) -> Manifest {
    Manifest::read(&root().join(format!("manifests/{of}.yaml"))).unwrap()
}

fn patched(control: &ManifestControl) -> Manifest {
    let mut manifest = base(&control.of);
    for patch in &control.patches {
        manifest
            .apply(patch)
            .unwrap_or_else(|error| panic!("{}: {error}", control.name));
    }
    manifest
}

/// What the rules find: the row, with the rule, the object and what is there. Lines change with the patches.
fn findings(manifest: &Manifest) -> BTreeSet<(&'static str, &'static str, String, String)> {
    let lint = Lint::of(std::slice::from_ref(manifest));
    let told = lint.findings.iter().map(|finding| {
        let flaw = &finding.flaw;
        (
            finding.rule.row,
            finding.rule.name,
            flaw.object.clone(),
            flaw.found.clone(),
        )
    });
    told.collect()
}

fn rows<'a>(found: impl Iterator<Item = &'a (&'static str, &'static str, String, String)>) -> BTreeSet<String> {
    found.map(|(row, ..)| (*row).to_owned()).collect()
}

#[test]
fn every_file_is_a_control_of_the_program() {
    let known: BTreeSet<String> = manifests::all()
        .unwrap()
        .into_iter()
        .map(|control| control.name)
        .collect();
    let files = std::fs::read_dir(root().join("manifests/controls")).unwrap();
    let files = files.map(|file| {
        Path::new(&file.unwrap().file_name())
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    });
    assert_eq!(files.collect::<BTreeSet<_>>(), known);
}

/// Exactly the rows that a control names are missed beyond those of its base. What the base misses may be missed in
/// another way in the rows that it names, and in no other.
#[test]
fn a_control_misses_the_rows_that_it_names_and_no_other() {
    let mut complaints = Vec::new();
    for control in manifests::all().unwrap() {
        let (before, after) = (findings(&base(&control.of)), findings(&patched(&control)));
        let new = rows(after.difference(&before));
        let gone = rows(before.difference(&after));
        if new != control.fails || !gone.is_subset(&control.fails) {
            let told: Vec<_> = after.difference(&before).collect();
            complaints.push(format!("{}: misses {told:?}, no more {gone:?}", control.name));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_row_of_a_rule_has_a_control_or_a_reason() {
    let shown: BTreeSet<String> = manifests::all()
        .unwrap()
        .into_iter()
        .flat_map(|control| control.fails)
        .collect();
    let without: Vec<&str> = lint::rules()
        .map(|rule| rule.row)
        .filter(|row| !shown.contains(*row) && !WITHOUT.iter().any(|(known, _)| known == row))
        .collect();
    assert_eq!(without, Vec::<&str>::new());
    let needless: Vec<&&str> = WITHOUT
        .iter()
        .map(|(row, _)| row)
        .filter(|row| shown.contains(**row))
        .collect();
    assert_eq!(needless, Vec::<&&str>::new());
}

/// The rows of a control whose cases fail, going by how binding the rules and the cases are.
fn failing(control: &ManifestControl) -> BTreeSet<String> {
    let lint = Lint::of(std::slice::from_ref(&patched(control)));
    let before = findings(&base(&control.of));
    let is_new = |finding: &&lint::Finding| {
        let flaw = &finding.flaw;
        !before.contains(&(
            finding.rule.row,
            finding.rule.name,
            flaw.object.clone(),
            flaw.found.clone(),
        ))
    };
    let counts = |row: &&String| {
        let level = cases::find(row).map_or(Level::Should, |case| case.level);
        lint.of_row(row, level).0.into_iter().any(|finding| is_new(&finding))
    };
    control
        .fails
        .iter()
        .filter(counts)
        .chain(&control.shows)
        .cloned()
        .collect()
}

#[test]
fn a_case_names_the_controls_that_make_it_fail_and_no_other() {
    let controls = manifests::all().unwrap();
    let mut complaints = Vec::new();
    for case in cases::all() {
        for name in case.controls.iter().filter_map(|name| name.strip_prefix(PREFIX)) {
            let named = controls.iter().find(|control| control.name == name);
            if !named.is_some_and(|control| failing(control).contains(case.id.0)) {
                complaints.push(format!("{} names {name}, which does not make it fail", case.id));
            }
        }
    }
    for control in &controls {
        for row in failing(control).iter().filter(|row| row.starts_with("K8S-")) {
            // Chapter K8S judges by the rules; the cases of others have their own ways.
            let case = cases::find(row).filter(|case| case.controls.iter().any(|name| name.starts_with(PREFIX)));
            let name = format!("{PREFIX}{}", control.name);
            if case.is_some_and(|case| !case.controls.contains(&name.as_str())) {
                complaints.push(format!("{row} does not name {name}"));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The program, about a cluster that is not that of other runs.
fn program() -> std::process::Command {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_redis-cluster-conformance"));
    if std::env::var_os("RCC_CLUSTER_NAME").is_none() {
        program.env("RCC_CLUSTER_NAME", "rcc-manifests");
    }
    program
}

/// One cluster for all controls, which goes with this.
struct Cluster;

impl Cluster {
    fn up() -> Self {
        let cluster = Self;
        assert!(program().arg("up").status().unwrap().success(), "the kind cluster");
        cluster
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = program().arg("down").status();
    }
}

/// Runs cases over a manifest on kind; each case with its verdict.
fn run(manifest: &Manifest, ids: &[String], folder: &Path) -> BTreeMap<String, String> {
    let text: Vec<String> = manifest
        .documents
        .iter()
        .map(|document| document.value.to_string())
        .collect();
    std::fs::write(folder.join("manifest.yaml"), text.join("\n---\n")).unwrap();
    let target = std::fs::read_to_string(root().join("manifests/targets/canonical.yaml")).unwrap();
    let target = target.replace("manifest: ../redis-cluster.yaml", "manifest: manifest.yaml");
    std::fs::write(folder.join("target.yaml"), target).unwrap();
    let done = program()
        .arg("run")
        .args(ids)
        .args(["--target", "kind", "--target-file"])
        .arg(folder.join("target.yaml"))
        .arg("--out")
        .arg(folder.join("out"))
        .output()
        .unwrap();
    let report = std::fs::read_to_string(folder.join("out/run.json"));
    let report = report.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&done.stderr)));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let cases = report["cases"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    cases.map(|case| (text(&case["id"]), text(&case["verdict"]))).collect()
}

fn failed(verdicts: &BTreeMap<String, String>) -> BTreeSet<String> {
    let failed = verdicts.iter().filter(|(_, verdict)| *verdict == "fail");
    failed.map(|(id, _)| id.clone()).collect()
}

/// The cases over a platform that break nothing, and those that the rules stop before they do.
fn ids(control: Option<&ManifestControl>) -> Vec<String> {
    let chapters = ["K8S", "NET", "AUTH"];
    let harmless = cases::all().filter(|case| {
        case.profile == Profile::Kubernetes && case.impact == Impact::ReadOnly && chapters.contains(&case.id.chapter())
    });
    // It takes a minute, and says nothing of a manifest.
    let mut ids: BTreeSet<String> = harmless
        .map(|case| case.id.0.to_owned())
        .filter(|id| id != "K8S-23")
        .collect();
    let of_control = control.map(failing).unwrap_or_default();
    ids.extend(
        of_control
            .into_iter()
            .filter(|id| id.starts_with("K8S-") && cases::find(id).is_some()),
    );
    ids.into_iter().collect()
}

#[test]
#[ignore = "needs Docker and kind, and a minute for each control"]
fn on_kind_exactly_the_cases_of_a_control_fail() {
    let wanted = std::env::var("RCC_CONTROL").ok();
    let wanted: Option<Vec<&str>> = wanted.as_ref().map(|names| names.split(',').collect());
    let _cluster = Cluster::up();
    let folder = tempfile::tempdir().unwrap();
    let controls = manifests::all().unwrap();
    let chosen = controls.iter().filter(|control| {
        control.forms
            && wanted
                .as_ref()
                .is_none_or(|names| names.contains(&control.name.as_str()))
    });
    let base_fails = failed(&run(&base("redis-cluster"), &ids(None), folder.path()));
    let mut complaints = Vec::new();
    for control in chosen {
        let verdicts = run(&patched(control), &ids(Some(control)), folder.path());
        let seen = failed(&verdicts);
        eprintln!("{}: {seen:?} fail", control.name);
        // Chapter K8S judges by the rules; the cases of others have their own ways, and may fail.
        let (may, must) = (&control.fails | &base_fails, &failing(control) | &base_fails);
        let must: BTreeSet<&String> = must
            .iter()
            .filter(|id| id.starts_with("K8S-") || base_fails.contains(*id))
            .collect();
        let may = &may | &control.shows;
        if !seen.is_subset(&may) || !must.iter().all(|id| seen.contains(*id)) {
            complaints.push(format!("{}: {seen:?} fail, and not {must:?}", control.name));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

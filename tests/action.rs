//! The composite action and the workflow that uses it, as far as they can be tried without the service that runs them: they
//! are YAML of the right form, name each other's inputs, and the step that judges does what its exit codes say, with a
//! program in place of ours that ends as it is told.

#![allow(clippy::unwrap_used, reason = "a test: a panic is a failure with a place")]

use pretty_assertions::assert_eq;
use rstest::rstest;
use serde_yaml::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn keys(value: &Value) -> BTreeSet<String> {
    let mapping = value.as_mapping().unwrap();
    mapping.keys().map(|key| key.as_str().unwrap().to_owned()).collect()
}

fn steps(of: &Value) -> Vec<&Value> {
    of["steps"].as_sequence().unwrap().iter().collect()
}

/// The `inputs.NAME` that a text names.
fn inputs_named(text: &str) -> BTreeSet<String> {
    let names = text.split("inputs.").skip(1);
    names
        .map(|rest| {
            rest.split(|at: char| !at.is_ascii_lowercase() && at != '-')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[test]
fn the_action_is_of_the_form_of_a_composite_one() {
    let action = read("action.yml");
    assert_eq!(action["runs"]["using"], "composite");
    for step in steps(&action["runs"]) {
        let known = ["name", "id", "if", "shell", "env", "run", "uses", "with"];
        assert!(keys(step).iter().all(|key| known.contains(&key.as_str())), "{step:?}");
        assert_ne!(step.get("run").is_some(), step.get("uses").is_some(), "{step:?}");
        if let Some(script) = step.get("run").and_then(Value::as_str) {
            // The form asks for a shell; and what a user gives stands in the environment, never in the script's text.
            assert_eq!(step["shell"], "bash");
            assert!(!script.contains("${{"), "{script}");
        }
    }
    let declared = keys(&action["inputs"]);
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("action.yml")).unwrap();
    assert_eq!(
        inputs_named(&text),
        declared,
        "every input is used, and every one that is used is declared"
    );
    for name in declared {
        let input = &action["inputs"][name.as_str()];
        assert!(input["description"].is_string(), "{name}");
        assert_ne!(
            input.get("default").is_some(),
            input.get("required").is_some(),
            "{name}"
        );
    }
}

#[test]
fn the_workflow_gives_the_action_what_it_takes() {
    let (action, workflow) = (read("action.yml"), read(".github/workflows/conformance.yml"));
    let job = &workflow["jobs"]["conformance"];
    assert_eq!(workflow["permissions"]["contents"], "read");
    assert!(job["timeout-minutes"].is_u64());
    let ours = steps(job).into_iter().find(|step| step["uses"] == "./").unwrap();
    let declared = keys(&action["inputs"]);
    assert!(keys(&ours["with"]).is_subset(&declared));
    for file in ["target-file", "baseline-target-file"] {
        let path = ours["with"][file].as_str().unwrap().trim_start_matches("before/");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).is_file(), "{path}");
    }
    let checked_out: Vec<&Value> = steps(job)
        .into_iter()
        .filter(|step| step["uses"] == "actions/checkout@v4")
        .collect();
    assert_eq!(checked_out[1]["with"]["path"], "before");
}

#[test]
fn what_is_used_of_others_has_a_version() {
    let (action, workflow) = (read("action.yml"), read(".github/workflows/conformance.yml"));
    for step in steps(&action["runs"])
        .into_iter()
        .chain(steps(&workflow["jobs"]["conformance"]))
    {
        if let Some(used) = step.get("uses").and_then(Value::as_str).filter(|used| *used != "./") {
            let (name, version) = used.split_once('@').unwrap();
            assert!(name.starts_with("actions/") && version.starts_with('v'), "{used}");
        }
    }
}

/// In place of the program: writes down its arguments, makes the files that ours makes, and ends as it is told.
const PROGRAM: &str = r##"#!/bin/bash
echo "$*" >>"$HERE/called"
out=''
last=''
for argument; do
    if [ "$last" = --out ]; then out=$argument; fi
    last=$argument
done
case $1 in
up) exit "${UP:-0}" ;;
run)
    case $out in */before) code=$BEFORE ;; *) code=$AFTER ;; esac
    [ "$code" = 2 ] || [ -n "${REPEATED:-}" ] || { mkdir -p "$out" && echo "of $out" >"$out/summary.md" && echo '{}' >"$out/run.json"; }
    exit "$code"
    ;;
compare)
    [ -e "$2" ] && [ -e "$3" ] || exit 2
    echo compared >"$out"
    exit "$COMPARED"
    ;;
esac
"##;

/// Makes a program that is found before others of its name.
fn put(program: &Path, text: &str) {
    fs::write(program, text).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The step of that key and value, as a job's step with `shell: bash` is run: in a folder, which its programs know as HERE and
/// which is first where they are sought.
fn command(key: &str, value: &str, here: &Path) -> Command {
    let action = read("action.yml");
    let step = steps(&action["runs"])
        .into_iter()
        .find(|step| step.get(key).is_some_and(|found| found == value))
        .unwrap();
    fs::write(here.join("step"), step["run"].as_str().unwrap()).unwrap();
    let path = format!("{}:{}", here.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command
        .args(["--noprofile", "--norc", "-eo", "pipefail", "step"])
        .current_dir(here);
    for name in keys(&step["env"]) {
        command.env(name, "");
    }
    command.env("PATH", path).env("HERE", here);
    command
}

/// Runs the step that judges; returns its exit code, the calls of the program, and the job's page.
fn judged(environment: &[(&str, &str)]) -> (i32, Vec<String>, String) {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    put(&here.join("redis-cluster-conformance"), PROGRAM);
    // As of a job before this one, on a machine that is not cleaned.
    for earlier in ["out/before", "out/after"] {
        fs::create_dir_all(here.join(earlier)).unwrap();
        fs::write(here.join(earlier).join("run.json"), "{}").unwrap();
    }
    let mut command = command("id", "judge", here);
    command
        .env("GITHUB_OUTPUT", here.join("output"))
        .env("GITHUB_STEP_SUMMARY", here.join("page"))
        .envs([
            ("TARGET", "kind"),
            ("TARGET_FILE", "pr/my target.yaml"),
            ("OUT", "out"),
            ("FAIL_ON", "broken"),
        ])
        .envs([("BEFORE", "0"), ("AFTER", "0"), ("COMPARED", "0")])
        .envs(environment.iter().copied());
    let output = command.output().unwrap();
    let read = |name: &str| fs::read_to_string(here.join(name)).unwrap_or_default();
    let code = output.status.code().unwrap();
    assert_eq!(
        read("output"),
        format!("exit-code={code}\n"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (code, read("called").lines().map(str::to_owned).collect(), read("page"))
}

const BASE: (&str, &str) = ("BASELINE_TARGET_FILE", "main.yaml");
const KNOWN: (&str, &str) = ("KNOWN_FAILING", "known.yaml");

#[rstest]
#[case::conformant(&[], 0)]
#[case::not_conformant(&[("AFTER", "1")], 1)]
#[case::broke(&[("AFTER", "3")], 3)]
#[case::no_cluster(&[("UP", "3")], 3)]
#[case::the_same(&[BASE], 0)]
#[case::failed_as_before(&[BASE, ("BEFORE", "1"), ("AFTER", "1")], 0)]
#[case::failed_as_before_and_is_not_known(&[BASE, KNOWN, ("BEFORE", "1"), ("AFTER", "1")], 1)]
#[case::failed_before_as_known(&[BASE, KNOWN, ("BEFORE", "1")], 0)]
#[case::worse(&[BASE, ("AFTER", "1"), ("COMPARED", "1")], 1)]
#[case::worse_though_conformant(&[BASE, ("COMPARED", "1")], 1)]
#[case::broke_before(&[BASE, ("BEFORE", "3"), ("COMPARED", "3")], 3)]
#[case::broke_after(&[BASE, ("AFTER", "3"), ("COMPARED", "3")], 3)]
#[case::usage_before(&[BASE, ("BEFORE", "2")], 2)]
#[case::usage_after(&[BASE, ("AFTER", "2")], 2)]
#[case::nothing_to_compare(&[BASE, ("REPEATED", "1")], 3)]
#[case::nothing_to_compare_after_a_failure(&[BASE, ("REPEATED", "1"), ("AFTER", "1")], 3)]
fn the_step_ends_as_the_gate_says(#[case] environment: &[(&str, &str)], #[case] code: i32) {
    assert_eq!(judged(environment).0, code);
}

#[test]
fn the_step_calls_the_program_with_what_it_was_given() {
    let (_, called, page) = judged(&[
        BASE,
        KNOWN,
        ("CASES", "A1\n--budget  20m\n"),
        ("FAIL_ON", "broken,slower"),
    ]);
    let expected = [
        "up",
        "run A1 --budget 20m --target kind --target-file main.yaml --out out/before",
        "run A1 --budget 20m --target kind --target-file pr/my target.yaml --known-failing known.yaml --out out/after",
        "compare out/before/run.json out/after/run.json --fail-on broken,slower --format markdown --out out/comparison.md",
    ];
    assert_eq!(called, expected);
    assert_eq!(page, "compared\nof out/after\n");
    let (_, called, _) = judged(&[("TARGET", "processes")]);
    assert_eq!(
        called,
        ["run --target processes --target-file pr/my target.yaml --out out/after"]
    );
}

/// In place of Docker: knows one image, whose program ends as it is told, and keeps the containers that it made as files.
const DOCKER: &str = r##"#!/bin/bash
echo "$*" >>"$HERE/called"
case $1 in
create)
    [ "$2 $3" = "-- registry.test/conformance:1" ] || { echo "no such image: $3" >&2; exit 125; }
    touch "$HERE/container-7"
    echo container-7
    ;;
cp)
    [ -e "$HERE/container-7" ] && [ "$2" = container-7:/usr/local/bin/redis-cluster-conformance ] || exit 1
    [ "${WITHOUT:-}" = '' ] || { echo "no such file" >&2; exit 1; }
    printf '#!/bin/bash\necho the program\nexit %s\n' "${ENDS:-0}" >"$3/redis-cluster-conformance"
    chmod +x "$3/redis-cluster-conformance"
    ;;
rm) rm "$HERE/$2" ;;
*) exit 1 ;;
esac
"##;

#[rstest]
#[case::there(&[("IMAGE", "registry.test/conformance:1")], 0, "the program")]
#[case::no_image(&[("IMAGE", "registry.test/other")], 125, "no such image")]
#[case::an_option(&[("IMAGE", "--privileged")], 125, "no such image: --privileged")]
#[case::without_it(&[("IMAGE", "registry.test/conformance:1"), ("WITHOUT", "1")], 1, "no such file")]
#[case::of_another_machine(&[("IMAGE", "registry.test/conformance:1"), ("ENDS", "126")], 3, "::error::the program of registry.test/conformance:1 does not run")]
fn the_program_comes_out_of_its_image_and_no_container_stays(
    #[case] environment: &[(&str, &str)],
    #[case] code: i32,
    #[case] said: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    put(&here.join("docker"), DOCKER);
    let mut command = command("name", "The program from its image", here);
    let output = command
        .env("HOME", here)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(said), "{text}");
    assert!(!here.join("container-7").exists(), "{text}");
    // Where the step that judges looks for it.
    let program = here.join(".redis-cluster-conformance/bin/redis-cluster-conformance");
    assert_eq!(program.exists(), code == 0 || code == 3);
}

#[test]
fn an_image_stands_in_for_the_build() {
    let action = read("action.yml");
    let when = |name: &str| {
        let step = steps(&action["runs"])
            .into_iter()
            .find(|step| step["name"] == name)
            .unwrap();
        step["if"].as_str().unwrap().to_owned()
    };
    assert_eq!(when("The program from its image"), "inputs.image != ''");
    assert_eq!(when("The program from the cache"), "inputs.image == ''");
    assert!(when("The program from its source").starts_with("inputs.image == '' && "));
}

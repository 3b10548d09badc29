//! The command line as a user meets it: exit codes, messages, and what is left behind.

#![allow(clippy::unwrap_used, reason = "a test: a panic is a failure with a place")]

use assert_cmd::Command;
use rstest::rstest;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn program() -> Command {
    let mut command = Command::cargo_bin("redis-cluster-conformance").unwrap();
    command
        .env_remove("RCC_TARGET")
        .env("NO_COLOR", "1")
        .timeout(Duration::from_secs(120));
    command
}

/// The exit code, standard output and standard error of a call.
fn call(arguments: &[&str], folder: &Path) -> (i32, String, String) {
    let output = program().args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A machine without a server proves nothing: the test fails there and says why, instead of passing.
fn needs_redis() {
    let version = std::process::Command::new("redis-server")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    assert!(version.is_ok(), "redis-server must be installed: scripts/setup does it");
}

#[test]
fn a_page_is_made_again_from_run_json() {
    let folder = folder();
    let golden = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    fs::copy(golden("every-verdict.json"), folder.path().join("run.json")).unwrap();
    let page = fs::read_to_string(golden("every-verdict.html")).unwrap();
    for (arguments, file) in [
        (vec!["report", "run.json"], "report.html"),
        (vec!["report", ".", "--out", "other.html"], "other.html"),
    ] {
        let (exit, stdout, stderr) = call(&arguments, folder.path());
        assert_eq!(exit, 0, "{stderr}");
        assert!(stdout.trim_end().ends_with(file), "{stdout}");
        assert!(
            fs::read_to_string(folder.path().join(file)).unwrap() == page,
            "{file} is not as kept"
        );
    }
    fs::write(folder.path().join("run.json"), "{}").unwrap();
    let (exit, _, stderr) = call(&["report", "run.json"], folder.path());
    assert_eq!(exit, 2);
    assert!(
        stderr.contains("run.json holds no run.json of this suite: missing field `schemaVersion`"),
        "{stderr}"
    );
}

#[rstest]
#[case(&["--help"], 0, "conformant")]
#[case(&["list", "SLOT-03"], 0, "1 cases")]
#[case(&["list", "NET-14"], 0, "no case: No target")]
#[case(&["explain", "fail-01"], 0, "T_fo_hard = 3·NT + 5 s = 20 s")]
#[case(&["explain", "slot-01"], 0, "  slot-deleted: ")]
#[case(&["explain", "net-14"], 0, "no case: No target")]
#[case(&["run", "NET-14"], 4, "")]
#[case(&["run", "--budget", "soon"], 2, "")]
#[case(&["run", "--repeat", "0"], 2, "")]
#[case(&["run", "FAIL", "--budget", "1s", "--target", "processes"], 4, "")]
#[case(&["report", "no-such-run.json"], 2, "")]
#[case(&["init", "--help"], 0, "--namespace shop --out shop.yaml")]
#[case(&["init", "--kubeconfig", "nowhere"], 2, "")]
#[case(&["init", "--selector", "app"], 2, "")]
#[case(&["run", "--help"], 0, "--known-failing known-failing.yaml")]
#[case(&["lint", "--help"], 0, "helm template")]
#[case(&["compare", "--help"], 0, "GITHUB_STEP_SUMMARY")]
#[case(&["matrix", "--help"], 0, "--only redis-6.0-docker")]
#[case(&["matrix", "--render", "--resume"], 2, "")]
#[case(&["completion", "bash"], 0, "-o default redis-cluster-conformance")]
#[case(&["completion", "fish"], 0, "-l known-failing")]
#[case(&["completion", "zsh"], 0, "#compdef redis-cluster-conformance")]
#[case(&["completion", "dos"], 2, "")]
#[case(&["man"], 0, ".TH redis-cluster-conformance 1")]
#[case(&["man", "compare"], 0, "redis\\-cluster\\-conformance\\-compare")]
#[case(&["man", "women"], 2, "")]
#[case(&["compare"], 2, "")]
#[case(&["compare", "nowhere.json", "nowhere.json"], 2, "")]
#[case(&[], 2, "")]
#[case(&["run", "--no-such-option"], 2, "")]
#[case(&["run", "--timing", "T_nope=1"], 2, "")]
#[case(&["list", "SLOT", "--skip", "SLOT"], 4, "")]
#[case(&["run", "SLOT-03", "--skip", "SLOT", "--target", "processes"], 4, "")]
fn exit_codes(#[case] arguments: &[&str], #[case] code: i32, #[case] shown: &str) {
    let (exit, stdout, stderr) = call(arguments, folder().path());
    assert_eq!(exit, code, "{stdout}{stderr}");
    assert!(stdout.contains(shown), "{stdout}");
}

#[test]
fn manual_pages_are_filed_by_command_and_troff_has_no_complaint() {
    let folder = folder();
    let (exit, stdout, stderr) = call(&["man", "--out", "man1"], folder.path());
    assert_eq!(exit, 0, "{stderr}");
    let named: Vec<&str> = stdout.lines().collect();
    for name in ["", "-run", "-lint", "-compare", "-man"] {
        assert!(
            named.contains(&&*format!("man1/redis-cluster-conformance{name}.1")),
            "{stdout}"
        );
    }
    let output = std::process::Command::new("groff")
        .args(["-ww", "-z", "-man", "-Tascii"])
        .args(&named)
        .current_dir(folder.path())
        .output()
        .expect("groff must be installed: scripts/setup does it (groff-base)");
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    let shown = fs::read_to_string(folder.path().join("man1/redis-cluster-conformance-man.1")).unwrap();
    assert!(shown.contains("run, compare, ..."), "{shown}");
    fs::write(folder.path().join("taken"), "").unwrap();
    let (exit, _, stderr) = call(&["man", "run", "--out", "taken"], folder.path());
    assert_eq!(exit, 2, "{stderr}");
    assert!(
        stderr.contains("taken/redis-cluster-conformance-run.1 cannot be written"),
        "{stderr}"
    );
}

#[rstest]
#[case(&["list", "SOLT"], "\"SOLT\" is no id")]
#[case(&["explain", "SLOT-99"], "no case has the id \"SLOT-99\"")]
#[case(&["run", "--target", "addresses", "--addresses", "127.0.0.1:1"], "1 addresses were given")]
#[case(&["run", "--target", "processes", "--target-file", "nowhere.yaml"], "nowhere.yaml")]
#[case(&["run", "--target", "processes", "--password-env", "RCC_TEST_UNSET"], "the environment variable RCC_TEST_UNSET, which --password-env names, is not set")]
#[case(&["run", "--target", "processes", "--password-file", "nowhere"], "--password-file nowhere cannot be read: No such file")]
#[case(&["run", "--target", "processes", "--out", "/proc/version/o"], "/proc/version/o: the reports' folder: Not a directory")]
#[case::two_targets(&["run", "--addresses", "127.0.0.1:1"], "--addresses is for --target addresses, and this run's target is kind")]
fn bad_input_is_named(#[case] arguments: &[&str], #[case] named: &str) {
    let (exit, stdout, stderr) = call(arguments, folder().path());
    assert_eq!(exit, 2, "{stdout}{stderr}");
    assert!(stderr.contains(named), "{stderr}");
}

/// The target may come from the environment; what an option is for does not depend on it.
#[rstest]
#[case::of_the_environment("processes", &["--nodes", "4"], "--nodes is for --target kind, and this run's target is processes")]
#[case::command_line_first("kubernetes", &["--target", "docker", "--apply"], "--apply is for --target kubernetes, and this run's target is docker")]
#[case::in_cluster("kind", &["--in-cluster"], "--in-cluster is for --target kubernetes, and this run's target is kind")]
#[case::in_cluster_alone("", &["--in-cluster", "--nodes", "4"], "--nodes is for --target kind, and this run's target is kubernetes")]
fn an_option_of_another_target_is_refused(#[case] target: &str, #[case] options: &[&str], #[case] says: &str) {
    let folder = folder();
    let mut command = program();
    if !target.is_empty() {
        command.env("RCC_TARGET", target);
    }
    let output = command
        .arg("run")
        .args(options)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(says), "{stderr}");
    assert!(!folder.path().join("out").exists(), "nothing has begun");
}

#[test]
fn reports_that_cannot_be_written_are_no_fault_of_the_command_line() {
    needs_redis();
    let folder = folder();
    // As on a full disk, but for every user: no file takes the place of a folder.
    fs::create_dir_all(folder.path().join("o/report.html")).unwrap();
    let run = ["run", "SLOT-01", "--target", "processes", "--out", "o"];
    let (exit, stdout, stderr) = call(&run, folder.path());
    assert_eq!(exit, 3, "{stdout}{stderr}");
    assert!(
        stdout.starts_with("CONFORMANT"),
        "the verdict is told all the same: {stdout}"
    );
    assert!(
        stderr.contains("error: the reports could not be written into o: o/report.html cannot be written"),
        "{stderr}"
    );
}

#[test]
fn controls_that_there_are_not_are_told_those_that_there_are() {
    let (exit, _, stderr) = call(&["controls", "nope"], folder().path());
    assert_eq!(exit, 4, "{stderr}");
    assert!(
        stderr.starts_with("no control is selected: none has \"nope\" in its name; there are ")
            && stderr.contains(", slot-deleted, "),
        "{stderr}"
    );
}

#[test]
fn a_manifest_that_does_not_parse_is_named_with_its_line() {
    let folder = folder();
    let canonical = include_str!("../manifests/targets/canonical.yaml");
    fs::write(
        folder.path().join("target.yaml"),
        canonical.replace("../redis-cluster.yaml", "broken.yaml"),
    )
    .unwrap();
    fs::write(
        folder.path().join("broken.yaml"),
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: [a\n---\n",
    )
    .unwrap();
    let (exit, _, stderr) = call(
        &["run", "--target", "processes", "--target-file", "target.yaml"],
        folder.path(),
    );
    assert_eq!(exit, 2, "{stderr}");
    assert!(stderr.contains("broken.yaml:"), "{stderr}");
}

/// A description whose servers are nowhere, with more lines; its first line of those is the seventh.
fn description(lines: &str) -> tempfile::TempDir {
    let folder = folder();
    let rest = "version: 1\npods: {app: a}\nworkload: a\ncontainer: redis\nshape: {masters: 3, replicasPerMaster: 1}\n# more\n";
    fs::write(folder.path().join("t.yaml"), format!("{rest}{lines}")).unwrap();
    folder
}

#[rstest]
#[case::manifest_too("manifest: a.yaml\ninstall: {command: [a]}\nremove: {command: [b]}\n", &[], 2, "t.yaml:8: install: the description names a manifest too")]
#[case::never_removed("install: {command: [a]}\n", &[], 2, "t.yaml:7: install: there is no remove")]
#[case::storage("install: {command: [a]}\nremove: {command: [b]}\n", &["--storage-class", "fast"], 2, "t.yaml:7: install: storageClass (--storage-class)")]
#[case::inside("install: {command: [a]}\nremove: {command: [b]}\n", &["--in-cluster"], 2, "t.yaml:7: install: a pod of the cluster")]
#[case::nothing("", &[], 2, "names no manifest to apply, and no command to install")]
#[case::no_program("install: {command: [no-such-program]}\nremove: {command: ['true']}\n", &[], 3, "t.yaml:7: install: there is no program no-such-program")]
#[case::no_remover("install: {command: ['true']}\nremove: {command: [./no-such-script]}\n", &[], 3, "t.yaml:8: remove: there is no program ./no-such-script")]
fn what_cannot_be_installed_is_refused_with_its_line(
    #[case] lines: &str,
    #[case] options: &[&str],
    #[case] code: i32,
    #[case] says: &str,
) {
    let folder = description(lines);
    let run = [
        "run",
        "SLOT-01",
        "--target",
        "kubernetes",
        "--apply",
        "--target-file",
        "t.yaml",
    ];
    let (exit, stdout, stderr) = call(&[&run, options].concat(), folder.path());
    assert_eq!(exit, code, "{stdout}{stderr}");
    assert!(stderr.contains(says) || stdout.contains(says), "{stdout}{stderr}");
    if code == 3 {
        let run: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(folder.path().join("out/run.json")).unwrap()).unwrap();
        assert_eq!(run["cases"][0]["verdict"], "skipped", "it is no verdict");
    }
}

#[rstest]
#[case::all(&["FAIL-01"], 4, "no case that is selected may run: disruptive: the description allows at most impact: read-only (t.yaml:7)")]
#[case::trials(&["--trials", "1"], 2, "--trials: disruptive: the description allows at most impact: read-only (t.yaml:7)")]
fn nothing_runs_where_the_description_allows_nothing(#[case] options: &[&str], #[case] code: i32, #[case] says: &str) {
    let folder = description("impact: read-only\n");
    let run = [
        "run",
        "--target",
        "kubernetes",
        "--target-file",
        "t.yaml",
        "--allow-disruptive",
    ];
    let (exit, stdout, stderr) = call(&[&run, options].concat(), folder.path());
    assert_eq!(exit, code, "{stdout}{stderr}");
    assert!(stderr.contains(says), "{stderr}");
}

#[rstest]
#[case::of_the_description("writes", &[], &["BOOT-03", "HASH-09", "FAIL-01"])]
#[case::of_the_command_line("disruptive", &["--impact", "writes"], &["BOOT-03", "HASH-09"])]
#[case::the_stricter("read-only", &["--impact", "writes"], &["BOOT-03", "HASH-09"])]
fn the_stricter_impact_holds(#[case] impact: &str, #[case] options: &[&str], #[case] reported: &[&str]) {
    needs_redis();
    let folder = folder();
    let canonical = include_str!("../manifests/targets/canonical.yaml");
    let manifest = of_project("manifests/redis-cluster.yaml");
    let text = canonical.replace("../redis-cluster.yaml", &manifest);
    fs::write(folder.path().join("t.yaml"), format!("{text}impact: {impact}\n")).unwrap();
    let line = text.lines().count() + 1;
    let run = [
        "run",
        "BOOT-03",
        "HASH-09",
        "FAIL-01",
        "--target",
        "processes",
        "--target-file",
        "t.yaml",
    ];
    let (exit, stdout, stderr) = call(&[&run, options].concat(), folder.path());
    assert_eq!(exit, 0, "{stdout}{stderr}");
    let run: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("out/run.json")).unwrap()).unwrap();
    let cases = run["cases"].as_array().unwrap();
    let ids: Vec<&str> = cases.iter().filter_map(|case| case["id"].as_str()).collect();
    assert_eq!(ids, reported);
    let says = format!("the description allows at most impact: {impact} (t.yaml:{line})");
    for case in cases {
        let order = ["read-only", "writes", "apart", "disruptive"];
        let rank = |word: &str| order.iter().position(|one| *one == word);
        let beyond = rank(case["impact"].as_str().unwrap()) > rank(impact);
        assert_eq!(case["verdict"] == "skipped", beyond, "{case}");
        assert!(!beyond || case["reason"].as_str().unwrap().ends_with(&says), "{case}");
    }
}

#[rstest]
#[case(
    "- case: SLOT-99\n  reason: a\n  until: 2027-01-01\n",
    "known.yaml:1: \"SLOT-99\" is no case"
)]
#[case(
    "- case: SLOT-01\n  why: a\n  until: 2027-01-01\n",
    "known.yaml:2: there is no field \"why\""
)]
fn a_file_of_known_failures_that_is_of_no_use_is_named_with_its_line(#[case] text: &str, #[case] named: &str) {
    let folder = folder();
    fs::write(folder.path().join("known.yaml"), text).unwrap();
    let arguments = [
        "run",
        "SLOT-01",
        "--target",
        "processes",
        "--known-failing",
        "known.yaml",
    ];
    let (exit, stdout, stderr) = call(&arguments, folder.path());
    assert_eq!(exit, 2, "{stdout}{stderr}");
    assert!(stderr.contains(named), "{stderr}");
    assert!(!folder.path().join("out").exists(), "nothing has begun");
}

/// A run that a golden file holds, in a folder, with something in it replaced.
fn kept_run(folder: &Path, name: &str, from: &str, to: &str) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/conformant.json");
    fs::write(folder.join(name), fs::read_to_string(golden).unwrap().replace(from, to)).unwrap();
}

const PASSED: &str = "\"verdict\": \"pass\"";
const FAILED: &str = "\"verdict\": \"fail\"";

#[rstest]
#[case(PASSED, PASSED, &[], 0, "THE SAME: 3 cases ended as before")]
#[case(PASSED, FAILED, &[], 1, "WORSE: 3 broken")]
#[case(PASSED, FAILED, &["--fail-on", "none"], 0, "WORSE: 3 broken")]
#[case(PASSED, FAILED, &["--fail-on", "slower,unsupported"], 0, "WORSE: 3 broken")]
#[case(PASSED, FAILED, &["--fail-on", "nonsense"], 2, "")]
#[case(PASSED, PASSED, &["--fail-on", "broken,none"], 2, "")]
#[case(PASSED, PASSED, &["--fail-on", "none", "--fail-on", "slower"], 2, "")]
#[case(PASSED, FAILED, &["--format", "markdown"], 1, "### Broken")]
#[case(PASSED, FAILED, &["--format", "json"], 1, "\"kind\": \"broken\"")]
#[case("\"kind\": \"kind\"", "\"kind\": \"docker\"", &[], 0, "target: kind -> docker")]
#[case("\"kind\": \"kind\"", "\"kind\": \"docker\"", &["--fail-on", "different"], 1, "target: kind -> docker")]
#[case("\"schemaVersion\": \"1.0\"", "\"schemaVersion\": \"0.9\"", &[], 2, "")]
#[case("\"schemaVersion\": \"1.0\"", "\"schemaVersion\": \"2.0\"", &[], 2, "")]
#[case("\"schemaVersion\": \"1.0\"", "\"schemaVersion\": \"1.9\"", &[], 0, "THE SAME: 3 cases ended as before")]
#[case("\"cases\"", "\"no cases\"", &[], 2, "")]
fn comparisons_have_their_exit_codes(
    #[case] from: &str,
    #[case] to: &str,
    #[case] options: &[&str],
    #[case] code: i32,
    #[case] shown: &str,
) {
    let folder = folder();
    kept_run(folder.path(), "a.json", "", "");
    kept_run(folder.path(), "b.json", from, to);
    let (exit, stdout, stderr) = call(&[&["compare", "a.json", "b.json"], options].concat(), folder.path());
    assert_eq!(exit, code, "{stdout}{stderr}");
    assert!(stdout.contains(shown), "{stdout}");
    if code == 2 && options.is_empty() {
        assert!(stderr.contains("b.json holds no run.json of this suite"), "{stderr}");
    }
}

#[rstest]
#[case::in_a_folder("b", "b/run.json", 0, "b/run.json: CONFORMANT")]
#[case::in_none("c", "b/run.json", 2, "c/run.json cannot be read: No such file")]
#[case::no_json("d", "d", 2, "d holds no run.json of this suite: expected value at line 1 column 1")]
#[case::no_run("d", "d/run.json", 2, "d holds no run.json of this suite: missing field")]
fn a_run_is_named_by_its_folder_too(#[case] named: &str, #[case] file: &str, #[case] code: i32, #[case] says: &str) {
    let folder = folder();
    kept_run(folder.path(), "a.json", "", "");
    if let Some((folder_of_run, _)) = file.split_once('/') {
        fs::create_dir(folder.path().join(folder_of_run)).unwrap();
    }
    match named {
        "d" => fs::write(folder.path().join(file), if file == "d" { "x" } else { "{}" }).unwrap(),
        _ => kept_run(folder.path(), file, "", ""),
    }
    if named == "c" {
        fs::create_dir(folder.path().join("c")).unwrap();
    }
    let (exit, stdout, stderr) = call(&["compare", "a.json", named], folder.path());
    assert_eq!(exit, code, "{stdout}{stderr}");
    assert!(stdout.contains(says) || stderr.contains(says), "{stdout}{stderr}");
}

#[test]
fn a_comparison_can_go_into_a_file() {
    let folder = folder();
    kept_run(folder.path(), "a.json", "", "");
    let arguments = ["compare", "a.json", "a.json", "--format", "markdown", "--out", "c.md"];
    let (exit, stdout, _) = call(&arguments, folder.path());
    assert_eq!((exit, stdout.starts_with("THE SAME")), (0, true), "{stdout}");
    assert!(
        fs::read_to_string(folder.path().join("c.md"))
            .unwrap()
            .starts_with("## THE SAME")
    );
}

/// Colours are for terminals alone; here there is none, whatever NO_COLOR says.
#[rstest]
#[case(None)]
#[case(Some("1"))]
fn what_is_no_terminal_gets_no_colours(#[case] no_color: Option<&str>) {
    let mut command = program();
    match no_color {
        Some(value) => command.env("NO_COLOR", value),
        None => command.env_remove("NO_COLOR"),
    };
    let output = command.args(["list", "SLOT"]).output().unwrap();
    assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b));
}

#[rstest]
#[case::unknown("loud", 2, "RCC_LOG=loud: no such level")]
#[case::known("debug", 0, "")]
fn the_log_s_level_is_one_that_there_is(#[case] level: &str, #[case] code: i32, #[case] says: &str) {
    let output = program().arg("list").env("RCC_LOG", level).output().unwrap();
    assert_eq!(output.status.code(), Some(code));
    assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{output:?}");
}

/// A manifest of the project, by its path from the project's folder.
fn of_project(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

#[rstest]
#[case("src/lint/tests/good.yaml", &[], 0, "0 must and 0 should")]
#[case("manifests/redis-cluster.yaml", &[], 1, ": must K8S-02: Secret/redis-cluster-password: ")]
#[case("manifests/as-published.yaml", &["--json"], 1, "\"line\": 163")]
#[case("manifests/targets/canonical.yaml", &[], 2, "")]
#[case("manifests/no-such-file.yaml", &[], 2, "")]
fn lint_has_its_exit_codes(#[case] path: &str, #[case] options: &[&str], #[case] code: i32, #[case] shown: &str) {
    let path = of_project(path);
    let (exit, stdout, stderr) = call(&[&["lint", &path], options].concat(), folder().path());
    assert_eq!(exit, code, "{stdout}{stderr}");
    assert!(stdout.contains(shown), "{stdout}");
}

#[rstest]
// A server alone: none of a cluster.
#[case("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: redis:7}]}\n", &[], 4)]
#[case("apiVersion: v1\nkind: Service\nmetadata: {name: s}\n", &[], 4)]
#[case("a: [\n", &[], 2)]
#[case("should", &[], 0)]
#[case("should", &["--strict"], 1)]
fn lint_reads_standard_input(#[case] text: &str, #[case] options: &[&str], #[case] code: i32) {
    let good = fs::read_to_string(of_project("src/lint/tests/good.yaml")).unwrap();
    let text = match text {
        "should" => good.replace("imagePullPolicy: IfNotPresent", "imagePullPolicy: Always"),
        text => text.to_owned(),
    };
    let output = program()
        .args([&["lint", "-"], options].concat())
        .write_stdin(text)
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_list_for_programs_has_the_documented_fields() {
    let (exit, stdout, _) = call(&["list", "--json"], folder().path());
    assert_eq!(exit, 0);
    let cases: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
    assert!(cases.len() >= 60, "{}", cases.len());
    let fields = [
        "id",
        "title",
        "requirement",
        "source",
        "level",
        "profile",
        "seed",
        "impact",
        "needs",
        "features",
        "bound",
        "method",
        "controls",
        "noCase",
    ];
    for case in &cases {
        for field in fields {
            assert!(case.get(field).is_some(), "{field} in {case}");
        }
    }
}

#[test]
fn servers_that_are_not_there_are_an_error_of_the_target_and_leave_a_report() {
    let folder = folder();
    // Port 1 of loopback: nothing listens there.
    let addresses = ["127.0.0.1:1"; 6].join(",");
    let (exit, stdout, _) = call(
        &[
            "run",
            "SLOT",
            "--target",
            "addresses",
            "--addresses",
            &addresses,
            "--out",
            "o",
        ],
        folder.path(),
    );
    assert_eq!(exit, 3, "{stdout}");
    assert!(stdout.contains("127.0.0.1:1: does not accept connections"), "{stdout}");
    let run: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("o/run.json")).unwrap()).unwrap();
    assert_eq!(run["summary"]["verdict"], "undecided");
    assert!(
        run["cases"]
            .as_array()
            .unwrap()
            .iter()
            .all(|case| case["verdict"] == "skipped")
    );
    assert!(
        fs::read_to_string(folder.path().join("o/junit.xml"))
            .unwrap()
            .contains("<error")
    );
}

#[test]
fn a_server_binary_that_is_not_there_is_named() {
    let folder = folder();
    let (exit, stdout, stderr) = call(
        &[
            "run",
            "SLOT",
            "--target",
            "processes",
            "--server",
            "/no/such/server",
            "--out",
            "o",
        ],
        folder.path(),
    );
    assert_eq!(exit, 2, "{stdout}{stderr}");
    assert!(
        stdout.contains("/no/such/server") && stdout.contains("--server"),
        "{stdout}"
    );
}

#[test]
fn known_failures_are_held_against_what_ran() {
    needs_redis();
    let folder = folder();
    let entries = "- {case: SLOT-01, reason: not so, until: 2999-01-01}\n- {case: SLOT-03, reason: so, until: 2999-01-01, flaky: true}\n\
                   - {case: FAIL-01, reason: elsewhere, until: 2020-01-01}\n";
    fs::write(folder.path().join("known.yaml"), entries).unwrap();
    let arguments = [
        "run",
        "SLOT-01",
        "SLOT-03",
        "--target",
        "processes",
        "--known-failing",
        "known.yaml",
    ];
    let (exit, stdout, stderr) = call(&arguments, folder.path());
    assert_eq!(exit, 1, "{stdout}{stderr}");
    assert!(
        stdout.contains("SLOT-01 passes, though it is listed as failing"),
        "{stdout}"
    );
    let run: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("out/run.json")).unwrap()).unwrap();
    let known = &run["summary"]["known"];
    assert_eq!(run["summary"]["verdict"], "conformant");
    assert_eq!(known["gate"], "not-conformant");
    assert_eq!(
        (&known["passing"], &known["flakyPassed"], &known["notJudged"]),
        (
            &serde_json::json!(["SLOT-01"]),
            &serde_json::json!(["SLOT-03"]),
            &serde_json::json!(["FAIL-01"])
        )
    );
    let summary = fs::read_to_string(folder.path().join("out/summary.md")).unwrap();
    assert!(summary.contains("### Known failing (known.yaml)"), "{summary}");
}

/// The processes and folders that a run over `processes` has on this machine, found by the run's name.
fn left_of(run_id: &str) -> Vec<String> {
    let user = fs::metadata("/proc/self").unwrap().uid();
    let folder = std::env::temp_dir()
        .join(format!("redis-cluster-conformance-processes-{user}"))
        .join(run_id);
    let mut left: Vec<String> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder)))
        .map(|entry| entry.path().display().to_string())
        .collect();
    if folder.exists() {
        left.push(folder.display().to_string());
    }
    left
}

#[test]
fn an_interrupt_ends_repeated_runs_after_the_present_one_is_cleaned_up() {
    needs_redis();
    let folder = folder();
    let (mut child, run_id) = started(folder.path(), &["--repeat", "3"]);
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(left_of(&run_id), Vec::<String>::new());
    let repeat: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("o/repeat.json")).unwrap()).unwrap();
    assert_eq!(repeat["runs"].as_array().unwrap().len(), 1);
    assert_eq!(repeat["cases"][0]["verdicts"], serde_json::json!({}));
}

/// Starts a run over `processes` and returns it with its name as soon as its servers live.
#[expect(
    clippy::zombie_processes,
    reason = "the caller waits; a panic before that ends the test binary"
)]
fn started(folder: &Path, options: &[&str]) -> (std::process::Child, String) {
    let child = std::process::Command::new(assert_cmd::cargo::cargo_bin("redis-cluster-conformance"))
        .args(["run", "BOOT-03", "--target", "processes", "--out", "o"])
        .args(options)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let began = Instant::now();
    loop {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the run's servers must start"
        );
        let run_id = fs::read_to_string(folder.join("stderr"))
            .unwrap()
            .lines()
            .find_map(|line| Some(line.strip_prefix("run ")?.split_once(':')?.0.to_owned()));
        if let Some(run_id) = run_id
            && left_of(&run_id).len() > 6
        {
            return (child, run_id);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_interrupted_run_leaves_a_report_and_nothing_else() {
    needs_redis();
    let folder = folder();
    let (mut child, run_id) = started(folder.path(), &[]);
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(left_of(&run_id), Vec::<String>::new());
    let run: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("o/run.json")).unwrap()).unwrap();
    assert_eq!(run["aborted"]["kind"], "interrupted");
    assert_eq!(run["cases"][0]["verdict"], "skipped");
}

#[test]
fn what_a_killed_run_leaves_goes_with_the_next_run() {
    needs_redis();
    let folder = folder();
    let (mut child, run_id) = started(folder.path(), &[]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(left_of(&run_id).len() > 6, "servers outlive a suite that is killed");
    let run: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("o/run.json")).unwrap()).unwrap();
    assert_eq!(
        run["cases"][0]["verdict"], "skipped",
        "a killed run leaves a report that names what never ran"
    );
    let (exit, stdout, stderr) = call(
        &["run", "SLOT-01", "--target", "processes", "--out", "o2"],
        folder.path(),
    );
    assert_eq!(exit, 0, "{stdout}{stderr}");
    assert_eq!(left_of(&run_id), Vec::<String>::new());
}

#[test]
fn the_password_is_in_nothing_that_a_run_leaves() {
    needs_redis();
    let folder = folder();
    let password = "s3cret \"quoted\" $HOME \\x41 *";
    let output = program()
        .args([
            "run",
            "AUTH",
            "BOOT-03",
            "--impact",
            "read-only",
            "--target",
            "processes",
            "--password-env",
            "RCC_TEST_PASSWORD",
        ])
        .args(["--out", "o"])
        .env("RCC_TEST_PASSWORD", password)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let mut texts = vec![
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    ];
    for file in ["run.json", "junit.xml"] {
        texts.push(fs::read_to_string(folder.path().join("o").join(file)).unwrap());
    }
    assert!(texts.iter().all(|text| !text.contains("s3cret")));
}

#[test]
fn a_budget_runs_what_matters_and_reports_the_rest_as_left_out() {
    needs_redis();
    let folder = folder();
    let (exit, stdout, stderr) = call(
        &["run", "SLOT", "FAIL", "--target", "processes", "--budget", "10s"],
        folder.path(),
    );
    assert_eq!(exit, 0, "{stdout}{stderr}");
    let run: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("out/run.json")).unwrap()).unwrap();
    let verdict = |id: &str| {
        let cases = run["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["id"] == id).unwrap();
        (case["verdict"].clone(), case["reason"].clone())
    };
    assert_eq!(verdict("SLOT-01").0, "pass");
    let (left_out, why) = verdict("FAIL-01");
    assert_eq!(
        (left_out, why),
        ("skipped".into(), "left out by the budget of 10 s".into())
    );
}

#[test]
fn repeated_runs_have_a_folder_each_and_one_summary() {
    needs_redis();
    let folder = folder();
    let arguments = ["run", "SLOT-01", "--target", "processes", "--repeat", "2", "--out", "o"];
    let (exit, stdout, stderr) = call(&arguments, folder.path());
    assert_eq!(exit, 0, "{stdout}{stderr}");
    assert!(
        stdout.contains("Repeated: 2 of 2 runs") && !stdout.contains("CHANGED"),
        "{stdout}"
    );
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(folder.path().join("o").join(name)).unwrap()).unwrap()
    };
    let repeat = read("repeat.json");
    assert_eq!(repeat["cases"][0]["verdicts"]["pass"], serde_json::json!([1, 2]));
    assert_eq!(repeat["cases"][0]["passRate"], 1.0);
    let ids = [read("1/run.json")["runId"].clone(), read("2/run.json")["runId"].clone()];
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        assert_eq!(left_of(id.as_str().unwrap()), Vec::<String>::new());
    }
}

/// A folder with a list of cells in it.
fn cells(list: &str) -> tempfile::TempDir {
    let folder = folder();
    fs::write(folder.path().join("cells.yaml"), list).unwrap();
    folder
}

#[rstest]
#[case::no_list("nowhere.yaml", "", "nowhere.yaml cannot be read: the list of cells")]
#[case::unknown_option(
    "cells.yaml",
    "\n- cell: a\n  run: --no-such-option\n",
    "cells.yaml:3: `run` does not take"
)]
#[case::out_is_matrix_s("cells.yaml", "- cell: a\n  run: --out b\n", "cells.yaml:2: ")]
#[case::many_runs("cells.yaml", "- cell: a\n  run: --repeat 2\n", "cells.yaml:2: a has --repeat")]
#[case::no_such_case("cells.yaml", "- cell: a\n  run: SOLT\n", "cells.yaml:2: a: \"SOLT\" is no id")]
#[case::no_case(
    "cells.yaml",
    "- cell: a\n  run: SLOT --skip SLOT\n",
    "cells.yaml:2: a selects no case"
)]
#[case::of_another_target(
    "cells.yaml",
    "- cell: a\n  run: SLOT --target docker --nodes 4\n",
    "cells.yaml:2: a: --nodes is for --target kind"
)]
#[case::an_omission("cells.yaml", "- cell: a\n  run: NET-14\n", "cells.yaml:2: a selects no case")]
#[case::no_such_cell(
    "cells.yaml",
    "- {cell: a, run: SLOT}\n- {cell: c, run: SLOT}\n",
    "has no cell \"b\"; it has a, c"
)]
fn a_list_of_cells_that_is_of_no_use_is_named_before_anything_runs(
    #[case] file: &str,
    #[case] list: &str,
    #[case] named: &str,
) {
    let folder = cells(list);
    let (exit, stdout, stderr) = call(&["matrix", file, "--only", "b"], folder.path());
    assert_eq!(exit, 2, "{stdout}{stderr}");
    assert!(stderr.contains(named), "{stderr}");
    assert!(!folder.path().join("out").exists(), "nothing has begun");
}

/// What runs is what stands in the list.
#[test]
fn no_target_of_the_environment_is_a_cell_s() {
    let folder = cells("- {cell: a, run: SLOT --nodes 4}\n");
    let output = program()
        .env("RCC_TARGET", "processes")
        .args(["matrix", "cells.yaml", "--only", "b"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("has no cell \"b\"; it has a"), "{stderr}");
}

#[test]
fn a_list_without_cells_selects_nothing() {
    let folder = cells("# none yet\n");
    let (exit, _, stderr) = call(&["matrix", "cells.yaml"], folder.path());
    assert_eq!((exit, stderr.contains("cells.yaml has no cell")), (4, true), "{stderr}");
}

/// The list that the project keeps can be used as it stands, and names what is there.
#[test]
fn the_project_s_own_list_of_cells_can_be_used() {
    let folder = folder();
    let list = of_project("manifests/matrix.yaml");
    let (exit, stdout, stderr) = call(&["matrix", &list, "--only", "none-such"], folder.path());
    assert_eq!(exit, 2, "{stdout}{stderr}");
    assert!(
        stderr.contains("has no cell \"none-such\"; it has redis-6.0-docker, "),
        "{stderr}"
    );
    let scripts = fs::read_to_string(of_project("scripts/images")).unwrap();
    for line in fs::read_to_string(&list)
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("  run:"))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |option: &str| words.iter().position(|word| *word == option).map(|at| words[at + 1]);
        let image = after("--image")
            .unwrap()
            .strip_prefix("redis-cluster-conformance/")
            .unwrap();
        assert!(scripts.contains(image), "scripts/images knows {image}");
        if let Some(file) = after("--target-file") {
            assert!(Path::new(&of_project(file)).exists(), "{file}");
        }
    }
}

#[test]
fn a_cell_that_breaks_stands_in_the_page_and_stops_no_other() {
    needs_redis();
    let folder = cells(
        "- {cell: broken, run: SLOT-01 --target processes --server /no/such/server}\n\
         - {cell: unread, run: SLOT-01 --target processes --target-file nowhere.yaml}\n\
         - {cell: good, run: SLOT-01 --target processes}\n\
         - {cell: left-out, run: SLOT-03 --target processes}\n",
    );
    let at = |path: &str| folder.path().join(path);
    let page = || fs::read_to_string(at("page/conformance.md")).unwrap();
    let asked = [
        "matrix",
        "cells.yaml",
        "--only",
        "broken,unread,good",
        "--out",
        "o",
        "--page",
        "page/conformance.md",
    ];
    let (exit, stdout, stderr) = call(&asked, folder.path());
    assert_eq!(exit, 3, "{stdout}{stderr}");
    assert!(stdout.contains("4 cells: 1 conformant; 2 broke; 1 not run"), "{stdout}");
    assert!(stderr.contains("cell 3 of 3: good"), "{stderr}");
    let first = page();
    for said in [
        "- 💥 **broken**: exit code 2: ",
        "- 💥 **unread**: exit code 2: nowhere.yaml",
        "| good | Redis ",
        "redis-cluster-conformance run SLOT-01 --target processes --out o/good\n",
    ] {
        assert!(first.contains(said), "{said}: {first}");
    }
    for file in ["run.json", "cell.json", "report.txt", "log.txt", "report.html"] {
        assert!(at("o/good").join(file).exists(), "{file}");
    }

    // The page again, without a run: the same, and nothing else changes.
    fs::remove_file(at("page/conformance.md")).unwrap();
    let record = fs::read_to_string(at("o/good/cell.json")).unwrap();
    let again = [
        "matrix",
        "cells.yaml",
        "--render",
        "--out",
        "o",
        "--page",
        "page/conformance.md",
    ];
    assert_eq!(call(&again, folder.path()).0, 0);
    assert_eq!(page(), first);

    // What is there stays, and what broke runs again.
    let resumed = [&asked[..], &["--resume"]].concat();
    let (exit, _, stderr) = call(&resumed, folder.path());
    assert_eq!(exit, 3, "{stderr}");
    assert!(stderr.contains("cell 3 of 3: good is there already"), "{stderr}");
    assert!(!stderr.contains("broken is there already"), "{stderr}");
    assert_eq!(fs::read_to_string(at("o/good/cell.json")).unwrap(), record);
    let alone = ["matrix", "cells.yaml", "--only", "good", "--out", "o", "--resume"];
    assert_eq!(call(&alone, folder.path()).0, 0, "only what was asked for decides");

    // On another machine there are no folders: the page's own data know the cells.
    let whole = page();
    fs::remove_dir_all(at("o")).unwrap();
    assert_eq!(call(&again, folder.path()).0, 0);
    assert_eq!(page(), whole);
    let elsewhere = [
        "matrix",
        "cells.yaml",
        "--only",
        "good",
        "--resume",
        "--out",
        "o",
        "--page",
        "page/conformance.md",
    ];
    let (exit, _, stderr) = call(&elsewhere, folder.path());
    assert_eq!(exit, 0, "{stderr}");
    assert!(stderr.contains("good is there already"), "{stderr}");
}

/// A server of nobody's run, alone in its cluster; ended when this is dropped.
struct Alone {
    server: std::process::Child,
    port: u16,
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Alone {
    fn start(folder: &Path) -> Self {
        // Its bus has the port 10000 above.
        let port = loop {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            if port < 55_000 {
                break port;
            }
        };
        let server = std::process::Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--cluster-enabled", "yes"])
            .current_dir(folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let alone = Self { server, port };
        alone.until(&["ping"], |reply| reply == "PONG");
        alone.ask(&["cluster", "addslotsrange", "0", "16383"]);
        alone.until(&["cluster", "info"], |reply| reply.contains("cluster_state:ok"));
        alone
    }

    fn ask(&self, words: &[&str]) -> String {
        let client = std::process::Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(client.stdout).unwrap().trim().to_owned()
    }

    fn until(&self, words: &[&str], fits: impl Fn(&str) -> bool) {
        let began = Instant::now();
        while !fits(&self.ask(words)) {
            assert!(began.elapsed() < Duration::from_secs(60), "{words:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn an_interrupted_run_takes_its_keys_off_servers_that_stay() {
    needs_redis();
    let folder = folder();
    let alone = Alone::start(folder.path());
    alone.ask(&["set", "somebody-s", "value"]);
    let address = format!("127.0.0.1:{}", alone.port);
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("redis-cluster-conformance"))
        .args(["run", "OPS-13", "--target", "addresses", "--addresses", &address])
        .args(["--masters", "1", "--replicas", "0", "--out", "out"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    alone.until(&["dbsize"], |reply| reply == "2");
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(alone.ask(&["keys", "*"]), "somebody-s");
}

/// As in a terminal, where Ctrl-C reaches the whole group: the run of the cell gets one signal, not two.
#[test]
fn an_interrupt_ends_a_matrix_after_its_cell_is_cleaned_up() {
    use std::os::unix::process::CommandExt;
    needs_redis();
    let folder = cells("- {cell: a, run: BOOT-03 --target processes}\n- {cell: b, run: SLOT-01 --target processes}\n");
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("redis-cluster-conformance"))
        .args(["matrix", "cells.yaml", "--out", "o"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.path().join("stderr")).unwrap())
        .process_group(0)
        .spawn()
        .unwrap();
    let began = Instant::now();
    let run_id = loop {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the cell's servers must start"
        );
        let log = fs::read_to_string(folder.path().join("o/a/log.txt")).unwrap_or_default();
        let run_id = log
            .lines()
            .find_map(|line| Some(line.strip_prefix("run ")?.split_once(':')?.0.to_owned()));
        match run_id {
            Some(run_id) if left_of(&run_id).len() > 6 => break run_id,
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let group = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(left_of(&run_id), Vec::<String>::new());
    let read = |name: &str| fs::read_to_string(folder.path().join("o").join(name)).unwrap();
    let run: serde_json::Value = serde_json::from_str(&read("a/run.json")).unwrap();
    assert_eq!(run["aborted"]["kind"], "interrupted");
    assert!(!folder.path().join("o/b").exists(), "no other cell begins");
    let page = read("conformance.md");
    assert!(page.contains("| a | ") && page.contains("1 broke; 1 not run"), "{page}");
}

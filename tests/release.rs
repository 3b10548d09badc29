//! The files of a release, as far as they can be tried without building one: `scripts/release` packs a small static program in
//! place of ours.

#![allow(clippy::unwrap_used, reason = "a test: a panic is a failure with a place")]

use pretty_assertions::assert_eq;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// In place of the program: says what ours says of itself, and names what it was asked for.
const PROGRAM: &str = r##"
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
int main(int count, char **words) {
    if (count == 2 && !strcmp(words[1], "--version")) return puts("redis-cluster-conformance " VERSION) < 0;
    if (count == 4 && !strcmp(words[1], "man") && !strcmp(words[2], "--out")) {
        char path[4096];
        for (char *at = strchr(words[3] + 1, '/'); at; at = strchr(at + 1, '/')) { *at = 0; mkdir(words[3], 0755); *at = '/'; }
        mkdir(words[3], 0755);
        snprintf(path, sizeof path, "%s/redis-cluster-conformance.1", words[3]);
        FILE *page = fopen(path, "w");
        return !page || fputs("a page\n", page) < 0 || fclose(page);
    }
    if (count > 2 && !strcmp(words[1], "run")) {
        struct addrinfo *found;
        int failed = getaddrinfo("server.test", "1", 0, &found);
        puts(failed ? gai_strerror(failed) : "127.0.0.1:1: does not accept connections");
        return 3;
    }
    if (count == 3) return printf("%s %s\n", words[1], words[2]) < 0;
    return 2;
}
"##;

/// What the static program has in it beside Rust.
fn names() -> String {
    format!("{}/scripts/names.c", env!("CARGO_MANIFEST_DIR"))
}

fn compiled(folder: &Path, name: &str, options: &[&str]) -> PathBuf {
    let (source, program) = (folder.join("program.c"), folder.join(name));
    fs::write(&source, PROGRAM).unwrap();
    let output = Command::new("cc")
        .args(options)
        .arg("-o")
        .args([&program, &source])
        .output()
        .expect("cc must be installed: scripts/setup does it");
    assert!(output.status.success(), "{}", said(&output));
    program
}

fn of_version(version: &str) -> String {
    format!("-DVERSION=\"{version}\"")
}

fn release(program: &Path, out: &Path, cache: &Path) -> Output {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/release"))
        .arg("--program")
        .args([program, out])
        .env("RCC_CACHE", cache)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8([output.stdout.clone(), output.stderr.clone()].concat()).unwrap()
}

fn answer(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_archive_holds_what_it_should_and_is_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let program = compiled(
        here,
        "static",
        &["-static", &of_version(env!("CARGO_PKG_VERSION")), &names()],
    );
    for out in ["a", "b"] {
        let output = release(&program, &here.join(out), &here.join("cache"));
        assert!(output.status.success(), "{}", said(&output));
    }
    let sums = fs::read_to_string(here.join("a/SHA256SUMS")).unwrap();
    assert_eq!(sums, fs::read_to_string(here.join("b/SHA256SUMS")).unwrap());
    answer("sha256sum", &["--check", "SHA256SUMS"], &here.join("a"));

    let name = format!(
        "redis-cluster-conformance-{}-{}-linux",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    assert!(
        sums.ends_with(&format!("  {name}.tar.gz\n")) && sums.lines().count() == 1,
        "{sums}"
    );
    let listed = answer(
        "tar",
        &["-tvzf", &format!("a/{name}.tar.gz"), "--numeric-owner", "--utc"],
        here,
    );
    let files: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_once(&format!(" {name}/")).map(|(_, file)| file))
        .filter(|file| !file.is_empty() && !file.ends_with('/'))
        .collect();
    let expected = [
        "CASES.md",
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "README.zh-CN.md",
        "THIRD-PARTY.txt",
        "completion/_redis-cluster-conformance",
        "completion/redis-cluster-conformance",
        "completion/redis-cluster-conformance.fish",
        "docs/run.schema.json",
        "docs/target.schema.json",
        "man/man1/redis-cluster-conformance.1",
        "redis-cluster-conformance",
    ];
    assert_eq!(files, expected);
    for line in listed.lines() {
        assert!(line.contains(" 0/0 ") && line.contains(" 2023-11-14 22:13 "), "{line}");
    }

    answer("tar", &["-xzf", &format!("a/{name}.tar.gz")], here);
    let unpacked = here.join(name);
    let read = |file: &str| fs::read_to_string(unpacked.join(file)).unwrap();
    assert_eq!(read("completion/_redis-cluster-conformance"), "completion zsh\n");
    let third = read("THIRD-PARTY.txt");
    for part in ["\nring 0.", "\nclap 4.", "---- of:", "glibc (LGPL"] {
        assert!(third.contains(part), "{part:?} is missing");
    }
    answer(
        unpacked.join("redis-cluster-conformance").to_str().unwrap(),
        &["list", "SLOT-01"],
        here,
    );
}

#[test]
fn what_is_no_static_program_of_this_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (version, names) = (of_version(env!("CARGO_PKG_VERSION")), names());
    for (name, options, reason) in [
        ("dynamic", vec![version.as_str()], "is not static"),
        (
            "old",
            vec!["-static", "-DVERSION=\"0.0.1\"", &names],
            "is not of version",
        ),
        ("lost", vec!["-static", &version], "does not find names"),
    ] {
        let output = release(&compiled(here, name, &options), &here.join("out"), &here.join("cache"));
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(said(&output).contains(reason), "{}", said(&output));
    }
    assert!(!here.join("out").exists(), "nothing is released");
}

#[test]
fn the_job_names_the_image_of_this_version() {
    let job = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/conformance-job.yaml")).unwrap();
    let image = concat!(
        "image: redis-cluster-conformance/conformance:",
        env!("CARGO_PKG_VERSION"),
        "\n"
    );
    assert!(
        job.contains(image),
        "manifests/conformance-job.yaml: {image:?} is expected"
    );
}

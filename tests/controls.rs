//! Deployments that are deliberately wrong, each with the cases that must fail on it and no other: the proof that the
//! cases can fail.
//!
//! `cargo test --test controls -- open` runs the controls whose name contains `open`. At the end the matrix is printed.

use libtest_mimic::{Arguments, Failed, Trial};
use redis_cluster_conformance::controls::{self, Control, Judged};
use redis_cluster_conformance::progress::Progress;
use std::process::ExitCode;
use std::sync::OnceLock;

static JUDGED: OnceLock<Vec<Judged>> = OnceLock::new();

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let name = |control: &Control| format!("{}: {}", control.name, control.what);
    let selected: Vec<&'static Control> = controls::all()
        .filter(|control| !arguments.is_filtered_out(&Trial::test(name(control), || Ok(()))))
        .collect();
    if !arguments.list && !selected.is_empty() {
        JUDGED.get_or_init(|| judge(&selected));
    }
    let trials = controls::all().map(|control| Trial::test(name(control), || verdict(control.name)));
    let tables = [
        Trial::test("the controls that cases name exist", || {
            expect_none(&controls::misnamed())
        }),
        Trial::test("every case has a control", || expect_none(&controls::cases_without())),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.chain(tables).collect());
    if let Some(judged) = JUDGED.get() {
        eprint!("{}", controls::matrix(judged));
    }
    conclusion.exit_code()
}

fn judge(selected: &[&'static Control]) -> Vec<Judged> {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("the runtime must start");
    runtime.block_on(controls::judge(selected, &Progress::stderr()))
}

/// Whether exactly the named cases failed, and every other case could be judged.
fn verdict(control: &str) -> Result<(), Failed> {
    let judged = JUDGED
        .get()
        .and_then(|all| all.iter().find(|judged| judged.control == control));
    match judged {
        Some(judged) => expect_none(&judged.complaints),
        None => Err("the control did not run".into()),
    }
}

fn expect_none(complaints: &[impl AsRef<str>]) -> Result<(), Failed> {
    if complaints.is_empty() {
        return Ok(());
    }
    let lines: Vec<&str> = complaints.iter().map(AsRef::as_ref).collect();
    Err(lines.join("\n").into())
}

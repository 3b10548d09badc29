//! `cargo test`: one trial a case, judged by the same engine as the command line.
//!
//! `RCC_TARGET` names the target (default `kind`; `processes` is the quick way, `docker` lies between). Arguments are those of every Rust test:
//! `cargo test --test conformance -- SLOT` runs the cases whose name contains `SLOT`. Where the target cannot be made
//! because the machine lacks something, the trials are ignored with the reason, never passed.

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use redis_cluster_conformance::case::Level;
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::report::{self, CaseResult, Run};
use redis_cluster_conformance::request::{Request, new_run_id};
use redis_cluster_conformance::runner::{self, Options};
use redis_cluster_conformance::target::TargetKind;
use redis_cluster_conformance::verdict::VerdictName;
use redis_cluster_conformance::{cases, surroundings};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

/// What the canonical deployment does without, by its own account (`manifests/README.md`): all of them a *should*. A trial of
/// one is ignored with what was found; one that passes after all must leave this list.
const DONE_WITHOUT: [&str; 6] = ["BOOT-18", "K8S-06", "K8S-07", "K8S-13", "K8S-14", "K8S-15"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let name = |case: &redis_cluster_conformance::case::Case| format!("{} {}", case.id, case.title);
    let named = |case| Trial::test(name(case), || Ok(()));
    let selected: Vec<_> = cases::all()
        .filter(|case| !arguments.is_filtered_out(&named(case)))
        .collect();
    let kind = match std::env::var("RCC_TARGET").as_deref() {
        Ok("processes") => TargetKind::Processes,
        Ok("docker") => TargetKind::Docker,
        Ok("kind") | Err(_) => TargetKind::Kind,
        Ok(other) => panic!("RCC_TARGET={other}: cargo test knows the targets kind, docker and processes"),
    };
    // What the machine lacks is known before anything is made; listing asks nothing.
    static RUN: OnceLock<Result<Run, String>> = OnceLock::new();
    if !arguments.list && !selected.is_empty() {
        RUN.get_or_init(|| judge(kind, selected));
    }
    let trials = cases::all().map(|case| {
        Trial::ignorable_test(name(case), move || match RUN.get() {
            Some(Ok(run)) => run
                .cases
                .iter()
                .find(|result| result.id == case.id.0)
                .map_or_else(|| Err("the run has no result of this case".into()), completion),
            Some(Err(reason)) => Ok(Completion::ignored_with(reason)),
            None => Err("the run did not take place".into()),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs the cases on a target that is made for them; the error says what the machine lacks for it.
fn judge(kind: TargetKind, cases: Vec<&'static redis_cluster_conformance::case::Case>) -> Result<Run, String> {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("the runtime must start");
    runtime.block_on(async {
        surroundings::missing_for(kind).await.map_or(Ok(()), Err)?;
        let request = Request::new(kind, new_run_id());
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("conformance-{kind}"));
        std::fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        let options = Options {
            cases,
            out: Some(out.clone()),
            run_id: request.run_id.clone(),
            // The whole soak is for runs that somebody asks for.
            overrides: vec![("T_soak", std::time::Duration::from_secs(10))],
            ..Options::default()
        };
        let target = request.target().expect("the canonical deployment must be usable");
        let update = |run: &Run| report::write(run, &out).expect("the reports must be written");
        let run = runner::run(
            target,
            &options,
            &Progress::stderr(),
            surroundings::interrupted(),
            &update,
        )
        .await;
        eprint!("{}", report::terminal::render(&run, false, None, Some(&out)));
        Ok(run)
    })
}

fn completion(result: &CaseResult) -> Result<Completion, Failed> {
    let reason = result.reason.clone().unwrap_or_default();
    let done_without = DONE_WITHOUT.contains(&result.id.as_str());
    match result.verdict {
        VerdictName::Pass if done_without => {
            Err("it passes, and is to be taken off the list of what the deployment does without".into())
        }
        VerdictName::Pass => Ok(Completion::Completed),
        VerdictName::Fail if done_without && result.level == Level::Should => Ok(Completion::ignored_with(format!(
            "should, and done without: {}",
            result
                .actual
                .as_deref()
                .unwrap_or("-")
                .lines()
                .next()
                .unwrap_or_default()
        ))),
        VerdictName::Unsupported => Ok(Completion::ignored_with(reason)),
        VerdictName::Fail => Err(format!(
            "{}\nexpected: {}\nactual: {}\ncause: {}",
            result.requirement,
            result.expected.join(" or "),
            result.actual.as_deref().unwrap_or("-"),
            result.cause.as_deref().unwrap_or("-"),
        )
        .into()),
        // A case that did not run has proved nothing.
        VerdictName::Error | VerdictName::Blocked | VerdictName::Skipped => {
            Err(format!("{}: {reason}", result.verdict).into())
        }
    }
}

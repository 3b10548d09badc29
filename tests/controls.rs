//! Deployments that are deliberately wrong, each with the cases that must fail on it and no other: the proof that the
//! cases can fail.
//!
//! A control runs every case that disturbs nobody over servers on loopback. `cargo test --test controls -- open` runs
//! the controls whose name contains `open`. At the end the matrix is printed: control, cases that failed on it.

mod broken;
mod proxy;
mod wrong;

use broken::Broken;
use futures::{FutureExt, StreamExt};
use libtest_mimic::{Arguments, Failed, Trial};
use redis_cluster_conformance::case::{Case, Impact, Profile};
use redis_cluster_conformance::cases;
use redis_cluster_conformance::cluster::view::Shape;
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::report::{Run, Strictness};
use redis_cluster_conformance::request::new_run_id;
use redis_cluster_conformance::runner::{self, Options};
use redis_cluster_conformance::surroundings;
use redis_cluster_conformance::target::processes::{Alteration, ProcessesOptions, ProcessesTarget};
use redis_cluster_conformance::target::{Secret, Target, TargetKind};
use redis_cluster_conformance::timing::Timing;
use redis_cluster_conformance::verdict::VerdictName;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use wrong::{CONTROLS, Control, Fails};

/// A short node-timeout, since bounds follow it; no wait for further replicas before a synchronisation; every node
/// stays where the control put it.
const REDIS_CONF: &str = "cluster-enabled yes\ncluster-node-timeout 1000\nrepl-diskless-sync-delay 0\n\
                          cluster-allow-replica-migration no\nprotected-mode no\nappendonly no\nsave \"\"\n";

/// The password of every server. It has letters of both cases: so there is another that differs in case only.
const PASSWORD: &str = "Controls-of-the-Suite";

/// Limits that the surroundings set, not the protocol: here they are what loopback needs.
const OVERRIDES: [(&str, Duration); 2] = [("T_sched", Duration::from_secs(1)), ("T_sync", Duration::from_secs(2))];

/// How many clusters exist at once.
const AT_ONCE: usize = 3;

/// The run over a control, or why there is none.
type Judged = Result<Run, String>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let name = |control: &Control| format!("{}: {}", control.name, control.what);
    let named = |control| Trial::test(name(control), || Ok(()));
    let selected: Vec<&Control> = CONTROLS
        .iter()
        .filter(|control| !arguments.is_filtered_out(&named(control)))
        .collect();
    static RUNS: OnceLock<BTreeMap<&str, Judged>> = OnceLock::new();
    if !arguments.list && !selected.is_empty() {
        RUNS.get_or_init(|| judge(&selected));
    }
    let control_trials = CONTROLS.iter().map(|control| {
        Trial::test(name(control), move || {
            match RUNS.get().and_then(|runs| runs.get(control.name)) {
                Some(Ok(run)) => verdict(control, run),
                Some(Err(reason)) => Err(reason.into()),
                None => Err("the control did not run".into()),
            }
        })
    });
    let tables = [
        Trial::test(
            "the cases name their controls, and the controls their cases",
            tables_agree,
        ),
        Trial::test("every case that disturbs nobody has a control", none_without),
    ];
    let conclusion = libtest_mimic::run(&arguments, control_trials.chain(tables).collect());
    if let Some(runs) = RUNS.get() {
        print_matrix(runs);
    }
    conclusion.exit_code()
}

/// The cases that a control runs.
fn harmless() -> Vec<&'static Case> {
    cases::all().filter(|case| case.impact != Impact::Disruptive).collect()
}

/// The cases that must fail on a control.
fn expected(control: &Control) -> BTreeSet<&'static str> {
    let all = harmless()
        .into_iter()
        .filter(|case| case.profile != Profile::Kubernetes);
    match control.fails {
        Fails::Only(ids) => ids.iter().copied().collect(),
        Fails::AllBut(ids) => all.map(|case| case.id.0).filter(|id| !ids.contains(id)).collect(),
    }
}

/// The ids with a verdict.
fn with(run: &Run, verdict: VerdictName) -> BTreeSet<&str> {
    let cases = run.cases.iter().filter(|case| case.verdict == verdict);
    cases.map(|case| case.id.as_str()).collect()
}

/// Whether exactly the named cases failed, and every other case could be judged.
fn verdict(control: &Control, run: &Run) -> Result<(), Failed> {
    let (expected, failed) = (expected(control), with(run, VerdictName::Fail));
    let mut complaints: Vec<String> = Vec::new();
    complaints.extend(run.aborted.as_ref().map(|abort| format!("aborted: {}", abort.message)));
    complaints.extend(run.left_behind.iter().map(|left| format!("left behind: {left}")));
    complaints.extend(expected.difference(&failed).map(|id| format!("{id} does not fail")));
    for case in &run.cases {
        let actual = case.actual.as_deref().or(case.reason.as_deref()).unwrap_or_default();
        match case.verdict {
            VerdictName::Pass | VerdictName::Unsupported | VerdictName::Skipped => {}
            VerdictName::Fail if expected.contains(case.id.as_str()) => {}
            VerdictName::Fail | VerdictName::Error | VerdictName::Blocked => {
                complaints.push(format!("{} is not to {}: {actual}", case.id, case.verdict));
            }
        }
    }
    if complaints.is_empty() {
        Ok(())
    } else {
        Err(complaints.join("\n").into())
    }
}

/// Runs the controls: those that leave the servers as they are over one cluster in turn, the others over one each.
fn judge(selected: &[&'static Control]) -> BTreeMap<&'static str, Judged> {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("the runtime must start");
    runtime.block_on(async {
        if let Some(missing) = surroundings::missing_for(TargetKind::Processes).await {
            let all = selected.iter().map(|control| (control.name, Err(missing.clone())));
            return all.collect();
        }
        let run_id = new_run_id();
        // One for all: a run that begins after the signal ends at once.
        let interrupted = surroundings::interrupted().boxed_local().shared();
        let starting = Arc::new(tokio::sync::Mutex::new(()));
        let (lending, own): (Vec<&Control>, Vec<&Control>) = selected.iter().partition(|control| control.lends());
        let lent = async {
            let mut judged = Vec::new();
            if lending.is_empty() {
                return judged;
            }
            let base: Arc<dyn Target> = Arc::new(ProcessesTarget::new(options(&format!("{run_id}-lent"), &[])));
            let prepared = {
                let _one_at_a_time = starting.lock().await;
                base.prepare(&Progress::silent()).await
            };
            for control in lending {
                let target = Broken::new(base.clone(), control.wrong, true, starting.clone());
                judged.push((
                    control.name,
                    match &prepared {
                        Ok(_) => Ok(run(control, target, &run_id, interrupted.clone()).await),
                        Err(error) => Err(format!("the cluster could not be made: {error}")),
                    },
                ));
            }
            if let (Err(error), Some((_, last))) = (base.release().await, judged.last_mut()) {
                *last = Err(error.to_string());
            }
            judged
        };
        let owned = futures::stream::iter(own)
            .map(|control| {
                let options = options(&format!("{run_id}-{}", control.name), control.conf);
                let inner = Arc::new(ProcessesTarget::new(options));
                let target = Broken::new(inner, control.wrong, false, starting.clone());
                let (run_id, interrupted) = (&run_id, interrupted.clone());
                async move { (control.name, Ok(run(control, target, run_id, interrupted).await)) }
            })
            .buffer_unordered(AT_ONCE - 1)
            .collect::<Vec<_>>();
        let (lent, owned) = tokio::join!(lent, owned);
        lent.into_iter().chain(owned).collect()
    })
}

/// What the servers of a control are started with.
fn options(run_id: &str, conf: &[(usize, &str)]) -> ProcessesOptions {
    ProcessesOptions {
        redis_conf: REDIS_CONF.into(),
        source: "tests/controls.rs".into(),
        server: PathBuf::from("redis-server"),
        password: Some(Secret::new(PASSWORD)),
        shape: Shape {
            masters: 3,
            replicas_per_master: 1,
        },
        run_id: run_id.into(),
        timing: Timing::new(Duration::from_secs(1)),
        keep: false,
        alterations: conf
            .iter()
            .map(|(node, directive)| Alteration {
                node: *node,
                directives: vec![(*directive).into()],
            })
            .collect(),
    }
}

async fn run(control: &Control, target: Broken, run_id: &str, interrupted: impl Future<Output = ()>) -> Run {
    let began = Instant::now();
    let mut overrides = OVERRIDES.to_vec();
    overrides.extend_from_slice(control.overrides);
    let options = Options {
        cases: harmless(),
        allow_disruptive: false,
        out: None,
        strictness: Strictness::default(),
        run_id: format!("{run_id}-{}", control.name),
        overrides,
        colour: false,
    };
    let run = runner::run(Arc::new(target), &options, &Progress::silent(), interrupted, &|_| {}).await;
    eprintln!("{}: {:.1} s", control.name, began.elapsed().as_secs_f64());
    run
}

/// Every case that a control can run names exactly the controls that name it.
fn tables_agree() -> Result<(), Failed> {
    let mut complaints = Vec::new();
    for case in cases::all() {
        let named: BTreeSet<&str> = case.controls.iter().copied().collect();
        let naming: BTreeSet<&str> = CONTROLS
            .iter()
            .filter(|control| expected(control).contains(case.id.0))
            .map(|control| control.name)
            .collect();
        if named != naming || named.len() != case.controls.len() {
            let list: Vec<String> = naming.iter().map(|name| format!("{name:?}")).collect();
            complaints.push(format!("{}: controls: &[{}],", case.id, list.join(", ")));
        }
    }
    for control in CONTROLS {
        let known = |id: &&str| harmless().iter().any(|case| case.id.0 == *id);
        let (Fails::Only(ids) | Fails::AllBut(ids)) = control.fails;
        let unknown = ids.iter().filter(|id| !known(id));
        complaints.extend(unknown.map(|id| format!("{}: {id} is no case that a control runs", control.name)));
    }
    if complaints.is_empty() {
        Ok(())
    } else {
        Err(complaints.join("\n").into())
    }
}

/// The cases that no control makes fail for a reason of their own: a node that cannot be asked at all does not count.
/// What asks the Kubernetes API cannot be shown on servers of loopback.
fn without() -> Vec<&'static str> {
    let own_reason = |control: &&Control| matches!(control.fails, Fails::Only(_));
    let covered: BTreeSet<&str> = CONTROLS.iter().filter(own_reason).flat_map(expected).collect();
    let core = harmless()
        .into_iter()
        .filter(|case| case.profile != Profile::Kubernetes);
    core.map(|case| case.id.0).filter(|id| !covered.contains(id)).collect()
}

fn none_without() -> Result<(), Failed> {
    let without = without();
    if without.is_empty() {
        Ok(())
    } else {
        Err(format!("without a control: {}", without.join(", ")).into())
    }
}

fn print_matrix(runs: &BTreeMap<&str, Judged>) {
    eprintln!("control: the cases that fail on it");
    for control in CONTROLS {
        let Some(judged) = runs.get(control.name) else {
            continue;
        };
        let shown = match judged {
            Ok(run) => with(run, VerdictName::Fail).into_iter().collect::<Vec<_>>().join(" "),
            Err(reason) => reason.clone(),
        };
        eprintln!("  {:<32} {shown}", control.name);
    }
    let elsewhere: Vec<&str> = cases::all()
        .map(|case| case.id.0)
        .filter(|id| !CONTROLS.iter().any(|control| expected(control).contains(id)))
        .collect();
    eprintln!("  without a control: {}", elsewhere.join(" "));
}

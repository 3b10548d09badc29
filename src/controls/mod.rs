//! Controls: deployments that are deliberately wrong. Each is judged as any deployment is, and exactly the cases that
//! name it must fail: the proof that the cases can fail, and that they fail for nothing else.
//!
//! A control is made over servers on loopback, with a short node-timeout, since all bounds follow it. It runs every case
//! that leaves the deployment as it is, and of the others those that name it. The single source of what must fail is the
//! field `controls` of each case. One file a chapter holds the chapter's controls; nodes 0 to 2 are the masters of slots
//! 0-5460, 5461-10922 and 10923-16383, nodes 3 to 5 their replicas in that order.

mod authentication;
mod bootstrap;
mod broken;
mod consistency;
mod failover;
mod general;
mod hash;
pub mod manifests;
mod multi;
mod networking;
mod operations;
mod partitions;
mod persistence;
mod platform;
mod proxy;
mod redirection;
mod replication;
mod replies;
mod sharding;
mod slots;
mod states;
mod topology;

use self::broken::{Broken, Wrong};
use crate::case::{Capability, Case, Impact};
use crate::cases;
use crate::progress::Progress;
use crate::report::Run;
use crate::runner::{self, Options};
use crate::surroundings;
use crate::target::processes::{ProcessesOptions, ProcessesTarget};
use crate::target::{Alteration, Secret, Target, TargetKind};
use crate::timing::Timing;
use crate::verdict::VerdictName;
use futures::{FutureExt, StreamExt};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A short node-timeout, since bounds follow it; no wait for further replicas before a synchronisation; every node
/// stays where the control put it.
const REDIS_CONF: &str = "cluster-enabled yes\ncluster-node-timeout 1000\nrepl-diskless-sync-delay 0\n\
                          cluster-allow-replica-migration no\nprotected-mode no\nappendonly yes\nsave \"\"\n";

/// The password of every server. It has letters of both cases: so there is another that differs in case only.
const PASSWORD: &str = "Controls-of-the-Suite";

/// Limits that the surroundings or patience set, not the protocol: here they are what loopback needs.
const OVERRIDES: [(&str, Duration); 6] = [
    ("T_sched", Duration::from_secs(1)),
    ("T_names", Duration::from_secs(1)),
    ("T_hook", Duration::from_secs(2)),
    ("T_sync", Duration::from_secs(2)),
    ("T_arrange", Duration::from_secs(15)),
    // Every control runs it: what is wrong shows at once.
    ("T_soak", Duration::from_secs(3)),
];

/// How many controls that need a cluster of their own exist at once.
const OWN_AT_ONCE: usize = 2;
/// How many clusters serve, one control after another, those controls that leave their servers as they are.
const LENT_AT_ONCE: usize = 2;

/// A deployment that is deliberately wrong.
#[derive(Clone, Copy)]
pub struct Control {
    /// Its name, as cases give it.
    pub name: &'static str,
    /// What is wrong.
    pub what: &'static str,
    /// A node cannot be asked at all: almost everything fails, and so it proves nothing about a single case.
    pub blunt: bool,
    /// Lines of redis.conf, of single nodes or of all.
    conf: &'static [(Option<usize>, &'static str)],
    /// Lines of redis.conf of the servers that cases make beside the deployment.
    scratch_conf: &'static [(Option<usize>, &'static str)],
    /// What is done to the cluster, to its replies, or to faults.
    wrong: Wrong,
    /// What cases about a platform ask for, and what is wrong stands in for.
    grants: &'static [Capability],
    /// Time limits of its own.
    overrides: &'static [(&'static str, Duration)],
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A control that is all as it should be; the others say where they differ.
const GOOD: Control = Control {
    name: "good",
    what: "nothing is wrong",
    blunt: false,
    conf: &[],
    scratch_conf: &[],
    wrong: Wrong::Nothing,
    grants: &[],
    overrides: &[],
};

/// The controls, a table a chapter.
static TABLES: &[&[Control]] = &[
    general::CONTROLS,
    bootstrap::CONTROLS,
    slots::CONTROLS,
    replication::CONTROLS,
    authentication::CONTROLS,
    hash::CONTROLS,
    redirection::CONTROLS,
    multi::CONTROLS,
    failover::CONTROLS,
    partitions::CONTROLS,
    consistency::CONTROLS,
    sharding::CONTROLS,
    topology::CONTROLS,
    persistence::CONTROLS,
    networking::CONTROLS,
    operations::CONTROLS,
    platform::CONTROLS,
];

/// Every control.
pub fn all() -> impl Iterator<Item = &'static Control> {
    TABLES.iter().flat_map(|table| table.iter())
}

impl Control {
    /// The cases that must fail on it: those that name it.
    pub fn expected(&self) -> BTreeSet<&'static str> {
        cases::all()
            .filter(|case| case.controls.contains(&self.name))
            .map(|case| case.id.0)
            .collect()
    }

    /// The cases that it runs: those that leave the deployment as it is, and those that name it.
    fn cases(&self) -> Vec<&'static Case> {
        cases::all()
            .filter(|case| case.impact < Impact::Apart || case.controls.contains(&self.name))
            .collect()
    }

    /// Whether it leaves its servers as they were: such controls share a cluster.
    fn lends(&self) -> bool {
        let disruptive = self.cases().iter().any(|case| case.impact == Impact::Disruptive);
        self.conf.is_empty() && !matches!(self.wrong, Wrong::State(_)) && !disruptive
    }

    fn alterations(table: &[(Option<usize>, &str)]) -> Vec<Alteration> {
        table
            .iter()
            .map(|(node, directive)| Alteration {
                node: *node,
                directives: vec![(*directive).into()],
            })
            .collect()
    }
}

/// The cases that no control makes fail for a reason of their own. What asks the Kubernetes API cannot be shown on
/// servers of loopback, and is not counted.
pub fn cases_without() -> Vec<&'static str> {
    let own: BTreeSet<&str> = all()
        .filter(|control| !control.blunt)
        .map(|control| control.name)
        .collect();
    cases::all()
        .filter(|case| on_loopback(case))
        .filter(|case| !case.controls.iter().any(|name| own.contains(name)))
        .map(|case| case.id.0)
        .collect()
}

/// Whether a case can be shown on servers of loopback at all.
fn on_loopback(case: &Case) -> bool {
    let kubernetes = [Capability::Kubernetes, Capability::Variant, Capability::BlockBus];
    !case.needs.iter().any(|need| kubernetes.contains(need))
}

/// The names that cases give of controls that do not exist, and the names of controls given twice.
pub fn misnamed() -> Vec<String> {
    let mut known = BTreeSet::new();
    let mut found: Vec<String> = all()
        .filter(|control| !known.insert(control.name))
        .map(|control| format!("two controls are named {}", control.name))
        .collect();
    for case in cases::all() {
        let there = |name: &&str| known.contains(name) || manifests::what(name).is_some();
        let unknown = case.controls.iter().filter(|name| !there(name));
        found.extend(unknown.map(|name| format!("{} names {name}: there is no such control", case.id)));
    }
    found
}

/// What was seen of a control.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// Its name.
    pub control: &'static str,
    /// What is wrong on it.
    pub what: &'static str,
    /// The cases that must fail.
    pub expected: BTreeSet<&'static str>,
    /// The cases that failed.
    pub failed: BTreeSet<String>,
    /// What each of them expected and saw: a case must fail for its own reason, not for whatever else is wrong.
    pub reasons: BTreeMap<String, String>,
    /// What is not as it must be, one sentence each: a case that does not fail, one that is not to, an error.
    pub complaints: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Judged {
    fn of(control: &Control, run: &Run, seconds: f64) -> Self {
        let expected = control.expected();
        let failed: BTreeSet<String> = run
            .cases
            .iter()
            .filter(|case| case.verdict == VerdictName::Fail)
            .map(|case| case.id.clone())
            .collect();
        let failing = run.cases.iter().filter(|case| failed.contains(&case.id));
        let reasons = failing.map(|case| {
            let (expected, actual) = (case.expected.join(" or "), case.actual.as_deref().unwrap_or_default());
            (case.id.clone(), format!("expected {expected}; saw {actual}"))
        });
        let reasons = reasons.collect();
        let mut complaints: Vec<String> = Vec::new();
        complaints.extend(run.aborted.as_ref().map(|abort| format!("aborted: {}", abort.message)));
        complaints.extend(run.left_behind.iter().map(|left| format!("left behind: {left}")));
        for case in &run.cases {
            let actual = case.actual.as_deref().or(case.reason.as_deref()).unwrap_or_default();
            let is_expected = expected.contains(case.id.as_str());
            match case.verdict {
                VerdictName::Fail if is_expected => {}
                VerdictName::Pass | VerdictName::Unsupported | VerdictName::Skipped if !is_expected => {}
                verdict if is_expected => complaints.push(format!("{} does not fail: {verdict} {actual}", case.id)),
                verdict => complaints.push(format!("{} is not to {verdict}: {actual}", case.id)),
            }
        }
        Self {
            control: control.name,
            what: control.what,
            expected,
            failed,
            reasons,
            complaints,
            seconds: (seconds * 10.0).round() / 10.0,
        }
    }

    fn broken(control: &Control, reason: &str) -> Self {
        Self {
            control: control.name,
            what: control.what,
            expected: control.expected(),
            failed: BTreeSet::new(),
            reasons: BTreeMap::new(),
            complaints: vec![reason.into()],
            seconds: 0.0,
        }
    }
}

/// Judges controls: those that leave their servers as they are over one cluster in turn, the others over one each. The
/// result is in their order.
pub async fn judge(selected: &[&'static Control], progress: &Progress) -> Vec<Judged> {
    if let Some(missing) = surroundings::missing_for(TargetKind::Processes).await {
        return selected
            .iter()
            .map(|control| Judged::broken(control, &missing))
            .collect();
    }
    let run_id = crate::request::new_run_id();
    // One for all: a run that begins after the signal ends at once.
    let interrupted = surroundings::interrupted().boxed_local().shared();
    let (lending, own): (Vec<&Control>, Vec<&Control>) = selected.iter().partition(|control| control.lends());
    let queue = std::cell::RefCell::new(lending.into_iter());
    let lanes = (0..LENT_AT_ONCE).map(|lane| {
        let (queue, run_id, interrupted) = (&queue, &run_id, interrupted.clone());
        async move {
            let mut judged = Vec::new();
            let mut base: Option<Arc<ProcessesTarget>> = None;
            loop {
                let Some(control) = queue.borrow_mut().next() else {
                    break;
                };
                if base.is_none() {
                    let made = Arc::new(ProcessesTarget::new(options(&format!("{run_id}-lent{lane}"), &[])));
                    if let Err(error) = made.prepare(&Progress::silent()).await {
                        judged.push(Judged::broken(
                            control,
                            &format!("the cluster could not be made: {error}"),
                        ));
                        continue;
                    }
                    base = Some(made);
                }
                let Some(inner) = base.clone() else { break };
                let target = Broken::new(inner, control.wrong, true, Control::alterations(control.scratch_conf))
                    .granting(control.grants);
                judged.push(run(control, target, run_id, interrupted.clone(), progress).await);
            }
            if let Some(base) = base
                && let (Err(error), Some(last)) = (base.release().await, judged.last_mut())
            {
                last.complaints.push(error.to_string());
            }
            judged
        }
    });
    let lent = futures::future::join_all(lanes);
    let owned = futures::stream::iter(own)
        .map(|control| {
            let options = options(&format!("{run_id}-{}", control.name), control.conf);
            let inner = Arc::new(ProcessesTarget::new(options));
            let target = Broken::new(inner, control.wrong, false, Control::alterations(control.scratch_conf))
                .granting(control.grants);
            run(control, target, &run_id, interrupted.clone(), progress)
        })
        .buffer_unordered(OWN_AT_ONCE)
        .collect::<Vec<_>>();
    let (lent, owned) = tokio::join!(lent, owned);
    let mut judged: Vec<Judged> = lent.into_iter().flatten().chain(owned).collect();
    judged.sort_by_key(|judged| selected.iter().position(|control| control.name == judged.control));
    judged
}

/// What the servers of a control are started with.
fn options(run_id: &str, conf: &[(Option<usize>, &str)]) -> ProcessesOptions {
    // In memory: a second at the disk is a failure at this node-timeout.
    let timing = Timing::new(Duration::from_secs(1));
    ProcessesOptions {
        password: Some(Secret::new(PASSWORD)),
        alterations: Control::alterations(conf),
        ..ProcessesOptions::new(REDIS_CONF, "the suite's controls", run_id, timing)
    }
}

async fn run(
    control: &Control,
    target: Broken,
    run_id: &str,
    interrupted: impl Future<Output = ()>,
    progress: &Progress,
) -> Judged {
    let began = Instant::now();
    let mut overrides = OVERRIDES.to_vec();
    overrides.extend_from_slice(control.overrides);
    let options = Options {
        cases: control.cases(),
        run_id: format!("{run_id}-{}", control.name),
        overrides,
        heedless: true,
        ..Options::default()
    };
    let run = runner::run(Arc::new(target), &options, &Progress::silent(), interrupted, &|_| {}).await;
    let judged = Judged::of(control, &run, began.elapsed().as_secs_f64());
    progress.line(format!(
        "{:<32} {:>5.1} s  {}",
        judged.control,
        judged.seconds,
        if judged.complaints.is_empty() {
            format!("{} cases fail, as they must", judged.failed.len())
        } else {
            format!("not as it must be: {}", judged.complaints.join("; "))
        }
    ));
    judged
}

/// The matrix: each control with the cases that must fail on it, marked where what was seen differs.
pub fn matrix(judged: &[Judged]) -> String {
    let mut text =
        String::from("control: the cases that fail on it (+ fails and is not to, - does not fail and must)\n");
    for row in judged {
        let mut cells: Vec<String> = Vec::new();
        let all: BTreeSet<&str> = row
            .expected
            .iter()
            .copied()
            .chain(row.failed.iter().map(String::as_str))
            .collect();
        for id in all {
            let mark = match (row.expected.contains(id), row.failed.contains(id)) {
                (true, false) => "-",
                (false, true) => "+",
                (true, true) | (false, false) => "",
            };
            cells.push(format!("{mark}{id}"));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<32} {}", row.control, cells.join(" "));
    }
    let without = cases_without();
    let cases = cases::all().filter(|case| on_loopback(case)).count();
    let _ = writeln!(
        text,
        "{} controls, {} not as they must be; {cases} cases that need no Kubernetes, {} without a control{}{}",
        judged.len(),
        judged.iter().filter(|judged| !judged.complaints.is_empty()).count(),
        without.len(),
        if without.is_empty() { "" } else { ": " },
        without.join(" ")
    );
    // Last, where a log that is cut short still has it.
    for row in judged.iter().filter(|row| !row.complaints.is_empty()) {
        let _ = writeln!(
            text,
            "  {} is not as it must be: {}",
            row.control,
            row.complaints.join("; ")
        );
    }
    text
}

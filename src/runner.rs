//! The engine: selects cases, brings the target up, runs them in an order that hurts none, and makes a [`Run`] of it.
//!
//! Read-only and writing cases run at once, then those on servers beside the deployment, a few at a time; disruptive ones
//! alone and after them, each followed by a wait for a whole cluster; altered copies of the deployment come last. The
//! results are handed out after every case, so that a killed run leaves a report too.

mod record;
mod trial_runs;

use crate::budget::Costs;
use crate::case::{Capability, Case, CaseId, Impact};
use crate::cluster::connection::LinkError;
use crate::cluster::view::Shape;
use crate::context::ending::{self, Ended};
use crate::context::{Context, Shared};
use crate::evidence;
use crate::picture;
use crate::progress::Progress;
use crate::report::known::Listed;
use crate::report::picture::Picture;
use crate::report::scorecard::Scorecard;
use crate::report::visible;
use crate::report::{Abort, AbortKind, CaseResult, Run, Server, Strictness};
use crate::settle;
use crate::target::{Phase, Target, TargetError};
use crate::timeline::{self};
use crate::timing::Timing;
use crate::trials::Trials;
use crate::verdict::{Mismatch, Outcome, Stop, Verdict, VerdictName};
use futures::{FutureExt, StreamExt};
use record::{redact_all, without};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How many cases that disturb nobody run at once.
pub(crate) const AT_ONCE: usize = 8;
/// How many cases at once make servers of their own beside the deployment.
pub(crate) const SCRATCHES_AT_ONCE: usize = 3;
/// How many altered copies of the deployment exist at once.
const COPIES_AT_ONCE: usize = 2;
/// No case may take longer, on a deployment of a few nodes: a watchdog against a case that waits without a bound, never
/// reached by one that has one.
const LONGEST_CASE: Duration = Duration::from_secs(900);
/// What a case may take beside its waits for one node after another.
const BESIDE_NODES: Duration = Duration::from_secs(300);

/// How long cases may take to put back what they have altered, once there was an interrupt.
const LONGEST_ENDING: Duration = Duration::from_secs(60);

/// How long a write may be under way whose writer is gone.
const LAST_WRITE: Duration = Duration::from_millis(500);

/// How long evidence of one case may take to gather, with everything that the platform has to say.
const LONGEST_GATHERING: Duration = Duration::from_secs(90);

/// How long the nodes may take to tell what the cluster is, with Kubernetes on where they are.
const LONGEST_PICTURE: Duration = Duration::from_secs(30);

/// What a run is asked for; by default nothing.
#[derive(Default)]
pub struct Options {
    /// The cases, in the catalogue's order.
    pub cases: Vec<&'static Case>,
    /// Those of them that are not run, and why: they are reported as skipped.
    pub left_out: BTreeMap<CaseId, String>,
    /// Whether disruptive cases may run on a deployment that the run did not make.
    pub allow_disruptive: bool,
    /// Where evidence goes, as `evidence/<id>/`, where it goes anywhere.
    pub out: Option<PathBuf>,
    /// What counts.
    pub strictness: Strictness,
    /// The failures that are known.
    pub known: Option<Listed>,
    /// The run's name.
    pub run_id: String,
    /// The overridden time limits.
    pub overrides: Vec<(&'static str, Duration)>,
    /// Whether progress lines are coloured.
    pub colour: bool,
    /// A fault to be done several times, and measured, after the cases.
    pub trials: Option<Trials>,
    /// Whether a disruptive case runs though the cluster is not whole before it. Only for deployments that are wrong on
    /// purpose: elsewhere one case's damage would be the next one's failure.
    pub heedless: bool,
}

/// A run in the making.
struct Recorder<'a> {
    options: &'a Options,
    target: Arc<dyn Target>,
    started: jiff::Timestamp,
    state: Mutex<State>,
    update: &'a dyn Fn(&Run),
}

#[derive(Default)]
struct State {
    server: Option<Server>,
    phases: Vec<Phase>,
    results: BTreeMap<CaseId, CaseResult>,
    aborted: Option<Abort>,
    cause: Option<String>,
    left_behind: Vec<String>,
    scorecard: Option<Scorecard>,
    pictures: Vec<Picture>,
}

/// Runs the cases over the target, from its making to its removal. `interrupt` ends the run early when it completes;
/// `update` is given the run as it stands after every case.
pub async fn run(
    target: Arc<dyn Target>,
    options: &Options,
    progress: &Progress,
    interrupt: impl Future<Output = ()>,
    update: &dyn Fn(&Run),
) -> Run {
    let recorder = Recorder {
        options,
        target: target.clone(),
        started: jiff::Timestamp::now(),
        state: Mutex::default(),
        update,
    };
    let (ask, asked) = watch::channel(false);
    let interrupted = async {
        interrupt.await;
        progress.line(
            "interrupted: what cases have altered is put back, the report is written and what the run made is removed; \
             once more to give up on that",
        );
        ask.send_modify(|asked| *asked = true);
        tokio::time::sleep(LONGEST_ENDING).await;
    };
    tokio::select! {
        _ = ending::until_asked(asked, recorder.work(progress)) => {}
        () = interrupted => {}
    }
    if *ask.borrow() {
        recorder.state().aborted = Some(Abort {
            kind: AbortKind::Interrupted,
            message: "the run was interrupted by a signal".into(),
        });
    }
    recorder.clean_up(progress).await;
    let run = recorder.snapshot();
    update(&run);
    run
}

/// What keeps disruptive cases from being run: a verdict of theirs would be about something else.
struct Blocked {
    by: CaseId,
    reason: String,
    /// Whether it is the suite's own fault that lasts.
    not_undone: bool,
}

impl Blocked {
    fn verdict(&self) -> Verdict {
        Verdict::Blocked {
            by: self.by,
            reason: self.reason.clone(),
        }
    }
}

impl Recorder<'_> {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn work(&self, progress: &Progress) {
        (self.update)(&self.snapshot());
        let timing = Timing::new(Duration::from_secs(5)).with_overrides(self.options.overrides.iter().copied());
        match self.target.prepare(progress).await {
            Ok(phases) => self.state().phases.extend(phases),
            Err(error) => return self.abort(&error).await,
        }
        let probe = settle::probe(&*self.target, &timing).await;
        let timing = match probe {
            Ok(server) => {
                let timing = timing.with_node_timeout(Duration::from_millis(server.node_timeout_ms));
                progress.line(format!(
                    "{} {} on {} nodes, node-timeout {:.1} s",
                    visible(&server.product),
                    visible(&server.version),
                    server.nodes.len(),
                    timing.node_timeout().as_secs_f64()
                ));
                self.state().server = Some(server);
                timing
            }
            Err(error) => return self.abort(&error).await,
        };
        let shared = Arc::new(Shared::new(
            self.target.clone(),
            self.options.run_id.clone(),
            timing,
            progress.clone(),
        ));
        let made = self.target.deployment().filter(|_| self.target.is_ours());
        if made.is_some_and(|deployment| deployment.is_formed_beside()) {
            let what = "the cluster to be formed: that its pods are Ready does not say so";
            // What becomes of that the cases judge.
            if let Err(missing) = settle::until_whole_within(&shared, what, shared.timing.hook()).await {
                progress.line(self.redact(&format!("the cluster was not formed {}", visible(&missing))));
            }
        }
        self.picture(&shared, "before the cases").await;
        let ended = AtomicBool::new(false);
        let all = async {
            self.run_cases(&shared).await;
            ended.store(!ending::is_asked(), Ordering::Relaxed);
            Ok(())
        };
        let swept = ending::with_cleanup(all, async { self.sweep(&shared, ended.load(Ordering::Relaxed)).await });
        if let Err(Stop::Error(error)) = swept.await {
            progress.line(self.redact(&format!("keys of this run may be left: {error:#}")));
        }
        self.picture(&shared, "after the cases").await;
        let hints = evidence::hints(&*self.target).await;
        let failed = self.state().results.values().any(|result| result.actual.is_some());
        if failed {
            let view = settle::look(&shared).await.ok();
            let cause = evidence::cause(view.as_ref(), self.target.description().shape, &hints, "");
            self.state().cause = cause.map(|cause| self.redact(&cause));
        }
    }

    /// Takes away the keys that cases left which did not come to their own end, where the deployment stays.
    async fn sweep(&self, shared: &Arc<Shared>, ended: bool) -> Outcome {
        let stopped = self
            .state()
            .results
            .values()
            .any(|result| matches!(result.verdict, VerdictName::Fail | VerdictName::Error));
        if self.target.is_ours() || (ended && !stopped) {
            return Ok(());
        }
        // A writer that was dropped may still be about to write.
        tokio::time::sleep(LAST_WRITE).await;
        settle::between(shared).remove_keys_of_run().await
    }

    /// Keeps what every node says of the cluster now.
    async fn picture(&self, shared: &Arc<Shared>, moment: &str) {
        // Bounded: Kubernetes' API is asked too, and may be what is broken.
        let taken = tokio::time::timeout(LONGEST_PICTURE, picture::take(shared, moment)).await;
        if let Ok(Some(mut picture)) = taken {
            for silent in &mut picture.silent {
                silent.why = self.redact(&silent.why);
            }
            self.state().pictures.push(picture);
        }
    }

    async fn run_cases(&self, shared: &Arc<Shared>) {
        let capabilities = self.target.capabilities();
        let wanted = self
            .options
            .cases
            .iter()
            .filter(|case| !self.options.left_out.contains_key(&case.id))
            .flat_map(|case| case.features)
            .copied()
            .collect();
        let lacking = settle::lacking_features(shared, wanted).await;
        let mut harmless = Vec::new();
        let mut apart = Vec::new();
        let mut disruptive = Vec::new();
        let mut copies = Vec::new();
        let mut last = Vec::new();
        let shape = self.target.description().shape;
        for case in &self.options.cases {
            let lacking_in_shape = case.needs.iter().find_map(|need| need.lacking_in(shape));
            let missing: Vec<String> = case
                .needs
                .iter()
                .filter(|need| !need.is_of_shape() && !capabilities.contains(need))
                .map(|need| match self.target.lacks(*need) {
                    Some(reason) => format!("{} ({reason})", name_of(need)),
                    None => name_of(need),
                })
                .collect();
            if let Some(reason) = self.options.left_out.get(&case.id) {
                self.record_unrun(case, Verdict::Skipped(reason.clone()));
            } else if let Some(reason) = lacking_in_shape {
                self.record_unrun(case, Verdict::Unsupported(reason.into()));
            } else if !missing.is_empty() {
                let reason = format!("the target cannot do this: {}", missing.join(", "));
                self.record_unrun(case, Verdict::Unsupported(reason));
            } else if let Some(reason) = case.features.iter().find_map(|feature| lacking.get(feature)) {
                self.record_unrun(case, Verdict::Unsupported(reason.clone()));
            } else if case.impact == Impact::Disruptive && !self.target.is_ours() && !self.options.allow_disruptive {
                let reason = "disruptive, on a deployment that the run did not make; --allow-disruptive runs it";
                self.record_unrun(case, Verdict::Skipped(reason.into()));
            } else if case.needs.contains(&Capability::Upgrade) {
                // Nothing brings the old version back for those that come after it.
                last.insert(0, *case);
            } else if case.id.0 == "OPS-16" {
                last.push(*case);
            } else if case.needs.contains(&Capability::Variant) {
                copies.push(*case);
            } else if case.impact == Impact::Disruptive {
                disruptive.push(*case);
            } else if case.impact == Impact::Apart {
                apart.push(*case);
            } else {
                harmless.push(*case);
            }
        }
        let began = Instant::now();
        let count = harmless.len();
        futures::stream::iter(harmless)
            .for_each_concurrent(AT_ONCE, |case| self.run_one(shared, case))
            .await;
        self.phase(&format!("{count} cases that disturb nobody"), began);
        let began = Instant::now();
        let count = apart.len();
        // The longest first: begun last, it would be waited for alone.
        let costs = Costs::default();
        apart.sort_by(|one, other| costs.of(other).total_cmp(&costs.of(one)));
        futures::stream::iter(apart)
            .for_each_concurrent(SCRATCHES_AT_ONCE, |case| self.run_one(shared, case))
            .await;
        if count > 0 {
            self.phase(&format!("{count} cases on servers beside the deployment"), began);
        }
        let blocked = self.run_disruptive(shared, disruptive).await;
        let began = Instant::now();
        let count = copies.len();
        futures::stream::iter(copies)
            .for_each_concurrent(COPIES_AT_ONCE, |case| self.run_one(shared, case))
            .await;
        if count > 0 {
            self.phase(&format!("{count} cases on altered copies of the deployment"), began);
        }
        self.run_trials(shared).await;
        for case in last {
            let whole = case.id.0 == "OPS-16";
            match &blocked {
                // That the cluster was whole after each is judged, unless the suite itself kept it from being so.
                Some(blocked) if !whole || blocked.not_undone => self.record_unrun(case, blocked.verdict()),
                Some(_) | None => self.run_one(shared, case).await,
            }
        }
    }

    /// Runs disruptive cases one after another; the cluster must be whole before each. Gives what keeps others from being run
    /// after them.
    async fn run_disruptive(&self, shared: &Arc<Shared>, cases: Vec<&'static Case>) -> Option<Blocked> {
        if cases.is_empty() {
            return None;
        }
        let began = Instant::now();
        let count = cases.len();
        let settled = |place: String, wait: Result<Duration, String>| {
            shared
                .settled
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push((place, wait));
        };
        let before = if self.options.heedless {
            Ok(())
        } else {
            settle::until_whole(shared, "a whole cluster before the first disruptive case").await
        };
        let mut blocked = before.err().map(|missing| {
            settled("before the first disruptive case".into(), Err(missing.clone()));
            Blocked {
                by: CaseId("OPS-16"),
                reason: format!("the cluster was not whole before the first disruptive case: {missing}"),
                not_undone: false,
            }
        });
        for case in cases {
            if let Some(blocked) = blocked.as_ref().filter(|_| !self.options.heedless) {
                self.record_unrun(case, blocked.verdict());
                continue;
            }
            self.run_one(shared, case).await;
            if ending::is_asked() {
                // The clean-up of the run undoes its faults.
                return None;
            }
            if let Err(error) = self.target.undo_faults().await {
                let reason = self.redact(&format!("its fault could not be undone: {error}"));
                self.record_not_undone(&shared.progress, case, &reason);
                blocked = Some(Blocked {
                    by: case.id,
                    reason,
                    not_undone: true,
                });
                continue;
            }
            let waited = Instant::now();
            let whole = settle::until_whole(shared, &format!("a whole cluster after {}", case.id)).await;
            if let Err(missing) = &whole {
                blocked = Some(Blocked {
                    by: case.id,
                    reason: format!("the cluster was not whole after it: {missing}"),
                    not_undone: false,
                });
            }
            settled(format!("after {}", case.id), whole.map(|()| waited.elapsed()));
        }
        self.phase(
            &format!("{count} disruptive cases, each until the cluster is whole"),
            began,
        );
        blocked.filter(|_| !self.options.heedless)
    }

    async fn run_one(&self, shared: &Arc<Shared>, case: &'static Case) {
        let began = Instant::now();
        let context = Context::new(shared.clone(), case);
        let limit = longest_case(self.target.description().shape, &shared.timing);
        let body = AssertUnwindSafe(ending::within(limit, observed(&context, case))).catch_unwind();
        let outcome: Outcome = match body.await {
            Ok(Ended::With(outcome)) => judged(case, outcome),
            // Nothing is known of it, as of those that were not begun.
            Ok(Ended::Interrupted) => return,
            Ok(Ended::TooLate { cleaned_up }) => Err(Stop::Error(anyhow::anyhow!(
                "the case did not end within {} s{}",
                limit.as_secs(),
                match cleaned_up {
                    true => "",
                    false => ", and its clean-ups not in as much again: what it had altered may have stayed",
                }
            ))),
            Err(panic) => Err(Stop::Error(anyhow::anyhow!(
                "the case panicked: {}",
                panic_text(&*panic)
            ))),
        };
        let seconds = began.elapsed().as_secs_f64();
        let secrets = shared
            .secrets
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let verdict = without(&secrets, Verdict::from(outcome));
        let mut result = self.result(case, &verdict, seconds);
        let timeline = context.timeline().clone();
        let (measured, notes) = context.into_records();
        result.measured = measured;
        result.notes = notes
            .iter()
            .map(|note| redact_all(&secrets, &self.redact(note)))
            .collect();
        let not_passed = matches!(verdict, Verdict::Fail(_) | Verdict::Error(_));
        if not_passed || case.impact == Impact::Disruptive {
            let told = self.told(&timeline, &secrets).await;
            if not_passed {
                self.gather(shared, case, &verdict, &mut result, &told).await;
            }
            self.keep_timeline(case, &mut result, &told);
            let clean = |text: &str| redact_all(&secrets, &self.redact(text));
            result.course = timeline.course(&told.entries, clean);
        }
        self.record(shared.progress.clone(), result);
        let left: Vec<_> = {
            let mut copies = shared.copies.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            copies.extract_if(.., |(owner, _)| *owner == case.id).collect()
        };
        for (_, copy) in left {
            if let Err(error) = copy.remove().await {
                self.state().left_behind.push(error.to_string());
            }
        }
        let left: Vec<_> = {
            let mut scratches = shared
                .scratches
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            scratches.extract_if(.., |(owner, _)| *owner == case.id).collect()
        };
        for (_, beside) in left {
            if let Err(error) = beside.target.release().await {
                self.state().left_behind.push(error.to_string());
            }
        }
    }

    async fn abort(&self, error: &TargetError) {
        let kind = match error {
            TargetError::Usage(_) => AbortKind::Usage,
            TargetError::NotDeployed(_)
            | TargetError::NotAllowed(_)
            | TargetError::Surroundings(_)
            | TargetError::Link(_) => AbortKind::Target,
        };
        let message = self.redact(&error.to_string());
        self.state().aborted = Some(Abort { kind, message });
        if let Some(out) = &self.options.out {
            let folder = out.join("evidence/target");
            if tokio::fs::create_dir_all(&folder).await.is_ok() {
                // Bounded: the platform may be what is broken.
                let _ = tokio::time::timeout(Duration::from_secs(30), self.target.collect_evidence(&folder)).await;
            }
        }
    }

    /// Removes what the run made. A second interrupt ends the program.
    async fn clean_up(&self, progress: &Progress) {
        let began = Instant::now();
        if let Err(error) = self.target.undo_faults().await {
            self.state().left_behind.push(self.redact(&error.to_string()));
        }
        if let Err(error) = self.target.release().await {
            self.state().left_behind.push(self.redact(&error.to_string()));
        }
        if let Some(reason) = self.target.spoilt() {
            let message = self.redact(&reason);
            progress.line(visible(&message));
            self.state().aborted = Some(Abort {
                kind: AbortKind::Target,
                message,
            });
        }
        for line in &self.state().left_behind {
            progress.line(format!("left behind: {}", visible(line)));
        }
        if began.elapsed() > Duration::from_secs(1) {
            self.phase("clean-up", began);
        }
    }
}

/// How long a case may take. The longest bounds wait for each node in turn, until all are in step again; what such a case
/// arranges and puts back may take as long again.
fn longest_case(shape: Shape, timing: &Timing) -> Duration {
    let nodes = u32::try_from(shape.nodes()).unwrap_or(u32::MAX);
    let in_turn = timing.returned().saturating_mul(nodes).saturating_mul(2);
    LONGEST_CASE.max(in_turn.saturating_add(timing.soak() + BESIDE_NODES))
}

/// Runs a case; where it is disruptive, what each node says meanwhile is observed.
async fn observed(context: &Context, case: &Case) -> Outcome {
    let body = (case.run)(context);
    if case.impact != Impact::Disruptive {
        return body.await;
    }
    timeline::observe(context, body).await
}

/// A server that hangs up, stays silent or answers nonsense has said something of itself, as in
/// [`Context::judge_every_node`]: where the case does nothing to it, that is a mismatch. A broken way to it says nothing.
fn judged(case: &Case, outcome: Outcome) -> Outcome {
    match outcome {
        Err(Stop::Error(error)) if case.impact < Impact::Apart => match error.downcast_ref::<LinkError>() {
            Some(
                LinkError::Refused { .. }
                | LinkError::Closed { .. }
                | LinkError::TimedOut { .. }
                | LinkError::Nonsense { .. },
            ) => Err(Mismatch::new("a reply of the documented form from every server", format!("{error:#}")).into()),
            Some(LinkError::Unreachable { .. }) | None => Err(Stop::Error(error)),
        },
        other => other,
    }
}

fn name_of(capability: &Capability) -> String {
    serde_json::to_value(capability)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::one_node(1, 0, 5, &[], 900)]
    #[case::few_nodes(3, 1, 5, &[], 1326)]
    #[case::a_dozen(6, 1, 5, &[], 2292)]
    #[case::a_dozen_that_are_slow_to_notice(6, 1, 15, &[], 2772)]
    #[case::pods_that_are_slow_to_come(3, 1, 5, &[("T_sched", 120)], 2046)]
    #[case::a_long_soak(1, 0, 5, &[("T_soak", 3600)], 4061)]
    fn no_case_is_ended_before_its_bound(
        #[case] masters: usize,
        #[case] replicas_per_master: usize,
        #[case] node_timeout: u64,
        #[case] overrides: &[(&'static str, u64)],
        #[case] seconds: u64,
    ) {
        let overrides = overrides
            .iter()
            .map(|(name, limit)| (*name, Duration::from_secs(*limit)));
        let timing = Timing::new(Duration::from_secs(node_timeout)).with_overrides(overrides);
        let shape = Shape {
            masters,
            replicas_per_master,
        };
        assert_eq!(longest_case(shape, &timing).as_secs(), seconds);
    }
}

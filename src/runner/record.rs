//! What is kept of a run while it goes on: verdicts made into results, their evidence, and the run as it stands.

use super::{LONGEST_GATHERING, Recorder};
use crate::case::Case;
use crate::context::Shared;
use crate::evidence;
use crate::progress::Progress;
use crate::report::known::KnownFailing;
use crate::report::{self, Abort, AbortKind, CaseResult, Run, SCHEMA_VERSION, Suite, Summary};
use crate::settle;
use crate::target::{Phase, Secret};
use crate::timeline::Timeline;
use crate::verdict::{Mismatch, Verdict, VerdictName};
use std::sync::Arc;
use std::time::Instant;

impl Recorder<'_> {
    /// A case's timeline, with what Kubernetes has to say of its time, and with nothing secret.
    pub(super) async fn told(&self, timeline: &Timeline, secrets: &[Secret]) -> evidence::Told {
        timeline.note_events(&evidence::events(&*self.target).await);
        let mut entries = timeline.entries();
        for entry in &mut entries {
            entry.what = redact_all(secrets, &self.redact(&entry.what));
        }
        evidence::Told {
            began: timeline.clock(),
            entries,
        }
    }

    /// Writes down what happened when, where that is not done yet with the other evidence.
    pub(super) fn keep_timeline(&self, case: &Case, result: &mut CaseResult, told: &evidence::Told) {
        let Some(out) = &self.options.out else {
            return;
        };
        let place = format!("evidence/{}", case.id);
        if result.evidence.is_some() || evidence::keep_timeline(&*self.target, &out.join(&place), told) {
            result.timeline = Some(format!("{place}/{}", evidence::TIMELINE));
        }
    }

    /// Gathers the evidence of a case that did not pass, and finds its cause, before anything is cleaned up.
    pub(super) async fn gather(
        &self,
        shared: &Arc<Shared>,
        case: &Case,
        verdict: &Verdict,
        result: &mut CaseResult,
        timeline: &evidence::Told,
    ) {
        let gathering = async {
            let copy = {
                let copies = shared.copies.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                copies
                    .iter()
                    .find(|(owner, _)| *owner == case.id)
                    .map(|(_, copy)| copy.clone())
            };
            // What the case made beside the deployment is what it failed on.
            let beside = {
                let scratches = shared
                    .scratches
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let own = scratches.iter().rev().find(|(owner, _)| *owner == case.id);
                own.map(|(_, beside)| beside.clone())
            };
            let shared = beside.as_ref().unwrap_or(shared);
            let view = settle::look(shared).await.ok();
            let hints = match &copy {
                Some(copy) => evidence::hints_of(copy.deployment(), self.target.password().as_ref()).await,
                None => evidence::hints(&*shared.target).await,
            };
            let failure = result.actual.clone().or(result.reason.clone()).unwrap_or_default();
            let seen = if copy.is_some() { None } else { view.as_ref() };
            let cause = evidence::cause(seen, shared.target.description().shape, &hints, &failure);
            result.cause = cause.map(|cause| self.redact(&cause));
            if let Some(out) = &self.options.out {
                let place = format!("evidence/{}", case.id);
                let folder = out.join(&place);
                let subject = evidence::Subject {
                    id: case.id.0,
                    title: case.title,
                    requirement: case.requirement,
                    verdict,
                    cause: result.cause.as_deref(),
                    timeline,
                };
                let gathered = evidence::gather(&*shared.target, view.as_ref(), &folder, &subject).await;
                if let Some(copy) = copy {
                    copy.collect_evidence(&folder).await;
                }
                result.evidence = gathered.then_some(place);
            }
        };
        // Evidence is worth waiting for, not hanging for.
        if tokio::time::timeout(LONGEST_GATHERING, gathering).await.is_err() {
            shared.progress.line(format!(
                "{}: gathering evidence did not end within {} s",
                case.id,
                LONGEST_GATHERING.as_secs()
            ));
        }
    }

    pub(super) fn redact(&self, text: &str) -> String {
        self.target
            .password()
            .map_or_else(|| text.to_owned(), |password| password.redact(text))
    }

    pub(super) fn result(&self, case: &Case, verdict: &Verdict, seconds: f64) -> CaseResult {
        let mut result = CaseResult {
            id: case.id.to_string(),
            title: case.title.into(),
            requirement: case.requirement.into(),
            source: Some(case.source.into()),
            level: case.level,
            profile: case.profile,
            seed: case.seed.to_vec(),
            impact: case.impact,
            verdict: verdict.name(),
            known: self
                .options
                .known
                .as_ref()
                .and_then(|listed| listed.of(case.id.0))
                .cloned(),
            seconds: (seconds * 1000.0).round() / 1000.0,
            expected: Vec::new(),
            actual: None,
            cause: None,
            reason: None,
            evidence: None,
            timeline: None,
            course: None,
            measured: Vec::new(),
            notes: Vec::new(),
        };
        match verdict {
            Verdict::Pass => {}
            Verdict::Fail(mismatch) => {
                result.expected = mismatch.expected.iter().map(|line| self.redact(line)).collect();
                result.actual = Some(self.redact(&mismatch.actual));
            }
            Verdict::Unsupported(reason) | Verdict::Skipped(reason) | Verdict::Error(reason) => {
                result.reason = Some(self.redact(reason));
            }
            Verdict::Blocked { by, reason } => result.reason = Some(self.redact(&format!("blocked by {by}: {reason}"))),
        }
        result
    }

    pub(super) fn record_unrun(&self, case: &Case, verdict: Verdict) {
        let result = self.result(case, &verdict, 0.0);
        self.state().results.insert(case.id, result);
        (self.update)(&self.snapshot());
    }

    pub(super) fn record(&self, progress: Progress, result: CaseResult) {
        progress.line(report::terminal::case_line(&result, self.options.colour));
        if let Some(case) = crate::cases::find(&result.id) {
            self.state().results.insert(case.id, result);
        }
        (self.update)(&self.snapshot());
    }

    /// A case whose fault stays has not ended as it must: it is told, and passes no more. A failure stays one.
    pub(super) fn record_not_undone(&self, progress: &Progress, case: &Case, reason: &str) {
        progress.line(format!("{}: {reason}", case.id));
        if let Some(result) = self.state().results.get_mut(&case.id) {
            match result.verdict {
                VerdictName::Fail | VerdictName::Error => result.notes.push(reason.to_owned()),
                VerdictName::Pass | VerdictName::Unsupported | VerdictName::Skipped | VerdictName::Blocked => {
                    result.verdict = VerdictName::Error;
                    result.reason = Some(reason.to_owned());
                }
            }
        }
        (self.update)(&self.snapshot());
    }

    pub(super) fn phase(&self, name: &str, began: Instant) {
        self.state().phases.push(Phase {
            name: name.into(),
            seconds: (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            floor: None,
        });
    }

    /// The run as it stands; cases that have not run say so.
    pub(super) fn snapshot(&self) -> Run {
        let state = self.state();
        let why = match &state.aborted {
            Some(abort) => format!("never ran: {}", abort.message),
            None => "never ran: the run had not ended".to_owned(),
        };
        let cases: Vec<CaseResult> = self
            .options
            .cases
            .iter()
            .map(|case| match state.results.get(&case.id) {
                Some(result) => result.clone(),
                None => self.result(case, &Verdict::Skipped(why.clone()), 0.0),
            })
            .collect();
        // What a run that is killed leaves behind.
        let unfinished = (cases.len() != state.results.len()).then(|| Abort {
            kind: AbortKind::Interrupted,
            message: "the run had not ended".to_owned(),
        });
        let abort = state.aborted.clone().or(unfinished);
        let aborted = abort.is_some();
        let strictness = self.options.strictness;
        let summary = Summary {
            known: (self.options.known.as_ref()).map(|listed| KnownFailing::of(listed, &cases, aborted, strictness)),
            ..Summary::of(&cases, aborted, strictness)
        };
        Run {
            schema_version: SCHEMA_VERSION.into(),
            run_id: self.options.run_id.clone(),
            suite: Suite {
                version: env!("CARGO_PKG_VERSION").into(),
                commit: option_env!("RCC_COMMIT").map(Into::into),
            },
            target: self.target.description(),
            server: state.server.clone(),
            started: self.started,
            ended: jiff::Timestamp::now(),
            phases: state.phases.clone(),
            summary,
            cases,
            aborted: abort,
            cause: state.cause.clone(),
            left_behind: state.left_behind.clone(),
            scorecard: state.scorecard.clone(),
            pictures: state.pictures.clone(),
        }
    }
}

/// A text with the passwords that cases made up taken out.
pub(super) fn redact_all(secrets: &[Secret], text: &str) -> String {
    secrets
        .iter()
        .fold(text.to_owned(), |text, secret| secret.redact(&text))
}

/// A verdict with the passwords that cases made up taken out of its texts.
pub(super) fn without(secrets: &[Secret], verdict: Verdict) -> Verdict {
    let redact = |text: String| redact_all(secrets, &text);
    match verdict {
        Verdict::Pass => Verdict::Pass,
        Verdict::Fail(mismatch) => Verdict::Fail(Mismatch {
            expected: mismatch.expected.into_iter().map(redact).collect(),
            actual: redact(mismatch.actual),
        }),
        Verdict::Unsupported(reason) => Verdict::Unsupported(redact(reason)),
        Verdict::Skipped(reason) => Verdict::Skipped(redact(reason)),
        Verdict::Error(reason) => Verdict::Error(redact(reason)),
        Verdict::Blocked { by, reason } => Verdict::Blocked {
            by,
            reason: redact(reason),
        },
    }
}

//! Trials in a run: one fault, several times, each measured.

use super::Recorder;
use crate::context::Shared;
use crate::report::scorecard::Scorecard;
use crate::report::visible;
use crate::report::{Abort, AbortKind};
use crate::settle;
use crate::trials::{self, TrialFault, Trials};
use crate::verdict::Stop;
use std::sync::Arc;
use std::time::Instant;

impl Recorder<'_> {
    /// Why no trials can be made, where they cannot.
    fn no_trials(&self, fault: TrialFault) -> Option<String> {
        let target = self.target.description().kind;
        if !self.target.capabilities().contains(&fault.capability()) {
            return Some(format!("target {target} cannot do the fault {}", fault.name()));
        }
        let allowed = self.target.is_ours() || self.options.allow_disruptive;
        (!allowed).then(|| {
            "trials are disruptive, and this run did not make the deployment; --allow-disruptive runs them".into()
        })
    }

    /// Does a fault several times, and measures; the cluster must be whole before each time.
    pub(super) async fn run_trials(&self, shared: &Arc<Shared>) {
        let Some(options) = self.options.trials else {
            return;
        };
        let Trials {
            fault,
            count: asked,
            rate,
        } = options;
        if let Some(reason) = self.no_trials(fault) {
            self.state().aborted = Some(Abort {
                kind: AbortKind::Usage,
                message: reason,
            });
            return;
        }
        let began = Instant::now();
        let mut trials = Vec::new();
        let problem = loop {
            let number = trials.len() + 1;
            if number > asked {
                break None;
            }
            if let Err(missing) = settle::until_whole(shared, &format!("a whole cluster before trial {number}")).await {
                break Some(format!("the cluster was not whole before it: {missing}"));
            }
            match trials::one(&settle::between(shared), options, number).await {
                Ok(trial) => {
                    shared.progress.line(visible(&trial.line()));
                    trials.push(trial);
                }
                Err(Stop::Mismatch(mismatch)) => break Some(mismatch.to_string()),
                Err(Stop::Unsupported(reason)) => break Some(reason),
                Err(Stop::Error(error)) => break Some(format!("{error:#}")),
            }
            let waited = Instant::now();
            let whole = settle::until_whole(shared, &format!("a whole cluster after trial {number}")).await;
            let place = format!("after trial {number} of {}", fault.name());
            shared
                .settled
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push((place, whole.map(|()| waited.elapsed())));
            let protocol = |figure| trials::protocol(fault, &shared.timing, figure);
            self.state().scorecard = Some(Scorecard {
                rate: rate.operations.map(Into::into),
                writers: Some(rate.writers.into()),
                ..Scorecard::of(fault.name(), asked, trials.clone(), protocol)
            });
            (self.update)(&self.snapshot());
        };
        if let Some(problem) = problem {
            self.state().aborted = Some(Abort {
                kind: AbortKind::Target,
                message: self.redact(&format!(
                    "trial {} of {asked} could not be measured: {problem}",
                    trials.len() + 1
                )),
            });
        }
        self.phase(&format!("{} trials of {}", trials.len(), fault.name()), began);
    }
}

//! Whether Kubernetes calls every pod of the deployment ready, looked at all the while.

use crate::context::Context;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pause between two looks: the API is asked, not the server, and it is told of a probe's outcome once a second at most.
const PAUSE: Duration = Duration::from_millis(250);

/// The looks at the workload's status.
#[derive(Default)]
pub(super) struct Readiness {
    changes: Mutex<Vec<(Instant, bool)>>,
}

impl Readiness {
    /// Since when every pod has been ready, or not so.
    pub(super) fn changes(&self) -> Vec<(Instant, bool)> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks until it is dropped; without Kubernetes there is nothing to be seen.
    pub(super) async fn on(&self, cx: &Context) {
        let Some(deployment) = cx.shared().target.deployment() else {
            return std::future::pending().await;
        };
        loop {
            // An API that does not answer has said nothing new.
            if let Ok((declared, ready)) = deployment.replicas().await {
                let ready = ready >= declared;
                let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
                if changes.last().is_none_or(|(_, last)| *last != ready) {
                    changes.push((Instant::now(), ready));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

//! Whether Kubernetes calls every pod of the deployment ready, looked at all the while.

use crate::context::Context;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pause between two looks: the API is asked, not the server, and it is told of a probe's outcome once a second at most.
const PAUSE: Duration = Duration::from_millis(250);

/// The looks at the pods.
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
            // The pods are asked: the workload's own sum stays as it is while its controller is kept from making pods. An API
            // that does not answer has said nothing new.
            if let (Ok((declared, _)), Ok(pods)) = futures::join!(deployment.replicas(), deployment.pods()) {
                let ready = pods.iter().filter(|pod| pod.ready).count();
                let ready = i32::try_from(ready).is_ok_and(|ready| ready >= declared);
                let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
                if changes.last().is_none_or(|(_, last)| *last != ready) {
                    changes.push((Instant::now(), ready));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

//! One run at a time: a run holds a Lease in the namespace where it works, and renews it while it lives. By that the next one
//! knows whether what it finds there, or on a node, is of a run that goes on or was left by one that has ended.

use super::apply::{RUN_LABEL, fit, lock};
use super::client::{failed, is_missing};
use super::site::{PATIENCE, bounded, timed_out};
use crate::progress::Progress;
use crate::target::TargetError;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The Lease of a namespace: faults reach all that is in it, so that there is one.
pub(super) const LEASE: &str = "redis-cluster-conformance";

/// How long a Lease lasts, in seconds.
const SECONDS: u64 = if cfg!(test) { 2 } else { 30 };

/// A run that has not renewed its Lease for so long has ended. The clocks of machines differ: whoever wants to know looks on
/// for as long, and does not compare times.
const LASTS: Duration = Duration::from_secs(SECONDS);

/// How often it is renewed: a busy API may lose some.
const RENEWED: Duration = Duration::from_millis(SECONDS * 1000 / 6);

/// How often another run's Lease is looked at. It is not watched: a right to get it is enough.
const LOOK_AGAIN: Duration = Duration::from_millis(SECONDS * 1000 / 30);

/// How often a Lease is looked at again that was changed before it could be removed.
const ROUNDS: usize = 5;

/// The Lease of a run, from before it is asked for until it is given back.
pub(super) struct Turn {
    api: Api<Lease>,
    namespace: String,
    holder: String,
    asked: Mutex<bool>,
    renewing: Mutex<Option<tokio::task::JoinSet<()>>>,
    lost: Arc<Mutex<Option<String>>>,
}

impl Turn {
    pub(super) fn new(client: &Client, namespace: &str, run_id: &str) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            holder: fit(run_id),
            asked: Mutex::default(),
            renewing: Mutex::default(),
            lost: Arc::default(),
        }
    }

    /// Takes the Lease where nobody has it, or only a run that has ended. Gives whether it is held: whoever has no right to make
    /// one goes on without, and may take nothing back.
    ///
    /// # Errors
    /// When another run goes on in the namespace: each would take the other's faults for the deployment's.
    pub(super) async fn take(&self, progress: &Progress) -> Result<bool, TargetError> {
        let what = format!("looking at Lease {LEASE} in namespace {}", self.namespace);
        let there = match bounded(&what, self.api.get_opt(LEASE)).await {
            Ok(there) => there,
            Err(TargetError::NotAllowed(reason)) => return Ok(self.without(&reason)),
            Err(error) => return Err(error),
        };
        let there = match there {
            Some(lease) => self.await_end_of(lease, progress).await?,
            None => None,
        };
        let mut lease = Lease::default();
        lease.metadata.name = Some(LEASE.to_owned());
        lease.labels_mut().insert(RUN_LABEL.to_owned(), self.holder.clone());
        lease.metadata.resource_version = there.as_ref().and_then(ResourceExt::resource_version);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: Some(MicroTime(jiff::Timestamp::now())),
            renew_time: Some(MicroTime(jiff::Timestamp::now())),
            ..LeaseSpec::default()
        });
        let how = PostParams::default();
        // Known before it is asked for, so that an interruption leaves none.
        *lock(&self.asked) = true;
        let what = format!("taking Lease {LEASE} in namespace {}", self.namespace);
        let taken = match there {
            Some(_) => tokio::time::timeout(PATIENCE, self.api.replace(LEASE, &how, &lease)).await,
            None => tokio::time::timeout(PATIENCE, self.api.create(&how, &lease)).await,
        };
        let taken = match taken {
            Ok(Ok(taken)) => taken,
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                return Err(TargetError::Surroundings(format!(
                    "another run has just begun in namespace {}; run this one again once that has ended",
                    self.namespace
                )));
            }
            Ok(Err(error)) => match failed(&what, &error) {
                TargetError::NotAllowed(reason) => return Ok(self.without(&reason)),
                error => return Err(error),
            },
            Err(_) => return Err(timed_out(&what, PATIENCE)),
        };
        let mut renewing = tokio::task::JoinSet::new();
        renewing.spawn(renew(self.api.clone(), taken, self.lost.clone()));
        *lock(&self.renewing) = Some(renewing);
        Ok(true)
    }

    fn without(&self, reason: &str) -> bool {
        tracing::debug!(reason, "no Lease is held");
        *lock(&self.asked) = false;
        false
    }

    /// Waits until it is known that the run that holds a Lease has ended; the Lease as it is then, if it is still there.
    async fn await_end_of(&self, lease: Lease, progress: &Progress) -> Result<Option<Lease>, TargetError> {
        let (holder, first) = (holder_of(&lease), state_of(&lease));
        let what = format!(
            "run {holder} to renew Lease {LEASE} of namespace {}, or be known to have ended",
            self.namespace
        );
        let looked = async {
            let (mut last, started) = (lease, Instant::now());
            while started.elapsed() < LASTS {
                tokio::time::sleep(LOOK_AGAIN).await;
                match bounded(&what, self.api.get_opt(LEASE)).await? {
                    // Given back.
                    None => return Ok(None),
                    Some(lease) if state_of(&lease) == first => last = lease,
                    Some(lease) => {
                        return Err(TargetError::Surroundings(format!(
                            "run {} goes on in namespace {}: it renews Lease {LEASE} there. Two runs at once would each take the other's \
                             faults for the deployment's: run this one again once that has ended",
                            holder_of(&lease),
                            self.namespace
                        )));
                    }
                }
            }
            Ok(Some(last))
        };
        progress.during(&what, LASTS, looked).await
    }

    /// Which other run took the Lease meanwhile: both have disturbed each other.
    pub(super) fn lost(&self) -> Option<String> {
        let other = lock(&self.lost).clone()?;
        Some(format!(
            "run {other} took Lease {LEASE} of namespace {} while this run went on, which could not renew it for {} s: both have \
             disturbed each other, and the verdicts of neither hold",
            self.namespace,
            LASTS.as_secs()
        ))
    }

    /// Gives the Lease back.
    pub(super) async fn end(&self) -> Result<(), TargetError> {
        let held = lock(&self.renewing).take().is_some();
        if !std::mem::take(&mut *lock(&self.asked)) {
            return Ok(());
        }
        let what = format!("giving back Lease {LEASE} in namespace {}", self.namespace);
        // Nobody renews it any more, but for a request that is on its way.
        for _ in 0..ROUNDS {
            let Some(lease) = bounded(&what, self.api.get_opt(LEASE)).await? else {
                return Ok(());
            };
            if holder_of(&lease) != self.holder {
                // Whoever was only refused never had it.
                if lock(&self.lost).is_none() && held {
                    *lock(&self.lost) = Some(holder_of(&lease));
                }
                return Ok(());
            }
            let as_it_is = Preconditions {
                uid: lease.uid(),
                resource_version: lease.resource_version(),
            };
            let how = DeleteParams::default().preconditions(as_it_is);
            match tokio::time::timeout(PATIENCE, self.api.delete(LEASE, &how)).await {
                Ok(Ok(_)) => return Ok(()),
                // Renewed a moment ago, or taken: it is looked at again.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) if is_missing(&error) => return Ok(()),
                Ok(Err(error)) => return Err(failed(&what, &error)),
                Err(_) => return Err(timed_out(&what, PATIENCE)),
            }
        }
        Err(TargetError::Surroundings(format!(
            "{what}: it was changed by somebody each of {ROUNDS} times between a look at it and its removal"
        )))
    }
}

/// Renews a Lease for as long as it is this run's.
async fn renew(api: Api<Lease>, mut lease: Lease, lost: Arc<Mutex<Option<String>>>) {
    let (own, how) = (holder_of(&lease), PostParams::default());
    loop {
        tokio::time::sleep(RENEWED).await;
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
        }
        // An answer that does not come must not cost the times to ask again.
        let asked = async {
            match lease.metadata.resource_version {
                Some(_) => api.replace(LEASE, &how, &lease).await,
                None => api.create(&how, &lease).await,
            }
        };
        match tokio::time::timeout(RENEWED, asked).await {
            Ok(Ok(renewed)) => lease = renewed,
            // An earlier try may have been done, and its answer lost; or somebody has deleted it; or it is another's; or there is
            // a right to make one, and none to renew it.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404 | 409) => {
                match tokio::time::timeout(RENEWED, api.get_opt(LEASE)).await {
                    Ok(Ok(Some(there))) if holder_of(&there) == own => lease = there,
                    Ok(Ok(Some(there))) => {
                        *lock(&lost) = Some(holder_of(&there));
                        return;
                    }
                    Ok(Ok(None)) => {
                        lease.metadata.resource_version = None;
                        lease.metadata.uid = None;
                    }
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "the run's Lease is not renewed"),
            Err(_) => tracing::debug!("the run's Lease is not renewed: no answer"),
        }
    }
}

fn holder_of(lease: &Lease) -> String {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
    holder.unwrap_or_else(|| "?".to_owned())
}

/// What changes when a Lease is renewed, or taken.
fn state_of(lease: &Lease) -> (String, Option<jiff::Timestamp>) {
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
    (holder_of(lease), renewed.map(|at| at.0))
}

/// Which of these runs go on, wherever in the cluster each works. It takes as long as a Lease lasts where one has ended.
pub(super) async fn living(
    client: &Client,
    runs: &BTreeSet<String>,
    progress: &Progress,
) -> Result<BTreeSet<String>, TargetError> {
    let api: Api<Lease> = Api::all(client.clone());
    let renewals = async || {
        let of_runs = ListParams::default().labels(RUN_LABEL);
        let leases = bounded("listing the Leases of runs", api.list(&of_runs)).await?;
        Ok::<BTreeMap<_, _>, TargetError>(leases.iter().map(state_of).collect())
    };
    let first = renewals().await?;
    let names = runs.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let what = format!("the runs {names} to renew their Leases, or be known to have ended");
    let looked = async {
        let (mut living, started) = (BTreeSet::new(), Instant::now());
        while living.len() < runs.len() && started.elapsed() < LASTS {
            tokio::time::sleep(LOOK_AGAIN).await;
            let now = renewals().await?;
            living.extend(
                runs.iter()
                    .filter(|run| now.get(*run).is_some_and(|at| first.get(*run) != Some(at)))
                    .cloned(),
            );
        }
        Ok::<_, TargetError>(living)
    };
    progress.during(&what, LASTS, looked).await
}

#[cfg(test)]
mod tests;

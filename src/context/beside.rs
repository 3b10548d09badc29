//! What a case makes beside the deployment: altered copies of it, and servers of its own. It is removed, whatever came of it.

use super::{Context, DeployedVariant, Scratch, Secret, Shared, Variant};
use crate::case::CaseId;
use crate::progress::Progress;
use crate::verdict::Stop;
use std::sync::Arc;

impl Context {
    /// Makes an altered copy of the deployment, lets `judge` look at it, and removes it, whatever came of it.
    ///
    /// # Errors
    /// Those of `judge`; an unsupported stop when the target cannot make the variant; an error when it is left behind.
    pub async fn with_variant<T, F>(&self, variant: Variant, judge: F) -> Result<T, Stop>
    where
        F: AsyncFnOnce(&dyn DeployedVariant) -> Result<T, Stop>,
    {
        let deployment = self.deployment()?;
        if !deployment.variants().contains(&variant) {
            return Err(Stop::Unsupported(format!(
                "the target's description does not say how to make the variant {variant:?}"
            )));
        }
        let copy: Arc<dyn DeployedVariant> = Arc::from(deployment.deploy_variant(variant).await?);
        self.lock_copies().push((self.id, copy.clone()));
        let outcome = judge(&*copy).await;
        if matches!(outcome, Err(Stop::Mismatch(_) | Stop::Error(_))) {
            // The runner gathers evidence and then removes it.
            return outcome;
        }
        copy.remove().await?;
        self.lock_copies().retain(|(_, other)| !Arc::ptr_eq(other, &copy));
        outcome
    }

    /// A [`Scratch`] like the deployment: its shape, its node-timeout, its password.
    pub fn scratch_like_the_deployment(&self) -> Scratch {
        Scratch {
            shape: self.shape(),
            spare: 0,
            node_timeout: self.timing().node_timeout(),
            password: self.shared.target.password(),
            alterations: Vec::new(),
            volume: None,
        }
    }

    /// Makes servers beside the deployment, lets `judge` do with them what it likes, and removes them, whatever came of
    /// it. The context given to `judge` is for them alone: what it shows and breaks is theirs.
    ///
    /// # Errors
    /// Those of `judge`; an error when the servers cannot be made, or are left behind.
    pub async fn with_scratch<T, F>(&self, scratch: &Scratch, judge: F) -> Result<T, Stop>
    where
        F: AsyncFnOnce(&Context) -> Result<T, Stop>,
    {
        let target = self.shared.target.scratch(scratch).await?;
        let timing = self.timing().clone().with_node_timeout(scratch.node_timeout);
        let shared = Arc::new(Shared::new(
            target.clone(),
            self.shared.run_id.clone(),
            timing,
            self.shared.progress.clone(),
        ));
        self.keep_secret(scratch.password.clone());
        self.lock_scratches().push((self.id, shared.clone()));
        self.note_time("servers beside the deployment are made");
        // Not told: what is made beside the deployment is no phase of the run.
        target.prepare(&Progress::silent()).await?;
        self.note_time("they run");
        let beside = Self {
            timeline: self.timeline.clone(),
            ..Self::of(shared.clone(), self.id)
        };
        let outcome = judge(&beside).await;
        let (measurements, notes) = beside.into_records();
        for measurement in measurements {
            self.record(measurement);
        }
        notes.into_iter().for_each(|note| self.note(note));
        if matches!(outcome, Err(Stop::Mismatch(_) | Stop::Error(_))) {
            // The runner gathers evidence and then removes them.
            return outcome;
        }
        target.release().await?;
        self.lock_scratches().retain(|(_, other)| !Arc::ptr_eq(other, &shared));
        outcome
    }

    /// Keeps a password that the case makes up out of everything that is reported.
    pub fn keep_secret(&self, password: impl IntoIterator<Item = Secret>) {
        self.shared
            .secrets
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .extend(password);
    }

    fn lock_scratches(&self) -> std::sync::MutexGuard<'_, Vec<(CaseId, Arc<Shared>)>> {
        self.shared
            .scratches
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn lock_copies(&self) -> std::sync::MutexGuard<'_, Vec<(CaseId, Arc<dyn DeployedVariant>)>> {
        self.shared
            .copies
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

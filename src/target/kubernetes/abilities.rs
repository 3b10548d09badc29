//! What can be done to a deployment on Kubernetes: hoped for before it is prepared, asked of the API then, and why not.

use super::apply::lock;
use super::faults::allowed;
use super::site::Site;
use super::{KubernetesTarget, hosts, links};
use crate::case::Capability;
use crate::target::Target;
use std::collections::BTreeSet;

impl KubernetesTarget {
    /// Before `prepare` what a target of this kind can have; after it, what was found.
    pub(super) fn abilities(&self) -> BTreeSet<Capability> {
        if let Some(probed) = &*lock(&self.probed) {
            let mut found = probed.clone();
            found.extend(matches!(self.cuttable.get(), Some(Ok(()))).then_some(Capability::CutLink));
            return found;
        }
        let mut hoped = BTreeSet::from([
            Capability::Kubernetes,
            Capability::Tended,
            Capability::Restart,
            Capability::KeepAway,
            Capability::NewAddress,
            Capability::Evict,
            Capability::ForceDelete,
            Capability::Drain,
            Capability::Scale,
            Capability::RollOut,
            Capability::Exec,
            Capability::Companion,
        ]);
        if self.is_ours() {
            hoped.insert(Capability::LoseVolume);
            hoped.extend(self.options.upgrade_to.is_some().then_some(Capability::Upgrade));
        }
        if self.manifest.is_some() {
            hoped.extend([Capability::Variant, Capability::Reapply]);
        }
        if self.nodes.is_some() {
            hoped.extend([
                Capability::Crash,
                Capability::Kill,
                Capability::Pause,
                Capability::BlockBus,
            ]);
            hoped.extend([Capability::CutLink, Capability::SwapAddresses, Capability::LoseApi]);
            hoped.insert(Capability::LoseHost);
        }
        hoped
    }

    /// Asks what the context's user may do, and what the cluster is.
    pub(super) async fn probe(&self, site: &Site) {
        let may = async |verb, resource| allowed(&site.client, Some(&site.namespace), verb, resource).await;
        let mut found = BTreeSet::from([Capability::Kubernetes]);
        // A pod that was made by itself is gone for good when it is deleted.
        let tended = self.is_tended();
        found.extend(tended.then_some(Capability::Tended));
        // What the run has made can be made again; what it found there cannot.
        let ours = self.is_ours();
        // How many pods there are to be, and how they are made anew, is a matter of one object there alone.
        let one_set = self.descriptor.stateful_set().is_some();
        if tended && may("delete", "pods").await {
            found.extend([Capability::Restart, Capability::NewAddress, Capability::ForceDelete]);
            // A quota that could not be taken away again would keep the pods away for good.
            let quotas = "resourcequotas";
            if may("create", quotas).await && may("get", quotas).await && may("delete", quotas).await {
                found.insert(Capability::KeepAway);
                if ours && one_set && may("delete", "persistentvolumeclaims").await {
                    found.insert(Capability::LoseVolume);
                }
            }
        }
        if tended && may("create", "pods/eviction").await {
            found.insert(Capability::Evict);
        }
        let lone = hosts::lone(&site.client).await;
        if lone.is_none() {
            let evicts = found.contains(&Capability::Evict) && self.holds_turn();
            if evicts && allowed(&site.client, None, "patch", "nodes").await {
                found.insert(Capability::Drain);
            }
            found.extend((tended && self.nodes.is_some()).then_some(Capability::LoseHost));
        }
        let _ = self.lone.set(lone);
        if one_set && may("patch", "statefulsets.apps").await {
            found.extend([Capability::Scale, Capability::RollOut]);
            // What the run found there stays of the version that it has.
            found.extend((ours && self.options.upgrade_to.is_some()).then_some(Capability::Upgrade));
        }
        if ours && self.manifest.is_some() && may("delete", "statefulsets.apps").await {
            found.insert(Capability::Reapply);
        }
        if allowed(&site.client, Some(&site.namespace), "create", "pods/exec").await {
            found.insert(Capability::Exec);
            if may("create", "pods").await && may("delete", "pods").await {
                found.insert(Capability::Companion);
            }
        }
        if site.copies {
            found.insert(Capability::Variant);
        }
        if self.nodes.is_some() {
            found.extend([Capability::Crash, Capability::Pause, Capability::LoseApi]);
            if found.contains(&Capability::KeepAway) {
                found.insert(Capability::Kill);
            }
            if found.contains(&Capability::Variant) {
                found.insert(Capability::BlockBus);
            }
        }
        *lock(&self.probed) = Some(found);
    }

    /// Tries what can be done to the pods' network, once there are pods.
    pub(super) async fn probe_network(&self, site: &Site) {
        let Some(nodes) = &self.nodes else { return };
        let possible = links::possible(site, nodes).await;
        let _ = self.cuttable.set(possible);
        // A node has no record of the addresses that it gave away before its first pod has one.
        if self.is_tended()
            && nodes.can_hold_addresses().await
            && let Some(found) = &mut *lock(&self.probed)
        {
            found.insert(Capability::SwapAddresses);
        }
    }

    /// Why there is no such capability, where more can be said than that there is none.
    pub(super) fn why_not(&self, capability: Capability) -> Option<String> {
        match capability {
            Capability::CutLink => self.cuttable.get()?.as_ref().err().cloned(),
            Capability::Variant if self.manifest.is_some() && self.held.get() == Some(&false) => {
                Some("no Lease may be made in the namespace, by which other runs know whether this one goes on".into())
            }
            Capability::Drain if self.is_tended() && self.held.get() == Some(&false) => {
                Some("no Lease may be made in the namespace, by which other runs know whether this one goes on".into())
            }
            Capability::Drain | Capability::LoseHost if self.is_tended() => self.lone.get()?.clone(),
            Capability::Upgrade if self.options.upgrade_to.is_none() => {
                Some("--upgrade-to names the image of another version".into())
            }
            Capability::Upgrade if !self.is_ours() => Some("the run did not make the deployment".into()),
            Capability::Reapply | Capability::Variant if self.is_ours() && self.manifest.is_none() => {
                Some("the deployment was installed by a command, and there is no manifest".into())
            }
            Capability::Scale | Capability::RollOut | Capability::Upgrade | Capability::LoseVolume
                if self.descriptor.stateful_set().is_none() =>
            {
                Some("not one StatefulSet makes all pods, by the target's description".into())
            }
            Capability::Tended
            | Capability::Restart
            | Capability::KeepAway
            | Capability::NewAddress
            | Capability::ForceDelete
            | Capability::Evict
            | Capability::Drain
            | Capability::LoseHost
            | Capability::Kill
            | Capability::SwapAddresses
                if !self.is_tended() =>
            {
                Some("the pods were made one by one, by the target's description: one that is gone stays away".into())
            }
            // One node's addresses are enough to choose from; with several, a pod's next address depends on its next node.
            Capability::SwapAddresses if self.nodes.is_some() && self.lone.get()?.is_none() => {
                Some("with several nodes it cannot be said which of them the next address is from".into())
            }
            _ => None,
        }
    }
}

//! The loss of all that a pod has on disk: the pod goes, and its volume claims with it. Its workload makes both anew.

use super::client::{failed, is_missing};
use super::site::{PATIENCE, Site, bounded, timed_out};
use crate::target::TargetError;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use std::time::{Duration, Instant};

/// How long a claim may take to go once nothing uses it.
const GONE: Duration = Duration::from_secs(60);

/// A volume claim, by name and uid.
pub(super) type Claim = (String, String);

/// The claims that are this pod's alone: its workload makes them from templates, and makes those anew that are gone.
pub(super) async fn claims(site: &Site, pod: &Pod) -> Result<Vec<Claim>, TargetError> {
    let templates = site
        .stateful_set()
        .await?
        .spec
        .and_then(|spec| spec.volume_claim_templates);
    let own = templates.unwrap_or_default();
    let own: Vec<String> = own
        .iter()
        .map(|template| format!("{}-{}", template.name_any(), pod.name_any()))
        .collect();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let used = volumes.into_iter().flatten();
    let used = used.filter_map(|volume| Some(&volume.persistent_volume_claim.as_ref()?.claim_name));
    let mut claims = Vec::new();
    for name in used.filter(|name| own.contains(name)) {
        let claim = bounded(&format!("looking at volume claim {name}"), api(site).get(name)).await?;
        claims.push((name.clone(), claim.metadata.uid.unwrap_or_default()));
    }
    Ok(claims)
}

fn api(site: &Site) -> Api<PersistentVolumeClaim> {
    site.api()
}

/// Deletes claims that nothing uses any more, and waits until they are gone: a pod that found one on its way out would
/// wait for it for ever.
pub(super) async fn remove(site: &Site, claims: &[Claim]) -> Result<(), TargetError> {
    for (name, uid) in claims {
        let this_one = DeleteParams::default().preconditions(Preconditions {
            uid: Some(uid.clone()),
            resource_version: None,
        });
        let what = format!("deleting volume claim {name}");
        match tokio::time::timeout(PATIENCE, api(site).delete(name, &this_one)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if is_missing(&error) => {}
            Ok(Err(error)) => return Err(failed(&what, &error)),
            Err(_) => return Err(timed_out(&what, PATIENCE)),
        }
    }
    let started = Instant::now();
    for (name, uid) in claims {
        let what = format!("looking at volume claim {name}");
        while bounded(&what, api(site).get_opt(name))
            .await?
            .is_some_and(|claim| claim.metadata.uid.as_ref() == Some(uid))
        {
            if started.elapsed() >= GONE {
                return Err(TargetError::Surroundings(format!(
                    "volume claim {name} was deleted, and is there still after {} s",
                    GONE.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

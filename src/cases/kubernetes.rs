//! Chapter K8S: the manifest and its workload, as the platform has them.
//!
//! Each case begins with the rules of its row (`lint`) over the objects that are there; what the running deployment must
//! show besides comes after that, and is not tried where the rules have found something already.

mod faults;
mod objects;
mod placement;
mod rollout;
mod servers;
mod whole;

pub(super) use objects::{rules, rules_where_seen};

use crate::case::Case;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    objects::APPLIES,
    objects::FILLED_IN,
    objects::GOVERNING,
    placement::SELECTED,
    faults::READINESS,
    faults::LIVENESS,
    objects::STARTUP,
    faults::BUDGET,
    placement::SPREAD,
    placement::ZONES,
    servers::RESOURCES,
    faults::GRACE,
    faults::HANDOVER,
    servers::IMAGE,
    servers::USER,
    servers::MOUNTS,
    rollout::CONFIGURATION_REACHES,
    servers::ANNOUNCED,
    objects::PORTS,
    rollout::STUCK_POD,
    rollout::FAILING_HOOK,
    servers::TOOLS,
    whole::STEADY,
    whole::ANY_NAMESPACE,
    whole::REMOVED,
];

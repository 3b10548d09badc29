//! Chapter K8S: the manifest and its workload, as the platform runs them.

mod rollout;

use crate::case::Case;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    rollout::CONFIGURATION_REACHES,
    rollout::STUCK_POD,
    rollout::FAILING_HOOK,
];

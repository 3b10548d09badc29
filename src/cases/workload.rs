//! Chapter K8S: the workload and its image.

use crate::case::Case;

/// The cases of this chapter.
pub static CASES: &[Case] = &[];

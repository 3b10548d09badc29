//! Chapter (to be written).

use crate::case::Case;

/// The cases of this chapter.
pub static CASES: &[Case] = &[];

//! The exit codes, which scripts may rely on.

use crate::report::{AbortKind, Conformance, Run};

/// Conformant: no `must` failed.
pub const CONFORMANT: u8 = 0;
/// Not conformant.
pub const NOT_CONFORMANT: u8 = 1;
/// What the user gave cannot be used: an option, a file, a context.
pub const USAGE: u8 = 2;
/// The target could not be made or reached, or the suite broke, or was interrupted.
pub const BROKEN: u8 = 3;
/// Nothing was selected.
pub const NOTHING_SELECTED: u8 = 4;

/// The exit code of a finished run. A failed `must` counts also when something else broke.
pub fn of(run: &Run) -> u8 {
    match (run.summary.verdict, &run.aborted) {
        (Conformance::NotConformant, _) => NOT_CONFORMANT,
        (_, Some(abort)) if abort.kind == AbortKind::Usage => USAGE,
        (Conformance::Undecided, _) => BROKEN,
        (Conformance::Conformant, _) => CONFORMANT,
    }
}

//! The exit codes, which scripts may rely on.

use crate::report::compare::{Comparison, Worse};
use crate::report::{AbortKind, Conformance, Run};

/// Conformant: no `must` failed, or only such as `--known-failing` lists. Of a comparison: nothing that counts got worse. Of a
/// matrix: every cell is conformant.
pub const CONFORMANT: u8 = 0;
/// Not conformant; or an entry of `--known-failing` is no longer true. Of a comparison: something that counts got worse.
pub const NOT_CONFORMANT: u8 = 1;
/// What the user gave cannot be used: an option, a file, a context.
pub const USAGE: u8 = 2;
/// The target could not be made or reached, or the suite broke, or was interrupted.
pub const BROKEN: u8 = 3;
/// Nothing was selected; two runs have no case in common.
pub const NOTHING_SELECTED: u8 = 4;

/// The exit code of a finished run. A failed `must` counts also when something else broke, unless it is known.
pub fn of(run: &Run) -> u8 {
    match (run.summary.gate(), &run.aborted) {
        (Conformance::NotConformant, _) => NOT_CONFORMANT,
        (_, Some(abort)) if abort.kind == AbortKind::Usage => USAGE,
        (Conformance::Undecided, _) => BROKEN,
        (Conformance::Conformant, _) => CONFORMANT,
    }
}

/// The exit code of a comparison of two runs, where `counts` says what must not get worse. What did counts also when one of
/// the runs broke; what one of them did not judge is no reason to be content.
pub fn of_comparison(comparison: &Comparison, counts: &[Worse]) -> u8 {
    if counts.iter().any(|worse| comparison.is(*worse)) {
        NOT_CONFORMANT
    } else if comparison.before.broke || comparison.after.broke {
        BROKEN
    } else if comparison.in_common == 0 {
        NOTHING_SELECTED
    } else {
        CONFORMANT
    }
}

/// The exit code of the cells of a matrix, each with that of its run; `None` where a signal ended it, or it never ran. A cell
/// that is not conformant counts also when another broke, in whatever way.
pub fn of_matrix(codes: impl Iterator<Item = Option<u8>>) -> u8 {
    codes.fold(CONFORMANT, |worst, code| match (worst, code) {
        (NOT_CONFORMANT, _) | (_, Some(NOT_CONFORMANT)) => NOT_CONFORMANT,
        (worst, Some(CONFORMANT)) => worst,
        (_, _) => BROKEN,
    })
}

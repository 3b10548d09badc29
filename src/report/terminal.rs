//! The report as a person reads it in a terminal: A1 to A6 first, then what did not pass, then the sums.

/// One line for a finished case.
pub fn case_line(result: &super::CaseResult) -> String {
    format!(
        "{} {} {} {:.2} s",
        result.verdict, result.id, result.title, result.seconds
    )
}

//! The report as a person reads it in a terminal: A1 to A6 first, then what did not pass, then the sums.

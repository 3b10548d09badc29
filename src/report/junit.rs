//! `junit.xml`: fail is `<failure>`, error is `<error>`, all else that did not pass is `<skipped>` with its reason.

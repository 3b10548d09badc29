//! Patterns of shell commands that several rules look for.

use regex::Regex;
use std::sync::LazyLock;

/// Compiles a pattern of this program's own; it is ASCII. A pattern that is none matches nothing, and a test finds it.
pub(super) fn pattern(text: &str) -> Regex {
    regex::RegexBuilder::new(text)
        .unicode(false)
        .build()
        .or_else(|_| Regex::new("[^\\s\\S]"))
        .unwrap_or_else(|error| unreachable!("an empty class is a pattern: {error}"))
}

/// The server's program.
pub(super) static REDIS_SERVER: LazyLock<Regex> =
    LazyLock::new(|| pattern("(^|[ \t/\"'`(;&|])(redis|valkey|keydb)-server([ \t\"';]|$)"));

/// The client's program.
pub(super) static REDIS_CLI: LazyLock<Regex> =
    LazyLock::new(|| pattern("(^|[ \t/\"'`(;&|!])(redis|valkey|keydb)-cli([ \t\"';]|$)"));

/// The command that forms a cluster.
pub(super) static CREATE: LazyLock<Regex> =
    LazyLock::new(|| pattern("(redis|valkey|keydb)-cli.*--cluster[ \t]+create([ \t]|$)"));

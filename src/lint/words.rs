//! Patterns of shell commands that several rules look for.

use regex::Regex;
use std::sync::LazyLock;

/// Compiles a pattern of this program's own; the tests of the rules use every one.
pub(super) fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|error| unreachable!("{text} is a pattern: {error}"))
}

/// The server's program.
pub(super) static REDIS_SERVER: LazyLock<Regex> =
    LazyLock::new(|| pattern("(^|[ \t/\"'`(;&|])(redis|valkey|keydb|redict)-server([ \t\"';]|$)"));

/// The client's program.
pub(super) static REDIS_CLI: LazyLock<Regex> =
    LazyLock::new(|| pattern("(^|[ \t/\"'`(;&|!])(redis|valkey|keydb|redict)-cli([ \t\"';]|$)"));

/// The command that forms a cluster.
pub(super) static CREATE: LazyLock<Regex> =
    LazyLock::new(|| pattern("(redis|valkey|keydb|redict)-cli.*--cluster[ \t]+create([ \t]|$)"));

/// Where a command forms a cluster, if it does. What stands within quotes is a message about it, but for the words of a shell's `-c`.
pub(super) fn creates(command: &str) -> Option<usize> {
    static SHELL: LazyLock<Regex> = LazyLock::new(|| pattern("(^|[ \t])-[a-z]*c[ \t]+$"));
    let at = CREATE.find(command)?.start();
    // Quotes of the other kind within quotes are characters like any others.
    let mut open: Option<(char, bool)> = None;
    for (place, character) in command[..at].char_indices() {
        match open {
            Some((quote, _)) if quote == character => open = None,
            None if ['"', '\''].contains(&character) => open = Some((character, SHELL.is_match(&command[..place]))),
            _ => {}
        }
    }
    open.is_none_or(|(_, is_shell)| is_shell).then_some(at)
}

/// Whether a text is a redis.conf.
pub(super) fn is_redis_conf(text: &str) -> bool {
    static DIRECTIVE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            "(?m)^[ \t]*(cluster-(enabled|config-file|node-timeout|announce-[a-z-]+)|appendonly|requirepass|masterauth|maxmemory|protected-mode)[ \t]+[^ \t=\n]",
        )
    });
    !text.starts_with("#!") && DIRECTIVE.is_match(text)
}

//! Text that came from elsewhere (a server's reply, a log), made fit for a terminal and for XML: nothing in it acts,
//! nothing in it is lost.

use crate::context::Measurement;
use std::fmt;

/// The text with every character shown that would act instead: control characters (`\x1b`), the marks that turn the
/// direction of writing, and what XML 1.0 does not allow. Line feeds stay.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push('\n'),
            '\t' => shown.push_str("    "),
            '\r' => shown.push_str("\\r"),
            '\u{0}'..='\u{1f}' | '\u{7f}' => shown.push_str(&format!("\\x{:02x}", u32::from(character))),
            '\u{80}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{fffe}'
            | '\u{ffff}' => shown.push_str(&format!("\\u{{{:x}}}", u32::from(character))),
            other => shown.push(other),
        }
    }
    shown
}

/// [`visible`] text on one line: what follows the first line that is not empty is left out, and said to be.
pub(crate) fn one_line(text: &str) -> String {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = visible(lines.next().unwrap_or_default().trim());
    if lines.next().is_some() {
        format!("{first} …")
    } else {
        first
    }
}

/// A number of seconds, always with the same digits: `8.41 s`.
pub(crate) fn seconds(value: f64) -> String {
    format!("{value:.2} s")
}

impl fmt::Display for Measurement {
    /// The figure with its limits side by side: `write gap 8.41 s (floor 5.50 s, bound 20.00 s)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = |value: f64| match self.unit.as_str() {
            "s" => format!("{value:.2} s"),
            unit => format!("{value} {unit}"),
        };
        write!(f, "{} {}", self.name, figure(self.value))?;
        let limits: Vec<String> = [("floor", self.floor), ("bound", self.bound)]
            .into_iter()
            .filter_map(|(name, limit)| limit.map(|limit| format!("{name} {}", figure(limit))))
            .collect();
        if limits.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", limits.join(", "))
    }
}

/// Breaks a text at spaces into lines of at most `width` characters; a word that is longer stays whole, so that a path
/// or an address can be copied. Indentation at the start of a line is kept.
pub(crate) fn wrap(text: &str, width: Option<usize>) -> Vec<String> {
    let Some(width) = width else {
        return text.lines().map(str::to_owned).collect();
    };
    let mut lines = Vec::new();
    for line in text.lines() {
        let content = line.trim_start();
        let mut current = line[..line.len() - content.len()].to_owned();
        let mut bare = true;
        for word in content.split(' ') {
            if !bare && current.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut current));
            } else if !bare {
                current.push(' ');
            }
            current.push_str(word);
            bare = false;
        }
        lines.push(current);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("plain ü …", "plain ü …")]
    #[case("a\u{1b}[31mb\u{0}", "a\\x1b[31mb\\x00")]
    #[case("a\r\nb", "a\\r\nb")]
    #[case("a\u{202e}b\u{ffff}", "a\\u{202e}b\\u{ffff}")]
    fn nothing_acts_and_nothing_is_lost(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(visible(text), shown);
    }

    #[rstest]
    #[case("one", "one")]
    #[case("\n  one\ntwo", "one …")]
    #[case("", "")]
    fn one_line_says_that_there_are_more(#[case] text: &str, #[case] line: &str) {
        assert_eq!(one_line(text), line);
    }

    #[test]
    fn wraps_at_spaces_only() {
        assert_eq!(wrap("aa bb cc", Some(5)), ["aa bb", "cc"]);
        assert_eq!(wrap("aaaaaaaaaa b", Some(5)), ["aaaaaaaaaa", "b"]);
        assert_eq!(wrap("a\n\n  b c", Some(80)), ["a", "", "  b c"]);
        assert_eq!(wrap("aa bb cc", None), ["aa bb cc"]);
    }
}

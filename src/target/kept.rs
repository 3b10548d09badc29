//! A file of evidence: what a server, or the platform, wrote, as far as a person will read it.

use std::borrow::Cow;
use std::path::Path;

/// The most that is kept of one file, in bytes. A server that fails in a loop writes tens of megabytes in a minute.
const MOST: usize = 1024 * 1024;

/// Writes the text, or its end where it is long.
pub(super) async fn write(file: &Path, text: &str) -> std::io::Result<()> {
    tokio::fs::write(file, end_of(text).as_ref()).await
}

fn end_of(text: &str) -> Cow<'_, str> {
    let Some(over) = text.len().checked_sub(MOST).filter(|over| *over > 0) else {
        return text.into();
    };
    let cut = (over..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(over);
    // From a line's begin, where there is one.
    let begin = text[cut..].find('\n').map_or(cut, |at| cut + at + 1);
    format!("(the first {begin} bytes are left out)\n{}", &text[begin..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_line_and_says_so() {
        assert_eq!(end_of("a\nb\n"), "a\nb\n");
        let line = "ä line\n";
        let text = line.repeat(MOST / line.len() + 10);
        let kept = end_of(&text);
        let (first, rest) = kept.split_once('\n').unwrap();
        assert!(rest.len() <= MOST && rest.starts_with(line), "{first}");
        assert_eq!(
            first,
            format!("(the first {} bytes are left out)", text.len() - rest.len())
        );
        assert!(end_of(&"ä".repeat(MOST)).ends_with('ä'));
    }
}

//! Where each field of a document stands in its source: what the values themselves do not know.

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle};

/// How deep lists and mappings may lie in one another: what the reader of values takes at most.
pub(super) const DEEPEST: usize = 128;

/// The lines of the fields of one document. What was put together without a source has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines(Option<Node>);

#[derive(Clone, Debug, PartialEq)]
struct Node {
    line: usize,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// A text on one line, an alias, or nothing.
    Plain,
    /// `|`: the text's lines follow the line of the bar, one for one.
    Literal,
    /// A text that spreads over several lines of the source in another way: the first of them, and all.
    Spread(usize, Vec<String>),
    /// Keys, each with its line.
    Mapping(Vec<(String, usize, Node)>),
    List(Vec<Node>),
}

impl Lines {
    /// Reads where the fields of a chunk of YAML stand; `first` lines of the source come before it. What the reader of
    /// values takes and this one does not, has no lines.
    pub(crate) fn read(chunk: &str, first: usize) -> Self {
        let mut reader = Reader {
            events: Vec::new(),
            source: chunk.lines().collect(),
            first,
        };
        for event in Parser::new_from_str(chunk) {
            let Ok((event, span)) = event else {
                return Self::default();
            };
            reader.events.push((event, span.start.line(), span.end.line()));
        }
        reader.events.reverse();
        Self(reader.node())
    }

    /// The lines of an item of a list that is a field of this document: of an object in a List.
    pub(super) fn of_item(&self, field: &str, index: usize) -> Self {
        let Some(Node {
            kind: Kind::Mapping(entries),
            ..
        }) = &self.0
        else {
            return Self::default();
        };
        let list = entries
            .iter()
            .find(|(key, ..)| key == field)
            .map(|(_, _, node)| &node.kind);
        match list {
            Some(Kind::List(items)) => Self(items.get(index).cloned()),
            _ => Self::default(),
        }
    }

    /// The line where the document's content begins.
    pub(super) fn start(&self) -> Option<usize> {
        self.0.as_ref().map(|node| node.line)
    }

    /// The line of the field at a JSON pointer; of what is nearest around it, where it is not there.
    pub fn of(&self, pointer: &str) -> Option<usize> {
        self.find(pointer).map(|(line, _)| line)
    }

    /// The line of the source on which a line of a text stands: the one with the number `line`, counted from 0, or where
    /// lines of text and source do not agree, the first one that holds `words`.
    pub fn within(&self, pointer: &str, line: usize, words: &str) -> Option<usize> {
        let (of_field, node) = self.find(pointer)?;
        Some(match node.map(|node| (&node.kind, node.line)) {
            Some((Kind::Literal, bar)) => bar + 1 + line,
            Some((Kind::Spread(start, source), _)) => {
                start + source.iter().position(|line| line.contains(words)).unwrap_or_default()
            }
            _ => of_field,
        })
    }

    /// The line of a field, and its node where it is there.
    fn find(&self, pointer: &str) -> Option<(usize, Option<&Node>)> {
        let mut node = self.0.as_ref()?;
        let mut line = node.line;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let next = match &node.kind {
                Kind::Mapping(entries) => entries
                    .iter()
                    .find(|(key, ..)| *key == step)
                    .map(|(_, line, node)| (*line, node)),
                Kind::List(items) => step
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get(index))
                    .map(|node| (node.line, node)),
                Kind::Plain | Kind::Literal | Kind::Spread(..) => None,
            };
            match next {
                Some((of_step, of_node)) => (line, node) = (of_step, of_node),
                None => return Some((line, None)),
            }
        }
        Some((line, Some(node)))
    }
}

/// Where a chunk of YAML goes deeper than [`DEEPEST`], line and column within it counted from one. The reader of values sees
/// that only after it has read the whole, in a time that grows with the square of the depth.
pub(super) fn too_deep(chunk: &str) -> Option<(usize, usize)> {
    let mut depth = 0_usize;
    for event in Parser::new_from_str(chunk) {
        let (event, span) = match event {
            Ok(event) => event,
            // It looks ahead for what ends a key, up to a limit of its own, which is higher.
            Err(error) if *error.kind() == ErrorKind::RecursionLimitExceeded => {
                return Some((error.marker().line(), error.marker().col() + 1));
            }
            // What this one does not take, that one has the words for.
            Err(_) => return None,
        };
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Some((span.start.line(), span.start.col() + 1));
        }
    }
    None
}

/// The events of a document, the next one last.
struct Reader<'a> {
    events: Vec<(Event<'a>, usize, usize)>,
    source: Vec<&'a str>,
    first: usize,
}

impl Reader<'_> {
    /// The next node; `None` where a collection or the document ends.
    fn node(&mut self) -> Option<Node> {
        loop {
            let (event, start, end) = self.events.pop()?;
            // A text in a block begins, to the parser, with its first line that is not blank.
            let line = match &event {
                Event::Scalar(text, ScalarStyle::Literal | ScalarStyle::Folded, ..) if end > start => {
                    let blank = text.bytes().take_while(|byte| *byte == b'\n').count();
                    start.saturating_sub(1 + blank)
                }
                _ => start,
            };
            let kind = match event {
                Event::Scalar(_, ScalarStyle::Literal, ..) => Kind::Literal,
                Event::Scalar(..) if end > start => {
                    let spread = self.source.get(start - 1..end.min(self.source.len()));
                    let spread = spread.unwrap_or_default().iter().map(|line| (*line).to_owned());
                    Kind::Spread(self.first + start, spread.collect())
                }
                Event::Scalar(..) | Event::Alias(_) => Kind::Plain,
                Event::SequenceStart(..) => Kind::List(std::iter::from_fn(|| self.node()).collect()),
                Event::MappingStart(..) => Kind::Mapping(std::iter::from_fn(|| self.entry()).collect()),
                Event::SequenceEnd | Event::MappingEnd | Event::DocumentEnd | Event::StreamEnd => return None,
                _ => continue,
            };
            return Some(Node {
                line: self.first + line,
                kind,
            });
        }
    }

    fn entry(&mut self) -> Option<(String, usize, Node)> {
        while matches!(self.events.last(), Some((Event::Comment(..), ..))) {
            self.events.pop();
        }
        let key = match self.events.last() {
            Some((Event::Scalar(text, ..), ..)) => text.clone().into_owned(),
            _ => String::new(),
        };
        let line = self.node()?.line;
        Some((key, line, self.node()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const SOURCE: &str = "# first\nkind: A\nspec:\n  list:\n  - name: x # why\n    value: |\n\n      one\n      two\n  - name: y\n    \
                          value: >\n      if a\n      then b\n  a/b: {c: [1,\n      2]}\n  alias: &x\n    z: 1\n  other: *x\n";

    #[rstest]
    #[case("", 12)]
    #[case("/kind", 12)]
    #[case("/spec/list", 14)]
    #[case("/spec/list/0", 15)]
    #[case("/spec/list/0/value", 16)]
    #[case("/spec/list/0/missing/deeper", 15)]
    #[case("/spec/list/1", 20)]
    #[case("/spec/list/7", 14)]
    #[case("/spec/a~1b/c/1", 25)]
    #[case("/spec/other/z", 28)]
    #[case("/metadata/labels", 12)]
    fn every_field_has_its_line_and_what_is_missing_that_of_its_parent(#[case] pointer: &str, #[case] line: usize) {
        assert_eq!(Lines::read(SOURCE, 10).of(pointer), Some(line));
    }

    #[test]
    fn a_line_of_a_text_has_its_own() {
        let lines = Lines::read(SOURCE, 10);
        assert_eq!(lines.within("/spec/list/0/value", 2, "two"), Some(19));
        assert_eq!(lines.within("/spec/list/1/value", 0, "then b"), Some(23));
        assert_eq!(lines.within("/spec/list/1/name", 0, "y"), Some(20));
    }

    #[test]
    fn what_has_no_source_has_no_lines() {
        assert_eq!(Lines::default().of("/kind"), None);
        assert_eq!(Lines::read("a: [", 0), Lines::default());
    }
}

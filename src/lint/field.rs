//! Objects and their fields as rules look at them: with the place where each stands, there or not.

use crate::manifest::Document;
use serde_json::Value;

/// An object of the deployment, with the file that it stands in.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// The file's name.
    pub file: &'a str,
    /// The object.
    pub document: &'a Document,
}

impl<'a> Object<'a> {
    /// The object as a whole.
    pub fn root(self) -> Field<'a> {
        Field {
            object: self,
            pointer: String::new(),
            value: &self.document.value,
        }
    }

    /// A field: its way from the object, as in `spec/template`.
    pub fn at(self, way: &str) -> Field<'a> {
        self.root().at(way)
    }

    /// Whether it is of a kind.
    pub fn is(self, kind: &str) -> bool {
        self.document.kind() == kind
    }

    /// Its namespace; empty where it names none.
    pub fn namespace(self) -> &'a str {
        self.at("metadata/namespace").text().unwrap_or_default()
    }

    /// Whether the two may be in one namespace: a manifest that names none is applied to any.
    pub fn may_meet(self, other: Object<'_>) -> bool {
        let (ours, theirs) = (self.namespace(), other.namespace());
        ours.is_empty() || theirs.is_empty() || ours == theirs
    }
}

/// A field of an object, also one that is not there.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    /// The object.
    pub object: Object<'a>,
    pointer: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    /// A field below this one: its way, as in `spec/template`. Keys that hold a slash are [`Self::key`]'s.
    pub fn at(&self, way: &str) -> Self {
        way.split('/').fold(self.clone(), |field, step| field.key(step))
    }

    /// The field of one key, or of one index of a list.
    pub fn key(&self, key: &str) -> Self {
        let value = match self.value {
            Value::Array(items) => key.parse().ok().and_then(|index: usize| items.get(index)),
            Value::Object(entries) => entries.get(key),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        };
        Self {
            object: self.object,
            pointer: format!("{}/{}", self.pointer, key.replace('~', "~0").replace('/', "~1")),
            value: value.unwrap_or(&Value::Null),
        }
    }

    /// The items of a list; none where it is not there.
    pub fn items(&self) -> Vec<Self> {
        let length = self.value.as_array().map_or(0, Vec::len);
        (0..length).map(|index| self.key(&index.to_string())).collect()
    }

    /// The entries of an object; none where it is not there.
    pub fn entries(&self) -> Vec<(&'a str, Self)> {
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(|(key, _)| (key.as_str(), self.key(key))).collect()
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        !self.value.is_null()
    }

    /// Its value; null where it is not there.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Its text, where it is one.
    pub fn text(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Whether it is the text.
    pub fn is(&self, text: &str) -> bool {
        self.text() == Some(text)
    }

    /// Its number, where it is a whole one.
    pub fn integer(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// Its name as people write it: `spec.template.spec.containers[0].image`.
    pub fn name(&self) -> String {
        let mut name = String::new();
        for step in self.pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            if step.bytes().all(|byte| byte.is_ascii_digit()) {
                name.push_str(&format!("[{step}]"));
            } else if step.contains(['.', '/']) {
                name.push_str(&format!("[\"{step}\"]"));
            } else {
                name.push_str(if name.is_empty() { "" } else { "." });
                name.push_str(&step);
            }
        }
        name
    }

    /// Its line in the file; of what is nearest around it where it is not there. `None` where the lines could not be read.
    pub fn line(&self) -> Option<usize> {
        self.object.document.lines.of(&self.pointer)
    }

    /// The line in the file of a line of its text, counted from 0, that holds `words`.
    pub fn line_within(&self, line: usize, words: &str) -> Option<usize> {
        self.object.document.lines.within(&self.pointer, line, words)
    }
}

/// Whether a label selector (`matchLabels`, `matchExpressions`) selects what has these labels. One that is empty selects
/// everything; one that is not there, nothing.
pub fn selects(selector: &Field<'_>, labels: &Field<'_>) -> bool {
    let label = |key: &str| labels.key(key).text();
    let fits = |expression: &Field<'_>| {
        let Some(key) = expression.at("key").text() else {
            return false;
        };
        let among = || {
            let values = expression.at("values").items();
            label(key).is_some_and(|value| values.iter().any(|allowed| allowed.is(value)))
        };
        match expression.at("operator").text() {
            Some("In") => among(),
            Some("NotIn") => !among(),
            Some("Exists") => label(key).is_some(),
            Some("DoesNotExist") => label(key).is_none(),
            _ => false,
        }
    };
    selector.is_there()
        && matches(&selector.at("matchLabels"), labels)
        && selector.at("matchExpressions").items().iter().all(fits)
}

/// Whether what has these labels has all that are asked for.
pub fn matches(asked: &Field<'_>, labels: &Field<'_>) -> bool {
    asked
        .entries()
        .iter()
        .all(|(key, value)| value.text().is_some() && labels.key(key).text() == value.text())
}

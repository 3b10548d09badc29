//! Lists that users write beside their manifests, as known failures and the cells of a matrix: entries of some fields, and the
//! line where each field stands.

use super::Lines;
use serde::de::DeserializeOwned;

/// What an entry of a list may say.
pub(crate) struct Form {
    /// The names of its fields.
    pub(crate) fields: &'static [&'static str],
    /// The same in words, for whoever must mend a list.
    pub(crate) words: &'static str,
}

/// Where the fields of a list stand.
pub(crate) struct Places {
    file: String,
    lines: Lines,
}

impl Places {
    /// File and line of a field (`/case`) of the entry with that index, or of the entry itself (an empty `field`).
    pub(crate) fn of(&self, index: usize, field: &str) -> String {
        match self.lines.of(&format!("/{index}{field}")) {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.clone(),
        }
    }
}

/// The entries of a list, and their places; a file with nothing in it lists nothing.
///
/// # Errors
/// When it is no YAML or no list, or a field is unknown, missing, or of another type. The text names file and line, and says
/// what is expected.
pub(crate) fn parse<T: DeserializeOwned>(file: &str, text: &str, form: &Form) -> anyhow::Result<(Vec<T>, Places)> {
    let words = form.words;
    let values: Option<Vec<serde_yaml::Value>> =
        serde_yaml::from_str(text).map_err(|error| match error.location() {
            Some(place) => anyhow::anyhow!("{file}:{}: {error}; a list is expected: {words}", place.line()),
            None => anyhow::anyhow!("{file}: {error}; a list is expected: {words}"),
        })?;
    let places = Places {
        file: file.to_owned(),
        lines: Lines::read(text, 0),
    };
    let mut entries = Vec::new();
    for (index, value) in values.unwrap_or_default().into_iter().enumerate() {
        // A field that should not be there has a line of its own.
        let unknown = value.as_mapping().and_then(|fields| {
            let mut names = fields.keys().filter_map(serde_yaml::Value::as_str);
            names.find(|name| !form.fields.contains(name))
        });
        if let Some(name) = unknown {
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            anyhow::bail!("{}: there is no field \"{name}\"; {words}", places.of(index, &pointer));
        }
        let entry = serde_yaml::from_value(value);
        entries.push(entry.map_err(|error| anyhow::anyhow!("{}: {error}; {words}", places.of(index, "")))?);
    }
    Ok((entries, places))
}

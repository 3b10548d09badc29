//! Kubernetes manifests: YAML documents in, parameters and patches applied to named fields, JSON documents out.
//!
//! Nothing here replaces text. Every document keeps the line of the source where it starts, so that a finding can point at
//! it. What servers would refuse although it is usual YAML is made explicit, and every such change is told.

pub(crate) mod lines;
pub(crate) mod list;
mod normalise;
pub mod parameters;
pub mod patch;
pub mod redact;

pub use lines::Lines;
use normalise::normalise;
pub use parameters::Parameters;
pub use patch::{Operation, Patch, PatchError};

use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// Why a manifest cannot be used. The text names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// The file is not YAML, or not Kubernetes objects.
    #[error("{file}:{line}:{column}: document {document}: {reason}")]
    Malformed {
        /// The file.
        file: String,
        /// The document, counted from one.
        document: usize,
        /// The line in the file, counted from one.
        line: usize,
        /// The column, counted from one.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// Something that a parameter or a patch names is not in the manifest.
    #[error("{file}: {reason}")]
    Missing {
        /// The file.
        file: String,
        /// What is not there.
        reason: String,
    },
}

/// One Kubernetes object, with its place in the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The line of the source where it starts, counted from one.
    pub line: usize,
    /// The object.
    pub value: Value,
    /// The lines of its fields.
    pub lines: Lines,
}

impl Document {
    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

impl std::fmt::Display for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind(), self.name())
    }
}

/// The objects of a deployment, in the order in which they are written.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The file's name, for messages.
    pub file: String,
    /// The objects.
    pub documents: Vec<Document>,
    /// What was made explicit, one line each: `Service/redis-service: spec.ports[0].protocol: TCP was added`.
    pub normalisations: Vec<String>,
}

impl Manifest {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is not YAML, or holds something that is no Kubernetes object.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&file, &text),
            Err(error) => Err(ManifestError::Unreadable {
                file,
                reason: error.to_string(),
            }),
        }
    }

    /// Parses the text of a file; `file` is its name in messages.
    ///
    /// # Errors
    /// When it is not YAML, or holds something that is no Kubernetes object.
    pub fn parse(file: &str, text: &str) -> Result<Self, ManifestError> {
        let mut manifest = Self {
            file: file.to_owned(),
            documents: Vec::new(),
            normalisations: Vec::new(),
        };
        for (number, (first, chunk)) in split(text).into_iter().enumerate() {
            manifest.read_document(number + 1, first, &chunk)?;
        }
        if manifest.documents.is_empty() {
            return Err(ManifestError::Missing {
                file: file.to_owned(),
                reason: "holds no Kubernetes object".to_owned(),
            });
        }
        for document in &mut manifest.documents {
            let name = document.to_string();
            let mut told = |change: String| manifest.normalisations.push(format!("{name}: {change}"));
            normalise(&mut document.value, &mut told);
        }
        Ok(manifest)
    }

    /// `first` is the source's line before the chunk begins, counted from zero.
    fn read_document(&mut self, number: usize, first: usize, chunk: &str) -> Result<(), ManifestError> {
        let start = first + 1 + chunk.lines().take_while(|line| is_blank(line)).count();
        let malformed = |line: usize, column: usize, reason: String| ManifestError::Malformed {
            file: self.file.clone(),
            document: number,
            line,
            column,
            reason,
        };
        if let Some((line, column)) = lines::too_deep(chunk) {
            let reason = format!("lists and mappings lie deeper than {} levels", lines::DEEPEST);
            return Err(malformed(first + line, column, reason));
        }
        let parse = || {
            let mut value = serde_yaml::Value::deserialize(serde_yaml::Deserializer::from_str(chunk))?;
            value.apply_merge()?;
            Ok(value)
        };
        let yaml = parse().map_err(|error: serde_yaml::Error| {
            let (line, column) = error
                .location()
                .map_or((start, 1), |place| (first + place.line(), place.column()));
            malformed(line, column, without_location(&error.to_string()))
        })?;
        let value = to_json(yaml).map_err(|reason| malformed(start, 1, reason))?;
        let lines = Lines::read(chunk, first);
        let objects = match value {
            Value::Null => return Ok(()),
            Value::Object(mut list) if list.get("kind").and_then(Value::as_str) == Some("List") => {
                match list.remove("items") {
                    Some(Value::Array(items)) => {
                        let lines = (0..items.len()).map(|index| lines.of_item("items", index));
                        lines.zip(items).collect()
                    }
                    _ => return Err(malformed(start, 1, "a List without items".to_owned())),
                }
            }
            object => vec![(lines, object)],
        };
        let mut documents = Vec::new();
        for (lines, value) in objects {
            let line = lines.start().unwrap_or(start);
            let document = Document { line, value, lines };
            for (what, found) in [
                ("apiVersion", document.api_version()),
                ("kind", document.kind()),
                ("metadata.name", document.name()),
            ] {
                if found.is_empty() {
                    let reason = format!("not a Kubernetes object: {what} is missing or not text");
                    return Err(malformed(start, 1, reason));
                }
            }
            documents.push(document);
        }
        self.documents.extend(documents);
        Ok(())
    }

    /// The object of a kind and name.
    pub fn find(&self, kind: &str, name: &str) -> Option<&Document> {
        self.documents
            .iter()
            .find(|document| document.kind() == kind && document.name() == name)
    }

    /// An entry of a ConfigMap's data: a `redis.conf`, for example.
    ///
    /// # Errors
    /// When there is no such ConfigMap or entry; the text says which there are.
    pub fn config_map(&self, name: &str, key: &str) -> Result<&str, ManifestError> {
        let data = self.data_of("ConfigMap", name, "data")?;
        data.get(key)
            .and_then(Value::as_str)
            .ok_or_else(|| self.missing(format!("ConfigMap/{name} has no entry {key}; it has {}", keys(data))))
    }

    /// An entry of a Secret, decoded.
    ///
    /// # Errors
    /// When there is no such Secret or entry, or it is not text.
    pub fn secret(&self, name: &str, key: &str) -> Result<String, ManifestError> {
        let document = self
            .find("Secret", name)
            .ok_or_else(|| self.missing(format!("there is no Secret/{name}")))?;
        // The API server lets stringData win over data.
        if let Some(text) = document.value["stringData"][key].as_str() {
            return Ok(text.to_owned());
        }
        let encoded = &document.value["data"][key];
        if encoded.is_null() {
            return Err(self.missing(format!("Secret/{name} has no entry {key}")));
        }
        serde_json::from_value::<k8s_openapi::ByteString>(encoded.clone())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes.0).ok())
            .ok_or_else(|| self.missing(format!("Secret/{name}: data.{key} is not base64 of text")))
    }

    /// The images of all containers, each once.
    pub fn images(&self) -> Vec<String> {
        let mut images = Vec::new();
        for document in &self.documents {
            for list in ["containers", "initContainers"] {
                let containers = document.value["spec"]["template"]["spec"][list].as_array();
                for container in containers.into_iter().flatten() {
                    if let Some(image) = container["image"].as_str()
                        && !images.iter().any(|known| known == image)
                    {
                        images.push(image.to_owned());
                    }
                }
            }
        }
        images
    }

    fn data_of(&self, kind: &str, name: &str, field: &str) -> Result<&Map<String, Value>, ManifestError> {
        self.find(kind, name)
            .and_then(|document| document.value[field].as_object())
            .ok_or_else(|| self.missing(format!("there is no {kind}/{name} with {field}")))
    }

    pub(crate) fn missing(&self, reason: String) -> ManifestError {
        ManifestError::Missing {
            file: self.file.clone(),
            reason,
        }
    }
}

fn keys(map: &Map<String, Value>) -> String {
    map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#') || line.starts_with('%')
}

/// Splits at the lines that begin a document; gives each with the number of lines before it. Documents of comments alone
/// are left out, as kubectl does.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut chunks = vec![(0, String::new())];
    for (number, line) in text.lines().enumerate() {
        let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
        match rest {
            Some(rest) if rest.is_empty() || rest.starts_with([' ', '\t']) => {
                // What follows the dashes on their line belongs to the document; blanks keep its column.
                chunks.push((number, format!("   {rest}\n")));
            }
            _ => {
                if let Some((_, chunk)) = chunks.last_mut() {
                    chunk.push_str(line);
                    chunk.push('\n');
                }
            }
        }
    }
    chunks.retain(|(_, chunk)| !chunk.lines().all(is_blank));
    chunks
}

/// The parser ends its messages with a place within the document, which would contradict the place in the file.
fn without_location(message: &str) -> String {
    match message.find(" at line ") {
        Some(at) => message[..at].to_owned(),
        None => message.to_owned(),
    }
}

/// YAML to JSON as kubectl does it: keys that are numbers or truth values become text.
fn to_json(yaml: serde_yaml::Value) -> Result<Value, String> {
    use serde_yaml::Value as Yaml;
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(truth) => Value::Bool(truth),
        Yaml::String(text) => Value::String(text),
        Yaml::Number(number) => number
            .as_i64()
            .map(Value::from)
            .or_else(|| number.as_u64().map(Value::from))
            .or_else(|| {
                number
                    .as_f64()
                    .and_then(serde_json::Number::from_f64)
                    .map(Value::Number)
            })
            .ok_or_else(|| format!("{number} is no number that JSON can hold"))?,
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Yaml::Mapping(entries) => {
            let mut object = Map::new();
            for (key, value) in entries {
                let key = match key {
                    Yaml::String(text) => text,
                    Yaml::Number(number) => number.to_string(),
                    Yaml::Bool(truth) => truth.to_string(),
                    Yaml::Null | Yaml::Sequence(_) | Yaml::Mapping(_) | Yaml::Tagged(_) => {
                        return Err("a key that is neither text, number nor truth value".to_owned());
                    }
                };
                object.insert(key, to_json(value)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => return Err(format!("the tag {} means nothing to Kubernetes", tagged.tag)),
    })
}

#[cfg(test)]
mod tests;

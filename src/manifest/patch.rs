//! Changes to named fields of a manifest: a selector of objects, a JSON pointer, and what to do there.

use super::{Manifest, ManifestError};
use serde::Deserialize;
use serde_json::{Map, Value};

/// One change.
///
/// ```yaml
/// - kind: StatefulSet
///   name: redis-cluster          # left out: every object of the kind
///   at: /spec/template/spec/containers/name=redis/command
///   prepend: [nice]
/// ```
///
/// `at` is a JSON pointer in which a step into a list may also be `field=value`: the one item whose field is that.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Patch {
    /// The kind of the objects.
    pub kind: String,
    /// The name of the object; every object of the kind where left out.
    pub name: Option<String>,
    /// The field.
    pub at: String,
    /// What to do there.
    pub operation: Operation,
}

/// What to do with a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Gives it this value; objects on the way that are missing are made.
    Set(Value),
    /// Takes it away; it must be there.
    Remove,
    /// Adds items at the end of a list, or text at the end of a text. A list that is missing is made.
    Append(Value),
    /// Adds items before those of a list, or text before a text.
    Prepend(Value),
}

/// A patch as it is written: exactly one of the operations.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    kind: String,
    name: Option<String>,
    at: String,
    set: Option<Value>,
    #[serde(default)]
    remove: bool,
    append: Option<Value>,
    prepend: Option<Value>,
}

/// As it is written.
impl schemars::JsonSchema for Patch {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Patch".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Written::json_schema(generator)
    }
}

impl TryFrom<Written> for Patch {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let mut operations = [
            written.set.map(Operation::Set),
            written.remove.then_some(Operation::Remove),
            written.append.map(Operation::Append),
            written.prepend.map(Operation::Prepend),
        ]
        .into_iter()
        .flatten();
        match (operations.next(), operations.next()) {
            (Some(operation), None) => Ok(Self {
                kind: written.kind,
                name: written.name,
                at: written.at,
                operation,
            }),
            (None, _) | (Some(_), Some(_)) => Err(format!(
                "the patch at {} needs exactly one of set, remove, append and prepend",
                written.at
            )),
        }
    }
}

/// Why a patch cannot be applied to an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {reason}")]
pub struct PatchError {
    /// As far as the pointer led.
    pub at: String,
    /// What was wrong there.
    pub reason: String,
}

impl Manifest {
    /// Applies a patch to every object that it selects.
    ///
    /// # Errors
    /// When it selects none, or leads nowhere: a patch that does nothing is a mistake.
    pub fn apply(&mut self, patch: &Patch) -> Result<(), ManifestError> {
        let mut applied = 0;
        for document in &mut self.documents {
            let selected =
                document.kind() == patch.kind && patch.name.as_ref().is_none_or(|name| document.name() == name);
            if !selected {
                continue;
            }
            apply(&mut document.value, &patch.at, &patch.operation).map_err(|error| ManifestError::Missing {
                file: format!("{}:{}", self.file, document.line),
                reason: format!("{document}: the patch cannot be applied: {error}"),
            })?;
            applied += 1;
        }
        if applied == 0 {
            let name = patch.name.as_deref().unwrap_or("*");
            return Err(self.missing(format!("a patch is for {}/{name}, which is not there", patch.kind)));
        }
        Ok(())
    }
}

/// Applies one operation to one object.
///
/// # Errors
/// When the pointer leads nowhere, or the field is not of the operation's form.
pub fn apply(object: &mut Value, at: &str, operation: &Operation) -> Result<(), PatchError> {
    let steps = steps(at)?;
    let Some((last, way)) = steps.split_last() else {
        return Err(failed(at, "the pointer names no field"));
    };
    let makes = matches!(operation, Operation::Set(_) | Operation::Append(_));
    let mut here = object;
    let mut path = String::new();
    for step in way {
        path.push('/');
        path.push_str(step);
        here = enter(here, step, makes).ok_or_else(|| failed(&path, "is not there"))?;
    }
    match operation {
        Operation::Set(value) => {
            let field = enter(here, last, true).ok_or_else(|| failed(at, "is not there"))?;
            *field = value.clone();
        }
        Operation::Remove => remove(here, last).ok_or_else(|| failed(at, "is not there"))?,
        Operation::Append(value) => {
            let field = enter(here, last, true).ok_or_else(|| failed(at, "is not there"))?;
            join(field, value, false).map_err(|reason| failed(at, &reason))?;
        }
        Operation::Prepend(value) => {
            let field = enter(here, last, false).ok_or_else(|| failed(at, "is not there"))?;
            join(field, value, true).map_err(|reason| failed(at, &reason))?;
        }
    }
    Ok(())
}

fn failed(at: &str, reason: &str) -> PatchError {
    PatchError {
        at: at.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The steps of a JSON pointer, unescaped (RFC 6901).
fn steps(at: &str) -> Result<Vec<String>, PatchError> {
    if !at.starts_with('/') {
        return Err(failed(at, "a pointer begins with a slash"));
    }
    Ok(at
        .split('/')
        .skip(1)
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
        .collect())
}

fn enter<'a>(here: &'a mut Value, step: &str, make: bool) -> Option<&'a mut Value> {
    if make && here.is_null() {
        *here = Value::Object(Map::new());
    }
    match here {
        Value::Object(object) => {
            if make && !object.contains_key(step) {
                object.insert(step.to_owned(), Value::Null);
            }
            object.get_mut(step)
        }
        Value::Array(items) => {
            let index = position(items, step)?;
            items.get_mut(index)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn position(items: &[Value], step: &str) -> Option<usize> {
    match step.split_once('=') {
        Some((field, wanted)) => items.iter().position(|item| item[field] == wanted),
        None => step.parse().ok(),
    }
}

fn remove(here: &mut Value, step: &str) -> Option<()> {
    match here {
        Value::Object(object) => object.remove(step).map(drop),
        Value::Array(items) => {
            let index = position(items, step).filter(|index| *index < items.len())?;
            items.remove(index);
            Some(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn join(field: &mut Value, more: &Value, before: bool) -> Result<(), String> {
    if field.is_null() {
        *field = Value::Array(Vec::new());
    }
    match (field, more) {
        (Value::Array(items), more) => {
            let more = match more {
                Value::Array(more) => more.clone(),
                one => vec![one.clone()],
            };
            let at = if before { 0 } else { items.len() };
            items.splice(at..at, more);
        }
        (Value::String(text), Value::String(more)) => {
            let at = if before { 0 } else { text.len() };
            text.insert_str(at, more);
        }
        _ => return Err("is neither a list nor a text that text can be joined to".to_owned()),
    }
    Ok(())
}

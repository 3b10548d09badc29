//! `run.json`: the run as it is, its schema, and the way back. Every other report can be made again from this file.

use super::{Run, SCHEMA_VERSION};
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};

/// The name of the file in the folder of a run.
pub const FILE: &str = "run.json";

/// The run as text: indented, with a line feed at its end.
///
/// # Errors
/// When a field cannot be written as JSON.
pub fn render(run: &Run) -> anyhow::Result<String> {
    let mut text = serde_json::to_string_pretty(run).context("the run cannot be written as JSON")?;
    text.push('\n');
    Ok(text)
}

/// Writes `run.json` into `folder`, whole or not at all, and returns its path.
///
/// # Errors
/// When the file cannot be written; the text names it.
pub fn write(run: &Run, folder: &Path) -> anyhow::Result<PathBuf> {
    super::write_whole(&folder.join(FILE), &render(run)?)
}

/// Reads a `run.json` back.
///
/// # Errors
/// When there is no such file, it is of another version of the model, or it is not a run; the text names the file.
pub fn read(path: &Path) -> anyhow::Result<Run> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a run", path.display()))
}

/// Reads a run from the text of a `run.json`, of this version of the model or another of the same major one.
///
/// # Errors
/// When it is of another major version, or not a run.
pub fn parse(text: &str) -> anyhow::Result<Run> {
    // The version comes first: a field that another version has or lacks would else be the message.
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        schema_version: String,
        #[serde(default)]
        suite: serde_json::Value,
    }
    let Head { schema_version, suite } = serde_json::from_str(text)?;
    let writer = suite["version"]
        .as_str()
        .map_or_else(String::new, |suite| format!(", written by suite {suite}"));
    let (own, other) = (version(SCHEMA_VERSION), version(&schema_version));
    let major = |version: Option<(u32, u32)>| version.map(|(major, _)| major);
    if other.is_none() || major(own) != major(other) {
        bail!(
            "its schemaVersion is {schema_version:?}{writer}; this suite ({}) reads {SCHEMA_VERSION:?} and others of that major \
             version: judge anew, or take the suite that wrote it",
            env!("CARGO_PKG_VERSION")
        );
    }
    serde_json::from_str(text).map_err(|error| {
        if other > own {
            anyhow::Error::from(error).context(format!(
                "its schemaVersion is {schema_version:?}{writer}, newer than {SCHEMA_VERSION:?}: take a suite as new as that"
            ))
        } else {
            error.into()
        }
    })
}

/// MAJOR.MINOR as numbers; nothing where it is something else.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The JSON schema of `run.json`, as `docs/run.schema.json` holds it.
///
/// # Errors
/// When the schema cannot be written as JSON.
pub fn schema() -> anyhow::Result<String> {
    let mut schema = schemars::schema_for!(Run);
    schema.insert(
        "title".into(),
        format!("run.json of redis-cluster-conformance, schemaVersion {SCHEMA_VERSION}").into(),
    );
    let mut text = serde_json::to_string_pretty(&schema).context("the schema cannot be written as JSON")?;
    text.push('\n');
    Ok(text)
}

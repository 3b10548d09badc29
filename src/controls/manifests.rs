//! Controls that are manifests: the deployment's own with one thing wrong, `manifests/controls/NAME.yaml`. `tests/manifests.rs`
//! shows without a cluster that exactly the rows which one names are missed by it, and, on kind, that the cases fail.

use crate::manifest::Patch;
use serde::Deserialize;
use std::collections::BTreeSet;

/// What stands before the name of such a control where cases name it.
pub const PREFIX: &str = "manifest:";

/// A manifest that is deliberately wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestControl {
    /// Its name, that of its file.
    #[serde(skip)]
    pub name: String,
    /// What is wrong, in one sentence.
    pub what: String,
    /// The manifest that is changed, by its name in `manifests/`.
    pub of: String,
    /// The changes.
    pub patches: Vec<Patch>,
    /// The rows of the catalogue that rules must find missed, beyond those that the unchanged manifest misses.
    pub fails: BTreeSet<String>,
    /// The rows whose cases must fail besides, which no rule can find in the manifest.
    #[serde(default)]
    pub shows: BTreeSet<String>,
    /// Whether servers come up and form a cluster with it: else it is shown without one only.
    #[serde(default = "yes")]
    pub forms: bool,
}

fn yes() -> bool {
    true
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../manifests/controls/", $name, ".yaml")))),*]
    };
}

/// Every file, which is part of the program.
static FILES: &[(&str, &str)] = files![
    "address-of-an-interface",
    "as-root",
    "asks-somebody",
    "bind-ipv4",
    "bootstrap-not-waited-for",
    "bus-closed",
    "bus-for-clients",
    "bus-open",
    "client-service-too-narrow",
    "cluster-domain-written-down",
    "configuration-may-change",
    "create-without-a-limit",
    "data-in-the-pod",
    "disruption-budget-of-three",
    "file-hidden",
    "goes-by-exit-codes",
    "governing-service-not-headless",
    "grace-period-of-a-second",
    "hook-calls-a-missing-program",
    "image-latest",
    "liveness-of-the-port",
    "log-in-a-file",
    "namespace-written-down",
    "no-announce-ip",
    "no-append-only-file",
    "no-disruption-budget",
    "no-maxmemory",
    "no-memory-limit",
    "no-readiness-probe",
    "not-ready-unpublished",
    "not-spread",
    "nothing-handed-over",
    "one-after-another",
    "own-name-in-the-hook",
    "password-in-a-config-map",
    "password-in-the-arguments",
    "password-through-a-service",
    "password-unquoted",
    "placeholder-storage-class",
    "ports-undeclared",
    "probe-ignores-the-reply",
    "pulled-at-every-start",
    "readiness-forgives",
    "readiness-of-the-port",
    "selector-astray",
    "zones-not-spanned",
];

/// Every manifest control, by name.
///
/// # Errors
/// When a file is no control: the text names it. Never in a released program: a test reads them.
pub fn all() -> Result<Vec<ManifestControl>, String> {
    let read = |(name, text): &(&str, &str)| {
        let control: ManifestControl =
            serde_yaml::from_str(text).map_err(|error| format!("manifests/controls/{name}.yaml: {error}"))?;
        Ok(ManifestControl {
            name: (*name).to_owned(),
            ..control
        })
    };
    FILES.iter().map(read).collect()
}

/// What is wrong with the control that a case names `manifest:NAME`; none where there is none of that name.
pub fn what(name: &str) -> Option<String> {
    let name = name.strip_prefix(PREFIX)?;
    let all = all().unwrap_or_default();
    all.into_iter()
        .find(|control| control.name == name)
        .map(|control| control.what)
}

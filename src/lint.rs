//! What a manifest says of a Redis Cluster before anything runs: rules over its objects, each a row of the catalogue.
//!
//! What is not in the files is not there: a PodDisruptionBudget that somebody makes by hand is missed. What cannot be decided
//! from the files (a script that is in the image, a variable's value) gives no finding.
//!
//! - [`workload`] finds what runs servers; [`field`], [`program`] and [`configuration`] are how rules look at it.
//! - The rules, by what they are about: `availability`, `bootstrap`, `network`, `password`, `pod`, `probes`, `server`.
//! - [`report`] shows what was found, to people and to programs.

mod availability;
mod bootstrap;
pub mod configuration;
pub mod field;
mod network;
mod password;
pub mod pod;
mod probes;
pub mod program;
pub mod report;
mod server;
pub mod tools;
mod words;
pub mod workload;

use crate::case::Level;
use crate::manifest::Manifest;
use field::{Field, Object};
use program::Text;
use std::collections::BTreeSet;
use workload::{Deployment, Workload};

/// One requirement of the catalogue, as far as a manifest can show that it is missed.
#[derive(Debug)]
pub struct Rule {
    /// The catalogue's row.
    pub row: &'static str,
    /// The rule's own name: a row may have several.
    pub name: &'static str,
    /// How binding it is; agrees with the requirement's wording.
    pub level: Level,
    /// One sentence with MUST or SHOULD.
    pub requirement: &'static str,
    /// Rows of the catalogue whose cases show the harm at run time; some of them are no cases yet.
    pub shown_by: &'static [&'static str],
    /// The traps of the article's manifest that it catches, by the catalogue's numbers.
    pub traps: &'static [&'static str],
    /// Looks at one workload.
    pub check: Check,
}

/// What a rule does.
pub type Check = for<'a> fn(&Deployment<'a>, &Workload<'a>) -> Vec<Flaw>;

/// Every rule, by what it is about.
pub static RULES: &[&[Rule]] = &[
    probes::RULES,
    availability::RULES,
    pod::RULES,
    network::RULES,
    server::RULES,
    password::RULES,
    bootstrap::RULES,
];

/// Every rule.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    RULES.iter().flat_map(|group| group.iter())
}

/// What a rule has found, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flaw {
    /// The file.
    pub file: String,
    /// The line of the field, or of what is nearest around one that is missing.
    pub line: Option<usize>,
    /// `StatefulSet/redis-cluster`.
    pub object: String,
    /// `spec.template.spec.containers[0].image`.
    pub field: String,
    /// What is there.
    pub found: String,
}

impl Flaw {
    /// At a field, or where it should be.
    pub fn at(field: &Field<'_>, found: impl Into<String>) -> Self {
        Self::new(field, field.line(), found)
    }

    /// On a line of a text, counted from 0, which holds `words`.
    pub fn in_text(text: &Text<'_>, line: usize, words: &str, found: impl Into<String>) -> Self {
        Self::new(&text.field, text.field.line_within(line, words), found)
    }

    fn new(field: &Field<'_>, line: Option<usize>, found: impl Into<String>) -> Self {
        Self {
            file: field.object.file.to_owned(),
            line,
            object: field.object.document.to_string(),
            field: field.name(),
            found: found.into(),
        }
    }
}

/// A flaw, with the rule that found it.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// What it found.
    pub flaw: Flaw,
}

/// A workload that was judged.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Judged {
    /// `StatefulSet/redis-cluster`.
    pub object: String,
    /// The file that it stands in.
    pub file: String,
    /// Its line.
    pub line: usize,
    /// By what it was recognised as one of a Redis Cluster.
    pub evidence: String,
}

/// The servers among the objects of a manifest, and all that is around them.
pub fn recognise(manifest: &Manifest) -> Deployment<'_> {
    let file = manifest.file.as_str();
    let objects = manifest.documents.iter().map(|document| Object { file, document });
    Deployment::recognise(objects.collect())
}

/// The kinds of objects without which nothing can be said of a row.
pub fn kinds_of(row: &str) -> Vec<&'static str> {
    let own = match row {
        "K8S-02" => "Secret",
        "K8S-03" | "K8S-04" | "NET-03" => "Service",
        "K8S-08" => "PodDisruptionBudget",
        "K8S-19" | "AUTH-10" | "NET-09" => "NetworkPolicy",
        _ => "ConfigMap",
    };
    vec!["StatefulSet", "ConfigMap", own]
}

/// What linting gave.
#[derive(Clone, Debug)]
pub struct Lint {
    /// What was judged.
    pub workloads: Vec<Judged>,
    /// What runs a Redis server, but none of a cluster as far as can be seen: not judged.
    pub alone: Vec<String>,
    /// What was found, by file and line.
    pub findings: Vec<Finding>,
}

impl Lint {
    /// Applies every rule to the manifests of one deployment.
    pub fn of(manifests: &[Manifest]) -> Self {
        let objects = manifests.iter().flat_map(|manifest| {
            let file = manifest.file.as_str();
            manifest.documents.iter().map(move |document| Object { file, document })
        });
        Self::of_objects(objects.collect())
    }

    /// The same for some workloads of several, each named as `StatefulSet/redis-cluster`. Nothing is judged where none is
    /// recognised.
    pub fn of_workloads(manifest: &Manifest, names: &[String]) -> Self {
        let own = |workload: &Workload<'_>| names.contains(&workload.object.document.to_string());
        Self::of_deployment(&recognise(manifest), own)
    }

    fn of_objects(objects: Vec<Object<'_>>) -> Self {
        Self::of_deployment(&Deployment::recognise(objects), |_| true)
    }

    fn of_deployment(deployment: &Deployment<'_>, judged: impl Fn(&Workload<'_>) -> bool) -> Self {
        let mut seen = BTreeSet::new();
        let mut findings = Vec::new();
        let judged = &judged;
        let own = || deployment.workloads.iter().filter(move |workload| judged(workload));
        for workload in own() {
            for rule in rules() {
                for flaw in (rule.check)(deployment, workload) {
                    // Several workloads may read one ConfigMap.
                    if seen.insert((rule.name, flaw.clone())) {
                        findings.push(Finding { rule, flaw });
                    }
                }
            }
        }
        let file = |name: &str| deployment.objects.iter().position(|object| object.file == name);
        findings.sort_by_key(|finding| (file(&finding.flaw.file), finding.flaw.line, finding.rule.row));
        let told = |workload: &Workload<'_>| Judged {
            object: workload.object.document.to_string(),
            file: workload.object.file.to_owned(),
            line: workload.object.document.line,
            evidence: workload.evidence.clone(),
        };
        Self {
            workloads: own().map(told).collect(),
            alone: deployment
                .alone
                .iter()
                .map(|object| object.document.to_string())
                .collect(),
            findings,
        }
    }

    /// What was found for a row: first what makes a case of that level fail, then what only should be otherwise.
    pub fn of_row(&self, row: &str, level: Level) -> (Vec<&Finding>, Vec<&Finding>) {
        let own = self.findings.iter().filter(|finding| finding.rule.row == row);
        own.partition(|finding| level == Level::Should || finding.rule.level == Level::Must)
    }

    /// How many findings there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.rule.level == level)
            .count()
    }
}

#[cfg(test)]
mod tests;

//! The cases as people read them without running any: `list`, `explain`, and `CASES.md`. The rows of the catalogue that
//! are no case stand beside them, each with its reason.

use crate::case::{Capability, Case, CaseId, Impact, Level, Omission, Profile, Seed};
use crate::cases;
use crate::cases::omissions::OMISSIONS;
use crate::controls::{self, Control};
use crate::timing::TIMINGS;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// The node-timeout for which `explain` works out time limits: the canonical deployment's.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// The chapters of the catalogue, in its order: the beginning of the ids, and what the chapter is about.
pub static CHAPTERS: &[(&str, &str)] = &[
    ("BOOT", "bootstrap"),
    ("SLOT", "slot coverage"),
    ("REPL", "replica pairing and replication"),
    ("AUTH", "password enforcement"),
    ("HASH", "keys, slots and hash tags"),
    ("REDIR", "redirections"),
    ("MULTI", "several keys, transactions, scripts, databases"),
    ("FAIL", "failover"),
    ("PART", "partitions"),
    ("CONS", "consistency"),
    ("SHARD", "resharding and scaling"),
    ("TOPO", "topology, gossip, bus"),
    ("PERS", "persistence"),
    ("K8S", "the manifest and its workload"),
    ("NET", "networking and names"),
    ("OPS", "operations"),
];

/// A row of the catalogue: a case, or the reason why it is none.
#[derive(Clone, Copy, Debug)]
pub enum Row {
    /// A case.
    Case(&'static Case),
    /// A row that is no case on any target.
    Omission(&'static Omission),
}

impl Row {
    /// The catalogue's identifier.
    pub fn id(&self) -> CaseId {
        match self {
            Self::Case(case) => case.id,
            Self::Omission(omission) => omission.id,
        }
    }

    /// A fact in the present tense.
    pub fn title(&self) -> &'static str {
        match self {
            Self::Case(case) => case.title,
            Self::Omission(omission) => omission.title,
        }
    }

    /// One normative sentence.
    pub fn requirement(&self) -> &'static str {
        match self {
            Self::Case(case) => case.requirement,
            Self::Omission(omission) => omission.requirement,
        }
    }

    /// Where the requirement comes from.
    pub fn source(&self) -> &'static str {
        match self {
            Self::Case(case) => case.source,
            Self::Omission(omission) => omission.source,
        }
    }

    /// How binding it is.
    pub fn level(&self) -> Level {
        match self {
            Self::Case(case) => case.level,
            Self::Omission(omission) => omission.level,
        }
    }

    /// The part of the catalogue.
    pub fn profile(&self) -> Profile {
        match self {
            Self::Case(case) => case.profile,
            Self::Omission(omission) => omission.profile,
        }
    }

    /// The seed assertions that it belongs to.
    pub fn seed(&self) -> &'static [Seed] {
        match self {
            Self::Case(case) => case.seed,
            Self::Omission(omission) => omission.seed,
        }
    }

    /// What it does to the deployment; nothing where it is no case.
    pub fn impact(&self) -> Option<Impact> {
        match self {
            Self::Case(case) => Some(case.impact),
            Self::Omission(_) => None,
        }
    }
}

/// Every row: by chapter, and by id within one.
pub fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = cases::all()
        .map(Row::Case)
        .chain(OMISSIONS.iter().map(Row::Omission))
        .collect();
    let place = |chapter: &str| CHAPTERS.iter().position(|(name, _)| *name == chapter);
    rows.sort_by_key(|row| (place(row.id().chapter()), row.id()));
    rows
}

/// The row with an id, in upper or lower case.
pub fn find(id: &str) -> Option<Row> {
    rows().into_iter().find(|row| row.id().0.eq_ignore_ascii_case(id))
}

/// The word by which reports write an enumerated value.
pub fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().map(str::to_owned).unwrap_or_default()
}

fn words<T: Serialize>(values: &[T]) -> String {
    values.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// The rows on a line each, as `list` prints them, with their count at the end.
pub fn list(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let impact = row
            .impact()
            .map_or_else(|| "no case".to_owned(), |impact| word(&impact));
        let seed: Vec<String> = row.seed().iter().map(|seed| format!("{seed:?}")).collect();
        text.push_str(&format!(
            "{:<9} {:<7} {:<11} {:<11} {:<17} {}\n",
            row.id(),
            word(&row.level()),
            word(&row.profile()),
            impact,
            seed.join(","),
            row.title()
        ));
        if let Row::Omission(omission) = row {
            text.push_str(&format!("{:<9} no case: {}\n", "", omission.reason));
        }
    }
    let cases = rows.iter().filter(|row| matches!(row, Row::Case(_))).count();
    let others = match rows.len() - cases {
        0 => String::new(),
        1 => ", and 1 row of the catalogue that is no case".to_owned(),
        more => format!(", and {more} rows of the catalogue that are no case"),
    };
    text.push_str(&format!("{cases} cases{others}\n"));
    text
}

/// The rows as `list --json` gives them. `noCase` is the reason of a row that is none.
pub fn listed(rows: &[Row]) -> serde_json::Value {
    let listed = rows.iter().map(|row| {
        let mut value = serde_json::json!({
            "id": row.id(), "title": row.title(), "requirement": row.requirement(), "source": row.source(),
            "level": row.level(), "profile": row.profile(), "seed": row.seed(), "impact": row.impact(),
        });
        let rest = match row {
            Row::Case(case) => serde_json::json!({
                "needs": case.needs, "features": case.features, "bound": case.bound, "controls": case.controls,
                "method": case.method, "noCase": null,
            }),
            Row::Omission(omission) => serde_json::json!({
                "needs": [], "features": [], "bound": "-", "controls": [], "method": null, "noCase": omission.reason,
            }),
        };
        if let (Some(value), serde_json::Value::Object(rest)) = (value.as_object_mut(), rest) {
            value.extend(rest);
        }
        value
    });
    listed.collect()
}

/// Everything that a person needs to judge a failure of the row without the source at hand.
pub fn explain(row: Row) -> String {
    let mut text = format!("{}  {}\n\n{}\n\n", row.id(), row.title(), row.requirement());
    let seed: Vec<String> = row
        .seed()
        .iter()
        .map(|seed| format!("{seed:?} {}", seed.title()))
        .collect();
    let level = match row.level() {
        Level::Must => "must: a failure makes the deployment not conformant",
        Level::Should => "should: a failure counts with --strict only",
    };
    let mut say = |name: &str, value: &str| {
        text.push_str(&format!("{name}: {}\n", if value.is_empty() { "none" } else { value }));
    };
    say("source", row.source());
    say("level", level);
    say("profile", &word(&row.profile()));
    say("seed assertions", &seed.join(", "));
    match row {
        Row::Omission(omission) => say("no case", omission.reason),
        Row::Case(case) => {
            say("how it is checked", case.method);
            say("impact", impact_in_words(case.impact));
            say("what the target must be able to do", &words(case.needs));
            text.push_str(&features(case));
            text.push_str(&bound(case.bound));
            text.push_str(&controls_of(case));
            text.push_str(&format!(
                "\nalone: redis-cluster-conformance run {} {}\n",
                case.id,
                alone(case.needs)
            ));
        }
    }
    text
}

/// The options with which a case with these needs can run alone: over servers on this machine, where they are enough.
fn alone(needs: &[Capability]) -> String {
    let mut options = match needs.iter().any(|need| is_of_platform(*need)) {
        true => "--target kind".to_owned(),
        false => "--target processes".to_owned(),
    };
    if needs
        .iter()
        .any(|need| matches!(need, Capability::Drain | Capability::LoseHost))
    {
        options.push_str(" --nodes 4");
    }
    if needs.contains(&Capability::Upgrade) {
        options.push_str(" --upgrade-to IMAGE");
    }
    options
}

/// Whether servers alone do not do: it takes Kubernetes, or what looks after them there.
fn is_of_platform(need: Capability) -> bool {
    match need {
        Capability::Kubernetes
        | Capability::Variant
        | Capability::BlockBus
        | Capability::Disconnect
        | Capability::Evict
        | Capability::ForceDelete
        | Capability::Companion
        | Capability::Tended
        | Capability::Scale
        | Capability::RollOut
        | Capability::Upgrade
        | Capability::Reapply
        | Capability::LoseApi
        | Capability::Drain
        | Capability::LoseHost => true,
        Capability::Restart
        | Capability::KeepAway
        | Capability::Crash
        | Capability::Kill
        | Capability::Pause
        | Capability::CutLink
        | Capability::NewAddress
        | Capability::LoseVolume
        | Capability::SmallVolume
        | Capability::Scratch
        | Capability::Exec
        | Capability::Files
        | Capability::SwapAddresses
        | Capability::Replicas
        | Capability::Shards
        | Capability::Peers => false,
    }
}

fn impact_in_words(impact: Impact) -> &'static str {
    match impact {
        Impact::ReadOnly => "read-only",
        Impact::Writes => "writes: keys of its own, removed afterwards",
        Impact::Apart => "apart: on servers of its own beside the deployment",
        Impact::Disruptive => "disruptive: it breaks nodes or links or changes the topology, and puts all back",
    }
}

fn features(case: &Case) -> String {
    let mut text = "what the server must offer: ".to_owned();
    if case.features.is_empty() {
        text.push_str("nothing special");
    }
    let probed: Vec<String> = case
        .features
        .iter()
        .map(|feature| format!("{} (lacking where {})", word(feature), feature.lacking_where()))
        .collect();
    text.push_str(&probed.join("; "));
    text.push('\n');
    text
}

/// The time limit, and each of its names with formula, number and reason.
fn bound(formula: &str) -> String {
    let mut text = match formula {
        "-" => "time limit: none of its own; every reply within T_reply\n".to_owned(),
        formula => format!("time limit: {formula}\n"),
    };
    let parts: BTreeSet<&str> = formula
        .split(|at: char| !(at.is_alphanumeric() || at == '_'))
        .chain((formula == "-").then_some("T_reply"))
        .collect();
    for named in TIMINGS.iter().filter(|named| parts.contains(named.name)) {
        let seconds = named.limit(NODE_TIMEOUT).as_secs_f64();
        let number = if named.formula.contains("NT") {
            format!("{} = {seconds} s with the node-timeout NT = 5 s", named.formula)
        } else {
            format!("{seconds} s")
        };
        text.push_str(&format!("  {} = {number}: {}\n", named.name, named.reason));
    }
    text
}

/// The deployments on which it must fail, and what is wrong with each.
fn controls_of(case: &Case) -> String {
    let known: Vec<&Control> = controls::all().collect();
    let mut text = "fails on these controls, deployments that are wrong on purpose:".to_owned();
    if case.controls.is_empty() {
        text.push_str(" none");
    }
    text.push('\n');
    for name in case.controls {
        let run = known.iter().find(|control| control.name == *name);
        let what = run
            .map(|control| control.what.to_owned())
            .or_else(|| controls::manifests::what(name));
        text.push_str(&format!("  {name}: {}\n", what.as_deref().unwrap_or("unknown")));
    }
    text
}

/// `CASES.md`: every row of the catalogue, a table a chapter.
pub fn markdown() -> String {
    let rows = rows();
    let count = |profile: Profile| {
        let of = |row: &&Row| matches!(row, Row::Case(_)) && row.profile() == profile;
        rows.iter().filter(of).count()
    };
    let profiles = [Profile::Core, Profile::Extended, Profile::Kubernetes, Profile::Chaos];
    let sums: Vec<String> = profiles
        .iter()
        .map(|profile| format!("{} {}", count(*profile), word(profile)))
        .collect();
    let cases = rows.iter().filter(|row| matches!(row, Row::Case(_))).count();
    let mut text = format!(
        "# Cases\n\nWritten by `RCC_UPDATE=1 cargo test --test registry`; edit the table in `src/cases/` instead.\n\
         `redis-cluster-conformance explain ID` gives the requirement, its source, how it is checked, and its controls.\n\n\
         {cases} cases: {}. Rows of the catalogue that are no case, each with the reason: {}.\n\n\
         - **level**: a failed `must` makes the deployment not conformant; a failed `should` only with `--strict`\n\
         - **profile**: `core` the protocol on any deployment, `extended` optional or dependent on the version, \
         `kubernetes` needs its API, `chaos` faults\n\
         - **impact**: `read-only`; `writes` keys of its own; `apart` servers of its own beside the deployment; \
         `disruptive` breaks and puts back\n\
         - **needs**: what the target must be able to do, and *what the server must offer* (probed)\n\
         - **limit**: over the names in `src/timing.rs`\n\
         - **controls**: how many deliberately wrong deployments show that it can fail\n",
        sums.join(", "),
        rows.len() - cases
    );
    for (chapter, about) in CHAPTERS {
        let own: Vec<&Row> = rows.iter().filter(|row| row.id().chapter() == *chapter).collect();
        if own.is_empty() {
            continue;
        }
        text.push_str(&format!(
            "\n## {chapter}: {about}\n\n\
             | id | what it says | level | profile | seed | impact | needs | limit | controls |\n\
             |---|---|---|---|---|---|---|---|---:|\n"
        ));
        for row in own {
            text.push_str(&markdown_row(*row));
        }
    }
    text
}

fn markdown_row(row: Row) -> String {
    let seed: Vec<String> = row.seed().iter().map(|seed| format!("{seed:?}")).collect();
    let (title, impact, needs, limit, controls) = match row {
        Row::Case(case) => {
            let features = case.features.iter().map(|feature| format!("*{}*", word(feature)));
            let needs: Vec<String> = case.needs.iter().map(word).chain(features).collect();
            let limit = if case.bound == "-" { "" } else { case.bound };
            (
                case.title.to_owned(),
                word(&case.impact),
                needs.join(", "),
                limit,
                case.controls.len().to_string(),
            )
        }
        Row::Omission(omission) => (
            format!("{}. No case: {}", omission.title, omission.reason),
            "no case".to_owned(),
            String::new(),
            "",
            String::new(),
        ),
    };
    let cells = [
        row.id().to_string(),
        title,
        word(&row.level()),
        word(&row.profile()),
        seed.join(" "),
        impact,
        needs,
        limit.to_owned(),
        controls,
    ];
    // A bar ends a cell, and what looks like a tag vanishes.
    let cells = cells.map(|cell| cell.replace('|', "\\|").replace('<', "&lt;"));
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::nothing(&[], "--target processes")]
    #[case::servers(&[Capability::KeepAway, Capability::CutLink, Capability::Replicas], "--target processes")]
    #[case::objects(&[Capability::Kubernetes], "--target kind")]
    #[case::both(&[Capability::Restart, Capability::Tended], "--target kind")]
    #[case::hosts(&[Capability::Kubernetes, Capability::Drain], "--target kind --nodes 4")]
    #[case::another_version(&[Capability::Upgrade, Capability::Shards], "--target kind --upgrade-to IMAGE")]
    fn a_case_runs_alone_where_it_has_what_it_needs(#[case] needs: &[Capability], #[case] options: &str) {
        assert_eq!(alone(needs), options);
    }
}

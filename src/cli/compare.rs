//! `compare`: two runs side by side, and what may not get worse.

use super::kept;
use crate::exit;
use crate::report::compare::{self, Comparison, Worse};
use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Two runs, and what is asked of their comparison.
#[derive(Args)]
pub(super) struct CompareArguments {
    /// The run.json of the first run, or the folder that it is in: of main, of the release before.
    before: PathBuf,
    /// That of the second run: of the pull request, of the next release.
    after: PathBuf,
    /// As what.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write it into this file; standard output then has it as text.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What may not get worse: such a change makes the exit code 1. With `none` nothing does.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "broken",
        value_name = "LIST"
    )]
    fail_on: Vec<FailOn>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For a terminal or a log.
    Text,
    /// For the page of a CI job.
    Markdown,
    /// For programs.
    Json,
}

/// [`Worse`], and a word for nothing.
#[derive(Clone, Copy, ValueEnum)]
enum FailOn {
    /// A case fails now, and did not before, or is in the second run only; and is not known.
    Broken,
    /// A case is no longer supported.
    Unsupported,
    /// A case is no longer judged: skipped, blocked, or the suite broke.
    Unjudged,
    /// A case is not in the second run.
    Removed,
    /// A time is longer beyond noise.
    Slower,
    /// More acknowledged writes were lost, or more was wrong after a fault.
    Lossier,
    /// The runs differ in target, server, suite, or what counted.
    Different,
    /// Nothing.
    None,
}

impl FailOn {
    fn worse(self) -> Option<Worse> {
        match self {
            Self::Broken => Some(Worse::Broken),
            Self::Unsupported => Some(Worse::Unsupported),
            Self::Unjudged => Some(Worse::Unjudged),
            Self::Removed => Some(Worse::Removed),
            Self::Slower => Some(Worse::Slower),
            Self::Lossier => Some(Worse::Lossier),
            Self::Different => Some(Worse::Different),
            Self::None => None,
        }
    }
}

/// Compares, tells, and gives the exit code.
pub(super) fn compare(arguments: &CompareArguments) -> anyhow::Result<u8> {
    if arguments.fail_on.len() > 1 && arguments.fail_on.iter().any(|fail_on| fail_on.worse().is_none()) {
        bail!("--fail-on: none stands alone: with it nothing is to fail");
    }
    let ((before_file, before), (after_file, after)) = (kept(&arguments.before)?, kept(&arguments.after)?);
    let (of_before, of_after) = (before_file.display().to_string(), after_file.display().to_string());
    let comparison = Comparison::of((&of_before, &before), (&of_after, &after));
    let text = match arguments.format {
        Format::Text => compare::text(&comparison),
        Format::Markdown => compare::markdown(&comparison),
        Format::Json => serde_json::to_string_pretty(&comparison)? + "\n",
    };
    match &arguments.out {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
            anstream::print!("{}", compare::text(&comparison));
        }
        None => anstream::print!("{text}"),
    }
    let counts: Vec<Worse> = arguments.fail_on.iter().filter_map(|fail_on| fail_on.worse()).collect();
    Ok(exit::of_comparison(&comparison, &counts))
}

//! Help beyond the options: examples, completion for shells, the manual.

use crate::exit;
use anyhow::{Context as _, bail};
use clap::Command;
use std::fs;
use std::path::Path;

/// Examples of `run`.
pub(super) const RUN: &str = "\
Examples:
  redis-cluster-conformance run --target processes
      a first verdict, without Docker
  redis-cluster-conformance run A1 AUTH REPL-03 --skip AUTH-20
      by assertion, chapter, id
  redis-cluster-conformance run --target kubernetes --namespace shop --target-file shop.yaml
      what is there; what would break it is left out without --allow-disruptive
  redis-cluster-conformance run --target kubernetes --namespace test --apply --target-file shop.yaml
      applied there, judged, and removed (once `manifest` or `install` is filled in)
  redis-cluster-conformance run --known-failing known-failing.yaml --out out/pr
      a gate: what is listed may fail until its date
  redis-cluster-conformance run --trials 10 --fault kill --target processes
      failover as figures

A file of known failures is a list; the case still runs, and the run fails when it passes, or after the date:
  - case: FAIL-11
    reason: no handover before the pod ends; issue 12
    until: 2027-03-31
  - {case: NET-08, reason: slow on the shared runners, until: 2027-01-31, flaky: true}

Then: `explain ID` for a case that failed, `compare` for two runs.";

/// Examples of `lint`.
pub(super) const LINT: &str = "\
Examples:
  redis-cluster-conformance lint redis.yaml
  redis-cluster-conformance lint redis.yaml redis-policies.yaml
      all files of one deployment
  helm template shop ./chart | redis-cluster-conformance lint -
  redis-cluster-conformance lint --strict redis.yaml
      a missed should counts too

Then: `explain ID` for a row, `run ID` for the harm on a cluster that runs.";

/// Examples of `compare`.
pub(super) const COMPARE: &str = "\
Examples:
  redis-cluster-conformance compare out/main/run.json out/pr/run.json
  redis-cluster-conformance compare out/main/run.json out/pr/run.json --fail-on broken,unsupported,lossier,slower
      what may not get worse
  redis-cluster-conformance compare out/main/run.json out/pr/run.json --format markdown >> \"$GITHUB_STEP_SUMMARY\"

Times count over trials: run both with `--trials 5 --fault kill`.";

/// Examples of `matrix`.
pub(super) const MATRIX: &str = "\
Examples:
  redis-cluster-conformance matrix --page docs/conformance.md
      every cell of manifests/matrix.yaml, and the page
  redis-cluster-conformance matrix --only redis-6.0-docker,valkey-9-docker
  redis-cluster-conformance matrix --resume
      goes on where an earlier one was interrupted
  redis-cluster-conformance matrix --render --page docs/conformance.md
      the page again, without a run

A list of cells; `run` is what would be typed after `redis-cluster-conformance run`, but for --out:
  - cell: redis-6.0-docker
    run: --target docker --image redis-cluster-conformance/redis:6.0 --profile core

Then: the page; DIR/NAME/report.html for a cell.";

/// Examples of `init`.
pub(super) const INIT: &str = "\
Examples:
  redis-cluster-conformance init --namespace shop --out shop.yaml
  redis-cluster-conformance init --namespace shop --selector app=cache,tier=backend
      where there is more than one cluster

Then: `run --target kubernetes --target-file shop.yaml`.";

/// Examples of `completion`.
pub(super) const COMPLETION: &str = "\
Examples:
  redis-cluster-conformance completion bash > /etc/bash_completion.d/redis-cluster-conformance
  redis-cluster-conformance completion zsh > ~/.zfunc/_redis-cluster-conformance
  redis-cluster-conformance completion fish > ~/.config/fish/completions/redis-cluster-conformance.fish";

/// Examples of `man`.
pub(super) const MAN: &str = "\
Examples:
  redis-cluster-conformance man | man -l -
  redis-cluster-conformance man --out /usr/local/share/man/man1
      a page a command, for `man redis-cluster-conformance-run`";

/// Prints the completion of a shell.
pub(super) fn completion(mut all: Command, shell: clap_complete::Shell) -> anyhow::Result<u8> {
    let name = all.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut all, name, &mut text);
    anstream::print!("{}", String::from_utf8(text)?);
    Ok(exit::CONFORMANT)
}

/// Prints the manual page of all commands together, or of one; or writes the page of each (or of the one) into a folder, by the
/// name that `man` looks for.
///
/// # Errors
/// When there is no such command, or a page cannot be written; the text names it.
pub(super) fn man(all: Command, name: Option<&str>, out: Option<&Path>) -> anyhow::Result<u8> {
    let mut all = all.disable_help_subcommand(true);
    // Names of commands become redis-cluster-conformance-run, as pages are filed.
    all.build();
    let mut commands = match name {
        None => vec![all.clone()],
        Some(name) => match all.find_subcommand(name) {
            Some(command) => vec![command.clone()],
            None => bail!("there is no command \"{name}\"; `--help` shows them"),
        },
    };
    let Some(folder) = out else {
        for command in commands {
            anstream::print!("{}", page(command)?);
        }
        return Ok(exit::CONFORMANT);
    };
    if name.is_none() {
        commands.extend(all.get_subcommands().filter(|command| !command.is_hide_set()).cloned());
    }
    for command in commands {
        let file = format!("{}.1", command.get_display_name().unwrap_or(command.get_name()));
        let path = folder.join(file);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, page(command)?))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        anstream::println!("{}", path.display());
    }
    Ok(exit::CONFORMANT)
}

/// The manual page of a command, in ASCII: troff by itself reads nothing else.
fn page(command: Command) -> std::io::Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text)?;
    let mut page = String::new();
    for character in String::from_utf8_lossy(&text).chars() {
        match character {
            // A terminal that knows ASCII alone would show nothing for it.
            '…' => page += "...",
            _ if character.is_ascii() => page.push(character),
            _ => page += &format!("\\[u{:04X}]", u32::from(character)),
        }
    }
    Ok(page)
}

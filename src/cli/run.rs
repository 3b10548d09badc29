//! `run`: what its command line says, and the runs that it makes.

use super::{Broken, LayoutArguments, SelectionArguments, WIDTH, colour};
use crate::budget::{self, Costs};
use crate::case::{Case, CaseId, Impact};
use crate::cluster::connection::Address;
use crate::exit;
use crate::known;
use crate::manifest::parameters::Parameters;
use crate::progress::Progress;
use crate::report::repeat::{self, Repeat};
use crate::report::{self, Run, Strictness, json};
use crate::request::{self, Request, new_run_id};
use crate::runner;
use crate::selection::Selection;
use crate::surroundings;
use crate::target::descriptor::PasswordSource;
use crate::target::{Secret, TargetKind};
use crate::timing::Timing;
use crate::trials::{TrialFault, Trials};
use crate::workload::Rate;
use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use futures::FutureExt;
use std::collections::{BTreeMap, BTreeSet};
use std::env::VarError;
use std::io::IsTerminal;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    selection: SelectionArguments,
    /// What is judged. Without it: kind, and with --in-cluster kubernetes.
    #[arg(long, value_enum, env = "RCC_TARGET")]
    target: Option<TargetKind>,
    /// The description of the deployment; the canonical one without it.
    #[arg(long, value_name = "FILE")]
    target_file: Option<PathBuf>,
    /// Where run.json, junit.xml, summary.md, report.html and the evidence go.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// processes: the server's binary.
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// addresses: every node, as host:port,host:port.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    addresses: Vec<Address>,
    /// How many masters there should be.
    #[arg(long, value_name = "N")]
    masters: Option<usize>,
    /// How many replicas each master should have.
    #[arg(long, value_name = "N")]
    replicas: Option<usize>,
    /// The environment variable that holds the password.
    #[arg(long, value_name = "NAME", conflicts_with = "password_file")]
    password_env: Option<String>,
    /// The file whose first line is the password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// kubernetes: the kubeconfig file.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// kubernetes: the context of the kubeconfig.
    #[arg(long)]
    context: Option<String>,
    /// kubernetes: the namespace.
    #[arg(long, short)]
    namespace: Option<String>,
    /// kubernetes, from a pod of the cluster: as its service account, in its namespace, and straight to the servers'
    /// addresses instead of through the API. manifests/conformance-job.yaml is a Job that does so.
    #[arg(long, conflicts_with_all = ["kubeconfig", "context"])]
    in_cluster: bool,
    /// Print run.json too, as the last line of standard output: for logs that are all that is left of a run.
    #[arg(long, conflicts_with = "repeat")]
    json: bool,
    /// kubernetes: apply the description's manifest in the namespace, or install by its command, instead of judging what is
    /// there.
    #[arg(long)]
    apply: bool,
    /// docker, kind, and kubernetes with --apply: the server's image. docker: redis-cluster-conformance/redis:7.0 without it.
    #[arg(long)]
    image: Option<String>,
    /// kind, and kubernetes with --apply: the image of another version, to which the servers are upgraded at the end of the
    /// run, under load (OPS-04).
    #[arg(long, value_name = "IMAGE")]
    upgrade_to: Option<String>,
    /// kind, and kubernetes with --apply: the storage class of the volumes.
    #[arg(long, value_name = "NAME")]
    storage_class: Option<String>,
    /// kind, and kubernetes with --apply: the CPU that each server's container requests.
    #[arg(long, value_name = "QUANTITY")]
    cpu_request: Option<String>,
    /// So many whole runs, one after another, each in a folder of its own (DIR/1, DIR/2, …), with a summary of every
    /// verdict that changed. Such a change makes the exit code 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) repeat: Option<u16>,
    /// Only as many cases as are likely to fit in this time (5m, 90s): core first, must before should, the quick ones
    /// first. The others are reported as skipped.
    #[arg(long, value_name = "TIME", value_parser = budget::parse)]
    budget: Option<Duration>,
    /// Do a fault so many times to a master, and measure each failover; the figures stand in the report and in run.json.
    /// Without a selection no case runs but OPS-16: that the cluster was whole after each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with_all = ["repeat", "budget"])]
    trials: Option<u16>,
    /// The fault of --trials.
    #[arg(long, value_enum, default_value = "restart", requires = "trials")]
    fault: TrialFault,
    /// Writes a second during --trials, at even intervals whatever the answers, over all writers together. Without it: 100
    /// of each writer.
    #[arg(long, value_name = "OPS_PER_SECOND", requires = "trials")]
    rate: Option<NonZeroU32>,
    /// How many writers each shard has during --trials as a client of the cluster has, and each node directly; each with a
    /// key and a connection of its own.
    #[arg(long, value_name = "N", default_value = "1", requires = "trials")]
    writers: NonZeroU16,
    /// Run disruptive cases also on a deployment that this run did not make.
    #[arg(long)]
    allow_disruptive: bool,
    /// A failed `should` counts too.
    #[arg(long)]
    strict: bool,
    /// Cases that are unsupported, skipped or blocked count as failures.
    #[arg(long)]
    require_all: bool,
    /// Failures that are known, in a file: they are judged all the same, and do not count until their date. An entry whose
    /// case passes, or is judged after its date, fails the run.
    #[arg(long, value_name = "FILE")]
    known_failing: Option<PathBuf>,
    #[command(flatten)]
    layout: LayoutArguments,
    /// Leave what the run made.
    #[arg(long)]
    keep: bool,
    /// Another limit for a wait: T_sched=90. May be given several times; `explain` names them.
    #[arg(long, value_name = "NAME=SECONDS", value_parser = Timing::parse_override)]
    timing: Vec<(&'static str, Duration)>,
}

impl RunArguments {
    /// The cases selected; where trials are asked for and nothing is selected, the one that judges what they leave.
    pub(super) fn cases(&self) -> anyhow::Result<Vec<&'static Case>> {
        let mut selection = self.selection.selection();
        if self.trials.is_some() && selection == Selection::default() {
            selection.wanted.push("OPS-16".into());
        }
        selection.cases().map_err(anyhow::Error::msg)
    }

    fn kind(&self) -> TargetKind {
        self.target.unwrap_or(if self.in_cluster {
            TargetKind::Kubernetes
        } else {
            TargetKind::Kind
        })
    }

    fn trials(&self) -> Option<Trials> {
        self.trials.map(|count| Trials {
            fault: self.fault,
            count: count.into(),
            rate: Rate {
                operations: self.rate,
                writers: self.writers,
            },
        })
    }

    /// Refuses options that do not go with the target, before anything runs or a password is read.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        Ok(self.without_password(String::new()).check()?)
    }

    fn request(&self, run_id: String) -> anyhow::Result<Request> {
        let password = match (&self.password_env, &self.password_file) {
            (Some(name), _) => Some(std::env::var(name).map_err(|error| {
                let what = format!("the environment variable {name}, which --password-env names, is not");
                match error {
                    VarError::NotPresent => anyhow!("{what} set"),
                    VarError::NotUnicode(_) => anyhow!("{what} UTF-8"),
                }
            })?),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("--password-file {} cannot be read", path.display()))?;
                Some(text.lines().next().unwrap_or_default().to_owned())
            }
            (None, None) => None,
        }
        .map(Secret::new);
        let password_source = match (&self.password_env, &self.password_file) {
            (Some(name), _) => Some(PasswordSource::Environment(name.clone())),
            (None, Some(path)) => Some(PasswordSource::File(std::path::absolute(path)?)),
            (None, None) => None,
        };
        let mut request = self.without_password(run_id);
        request.parameters.password = password.clone();
        request.password = password;
        request.password_source = password_source;
        Ok(request)
    }

    fn without_password(&self, run_id: String) -> Request {
        Request {
            target_file: self.target_file.clone(),
            parameters: Parameters {
                image: self.image.clone(),
                storage_class: self.storage_class.clone(),
                cpu_request: self.cpu_request.clone(),
                ..Parameters::default()
            },
            upgrade_to: self.upgrade_to.clone(),
            addresses: self.addresses.clone(),
            masters: self.masters,
            replicas_per_master: self.replicas,
            server: self.server.clone(),
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            in_cluster: self.in_cluster,
            namespace: self.namespace.clone(),
            apply: self.apply,
            layout: self.layout.layout(),
            keep: self.keep,
            overrides: self.timing.clone(),
            ..Request::new(self.kind(), run_id)
        }
    }
}

/// Runs what the command line says, and returns the exit code.
pub(super) async fn run(arguments: &RunArguments) -> anyhow::Result<u8> {
    arguments.check()?;
    let cases = arguments.cases()?;
    if cases.is_empty() {
        anstream::eprintln!("no case is selected");
        return Ok(exit::NOTHING_SELECTED);
    }
    let descriptor = request::describe(arguments.target_file.as_deref())?;
    let mut left_out = request::refused(&descriptor, &cases);
    let allowed: Vec<&'static Case> = (cases.iter().copied())
        .filter(|case| !left_out.contains_key(&case.id))
        .collect();
    if let Some(refusal) = descriptor
        .refusal(Impact::Disruptive)
        .filter(|_| arguments.trials.is_some())
    {
        bail!("--trials: {refusal}");
    }
    if allowed.is_empty() {
        let reasons: BTreeSet<&str> = left_out.values().map(String::as_str).collect();
        let reasons = reasons.into_iter().collect::<Vec<_>>().join("; ");
        anstream::eprintln!("no case that is selected may run: {reasons}");
        return Ok(exit::NOTHING_SELECTED);
    }
    if let Some(budget) = arguments.budget {
        let makes = matches!(arguments.kind(), TargetKind::Processes);
        let plan = Costs::default().plan(&allowed, budget, makes);
        if plan.chosen.is_empty() {
            anstream::eprintln!("no case fits in {} s", budget.as_secs());
            return Ok(exit::NOTHING_SELECTED);
        }
        anstream::eprintln!(
            "budget {} s: {} of {} cases, which typically take {} s{}",
            budget.as_secs(),
            plan.chosen.len(),
            allowed.len(),
            plan.likely.as_secs(),
            if makes {
                " with their deployment"
            } else {
                " once the deployment is there"
            }
        );
        let reason = format!("left out by the budget of {} s", budget.as_secs());
        left_out.extend(plan.left_out.iter().map(|case| (case.id, reason.clone())));
    }
    // One for all runs: what comes between two of them is not lost.
    let interrupted = surroundings::interrupted().boxed_local().shared();
    let Some(asked) = arguments.repeat else {
        let run = run_once(arguments, cases, left_out, new_run_id(), &arguments.out, interrupted).await?;
        return Ok(exit::of(&run));
    };
    let mut runs = Vec::new();
    for number in 1..=asked {
        anstream::eprintln!("\nrun {number} of {asked}");
        let out = arguments.out.join(number.to_string());
        // Two within a second must not have one name.
        let id = format!("{}-{number}", new_run_id());
        let run = run_once(
            arguments,
            cases.clone(),
            left_out.clone(),
            id,
            &out,
            interrupted.clone(),
        )
        .await?;
        let (code, more) = (exit::of(&run), repeat::goes_on(&run));
        runs.push((run, code));
        // After every run: a killed one leaves the summary of those before it.
        Repeat::of(asked.into(), &runs).write(&arguments.out).with_context(|| {
            let folder = arguments.out.display();
            Broken(format!("the summary of the runs could not be written into {folder}"))
        })?;
        if !more {
            break;
        }
    }
    let repeat = Repeat::of(asked.into(), &runs);
    anstream::print!("{}", repeat.render(&arguments.out));
    Ok(repeat.exit_code())
}

/// One whole run: the target is made, judged and removed, and its report stands in `out`.
async fn run_once(
    arguments: &RunArguments,
    cases: Vec<&'static Case>,
    left_out: BTreeMap<CaseId, String>,
    run_id: String,
    out: &Path,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Run> {
    let known = match &arguments.known_failing {
        Some(path) => Some(known::read(
            path,
            jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date(),
        )?),
        None => None,
    };
    let request = arguments.request(run_id)?;
    let target = request.target()?;
    std::fs::create_dir_all(out).with_context(|| format!("{}: the reports' folder", out.display()))?;
    // Better now than after the run.
    tempfile::tempfile_in(out)
        .with_context(|| format!("{}: nothing can be written into the reports' folder", out.display()))?;
    // What an earlier run left here would stand beside this one's.
    let evidence = out.join("evidence");
    if out.join(json::FILE).exists() && evidence.exists() {
        std::fs::remove_dir_all(&evidence).with_context(|| {
            format!(
                "{}: the evidence of an earlier run cannot be removed",
                evidence.display()
            )
        })?;
    }
    let progress = Progress::stderr();
    progress.line(format!(
        "run {}: {} cases over target {}",
        request.run_id,
        cases.len() - left_out.len(),
        request.kind
    ));
    let options = runner::Options {
        cases,
        left_out,
        allow_disruptive: arguments.allow_disruptive,
        out: Some(out.to_owned()),
        strictness: Strictness {
            strict: arguments.strict,
            require_all: arguments.require_all,
        },
        run_id: request.run_id.clone(),
        overrides: arguments.timing.clone(),
        colour: colour(std::io::stderr().is_terminal()),
        known,
        trials: arguments.trials(),
        heedless: false,
    };
    let written = std::cell::RefCell::new(Ok(()));
    let update = |run: &Run| {
        // The last one has all that those before had.
        *written.borrow_mut() = report::write(run, out);
    };
    let run = runner::run(target, &options, &progress, interrupted, &update).await;
    let text = report::terminal::render(&run, colour(std::io::stdout().is_terminal()), Some(WIDTH), Some(out));
    anstream::print!("{text}");
    if arguments.json {
        anstream::println!("{}", serde_json::to_string(&run)?);
    }
    written
        .into_inner()
        .with_context(|| Broken(format!("the reports could not be written into {}", out.display())))?;
    Ok(run)
}

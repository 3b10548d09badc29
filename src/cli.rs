//! The command line: parsed here, and what each command prints.

mod compare;
mod help;
mod init;
mod matrix;

use crate::budget::{self, Costs};
use crate::case::{Case, CaseId, Impact, Level, Profile};
use crate::cases;
use crate::cluster::connection::Address;
use crate::contents;
use crate::controls;
use crate::exit;
use crate::known;
use crate::lint::{self, Lint};
use crate::manifest::Manifest;
use crate::manifest::parameters::Parameters;
use crate::progress::Progress;
use crate::report::repeat::{self, Repeat};
use crate::report::{self, Run, Strictness};
use crate::request::{self, Request, new_run_id};
use crate::runner;
use crate::selection::Selection;
use crate::surroundings;
use crate::target::descriptor::PasswordSource;
use crate::target::kind::{IpFamily, Layout};
use crate::target::{Secret, TargetError, TargetKind, kind};
use crate::timing::Timing;
use crate::trials::{TrialFault, Trials};
use crate::workload::Rate;
use anyhow::{Context as _, bail};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use futures::FutureExt;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Read};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How wide the report is, whatever the terminal: it is read in logs too.
const WIDTH: usize = 110;

/// Says, with evidence, whether a Redis Cluster deployment keeps its promises.
///
/// Examples:
///   redis-cluster-conformance run --target processes             a first verdict, in 14 minutes, without Docker
///   redis-cluster-conformance run                                the whole suite on a kind cluster of its own
///   redis-cluster-conformance run A1 AUTH --target kubernetes --namespace shop
///   redis-cluster-conformance run --target processes --budget 2m what matters most, in two minutes
///   redis-cluster-conformance run --target processes --repeat 10 ten runs, and every verdict that changed
///   redis-cluster-conformance lint redis.yaml                    what the manifest misses, without a cluster
///   redis-cluster-conformance compare main/run.json out/run.json what a change fixed, broke, slowed down
///   redis-cluster-conformance matrix --only redis-8.0-docker     other servers and deployments, on one page
///   redis-cluster-conformance explain FAIL-01
///
/// Exit codes: 0 conformant, 1 not conformant, 2 usage, 3 the target or the suite broke, 4 nothing selected.
#[derive(Parser)]
#[command(name = "redis-cluster-conformance", version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Judge a deployment.
    #[command(after_help = help::RUN)]
    Run(Box<RunArguments>),
    /// List the cases.
    List {
        #[command(flatten)]
        selection: SelectionArguments,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Explain a case: its requirement, source, method, bound, and how to run it alone.
    Explain {
        /// The case's id: SLOT-03.
        id: String,
    },
    /// Say what manifests miss, without a cluster: file, line, what is expected, and the case that shows the harm.
    ///
    /// Give all files of one deployment: what is not in them counts as not there. Exit codes: 0 no must is missed, 1 one is
    /// (with --strict also a should), 2 a file cannot be read, 4 nothing in them runs servers of a Redis Cluster.
    #[command(after_help = help::LINT)]
    Lint {
        /// Manifests; - is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
        /// A finding of a should makes the exit code 1 too.
        #[arg(long)]
        strict: bool,
    },
    /// Say what a change fixed, broke, slowed down or lost: two runs side by side.
    ///
    /// Exit codes: 0 nothing that --fail-on names got worse, 1 something did, 2 a file is no run, 3 one of the runs did not
    /// come to a verdict, 4 they have no case in common.
    #[command(after_help = help::COMPARE)]
    Compare(compare::CompareArguments),
    /// Judge many deployments and servers, a run each, and write one page about all of them.
    ///
    /// A cell that breaks stands in the page with its cause, and the others go on. An interrupt ends the cell that runs, which
    /// cleans up, and those after it do not begin. Exit codes: 0 every cell is conformant, 1 one is not, 2 the list cannot be
    /// used, 3 a cell broke or did not run, 4 the list has no cell; with --render 0 when the page is written.
    #[command(after_help = help::MATRIX)]
    Matrix(matrix::MatrixArguments),
    /// Judge deployments that are deliberately wrong, and print which cases fail on which: the proof that they can fail.
    Controls {
        /// Parts of controls' names. Without any: all.
        names: Vec<String>,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Make the page of a run, report.html, from its run.json.
    Report {
        /// The run's run.json, or the folder that it is in.
        run: PathBuf,
        /// The page's file; without it, report.html beside run.json, from where its links lead to the evidence.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the table of typical times that --budget reckons with, from a run over processes.
    #[command(hide = true)]
    Costs {
        /// The run's run.json.
        run: PathBuf,
    },
    /// Describe a deployment that is there, for --target-file: its pods, Services, password's place and configuration.
    ///
    /// Nothing is changed, and no password is read. Exit codes: 0 described, 2 nothing there can be described, or it cannot be
    /// looked at.
    #[command(after_help = help::INIT)]
    Init(init::InitArguments),
    /// Make the kind cluster, with the images loaded, and leave it for runs to come.
    Up {
        #[command(flatten)]
        layout: LayoutArguments,
    },
    /// Remove the kind cluster.
    Down,
    /// Look whether this machine has what the targets need.
    Doctor,
    /// Print the completion for a shell.
    #[command(after_help = help::COMPLETION)]
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of all commands or of one.
    #[command(after_help = help::MAN)]
    Man {
        /// The command: run, compare, …
        command: Option<String>,
        /// Write pages into this folder instead, one for each command
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
    },
}

#[derive(Args)]
struct LayoutArguments {
    /// kind: how many nodes the cluster has, a control plane and workers, each in a zone; also RCC_NODES. Where neither says
    /// so, a cluster that runs is taken as it is, and one that is made has one node.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    nodes: Option<u16>,
    /// kind: of which family the addresses of its nodes, pods and Services are. Without it, a cluster that runs is taken as it is,
    /// and one that is made has IPv4.
    #[arg(long, value_name = "FAMILY", value_enum)]
    ip_family: Option<IpFamily>,
}

impl LayoutArguments {
    const fn layout(&self) -> Layout {
        Layout {
            nodes: self.nodes,
            ip_family: self.ip_family,
        }
    }
}

#[derive(Args)]
struct SelectionArguments {
    /// Ids, beginnings of ids, or seed assertions: SLOT-03, AUTH, A5. Without any: all cases.
    wanted: Vec<String>,
    /// Leave these out: ids, beginnings of ids, or seed assertions.
    #[arg(long, value_name = "ID")]
    skip: Vec<String>,
    /// Only cases of these profiles.
    #[arg(long, value_enum, value_name = "PROFILE")]
    profile: Vec<ProfileName>,
    /// Only cases of at most this impact; where the target's description names one too, the stricter holds.
    #[arg(long, value_enum)]
    impact: Option<ImpactName>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProfileName {
    Core,
    Extended,
    Kubernetes,
    Chaos,
}

#[derive(Clone, Copy, ValueEnum)]
enum ImpactName {
    ReadOnly,
    Writes,
    Apart,
    Disruptive,
}

impl SelectionArguments {
    fn selection(&self) -> Selection {
        let profile = |name: &ProfileName| match name {
            ProfileName::Core => Profile::Core,
            ProfileName::Extended => Profile::Extended,
            ProfileName::Kubernetes => Profile::Kubernetes,
            ProfileName::Chaos => Profile::Chaos,
        };
        Selection {
            wanted: self.wanted.clone(),
            skipped: self.skip.clone(),
            profiles: self.profile.iter().map(profile).collect(),
            at_most: self.impact.map(|impact| match impact {
                ImpactName::ReadOnly => Impact::ReadOnly,
                ImpactName::Writes => Impact::Writes,
                ImpactName::Apart => Impact::Apart,
                ImpactName::Disruptive => Impact::Disruptive,
            }),
        }
    }
}

#[derive(Args)]
struct RunArguments {
    #[command(flatten)]
    selection: SelectionArguments,
    /// What is judged.
    #[arg(long, value_enum, default_value = "kind", env = "RCC_TARGET")]
    target: TargetKind,
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
    /// The server's image. docker: redis-cluster-conformance/redis:7.0 without it.
    #[arg(long)]
    image: Option<String>,
    /// kind, and kubernetes with --apply: the image of another version, to which the servers are upgraded at the end of the
    /// run, under load (OPS-04).
    #[arg(long, value_name = "IMAGE")]
    upgrade_to: Option<String>,
    /// The storage class of the volumes.
    #[arg(long, value_name = "NAME")]
    storage_class: Option<String>,
    /// The CPU that each server's container requests.
    #[arg(long, value_name = "QUANTITY")]
    cpu_request: Option<String>,
    /// So many whole runs, one after another, each in a folder of its own (DIR/1, DIR/2, …), with a summary of every
    /// verdict that changed. Such a change makes the exit code 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    repeat: Option<u16>,
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
    /// case passes, or whose date is past, fails the run.
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

/// Runs the program: parses the arguments, does what they say, and returns the exit code.
pub async fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() {
                exit::USAGE
            } else {
                exit::CONFORMANT
            };
            // Nobody is left to be told when the terminal itself is gone.
            let _ = error.print();
            return code;
        }
    };
    let done = match cli.command {
        Command::Run(arguments) => run(&arguments).await,
        Command::List { selection, json } => list(&selection.selection(), json),
        Command::Explain { id } => explain(&id),
        Command::Lint { files, json, strict } => lint(&files, json, strict),
        Command::Controls { names, json } => controls(&names, json).await,
        Command::Report { run, out } => report_of(&run, out.as_deref()),
        Command::Costs { run } => costs(&run),
        Command::Init(arguments) => init::init(&arguments).await,
        Command::Up { layout } => up(layout.layout()).await,
        Command::Down => down().await,
        Command::Doctor => Ok(doctor().await),
        Command::Compare(arguments) => compare::compare(&arguments),
        Command::Matrix(arguments) => matrix::matrix(&arguments).await,
        Command::Completion { shell } => help::completion(Cli::command(), shell),
        Command::Man { command, out } => help::man(Cli::command(), command.as_deref(), out.as_deref()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            exit::USAGE
        }
    }
}

fn list(selection: &Selection, json: bool) -> anyhow::Result<u8> {
    let rows = selection.rows().map_err(anyhow::Error::msg)?;
    if rows.is_empty() {
        anstream::eprintln!("no case is selected");
        return Ok(exit::NOTHING_SELECTED);
    }
    if json {
        anstream::println!("{}", serde_json::to_string_pretty(&contents::listed(&rows))?);
    } else {
        anstream::print!("{}", contents::list(&rows));
    }
    Ok(exit::CONFORMANT)
}

fn explain(id: &str) -> anyhow::Result<u8> {
    let Some(row) = contents::find(id) else {
        bail!("no case has the id \"{id}\"; `list` shows them");
    };
    anstream::print!("{}", contents::explain(row));
    Ok(exit::CONFORMANT)
}

fn lint(files: &[PathBuf], json: bool, strict: bool) -> anyhow::Result<u8> {
    let mut manifests = Vec::new();
    for file in files {
        manifests.push(if file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            Manifest::parse("<stdin>", &text)?
        } else {
            Manifest::read(file)?
        });
    }
    let lint = Lint::of(&manifests);
    for object in &lint.alone {
        anstream::eprintln!("{object} runs a Redis server, but nothing says that it is one of a cluster: not judged");
    }
    let is_case = |id: &str| cases::find(id).is_some();
    if json {
        anstream::println!("{}", lint::report::json(&lint, &is_case)?);
    } else if !lint.workloads.is_empty() {
        anstream::print!("{}", lint::report::render(&lint, &is_case));
    }
    if lint.workloads.is_empty() {
        anstream::eprintln!("nothing here runs servers of a Redis Cluster: none by image, command, port or redis.conf");
        return Ok(exit::NOTHING_SELECTED);
    }
    let missed = lint.count(Level::Must) > 0 || strict && lint.count(Level::Should) > 0;
    Ok(if missed { exit::NOT_CONFORMANT } else { exit::CONFORMANT })
}

fn report_of(run: &Path, out: Option<&Path>) -> anyhow::Result<u8> {
    let file = if run.is_dir() {
        run.join(report::json::FILE)
    } else {
        run.to_owned()
    };
    let page = out.map_or_else(|| file.with_file_name(report::html::FILE), Path::to_owned);
    let page = report::html::write_to(&report::json::read(&file)?, &page)?;
    anstream::println!("{}", page.display());
    Ok(exit::CONFORMANT)
}

fn costs(run: &Path) -> anyhow::Result<u8> {
    anstream::print!("{}", Costs::table(&report::json::read(run)?));
    Ok(exit::CONFORMANT)
}

async fn controls(names: &[String], json: bool) -> anyhow::Result<u8> {
    let named = |control: &&controls::Control| {
        names.is_empty() || names.iter().any(|name| control.name.contains(name.as_str()))
    };
    let selected: Vec<&controls::Control> = controls::all().filter(named).collect();
    if selected.is_empty() {
        anstream::eprintln!("no control is selected");
        return Ok(exit::NOTHING_SELECTED);
    }
    let judged = controls::judge(&selected, &Progress::stderr()).await;
    if json {
        anstream::println!("{}", serde_json::to_string_pretty(&judged)?);
    } else {
        anstream::print!("{}", controls::matrix(&judged));
    }
    let as_they_must = judged.iter().all(|judged| judged.complaints.is_empty());
    Ok(if as_they_must {
        exit::CONFORMANT
    } else {
        exit::NOT_CONFORMANT
    })
}

impl RunArguments {
    /// The cases selected; where trials are asked for and nothing is selected, the one that judges what they leave.
    fn cases(&self) -> anyhow::Result<Vec<&'static Case>> {
        let mut selection = self.selection.selection();
        if self.trials.is_some() && selection == Selection::default() {
            selection.wanted.push("OPS-16".into());
        }
        selection.cases().map_err(anyhow::Error::msg)
    }

    fn kind(&self) -> TargetKind {
        if self.in_cluster {
            TargetKind::Kubernetes
        } else {
            self.target
        }
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

    fn request(&self, run_id: String) -> anyhow::Result<Request> {
        let password = match (&self.password_env, &self.password_file) {
            (Some(name), _) => Some(std::env::var(name).with_context(|| format!("the environment variable {name}"))?),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
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
        Ok(Request {
            password_source,
            target_file: self.target_file.clone(),
            parameters: Parameters {
                image: self.image.clone(),
                storage_class: self.storage_class.clone(),
                cpu_request: self.cpu_request.clone(),
                password: password.clone(),
                ..Parameters::default()
            },
            upgrade_to: self.upgrade_to.clone(),
            password,
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
        })
    }
}

async fn run(arguments: &RunArguments) -> anyhow::Result<u8> {
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
        Repeat::of(asked.into(), &runs).write(&arguments.out)?;
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
        if let Err(error) = report::write(run, out) {
            *written.borrow_mut() = Err(error);
        }
    };
    let run = runner::run(target, &options, &progress, interrupted, &update).await;
    let text = report::terminal::render(&run, colour(std::io::stdout().is_terminal()), Some(WIDTH), Some(out));
    anstream::print!("{text}");
    if arguments.json {
        anstream::println!("{}", serde_json::to_string(&run)?);
    }
    written.into_inner().context("the reports could not be written")?;
    Ok(run)
}

/// Whether output to a stream should be coloured: on a terminal, unless NO_COLOR says otherwise.
fn colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

async fn up(layout: Layout) -> anyhow::Result<u8> {
    match kind::up(layout, &Progress::stderr()).await {
        Ok(kubeconfig) => {
            anstream::println!(
                "the kind cluster {} runs; kubeconfig: {}",
                kind::cluster_name(),
                kubeconfig.display()
            );
            anstream::println!("runs use it and leave it; `redis-cluster-conformance down` removes it");
            Ok(exit::CONFORMANT)
        }
        Err(error) => Ok(broken(&error)),
    }
}

async fn down() -> anyhow::Result<u8> {
    match kind::down(&Progress::stderr()).await {
        Ok(true) => anstream::println!("the kind cluster {} is gone", kind::cluster_name()),
        Ok(false) => anstream::println!("there is no kind cluster {}", kind::cluster_name()),
        Err(error) => return Ok(broken(&error)),
    }
    Ok(exit::CONFORMANT)
}

/// Tells an error of a target, and gives the exit code for it.
fn broken(error: &TargetError) -> u8 {
    anstream::eprintln!("error: {error}");
    match error {
        TargetError::Usage(_) => exit::USAGE,
        TargetError::NotDeployed(_)
        | TargetError::NotAllowed(_)
        | TargetError::Surroundings(_)
        | TargetError::Link(_) => exit::BROKEN,
    }
}

/// A line for each thing that a target needs; 0 when every target can be used.
async fn doctor() -> u8 {
    let mut complete = true;
    for need in surroundings::needs().await {
        let target = need.target;
        match need.found {
            Ok(found) => anstream::println!("ok       {target:<10} {}: {found}", need.thing),
            Err(why) => {
                complete &= need.optional;
                let word = if need.optional { "absent" } else { "missing" };
                anstream::println!("{word:<8} {target:<10} {}: {why}; {}", need.thing, need.remedy);
            }
        }
    }
    if complete { exit::CONFORMANT } else { exit::BROKEN }
}

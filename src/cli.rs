//! The command line: parsed here, and what each command prints.

mod compare;
mod help;
mod init;
mod matrix;
mod run;

use crate::budget::Costs;
use crate::case::{Impact, Level, Profile};
use crate::cases;
use crate::contents;
use crate::controls;
use crate::exit;
use crate::lint::{self, Lint};
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::report;
use crate::selection::Selection;
use crate::surroundings;
use crate::target::kind::{IpFamily, Layout};
use crate::target::{TargetError, kind};
use anyhow::{Context as _, bail};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::io::Read;
use std::path::{Path, PathBuf};

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
    Run(Box<run::RunArguments>),
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
    /// come to a verdict, or the suite broke in it, 4 they have no case in common.
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

/// What came of an error that is not the user's: the surroundings broke, and the exit code says so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(String);

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
    if let Err(error) = crate::log::start() {
        anstream::eprintln!("error: {error}");
        return exit::USAGE;
    }
    let done = match cli.command {
        Command::Run(arguments) => run::run(&arguments).await,
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
            if error.is::<Broken>() {
                exit::BROKEN
            } else {
                exit::USAGE
            }
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

/// The file of a run that is kept, which is named or in a folder that is, and the run.
fn kept(named: &Path) -> anyhow::Result<(PathBuf, report::Run)> {
    let file = if named.is_dir() {
        named.join(report::json::FILE)
    } else {
        named.to_owned()
    };
    let text = std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let run = report::json::parse(&text);
    let run = run.with_context(|| format!("{} holds no run.json of this suite", named.display()))?;
    Ok((file, run))
}

fn report_of(run: &Path, out: Option<&Path>) -> anyhow::Result<u8> {
    let (file, run) = kept(run)?;
    let page = out.map_or_else(|| file.with_file_name(report::html::FILE), Path::to_owned);
    let page = report::html::write_to(&run, &page)?;
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
        let all: Vec<&str> = controls::all().map(|control| control.name).collect();
        anstream::eprintln!(
            "no control is selected: none has \"{}\" in its name; there are {}",
            names.join("\" or \""),
            all.join(", ")
        );
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

/// Whether output to a stream should be coloured: on a terminal, unless NO_COLOR says otherwise.
fn colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

async fn up(layout: Layout) -> anyhow::Result<u8> {
    let progress = Progress::stderr();
    let made = tokio::select! {
        made = kind::up(layout, &progress) => made,
        // What kind runs as ends with what waits for it.
        () = surroundings::interrupted() => {
            progress.line(format!(
                "interrupted: what there is of the kind cluster {} stays; `redis-cluster-conformance down` removes it",
                kind::cluster_name()
            ));
            return Ok(exit::BROKEN);
        }
    };
    match made {
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

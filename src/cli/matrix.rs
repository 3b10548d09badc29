//! `matrix`: many cells, each a run in a process of its own, and one page about all of them.

use super::{Cli, Command as Subcommand};
use crate::exit;
use crate::matrix::{self, Listed};
use crate::report::json;
use crate::report::matrix::{self as page, Cell, Matrix, Record, kept};
use anyhow::{Context as _, anyhow, bail};
use clap::builder::{OsStr, Resettable};
use clap::{Args, CommandFactory, FromArgMatches};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// The file in a cell's folder with what its run told while it went on.
const LOG: &str = "log.txt";
/// The file in a cell's folder with the report that its run printed.
const REPORT: &str = "report.txt";
/// How long a cell may take. Every wait within a run is bounded; this is for a run that hangs all the same, so that the cells
/// after it have their turn. The longest runs there are take an hour.
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// How long a run that was asked to end may take to clean up after itself: a whole kind cluster goes in less than a minute.
const CLEAN_UP: Duration = Duration::from_secs(600);
/// How often the progress of a run is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The cells, and where their runs and the page go.
#[derive(Args)]
pub(super) struct MatrixArguments {
    /// The list of cells: of each its name (`cell`) and the options of its `run`.
    #[arg(default_value = "manifests/matrix.yaml")]
    list: PathBuf,
    /// Only these cells. The page tells of all: of the others what is in DIR, or was on the page before.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Where the cells' folders go, each with run.json and all else that a run writes.
    #[arg(long, value_name = "DIR", default_value = "out/matrix")]
    out: PathBuf,
    /// The page's file; without it, conformance.md in DIR. Its cells are kept beside it as data, in a file of the same name that
    /// ends in .json: of cells that are not in DIR, as on another machine, the next page tells from there.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Leave out cells that came to a verdict already, by the same options.
    #[arg(long)]
    resume: bool,
    /// Run nothing: make the page again from what is in DIR, and beside the page.
    #[arg(long, conflicts_with_all = ["only", "resume"])]
    render: bool,
}

impl MatrixArguments {
    /// The matrix as it stands in the folder now.
    fn read(&self, listed: &[Listed]) -> anyhow::Result<Matrix> {
        let kept = kept::read(&kept::beside(&self.page()))?;
        let cell = |listed: &Listed| {
            let cell = Cell::read(&listed.name, &listed.arguments, &self.out.join(&listed.name));
            cell.map(|cell| cell.or_kept(&kept))
        };
        Ok(Matrix {
            list: self.list.display().to_string(),
            folder: self.out.display().to_string(),
            cells: listed.iter().map(cell).collect::<anyhow::Result<_>>()?,
        })
    }

    fn page(&self) -> PathBuf {
        self.page.clone().unwrap_or_else(|| self.out.join(page::PAGE))
    }

    /// The words of the command line that runs a cell.
    fn words(&self, cell: &Listed) -> Vec<String> {
        let out = self.out.join(&cell.name).display().to_string();
        let words = std::iter::once("run".to_owned()).chain(cell.arguments.iter().cloned());
        words.chain(["--out".to_owned(), out]).collect()
    }

    /// Whether a cell's options can be used, before any cell runs.
    fn check(&self, cell: &Listed) -> anyhow::Result<()> {
        let (name, place) = (&cell.name, &cell.place);
        let program = "redis-cluster-conformance".to_owned();
        // Its run does not have the variable either.
        let command = Cli::command().mut_subcommand("run", |run| {
            run.mut_arg("target", |target| target.env(Resettable::<OsStr>::Reset))
        });
        let matches = command.try_get_matches_from(std::iter::once(program).chain(self.words(cell)));
        let parsed = matches.and_then(|matches| Cli::from_arg_matches(&matches));
        let parsed = parsed.map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            anyhow!(
                "{place}: `run` does not take the options of {name}: {} (--out is given by matrix)",
                first.trim_start_matches("error: ")
            )
        })?;
        let Subcommand::Run(arguments) = parsed.command else {
            bail!("{place}: {name} is no `run`");
        };
        if arguments.repeat.is_some() {
            bail!("{place}: {name} has --repeat: a cell is one run");
        }
        arguments.check().with_context(|| format!("{place}: {name}"))?;
        if arguments
            .cases()
            .with_context(|| format!("{place}: {name}"))?
            .is_empty()
        {
            bail!("{place}: {name} selects no case");
        }
        Ok(())
    }
}

/// Runs what is asked for, writes the page, tells, and gives the exit code.
pub(super) async fn matrix(arguments: &MatrixArguments) -> anyhow::Result<u8> {
    let listed = matrix::read(&arguments.list)?;
    if arguments.render {
        tell(arguments, &listed)?;
        return Ok(exit::CONFORMANT);
    }
    listed.iter().try_for_each(|cell| arguments.check(cell))?;
    // What is there must be fit for the page before an hour goes into another cell.
    arguments.read(&listed).with_context(|| {
        format!(
            "remove its folder, or choose another than {} with --out",
            arguments.out.display()
        )
    })?;
    let names: Vec<&str> = listed.iter().map(|cell| cell.name.as_str()).collect();
    if let Some(unknown) = arguments.only.iter().find(|name| !names.contains(&name.as_str())) {
        bail!(
            "{} has no cell \"{unknown}\"; it has {}",
            arguments.list.display(),
            names.join(", ")
        );
    }
    let wanted = |cell: &&Listed| arguments.only.is_empty() || arguments.only.contains(&cell.name);
    let selected: Vec<&Listed> = listed.iter().filter(wanted).collect();
    if selected.is_empty() {
        anstream::eprintln!("{} has no cell", arguments.list.display());
        return Ok(exit::NOTHING_SELECTED);
    }
    let mut signals = Signals::new()?;
    let count = selected.len();
    for (number, cell) in (1..).zip(&selected) {
        let folder = arguments.out.join(&cell.name);
        let known = arguments.read(std::slice::from_ref(*cell))?;
        if arguments.resume && known.cells.iter().all(Cell::is_done) {
            anstream::eprintln!("\ncell {number} of {count}: {} is there already", cell.name);
            continue;
        }
        anstream::eprintln!("\ncell {number} of {count}: {}", cell.name);
        let record = run(cell, &arguments.words(cell), &folder, &mut signals).await?;
        record.write(&folder)?;
        // After every cell: whoever is killed leaves a page about those before.
        page::write(&arguments.read(&listed)?, &arguments.page())?;
        if signals.came {
            break;
        }
    }
    let matrix = tell(arguments, &listed)?;
    let codes = (matrix.cells.iter())
        .filter(|cell| selected.iter().any(|selected| selected.name == cell.name))
        .map(|cell| cell.record.as_ref()?.exit_code);
    Ok(exit::of_matrix(codes))
}

/// Writes the page, and prints what is in it in short.
fn tell(arguments: &MatrixArguments, listed: &[Listed]) -> anyhow::Result<Matrix> {
    let matrix = arguments.read(listed)?;
    let written = page::write(&matrix, &arguments.page())?;
    anstream::print!("{}", page::text(&matrix));
    anstream::println!("page: {}", written.display());
    Ok(matrix)
}

/// One cell: its run as a child process, until it has ended, whatever comes.
async fn run(cell: &Listed, words: &[String], folder: &Path, signals: &mut Signals) -> anyhow::Result<Record> {
    // What an earlier run left must not be taken for this one's, should this one leave nothing.
    if folder.join(page::RECORD).exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let path = folder.join(json::FILE);
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
    }
    let create = |name: &str| {
        let path = folder.join(name);
        File::create(&path).with_context(|| format!("{} cannot be made", path.display()))
    };
    let started = Timestamp::now();
    let mut child = Command::new(own_program()?)
        .args(words)
        // It would stand for what the command line does not say, which alone is to say what ran.
        .env_remove("RCC_TARGET")
        .stdin(Stdio::null())
        // Files, and not pipes: should this process be killed, the run goes on to its end and cleans up after itself.
        .stdout(create(REPORT)?)
        .stderr(create(LOG)?)
        // Signals of the terminal come by way of this process alone: a second one would end the run at once.
        .process_group(0)
        .spawn()
        .context("the run of a cell cannot be started")?;
    let mut log = Follow::new(&folder.join(LOG))?;
    let status = until_ended(&mut child, &mut log, signals).await?;
    let exit_code = status.code().and_then(|code| u8::try_from(code).ok());
    let silent = !folder.join(json::FILE).exists();
    Ok(Record {
        schema_version: crate::report::SCHEMA_VERSION.into(),
        cell: cell.name.clone(),
        arguments: cell.arguments.clone(),
        started,
        ended: Timestamp::now(),
        exit_code,
        message: log.last.filter(|_| silent),
    })
}

/// This program, for a child. On Linux by a name that stays its own while a new build takes the place of its file: all cells
/// of a matrix are judged by one suite.
fn own_program() -> anyhow::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return Ok(running.to_owned());
    }
    std::env::current_exe().context("this program's own file is not known")
}

/// Waits for a run, tells its progress, and passes on each signal that comes.
async fn until_ended(child: &mut Child, log: &mut Follow, signals: &mut Signals) -> anyhow::Result<ExitStatus> {
    let mut look = tokio::time::interval(LOOK);
    let mut deadline = Instant::now() + LIMIT;
    let mut next = Signal::SIGINT;
    loop {
        tokio::select! {
            status = child.wait() => {
                log.tell()?;
                return status.context("the run of a cell cannot be waited for");
            }
            _ = look.tick() => log.tell()?,
            () = signals.next() => {
                anstream::eprintln!("interrupted: the run of this cell cleans up, and no other begins");
                send(child, Signal::SIGINT);
            }
            () = tokio::time::sleep_until(deadline) => {
                anstream::eprintln!("the run of this cell takes too long and is ended ({next})");
                send(child, next);
                next = Signal::SIGKILL;
                deadline = Instant::now() + CLEAN_UP;
            }
        }
    }
}

fn send(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended since; then there is nobody to be told.
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }
}

/// The signals that end a program, from the moment that this is made.
struct Signals {
    streams: [tokio::signal::unix::Signal; 3],
    /// Whether one came.
    came: bool,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened for");
        Ok(Self {
            streams: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            ],
            came: false,
        })
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.streams;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        self.came = true;
    }
}

/// A file that grows, told line by line.
struct Follow {
    file: File,
    rest: Vec<u8>,
    /// The last line that says something.
    last: Option<String>,
}

impl Follow {
    fn new(path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            file: File::open(path).with_context(|| format!("{} cannot be read", path.display()))?,
            rest: Vec::new(),
            last: None,
        })
    }

    /// Tells the lines that are new.
    fn tell(&mut self) -> anyhow::Result<()> {
        self.file
            .read_to_end(&mut self.rest)
            .context("a run's log cannot be read")?;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            anstream::eprintln!("  {line}");
            if !line.trim().is_empty() {
                self.last = Some(line.trim().trim_start_matches("error: ").to_owned());
            }
        }
        Ok(())
    }
}

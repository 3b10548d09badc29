//! The bodies of chapter PERS about the files of servers beside the deployment.

use super::returning::{server_field, setting, unread, write_numbered};
use crate::cases::consistency::shards;
use crate::check::{self, Look, eventually};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::cluster::view::Shape;
use crate::context::{Alteration, Context, Execution, Fault, Scratch};
use crate::crash::full_bound;
use crate::verdict::{Mismatch, Outcome, Stop};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// So many masters beside the deployment, without replicas.
pub(super) fn masters(cx: &Context, masters: usize, directives: &[&str]) -> Scratch {
    Scratch {
        shape: Shape {
            masters,
            replicas_per_master: 0,
        },
        alterations: directives.iter().copied().map(Alteration::everywhere).collect(),
        ..cx.scratch_like_the_deployment()
    }
}

/// The file to which a stopped server last appended: the last incremental one that the manifest names, or the single
/// file that servers before Redis 7 have.
fn last_appended(folder: &Path) -> std::io::Result<PathBuf> {
    let parts = folder.join("appendonlydir");
    if !parts.is_dir() {
        return Ok(folder.join("appendonly.aof"));
    }
    let manifest = std::fs::read_to_string(parts.join("appendonly.aof.manifest"))?;
    // `file appendonly.aof.1.incr.aof seq 1 type i`; later versions say more after that.
    let pairs = |line: &str, name: &str| {
        let mut words = line.split(' ');
        words.find(|word| *word == name)?;
        words.next().map(str::to_owned)
    };
    let last = manifest
        .lines()
        .rfind(|line| pairs(line, "type").as_deref() == Some("i"));
    let name = last.and_then(|line| pairs(line, "file"));
    name.map(|name| parts.join(name))
        .ok_or_else(|| std::io::Error::other(format!("no incremental file in the manifest: {manifest}")))
}

/// How many bytes are cut off: within the last command, whose value alone is longer.
const CUT: u64 = 5;

/// Cuts the end off a stopped server's append-only file.
fn cut_end(folder: &Path) -> Result<(), Stop> {
    let cut = || {
        let file = std::fs::OpenOptions::new().write(true).open(last_appended(folder)?)?;
        let length = file.metadata()?.len();
        file.set_len(length.saturating_sub(CUT))
    };
    Ok(cut().map_err(|error| anyhow::anyhow!("{}: {error}", folder.display()))?)
}

pub(super) async fn cut_end_loaded(cx: &Context) -> Outcome {
    let directives = ["appendonly yes", "aof-load-truncated yes"];
    cx.with_scratch(&masters(cx, 1, &directives), async |cx| {
        let members = cx.all_members().await?;
        let member = &members[0];
        let keys: Vec<(String, String)> = (0..100)
            .map(|number| (cx.key(&number.to_string()), format!("value-{number}")))
            .collect();
        write_numbered(cx, member, &keys, 0).await?;
        let folder = cx.data_folder(member)?;
        let log = cx.file_named(member, "logfile").await?;
        let log = folder.join(log.ok_or_else(|| anyhow::anyhow!("{member} has no log file"))?);
        cx.inject(Fault::KeepAway, member).await?;
        let logged = std::fs::read(&log).map_err(anyhow::Error::from)?.len();
        cut_end(&folder)?;
        if let Err(stop) = cx.undo_faults().await {
            let Stop::Error(error) = stop else { return Err(stop) };
            return Err(Mismatch::new("a server that starts with the cut file", format!("{error:#}")).into());
        }
        let (last, others) = keys.split_last().ok_or_else(|| anyhow::anyhow!("no keys"))?;
        eventually(cx, "the server serves again", full_bound(cx), async || {
            match unread(cx, member, others).await? {
                Err(refused) => Ok(Look::NotYet(refused)),
                Ok(wrong) => {
                    check::no_findings("every key whose command is whole", &wrong)?;
                    Ok(Look::Reached(()))
                }
            }
        })
        .await?;
        let reply = cx
            .connect(&member.address)
            .await?
            .call(&["GET", last.0.as_str()])
            .await?;
        let seen = format!("{member}: GET {} -> {reply}", last.0);
        check::expect(reply == Reply::Nil, "GET of the key whose command was cut -> nil", seen)?;
        let text = std::fs::read(&log).map_err(anyhow::Error::from)?;
        let text = String::from_utf8_lossy(text.get(logged..).unwrap_or_default()).into_owned();
        let told = text.to_lowercase().contains("truncat");
        Ok(check::expect(told, "a line about the truncation in the log", text)?)
    })
    .await
}

/// How many values there are to load, how long each is, and how long a server takes for each: in all 6 s. Between them
/// a server answers after every 2 MiB that it has read.
const VALUES: usize = 100;
const LENGTH: usize = 256 * 1024;
const DELAY: Duration = Duration::from_millis(60);

/// What a server that loads answers that it must not.
async fn answers_while_loading(
    cx: &Context,
    member: &Member,
    own: &str,
    foreign: &str,
) -> Result<Look<Vec<String>>, Stop> {
    let questions = [
        vec!["INFO", "persistence"],
        vec!["PING"],
        vec!["GET", own],
        vec!["GET", foreign],
    ];
    let replies = cx.connect(&member.address).await?.pipeline(&questions).await?;
    let loads = replies[0]
        .text()
        .is_some_and(|text| text.lines().any(|line| line.trim_end() == "loading:1"));
    if !loads {
        let reason = format!("{member} had loaded its data before it could be asked: INFO persistence -> loading:0");
        return Err(Stop::Unsupported(reason));
    }
    let allowed: [&[&str]; 3] = [&["LOADING"], &["LOADING", "CLUSTERDOWN"], &["MOVED", "CLUSTERDOWN"]];
    let answered = questions.iter().zip(&replies).skip(1).zip(allowed);
    let findings = answered.filter_map(|((question, reply), allowed)| {
        let fine = reply.error_prefix().is_some_and(|prefix| allowed.contains(&prefix));
        check::unless(fine, member, question.join(" "), reply)
    });
    Ok(Look::Reached(findings.collect()))
}

pub(super) async fn loading_told(cx: &Context) -> Outcome {
    let delay = format!("key-load-delay {}", DELAY.as_micros());
    let directives = [
        "appendonly no",
        "save 3600 1",
        "rdbcompression no",
        // So that a read is not refused for the state of the cluster, which a server that has just started calls down.
        "cluster-allow-reads-when-down yes",
        &delay,
    ];
    cx.with_scratch(&masters(cx, 3, &directives), async |cx| {
        let view = cx.view().await?;
        let shards = shards(cx, &view)?;
        let (loader, other) = (&shards[0], &shards[1]);
        let member = &loader.master.member;
        let value = "x".repeat(LENGTH);
        let keys: Vec<(String, String)> = (0..VALUES)
            .map(|number| (cx.key_in(loader.slot, &number.to_string()), value.clone()))
            .collect();
        for keys in keys.chunks(10) {
            write_numbered(cx, member, keys, 0).await?;
        }
        let (own, foreign) = (&keys[0].0, cx.key_in(other.slot, "foreign"));
        cx.inject(Fault::KeepAway, member).await?;
        let bound = DELAY * VALUES as u32 + cx.timing().scheduling();
        let what = format!("{member} answers while it loads");
        let (started, seen) = futures::join!(
            cx.undo_faults(),
            eventually(cx, &what, bound, async || {
                answers_while_loading(cx, member, own, &foreign).await
            })
        );
        started?;
        check::no_findings("-LOADING, and -MOVED for a foreign key, while it loads", &seen?)?;
        eventually(cx, "the loaded key is served", bound, async || {
            let reply = cx.connect(&member.address).await?.call(&["GET", own.as_str()]).await?;
            Ok(match reply {
                Reply::Error(text) => Look::NotYet(format!("{member}: GET {own} -> -{text}")),
                reply => {
                    let length = reply.bytes().map_or(0, <[u8]>::len);
                    let seen = format!("{member}: {length} bytes");
                    check::expect(length == LENGTH, format!("{LENGTH} bytes of {own}"), seen)?;
                    Look::Reached(())
                }
            })
        })
        .await
    })
    .await
}

/// Runs the program of a server once more on its folder and its nodes.conf, for at most T_reply.
async fn run_second(cx: &Context, member: &Member, file: &str) -> Result<Execution, Stop> {
    let folder = setting(cx, member, "dir").await?;
    let executable = server_field(cx, member, "executable").await?;
    // A server that was found by the search path does not know its own place: then its name must do.
    let name = executable.rsplit('/').next().unwrap_or_default();
    let limit = cx.timing().reply();
    let seconds = limit.as_secs().max(1).to_string();
    // It listens on a socket of its own, not on a port: so no port can be taken, and nobody finds it.
    let listens = [
        "--port",
        "0",
        "--unixsocket",
        "second.sock",
        "--logfile",
        "",
        "--save",
        "",
    ];
    let shares = [
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        file,
        "--dir",
        &folder,
    ];
    let run = async |program: &str| {
        // `timeout` ends it where it stays.
        let command = [&["timeout", &seconds, program], &listens[..], &shares[..]].concat();
        cx.exec(member, &command, &[], limit + cx.patience()).await
    };
    match run(&executable).await? {
        Execution { status: 127, .. } => run(name).await,
        ended => Ok(ended),
    }
}

pub(super) async fn second_server_refused(cx: &Context) -> Outcome {
    cx.with_scratch(&masters(cx, 1, &[]), async |cx| {
        let members = cx.all_members().await?;
        let member = &members[0];
        let first = server_field(cx, member, "run_id").await?;
        let file = cx.nodes_conf(member).await?;
        let ended = run_second(cx, member, &file).await?;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        let refused = ended.status != 0 && said.contains(&file) && said.contains("already used");
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(3)..].join(" / ");
        let expected = format!("an end by itself, and a line that {file} is already used");
        check::expect(refused, expected, format!("{member}: status {}: {last}", ended.status))?;
        let still = server_field(cx, member, "run_id").await?;
        Ok(check::expect(
            still == first,
            format!("the first server, {first}"),
            still,
        )?)
    })
    .await
}

//! The body of chapter PERS about a volume that is full: on a server of its own, with a volume of its own.

use super::files::masters;
use super::returning::{setting, unread};
use crate::check::{self, Look, eventually};
use crate::cluster::connection::Connection;
use crate::cluster::node::Member;
use crate::context::{Alteration, Context, Fault, Scratch};
use crate::crash::{flushed, full_bound};
use crate::verdict::{Outcome, Stop};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The size of the volume, in bytes: room for what a server has at its start, and quickly filled.
const VOLUME: u64 = 8 << 20;
/// The length of a value: a file system hands out room by the page, and one page may be left.
const LENGTH: usize = 4096;
/// How many values are written while there is room.
const WRITES: usize = 50;
/// How long it may take until a full volume shows, or one that has room again: a server tries once a second.
const SHOWN: Duration = Duration::from_secs(10);

/// Fills a volume to its end; the file that does.
fn fill(folder: &Path) -> Result<PathBuf, Stop> {
    let path = folder.join("filler");
    let filled = || {
        let mut file = std::fs::File::create(&path)?;
        // By less and less: the last page counts.
        let mut piece = 1 << 16;
        while piece > 0 {
            match file.write(&vec![b'x'; piece]) {
                Ok(0) => piece /= 2,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => piece /= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    filled().map_err(|error: std::io::Error| anyhow::anyhow!("{}: {error}", path.display()))?;
    Ok(path)
}

/// A client that keeps account of what was acknowledged to it.
struct Client<'a> {
    cx: &'a Context,
    member: &'a Member,
    connection: Connection,
    /// Whether the server has an append-only file; else snapshots are all that it has.
    appends: bool,
    acked: Vec<(String, String)>,
    tried: usize,
}

impl Client<'_> {
    /// Writes the next value; the error with which it was refused.
    async fn write(&mut self) -> Result<Option<String>, Stop> {
        self.tried += 1;
        let (key, value) = (self.cx.key(&self.tried.to_string()), format!("{:0LENGTH$}", self.tried));
        let reply = self.connection.call(&["SET", &key, &value]).await?;
        if reply.is_ok() {
            self.acked.push((key, value));
            return Ok(None);
        }
        Ok(Some(reply.to_string()))
    }

    /// Has a server without an append-only file do what it does now and then by itself.
    async fn snapshot(&mut self) -> Result<(), Stop> {
        if !self.appends {
            // One that is under way already does as well.
            self.connection.call(&["BGSAVE"]).await?;
        }
        Ok(())
    }

    /// Writes until that is refused, or taken, as wanted; how long it took.
    async fn until(&mut self, what: &str, refused: bool) -> Result<Duration, Stop> {
        let (cx, began) = (self.cx, Instant::now());
        eventually(cx, what, SHOWN, async || {
            self.snapshot().await?;
            let member = self.member;
            Ok(match self.write().await? {
                Some(text) if refused && text.contains("MISCONF") => Look::Reached(()),
                None if !refused => Look::Reached(()),
                Some(text) => Look::NotYet(format!("{member}: SET -> {text}")),
                None => Look::NotYet(format!("{member}: SET -> +OK")),
            })
        })
        .await?;
        Ok(began.elapsed())
    }
}

async fn client<'a>(cx: &'a Context, member: &'a Member) -> Result<Client<'a>, Stop> {
    let appends = setting(cx, member, "appendonly").await? == "yes";
    if !appends && setting(cx, member, "save").await?.is_empty() {
        let reason = "the deployment keeps nothing on disk: appendonly no, save \"\"";
        return Err(Stop::Unsupported(reason.into()));
    }
    Ok(Client {
        cx,
        member,
        connection: cx.connect(&member.address).await?,
        appends,
        acked: Vec::new(),
        tried: 0,
    })
}

/// Kills the server, and expects every acknowledged value once it is back.
async fn all_there(cx: &Context, member: &Member, acked: &[(String, String)]) -> Outcome {
    cx.inject(Fault::Crash, member).await?;
    // A master that has just started refuses for a while.
    eventually(cx, "the server serves again", full_bound(cx), async || {
        Ok(match unread(cx, member, acked).await? {
            Err(refused) => Look::NotYet(refused),
            Ok(wrong) => {
                let lost: Vec<&str> = wrong.iter().filter_map(|wrong| wrong.split(" (").next()).collect();
                cx.count("acknowledged writes lost", lost.len(), "writes");
                check::no_findings("every acknowledged value once the server is back", &lost)?;
                Look::Reached(())
            }
        })
    })
    .await
}

pub(super) async fn volume_full(cx: &Context) -> Outcome {
    let mut scratch = Scratch {
        volume: Some(VOLUME),
        ..masters(cx, 1, &[])
    };
    scratch.alterations.push(Alteration::everywhere("appendfsync everysec"));
    cx.with_scratch(&scratch, async |cx| {
        let members = cx.all_members().await?;
        let mut client = client(cx, &members[0]).await?;
        for _ in 0..WRITES {
            client.until("writes are taken while there is room", false).await?;
        }
        let filler = fill(&cx.data_folder(&members[0])?)?;
        let what = "writes are refused with -MISCONF on a full volume";
        let took = client.until(what, true).await?;
        cx.measure("refused once the volume was full", took, None, Some(SHOWN));
        let (key, value) = client.acked[0].clone();
        let reply = client.connection.call(&["GET", &key]).await?;
        let seen = format!("{}: GET {key} -> {reply}", members[0]);
        check::expect(reply.text() == Some(&value), "reads answered on a full volume", seen)?;
        std::fs::remove_file(&filler).map_err(|error| anyhow::anyhow!("{}: {error}", filler.display()))?;
        let what = "writes are taken again once there is room";
        let took = client.until(what, false).await?;
        cx.measure("taken again once there was room", took, None, Some(SHOWN));
        cx.count("writes acknowledged", client.acked.len(), "writes");
        if client.appends {
            flushed(cx, &members[0]).await?;
        } else {
            client.connection.ask(&["SAVE"]).await?;
        }
        all_there(cx, &members[0], &client.acked).await
    })
    .await
}

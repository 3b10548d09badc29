//! Cuts of links between containers: packets are dropped in each container's own network namespace, which goes with it.
//! The suite's clients come from the network's gateway, and are not meant.

use super::server::Server;
use crate::target::filter::{self, restore};
use crate::target::netns;
use crate::target::plain::to_its_end;
use crate::target::{Cut, TargetError};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The cuts of one run.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The servers' first processes whose namespaces have a chain, or may have, by the containers' names. Whoever changes a
    /// chain holds this until it is done.
    cut: Arc<Mutex<Vec<(String, i64)>>>,
}

/// Whether links of containers like this one can be cut here.
///
/// # Errors
/// Why not, for people.
pub(super) async fn possible(server: &Server) -> Result<(), String> {
    let [program, argument] = inside(process(server).await?);
    // As a whole: half of it would be in the way of a cut.
    to_its_end(async move {
        let program = [program.as_str(), &argument, "iptables-restore"];
        restore(&program, &netns::chain().with(&netns::nothing())).await?;
        restore(&program, &netns::chain().removal()).await
    })
    .await
}

/// The process of a server, whose namespace is sure to be the server's.
async fn process(server: &Server) -> Result<i64, String> {
    let process = server.process().await.map_err(|error| error.to_string())?;
    let process = process.ok_or_else(|| format!("{} does not run", server.name()))?;
    // The number is the daemon's, which may be on another machine, or see other processes.
    let address = server.member().address.host;
    let routes = Path::new("/proc").join(process.to_string()).join("net/fib_trie");
    let routes = std::fs::read_to_string(routes).unwrap_or_default();
    let own = |line: &str| line.trim().strip_prefix("|-- ") == Some(address.as_str());
    if routes.lines().any(own) {
        Ok(process)
    } else {
        Err(format!("the daemon's process {process} is not seen here at {address}"))
    }
}

/// What leads a program into the network namespace of a process.
fn inside(process: i64) -> [String; 2] {
    ["nsenter".into(), format!("--net=/proc/{process}/ns/net")]
}

impl Links {
    /// Puts these cuts in the place of those that there are. `servers` are all of the target.
    pub(super) async fn cut(&self, servers: &[&Server], cuts: &[Cut]) -> Result<(), TargetError> {
        self.mend(servers).await?;
        let members: Vec<_> = servers.iter().map(|server| server.member()).collect();
        let hosts = members
            .iter()
            .map(|member| (member.address.host.as_str(), member.address.port));
        let endpoints = netns::endpoints(hosts).map_err(TargetError::Usage)?;
        let by_address = |cut: &Cut| {
            cut.renamed(|named| {
                let at = members.iter().position(|member| member.name == named.name);
                let unknown = || TargetError::Usage(format!("{named} is no server of this target"));
                at.map(|at| endpoints[at]).ok_or_else(unknown)
            })
        };
        let cuts = cuts.iter().map(by_address).collect::<Result<Vec<_>, _>>()?;
        let mut texts = Vec::new();
        for (server, endpoint) in servers.iter().zip(&endpoints) {
            let drops = netns::drops(*endpoint, &cuts);
            if !drops.is_empty() {
                let process = process(server).await.map_err(TargetError::Surroundings)?;
                texts.push((server.name().to_owned(), process, netns::chain().with(&drops)));
            }
        }
        let mut cut = self.cut.clone().lock_owned().await;
        *cut = texts
            .iter()
            .map(|(name, process, _)| (name.clone(), *process))
            .collect();
        let done = to_its_end(async move {
            let _held = cut;
            let added = texts.into_iter().map(|(_, process, text)| add(process, text));
            futures::future::join_all(added)
                .await
                .into_iter()
                .collect::<Result<(), String>>()
        });
        let done = done.await;
        if done.is_err() {
            // Half a cut is none that anybody asked for; why it is half tells more than whether the rest could be mended.
            let _ = self.mend(servers).await;
        }
        done.map_err(TargetError::Surroundings)
    }

    /// Takes all cuts away. Cheap when there is none.
    pub(super) async fn mend(&self, servers: &[&Server]) -> Result<(), TargetError> {
        let mut cut = self.cut.clone().lock_owned().await;
        let mut left = Vec::new();
        for (name, process) in cut.iter() {
            // A container that was started again has another namespace, and its number may be another's.
            let of = servers.iter().find(|server| server.name() == name);
            if let Some(server) = of
                && server.process().await? == Some(*process)
            {
                left.push(*process);
            }
        }
        let mended = to_its_end(async move {
            let mended = left.into_iter().map(take_away);
            let mended: Result<(), String> = futures::future::join_all(mended).await.into_iter().collect();
            if mended.is_ok() {
                cut.clear();
            }
            mended
        });
        mended.await.map_err(TargetError::Surroundings)
    }
}

/// Puts the chain that a text describes into the namespace of a process.
async fn add(process: i64, text: String) -> Result<(), String> {
    let [program, argument] = inside(process);
    restore(&[&program, &argument, "iptables-restore"], &text).await
}

/// Takes the chain out of the namespace of a process, where it is.
async fn take_away(process: i64) -> Result<(), String> {
    let [program, argument] = inside(process);
    let chain = netns::chain();
    match restore(&[&program, &argument, "iptables-restore"], &chain.removal()).await {
        Err(refusal) if filter::is_there(&[&program, &argument, "iptables"], &chain).await => Err(refusal),
        Ok(()) | Err(_) => Ok(()),
    }
}

//! Cuts of links between servers on loopback. To tell who sends a packet, each server makes its connections from an
//! address of its own, while all are reached, and named, at 127.0.0.1.

use super::ports::BUS_OFFSET;
use crate::target::filter::{self, Chain, Drop, LOOPBACK, Port};
use crate::target::plain::{digest, to_its_end};
use crate::target::{Cut, TargetError, Traffic, Way};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::process::Command;
use tokio::sync::{Mutex, OnceCell};

/// The file in a run's folder that names its chain, from before the chain is made until it is gone.
const CHAIN_FILE: &str = "chain";

/// The directive that gives a server's connections an address, and the release that knows it first.
const DIRECTIVE: &str = "bind-source-addr";
const KNOWN_SINCE: (u32, u32) = (6, 2);

/// The cuts of one run.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The file that names the chain while there is one, or may be. Whoever changes the chain holds this until it is done.
    chain: Arc<Mutex<Option<(Chain, PathBuf)>>>,
}

/// The address from which the server of a port makes its connections.
pub(super) fn source(port: u16) -> Ipv4Addr {
    let [high, low] = port.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// The lines of redis.conf by which a server makes its connections from there, and names itself as it would without.
pub(super) fn directives(port: u16) -> [String; 2] {
    [
        format!("{DIRECTIVE} {}", source(port)),
        "replica-announce-ip 127.0.0.1".into(),
    ]
}

/// Whether links between servers of this program, with these lines besides its own, can be cut here; else why not.
///
/// # Errors
/// The reason, for people.
pub(super) async fn possible<'a>(server: &Path, mut altered: impl Iterator<Item = &'a str>) -> Result<(), String> {
    // A server that is bound to something else cannot be relied on to make connections from an address of ours.
    if let Some(line) = altered.find(|line| line.split_whitespace().next() == Some("bind")) {
        return Err(format!(
            "the servers have \"{line}\", and make no connections from addresses of their own"
        ));
    }
    tried().await?;
    let output = Command::new(server)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("{} --version: {error}", server.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match version(&text) {
        Some(version) if version >= KNOWN_SINCE => Ok(()),
        Some((major, minor)) => Err(format!("a server of release {major}.{minor} has no {DIRECTIVE}")),
        None => Err(format!(
            "{} --version names no release: {}",
            server.display(),
            text.trim()
        )),
    }
}

/// Major and minor release, out of `Redis server v=7.0.15 sha=…`.
fn version(text: &str) -> Option<(u32, u32)> {
    let number = text.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Makes a chain with every kind of match that cuts use, and takes it away: whether this user on this machine may. The
/// answer is the same as long as the program runs.
async fn tried() -> Result<(), String> {
    static TRIED: OnceCell<Result<(), String>> = OnceCell::const_new();
    let trial = async {
        let chain = Chain::new(&format!("rcc-trial-{}", std::process::id()), LOOPBACK);
        // Of a link that nobody has: it drops nothing.
        let nobody = Drop {
            source: (Some(source(0)), Port::Only(1)),
            destination: (Some(source(0)), Port::Only(1)),
        };
        restore(&chain.with(&[nobody])).await?;
        restore(&chain.removal()).await
    };
    // As a whole: half of it would be in the way of the next trial.
    to_its_end(async move { TRIED.get_or_init(|| trial).await.clone() }).await
}

/// Has `iptables-restore` do all that the text says, or nothing of it.
async fn restore(text: &str) -> Result<(), String> {
    filter::restore(&["iptables-restore"], text).await
}

impl Links {
    /// Puts these cuts in the place of those that there are. `folder` is the run's.
    pub(super) async fn cut(&self, folder: &Path, drops: &[Drop]) -> Result<(), TargetError> {
        self.mend().await?;
        let mut chain = self.chain.clone().lock_owned().await;
        // No two living runs have folders of the same name.
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let own = Chain::new(&format!("rcc-{}", digest(&name)), LOOPBACK);
        let (own, file) = chain.insert((own, folder.join(CHAIN_FILE)));
        let failed = |error: std::io::Error| TargetError::Surroundings(format!("{}: {error}", folder.display()));
        std::fs::write(&*file, own.to_string()).map_err(failed)?;
        let text = own.with(drops);
        let adding = to_its_end(async move {
            let _held = chain;
            restore(&text).await
        });
        adding.await.map_err(TargetError::Surroundings)
    }

    /// Takes all cuts away. Cheap when there is none.
    pub(super) async fn mend(&self) -> Result<(), TargetError> {
        let mut chain = self.chain.clone().lock_owned().await;
        let Some((_, file)) = &*chain else {
            return Ok(());
        };
        let file = file.clone();
        let removing = to_its_end(async move {
            let removed = remove(&file).await;
            if removed.is_ok() {
                *chain = None;
            }
            removed
        });
        removing.await.map_err(TargetError::Surroundings)
    }
}

/// Takes away the chain of a run that has ended without doing so, where it had one; whether it had.
pub(super) async fn sweep(folder: &Path) -> Result<bool, String> {
    let file = folder.join(CHAIN_FILE);
    if !file.exists() {
        return Ok(false);
    }
    remove(&file).await.map(|()| true)
}

/// Takes away the chain that a file names, and the file.
async fn remove(file: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let chain = Chain::new(std::fs::read_to_string(file).map_err(failed)?.trim(), LOOPBACK);
    // Refused where the chain was never made, or not put before loopback; then nothing is there, since all is done at once.
    if let Err(refusal) = restore(&chain.removal()).await
        && filter::is_there(&["iptables"], &chain).await
    {
        return Err(format!("the chain {chain} of iptables is left behind: {refusal}"));
    }
    std::fs::remove_file(file).map_err(failed)
}

/// The packets that a cut drops; servers are named by their ports.
pub(super) fn drops(cut: &Cut<u16>) -> Vec<Drop> {
    match cut {
        Cut::ClientPort(port) => vec![
            Drop {
                destination: (Some(Ipv4Addr::LOCALHOST), Port::Only(*port)),
                ..Drop::default()
            },
            Drop {
                source: (Some(Ipv4Addr::LOCALHOST), Port::Only(*port)),
                ..Drop::default()
            },
        ],
        Cut::Between {
            some,
            others,
            traffic,
            way,
        } => {
            let pairs = some
                .iter()
                .flat_map(|one| others.iter().map(move |other| (*one, *other)));
            pairs
                .flat_map(|(one, other)| match way {
                    Way::There => [Some((one, other)), None],
                    Way::Both => [Some((one, other)), Some((other, one))],
                })
                .flatten()
                .flat_map(|(from, to)| one_way(from, to, *traffic))
                .collect()
        }
    }
}

/// The packets of one server to another: on the connections that it has made, and on those that the other has made.
fn one_way(from: u16, to: u16, traffic: Traffic) -> Vec<Drop> {
    let ports = |port: u16| match traffic {
        Traffic::Clients => vec![port],
        Traffic::Bus => vec![port + BUS_OFFSET],
        Traffic::All => vec![port, port + BUS_OFFSET],
    };
    let own = ports(to).into_iter().map(|port| Drop {
        source: (Some(source(from)), Port::Any),
        destination: (Some(Ipv4Addr::LOCALHOST), Port::Only(port)),
    });
    let answers = ports(from).into_iter().map(|port| Drop {
        source: (Some(Ipv4Addr::LOCALHOST), Port::Only(port)),
        destination: (Some(source(to)), Port::Any),
    });
    own.chain(answers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", Some((7, 0)))]
    #[case("Valkey server v=8.1.0 sha=0", Some((8, 1)))]
    #[case("Redis server v=255.255.255 sha=0", Some((255, 255)))]
    #[case("no server", None)]
    fn a_server_s_release_is_read(#[case] text: &str, #[case] expected: Option<(u32, u32)>) {
        assert_eq!(version(text), expected);
    }

    fn shown(cut: &Cut<u16>) -> Vec<String> {
        drops(cut)
            .iter()
            .map(|drop| drop.to_string().trim().to_owned())
            .collect()
    }

    #[test]
    fn one_way_is_both_kinds_of_connections_in_one_direction() {
        let cut = Cut::Between {
            some: vec![17000],
            others: vec![17001],
            traffic: Traffic::Bus,
            way: Way::There,
        };
        assert_eq!(
            shown(&cut),
            [
                "-s 127.1.66.104/32 -d 127.0.0.1/32 --dport 27001",
                "-s 127.0.0.1/32 -d 127.1.66.105/32 --sport 27000"
            ]
        );
    }

    #[rstest]
    #[case(Traffic::Bus, 8)]
    #[case(Traffic::Clients, 8)]
    #[case(Traffic::All, 16)]
    fn both_ways_between_one_and_two(#[case] traffic: Traffic, #[case] count: usize) {
        let cut = Cut::Between {
            some: vec![17000],
            others: vec![17001, 17002],
            traffic,
            way: Way::Both,
        };
        assert_eq!(shown(&cut).len(), count);
    }

    #[test]
    fn a_client_port_is_cut_for_everyone() {
        let shown = shown(&Cut::ClientPort(17000));
        assert_eq!(
            shown,
            ["-d 127.0.0.1/32 --dport 17000", "-s 127.0.0.1/32 --sport 17000"]
        );
    }
}

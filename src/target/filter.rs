//! The text for `iptables-restore` that makes packets of chosen links vanish, as a network that has come apart does: in a
//! chain of a run's own, which is there only while something is cut; and what hands such a text to a program.
//!
//! Packets are dropped where they arrive, so that the sender learns nothing; and never rejected, for the same reason.

use std::fmt;
use std::net::Ipv4Addr;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The longest name that a chain may have (`XT_EXTENSION_MAXNAMELEN` less one).
const LONGEST_NAME: usize = 28;

/// Every packet that arrives over loopback.
pub(super) const LOOPBACK: &[&str] = &["INPUT -i lo"];

/// Every packet that comes into a network namespace, or leaves it.
pub(super) const WHOLE: &[&str] = &["INPUT", "OUTPUT"];

/// The chain of a run, by its name, and the packets in whose way it is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    name: String,
    hooks: &'static [&'static str],
}

/// Packets of TCP that are dropped; an address that is `None` may be any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drop {
    /// The sender's address and port.
    pub(super) source: (Option<Ipv4Addr>, Port),
    /// The receiver's address and port.
    pub(super) destination: (Option<Ipv4Addr>, Port),
}

/// The ports that a packet may come from, or go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Port {
    /// Any.
    #[default]
    Any,
    /// One.
    Only(u16),
    /// From the one to the other.
    Within(u16, u16),
}

impl Chain {
    /// A chain's name, out of what is unique to its owner. Letters, digits and hyphens are kept, as many as a name can have.
    pub(super) fn new(owner: &str, hooks: &'static [&'static str]) -> Self {
        let fit = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '-';
        Self {
            name: owner.chars().filter(fit).take(LONGEST_NAME).collect(),
            hooks,
        }
    }

    /// What makes the chain and puts it in the way.
    pub(super) fn with(&self, drops: &[Drop]) -> String {
        let rules = drops.iter().map(|drop| format!("-A {self} -p tcp{drop} -j DROP\n"));
        let rules: String = rules.collect();
        format!("*filter\n:{self} - [0:0]\n{rules}{}COMMIT\n", self.each_hook("-I"))
    }

    /// What takes the chain away again.
    pub(super) fn removal(&self) -> String {
        format!("*filter\n:{self} - [0:0]\n{}-X {self}\nCOMMIT\n", self.each_hook("-D"))
    }

    fn each_hook(&self, action: &str) -> String {
        let hooks = self.hooks.iter();
        hooks.map(|hook| format!("{action} {hook} -j {self}\n")).collect()
    }
}

/// Has a program, `iptables-restore` or what leads to it, do all that the text says, or nothing of it.
///
/// # Errors
/// What the program says, or why it cannot be run.
pub(super) async fn restore(program: &[&str], text: &str) -> Result<(), String> {
    let told = program.join(" ");
    let failed = |error: std::io::Error| format!("{told}: {error}");
    let (name, arguments) = program.split_first().ok_or("no program")?;
    // Not killed when nobody waits for it any more: it ends by itself, with all done or nothing.
    let mut child = Command::new(name)
        .args(arguments)
        .args(["--noflush", "-w"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // Where it has ended already, what it says is worth more than that it no longer reads.
        let _ = input.write_all(text.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{told}: {}", said.trim().lines().next().unwrap_or("it failed")))
    }
}

/// Whether a chain of this name is there, by `iptables` or what leads to it.
pub(super) async fn is_there(program: &[&str], chain: &Chain) -> bool {
    let Some((name, arguments)) = program.split_first() else {
        return false;
    };
    let listed = Command::new(name)
        .args(arguments)
        .args(["-w", "-n", "-L", &chain.name])
        .output()
        .await;
    listed.is_ok_and(|output| output.status.success())
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Display for Drop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = [("s", self.source), ("d", self.destination)];
        for (end, (address, _)) in ends {
            if let Some(address) = address {
                write!(f, " -{end} {address}/32")?;
            }
        }
        for (end, (_, port)) in ends {
            match port {
                Port::Any => {}
                Port::Only(port) => write!(f, " --{end}port {port}")?,
                Port::Within(first, last) => write!(f, " --{end}port {first}:{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const SERVER: Ipv4Addr = Ipv4Addr::new(127, 1, 66, 104);
    const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

    #[rstest]
    #[case::all(Drop::default(), "")]
    #[case::to_a_port(
        Drop { destination: (None, Port::Only(17000)), ..Drop::default() },
        " --dport 17000"
    )]
    #[case::of_a_link(
        Drop { source: (Some(SERVER), Port::Any), destination: (Some(LOCAL), Port::Only(27001)) },
        " -s 127.1.66.104/32 -d 127.0.0.1/32 --dport 27001"
    )]
    #[case::back_on_it(
        Drop { source: (Some(LOCAL), Port::Only(27001)), destination: (Some(SERVER), Port::Any) },
        " -s 127.0.0.1/32 -d 127.1.66.104/32 --sport 27001"
    )]
    fn a_drop_names_what_it_is_about(#[case] drop: Drop, #[case] text: &str) {
        assert_eq!(drop.to_string(), text);
    }

    #[test]
    fn a_chain_is_put_before_loopback_and_taken_away() {
        let chain = Chain::new("rcc-17000", LOOPBACK);
        let drop = Drop {
            destination: (None, Port::Only(17001)),
            ..Drop::default()
        };
        assert_eq!(
            chain.with(&[drop]),
            "*filter\n:rcc-17000 - [0:0]\n-A rcc-17000 -p tcp --dport 17001 -j DROP\n-I INPUT -i lo -j rcc-17000\nCOMMIT\n"
        );
        assert_eq!(
            chain.removal(),
            "*filter\n:rcc-17000 - [0:0]\n-D INPUT -i lo -j rcc-17000\n-X rcc-17000\nCOMMIT\n"
        );
    }

    #[rstest]
    #[case("rcc-17000-4711", "rcc-17000-4711")]
    #[case("a name\nCOMMIT", "anameCOMMIT")]
    #[case("0123456789012345678901234567890123456789", "0123456789012345678901234567")]
    fn a_name_is_one_that_a_chain_can_have(#[case] owner: &str, #[case] name: &str) {
        assert_eq!(Chain::new(owner, LOOPBACK).to_string(), name);
    }
}

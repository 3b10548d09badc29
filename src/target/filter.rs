//! The text for `iptables-restore` that makes packets of chosen links vanish, as a network that has come apart does: in a
//! chain of a run's own, which is there only while something is cut.
//!
//! Packets are dropped where they arrive, so that the sender learns nothing; and never rejected, for the same reason.

use std::fmt;
use std::net::Ipv4Addr;

/// The longest name that a chain may have (`XT_EXTENSION_MAXNAMELEN` less one).
const LONGEST_NAME: usize = 28;

/// The chain of a run, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain(String);

/// Packets of TCP that are dropped; what is `None` may be anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drop {
    /// The sender's address and port.
    pub(super) source: (Option<Ipv4Addr>, Option<u16>),
    /// The receiver's address and port.
    pub(super) destination: (Option<Ipv4Addr>, Option<u16>),
}

impl Chain {
    /// A chain's name, out of what is unique to its owner. Letters, digits and hyphens are kept, as many as a name can have.
    pub(super) fn new(owner: &str) -> Self {
        let fit = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '-';
        Self(owner.chars().filter(fit).take(LONGEST_NAME).collect())
    }

    /// What makes the chain and puts it in the way of every packet that arrives over loopback.
    pub(super) fn with(&self, drops: &[Drop]) -> String {
        let rules = drops.iter().map(|drop| format!("-A {self} -p tcp{drop} -j DROP\n"));
        let rules: String = rules.collect();
        format!("*filter\n:{self} - [0:0]\n{rules}-I INPUT -i lo -j {self}\nCOMMIT\n")
    }

    /// What takes the chain away again.
    pub(super) fn removal(&self) -> String {
        format!("*filter\n:{self} - [0:0]\n-D INPUT -i lo -j {self}\n-X {self}\nCOMMIT\n")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
            if let Some(port) = port {
                write!(f, " --{end}port {port}")?;
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
    const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

    #[rstest]
    #[case::all(Drop::default(), "")]
    #[case::to_a_port(
        Drop { destination: (None, Some(17000)), ..Drop::default() },
        " --dport 17000"
    )]
    #[case::of_a_link(
        Drop { source: (Some(SERVER), None), destination: (Some(LOOPBACK), Some(27001)) },
        " -s 127.1.66.104/32 -d 127.0.0.1/32 --dport 27001"
    )]
    #[case::back_on_it(
        Drop { source: (Some(LOOPBACK), Some(27001)), destination: (Some(SERVER), None) },
        " -s 127.0.0.1/32 -d 127.1.66.104/32 --sport 27001"
    )]
    fn a_drop_names_what_it_is_about(#[case] drop: Drop, #[case] text: &str) {
        assert_eq!(drop.to_string(), text);
    }

    #[test]
    fn a_chain_is_put_before_loopback_and_taken_away() {
        let chain = Chain::new("rcc-17000");
        let drop = Drop {
            destination: (None, Some(17001)),
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
        assert_eq!(Chain::new(owner).to_string(), name);
    }
}

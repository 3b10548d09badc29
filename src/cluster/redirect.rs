//! Redirections: `MOVED` and `ASK` taken apart exactly.
//!
//! Source: Redis Cluster specification, "MOVED Redirection", "ASK redirection".

use super::connection::Address;
use super::resp::Reply;
use super::slot::SLOT_COUNT;
use std::fmt;

/// Whether a redirection is for good or for one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectKind {
    /// The slot belongs to the other node.
    Moved,
    /// The slot is being migrated: ask the other node, once.
    Ask,
}

/// A `-MOVED` or `-ASK` reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// For good, or for one command.
    pub kind: RedirectKind,
    /// The slot that the server computed.
    pub slot: u16,
    /// Where to go; the host is empty where the server leaves it out.
    pub address: Address,
}

impl Redirect {
    /// Takes a reply apart; `None` when it is no redirection in the specified format (three words, a slot in range,
    /// `endpoint:port` split at the last colon).
    pub fn parse(reply: &Reply) -> Option<Self> {
        let mut words = reply.error()?.split(' ');
        let kind = match words.next()? {
            "MOVED" => RedirectKind::Moved,
            "ASK" => RedirectKind::Ask,
            _ => return None,
        };
        let slot = words.next()?.parse().ok().filter(|slot| *slot < SLOT_COUNT)?;
        let address = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self { kind, slot, address })
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RedirectKind::Moved => "MOVED",
            RedirectKind::Ask => "ASK",
        };
        write!(f, "-{kind} {} {}", self.slot, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("MOVED 12182 10.244.0.5:6379", Some("-MOVED 12182 10.244.0.5:6379"))]
    #[case("MOVED 1 fd00::5:6379", Some("-MOVED 1 fd00::5:6379"))]
    #[case("ASK 15627 127.0.0.1:17000", Some("-ASK 15627 127.0.0.1:17000"))]
    #[case("MOVED 12182 :6379", Some("-MOVED 12182 :6379"))]
    #[case("MOVED 16384 h:1", None)]
    #[case("MOVED 1 h", None)]
    #[case("MOVED 1  h:1", None)]
    #[case("MOVED 1 h:1 extra", None)]
    #[case("ERR no", None)]
    fn parses(#[case] text: &str, #[case] shown: Option<&str>) {
        let redirect = Redirect::parse(&Reply::Error(text.into()));
        assert_eq!(redirect.map(|redirect| redirect.to_string()).as_deref(), shown);
    }
}

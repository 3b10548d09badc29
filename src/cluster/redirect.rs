//! Redirections: `MOVED` and `ASK` taken apart exactly.
//!
//! Source: Redis Cluster specification, "MOVED Redirection", "ASK redirection".

use super::connection::Address;
use super::node::Endpoint;
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

    /// Whether a reply is exactly `-MOVED <slot> <endpoint>`: the node's address, or the host name that it announces.
    pub fn is_moved(reply: &Reply, slot: u16, to: impl Into<Endpoint>) -> bool {
        Self::leads(reply, RedirectKind::Moved, slot, &to.into())
    }

    /// Whether a reply is exactly `-ASK <slot> <endpoint>`: the node's address, or the host name that it announces.
    pub fn is_ask(reply: &Reply, slot: u16, to: impl Into<Endpoint>) -> bool {
        Self::leads(reply, RedirectKind::Ask, slot, &to.into())
    }

    fn leads(reply: &Reply, kind: RedirectKind, slot: u16, to: &Endpoint) -> bool {
        Self::parse(reply)
            .is_some_and(|redirect| redirect.kind == kind && redirect.slot == slot && to.is(&redirect.address))
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

    #[test]
    fn a_redirection_is_judged_by_kind_slot_and_address() {
        let (owner, other) = (Address::new("10.0.0.1", 6379), Address::new("10.0.0.2", 6379));
        let moved = Reply::Error("MOVED 7 10.0.0.1:6379".into());
        assert!(Redirect::is_moved(&moved, 7, &owner));
        assert!(!Redirect::is_moved(&moved, 8, &owner));
        assert!(!Redirect::is_moved(&moved, 7, &other));
        assert!(!Redirect::is_ask(&moved, 7, &owner));
        assert!(Redirect::is_ask(&Reply::Error("ASK 7 10.0.0.1:6379".into()), 7, &owner));
        assert!(!Redirect::is_moved(&Reply::Nil, 7, &owner));
    }

    #[rstest]
    #[case::by_address("MOVED 7 10.0.0.1:6379", true)]
    #[case::by_name("MOVED 7 a.redis:6379", true)]
    #[case::another_node_by_name("MOVED 7 b.redis:6379", false)]
    #[case::another_port("MOVED 7 a.redis:7000", false)]
    #[case::another_slot("MOVED 8 a.redis:6379", false)]
    #[case::no_host("MOVED 7 :6379", false)]
    #[case::host_unknown("MOVED 7 ?:6379", false)]
    #[case::more_words("MOVED 7 a.redis:6379 a", false)]
    fn an_announced_name_leads_to_its_node_alone(#[case] text: &str, #[case] right: bool) {
        let owner = Endpoint {
            address: Address::new("10.0.0.1", 6379),
            announced: Some(Address::new("a.redis", 6379)),
        };
        assert_eq!(Redirect::is_moved(&Reply::Error(text.into()), 7, &owner), right);
        let asks = Reply::Error(text.replace("MOVED", "ASK"));
        assert_eq!(Redirect::is_ask(&asks, 7, &owner), right);
        assert!(!Redirect::is_moved(&asks, 7, &owner));
    }
}

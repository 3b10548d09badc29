//! Where a node is, in the words in which replies may name it.

use crate::cluster::connection::Address;
use std::fmt;

/// Where a node serves clients. Replies name it by its address or, with `cluster-preferred-endpoint-type hostname`, by
/// the host name that it announces; `CLUSTER NODES` shows both.
///
/// Source: redis.conf of 7.0, cluster-announce-hostname and cluster-preferred-endpoint-type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The node's address.
    pub address: Address,
    /// The host name that it announces, with its port; none where it announces none, or one that leads to others too.
    pub announced: Option<Address>,
}

impl Endpoint {
    /// Whether what a reply names is this node. An empty host is nobody's: what it stands for, the host that was asked,
    /// is the node only where all nodes have one host.
    pub fn is(&self, named: &Address) -> bool {
        self.address == *named || self.announced.as_ref() == Some(named)
    }
}

impl From<&Address> for Endpoint {
    /// A node that announces no host name.
    fn from(address: &Address) -> Self {
        Self {
            address: address.clone(),
            announced: None,
        }
    }
}

impl From<&Endpoint> for Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        endpoint.clone()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.announced {
            Some(announced) => write!(f, "{} (or {announced})", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::its_address("10.0.0.1:6379", true)]
    #[case::its_name("a.redis:6379", true)]
    #[case::another_address("10.0.0.2:6379", false)]
    #[case::another_name("b.redis:6379", false)]
    #[case::the_beginning_of_its_name("a:6379", false)]
    #[case::its_address_at_another_port("10.0.0.1:7000", false)]
    #[case::its_name_at_another_port("a.redis:7000", false)]
    #[case::no_host(":6379", false)]
    #[case::unknown("?:6379", false)]
    fn a_node_is_named_by_its_address_or_its_announced_name(#[case] named: &str, #[case] is: bool) {
        let endpoint = Endpoint {
            address: Address::new("10.0.0.1", 6379),
            announced: Some(Address::new("a.redis", 6379)),
        };
        assert_eq!(endpoint.is(&named.parse().unwrap()), is);
        let nameless = Endpoint::from(&endpoint.address);
        assert_eq!(nameless.is(&named.parse().unwrap()), is && !named.starts_with('a'));
    }

    #[test]
    fn both_ways_to_name_it_are_shown() {
        let mut endpoint = Endpoint::from(&Address::new("10.0.0.1", 6379));
        assert_eq!(endpoint.to_string(), "10.0.0.1:6379");
        endpoint.announced = Some(Address::new("a.redis", 6379));
        assert_eq!(endpoint.to_string(), "10.0.0.1:6379 (or a.redis:6379)");
    }
}

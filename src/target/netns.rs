//! Cuts of links between servers that have a network namespace of their own each, as containers and pods have: packets are
//! dropped in the namespace that they come into. Nothing on the way need be known, and no rule outlives the namespace.

use super::filter::{Chain, Drop, Port, WHOLE};
use super::{Cut, Traffic, Way};
use std::net::{IpAddr, Ipv4Addr};

/// A server as packets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Its address, which no other server has.
    pub(super) address: Ipv4Addr,
    /// Its client port.
    pub(super) port: u16,
}

/// The chain in the namespace of a server. It needs no name of its run's: the namespace is that of one server of one run.
pub(super) fn chain() -> Chain {
    Chain::new("rcc-cut", WHOLE)
}

/// The endpoints of servers at `hosts`, where packets tell one server from another.
///
/// # Errors
/// Why they do not, for people.
pub(super) fn endpoints<'a>(hosts: impl Iterator<Item = (&'a str, u16)>) -> Result<Vec<Endpoint>, String> {
    let mut found: Vec<Endpoint> = Vec::new();
    for (host, port) in hosts {
        let address = match host.parse() {
            Ok(IpAddr::V4(address)) => address,
            Ok(IpAddr::V6(address)) => {
                return Err(format!(
                    "links are cut between IPv4 addresses alone, and a server is at {address}"
                ));
            }
            Err(_) => return Err(format!("{host} is no address")),
        };
        if found.iter().any(|other| other.address == address) {
            return Err(format!(
                "several servers are at {address}: packets do not tell one from another"
            ));
        }
        found.push(Endpoint { address, port });
    }
    Ok(found)
}

/// A link that nobody has: a trial of every kind of match that cuts use, which drops nothing.
pub(super) fn nothing() -> [Drop; 2] {
    let nowhere = Some(Ipv4Addr::new(192, 0, 2, 0));
    let of = |port| Drop {
        source: (nowhere, port),
        destination: (nowhere, port),
    };
    [of(Port::Only(1)), of(Port::Within(1, 2))]
}

/// What the namespace of a server drops, so that all these cuts are there once every server's does.
pub(super) fn drops(own: Endpoint, cuts: &[Cut<Endpoint>]) -> Vec<Drop> {
    let mut drops = Vec::new();
    for cut in cuts {
        match cut {
            Cut::ClientPort(cut_off) if *cut_off == own => drops.extend(client_port(own)),
            Cut::ClientPort(_) => {}
            Cut::Between {
                some,
                others,
                traffic,
                way,
            } => {
                let to_own = |receivers: &[Endpoint], senders: &[Endpoint]| {
                    let senders = if receivers.contains(&own) { senders } else { &[] };
                    let each = senders.iter().flat_map(|sender| arriving(*sender, own, *traffic));
                    each.collect::<Vec<Drop>>()
                };
                drops.extend(to_own(others, some));
                if *way == Way::Both {
                    drops.extend(to_own(some, others));
                }
            }
        }
    }
    drops
}

/// Everything to and from the client port, also of clients that are in the namespace themselves: a stream that Kubernetes
/// forwards is one.
fn client_port(own: Endpoint) -> impl Iterator<Item = Drop> {
    let port = Port::Only(own.port);
    [own.address, Ipv4Addr::LOCALHOST].into_iter().flat_map(move |address| {
        [
            Drop {
                destination: (Some(address), port),
                ..Drop::default()
            },
            Drop {
                source: (Some(address), port),
                ..Drop::default()
            },
        ]
    })
}

/// What one server sends to another: on the connections that it has made, and on those that the other has made. Which port
/// the bus has is the servers' matter: it is what is no client port.
fn arriving(from: Endpoint, to: Endpoint, traffic: Traffic) -> Vec<Drop> {
    let packets = |of: Port, at: Port| Drop {
        source: (Some(from.address), of),
        destination: (Some(to.address), at),
    };
    match traffic {
        Traffic::All => vec![packets(Port::Any, Port::Any)],
        Traffic::Bus => {
            let pairs = all_but(from.port).flat_map(|of| all_but(to.port).map(move |at| (of, at)));
            pairs.map(|(of, at)| packets(of, at)).collect()
        }
        Traffic::Clients => vec![
            packets(Port::Any, Port::Only(to.port)),
            packets(Port::Only(from.port), Port::Any),
        ],
    }
}

/// All ports but one. `! --sport A ! --dport B` would be shorter, but iptables 1.8.9 takes it to mean every packet that is not
/// from A to B.
fn all_but(port: u16) -> impl Iterator<Item = Port> {
    let below = port.checked_sub(1).map(|last| Port::Within(0, last));
    let above = port.checked_add(1).map(|first| Port::Within(first, u16::MAX));
    below.into_iter().chain(above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const fn server(number: u8) -> Endpoint {
        Endpoint {
            address: Ipv4Addr::new(10, 0, 0, number),
            port: 6379,
        }
    }

    fn between(traffic: Traffic, way: Way) -> Cut<Endpoint> {
        Cut::Between {
            some: vec![server(1)],
            others: vec![server(2), server(3)],
            traffic,
            way,
        }
    }

    #[rstest]
    #[case::one_way_leaves_the_sender_alone(1, between(Traffic::All, Way::There), &[])]
    #[case::everything_from_the_one(2, between(Traffic::All, Way::There), &["-s 10.0.0.1/32 -d 10.0.0.2/32"])]
    #[case::everything_from_the_others(
        1, between(Traffic::All, Way::Both), &["-s 10.0.0.2/32 -d 10.0.0.1/32", "-s 10.0.0.3/32 -d 10.0.0.1/32"]
    )]
    #[case::the_bus(
        3,
        between(Traffic::Bus, Way::Both),
        &[
            "-s 10.0.0.1/32 -d 10.0.0.3/32 --sport 0:6378 --dport 0:6378",
            "-s 10.0.0.1/32 -d 10.0.0.3/32 --sport 0:6378 --dport 6380:65535",
            "-s 10.0.0.1/32 -d 10.0.0.3/32 --sport 6380:65535 --dport 0:6378",
            "-s 10.0.0.1/32 -d 10.0.0.3/32 --sport 6380:65535 --dport 6380:65535"
        ]
    )]
    #[case::client_ports(
        3,
        between(Traffic::Clients, Way::Both),
        &["-s 10.0.0.1/32 -d 10.0.0.3/32 --dport 6379", "-s 10.0.0.1/32 -d 10.0.0.3/32 --sport 6379"]
    )]
    #[case::who_has_no_part_in_it(4, between(Traffic::All, Way::Both), &[])]
    #[case::a_client_port(
        1,
        Cut::ClientPort(server(1)),
        &["-d 10.0.0.1/32 --dport 6379", "-s 10.0.0.1/32 --sport 6379", "-d 127.0.0.1/32 --dport 6379", "-s 127.0.0.1/32 --sport 6379"]
    )]
    #[case::the_client_port_of_another(2, Cut::ClientPort(server(1)), &[])]
    fn a_server_drops_what_would_come_to_it(#[case] own: u8, #[case] cut: Cut<Endpoint>, #[case] expected: &[&str]) {
        let dropped = drops(server(own), &[cut]);
        let dropped: Vec<String> = dropped.iter().map(|drop| drop.to_string().trim().to_owned()).collect();
        assert_eq!(dropped, expected);
    }

    #[rstest]
    #[case::apart(&["10.0.0.1", "10.0.0.2"], None)]
    #[case::of_the_wrong_family(&["10.0.0.1", "fd00::1"], Some("IPv4 addresses alone"))]
    #[case::together(&["10.0.0.1", "10.0.0.1"], Some("several servers are at 10.0.0.1"))]
    fn servers_are_told_apart_by_their_addresses(#[case] hosts: &[&str], #[case] refused: Option<&str>) {
        let outcome = endpoints(hosts.iter().map(|host| (*host, 6379)));
        match refused {
            None => assert_eq!(outcome.map(|found| found.len()), Ok(hosts.len())),
            Some(reason) => assert!(outcome.is_err_and(|told| told.contains(reason))),
        }
    }

    #[test]
    fn a_chain_is_in_the_way_of_all_that_comes_and_goes() {
        let removal = chain().removal();
        assert!(
            removal.contains("-D INPUT -j rcc-cut\n-D OUTPUT -j rcc-cut\n-X rcc-cut\n"),
            "{removal}"
        );
    }
}

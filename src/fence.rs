//! Who reaches the cluster bus: seen once in a run by a pod that is no member, and judged by several cases. The bus asks for
//! no password, so only the network can keep a stranger from it.

use crate::check::{Look, eventually};
use crate::cluster::connection::Address;
use crate::cluster::node::Member;
use crate::context::{Companion, Context, TargetError};
use crate::inside::{Knock, knock, policies, resolve, service_domain, stranger};
use crate::verdict::{Mismatch, Stop};
use std::sync::Arc;

/// Whether the cluster's network does what NetworkPolicies say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// A policy of the suite's own was kept.
    Kept,
    /// It was not.
    NotKept,
    /// It could not be tried: why.
    Untried(String),
}

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    /// The servers' bus ports, as a stranger finds them.
    pub bus_from_outside: Vec<Knock>,
    /// The same, as a member finds those of the others.
    pub bus_from_inside: Vec<Knock>,
    /// The servers' client ports, as a stranger finds them.
    pub clients_from_outside: Vec<Knock>,
    /// Whether the stranger is on the network at all: it looked a name up, or reached a client's port.
    pub stranger_is_connected: bool,
    /// The NetworkPolicies that say who may reach the servers.
    pub policies: Vec<String>,
    /// Whether every server's bus asks for a certificate (`tls-cluster yes`).
    pub certified: bool,
    /// Tried only where a stranger reached a bus port in spite of a policy.
    pub enforcement: Option<Enforcement>,
}

/// What was seen in this run; the first case that asks looks.
///
/// # Errors
/// When it could not be seen at all: the same for every case that asks.
pub async fn seen(cx: &Context) -> Result<Arc<Seen>, Stop> {
    let shared = cx.shared().clone();
    let seen = shared.fence.get_or_init(|| async { Ok(Arc::new(look(cx).await?)) });
    Ok(seen.await.clone()?)
}

async fn look(cx: &Context) -> Result<Seen, Stop> {
    let outside = stranger(cx, Companion::Client).await?;
    let view = cx.view().await?;
    let mut doors: Vec<(Member, Address)> = Vec::new();
    for node in &view.nodes {
        let port = node.myself().and_then(|line| line.bus_port);
        let port =
            port.ok_or_else(|| Mismatch::new("the bus port on every node's own line", node.member.to_string()))?;
        doors.push((
            node.member.clone(),
            Address::new(node.member.address.host.clone(), port),
        ));
    }
    let bus: Vec<Address> = doors.iter().map(|(_, door)| door.clone()).collect();
    let clients: Vec<Address> = doors.iter().map(|(member, _)| member.address.clone()).collect();
    let bus_from_outside = knock(cx, &outside, &bus).await?;
    let clients_from_outside = knock(cx, &outside, &clients).await?;
    let inside = doors.first().ok_or_else(|| Mismatch::new("servers", "none"))?;
    let bus_from_inside = knock(cx, &inside.0, &bus).await?;
    let reaches_clients = clients_from_outside.iter().any(|knock| knock.open);
    let stranger_is_connected = reaches_clients || resolves(cx, &outside).await?;
    let certified = certified(cx, &doors).await?;
    let policies = policies(cx).await?;
    let reached = bus_from_outside.iter().any(|knock| knock.open);
    let enforcement = match reached && !certified && !policies.is_empty() {
        true => Some(try_policy(cx, &outside).await?),
        false => None,
    };
    Ok(Seen {
        bus_from_outside,
        bus_from_inside,
        clients_from_outside,
        stranger_is_connected,
        policies,
        certified,
        enforcement,
    })
}

/// Whether every server says that its bus speaks TLS. A server that shows no settings, or knows no TLS, does not say so.
async fn certified(cx: &Context, doors: &[(Member, Address)]) -> Result<bool, Stop> {
    for (member, _) in doors {
        let mut connection = cx.connect(&member.address).await?;
        if connection.setting("tls-cluster").await?.as_deref() != Some("yes") {
            return Ok(false);
        }
    }
    Ok(!doors.is_empty())
}

/// Whether a pod can look up the name of the API's own Service, which every cluster has.
async fn resolves(cx: &Context, from: &Member) -> Result<bool, Stop> {
    let name = format!("kubernetes.default.{}.", service_domain(cx, from).await?);
    let found = resolve(cx, from, std::slice::from_ref(&name)).await?;
    Ok(found.values().any(|addresses| !addresses.is_empty()))
}

/// Forbids connections to a pod of the suite's own that another had connected to before, and tries again.
async fn try_policy(cx: &Context, from: &Member) -> Result<Enforcement, Stop> {
    let bait = match stranger(cx, Companion::Bait).await {
        Ok(bait) => bait.address,
        Err(Stop::Unsupported(reason)) => return Ok(Enforcement::Untried(reason)),
        Err(stop) => return Err(stop),
    };
    let bound = cx.timing().reply() * 2;
    let bait = std::slice::from_ref(&bait);
    let what = "the suite's own server is reached with no policy before it";
    let open = eventually(cx, what, bound, async || reached(knock(cx, from, bait).await?, true)).await;
    if let Err(Stop::Mismatch(mismatch)) = open {
        return Ok(Enforcement::Untried(mismatch.to_string()));
    }
    open?;
    match cx.deployment()?.fence_bait().await {
        Ok(()) => {}
        Err(TargetError::Usage(reason) | TargetError::NotAllowed(reason)) => return Ok(Enforcement::Untried(reason)),
        Err(error) => return Err(error.into()),
    }
    let what = "the suite's own server is reached no more";
    let shut = eventually(cx, what, bound, async || reached(knock(cx, from, bait).await?, false)).await;
    match shut {
        Ok(()) => Ok(Enforcement::Kept),
        Err(Stop::Mismatch(_)) => Ok(Enforcement::NotKept),
        Err(stop) => Err(stop),
    }
}

fn reached(knocks: Vec<Knock>, wanted: bool) -> Result<Look<()>, Stop> {
    let open = knocks.iter().any(|knock| knock.open);
    Ok(match open == wanted {
        true => Look::Reached(()),
        false => Look::NotYet(told(&knocks).join(", ")),
    })
}

fn told(knocks: &[Knock]) -> Vec<String> {
    knocks
        .iter()
        .map(|knock| format!("{}: {}", knock.to, knock.said))
        .collect()
}

/// Expects that no stranger reached a bus port, where members do.
///
/// # Errors
/// A mismatch where one did, or where not even members reach it; an unsupported stop where what was seen says nothing.
pub fn judge(seen: &Seen) -> Result<(), Stop> {
    let shut: Vec<Knock> = seen
        .bus_from_inside
        .iter()
        .filter(|knock| !knock.open)
        .cloned()
        .collect();
    if seen.bus_from_inside.is_empty() || !shut.is_empty() {
        return Err(Mismatch::new("a bus port that members reach", told(&shut).join("\n")).into());
    }
    let open: Vec<String> = seen
        .bus_from_outside
        .iter()
        .filter(|knock| knock.open)
        .map(|knock| format!("a pod that is no member reached {}", knock.to))
        .collect();
    if open.is_empty() {
        return match seen.stranger_is_connected {
            true => Ok(()),
            false => Err(Stop::Unsupported(
                "the pod of the suite's own reaches nothing at all, not even the cluster's DNS: that it does not reach the \
                 bus says nothing"
                    .into(),
            )),
        };
    }
    if seen.certified {
        // Whoever has a certificate by the same CA may join, and who that is the network does not show.
        return Err(Stop::Unsupported(
            "the bus opens to a pod that is no member, and asks it for a certificate (tls-cluster yes): who has one is not seen"
                .into(),
        ));
    }
    let policies = seen.policies.join(", ");
    let why = match (seen.policies.is_empty(), &seen.enforcement) {
        (true, _) | (false, None) => "no NetworkPolicy selects the servers' pods".to_owned(),
        (false, Some(Enforcement::Kept)) => {
            format!("the network keeps to NetworkPolicies (probed), so {policies} allows it")
        }
        (false, Some(Enforcement::NotKept)) => {
            return Err(Stop::Unsupported(format!(
                "the network of this cluster does not enforce NetworkPolicies (probed); {policies} selects the servers' pods"
            )));
        }
        (false, Some(Enforcement::Untried(reason))) => {
            return Err(Stop::Unsupported(format!(
                "whether the network of this cluster enforces NetworkPolicies could not be tried: {reason}; {policies} \
                 selects the servers' pods"
            )));
        }
    };
    Err(Mismatch::new(
        "the bus ports reached by members alone",
        format!("{}\n{why}", open.join("\n")),
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn knocks(open: &[bool]) -> Vec<Knock> {
        let each = open.iter().enumerate().map(|(at, open)| Knock {
            to: Address::new(format!("10.0.0.{at}"), 16379),
            open: *open,
            said: String::new(),
        });
        each.collect()
    }

    fn seen(outside: &[bool], inside: &[bool], policies: &[&str], enforcement: Option<Enforcement>) -> Seen {
        Seen {
            bus_from_outside: knocks(outside),
            bus_from_inside: knocks(inside),
            clients_from_outside: knocks(&[true, true]),
            stranger_is_connected: true,
            policies: policies.iter().map(|name| (*name).to_owned()).collect(),
            certified: false,
            enforcement,
        }
    }

    const SHUT: [bool; 2] = [false, false];
    const ONE: [bool; 2] = [true, false];
    const ALL: [bool; 2] = [true, true];

    #[rstest]
    #[case::fenced(seen(&SHUT, &ALL, &["NetworkPolicy/bus"], None), "pass")]
    #[case::fenced_by_other_means(seen(&SHUT, &ALL, &[], None), "pass")]
    #[case::no_policy(seen(&ALL, &ALL, &[], None), "fail no NetworkPolicy")]
    #[case::one_open(seen(&ONE, &ALL, &["NetworkPolicy/bus"], Some(Enforcement::Kept)), "fail the network keeps")]
    #[case::not_enforced(seen(&ALL, &ALL, &["NetworkPolicy/bus"], Some(Enforcement::NotKept)), "unsupported does not enforce")]
    #[case::untried(
        seen(&ALL, &ALL, &["NetworkPolicy/bus"], Some(Enforcement::Untried("no right".into()))),
        "unsupported no right"
    )]
    #[case::shut_for_members_too(seen(&SHUT, &SHUT, &["NetworkPolicy/all"], None), "fail 10.0.0.0:16379")]
    #[case::off_the_network(
        Seen { stranger_is_connected: false, ..seen(&SHUT, &ALL, &[], None) },
        "unsupported nothing at all"
    )]
    #[case::asks_for_a_certificate(
        Seen { certified: true, ..seen(&ALL, &ALL, &[], None) },
        "unsupported asks it for a certificate"
    )]
    #[case::shut_and_certified(Seen { certified: true, ..seen(&SHUT, &ALL, &[], None) }, "pass")]
    #[case::nobody_asked(seen(&SHUT, &[], &[], None), "fail ")]
    fn who_reaches_the_bus_is_judged(#[case] seen: Seen, #[case] expected: &str) {
        let told = match judge(&seen) {
            Ok(()) => "pass".to_owned(),
            Err(Stop::Mismatch(mismatch)) => format!("fail {mismatch}"),
            Err(Stop::Unsupported(reason)) => format!("unsupported {reason}"),
            Err(Stop::Error(error)) => format!("error {error}"),
        };
        let (verdict, word) = expected.split_once(' ').unwrap_or((expected, ""));
        assert!(told.starts_with(verdict) && told.contains(word), "{told}");
    }
}

//! Forming a cluster from empty nodes, by commands alone: for targets that start servers and have no bootstrap.
//!
//! Source: Redis Cluster specification, "Nodes handshake", "Hash slot configuration"; what `redis-cli --cluster create`
//! does, without its endless waits.

use super::connection::{Connection, LinkError};
use super::node::{Member, NodeView, parse_slots};
use super::slot::{SLOT_COUNT, SlotRange};
use super::view::{ClusterView, Shape};
use futures::future::try_join_all;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Why a cluster was not formed.
#[derive(Debug, thiserror::Error)]
pub enum FormationError {
    /// A node could not be asked, or refused a command.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The nodes did not become one whole cluster in time; the text is the last observation.
    #[error("the nodes did not form a cluster within {:.0} s: {last}", bound.as_secs_f64())]
    NotWhole {
        /// How long was waited.
        bound: Duration,
        /// What was missing at the end.
        last: String,
    },
}

/// The slots of each master, as even as `redis-cli --cluster create` makes them (0-5460, 5461-10922, 10923-16383 for three).
pub fn split(masters: usize) -> Vec<SlotRange> {
    let count = f64::from(SLOT_COUNT);
    let per_master = count / masters as f64;
    let mut first = 0_u16;
    (1..=masters)
        .map(|index| {
            let last = if index == masters {
                SLOT_COUNT - 1
            } else {
                // redis-cli rounds half away from zero, as `f64::round` does.
                (per_master * index as f64 - 1.0).round() as u16
            };
            let range = SlotRange { first, last };
            first = last + 1;
            range
        })
        .collect()
}

/// Makes one cluster of empty nodes: the first ones masters, the rest their replicas in turn. The connections must be
/// authenticated, one a node, in the order of `members`. Returns when every node sees the whole cluster.
///
/// # Errors
/// When a node refuses, or the cluster is not whole within `bound`.
pub async fn form(
    members: &[Member],
    connections: &mut [Connection],
    shape: Shape,
    bound: Duration,
) -> Result<(), FormationError> {
    // The steps keep to the bound themselves and say what was missing; this one is for a question that is never answered.
    let hanging = bound + HANGING;
    match tokio::time::timeout(hanging, form_step_by_step(members, connections, shape, bound)).await {
        Ok(formed) => formed,
        Err(_) => Err(FormationError::NotWhole {
            bound: hanging,
            last: "a node did not answer".into(),
        }),
    }
}

async fn form_step_by_step(
    members: &[Member],
    connections: &mut [Connection],
    shape: Shape,
    bound: Duration,
) -> Result<(), FormationError> {
    let started = Instant::now();
    let ranges = split(shape.masters);
    let masters = connections.iter_mut().zip(ranges).enumerate();
    try_join_all(masters.map(async |(index, (connection, range))| {
        connection
            .ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])
            .await?;
        let mut command = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
        command.extend(range.slots().map(|slot| slot.to_string()));
        connection.ask(&command).await
    }))
    .await?;
    let meet_again = MEET_AGAIN.max(MEET_AGAIN_A_NODE * u32::try_from(members.len()).unwrap_or(u32::MAX));
    let mut met = Instant::now();
    introduce(members, connections).await?;
    // Asking hundreds for everything again and again would keep them from getting to know each other.
    let pause = LOOK_AGAIN.max(LOOK_AGAIN_A_NODE * u32::try_from(members.len()).unwrap_or(u32::MAX));
    while let Some(last) = strangers(connections, members.len()).await? {
        if met.elapsed() >= meet_again {
            met = Instant::now();
            introduce(members, connections).await?;
        }
        again(bound, started, pause, last).await?;
    }
    let masters = connections.iter_mut().take(shape.masters);
    let ids = try_join_all(masters.map(|connection| connection.ask_text(&["CLUSTER", "MYID"]))).await?;
    let replicas = connections.iter_mut().skip(shape.masters).enumerate();
    try_join_all(replicas.map(async |(index, replica)| {
        replica
            .ask(&["CLUSTER", "REPLICATE", &ids[index % shape.masters]])
            .await
    }))
    .await?;
    let mut told = Instant::now();
    loop {
        let unaware = unaware(connections).await?;
        let Some((of, by)) = unaware.first() else { break };
        let last = format!(
            "{} times a node does not know the role or the epoch of another; the first: {} that of {}",
            unaware.len(),
            members[*by].address,
            members[*of].address
        );
        if told.elapsed() >= MEET_AGAIN {
            told = Instant::now();
            present(members, connections, &unaware).await?;
        }
        again(bound, started, pause, last).await?;
    }
    // First what costs the servers little.
    while let Some(last) = unready(connections, shape).await? {
        again(bound, started, pause, last).await?;
    }
    // A replica is listed once its offset is known, which it too tells alone. Of a few nodes each hears it soon.
    let mut told = None;
    while members.len() > FEW {
        let unlisted = unlisted(connections, shape).await?;
        let Some((of, by)) = unlisted.first() else { break };
        let last = format!(
            "{} times a node does not list a replica; the first: {} does not list {}",
            unlisted.len(),
            members[*by].address,
            members[*of].address
        );
        if told.is_none_or(|told: Instant| told.elapsed() >= MEET_AGAIN) {
            told = Some(Instant::now());
            present(members, connections, &unlisted).await?;
        }
        again(bound, started, pause, last).await?;
    }
    while let Some(last) = not_whole(members, connections, shape).await? {
        again(bound, started, pause, last).await?;
    }
    Ok(())
}

/// Up to so many nodes each pair exchanges packets within seconds, by the random ping that every node sends once a second.
const FEW: usize = 30;

/// How long after the bound a step may still be at work.
const HANGING: Duration = Duration::from_secs(30);

/// After so long nodes that do not know each other yet are introduced once more: a handshake that a busy machine did not
/// let end within the node-timeout is forgotten, and nobody tries again.
pub(crate) const MEET_AGAIN: Duration = Duration::from_secs(5);
/// The same for many nodes, for each of them: news takes longer to go round.
const MEET_AGAIN_A_NODE: Duration = Duration::from_millis(250);

/// The first node meets all others: with that they are one cluster. Each other node meets those 1, 2, 4, 8, … places
/// after it, so that news goes round in a few steps however many nodes there are, and not from the first alone.
async fn introduce(members: &[Member], connections: &mut [Connection]) -> Result<(), LinkError> {
    let count = members.len();
    let meetings = connections.iter_mut().enumerate().map(async |(index, connection)| {
        let others: Vec<usize> = match index {
            0 => (1..count).collect(),
            _ => std::iter::successors(Some(1), |step| Some(step * 2))
                .take_while(|step| *step < count)
                .map(|step| (index + step) % count)
                .collect(),
        };
        for other in others {
            let address = &members[other].address;
            connection
                .ask(&["CLUSTER", "MEET", &address.host, &address.port.to_string()])
                .await?;
        }
        Ok::<_, LinkError>(())
    });
    try_join_all(meetings).await?;
    Ok(())
}

/// How long between two looks at a few nodes.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The same for many nodes, for each of them.
const LOOK_AGAIN_A_NODE: Duration = Duration::from_millis(10);

/// Which node does not yet know all others.
async fn strangers(connections: &mut [Connection], count: usize) -> Result<Option<String>, LinkError> {
    // A count that holds nodes in handshake too, but is had for little.
    let counts = connections.iter_mut().map(async |connection| {
        let info = connection.ask_text(&["CLUSTER", "INFO"]).await?;
        let known: usize = field(&info, "cluster_known_nodes").parse().unwrap_or_default();
        Ok::<_, LinkError>((connection.address().clone(), known))
    });
    let counts = try_join_all(counts).await?;
    let fewest = counts.iter().min_by_key(|(_, known)| *known);
    if let Some((address, known)) = fewest.filter(|(_, known)| *known < count) {
        let ready = counts.iter().filter(|(_, known)| *known >= count).count();
        return Ok(Some(format!(
            "{ready} of {count} nodes know all; {address} knows {known}"
        )));
    }
    let known = connections.iter_mut().map(async |connection| {
        let nodes = connection.ask_text(&["CLUSTER", "NODES"]).await?;
        // A node in handshake has a name for the time being only.
        let known = nodes.lines().filter(|line| !line.contains("handshake")).count();
        Ok::<_, LinkError>((connection.address().clone(), known))
    });
    let known = try_join_all(known).await?;
    let stranger = known.into_iter().find(|(_, known)| *known != count);
    Ok(stranger.map(|(address, known)| format!("{address} knows {known} of {count} nodes")))
}

/// Which nodes do not know of another what it says of itself, its master or its configuration epoch; as indices: of whom,
/// and by whom. Both are told by a node alone, in each of its packets. Of hundreds of nodes most pairs exchange one only
/// by chance, once in minutes: what others say of a node keeps it from being pinged (Redis source,
/// clusterProcessGossipSection).
async fn unaware(connections: &mut [Connection]) -> Result<Vec<(usize, usize)>, LinkError> {
    let asked = connections
        .iter_mut()
        .map(|connection| connection.ask_text(&["CLUSTER", "NODES"]));
    let views = try_join_all(asked).await?;
    // Of each line: the id, whether it is the node's own, its master or "-", and the epoch where it is a master's.
    let lines = |view: &'_ str| {
        let fields = view.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let told = fields.filter(|fields| fields.len() > 6).map(|fields| {
            let epoch = if fields[3] == "-" { fields[6] } else { "" };
            let own = fields[2].contains("myself");
            (fields[0].to_owned(), own, fields[3].to_owned(), epoch.to_owned())
        });
        told.collect::<Vec<_>>()
    };
    let views: Vec<_> = views.iter().map(|view| lines(view)).collect();
    let mut own = HashMap::new();
    for (of, view) in views.iter().enumerate() {
        let line = view.iter().find(|(_, own, _, _)| *own);
        own.extend(line.map(|(id, _, master, epoch)| (id, (of, master, epoch))));
    }
    let mut found = Vec::new();
    for (by, view) in views.iter().enumerate() {
        let wrong = view.iter().filter_map(|(id, _, master, epoch)| {
            let (of, its_master, its_epoch) = own.get(id)?;
            ((master, epoch) != (its_master, its_epoch)).then_some((*of, by))
        });
        found.extend(wrong);
    }
    Ok(found)
}

/// Which replicas a node does not list in `CLUSTER SLOTS`; as indices: which, and by whom.
async fn unlisted(connections: &mut [Connection], shape: Shape) -> Result<Vec<(usize, usize)>, LinkError> {
    let replicas = connections.iter_mut().enumerate().skip(shape.masters);
    let ids = replicas.map(async |(index, connection)| {
        let id = connection.ask_text(&["CLUSTER", "MYID"]).await?;
        Ok::<_, LinkError>((index, id))
    });
    let ids = try_join_all(ids).await?;
    let asked = connections.iter_mut().enumerate().map(async |(by, connection)| {
        let reply = connection.ask(&["CLUSTER", "SLOTS"]).await?;
        let host = connection.address().host.clone();
        let slots = parse_slots(&reply, &host).map_err(|reason| connection.nonsense("CLUSTER SLOTS", reason))?;
        let nodes = slots.into_iter().flat_map(|entry| entry.nodes);
        let listed: HashSet<String> = nodes.filter_map(|(_, id)| id).collect();
        let missing = ids.iter().filter(|(_, id)| !listed.contains(id));
        Ok::<_, LinkError>(missing.map(|(of, _)| (*of, by)).collect::<Vec<_>>())
    });
    Ok(try_join_all(asked).await?.into_iter().flatten().collect())
}

/// Lets nodes tell others their role, epoch and offset: whoever is met by a node that it knows learns them from
/// the packet.
async fn present(
    members: &[Member],
    connections: &mut [Connection],
    unaware: &[(usize, usize)],
) -> Result<(), LinkError> {
    let meetings = connections.iter_mut().enumerate().map(async |(index, connection)| {
        for (_, by) in unaware.iter().filter(|(of, _)| *of == index) {
            let address = &members[*by].address;
            connection
                .ask(&["CLUSTER", "MEET", &address.host, &address.port.to_string()])
                .await?;
        }
        Ok::<_, LinkError>(())
    });
    try_join_all(meetings).await.map(drop)
}

/// Which node does not yet call the cluster served, or has not yet its replication.
async fn unready(connections: &mut [Connection], shape: Shape) -> Result<Option<String>, LinkError> {
    let findings = connections.iter_mut().enumerate().map(async |(index, connection)| {
        let info = connection.ask_text(&["CLUSTER", "INFO"]).await?;
        let replication = connection.ask_text(&["INFO", "replication"]).await?;
        let expected = if index < shape.masters {
            ("connected_slaves", shape.replicas_per_master.to_string())
        } else {
            ("master_link_status", "up".to_owned())
        };
        let seen = [
            (&info, "cluster_state", "ok".to_owned()),
            (&replication, expected.0, expected.1),
        ];
        let wrong = seen.into_iter().find(|(text, name, value)| field(text, name) != value);
        Ok::<_, LinkError>(wrong.map(|(text, name, value)| {
            let address = connection.address();
            format!("{address}: {name}:{} (expected {value})", field(text, name))
        }))
    });
    Ok(try_join_all(findings).await?.into_iter().flatten().next())
}

/// The value of a field of a text of `name:value` lines, empty where there is none.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().trim_end()
}

/// What keeps the cluster from being whole.
async fn not_whole(
    members: &[Member],
    connections: &mut [Connection],
    shape: Shape,
) -> Result<Option<String>, LinkError> {
    let pairs = members.iter().zip(connections);
    let nodes = try_join_all(pairs.map(|(member, connection)| NodeView::ask(connection, member.clone()))).await?;
    let view = ClusterView {
        nodes,
        silent: Vec::new(),
    };
    let findings = view.not_whole(shape);
    let more = findings.len().saturating_sub(5);
    let mut shown: Vec<String> = findings.into_iter().take(5).collect();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    Ok((!shown.is_empty()).then(|| shown.join("; ")))
}

/// Waits a little before the next look, or gives up.
async fn again(bound: Duration, started: Instant, pause: Duration, last: String) -> Result<(), FormationError> {
    if started.elapsed() >= bound {
        return Err(FormationError::NotWhole { bound, last });
    }
    tokio::time::sleep(pause).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_the_usual_tool_does() {
        let shown: Vec<String> = split(3).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["0-5460", "5461-10922", "10923-16383"]);
    }

    #[test]
    fn splits_cover_every_slot_once() {
        for masters in 1..=50 {
            let ranges = split(masters);
            assert_eq!(ranges.len(), masters);
            assert_eq!(
                ranges.iter().map(|range| range.len()).sum::<usize>(),
                usize::from(SLOT_COUNT)
            );
            for pair in ranges.windows(2) {
                assert_eq!(pair[0].last + 1, pair[1].first);
            }
        }
    }
}

//! Forming a cluster from empty nodes, by commands alone: for targets that start servers and have no bootstrap.
//!
//! Source: Redis Cluster specification, "Nodes handshake", "Hash slot configuration"; what `redis-cli --cluster create`
//! does, without its endless waits.

use super::connection::{Connection, LinkError};
use super::node::{Member, NodeView};
use super::slot::{SLOT_COUNT, SlotRange};
use super::view::{ClusterView, Shape};
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
    let started = Instant::now();
    for (index, (connection, range)) in connections.iter_mut().zip(split(shape.masters)).enumerate() {
        connection
            .ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])
            .await?;
        let mut command = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
        command.extend(range.slots().map(|slot| slot.to_string()));
        connection.ask(&command).await?;
    }
    let (first, others) = (&mut connections[0], &members[1..]);
    for other in others {
        first
            .ask(&["CLUSTER", "MEET", &other.address.host, &other.address.port.to_string()])
            .await?;
    }
    while let Some(last) = strangers(connections, members.len()).await? {
        again(bound, started, last).await?;
    }
    let mut ids = Vec::new();
    for connection in connections.iter_mut().take(shape.masters) {
        ids.push(connection.ask_text(&["CLUSTER", "MYID"]).await?);
    }
    for (index, replica) in connections.iter_mut().skip(shape.masters).enumerate() {
        replica
            .ask(&["CLUSTER", "REPLICATE", &ids[index % shape.masters]])
            .await?;
    }
    while let Some(last) = not_whole(members, connections, shape).await? {
        again(bound, started, last).await?;
    }
    Ok(())
}

/// Which node does not yet know all others.
async fn strangers(connections: &mut [Connection], count: usize) -> Result<Option<String>, LinkError> {
    for connection in connections {
        let info = connection.ask_text(&["CLUSTER", "INFO"]).await?;
        let known = info
            .lines()
            .find_map(|line| line.strip_prefix("cluster_known_nodes:"))
            .unwrap_or("0");
        if known != count.to_string() {
            return Ok(Some(format!("{} knows {known} of {count} nodes", connection.address())));
        }
    }
    Ok(None)
}

/// What keeps the cluster from being whole.
async fn not_whole(
    members: &[Member],
    connections: &mut [Connection],
    shape: Shape,
) -> Result<Option<String>, LinkError> {
    let mut view = ClusterView::default();
    for (member, connection) in members.iter().zip(connections) {
        view.nodes.push(NodeView::ask(connection, member.clone()).await?);
    }
    let findings = view.not_whole(shape);
    Ok((!findings.is_empty()).then(|| findings.join("; ")))
}

/// Waits a little before the next look, or gives up.
async fn again(bound: Duration, started: Instant, last: String) -> Result<(), FormationError> {
    if started.elapsed() >= bound {
        return Err(FormationError::NotWhole { bound, last });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
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

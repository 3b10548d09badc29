//! Joining nodes: `CLUSTER MEET`, until the nodes know each other.
//!
//! Source: Redis Cluster specification, section Nodes handshake. A handshake that has not ended within the node-timeout is
//! forgotten, and no node tries again: on a busy machine that happens.

use crate::check::{Look, eventually, expect};
use crate::cluster::connection::Address;
use crate::cluster::formation::MEET_AGAIN;
use crate::context::Context;
use crate::verdict::Stop;
use std::time::Instant;

/// Has one node meet others, every 5 s, until `look` reaches what `what` names, for at most T_arrange: nothing is judged
/// by how long it takes.
///
/// # Errors
/// A mismatch when a meeting is refused, or with the last observation when the limit has passed; other stops of `look`.
pub async fn meet<T, F>(cx: &Context, node: &Address, others: &[&Address], what: &str, look: F) -> Result<T, Stop>
where
    F: AsyncFn() -> Result<Look<T>, Stop>,
{
    let mut met: Option<Instant> = None;
    eventually(cx, what, cx.timing().arrange(), async || {
        if met.is_none_or(|at| at.elapsed() >= MEET_AGAIN) {
            let mut connection = cx.connect(node).await?;
            for other in others {
                let port = other.port.to_string();
                let reply = connection.call(&["CLUSTER", "MEET", &other.host, &port]).await?;
                let told = format!("{node}: CLUSTER MEET {} {port} -> {reply}", other.host);
                expect(reply.is_ok(), "+OK", told)?;
            }
            met = Some(Instant::now());
        }
        look().await
    })
    .await
}

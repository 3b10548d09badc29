//! Clients that wait for a key when it goes to another node.

use crate::cases::failover::swapping::{swap_back, swap_in_time};
use crate::check::{Look, eventually, expect};
use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::node::{Endpoint, Member};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::context::{Context, with_cleanup};
use crate::failover::{Shard, pick_shard};
use crate::migration::{Mover, bring_home, empty_slots};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::time::{Duration, Instant};

/// How long a client would wait for its key, in seconds: longer than any of the bounds.
const WAITS: &str = "60";

/// How long the release may take: the change must be known, and a server looks at every client once a second.
fn bound(cx: &Context) -> Duration {
    cx.timing().gossip() + cx.timing().visible()
}

/// A client that waits for a key, as the server confirms.
async fn blocked(cx: &Context, member: &Member, key: &str) -> Result<Connection, Stop> {
    let mut client = cx.connect(&member.address).await?;
    let id = client.ask(&["CLIENT", "ID"]).await?;
    let id = id
        .integer()
        .ok_or_else(|| client.nonsense("CLIENT ID", id.to_string()))?;
    client.send(&["BLPOP", key, WAITS]).await?;
    let mut observer = cx.connect(&member.address).await?;
    eventually(cx, "a client that waits in BLPOP", cx.timing().reply(), async || {
        let list = observer.ask_text(&["CLIENT", "LIST"]).await?;
        let line = list.lines().find(|line| line.starts_with(&format!("id={id} ")));
        let line = line.unwrap_or_default();
        let flags = line.split(' ').find_map(|field| field.strip_prefix("flags="));
        Ok(if flags.is_some_and(|flags| flags.contains('b')) {
            Look::Reached(())
        } else {
            Look::NotYet(format!("{member}: CLIENT LIST: {line}"))
        })
    })
    .await?;
    Ok(client)
}

/// What the client is told in the end, which must be right.
async fn released(
    cx: &Context,
    member: &Member,
    client: Connection,
    wanted: &str,
    right: impl Fn(&Reply) -> bool,
) -> Result<(), Stop> {
    let limit = bound(cx);
    let expected = format!("{wanted} for the waiting client within {:.1} s", limit.as_secs_f64());
    match client.with_patience(limit).receive().await {
        Ok(reply) => Ok(expect(right(&reply), expected, format!("{member}: BLPOP -> {reply}"))?),
        Err(LinkError::TimedOut { .. }) => {
            Err(Mismatch::new(expected, format!("{member}: its client still waits in BLPOP")).into())
        }
        Err(LinkError::Closed { .. }) => {
            let seen = format!("{member}: the connection of its client was closed without a word");
            Err(Mismatch::new(expected, seen).into())
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn released_with_redirection(cx: &Context) -> Outcome {
    let view = cx.view().await?;
    let shard = pick_shard(cx, &view).await?;
    let (source, destination) = (
        view.by_id(&shard.master_id),
        shard.other_slots.first().and_then(|slot| view.owner_of(*slot)),
    );
    let (Some(source), Some(destination)) = (source, destination) else {
        return Err(Mismatch::new("two masters with slots", "there are fewer").into());
    };
    let slot = empty_slots(cx, source, 1).await?[0];
    let destination_id = destination.myself().map_or("", |line| &line.id);
    let when_moved = async {
        let client = blocked(cx, &source.member, &cx.key_in(slot, "waits")).await?;
        let mut mover = Mover::between(cx, &view, &shard.master_id, destination_id).await?;
        mover.open(slot).await?;
        mover.finish(slot).await?;
        let moved = Instant::now();
        let to = view.endpoint_of(destination);
        let wanted = format!("-MOVED {slot} {to}");
        released(cx, &source.member, client, &wanted, |reply| {
            Redirect::is_moved(reply, slot, &to)
        })
        .await?;
        cx.measure("release after the move", moved.elapsed(), None, Some(bound(cx)));
        Ok(())
    };
    with_cleanup(when_moved, bring_home(cx, &[slot], &shard.master_id)).await?;
    let replica = view.by_id(&shard.replica_id).map(|node| view.endpoint_of(node));
    let replica = replica.unwrap_or_else(|| Endpoint::from(&shard.replica.address));
    with_cleanup(when_demoted(cx, &shard, &replica), swap_back(cx, &shard)).await
}

async fn when_demoted(cx: &Context, shard: &Shard, replica: &Endpoint) -> Outcome {
    let client = blocked(cx, &shard.master, &cx.key_in(shard.slot, "waits")).await?;
    swap_in_time(cx, &shard.replica, &shard.replica_id).await?;
    let demoted = Instant::now();
    // Valkey 9 sends the client on instead, which is what it has to know.
    released(
        cx,
        &shard.master,
        client,
        "-UNBLOCKED …, or -MOVED to the new master",
        |reply| reply.error_prefix() == Some("UNBLOCKED") || Redirect::is_moved(reply, shard.slot, replica),
    )
    .await?;
    cx.measure("release after the demotion", demoted.elapsed(), None, Some(bound(cx)));
    Ok(())
}

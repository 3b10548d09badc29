//! The bodies of chapter FAIL about replicas that may not, or cannot, stand for election, on servers of their own.

use super::apart::{THREE_AND_THREE, flagged_by, not_in_state, not_replaced, remains_a_replica, whole};
use crate::cases::replication::apart::quick;
use crate::check::{Look, eventually, look_but, no_findings, steadily};
use crate::cluster::node::Member;
use crate::cluster::view::ClusterView;
use crate::context::{Alteration, Context, Fault, Scratch, Secret};
use crate::failover::{Shard, pick_shard};
use crate::verdict::{Outcome, Stop};
use std::time::{Duration, Instant};

/// Three masters with a replica each, which stop when a slot is not served.
fn covered(cx: &Context, directives: &[&str]) -> Scratch {
    let mut scratch = quick(cx, THREE_AND_THREE, 0);
    let own = directives.iter().copied().map(Alteration::everywhere);
    scratch
        .alterations
        .extend(std::iter::once(Alteration::everywhere("cluster-require-full-coverage yes")).chain(own));
    scratch
}

/// Sends `CLUSTER FAILOVER` with an option.
async fn fail_over(cx: &Context, replica: &Member, option: &str) -> Outcome {
    let mut connection = cx.connect(&replica.address).await?;
    let reply = connection.call(&["CLUSTER", "FAILOVER", option]).await?;
    cx.note(format!("{replica}: CLUSTER FAILOVER {option} -> {reply}"));
    Ok(())
}

/// A look at the servers that are left once these are gone, with a finding for each that does not answer.
async fn survivors(cx: &Context, gone: &[Member]) -> Result<(ClusterView, Vec<String>), Stop> {
    look_but(cx, gone, cx.shape().nodes() - gone.len()).await
}

/// Waits until these say that they are masters, and every survivor says `cluster_state:ok`.
async fn promoted(cx: &Context, replicas: &[Member], gone: &[Member], what: &str, bound: Duration) -> Outcome {
    eventually(cx, what, bound, async || {
        let (view, mut missing) = survivors(cx, gone).await?;
        let replica = |member: &&Member| view.of(&member.name).is_none_or(|node| !node.role.is_master());
        let replicas = replicas.iter().filter(replica);
        missing.extend(replicas.map(|member| format!("{member} is no master")));
        missing.extend(not_in_state(&view, "ok"));
        Ok(match missing.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(missing.join("\n")),
        })
    })
    .await
}

/// Waits until every survivor says `cluster_state:fail`.
async fn down(cx: &Context, gone: &[Member]) -> Outcome {
    eventually(
        cx,
        "every survivor says cluster_state:fail",
        cx.timing().arrange(),
        async || {
            let (view, mut missing) = survivors(cx, gone).await?;
            missing.extend(not_in_state(&view, "fail"));
            Ok(match missing.is_empty() {
                true => Look::Reached(()),
                false => Look::NotYet(missing.join("\n")),
            })
        },
    )
    .await
}

/// Expects these to be replicas at every look, for so long, and every survivor to answer.
async fn remain_replicas(cx: &Context, replicas: &[Member], gone: &[Member], what: &str, hold: Duration) -> Outcome {
    steadily(cx, what, hold, hold * 2, async || {
        let (view, silent) = survivors(cx, gone).await?;
        let master = |member: &&Member| view.of(&member.name).is_some_and(|node| node.role.is_master());
        let masters = replicas.iter().filter(master);
        let masters: Vec<String> = masters.map(|member| format!("{member} is a master")).collect();
        no_findings("both replicas still replicas", &masters)?;
        Ok(match silent.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(silent.join("\n")),
        })
    })
    .await
}

pub(super) async fn without_majority(cx: &Context) -> Outcome {
    cx.with_scratch(&covered(cx, &[]), async |cx| {
        let members = cx.all_members().await?;
        // Masters first, then their replicas in that order.
        let (masters, replicas) = (&members[..2], &members[3..5]);
        for stop in futures::future::join_all(masters.iter().map(|member| cx.inject(Fault::KeepAway, member))).await {
            stop?;
        }
        down(cx, masters).await?;
        fail_over(cx, &replicas[0], "FORCE").await?;
        let votes = (2 * cx.timing().node_timeout()).max(Duration::from_secs(2)) + Duration::from_secs(1);
        let what = "nobody is promoted without a majority";
        remain_replicas(cx, replicas, masters, what, votes).await?;
        let began = Instant::now();
        for replica in replicas {
            fail_over(cx, replica, "TAKEOVER").await?;
        }
        let bound = cx.timing().back();
        promoted(
            cx,
            replicas,
            masters,
            "both replicas take over, and the cluster is served",
            bound,
        )
        .await?;
        cx.measure("served after TAKEOVER", began.elapsed(), None, Some(bound));
        cx.undo_faults().await?;
        whole(cx).await?;
        let view = cx.view().await?;
        let still = masters
            .iter()
            .filter(|member| view.of(&member.name).is_none_or(|node| node.role.is_master()));
        let still: Vec<String> = still.map(|member| format!("{member} is no replica")).collect();
        Ok(no_findings("the old masters back as replicas", &still)?)
    })
    .await
}

pub(super) async fn restarted_replica(cx: &Context) -> Outcome {
    let scratch = covered(cx, &["cluster-replica-validity-factor 10"]);
    cx.with_scratch(&scratch, async |cx| {
        let view = cx.view().await?;
        let shard = pick_shard(cx, &view).await?;
        // Until it is restarted: the configuration that it starts from has no such line.
        let mut connection = cx.connect(&shard.replica.address).await?;
        connection
            .ask(&["CONFIG", "SET", "cluster-replica-no-failover", "yes"])
            .await?;
        cx.inject(Fault::KeepAway, &shard.master).await?;
        flagged_by(cx, &shard.replica, &shard.master_id).await?;
        cx.inject(Fault::Restart, &shard.replica).await?;
        remains_a_replica(cx, &shard.replica).await?;
        let began = Instant::now();
        fail_over(cx, &shard.replica, "FORCE").await?;
        let bound = cx.timing().manual_failover() + cx.timing().gossip();
        let what = "FORCE makes it the master, and the cluster is served";
        let [replica, master] = [&shard.replica, &shard.master].map(std::slice::from_ref);
        promoted(cx, replica, master, what, bound).await?;
        cx.measure("served after FORCE", began.elapsed(), None, Some(bound));
        Ok(())
    })
    .await
}

pub(super) async fn old_data(cx: &Context) -> Outcome {
    let directives = ["cluster-replica-validity-factor 1", "repl-ping-replica-period 1"];
    let mut scratch = covered(cx, &directives);
    // Without one, nothing keeps the replica from its data that the others do not see as its failure.
    scratch.password.get_or_insert_with(|| Secret::new(cx.key("password")));
    cx.with_scratch(&scratch, async |cx| {
        let Shard { master, replica, .. } = pick_shard(cx, &cx.view().await?).await?;
        let mut connection = cx.connect(&replica.address).await?;
        connection.ask(&["CONFIG", "SET", "masterauth", ""]).await?;
        connection.ask(&["CLIENT", "KILL", "TYPE", "master"]).await?;
        let old = cut_off_for(cx, &replica).await?;
        cx.measure("cut off from its master", old, None, None);
        not_replaced(cx, &master, &replica).await
    })
    .await
}

/// Waits until a replica has been cut off for longer than its data is valid: the node-timeout once by the factor, and once
/// more because so long an interruption does not count; the period of the master's pings; a second, since whole ones count.
async fn cut_off_for(cx: &Context, replica: &Member) -> Result<Duration, Stop> {
    let old = 2 * cx.timing().node_timeout() + Duration::from_secs(2);
    let mut connection = None;
    eventually(cx, "the replica's data is too old", cx.timing().arrange(), async || {
        let info = cx.ask_kept(replica, &mut connection, &["INFO", "replication"]).await?;
        let info = info.text().unwrap_or_default();
        let field = |name: &str| info.lines().find_map(|line| line.trim_end().strip_prefix(name));
        let down = field("master_link_status:") == Some("down");
        let since = field("master_link_down_since_seconds:").and_then(|text| text.parse::<u64>().ok());
        let since = Duration::from_secs(since.unwrap_or_default());
        Ok(match down && since >= old {
            true => Look::Reached(since),
            false => Look::NotYet(format!("{replica}: cut off for {} s", since.as_secs())),
        })
    })
    .await
}

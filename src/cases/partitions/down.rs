//! The body of PART-14: a cluster that is down, and may serve reads.

use crate::cases::consistency::shards;
use crate::check::{Look, eventually, expect};
use crate::cluster::view::Shape;
use crate::context::{Alteration, Context, Fault, Scratch};
use crate::verdict::Outcome;
use std::time::Duration;

pub(super) async fn reads_when_down(cx: &Context) -> Outcome {
    let scratch = Scratch {
        shape: Shape {
            masters: 3,
            replicas_per_master: 0,
        },
        node_timeout: cx.timing().node_timeout().min(Duration::from_secs(2)),
        alterations: vec![Alteration::everywhere("cluster-allow-reads-when-down yes")],
        ..cx.scratch_like_the_deployment()
    };
    cx.with_scratch(&scratch, async |cx| {
        let view = cx.view().await?;
        let shards = shards(cx, &view)?;
        let (left, others) = (&shards[0], &shards[1..]);
        let (member, key) = (&left.master.member, cx.key_in(left.slot, "read when down"));
        let mut connection = None;
        let set = ["SET", key.as_str(), "before"];
        let set = cx.ask_kept(member, &mut connection, &set).await?;
        expect(set.is_ok(), "SET -> +OK before the fault", format!("{member}: {set}"))?;
        for other in others {
            cx.inject(Fault::KeepAway, &other.master.member).await?;
        }
        eventually(
            cx,
            "the node that is left says cluster_state:fail",
            cx.timing().fail(),
            async || {
                let info = cx.ask_kept(member, &mut connection, &["CLUSTER", "INFO"]).await?;
                let mut lines = info.text().unwrap_or_default().lines();
                let state = lines.find(|line| line.starts_with("cluster_state:"));
                Ok(match state {
                    Some("cluster_state:fail") => Look::Reached(()),
                    other => Look::NotYet(format!("{member}: {}", other.unwrap_or("no cluster_state"))),
                })
            },
        )
        .await?;
        let set = ["SET", key.as_str(), "after"];
        let set = cx.ask_kept(member, &mut connection, &set).await?;
        let refused =
            set.error_prefix() == Some("CLUSTERDOWN") && set.error().is_some_and(|text| text.contains("read"));
        expect(
            refused,
            "SET -> -CLUSTERDOWN The cluster is down and only accepts read commands",
            format!("{member}: {set}"),
        )?;
        let get = cx.ask_kept(member, &mut connection, &["GET", key.as_str()]).await?;
        let read = get.bytes() == Some(b"before");
        Ok(expect(read, "GET -> \"before\"", format!("{member}: {get}"))?)
    })
    .await
}

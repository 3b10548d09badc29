//! Who a node is: its id, its shard, and the epochs that it has seen, over everything that happens to it.

use crate::case::Capability;
use crate::check::{no_findings, unless};
use crate::cluster::node::parse_nodes;
use crate::cluster::view::ClusterView;
use crate::context::Context;
use crate::feature::Feature;
use crate::verdict::Outcome;
use crate::{failover, moving};
use std::cell::RefCell;
use std::collections::BTreeMap;

pub(super) async fn ids_and_shards(cx: &Context) -> Outcome {
    // The shard that each node says it is in, under the name of its master.
    let shards: RefCell<BTreeMap<String, Vec<(String, String)>>> = RefCell::default();
    let lacking = RefCell::new(None);
    let expected = "the id of its own line from CLUSTER MYID of every node";
    let answers = cx.judge_every_node(expected, async |member, connection| {
        let reply = connection.ask(&["CLUSTER", "NODES"]).await?;
        let lines = parse_nodes(&reply).map_err(|reason| connection.nonsense("CLUSTER NODES", reason))?;
        let Some(own) = lines.iter().find(|line| line.is("myself")) else {
            return Ok(vec![format!("{}: no line of its own", member.name)]);
        };
        let reply = connection.call(&["CLUSTER", "MYID"]).await?;
        let same = reply.text() == Some(&own.id);
        let command = format!("CLUSTER MYID (own line: {})", own.id);
        let mut findings: Vec<String> = unless(same, &member.name, command, &reply).into_iter().collect();
        if let Some(reason) = Feature::MyShardId.lacking(connection).await? {
            *lacking.borrow_mut() = Some(reason);
            return Ok(findings);
        }
        let reply = connection.call(&["CLUSTER", "MYSHARDID"]).await?;
        match reply.text().filter(|shard| shard.len() == 40) {
            Some(shard) => {
                let master = own.master.clone().unwrap_or_else(|| own.id.clone());
                let said = (member.name.clone(), shard.to_owned());
                shards.borrow_mut().entry(master).or_default().push(said);
            }
            None => findings.extend(unless(false, &member.name, "CLUSTER MYSHARDID", &reply)),
        }
        Ok(findings)
    });
    answers.await?;
    if let Some(reason) = lacking.into_inner() {
        cx.note(format!("shards have no ids: {reason}"));
        return Ok(());
    }
    let shards = shards.into_inner();
    let mut findings = Vec::new();
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for said in shards.values() {
        for (name, shard) in said {
            if *shard != said[0].1 {
                findings.push(format!("{name}: shard {shard}, but {}: {}", said[0].0, said[0].1));
            }
        }
        if let Some(other) = owners.insert(&said[0].1, &said[0].0) {
            findings.push(format!(
                "{other} and {} give one shard id, and are two shards",
                said[0].0
            ));
        }
    }
    Ok(no_findings("one shard id for each master and its replicas", &findings)?)
}

/// What a node says of itself.
struct Said<'v> {
    id: &'v str,
    epoch: u64,
}

fn said<'v>(view: &'v ClusterView, name: &str) -> Option<Said<'v>> {
    let node = view.of(name)?;
    Some(Said {
        id: &node.myself()?.id,
        epoch: node.info("cluster_current_epoch").parse().ok()?,
    })
}

/// What each node said in a view, and in another before it. `complaint` finds fault with the two; at least so many nodes
/// must be in both views.
fn compare(
    views: [&ClusterView; 2],
    renamed: Option<(&str, &str)>,
    least: usize,
    complaint: impl Fn(&Said<'_>, &Said<'_>) -> Option<String>,
) -> Vec<String> {
    let [before, after] = views;
    let (mut findings, mut compared) = (Vec::new(), 0);
    for node in &before.nodes {
        let old = node.member.name.as_str();
        let name = renamed.filter(|(from, _)| *from == old).map_or(old, |(_, to)| to);
        if let (Some(was), Some(is)) = (said(before, old), said(after, name)) {
            compared += 1;
            findings.extend(complaint(&was, &is).map(|text| format!("{name}: {text}")));
        }
    }
    if compared < least {
        findings.push(format!("only {compared} of {least} nodes answered before and after"));
    }
    findings
}

pub(super) async fn ids_stay(cx: &Context) -> Outcome {
    let other_id = |was: &Said<'_>, is: &Said<'_>| (was.id != is.id).then(|| format!("{}, before: {}", is.id, was.id));
    let nodes = cx.shape().nodes();
    let failover = failover::observe(cx).await?;
    let expected = "every node's id as before, over a restart and a change of roles";
    let views = [&failover.before, &failover.after];
    no_findings(expected, &compare(views, None, nodes, other_id))?;
    if !cx.capabilities().contains(&Capability::NewAddress) {
        cx.note("no change of address: the target cannot make one");
        return Ok(());
    }
    let step = moving::one(cx).await?;
    let ((old, was), (new, is)) = (&step.before, &step.after);
    let views = [&step.view_before, &step.view_after];
    let mut findings = compare(views, Some((&old.name, &new.name)), nodes, other_id);
    if was != is {
        findings.push(format!("{new}: {is}, before: {was}"));
    }
    Ok(no_findings(
        "every node's id as before, over a change of address",
        &findings,
    )?)
}

pub(super) async fn epochs_stay(cx: &Context) -> Outcome {
    let fallen = |was: &Said<'_>, is: &Said<'_>| {
        (is.epoch < was.epoch).then(|| format!("cluster_current_epoch:{}, before: {}", is.epoch, was.epoch))
    };
    let nodes = cx.shape().nodes();
    let failover = failover::observe(cx).await?;
    let (before, during, after) = (&failover.before, &failover.during, &failover.after);
    let mut findings = compare([before, after], None, nodes, fallen);
    if failover.promotion.is_ok() {
        // The victim is away meanwhile.
        findings.extend(compare([before, during], None, nodes - 1, fallen));
        findings.extend(compare([during, after], None, nodes - 1, fallen));
    }
    no_findings(
        "no node's epoch below what it was, over a failover and a restart",
        &findings,
    )?;
    if !cx.capabilities().contains(&Capability::NewAddress) {
        cx.note("no change of address: the target cannot make one");
        return Ok(());
    }
    let step = moving::one(cx).await?;
    let (name, (was, is)) = (&step.after.0, step.epochs);
    let findings = (is < was).then(|| format!("{name}: cluster_current_epoch:{is}, before: {was}"));
    let expected = "no lower epoch in the first answer of a node that is back under another address";
    Ok(no_findings(expected, findings.as_slice())?)
}

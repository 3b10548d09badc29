//! One observed scale-out, which several cases look at from their own side: there are to be two servers more, they join, by
//! themselves or as the deployment's people would do it, and go again.
//!
//! It is done once in a run, by the first case that asks.

use crate::check::{Look, eventually, expect};
use crate::cluster::node::{Member, NodeId, NodeView, Role};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Scaling, Upheaval, with_cleanup};
use crate::crash::{read_all, write_all};
use crate::failover::kept;
use crate::inside;
use crate::rolling::slot_of_every_shard;
use crate::settle;
use crate::verdict::{Mismatch, Outcome, Stop};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many servers are added: a master's worth, with its replica.
pub const MORE: usize = 2;

/// How many connections are made by the Service.
pub const CONNECTIONS: usize = 60;

/// What was seen.
#[derive(Debug)]
pub struct ScaledOut {
    /// Who makes new servers members.
    pub scaling: Scaling,
    /// How long it took until all were members: from the platform being told, or from the first command of the people.
    pub joined: Result<Duration, Mismatch>,
    /// Where the Service led before they had joined; `None` where the deployment has no Service for clients.
    pub service: Option<Exposure>,
    /// The keys written before, read after: how many there were.
    pub data: Result<usize, Mismatch>,
}

/// Where the Service for clients led while there were servers that were no members.
#[derive(Debug, Default)]
pub struct Exposure {
    /// Looks at it, with at least one server that was no member.
    pub looks: usize,
    /// Those in which it led to such a server, by the server's name.
    pub astray: Vec<String>,
    /// What new connections by its name got; `None` where there is no client to ask with.
    pub answers: Option<Vec<String>>,
}

/// The scale-out of this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all: the same for every case that asks.
pub async fn observe(cx: &Context) -> Result<Arc<ScaledOut>, Stop> {
    cx.note_observation("the scale-out");
    let shared = cx.shared().clone();
    let observed = shared
        .scaled_out
        .get_or_init(|| async { Ok(Arc::new(make_happen(cx).await?)) });
    Ok(observed.await.clone()?)
}

/// The limit until all are members where the deployment sees to that itself (catalogue, OPS-05).
pub fn joined_within(cx: &Context) -> Duration {
    cx.timing().scheduling() + Duration::from_secs(60)
}

async fn make_happen(cx: &Context) -> Result<ScaledOut, Stop> {
    let before = cx.view().await?;
    let slots = slot_of_every_shard(cx, &before)?;
    let keys = write_all(cx, &before, &slots).await?;
    let old = Old::of(&before);
    let scaling = cx.deployment()?.scaling();
    let grown = async {
        let told = cx.upheave(&Upheaval::ScaleOut(MORE)).await?;
        let new = new_servers(cx, &old).await?;
        let mut service = exposure_of(cx, &old, scaling).await?;
        let by_name = cx.deployment()?.client_service();
        if let (Some(exposure), Some((name, port)), Some(first)) = (&mut service, by_name, before.nodes.first()) {
            exposure.answers = knock(cx, &first.member, &name, port).await?;
        }
        let since = match scaling {
            Scaling::Automatic => told,
            Scaling::Manual => Instant::now(),
        };
        let joined = async {
            if scaling == Scaling::Manual {
                join(cx, &old, &new).await?;
            }
            let what = format!("all {} servers are members", old.names.len() + MORE);
            all_joined(cx, &what, old.names.len() + MORE, joined_within(cx)).await
        };
        let joined = kept(joined.await)?.map(|()| since.elapsed());
        let data = kept(read_all(cx, &cx.look().await?, &keys).await)?.map(|()| keys.len());
        Ok(ScaledOut {
            scaling,
            joined,
            service,
            data,
        })
    };
    let seen = with_cleanup(grown, shrink(cx, &old)).await?;
    let names: Vec<String> = keys.iter().map(|(_, key, _)| key.clone()).collect();
    cx.remove_keys(&names).await?;
    Ok(seen)
}

/// The servers that there were before.
struct Old {
    names: BTreeSet<String>,
    ids: BTreeSet<NodeId>,
}

impl Old {
    fn of(view: &ClusterView) -> Self {
        let ids = view.nodes.iter().filter_map(|node| node.myself());
        Self {
            names: view.nodes.iter().map(|node| node.member.name.clone()).collect(),
            ids: ids.map(|line| line.id.clone()).collect(),
        }
    }
}

async fn new_servers(cx: &Context, old: &Old) -> Result<Vec<Member>, Stop> {
    let bound = MORE as u32 * cx.timing().scheduling();
    eventually(cx, &format!("{MORE} more servers answer"), bound, async || {
        let view = cx.look().await?;
        let members = view.nodes.iter().map(|node| node.member.clone());
        let new: Vec<Member> = members.filter(|member| !old.names.contains(&member.name)).collect();
        Ok(match new.len() == MORE {
            true => Look::Reached(new),
            false => Look::NotYet(format!("{} do", new.len())),
        })
    })
    .await
}

/// Watches where the Service leads: for T_stable where new servers stay out until somebody lets them in, else until they
/// are members, or too late.
async fn exposure_of(cx: &Context, old: &Old, scaling: Scaling) -> Result<Option<Exposure>, Stop> {
    let deployment = cx.deployment()?;
    let Some((service, _)) = deployment.client_service() else {
        return Ok(None);
    };
    let mut exposure = Exposure::default();
    let began = Instant::now();
    let hold = match scaling {
        Scaling::Manual => cx.timing().stable(),
        Scaling::Automatic => joined_within(cx),
    };
    let what = "where the Service leads while there are servers that are no members";
    eventually(cx, what, hold + cx.patience(), async || {
        let view = cx.look().await?;
        let new = view.nodes.iter().filter(|node| !old.names.contains(&node.member.name));
        let strangers: Vec<&NodeView> = new.filter(|node| is_stranger(node, old.names.len())).collect();
        let behind = deployment.behind(&service).await?;
        if !strangers.is_empty() {
            exposure.looks += 1;
            let astray = strangers.iter().find(|node| behind.contains(&node.member.address.host));
            exposure.astray.extend(astray.map(|node| node.member.name.clone()));
        }
        let over = began.elapsed() >= hold || (strangers.is_empty() && scaling == Scaling::Automatic);
        Ok(match over {
            true => Look::Reached(()),
            false => Look::NotYet(format!("{} looks", exposure.looks)),
        })
    })
    .await?;
    Ok(Some(exposure))
}

/// Whether a server is in no cluster that serves: it knows fewer nodes than there were, or calls the state not ok.
fn is_stranger(node: &NodeView, before: usize) -> bool {
    let known = node.info("cluster_known_nodes").parse().unwrap_or(0);
    known < before || node.info("cluster_state") != "ok"
}

/// What new connections by the Service's name got: the answer to a read of a key that nobody has. None where there is no
/// client.
async fn knock(cx: &Context, from: &Member, service: &str, port: u16) -> Result<Option<Vec<String>>, Stop> {
    let password = cx.shared().target.password();
    // The client prints no value as nothing at all, so something must follow that it prints.
    let read = [format!("GET {}", cx.key("nobody-s")), "PING".to_owned()];
    let hosts = [service.to_owned()];
    match inside::call(cx, from, &hosts, port, CONNECTIONS, &read, password.as_ref()).await {
        Ok(calls) => Ok(Some(calls.iter().map(inside::Call::said).collect())),
        Err(Stop::Unsupported(reason)) => {
            cx.note(reason);
            Ok(None)
        }
        Err(stop) => Err(stop),
    }
}

/// Lets new servers in, one after another, as a deployment's people would: as replicas, by its own command-line client.
async fn join(cx: &Context, old: &Old, new: &[Member]) -> Outcome {
    let members = cx.members().await?;
    let entry = members.iter().find(|member| old.names.contains(&member.name));
    let entry = entry.ok_or_else(|| Mismatch::new("a server of before", "none"))?;
    for (number, member) in new.iter().enumerate() {
        let (joining, known) = (member.address.to_string(), entry.address.to_string());
        let command = ["--cluster", "add-node", &joining, &known, "--cluster-slave"];
        let done = cx.client_program(entry, &command, cx.timing().reshape()).await?;
        cx.note_time(format!("{}: {} -> {}", entry.name, command.join(" "), done.status));
        let said: Vec<&str> = done.stdout.lines().rev().take(3).collect();
        let expected = format!("{} -> status 0", command.join(" "));
        expect(
            done.status == 0,
            expected,
            format!("{}: {}", done.status, said.join(" / ")),
        )?;
        let nodes = old.names.len() + number + 1;
        let what = format!("{} is a member", member.name);
        all_joined(cx, &what, nodes, cx.timing().arrange()).await?;
    }
    Ok(())
}

async fn all_joined(cx: &Context, what: &str, nodes: usize, bound: Duration) -> Outcome {
    eventually(cx, what, bound, async || {
        let missing = not_joined(&cx.look().await?, nodes);
        Ok(match missing.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(missing.join("\n")),
        })
    })
    .await
}

/// What keeps so many servers from being members of one cluster that serves, every replica linked. Servers beyond that
/// number, which have not joined yet, are not looked at.
fn not_joined(view: &ClusterView, nodes: usize) -> Vec<String> {
    let members = view.nodes.iter().filter(|node| node.info("cluster_known_nodes") != "1");
    let members: Vec<&NodeView> = members.collect();
    let mut findings: Vec<String> = Vec::new();
    if members.len() != nodes {
        findings.push(format!("{} of {nodes} servers know others", members.len()));
    }
    for node in members {
        let name = &node.member.name;
        let (known, state) = (node.info("cluster_known_nodes"), node.info("cluster_state"));
        if known != nodes.to_string() || state != "ok" {
            findings.push(format!(
                "{name}: cluster_known_nodes:{known} (expected {nodes}), cluster_state:{state}"
            ));
        }
        if let Role::Replica { link, .. } = &node.role
            && !node.linked()
        {
            findings.push(format!("{name}: its replication link is \"{link}\""));
        }
    }
    findings
}

/// Takes the new servers away again, as they must not be missed: their slots are moved, where they got any, they leave, and
/// every server of before forgets them.
async fn shrink(cx: &Context, old: &Old) -> Outcome {
    let emptied = give_slots_back(cx, old).await;
    cx.undo_faults().await?;
    emptied?;
    let bound = cx.timing().arrange();
    eventually(cx, "nobody knows the servers that have left", bound, async || {
        let view = cx.look().await?;
        let strangers = foreign(&view, old);
        for node in view.nodes.iter().filter(|_| !strangers.is_empty()) {
            let mut connection = cx.connect(&node.member.address).await?;
            for id in strangers.iter().filter(|id| node.line(id).is_some()) {
                let reply = connection.call(&["CLUSTER", "FORGET", id]).await?;
                cx.note_time(format!("{}: CLUSTER FORGET {id} -> {reply}", node.member));
            }
        }
        Ok(match strangers.is_empty() && view.silent.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(format!(
                "known: {}",
                strangers.into_iter().collect::<Vec<_>>().join(", ")
            )),
        })
    })
    .await?;
    let what = format!("{}: a whole cluster, scaled in again", cx.case_id());
    let whole = settle::until_whole(cx.shared(), &what).await;
    Ok(whole.map_err(|missing| Mismatch::new("a whole cluster, scaled in again", missing))?)
}

/// The nodes that servers know and that were not there before.
fn foreign(view: &ClusterView, old: &Old) -> BTreeSet<NodeId> {
    let lines = view.nodes.iter().flat_map(|node| &node.nodes);
    let new = lines.filter(|line| !old.ids.contains(&line.id));
    new.map(|line| line.id.clone()).collect()
}

async fn give_slots_back(cx: &Context, old: &Old) -> Outcome {
    let view = cx.look().await?;
    let lines = view.nodes.iter().filter_map(|node| node.myself());
    let owning = lines.filter(|line| !old.ids.contains(&line.id) && !line.slots.is_empty());
    let weights: Vec<String> = owning.map(|line| format!("{}=0", line.id)).collect();
    let entry = view.nodes.iter().find(|node| old.names.contains(&node.member.name));
    let (Some(entry), false) = (entry, weights.is_empty()) else {
        return Ok(());
    };
    let address = entry.member.address.to_string();
    let mut command = vec!["--cluster", "rebalance", &address];
    for weight in &weights {
        command.extend(["--cluster-weight", weight]);
    }
    let done = cx
        .client_program(&entry.member, &command, cx.timing().reshape())
        .await?;
    let expected = format!("{} -> status 0", command.join(" "));
    Ok(expect(done.status == 0, expected, done.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connection::Address;
    use rstest::rstest;

    fn node(known: &str, state: &str, link: Option<&str>) -> NodeView {
        let address = Address::new("host", 6379);
        let role = match link {
            Some(link) => Role::Replica {
                master: address.clone(),
                link: link.into(),
                offset: 1,
            },
            None => Role::Master {
                offset: 1,
                replicas: Vec::new(),
            },
        };
        NodeView {
            member: Member {
                name: "r".into(),
                address,
            },
            raw: Default::default(),
            info: [("cluster_known_nodes", known), ("cluster_state", state)]
                .map(|(field, value)| (field.to_owned(), value.to_owned()))
                .into(),
            nodes: Vec::new(),
            slots: Vec::new(),
            shards: Ok(Vec::new()),
            role,
            replication: Default::default(),
        }
    }

    #[rstest]
    #[case::alone("1", "fail", true)]
    #[case::alone_and_sure_of_itself("1", "ok", true)]
    #[case::joining("6", "fail", true)]
    #[case::member("7", "ok", false)]
    #[case::silent("", "", true)]
    fn a_server_that_serves_with_the_others_is_no_stranger(
        #[case] known: &str,
        #[case] state: &str,
        #[case] stranger: bool,
    ) {
        assert_eq!(is_stranger(&node(known, state, None), 6), stranger);
    }

    #[rstest]
    #[case::joined(&[("3", "ok", None), ("3", "ok", None), ("3", "ok", Some("connected"))], 0)]
    #[case::another_still_out(&[("3", "ok", None), ("3", "ok", None), ("3", "ok", None), ("1", "fail", None)], 0)]
    #[case::one_alone(&[("3", "ok", None), ("3", "ok", None), ("1", "fail", None)], 1)]
    #[case::not_heard_of(&[("3", "ok", None), ("2", "ok", None), ("3", "ok", None)], 1)]
    #[case::not_synchronised(&[("3", "ok", None), ("3", "ok", None), ("3", "ok", Some("sync"))], 1)]
    #[case::down(&[("3", "ok", None), ("3", "fail", None), ("3", "ok", None)], 1)]
    #[case::nobody(&[], 1)]
    fn who_has_not_joined_is_told(#[case] servers: &[(&str, &str, Option<&str>)], #[case] count: usize) {
        let nodes = servers.iter().map(|(known, state, link)| node(known, state, *link));
        let view = ClusterView {
            nodes: nodes.collect(),
            silent: Vec::new(),
        };
        assert_eq!(not_joined(&view, 3).len(), count);
    }
}

//! The cases of chapter K8S about what the platform does with the pods: a changed configuration, a pod that is stuck, a hook
//! that fails. Each is made in an altered copy, which goes afterwards.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::cases::bootstrap::copies::{connected, formed, look_at, not_ready, whole_within};
use crate::check::{Look, eventually, expect, no_findings};
use crate::cluster::node::{Member, NodeId};
use crate::cluster::slot;
use crate::cluster::view::ClusterView;
use crate::context::{Change, Context, DeployedVariant, Event, Pod, Variant};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(super) const CONFIGURATION_REACHES: Case = Case {
    id: CaseId("K8S-17"),
    title: "a change of redis.conf reaches every server, or is refused",
    requirement: "A change of redis.conf in the ConfigMap MUST lead to a controlled rollout, or be refused.",
    source: "Kubernetes documentation, ConfigMaps, sections Mounted ConfigMaps are updated automatically and Immutable ConfigMaps",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant],
    features: &[],
    bound: "T_sched + T_sync + 2·NT for each server",
    controls: &[],
    method: "In a copy, adds a line `maxmemory` to the redis.conf in the ConfigMap that the target's description names. Either the API \
             refuses it, by its own rules or an admission controller, or in time `CONFIG GET maxmemory` of every server gives the new \
             value, in a whole cluster.",
    run: |cx| Box::pin(configuration_reaches(cx)),
};

pub(super) const STUCK_POD: Case = Case {
    id: CaseId("K8S-20"),
    title: "after a full outage a pod that is stuck keeps no other from coming back",
    requirement: "One stuck pod MUST NOT block the recovery of the others after a full outage.",
    source: "Kubernetes documentation, StatefulSets, sections Pod Management Policies and Forced rollback",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant],
    features: &[],
    bound: "T_sched + T_names + 2·NT + 10 s",
    controls: &[],
    method: "In a copy, makes the server of the first pod end at each start (a file in its data folder) and stops all servers at once. \
             In time every other server must answer, with its id and a bus link to each of the others; under `OrderedReady` none is \
             started. Nothing is said of the stuck pod's slots.",
    run: |cx| Box::pin(stuck_pod(cx)),
};

pub(super) const FAILING_HOOK: Case = Case {
    id: CaseId("K8S-21"),
    title: "a hook that fails shows, and costs neither data nor another pod",
    requirement: "A failing postStart hook MUST be shown by an event, disturb no other pod, and lose no data.",
    source: "Kubernetes documentation, Container Lifecycle Hooks, section Hook handler execution: the container is killed",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Variant],
    features: &[],
    bound: "T_sched + T_hook until it is whole again",
    controls: &[],
    method: "In a copy, writes 20 keys to every master, has the hook of the bootstrap's pod fail twice (a file in its data folder), and \
             starts that container again. An event `FailedPostStartHook` must show it and the container be started again; no other pod \
             may be made anew or restarted. Then the cluster must be whole, with every id and key of before.",
    run: |cx| Box::pin(failing_hook(cx)),
};

/// Not the value of before, and no default: 299 MiB.
const MAXMEMORY: (&str, &str) = ("299mb", "313524224");

/// How often the hook fails.
const FAILURES: i32 = 2;

async fn configuration_reaches(cx: &Context) -> Outcome {
    cx.with_variant(Variant::Unaltered, async |copy| {
        formed(cx, copy).await?;
        let line = format!("maxmemory {}", MAXMEMORY.0);
        match copy.deployment().configure(&line).await? {
            None => Err(Stop::Unsupported(
                "the target's description names no ConfigMap with the redis.conf".into(),
            )),
            Some(Change::Refused(reason)) => {
                cx.note(format!("the change was refused: {reason}"));
                Ok(())
            }
            Some(Change::Made) => reached_all(cx, copy).await,
        }
    })
    .await
}

async fn reached_all(cx: &Context, copy: &dyn DeployedVariant) -> Outcome {
    let bound = u32::try_from(cx.shape().nodes()).unwrap_or(u32::MAX) * cx.timing().returned();
    let since = Instant::now();
    eventually(cx, "the new maxmemory runs on every server", bound, async || {
        let mut findings = look_at(cx, copy).await?.not_whole(cx.shape());
        for member in copy.members().await? {
            let mut connection = connected(cx, copy, &member.address).await?;
            let value = connection.setting("maxmemory").await?;
            if value.as_deref() != Some(MAXMEMORY.1) {
                let said = value.unwrap_or_else(|| "nothing".to_owned());
                findings.push(format!("{member}: CONFIG GET maxmemory -> {said}"));
            }
        }
        Ok(match findings.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(findings.join("\n")),
        })
    })
    .await?;
    cx.measure("until every server had it", since.elapsed(), None, Some(bound));
    Ok(())
}

/// The folder in which a server of the copy keeps its data.
async fn folder(cx: &Context, copy: &dyn DeployedVariant, member: &Member) -> Result<String, Stop> {
    let folder = connected(cx, copy, &member.address).await?.setting("dir").await?;
    folder.ok_or_else(|| anyhow::anyhow!("{member} does not say by CONFIG GET dir where its data is").into())
}

/// Runs a line of shell in a pod of the copy, in its server's data folder.
async fn shell(cx: &Context, copy: &dyn DeployedVariant, member: &Member, line: &str) -> Outcome {
    let folder = folder(cx, copy, member).await?;
    let command = ["sh", "-c", "cd \"$1\" && eval \"$2\"", "sh", &folder, line];
    let done = copy.deployment().exec(&member.name, &command, cx.patience()).await?;
    match done.status {
        0 => Ok(()),
        status => Err(anyhow::anyhow!("{member}: {line} -> status {status}: {}", done.stderr).into()),
    }
}

/// The servers of the copy, by name, with their ids.
fn ids(view: &ClusterView) -> BTreeMap<String, NodeId> {
    let nodes = view.nodes.iter().filter_map(|node| Some((node, node.myself()?)));
    nodes
        .map(|(node, line)| (node.member.name.clone(), line.id.clone()))
        .collect()
}

async fn stuck_pod(cx: &Context) -> Outcome {
    cx.with_variant(Variant::StuckPod, async |copy| {
        formed(cx, copy).await?;
        let mut others = ids(&look_at(cx, copy).await?);
        let members = copy.members().await?;
        let stuck = members.first().ok_or_else(|| Mismatch::new("servers", "none"))?;
        others.remove(&stuck.name);
        shell(cx, copy, stuck, "touch stuck").await?;
        copy.stop_all().await?;
        let since = Instant::now();
        let timing = cx.timing();
        let bound = timing.scheduling() + timing.names() + 2 * timing.node_timeout() + Duration::from_secs(10);
        let what = format!("every server but {} is back, and linked with the others", stuck.name);
        eventually(cx, &what, bound, async || {
            let missing = not_back(&look_at(cx, copy).await?, &others);
            Ok(match missing.is_empty() {
                true => Look::Reached(()),
                false => Look::NotYet(missing.join("\n")),
            })
        })
        .await?;
        cx.measure("until all others were back", since.elapsed(), None, Some(bound));
        let pods = copy.deployment().pods().await?;
        match pods.iter().any(|pod| pod.name == stuck.name && pod.ready) {
            false => Ok(()),
            true => Err(anyhow::anyhow!("{} was to be stuck, and is Ready", stuck.name).into()),
        }
    })
    .await
}

/// Which of these servers are not back with their ids, or miss the bus link to another of them.
fn not_back(view: &ClusterView, expected: &BTreeMap<String, NodeId>) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, id) in expected {
        let Some(node) = view.of(name) else {
            findings.push(format!("{name} does not answer"));
            continue;
        };
        if node.myself().is_none_or(|line| line.id != *id) {
            findings.push(format!("{name} is another node than before"));
        }
        let others = expected.iter().filter(|(other, _)| *other != name);
        let unlinked = others.filter(|(_, id)| {
            node.line(id)
                .is_none_or(|line| !line.connected || line.is("fail") || line.is("noaddr"))
        });
        let unlinked: Vec<&str> = unlinked.map(|(other, _)| other.as_str()).collect();
        if !unlinked.is_empty() {
            findings.push(format!("{name} has no link to {}", unlinked.join(", ")));
        }
    }
    findings
}

async fn failing_hook(cx: &Context) -> Outcome {
    cx.with_variant(Variant::FailingHook, async |copy| {
        formed(cx, copy).await?;
        let before = look_at(cx, copy).await?;
        let keys = write(cx, copy, &before).await?;
        let name = crate::hook::bootstrap_pod(copy.deployment())?;
        let pods = copy.deployment().pods().await?;
        let members = copy.members().await?;
        let hooked = members.iter().find(|member| member.name == name);
        let hooked = hooked.ok_or_else(|| Mismatch::new(format!("the server {name}"), "none"))?;
        // The command's own end must not be lost with the container that it stops.
        let stop = "(sleep 1; while kill 1; do sleep 1; done) >/dev/null 2>&1 </dev/null &";
        shell(cx, copy, hooked, &format!("echo {FAILURES} > hook-fails; {stop}")).await?;
        let mut disturbed = BTreeSet::new();
        let bound = cx.timing().scheduling() + cx.timing().hook();
        eventually(cx, "the hook's failures are shown, and over", bound, async || {
            let now = copy.deployment().pods().await?;
            disturbed.extend(others_disturbed(&pods, &now, &name));
            let events = copy.deployment().events().await?;
            let waiting = not_ready(copy).await?;
            let missing = not_shown(&pods, &now, &events, &name);
            Ok(match missing.is_empty() && waiting.is_empty() {
                true => Look::Reached(()),
                false => Look::NotYet(format!("{} {waiting}", missing.join("; "))),
            })
        })
        .await?;
        whole_within(cx, copy, cx.timing().sync() + cx.timing().stable()).await?;
        let disturbed: Vec<String> = disturbed.into_iter().collect();
        no_findings("no other pod made anew or restarted", &disturbed)?;
        let after = look_at(cx, copy).await?;
        let (was, is) = (format!("{:?}", ids(&before)), format!("{:?}", ids(&after)));
        expect(was == is, format!("the nodes of before: {was}"), is)?;
        no_findings("every key by value", &unread(cx, copy, &after, &keys).await?)?;
        cx.count("keys read by value", keys.len(), "keys");
        Ok(())
    })
    .await
}

/// What does not show yet that a hook has failed: its event, and the restarts that follow.
fn not_shown(before: &[Pod], now: &[Pod], events: &[Event], name: &str) -> Vec<String> {
    let object = format!("Pod/{name}");
    let told = events
        .iter()
        .any(|event| event.object == object && event.reason == "FailedPostStartHook");
    let restarts = |pods: &[Pod]| pods.iter().find(|pod| pod.name == name).map_or(0, |pod| pod.restarts);
    let restarted = restarts(now) - restarts(before);
    let mut findings = Vec::new();
    if !told {
        findings.push(format!("no event FailedPostStartHook of {object}"));
    }
    // Once because the suite stopped it, and once for each failure.
    if restarted <= FAILURES {
        findings.push(format!("{name} was restarted {restarted} times"));
    }
    findings
}

/// The pods other than the one of the hook that are others than before, or were restarted.
fn others_disturbed(before: &[Pod], now: &[Pod], hooked: &str) -> Vec<String> {
    let others = before.iter().filter(|pod| pod.name != hooked);
    let changed = others.filter(|pod| {
        let same = |other: &&Pod| other.name == pod.name && other.uid == pod.uid;
        now.iter().find(same).is_none_or(|other| other.restarts != pod.restarts)
    });
    changed
        .map(|pod| format!("{} was made anew or restarted", pod.name))
        .collect()
}

/// Writes keys to every master of the copy; each with its slot and value.
async fn write(
    cx: &Context,
    copy: &dyn DeployedVariant,
    view: &ClusterView,
) -> Result<Vec<(u16, String, String)>, Stop> {
    let mut keys = Vec::new();
    for master in view.masters() {
        let Some(slot) = master.inner_slot() else { continue };
        let mut connection = connected(cx, copy, &master.member.address).await?;
        for number in 0..20 {
            let key = format!("kept-{number}:{{{}}}", slot::tag_for(slot));
            let value = format!("value {number}");
            let reply = connection.call(&["SET", &key, &value]).await?;
            expect(reply.is_ok(), "+OK", format!("{}: SET {key} -> {reply}", master.member))?;
            keys.push((slot, key, value));
        }
    }
    Ok(keys)
}

/// The keys that the owners of their slots do not give by value.
async fn unread(
    cx: &Context,
    copy: &dyn DeployedVariant,
    view: &ClusterView,
    keys: &[(u16, String, String)],
) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for (slot, key, value) in keys {
        let Some(owner) = view.owner_of(*slot) else {
            findings.push(format!("{key}: nobody owns slot {slot}"));
            continue;
        };
        let mut connection = connected(cx, copy, &owner.member.address).await?;
        let reply = connection.call(&["GET", key]).await?;
        if reply.text() != Some(value) {
            findings.push(format!("{}: GET {key} -> {reply} (written: {value})", owner.member));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::bootstrap::made_up::{node, pod};
    use crate::cluster::node::parse_nodes;
    use crate::cluster::resp::Reply;
    use rstest::rstest;

    /// Lines of `CLUSTER NODES` as two servers show them, by which `a` is the node of `r-1`, `b` that of `r-2`.
    #[rstest]
    #[case::back(&[("r-1", "a", "b"), ("r-2", "b", "a")], "master", "connected", 0)]
    #[case::one_not_started(&[("r-1", "a", "b")], "master", "connected", 1)]
    #[case::none_started(&[], "master", "connected", 2)]
    #[case::no_link(&[("r-1", "a", "b"), ("r-2", "b", "a")], "master", "disconnected", 2)]
    #[case::failed(&[("r-1", "a", "b"), ("r-2", "b", "a")], "master,fail", "connected", 2)]
    #[case::forgotten(&[("r-1", "a", "c"), ("r-2", "b", "a")], "master", "connected", 1)]
    #[case::another_node(&[("r-1", "c", "b"), ("r-2", "b", "a")], "master", "connected", 1)]
    fn who_is_not_back_is_told(
        #[case] servers: &[(&str, &str, &str)],
        #[case] flags: &str,
        #[case] link: &str,
        #[case] count: usize,
    ) {
        let nodes = servers.iter().map(|(name, own, other)| {
            let (own, other) = (own.repeat(40), other.repeat(40));
            let text = format!(
                "{own} h:6379@16379 myself,master - 0 0 1 connected\n{other} h:6379@16379 {flags} - 0 0 1 {link}"
            );
            let mut view = node(name, &[], None);
            view.nodes = parse_nodes(&Reply::Bulk(text.into())).unwrap();
            view
        });
        let view = ClusterView {
            nodes: nodes.collect(),
            silent: Vec::new(),
        };
        let expected = [("r-1", "a"), ("r-2", "b")].map(|(name, id)| (name.to_owned(), id.repeat(40)));
        assert_eq!(not_back(&view, &expected.into()).len(), count);
    }

    #[rstest]
    #[case::shown(3, true, 0)]
    #[case::no_event(3, false, 1)]
    #[case::only_the_suite_s_restart(1, true, 1)]
    #[case::nothing(0, false, 2)]
    fn a_failed_hook_shows_by_event_and_restarts(#[case] restarts: i32, #[case] event: bool, #[case] count: usize) {
        let before = [pod("r-5", true, None)];
        let mut now = before.clone();
        now[0].restarts = restarts;
        let events: Vec<Event> = event
            .then(|| Event {
                kind: "Warning".into(),
                reason: "FailedPostStartHook".into(),
                object: "Pod/r-5".into(),
                message: String::new(),
                count: 1,
                at: None,
            })
            .into_iter()
            .collect();
        assert_eq!(not_shown(&before, &now, &events, "r-5").len(), count);
    }

    #[rstest]
    #[case::untouched(&["r-0"], 0, "uid of r-0", 0)]
    #[case::restarted(&["r-0"], 1, "uid of r-0", 1)]
    #[case::made_anew(&["r-0"], 0, "another", 1)]
    #[case::gone(&[], 0, "", 1)]
    fn a_pod_that_a_hook_elsewhere_disturbs_is_told(
        #[case] there: &[&str],
        #[case] restarts: i32,
        #[case] uid: &str,
        #[case] count: usize,
    ) {
        let before = [pod("r-0", true, None), pod("r-5", true, None)];
        let now = there.iter().map(|name| Pod {
            restarts,
            uid: uid.into(),
            ..pod(name, true, None)
        });
        let now: Vec<Pod> = now.collect();
        assert_eq!(others_disturbed(&before, &now, "r-5").len(), count);
    }
}

//! The case of chapter OPS about the platform's own way of making every server anew.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually, no_findings};
use crate::cluster::node::{NodeView, Role};
use crate::context::{Context, Pod, Upheaval};
use crate::manifest::Document;
use crate::verdict::{Outcome, Stop};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(super) const ONE_AT_A_TIME: Case = Case {
    id: CaseId("OPS-03"),
    title: "a rollout stops no server before the one before it is in step again",
    requirement: "In a rollout the next server MUST NOT be stopped before the previous one is a synchronised member again.",
    source: "Kubernetes documentation, StatefulSets, section Rolling Updates: it waits until a pod is Running and Ready, and what Ready means \
             the readiness probe says",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A5],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::RollOut],
    features: &[],
    bound: "T_sched + T_sync + 2·NT for each server, until all are in step again",
    controls: &[],
    method: "Changes an annotation of the pods' template, as `kubectl rollout restart` does, and looks at the pods and all servers all \
             the time. Whenever a pod is seen to be told to end, every pod that was made anew before it must have been seen as a member in step: \
             `cluster_state:ok`, all nodes known, and, for a replica, its link up. With an updateStrategy that leaves pods as they are: \
             unsupported.",
    run: |cx| Box::pin(one_at_a_time(cx)),
};

/// How long a look may take that still tells what came first: less than a server needs to come back into step.
const SHARP: Duration = Duration::from_secs(1);

async fn one_at_a_time(cx: &Context) -> Outcome {
    rolls_by_itself(cx).await?;
    let seen = follow(cx, &Upheaval::RollOut).await?;
    no_findings(
        "each server stopped only when those before it were in step",
        &seen.rollout.findings,
    )?;
    seen.over?;
    match seen.rollout.undecided.first() {
        None => Ok(()),
        Some(undecided) => Err(Stop::Unsupported(format!(
            "looks took up to {:.1} s, too long to tell what came first: {undecided}",
            seen.longest_look.as_secs_f64()
        ))),
    }
}

/// What was seen of a rollout from its beginning to its end.
pub(super) struct Followed {
    rollout: Rollout,
    /// Whether every server was made anew, and was in step after that.
    pub(super) over: Outcome,
    longest_look: Duration,
}

/// Has the platform make every server anew, and looks at the pods and all servers until all are in step again.
pub(super) async fn follow(cx: &Context, upheaval: &Upheaval) -> Result<Followed, Stop> {
    let deployment = cx.deployment()?;
    let nodes = cx.shape().nodes();
    let mut rollout = Rollout::of(&deployment.pods().await?);
    let began = cx.upheave(upheaval).await?;
    let bound = u32::try_from(nodes).unwrap_or(u32::MAX) * cx.timing().returned();
    let mut longest_look = Duration::ZERO;
    let what = "every server is made anew and in step";
    let over = eventually(cx, what, bound, async || {
        let looked = Instant::now();
        let pods = deployment.pods().await?;
        let view = cx.look().await?;
        longest_look = longest_look.max(looked.elapsed());
        let missing: BTreeMap<&str, String> = view
            .nodes
            .iter()
            .filter_map(|node| Some((node.member.name.as_str(), out_of_step(node, nodes)?)))
            .collect();
        let answering: BTreeSet<&str> = view.nodes.iter().map(|node| node.member.name.as_str()).collect();
        let slow = looked.elapsed() > SHARP;
        for stopped in rollout.see(&pods, &answering, &missing, slow) {
            cx.note_time(format!("the platform has told {stopped} to end"));
        }
        Ok(match rollout.waiting() {
            waiting if waiting.is_empty() => Look::Reached(()),
            waiting => Look::NotYet(waiting),
        })
    })
    .await;
    cx.note(format!("order: {}", rollout.stopped.join(", ")));
    cx.measure("the rollout", began.elapsed(), None, Some(bound));
    cx.measure("longest look: what was shorter was not seen", longest_look, None, None);
    Ok(Followed {
        rollout,
        over,
        longest_look,
    })
}

/// That a changed template makes the platform roll all pods, by the StatefulSet's own word.
async fn rolls_by_itself(cx: &Context) -> Outcome {
    let objects = cx.deployment()?.objects().await?;
    let own = |document: &&Document| objects.workloads.contains(&document.to_string());
    for document in objects.live.documents.iter().filter(own) {
        if let Some(other) = other_than_rolling(&document.value["spec"]["updateStrategy"]) {
            return Err(Stop::Unsupported(format!(
                "{document}: {other}: somebody else rolls its pods"
            )));
        }
    }
    Ok(())
}

/// What an update strategy says that leaves pods as they are.
fn other_than_rolling(strategy: &Value) -> Option<String> {
    let partition = strategy["rollingUpdate"]["partition"].as_i64().unwrap_or(0);
    match strategy["type"].as_str() {
        Some(other) if other != "RollingUpdate" => Some(format!("updateStrategy is {other}")),
        _ if partition > 0 => Some(format!("updateStrategy has partition {partition}")),
        _ => None,
    }
}

/// What keeps a server from being a member in step, if anything.
fn out_of_step(node: &NodeView, nodes: usize) -> Option<String> {
    let (state, known) = (node.info("cluster_state"), node.info("cluster_known_nodes"));
    if state != "ok" || known != nodes.to_string() {
        return Some(format!("cluster_state:{state}, cluster_known_nodes:{known}"));
    }
    match &node.role {
        Role::Replica { link, .. } if !node.linked() => Some(format!("its replication link is \"{link}\"")),
        Role::Replica { .. } | Role::Master { .. } => None,
    }
}

/// What was seen of a rollout so far.
#[derive(Debug, Default)]
struct Rollout {
    /// The pods of before, by name, with their uids.
    old: BTreeMap<String, String>,
    /// Those that have been told to end, in that order.
    stopped: Vec<String>,
    /// Those that were seen in step after that.
    in_step: BTreeSet<String>,
    /// What was last seen of those that were not.
    last: BTreeMap<String, String>,
    /// Stops that came too early.
    findings: Vec<String>,
    /// Stops of which a slow look does not tell.
    undecided: Vec<String>,
}

impl Rollout {
    fn of(pods: &[Pod]) -> Self {
        let old = pods.iter().map(|pod| (pod.name.clone(), pod.uid.clone()));
        Self {
            old: old.collect(),
            ..Self::default()
        }
    }

    /// Takes one look: the pods, and, asked after them, the servers that answer and what each of them lacks. Gives the pods
    /// that are seen for the first time to have been stopped.
    ///
    /// What a server says in the look that shows the next stop still counts for it: a stop is never blamed that the look
    /// itself was too late for. Where the look was slow, that is told: the server may have come into step after the stop.
    fn see(
        &mut self,
        pods: &[Pod],
        answering: &BTreeSet<&str>,
        missing: &BTreeMap<&str, String>,
        slow: bool,
    ) -> Vec<String> {
        let before = self.in_step.clone();
        for name in &self.stopped {
            let anew = pods
                .iter()
                .any(|pod| pod.name == *name && !pod.leaving && self.old.get(name) != Some(&pod.uid));
            match missing.get(name.as_str()) {
                None if anew && answering.contains(name.as_str()) => {
                    self.in_step.insert(name.clone());
                }
                None => {
                    self.last.insert(name.clone(), "it does not answer".into());
                }
                Some(missing) => {
                    self.last.insert(name.clone(), missing.clone());
                }
            }
        }
        let there = |name: &str, uid: &str| {
            let same = |pod: &&Pod| pod.name == name && pod.uid == uid && !pod.leaving;
            pods.iter().find(same).is_some()
        };
        let gone = self.old.iter().filter(|(name, uid)| !there(name, uid));
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        let fresh: Vec<String> = gone.into_iter().filter(|name| !self.stopped.contains(name)).collect();
        for name in &fresh {
            let early = self.stopped.iter().filter(|before| !self.in_step.contains(*before));
            let early = early.map(|before| {
                let seen = self.last.get(before).map_or("it has just been stopped", String::as_str);
                format!("{name} was told to end while {before} was not in step: {seen}")
            });
            let early: Vec<String> = early.collect();
            self.findings.extend(early);
            let just = self.stopped.iter().filter(|other| !before.contains(*other));
            let just = just.filter(|other| slow && self.in_step.contains(*other));
            let just: Vec<String> = just
                .map(|other| format!("{other} in step, {name} told to end"))
                .collect();
            self.undecided.extend(just);
            self.stopped.push(name.clone());
        }
        fresh
    }

    /// What is still to come; empty at the end.
    fn waiting(&self) -> String {
        let left = self.old.keys().filter(|name| !self.in_step.contains(*name));
        let left = left.map(|name| match self.last.get(name) {
            Some(seen) => format!("{name}: {seen}"),
            None => format!("{name}: not made anew"),
        });
        left.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::bootstrap::made_up::{node, pod};
    use rstest::rstest;
    use serde_json::json;

    const OK: &[(&str, &str)] = &[("cluster_state", "ok"), ("cluster_known_nodes", "6")];

    #[rstest]
    #[case::master(OK, None, true)]
    #[case::replica(OK, Some("connected"), true)]
    #[case::synchronising(OK, Some("sync"), false)]
    #[case::no_link(OK, Some("connect"), false)]
    #[case::down(&[("cluster_state", "fail"), ("cluster_known_nodes", "6")], None, false)]
    #[case::alone(&[("cluster_state", "ok"), ("cluster_known_nodes", "1")], None, false)]
    fn who_is_in_step(#[case] info: &[(&str, &str)], #[case] link: Option<&str>, #[case] in_step: bool) {
        assert_eq!(out_of_step(&node("r-0", info, link), 6).is_none(), in_step);
    }

    #[rstest]
    #[case::the_default(json!(null), None)]
    #[case::rolling(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}), None)]
    #[case::only_some(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}), Some("updateStrategy has partition 3"))]
    #[case::by_hand(json!({"type": "OnDelete"}), Some("updateStrategy is OnDelete"))]
    fn some_strategies_roll_nothing(#[case] strategy: Value, #[case] told: Option<&str>) {
        assert_eq!(other_than_rolling(&strategy).as_deref(), told);
    }

    /// A look at three pods. For each: `o` the old one, `l` it is leaving, `-` none, `n` a new one that is out of step, `s` a
    /// new one that is in step, `x` a new one that does not answer.
    fn looks(looks: &[&str], slow: bool) -> Rollout {
        let names = ["r-0", "r-1", "r-2"];
        let mut rollout = Rollout::of(&names.map(|name| pod(name, true, None)));
        for look in looks {
            let (mut pods, mut answering, mut missing) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
            for (name, seen) in names.into_iter().zip(look.chars()) {
                let mut here = pod(name, true, None);
                here.leaving = seen == 'l';
                if "nsx".contains(seen) {
                    here.uid = "another".into();
                }
                if "ons".contains(seen) {
                    answering.insert(name);
                }
                if seen == 'n' {
                    missing.insert(name, "its replication link is \"sync\"".to_owned());
                }
                if seen != '-' {
                    pods.push(here);
                }
            }
            rollout.see(&pods, &answering, &missing, slow);
        }
        rollout
    }

    #[rstest]
    #[case::one_after_another(&["ooo", "ool", "oo-", "oox", "oon", "oos", "ols", "oss", "lss", "sss"], 0, true)]
    #[case::seen_with_the_next_stop(&["ool", "oon", "ols", "oss", "-ss", "sss"], 0, true)]
    #[case::before_the_link(&["ool", "oon", "oln", "oss", "lss", "sss"], 1, true)]
    #[case::while_it_starts(&["ool", "oox", "olx", "oss", "lss", "sss"], 1, true)]
    #[case::two_at_once(&["oll", "oss", "lss", "sss"], 1, true)]
    #[case::all_at_once(&["lll", "sss"], 3, true)]
    #[case::missed_between_looks(&["oos", "sss", "sss"], 1, true)]
    #[case::never_ends(&["ool", "oon"], 0, false)]
    #[case::never_begins(&["ooo", "ooo"], 0, false)]
    fn a_stop_that_comes_too_early_is_told(#[case] seen: &[&str], #[case] count: usize, #[case] over: bool) {
        let rollout = looks(seen, false);
        assert!(rollout.undecided.is_empty(), "{:?}", rollout.undecided);
        assert_eq!(rollout.findings.len(), count, "{:?}", rollout.findings);
        assert_eq!(rollout.waiting().is_empty(), over, "{}", rollout.waiting());
    }

    #[rstest]
    #[case::in_step_long_before(&["ool", "oos", "oos", "ols", "oss", "lss", "lss"], 0)]
    #[case::with_the_next_stop(&["ool", "oon", "ols", "oss", "oss"], 1)]
    fn a_slow_look_that_shows_both_decides_nothing(#[case] seen: &[&str], #[case] count: usize) {
        assert_eq!(looks(seen, true).undecided.len(), count);
    }
}

//! The cases of chapter OPS about more servers than there were.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::no_findings;
use crate::context::{Context, Scaling};
use crate::scaling::{CONNECTIONS, Exposure, MORE, joined_within, observe};
use crate::verdict::{Outcome, Stop};

pub(super) const SCALED_OUT: Case = Case {
    id: CaseId("OPS-05"),
    title: "two servers more become members, by themselves or as is documented",
    requirement: "Raising the number of servers MUST end with all of them members, by itself or in the way that is documented.",
    source: "seed, replicas of the StatefulSet and line 162; Kubernetes documentation, StatefulSets, section Deployment and Scaling Guarantees",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A1],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Scale, Capability::Exec],
    features: &[],
    bound: "T_sched + 60 s",
    controls: &[],
    method: "Writes 100 keys to every master and has two servers more: the StatefulSet is scaled. Where the target's description says \
             `scaling: manual`, the suite does as people would: `redis-cli --cluster add-node … --cluster-slave` in a pod, for each. All \
             must know each other, say `cluster_state:ok`, with every replica linked, and every key be there. Then they leave and are forgotten.",
    run: |cx| Box::pin(scaled_out(cx)),
};

pub(super) const MEMBERS_ONLY: Case = Case {
    id: CaseId("OPS-07"),
    title: "the Service leads to members alone while new servers stand by",
    requirement: "Servers that are no members that serve slots SHOULD NOT be behind the Service for clients.",
    source: "measured on 7.0.15: a server that is in no cluster answers `CLUSTERDOWN Hash slot not served`; Kubernetes documentation, Service",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A1],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Scale, Capability::Exec],
    features: &[],
    bound: "-",
    controls: &[],
    method: "During OPS-05, while the new servers answer and have not joined, looks where the Service's Endpoints lead, and makes 60 \
             connections by its name from within a pod: none may get `CLUSTERDOWN`, or be refused. An answer that is only late is none.",
    run: |cx| Box::pin(members_only(cx)),
};

async fn scaled_out(cx: &Context) -> Outcome {
    let seen = observe(cx).await?;
    cx.note(match seen.scaling {
        Scaling::Automatic => "the deployment lets new servers in by itself",
        Scaling::Manual => {
            "the target's description says that new servers are let in by people; the suite did as they would"
        }
    });
    let joined = seen.joined.clone()?;
    cx.measure("until all were members", joined, None, Some(joined_within(cx)));
    cx.count("keys read by value", seen.data.clone()?, "keys");
    Ok(())
}

async fn members_only(cx: &Context) -> Outcome {
    let seen = observe(cx).await?;
    let Some(exposure) = &seen.service else {
        let reason = "the target's description names no Service for clients";
        return Err(Stop::Unsupported(reason.into()));
    };
    if exposure.looks == 0 {
        let reason = format!("the {MORE} new servers were members before a look at the Service");
        return Err(Stop::Unsupported(reason));
    }
    cx.count(
        "looks at the Service with servers that were no members",
        exposure.looks,
        "looks",
    );
    cx.count("looks in which it led to one", exposure.astray.len(), "looks");
    if let Some(answers) = &exposure.answers {
        let (refused, unanswered) = (refused(answers).len(), unanswered(answers));
        cx.note(format!(
            "of {CONNECTIONS} connections by the Service {refused} were refused service, {unanswered} got no answer in time"
        ));
        if 2 * unanswered >= CONNECTIONS {
            let reason = format!(
                "{unanswered} of {CONNECTIONS} connections by the Service got no answer in time, which says nothing"
            );
            return Err(Stop::Unsupported(reason));
        }
    } else {
        cx.note("there is no client in a pod to make connections with: the Endpoints alone are judged");
    }
    no_findings("a Service that leads to members alone", &led_astray(exposure))?;
    Ok(())
}

/// Answers that a member does not give: it has the key's slot, or knows who has. That an answer is late says nothing of who
/// would have given it.
fn refused(answers: &[String]) -> Vec<&str> {
    let wrong = ["CLUSTERDOWN", "Connection refused", "LOADING"];
    let answers = answers.iter().map(String::as_str);
    answers
        .filter(|answer| wrong.iter().any(|word| answer.contains(word)))
        .collect()
}

/// How many connections got no answer.
fn unanswered(answers: &[String]) -> usize {
    let given = answers.iter().filter(|answer| *answer != "no answer").count();
    CONNECTIONS.saturating_sub(given)
}

fn led_astray(exposure: &Exposure) -> Vec<String> {
    let mut findings = Vec::new();
    if let Some(name) = exposure.astray.first() {
        let (astray, looks) = (exposure.astray.len(), exposure.looks);
        findings.push(format!(
            "in {astray} of {looks} looks it led to {name}, which was no member"
        ));
    }
    let refused = exposure.answers.as_deref().map(refused).unwrap_or_default();
    if let Some(answer) = refused.first() {
        let share = refused.len();
        findings.push(format!(
            "{share} of {CONNECTIONS} connections by its name were not served, the first: {answer}"
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::members_alone(&[], &["PONG", "MOVED 7 10.0.0.1:6379 PONG"], 0)]
    #[case::endpoints(&["r-6"], &["PONG"], 1)]
    #[case::refused(&[], &["PONG", "CLUSTERDOWN Hash slot not served PONG"], 1)]
    #[case::unreachable(&[], &["Could not connect to Redis at x:6379: Connection refused"], 1)]
    #[case::only_late(&[], &["PONG", "no answer"], 0)]
    #[case::both(&["r-6", "r-7"], &["CLUSTERDOWN Hash slot not served PONG"], 2)]
    fn a_service_that_leads_to_a_stranger_is_told(
        #[case] astray: &[&str],
        #[case] answers: &[&str],
        #[case] count: usize,
    ) {
        let exposure = Exposure {
            looks: 3,
            astray: astray.iter().map(|name| (*name).to_owned()).collect(),
            answers: Some(answers.iter().map(|answer| (*answer).to_owned()).collect()),
        };
        assert_eq!(led_astray(&exposure).len(), count);
    }
}

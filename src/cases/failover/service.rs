//! The case of chapter FAIL about the Service that clients use.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::{Look, eventually, expect};
use crate::cluster::client_program;
use crate::cluster::node::Member;
use crate::context::{Context, Fault, with_cleanup};
use crate::failover::pick_shard;
use crate::verdict::{Outcome, Stop};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(super) const DROPS_THE_DEAD: Case = Case {
    id: CaseId("FAIL-23"),
    title: "the Service leads to no dead pod, and every new connection is answered",
    requirement: "The Service that clients use MUST drop a pod that has gone, and keep answering.",
    source: "seed, Service redis-cluster; Kubernetes documentation, Service, and Pod lifecycle, section Termination of Pods",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A5],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::KeepAway, Capability::Exec],
    features: &[],
    bound: "5 s after the pod's server has ended, and 2 s for a connection that was made before",
    controls: &[],
    method: "Deletes the pod of a master and keeps it away. In time the Endpoints of the Service must name living pods only, and of them all \
             that Kubernetes calls Ready (the replica left behind may not be, until it is promoted), and 20 new connections in a row \
             by the Service's name, from within another pod, be answered with `PONG`. The look that finds it so must have begun in time; \
             one that does not ends with the first connection that is not answered within 2 s.",
    run: |cx| Box::pin(drops_the_dead(cx)),
};

/// How long the Endpoints, and what follows them on each node, may take.
const SPREAD: Duration = Duration::from_secs(5);

/// How long a connection waits for its answer: one that was made too early keeps the next look from beginning for so long.
const ANSWERED: Duration = Duration::from_secs(2);

/// How many connections are made in a row.
const CONNECTIONS: usize = 20;

/// Arguments: the Service's name, its port, how many connections, the client's options, how long each may take. None is made
/// after one that got no answer: what they all are told must be about one moment.
const KNOCK: &str = r#"
for number in $(seq "$3"); do timeout "$5" "$client" $4 -h "$1" -p "$2" PING 2>&1 || { echo "no answer"; break; }; done
"#;

async fn drops_the_dead(cx: &Context) -> Outcome {
    let deployment = cx.deployment()?;
    let Some((service, port)) = deployment.client_service() else {
        return Err(Stop::Unsupported(
            "the target's description names no Service for clients".into(),
        ));
    };
    let shard = pick_shard(cx, &cx.view().await?).await?;
    let judged = async {
        let gone = cx.inject(Fault::KeepAway, &shard.master).await?;
        cx.note_time("the pod's server has ended");
        let what = format!("the Service {service} leads to the pods that are left, and answers");
        let since = Instant::now();
        let bound = SPREAD + ANSWERED + cx.shared().target.detour();
        let looked = eventually(cx, &what, bound, async || {
            let looked = since.elapsed();
            let behind = deployment.behind(&service).await?;
            let pods = deployment.pods().await?;
            let ready = pods.into_iter().filter(|pod| pod.ready).map(|pod| pod.name).collect();
            let mut findings = misrouted(&behind, &cx.members().await?, &ready);
            if findings.is_empty() {
                findings = unanswered(&knock(cx, &shard.replica, &service, port).await?);
            }
            Ok(match findings.is_empty() {
                true => Look::Reached(looked),
                false => Look::NotYet(findings.join("\n")),
            })
        })
        .await?;
        cx.measure("led to living pods only, and answered", looked, None, Some(bound));
        cx.measure("from the deletion on", gone.elapsed(), None, None);
        // The last look begins when the bound has passed.
        Ok(expect(
            looked <= bound,
            format!("{what}, within {:.1} s", bound.as_secs_f64()),
            format!("not before the look that began after {:.1} s", looked.as_secs_f64()),
        )?)
    };
    with_cleanup(judged, cx.undo_faults()).await
}

/// What new connections by the Service's name got, a line each.
async fn knock(cx: &Context, from: &Member, service: &str, port: u16) -> Result<String, Stop> {
    let password = cx.shared().target.password();
    let environment = client_program::environment(password.as_ref());
    let script = format!("{}{KNOCK}", client_program::FIND);
    let (port, count, each) = (
        port.to_string(),
        CONNECTIONS.to_string(),
        ANSWERED.as_secs().to_string(),
    );
    let options = cx.client_options(from, password.is_some()).await?.join(" ");
    let command = ["sh", "-c", &script, "sh", service, &port, &count, &options, &each];
    let limit = ANSWERED * CONNECTIONS as u32 + cx.patience();
    let done = cx.exec(from, &command, &environment, limit).await?;
    if done.status == 127 {
        return Err(Stop::Unsupported(format!("there is no client in {from}")));
    }
    Ok(done.stdout)
}

/// Addresses behind the Service that no living pod has, and living pods that are Ready and not behind it.
fn misrouted(behind: &[String], members: &[Member], ready: &BTreeSet<String>) -> Vec<String> {
    let dead = behind
        .iter()
        .filter(|host| members.iter().all(|member| member.address.host != **host));
    let mut findings: Vec<String> = dead
        .map(|host| format!("it leads to {host}, where no living pod is"))
        .collect();
    let missing = members
        .iter()
        .filter(|member| ready.contains(&member.name) && !behind.contains(&member.address.host));
    findings.extend(missing.map(|member| format!("it does not lead to {member}")));
    if behind.is_empty() {
        findings.push("it leads to nobody".into());
    }
    findings
}

/// Answers to new connections that are no `PONG`, and those that are missing.
fn unanswered(output: &str) -> Vec<String> {
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut findings: Vec<String> = lines
        .iter()
        .filter(|line| **line != "PONG")
        .map(|line| format!("PING by the Service -> {line}"))
        .collect();
    let answered = lines.iter().filter(|line| **line == "PONG").count();
    if answered < CONNECTIONS {
        findings.push(format!("{answered} of {CONNECTIONS} connections answered"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connection::Address;
    use rstest::rstest;

    fn member(host: &str) -> Member {
        Member {
            name: format!("r-{host}"),
            address: Address::new(host, 6379),
        }
    }

    #[rstest]
    #[case::right(&["a", "b"], &["a", "b"], &["r-a", "r-b"], "")]
    #[case::dead(&["a", "b", "c"], &["a", "b"], &["r-a", "r-b"], "it leads to c")]
    #[case::left_out(&["a"], &["a", "b"], &["r-a", "r-b"], "it does not lead to r-b")]
    #[case::one_is_not_ready(&["a"], &["a", "b"], &["r-a"], "")]
    #[case::not_ready_and_led_to(&["a", "b"], &["a", "b"], &["r-a"], "")]
    #[case::none_is_ready(&[], &["a", "b"], &[], "it leads to nobody")]
    #[case::nobody(&[], &[], &[], "it leads to nobody")]
    fn a_service_that_leads_astray_is_told(
        #[case] behind: &[&str],
        #[case] living: &[&str],
        #[case] ready: &[&str],
        #[case] told: &str,
    ) {
        let behind: Vec<String> = behind.iter().map(|host| (*host).to_owned()).collect();
        let living: Vec<Member> = living.iter().map(|host| member(host)).collect();
        let ready = ready.iter().map(|name| (*name).to_owned()).collect();
        let findings = misrouted(&behind, &living, &ready);
        assert_eq!(findings.len(), usize::from(!told.is_empty()), "{findings:?}");
        assert!(findings.iter().all(|finding| finding.starts_with(told)), "{findings:?}");
    }

    #[rstest]
    #[case::all(20, "", 0)]
    #[case::one_refused(
        19,
        "Could not connect to Redis at redis-cluster:6379: Connection refused\nno answer\n",
        3
    )]
    #[case::too_few(19, "", 1)]
    #[case::silence(0, "", 1)]
    #[case::one_more_does_not_hide_it(20, "no answer", 1)]
    fn a_connection_that_is_not_answered_is_told(#[case] answered: usize, #[case] rest: &str, #[case] count: usize) {
        let output = "PONG\n".repeat(answered) + rest;
        assert_eq!(unanswered(&output).len(), count);
    }
}

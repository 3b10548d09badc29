//! The cases of chapter NET about what the platform makes of pods: names of those that are not ready, and who may reach the bus.

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};
use crate::check::expect;
use crate::context::{Context, LiveKind};
use crate::inside::headless;
use crate::verdict::{Mismatch, Outcome, Stop};
use crate::{fence, hook, unready};
use serde_json::Value;

pub(super) const UNREADY_PODS_HAVE_NAMES: Case = Case {
    id: CaseId("NET-03"),
    title: "a pod that is not ready keeps its name",
    requirement: "The governing Service SHOULD set `publishNotReadyAddresses: true` so that peers resolve before they are Ready.",
    source: "Kubernetes API, ServiceSpec; Kubernetes documentation, DNS for Services and Pods, note on Ready",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes],
    features: &[Feature::Config],
    bound: "T_gossip + 10 s once the pod is not Ready",
    controls: &[],
    method: "The headless Service in the API must have `publishNotReadyAddresses: true`. Where the servers have a readiness probe, a \
             replica's password is changed as in AUTH-16: once its pod is not Ready and the clients' Service leads there no more, the \
             Endpoints of the headless Service must still name it. A note says where no pod could be made unready.",
    run: |cx| Box::pin(unready_pods_have_names(cx)),
};

pub(super) const OWN_NAME_UNUSED: Case = Case {
    id: CaseId("NET-04"),
    title: "the first postStart ends well while the pod's own name leads nowhere",
    requirement: "A pod's own name MUST NOT be relied on inside its first postStart.",
    source: "kubernetes#85966; Kubernetes source, ShouldPodBeInEndpoints: a pod without podIP is in no Endpoints",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes, Capability::Restart],
    features: &[],
    bound: "T_sched + T_hook",
    controls: &[],
    method: "Deletes the bootstrap pod and looks at its successor all the time: it must be seen without an address, and so without a name, \
             then be Ready in time, with no event `FailedPostStartHook` and no container started again. With init containers, or no hook, \
             nothing is judged.",
    run: |cx| Box::pin(own_name_unused(cx)),
};

pub(super) const BUS_ISOLATED: Case = Case {
    id: CaseId("NET-09"),
    title: "clients reach the client port and not the bus",
    requirement: "Only member pods SHOULD reach the bus port, and clients only the client port.",
    source: "seed line 18",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A3],
    impact: Impact::Apart,
    needs: &[Capability::Kubernetes, Capability::Companion, Capability::Exec],
    features: &[],
    bound: "T_reply for each connection",
    controls: &[],
    method: "From a pod of the suite's own that is no member opens the client port and the bus port of every server, and from a member the \
             bus ports, as AUTH-10 does: the bus must stay shut to the stranger. Its client ports must all open or, where a NetworkPolicy \
             selects the servers, none: a note says which.",
    run: |cx| Box::pin(bus_isolated(cx)),
};

async fn unready_pods_have_names(cx: &Context) -> Outcome {
    let name = headless(cx).await?;
    let services = cx.deployment()?.live(LiveKind::Service).await?;
    published(&name, &services)?;
    match unready::observed(cx).await {
        Ok(seen) => match &seen.named {
            Some(Ok(())) => Ok(()),
            Some(Err(mismatch)) => Err(mismatch.clone().into()),
            None => {
                cx.note(format!(
                    "{} stayed Ready (AUTH-16 judges that): only the Service's field was judged",
                    seen.member
                ));
                Ok(())
            }
        },
        Err(Stop::Unsupported(reason)) => {
            cx.note(format!(
                "no pod could be made unready, only the Service's field was judged: {reason}"
            ));
            Ok(())
        }
        Err(stop) => Err(stop),
    }
}

/// Expects the headless Service to publish addresses of pods that are not ready.
fn published(name: &str, services: &[(String, Value)]) -> Result<(), Mismatch> {
    let service = services.iter().find(|(of, _)| *of == format!("Service/{name}"));
    let (_, service) = service.ok_or_else(|| Mismatch::new(format!("Service {name}"), "there is none"))?;
    let seen = &service["spec"]["publishNotReadyAddresses"];
    expect(
        *seen == Value::Bool(true),
        format!("Service {name} with publishNotReadyAddresses: true"),
        format!(
            "publishNotReadyAddresses: {}",
            if seen.is_null() {
                "not set".into()
            } else {
                seen.to_string()
            }
        ),
    )
}

async fn own_name_unused(cx: &Context) -> Outcome {
    let seen = hook::observed(cx).await?;
    if let Ok(took) = &seen.ready {
        let bound = cx.timing().scheduling() + cx.timing().hook();
        cx.measure("from the pod until it was Ready", *took, None, Some(bound));
    }
    cx.count("looks in which it had no address", seen.without_address, "looks");
    hook::judge(&seen)
}

async fn bus_isolated(cx: &Context) -> Outcome {
    let seen = fence::seen(cx).await?;
    let open = seen.clients_from_outside.iter().filter(|knock| knock.open).count();
    let all = seen.clients_from_outside.len();
    cx.count("client ports open to a stranger", open, "ports");
    if let Some(note) = client_ports(open, all, !seen.policies.is_empty())? {
        cx.note(note);
    }
    fence::judge(&seen)
}

/// Expects that a stranger reaches all client ports or, where a policy may keep it away, none.
fn client_ports(open: usize, all: usize, policy: bool) -> Result<Option<String>, Mismatch> {
    let kept_away = open == 0 && policy;
    expect(
        (open == all && all > 0) || kept_away,
        "every server's client port open to clients",
        format!("{open} of {all} open to a pod that is no member"),
    )?;
    Ok(kept_away.then(|| {
        "a pod that is no member reaches no client port either: a NetworkPolicy selects the servers".to_owned()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::set(json!({"publishNotReadyAddresses": true}), true)]
    #[case::not_set(json!({"clusterIP": "None"}), false)]
    #[case::off(json!({"publishNotReadyAddresses": false}), false)]
    fn a_service_publishes_what_is_not_ready_when_it_says_so(#[case] spec: Value, #[case] right: bool) {
        let services = [("Service/redis-service".to_owned(), json!({"spec": spec}))];
        assert_eq!(published("redis-service", &services).is_ok(), right);
        assert!(published("another", &services).is_err());
    }

    #[rstest]
    #[case::open_to_all(6, 6, false, true)]
    #[case::open_with_a_policy(6, 6, true, true)]
    #[case::kept_away(0, 6, true, true)]
    #[case::one_shut(5, 6, true, false)]
    #[case::all_shut_by_nothing(0, 6, false, false)]
    #[case::no_servers(0, 0, false, false)]
    fn client_ports_are_all_open_or_fenced(
        #[case] open: usize,
        #[case] all: usize,
        #[case] policy: bool,
        #[case] right: bool,
    ) {
        assert_eq!(client_ports(open, all, policy).is_ok(), right);
    }
}

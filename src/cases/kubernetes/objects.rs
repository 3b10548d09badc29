//! What the rules say of the objects that are there; and the cases that need nothing else.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::check::no_findings;
use crate::context::{Claim, Context, LiveKind, Objects, Pod, TargetError};
use crate::lint::field::{Field, Object, selects};
use crate::lint::workload::{Deployment, Workload};
use crate::lint::{self, Finding, Lint};
use crate::manifest::{Document, Lines};
use crate::verdict::{Mismatch, Outcome, Stop};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const APPLIES: Case = Case {
    id: CaseId("K8S-01"),
    title: "the manifest passes strict validation, and applied once more it changes nothing",
    requirement: "The manifest MUST pass strict server-side validation, and change nothing when it is applied once more.",
    source: "seed lines 317-319; Kubernetes documentation, Server-Side Apply and Field validation",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &[],
    method: "Sends every object of the manifest that the run has applied once more, by server-side apply with `dryRun=All` and \
             `fieldValidation=Strict`: none may be refused, and none come back with another field than is there. A run that \
             attached to a deployment knows no manifest: unsupported.",
    run: |cx| Box::pin(applies(cx)),
};

pub(super) const FILLED_IN: Case = Case {
    id: CaseId("K8S-02"),
    title: "no placeholder is left for a password, an image or a storage class",
    requirement: "Placeholders for passwords, images and storage classes MUST be replaced.",
    source: "seed lines 109-117, and 63-64, 130, 163, 192 of its listing",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A3, Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &["manifest:placeholder-storage-class"],
    method: "Applies the rules of `lint` for this row to the live objects (Secrets are looked at, never shown). Every volume claim of the \
             pods must be `Bound`; where one is not, the report says whether its storage class exists.",
    run: |cx| Box::pin(filled_in(cx)),
};

pub(super) const GOVERNING: Case = Case {
    id: CaseId("K8S-03"),
    title: "the governing Service is there, and headless",
    requirement: "The StatefulSet's serviceName MUST name a headless Service of its namespace.",
    source: "seed lines 70, 77 and 104 of its listing; Kubernetes documentation, StatefulSets, section Limitations",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &["manifest:governing-service-not-headless"],
    method: "Applies the rules of `lint` for this row to the live objects: the Service that `spec.serviceName` names must be there, with \
             `clusterIP: None`.",
    run: |cx| Box::pin(rules_alone(cx)),
};

pub(super) const STARTUP: Case = Case {
    id: CaseId("K8S-07"),
    title: "a startup probe covers the loading of a long append-only file",
    requirement: "The loading of a long append-only file SHOULD be covered by a startup probe.",
    source: "Kubernetes documentation, Configure Liveness, Readiness and Startup Probes",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &[],
    method: "Applies the rules of `lint` for this row to the live objects: the server's container must have a startupProbe.",
    run: |cx| Box::pin(rules_alone(cx)),
};

pub(super) const PORTS: Case = Case {
    id: CaseId("K8S-19"),
    title: "no NetworkPolicy closes a port between the servers",
    requirement: "A NetworkPolicy that selects the servers MUST let them reach each other on the client's port and the bus port.",
    source: "seed lines 165-171 of its listing; Redis Cluster specification, section Cluster bus; Kubernetes documentation, \
             Network Policies",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &["manifest:bus-closed"],
    method: "Applies the rules of `lint` for this row to the live objects: policies for what comes in and policies for what goes out must \
             each allow both ports. That both are declared in the container is only recommended: where they are not, the report has a \
             remark.",
    run: |cx| Box::pin(rules_alone(cx)),
};

/// What the platform does not let the suite do makes the case unsupported, and names the right.
pub(super) fn permitted<T>(asked: Result<T, TargetError>) -> Result<T, Stop> {
    match asked {
        Err(TargetError::NotAllowed(right)) => Err(Stop::Unsupported(right)),
        other => Ok(other?),
    }
}

/// That the target can do what the rest of a case needs.
pub(super) fn able(cx: &Context, capability: Capability, what: &str) -> Result<(), Stop> {
    if cx.capabilities().contains(&capability) {
        return Ok(());
    }
    Err(Stop::Unsupported(format!(
        "the objects are as they should be; {what} cannot be tried: the target lacks {capability:?}"
    )))
}

/// The objects of the deployment, asked for once in a run.
pub(super) async fn objects(cx: &Context) -> Result<Arc<Objects>, Stop> {
    let shared = cx.shared();
    let asked = shared.objects.get_or_init(|| async {
        let deployment = cx.deployment().map_err(|_| "the target has no objects".to_owned())?;
        let objects = deployment.objects().await;
        objects.map(Arc::new).map_err(|error| error.to_string())
    });
    match asked.await {
        Ok(objects) => Ok(objects.clone()),
        Err(reason) => Err(anyhow::anyhow!("the deployment's objects cannot be looked at: {reason}").into()),
    }
}

/// Has the rules of the case's row look at the live objects, and expects nothing of those that are as binding as the case;
/// what the others find is remarked.
pub(in crate::cases) async fn rules(cx: &Context, level: Level) -> Result<Arc<Objects>, Stop> {
    let objects = objects(cx).await?;
    let (failing, remarks) = found(&objects, cx.case_id().0, level)?;
    remarks.into_iter().for_each(|remark| cx.note(remark));
    if failing.is_empty() {
        return Ok(objects);
    }
    let expected = failing.iter().map(|(requirement, _)| (*requirement).to_owned());
    let mut expected: Vec<String> = expected.collect();
    expected.dedup();
    let lines: Vec<String> = failing.into_iter().map(|(_, line)| line).collect();
    Err(Mismatch {
        expected,
        actual: lines.join("\n"),
    }
    .into())
}

/// The same of a case that looks at more than objects: where the rules cannot look at them, that is a remark, and the rest
/// decides alone.
pub(in crate::cases) async fn rules_where_seen(cx: &Context, level: Level) -> Outcome {
    match rules(cx, level).await {
        Ok(_) => Ok(()),
        Err(Stop::Mismatch(mismatch)) => Err(mismatch.into()),
        Err(Stop::Unsupported(reason)) => {
            cx.note(format!("the rules of lint were not applied: {reason}"));
            Ok(())
        }
        Err(Stop::Error(error)) => {
            cx.note(format!("the rules of lint were not applied: {error:#}"));
            Ok(())
        }
    }
}

/// Of a row: each requirement that is missed, with where and what; and remarks.
type Found = (Vec<(&'static str, String)>, Vec<String>);

/// What the rules of a row find in the live objects. Where a kind that they need may not be looked at, nothing is said.
pub(super) fn found(objects: &Objects, row: &str, level: Level) -> Result<Found, Stop> {
    let missing = lint::kinds_of(row)
        .into_iter()
        .find_map(|kind| objects.refused.get(kind));
    if let Some(right) = missing {
        return Err(Stop::Unsupported(right.clone()));
    }
    let live = Lint::of_workloads(&objects.live, &objects.workloads);
    let unseen = unseen(objects, |name| {
        live.workloads.iter().any(|judged| judged.object == name)
    });
    if live.workloads.is_empty() {
        return Err(unrecognised(&unseen));
    }
    let applied = objects.applied.as_ref();
    let applied = applied.map(|manifest| Lint::of_workloads(manifest, &objects.workloads));
    let line = |finding: &Finding| placed(finding, applied.as_ref());
    let (failing, remarks) = live.of_row(row, level);
    if failing.is_empty() && !unseen.is_empty() {
        return Err(unrecognised(&unseen));
    }
    let failing = failing
        .into_iter()
        .map(|finding| (finding.rule.requirement, line(finding)));
    let remarks = remarks.into_iter().map(|finding| format!("should: {}", line(finding)));
    Ok((failing.collect(), remarks.collect()))
}

/// A finding with its place: in the manifest, where the same rule finds the same there.
fn placed(finding: &Finding, applied: Option<&Lint>) -> String {
    let flaw = &finding.flaw;
    let same = |other: &&Finding| {
        other.rule.name == finding.rule.name && other.flaw.object == flaw.object && other.flaw.field == flaw.field
    };
    let written = applied.and_then(|lint| lint.findings.iter().find(same));
    let place = match written.map(|written| (&written.flaw.file, written.flaw.line)) {
        Some((file, Some(line))) => format!("{file}:{line}"),
        Some((file, None)) => file.clone(),
        None => flaw.file.clone(),
    };
    let field = if flaw.field.is_empty() { "" } else { ": " };
    format!("{place}: {}{field}{}: {}", flaw.object, flaw.field, flaw.found)
}

/// A server's pod, and the whole of it as the API has it.
pub(super) struct Described {
    pub(super) pod: Pod,
    document: Document,
}

impl Described {
    pub(super) fn new(pod: Pod, value: Value) -> Self {
        let document = Document {
            line: 0,
            value,
            lines: Lines::default(),
        };
        Self { pod, document }
    }

    /// Its labels.
    pub(super) fn labels(&self) -> Field<'_> {
        let object = Object {
            file: "",
            document: &self.document,
        };
        object.at("metadata/labels")
    }

    /// Whether it is one of those that a workload's selector asks for.
    fn is_of(&self, workload: &Workload<'_>) -> bool {
        selects(&workload.object.at("spec/selector"), &self.labels())
    }
}

/// The servers' pods.
pub(super) async fn described(cx: &Context) -> Result<Vec<Described>, Stop> {
    let deployment = cx.deployment()?;
    let pods = deployment.pods().await?;
    let mut live: BTreeMap<String, Value> = deployment.live(LiveKind::Pod).await?.into_iter().collect();
    let described = pods.into_iter().map(|pod| {
        let value = live.remove(&format!("Pod/{}", pod.name)).unwrap_or_default();
        Described::new(pod, value)
    });
    Ok(described.collect())
}

/// Looks at each that makes servers among the live objects, as rules do, and gives what was seen with its own pods. Where
/// the description names one alone, all pods are its own.
pub(super) fn each_workload<T>(
    objects: &Objects,
    pods: &[Described],
    look: impl Fn(&Deployment<'_>, &Workload<'_>) -> T,
) -> Result<Vec<(T, Vec<Pod>)>, Stop> {
    let deployment = lint::recognise(&objects.live);
    let is_own = |workload: &&Workload<'_>| objects.workloads.contains(&workload.object.document.to_string());
    let is_alone = objects.workloads.len() == 1;
    let mut seen = Vec::new();
    for workload in deployment.workloads.iter().filter(is_own) {
        let own = pods.iter().filter(|pod| is_alone || pod.is_of(workload));
        let own: Vec<Pod> = own.map(|described| described.pod.clone()).collect();
        seen.push((look(&deployment, workload), own));
    }
    let unseen = unseen(objects, |name| {
        let mut known = deployment.workloads.iter();
        known.any(|workload| workload.object.document.to_string() == name)
    });
    match seen.is_empty() || !unseen.is_empty() {
        true => Err(unrecognised(&unseen)),
        false => Ok(seen),
    }
}

/// Of what makes the servers, by the description, that in which no server was seen.
fn unseen(objects: &Objects, is_seen: impl Fn(&str) -> bool) -> Vec<&str> {
    let all = objects.workloads.iter().map(String::as_str);
    all.filter(|name| !is_seen(name)).collect()
}

/// Why the rules cannot look at what makes the servers.
fn unrecognised(workloads: &[&str]) -> Stop {
    Stop::Unsupported(match workloads {
        [] => {
            "the servers' pods were made one by one: there is nothing that makes them, for the rules to look at".into()
        }
        workloads => format!(
            "nothing in {} says that it runs servers of a Redis Cluster: the rules cannot look at it",
            workloads.join(", ")
        ),
    })
}

/// A case of which the objects say everything.
async fn rules_alone(cx: &Context) -> Outcome {
    let level = crate::cases::find(cx.case_id().0).map_or(Level::Must, |case| case.level);
    rules(cx, level).await.map(drop)
}

async fn applies(cx: &Context) -> Outcome {
    match permitted(cx.deployment()?.rehearse_apply().await)? {
        None => Err(Stop::Unsupported(
            "this run has applied no manifest: it attached to what was there".into(),
        )),
        Some(findings) => Ok(no_findings(
            "every object accepted by strict validation, and unchanged when applied once more",
            &findings,
        )?),
    }
}

async fn filled_in(cx: &Context) -> Outcome {
    let objects = rules(cx, Level::Must).await?;
    let deployment = cx.deployment()?;
    let mounted: Vec<String> = deployment
        .pods()
        .await?
        .into_iter()
        .flat_map(|pod| pod.claims)
        .collect();
    let mut claims = permitted(deployment.claims().await)?;
    claims.retain(|claim| mounted.contains(&claim.name));
    let classes = classes(&objects)?;
    Ok(no_findings(
        "every volume claim of the pods Bound",
        &unbound(&claims, &classes),
    )?)
}

/// The storage classes that the claim templates name, each with whether it exists, where that may be looked at.
fn classes(objects: &Objects) -> Result<Vec<(String, Option<bool>)>, Stop> {
    let known = objects
        .live
        .documents
        .iter()
        .filter(|document| document.kind() == "StorageClass");
    let known: Vec<&str> = known.map(|document| document.name()).collect();
    let is_known = |name: &str| (!objects.refused.contains_key("StorageClass")).then(|| known.contains(&name));
    let seen = each_workload(objects, &[], |_, workload| {
        let templates = workload.object.at("spec/volumeClaimTemplates").items();
        let named = templates
            .iter()
            .filter_map(|claim| claim.at("spec/storageClassName").text());
        named.map(|name| (name.to_owned(), is_known(name))).collect::<Vec<_>>()
    });
    Ok(seen?.into_iter().flat_map(|(named, _)| named).collect())
}

/// The claims that have no volume.
fn unbound(claims: &[Claim], classes: &[(String, Option<bool>)]) -> Vec<String> {
    let absent = classes.iter().filter(|(_, exists)| *exists == Some(false));
    let absent: Vec<String> = absent
        .map(|(name, _)| format!(", and there is no storage class {name}"))
        .collect();
    let waiting = claims.iter().filter(|claim| claim.phase != "Bound");
    waiting
        .map(|claim| format!("volume claim {}: {}{}", claim.name, claim.phase, absent.concat()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use rstest::rstest;

    const CANONICAL: &str = include_str!("../../../manifests/redis-cluster.yaml");

    fn objects_of(text: &str, refused: &[&str]) -> Objects {
        let refused = refused
            .iter()
            .map(|kind| ((*kind).to_owned(), format!("{kind} may not be listed")));
        Objects {
            live: Manifest::parse("namespace n", text).unwrap(),
            workloads: vec!["StatefulSet/redis-cluster".to_owned()],
            applied: None,
            refused: refused.collect(),
        }
    }

    const LEADERS_AND_FOLLOWERS: &str = include_str!("../../../manifests/others/leaders-and-followers.yaml");

    #[test]
    fn each_workload_has_the_pods_that_its_selector_selects() {
        let mut objects = objects_of(LEADERS_AND_FOLLOWERS, &[]);
        let sets = objects
            .live
            .documents
            .iter()
            .filter(|document| document.kind() == "StatefulSet");
        let sets: Vec<(String, Value)> = sets
            .map(|set| {
                (
                    set.name().to_owned(),
                    set.value["spec"]["template"]["metadata"]["labels"].clone(),
                )
            })
            .collect();
        assert_eq!(sets.len(), 2);
        objects.workloads = sets.iter().map(|(name, _)| format!("StatefulSet/{name}")).collect();
        let pods: Vec<Described> = sets
            .iter()
            .map(|(name, labels)| {
                let value = serde_json::json!({"metadata": {"labels": labels}});
                Described::new(crate::cases::kubernetes::placement::tests::pod(name, "a", "x"), value)
            })
            .collect();
        let seen = each_workload(&objects, &pods, |_, workload| {
            workload.object.document.name().to_owned()
        });
        let seen = seen.unwrap().into_iter();
        let seen: Vec<(String, Vec<String>)> = seen
            .map(|(name, pods)| (name, pods.into_iter().map(|pod| pod.name).collect()))
            .collect();
        let expected = sets.iter().map(|(name, _)| (name.clone(), vec![name.clone()]));
        assert_eq!(seen, expected.collect::<Vec<_>>());
    }

    #[rstest]
    #[case("K8S-08", "PodDisruptionBudget")]
    #[case("K8S-02", "Secret")]
    #[case("K8S-19", "NetworkPolicy")]
    #[case("K8S-16", "ConfigMap")]
    fn what_may_not_be_looked_at_is_never_judged(#[case] row: &str, #[case] kind: &str) {
        let objects = objects_of(CANONICAL, &[kind]);
        let judged = found(&objects, row, Level::Must);
        assert!(
            matches!(&judged, Err(Stop::Unsupported(reason)) if reason.contains(kind)),
            "{judged:?}"
        );
        assert!(found(&objects_of(CANONICAL, &["StorageClass"]), row, Level::Must).is_ok());
    }

    #[test]
    fn objects_that_say_nothing_of_a_cluster_are_not_judged() {
        let text = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: redis-cluster}\nspec: {template: {spec: {containers: [{name: c, image: busybox}]}}}\n";
        let judged = found(&objects_of(text, &[]), "K8S-08", Level::Must);
        assert!(matches!(judged, Err(Stop::Unsupported(_))));
    }

    #[test]
    fn a_live_flaw_points_into_the_manifest_that_was_applied() {
        let mut objects = objects_of(CANONICAL, &[]);
        let (failing, _) = found(&objects, "K8S-02", Level::Must).unwrap();
        assert!(failing[0].1.starts_with("namespace n: Secret/"), "{}", failing[0].1);
        objects.applied = Some(Manifest::parse("m.yaml", CANONICAL).unwrap());
        let (failing, _) = found(&objects, "K8S-02", Level::Must).unwrap();
        assert!(failing[0].1.starts_with("m.yaml:"), "{}", failing[0].1);
    }

    #[rstest]
    #[case(Level::Must, 0, 1)]
    #[case(Level::Should, 1, 0)]
    fn what_only_should_be_is_remarked_where_a_case_must_pass(
        #[case] level: Level,
        #[case] failing: usize,
        #[case] remarks: usize,
    ) {
        // Preferred anti-affinity, of which only the SHOULD of the row wants more.
        let (fails, notes) = found(&objects_of(CANONICAL, &[]), "K8S-09", level).unwrap();
        assert_eq!((fails.len(), notes.len()), (failing, remarks));
    }

    fn claim(phase: &str) -> Claim {
        Claim {
            name: "data-0".into(),
            uid: "u".into(),
            phase: phase.into(),
            access_modes: Vec::new(),
            volume: None,
            leaving: false,
        }
    }

    #[rstest]
    #[case("Bound", Some(false), "")]
    #[case("Pending", Some(true), "volume claim data-0: Pending")]
    #[case(
        "Pending",
        Some(false),
        "volume claim data-0: Pending, and there is no storage class fast"
    )]
    #[case("Lost", None, "volume claim data-0: Lost")]
    fn a_claim_without_a_volume_is_told(#[case] phase: &str, #[case] exists: Option<bool>, #[case] expected: &str) {
        let told = unbound(&[claim(phase)], &[("fast".to_owned(), exists)]);
        assert_eq!(told.concat(), expected);
    }
}

//! The cases of chapter AUTH that look at Kubernetes: Services, the bus, where the password stands, and probes.

use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};
use crate::cases::kubernetes::rules;
use crate::check::no_findings;
use crate::context::{Context, LiveKind, Objects, Secret};
use crate::inside::{self, Call};
use crate::manifest::Document;
use crate::manifest::redact::FILLED_IN;
use crate::verdict::{Outcome, Stop};
use crate::{fence, unready};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const THROUGH_SERVICES: Case = Case {
    id: CaseId("AUTH-08"),
    title: "every connection through a Service must authenticate",
    requirement: "Access through the ClusterIP and the headless name MUST enforce the password on every connection.",
    source: "seed manifest lines 82-96; measured: with one open node of six, a Service hands strangers through to it",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A3],
    impact: Impact::Apart,
    needs: &[Capability::Kubernetes, Capability::Companion, Capability::Exec],
    features: &[],
    bound: "-",
    controls: &[],
    method: "From a pod of the suite's own that is no member: 60 new connections by the name of the clients' Service and 60 by the \
             headless name, each without a password: `PING` must answer `NOAUTH`; then as many with it: `PONG`. Each \
             address that the headless name leads to gets a connection without a password too. To how many servers \
             the connections led is told.",
    run: |cx| Box::pin(through_services(cx)),
};

pub(super) const BUS_FENCED: Case = Case {
    id: CaseId("AUTH-10"),
    title: "the bus is reached by members alone",
    requirement: "The bus port, which asks for no password, MUST be reachable only from member pods.",
    source: "seed lines 18-23; Redis Cluster specification, section Node handshake; measured: a stranger that sends MEET is a member \
             of all six within 2 s, and receives what is published",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A3],
    impact: Impact::Apart,
    needs: &[Capability::Kubernetes, Capability::Companion, Capability::Exec],
    features: &[Feature::Bus],
    bound: "T_reply for each connection",
    controls: &[],
    method: "From a pod of the suite's own that is no member, which reaches the cluster's DNS or a client's port, opens the bus port of \
             every server: none may open, while a member opens all. Where one does and a NetworkPolicy selects the servers, a \
             policy of the suite's own on a pod of its own shows whether the network enforces any: where not, nothing is judged.",
    run: |cx| Box::pin(async move { fence::judge(&*fence::seen(cx).await?) }),
};

pub(super) const IN_A_SECRET: Case = Case {
    id: CaseId("AUTH-11"),
    title: "the password stands in no ConfigMap, pod, argument or log",
    requirement: "The password SHOULD come from a Secret, not appear in ConfigMaps, pod specifications, process arguments or hook logs.",
    source: "seed manifest lines 52-64 and 163 (plain text twice)",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[Seed::A3],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes, Capability::Exec],
    features: &[],
    bound: "-",
    controls: &[],
    method: "Applies the rules of `lint` for this row to the live objects. Then looks for the password, as a word of its own, in the ConfigMaps of the namespace, in the workload and its pods, in the \
             namespace's Jobs and CronJobs and those of the manifest that the run has applied, in the \
             arguments of every process in every server's container (`/proc/*/cmdline`) as they are now, in the containers' logs and \
             in the bootstrap's. Where Jobs or CronJobs may not be listed, and nothing is found elsewhere: unsupported. It is compared here and \
             shown nowhere.",
    run: |cx| Box::pin(in_a_secret(cx)),
};

pub(super) const PROBES_AUTHENTICATE: Case = Case {
    id: CaseId("AUTH-16"),
    title: "a server that refuses the password is not called ready",
    requirement: "Liveness and readiness probes MUST work with the password and MUST NOT treat NOAUTH as healthy.",
    source: "measured: redis-cli exits with 0 on NOAUTH",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A3],
    impact: Impact::Disruptive,
    needs: &[Capability::Kubernetes],
    features: &[Feature::Config],
    bound: "failureThreshold · max(periodSeconds, timeoutSeconds) + min(periodSeconds, timeoutSeconds) of the readiness probe, and 10 s",
    controls: &[],
    method: "Applies the rules of `lint` for this row to the live objects: a probe that asks with the client must authenticate and read \
             the reply. Then changes the password that one replica takes (`CONFIG SET requirepass`): its pod must lose Ready in the time in which the \
             probe has failed as often as it may. Then the password is put back, and the pod must be Ready again. With no readiness probe \
             there is nothing to judge here.",
    run: |cx| Box::pin(probes_authenticate(cx)),
};

/// How many connections are made through each Service.
const CONNECTIONS: usize = 60;

/// Divides the answers of one connection.
const MARK: &str = "--";

async fn through_services(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let (service, port) = service(cx)?;
    let headless = inside::headless(cx).await?;
    // The headless Service's name gives the pods' own addresses, so the other's port may be none of theirs.
    let own = cx.members().await?.first().map_or(port, |member| member.address.port);
    let from = inside::client(cx).await?;
    let ping = ["PING".to_owned()];
    let who = ["PING", "ECHO --", "CLUSTER MYID"].map(str::to_owned);
    let mut findings = Vec::new();
    // A client's resolver may prefer one address of the headless name all the time: each gets a connection of its own.
    let found = inside::resolve(cx, &from, std::slice::from_ref(&headless)).await?;
    let addresses: Vec<String> = found.into_values().flatten().collect();
    for each in inside::call(cx, &from, &addresses, own, 1, &ping, None).await? {
        if !each.said().starts_with("NOAUTH") {
            findings.push(format!(
                "{}, an address of {headless}, without the password: {}",
                each.host,
                each.said()
            ));
        }
    }
    for (host, port) in [(service, port), (headless, own)] {
        let only = std::slice::from_ref(&host);
        let without = inside::call(cx, &from, only, port, CONNECTIONS, &ping, None).await?;
        let with = inside::call(cx, &from, only, port, CONNECTIONS, &who, Some(&password)).await?;
        findings.extend(unlike(&host, &without, "without the password", |said| {
            said.starts_with("NOAUTH")
        }));
        findings.extend(unlike(&host, &with, "with the password", |said| said == "PONG"));
        cx.count(&format!("servers reached by {host}"), servers(&host, &with), "servers");
    }
    let expected =
        format!("NOAUTH without the password and PONG with it, on each of {CONNECTIONS} connections to each name");
    Ok(no_findings(expected, &findings)?)
}

/// The clients' Service.
pub(in crate::cases) fn service(cx: &Context) -> Result<(String, u16), Stop> {
    let none = || Stop::Unsupported("the target's description names no Service for clients".into());
    cx.deployment()?.client_service().ok_or_else(none)
}

/// The connections to a host whose first answer is not as it should be, those alike in one line; and those that are missing.
fn unlike(host: &str, calls: &[Call], how: &str, is_right: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong: BTreeMap<String, usize> = BTreeMap::new();
    let mut made = 0;
    for call in calls.iter().filter(|call| call.host == host) {
        made += 1;
        let said = call.parts(MARK).into_iter().next().unwrap_or_default();
        if !is_right(&said) {
            *wrong.entry(call.said()).or_default() += 1;
        }
    }
    let mut findings: Vec<String> = wrong
        .into_iter()
        .map(|(said, times)| format!("{host}, {how}: {said} ({times} of {made} connections)"))
        .collect();
    if made < CONNECTIONS {
        findings.push(format!("{host}, {how}: {made} of {CONNECTIONS} connections were made"));
    }
    findings
}

/// To how many servers the connections led, by what each said of itself.
fn servers(host: &str, calls: &[Call]) -> usize {
    let own = calls.iter().filter(|call| call.host == host);
    let ids: BTreeSet<String> = own
        .filter_map(|call| call.parts(MARK).into_iter().nth(1))
        .filter(|id| !id.is_empty())
        .collect();
    ids.len()
}

async fn in_a_secret(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let objects = rules(cx, Level::Should).await?;
    let deployment = cx.deployment()?;
    let mut findings = in_jobs(&objects, &password);
    for kind in [LiveKind::ConfigMap, LiveKind::Workload, LiveKind::Pod] {
        for (name, object) in deployment.live(kind).await? {
            let mut places = Vec::new();
            texts_with(&object, &password, String::new(), &mut places);
            findings.extend(places.iter().map(|place| format!("{name}: {place} holds the password")));
        }
    }
    let members = cx.all_members().await?;
    for member in &members {
        // A process that has ended meanwhile is no matter.
        let command = ["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null || true"];
        let done = cx.exec(member, &command, &[], cx.patience()).await?;
        if done.stdout.is_empty() {
            let reason = format!(
                "the arguments of the processes of {} cannot be read: the image has no cat",
                member.name
            );
            return Err(Stop::Unsupported(reason));
        }
        if holds(&done.stdout, &password) {
            findings.push(format!("{}: the arguments of a process hold the password", member.name));
        }
        if holds(&deployment.log(&member.name, false).await?, &password) {
            findings.push(format!("{}: the container's log holds the password", member.name));
        }
    }
    if deployment.bootstrap_pod().is_some() && holds(&deployment.bootstrap_log().await?, &password) {
        findings.push("the bootstrap's log holds the password".into());
    }
    no_findings("the password in no ConfigMap, pod, Job, argument or log", &findings)?;
    match ["Job", "CronJob"].iter().find_map(|kind| objects.refused.get(*kind)) {
        Some(right) => Err(Stop::Unsupported(right.clone())),
        None => Ok(()),
    }
}

/// Where the specifications of Jobs hold the password: of those that the manifest has, since one that is done may be
/// gone from the namespace, and of the others that are there.
fn in_jobs(objects: &Objects, password: &Secret) -> Vec<String> {
    let is_job = |document: &&Document| ["Job", "CronJob"].contains(&document.kind());
    let applied = objects.applied.iter().flat_map(|manifest| &manifest.documents);
    let applied: Vec<&Document> = applied.filter(is_job).collect();
    let same = |one: &Document, other: &Document| (one.kind(), one.name()) == (other.kind(), other.name());
    let others = objects.live.documents.iter().filter(is_job);
    let others = others.filter(|document| !applied.iter().any(|other| same(other, document)));
    // The password has been taken out of what is live, where it stands alone; another word stands in its place.
    let stand_in = Secret::new(FILLED_IN);
    let looked_for = applied
        .iter()
        .map(|document| (*document, vec![password]))
        .chain(others.map(|document| (document, vec![password, &stand_in])));
    let mut findings = Vec::new();
    for (document, words) in looked_for {
        let mut places = Vec::new();
        for word in words {
            texts_with(&document.value, word, String::new(), &mut places);
        }
        let told = places
            .iter()
            .map(|place| format!("{document}: {place} holds the password"));
        findings.extend(told);
    }
    findings
}

/// Whether a text holds the password as a word of its own: `redis` is none in `redis-cluster`.
fn holds(text: &str, password: &Secret) -> bool {
    let word = password.expose();
    let is_part = |letter: char| letter.is_alphanumeric() || ['-', '_', '.', '/', '\u{fffd}'].contains(&letter);
    !word.is_empty()
        && text.match_indices(word).any(|(at, found)| {
            let before = text[..at].chars().next_back();
            let after = text[at + found.len()..].chars().next();
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
}

/// Where in an object texts hold the password: `.data.redis.conf`. What is an image's name is not meant.
fn texts_with(value: &Value, password: &Secret, place: String, places: &mut Vec<String>) {
    match value {
        Value::String(text) if holds(text, password) && !place.ends_with(".image") => places.push(place),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                texts_with(item, password, format!("{place}[{at}]"), places);
            }
        }
        Value::Object(fields) => {
            // Names and labels are nobody's password, however alike; a description that was applied is kept in an annotation.
            let own = fields.iter().filter(|(name, _)| {
                let status = place.is_empty() && *name == "status";
                !status && !["name", "labels", "matchLabels", "managedFields"].contains(&name.as_str())
            });
            for (name, item) in own {
                texts_with(item, password, format!("{place}.{name}"), places);
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

async fn probes_authenticate(cx: &Context) -> Outcome {
    rules(cx, Level::Must).await?;
    let seen = unready::observed(cx).await?;
    cx.note(format!(
        "{} answered to its platform's password: {}",
        seen.member, seen.refused
    ));
    match &seen.dropped {
        Ok(took) => {
            cx.measure("no longer called ready", *took, None, None);
            Ok(())
        }
        Err(mismatch) => Err(mismatch.clone().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use rstest::rstest;
    use serde_json::json;

    fn calls(said: &str, times: usize) -> Vec<Call> {
        let lines = said.split('\t').map(str::to_owned).collect();
        vec![
            Call {
                host: "redis".into(),
                lines
            };
            times
        ]
    }

    #[rstest]
    #[case::all(calls("NOAUTH Authentication required.\t", 60), 0)]
    #[case::one_open([calls("NOAUTH Authentication required.\t", 59), calls("PONG\t", 1)].concat(), 1)]
    #[case::fewer(calls("NOAUTH Authentication required.\t", 59), 1)]
    #[case::nothing(Vec::new(), 1)]
    #[case::unreachable(calls("Could not connect to Redis at redis:6379: Connection refused\t", 3), 2)]
    fn every_connection_must_be_refused(#[case] calls: Vec<Call>, #[case] count: usize) {
        let findings = unlike("redis", &calls, "without", |said| said.starts_with("NOAUTH"));
        assert_eq!(findings.len(), count, "{findings:?}");
    }

    #[test]
    fn servers_are_told_apart_by_their_ids() {
        let seen = [calls("PONG\t--\ta\t", 2), calls("PONG\t--\tb\t", 1), calls("PONG\t", 1)].concat();
        assert_eq!(servers("redis", &seen), 2);
    }

    #[rstest]
    #[case::conf("requirepass s3cret\n", true)]
    #[case::quoted("requirepass \"s3cret\"", true)]
    #[case::argument("redis-cli\0-a\0s3cret\0ping\0", true)]
    #[case::address("redis://:s3cret@redis:6379", true)]
    #[case::longer("s3cretary", false)]
    #[case::in_a_name("my-s3cret-name", false)]
    #[case::later("s3crets, then s3cret", true)]
    #[case::none("", false)]
    fn a_password_is_found_as_a_word(#[case] text: &str, #[case] found: bool) {
        assert_eq!(holds(text, &Secret::new("s3cret")), found);
    }

    fn job(arguments: &str) -> Manifest {
        let spec = format!("{{template: {{spec: {{containers: [{{args: [{arguments}]}}]}}}}}}");
        let text = format!("apiVersion: batch/v1\nkind: Job\nmetadata: {{name: s3cret}}\nspec: {spec}\n");
        Manifest::parse("m.yaml", &text).unwrap()
    }

    #[rstest]
    #[case::none(job("redis-cli, --cluster, create"), None, &[])]
    #[case::taken_out(job("redis-cli, -a, redacted"), None, &[2])]
    #[case::in_a_word(job("\"redis://:s3cret@redis:6379\""), None, &[0])]
    #[case::written(job("redis-cli, -a, redacted"), Some(job("redis-cli, -a, s3cret")), &[2])]
    #[case::another_word(job("echo, redacted"), Some(job("echo, redacted")), &[])]
    fn the_password_in_a_job_is_told(
        #[case] live: Manifest,
        #[case] applied: Option<Manifest>,
        #[case] arguments: &[usize],
    ) {
        let objects = Objects {
            live,
            workloads: Vec::new(),
            applied,
            refused: BTreeMap::new(),
        };
        let expected: Vec<String> = arguments
            .iter()
            .map(|at| format!("Job/s3cret: .spec.template.spec.containers[0].args[{at}] holds the password"))
            .collect();
        assert_eq!(in_jobs(&objects, &Secret::new("s3cret")), expected);
    }

    #[test]
    fn the_places_of_a_password_are_told() {
        let map = json!({
            "metadata": {"name": "s3cret", "labels": {"role": "s3cret"}},
            "data": {"redis.conf": "port 6379\nrequirepass s3cret\n", "other": "port 1"},
        });
        let pod = json!({
            "spec": {"containers": [{"image": "s3cret:7", "args": ["--requirepass", "s3cret"], "env": [{"name": "s3cret"}]}]},
            "status": {"message": "s3cret"},
        });
        let mut places = Vec::new();
        for object in [map, pod] {
            texts_with(&object, &Secret::new("s3cret"), String::new(), &mut places);
        }
        assert_eq!(places, [".data.redis.conf", ".spec.containers[0].args[1]"]);
    }
}

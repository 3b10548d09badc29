//! The cases of chapter REDIR as a client within the pods' network sees redirections.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};
use crate::cases::authentication::service;
use crate::check::{expect, no_findings};
use crate::cluster::client_program;
use crate::cluster::connection::Address;
use crate::cluster::redirect::Redirect;
use crate::cluster::view::ClusterView;
use crate::context::{Context, Pod, with_cleanup};
use crate::inside::{self, Knock};
use crate::verdict::{Mismatch, Outcome, Stop};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const REACHABLE: Case = Case {
    id: CaseId("REDIR-03"),
    title: "clients reach every address that they are sent to, and it is a pod's",
    requirement: "The endpoint in MOVED and `CLUSTER SLOTS` MUST be reachable from where clients run and equal a current pod IP (or \
                  resolvable host).",
    source: "seed lines 31-35; seed manifest lines 149-150",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A1],
    impact: Impact::Apart,
    needs: &[Capability::Kubernetes, Capability::Companion, Capability::Exec],
    features: &[],
    bound: "T_reply for each connection",
    controls: &[],
    method: "Gathers the endpoints that every node names in `CLUSTER SLOTS`, and in `-MOVED` for a key of every other master. Each must be \
             the present `status.podIP` of a pod of the deployment, or a name that leads to one, and open to a connection from a pod of the \
             suite's own that is no member.",
    run: |cx| Box::pin(reachable(cx)),
};

pub(super) const SEEDS_OWN: Case = Case {
    id: CaseId("REDIR-18"),
    title: "redis-cli -c by the Service's name sets and gets keys of every shard",
    requirement: "`redis-cli -h redis-cluster -a <password> -c` from inside the namespace MUST set and get keys of every shard.",
    source: "seed lines 321-325",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A1, Seed::A3],
    impact: Impact::Apart,
    needs: &[Capability::Kubernetes, Capability::Companion, Capability::Exec],
    features: &[],
    bound: "-",
    controls: &[],
    method: "In a pod of the suite's own that is no member, `redis-cli -c` by the name of the clients' Service, with the password in its \
             environment, gets `SET` and `GET` of a key of every master over one connection: `OK` and the value each time. How often it \
             says `-> Redirected to slot` is told. The keys are of this case alone and are removed.",
    run: |cx| Box::pin(seeds_own(cx)),
};

async fn reachable(cx: &Context) -> Outcome {
    let from = inside::client(cx).await?;
    let view = cx.view().await?;
    let (mut named, unanswered) = (slots_endpoints(&view), moved(cx, &view).await?);
    for (address, by) in unanswered.0 {
        named.entry(address).or_default().extend(by);
    }
    let hosts: BTreeSet<&str> = named.keys().map(|address| address.host.as_str()).collect();
    let names: Vec<String> = hosts
        .iter()
        .filter(|host| host.parse::<std::net::IpAddr>().is_err() && !host.is_empty())
        .map(|host| (*host).to_owned())
        .collect();
    let resolved = match names.is_empty() {
        true => BTreeMap::new(),
        false => inside::resolve(cx, &from, &names).await?,
    };
    let addresses: Vec<Address> = named.keys().cloned().collect();
    let knocks = inside::knock(cx, &from, &addresses).await?;
    let pods = cx.deployment()?.pods().await?;
    let mut findings = astray(&named, &knocks, &resolved, &pods);
    findings.extend(unanswered.1);
    if named.len() < cx.shape().nodes() {
        findings.push(format!(
            "{} endpoints are named, of {} nodes",
            named.len(),
            cx.shape().nodes()
        ));
    }
    cx.count(
        "endpoints reached",
        knocks.iter().filter(|knock| knock.open).count(),
        "endpoints",
    );
    Ok(no_findings(
        "every endpoint a pod's present address, open to a client",
        &findings,
    )?)
}

/// The endpoints of `CLUSTER SLOTS`, each with the nodes that name it.
fn slots_endpoints(view: &ClusterView) -> BTreeMap<Address, BTreeSet<String>> {
    let mut named: BTreeMap<Address, BTreeSet<String>> = BTreeMap::new();
    for node in &view.nodes {
        let nodes = node.slots.iter().flat_map(|entry| &entry.nodes);
        for (address, _) in nodes {
            let by = named.entry(address.clone()).or_default();
            by.insert(format!("CLUSTER SLOTS of {}", node.member.name));
        }
    }
    named
}

/// Endpoints with who names them.
type Named = BTreeMap<Address, BTreeSet<String>>;

/// The endpoints of `-MOVED`, and the answers that are none.
async fn moved(cx: &Context, view: &ClusterView) -> Result<(Named, Vec<String>), Stop> {
    let (mut named, mut findings) = (Named::new(), Vec::new());
    let owners: Vec<(String, u16)> = view
        .masters()
        .filter_map(|master| Some((master.member.name.clone(), master.inner_slot()?)))
        .collect();
    for node in &view.nodes {
        let mut connection = cx.connect(&node.member.address).await?;
        for (_, slot) in owners.iter().filter(|(owner, _)| *owner != node.member.name) {
            let reply = connection.call(&["GET", &cx.key_in(*slot, "moved")]).await?;
            match Redirect::parse(&reply) {
                Some(redirect) => {
                    let by = named.entry(redirect.address).or_default();
                    by.insert(format!("MOVED of {}", node.member.name));
                }
                None => findings.push(format!("{}: GET of a key of slot {slot} -> {reply}", node.member)),
            }
        }
    }
    Ok((named, findings))
}

/// Endpoints at which no pod is, and those that do not open.
fn astray(named: &Named, knocks: &[Knock], resolved: &BTreeMap<String, BTreeSet<String>>, pods: &[Pod]) -> Vec<String> {
    let living: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.address.as_deref()).collect();
    let mut findings = Vec::new();
    for (address, by) in named {
        let by: Vec<&str> = by.iter().map(String::as_str).collect();
        let is_pod = living.contains(address.host.as_str())
            || resolved
                .get(&address.host)
                .is_some_and(|found| !found.is_empty() && found.iter().all(|host| living.contains(host.as_str())));
        if !is_pod {
            findings.push(format!("no pod is at {address} (named by {})", by.join(", ")));
        }
        let knock = knocks.iter().find(|knock| knock.to == *address);
        match knock {
            Some(knock) if knock.open => {}
            Some(knock) => findings.push(format!(
                "{address} does not open to a client: {} (named by {})",
                knock.said,
                by.join(", ")
            )),
            None => findings.push(format!("{address} was not tried")),
        }
    }
    findings
}

async fn seeds_own(cx: &Context) -> Outcome {
    let password = cx.password()?;
    let (service, port) = service(cx)?;
    let from = inside::client(cx).await?;
    let view = cx.view().await?;
    let keys: Vec<String> = view
        .masters()
        .filter_map(|master| Some(cx.key_in(master.inner_slot()?, "own")))
        .collect();
    expect(
        keys.len() == cx.shape().masters,
        format!("{} masters with slots", cx.shape().masters),
        keys.len().to_string(),
    )?;
    let script = format!(
        "{}printf '%s\\n' \"$3\" | timeout 20 \"$client\" $4 -c --no-raw -h \"$1\" -p \"$2\" 2>&1",
        client_program::FIND
    );
    let commands: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(at, key)| format!("SET {key} value-{at}\nECHO --\nGET {key}\nECHO --"))
        .collect();
    let (port, commands) = (port.to_string(), commands.join("\n"));
    let work = async {
        let options = cx.client_options(&from, true).await?.join(" ");
        let command = ["sh", "-c", &script, "sh", &service, &port, &commands, &options];
        let environment = client_program::environment(Some(&password));
        let limit = std::time::Duration::from_secs(20) + cx.patience();
        let done = cx.exec(&from, &command, &environment, limit).await?;
        if done.status == 127 {
            return Err(Stop::Unsupported(format!(
                "the image of {} has no redis-cli with timeout",
                from.name
            )));
        }
        let output = password.redact(&done.stdout);
        cx.count("redirections followed", redirections(&output), "redirections");
        Ok(judge(&output, &keys)?)
    };
    with_cleanup(work, cx.remove_keys(&keys)).await
}

fn redirections(output: &str) -> usize {
    output
        .lines()
        .filter(|line| line.contains("-> Redirected to slot"))
        .count()
}

/// Expects `OK` and the value of every key in turn, whatever the client says of redirections between.
fn judge(output: &str, keys: &[String]) -> Result<(), Mismatch> {
    let lines: Vec<&str> = output
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.contains("-> Redirected to slot"))
        .collect();
    let answers: Vec<String> = lines
        .split(|line| line.trim_matches('"') == "--")
        .map(|part| part.join(" "))
        .collect();
    let mut findings = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let said = |number: usize| answers.get(number).map_or("no answer", String::as_str);
        let (set, get) = (said(2 * at), said(2 * at + 1));
        if set != "OK" {
            findings.push(format!("SET {key} -> {set}"));
        }
        if get.trim_matches('"') != format!("value-{at}") {
            findings.push(format!("GET {key} -> {get}"));
        }
    }
    if keys.is_empty() {
        findings.push("no keys".into());
    }
    no_findings("OK to SET, and the value to GET, for a key of every master", &findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const TWO: &str = "OK\n\"--\"\n\"value-0\"\n\"--\"\n-> Redirected to slot [12182] located at 10.0.0.2:6379\nOK\n\"--\"\n\"value-1\"\n\"--\"\n";

    #[rstest]
    #[case::both(TWO, 0)]
    #[case::older_client("OK\n--\nvalue-0\n--\nOK\n--\nvalue-1\n--\n", 0)]
    #[case::moved(
        "OK\n\"--\"\n\"value-0\"\n\"--\"\n(error) MOVED 1 10.0.0.2:6379\n\n\"--\"\n(nil)\n\"--\"\n",
        2
    )]
    #[case::noauth(
        "(error) NOAUTH Authentication required.\n\"--\"\n(error) NOAUTH Authentication required.\n",
        4
    )]
    #[case::unreachable("Could not connect to Redis at redis:6379: Connection refused\n", 4)]
    #[case::nothing("", 4)]
    fn every_key_is_set_and_read(#[case] output: &str, #[case] findings: usize) {
        let keys = ["a".to_owned(), "b".to_owned()];
        let told = judge(output, &keys)
            .err()
            .map_or(0, |mismatch| mismatch.actual.lines().count());
        assert_eq!(told, findings, "{:?}", judge(output, &keys));
    }

    #[test]
    fn redirections_are_counted() {
        assert_eq!(redirections(TWO), 1);
    }

    fn pod(host: &str) -> Pod {
        Pod {
            name: host.into(),
            uid: String::new(),
            address: Some(host.into()),
            phase: "Running".into(),
            ready: true,
            leaving: false,
            restarts: 0,
            trouble: None,
            host: None,
            claims: Vec::new(),
        }
    }

    #[rstest]
    #[case::there("10.0.0.1", true, 0)]
    #[case::shut("10.0.0.1", false, 1)]
    #[case::nobody("10.0.0.9", false, 2)]
    #[case::nobody_s_but_open("10.0.0.9", true, 1)]
    #[case::by_name("a.redis", true, 0)]
    #[case::by_a_name_astray("b.redis", true, 1)]
    #[case::empty("", false, 2)]
    fn an_endpoint_is_a_pod_s_and_open(#[case] host: &str, #[case] open: bool, #[case] count: usize) {
        let to = Address::new(host, 6379);
        let named = Named::from([(to.clone(), BTreeSet::from(["MOVED of a".to_owned()]))]);
        let knocks = [Knock {
            to,
            open,
            said: "no answer".into(),
        }];
        let resolved = BTreeMap::from([
            ("a.redis".to_owned(), BTreeSet::from(["10.0.0.1".to_owned()])),
            ("b.redis".to_owned(), BTreeSet::from(["10.0.0.9".to_owned()])),
        ]);
        let findings = astray(&named, &knocks, &resolved, &[pod("10.0.0.1")]);
        assert_eq!(findings.len(), count, "{findings:?}");
    }
}

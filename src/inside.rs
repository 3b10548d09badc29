//! What a shell within the pods' network sees: doors that open, names that resolve, what a client is answered. The asking
//! is here, and the reading of what the shell prints; what is right is for the cases to say.

use crate::cluster::client_program;
use crate::cluster::connection::Address;
use crate::cluster::node::Member;
use crate::context::{Companion, Context, LiveKind, Secret, TargetError};
use crate::verdict::{Mismatch, Stop};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a script exits with when a program that it needs is not there.
const NO_PROGRAM: i32 = 127;

/// Opens connections, all at once. Arguments: seconds, then host and port in turn.
const KNOCK: &str = r#"
limit=$1; shift
if command -v bash >/dev/null && command -v timeout >/dev/null; then
  knock() { timeout "$limit" bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>&1; }
elif command -v nc >/dev/null; then
  knock() { nc -z -w "$limit" "$1" "$2" 2>&1; }
else
  echo "neither bash with timeout nor nc" >&2; exit 127
fi
while [ $# -gt 1 ]; do
  ( said=$(knock "$1" "$2"); status=$?; echo "$1 $2 $status "$said ) &
  shift 2
done
wait
"#;

/// Looks names up. Arguments: names.
const RESOLVE: &str = r#"
if command -v getent >/dev/null; then
  look() { getent ahosts "$1" | while read -r address rest; do echo "$1 $address"; done; }
elif command -v dig >/dev/null; then
  look() { { dig +short "$1" A; dig +short "$1" AAAA; } | while read -r address; do echo "$1 $address"; done; }
else
  echo "neither getent nor dig" >&2; exit 127
fi
for name; do look "$name"; done
exit 0
"#;

/// Has a client open connections one after another and send the same commands over each. Arguments: port, how many
/// connections to each host, seconds, the client's options, the commands, hosts. Three connections in a row that fail are
/// enough of a host.
const CALL: &str = r#"
for program in timeout tr; do command -v $program >/dev/null || { echo "no $program" >&2; exit 127; }; done
set -f
port=$1 count=$2 limit=$3 options=$4 commands=$5; shift 5
for host; do
  left=$count lost=0
  while [ "$left" -gt 0 ] && [ "$lost" -lt 3 ]; do
    left=$((left - 1))
    said=$(printf '%s\n' "$commands" | timeout "$limit" "$client" $options -h "$host" -p "$port" 2>&1 | tr '\n\r' '\t ')
    case "$said" in ''|'Could not connect'*) lost=$((lost + 1)) ;; *) lost=0 ;; esac
    printf '%s\t%s\n' "$host" "$said"
  done
done
"#;

/// What came of an attempt to open a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knock {
    /// Where to.
    pub to: Address,
    /// Whether it was opened.
    pub open: bool,
    /// What was said where it was not: `Connection refused`, `no answer`.
    pub said: String,
}

/// Opens a connection to each address from within a pod, all at once; each may take `T_reply`.
///
/// # Errors
/// An unsupported stop where the pod lacks the programs for it; an error when they could not be run to their end.
pub async fn knock(cx: &Context, from: &Member, to: &[Address]) -> Result<Vec<Knock>, Stop> {
    let limit = cx.timing().reply();
    let mut words = vec![limit.as_secs().max(1).to_string()];
    words.extend(to.iter().flat_map(|door| [door.host.clone(), door.port.to_string()]));
    let output = shell(cx, from, KNOCK, &words, None, limit).await?;
    Ok(read_knocks(&output, to))
}

/// What the shell says of each door, in the order of `to`. One that it does not mention is not open.
fn read_knocks(output: &str, to: &[Address]) -> Vec<Knock> {
    let mut said = BTreeMap::new();
    for line in output.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some(host), Some(port), Some(status)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        said.insert(
            format!("{host} {port}"),
            (status.to_owned(), words.next().unwrap_or_default().to_owned()),
        );
    }
    let each = to.iter().map(|door| {
        let found = said.get(&format!("{} {}", door.host, door.port));
        let (open, said) = match found {
            Some((status, _)) if status == "0" => (true, "open".to_owned()),
            // What `timeout` exits with.
            Some((status, _)) if status == "124" => (false, "no answer".to_owned()),
            Some((_, text)) => (false, text.rsplit(": ").next().unwrap_or_default().trim().to_owned()),
            None => (false, "nothing was said of it".to_owned()),
        };
        Knock {
            to: door.clone(),
            open,
            said,
        }
    });
    each.collect()
}

/// The addresses that each name leads to, as a program in a pod sees them. A name that leads nowhere has none.
///
/// # Errors
/// As [`knock`].
pub async fn resolve(
    cx: &Context,
    from: &Member,
    names: &[String],
) -> Result<BTreeMap<String, BTreeSet<String>>, Stop> {
    // A resolver waits 5 s for each of its servers, twice.
    let output = shell(cx, from, RESOLVE, names, None, cx.timing().names()).await?;
    Ok(read_names(&output, names))
}

fn read_names(output: &str, names: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> =
        names.iter().map(|name| (name.clone(), BTreeSet::new())).collect();
    for line in output.lines() {
        if let Some((name, address)) = line.split_once(' ')
            && address.parse::<std::net::IpAddr>().is_ok()
        {
            found.entry(name.to_owned()).or_default().insert(address.to_owned());
        }
    }
    found
}

/// The cluster's domain for Services, as a pod is told of it: `svc.cluster.local`.
///
/// # Errors
/// As [`knock`].
pub async fn service_domain(cx: &Context, from: &Member) -> Result<String, Stop> {
    let namespace = cx.deployment()?.namespace();
    let output = shell(cx, from, "cat /etc/resolv.conf", &[], None, cx.timing().reply()).await?;
    read_domain(&output, &namespace).ok_or_else(|| {
        let reason = format!(
            "{}: no search domain of /etc/resolv.conf is that of its namespace",
            from.name
        );
        Stop::Unsupported(reason)
    })
}

/// `search NAMESPACE.svc.DOMAIN …`: what follows the namespace, wherever that entry stands.
fn read_domain(resolv_conf: &str, namespace: &str) -> Option<String> {
    let search = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"))
        .next_back()?;
    let own = format!("{namespace}.");
    let domain = search
        .split_whitespace()
        .find_map(|domain| domain.strip_prefix(&own).filter(|rest| rest.starts_with("svc.")))?;
    Some(domain.trim_end_matches('.').to_owned())
}

/// What a client was answered over one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The host that the connection was opened to, as it was given.
    pub host: String,
    /// The lines that the client printed.
    pub lines: Vec<String>,
}

impl Call {
    /// The lines that are not empty, in one.
    pub fn said(&self) -> String {
        let lines: Vec<&str> = self
            .lines
            .iter()
            .map(|line| line.trim())
            .filter(|line| !line.is_empty())
            .collect();
        match lines.is_empty() {
            true => "no answer".to_owned(),
            false => lines.join(" "),
        }
    }

    /// What was printed for each command, where the commands are divided by `ECHO` of this mark. A client prints an empty
    /// line after an error, so lines alone say nothing of which command they belong to.
    pub fn parts(&self, mark: &str) -> Vec<String> {
        let parts = self.lines.split(|line| line.trim() == mark);
        parts
            .map(|lines| {
                let lines: Vec<&str> = lines
                    .iter()
                    .map(|line| line.trim())
                    .filter(|line| !line.is_empty())
                    .collect();
                lines.join("\n")
            })
            .collect()
    }
}

/// Has the command-line client of a pod's image open `count` connections to each host, one after another, and send the
/// commands over each; with a password, or without any.
///
/// # Errors
/// As [`knock`].
pub async fn call(
    cx: &Context,
    from: &Member,
    hosts: &[String],
    port: u16,
    count: usize,
    commands: &[String],
    password: Option<&Secret>,
) -> Result<Vec<Call>, Stop> {
    let each = cx.timing().reply();
    let options = cx.client_options(from, password.is_some()).await?;
    let mut words = vec![
        port.to_string(),
        count.to_string(),
        each.as_secs().max(1).to_string(),
        options.join(" "),
        commands.join("\n"),
    ];
    words.extend(hosts.iter().cloned());
    let connections = u32::try_from(hosts.len() * count).unwrap_or(u32::MAX);
    // A connection that is well takes a few hundredths of a second; three in a row that are not end it.
    let limit = Duration::from_millis(500) * connections + 3 * each * u32::try_from(hosts.len()).unwrap_or(1);
    let output = shell(
        cx,
        from,
        &format!("{}{CALL}", client_program::FIND),
        &words,
        password,
        limit,
    )
    .await?;
    Ok(read_calls(&output))
}

fn read_calls(output: &str) -> Vec<Call> {
    let lines = output.lines().filter_map(|line| line.split_once('\t'));
    lines
        .map(|(host, said)| Call {
            host: host.to_owned(),
            lines: said.split('\t').map(|line| line.trim().to_owned()).collect(),
        })
        .collect()
}

/// Runs a script in a pod. A password goes by the environment; without one the pod's own is taken away.
async fn shell(
    cx: &Context,
    from: &Member,
    script: &str,
    words: &[String],
    password: Option<&Secret>,
    limit: Duration,
) -> Result<String, Stop> {
    let environment = client_program::environment(password);
    let script = match password {
        Some(_) => script.to_owned(),
        None => format!("unset {}\n{script}", client_program::PASSWORDS.join(" ")),
    };
    let start = ["sh", "-c", &script, "sh"];
    let command: Vec<&str> = start.into_iter().chain(words.iter().map(String::as_str)).collect();
    let done = cx.exec(from, &command, &environment, limit + cx.patience()).await?;
    match done.status {
        NO_PROGRAM => {
            let missing = done.stderr.lines().next_back().unwrap_or_default().trim().to_owned();
            Err(Stop::Unsupported(format!(
                "the image of {} lacks a program: {missing}",
                from.name
            )))
        }
        0 => Ok(done.stdout),
        status => Err(anyhow::anyhow!(
            "a script in {} ended with status {status}: {}",
            from.name,
            done.stderr.trim()
        )
        .into()),
    }
}

/// A pod of the suite's own that is no member.
///
/// # Errors
/// An unsupported stop where the platform refuses such a pod; an error when it does not run in time.
pub async fn stranger(cx: &Context, which: Companion) -> Result<Member, Stop> {
    let made = cx.deployment()?.companion(which, cx.timing().scheduling()).await;
    made.map_err(|error| match error {
        TargetError::Usage(reason) | TargetError::NotAllowed(reason) => Stop::Unsupported(reason),
        error => error.into(),
    })
}

/// [`stranger`], which reaches the client's port of one server at least. Where it does not, and a NetworkPolicy selects
/// the servers, clients need something that the suite does not know.
///
/// # Errors
/// As [`stranger`].
pub async fn client(cx: &Context) -> Result<Member, Stop> {
    let pod = stranger(cx, Companion::Client).await?;
    let doors: Vec<Address> = cx
        .all_members()
        .await?
        .into_iter()
        .map(|member| member.address)
        .collect();
    let knocks = knock(cx, &pod, &doors).await?;
    if knocks.iter().any(|knock| knock.open) {
        return Ok(pod);
    }
    let policies = policies(cx).await?;
    match policies.is_empty() {
        // Nothing keeps it out: what the case then sees is the deployment's.
        true => Ok(pod),
        false => Err(Stop::Unsupported(format!(
            "a pod of the suite's own reaches no server's client port, as {} may well mean: which pods are clients the suite \
             does not know",
            policies.join(", ")
        ))),
    }
}

/// The headless Service: the description's, or the one that the workload names.
///
/// # Errors
/// An unsupported stop where there is none.
pub async fn headless(cx: &Context) -> Result<String, Stop> {
    let deployment = cx.deployment()?;
    if let Some(name) = deployment.headless_service() {
        return Ok(name);
    }
    let workloads = deployment.live(LiveKind::Workload).await?;
    let names = workloads
        .iter()
        .filter_map(|(_, workload)| workload["spec"]["serviceName"].as_str());
    let names: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    match names.iter().collect::<Vec<_>>().as_slice() {
        [only] => Ok((**only).to_owned()),
        [] => Err(Stop::Unsupported(
            "neither the target's description nor a workload names a headless Service".into(),
        )),
        several => Err(Stop::Unsupported(format!(
            "the workloads have a headless Service each ({}): the suite follows names by one alone",
            several.iter().map(|name| **name).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// The server's container of a pod, and the pod's `spec` around it. The pods of several workloads may differ.
///
/// # Errors
/// When the API cannot be asked, or shows no such container; a mismatch where there is no such pod.
pub async fn server_container(cx: &Context, pod: &str) -> Result<(Value, Value), Stop> {
    let deployment = cx.deployment()?;
    let pods = deployment.live(LiveKind::Pod).await?;
    let own = pods.iter().find(|(name, _)| *name == format!("Pod/{pod}"));
    let (_, own) = own.ok_or_else(|| Mismatch::new(format!("the pod {pod}"), "no such pod"))?;
    let pod = own["spec"].clone();
    let name = deployment.server_container();
    let containers = pod["containers"].as_array().into_iter().flatten();
    let container = containers
        .into_iter()
        .find(|container| container["name"] == name.as_str())
        .cloned();
    match container {
        Some(container) => Ok((container, pod)),
        None => Err(anyhow::anyhow!("the pods have no container {name}, which the target's description names").into()),
    }
}

/// The NetworkPolicies that say who may reach the servers' pods.
///
/// # Errors
/// When the API cannot be asked.
pub async fn policies(cx: &Context) -> Result<Vec<String>, Stop> {
    let deployment = cx.deployment()?;
    let pods = deployment.live(LiveKind::Pod).await?;
    let policies = deployment.live(LiveKind::NetworkPolicy).await?;
    let fencing = policies.iter().filter(|(_, policy)| {
        pods.iter()
            .any(|(_, pod)| limits_ingress(policy, &pod["metadata"]["labels"]))
    });
    Ok(fencing.map(|(name, _)| name.clone()).collect())
}

/// Whether a NetworkPolicy says who may reach pods with these labels.
fn limits_ingress(policy: &Value, labels: &Value) -> bool {
    let types = policy["spec"]["policyTypes"].as_array();
    // Left out, it is about what comes in.
    let ingress = types.is_none_or(|types| types.is_empty() || types.iter().any(|kind| kind == "Ingress"));
    ingress && selects(&policy["spec"]["podSelector"], labels)
}

/// Whether a label selector selects these labels. An empty one selects all.
fn selects(selector: &Value, labels: &Value) -> bool {
    let pairs = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let holds = |expression: &Value| {
        let own = labels.get(expression["key"].as_str().unwrap_or_default());
        let among = || {
            expression["values"]
                .as_array()
                .is_some_and(|values| own.is_some_and(|own| values.contains(own)))
        };
        match expression["operator"].as_str() {
            Some("In") => among(),
            Some("NotIn") => !among(),
            Some("Exists") => own.is_some(),
            Some("DoesNotExist") => own.is_none(),
            Some(_) | None => false,
        }
    };
    pairs.into_iter().all(|(key, value)| labels.get(key) == Some(value)) && expressions.into_iter().all(holds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::open("10.0.0.1 6379 0 \n", true, "open")]
    #[case::refused(
        "10.0.0.1 6379 1 bash: connect: Connection refused bash: line 1: /dev/tcp/10.0.0.1/6379: Connection refused\n",
        false,
        "Connection refused"
    )]
    #[case::silent("10.0.0.1 6379 124 \n", false, "no answer")]
    #[case::another("10.0.0.1 16379 0 \n", false, "nothing was said of it")]
    #[case::nothing("", false, "nothing was said of it")]
    fn a_door_is_open_only_when_the_shell_says_so(#[case] output: &str, #[case] open: bool, #[case] said: &str) {
        let door = Address::new("10.0.0.1", 6379);
        let knocks = read_knocks(output, std::slice::from_ref(&door));
        assert_eq!(
            knocks,
            [Knock {
                to: door,
                open,
                said: said.into()
            }]
        );
    }

    #[test]
    fn names_lead_to_addresses_or_nowhere() {
        let names = ["a.b.".to_owned(), "c.b.".to_owned()];
        let output = "a.b. 10.0.0.1\na.b. 10.0.0.1\na.b. fd00::1\nc.b. ;; connection timed out\n";
        let found = read_names(output, &names);
        assert_eq!(found["a.b."], BTreeSet::from(["10.0.0.1".into(), "fd00::1".into()]));
        assert!(found["c.b."].is_empty());
    }

    #[rstest]
    #[case::first(
        "search live.svc.cluster.local svc.cluster.local cluster.local\n",
        Some("svc.cluster.local")
    )]
    #[case::later(
        "search corp.example live.svc.k8s.example. svc.k8s.example\n",
        Some("svc.k8s.example")
    )]
    #[case::another_namespace("search alive.svc.cluster.local\n", None)]
    #[case::none("nameserver 10.96.0.10\n", None)]
    fn the_domain_is_what_follows_the_namespace(#[case] text: &str, #[case] domain: Option<&str>) {
        assert_eq!(read_domain(text, "live").as_deref(), domain);
    }

    #[test]
    fn answers_are_divided_by_marks() {
        let calls = read_calls("h\tid\t--\tMOVED 1 10.0.0.1:6379\t\t--\t\t--\tcluster_state:ok \tx:1 \t\n");
        assert_eq!(calls.len(), 1);
        assert_eq!(
            calls[0].parts("--"),
            ["id", "MOVED 1 10.0.0.1:6379", "", "cluster_state:ok\nx:1"]
        );
        assert_eq!(read_calls("h\t\n")[0].said(), "no answer");
        assert!(read_calls("no tab\n").is_empty());
    }

    #[rstest]
    #[case::all(json!({"spec": {"podSelector": {}}}), true)]
    #[case::by_label(json!({"spec": {"podSelector": {"matchLabels": {"app": "redis"}}, "policyTypes": ["Ingress", "Egress"]}}), true)]
    #[case::egress_alone(json!({"spec": {"podSelector": {}, "policyTypes": ["Egress"]}}), false)]
    #[case::others(json!({"spec": {"podSelector": {"matchLabels": {"app": "web"}}}}), false)]
    #[case::expression(json!({"spec": {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["redis"]}]}}}), true)]
    #[case::not(json!({"spec": {"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["redis"]}]}}}), false)]
    #[case::exists(json!({"spec": {"podSelector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}}), false)]
    fn a_policy_that_selects_the_pods_is_known(#[case] policy: Value, #[case] limits: bool) {
        assert_eq!(limits_ingress(&policy, &json!({"app": "redis"})), limits);
    }
}

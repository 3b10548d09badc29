//! What is done inside a cluster's nodes: signals to the servers' processes, and packets dropped. The nodes are containers
//! of Docker, so each is one `docker exec` with a few lines of shell; nothing secret is among its arguments.

use super::children::ask;
use crate::target::TargetError;
use crate::target::kubernetes::{NodeAccess, ServerProcess, Signal};
use crate::target::netns;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one command in a node may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every rule of the suite has a comment that begins so.
const PREFIX: &str = "rcc-";

/// Arguments: the pod's uid, the container's name. Of the containers that a pod has had under a name one runs at most; its
/// process is `$pid`, or nothing.
const FIND: &str = r#"
labels="labels.\"io.kubernetes.pod.uid\"==$1,labels.\"io.kubernetes.container.name\"==$2"
ids=" $(ctr --namespace k8s.io containers ls -q "$labels" | tr '\n' ' ')"
pid=$(ctr --namespace k8s.io task ls | while read -r id pid state; do
    case "$ids" in *" $id "*) [ "$state" = RUNNING ] && echo "$pid" ;; esac
done)
"#;

/// A third argument: the signal's name. A kill is done when the process has gone.
const SIGNAL: &str = r#"
if [ -z "$pid" ]; then
    [ "$3" = CONT ] && exit 0
    echo "container $2 of pod $1 runs no process" >&2
    exit 3
fi
kill -s "$3" "$pid" || exit 4
[ "$3" = KILL ] || exit 0
for look in $(seq 200); do
    [ -d "/proc/$pid" ] || exit 0
    sleep 0.05
done
echo "process $pid is still there" >&2
exit 5
"#;

/// A third argument: for how many seconds.
const AWAIT_END: &str = r#"
[ -n "$pid" ] || exit 0
for look in $(seq $(($3 * 10))); do
    [ -d "/proc/$pid" ] || exit 0
    sleep 0.1
done
echo "process $pid is still there after $3 s" >&2
exit 5
"#;

/// Arguments: the address, the port, the comment.
const BLOCK: &str = r#"
case $1 in *:*) tables=ip6tables ;; *) tables=iptables ;; esac
$tables -w 5 -I FORWARD -p tcp -d "$1" --dport "$2" -m comment --comment "$3" -j DROP
"#;

/// Argument: what the comment begins with.
const UNBLOCK: &str = r#"
for tables in iptables ip6tables; do
    $tables -w 5 -S FORWARD 2>/dev/null | tr -d '"' | grep -F -e "--comment $1" | sed 's/^-A /-D /' |
        while read -r rule; do $tables -w 5 $rule || exit 1; done || exit 1
done
"#;

/// How to find the process that holds a pod's namespaces, by the pod's uid: its sandbox, which outlives the containers.
const SANDBOXES: &str = r#"
tasks=$(ctr --namespace k8s.io task ls) || exit 3
sandbox_of() {
    ids=" $(ctr --namespace k8s.io containers ls -q \
        "labels.\"io.kubernetes.pod.uid\"==$1,labels.\"io.cri-containerd.kind\"==sandbox" | tr '\n' ' ')"
    echo "$tasks" | while read -r id pid state; do
        case "$ids" in *" $id "*) [ "$state" = RUNNING ] && echo "$pid" ;; esac
    done
}
wait_for() {
    for job; do wait "$job" || exit 5; done
}
"#;

/// Arguments: for each pod its uid and the text. All sandboxes are found first: so all cuts are there at nearly one time.
const FILTER: &str = r#"
left=$#
while [ "$left" -gt 0 ]; do
    pid=$(sandbox_of "$1")
    [ -n "$pid" ] || { echo "pod $1 has no sandbox that runs" >&2; exit 4; }
    set -- "$@" "$pid" "$2"
    shift 2
    left=$((left - 2))
done
jobs=
while [ $# -gt 0 ]; do
    printf '%s' "$2" | nsenter --net="/proc/$1/ns/net" iptables-restore --noflush -w &
    jobs="$jobs $!"
    shift 2
done
wait_for $jobs
"#;

/// Arguments: the chain, the text that takes it away, and the pods' uids. Refused where the chain is not, and then nothing is to
/// be done.
const UNFILTER: &str = r#"
chain=$1 text=$2
shift 2
pids= jobs=
for uid; do pids="$pids $(sandbox_of "$uid")"; done
for pid in $pids; do
    inside="nsenter --net=/proc/$pid/ns/net"
    { printf '%s' "$text" | $inside iptables-restore --noflush -w || ! $inside iptables -w -n -L "$chain" >/dev/null 2>&1; } &
    jobs="$jobs $!"
done
wait_for $jobs
"#;

/// The nodes of a kind cluster.
pub(super) struct DockerNodes {
    cluster: String,
}

impl DockerNodes {
    pub(super) fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
        }
    }

    /// Takes back every block, also those of runs that were killed.
    pub(super) async fn unblock_all(&self) -> Result<(), TargetError> {
        self.unblock_matching(PREFIX).await
    }

    async fn unblock_matching(&self, beginning: &str) -> Result<(), TargetError> {
        let nodes = ask("kind", &["get", "nodes", "--name", &self.cluster], PATIENCE).await?;
        for node in nodes.split_whitespace() {
            run(node, UNBLOCK, &[beginning]).await?;
        }
        Ok(())
    }
}

/// The comment of a tag's rules; the last character keeps `x-1` apart from `x-10`.
fn comment(tag: &str) -> String {
    format!("{PREFIX}{tag}.")
}

async fn run(node: &str, script: &str, arguments: &[&str]) -> Result<(), TargetError> {
    run_within(PATIENCE, node, script, arguments).await
}

async fn run_within(limit: Duration, node: &str, script: &str, arguments: &[&str]) -> Result<(), TargetError> {
    let mut command = vec!["exec", node, "sh", "-c", script, "sh"];
    command.extend(arguments);
    ask("docker", &command, limit).await.map(drop)
}

/// Runs a script on several nodes at once, on each with arguments of its own.
async fn on_each(script: &str, arguments: &BTreeMap<&str, Vec<&str>>) -> Result<(), TargetError> {
    let runs = arguments.iter().map(|(node, arguments)| run(node, script, arguments));
    futures::future::join_all(runs).await.into_iter().collect()
}

#[async_trait]
impl NodeAccess for DockerNodes {
    async fn signal(&self, process: &ServerProcess, signal: Signal) -> Result<(), TargetError> {
        let name = match signal {
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        let script = format!("{FIND}{SIGNAL}");
        run(&process.node, &script, &[&process.pod, &process.container, name]).await
    }

    async fn await_end(&self, process: &ServerProcess, bound: Duration) -> Result<(), TargetError> {
        let script = format!("{FIND}{AWAIT_END}");
        let seconds = bound.as_secs().to_string();
        let arguments = [process.pod.as_str(), &process.container, &seconds];
        run_within(bound + PATIENCE, &process.node, &script, &arguments).await
    }

    async fn block(&self, node: &str, address: &str, port: u16, tag: &str) -> Result<(), TargetError> {
        run(node, BLOCK, &[address, &port.to_string(), &comment(tag)]).await
    }

    async fn unblock(&self, tag: &str) -> Result<(), TargetError> {
        self.unblock_matching(&comment(tag)).await
    }

    async fn filter(&self, texts: &[(ServerProcess, String)]) -> Result<(), TargetError> {
        let mut by_node: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (server, text) in texts {
            by_node
                .entry(&server.node)
                .or_default()
                .extend([server.pod.as_str(), text]);
        }
        on_each(&format!("{SANDBOXES}{FILTER}"), &by_node).await
    }

    async fn unfilter(&self, pods: &[ServerProcess]) -> Result<(), TargetError> {
        let chain = netns::chain();
        let (name, text) = (chain.to_string(), chain.removal());
        let mut by_node: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for server in pods {
            let arguments = by_node.entry(&server.node).or_insert_with(|| vec![&name, &text]);
            arguments.push(&server.pod);
        }
        on_each(&format!("{SANDBOXES}{UNFILTER}"), &by_node).await
    }
}

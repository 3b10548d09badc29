//! What is done inside a cluster's nodes: signals to the servers' processes, and packets dropped. The nodes are containers
//! of Docker, so each is one `docker exec` with a few lines of shell; nothing secret is among its arguments.

use super::children::{ask, pipe};
use super::cluster::nodes_of;
use crate::cluster::connection::BoxedStream;
use crate::target::TargetError;
use crate::target::kubernetes::{NodeAccess, ServerProcess, Signal};
use crate::target::netns;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one command in a node may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a node may take to stop of itself before it is killed.
const RESTART: Duration = Duration::from_secs(10);

/// Every rule of the suite has a comment that begins so.
const PREFIX: &str = "rcc-";

/// What stands in the file of an address that the suite holds.
const HELD: &str = "rcc-held";

/// Arguments: the pod's uid, the container's name. Of the containers that a pod has had under a name one runs at most; its
/// process is `$pid`, or nothing.
const FIND: &str = r#"
labels="labels.\"io.kubernetes.pod.uid\"==$1,labels.\"io.kubernetes.container.name\"==$2"
ids=" $(ctr --namespace k8s.io containers ls -q "$labels" | tr '\n' ' ')"
pid=$(ctr --namespace k8s.io task ls | while read -r id pid state; do
    case "$ids" in *" $id "*) [ "$state" = RUNNING ] && echo "$pid" ;; esac
done)
"#;

/// A third argument: the signal's name. A kill is done when the process has gone, and takes the container's others with it;
/// any other signal goes to what the process has started as well: the first process may be a shell, and the server its child.
const SIGNAL: &str = r#"
if [ -z "$pid" ]; then
    [ "$3" = CONT ] && exit 0
    echo "container $2 of pod $1 runs no process" >&2
    exit 3
fi
kill -s "$3" "$pid" || exit 4
tree() { for child in $(cat "/proc/$1/task"/*/children 2>/dev/null); do echo "$child"; tree "$child"; done; }
[ "$3" = KILL ] || for child in $(tree "$pid"); do
    kill -s "$3" "$child" 2>/dev/null || [ ! -d "/proc/$child" ] || exit 4
done
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

/// The folders in which the plugin host-local keeps the addresses that it has given away, a file each.
const ADDRESSES: &str = r#"
folders=$(ls -d /var/lib/cni/networks/*/last_reserved_ip.0 /run/cni-ipam-state/*/last_reserved_ip.0 2>/dev/null)
"#;

/// Fails where there is no such folder.
const KEEPS_ADDRESSES: &str = r#"
[ -n "$folders" ]
"#;

/// Arguments: the address that the next pod is to get, the one after it, what a held address's file says. Nobody may have
/// the two any more; their files go with the pods' networks, a while after the pods' servers.
const HOLD: &str = r#"
for look in $(seq 300); do
    taken=
    for folder in $folders; do
        for address in "$1" "$2"; do [ -e "${folder%/*}/$address" ] && taken=$address; done
    done
    [ -z "$taken" ] && break
    sleep 0.1
done
[ -z "$taken" ] || { echo "somebody still has the address $taken" >&2; exit 3; }
network=${1%.*} last=${1##*.}
for folder in $folders; do
    case $(cat "$folder") in "$network".*) ;; *) continue ;; esac
    for number in $(seq 254); do
        address=$network.$number
        [ "$address" = "$1" ] || [ "$address" = "$2" ] || [ -e "${folder%/*}/$address" ] ||
            printf %s "$3" >"${folder%/*}/$address"
    done
    printf %s "$network.$((last - 1))" >"$folder"
    exit 0
done
echo "no network of this node gives the address $1" >&2
exit 4
"#;

/// Argument: what a held address's file says.
const RELEASE: &str = r#"
for folder in $folders; do
    grep -lxF -e "$1" "${folder%/*}"/* 2>/dev/null | xargs -r rm -f
done
exit 0
"#;

/// Argument: the signal's name. Nodes without an API server have none to stop.
const SIGNAL_API: &str = r#"
pkill "-$1" -x kube-apiserver
[ $? -le 1 ]
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
        self.run_on_all(UNBLOCK, &[beginning]).await
    }

    async fn names(&self) -> Result<Vec<String>, TargetError> {
        nodes_of(&self.cluster).await
    }

    /// Without its control plane a cluster has no API: that is another upheaval.
    fn check_worker(&self, node: &str) -> Result<(), TargetError> {
        match node == format!("{}-control-plane", self.cluster) {
            true => Err(TargetError::Usage(format!("{node} is the control plane: it stays"))),
            false => Ok(()),
        }
    }

    async fn run_on_all(&self, script: &str, arguments: &[&str]) -> Result<(), TargetError> {
        for node in self.names().await? {
            run(&node, script, arguments).await?;
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

    fn open(&self, node: &str, address: &str, port: u16) -> Result<BoxedStream, TargetError> {
        let to = match address.contains(':') {
            true => format!("TCP6:[{address}]:{port}"),
            false => format!("TCP4:{address}:{port}"),
        };
        pipe("docker", &["exec", "-i", node, "socat", "-", &to])
    }

    async fn stop_api(&self, stop: bool) -> Result<(), TargetError> {
        let signal = if stop { "STOP" } else { "CONT" };
        self.run_on_all(SIGNAL_API, &[signal]).await
    }

    async fn can_hold_addresses(&self) -> bool {
        match self.names().await.as_deref() {
            Ok([node]) => run(node, &format!("{ADDRESSES}{KEEPS_ADDRESSES}"), &[]).await.is_ok(),
            Ok(_) | Err(_) => false,
        }
    }

    async fn hold_addresses_but(&self, node: &str, free: [&str; 2]) -> Result<(), TargetError> {
        let script = format!("{ADDRESSES}{HOLD}");
        run_within(2 * PATIENCE, node, &script, &[free[0], free[1], HELD]).await
    }

    async fn release_addresses(&self) -> Result<(), TargetError> {
        self.run_on_all(&format!("{ADDRESSES}{RELEASE}"), &[HELD]).await
    }

    async fn freeze_host(&self, node: &str, freeze: bool) -> Result<(), TargetError> {
        self.check_worker(node)?;
        let state = ["inspect", "--format", "{{.State.Paused}}", node];
        let frozen = ask("docker", &state, PATIENCE).await?.trim() == "true";
        if frozen == freeze {
            return Ok(());
        }
        let verb = if freeze { "pause" } else { "unpause" };
        ask("docker", &[verb, node], PATIENCE).await.map(drop)
    }

    async fn restart_host(&self, node: &str) -> Result<(), TargetError> {
        self.check_worker(node)?;
        let seconds = RESTART.as_secs().to_string();
        ask("docker", &["restart", "-t", &seconds, node], RESTART + PATIENCE)
            .await
            .map(drop)
    }
}

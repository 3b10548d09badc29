//! What is done inside a cluster's nodes: signals to the servers' processes, and packets dropped. The nodes are containers
//! of Docker, so each is one `docker exec` with a few lines of shell; nothing secret is among its arguments.

use super::children::ask;
use crate::target::TargetError;
use crate::target::kubernetes::{NodeAccess, ServerProcess, Signal};
use async_trait::async_trait;
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
}

//! What only the owner of a cluster's nodes can do: reach the processes, networks and addresses of pods, and the nodes themselves.

use crate::cluster::connection::BoxedStream;
use crate::target::TargetError;
use async_trait::async_trait;
use std::time::Duration;

/// A signal to a server's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGKILL; done when the process is gone.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

/// Where a server's process is. The container's id is not part of it: for a while after a crash the API shows the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerProcess {
    /// The cluster's node.
    pub(crate) node: String,
    /// The pod, by uid.
    pub(crate) pod: String,
    /// The container, by the name that it has in the pod.
    pub(crate) container: String,
}

/// What only the owner of a cluster's nodes can do.
#[async_trait]
pub(crate) trait NodeAccess: Send + Sync {
    /// Sends a signal to the first process of a pod's container. To let go what has ended meanwhile is no error.
    async fn signal(&self, process: &ServerProcess, signal: Signal) -> Result<(), TargetError>;

    /// Waits until the first process of a pod's container is gone: at once where there is none. A bound that passes is an
    /// error.
    async fn await_end(&self, process: &ServerProcess, bound: Duration) -> Result<(), TargetError>;

    /// Drops every packet to a port of a pod's address, until [`Self::unblock`] of the same tag.
    async fn block(&self, node: &str, address: &str, port: u16, tag: &str) -> Result<(), TargetError>;

    /// Takes back every block of a tag.
    async fn unblock(&self, tag: &str) -> Result<(), TargetError>;

    /// Has `iptables-restore` do what each text says in the network namespace of its pod, all nearly at once.
    async fn filter(&self, texts: &[(ServerProcess, String)]) -> Result<(), TargetError>;

    /// Takes the chain of [`crate::target::netns::chain`] out of the network namespaces of pods. Where it is not, or the
    /// pod is gone, nothing is to be done.
    async fn unfilter(&self, pods: &[ServerProcess]) -> Result<(), TargetError>;

    /// Opens a stream to a port of a pod's address from within a node, for as long as the API cannot be asked for one.
    fn open(&self, node: &str, address: &str, port: u16) -> Result<BoxedStream, TargetError>;

    /// Stops the API servers, which then answer nobody, or has them go on. To have those go on that run is no error.
    async fn stop_api(&self, stop: bool) -> Result<(), TargetError>;

    /// Whether the next addresses that a node gives to pods can be chosen: there is one node, and it keeps its addresses in
    /// files, as the plugin host-local does.
    async fn can_hold_addresses(&self) -> bool;

    /// Once nobody has these two addresses any more, holds all others of their network: the next pod of a node gets the
    /// first, and the one after it the second.
    async fn hold_addresses_but(&self, node: &str, free: [&str; 2]) -> Result<(), TargetError>;

    /// Gives back every address that is held, on all nodes.
    async fn release_addresses(&self) -> Result<(), TargetError>;

    /// Freezes a node with all that runs on it, or has it go on. To have one go on that is not frozen is no error.
    async fn freeze_host(&self, node: &str, freeze: bool) -> Result<(), TargetError>;

    /// Starts a node again. Done as soon as it starts.
    async fn restart_host(&self, node: &str) -> Result<(), TargetError>;
}

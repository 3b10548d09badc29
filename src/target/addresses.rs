//! Target `addresses`: a list of host:port, made by somebody else, reached by plain TCP, never broken.

use super::{Fault, Secret, Target, TargetDescription, TargetError, TargetKind};
use crate::case::Capability;
use crate::cluster::connection::{Address, BoxedStream, Connection, LinkError};
use crate::cluster::node::Member;
use crate::cluster::view::Shape;
use crate::progress::Progress;
use crate::target::Phase;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// Servers at known addresses.
#[derive(Debug)]
pub struct AddressesTarget {
    addresses: Vec<Address>,
    password: Option<Secret>,
    shape: Shape,
    /// The servers with the addresses that their names stand for: a cluster announces addresses, and cases compare them.
    members: OnceLock<Vec<Member>>,
}

impl AddressesTarget {
    /// A target of the servers at `addresses`.
    ///
    /// # Errors
    /// When the list does not have as many addresses as the shape has nodes: every node must be asked.
    pub fn new(addresses: Vec<Address>, password: Option<Secret>, shape: Shape) -> Result<Self, TargetError> {
        if addresses.len() != shape.nodes() {
            return Err(TargetError::Usage(format!(
                "{} addresses were given, but {} masters with {} replicas each are {} nodes; name every node, or say the shape with --masters and --replicas",
                addresses.len(),
                shape.masters,
                shape.replicas_per_master,
                shape.nodes()
            )));
        }
        Ok(Self {
            addresses,
            password,
            shape,
            members: OnceLock::new(),
        })
    }
}

#[async_trait]
impl Target for AddressesTarget {
    fn description(&self) -> TargetDescription {
        let list: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        TargetDescription {
            kind: TargetKind::Addresses,
            descriptor: BTreeMap::from([("addresses".to_owned(), list.join(", "))]),
            shape: self.shape,
        }
    }

    fn capabilities(&self) -> BTreeSet<Capability> {
        BTreeSet::new()
    }

    fn is_ours(&self) -> bool {
        false
    }

    async fn prepare(&self, _progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        let mut members = Vec::new();
        for address in &self.addresses {
            let resolved = resolve(address).await?;
            members.push(Member {
                name: address.to_string(),
                address: Address::new(resolved.ip().to_string(), resolved.port()),
            });
        }
        // Which of them answer is for the cases; that at least one does is seen when the run asks what they are.
        self.members.get_or_init(|| members);
        Ok(Vec::new())
    }

    fn password(&self) -> Option<Secret> {
        self.password.clone()
    }

    async fn members(&self) -> Result<Vec<Member>, TargetError> {
        Ok(self.members.get().cloned().unwrap_or_default())
    }

    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        connect_tcp(address).await
    }

    async fn dial(&self, address: &Address) -> Result<SocketAddr, LinkError> {
        resolve(address).await
    }

    async fn inject(&self, fault: Fault, member: &Member) -> Result<(), TargetError> {
        Err(TargetError::Usage(format!(
            "{member} cannot be {}: the target is only a list of addresses",
            fault.past()
        )))
    }

    async fn undo_faults(&self) -> Result<(), TargetError> {
        Ok(())
    }

    async fn collect_evidence(&self, _folder: &Path) {}

    async fn release(&self) -> Result<(), TargetError> {
        Ok(())
    }
}

/// Opens a TCP connection to an address that is reachable as it stands.
///
/// # Errors
/// [`LinkError::Refused`] when the node does not accept; [`LinkError::Unreachable`] when the name cannot be resolved or
/// no way leads there.
pub async fn connect_tcp(address: &Address) -> Result<BoxedStream, LinkError> {
    match tokio::net::TcpStream::connect((address.host.as_str(), address.port)).await {
        Ok(stream) => {
            // Requests are small and waited for: nothing is gained by holding them back. A failure only costs speed.
            let _ = stream.set_nodelay(true);
            Ok(Box::new(stream))
        }
        Err(error) => Err(match error.kind() {
            std::io::ErrorKind::ConnectionRefused
            | std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::TimedOut => LinkError::Refused {
                address: address.clone(),
                reason: error.to_string(),
            },
            _ => LinkError::Unreachable {
                address: address.clone(),
                reason: error.to_string(),
            },
        }),
    }
}

/// Whether the server at an address answers; if not, what came instead. NOAUTH is an answer too; LOADING is not yet one.
pub(super) async fn answers(address: &Address) -> Result<(), String> {
    let stream = connect_tcp(address).await.map_err(|error| error.to_string())?;
    let mut connection = Connection::new(stream, address.clone(), Duration::from_secs(1));
    match connection.call(&["PING"]).await {
        Ok(reply) if reply.error_prefix() != Some("LOADING") => Ok(()),
        Ok(reply) => Err(reply.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The socket address of an address that is reachable as it stands.
///
/// # Errors
/// When the name cannot be resolved.
pub async fn resolve(address: &Address) -> Result<SocketAddr, LinkError> {
    let unreachable = |reason: String| LinkError::Unreachable {
        address: address.clone(),
        reason,
    };
    tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|error| unreachable(error.to_string()))?
        .next()
        .ok_or_else(|| unreachable("the name has no address".into()))
}

//! Byte streams to a pod's port: from outside the cluster through the API server, one port-forward a connection; from
//! inside straight to its address.

use super::client::chain;
use super::site::Site;
use crate::cluster::connection::{Address, BoxedStream, LinkError};
use crate::target::addresses::{connect_tcp, resolve};
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The node's kubelet connects to the port after it has accepted the forward, and tells a refusal on a channel of its own.
/// So long is that awaited before the stream is taken to be good; what comes later is seen at the first read.
const REFUSAL: Duration = Duration::from_millis(30);

/// How long a listener's connection may take to be forwarded.
const PATIENCE: Duration = Duration::from_secs(10);

type Refusal = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

impl Site {
    /// A stream to the server that has the address at present: over TLS, where its port for clients speaks that.
    pub(super) async fn open(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        let stream = self.forward(address).await?;
        if self.descriptor.tls.is_none() || address.port != self.descriptor.client_port {
            return Ok(stream);
        }
        let unreachable = |reason: String| LinkError::Unreachable {
            address: address.clone(),
            reason,
        };
        let tls = self.tls().await.map_err(|error| unreachable(error.to_string()))?;
        let pod = self
            .pod_at(address)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        tls.secure(stream, address, &pod.unwrap_or_default()).await
    }

    /// A stream to the pod that has the address at present.
    pub(super) async fn forward(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        let unreachable = |reason: String| LinkError::Unreachable {
            address: address.clone(),
            reason,
        };
        let refused = |reason: String| LinkError::Refused {
            address: address.clone(),
            reason,
        };
        let found = self
            .pod_at(address)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let Some(pod) = found else {
            return Err(refused(format!(
                "no running pod of namespace {} has this address at present",
                self.namespace
            )));
        };
        // Another pod may have got the address meanwhile: so the API is asked on both ways.
        let opened = match self.inside {
            true => connect_tcp(address).await,
            false => self.forward_to(&pod, address).await,
        };
        match opened {
            // A pod that was there a moment ago and is not there now says something about the node, not about the way.
            Err(LinkError::Unreachable { reason, .. }) => {
                self.forget_addresses();
                match self.pod_at(address).await {
                    Ok(None) => Err(refused(format!("pod {pod} has just gone ({reason})"))),
                    Ok(Some(_)) | Err(_) => Err(unreachable(reason)),
                }
            }
            forwarded => forwarded,
        }
    }

    /// A stream to the port of a pod of that name; the address is for messages.
    pub(super) async fn forward_to(&self, pod: &str, address: &Address) -> Result<BoxedStream, LinkError> {
        let unreachable = |reason: String| LinkError::Unreachable {
            address: address.clone(),
            reason: format!("port-forward to pod {pod}: {reason}"),
        };
        if self.without_api().is_some() {
            return match &self.nodes {
                Some(nodes) => {
                    let host = self.raw_pod(pod).await.ok().and_then(|pod| pod.spec?.node_name);
                    let opened = nodes.open(&host.unwrap_or_default(), &address.host, address.port);
                    opened.map_err(|error| unreachable(error.to_string()))
                }
                None => Err(unreachable("the API answers nobody".to_owned())),
            };
        }
        let mut forwarder = self
            .api::<Pod>()
            .portforward(pod, &[address.port])
            .await
            .map_err(|error| unreachable(chain(&error)))?;
        let (Some(stream), Some(refusal)) = (forwarder.take_stream(address.port), forwarder.take_error(address.port))
        else {
            return Err(unreachable("it gave no stream".to_owned()));
        };
        let mut refusal: Refusal = Box::pin(refusal);
        match tokio::time::timeout(REFUSAL, &mut refusal).await {
            Ok(Some(message)) if is_refusal(&message) => Err(LinkError::Refused {
                address: address.clone(),
                reason: short(&message),
            }),
            Ok(Some(message)) => Err(unreachable(short(&message))),
            Ok(None) => Err(unreachable("it ended at once".to_owned())),
            Err(_) => Ok(Box::new(Forwarded {
                stream,
                refusal: Some(refusal),
            })),
        }
    }
}

/// Whether the kubelet's message says that the port is closed: the node is reached, and does not accept.
fn is_refusal(message: &str) -> bool {
    message.contains("refused")
}

/// The end of the kubelet's message, which is the system's: the rest repeats ids.
fn short(message: &str) -> String {
    match message.find("dial tcp") {
        // Both families are tried; what the first one said is enough.
        Some(at) => message[at..]
            .split(" IPv6 dial")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned(),
        None => message.trim().to_owned(),
    }
}

/// A forwarded stream. When it ends because the port did not accept, reading says so instead of an ordinary end.
struct Forwarded {
    stream: DuplexStream,
    refusal: Option<Refusal>,
}

impl AsyncRead for Forwarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let ended = matches!(polled, Poll::Ready(Ok(()))) && buffer.filled().len() == before && buffer.remaining() > 0;
        if ended
            && let Some(refusal) = self.refusal.as_mut()
            && let Poll::Ready(message) = refusal.as_mut().poll(cx)
        {
            self.refusal = None;
            if let Some(message) = message {
                let kind = if is_refusal(&message) {
                    io::ErrorKind::ConnectionRefused
                } else {
                    io::ErrorKind::ConnectionAborted
                };
                return Poll::Ready(Err(io::Error::new(kind, short(&message))));
            }
        }
        polled
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Listeners on this machine, one an address, each connection to them forwarded on its own.
#[derive(Default)]
pub(super) struct Listeners {
    open: tokio::sync::Mutex<HashMap<Address, Listener>>,
}

struct Listener {
    at: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listeners {
    /// The listener for an address, made when it is asked for first.
    pub(super) async fn dial(&self, site: &Arc<Site>, address: &Address) -> Result<SocketAddr, LinkError> {
        // A client that opens its connections itself speaks no TLS: the listener does.
        if site.inside && site.descriptor.tls.is_none() {
            return resolve(address).await;
        }
        let mut open = self.open.lock().await;
        if let Some(listener) = open.get(address) {
            return Ok(listener.at);
        }
        let unreachable = |error: io::Error| LinkError::Unreachable {
            address: address.clone(),
            reason: format!("no listener on this machine: {error}"),
        };
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(unreachable)?;
        let at = socket.local_addr().map_err(unreachable)?;
        // The site owns the listener, so the listener must not keep the site.
        let task = tokio::spawn(accept(socket, Arc::downgrade(site), address.clone()));
        open.insert(address.clone(), Listener { at, task });
        Ok(at)
    }

    /// Closes all; connections that are open end with their streams.
    pub(super) async fn close(&self) {
        self.open.lock().await.clear();
    }
}

async fn accept(socket: TcpListener, site: Weak<Site>, address: Address) {
    // Dropped with the listener, which ends the connections.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept() => {
                let (Ok((mut near, _)), Some(site)) = (accepted, site.upgrade()) else { return };
                let address = address.clone();
                connections.spawn(async move {
                    // Requests are small and answered one by one: waiting to fill packets would only slow them down.
                    let _ = near.set_nodelay(true);
                    let forwarded = tokio::time::timeout(PATIENCE, site.open(&address)).await;
                    drop(site);
                    match forwarded {
                        Ok(Ok(mut far)) => {
                            // How it ended is for the client to see, by the end of its connection.
                            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%error, "a connection could not be forwarded"),
                        Err(_) => tracing::debug!(%address, "a connection was not forwarded in time"),
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_other_trouble() {
        let message = "error forwarding port 6379 to pod x, uid : failed to execute portforward in network namespace \
                       \"/var/run/netns/cni-1\": failed to dial 6379: dial tcp4 127.0.0.1:6379: connect: connection refused\n";
        assert!(is_refusal(message));
        assert!(!is_refusal("error forwarding port 6379 to pod x: no such container"));
    }
}

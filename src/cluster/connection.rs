//! One connection to one node: requests out, raw replies back, every wait bounded.

use super::resp::{ProtocolError, Reply, RespCodec};
use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::Framed;

/// Where a node serves clients, as the deployment announces it: a pod's address, a loopback port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Address {
    /// Host name or address; empty where a server announces none.
    pub host: String,
    /// The port for clients.
    pub port: u16,
}

impl Address {
    /// An address of its parts.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

impl fmt::Display for Address {
    /// `host:port` as the cluster writes it: an IPv6 address is not bracketed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = String;

    /// Splits at the last colon, since the cluster does not bracket IPv6 addresses.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("\"{text}\" is not host:port"))?;
        let port = port
            .parse()
            .map_err(|_| format!("\"{port}\" in \"{text}\" is not a port"))?;
        Ok(Self::new(host.trim_start_matches('[').trim_end_matches(']'), port))
    }
}

/// A byte stream to a node, however the target reaches it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A boxed [`Stream`].
pub type BoxedStream = Box<dyn Stream>;

/// Why a node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The node does not accept connections.
    #[error("{address}: does not accept connections: {reason}")]
    Refused {
        /// The node.
        address: Address,
        /// What the system said.
        reason: String,
    },
    /// The way to the node broke (an API server, a port-forward): nothing is known about the node itself.
    #[error("{address}: cannot be reached by the suite: {reason}")]
    Unreachable {
        /// The node.
        address: Address,
        /// What broke.
        reason: String,
    },
    /// The connection ended before the reply, or within it.
    #[error("{address}: connection closed before the {} to {command}{}", end_of(got), shown(got))]
    Closed {
        /// The node.
        address: Address,
        /// The command, without its arguments.
        command: String,
        /// What had come of the reply: its first bytes, escaped.
        got: Option<String>,
    },
    /// No reply came in time, or not the whole of it.
    #[error("{address}: no {} to {command} within {:.1} s{}", whole(got), after.as_secs_f64(), shown(got))]
    TimedOut {
        /// The node.
        address: Address,
        /// The command, without its arguments.
        command: String,
        /// How long was waited.
        after: Duration,
        /// What had come of the reply: its first bytes, escaped.
        got: Option<String>,
    },
    /// The reply is not of the form that the command has.
    #[error("{address}: unexpected reply to {command}: {reason}")]
    Nonsense {
        /// The node.
        address: Address,
        /// The command, without its arguments.
        command: String,
        /// What is wrong with the reply.
        reason: String,
    },
}

/// The most characters of a reason that are kept: a server's words are shown, not repeated at any length.
const LONGEST_REASON: usize = 600;

fn end_of(got: &Option<String>) -> &'static str {
    if got.is_some() { "end of the reply" } else { "reply" }
}

fn whole(got: &Option<String>) -> &'static str {
    if got.is_some() { "whole reply" } else { "reply" }
}

fn shown(got: &Option<String>) -> String {
    got.as_ref().map_or_else(String::new, |got| format!("; {got} came"))
}

impl LinkError {
    /// The node that could not be asked.
    pub fn address(&self) -> &Address {
        match self {
            Self::Refused { address, .. }
            | Self::Unreachable { address, .. }
            | Self::Closed { address, .. }
            | Self::TimedOut { address, .. }
            | Self::Nonsense { address, .. } => address,
        }
    }
}

/// One connection to one node.
pub struct Connection {
    framed: Framed<BoxedStream, RespCodec>,
    address: Address,
    patience: Duration,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Speaks RESP over `stream`; no reply is waited for longer than `patience`.
    pub fn new(stream: BoxedStream, address: Address, patience: Duration) -> Self {
        Self {
            framed: Framed::new(stream, RespCodec::default()),
            address,
            patience,
        }
    }

    /// The node at the other end.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The same connection, with another limit for replies.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The same connection, for replies of up to `bytes`.
    pub fn with_longest_reply(mut self, bytes: usize) -> Self {
        self.framed.codec_mut().accept_up_to(bytes);
        self
    }

    /// What a node has sent that was not asked for, or not yet received: its first bytes, escaped.
    pub fn unread(&self) -> Option<String> {
        self.framed.codec().so_far(self.framed.read_buffer())
    }

    /// Sends one command and waits for nothing: [`Self::receive`] takes what comes.
    ///
    /// # Errors
    /// When it cannot be sent: the connection is then of no further use.
    pub async fn send<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<(), LinkError> {
        let sent = tokio::time::timeout(self.patience, self.framed.send(command)).await;
        self.finish(sent.map(|sent| sent.map(Some)), command_name(command))
    }

    /// Sends commands, all at once, and waits for nothing: [`Self::receive`] takes the answers, in their order.
    ///
    /// # Errors
    /// As [`Self::send`]: some may have been sent.
    pub async fn send_all<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Result<(), LinkError> {
        let sent = tokio::time::timeout(self.patience, feed_all(&mut self.framed, commands)).await;
        self.finish(
            sent.map(|sent| sent.map(Some)),
            commands.first().map_or_else(String::new, |first| command_name(first)),
        )
    }

    /// The next reply, or message of a subscription.
    ///
    /// # Errors
    /// When none comes within the connection's patience, or the connection ends. After [`LinkError::TimedOut`] it is
    /// still of use.
    pub async fn receive(&mut self) -> Result<Reply, LinkError> {
        let patience = self.patience;
        let reply = async { self.framed.next().await.transpose() };
        let reply = tokio::time::timeout(patience, reply).await;
        self.finish(reply, "an earlier command".into())
    }

    /// Sends one command and returns its reply, whatever it is.
    ///
    /// # Errors
    /// When no whole reply comes: the connection is then of no further use.
    pub async fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Reply, LinkError> {
        let name = command_name(command);
        let patience = self.patience;
        let exchange = async {
            self.framed.send(command).await?;
            self.framed.next().await.transpose()
        };
        let reply = tokio::time::timeout(patience, exchange).await;
        self.finish(reply, name)
    }

    /// Sends all commands at once and returns their replies in order.
    ///
    /// # Errors
    /// When not every reply comes within the patience of one command for the whole batch.
    pub async fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Result<Vec<Reply>, LinkError> {
        let name = format!("a pipeline of {} commands", commands.len());
        let patience = self.patience;
        let exchange = async {
            feed_all(&mut self.framed, commands).await?;
            let mut replies = Vec::with_capacity(commands.len());
            while replies.len() < commands.len() {
                match self.framed.next().await.transpose()? {
                    Some(reply) => replies.push(reply),
                    None => return Ok(None),
                }
            }
            Ok(Some(replies))
        };
        let replies = tokio::time::timeout(patience, exchange).await;
        self.finish(replies, name)
    }

    /// [`Self::call`], with an error reply made a [`LinkError::Nonsense`]: for questions that every node must answer.
    ///
    /// # Errors
    /// As [`Self::call`], and when the node answers with an error.
    pub async fn ask<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Reply, LinkError> {
        match self.call(command).await? {
            Reply::Error(text) => Err(self.nonsense(&command_name(command), text)),
            reply @ (Reply::Simple(_) | Reply::Integer(_) | Reply::Bulk(_) | Reply::Array(_) | Reply::Nil) => Ok(reply),
        }
    }

    /// The text reply to a question that every node must answer with text.
    ///
    /// # Errors
    /// As [`Self::ask`], and when the reply is not text.
    pub async fn ask_text<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<String, LinkError> {
        let reply = self.ask(command).await?;
        match reply.text() {
            Some(text) => Ok(text.to_owned()),
            None => Err(self.nonsense(&command_name(command), format!("{reply} where text belongs"))),
        }
    }

    /// What the node says of a directive (`CONFIG GET`); nothing where it does not know it, or lets nobody ask.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn setting(&mut self, directive: &str) -> Result<Option<String>, LinkError> {
        let reply = self.call(&["CONFIG", "GET", directive]).await?;
        Ok(reply.array().and_then(|items| items.get(1)?.text().map(str::to_owned)))
    }

    /// A [`LinkError::Nonsense`] about this node.
    pub fn nonsense(&self, command: &str, reason: impl Into<String>) -> LinkError {
        LinkError::Nonsense {
            address: self.address.clone(),
            command: command.to_owned(),
            reason: bounded(reason.into()),
        }
    }

    fn finish<T>(
        &self,
        result: Result<Result<Option<T>, ProtocolError>, tokio::time::error::Elapsed>,
        command: String,
    ) -> Result<T, LinkError> {
        // Only asked for where something went wrong: there may be tens of thousands of replies a second.
        let (address, got) = (|| self.address.clone(), || self.unread());
        match result {
            Ok(Ok(Some(value))) => Ok(value),
            // A port-forward tells a refusal only after it has been opened.
            Ok(Err(ProtocolError::Io(error))) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Err(LinkError::Refused {
                    address: address(),
                    reason: error.to_string(),
                })
            }
            Ok(Ok(None)) | Ok(Err(ProtocolError::Io(_))) => Err(LinkError::Closed {
                address: address(),
                command,
                got: got(),
            }),
            Ok(Err(ProtocolError::Nonsense(reason))) => Err(LinkError::Nonsense {
                address: address(),
                command,
                reason: bounded(reason),
            }),
            Err(_) => Err(LinkError::TimedOut {
                address: address(),
                command,
                after: self.patience,
                got: got(),
            }),
        }
    }
}

/// Sends commands, all at once.
async fn feed_all<A: AsRef<[u8]>>(
    framed: &mut Framed<BoxedStream, RespCodec>,
    commands: &[Vec<A>],
) -> Result<(), ProtocolError> {
    for command in commands {
        framed.feed(command.as_slice()).await?;
    }
    SinkExt::<&[A]>::flush(framed).await
}

/// A reason of at most [`LONGEST_REASON`] characters.
fn bounded(mut reason: String) -> String {
    let count = reason.chars().count();
    if let Some((at, _)) = reason.char_indices().nth(LONGEST_REASON) {
        reason.truncate(at);
        reason.push_str(&format!("… ({count} characters)"));
    }
    reason
}

/// A command's name for messages. Never its arguments (one may be a password), but for the subcommand of containers.
fn command_name<A: AsRef<[u8]>>(command: &[A]) -> String {
    let word = |index: usize| {
        command
            .get(index)
            .map(|argument| String::from_utf8_lossy(argument.as_ref()).to_uppercase())
            .unwrap_or_default()
    };
    match word(0).as_str() {
        container @ ("CLUSTER" | "CONFIG" | "CLIENT" | "INFO" | "DEBUG") => {
            format!("{container} {}", word(1)).trim().to_owned()
        }
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("10.0.0.1:6379", "10.0.0.1", 6379)]
    #[case("fd00::5:6379", "fd00::5", 6379)]
    #[case("[fd00::5]:6379", "fd00::5", 6379)]
    #[case(":6379", "", 6379)]
    fn splits_at_the_last_colon(#[case] text: &str, #[case] host: &str, #[case] port: u16) {
        assert_eq!(text.parse(), Ok(Address::new(host, port)));
    }

    #[test]
    fn a_command_name_never_holds_a_password() {
        assert_eq!(command_name(&["AUTH", "default", "hunter2"]), "AUTH");
        assert_eq!(command_name(&["CONFIG", "SET", "requirepass", "hunter2"]), "CONFIG SET");
    }

    #[tokio::test]
    async fn silence_is_bounded_and_named() {
        let (near, _far) = tokio::io::duplex(64);
        let mut connection = Connection::new(Box::new(near), Address::new("h", 1), Duration::from_millis(20));
        let error = connection.call(&["PING"]).await.unwrap_err();
        assert_eq!(error.to_string(), "h:1: no reply to PING within 0.0 s");
    }

    /// What a call says of a server that sends `bytes`, and then stays silent or hangs up.
    async fn told(bytes: &[u8], hangs_up: bool) -> String {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut connection = Connection::new(Box::new(near), Address::new("h", 1), Duration::from_millis(20));
        tokio::io::AsyncWriteExt::write_all(&mut far, bytes).await.unwrap();
        if hangs_up {
            tokio::io::AsyncWriteExt::shutdown(&mut far).await.unwrap();
        }
        connection.call(&["PING"]).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn half_a_reply_is_shown() {
        let half = b"*2\r\n+a\r\n$9\r\nb";
        let shown = r#""*2\r\n+a\r\n$9\r\nb" came"#;
        assert_eq!(
            told(half, false).await,
            format!("h:1: no whole reply to PING within 0.0 s; {shown}")
        );
        assert_eq!(
            told(half, true).await,
            format!("h:1: connection closed before the end of the reply to PING; {shown}")
        );
        assert_eq!(told(b"", true).await, "h:1: connection closed before the reply to PING");
    }

    #[test]
    fn a_reason_is_bounded() {
        let bounded = bounded("ü".repeat(5000));
        assert!(bounded.chars().count() < 630 && bounded.ends_with("… (5000 characters)"));
    }
}

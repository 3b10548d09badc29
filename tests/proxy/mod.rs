//! A proxy of RESP before a real node, that alters one kind of reply: for faults that no server can be made to have.
//!
//! Requests pass unaltered, one at a time; a reply is altered on its way back.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use redis_cluster_conformance::cluster::connection::{Address, BoxedStream};
use redis_cluster_conformance::cluster::resp::{Reply, RespCodec};
use std::cell::Cell;
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_util::codec::Framed;

/// How much of a direction is held while the other end does not read.
const BUFFER: usize = 64 * 1024;

/// What becomes of a reply.
pub(crate) type Alter = fn(&Exchange<'_>, Reply) -> Reply;

/// A request and what is known of its connection, beside its reply.
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    /// The node, counted from 0: masters first, then their replicas.
    pub(crate) node: usize,
    /// The addresses of all nodes, in that order.
    pub(crate) addresses: &'a [Address],
    /// Whether the connection has authenticated.
    pub(crate) authenticated: bool,
    /// Whether `READONLY` was sent.
    pub(crate) readonly: bool,
    command: &'a [Bytes],
    hung_up: Cell<bool>,
}

impl Exchange<'_> {
    /// Whether the request begins with these words.
    pub(crate) fn is(&self, words: &str) -> bool {
        let mut given = self.command.iter();
        words.split(' ').all(|word| {
            given
                .next()
                .is_some_and(|given| given.eq_ignore_ascii_case(word.as_bytes()))
        })
    }

    /// Closes the connection in the reply's place.
    pub(crate) fn hang_up(&self) {
        self.hung_up.set(true);
    }

    /// An argument of the request; its name is the first.
    pub(crate) fn argument(&self, index: usize) -> &[u8] {
        self.command.get(index).map_or(&[], |argument| argument.as_ref())
    }
}

/// A stream that leads to `far` through the proxy. It ends when either end does.
pub(crate) fn before(far: BoxedStream, node: usize, addresses: Arc<[Address]>, alter: Alter) -> BoxedStream {
    let (near, inner) = tokio::io::duplex(BUFFER);
    tokio::spawn(relay(inner, far, node, addresses, alter));
    Box::new(near)
}

async fn relay(near: DuplexStream, far: BoxedStream, node: usize, addresses: Arc<[Address]>, alter: Alter) {
    let mut client = Framed::new(near, RespCodec);
    let mut server = Framed::new(far, RespCodec);
    let (mut authenticated, mut readonly) = (false, false);
    // A request has the form of a reply: an array of bulk strings.
    while let Some(Ok(Reply::Array(words))) = client.next().await {
        let command: Vec<Bytes> = words
            .iter()
            .map(|word| Bytes::copy_from_slice(word.bytes().unwrap_or_default()))
            .collect();
        if server.send(command.as_slice()).await.is_err() {
            return;
        }
        let Some(Ok(reply)) = server.next().await else {
            return;
        };
        let mut exchange = Exchange {
            node,
            addresses: &addresses,
            authenticated,
            readonly,
            command: &command,
            hung_up: Cell::new(false),
        };
        authenticated |= exchange.is("AUTH") && reply.is_ok();
        readonly |= exchange.is("READONLY") && reply.is_ok();
        (exchange.authenticated, exchange.readonly) = (authenticated, readonly);
        let mut bytes = Vec::new();
        encode(&alter(&exchange, reply), &mut bytes);
        let hung_up = exchange.hung_up.get();
        if hung_up || client.get_mut().write_all(&bytes).await.is_err() {
            return;
        }
    }
}

fn encode(reply: &Reply, out: &mut Vec<u8>) {
    match reply {
        Reply::Simple(text) => out.extend(format!("+{text}\r\n").bytes()),
        Reply::Error(text) => out.extend(format!("-{text}\r\n").bytes()),
        Reply::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
        Reply::Nil => out.extend(b"$-1\r\n"),
        Reply::Bulk(bytes) => {
            out.extend(format!("${}\r\n", bytes.len()).bytes());
            out.extend(bytes);
            out.extend(b"\r\n");
        }
        Reply::Array(items) => {
            out.extend(format!("*{}\r\n", items.len()).bytes());
            items.iter().for_each(|item| encode(item, out));
        }
    }
}

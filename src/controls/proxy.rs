//! A proxy of RESP before a real node, that alters one kind of reply: for faults that no server can be made to have.
//!
//! Requests pass unaltered; a reply is altered on its way back, and so is a message of a subscription. Or the proxy answers itself, and the server
//! never sees the request.

use crate::cluster::connection::{Address, BoxedStream};
use crate::cluster::resp::{Reply, RespCodec};
use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_util::codec::Framed;

/// How much of a direction is held while the other end does not read.
const BUFFER: usize = 64 * 1024;

/// What becomes of a reply.
pub(super) type Alter = fn(&Exchange<'_>, Reply) -> Reply;

/// What the proxy answers itself, where it does.
pub(super) type Answer = fn(&Exchange<'_>) -> Option<Reply>;

/// What a proxy does.
#[derive(Clone, Copy)]
pub(super) enum Meddling {
    /// It alters replies.
    Alters(Alter),
    /// It answers in the server's place.
    Answers(Answer),
}

/// A request and what is known of its connection, beside its reply.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    /// The node, counted from 0: masters first, then their replicas.
    pub(super) node: usize,
    /// The addresses of all nodes, in that order.
    pub(super) addresses: &'a [Address],
    /// Whether the connection has authenticated.
    pub(super) authenticated: bool,
    /// Whether `READONLY` was sent.
    pub(super) readonly: bool,
    /// The commands of this connection before this one that put it, or a slot, into a mode: `ASKING`, `CLUSTER SETSLOT …`.
    earlier: &'a [String],
    command: &'a [Bytes],
    hung_up: Cell<bool>,
    copies: Cell<usize>,
}

impl Exchange<'_> {
    /// Whether the request begins with these words.
    pub(super) fn is(&self, words: &str) -> bool {
        let mut given = self.command.iter();
        words.split(' ').all(|word| {
            given
                .next()
                .is_some_and(|given| given.eq_ignore_ascii_case(word.as_bytes()))
        })
    }

    /// Whether an earlier command of this connection began with these words: `ASKING`, `CLUSTER SETSLOT 7 IMPORTING`.
    pub(super) fn sent(&self, words: &str) -> bool {
        self.earlier.iter().any(|command| command.starts_with(words))
    }

    /// Closes the connection in the reply's place.
    pub(super) fn hang_up(&self) {
        self.hung_up.set(true);
    }

    /// Passes the reply, or the message, on `copies` times: never, or more than once.
    pub(super) fn pass_on(&self, copies: usize) {
        self.copies.set(copies);
    }

    /// An argument of the request; its name is the first.
    pub(super) fn argument(&self, index: usize) -> &[u8] {
        self.command.get(index).map_or(&[], |argument| argument.as_ref())
    }
}

/// A stream that leads to `far` through the proxy. It ends when either end does.
pub(super) fn before(far: BoxedStream, node: usize, addresses: Arc<[Address]>, meddling: Meddling) -> BoxedStream {
    let (near, inner) = tokio::io::duplex(BUFFER);
    tokio::spawn(relay(inner, far, node, addresses, meddling));
    Box::new(near)
}

/// One connection through a proxy.
struct Relay {
    node: usize,
    addresses: Arc<[Address]>,
    meddling: Meddling,
    authenticated: bool,
    readonly: bool,
    earlier: Vec<String>,
    /// What was asked and has no answer yet, each with the proxy's own answer where it has one.
    asked: VecDeque<(Vec<Bytes>, Option<Reply>)>,
    /// The request that made messages come.
    subscription: Option<Vec<Bytes>>,
}

/// Passes on what comes from either end, as much at once as there is: a pipeline stays one.
async fn relay(near: DuplexStream, far: BoxedStream, node: usize, addresses: Arc<[Address]>, meddling: Meddling) {
    let mut client = Framed::new(near, RespCodec::default());
    let mut server = Framed::new(far, RespCodec::default());
    let mut relay = Relay {
        node,
        addresses,
        meddling,
        authenticated: false,
        readonly: false,
        earlier: Vec::new(),
        asked: VecDeque::new(),
        subscription: None,
    };
    let mut bytes = Vec::new();
    let mut open = true;
    while open {
        tokio::select! {
            request = client.next() => {
                let mut next = Some(request);
                while let Some(request) = next {
                    // A request has the form of a reply: an array of bulk strings.
                    let Some(Ok(Reply::Array(words))) = request else {
                        return;
                    };
                    if let Some(command) = relay.request(&words)
                        && server.feed(command.as_slice()).await.is_err()
                    {
                        return;
                    }
                    next = client.next().now_or_never();
                }
                if SinkExt::<&[Bytes]>::flush(&mut server).await.is_err() {
                    return;
                }
            }
            reply = server.next() => {
                let mut next = Some(reply);
                while let Some(reply) = next {
                    let Some(Ok(reply)) = reply else {
                        open = false;
                        break;
                    };
                    open &= relay.reply(reply, &mut bytes);
                    next = if open { server.next().now_or_never() } else { None };
                }
            }
        }
        open &= relay.own_answers(&mut bytes);
        if client.get_mut().write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
    }
}

impl Relay {
    fn exchange<'a>(&'a self, command: &'a [Bytes]) -> Exchange<'a> {
        Exchange {
            node: self.node,
            addresses: &self.addresses,
            authenticated: self.authenticated,
            readonly: self.readonly,
            earlier: &self.earlier,
            command,
            hung_up: Cell::new(false),
            copies: Cell::new(1),
        }
    }

    /// Takes a request of the client; what is to be sent to the server, unless the proxy answers in its place.
    fn request(&mut self, words: &[Reply]) -> Option<Vec<Bytes>> {
        let command: Vec<Bytes> = words
            .iter()
            .map(|word| Bytes::copy_from_slice(word.bytes().unwrap_or_default()))
            .collect();
        let own = match self.meddling {
            Meddling::Answers(answer) => answer(&self.exchange(&command)),
            Meddling::Alters(_) => None,
        };
        if subscribes(&command) {
            self.subscription = Some(command.clone());
        }
        let sent = own.is_none().then(|| command.clone());
        self.asked.push_back((command, own));
        sent
    }

    /// Takes a reply of the server and adds what becomes of it to `bytes`; whether the connection stays open.
    fn reply(&mut self, reply: Reply, bytes: &mut Vec<u8>) -> bool {
        if !self.own_answers(bytes) {
            return false;
        }
        // A message was not asked for: it belongs to the subscription.
        let of_subscription = self
            .subscription
            .as_ref()
            .filter(|_| self.asked.is_empty() || reply.is_message());
        let command = match of_subscription {
            Some(subscription) => subscription.clone(),
            None => self.asked.pop_front().map(|(command, _)| command).unwrap_or_default(),
        };
        self.pass(&command, reply, bytes)
    }

    /// Adds the proxy's own answers whose turn it is; whether the connection stays open.
    fn own_answers(&mut self, bytes: &mut Vec<u8>) -> bool {
        while self.asked.front().is_some_and(|(_, own)| own.is_some())
            && let Some((command, Some(own))) = self.asked.pop_front()
        {
            if !self.pass(&command, own, bytes) {
                return false;
            }
        }
        true
    }

    /// Adds what becomes of a reply to `bytes`; whether the connection stays open.
    fn pass(&mut self, command: &[Bytes], reply: Reply, bytes: &mut Vec<u8>) -> bool {
        let before = self.exchange(command);
        let by_hello = before.is("HELLO") && command.len() > 2 && reply.error().is_none();
        let authenticated = by_hello || (before.is("AUTH") && reply.is_ok());
        let readonly = before.is("READONLY") && reply.is_ok();
        self.authenticated |= authenticated;
        self.readonly |= readonly;
        let exchange = self.exchange(command);
        let reply = match self.meddling {
            Meddling::Alters(alter) => alter(&exchange, reply),
            Meddling::Answers(_) => reply,
        };
        let (copies, hung_up) = (exchange.copies.get(), exchange.hung_up.get());
        if exchange.is("ASKING") || exchange.is("CLUSTER SETSLOT") {
            let words: Vec<String> = command
                .iter()
                .map(|word| String::from_utf8_lossy(word).to_uppercase())
                .collect();
            self.earlier.push(words.join(" "));
        }
        if !hung_up {
            (0..copies).for_each(|_| reply.encode(bytes));
        }
        !hung_up
    }
}

/// Whether a request makes messages come on its connection.
fn subscribes(command: &[Bytes]) -> bool {
    let names = ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR"];
    let name = command.first().map_or(&[] as &[u8], |name| name.as_ref());
    names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

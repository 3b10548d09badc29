//! A stand-in: a listener on loopback before a real server, which answers some requests itself, changes others, and
//! alters replies. What it does is its shape's to say (`shapes.rs`).

use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt};
use redis_cluster_conformance::cluster::resp::{Reply, RespCodec};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::Framed;

/// A server and its stand-in.
#[derive(Debug)]
pub(crate) struct Node {
    /// The port of the real server.
    pub(crate) real: u16,
    /// The port that the stand-in serves, and that it says is the server's.
    pub(crate) shown: u16,
    /// The node's id.
    pub(crate) id: String,
    /// For a replica: the number of its master.
    pub(crate) master: Option<usize>,
    /// For a master: the first and the last of its slots.
    pub(crate) slots: Option<(u16, u16)>,
}

/// What is known of a request.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// All nodes: masters first, then their replicas.
    pub(crate) nodes: &'a [Node],
    /// The number of the one that is asked.
    pub(crate) at: usize,
    /// The request's words.
    pub(crate) words: &'a [Bytes],
    /// Whether `READWRITE` was the last of `READONLY` and `READWRITE`.
    pub(crate) readwrite: bool,
}

impl Asked<'_> {
    /// Whether the request begins with these words.
    pub(crate) fn is(&self, words: &str) -> bool {
        let mut given = self.words.iter();
        words.split(' ').all(|word| {
            given
                .next()
                .is_some_and(|given| given.eq_ignore_ascii_case(word.as_bytes()))
        })
    }

    /// A word of the request, in capitals; empty where there is none.
    pub(crate) fn word(&self, index: usize) -> String {
        let word = self.words.get(index).map_or(&[] as &[u8], |word| word.as_ref());
        String::from_utf8_lossy(word).to_uppercase()
    }

    /// The node that is asked.
    pub(crate) fn node(&self) -> &Node {
        &self.nodes[self.at]
    }
}

/// What a kind of implementation does otherwise than the real server behind it.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Its name, and that of its golden file.
    pub(crate) name: &'static str,
    /// Masters, and replicas of each.
    pub(crate) masters: usize,
    /// Replicas of each master.
    pub(crate) replicas: usize,
    /// What the real servers' redis.conf has.
    pub(crate) conf: &'static str,
    /// Replicas execute reads whether `READONLY` was sent or not.
    pub(crate) replicas_read: bool,
    /// A message reaches the subscribers of the node alone to which it was published.
    pub(crate) publishes_alone: bool,
    /// What it answers itself, to a client that has authenticated.
    pub(crate) answers: fn(&Asked<'_>) -> Option<Reply>,
    /// What becomes of the server's own reply.
    pub(crate) alters: fn(&Asked<'_>, Reply) -> Reply,
}

/// Serves one node for as long as the runtime lives.
pub(crate) fn serve(listener: std::net::TcpListener, nodes: Arc<[Node]>, at: usize, shape: Shape) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let nodes = nodes.clone();
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(("127.0.0.1", nodes[at].real)).await else {
                    return;
                };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let session = Session {
                    client: Framed::new(client, RespCodec::default()),
                    server: Framed::new(server, RespCodec::default()),
                    nodes,
                    at,
                    shape,
                    authenticated: false,
                    readwrite: false,
                    subscribed: false,
                };
                // A client may go at any time.
                let _ = session.relay().await;
            });
        }
    });
}

/// One connection.
struct Session {
    client: Framed<TcpStream, RespCodec>,
    server: Framed<TcpStream, RespCodec>,
    nodes: Arc<[Node]>,
    at: usize,
    shape: Shape,
    authenticated: bool,
    readwrite: bool,
    subscribed: bool,
}

/// A request that has no answer yet.
struct Request {
    words: Vec<Bytes>,
    /// The stand-in's own answer, where it has one.
    own: Option<Reply>,
    is_auth: bool,
    subscribes: bool,
}

impl Session {
    async fn relay(mut self) -> Option<()> {
        loop {
            tokio::select! {
                request = self.client.next() => {
                    // A pipeline stays one.
                    let mut asked = vec![self.ask(request?.ok()?).await?];
                    while !asked.last()?.is_auth
                        && let Some(Some(request)) = self.client.next().now_or_never()
                    {
                        asked.push(self.ask(request.ok()?).await?);
                    }
                    SinkExt::<&[Bytes]>::flush(&mut self.server).await.ok()?;
                    let mut bytes = Vec::new();
                    for request in asked {
                        self.answer(request, &mut bytes).await?;
                    }
                    self.client.get_mut().write_all(&bytes).await.ok()?;
                }
                reply = self.server.next() => {
                    let mut bytes = Vec::new();
                    self.shown(reply?.ok()?).encode(&mut bytes);
                    self.client.get_mut().write_all(&bytes).await.ok()?;
                }
            }
        }
    }

    /// Takes a request: it goes to the server, unless the stand-in answers it.
    async fn ask(&mut self, request: Reply) -> Option<Request> {
        let given = request.array()?.iter();
        let words: Vec<Bytes> = given
            .map(|word| Bytes::copy_from_slice(word.bytes().unwrap_or_default()))
            .collect();
        let asked = self.asked(&words);
        self.readwrite = asked.is("READWRITE") || (self.readwrite && !asked.is("READONLY"));
        let asked = self.asked(&words);
        let subscribes = ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR"].contains(&asked.word(0).as_str());
        let is_auth = asked.is("AUTH") || (asked.is("HELLO") && words.len() > 2);
        let own = (self.authenticated).then(|| (self.shape.answers)(&asked)).flatten();
        if own.is_none() {
            let sent = self.renamed(&words);
            self.server.feed(sent.as_slice()).await.ok()?;
        }
        self.subscribed |= subscribes;
        Some(Request {
            words,
            own,
            is_auth,
            subscribes,
        })
    }

    /// Adds what becomes of the reply to a request.
    async fn answer(&mut self, request: Request, bytes: &mut Vec<u8>) -> Option<()> {
        if request.subscribes {
            // Its confirmations and messages come as they do.
            return Some(());
        }
        let reply = match request.own {
            Some(own) => own,
            None => loop {
                let reply = self.server.next().await?.ok()?;
                if !(self.subscribed && reply.is_message()) {
                    break reply;
                }
                self.shown(reply).encode(bytes);
            },
        };
        if request.is_auth && reply.error().is_none() {
            self.authenticated = true;
            if self.shape.replicas_read && self.nodes[self.at].master.is_some() {
                self.server.send(["READONLY"].as_slice()).await.ok()?;
                self.server.next().await?.ok()?;
            }
        }
        let altered = (self.shape.alters)(&self.asked(&request.words), reply);
        self.shown(altered).encode(bytes);
        Some(())
    }

    fn asked<'a>(&'a self, words: &'a [Bytes]) -> Asked<'a> {
        Asked {
            nodes: &self.nodes,
            at: self.at,
            words,
            readwrite: self.readwrite,
        }
    }

    /// The request as the server gets it: a channel of a node that publishes alone has the node's number in its name.
    fn renamed(&self, words: &[Bytes]) -> Vec<Bytes> {
        let asked = self.asked(words);
        let channels = match asked.word(0).as_str() {
            "SUBSCRIBE" | "UNSUBSCRIBE" => 1..words.len(),
            "PUBLISH" => 1..2.min(words.len()),
            _ => 0..0,
        };
        let suffix = self.suffix();
        let renamed = words.iter().enumerate().map(|(index, word)| {
            if self.shape.publishes_alone && channels.contains(&index) {
                Bytes::from([word.as_ref(), suffix.as_bytes()].concat())
            } else {
                word.clone()
            }
        });
        renamed.collect()
    }

    fn suffix(&self) -> String {
        format!("@at-{}", self.at)
    }

    /// The reply with the stand-ins in the place of the servers.
    fn shown(&self, reply: Reply) -> Reply {
        let suffix = self.suffix();
        let text = |text: &str| {
            let text = text.strip_suffix(suffix.as_str()).unwrap_or(text);
            self.nodes.iter().fold(text.to_owned(), |text, node| {
                let (real, shown) = (node.real, node.shown);
                let (bus, shown_bus) = (u32::from(real) + 10000, u32::from(shown) + 10000);
                if text == real.to_string() {
                    return shown.to_string();
                }
                text.replace(&format!("127.0.0.1:{real}"), &format!("127.0.0.1:{shown}"))
                    .replace(&format!("port={real},"), &format!("port={shown},"))
                    .replace(&format!("port:{real}\r"), &format!("port:{shown}\r"))
                    .replace(&format!("@{bus}"), &format!("@{shown_bus}"))
            })
        };
        match reply {
            Reply::Simple(simple) => Reply::Simple(text(&simple)),
            Reply::Error(error) => Reply::Error(text(&error)),
            Reply::Bulk(bytes) => match std::str::from_utf8(&bytes) {
                Ok(bulk) => Reply::Bulk(Bytes::from(text(bulk))),
                Err(_) => Reply::Bulk(bytes),
            },
            Reply::Integer(number) => match self.nodes.iter().find(|node| i64::from(node.real) == number) {
                Some(node) => Reply::Integer(node.shown.into()),
                None => Reply::Integer(number),
            },
            Reply::Array(items) => Reply::Array(items.into_iter().map(|item| self.shown(item)).collect()),
            Reply::Nil => Reply::Nil,
        }
    }
}

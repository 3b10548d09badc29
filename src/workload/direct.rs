//! Writers that each know one node only, and ask it whatever it is at the moment: what the node itself acknowledges or
//! refuses, and when.

use super::{Fate, Ledger, PACE, PATIENCE, Write, open};
use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::context::Context;
use crate::target::Target;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Writers at work, one a node. When dropped, they end by themselves.
#[derive(Debug)]
pub struct DirectWriter {
    stop: watch::Sender<bool>,
    tasks: Vec<(String, JoinHandle<Ledger>)>,
}

impl DirectWriter {
    /// The key of the ledger that is written through a node.
    pub fn key(cx: &Context, slot: u16, node: &Member) -> String {
        cx.key_in(slot, &format!("by-{}", node.name))
    }

    /// Starts writing to a ledger of each node, all of one slot.
    pub fn start(cx: &Context, nodes: &[Member], slot: u16) -> Self {
        let (stop, stopped) = watch::channel(false);
        let tasks = nodes.iter().map(|node| {
            let ledger = Ledger {
                slot,
                key: Self::key(cx, slot, node),
                writes: Vec::new(),
            };
            let one = One {
                target: cx.shared().target.clone(),
                node: node.clone(),
                connection: None,
            };
            (node.name.clone(), tokio::spawn(one.write_on(ledger, stopped.clone())))
        });
        Self {
            tasks: tasks.collect(),
            stop,
        }
    }

    /// Stops, and returns what was written through each node, by its name.
    pub async fn stop(self) -> Vec<(String, Ledger)> {
        // The receivers may be gone: then the tasks have ended.
        let _ = self.stop.send(true);
        let mut ledgers = Vec::new();
        for (name, task) in self.tasks {
            if let Ok(ledger) = task.await {
                ledgers.push((name, ledger));
            }
        }
        ledgers
    }
}

struct One {
    target: Arc<dyn Target>,
    node: Member,
    connection: Option<Connection>,
}

impl One {
    async fn write_on(mut self, mut ledger: Ledger, mut stopped: watch::Receiver<bool>) -> Ledger {
        for number in 0.. {
            let fate = match self.write(&ledger.key, number).await {
                Ok(Reply::Integer(_)) => Fate::Acked,
                Ok(reply) => Fate::Refused(reply.to_string()),
                Err(error @ (LinkError::Refused { .. } | LinkError::Unreachable { .. })) => {
                    Fate::Unsent(error.to_string())
                }
                Err(error @ (LinkError::Closed { .. } | LinkError::TimedOut { .. } | LinkError::Nonsense { .. })) => {
                    Fate::Indeterminate(error.to_string())
                }
            };
            ledger.writes.push(Write {
                number,
                at: Instant::now(),
                fate,
                redirections: 0,
            });
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(PACE) => {}
            }
        }
        ledger
    }

    async fn write(&mut self, key: &str, number: u64) -> Result<Reply, LinkError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                // A server that was replaced has its name still, but perhaps another address.
                if let Ok(members) = self.target.members().await
                    && let Some(now) = members.into_iter().find(|member| member.name == self.node.name)
                {
                    self.node = now;
                }
                open(&*self.target, PATIENCE, &self.node.address).await?
            }
        };
        let reply = connection.call(&["RPUSH", key, &number.to_string()]).await?;
        self.connection = Some(connection);
        Ok(reply)
    }
}

//! The way of a client to the owner of a key: it follows redirections, and starts anew at another node when its own is gone.

use super::{MOST_REDIRECTIONS, PATIENCE};
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::redirect::{Redirect, RedirectKind};
use crate::cluster::resp::Reply;
use crate::context::{Context, authenticate};
use crate::target::Target;
use crate::verdict::Stop;
use std::sync::Arc;
use std::time::Duration;

/// Asks whoever owns a command's key, beginning at one node after another until one gives an answer that is `wanted`, or
/// none is left; the way to the owner, and the last answer.
pub(super) async fn ask_owner<A: AsRef<[u8]>>(
    cx: &Context,
    command: &[A],
    wanted: impl Fn(&Reply) -> bool,
) -> Result<(Route, Reply), Stop> {
    let mut route = Route::new(cx.shared().target.clone());
    let members = cx.members().await?;
    route.entries = members.into_iter().map(|member| member.address).collect();
    route.patience = cx.patience();
    let mut reply = route.follow(command).await;
    for _ in 1..route.entries.len() {
        if reply.as_ref().is_ok_and(&wanted) {
            break;
        }
        // A node that has lost the cluster, or its way, does not speak for the others.
        reply = route.follow(command).await;
    }
    Ok((route, reply?))
}

/// One client's way to the owner of one slot.
pub(super) struct Route {
    pub(super) target: Arc<dyn Target>,
    pub(super) entries: Vec<Address>,
    next_entry: usize,
    pub(super) connection: Option<Connection>,
    /// Whether the connection leads to the key's owner: it has executed a command, or was redirected to.
    pub(super) knows_owner: bool,
    /// How many redirections the last command followed.
    pub(super) redirections: usize,
    pub(super) patience: Duration,
}

impl Route {
    pub(super) fn new(target: Arc<dyn Target>) -> Self {
        Self {
            target,
            entries: Vec::new(),
            next_entry: 0,
            connection: None,
            knows_owner: false,
            redirections: 0,
            patience: PATIENCE,
        }
    }

    /// Sends a command to the owner of its key, following at most [`MOST_REDIRECTIONS`].
    pub(super) async fn follow<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Reply, LinkError> {
        self.redirections = 0;
        let mut reply = self.call(command).await?;
        for _ in 0..MOST_REDIRECTIONS {
            let Some(redirect) = Redirect::parse(&reply) else {
                break;
            };
            self.redirections += 1;
            let mut connection = open(&*self.target, self.patience, &redirect.address).await?;
            self.knows_owner = true;
            reply = match redirect.kind {
                RedirectKind::Moved => {
                    self.connection = Some(connection);
                    self.call(command).await?
                }
                // For this command alone: the next one goes to the slot's owner again.
                RedirectKind::Ask => {
                    connection.call(&["ASKING"]).await?;
                    connection.call(command).await?
                }
            };
        }
        self.knows_owner |= reply.error().is_none();
        if reply.error().is_some() {
            // Another node may know better: a restarted one answers CLUSTERDOWN while the others are whole again.
            self.connection = None;
        }
        Ok(reply)
    }

    async fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Reply, LinkError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                if self.next_entry.is_multiple_of(self.entries.len().max(1))
                    && let Ok(members) = self.target.members().await
                    && !members.is_empty()
                {
                    self.entries = members.into_iter().map(|member| member.address).collect();
                }
                let entry = self.entries[self.next_entry % self.entries.len()].clone();
                self.next_entry += 1;
                self.knows_owner = false;
                open(&*self.target, self.patience, &entry).await?
            }
        };
        let reply = connection.call(command).await?;
        self.connection = Some(connection);
        Ok(reply)
    }
}

/// An authenticated connection for writing.
pub(super) async fn open(target: &dyn Target, patience: Duration, address: &Address) -> Result<Connection, LinkError> {
    let unreachable = |reason: String| LinkError::Unreachable {
        address: address.clone(),
        reason,
    };
    let stream = tokio::time::timeout(patience, target.connect(address))
        .await
        .map_err(|_| unreachable(format!("no connection within {:.1} s", patience.as_secs_f64())))??;
    let mut connection = Connection::new(stream, address.clone(), patience);
    // A write has not been sent yet: whatever goes wrong here is a refusal, not an unknown fate.
    authenticate(&mut connection, target)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    Ok(connection)
}

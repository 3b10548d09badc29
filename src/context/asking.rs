//! Asking the servers of the deployment, many at once: what they say, and what is wrong with it.

use super::Context;
use crate::check;
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::node::{Member, NodeView};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::cluster::view::ClusterView;
use crate::verdict::{Outcome, Stop};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};

/// How many servers one question is put to at once. Hundreds of them on one machine, asked by several cases together,
/// would keep each other from answering in time, and look silent.
const ASKED_AT_ONCE: usize = 32;

/// The answers of all servers, in their order, so many asked at once.
async fn at_once<F: Future>(questions: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let questions: Vec<F> = questions.into_iter().collect();
    futures::stream::iter(questions).buffered(ASKED_AT_ONCE).collect().await
}

impl Context {
    /// [`Connection::setting`] of a server.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn setting(&self, member: &Member, directive: &str) -> Result<Option<String>, LinkError> {
        self.connect(&member.address).await?.setting(directive).await
    }

    /// Asks a server over a connection that is kept for as long as it answers, and made where there is none.
    ///
    /// # Errors
    /// When it cannot be reached, or does not answer.
    pub async fn ask_kept(
        &self,
        member: &Member,
        connection: &mut Option<Connection>,
        command: &[&str],
    ) -> Result<Reply, LinkError> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => self.connect(&member.address).await?,
        };
        let reply = open.call(command).await?;
        *connection = Some(open);
        Ok(reply)
    }

    /// Asks every server of the deployment everything, all at once. Those that do not answer are listed in the view.
    ///
    /// # Errors
    /// When the platform cannot be asked which servers there are.
    pub async fn look(&self) -> Result<ClusterView, Stop> {
        Ok(self.look_among(self.members().await?).await)
    }

    /// [`Self::look`] at these servers alone: one that is frozen would be waited for each time.
    pub async fn look_among(&self, members: Vec<Member>) -> ClusterView {
        let answers = at_once(
            members
                .into_iter()
                .map(|member| async { self.look_at(&member).await.map_err(|error| (member, error)) }),
        )
        .await;
        let mut view = ClusterView::default();
        for answer in answers {
            match answer {
                Ok(node) => view.nodes.push(node),
                Err(silent) => view.silent.push(silent),
            }
        }
        view
    }

    /// Asks one server everything, over a connection of an earlier look where there is one.
    async fn look_at(&self, member: &Member) -> Result<NodeView, LinkError> {
        let pooled = self.lock_pool().remove(&member.address);
        if let Some(mut connection) = pooled
            && let Ok(view) = NodeView::ask(&mut connection, member.clone()).await
        {
            self.lock_pool().insert(member.address.clone(), connection);
            return Ok(view);
        }
        // None yet, or an old one that has broken: only a new one says whether the server answers.
        let mut connection = self.connect(&member.address).await?;
        let view = NodeView::ask(&mut connection, member.clone()).await?;
        self.lock_pool().insert(member.address.clone(), connection);
        Ok(view)
    }

    /// Closes the connections of earlier looks.
    pub(super) fn forget_connections(&self) {
        self.lock_pool().clear();
    }

    fn lock_pool(&self) -> std::sync::MutexGuard<'_, BTreeMap<Address, Connection>> {
        self.shared
            .pool
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// [`Self::look`], expecting an answer from every server that the deployment is meant to have.
    ///
    /// # Errors
    /// A mismatch that names the servers that are missing or refuse; an error when the way to one broke.
    pub async fn view(&self) -> Result<ClusterView, Stop> {
        let mut view = self.look().await?;
        if let Some(at) = view
            .silent
            .iter()
            .position(|(_, error)| matches!(error, LinkError::Unreachable { .. }))
        {
            return Err(view.silent.swap_remove(at).1.into());
        }
        let silent: Vec<String> = view
            .silent
            .iter()
            .map(|(member, error)| format!("{}: {error}", member.name))
            .collect();
        check::no_findings("an answer from every server", &silent)?;
        let (expected, answering) = (self.shape().nodes(), view.nodes.len());
        check::expect(
            answering == expected,
            format!("{expected} servers"),
            format!("{answering} servers"),
        )?;
        Ok(view)
    }

    /// Asks every server one question at once, over authenticated connections of its own, and collects the answers.
    ///
    /// # Errors
    /// The first error; a mismatch when a declared server is missing.
    pub async fn on_every_node<T, F>(&self, question: F) -> Result<Vec<T>, Stop>
    where
        F: AsyncFn(&Member, &mut Connection) -> Result<T, Stop>,
    {
        let members = self.all_members().await?;
        let answers = at_once(members.iter().map(|member| async {
            let mut connection = self.connect(&member.address).await?;
            question(member, &mut connection).await
        }))
        .await;
        answers.into_iter().collect()
    }

    /// [`Self::on_every_node`], over connections that have not authenticated.
    ///
    /// # Errors
    /// As [`Self::on_every_node`].
    pub async fn on_every_node_raw<T, F>(&self, question: F) -> Result<Vec<T>, Stop>
    where
        F: AsyncFn(&Member, &mut Connection) -> Result<T, Stop>,
    {
        let members = self.all_members().await?;
        let answers = at_once(members.iter().map(|member| async {
            let mut connection = self.connect_raw(&member.address).await?;
            question(member, &mut connection).await
        }))
        .await;
        answers.into_iter().collect()
    }

    /// The servers, expecting as many as the deployment is meant to have.
    ///
    /// # Errors
    /// A mismatch when some are missing.
    pub async fn all_members(&self) -> Result<Vec<Member>, Stop> {
        let members = self.members().await?;
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        check::expect(
            members.len() == self.shape().nodes(),
            format!("{} servers", self.shape().nodes()),
            format!("{}: {}", members.len(), names.join(", ")),
        )?;
        Ok(members)
    }

    /// Asks every server one question at once, over an authenticated connection each, and expects no findings. A server
    /// that refuses, hangs up or stays silent is a finding; only a broken way to it is an error.
    ///
    /// # Errors
    /// A mismatch that lists the findings of all servers; an error when a way to one broke.
    pub async fn judge_every_node<F>(&self, expected: &str, question: F) -> Outcome
    where
        F: AsyncFn(&Member, &mut Connection) -> Result<Vec<String>, Stop>,
    {
        let members = self.all_members().await?;
        let answers = members.iter().map(async |member| {
            let answer = async {
                let mut connection = self.connect(&member.address).await?;
                question(member, &mut connection).await
            };
            answer_or_finding(member, answer.await)
        });
        self.collect_findings(expected, at_once(answers).await)
    }

    /// [`Self::judge_every_node`] for questions that open their own connections.
    ///
    /// # Errors
    /// As [`Self::judge_every_node`].
    pub async fn judge_every_member<F>(&self, expected: &str, question: F) -> Outcome
    where
        F: AsyncFn(&Member) -> Result<Vec<String>, Stop>,
    {
        let members = self.all_members().await?;
        let answers = members
            .iter()
            .map(async |member| answer_or_finding(member, question(member).await));
        self.collect_findings(expected, at_once(answers).await)
    }

    fn collect_findings(&self, expected: &str, answers: Vec<Result<Vec<String>, Stop>>) -> Outcome {
        let mut findings = Vec::new();
        let mut unsupported = None;
        for answer in answers {
            match answer {
                Ok(found) => findings.extend(found),
                Err(Stop::Mismatch(mismatch)) => findings.push(mismatch.to_string()),
                Err(Stop::Unsupported(reason)) => unsupported = Some(reason),
                Err(Stop::Error(error)) => return Err(Stop::Error(error)),
            }
        }
        if let (Some(reason), true) = (unsupported, findings.is_empty()) {
            return Err(Stop::Unsupported(reason));
        }
        Ok(check::no_findings(expected, &findings)?)
    }

    /// Sends a command about a key to one server after another, until one does not redirect it: to arrange, never to
    /// judge.
    ///
    /// # Errors
    /// When every server redirects it, or one cannot be asked.
    pub async fn call_anywhere(&self, command: &[&str]) -> Result<Reply, Stop> {
        for member in self.members().await? {
            let reply = self.connect(&member.address).await?.call(command).await?;
            if Redirect::parse(&reply).is_none() {
                return Ok(reply);
            }
        }
        Err(anyhow::anyhow!("every server redirects {}", command.first().unwrap_or(&"a command")).into())
    }

    /// Deletes keys that the case wrote, on whichever server has them. Servers that cannot be asked are passed over.
    ///
    /// # Errors
    /// When no server deletes one of them.
    pub async fn remove_keys(&self, keys: &[String]) -> Result<(), Stop> {
        let mut left: BTreeSet<&String> = keys.iter().collect();
        for member in self.members().await? {
            let Ok(mut connection) = self.connect(&member.address).await else {
                continue;
            };
            let commands: Vec<Vec<&str>> = keys.iter().map(|key| vec!["DEL", key]).collect();
            for (key, reply) in keys.iter().zip(connection.pipeline(&commands).await?) {
                if reply.integer().is_some() {
                    left.remove(key);
                }
            }
        }
        match left.first() {
            None => Ok(()),
            Some(key) => Err(anyhow::anyhow!("{} keys could not be removed, {key} among them", left.len()).into()),
        }
    }

    /// Deletes every key of the run, whichever case wrote it. Servers that cannot be asked are passed over.
    ///
    /// # Errors
    /// When the platform cannot be asked which servers there are, or one of them ends its connection.
    pub async fn remove_keys_of_run(&self) -> Result<(), Stop> {
        let pattern = format!("rcc:{}:*", self.shared.run_id);
        for member in self.members().await? {
            let Ok(mut connection) = self.connect(&member.address).await else {
                continue;
            };
            let mut cursor = "0".to_owned();
            loop {
                let scan = ["SCAN", &cursor, "MATCH", &pattern, "COUNT", "1000"];
                let reply = connection.call(&scan).await?;
                let Some([next, keys]) = reply.array() else { break };
                let keys = keys.array().unwrap_or_default().iter().filter_map(Reply::text);
                // A replica refuses, and its master does it.
                let commands: Vec<Vec<&str>> = keys.map(|key| vec!["DEL", key]).collect();
                connection.pipeline(&commands).await?;
                match next.text() {
                    Some("0") | None => break,
                    Some(next) => cursor = next.to_owned(),
                }
            }
        }
        Ok(())
    }
}

/// A server that does not answer as asked has said something; only a broken way to it says nothing.
fn answer_or_finding(member: &Member, answer: Result<Vec<String>, Stop>) -> Result<Vec<String>, Stop> {
    match answer {
        Err(Stop::Error(error)) => match error.downcast_ref::<LinkError>() {
            Some(
                LinkError::Refused { .. }
                | LinkError::Closed { .. }
                | LinkError::TimedOut { .. }
                | LinkError::Nonsense { .. },
            ) => Ok(vec![format!("{}: {error:#}", member.name)]),
            Some(LinkError::Unreachable { .. }) | None => Err(Stop::Error(error)),
        },
        other => other,
    }
}

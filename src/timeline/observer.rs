//! The observer of a disruptive case: it asks every node a few times a second what it says, and notes what has changed.

use super::Source;
use super::changes::{Names, QUESTIONS, Said};
use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::node::{Member, NodeId};
use crate::cluster::resp::Reply;
use crate::context::Context;
use futures::FutureExt;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// The pause between two looks at one node, and at least so much for each node that there is: the answers grow with the
/// cluster, and so does their number.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_FOR_EACH: Duration = Duration::from_millis(10);
/// After how long without an answer a node is called silent.
const SILENT: Duration = Duration::from_millis(1000);
/// How long an answer is waited for. A frozen server accepts connections that it never serves: they must not pile up there.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a node that could not be asked is connected to again.
const RECONNECT: Duration = Duration::from_millis(500);

/// How long the last look at all nodes may take, once the case has ended.
const LAST_LOOK: Duration = Duration::from_millis(300);

/// What all followers share.
struct Observer<'a> {
    cx: &'a Context,
    members: Vec<Member>,
    by_id: Mutex<BTreeMap<NodeId, String>>,
}

/// Does what a case does, and observes every node meanwhile: what changes is noted in the case's timeline. Once it is done,
/// every node that answers is looked at once more, so that the timeline ends as the case does.
pub async fn observe<T>(cx: &Context, body: impl Future<Output = T>) -> T {
    let (ending, ended) = watch::channel(false);
    // Fused: where there is nobody to be followed it ends at once.
    let mut observing = Box::pin(follow_all(cx, ended).fuse());
    let outcome = tokio::select! {
        biased;
        outcome = body => outcome,
        never = follow_for_ever(&mut observing) => match never {},
    };
    let _ = ending.send(true);
    let _ = timeout(LAST_LOOK, observing).await;
    outcome
}

/// Goes on, also where there is nobody to be followed.
async fn follow_for_ever(observing: impl Future<Output = ()>) -> Infallible {
    observing.await;
    std::future::pending().await
}

async fn follow_all(cx: &Context, ended: watch::Receiver<bool>) {
    // Where the platform does not say who is there, there is nobody to be asked.
    let members = cx.members().await.unwrap_or_default();
    let observer = Observer {
        cx,
        members,
        by_id: Mutex::default(),
    };
    let pause = PAUSE.max(PAUSE_FOR_EACH * u32::try_from(observer.members.len()).unwrap_or(u32::MAX));
    let follow = |member| observer.follow(member, pause, ended.clone());
    join_all(observer.members.iter().map(follow)).await;
}

impl Observer<'_> {
    /// Looks at a node again and again, and once more when the case has ended.
    async fn follow(&self, member: &Member, pause: Duration, mut ended: watch::Receiver<bool>) {
        let mut connection = None;
        let mut last: Option<Said> = None;
        let mut silent = false;
        loop {
            let last_look = *ended.borrow_and_update();
            let asked = Instant::now();
            let mut asking = Box::pin(self.ask(&mut connection, member));
            let answer = match timeout(SILENT, &mut asking).await {
                Ok(answer) => answer,
                // Told at once, and waited for on the same connection: the server may be frozen.
                Err(_) => {
                    self.note_silence(member, &mut silent, asked, "does not answer");
                    asking.await
                }
            };
            let pause = match answer {
                Ok(answers) => {
                    if std::mem::take(&mut silent) {
                        self.note(member, Instant::now(), "answers again");
                    }
                    if let Some(said) = Said::of(&answers) {
                        self.note_changes(member, last.as_ref(), &said);
                        last = Some(said);
                    }
                    pause
                }
                Err(error) => {
                    self.note_silence(member, &mut silent, asked, &format!("cannot be asked: {error}"));
                    RECONNECT.max(pause)
                }
            };
            if last_look {
                return;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = ended.changed() => {}
            }
        }
    }

    async fn ask(&self, connection: &mut Option<Connection>, member: &Member) -> Result<Vec<Reply>, LinkError> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => {
                // A server that was replaced has its name still, but perhaps another address.
                let now = self.cx.members().await.unwrap_or_default();
                let now = now.into_iter().find(|other| other.name == member.name);
                let address = now.map_or_else(|| member.address.clone(), |now| now.address);
                self.cx.connect(&address).await?.with_patience(PATIENCE)
            }
        };
        let answers = open.pipeline(&QUESTIONS.map(<[&str]>::to_vec)).await?;
        *connection = Some(open);
        Ok(answers)
    }

    fn note_changes(&self, member: &Member, before: Option<&Said>, said: &Said) {
        let at = Instant::now();
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        if before.is_none_or(|before| before.id != said.id) {
            by_id.insert(said.id.clone(), member.name.clone());
        }
        let names = Names {
            members: &self.members,
            by_id: &by_id,
        };
        for change in said.since(before, &names) {
            self.note(member, at, &change);
        }
    }

    /// Notes that a node is silent since it was asked, once.
    fn note_silence(&self, member: &Member, silent: &mut bool, asked: Instant, what: &str) {
        if !std::mem::replace(silent, true) {
            self.note(member, asked, what);
        }
    }

    fn note(&self, member: &Member, at: Instant, what: &str) {
        let source = Source::Node(member.name.clone());
        self.cx.timeline().note_at(at, source, what);
    }
}

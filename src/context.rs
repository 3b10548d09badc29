//! What a case is given: connections, the cluster's view, keys of its own, timings, faults, and the deployment's
//! Kubernetes side. A case reaches everything through here and never imports a target.

use crate::case::{Case, CaseId};
use crate::check;
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::node::{Member, NodeView};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::cluster::slot;
use crate::cluster::view::{ClusterView, Shape};
use crate::progress::Progress;
use crate::timing::Timing;
use crate::verdict::{Mismatch, Outcome, Stop};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use crate::target::{DeployedVariant, Deployment, Event, Execution, Fault, Pod, Secret, Target, Variant};

/// A figure that a case took, beside the limits that apply to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Measurement {
    /// What was measured: `write gap`.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit: `s`, `keys`.
    pub unit: String,
    /// What it cannot be below, by the protocol's arithmetic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// What it must not be above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
}

/// What all cases of a run share.
pub struct Shared {
    /// The deployment under test.
    pub target: Arc<dyn Target>,
    /// The run's own name, part of every key and label.
    pub run_id: String,
    /// The time limits, from the target's node-timeout.
    pub timing: Timing,
    /// Where progress is told.
    pub progress: Progress,
    /// The instant from which the timeline counts.
    pub started: Instant,
    /// The failover that several cases look at: done once, by the first that asks.
    pub failover: tokio::sync::OnceCell<Result<Arc<crate::failover::Failover>, String>>,
    /// Connections that looks at the cluster use again: opening one can cost far more than the question itself.
    pub pool: Mutex<BTreeMap<Address, Connection>>,
    /// How the waits for a whole cluster ended, each with its place (`after FAIL-01`): the time, or what was missing.
    pub settled: Mutex<Vec<(String, Result<Duration, String>)>>,
    /// The copies that cases made and have not yet removed; the runner removes what is left.
    pub copies: Mutex<Vec<(CaseId, Arc<dyn DeployedVariant>)>>,
}

/// What one case is given.
pub struct Context {
    shared: Arc<Shared>,
    id: CaseId,
    measurements: Mutex<Vec<Measurement>>,
    notes: Mutex<Vec<String>>,
    timeline: Mutex<Vec<(f64, String)>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("case", &self.id)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context for one case of a run.
    pub fn new(shared: Arc<Shared>, case: &Case) -> Self {
        Self {
            shared,
            id: case.id,
            measurements: Mutex::default(),
            notes: Mutex::default(),
            timeline: Mutex::default(),
        }
    }

    /// The case that this is for.
    pub fn case_id(&self) -> CaseId {
        self.id
    }

    /// What all cases of the run share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where progress is told.
    pub fn progress(&self) -> &Progress {
        &self.shared.progress
    }

    /// The time limits.
    pub fn timing(&self) -> &Timing {
        &self.shared.timing
    }

    /// The shape that the deployment is meant to have.
    pub fn shape(&self) -> Shape {
        self.shared.target.description().shape
    }

    /// The password that every node should ask for.
    ///
    /// # Errors
    /// A mismatch when the deployment has none: every case that asks for it is about a password.
    pub fn password(&self) -> Result<Secret, Stop> {
        self.shared
            .target
            .password()
            .filter(|password| !password.expose().is_empty())
            .ok_or_else(|| {
                Mismatch::new(
                    "a deployment with a password",
                    "the target's description names no password",
                )
                .into()
            })
    }

    /// The deployment's servers at present.
    ///
    /// # Errors
    /// When the platform cannot be asked.
    pub async fn members(&self) -> Result<Vec<Member>, Stop> {
        Ok(self.shared.target.members().await?)
    }

    /// How long a reply is waited for: `T_reply`, and what the way to the nodes may add.
    pub fn patience(&self) -> Duration {
        self.timing().reply() + self.shared.target.detour()
    }

    /// A connection that has not authenticated.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn connect_raw(&self, address: &Address) -> Result<Connection, LinkError> {
        let patience = self.patience();
        let stream = tokio::time::timeout(patience, self.shared.target.connect(address))
            .await
            .map_err(|_| LinkError::TimedOut {
                address: address.clone(),
                command: "connect".into(),
                after: patience,
            })??;
        Ok(Connection::new(stream, address.clone(), patience))
    }

    /// A connection that has authenticated, where the deployment has a password.
    ///
    /// # Errors
    /// When the node cannot be reached, or refuses the password.
    pub async fn connect(&self, address: &Address) -> Result<Connection, LinkError> {
        let mut connection = self.connect_raw(address).await?;
        authenticate(&mut connection, self.shared.target.password().as_ref()).await?;
        Ok(connection)
    }

    /// Asks every server of the deployment everything, all at once. Those that do not answer are listed in the view.
    ///
    /// # Errors
    /// When the platform cannot be asked which servers there are.
    pub async fn look(&self) -> Result<ClusterView, Stop> {
        let members = self.members().await?;
        let answers = join_all(
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
        Ok(view)
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
        let answers = join_all(members.iter().map(|member| async {
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
        let answers = join_all(members.iter().map(|member| async {
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

    /// A key of this run and case, in the slot wanted: `rcc:<run>:<case>:<name>:{<tag>}`.
    pub fn key_in(&self, slot: u16, name: &str) -> String {
        format!(
            "rcc:{}:{}:{name}:{{{}}}",
            self.shared.run_id,
            self.id,
            slot::tag_for(slot)
        )
    }

    /// A key of this run and case, with no hash tag.
    pub fn key(&self, name: &str) -> String {
        format!("rcc:{}:{}:{name}", self.shared.run_id, self.id)
    }

    /// Does a fault to a node and notes it in the timeline.
    ///
    /// # Errors
    /// When it could not be done.
    pub async fn inject(&self, fault: Fault, member: &Member) -> Result<Instant, Stop> {
        self.note_time(format!("{member} is to be {}", fault.past()));
        let at = Instant::now();
        self.shared.target.inject(fault, member).await?;
        self.note_time(format!("{member} was {}", fault.past()));
        Ok(at)
    }

    /// Undoes every fault that lasts.
    ///
    /// # Errors
    /// When one could not be undone.
    pub async fn undo_faults(&self) -> Result<(), Stop> {
        self.note_time("faults are undone");
        Ok(self.shared.target.undo_faults().await?)
    }

    /// The deployment's Kubernetes side.
    ///
    /// # Errors
    /// When there is none: the case should have declared the need.
    pub fn deployment(&self) -> Result<&dyn Deployment, Stop> {
        self.shared.target.deployment().ok_or_else(|| {
            anyhow::anyhow!(
                "{}: the target has no Kubernetes side; the case must declare that it needs one",
                self.id
            )
            .into()
        })
    }

    /// Makes an altered copy of the deployment, lets `judge` look at it, and removes it, whatever came of it.
    ///
    /// # Errors
    /// Those of `judge`; an unsupported stop when the target cannot make the variant; an error when it is left behind.
    pub async fn with_variant<T, F>(&self, variant: Variant, judge: F) -> Result<T, Stop>
    where
        F: AsyncFnOnce(&dyn DeployedVariant) -> Result<T, Stop>,
    {
        let deployment = self.deployment()?;
        if !deployment.variants().contains(&variant) {
            return Err(Stop::Unsupported(format!(
                "the target's description does not say how to make the variant {variant:?}"
            )));
        }
        let copy: Arc<dyn DeployedVariant> = Arc::from(deployment.deploy_variant(variant).await?);
        self.lock_copies().push((self.id, copy.clone()));
        let outcome = judge(&*copy).await;
        if matches!(outcome, Err(Stop::Mismatch(_) | Stop::Error(_))) {
            // The runner gathers evidence and then removes it.
            return outcome;
        }
        copy.remove().await?;
        self.lock_copies().retain(|(_, other)| !Arc::ptr_eq(other, &copy));
        outcome
    }

    fn lock_copies(&self) -> std::sync::MutexGuard<'_, Vec<(CaseId, Arc<dyn DeployedVariant>)>> {
        self.shared
            .copies
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records a duration, with the protocol's floor and the bound where they apply.
    pub fn measure(&self, name: &str, value: Duration, floor: Option<Duration>, bound: Option<Duration>) {
        self.record(Measurement {
            name: name.into(),
            value: round(value.as_secs_f64()),
            unit: "s".into(),
            floor: floor.map(|floor| round(floor.as_secs_f64())),
            bound: bound.map(|bound| round(bound.as_secs_f64())),
        });
    }

    /// Records a count.
    pub fn count(&self, name: &str, value: usize, unit: &str) {
        self.record(Measurement {
            name: name.into(),
            value: value as f64,
            unit: unit.into(),
            floor: None,
            bound: None,
        });
    }

    fn record(&self, measurement: Measurement) {
        self.measurements
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(measurement);
    }

    /// Adds a remark to the result: which of two legal outcomes was seen, for example.
    pub fn note(&self, text: impl Into<String>) {
        self.notes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(text.into());
    }

    /// Adds an instant to the case's timeline.
    pub fn note_time(&self, text: impl Into<String>) {
        let at = round(self.shared.started.elapsed().as_secs_f64());
        self.timeline
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push((at, text.into()));
    }

    /// What the case recorded: measurements, notes, timeline (seconds since the run began).
    pub fn into_records(self) -> (Vec<Measurement>, Vec<String>, Vec<(f64, String)>) {
        (
            self.measurements
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
            self.notes
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
            self.timeline
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// The capabilities of the target.
    pub fn capabilities(&self) -> BTreeSet<crate::case::Capability> {
        self.shared.target.capabilities()
    }
}

/// Authenticates a connection where there is a password.
///
/// # Errors
/// When the node refuses the password. A node that has none, and serves all the same, does not refuse: chapter AUTH is
/// about that.
pub async fn authenticate(connection: &mut Connection, password: Option<&Secret>) -> Result<(), LinkError> {
    let Some(password) = password else {
        return Ok(());
    };
    let reply = connection.call(&["AUTH", password.expose()]).await?;
    let open = reply
        .error()
        .is_some_and(|text| text.contains("without any password") || text.contains("no password is set"));
    if reply.is_ok() || open {
        Ok(())
    } else {
        Err(connection.nonsense("AUTH", reply.to_string()))
    }
}

/// To the millisecond: more digits would claim a precision that polling does not have.
fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// Runs `work`, and `cleanup` after it, whatever came of it; the first error counts.
///
/// # Errors
/// Those of both.
pub async fn with_cleanup<T>(
    work: impl Future<Output = Result<T, Stop>>,
    cleanup: impl Future<Output = Result<(), Stop>>,
) -> Result<T, Stop> {
    let outcome = work.await;
    let cleaned = cleanup.await;
    let value = outcome?;
    cleaned?;
    Ok(value)
}

impl Context {
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
        self.collect_findings(expected, join_all(answers).await)
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
        self.collect_findings(expected, join_all(answers).await)
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

    /// A client library's connection to the whole cluster, entered at one server, with a password of its own: it learns
    /// the topology, opens further connections and follows redirections by itself, as users' clients do.
    ///
    /// # Errors
    /// The library's. Its text names addresses and replies, never the password.
    pub async fn cluster_client(
        &self,
        entry: &Address,
        password: Option<&Secret>,
    ) -> Result<redis::cluster_async::ClusterConnection, redis::RedisError> {
        let patience = self.patience();
        let resolver = ThroughTarget(self.shared.target.clone());
        let mut builder = redis::cluster::ClusterClientBuilder::new([(entry.host.clone(), entry.port)])
            .async_dns_resolver(resolver)
            .connection_timeout(patience)
            .response_timeout(patience)
            .overall_response_timeout(Some(patience * 2))
            .retries(2)
            .min_retry_wait(10)
            .max_retry_wait(200);
        if let Some(password) = password {
            builder = builder.password(password.expose());
        }
        let connecting = builder.build()?;
        match tokio::time::timeout(patience * 2, connecting.get_async_connection()).await {
            Ok(connection) => connection,
            Err(_) => Err((redis::ErrorKind::Io, "no connection in time").into()),
        }
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

/// Lets a client library reach the addresses that the cluster announces in the way the target does.
struct ThroughTarget(Arc<dyn Target>);

impl redis::io::AsyncDNSResolver for ThroughTarget {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> redis::RedisFuture<'a, Box<dyn Iterator<Item = std::net::SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            match self.0.dial(&Address::new(host, port)).await {
                Ok(address) => Ok(Box::new(std::iter::once(address)) as Box<dyn Iterator<Item = _> + Send>),
                Err(error) => Err(std::io::Error::other(error.to_string()).into()),
            }
        })
    }
}

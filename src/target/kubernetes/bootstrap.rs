//! Waits for the pods of a deployment, by watches, and ends early when they cannot come up.

use super::assess::{Assessment, Watchman, is_ready};
use super::client::failed;
use super::site::{Site, is_a_server_s};
use super::summaries::containers;
use crate::progress::Progress;
use crate::target::{Phase, TargetError};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often graces and bounds are looked at while nothing changes.
const TICK: Duration = Duration::from_millis(500);

/// How many of a log's last lines an error shows.
const LINES: usize = 12;

/// What the watches have told so far.
#[derive(Default)]
struct Watched {
    pods: BTreeMap<String, Pod>,
    events: BTreeMap<String, Event>,
    trouble: Option<String>,
    watchman: Watchman,
}

enum Seen {
    Pod(Box<watcher::Result<watcher::Event<Pod>>>),
    Event(Box<watcher::Result<watcher::Event<Event>>>),
}

impl Watched {
    fn take(&mut self, seen: Seen) {
        let trouble = match seen {
            Seen::Pod(change) => keep(&mut self.pods, *change),
            Seen::Event(change) => keep(&mut self.events, *change),
        };
        self.trouble = trouble;
    }

    fn assess(&mut self, expected: usize) -> Assessment {
        let pods: Vec<&Pod> = self.pods.values().collect();
        let mut events: Vec<&Event> = self.events.values().collect();
        events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        match self.watchman.assess(expected, &pods, &events, Instant::now()) {
            Assessment::Waiting(text) => Assessment::Waiting(match &self.trouble {
                Some(trouble) => format!("{text}; the watch broke: {trouble}"),
                None => text,
            }),
            settled => settled,
        }
    }

    /// The last warning, for an error about a wait that has passed its bound.
    fn last_warning(&self) -> Option<String> {
        let warnings = self
            .events
            .values()
            .filter(|event| event.type_.as_deref() == Some("Warning"));
        let last = warnings.max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0))?;
        Some(format!(
            "{}: {}",
            last.reason.as_deref().unwrap_or("?"),
            last.message.as_deref().unwrap_or_default().trim()
        ))
    }
}

/// Keeps the objects of one watch; gives what went wrong with it.
fn keep<K: ResourceExt>(
    objects: &mut BTreeMap<String, K>,
    change: watcher::Result<watcher::Event<K>>,
) -> Option<String> {
    match change {
        Ok(watcher::Event::Init) => objects.clear(),
        Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
            objects.insert(object.name_any(), object);
        }
        Ok(watcher::Event::Delete(object)) => {
            objects.remove(&object.name_any());
        }
        Ok(watcher::Event::InitDone) => {}
        Err(error) => return Some(error.to_string()),
    }
    None
}

impl Site {
    /// Waits until every pod is Ready, of at most `bound`, and gives how long the pods and the hook took.
    pub(super) async fn await_pods(&self, bound: Duration, progress: &Progress) -> Result<Vec<Phase>, TargetError> {
        let declared: i32 = self.workloads().await?.iter().map(|workload| workload.declared).sum();
        let expected = match usize::try_from(declared) {
            // Nobody but the description says how many pods there are to be that were made one by one.
            Ok(0) | Err(_) => self.descriptor.shape().nodes(),
            Ok(declared) => declared,
        };
        let started = Instant::now();
        let mut watched = Watched::default();
        let mut stream = self.watch();
        let mut told = 0;
        loop {
            let standing = watched.assess(expected);
            let text = match standing {
                Assessment::Ready => break,
                Assessment::Doomed(cause) => return Err(self.doomed(cause.text, cause.pod.as_deref()).await),
                Assessment::Waiting(text) => text,
            };
            let ready = watched
                .pods
                .values()
                .filter(|pod| is_a_server_s(pod) && is_ready(pod))
                .count();
            if ready > told {
                told = ready;
                progress.line(format!(
                    "  {ready} of {expected} pods Ready after {:.0} s",
                    started.elapsed().as_secs_f64()
                ));
            }
            let left = bound.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(self.too_late(bound, &text, &watched).await);
            }
            let what = format!("{text}{}", self.hook_hint(&watched));
            // One wait as long as it is the same that is waited for; its bound is what is left of the whole.
            let change = async {
                while watched.assess(expected) == Assessment::Waiting(text.clone()) && started.elapsed() < bound {
                    if let Ok(Some(seen)) = tokio::time::timeout(TICK, stream.next()).await {
                        watched.take(seen);
                    }
                }
            };
            progress.during(&what, left, change).await;
        }
        let mut phases = vec![phase(&format!("{expected} pods Ready"), started.elapsed())];
        phases.extend(self.hook_time(&watched).map(|took| phase("postStart hook", took)));
        Ok(phases)
    }

    fn watch(&self) -> impl Stream<Item = Seen> + use<> {
        let pods = Config::default().labels(&self.descriptor.selector());
        let pods = watcher(self.api::<Pod>(), pods)
            .default_backoff()
            .map(|seen| Seen::Pod(Box::new(seen)));
        let events = watcher(self.api::<Event>(), Config::default())
            .default_backoff()
            .map(|seen| Seen::Event(Box::new(seen)));
        futures::stream::select(pods.boxed(), events.boxed())
    }

    /// While the hook runs, the API shows its pod as being created: say what is really awaited.
    fn hook_hint(&self, watched: &Watched) -> &'static str {
        let bootstrap = self.descriptor.bootstrap.as_ref();
        let hook = bootstrap.filter(|bootstrap| bootstrap.container.is_none());
        match hook.and_then(|bootstrap| watched.pods.get(&bootstrap.pod)) {
            Some(pod) if !is_ready(pod) => " (its postStart hook forms the cluster)",
            Some(_) | None => "",
        }
    }

    /// From the start of the bootstrap pod's container until now, when it is first seen to be Ready. The API shows
    /// the start to the second.
    fn hook_time(&self, watched: &Watched) -> Option<Duration> {
        let bootstrap = self.descriptor.bootstrap.as_ref();
        let hook = bootstrap.filter(|bootstrap| bootstrap.container.is_none())?;
        let pod = watched.pods.get(&hook.pod)?;
        let container = containers(pod)
            .iter()
            .find(|container| container.name == self.descriptor.container)?;
        let started = container.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0;
        jiff::Timestamp::now().duration_since(started).try_into().ok()
    }

    /// The error for a deployment that will not come up, with the end of the log that tells more.
    async fn doomed(&self, mut text: String, pod: Option<&str>) -> TargetError {
        if text.contains("storageclass") {
            text.push_str(&self.storage_classes().await);
        }
        if let Some(pod) = pod {
            let log = if Some(pod) == self.descriptor.bootstrap_pod() {
                self.hook_log().await
            } else {
                match self.container_log(pod, true, Some(LINES as i64)).await {
                    Ok(log) => Ok(log),
                    Err(_) => self.container_log(pod, false, Some(LINES as i64)).await,
                }
            };
            text.push_str(&last_lines(pod, log));
        }
        TargetError::NotDeployed(self.redact(&text))
    }

    async fn too_late(&self, bound: Duration, seen: &str, watched: &Watched) -> TargetError {
        let mut text = format!("not every pod was Ready within {} s: {seen}", bound.as_secs());
        if let Some(warning) = watched.last_warning() {
            text.push_str("\nlast warning: ");
            text.push_str(&warning);
        }
        if let Some(hook) = self.descriptor.bootstrap_pod()
            && watched.pods.get(hook).is_some_and(|pod| !is_ready(pod))
        {
            text.push_str(&last_lines(hook, self.hook_log().await));
        }
        TargetError::NotDeployed(self.redact(&text))
    }

    async fn storage_classes(&self) -> String {
        let api: Api<StorageClass> = Api::all(self.client.clone());
        match tokio::time::timeout(Duration::from_secs(5), api.list(&ListParams::default())).await {
            Ok(Ok(classes)) => {
                let names: Vec<String> = classes.items.iter().map(ResourceExt::name_any).collect();
                let names = if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                };
                format!("\nThe cluster has these storage classes: {names}. Choose one with --storage-class.")
            }
            Ok(Err(error)) => format!("\nThe storage classes cannot be listed: {}", failed("", &error)),
            Err(_) => String::new(),
        }
    }
}

fn last_lines(pod: &str, log: Result<String, TargetError>) -> String {
    match log {
        Ok(log) => {
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(LINES)..];
            format!("\nthe end of the log of {pod}:\n  {}", end.join("\n  "))
        }
        Err(error) => format!("\nno log of {pod}: {error}"),
    }
}

pub(super) fn phase(name: &str, took: Duration) -> Phase {
    Phase {
        name: name.to_owned(),
        seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
        floor: None,
    }
}

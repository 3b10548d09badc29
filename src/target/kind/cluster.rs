//! The kind cluster: taken where a good one runs, made where none does, deleted by whom it belongs to.

use super::children::{ask, check_docker, work};
use super::layout::{self, IpFamily, Layout};
use crate::manifest::Parameters;
use crate::progress::Progress;
use crate::target::TargetError;
use crate::target::descriptor::{Descriptor, DescriptorError};
use crate::target::kubernetes::is_alive;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The node image that is built where kind's own cannot be pulled.
const LOCAL_NODE_IMAGE: &str = "redis-cluster-conformance/node:v1.20.2";

/// How long another process may use the cluster before this one gives up.
const LEASE: Duration = Duration::from_secs(45 * 60);

/// How long kind may take to make a cluster: an image may have to be pulled.
const CREATION: Duration = Duration::from_secs(600);

/// How long kind may take to delete one.
const DELETION: Duration = Duration::from_secs(120);

/// How long an image may take to be copied to the node.
const LOADING: Duration = Duration::from_secs(180);

/// How long a quick question to kind or docker may take.
const QUESTION: Duration = Duration::from_secs(60);

/// How long a cluster that runs may take to answer before it is made anew.
const ALIVE: Duration = Duration::from_secs(20);

/// How long the nodes and the name service of a cluster may take to be Ready that was just made, or whose nodes were stopped:
/// kind waits for the control plane alone.
const NODES_READY: Duration = Duration::from_secs(120);

/// Whose a cluster is: who deletes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Maker {
    /// `up`: it stays until `down`.
    Up,
    /// A run: it goes with the run, or, if that was killed, with the next.
    Run(String),
}

/// The cluster, while this process holds its lock.
pub(super) struct Cluster {
    name: String,
    folder: PathBuf,
    kubeconfig: PathBuf,
    /// What it is to be like.
    layout: Layout,
    /// The lock is given back when the file is closed, however the process ends.
    _lock: File,
}

/// The cluster's name; `RCC_CLUSTER_NAME` gives it another, so that two can stand side by side.
pub fn cluster_name() -> String {
    std::env::var("RCC_CLUSTER_NAME")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "redis-cluster-conformance".to_owned())
}

/// Where the suite keeps what outlives a run: `RCC_CACHE`, else the user's cache.
fn cache() -> Result<PathBuf, TargetError> {
    let named = |variable: &str| {
        std::env::var_os(variable)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    };
    named("RCC_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|path| path.join("redis-cluster-conformance")))
        .or_else(|| named("HOME").map(|path| path.join(".cache/redis-cluster-conformance")))
        .ok_or_else(|| TargetError::Usage("no place for a cache: set RCC_CACHE or HOME".to_owned()))
}

fn folder() -> Result<PathBuf, TargetError> {
    Ok(cache()?.join("kind").join(cluster_name()))
}

/// The cluster's own kubeconfig: the user's is never touched.
///
/// # Errors
/// When neither `RCC_CACHE` nor `HOME` says where it can be.
pub fn kubeconfig() -> Result<PathBuf, TargetError> {
    Ok(folder()?.join("kubeconfig"))
}

/// Makes the cluster, or takes the one that runs, with the canonical deployment's images loaded; it stays until [`down`].
/// Gives its kubeconfig.
///
/// # Errors
/// When there is no Docker or kind, the one that runs is of another layout, another process holds the cluster for too long, or kind fails.
pub async fn up(layout: Layout, progress: &Progress) -> Result<PathBuf, TargetError> {
    let cluster = Cluster::lock("up", layout, progress).await?;
    cluster.ensure(&Maker::Up, progress).await?;
    cluster.belongs_to(&Maker::Up);
    let unusable = |error: DescriptorError| TargetError::Usage(error.to_string());
    let canonical = Descriptor::canonical().map_err(unusable)?;
    let manifest = canonical.manifest(&Parameters::default()).map_err(unusable)?;
    let images = manifest.map(|manifest| manifest.images()).unwrap_or_default();
    cluster.load(&images, progress).await?;
    Ok(cluster.kubeconfig.clone())
}

/// Deletes the cluster. Gives whether there was one.
///
/// # Errors
/// When there is no Docker or kind, another process holds the cluster for too long, or kind fails.
pub async fn down(progress: &Progress) -> Result<bool, TargetError> {
    check_docker().await?;
    let cluster = Cluster::lock("down", Layout::default(), progress).await?;
    if !cluster.exists().await? {
        return Ok(false);
    }
    cluster.delete(progress).await?;
    Ok(true)
}

impl Cluster {
    /// Waits until no other process uses the cluster.
    pub(super) async fn lock(purpose: &str, layout: Layout, progress: &Progress) -> Result<Self, TargetError> {
        let layout = layout.or_by_environment()?;
        let folder = folder()?;
        let unusable = |error: std::io::Error| TargetError::Usage(format!("{}: {error}", folder.display()));
        std::fs::create_dir_all(&folder).map_err(unusable)?;
        let path = folder.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(unusable)?;
        let holder = || std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
        if !try_lock(&file).map_err(unusable)? {
            let what = format!("the kind cluster {} is used by {}", cluster_name(), holder());
            progress.line(format!("  waiting: {what}"));
            let started = Instant::now();
            let locked = progress.during(&what, LEASE, async {
                while started.elapsed() < LEASE {
                    if try_lock(&file)? {
                        return Ok(true);
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Ok(false)
            });
            if !locked.await.map_err(unusable)? {
                return Err(TargetError::Surroundings(format!(
                    "{what}, still after {} min (lock {})",
                    LEASE.as_secs() / 60,
                    path.display()
                )));
            }
        }
        let mut writable = &file;
        let _ = file.set_len(0);
        let _ = writeln!(writable, "process {} ({purpose})", std::process::id());
        Ok(Self {
            name: cluster_name(),
            kubeconfig: folder.join("kubeconfig"),
            folder,
            layout,
            _lock: file,
        })
    }

    fn log(&self) -> PathBuf {
        self.folder.join("kind.log")
    }

    async fn exists(&self) -> Result<bool, TargetError> {
        let clusters = ask("kind", &["get", "clusters"], QUESTION).await?;
        Ok(clusters.lines().any(|line| line.trim() == self.name))
    }

    /// Sees to it that the cluster runs and answers. Gives whether it did already.
    pub(super) async fn ensure(&self, maker: &Maker, progress: &Progress) -> Result<bool, TargetError> {
        check_docker().await?;
        if self.exists().await? {
            self.check_layout().await?;
            match self.take(progress).await {
                Ok(()) => {
                    progress.line(format!("  taking the kind cluster {} that runs", self.name));
                    return Ok(true);
                }
                Err(reason) if !self.made_by_a_run() && !self.unfinished().exists() => {
                    return Err(TargetError::Surroundings(format!(
                        "the kind cluster {} is of no use: {reason}; try again when the machine has less to do, remove it with \
                         `redis-cluster-conformance down`, or have another beside it with RCC_CLUSTER_NAME",
                        self.name
                    )));
                }
                Err(reason) => {
                    // A cluster does not survive its nodes being stopped: addresses and certificates change.
                    progress.line(format!(
                        "  the kind cluster {} is of no use and made anew: {reason}",
                        self.name
                    ));
                    self.delete(progress).await?;
                }
            }
        }
        self.belongs_to(maker);
        self.create(progress).await?;
        let _ = std::fs::remove_file(self.unfinished());
        Ok(false)
    }

    /// Refuses a cluster of another layout than is asked for. One that nobody may want any more is made anew.
    async fn check_layout(&self) -> Result<(), TargetError> {
        match self.mismatch().await? {
            Some(_) if self.made_by_a_run() || self.unfinished().exists() => Ok(()),
            Some(reason) => Err(TargetError::Usage(format!(
                "the kind cluster {} does not fit: {reason}; remove it with `redis-cluster-conformance down`, \
                 or have another beside it with RCC_CLUSTER_NAME",
                self.name
            ))),
            None => Ok(()),
        }
    }

    /// Why the cluster that runs is not what is asked for.
    async fn mismatch(&self) -> Result<Option<String>, TargetError> {
        let nodes = self.nodes().await?;
        let ip_family = match nodes.first() {
            Some(node) => ip_family_of(node).await?,
            None => IpFamily::Ipv4,
        };
        Ok(layout::mismatch(nodes.len(), ip_family, self.layout))
    }

    /// The containers that are its nodes, the control plane first.
    async fn nodes(&self) -> Result<Vec<String>, TargetError> {
        nodes_of(&self.name).await
    }

    async fn take(&self, progress: &Progress) -> Result<(), String> {
        // It may answer, and yet have no storage class or network: kind makes them last.
        if self.unfinished().exists() {
            return Err("its making was cut short".to_owned());
        }
        if let Some(reason) = self.mismatch().await.map_err(|error| error.to_string())? {
            return Err(reason);
        }
        let woken = self.wake().await?;
        self.answers(if woken { NODES_READY } else { ALIVE }, progress).await
    }

    /// Has nodes go on that a run that was killed has frozen or stopped. Gives whether there were any.
    async fn wake(&self) -> Result<bool, String> {
        let mut woken = false;
        let control_plane = format!("{}-control-plane", self.name);
        for node in self.nodes().await.map_err(|error| error.to_string())? {
            let state = ["inspect", "--format", "{{.State.Status}}", &node];
            let state = ask("docker", &state, QUESTION)
                .await
                .map_err(|error| error.to_string())?;
            let verb = match state.trim() {
                "running" => continue,
                "paused" => "unpause",
                // The other nodes know it by its address, and its certificate too.
                _ if node == control_plane => return Err(format!("its node {node} is stopped")),
                _ => "start",
            };
            ask("docker", &[verb, &node], QUESTION)
                .await
                .map_err(|error| error.to_string())?;
            woken = true;
        }
        Ok(woken)
    }

    async fn answers(&self, bound: Duration, progress: &Progress) -> Result<(), String> {
        let node = format!("{}-control-plane", self.name);
        // A run that was killed may have left its API server stopped.
        let go_on = ["exec", &node, "pkill", "-CONT", "-x", "kube-apiserver"];
        let _ = ask("docker", &go_on, QUESTION).await;
        let kubeconfig = self.kubeconfig.display().to_string();
        let export = [
            "export",
            "kubeconfig",
            "--name",
            &self.name,
            "--kubeconfig",
            &kubeconfig,
        ];
        ask("kind", &export, QUESTION)
            .await
            .map_err(|error| error.to_string())?;
        let started = Instant::now();
        let what = format!("the kind cluster {} to answer", self.name);
        let answer = async {
            loop {
                match is_alive(&self.kubeconfig).await {
                    Ok(()) => return Ok(()),
                    Err(reason) if started.elapsed() >= bound => return Err(reason),
                    Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
                }
            }
        };
        progress.during(&what, bound, answer).await
    }

    async fn create(&self, progress: &Progress) -> Result<(), TargetError> {
        let configuration = self.folder.join("cluster.yaml");
        let nodes = self.layout.nodes.unwrap_or(1);
        for (file, text) in [
            (
                &configuration,
                layout::description(self.layout, &self.moving()).as_str(),
            ),
            (&self.unfinished(), ""),
        ] {
            std::fs::write(file, text).map_err(|error| TargetError::Usage(format!("{}: {error}", file.display())))?;
        }
        let (configuration, kubeconfig) = (
            configuration.display().to_string(),
            self.kubeconfig.display().to_string(),
        );
        let mut arguments = vec!["create", "cluster", "--name", &self.name, "--config", &configuration];
        arguments.extend(["--kubeconfig", &kubeconfig, "--wait", "120s"]);
        let image = node_image().await;
        if let Some(image) = &image {
            arguments.extend(["--image", image]);
        }
        let of = image.as_deref().unwrap_or("kind's own node image");
        progress.line(format!(
            "  making the kind cluster {} of {of}, nodes: {nodes} (about {})",
            self.name,
            if nodes == 1 { "a minute" } else { "two minutes" },
        ));
        let what = format!("kind to make the cluster {}", self.name);
        let log = self.log();
        let made = work("kind", &arguments, CREATION, &log);
        progress.during(&what, CREATION, made).await?;
        // `--wait` ends without an error when the node is not Ready in time, and waits for no worker.
        self.answers(NODES_READY, progress).await.map_err(|reason| {
            TargetError::Surroundings(format!("the kind cluster {} was made, but: {reason}", self.name))
        })
    }

    /// Deletes the cluster with all that is in it.
    pub(super) async fn delete(&self, progress: &Progress) -> Result<(), TargetError> {
        if self.moving().exists() {
            // They belong to the servers' user, and may not be ours to remove. None is left where the claims went before.
            let all = format!("find {} -mindepth 1 -delete", layout::MOVING);
            for node in self.nodes().await.unwrap_or_default() {
                let _ = ask("docker", &["exec", &node, "sh", "-c", &all], QUESTION).await;
            }
        }
        let kubeconfig = self.kubeconfig.display().to_string();
        let arguments = ["delete", "cluster", "--name", &self.name, "--kubeconfig", &kubeconfig];
        let what = format!("kind to delete the cluster {}", self.name);
        let log = self.log();
        let deleted = work("kind", &arguments, DELETION, &log);
        progress.during(&what, DELETION, deleted).await.map_err(|error| {
            TargetError::Surroundings(format!(
                "the kind cluster {0} is left behind: {error}\nremove it with: kind delete cluster --name {0}",
                self.name
            ))
        })?;
        for file in [self.marker(), self.unfinished()] {
            let _ = std::fs::remove_file(file);
        }
        // Docker made it.
        let _ = std::fs::remove_dir(self.moving());
        Ok(())
    }

    /// Copies the images that are on this machine to the nodes that lack them. Others are for the nodes to pull.
    pub(super) async fn load(&self, images: &[String], progress: &Progress) -> Result<(), TargetError> {
        let nodes = self.nodes().await?;
        for image in images {
            let inspect = ["image", "inspect", "--format", "{{.Id}}", image];
            let Ok(id) = ask("docker", &inspect, QUESTION).await else {
                progress.line(format!(
                    "  the image {image} is not on this machine: the node has it or must pull it"
                ));
                continue;
            };
            let mut lacking = false;
            for node in &nodes {
                let list = ["exec", node, "ctr", "--namespace", "k8s.io", "images", "ls"];
                let there = ask("docker", &list, QUESTION).await?;
                lacking |= !has_image(&there, image, id.trim());
            }
            if lacking {
                let arguments = ["load", "docker-image", image, "--name", &self.name];
                let what = format!("the image {image} to be copied to the nodes");
                let log = self.log();
                progress
                    .during(&what, LOADING, work("kind", &arguments, LOADING, &log))
                    .await?;
            }
        }
        Ok(())
    }

    /// The folder of this machine where volumes lie that move with their pod.
    fn moving(&self) -> PathBuf {
        self.folder.join("moving")
    }

    /// A file that is there from before the cluster is made until it is whole.
    fn unfinished(&self) -> PathBuf {
        self.folder.join("unfinished")
    }

    fn marker(&self) -> PathBuf {
        self.folder.join("made-by")
    }

    /// Notes whose the cluster is.
    pub(super) fn belongs_to(&self, maker: &Maker) {
        let text = match maker {
            Maker::Up => "up\n".to_owned(),
            Maker::Run(id) => format!("run {id}\n"),
        };
        if let Err(error) = std::fs::write(self.marker(), text) {
            tracing::warn!(%error, "it cannot be noted who made the cluster, so nobody will delete it");
        }
    }

    /// Whether a run made it, this one or one that was killed. A cluster of unknown origin is somebody's.
    pub(super) fn made_by_a_run(&self) -> bool {
        std::fs::read_to_string(self.marker()).is_ok_and(|text| text.starts_with("run "))
    }
}

/// The containers that are the nodes of a cluster, the control plane first.
pub(super) async fn nodes_of(cluster: &str) -> Result<Vec<String>, TargetError> {
    let nodes = ask("kind", &["get", "nodes", "--name", cluster], QUESTION).await?;
    let mut nodes: Vec<String> = nodes.split_whitespace().map(str::to_owned).collect();
    nodes.sort_by_key(|node| (!node.ends_with("-control-plane"), node.clone()));
    Ok(nodes)
}

/// The family of the addresses in a cluster, by one of its nodes: kind starts those of an IPv6 cluster as routers of IPv6.
async fn ip_family_of(node: &str) -> Result<IpFamily, TargetError> {
    let format = "{{index .HostConfig.Sysctls \"net.ipv6.conf.all.forwarding\"}}";
    let routes = ask("docker", &["inspect", "--format", format, node], QUESTION).await?;
    Ok(if routes.trim() == "1" {
        IpFamily::Ipv6
    } else {
        IpFamily::Ipv4
    })
}

fn try_lock(file: &File) -> std::io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The node image: the one that is named, else the one that was built here, else kind's own.
async fn node_image() -> Option<String> {
    if let Ok(named) = std::env::var("RCC_NODE_IMAGE")
        && !named.is_empty()
    {
        return Some(named);
    }
    let inspect = ["image", "inspect", "--format", "{{.Id}}", LOCAL_NODE_IMAGE];
    ask("docker", &inspect, QUESTION)
        .await
        .ok()
        .map(|_| LOCAL_NODE_IMAGE.to_owned())
}

/// Whether containerd's list has the image by its name, and is of the same content: the list has an entry by the id that
/// Docker gives, with the same digest as the entry by name.
fn has_image(list: &str, image: &str, id: &str) -> bool {
    let digest = |wanted: &dyn Fn(&str) -> bool| {
        list.lines()
            .filter_map(|line| {
                let mut columns = line.split_whitespace();
                let (name, _kind, digest) = (columns.next()?, columns.next()?, columns.next()?);
                wanted(name).then(|| digest.to_owned())
            })
            .next()
    };
    let by_name = digest(&|name| name == image || name.strip_prefix("docker.io/") == Some(image));
    let by_id = digest(&|name| name == id);
    by_name.is_some() && by_name == by_id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_counts_as_loaded_by_name_and_content() {
        let list = "REF TYPE DIGEST SIZE\n\
                    docker.io/a/b:1 application/vnd.docker sha256:mmm 7 MiB\n\
                    sha256:iii application/vnd.docker sha256:mmm 7 MiB\n\
                    sha256:old application/vnd.docker sha256:nnn 7 MiB\n";
        assert!(has_image(list, "a/b:1", "sha256:iii"));
        assert!(!has_image(list, "a/b:1", "sha256:old"));
        assert!(!has_image(list, "a/b:2", "sha256:iii"));
        assert!(!has_image("", "a/b:1", "sha256:iii"));
    }
}

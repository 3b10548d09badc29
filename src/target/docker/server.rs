//! One server in its container: its making, start, signals and end.

use super::daemon::{self, Network, failed, status};
use super::leftovers::machine;
use super::{LABEL, MACHINE};
use crate::cluster::connection::Address;
use crate::cluster::node::Member;
use crate::target::addresses::answers;
use crate::target::kept;
use crate::target::{Secret, TLS_PORT, TargetError, redis_conf};
use bollard::Docker;
use bollard::models::ContainerState;
use bollard::query_parameters::{InspectContainerOptions, KillContainerOptionsBuilder, StartContainerOptions};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testcontainers::core::Mount;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};

/// The port of every server, in its container and from this machine.
const PORT: u16 = 6379;
/// The server's own log, in its folder. What it says before that, and when it cannot write it, is the container's log.
const LOG: &str = "redis.log";
/// How long a program that only prints something, or a killed server, may take to end.
const END: Duration = Duration::from_secs(20);

/// A container as testcontainers holds it.
pub(super) type Container = ContainerAsync<GenericImage>;

/// What all servers of a target have in common.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) docker: Docker,
    pub(super) image: String,
    pub(super) program: String,
    pub(super) network: Network,
    pub(super) labels: HashMap<String, String>,
    pub(super) redis_conf: String,
    pub(super) password: Option<Secret>,
}

/// A server, its data's folder on this machine, and its present address.
#[derive(Debug)]
pub(super) struct Server {
    plan: Plan,
    name: String,
    folder: PathBuf,
    address: std::sync::Mutex<Ipv4Addr>,
    altered: Vec<String>,
}

/// A container of an image with what every one of ours has: labels, no network, no port of this machine, and no more
/// rights than the user whose run it is.
fn request(image: &str, program: &str, labels: &HashMap<String, String>) -> ContainerRequest<GenericImage> {
    let (name, tag) = reference(image);
    GenericImage::new(name, tag)
        .with_entrypoint(program)
        .with_labels(labels)
        .with_host_config_modifier(|host| {
            // The server is reached by its own address. Its network is given to it once it runs: only so is the address ours
            // to choose, and the same after every start.
            host.network_mode = Some("none".into());
            host.publish_all_ports = Some(false);
            host.userns_mode = Some("host".into());
            host.cap_drop = Some(vec!["ALL".into()]);
            host.security_opt = Some(vec!["no-new-privileges".into()]);
        })
}

/// An image's name and tag; a digest (`name@sha256:…`) is split at the same place.
pub(super) fn reference(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

/// The server's program in an image, and what it says of its version.
pub(super) async fn program_of(
    docker: &Docker,
    image: &str,
    labels: &HashMap<String, String>,
) -> Result<(String, String), TargetError> {
    let about = docker
        .inspect_image(image)
        .await
        .map_err(failed(format!("image {image}")))?;
    let config = about.config.unwrap_or_default();
    let own = [config.cmd, config.entrypoint].into_iter().flatten().flatten();
    let mut candidates: Vec<String> = own.filter(|word| word.ends_with("-server")).collect();
    candidates.extend(["redis-server".into(), "valkey-server".into()]);
    let mut last = String::new();
    for program in candidates {
        match request(image, &program, labels).with_cmd(["--version"]).start().await {
            Ok(container) => {
                let ended = async {
                    while is_running(docker, container.id()).await? {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Ok::<_, TargetError>(())
                };
                let said = match tokio::time::timeout(END, ended).await {
                    Ok(ended) => {
                        ended?;
                        daemon::logs(docker, container.id(), "1").await?
                    }
                    Err(_) => String::new(),
                };
                daemon::remove_container(docker, container.id()).await?;
                // Removed already: what removes it on drop would only find nothing.
                std::mem::forget(container);
                let version = said.split_whitespace().find_map(|word| word.strip_prefix("v="));
                if let Some(version) = version {
                    return Ok((program, version.to_owned()));
                }
                last = format!("{program} --version says: {}", said.trim());
            }
            Err(error) => {
                last = error.to_string();
                // What could not be started has been made all the same; nothing else of this run is there yet.
                if let Some(folder) = labels.get(LABEL) {
                    daemon::remove_all_of(docker, folder).await?;
                }
            }
        }
    }
    Err(TargetError::Usage(format!(
        "no server could be found in the image {image} (looked for redis-server and valkey-server): {last}"
    )))
}

async fn state(docker: &Docker, container: &str) -> Result<ContainerState, TargetError> {
    let about = docker
        .inspect_container(container, None::<InspectContainerOptions>)
        .await
        .map_err(failed(container))?;
    Ok(about.state.unwrap_or_default())
}

async fn is_running(docker: &Docker, container: &str) -> Result<bool, TargetError> {
    Ok(state(docker, container).await?.running.unwrap_or_default())
}

impl Server {
    pub(super) fn new(
        plan: &Plan,
        parent: &Path,
        name: String,
        address: Ipv4Addr,
        node: usize,
        altered: Vec<String>,
    ) -> Self {
        Self {
            plan: plan.clone(),
            folder: parent.join(node.to_string()),
            name,
            address: std::sync::Mutex::new(address),
            altered,
        }
    }

    /// The container's name, and the member's.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn docker(&self) -> &Docker {
        &self.plan.docker
    }

    pub(super) fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            address: Address::new(self.address().to_string(), PORT),
        }
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        *self.address.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes the redis.conf for the present address.
    fn write_configuration(&self) -> Result<(), TargetError> {
        let folder = self.folder.display();
        let mut own = vec![
            "bind 0.0.0.0".to_owned(),
            format!("port {PORT}"),
            format!("dir \"{folder}\""),
            format!("logfile \"{folder}/{LOG}\""),
            "daemonize no".into(),
            "cluster-config-file nodes.conf".into(),
            format!("cluster-announce-ip {}", self.address()),
        ];
        if self.plan.password.is_none() {
            // Without a password a server would refuse whoever is not in its own container.
            own.push("protected-mode no".into());
        }
        let text = redis_conf::configuration(&self.plan.redis_conf, &own, self.plan.password.as_ref());
        let altered: Vec<String> = self.altered.iter().map(|line| line.replace(TLS_PORT, "6380")).collect();
        redis_conf::write(&self.folder, &text, &altered)
    }

    /// Writes the redis.conf; returns what makes the container, with its address. That owns all it needs, so that it can be
    /// let run to its end whatever becomes of the run.
    pub(super) fn making(
        &self,
    ) -> Result<impl Future<Output = Result<Container, TargetError>> + Send + 'static, TargetError> {
        self.write_configuration()?;
        let about = std::fs::metadata(&self.folder)
            .map_err(|error| TargetError::Surroundings(format!("{}: {error}", self.folder.display())))?;
        // The server is the same user in its container as the suite is here: each can read what the other writes, and
        // nobody else can.
        let user = format!("{}:{}", about.uid(), about.gid());
        // The folder has one path here and there: what a server says of its files is true on both sides.
        let folder = self.folder.display().to_string();
        let request = request(&self.plan.image, &self.plan.program, &self.plan.labels)
            .with_cmd([format!("{folder}/redis.conf")])
            .with_container_name(&self.name)
            .with_user(user)
            .with_working_dir(&folder)
            .with_mount(Mount::bind_mount(&folder, &folder));
        let (plan, name, address) = (self.plan.clone(), self.name.clone(), self.address());
        Ok(async move {
            let container = request.start().await.map_err(|error| {
                TargetError::NotDeployed(format!(
                    "the container {name} of {} could not be started: {error}",
                    plan.image
                ))
            })?;
            daemon::detach(&plan.docker, "none", &name).await?;
            plan.network.attach(&plan.docker, &name, address).await?;
            Ok(container)
        })
    }

    /// The container's first process, by its number where the daemon is; none while the container does not run.
    pub(super) async fn process(&self) -> Result<Option<i64>, TargetError> {
        let state = state(&self.plan.docker, &self.name).await?;
        let running = state.running.unwrap_or_default();
        Ok(state.pid.filter(|pid| running && *pid > 0))
    }

    /// Starts the container and waits until the server answers.
    pub(super) async fn start(&self, bound: Duration) -> Result<(), TargetError> {
        self.plan
            .docker
            .start_container(&self.name, None::<StartContainerOptions>)
            .await
            .map_err(failed(format!("{} could not be started", self.name)))?;
        self.until_answering(bound).await
    }

    /// Waits until the server answers.
    pub(super) async fn until_answering(&self, bound: Duration) -> Result<(), TargetError> {
        let started = Instant::now();
        let member = self.member();
        loop {
            // Where no way leads to the address, the system takes seconds to say so.
            let last = match tokio::time::timeout(Duration::from_secs(2), answers(&member.address)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(last)) => last,
                Err(_) => "no connection within 2 s".to_owned(),
            };
            let state = state(&self.plan.docker, &self.name).await?;
            if !state.running.unwrap_or_default() {
                return Err(TargetError::NotDeployed(format!(
                    "the server {} of {} ended at once (exit code {}): {}",
                    self.name,
                    self.plan.image,
                    state.exit_code.unwrap_or_default(),
                    self.last_words().await
                )));
            }
            if started.elapsed() >= bound {
                return Err(TargetError::NotDeployed(format!(
                    "the server {member} does not answer after {:.0} s: {last}; its log ends: {}; \
                     containers' addresses are reached only where Docker runs on this very machine, and it is Linux",
                    bound.as_secs_f64(),
                    self.last_words().await
                )));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// SIGTERM, and waits until the server has ended; SIGKILL when it has not within `patience`, as Kubernetes does after
    /// the grace period. The signal is sent again every second: Redis drops one that comes while it writes its first
    /// append-only file after a synchronisation ("Writing initial AOF, can't exit").
    pub(super) async fn terminate(&self, patience: Duration) -> Result<(), TargetError> {
        let started = Instant::now();
        while started.elapsed() < patience {
            self.signal("SIGTERM").await?;
            if self.has_ended_within(Duration::from_secs(1)).await? {
                return Ok(());
            }
        }
        self.kill().await
    }

    /// SIGKILL, and waits until the server has ended.
    pub(super) async fn kill(&self) -> Result<(), TargetError> {
        self.signal("SIGKILL").await?;
        if self.has_ended_within(END).await? {
            return Ok(());
        }
        Err(TargetError::Surroundings(format!(
            "{} was killed and has not ended within {} s",
            self.name,
            END.as_secs()
        )))
    }

    async fn has_ended_within(&self, limit: Duration) -> Result<bool, TargetError> {
        let started = Instant::now();
        while is_running(&self.plan.docker, &self.name).await? {
            if started.elapsed() >= limit {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }

    async fn signal(&self, signal: &str) -> Result<(), TargetError> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        match self.plan.docker.kill_container(&self.name, Some(options)).await {
            // It has ended.
            Err(error) if status(&error) == Some(409) => Ok(()),
            done => done.map_err(failed(format!("{signal} could not be sent to {}", self.name))),
        }
    }

    /// Takes the server off its network.
    pub(super) async fn detach(&self) -> Result<(), TargetError> {
        self.plan.network.detach(&self.plan.docker, &self.name).await
    }

    /// Puts the server on its network, with its address.
    pub(super) async fn attach(&self) -> Result<(), TargetError> {
        self.plan
            .network
            .attach(&self.plan.docker, &self.name, self.address())
            .await
    }

    /// Gives the stopped server another address.
    pub(super) async fn move_to(&self, address: Ipv4Addr) -> Result<(), TargetError> {
        self.detach().await?;
        *self.address.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = address;
        self.write_configuration()?;
        self.attach().await
    }

    /// The last lines that the server wrote, for an error.
    async fn last_words(&self) -> String {
        let own = std::fs::read_to_string(self.folder.join(LOG)).unwrap_or_default();
        let container = match daemon::logs(&self.plan.docker, &self.name, "4").await {
            Ok(text) => text,
            Err(error) => error.to_string(),
        };
        let text = format!("{own}\n{container}");
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        self.redact(&lines[lines.len().saturating_sub(4)..].join(" / "))
    }

    /// What is known of the container, as files below `folder`.
    pub(super) async fn collect_evidence(&self, folder: &Path) {
        let docker = &self.plan.docker;
        let log = daemon::logs(docker, &self.name, "all").await;
        let inspected = docker
            .inspect_container(&self.name, None::<InspectContainerOptions>)
            .await
            .map_err(failed("inspect"))
            .map(|about| serde_json::to_string_pretty(&about).unwrap_or_default());
        let file = |name: &str| {
            std::fs::read_to_string(self.folder.join(name))
                .map_err(|error| TargetError::Surroundings(error.to_string()))
        };
        for (kind, text) in [
            ("container.log", log),
            ("inspect.json", inspected),
            (LOG, file(LOG)),
            ("nodes.conf", file("nodes.conf")),
        ] {
            let text = match text {
                Ok(text) => self.redact(&text),
                Err(error) => format!("could not be read: {error}\n"),
            };
            // Evidence never fails a run; a full disk shows itself when run.json is written.
            let _ = kept::write(&folder.join(format!("{}-{kind}", self.name)), &text).await;
        }
    }

    fn redact(&self, text: &str) -> String {
        self.plan
            .password
            .as_ref()
            .map_or_else(|| text.to_owned(), |password| password.redact(text))
    }
}

/// The labels of everything that a run makes.
pub(super) fn labels(run_id: &str, folder: &Path) -> HashMap<String, String> {
    HashMap::from([
        (LABEL.to_owned(), folder.display().to_string()),
        (MACHINE.to_owned(), machine()),
        ("redis-cluster-conformance.run".to_owned(), run_id.to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_split_into_name_and_tag() {
        assert_eq!(reference("redis"), ("redis", "latest"));
        assert_eq!(reference("redis:7"), ("redis", "7"));
        assert_eq!(reference("localhost:5000/redis"), ("localhost:5000/redis", "latest"));
        assert_eq!(reference("localhost:5000/redis:7"), ("localhost:5000/redis", "7"));
        assert_eq!(reference("redis@sha256:12"), ("redis@sha256", "12"));
    }
}

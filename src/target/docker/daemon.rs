//! The Docker daemon: whether it answers, images, networks, and what is found by label.

use super::server::reference;
use super::{LABEL, MACHINE};
use crate::progress::Progress;
use crate::target::TargetError;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest,
};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, InspectNetworkOptions, ListContainersOptionsBuilder, ListNetworksOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures::StreamExt;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// How long the daemon may take for an answer that needs no work.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a registry may be silent.
const REGISTRY: Duration = Duration::from_secs(20);
/// How long the removal of containers may take.
const REMOVAL: Duration = Duration::from_secs(60);

/// The client of the daemon that DOCKER_HOST names, or this machine's.
pub(super) async fn connect() -> Result<Docker, TargetError> {
    let none = |reason: String| {
        TargetError::Surroundings(format!(
            "no Docker daemon answers: {reason}; start it (scripts/setup --for docker installs and starts one), or name another with DOCKER_HOST"
        ))
    };
    let docker = testcontainers::core::client::docker_client_instance()
        .await
        .map_err(|error| none(error.to_string()))?;
    match tokio::time::timeout(PATIENCE, docker.ping()).await {
        Ok(Ok(_)) => Ok(docker),
        Ok(Err(error)) => Err(none(said(&error))),
        Err(_) => Err(none(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}

/// The error of a call, with what was being done.
pub(super) fn failed(what: impl std::fmt::Display) -> impl FnOnce(Error) -> TargetError {
    move |error| TargetError::Surroundings(format!("{what}: {}", said(&error)))
}

/// What the daemon said, without the words around it; where nothing answers, the whole way down to why.
fn said(error: &Error) -> String {
    if let Error::DockerResponseServerError { message, .. } = error {
        return message.clone();
    }
    let mut causes = vec![error.to_string()];
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !causes.iter().any(|told| told.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    causes.join(": ")
}

/// The status by which the daemon refused.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Sees to it that an image is there: pulls it where it is not.
pub(super) async fn fetch(docker: &Docker, image: &str, progress: &Progress) -> Result<(), TargetError> {
    match docker.inspect_image(image).await {
        Ok(_) => return Ok(()),
        Err(error) if status(&error) == Some(404) => {}
        Err(error) => return Err(failed(format!("image {image}"))(error)),
    }
    if image.starts_with("redis-cluster-conformance/") {
        // Made on this machine, and in no registry: whatever a registry had under that name would be somebody else's.
        return Err(TargetError::Usage(format!(
            "there is no image {image} on this machine: `scripts/images` builds those of this project, `scripts/images --help` names them; or name another with --image"
        )));
    }
    let unavailable = |reason: String| {
        format!(
            "there is no image {image} on this machine, and it cannot be pulled: {reason}; build or load it, or name another with --image"
        )
    };
    progress.line(format!("pulling the image {image}"));
    // The one that containers are made of: without a tag all that there are would be pulled.
    let (name, tag) = reference(image);
    let options = CreateImageOptionsBuilder::new()
        .from_image(&format!("{name}:{tag}"))
        .build();
    let mut stream = std::pin::pin!(docker.create_image(Some(options), None, None));
    loop {
        match tokio::time::timeout(REGISTRY, stream.next()).await {
            Ok(Some(Ok(_))) => {}
            Ok(None) => return Ok(()),
            Ok(Some(Err(error))) if is_refusal(&error) => return Err(TargetError::Usage(unavailable(said(&error)))),
            Ok(Some(Err(error))) => return Err(TargetError::Surroundings(unavailable(said(&error)))),
            Err(_) => {
                let reason = format!("the registry was silent for {} s", REGISTRY.as_secs());
                return Err(TargetError::Surroundings(unavailable(reason)));
            }
        }
    }
}

/// Whether a registry has no such image, or not for this user: another name, or a login, is what helps. Where none answers, or
/// one wants fewer pulls, whoever named the image can do nothing about it.
fn is_refusal(error: &Error) -> bool {
    let said = said(error).to_lowercase();
    // The daemon gives some of these the status of an error of its own.
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if status(error) == Some(429) || any(&["toomanyrequests", "too many requests"]) {
        return false;
    }
    matches!(status(error), Some(400 | 401 | 403 | 404))
        || any(&[
            "access denied",
            "denied:",
            "not found",
            "does not exist",
            "manifest unknown",
            "no matching manifest",
            "unauthorized",
            "authorization failed",
        ])
}

/// Ends a program in a container, with what it has started; whether it has ended. The API has no word for it: it is killed by
/// its number on this machine.
pub(super) async fn end_exec(docker: &Docker, id: &str) -> bool {
    let Ok(Ok(about)) = tokio::time::timeout(PATIENCE, docker.inspect_exec(id)).await else {
        return false;
    };
    if about.running == Some(false) {
        return true;
    }
    let pid = about.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
    let (Some(pid), Some(container)) = (pid, about.container_id) else {
        return false;
    };
    // The number is the daemon's, which may be on another machine, or see other processes.
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if !is_of_container(&groups, &container) {
        return false;
    }
    // It leads a group of processes, in which is what it has started.
    let pid = Pid::from_raw(pid);
    killpg(pid, Signal::SIGKILL)
        .or_else(|_| kill(pid, Signal::SIGKILL))
        .is_ok()
}

/// Whether a process with these control groups (/proc/…/cgroup) runs in a container.
fn is_of_container(groups: &str, container: &str) -> bool {
    !container.is_empty() && groups.contains(container)
}

/// A network of our own, and the addresses that it has.
#[derive(Clone, Debug)]
pub(super) struct Network {
    name: String,
    base: u32,
    size: u32,
}

impl Network {
    /// Makes a network. Fixed addresses are to be had only where the range was asked for, and only the daemon knows which
    /// ranges are free: so it is first asked for any, and then for that one.
    pub(super) async fn create(
        docker: &Docker,
        name: &str,
        labels: &HashMap<String, String>,
    ) -> Result<Self, TargetError> {
        // In this process one after another; another process may still take the range in between.
        static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _turn = ONE_AT_A_TIME.lock().await;
        let mut tries = 0;
        loop {
            tries += 1;
            make(docker, name, None, labels).await?;
            let range = range_of(docker, name).await;
            docker
                .remove_network(name)
                .await
                .map_err(failed(format!("network {name}")))?;
            let (base, size) = range?;
            let range = format!("{base}/{}", 32 - size.trailing_zeros());
            match make(docker, name, Some(range), labels).await {
                Ok(()) => {
                    return Ok(Self {
                        name: name.to_owned(),
                        base: base.to_bits(),
                        size,
                    });
                }
                Err(TargetError::Surroundings(text)) if text.contains("overlaps") && tries < 10 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The address of that number. The first ones are the network's own and its gateway's, the last is for broadcasts.
    pub(super) fn address(&self, number: u32) -> Result<Ipv4Addr, TargetError> {
        if number + 3 >= self.size {
            return Err(TargetError::Surroundings(format!(
                "the network {} has {} addresses, and all are used up; give Docker larger ranges (default-address-pools in daemon.json)",
                self.name, self.size
            )));
        }
        Ok(Ipv4Addr::from_bits(self.base + 2 + number))
    }

    /// Gives a container an address on the network; nothing when it has one already.
    pub(super) async fn attach(&self, docker: &Docker, container: &str, address: Ipv4Addr) -> Result<(), TargetError> {
        let endpoint = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(address.to_string()),
                ..EndpointIpamConfig::default()
            }),
            ..EndpointSettings::default()
        };
        let request = NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: Some(endpoint),
        };
        match docker.connect_network(&self.name, request).await {
            Err(error) if said(&error).contains("already exists in network") => Ok(()),
            done => done.map_err(failed(format!(
                "{container} could not be put on its network as {address}"
            ))),
        }
    }

    /// Takes a container off the network; nothing when it is not on it.
    pub(super) async fn detach(&self, docker: &Docker, container: &str) -> Result<(), TargetError> {
        detach(docker, &self.name, container).await
    }
}

/// Takes a container off a network; nothing when it is not on it.
pub(super) async fn detach(docker: &Docker, network: &str, container: &str) -> Result<(), TargetError> {
    let request = NetworkDisconnectRequest {
        container: container.to_owned(),
        force: Some(true),
    };
    match docker.disconnect_network(network, request).await {
        Err(error) if said(&error).contains("is not connected to") => Ok(()),
        done => done.map_err(failed(format!("{container} could not be taken off {network}"))),
    }
}

async fn make(
    docker: &Docker,
    name: &str,
    range: Option<String>,
    labels: &HashMap<String, String>,
) -> Result<(), TargetError> {
    let ipam = range.map(|range| Ipam {
        config: Some(vec![IpamConfig {
            subnet: Some(range),
            ..IpamConfig::default()
        }]),
        ..Ipam::default()
    });
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".into()),
        ipam,
        labels: Some(labels.clone()),
        ..NetworkCreateRequest::default()
    };
    docker.create_network(request).await.map(drop).map_err(|error| {
        let said = said(&error);
        let next = if said.contains("address pool") {
            "; all ranges are taken: `docker network prune` removes networks that nothing uses"
        } else {
            ""
        };
        TargetError::Surroundings(format!("no network could be made: {said}{next}"))
    })
}

/// The first address of a network, and how many it has.
async fn range_of(docker: &Docker, name: &str) -> Result<(Ipv4Addr, u32), TargetError> {
    let network = docker
        .inspect_network(name, None::<InspectNetworkOptions>)
        .await
        .map_err(failed(format!("network {name}")))?;
    let ranges = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let subnets = ranges.into_iter().filter_map(|range| range.subnet);
    subnets
        .filter_map(|subnet| parse_range(&subnet))
        .next()
        .ok_or_else(|| TargetError::Surroundings(format!("Docker gave the network {name} no IPv4 addresses")))
}

fn parse_range(text: &str) -> Option<(Ipv4Addr, u32)> {
    let (base, bits) = text.split_once('/')?;
    let (base, bits): (Ipv4Addr, u32) = (base.parse().ok()?, bits.parse().ok()?);
    (8..=30).contains(&bits).then(|| (base, 1 << (32 - bits)))
}

/// The filter of what carries a label, with a value where one is given.
fn carrying(label: &str, value: Option<&str>) -> HashMap<String, Vec<String>> {
    let label = value.map_or_else(|| label.to_owned(), |value| format!("{label}={value}"));
    HashMap::from([("label".to_owned(), vec![label])])
}

/// What carries our label.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: String,
    /// The folder of the run that made it.
    pub(super) folder: String,
    /// The machine on which that folder is; older releases did not say.
    pub(super) machine: Option<String>,
}

/// The containers that runs made: of one folder, or of all.
pub(super) async fn containers(docker: &Docker, folder: Option<&str>) -> Result<Vec<Found>, TargetError> {
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&carrying(LABEL, folder))
        .build();
    let list = docker.list_containers(Some(options)).await;
    let list = list.map_err(failed("containers"))?.into_iter();
    Ok(list.filter_map(|one| found(one.id, one.labels)).collect())
}

/// The networks that runs made: of one folder, or of all.
pub(super) async fn networks(docker: &Docker, folder: Option<&str>) -> Result<Vec<Found>, TargetError> {
    let options = ListNetworksOptionsBuilder::new()
        .filters(&carrying(LABEL, folder))
        .build();
    let list = docker.list_networks(Some(options)).await;
    let list = list.map_err(failed("networks"))?.into_iter();
    Ok(list.filter_map(|one| found(one.id, one.labels)).collect())
}

fn found(id: Option<String>, labels: Option<HashMap<String, String>>) -> Option<Found> {
    let mut labels = labels?;
    Some(Found {
        id: id?,
        folder: labels.remove(LABEL)?,
        machine: labels.remove(MACHINE),
    })
}

/// Removes all containers and networks that carry a folder's name; returns how many containers there were.
pub(super) async fn remove_all_of(docker: &Docker, folder: &str) -> Result<usize, TargetError> {
    let started = Instant::now();
    let mut count = None;
    loop {
        let left = containers(docker, Some(folder)).await?;
        count.get_or_insert(left.len());
        if left.is_empty() {
            break;
        }
        let removals = left.iter().map(|one| remove_container(docker, &one.id));
        // One that could not be removed is found again by the next look.
        let last = futures::future::join_all(removals)
            .await
            .into_iter()
            .find_map(Result::err);
        if started.elapsed() > REMOVAL {
            return Err(left_behind(
                folder,
                &last.map_or_else(String::new, |error| error.to_string()),
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    loop {
        let left = networks(docker, Some(folder)).await?;
        let mut last = None;
        for one in &left {
            last = docker.remove_network(&one.id).await.err();
        }
        match last {
            None => return Ok(count.unwrap_or_default()),
            Some(error) if status(&error) == Some(404) => {}
            Some(error) if started.elapsed() > REMOVAL => return Err(left_behind(folder, &said(&error))),
            Some(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn left_behind(folder: &str, why: &str) -> TargetError {
    TargetError::Surroundings(format!(
        "containers are left behind ({why}): docker rm -f $(docker ps -aq --filter label={LABEL}={folder}); \
         docker network prune --filter label={LABEL}={folder}"
    ))
}

/// Removes a container whatever it does; nothing when it is gone, or going.
pub(super) async fn remove_container(docker: &Docker, id: &str) -> Result<(), TargetError> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match docker.remove_container(id, Some(options)).await {
        Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
        done => done.map_err(failed(format!("container {id} could not be removed"))),
    }
}

/// What a container has written: all of it, or the last lines.
pub(super) async fn logs(docker: &Docker, container: &str, tail: &str) -> Result<String, TargetError> {
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(tail).build();
    let mut stream = std::pin::pin!(docker.logs(container, Some(options)));
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(failed(format!("the log of {container}")))?;
        bytes.extend_from_slice(&piece.into_bytes());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::no_such_name(
        404,
        "pull access denied for nobody/none, repository does not exist or may require 'docker login'",
        true
    )]
    #[case::no_such_tag(404, "manifest for redis:0 not found: manifest unknown: manifest unknown", true)]
    #[case::no_login(500, "unauthorized: authentication required", true)]
    #[case::no_right(500, "denied: requested access to the resource is denied", true)]
    #[case::no_name(400, "invalid reference format", true)]
    #[case::too_often(429, "toomanyrequests: You have reached your pull rate limit", false)]
    #[case::too_often_told_otherwise(500, "toomanyrequests: retry later, or the pull is denied: see the manual", false)]
    #[case::no_registry(
        500,
        "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
        false
    )]
    #[case::no_way(500, "dial tcp 192.0.2.1:443: connect: no route to host", false)]
    #[case::a_broken_registry(500, "received unexpected HTTP status: 503 Service Unavailable", false)]
    fn who_named_an_image_is_told_of_what_they_can_change(
        #[case] status_code: u16,
        #[case] message: &str,
        #[case] refusal: bool,
    ) {
        let message = message.to_owned();
        assert_eq!(
            is_refusal(&Error::DockerResponseServerError { status_code, message }),
            refusal
        );
    }

    #[rstest]
    #[case::no_such_tag(
        "failed to resolve reference \"docker.io/library/redis:0\": docker.io/library/redis:0: not found",
        true
    )]
    #[case::too_often("unexpected status code 429 Too Many Requests", false)]
    #[case::broken_off("unexpected EOF", false)]
    fn so_it_is_in_the_middle_of_a_pull(#[case] error: &str, #[case] refusal: bool) {
        let error = error.to_owned();
        assert_eq!(is_refusal(&Error::DockerStreamError { error }), refusal);
    }

    #[rstest]
    #[case::by_systemd("0::/system.slice/docker-4bb4.scope\n", "4bb4", true)]
    #[case::by_the_daemon("12:memory:/docker/4bb4\n0::/docker/4bb4\n", "4bb4", true)]
    #[case::in_another("0::/docker/77aa\n", "4bb4", false)]
    #[case::in_none("0::/user.slice\n", "4bb4", false)]
    #[case::no_such_process("", "4bb4", false)]
    #[case::no_container_is_told("0::/user.slice\n", "", false)]
    fn only_a_process_of_the_container_is_killed(#[case] groups: &str, #[case] container: &str, #[case] of_it: bool) {
        assert_eq!(is_of_container(groups, container), of_it);
    }

    #[test]
    fn a_network_s_addresses_are_those_of_its_range() {
        let (base, size) = parse_range("192.168.16.0/28").unwrap_or((Ipv4Addr::UNSPECIFIED, 0));
        let network = Network {
            name: "n".into(),
            base: base.to_bits(),
            size,
        };
        let first = network.address(0).ok();
        assert_eq!(first, Some(Ipv4Addr::new(192, 168, 16, 2)));
        assert_eq!(network.address(12).ok(), Some(Ipv4Addr::new(192, 168, 16, 14)));
        assert!(network.address(13).is_err());
        assert_eq!(parse_range("fd00::/64"), None);
    }
}

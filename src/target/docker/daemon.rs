//! The Docker daemon: whether it answers, images, networks, and what is found by label.

use super::LABEL;
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
        TargetError::Usage(format!(
            "there is no image {image} on this machine, and it cannot be pulled: {reason}; build or load it, or name another with --image"
        ))
    };
    progress.line(format!("pulling the image {image}"));
    let options = CreateImageOptionsBuilder::new().from_image(image).build();
    let mut stream = std::pin::pin!(docker.create_image(Some(options), None, None));
    loop {
        match tokio::time::timeout(REGISTRY, stream.next()).await {
            Ok(Some(Ok(_))) => {}
            Ok(None) => return Ok(()),
            Ok(Some(Err(error))) => return Err(unavailable(said(&error))),
            Err(_) => {
                return Err(unavailable(format!(
                    "the registry was silent for {} s",
                    REGISTRY.as_secs()
                )));
            }
        }
    }
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
    Some(Found {
        id: id?,
        folder: labels?.remove(LABEL)?,
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

//! What a target on loopback starts, and the node-timeout that so many servers can keep to on this machine.

use crate::cluster::view::Shape;
use crate::target::{Alteration, Secret};
use crate::timing::Timing;
use std::path::PathBuf;

/// How many packets of the cluster bus a core can be asked to send and receive in a second, beside all else that it has
/// to do: each takes 50 µs or so, and what comes of one is written to the disk.
const PACKETS_PER_CORE: u64 = 2500;

/// What is started.
#[derive(Clone, Debug)]
pub struct ProcessesOptions {
    /// The redis.conf that every server starts from; paths, ports and passwords in it are replaced.
    pub redis_conf: String,
    /// Where the redis.conf comes from, for the report.
    pub source: String,
    /// The server's binary.
    pub server: PathBuf,
    /// The password of every server; `None` starts them with none.
    pub password: Option<Secret>,
    /// How many servers form the cluster, and in what roles; with no masters none is formed.
    pub shape: Shape,
    /// How many servers stand beside it and have joined nothing.
    pub spare: usize,
    /// The run's name, part of the folder's.
    pub run_id: String,
    /// The time limits.
    pub timing: Timing,
    /// Leave servers and folder behind.
    pub keep: bool,
    /// Keep the servers' data in memory, where this machine has room for that: then no server waits for a disk that is
    /// busy with something else, and none is called failed for it.
    pub in_memory: bool,
    /// What the redis.conf of single servers, or of all, says otherwise.
    pub alterations: Vec<Alteration>,
}

impl ProcessesOptions {
    /// Three masters with a replica each, of the redis-server on the PATH, in memory and without a password, which go when the
    /// run ends.
    pub fn new(redis_conf: impl Into<String>, source: &str, run_id: impl Into<String>, timing: Timing) -> Self {
        Self {
            redis_conf: redis_conf.into(),
            source: source.to_owned(),
            server: PathBuf::from("redis-server"),
            password: None,
            shape: Shape {
                masters: 3,
                replicas_per_master: 1,
            },
            spare: 0,
            run_id: run_id.into(),
            timing,
            keep: false,
            in_memory: true,
            alterations: Vec::new(),
        }
    }

    /// Every node pings every other within half a node-timeout, and each answers: with hundreds of servers on a few cores
    /// that is more than can be done, and they would call each other failed for ever. The node-timeout that the
    /// configuration says, and the least with which they can keep up, where that is more; both in milliseconds.
    pub(super) fn raised_node_timeout(&self, cores: usize) -> Option<(u64, u64)> {
        let servers = (self.shape.nodes() + self.spare) as u64;
        let altered = self.alterations.iter().filter(|alteration| alteration.node.is_none());
        let lines = self
            .redis_conf
            .lines()
            .chain(altered.flat_map(|alteration| alteration.directives.iter().map(String::as_str)));
        let configured = lines
            .filter_map(|line| line.trim().strip_prefix("cluster-node-timeout")?.trim().parse().ok())
            .next_back()
            // The servers' own default.
            .unwrap_or(15_000);
        let packets = 4 * servers * servers;
        let least = packets * 1000 / (PACKETS_PER_CORE * cores as u64);
        (least > configured).then_some((configured, least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::time::Duration;

    #[rstest]
    #[case::six_as_configured(3, "cluster-node-timeout 5000", 2, None)]
    #[case::six_with_a_short_one(3, "cluster-node-timeout 1000", 1, None)]
    #[case::sixty_as_configured(30, "cluster-node-timeout 5000", 2, None)]
    #[case::two_hundred_are_too_many(100, "cluster-node-timeout 5000", 2, Some((5000, 32_000)))]
    #[case::more_cores_keep_up(100, "cluster-node-timeout 5000", 16, None)]
    #[case::the_default_is_long(100, "", 8, None)]
    fn the_node_timeout_is_raised_only_for_too_many_servers(
        #[case] masters: usize,
        #[case] conf: &str,
        #[case] cores: usize,
        #[case] raised: Option<(u64, u64)>,
    ) {
        let options = ProcessesOptions {
            shape: Shape {
                masters,
                replicas_per_master: 1,
            },
            ..ProcessesOptions::new(conf, "a test", "run", Timing::new(Duration::from_secs(5)))
        };
        assert_eq!(options.raised_node_timeout(cores), raised);
    }
}

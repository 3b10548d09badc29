//! Every time limit by name, with its formula, source and override.
//!
//! Bounds come from the protocol's arithmetic over `cluster-node-timeout` as it is read from the target, not from what
//! passed today. Source: catalogue §1, Redis Cluster specification "Failure detection", "Replica election and promotion".

use std::collections::BTreeMap;
use std::time::Duration;

/// The time limits of a run.
#[derive(Clone, Debug)]
pub struct Timing {
    node_timeout: Duration,
    overrides: BTreeMap<&'static str, Duration>,
}

/// A time limit that can be overridden by its name.
#[derive(Debug)]
pub struct Named {
    /// The name, as `--timing NAME=SECONDS` takes it.
    pub name: &'static str,
    /// The formula, for people.
    pub formula: &'static str,
    /// Why it is so.
    pub reason: &'static str,
    compute: fn(f64) -> f64,
}

/// Every time limit, with its formula over the node-timeout NT in seconds.
pub static TIMINGS: &[Named] = &[
    Named {
        name: "T_pfail",
        formula: "1.5·NT + 0.2 s",
        reason: "PFAIL needs ping delay and data delay above NT; the ping starts at the latest NT/2 after the last pong",
        compute: |nt| 1.5 * nt + 0.2,
    },
    Named {
        name: "T_fail",
        formula: "2·NT + 1 s",
        reason: "the majority of masters must report by gossip",
        compute: |nt| 2.0 * nt + 1.0,
    },
    Named {
        name: "T_fo_min",
        formula: "NT + 0.5 s",
        reason: "no election can be faster: detection takes NT, the fixed delay 0.5 s",
        compute: |nt| nt + 0.5,
    },
    Named {
        name: "T_fo",
        formula: "2·NT + 3 s",
        reason: "detection, election delay 0.5 s + random 0.5 s, votes",
        compute: |nt| 2.0 * nt + 3.0,
    },
    Named {
        name: "T_fo_hard",
        formula: "3·NT + 5 s",
        reason: "the limit above which a failover counts as failed",
        compute: |nt| 3.0 * nt + 5.0,
    },
    Named {
        name: "T_fo_retry",
        formula: "3·NT + 5 s + max(4·NT, 4 s)",
        reason: "one lost election: the retry comes after twice the vote time-out",
        compute: |nt| 3.0 * nt + 5.0 + (4.0 * nt).max(4.0),
    },
    Named {
        name: "T_min",
        formula: "1.5·NT + 0.5 s",
        reason: "a master in the minority stops accepting writes",
        compute: |nt| 1.5 * nt + 0.5,
    },
    Named {
        name: "T_undo",
        formula: "2.5·NT",
        reason: "a master that nobody has replaced loses its flag `fail` 2·NT after it got it, at the next pong, NT/2 later at most",
        compute: |nt| 2.5 * nt,
    },
    Named {
        name: "T_back",
        formula: "NT + 5 s",
        reason: "a cluster that may serve again does: a rejoin delay of NT (at most 5 s), and until all know it",
        compute: |nt| nt + 5.0,
    },
    Named {
        name: "T_majority",
        formula: "3·NT + 3 s",
        reason: "the majority replaces a master whose packets are dropped: detection, the other masters' reports by gossip, an election",
        compute: |nt| 3.0 * nt + 3.0,
    },
    Named {
        name: "T_overlap",
        formula: "0.5·NT",
        reason: "T_min less T_fo_min: by so much a master that detects late can outlast a replacement that comes early",
        compute: |nt| 0.5 * nt,
    },
    Named {
        name: "T_demote",
        formula: "NT + 2 s",
        reason: "after a heal the bus makes its links anew, at the latest when TCP sends again what it sent 2 s before; the first message tells the old master",
        compute: |nt| nt + 2.0,
    },
    Named {
        name: "T_heal",
        formula: "2·NT + min(max(NT, 0.5 s), 5 s) + 60 s",
        reason: "links come back within 2 s, not all at once: nodes that still miss one call it failed, and keep that for 2·NT (CLUSTER_FAIL_UNDO_TIME_MULT), until they ask it again, which gossip puts off: one ping a second, to one of several, so a dozen such flags are all gone within 60 s but once in ten thousand; then a master that was in a minority waits for min(max(NT, 0.5 s), 5 s) before it serves (CLUSTER_MAX_REJOIN_DELAY)",
        compute: |nt| 2.0 * nt + nt.clamp(0.5, 5.0) + 60.0,
    },
    Named {
        name: "T_converge",
        formula: "4·NT",
        reason: "after a heal all nodes name one owner of each slot: failures that were seen are over, and so is an election that had begun",
        compute: |nt| 4.0 * nt,
    },
    Named {
        name: "T_w",
        formula: "2 s",
        reason: "CLUSTER_WRITABLE_DELAY: a restarted master answers CLUSTERDOWN first",
        compute: |_| 2.0,
    },
    Named {
        name: "T_sync",
        formula: "1.5·(5 s + 2 s)",
        reason: "repl-diskless-sync-delay 5 s, reconnect and transfer 2 s, slack 1.5",
        compute: |_| 10.5,
    },
    Named {
        name: "T_arrange",
        formula: "60 s",
        reason: "the surroundings' budget: a state that a case brings about before it judges; nothing is judged by the wait",
        compute: |_| 60.0,
    },
    Named {
        name: "T_stable",
        formula: "1.5·NT + 1 s",
        reason: "how long cluster_state:ok must hold before it counts",
        compute: |nt| 1.5 * nt + 1.0,
    },
    Named {
        name: "T_gossip",
        formula: "max(NT, 1 s)",
        reason: "a change of slots or addresses is seen by all",
        compute: |nt| nt.max(1.0),
    },
    Named {
        name: "T_manual",
        formula: "5 s",
        reason: "CLUSTER_MF_TIMEOUT",
        compute: |_| 5.0,
    },
    Named {
        name: "T_shutdown",
        formula: "10 s",
        reason: "shutdown-timeout: a master waits that long for its replicas",
        compute: |_| 10.0,
    },
    Named {
        name: "T_sched",
        formula: "60 s",
        reason: "the surroundings' budget: from a deleted pod to its successor's running container",
        compute: |_| 60.0,
    },
    Named {
        name: "T_names",
        formula: "30 s",
        reason: "the surroundings' budget: names lead to where servers are; a cache before the cluster's DNS keeps an answer so long",
        compute: |_| 30.0,
    },
    Named {
        name: "T_deploy",
        formula: "300 s",
        reason: "the surroundings' budget: from apply to a formed cluster",
        compute: |_| 300.0,
    },
    Named {
        name: "T_hook",
        formula: "120 s",
        reason: "a bootstrap that cannot succeed must have ended by then (BOOT-14)",
        compute: |_| 120.0,
    },
    Named {
        name: "T_ban",
        formula: "70 s",
        reason: "a forgotten node is kept out for 60 s (CLUSTER_BLACKLIST_TTL) before gossip may bring it back",
        compute: |_| 70.0,
    },
    Named {
        name: "T_reshape",
        formula: "60 s",
        reason: "a budget for moving slots by the servers themselves or by their command-line client: no statement on speed",
        compute: |_| 60.0,
    },
    Named {
        name: "T_rewrite",
        formula: "60 s",
        reason: "the surroundings' budget: an append-only file is rewritten",
        compute: |_| 60.0,
    },
    Named {
        name: "T_reply",
        formula: "5 s",
        reason: "the longest wait for one reply",
        compute: |_| 5.0,
    },
    Named {
        name: "T_catch_up",
        formula: "2 s",
        reason: "once writes stop, an attached replica has them all",
        compute: |_| 2.0,
    },
    Named {
        name: "T_visible",
        formula: "1 s",
        reason: "a write is read on an attached replica",
        compute: |_| 1.0,
    },
    Named {
        name: "T_soak",
        formula: "60 s",
        reason: "how long the deployment is watched under load with no fault; 600 s where there is time for it",
        compute: |_| 60.0,
    },
];

impl Named {
    /// The limit for a node-timeout.
    pub fn limit(&self, node_timeout: Duration) -> Duration {
        Duration::from_secs_f64((self.compute)(node_timeout.as_secs_f64()))
    }
}

impl Timing {
    /// Limits for a node-timeout, with no override.
    pub fn new(node_timeout: Duration) -> Self {
        Self {
            node_timeout,
            overrides: BTreeMap::new(),
        }
    }

    /// Parses `NAME=SECONDS`, as `--timing` takes it.
    ///
    /// # Errors
    /// When the name is unknown or the number is not a positive count of seconds.
    pub fn parse_override(text: &str) -> Result<(&'static str, Duration), String> {
        let (name, seconds) = text
            .split_once('=')
            .ok_or_else(|| format!("\"{text}\" is not NAME=SECONDS"))?;
        let named = TIMINGS.iter().find(|named| named.name == name).ok_or_else(|| {
            let known: Vec<&str> = TIMINGS.iter().map(|named| named.name).collect();
            format!("no timing is named \"{name}\"; there are {}", known.join(", "))
        })?;
        let seconds: f64 = seconds
            .trim_end_matches('s')
            .parse()
            .map_err(|_| format!("\"{seconds}\" is not a number of seconds"))?;
        if !(seconds > 0.0 && seconds < 1e6) {
            return Err(format!("{seconds} s is no useful limit for {name}"));
        }
        Ok((named.name, Duration::from_secs_f64(seconds)))
    }

    /// The same limits with some overridden.
    pub fn with_overrides(mut self, overrides: impl IntoIterator<Item = (&'static str, Duration)>) -> Self {
        self.overrides.extend(overrides);
        self
    }

    /// The same overrides for another node-timeout.
    pub fn with_node_timeout(mut self, node_timeout: Duration) -> Self {
        self.node_timeout = node_timeout;
        self
    }

    /// The target's `cluster-node-timeout`.
    pub fn node_timeout(&self) -> Duration {
        self.node_timeout
    }

    /// How long a server that ended may take until it is started again, in step with its master, and known to all:
    /// T_sched + T_sync + 2·NT (catalogue, OPS-16).
    pub fn returned(&self) -> Duration {
        self.scheduling() + self.sync() + 2 * self.node_timeout
    }

    fn get(&self, name: &'static str) -> Duration {
        if let Some(duration) = self.overrides.get(name) {
            return *duration;
        }
        TIMINGS
            .iter()
            .find(|named| named.name == name)
            .map_or(Duration::ZERO, |named| named.limit(self.node_timeout))
    }
}

macro_rules! limits {
    ($($method:ident = $name:literal),* $(,)?) => {
        impl Timing {
            $(#[doc = concat!("The limit `", $name, "`; formula and reason stand in [`TIMINGS`].")]
            pub fn $method(&self) -> Duration { self.get($name) })*
        }
        #[cfg(test)]
        const NAMES: &[&str] = &[$($name),*];
    };
}

limits! {
    pfail = "T_pfail",
    fail = "T_fail",
    failover_floor = "T_fo_min",
    failover = "T_fo",
    failover_hard = "T_fo_hard",
    failover_retry = "T_fo_retry",
    minority = "T_min",
    undo = "T_undo",
    back = "T_back",
    majority = "T_majority",
    overlap = "T_overlap",
    demotion = "T_demote",
    heal = "T_heal",
    converge = "T_converge",
    writable_delay = "T_w",
    sync = "T_sync",
    arrange = "T_arrange",
    stable = "T_stable",
    gossip = "T_gossip",
    manual_failover = "T_manual",
    shutdown = "T_shutdown",
    scheduling = "T_sched",
    names = "T_names",
    deployment = "T_deploy",
    hook = "T_hook",
    ban = "T_ban",
    reshape = "T_reshape",
    rewrite = "T_rewrite",
    reply = "T_reply",
    catch_up = "T_catch_up",
    visible = "T_visible",
    soak = "T_soak",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_table_name_the_same_limits() {
        let table: Vec<&str> = TIMINGS.iter().map(|named| named.name).collect();
        assert_eq!(table, NAMES);
    }

    #[test]
    fn the_seed_s_node_timeout_gives_the_catalogue_s_bounds() {
        let timing = Timing::new(Duration::from_secs(5));
        assert_eq!(timing.failover_hard(), Duration::from_secs(20));
        assert_eq!(timing.failover_retry(), Duration::from_secs(40));
        assert_eq!(timing.failover_floor(), Duration::from_millis(5500));
        assert_eq!(timing.stable(), Duration::from_millis(8500));
    }

    #[test]
    fn overrides_are_by_known_name() {
        let (name, limit) = Timing::parse_override("T_sched=90").unwrap();
        let timing = Timing::new(Duration::from_secs(5)).with_overrides([(name, limit)]);
        assert_eq!(timing.scheduling(), Duration::from_secs(90));
        assert!(Timing::parse_override("T_nope=1").unwrap_err().contains("T_sched"));
        assert!(Timing::parse_override("T_sched=-1").is_err());
        assert!(Timing::parse_override("T_sched").is_err());
    }
}

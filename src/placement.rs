//! Which host (Kubernetes node) each server of each shard is on, and what the loss of a host would take.

use crate::cluster::view::ClusterView;
use crate::context::Context;
use crate::verdict::Stop;
use std::collections::{BTreeMap, BTreeSet};

/// A server and the host that it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The server's name.
    pub server: String,
    /// The host's.
    pub host: String,
}

/// A shard, by where its servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its master, which owns slots.
    pub master: Place,
    /// Its replicas.
    pub replicas: Vec<Place>,
}

impl Placed {
    fn hosts(&self) -> BTreeSet<&str> {
        let replicas = self.replicas.iter().map(|place| place.host.as_str());
        replicas.chain([self.master.host.as_str()]).collect()
    }
}

/// The host of every server that there is at present.
///
/// # Errors
/// When the API cannot be asked.
pub async fn hosts(cx: &Context) -> Result<BTreeMap<String, String>, Stop> {
    let pods = cx.deployment()?.pods().await?;
    Ok(pods.into_iter().filter_map(|pod| Some((pod.name, pod.host?))).collect())
}

/// Every shard of a view, by the hosts of its servers.
///
/// # Errors
/// When a server has no host: the platform has just replaced it.
pub fn placed(view: &ClusterView, hosts: &BTreeMap<String, String>) -> Result<Vec<Placed>, Stop> {
    let place = |server: &str| match hosts.get(server) {
        Some(host) => Ok(Place {
            server: server.to_owned(),
            host: host.clone(),
        }),
        None => Err(Stop::from(anyhow::anyhow!("no pod {server} has a node at present"))),
    };
    let mut shards = Vec::new();
    for master in view.masters() {
        let Some(line) = master.myself().filter(|line| !line.slots.is_empty()) else {
            continue;
        };
        let replicas = view.replicas_of(&line.id).map(|replica| place(&replica.member.name));
        shards.push(Placed {
            master: place(&master.member.name)?,
            replicas: replicas.collect::<Result<_, _>>()?,
        });
    }
    Ok(shards)
}

/// The shards that one host holds whole.
pub fn on_one_host(shards: &[Placed]) -> Vec<String> {
    let together = shards.iter().filter(|shard| shard.hosts().len() == 1);
    together
        .map(|shard| {
            let replicas: Vec<&str> = shard.replicas.iter().map(|place| place.server.as_str()).collect();
            let (master, host) = (&shard.master.server, &shard.master.host);
            match replicas.is_empty() {
                true => format!("{master} on {host} has no replica"),
                false => format!("{master} and all its replicas ({}) are on {host}", replicas.join(", ")),
            }
        })
        .collect()
}

/// The hosts that hold a majority of the masters.
pub fn majorities(shards: &[Placed]) -> Vec<String> {
    let majority = shards.len() / 2 + 1;
    masters_by_host(shards)
        .into_iter()
        .filter(|(_, masters)| masters.len() >= majority)
        .map(|(host, masters)| {
            let count = masters.len();
            format!(
                "{host} holds {count} of {} masters: {}",
                shards.len(),
                masters.join(", ")
            )
        })
        .collect()
}

fn masters_by_host(shards: &[Placed]) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for shard in shards {
        found.entry(&shard.master.host).or_default().push(&shard.master.server);
    }
    found
}

/// Whether so many hosts can hold so many masters with no majority on any.
pub fn can_avoid_majorities(masters: usize, hosts: usize) -> bool {
    hosts > 0 && masters.div_ceil(hosts) < masters / 2 + 1
}

/// A host that something is to be done to, and the replicas that have to become masters before that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The host.
    pub host: String,
    /// The replicas, by name.
    pub promote: Vec<String>,
}

/// Chooses the host to drain, of those that can be given pods (one that somebody has cordoned is that person's): it holds two
/// masters, or can once a replica on it has become one, where any host can. Gives none where no such host holds a master.
pub fn to_drain(shards: &[Placed], free: &BTreeSet<String>) -> Option<Chosen> {
    let with_masters = masters_by_host(shards).into_iter();
    let choices = with_masters
        .filter(|(host, _)| free.contains(*host))
        .map(|(host, masters)| {
            let elsewhere = shards.iter().filter(|shard| shard.master.host != host);
            let here = elsewhere.filter_map(|shard| shard.replicas.iter().find(|place| place.host == host));
            Chosen {
                host: host.to_owned(),
                promote: here
                    .take(2_usize.saturating_sub(masters.len()))
                    .map(|place| place.server.clone())
                    .collect(),
            }
        });
    // Of those with as many masters in the end, the one that needs the fewest promotions.
    let masters = |host: &str| shards.iter().filter(|shard| shard.master.host == host).count();
    choices.min_by_key(|chosen| {
        let needed = chosen.promote.len();
        (std::cmp::Reverse((masters(&chosen.host) + needed).min(2)), needed)
    })
}

/// Chooses the host to lose: it holds a master and no whole shard, and needs the fewest promotions of replicas elsewhere
/// before, since with too many masters on it the others could not vote.
///
/// # Errors
/// Why there is none, for people.
pub fn to_lose(shards: &[Placed]) -> Result<Chosen, String> {
    let bearable = shards.len().saturating_sub(shards.len() / 2 + 1);
    if bearable == 0 {
        return Err(format!(
            "of {} masters none can be lost: the others are no majority",
            shards.len()
        ));
    }
    let whole: BTreeSet<&str> = shards
        .iter()
        .filter(|shard| shard.hosts().len() == 1)
        .map(|shard| shard.master.host.as_str())
        .collect();
    let losses = masters_by_host(shards)
        .into_iter()
        .filter(|(host, _)| !whole.contains(host));
    let losses = losses.map(|(host, masters)| {
        let too_many = masters.len().saturating_sub(bearable);
        let here = shards.iter().filter(|shard| shard.master.host == host).take(too_many);
        let elsewhere = |shard: &Placed| shard.replicas.iter().find(|place| place.host != host).cloned();
        Chosen {
            host: host.to_owned(),
            promote: here.filter_map(elsewhere).map(|place| place.server).collect(),
        }
    });
    losses.min_by_key(|loss| loss.promote.len()).ok_or_else(|| {
        let kept = on_one_host(shards).join("; ");
        format!("every node with a master holds a whole shard, so none can be lost (REPL-12): {kept}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Shards as `master's host, replica's host, …`.
    fn shards(hosts: &[&str]) -> Vec<Placed> {
        let place = |server: String, host: char| Place {
            server,
            host: host.to_string(),
        };
        let shard = |(number, hosts): (usize, &&str)| Placed {
            master: place(format!("m{number}"), hosts.chars().next().unwrap()),
            replicas: hosts
                .chars()
                .skip(1)
                .map(|host| place(format!("r{number}"), host))
                .collect(),
        };
        hosts.iter().enumerate().map(shard).collect()
    }

    #[rstest]
    #[case::spread(&["ab", "bc", "ca"], &[])]
    #[case::one_pair(&["ab", "bb", "ca"], &["m1 and all its replicas (r1) are on b"])]
    #[case::one_of_two_replicas(&["aab"], &[])]
    #[case::both_replicas(&["aaa"], &["m0 and all its replicas (r0, r0) are on a"])]
    #[case::no_replica(&["a"], &["m0 on a has no replica"])]
    fn a_shard_on_one_host_is_found(#[case] hosts: &[&str], #[case] found: &[&str]) {
        assert_eq!(on_one_host(&shards(hosts)), found);
    }

    #[rstest]
    #[case::spread(&["ab", "bc", "ca"], &[])]
    #[case::two_of_three(&["ab", "ac", "ca"], &["a holds 2 of 3 masters: m0, m1"])]
    #[case::two_of_four(&["ab", "ac", "ca", "cb"], &[])]
    #[case::all(&["ab", "ab", "ab"], &["a holds 3 of 3 masters: m0, m1, m2"])]
    fn a_majority_on_one_host_is_found(#[case] hosts: &[&str], #[case] found: &[&str]) {
        assert_eq!(majorities(&shards(hosts)), found);
    }

    #[rstest]
    #[case(3, 3, true)]
    #[case(3, 2, false)]
    #[case(4, 2, true)]
    #[case(5, 2, false)]
    #[case(5, 3, true)]
    #[case(1, 3, false)]
    fn some_majorities_cannot_be_avoided(#[case] masters: usize, #[case] hosts: usize, #[case] avoidable: bool) {
        assert_eq!(can_avoid_majorities(masters, hosts), avoidable);
    }

    #[rstest]
    #[case::any(&["ab", "bc", "ca"], "a", &[])]
    #[case::of_those_left_the_first(&["ab", "bb", "ca"], "a", &[])]
    #[case::not_that_of_a_whole_shard(&["ab", "ab", "aa", "bc", "bc", "bb", "cd", "cd", "cd"], "c", &[])]
    #[case::two_of_three(&["ab", "ab", "ab"], "a", &["r0", "r1"])]
    fn a_host_is_chosen(#[case] hosts: &[&str], #[case] host: &str, #[case] promote: &[&str]) {
        let loss = to_lose(&shards(hosts)).unwrap();
        assert_eq!(
            (loss.host.as_str(), loss.promote),
            (host, promote.iter().map(|it| (*it).to_owned()).collect())
        );
    }

    #[rstest]
    #[case::one_each(&["ab", "bc", "ca"], "abc", "a", &["r2"])]
    #[case::two_already(&["ab", "bc", "ba"], "abc", "b", &[])]
    #[case::more_than_two(&["ab", "ab", "ab"], "abc", "a", &[])]
    #[case::no_replica_of_another_shard(&["aa", "bb", "cc"], "abc", "a", &[])]
    #[case::only_there(&["aa", "bc", "db"], "abcd", "b", &["r2"])]
    #[case::cordoned_by_somebody(&["ab", "bc", "ca"], "bc", "b", &["r0"])]
    fn the_host_to_drain_has_two_masters_where_it_can_be(
        #[case] hosts: &[&str],
        #[case] free: &str,
        #[case] host: &str,
        #[case] promote: &[&str],
    ) {
        let free = free.chars().map(String::from).collect();
        let chosen = to_drain(&shards(hosts), &free).unwrap();
        assert_eq!(
            (chosen.host.as_str(), chosen.promote),
            (host, promote.iter().map(|it| (*it).to_owned()).collect())
        );
    }

    #[test]
    fn no_host_that_is_cordoned_is_drained() {
        assert_eq!(to_drain(&shards(&["ab", "bc", "ca"]), &BTreeSet::new()), None);
    }

    #[rstest]
    #[case::whole_shards(&["aa", "bb", "cc"], "REPL-12")]
    #[case::two_masters(&["ab", "ba"], "no majority")]
    fn sometimes_none_can_be_lost(#[case] hosts: &[&str], #[case] why: &str) {
        let reason = to_lose(&shards(hosts)).unwrap_err();
        assert!(reason.contains(why), "{reason}");
    }
}

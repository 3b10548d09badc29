//! Between the cases: what the servers are, and the wait until the cluster is whole (OPS-16).

use crate::case::{Case, CaseId, Impact, Level, Profile};
use crate::check::LOOK_AGAIN;
use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::node::{Fields, Member, NodeId, parse_fields};
use crate::cluster::view::ClusterView;
use crate::context::{Context, Shared};
use crate::feature::Feature;
use crate::report::Server;
use crate::target::{Target, TargetError};
use crate::timing::Timing;
use crate::verdict::Stop;
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Asks the servers what they are. Enough that one answers; which ones do not is for the cases.
///
/// # Errors
/// When none does: the text holds each one's answer.
pub async fn probe(target: &dyn Target, timing: &Timing) -> Result<Server, TargetError> {
    let members = target.members().await?;
    let mut versions: Vec<(String, String)> = Vec::new();
    let mut node_timeout_ms = None;
    let mut refusals = Vec::new();
    // All at once: each silent one would else be waited for in turn.
    let answers = join_all(members.iter().map(|member| ask(target, timing, member))).await;
    for answer in answers {
        match answer {
            Ok((product, version, timeout)) => {
                node_timeout_ms = node_timeout_ms.max(timeout);
                if !versions.contains(&(product.clone(), version.clone())) {
                    versions.push((product, version));
                }
            }
            Err(error) => refusals.push(error.to_string()),
        }
    }
    let Some((product, _)) = versions.first().cloned() else {
        let hint = if refusals
            .iter()
            .any(|text| text.contains("WRONGPASS") || text.contains("invalid password"))
        {
            "; the password that the target's description names is not theirs"
        } else if refusals.iter().any(|text| text.contains("NOAUTH")) {
            "; they ask for a password, and the target's description names none"
        } else {
            ""
        };
        return Err(TargetError::NotDeployed(format!(
            "none of {} servers can be asked{hint}: {}",
            members.len(),
            if refusals.is_empty() {
                "there is none".into()
            } else {
                refusals.join("; ")
            }
        )));
    };
    Ok(Server {
        product,
        version: versions
            .into_iter()
            .map(|(_, version)| version)
            .collect::<Vec<_>>()
            .join(", "),
        // The default of every implementation, where CONFIG is not allowed.
        node_timeout_ms: node_timeout_ms.unwrap_or(15000),
        nodes: members,
    })
}

async fn ask(
    target: &dyn Target,
    timing: &Timing,
    member: &Member,
) -> Result<(String, String, Option<u64>), LinkError> {
    let patience = timing.reply() + target.detour();
    let stream = tokio::time::timeout(patience, target.connect(&member.address))
        .await
        .map_err(|_| LinkError::TimedOut {
            address: member.address.clone(),
            command: "connect".into(),
            after: patience,
            got: None,
        })??;
    let mut connection = Connection::new(stream, member.address.clone(), patience);
    crate::context::authenticate(&mut connection, target).await?;
    let reply = connection.ask(&["INFO", "server"]).await?;
    let fields = parse_fields(&reply).map_err(|reason| connection.nonsense("INFO server", reason))?;
    let (product, version) = named(&fields).ok_or_else(|| connection.nonsense("INFO server", "it names no version"))?;
    let timeout = connection.setting("cluster-node-timeout").await?;
    Ok((product, version, timeout.and_then(|timeout| timeout.parse().ok())))
}

/// What a server calls itself, and its version, by the field `<name>_version`: other implementations give one beside that
/// of the Redis that they are like.
fn named(fields: &Fields) -> Option<(String, String)> {
    // Of what they are made.
    let parts = ["redis", "gcc", "clang", "lua", "os", "rdb", "aof"];
    let own = fields.iter().find_map(|(field, version)| {
        let name = field.strip_suffix("_version")?;
        let is_version = version.bytes().any(|byte| byte.is_ascii_digit());
        (is_version && !name.contains('_') && !parts.contains(&name)).then_some((name, version))
    });
    let (name, version) = own.or_else(|| Some(("redis", fields.get("redis_version")?)))?;
    let mut letters = name.chars();
    let capital = letters.next()?.to_uppercase();
    Some((capital.chain(letters).collect(), version.clone()))
}

/// The features, of those wanted, that every server lacks, each with the reply that said so. Where only some servers
/// lack one, the cases that need it are for finding that out.
pub async fn lacking_features(shared: &Arc<Shared>, wanted: BTreeSet<Feature>) -> BTreeMap<Feature, String> {
    let members = shared.target.members().await.unwrap_or_default();
    let context = Context::new(shared.clone(), &BETWEEN);
    let answers = join_all(members.iter().map(async |member| {
        let mut connection = context.connect(&member.address).await?;
        let mut lacking = BTreeMap::new();
        for feature in &wanted {
            if let Some(reason) = feature.lacking(&mut connection).await? {
                lacking.insert(*feature, reason);
            }
        }
        Ok::<_, LinkError>(lacking)
    }))
    .await;
    // A server that cannot be asked says nothing: the cases will tell.
    let answers: Vec<BTreeMap<Feature, String>> = answers.into_iter().flatten().collect();
    let Some(first) = answers.first().cloned() else {
        return BTreeMap::new();
    };
    let everywhere = |feature: &Feature| answers.iter().all(|answer| answer.contains_key(feature));
    first.into_iter().filter(|(feature, _)| everywhere(feature)).collect()
}

/// What the runner itself does between cases, it does in this context.
pub fn between(shared: &Arc<Shared>) -> Context {
    Context::new(shared.clone(), &BETWEEN)
}

/// A case that stands for the runner itself, where a context is needed between cases.
static BETWEEN: Case = Case {
    id: CaseId("OPS-16"),
    title: "",
    requirement: "",
    source: "",
    level: Level::Must,
    profile: Profile::Core,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[],
    features: &[],
    bound: "",
    controls: &[],
    method: "",
    run: |_| Box::pin(async { Ok(()) }),
};

/// Every server's view, for evidence.
///
/// # Errors
/// When the platform cannot be asked.
pub async fn look(shared: &Arc<Shared>) -> Result<ClusterView, Stop> {
    Context::new(shared.clone(), &BETWEEN).look().await
}

/// Notes which shards have had an election since the cluster was last whole: their config epoch is another.
fn note_votes(shared: &Shared, view: &ClusterView) {
    let mut votes = shared.votes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let epochs: BTreeMap<NodeId, u64> = view
        .masters()
        .filter_map(|master| master.myself())
        .map(|line| (line.id.clone(), line.config_epoch))
        .collect();
    let now = Instant::now();
    for (id, epoch) in &epochs {
        if !votes.0.is_empty() && votes.0.get(id) != Some(epoch) {
            let replicas = view.replicas_of(id).filter_map(|replica| replica.myself());
            let shard: Vec<NodeId> = replicas.map(|line| line.id.clone()).chain([id.clone()]).collect();
            votes.1.extend(shard.into_iter().map(|id| (id, now)));
        }
    }
    votes.0 = epochs;
}

/// Waits until the cluster is whole, for at most T_sched + T_sync + 2·NT (catalogue, OPS-16).
///
/// # Errors
/// What was still missing at the end.
pub async fn until_whole(shared: &Arc<Shared>, what: &str) -> Result<(), String> {
    until_whole_within(shared, what, shared.timing.returned()).await
}

/// Waits until the cluster is whole, for at most `bound`.
///
/// # Errors
/// What was still missing at the end.
pub async fn until_whole_within(shared: &Arc<Shared>, what: &str, bound: Duration) -> Result<(), String> {
    let shape = shared.target.description().shape;
    let started = Instant::now();
    let waiting = async {
        loop {
            let looked = started.elapsed();
            let missing = match look(shared).await {
                Ok(view) => {
                    let missing = view.not_whole(shape);
                    if missing.is_empty() {
                        note_votes(shared, &view);
                    }
                    missing
                }
                Err(Stop::Mismatch(mismatch)) => vec![mismatch.to_string()],
                Err(Stop::Error(error)) => vec![format!("{error:#}")],
                Err(Stop::Unsupported(reason)) => vec![reason],
            };
            if missing.is_empty() {
                return Ok(());
            }
            if looked >= bound {
                let mut text = missing.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
                if missing.len() > 5 {
                    text.push_str(&format!("; and {} more", missing.len() - 5));
                }
                return Err(format!("after {:.0} s: {text}", bound.as_secs_f64()));
            }
            tokio::time::sleep(LOOK_AGAIN.max(Duration::from_millis(200))).await;
        }
    };
    shared.progress.during(what, bound, waiting).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&[("redis_version", "7.0.15"), ("gcc_version", "12.2.0")], Some(("Redis", "7.0.15")))]
    #[case(&[("redis_version", "7.2.4"), ("valkey_version", "8.0.1"), ("server_name", "valkey")], Some(("Valkey", "8.0.1")))]
    #[case(&[("redict_version", "7.3.6"), ("redis_version", "7.2.4")], Some(("Redict", "7.3.6")))]
    #[case(&[("redis_version", "7.4.0"), ("standin_version", "df-v1.2")], Some(("Standin", "df-v1.2")))]
    #[case(&[("standin_version", "2.1")], Some(("Standin", "2.1")))]
    #[case(&[("gcc_version", "12.2.0")], None)]
    fn a_server_is_called_what_it_calls_itself(#[case] info: &[(&str, &str)], #[case] called: Option<(&str, &str)>) {
        let fields = info
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let expected = called.map(|(name, version)| (name.to_owned(), version.to_owned()));
        assert_eq!(named(&fields.collect()), expected);
    }
}

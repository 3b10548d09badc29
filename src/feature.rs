//! Features: what an implementation offers beyond the common ground. Each is probed on the servers; a version string
//! alone says nothing, since products, builds and configurations differ.

use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::node::{parse_fields, parse_nodes};
use crate::cluster::resp::Reply;
use serde::Serialize;
use std::time::{Duration, Instant};

/// What an implementation may offer or lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// Access control lists and users (Redis 6.0).
    Acl,
    /// `cluster-allow-reads-when-down` (Redis 6.0).
    ReadsWhenDown,
    /// `cluster-allow-replica-migration` (Redis 6.2).
    ReplicaMigration,
    /// `cluster-announce-hostname` (Redis 7.0).
    AnnounceHostname,
    /// Slots that a server moves by itself and at once: `CLUSTER MIGRATION` (Redis 8.4), `CLUSTER MIGRATESLOTS` (Valkey 9.0).
    AtomicMigration,
    /// The bus, over which nodes find out by themselves how the others are. Without it `cluster_state:ok`, counters of failing
    /// slots at 0 and links that are `connected` are no findings of anybody.
    Bus,
    /// `appendonly yes`: the deployment keeps an append-only file, on one node at least.
    AppendOnly,
    /// `appendonly`: the server can keep an append-only file, whether this deployment does or not.
    AppendOnlyFile,
    /// `CLUSTER LINKS` (Redis 7.0).
    ClusterLinks,
    /// `CLUSTER SHARDS` (Redis 7.0).
    ClusterShards,
    /// `CONFIG`, which managed services deny.
    Config,
    /// `INFO errorstats` (Redis 6.2).
    ErrorStats,
    /// `EVAL_RO` (Redis 7.0).
    EvalReadOnly,
    /// `FUNCTION` and `FCALL` (Redis 7.0).
    Functions,
    /// `HELLO` and the third version of the protocol (Redis 6.0).
    Hello,
    /// `key-load-delay`, which slows loading down (Redis 6.0).
    LoadDelay,
    /// `CLUSTER FAILOVER`, by which a replica takes its master's place.
    ManualFailover,
    /// `CLUSTER MEET`, by which nodes join.
    Meet,
    /// `CLUSTER MYID`.
    MyId,
    /// `MIGRATE`, by which a key is moved to another server.
    Migrate,
    /// `CLUSTER MYSHARDID` (Redis 7.2).
    MyShardId,
    /// `cluster-preferred-endpoint-type` (Redis 7.0).
    PreferredEndpoint,
    /// `CLUSTER REPLICAS`.
    ReplicaList,
    /// `CLUSTER REPLICATE`, by which a node becomes a replica.
    Replicate,
    /// `INFO replication` has `master_repl_offset`: how far a master has written.
    ReplicationOffset,
    /// `CLUSTER SAVECONFIG`, by which a server saves what it knows of the cluster.
    SaveConfig,
    /// Scripts that begin with `#!lua` and may have flags (Redis 7.0).
    ScriptFlags,
    /// `EVAL`, where scripts are not switched off.
    Scripts,
    /// `CLUSTER SETSLOT`, by which slots are moved.
    SetSlot,
    /// `SSUBSCRIBE` and `SPUBLISH` (Redis 7.0).
    ShardedPubSub,
    /// `CLUSTER ADDSLOTS`, by which a node is given slots.
    SlotAssignment,
    /// `CLUSTER COUNTKEYSINSLOT`: which keys a node holds of a slot.
    SlotKeys,
    /// `tls-port`: the server was built with TLS (Redis 6.0).
    Tls,
    /// `WAIT`.
    Wait,
    /// `WAITAOF` (Redis 7.2).
    WaitAof,
}

/// How a feature is probed.
enum Probe {
    /// `COMMAND INFO` knows the command.
    Command(&'static str),
    /// `CONFIG GET` knows the directive.
    Directive(&'static str),
    /// `CONFIG GET` answers anything but `no` for the directive.
    Enabled(&'static str),
    /// `INFO` has the section.
    Section(&'static str),
    /// The section of `INFO` has the field.
    Field(&'static str, &'static str),
    /// The server does not call the command, or its subcommand, unknown. It must do no harm where it is known.
    Trial(&'static [&'static str]),
    /// [`Self::Trial`] of several commands, of which one is enough.
    Either(&'static [&'static [&'static str]]),
    /// All is well by `CLUSTER INFO` and `CLUSTER NODES`, and yet no message is counted as sent.
    Messages,
}

/// How long messages of the bus are waited for: a node sends one a second, and as many again in each node-timeout.
const SENT_WITHIN: Duration = Duration::from_secs(3);
/// How often the counter is looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A subcommand that nobody has.
const NO_SUBCOMMAND: &str = "RCC-NO-SUCH-SUBCOMMAND";

/// Whether the reply to a probe, of which the last word is given, says that something is missing.
type Lacks = fn(&str, &Reply) -> bool;

impl Feature {
    fn probe(self) -> Probe {
        match self {
            Self::Acl => Probe::Command("acl"),
            Self::ReadsWhenDown => Probe::Directive("cluster-allow-reads-when-down"),
            Self::ReplicaMigration => Probe::Directive("cluster-allow-replica-migration"),
            Self::AnnounceHostname => Probe::Directive("cluster-announce-hostname"),
            Self::AtomicMigration => Probe::Either(&[
                &["CLUSTER", "MIGRATION", "STATUS", "ALL"],
                &["CLUSTER", "GETSLOTMIGRATIONS"],
            ]),
            Self::Bus => Probe::Messages,
            Self::AppendOnly => Probe::Enabled("appendonly"),
            Self::AppendOnlyFile => Probe::Directive("appendonly"),
            Self::ClusterLinks => Probe::Trial(&["CLUSTER", "LINKS"]),
            Self::ClusterShards => Probe::Trial(&["CLUSTER", "SHARDS"]),
            Self::Config => Probe::Trial(&["CONFIG", "GET", "port"]),
            Self::ErrorStats => Probe::Section("errorstats"),
            Self::EvalReadOnly => Probe::Command("eval_ro"),
            Self::Functions => Probe::Command("fcall"),
            Self::Hello => Probe::Command("hello"),
            Self::LoadDelay => Probe::Directive("key-load-delay"),
            // Not one of its options: they are looked at before the role is.
            Self::ManualFailover => Probe::Trial(&["CLUSTER", "FAILOVER", "PROBE"]),
            // No address, and no port.
            Self::Meet => Probe::Trial(&["CLUSTER", "MEET", "PROBE", "0"]),
            Self::MyId => Probe::Trial(&["CLUSTER", "MYID"]),
            Self::Migrate => Probe::Command("migrate"),
            Self::MyShardId => Probe::Trial(&["CLUSTER", "MYSHARDID"]),
            Self::PreferredEndpoint => Probe::Directive("cluster-preferred-endpoint-type"),
            Self::ReplicaList => Probe::Trial(&["CLUSTER", "REPLICAS", "PROBE"]),
            Self::Replicate => Probe::Trial(&["CLUSTER", "REPLICATE", "PROBE"]),
            Self::ReplicationOffset => Probe::Field("replication", "master_repl_offset"),
            Self::SaveConfig => Probe::Trial(&["CLUSTER", "SAVECONFIG"]),
            Self::ScriptFlags => Probe::Trial(&["EVAL", "#!lua flags=no-writes\nreturn 1", "0"]),
            // A server on which scripts are switched off may list the command all the same.
            Self::Scripts => Probe::Trial(&["EVAL", "return 1", "0"]),
            // No action of this name exists: nothing changes.
            Self::SetSlot => Probe::Trial(&["CLUSTER", "SETSLOT", "0", "PROBE"]),
            Self::ShardedPubSub => Probe::Command("ssubscribe"),
            // Not a slot.
            Self::SlotAssignment => Probe::Trial(&["CLUSTER", "ADDSLOTS", "PROBE"]),
            Self::SlotKeys => Probe::Trial(&["CLUSTER", "COUNTKEYSINSLOT", "0"]),
            Self::Tls => Probe::Directive("tls-port"),
            Self::Wait => Probe::Command("wait"),
            Self::WaitAof => Probe::Command("waitaof"),
        }
    }

    /// What a server that lacks it answers, in words: the probe and its reply.
    pub fn lacking_where(self) -> String {
        match self.probe() {
            Probe::Command(name) => format!("COMMAND INFO {name} knows no such command"),
            Probe::Directive(name) => format!("CONFIG GET {name} is empty"),
            Probe::Enabled(name) => format!("CONFIG GET {name} answers no"),
            Probe::Section(name) => format!("INFO {name} has no such section"),
            Probe::Field(section, field) => format!("INFO {section} has no {field}"),
            Probe::Trial(["EVAL", "return 1", ..]) => {
                "EVAL is an unknown command, or scripts are switched off".to_owned()
            }
            Probe::Trial(command) => format!("{} is an unknown command", command.join(" ")),
            Probe::Messages => format!(
                "CLUSTER INFO counts no message as sent in {} s, while it says that all is well",
                SENT_WITHIN.as_secs()
            ),
            Probe::Either(commands) => {
                let commands: Vec<String> = commands.iter().map(|command| command.join(" ")).collect();
                format!("{} are unknown commands", commands.join(" and "))
            }
        }
    }

    /// What lacks on a server: the probe and the reply that said so. `None` where the server has it, or says nothing
    /// against it: a probe that is refused for another reason leaves the verdict to the cases.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn lacking(self, connection: &mut Connection) -> Result<Option<String>, LinkError> {
        let (commands, lacks): (Vec<Vec<&str>>, Lacks) = match self.probe() {
            Probe::Messages => return no_messages(connection).await,
            Probe::Field(section, field) => {
                let reply = connection.call(&["INFO", section]).await?;
                let fields = parse_fields(&reply).ok();
                let lacks = fields.is_some_and(|fields| !fields.contains_key(field));
                return Ok(lacks.then(|| format!("INFO {section} -> no {field}")));
            }
            Probe::Command(name) => (vec![vec!["COMMAND", "INFO", name]], |_, reply| {
                reply.array().is_some_and(|found| {
                    matches!(found, [Reply::Nil]) || matches!(found, [Reply::Array(none)] if none.is_empty())
                })
            }),
            Probe::Directive(name) => (vec![vec!["CONFIG", "GET", name]], |_, reply| {
                reply.array().is_some_and(<[Reply]>::is_empty)
            }),
            Probe::Enabled(name) => (vec![vec!["CONFIG", "GET", name]], |_, reply| {
                let value = |found: &[Reply]| found.get(1).is_none_or(|value| value.text() == Some("no"));
                reply.array().is_some_and(value)
            }),
            // Servers before 7.0 answer a section that they do not know with nothing.
            Probe::Section(name) => (vec![vec!["INFO", name]], |name, reply| {
                let text = reply.text().map(str::to_lowercase);
                text.is_some_and(|text| !text.contains(&format!("# {name}")))
            }),
            Probe::Trial(command) => (vec![command.to_vec()], |_, reply| reply.error().is_some_and(is_unknown)),
            Probe::Either(commands) => (commands.iter().map(|command| command.to_vec()).collect(), |_, reply| {
                reply.error().is_some_and(is_unknown)
            }),
        };
        let mut reasons = Vec::new();
        for command in commands {
            let reply = connection.call(&command).await?;
            let mut reason = format!("{} -> {reply}", command.join(" "));
            if !lacks(command.last().unwrap_or(&""), &reply) {
                if !is_no_subcommand(connection, &command, &reply).await? {
                    return Ok(None);
                }
                reason.push_str(", as to a subcommand that nobody has");
            }
            reasons.push(reason);
        }
        Ok(Some(reasons.join("; ")))
    }
}

/// Whether a refusal of a subcommand of `CLUSTER` is what the server says of one that nobody has, in whatever words.
///
/// # Errors
/// When the server cannot be asked.
pub async fn is_no_subcommand(connection: &mut Connection, command: &[&str], reply: &Reply) -> Result<bool, LinkError> {
    let (["CLUSTER", name, arguments @ ..], Some(error)) = (command, reply.error()) else {
        return Ok(false);
    };
    if reply.error_prefix() != Some("ERR") {
        return Ok(false);
    }
    let made_up = [&["CLUSTER", NO_SUBCOMMAND], arguments].concat();
    let other = connection.call(&made_up).await?;
    let unnamed = |error: &str, name: &str| error.to_lowercase().replace(&name.to_lowercase(), "");
    Ok(other
        .error()
        .is_some_and(|other| unnamed(other, NO_SUBCOMMAND) == unnamed(error, name)))
}

/// Why a node is on no bus. Where it says that something is wrong there may well be one: that is for the cases.
async fn no_messages(connection: &mut Connection) -> Result<Option<String>, LinkError> {
    const SENT: &str = "cluster_stats_messages_sent";
    let nodes = parse_nodes(&connection.call(&["CLUSTER", "NODES"]).await?).unwrap_or_default();
    let well = |flag: &str| !nodes.iter().any(|line| line.is(flag));
    let all_well = !nodes.is_empty() && nodes.iter().all(|line| line.connected) && well("fail") && well("fail?");
    let began = Instant::now();
    let mut first = None;
    loop {
        let reply = connection.call(&["CLUSTER", "INFO"]).await?;
        let Ok(info) = parse_fields(&reply) else {
            return Ok(None);
        };
        if !all_well || info.get("cluster_state").is_none_or(|state| state != "ok") {
            return Ok(None);
        }
        let Some(sent) = info.get(SENT) else {
            return Ok(Some(format!("no bus is seen: CLUSTER INFO -> no {SENT}")));
        };
        if first.get_or_insert_with(|| sent.clone()) != sent {
            return Ok(None);
        }
        if began.elapsed() >= SENT_WITHIN {
            let seconds = SENT_WITHIN.as_secs();
            return Ok(Some(format!(
                "no bus is seen: CLUSTER INFO -> {SENT}:{sent} all the time, for {seconds} s"
            )));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Whether an error says that there is no such command or subcommand (catalogue, §7: the wording differs by version),
/// or that what it needs is switched off.
pub(crate) fn is_unknown(error: &str) -> bool {
    let error = error.to_lowercase();
    // What begins with `#!lua` is no Lua for a server that does not know such scripts.
    let words = [
        "unknown command",
        "unknown subcommand",
        "unknown cluster",
        "error compiling script",
        // Garnet, and Valkey without its engine for Lua.
        "scripting support disabled",
        "could not find scripting engine",
    ];
    words.iter().any(|word| error.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("ERR unknown subcommand 'SHARDS'. Try CLUSTER HELP.", true)]
    #[case(
        "ERR Unknown subcommand or wrong number of arguments for 'SHARDS'. Try CLUSTER HELP.",
        true
    )]
    #[case("ERR unknown command 'HELLO', with args beginning with: ", true)]
    #[case(
        "ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'",
        true
    )]
    #[case("ERR This instance has Lua scripting support disabled", true)]
    #[case("ERR Could not find scripting engine 'lua'", true)]
    #[case("NOSCRIPT No matching script. Please use EVAL.", false)]
    #[case("NOPERM this user has no permissions to run the 'config|get' command", false)]
    #[case("ERR wrong number of arguments for 'cluster|keyslot' command", false)]
    fn what_is_unknown_is_told_from_what_is_refused(#[case] error: &str, #[case] unknown: bool) {
        assert_eq!(is_unknown(error), unknown);
    }
}

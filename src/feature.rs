//! Features: what an implementation offers beyond the common ground. Each is probed on the servers; a version string
//! alone says nothing, since products, builds and configurations differ.

use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::resp::Reply;
use serde::Serialize;

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
    /// `appendonly yes`: the deployment keeps an append-only file, on one node at least.
    AppendOnly,
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
    /// `CLUSTER MYSHARDID` (Redis 7.2).
    MyShardId,
    /// `cluster-preferred-endpoint-type` (Redis 7.0).
    PreferredEndpoint,
    /// Scripts that begin with `#!lua` and may have flags (Redis 7.0).
    ScriptFlags,
    /// `EVAL`.
    Scripts,
    /// `CLUSTER SETSLOT`, by which slots are moved.
    SetSlot,
    /// `SSUBSCRIBE` and `SPUBLISH` (Redis 7.0).
    ShardedPubSub,
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
    /// The server does not call the command, or its subcommand, unknown. It must do no harm where it is known.
    Trial(&'static [&'static str]),
    /// [`Self::Trial`] of several commands, of which one is enough.
    Either(&'static [&'static [&'static str]]),
}

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
            Self::AppendOnly => Probe::Enabled("appendonly"),
            Self::ClusterLinks => Probe::Trial(&["CLUSTER", "LINKS"]),
            Self::ClusterShards => Probe::Trial(&["CLUSTER", "SHARDS"]),
            Self::Config => Probe::Trial(&["CONFIG", "GET", "port"]),
            Self::ErrorStats => Probe::Section("errorstats"),
            Self::EvalReadOnly => Probe::Command("eval_ro"),
            Self::Functions => Probe::Command("fcall"),
            Self::Hello => Probe::Command("hello"),
            Self::LoadDelay => Probe::Directive("key-load-delay"),
            Self::MyShardId => Probe::Trial(&["CLUSTER", "MYSHARDID"]),
            Self::PreferredEndpoint => Probe::Directive("cluster-preferred-endpoint-type"),
            Self::ScriptFlags => Probe::Trial(&["EVAL", "#!lua flags=no-writes\nreturn 1", "0"]),
            Self::Scripts => Probe::Command("eval"),
            // No action of this name exists: nothing changes.
            Self::SetSlot => Probe::Trial(&["CLUSTER", "SETSLOT", "0", "PROBE"]),
            Self::ShardedPubSub => Probe::Command("ssubscribe"),
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
            Probe::Trial(command) => format!("{} is an unknown command", command.join(" ")),
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
            if !lacks(command.last().unwrap_or(&""), &reply) {
                return Ok(None);
            }
            reasons.push(format!("{} -> {reply}", command.join(" ")));
        }
        Ok(Some(reasons.join("; ")))
    }
}

/// Whether an error says that there is no such command or subcommand (catalogue, §7: the wording differs by version).
fn is_unknown(error: &str) -> bool {
    let error = error.to_lowercase();
    // What begins with `#!lua` is no Lua for a server that does not know such scripts.
    let words = [
        "unknown command",
        "unknown subcommand",
        "unknown cluster",
        "error compiling script",
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
    #[case("NOPERM this user has no permissions to run the 'config|get' command", false)]
    #[case("ERR wrong number of arguments for 'cluster|keyslot' command", false)]
    fn what_is_unknown_is_told_from_what_is_refused(#[case] error: &str, #[case] unknown: bool) {
        assert_eq!(is_unknown(error), unknown);
    }
}

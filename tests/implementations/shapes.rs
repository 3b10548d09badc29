//! The shapes of implementations that do not gossip, or lack commands: what such servers say, after the project's catalogue
//! of deviations. They are no product: each stands for a kind.

use crate::standin::{Asked, Node, Shape};
use bytes::Bytes;
use redis_cluster_conformance::cluster::resp::Reply;
use redis_cluster_conformance::cluster::slot::slot_of;

const CLUSTER: &str = "cluster-enabled yes\ncluster-node-timeout 1000\nrepl-diskless-sync-delay 0\n\
                       cluster-allow-replica-migration no\nprotected-mode no\nappendonly yes\nsave \"\"\n";

/// All shapes.
pub(crate) const ALL: [Shape; 5] = [
    // No stand-in at all: a real cluster of one node. What takes a second node, a replica or another shard is not to be seen.
    Shape {
        name: "alone",
        masters: 1,
        replicas: 0,
        conf: CLUSTER,
        replicas_read: false,
        publishes_alone: false,
        answers: |_| None,
        alters: |_, reply| reply,
    },
    // One server that plays a cluster: it owns every slot, its epoch never moves, nobody is there to gossip with, and keys of
    // several slots may be used together.
    Shape {
        name: "emulated",
        masters: 1,
        replicas: 0,
        conf: "cluster-enabled no\nprotected-mode no\nsave \"\"\n",
        replicas_read: false,
        publishes_alone: true,
        answers: emulated,
        alters: emulated_replies,
    },
    // Several servers that were told by somebody else who owns what: no bus, no failure detection, counters that stand still,
    // and replicas that execute reads.
    Shape {
        name: "pushed",
        masters: 3,
        replicas: 1,
        conf: CLUSTER,
        replicas_read: true,
        publishes_alone: true,
        answers: pushed,
        alters: pushed_replies,
    },
    // The same with a bus port that is announced and not there, few commands, and wordings of its own.
    Shape {
        name: "own-wordings",
        masters: 3,
        replicas: 1,
        conf: CLUSTER,
        replicas_read: false,
        publishes_alone: true,
        answers: own_wordings,
        alters: own_wordings_replies,
    },
    // Gossip over the port of clients, replicas that execute reads unasked, and writes after READWRITE.
    Shape {
        name: "replicas-execute",
        masters: 3,
        replicas: 1,
        conf: CLUSTER,
        replicas_read: true,
        publishes_alone: true,
        answers: replicas_execute,
        alters: replicas_execute_replies,
    },
];

fn error(text: impl Into<String>) -> Option<Reply> {
    Some(Reply::Error(text.into()))
}

fn ok() -> Option<Reply> {
    Some(Reply::Simple("OK".into()))
}

fn bulk(text: impl Into<String>) -> Reply {
    Reply::Bulk(Bytes::from(text.into()))
}

fn array<const N: usize>(items: [Reply; N]) -> Reply {
    Reply::Array(items.into())
}

/// What `COMMAND INFO` says of commands that are not there, and what they themselves get; `told` words it.
fn unknown(asked: &Asked<'_>, commands: &[&str], told: fn(&Asked<'_>) -> String) -> Option<Reply> {
    let lacks = |index| commands.contains(&asked.word(index).as_str());
    if asked.is("COMMAND INFO") && lacks(2) {
        return Some(array([Reply::Nil]));
    }
    if lacks(0) { error(told(asked)) } else { None }
}

/// What `CONFIG GET` says where no directive of these exists.
fn no_directives(asked: &Asked<'_>, beginnings: &[&str]) -> Option<Reply> {
    let name = asked.word(2);
    let unknown = beginnings.iter().any(|beginning| name.starts_with(beginning));
    (asked.is("CONFIG GET") && unknown).then(|| Reply::Array(Vec::new()))
}

/// The nodes that own slots, each with its replicas.
fn shards<'a>(asked: &Asked<'a>) -> impl Iterator<Item = (&'a Node, (u16, u16), Vec<&'a Node>)> {
    let nodes = asked.nodes;
    nodes.iter().enumerate().filter_map(move |(at, node)| {
        let replicas = nodes.iter().filter(move |replica| replica.master == Some(at));
        Some((node, node.slots?, replicas.collect()))
    })
}

/// `CLUSTER SLOTS` with three words a node.
fn slots(asked: &Asked<'_>) -> Reply {
    let entry = |node: &Node| array([bulk("127.0.0.1"), Reply::Integer(node.shown.into()), bulk(&node.id)]);
    let ranges = shards(asked).map(|(master, (first, last), replicas)| {
        let bounds = [Reply::Integer(first.into()), Reply::Integer(last.into()), entry(master)];
        Reply::Array(bounds.into_iter().chain(replicas.into_iter().map(entry)).collect())
    });
    Reply::Array(ranges.collect())
}

/// `CLUSTER SHARDS`.
fn shard_maps(asked: &Asked<'_>) -> Reply {
    let entry = |node: &Node, role: &str| {
        array([
            bulk("id"),
            bulk(&node.id),
            bulk("endpoint"),
            bulk("127.0.0.1"),
            bulk("ip"),
            bulk("127.0.0.1"),
            bulk("port"),
            Reply::Integer(node.shown.into()),
            bulk("role"),
            bulk(role),
            bulk("replication-offset"),
            Reply::Integer(0),
            bulk("health"),
            bulk("online"),
        ])
    };
    let maps = shards(asked).map(|(master, (first, last), replicas)| {
        let nodes = replicas.into_iter().map(|node| entry(node, "replica"));
        array([
            bulk("slots"),
            array([Reply::Integer(first.into()), Reply::Integer(last.into())]),
            bulk("nodes"),
            Reply::Array([entry(master, "master")].into_iter().chain(nodes).collect()),
        ])
    });
    Reply::Array(maps.collect())
}

/// `CLUSTER NODES`, where every node has one epoch and a bus port so far above its own.
fn nodes(asked: &Asked<'_>, epoch: u64, above: u32) -> Reply {
    let line = |node: &Node| {
        let myself = if node.id == asked.node().id { "myself," } else { "" };
        let (role, master) = match node.master {
            None => ("master", "-"),
            Some(master) => ("slave", asked.nodes[master].id.as_str()),
        };
        let slots = node
            .slots
            .map_or(String::new(), |(first, last)| format!(" {first}-{last}"));
        let (port, bus) = (node.shown, u32::from(node.shown) + above);
        let id = &node.id;
        format!("{id} 127.0.0.1:{port}@{bus} {myself}{role} {master} 0 0 {epoch} connected{slots}\n")
    };
    bulk(asked.nodes.iter().map(line).collect::<String>())
}

/// `CLUSTER INFO` of a cluster that is always well, at one epoch; `messages` are the counts of messages, if there are any.
fn info(asked: &Asked<'_>, epoch: u64, messages: &str) -> Reply {
    let (known, size) = (asked.nodes.len(), shards(asked).count());
    bulk(format!(
        "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\ncluster_slots_pfail:0\r\n\
         cluster_slots_fail:0\r\ncluster_known_nodes:{known}\r\ncluster_size:{size}\r\ncluster_current_epoch:{epoch}\r\n\
         cluster_my_epoch:{epoch}\r\n{messages}"
    ))
}

/// The text of a reply, changed.
fn reworded(reply: Reply, change: impl Fn(&str) -> String) -> Reply {
    match reply.text() {
        Some(text) => bulk(change(text)),
        None => reply,
    }
}

/// The lines of `INFO` without those of which a field begins so.
fn without(reply: Reply, beginnings: &[&str]) -> Reply {
    let gone = |line: &&str| !beginnings.iter().any(|beginning| line.starts_with(beginning));
    reworded(reply, |text| {
        text.lines().filter(gone).map(|line| format!("{line}\r\n")).collect()
    })
}

/// A named version beside that of Redis, in `INFO server`.
fn named(reply: Reply, name: &str, version: &str) -> Reply {
    reworded(reply, |text| {
        text.replace("redis_mode:", &format!("{name}_version:{version}\r\nredis_mode:"))
    })
}

/// Counts of messages that stand still.
const STILL: &str = "cluster_stats_messages_ping_sent:1\r\ncluster_stats_messages_pong_sent:1\r\n\
                     cluster_stats_messages_sent:1\r\ncluster_stats_messages_ping_received:1\r\n\
                     cluster_stats_messages_pong_received:1\r\ncluster_stats_messages_meet_received:0\r\n\
                     cluster_stats_messages_received:1\r\n";

fn told_unknown(asked: &Asked<'_>) -> String {
    format!("ERR unknown command `{}`, with args beginning with: ", asked.word(0))
}

/// What servers that were told the topology, or play it, have in common.
fn told(asked: &Asked<'_>) -> Option<Reply> {
    let lacking = ["ASKING", "FCALL", "FCALL_RO", "WAITAOF", "MIGRATE"];
    if let Some(reply) = unknown(asked, &lacking, told_unknown).or_else(|| {
        no_directives(
            asked,
            &["CLUSTER-", "APPENDONLY", "KEY-LOAD-DELAY", "REPL-", "MIN-REPLICAS"],
        )
    }) {
        return Some(reply);
    }
    match (asked.word(0).as_str(), asked.word(1).as_str()) {
        ("CLUSTER", "MYID") => Some(bulk(&asked.node().id)),
        ("CLUSTER", "SLOTS") => Some(slots(asked)),
        ("CLUSTER", "SHARDS") => Some(shard_maps(asked)),
        ("CLUSTER", "NODES") => Some(nodes(asked, 0, 0)),
        ("CLUSTER", "INFO") => Some(info(asked, 1, STILL)),
        ("CLUSTER", "KEYSLOT") => {
            let [_, _, key] = asked.words else {
                return error("ERR wrong number of arguments for 'cluster keyslot' command");
            };
            Some(Reply::Integer(slot_of(key).into()))
        }
        ("CLUSTER", other) if asked.words.len() > 2 => error(format!(
            "ERR wrong number of arguments for 'cluster {}' command",
            other.to_lowercase()
        )),
        ("CLUSTER", other) => error(format!(
            "ERR Unknown subcommand or wrong number of arguments for '{other}'. Try CLUSTER HELP."
        )),
        // Replicas are wired by it.
        ("READONLY" | "REPLICAOF" | "SLAVEOF", _) => ok(),
        _ => None,
    }
}

/// Its `ROLE` has no offset.
fn told_replies(asked: &Asked<'_>, reply: Reply) -> Reply {
    if asked.is("INFO") {
        return without(named(reply, "standin", "1.0.0"), &["aof_", "master_repl_offset"]);
    }
    match reply {
        Reply::Array(items) if asked.is("ROLE") => match (items.first().and_then(Reply::text), items.as_slice()) {
            (Some("master"), [role, _, replicas]) => {
                let replicas = replicas
                    .array()
                    .unwrap_or_default()
                    .iter()
                    .map(|replica| match replica {
                        Reply::Array(words) => array([words[0].clone(), words[1].clone(), bulk("stable_sync")]),
                        other => other.clone(),
                    });
                array([role.clone(), Reply::Array(replicas.collect())])
            }
            (Some("slave"), [_, host, port, ..]) => {
                array([bulk("slave"), host.clone(), port.clone(), bulk("stable_sync")])
            }
            _ => Reply::Array(items),
        },
        other => other,
    }
}

fn emulated(asked: &Asked<'_>) -> Option<Reply> {
    if asked.is("READWRITE") { ok() } else { told(asked) }
}

fn emulated_replies(asked: &Asked<'_>, reply: Reply) -> Reply {
    let reply = told_replies(asked, reply);
    if asked.is("INFO") {
        reworded(reply, |text| text.replace("cluster_enabled:0", "cluster_enabled:1"))
    } else {
        reply
    }
}

fn pushed(asked: &Asked<'_>) -> Option<Reply> {
    if asked.is("READWRITE") {
        error("ERR Cluster is disabled. Use --cluster_mode=yes to enable.")
    } else {
        told(asked)
    }
}

/// Whether a replica redirects to its own master.
fn moved_to_own_master(asked: &Asked<'_>, reply: &Reply) -> bool {
    let master = asked.node().master.map(|master| asked.nodes[master].real);
    let target = reply
        .error()
        .and_then(|text| text.strip_prefix("MOVED ")?.rsplit_once(':')?.1.parse().ok());
    master.is_some() && master == target
}

fn pushed_replies(asked: &Asked<'_>, reply: Reply) -> Reply {
    if moved_to_own_master(asked, &reply) {
        return Reply::Error("READONLY You can't write against a read only replica.".into());
    }
    told_replies(asked, reply)
}

fn own_wordings(asked: &Asked<'_>) -> Option<Reply> {
    let lacking = ["ACL", "WAIT", "WAITAOF", "MIGRATE", "SWAPDB"];
    if let Some(reply) = unknown(asked, &lacking, |_| "ERR unknown command".into()).or_else(|| {
        no_directives(
            asked,
            &["CLUSTER-", "APPENDONLY", "KEY-LOAD-DELAY", "REPL-", "MIN-REPLICAS"],
        )
    }) {
        return Some(reply);
    }
    match (asked.word(0).as_str(), asked.word(1).as_str()) {
        ("CLUSTER", "SLOTS") => Some(slots(asked)),
        ("CLUSTER", "NODES") => Some(nodes(asked, 7, 10000)),
        ("CLUSTER", "INFO") => Some(info(asked, 7, "")),
        ("CLUSTER", "KEYSLOT" | "REPLICAS") => None,
        ("CLUSTER", _) => error("ERR CLUSTER command, CLUSTER INFO|NODES|SLOTS|KEYSLOT|RESET|REPLICAS"),
        ("SELECT", _) => ok(),
        _ => None,
    }
}

/// `ROLE` with every number as text, and without the list of replicas where it is empty.
fn role_as_text(reply: Reply) -> Reply {
    match reply {
        Reply::Integer(number) => bulk(number.to_string()),
        Reply::Array(items) => {
            let there = |item: &Reply| item.array().is_none_or(|items| !items.is_empty());
            Reply::Array(items.into_iter().filter(there).map(role_as_text).collect())
        }
        other => other,
    }
}

fn own_wordings_replies(asked: &Asked<'_>, reply: Reply) -> Reply {
    if moved_to_own_master(asked, &reply) && asked.word(0) != "GET" {
        return Reply::Error("READONLY You can't write against a read only slave.".into());
    }
    match reply.error_prefix() {
        Some("WRONGPASS") => Reply::Error("ERR Invalid password".into()),
        Some("READONLY") => Reply::Error("READONLY You can't write against a read only slave.".into()),
        Some("CROSSSLOT") => Reply::Error("CROSSSLOT Attempted to access keys that don't hash to the same slot".into()),
        _ if asked.is("INFO") => {
            let reply = without(named(reply, "standin", "2.0.0"), &["aof_"]);
            // Replicas are listed without a state.
            reworded(reply, |text| text.replace(",state=online,", ","))
        }
        _ if asked.is("ROLE") => role_as_text(reply),
        _ => reply,
    }
}

fn replicas_execute(asked: &Asked<'_>) -> Option<Reply> {
    let lacking = ["WAIT", "WAITAOF", "FCALL", "FCALL_RO", "SUNSUBSCRIBE"];
    if let Some(reply) = unknown(asked, &lacking, |_| "ERR unknown command".into()) {
        return Some(reply);
    }
    let replica = asked.node().master.is_some();
    match (asked.word(0).as_str(), asked.word(1).as_str()) {
        ("CLUSTER", "LINKS" | "MYSHARDID") => {
            error(format!("ERR unknown subcommand '{}'. Try CLUSTER HELP.", asked.word(1)))
        }
        ("READONLY" | "READWRITE", _) if replica => ok(),
        ("SET" | "DEL", _) if replica && asked.readwrite => ok(),
        _ => None,
    }
}

fn replicas_execute_replies(asked: &Asked<'_>, reply: Reply) -> Reply {
    match reply.error_prefix() {
        Some("WRONGPASS") => Reply::Error("WRONGPASS Invalid password".into()),
        Some("CROSSSLOT") => Reply::Error("CROSSSLOT Keys in request do not hash to the same slot".into()),
        _ if asked.is("CLUSTER INFO") => {
            let reply = without(reply, &["cluster_stats_messages", "total_cluster"]);
            let counts = "cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n";
            reworded(reply, |text| format!("{text}{counts}"))
        }
        _ if asked.is("INFO") => {
            let reply = named(reply, "standin", "3.0.0");
            reworded(reply, |text| text.replace("redis_version:", "redis_compatible:"))
        }
        _ => reply,
    }
}

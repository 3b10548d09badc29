//! What `CLUSTER NODES` and `CLUSTER INFO` look like, and what must not be left in them.

use super::settled;
use crate::cluster::node::{parse_fields, parse_nodes};
use crate::cluster::slot::SlotRange;
use crate::context::Context;
use crate::verdict::Outcome;

/// Flags that say of a node that it is not, or no longer, a member in good standing.
const LEFTOVERS: [&str; 5] = ["fail", "fail?", "handshake", "noaddr", "noflags"];

pub(super) async fn no_leftovers(cx: &Context) -> Outcome {
    let what = "no line flagged handshake, noaddr, fail, fail? or noflags on any node";
    settled(cx, what, 2 * cx.timing().node_timeout(), async |member, connection| {
        let reply = connection.ask(&["CLUSTER", "NODES"]).await?;
        let lines = parse_nodes(&reply).map_err(|reason| connection.nonsense("CLUSTER NODES", reason))?;
        let mut findings = Vec::new();
        if !lines.iter().any(|line| line.is("myself")) {
            findings.push(format!("{}: no line of its own", member.name));
        }
        for line in &lines {
            let flags: Vec<&str> = LEFTOVERS.into_iter().filter(|flag| line.is(flag)).collect();
            if !flags.is_empty() {
                let (id, address) = (&line.id, &line.address);
                findings.push(format!("{}: {id} at {address} is {}", member.name, flags.join(",")));
            }
        }
        Ok(findings)
    })
    .await
}

pub(super) async fn node_lines(cx: &Context) -> Outcome {
    let expected =
        "`<id> <ip:port@cport[,hostname...]> <flags> <master> <ping> <pong> <epoch> <link> <slot>...` in every line";
    cx.judge_every_node(expected, async |member, connection| {
        let text = connection.ask_text(&["CLUSTER", "NODES"]).await?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let told = |reason: String| format!("{}: {reason}", member.name);
        let mut findings: Vec<String> = lines
            .iter()
            .filter_map(|line| complaint(line).map(|reason| told(format!("{reason}: {line}"))))
            .collect();
        let own = lines.iter().filter(|line| line.contains("myself")).count();
        if own != 1 {
            findings.push(told(format!("{own} of {} lines are flagged myself", lines.len())));
        }
        Ok(findings)
    })
    .await
}

fn is_id(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What is wrong with a line of `CLUSTER NODES`. More after the bus port (a host name, `key=value`) is no fault.
fn complaint(line: &str) -> Option<&'static str> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [id, endpoint, flags, master, ping, pong, epoch, link, slots @ ..] = fields.as_slice() else {
        return Some("fewer than eight fields");
    };
    let address = endpoint.split(',').next().unwrap_or_default();
    let ports = address.rsplit_once('@').and_then(|(client, bus)| {
        let (_, port) = client.rsplit_once(':')?;
        Some((port.parse::<u16>().ok()?, bus.parse::<u16>().ok()?))
    });
    let flags: Vec<&str> = flags.split(',').collect();
    let role = flags.iter().filter(|flag| ["master", "slave"].contains(flag)).count();
    let roleless = flags.iter().any(|flag| ["handshake", "noflags"].contains(flag));
    let milliseconds = |text: &str| text.parse::<u64>().is_ok();
    if !is_id(id) {
        Some("the id is not 40 hexadecimal digits")
    } else if ports.is_none() {
        Some("the address is not ip:port@cport")
    } else if flags.iter().any(|flag| flag.is_empty()) || role > 1 || (role == 0 && !roleless) {
        Some("the flags do not say one of master and slave")
    } else if *master != "-" && !is_id(master) {
        Some("the master is neither an id nor -")
    } else if !milliseconds(ping) || !milliseconds(pong) {
        Some("the times of ping and pong are not numbers")
    } else if epoch.parse::<u64>().is_err() {
        Some("the epoch is not a number")
    } else if !["connected", "disconnected"].contains(link) {
        Some("the link is neither connected nor disconnected")
    } else if !slots.iter().all(|slot| is_slot_entry(slot)) {
        Some("what follows the link is not slots")
    } else {
        None
    }
}

/// A slot, a range of slots, or an open slot in brackets. An empty word is a space at the line's end.
fn is_slot_entry(text: &str) -> bool {
    let open = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match open {
        None => text.is_empty() || SlotRange::parse(text).is_some(),
        Some(open) => ["->-", "-<-"].iter().any(|way| {
            open.split_once(way)
                .is_some_and(|(slot, id)| slot.parse::<u16>().is_ok() && is_id(id))
        }),
    }
}

/// The fields of `CLUSTER INFO` whose values are numbers.
const NUMBERS: [&str; 10] = [
    "cluster_slots_assigned",
    "cluster_slots_ok",
    "cluster_slots_pfail",
    "cluster_slots_fail",
    "cluster_known_nodes",
    "cluster_size",
    "cluster_current_epoch",
    "cluster_my_epoch",
    "cluster_stats_messages_sent",
    "cluster_stats_messages_received",
];

pub(super) async fn info_fields(cx: &Context) -> Outcome {
    let expected = "every field of CLUSTER INFO that its command page names, on every node";
    cx.judge_every_node(expected, async |member, connection| {
        let reply = connection.ask(&["CLUSTER", "INFO"]).await?;
        let info = parse_fields(&reply).map_err(|reason| connection.nonsense("CLUSTER INFO", reason))?;
        let value = |name: &str| info.get(name).map_or("", String::as_str);
        let mut findings = Vec::new();
        if !["ok", "fail"].contains(&value("cluster_state")) {
            findings.push(format!("{}: cluster_state:{}", member.name, value("cluster_state")));
        }
        for name in NUMBERS {
            if value(name).parse::<u64>().is_err() {
                findings.push(match info.get(name) {
                    None => format!("{}: no {name}", member.name),
                    Some(value) => format!("{}: {name}:{value}", member.name),
                });
            }
        }
        Ok(findings)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const ID: &str = "07c37dfeb235213a872192d90877d0cd55635b91";

    #[rstest]
    #[case("127.0.0.1:6379@16379 myself,master - 0 1426238317239 1 connected 0-5460 7000")]
    #[case("127.0.0.1:6379@16379,host slave 07c37dfeb235213a872192d90877d0cd55635b91 0 0 4 connected")]
    #[case("::1:6379@16379,,tls-port=6380,shard-id=ab slave,fail - 0 0 4 disconnected")]
    #[case(":0@0 handshake - 0 0 0 disconnected")]
    #[case("h:1@2 master - 0 0 0 connected [93->-07c37dfeb235213a872192d90877d0cd55635b91] 5 ")]
    fn well_formed_lines(#[case] rest: &str) {
        assert_eq!(complaint(&format!("{ID} {rest}")), None);
    }

    #[rstest]
    #[case("127.0.0.1:6379 master - 0 0 1 connected", "the address is not ip:port@cport")]
    #[case("h:1@2 myself - 0 0 1 connected", "the flags do not say one of master and slave")]
    #[case("h:1@2 slave x 0 0 1 connected", "the master is neither an id nor -")]
    #[case("h:1@2 master - x 0 1 connected", "the times of ping and pong are not numbers")]
    #[case("h:1@2 master - 0 0 one connected", "the epoch is not a number")]
    #[case("h:1@2 master - 0 0 1 up", "the link is neither connected nor disconnected")]
    #[case("h:1@2 master - 0 0 1 connected [93]", "what follows the link is not slots")]
    #[case("h:1@2 master - 0 0 1", "fewer than eight fields")]
    fn ill_formed_lines(#[case] rest: &str, #[case] reason: &str) {
        assert_eq!(complaint(&format!("{ID} {rest}")), Some(reason));
        assert_eq!(
            complaint("abc h:1@2 master - 0 0 1 connected"),
            Some("the id is not 40 hexadecimal digits")
        );
    }
}

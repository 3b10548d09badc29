//! Replies of servers, taken apart.

use super::{Fields, NodeLine, Role, Shard, ShardNode, SlotsEntry};
use crate::cluster::connection::Address;
use crate::cluster::resp::Reply;
use crate::cluster::slot::{SLOT_COUNT, SlotRange};
use std::collections::BTreeMap;

/// Parses `key:value` lines.
///
/// # Errors
/// When the reply is not text, or text without a single such line. An empty section, as servers give for one that they do
/// not know, is none.
pub fn parse_fields(reply: &Reply) -> Result<Fields, String> {
    let text = reply.text().ok_or_else(|| reply.to_string())?;
    let fields: Fields = text
        .lines()
        .filter_map(|line| line.trim_end().split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let says_something = |line: &str| !line.trim().is_empty() && !line.starts_with('#');
    if fields.is_empty() && text.lines().any(says_something) {
        return Err(format!("no field in {reply}"));
    }
    Ok(fields)
}

/// Parses the reply of `CLUSTER NODES`.
///
/// # Errors
/// When the reply is not text or a line is malformed.
pub fn parse_nodes(reply: &Reply) -> Result<Vec<NodeLine>, String> {
    let text = reply.text().ok_or_else(|| reply.to_string())?;
    text.lines()
        .filter(|line| !line.is_empty())
        .map(NodeLine::parse)
        .collect()
}

/// Parses the reply of `CLUSTER SLOTS`; a null host stands for the host that was asked.
///
/// # Errors
/// When the reply is not of the documented form.
pub fn parse_slots(reply: &Reply, asked_host: &str) -> Result<Vec<SlotsEntry>, String> {
    let wrong = |reply: &Reply| format!("unexpected {reply}");
    let mut entries = Vec::new();
    for entry in reply.array().ok_or_else(|| wrong(reply))? {
        let Some([first, last, nodes @ ..]) = entry.array() else {
            return Err(wrong(entry));
        };
        let slot = |reply: &Reply| reply.integer().and_then(|slot| u16::try_from(slot).ok());
        let range = match (slot(first), slot(last)) {
            (Some(first), Some(last)) if first <= last && last < SLOT_COUNT => SlotRange { first, last },
            _ => return Err(wrong(entry)),
        };
        let mut parsed = Vec::new();
        for node in nodes {
            let Some([host, port, rest @ ..]) = node.array() else {
                return Err(wrong(node));
            };
            let host = match host {
                Reply::Nil => asked_host.to_owned(),
                host => host.text().ok_or_else(|| wrong(node))?.to_owned(),
            };
            let port = port
                .integer()
                .and_then(|port| u16::try_from(port).ok())
                .ok_or_else(|| wrong(node))?;
            let id = rest.first().and_then(Reply::text).map(str::to_owned);
            parsed.push((Address::new(host, port), id));
        }
        if parsed.is_empty() {
            return Err(wrong(entry));
        }
        entries.push(SlotsEntry { range, nodes: parsed });
    }
    Ok(entries)
}

/// A RESP2 map: names and values in turn.
fn pairs(reply: &Reply) -> Option<BTreeMap<String, &Reply>> {
    let items = reply.array()?;
    if !items.len().is_multiple_of(2) {
        return None;
    }
    items
        .chunks(2)
        .map(|pair| Some((pair[0].text()?.to_owned(), &pair[1])))
        .collect()
}

/// Parses the reply of `CLUSTER SHARDS`.
///
/// # Errors
/// When the reply is not of the documented form.
pub fn parse_shards(reply: &Reply) -> Result<Vec<Shard>, String> {
    let wrong = |reply: &Reply| format!("unexpected {reply}");
    let mut shards = Vec::new();
    for shard in reply.array().ok_or_else(|| wrong(reply))? {
        let fields = pairs(shard).ok_or_else(|| wrong(shard))?;
        let (Some(bounds), Some(members)) = (
            fields.get("slots").and_then(|slots| slots.array()),
            fields.get("nodes").and_then(|nodes| nodes.array()),
        ) else {
            return Err(wrong(shard));
        };
        let bounds: Vec<u16> = bounds
            .iter()
            .map(|slot| {
                slot.integer()
                    .and_then(|slot| u16::try_from(slot).ok())
                    .ok_or_else(|| wrong(shard))
            })
            .collect::<Result<_, _>>()?;
        let slots = bounds
            .chunks(2)
            .map(|pair| match pair {
                [first, last] if first <= last && *last < SLOT_COUNT => Ok(SlotRange {
                    first: *first,
                    last: *last,
                }),
                _ => Err(wrong(shard)),
            })
            .collect::<Result<_, _>>()?;
        let mut nodes = Vec::new();
        for node in members {
            let fields = pairs(node).ok_or_else(|| wrong(node))?;
            let text = |name: &str| fields.get(name).and_then(|value| value.text()).map(str::to_owned);
            // A node whose address is unknown (`noaddr`) is listed without a port.
            let port = match fields.get("port").or_else(|| fields.get("tls-port")) {
                Some(port) => port.integer().and_then(|port| u16::try_from(port).ok()),
                None => Some(0),
            };
            let (Some(id), Some(port), Some(role)) = (text("id"), port, text("role")) else {
                return Err(wrong(node));
            };
            nodes.push(ShardNode {
                id,
                address: Address::new(text("endpoint").or_else(|| text("ip")).unwrap_or_default(), port),
                role,
                health: text("health").unwrap_or_default(),
            });
        }
        shards.push(Shard { slots, nodes });
    }
    Ok(shards)
}

/// Parses the reply of `ROLE`. Other implementations leave offsets out, which is then -1, or give them as text (Kvrocks, where
/// a master without replicas leaves their list out too), and have words of their own for the link: what of that is wrong is
/// for the cases.
///
/// # Errors
/// When the reply is not of the documented form, or that of a sentinel.
pub fn parse_role(reply: &Reply) -> Result<Role, String> {
    let wrong = || format!("unexpected {reply}");
    let items = reply.array().ok_or_else(wrong)?;
    let port = |reply: &Reply| match reply {
        Reply::Integer(port) => u16::try_from(*port).ok(),
        other => other.text().and_then(|text| text.parse().ok()),
    };
    let number = |offset: Option<&Reply>| match offset {
        None => Some(-1),
        Some(offset) => offset.integer().or_else(|| offset.text()?.parse().ok()),
    };
    match (items.first().and_then(Reply::text), items) {
        (Some("master"), [_, rest @ ..]) => {
            let (offset, replicas) = match rest {
                [Reply::Array(replicas)] => (None, replicas.as_slice()),
                [offset] => (Some(offset), &[] as &[Reply]),
                [offset, Reply::Array(replicas)] => (Some(offset), replicas.as_slice()),
                _ => return Err(wrong()),
            };
            let mut attached = Vec::new();
            for replica in replicas {
                let Some([host, at, offset]) = replica.array() else {
                    return Err(wrong());
                };
                let (Some(host), Some(at)) = (host.text(), port(at)) else {
                    return Err(wrong());
                };
                let offset = offset.text().and_then(|text| text.parse().ok()).unwrap_or(-1);
                attached.push((Address::new(host, at), offset));
            }
            Ok(Role::Master {
                offset: number(offset).ok_or_else(wrong)?,
                replicas: attached,
            })
        }
        (Some("slave" | "replica"), [_, host, at, link, offset @ ..]) if offset.len() < 2 => Ok(Role::Replica {
            master: Address::new(host.text().ok_or_else(wrong)?, port(at).ok_or_else(wrong)?),
            link: link.text().ok_or_else(wrong)?.to_owned(),
            offset: number(offset.first()).ok_or_else(wrong)?,
        }),
        _ => Err(wrong()),
    }
}

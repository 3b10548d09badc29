//! What a node says of itself and of the others, and how that differs from what it said before, in words.

use crate::cluster::connection::Address;
use crate::cluster::node::{Member, NodeId, Role, parse_fields, parse_nodes, parse_role};
use crate::cluster::resp::Reply;
use std::collections::BTreeMap;

/// The questions: [`Said::of`] takes the answers in this order.
pub(super) const QUESTIONS: [&[&str]; 3] = [&["CLUSTER", "INFO"], &["CLUSTER", "NODES"], &["ROLE"]];

/// What a node said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Its own id.
    pub(super) id: NodeId,
    role: Own,
    state: String,
    current_epoch: String,
    own_epoch: String,
    others: BTreeMap<NodeId, Other>,
}

/// A node's own role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Own {
    /// Its answer was none.
    #[default]
    Unknown,
    Master,
    Replica {
        master: Address,
        link: String,
    },
}

/// What a node says of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    /// `fail?`, `fail`, or nothing.
    flag: &'static str,
    master: bool,
    connected: bool,
}

impl Said {
    /// What a node's answers say; nothing where one is not of its form.
    pub(super) fn of(answers: &[Reply]) -> Option<Self> {
        let [info, nodes, role] = answers else {
            return None;
        };
        let fields = parse_fields(info).ok()?;
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let lines = parse_nodes(nodes).ok()?;
        let others = lines.iter().filter(|line| !line.is("myself")).map(|line| {
            let flag = match (line.is("fail"), line.is("fail?")) {
                (true, _) => "fail",
                (false, true) => "fail?",
                (false, false) => "",
            };
            let other = Other {
                flag,
                master: line.is_master(),
                connected: line.connected,
            };
            (line.id.clone(), other)
        });
        Some(Self {
            others: others.collect(),
            id: lines
                .iter()
                .find(|line| line.is("myself"))
                .map(|line| line.id.clone())?,
            role: match parse_role(role) {
                Ok(Role::Master { .. }) => Own::Master,
                Ok(Role::Replica { master, link, .. }) => Own::Replica { master, link },
                Err(_) => Own::Unknown,
            },
            state: field("cluster_state"),
            current_epoch: field("cluster_current_epoch"),
            own_epoch: field("cluster_my_epoch"),
        })
    }

    /// How this differs from what the node said before, a line for each thing; where it said nothing before, what it is.
    pub(super) fn since(&self, before: Option<&Self>, names: &Names<'_>) -> Vec<String> {
        let Some(before) = before else {
            let first = format!(
                "is {}; cluster_state:{}, cluster_current_epoch:{}, cluster_my_epoch:{}",
                self.role.words(names),
                self.state,
                self.current_epoch,
                self.own_epoch
            );
            let flagged = self
                .others
                .iter()
                .filter_map(|(id, other)| other.flagged(&names.of(id)));
            return std::iter::once(first).chain(flagged).collect();
        };
        let mut lines = Vec::new();
        if before.id != self.id {
            lines.push(format!(
                "has another id: {}, which was {}",
                short(&self.id),
                short(&before.id)
            ));
        }
        if before.role != self.role {
            lines.push(format!("is {}", self.role.words(names)));
        }
        for (field, was, is) in [
            ("cluster_state", &before.state, &self.state),
            ("cluster_current_epoch", &before.current_epoch, &self.current_epoch),
            ("cluster_my_epoch", &before.own_epoch, &self.own_epoch),
        ] {
            if was != is {
                lines.push(format!("says {field}:{is}, which was {was}"));
            }
        }
        for (id, other) in &self.others {
            let name = names.of(id);
            match before.others.get(id) {
                Some(same) => lines.extend(other.since(same, &name)),
                None => lines.push(format!("knows {name} now")),
            }
        }
        let gone = before.others.keys().filter(|id| !self.others.contains_key(*id));
        lines.extend(gone.map(|id| format!("knows {} no more", names.of(id))));
        lines
    }
}

impl Own {
    fn words(&self, names: &Names<'_>) -> String {
        match self {
            Self::Unknown => "of no role".into(),
            Self::Master => "a master".into(),
            Self::Replica { master, link } => format!("a replica of {}, link {link}", names.at(master)),
        }
    }
}

impl Other {
    fn flagged(&self, name: &str) -> Option<String> {
        match self.flag {
            "" => None,
            "fail?" => Some(format!("flags {name} fail? (PFAIL)")),
            flag => Some(format!("flags {name} {flag} (FAIL)")),
        }
    }

    fn since(&self, before: &Self, name: &str) -> Vec<String> {
        let mut lines = Vec::new();
        if self.flag != before.flag {
            lines.push(self.flagged(name).unwrap_or_else(|| format!("flags {name} no more")));
        }
        if self.master != before.master {
            let role = if self.master { "a master" } else { "a replica" };
            lines.push(format!("shows {name} as {role}"));
        }
        if self.connected != before.connected {
            let link = if self.connected {
                "has a link to"
            } else {
                "has lost its link to"
            };
            lines.push(format!("{link} {name}"));
        }
        lines
    }
}

/// How nodes are called: by the names that the target has for them, where they are known.
pub(super) struct Names<'a> {
    /// The members, by address.
    pub(super) members: &'a [Member],
    /// The names that go with ids, by the nodes' own lines.
    pub(super) by_id: &'a BTreeMap<NodeId, String>,
}

impl Names<'_> {
    fn of(&self, id: &str) -> String {
        self.by_id.get(id).cloned().unwrap_or_else(|| short(id))
    }

    fn at(&self, address: &Address) -> String {
        let mut known = self.members.iter().filter(|member| member.address == *address);
        known
            .next()
            .map_or_else(|| address.to_string(), |member| member.name.clone())
    }
}

/// The beginning of an id: enough to tell nodes apart.
fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use rstest::rstest;

    const INFO: &str = "cluster_state:ok\r\ncluster_current_epoch:6\r\ncluster_my_epoch:1\r\n";
    const NODES: &str = "aaaaaaaaaa 127.0.0.1:7000@17000 myself,slave bbbbbbbbbb 0 0 1 connected\n\
                         bbbbbbbbbb 127.0.0.1:7001@17001 master - 0 0 1 connected 0-16383\n";

    fn role(text: &str) -> Reply {
        let bulk = |text: &str| Reply::Bulk(text.to_owned().into());
        match text {
            "master" => Reply::Array(vec![bulk("master"), Reply::Integer(0), Reply::Array(vec![])]),
            link => Reply::Array(vec![
                bulk("slave"),
                bulk("127.0.0.1"),
                Reply::Integer(7001),
                bulk(link),
                Reply::Integer(0),
            ]),
        }
    }

    fn said(info: &str, nodes: &str, own: &str) -> Said {
        let text = |text: &str| Reply::Bulk(text.to_owned().into());
        Said::of(&[text(info), text(nodes), role(own)]).unwrap()
    }

    fn told(before: Option<&Said>, now: &Said) -> Vec<String> {
        let member = Member {
            name: "redis-cluster-1".into(),
            address: Address::new("127.0.0.1", 7001),
        };
        let by_id = [("bbbbbbbbbb".to_owned(), "redis-cluster-1".to_owned())].into();
        let names = Names {
            members: &[member],
            by_id: &by_id,
        };
        now.since(before, &names)
    }

    #[rstest]
    #[case::nothing(INFO, NODES, "connected", &[])]
    #[case::suspicion(INFO, &NODES.replace("master", "master,fail?"), "connected", &["flags redis-cluster-1 fail? (PFAIL)"])]
    #[case::failure(INFO, &NODES.replace("master", "master,fail"), "connected", &["flags redis-cluster-1 fail (FAIL)"])]
    #[case::links(
        INFO,
        &NODES.replace("connected 0", "disconnected 0"),
        "connect",
        &["is a replica of redis-cluster-1, link connect", "has lost its link to redis-cluster-1"]
    )]
    #[case::state(&INFO.replace("ok", "fail"), NODES, "connected", &["says cluster_state:fail, which was ok"])]
    #[case::promotion(
        &INFO.replace("6", "7").replace(":1", ":7"),
        &NODES.replace("myself,slave bbbbbbbbbb", "myself,master -").replace("master - 0 0 1 c", "slave aaaaaaaaaa 0 0 1 c"),
        "master",
        &[
            "is a master",
            "says cluster_current_epoch:7, which was 6",
            "says cluster_my_epoch:7, which was 1",
            "shows redis-cluster-1 as a replica",
        ]
    )]
    #[case::nodes_come_and_go(
        INFO,
        &NODES.replace("bbbbbbbbbb 127", "cccccccccc 127"),
        "connected",
        &["knows cccccccc now", "knows redis-cluster-1 no more"]
    )]
    #[case::another_id(
        INFO,
        &NODES.replace("aaaaaaaaaa 127", "dddddddddd 127"),
        "connected",
        &["has another id: dddddddd, which was aaaaaaaa"]
    )]
    fn a_change_is_told(#[case] info: &str, #[case] nodes: &str, #[case] own: &str, #[case] expected: &[&str]) {
        let before = said(INFO, NODES, "connected");
        assert_eq!(told(Some(&before), &said(info, nodes, own)), expected);
    }

    #[test]
    fn the_first_answer_says_what_the_node_is() {
        let now = said(INFO, &NODES.replace("master", "master,fail?"), "connected");
        let expected = [
            "is a replica of redis-cluster-1, link connected; \
             cluster_state:ok, cluster_current_epoch:6, cluster_my_epoch:1",
            "flags redis-cluster-1 fail? (PFAIL)",
        ];
        assert_eq!(told(None, &now), expected);
    }

    #[test]
    fn an_answer_that_is_none_says_nothing() {
        assert_eq!(Said::of(&[Reply::Nil, Reply::Nil, Reply::Nil]), None);
        assert_eq!(Said::of(&[]), None);
    }
}

//! What one node says of itself and of the others: the replies of `CLUSTER INFO`, `NODES`, `SLOTS`, `SHARDS`, `ROLE` and
//! `INFO replication`, parsed, with the raw text kept.

mod endpoint;
mod parse;

pub use endpoint::Endpoint;
pub use parse::{parse_fields, parse_nodes, parse_role, parse_shards, parse_slots};

use super::connection::{Address, Connection, LinkError};
use super::resp::Reply;
use super::slot::SlotRange;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// A node's 40 hexadecimal digits.
pub type NodeId = String;

/// A server of the deployment, as the target knows it.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub struct Member {
    /// The name that people know it by: the pod's, or `127.0.0.1:7000`.
    pub name: String,
    /// Where it serves clients at present.
    pub address: Address,
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.name == self.address.to_string() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{} ({})", self.name, self.address)
        }
    }
}

/// One line of `CLUSTER NODES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLine {
    /// The node's id.
    pub id: NodeId,
    /// Where it serves clients; host empty and port 0 when unknown (`:0@0`).
    pub address: Address,
    /// The host name that it announces (`cluster-announce-hostname`), where it does.
    pub host_name: Option<String>,
    /// The bus port.
    pub bus_port: Option<u16>,
    /// `master`, `slave`, `myself`, `fail?`, `fail`, `handshake`, `noaddr`, `nofailover`, `noflags`.
    pub flags: BTreeSet<String>,
    /// The master's id, for a replica.
    pub master: Option<NodeId>,
    /// The configuration epoch (a replica shows its master's).
    pub config_epoch: u64,
    /// Whether the bus link is connected.
    pub connected: bool,
    /// The slots that it owns.
    pub slots: Vec<SlotRange>,
    /// Open slots, raw: `[93->-id]`, `[93-<-id]`. Only ever on the line of `myself`.
    pub open_slots: Vec<String>,
}

impl NodeLine {
    /// Parses one line; the error says what is wrong with it.
    ///
    /// # Errors
    /// When the line does not have the fields that the command page documents.
    pub fn parse(line: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{what} in line \"{}\"", line.escape_debug());
        let fields: Vec<&str> = line.split(' ').collect();
        let [id, address, flags, master, _ping, _pong, epoch, link, slots @ ..] = fields.as_slice() else {
            return Err(wrong("fewer than 8 fields"));
        };
        // `ip:port@cport[,hostname[,key=value]…]`: the name is empty where only what follows it is there.
        let mut parts = address.split(',');
        let endpoint = parts.next().unwrap_or_default();
        let host_name = parts.next().filter(|name| !name.is_empty() && !name.contains('='));
        let (client, bus) = match endpoint.split_once('@') {
            Some((client, bus)) => (client, Some(bus.parse().map_err(|_| wrong("bad bus port"))?)),
            None => (endpoint, None),
        };
        let mut parsed = Self {
            id: (*id).to_owned(),
            address: client.parse().map_err(|_| wrong("bad address"))?,
            host_name: host_name.map(str::to_owned),
            bus_port: bus,
            flags: flags.split(',').map(str::to_owned).collect(),
            master: (*master != "-").then(|| (*master).to_owned()),
            config_epoch: epoch.parse().map_err(|_| wrong("bad epoch"))?,
            connected: *link == "connected",
            slots: Vec::new(),
            open_slots: Vec::new(),
        };
        for slot in slots.iter().filter(|slot| !slot.is_empty()) {
            if slot.starts_with('[') {
                parsed.open_slots.push((*slot).to_owned());
            } else {
                parsed
                    .slots
                    .push(SlotRange::parse(slot).ok_or_else(|| wrong("bad slots"))?);
            }
        }
        Ok(parsed)
    }

    /// Whether it has the flag.
    pub fn is(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }

    /// Whether it is a master, by its flags.
    pub fn is_master(&self) -> bool {
        self.is("master")
    }

    /// Whether it is a replica, by its flags.
    pub fn is_replica(&self) -> bool {
        self.is("slave")
    }

    /// How many slots it owns.
    pub fn slot_count(&self) -> usize {
        self.slots.iter().map(|range| range.len()).sum()
    }
}

/// One entry of `CLUSTER SLOTS`: a range, its master, its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotsEntry {
    /// The slots.
    pub range: SlotRange,
    /// The nodes of the range, master first: address and id (where the server gives one).
    pub nodes: Vec<(Address, Option<NodeId>)>,
}

/// One node of a shard of `CLUSTER SHARDS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardNode {
    /// The node's id.
    pub id: NodeId,
    /// Where it serves clients.
    pub address: Address,
    /// `master` or `replica`.
    pub role: String,
    /// `online`, `loading`, `fail` or `failed`.
    pub health: String,
}

/// One shard of `CLUSTER SHARDS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The slots of the shard.
    pub slots: Vec<SlotRange>,
    /// Its nodes.
    pub nodes: Vec<ShardNode>,
}

/// The reply of `ROLE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A master, with the replicas that are attached to it.
    Master {
        /// The replication offset; -1 where the server gives none.
        offset: i64,
        /// The addresses of the attached replicas, with the offset that each acknowledged.
        replicas: Vec<(Address, i64)>,
    },
    /// A replica.
    Replica {
        /// Its master's address.
        master: Address,
        /// `connect`, `connecting`, `sync` or `connected`.
        link: String,
        /// The replication offset; -1 before the first synchronisation, and where the server gives none.
        offset: i64,
    },
}

impl Role {
    /// Whether this is a master's reply.
    pub fn is_master(&self) -> bool {
        matches!(self, Self::Master { .. })
    }
}

/// `key:value` lines, as `INFO` and `CLUSTER INFO` give them.
pub type Fields = BTreeMap<String, String>;

/// Everything that one node answered, at about one moment.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// The node that was asked.
    pub member: Member,
    /// The raw text of each reply, by command, for evidence.
    pub raw: BTreeMap<&'static str, String>,
    /// `CLUSTER INFO`.
    pub info: Fields,
    /// `CLUSTER NODES`.
    pub nodes: Vec<NodeLine>,
    /// `CLUSTER SLOTS`.
    pub slots: Vec<SlotsEntry>,
    /// `CLUSTER SHARDS`, or the error with which the server refused it.
    pub shards: Result<Vec<Shard>, String>,
    /// `ROLE`.
    pub role: Role,
    /// `INFO replication`.
    pub replication: Fields,
}

impl NodeView {
    /// Asks a node everything, in one pipeline. The connection must be authenticated.
    ///
    /// # Errors
    /// When the node does not answer, or answers what is not of the form that the command has.
    pub async fn ask(connection: &mut Connection, member: Member) -> Result<Self, LinkError> {
        const COMMANDS: [(&str, &[&str]); 6] = [
            ("CLUSTER INFO", &["CLUSTER", "INFO"]),
            ("CLUSTER NODES", &["CLUSTER", "NODES"]),
            ("CLUSTER SLOTS", &["CLUSTER", "SLOTS"]),
            ("CLUSTER SHARDS", &["CLUSTER", "SHARDS"]),
            ("ROLE", &["ROLE"]),
            ("INFO replication", &["INFO", "replication"]),
        ];
        let requests: Vec<Vec<&str>> = COMMANDS.iter().map(|(_, words)| words.to_vec()).collect();
        let replies = connection.pipeline(&requests).await?;
        if let Some(bytes) = connection.unread() {
            // Every reply after it would be taken for another command's.
            return Err(connection.nonsense("six commands", format!("more than six replies: {bytes}")));
        }
        let host = connection.address().host.clone();
        let mut raw = BTreeMap::new();
        for ((name, _), reply) in COMMANDS.iter().zip(&replies) {
            raw.insert(*name, reply.text().map_or_else(|| reply.to_string(), str::to_owned));
        }
        let fail = |at: usize, reason: String| connection.nonsense(COMMANDS[at].0, reason);
        Ok(Self {
            info: parse_fields(&replies[0]).map_err(|reason| fail(0, reason))?,
            nodes: parse_nodes(&replies[1]).map_err(|reason| fail(1, reason))?,
            slots: parse_slots(&replies[2], &host).map_err(|reason| fail(2, reason))?,
            shards: match &replies[3] {
                Reply::Error(text) => Err(text.clone()),
                reply => Ok(parse_shards(reply).map_err(|reason| fail(3, reason))?),
            },
            role: parse_role(&replies[4]).map_err(|reason| fail(4, reason))?,
            replication: parse_fields(&replies[5]).map_err(|reason| fail(5, reason))?,
            raw,
            member,
        })
    }

    /// The node's own line, where it shows one.
    pub fn myself(&self) -> Option<&NodeLine> {
        self.nodes.iter().find(|line| line.is("myself"))
    }

    /// The host name that the node announces, with its port; none where it announces none.
    pub fn announced(&self) -> Option<Address> {
        let name = self.myself()?.host_name.as_deref()?;
        Some(Address::new(name, self.member.address.port))
    }

    /// A field of `CLUSTER INFO`, empty when absent.
    pub fn info(&self, field: &str) -> &str {
        self.info.get(field).map_or("", String::as_str)
    }

    /// The line of a node by its id.
    pub fn line(&self, id: &str) -> Option<&NodeLine> {
        self.nodes.iter().find(|line| line.id == id)
    }

    /// The owner's id of every slot by `CLUSTER NODES`, or nothing for an unassigned one; two claims are an error text.
    ///
    /// # Errors
    /// When two nodes claim a slot.
    pub fn owners(&self) -> Result<Vec<Option<&str>>, String> {
        owners(
            self.nodes
                .iter()
                .flat_map(|line| line.slots.iter().map(|range| (*range, line.id.as_str()))),
        )
    }
}

impl NodeView {
    /// The owner of every slot by `CLUSTER SLOTS`: its id, translated from its address where the server gives no id.
    ///
    /// # Errors
    /// When a slot is claimed twice.
    pub fn owners_by_slots(&self) -> Result<Vec<Option<Cow<'_, str>>>, String> {
        let claims = self.slots.iter().filter_map(|entry| {
            let (address, id) = entry.nodes.first()?;
            let by_address = || self.nodes.iter().find(|line| &line.address == address);
            let known = id.as_deref().or_else(|| by_address().map(|line| line.id.as_str()));
            Some((entry.range, known.map_or_else(|| address.to_string().into(), Cow::from)))
        });
        owners(claims)
    }

    /// The owner of every slot by `CLUSTER SHARDS`: the id of its shard's master.
    ///
    /// # Errors
    /// When the server refused the command, when a slot is claimed twice, or when a shard with slots has not one master.
    pub fn owners_by_shards(&self) -> Result<Vec<Option<&str>>, String> {
        let mut claims = Vec::new();
        for shard in self.shards.as_ref().map_err(String::clone)? {
            let masters: Vec<&ShardNode> = shard.nodes.iter().filter(|node| node.role == "master").collect();
            match (masters.as_slice(), shard.slots.as_slice()) {
                (_, []) => {}
                ([master], slots) => claims.extend(slots.iter().map(|range| (*range, master.id.as_str()))),
                (masters, [first, ..]) => {
                    return Err(format!("the shard of slots {first} has {} masters", masters.len()));
                }
            }
        }
        owners(claims)
    }

    /// The slots that the node claims on its own line, in the line's order.
    pub fn own_slots(&self) -> Vec<u16> {
        let line = self.myself();
        line.iter()
            .flat_map(|line| &line.slots)
            .flat_map(|range| range.slots())
            .collect()
    }

    /// A slot well inside what the node claims, for a key of a case; none where it claims none.
    pub fn inner_slot(&self) -> Option<u16> {
        let slots = self.own_slots();
        slots.get(slots.len() / 2).copied()
    }

    /// A field of `INFO replication`, empty when absent.
    pub fn replication(&self, field: &str) -> &str {
        self.replication.get(field).map_or("", String::as_str)
    }

    /// Whether it is a replica whose link to its master is up. Other implementations have words of their own for that in `ROLE`
    /// (Dragonfly: `stable_sync`).
    pub fn linked(&self) -> bool {
        match &self.role {
            Role::Replica { link, .. } => link == "connected" || self.replication("master_link_status") == "up",
            Role::Master { .. } => false,
        }
    }

    /// The replicas that `INFO replication` lists.
    pub fn attached(&self) -> Vec<Attached> {
        self.replication
            .iter()
            .filter(|(key, _)| {
                key.strip_prefix("slave")
                    .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
            })
            .filter_map(|(_, value)| Attached::parse(value))
            .collect()
    }
}

/// A replica as its master's `INFO replication` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Where it serves clients.
    pub address: Address,
    /// `online`, `wait_bgsave`, `send_bulk`; empty where the server gives none.
    pub state: String,
}

impl Attached {
    /// Whether it may be online for all that its master says of it: other implementations list replicas without a state (Kvrocks),
    /// and one that is not known is no evidence against it.
    pub fn is_online(&self) -> bool {
        ["", "online"].contains(&self.state.as_str())
    }

    /// Parses `ip=…,port=…,state=…,…`.
    fn parse(value: &str) -> Option<Self> {
        let fields: BTreeMap<&str, &str> = value.split(',').filter_map(|field| field.split_once('=')).collect();
        Some(Self {
            address: Address::new(*fields.get("ip")?, fields.get("port")?.parse().ok()?),
            state: fields.get("state").copied().unwrap_or_default().to_owned(),
        })
    }
}

/// Spreads ranges with an owner each over the 16384 slots.
///
/// # Errors
/// When a slot is claimed twice.
pub fn owners<O: Clone + std::fmt::Display>(
    claims: impl IntoIterator<Item = (SlotRange, O)>,
) -> Result<Vec<Option<O>>, String> {
    let mut map: Vec<Option<O>> = vec![None; usize::from(super::slot::SLOT_COUNT)];
    for (range, owner) in claims {
        for slot in range.slots() {
            let place = &mut map[usize::from(slot)];
            if let Some(first) = place {
                return Err(format!("slot {slot} is claimed by {first} and by {owner}"));
            }
            *place = Some(owner.clone());
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.to_owned().into())
    }

    #[rstest]
    #[case(
        "07c37df 127.0.0.1:30004@31004,hostname4 slave e7d1eec 0 1426238317239 4 connected",
        "127.0.0.1:30004",
        0,
        0
    )]
    #[case(
        "e7d1eec 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-5460 7000 [93-<-292f8b3] [77->-07c37df]",
        "10.0.0.1:6379",
        5462,
        2
    )]
    #[case("e7d1eec :0@0 master,noaddr - 0 0 1 disconnected 0", ":0", 1, 0)]
    #[case("e7d1eec fd00::5:6379@16379 master - 0 0 1 connected", "fd00::5:6379", 0, 0)]
    #[case("e7d1eec 10.0.0.1:6379 master - 0 0 1 connected", "10.0.0.1:6379", 0, 0)]
    fn parses_node_lines(#[case] line: &str, #[case] address: &str, #[case] slots: usize, #[case] open: usize) {
        let parsed = NodeLine::parse(line).unwrap();
        assert_eq!(parsed.address.to_string(), address);
        assert_eq!(parsed.slot_count(), slots);
        assert_eq!(parsed.open_slots.len(), open);
    }

    #[rstest]
    #[case::none("10.0.0.1:6379@16379", None)]
    #[case::no_bus_port("10.0.0.1:6379", None)]
    #[case::named("10.0.0.1:6379@16379,a.redis", Some("a.redis"))]
    #[case::named_and_more("10.0.0.1:6379@16379,a.redis,shard-id=69bc", Some("a.redis"))]
    #[case::only_more("10.0.0.1:6379@16379,,tls-port=0,shard-id=69bc", None)]
    #[case::more_without_its_place("10.0.0.1:6379@16379,shard-id=69bc", None)]
    #[case::no_address(":0@0,a.redis", Some("a.redis"))]
    fn the_announced_host_name_is_kept(#[case] address: &str, #[case] name: Option<&str>) {
        let parsed = NodeLine::parse(&format!("id {address} master - 0 0 1 connected")).unwrap();
        assert_eq!(parsed.host_name.as_deref(), name);
    }

    #[rstest]
    #[case("")]
    #[case("a b c")]
    #[case("id 10.0.0.1@1 master - 0 0 1 connected")]
    #[case("id 10.0.0.1:1@x master - 0 0 1 connected")]
    #[case("id 10.0.0.1:1@1 master - 0 0 one connected")]
    #[case("id 10.0.0.1:1@1 master - 0 0 1 connected 5-3")]
    fn refuses_bad_node_lines(#[case] line: &str) {
        assert!(NodeLine::parse(line).is_err());
    }

    #[test]
    fn a_null_host_is_the_one_that_was_asked() {
        let reply = Reply::Array(vec![Reply::Array(vec![
            Reply::Integer(0),
            Reply::Integer(5),
            Reply::Array(vec![Reply::Nil, Reply::Integer(6379), bulk("id")]),
        ])]);
        let entries = parse_slots(&reply, "10.0.0.9").unwrap();
        assert_eq!(entries[0].nodes[0], (Address::new("10.0.0.9", 6379), Some("id".into())));
    }

    #[test]
    fn two_claims_on_a_slot_are_told() {
        let claims = [
            (SlotRange { first: 0, last: 10 }, "a"),
            (SlotRange { first: 10, last: 20 }, "b"),
        ];
        assert_eq!(owners(claims).unwrap_err(), "slot 10 is claimed by a and by b");
    }

    fn list(items: &[Reply]) -> Reply {
        Reply::Array(items.to_vec())
    }

    /// The replicas of a master's `ROLE`: one, with an offset of 9.
    fn one_replica() -> Reply {
        list(&[list(&[bulk("10.0.0.2"), bulk("6379"), bulk("9")])])
    }

    #[rstest]
    #[case::as_documented(&[Reply::Integer(14), one_replica()], 14, 1)]
    #[case::without_replicas(&[Reply::Integer(14), list(&[])], 14, 0)]
    #[case::without_an_offset(&[one_replica()], -1, 1)]
    #[case::with_nothing(&[list(&[])], -1, 0)]
    #[case::an_offset_in_text(&[bulk("14"), one_replica()], 14, 1)]
    #[case::an_offset_in_text_alone(&[bulk("14")], 14, 0)]
    fn parses_a_master_s_role(#[case] rest: &[Reply], #[case] at: i64, #[case] count: usize) {
        let reply = list(&[&[bulk("master")], rest].concat());
        let Ok(Role::Master { offset, replicas }) = parse_role(&reply) else {
            panic!("{reply}");
        };
        assert_eq!((offset, replicas.len()), (at, count));
        assert!(replicas.iter().all(|(_, offset)| *offset == 9));
    }

    #[rstest]
    #[case::as_documented("slave", Reply::Integer(6379), "connected", &[Reply::Integer(14)], 14)]
    #[case::an_offset_in_text("slave", bulk("6379"), "connected", &[bulk("14")], 14)]
    #[case::without_an_offset("replica", bulk("6379"), "stable_sync", &[], -1)]
    fn parses_a_replica_s_role(
        #[case] word: &str,
        #[case] port: Reply,
        #[case] state: &str,
        #[case] rest: &[Reply],
        #[case] at: i64,
    ) {
        let reply = list(&[&[bulk(word), bulk("10.0.0.1"), port, bulk(state)], rest].concat());
        let expected = Role::Replica {
            master: Address::new("10.0.0.1", 6379),
            link: state.into(),
            offset: at,
        };
        assert_eq!(parse_role(&reply), Ok(expected));
    }

    #[rstest]
    #[case::a_sentinel(&[bulk("sentinel"), list(&[])])]
    #[case::nothing_but_a_role(&[bulk("master")])]
    #[case::no_offset(&[bulk("master"), bulk("none")])]
    #[case::an_offset_too_many(&[bulk("master"), bulk("14"), bulk("14"), list(&[])])]
    #[case::no_list(&[bulk("master"), bulk("14"), bulk("14")])]
    #[case::no_link(&[bulk("slave"), bulk("10.0.0.1"), bulk("6379")])]
    fn refuses_what_is_no_role(#[case] items: &[Reply]) {
        assert!(parse_role(&list(items)).is_err());
    }

    #[rstest]
    #[case::connected("connected", "down", true)]
    #[case::another_word_for_it("stable_sync", "up", true)]
    #[case::another_word_and_down("stable_sync", "down", false)]
    #[case::connecting("connecting", "down", false)]
    #[case::no_status("sync", "", false)]
    fn a_link_is_up_by_either_command(#[case] link: &str, #[case] status: &str, #[case] linked: bool) {
        let mut node = NodeView {
            member: Member {
                name: "a".into(),
                address: Address::new("10.0.0.1", 6379),
            },
            raw: BTreeMap::new(),
            info: Fields::new(),
            nodes: vec![],
            slots: vec![],
            shards: Ok(vec![]),
            role: Role::Replica {
                master: Address::new("10.0.0.2", 6379),
                link: link.into(),
                offset: 1,
            },
            replication: Fields::from([("master_link_status".to_owned(), status.to_owned())]),
        };
        assert_eq!(node.linked(), linked);
        node.role = Role::Master {
            offset: 1,
            replicas: vec![],
        };
        assert!(!node.linked(), "a master has none");
    }

    proptest! {
        #[test]
        fn parsers_never_panic(line in ".{0,120}") {
            let _ = NodeLine::parse(&line);
        }
    }

    #[rstest]
    #[case::online("ip=10.0.0.4,port=6379,state=online,offset=98,lag=1", "online", true)]
    #[case::no_state("ip=10.0.0.4,port=6379,offset=98,lag=1", "", true)]
    #[case::an_empty_state("ip=10.0.0.4,port=6379,state=,offset=98,lag=1", "", true)]
    #[case::not_yet("ip=10.0.0.4,port=6379,state=wait_bgsave,offset=0,lag=0", "wait_bgsave", false)]
    fn reads_a_master_s_list_of_replicas(#[case] value: &str, #[case] state: &str, #[case] online: bool) {
        let attached = Attached {
            address: Address::new("10.0.0.4", 6379),
            state: state.into(),
        };
        assert_eq!(attached.is_online(), online);
        assert_eq!(Attached::parse(value), Some(attached));
    }

    #[rstest]
    #[case::no_address("0")]
    #[case::no_port("ip=10.0.0.4,state=online")]
    fn what_has_no_address_is_no_replica(#[case] value: &str) {
        assert_eq!(Attached::parse(value), None);
    }
}

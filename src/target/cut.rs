//! What it is to cut links between servers: which packets vanish.

use crate::cluster::node::Member;
use serde::Serialize;
use std::fmt;

/// Which connections of a link are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// Those of the cluster bus.
    Bus,
    /// Those to client ports: replication, `MIGRATE`.
    Clients,
    /// Both.
    All,
}

/// The directions in which packets are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From `some` to `others` alone.
    There,
    /// Both.
    Both,
}

/// Packets that vanish without a word, as in a network that has come apart. The suite's own clients reach every server
/// all the same, unless it is a client port that is cut. `M` is how servers are named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Cut<M = Member> {
    /// What servers send to other servers.
    Between {
        /// The servers of one side.
        some: Vec<M>,
        /// Those of the other side.
        others: Vec<M>,
        /// Which connections.
        traffic: Traffic,
        /// In which direction.
        way: Way,
    },
    /// Everything to and from the client port of a server, the suite's own clients included; its bus goes on.
    ClientPort(M),
}

impl<M> Cut<M> {
    /// The same cut, with servers named in another way.
    ///
    /// # Errors
    /// The first of `name`.
    pub fn renamed<N, E>(&self, name: impl Fn(&M) -> Result<N, E>) -> Result<Cut<N>, E> {
        let all = |members: &[M]| members.iter().map(&name).collect::<Result<Vec<N>, E>>();
        Ok(match self {
            Self::Between {
                some,
                others,
                traffic,
                way,
            } => Cut::Between {
                some: all(some)?,
                others: all(others)?,
                traffic: *traffic,
                way: *way,
            },
            Self::ClientPort(member) => Cut::ClientPort(name(member)?),
        })
    }
}

/// The cut in the past tense, for the timeline.
impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |members: &[Member]| {
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            names.join(", ")
        };
        match self {
            Self::Between {
                some,
                others,
                traffic,
                way,
            } => {
                let traffic = match traffic {
                    Traffic::Bus => "the bus",
                    Traffic::Clients => "connections to client ports",
                    Traffic::All => "everything",
                };
                let way = match way {
                    Way::There => "from",
                    Way::Both => "between",
                };
                let (some, others) = (listed(some), listed(others));
                write!(f, "{traffic} {way} {some} and {others} was cut")
            }
            Self::ClientPort(member) => write!(f, "the client port of {} was cut off", member.name),
        }
    }
}

//! The bodies of chapter REDIR on servers of their own: what they say when they serve nothing, and how they name an
//! endpoint that is no IPv4 address.

use crate::cases::sharding::beside;
use crate::check::{self, Look, eventually};
use crate::cluster::connection::{Address, Connection};
use crate::cluster::node::{Member, NodeView};
use crate::cluster::redirect::Redirect;
use crate::cluster::resp::Reply;
use crate::context::{Alteration, Context};
use crate::verdict::{Mismatch, Outcome, Stop};

/// `CONFIG SET`, which the server must take.
async fn configure(connection: &mut Connection, directive: &str, value: &str) -> Result<(), Stop> {
    let reply = connection.call(&["CONFIG", "SET", directive, value]).await?;
    match reply.error() {
        None => Ok(()),
        Some(_) => Err(Stop::Unsupported(format!("CONFIG SET {directive} {value} -> {reply}"))),
    }
}

pub(super) async fn down_texts(cx: &Context) -> Outcome {
    let mut scratch = beside(cx, 1, 0);
    scratch.alterations = vec![Alteration::everywhere("cluster-require-full-coverage no")];
    cx.with_scratch(&scratch, async |cx| {
        let (unbound, bound) = (cx.key_in(7, "unbound"), cx.key_in(8, "bound"));
        let member = first(cx, 1).await?.remove(0);
        let mut connection = cx.connect(&member.address).await?;
        connection.ask(&["CLUSTER", "DELSLOTS", "7"]).await?;
        let mut texts = Vec::new();
        let mut down = async |command: &[&str]| {
            let reply = until_down(cx, &mut connection, command).await?;
            texts.push(reply);
            Ok::<_, Stop>(())
        };
        down(&["GET", &unbound]).await?;
        let mut settings = cx.connect(&member.address).await?;
        configure(&mut settings, "cluster-require-full-coverage", "yes").await?;
        // The state is reckoned anew when a slot changes, not when the setting does.
        settings.ask(&["CLUSTER", "DELSLOTS", "9"]).await?;
        down(&["GET", &bound]).await?;
        configure(&mut settings, "cluster-allow-reads-when-down", "yes").await?;
        let read = settings.call(&["GET", &bound]).await?;
        check::expect(
            read == Reply::Nil,
            "reads served with cluster-allow-reads-when-down yes",
            format!("{member}: GET {bound} -> {read}"),
        )?;
        down(&["SET", &bound, "1"]).await?;
        let distinct: std::collections::BTreeSet<&String> = texts.iter().collect();
        Ok(check::expect(
            distinct.len() == texts.len(),
            "three texts: the slot is not served, the cluster is down, it takes reads only",
            texts.join("; "),
        )?)
    })
    .await
}

/// The reply to a command once it is `-CLUSTERDOWN`: a server sees a change of its own within its next turn.
async fn until_down(cx: &Context, connection: &mut Connection, command: &[&str]) -> Result<String, Stop> {
    let what = format!("-CLUSTERDOWN to {}", command.join(" "));
    eventually(cx, &what, cx.timing().gossip(), async || {
        let reply = connection.call(command).await?;
        Ok(match reply.error_prefix() {
            Some("CLUSTERDOWN") => Look::Reached(reply.to_string()),
            _ => Look::NotYet(reply.to_string()),
        })
    })
    .await
}

/// The first servers beside the deployment.
async fn first(cx: &Context, count: usize) -> Result<Vec<Member>, Stop> {
    let members = cx.members().await?;
    let answering = members.len();
    check::expect(answering >= count, format!("{count} servers"), answering.to_string())?;
    Ok(members)
}

/// Two masters beside the deployment: a connection to one, and a key of the other.
struct Pair {
    asked: Member,
    connection: Connection,
    owner: Member,
    slot: u16,
    key: String,
}

impl Pair {
    async fn of(cx: &Context) -> Result<Self, Stop> {
        let view = cx.look().await?;
        let owners: Vec<&NodeView> = view.nodes.iter().filter(|node| !node.own_slots().is_empty()).collect();
        let [asked, owner] = owners[..] else {
            return Err(Mismatch::new("two masters with slots", owners.len().to_string()).into());
        };
        let slot = owner.inner_slot().unwrap_or_default();
        Ok(Self {
            asked: asked.member.clone(),
            connection: cx.connect(&asked.member.address).await?,
            owner: owner.member.clone(),
            slot,
            key: cx.key_in(slot, "endpoint"),
        })
    }

    /// Waits until a redirection names the owner by this host, and looks at `CLUSTER SLOTS` too.
    async fn named(&mut self, cx: &Context, host: &str, in_slots: &Reply) -> Outcome {
        let expected = format!("MOVED {} {host}:{}", self.slot, self.owner.address.port);
        let what = format!("-{expected}, and {in_slots} in CLUSTER SLOTS");
        let (connection, asked, key) = (&mut self.connection, &self.asked, self.key.as_str());
        let port = i64::from(self.owner.address.port);
        eventually(cx, &what, cx.timing().gossip(), async || {
            let reply = connection.call(&["GET", key]).await?;
            if reply.error() != Some(expected.as_str()) {
                return Ok(Look::NotYet(format!("{asked}: GET {key} -> {reply}")));
            }
            let slots = connection.ask(&["CLUSTER", "SLOTS"]).await?;
            let ranges = slots.array().unwrap_or_default().iter();
            let mut hosts = ranges.filter_map(|range| {
                let node = range.array()?.get(2)?.array()?;
                (node.get(1)?.integer() == Some(port)).then(|| node[0].clone())
            });
            Ok(match hosts.next() {
                Some(named) if named == *in_slots => Look::Reached(()),
                _ => Look::NotYet(format!("{asked}: CLUSTER SLOTS -> {slots}")),
            })
        })
        .await
    }

    /// Follows the redirection: the key must be served there.
    async fn follow(&self, cx: &Context, host: &str) -> Outcome {
        let address = Address::new(host, self.owner.address.port);
        let reply = cx.connect(&address).await?.call(&["GET", &self.key]).await?;
        Ok(check::expect(
            reply == Reply::Nil,
            format!("{} served at {address}", self.key),
            reply.to_string(),
        )?)
    }
}

pub(super) async fn ipv6(cx: &Context) -> Outcome {
    let scratch = beside(cx, 2, 0);
    cx.with_scratch(&scratch, async |cx| {
        let mut pair = Pair::of(cx).await?;
        let mut owner = cx.connect(&pair.owner.address).await?;
        configure(&mut owner, "cluster-announce-ip", "::1").await?;
        let expected = format!("MOVED {} ::1:{}", pair.slot, pair.owner.address.port);
        // The others know of it with the owner's next message; that nobody can reach it there by then is no matter.
        let what = format!("-{expected}: no brackets, the port after the last colon");
        let (connection, key) = (&mut pair.connection, pair.key.as_str());
        let reply = eventually(cx, &what, cx.timing().gossip(), async || {
            let reply = connection.call(&["GET", key]).await?;
            Ok(if reply.error() == Some(expected.as_str()) {
                Look::Reached(reply)
            } else {
                Look::NotYet(format!("GET {key} -> {reply}"))
            })
        })
        .await?;
        let address = Redirect::parse(&reply).map(|to| to.address);
        let right = Address::new("::1", pair.owner.address.port);
        Ok(check::expect(
            address.as_ref() == Some(&right),
            format!("{right}"),
            format!("{address:?}"),
        )?)
    })
    .await
}

pub(super) async fn unknown_endpoint(cx: &Context) -> Outcome {
    let mut scratch = beside(cx, 2, 0);
    let directive = "cluster-preferred-endpoint-type";
    scratch.alterations = vec![Alteration::everywhere(format!("{directive} unknown-endpoint"))];
    cx.with_scratch(&scratch, async |cx| {
        let mut pair = Pair::of(cx).await?;
        pair.named(cx, "", &Reply::Nil).await?;
        // "The same host, the port that is given": that leads to the owner only where both are on one host.
        if pair.asked.address.host == pair.owner.address.host {
            pair.follow(cx, &pair.asked.address.host).await?;
        } else {
            cx.note(
                "the servers have a host each: an endpoint without one leads nobody to the owner, and is not followed",
            );
        }
        configure(&mut pair.connection, directive, "hostname").await?;
        pair.named(cx, "?", &Reply::Bulk("?".into())).await
    })
    .await
}

pub(super) async fn host_names(cx: &Context) -> Outcome {
    // A name that every machine resolves to itself.
    let name = "localhost";
    let mut scratch = beside(cx, 2, 0);
    scratch.alterations = vec![
        Alteration::everywhere(format!("cluster-announce-hostname {name}")),
        Alteration::everywhere("cluster-preferred-endpoint-type hostname"),
    ];
    cx.with_scratch(&scratch, async |cx| {
        let mut pair = Pair::of(cx).await?;
        pair.named(cx, name, &Reply::Bulk(name.into())).await?;
        if ["127.0.0.1", "::1"].contains(&pair.owner.address.host.as_str()) {
            pair.follow(cx, name).await?;
        } else {
            cx.note("the servers are not on this machine: the name is not followed");
        }
        Ok(())
    })
    .await
}

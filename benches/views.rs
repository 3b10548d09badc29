//! Reading and comparing what all nodes of a cluster say: without a cluster, for 6, 60 and 600 nodes.
//!
//! `cargo bench --bench views`

#![allow(
    missing_docs,
    unreachable_pub,
    reason = "the macros of criterion make public items without documentation"
)]
#![allow(clippy::unwrap_used, reason = "a benchmark: a panic is a failure with a place")]

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use redis_cluster_conformance::cluster::connection::Address;
use redis_cluster_conformance::cluster::formation::split;
use redis_cluster_conformance::cluster::node::{self, Member, NodeView};
use redis_cluster_conformance::cluster::resp::{Reply, RespCodec};
use redis_cluster_conformance::cluster::view::{ClusterView, Shape};
use std::hint::black_box;
use tokio_util::codec::Decoder;

/// The replies of one node of a made-up cluster, as they come from the wire.
struct Replies {
    node: usize,
    info: Vec<u8>,
    nodes: Vec<u8>,
    slots: Vec<u8>,
    shards: Vec<u8>,
    role: Vec<u8>,
    replication: Vec<u8>,
}

fn id(node: usize) -> String {
    format!("{node:040x}")
}

fn host(node: usize) -> String {
    format!("10.0.{}.{}", node / 250, node % 250 + 1)
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn map(pairs: &[(&str, String)]) -> String {
    let items: String = pairs.iter().map(|(name, value)| bulk(name) + value).collect();
    format!("*{}\r\n{items}", pairs.len() * 2)
}

/// What a node of a whole cluster of `count` answers; the first half are masters, the others their replicas in turn.
fn replies(node: usize, count: usize) -> Replies {
    let masters = count / 2;
    let ranges = split(masters);
    let lines: String = (0..count)
        .map(|other| {
            let myself = if other == node { "myself," } else { "" };
            let (role, master, slots) = if other < masters {
                ("master", "-".to_owned(), format!(" {}", ranges[other]))
            } else {
                ("slave", id(other - masters), String::new())
            };
            let epoch = other % masters + 1;
            let address = host(other);
            format!(
                "{} {address}:6379@16379 {myself}{role} {master} 0 1700000000000 {epoch} connected{slots}\n",
                id(other)
            )
        })
        .collect();
    let entry = |other: usize| format!("*4\r\n{}:6379\r\n{}*0\r\n", bulk(&host(other)), bulk(&id(other)));
    let slots: String = (0..masters)
        .map(|master| {
            let range = ranges[master];
            let (first, last) = (range.first, range.last);
            format!(
                "*4\r\n:{first}\r\n:{last}\r\n{}{}",
                entry(master),
                entry(master + masters)
            )
        })
        .collect();
    let member = |other: usize, role: &str| {
        map(&[
            ("id", bulk(&id(other))),
            ("port", ":6379\r\n".into()),
            ("ip", bulk(&host(other))),
            ("endpoint", bulk(&host(other))),
            ("role", bulk(role)),
            ("replication-offset", ":1\r\n".into()),
            ("health", bulk("online")),
        ])
    };
    let shards: String = (0..masters)
        .map(|master| {
            let range = ranges[master];
            map(&[
                ("slots", format!("*2\r\n:{}\r\n:{}\r\n", range.first, range.last)),
                (
                    "nodes",
                    format!(
                        "*2\r\n{}{}",
                        member(master, "master"),
                        member(master + masters, "replica")
                    ),
                ),
            ])
        })
        .collect();
    let role = if node < masters {
        let replica = host(node + masters);
        format!(
            "*3\r\n{}:1\r\n*1\r\n*3\r\n{}{}{}",
            bulk("master"),
            bulk(&replica),
            bulk("6379"),
            bulk("1")
        )
    } else {
        let master = host(node - masters);
        format!(
            "*5\r\n{}{}:6379\r\n{}:1\r\n",
            bulk("slave"),
            bulk(&master),
            bulk("connected")
        )
    };
    let info = format!(
        "cluster_state:ok\r\ncluster_slots_ok:16384\r\ncluster_known_nodes:{count}\r\ncluster_size:{masters}\r\n"
    );
    Replies {
        node,
        info: bulk(&info).into_bytes(),
        nodes: bulk(&lines).into_bytes(),
        slots: format!("*{masters}\r\n{slots}").into_bytes(),
        shards: format!("*{masters}\r\n{shards}").into_bytes(),
        role: role.into_bytes(),
        replication: bulk("role:master\r\n").into_bytes(),
    }
}

fn decode(bytes: &[u8]) -> Reply {
    RespCodec::default()
        .decode(&mut BytesMut::from(bytes))
        .unwrap()
        .unwrap()
}

fn view(replies: &Replies) -> NodeView {
    let address = Address::new(host(replies.node), 6379);
    NodeView {
        info: node::parse_fields(&decode(&replies.info)).unwrap(),
        nodes: node::parse_nodes(&decode(&replies.nodes)).unwrap(),
        slots: node::parse_slots(&decode(&replies.slots), &address.host).unwrap(),
        shards: Ok(node::parse_shards(&decode(&replies.shards)).unwrap()),
        role: node::parse_role(&decode(&replies.role)).unwrap(),
        replication: node::parse_fields(&decode(&replies.replication)).unwrap(),
        raw: Default::default(),
        member: Member {
            name: format!("node-{}", replies.node),
            address,
        },
    }
}

fn views(criterion: &mut Criterion) {
    for count in [6, 60, 600] {
        let of_all: Vec<Replies> = (0..count).map(|node| replies(node, count)).collect();
        let mut group = criterion.benchmark_group("views");
        group.sample_size(if count > 100 { 10 } else { 50 });
        group.bench_function(BenchmarkId::new("read one node's replies", count), |bencher| {
            bencher.iter(|| view(black_box(&of_all[0])));
        });
        let cluster = ClusterView {
            nodes: of_all.iter().map(view).collect(),
            silent: Vec::new(),
        };
        let shape = Shape {
            masters: count / 2,
            replicas_per_master: 1,
        };
        assert_eq!(cluster.not_whole(shape), Vec::<String>::new());
        group.bench_function(BenchmarkId::new("disagreements of all nodes", count), |bencher| {
            bencher.iter(|| black_box(&cluster).disagreements());
        });
        group.bench_function(
            BenchmarkId::new("what keeps the cluster from being whole", count),
            |bencher| {
                bencher.iter(|| black_box(&cluster).not_whole(shape));
            },
        );
        group.finish();
    }
}

criterion_group!(benches, views);
criterion_main!(benches);

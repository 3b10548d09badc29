//! Whatever a reply holds, the parsers of replies give a value or a reason, and never panic; what they accept is sound.

#![no_main]

// The modules under test alone: nothing of Kubernetes has to be built for them.
#[allow(dead_code, reason = "a part of the modules only")]
#[path = "../../src/cluster/mod.rs"]
mod cluster;

use bytes::{Bytes, BytesMut};
use cluster::connection::Address;
use cluster::node::{self, Member, NodeView, Role};
use cluster::redirect::Redirect;
use cluster::resp::{Reply, RespCodec};
use cluster::slot::{SLOT_COUNT, SlotRange};
use cluster::view::{ClusterView, Shape};
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::Decoder;

fuzz_target!(|data: &[u8]| {
    // The bytes as one reply of the protocol, and as the text of one.
    let reply = RespCodec::default().decode(&mut BytesMut::from(data));
    if let Ok(Some(reply)) = reply {
        check(&reply);
    }
    check(&Reply::Bulk(Bytes::copy_from_slice(data)));
    if let Ok(text) = std::str::from_utf8(data) {
        check(&Reply::Error(text.to_owned()));
        if let Some(range) = SlotRange::parse(text) {
            assert!(range.first <= range.last && range.last < SLOT_COUNT && range.len() == range.slots().count());
            assert_eq!(SlotRange::parse(&range.to_string()), Some(range));
        }
        if let Ok(address) = text.parse::<Address>() {
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }
});

fn check(reply: &Reply) {
    if let Some(redirect) = Redirect::parse(reply) {
        assert!(redirect.slot < SLOT_COUNT);
        let written = redirect.to_string();
        let text = written.strip_prefix('-').expect("an error").to_owned();
        assert_eq!(Redirect::parse(&Reply::Error(text)), Some(redirect));
    }
    let info = node::parse_fields(reply).unwrap_or_default();
    let nodes = node::parse_nodes(reply).unwrap_or_default();
    let slots = node::parse_slots(reply, "10.0.0.1").unwrap_or_default();
    let shards = node::parse_shards(reply);
    let role = node::parse_role(reply).unwrap_or(Role::Master {
        offset: 0,
        replicas: Vec::new(),
    });
    let view = NodeView {
        member: Member {
            name: "a".into(),
            address: Address::new("10.0.0.1", 6379),
        },
        raw: Default::default(),
        replication: info.clone(),
        info,
        nodes,
        slots,
        shards,
        role,
    };
    // What the cases do with it.
    let _ = (view.owners(), view.owners_by_slots(), view.owners_by_shards());
    let _ = (view.own_slots(), view.inner_slot(), view.attached(), view.myself());
    let mut other = view.clone();
    other.nodes.pop();
    let both = ClusterView {
        nodes: vec![view, other],
        silent: Vec::new(),
    };
    let shape = Shape {
        masters: 1,
        replicas_per_master: 1,
    };
    assert!(!both.not_whole(shape).is_empty(), "two nodes never know 16384 slots and one node less");
}

//! What is known of Redis Cluster: the protocol's bytes, slots, a node's replies, and the view that all nodes share.
//!
//! Nothing here knows Kubernetes, targets or cases.

pub mod client_program;
pub mod connection;
pub mod formation;
pub mod links;
pub mod node;
pub mod redirect;
pub mod resp;
pub mod slot;
pub mod view;

//! How many nodes a kind cluster has, and of which family their addresses are: as kind is told, as it is asked for, and whether a
//! cluster that runs is so.

use crate::target::TargetError;
use std::path::Path;

/// The description of a cluster of one node.
const ONE_NODE: &str = include_str!("../../../kind/cluster.yaml");

/// The zones that workers are in, in turn.
const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-c"];

/// Where a node has the folder of the volumes that move with their pod (`kind/node/agent`).
pub(super) const MOVING: &str = "/var/moving";

/// The environment variable that says how many nodes there are to be, where the command line does not.
const VARIABLE: &str = "RCC_NODES";

/// The family of the addresses of a cluster's nodes, pods and Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum IpFamily {
    /// IPv4.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl std::fmt::Display for IpFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// What a kind cluster is to be like. Where that is not said, one that runs is taken as it is, and one that is made has one node and
/// IPv4 addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// How many nodes it is to have.
    pub nodes: Option<u16>,
    /// Of which family its addresses are to be.
    pub ip_family: Option<IpFamily>,
}

impl Layout {
    /// With what the environment asks for where this does not: `RCC_NODES`.
    pub(super) fn or_by_environment(self) -> Result<Self, TargetError> {
        let nodes = match (self.nodes, std::env::var(VARIABLE)) {
            (Some(nodes), _) => Some(nodes),
            (None, Ok(text)) if !text.is_empty() => Some(read(&text)?),
            (None, Ok(_) | Err(_)) => None,
        };
        Ok(Self { nodes, ..self })
    }
}

fn read(text: &str) -> Result<u16, TargetError> {
    match text.parse() {
        Ok(nodes) if nodes > 0 => Ok(nodes),
        Ok(_) | Err(_) => Err(TargetError::Usage(format!(
            "{VARIABLE}={text}: a number of nodes is expected, at least 1"
        ))),
    }
}

/// The description for kind of a cluster of so many nodes, one where that is not said: a control plane, which pods of others may run
/// on only where it is alone, and workers. Each worker is in a zone, so that what is to be spread over zones can be, and has the folder `moving`
/// of this machine, where volumes lie that move with their pod.
pub(super) fn description(layout: Layout, moving: &Path) -> String {
    let mut text = ONE_NODE.trim_end().to_owned() + "\n";
    // JSON is YAML, whatever the path has in it.
    let moving = serde_json::Value::from(moving.display().to_string());
    for worker in 0..usize::from(layout.nodes.unwrap_or(1).saturating_sub(1)) {
        let zone = ZONES[worker % ZONES.len()];
        text.push_str(&format!(
            "  - role: worker\n    labels:\n      topology.kubernetes.io/zone: {zone}\n    extraMounts:\n      \
             - hostPath: {moving}\n        containerPath: {MOVING}\n"
        ));
    }
    if layout.ip_family == Some(IpFamily::Ipv6) {
        // The API is asked at this machine's own IPv4 address all the same: Docker leads there.
        text.push_str("networking:\n  ipFamily: ipv6\n  apiServerAddress: 127.0.0.1\n");
    }
    text
}

/// Why a cluster that runs is not what is asked for.
pub(super) fn mismatch(nodes: usize, ip_family: IpFamily, asked: Layout) -> Option<String> {
    let plural = |count: usize| if count == 1 { "node" } else { "nodes" };
    if let Some(wanted) = asked.nodes.map(usize::from).filter(|wanted| *wanted != nodes) {
        return Some(format!("it has {nodes} {}, and {wanted} were asked for", plural(nodes)));
    }
    let wanted = asked.ip_family.filter(|wanted| *wanted != ip_family)?;
    Some(format!("its addresses are {ip_family}, and {wanted} was asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn one_node_is_the_file_as_it_stands_and_every_worker_has_a_zone() {
        let moving = Path::new("/tmp/a \"folder\": #1");
        assert_eq!(description(Layout::default(), moving), ONE_NODE);
        let four = description(layout(Some(4), None), moving);
        let value: serde_json::Value = serde_yaml::from_str(&four).unwrap();
        let nodes = value["nodes"].as_array().unwrap();
        let of = |node: &serde_json::Value| {
            let zone = node["labels"]["topology.kubernetes.io/zone"].as_str();
            let mounted = node["extraMounts"][0]["hostPath"].as_str();
            assert_eq!(mounted, zone.map(|_| moving.to_str().unwrap()));
            (
                node["role"].as_str().unwrap().to_owned(),
                zone.unwrap_or("-").to_owned(),
            )
        };
        let found: Vec<(String, String)> = nodes.iter().map(of).collect();
        let wanted = [
            ("control-plane", "-"),
            ("worker", "zone-a"),
            ("worker", "zone-b"),
            ("worker", "zone-c"),
        ];
        assert_eq!(
            found,
            wanted.map(|(role, zone)| (role.to_owned(), zone.to_owned())).to_vec()
        );
    }

    const fn layout(nodes: Option<u16>, ip_family: Option<IpFamily>) -> Layout {
        Layout { nodes, ip_family }
    }

    #[test]
    fn a_cluster_of_ipv6_is_said_so_beside_its_nodes() {
        let value: serde_json::Value =
            serde_yaml::from_str(&description(layout(Some(2), Some(IpFamily::Ipv6)), Path::new("/m"))).unwrap();
        assert_eq!(value["networking"]["ipFamily"], "ipv6");
        assert_eq!(value["nodes"].as_array().map(Vec::len), Some(2));
        assert_eq!(
            description(layout(None, Some(IpFamily::Ipv4)), Path::new("/m")),
            ONE_NODE
        );
    }

    #[rstest]
    #[case(1, None, None, None)]
    #[case(4, None, None, None)]
    #[case(4, Some(4), None, None)]
    #[case(4, Some(4), Some(IpFamily::Ipv4), None)]
    #[case(1, Some(4), None, Some("it has 1 node, and 4 were asked for"))]
    #[case(4, Some(1), None, Some("it has 4 nodes, and 1 were asked for"))]
    #[case(
        4,
        Some(4),
        Some(IpFamily::Ipv6),
        Some("its addresses are IPv4, and IPv6 was asked for")
    )]
    fn a_cluster_of_another_layout_is_told(
        #[case] running: usize,
        #[case] nodes: Option<u16>,
        #[case] ip_family: Option<IpFamily>,
        #[case] told: Option<&str>,
    ) {
        let found = mismatch(running, IpFamily::Ipv4, layout(nodes, ip_family));
        assert_eq!(found.as_deref(), told);
    }

    #[rstest]
    #[case("4", Some(4))]
    #[case("0", None)]
    #[case("many", None)]
    fn the_variable_is_a_number(#[case] text: &str, #[case] nodes: Option<u16>) {
        assert_eq!(read(text).ok(), nodes);
    }
}

//! How many nodes a kind cluster has: as kind is told, as it is asked for, and whether a cluster that runs is so.

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

/// How many nodes are asked for: by the command line, else by `RCC_NODES`. `None` takes a cluster as it is.
pub(super) fn asked_for(named: Option<u16>) -> Result<Option<u16>, TargetError> {
    match (named, std::env::var(VARIABLE)) {
        (Some(nodes), _) => Ok(Some(nodes)),
        (None, Ok(text)) if !text.is_empty() => read(&text).map(Some),
        (None, Ok(_) | Err(_)) => Ok(None),
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

/// The description for kind of a cluster of so many nodes: a control plane, which pods of others may run on only where it
/// is alone, and workers. Each worker is in a zone, so that what is to be spread over zones can be, and has the folder `moving`
/// of this machine, where volumes lie that move with their pod.
pub(super) fn description(nodes: u16, moving: &Path) -> String {
    let mut text = ONE_NODE.trim_end().to_owned() + "\n";
    // JSON is YAML, whatever the path has in it.
    let moving = serde_json::Value::from(moving.display().to_string());
    for worker in 0..usize::from(nodes.saturating_sub(1)) {
        let zone = ZONES[worker % ZONES.len()];
        text.push_str(&format!(
            "  - role: worker\n    labels:\n      topology.kubernetes.io/zone: {zone}\n    extraMounts:\n      \
             - hostPath: {moving}\n        containerPath: {MOVING}\n"
        ));
    }
    text
}

/// Why a cluster that runs is not what is asked for.
pub(super) fn mismatch(running: usize, asked: Option<u16>) -> Option<String> {
    let asked = usize::from(asked?);
    let plural = |count: usize| if count == 1 { "node" } else { "nodes" };
    (running != asked).then(|| format!("it has {running} {}, and {asked} were asked for", plural(running)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn one_node_is_the_file_as_it_stands_and_every_worker_has_a_zone() {
        let moving = Path::new("/tmp/a \"folder\": #1");
        assert_eq!(description(1, moving), ONE_NODE);
        let four = description(4, moving);
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

    #[rstest]
    #[case(1, None, None)]
    #[case(4, None, None)]
    #[case(4, Some(4), None)]
    #[case(1, Some(4), Some("it has 1 node, and 4 were asked for"))]
    #[case(4, Some(1), Some("it has 4 nodes, and 1 were asked for"))]
    fn a_cluster_of_another_layout_is_told(
        #[case] running: usize,
        #[case] asked: Option<u16>,
        #[case] told: Option<&str>,
    ) {
        assert_eq!(mismatch(running, asked).as_deref(), told);
    }

    #[rstest]
    #[case("4", Some(4))]
    #[case("0", None)]
    #[case("many", None)]
    fn the_variable_is_a_number(#[case] text: &str, #[case] nodes: Option<u16>) {
        assert_eq!(read(text).ok(), nodes);
    }
}

//! One line that names why a deployment does not do what it should, in Redis's and Kubernetes' words.
//!
//! The first finding that explains the others wins: a node that is open, a cluster that never formed, slots that nobody
//! serves, a pod in trouble, a replication link, views that differ. Nothing is guessed: no finding, no line.

use super::bootstrap;
use super::platform::PlatformHints;
use crate::cluster::connection::LinkError;
use crate::cluster::node::{Member, NodeLine, NodeView, Role};
use crate::cluster::slot::{self, SLOT_COUNT};
use crate::cluster::view::{ClusterView, Shape};

/// The cause of a failure, on one line, or nothing where none can be named. `failure` is the mismatch or the error as
/// text; `view` is what the nodes answered after it, where they could be asked.
pub fn cause(view: Option<&ClusterView>, shape: Shape, platform: &PlatformHints, failure: &str) -> Option<String> {
    let nobody = ClusterView::default();
    let search = Search {
        view: view.unwrap_or(&nobody),
        shape,
        platform,
        failure,
    };
    let line = search
        .passwords()
        .or_else(|| search.never_formed())
        .or_else(|| search.unserved())
        .or_else(|| platform.trouble(shape))
        .or_else(|| search.silent())
        .or_else(|| search.links())
        .or_else(|| search.strangers())
        .or_else(|| search.disagreement())
        .or_else(|| search.hook())?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

struct Search<'a> {
    view: &'a ClusterView,
    shape: Shape,
    platform: &'a PlatformHints,
    failure: &'a str,
}

impl Search<'_> {
    /// Nodes that let in whom they should not, or keep out whom they should let in.
    fn passwords(&self) -> Option<String> {
        // The form of a finding: `node: COMMAND -> reply`, after `expected …; saw `.
        let (expected, seen) = self.failure.split_once("; saw ").unwrap_or(("", ""));
        let answered: Vec<(&str, &str)> = seen
            .lines()
            .filter_map(|line| {
                let (asked, reply) = line.split_once(" -> ")?;
                Some((asked.split([' ', ',']).next()?.trim_end_matches(':'), reply.trim()))
            })
            .collect();
        let named = |wanted: &dyn Fn(&str) -> bool| {
            let mut names: Vec<&str> = answered
                .iter()
                .filter(|(_, reply)| wanted(reply))
                .map(|(name, _)| *name)
                .collect();
            names.dedup();
            names
        };
        if expected.contains("NOAUTH") {
            let open = named(&|reply| !reply.starts_with('-'));
            if !open.is_empty() {
                return Some(format!("{} ask for a password", plural(&open, "does not", "do not")));
            }
        }
        if expected.contains("WRONGPASS") {
            let lax = named(&|reply| reply.starts_with("+OK"));
            if !lax.is_empty() {
                return Some(format!("{} a wrong password", plural(&lax, "accepts", "accept")));
            }
        }
        for (member, error) in &self.view.silent {
            let LinkError::Nonsense { reason, .. } = error else {
                continue;
            };
            if reason.contains("without any password configured") || reason.contains("no password is set") {
                return Some(format!("{} does not ask for a password: {reason}", member.name));
            }
            if reason.contains("WRONGPASS") || reason.contains("invalid password") {
                return Some(format!("{} refuses the deployment's password: {reason}", member.name));
            }
        }
        None
    }

    /// A cluster that the bootstrap never made, or that a node never joined.
    fn never_formed(&self) -> Option<String> {
        let nodes = &self.view.nodes;
        if nodes.is_empty() {
            return None;
        }
        let alone: Vec<&str> = nodes
            .iter()
            .filter(|node| self.shape.nodes() > 1 && node.info("cluster_known_nodes") == "1")
            .map(|node| node.member.name.as_str())
            .collect();
        let slotless = nodes.iter().all(|node| node.info("cluster_slots_assigned") == "0");
        let what = if alone.len() == nodes.len() {
            "the nodes never met".to_owned()
        } else if !alone.is_empty() {
            format!(
                "{} only {} (cluster_known_nodes:1)",
                plural(&alone, "knows", "know"),
                if alone.len() == 1 { "itself" } else { "themselves" }
            )
        } else if slotless {
            "the nodes met, but no slot is assigned".to_owned()
        } else {
            return None;
        };
        // A pod that the hook was still waiting for explains the hook; the hook's own pod is explained by its log.
        let hook_pod = self.platform.bootstrap_pod.as_deref();
        let waited_for = self.platform.troubled().find(|pod| Some(pod.name.as_str()) != hook_pod);
        if let Some(reason) = waited_for
            .map(|pod| self.platform.about_pod(pod))
            .or_else(|| self.platform.bootstrap_failure())
        {
            return Some(format!("{what}: {reason}"));
        }
        if let Some(trouble) = self.platform.trouble(self.shape) {
            return Some(format!("{what}: {trouble}"));
        }
        if alone.len() < nodes.len() {
            return Some(what);
        }
        let all = format!(
            "{} of {} nodes know only themselves (cluster_known_nodes:1)",
            alone.len(),
            self.shape.nodes()
        );
        Some(
            match self.platform.bootstrap_log.as_deref().and_then(bootstrap::last_line) {
                Some(line) => format!("the bootstrap ended, but {all}; its log ends \"{line}\""),
                None => format!("{all}: nothing joined them"),
            },
        )
    }

    /// Slots that nobody serves, with the master that should, and why none of its replicas does.
    fn unserved(&self) -> Option<String> {
        let reference = self.view.nodes.iter().max_by_key(|node| {
            let epoch: u64 = node.info("cluster_current_epoch").parse().unwrap_or(0);
            (node.nodes.iter().map(NodeLine::slot_count).sum::<usize>(), epoch)
        })?;
        let owners = match reference.owners() {
            Ok(owners) => owners,
            Err(claim) => return Some(format!("two masters claim a slot: {}: {claim}", reference.member.name)),
        };
        let masters = reference.nodes.iter().filter(|line| !line.slots.is_empty());
        if let Some(line) = masters.into_iter().find(|line| self.is_down(line)) {
            let slots = slot::describe(line.slots.iter().flat_map(|range| range.slots()));
            return Some(format!(
                "slots {slots} unserved: master {} {}; {}",
                self.name_with_host(line),
                self.how_down(line),
                self.why_not_promoted(reference, line)
            ));
        }
        let holes: Vec<u16> = (0..SLOT_COUNT)
            .filter(|slot| owners[usize::from(*slot)].is_none())
            .collect();
        (!holes.is_empty()).then(|| format!("slots {} unserved: no node owns them", slot::describe(holes)))
    }

    /// Down is who does not accept, or whom most of the others flag. That the suite cannot reach it says nothing.
    fn is_down(&self, line: &NodeLine) -> bool {
        let refuses = self
            .silent_at(line)
            .is_some_and(|(_, error)| !matches!(error, LinkError::Unreachable { .. }));
        let others: Vec<&NodeView> = self.others(line).collect();
        let flags = others
            .iter()
            .filter(|node| {
                node.line(&line.id)
                    .is_some_and(|line| line.is("fail") || line.is("fail?"))
            })
            .count();
        refuses || flags * 2 > others.len()
    }

    fn others(&self, line: &NodeLine) -> impl Iterator<Item = &NodeView> {
        let id = line.id.clone();
        self.view
            .nodes
            .iter()
            .filter(move |node| node.myself().is_none_or(|myself| myself.id != id))
    }

    fn silent_at(&self, line: &NodeLine) -> Option<&(Member, LinkError)> {
        self.view
            .silent
            .iter()
            .find(|(member, _)| member.address == line.address)
    }

    /// The deployment's name of the node on a line, also where it does not answer.
    fn name_at(&self, line: &NodeLine) -> Option<String> {
        if let Some(node) = self.view.by_id(&line.id) {
            return Some(node.member.name.clone());
        }
        if let Some((member, _)) = self.silent_at(line) {
            return Some(member.name.clone());
        }
        let pod = self
            .platform
            .pods
            .iter()
            .find(|pod| pod.address.as_deref() == Some(line.address.host.as_str()))?;
        Some(pod.name.clone())
    }

    fn name_with_host(&self, line: &NodeLine) -> String {
        let address = line.address.to_string();
        match self.name_at(line) {
            Some(name) if name == address => address,
            Some(name) => format!("{} ({name})", line.address.host),
            None => format!("{address} (node {})", line.id.get(..8).unwrap_or(&line.id)),
        }
    }

    fn how_down(&self, line: &NodeLine) -> String {
        let flagged = self.others(line).any(|node| {
            node.line(&line.id)
                .is_some_and(|line| line.is("fail") || line.is("fail?"))
        });
        let unheard = self
            .others(line)
            .filter_map(|node| unheard_for(node, &line.id))
            .max_by(f64::total_cmp);
        let mut how = match (self.silent_at(line), unheard) {
            (Some((_, error)), _) if !flagged => without_address(error),
            (_, Some(since)) => format!("unreachable since {since:.1} s"),
            (_, None) => "unreachable".into(),
        };
        let pod = self
            .name_at(line)
            .and_then(|name| self.platform.troubled().find(|pod| pod.name == name));
        if let Some(pod) = pod {
            how.push_str(&format!(" (pod {})", self.platform.state_of_pod(pod)));
        }
        how
    }

    fn why_not_promoted(&self, reference: &NodeView, master: &NodeLine) -> String {
        let replicas: Vec<String> = reference
            .nodes
            .iter()
            .filter(|line| line.master.as_deref() == Some(master.id.as_str()))
            .map(|line| {
                let name = self.name_at(line).unwrap_or_else(|| line.address.to_string());
                match self.view.by_id(&line.id) {
                    None => format!("its replica {name} does not answer either"),
                    Some(node) => match refusal(self.platform.logs.get(&name)) {
                        Some(refusal) => format!("its replica {name} has its link down: {refusal}"),
                        None => format!("its replica {name} was not promoted{}", link_state(node)),
                    },
                }
            })
            .collect();
        if replicas.is_empty() {
            "it has no replica".into()
        } else {
            replicas.join("; ")
        }
    }

    fn silent(&self) -> Option<String> {
        let (member, error) = self.view.silent.first()?;
        let why = without_address(error);
        if self.view.nodes.is_empty() {
            return Some(format!(
                "none of {} nodes answers: {member}: {why}",
                self.view.silent.len()
            ));
        }
        Some(format!("{member} {why}"))
    }

    fn links(&self) -> Option<String> {
        self.view.nodes.iter().find_map(|node| match &node.role {
            Role::Replica { master, .. } if !node.linked() => {
                let name = &node.member.name;
                let to = match self.view.by_address(master) {
                    Some(master) if master.member.name != master.member.address.to_string() => {
                        format!(
                            "{master_address} ({})",
                            master.member.name,
                            master_address = master.member.address
                        )
                    }
                    Some(_) | None => master.to_string(),
                };
                let why = refusal(self.platform.logs.get(name)).map_or_else(String::new, |why| format!(": {why}"));
                Some(format!(
                    "replica {name} has its link to master {to} down{}{why}",
                    link_state(node)
                ))
            }
            Role::Replica { .. } | Role::Master { .. } => None,
        })
    }

    /// Entries that stand for no node: without an address, or for ever in a handshake.
    fn strangers(&self) -> Option<String> {
        self.view.nodes.iter().find_map(|node| {
            let line = node
                .nodes
                .iter()
                .find(|line| line.is("noaddr") || line.is("handshake"))?;
            let known = self.view.name_of(&line.id);
            let how = if line.is("noaddr") {
                "without an address (noaddr)"
            } else {
                "only in handshake"
            };
            Some(format!(
                "{} knows node {known} {how}, at {}",
                node.member.name, line.address
            ))
        })
    }

    fn disagreement(&self) -> Option<String> {
        if self.view.nodes.is_empty() {
            return None;
        }
        let differences = self.view.disagreements();
        let first = differences.first()?;
        let more = match differences.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Some(format!("the nodes' views disagree: {first}{more}"))
    }

    /// The hook's error over a cluster that is whole: a cause only of a failure that is about the hook.
    fn hook(&self) -> Option<String> {
        let failure = self.failure.to_lowercase();
        let about = ["hook", "bootstrap", "init_cluster", "init.log"]
            .into_iter()
            .any(|word| failure.contains(word));
        about.then(|| self.platform.bootstrap_failure()).flatten()
    }
}

/// How long a node has not heard of another, in seconds, by its own clock alone: the newest instant on any of its lines
/// stands for now. It is therefore rather too short than too long, by at most the interval of pings.
fn unheard_for(node: &NodeView, id: &str) -> Option<f64> {
    let instants = |line: &str| -> Option<(u64, u64)> {
        let fields: Vec<&str> = line.split(' ').collect();
        Some((fields.get(4)?.parse().ok()?, fields.get(5)?.parse().ok()?))
    };
    let text = node.raw.get("CLUSTER NODES")?;
    let now = text
        .lines()
        .filter_map(instants)
        .map(|(ping, pong)| ping.max(pong))
        .max()?;
    let (_, heard) = text.lines().find(|line| line.starts_with(id)).and_then(instants)?;
    (heard > 0).then(|| now.saturating_sub(heard) as f64 / 1000.0)
}

/// An error without the address that it begins with: the node is named already.
fn without_address(error: &LinkError) -> String {
    error.to_string().replacen(&format!("{}: ", error.address()), "", 1)
}

/// What a replica's log says of a master that refuses it, and has not let it in since.
fn refusal(log: Option<&String>) -> Option<String> {
    let line = log?
        .lines()
        .rev()
        .take_while(|line| !line.contains("Finished with success") && !line.contains("Successful partial resync"))
        .find(|line| {
            line.contains("NOAUTH") || line.contains("WRONGPASS") || line.contains("Unable to AUTH to MASTER")
        })?;
    let start = ["NOAUTH", "WRONGPASS", "Unable to AUTH"]
        .into_iter()
        .find_map(|mark| line.find(mark))?;
    Some(line[start..].trim().trim_end_matches(['\'', '"']).to_owned())
}

/// A replica's link by `INFO replication`, as a remark in brackets; empty where it is up.
fn link_state(node: &NodeView) -> String {
    let field = |name: &str| node.replication.get(name).map(String::as_str);
    match (field("master_link_status"), field("master_link_down_since_seconds")) {
        (Some("up") | None, _) => String::new(),
        (Some(status), Some(since)) if since != "-1" => format!(" (master_link_status:{status} since {since} s)"),
        (Some(status), _) => format!(" (master_link_status:{status}, never synchronised)"),
    }
}

/// `a does`, `a and b do`, `6 nodes (a, b, …) do`.
fn plural(names: &[&str], one: &str, several: &str) -> String {
    match names {
        [] => several.to_owned(),
        [name] => format!("{name} {one}"),
        [first, last] => format!("{first} and {last} {several}"),
        [first, second, ..] => format!("{} nodes ({first}, {second}, …) {several}", names.len()),
    }
}

#[cfg(test)]
mod tests;

//! Rules about Services, selectors, ports, addresses, and who may reach the bus.

use super::field::{Field, Object, matches, selects};
use super::words::pattern;
use super::workload::{Deployment, Workload, pods};
use super::{Flaw, Rule};
use crate::case::Level;
use regex::Regex;
use std::sync::LazyLock;

/// The rules of this file.
pub(super) static RULES: &[Rule] = &[
    Rule {
        row: "K8S-03",
        name: "governing-service",
        level: Level::Must,
        requirement: "spec.serviceName MUST name a headless Service that is there.",
        shown_by: &["NET-01", "BOOT-03"],
        traps: &["T-43"],
        check: governing,
    },
    Rule {
        row: "K8S-04",
        name: "selectors",
        level: Level::Must,
        requirement: "The workload's selector MUST match its pods' labels, and selectors MUST select all and only these pods.",
        shown_by: &["NET-02", "NET-05"],
        traps: &["T-42"],
        check: selectors,
    },
    Rule {
        row: "K8S-18",
        name: "announced-address",
        level: Level::Must,
        requirement: "The pod's own address, status.podIP by the downward API, MUST be passed as cluster-announce-ip.",
        shown_by: &["BOOT-13", "NET-06", "TOPO-09"],
        traps: &["T-27", "T-28"],
        check: announced,
    },
    Rule {
        row: "K8S-19",
        name: "ports-declared",
        level: Level::Should,
        requirement: "The client's port and the bus port SHOULD both be declared.",
        shown_by: &["TOPO-03"],
        traps: &[],
        check: ports,
    },
    Rule {
        row: "K8S-19",
        name: "ports-allowed",
        level: Level::Must,
        requirement: "A NetworkPolicy that selects the pods MUST allow both ports between them.",
        shown_by: &["TOPO-03", "BOOT-14"],
        traps: &["T-31"],
        check: ports_allowed,
    },
    Rule {
        row: "NET-03",
        name: "publish-not-ready",
        level: Level::Should,
        requirement: "The governing Service SHOULD set publishNotReadyAddresses, so that peers find pods that are not ready yet.",
        shown_by: &["NET-01", "OPS-08"],
        traps: &["T-22"],
        check: not_ready,
    },
    Rule {
        row: "AUTH-10",
        name: "bus-fenced",
        level: Level::Must,
        requirement: "The bus port, which asks for no password, MUST be reachable from member pods only: a NetworkPolicy.",
        shown_by: &["AUTH-10", "TOPO-13"],
        traps: &["T-53", "T-29"],
        check: fenced,
    },
    Rule {
        row: "NET-09",
        name: "bus-isolated",
        level: Level::Should,
        requirement: "Clients SHOULD reach the client's port and not the bus.",
        shown_by: &["NET-09", "AUTH-10"],
        traps: &["T-53"],
        check: isolated,
    },
];

fn governing<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    if !workload.is("StatefulSet") {
        return Vec::new();
    }
    let field = workload.object.at("spec/serviceName");
    let Some(name) = field.text().filter(|name| !name.is_empty()) else {
        return vec![Flaw::at(&field, "no serviceName: the pods have no names of their own")];
    };
    let Some(service) = deployment.governing(workload) else {
        return vec![Flaw::at(&field, format!("there is no Service/{name} in the files"))];
    };
    let address = service.at("spec/clusterIP");
    if address.is("None") {
        return Vec::new();
    }
    vec![Flaw::at(
        &address,
        format!(
            "the governing Service of {} is not headless: clusterIP is not None",
            workload.object.document
        ),
    )]
}

fn selectors<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let labels = workload.labels();
    let mut flaws = Vec::new();
    let own = workload.object.at("spec/selector");
    // A ReplicationController's is of another form.
    let is_judged = own.at("matchLabels").is_there() || own.at("matchExpressions").is_there();
    if is_judged && !selects(&own, &labels) {
        flaws.push(Flaw::at(&own, "does not match the labels of its own pods"));
    }
    // What else is in the files and makes pods, or is one.
    let others: Vec<(Object<'a>, Field<'a>)> = deployment
        .objects
        .iter()
        .filter(|object| object.may_meet(workload.object) && object.document != workload.object.document)
        .filter_map(|object| Some((*object, pods(*object)?.1.at("labels"))))
        .collect();
    if is_judged {
        for (other, theirs) in others.iter().filter(|(_, theirs)| selects(&own, theirs)) {
            flaws.push(Flaw::at(
                &own,
                format!("also selects the pods of {} ({})", other.document, written(theirs)),
            ));
        }
    }
    if let Some(service) = deployment.governing(workload) {
        let selector = service.at("spec/selector");
        if !selector.entries().is_empty() && !matches(&selector, &labels) {
            let found = format!(
                "does not select the pods of {}, whose governing Service it is",
                workload.object.document
            );
            flaws.push(Flaw::at(&selector, found));
        }
    }
    for service in deployment.services(workload) {
        let selector = service.at("spec/selector");
        let is_server = |other: &Object<'_>| {
            deployment
                .workloads
                .iter()
                .any(|known| known.object.document == other.document)
        };
        for (other, _) in others
            .iter()
            .filter(|(other, theirs)| !is_server(other) && matches(&selector, theirs))
        {
            flaws.push(Flaw::at(
                &selector,
                format!(
                    "also selects the pods of {}, which are no servers of the cluster",
                    other.document
                ),
            ));
        }
    }
    flaws
}

fn written(labels: &Field<'_>) -> String {
    let pairs = labels
        .entries()
        .into_iter()
        .map(|(key, value)| format!("{key}={}", value.text().unwrap_or_default()));
    pairs.collect::<Vec<_>>().join(",")
}

fn announced<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    static ANNOUNCED: LazyLock<Regex> = LazyLock::new(|| pattern("cluster-announce-(ip|hostname)|ANNOUNCE"));
    static VARIABLE: LazyLock<Regex> = LazyLock::new(|| pattern("^\\$[({]?([A-Za-z_][A-Za-z0-9_]*)[)}]?$"));
    let Some(directive) = workload.configuration.get("cluster-announce-ip") else {
        if !workload.configuration.is_whole || workload.mentions(&ANNOUNCED) {
            return Vec::new();
        }
        let found = "no cluster-announce-ip: a node learns its address from others, and may keep an old one";
        return vec![Flaw::at(&workload.start.field, found)];
    };
    let value = directive.value();
    let at = |found: String| vec![Flaw::in_text(&directive.text, directive.line, &value, found)];
    if value.parse::<std::net::IpAddr>().is_ok() {
        return at(format!(
            "cluster-announce-ip {value}: one address for every pod, and no pod keeps its own"
        ));
    }
    // Only Kubernetes' own $(NAME) is its business; what a script makes of a name may be anything.
    let in_words = workload
        .start
        .words
        .iter()
        .any(|word| std::ptr::eq(word.text, directive.text.text));
    let first = workload.start.words.first();
    let is_server = first.is_some_and(|word| super::words::REDIS_SERVER.is_match(word.text));
    if in_words && is_server && value.starts_with('$') && !value.starts_with("$(") {
        return at(format!(
            "cluster-announce-ip {value}: no shell reads it, and Kubernetes fills in $(NAME) alone"
        ));
    }
    let Some(name) = VARIABLE
        .captures(&value)
        .filter(|_| in_words)
        .map(|found| found[1].to_owned())
    else {
        return Vec::new();
    };
    let Some(variable) = workload.variable(&name) else {
        let unset = !workload.container.at("envFrom").is_there() && value.starts_with("$(");
        return if unset {
            at(format!(
                "cluster-announce-ip {value}: the container has no variable {name}"
            ))
        } else {
            Vec::new()
        };
    };
    let source = variable.at("valueFrom/fieldRef/fieldPath");
    let fine = ["status.podIP", "status.podIPs", "status.hostIP"];
    match source.text() {
        Some(path) if !fine.contains(&path) => vec![Flaw::at(
            &source,
            format!("{name}, which is announced as the address, is {path}"),
        )],
        None if variable.at("value").text().is_some_and(|value| !value.contains("$(")) => {
            vec![Flaw::at(
                &variable.at("value"),
                format!("{name}, which is announced as the address, is the same in every pod"),
            )]
        }
        _ => Vec::new(),
    }
}

fn ports<'a>(_: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let field = workload.container.at("ports");
    let declared = workload.declared_ports();
    let known = match declared.is_empty() {
        true => workload.written_ports(),
        false => workload.ports(),
    };
    let Some((client, bus)) = known else {
        return Vec::new();
    };
    let missing: Vec<String> = [("the client's port", client), ("the bus port", bus)]
        .iter()
        .filter(|(_, port)| !declared.contains(port))
        .map(|(what, port)| format!("{what} {port}"))
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    vec![Flaw::at(
        &field,
        format!("{}: {} not declared", workload.container_name(), missing.join(" and ")),
    )]
}

/// Whether a rule of a NetworkPolicy covers a port of the servers.
fn covers(rule: &Field<'_>, workload: &Workload<'_>, port: i64) -> bool {
    let ports = rule.at("ports").items();
    let names = workload.container.at("ports").items();
    ports.is_empty()
        || ports.iter().any(|item| {
            let allowed = item.at("port");
            let (first, last) = (allowed.integer(), item.at("endPort").integer());
            let by_name = |name: &str| {
                let named = names.iter().find(|port| port.at("name").is(name));
                named.and_then(|port| port.at("containerPort").integer()) == Some(port)
            };
            let tcp = !item.at("protocol").is_there() || item.at("protocol").is("TCP");
            let fits = match (first, last, allowed.text()) {
                (Some(first), Some(last), _) => (first..=last).contains(&port),
                (Some(first), None, _) => first == port,
                (None, _, Some(name)) => by_name(name),
                (None, _, None) => true,
            };
            tcp && fits
        })
}

/// Who a rule lets in, or out to.
enum Peer<'a> {
    /// Everybody.
    Anyone,
    /// Every pod of the namespace.
    Neighbours,
    /// The pods of the namespace that a selector selects.
    Pods(Field<'a>),
    /// Who that is cannot be seen.
    Unknown,
}

impl Peer<'_> {
    /// Whether the pods of a workload are, or may be, among them.
    fn holds(&self, workload: &Workload<'_>) -> bool {
        match self {
            Self::Anyone | Self::Neighbours | Self::Unknown => true,
            Self::Pods(selector) => selects(selector, &workload.labels()),
        }
    }
}

/// Whom a rule names, by its `from` or its `to`.
fn peers<'a>(rule: &Field<'a>, side: &str) -> Vec<Peer<'a>> {
    let named = rule.at(side).items();
    if named.is_empty() {
        return vec![Peer::Anyone];
    }
    let peer = |item: &Field<'a>| {
        let (pods, spaces, block) = (item.at("podSelector"), item.at("namespaceSelector"), item.at("ipBlock"));
        let whole = |selector: &Field<'_>| {
            let asked = [
                selector.at("matchLabels").entries().len(),
                selector.at("matchExpressions").items().len(),
            ];
            selector.is_there() && asked == [0, 0]
        };
        if block.is_there() {
            let all = ["0.0.0.0/0", "::/0"].iter().any(|all| block.at("cidr").is(all))
                && block.at("except").items().is_empty();
            if all { Peer::Anyone } else { Peer::Unknown }
        } else if spaces.is_there() {
            if whole(&spaces) && (!pods.is_there() || whole(&pods)) {
                Peer::Anyone
            } else {
                Peer::Unknown
            }
        } else if whole(&pods) {
            Peer::Neighbours
        } else {
            Peer::Pods(pods)
        }
    };
    named.iter().map(peer).collect()
}

/// Whether policies of another kind are there: what they allow is not read.
fn other_policies(deployment: &Deployment<'_>) -> bool {
    const OTHERS: [&str; 5] = [
        "CiliumNetworkPolicy",
        "CiliumClusterwideNetworkPolicy",
        "GlobalNetworkPolicy",
        "AdminNetworkPolicy",
        "ClusterNetworkPolicy",
    ];
    let calico = |object: &Object<'_>| object.is("NetworkPolicy") && object.document.api_version().contains("calico");
    deployment
        .objects
        .iter()
        .any(|object| OTHERS.contains(&object.document.kind()) || calico(object))
}

fn ingress<'a>(policies: &[Object<'a>]) -> Vec<Field<'a>> {
    policies
        .iter()
        .flat_map(|policy| policy.at("spec/ingress").items())
        .collect()
}

fn ports_allowed<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    if other_policies(deployment) {
        return Vec::new();
    }
    let inward = shut(deployment, &deployment.policies(workload), "ingress", "from", workload);
    let outward = shut(
        deployment,
        &deployment.outward_policies(workload),
        "egress",
        "to",
        workload,
    );
    inward.into_iter().chain(outward).collect()
}

/// The workloads whose pods are members of one cluster with a workload's, that first: those behind one Service with it. What else
/// is in the namespace may be another cluster.
fn members<'d, 'a>(deployment: &'d Deployment<'a>, workload: &'d Workload<'a>) -> Vec<&'d Workload<'a>> {
    let services = deployment.services(workload);
    let is_behind = |other: &&Workload<'a>| {
        let is_one = |service: &Object<'_>| matches(&service.at("spec/selector"), &other.labels());
        other.object.may_meet(workload.object) && services.iter().any(is_one)
    };
    let others = deployment
        .workloads
        .iter()
        .filter(|other| other.object.document != workload.object.document)
        .filter(is_behind);
    [workload].into_iter().chain(others).collect()
}

/// What policies for one direction keep the members from: what none of their rules allows is forbidden.
fn shut<'a>(
    deployment: &Deployment<'a>,
    policies: &[Object<'a>],
    direction: &str,
    side: &str,
    workload: &Workload<'a>,
) -> Option<Flaw> {
    let place = format!("spec/{direction}");
    let first = policies.first()?;
    let (client, bus) = workload.ports()?;
    let rules: Vec<Field<'a>> = policies.iter().flat_map(|policy| policy.at(&place).items()).collect();
    let closed = |member: &Workload<'a>| -> Vec<String> {
        let open = |port: i64| {
            let holds = |rule: &&Field<'a>| peers(rule, side).iter().any(|peer| peer.holds(member));
            rules.iter().filter(holds).any(|rule| covers(rule, workload, port))
        };
        let closed = [client, bus].into_iter().filter(|port| !open(*port));
        closed.map(|port| port.to_string()).collect()
    };
    let own = closed(workload);
    if !own.is_empty() {
        let found = format!("lets no member reach another on {}", own.join(" and "));
        return Some(Flaw::at(&first.at(&place), found));
    }
    members(deployment, workload).into_iter().find_map(|member| {
        let ports = Some(closed(member)).filter(|ports| !ports.is_empty())?.join(" and ");
        let (from, to) = match side {
            "from" => (member, workload),
            _ => (workload, member),
        };
        let found = format!(
            "lets the pods of {} not reach those of {} on {ports}",
            from.object.document, to.object.document
        );
        Some(Flaw::at(&first.at(&place), found))
    })
}

fn not_ready<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    let Some(service) = deployment.governing(workload) else {
        return Vec::new();
    };
    let field = service.at("spec/publishNotReadyAddresses");
    let old_way = service
        .at("metadata/annotations")
        .key("service.alpha.kubernetes.io/tolerate-unready-endpoints")
        .is("true");
    if field.value() == true || old_way {
        return Vec::new();
    }
    vec![Flaw::at(
        &field,
        "publishNotReadyAddresses is not true: a pod has no name before it is ready",
    )]
}

fn fenced<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    if other_policies(deployment) || workload.bus_is_certified() {
        return Vec::new();
    }
    let policies = deployment.policies(workload);
    let ports = workload.ports();
    if policies.is_empty() {
        let port = ports.map_or("the bus port".to_owned(), |(_, bus)| format!("port {bus}"));
        let found =
            format!("no NetworkPolicy selects the pods: whoever reaches {port} joins the cluster without the password");
        return vec![Flaw::at(&workload.object.root(), found)];
    }
    let Some((_, bus)) = ports else {
        return Vec::new();
    };
    let open = ingress(&policies).into_iter().find_map(|rule| {
        let peers = peers(&rule, "from");
        let who = if peers.iter().any(|peer| matches!(peer, Peer::Anyone)) {
            "anyone"
        } else if peers.iter().any(|peer| matches!(peer, Peer::Neighbours)) {
            "every pod of the namespace"
        } else {
            return None;
        };
        let found = format!("lets {who} reach the bus port {bus}");
        covers(&rule, workload, bus).then(|| Flaw::at(&rule, found))
    });
    open.into_iter().collect()
}

fn isolated<'a>(deployment: &Deployment<'a>, workload: &Workload<'a>) -> Vec<Flaw> {
    if other_policies(deployment) || workload.bus_is_certified() {
        return Vec::new();
    }
    let Some((_, bus)) = workload.ports() else {
        return Vec::new();
    };
    let others = |rule: &Field<'a>| {
        let is_member = |peer: &Peer<'a>| {
            let mut near = deployment
                .workloads
                .iter()
                .filter(|other| other.object.may_meet(workload.object));
            near.any(|other| peer.holds(other))
        };
        !peers(rule, "from").iter().all(is_member)
    };
    let rules = ingress(&deployment.policies(workload));
    let open = rules.iter().find(|rule| covers(rule, workload, bus) && others(rule));
    open.map(|rule| Flaw::at(rule, format!("lets others than the members reach the bus port {bus}")))
        .into_iter()
        .collect()
}

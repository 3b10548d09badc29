use super::*;
use pretty_assertions::assert_eq;
use rstest::rstest;
use serde_json::{Value, json};

fn pod(name: &str, labels: Value, owner: (&str, &str), spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": labels,
            "ownerReferences": [{"apiVersion": "v1", "kind": owner.0, "name": owner.1, "uid": "u"}],
        },
        "spec": spec,
        "status": {"phase": "Running"},
    }))
    .unwrap()
}

fn server_spec() -> Value {
    json!({"containers": [{"name": "redis", "image": "registry.example/db/redis:7", "ports": [{"containerPort": 6379, "name": "client"}]}]})
}

fn service(name: &str, address: Option<&str>, selector: Value, target: Value) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"clusterIP": address, "selector": selector, "ports": [{"port": 6379, "targetPort": target}]},
    }))
    .unwrap()
}

/// Six pods of one StatefulSet with a hook, as the canonical deployment has them.
fn one_set() -> Seen {
    let spec = json!({
        "containers": [
            {"name": "metrics", "image": "oliver006/redis_exporter:v1", "ports": [{"containerPort": 9121}]},
            {
                "name": "redis", "image": "redis", "ports": [{"containerPort": 16379}, {"containerPort": 6379, "name": "client"}],
                "env": [{"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "shop-password", "key": "password"}}}],
                "lifecycle": {"postStart": {"exec": {"command": ["sh"]}}},
            },
        ],
        "volumes": [{"name": "conf", "configMap": {"name": "shop-conf"}}],
    });
    let labels = |number: usize| json!({"app": "shop", "apps.kubernetes.io/pod-index": number.to_string()});
    Seen {
        namespace: "shop".into(),
        pods: [0, 1, 10, 2, 3, 9]
            .map(|number| {
                pod(
                    &format!("shop-{number}"),
                    labels(number),
                    ("StatefulSet", "shop"),
                    spec.clone(),
                )
            })
            .into(),
        makers: vec![Maker {
            name: "StatefulSet/shop".into(),
            selector: [("app".to_owned(), "shop".to_owned())].into(),
            service: Some("shop-nodes".into()),
        }],
        replica_sets: BTreeMap::new(),
        services: vec![
            service("shop-nodes", Some("None"), json!({"app": "shop"}), json!(6379)),
            service("shop", Some("10.0.0.1"), json!({"app": "shop"}), json!("client")),
            service("metrics", Some("10.0.0.2"), json!({"app": "shop"}), json!(9121)),
            service("web", Some("10.0.0.3"), json!({"app": "web"}), json!(6379)),
        ],
        config_maps: vec![
            serde_json::from_value(json!({
                "metadata": {"name": "shop-conf"},
                "data": {"readme": "cluster-enabled", "redis.conf": "port 6379\nCluster-Enabled  yes\n"},
            }))
            .unwrap(),
        ],
    }
}

#[test]
fn one_stateful_set_is_described_whole() {
    let expected = "\
# What `init` saw in namespace shop: 6 servers. The form is documented in docs/target.schema.json.
version: 1
# manifest: FILE, where the suite is to apply it; or where a command is to install it, and another to remove it:
# install: {command: [helm, install, NAME, CHART, --wait], seconds: 600}
# remove: {command: [helm, uninstall, NAME, --wait]}
# Without, the suite judges what is there.
# The most that is done to it, whatever the command line says: read-only, writes, apart (servers and pods beside
# it), or disruptive. What is beyond that is skipped.
# impact: apart
namespace: shop
pods:
  app: shop
workload: shop
container: redis
clientPort: 6379
services:
  headless: shop-nodes
  client: shop
password:
  secret: {name: shop-password, key: password}
redisConf: {configMap: shop-conf, key: redis.conf}
# Guessed of 6 pods: put in what the cluster is meant to be.
shape:
  masters: 3
  replicasPerMaster: 1
# Guessed: the pod whose postStart hook forms the cluster; where none does, leave it out.
bootstrap:
  pod: shop-10
";
    assert_eq!(one_set().describe(&BTreeMap::new()).unwrap(), expected);
}

#[test]
fn its_comments_about_commands_can_be_taken_for_what_they_say() {
    let text = one_set().describe(&BTreeMap::new()).unwrap();
    let text = text.replace("# install:", "install:").replace("# remove:", "remove:");
    let descriptor = Descriptor::parse("shop.yaml", &text).unwrap();
    assert_eq!(descriptor.install.unwrap().seconds.get(), 600);
    assert_eq!(
        descriptor.remove.unwrap().command,
        ["helm", "uninstall", "NAME", "--wait"]
    );
}

/// The same pods, over TLS: by the environment of an image, with the certificates in a volume.
fn over_tls(alter: impl Fn(&mut Value)) -> String {
    let mut seen = one_set();
    for pod in &mut seen.pods {
        let mut spec = serde_json::to_value(pod.spec.as_ref().unwrap()).unwrap();
        let container = &mut spec["containers"][1];
        let variables = container["env"].as_array_mut().unwrap();
        variables.extend([
            json!({"name": "REDIS_TLS_ENABLED", "value": "yes"}),
            json!({"name": "REDIS_TLS_CA_FILE", "value": "/certs/ca.crt"}),
            json!({"name": "REDIS_TLS_CERT_FILE", "value": "/certs/tls.crt"}),
            json!({"name": "REDIS_TLS_KEY_FILE", "value": "/certs/tls.key"}),
        ]);
        container["volumeMounts"] = json!([{"name": "certs", "mountPath": "/certs"}]);
        let certificates = json!({"name": "certs", "secret": {"secretName": "shop-crt"}});
        spec["volumes"].as_array_mut().unwrap().push(certificates);
        alter(&mut spec);
        pod.spec = Some(serde_json::from_value(spec).unwrap());
    }
    seen.describe(&BTreeMap::new()).unwrap()
}

#[test]
fn certificates_are_found_where_the_servers_have_them() {
    let text = over_tls(|_| {});
    let expected = "# The port for clients speaks TLS.
tls:
  ca: {secret: {name: shop-crt, key: ca.crt}}
  # Clients must show a certificate too. This is the servers' own.
  certificate: {secret: {name: shop-crt, key: tls.crt}}
  key: {secret: {name: shop-crt, key: tls.key}}
  # No Secret is read for this, so it is not known what names the certificates are for. Stricter: `addresses`, or
  # {name: \"{pod}.SERVICE\"}.
  serverNames: unchecked
";
    assert!(text.contains(expected), "{text}");
    assert!(Descriptor::parse("d", &text).unwrap().tls.is_some());
}

#[test]
fn servers_that_ask_for_no_certificate_are_shown_none() {
    let text = over_tls(|spec| {
        let variables = spec["containers"][1]["env"].as_array_mut().unwrap();
        variables.push(json!({"name": "REDIS_TLS_AUTH_CLIENTS", "value": "no"}));
    });
    assert!(
        text.contains("tls:\n  ca: {secret") && !text.contains("certificate:"),
        "{text}"
    );
}

#[test]
fn certificates_that_are_in_no_volume_are_left_to_the_reader() {
    let text = over_tls(|spec| spec["containers"][1]["volumeMounts"] = json!([]));
    assert!(text.contains("# tls:\n#   ca: {secret: {name: NAME"), "{text}");
    assert!(Descriptor::parse("d", &text).unwrap().tls.is_none());
    // With the marks taken away it is a description again.
    let from = text.find("# tls:").unwrap();
    let to = from + text[from..].find("redisConf").unwrap();
    let uncovered: String = text[from..to]
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
        .collect();
    let whole = format!("{}{uncovered}{}", &text[..from], &text[to..]);
    assert!(Descriptor::parse("d", &whole).unwrap().tls.is_some(), "{whole}");
}

#[rstest]
#[case::of_arguments(json!({"args": ["--tls-port 6379 --port 0 --tls-ca-cert-file /certs/ca.crt"]}), true)]
#[case::switched_off(json!({"args": ["--tls-port 0"]}), false)]
#[case::beside(json!({"args": ["--port 6379 --tls-port 6380"]}), false)]
#[case::alone(json!({"args": ["--port 0 --tls-port 6380"]}), true)]
#[case::beside_by_environment(
    json!({"env": [{"name": "TLS_ENABLED", "value": "yes"}, {"name": "TLS_PORT_NUMBER", "value": "6380"}]}),
    false
)]
#[case::here_by_environment(
    json!({"env": [{"name": "TLS_ENABLED", "value": "yes"}, {"name": "TLS_PORT_NUMBER", "value": "6379"}]}),
    true
)]
#[case::said_no(json!({"env": [{"name": "TLS_ENABLED", "value": "no"}]}), false)]
#[case::nothing(json!({}), false)]
fn that_servers_speak_tls_is_seen(#[case] settings: Value, #[case] speak: bool) {
    let text = over_tls(|spec| {
        let container = &mut spec["containers"][1];
        container["env"] = json!([]);
        for (name, value) in settings.as_object().unwrap() {
            container[name] = value.clone();
        }
    });
    assert_eq!(text.contains("tls:\n"), speak, "{text}");
}

/// A Deployment for each server, and the Job that joins them.
fn deployments() -> Seen {
    let labels = |number: usize| json!({"app": "cache", "node": number.to_string(), "pod-template-hash": "abc"});
    let name = |number: usize| format!("node-{number}");
    let mut pods: Vec<Pod> = (0..6)
        .map(|number| {
            let owner = format!("{}-abc", name(number));
            pod(
                &format!("{owner}-x"),
                labels(number),
                ("ReplicaSet", &owner),
                server_spec(),
            )
        })
        .collect();
    pods.push(pod("join-1", json!({"app": "cache"}), ("Job", "join"), server_spec()));
    // Jobs' pods stay when they have done their work.
    pods.last_mut().unwrap().status.as_mut().unwrap().phase = Some("Succeeded".into());
    Seen {
        namespace: "cache".into(),
        pods,
        makers: (0..6)
            .map(|number| Maker {
                name: format!("Deployment/{}", name(number)),
                selector: [("node".to_owned(), number.to_string())].into(),
                service: None,
            })
            .collect(),
        replica_sets: (0..6)
            .map(|number| (format!("{}-abc", name(number)), name(number)))
            .collect(),
        ..Seen::default()
    }
}

#[test]
fn deployments_are_described_by_what_they_have_in_common() {
    let expected = "\
# What `init` saw in namespace cache: 6 servers. The form is documented in docs/target.schema.json.
version: 1
# manifest: FILE, where the suite is to apply it; or where a command is to install it, and another to remove it:
# install: {command: [helm, install, NAME, CHART, --wait], seconds: 600}
# remove: {command: [helm, uninstall, NAME, --wait]}
# Without, the suite judges what is there.
# The most that is done to it, whatever the command line says: read-only, writes, apart (servers and pods beside
# it), or disruptive. What is beyond that is skipped.
# impact: apart
namespace: cache
pods:
  app: cache
workloads:
  - Deployment/node-0
  - Deployment/node-1
  - Deployment/node-2
  - Deployment/node-3
  - Deployment/node-4
  - Deployment/node-5
container: redis
clientPort: 6379
# No Service leads to all pods with app=cache.
# No password was seen. Where there is one, say where:
# password:
#   secret: {name: NAME, key: KEY}   # or environment: VARIABLE, or file: PATH
# Guessed of 6 pods: put in what the cluster is meant to be.
shape:
  masters: 3
  replicasPerMaster: 1
# No server has a postStart hook. Where a container of a pod forms the cluster:
# bootstrap:
#   pod: POD
#   container: CONTAINER
";
    assert_eq!(deployments().describe(&BTreeMap::new()).unwrap(), expected);
}

#[test]
fn several_sets_and_a_password_in_the_configuration() {
    let spec = |port: i32| {
        json!({
            "containers": [{"name": "r", "command": ["valkey-server", "/conf/x"], "ports": [{"containerPort": port}]}],
            "volumes": [{"name": "conf", "configMap": {"name": "conf"}}],
        })
    };
    let of = |set: &str, number: usize| {
        let labels = json!({"cluster": "a: b", "role": set});
        pod(&format!("{set}-{number}"), labels, ("StatefulSet", set), spec(7000))
    };
    let seen = Seen {
        namespace: "s".into(),
        pods: (0..3)
            .flat_map(|number| [of("leader", number), of("follower", number)])
            .collect(),
        makers: ["leader", "follower"]
            .map(|set| Maker {
                name: format!("StatefulSet/{set}"),
                selector: [("role".to_owned(), set.to_owned())].into(),
                service: Some(format!("{set}-nodes")),
            })
            .into(),
        config_maps: vec![
            serde_json::from_value(
                json!({"metadata": {"name": "conf"}, "data": {"x": "requirepass \"a b\"\ncluster-enabled yes"}}),
            )
            .unwrap(),
        ],
        ..Seen::default()
    };
    let text = seen.describe(&BTreeMap::new()).unwrap();
    for line in [
        "  cluster: \"a: b\"\nworkloads:\n  - StatefulSet/follower\n  - StatefulSet/leader\n",
        "clientPort: 7000\n",
        "password:\n  redisConf: {configMap: conf, key: x}\n",
        "redisConf: {configMap: conf, key: x}\n",
    ] {
        assert!(text.contains(line), "{line}\nin\n{text}");
    }
    assert!(!text.contains("a b\""), "the password is told:\n{text}");
    let leaders = seen
        .describe(&[("role".to_owned(), "leader".to_owned())].into())
        .unwrap();
    assert!(leaders.contains("workload: leader\n"), "{leaders}");
}

#[rstest]
#[case::of_a_running_job(pod("join-1", json!({"app": "shop"}), ("Job", "join"), server_spec()), true)]
#[case::leaves(leaving(pod("shop-11", json!({"app": "shop"}), ("StatefulSet", "shop"), server_spec())), true)]
#[case::another(pod("web", json!({"app": "shop"}), ("ReplicaSet", "web"), json!({"containers": []})), false)]
fn pods_that_do_not_stay_are_left_out(#[case] other: Pod, #[case] left_out: bool) {
    let mut seen = one_set();
    let alone = seen.describe(&BTreeMap::new());
    seen.pods.push(other);
    assert_eq!(seen.describe(&BTreeMap::new()) == alone, left_out);
}

fn leaving(mut pod: Pod) -> Pod {
    pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-27T12:00:00Z")).unwrap();
    pod
}

fn seen(pods: Vec<Pod>) -> Seen {
    Seen {
        namespace: "n".into(),
        pods,
        ..Seen::default()
    }
}

#[rstest]
#[case::nothing(seen(vec![]), "pods there: none")]
#[case::no_server(
    seen(vec![pod("web-1", json!({}), ("ReplicaSet", "web"), json!({"containers": [{"name": "web", "image": "nginx"}]}))]),
    "pods there: web-1"
)]
#[case::a_client(
    seen(vec![pod("cli", json!({}), ("Pod", "x"), json!({"containers": [{"name": "c", "image": "redis", "command": ["sleep", "9"]}]}))]),
    "pods there: cli"
)]
#[case::two_clusters(
    seen(vec![
        pod("a-0", json!({"app": "a"}), ("StatefulSet", "a"), server_spec()),
        pod("b-0", json!({"app": "b"}), ("StatefulSet", "b"), server_spec()),
    ]),
    "a-0, b-0 run servers and have no label in common"
)]
#[case::others_too(
    seen(vec![
        pod("a-0", json!({"app": "a"}), ("StatefulSet", "a"), server_spec()),
        pod("web", json!({"app": "a"}), ("ReplicaSet", "web"), json!({"containers": [{"name": "web", "image": "nginx"}]})),
    ]),
    "app=a also select web"
)]
#[case::containers_of_two_names(
    seen(vec![
        pod("a-0", json!({"app": "a"}), ("StatefulSet", "a"), server_spec()),
        pod("a-1", json!({"app": "a"}), ("StatefulSet", "a"), json!({"containers": [{"name": "valkey", "image": "valkey"}]})),
    ]),
    "several names (redis, valkey)"
)]
fn what_does_not_belong_together_is_told(#[case] seen: Seen, #[case] says: &str) {
    let error = seen.describe(&BTreeMap::new()).unwrap_err();
    assert!(error.contains(says), "{error}");
}

#[rstest]
#[case("redis", "redis")]
#[case("a-b.c/d", "a-b.c/d")]
#[case("yes", "\"yes\"")]
#[case("6", "\"6\"")]
#[case("a: b", "\"a: b\"")]
#[case("a\"#", "\"a\\\"#\"")]
#[case("", "\"\"")]
fn texts_are_texts_to_yaml(#[case] text: &str, #[case] written: &str) {
    assert_eq!(quoted(text), written);
    assert_eq!(serde_yaml::from_str::<String>(written).unwrap(), text);
}

#[test]
fn sets_with_a_service_each_have_none_in_common() {
    let mut seen = one_set();
    let labels = json!({"app": "shop"});
    seen.pods
        .push(pod("more-0", labels, ("StatefulSet", "more"), seen_spec(&seen)));
    seen.makers.push(Maker {
        name: "StatefulSet/more".into(),
        selector: [("more".to_owned(), "yes".to_owned())].into(),
        service: Some("more-nodes".into()),
    });
    let text = seen.describe(&BTreeMap::new()).unwrap();
    assert!(text.contains("services:\n  client: shop\n"), "{text}");
}

fn seen_spec(seen: &Seen) -> Value {
    serde_json::to_value(seen.pods[0].spec.as_ref().unwrap()).unwrap()
}

//! Implementations that do not gossip, or lack commands: the whole suite over a stand-in for each kind, with every verdict
//! held against a golden file.
//!
//! `RCC_UPDATE=1 cargo test --test implementations` writes the golden files anew. Each verdict in them was looked at with the
//! catalogue in hand: what a server lacks is `unsupported` and names the feature, what it breaks is a failure, and nothing
//! passes on no evidence.

#![allow(clippy::unwrap_used, reason = "a test: a panic is a failure with a place")]

#[path = "implementations/shapes.rs"]
mod shapes;
#[path = "implementations/standin.rs"]
mod standin;

use redis_cluster_conformance::cluster::connection::Connection;
use redis_cluster_conformance::cluster::view::Shape as Size;
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::surroundings;
use redis_cluster_conformance::target::addresses::connect_tcp;
use redis_cluster_conformance::target::processes::{ProcessesOptions, ProcessesTarget};
use redis_cluster_conformance::target::{Secret, Target, TargetKind};
use redis_cluster_conformance::timing::Timing;
use serde_json::Value;
use standin::{Node, Shape};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// It has letters of both cases: so there is another that differs in case only.
const PASSWORD: &str = "Stand-Ins-of-the-Suite";

/// The next port that a stand-in may get: above those of the target `processes`, below those that the system gives to
/// clients, and what it announces as its bus is a port too.
static NEXT: AtomicU16 = AtomicU16::new(32050);

/// A listener on a port of its own, of which nobody serves the one 10000 above.
fn listener() -> TcpListener {
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32700, "no port is free");
        if let (Ok(own), Ok(_)) = (
            TcpListener::bind(("127.0.0.1", port)),
            TcpListener::bind(("127.0.0.1", port + 10000)),
        ) {
            return own;
        }
    }
}

/// The real servers of a shape.
fn servers(shape: &Shape) -> ProcessesTarget {
    let forms = shape.conf.contains("cluster-enabled yes");
    let run_id = format!("standin-{}-{}", shape.name, std::process::id());
    ProcessesTarget::new(ProcessesOptions {
        password: Some(Secret::new(PASSWORD)),
        shape: Size {
            masters: if forms { shape.masters } else { 0 },
            replicas_per_master: shape.replicas,
        },
        spare: if forms { 0 } else { shape.masters },
        ..ProcessesOptions::new(shape.conf, "a test", run_id, Timing::new(Duration::from_secs(1)))
    })
}

/// The stand-ins before the servers; every node as it is shown.
async fn stand_in(shape: Shape, target: &ProcessesTarget) -> Arc<[Node]> {
    let (mut nodes, mut listeners) = (Vec::new(), Vec::new());
    for (at, member) in target.members().await.unwrap().into_iter().enumerate() {
        let stream = connect_tcp(&member.address).await.unwrap();
        let mut connection = Connection::new(stream, member.address.clone(), Duration::from_secs(5));
        connection.ask(&["AUTH", PASSWORD]).await.unwrap();
        let id = connection.call(&["CLUSTER", "MYID"]).await.unwrap();
        let own = listener();
        nodes.push(Node {
            real: member.address.port,
            shown: own.local_addr().unwrap().port(),
            id: id.text().map_or_else(|| "e".repeat(40), str::to_owned),
            master: at.checked_sub(shape.masters),
            slots: match (shape.masters, at) {
                (1, 0) => Some((0, 16383)),
                (3, 0) => Some((0, 5460)),
                (3, 1) => Some((5461, 10922)),
                (3, 2) => Some((10923, 16383)),
                _ => None,
            },
        });
        listeners.push(own);
    }
    let nodes: Arc<[Node]> = nodes.into();
    for (at, listener) in listeners.into_iter().enumerate() {
        standin::serve(listener, nodes.clone(), at, shape);
    }
    nodes
}

/// The suite over the stand-ins: the exit code, and `run.json`.
async fn judged(shape: &Shape, nodes: &[Node], folder: &Path) -> (i32, Value) {
    let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.shown)).collect();
    let child = tokio::process::Command::new(assert_cmd::cargo::cargo_bin("redis-cluster-conformance"))
        .args(["run", "--target", "addresses", "--out", "out"])
        .args(["--addresses", &addresses.join(",")])
        .args([
            "--masters",
            &shape.masters.to_string(),
            "--replicas",
            &shape.replicas.to_string(),
        ])
        .args(["--profile", "core", "--profile", "extended"])
        .args(["--password-env", "RCC_TEST_PASSWORD"])
        // Waits for what such a server never says are as long as those for what a quick one says.
        .args([
            "--timing",
            "T_stable=3",
            "--timing",
            "T_gossip=2",
            "--timing",
            "T_soak=6",
        ])
        .env("RCC_TEST_PASSWORD", PASSWORD)
        .env("NO_COLOR", "1")
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    let status = tokio::time::timeout(Duration::from_secs(300), child)
        .await
        .unwrap()
        .unwrap();
    let run = std::fs::read_to_string(folder.join("out/run.json")).unwrap();
    (status.code().unwrap(), serde_json::from_str(&run).unwrap())
}

/// What the golden file holds of a run: the sums, and each case that the target let run.
fn told(exit: i32, run: &Value, nodes: &[Node]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let server = &run["server"];
    let mut lines = vec![
        format!("exit {exit}: {}", text(&run["summary"]["verdict"])),
        format!("server {} {}", text(&server["product"]), text(&server["version"])),
    ];
    for group in ["profiles", "seed"] {
        for (name, tally) in run["summary"][group].as_object().unwrap() {
            lines.push(format!("{name} {}: {}", text(&tally["result"]), tally["verdicts"]));
        }
    }
    for case in run["cases"].as_array().unwrap() {
        let reason = text(&case["reason"]);
        let by_target = ["the target cannot do this", "disruptive, on a deployment"];
        if by_target.iter().any(|beginning| reason.starts_with(beginning)) {
            continue;
        }
        let (verdict, actual) = (text(&case["verdict"]), text(&case["actual"]));
        let why = if actual.is_empty() { reason } else { actual };
        let first = why.lines().next().unwrap_or_default();
        lines.push(format!("{} {verdict} {first}", text(&case["id"])).trim_end().to_owned());
    }
    let told = nodes
        .iter()
        .enumerate()
        .fold(lines.join("\n") + "\n", |told, (at, node)| {
            told.replace(&format!("127.0.0.1:{}", node.shown), &format!("node{at}"))
                .replace(&node.id, &format!("<id{at}>"))
                .replace(&node.id[..8], &format!("<id{at}>"))
        });
    told.replace(run["runId"].as_str().unwrap(), "<run>")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_over_each_kind_of_implementation_is_as_kept() {
    let missing = surroundings::missing_for(TargetKind::Processes).await;
    assert_eq!(missing, None, "a test that did not run has proved nothing");
    let one = std::env::var("RCC_SHAPE").ok();
    let chosen = shapes::ALL
        .into_iter()
        .filter(|shape| one.as_deref().is_none_or(|one| one == shape.name));
    let runs = chosen.map(async |shape| {
        let target = servers(&shape);
        let progress = Progress::silent();
        let prepared = target.prepare(&progress).await;
        let told = match prepared {
            Ok(_) => {
                let nodes = stand_in(shape, &target).await;
                let folder = tempfile::tempdir().unwrap();
                let (exit, run) = judged(&shape, &nodes, folder.path()).await;
                Ok(told(exit, &run, &nodes))
            }
            Err(error) => Err(error.to_string()),
        };
        target.release().await.unwrap();
        (shape.name, told)
    });
    let mut stale = Vec::new();
    for (name, told) in futures::future::join_all(runs).await {
        let told = told.unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/implementations/{name}.txt"));
        if std::env::var_os("RCC_UPDATE").is_some() {
            std::fs::write(&path, &told).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let without = |here: &str, there: &str, sign: char| -> Vec<String> {
            let lines = here.lines().filter(|line| !there.lines().any(|other| other == *line));
            lines.map(|line| format!("{name}: {sign} {line}")).collect()
        };
        if kept != told {
            stale.push(format!("{} is stale", path.display()));
            stale.extend(without(&kept, &told, '-'));
            stale.extend(without(&told, &kept, '+'));
        }
    }
    assert!(
        stale.is_empty(),
        "other verdicts than those kept:\n{}",
        stale.join("\n")
    );
}

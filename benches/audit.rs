//! The audit of all slots of a live cluster, on loopback, against `redis-cli --cluster check` of the same cluster in the
//! same run. The suite asks every node for CLUSTER NODES, SLOTS and SHARDS and compares all; redis-cli asks every node
//! for CLUSTER NODES.
//!
//! `cargo bench --bench audit`; `RCC_BENCH_MASTERS=100` for another size than 30 masters with a replica each.

#![allow(clippy::unwrap_used, reason = "a benchmark: a panic is a failure with a place")]

use criterion::Criterion;
use redis_cluster_conformance::cases;
use redis_cluster_conformance::context::{Context, Shared};
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::request::{Request, new_run_id};
use redis_cluster_conformance::target::{Target, TargetKind};
use redis_cluster_conformance::timing::Timing;
use std::borrow::Cow;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What cases of a run share, as the runner makes it: with no connection open yet.
fn shared(target: &Arc<dyn Target>) -> Arc<Shared> {
    let timing = Timing::new(Duration::from_secs(5));
    let silent = Progress::silent();
    Arc::new(Shared::new(target.clone(), "bench".into(), timing, silent))
}

/// Every slot by every node and command; panics where two differ.
async fn audit(shared: &Arc<Shared>) {
    let case = cases::find("SLOT-04").unwrap();
    let view = Context::new(shared.clone(), case).view().await.unwrap();
    let mut reference: Option<Vec<Option<Cow<'_, str>>>> = None;
    for node in &view.nodes {
        for map in [
            shown(node.owners().unwrap()),
            node.owners_by_slots().unwrap(),
            shown(node.owners_by_shards().unwrap()),
        ] {
            assert!(map.iter().all(Option::is_some));
            assert_eq!(*reference.get_or_insert_with(|| map.clone()), map);
        }
    }
    assert_eq!(view.disagreements(), Vec::<String>::new());
}

fn shown(owners: Vec<Option<&str>>) -> Vec<Option<Cow<'_, str>>> {
    owners.into_iter().map(|owner| owner.map(Cow::from)).collect()
}

/// The most memory that this process has taken, in KiB.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.trim_start_matches("VmHWM:").trim().to_owned()
}

fn main() {
    let masters: usize = std::env::var("RCC_BENCH_MASTERS").map_or(30, |count| count.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut request = Request::new(TargetKind::Processes, new_run_id());
    request.masters = Some(masters);
    let target = request.target().unwrap();
    let began = Instant::now();
    let prepared = runtime.block_on(target.prepare(&Progress::stderr()));
    eprintln!(
        "{} servers formed a cluster in {:.1} s",
        masters * 2,
        began.elapsed().as_secs_f64()
    );
    let members = runtime.block_on(target.members()).unwrap();
    if prepared.is_ok() {
        let entry = members[0].address.to_string();
        let password = target.password().unwrap();
        let check = || {
            let mut command = Command::new("redis-cli");
            command
                .args(["--cluster", "check", &entry])
                .env("REDISCLI_AUTH", password.expose());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        };
        let mut criterion = Criterion::default().configure_from_args();
        let mut group = criterion.benchmark_group(format!("slot audit of {} nodes", masters * 2));
        group.sample_size(20);
        check();
        let waited_for = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
        runtime.block_on(audit(&shared(&target)));
        group.bench_function("redis-cli --cluster check", |bencher| bencher.iter(check));
        group.bench_function("the suite, connecting first", |bencher| {
            bencher.iter(|| runtime.block_on(audit(&shared(&target))));
        });
        let kept = shared(&target);
        group.bench_function("the suite, connections kept", |bencher| {
            bencher.iter(|| runtime.block_on(audit(&kept)));
        });
        group.finish();
        eprintln!(
            "most memory: redis-cli {} kB, the suite {}",
            waited_for.max_rss(),
            peak()
        );
    }
    runtime.block_on(target.release()).unwrap();
    prepared.unwrap();
}

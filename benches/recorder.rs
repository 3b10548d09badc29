//! The recorder of trials at a rate, against a live cluster of six servers on loopback, which share this machine with it:
//! how many writes a second it does and puts down, how late it is itself, and how long the read-back takes.
//!
//! `cargo bench --bench recorder`; `RCC_BENCH_RATES=20000,60000`, `RCC_BENCH_SECONDS=20`, `RCC_BENCH_WRITERS=1` for others.
//! `RCC_BENCH_LEAST=20000`: fails where a rate of at least this many was not kept.

#![allow(clippy::unwrap_used, reason = "a benchmark: a panic is a failure with a place")]

use redis_cluster_conformance::cases;
use redis_cluster_conformance::cluster::node::Member;
use redis_cluster_conformance::context::{Context, Shared};
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::request::{Request, new_run_id};
use redis_cluster_conformance::target::{Target, TargetKind};
use redis_cluster_conformance::timing::Timing;
use redis_cluster_conformance::workload::{Fate, Ledger, Load, Loaded, Rate};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A slot of every shard, and every node with a slot of its own.
async fn places(cx: &Context) -> (Vec<u16>, Vec<(Member, u16)>) {
    let view = cx.view().await.unwrap();
    let slot = |id: &str| view.by_id(id).unwrap().myself().unwrap().slots[0].first;
    let slots = view
        .masters()
        .map(|master| slot(&master.myself().unwrap().id))
        .collect();
    let nodes = view.nodes.iter().map(|node| {
        let line = node.myself().unwrap();
        (node.member.clone(), slot(line.master.as_ref().unwrap_or(&line.id)))
    });
    (slots, nodes.collect())
}

/// The milliseconds from due to done that so many of a hundred writes did not exceed.
fn percentiles(loaded: &Loaded) -> String {
    let all = ledgers(loaded).flat_map(|ledger| &ledger.writes);
    let mut times: Vec<Duration> = all.map(|write| write.at.saturating_duration_since(write.due)).collect();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    format!("{:.1} / {:.1} / {:.1} ms", at(0.5), at(0.99), at(1.0))
}

fn ledgers(loaded: &Loaded) -> impl Iterator<Item = &Ledger> {
    loaded
        .clients
        .iter()
        .chain(loaded.by_node.iter().map(|(_, ledger)| ledger))
}

fn memory(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

async fn one(cx: &Context, rate: Rate, seconds: u32) -> f64 {
    let (slots, nodes) = places(cx).await;
    let load = Load::start(cx, rate, &slots, &nodes).await.unwrap();
    tokio::time::sleep(Duration::from_secs(seconds.into())).await;
    let loaded = load.stop().await;
    let lasted = (loaded.ended - loaded.began).as_secs_f64();
    let count = |wanted: fn(&Fate) -> bool| {
        let writes = ledgers(&loaded).flat_map(|ledger| &ledger.writes);
        writes.filter(|write| wanted(&write.fate)).count()
    };
    let acked = count(|fate| *fate == Fate::Acked);
    let refused = count(|fate| matches!(fate, Fate::Refused(_)));
    let done = (acked + refused) as f64 / lasted;
    eprintln!("{:>9.0} operations/s done and put down, {lasted:.1} s", done);
    eprintln!(
        "          {acked} acknowledged, {refused} refused (by replicas), {} not sent, {} of unknown fate",
        count(|fate| matches!(fate, Fate::Unsent(_))),
        count(|fate| matches!(fate, Fate::Indeterminate(_)))
    );
    eprintln!(
        "          from due to done (median / 99 % / longest): {}; sent at most {:.1} ms late",
        percentiles(&loaded),
        loaded.latest.as_secs_f64() * 1000.0
    );
    eprintln!("          memory with all of it: {}", memory("VmRSS"));
    let began = Instant::now();
    let mut read = 0;
    for ledger in ledgers(&loaded) {
        let there = ledger.read(cx).await.unwrap();
        let acked: Vec<u64> = ledger.acked().map(|write| write.number).collect();
        assert_eq!(
            there, acked,
            "{}: what was acknowledged, and nothing else, in order",
            ledger.key
        );
        read += there.len();
    }
    eprintln!(
        "          {read} numbers read back in {:.2} s",
        began.elapsed().as_secs_f64()
    );
    cx.remove_keys(&Load::keys(cx, rate, &slots, &nodes)).await.unwrap();
    done
}

fn main() {
    // `cargo test --benches` and `cargo bench --bench recorder -- --test` only see that it builds.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let rates = std::env::var("RCC_BENCH_RATES").unwrap_or_else(|_| "1000,20000,60000".into());
    let rates: Vec<NonZeroU32> = rates.split(',').map(|rate| rate.parse().unwrap()).collect();
    let seconds = number("RCC_BENCH_SECONDS", 20);
    let writers = NonZeroU16::new(number("RCC_BENCH_WRITERS", 1).try_into().unwrap()).unwrap();
    let least = f64::from(number("RCC_BENCH_LEAST", 0));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let target: Arc<dyn Target> = Request::new(TargetKind::Processes, new_run_id()).target().unwrap();
    let prepared = runtime.block_on(target.prepare(&Progress::stderr()));
    let mut kept = true;
    if prepared.is_ok() {
        let timing = Timing::new(Duration::from_secs(5));
        let silent = Progress::silent();
        let shared = Arc::new(Shared::new(target.clone(), "bench".into(), timing, silent));
        let cx = Context::new(shared, cases::find("FAIL-01").unwrap());
        for rate in rates {
            eprintln!("{rate} writes/s due, {writers} writer(s) for each of 3 shards and 6 nodes");
            let rate = Rate {
                operations: Some(rate),
                writers,
            };
            let done = runtime.block_on(one(&cx, rate, seconds));
            kept &= f64::from(rate.operations.unwrap().get()) < least || done >= least;
        }
    }
    runtime.block_on(target.release()).unwrap();
    prepared.unwrap();
    assert!(kept, "a rate of at least {least} was not kept");
}

//! Trials over servers on loopback: what they measure, and that a deployment that loses acknowledged writes is caught.

use redis_cluster_conformance::cases;
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::report::scorecard::{Figure, Trial};
use redis_cluster_conformance::report::{Run, json, terminal};
use redis_cluster_conformance::runner::{self, Options};
use redis_cluster_conformance::surroundings;
use redis_cluster_conformance::target::processes::{ProcessesOptions, ProcessesTarget};
use redis_cluster_conformance::target::{Secret, TargetKind};
use redis_cluster_conformance::timing::Timing;
use redis_cluster_conformance::trials::{TrialFault, Trials};
use redis_cluster_conformance::workload::Rate;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

/// A short node-timeout, as in the controls.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);
const REDIS_CONF: &str = "cluster-enabled yes\ncluster-node-timeout 1000\nrepl-diskless-sync-delay 0\n\
                          cluster-allow-replica-migration no\nprotected-mode no\n";

/// One trial over six servers.
async fn trial(name: &str, fault: TrialFault, persistence: &str, rate: Rate) -> Run {
    let missing = surroundings::missing_for(TargetKind::Processes).await;
    assert_eq!(missing, None, "a test that did not run has proved nothing");
    let run_id = format!("trials-{name}-{}", std::process::id());
    let redis_conf = format!("{REDIS_CONF}{persistence}\n");
    let target = ProcessesTarget::new(ProcessesOptions {
        password: Some(Secret::new("trials")),
        ..ProcessesOptions::new(redis_conf, "a test", &run_id, Timing::new(NODE_TIMEOUT))
    });
    let options = Options {
        cases: cases::all().filter(|case| case.id.0 == "OPS-16").collect(),
        run_id,
        trials: Some(Trials { fault, count: 1, rate }),
        ..Options::default()
    };
    runner::run(
        Arc::new(target),
        &options,
        &Progress::silent(),
        std::future::pending(),
        &|_| {},
    )
    .await
}

fn only(run: &Run) -> &Trial {
    let card = run.scorecard.as_ref().expect("a run with trials has a scorecard");
    assert_eq!(run.aborted, None);
    assert_eq!(card.trials.len(), 1);
    &card.trials[0]
}

#[tokio::test]
async fn a_killed_master_is_replaced_and_every_instant_is_there() {
    let run = trial("kill", TrialFault::Kill, "appendonly yes", Rate::default()).await;
    let trial = only(&run);
    assert_eq!(trial.problem, None);
    let missing: Vec<Figure> = Figure::ALL
        .into_iter()
        // Kubernetes alone says what is ready.
        .filter(|figure| *figure != Figure::ReadyAndRefusing && !trial.figures.contains_key(figure))
        .collect();
    assert_eq!(missing, [], "{trial:?}");
    let figure = |figure| trial.figures[&figure];
    // What comes of the other cannot come first.
    assert!(figure(Figure::Suspected) <= figure(Figure::Failed));
    assert!(figure(Figure::Promoted) <= figure(Figure::FirstWrite) + trial.coarsest_look);
    assert!(figure(Figure::FirstWrite) <= figure(Figure::Whole));
    assert_eq!(trial.returned_as.as_deref(), Some("replica"));
    assert_ne!(trial.master.as_deref(), Some(trial.victim.as_str()));
    assert!(trial.phantom.is_empty(), "{:?}", trial.phantom);
}

/// At a rate that its own answers do not slow down, nothing is lost of the accounts: the writes that fell due while the
/// master was gone are there too, each told apart.
#[tokio::test]
async fn a_rate_is_kept_through_a_failover_and_every_write_is_accounted_for() {
    let rate = Rate {
        operations: NonZeroU32::new(3000),
        writers: NonZeroU16::new(2).unwrap(),
    };
    let run = trial("rate", TrialFault::Kill, "appendonly yes", rate).await;
    let trial = only(&run);
    assert_eq!(trial.problem, None);
    assert!(trial.phantom.is_empty(), "{:?}", trial.phantom);
    assert_eq!(trial.strange, Vec::<String>::new());
    assert_eq!(trial.lost, []);
    // From before the fault until all was whole: so many seconds of them at least.
    let all = (trial.acked + trial.refused + trial.indeterminate) as f64;
    assert!(all >= 3000.0 * trial.figures[&Figure::Whole], "{all} writes: {trial:?}");
    // The master's own writer, and the clients', had some on their way when it was killed, or were refused a connection.
    assert!(trial.refused > 0 && trial.acked > 0, "{trial:?}");
    assert_eq!(run.scorecard.unwrap().rate, Some(3000));
}

/// A master that keeps nothing and is back before anybody notices wipes its replica (catalogue §4.8).
#[tokio::test]
async fn a_deployment_that_loses_acknowledged_writes_is_caught_with_the_writes() {
    let run = trial("lossy", TrialFault::Crash, "appendonly no\nsave \"\"", Rate::default()).await;
    let trial = only(&run);
    assert!(!trial.lost.is_empty(), "{trial:?}");
    assert!(trial.lost.iter().all(|lost| lost.since_fault < 1.0), "{:?}", trial.lost);
    // Each by the name of its key, with shard, epoch and time: in the report for people, and in run.json.
    let first = &trial.lost[0];
    assert!(first.what.contains(" of rcc:"), "{first:?}");
    for lost in &trial.lost {
        assert_eq!(lost.shard.as_deref(), Some(trial.victim.as_str()), "{lost:?}");
        assert!(lost.epoch.is_some_and(|epoch| epoch > 0), "{lost:?}");
    }
    let people = terminal::render(&run, false, None, None);
    let told = people.lines().find(|line| line.contains("trial 1: lost: "));
    let told = told.unwrap_or_else(|| panic!("no lost write in: {people}"));
    let epoch = format!(" at epoch {} ", first.epoch.unwrap_or_default());
    for part in [
        first.what.as_str(),
        trial.victim.as_str(),
        &epoch,
        " s before the fault",
    ] {
        assert!(told.contains(part), "{part:?} is not in: {told}");
    }
    let json = json::render(&run).expect("a report");
    for part in [&first.what, "sinceFault", "epoch", "shard"] {
        assert!(json.contains(part), "{part} is not in run.json");
    }
}

//! Deployments of other shapes than three masters with a replica each, as servers on loopback: what can be judged there is.

#![allow(clippy::unwrap_used, reason = "a test: a panic is a failure with a place")]

use redis_cluster_conformance::cases;
use redis_cluster_conformance::cluster::view::Shape;
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::report::Run;
use redis_cluster_conformance::runner::{self, Options};
use redis_cluster_conformance::surroundings;
use redis_cluster_conformance::target::processes::{ProcessesOptions, ProcessesTarget};
use redis_cluster_conformance::target::{Secret, TargetKind};
use redis_cluster_conformance::timing::Timing;
use redis_cluster_conformance::verdict::VerdictName;
use std::sync::Arc;
use std::time::Duration;

/// Judges servers of a shape by these cases.
async fn judged(masters: usize, replicas_per_master: usize, ids: &[&str]) -> Run {
    let missing = surroundings::missing_for(TargetKind::Processes).await;
    assert_eq!(missing, None, "a test that did not run has proved nothing");
    let run_id = format!("shapes-{masters}-{replicas_per_master}-{}", std::process::id());
    let redis_conf = "cluster-enabled yes\ncluster-node-timeout 2000\nrepl-diskless-sync-delay 0\n\
                      cluster-allow-replica-migration no\nprotected-mode no\nappendonly yes\n";
    let timing = Timing::new(Duration::from_secs(2));
    let target = ProcessesTarget::new(ProcessesOptions {
        password: Some(Secret::new("shapes")),
        shape: Shape {
            masters,
            replicas_per_master,
        },
        ..ProcessesOptions::new(redis_conf, "a test", &run_id, timing)
    });
    let options = Options {
        cases: cases::all().filter(|case| ids.contains(&case.id.0)).collect(),
        run_id,
        ..Options::default()
    };
    let silent = Progress::silent();
    let run = runner::run(Arc::new(target), &options, &silent, std::future::pending(), &|_| {}).await;
    assert_eq!(run.aborted, None);
    assert_eq!(run.cases.len(), ids.len());
    run
}

/// A master that comes back has its keys and its place, whether a replica could have taken it or not.
#[tokio::test]
async fn a_master_without_a_replica_must_keep_its_keys_and_its_place() {
    let run = judged(3, 0, &["PERS-02", "PERS-03", "FAIL-01"]).await;
    let verdicts: Vec<(&str, VerdictName)> = run.cases.iter().map(|case| (&*case.id, case.verdict)).collect();
    let expected = [
        ("FAIL-01", VerdictName::Unsupported),
        ("PERS-02", VerdictName::Pass),
        ("PERS-03", VerdictName::Pass),
    ];
    for verdict in expected {
        assert!(
            verdicts.contains(&verdict),
            "{verdict:?} is not in {verdicts:?}: {:?}",
            run.cases
        );
    }
}

//! The timeline of a disruptive case that passed, over servers on loopback: fault, suspicion, failure and promotion, each by
//! the word of who saw it, in their order.

#![allow(clippy::unwrap_used, reason = "a test: a panic is a failure with a place")]

use redis_cluster_conformance::cases;
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::runner::{self, Options};
use redis_cluster_conformance::surroundings;
use redis_cluster_conformance::target::processes::{ProcessesOptions, ProcessesTarget};
use redis_cluster_conformance::target::{Secret, TargetKind};
use redis_cluster_conformance::timing::Timing;
use redis_cluster_conformance::verdict::VerdictName;
use std::sync::Arc;
use std::time::Duration;

const PASSWORD: &str = "a-password-of-the-timeline";

/// The first entry, from a place on, by one of these that has the text; its place.
fn find(entries: &[serde_json::Value], from: usize, by: impl Fn(&str) -> bool, text: &str) -> usize {
    let found = entries[from..].iter().position(|entry| {
        let field = |name: &str| entry[name].as_str().unwrap();
        by(field("source")) && field("what").contains(text)
    });
    let shown: Vec<String> = entries.iter().map(ToString::to_string).collect();
    from + found.unwrap_or_else(|| panic!("no \"{text}\" from entry {from} on in\n{}", shown.join("\n")))
}

#[tokio::test]
async fn a_failover_stands_in_the_timeline_in_its_order() {
    let missing = surroundings::missing_for(TargetKind::Processes).await;
    assert_eq!(missing, None, "a test that did not run has proved nothing");
    let run_id = format!("timeline-{}", std::process::id());
    let redis_conf = "cluster-enabled yes\ncluster-node-timeout 2000\nrepl-diskless-sync-delay 0\n\
                      cluster-allow-replica-migration no\nprotected-mode no\nappendonly yes\n";
    let timing = Timing::new(Duration::from_secs(2));
    let target = ProcessesTarget::new(ProcessesOptions {
        password: Some(Secret::new(PASSWORD)),
        ..ProcessesOptions::new(redis_conf, "a test", &run_id, timing)
    });
    let out = tempfile::tempdir().unwrap();
    let options = Options {
        cases: cases::all()
            .filter(|case| ["FAIL-02", "FAIL-09"].contains(&case.id.0))
            .collect(),
        out: Some(out.path().to_owned()),
        run_id,
        ..Options::default()
    };
    let silent = Progress::silent();
    let run = runner::run(Arc::new(target), &options, &silent, std::future::pending(), &|_| {}).await;
    assert_eq!(run.aborted, None);
    let [first, second] = &run.cases[..] else {
        panic!("{:?}", run.cases);
    };
    assert_eq!(
        (first.verdict, &first.evidence),
        (VerdictName::Pass, &None),
        "{first:?}"
    );
    assert_eq!(first.timeline.as_deref(), Some("evidence/FAIL-02/timeline.txt"));

    let read = |name: &str| std::fs::read_to_string(out.path().join("evidence").join(name)).unwrap();
    let (text, json) = (read("FAIL-02/timeline.txt"), read("FAIL-02/timeline.json"));
    assert!(!text.contains(PASSWORD) && !json.contains(PASSWORD), "{text}");
    let entries: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(text.lines().count(), entries.len() + 1, "{text}");
    let at = |place: usize| entries[place]["at"].as_i64().unwrap();
    assert!((1..entries.len()).all(|place| at(place - 1) <= at(place)), "{text}");

    let node = |source: &str| !["suite", "workload", "kubernetes"].contains(&source);
    let fault = find(&entries, 0, |by| by == "suite", "is to be ");
    // PFAIL may be over before the next look, FAIL lasts.
    let suspected = find(&entries, fault, node, "flags ");
    let failed = find(&entries, suspected, node, "fail (FAIL)");
    let promoted = find(&entries, suspected, node, "is a master");
    let gap = find(&entries, 0, |by| by == "workload", "the last acknowledged write");
    find(&entries, suspected, |by| by == "workload", "is acknowledged again");
    let undone = find(&entries, suspected, |by| by == "suite", "faults are undone");
    find(&entries, undone, |by| by == "suite", "is a synchronised replica");
    // Nobody can be found to have failed, and nobody be elected, before the node-timeout has passed.
    assert!(
        [suspected, failed, promoted]
            .iter()
            .all(|place| at(*place) - at(fault) >= 2000),
        "{text}"
    );
    assert!(at(gap) < at(suspected), "{text}");

    // Judged by the same failover: it is said where that stands.
    assert_eq!(second.timeline.as_deref(), Some("evidence/FAIL-09/timeline.txt"));
    let told = read("FAIL-09/timeline.txt");
    assert!(
        told.contains("which FAIL-02 observed: evidence/FAIL-02/timeline.txt"),
        "{told}"
    );
}

use super::*;
use rstest::rstest;
use serde_json::{Value, json};

fn pod(name: &str, status: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
}

fn event(kind: &str, name: &str, reason: &str, message: &str, count: i32) -> Event {
    serde_json::from_value(
        json!({"metadata": {"name": reason}, "involvedObject": {"kind": kind, "name": name},
        "reason": reason, "message": message, "type": "Warning", "count": count}),
    )
    .unwrap()
}

fn ready(name: &str) -> Pod {
    pod(
        name,
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
    )
}

fn container(state: Value, restarts: i32) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{"name": "redis", "image": "x:1", "imageID": "", "ready": false,
        "restartCount": restarts, "state": state}]})
}

/// Assesses now and after `later` seconds of the same.
fn after(pods: &[Pod], events: &[Event], later: u64) -> Assessment {
    let mut watchman = Watchman::default();
    let pods: Vec<&Pod> = pods.iter().collect();
    let events: Vec<&Event> = events.iter().collect();
    let now = Instant::now();
    watchman.assess(6, &pods, &events, now);
    watchman.assess(6, &pods, &events, now + Duration::from_secs(later))
}

fn doom(assessment: Assessment) -> String {
    match assessment {
        Assessment::Doomed(cause) => cause.text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn six_ready_pods_are_a_deployment() {
    let pods: Vec<Pod> = (0..6).map(|n| ready(&format!("r-{n}"))).collect();
    assert_eq!(after(&pods, &[], 0), Assessment::Ready);
    let Assessment::Waiting(text) = after(&pods[..5], &[], 900) else {
        panic!()
    };
    assert_eq!(text, "5 of 6 pods Ready; the next is not made yet");
}

#[test]
fn a_pod_that_is_being_made_is_waited_for() {
    let made = pod("r-0", container(json!({"waiting": {"reason": "ContainerCreating"}}), 0));
    let Assessment::Waiting(text) = after(&[made], &[], 900) else {
        panic!()
    };
    assert_eq!(text, "0 of 6 pods Ready; r-0 is Pending, ContainerCreating");
}

#[rstest]
#[case("ErrImagePull", 9)]
#[case("ImagePullBackOff", 9)]
#[case("ErrImageNeverPull", 2)]
fn an_image_that_cannot_be_pulled_is_told_with_the_event_s_message(#[case] reason: &str, #[case] later: u64) {
    let pods = [pod(
        "r-0",
        container(json!({"waiting": {"reason": reason, "message": "Back-off"}}), 0),
    )];
    let events = [event(
        "Pod",
        "r-0",
        "Failed",
        "Failed to pull image \"x:1\": not found",
        1,
    )];
    let text = doom(after(&pods, &events, later));
    assert!(
        text.starts_with(&format!(
            "pod r-0: the image x:1 cannot be had: {reason}: Failed to pull image"
        )),
        "{text}"
    );
    assert!(matches!(after(&pods, &events, 0), Assessment::Waiting(_)));
}

#[test]
fn too_little_processor_time_is_told_after_its_grace() {
    let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}]});
    let pods = [pod("r-5", status)];
    let text = doom(after(&pods, &[], 11));
    assert!(
        text.starts_with("pod r-5 stays Pending, Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."),
        "{text}"
    );
    assert!(matches!(after(&pods, &[], 9), Assessment::Waiting(_)));
}

#[test]
fn a_volume_that_nothing_fills_comes_before_the_pod_that_waits_for_it() {
    let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "pod has unbound immediate PersistentVolumeClaims"}]});
    let events = [event(
        "PersistentVolumeClaim",
        "data-r-0",
        "ProvisioningFailed",
        "storageclass.storage.k8s.io \"x\" not found",
        3,
    )];
    let waits = with(pod("r-0", status), &[("/spec", claims(&["data-r-0"]))]);
    assert_eq!(
        doom(after(&[waits], &events, 60)),
        "volume claim data-r-0 stays Pending: ProvisioningFailed: storageclass.storage.k8s.io \"x\" not found"
    );
}

/// A pod with more in it, each at its place.
fn with(pod: Pod, more: &[(&str, Value)]) -> Pod {
    let mut whole = serde_json::to_value(pod).unwrap();
    for (place, value) in more {
        let (outer, name) = place.rsplit_once('/').unwrap();
        whole.pointer_mut(outer).unwrap()[name] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn claims(names: &[&str]) -> Value {
    let volumes = names
        .iter()
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    json!({"containers": [], "volumes": volumes.collect::<Vec<_>>()})
}

fn of_a_job() -> (&'static str, Value) {
    let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "join", "uid": "j"});
    ("/metadata/ownerReferences", json!([owner]))
}

#[rstest]
#[case::waits(&[], "2026-11-27T12:00:00Z", true)]
#[case::told_before_the_pod_was_made(&[], "2026-11-27T11:59:59Z", false)]
#[case::placed(&[("/spec/nodeName", json!("node-1"))], "2026-11-27T12:00:09Z", false)]
#[case::waits_for_another(&[("/spec", claims(&["data-r-1"]))], "2026-11-27T12:00:09Z", false)]
#[case::waits_for_several(&[("/spec", claims(&["logs", "data-r-0"]))], "2026-11-27T12:00:09Z", true)]
#[case::of_a_job(&[of_a_job()], "2026-11-27T12:00:09Z", false)]
fn a_claim_counts_while_a_server_waits_for_it(
    #[case] more: &[(&str, Value)],
    #[case] last: &str,
    #[case] is_doomed: bool,
) {
    let mut events = [event(
        "PersistentVolumeClaim",
        "data-r-0",
        "ProvisioningFailed",
        "no class",
        1,
    )];
    events[0].last_timestamp = serde_json::from_value(json!(last)).unwrap();
    let own = [
        ("/metadata/creationTimestamp", json!("2026-11-27T12:00:00Z")),
        ("/spec", claims(&["data-r-0"])),
    ];
    let waits = with(with(pod("r-0", json!({"phase": "Pending"})), &own), more);
    let found = after(&[waits], &events, 60);
    assert_eq!(matches!(found, Assessment::Doomed(_)), is_doomed, "{found:?}");
}

#[rstest]
#[case::of_this_pod(Some("now"), true)]
#[case::of_one_before(Some("before"), false)]
#[case::of_nobody_knows_which(None, false)]
fn events_of_another_pod_of_the_same_name_do_not_count(
    #[case] uid: Option<&str>,
    #[case] is_doomed: bool,
    #[values("FailedPostStartHook", "FailedMount", "FailedCreatePodSandBox")] reason: &str,
) {
    let status = container(json!({"waiting": {"reason": "ContainerCreating"}}), 0);
    let made = with(pod("r-0", status), &[("/metadata/uid", json!("now"))]);
    let mut events = [event("Pod", "r-0", reason, "it failed", 9)];
    events[0].involved_object.uid = uid.map(str::to_owned);
    let found = after(&[made], &events, 60);
    assert_eq!(matches!(found, Assessment::Doomed(_)), is_doomed, "{found:?}");
}

#[rstest]
#[case::backs_off(json!({"waiting": {"reason": "CrashLoopBackOff"}}), 2, true)]
#[case::ended(json!({"terminated": {"exitCode": 1}}), 2, true)]
#[case::runs(json!({"running": {}}), 2, false)]
#[case::is_made(json!({"waiting": {"reason": "ContainerCreating"}}), 2, false)]
#[case::once(json!({"terminated": {"exitCode": 1}}), 1, false)]
fn a_crash_counts_while_it_goes_on_and_only_a_server_s(
    #[case] state: Value,
    #[case] restarts: i32,
    #[case] is_doomed: bool,
) {
    let crashed = pod("r-0", container(state, restarts));
    let joins = with(crashed.clone(), &[of_a_job()]);
    for (crashed, is_doomed) in [(crashed, is_doomed), (joins, false)] {
        let found = after(&[crashed], &[], 60);
        assert_eq!(matches!(found, Assessment::Doomed(_)), is_doomed, "{found:?}");
    }
}

#[test]
fn a_job_s_pod_is_not_what_is_waited_for_but_counts_where_it_cannot_start() {
    let done = with(pod("join", json!({"phase": "Succeeded"})), &[of_a_job()]);
    let next = pod("r-0", json!({"phase": "Pending"}));
    let found = after(&[done, next], &[], 60);
    assert_eq!(
        found,
        Assessment::Waiting("0 of 6 pods Ready; r-0 is Pending".to_owned())
    );
    let bad = container(json!({"waiting": {"reason": "CreateContainerConfigError"}}), 0);
    let joins = with(pod("join", bad), &[of_a_job()]);
    assert_eq!(doom(after(&[joins], &[], 60)), "pod join: CreateContainerConfigError");
}

#[test]
fn a_hook_may_fail_once_or_twice_but_not_more() {
    let pods = |restarts| {
        [pod(
            "r-5",
            container(json!({"waiting": {"reason": "PostStartHookError"}}), restarts),
        )]
    };
    let events = |count| {
        [event(
            "Pod",
            "r-5",
            "FailedPostStartHook",
            "exited with 1: NOAUTH",
            count,
        )]
    };
    assert!(matches!(after(&pods(0), &events(1), 900), Assessment::Waiting(_)));
    let text = doom(after(&pods(2), &events(2), 0));
    assert!(
        text.contains("its postStart hook fails") && text.contains("NOAUTH"),
        "{text}"
    );
    assert!(doom(after(&pods(0), &events(3), 0)).contains("started again 2 times"));
}

#[test]
fn a_container_that_ends_again_and_again_is_told_with_its_exit_code() {
    let mut status = container(json!({"waiting": {"reason": "CrashLoopBackOff"}}), 2);
    status["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
    let text = doom(after(&[pod("r-0", status)], &[], 0));
    assert_eq!(
        text,
        "pod r-0: its container redis has ended 2 times, the last time with Error: exit code 1"
    );
}

#[test]
fn a_pod_that_may_not_be_made_is_told() {
    let events = [event(
        "StatefulSet",
        "r",
        "FailedCreate",
        "create Pod r-0 in StatefulSet r failed error: forbidden: exceeded quota",
        9,
    )];
    assert!(doom(after(&[], &events, 11)).contains("exceeded quota"));
}

#[test]
fn a_cause_that_goes_away_starts_again() {
    let mut watchman = Watchman::default();
    let bad = pod("r-0", container(json!({"waiting": {"reason": "ErrImagePull"}}), 0));
    let good = pod("r-0", container(json!({"waiting": {"reason": "ContainerCreating"}}), 0));
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    for (pod, second) in [(&bad, 0), (&good, 7), (&bad, 8), (&bad, 15)] {
        assert!(matches!(
            watchman.assess(6, &[pod], &[], at(second)),
            Assessment::Waiting(_)
        ));
    }
    assert!(matches!(
        watchman.assess(6, &[&bad], &[], at(17)),
        Assessment::Doomed(_)
    ));
}

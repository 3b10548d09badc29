use super::*;
use crate::target::kubernetes::client::reach;
use crate::target::kubernetes::fake_api::FakeApi;
use serde_json::json;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/redis-cluster-conformance";

/// An API server, and a client of it.
async fn cluster() -> (FakeApi, Client) {
    let (api, folder) = (FakeApi::start().await, tempfile::tempdir().unwrap());
    let kubeconfig = api.kubeconfig(folder.path());
    let client = reach(Some(&kubeconfig), None).await.unwrap().client;
    (api, client)
}

fn turn(client: &Client, run: &str) -> Turn {
    Turn::new(client, "shop", run)
}

fn holder(api: &FakeApi) -> Option<String> {
    Some(api.get(PATH)?["spec"]["holderIdentity"].as_str()?.to_owned())
}

#[tokio::test]
async fn a_run_is_refused_while_another_goes_on_and_let_in_after_it() {
    let (api, client) = cluster().await;
    let (one, other) = (turn(&client, "one"), turn(&client, "Other"));
    assert!(one.take(&Progress::silent()).await.unwrap());
    let error = other.take(&Progress::silent()).await.unwrap_err();
    let says = "run one goes on in namespace shop";
    assert!(
        matches!(&error, TargetError::Surroundings(text) if text.starts_with(says)),
        "{error}"
    );
    other.end().await.unwrap();
    assert_eq!(
        holder(&api).as_deref(),
        Some("one"),
        "whoever was refused gives nothing back"
    );
    one.end().await.unwrap();
    assert_eq!(api.paths(), Vec::<String>::new());
    assert!(other.take(&Progress::silent()).await.unwrap());
    assert_eq!(holder(&api).as_deref(), Some("other"));
    other.end().await.unwrap();
    assert_eq!(api.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn the_lease_of_a_killed_run_is_taken_once_it_is_known_to_have_ended() {
    let (api, client) = cluster().await;
    let killed = turn(&client, "killed");
    assert!(killed.take(&Progress::silent()).await.unwrap());
    drop(killed);
    let (next, started) = (turn(&client, "next"), Instant::now());
    assert!(next.take(&Progress::silent()).await.unwrap());
    assert!(started.elapsed() >= LASTS, "it could not be known before");
    assert_eq!(holder(&api).as_deref(), Some("next"));
    let label = &api.get(PATH).unwrap()["metadata"]["labels"][RUN_LABEL];
    assert_eq!(label, "next");
    next.end().await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_run_that_gives_its_lease_back_is_let_in_at_once() {
    let (_api, client) = cluster().await;
    let (one, other) = (turn(&client, "one"), turn(&client, "other"));
    assert!(one.take(&Progress::silent()).await.unwrap());
    // It ends, as if it was about to when the other looked.
    *lock(&one.renewing) = None;
    let silent = Progress::silent();
    let (ended, taken) = tokio::join!(one.end(), other.take(&silent));
    ended.unwrap();
    assert!(taken.unwrap());
    other.end().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_was_taken_over_is_told_and_left() {
    let (api, client) = cluster().await;
    let one = turn(&client, "one");
    assert!(one.take(&Progress::silent()).await.unwrap());
    let mut lease = api.get(PATH).unwrap();
    lease["spec"]["holderIdentity"] = "other".into();
    api.put(PATH, lease);
    tokio::time::sleep(3 * RENEWED).await;
    let told = one.lost().unwrap();
    assert!(told.starts_with("run other took Lease"), "{told}");
    one.end().await.unwrap();
    assert_eq!(holder(&api).as_deref(), Some("other"));
}

#[tokio::test]
async fn a_lease_that_somebody_deletes_is_made_again() {
    let (api, client) = cluster().await;
    let one = turn(&client, "one");
    assert!(one.take(&Progress::silent()).await.unwrap());
    one.api.delete(LEASE, &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(4 * RENEWED).await;
    assert_eq!((holder(&api).as_deref(), one.lost()), (Some("one"), None));
    one.end().await.unwrap();
    assert_eq!(api.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn who_may_make_no_lease_goes_on_without() {
    for forbidden in ["GET", "POST"] {
        let (api, client) = cluster().await;
        api.forbid(&format!("{forbidden} /apis/coordination.k8s.io/"));
        let one = turn(&client, "one");
        assert!(!one.take(&Progress::silent()).await.unwrap(), "{forbidden}");
        one.end().await.unwrap();
        assert_eq!(api.paths(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn who_may_only_look_is_refused_beside_a_run_all_the_same() {
    let (api, client) = cluster().await;
    let one = turn(&client, "one");
    assert!(one.take(&Progress::silent()).await.unwrap());
    api.forbid("POST /apis/coordination.k8s.io/");
    let other = turn(&client, "other");
    assert!(other.take(&Progress::silent()).await.is_err());
    one.end().await.unwrap();
}

#[tokio::test]
async fn the_runs_that_go_on_are_those_that_renew_their_leases_in_whatever_namespace() {
    let (api, client) = cluster().await;
    let lives = Turn::new(&client, "elsewhere", "lives");
    assert!(lives.take(&Progress::silent()).await.unwrap());
    let dead = json!({"metadata": {"name": LEASE, "namespace": "shop"},
        "spec": {"holderIdentity": "dead", "renewTime": "2026-11-28T00:00:00.000000Z"}});
    api.put(PATH, dead);
    let runs: BTreeSet<String> = ["lives", "dead", "never-had-one"].map(str::to_owned).into();
    let found = living(&client, &runs, &Progress::silent()).await.unwrap();
    assert_eq!(found, BTreeSet::from(["lives".to_owned()]));
    let (started, only) = (Instant::now(), BTreeSet::from(["lives".to_owned()]));
    assert_eq!(living(&client, &only, &Progress::silent()).await.unwrap(), only);
    assert!(started.elapsed() < LASTS, "nobody is waited for who is known to go on");
    lives.end().await.unwrap();
}

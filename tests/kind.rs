//! The target `kind` on a real cluster: every fault, every variant, and the errors that a user can cause.
//!
//! Each takes minutes and needs Docker and kind, so they are ignored unless asked for:
//! `RCC_CLUSTER_NAME=kind-test cargo test --test kind -- --ignored --test-threads=1 --nocapture`

#![allow(clippy::unwrap_used, reason = "a test")]

use redis_cluster_conformance::cluster::connection::{Address, Connection, LinkError};
use redis_cluster_conformance::cluster::node::Member;
use redis_cluster_conformance::manifest::{Manifest, Parameters};
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::target::descriptor::Descriptor;
use redis_cluster_conformance::target::kind::{KindOptions, KindTarget, Layout, down, kubeconfig, up};
use redis_cluster_conformance::target::kubernetes::{Disposition, KubernetesOptions, KubernetesTarget};
use redis_cluster_conformance::target::{Fault, Target, TargetError, Variant};
use redis_cluster_conformance::timing::Timing;
use std::path::Path;
use std::time::{Duration, Instant};

const REPLY: Duration = Duration::from_secs(5);

fn timing() -> Timing {
    Timing::new(Duration::from_secs(5))
}

fn target(run: &str, parameters: Parameters) -> KindTarget {
    target_of(run, parameters, Descriptor::canonical().unwrap())
}

fn target_of(run: &str, parameters: Parameters, descriptor: Descriptor) -> KindTarget {
    KindTarget::new(KindOptions {
        descriptor,
        parameters,
        upgrade_to: None,
        layout: Layout::default(),
        keep: false,
        run_id: run.to_owned(),
        timing: timing(),
    })
    .unwrap()
}

async fn ask(target: &dyn Target, member: &Member, command: &[&str]) -> Result<String, LinkError> {
    let stream = target.connect(&member.address).await?;
    let mut connection = Connection::new(stream, member.address.clone(), REPLY);
    if let Some(password) = target.password() {
        connection.ask(&["AUTH", password.expose()]).await?;
    }
    Ok(connection.call(command).await?.to_string())
}

/// Waits until every one of six members says that the cluster is well.
async fn await_ok(target: &dyn Target, progress: &Progress, what: &str) {
    let started = Instant::now();
    let bound = Duration::from_secs(120);
    loop {
        let members = target.members().await.unwrap();
        let mut seen = Vec::new();
        for member in &members {
            let state = ask(target, member, &["CLUSTER", "INFO"]).await;
            seen.push(state.is_ok_and(|info| info.contains("cluster_state:ok")));
        }
        if seen.len() == 6 && seen.iter().all(|ok| *ok) {
            progress.line(format!("{what}: whole after {:.1} s", started.elapsed().as_secs_f64()));
            return;
        }
        assert!(started.elapsed() < bound, "{what}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes a kind cluster"]
async fn the_canonical_deployment_comes_up_breaks_and_goes() {
    let progress = Progress::stderr();
    let target = target("live", Parameters::default());
    let outcome = drive(&target, &progress).await;
    let evidence = std::env::temp_dir().join("rcc-kind-test-evidence");
    target.collect_evidence(&evidence).await;
    let password = target.password().unwrap();
    let released = Instant::now();
    target.release().await.unwrap();
    progress.line(format!("release: {:.1} s", released.elapsed().as_secs_f64()));
    outcome.unwrap();
    assert_ne!(password.expose(), "change-me", "the run makes up a password of its own");
    for file in std::fs::read_dir(&evidence).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains(password.expose()), "the password is in the evidence");
    }
}

async fn drive(target: &dyn Target, progress: &Progress) -> Result<(), TargetError> {
    for phase in target.prepare(progress).await? {
        progress.line(format!("phase {}: {:.1} s", phase.name, phase.seconds));
    }
    progress.line(format!("{:?}", target.capabilities()));
    await_ok(target, progress, "formed").await;
    let members = target.members().await?;
    for member in &members {
        let started = Instant::now();
        let reply = ask(target, member, &["PING"]).await?;
        progress.line(format!("{member}: {reply} in {} ms", started.elapsed().as_millis()));
    }
    let refused = target
        .connect(&Address::new(members[0].address.host.clone(), 6380))
        .await;
    progress.line(format!("closed port: {:?}", refused.err()));
    let nobody = target.connect(&Address::new("10.244.9.9", 6379)).await;
    progress.line(format!("no pod: {:?}", nobody.err()));

    let at = target.dial(&members[1].address).await?;
    let stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let mut connection = Connection::new(Box::new(stream), members[1].address.clone(), REPLY);
    progress.line(format!("dial {at}: {}", connection.call(&["PING"]).await?));
    assert_eq!(target.dial(&members[1].address).await?, at);

    let deployment = target.deployment().unwrap();
    progress.line(format!("replicas {:?}", deployment.replicas().await?));
    let log = deployment.bootstrap_log().await?;
    progress.line(format!(
        "bootstrap log ends: {}",
        log.lines().last().unwrap_or_default()
    ));
    let done = deployment
        .exec(
            "redis-cluster-0",
            &["sh", "-c", "echo out; echo err >&2; exit 7"],
            REPLY,
        )
        .await?;
    assert_eq!(
        (done.stdout.as_str(), done.stderr.as_str(), done.status),
        ("out\n", "err\n", 7)
    );
    assert_eq!(deployment.exec("redis-cluster-0", &["true"], REPLY).await?.status, 0);
    let slow = deployment
        .exec("redis-cluster-0", &["sleep", "9"], Duration::from_secs(1))
        .await;
    progress.line(format!("slow command: {}", slow.unwrap_err()));
    let started = Instant::now();
    deployment
        .restart_container(
            "redis-cluster-1",
            &deployment.server_container(),
            Duration::from_secs(60),
        )
        .await?;
    progress.line(format!("restart_container: {:.1} s", started.elapsed().as_secs_f64()));
    await_ok(target, progress, "after restart_container").await;

    for fault in [
        Fault::Restart,
        Fault::Restart,
        Fault::Restart,
        Fault::Crash,
        Fault::Pause,
        Fault::KeepAway,
    ] {
        let members = target.members().await?;
        let started = Instant::now();
        target.inject(fault, &members[2]).await?;
        progress.line(format!(
            "{fault:?} of {}: {:.2} s",
            members[2],
            started.elapsed().as_secs_f64()
        ));
        if fault == Fault::KeepAway {
            tokio::time::sleep(Duration::from_secs(12)).await;
            let left: Vec<String> = target.members().await?.iter().map(ToString::to_string).collect();
            assert_eq!(left.len(), 5, "{left:?}");
        }
        if fault == Fault::Pause {
            let frozen = ask(target, &members[2], &["PING"]).await;
            progress.line(format!("frozen: {frozen:?}"));
            assert!(frozen.is_err());
        }
        if fault == Fault::Crash {
            let started = Instant::now();
            let first = ask(target, &members[2], &["PING"]).await;
            progress.line(format!(
                "after the crash: {first:?} after {} ms",
                started.elapsed().as_millis()
            ));
        }
        let started = Instant::now();
        target.undo_faults().await?;
        progress.line(format!("undone in {:.2} s", started.elapsed().as_secs_f64()));
        await_ok(target, progress, &format!("after {fault:?}")).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes a kind cluster"]
async fn every_variant_can_be_made_beside_the_deployment() {
    let progress = Progress::stderr();
    let target = target("variants", Parameters::default());
    let outcome = variants(&target, &progress).await;
    target.release().await.unwrap();
    outcome.unwrap();
}

async fn variants(target: &dyn Target, progress: &Progress) -> Result<(), TargetError> {
    target.prepare(progress).await?;
    let deployment = target.deployment().unwrap();
    assert_eq!(deployment.variants().len(), 13);
    for variant in [
        Variant::BlockedBus,
        Variant::WrongBootstrapPassword,
        Variant::SilentPeer,
        Variant::ExtraSearchDomain,
    ] {
        let started = Instant::now();
        let copy = deployment.deploy_variant(variant).await?;
        let mut log = String::new();
        while started.elapsed() < Duration::from_secs(200) {
            log = copy.deployment().bootstrap_log().await.unwrap_or_default();
            if log.contains("ok......") || log.contains("FAILED") {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let end: Vec<&str> = log.lines().rev().take(3).collect();
        progress.line(format!(
            "{variant:?} after {:.0} s: {end:?}",
            started.elapsed().as_secs_f64()
        ));
        let started = Instant::now();
        copy.remove().await?;
        progress.line(format!("removed in {:.0} s", started.elapsed().as_secs_f64()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes a kind cluster"]
async fn what_cannot_come_up_is_told_at_once_and_leaves_nothing() {
    let progress = Progress::stderr();
    let with = |change: fn(&mut Parameters)| {
        let mut parameters = Parameters::default();
        change(&mut parameters);
        parameters
    };
    let cases = [
        (
            "image",
            with(|p| p.image = Some("localhost:1/nope:1".into())),
            "cannot be had",
        ),
        ("class", with(|p| p.storage_class = Some("nope".into())), "storageclass"),
        ("cpu", with(|p| p.cpu_request = Some("200m".into())), "Insufficient cpu"),
    ];
    for (name, parameters, expected) in cases {
        let target = target(name, parameters);
        let started = Instant::now();
        let error = target.prepare(&progress).await.unwrap_err();
        progress.line(format!(
            "{name} after {:.0} s: {error}",
            started.elapsed().as_secs_f64()
        ));
        let started = Instant::now();
        let released = target.release().await;
        progress.line(format!("release: {:.1} s", started.elapsed().as_secs_f64()));
        assert!(
            matches!(&error, TargetError::NotDeployed(text) if text.contains(expected)),
            "{error}"
        );
        released.unwrap();
    }
    for (context, expected) in [(Some("nope"), "does not exist in"), (None, "does not exist: make it")] {
        let target = KubernetesTarget::new(KubernetesOptions {
            descriptor: Descriptor::canonical().unwrap(),
            parameters: Parameters::default(),
            upgrade_to: None,
            kubeconfig: Some(kubeconfig().unwrap()),
            context: context.map(str::to_owned),
            in_cluster: false,
            namespace: Some("nowhere".to_owned()),
            disposition: Disposition::Attach,
            keep: false,
            run_id: "x".to_owned(),
            timing: timing(),
        })
        .unwrap();
        let error = target.prepare(&progress).await.unwrap_err().to_string();
        progress.line(&error);
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes a kind cluster"]
async fn the_published_manifest_leaves_servers_that_can_be_judged() {
    let progress = Progress::stderr();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/targets/as-published.yaml");
    let target = target_of("published", Parameters::default(), Descriptor::read(&file).unwrap());
    let prepared = target.prepare(&progress).await;
    let log = match target.deployment() {
        Some(deployment) => deployment.bootstrap_log().await.unwrap_or_default(),
        None => String::new(),
    };
    progress.line(format!("{prepared:?}\n{}", target.password().unwrap().redact(&log)));
    let members = target.members().await.unwrap_or_default();
    target.release().await.unwrap();
    prepared.unwrap();
    assert_eq!(members.len(), 6);
}

fn on_kubernetes(run: &str, disposition: Disposition) -> KubernetesTarget {
    kept_or_not(run, disposition, false)
}

fn kept_or_not(run: &str, disposition: Disposition, keep: bool) -> KubernetesTarget {
    KubernetesTarget::new(KubernetesOptions {
        descriptor: Descriptor::canonical().unwrap(),
        parameters: Parameters::default(),
        upgrade_to: None,
        kubeconfig: Some(kubeconfig().unwrap()),
        context: None,
        in_cluster: false,
        namespace: Some("default".to_owned()),
        disposition,
        keep,
        run_id: run.to_owned(),
        timing: timing(),
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the kind cluster that up makes, with the image loaded"]
async fn a_namespace_that_is_there_is_applied_to_attached_to_and_left() {
    let progress = Progress::stderr();
    let applied = on_kubernetes("apply", Disposition::Apply);
    let outcome = applied.prepare(&progress).await;
    progress.line(format!("{:?} {:?}", outcome, applied.capabilities()));

    for beside in [Disposition::Attach, Disposition::Apply] {
        let beside = on_kubernetes("beside", beside);
        let error = beside.prepare(&progress).await.unwrap_err();
        progress.line(error.to_string());
        assert!(
            matches!(&error, TargetError::Surroundings(text) if text.contains("run apply goes on")),
            "{error}"
        );
        beside.release().await.unwrap();
    }
    assert_eq!(applied.members().await.unwrap().len(), 6);
    let started = Instant::now();
    applied.release().await.unwrap();
    progress.line(format!("release: {:.1} s", started.elapsed().as_secs_f64()));
    outcome.unwrap();
    let gone = on_kubernetes("gone", Disposition::Attach);
    progress.line(gone.prepare(&progress).await.unwrap_err().to_string());
    gone.release().await.unwrap();

    let kept = kept_or_not("kept", Disposition::Apply, true);
    let outcome = kept.prepare(&progress).await;
    kept.release().await.unwrap();
    let attached = on_kubernetes("attach", Disposition::Attach);
    let phases = attached.prepare(&progress).await.unwrap();
    progress.line(format!("{phases:?} {:?}", attached.capabilities()));
    assert!(!attached.is_ours() && attached.password() == kept.password());
    assert_eq!(attached.members().await.unwrap().len(), 6);
    attached.release().await.unwrap();

    let other = on_kubernetes("other", Disposition::Apply);
    let error = other.prepare(&progress).await.unwrap_err();
    progress.line(error.to_string());
    assert!(matches!(error, TargetError::Usage(_)));
    other.release().await.unwrap();
    assert_eq!(kept.members().await.unwrap().len(), 6);
    remove_deployment(kept.manifest().unwrap()).await;
    outcome.unwrap();
}

/// Removes what was kept, as its user would with `kubectl delete -f` and the volume claims.
async fn remove_deployment(manifest: &Manifest) {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
    use kube::core::{ApiResource, GroupVersionKind};
    let config = kube::config::Kubeconfig::read_from(kubeconfig().unwrap()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default())
        .await
        .unwrap();
    let client = kube::Client::try_from(config).unwrap();
    for document in manifest
        .documents
        .iter()
        .filter(|document| document.kind() != "Namespace")
    {
        let (group, version) = document
            .api_version()
            .split_once('/')
            .unwrap_or(("", document.api_version()));
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, document.kind()));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind);
        let _ = api.delete(document.name(), &DeleteParams::background()).await;
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client, "default");
    claims
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .unwrap();
}

/// By itself, this leaves a cluster for the others to take.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes a kind cluster"]
async fn up_makes_a_cluster_that_stays() {
    let progress = Progress::stderr();
    let first = up(Layout::default(), &progress).await.unwrap();
    let started = Instant::now();
    assert_eq!(up(Layout::default(), &progress).await.unwrap(), first);
    progress.line(format!("taken in {:.1} s", started.elapsed().as_secs_f64()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "deletes a kind cluster"]
async fn down_deletes_it() {
    down(&Progress::stderr()).await.unwrap();
    assert!(!down(&Progress::stderr()).await.unwrap());
}

#[tokio::test]
async fn an_api_server_that_is_not_there_is_told_with_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n\
                clusters: [{name: k, cluster: {server: \"http://127.0.0.1:1\"}}]\nusers: [{name: u, user: {}}]\n";
    std::fs::write(&kubeconfig, text).unwrap();
    let options = KubernetesOptions {
        descriptor: Descriptor::canonical().unwrap(),
        parameters: Parameters::default(),
        upgrade_to: None,
        kubeconfig: Some(kubeconfig),
        context: None,
        in_cluster: false,
        namespace: None,
        disposition: Disposition::Apply,
        keep: false,
        run_id: "x".to_owned(),
        timing: timing(),
    };
    let target = KubernetesTarget::new(options.clone()).unwrap();
    let error = target.prepare(&Progress::silent()).await.unwrap_err();
    assert!(matches!(error, TargetError::Surroundings(_)));
    assert!(
        error.to_string().contains("127.0.0.1:1") && error.to_string().contains("refused"),
        "{error}"
    );
    target.release().await.unwrap();

    let other = KubernetesOptions {
        context: Some("d".to_owned()),
        in_cluster: false,
        ..options.clone()
    };
    let error = KubernetesTarget::new(other)
        .unwrap()
        .prepare(&Progress::silent())
        .await
        .unwrap_err();
    assert!(matches!(error, TargetError::Usage(_)));
    assert!(error.to_string().ends_with("there are: c"), "{error}");

    let nowhere = KubernetesOptions {
        kubeconfig: Some(folder.path().join("none")),
        ..options
    };
    let error = KubernetesTarget::new(nowhere)
        .unwrap()
        .prepare(&Progress::silent())
        .await
        .unwrap_err();
    assert!(matches!(error, TargetError::Usage(_)), "{error}");
}

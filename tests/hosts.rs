//! The target `kind` with several nodes: the network between them, volumes that stay, and a host that is drained, frozen or
//! started again.
//!
//! It takes minutes and needs Docker and kind, so it is ignored unless asked for:
//! `RCC_CLUSTER_NAME=kind-hosts cargo test --test hosts -- --ignored --nocapture`

#![allow(clippy::unwrap_used, reason = "a test")]

use redis_cluster_conformance::case::Capability;
use redis_cluster_conformance::cluster::connection::{Connection, LinkError};
use redis_cluster_conformance::cluster::node::Member;
use redis_cluster_conformance::manifest::Parameters;
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::target::descriptor::Descriptor;
use redis_cluster_conformance::target::kind::{KindOptions, KindTarget, Layout};
use redis_cluster_conformance::target::{Target, TargetError, Upheaval};
use redis_cluster_conformance::timing::Timing;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const REPLY: Duration = Duration::from_secs(5);

async fn ask(target: &dyn Target, member: &Member, command: &[&str]) -> Result<String, LinkError> {
    let stream = target.connect(&member.address).await?;
    let mut connection = Connection::new(stream, member.address.clone(), REPLY);
    if let Some(password) = target.password() {
        connection.ask(&["AUTH", password.expose()]).await?;
    }
    Ok(connection.call(command).await?.to_string())
}

async fn is_ok(target: &dyn Target, member: &Member) -> bool {
    let state = tokio::time::timeout(REPLY, ask(target, member, &["CLUSTER", "INFO"])).await;
    matches!(state, Ok(Ok(info)) if info.contains("cluster_state:ok"))
}

/// Waits until so many servers say that the cluster is well.
async fn await_ok(target: &dyn Target, progress: &Progress, count: usize, what: &str) {
    let started = Instant::now();
    loop {
        let members = target.members().await.unwrap();
        let looks = members.iter().map(|member| is_ok(target, member));
        let seen = futures::future::join_all(looks).await;
        if seen.iter().filter(|ok| **ok).count() >= count {
            progress.line(format!(
                "{what}: {count} well after {:.1} s",
                started.elapsed().as_secs_f64()
            ));
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(180),
            "{what}: {members:?} {seen:?}"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// The host and the volumes of every pod.
async fn places(target: &dyn Target) -> BTreeMap<String, (String, Vec<String>)> {
    let deployment = target.deployment().unwrap();
    let claims = deployment.claims().await.unwrap();
    let pods = deployment.pods().await.unwrap();
    let volumes = |names: &[String]| {
        let own = claims.iter().filter(|claim| names.contains(&claim.name));
        own.filter_map(|claim| claim.volume.clone()).collect()
    };
    pods.into_iter()
        .map(|pod| (pod.name, (pod.host.unwrap_or_default(), volumes(&pod.claims))))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes a kind cluster of four nodes"]
async fn hosts_are_drained_frozen_and_started_again() {
    let progress = Progress::stderr();
    let target = KindTarget::new(KindOptions {
        descriptor: Descriptor::canonical().unwrap(),
        parameters: Parameters::default(),
        upgrade_to: None,
        layout: Layout {
            nodes: Some(4),
            ip_family: None,
        },
        keep: false,
        run_id: "hosts".to_owned(),
        timing: Timing::new(Duration::from_secs(5)),
    })
    .unwrap();
    let outcome = drive(&target, &progress).await;
    target.release().await.unwrap();
    outcome.unwrap();
}

async fn drive(target: &dyn Target, progress: &Progress) -> Result<(), TargetError> {
    target.prepare(progress).await?;
    await_ok(target, progress, 6, "formed").await;
    assert!(
        target
            .capabilities()
            .is_superset(&BTreeSet::from([Capability::Drain, Capability::LoseHost]))
    );
    let before = places(target).await;
    progress.line(format!("{before:?}"));
    let hosts: BTreeSet<&String> = before.values().map(|(host, _)| host).collect();
    assert!(hosts.len() > 1, "the scheduler has put all pods on one host");
    sources_are_kept(target).await?;

    let host = before["redis-cluster-0"].0.clone();
    let there = before.values().filter(|(of, _)| *of == host).count();
    let upheavals = [
        // What the budget lets go at once is the platform's to say.
        (Upheaval::Drain(host.clone()), 6 - there),
        (Upheaval::FreezeHost(host.clone()), 6 - there),
        (Upheaval::RestartHost(host.clone()), 6),
    ];
    for (upheaval, left) in upheavals {
        let started = Instant::now();
        target.upheave(&upheaval).await?;
        progress.line(format!("{upheaval}: {:.1} s", started.elapsed().as_secs_f64()));
        await_ok(target, progress, left, "meanwhile").await;
        let started = Instant::now();
        target.undo_faults().await?;
        progress.line(format!("undone: {:.1} s", started.elapsed().as_secs_f64()));
        await_ok(target, progress, 6, "after it").await;
        assert_eq!(places(target).await, before, "every pod is where its volume is");
        let hosts = target.deployment().unwrap().hosts().await?;
        assert_eq!(hosts.iter().filter(|host| host.schedulable).count(), 3, "{hosts:?}");
    }
    Ok(())
}

/// Servers see each other's own addresses, and not those of hosts: nothing translates them.
async fn sources_are_kept(target: &dyn Target) -> Result<(), TargetError> {
    let members = target.members().await?;
    let mut seen = 0;
    for member in &members {
        for line in ask(target, member, &["CLIENT", "LIST", "TYPE", "replica"])
            .await?
            .lines()
        {
            let Some((_, rest)) = line.split_once(" addr=") else {
                continue;
            };
            let from = rest.split(':').next().unwrap_or_default();
            assert!(
                members.iter().any(|other| other.address.host == from),
                "{member}: {line}"
            );
            seen += 1;
        }
    }
    assert_eq!(seen, 3, "three replicas");
    Ok(())
}

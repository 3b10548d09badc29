//! What is gathered, with a target that knows a secret and tells it.

use super::*;
use crate::case::Capability;
use crate::cluster::connection::{Address, BoxedStream, LinkError};
use crate::cluster::node::{Member, Role};
use crate::cluster::view::Shape;
use crate::progress::Progress;
use crate::target::{Fault, Phase, TargetDescription, TargetKind};
use crate::verdict::Mismatch;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const PASSWORD: &str = "hunter2";

struct Talkative;

#[async_trait]
impl Target for Talkative {
    fn description(&self) -> TargetDescription {
        TargetDescription {
            kind: TargetKind::Addresses,
            descriptor: [].into(),
            shape: Shape {
                masters: 1,
                replicas_per_master: 0,
            },
        }
    }
    fn capabilities(&self) -> BTreeSet<Capability> {
        [].into()
    }
    fn is_ours(&self) -> bool {
        false
    }
    async fn prepare(&self, _: &Progress) -> Result<Vec<Phase>, TargetError> {
        Ok(vec![])
    }
    fn password(&self) -> Option<Secret> {
        Some(Secret::new(PASSWORD))
    }
    async fn members(&self) -> Result<Vec<Member>, TargetError> {
        Ok(vec![])
    }
    async fn connect(&self, address: &Address) -> Result<BoxedStream, LinkError> {
        Err(silence(address))
    }
    async fn dial(&self, address: &Address) -> Result<SocketAddr, LinkError> {
        Err(silence(address))
    }
    async fn inject(&self, _: Fault, _: &Member) -> Result<(), TargetError> {
        Ok(())
    }
    async fn undo_faults(&self) -> Result<(), TargetError> {
        Ok(())
    }
    async fn collect_evidence(&self, folder: &Path) {
        std::fs::create_dir_all(folder.join("logs")).unwrap();
        std::fs::write(folder.join("logs/pod.txt"), b"\xff requirepass \"hunter2\"").unwrap();
    }
    async fn release(&self) -> Result<(), TargetError> {
        Ok(())
    }
}

fn silence(address: &Address) -> LinkError {
    LinkError::Refused {
        address: address.clone(),
        reason: "Connection refused".into(),
    }
}

fn member(name: &str) -> Member {
    Member {
        name: name.into(),
        address: Address::new("10.0.0.1", 6379),
    }
}

fn view() -> ClusterView {
    let node = NodeView {
        member: member("127.0.0.1:7000"),
        raw: [
            ("CLUSTER NODES", "nodes, hunter2".to_owned()),
            ("ROLE", "[master]".to_owned()),
        ]
        .into(),
        info: [].into(),
        nodes: vec![],
        slots: vec![],
        shards: Ok(vec![]),
        role: Role::Master {
            offset: 0,
            replicas: vec![],
        },
        replication: [].into(),
    };
    let away = member("../away");
    ClusterView {
        nodes: vec![node],
        silent: vec![(away.clone(), silence(&away.address))],
    }
}

fn told(what: &str) -> Told {
    Told {
        began: "2026-01-02T03:04:05Z".parse().unwrap(),
        entries: vec![Entry {
            at: 1500,
            source: timeline::Source::Suite,
            what: what.into(),
        }],
    }
}

fn files(folder: &Path) -> Vec<(String, String)> {
    let (mut found, mut folders) = (vec![], vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.push((
                    name,
                    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned(),
                ));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn gathers_everything_but_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let verdict = Verdict::Fail(Mismatch::new("+OK", "-ERR hunter2\n-ERR other"));
    let told = told("CONFIG SET requirepass hunter2");
    let subject = Subject {
        id: "AUTH-01",
        title: "a title",
        requirement: "A node MUST.",
        verdict: &verdict,
        cause: Some("the cause"),
        timeline: &told,
    };
    let place = folder.path().join("evidence/AUTH-01");
    assert!(gather(&Talkative, Some(&view()), &place, &subject).await);
    let files = files(folder.path());
    let names: Vec<&str> = files
        .iter()
        .map(|(name, _)| name.trim_start_matches("evidence/AUTH-01/"))
        .collect();
    assert_eq!(
        names,
        [
            "case.txt",
            "logs/pod.txt",
            "nodes/.._away/error.txt",
            "nodes/127.0.0.1_7000/cluster-nodes.txt",
            "nodes/127.0.0.1_7000/role.txt",
            "not-whole.txt",
            "timeline.json",
            "timeline.txt",
        ]
    );
    for (name, text) in &files {
        assert!(!text.contains(PASSWORD), "{name}: {text}");
    }
    let case = &files[0].1;
    for part in [
        "AUTH-01  a title",
        "A node MUST.",
        "+OK",
        "-ERR <password>\n-ERR other",
        "the cause",
    ] {
        assert!(case.contains(part), "{case}");
    }
}

#[tokio::test]
async fn says_what_it_could_not_gather() {
    let folder = tempfile::tempdir().unwrap();
    let verdict = Verdict::Error("broke".into());
    let subject = Subject {
        id: "AUTH-01",
        title: "",
        requirement: "",
        verdict: &verdict,
        cause: None,
        timeline: &told("nothing"),
    };
    // A folder stands where a file belongs.
    std::fs::create_dir_all(folder.path().join("timeline.txt")).unwrap();
    assert!(gather(&Talkative, None, folder.path(), &subject).await);
    let text = std::fs::read_to_string(folder.path().join(ERRORS)).unwrap();
    assert!(
        text.contains("the nodes could not be asked") && text.contains("timeline.txt: "),
        "{text}"
    );

    let taken = folder.path().join("file");
    std::fs::write(&taken, "").unwrap();
    assert!(!gather(&Talkative, None, &taken.join("AUTH-01"), &subject).await);
}

#[test]
fn a_case_that_passed_keeps_its_timeline_alone() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("evidence/FAIL-01");
    assert!(keep_timeline(&Talkative, &place, &told("hunter2 was killed")));
    let files = files(folder.path());
    let [(json, objects), (text, lines)] = &files[..] else {
        panic!("{files:?}");
    };
    assert_eq!(
        (json.as_str(), text.as_str()),
        ("evidence/FAIL-01/timeline.json", "evidence/FAIL-01/timeline.txt")
    );
    assert!(lines.ends_with("    1.500  suite  <password> was killed\n"), "{lines}");
    assert!(
        objects.contains("<password> was killed") && !objects.contains(PASSWORD),
        "{objects}"
    );

    let taken = folder.path().join("file");
    std::fs::write(&taken, "").unwrap();
    assert!(!keep_timeline(&Talkative, &taken.join("FAIL-01"), &told("nothing")));
}

#[tokio::test]
async fn has_no_hints_without_kubernetes() {
    let hints = hints(&Talkative).await;
    assert!(hints.pods.is_empty() && hints.bootstrap_log.is_none());
}

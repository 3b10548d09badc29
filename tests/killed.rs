//! Runs that are killed (SIGKILL) in the middle of each kind of fault: the next run over the target leaves nothing of them, no
//! server, frozen or not, no container, namespace or rule.
//!
//! The suite that is killed is this program once more; [`TOLD`] tells it so. Where a target cannot be made because the machine
//! lacks something, its trials are ignored with the reason, never passed. Those on kind take minutes:
//! `cargo test --test killed -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test")]

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use redis_cluster_conformance::cluster::view::Shape;
use redis_cluster_conformance::manifest::Parameters;
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::surroundings;
use redis_cluster_conformance::target::descriptor::Descriptor;
use redis_cluster_conformance::target::docker::{DEFAULT_IMAGE, DockerOptions, DockerTarget};
use redis_cluster_conformance::target::kind::{KindOptions, KindTarget, Layout, cluster_name, up};
use redis_cluster_conformance::target::processes::{ProcessesOptions, ProcessesTarget};
use redis_cluster_conformance::target::{Cut, Fault, Target, TargetKind, Traffic, Way};
use redis_cluster_conformance::timing::Timing;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// What the suite that is to be killed is told: the number of the row, and the name of its run.
const TOLD: &str = "RCC_TEST_KILLED";

/// What a run is at when it is killed.
#[derive(Clone, Copy, Debug)]
enum At {
    /// A fault that lasts, and has been done.
    Lasting(Fault),
    /// A fault after which the server comes back, done again and again.
    Passing(Fault),
    /// Links that are cut.
    Cut,
}

#[rustfmt::skip]
const TABLE: [(TargetKind, At); 17] = [
    (TargetKind::Processes, At::Passing(Fault::Restart)),
    (TargetKind::Processes, At::Passing(Fault::Crash)),
    (TargetKind::Processes, At::Passing(Fault::NewAddress)),
    (TargetKind::Processes, At::Lasting(Fault::KeepAway)),
    (TargetKind::Processes, At::Lasting(Fault::Kill)),
    (TargetKind::Processes, At::Lasting(Fault::LoseVolume)),
    (TargetKind::Processes, At::Lasting(Fault::Pause)),
    (TargetKind::Processes, At::Cut),
    (TargetKind::Docker, At::Lasting(Fault::KeepAway)),
    (TargetKind::Docker, At::Lasting(Fault::LoseVolume)),
    (TargetKind::Docker, At::Lasting(Fault::Pause)),
    (TargetKind::Docker, At::Lasting(Fault::Disconnect)),
    (TargetKind::Docker, At::Cut),
    (TargetKind::Kind, At::Lasting(Fault::KeepAway)),
    (TargetKind::Kind, At::Lasting(Fault::LoseVolume)),
    (TargetKind::Kind, At::Lasting(Fault::Pause)),
    (TargetKind::Kind, At::Cut),
];

fn main() -> ExitCode {
    if let Ok(told) = std::env::var(TOLD) {
        let (row, run_id) = told.split_once(' ').unwrap();
        let (kind, at) = TABLE[row.parse::<usize>().unwrap()];
        runtime().block_on(be_killed(kind, at, run_id));
        return ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_args();
    // The next run of one would remove what another is about to look at.
    arguments.test_threads = Some(1);
    let missing = |kind| match arguments.list {
        true => None,
        false => runtime().block_on(surroundings::missing_for(kind)),
    };
    let lacking = [TargetKind::Processes, TargetKind::Docker, TargetKind::Kind].map(|kind| (kind, missing(kind)));
    let trials = TABLE.iter().enumerate().map(|(row, &(kind, at))| {
        let lacking = lacking.iter().find(|(of, _)| *of == kind);
        let reason = lacking.and_then(|(_, reason)| reason.clone()).or_else(|| no_cuts(at));
        Trial::ignorable_test(format!("{kind}: {at:?}"), move || match reason {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                nothing_is_left(row, kind);
                Ok::<_, Failed>(Completion::Completed)
            }
        })
        .with_ignored_flag(kind == TargetKind::Kind)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn runtime() -> tokio::runtime::Runtime {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Runtime::new().unwrap()
}

/// Why links are never cut here.
fn no_cuts(at: At) -> Option<String> {
    let listed = || Command::new("iptables").args(["-w", "-n", "-L", "INPUT"]).output();
    match at {
        At::Cut if !listed().is_ok_and(|output| output.status.success()) => {
            Some("this user on this machine cannot use iptables".into())
        }
        At::Cut | At::Lasting(_) | At::Passing(_) => None,
    }
}

/// A target with two servers that have joined nothing; on kind the deployment itself, or one that cannot come up.
fn target(kind: TargetKind, run_id: &str, of_use: bool) -> Box<dyn Target> {
    let redis_conf = "cluster-enabled yes\nappendonly yes\n".to_owned();
    let (source, run_id, timing) = (
        "a test".to_owned(),
        run_id.to_owned(),
        Timing::new(Duration::from_secs(5)),
    );
    let shape = Shape {
        masters: 0,
        replicas_per_master: 0,
    };
    match kind {
        TargetKind::Processes => Box::new(ProcessesTarget::new(ProcessesOptions {
            redis_conf,
            source,
            server: "redis-server".into(),
            password: None,
            shape,
            spare: 2,
            run_id,
            timing,
            keep: false,
            in_memory: false,
            alterations: Vec::new(),
        })),
        TargetKind::Docker => Box::new(DockerTarget::new(DockerOptions {
            redis_conf,
            source,
            image: DEFAULT_IMAGE.into(),
            password: None,
            shape,
            spare: 2,
            run_id,
            timing,
            keep: false,
            alterations: Vec::new(),
        })),
        TargetKind::Kind => Box::new(
            KindTarget::new(KindOptions {
                upgrade_to: None,
                descriptor: Descriptor::canonical().unwrap(),
                parameters: Parameters {
                    image: (!of_use).then(|| "localhost:1/none:1".into()),
                    ..Parameters::default()
                },
                layout: Layout::default(),
                keep: false,
                run_id,
                timing,
            })
            .unwrap(),
        ),
        TargetKind::Kubernetes | TargetKind::Addresses => panic!("{kind} is in no row"),
    }
}

/// Does what the row says, tells when it has begun and when it was done, and waits for its end.
async fn be_killed(kind: TargetKind, at: At, run_id: &str) {
    let target = target(kind, run_id, true);
    target.prepare(&Progress::silent()).await.unwrap();
    say("begun");
    // Whoever should kill it may have been killed too.
    let done = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let members = target.members().await.unwrap();
            match at {
                At::Passing(fault) => {
                    target.inject(fault, &members[0]).await.unwrap();
                    continue;
                }
                At::Lasting(fault) => target.inject(fault, &members[0]).await.unwrap(),
                At::Cut => {
                    let cut = Cut::Between {
                        some: members[..1].to_vec(),
                        others: members[1..].to_vec(),
                        traffic: Traffic::All,
                        way: Way::Both,
                    };
                    target.cut(&[cut]).await.unwrap();
                }
            }
            say("done");
            std::future::pending::<()>().await;
        }
    });
    let _ = done.await;
    target.release().await.unwrap();
}

fn say(word: &str) {
    let mut output = std::io::stdout();
    writeln!(output, "{word}").unwrap();
    output.flush().unwrap();
}

fn nothing_is_left(row: usize, kind: TargetKind) {
    let at = TABLE[row].1;
    if kind == TargetKind::Kind {
        // The cluster is to stay when a run ends.
        runtime().block_on(up(Layout::default(), &Progress::silent())).unwrap();
    }
    let run_id = format!("killed-{row}-{}", std::process::id());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(TOLD, format!("{row} {run_id}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let word = if matches!(at, At::Passing(_)) { "begun" } else { "done" };
    let heard = lines.any(|line| line == word);
    if heard && matches!(at, At::Passing(_)) {
        // Somewhere in the middle of one of them.
        std::thread::sleep(Duration::from_millis(150));
    }
    let chain = chain_of(&run_id);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(heard, "it ended before the fault");
    assert_ne!(
        left(kind, &run_id, &chain),
        Vec::<String>::new(),
        "it had nothing to leave"
    );

    let next = target(kind, &format!("{run_id}-next"), false);
    runtime().block_on(async {
        let prepared = next.prepare(&Progress::silent()).await;
        assert_eq!(prepared.is_ok(), kind != TargetKind::Kind, "{prepared:?}");
        next.release().await.unwrap();
    });
    assert_eq!(left(kind, &run_id, &chain), Vec::<String>::new());
}

fn folder_of(kind: TargetKind, run_id: &str) -> PathBuf {
    let user = std::fs::metadata("/proc/self").unwrap().uid();
    std::env::temp_dir()
        .join(format!("redis-cluster-conformance-{kind}-{user}"))
        .join(run_id)
}

/// The chain of iptables that a run over `processes` has, while it has one.
fn chain_of(run_id: &str) -> Option<String> {
    std::fs::read_to_string(folder_of(TargetKind::Processes, run_id).join("chain")).ok()
}

/// What is there of a run.
fn left(kind: TargetKind, run_id: &str, chain: &Option<String>) -> Vec<String> {
    let folder = folder_of(kind, run_id);
    let mut left = lines_of("iptables", &["-w", "-S"]);
    left.retain(|rule| chain.as_ref().is_some_and(|chain| rule.contains(chain)) || rule.contains("rcc-cut"));
    left.extend(folder.exists().then(|| folder.display().to_string()));
    let label = format!("label=redis-cluster-conformance.run={run_id}");
    match kind {
        TargetKind::Docker => {
            left.extend(lines_of("docker", &["ps", "-aq", "--filter", &label]));
            left.extend(lines_of("docker", &["network", "ls", "-q", "--filter", &label]));
        }
        TargetKind::Kind => {
            let node = format!("{}-control-plane", cluster_name());
            left.extend(lines_of(
                "docker",
                &["exec", &node, "sh", "-c", LEFT_IN_NODE, "sh", run_id],
            ));
        }
        TargetKind::Processes | TargetKind::Kubernetes | TargetKind::Addresses => {
            let processes = std::fs::read_dir("/proc").unwrap().flatten();
            let own = processes
                .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder)));
            left.extend(own.map(|entry| entry.path().display().to_string()));
        }
    }
    left
}

/// Argument: the run. Its namespace, frozen servers, and rules in whichever network namespace of the node.
const LEFT_IN_NODE: &str = r#"
kubectl --kubeconfig /etc/kubernetes/admin.conf get namespaces -o name | grep -e "$1\$"
for status in /proc/[0-9]*/status; do
    grep -qs '^Name:.redis-server' "$status" && grep -s '^State:.T' "$status"
done
iptables -w 5 -S | grep rcc-
for network in /run/netns/*; do
    nsenter --net="$network" iptables -w 5 -S 2>/dev/null | grep rcc-
done
true
"#;

fn lines_of(program: &str, arguments: &[&str]) -> Vec<String> {
    // Where there is no such program, it has made nothing.
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

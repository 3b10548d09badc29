//! The target `docker` on a real daemon: every fault, servers beside it, what killed runs leave, and the errors that a user
//! can cause. Where there is no Docker, or no image of Redis, the trials are ignored with the reason, never passed.

#![allow(clippy::unwrap_used, reason = "a test")]

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use redis_cluster_conformance::cluster::connection::{Address, Connection, LinkError};
use redis_cluster_conformance::cluster::node::Member;
use redis_cluster_conformance::cluster::view::Shape;
use redis_cluster_conformance::progress::Progress;
use redis_cluster_conformance::surroundings;
use redis_cluster_conformance::target::docker::{DEFAULT_IMAGE, DockerOptions, DockerTarget};
use redis_cluster_conformance::target::{Alteration, Fault, Scratch, Secret, Target, TargetError, TargetKind};
use redis_cluster_conformance::timing::Timing;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "it's \"secret\" \\ to all";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials: [(&str, fn()); 6] = [
        (
            "every fault does what it says, and is undone",
            || on_a_runtime(faults()),
        ),
        ("servers beside the deployment are its like", || {
            on_a_runtime(servers_beside())
        }),
        ("a server that ends at once says why", || {
            on_a_runtime(a_server_that_ends())
        }),
        ("an image that is not there is named", || {
            on_a_runtime(images_that_do_not_do())
        }),
        ("an interrupted run leaves nothing", an_interrupted_run),
        ("what a killed run leaves, the next one removes", a_killed_run),
    ];
    let missing = if arguments.list {
        None
    } else {
        runtime().block_on(surroundings::missing_for(TargetKind::Docker))
    };
    let trials = trials.into_iter().map(|(name, test)| {
        let missing = missing.clone();
        Trial::ignorable_test(name, move || match missing {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                test();
                Ok::<_, Failed>(Completion::Completed)
            }
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

fn on_a_runtime(test: impl Future<Output = ()>) {
    runtime().block_on(test);
}

fn options(name: &str, masters: usize) -> DockerOptions {
    DockerOptions {
        redis_conf: "cluster-enabled yes\nappendonly yes\ncluster-node-timeout 5000\nport 1\n".into(),
        source: "a test".into(),
        image: DEFAULT_IMAGE.into(),
        password: Some(Secret::new(PASSWORD)),
        shape: Shape {
            masters,
            replicas_per_master: 0,
        },
        spare: 0,
        run_id: format!("test-{name}-{}", std::process::id()),
        timing: Timing::new(Duration::from_secs(1)),
        keep: false,
        alterations: vec![Alteration::everywhere("cluster-node-timeout 1000")],
    }
}

async fn ask(target: &dyn Target, address: &Address, command: &[&str]) -> Result<String, LinkError> {
    let stream = target.connect(address).await?;
    let mut connection = Connection::new(stream, address.clone(), Duration::from_secs(1));
    if let Some(password) = target.password() {
        connection.ask(&["AUTH", password.expose()]).await?;
    }
    let reply = connection.call(command).await?;
    Ok(reply.text().map_or_else(|| reply.to_string(), str::to_owned))
}

async fn member(target: &dyn Target, index: usize) -> Member {
    target.members().await.unwrap().swap_remove(index)
}

/// Waits until every member says that the cluster is well, and names every member's present address.
async fn well(target: &dyn Target, what: &str) {
    let started = Instant::now();
    loop {
        let members = target.members().await.unwrap();
        let mut wrong = Vec::new();
        for member in &members {
            let info = ask(target, &member.address, &["CLUSTER", "INFO"])
                .await
                .unwrap_or_default();
            let nodes = ask(target, &member.address, &["CLUSTER", "NODES"])
                .await
                .unwrap_or_default();
            let all = members
                .iter()
                .all(|other| nodes.contains(&format!("{}@", other.address)));
            if !info.contains("cluster_state:ok") || !all {
                wrong.push(format!("{member}: {nodes}"));
            }
        }
        if wrong.is_empty() {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{what}: {wrong:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What Docker has of a run: containers and networks.
fn things_of(run_id: &str) -> Vec<String> {
    let filter = format!("label=redis-cluster-conformance.run={run_id}");
    let list = |arguments: &[&str]| {
        let output = Command::new("docker")
            .args(arguments)
            .args(["--filter", &filter])
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut things = list(&["ps", "-aq"]);
    things.extend(list(&["network", "ls", "-q"]));
    things
}

/// Whether a program runs in a container, with these arguments.
fn runs_in(container: &str, program: &str) -> bool {
    let output = Command::new("docker").args(["top", container]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).contains(program)
}

fn folder_of(run_id: &str) -> std::path::PathBuf {
    let user = std::fs::metadata("/proc/self").unwrap().uid();
    std::env::temp_dir()
        .join(format!("redis-cluster-conformance-docker-{user}"))
        .join(run_id)
}

fn nothing_is_left_of(run_id: &str) {
    assert_eq!(things_of(run_id), Vec::<String>::new());
    assert!(!folder_of(run_id).exists());
}

async fn faults() {
    let options = options("faults", 3);
    let run_id = options.run_id.clone();
    let target = DockerTarget::new(options);
    target.prepare(&Progress::silent()).await.unwrap();
    let first = member(&target, 0).await;
    // `{06S}` is in slot 0, the first master's.
    assert_eq!(
        ask(&target, &first.address, &["SET", "{06S}", "kept"]).await.unwrap(),
        "OK"
    );
    let run = |info: String| Some(info.split_once("run_id:")?.1.chars().take(40).collect::<String>());
    let before = run(ask(&target, &first.address, &["INFO", "server"]).await.unwrap());
    assert!(before.is_some());
    let mut last = before;
    for fault in [Fault::Restart, Fault::Crash] {
        // An append-only file is synchronised once a second.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        target.inject(fault, &first).await.unwrap();
        assert_eq!(member(&target, 0).await, first, "{fault:?}: the same address");
        let now = run(ask(&target, &first.address, &["INFO", "server"]).await.unwrap());
        assert_ne!(now, last, "{fault:?}: another server process");
        last = now;
        well(&target, &format!("{fault:?}")).await;
        assert!(
            ask(&target, &first.address, &["GET", "{06S}"])
                .await
                .unwrap()
                .contains("kept")
        );
    }

    for fault in [Fault::Pause, Fault::Disconnect, Fault::KeepAway, Fault::Kill] {
        target.inject(fault, &first).await.unwrap();
        let silent = tokio::time::timeout(Duration::from_secs(5), ask(&target, &first.address, &["PING"])).await;
        assert!(!matches!(silent, Ok(Ok(_))), "{fault:?}: {silent:?}");
        assert!(
            !matches!(silent, Ok(Err(LinkError::Unreachable { .. }))),
            "{fault:?}: {silent:?}"
        );
        let members = target.members().await.unwrap();
        assert_eq!(
            members.contains(&first),
            !matches!(fault, Fault::KeepAway | Fault::Kill),
            "{fault:?}: {members:?}"
        );
        let witness = members.last().unwrap().address.clone();
        let started = Instant::now();
        while !ask(&target, &witness, &["CLUSTER", "INFO"])
            .await
            .unwrap()
            .contains("cluster_state:fail")
        {
            assert!(started.elapsed() < Duration::from_secs(15), "{fault:?} is not seen");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        target.undo_faults().await.unwrap();
        assert_eq!(member(&target, 0).await, first, "{fault:?}: the same address");
        well(&target, &format!("{fault:?}")).await;
    }

    target.inject(Fault::NewAddress, &first).await.unwrap();
    let moved = member(&target, 0).await;
    assert_eq!(moved.name, first.name);
    assert_ne!(moved.address, first.address);
    well(&target, "NewAddress").await;
    assert!(
        ask(&target, &moved.address, &["GET", "{06S}"])
            .await
            .unwrap()
            .contains("kept")
    );
    target.inject(Fault::Restart, &moved).await.unwrap();
    assert_eq!(member(&target, 0).await, moved);
    well(&target, "Restart at the new address").await;

    let evidence = tempfile::tempdir().unwrap();
    target.collect_evidence(evidence.path()).await;
    for (kind, holds) in [
        ("redis.log", "Ready to accept connections"),
        ("inspect.json", "HostConfig"),
        ("nodes.conf", "myself"),
    ] {
        let text = std::fs::read_to_string(evidence.path().join(format!("{}-{kind}", first.name))).unwrap();
        assert!(text.contains(holds), "{kind}: {text}");
        assert!(!text.contains("secret"), "{kind} shows the password");
    }

    target.inject(Fault::LoseVolume, &moved).await.unwrap();
    assert!(!target.members().await.unwrap().contains(&moved));
    target.undo_faults().await.unwrap();
    assert_eq!(member(&target, 0).await, moved);
    let info = ask(&target, &moved.address, &["CLUSTER", "INFO"]).await.unwrap();
    assert!(info.contains("cluster_known_nodes:1"), "LoseVolume: {info}");
    assert_eq!(ask(&target, &moved.address, &["DBSIZE"]).await.unwrap(), ":0");
    target.release().await.unwrap();
    target.release().await.unwrap();
    nothing_is_left_of(&run_id);
}

async fn servers_beside() {
    let options = options("beside", 1);
    let run_id = options.run_id.clone();
    let target = DockerTarget::new(options);
    target.prepare(&Progress::silent()).await.unwrap();
    let wanted = Scratch {
        shape: Shape {
            masters: 1,
            replicas_per_master: 0,
        },
        spare: 1,
        node_timeout: Duration::from_secs(2),
        password: None,
        alterations: vec![Alteration::of(1, "maxclients 77")],
        volume: None,
    };
    let locked = Scratch {
        password: Some(Secret::new("other")),
        ..wanted.clone()
    };
    let (open, other) = tokio::join!(target.scratch(&wanted), target.scratch(&locked));
    let (open, other) = (open.unwrap(), other.unwrap());
    let (one, two) = (Progress::silent(), Progress::silent());
    let (made, also) = tokio::join!(open.prepare(&one), other.prepare(&two));
    made.unwrap();
    also.unwrap();
    let members = open.members().await.unwrap();
    assert_eq!(members.len(), 2);
    let setting = async |index: usize, name: &str| {
        let address = &members[index].address;
        ask(&*open, address, &["CONFIG", "GET", name]).await.unwrap()
    };
    assert!(setting(0, "cluster-node-timeout").await.contains("2000"));
    assert!(setting(1, "maxclients").await.contains("77"));
    assert!(!setting(0, "maxclients").await.contains("77"));
    // The spare server has joined nothing.
    let known = ask(&*open, &members[1].address, &["CLUSTER", "INFO"]).await.unwrap();
    assert!(known.contains("cluster_known_nodes:1"), "{known}");

    let first = member(&*other, 0).await;
    let secret = Secret::new("other");
    let limit = Duration::from_secs(10);
    let said = other
        .exec(&first, &["redis-cli", "GET", "x"], &[("REDISCLI_AUTH", &secret)], limit)
        .await
        .unwrap();
    assert_eq!((said.status, said.stdout.trim()), (0, ""), "{said:?}");
    let said = other
        .exec(&first, &["redis-cli", "GET", "x"], &[], limit)
        .await
        .unwrap();
    assert!(said.stdout.contains("NOAUTH"), "{said:?}");
    let said = other
        .exec(&first, &["sh", "-c", "echo trouble >&2; exit 3"], &[], limit)
        .await
        .unwrap();
    assert_eq!(
        (said.status, said.stdout.as_str(), said.stderr.as_str()),
        (3, "", "trouble\n")
    );
    let late = other
        .exec(&first, &["sh", "-c", "sleep 61; true"], &[], Duration::from_millis(300))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        late.contains("did not end within") && !late.contains("goes on"),
        "{late}"
    );
    let began = Instant::now();
    while runs_in(&first.name, "sleep 61") {
        assert!(began.elapsed() < Duration::from_secs(5), "it goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let folder = other.data_folder(&first).unwrap();
    assert!(
        std::fs::read_to_string(folder.join("nodes.conf"))
            .unwrap()
            .contains("myself")
    );
    std::fs::write(folder.join("from-here"), "seen").unwrap();
    let said = other.exec(&first, &["cat", "from-here"], &[], limit).await.unwrap();
    assert_eq!(said.stdout, "seen");

    // The one that the case forgets goes with the deployment.
    open.release().await.unwrap();
    target.release().await.unwrap();
    for id in [
        run_id.clone(),
        format!("{run_id}-scratch-0"),
        format!("{run_id}-scratch-1"),
    ] {
        nothing_is_left_of(&id);
    }
}

async fn a_server_that_ends() {
    let mut options = options("ends", 1);
    options
        .alterations
        .push(Alteration::everywhere("no-such-directive yes"));
    let run_id = options.run_id.clone();
    let target = DockerTarget::new(options);
    let error = target.prepare(&Progress::silent()).await.unwrap_err();
    let TargetError::NotDeployed(text) = error else {
        panic!("{error}");
    };
    assert!(text.contains("ended at once (exit code 1)"), "{text}");
    assert!(
        text.contains("no-such-directive yes") && text.contains("Bad directive"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    target.release().await.unwrap();
    nothing_is_left_of(&run_id);
}

async fn images_that_do_not_do() {
    let mut options = options("images", 1);
    options.image = "redis-cluster-conformance/redis:0".into();
    let target = DockerTarget::new(options);
    let error = target.prepare(&Progress::silent()).await.unwrap_err();
    assert!(matches!(error, TargetError::Usage(_)), "{error}");
    assert!(error.to_string().contains("`scripts/images` builds those"), "{error}");
    target.release().await.unwrap();
}

/// Starts a run that is long in coming, and returns it with its name as soon as it has containers.
fn started() -> (std::process::Child, String, tempfile::TempDir) {
    use std::io::BufRead;
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("redis-cluster-conformance"))
        .args(["run", "SLOT-01", "--target", "docker", "--out", "o"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines
        .by_ref()
        .find_map(|line| line.ok().filter(|line| line.starts_with("run ")))
        .unwrap();
    // What it says afterwards must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    let run_id = line.strip_prefix("run ").unwrap().split(':').next().unwrap().to_owned();
    let began = Instant::now();
    while things_of(&run_id).len() < 4 {
        assert!(began.elapsed() < Duration::from_secs(60), "{run_id} makes nothing");
        std::thread::sleep(Duration::from_millis(50));
    }
    (child, run_id, folder)
}

fn an_interrupted_run() {
    let (mut child, run_id, _folder) = started();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    nothing_is_left_of(&run_id);
}

fn a_killed_run() {
    let (mut child, run_id, _folder) = started();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!things_of(&run_id).is_empty());
    on_a_runtime(async {
        let next = DockerTarget::new(options("next", 1));
        next.prepare(&Progress::silent()).await.unwrap();
        next.release().await.unwrap();
    });
    nothing_is_left_of(&run_id);
}

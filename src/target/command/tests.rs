use super::*;
use rstest::rstest;
use std::path::PathBuf;

/// A script that is run in a folder of its own, where its log is too.
struct Trial {
    folder: tempfile::TempDir,
    runner: Runner,
}

impl Trial {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            runner: Runner::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn run(&self, script: &str, limit: Duration) -> io::Result<Ended> {
        let arguments = ["-c".to_owned(), script.to_owned()];
        let environment = [("RCC_NAMESPACE", Some(OsStr::new("shop"))), ("HOME", None)];
        let invocation = Invocation {
            program: Path::new("/bin/sh"),
            arguments: &arguments,
            folder: self.folder.path(),
            environment: &environment,
            log: &self.path("log"),
            limit,
        };
        self.runner.run(&invocation).await
    }

    /// The process whose number the script has written into a file.
    async fn pid(&self, name: &str) -> Pid {
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                return Pid::from_raw(pid);
            }
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "the script must write {name}"
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Whether a process runs: one that nobody has waited for does not.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

async fn ends(pid: Pid) {
    let began = Instant::now();
    while runs(pid) {
        assert!(began.elapsed() < Duration::from_secs(20), "process {pid} must end");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

const LONG: Duration = Duration::from_secs(60);

/// What waits for ever, and is no shell's child that is left alone when the shell is killed.
const SLEEPS: &str = "while :; do sleep 0.05; done";

#[tokio::test]
async fn a_command_runs_in_its_folder_with_its_environment_and_no_input() {
    let trial = Trial::new();
    let script = "echo \"$RCC_NAMESPACE ${HOME-unset}\"; pwd; cat; echo why >&2; exit 3";
    let ended = trial.run(script, LONG).await.unwrap();
    assert!(
        matches!(ended, Ended::With(status) if status.code() == Some(3)),
        "{ended:?}"
    );
    let place = trial.folder.path().canonicalize().unwrap();
    assert_eq!(
        last_lines(&trial.path("log")),
        format!("shop unset\n{}\nwhy", place.display())
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(trial.path("log")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_command_that_exceeds_its_bound_is_ended_and_says_so() {
    let trial = Trial::new();
    let script = format!("echo $$ > self; echo begun; {SLEEPS}");
    let limit = Duration::from_secs(1);
    assert_eq!(trial.run(&script, limit).await.unwrap(), Ended::TooLate);
    assert!(!runs(trial.pid("self").await));
    assert_eq!(last_lines(&trial.path("log")), "begun");
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_killed_after_its_grace() {
    let trial = Trial::new();
    let arguments = ["-c".to_owned(), format!("trap '' TERM; echo $$ > self; {SLEEPS}")];
    let group = Group::start(&Invocation {
        program: Path::new("/bin/sh"),
        arguments: &arguments,
        folder: trial.folder.path(),
        environment: &[],
        log: &trial.path("log"),
        limit: LONG,
    })
    .unwrap();
    let pid = trial.pid("self").await;
    let grace = Duration::from_millis(300);
    let began = Instant::now();
    group.end(grace).await;
    assert!(began.elapsed() >= grace, "it ends only by SIGKILL");
    assert!(!runs(pid));
}

#[rstest]
#[case::by_itself("exit 0")]
#[case::by_its_bound("while :; do sleep 0.05; done")]
#[tokio::test]
async fn what_a_command_leaves_in_its_group_ends_with_it(#[case] then: &str) {
    let trial = Trial::new();
    // The grandchild outlives its parent, which does not wait for it.
    let script = format!("sh -c 'exec sleep 1000 & echo $! > grandchild'; {then}");
    trial.run(&script, Duration::from_secs(2)).await.unwrap();
    ends(trial.pid("grandchild").await).await;
}

#[tokio::test]
async fn a_dropped_call_tells_the_group_to_end_and_the_runner_ends_it() {
    let trial = Trial::new();
    let script = format!("trap 'echo told; exit 0' TERM; sleep 1000 & echo $! > grandchild; echo $$ > self; {SLEEPS}");
    let pids = async { (trial.pid("self").await, trial.pid("grandchild").await) };
    let (first, grandchild) = tokio::select! {
        ended = trial.run(&script, LONG) => panic!("it must not end by itself: {ended:?}"),
        pids = pids => pids,
    };
    trial.runner.end().await;
    assert!(!runs(first));
    ends(grandchild).await;
    // The shell may tell of its child's end before.
    let said = last_lines(&trial.path("log"));
    assert!(said.ends_with("told"), "{said}");
}

#[tokio::test]
async fn a_dropped_runner_kills_what_ignores_sigterm() {
    let mut trial = Trial::new();
    let script = format!("trap '' TERM; echo $$ > self; {SLEEPS}");
    let pid = tokio::select! {
        ended = trial.run(&script, LONG) => panic!("it must not end by itself: {ended:?}"),
        pid = trial.pid("self") => pid,
    };
    assert!(runs(pid));
    drop(std::mem::take(&mut trial.runner));
    ends(pid).await;
}

#[tokio::test]
async fn what_a_killed_suite_left_running_is_found_by_its_log() {
    let trial = Trial::new();
    let script = format!("trap '' TERM; echo $$ > self; {SLEEPS}");
    let pid = tokio::select! {
        ended = trial.run(&script, LONG) => panic!("it must not end by itself: {ended:?}"),
        pid = trial.pid("self") => pid,
    };
    kill_left(&trial.path("another-folder"));
    assert!(runs(pid));
    kill_left(trial.folder.path());
    ends(pid).await;
}

#[tokio::test]
async fn the_end_of_much_is_whole_lines() {
    let trial = Trial::new();
    trial.run("seq 30000; printf 'the last'", LONG).await.unwrap();
    let said = last_lines(&trial.path("log"));
    assert_eq!(said.lines().count(), LINES);
    assert!(
        said.starts_with("29987\n") && said.ends_with("30000\nthe last"),
        "{said}"
    );
    assert_eq!(last_lines(&trial.path("nowhere")), "");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let trial = Trial::new();
    let invocation = Invocation {
        program: Path::new("/no/such/program"),
        arguments: &[],
        folder: trial.folder.path(),
        environment: &[],
        log: &trial.path("log"),
        limit: LONG,
    };
    let error = trial.runner.run(&invocation).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

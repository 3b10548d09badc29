use super::marker::MARKER;
use super::*;
use crate::target::Target;
use crate::target::kubernetes::RUN_LABEL;
use crate::target::kubernetes::fake_api::FakeApi;
use crate::target::kubernetes::turn::{LEASE, Turn};
use rstest::rstest;

const REST: &str =
    "version: 1\npods: {app: a}\nworkload: a\ncontainer: redis\nshape: {masters: 3, replicasPerMaster: 1}\n";

/// A folder with a description that has these commands, and a kubeconfig with a secret.
struct Trial {
    folder: tempfile::TempDir,
}

impl Trial {
    fn new(commands: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("shop.yaml"), format!("{REST}{commands}")).unwrap();
        let kubeconfig = "current-context: c\nclusters:\n- name: k\n  cluster: {server: 'https://k:6443'}\nusers:\n\
            - name: u\n  user: {token: top-secret-token}\ncontexts:\n- name: c\n  context: {cluster: k, user: u}\n";
        std::fs::write(folder.path().join("config"), kubeconfig).unwrap();
        Self { folder }
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor::read(&self.folder.path().join("shop.yaml")).unwrap()
    }

    fn find(&self) -> Result<Installation, TargetError> {
        let over = Parameters {
            image: Some("valkey:9".into()),
            ..Parameters::default()
        };
        let parent = self.folder.path().join("runs");
        let found = Installation::of(&self.descriptor(), &over, &parent, "run-1")?;
        Ok(found.expect("the description has commands"))
    }

    fn installation(&self) -> Installation {
        let found = self.find().unwrap();
        let way = Way::of(Some(&self.folder.path().join("config")), "c").unwrap();
        assert!(found.way.set(way).is_ok());
        found
    }
}

#[tokio::test]
async fn the_commands_have_their_cluster_namespace_and_image() {
    let trial = Trial::new(
        "install:\n  command: [sh, -c, 'grep -A9 contexts $KUBECONFIG; echo $RCC_NAMESPACE $RCC_IMAGE; ls']\n\
         remove: {command: [./remove.sh, now]}\n",
    );
    let script = trial.folder.path().join("remove.sh");
    std::fs::write(&script, "#!/bin/sh\necho \"$1 $RCC_NAMESPACE\"\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let installation = trial.installation();
    installation.run(&installation.install, "shop").await.unwrap();
    installation.run(&installation.remove, "shop").await.unwrap();
    let said = installation.said();
    assert_eq!((said[0].0, said[1].0), ("install.log", "remove.log"));
    let words = ["namespace: shop", "current-context: c", "shop valkey:9", "shop.yaml"];
    assert!(words.iter().all(|word| said[0].1.contains(word)), "{}", said[0].1);
    assert_eq!(said[1].1, "now shop\n");
    let place = trial.folder.path().join("shop.yaml");
    assert_eq!(installation.told(), format!("sh ({}:6)", place.display()));
}

#[rstest]
#[case::status("[sh, -c, 'echo cannot pull >&2; exit 7']", "600", &["`sh` ended with exit status: 7",
    "The end of what it said:\n  cannot pull\n", "no verdict", "evidence/target/install.log"])]
#[case::silent("[sh, -c, 'exit 1']", "600", &["ended with exit status: 1. It said nothing."])]
#[case::too_late("[sh, -c, 'echo waits; exec sleep 60']", "1", &["did not end within 1 s", "`seconds`", "  waits\n"])]
#[case::secret("[sh, -c, 'cat $KUBECONFIG; exit 1']", "600", &["token: <password>"])]
#[tokio::test]
async fn a_command_that_fails_is_told_with_its_line_and_its_last_words(
    #[case] command: &str,
    #[case] seconds: &str,
    #[case] words: &[&str],
) {
    let trial = Trial::new(&format!(
        "install:\n  command: {command}\n  seconds: {seconds}\nremove: {{command: ['true']}}\n"
    ));
    let installation = trial.installation();
    let error = installation.run(&installation.install, "shop").await.unwrap_err();
    assert!(matches!(error, TargetError::Surroundings(_)), "{error:?}");
    let text = error.to_string();
    let place = format!("{}:6: install: ", trial.folder.path().join("shop.yaml").display());
    assert!(text.starts_with(&place), "{text}");
    for word in words {
        assert!(text.contains(word), "{word} must be in:\n{text}");
    }
    assert!(
        !text.contains("exit 7"),
        "arguments may hold what is nobody else's: {text}"
    );
    assert!(!text.contains("top-secret-token"), "{text}");
    assert!(!installation.said()[0].1.contains("top-secret-token"));
}

#[rstest]
#[case::install("no-such-program", "'true'", ":6: install: there is no program no-such-program")]
#[case::remove("'true'", "./remove.sh", ":7: remove: there is no program ./remove.sh")]
fn a_program_that_is_not_there_is_known_before_anything_is_made(
    #[case] install: &str,
    #[case] remove: &str,
    #[case] says: &str,
) {
    let trial = Trial::new(&format!(
        "install: {{command: [{install}]}}\nremove: {{command: [{remove}]}}\n"
    ));
    let error = trial.find().map(drop).unwrap_err();
    assert!(matches!(error, TargetError::Surroundings(_)), "{error:?}");
    assert!(error.to_string().contains(says), "{error}");
    assert!(!trial.folder.path().join("runs").exists());
}

#[rstest]
#[case::none(
    "",
    false,
    Parameters::default(),
    "shop.yaml names no manifest to apply, and no command to install"
)]
#[case::inside(
    "install: {command: [a]}\nremove: {command: [b]}\n",
    true,
    Parameters::default(),
    "shop.yaml:6: install: a pod"
)]
#[case::storage(
    "install: {command: [a]}\nremove: {command: [b]}\n", false,
    Parameters { storage_class: Some("fast".into()), ..Parameters::default() },
    "shop.yaml:6: install: storageClass (--storage-class)"
)]
#[case::in_the_file(
    "parameters: {replicas: 6}\ninstall: {command: [a]}\nremove: {command: [b]}\n",
    false,
    Parameters::default(),
    "shop.yaml:7: install: replicas is set"
)]
fn what_no_command_can_do_is_refused(
    #[case] lines: &str,
    #[case] in_cluster: bool,
    #[case] parameters: Parameters,
    #[case] says: &str,
) {
    let options = KubernetesOptions {
        descriptor: Trial::new(lines).descriptor(),
        parameters,
        upgrade_to: None,
        kubeconfig: None,
        context: None,
        in_cluster,
        namespace: None,
        disposition: Disposition::Apply,
        keep: false,
        run_id: "run-1".into(),
        timing: crate::timing::Timing::new(Duration::from_secs(5)),
    };
    let error = KubernetesTarget::new(options).unwrap_err();
    assert!(matches!(error, TargetError::Usage(_)), "{error:?}");
    assert!(error.to_string().contains(says), "{error}");
}

/// A script that notes what is done for which namespace.
const NOTES: &str = "install: {command: [sh, -c, 'echo install $RCC_NAMESPACE >> done; exit 0']}\n\
    remove: {command: [sh, -c, 'echo remove $RCC_NAMESPACE >> done']}\n";

impl Trial {
    /// A run over a fake API server, in a namespace, or one of its own.
    fn target(&self, api: &FakeApi, run: &str, namespace: Option<&str>) -> KubernetesTarget {
        let config = self.folder.path().join("config");
        let written = std::fs::read_to_string(&config)
            .unwrap()
            .replace("https://k:6443", &api.url);
        std::fs::write(&config, written).unwrap();
        let mut timing = crate::timing::Timing::new(Duration::from_secs(5));
        timing = timing.with_overrides([("T_deploy", Duration::from_secs(1))]);
        let mut target = KubernetesTarget::new(KubernetesOptions {
            descriptor: self.descriptor(),
            parameters: Parameters::default(),
            upgrade_to: None,
            kubeconfig: Some(config),
            context: None,
            in_cluster: false,
            namespace: namespace.map(str::to_owned),
            disposition: Disposition::Apply,
            keep: false,
            run_id: run.into(),
            timing,
        })
        .unwrap();
        // Other tests' runs look at folders meanwhile.
        target.folders = self.folder.path().join("runs");
        target
    }

    fn folder_of(&self, run: &str) -> PathBuf {
        self.folder.path().join("runs").join(run)
    }

    fn done(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("done")).unwrap_or_default()
    }
}

fn run_name(what: &str) -> String {
    format!("test-{what}-{}", std::process::id())
}

#[tokio::test]
async fn what_was_installed_is_removed_before_its_namespace_goes() {
    let (trial, api) = (Trial::new(NOTES), FakeApi::start().await);
    let run = run_name("own");
    let target = trial.target(&api, &run, None);
    let error = target.prepare(&Progress::silent()).await.unwrap_err();
    let says = "there is no StatefulSet a in namespace";
    assert!(
        matches!(&error, TargetError::NotDeployed(text) if text.contains(says)),
        "{error}"
    );
    let namespace = format!("/api/v1/namespaces/rcc-{run}");
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/rcc-{run}/leases/{LEASE}");
    assert_eq!(
        api.paths(),
        [namespace.clone(), format!("{namespace}/configmaps/{MARKER}"), lease]
    );
    assert!(trial.folder_of(&run).exists());
    target.release().await.unwrap();
    assert_eq!(trial.done(), format!("install rcc-{run}\nremove rcc-{run}\n"));
    assert_eq!(api.paths(), Vec::<String>::new());
    assert!(!trial.folder_of(&run).exists());
}

#[tokio::test]
async fn a_command_that_fails_is_an_error_of_the_surroundings_and_leaves_nothing() {
    let commands =
        "install: {command: [sh, -c, 'echo no chart; exit 1']}\nremove: {command: [sh, -c, 'echo gone; exit 2']}\n";
    let (trial, api) = (Trial::new(commands), FakeApi::start().await);
    let run = run_name("fails");
    let target = trial.target(&api, &run, None);
    let error = target.prepare(&Progress::silent()).await.unwrap_err();
    assert!(
        matches!(&error, TargetError::Surroundings(text) if text.contains("no chart")),
        "{error}"
    );
    let evidence = trial.folder.path().join("evidence");
    target.collect_evidence(&evidence).await;
    assert_eq!(
        std::fs::read_to_string(evidence.join("install.log")).unwrap(),
        "no chart\n"
    );
    let left = target.release().await.unwrap_err().to_string();
    assert!(
        left.contains(":7: remove: ") && left.contains("exit status: 2") && left.contains("gone"),
        "{left}"
    );
    assert_eq!(api.paths(), Vec::<String>::new(), "the namespace goes all the same");
    assert!(!trial.folder_of(&run).join(KUBECONFIG).exists());
}

#[tokio::test]
async fn an_interrupt_ends_the_command_and_then_removes() {
    let commands = "install: {command: [sh, -c, 'echo $$ > pid; trap \"echo told >> done; exit 1\" TERM; while :; do sleep 0.05; done']}\n\
        remove: {command: [sh, -c, 'echo remove >> done']}\n";
    let (trial, api) = (Trial::new(commands), FakeApi::start().await);
    let target = trial.target(&api, &run_name("interrupt"), None);
    let started = async {
        let began = Instant::now();
        while std::fs::read_to_string(trial.folder.path().join("pid"))
            .unwrap_or_default()
            .is_empty()
        {
            assert!(began.elapsed() < Duration::from_secs(30), "the command must start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let silent = Progress::silent();
    tokio::select! {
        prepared = target.prepare(&silent) => panic!("the command must not end by itself: {prepared:?}"),
        () = started => {}
    }
    target.release().await.unwrap();
    assert_eq!(trial.done(), "told\nremove\n");
    assert_eq!(api.paths(), Vec::<String>::new());
}

#[rstest]
#[case::own(None)]
#[case::named(Some("shop"))]
#[tokio::test]
async fn the_next_run_removes_what_a_killed_one_has_installed(#[case] namespace: Option<&str>) {
    let (trial, api) = (Trial::new(NOTES), FakeApi::start().await);
    let shop = json_namespace("shop");
    api.put("/api/v1/namespaces/shop", shop);
    let before = api.paths();
    let (killed, next) = (
        run_name(namespace.unwrap_or("fresh")),
        run_name(&format!("after-{namespace:?}")),
    );
    let target = trial.target(&api, &killed, namespace);
    let _ = target.prepare(&Progress::silent()).await;
    // As a kill does, it gives back the lock and nothing else.
    drop(target);
    let of = |run: &str| namespace.map_or_else(|| format!("rcc-{}", fit(run)), str::to_owned);
    assert_eq!(trial.done(), format!("install {}\n", of(&killed)));
    let target = trial.target(&api, &next, namespace);
    let _ = target.prepare(&Progress::silent()).await;
    let all = format!("install {0}\nremove {0}\ninstall {1}\n", of(&killed), of(&next));
    assert_eq!(trial.done(), all);
    assert!(!trial.folder_of(&killed).exists());
    target.release().await.unwrap();
    assert_eq!(trial.done(), format!("{all}remove {}\n", of(&next)));
    assert_eq!(api.paths(), before);
}

#[tokio::test]
async fn what_another_description_has_installed_is_told_and_not_touched() {
    let (trial, other, api) = (Trial::new(NOTES), Trial::new(NOTES), FakeApi::start().await);
    api.put("/api/v1/namespaces/shop", json_namespace("shop"));
    let (killed, next) = (run_name("theirs"), run_name("ours"));
    let target = trial.target(&api, &killed, Some("shop"));
    let _ = target.prepare(&Progress::silent()).await;
    drop(target);
    let told = Arc::new(Told::default());
    let mut target = other.target(&api, &next, Some("shop"));
    target.folders = trial.folder.path().join("runs");
    let error = target.prepare(&Progress::new(told.clone())).await.unwrap_err();
    target.release().await.unwrap();
    let file = trial.folder.path().join("shop.yaml").display().to_string();
    let lines = told.0.lock().unwrap().join("\n");
    assert!(
        lines.contains("another description") && lines.contains(&file),
        "{lines}"
    );
    let says = format!("namespace shop has what a command of {file} installed for run {killed}");
    assert!(
        matches!(&error, TargetError::Usage(text) if text.starts_with(&says)),
        "{error}"
    );
    assert_eq!((trial.done().as_str(), other.done().as_str()), ("install shop\n", ""));
}

/// As a run of another machine leaves it, which no folder here speaks of.
fn put_namespace_of(api: &FakeApi, run: &str) {
    let mut namespace = json_namespace(&format!("rcc-{run}"));
    namespace["metadata"]["labels"] = serde_json::json!({RUN_LABEL: run});
    api.put(&format!("/api/v1/namespaces/rcc-{run}"), namespace);
}

#[tokio::test]
async fn what_runs_elsewhere_have_left_is_put_right_and_what_goes_on_is_let_be() {
    let (trial, api) = (Trial::new(NOTES), FakeApi::start().await);
    for run in ["dead", "lives", "theirs"] {
        put_namespace_of(&api, run);
    }
    let marker = serde_json::json!({"metadata": {"name": MARKER, "labels": {RUN_LABEL: "theirs"}},
        "data": {"description": "/elsewhere.yaml"}});
    api.put(&format!("/api/v1/namespaces/rcc-theirs/configmaps/{MARKER}"), marker);
    for (node, run) in [("a", "dead"), ("b", "lives")] {
        let node_of = serde_json::json!({"metadata": {"name": node, "annotations": {"redis-cluster-conformance/drained": run}},
            "spec": {"unschedulable": true}});
        api.put(&format!("/api/v1/nodes/{node}"), node_of);
    }
    let kubeconfig = api.kubeconfig(trial.folder.path());
    let client = reach(Some(&kubeconfig), None).await.unwrap().client;
    let lives = Turn::new(&client, "rcc-lives", "lives");
    assert!(lives.take(&Progress::silent()).await.unwrap());
    let (told, run) = (Arc::new(Told::default()), run_name("clears"));
    let target = trial.target(&api, &run, None);
    let _ = target.prepare(&Progress::new(told.clone())).await;
    target.release().await.unwrap();
    lives.end().await.unwrap();
    let namespaces: Vec<String> = api
        .paths()
        .into_iter()
        .filter(|path| !path.contains("configmaps"))
        .collect();
    let left = ["namespaces/rcc-lives", "namespaces/rcc-theirs", "nodes/a", "nodes/b"];
    assert_eq!(namespaces, left.map(|path| format!("/api/v1/{path}")));
    let cordoned = |node: &str| !api.get(&format!("/api/v1/nodes/{node}")).unwrap()["spec"]["unschedulable"].is_null();
    assert_eq!((cordoned("a"), cordoned("b")), (false, true));
    let lines = told.0.lock().unwrap().join("\n");
    let words = [
        "uncordoning node a",
        "namespace rcc-dead",
        "/elsewhere.yaml installed for run theirs",
    ];
    for word in words {
        assert!(lines.contains(word), "{word} must be in:\n{lines}");
    }
}

#[tokio::test]
async fn a_namespace_that_stays_is_no_run_s_any_more() {
    let (trial, api) = (Trial::new(NOTES), FakeApi::start().await);
    let run = run_name("keeps");
    let mut target = trial.target(&api, &run, None);
    target.options.keep = true;
    let _ = target.prepare(&Progress::silent()).await;
    target.release().await.unwrap();
    let namespace = api.get(&format!("/api/v1/namespaces/rcc-{run}")).unwrap();
    assert_eq!(namespace["metadata"]["labels"], serde_json::json!({}));
    assert!(api.paths().iter().all(|path| !path.contains("leases")));
}

#[tokio::test]
async fn pods_that_are_there_already_are_somebody_s() {
    let (trial, api) = (Trial::new(NOTES), FakeApi::start().await);
    api.put("/api/v1/namespaces/shop", json_namespace("shop"));
    let pod = serde_json::json!({"metadata": {"name": "a-0", "labels": {"app": "a"}}});
    api.put("/api/v1/namespaces/shop/pods/a-0", pod);
    let before = api.paths();
    let target = trial.target(&api, &run_name("foreign"), Some("shop"));
    let error = target.prepare(&Progress::silent()).await.unwrap_err();
    assert!(
        matches!(&error, TargetError::Usage(text) if text.contains("pod a-0 is already")),
        "{error}"
    );
    target.release().await.unwrap();
    assert_eq!((trial.done().as_str(), api.paths()), ("", before));
}

fn json_namespace(name: &str) -> serde_json::Value {
    serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// Keeps the lines that progress tells.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl crate::progress::Sink for Arc<Told> {
    fn line(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }

    fn waiting(&self, _what: &str, _elapsed: Duration, _bound: Duration) {}

    fn done(&self) {}
}

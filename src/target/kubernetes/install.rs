//! A deployment that a command of the user's installs, and another removes, where the suite would apply a manifest.
//!
//! A ConfigMap in the namespace says, from before the one to after the other, which description's commands they are. Nothing
//! that stands in a cluster is ever run: the next run after a kill compares what it finds with its own description.

mod marker;
mod way;

use super::apply::{fit, lock, namespaces};
use super::client::{Reached, reach};
use super::site::Site;
use super::{Disposition, KubernetesOptions, KubernetesTarget, bootstrap};
use crate::manifest::Parameters;
use crate::progress::Progress;
use crate::target::command::{Ended, Invocation, Runner, kill_left, last_lines};
use crate::target::descriptor::{Descriptor, UserCommand};
use crate::target::folder::{Folder, abandoned};
use crate::target::{Phase, TargetError};
use kube::Client;
use marker::{mark, marked, refuse_foreign, unmark};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use way::Way;

/// The file in a run's folder that names the API server for which its commands were.
const CLUSTER: &str = "cluster";

/// The file in a run's folder by which its commands reach that.
const KUBECONFIG: &str = "kubeconfig";

/// How often a state is looked at again that is not watched.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Which of the two commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Install,
    Remove,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Remove => "remove",
        }
    }
}

/// A command whose program was found.
#[derive(Debug)]
struct Known {
    which: Which,
    command: UserCommand,
    program: PathBuf,
    /// File and line of the description.
    place: String,
}

/// The commands of a run, and what they are run with.
pub(super) struct Installation {
    install: Known,
    remove: Known,
    /// The description's file, in full.
    description: String,
    /// Where the commands run: the folder of the description.
    home: PathBuf,
    image: Option<String>,
    /// The run's own folder: the kubeconfig of the commands, and what they say.
    folder: Mutex<Option<Folder>>,
    logs: PathBuf,
    way: OnceLock<Way>,
    runner: Runner,
    /// Whether there is something to remove: from the moment of the marker.
    begun: Mutex<bool>,
}

impl Installation {
    /// Finds the programs of a description's commands, and makes the run's folder below `parent`. `None` where it has no
    /// such commands.
    pub(super) fn of(
        descriptor: &Descriptor,
        over: &Parameters,
        parent: &Path,
        run_id: &str,
    ) -> Result<Option<Self>, TargetError> {
        let (Some(install), Some(remove)) = (&descriptor.install, &descriptor.remove) else {
            return Ok(None);
        };
        let broken = |error: std::io::Error| TargetError::Surroundings(format!("{}: {error}", descriptor.file()));
        let home = descriptor.folder().map_err(broken)?.unwrap_or_default();
        let find = |which: Which, command: &UserCommand| {
            let place = descriptor.place(&format!("/{}", which.name()));
            let found = which::which_in(command.program(), std::env::var_os("PATH"), &home);
            let program = found.map_err(|_| {
                TargetError::Surroundings(format!(
                    "{place}: {}: there is no program {} that can be run, neither on the PATH nor, where its name has a slash, \
                     below {}; install it, or name it in full. Nothing was made",
                    which.name(),
                    command.program(),
                    home.display()
                ))
            })?;
            Ok::<_, TargetError>(Known {
                which,
                command: command.clone(),
                program,
                place,
            })
        };
        let (install, remove) = (find(Which::Install, install)?, find(Which::Remove, remove)?);
        let folder = Folder::create(parent, run_id)?;
        Ok(Some(Self {
            install,
            remove,
            description: std::path::absolute(descriptor.file())
                .map_err(broken)?
                .display()
                .to_string(),
            home,
            image: descriptor.parameters.overridden_by(over).image,
            logs: folder.path().to_owned(),
            folder: Mutex::new(Some(folder)),
            way: OnceLock::new(),
            runner: Runner::default(),
            begun: Mutex::default(),
        }))
    }

    /// Program and place, for the report: arguments may hold what is nobody else's.
    pub(super) fn told(&self) -> String {
        format!("{} ({})", self.install.command.program(), self.install.place)
    }

    fn log(&self, which: Which) -> PathBuf {
        self.logs.join(format!("{}.log", which.name()))
    }

    /// Takes what is secret in the kubeconfig out of a text.
    fn redact(&self, text: &str) -> String {
        let secrets = self.way.get().map(Way::secrets).unwrap_or_default();
        secrets
            .iter()
            .fold(text.to_owned(), |text, secret| secret.redact(&text))
    }

    /// What the commands said, by the name to keep it under.
    pub(super) fn said(&self) -> Vec<(&'static str, String)> {
        let of = |(which, name)| {
            let bytes = std::fs::read(self.log(which)).ok()?;
            Some((name, self.redact(&String::from_utf8_lossy(&bytes))))
        };
        let logs = [(Which::Install, "install.log"), (Which::Remove, "remove.log")];
        logs.into_iter().filter_map(of).collect()
    }

    /// Runs one of the commands for a namespace.
    async fn run(&self, known: &Known, namespace: &str) -> Result<(), TargetError> {
        let broken = |error: &dyn std::fmt::Display| TargetError::Surroundings(format!("{}: {error}", known.place));
        let way = self.way.get().ok_or_else(|| broken(&"the cluster was not reached"))?;
        let kubeconfig = self.logs.join(KUBECONFIG);
        way.write(&kubeconfig, namespace).map_err(|error| broken(&error))?;
        let environment = [
            ("KUBECONFIG", Some(kubeconfig.as_os_str())),
            ("RCC_NAMESPACE", Some(OsStr::new(namespace))),
            ("RCC_IMAGE", self.image.as_deref().map(OsStr::new)),
        ];
        let log = self.log(known.which);
        let invocation = Invocation {
            program: &known.program,
            arguments: known.command.command.get(1..).unwrap_or_default(),
            folder: &self.home,
            environment: &environment,
            log: &log,
            limit: known.command.limit(),
        };
        let how = match self.runner.run(&invocation).await {
            Ok(Ended::With(status)) if status.success() => return Ok(()),
            Ok(Ended::With(status)) => format!("ended with {status}"),
            Ok(Ended::TooLate) => format!(
                "did not end within {} s, and was ended; `seconds` gives it more",
                known.command.seconds
            ),
            Err(error) => format!("could not be run: {error}"),
        };
        Err(TargetError::Surroundings(self.redact(&complaint(
            known,
            &how,
            &last_lines(&log),
        ))))
    }
}

/// What is said of a command that did not do its work.
fn complaint(known: &Known, how: &str, said: &str) -> String {
    let said = match said {
        "" => "It said nothing.".to_owned(),
        said => format!("The end of what it said:\n  {}", said.replace('\n', "\n  ")),
    };
    let next = match known.which {
        Which::Install => {
            "This is no verdict on the deployment: nothing was judged. All it said is in evidence/target/install.log."
        }
        Which::Remove => "What it was to take away may be there still: look, and remove it by hand.",
    };
    format!(
        "{}: {}: `{}` {how}. {said}\n{next}",
        known.place,
        known.which.name(),
        known.command.program()
    )
}

impl KubernetesTarget {
    /// Finds the programs of the description's commands, before anything is made. Cheap where there are none.
    pub(crate) fn find_commands(&self) -> Result<(), TargetError> {
        if self.options.disposition == Disposition::Attach || self.installation.get().is_some() {
            return Ok(());
        }
        let (over, run_id) = (&self.options.parameters, &self.options.run_id);
        let found = Installation::of(&self.descriptor, over, &self.folders, run_id)?;
        if let Some(found) = found {
            self.note("installed by", &found.told());
            let _ = self.installation.set(Arc::new(found));
        }
        Ok(())
    }

    /// From here on the commands know which cluster they are for.
    fn aim_commands(&self, reached: &Reached) -> Result<(), TargetError> {
        if let Some(installation) = self.installation.get()
            && installation.way.get().is_none()
        {
            let way = Way::of(self.options.kubeconfig.as_deref(), &reached.context)?;
            let _ = installation.way.set(way);
            let file = installation.logs.join(CLUSTER);
            std::fs::write(&file, &reached.url)
                .map_err(|error| TargetError::Surroundings(format!("{}: {error}", file.display())))?;
        }
        Ok(())
    }

    /// Removes the namespaces of runs that have ended without doing so, and what commands installed for them. The caller
    /// knows that no other run is going on.
    pub(crate) async fn remove_leftovers(&self, progress: &Progress) -> Result<(), TargetError> {
        let reached = reach(self.options.kubeconfig.as_deref(), self.options.context.as_deref()).await?;
        self.aim_commands(&reached)?;
        // They might make again what is about to be removed.
        abandoned(&self.folders).iter().for_each(|left| kill_left(&left.path));
        for (namespace, run) in namespaces(&reached.client).await? {
            if run != fit(&self.options.run_id) {
                self.uninstall_leftover(&reached.client, &namespace, progress).await;
            }
        }
        super::ownership::remove_leftovers(&reached.client, &self.options.run_id, progress).await?;
        for left in abandoned(&self.folders) {
            let _ = std::fs::remove_dir_all(&left.path);
        }
        Ok(())
    }

    /// Runs the description's `remove` for what a killed run installed by it. What another description's commands
    /// installed is told: only that one says how it is removed. Gives whether it is removed; `None` where there was nothing.
    pub(super) async fn uninstall_leftover(
        &self,
        client: &Client,
        namespace: &str,
        progress: &Progress,
    ) -> Option<bool> {
        // Who may not look cannot have made one.
        let Ok(Some(marked)) = marked(client, namespace).await else {
            return None;
        };
        let own = self.installation.get();
        let Some(own) = own.filter(|own| own.description == marked.description) else {
            progress.line(format!(
                "  namespace {namespace} has what a command of {} installed for run {}, which ended without removing it; this run has \
                 another description and cannot: what lies outside the namespace stays. Run `remove` of that file by hand",
                marked.description, marked.run
            ));
            return Some(false);
        };
        progress.line(format!(
            "  removing what {} installed for run {} in namespace {namespace}",
            own.install.place, marked.run
        ));
        let what = format!("{} of what an earlier run left", own.remove.command.program());
        let removing = own.run(&own.remove, namespace);
        let removed = match progress.during(&what, own.remove.command.limit(), removing).await {
            Ok(()) => unmark(client, namespace).await.is_ok(),
            Err(error) => {
                progress.line(format!("  {error}"));
                false
            }
        };
        Some(removed)
    }

    /// On a cluster that others use: removes what killed runs of this machine have installed there, each known by its folder.
    /// Nothing is done for the target kind, which knows that nobody else is there.
    pub(super) async fn remove_installed_leftovers(
        &self,
        reached: &Reached,
        progress: &Progress,
    ) -> Result<(), TargetError> {
        let Some(installation) = self.installation.get() else {
            return Ok(());
        };
        self.aim_commands(reached)?;
        if self.nodes.is_some() {
            return Ok(());
        }
        let named = self.named_namespace(&reached.namespace);
        for left in abandoned(&self.folders) {
            kill_left(&left.path);
            let _ = std::fs::remove_file(left.path.join(KUBECONFIG));
            if std::fs::read_to_string(left.path.join(CLUSTER)).is_ok_and(|url| url != reached.url) {
                // A run over that cluster will need to know that this one has ended.
                continue;
            }
            let run = left
                .path
                .file_name()
                .and_then(OsStr::to_str)
                .unwrap_or_default()
                .to_owned();
            let fresh = format!("rcc-{}", fit(&run));
            let mut gone = true;
            for namespace in std::iter::once(fresh.as_str()).chain(named.as_deref()) {
                let Ok(Some(marked)) = marked(&reached.client, namespace).await else {
                    continue;
                };
                if marked.run != fit(&run) {
                    continue;
                }
                gone &= self.uninstall_leftover(&reached.client, namespace, progress).await != Some(false);
                if namespace == fresh && marked.description == installation.description {
                    super::apply::remove_namespaces(&reached.client, std::slice::from_ref(&fresh), progress).await?;
                }
            }
            if gone {
                let _ = std::fs::remove_dir_all(&left.path);
            }
        }
        Ok(())
    }

    /// Has the description's command install the deployment, and waits until its pods are Ready. `None` where the
    /// description has no such command.
    pub(super) async fn install(
        &self,
        site: &Arc<Site>,
        progress: &Progress,
    ) -> Result<Option<Vec<Phase>>, TargetError> {
        let Some(installation) = self.installation.get() else {
            return Ok(None);
        };
        let fresh = lock(&self.made_namespace).is_some();
        if !fresh {
            refuse_foreign(site).await?;
            lock(&self.made).claims_before = site.claims().await?;
        }
        *lock(&installation.begun) = true;
        if let Err(error) = mark(site, &installation.description).await {
            // Nothing was installed.
            *lock(&installation.begun) = false;
            return Err(error);
        }
        let command = &installation.install;
        let what = format!("{} ({})", command.command.program(), command.place);
        let started = Instant::now();
        let installed = installation.run(command, &site.namespace);
        let installed = progress.during(&what, command.command.limit(), installed).await;
        // Also after a failure: what the command said is told, and must not tell it.
        let password = site.find_password().await;
        if let Ok(password) = &password {
            let _ = site.password.set(password.clone());
        }
        installed?;
        progress.line(format!(
            "  {} installed it in namespace {}",
            command.command.program(),
            site.namespace
        ));
        let mut phases = vec![bootstrap::phase("install", started.elapsed())];
        let bound = self.options.timing.deployment();
        await_workloads(site, bound, progress).await?;
        phases.extend(site.await_pods(bound, progress).await?);
        if site.password.get().is_none() {
            // An operator may have made it meanwhile.
            let _ = site.password.set(site.find_password().await?);
        }
        if site.descriptor.tls.is_some() {
            site.tls().await?;
        }
        Ok(Some(phases))
    }

    /// Removes what the run installed, by the description's command. Nothing is done where it installed nothing.
    pub(crate) async fn uninstall(&self) -> Result<(), TargetError> {
        let Some(installation) = self.installation.get() else {
            return Ok(());
        };
        installation.runner.end().await;
        let begun = std::mem::take(&mut *lock(&installation.begun));
        let mut outcome = Ok(());
        if let Some(shared) = self.site.get()
            && begun
            && !self.options.keep
        {
            let site = &shared.0;
            outcome = installation.run(&installation.remove, &site.namespace).await;
            if outcome.is_ok() {
                lock(&self.made).installed = true;
                outcome = unmark(&site.client, &site.namespace).await;
            }
        }
        if let Some(folder) = lock(&installation.folder).take() {
            if outcome.is_ok() {
                return folder.remove();
            }
            // The next run knows by the folder that this one has ended, and tries again.
            let _ = std::fs::remove_file(folder.path().join(KUBECONFIG));
        }
        outcome
    }
}

/// Refuses a description by which nothing can be made, though it names no manifest that cannot be used.
pub(super) fn refuse_unusable(options: &KubernetesOptions) -> Result<(), TargetError> {
    let descriptor = &options.descriptor;
    if descriptor.install.is_none() {
        return Err(TargetError::Usage(format!(
            "{} names no manifest to apply, and no command to install; attach to a deployment that is there instead",
            descriptor.file()
        )));
    }
    let place = descriptor.place("/install");
    if options.in_cluster {
        return Err(TargetError::Usage(format!(
            "{place}: install: a pod of the cluster has neither the programs of the description's commands nor a kubeconfig for them; \
             run without --in-cluster, or without --apply on what is installed already"
        )));
    }
    let parameters = descriptor.parameters.overridden_by(&options.parameters);
    let fields = [
        ("pullPolicy", parameters.pull_policy.is_some()),
        ("storageClass (--storage-class)", parameters.storage_class.is_some()),
        ("replicas", parameters.replicas.is_some()),
        ("cpuRequest (--cpu-request)", parameters.cpu_request.is_some()),
    ];
    match fields.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(TargetError::Usage(format!(
            "{place}: install: {name} is set in a manifest, and here is none: give it to the command; only the image reaches \
             it, as RCC_IMAGE"
        ))),
        None => Ok(()),
    }
}

/// Waits until there is what the description names as what makes the pods: an operator makes it after the command has ended.
async fn await_workloads(site: &Site, bound: Duration, progress: &Progress) -> Result<(), TargetError> {
    let what = format!("{} to be made", site.descriptor.workloads().join(", "));
    let there = async {
        let started = Instant::now();
        loop {
            match site.workloads().await {
                Ok(_) => return Ok(()),
                Err(TargetError::NotAllowed(text)) => return Err(TargetError::NotAllowed(text)),
                Err(error) if started.elapsed() >= bound => {
                    return Err(TargetError::NotDeployed(format!(
                        "{error}; it was not made within {} s after the command had ended",
                        bound.as_secs()
                    )));
                }
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    };
    progress.during(&what, bound, there).await
}

#[cfg(test)]
mod tests;

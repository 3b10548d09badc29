//! What a user asks for, made into a target: the one place where the command line and `cargo test` choose among them.

use crate::case::{Case, CaseId};
use crate::cluster::connection::Address;
use crate::manifest::parameters::Parameters;
use crate::target::addresses::AddressesTarget;
use crate::target::descriptor::{Descriptor, PasswordSource};
use crate::target::docker::{self, DockerOptions, DockerTarget};
use crate::target::kind::{KindOptions, KindTarget, Layout};
use crate::target::kubernetes::{Disposition, KubernetesOptions, KubernetesTarget};
use crate::target::processes::{ProcessesOptions, ProcessesTarget};
use crate::target::{Secret, Target, TargetError, TargetKind};
use crate::timing::Timing;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Everything that decides which target a run is over.
#[derive(Clone, Debug)]
pub struct Request {
    /// The kind of target.
    pub kind: TargetKind,
    /// The target's description; the canonical deployment where none is given.
    pub target_file: Option<PathBuf>,
    /// Parameters in the place of the description's.
    pub parameters: Parameters,
    /// For `kind`, and for `kubernetes` where the manifest is applied: the image to which the servers are upgraded.
    pub upgrade_to: Option<String>,
    /// The password in the place of the description's: set in a manifest that is applied, and asked of servers that are
    /// there.
    pub password: Option<Secret>,
    /// Where that password comes from, for a deployment that is only attached to.
    pub password_source: Option<PasswordSource>,
    /// For `addresses`: every node.
    pub addresses: Vec<Address>,
    /// The shape in the place of the description's.
    pub masters: Option<usize>,
    /// Replicas of each master in the place of the description's.
    pub replicas_per_master: Option<usize>,
    /// For `processes`: the server's binary.
    pub server: Option<PathBuf>,
    /// For `kubernetes`: the kubeconfig file, the context, the namespace.
    pub kubeconfig: Option<PathBuf>,
    /// For `kubernetes`: the context of the kubeconfig.
    pub context: Option<String>,
    /// For `kubernetes`: this program runs in a pod of the cluster.
    pub in_cluster: bool,
    /// For `kubernetes`: the namespace.
    pub namespace: Option<String>,
    /// For `kubernetes`: apply the description's manifest there, instead of attaching to what is there.
    pub apply: bool,
    /// For `kind`: what the cluster is to be like.
    pub layout: Layout,
    /// Leave what was made.
    pub keep: bool,
    /// The run's name.
    pub run_id: String,
    /// Overridden time limits.
    pub overrides: Vec<(&'static str, Duration)>,
}

/// What an option is for: a kind of target, or what is done with it.
#[derive(Clone, Copy)]
enum Use {
    /// A target of this kind, whatever is done with it.
    Of(TargetKind),
    /// `kubernetes`, where the run applies the deployment.
    Applied,
}

impl Use {
    fn fits(self, kind: TargetKind, apply: bool) -> bool {
        match self {
            Self::Of(of) => kind == of,
            Self::Applied => kind == TargetKind::Kubernetes && apply,
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(kind) => write!(f, "{kind}"),
            Self::Applied => f.write_str("kubernetes with --apply"),
        }
    }
}

/// For what the run applies.
const APPLIED: &[Use] = &[Use::Of(TargetKind::Kind), Use::Applied];
/// For servers that an image makes: what the run applies, and containers.
const OF_AN_IMAGE: &[Use] = &[Use::Of(TargetKind::Docker), Use::Of(TargetKind::Kind), Use::Applied];
const ON_KIND: &[Use] = &[Use::Of(TargetKind::Kind)];
const ON_KUBERNETES: &[Use] = &[Use::Of(TargetKind::Kubernetes)];
const OF_PROCESSES: &[Use] = &[Use::Of(TargetKind::Processes)];
const AT_ADDRESSES: &[Use] = &[Use::Of(TargetKind::Addresses)];

impl Request {
    /// A request for the canonical deployment on a kind of target, with nothing else said.
    pub fn new(kind: TargetKind, run_id: String) -> Self {
        Self {
            kind,
            target_file: None,
            parameters: Parameters::default(),
            upgrade_to: None,
            password: None,
            password_source: None,
            addresses: Vec::new(),
            masters: None,
            replicas_per_master: None,
            server: None,
            kubeconfig: None,
            context: None,
            in_cluster: false,
            namespace: None,
            apply: false,
            layout: Layout::default(),
            keep: false,
            run_id,
            overrides: Vec::new(),
        }
    }

    /// Refuses options that say nothing to the target: whoever gives one means another target.
    ///
    /// # Errors
    /// When there is such an option; the text names it, the targets that it is for, and this run's.
    pub fn check(&self) -> Result<(), TargetError> {
        let fits = |uses: &[Use]| uses.iter().any(|of| of.fits(self.kind, self.apply));
        let Some((option, _, uses)) = self
            .options()
            .into_iter()
            .find(|(_, given, uses)| *given && !fits(uses))
        else {
            return Ok(());
        };
        let words: Vec<String> = uses.iter().map(Use::to_string).collect();
        let applies = uses.iter().any(|of| matches!(of, Use::Applied));
        let without = if applies && self.kind == TargetKind::Kubernetes {
            " without --apply"
        } else {
            ""
        };
        Err(TargetError::Usage(format!(
            "{option} is for --target {}, and this run's target is {}{without}",
            words.join(", or "),
            self.kind
        )))
    }

    /// The options that are for some targets only: whether each is given, and what it is for. All others say something to
    /// every target, or do no harm where they say nothing.
    fn options(&self) -> [(&'static str, bool, &'static [Use]); 13] {
        let parameters = &self.parameters;
        [
            ("--server", self.server.is_some(), OF_PROCESSES),
            ("--addresses", !self.addresses.is_empty(), AT_ADDRESSES),
            ("--kubeconfig", self.kubeconfig.is_some(), ON_KUBERNETES),
            ("--context", self.context.is_some(), ON_KUBERNETES),
            ("--namespace", self.namespace.is_some(), ON_KUBERNETES),
            ("--in-cluster", self.in_cluster, ON_KUBERNETES),
            ("--apply", self.apply, ON_KUBERNETES),
            ("--nodes", self.layout.nodes.is_some(), ON_KIND),
            ("--ip-family", self.layout.ip_family.is_some(), ON_KIND),
            ("--image", parameters.image.is_some(), OF_AN_IMAGE),
            ("--upgrade-to", self.upgrade_to.is_some(), APPLIED),
            ("--storage-class", parameters.storage_class.is_some(), APPLIED),
            ("--cpu-request", parameters.cpu_request.is_some(), APPLIED),
        ]
    }

    /// The target. Nothing is made or asked yet; only files are read.
    ///
    /// # Errors
    /// When a file cannot be used, or options do not go together.
    pub fn target(&self) -> Result<Arc<dyn Target>, TargetError> {
        self.check()?;
        let mut descriptor = describe(self.target_file.as_deref())?;
        if let Some(masters) = self.masters {
            descriptor.shape.masters = masters;
        }
        if let Some(replicas) = self.replicas_per_master {
            descriptor.shape.replicas_per_master = replicas;
        }
        if descriptor.shape.masters == 0 {
            return Err(TargetError::Usage("a cluster has at least one master".into()));
        }
        // The node-timeout is read from the target once it runs; nothing before that depends on it.
        let timing = Timing::new(Duration::from_secs(5)).with_overrides(self.overrides.iter().copied());
        if descriptor.install.is_some() {
            // No manifest has a place for it.
            self.asked_password(&mut descriptor);
        }
        match self.kind {
            TargetKind::Processes => self.processes(&descriptor, timing),
            TargetKind::Docker => self.docker(&descriptor, timing),
            TargetKind::Addresses => self.at_addresses(&descriptor),
            TargetKind::Kubernetes => {
                if !self.apply {
                    self.asked_password(&mut descriptor);
                }
                Ok(Arc::new(KubernetesTarget::new(KubernetesOptions {
                    descriptor,
                    parameters: self.parameters.clone(),
                    upgrade_to: self.upgrade_to.clone(),
                    kubeconfig: self.kubeconfig.clone(),
                    context: self.context.clone(),
                    in_cluster: self.in_cluster,
                    namespace: self.namespace.clone(),
                    disposition: if self.apply {
                        Disposition::Apply
                    } else {
                        Disposition::Attach
                    },
                    keep: self.keep,
                    run_id: self.run_id.clone(),
                    timing,
                })?))
            }
            TargetKind::Kind => Ok(Arc::new(KindTarget::new(KindOptions {
                descriptor,
                parameters: self.parameters.clone(),
                upgrade_to: self.upgrade_to.clone(),
                layout: self.layout,
                keep: self.keep,
                run_id: self.run_id.clone(),
                timing,
            })?)),
        }
    }

    /// Servers that the suite does not give a password are asked with the one that the user names.
    fn asked_password(&self, descriptor: &mut Descriptor) {
        if let Some(source) = &self.password_source {
            descriptor.password = Some(source.clone());
        }
    }

    /// Servers that are there, asked with the password of the command line, or else of the description.
    fn at_addresses(&self, descriptor: &Descriptor) -> Result<Arc<dyn Target>, TargetError> {
        self.refuse_tls_and_user(descriptor)?;
        let password = match (&self.password, &descriptor.password) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(PasswordSource::Environment(_) | PasswordSource::File(_))) => descriptor
                .password(None)
                .map_err(|error| TargetError::Usage(error.to_string()))?,
            // Where that is, servers alone do not tell.
            (None, Some(PasswordSource::Secret { .. } | PasswordSource::RedisConf(_)) | None) => None,
        };
        let target = AddressesTarget::new(self.addresses.clone(), password, descriptor.shape())?;
        Ok(Arc::new(target))
    }

    fn refuse_tls_and_user(&self, descriptor: &Descriptor) -> Result<(), TargetError> {
        if descriptor.tls.is_none() && descriptor.user.is_none() {
            return Ok(());
        }
        Err(TargetError::Usage(format!(
            "{}: servers of the target `{}` speak no TLS and have no user but default; the description says otherwise",
            descriptor.file(),
            self.kind
        )))
    }

    fn processes(&self, descriptor: &Descriptor, timing: Timing) -> Result<Arc<dyn Target>, TargetError> {
        let settings = self.settings(descriptor)?;
        Ok(Arc::new(ProcessesTarget::new(ProcessesOptions {
            redis_conf: settings.redis_conf,
            source: settings.source,
            server: self.server.clone().unwrap_or_else(|| PathBuf::from("redis-server")),
            password: settings.password,
            shape: descriptor.shape(),
            spare: 0,
            run_id: self.run_id.clone(),
            timing,
            keep: self.keep,
            in_memory: false,
            alterations: Vec::new(),
        })))
    }

    fn docker(&self, descriptor: &Descriptor, timing: Timing) -> Result<Arc<dyn Target>, TargetError> {
        let settings = self.settings(descriptor)?;
        let image = descriptor.parameters.overridden_by(&self.parameters).image;
        Ok(Arc::new(DockerTarget::new(DockerOptions {
            redis_conf: settings.redis_conf,
            source: settings.source,
            image: image.unwrap_or_else(|| docker::DEFAULT_IMAGE.to_owned()),
            password: settings.password,
            shape: descriptor.shape(),
            spare: 0,
            run_id: self.run_id.clone(),
            timing,
            keep: self.keep,
            alterations: Vec::new(),
        })))
    }

    /// What servers are started with that the suite makes itself.
    fn settings(&self, descriptor: &Descriptor) -> Result<Settings, TargetError> {
        let usage = |error: &dyn std::fmt::Display| TargetError::Usage(error.to_string());
        self.refuse_tls_and_user(descriptor)?;
        let manifest = descriptor.manifest(&self.parameters).map_err(|error| usage(&error))?;
        let (Some(manifest), Some(entry)) = (&manifest, &descriptor.redis_conf) else {
            return Err(TargetError::Usage(format!(
                "{}: the target `{}` needs a manifest, and redisConf to say where the redis.conf is in it",
                descriptor.file(),
                self.kind
            )));
        };
        let conf = manifest
            .config_map(&entry.config_map, &entry.key)
            .map_err(|error| usage(&error))?;
        Ok(Settings {
            redis_conf: conf.to_owned(),
            source: format!("ConfigMap {} of {}", entry.config_map, descriptor.file()),
            password: match &self.password {
                Some(password) => Some(password.clone()),
                None => descriptor.password(Some(manifest)).map_err(|error| usage(&error))?,
            },
        })
    }
}

/// The description of the target: the canonical one, where no file is named.
///
/// # Errors
/// When the file cannot be used.
pub fn describe(target_file: Option<&Path>) -> Result<Descriptor, TargetError> {
    let described = match target_file {
        Some(path) => Descriptor::read(path),
        None => Descriptor::canonical(),
    };
    described.map_err(|error| TargetError::Usage(error.to_string()))
}

/// The cases that do more to the target than its description allows, each with the reason why it is skipped.
pub fn refused(descriptor: &Descriptor, cases: &[&'static Case]) -> BTreeMap<CaseId, String> {
    let refused = cases
        .iter()
        .filter_map(|case| Some((case.id, descriptor.refusal(case.impact)?)));
    refused.collect()
}

/// What a description says of servers that the suite starts itself.
struct Settings {
    redis_conf: String,
    source: String,
    password: Option<Secret>,
}

/// A name for a run: the time, and enough of the process's number that two at once differ. Lower case, digits and
/// dashes only, since it becomes part of names in Kubernetes.
pub fn new_run_id() -> String {
    let now = jiff::Timestamp::now().strftime("%m%d-%H%M%S").to_string();
    format!("{now}-{:x}", std::process::id() & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::kind::IpFamily;
    use rstest::rstest;

    fn six_addresses() -> Request {
        let addresses = (1..=6).map(|port| Address::new("127.0.0.1".to_owned(), port));
        Request {
            addresses: addresses.collect(),
            ..Request::new(TargetKind::Addresses, "run".to_owned())
        }
    }

    #[rstest]
    #[case::of_the_description(None, "theirs")]
    #[case::of_the_command_line(Some("mine"), "mine")]
    fn servers_at_addresses_are_asked_with_a_password(#[case] given: Option<&str>, #[case] asked: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "theirs\n").unwrap();
        let mut descriptor = Descriptor::canonical().unwrap();
        descriptor.password = Some(PasswordSource::File(path));
        let request = Request {
            password: given.map(|password| Secret::new(password.to_owned())),
            ..six_addresses()
        };
        let target = request.at_addresses(&descriptor).unwrap();
        let password = target.password().map(|password| password.expose().to_owned());
        assert_eq!(password.as_deref(), Some(asked));
    }

    /// One word for each way to use a target.
    fn way(word: &str) -> Request {
        let kind = match word {
            "kind" => TargetKind::Kind,
            "there" | "applied" => TargetKind::Kubernetes,
            "docker" => TargetKind::Docker,
            "processes" => TargetKind::Processes,
            _ => TargetKind::Addresses,
        };
        Request {
            apply: word == "applied",
            ..Request::new(kind, "run".to_owned())
        }
    }

    #[rstest]
    #[case("--server", |request: &mut Request| request.server = Some("s".into()), &["processes"])]
    #[case("--addresses", |request: &mut Request| request.addresses = six_addresses().addresses, &["addresses"])]
    #[case("--kubeconfig", |request: &mut Request| request.kubeconfig = Some("k".into()), &["there", "applied"])]
    #[case("--context", |request: &mut Request| request.context = Some("c".into()), &["there", "applied"])]
    #[case("--namespace", |request: &mut Request| request.namespace = Some("n".into()), &["there", "applied"])]
    #[case("--in-cluster", |request: &mut Request| request.in_cluster = true, &["there", "applied"])]
    #[case("--apply", |request: &mut Request| request.apply = true, &["there", "applied"])]
    #[case("--nodes", |request: &mut Request| request.layout.nodes = Some(4), &["kind"])]
    #[case("--ip-family", |request: &mut Request| request.layout.ip_family = Some(IpFamily::Ipv6), &["kind"])]
    #[case("--image", |request: &mut Request| request.parameters.image = Some("i".into()), &["docker", "kind", "applied"])]
    #[case("--upgrade-to", |request: &mut Request| request.upgrade_to = Some("i".into()), &["kind", "applied"])]
    #[case("--storage-class", |request: &mut Request| request.parameters.storage_class = Some("s".into()), &["kind", "applied"])]
    #[case("--cpu-request", |request: &mut Request| request.parameters.cpu_request = Some("1".into()), &["kind", "applied"])]
    fn options_of_other_targets_are_refused(
        #[case] option: &str,
        #[case] give: impl Fn(&mut Request),
        #[case] ways: &[&str],
    ) {
        for word in ["kind", "there", "applied", "docker", "processes", "addresses"] {
            let mut request = way(word);
            give(&mut request);
            let refused = request.check().err().map(|error| error.to_string());
            assert_eq!(refused.is_none(), ways.contains(&word), "{word}: {refused:?}");
            assert!(refused.is_none_or(|says| says.starts_with(&format!("{option} is for --target "))));
        }
    }

    #[test]
    fn what_an_option_is_for_is_told_with_what_it_lacks() {
        let mut request = way("there");
        request.parameters.image = Some("i".to_owned());
        assert_eq!(
            request.check().unwrap_err().to_string(),
            "--image is for --target docker, or kind, or kubernetes with --apply, and this run's target is kubernetes without --apply"
        );
    }

    #[test]
    fn a_user_at_addresses_is_refused() {
        let mut descriptor = Descriptor::canonical().unwrap();
        descriptor.user = Some("app".to_owned());
        let refused = six_addresses().at_addresses(&descriptor).err();
        assert!(matches!(refused, Some(TargetError::Usage(told)) if told.contains("speak no TLS")));
    }
}

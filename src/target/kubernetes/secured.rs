//! TLS of a deployment: where the certificates are that the suite needs, and where a client beside the servers finds them.

use super::companion;
use super::site::{Site, bounded, unusable};
use crate::cluster::node::Member;
use crate::target::TargetError;
use crate::target::descriptor::PemSource;
use crate::target::tls::{Tls, reason};
use k8s_openapi::api::core::v1::{ConfigMap, Container, KeyToPath, Pod, Secret, Volume};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a server may take until it has said something over TLS, where only that is looked at.
const FIRST_WORD: Duration = Duration::from_secs(10);

impl Site {
    /// How TLS is spoken to the servers; asked of the API once.
    ///
    /// # Errors
    /// When a certificate or key is not where the description says, or is none; when the description says nothing of TLS.
    pub(super) async fn tls(&self) -> Result<&Tls, TargetError> {
        self.secured.get_or_try_init(|| self.find_tls()).await
    }

    async fn find_tls(&self) -> Result<Tls, TargetError> {
        let Some(described) = &self.descriptor.tls else {
            return Err(TargetError::Usage(
                "the target's description says nothing of TLS".into(),
            ));
        };
        let ca = self.pem("ca", &described.ca).await?;
        let own = match (&described.certificate, &described.key) {
            (Some(certificate), Some(key)) => {
                Some((self.pem("certificate", certificate).await?, self.pem("key", key).await?))
            }
            _ => None,
        };
        let own = own
            .as_ref()
            .map(|(certificate, key)| (certificate.as_slice(), key.as_slice()));
        Tls::new(&ca, own, described.server_names.of(&self.namespace))
            .map_err(|reason| TargetError::Usage(format!("{}: tls: {reason}", self.descriptor.file())))
    }

    /// What stands in an entry of the description.
    async fn pem(&self, part: &str, source: &PemSource) -> Result<Vec<u8>, TargetError> {
        let (place, found) = match source {
            PemSource::File(path) => return self.descriptor.file_beside(path).map_err(unusable),
            PemSource::Secret { name, key } => {
                let place = format!("Secret {name} of namespace {}", self.namespace);
                let what = format!("reading tls: {part} from {place}");
                let secret = bounded(&what, self.api::<Secret>().get(name)).await?;
                let found = secret.data.and_then(|mut data| data.remove(key)).map(|bytes| bytes.0);
                (format!("{place} has no entry {key}"), found)
            }
            PemSource::ConfigMap { name, key } => {
                let place = format!("ConfigMap {name} of namespace {}", self.namespace);
                let what = format!("reading tls: {part} from {place}");
                let map = bounded(&what, self.api::<ConfigMap>().get(name)).await?;
                let found = map.data.and_then(|mut data| data.remove(key)).map(String::into_bytes);
                (format!("{place} has no entry {key}"), found)
            }
        };
        found.ok_or_else(|| TargetError::Usage(format!("{}: tls: {part}: {place}", self.descriptor.file())))
    }

    /// Expects that one server at least speaks TLS as described: where none does, the description is the likelier reason.
    pub(super) async fn speaks_tls(&self) -> Result<(), TargetError> {
        self.tls().await?;
        let members = self.members().await?;
        let asked = futures::future::join_all(members.iter().map(|member| self.answers(member))).await;
        if asked.iter().any(Result::is_ok) {
            return Ok(());
        }
        let first = asked.into_iter().find_map(Result::err);
        Err(TargetError::Usage(format!(
            "{}: no server can be spoken to as its tls says: {}",
            self.descriptor.file(),
            first.unwrap_or_else(|| "no pod runs".to_owned())
        )))
    }

    /// Whether a server goes on after the handshake: that it refuses a certificate, or the lack of one, it says then.
    async fn answers(&self, member: &Member) -> Result<(), String> {
        let asked = async {
            let mut stream = self.open(&member.address).await.map_err(|error| error.to_string())?;
            let word = async {
                stream.write_all(b"PING\r\n").await?;
                stream.flush().await?;
                stream.read_u8().await
            };
            let heard = word.await.map(drop);
            heard.map_err(|error| format!("{}: {}", member.address, reason(&error)))
        };
        tokio::time::timeout(FIRST_WORD, asked).await.unwrap_or_else(|_| {
            // A server without TLS takes the beginning of a handshake for a line that has not ended yet.
            let seconds = FIRST_WORD.as_secs();
            Err(format!(
                "{}: no answer over TLS within {seconds} s; a port without TLS waits so",
                member.address
            ))
        })
    }

    /// The options that a command-line client needs in a pod; see [`crate::target::Target::client_options`].
    pub(super) async fn client_options(&self, member: &Member) -> Result<Vec<String>, TargetError> {
        let Some(tls) = &self.descriptor.tls else {
            return Ok(Vec::new());
        };
        let pod = bounded(
            &format!("looking at pod {}", member.name),
            self.api::<Pod>().get(&member.name),
        )
        .await?;
        let spec = pod.spec.unwrap_or_default();
        let container = spec
            .containers
            .iter()
            .find(|container| container.name == self.descriptor.container);
        let volumes = spec.volumes.unwrap_or_default();
        let mut options = vec!["--tls".to_owned()];
        for (part, source) in tls.parts() {
            let path = container.and_then(|container| path_of(source, container, &volumes));
            let Some(path) = path.filter(|path| !path.contains(char::is_whitespace)) else {
                return Err(TargetError::Usage(format!(
                    "a client in pod {} cannot speak TLS: container {} has no volume with what the description names as tls: {part}",
                    member.name, self.descriptor.container
                )));
            };
            let option = match part {
                "ca" => "--cacert",
                "certificate" => "--cert",
                _ => "--key",
            };
            options.extend([option.to_owned(), path]);
        }
        Ok(options)
    }
}

/// The file that an entry is in a container, where one of its volumes has it.
fn path_of(source: &PemSource, container: &Container, volumes: &[Volume]) -> Option<String> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts.into_iter().find_map(|mount| {
        let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
        let inside = file_in(source, volume)?;
        let folder = mount.mount_path.trim_end_matches('/');
        match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            None => Some(format!("{folder}/{inside}")),
            Some(one) if one.trim_matches('/') == inside => Some(folder.to_owned()),
            Some(part) => {
                let rest = inside.strip_prefix(part.trim_matches('/'))?.strip_prefix('/')?;
                Some(format!("{folder}/{rest}"))
            }
        }
    })
}

/// Where in a volume an entry is.
fn file_in(source: &PemSource, volume: &Volume) -> Option<String> {
    let named = |items: &Option<Vec<KeyToPath>>, key: &str| match items {
        Some(items) => items.iter().find(|item| item.key == key).map(|item| item.path.clone()),
        None => Some(key.to_owned()),
    };
    let projected = || volume.projected.iter().flat_map(|all| all.sources.iter().flatten());
    match source {
        PemSource::Secret { name, key } => {
            let own = volume
                .secret
                .as_ref()
                .filter(|of| of.secret_name.as_ref() == Some(name));
            let own = own.and_then(|of| named(&of.items, key));
            let mut secrets = projected()
                .filter_map(|part| part.secret.as_ref())
                .filter(|of| of.name == *name);
            own.or_else(|| secrets.find_map(|of| named(&of.items, key)))
        }
        PemSource::ConfigMap { name, key } => {
            let own = volume.config_map.as_ref().filter(|of| of.name == *name);
            let own = own.and_then(|of| named(&of.items, key));
            let mut maps = projected()
                .filter_map(|part| part.config_map.as_ref())
                .filter(|of| of.name == *name);
            own.or_else(|| maps.find_map(|of| named(&of.items, key)))
        }
        PemSource::File(_) => None,
    }
}

/// The volumes and mounts by which a companion has the certificates too; none of a file on the suite's own machine.
pub(super) fn volumes(site: &Site) -> Vec<(Volume, k8s_openapi::api::core::v1::VolumeMount)> {
    let parts = site.descriptor.tls.iter().flat_map(|tls| tls.parts());
    let each = parts.filter_map(|(part, source)| {
        let mut volume = Volume {
            name: format!("tls-{part}"),
            ..Volume::default()
        };
        let items = |key: &str| {
            Some(vec![KeyToPath {
                key: key.to_owned(),
                path: key.to_owned(),
                mode: None,
            }])
        };
        match source {
            PemSource::Secret { name, key } => {
                volume.secret = Some(k8s_openapi::api::core::v1::SecretVolumeSource {
                    secret_name: Some(name.clone()),
                    items: items(key),
                    ..Default::default()
                });
            }
            PemSource::ConfigMap { name, key } => {
                volume.config_map = Some(k8s_openapi::api::core::v1::ConfigMapVolumeSource {
                    name: name.clone(),
                    items: items(key),
                    ..Default::default()
                });
            }
            PemSource::File(_) => return None,
        }
        let mount = k8s_openapi::api::core::v1::VolumeMount {
            name: volume.name.clone(),
            mount_path: format!("{}/{part}", companion::CERTIFICATES),
            read_only: Some(true),
            ..Default::default()
        };
        Some((volume, mount))
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::whole(json!({"secret": {"secretName": "crt"}}), json!({"mountPath": "/certs"}), Some("/certs/ca.crt"))]
    #[case::renamed(
        json!({"secret": {"secretName": "crt", "items": [{"key": "ca.crt", "path": "x/ca.pem"}]}}),
        json!({"mountPath": "/certs/"}),
        Some("/certs/x/ca.pem")
    )]
    #[case::left_out(json!({"secret": {"secretName": "crt", "items": [{"key": "b", "path": "b"}]}}), json!({"mountPath": "/c"}), None)]
    #[case::one_file(
        json!({"secret": {"secretName": "crt"}}),
        json!({"mountPath": "/etc/ca.pem", "subPath": "ca.crt"}),
        Some("/etc/ca.pem")
    )]
    #[case::another_file(json!({"secret": {"secretName": "crt"}}), json!({"mountPath": "/etc/k", "subPath": "tls.key"}), None)]
    #[case::projected(
        json!({"projected": {"sources": [{"configMap": {"name": "crt"}}, {"secret": {"name": "crt"}}]}}),
        json!({"mountPath": "/certs"}),
        Some("/certs/ca.crt")
    )]
    #[case::another_secret(json!({"secret": {"secretName": "other"}}), json!({"mountPath": "/certs"}), None)]
    fn an_entry_of_a_secret_is_found_among_the_volumes(
        #[case] volume: serde_json::Value,
        #[case] mount: serde_json::Value,
        #[case] path: Option<&str>,
    ) {
        let named = |mut value: serde_json::Value| {
            value["name"] = "v".into();
            value
        };
        let volume: Volume = serde_json::from_value(named(volume)).unwrap();
        let container: Container =
            serde_json::from_value(json!({"name": "c", "volumeMounts": [named(mount)]})).unwrap();
        let source = PemSource::Secret {
            name: "crt".into(),
            key: "ca.crt".into(),
        };
        assert_eq!(path_of(&source, &container, &[volume]).as_deref(), path);
    }
}

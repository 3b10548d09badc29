//! What a description says of servers whose port for clients speaks TLS.

use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;

/// The servers' port for clients speaks TLS, and so does everything of the suite that connects to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// The certificates (PEM) of those who may have signed the servers'. No others are trusted.
    pub ca: PemSource,
    /// The certificate (PEM) that the suite shows, where the servers ask their clients for one (`tls-auth-clients yes`,
    /// which is the server's default).
    pub certificate: Option<PemSource>,
    /// Its key (PEM).
    pub key: Option<PemSource>,
    /// For which name a server's certificate must be good. It has no default.
    pub server_names: ServerNames,
}

/// Where something in PEM is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PemSource {
    /// `secret: {name, key}`: an entry of a Secret.
    Secret {
        /// The Secret.
        name: String,
        /// Its entry.
        key: String,
    },
    /// `configMap: {name, key}`: an entry of a ConfigMap.
    ConfigMap {
        /// The ConfigMap.
        name: String,
        /// Its entry.
        key: String,
    },
    /// `file: PATH`: a file, relative to the description.
    File(PathBuf),
}

/// For which name a server's certificate must be good.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ServerNames {
    /// `unchecked`: for none. Who signed it and its dates are looked at all the same. Redis's own servers and redis-cli look
    /// at no names either.
    Unchecked,
    /// `addresses`: for the address that the server's pod has.
    Addresses,
    /// `name: NAME`: for this one; `{pod}` in it stands for the pod's name, `{namespace}` for its namespace:
    /// `{pod}.redis-headless.{namespace}.svc`.
    Name(String),
}

impl Tls {
    /// What is wrong with it, for the reader of the description.
    pub(super) fn flaw(&self) -> Option<String> {
        if self.certificate.is_some() != self.key.is_some() {
            let (there, missing) = match self.key {
                None => ("certificate", "key"),
                Some(_) => ("key", "certificate"),
            };
            return Some(format!(
                "tls: it names a {there} and no {missing}; one is of no use without the other"
            ));
        }
        match &self.server_names {
            ServerNames::Name(name) => {
                let tried = name.replace("{pod}", "pod-0").replace("{namespace}", "shop");
                let bad = rustls::pki_types::ServerName::try_from(tried).is_err();
                bad.then(|| format!("tls: serverNames: \"{name}\" is no name of a host"))
            }
            ServerNames::Unchecked | ServerNames::Addresses => None,
        }
    }

    /// Its parts by what they are for: `ca`, and where there is one `certificate` and `key`.
    pub fn parts(&self) -> Vec<(&'static str, &PemSource)> {
        let own = [("certificate", &self.certificate), ("key", &self.key)];
        let own = own
            .into_iter()
            .filter_map(|(part, source)| Some((part, source.as_ref()?)));
        std::iter::once(("ca", &self.ca)).chain(own).collect()
    }
}

impl ServerNames {
    /// The same, of the pods of this namespace.
    pub fn of(&self, namespace: &str) -> Self {
        match self {
            Self::Name(name) => Self::Name(name.replace("{namespace}", namespace)),
            Self::Unchecked => Self::Unchecked,
            Self::Addresses => Self::Addresses,
        }
    }
}

impl std::fmt::Display for ServerNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unchecked => f.write_str("server names unchecked"),
            Self::Addresses => f.write_str("certificates for the pods' addresses"),
            Self::Name(name) => write!(f, "certificates for {name}"),
        }
    }
}

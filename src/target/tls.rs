//! Speaking TLS to servers: who is trusted, as whom the suite shows itself, and in what words it is told why that failed.

use super::descriptor::ServerNames;
use crate::cluster::connection::{Address, BoxedStream, LinkError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;

/// How long a handshake may take, beside what whoever asks for it allows.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of servers that speak TLS.
pub(super) struct Tls {
    connector: TlsConnector,
    names: ServerNames,
}

impl Tls {
    /// A client that trusts the certificates in `ca` alone (PEM), and shows its own where there is one (certificate and
    /// key, both PEM).
    ///
    /// # Errors
    /// What is wrong with them, without any of their text.
    pub(super) fn new(ca: &[u8], own: Option<(&[u8], &[u8])>, names: ServerNames) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca).map_err(|reason| format!("ca: {reason}"))? {
            roots
                .add(certificate)
                .map_err(|error| format!("ca: a certificate in it is of no use: {error}"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| format!("ca: {error}"))?;
        let verifier = Arc::new(Verifier {
            inner: verifier,
            any_name: names == ServerNames::Unchecked,
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate).map_err(|reason| format!("certificate: {reason}"))?;
                let key =
                    PrivateKeyDer::from_pem_slice(key).map_err(|_| "key: it is no private key in PEM".to_owned())?;
                let built = builder.with_client_auth_cert(chain, key);
                built.map_err(|error| format!("certificate and key: {error}"))?
            }
        };
        // What a server showed before says nothing of what it shows now.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            names,
        })
    }

    /// Speaks TLS over a stream to the server at `address`, in the pod of that name.
    ///
    /// # Errors
    /// [`LinkError::Refused`] with the reason, where the server does not speak TLS as described.
    pub(super) async fn secure(
        &self,
        stream: BoxedStream,
        address: &Address,
        pod: &str,
    ) -> Result<BoxedStream, LinkError> {
        let refused = |reason: String| LinkError::Refused {
            address: address.clone(),
            reason,
        };
        let name = match &self.names {
            ServerNames::Unchecked | ServerNames::Addresses => address.host.clone(),
            ServerNames::Name(name) => name.replace("{pod}", pod),
        };
        let name = ServerName::try_from(name).map_err(|error| refused(format!("no TLS: {error}")))?;
        match tokio::time::timeout(PATIENCE, self.connector.connect(name, stream)).await {
            Ok(Ok(secured)) => Ok(Box::new(secured)),
            // The way to the server may tell only now that nobody listens.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(refused(error.to_string())),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => Err(LinkError::Unreachable {
                address: address.clone(),
                reason: error.to_string(),
            }),
            Ok(Err(error)) => Err(refused(format!("no TLS: {}", reason(&error)))),
            Err(_) => Err(LinkError::TimedOut {
                address: address.clone(),
                command: "the TLS handshake".into(),
                after: PATIENCE,
                got: None,
            }),
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("there is no certificate in it (-----BEGIN CERTIFICATE-----)".to_owned()),
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

/// Why a connection over TLS failed, for whoever wrote the description.
pub(super) fn reason(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => "what it says is no TLS: is this its port without TLS?".to_owned(),
        Some(rustls::Error::InvalidCertificate(wrong)) => of_certificate(wrong),
        Some(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure,
        )) => "it wants a certificate of its clients: name one (tls: certificate, key)".to_owned(),
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("it refuses the suite's TLS, or the certificate that the suite shows: {alert:?}")
        }
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "it hung up during the handshake".to_owned(),
        None => error.to_string(),
    }
}

fn of_certificate(wrong: &CertificateError) -> String {
    match wrong {
        CertificateError::UnknownIssuer => {
            "its certificate is signed by nobody in the description's tls: ca".to_owned()
        }
        CertificateError::Expired => "its certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            let until = i64::try_from(not_after.as_secs()).ok();
            let until = until.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
            format!(
                "its certificate has expired: it was good until {}",
                until.unwrap_or_default()
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not good yet: look at the clocks".to_owned()
        }
        CertificateError::NotValidForName => "its certificate is for another name (tls: serverNames)".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "its certificate is not for {} (tls: serverNames) but for {}",
            expected.to_str(),
            if presented.is_empty() {
                "no name".to_owned()
            } else {
                presented.join(", ")
            }
        ),
        other => format!("its certificate cannot be accepted: {other}"),
    }
}

/// The usual verification, but that any name will do where the description says so.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    any_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self
            .inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name comes last: everything else has been verified by then.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;

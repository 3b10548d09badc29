//! Over a server of rustls in the same process.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rstest::rstest;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuer(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of the issuer's for the names, with its key: both PEM.
fn certified(issuer: &Issuer, names: &[&str], alter: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    alter(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

/// What a server is like.
struct Server {
    own: (String, String),
    /// Whose clients it takes alone.
    clients: Option<String>,
}

/// The stream to a server that greets with `+hello\r\n` whoever it lets in.
fn serve(server: &Server) -> BoxedStream {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match &server.clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(ca.as_bytes()).unwrap() {
                roots.add(root).unwrap();
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = certificates(server.own.0.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(server.own.1.as_bytes()).unwrap();
    let config = builder.with_single_cert(chain, key).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(far).await {
            let _ = stream.write_all(b"+hello\r\n").await;
            let _ = stream.flush().await;
            // The other side is the one that ends it.
            let _ = stream.read_u8().await;
        }
    });
    Box::new(near)
}

/// What comes of a connection: the greeting, or why there is none.
async fn greeted(tls: &Tls, stream: BoxedStream) -> Result<String, String> {
    let address = Address::new("10.0.0.1", 6379);
    let mut stream = tls
        .secure(stream, &address, "store-0")
        .await
        .map_err(|error| error.to_string())?;
    let mut greeting = [0; 8];
    match stream.read_exact(&mut greeting).await {
        Ok(_) => Ok(String::from_utf8_lossy(&greeting).trim().to_owned()),
        Err(error) => Err(reason(&error)),
    }
}

const REFUSED: &str = "10.0.0.1:6379: does not accept connections: no TLS: ";

#[rstest]
#[case::nobody_s_name(ServerNames::Unchecked, &["elsewhere"], "")]
#[case::address(ServerNames::Addresses, &["10.0.0.1"], "")]
#[case::another_address(ServerNames::Addresses, &["10.0.0.2"], "its certificate is not for 10.0.0.1 (tls: serverNames) but for")]
#[case::name_of_the_pod(ServerNames::Name("{pod}.store.svc".into()), &["*.store.svc"], "")]
#[case::name_in_the_namespace(ServerNames::Name("{pod}.store.{namespace}.svc".into()).of("shop"), &["*.store.shop.svc"], "")]
#[case::another_namespace(
    ServerNames::Name("{pod}.store.{namespace}.svc".into()).of("shop"),
    &["*.store.cart.svc"],
    "its certificate is not for store-0.store.shop.svc (tls: serverNames) but for"
)]
#[case::another_name(
    ServerNames::Name("{pod}.store.svc".into()),
    &["store-1.store.svc"],
    "its certificate is not for store-0.store.svc (tls: serverNames) but for"
)]
#[tokio::test]
async fn names_are_verified_as_described(#[case] names: ServerNames, #[case] of: &[&str], #[case] told: &str) {
    let ca = issuer("ca");
    let tls = Tls::new(ca.pem().as_bytes(), None, names).unwrap();
    let server = Server {
        own: certified(&ca, of, |_| {}),
        clients: None,
    };
    match (greeted(&tls, serve(&server)).await, told) {
        (Ok(greeting), "") => assert_eq!(greeting, "+hello"),
        (Err(error), told) if !told.is_empty() => assert!(error.contains(told), "{error}"),
        (other, _) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn unchecked_names_let_no_other_flaw_through() {
    let (ca, other) = (issuer("ca"), issuer("other"));
    let tls = Tls::new(ca.pem().as_bytes(), None, ServerNames::Unchecked).unwrap();
    let (past, future) = (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(4000, 1, 1));
    let flawed = [
        (
            certified(&other, &["a"], |_| {}),
            "signed by nobody in the description's tls: ca",
        ),
        (
            certified(&ca, &["a"], |params| params.not_after = past),
            "has expired: it was good until 2001-01-01T00:00:00Z",
        ),
        (
            certified(&ca, &["a"], |params| params.not_before = future),
            "is not good yet",
        ),
    ];
    for (own, told) in flawed {
        let error = greeted(&tls, serve(&Server { own, clients: None })).await.unwrap_err();
        assert!(error.starts_with(REFUSED) && error.contains(told), "{error}");
    }
}

#[tokio::test]
async fn a_client_s_certificate_is_shown_where_it_is_asked_for() {
    let ca = issuer("ca");
    let own = certified(&ca, &["suite"], |_| {});
    let server = Server {
        own: certified(&ca, &["a"], |_| {}),
        clients: Some(ca.pem()),
    };
    let pem = ca.pem();
    let with = Tls::new(
        pem.as_bytes(),
        Some((own.0.as_bytes(), own.1.as_bytes())),
        ServerNames::Unchecked,
    )
    .unwrap();
    assert_eq!(greeted(&with, serve(&server)).await.unwrap(), "+hello");
    let without = Tls::new(pem.as_bytes(), None, ServerNames::Unchecked).unwrap();
    let error = greeted(&without, serve(&server)).await.unwrap_err();
    assert!(error.contains("it wants a certificate of its clients"), "{error}");
}

#[rstest]
#[case::redis(b"-ERR unknown command\r\n", "what it says is no TLS: is this its port without TLS?")]
#[case::hangs_up(b"", "it hung up during the handshake")]
#[tokio::test]
async fn a_server_without_tls_is_told(#[case] says: &'static [u8], #[case] told: &str) {
    let tls = Tls::new(issuer("ca").pem().as_bytes(), None, ServerNames::Unchecked).unwrap();
    let (near, mut far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut hello = [0; 5];
        let _ = far.read_exact(&mut hello).await;
        let _ = far.write_all(says).await;
    });
    assert_eq!(greeted(&tls, Box::new(near)).await, Err(format!("{REFUSED}{told}")));
}

#[rstest]
#[case::empty("", "ca: there is no certificate in it")]
#[case::key(
    "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "ca: there is no certificate in it"
)]
#[case::nonsense(
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "ca: a certificate in it is of no use"
)]
fn what_is_no_certificate_is_told(#[case] ca: &str, #[case] told: &str) {
    let error = Tls::new(ca.as_bytes(), None, ServerNames::Unchecked).err().unwrap();
    assert!(error.starts_with(told), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_told_and_not_shown() {
    let ca = issuer("ca");
    let (certificate, _) = certified(&ca, &["a"], |_| {});
    let (_, key) = certified(&ca, &["b"], |_| {});
    let own = Some((certificate.as_bytes(), key.as_bytes()));
    let error = Tls::new(ca.pem().as_bytes(), own, ServerNames::Unchecked)
        .err()
        .unwrap();
    assert!(error.starts_with("certificate and key:"), "{error}");
    let line = key.lines().nth(1).unwrap();
    assert!(!error.contains(line));
}

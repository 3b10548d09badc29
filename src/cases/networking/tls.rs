//! Servers that serve their clients over TLS and without it.

use super::names::{only_on_loopback, spares};
use crate::check::{Look, expect, unless};
use crate::cluster::connection::{Address, Connection, LinkError};
use crate::cluster::node::parse_slots;
use crate::cluster::redirect::Redirect;
use crate::context::{Alteration, Context, TLS_PORT, authenticate};
use crate::joining::meet;
use crate::verdict::{Outcome, Stop};
use rustls::pki_types::{CertificateDer, ServerName};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// A certificate for loopback that nobody but this case trusts, and its key, as files of a folder.
fn certify(folder: &Path) -> Result<CertificateDer<'static>, anyhow::Error> {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    std::fs::write(folder.join("certificate.pem"), certified.cert.pem())?;
    std::fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem())?;
    Ok(certified.cert.der().clone())
}

pub(super) async fn ports_by_connection(cx: &Context) -> Outcome {
    only_on_loopback(cx).await?;
    // Readable by nobody else, and gone with the case.
    let folder = tempfile::tempdir().map_err(anyhow::Error::from)?;
    let certificate = certify(folder.path())?;
    let (certified, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    let directives = [
        format!("tls-port {TLS_PORT}"),
        "tls-cluster yes".to_owned(),
        "tls-auth-clients no".to_owned(),
        format!("tls-cert-file \"{}\"", certified.display()),
        format!("tls-key-file \"{}\"", key.display()),
        format!("tls-ca-cert-file \"{}\"", certified.display()),
        // Two slots are enough to see who is where.
        "cluster-require-full-coverage no".to_owned(),
    ];
    let scratch = spares(cx, 2, directives.map(Alteration::everywhere).into());
    let client = client(certificate)?;
    cx.with_scratch(&scratch, async |beside| both_kinds(beside, &client).await)
        .await
}

/// A client that trusts one certificate alone.
fn client(certificate: CertificateDer<'static>) -> Result<TlsConnector, anyhow::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An authenticated connection over TLS.
async fn connect(beside: &Context, client: &TlsConnector, address: &Address) -> Result<Connection, LinkError> {
    let refused = |reason: String| LinkError::Refused {
        address: address.clone(),
        reason,
    };
    let target = &beside.shared().target;
    let opening = async {
        let stream = target.connect(address).await?;
        let name = ServerName::try_from(address.host.clone()).map_err(|error| refused(error.to_string()))?;
        let secured = client.connect(name, stream).await;
        secured.map_err(|error| refused(format!("no TLS: {error}")))
    };
    let opened = tokio::time::timeout(beside.patience(), opening).await;
    let stream = opened.map_err(|_| refused("no TLS in time".into()))??;
    let mut connection = Connection::new(Box::new(stream), address.clone(), beside.patience());
    authenticate(&mut connection, &**target).await?;
    Ok(connection)
}

async fn both_kinds(beside: &Context, client: &TlsConnector) -> Outcome {
    let members = beside.members().await?;
    let (mut plain, mut secured) = (Vec::new(), Vec::new());
    for (slot, member) in members.iter().enumerate() {
        let mut connection = beside.connect(&member.address).await?;
        let reply = connection.ask(&["CONFIG", "GET", "tls-port"]).await?;
        let port = reply.array().and_then(|items| items.get(1)?.text()?.parse().ok());
        let port: u16 = port.ok_or_else(|| connection.nonsense("CONFIG GET", reply.to_string()))?;
        plain.push(member.address.clone());
        secured.push(Address::new(member.address.host.clone(), port));
        let reply = connection.call(&["CLUSTER", "ADDSLOTS", &slot.to_string()]).await?;
        expect(
            reply.is_ok(),
            "+OK",
            format!("{member}: CLUSTER ADDSLOTS {slot} -> {reply}"),
        )?;
    }
    let ([first, _], [_, other]) = (plain.as_slice(), secured.as_slice()) else {
        return Err(anyhow::anyhow!("{} servers beside the deployment, not 2", members.len()).into());
    };
    // The bus goes with the port for TLS.
    let what = "over TLS the ports for TLS in CLUSTER SLOTS and MOVED of both servers, and the plain ones without it";
    meet(beside, first, &[other], what, async || {
        let mut findings = Vec::new();
        for at in 0..2 {
            let connection = beside.connect(&plain[at]).await?;
            findings.extend(of_one_kind(beside, connection, &plain, at).await?);
            let connection = connect(beside, client, &secured[at]).await?;
            findings.extend(of_one_kind(beside, connection, &secured, at).await?);
        }
        Ok(if findings.is_empty() {
            Look::Reached(())
        } else {
            Look::NotYet(findings.join("\n"))
        })
    })
    .await
}

/// What a server says wrongly over a connection of the kind to which the addresses belong; each server owns the slot of
/// its number.
async fn of_one_kind(
    beside: &Context,
    mut connection: Connection,
    addresses: &[Address],
    at: usize,
) -> Result<Vec<String>, Stop> {
    let here = &addresses[at];
    let reply = connection.ask(&["CLUSTER", "SLOTS"]).await?;
    let entries = parse_slots(&reply, &here.host).map_err(|reason| connection.nonsense("CLUSTER SLOTS", reason))?;
    let named: BTreeSet<&Address> = entries
        .iter()
        .flat_map(|entry| entry.nodes.iter().map(|(address, _)| address))
        .collect();
    let expected: BTreeSet<&Address> = addresses.iter().collect();
    let mut findings = Vec::new();
    if named != expected {
        findings.push(format!("{here}: CLUSTER SLOTS names {named:?}, not {expected:?}"));
    }
    let elsewhere = 1 - at;
    let key = beside.key_in(elsewhere as u16, "tls");
    let reply = connection.call(&["GET", &key]).await?;
    let moved = Redirect::parse(&reply).is_some_and(|redirect| redirect.address == addresses[elsewhere]);
    let command = format!("GET in slot {elsewhere} (its owner is at {})", addresses[elsewhere]);
    findings.extend(unless(moved, here, command, &reply));
    Ok(findings)
}

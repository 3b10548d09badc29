//! The way to an API server, and its errors in words that say what to do.

use crate::target::TargetError;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

mod again;

/// How long the API server may take to take a connection, and to answer the first question.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may be kept that nobody uses.
const IDLE: Duration = Duration::from_secs(30);

/// How many times more a request is sent whose connection ended before there was an answer.
const AGAIN: u8 = 2;

/// A client, and what it is connected to.
#[derive(Clone)]
pub(super) struct Reached {
    pub(super) client: Client,
    pub(super) context: String,
    pub(super) namespace: String,
    pub(super) url: String,
    pub(super) version: String,
}

/// Reads the kubeconfig and asks the API server for its version.
pub(super) async fn reach(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Reached, TargetError> {
    // Harmless when it was done before: the first provider stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = kubeconfig.map_or_else(|| "the kubeconfig".to_owned(), |path| path.display().to_string());
    let read = match kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let known = read.map_err(|error| {
        TargetError::Usage(format!(
            "{error}\nName a kubeconfig that can be read with --kubeconfig, or by KUBECONFIG."
        ))
    })?;
    let contexts: Vec<String> = known.contexts.iter().map(|context| context.name.clone()).collect();
    let current = context.map(str::to_owned).or_else(|| known.current_context.clone());
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(known, &options)
        .await
        .map_err(|error| match error {
            KubeconfigError::LoadContext(name) => TargetError::Usage(format!(
                "the context \"{name}\" does not exist in {file}; there are: {}",
                if contexts.is_empty() {
                    "none".to_owned()
                } else {
                    contexts.join(", ")
                }
            )),
            KubeconfigError::CurrentContextNotSet => TargetError::Usage(format!(
                "{file} names no current context; choose one with --context: {}",
                contexts.join(", ")
            )),
            other => TargetError::Usage(format!("{file} cannot be used: {other}")),
        })?;
    answering(config, current.unwrap_or_default(), &file).await
}

/// The way from a pod of the cluster, as its service account.
pub(super) async fn from_inside() -> Result<Reached, TargetError> {
    // Harmless when it was done before: the first provider stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Config::incluster().map_err(|error| {
        TargetError::Usage(format!(
            "--in-cluster: this is no pod with a service account: {error}\n\
             Run it as the Job of manifests/conformance-job.yaml, or leave --in-cluster out."
        ))
    })?;
    answering(config, "the pod's service account".to_owned(), "the service account").await
}

/// kube's own client, but that connections that nobody uses are given up before the API server gives them up: it does so
/// after 90 s, as kube would, and a request that meets that moment fails. And that a request is sent again that lost its
/// connection, where it may be done twice.
fn client(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut connector = hyper_timeout::TimeoutConnector::new(config.rustls_https_connector()?);
    connector.set_connect_timeout(config.connect_timeout);
    let transport = hyper_util::client::legacy::Builder::new(hyper_util::rt::TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .build(connector);
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .retry(again::Again(AGAIN))
        .service(transport);
    Ok(Client::new(service, config.default_namespace))
}

/// Asks the API server for its version; `source` is where the configuration comes from.
async fn answering(mut config: Config, context: String, source: &str) -> Result<Reached, TargetError> {
    // Retries of minutes would look like a hang; what is worth a retry is retried where it is awaited.
    config.default_retry = false;
    config.connect_timeout = Some(PATIENCE);
    let url = config.cluster_url.to_string();
    let namespace = config.default_namespace.clone();
    let client =
        client(config).map_err(|error| TargetError::Usage(format!("{source} cannot be used: {}", chain(&error))))?;
    let reason = match tokio::time::timeout(PATIENCE, client.apiserver_version()).await {
        Ok(Ok(version)) => {
            return Ok(Reached {
                client,
                context,
                namespace,
                url,
                version: version.git_version,
            });
        }
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
            return Err(TargetError::Usage(format!(
                "the API server {url} does not accept the user of the context \"{context}\": {}",
                status.message
            )));
        }
        Ok(Err(error)) => chain(&error),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    };
    Err(TargetError::Surroundings(format!(
        "the API server {url} of the context \"{context}\" cannot be reached: {reason}\n\
         Is that cluster running? Another one is chosen with --context."
    )))
}

/// An error of the API while `what` was being done.
pub(super) fn failed(what: &str, error: &kube::Error) -> TargetError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => TargetError::NotAllowed(format!(
            "{what}: not allowed: {}\nThe context's user needs that right.",
            status.message
        )),
        kube::Error::Api(status) => TargetError::Surroundings(format!("{what}: {}", status.message)),
        other => TargetError::Surroundings(format!("{what}: {}", chain(other))),
    }
}

/// Whether the API said that there is no such object.
pub(super) fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &kube::Error) -> String {
    let mut text = match error {
        kube::Error::Api(status) => return status.message.clone(),
        // The names of the client's own layers help nobody.
        kube::Error::Service(_) | kube::Error::HyperError(_) => String::new(),
        other => other.to_string(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

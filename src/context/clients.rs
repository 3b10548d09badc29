//! Clients other than the suite's own: programs that run where a server runs, and a client library.

use super::{Context, Execution, Secret, Target, TargetError};
use crate::cluster::client_program;
use crate::cluster::connection::Address;
use crate::cluster::node::Member;
use crate::verdict::Stop;
use std::sync::Arc;
use std::time::Duration;

impl Context {
    /// Runs a program where a server runs, for at most `limit`. What is secret goes by `environment`, never by `command`.
    ///
    /// # Errors
    /// When it could not be run to its end; its own exit status is no error.
    pub async fn exec(
        &self,
        member: &Member,
        command: &[&str],
        environment: &[(&str, &Secret)],
        limit: Duration,
    ) -> Result<Execution, Stop> {
        Ok(self.shared.target.exec(member, command, environment, limit).await?)
    }

    /// Runs the deployment's own command-line client where a server runs: the first of [`client_program::NAMES`] that is there. It
    /// is given the password by the environment.
    ///
    /// # Errors
    /// An unsupported stop where there is no client; an error when it could not be run to its end within `limit`.
    pub async fn client_program(
        &self,
        member: &Member,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<Execution, Stop> {
        let password = self.shared.target.password();
        self.client_program_with(member, arguments, password.as_ref(), limit)
            .await
    }

    /// [`Self::client_program`], with another password or none.
    ///
    /// # Errors
    /// As [`Self::client_program`].
    pub async fn client_program_with(
        &self,
        member: &Member,
        arguments: &[&str],
        password: Option<&Secret>,
        limit: Duration,
    ) -> Result<Execution, Stop> {
        let options = self.client_options(member, password.is_some()).await?;
        let environment = client_program::environment(password);
        // A container may have the password in its own environment.
        let without: Vec<&str> = match password {
            Some(_) => Vec::new(),
            None => ["env"]
                .into_iter()
                .chain(client_program::PASSWORDS.iter().flat_map(|name| ["-u", *name]))
                .collect(),
        };
        let mut refusals = Vec::new();
        for program in client_program::NAMES {
            // It asks no server, but a busy machine may take seconds to start a program: that is not the lack of one.
            match self
                .exec(member, &[program, "--version"], &[], self.timing().hook())
                .await
            {
                Ok(Execution { status: 0, .. }) => {
                    let options = options.iter().map(String::as_str);
                    let command = without.iter().chain([&program]).copied().chain(options);
                    let command: Vec<&str> = command.chain(arguments.iter().copied()).collect();
                    return self.exec(member, &command, &environment, limit).await;
                }
                Ok(other) => refusals.push(format!("{program}: status {}: {}", other.status, other.stderr.trim())),
                Err(Stop::Error(error)) => refusals.push(format!("{program}: {error:#}")),
                Err(stop) => return Err(stop),
            }
        }
        Err(Stop::Unsupported(format!(
            "there is no client beside {member}: {}",
            refusals.join("; ")
        )))
    }

    /// What a command-line client must be given in a pod to speak to the servers: the options of TLS, and the user where it
    /// authenticates. No word of it has a space in it.
    ///
    /// # Errors
    /// An unsupported stop where no client there can speak to them.
    pub async fn client_options(&self, member: &Member, authenticates: bool) -> Result<Vec<String>, Stop> {
        let target = &self.shared.target;
        let mut options = target.client_options(member).await.map_err(|error| match error {
            TargetError::Usage(reason) => Stop::Unsupported(reason),
            error => error.into(),
        })?;
        if let Some(user) = target.user().filter(|_| authenticates) {
            options.extend(["--user".to_owned(), user]);
        }
        Ok(options)
    }

    /// A client library's connection to the whole cluster, entered at one server, with a password of its own: it learns
    /// the topology, opens further connections and follows redirections by itself, as users' clients do.
    ///
    /// # Errors
    /// The library's. Its text names addresses and replies, never the password.
    pub async fn cluster_client(
        &self,
        entry: &Address,
        password: Option<&Secret>,
    ) -> Result<redis::cluster_async::ClusterConnection, redis::RedisError> {
        let patience = self.patience();
        let resolver = ThroughTarget(self.shared.target.clone());
        let mut builder = redis::cluster::ClusterClientBuilder::new([(entry.host.clone(), entry.port)])
            .async_dns_resolver(resolver)
            .connection_timeout(patience)
            .response_timeout(patience)
            .overall_response_timeout(Some(patience * 2))
            .retries(2)
            .min_retry_wait(10)
            .max_retry_wait(200);
        if let Some(password) = password {
            builder = builder.password(password.expose());
            if let Some(user) = self.shared.target.user() {
                builder = builder.username(user);
            }
        }
        let connecting = builder.build()?;
        match tokio::time::timeout(patience * 2, connecting.get_async_connection()).await {
            Ok(connection) => connection,
            Err(_) => Err((redis::ErrorKind::Io, "no connection in time").into()),
        }
    }
}

/// Lets a client library reach the addresses that the cluster announces in the way the target does.
struct ThroughTarget(Arc<dyn Target>);

impl redis::io::AsyncDNSResolver for ThroughTarget {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> redis::RedisFuture<'a, Box<dyn Iterator<Item = std::net::SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            match self.0.dial(&Address::new(host, port)).await {
                Ok(address) => Ok(Box::new(std::iter::once(address)) as Box<dyn Iterator<Item = _> + Send>),
                Err(error) => Err(std::io::Error::other(error.to_string()).into()),
            }
        })
    }
}

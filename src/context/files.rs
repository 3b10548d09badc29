//! The files that a server's configuration names, by the paths that they have where the server runs.

use super::Context;
use crate::case::Capability;
use crate::cluster::node::Member;
use crate::target::redis_conf::{below, directive};
use crate::verdict::Stop;

/// The directive that names nodes.conf.
const NODES_CONF: &str = "cluster-config-file";

impl Context {
    /// The path of a server's nodes.conf. Before Redis 7.0 `CONFIG GET` does not know its directive; then the redis.conf that
    /// the server was started with says it, where that can be read.
    ///
    /// # Errors
    /// When the server does not answer, or does not say where its data is.
    pub async fn nodes_conf(&self, member: &Member) -> Result<String, Stop> {
        if let Some(path) = self.file_named(member, NODES_CONF).await? {
            return Ok(path);
        }
        let written = self.redis_conf(member).await?;
        let name = written.as_deref().and_then(|conf| directive(conf, NODES_CONF));
        // The server's own default.
        let name = name.unwrap_or_else(|| "nodes.conf".to_owned());
        self.in_data_folder(member, &name).await
    }

    /// The path of the file that a directive names (`logfile`); nothing where it names none.
    ///
    /// # Errors
    /// As [`Self::nodes_conf`].
    pub async fn file_named(&self, member: &Member, directive: &str) -> Result<Option<String>, Stop> {
        match self.setting(member, directive).await? {
            Some(name) if !name.is_empty() => self.in_data_folder(member, &name).await.map(Some),
            Some(_) | None => Ok(None),
        }
    }

    async fn in_data_folder(&self, member: &Member, name: &str) -> Result<String, Stop> {
        match self.setting(member, "dir").await? {
            Some(folder) => Ok(below(&folder, name)),
            None if name.starts_with('/') => Ok(name.to_owned()),
            None => Err(anyhow::anyhow!("{member} does not say by CONFIG GET dir where its data is").into()),
        }
    }

    /// The redis.conf that a server was started with; nothing where it was given none, or no program can read it.
    async fn redis_conf(&self, member: &Member) -> Result<Option<String>, Stop> {
        if !self.capabilities().contains(&Capability::Exec) {
            return Ok(None);
        }
        let info = self
            .connect(&member.address)
            .await?
            .ask_text(&["INFO", "server"])
            .await?;
        let path = info.lines().find_map(|line| line.trim().strip_prefix("config_file:"));
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        let shown = self.exec(member, &["cat", path], &[], self.patience()).await?;
        Ok((shown.status == 0).then_some(shown.stdout))
    }
}

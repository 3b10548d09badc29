//! The commands of a description: one installs a deployment that no manifest makes, the other removes it.

use super::Descriptor;
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::NonZeroU64;
use std::time::Duration;

/// How long a command may take, where nothing else is said: twice as long as `helm --wait` waits.
const TEN_MINUTES: NonZeroU64 = NonZeroU64::new(600).expect("it is not zero");

/// A command that runs on the user's machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserCommand {
    /// The program and its arguments, each a word of its own: `[helm, install, shop, ./chart, --wait]`. No shell reads them,
    /// unless the words say so: `[sh, -c, "…"]`. A program with a slash in its name is relative to this file.
    pub command: Vec<String>,
    /// How many seconds it may take. Then it is ended, with all that it started.
    #[serde(default = "ten_minutes")]
    pub seconds: NonZeroU64,
}

fn ten_minutes() -> NonZeroU64 {
    TEN_MINUTES
}

impl UserCommand {
    /// How long it may take.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.seconds.get())
    }

    /// The program's name, as it is written.
    pub fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }
}

impl Descriptor {
    /// What is wrong with the commands, for the reader of the description, and the field in which it is.
    pub(super) fn flaw_of_commands(&self) -> Option<(&'static str, &'static str)> {
        let empty = |command: &Option<UserCommand>| command.as_ref().is_some_and(|it| it.program().is_empty());
        if empty(&self.install) {
            return Some(("/install/command", "install: the command names no program"));
        }
        if empty(&self.remove) {
            return Some(("/remove/command", "remove: the command names no program"));
        }
        match (&self.install, &self.remove) {
            (Some(_), _) if self.manifest.is_some() => Some((
                "/install",
                "install: the description names a manifest too, which the suite applies and removes itself; leave out one of them",
            )),
            (Some(_), None) => Some((
                "/install",
                "install: there is no remove, and a run leaves nothing behind; add the command that takes away what this one makes",
            )),
            (None, Some(_)) => Some((
                "/remove",
                "remove: there is no install, so the suite makes nothing that this command could take away; add the one, or leave \
                 out the other",
            )),
            (Some(_), Some(_)) | (None, None) => None,
        }
    }
}

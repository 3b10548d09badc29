//! The programs of a server's release: beside its binary, where that is named by a path.

use crate::cluster::client_program;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folder of the server's release, where its binary is named by a path.
fn release(server: &Path) -> Option<&Path> {
    server.parent().filter(|folder| !folder.as_os_str().is_empty())
}

/// A program of the server's release: beside its binary, else wherever it is found. Where a client lies beside, one by another
/// name is not taken from elsewhere: it would be another release's.
pub(super) fn of_release(server: &Path, name: &str) -> PathBuf {
    let beside = |name: &str| release(server).map(|folder| folder.join(name));
    let lies_beside = |name: &str| beside(name).is_some_and(|path| path.is_file());
    let is_client = client_program::NAMES.contains(&name);
    let own_client = is_client && client_program::NAMES.iter().any(|name| lies_beside(name));
    match beside(name) {
        Some(path) if path.is_file() || own_client => path,
        _ => PathBuf::from(name),
    }
}

/// Where programs are looked for: in the server's release first.
pub(super) fn path_of_release(server: &Path) -> Option<OsString> {
    let folder = release(server)?.to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&others))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::beside(true, "valkey-cli", true)]
    #[case::another_client_is_beside(true, "redis-cli", true)]
    #[case::no_client_and_not_beside(true, "env", false)]
    #[case::not_named_by_a_path(false, "valkey-cli", false)]
    fn the_client_is_the_release_s_own(#[case] by_path: bool, #[case] name: &str, #[case] beside: bool) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("valkey-cli"), "").unwrap();
        let server = match by_path {
            true => folder.path().join("valkey-server"),
            false => PathBuf::from("valkey-server"),
        };
        let expected = match beside {
            true => folder.path().join(name),
            false => PathBuf::from(name),
        };
        assert_eq!(of_release(&server, name), expected);
        assert_eq!(path_of_release(&server).is_some(), by_path);
    }
}

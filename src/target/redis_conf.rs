//! redis.conf: of a server that a target starts itself, the manifest's own with what must differ replaced; and what any says.

use super::{Alteration, Secret, TargetError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Directives that targets set themselves, whatever the manifest says.
const REPLACED: [&str; 18] = [
    "bind",
    "bind-source-addr",
    "cluster-announce-bus-port",
    "cluster-announce-ip",
    "cluster-announce-port",
    "cluster-announce-tls-port",
    "cluster-config-file",
    "cluster-port",
    "daemonize",
    "dir",
    "include",
    "logfile",
    "masterauth",
    "pidfile",
    "port",
    "replica-announce-ip",
    "requirepass",
    "unixsocket",
];

/// The files in a server's folder that are none of its data.
pub(super) const NO_DATA: [&str; 3] = ["redis.conf", "redis.log", "output.txt"];

/// The manifest's redis.conf with the target's own directives and the password in the place of its own.
pub(super) fn configuration(base: &str, directives: &[String], password: Option<&Secret>) -> String {
    let kept = base.lines().filter(|line| {
        let word = line.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        !REPLACED.contains(&word.as_str())
    });
    let own = directives.iter().map(String::as_str);
    let mut text: String = kept.chain(own).flat_map(|line| [line, "\n"]).collect();
    if let Some(password) = password {
        // Every byte escaped: no password can then end the quotes or be taken for an escape.
        let escaped: String = password.expose().bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        text.push_str(&format!("requirepass \"{escaped}\"\nmasterauth \"{escaped}\"\n"));
    }
    text
}

/// The lines that alterations add for one server. They come after everything else.
pub(super) fn altered(alterations: &[Alteration], node: usize) -> Vec<String> {
    let concerning = alterations.iter().filter(|altered| altered.concerns(node));
    concerning.flat_map(|altered| altered.directives.clone()).collect()
}

/// Writes a redis.conf in `folder`, readable by nobody else: it holds the password.
pub(super) fn write(folder: &Path, text: &str, altered: &[String]) -> Result<(), TargetError> {
    let failed = |error: std::io::Error| TargetError::Surroundings(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let altered: String = altered.iter().flat_map(|line| [line, "\n"]).collect();
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(folder.join("redis.conf"))
        .and_then(|mut file| write!(file, "{text}{altered}"))
        .map_err(failed)
}

/// The path of a file that is in a folder, unless it is named by a whole path.
pub(crate) fn below(folder: &str, file: &str) -> String {
    match file.starts_with('/') {
        true => file.to_owned(),
        false => format!("{}/{file}", folder.trim_end_matches('/')),
    }
}

/// What a redis.conf says of a directive: the last line counts.
pub(crate) fn directive(conf: &str, wanted: &str) -> Option<String> {
    conf.lines()
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned())
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn what_the_target_says_takes_the_place_of_what_the_manifest_says() {
        let base = "bind 0.0.0.0\nappendonly yes\ncluster-node-timeout 5000\nPORT 6379\n  requirepass \"x\"\n# port\n";
        let own = ["bind 127.0.0.1".to_owned(), "port 17000".to_owned()];
        assert_eq!(
            configuration(base, &own, Some(&Secret::new("a\""))),
            "appendonly yes\ncluster-node-timeout 5000\n# port\nbind 127.0.0.1\nport 17000\n\
             requirepass \"\\x61\\x22\"\nmasterauth \"\\x61\\x22\"\n"
        );
    }

    #[test]
    fn a_server_s_own_alterations_come_with_those_of_all() {
        let alterations = [Alteration::everywhere("appendonly no"), Alteration::of(1, "save \"\"")];
        assert_eq!(altered(&alterations, 0), ["appendonly no"]);
        assert_eq!(altered(&alterations, 1), ["appendonly no", "save \"\""]);
    }

    #[rstest]
    #[case("/data/", "nodes.conf", "/data/nodes.conf")]
    #[case("/data", "/var/nodes.conf", "/var/nodes.conf")]
    fn files_are_below_the_server_s_folder(#[case] folder: &str, #[case] file: &str, #[case] path: &str) {
        assert_eq!(below(folder, file), path);
    }

    #[rstest]
    #[case::usual("port 6379\ncluster-config-file nodes.conf\n", Some("nodes.conf"))]
    #[case::quoted("cluster-config-file \"/data/n.conf\"\r\n", Some("/data/n.conf"))]
    #[case::twice("Cluster-Config-File a\n  cluster-config-file   b\n", Some("b"))]
    #[case::comment("# cluster-config-file nodes-6379.conf\n", None)]
    #[case::another("cluster-config-files a\n", None)]
    fn the_last_line_says_it(#[case] conf: &str, #[case] value: Option<&str>) {
        assert_eq!(directive(conf, "cluster-config-file").as_deref(), value);
    }
}

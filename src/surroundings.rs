//! What this machine has of what each target needs, and the signals that end a run.

use crate::target::{TargetKind, docker};
use std::time::Duration;
use tokio::process::Command;

/// One thing that a target needs of the machine, and whether it is there.
#[derive(Clone, Debug)]
pub struct Need {
    /// The target that needs it.
    pub target: TargetKind,
    /// What it is.
    pub thing: &'static str,
    /// What was found (a version), or why nothing was.
    pub found: Result<String, String>,
    /// What to do when it is missing.
    pub remedy: &'static str,
    /// Whether the target can do without it in other surroundings.
    pub optional: bool,
}

/// Looks for everything that the targets `processes`, `docker` and `kind` need.
pub async fn needs() -> Vec<Need> {
    let image = |name: &'static str| ["image", "inspect", "--format", "{{.Id}}", name];
    let (node, redis) = (
        image("redis-cluster-conformance/node:v1.20.2"),
        image("redis-cluster-conformance/redis:7.0"),
    );
    let (server, daemon, servers_image, docker, kind, node, redis) = tokio::join!(
        first_line("redis-server", &["--version"]),
        docker::daemon_version(),
        docker::image_id(docker::DEFAULT_IMAGE),
        first_line("docker", &["info", "--format", "{{.ServerVersion}}"]),
        first_line("kind", &["version"]),
        first_line("docker", &node),
        first_line("docker", &redis),
    );
    let need = |target, thing, found, remedy, optional| Need {
        target,
        thing,
        found,
        remedy,
        optional,
    };
    use TargetKind::{Docker, Kind, Processes};
    vec![
        need(
            Processes,
            "redis-server",
            server,
            "install it (Debian: redis-server), or name another with --server",
            false,
        ),
        need(
            Docker,
            "a Docker daemon",
            daemon,
            "scripts/setup --for docker installs and starts one",
            false,
        ),
        need(
            Docker,
            "the image for Redis",
            servers_image,
            "scripts/setup --for docker builds it, scripts/images those of other versions; or name one with --image",
            false,
        ),
        need(
            Kind,
            "a Docker daemon",
            docker,
            "scripts/setup installs and starts one",
            false,
        ),
        need(Kind, "kind", kind, "scripts/setup installs it", false),
        need(
            Kind,
            "the node image made without a registry",
            node,
            "scripts/setup builds it; it is not needed where kind's own image can be pulled",
            true,
        ),
        need(Kind, "the image for Redis", redis, "scripts/setup builds it", false),
    ]
}

/// What the machine lacks so that a target cannot be made; nothing when all is there.
pub async fn missing_for(kind: TargetKind) -> Option<String> {
    let missing: Vec<String> = needs()
        .await
        .into_iter()
        .filter(|need| need.target == kind && !need.optional)
        .filter_map(|need| {
            Some(format!(
                "{} is missing ({}): {}",
                need.thing,
                need.found.err()?,
                need.remedy
            ))
        })
        .collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

/// The first line that a program prints, or why there is none.
async fn first_line(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(10), output)
        .await
        .map_err(|_| "it does not answer within 10 s".to_owned())?
        .map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// Completes at the first signal to end. At the second the program ends at once, and the next run cleans up. A terminal that
/// goes away is such a signal too, once: both the shell and the system tell of it.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    // Who ignores it (nohup) goes on without a terminal; a handler would take the place of that.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut hangup = hangup_ends(&status)
        .then(|| signal(SignalKind::hangup()).ok())
        .flatten();
    let hung_up = async {
        match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hung_up => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(i32::from(crate::exit::BROKEN));
    });
}

/// Whether a hang-up ends this program, by what Linux says of it: not where it is ignored, or where nothing is said.
fn hangup_ends(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|signals| u64::from_str_radix(signals.trim(), 16).ok());
    // The lowest bit is that of signal 1, SIGHUP.
    ignored.is_some_and(|signals| signals & 1 == 0)
}

/// Whether this machine has the address `::1`.
pub fn has_ipv6_loopback() -> bool {
    std::net::TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::hangup_ends;
    use rstest::rstest;

    #[rstest]
    #[case::usual("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n", true)]
    #[case::nohup("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n", false)]
    #[case::no_such_line("Name:\tx\n", false)]
    #[case::no_such_file("", false)]
    #[case::nonsense("SigIgn:\tx\n", false)]
    fn a_hangup_that_is_ignored_stays_so(#[case] status: &str, #[case] ends: bool) {
        assert_eq!(hangup_ends(status), ends);
    }
}

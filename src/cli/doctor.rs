//! `doctor`: what this machine has of what each target needs, and what to do about the rest.

use crate::exit;
use std::time::Duration;
use tokio::process::Command;

/// Looks, prints a line for each thing, and returns 0 when every target can be used, else 3.
pub(super) async fn run() -> u8 {
    let found = [
        (
            "processes",
            "redis-server",
            version("redis-server", &["--version"]).await,
            "apt-get install redis-server",
        ),
        (
            "kind",
            "docker daemon",
            version("docker", &["info", "--format", "{{.ServerVersion}}"]).await,
            "scripts/setup installs and starts it",
        ),
        (
            "kind",
            "kind",
            version("kind", &["version"]).await,
            "scripts/setup installs it",
        ),
        (
            "kind",
            "node image without a registry",
            version(
                "docker",
                &[
                    "image",
                    "inspect",
                    "--format",
                    "{{.Id}}",
                    "redis-cluster-conformance/node:v1.20.2",
                ],
            )
            .await,
            "scripts/setup builds it; where kind's own image can be pulled it is not needed",
        ),
        (
            "kind",
            "image for Redis",
            version(
                "docker",
                &[
                    "image",
                    "inspect",
                    "--format",
                    "{{.Id}}",
                    "redis-cluster-conformance/redis:7.0",
                ],
            )
            .await,
            "scripts/setup builds it",
        ),
    ];
    let mut complete = true;
    for (target, thing, seen, remedy) in found {
        match seen {
            Ok(text) => anstream::println!("ok       {target:<10} {thing}: {text}"),
            Err(why) => {
                complete = false;
                anstream::println!("missing  {target:<10} {thing}: {why}; {remedy}");
            }
        }
    }
    if complete { exit::CONFORMANT } else { exit::BROKEN }
}

/// The first line that a program prints, or why there is none.
async fn version(program: &str, arguments: &[&str]) -> Result<String, String> {
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

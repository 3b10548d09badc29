//! Child processes: kind, which makes clusters, and docker, which alone reaches into a cluster's node. Every one has a time
//! limit and ends with its owner; what it says is kept in a file and its last lines come with an error.
//!
//! No argument may hold a secret: arguments can be read by everybody on the machine.

use crate::cluster::connection::BoxedStream;
use crate::target::TargetError;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How many of a child's last lines come with an error.
const LINES: usize = 15;

/// What to do when a program or the daemon is not there.
const NEXT_STEP: &str = "scripts/setup installs and starts what is missing; \
                         --target processes needs neither Docker nor kind";

/// Runs a program whose output is its answer.
pub(super) async fn ask(program: &str, arguments: &[&str], limit: Duration) -> Result<String, TargetError> {
    let mut command = command(program, arguments)?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let what = told(program, arguments);
    let output = match tokio::time::timeout(limit, command.output()).await {
        Ok(output) => output.map_err(|error| TargetError::Surroundings(format!("{what}: {error}")))?,
        Err(_) => return Err(too_slow(&what, limit, "")),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(TargetError::Surroundings(format!(
        "{what}: {}: {}",
        output.status,
        last_lines(&said)
    )))
}

/// Runs a program that works for long; what it says is kept in `log`.
pub(super) async fn work(program: &str, arguments: &[&str], limit: Duration, log: &Path) -> Result<(), TargetError> {
    let what = told(program, arguments);
    let unwritable = |error: std::io::Error| TargetError::Surroundings(format!("{}: {error}", log.display()));
    let mut file = File::options()
        .create(true)
        .append(true)
        .read(true)
        .open(log)
        .map_err(unwritable)?;
    writeln!(file, "\n$ {what}").map_err(unwritable)?;
    let begins = file.stream_position().map_err(unwritable)?;
    let mut command = command(program, arguments)?;
    command
        .stdout(file.try_clone().map_err(unwritable)?)
        .stderr(file.try_clone().map_err(unwritable)?);
    let mut child = command
        .spawn()
        .map_err(|error| TargetError::Surroundings(format!("{what}: {error}")))?;
    let waited = tokio::time::timeout(limit, child.wait()).await;
    let mut said = String::new();
    let _ = file.seek(SeekFrom::Start(begins));
    let _ = file.read_to_string(&mut said);
    match waited {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(TargetError::Surroundings(format!(
            "{what}: {status}; all it said is in {}; its end:\n{}",
            log.display(),
            last_lines(&said)
        ))),
        Ok(Err(error)) => Err(TargetError::Surroundings(format!("{what}: {error}"))),
        Err(_) => Err(too_slow(&what, limit, &last_lines(&said))),
    }
}

/// Runs a program whose input and output are a stream. It ends with the stream.
pub(super) fn pipe(program: &str, arguments: &[&str]) -> Result<BoxedStream, TargetError> {
    let mut command = command(program, arguments)?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let what = told(program, arguments);
    let failed = |reason: String| TargetError::Surroundings(format!("{what}: {reason}"));
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    match (child.stdout.take(), child.stdin.take()) {
        (Some(output), Some(input)) => Ok(Box::new(Piped {
            stream: tokio::io::join(output, input),
            _child: child,
        })),
        (_, _) => Err(failed("it has no streams".to_owned())),
    }
}

/// A child's streams as one. The child is killed when they are let go.
struct Piped {
    stream: Join<ChildStdout, ChildStdin>,
    _child: Child,
}

impl AsyncRead for Piped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Piped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether Docker's daemon answers.
pub(super) async fn check_docker() -> Result<(), TargetError> {
    let limit = Duration::from_secs(20);
    match ask("docker", &["version", "--format", "{{.Server.Version}}"], limit).await {
        Ok(_) => Ok(()),
        Err(TargetError::Usage(text)) => Err(TargetError::Surroundings(text)),
        Err(error) => Err(TargetError::Surroundings(format!(
            "Docker's daemon does not answer: {error}\n{NEXT_STEP}."
        ))),
    }
}

fn command(program: &str, arguments: &[&str]) -> Result<Command, TargetError> {
    let path = which::which(program)
        .map_err(|_| TargetError::Surroundings(format!("{program} is not installed. {NEXT_STEP}.")))?;
    let mut command = Command::new(path);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        // Ctrl-C is for the suite, which then ends its children in order.
        .process_group(0);
    Ok(command)
}

fn told(program: &str, arguments: &[&str]) -> String {
    let words = arguments.iter().filter(|word| !word.contains('\n'));
    let words: Vec<&str> = std::iter::once(program).chain(words.copied()).collect();
    words.join(" ")
}

fn too_slow(what: &str, limit: Duration, said: &str) -> TargetError {
    TargetError::Surroundings(format!("{what}: not done within {} s\n{said}", limit.as_secs()))
}

fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.trim().lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_has_the_end_of_what_the_child_said() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let limit = Duration::from_secs(10);
        let error = work("sh", &["-c", "seq 30; echo why >&2; exit 3"], limit, &log)
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("exit status: 3") && text.ends_with("30\nwhy") && !text.contains("\n7\n"),
            "{text}"
        );
        let error = ask("sh", &["-c", "echo no >&2; exit 1"], limit)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("exit status: 1: no"), "{error}");
        assert_eq!(ask("echo", &["yes"], limit).await.unwrap(), "yes\n");
    }

    #[tokio::test]
    async fn a_child_has_a_time_limit() {
        let error = ask("sleep", &["5"], Duration::from_millis(50))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("sleep 5: not done within"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_said_with_the_next_step() {
        let error = ask("no-such-program", &[], Duration::from_secs(1))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("no-such-program is not installed. scripts/setup"),
            "{error}"
        );
    }
}

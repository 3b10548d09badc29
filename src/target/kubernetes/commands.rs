//! Commands in the containers of a deployment's pods.

use super::client::failed;
use super::site::{Site, timed_out};
use crate::target::{Execution, Secret, TargetError};
use k8s_openapi::api::core::v1 as core;
use kube::api::AttachParams;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

impl Site {
    /// Runs a command in the server's container of a pod.
    pub(super) async fn run(&self, pod: &str, command: &[&str], limit: Duration) -> Result<Execution, TargetError> {
        self.run_in(pod, &self.descriptor.container, command, limit).await
    }

    /// Runs a command in a container of a pod.
    pub(super) async fn run_in(
        &self,
        pod: &str,
        container: &str,
        command: &[&str],
        limit: Duration,
    ) -> Result<Execution, TargetError> {
        let name = command.first().copied().unwrap_or_default();
        let what = format!("running {name} in pod {pod}");
        match tokio::time::timeout(limit, self.run_unbounded(pod, container, command, &[], &what)).await {
            Ok(done) => done,
            Err(_) => Err(timed_out(&what, limit)),
        }
    }

    /// Runs a command in the server's container of a pod, with environment variables whose values nobody may see: whoever
    /// can look at processes or at the API server's audit log sees a command's arguments, so the values go by standard
    /// input, to a shell that puts them into the environment and then becomes the command.
    pub(super) async fn run_with(
        &self,
        pod: &str,
        command: &[&str],
        environment: &[(&str, &Secret)],
        limit: Duration,
    ) -> Result<Execution, TargetError> {
        if environment.is_empty() {
            return self.run(pod, command, limit).await;
        }
        let name = command.first().copied().unwrap_or_default();
        let what = format!("running {name} in pod {pod}");
        let script = read_environment(environment)?;
        let with_shell: Vec<&str> = ["sh", "-c", &script, "sh"]
            .into_iter()
            .chain(command.iter().copied())
            .collect();
        let values: Vec<&Secret> = environment.iter().map(|(_, value)| *value).collect();
        match tokio::time::timeout(
            limit,
            self.run_unbounded(pod, &self.descriptor.container, &with_shell, &values, &what),
        )
        .await
        {
            Ok(done) => done,
            Err(_) => Err(timed_out(&what, limit)),
        }
    }

    async fn run_unbounded(
        &self,
        pod: &str,
        container: &str,
        command: &[&str],
        input: &[&Secret],
        what: &str,
    ) -> Result<Execution, TargetError> {
        let parameters = AttachParams::default()
            .container(container)
            .stdin(!input.is_empty())
            .stdout(true)
            .stderr(true);
        let mut process = self
            .api::<core::Pod>()
            .exec(pod, command.iter().copied(), &parameters)
            .await
            .map_err(|error| failed(what, &error))?;
        // Held until the command has ended: the end of input cannot be told apart from the end of the stream.
        let mut input_stream = process.stdin();
        if let Some(stream) = &mut input_stream {
            for line in input {
                let written = async {
                    stream.write_all(line.expose().as_bytes()).await?;
                    stream.write_all(b"\n").await
                };
                let broken = |error| TargetError::Surroundings(format!("{what}: its input: {error}"));
                written.await.map_err(broken)?;
            }
            let flushed = stream.flush().await;
            flushed.map_err(|error| TargetError::Surroundings(format!("{what}: its input: {error}")))?;
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (output, errors, status) = (process.stdout(), process.stderr(), process.take_status());
        let read_output = async {
            if let Some(mut stream) = output {
                stream.read_to_end(&mut stdout).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        let read_errors = async {
            if let Some(mut stream) = errors {
                stream.read_to_end(&mut stderr).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        tokio::try_join!(read_output, read_errors)
            .map_err(|error| TargetError::Surroundings(format!("{what}: {error}")))?;
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        drop(input_stream);
        let status = status.ok_or_else(|| TargetError::Surroundings(format!("{what}: it ended without a status")))?;
        if status.status.as_deref() != Some("Success") && exit_code(&status).is_none() {
            let message = status.message.unwrap_or_default();
            return Err(TargetError::Surroundings(format!("{what}: {message}")));
        }
        Ok(Execution {
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            status: exit_code(&status).unwrap_or(0),
        })
    }
}

/// A shell's commands that read the variables, a line each, and then become the command. They never read to the end of
/// input, which cannot be signalled.
fn read_environment(environment: &[(&str, &Secret)]) -> Result<String, TargetError> {
    let mut script = String::new();
    for (name, value) in environment {
        let plain = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(TargetError::Usage(format!(
                "{name} is no name of an environment variable"
            )));
        }
        if value.expose().contains(['\n', '\0']) {
            return Err(TargetError::Usage(format!(
                "the value of {name} has more than one line: it cannot be handed to a program in a container"
            )));
        }
        script.push_str(&format!("IFS= read -r {name} && export {name} && "));
    }
    script.push_str("exec \"$@\" </dev/null");
    Ok(script)
}

/// The exit code in the status of a command that failed.
fn exit_code(status: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> Option<i32> {
    let causes = status.details.as_ref()?.causes.as_ref()?;
    let cause = causes
        .iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))?;
    cause.message.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn a_shell_hands_over_what_is_secret_and_waits_for_no_end_of_input() {
        let (first, second) = (Secret::new(" a\\b $HOME `x` \"'*"), Secret::new("-e"));
        let environment = [("FIRST", &first), ("SECOND_2", &second)];
        let script = read_environment(&environment).unwrap();
        let mut shell = Command::new("sh")
            .args([
                "-c",
                &script,
                "sh",
                "sh",
                "-c",
                "printf '%s|%s' \"$FIRST\" \"$SECOND_2\"",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = shell.stdin.take().unwrap();
        for (_, value) in environment {
            writeln!(input, "{}", value.expose()).unwrap();
        }
        let output = shell.wait_with_output().unwrap();
        drop(input);
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("{}|{}", first.expose(), second.expose())
        );
    }

    #[test]
    fn what_a_shell_could_misread_is_refused() {
        let lines = Secret::new("a\nb");
        assert!(read_environment(&[("NAME", &lines)]).is_err());
        let plain = Secret::new("a");
        assert!(read_environment(&[("NAME; x", &plain)]).is_err());
    }
}

//! The suite's own log, on standard error: what no verdict hangs on and somebody may want to know all the same. Warnings;
//! the variable `RCC_LOG` asks for more, or for nothing.

use std::io::{self, IsTerminal, Write};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable that says how much is told.
const VARIABLE: &str = "RCC_LOG";

/// Begins to tell, if nobody does yet.
///
/// # Errors
/// When the variable names no level.
pub fn start() -> anyhow::Result<()> {
    let level = level(std::env::var(VARIABLE).ok().as_deref())?;
    // Of what libraries log nobody here knows that there is no secret in it.
    let own = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Line)
        .with_ansi(false)
        .with_target(false)
        .without_time();
    // An error means that somebody listens already.
    let _ = tracing_subscriber::registry().with(own).with(lines).try_init();
    Ok(())
}

fn level(asked: Option<&str>) -> anyhow::Result<LevelFilter> {
    match asked.filter(|asked| !asked.is_empty()) {
        None => Ok(LevelFilter::WARN),
        Some(asked) => asked.parse().map_err(|_| {
            anyhow::anyhow!("{VARIABLE}={asked}: no such level; there are off, error, warn, info, debug and trace")
        }),
    }
}

/// Standard error, to which every message comes whole. On a terminal it takes the place of what is waited for, which is told
/// again within a second.
struct Line;

impl Write for Line {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let mut to = io::stderr().lock();
        if to.is_terminal() {
            to.write_all(b"\r\x1b[2K")?;
        }
        to.write_all(message)?;
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(None, Some(LevelFilter::WARN))]
    #[case(Some(""), Some(LevelFilter::WARN))]
    #[case(Some("off"), Some(LevelFilter::OFF))]
    #[case(Some("debug"), Some(LevelFilter::DEBUG))]
    #[case(Some("DEBUG"), Some(LevelFilter::DEBUG))]
    #[case(Some("loud"), None)]
    fn the_variable_names_a_level(#[case] asked: Option<&str>, #[case] wanted: Option<LevelFilter>) {
        assert_eq!(level(asked).ok(), wanted);
    }
}

//! The ports of servers on this machine. A port is kept while its server is down, too: whoever else makes servers here,
//! in this process or another, takes others.

use super::leftovers::parent;
use crate::target::TargetError;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How many ports above a node's own its bus listens (the default that `cluster-port 0` stands for).
pub(super) const BUS_OFFSET: u16 = 10000;
/// How many ports below a node's own it serves clients over TLS, where a case wants that. With `tls-cluster` the bus
/// goes with that port: it then lies between the plain ones and their buses, where nobody else is.
pub(super) const TLS_OFFSET: u16 = 5000;
/// Where free ports are sought; bus ports then stay below 65536, and below those that the system gives to clients.
const PORTS: std::ops::Range<u16> = 17000..22000;

/// A port of ours, until it is dropped; its bus port is ours too, and so are both with TLS.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    path: PathBuf,
    // Held, never read: its lock says whose the port is. The system releases it however the suite ends.
    _lock: File,
}

impl Port {
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// The port, if nobody has it and nobody listens on it.
    fn take(number: u16, folder: &Path) -> std::io::Result<Option<Self>> {
        let path = folder.join(number.to_string());
        let lock = File::create(&path)?;
        // A file that another has removed meanwhile is locked by nobody, and says nothing.
        let ours =
            lock.try_lock().is_ok() && lock.metadata()?.ino() == std::fs::metadata(&path).map_or(0, |file| file.ino());
        if !ours {
            return Ok(None);
        }
        let port = Self {
            number,
            path,
            _lock: lock,
        };
        let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let tls = number - TLS_OFFSET;
        let all = [number, number + BUS_OFFSET, tls, tls + BUS_OFFSET];
        Ok(all.into_iter().all(free).then_some(port))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // While the lock is held; a file that stays is taken by the next one who wants the port.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Free ports, as many as wanted. The search begins at a place that depends on the process, so that two runs at once
/// seldom look at the same ones.
pub(super) fn take(count: usize) -> Result<Vec<Port>, TargetError> {
    let folder = parent().join("ports");
    let failed = |error: std::io::Error| TargetError::Surroundings(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let span = u32::from(PORTS.end - PORTS.start);
    let offset = std::process::id().wrapping_mul(97) % span;
    let mut taken = Vec::new();
    for step in 0..span {
        if taken.len() == count {
            break;
        }
        let number = PORTS.start + ((offset + step) % span) as u16;
        taken.extend(Port::take(number, &folder).map_err(failed)?);
    }
    if taken.len() < count {
        return Err(TargetError::Surroundings(format!(
            "only {} of {count} pairs of free ports between {} and {}",
            taken.len(),
            PORTS.start,
            PORTS.end
        )));
    }
    Ok(taken)
}

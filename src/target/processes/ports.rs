//! The ports of servers on this machine. A port is kept while its server is down, too: whoever else makes servers here,
//! in this process or another, of this user or another, takes others.

use crate::target::TargetError;
use crate::target::folder::is_at;
use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The folder, among the system's temporary files, of the ports that are taken: all users share it, as they share the ports.
const FOLDER: &str = "redis-cluster-conformance-ports";

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
        let Some(lock) = open(&path)? else {
            return Ok(None);
        };
        if lock.try_lock().is_err() || !is_at(&lock, &path) {
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
        // While the lock is held; a file that stays, as another user's does, is taken by the next one who wants the port.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes the folder where there is none. Everyone may make files in it, and remove their own.
fn make_shared(folder: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(folder) {
        // Not as it is made: a user's mask may say less. Nor to what is there: it may lead to somebody's own folder.
        Ok(()) => std::fs::set_permissions(folder, Permissions::from_mode(0o1777)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The file of a port, made where there is none, so that every user can open it and with that lock it. Nothing where somebody
/// else is making it.
fn open(path: &Path) -> std::io::Result<Option<File>> {
    // Not made and opened in one: in such a folder Linux refuses that for a file of another user's (fs.protected_regular).
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => match File::create_new(path) {
            Ok(file) => {
                file.set_permissions(Permissions::from_mode(0o644))?;
                Ok(Some(file))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Free ports, as many as wanted. The search begins at a place that depends on the process, so that two runs at once
/// seldom look at the same ones.
pub(super) fn take(count: usize) -> Result<Vec<Port>, TargetError> {
    let folder = std::env::temp_dir().join(FOLDER);
    let failed = |error: std::io::Error| TargetError::Surroundings(format!("{}: {error}", folder.display()));
    make_shared(&folder).map_err(failed)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn every_user_can_lock_a_port() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("ports");
        for _ in 0..2 {
            make_shared(&folder).unwrap();
            assert_eq!(mode(&folder), 0o1777);
        }
        let path = folder.join("17000");
        let made = open(&path).unwrap().unwrap();
        assert_eq!(mode(&path), 0o644);
        let opened = open(&path).unwrap().unwrap();
        assert!(is_at(&opened, &path));
        made.try_lock().unwrap();
        assert!(opened.try_lock().is_err());
        drop(made);
        opened.try_lock().unwrap();
    }
}

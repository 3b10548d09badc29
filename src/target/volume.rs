//! Volumes of a limited size for servers beside the deployment: a file system in memory, mounted where a server has its
//! folder. It holds what is on it while the server is down, and goes with the run's folder; what a killed run leaves
//! mounted is unmounted by whoever removes that run's folder.

use super::TargetError;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::sync::OnceCell;

/// How long a volume may be busy with what a server leaves behind when it is killed.
const BUSY: Duration = Duration::from_secs(5);
/// Where Linux tells what is mounted.
const MOUNTS: &str = "/proc/self/mounts";

/// Whether this user on this machine may mount, else why not: tried once.
static TRIED: OnceCell<Result<(), String>> = OnceCell::const_new();

/// Runs a program of the system; its complaint where it fails.
async fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.trim().replace('\n', " ")))
}

/// Tries in a run's folder whether volumes can be made: where that run is killed at it, the next one cleans up.
pub(super) async fn find_out(folder: &Path) {
    let trying = async {
        let place = folder.join("volume");
        std::fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        let tried = match mount(&place, 1 << 16).await {
            Ok(()) => unmount_below(&place).await,
            failed => failed,
        };
        let _ = std::fs::remove_dir(&place);
        tried.map_err(|error| error.to_string())
    };
    TRIED.get_or_init(|| trying).await;
}

/// What [`find_out`] found, once it has.
pub(super) fn known() -> Option<&'static Result<(), String>> {
    TRIED.get()
}

/// Makes a volume of so many bytes and mounts it at a server's folder, which is made where it is not there.
pub(super) async fn mount(folder: &Path, bytes: u64) -> Result<(), TargetError> {
    let failed = |reason: String| {
        TargetError::Surroundings(format!(
            "no volume of {bytes} bytes can be mounted at {}: {reason}",
            folder.display()
        ))
    };
    std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
    let about = std::fs::metadata(folder).map_err(|error| failed(error.to_string()))?;
    // The same owner: whoever could write there before can write there now.
    let options = format!(
        "size={bytes},mode=0700,uid={},gid={},nosuid,nodev,noexec",
        about.uid(),
        about.gid()
    );
    let place = folder.display().to_string();
    let arguments = ["-t", "tmpfs", "-o", &options, "redis-cluster-conformance", &place];
    run("mount", &arguments).await.map_err(failed)
}

/// Unmounts every volume in a folder or at it. Nothing when there is none.
pub(super) async fn unmount_below(folder: &Path) -> Result<(), TargetError> {
    // Where there is no such file, nothing was mounted.
    let mounted = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    // The list has no links in its paths.
    let folder = &std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    // The last first: one may be mounted on another.
    for place in places_below(&mounted, folder).into_iter().rev() {
        let (began, place) = (Instant::now(), place.display().to_string());
        while let Err(reason) = run("umount", &[&place]).await {
            if began.elapsed() > BUSY {
                return Err(TargetError::Surroundings(format!(
                    "a volume is left mounted at {place} ({reason}): umount {place}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// The places in the system's list that lie in a folder, in the order in which they were mounted.
fn places_below(mounted: &str, folder: &Path) -> Vec<PathBuf> {
    let places = mounted.lines().filter_map(|line| line.split(' ').nth(1));
    // Spaces and their like are written as three octal digits; in names of ours there are none but perhaps these.
    let places = places.map(|place| PathBuf::from(place.replace("\\040", " ").replace("\\134", "\\")));
    places.filter(|place| place.starts_with(folder)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_mounted_in_the_folder_is_found() {
        let mounted = "proc /proc proc rw 0 0\n\
                       rcc /tmp/a\\040run/17000 tmpfs rw,size=8192k 0 0\n\
                       rcc /tmp/a\\040run/17001 tmpfs rw,size=8192k 0 0\n\
                       rcc /tmp/a\\040run2/17000 tmpfs rw,size=8192k 0 0\n";
        let found = places_below(mounted, Path::new("/tmp/a run"));
        assert_eq!(found, [Path::new("/tmp/a run/17000"), Path::new("/tmp/a run/17001")]);
        assert_eq!(places_below(mounted, Path::new("/tmp/other")), Vec::<PathBuf>::new());
    }
}

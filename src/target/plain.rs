//! What targets share that start servers of their own, by themselves, and look after none: `processes` and `docker`.

use super::{Phase, TargetError, volume};
use crate::case::Capability;
use crate::cluster::connection::Connection;
use crate::cluster::formation;
use crate::cluster::node::Member;
use crate::cluster::view::Shape;
use crate::progress::Progress;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Whether links between the servers can be cut, and why not; none as long as nobody has tried.
pub(super) type Cuttable = Result<(), String>;

/// What can be done to such servers. As long as nobody has tried, what can be hoped for is in it.
pub(super) fn capabilities(cuttable: Option<&Cuttable>) -> BTreeSet<Capability> {
    let mut capabilities = BTreeSet::from([
        Capability::Restart,
        Capability::KeepAway,
        Capability::Crash,
        Capability::Kill,
        Capability::Pause,
        Capability::NewAddress,
        Capability::SwapAddresses,
        Capability::LoseVolume,
        Capability::Scratch,
        Capability::Exec,
        Capability::Files,
    ]);
    if cuttable.is_none_or(Result::is_ok) {
        capabilities.insert(Capability::CutLink);
    }
    if volume::known().is_none_or(Result::is_ok) {
        capabilities.insert(Capability::SmallVolume);
    }
    capabilities
}

/// Why something is lacking of [`capabilities`], where there is more to say than that it is.
pub(super) fn lacks(capability: Capability, cuttable: Option<&Cuttable>) -> Option<String> {
    let found = match capability {
        Capability::CutLink => cuttable,
        Capability::SmallVolume => volume::known(),
        _ => return untended(capability),
    };
    found?.as_ref().err().cloned()
}

/// Why a target that starts servers, or finds them, and leaves them alone is not [`Capability::Tended`].
pub(super) fn untended(capability: Capability) -> Option<String> {
    let reason = "nothing looks after these servers, and alone they do not find each other again";
    (capability == Capability::Tended).then(|| reason.into())
}

/// Lets what changes a filter of packets run to its end, whatever becomes of who waits for it: a change that nobody waits
/// for any more might else be done only after it has been undone.
pub(super) async fn to_its_end(
    change: impl Future<Output = Result<(), String>> + Send + 'static,
) -> Result<(), String> {
    match tokio::spawn(change).await {
        Ok(done) => done,
        Err(error) => Err(error.to_string()),
    }
}

/// A short name for something long: FNV-1a, the same in every build.
pub(super) fn digest(text: &str) -> String {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, mix))
}

/// Makes a cluster of servers that answer and are new, and waits until its replicas' links are up.
pub(super) async fn form(
    members: &[Member],
    connections: &mut [Connection],
    shape: Shape,
    bound: Duration,
    progress: &Progress,
) -> Result<Phase, TargetError> {
    let began = Instant::now();
    let forming = formation::form(members, connections, shape, bound);
    progress
        .during("the servers to form a cluster", bound, forming)
        .await
        .map_err(|error| TargetError::NotDeployed(error.to_string()))?;
    Ok(Phase {
        name: "the suite forms the cluster, links up".into(),
        seconds: began.elapsed().as_secs_f64(),
        // repl-diskless-sync-delay: the first synchronisation of a replica waits that long for others.
        floor: Some(5.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::sync::Arc;
    use tokio::sync::Mutex;

    #[rstest]
    #[case::not_tried(None, true, None)]
    #[case::possible(Some(Ok(())), true, None)]
    #[case::not_possible(Some(Err("no nftables".to_owned())), false, Some("no nftables"))]
    fn what_was_tried_decides(#[case] cuttable: Option<Cuttable>, #[case] can: bool, #[case] reason: Option<&str>) {
        let cuttable = cuttable.as_ref();
        assert_eq!(capabilities(cuttable).contains(&Capability::CutLink), can);
        assert_eq!(lacks(Capability::CutLink, cuttable).as_deref(), reason);
    }

    #[tokio::test]
    async fn who_comes_next_waits_for_a_change_that_nobody_waits_for() {
        let changed = Arc::new(Mutex::new(false));
        let mut held = changed.clone().lock_owned().await;
        let change = to_its_end(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            *held = true;
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::ZERO, change).await.is_err());
        assert!(*changed.lock().await);
    }

    #[rstest]
    #[case("", "cbf29ce484222325")]
    #[case("a", "af63dc4c8601ec8c")]
    fn a_digest_is_the_same_in_every_build(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(digest(text), expected);
    }
}

//! Expectations: each gives a [`Mismatch`] that holds what was allowed and what was seen, or nothing. And the waits,
//! which are named, bounded, and tell their last observation.

use crate::cluster::connection::LinkError;
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::context::Context;
use crate::verdict::{Mismatch, Stop};
use std::fmt::Display;
use std::time::{Duration, Instant};

/// How often a state that nothing announces is looked at again. A measured instant is never better than this.
pub const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Expects `holds`, else says what was expected and what was seen.
///
/// # Errors
/// The mismatch.
pub fn expect(holds: bool, expected: impl Into<String>, actual: impl Into<String>) -> Result<(), Mismatch> {
    if holds {
        Ok(())
    } else {
        Err(Mismatch::new(expected, actual))
    }
}

/// Expects no findings, else shows the first twenty, one a line.
///
/// # Errors
/// The mismatch.
pub fn no_findings(expected: impl Into<String>, findings: &[impl Display]) -> Result<(), Mismatch> {
    if findings.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = findings.iter().take(20).map(ToString::to_string).collect();
    if findings.len() > lines.len() {
        lines.push(format!("and {} more", findings.len() - lines.len()));
    }
    Err(Mismatch::new(expected, lines.join("\n")))
}

/// A finding when `reply` is not what was expected: `node: COMMAND -> reply`.
pub fn unless(holds: bool, node: impl Display, command: impl Display, reply: &Reply) -> Option<String> {
    (!holds).then(|| format!("{node}: {command} -> {reply}"))
}

/// What a look at the cluster gave.
#[derive(Debug)]
pub enum Look<T> {
    /// What was waited for, with its proof.
    Reached(T),
    /// Not yet; the text says what was seen instead.
    NotYet(String),
}

/// Waits until `look` reaches what `what` names, for at most `bound`. A node that cannot be asked meanwhile is an
/// observation, not an error: nodes come and go while one waits.
///
/// # Errors
/// A mismatch with the last observation when the bound has passed; any other stop of `look` at once.
pub async fn eventually<T, F>(cx: &Context, what: &str, bound: Duration, mut look: F) -> Result<T, Stop>
where
    F: AsyncFnMut() -> Result<Look<T>, Stop>,
{
    let started = Instant::now();
    cx.progress()
        .during(&format!("{}: {what}", cx.case_id()), bound, async {
            loop {
                let looked = started.elapsed();
                let seen = match look().await {
                    Ok(Look::Reached(proof)) => return Ok(proof),
                    Ok(Look::NotYet(seen)) => seen,
                    Err(Stop::Error(error)) if error.downcast_ref::<LinkError>().is_some() => format!("{error:#}"),
                    Err(stop) => return Err(stop),
                };
                // The last look begins when the bound has passed: a slow one before says nothing of how things are then.
                if looked >= bound {
                    return Err(Stop::Mismatch(Mismatch::new(
                        format!("{what}, within {:.1} s", bound.as_secs_f64()),
                        format!("after {:.1} s: {seen}", started.elapsed().as_secs_f64()),
                    )));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await
}

/// Waits until `look` has been reached at every look for the whole of `hold`, within `bound` (which includes `hold`).
///
/// # Errors
/// As [`eventually`]; the observation says how often the state was lost.
pub async fn steadily<F>(cx: &Context, what: &str, hold: Duration, bound: Duration, mut look: F) -> Result<(), Stop>
where
    F: AsyncFnMut() -> Result<Look<()>, Stop>,
{
    let mut since: Option<Instant> = None;
    let mut lost: Vec<String> = Vec::new();
    let what = format!("{what}, for {:.1} s on end", hold.as_secs_f64());
    eventually(cx, &what, bound, async || {
        let seen = match look().await {
            Ok(Look::Reached(())) => None,
            Ok(Look::NotYet(seen)) => Some(seen),
            Err(Stop::Error(error)) if error.downcast_ref::<LinkError>().is_some() => Some(format!("{error:#}")),
            Err(stop) => return Err(stop),
        };
        match seen {
            None => {
                let began = *since.get_or_insert_with(Instant::now);
                if began.elapsed() >= hold {
                    return Ok(Look::Reached(()));
                }
                Ok(Look::NotYet(match lost.last() {
                    None => format!("held for {:.1} s", began.elapsed().as_secs_f64()),
                    Some(last) => format!(
                        "held for {:.1} s, after it was lost {} times, last: {last}",
                        began.elapsed().as_secs_f64(),
                        lost.len()
                    ),
                }))
            }
            Some(seen) => {
                if let Some(began) = since.take() {
                    lost.push(format!("after {:.1} s: {seen}", began.elapsed().as_secs_f64()));
                }
                Ok(Look::NotYet(seen))
            }
        }
    })
    .await
}

/// Waits until the cluster is whole.
///
/// # Errors
/// As [`eventually`].
pub async fn whole(cx: &Context, what: &str, bound: Duration) -> Result<(), Stop> {
    eventually(cx, what, bound, async || {
        let missing = cx.look().await?.not_whole(cx.shape());
        Ok(match missing.is_empty() {
            true => Look::Reached(()),
            false => Look::NotYet(missing.join("\n")),
        })
    })
    .await
}

/// Waits until a server's pod is called ready, or not.
///
/// # Errors
/// When it is not within the bound, or the platform cannot be asked.
pub async fn ready(cx: &Context, member: &Member, wanted: bool, bound: Duration) -> Result<(), Stop> {
    let what = format!("{} is {}", member.name, if wanted { "Ready" } else { "not Ready" });
    let deployment = cx.deployment()?;
    eventually(cx, &what, bound, async || {
        let pods = deployment.pods().await?;
        let pod = pods.iter().find(|pod| pod.name == member.name);
        Ok(match pod {
            Some(pod) if pod.ready == wanted => Look::Reached(()),
            Some(pod) => Look::NotYet(format!("{}, ready {}", pod.phase, pod.ready)),
            None => Look::NotYet("there is no such pod".into()),
        })
    })
    .await
}

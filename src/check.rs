//! Expectations: each gives a [`Mismatch`] that holds what was allowed and what was seen, or nothing. And the waits,
//! which are named, bounded, and tell their last observation.

use crate::cluster::connection::LinkError;
use crate::cluster::node::Member;
use crate::cluster::resp::Reply;
use crate::cluster::view::ClusterView;
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

/// A look as a wait takes it.
enum Seen<T> {
    /// What is waited for.
    Reached(T),
    /// Something else, or a node that could not be asked: nodes come and go while one waits.
    NotYet(String),
    /// Nothing: the way to a node was broken, which tells of the suite and not of the node.
    Nothing(anyhow::Error),
}

impl<T> Seen<T> {
    fn of(looked: Result<Look<T>, Stop>) -> Result<Self, Stop> {
        match looked {
            Ok(Look::Reached(proof)) => Ok(Self::Reached(proof)),
            Ok(Look::NotYet(seen)) => Ok(Self::NotYet(seen)),
            Err(Stop::Error(error)) if error.is::<Blind>() => Ok(Self::Nothing(error)),
            Err(Stop::Error(error)) => match error.downcast_ref::<LinkError>() {
                Some(LinkError::Unreachable { .. }) => Ok(Self::Nothing(error)),
                Some(
                    LinkError::Refused { .. }
                    | LinkError::Closed { .. }
                    | LinkError::TimedOut { .. }
                    | LinkError::Nonsense { .. },
                ) => Ok(Self::NotYet(format!("{error:#}"))),
                None => Err(Stop::Error(error)),
            },
            Err(stop) => Err(stop),
        }
    }
}

/// Waits until `look` reaches what `what` names, for at most `bound`. A node that cannot be asked meanwhile is an
/// observation, not an error: nodes come and go while one waits.
///
/// # Errors
/// A mismatch with the last observation when the bound has passed, or an error where the last look saw nothing, since the way
/// to a node was broken; any other stop of `look` at once.
pub async fn eventually<T, F>(cx: &Context, what: &str, bound: Duration, mut look: F) -> Result<T, Stop>
where
    F: AsyncFnMut() -> Result<Look<T>, Stop>,
{
    let started = Instant::now();
    cx.progress()
        .during(&format!("{}: {what}", cx.case_id()), bound, async {
            loop {
                let looked = started.elapsed();
                let seen = match Seen::of(look().await) {
                    Ok(Seen::Reached(proof)) => return Ok(proof),
                    Ok(Seen::NotYet(seen)) => Ok(seen),
                    Ok(Seen::Nothing(error)) => Err(error),
                    Err(stop) => return Err(stop),
                };
                // The last look begins when the bound has passed: a slow one before says nothing of how things are then.
                if looked >= bound {
                    let after = format!("after {:.1} s", started.elapsed().as_secs_f64());
                    return Err(match seen {
                        Ok(seen) => Stop::Mismatch(Mismatch::new(
                            format!("{what}, within {:.1} s", bound.as_secs_f64()),
                            format!("{after}: {seen}"),
                        )),
                        Err(error) => Stop::Error(error.context(format!("{what}: nothing could be seen {after}"))),
                    });
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await
}

/// A state was not seen to hold for long enough, and would have been, had looks in between not seen nothing at all.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Blind(String);

/// For how long a state has been seen to hold.
#[derive(Default)]
struct Hold {
    /// When the looks began of which none showed another state.
    since: Option<Instant>,
    /// The last look, where it showed the state.
    last: Option<Instant>,
    /// The time between looks that follow each other and both showed it.
    held: Duration,
    /// How often the state was lost, and how.
    lost: Vec<String>,
    /// Why the last look that saw nothing did not.
    broken: String,
}

impl Hold {
    /// Takes in a look with its beginning and its end. One that saw nothing, since the way was broken, does not lose the state,
    /// and the time around it does not count as one in which it held.
    fn add(
        &mut self,
        (began, ended): (Instant, Instant),
        hold: Duration,
        seen: Seen<()>,
    ) -> Result<Look<()>, anyhow::Error> {
        match seen {
            Seen::Reached(()) => {
                let since = *self.since.get_or_insert(ended);
                self.held += self.last.map_or(Duration::ZERO, |last| ended - last);
                self.last = Some(ended);
                if self.held >= hold {
                    return Ok(Look::Reached(()));
                }
                let held = format!("held for {:.1} s", self.held.as_secs_f64());
                if ended - since >= hold {
                    let broken = format!("{held}, with looks in between that saw nothing, last: {}", self.broken);
                    return Err(Blind(broken).into());
                }
                Ok(Look::NotYet(match self.lost.last() {
                    None => held,
                    Some(last) => format!("{held}, after it was lost {} times, last: {last}", self.lost.len()),
                }))
            }
            Seen::NotYet(seen) => {
                if self.last.is_some() || !self.held.is_zero() {
                    self.lost
                        .push(format!("after {:.1} s: {seen}", self.held.as_secs_f64()));
                }
                (self.since, self.last, self.held) = (None, None, Duration::ZERO);
                Ok(Look::NotYet(seen))
            }
            Seen::Nothing(error) => {
                self.since = self.since.or(Some(began));
                self.last = None;
                self.broken = format!("{error:#}");
                Err(error)
            }
        }
    }
}

/// Waits until `look` has been reached at every look for the whole of `hold`, within `bound` (which includes `hold`). Looks
/// that saw nothing, since the way to a node was broken, tell neither way.
///
/// # Errors
/// As [`eventually`]; the observation says how often the state was lost. An error, too, where only such looks kept it from
/// being seen to hold for long enough.
pub async fn steadily<F>(cx: &Context, what: &str, hold: Duration, bound: Duration, mut look: F) -> Result<(), Stop>
where
    F: AsyncFnMut() -> Result<Look<()>, Stop>,
{
    let mut held = Hold::default();
    let what = format!("{what}, for {:.1} s on end", hold.as_secs_f64());
    eventually(cx, &what, bound, async || {
        let began = Instant::now();
        let seen = Seen::of(look().await)?;
        Ok(held.add((began, Instant::now()), hold, seen)?)
    })
    .await
}

/// The servers that gave no answer, each a finding; and how many did, where that is not as many as `expected`.
///
/// # Errors
/// When the way to one was broken: nothing is known of it.
pub fn unanswered(view: &mut ClusterView, expected: usize) -> Result<Vec<String>, LinkError> {
    let broken = |(_, error): &(Member, LinkError)| matches!(error, LinkError::Unreachable { .. });
    if let Some(at) = view.silent.iter().position(broken) {
        return Err(view.silent.swap_remove(at).1);
    }
    let silent = view.silent.iter();
    let mut findings: Vec<String> = silent
        .map(|(member, error)| format!("{}: {error}", member.name))
        .collect();
    let answers = view.nodes.len();
    findings.extend((answers != expected).then(|| format!("{answers} of {expected} servers answer")));
    Ok(findings)
}

/// A look at every server but for those that are gone, of which so many should answer; with a finding for each that does not.
///
/// # Errors
/// When the platform cannot be asked which servers there are, or the way to one of them was broken.
pub async fn look_but(cx: &Context, gone: &[Member], expected: usize) -> Result<(ClusterView, Vec<String>), Stop> {
    let mut members = cx.members().await?;
    members.retain(|member| gone.iter().all(|gone| gone.name != member.name));
    let mut view = cx.look_among(members).await;
    let findings = unanswered(&mut view, expected)?;
    Ok((view, findings))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connection::Address;
    use crate::cluster::view::Shape;
    use crate::context::Shared;
    use crate::progress::Progress;
    use crate::settle;
    use crate::target::addresses::AddressesTarget;
    use crate::timing::Timing;
    use rstest::rstest;
    use std::sync::Arc;

    const HOLD: Duration = Duration::from_secs(4);

    fn address() -> Address {
        Address::new("h", 1)
    }

    fn unreachable() -> LinkError {
        let (address, reason) = (address(), "no way".into());
        LinkError::Unreachable { address, reason }
    }

    fn refused() -> LinkError {
        let (address, reason) = (address(), "refused".into());
        LinkError::Refused { address, reason }
    }

    fn closed() -> LinkError {
        LinkError::Closed {
            address: address(),
            command: "PING".into(),
            got: None,
        }
    }

    fn look(gives: &str) -> Result<Look<()>, Stop> {
        match gives {
            "reached" => Ok(Look::Reached(())),
            "not yet" => Ok(Look::NotYet("another state".into())),
            "refused" => Err(refused().into()),
            "closed" => Err(closed().into()),
            "no way" => Err(unreachable().into()),
            "no way, in other words" => Err(anyhow::Error::from(unreachable()).context("asked").into()),
            "unsupported" => Err(Stop::Unsupported("it lacks that".into())),
            broken => Err(anyhow::anyhow!("{broken}").into()),
        }
    }

    /// What a wait ended with.
    fn end(waited: Result<(), Stop>) -> &'static str {
        match waited {
            Ok(()) => "reached",
            Err(Stop::Mismatch(_)) => "mismatch",
            Err(Stop::Unsupported(_)) => "unsupported",
            Err(Stop::Error(_)) => "error",
        }
    }

    #[rstest]
    #[case("reached", "reached")]
    #[case("not yet", "mismatch")]
    #[case("refused", "mismatch")]
    #[case("closed", "mismatch")]
    #[case("no way", "error")]
    #[case("no way, in other words", "error")]
    #[case("a broken suite", "error")]
    #[case("unsupported", "unsupported")]
    #[tokio::test]
    async fn only_what_was_seen_is_a_mismatch(#[case] gives: &str, #[case] expected: &str) {
        let shape = Shape {
            masters: 1,
            replicas_per_master: 0,
        };
        let target = AddressesTarget::new(vec![address()], None, shape).unwrap();
        let timing = Timing::new(Duration::from_secs(1));
        let shared = Shared::new(Arc::new(target), "run".into(), timing, Progress::silent());
        let cx = settle::between(&Arc::new(shared));
        let waited = eventually(&cx, "it", Duration::ZERO, async || look(gives)).await;
        assert_eq!(end(waited), expected);
        let waited = steadily(&cx, "it", Duration::ZERO, Duration::ZERO, async || look(gives)).await;
        assert_eq!(end(waited), expected);
    }

    /// Looks a second apart, `+` where the state was there, `-` where it was not and `?` where nothing could be seen: what
    /// the last one makes of it, where the state is to hold for 4 s.
    #[rstest]
    #[case::all_the_while("+++++", "reached")]
    #[case::not_for_long_enough("++++", "not yet")]
    #[case::lost_once("++-+++", "not yet")]
    #[case::anew_once_it_was_lost("++-+++++", "reached")]
    #[case::never("----", "not yet")]
    #[case::time_around_a_broken_look_does_not_count("++?++", "nothing")]
    #[case::it_does_not_begin_anew_either("++?++++", "reached")]
    #[case::nothing_but_broken_looks("??????", "nothing")]
    #[case::broken_at_first("???++", "nothing")]
    #[case::broken_and_not_for_long_enough_all_the_same("++?+", "not yet")]
    #[case::lost_after_a_broken_look("+++?-++", "not yet")]
    fn a_state_holds_for_as_long_as_it_is_seen(#[case] looks: &str, #[case] expected: &str) {
        let mut held = Hold::default();
        let zero = Instant::now();
        let mut told = "";
        for (at, look) in (0..).zip(looks.chars()) {
            let at = zero + Duration::from_secs(at);
            let seen = match look {
                '+' => Seen::Reached(()),
                '-' => Seen::NotYet("another state".into()),
                _ => Seen::Nothing(unreachable().into()),
            };
            told = match held.add((at, at), HOLD, seen).map_err(Stop::Error) {
                Ok(Look::Reached(())) => "reached",
                Ok(Look::NotYet(_)) => "not yet",
                // As the wait around it takes it.
                Err(stop) => match Seen::<()>::of(Err(stop)) {
                    Ok(Seen::Nothing(_)) => "nothing",
                    Ok(Seen::Reached(()) | Seen::NotYet(_)) | Err(_) => "another end",
                },
            };
        }
        assert_eq!(told, expected);
    }

    #[rstest]
    #[case::as_many_as_expected(vec![], 0, Some(0))]
    #[case::missing(vec![], 2, Some(1))]
    #[case::silent(vec![refused()], 0, Some(1))]
    #[case::silent_and_too_few(vec![refused(), closed()], 2, Some(3))]
    #[case::a_broken_way(vec![refused(), unreachable()], 2, None)]
    fn whoever_should_answer_and_does_not_is_a_finding(
        #[case] errors: Vec<LinkError>,
        #[case] expected: usize,
        #[case] findings: Option<usize>,
    ) {
        let (name, address) = ("a".into(), address());
        let member = Member { name, address };
        let silent = errors.into_iter().map(|error| (member.clone(), error)).collect();
        let mut view = ClusterView { nodes: vec![], silent };
        let found = unanswered(&mut view, expected);
        assert_eq!(found.ok().map(|found| found.len()), findings);
    }
}

//! The bodies of chapter CONS about what a crash loses, and what it must not double.

use crate::check::{expect, no_findings};
use crate::context::Context;
use crate::crash::{self, Crash};
use crate::verdict::Outcome;
use crate::workload::{Ledger, Write};
use std::time::{Duration, Instant};

/// From when until when an acknowledged write to the killed master may be lost: how long before its crash is
/// [`crash::loss_window`], and the first one that is acknowledged after the longest silence is another server's, or the
/// same one's once it is back.
fn window(cx: &Context, crash: &Crash, ledger: &Ledger) -> (Instant, Instant) {
    let (last, _) = ledger.longest_silence(crash.fault, crash.writes.ended);
    (crash.fault - crash::loss_window(cx), last)
}

pub(super) async fn loss_window(cx: &Context) -> Outcome {
    let crash = crash::observe(cx).await?;
    let missing_of_each = crash.missing.clone()?;
    let allowed = crash::loss_window(cx);
    let mut findings = Vec::new();
    let mut lost = 0;
    let mut oldest = Duration::ZERO;
    for (place, (ledger, missing)) in crash.writes.ledgers.iter().zip(&missing_of_each).enumerate() {
        let (from, until) = window(cx, &crash, ledger);
        lost += missing.len();
        let earliest = missing
            .iter()
            .map(|write| crash.fault.saturating_duration_since(write.at));
        oldest = oldest.max(earliest.max().unwrap_or_default());
        let may_be_lost = |write: &&Write| place == 0 && (from..=until).contains(&write.at);
        let others: Vec<&Write> = missing.iter().filter(|write| !may_be_lost(write)).collect();
        if let Some(first) = others.first() {
            let after = first.at.saturating_duration_since(crash.fault);
            let before = crash.fault.saturating_duration_since(first.at);
            findings.push(format!(
                "slot {}: {} of {} acknowledged writes are not there, the first of them {} was acknowledged {}",
                ledger.slot,
                others.len(),
                ledger.acked().count(),
                first.number,
                match before.is_zero() {
                    true => format!("{:.1} s after the crash", after.as_secs_f64()),
                    false => format!("{:.1} s before the crash", before.as_secs_f64()),
                }
            ));
        }
    }
    cx.count("acknowledged writes", crash.writes.acked(), "writes");
    cx.count("acknowledged writes lost", lost, "writes");
    if lost > 0 {
        cx.measure("the oldest lost write, before the crash", oldest, None, Some(allowed));
    }
    no_findings(
        format!(
            "every acknowledged write, but for those to the killed master within {:.1} s of the crash",
            allowed.as_secs_f64()
        ),
        &findings,
    )?;
    Ok(())
}

pub(super) async fn counter(cx: &Context) -> Outcome {
    let crash = crash::observe(cx).await?;
    let counted = crash.counted.clone()?;
    let ledger = &crash.counting;
    let (from, until) = window(cx, &crash, ledger);
    let acked = ledger.acked().count() as u64;
    let unknown = ledger.indeterminate().count() as u64;
    let at_risk = ledger
        .acked()
        .filter(|write| (from..=until).contains(&write.at))
        .count() as u64;
    cx.count("acknowledged attempts to count", ledger.acked().count(), "attempts");
    cx.count("attempts of unknown fate", ledger.indeterminate().count(), "attempts");
    let lost = acked.saturating_sub(counted);
    cx.count(
        "acknowledged attempts lost",
        usize::try_from(lost).unwrap_or(usize::MAX),
        "attempts",
    );
    let (least, most) = (acked - at_risk, acked + unknown);
    Ok(expect(
        (least..=most).contains(&counted),
        format!("between {least} and {most}, with {acked} attempts acknowledged and {unknown} of unknown fate"),
        counted.to_string(),
    )?)
}

//! From what was seen to figures: pure arithmetic over the changes that nodes told and the writes that were tried.

use super::Figures;
use super::looks::{Change, Seen};
use crate::failover::Health;
use crate::report::course::{Attempt, End, Series};
use crate::report::scorecard::Figure;
use crate::workload::{Fate, Ledger};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How much of the time before the fault a series shows.
const BEFORE: Duration = Duration::from_secs(2);

/// What was seen of one trial.
pub(super) struct Watched<'a> {
    /// The master that was hit.
    pub(super) victim: &'a str,
    /// The slot of its shard that is written to.
    pub(super) slot: u16,
    /// The nodes of its shard, itself among them.
    pub(super) shard: Vec<&'a str>,
    /// When the fault was begun.
    pub(super) fault: Instant,
    /// When the watch ended.
    pub(super) ended: Instant,
    /// The looks at all nodes.
    pub(super) seen: Seen,
    /// Since when Kubernetes has called every pod ready, or not so; empty where there is no Kubernetes.
    pub(super) ready: Vec<(Instant, bool)>,
    /// The writes through one node each, of every shard.
    pub(super) by_node: &'a [(String, Ledger)],
    /// The writes of the cluster's clients, of every shard.
    pub(super) client: &'a [Ledger],
}

impl Watched<'_> {
    /// Seconds from the fault to an instant; negative before it.
    pub(super) fn since_fault(&self, at: Instant) -> f64 {
        if at >= self.fault {
            (at - self.fault).as_secs_f64()
        } else {
            -(self.fault - at).as_secs_f64()
        }
    }

    /// The clients' writes, step by step, from a little before the fault until the end of the watch.
    pub(super) fn series(&self, began: Instant) -> Series {
        let attempts = self.client.iter().flat_map(|ledger| {
            ledger.writes.iter().map(|write| Attempt {
                hit: ledger.slot == self.slot,
                due: self.since_fault(write.due),
                took: write.at.saturating_duration_since(write.due).as_secs_f64(),
                end: match write.fate {
                    Fate::Acked => End::Acked,
                    Fate::Refused(_) | Fate::Unsent(_) => End::Refused,
                    Fate::Indeterminate(_) => End::Indeterminate,
                },
            })
        });
        let from = self.since_fault(began).max(-BEFORE.as_secs_f64());
        Series::of(from, self.since_fault(self.ended), attempts)
    }

    /// The changes after the fault.
    fn after(&self) -> impl Iterator<Item = &Change> {
        self.seen.changes.iter().filter(|change| change.at > self.fault)
    }

    /// The first change after the fault, of a node other than the victim.
    fn first_of_others(&self, wanted: impl Fn(&Change) -> bool) -> Option<Instant> {
        let mut others = self.after().filter(|change| change.node != self.victim);
        others.find(|change| wanted(change)).map(|change| change.at)
    }

    /// When the victim was first found silent, refusing, or no master any more.
    fn gone(&self) -> Option<Instant> {
        let mut own = self.after().filter(|change| change.node == self.victim);
        own.find(|change| !change.said.answers || !change.said.master)
            .map(|change| change.at)
    }

    /// The highest current epoch that any node told before the fault.
    fn epoch_before(&self) -> u64 {
        let before = self.seen.changes.iter().filter(|change| change.at <= self.fault);
        before.map(|change| change.said.current_epoch).max().unwrap_or(0)
    }

    /// The epoch under which a write was acknowledged, as far as it is known: that of the node that did, or, of a client's
    /// write to the shard that was hit, the highest of those of its nodes that had called themselves masters by then. What
    /// was written before the first look counts with what that told: the fault comes after it.
    pub(super) fn epoch_of(&self, by: Option<&str>, slot: u16, at: Instant) -> Option<u64> {
        let of_hit = self.client.first().is_some_and(|ledger| ledger.slot == slot);
        let meant = |change: &&Change| match by {
            Some(node) => change.node == node && change.said.answers,
            None => of_hit && change.said.master && self.shard.contains(&change.node.as_str()),
        };
        let told: Vec<&Change> = self.seen.changes.iter().filter(meant).collect();
        let mut by_then = told.iter().filter(|change| change.at <= at);
        let known = match by {
            Some(_) => by_then.next_back(),
            None => by_then.max_by_key(|change| change.said.own_epoch),
        };
        known.or_else(|| told.first()).map(|change| change.said.own_epoch)
    }

    /// What a node said last.
    fn last_of(&self, node: &str) -> Option<&Change> {
        self.seen.changes.iter().rfind(|change| change.node == node)
    }

    /// The shard's master at the end, by the nodes' own words.
    pub(super) fn master(&self) -> Option<String> {
        let last = self.shard.iter().filter_map(|node| self.last_of(node));
        let mut masters = last.filter(|change| change.said.master);
        masters.next().map(|change| change.node.clone())
    }

    /// What the victim is at the end, by its own word.
    pub(super) fn returned_as(&self) -> Option<String> {
        let last = self.last_of(self.victim).filter(|change| change.said.answers)?;
        Some(if last.said.master { "master" } else { "replica" }.into())
    }

    /// The first acknowledged write to the shard after the fault through another node, or through the victim once it had
    /// been gone.
    fn first_write(&self) -> Option<Instant> {
        let gone = self.gone();
        let of_shard = self.by_node.iter().filter(|(_, ledger)| ledger.slot == self.slot);
        let firsts = of_shard.filter_map(|(node, ledger)| {
            let since = if node == self.victim { gone? } else { self.fault };
            ledger.acked().map(|write| write.at).find(|at| *at > since)
        });
        firsts.min()
    }

    /// The first read of the shard's value, likewise.
    fn first_read(&self) -> Option<Instant> {
        let gone = self.gone();
        let of_shard = |change: &&Change| self.shard.contains(&change.node.as_str());
        let mut reads = self.after().filter(of_shard).filter(|change| {
            let since = if change.node == self.victim {
                gone
            } else {
                Some(self.fault)
            };
            change.said.reads && since.is_some_and(|since| change.at > since)
        });
        reads.next().map(|change| change.at)
    }

    /// When the victim first answered after it had been silent; where it never was silent, nothing.
    fn returned(&self) -> Option<Instant> {
        let mut own = self.after().filter(|change| change.node == self.victim);
        own.find(|change| !change.said.answers)?;
        own.find(|change| change.said.answers).map(|change| change.at)
    }

    /// Since when the shard has had one master and a connected replica, by its nodes' own words, until the end.
    fn redundant(&self) -> Option<Instant> {
        let mut states: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
        let mut since = None;
        let mut broken = false;
        for change in &self.seen.changes {
            if !self.shard.contains(&change.node.as_str()) {
                continue;
            }
            states.insert(&change.node, (change.said.master, change.said.connected));
            let masters = states.values().filter(|(master, _)| *master).count();
            let whole = masters == 1 && states.values().any(|(_, connected)| *connected);
            if change.at <= self.fault {
                continue;
            }
            broken |= !whole;
            since = match (whole, since) {
                (false, _) => None,
                (true, None) => Some(change.at),
                (true, since) => since,
            };
        }
        // What was never broken was never mended.
        since.filter(|_| broken)
    }

    /// The longest time without an acknowledged write to the shard, of those through all its nodes and the clients'.
    fn write_gap(&self) -> (Instant, Instant) {
        let direct = self.by_node.iter().map(|(_, ledger)| ledger);
        self.longest_gap(direct.chain(self.client).filter(|ledger| ledger.slot == self.slot))
    }

    /// The longest time without an acknowledged write by a client to another shard.
    fn other_gap(&self) -> Option<f64> {
        let others: BTreeSet<u16> = self.client.iter().map(|ledger| ledger.slot).collect();
        let others = others.into_iter().filter(|slot| *slot != self.slot);
        let gaps = others.map(|slot| self.longest_gap(self.client.iter().filter(|ledger| ledger.slot == slot)));
        gaps.map(|(from, until)| (until - from).as_secs_f64()).reduce(f64::max)
    }

    /// The longest time after the fault in which none of these ledgers had an acknowledged write.
    fn longest_gap<'b>(&self, ledgers: impl Iterator<Item = &'b Ledger>) -> (Instant, Instant) {
        let acked = ledgers.flat_map(Ledger::acked).map(|write| write.at);
        let mut instants: Vec<Instant> = acked.filter(|at| *at > self.fault).collect();
        instants.extend([self.fault, self.ended]);
        instants.sort();
        let gaps = instants.windows(2).map(|pair| (pair[0], pair[1]));
        gaps.max_by_key(|(from, until)| *until - *from)
            .unwrap_or((self.fault, self.fault))
    }

    /// How long Kubernetes called every pod ready during a gap.
    fn ready_during(&self, (from, until): (Instant, Instant)) -> f64 {
        let ends = self.ready.iter().skip(1).map(|(at, _)| *at).chain([self.ended]);
        let spans = self.ready.iter().zip(ends).filter(|((_, ready), _)| *ready);
        let overlaps = spans.map(|((since, _), end)| end.min(until).saturating_duration_since((*since).max(from)));
        overlaps.sum::<std::time::Duration>().as_secs_f64()
    }

    /// All figures that can be told from this.
    pub(super) fn figures(&self) -> Figures {
        let epoch = self.epoch_before();
        let replica = |change: &Change| self.shard.contains(&change.node.as_str());
        let moments = [
            (
                Figure::Suspected,
                self.first_of_others(|change| change.said.health >= Health::Suspected),
            ),
            (
                Figure::Failed,
                self.first_of_others(|change| change.said.health == Health::Failed),
            ),
            (
                Figure::Election,
                self.first_of_others(|change| change.said.current_epoch > epoch),
            ),
            (
                Figure::Promoted,
                self.first_of_others(|change| change.said.master && replica(change)),
            ),
            (Figure::FirstWrite, self.first_write()),
            (Figure::FirstRead, self.first_read()),
            (Figure::Returned, self.returned()),
            (Figure::Redundant, self.redundant()),
        ];
        let mut figures: Figures = moments
            .into_iter()
            .filter_map(|(figure, at)| Some((figure, self.since_fault(at?))))
            .collect();
        let gap = self.write_gap();
        figures.insert(Figure::WriteGap, (gap.1 - gap.0).as_secs_f64());
        if !self.ready.is_empty() {
            figures.insert(Figure::ReadyAndRefusing, self.ready_during(gap));
        }
        figures.extend(self.other_gap().map(|gap| (Figure::OtherGap, gap)));
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::super::looks::Said;
    use super::*;
    use crate::workload::{Fate, Write};
    use pretty_assertions::assert_eq;
    use std::time::Duration;

    const ZERO: u64 = 10_000;

    fn at(began: Instant, millis: u64) -> Instant {
        began + Duration::from_millis(millis)
    }

    fn master() -> Said {
        Said {
            answers: true,
            current_epoch: 6,
            own_epoch: 1,
            master: true,
            reads: true,
            ..Said::default()
        }
    }

    fn replica() -> Said {
        Said {
            master: false,
            connected: true,
            reads: false,
            ..master()
        }
    }

    /// A failover as one sees it: times in milliseconds, the fault at ten seconds.
    fn changes(began: Instant) -> Vec<Change> {
        let suspects = |said: Said, health: Health| Said { health, ..said };
        let alone = Said {
            connected: false,
            ..replica()
        };
        let told: Vec<(u64, &str, Said)> = vec![
            (100, "a", master()),
            (100, "b", replica()),
            (100, "c", master()),
            (ZERO + 10, "a", Said::default()),
            (ZERO + 20, "b", alone.clone()),
            (ZERO + 5_200, "c", suspects(master(), Health::Suspected)),
            (ZERO + 6_000, "b", suspects(alone.clone(), Health::Failed)),
            (
                ZERO + 6_700,
                "b",
                Said {
                    current_epoch: 7,
                    ..suspects(alone, Health::Failed)
                },
            ),
            (
                ZERO + 6_750,
                "b",
                Said {
                    current_epoch: 7,
                    own_epoch: 7,
                    ..suspects(master(), Health::Failed)
                },
            ),
            (
                ZERO + 9_000,
                "a",
                Said {
                    connected: false,
                    ..replica()
                },
            ),
            (ZERO + 9_500, "a", replica()),
        ];
        let change = |(millis, node, said): (u64, &str, Said)| Change {
            node: node.into(),
            at: at(began, millis),
            said,
        };
        told.into_iter().map(change).collect()
    }

    fn ledger(began: Instant, slot: u16, acked: &[u64], refused: &[u64]) -> Ledger {
        let write = |(number, (millis, fate)): (usize, (u64, Fate))| Write {
            number: number as u64,
            due: at(began, millis),
            at: at(began, millis),
            fate,
            redirections: 0,
        };
        let mut writes: Vec<(u64, Fate)> = acked.iter().map(|millis| (*millis, Fate::Acked)).collect();
        writes.extend(refused.iter().map(|millis| (*millis, Fate::Refused("-MOVED".into()))));
        writes.sort_by_key(|(millis, _)| *millis);
        Ledger {
            slot,
            key: "k".into(),
            writes: writes.into_iter().enumerate().map(write).collect(),
        }
    }

    #[test]
    fn a_failover_gives_every_figure() {
        let began = Instant::now();
        let by_node = [
            ("a".to_owned(), ledger(began, 1, &[9_990, 10_002], &[ZERO + 9_100])),
            (
                "b".to_owned(),
                ledger(began, 1, &[ZERO + 6_760, ZERO + 9_900], &[9_990]),
            ),
        ];
        let client = [
            ledger(began, 1, &[9_995, ZERO + 6_900, ZERO + 9_950], &[]),
            ledger(began, 2, &[9_900, ZERO + 400, ZERO + 9_900], &[]),
        ];
        let watched = Watched {
            victim: "a",
            slot: 1,
            shard: vec!["a", "b"],
            fault: at(began, ZERO),
            ended: at(began, ZERO + 10_000),
            seen: Seen {
                changes: changes(began),
                coarsest: Duration::from_millis(8),
            },
            ready: vec![
                (at(began, 100), true),
                (at(began, ZERO + 2_002), false),
                (at(began, ZERO + 6_260), true),
            ],
            by_node: &by_node,
            client: &client,
        };
        let rounded = |seconds: f64| (seconds * 1000.0).round() as i64;
        let figures: Vec<(Figure, i64)> = watched
            .figures()
            .into_iter()
            .map(|(figure, seconds)| (figure, rounded(seconds)))
            .collect();
        assert_eq!(
            figures,
            [
                (Figure::Suspected, 5_200),
                (Figure::Failed, 6_000),
                (Figure::Election, 6_700),
                (Figure::Promoted, 6_750),
                (Figure::FirstWrite, 6_760),
                (Figure::FirstRead, 6_750),
                (Figure::Returned, 9_000),
                (Figure::Redundant, 9_500),
                (Figure::WriteGap, 6_758),
                (Figure::OtherGap, 9_500),
                (Figure::ReadyAndRefusing, 2_500),
            ]
        );
        assert_eq!(watched.master().as_deref(), Some("b"));
        assert_eq!(watched.returned_as().as_deref(), Some("replica"));
        assert_eq!(watched.epoch_of(Some("b"), 1, at(began, ZERO + 6_740)), Some(1));
        assert_eq!(watched.epoch_of(Some("b"), 1, at(began, ZERO + 6_760)), Some(7));
        assert_eq!(watched.epoch_of(Some("a"), 1, at(began, ZERO - 10)), Some(1));
        assert_eq!(watched.epoch_of(None, 1, at(began, ZERO - 10)), Some(1));
        assert_eq!(watched.epoch_of(None, 1, at(began, ZERO + 6_900)), Some(7));
        assert_eq!(watched.epoch_of(None, 2, at(began, ZERO + 6_900)), None);
        assert_eq!(rounded(watched.since_fault(at(began, ZERO - 500))), -500);
    }

    #[test]
    fn a_server_that_comes_back_at_once_is_no_failover() {
        let began = Instant::now();
        let told = [
            (100, "a", master()),
            (100, "b", replica()),
            (ZERO + 10, "a", Said::default()),
            (ZERO + 300, "a", master()),
        ];
        let change = |(millis, node, said): (u64, &str, Said)| Change {
            node: node.into(),
            at: at(began, millis),
            said,
        };
        let by_node = [("a".to_owned(), ledger(began, 1, &[10_001, ZERO + 310], &[]))];
        let watched = Watched {
            victim: "a",
            slot: 1,
            shard: vec!["a", "b"],
            fault: at(began, ZERO),
            ended: at(began, ZERO + 400),
            seen: Seen {
                changes: told.into_iter().map(change).collect(),
                coarsest: Duration::ZERO,
            },
            ready: Vec::new(),
            by_node: &by_node,
            client: &[],
        };
        let figures = watched.figures();
        let told: Vec<Figure> = figures.keys().copied().collect();
        assert_eq!(
            told,
            [
                Figure::FirstWrite,
                Figure::FirstRead,
                Figure::Returned,
                Figure::Redundant,
                Figure::WriteGap
            ]
        );
        assert!((figures[&Figure::FirstWrite] - 0.31).abs() < 1e-9);
        assert_eq!(watched.returned_as().as_deref(), Some("master"));
    }
}

//! Who owns which slots, as every node tells it, and who replicates whom, on which Kubernetes node.

use super::super::picture::{Picture, Pictured, SlotMap};
use crate::cluster::slot::{self, SLOT_COUNT, SlotRange};
use std::collections::BTreeMap;

/// More nodes than this have a row for each different map, not one each.
const MOST_ROWS: usize = 16;
/// The most ranges that are written out.
const MOST_RANGES: usize = 12;
/// How many different colours there are; owners beyond them share one.
const COLOURS: usize = 8;
/// A segment narrower than this, in percent, has no room for its owner's letter.
const NARROWEST: f64 = 3.5;

/// The cluster at one moment.
pub(super) struct Drawn<'a> {
    pub(super) picture: &'a Picture,
    pub(super) agree: bool,
    pub(super) owners: Vec<Key<'a>>,
    pub(super) rows: Vec<Row>,
    pub(super) shards: Vec<Shard<'a>>,
    /// Nodes that belong to no shard that is shown: replicas of somebody unknown, masters without slots.
    pub(super) others: Vec<&'a Pictured>,
    pub(super) hosts: bool,
}

impl Drawn<'_> {
    /// Whether an owner has a line in the table of shards.
    pub(super) fn has_shard(&self, owner: &str) -> bool {
        self.shards.iter().any(|shard| shard.master.name == owner)
    }
}

/// An owner in the legend.
pub(super) struct Key<'a> {
    pub(super) letter: String,
    pub(super) colour: usize,
    pub(super) name: &'a str,
    pub(super) slots: String,
    pub(super) count: usize,
}

/// One node's map, or that of several nodes that tell the same.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) segments: Vec<Segment>,
    /// Where it differs from what most nodes tell, and where slots have no owner, or several.
    pub(super) remarks: Vec<String>,
    /// The slots that differ, drawn below.
    pub(super) differing: Vec<Stretch>,
}

/// Slots in a row with one owner.
pub(super) struct Segment {
    pub(super) colour: usize,
    pub(super) stretch: Stretch,
    /// The owner's letter, and where its middle is, in percent; where there is room.
    pub(super) letter: Option<(String, f64)>,
}

/// Slots in a row, drawn: the first, and how many.
pub(super) struct Stretch {
    pub(super) first: u16,
    pub(super) count: usize,
}

/// A shard.
pub(super) struct Shard<'a> {
    pub(super) letter: String,
    pub(super) colour: usize,
    pub(super) master: &'a Pictured,
    pub(super) replicas: Vec<&'a Pictured>,
    pub(super) slots: String,
    /// Whether all its servers are on one Kubernetes node.
    pub(super) together: bool,
}

/// Every slot's owner: nobody, one by its number, or several.
#[derive(Clone, Copy, PartialEq)]
enum Holder {
    Nobody,
    One(usize),
    Several,
}

pub(super) fn drawn(picture: &Picture) -> Drawn<'_> {
    let mut names: Vec<&str> = Vec::new();
    for owner in picture.maps.iter().flat_map(|map| &map.owners) {
        if !names.contains(&owner.name.as_str()) {
            names.push(&owner.name);
        }
    }
    let holders: Vec<Vec<Holder>> = picture.maps.iter().map(|map| holders(map, &names)).collect();
    let first = picture.maps.first();
    let slots_of = |name: &str| -> Vec<SlotRange> {
        let owners = first.into_iter().flat_map(|map| &map.owners);
        let own = owners.filter(|owner| owner.name == name);
        own.flat_map(|owner| &owner.slots)
            .map(|(first, last)| SlotRange {
                first: *first,
                last: *last,
            })
            .collect()
    };
    let owners = names.iter().enumerate().map(|(at, name)| {
        let slots = slots_of(name);
        Key {
            letter: letter(at),
            colour: at % COLOURS,
            name,
            count: slots.iter().map(|range| range.len()).sum(),
            slots: told(&slots),
        }
    });
    let each = picture.nodes.len() <= MOST_ROWS;
    let mut rows = Vec::new();
    for (map, own) in picture.maps.iter().zip(&holders) {
        let row = |name: String| row(name, own, &holders[0], &names);
        if each {
            rows.extend(map.told_by.iter().cloned().map(row));
        } else {
            let shown: Vec<&str> = map.told_by.iter().take(3).map(String::as_str).collect();
            rows.push(row(match map.told_by.len() {
                0..=3 => shown.join(", "),
                all => format!("{all} nodes: {}, …", shown.join(", ")),
            }));
        }
    }
    let mut shards = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let Some(master) = picture.nodes.iter().find(|node| node.name == *name && node.master) else {
            continue;
        };
        let follows = |node: &&Pictured| node.replicates.as_deref() == Some(*name);
        let replicas: Vec<&Pictured> = picture.nodes.iter().filter(follows).collect();
        let host = master.host.as_ref();
        shards.push(Shard {
            letter: letter(at),
            colour: at % COLOURS,
            slots: told(&slots_of(name)),
            together: host.is_some() && !replicas.is_empty() && replicas.iter().all(|node| node.host.as_ref() == host),
            master,
            replicas,
        });
    }
    let of_shard = |node: &&Pictured| {
        shards.iter().any(|shard| {
            std::ptr::eq(shard.master, *node) || shard.replicas.iter().any(|replica| std::ptr::eq(*replica, *node))
        })
    };
    let others = picture.nodes.iter().filter(|node| !of_shard(node)).collect();
    Drawn {
        picture,
        agree: picture.maps.len() == 1,
        owners: owners.collect(),
        rows,
        others,
        hosts: picture.nodes.iter().any(|node| node.host.is_some()),
        shards,
    }
}

/// `A`, `B`, … `Z`, `AA`, …
fn letter(at: usize) -> String {
    let last = char::from(b'A' + (at % 26) as u8);
    match at / 26 {
        0 => last.to_string(),
        before => format!("{}{last}", letter(before - 1)),
    }
}

/// Ranges in words, as many as are read.
fn told(ranges: &[SlotRange]) -> String {
    match ranges {
        [] => "none".into(),
        few if few.len() <= MOST_RANGES => slot::listed(few),
        many => format!(
            "{}, and {} more ranges",
            slot::listed(&many[..MOST_RANGES]),
            many.len() - MOST_RANGES
        ),
    }
}

fn holders(map: &SlotMap, names: &[&str]) -> Vec<Holder> {
    let numbers: BTreeMap<&str, usize> = names.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let mut holders = vec![Holder::Nobody; usize::from(SLOT_COUNT)];
    for owner in &map.owners {
        let number = numbers.get(owner.name.as_str()).copied().unwrap_or_default();
        for (first, last) in &owner.slots {
            for slot in usize::from(*first)..=usize::from(*last).min(holders.len() - 1) {
                holders[slot] = match holders[slot] {
                    Holder::Nobody => Holder::One(number),
                    Holder::One(_) | Holder::Several => Holder::Several,
                };
            }
        }
    }
    holders
}

/// The slots of which something holds, as ranges.
fn slots_where(holds: impl Fn(usize) -> bool) -> Vec<SlotRange> {
    slot::ranges((0..SLOT_COUNT).filter(|slot| holds(usize::from(*slot))))
}

fn row(name: String, own: &[Holder], most: &[Holder], names: &[&str]) -> Row {
    let mut segments: Vec<(Holder, Stretch)> = Vec::new();
    for (slot, holder) in (0..SLOT_COUNT).zip(own) {
        match segments.last_mut() {
            Some((last, stretch)) if last == holder => stretch.count += 1,
            Some(_) | None => segments.push((*holder, Stretch { first: slot, count: 1 })),
        }
    }
    let segments = segments.into_iter().filter_map(|(holder, stretch)| {
        let share = 100.0 * stretch.count as f64 / f64::from(SLOT_COUNT);
        let middle = 100.0 * f64::from(stretch.first) / f64::from(SLOT_COUNT) + share / 2.0;
        let middle = (middle * 100.0).round() / 100.0;
        let (colour, word) = match holder {
            Holder::Nobody => return None,
            Holder::One(number) => (number % COLOURS, letter(number)),
            Holder::Several => (COLOURS, "several".into()),
        };
        Some(Segment {
            colour,
            letter: (share >= NARROWEST).then_some((word, middle)),
            stretch,
        })
    });
    let segments = segments.collect();
    let mut remarks = Vec::new();
    let nobody = slots_where(|slot| own[slot] == Holder::Nobody);
    if !nobody.is_empty() {
        remarks.push(format!("no owner: {}", told(&nobody)));
    }
    let several = slots_where(|slot| own[slot] == Holder::Several);
    if !several.is_empty() {
        remarks.push(format!("more than one owner: {}", told(&several)));
    }
    let differing = slots_where(|slot| own[slot] != most[slot]);
    for range in differing.iter().take(MOST_RANGES) {
        let word = |holder: Holder| match holder {
            Holder::Nobody => "nobody",
            Holder::One(number) => names.get(number).copied().unwrap_or("nobody"),
            Holder::Several => "several",
        };
        let at = usize::from(range.first);
        remarks.push(format!(
            "differs at {}: {} here, {} for most",
            slot::listed(&[*range]),
            word(own[at]),
            word(most[at])
        ));
    }
    if differing.len() > MOST_RANGES {
        remarks.push(format!("and at {} more ranges", differing.len() - MOST_RANGES));
    }
    Row {
        name,
        segments,
        remarks,
        differing: differing
            .iter()
            .map(|range| Stretch {
                first: range.first,
                count: range.len(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::picture::Owner;
    use super::*;
    use pretty_assertions::assert_eq;

    fn map(told_by: &[&str], owners: &[(&str, &[(u16, u16)])]) -> SlotMap {
        SlotMap {
            told_by: told_by.iter().map(ToString::to_string).collect(),
            owners: owners
                .iter()
                .map(|(name, slots)| Owner {
                    name: (*name).into(),
                    slots: slots.to_vec(),
                })
                .collect(),
        }
    }

    fn node(name: &str, replicates: Option<&str>, host: &str) -> Pictured {
        Pictured {
            name: name.into(),
            master: replicates.is_none(),
            replicates: replicates.map(Into::into),
            link: None,
            host: Some(host.into()),
        }
    }

    #[test]
    fn differences_are_told_and_marked() {
        let picture = Picture {
            moment: "after the cases".into(),
            at: "2026-08-22T10:00:00Z".parse().unwrap(),
            nodes: vec![
                node("a", None, "one"),
                node("b", None, "two"),
                node("c", Some("a"), "one"),
                node("d", Some("gone:6379"), "one"),
            ],
            maps: vec![
                map(&["a", "c", "d"], &[("a", &[(0, 8000)]), ("b", &[(8001, 16383)])]),
                map(&["b"], &[("a", &[(0, 7000)]), ("b", &[(7000, 16000)])]),
            ],
            silent: vec![],
        };
        let drawn = drawn(&picture);
        assert!(!drawn.agree);
        let rows: Vec<(&str, &[String])> = drawn
            .rows
            .iter()
            .map(|row| (row.name.as_str(), row.remarks.as_slice()))
            .collect();
        assert_eq!(rows[..3], [("a", &[][..]), ("c", &[]), ("d", &[])]);
        assert_eq!(
            rows[3].1,
            [
                "no owner: 16001-16383",
                "more than one owner: 7000",
                "differs at 7000-8000: several here, a for most",
                "differs at 16001-16383: nobody here, b for most",
            ]
        );
        let shards: Vec<(&str, usize, bool)> = drawn
            .shards
            .iter()
            .map(|shard| (shard.letter.as_str(), shard.replicas.len(), shard.together))
            .collect();
        assert_eq!(shards, [("A", 1, true), ("B", 0, false)]);
        let others: Vec<&str> = drawn.others.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(others, ["d"]);
    }

    #[test]
    fn owners_have_letters_however_many_there_are() {
        assert_eq!([0, 25, 26, 701, 702].map(letter), ["A", "Z", "AA", "ZZ", "AAA"]);
    }
}

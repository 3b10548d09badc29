//! Keys to slots: CRC16 modulo 16384, hash tags, ranges of slots, and keys that fall into a wanted slot.
//!
//! Source: Redis Cluster specification, "Key distribution model", "Hash tags", Appendix A. The checksum comes from a
//! crate that shares nothing with the client or the server under test.

use crc::{CRC_16_XMODEM, Crc};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::LazyLock;

/// The number of slots of every cluster.
pub const SLOT_COUNT: u16 = 16384;

static CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// The part of a key that is hashed: between the first `{` and the first `}` after it, if that is not empty, else all.
pub fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else {
        return key;
    };
    let rest = &key[open + 1..];
    match rest.iter().position(|&byte| byte == b'}') {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

/// The slot of a key.
pub fn slot_of(key: impl AsRef<[u8]>) -> u16 {
    CRC16.checksum(hashed_part(key.as_ref())) % SLOT_COUNT
}

/// A decimal number for every slot, so that used as a hash tag it puts a key there.
static TAGS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let mut tags = vec![None; usize::from(SLOT_COUNT)];
    let mut missing = tags.len();
    let mut candidate = 0_u32;
    while missing > 0 {
        let place = &mut tags[usize::from(slot_of(candidate.to_string()))];
        if place.is_none() {
            *place = Some(candidate);
            missing -= 1;
        }
        candidate += 1;
    }
    tags.into_iter().flatten().collect()
});

/// The smallest decimal number whose text hashes to `slot`. Used as a hash tag, it puts any key there.
///
/// # Panics
/// When `slot` is not below [`SLOT_COUNT`].
pub fn tag_for(slot: u16) -> u32 {
    TAGS[usize::from(slot)]
}

/// A run of slots, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotRange {
    /// The first slot.
    pub first: u16,
    /// The last slot.
    pub last: u16,
}

impl SlotRange {
    /// Parses `0-5460` or `7`, as `CLUSTER NODES` writes them.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
        };
        (range.first <= range.last && range.last < SLOT_COUNT).then_some(range)
    }

    /// The slots of the range.
    pub fn slots(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }

    /// How many slots it holds.
    pub fn len(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Never: a range holds at least one slot.
    pub fn is_empty(self) -> bool {
        false
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Joins slots into as few ranges as possible, in ascending order.
pub fn ranges(slots: impl IntoIterator<Item = u16>) -> Vec<SlotRange> {
    let mut slots: Vec<u16> = slots.into_iter().collect();
    slots.sort_unstable();
    slots.dedup();
    let mut ranges: Vec<SlotRange> = Vec::new();
    for slot in slots {
        match ranges.last_mut() {
            Some(range) if range.last + 1 == slot => range.last = slot,
            Some(_) | None => ranges.push(SlotRange {
                first: slot,
                last: slot,
            }),
        }
    }
    ranges
}

/// The same slots in as few ranges as possible, in ascending order.
pub fn joined(ranges: impl IntoIterator<Item = SlotRange>) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = ranges.into_iter().collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let adjacent = u32::from(next.first) <= u32::from(range.last) + 1;
        if adjacent {
            range.last = range.last.max(next.last);
        }
        adjacent
    });
    ranges
}

/// Slots as a short text: `0-5460,5462`, or `none`.
pub fn describe(slots: impl IntoIterator<Item = u16>) -> String {
    listed(&ranges(slots))
}

/// Ranges as a short text: `0-5460,5462`, or `none`.
pub fn listed(ranges: &[SlotRange]) -> String {
    if ranges.is_empty() {
        return "none".into();
    }
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case(b"123456789", 12739)]
    #[case(b"", 0)]
    #[case(b"this{foo}key", 12182)]
    #[case(b"another{foo}key", 12182)]
    #[case(b"foo{}{bar}", 8363)]
    #[case(b"foo{{bar}}zap", 4015)]
    #[case(b"foo{bar}{zap}", 5061)]
    #[case(b"foo}{bar}", 5061)]
    #[case(b"\x80{\xff\x00}z", 1023)]
    fn known_slots(#[case] key: &[u8], #[case] slot: u16) {
        assert_eq!(slot_of(key), slot);
    }

    #[test]
    fn every_slot_has_a_tag() {
        for slot in 0..SLOT_COUNT {
            assert_eq!(slot_of(format!("a{{{}}}b", tag_for(slot))), slot);
        }
    }

    #[rstest]
    #[case("0-5460", Some((0, 5460)))]
    #[case("7", Some((7, 7)))]
    #[case("9-7", None)]
    #[case("0-16384", None)]
    #[case("", None)]
    #[case("[93-<-abc]", None)]
    fn parses_ranges(#[case] text: &str, #[case] range: Option<(u16, u16)>) {
        assert_eq!(
            SlotRange::parse(text),
            range.map(|(first, last)| SlotRange { first, last })
        );
    }

    proptest! {
        #[test]
        fn ranges_hold_exactly_the_slots(slots in proptest::collection::btree_set(0..SLOT_COUNT, 0..200)) {
            let joined = ranges(slots.iter().copied());
            let back: std::collections::BTreeSet<u16> = joined.iter().flat_map(|range| range.slots()).collect();
            prop_assert_eq!(&back, &slots);
            for pair in joined.windows(2) {
                prop_assert!(pair[0].last + 1 < pair[1].first);
            }
        }

        #[test]
        fn joined_ranges_hold_the_same_slots(
            pairs in proptest::collection::vec((0..SLOT_COUNT, 0_u16..300), 0..20),
        ) {
            let given: Vec<SlotRange> = pairs
                .iter()
                .map(|(first, more)| SlotRange { first: *first, last: (first + more).min(SLOT_COUNT - 1) })
                .collect();
            let slots = given.iter().flat_map(|range| range.slots());
            prop_assert_eq!(joined(given.iter().copied()), ranges(slots));
        }

        #[test]
        fn a_tag_decides_alone(tag in "[^{}]{1,20}", before in "[^{}]{0,9}", after in ".{0,9}") {
            prop_assert_eq!(slot_of(format!("{before}{{{tag}}}{after}")), slot_of(&tag));
        }
    }
}

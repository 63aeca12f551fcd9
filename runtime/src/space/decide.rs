//! What goes when room is needed: a function of what there is.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::SystemTime;

use wharf_types::Digest;

/// What something is, that can be had again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Compiled, which takes seconds to make.
    Code,
    /// Compiled by an engine of another version, so nothing here runs it.
    OldCode,
    /// As it was brought.
    Copy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub digest: Digest,
    pub kind: Kind,
    pub bytes: u64,
    pub used: SystemTime,
}

/// What is about to be written: of what counts as kept, and of anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub cache_bytes: u64,
    pub disk_bytes: u64,
}

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub free_bytes: u64,
    /// What unused things have to leave free.
    pub floor_bytes: u64,
    pub cache_max_bytes: Option<u64>,
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    Cache { max_bytes: u64, used_bytes: u64 },
    Disk { free_bytes: u64 },
}

/// Which of `kept` go, as indices in the order in which they do.
///
/// First what nothing here uses, the longest unused first. Where that is not enough, copies of what is in use: its code is what runs. Code in
/// use never goes, and nothing goes that does not have to.
pub fn to_drop(kept: &[Kept], in_use: &HashSet<Digest>, need: Need, room: Room) -> Vec<usize> {
    let total: u64 = kept.iter().map(|kept| kept.bytes).sum();
    let over_max =
        room.cache_max_bytes.map_or(0, |max| total.saturating_add(need.cache_bytes).saturating_sub(max));
    let wanted_free = need.disk_bytes.saturating_add(room.floor_bytes);
    let mut missing = over_max.max(wanted_free.saturating_sub(room.free_bytes));
    let is_used = |at: usize| kept[at].kind != Kind::OldCode && in_use.contains(&kept[at].digest);
    let mut order: Vec<usize> =
        (0..kept.len()).filter(|at| kept[*at].kind == Kind::Copy || !is_used(*at)).collect();
    // Of what was used at the same time, copies go before code, and large ones before small ones.
    order.sort_by_key(|at| {
        let Kept { digest, kind, bytes, used } = kept[*at];
        (is_used(*at), used, Reverse(kind), Reverse(bytes), digest)
    });
    let mut dropped = Vec::new();
    for at in order {
        if missing == 0 {
            break;
        }
        missing = missing.saturating_sub(kept[at].bytes);
        dropped.push(at);
    }
    dropped
}

/// Whether what is to be written still has no room, with so much kept.
pub fn short(kept_bytes: u64, need: Need, room: Room) -> Option<Short> {
    match room.cache_max_bytes {
        Some(max_bytes) if kept_bytes.saturating_add(need.cache_bytes) > max_bytes => {
            Some(Short::Cache { max_bytes, used_bytes: kept_bytes })
        }
        _ if room.free_bytes < need.disk_bytes => Some(Short::Disk { free_bytes: room.free_bytes }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn kept(name: u8, kind: Kind, bytes: u64, used: u64) -> Kept {
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(used);
        Kept { digest: Digest::of(&[name]), kind, bytes, used }
    }

    const PLENTY: Room = Room { free_bytes: 1000, floor_bytes: 10, cache_max_bytes: None };

    fn disk(disk_bytes: u64) -> Need {
        Need { cache_bytes: 0, disk_bytes }
    }

    #[test]
    fn where_there_is_room_nothing_goes() {
        let all = [kept(0, Kind::Code, 100, 1)];
        assert_eq!(to_drop(&all, &HashSet::new(), disk(990), PLENTY), [0; 0]);
        assert_eq!(to_drop(&all, &HashSet::new(), disk(991), PLENTY), [0], "the floor is kept free");
    }

    #[test]
    fn the_oldest_unused_goes_first_then_copies_of_what_is_used_and_its_code_never() {
        let all = [
            kept(0, Kind::Code, 100, 1),
            kept(0, Kind::Copy, 30, 1),
            kept(1, Kind::Code, 100, 3),
            kept(2, Kind::Code, 100, 2),
        ];
        let in_use = HashSet::from([Digest::of(&[0])]);
        for (bytes, dropped) in [
            (991, vec![3]),
            (1090, vec![3]),
            (1091, vec![3, 2]),
            (1190, vec![3, 2]),
            (1191, vec![3, 2, 1]),
            (u64::MAX, vec![3, 2, 1]),
        ] {
            assert_eq!(to_drop(&all, &in_use, disk(bytes), PLENTY), dropped, "{bytes}");
        }
    }

    #[test]
    fn code_of_another_engine_is_unused_whatever_runs() {
        let all = [kept(0, Kind::Code, 100, 1), kept(0, Kind::OldCode, 100, 2)];
        let in_use = HashSet::from([Digest::of(&[0])]);
        assert_eq!(to_drop(&all, &in_use, disk(u64::MAX), PLENTY), [1]);
    }

    #[test]
    fn a_bound_counts_what_is_in_use_as_well() {
        let all = [kept(0, Kind::Code, 100, 1), kept(1, Kind::Code, 100, 2)];
        let in_use = HashSet::from([Digest::of(&[0])]);
        let room = Room { cache_max_bytes: Some(250), ..PLENTY };
        let need = |cache_bytes| Need { cache_bytes, disk_bytes: 0 };
        assert_eq!(to_drop(&all, &in_use, need(50), room), [0; 0]);
        assert_eq!(to_drop(&all, &in_use, need(51), room), [1]);
        assert_eq!(short(100, need(150), room), None);
        assert_eq!(short(100, need(151), room), Some(Short::Cache { max_bytes: 250, used_bytes: 100 }));
        assert_eq!(short(100, disk(1001), room), Some(Short::Disk { free_bytes: 1000 }));
    }

    proptest! {
        #[test]
        fn nothing_in_use_goes_but_copies_and_no_more_than_is_needed(
            all in prop::collection::vec((0..6_u8, any::<bool>(), 1..100_u64, 0..9_u64), 0..12),
            used in prop::collection::hash_set(0..6_u8, 0..6),
            free in 0..500_u64,
            bytes in 0..1000_u64,
        ) {
            let kind = |copy| if copy { Kind::Copy } else { Kind::Code };
            let all: Vec<Kept> = all.into_iter().map(|(n, copy, size, at)| kept(n, kind(copy), size, at)).collect();
            let in_use: HashSet<Digest> = used.iter().map(|n| Digest::of(&[*n])).collect();
            let room = Room { free_bytes: free, floor_bytes: 0, cache_max_bytes: None };
            let dropped = to_drop(&all, &in_use, disk(bytes), room);
            let is_in_use = |at: &usize| in_use.contains(&all[*at].digest);
            prop_assert!(dropped.iter().all(|at| !is_in_use(at) || all[*at].kind == Kind::Copy));
            let freed: u64 = dropped.iter().map(|at| all[*at].bytes).sum();
            if let Some(last) = dropped.last() {
                prop_assert!(free + freed - all[*last].bytes < bytes, "the last one had to go");
            }
            let unused_left = (0..all.len()).any(|at| !is_in_use(&at) && !dropped.contains(&at));
            prop_assert!(free + freed >= bytes || !unused_left);
            let is_sorted = |at: &[usize]| (is_in_use(&at[0]), all[at[0]].used) <= (is_in_use(&at[1]), all[at[1]].used);
            prop_assert!(dropped.windows(2).all(is_sorted));
        }
    }
}

//! Which process of a node's worker speaks, so that what a dead one has sent is told from what its successor says.

use serde::{Deserialize, Serialize};

use crate::id::ProcessId;

/// One process of a worker, in the order of the node's processes.
///
/// A worker draws the number when it starts and keeps it in its folder: greater than the one before, and at least the clock's, in
/// milliseconds since 1970, so that it also grows where the folder was put back from a copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Incarnation {
    pub number: u64,
    pub process: ProcessId,
    /// Which folder on which running machine. A folder has one process at a time, so that another one there says that the former has ended.
    pub home: String,
}

/// Why a process cannot speak for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// A later process has registered. What this one says is of the past, or comes from a copy of the node's folder.
    Later,
    /// Another process, elsewhere, speaks for the node at this moment.
    Elsewhere,
}

/// A worker from before workers said so.
impl Default for Incarnation {
    fn default() -> Self {
        Self { number: 0, process: ProcessId::default(), home: String::new() }
    }
}

impl Incarnation {
    /// The number of a process that starts at `clock_millis`, after one with the number `before`.
    pub fn number_after(before: u64, clock_millis: u64) -> u64 {
        clock_millis.max(before.saturating_add(1))
    }

    /// Whether a process that registers may take the place of this one. `is_heard`: this one has been heard of lately, and may live.
    ///
    /// Whoever speaks takes the place of one that is silent, also with a lower number: its folder may have been put back, or it had started
    /// while its clock was wrong. What comes late of a process that has ended lasts no longer than until the one that lives registers again.
    pub fn yields_to(&self, next: &Self, is_heard: bool) -> Result<(), Rival> {
        if self.process == next.process || !is_heard {
            return Ok(());
        }
        if next.number < self.number {
            return Err(Rival::Later);
        }
        // Copies of one folder that started in the same millisecond: the first stays.
        if self.home != next.home || next.number == self.number {
            return Err(Rival::Elsewhere);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(number: u64, home: &str) -> Incarnation {
        Incarnation { number, process: ProcessId::new(), home: home.to_owned() }
    }

    #[test]
    fn numbers_grow_whatever_the_clock_says() {
        assert_eq!(Incarnation::number_after(0, 1000), 1000);
        assert_eq!(Incarnation::number_after(1000, 1000), 1001);
        assert_eq!(Incarnation::number_after(5000, 1000), 5001);
        assert_eq!(Incarnation::number_after(u64::MAX, 1000), u64::MAX);
    }

    #[test]
    fn a_process_is_followed_by_later_ones_of_its_folder_at_once() {
        let first = process(1, "a");
        let second = process(2, "a");
        for is_heard in [true, false] {
            assert_eq!(first.yields_to(&first, is_heard), Ok(()));
            assert_eq!(first.yields_to(&second, is_heard), Ok(()));
        }
        assert_eq!(second.yields_to(&first, true), Err(Rival::Later), "it comes late");
    }

    #[test]
    fn a_process_whose_number_is_lower_takes_over_when_the_other_is_silent() {
        let of_a_wrong_clock = process(5000, "a");
        let next = process(7, "a");
        assert_eq!(of_a_wrong_clock.yields_to(&next, true), Err(Rival::Later));
        assert_eq!(of_a_wrong_clock.yields_to(&next, false), Ok(()));
    }

    #[test]
    fn a_copy_of_a_folder_takes_over_only_when_the_other_is_silent() {
        let first = process(1, "a");
        let copy = process(2, "b");
        assert_eq!(first.yields_to(&copy, true), Err(Rival::Elsewhere));
        assert_eq!(first.yields_to(&copy, false), Ok(()));
        assert_eq!(first.yields_to(&process(1, "a"), true), Err(Rival::Elsewhere));
    }
}

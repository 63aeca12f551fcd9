//! Where the planner takes the ids of what it creates from, so that a plan can be repeated to the letter.

use wharf_types::{InstanceId, RolloutId};

/// A source of ids that were never used before.
pub trait IdSource {
    fn instance(&mut self) -> InstanceId;
    fn rollout(&mut self) -> RolloutId;
}

/// UUIDv7, for real use.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    fn instance(&mut self) -> InstanceId {
        InstanceId::new()
    }

    fn rollout(&mut self) -> RolloutId {
        RolloutId::new()
    }
}

/// 1, 2, 3…: the same ids in every run of a test or of a simulation.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(super) struct CountingIds {
    last: u128,
}

#[cfg(test)]
impl CountingIds {
    /// The first id comes after `last`.
    pub(super) fn starting_at(last: u128) -> Self {
        Self { last }
    }

    fn next(&mut self) -> uuid::Uuid {
        self.last += 1;
        uuid::Uuid::from_u128(self.last)
    }
}

#[cfg(test)]
impl IdSource for CountingIds {
    fn instance(&mut self) -> InstanceId {
        InstanceId::from_uuid(self.next())
    }

    fn rollout(&mut self) -> RolloutId {
        RolloutId::from_uuid(self.next())
    }
}

//! How domain types stand in columns. State numbers leave gaps for states to come.

use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use wharf_types::Timestamp;
use wharf_types::api::{BuildState, Role, WhenBusy};
use wharf_types::job::JobState;
use wharf_types::state::{Health, InstanceState, RolloutState, Wanted};

use super::{Result, StoreError};
use crate::plan::job::StopCause;

pub(super) fn parse<T: FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| {
        StoreError::Corrupt(format!(
            "`{}` is not a {}",
            text.chars().take(80).collect::<String>(),
            std::any::type_name::<T>()
        ))
    })
}

pub(super) fn parse_opt<T: FromStr>(text: Option<&str>) -> Result<Option<T>> {
    text.map(parse).transpose()
}

pub(super) fn time(micros: i64) -> Result<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(super) fn time_opt(micros: Option<i64>) -> Result<Option<Timestamp>> {
    micros.map(time).transpose()
}

pub(super) fn number<T: TryFrom<i64>>(value: i64) -> Result<T> {
    T::try_from(value).map_err(|_| StoreError::Corrupt(format!("{value} is out of range")))
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our types have string keys and no failing serializer")
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// Gives an enum its numbers, in both directions.
macro_rules! numbers {
    ($($enum:ident, $to:ident, $from:ident { $($variant:ident = $number:literal,)+ })+) => {$(
        pub(super) const fn $to(value: $enum) -> i64 {
            match value { $($enum::$variant => $number,)+ }
        }
        pub(super) fn $from(number: i64) -> Result<$enum> {
            Ok(match number {
                $($number => $enum::$variant,)+
                other => return Err(StoreError::Corrupt(format!("{other} is not a {}", stringify!($enum)))),
            })
        }
    )+};
}

numbers! {
    InstanceState, state_to_db, state_from_db {
        Pending = 10, Assigned = 20, Preparing = 30, Starting = 40, Running = 50, Stopping = 60,
        Stopped = 100, Failed = 110, Lost = 120,
    }
    RolloutState, rollout_state_to_db, rollout_state_from_db {
        Pending = 10, Canary = 15, Running = 20, Monitoring = 30, Succeeded = 100, Failed = 110, Superseded = 120,
    }
    Wanted, wanted_to_db, wanted_from_db { Run = 10, Unroute = 20, Stop = 30, }
    Health, health_to_db, health_from_db { Unknown = 0, Healthy = 10, Unhealthy = 20, }
    JobState, job_state_to_db, job_state_from_db {
        Pending = 10, Running = 20, Succeeded = 100, Failed = 110, Cancelled = 120,
    }
    StopCause, stop_to_db, stop_from_db { Timeout = 10, End = 20, Preempted = 30, }
    BuildState, build_to_db, build_from_db {
        Waiting = 10, Building = 20, Deploying = 30, Succeeded = 100, Failed = 110, Cancelled = 120,
    }
    WhenBusy, busy_to_db, busy_from_db { Wait = 10, Fail = 20, }
    Role, role_to_db, role_from_db { Viewer = 10, Developer = 20, Admin = 30, }
}

/// The first state that is final, for all lifecycles.
pub(super) const FINAL: i64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_the_order_of_the_lifecycle_and_know_what_is_final() {
        for pair in InstanceState::ALL.windows(2) {
            assert!(state_to_db(pair[0]) < state_to_db(pair[1]));
        }
        for state in InstanceState::ALL {
            assert_eq!(state_from_db(state_to_db(state)).unwrap(), state);
            assert_eq!(state_to_db(state) >= FINAL, state.is_final());
        }
        assert!(state_from_db(11).is_err());
        for state in JobState::ALL {
            assert_eq!(job_state_to_db(state) >= FINAL, state.is_final());
        }
        assert_eq!(rollout_state_to_db(RolloutState::Succeeded), FINAL);
    }
}

//! How many changes one user asks for in a second.
//!
//! Each change takes the only writer for a moment, and leaves events and a record in the audit log, which others share. Whoever may do everything
//! anyway is not counted. Each server counts for itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wharf_types::api::Role;
use wharf_types::{TokenId, UserId};

use crate::access::Caller;
use crate::admission::{Bucket, chance};

/// Changes of one user in a second.
pub(crate) const PER_SECOND: u32 = 100;
/// Changes at once of somebody who has made none for a while.
const AT_ONCE: u32 = 1000;
/// With more, those are forgotten who have made no change for a while.
const KEPT: usize = 10_000;

/// Whose changes are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(UserId),
    /// One that is nobody's.
    Token(TokenId),
}

#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<HashMap<Who, Bucket>>);

impl Pace {
    /// Takes note of one change. An error: it is one too many; how long to wait.
    pub(crate) fn take(&self, caller: &Caller) -> Result<(), Duration> {
        self.take_at(caller, Instant::now(), chance)
    }

    fn take_at(&self, caller: &Caller, now: Instant, chance: impl FnOnce() -> f64) -> Result<(), Duration> {
        if caller.is_cluster_wide() && caller.token.role == Role::Admin {
            return Ok(());
        }
        let who = caller.owner.map_or(Who::Token(caller.token.id), Who::User);
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= KEPT && !buckets.contains_key(&who) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        let bucket = buckets.entry(who).or_insert_with(|| Bucket::new(now, PER_SECOND, AT_ONCE));
        bucket.take(now, chance())
    }
}

#[cfg(test)]
mod tests {
    use wharf_types::Timestamp;
    use wharf_types::api::TokenInfo;

    use super::*;

    fn caller(owner: Option<UserId>, role: Role) -> Caller {
        let token = TokenInfo {
            id: TokenId::new(),
            name: "token".into(),
            user: owner.is_some().then(|| "alice".parse().unwrap()),
            role,
            namespace: None,
            verbs: Vec::new(),
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
        };
        Caller { token, owner, memberships: Vec::new() }
    }

    #[test]
    fn changes_of_one_user_are_counted_together_and_those_of_others_apart() {
        let (pace, now) = (Pace::default(), Instant::now());
        let alice = UserId::new();
        let passed =
            |caller: &Caller, now| (0..5000).filter(|_| pace.take_at(caller, now, || 0.0).is_ok()).count();
        assert_eq!(passed(&caller(Some(alice), Role::Admin), now), 1000);
        assert_eq!(passed(&caller(Some(alice), Role::Admin), now), 0, "by another token of hers");
        assert_eq!(passed(&caller(Some(UserId::new()), Role::Admin), now), 1000);
        assert_eq!(passed(&caller(None, Role::Developer), now), 1000);
        assert_eq!(passed(&caller(None, Role::Admin), now), 5000, "a cluster admin");
        assert_eq!(passed(&caller(Some(alice), Role::Admin), now + Duration::from_secs(2)), 200);
    }

    #[test]
    fn who_makes_no_changes_any_more_is_forgotten() {
        let (pace, now) = (Pace::default(), Instant::now());
        let later = now + Duration::from_secs(60);
        for _ in 0..KEPT {
            pace.take_at(&caller(None, Role::Developer), now, || 0.0).unwrap();
        }
        pace.take_at(&caller(None, Role::Developer), later, || 0.0).unwrap();
        assert_eq!(pace.0.lock().unwrap().len(), 1);
    }
}

//! Under which conditions a request changes something: `If-Match` names what is to be changed as it was read, and by its `Idempotency-Key`
//! a repetition is known.
//!
//! They are read where requests come in, and settled where a request is recorded, in the transaction that carries it out
//! ([`crate::audit::write`]). A condition that nobody has looked at by then is an error, and nothing is committed: so a route that takes
//! one cannot forget it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::json;
use wharf_types::problem::ProblemCode;
use wharf_types::{Problem, Timestamp, TokenId};

use crate::audit;
use crate::operations::Once;
use crate::store::{self, Conn, StoreError};

/// Revisions that are made of settings are below: with 18 digits they fit into an `i64`.
const REVISIONS: u64 = 1_000_000_000_000_000_000;

/// What `If-Match` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// `*`: that there is something.
    Anything,
    Revision(i64),
}

/// What a request was sent with.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    if_match: Option<IfMatch>,
    key: Option<String>,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    is_compared: bool,
    is_looked_up: bool,
    claim: Option<(TokenId, Once)>,
    is_claimed: bool,
}

impl Conditions {
    pub(crate) fn new(if_match: Option<IfMatch>, key: Option<String>) -> Self {
        Self { if_match, key, progress: Mutex::default() }
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Has the transaction that carries out the request take the key for it.
    pub(crate) fn claim(&self, token: TokenId, once: Once) {
        let mut progress = self.progress();
        progress.is_looked_up = true;
        progress.claim = Some((token, once));
    }

    /// Whether a transaction has taken the key, which may not have been committed.
    pub(crate) fn is_claimed(&self) -> bool {
        self.progress().is_claimed
    }

    /// Compares `now`, the revision of what is about to be changed, with what is asked for. None: it is not there.
    fn compare(&self, what: &str, now: Option<i64>) -> Result<(), Problem> {
        self.progress().is_compared = true;
        let detail = match (self.if_match, now) {
            (None, _) | (Some(IfMatch::Anything), Some(_)) => return Ok(()),
            (Some(IfMatch::Revision(asked)), Some(now)) if asked == now => return Ok(()),
            (Some(IfMatch::Revision(_)), Some(now)) => {
                format!("the {what} was changed since it was read (it is at \"{now}\" now); read it again")
            }
            (Some(_), None) => format!("there is no {what} that If-Match could ask for"),
        };
        Err(Problem::new(ProblemCode::PreconditionFailed, detail))
    }

    /// Settles them in the transaction that is about to be committed.
    pub(crate) async fn settle(&self, conn: &mut Conn, now: Timestamp) -> store::Result<()> {
        let Some((token, once)) = self.to_claim()? else { return Ok(()) };
        if !store::once::claim(conn, token, (&once.key, &once.request_hash), now).await? {
            return Err(StoreError::Repeated);
        }
        self.progress().is_claimed = true;
        Ok(())
    }

    /// The key that is to be taken, once.
    fn to_claim(&self) -> store::Result<Option<(TokenId, Once)>> {
        let mut progress = self.progress();
        if self.if_match.is_some() && !progress.is_compared {
            return Err(StoreError::Unsettled("If-Match"));
        }
        if self.key.is_some() && !progress.is_looked_up {
            return Err(StoreError::Unsettled("Idempotency-Key"));
        }
        Ok(progress.claim.take())
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses when the request that is carried out asks for `what` at another revision than it has now. None: it is not there.
pub(crate) fn check(what: &str, now: Option<i64>) -> Result<(), Problem> {
    audit::request().map_or(Ok(()), |request| request.conditions.compare(what, now))
}

/// Notes that it was looked whether the key has been used.
pub(crate) fn note_looked_up() {
    if let Some(request) = audit::request() {
        request.conditions.progress().is_looked_up = true;
    }
}

/// The revision of what counts none: a number made of all that can be set, so that it changes with that, and with nothing else.
pub(crate) fn revision_of(settings: &impl Serialize) -> i64 {
    let hash = blake3::hash(json!(settings).to_string().as_bytes());
    let mut octets = [0; 8];
    octets.copy_from_slice(&hash.as_bytes()[..8]);
    i64::try_from(u64::from_le_bytes(octets) % REVISIONS).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use wharf_types::api::Quota;

    use super::*;
    use crate::tests::database;

    fn with(if_match: Option<IfMatch>) -> Conditions {
        Conditions::new(if_match, None)
    }

    #[test]
    fn a_revision_is_that_of_what_is_set() {
        let of = |apps, secrets| revision_of(&Quota { apps, secrets, ..Quota::default() });
        assert_eq!(of(Some(1), None), of(Some(1), None));
        let different = [of(None, None), of(Some(1), None), of(Some(2), None), of(None, Some(1))];
        for (place, revision) in different.iter().enumerate() {
            assert!((0..1_000_000_000_000_000_000).contains(revision));
            assert!(!different[..place].contains(revision));
        }
    }

    #[test]
    fn only_what_is_asked_for_passes() {
        let refusal = |asked, now| with(asked).compare("config `a`", now).err().map(|problem| problem.detail);
        assert_eq!(refusal(None, None), None);
        assert_eq!(refusal(None, Some(3)), None);
        assert_eq!(refusal(Some(IfMatch::Anything), Some(3)), None);
        assert_eq!(refusal(Some(IfMatch::Revision(3)), Some(3)), None);
        let changed = refusal(Some(IfMatch::Revision(2)), Some(3)).unwrap();
        assert!(changed.contains("the config `a` was changed") && changed.contains("\"3\""), "{changed}");
        for asked in [IfMatch::Anything, IfMatch::Revision(1)] {
            assert!(refusal(Some(asked), None).unwrap().starts_with("there is no config `a`"));
        }
    }

    #[tokio::test]
    async fn what_nobody_has_looked_at_is_not_committed() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let unread = with(Some(IfMatch::Revision(1)));
        assert!(matches!(unread.settle(&mut tx, now).await, Err(StoreError::Unsettled("If-Match"))));
        unread.compare("config `a`", Some(1)).unwrap();
        unread.settle(&mut tx, now).await.unwrap();
        let unread = Conditions::new(None, Some("k".to_owned()));
        let settled = unread.settle(&mut tx, now).await;
        assert!(matches!(settled, Err(StoreError::Unsettled("Idempotency-Key"))));
        unread.progress().is_looked_up = true;
        unread.settle(&mut tx, now).await.unwrap();
        Conditions::default().settle(&mut tx, now).await.unwrap();
    }

    #[test]
    fn a_revision_changes_with_what_can_be_set() {
        let of = |creates: bool, network: bool| revision_of(&json!({"creates": creates, "network": network}));
        assert_eq!(of(true, false), of(true, false));
        let different = [of(true, false), of(false, false), of(true, true)];
        for (place, revision) in different.iter().enumerate() {
            assert!((0..1_000_000_000_000_000_000).contains(revision));
            assert!(!different[..place].contains(revision));
        }
    }
}

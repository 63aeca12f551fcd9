//! One deploy of an app at a time: who has the turn, and who waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use wharf_types::{AppName, BuildId, NamespaceName, Timestamp};

/// Of an app, whether or not it has been made.
pub(crate) type Key = (NamespaceName, AppName);

/// Who has the turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) build: BuildId,
    pub(crate) by: String,
    pub(crate) since: Timestamp,
}

impl Holder {
    /// Such as `the deploy of alice (build 0190…, for 12 s)`.
    pub(crate) fn describe(&self, now: Timestamp) -> String {
        let age = now.duration_since(self.since).as_secs().max(0);
        format!("the deploy of {} (build {}, for {age} s)", self.by, self.build)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Busy(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    holders: Mutex<HashMap<Key, Holder>>,
    freed: Notify,
}

/// The turn of an app, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    busy: Busy,
    key: Key,
}

impl Busy {
    /// Takes the turn, or says who has it.
    pub(crate) fn try_take(&self, key: &Key, holder: &Holder) -> Result<Turn, Holder> {
        let mut holders = self.0.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = holders.get(key) {
            return Err(other.clone());
        }
        holders.insert(key.clone(), holder.clone());
        Ok(Turn { busy: self.clone(), key: key.clone() })
    }

    /// Waits for the turn. An error: it did not come in time, and who has it.
    pub(crate) async fn take(&self, key: &Key, holder: &Holder, longest: Duration) -> Result<Turn, Holder> {
        let deadline = tokio::time::Instant::now() + longest;
        loop {
            // Before the look, so that no end falls in between.
            let freed = self.0.freed.notified();
            let other = match self.try_take(key, holder) {
                Ok(turn) => return Ok(turn),
                Err(other) => other,
            };
            if tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Err(other);
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.0.holders.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.busy.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(app: &str) -> Key {
        ("default".parse().unwrap(), app.parse().unwrap())
    }

    fn holder(by: &str) -> Holder {
        Holder { build: BuildId::new(), by: by.to_owned(), since: Timestamp::UNIX_EPOCH }
    }

    #[tokio::test]
    async fn one_has_the_turn_of_an_app_and_the_next_gets_it_at_its_end() {
        let busy = Busy::default();
        let alice = holder("alice");
        let turn = busy.try_take(&key("hello"), &alice).unwrap();
        assert_eq!(busy.try_take(&key("hello"), &holder("bob")).unwrap_err(), alice);
        drop(busy.try_take(&key("other"), &holder("bob")).unwrap());
        let late = busy.take(&key("hello"), &holder("bob"), Duration::from_millis(1)).await;
        assert_eq!(late.unwrap_err(), alice);
        let waits = tokio::spawn({
            let busy = busy.clone();
            async move { busy.take(&key("hello"), &holder("bob"), Duration::from_secs(20)).await.is_ok() }
        });
        drop(turn);
        assert!(waits.await.unwrap());
        busy.try_take(&key("hello"), &alice).unwrap();
    }

    #[test]
    fn who_waits_hears_for_whom_and_how_long() {
        let told = holder("alice").describe(Timestamp::from_second(12).unwrap());
        assert!(told.starts_with("the deploy of alice (build ") && told.ends_with(", for 12 s)"), "{told}");
    }
}

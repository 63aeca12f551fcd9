//! Records every change that comes through the API, in the transaction that makes it.
//!
//! A request that may change something runs inside [`scope`], which knows who sent it. Whoever commits calls [`write`] first, as
//! `operations::commit` does for all operations; [`change`] says what differs. Outside a request, both do nothing. So an operation
//! is recorded without having been handed anything, and one that forgets to say what differs still has a record. The same transaction
//! settles the [conditions](crate::conditions) that the request was sent with.

mod shown;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use wharf_types::api::{AuditOutcome, TokenInfo};
use wharf_types::{NamespaceName, Timestamp};

use crate::conditions::Conditions;
use crate::store::{self, Conn, Tx};

pub(crate) use shown::release_change;

/// The longest JSON that is kept of each side of a change.
const SIDE_MAX_BYTES: usize = 16 << 10;
/// The longest sentence that is kept of a refusal.
const DETAIL_MAX_CHARS: usize = 400;

tokio::task_local! {
    static REQUEST: Arc<Request>;
}

/// A request that may change something.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) token: TokenInfo,
    /// The user, or the name of a token that is nobody's.
    pub(crate) actor: String,
    pub(crate) remote: Option<String>,
    pub(crate) action: Arc<str>,
    pub(crate) namespace: Option<NamespaceName>,
    pub(crate) conditions: Conditions,
    change: Mutex<Change>,
}

#[derive(Clone, Debug, Default)]
struct Change {
    /// Where the address does not name it.
    namespace: Option<NamespaceName>,
    object: String,
    before: Option<Value>,
    after: Option<Value>,
}

impl Request {
    pub(crate) fn new(
        (token, actor): (TokenInfo, String),
        remote: Option<String>,
        action: Arc<str>,
        namespace: Option<NamespaceName>,
        object: String,
    ) -> Self {
        let change = Mutex::new(Change { object, ..Change::default() });
        Self { token, actor, remote, action, namespace, conditions: Conditions::default(), change }
    }

    fn change(&self) -> MutexGuard<'_, Change> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, outcome: AuditOutcome, detail: Option<&str>) -> store::audit::NewRecord {
        let Change { namespace, object, before, after } = self.change().clone();
        store::audit::NewRecord {
            token: self.token.id,
            token_name: self.token.name.clone(),
            user: self.token.user.clone(),
            actor: self.actor.clone(),
            remote: self.remote.clone(),
            action: self.action.to_string(),
            namespace: namespace.or_else(|| self.namespace.clone()),
            object,
            outcome,
            detail: detail.map(|detail| detail.chars().take(DETAIL_MAX_CHARS).collect()),
            before: before.map(bounded),
            after: after.map(bounded),
        }
    }

    /// Records that it was refused, in a transaction of its own, because there is no other.
    pub(crate) async fn refused(&self, tx: &mut Conn, detail: &str, now: Timestamp) -> store::Result<()> {
        store::audit::append(tx, &self.record(AuditOutcome::Refused, Some(detail)), now).await
    }
}

fn bounded(value: Value) -> Value {
    if is_kept(&value) { value } else { by_size(&value) }
}

fn is_kept(side: &Value) -> bool {
    side.to_string().len() <= SIDE_MAX_BYTES
}

/// What is kept of what is too large.
fn by_size(value: &Value) -> Value {
    serde_json::json!({ "too_large_bytes": value.to_string().len() })
}

/// A side of a change. Where it is too large, only the size is kept of whatever stands under `key`, at any depth, so that the rest is
/// recorded.
pub(crate) fn lightened(mut side: Value, key: &str) -> Value {
    if !is_kept(&side) {
        lighten(&mut side, key);
    }
    side
}

fn lighten(value: &mut Value, key: &str) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == key {
                    *value = by_size(value);
                } else {
                    lighten(value, key);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| lighten(value, key)),
        _ => {}
    }
}

/// Carries out a request; what it commits is recorded as its doing.
pub(crate) async fn scope<F: Future>(request: Arc<Request>, work: F) -> F::Output {
    REQUEST.scope(request, work).await
}

/// The same for work that another task does for this request.
pub(crate) fn carry<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let request = request();
    async move {
        match request {
            Some(request) => REQUEST.scope(request, work).await,
            None => work.await,
        }
    }
}

/// The request that is carried out. None: nobody asked for it.
pub(crate) fn request() -> Option<Arc<Request>> {
    REQUEST.try_with(Arc::clone).ok()
}

/// What differs before and after; null where there is nothing.
pub(crate) fn change(before: Value, after: Value) {
    // An error means that nobody asked for it: nothing is recorded then.
    let _ = REQUEST.try_with(|request| {
        let mut change = request.change();
        (change.before, change.after) = (side(before), side(after));
    });
}

/// Without what is null, which says nothing.
fn side(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(mut fields) => {
            fields.retain(|_, value| !value.is_null());
            Some(Value::Object(fields))
        }
        value => Some(value),
    }
}

/// What is changed, where the address alone does not say it.
pub(crate) fn object(name: String) {
    let _ = REQUEST.try_with(|request| request.change().object = name);
}

/// In which namespace, where the address does not say it. A request that changes several is recorded in each.
pub(crate) fn within(namespace: &NamespaceName) {
    let _ = REQUEST.try_with(|request| request.change().namespace = Some(namespace.clone()));
}

/// Records the request in the transaction that is about to be committed, and settles its conditions there.
pub(crate) async fn write(conn: &mut Conn) -> store::Result<()> {
    let Some(request) = request() else { return Ok(()) };
    let now = Timestamp::now();
    request.conditions.settle(conn, now).await?;
    store::audit::append(conn, &request.record(AuditOutcome::Done, None), now).await
}

/// Records the request and commits.
pub(crate) async fn commit(mut tx: Tx) -> store::Result<()> {
    write(&mut tx).await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_change_is_kept_by_its_size_alone() {
        assert_eq!(bounded(Value::from("small")), Value::from("small"));
        let large = bounded(Value::from("x".repeat(SIDE_MAX_BYTES)));
        assert_eq!(large, serde_json::json!({"too_large_bytes": SIDE_MAX_BYTES + 2}));
    }

    #[test]
    fn what_is_large_in_a_change_does_not_take_the_rest_of_it_along() {
        let side =
            |text: String| serde_json::json!({"changes": [{"of": "a", "fields": [text]}, {"of": "b"}]});
        assert_eq!(lightened(side("small".to_owned()), "fields"), side("small".to_owned()));
        let kept = bounded(lightened(side("x".repeat(SIDE_MAX_BYTES)), "fields"));
        let bytes = serde_json::json!({"too_large_bytes": SIDE_MAX_BYTES + 4});
        assert_eq!(kept, serde_json::json!({"changes": [{"of": "a", "fields": bytes}, {"of": "b"}]}));
    }

    #[tokio::test]
    async fn outside_a_request_nothing_is_noted() {
        change(Value::from(1), Value::from(2));
        object("apps/x".to_owned());
        assert_eq!(carry(async { 7 }).await, 7);
    }
}

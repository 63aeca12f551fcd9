//! Waiting for a value with a limit.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// What anything that should happen soon may take on a machine with much else to do.
pub const SHORT: Duration = Duration::from_secs(60);

/// The same where the largest of the guests may have to be compiled first.
pub const COMPILED: Duration = Duration::from_secs(240);

const PERIOD: Duration = Duration::from_millis(20);

/// Asks until there is an answer.
///
/// # Panics
///
/// When `limit` has passed, naming `what` was waited for.
pub async fn eventually<T, F, Fut>(limit: Duration, what: &str, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for this: {what}");
        tokio::time::sleep(PERIOD).await;
    }
}

/// The future's value, which must come in time.
///
/// # Panics
///
/// When `limit` has passed, naming `what` was waited for.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {limit:?} in vain for this: {what}"),
    }
}

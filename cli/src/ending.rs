//! How a worker ends: in order, or at once when somebody does not want to wait.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;
use wharf_runtime::container::backend::ContainerBackend;
use wharf_types::quantity::Span;

use crate::output::some_of;
use crate::worker::Worker;

/// Containers that take no longer to end are not told of.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// How often it is told again what has not ended yet.
const TELL_AGAIN: Duration = Duration::from_secs(15);

/// What was not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    pub are_requests_cut: bool,
    /// Apps whose containers did not end in time, and were killed.
    pub killed: Vec<String>,
}

impl Stopped {
    /// None: all has ended in order.
    pub fn sentence(&self) -> Option<String> {
        let cut = self.are_requests_cut.then(|| "some requests were cut".to_owned());
        let killed = (!self.killed.is_empty()).then(|| format!("killed: {}", some_of(&self.killed)));
        let all: Vec<String> = cut.into_iter().chain(killed).collect();
        (!all.is_empty()).then(|| format!("stopped; {}", all.join("; ")))
    }
}

/// Ends a worker in order; at once when `interrupt` comes, and without waiting even for that when it comes again.
pub async fn end(worker: Worker, interrupt: &mut Signal, tell: impl Fn(String) + Sync) -> Stopped {
    let now = CancellationToken::new();
    let ending = worker.shutdown(&now, &tell);
    tokio::pin!(ending);
    tokio::select! {
        stopped = &mut ending => return stopped,
        _ = interrupt.recv() => now.cancel(),
    }
    tokio::select! {
        stopped = ending => stopped,
        _ = interrupt.recv() => Stopped { are_requests_cut: true, killed: Vec::new() },
    }
}

/// Says which containers are waited for, for as long as somebody waits.
pub async fn tell_waiting(containers: &ContainerBackend, tell: &(dyn Fn(String) + Sync)) -> Infallible {
    tokio::time::sleep(TELL_AFTER).await;
    loop {
        if let Some(sentence) = waiting(&containers.not_ended()) {
            tell(sentence);
        }
        tokio::time::sleep(TELL_AGAIN).await;
    }
}

/// None: for nothing.
fn waiting(not_ended: &BTreeMap<String, Duration>) -> Option<String> {
    let longest = not_ended.values().max()?.min(&crate::worker::DRAIN_MOST);
    let apps: Vec<String> = not_ended.keys().cloned().collect();
    let up_to = Span::from(*longest);
    Some(format!(
        "waiting for containers to end, for up to {up_to} in all: {}; Ctrl-C kills them",
        some_of(&apps)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_is_named_with_the_longest_wait() {
        assert_eq!(waiting(&BTreeMap::new()), None);
        let two =
            [("a/db", 300), ("a/web", 30)].map(|(app, secs)| (app.to_owned(), Duration::from_secs(secs)));
        assert_eq!(
            waiting(&two.into()).unwrap(),
            "waiting for containers to end, for up to 5m in all: a/db, a/web; Ctrl-C kills them"
        );
        let many = (0..8).map(|at| (format!("a/{at}"), Duration::from_secs(86_400))).collect();
        let told = waiting(&many).unwrap();
        assert!(told.contains("up to 10m in all: a/0, a/1, a/2, a/3, a/4 and 3 more;"), "{told}");
    }

    #[test]
    fn what_was_not_in_order_is_told() {
        assert_eq!(Stopped::default().sentence(), None);
        let stopped = Stopped { are_requests_cut: true, killed: vec!["a/db".to_owned()] };
        assert_eq!(stopped.sentence().unwrap(), "stopped; some requests were cut; killed: a/db");
    }
}

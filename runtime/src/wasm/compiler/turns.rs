//! Whose turn it is to compile: one at a time, and the namespaces one after the other, so that a namespace with many artifacts holds up
//! another one by a single compilation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wharf_types::NamespaceName;

#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Queue<oneshot::Sender<Turn>>>);

/// The right to compile. Dropping it passes it on.
#[derive(Debug)]
pub(super) struct Turn {
    /// None: it was passed on.
    turns: Option<Arc<Turns>>,
}

impl Turns {
    pub(super) async fn take(self: &Arc<Self>, namespace: &NamespaceName) -> Turn {
        let receiver = {
            let mut queue = self.queue();
            if !queue.is_taken {
                queue.is_taken = true;
                return Turn { turns: Some(self.clone()) };
            }
            let (sender, receiver) = oneshot::channel();
            queue.push(namespace, sender);
            receiver
        };
        receiver.await.expect("who waits stays in the queue until it is his turn")
    }

    fn pass_on(self: Arc<Self>) {
        let mut turn = Turn { turns: Some(self.clone()) };
        loop {
            let Some(next) = self.queue().next() else {
                // Nobody has it now.
                turn.turns = None;
                return;
            };
            match next.send(turn) {
                Ok(()) => return,
                // He does not wait any more.
                Err(back) => turn = back,
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<oneshot::Sender<Turn>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.pass_on();
        }
    }
}

/// Who waits, by namespace; the namespace at the front is next.
#[derive(Debug)]
struct Queue<W> {
    is_taken: bool,
    waiting: VecDeque<(NamespaceName, VecDeque<W>)>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { is_taken: false, waiting: VecDeque::new() }
    }
}

impl<W> Queue<W> {
    fn push(&mut self, namespace: &NamespaceName, waiter: W) {
        match self.waiting.iter_mut().find(|(other, _)| other == namespace) {
            Some((_, waiters)) => waiters.push_back(waiter),
            None => self.waiting.push_back((namespace.clone(), VecDeque::from([waiter]))),
        }
    }

    /// None: nobody waits, so the turn is free.
    fn next(&mut self) -> Option<W> {
        while let Some((namespace, mut waiters)) = self.waiting.pop_front() {
            let Some(next) = waiters.pop_front() else { continue };
            if !waiters.is_empty() {
                self.waiting.push_back((namespace, waiters));
            }
            return Some(next);
        }
        self.is_taken = false;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> NamespaceName {
        name.parse().unwrap()
    }

    #[test]
    fn the_namespaces_are_served_one_after_the_other() {
        let mut queue = Queue::default();
        for (name, waiter) in [("many", 1), ("many", 2), ("many", 3), ("few", 4), ("many", 5), ("other", 6)] {
            queue.push(&namespace(name), waiter);
        }
        let order: Vec<i32> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, [1, 4, 6, 2, 3, 5]);
    }

    #[tokio::test]
    async fn a_turn_is_passed_on_and_nobody_has_it_who_went_away() {
        let (turns, namespace) = (Arc::new(Turns::default()), namespace("one"));
        let first = turns.take(&namespace).await;
        let mut gone = Box::pin(turns.take(&namespace));
        let mut next = Box::pin(turns.take(&namespace));
        assert!(futures::poll!(gone.as_mut()).is_pending() && futures::poll!(next.as_mut()).is_pending());
        drop(gone);
        drop(first);
        drop(next.await);
        drop(turns.take(&namespace).await);
    }

    #[tokio::test]
    async fn a_turn_that_was_given_and_not_fetched_is_passed_on() {
        let (turns, namespace) = (Arc::new(Turns::default()), namespace("one"));
        let first = turns.take(&namespace).await;
        let mut given = Box::pin(turns.take(&namespace));
        assert!(futures::poll!(given.as_mut()).is_pending());
        drop(first);
        drop(given);
        drop(turns.take(&namespace).await);
    }
}

//! Whose turn it is to write what its guests keep: one app at a time, the namespaces one after the other, and within each its apps, so that an app whose
//! guests write without end holds up another one by a single operation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wharf_types::{AppName, NamespaceName};

#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Queue<oneshot::Sender<Turn>>>);

/// The right to write. Dropping it passes it on.
#[derive(Debug)]
pub(super) struct Turn {
    /// None: it was passed on.
    turns: Option<Arc<Turns>>,
}

impl Turns {
    /// Waits for as long as it takes. Whoever does not want to wait any longer drops it.
    pub(super) async fn take(self: &Arc<Self>, namespace: &NamespaceName, app: &AppName) -> Turn {
        let receiver = {
            let mut queue = self.queue();
            if !queue.is_taken {
                queue.is_taken = true;
                return Turn { turns: Some(self.clone()) };
            }
            let (sender, receiver) = oneshot::channel();
            queue.push(namespace, app, sender);
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

/// Those that are in it take turns; the one at the front is next.
type Line<K, V> = VecDeque<(K, V)>;

/// Who waits, by namespace and by app.
#[derive(Debug)]
struct Queue<W> {
    is_taken: bool,
    waiting: Line<NamespaceName, Line<AppName, VecDeque<W>>>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { is_taken: false, waiting: VecDeque::new() }
    }
}

impl<W> Queue<W> {
    fn push(&mut self, namespace: &NamespaceName, app: &AppName, waiter: W) {
        place(place(&mut self.waiting, namespace), app).push_back(waiter);
    }

    /// None: nobody waits, so the turn is free.
    fn next(&mut self) -> Option<W> {
        while let Some((namespace, mut apps)) = self.waiting.pop_front() {
            while let Some((app, mut waiters)) = apps.pop_front() {
                let Some(next) = waiters.pop_front() else { continue };
                if !waiters.is_empty() {
                    apps.push_back((app, waiters));
                }
                if !apps.is_empty() {
                    self.waiting.push_back((namespace, apps));
                }
                return Some(next);
            }
        }
        self.is_taken = false;
        None
    }
}

/// The one of this name in a line, at its end if it is new.
fn place<'a, K: PartialEq + Clone, V: Default>(line: &'a mut Line<K, V>, name: &K) -> &'a mut V {
    let at = line.iter().position(|(other, _)| other == name).unwrap_or(line.len());
    if at == line.len() {
        line.push_back((name.clone(), V::default()));
    }
    &mut line[at].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> NamespaceName {
        name.parse().unwrap()
    }

    fn app(name: &str) -> AppName {
        name.parse().unwrap()
    }

    #[test]
    fn namespaces_take_turns_and_within_each_its_apps() {
        let mut queue = Queue::default();
        for (name, of, waiter) in [
            ("many", "loud", 1),
            ("many", "loud", 2),
            ("many", "loud", 3),
            ("few", "one", 4),
            ("many", "calm", 5),
            ("many", "loud", 6),
        ] {
            queue.push(&namespace(name), &app(of), waiter);
        }
        let order: Vec<i32> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, [1, 4, 5, 2, 3, 6]);
    }

    #[tokio::test]
    async fn a_turn_is_passed_on_and_nobody_has_it_who_went_away() {
        let (turns, namespace, app) = (Arc::new(Turns::default()), namespace("one"), app("one"));
        let first = turns.take(&namespace, &app).await;
        let mut gone = Box::pin(turns.take(&namespace, &app));
        let mut given = Box::pin(turns.take(&namespace, &app));
        let mut next = Box::pin(turns.take(&namespace, &app));
        assert!(futures::poll!(gone.as_mut()).is_pending());
        assert!(futures::poll!(given.as_mut()).is_pending());
        assert!(futures::poll!(next.as_mut()).is_pending());
        drop(gone);
        drop(first);
        // It was given to this one, who has not fetched it.
        drop(given);
        drop(next.await);
        drop(turns.take(&namespace, &app).await);
    }
}

//! Where a guest is polled: at first in the task that called it, later on threads that the kernel serves after the others.
//!
//! A short request is cheapest where it arrived: no task, no wake-up of another thread. A guest that computes for long would
//! keep that thread from everybody else, so after two epochs it moves, whole, to a runtime of its own: the slow lane. One that
//! goes on for [`LAST_AFTER`] moves once more, to threads that run only while nobody else wants to.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};

/// CPU time after which a guest moves to the last lane.
pub(super) const LAST_AFTER: Duration = Duration::from_millis(20);

/// How the kernel schedules the threads of a lane (sched(7)).
#[derive(Clone, Copy, Debug)]
enum Priority {
    /// About a tenth of the weight of the others.
    Slow,
    /// `SCHED_IDLE`: whoever else wakes takes the CPU at once. A weight alone cannot do that: the kernel lets a thread run to
    /// the end of its time slice, about 3 ms.
    Last,
}

/// Threads of one priority. Started when the first guest moves there.
#[derive(Debug)]
struct Lane {
    name: &'static str,
    priority: Priority,
    runtime: OnceLock<Option<Runtime>>,
}

impl Lane {
    fn new(name: &'static str, priority: Priority) -> Self {
        Self { name, priority, runtime: OnceLock::new() }
    }

    fn handle(&self) -> Option<&Handle> {
        let start = || {
            let priority = self.priority;
            let built = tokio::runtime::Builder::new_multi_thread()
                .thread_name(self.name)
                .on_thread_start(move || take(priority))
                .enable_all()
                .build();
            built
                .map_err(
                    |error| tracing::warn!(%error, "no {}: long computations stay where they are", self.name),
                )
                .ok()
        };
        self.runtime.get_or_init(start).as_ref().map(Runtime::handle)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(Some(runtime)) = self.runtime.take() {
            // Dropping a runtime waits for its threads, which is not allowed in async code.
            runtime.shutdown_background();
        }
    }
}

/// The lanes beside the one where requests arrive, in the order in which a guest goes through them.
#[derive(Debug)]
pub(super) struct Lanes([Lane; 2]);

impl Default for Lanes {
    fn default() -> Self {
        Self([Lane::new("slow-lane", Priority::Slow), Lane::new("last-lane", Priority::Last)])
    }
}

fn take(priority: Priority) {
    // SAFETY: plain system calls on the calling thread; the pointer is valid for the call, which keeps nothing of it. On
    // Linux, `PRIO_PROCESS` with a thread's id and a `pid` of 0 mean that one thread.
    let failed = unsafe {
        match priority {
            Priority::Slow => {
                let thread = nix::libc::syscall(nix::libc::SYS_gettid) as nix::libc::id_t;
                nix::libc::setpriority(nix::libc::PRIO_PROCESS, thread, 10) != 0
            }
            Priority::Last => {
                let parameters: nix::libc::sched_param = std::mem::zeroed();
                nix::libc::sched_setscheduler(0, nix::libc::SCHED_IDLE, &raw const parameters) != 0
            }
        }
    };
    if failed {
        tracing::warn!(?priority, "could not lower the priority of a thread for long computations");
    }
}

/// How many lanes a guest should have gone down by now. Set by its epoch callback.
#[derive(Clone, Debug, Default)]
pub(super) struct LongRunning(Arc<AtomicUsize>);

impl LongRunning {
    /// It has computed for two epochs; `spent` is its CPU time so far.
    pub(super) fn set(&self, spent: Duration) {
        self.0.store(if spent < LAST_AFTER { 1 } else { 2 }, Ordering::Relaxed);
    }

    fn lanes_down(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

type GuestFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A guest's future that changes lanes by itself. Dropping it ends the guest.
pub(super) struct Laned<T> {
    place: Place<T>,
    long_running: LongRunning,
    lanes: Arc<Lanes>,
    /// Lanes that it has gone down.
    down: usize,
}

enum Place<T> {
    Here(GuestFuture<T>),
    /// Further down; polled there by a `Laned` of its own.
    Moved(tokio::task::JoinHandle<Option<T>>),
    Done,
}

impl<T: Send + 'static> Laned<T> {
    pub(super) fn new(future: GuestFuture<T>, long_running: LongRunning, lanes: Arc<Lanes>) -> Self {
        Self { place: Place::Here(future), long_running, lanes, down: 0 }
    }

    fn move_down(&mut self) {
        let lanes = self.lanes.clone();
        let Some(next) = lanes.0.get(self.down).and_then(Lane::handle).cloned() else { return };
        let place = std::mem::replace(&mut self.place, Place::Done);
        self.place = match place {
            Place::Here(future) => {
                let (long_running, down) = (self.long_running.clone(), self.down + 1);
                Place::Moved(next.spawn(Self { place: Place::Here(future), long_running, lanes, down }))
            }
            other => other,
        };
    }
}

impl<T: Send + 'static> Future for Laned<T> {
    /// None: the guest's task panicked, which has been reported.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Place::Here(future) = &mut self.place {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                self.place = Place::Done;
                return Poll::Ready(Some(output));
            }
            if self.long_running.lanes_down() > self.down {
                self.move_down();
            }
        }
        match &mut self.place {
            Place::Here(_) => Poll::Pending,
            Place::Moved(task) => {
                let Poll::Ready(joined) = Pin::new(task).poll(cx) else { return Poll::Pending };
                self.place = Place::Done;
                Poll::Ready(joined.ok().flatten())
            }
            Place::Done => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Laned<T> {
    fn drop(&mut self) {
        if let Place::Moved(task) = &self.place {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that notes the thread of each of its polls and says that it computes for long.
    async fn computes(long_running: LongRunning) -> Vec<String> {
        let mut threads = Vec::new();
        for spent in [Duration::ZERO, LAST_AFTER, LAST_AFTER] {
            threads.push(std::thread::current().name().unwrap_or_default().to_owned());
            long_running.set(spent);
            tokio::task::yield_now().await;
        }
        threads
    }

    #[tokio::test]
    async fn a_guest_that_computes_for_long_goes_down_lane_by_lane() {
        let long_running = LongRunning::default();
        let guest = computes(long_running.clone());
        let threads = Laned::new(Box::pin(guest), long_running, Arc::default()).await.unwrap();
        assert_eq!(threads[1..], ["slow-lane", "last-lane"], "{threads:?}");
    }

    #[tokio::test]
    async fn a_guest_that_has_moved_ends_when_it_is_dropped() {
        let long_running = LongRunning::default();
        let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
        let guest = {
            let long_running = long_running.clone();
            async move {
                let _alive = alive;
                for _ in 0..u64::MAX {
                    long_running.set(Duration::ZERO);
                    tokio::task::yield_now().await;
                }
            }
        };
        let mut laned =
            Box::pin(Laned::new(Box::pin(guest) as GuestFuture<()>, long_running, Arc::default()));
        assert!(futures::poll!(laned.as_mut()).is_pending());
        assert!(matches!(laned.place, Place::Moved(_)));
        drop(laned);
        let end = tokio::time::timeout(Duration::from_secs(10), ended.recv()).await;
        assert_eq!(end.expect("the guest ends"), None);
    }
}

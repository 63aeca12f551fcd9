//! Where a guest is polled: at first in the task that called it, later on threads that the kernel serves after the others.
//!
//! A short request is cheapest where it arrived: no task, no wake-up of another thread. A guest that computes for long would
//! keep that thread from everybody else, so after an epoch it moves, whole, to a runtime of its own: the slow lane. One that
//! goes on for [`LAST_AFTER`] moves once more, to threads that run only while nobody else wants to. Waiting makes up for
//! computing: a guest that has done as much of one as of the other comes back, so that a long-lived one is not judged by
//! what it did once. Where most requests of an app end up in a lane, its next ones start there ([`super::habit`]).

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use super::cpu::Stopwatch;
use super::engine::TICK;

/// A debt of CPU time with which a guest moves to the last lane.
const LAST_AFTER: Duration = Duration::from_millis(20);
/// A guest with a smaller debt of CPU time may come back to where requests arrive.
const FORGIVEN: Duration = TICK;

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
    const fn new(name: &'static str, priority: Priority) -> Self {
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

/// Lanes beside the one where requests arrive.
pub(super) const COUNT: usize = 2;

/// In the order in which a guest goes through them. They are the process's, as its cores are.
static LANES: [Lane; COUNT] =
    [Lane::new("slow-lane", Priority::Slow), Lane::new("last-lane", Priority::Last)];

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

/// The lane for a guest that has computed to the end of an epoch, and has such a debt.
fn lane_for(debt: Duration) -> usize {
    if debt < LAST_AFTER { 1 } else { COUNT }
}

/// The runtime of a lane; None for the lane where requests arrive.
pub(super) fn handle(lane: usize) -> Option<&'static Handle> {
    LANES.get(lane.checked_sub(1)?)?.handle()
}

/// Who pays for a guest.
pub(super) trait Account: Send + Sync + Unpin + 'static {
    /// It is about to be polled.
    fn begin_poll(&self);
    /// It has computed for `time` more.
    fn charge(&self, time: Duration);
    /// It has ended, and needed so many lanes.
    fn close(&self, lanes: usize);
}

/// What a guest has computed is told at the latest when it is this much, so that its figures move while it runs.
const CHARGE_AFTER: Duration = Duration::from_millis(1);

pub(super) type GuestFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A guest and what it has computed.
pub(super) struct Guest<T> {
    future: GuestFuture<T>,
    stopwatch: Stopwatch,
    charged: Duration,
    /// The lane that its computing asks for, 0 for none, and the last one that it has ever asked for.
    lane: usize,
    needed: usize,
}

impl<T> Guest<T> {
    pub(super) fn new(future: GuestFuture<T>) -> Self {
        Self { future, stopwatch: Stopwatch::default(), charged: Duration::ZERO, lane: 0, needed: 0 }
    }

    pub(super) fn poll(&mut self, account: &impl Account, cx: &mut Context<'_>) -> Poll<T> {
        account.begin_poll();
        let polled = self.stopwatch.time(|| self.future.as_mut().poll(cx));
        if self.stopwatch.is_interrupted() {
            self.lane = self.lane.max(lane_for(self.stopwatch.debt_at(Instant::now())));
            self.needed = self.needed.max(self.lane);
        }
        if self.stopwatch.total() - self.charged >= CHARGE_AFTER {
            self.charge(account);
        }
        polled
    }

    /// The lane where its next poll belongs: one that has waited for as long as it has computed is short again.
    pub(super) fn lane(&mut self) -> usize {
        if self.lane > 0 && self.stopwatch.debt_at(Instant::now()) <= FORGIVEN {
            self.lane = 0;
        }
        self.lane
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.stopwatch.is_interrupted()
    }

    fn charge(&mut self, account: &impl Account) {
        let total = self.stopwatch.total();
        account.charge(total - self.charged);
        self.charged = total;
    }

    /// It is over, or has done what was asked of it.
    pub(super) fn close(&mut self, account: &impl Account) {
        self.charge(account);
        account.close(std::mem::take(&mut self.needed));
    }
}

/// A guest with its own account, which is closed when the guest is dropped.
struct Accounted<T, A: Account> {
    guest: Guest<T>,
    account: A,
}

impl<T, A: Account> Drop for Accounted<T, A> {
    fn drop(&mut self) {
        self.guest.close(&self.account);
    }
}

/// A guest's future that changes lanes by itself. Dropping it ends the guest.
pub(super) struct Laned<T, A: Account> {
    place: Place<T, A>,
    /// Where the guest starts.
    start: usize,
}

enum Place<T, A: Account> {
    Here(Accounted<T, A>),
    Moved(JoinHandle<Left<T, A>>),
    Done,
}

/// How a guest leaves a lane.
enum Left<T, A: Account> {
    Ended(T),
    Moves(Accounted<T, A>),
}

impl<T: Send + 'static, A: Account> Laned<T, A> {
    /// `start` is the lane where the guest is first polled, 0 for none.
    pub(super) fn new(future: GuestFuture<T>, account: A, start: usize) -> Self {
        Self { place: Place::Here(Accounted { guest: Guest::new(future), account }), start }
    }

    /// Moves a guest that is here to another lane, where it is polled until it ends or belongs elsewhere.
    fn move_to(&mut self, lane: usize) {
        let Some(to) = handle(lane) else { return };
        self.place = match std::mem::replace(&mut self.place, Place::Done) {
            Place::Here(guest) => Place::Moved(to.spawn(stay(guest, lane))),
            other => other,
        };
    }
}

/// Polls a guest in the lane where this is polled.
async fn stay<T, A: Account>(mut it: Accounted<T, A>, lane: usize) -> Left<T, A> {
    let mut is_first = true;
    let ended = std::future::poll_fn(|cx| {
        // It has been moved here for a reason, which its first poll may change.
        if !std::mem::take(&mut is_first) && it.guest.lane() == 0 {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = it.guest.poll(&it.account, cx) {
            return Poll::Ready(Some(output));
        }
        if it.guest.is_interrupted() && it.guest.lane() > lane { Poll::Ready(None) } else { Poll::Pending }
    });
    match ended.await {
        Some(output) => Left::Ended(output),
        None => Left::Moves(it),
    }
}

impl<T: Send + 'static, A: Account> Future for Laned<T, A> {
    /// None: the guest's task panicked, which has been reported.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let start = std::mem::take(&mut self.start);
        if start > 0 {
            self.move_to(start);
        }
        loop {
            match &mut self.place {
                Place::Here(it) => {
                    if let Poll::Ready(output) = it.guest.poll(&it.account, cx) {
                        self.place = Place::Done;
                        return Poll::Ready(Some(output));
                    }
                    let lane = it.guest.lane();
                    if lane == 0 || handle(lane).is_none() {
                        return Poll::Pending;
                    }
                    self.move_to(lane);
                }
                Place::Moved(task) => {
                    let Poll::Ready(left) = Pin::new(task).poll(cx) else { return Poll::Pending };
                    self.place = Place::Done;
                    match left {
                        Ok(Left::Ended(output)) => return Poll::Ready(Some(output)),
                        Ok(Left::Moves(mut it)) => {
                            let lane = it.guest.lane();
                            self.place = Place::Here(it);
                            self.move_to(lane);
                        }
                        Err(_) => return Poll::Ready(None),
                    }
                }
                Place::Done => return Poll::Ready(None),
            }
        }
    }
}

impl<T, A: Account> Drop for Laned<T, A> {
    fn drop(&mut self) {
        if let Place::Moved(task) = &self.place {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::cpu;
    use super::*;

    /// Notes what it is told.
    #[derive(Clone, Default)]
    struct Bill(Arc<Mutex<(Duration, Option<usize>)>>);

    impl Account for Bill {
        fn begin_poll(&self) {}

        fn charge(&self, time: Duration) {
            self.0.lock().unwrap().0 += time;
        }

        fn close(&self, lanes: usize) {
            self.0.lock().unwrap().1 = Some(lanes);
        }
    }

    /// A guest that computes to the ends of epochs until it has used `time`; the threads where it was polled.
    async fn computes(time: Duration) -> Vec<String> {
        let mut threads: Vec<String> = Vec::new();
        loop {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            if threads.last() != Some(&thread) {
                threads.push(thread);
            }
            let begin = std::time::Instant::now();
            while begin.elapsed() < super::super::engine::TICK {
                std::hint::spin_loop();
            }
            if cpu::at_epoch_end().expect("it is timed").spent >= time {
                return threads;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_guest_that_computes_for_long_goes_down_lane_by_lane() {
        let bill = Bill::default();
        let time = 2 * LAST_AFTER;
        let threads = Laned::new(Box::pin(computes(time)), bill.clone(), 0).await.unwrap();
        assert_eq!(threads[1..], ["slow-lane", "last-lane"], "{threads:?}");
        let (charged, lanes) = *bill.0.lock().unwrap();
        assert!(charged >= time, "{charged:?}");
        assert_eq!(lanes, Some(2));
    }

    #[tokio::test]
    async fn a_guest_may_start_further_down_and_need_less() {
        let bill = Bill::default();
        let guest = async { std::thread::current().name().map(str::to_owned) };
        let thread = Laned::new(Box::pin(guest), bill.clone(), 2).await.unwrap();
        assert_eq!(thread.as_deref(), Some("last-lane"));
        assert_eq!(bill.0.lock().unwrap().1, Some(0), "its lane is no longer needed");
    }

    #[tokio::test]
    async fn a_guest_that_waits_keeps_its_place() {
        let guest = async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            std::thread::current().name().map(str::to_owned)
        };
        let here = std::thread::current().name().map(str::to_owned);
        assert_eq!(Laned::new(Box::pin(guest), Bill::default(), 0).await, Some(here));
    }

    #[tokio::test]
    async fn a_guest_that_computes_no_more_comes_back() {
        let guest = async {
            let thread = || std::thread::current().name().map(str::to_owned);
            let here = thread();
            let threads = computes(LAST_AFTER).await;
            assert!(threads.len() > 1, "it has moved: {threads:?}");
            let limit = Instant::now() + Duration::from_secs(10);
            while thread() != here && Instant::now() < limit {
                tokio::time::sleep(LAST_AFTER).await;
            }
            thread() == here
        };
        assert_eq!(Laned::new(Box::pin(guest), Bill::default(), 0).await, Some(true));
    }

    #[tokio::test]
    async fn a_guest_that_has_moved_ends_when_it_is_dropped() {
        let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
        let guest = async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        };
        let mut laned = Box::pin(Laned::new(Box::pin(guest) as GuestFuture<()>, Bill::default(), 1));
        assert!(futures::poll!(laned.as_mut()).is_pending());
        assert!(matches!(laned.place, Place::Moved(_)));
        drop(laned);
        let end = tokio::time::timeout(Duration::from_secs(10), ended.recv()).await;
        assert_eq!(end.expect("the guest ends"), None);
    }
}

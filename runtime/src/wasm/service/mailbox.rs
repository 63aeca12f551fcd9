//! What a shared store, those who wait in it and those who poll it tell each other.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use http::{Request, Response};
use wasmtime_wasi_http::WasiBody;

use super::super::failure::InvokeError;

type Answer = Result<Response<WasiBody>, InvokeError>;

/// A request on its way through a store: where its answer goes.
pub(super) struct Call {
    answer: Mutex<Option<Answer>>,
    is_answered: AtomicBool,
    caller: AtomicWaker,
}

impl Call {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::default(),
            is_answered: AtomicBool::new(false),
            caller: AtomicWaker::new(),
        })
    }

    /// The first answer counts.
    pub(super) fn answer(&self, answer: Answer) {
        if !self.is_answered.swap(true, Relaxed) {
            *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            self.caller.wake();
        }
    }

    pub(super) fn take_answer(&self) -> Option<Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        self.caller.register(cx.waker());
        self.take_answer().map_or(Poll::Pending, Poll::Ready)
    }
}

/// A request that a store has been given.
pub(super) struct Job {
    pub(super) request: Request<WasiBody>,
    pub(super) call: Arc<Call>,
}

/// What a store may take.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Capacity {
    /// Requests in all, and at once.
    pub(in super::super) uses: usize,
    pub(in super::super) concurrent: usize,
}

/// What is to become of a store after a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// Something goes on in it.
    Busy,
    /// Nothing goes on, and it can take more requests.
    Idle,
    /// It has done what it was for.
    Over,
}

#[derive(Default)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    /// Wakes whoever polls the store.
    poller: AtomicWaker,
    has_jobs: AtomicBool,
    /// No task of the guest is left in the store. Told by the store in each poll, as is the next one.
    is_quiet: AtomicBool,
    /// The guest would rather have no more requests now.
    is_pressed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Handed in, and not yet taken by the store.
    jobs: Vec<Job>,
    /// Those whose callers wait for the answer or read it.
    calls: Vec<Arc<Call>>,
    /// Requests that were handed in so far.
    used: usize,
    /// Somebody polls the store just now.
    is_polled: bool,
    /// The store waits in a task of its own for something else than the CPU, so that others may join.
    is_open: bool,
    /// A caller went away without all of its answer: what the guest does for it cannot be stopped by itself, so the store takes no more.
    is_retired: bool,
    /// When the last caller left.
    left: Option<Instant>,
    /// How the store has ended, if it has; None inside for without an error.
    end: Option<Option<InvokeError>>,
    /// Those who want to know whether the store survives the current poll.
    curious: Vec<Waker>,
}

impl Mailbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the store a request; whoever does so polls it next.
    pub(super) fn hand_in(&self, job: Job) {
        self.push(&mut self.state(), job);
    }

    fn push(&self, state: &mut State, job: Job) {
        state.used += 1;
        state.calls.push(job.call.clone());
        state.jobs.push(job);
        self.has_jobs.store(true, Relaxed);
    }

    /// Gives the request to a store that others use, and takes it from `job`, if there is room in it.
    pub(super) fn try_join(&self, job: &mut Option<Job>, capacity: Capacity) -> bool {
        let mut state = self.state();
        let has_room = state.is_open
            && !state.is_retired
            && state.end.is_none()
            && state.used < capacity.uses
            && state.calls.len() < capacity.concurrent
            && !self.is_pressed.load(Relaxed);
        let Some(job) = job.take_if(|_| has_room) else { return false };
        self.push(&mut state, job);
        drop(state);
        self.poller.wake();
        true
    }

    /// For the store: moves the requests that it has been given to the end of `jobs`.
    pub(super) fn take_jobs(&self, jobs: &mut Vec<Job>) {
        if self.has_jobs.load(Relaxed) {
            let mut state = self.state();
            self.has_jobs.store(false, Relaxed);
            jobs.append(&mut state.jobs);
        }
    }

    /// For the store: how it stands in the middle of a poll.
    pub(super) fn note(&self, is_quiet: bool, is_pressed: bool) {
        self.is_quiet.store(is_quiet, Relaxed);
        self.is_pressed.store(is_pressed, Relaxed);
    }

    pub(super) fn register(&self, poller: &Waker) {
        self.poller.register(poller);
    }

    pub(super) fn begin_poll(&self) {
        let mut state = self.state();
        state.is_polled = true;
        state.is_open = false;
    }

    /// The store has been polled and waits: for something that comes from outside, or for the CPU.
    pub(super) fn end_poll(&self) {
        let mut state = self.state();
        state.is_polled = false;
        for waker in state.curious.drain(..) {
            waker.wake();
        }
    }

    pub(super) fn outlook(&self, capacity: Capacity) -> Outlook {
        let state = self.state();
        if !state.calls.is_empty() {
            return Outlook::Busy;
        }
        let is_spent = state.is_retired || state.used >= capacity.uses;
        match self.is_quiet.load(Relaxed) {
            _ if state.is_retired => Outlook::Over,
            true if is_spent => Outlook::Over,
            true => Outlook::Idle,
            false => Outlook::Busy,
        }
    }

    /// From now until the next poll others may join.
    pub(super) fn open(&self) {
        self.state().is_open = true;
    }

    /// Nobody waits for the call's answer any more, or for the rest of it. `has_all`: because there is nothing left to wait for.
    pub(super) fn leave(&self, call: &Arc<Call>, has_all: bool) {
        let mut state = self.state();
        if let Some(index) = state.calls.iter().position(|other| Arc::ptr_eq(other, call)) {
            state.calls.swap_remove(index);
        }
        state.is_retired |= !(has_all && call.is_answered.load(Relaxed));
        let is_last = state.calls.is_empty();
        if is_last {
            state.left = Some(Instant::now());
        }
        drop(state);
        if is_last {
            self.poller.wake();
        }
    }

    /// Until when the guest may go on although nobody waits for it.
    pub(super) fn deadline(&self, patience: Duration) -> Option<Instant> {
        let state = self.state();
        if state.calls.is_empty() { state.left.map(|left| left + patience) } else { None }
    }

    /// The store has ended. Those who wait for an answer get the error for it. The first end counts.
    pub(super) fn end(&self, error: Option<InvokeError>) {
        let mut state = self.state();
        if state.end.is_some() {
            return;
        }
        let answer = error.clone().unwrap_or(InvokeError::NoResponse);
        state.end = Some(error);
        state.is_polled = false;
        state.is_open = false;
        for call in &state.calls {
            call.answer(Err(answer.clone()));
        }
        state.jobs.clear();
        for waker in state.curious.drain(..) {
            waker.wake();
        }
    }

    /// For the reader of an answer that has come to its end: whether the guest ended it, or only the store's own end did.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Option<InvokeError>> {
        let mut state = self.state();
        match &state.end {
            Some(end) => Poll::Ready(end.clone()),
            None if state.is_polled => {
                state.curious.push(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity { uses: 3, concurrent: 2 };

    fn job() -> Job {
        Job { request: Request::default(), call: Call::new() }
    }

    fn hand_in(mailbox: &Mailbox) -> Arc<Call> {
        let job = job();
        let call = job.call.clone();
        mailbox.hand_in(job);
        call
    }

    fn joins(mailbox: &Mailbox) -> bool {
        mailbox.try_join(&mut Some(job()), CAPACITY)
    }

    /// A poll in which the guest answers `answered` and is left with nothing to do, or not.
    fn poll(mailbox: &Mailbox, answered: &[&Arc<Call>], is_quiet: bool) -> Outlook {
        mailbox.begin_poll();
        mailbox.take_jobs(&mut Vec::new());
        for call in answered {
            call.answer(Ok(Response::default()));
        }
        mailbox.note(is_quiet, false);
        mailbox.end_poll();
        mailbox.outlook(CAPACITY)
    }

    #[test]
    fn a_store_is_idle_when_every_answer_was_read_and_the_guest_has_nothing_to_do() {
        let mailbox = Mailbox::default();
        let call = hand_in(&mailbox);
        assert_eq!(poll(&mailbox, &[&call], true), Outlook::Busy, "the answer is not read");
        mailbox.leave(&call, true);
        assert_eq!(poll(&mailbox, &[], false), Outlook::Busy, "the guest goes on");
        assert_eq!(poll(&mailbox, &[], true), Outlook::Idle);
    }

    #[test]
    fn a_store_is_over_after_its_last_use() {
        let mailbox = Mailbox::default();
        for outlook in [Outlook::Idle, Outlook::Idle, Outlook::Over] {
            let call = hand_in(&mailbox);
            poll(&mailbox, &[&call], true);
            mailbox.leave(&call, true);
            assert_eq!(poll(&mailbox, &[], true), outlook);
        }
    }

    #[test]
    fn others_join_only_while_the_store_waits_and_has_room() {
        let mailbox = Mailbox::default();
        let first = hand_in(&mailbox);
        assert!(!joins(&mailbox), "it computes");
        poll(&mailbox, &[], false);
        mailbox.open();
        assert!(joins(&mailbox));
        assert!(!joins(&mailbox), "two at once are the most");
        poll(&mailbox, &[&first], false);
        mailbox.open();
        mailbox.leave(&first, true);
        assert!(joins(&mailbox));
        let second = mailbox.state().calls[0].clone();
        mailbox.leave(&second, true);
        assert!(!joins(&mailbox), "three in all are the most");
    }

    #[test]
    fn a_store_that_somebody_gave_up_takes_no_more_and_ends_after_the_others() {
        let mailbox = Mailbox::default();
        let (patient, impatient) = (hand_in(&mailbox), hand_in(&mailbox));
        poll(&mailbox, &[], false);
        mailbox.open();
        mailbox.leave(&impatient, false);
        assert!(!joins(&mailbox));
        assert_eq!(poll(&mailbox, &[&patient], false), Outlook::Busy);
        mailbox.leave(&patient, false);
        assert_eq!(poll(&mailbox, &[], false), Outlook::Over, "the guest still works for nobody");
    }

    #[test]
    fn a_store_whose_answer_nobody_reads_to_its_end_is_given_up() {
        let mailbox = Mailbox::default();
        let (leaves, stays) = (hand_in(&mailbox), hand_in(&mailbox));
        poll(&mailbox, &[&leaves, &stays], false);
        mailbox.open();
        mailbox.leave(&leaves, false);
        assert!(!joins(&mailbox), "its guest may write for ever");
        assert_eq!(poll(&mailbox, &[], false), Outlook::Busy, "another one is still read");
        mailbox.leave(&stays, true);
        assert_eq!(poll(&mailbox, &[], false), Outlook::Over);
    }

    #[test]
    fn work_after_the_last_answer_has_an_end() {
        let mailbox = Mailbox::default();
        let call = hand_in(&mailbox);
        poll(&mailbox, &[&call], false);
        assert_eq!(mailbox.deadline(Duration::ZERO), None, "the answer may take as long as it is read");
        mailbox.leave(&call, true);
        assert!(mailbox.deadline(Duration::ZERO).unwrap() <= Instant::now());
    }

    #[test]
    fn an_answer_that_ends_with_its_store_is_told_so() {
        let mut cx = Context::from_waker(Waker::noop());
        let mailbox = Mailbox::default();
        let (answered, waiting) = (hand_in(&mailbox), hand_in(&mailbox));
        poll(&mailbox, &[&answered], false);
        assert!(answered.take_answer().is_some_and(|answer| answer.is_ok()));
        assert_eq!(mailbox.poll_end(&mut cx), Poll::Ready(None), "the guest ended it");
        mailbox.begin_poll();
        assert_eq!(mailbox.poll_end(&mut cx), Poll::Pending, "it may be the store's end");
        mailbox.end(Some(InvokeError::Stopped));
        mailbox.end(None);
        assert_eq!(mailbox.poll_end(&mut cx), Poll::Ready(Some(InvokeError::Stopped)));
        assert_eq!(waiting.take_answer().unwrap().unwrap_err(), InvokeError::Stopped);
        assert!(answered.take_answer().is_none(), "it was read");
    }
}

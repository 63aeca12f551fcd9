//! Leads, while this process holds the lease, by running the loops that only a leader runs.
//!
//! [`Lease`] is the decision: from the time, and what the database answered, what to do next. It trusts this machine's own clock, which
//! goes on while that sleeps ([`clock`]), from the moment at which it asked, so it ends before the database's lease does. Around it
//! [`run`] asks, and starts and ends the loops. Whoever was deposed and does not know it yet, such as a process that stood still, writes
//! nothing all the same: every write of the loops is guarded by the epoch.
//!
//! On SQLite the lock of the data directory is the lease: its holder leads from the start to the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wharf_types::Timestamp;

use crate::artifacts::collect;
use crate::authority::rotation;
use crate::clock;
use crate::context::Context;
use crate::git;
use crate::nodes::{self, Start};
use crate::reconcile::{self, chain};
use crate::store::lease::{LEASE, Leases, Taking, Twin};

/// How often a leader renews, and others look whether they can have the lease.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Whoever was refused no longer ago than this, and then has the lease, follows somebody who led until a moment ago.
const SUCCEEDS_WITHIN: Duration = Duration::from_secs(1);
/// How soon a leader asks again that got no answer.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How much earlier than the lease a leader ends: by then its loops have.
const MARGIN: Duration = Duration::from_millis(250);
/// How long a process that does not lead waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long the loops of a deposed leader may take to end until they are ended.
const DEPOSED_GRACE: Duration = Duration::from_millis(100);
/// The same when the process ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait(Instant),
    Take,
    Renew(u64),
    /// The lease is lost, or nobody can say that it is not.
    Resign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// In this epoch.
    Granted(u64),
    /// Another server has it.
    Refused,
    Failed,
}

/// What this process knows of the lease.
#[derive(Debug)]
struct Lease {
    /// The epoch that it leads in, and until when it may.
    held: Option<(u64, Instant)>,
    ask_at: Instant,
    /// When this process asked, of which the answer was that another has it.
    others_had_it: Option<Instant>,
}

impl Lease {
    fn new(now: Instant) -> Self {
        Self { held: None, ask_at: now, others_had_it: None }
    }

    fn step(&self, now: Instant) -> Step {
        match self.held {
            Some((_, until)) if now >= until => Step::Resign,
            Some((epoch, _)) if now >= self.ask_at => Step::Renew(epoch),
            Some((_, until)) => Step::Wait(self.ask_at.min(until)),
            None if now >= self.ask_at => Step::Take,
            None => Step::Wait(self.ask_at),
        }
    }

    /// Takes in the answer to what was asked at a time: the database has granted it later than that, so its lease ends later.
    fn answered(&mut self, asked_at: Instant, now: Instant, answer: Answer) {
        if answer == Answer::Refused {
            self.others_had_it = Some(asked_at);
        }
        match (answer, self.held) {
            (Answer::Granted(epoch), _) => {
                self.held = Some((epoch, asked_at + LEASE - MARGIN));
                self.ask_at = asked_at + ASK_EVERY;
            }
            (Answer::Refused, Some((epoch, _))) => self.held = Some((epoch, now)),
            (Answer::Failed, Some(_)) => self.ask_at = now + ASK_AGAIN,
            (Answer::Refused | Answer::Failed, None) => self.ask_at = now + ASK_EVERY,
        }
    }

    /// How it has come to lead that asked at this time, and got it.
    fn start(&self, asked_at: Instant) -> Start {
        let since = self.others_had_it.map(|at| asked_at.saturating_duration_since(at));
        if since.is_some_and(|since| since <= SUCCEEDS_WITHIN) { Start::Succeeds } else { Start::Anew }
    }

    fn stepped_down(&mut self, now: Instant) {
        self.held = None;
        self.ask_at = now + ASK_EVERY;
    }
}

/// What this process knows of another one with its server's id.
///
/// A machine that was started anew, or a folder that was brought to another one, finds the lease of its own past under its id, for as long as
/// that lasts. Whatever has it for longer is alive.
#[derive(Debug, Default)]
struct Twins {
    /// Who has the lease, and since when this is known.
    seen: Option<(Twin, Instant)>,
    told: bool,
}

impl Twins {
    /// Takes in who has the lease under this id, and says whether people have to be told.
    fn have_to_be_told(&mut self, now: Instant, twin: Option<&Twin>) -> bool {
        let Some(twin) = twin else {
            *self = Self::default();
            return false;
        };
        match &self.seen {
            Some((seen, since)) if seen == twin => {
                let tell = !self.told && now.saturating_duration_since(*since) > LEASE;
                self.told |= tell;
                tell
            }
            _ => {
                *self = Self { seen: Some((twin.clone(), now)), told: false };
                false
            }
        }
    }
}

/// Leads when it can, until `shutdown`. It returns before that only if a loop ended by itself.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    match context.store.leases(context.candidate()) {
        Some(leases) => compete(&context, &leases, shutdown).await,
        None => {
            let mut loops = Loops::start(&context);
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = loops.ended() => {}
            }
            loops.end(SHUTDOWN_GRACE).await;
        }
    }
}

async fn compete(context: &Arc<Context>, leases: &Leases, shutdown: CancellationToken) {
    let mut lease = Lease::new(clock::now());
    let mut loops: Option<Loops> = None;
    let mut twins = Twins::default();
    while !shutdown.is_cancelled() {
        let now = clock::now();
        match lease.step(now) {
            Step::Wait(until) => {
                let ended = async {
                    match &mut loops {
                        Some(loops) => loops.ended().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = sleep(until.saturating_duration_since(now)) => {}
                    () = ended => break,
                }
            }
            Step::Take => {
                let mut twin = None;
                let answer = match timeout(ANSWER_MAX, leases.take(Timestamp::now())).await {
                    Ok(Ok(Taking::Taken(epoch))) => Answer::Granted(epoch),
                    Ok(Ok(Taking::Refused(other))) => {
                        twin = other;
                        Answer::Refused
                    }
                    Ok(Err(error)) => {
                        debug!("cannot ask for the lease: {}", chain(&error));
                        Answer::Failed
                    }
                    Err(_) => Answer::Failed,
                };
                let is_news = twins.have_to_be_told(clock::now(), twin.as_ref());
                if let Some(twin) = twin.filter(|_| is_news) {
                    warn!("{}", about_twin(context, &twin));
                }
                lease.answered(now, clock::now(), answer);
                tell_until(context, &lease);
                if let Answer::Granted(epoch) = answer {
                    loops = lead(context, epoch, lease.start(now)).await;
                    if loops.is_none() {
                        give_up(leases).await;
                        lease.stepped_down(clock::now());
                    }
                }
            }
            Step::Renew(epoch) => {
                let until = lease.held.map_or(now, |(_, until)| until);
                let answer = match timeout(until.saturating_duration_since(now), leases.renew(epoch)).await {
                    Ok(Ok(true)) => Answer::Granted(epoch),
                    Ok(Ok(false)) => Answer::Refused,
                    Ok(Err(error)) => {
                        debug!("cannot renew the lease: {}", chain(&error));
                        Answer::Failed
                    }
                    Err(_) => Answer::Failed,
                };
                lease.answered(now, clock::now(), answer);
                tell_until(context, &lease);
            }
            Step::Resign => {
                warn!("this control plane leads no more: its lease was taken, or could not be renewed");
                stop(context, loops.take(), DEPOSED_GRACE).await;
                lease.stepped_down(clock::now());
            }
        }
    }
    stop(context, loops, SHUTDOWN_GRACE).await;
    give_up(leases).await;
}

fn about_twin(context: &Context, twin: &Twin) -> String {
    format!(
        "another process, at {}, uses this `server.id` and leads; it was started at {}. This one does not lead while that one does: stop \
         it, or, if {} is a copy of its data directory, remove `server.id` there and start again",
        twin.address,
        twin.started_at,
        context.config.data_dir.display()
    )
}

fn tell_until(context: &Context, lease: &Lease) {
    if let Some((_, until)) = lease.held {
        context.set_lease_until(until);
    }
}

async fn lead(context: &Arc<Context>, epoch: u64, start: Start) -> Option<Loops> {
    match context.lead(epoch, start).await {
        Ok(()) => {
            info!("this control plane leads, in epoch {epoch}");
            Some(Loops::start(context))
        }
        Err(error) => {
            warn!("cannot read what a leader has to know: {}", chain(&error));
            context.follow_others();
            None
        }
    }
}

async fn stop(context: &Context, loops: Option<Loops>, grace: Duration) {
    context.follow_others();
    if let Some(loops) = loops {
        loops.end(grace).await;
    }
}

/// Others need not wait until it ends by itself.
async fn give_up(leases: &Leases) {
    if !matches!(timeout(LEASE, leases.release()).await, Ok(Ok(()))) {
        debug!("the lease could not be given up, and ends by itself");
    }
}

/// Everything that only a leader runs.
struct Loops {
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl Loops {
    fn start(context: &Arc<Context>) -> Self {
        let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(reconcile::run(context.clone(), cancel.clone()));
        tasks.spawn(nodes::kept::run(context.clone(), cancel.clone()));
        tasks.spawn(collect::run(context.clone(), cancel.clone()));
        tasks.spawn(rotation::run(context.clone(), cancel.clone()));
        tasks.spawn(git::recover::run(context.clone(), cancel.clone()));
        Self { cancel, tasks }
    }

    /// Waits until one of them ends by itself, which none should. A panic goes on here.
    async fn ended(&mut self) {
        if let Some(Err(error)) = self.tasks.join_next().await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }

    /// Returns when none of them runs any more.
    async fn end(mut self, grace: Duration) {
        self.cancel.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(grace, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds after a start.
    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_leader_renews_twice_a_second_and_counts_from_when_it_asked() {
        let start = Instant::now();
        let mut lease = Lease::new(start);
        assert_eq!(lease.step(start), Step::Take);
        // The answer takes a while, in which the lease already runs.
        lease.answered(start, at(start, 400), Answer::Granted(7));
        assert_eq!(lease.step(at(start, 400)), Step::Wait(at(start, 500)));
        assert_eq!(lease.step(at(start, 500)), Step::Renew(7));
        lease.answered(at(start, 500), at(start, 510), Answer::Granted(7));
        assert_eq!(lease.step(at(start, 510)), Step::Wait(at(start, 1000)));
    }

    #[test]
    fn a_leader_without_answers_ends_before_its_lease_does_and_asks_until_then() {
        let start = Instant::now();
        let mut lease = Lease::new(start);
        lease.answered(start, start, Answer::Granted(7));
        let (mut now, mut asked) = (start, 0);
        loop {
            match lease.step(now) {
                Step::Wait(until) => now = until,
                Step::Renew(7) => {
                    asked += 1;
                    lease.answered(now, at(now, 50), Answer::Failed);
                    now = at(now, 50);
                }
                step => {
                    assert_eq!(step, Step::Resign);
                    break;
                }
            }
        }
        assert!(now >= at(start, 1750) && now < start + LEASE, "{:?}", now - start);
        assert_eq!(asked, 9, "every 150 ms from 500 ms on");
    }

    #[test]
    fn a_process_that_stood_still_steps_down_before_anything_else() {
        let start = Instant::now();
        let mut lease = Lease::new(start);
        lease.answered(start, start, Answer::Granted(7));
        assert_eq!(lease.step(at(start, 60_000)), Step::Resign);
        lease.stepped_down(at(start, 60_000));
        assert_eq!(lease.step(at(start, 60_000)), Step::Wait(at(start, 60_500)));
        assert_eq!(lease.step(at(start, 60_500)), Step::Take);
    }

    #[test]
    fn a_leader_whose_lease_was_taken_steps_down_at_once_and_who_never_had_it_asks_on() {
        let start = Instant::now();
        let mut lease = Lease::new(start);
        for answer in [Answer::Refused, Answer::Failed] {
            lease.answered(start, start, answer);
            assert_eq!(lease.step(start), Step::Wait(at(start, 500)));
        }
        lease.answered(start, start, Answer::Granted(7));
        lease.answered(at(start, 500), at(start, 510), Answer::Refused);
        assert_eq!(lease.step(at(start, 510)), Step::Resign);
    }

    #[test]
    fn another_process_with_the_same_id_is_told_of_once_when_it_outlives_the_lease() {
        let start = Instant::now();
        let twin = |address: &str| Twin { address: address.to_owned(), started_at: Timestamp::UNIX_EPOCH };
        let (a, b) = (twin("a:7071"), twin("b:7071"));
        let mut twins = Twins::default();
        let told: Vec<u64> = (0..20)
            .map(|turn| turn * 500)
            .filter(|millis| twins.have_to_be_told(at(start, *millis), Some(&a)))
            .collect();
        assert_eq!(told, [2500], "the lease of a process that has ended lasts for 2 s");
        assert!(!twins.have_to_be_told(at(start, 10_000), Some(&b)), "it is another one");
        assert!(twins.have_to_be_told(at(start, 12_500), Some(&b)));
        assert!(!twins.have_to_be_told(at(start, 13_000), None));
        assert!(!twins.have_to_be_told(at(start, 20_000), Some(&b)), "it was gone meanwhile");
    }

    #[test]
    fn whoever_was_refused_just_before_succeeds_the_one_that_led() {
        let start = Instant::now();
        let mut lease = Lease::new(start);
        assert_eq!(lease.start(start), Start::Anew, "nobody knows who led before");
        for millis in (0..3000).step_by(500) {
            lease.answered(at(start, millis), at(start, millis), Answer::Refused);
        }
        lease.answered(at(start, 3000), at(start, 3010), Answer::Granted(7));
        assert_eq!(lease.start(at(start, 3000)), Start::Succeeds);
        // It leads, loses the lease without an answer, and has it again.
        lease.stepped_down(at(start, 9000));
        lease.answered(at(start, 9500), at(start, 9510), Answer::Granted(9));
        assert_eq!(lease.start(at(start, 9500)), Start::Anew);
    }

    #[test]
    fn an_answer_that_came_too_late_makes_no_leader() {
        let start = Instant::now();
        let mut lease = Lease::new(start);
        lease.answered(start, at(start, 1900), Answer::Granted(7));
        assert_eq!(lease.step(at(start, 1900)), Step::Resign);
    }
}

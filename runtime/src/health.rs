//! When to probe an instance, and what its answers mean: a state machine without I/O and without a clock.
//!
//! An HTTP app is probed from its start on until its first success; only then may it receive requests. Afterwards its
//! readiness is probed only where the spec names a `path`: without one the check could merely find that the app
//! still answers anything, and thousands of idle apps would be kept awake for that. Its liveness is probed only with a
//! `liveness_path`. A command with ports is healthy once it has accepted a connection at each, any other once it has run for
//! [`SETTLED_AFTER`]. A container may have a check by a command, which says when it is ready and then, as long as it runs, that it lives.

use std::time::Duration;

use tokio::time::Instant;
use wharf_types::node::{Reason, ReasonKind};
use wharf_types::spec::{AppSpec, ContainerHealthSpec, HealthSpec};
use wharf_types::state::Health;
use wharf_types::world::World;

use crate::backend::Failure;

/// A command that has run for this long has started well.
pub const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// After so many failed startup probes, `period` takes the place of the shorter `startup_period`.
const STARTUP_PROBES: u32 = 100;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Startup,
    Readiness,
    Liveness,
    /// Whether the ports of a command accept connections.
    Listening,
    /// A command in the container, until its first success and afterwards.
    CommandStartup,
    Command,
    /// Needs no probe: the time alone decides.
    Settled,
}

/// What an answer changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// The health or its reason are not what they were.
    Changed,
    /// The instance must be replaced.
    End(Failure),
}

/// The health of one instance.
#[derive(Clone, Debug)]
pub struct Checks {
    spec: HealthSpec,
    health: Health,
    /// Why it is not healthy.
    reason: Option<Reason>,
    healthy_since: Option<Instant>,
    startup_failures: u32,
    /// Readiness answers in a row that speak against `health`.
    against: u32,
    liveness_failures: u32,
    /// What decides about the first success.
    startup: Option<(Instant, Check)>,
    readiness: Option<Instant>,
    liveness: Option<Instant>,
    command: Option<CommandCheck>,
}

/// The check by a command, which says that an instance is ready, and later that it has to be replaced.
#[derive(Clone, Debug)]
struct CommandCheck {
    spec: ContainerHealthSpec,
    /// Failures before do not count, unless there was a success.
    counts_from: Instant,
    has_succeeded: bool,
    /// In a row.
    failures: u32,
    /// Not before the first success.
    due: Option<Instant>,
}

impl Checks {
    /// `command` is the check by a command, if there is one.
    pub fn new(world: World, spec: &AppSpec, command: Option<ContainerHealthSpec>, now: Instant) -> Self {
        let asks_path = world.is_http() && (command.is_none() || spec.http.health.path.is_some());
        let startup = if asks_path {
            (now, Check::Startup)
        } else if command.is_some() {
            (now, Check::CommandStartup)
        } else if spec.tcp.ports.is_empty() {
            (now + SETTLED_AFTER, Check::Settled)
        } else {
            (now, Check::Listening)
        };
        Self {
            spec: spec.http.health.clone(),
            health: Health::Unknown,
            reason: None,
            healthy_since: None,
            startup_failures: 0,
            against: 0,
            liveness_failures: 0,
            startup: Some(startup),
            readiness: None,
            liveness: None,
            command: command.map(|spec| CommandCheck {
                counts_from: now + spec.start_period.as_duration(),
                has_succeeded: false,
                failures: 0,
                // Where a path decides about the start, the command is asked from the start on as well.
                due: asks_path.then(|| now + spec.interval.as_duration()),
                spec,
            }),
        }
    }

    /// The command of a check, and how long it may take. None: it is no check by a command.
    pub fn command(&self, check: Check) -> Option<(&[String], Duration)> {
        let command =
            self.command.as_ref().filter(|_| matches!(check, Check::Command | Check::CommandStartup))?;
        Some((&command.spec.command, command.spec.timeout.as_duration()))
    }

    /// Takes the outcome of a check by a command, which began at `began`.
    pub fn commanded(
        &mut self,
        check: Check,
        began: Instant,
        now: Instant,
        outcome: Result<(), Failure>,
    ) -> Verdict {
        let Some(command) = &mut self.command else { return Verdict::Same };
        let Err(failure) = outcome else {
            command.failures = 0;
            command.has_succeeded = true;
            command.due = Some(next_due(began, now, command.spec.interval.as_duration()));
            return if check == Check::CommandStartup { self.settle(now) } else { Verdict::Same };
        };
        // An engine that does not answer says nothing about the container.
        let counts = failure.reason.kind == ReasonKind::Probe;
        let is_early = !command.has_succeeded && now < command.counts_from;
        if counts && !is_early {
            command.failures += 1;
        }
        if command.failures >= command.spec.retries {
            let message = format!(
                "the health check failed {} times in a row: {}",
                command.failures, failure.reason.message
            );
            return Verdict::End(Failure::new(ReasonKind::Probe, message));
        }
        let spec = &command.spec;
        if check == Check::CommandStartup {
            let period = if is_early { spec.start_interval } else { spec.interval };
            self.startup = Some((next_due(began, now, period.as_duration()), check));
            return self.become_unhealthy(failure.reason);
        }
        let period = if is_early { spec.start_interval } else { spec.interval };
        command.due = Some(next_due(began, now, period.as_duration()));
        Verdict::Same
    }

    pub fn health(&self) -> Health {
        self.health
    }

    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }

    pub fn healthy_since(&self) -> Option<Instant> {
        self.healthy_since
    }

    pub fn timeout(&self) -> Duration {
        self.spec.timeout.as_duration()
    }

    /// The next check and its time. None: nothing will ever have to be checked again.
    pub fn next(&self) -> Option<(Instant, Check)> {
        self.startup.or_else(|| {
            let readiness = self.readiness.map(|due| (due, Check::Readiness));
            let liveness = self.liveness.map(|due| (due, Check::Liveness));
            let command = self.command.as_ref().and_then(|command| command.due);
            let command = command.map(|due| (due, Check::Command));
            readiness.into_iter().chain(liveness).chain(command).min_by_key(|(due, _)| *due)
        })
    }

    /// The path that a check asks for.
    pub fn path(&self, check: Check) -> &str {
        match check {
            Check::Liveness => self.spec.liveness_path.as_deref().unwrap_or("/"),
            Check::Startup
            | Check::Readiness
            | Check::Listening
            | Check::Settled
            | Check::Command
            | Check::CommandStartup => self.spec.path.as_deref().unwrap_or("/"),
        }
    }

    /// The command has run for long enough, or accepts connections.
    pub fn settle(&mut self, now: Instant) -> Verdict {
        self.startup = None;
        self.become_healthy(now)
    }

    /// Takes the answer of a probe that began at `began`.
    pub fn answered(
        &mut self,
        check: Check,
        began: Instant,
        now: Instant,
        answer: Result<u16, Failure>,
    ) -> Verdict {
        if let Err(Failure { is_telling: false, .. }) = &answer {
            self.not_asked(check, began, now);
            return Verdict::Same;
        }
        let answer = self.judge(check, answer);
        match check {
            Check::Startup => self.startup_answered(began, now, answer),
            Check::Readiness => {
                self.readiness = Some(next_due(began, now, self.spec.period.as_duration()));
                self.readiness_answered(now, answer)
            }
            Check::Liveness => {
                self.liveness = Some(next_due(began, now, self.spec.period.as_duration()));
                self.liveness_answered(answer)
            }
            Check::Listening => self.accepted(began, now, answer.map_err(Failure::from)),
            Check::Settled => self.settle(now),
            Check::Command | Check::CommandStartup => {
                self.commanded(check, began, now, answer.map_err(Failure::from))
            }
        }
    }

    /// The node had no room for the question, which says nothing about the guest: it is asked again when its next turn comes.
    fn not_asked(&mut self, check: Check, began: Instant, now: Instant) {
        let later = next_due(began, now, self.spec.period.as_duration());
        match check {
            Check::Readiness => self.readiness = Some(later),
            Check::Liveness => self.liveness = Some(later),
            Check::Startup | Check::Listening => {
                self.startup = Some((next_due(began, now, self.spec.startup_period.as_duration()), check));
            }
            Check::Settled | Check::CommandStartup => self.startup = Some((later, check)),
            Check::Command => {
                if let Some(command) = &mut self.command {
                    command.due = Some(next_due(began, now, command.spec.interval.as_duration()));
                }
            }
        }
    }

    /// Takes the outcome of connecting to the ports, which began at `began`.
    pub fn accepted(&mut self, began: Instant, now: Instant, outcome: Result<(), Failure>) -> Verdict {
        match outcome {
            Ok(()) => self.settle(now),
            Err(failure) => self.startup_failed(Check::Listening, began, now, failure.reason),
        }
    }

    fn startup_answered(&mut self, began: Instant, now: Instant, answer: Result<(), Reason>) -> Verdict {
        let Err(reason) = answer else {
            let later = now + self.spec.period.as_duration();
            self.startup = None;
            self.readiness = self.spec.path.is_some().then_some(later);
            self.liveness = self.spec.liveness_path.is_some().then_some(later);
            return self.become_healthy(now);
        };
        // Whoever cannot answer at all does not get better by being asked again, and a rollout should fail now
        // and with these words, not at its deadline.
        if matches!(reason.kind, ReasonKind::Trap | ReasonKind::Artifact) {
            return Verdict::End(reason.into());
        }
        self.startup_failed(Check::Startup, began, now, reason)
    }

    fn startup_failed(&mut self, check: Check, began: Instant, now: Instant, reason: Reason) -> Verdict {
        self.startup_failures = self.startup_failures.saturating_add(1);
        let quick = self.spec.startup_period.as_duration();
        let period = if self.startup_failures < STARTUP_PROBES {
            quick
        } else {
            quick.max(self.spec.period.as_duration())
        };
        self.startup = Some((next_due(began, now, period), check));
        self.become_unhealthy(reason)
    }

    fn readiness_answered(&mut self, now: Instant, answer: Result<(), Reason>) -> Verdict {
        match (answer, self.health) {
            (Ok(()), Health::Healthy) => self.against = 0,
            (Ok(()), _) => {
                self.against += 1;
                if self.against >= self.spec.threshold {
                    return self.become_healthy(now);
                }
            }
            (Err(reason), Health::Healthy) => {
                self.against += 1;
                if self.against >= self.spec.threshold {
                    return self.become_unhealthy(reason);
                }
            }
            (Err(reason), _) => return self.become_unhealthy(reason),
        }
        Verdict::Same
    }

    fn liveness_answered(&mut self, answer: Result<(), Reason>) -> Verdict {
        let Err(reason) = answer else {
            self.liveness_failures = 0;
            return Verdict::Same;
        };
        self.liveness_failures += 1;
        if self.liveness_failures < self.spec.threshold {
            return Verdict::Same;
        }
        let message = format!(
            "GET {} failed {} times in a row: {}",
            self.path(Check::Liveness),
            self.liveness_failures,
            reason.message
        );
        Verdict::End(Failure::new(ReasonKind::Probe, message))
    }

    fn become_healthy(&mut self, now: Instant) -> Verdict {
        self.health = Health::Healthy;
        self.healthy_since = Some(now);
        self.reason = None;
        self.against = 0;
        Verdict::Changed
    }

    fn become_unhealthy(&mut self, reason: Reason) -> Verdict {
        self.against = 0;
        self.healthy_since = None;
        if self.health == Health::Unhealthy && self.reason.as_ref() == Some(&reason) {
            return Verdict::Same;
        }
        self.health = Health::Unhealthy;
        self.reason = Some(reason);
        Verdict::Changed
    }

    /// Whether an answer is good, and if not, in which words.
    fn judge(&self, check: Check, answer: Result<u16, Failure>) -> Result<(), Reason> {
        let path = self.path(check);
        let strict = check == Check::Liveness || self.spec.path.is_some();
        match answer {
            Ok(status) if strict && (200..400).contains(&status) => Ok(()),
            Ok(status) if !strict && status < 500 => Ok(()),
            Ok(status) => {
                Err(Reason { kind: ReasonKind::Probe, message: format!("GET {path} answered {status}") })
            }
            // The guest's own words stand alone, so that whoever reads them sees them first.
            Err(Failure { reason, .. }) if matches!(reason.kind, ReasonKind::Trap | ReasonKind::Artifact) => {
                Err(reason)
            }
            Err(Failure { reason, .. }) => {
                Err(Reason { kind: ReasonKind::Probe, message: format!("GET {path}: {}", reason.message) })
            }
        }
    }
}

/// One probe every `period`, counted from their beginnings, but never two at once.
fn next_due(began: Instant, now: Instant, period: Duration) -> Instant {
    now.max(began + period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wharf_types::quantity::Span;

    fn spec(path: Option<&str>, liveness_path: Option<&str>) -> HealthSpec {
        let owned = |path: Option<&str>| path.map(str::to_owned);
        HealthSpec { path: owned(path), liveness_path: owned(liveness_path), ..HealthSpec::default() }
    }

    fn app(health: HealthSpec) -> AppSpec {
        let mut app = AppSpec::default();
        app.http.health = health;
        app
    }

    fn checks(path: Option<&str>, liveness_path: Option<&str>) -> Checks {
        Checks::new(World::HttpProxy, &app(spec(path, liveness_path)), None, Instant::now())
    }

    fn answer(checks: &mut Checks, answer: Result<u16, Failure>) -> Verdict {
        let (due, check) = checks.next().unwrap();
        checks.answered(check, due, due, answer)
    }

    fn trap() -> Failure {
        Failure::new(ReasonKind::Trap, "unreachable")
    }

    #[test]
    fn the_first_success_is_enough() {
        let mut checks = checks(None, None);
        assert_eq!(answer(&mut checks, Ok(503)), Verdict::Changed);
        assert_eq!(checks.reason().unwrap().message, "GET / answered 503");
        assert_eq!(answer(&mut checks, Ok(404)), Verdict::Changed);
        assert_eq!((checks.health(), checks.reason()), (Health::Healthy, None));
    }

    #[test]
    fn a_node_without_room_for_the_question_says_nothing_of_the_guest() {
        let no_room = || Err(Failure { is_telling: false, ..Failure::new(ReasonKind::Platform, "no room") });
        let mut checks = checks(Some("/ready"), Some("/live"));
        assert_eq!(answer(&mut checks, no_room()), Verdict::Same);
        assert_eq!((checks.health(), checks.reason()), (Health::Unknown, None));
        answer(&mut checks, Ok(200));
        for _ in 0..20 {
            let (before, _) = checks.next().unwrap();
            assert_eq!(answer(&mut checks, no_room()), Verdict::Same);
            assert!(checks.next().unwrap().0 >= before);
        }
        assert_eq!(checks.health(), Health::Healthy);
        let (due, _) = checks.next().unwrap();
        checks.answered(Check::Liveness, due, due, Ok(500));
        assert_eq!(checks.liveness_failures, 1, "what is told counts");
        checks.answered(Check::Liveness, due, due, no_room());
        assert_eq!(checks.liveness_failures, 1, "and is neither forgotten nor confirmed");
    }

    #[test]
    fn an_app_without_paths_is_left_alone_once_it_is_healthy() {
        let mut checks = checks(None, None);
        answer(&mut checks, Ok(200));
        assert_eq!(checks.next(), None);
    }

    #[test]
    fn a_named_path_must_answer_below_400() {
        let mut checks = checks(Some("/healthz"), None);
        answer(&mut checks, Ok(404));
        assert_eq!(checks.health(), Health::Unhealthy);
        assert_eq!(checks.reason().unwrap().message, "GET /healthz answered 404");
    }

    #[test]
    fn readiness_flips_only_after_the_threshold_in_a_row() {
        let mut checks = checks(Some("/healthz"), None);
        answer(&mut checks, Ok(200));
        for (status, health) in [
            (500, Health::Healthy),
            (500, Health::Healthy),
            (200, Health::Healthy),
            (500, Health::Healthy),
            (500, Health::Healthy),
            (503, Health::Unhealthy),
            (200, Health::Unhealthy),
            (500, Health::Unhealthy),
            (200, Health::Unhealthy),
            (200, Health::Unhealthy),
            (200, Health::Healthy),
        ] {
            answer(&mut checks, Ok(status));
            assert_eq!(checks.health(), health, "after {status}");
        }
    }

    #[test]
    fn a_trap_during_startup_ends_the_instance_with_its_own_words() {
        let mut checks = checks(None, None);
        assert_eq!(answer(&mut checks, Err(trap())), Verdict::End(trap()));
    }

    #[test]
    fn a_trap_after_the_first_success_counts_as_one_failure() {
        let mut checks = checks(Some("/"), None);
        answer(&mut checks, Ok(200));
        assert_eq!(answer(&mut checks, Err(trap())), Verdict::Same);
        answer(&mut checks, Err(trap()));
        assert_eq!(answer(&mut checks, Err(trap())), Verdict::Changed);
        assert_eq!(checks.reason(), Some(&trap().reason));
    }

    #[test]
    fn a_dead_app_is_replaced_after_the_threshold() {
        let mut checks = checks(None, Some("/live"));
        answer(&mut checks, Ok(200));
        assert_eq!(answer(&mut checks, Ok(500)), Verdict::Same);
        assert_eq!(answer(&mut checks, Ok(500)), Verdict::Same);
        let Verdict::End(failure) = answer(&mut checks, Ok(500)) else { panic!("it goes on") };
        assert_eq!(failure.reason.message, "GET /live failed 3 times in a row: GET /live answered 500");
    }

    #[test]
    fn a_command_is_healthy_once_it_has_run_for_a_while() {
        let now = Instant::now();
        let mut checks = Checks::new(World::CommandP2, &AppSpec::default(), None, now);
        assert_eq!(checks.next(), Some((now + SETTLED_AFTER, Check::Settled)));
        checks.settle(now + SETTLED_AFTER);
        assert_eq!((checks.health(), checks.next()), (Health::Healthy, None));
    }

    #[test]
    fn a_command_with_ports_is_healthy_once_they_accept_and_is_then_left_alone() {
        let now = Instant::now();
        let mut spec = app(spec(Some("/healthz"), Some("/live")));
        spec.tcp.ports = vec![7000];
        let mut checks = Checks::new(World::CommandP2, &spec, None, now);
        assert_eq!(checks.next(), Some((now, Check::Listening)));
        let refused = Failure::new(ReasonKind::Probe, "nothing listens");
        assert_eq!(checks.accepted(now, now, Err(refused.clone())), Verdict::Changed);
        assert_eq!((checks.health(), checks.reason()), (Health::Unhealthy, Some(&refused.reason)));
        let due = now + Duration::from_millis(100);
        assert_eq!(checks.next(), Some((due, Check::Listening)));
        assert_eq!(checks.accepted(due, due, Ok(())), Verdict::Changed);
        assert_eq!((checks.health(), checks.next()), (Health::Healthy, None));
    }

    #[test]
    fn an_app_that_never_starts_is_asked_less_often_in_the_end() {
        let mut checks = checks(None, None);
        for _ in 0..STARTUP_PROBES {
            answer(&mut checks, Ok(500));
        }
        let (before, _) = checks.next().unwrap();
        answer(&mut checks, Ok(500));
        assert_eq!(checks.next().unwrap().0 - before, Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn health_never_flips_on_fewer_answers_than_the_threshold(
            answers in proptest::collection::vec(any::<bool>(), 0..60),
            threshold in 1..5_u32,
        ) {
            let spec = HealthSpec { threshold, period: Span::from_millis(10), ..spec(Some("/"), None) };
            let mut checks = Checks::new(World::HttpProxy, &app(spec), None, Instant::now());
            answer(&mut checks, Ok(200));
            let mut in_a_row = 0;
            for good in answers {
                let before = checks.health();
                in_a_row = if good == (before == Health::Healthy) { 0 } else { in_a_row + 1 };
                answer(&mut checks, Ok(if good { 200 } else { 500 }));
                prop_assert_eq!(checks.health() != before, in_a_row >= threshold);
                if checks.health() != before {
                    in_a_row = 0;
                }
            }
        }

        #[test]
        fn probes_never_overlap_and_never_come_early(
            period in 10..5000_u64,
            took in 0..10_000_u64,
        ) {
            let began = Instant::now();
            let now = began + Duration::from_millis(took);
            let due = next_due(began, now, Duration::from_millis(period));
            prop_assert!(due >= now && due >= began + Duration::from_millis(period));
        }
    }

    fn commanded(start_period_millis: u64) -> (Checks, Instant) {
        let now = Instant::now();
        let health = ContainerHealthSpec {
            command: vec!["check".to_owned()],
            start_period: Span::from_millis(start_period_millis),
            ..ContainerHealthSpec::default()
        };
        (Checks::new(World::Container, &AppSpec::default(), Some(health), now), now)
    }

    fn ill() -> Result<(), Failure> {
        Err(Failure::new(ReasonKind::Probe, "exit code 1"))
    }

    #[test]
    fn a_container_is_ready_when_its_command_says_so_and_is_replaced_when_it_says_otherwise() {
        let (mut checks, now) = commanded(0);
        assert_eq!(checks.next(), Some((now, Check::CommandStartup)));
        assert_eq!(checks.command(Check::CommandStartup).unwrap().0, ["check"]);
        assert_eq!(checks.commanded(Check::CommandStartup, now, now, ill()), Verdict::Changed);
        assert_eq!((checks.health(), checks.next().unwrap().1), (Health::Unhealthy, Check::CommandStartup));
        assert_eq!(checks.commanded(Check::CommandStartup, now, now, Ok(())), Verdict::Changed);
        assert_eq!(checks.health(), Health::Healthy);
        assert_eq!(checks.next(), Some((now + Duration::from_secs(1), Check::Command)));
        assert_eq!(checks.commanded(Check::Command, now, now, ill()), Verdict::Same);
        assert_eq!(checks.commanded(Check::Command, now, now, Ok(())), Verdict::Same);
        for _ in 0..2 {
            assert_eq!(checks.commanded(Check::Command, now, now, ill()), Verdict::Same);
        }
        let Verdict::End(failure) = checks.commanded(Check::Command, now, now, ill()) else {
            panic!("it ends")
        };
        assert!(failure.reason.message.contains("3 times in a row: exit code 1"), "{failure}");
    }

    #[test]
    fn failures_while_a_container_may_still_start_do_not_count() {
        let (mut checks, now) = commanded(1000);
        for _ in 0..10 {
            let verdict = checks.commanded(Check::CommandStartup, now, now, ill());
            assert!(!matches!(verdict, Verdict::End(_)), "{verdict:?}");
        }
        assert_eq!(checks.next(), Some((now + Duration::from_millis(200), Check::CommandStartup)));
        let later = now + Duration::from_secs(2);
        for _ in 0..2 {
            checks.commanded(Check::CommandStartup, later, later, ill());
        }
        let end = checks.commanded(Check::CommandStartup, later, later, ill());
        assert!(matches!(end, Verdict::End(_)), "{end:?}");
    }

    #[test]
    fn the_time_to_start_holds_also_where_a_path_says_when_a_container_is_ready() {
        let now = Instant::now();
        let health = ContainerHealthSpec {
            command: vec!["check".to_owned()],
            start_period: Span::from_secs(30),
            ..ContainerHealthSpec::default()
        };
        let spec = app(spec(Some("/healthz"), None));
        let mut checks = Checks::new(World::HttpContainer, &spec, Some(health), now);
        assert_eq!(checks.answered(Check::Startup, now, now, Ok(200)), Verdict::Changed);
        for _ in 0..10 {
            assert_eq!(checks.commanded(Check::Command, now, now, ill()), Verdict::Same);
        }
        checks.commanded(Check::Command, now, now, Ok(()));
        for _ in 0..2 {
            assert_eq!(checks.commanded(Check::Command, now, now, ill()), Verdict::Same);
        }
        assert!(matches!(checks.commanded(Check::Command, now, now, ill()), Verdict::End(_)));
    }

    #[test]
    fn an_engine_that_does_not_answer_says_nothing_about_a_container() {
        let (mut checks, now) = commanded(0);
        checks.commanded(Check::CommandStartup, now, now, Ok(()));
        for _ in 0..100 {
            let away = Err(Failure::new(ReasonKind::Platform, "the engine is away"));
            assert_eq!(checks.commanded(Check::Command, now, now, away), Verdict::Same);
        }
    }
}

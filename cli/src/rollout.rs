//! Waiting for a rollout, and saying how it went: shared by everything that starts one.

use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;
use wharf_types::RolloutId;
use wharf_types::api::{Deployed, Pause, RolloutInfo};
use wharf_types::declare::change::Change;
use wharf_types::node::Reason;
use wharf_types::requests::{ReleaseRequests, RequestCounts};
use wharf_types::state::RolloutState;

use crate::app_ref::AppRef;
use crate::args::WaitArgs;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::session::Session;

/// How long one question waits for its answer: short where a person watches.
const POLL_SHOWN: Duration = Duration::from_secs(1);
const POLL_UNSEEN: Duration = Duration::from_secs(20);
/// Lines of a failed guest that are shown.
const LAST_LINES: usize = 10;

/// What a rollout means for the person who started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Undecided,
    /// Every slot serves the new release.
    Serves,
    Failed,
    Superseded,
}

pub fn verdict(state: RolloutState) -> Verdict {
    match state {
        RolloutState::Pending | RolloutState::Canary | RolloutState::Running => Verdict::Undecided,
        RolloutState::Monitoring | RolloutState::Succeeded => Verdict::Serves,
        RolloutState::Failed => Verdict::Failed,
        RolloutState::Superseded => Verdict::Superseded,
    }
}

/// The one line of `--json`.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    deployed: &'a Deployed,
    state: RolloutState,
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a Reason>,
    /// The release that runs instead, where the rollout failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    rolled_back_to: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<&'a Pause>,
    /// What became of requests since the rollout began.
    requests: &'a [ReleaseRequests],
    elapsed_millis: u128,
}

/// Waits as told, prints the result, and fails when the rollout did.
pub async fn finish(
    session: &Session,
    app: &AppRef,
    deployed: &Deployed,
    wait: WaitArgs,
    since: Instant,
) -> anyhow::Result<()> {
    let limit = wait.timeout.as_duration();
    let mut info = None;
    // Nothing of a stopped app moves, however long it is waited for.
    let waited = if wait.no_wait || deployed.stopped {
        Ok(())
    } else {
        wait_for(session, app, deployed, limit, &mut info).await
    };
    // The release is there, however the waiting went: who reads the result must learn its number.
    if session.json {
        output::json(&Summary {
            deployed,
            state: info.as_ref().map_or(RolloutState::Pending, |info| info.state),
            ready: info.as_ref().map(|info| info.ready),
            replicas: info.as_ref().map(|info| info.replicas),
            reason: info.as_ref().and_then(|info| info.reason.as_ref()),
            rolled_back_to: info.as_ref().and_then(went_back_to),
            waits: info.as_ref().and_then(|info| info.waits.as_deref()),
            paused: info.as_ref().and_then(|info| info.paused.as_ref()),
            requests: info.as_ref().map_or(&[], |info| &info.requests),
            elapsed_millis: since.elapsed().as_millis(),
        })?;
    }
    waited.with_context(|| {
        format!("release {} of {} was made, but how its rollout went is not known", deployed.release, app.app)
    })?;
    let Some(info) = info else {
        if !session.json && deployed.stopped {
            output::line(format!(
                "{1} is stopped; release {0} runs once `wharf start {1}` has started it",
                deployed.release, app.app
            ))?;
        } else if !session.json {
            output::line(format!("release {} of {} is being rolled out", deployed.release, app.app))?;
            print_urls(deployed)?;
        }
        return Ok(());
    };
    match verdict(info.state) {
        Verdict::Serves if session.json => Ok(()),
        Verdict::Serves => {
            let took = output::elapsed(since.elapsed());
            let ready = output::count(info.ready.into(), "instance");
            output::line(format!("release {} of {} runs: {ready} ready after {took}", info.to, app.app))?;
            if let Some(ledger) = ledger(&info) {
                output::line(ledger)?;
            }
            print_urls(deployed)
        }
        Verdict::Failed => {
            if let Some(ledger) = ledger(&info).filter(|_| !session.json) {
                output::line(ledger)?;
            }
            print_last_lines(session, app).await;
            Err(Failure::new(Exit::RolloutFailed, failure_text(app, &info))
                .help(format!("`wharf why {0}` explains it, `wharf logs {0}` shows what it printed", app.app))
                .into())
        }
        Verdict::Superseded => {
            let message = format!("release {} of {} was overtaken by a newer rollout", info.to, app.app);
            Err(Failure::new(Exit::Conflict, message)
                .help(format!("`wharf status {}` shows what runs now", app.app))
                .into())
        }
        Verdict::Undecided if info.paused.is_some() => {
            let waits = info.waits.unwrap_or_else(|| "it is paused".to_owned());
            let why = info.reason.map(|reason| format!(": {}", reason.message)).unwrap_or_default();
            let message = format!("release {} of {} does not go on, {waits}{why}", info.to, app.app);
            Err(Failure::new(Exit::RolloutFailed, message)
                .help(format!(
                    "`wharf rollout resume {0}` goes on, `wharf rollout abort {0}` goes back",
                    app.app
                ))
                .into())
        }
        Verdict::Undecided => {
            let waits_for = info.waits.or(info.reason.map(|reason| reason.message));
            let waits_for = waits_for.map(|waits| format!(": {waits}")).unwrap_or_default();
            let message = format!(
                "release {} of {} is not ready after {}, {} of {} instances are{waits_for}",
                info.to,
                app.app,
                output::elapsed(since.elapsed()),
                info.ready,
                info.replicas,
            );
            Err(Failure::new(Exit::RolloutFailed, message)
                .help(format!("the rollout goes on; follow it with `wharf status {}`", app.app))
                .into())
        }
    }
}

/// Asks until the rollout is decided or the time is up, and keeps the latest answer. A platform that is away for a moment is
/// asked again.
async fn wait_for(
    session: &Session,
    app: &AppRef,
    deployed: &Deployed,
    limit: Duration,
    latest: &mut Option<RolloutInfo>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let bar = spinner(session.json);
    let poll = if bar.is_hidden() { POLL_UNSEEN } else { POLL_SHOWN };
    bar.set_message(format!("release {}: starting", deployed.release));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match session.client.rollout(app, deployed.rollout, left.min(poll)).await {
            Ok(info) => {
                let is_over =
                    verdict(info.state) != Verdict::Undecided || info.paused.is_some() || left.is_zero();
                bar.set_message(progress_text(&info));
                *latest = Some(info);
                if is_over {
                    bar.finish_and_clear();
                    return Ok(());
                }
            }
            Err(error) if Exit::of(&error) == Exit::Unreachable && !left.is_zero() => {
                bar.set_message("the platform does not answer; trying again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// How one of several rollouts went.
#[derive(Debug, Serialize)]
pub struct Followed {
    #[serde(flatten)]
    pub app: AppRef,
    pub release: u64,
    /// Why it does not serve. None: it does.
    pub problem: Option<String>,
}

impl Followed {
    pub fn sentence(&self) -> Option<String> {
        let problem = self.problem.as_ref()?;
        Some(format!("{}/{}: {problem}", self.app.namespace, self.app.app))
    }
}

/// Rollouts that are asked about at once.
const FOLLOWED_AT_ONCE: usize = 16;

/// Waits until every rollout of these changes is decided, or the time is up.
pub async fn follow_all(session: &Session, changes: &[Change], limit: Duration) -> Vec<Followed> {
    let deadline = Instant::now() + limit;
    let started = changes.iter().filter_map(|change| {
        let app = change.resource.name.parse().ok()?;
        let app = AppRef { namespace: change.resource.namespace.clone()?, app };
        Some((app, change.release?, change.rollout?))
    });
    let bar = spinner(session.json);
    bar.set_message("waiting for the rollouts");
    let follow = |(app, release, rollout)| {
        let bar = &bar;
        async move {
            let problem = follow_one(session, &app, rollout, deadline).await;
            bar.set_message(format!("release {release} of {} is decided", app.app));
            Followed { app, release, problem }
        }
    };
    let followed = futures::stream::iter(started.map(follow)).buffered(FOLLOWED_AT_ONCE).collect().await;
    bar.finish_and_clear();
    followed
}

/// None: it serves.
async fn follow_one(session: &Session, app: &AppRef, id: RolloutId, deadline: Instant) -> Option<String> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let info = match session.client.rollout(app, id, left.min(POLL_UNSEEN)).await {
            Ok(info) => info,
            Err(error) if Exit::of(&error) == Exit::Unreachable && !left.is_zero() => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
            Err(error) => return Some(format!("how its rollout went is not known: {error:#}")),
        };
        return match verdict(info.state) {
            Verdict::Undecided if !left.is_zero() => continue,
            Verdict::Undecided => {
                let waits_for = info.reason.map(|reason| format!(": {}", reason.message)).unwrap_or_default();
                let message = format!(
                    "release {} is not ready in time, {} of {} instances are{waits_for}",
                    info.to, info.ready, info.replicas
                );
                Some(message)
            }
            Verdict::Serves => None,
            Verdict::Failed => Some(failure_text(app, &info)),
            Verdict::Superseded => Some(format!("release {} was overtaken by a newer rollout", info.to)),
        };
    }
}

/// A line that moves, at a terminal only, and only for what takes longer than half a second.
fn spinner(json: bool) -> ProgressBar {
    if json || !output::stderr_is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}")
            .expect("the template is a constant that the tests parse"),
    );
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

pub fn progress_text(info: &RolloutInfo) -> String {
    let waits_for = info.waits.as_ref().or(info.reason.as_ref().map(|reason| &reason.message));
    let waits_for = waits_for.map(|waits| format!(": {}", output::printable(waits)));
    format!(
        "release {}: {} of {} instances ready{}",
        info.to,
        info.ready,
        info.replicas,
        waits_for.unwrap_or_default()
    )
}

/// What became of requests meanwhile, such as `release 6: 1,204 served; release 7: 310 served; 0 failed, 0 cut`. None: there were
/// none.
pub fn ledger(info: &RolloutInfo) -> Option<String> {
    let sum = info.requests.iter().fold(RequestCounts::default(), |sum, it| sum.plus(&it.counts));
    if sum.is_zero() {
        return None;
    }
    let served = |it: &ReleaseRequests| {
        (it.release != 0)
            .then(|| format!("release {}: {} served; ", it.release, thousands(it.counts.served())))
    };
    let served: String = info.requests.iter().filter_map(served).collect();
    Some(format!("{served}{} failed, {} cut", thousands(sum.failed), thousands(sum.cut)))
}

/// With a comma between the thousands.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn went_back_to(info: &RolloutInfo) -> Option<u64> {
    info.from.filter(|_| info.state == RolloutState::Failed)
}

pub fn failure_text(app: &AppRef, info: &RolloutInfo) -> String {
    let reason = match &info.reason {
        Some(reason) => reason.message.trim_end_matches('.'),
        None => "the platform gave no reason",
    };
    let now = match went_back_to(info) {
        Some(release) => format!("{} is back on release {release}", app.app),
        None => "nothing of it runs".to_owned(),
    };
    format!("release {} of {} failed: {reason}; {now}", info.to, app.app)
}

/// Shows what the guest said before it ended.
async fn print_last_lines(session: &Session, app: &AppRef) {
    for line in last_lines(session, app).await {
        output::note(format!("  | {}", output::printable(&line)));
    }
}

/// What the guest said before it ended. Only a help: whatever goes wrong here is not told.
pub async fn last_lines(session: &Session, app: &AppRef) -> Vec<String> {
    let Ok(mut why) = session.client.why(app).await else { return Vec::new() };
    let skip = why.last_log.len().saturating_sub(LAST_LINES);
    why.last_log.split_off(skip)
}

fn print_urls(deployed: &Deployed) -> anyhow::Result<()> {
    deployed.urls.iter().try_for_each(output::line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_server::{self, TestServer};
    use wharf_types::node::ReasonKind;
    use wharf_types::{RolloutId, Timestamp};

    fn failed(from: Option<u64>) -> RolloutInfo {
        RolloutInfo {
            id: RolloutId::new(),
            from,
            to: 4,
            state: RolloutState::Failed,
            ready: 0,
            replicas: 2,
            reason: Some(Reason {
                kind: ReasonKind::Trap,
                message: "the guest trapped: unreachable.".into(),
            }),
            rolled_back_by: None,
            paused: None,
            waits: None,
            requests: Vec::new(),
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: None,
        }
    }

    fn app() -> AppRef {
        AppRef { namespace: "default".parse().unwrap(), app: "hello".parse().unwrap() }
    }

    #[test]
    fn a_failure_says_the_guests_error_and_what_runs_now() {
        assert_eq!(
            failure_text(&app(), &failed(Some(3))),
            "release 4 of hello failed: the guest trapped: unreachable; hello is back on release 3"
        );
        assert!(failure_text(&app(), &failed(None)).ends_with("; nothing of it runs"));
    }

    #[tokio::test]
    async fn what_was_learnt_before_the_platform_failed_is_kept() {
        let running = RolloutInfo { state: RolloutState::Running, ready: 1, reason: None, ..failed(None) };
        let gone = wharf_types::Problem::new(wharf_types::problem::ProblemCode::NotFound, "the app is gone");
        let replies = vec![test_server::json("200 OK", &running), test_server::json("404 Not Found", &gone)];
        let server = TestServer::spawn(replies).await;
        let target = crate::context::resolve(crate::context::Sources::default());
        let session = Session { target, client: server.client(), json: true, app_flag: None };
        let deployed = Deployed {
            namespace: app().namespace,
            app: app().app,
            release: 4,
            rollout: running.id,
            digest: wharf_types::Digest::of(b""),
            url: String::new(),
            urls: Vec::new(),
            capabilities: Vec::new(),
            new_capabilities: Vec::new(),
            stopped: false,
        };
        let mut latest = None;
        let waited = wait_for(&session, &app(), &deployed, Duration::from_secs(20), &mut latest).await;
        assert_eq!(Exit::of(&waited.unwrap_err()), Exit::NotFound);
        assert_eq!(latest, Some(running));
    }

    #[test]
    fn what_became_of_requests_is_told_by_release() {
        let of = |release, ok, failed| {
            let counts = RequestCounts { ok, failed, ..RequestCounts::default() };
            ReleaseRequests { release, counts }
        };
        let mut info = failed(Some(3));
        assert_eq!(ledger(&info), None);
        info.requests = vec![of(0, 0, 1), of(6, 1_234_204, 0), of(7, 310, 2)];
        let told = ledger(&info).unwrap();
        assert_eq!(told, "release 6: 1,234,204 served; release 7: 310 served; 3 failed, 0 cut");
    }

    #[test]
    fn monitoring_already_serves() {
        assert_eq!(verdict(RolloutState::Monitoring), Verdict::Serves);
        assert_eq!(verdict(RolloutState::Running), Verdict::Undecided);
    }

    #[test]
    fn the_spinners_template_is_valid() {
        ProgressStyle::with_template("{spinner} {msg}").unwrap();
        assert!(spinner(true).is_hidden());
    }
}

//! `wharf rollout`, `wharf stop` and `wharf start`: what is wished of a rollout that is under way, and of an app as a whole.

use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::Instant;
use wharf_types::api::{AppInfo, RolloutInfo};
use wharf_types::{AppName, Timestamp};

use super::releases::RestartArgs;
use super::status::rollout_line;
use crate::app_ref::AppRef;
use crate::args::{AppArg, Global, With};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::rollout;
use crate::session::Session;

/// How long `stop` waits for the last instances: as long as most apps let open requests finish.
const STOP_MAX: Duration = Duration::from_secs(40);
const STOP_LOOK: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub struct RolloutArgs {
    #[command(subcommand)]
    pub command: RolloutCommand,
}

#[derive(Subcommand, Debug)]
pub enum RolloutCommand {
    /// Show the newest rollout, what it waits for, and what became of requests meanwhile
    Status(With<AppArg>),
    /// Let no further instance move to the new release
    Pause(With<AppArg>),
    /// Go on with a paused rollout; what failed before is forgiven
    Resume(With<AppArg>),
    /// Go back to the release before, now
    Abort(With<AppArg>),
}

/// `wharf rollout`
pub async fn run(before: Global, args: RolloutArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        RolloutCommand::Status(with) => status(&open(with.global)?, with.args.name).await,
        RolloutCommand::Pause(with) => wish(&open(with.global)?, with.args.name, "pause", "is paused").await,
        RolloutCommand::Resume(with) => wish(&open(with.global)?, with.args.name, "resume", "goes on").await,
        RolloutCommand::Abort(with) => wish(&open(with.global)?, with.args.name, "abort", "goes back").await,
    }
}

async fn wish(session: &Session, name: Option<AppName>, verb: &str, done: &str) -> anyhow::Result<()> {
    let app = session.app(name)?;
    let info = session.client.wish_of_rollout(&app, verb).await?;
    if session.json {
        return output::json(&info);
    }
    output::line(format!("the rollout of {} to release {} {done}", app.app, info.to))
}

async fn status(session: &Session, name: Option<AppName>) -> anyhow::Result<()> {
    let app = session.app(name)?;
    let info = session.client.app(&app).await?;
    let Some(newest) = info.rollout else {
        return Err(Failure::new(Exit::NotFound, format!("{} has had no rollout yet", app.app)).into());
    };
    // Asked for by itself it has the newest figures.
    let newest = session.client.rollout(&app, newest.id, Duration::ZERO).await?;
    if session.json {
        return output::json(&newest);
    }
    let lines = status_lines(&app, &newest, Timestamp::now());
    lines.iter().try_for_each(output::line)
}

fn status_lines(app: &AppRef, info: &RolloutInfo, now: Timestamp) -> Vec<String> {
    let mut lines = vec![format!("{} in {}", app.app, app.namespace), rollout_line(info, now)];
    lines.extend(info.waits.as_ref().map(|waits| format!("  waits: {}", output::printable(waits))));
    if info.paused.is_some() {
        lines.push("  try: `wharf rollout resume` goes on, `wharf rollout abort` goes back".to_owned());
    }
    let mut requests: Vec<_> = info.requests.iter().collect();
    requests.sort_by_key(|it| it.release);
    for it in requests {
        let counts = &it.counts;
        if it.release == 0 {
            lines.push(format!("  no instance: {} failed", counts.failed));
            continue;
        }
        let mean = counts.mean_micros().map(|micros| format!(", {:.1} ms in the mean", micros / 1000.0));
        let tail = counts.times.percentile(95);
        let tail = tail.map(|within| format!(", 95 % within {:.1} ms", within.end as f64 / 1000.0));
        lines.push(format!(
            "  release {}: {} served (2xx {}, 3xx {}, 4xx {}, 5xx {}), {} failed, {} cut{}{}",
            it.release,
            rollout::thousands(counts.served()),
            counts.ok,
            counts.redirects,
            counts.client_errors,
            counts.server_errors,
            counts.failed,
            counts.cut,
            mean.unwrap_or_default(),
            tail.unwrap_or_default()
        ));
    }
    lines
}

/// `wharf stop`
pub async fn stop(session: &Session, args: AppArg) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let mut info = session.client.stop(&app).await?;
    let deadline = Instant::now() + STOP_MAX;
    while live(&info) > 0 && info.stopped.is_some() && Instant::now() < deadline {
        tokio::time::sleep(STOP_LOOK).await;
        info = session.client.app(&app).await?;
    }
    if session.json {
        return output::json(&info);
    }
    match live(&info) {
        0 => output::line(format!("{0} is stopped; `wharf start {0}` starts it", app.app)),
        left => output::line(format!(
            "{} is being stopped: {} still finish what is open",
            app.app,
            output::count(left as u64, "instance")
        )),
    }
}

fn live(info: &AppInfo) -> usize {
    info.instances.iter().filter(|instance| !instance.state.is_final()).count()
}

/// `wharf start`
pub async fn start(session: &Session, args: RestartArgs) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let since = Instant::now();
    let deployed = session.client.start(&app).await?;
    rollout::finish(session, &app, &deployed, args.wait, since).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::api::Pause;
    use wharf_types::requests::{AnswerTimes, ReleaseRequests, RequestCounts};
    use wharf_types::state::RolloutState;

    #[test]
    fn a_status_says_what_is_waited_for_and_what_became_of_requests() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let counts = RequestCounts {
            ok: 1200,
            client_errors: 4,
            answer_micros: 2_408_000,
            times: [(AnswerTimes::bucket(1500), 1100), (AnswerTimes::bucket(7500), 104)]
                .into_iter()
                .collect(),
            ..RequestCounts::default()
        };
        let lost = RequestCounts { failed: 2, ..RequestCounts::default() };
        let info = RolloutInfo {
            id: wharf_types::RolloutId::new(),
            from: Some(6),
            to: 7,
            state: RolloutState::Running,
            ready: 1,
            replicas: 4,
            reason: None,
            rolled_back_by: None,
            paused: Some(Pause { since: now, by: Some("ann".into()) }),
            waits: Some("it is paused by `ann`".into()),
            requests: vec![
                ReleaseRequests { release: 6, counts },
                ReleaseRequests { release: 0, counts: lost },
            ],
            started_at: now,
            ended_at: None,
        };
        let app = AppRef { namespace: "default".parse().unwrap(), app: "hello".parse().unwrap() };
        assert_eq!(
            status_lines(&app, &info, now),
            [
                "hello in default",
                "  rollout from 6 to 7: running, 1 of 4 ready, started just now",
                "  waits: it is paused by `ann`",
                "  try: `wharf rollout resume` goes on, `wharf rollout abort` goes back",
                "  no instance: 2 failed",
                "  release 6: 1,204 served (2xx 1200, 3xx 0, 4xx 4, 5xx 0), 0 failed, 0 cut, 2.0 ms in the mean, 95 % within 7.7 ms",
            ]
        );
    }
}

//! The rollout of what was pushed, from its beginning until it is decided.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wharf_types::RolloutId;
use wharf_types::api::RolloutInfo;

use crate::app_ref::AppRef;
use crate::exit::{Exit, Failure};
use crate::rollout::{self, Verdict};
use crate::session::Session;

/// How long a rollout may take, the compilation of its artifact included.
const ROLLOUT_MAX: Duration = Duration::from_secs(600);
/// How long one question about it waits for its answer.
const POLL: Duration = Duration::from_secs(2);

/// Says how a rollout goes.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Comes back when the release serves, or with why it does not. After `cancel`, or too long a time, the app goes back first.
pub async fn follow(
    session: &Session,
    app: &AppRef,
    id: RolloutId,
    say: Say<'_>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + ROLLOUT_MAX;
    let mut told = String::new();
    let mut is_aborted = false;
    loop {
        let info = session.client.rollout(app, id, POLL).await?;
        let verdict = rollout::verdict(info.state);
        if verdict == Verdict::Undecided {
            let progress = rollout::progress_text(&info);
            if progress != told {
                say(&progress);
                told = progress;
            }
        }
        let is_paused = info.paused.is_some();
        match verdict {
            Verdict::Serves => {
                say(&format!("{} of {} instances ready", info.ready, info.replicas));
                rollout::ledger(&info).iter().for_each(|ledger| say(ledger));
                return Ok(());
            }
            Verdict::Failed => return Err(failed(session, app, &info, say).await),
            Verdict::Superseded => {
                let message = format!("release {} was overtaken by a newer rollout", info.to);
                return Err(Failure::new(Exit::Conflict, message).into());
            }
            Verdict::Undecided if is_aborted => {}
            Verdict::Undecided
                if cancel.is_cancelled() || is_paused || tokio::time::Instant::now() > deadline =>
            {
                session.client.wish_of_rollout(app, "abort").await?;
                is_aborted = true;
            }
            Verdict::Undecided => {}
        }
    }
}

async fn failed(session: &Session, app: &AppRef, info: &RolloutInfo, say: Say<'_>) -> anyhow::Error {
    if let Some(ledger) = rollout::ledger(info) {
        say(&ledger);
    }
    for line in rollout::last_lines(session, app).await {
        say(&format!("| {line}"));
    }
    Failure::new(Exit::RolloutFailed, rollout::failure_text(app, info)).into()
}

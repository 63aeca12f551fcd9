//! A job from its beginning to its end: what it prints, how it ends, and what becomes of it when somebody has seen enough.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use wharf_types::NamespaceName;
use wharf_types::api::Page;
use wharf_types::job::{JobInfo, JobState};
use wharf_types::log::{LogRecord, LogStream};

use super::waiting::Waiting;
use crate::exit::Exit;
use crate::follow::follow;
use crate::output;
use crate::session::Session;

/// One question about the job, where nobody is told what it waits for.
const WAIT: Duration = Duration::from_secs(30);
/// Without a platform for so long, waiting ends.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// What a guest printed last may come a moment after its end is known: when nothing came for so long, that was all.
const QUIET: Duration = Duration::from_millis(500);
/// How long a job that was cancelled is waited for.
const CANCEL_MAX: Duration = Duration::from_secs(60);
/// The most that the platform gives of what was printed before.
const TAIL_MAX: u32 = 10_000;
/// The shell's code for a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Shows what the job prints until it has ended, and passes on its exit code. Ctrl-C cancels it.
pub async fn to_the_end(
    session: &Session,
    namespace: &NamespaceName,
    job: &JobInfo,
) -> anyhow::Result<ExitCode> {
    let ended = tokio::select! {
        ended = watch(session, namespace, job, TAIL_MAX) => ended?,
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            return cancel(session, namespace, job).await;
        }
    };
    tell(session, &ended)
}

pub async fn print_logs(
    session: &Session,
    namespace: &NamespaceName,
    job: &JobInfo,
    tail: u32,
    following: bool,
) -> anyhow::Result<()> {
    if following && !job.state.is_final() {
        return watch(session, namespace, job, tail).await.map(drop);
    }
    let path = path(namespace, job);
    let page: Page<LogRecord> = session.client.page(&path, &[("tail", tail.to_string())]).await?;
    page.items.iter().try_for_each(|record| print(session, job, record))
}

fn path(namespace: &NamespaceName, job: &JobInfo) -> String {
    format!("/v1/namespaces/{namespace}/jobs/{}/logs", job.id)
}

/// Prints what the job prints; returns it when it has ended.
async fn watch(
    session: &Session,
    namespace: &NamespaceName,
    job: &JobInfo,
    tail: u32,
) -> anyhow::Result<JobInfo> {
    let heard = Cell::new(Instant::now());
    let (path, tail) = (path(namespace, job), [("tail", tail.to_string())]);
    let logs = follow(&session.client, &path, &tail, |record: LogRecord| {
        heard.set(Instant::now());
        print(session, job, &record)
    });
    let ended = async {
        let ended = wait_for_end(session, namespace, job).await?;
        let known_at = Instant::now();
        while heard.get().max(known_at).elapsed() < QUIET {
            sleep(QUIET.saturating_sub(heard.get().max(known_at).elapsed())).await;
        }
        Ok(ended)
    };
    tokio::select! {
        never = logs => match never? {},
        ended = ended => ended,
    }
}

async fn wait_for_end(
    session: &Session,
    namespace: &NamespaceName,
    job: &JobInfo,
) -> anyhow::Result<JobInfo> {
    let mut alive_at = Instant::now();
    let mut waiting = Waiting::default();
    loop {
        let wait = if session.json { WAIT } else { waiting.pause() };
        match session.client.job(namespace, &job.id.to_string(), Some(wait)).await {
            Ok(job) if job.state.is_final() => return Ok(job),
            Ok(job) => {
                alive_at = Instant::now();
                if let Some(why) = waiting.look(&job).filter(|_| !session.json) {
                    output::note(format!("note: {}", output::printable(&why)));
                }
            }
            // A platform that restarts is away for a moment, and the job goes on.
            Err(error)
                if matches!(Exit::of(&error), Exit::Unreachable | Exit::Platform)
                    && alive_at.elapsed() < GIVE_UP_AFTER =>
            {
                sleep(Duration::from_millis(300)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn cancel(session: &Session, namespace: &NamespaceName, job: &JobInfo) -> anyhow::Result<ExitCode> {
    let id = job.id.to_string();
    session.client.cancel_job(namespace, &id).await?;
    output::note(format!(
        "job {} ({id}) is being cancelled; Ctrl-C once more does not wait for that",
        job.name
    ));
    tokio::select! {
        ended = timeout(CANCEL_MAX, watch(session, namespace, job, 0)) => {
            if let Ok(ended) = ended {
                ended?;
            }
        }
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(ExitCode::from(INTERRUPTED))
}

/// Says how the job ended, and passes that on.
fn tell(session: &Session, job: &JobInfo) -> anyhow::Result<ExitCode> {
    if session.json {
        output::json(job)?;
    } else if job.state != JobState::Succeeded {
        let reason = job.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
        output::note(format!(
            "error: the job {} ({}) {}{}",
            job.name,
            job.id,
            match job.state {
                JobState::Cancelled => "was cancelled",
                _ => "failed",
            },
            output::printable(&reason)
        ));
    }
    Ok(ExitCode::from(exit_code(job)))
}

/// The guest's own code where it has one. A failure is never 0.
fn exit_code(job: &JobInfo) -> u8 {
    match (job.state, job.exit_code) {
        (JobState::Succeeded, _) => 0,
        (_, Some(code)) => {
            u8::try_from(code & 0xff).ok().filter(|code| *code != 0).unwrap_or(Exit::Platform as u8)
        }
        (_, None) => Exit::Platform as u8,
    }
}

/// What the guest prints goes where it was printed to, what the platform says to stderr.
fn print(session: &Session, job: &JobInfo, record: &LogRecord) -> anyhow::Result<()> {
    if session.json {
        return output::json(record);
    }
    let who = if job.spec.completions > 1 {
        format!("{}| ", output::short_id(record.instance))
    } else {
        String::new()
    };
    match record.stream {
        LogStream::Stdout if output::stdout_is_terminal() => {
            output::line(format!("{who}{}", output::printable(&record.message)))
        }
        LogStream::Stdout => output::line(format!("{who}{}", record.message)),
        LogStream::Stderr => {
            output::note(format!("{who}{}", output::printable(&record.message)));
            Ok(())
        }
        LogStream::Platform => {
            output::note(format!("{who}wharf: {}", output::printable(&record.message)));
            Ok(())
        }
    }
}

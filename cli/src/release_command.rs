//! `[release] command`: what runs once, as a job, before a new release takes over.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wharf_types::Digest;
use wharf_types::api::{ArtifactInfo, Page};
use wharf_types::job::{CreateJob, JobInfo, JobSpec, JobState, JobTemplate, Runs};
use wharf_types::log::LogRecord;
use wharf_types::manifest::ReleaseCommand;
use wharf_types::spec::AppSpec;

use crate::app_ref::AppRef;
use crate::artifact;
use crate::commands::deploy;
use crate::exit::{Exit, Failure};
use crate::session::Session;

/// One question about the job.
const WAIT: Duration = Duration::from_secs(2);
/// Lines of it that are told.
const LINES: u32 = 200;

/// The artifact that the command is in: its own, which is pushed, or the app's.
pub async fn artifact_of(
    session: &Session,
    app: &AppRef,
    command: &ReleaseCommand,
    folder: &Path,
    of_app: ArtifactInfo,
) -> anyhow::Result<ArtifactInfo> {
    let Some(path) = &command.artifact else { return Ok(of_app) };
    let content = artifact::read(&folder.join(path))?;
    let digest = Digest::of(&content);
    deploy::push(session, &app.namespace, digest, content).await
}

/// Runs the command to its end, with the settings that the release will have, and says what it prints. An error: it failed, and nothing is
/// to be released.
pub async fn run(
    session: &Session,
    app: &AppRef,
    command: &ReleaseCommand,
    (artifact, spec): (ArtifactInfo, &AppSpec),
    say: &mut (dyn FnMut(&str) + Send),
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    // Its own artifact is a component, so an image is the app's.
    let runs = if artifact.world.is_container() { Runs::AppsImage } else { Runs::Guest };
    let own = JobSpec {
        args: command.command.clone(),
        retries: 0,
        timeout: Some(command.timeout),
        ..JobSpec::default()
    };
    let job = JobTemplate { artifact: Some(artifact.digest), app: None, spec: own.or_of_app(spec, runs) };
    let name = Some(app.app.clone().into());
    let made = session.client.create_job(&app.namespace, &CreateJob { name, job }, None).await?;
    let id = made.id.to_string();
    let mut waits = None;
    let ended = loop {
        let job = session.client.job(&app.namespace, &id, Some(WAIT)).await?;
        if job.state.is_final() {
            break job;
        }
        if cancel.is_cancelled() {
            session.client.cancel_job(&app.namespace, &id).await?;
        }
        let newest = job.waits.first().cloned();
        if newest != waits {
            newest.iter().for_each(|waits| say(waits));
            waits = newest;
        }
    };
    for line in printed(session, app, &ended).await {
        say(&line);
    }
    match ended.state {
        JobState::Succeeded => Ok(()),
        _ => Err(failure(&ended).into()),
    }
}

async fn printed(session: &Session, app: &AppRef, job: &JobInfo) -> Vec<String> {
    let path = format!("/v1/namespaces/{}/jobs/{}/logs", app.namespace, job.id);
    let page: anyhow::Result<Page<LogRecord>> =
        session.client.page(&path, &[("tail", LINES.to_string())]).await;
    page.map(|page| page.items.into_iter().map(|record| record.message).collect()).unwrap_or_default()
}

fn failure(job: &JobInfo) -> Failure {
    let how = match (job.exit_code, &job.reason) {
        (Some(code), _) if code != 0 => format!("ended with exit code {code}"),
        (_, Some(reason)) => format!("failed: {reason}"),
        _ => format!("is {}", job.state.as_str()),
    };
    Failure::new(Exit::RolloutFailed, format!("the release command {how}, so nothing was released"))
        .help(format!("`wharf job logs {}` shows what it printed", job.id))
}

//! `[release] command`: what runs once, as a job, before a new release takes over.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wharf_types::api::{ArtifactInfo, Page};
use wharf_types::job::{CreateJob, JobInfo, JobSpec, JobState, JobTemplate, Runs};
use wharf_types::log::LogRecord;
use wharf_types::manifest::ReleaseCommand;
use wharf_types::spec::AppSpec;
use wharf_types::{Digest, NamespaceName};

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
    let ended = to_the_end(session, &app.namespace, &made, say, cancel).await?;
    match ended.state {
        JobState::Succeeded => Ok(()),
        _ => Err(failure(&ended).into()),
    }
}

/// Follows a job to its end, which `cancel` makes an early one. Says what it waits for, and then what it has printed.
pub async fn to_the_end(
    session: &Session,
    namespace: &NamespaceName,
    made: &JobInfo,
    say: &mut (dyn FnMut(&str) + Send),
    cancel: &CancellationToken,
) -> anyhow::Result<JobInfo> {
    let id = made.id.to_string();
    let mut waits = None;
    let ended = loop {
        let job = session.client.job(namespace, &id, Some(WAIT)).await?;
        if job.state.is_final() {
            break job;
        }
        if cancel.is_cancelled() {
            session.client.cancel_job(namespace, &id).await?;
        }
        let newest = job.waits.first().cloned();
        if newest != waits {
            newest.iter().for_each(|waits| say(waits));
            waits = newest;
        }
    };
    for line in printed(session, namespace, &ended).await {
        say(&line);
    }
    Ok(ended)
}

async fn printed(session: &Session, namespace: &NamespaceName, job: &JobInfo) -> Vec<String> {
    let path = format!("/v1/namespaces/{namespace}/jobs/{}/logs", job.id);
    let page: anyhow::Result<Page<LogRecord>> =
        session.client.page(&path, &[("tail", LINES.to_string())]).await;
    page.map(|page| page.items.into_iter().map(|record| record.message).collect()).unwrap_or_default()
}

/// How a job ended that did not succeed.
pub fn end_of(job: &JobInfo) -> String {
    match (job.exit_code, &job.reason) {
        (Some(code), _) if code != 0 => format!("ended with exit code {code}"),
        (_, Some(reason)) => format!("failed: {reason}"),
        _ => format!("is {}", job.state.as_str()),
    }
}

fn failure(job: &JobInfo) -> Failure {
    let how = end_of(job);
    Failure::new(Exit::RolloutFailed, format!("the release command {how}, so nothing was released"))
        .help(format!("`wharf job logs {}` shows what it printed", job.id))
}

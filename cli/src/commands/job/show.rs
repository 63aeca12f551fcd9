//! What is told of jobs.

use wharf_types::Timestamp;
use wharf_types::api::Page;
use wharf_types::job::{JobInfo, JobRun};

use super::namespace;
use crate::output::{self, ago};
use crate::session::Session;
use crate::table::Table;

pub async fn list(session: &Session) -> anyhow::Result<()> {
    let items = session.client.jobs(&namespace(session)?).await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new(["JOB", "STATE", ">DONE", "MADE", "ID", "~REASON"]);
    for job in items {
        table.row([
            job.name.to_string(),
            output::coloured(state(&job)),
            format!("{}/{}", job.succeeded, job.spec.completions),
            ago(now, job.created_at),
            job.id.to_string(),
            output::printable(reason(&job)).into_owned(),
        ]);
    }
    table.print()
}

fn state(job: &JobInfo) -> &'static str {
    match job.ending {
        Some(_) => "stopping",
        None => job.state.as_str(),
    }
}

fn reason(job: &JobInfo) -> &str {
    job.reason.as_deref().or(job.waits.first().map(String::as_str)).unwrap_or_default()
}

pub async fn show(session: &Session, job: &str) -> anyhow::Result<()> {
    let job = session.client.job(&namespace(session)?, job, None).await?;
    if session.json {
        return output::json(&job);
    }
    let now = Timestamp::now();
    output::line(format!("{} ({}): {}", job.name, job.id, output::coloured(state(&job))))?;
    if let Some(reason) = &job.reason {
        output::line(format!("  {}", output::printable(reason)))?;
    }
    let app = match (&job.app, job.release) {
        (Some(app), Some(release)) => format!(", a task of {app} (release {release})"),
        _ => String::new(),
    };
    output::line(format!("  artifact sha256:{}{app}", job.artifact.short()))?;
    if let Some(schedule) = &job.schedule {
        let planned = job.planned_at.map_or_else(String::new, |at| format!(", for {at}"));
        output::line(format!("  of the schedule {schedule}{planned}"))?;
    }
    output::line(format!(
        "  {} of {} succeeded, {} failed, {} under way; made {} by {}",
        job.succeeded,
        job.spec.completions,
        job.failed,
        job.active,
        ago(now, job.created_at),
        output::printable(&job.created_by)
    ))?;
    for why in &job.waits {
        output::line(format!("  waits for a node: {}", output::printable(why)))?;
    }
    let mut table = Table::new([">COMPLETION", ">RUN", "STATE", ">EXIT", "BEGAN", "~REASON"]);
    for run in &job.runs {
        table.row(row(now, run));
    }
    if job.runs.is_empty() { Ok(()) } else { table.print() }
}

fn row(now: Timestamp, run: &JobRun) -> [String; 6] {
    let state = run.outcome.map_or(run.state.as_str(), |outcome| outcome.as_str());
    let message = run.reason.as_ref().map_or("", |reason| reason.message.as_str());
    [
        run.index.to_string(),
        run.attempt.to_string(),
        output::coloured(state),
        run.exit_code.map_or_else(String::new, |code| code.to_string()),
        run.started_at.map_or_else(|| "-".to_owned(), |at| ago(now, at)),
        output::printable(message).into_owned(),
    ]
}

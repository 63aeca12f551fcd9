//! `wharf job`: runs commands to their end on the platform, and shows what became of them.

mod flags;
mod show;
mod stream;
mod waiting;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use wharf_types::job::{CreateJob, JobState};
use wharf_types::{JobName, NamespaceName};

use crate::args::{Global, NoArgs, With};
use crate::output;
use crate::session::Session;

pub use flags::JobFlags;
pub use stream::to_the_end;

#[derive(Args, Debug)]
pub struct JobArgs {
    #[command(subcommand)]
    pub command: Option<JobCommand>,
}

#[derive(Subcommand, Debug)]
pub enum JobCommand {
    /// Run a command to its end: what it prints is shown, and its exit code passed on
    Run(With<Box<JobRunArgs>>),
    /// List the jobs of the namespace, newest first
    #[command(name = "ls", visible_alias = "list")]
    List(With<NoArgs>),
    /// Show a job and its runs
    Show(With<JobArg>),
    /// Show what a job prints
    Logs(With<JobLogsArgs>),
    /// Stop what runs of a job, and end it
    Cancel(With<JobArg>),
    /// Forget a job that has ended, with what it printed
    #[command(name = "delete", visible_alias = "rm")]
    Delete(With<JobArg>),
}

#[derive(Args, Debug)]
pub struct JobRunArgs {
    #[command(flatten)]
    pub flags: JobFlags,
    /// The job's name [default: that of the app, the file or the image]
    #[arg(long, value_name = "NAME")]
    pub name: Option<JobName>,
    /// Make the job only if none was made with this key, and else show that one
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Do not wait for the end
    #[arg(short, long)]
    pub detach: bool,
}

#[derive(Args, Debug)]
pub struct JobArg {
    /// Its id, or its name: then the newest of that name
    #[arg(value_name = "JOB")]
    pub job: String,
}

#[derive(Args, Debug)]
pub struct JobLogsArgs {
    #[command(flatten)]
    pub job: JobArg,
    /// Wait for more, until the job has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Start with this many of the last lines
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub tail: u32,
}

pub async fn run(before: Global, args: JobArgs) -> anyhow::Result<ExitCode> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    let done = |()| ExitCode::SUCCESS;
    match args.command {
        Some(JobCommand::Run(with)) => start(&open(with.global)?, *with.args).await,
        Some(JobCommand::List(with)) => show::list(&open(with.global)?).await.map(done),
        Some(JobCommand::Show(with)) => show::show(&open(with.global)?, &with.args.job).await.map(done),
        Some(JobCommand::Logs(with)) => logs(&open(with.global)?, with.args).await.map(done),
        Some(JobCommand::Cancel(with)) => cancel(&open(with.global)?, &with.args.job).await.map(done),
        Some(JobCommand::Delete(with)) => delete(&open(with.global)?, &with.args.job).await.map(done),
        None => show::list(&Session::open(before)?).await.map(done),
    }
}

/// Where the jobs are.
fn namespace(session: &Session) -> anyhow::Result<NamespaceName> {
    session.namespace()
}

pub async fn start(session: &Session, args: JobRunArgs) -> anyhow::Result<ExitCode> {
    let namespace = namespace(session)?;
    let suggested = || args.flags.suggested_name().map(JobName::from);
    let name = args.name.clone().or_else(|| if session.app_flag.is_some() { None } else { suggested() });
    let job = args.flags.template(session, &namespace).await?;
    let request = CreateJob { name, job };
    let job = session.client.create_job(&namespace, &request, args.idempotency_key.as_deref()).await?;
    if args.detach {
        if session.json {
            output::json(&job)?;
        } else {
            output::line(format!("job {} in {namespace} is {}: {}", job.name, job.state.as_str(), job.id))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    stream::to_the_end(session, &namespace, &job).await
}

async fn logs(session: &Session, args: JobLogsArgs) -> anyhow::Result<()> {
    let namespace = namespace(session)?;
    let job = session.client.job(&namespace, &args.job.job, None).await?;
    stream::print_logs(session, &namespace, &job, args.tail, args.follow).await
}

async fn cancel(session: &Session, job: &str) -> anyhow::Result<()> {
    let job = session.client.cancel_job(&namespace(session)?, job).await?;
    if session.json {
        return output::json(&job);
    }
    let what = match (job.state.is_final(), job.ending) {
        (true, _) => format!("has ended before: {}", job.state.as_str()),
        (false, Some(JobState::Cancelled)) => "is being cancelled".to_owned(),
        (false, ending) => format!("ends: {}", ending.map_or("soon", JobState::as_str)),
    };
    output::line(format!("job {} ({}) {what}", job.name, job.id))
}

async fn delete(session: &Session, job: &str) -> anyhow::Result<()> {
    session.client.delete_job(&namespace(session)?, job).await?;
    if session.json {
        return output::json(&serde_json::json!({ "job": job, "deleted": true }));
    }
    output::line(format!("job {} is deleted", output::printable(job)))
}

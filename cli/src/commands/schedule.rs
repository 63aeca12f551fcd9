//! `wharf schedule`: jobs at planned times.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use wharf_types::api::Page;
use wharf_types::quantity::Span;
use wharf_types::schedule::{ScheduleInfo, ScheduleSpec};
use wharf_types::{ScheduleName, Timestamp};

use super::job::JobFlags;
use crate::args::{Global, NoArgs, With};
use crate::output::{self, ago};
use crate::session::Session;
use crate::table::Table;

#[derive(Args, Debug)]
pub struct ScheduleArgs {
    #[command(subcommand)]
    pub command: Option<ScheduleCommand>,
}

#[derive(Subcommand, Debug)]
pub enum ScheduleCommand {
    /// Make a schedule, or give it other settings
    Set(With<Box<ScheduleSetArgs>>),
    /// List the schedules of the namespace
    #[command(name = "ls", visible_alias = "list")]
    List(With<NoArgs>),
    /// Show a schedule and its jobs
    Show(With<ScheduleArg>),
    /// Make no jobs until it is resumed
    Suspend(With<ScheduleArg>),
    /// Make jobs again, from the next time on
    Resume(With<ScheduleArg>),
    /// Make a job now
    RunNow(With<ScheduleArg>),
    /// Remove a schedule, and cancel its jobs
    #[command(name = "rm", visible_alias = "delete")]
    Remove(With<ScheduleArg>),
}

#[derive(Args, Debug)]
pub struct ScheduleSetArgs {
    /// Such as `nightly`
    #[arg(value_name = "NAME")]
    pub name: ScheduleName,
    /// When: `MINUTE HOUR DAY MONTH WEEKDAY`, with a sixth field in front for the second, or `@daily`
    #[arg(long, value_name = "LINE")]
    pub cron: String,
    /// Whose clock that is, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub timezone: String,
    /// When a time comes while a job before it has not ended
    #[arg(long, value_name = "POLICY", default_value = "forbid", value_parser = ["forbid", "allow", "replace"])]
    pub overlap: String,
    /// What becomes of times that passed while the platform was down
    #[arg(long, value_name = "POLICY", default_value = "run-once", value_parser = ["skip", "run-once", "run-all"])]
    pub missed: String,
    /// Of missed times, `run-all` makes up for at most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub missed_max: u32,
    /// A time that is further back is not made up for
    #[arg(long, value_name = "TIME")]
    pub start_deadline: Option<Span>,
    /// Make jobs up to this much later than planned, each schedule by its own delay
    #[arg(long, value_name = "TIME")]
    pub jitter: Option<Span>,
    /// Make it suspended
    #[arg(long)]
    pub suspended: bool,
    /// Jobs that are kept after they have succeeded
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub keep_succeeded: u32,
    /// Jobs that are kept after they have failed
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub keep_failed: u32,
    #[command(flatten)]
    pub job: JobFlags,
}

#[derive(Args, Debug)]
pub struct ScheduleArg {
    #[arg(value_name = "NAME")]
    pub name: ScheduleName,
}

pub async fn run(before: Global, args: ScheduleArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        Some(ScheduleCommand::Set(with)) => set(&open(with.global)?, *with.args).await,
        Some(ScheduleCommand::List(with)) => list(&open(with.global)?).await,
        Some(ScheduleCommand::Show(with)) => show(&open(with.global)?, &with.args.name).await,
        Some(ScheduleCommand::Suspend(with)) => wish(&open(with.global)?, &with.args.name, "suspend").await,
        Some(ScheduleCommand::Resume(with)) => wish(&open(with.global)?, &with.args.name, "resume").await,
        Some(ScheduleCommand::RunNow(with)) => run_now(&open(with.global)?, &with.args.name).await,
        Some(ScheduleCommand::Remove(with)) => remove(&open(with.global)?, &with.args.name).await,
        None => list(&Session::open(before)?).await,
    }
}

async fn set(session: &Session, args: ScheduleSetArgs) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let spec = ScheduleSpec {
        cron: args.cron,
        timezone: args.timezone,
        overlap: word(&args.overlap)?,
        missed: word(&args.missed)?,
        missed_max: args.missed_max,
        start_deadline: args.start_deadline,
        jitter: args.jitter,
        suspended: args.suspended,
        keep_succeeded: args.keep_succeeded,
        keep_failed: args.keep_failed,
        job: args.job.template(session, &namespace).await?,
    };
    let schedule = session.client.set_schedule(&namespace, &args.name, &spec).await?;
    tell(session, &schedule, "is set")
}

/// One of the words that the flag takes.
fn word<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    serde_json::from_value(text.into()).with_context(|| format!("`{text}` is not a policy"))
}

fn tell(session: &Session, schedule: &ScheduleInfo, what: &str) -> anyhow::Result<()> {
    if session.json {
        return output::json(schedule);
    }
    output::line(format!("schedule {} in {} {what}; {}", schedule.name, schedule.namespace, next(schedule)))
}

fn next(schedule: &ScheduleInfo) -> String {
    match schedule.next_at {
        Some(at) => format!("the next time is {at}"),
        None => "it is suspended".to_owned(),
    }
}

async fn wish(session: &Session, name: &ScheduleName, verb: &str) -> anyhow::Result<()> {
    let schedule = session.client.ask_schedule(&session.namespace()?, name, verb).await?;
    tell(session, &schedule, if verb == "suspend" { "makes no jobs" } else { "makes jobs" })
}

async fn run_now(session: &Session, name: &ScheduleName) -> anyhow::Result<()> {
    let job = session.client.run_schedule(&session.namespace()?, name).await?;
    if session.json {
        return output::json(&job);
    }
    output::line(format!(
        "job {} ({}) is {}; `wharf job logs -f {}`",
        job.name,
        job.id,
        job.state.as_str(),
        job.id
    ))
}

async fn remove(session: &Session, name: &ScheduleName) -> anyhow::Result<()> {
    session.client.remove_schedule(&session.namespace()?, name).await?;
    if session.json {
        return output::json(&serde_json::json!({ "name": name, "removed": true }));
    }
    output::line(format!("schedule {name} is removed"))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let items = session.client.schedules(&session.namespace()?).await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new(["SCHEDULE", "CRON", "ZONE", "NEXT", "LAST", "~LAST STATE"]);
    for schedule in items {
        let last = schedule.jobs.first();
        table.row([
            schedule.name.to_string(),
            output::printable(&schedule.spec.cron).into_owned(),
            output::printable(&schedule.spec.timezone).into_owned(),
            schedule.next_at.map_or_else(|| "suspended".to_owned(), |at| at.to_string()),
            last.map_or_else(|| "-".to_owned(), |job| ago(now, job.created_at)),
            last.map_or_else(String::new, |job| output::coloured(job.state.as_str())),
        ]);
    }
    table.print()
}

async fn show(session: &Session, name: &ScheduleName) -> anyhow::Result<()> {
    let schedule = session.client.schedule(&session.namespace()?, name).await?;
    if session.json {
        return output::json(&schedule);
    }
    let spec = &schedule.spec;
    let cron = output::printable(&spec.cron).into_owned();
    output::line(format!("{}: {cron} ({}); {}", schedule.name, spec.timezone, next(&schedule)))?;
    output::line(format!("  overlap {}, missed {}", spec.overlap.as_str(), spec.missed.as_str()))?;
    if let Some(last) = &schedule.last
        && let Some(reason) = &last.reason
    {
        output::line(format!("  no job for {}: {}", last.planned_at, output::printable(reason)))?;
    }
    let now = Timestamp::now();
    let mut table = Table::new(["PLANNED", "STATE", "MADE", "ID"]);
    for job in &schedule.jobs {
        table.row([
            job.planned_at.map_or_else(|| "by hand".to_owned(), |at| at.to_string()),
            output::coloured(job.state.as_str()),
            ago(now, job.created_at),
            job.id.to_string(),
        ]);
    }
    if schedule.jobs.is_empty() { Ok(()) } else { table.print() }
}

//! `wharf builds` and `wharf build`: what was pushed with git, and what became of it.

use clap::{Args, Subcommand};
use wharf_types::api::{BuildInfo, BuildState, Page};
use wharf_types::{AppName, BuildId, NamespaceName, Timestamp};

use crate::args::{Global, With, parse_id};
use crate::exit::{Exit, Failure};
use crate::output::{self, ago, coloured};
use crate::session::Session;
use crate::sse::SseParser;
use crate::table::Table;

#[derive(Args, Debug)]
pub struct BuildsArgs {
    /// Only those of this app [default: all of the namespace]
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
}

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct BuildArgs {
    #[command(subcommand)]
    pub command: BuildCommand,
}

#[derive(Subcommand, Debug)]
pub enum BuildCommand {
    /// Show what a build said
    #[command(visible_alias = "log")]
    Logs(With<LogsArgs>),
    /// End a build; what ran before runs
    Cancel(With<IdArgs>),
}

#[derive(Args, Debug)]
pub struct LogsArgs {
    /// As `wharf builds` lists it [default: the newest of the namespace, or of --app]
    #[arg(value_name = "ID", value_parser = parse_build)]
    pub id: Option<BuildId>,
    /// Wait for more, until it has ended
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Args, Debug)]
pub struct IdArgs {
    /// As `wharf builds` lists it
    #[arg(value_name = "ID", value_parser = parse_build)]
    pub id: BuildId,
}

fn parse_build(text: &str) -> Result<BuildId, String> {
    parse_id(text, "wharf builds")
}

/// Builds that are listed.
const LISTED: usize = 30;

pub async fn run(before: Global, args: BuildArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        BuildCommand::Logs(with) => logs(&open(with.global)?, with.args).await,
        BuildCommand::Cancel(with) => cancel(&open(with.global)?, with.args).await,
    }
}

pub async fn list(session: &Session, args: BuildsArgs) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let app = args.name.or_else(|| session.app_flag.clone());
    let mut items = session.client.builds(&namespace, app.as_ref()).await?;
    items.truncate(LISTED);
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    if items.is_empty() {
        return output::line(format!("no builds in {namespace}; `wharf git remote` says how to push"));
    }
    let now = Timestamp::now();
    let mut table =
        Table::new(["APP", "STATE", ">RELEASE", "COMMIT", "BRANCH", "BY", "WHEN", "SUBJECT", "~ID"]);
    for build in items {
        table.row([
            build.app.to_string(),
            coloured(build.state.as_str()),
            build.release.map_or_else(|| "-".to_owned(), |release| release.to_string()),
            build.commit.chars().take(8).collect(),
            build.branch,
            build.created_by,
            ago(now, build.created_at),
            output::printable(&build.subject).into_owned(),
            build.id.to_string(),
        ]);
    }
    table.print()
}

async fn logs(session: &Session, args: LogsArgs) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let id = match args.id {
        Some(id) => id,
        None => newest(session, &namespace).await?.id,
    };
    if !args.follow {
        let text = session.client.build_log(&namespace, id).await?;
        return text.lines().try_for_each(|line| print(session, line));
    }
    let path = format!("/v1/namespaces/{namespace}/builds/{id}/log");
    let mut last = None;
    loop {
        let mut stream = session.client.open_stream(&path, &[], last.as_deref()).await?;
        let mut parser = SseParser::default();
        while let Ok(Some(chunk)) = stream.chunk().await {
            for event in parser.feed(&chunk)? {
                print(session, &serde_json::from_str::<String>(&event.data)?)?;
                last = event.id.or(last.take());
            }
        }
        // It ends with the build, or because the way there broke.
        let build = session.client.build(&namespace, id).await?;
        if build.state.is_over() {
            return Ok(());
        }
    }
}

async fn newest(session: &Session, namespace: &NamespaceName) -> anyhow::Result<BuildInfo> {
    let app = session.find_app(None)?.filter(|app| app.namespace == *namespace).map(|app| app.app);
    let builds = session.client.builds(namespace, app.as_ref()).await?;
    Ok(builds.into_iter().next().ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("nothing has been pushed in {namespace}"))
            .help("`wharf git remote` says how")
    })?)
}

fn print(session: &Session, line: &str) -> anyhow::Result<()> {
    if session.json {
        return output::json(&serde_json::json!({ "line": line }));
    }
    output::line(output::printable(line))
}

async fn cancel(session: &Session, args: IdArgs) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let build = session.client.build(&namespace, args.id).await?;
    if build.state.is_over() {
        let (how, help) = match build.state {
            BuildState::Succeeded => ("has succeeded", "`wharf rollback` brings back the release before it"),
            BuildState::Cancelled => ("was cancelled", "`wharf build logs ID` shows what it said"),
            _ => ("has failed", "`wharf build logs ID` shows what it said"),
        };
        let message = format!("build {} has ended already: it {how}", args.id);
        return Err(Failure::new(Exit::Conflict, message).help(help).into());
    }
    session.client.cancel_build(&namespace, args.id).await?;
    if session.json {
        return output::json(&serde_json::json!({ "id": args.id, "cancelled": true }));
    }
    output::line(format!("build {} is ending; what ran before runs", args.id))
}

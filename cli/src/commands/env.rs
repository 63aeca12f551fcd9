//! `wharf env`: variables that stay over deploys. A change is a new release.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use tokio::time::Instant;
use wharf_types::api::{Env, EnvPatch};

use crate::args::{AppArg, Global, WaitArgs, With, parse_assignment};
use crate::output;
use crate::rollout;
use crate::session::Session;

#[derive(Args, Debug)]
pub struct EnvArgs {
    #[command(subcommand)]
    pub command: Option<EnvCommand>,
}

#[derive(Subcommand, Debug)]
pub enum EnvCommand {
    /// Set variables
    Set(With<EnvSetArgs>),
    /// Take variables away, those of wharf.toml too
    Unset(With<EnvNamesArgs>),
    /// Undo `set` and `unset`: the variables become again what wharf.toml says
    Reset(With<EnvNamesArgs>),
    /// Show the variables of the current release
    List(With<AppArg>),
}

#[derive(Args, Debug)]
pub struct EnvSetArgs {
    #[arg(value_name = "K=V", required = true, value_parser = parse_assignment)]
    pub variables: Vec<(String, String)>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct EnvNamesArgs {
    #[arg(value_name = "K", required = true)]
    pub variables: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

pub async fn run(before: Global, args: EnvArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        Some(EnvCommand::Set(with)) => set(&open(with.global)?, with.args).await,
        Some(EnvCommand::Unset(with)) => unset(&open(with.global)?, with.args).await,
        Some(EnvCommand::Reset(with)) => reset(&open(with.global)?, with.args).await,
        Some(EnvCommand::List(with)) => list(&open(with.global)?, with.args).await,
        None => list(&Session::open(before)?, AppArg { name: None }).await,
    }
}

async fn set(session: &Session, args: EnvSetArgs) -> anyhow::Result<()> {
    let set = args.variables.into_iter().map(|(key, value)| (key, Some(value))).collect();
    change(session, EnvPatch { set, reset: Vec::new() }, args.wait).await
}

async fn unset(session: &Session, args: EnvNamesArgs) -> anyhow::Result<()> {
    let set = args.variables.into_iter().map(|key| (key, None)).collect();
    change(session, EnvPatch { set, reset: Vec::new() }, args.wait).await
}

async fn reset(session: &Session, args: EnvNamesArgs) -> anyhow::Result<()> {
    change(session, EnvPatch { set: BTreeMap::new(), reset: args.variables }, args.wait).await
}

async fn change(session: &Session, patch: EnvPatch, wait: WaitArgs) -> anyhow::Result<()> {
    let app = session.app(None)?;
    let since = Instant::now();
    let deployed = session.client.patch_env(&app, &patch).await?;
    rollout::finish(session, &app, &deployed, wait, since).await
}

/// The variables of the current release, those of its manifest included.
async fn list(session: &Session, args: AppArg) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let Env(env) = session.client.env(&app).await?;
    if session.json {
        return output::json(&env);
    }
    env.iter().try_for_each(|(key, value)| output::line(format!("{key}={}", output::printable(value))))
}

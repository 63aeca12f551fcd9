//! `wharf config`: named values of a namespace that guests are given and that may be read. A changed one is a new release of the apps that
//! use it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use wharf_types::SecretName;
use wharf_types::secret::ValueKind;

use super::secret::{SecretNameArg, checked, list, read_given, remove, store};
use crate::args::{Global, NoArgs, WaitArgs, With};
use crate::exit::Failure;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: Option<ConfigCommand>,
}

#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Set a config; apps that use it get a new release
    Set(With<ConfigSetArgs>),
    /// Print a config's value
    #[command(visible_alias = "get")]
    Show(With<ConfigShowArgs>),
    /// List the namespace's configs: names, versions and the apps that use them
    #[command(name = "ls", visible_alias = "list")]
    List(With<NoArgs>),
    /// Remove a config that no kept release uses
    #[command(name = "rm", visible_alias = "delete")]
    Remove(With<SecretNameArg>),
}

#[derive(Args, Debug)]
pub struct ConfigSetArgs {
    /// Such as `greeting`
    #[arg(value_name = "NAME")]
    pub name: SecretName,
    /// Left out: it comes from stdin, without the line break at its end
    #[arg(value_name = "VALUE")]
    pub value: Option<String>,
    /// Take the value from a file, as it is
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    pub from_file: Option<PathBuf>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct ConfigShowArgs {
    #[arg(value_name = "NAME")]
    pub name: SecretName,
    /// An older version that is kept, see `wharf config ls --json`
    #[arg(long, value_name = "NUMBER")]
    pub version: Option<u64>,
}

pub async fn run(before: Global, args: ConfigArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        Some(ConfigCommand::Set(with)) => set(&open(with.global)?, with.args).await,
        Some(ConfigCommand::Show(with)) => show(&open(with.global)?, with.args).await,
        Some(ConfigCommand::List(with)) => list(&open(with.global)?, ValueKind::Config).await,
        Some(ConfigCommand::Remove(with)) => {
            remove(&open(with.global)?, ValueKind::Config, &with.args.name).await
        }
        None => list(&Session::open(before)?, ValueKind::Config).await,
    }
}

/// With `--json`: a line about the config, then one for each rollout.
async fn set(session: &Session, args: ConfigSetArgs) -> anyhow::Result<()> {
    let value = match (args.value, args.from_file) {
        (Some(value), _) => checked(value.into_bytes())?,
        (None, None) if output::is_interactive() => {
            return Err(Failure::usage("there is no value")
                .help("write it after the name, to stdin, or name a file with --from-file")
                .into());
        }
        (None, file) => read_given(ValueKind::Config, file.as_deref())?,
    };
    let namespace = session.namespace()?;
    store(session, &namespace, (ValueKind::Config, &args.name), value, args.wait).await
}

/// The value alone, so that it can go into a file or a pipe.
async fn show(session: &Session, args: ConfigShowArgs) -> anyhow::Result<()> {
    let config = session.client.config(&session.namespace()?, &args.name, args.version).await?;
    if session.json { output::json(&config) } else { output::line(config.value) }
}

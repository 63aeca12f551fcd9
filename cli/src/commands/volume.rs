//! `wharf volume`: what apps keep on nodes.

mod archive;

use clap::{Args, Subcommand};
use wharf_types::api::{Page, VolumeInfo};
use wharf_types::{AppName, Timestamp};

use super::confirm;
use crate::args::{Global, With};
use crate::output::{self, ago, bytes, coloured};
use crate::session::Session;
use crate::table::Table;

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct VolumeArgs {
    #[command(subcommand)]
    pub command: VolumeCommand,
}

#[derive(Subcommand, Debug)]
pub enum VolumeCommand {
    /// List the volumes of a namespace, also those of deleted apps
    #[command(visible_alias = "list")]
    Ls(With<LsArgs>),
    /// Remove a volume that no release in use has, and its data
    Rm(With<RmArgs>),
    /// Write what a volume holds to a tar archive
    Backup(With<archive::BackupArgs>),
    /// Replace what a volume holds by what is in a tar archive, while its app is stopped
    Restore(With<archive::RestoreArgs>),
}

#[derive(Args, Debug)]
pub struct LsArgs {
    /// Only those that were made for this app
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
}

#[derive(Args, Debug)]
pub struct RmArgs {
    /// Its id, as `wharf volume ls` lists it, or APP/NAME
    #[arg(value_name = "VOLUME")]
    pub volume: archive::VolumeRef,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

pub async fn run(before: Global, args: VolumeArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        VolumeCommand::Ls(with) => list(&open(with.global)?, with.args).await,
        VolumeCommand::Rm(with) => remove(&open(with.global)?, with.args).await,
        VolumeCommand::Backup(with) => archive::backup(&open(with.global)?, with.args).await,
        VolumeCommand::Restore(with) => archive::restore(&open(with.global)?, with.args).await,
    }
}

async fn list(session: &Session, args: LsArgs) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let mut items = session.client.volumes(&namespace).await?;
    items.retain(|volume| args.name.as_ref().is_none_or(|app| volume.app == *app));
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    if items.is_empty() {
        return output::line(format!(
            "no volumes in {namespace}; an app asks for one by `[[volumes]]` in wharf.toml"
        ));
    }
    let now = Timestamp::now();
    let mut table = Table::new(["VOLUME", "APP", "STATE", ">USED", ">SIZE", "MADE", "~ID"]);
    for volume in items {
        table.row([
            volume.name.to_string(),
            volume.app.to_string(),
            coloured(state(&volume)),
            volume.used_bytes.map_or_else(|| "-".to_owned(), bytes),
            bytes(volume.size_bytes),
            ago(now, volume.created_at),
            volume.id.to_string(),
        ]);
    }
    table.print()
}

fn state(volume: &VolumeInfo) -> &'static str {
    if volume.full { "full" } else { volume.state.as_str() }
}

async fn remove(session: &Session, args: RmArgs) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let volumes = session.client.volumes(&namespace).await?;
    let volume = archive::choose(volumes, &args.volume, &namespace)?;
    confirm(
        &format!("with all its data, of the app `{}`, the volume", volume.app),
        volume.name.as_str(),
        args.yes,
    )?;
    session.client.remove_volume(&namespace, volume.id).await?;
    if session.json {
        return output::json(&serde_json::json!({ "id": volume.id, "name": volume.name, "removing": true }));
    }
    output::line(format!("the volume {} of {} is being removed", volume.name, volume.app))
}

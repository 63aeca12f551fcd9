//! `wharf node`.

use clap::{Args, Subcommand};
use wharf_types::Timestamp;
use wharf_types::api::Page;

use crate::args::{Global, NoArgs, With};
use crate::output::{self, ago, coloured, short_id};
use crate::session::Session;
use crate::table::Table;

#[derive(Args, Debug)]
pub struct NodeArgs {
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
}

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List the nodes
    #[command(visible_alias = "list")]
    Ls(With<NoArgs>),
}

pub async fn run(before: Global, args: NodeArgs) -> anyhow::Result<()> {
    let inner = args.command.map(|NodeCommand::Ls(with)| with.global).unwrap_or_default();
    list(&Session::open(inner.or(before))?).await
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let items = session.client.nodes().await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new([
        "NODE",
        "~HOSTNAME",
        "READY",
        ">INSTANCES",
        ">CPUS",
        ">MEMORY",
        "ROLE",
        "PLATFORM",
        "VERSION",
        "SEEN",
        "~LABELS",
    ]);
    for node in items {
        let ready = if node.ready { "yes" } else { "no" };
        table.row([
            short_id(node.id),
            node.hostname,
            coloured(ready),
            node.instances.to_string(),
            node.cpus.to_string(),
            output::bytes(node.memory_bytes),
            node.role,
            format!("{}/{}", node.os, node.arch),
            node.version,
            ago(now, node.seen_at),
            node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
        ]);
    }
    table.print()
}

//! `wharf namespace`.

use clap::{Args, Subcommand};
use wharf_types::api::{Page, PushPolicy};
use wharf_types::{NamespaceName, Timestamp};

use super::confirm;
use crate::args::{Global, NoArgs, With};
use crate::output::{self, ago};
use crate::session::Session;
use crate::table::Table;

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct NamespaceArgs {
    #[command(subcommand)]
    pub command: NamespaceCommand,
}

#[derive(Subcommand, Debug)]
pub enum NamespaceCommand {
    /// Create a namespace
    Create(With<NamespaceNameArg>),
    /// List the namespaces
    #[command(visible_alias = "ls")]
    List(With<NoArgs>),
    /// Show a namespace and its quota
    Show(With<NamespaceNameArg>),
    /// Show, or say, what `git push` may do in a namespace
    Pushes(With<NamespacePushesArgs>),
    /// Delete a namespace that has no apps
    Delete(With<NamespaceDeleteArgs>),
}

#[derive(Args, Debug)]
pub struct NamespaceNameArg {
    #[arg(value_name = "NAMESPACE")]
    pub name: NamespaceName,
}

#[derive(Args, Debug)]
pub struct NamespacePushesArgs {
    #[arg(value_name = "NAMESPACE")]
    pub name: NamespaceName,
    /// Whether the first push to an app that is not there makes it
    #[arg(long, value_name = "BOOL")]
    pub creates_apps: Option<bool>,
    /// Whether builds may connect to whatever the control plane's host can, itself included
    #[arg(long, value_name = "BOOL")]
    pub build_network: Option<bool>,
}

#[derive(Args, Debug)]
pub struct NamespaceDeleteArgs {
    #[arg(value_name = "NAMESPACE")]
    pub name: NamespaceName,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

pub async fn run(before: Global, args: NamespaceArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        NamespaceCommand::Create(with) => create(&open(with.global)?, with.args).await,
        NamespaceCommand::List(with) => list(&open(with.global)?).await,
        NamespaceCommand::Show(with) => show(&open(with.global)?, with.args).await,
        NamespaceCommand::Pushes(with) => pushes(&open(with.global)?, with.args).await,
        NamespaceCommand::Delete(with) => delete(&open(with.global)?, with.args).await,
    }
}

async fn create(session: &Session, args: NamespaceNameArg) -> anyhow::Result<()> {
    session.client.create_namespace(args.name.clone()).await?;
    if session.json {
        return output::json(&serde_json::json!({ "name": args.name, "created": true }));
    }
    output::line(format!("namespace {0} is created; use it with `-n {0}`", args.name))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let items = session.client.namespaces().await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new(["NAMESPACE", ">APPS", "MADE"]);
    for namespace in items {
        table.row([namespace.name.to_string(), namespace.apps.to_string(), ago(now, namespace.created_at)]);
    }
    table.print()
}

async fn show(session: &Session, args: NamespaceNameArg) -> anyhow::Result<()> {
    let namespace = session.client.namespace(&args.name).await?;
    let quota = session.client.quota(&args.name).await?;
    if session.json {
        return output::json(&serde_json::json!({ "namespace": namespace, "quota": quota }));
    }
    output::line(format!("{}, made {}", namespace.name, ago(Timestamp::now(), namespace.created_at)))?;
    super::quota::table(&quota)
}

async fn pushes(session: &Session, args: NamespacePushesArgs) -> anyhow::Result<()> {
    let before = session.client.push_policy(&args.name).await?;
    let wanted = PushPolicy {
        creates_apps: args.creates_apps.unwrap_or(before.creates_apps),
        build_network: args.build_network.unwrap_or(before.build_network),
    };
    let policy =
        if wanted == before { before } else { session.client.set_push_policy(&args.name, &wanted).await? };
    if session.json {
        return output::json(&policy);
    }
    let word = |is: bool, yes: &'static str, no: &'static str| if is { yes } else { no };
    output::line(word(policy.creates_apps, "a first push makes its app", "a push makes no app"))?;
    output::line(word(policy.build_network, "builds may use the network", "builds reach no network"))
}

async fn delete(session: &Session, args: NamespaceDeleteArgs) -> anyhow::Result<()> {
    confirm("namespace", args.name.as_str(), args.yes)?;
    session.client.delete_namespace(&args.name).await?;
    if session.json {
        return output::json(&serde_json::json!({ "name": args.name, "deleted": true }));
    }
    output::line(format!("namespace {} is deleted", args.name))
}

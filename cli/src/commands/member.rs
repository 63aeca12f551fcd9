//! `wharf member`: who may what in a namespace.

use clap::{Args, Subcommand};
use wharf_types::api::Page;
use wharf_types::{Timestamp, UserName};

use super::token::RoleArg;
use crate::args::{Global, NoArgs, With};
use crate::output::{self, ago};
use crate::session::Session;
use crate::table::Table;

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct MemberArgs {
    #[command(subcommand)]
    pub command: MemberCommand,
}

#[derive(Subcommand, Debug)]
pub enum MemberCommand {
    /// Make a user a member of the namespace, or give a member another role
    #[command(visible_alias = "set")]
    Add(With<MemberAddArgs>),
    /// List the namespace's members
    #[command(visible_alias = "list")]
    Ls(With<NoArgs>),
    /// Remove a member, who loses access at once
    Rm(With<MemberRmArgs>),
}

#[derive(Args, Debug)]
pub struct MemberAddArgs {
    #[arg(value_name = "USER")]
    pub name: UserName,
    #[arg(long, value_enum)]
    pub role: RoleArg,
}

#[derive(Args, Debug)]
pub struct MemberRmArgs {
    #[arg(value_name = "USER")]
    pub name: UserName,
}

pub async fn run(before: Global, args: MemberArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        MemberCommand::Add(with) => add(&open(with.global)?, with.args).await,
        MemberCommand::Ls(with) => list(&open(with.global)?).await,
        MemberCommand::Rm(with) => remove(&open(with.global)?, with.args).await,
    }
}

async fn add(session: &Session, args: MemberAddArgs) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let member = session.client.set_member(&namespace, &args.name, args.role.into()).await?;
    if session.json {
        return output::json(&member);
    }
    output::line(format!("{} is {} in {namespace}", member.user, member.role.as_str()))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let items = session.client.members(&namespace).await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    if items.is_empty() {
        return output::line(format!(
            "{namespace} has no members; `wharf member add USER --role ROLE` makes one"
        ));
    }
    let now = Timestamp::now();
    let mut table = Table::new(["USER", "ROLE", "SINCE", "~BY"]);
    for member in items {
        table.row([
            member.user.to_string(),
            member.role.as_str().to_owned(),
            ago(now, member.since),
            output::printable(&member.by).into_owned(),
        ]);
    }
    table.print()
}

async fn remove(session: &Session, args: MemberRmArgs) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    session.client.remove_member(&namespace, &args.name).await?;
    if session.json {
        return output::json(
            &serde_json::json!({ "namespace": namespace, "user": args.name, "removed": true }),
        );
    }
    output::line(format!("{} is no member of {namespace} any more", args.name))
}

//! `wharf user`.

use clap::{Args, Subcommand};
use wharf_types::api::{Membership, Page};
use wharf_types::{Timestamp, UserName};

use super::confirm;
use crate::args::{Global, NoArgs, With};
use crate::output::{self, ago};
use crate::session::Session;
use crate::table::Table;

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct UserArgs {
    #[command(subcommand)]
    pub command: UserCommand,
}

#[derive(Subcommand, Debug)]
pub enum UserCommand {
    /// Make a user, who is then nowhere a member and has no token yet
    #[command(visible_alias = "create")]
    Add(With<UserNameArg>),
    /// List the users and what they are members of
    #[command(visible_alias = "list")]
    Ls(With<NoArgs>),
    /// Remove a user, with all tokens and memberships
    #[command(visible_alias = "delete")]
    Rm(With<UserRmArgs>),
}

#[derive(Args, Debug)]
pub struct UserNameArg {
    #[arg(value_name = "USER")]
    pub name: UserName,
}

#[derive(Args, Debug)]
pub struct UserRmArgs {
    #[arg(value_name = "USER")]
    pub name: UserName,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

pub async fn run(before: Global, args: UserArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        UserCommand::Add(with) => add(&open(with.global)?, with.args).await,
        UserCommand::Ls(with) => list(&open(with.global)?).await,
        UserCommand::Rm(with) => remove(&open(with.global)?, with.args).await,
    }
}

async fn add(session: &Session, args: UserNameArg) -> anyhow::Result<()> {
    let user = session.client.create_user(args.name).await?;
    if session.json {
        return output::json(&user);
    }
    output::line(format!("user {} is made", user.name))?;
    output::note(format!(
        "next: `wharf member add {0} --role developer -n NAMESPACE`, and a first token: `wharf token create laptop --user {0}`",
        user.name
    ));
    Ok(())
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let items = session.client.users().await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    if items.is_empty() {
        return output::line("no users; `wharf user add NAME` makes one");
    }
    let now = Timestamp::now();
    let mut table = Table::new(["USER", "~MEMBER OF", ">TOKENS", "MADE"]);
    for user in items {
        let memberships = memberships_text(&user.memberships);
        table.row([user.name.to_string(), memberships, user.tokens.to_string(), ago(now, user.created_at)]);
    }
    table.print()
}

/// Such as `developer in blue, viewer in red`.
pub fn memberships_text(memberships: &[Membership]) -> String {
    if memberships.is_empty() {
        return "no namespace".to_owned();
    }
    let text = |membership: &Membership| format!("{} in {}", membership.role.as_str(), membership.namespace);
    memberships.iter().map(text).collect::<Vec<_>>().join(", ")
}

async fn remove(session: &Session, args: UserRmArgs) -> anyhow::Result<()> {
    confirm("user", args.name.as_str(), args.yes)?;
    session.client.remove_user(&args.name).await?;
    if session.json {
        return output::json(&serde_json::json!({ "name": args.name, "removed": true }));
    }
    output::line(format!("user {} is removed, with all tokens and memberships", args.name))
}

//! `wharf token`.

use clap::{Args, Subcommand, ValueEnum};
use wharf_types::api::{CreateToken, Page, Role, TokenInfo, Verb};
use wharf_types::quantity::Span;
use wharf_types::{NamespaceName, Timestamp, TokenId, UserName};

use crate::args::{Global, NoArgs, With};
use crate::exit::Failure;
use crate::output::{self, ago};
use crate::session::Session;
use crate::table::Table;

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct TokenArgs {
    #[command(subcommand)]
    pub command: TokenCommand,
}

#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Create a token; its secret is shown once
    Create(With<TokenCreateArgs>),
    /// List the tokens
    #[command(visible_alias = "ls")]
    List(With<NoArgs>),
    /// Make a token useless from now on
    Revoke(With<TokenRevokeArgs>),
}

/// With -n, the token is for that namespace only. Users make tokens for themselves; a cluster admin makes any.
#[derive(Args, Debug)]
pub struct TokenCreateArgs {
    /// What it is for
    pub name: String,
    /// The most that it may do [default: what its user may; without a user, developer]
    #[arg(long, value_enum)]
    pub role: Option<RoleArg>,
    /// Only this, of what the role may do; several separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "VERB")]
    pub verbs: Vec<VerbArg>,
    /// Whose it is to be [default: yours if you are a user, else nobody's]
    #[arg(long, value_name = "USER")]
    pub user: Option<UserName>,
    /// Such as `30d` [default: 90 days]
    #[arg(long, visible_alias = "expires", value_name = "TIME")]
    pub expires_in: Option<Span>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleArg {
    /// Reads
    Viewer,
    /// Deploys
    Developer,
    /// Everything
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Developer => Self::Developer,
            RoleArg::Admin => Self::Admin,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum VerbArg {
    /// Looks at everything but the values of variables
    Read,
    /// Deploys, rolls back, restarts, deletes; reads and changes variables
    Deploy,
    /// Sets the number of instances
    Scale,
    /// Sets and removes secrets
    Secrets,
    /// Members, quotas, namespaces, users
    Admin,
}

impl From<VerbArg> for Verb {
    fn from(verb: VerbArg) -> Self {
        match verb {
            VerbArg::Read => Self::Read,
            VerbArg::Deploy => Self::Deploy,
            VerbArg::Scale => Self::Scale,
            VerbArg::Secrets => Self::Secrets,
            VerbArg::Admin => Self::Admin,
        }
    }
}

#[derive(Args, Debug)]
pub struct TokenRevokeArgs {
    /// The token's id, as `wharf token ls` shows it
    pub id: String,
}

pub async fn run(before: Global, args: TokenArgs) -> anyhow::Result<()> {
    let open = |global: Global| Session::open(global.or(before.clone()));
    match args.command {
        TokenCommand::Create(with) => {
            // Only a flag narrows a token: a namespace of the environment or of the context is no wish about it.
            let scope = with.global.namespace.clone().or(before.namespace.clone());
            create(&open(with.global)?, scope, with.args).await
        }
        TokenCommand::List(with) => list(&open(with.global)?).await,
        TokenCommand::Revoke(with) => revoke(&open(with.global)?, with.args).await,
    }
}

/// The token is for one namespace where `-n` says so, and else for every one.
async fn create(
    session: &Session,
    scope: Option<NamespaceName>,
    args: TokenCreateArgs,
) -> anyhow::Result<()> {
    let request = CreateToken {
        name: args.name,
        user: args.user,
        role: args.role.map(Role::from),
        namespace: scope,
        verbs: args.verbs.into_iter().map(Verb::from).collect(),
        expires_in: args.expires_in,
    };
    let created = session.client.create_token(&request).await?;
    if session.json {
        return output::json(&created);
    }
    // Only the secret goes to stdout, so that it can be captured.
    output::note(format!(
        "token {} ({}) expires {}; its secret is not shown again:",
        request.name,
        created.id,
        ago(Timestamp::now(), created.expires_at)
    ));
    output::line(created.secret)
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let items = session.client.tokens().await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new(["ID", "~NAME", "USER", "MAY", "NAMESPACE", "MADE", "EXPIRES"]);
    for token in items {
        table.row([
            token.id.to_string(),
            output::printable(&token.name).into_owned(),
            token.user.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            may(&token),
            token.namespace.map_or_else(|| "every".to_owned(), String::from),
            ago(now, token.created_at),
            token.expires_at.map_or_else(|| "never".to_owned(), |at| ago(now, at)),
        ]);
    }
    table.print()
}

/// What a token is good for, wherever it is good at all: `developer`, `as member`, `read,deploy`.
fn may(token: &TokenInfo) -> String {
    let verbs: Vec<_> = token.verbs.iter().map(|verb| verb.as_str()).collect();
    let role = match token.user {
        Some(_) if token.role == Role::Admin => "as member",
        _ => token.role.as_str(),
    };
    if verbs.is_empty() { role.to_owned() } else { format!("{role}: {}", verbs.join(",")) }
}

async fn revoke(session: &Session, args: TokenRevokeArgs) -> anyhow::Result<()> {
    let id: TokenId = args.id.parse().map_err(|_| {
        Failure::usage(format!("`{}` is not a token's id", args.id)).help("`wharf token ls` shows the ids")
    })?;
    session.client.revoke_token(id).await?;
    if session.json {
        return output::json(&serde_json::json!({ "id": id, "revoked": true }));
    }
    output::line(format!("token {id} is revoked"))
}

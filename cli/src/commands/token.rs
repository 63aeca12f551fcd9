//! `wharf token`.

use wharf_types::api::{CreateToken, Page, Role};
use wharf_types::{NamespaceName, Timestamp, TokenId};

use crate::args::{TokenCreateArgs, TokenRevokeArgs};
use crate::exit::Failure;
use crate::output::{self, ago};
use crate::session::Session;
use crate::table::Table;

/// The token is for one namespace where `-n` says so, and else for every one.
pub async fn create(
    session: &Session,
    scope: Option<NamespaceName>,
    args: TokenCreateArgs,
) -> anyhow::Result<()> {
    let request = CreateToken {
        name: args.name,
        role: args.role.into(),
        namespace: scope,
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

pub async fn list(session: &Session) -> anyhow::Result<()> {
    let items = session.client.tokens().await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new(["ID", "~NAME", "ROLE", "NAMESPACE", "MADE", "EXPIRES"]);
    for token in items {
        table.row([
            token.id.to_string(),
            output::printable(&token.name).into_owned(),
            role_word(token.role).to_owned(),
            token.namespace.map_or_else(|| "every".to_owned(), String::from),
            ago(now, token.created_at),
            token.expires_at.map_or_else(|| "never".to_owned(), |at| ago(now, at)),
        ]);
    }
    table.print()
}

pub async fn revoke(session: &Session, args: TokenRevokeArgs) -> anyhow::Result<()> {
    let id: TokenId = args.id.parse().map_err(|_| {
        Failure::usage(format!("`{}` is not a token's id", args.id)).help("`wharf token list` shows the ids")
    })?;
    session.client.revoke_token(id).await?;
    if session.json {
        return output::json(&serde_json::json!({ "id": id, "revoked": true }));
    }
    output::line(format!("token {id} is revoked"))
}

pub fn role_word(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Developer => "developer",
        Role::Admin => "admin",
    }
}

//! `wharf namespace`.

use wharf_types::Timestamp;
use wharf_types::api::Page;

use super::confirm;
use crate::args::{NamespaceDeleteArgs, NamespaceNameArg};
use crate::output::{self, ago};
use crate::session::Session;
use crate::table::Table;

pub async fn create(session: &Session, args: NamespaceNameArg) -> anyhow::Result<()> {
    session.client.create_namespace(args.name.clone()).await?;
    if session.json {
        return output::json(&serde_json::json!({ "name": args.name, "created": true }));
    }
    output::line(format!("namespace {0} is created; use it with `-n {0}`", args.name))
}

pub async fn list(session: &Session) -> anyhow::Result<()> {
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

pub async fn delete(session: &Session, args: NamespaceDeleteArgs) -> anyhow::Result<()> {
    confirm("namespace", args.name.as_str(), args.yes)?;
    session.client.delete_namespace(&args.name).await?;
    if session.json {
        return output::json(&serde_json::json!({ "name": args.name, "deleted": true }));
    }
    output::line(format!("namespace {} is deleted", args.name))
}

//! `wharf audit`: who changed what.

use clap::Args;
use serde_json::Value;
use wharf_types::api::{AuditRecord, Page};
use wharf_types::quantity::Span;
use wharf_types::{NamespaceName, Timestamp};

use crate::args::Global;
use crate::exit::Failure;
use crate::output::{self, ago, coloured};
use crate::session::Session;
use crate::table::Table;

/// With -n, of that namespace, which is all that its admins may see; with --app, of that app.
#[derive(Args, Debug)]
pub struct AuditArgs {
    /// Only of this user, or of tokens of this name that are nobody's
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// Only of this, such as `secrets/db-password`
    #[arg(long, value_name = "OBJECT")]
    pub object: Option<String>,
    /// Only what is younger, such as `2h`
    #[arg(long, value_name = "TIME", default_value = "7d")]
    pub since: Span,
}

pub async fn run(global: Global, args: AuditArgs) -> anyhow::Result<()> {
    let (app, named) = (global.app.clone(), global.namespace.clone());
    if app.is_some() && args.object.is_some() {
        return Err(Failure::usage("--app and --object both say what it is about; give one of them").into());
    }
    let session = Session::open(global)?;
    let now = Timestamp::now();
    let namespace = namespace(&session, named, app.is_some()).await?;
    let after = now.checked_sub(args.since.as_duration()).unwrap_or(Timestamp::UNIX_EPOCH);
    let object = args.object.or_else(|| app.map(|app| format!("apps/{app}")));
    let mut query = vec![("after", after.to_string())];
    query.extend(namespace.map(|namespace| ("namespace", namespace.to_string())));
    query.extend(args.actor.map(|actor| ("actor", actor)));
    query.extend(object.map(|object| ("object", object)));
    let items = session.client.audit(&query).await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    if items.is_empty() {
        return output::line("nothing was changed; `--since 90d` looks further back");
    }
    let mut table = Table::new(["WHEN", "WHO", "FROM", "WHAT", "NAMESPACE", "OBJECT", "OUTCOME", "~CHANGE"]);
    for record in items {
        table.row([
            ago(now, record.time),
            output::printable(&who(&record)).into_owned(),
            record.remote.clone().unwrap_or_else(|| "-".to_owned()),
            record.action.clone(),
            record.namespace.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            output::printable(&record.object).into_owned(),
            coloured(record.outcome.as_str()),
            output::printable(&change(&record)).into_owned(),
        ]);
    }
    table.print()
}

/// Cluster admins see everything unless they name a namespace; others see the one that they are in.
async fn namespace(
    session: &Session,
    named: Option<NamespaceName>,
    of_app: bool,
) -> anyhow::Result<Option<NamespaceName>> {
    if named.is_some() {
        return Ok(named);
    }
    let who = session.client.whoami().await?;
    let everywhere = who.user.is_none() && who.namespace.is_none();
    if everywhere && !of_app { Ok(None) } else { session.namespace().map(Some) }
}

fn who(record: &AuditRecord) -> String {
    match &record.user {
        Some(user) => format!("{user} ({})", record.token_name),
        None => record.token_name.clone(),
    }
}

/// What differs, in one line; of a refusal, why.
fn change(record: &AuditRecord) -> String {
    if let Some(detail) = &record.detail {
        return detail.clone();
    }
    let side = |value: &Option<Value>| {
        let text = value.as_ref().map(short).filter(|text| !text.is_empty());
        text.unwrap_or_else(|| "-".to_owned())
    };
    match (&record.before, &record.after) {
        (None, None) => String::new(),
        (None, Some(after)) => short(after),
        (before, after) => format!("{} -> {}", side(before), side(after)),
    }
}

/// The JSON without its marks; all of it is in `--json`.
fn short(value: &Value) -> String {
    const MAX: usize = 80;
    let text = value.to_string().replace(['{', '}', '"'], "");
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

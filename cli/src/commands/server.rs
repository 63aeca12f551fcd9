//! `wharf server ls`, and `wharf server ca`.

use wharf_types::Timestamp;
use wharf_types::api::{AuthorityInfo, AuthorityState, Page, ServerInfo};

use crate::output::{self, ago, coloured, short_id};
use crate::session::Session;
use crate::table::Table;

pub async fn list(session: &Session) -> anyhow::Result<()> {
    let items = session.client.servers().await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new(["~HOSTNAME", "ADDRESS", "STATE", "LEADS", "VERSION", "STARTED", "SEEN"]);
    for server in items {
        let state = state(&server);
        table.row([
            server.hostname,
            if server.address.is_empty() { "none".to_owned() } else { server.address },
            coloured(state),
            match (server.leads, server.leads_since) {
                (false, _) => "no".to_owned(),
                (true, None) => "yes".to_owned(),
                (true, Some(since)) => format!("since {}", ago(now, since)),
            },
            server.version,
            ago(now, server.started_at),
            ago(now, server.seen_at),
        ]);
    }
    table.print()
}

pub async fn authorities(session: &Session) -> anyhow::Result<()> {
    show(session, session.client.authorities().await?)
}

pub async fn rotate(session: &Session, force: bool) -> anyhow::Result<()> {
    let items = session.client.rotate_authority(force).await?;
    output::note("another CA is being brought in, step by step: `wharf server ca` says how far it is");
    show(session, items)
}

fn show(session: &Session, items: Vec<AuthorityInfo>) -> anyhow::Result<()> {
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new(["CA", "STATE", "SINCE", "CREATED", "~WAITS FOR"]);
    for authority in items {
        let waits: Vec<String> = authority.waits_for.iter().map(|node| short_id(*node)).collect();
        table.row([
            authority.id.chars().take(16).collect(),
            match authority.state {
                AuthorityState::Next => "next".to_owned(),
                AuthorityState::Signs => "signs".to_owned(),
                AuthorityState::Old => "old".to_owned(),
            },
            ago(now, authority.changed_at),
            ago(now, authority.created_at),
            waits.join(" "),
        ]);
    }
    table.print()
}

fn state(server: &ServerInfo) -> &'static str {
    if server.ready { "ready" } else { "silent" }
}

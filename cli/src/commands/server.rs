//! `wharf server ls`.

use wharf_types::Timestamp;
use wharf_types::api::{Page, ServerInfo};

use crate::output::{self, ago, coloured};
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

fn state(server: &ServerInfo) -> &'static str {
    if server.ready { "ready" } else { "silent" }
}

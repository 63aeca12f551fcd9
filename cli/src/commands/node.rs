//! `wharf node`.

use wharf_types::Timestamp;
use wharf_types::api::Page;

use crate::output::{self, ago, short_id, state_style};
use crate::session::Session;
use crate::table::Table;

pub async fn list(session: &Session) -> anyhow::Result<()> {
    let items = session.client.nodes().await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table =
        Table::new(["NODE", "~HOSTNAME", "READY", ">INSTANCES", ">CPUS", ">MEMORY", "VERSION", "SEEN"]);
    for node in items {
        let ready = if node.ready { "yes" } else { "no" };
        table.row([
            short_id(node.id),
            node.hostname,
            state_style(ready).apply_to(ready).to_string(),
            node.instances.to_string(),
            node.cpus.to_string(),
            output::bytes(node.memory_bytes),
            node.version,
            ago(now, node.seen_at),
        ]);
    }
    table.print()
}

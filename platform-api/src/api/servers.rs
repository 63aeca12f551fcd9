//! `/v1/servers`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use wharf_types::Timestamp;
use wharf_types::api::{Page, ServerInfo};

use super::ApiResult;
use crate::context::Context;
use crate::store::server::{About, Server};

pub(super) async fn list(State(context): State<Arc<Context>>) -> ApiResult<Json<Page<ServerInfo>>> {
    let servers = context.store.servers().await?.unwrap_or_else(|| vec![alone(&context)]);
    Ok(Json(Page { items: servers.into_iter().map(info).collect(), next_cursor: None }))
}

/// Without others this server leads for as long as it is there.
fn alone(context: &Context) -> Server {
    let address = context.joining.get().map(|joining| joining.address.clone()).unwrap_or_default();
    let about = About { address, ..context.about() };
    let leads_since = Some(context.started_at);
    Server { seen_at: Timestamp::now(), is_there: true, leads: true, leads_since, about }
}

fn info(server: Server) -> ServerInfo {
    let Server { about, seen_at, is_there, leads_since, leads } = server;
    let About { id, hostname, address, version, started_at } = about;
    ServerInfo { id, hostname, address, version, ready: is_there, leads, leads_since, started_at, seen_at }
}

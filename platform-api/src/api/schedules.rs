//! `…/schedules`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use wharf_types::api::{Page, Verb};
use wharf_types::job::JobInfo;
use wharf_types::schedule::{ScheduleInfo, ScheduleSpec};
use wharf_types::{NamespaceName, ScheduleName, Timestamp};

use super::ApiResult;
use super::auth::{Identity, namespace_not_found};
use super::etag::tagged;
use super::extract::{After, PageQuery, Path, Query};
use super::jobs::{JobWish, Nothing};
use super::releases::HIDDEN;
use crate::context::Context;
use crate::operations::schedules::{self, Shown};
use crate::{store, view};

/// Schedules of one page.
const PAGE: usize = 100;

type SchedulePath = (NamespaceName, ScheduleName);

pub(super) async fn set(
    State(context): State<Arc<Context>>,
    wish: JobWish<SchedulePath, ScheduleSpec>,
) -> ApiResult<Response> {
    let JobWish { asked, path: (_, name), request } = wish;
    Ok(reply(schedules::set(&context, &asked, &name, request).await?))
}

pub(super) async fn list(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path(namespace): Path<NamespaceName>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<Page<ScheduleInfo>>> {
    let after: Option<After<ScheduleName>> = query.after()?;
    let mut tx = context.store.read().await?;
    if store::namespace::find(&mut tx, &namespace).await?.is_none() {
        return Err(namespace_not_found(namespace.as_str()));
    }
    let after = after.as_ref().map_or("", |After(name)| name.as_str());
    let mut rows = store::schedule::list(&mut tx, &namespace, after, PAGE as i64 + 1).await?;
    let more = rows.len() > PAGE;
    rows.truncate(PAGE);
    let next_cursor = rows.last().filter(|_| more).map(|row| After(&row.name).to_string());
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        let mut info = view::job::schedule_info(&mut tx, &row, Timestamp::now()).await?;
        hide(&identity, &namespace, &mut info);
        items.push(info);
    }
    Ok(Reply(Page { items, next_cursor }))
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path((namespace, name)): Path<SchedulePath>,
) -> ApiResult<Response> {
    let mut shown = schedules::get(&context, &namespace, &name, Timestamp::now()).await?;
    hide(&identity, &namespace, &mut shown.info);
    Ok(reply(shown))
}

pub(super) async fn suspend(
    State(context): State<Arc<Context>>,
    wish: JobWish<SchedulePath, Nothing>,
) -> ApiResult<Response> {
    let JobWish { asked, path: (_, name), request: Nothing {} } = wish;
    Ok(reply(schedules::suspend(&context, &asked, &name, true).await?))
}

pub(super) async fn resume(
    State(context): State<Arc<Context>>,
    wish: JobWish<SchedulePath, Nothing>,
) -> ApiResult<Response> {
    let JobWish { asked, path: (_, name), request: Nothing {} } = wish;
    Ok(reply(schedules::suspend(&context, &asked, &name, false).await?))
}

pub(super) async fn run_now(
    State(context): State<Arc<Context>>,
    wish: JobWish<SchedulePath, Nothing>,
) -> ApiResult<(StatusCode, Reply<JobInfo>)> {
    let JobWish { asked, path: (_, name), request: Nothing {} } = wish;
    let (job, is_new) = schedules::run_now(&context, &asked, &name).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Reply(job)))
}

pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    wish: JobWish<SchedulePath, Nothing>,
) -> ApiResult<StatusCode> {
    let JobWish { asked, path: (_, name), request: Nothing {} } = wish;
    schedules::remove(&context, &asked, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn hide(identity: &Identity, namespace: &NamespaceName, info: &mut ScheduleInfo) {
    if !identity.may(Verb::Deploy, namespace) {
        info.spec.job.spec.env.values_mut().for_each(|value| HIDDEN.clone_into(value));
    }
}

fn reply(shown: Shown) -> Response {
    let status = if shown.is_new { StatusCode::CREATED } else { StatusCode::OK };
    tagged((status, Reply(shown.info)), shown.revision)
}

//! `…/jobs`

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Reply;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use tracing::warn;
use wharf_types::api::{Page, Verb};
use wharf_types::job::{CreateJob, JobInfo};
use wharf_types::log::LogRecord;
use wharf_types::quantity::Span;
use wharf_types::{JobId, NamespaceName, Timestamp};

use super::auth::{Identity, namespace_not_found};
use super::extract::{Delivery, PageQuery, Path, Query, parse, read};
use super::releases::HIDDEN;
use super::wish::idempotency_key;
use super::{ApiError, ApiResult, sse};
use crate::context::Context;
use crate::operations::Once;
use crate::operations::jobs::{self, AskedJob};
use crate::{store, view};

/// Jobs of one page.
const PAGE: usize = 100;
const WAIT_MAX: Duration = Duration::from_secs(120);
const TAIL: usize = 100;

pub(super) type JobPath = (NamespaceName, String);

/// Who asks for what, about a path of `P` that begins with a namespace.
pub(super) struct JobWish<P, T> {
    pub(super) asked: AskedJob,
    pub(super) path: P,
    pub(super) request: T,
}

/// A request that has no settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

pub(super) trait InNamespace {
    fn namespace(&self) -> &NamespaceName;
}

impl InNamespace for NamespaceName {
    fn namespace(&self) -> &NamespaceName {
        self
    }
}

impl<T> InNamespace for (NamespaceName, T) {
    fn namespace(&self) -> &NamespaceName {
        &self.0
    }
}

impl<P, T, S> FromRequest<S> for JobWish<P, T>
where
    P: InNamespace + DeserializeOwned + Send,
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let (mut parts, body) = request.into_parts();
        let Path(path) = Path::<P>::from_request_parts(&mut parts, state).await?;
        let identity = Identity::from_request_parts(&mut parts, state).await?;
        let key = idempotency_key(&parts.headers)?;
        let bytes = read(Request::from_parts(parts, body), state).await?;
        let once = key.map(|key| Once { key, request_hash: blake3::hash(&bytes).to_string() });
        let (namespace, by) = (path.namespace().clone(), identity.name());
        let any_rights = identity.demand_everywhere(Verb::Admin).is_ok();
        let asked = AskedJob { namespace, by, once, any_rights, now: Timestamp::now() };
        Ok(Self { asked, path, request: parse(&bytes)? })
    }
}

pub(super) async fn create(
    State(context): State<Arc<Context>>,
    wish: JobWish<NamespaceName, CreateJob>,
) -> ApiResult<(StatusCode, Reply<JobInfo>)> {
    let (job, is_new) = jobs::create(&context, &wish.asked, wish.request).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Reply(job)))
}

/// Variables may hold secrets, so a viewer sees their names only.
fn hide(identity: &Identity, namespace: &NamespaceName, job: &mut JobInfo) {
    if !identity.may(Verb::Deploy, namespace) {
        job.spec.env.values_mut().for_each(|value| HIDDEN.clone_into(value));
    }
}

pub(super) async fn list(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path(namespace): Path<NamespaceName>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<Page<JobInfo>>> {
    let before: Option<JobId> = query.after()?;
    let mut tx = context.store.read().await?;
    if store::namespace::find(&mut tx, &namespace).await?.is_none() {
        return Err(namespace_not_found(namespace.as_str()));
    }
    let mut jobs = store::job::list(&mut tx, &namespace, before, PAGE as i64 + 1).await?;
    let more = jobs.len() > PAGE;
    jobs.truncate(PAGE);
    let next_cursor = jobs.last().filter(|_| more).map(|job| job.id.to_string());
    let mut items = Vec::with_capacity(jobs.len());
    for job in jobs {
        let mut info = view::job::complete(&mut tx, job).await?.info(&context, false);
        hide(&identity, &namespace, &mut info);
        items.push(info);
    }
    Ok(Reply(Page { items, next_cursor }))
}

#[derive(Deserialize)]
pub(super) struct Wait {
    wait: Option<Span>,
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path((namespace, job)): Path<JobPath>,
    Query(query): Query<Wait>,
) -> ApiResult<Reply<JobInfo>> {
    let mut watcher = context.watch();
    let mut tx = context.store.read().await?;
    let id = jobs::find(&mut tx, &namespace, &job).await?.id;
    drop(tx);
    let wait = query.wait.map_or(Duration::ZERO, Span::as_duration).min(WAIT_MAX);
    let deadline = Instant::now() + wait;
    loop {
        let mut tx = context.store.read().await?;
        let job = jobs::find(&mut tx, &namespace, &id.to_string()).await?;
        let mut info = view::job::complete(&mut tx, job).await?.info(&context, true);
        drop(tx);
        hide(&identity, &namespace, &mut info);
        if info.state.is_final() || Instant::now() >= deadline {
            return Ok(Reply(info));
        }
        tokio::select! {
            _ = timeout_at(deadline, watcher.changed(|changed| changed == id.as_owner())) => {}
            () = context.shutdown.cancelled() => return Ok(Reply(info)),
        }
    }
}

pub(super) async fn cancel(
    State(context): State<Arc<Context>>,
    wish: JobWish<JobPath, Nothing>,
) -> ApiResult<Reply<JobInfo>> {
    let JobWish { asked, path: (_, job), request: Nothing {} } = wish;
    Ok(Reply(jobs::cancel(&context, &asked, &job).await?))
}

pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    wish: JobWish<JobPath, Nothing>,
) -> ApiResult<StatusCode> {
    let JobWish { asked, path: (_, job), request: Nothing {} } = wish;
    jobs::delete(&context, &asked, &job).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(super) struct LogsQuery {
    tail: Option<usize>,
}

pub(super) async fn logs(
    State(context): State<Arc<Context>>,
    Path((namespace, job)): Path<JobPath>,
    Query(query): Query<LogsQuery>,
    delivery: Delivery<u64>,
) -> ApiResult<Response> {
    let mut tx = context.store.read().await?;
    let job = jobs::find(&mut tx, &namespace, &job).await?.id;
    drop(tx);
    let tail = query.tail.unwrap_or(TAIL);
    let all = |_: &LogRecord| true;
    let Delivery::Stream { last_event_id } = delivery else {
        let records = context.logs.tail(&namespace, job, tail, all).await?;
        let items = records.into_iter().map(|positioned| positioned.record).collect();
        return Ok(Reply(Page { items, next_cursor: None }).into_response());
    };
    let mut follower = context.logs.follow(&namespace, job, last_event_id, tail, all).await?;
    let records = async_stream::stream! {
        loop {
            match follower.next().await {
                Ok(Some(positioned)) => yield sse::event("log", positioned.position, &positioned.record),
                Ok(None) => return,
                Err(error) => {
                    warn!("a stream of log records of job {job} in {namespace} ends: {error}");
                    return;
                }
            }
        }
    };
    Ok(sse::stream(&context, records))
}

//! `…/builds` and `…/apps/{app}/repository`: what was pushed with git, and where to push it.

use std::io;
use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tracing::warn;
use wharf_types::api::{BuildInfo, Page, PreviewInfo, PushPolicy, RepositoryInfo, RepositoryPatch, WhenBusy};
use wharf_types::problem::ProblemCode;
use wharf_types::{AppName, BuildId, NamespaceName};

use super::auth::namespace_not_found;
use super::etag::tagged;
use super::extract::{Delivery, Json, Path, Query, parse_cursor};
use super::wish::{AppPath, Wish};
use super::{ApiError, ApiResult, sse};
use crate::audit;
use crate::conditions;
use crate::context::Context;
use crate::operations::{Asked, app_not_found};
use crate::store::repository::Repository;
use crate::store::{self, Conn};

/// Builds of one page.
const PAGE: usize = 50;
/// A branch's name, in octets.
const BRANCH_MAX_BYTES: usize = 200;

#[derive(Deserialize)]
pub(super) struct BuildsQuery {
    app: Option<AppName>,
    cursor: Option<String>,
}

pub(super) async fn list(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
    Query(query): Query<BuildsQuery>,
) -> ApiResult<Reply<Page<BuildInfo>>> {
    let before = parse_cursor(query.cursor.as_deref())?;
    let mut tx = context.store.read().await?;
    if store::namespace::find(&mut tx, &namespace).await?.is_none() {
        return Err(namespace_not_found(namespace.as_str()));
    }
    let app = query.app.as_ref();
    let mut items = store::build::list(&mut tx, &namespace, app, before, PAGE as i64 + 1).await?;
    let more = items.len() > PAGE;
    items.truncate(PAGE);
    let next_cursor = items.last().filter(|_| more).map(|build| build.id.to_string());
    Ok(Reply(Page { items, next_cursor }))
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path((namespace, id)): Path<(NamespaceName, BuildId)>,
) -> ApiResult<Reply<BuildInfo>> {
    Ok(Reply(find(&context, &namespace, id).await?))
}

async fn find(context: &Context, namespace: &NamespaceName, id: BuildId) -> ApiResult<BuildInfo> {
    let mut tx = context.store.read().await?;
    store::build::get(&mut tx, namespace, id).await?.ok_or_else(|| {
        let detail = format!(
            "there is no build {id} in the namespace `{namespace}`; `wharf builds` lists those that there are"
        );
        ApiError::new(ProblemCode::NotFound, detail)
    })
}

/// A text; as a stream, one event a line, until the build has ended.
pub(super) async fn log(
    State(context): State<Arc<Context>>,
    Path((namespace, id)): Path<(NamespaceName, BuildId)>,
    delivery: Delivery<u64>,
) -> ApiResult<Response> {
    find(&context, &namespace, id).await?;
    let (path, growth) = context.git.log(id);
    let file = match tokio::fs::File::open(&path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened?),
    };
    let Delivery::Stream { last_event_id } = delivery else {
        let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        let text = match file {
            Some(_) => tokio::fs::read(&path).await?,
            None => Vec::new(),
        };
        return Ok((kind, text).into_response());
    };
    let lines = async_stream::stream! {
        let Some(file) = file else { return };
        let (mut lines, mut growth, mut number) = (BufReader::new(file), growth, 0_u64);
        let mut text = Vec::new();
        loop {
            match lines.read_until(b'\n', &mut text).await {
                Ok(_) if text.ends_with(b"\n") => {
                    number += 1;
                    if last_event_id.is_none_or(|seen| number > seen) {
                        let line = String::from_utf8_lossy(&text[..text.len() - 1]).into_owned();
                        yield sse::event("line", Some(number), &json!(line));
                    }
                    text.clear();
                    continue;
                }
                Ok(_) => {}
                Err(error) => {
                    warn!("the log of build {id} cannot be read: {error}");
                    return;
                }
            }
            // All that there is was read. What was written before its writer ended is there by now.
            let Some(open) = &mut growth else { return };
            if open.changed().await.is_err() {
                growth = None;
            }
        }
    };
    Ok(sse::stream(&context, lines))
}

pub(super) async fn cancel(
    State(context): State<Arc<Context>>,
    Path((namespace, id)): Path<(NamespaceName, BuildId)>,
) -> ApiResult<StatusCode> {
    let build = find(&context, &namespace, id).await?;
    if build.state.is_over() {
        return Ok(StatusCode::ACCEPTED);
    }
    audit::change(json!({"state": build.state}), json!({"state": "cancelled"}));
    let mut tx = context.store.write().await?;
    audit::write(&mut tx).await?;
    tx.commit().await?;
    context.git.cancel(id);
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn repository(
    State(context): State<Arc<Context>>,
    Path((namespace, app)): Path<AppPath>,
) -> ApiResult<Response> {
    let mut tx = context.store.read().await?;
    let Some(found) = store::namespace::find(&mut tx, &namespace).await? else {
        return Err(namespace_not_found(namespace.as_str()));
    };
    let Some(repository) = store::repository::find(&mut tx, found.id, &app).await? else {
        // One that was never pushed to is as it would be made.
        if store::app::find(&mut tx, &namespace, &app).await?.is_none() {
            return Err(app_not_found(&namespace, &app).into());
        }
        return Ok(reply(info(&namespace, &app, store::repository::BRANCH.to_owned())));
    };
    Ok(reply(info_of(&context, &mut tx, (&namespace, &app), &repository).await?))
}

/// With the revision of what can be set of it.
fn reply(info: RepositoryInfo) -> Response {
    let revision = revision(&info.branch, info.when_busy);
    tagged(Reply(info), revision)
}

fn revision(branch: &str, when_busy: WhenBusy) -> i64 {
    conditions::revision_of(&json!({"branch": branch, "when_busy": when_busy}))
}

fn info(namespace: &NamespaceName, app: &AppName, branch: String) -> RepositoryInfo {
    RepositoryInfo {
        path: format!("/git/{namespace}/{app}.git"),
        branch,
        when_busy: WhenBusy::default(),
        commit: None,
        previews: Vec::new(),
    }
}

async fn info_of(
    context: &Context,
    conn: &mut Conn,
    (namespace, app): (&NamespaceName, &AppName),
    repository: &Repository,
) -> ApiResult<RepositoryInfo> {
    let branch = format!("refs/heads/{}", repository.branch);
    let commit = match (context.git.repositories.find(repository.id).await?, branch.parse()) {
        (Some(folder), Ok(name)) => folder.find_ref(&name).await?.map(|commit| commit.to_string()),
        _ => None,
    };
    Ok(RepositoryInfo {
        commit,
        when_busy: repository.when_busy,
        previews: previews(conn, repository).await?,
        ..info(namespace, app, repository.branch.clone())
    })
}

/// Those of apps and those of stacks, of which there is something.
async fn previews(conn: &mut Conn, repository: &Repository) -> ApiResult<Vec<PreviewInfo>> {
    let mut previews = store::repository::previews(conn, repository.id).await?;
    for stack in store::stack_preview::of_repository(conn, repository.id).await? {
        let apps = store::app::in_set(conn, stack.namespace_id, &stack.name).await?;
        if apps.is_empty() {
            continue;
        }
        previews.push(PreviewInfo {
            app: stack.name.into(),
            branch: stack.branch,
            expires_at: stack.expires_at,
            services: apps.into_iter().map(|app| app.name).collect(),
        });
    }
    previews.sort_by(|one, other| one.branch.cmp(&other.branch));
    Ok(previews)
}

/// Also before the first push, which makes the app.
pub(super) async fn set_repository(
    State(context): State<Arc<Context>>,
    Wish { asked, request }: Wish<RepositoryPatch>,
) -> ApiResult<Response> {
    let Asked { namespace, app, now, .. } = asked;
    let RepositoryPatch { branch, when_busy } = request;
    if let Some(branch) = &branch {
        check_branch(branch)?;
    }
    let mut tx = context.write_as_leader().await?;
    let Some(found) = store::namespace::find(&mut tx, &namespace).await? else {
        return Err(namespace_not_found(namespace.as_str()));
    };
    let before = store::repository::ensure(&mut tx, found.id, &app, now).await?;
    let revision = revision(&before.branch, before.when_busy);
    conditions::check(&format!("repository of `{app}`"), Some(revision))?;
    let mut repository = before.clone();
    repository.branch = branch.unwrap_or(repository.branch);
    repository.when_busy = when_busy.unwrap_or(repository.when_busy);
    store::repository::set(&mut tx, &repository).await?;
    let shown = |it: &Repository| json!({"branch": it.branch, "when_busy": it.when_busy});
    audit::change(shown(&before), shown(&repository));
    audit::write(&mut tx).await?;
    let info = info_of(&context, &mut tx, (&namespace, &app), &repository).await?;
    tx.commit().await?;
    if let Some(folder) = context.git.repositories.find(repository.id).await?
        && let Ok(name) = format!("refs/heads/{}", repository.branch).parse()
    {
        folder.point_head(&name).await?;
    }
    Ok(reply(info))
}

pub(super) async fn policy(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
) -> ApiResult<Response> {
    let mut tx = context.store.read().await?;
    let Some(found) = store::namespace::find(&mut tx, &namespace).await? else {
        return Err(namespace_not_found(namespace.as_str()));
    };
    Ok(with_policy(store::repository::policy(&mut tx, found.id).await?))
}

pub(super) async fn set_policy(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
    Json(policy): Json<PushPolicy>,
) -> ApiResult<Response> {
    let mut tx = context.store.write().await?;
    let Some(found) = store::namespace::find(&mut tx, &namespace).await? else {
        return Err(namespace_not_found(namespace.as_str()));
    };
    let before = store::repository::policy(&mut tx, found.id).await?;
    let what = format!("push policy of the namespace `{namespace}`");
    conditions::check(&what, Some(conditions::revision_of(&before)))?;
    store::repository::set_policy(&mut tx, found.id, policy).await?;
    audit::change(json!(before), json!(policy));
    audit::commit(tx).await?;
    Ok(with_policy(policy))
}

fn with_policy(policy: PushPolicy) -> Response {
    tagged(Reply(policy), conditions::revision_of(&policy))
}

fn check_branch(branch: &str) -> ApiResult<()> {
    let is_name = format!("refs/heads/{branch}").parse::<wharf_git::RefName>().is_ok();
    if is_name && branch.len() <= BRANCH_MAX_BYTES && !branch.starts_with("preview/") {
        return Ok(());
    }
    let shown: String = branch.chars().take(60).collect();
    let detail = format!(
        "branch: `{}` cannot be what runs: name a branch that git accepts, of at most {BRANCH_MAX_BYTES} octets and not below `preview/`",
        shown.escape_debug()
    );
    Err(ApiError::new(ProblemCode::InvalidRequest, detail))
}

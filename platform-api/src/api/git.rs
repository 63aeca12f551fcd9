//! `/git/{namespace}/{app}.git`: what the `git` of a user asks for. The user's token is the password, whatever name stands with it.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use uuid::Uuid;
use wharf_git::{
    GitError, Limits, Protocol, ReceiveError, Repository as Folder, Service, UploadError, decoded,
};
use wharf_types::api::Verb;
use wharf_types::problem::ProblemCode;
use wharf_types::{AppName, NamespaceId, NamespaceName, Timestamp};

use super::auth::{Identity, namespace_not_found, secret_of};
use super::extract::{Path, Query};
use super::{ApiError, ApiResult};
use crate::context::Context;
use crate::git::{Pushing, Secret};
use crate::operations::app_not_found;
use crate::store;
use crate::store::repository::Repository;

/// Answers are never kept by anybody on the way.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache, max-age=0, must-revalidate");

#[derive(Deserialize)]
pub(super) struct RefsQuery {
    service: Option<String>,
}

/// A path below `/git/`.
type RepositoryPath = (NamespaceName, String);

pub(super) async fn refs(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path((namespace, repository)): Path<RepositoryPath>,
    Query(query): Query<RefsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let Some(service) = query.service else {
        let detail = "this git is too old: use 1.6.6 or newer, which speaks the smart protocol";
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    };
    let service: Service =
        service.parse().map_err(|error| ApiError::new(ProblemCode::InvalidRequest, format!("{error}")))?;
    let place = find(&context, &namespace, &repository).await?;
    let folder = match service {
        Service::UploadPack => place.pushed(&context, &namespace).await?,
        Service::ReceivePack => {
            identity.demand(Verb::Deploy, &namespace)?;
            match &place.known {
                Some(known) => context.git.repositories.ensure(known.id).await?,
                // It is made when something has arrived. Until then it looks like any empty one.
                None => context.git.repositories.ensure(Uuid::nil()).await?,
            }
        }
    };
    let answer = folder.advertise(service, protocol(&headers)).await?;
    Ok(reply(service.advertisement_type(), Body::from(answer)))
}

pub(super) async fn upload_pack(
    State(context): State<Arc<Context>>,
    Path((namespace, repository)): Path<RepositoryPath>,
    request: Request,
) -> ApiResult<Response> {
    let place = find(&context, &namespace, &repository).await?;
    let folder = place.pushed(&context, &namespace).await?;
    let protocol = protocol(request.headers());
    let limits = Limits::default();
    let body = plain(request, Service::UploadPack, limits.fetch_request_max_bytes)?;
    let answer = folder.upload(protocol, body).await?;
    Ok(reply(Service::UploadPack.result_type(), Body::from_stream(answer)))
}

pub(super) async fn receive_pack(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path((namespace, repository)): Path<RepositoryPath>,
    request: Request,
) -> ApiResult<Response> {
    let Place { namespace_id, app, .. } = find(&context, &namespace, &repository).await?;
    let secret = Secret(secret_of(request.headers())?.into_owned());
    let mut tx = context.write_as_leader().await?;
    let repository = store::repository::ensure(&mut tx, namespace_id, &app, Timestamp::now()).await?;
    let policy = store::repository::policy(&mut tx, namespace_id).await?;
    tx.commit().await?;
    let folder = context.git.repositories.ensure(repository.id).await?;
    let by = identity.name();
    let pushing = Pushing {
        context,
        namespace_id,
        namespace,
        policy,
        app,
        by,
        secret,
        repository,
        folder: folder.clone(),
    };
    let body = plain(request, Service::ReceivePack, Limits::default().pack_max_bytes)?;
    let answer = folder.receive(body, pushing.work()).await?;
    Ok(reply(Service::ReceivePack.result_type(), Body::from_stream(answer)))
}

/// What a path leads to.
struct Place {
    namespace_id: NamespaceId,
    app: AppName,
    /// None: nobody has pushed to it.
    known: Option<Repository>,
}

impl Place {
    /// The folder of a repository that somebody has pushed to.
    async fn pushed(&self, context: &Context, namespace: &NamespaceName) -> ApiResult<Folder> {
        let folder = match &self.known {
            Some(known) => context.git.repositories.find(known.id).await?,
            None => None,
        };
        folder.ok_or_else(|| app_not_found(namespace, &self.app).into())
    }
}

async fn find(context: &Context, namespace: &NamespaceName, repository: &str) -> ApiResult<Place> {
    let name = repository.strip_suffix(".git").unwrap_or(repository);
    let app: AppName =
        name.parse().map_err(|error| ApiError::new(ProblemCode::InvalidRequest, format!("{error}")))?;
    let mut tx = context.store.read().await?;
    let Some(found) = store::namespace::find(&mut tx, namespace).await? else {
        return Err(namespace_not_found(namespace.as_str()));
    };
    let known = store::repository::find(&mut tx, found.id, &app).await?;
    Ok(Place { namespace_id: found.id, app, known })
}

fn protocol(headers: &HeaderMap) -> Protocol {
    Protocol::from_header(headers.get("git-protocol").and_then(|value| value.to_str().ok()))
}

/// The body of a request of this service, as it was before it was compressed.
fn plain(
    request: Request,
    service: Service,
    max_bytes: u64,
) -> ApiResult<futures::stream::BoxStream<'static, io::Result<bytes::Bytes>>> {
    let headers = request.headers();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if kind != Some(service.request_type()) {
        let detail = format!("this address is for git, which sends {}", service.request_type());
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    let encoding =
        headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = request.into_body().into_data_stream().map_err(io::Error::other).boxed();
    decoded(encoding.as_deref(), body, max_bytes)
        .map_err(|error| ApiError::new(ProblemCode::InvalidRequest, error.to_string()))
}

fn reply(content_type: &'static str, body: Body) -> Response {
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static(content_type)), (header::CACHE_CONTROL, NO_CACHE)];
    (headers, body).into_response()
}

impl From<GitError> for ApiError {
    fn from(error: GitError) -> Self {
        Self::internal(&error)
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Git(error) => error.into(),
            error => Self::new(ProblemCode::InvalidRequest, error.to_string()),
        }
    }
}

impl From<ReceiveError> for ApiError {
    fn from(error: ReceiveError) -> Self {
        match error {
            error if error.is_the_clients() => Self::new(ProblemCode::InvalidRequest, error.to_string()),
            error => Self::internal(&error),
        }
    }
}

/// An error as git shows it: plain text, behind `remote:`. Without a token, git asks whoever it runs for. Others get it as everywhere.
pub(super) fn refusal(error: ApiError, to_git: bool) -> Response {
    let status = error.status();
    let mut response = if to_git {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        (status, kind, format!("{}\n", error.detail())).into_response()
    } else {
        error.into_response()
    };
    if status == StatusCode::UNAUTHORIZED.as_u16() {
        let realm =
            HeaderValue::from_static("Basic realm=\"Wharf: a token is the password\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    }
    response
}

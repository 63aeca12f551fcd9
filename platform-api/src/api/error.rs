//! How errors leave the API.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tracing::{error, warn};
use wharf_types::Problem;
use wharf_types::problem::ProblemCode;

use super::audit::Refusal;
use crate::artifacts::PutError;
use crate::operations::OperationError;
use crate::reconcile::chain;
use crate::store::StoreError;

pub(super) type ApiResult<T> = Result<T, ApiError>;

/// A problem on its way out, as `application/problem+json`.
#[derive(Debug)]
pub(super) struct ApiError(Box<Problem>);

impl ApiError {
    pub(super) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    pub(super) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Our fault: the log gets the cause, the user does not.
    pub(super) fn internal(cause: &dyn std::error::Error) -> Self {
        error!("a request failed: {}", chain(cause));
        Self::new(ProblemCode::Internal, "the control plane could not do this; its log says why")
    }

    pub(super) fn storage_full() -> Self {
        warn!("the disk is full: a request was refused");
        Self::new(
            ProblemCode::StorageFull,
            "the disk of the control plane is full, so nothing was changed and what ran goes on; make room and try again",
        )
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        *error.0
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::storage_full(),
            StoreError::Taken => {
                Self::new(ProblemCode::AlreadyExists, "somebody else made the same thing just now")
            }
            StoreError::NotKept(ref cause) => {
                tracing::error!("{error}: {cause}");
                Self::new(ProblemCode::Unavailable, error.to_string())
            }
            error => Self::internal(&error),
        }
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl From<OperationError> for ApiError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Problem(problem) => problem.into(),
            OperationError::Store(error) => error.into(),
        }
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::storage_full(),
            _ => Self::internal(&error),
        }
    }
}

impl From<PutError> for ApiError {
    fn from(error: PutError) -> Self {
        let code = match &error {
            PutError::TooLarge => ProblemCode::TooLarge,
            PutError::Mismatch { .. } => ProblemCode::DigestMismatch,
            PutError::Invalid(_) => ProblemCode::InvalidArtifact,
            PutError::Upload(_) | PutError::Slow => ProblemCode::InvalidRequest,
            PutError::Write(_) => {
                let PutError::Write(source) = error else { return Self::internal(&error) };
                return source.into();
            }
        };
        Self::new(code, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self.0)).into_response();
        response.extensions_mut().insert(Refusal(Arc::from(self.0)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

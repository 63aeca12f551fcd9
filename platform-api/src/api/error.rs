//! How errors leave the API.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tracing::{error, warn};
use wharf_types::Problem;
use wharf_types::problem::ProblemCode;

use super::audit::Refusal;
use crate::artifacts::{ArtifactError, BucketError, PutError};
use crate::operations::OperationError;
use crate::reconcile::chain;
use crate::store::StoreError;

/// A database that is started again, or a leader that is followed by another, takes about as long.
const RETRY_AFTER_SECS: u32 = 2;

pub(super) type ApiResult<T> = Result<T, ApiError>;

/// A problem on its way out, as `application/problem+json`.
#[derive(Debug)]
pub(super) struct ApiError {
    problem: Box<Problem>,
    /// After how many seconds the same may succeed, where nobody has to change anything.
    retry_after_secs: Option<u32>,
}

impl ApiError {
    pub(super) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    pub(super) fn detail(&self) -> &str {
        &self.problem.detail
    }

    pub(super) fn status(&self) -> u16 {
        self.problem.status
    }

    /// Our fault: the log gets the cause, the user does not.
    pub(super) fn internal(cause: &dyn std::error::Error) -> Self {
        error!("a request failed: {}", chain(cause));
        Self::new(ProblemCode::Internal, "the control plane could not do this; its log says why")
    }

    /// It passes by itself.
    fn for_now(cause: &StoreError, detail: &str) -> Self {
        warn!("a request was refused: {}", chain(cause));
        Self::unavailable(detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self { retry_after_secs: Some(RETRY_AFTER_SECS), ..Self::new(ProblemCode::Unavailable, detail) }
    }

    /// There are too many at once; the same will be taken after so long.
    pub(super) fn busy(detail: impl Into<String>, wait: Duration) -> Self {
        let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let retry_after_secs = Some(u32::try_from(secs).unwrap_or(u32::MAX));
        Self { retry_after_secs, ..Self::new(ProblemCode::Busy, detail) }
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
        Self { problem: Box::new(problem), retry_after_secs: None }
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        *error.problem
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::storage_full(),
            StoreError::Taken => {
                Self::new(ProblemCode::AlreadyExists, "somebody else made the same thing just now")
            }
            StoreError::Repeated => Self::new(
                ProblemCode::Conflict,
                "a request with this Idempotency-Key was carried out just now",
            ),
            StoreError::NotKept(ref cause) => {
                tracing::error!("{error}: {cause}");
                Self::new(ProblemCode::Unavailable, error.to_string())
            }
            StoreError::Away(_) => Self::for_now(
                &error,
                "the database of the control plane does not answer, so nothing was changed and what runs goes on; try again",
            ),
            StoreError::InDoubt(_) => Self::for_now(
                &error,
                "the database went away while this was written, so it may or may not have been; look, and try again if it was not",
            ),
            StoreError::Deposed => Self::for_now(
                &error,
                "this control plane does not lead, or no longer; ask the one that does, or try again",
            ),
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

impl From<ArtifactError> for ApiError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Disk(error) => error.into(),
            ArtifactError::Bucket(error) => error.into(),
        }
    }
}

/// What runs does not need the storage, so nobody is to be alarmed; but somebody has to look at it.
impl From<BucketError> for ApiError {
    fn from(error: BucketError) -> Self {
        warn!("a request was refused: {}", chain(&error));
        Self::unavailable(format!("{error}. Nothing was changed, and what runs goes on"))
    }
}

impl From<PutError> for ApiError {
    fn from(error: PutError) -> Self {
        let code = match &error {
            PutError::TooLarge { .. } => ProblemCode::TooLarge,
            PutError::Mismatch { .. } => ProblemCode::DigestMismatch,
            PutError::Invalid(_) => ProblemCode::InvalidArtifact,
            PutError::Upload(_) | PutError::Slow => ProblemCode::InvalidRequest,
            PutError::Write(_) | PutError::Bucket(_) => {
                return match error {
                    PutError::Write(source) => source.into(),
                    PutError::Bucket(source) => source.into(),
                    error => Self::internal(&error),
                };
            }
        };
        Self::new(code, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self.problem)).into_response();
        response.extensions_mut().insert(Refusal(Arc::from(self.problem)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

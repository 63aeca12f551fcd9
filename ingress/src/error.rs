//! The errors that the ingress makes itself. A guest's own 404 or 500 passes unchanged and is none of them.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use wharf_types::{AppName, InstanceId, NamespaceName};

/// Stable: users search for it, and the guide has an entry for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BadRequest,
    HeaderTooLarge,
    UnknownHost,
    UnknownPath,
    BodyTooLarge,
    NotImplemented,
    GuestFailed,
    NoReadyInstance,
    Busy,
    GuestTimeout,
    RateLimited,
    AppStopped,
    Waking,
    NodeLost,
    Starting,
    QuotaReached,
}

impl ErrorCode {
    pub const ALL: [Self; 16] = [
        Self::BadRequest,
        Self::HeaderTooLarge,
        Self::UnknownHost,
        Self::UnknownPath,
        Self::BodyTooLarge,
        Self::NotImplemented,
        Self::GuestFailed,
        Self::NoReadyInstance,
        Self::Busy,
        Self::GuestTimeout,
        Self::RateLimited,
        Self::AppStopped,
        Self::Waking,
        Self::NodeLost,
        Self::Starting,
        Self::QuotaReached,
    ];

    /// The value of the header `x-wharf-error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::HeaderTooLarge => "header_too_large",
            Self::UnknownHost => "unknown_host",
            Self::UnknownPath => "unknown_path",
            Self::BodyTooLarge => "body_too_large",
            Self::NotImplemented => "not_implemented",
            Self::GuestFailed => "guest_failed",
            Self::NoReadyInstance => "no_ready_instance",
            Self::Busy => "busy",
            Self::GuestTimeout => "guest_timeout",
            Self::RateLimited => "rate_limited",
            Self::AppStopped => "app_stopped",
            Self::Waking => "waking",
            Self::NodeLost => "node_lost",
            Self::Starting => "starting",
            Self::QuotaReached => "quota_reached",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnknownHost | Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::GuestFailed | Self::NodeLost => StatusCode::BAD_GATEWAY,
            Self::NoReadyInstance
            | Self::Busy
            | Self::AppStopped
            | Self::Waking
            | Self::Starting
            | Self::QuotaReached => StatusCode::SERVICE_UNAVAILABLE,
            Self::GuestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::NoReadyInstance
                | Self::Busy
                | Self::RateLimited
                | Self::Waking
                | Self::Starting
                | Self::QuotaReached
        )
    }

    /// One sentence for the client, which says nothing about the guest's inside.
    pub fn message(self) -> &'static str {
        match self {
            Self::BadRequest => "The request is not valid HTTP.",
            Self::HeaderTooLarge => "The request has too many header fields.",
            Self::UnknownHost => "No app has this hostname.",
            Self::UnknownPath => "No app of this hostname has this path.",
            Self::BodyTooLarge => "The request body is larger than the app accepts.",
            Self::NotImplemented => "What was asked for is not offered here.",
            Self::GuestFailed => "The app failed before it answered.",
            Self::NoReadyInstance => "The app has no instance that is ready. Try again in a moment.",
            Self::Busy => "The app is busy. Try again in a moment.",
            Self::GuestTimeout => "The app did not answer in time.",
            Self::RateLimited => "Too many requests. Try again in a moment.",
            Self::AppStopped => "The app is stopped.",
            Self::Waking => "The app was asleep and is not awake yet. Try again in a moment.",
            Self::NodeLost => {
                "The connection to the app broke before it answered. It may have done what was asked."
            }
            Self::Starting => "This host has just started and knows no apps yet. Try again in a moment.",
            Self::QuotaReached => {
                "The apps of this namespace use as much memory or CPU time of this host as their quota allows. Try again in a moment."
            }
        }
    }
}

/// One error with what is known about the request; for the app's log, not for the client.
#[derive(Clone, Debug)]
pub struct IngressError {
    pub code: ErrorCode,
    /// None: no route was found, so it is nobody's.
    pub namespace: Option<NamespaceName>,
    pub app: Option<AppName>,
    /// The instance that was asked last.
    pub instance: Option<InstanceId>,
    pub method: Method,
    /// As the client wrote it, and not checked.
    pub host: Option<String>,
    /// Without the query, which may hold secrets.
    pub path: String,
    pub remote: SocketAddr,
    pub request_id: String,
    /// What went wrong inside, where it is known.
    pub detail: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_are_client_or_server_errors() {
        for (i, code) in ErrorCode::ALL.iter().enumerate() {
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(ErrorCode::ALL[..i].iter().all(|other| other.as_str() != code.as_str()));
            assert_eq!(ErrorCode::ALL[i] as usize, i, "the counters are indexed by the position");
        }
    }
}

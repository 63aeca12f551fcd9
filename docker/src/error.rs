//! Why the engine did not do what it was asked.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bollard::errors::Error as ClientError;

/// The oldest API that has all that is used here.
pub(crate) const OLDEST_API: &str = "1.41";

/// A call to the engine that failed. `doing` says which, as in "could not …".
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no Docker engine answers at {socket}: start it, or install it", socket = socket.display())]
    Absent {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "this user may not use the Docker engine at {socket}: run the worker as root or as a member of the group that owns the socket",
        socket = socket.display()
    )]
    NotPermitted { socket: PathBuf },
    #[error(
        "the Docker engine is of version {version} with API {api}, and API {OLDEST_API} is needed: install Docker 20.10 or later"
    )]
    TooOld { version: String, api: String },
    #[error("could not {doing}: the Docker engine did not answer within {limit:?}")]
    Silent { doing: &'static str, limit: Duration },
    #[error("could not {doing}: the Docker engine broke off, so it ends or has ended")]
    BrokeOff {
        doing: &'static str,
        #[source]
        source: Box<ClientError>,
    },
    #[error("could not {doing}: {message}")]
    NotFound { doing: &'static str, message: String },
    #[error("could not {doing}: the Docker engine's disk is full: {message}")]
    DiskFull { doing: &'static str, message: String },
    #[error("could not {doing}: the Docker engine answered {status}: {message}")]
    Refused { doing: &'static str, status: u16, message: String },
    #[error("could not {doing}: the Docker engine's answer is not understood")]
    Answer {
        doing: &'static str,
        #[source]
        source: Box<ClientError>,
    },
}

/// How much of what the engine says is repeated.
const MESSAGE_MAX_CHARS: usize = 600;

impl EngineError {
    /// Whether the same call may succeed later without anyone changing what was asked for.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Absent { .. } | Self::Silent { .. } | Self::BrokeOff { .. } | Self::DiskFull { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::NotPermitted { .. } | Self::TooOld { .. } | Self::NotFound { .. } | Self::Answer { .. } => {
                false
            }
        }
    }

    /// Whether it is the engine that is away, rather than what was asked for.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::Silent { .. } | Self::BrokeOff { .. })
    }

    pub(crate) fn of(doing: &'static str, socket: &std::path::Path, error: ClientError) -> Self {
        match error {
            ClientError::DockerResponseServerError { status_code, message } => {
                Self::refused(doing, status_code, &message)
            }
            // In the middle of a stream there is no status any more.
            ClientError::DockerStreamError { error } => Self::refused(doing, 500, &error),
            ClientError::SocketNotFoundError(_) => {
                Self::Absent { socket: socket.to_owned(), source: io::ErrorKind::NotFound.into() }
            }
            ClientError::JsonDataError { .. }
            | ClientError::JsonSerdeError { .. }
            | ClientError::StrParseError { .. }
            | ClientError::APIVersionParseError {} => Self::Answer { doing, source: Box::new(error) },
            error => match connecting(&error) {
                Some(io::ErrorKind::PermissionDenied) => Self::NotPermitted { socket: socket.to_owned() },
                Some(kind) => Self::Absent { socket: socket.to_owned(), source: kind.into() },
                None => Self::BrokeOff { doing, source: Box::new(error) },
            },
        }
    }

    pub(crate) fn refused(doing: &'static str, status: u16, message: &str) -> Self {
        let message = bounded(message);
        match status {
            _ if message.contains("no space left on device") => Self::DiskFull { doing, message },
            404 => Self::NotFound { doing, message },
            _ => Self::Refused { doing, status, message },
        }
    }
}

pub(crate) fn bounded(message: &str) -> String {
    message.trim().chars().take(MESSAGE_MAX_CHARS).collect()
}

/// Why there is no connection, if that is what is wrong.
fn connecting(error: &ClientError) -> Option<io::ErrorKind> {
    let ClientError::HyperLegacyError { err } = error else { return None };
    if !err.is_connect() {
        return None;
    }
    let mut source = err.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        source = error.source();
    }
    Some(io::ErrorKind::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_answers_is_told_apart() {
        let of = |status, message| EngineError::refused("start the container", status, message);
        assert!(matches!(of(404, "No such container: a"), EngineError::NotFound { .. }));
        assert!(matches!(of(400, "bad"), EngineError::Refused { status: 400, .. }));
        let full = of(500, "write /var/lib/docker/tmp/x: no space left on device");
        assert!(matches!(full, EngineError::DiskFull { .. }));
        assert!(full.is_retryable() && of(500, "").is_retryable() && !of(409, "").is_retryable());
    }

    #[test]
    fn an_endless_message_is_cut() {
        let error = EngineError::refused("pull the image", 500, &"x".repeat(1 << 20));
        assert!(error.to_string().len() < 1000);
    }
}

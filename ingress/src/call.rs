//! The seam to the guests of this node.

use std::net::SocketAddr;

use wharf_types::InstanceId;

use crate::request_body::RequestBody;

/// One request to a local instance.
///
/// The URI is absolute, as `wasi:http` wants it, and the `Host` header says the same.
#[derive(Debug)]
pub struct LocalCall {
    pub instance: InstanceId,
    pub request: http::Request<RequestBody>,
    /// The peer of the connection.
    pub remote: SocketAddr,
}

/// Why a local instance gave no response head.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing of that name runs here. The request comes back untouched, for another instance.
    #[error("the instance is not on this node")]
    NotHere(Box<http::Request<RequestBody>>),
    /// Everything that could take the request is taken. The request comes back where it is untouched.
    #[error("the instance takes no more requests at the moment")]
    Busy(Option<Box<http::Request<RequestBody>>>),
    /// The apps of its namespace use as much of this node as their quota allows, and the guest has not begun. The text says of what; it is for the
    /// app's log.
    #[error("the quota of the namespace is used up: {0}")]
    OverQuota(String),
    /// It computed or waited for longer than its limits allow. The text says which; it is for the app's log and never for the client.
    #[error("the guest did not answer in time: {0}")]
    Timeout(String),
    /// The guest trapped, or ended without an answer. The text is for the app's log and never for the client.
    #[error("the guest failed: {0}")]
    Failed(String),
    #[error("the request body is larger than the app accepts")]
    BodyTooLarge,
    /// The text is shown to the client.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// Nobody is left to answer to.
    #[error("the client went away")]
    ClientGone,
}

//! The cluster's own certificates: a CA made at the first start, a certificate of a day for each node, and TLS that asks for them.
//!
//! A certificate says who a node is and what it may be, as a URI in its subject alternative names: `wharf://ROLE/NODE`. Addresses are in none:
//! hosts change theirs, and what counts is which node answers. Everything here is a function of its arguments; keeping, sending and renewing
//! certificates is up to others.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod authority;
mod identity;
mod peer;
mod tls;
mod token;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use authority::{Authority, CA_LIFETIME, NODE_LIFETIME, key_of};
pub use identity::{Identity, NodeKey, renew_at};
pub use peer::{Peer, Role, peer_of};
pub use tls::{Roots, client_config, joining_config, server_config};
pub use token::{InvalidJoinToken, JoinToken, Pin, bundle_tag, pins};

/// Why a key or certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("a certificate or its key cannot be made")]
    Make(#[source] rcgen::Error),
    #[error(
        "the request for a certificate is not valid: it must be PKCS #10 in PEM, signed with its own key"
    )]
    Request(#[source] rcgen::Error),
    #[error("this is no certificate in PEM: {0}")]
    Pem(String),
    #[error("the key is not that of the certificate")]
    OtherKey,
    #[error("the certificate cannot be used for TLS")]
    Tls(#[from] rustls::Error),
    #[error("{0} is out of the range of a certificate's dates")]
    Date(jiff::Timestamp),
}

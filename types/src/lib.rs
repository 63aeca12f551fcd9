//! The words that Wharf's processes share: ids, specs, states and wire structures.
//!
//! Nothing here does I/O. A type stands here because at least two crates, or two sides of a wire,
//! must mean the same by it; whatever only one crate needs stays in that crate.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod id;
pub mod name;

pub mod digest;
pub mod quantity;
pub mod secret;
pub mod world;

pub mod declare;
pub mod manifest;
pub mod spec;
pub mod state;

pub mod api;
pub mod archive;
pub mod event;
pub mod figures;
pub mod keyvalue;
pub mod log;
pub mod node;
pub mod problem;
pub mod route;

pub use digest::Digest;
pub use id::{
    AppId, InstanceId, NamespaceId, NodeId, ReleaseId, RolloutId, SecretVersionId, TokenId, VolumeId,
};
pub use jiff::Timestamp;
pub use name::{AppName, NamespaceName, SecretName, SetName, VolumeName};
pub use problem::Problem;

//! The words that Wharf's processes share: ids, specs, states and wire structures.
//!
//! Nothing here does I/O. A type stands here because at least two crates, or two sides of a wire,
//! must mean the same by it; whatever only one crate needs stays in that crate.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod id;
pub mod name;

pub mod digest;
pub mod image;
pub mod quantity;
pub mod secret;
pub mod world;

pub mod declare;
pub mod delta;
pub mod manifest;
pub mod spec;
pub mod state;

pub mod api;
pub mod archive;
pub mod copy;
pub mod event;
pub mod exec;
pub mod figures;
pub mod incarnation;
pub mod job;
pub mod keyvalue;
pub mod log;
pub mod node;
pub mod problem;
pub mod protocol;
pub mod rate;
pub mod requests;
pub mod route;
pub mod schedule;
pub mod seldom;
pub mod suggest;
pub mod transfer;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use digest::Digest;
pub use id::{
    AppId, BuildId, ExecId, InstanceId, JobId, NamespaceId, NodeId, ProcessId, ReleaseId, RolloutId,
    ScheduleId, SecretVersionId, TokenId, UserId, VolumeId,
};
pub use jiff::Timestamp;
pub use name::{AppName, JobName, NamespaceName, ScheduleName, SecretName, SetName, UserName, VolumeName};
pub use problem::Problem;

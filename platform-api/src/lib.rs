//! Wharf's control plane: HTTP API, store, scheduler and reconcilers.
//!
//! Start reading at [`ControlPlane`]. A handler in `api` checks a request and calls an operation in `operations`, which is
//! one transaction over the `store`; `reconcile` then carries out what the pure planner in [`plan`] finds to do, and publishes
//! assignments that workers follow.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod backup;
mod control_plane;
mod data_dir;

mod api;
mod leader;
mod operations;
mod reconcile;

pub mod plan;

#[doc(hidden)]
pub mod cores;

mod access;
mod admission;
mod audit;
mod authority;
mod clock;
mod conditions;
mod context;
mod execs;
mod forward;
mod git;
mod images;
mod metrics;
mod nodes;
mod pace;
mod quota;
mod view;

mod artifacts;
mod inspect;
mod intake;
mod known;
mod ledger;
mod listener;
mod logs;
mod secrets;
mod store;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod tests;

pub use artifacts::{
    ArtifactsAt, BucketAt, BucketError, BucketUrl, IMAGE_ARCHIVE_MOST_BYTES, IMAGE_ARCHIVE_USUAL_BYTES,
    NotABucketUrl, artifact_file,
};
pub use authority::{AuthorityError, Lost};
pub use backup::{BackupError, Keys, Progress, Summary, backup, migrate_store, restore};
pub use control_plane::{Config, ControlPlane, LeaderUnknown};
pub use data_dir::OpenError;
pub use git::{BUILD_CACHES, Deployer, Deployment, NotDeployed, PreviewPart, Pushed, Runs, Secret, Teller};
pub use images::{ImageResolver, NotResolved};
pub use secrets::SecretKeySource;
pub use store::{Database, NotAPostgresUrl, PostgresUrl};

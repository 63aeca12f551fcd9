//! From a folder of sources to an artifact.
//!
//! [`detect`] says what kind of project a tree is and how it is built; it runs nothing and reads only the tree. [`run`] builds it: of strangers in a
//! [`Sandbox`] that keeps the build from everything else on the machine, of a user on the user's own machine as the user. What becomes of
//! the artifact is up to others.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod context;
mod detect;
mod dockerfile;
mod rust;
mod tree;

mod cache;
mod disk;
mod plan;
mod run;
mod sandbox;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use cache::CacheUse;
pub use context::{ContextError, context_files};
pub use detect::{
    ARTIFACT_FOLDERS, Artifact, CargoBuild, CargoTarget, ComposeRank, Containers, DetectError, Detection,
    Kind, Language, Recipe, Steps, compose_file, detect, detect_with,
};
pub use disk::remove_tree;
pub use dockerfile::{AtLine, Dockerfile, DockerfileError};
pub use plan::{BuildLimits, BuildPlan, Network};
pub use run::{ArtifactError, BuildFailed, Built, FailReason, Limit, Output, TooMuch, find_pushed, run};
pub use rust::{NoRust, RustFacts, RustWay, sysroot};
pub use sandbox::{
    Bound, CgroupVersion, Confined, Enforced, Isolation, Sandbox, SandboxSettings, Toolchain, UidRange,
    Unavailable,
};
pub use tree::{Entry, EntryKind, Folder, Listing, Tree, Unreadable};

//! From a folder of sources to an artifact.
//!
//! [`detect`] says what kind of project a tree is and how it is built; it runs nothing and reads only the tree. [`run`] builds it: of strangers in a
//! [`Sandbox`] that keeps the build from everything else on the machine, of a user on the user's own machine as the user. What becomes of
//! the artifact is up to others.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod detect;
mod rust;
mod tree;

pub use detect::{
    ARTIFACT_FOLDERS, Artifact, CargoBuild, CargoTarget, Containers, DetectError, Detection, Kind, Language,
    Recipe, Steps, detect,
};
pub use rust::{NoRust, RustFacts, RustWay, sysroot};
pub use tree::{Entry, EntryKind, Folder, Listing, Tree, Unreadable};

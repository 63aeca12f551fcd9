//! Compose files: read as they are, and made into resources of Wharf.
//!
//! [`load()`] makes one resolved [`Project`] of files; [`translate()`] makes apps and values of that, in the order in which they are
//! deployed. Both are functions of their arguments: files come through a [`Reader`]. No key of the Compose Specification is passed over: each is
//! honoured, translated with a notice, or refused with its place and the reason, as the table in [`keys`] says.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod check;
mod config;
mod env_file;
mod interpolate;
pub mod keys;
mod load;
mod merge;
pub mod model;
mod node;
mod paths;
mod problem;
mod project;
mod quantity;
mod shape;
mod short;
pub mod translate;
mod words;
mod yaml;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod tests;

pub use interpolate::Variables;
pub use load::{Reader, load};
pub use node::{Node, Place};
pub use problem::{Notice, Problem, Problems};
pub use project::Project;
pub use translate::{Context, Translation, translate};

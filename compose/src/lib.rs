//! Compose files: read as they are, and made into resources of Wharf.
//!
//! [`load()`] makes one resolved [`Project`] of files; [`translate()`] makes apps and values of that, in the order in which they are
//! deployed. [`read`] and [`translate_all`] do the same, and go on with the services in which nothing is wrong, so that everything is told at once.
//! All are functions of their arguments: files come through a [`Reader`]. No key of the Compose Specification is passed over: each is
//! honoured, translated with a notice, or refused with its place and the reason, as the table in [`keys`] says.
//!
//! What is not about compose files alone serves other files that are taken in the same way: [`yaml`] reads a text into a tree of [`node`]s with
//! places, [`shape`] compares it with a table of [`keys`], and [`write`] prints one.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod builds;
mod check;
mod config;
mod env_file;
mod faulty;
mod interpolate;
pub mod keys;
mod load;
mod merge;
pub mod model;
pub mod node;
mod paths;
pub mod problem;
mod project;
mod quantity;
pub mod shape;
mod short;
pub mod translate;
mod words;
pub mod write;
pub mod yaml;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod tests;

pub use builds::Build;
pub use interpolate::Variables;
pub use load::{Reader, load, read};
pub use node::{Node, Place};
pub use problem::{Notice, Problem, Problems};
pub use project::Project;
pub use translate::{Context, Translation, components, translate, translate_all};

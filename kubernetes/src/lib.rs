//! Manifests of Kubernetes, made into declarative files of Wharf.
//!
//! [`import`] is a function of its arguments. No field of a manifest is passed over: each is honoured, translated with a notice, or refused with
//! its place and the reason, as the tables in [`keys`] say. What something was refused of is left out of the text, so that what is applied is
//! what was meant. Values of Secrets are in nothing that comes out.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod finding;
pub mod keys;
mod kind;

mod at;
mod read;
mod review;

mod import;

mod app;
mod batch;
mod claims;
mod ingress;
mod labels;
mod mounts;
mod placement;
mod probes;
mod quantity;
mod resources;
mod security;
mod service;
mod shell;
mod update;
mod values;
mod variables;
mod workload;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod tests;

pub use finding::{Finding, Level};
pub use import::{Import, import};
pub use read::Source;

//! Wharf's worker: runs what the control plane assigns to this node.
//!
//! [`session`] brings assignments, [`supervisor`] keeps their instances running over the [`backend`] seam, and [`wasm`]
//! executes them. What guests print goes through [`logs`].

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod session;
pub mod supervisor;

pub mod backend;
pub mod backoff;
pub mod health;

pub mod componentize;
pub mod container;
pub mod wasm;

#[doc(hidden)]
pub mod cores;

pub mod artifacts;
pub mod control;
mod drain;
pub mod logs;
pub mod machine;
pub mod orders;
mod probe;
pub mod reach;
pub mod secrets;
pub mod space;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

#[cfg(test)]
pub(crate) mod fake;

//! Everything of this crate with a real engine. Each test has a platform of its own, and takes away what it made.
//!
//! `WHARF_TEST_DOCKER` is the engine's socket, or `off` for no tests at all. Some start a second engine, which takes root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archive;
mod daemon;
mod registry;
mod support;

mod builds;
mod containers;
mod copies;
mod hostile;
mod images;
mod lost;
mod measure;
mod networks;
mod pulls;
mod streams;

//! The system's git as the client of a real server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod common;
mod server;

mod away;
mod checkouts;
mod fetching;
mod hostile;
mod pushing;
mod repositories;

pub(crate) use common::{eventually, noise, within};

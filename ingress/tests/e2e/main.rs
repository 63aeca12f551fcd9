//! The ingress with real sockets and an instance made of a few lines, which does what a request's path says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connections;
mod errors;
mod fixture;
mod forwarding;
mod mesh;
mod peers;
mod peers_artifacts;
mod peers_broken;
mod peers_tcp;
mod routing;
mod starting;
mod tcp;
mod upgrades;
mod waking;

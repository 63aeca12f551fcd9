//! What the guests of the voting app share: votes, and the servers that keep them on their way.
//!
//! A vote goes from `vote` into the queue (Redis), and from there by `worker` into the tables (PostgreSQL), where `result` counts it.
//! Each step may be repeated: a vote has an id, and what arrives twice under the same id counts once.
//!
//! Both clients have the few calls that this app makes. A connection on which a call has failed is not used again, because
//! nobody knows what is still on its way there; who called makes a new one and repeats the step.

pub mod vote;

pub mod postgres;
pub mod queue;
pub mod resp;
pub mod tables;

pub mod error;
pub mod html;
pub mod pace;
pub mod wire;

pub use error::{Error, Result};

/// A variable of the guest, or what it is without one.
pub fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

//! Real builds in a real sandbox, most of them hostile.
//!
//! They need bubblewrap. On a machine that has none `WHARF_TEST_BWRAP=off` leaves them out; without that they fail and say so. Run by root,
//! they are run once more by an ordinary user, for whom the sandbox is made in another way.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cargo;
mod hostile;
mod isolation;
mod languages;
mod ordinary_user;
mod support;
mod unconfined;

//! The system's git as the client of a real server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod server;

mod fetching;
mod pushing;

use std::time::Duration;

/// Nothing here takes so long, on the slowest machine.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("it takes too long")
}

/// Octets that do not compress.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

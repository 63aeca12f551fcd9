//! What a client may use of this host.

use std::time::Duration;

/// Limits of pushes and fetches. One push at a time in a repository is up to the caller, who has to order deploys anyway.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Octets of the pack of one push. Default 1 GiB.
    pub pack_max_bytes: u64,
    /// Objects in the pack of one push. Default 1,000,000.
    pub objects_max: u32,
    /// Refs that one push may change. Default 10,000.
    pub updates_max: usize,
    /// Octets that git may take for one object in memory. Large files that no other is a delta of are read in pieces instead, and may be
    /// larger; commits, folders and deltas may not. Default 256 MiB.
    pub object_memory_max_bytes: u64,
    /// How long a push may take until everything is here and checked. Default 10 minutes.
    pub receive: Duration,
    /// How long a client may send nothing, or take nothing. Default 60 s.
    pub stall: Duration,
    /// How long git may take to move the refs once a push was accepted. Default 5 minutes.
    pub settle: Duration,
    /// How long a clone or fetch may take. Default 30 minutes.
    pub fetch: Duration,
    /// Octets of what a client sends to fetch, unpacked. Default 16 MiB.
    pub fetch_request_max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pack_max_bytes: 1 << 30,
            objects_max: 1_000_000,
            updates_max: 10_000,
            object_memory_max_bytes: 256 << 20,
            receive: Duration::from_secs(600),
            stall: Duration::from_secs(60),
            settle: Duration::from_secs(300),
            fetch: Duration::from_secs(1800),
            fetch_request_max_bytes: 16 << 20,
        }
    }
}

/// Limits of what is written to a folder.
#[derive(Clone, Debug)]
pub struct CheckoutLimits {
    /// Files and symbolic links. Default 200,000.
    pub files_max: u64,
    /// Octets of all files together. Default 2 GiB.
    pub total_max_bytes: u64,
    /// Octets of one file. Default 512 MiB.
    pub file_max_bytes: u64,
    /// Default 10 minutes.
    pub time: Duration,
}

impl Default for CheckoutLimits {
    fn default() -> Self {
        Self {
            files_max: 200_000,
            total_max_bytes: 2 << 30,
            file_max_bytes: 512 << 20,
            time: Duration::from_secs(600),
        }
    }
}

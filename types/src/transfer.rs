//! What a volume holds, on its way to or from an archive.
//!
//! It goes in the frames of [`crate::exec`]: of a backup the archive is stdout, of a restore stdin, and what people should know stderr. `Exit`
//! is the end of a whole archive that was written, or of one that was put in place; anything else is none.

use serde::{Deserialize, Serialize};

use crate::id::{ExecId, VolumeId};

/// What a worker is told of a transfer, one JSON document a line. It then comes for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferOrder {
    pub id: ExecId,
    pub volume: VolumeId,
    pub transfer: Transfer,
}

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Transfer {
    /// Out of the volume.
    Backup,
    /// Into it, in the place of what it holds.
    Restore {
        /// What it may hold, in octets.
        size_bytes: u64,
        owners: Owners,
    },
}

/// Whose the files are that come out of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owners {
    /// Those that the archive names, by their numbers: containers have users of their own.
    Kept,
    /// The worker's own user, who opens them for components.
    Worker,
}

/// What was put into a volume, as its worker says at the end, in JSON on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Files, folders and links.
    pub entries: u64,
    /// What they count in the volume, in octets.
    pub bytes: u64,
}

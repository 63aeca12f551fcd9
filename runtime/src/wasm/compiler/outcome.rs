//! How a process that compiles has ended, and what that means.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use wharf_types::Digest;
use wharf_types::node::ReasonKind;
use wharf_types::quantity::ByteSize;

use super::super::compile_child::{CompileLimits, FULL, REFUSED};
use crate::backend::Failure;

/// Why there is no code.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The disk has no room for it.
    Full,
    Failure(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// How a child ended, and whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Compiled,
    /// The artifact is invalid.
    Refused,
    /// The artifact takes more than the limits allow.
    TooMuch,
    /// The disk has no room for the result.
    Full,
    /// Something else, which the next attempt may not meet.
    Failed(String),
}

impl Outcome {
    pub(super) fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(0), _) => Self::Compiled,
            (Some(code), _) if code == i32::from(REFUSED) => Self::Refused,
            (Some(code), _) if code == i32::from(FULL) => Self::Full,
            // Out of memory aborts. SIGKILL is not here: the kernel sends it when the whole machine is short of memory.
            (_, Some(nix::libc::SIGXCPU | nix::libc::SIGXFSZ | nix::libc::SIGABRT)) => Self::TooMuch,
            _ => Self::Failed(status.to_string()),
        }
    }
}

pub(super) fn too_much(digest: Digest, limits: &CompileLimits) -> Failure {
    Failure::new(
        ReasonKind::Artifact,
        format!(
            "compiling {digest} takes more than {} s of CPU time ({} s in all), {} of memory or {} of result, which no artifact may; make its \
             functions smaller or leave some of it out",
            limits.cpu_max_secs,
            limits.wall_max.as_secs(),
            ByteSize::bytes(limits.address_space_max_bytes),
            ByteSize::bytes(limits.output_max_bytes)
        ),
    )
}

//! Containers, images and networks of a Docker engine, for the worker that runs apps in them.
//!
//! This crate knows the engine, and nothing of sessions, supervision or routes. What it makes carries the platform's labels, and
//! what does not carry them it never changes. It remembers nothing: whatever a worker has to know after it was killed is in the labels
//! of its containers, and every verb may be repeated.
//!
//! The client that is used here writes whatever it sends to the log at level debug, values of variables among it: whoever sets up logging has
//! to keep `bollard` above that.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod engine;
mod error;
mod labels;

mod archive;
mod build;
mod image;
mod pull;

mod container;
mod folder;
mod run;
mod secret_files;

mod network;

mod copy;
mod exec;
mod terminal;

mod found;
mod logs;
mod stats;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use archive::ArchiveError;
pub use build::{
    BuildNetwork, BuildOwner, BuiltImage, ImageBuild, ImageBuildError, ImageBuildLimits, SaveError,
};
pub use container::{Exit, RunError, Stopped};
pub use copy::{PathKind, PathLook};
pub use engine::{Engine, EngineInfo, Settings};
pub use error::EngineError;
pub use exec::{Command, Exec, ExecOutput, ExecProcess, Probe};
pub use found::{Found, FoundState};
pub use image::{Credentials, ImageConfig, ImageError, ImageHealth, ImageId, InvalidCredentials};
pub use labels::Owner;
pub use logs::{LogLine, LogMark};
pub use network::{Bridge, NetworkError, NetworkName};
pub use pull::PullProgress;
pub use run::{LogLimit, MemoryFile, NetworkJoin, Run, VolumeMount};
pub use stats::Usage;

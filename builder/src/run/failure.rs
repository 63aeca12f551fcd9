//! Why a build has failed, for whoever wanted it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use wharf_types::quantity::{ByteSize, Span};

use super::artifact::ArtifactError;

/// A build that has made no artifact.
#[derive(Debug)]
pub struct BuildFailed {
    pub reason: FailReason,
    /// What it printed last, without anything that does harm to a terminal.
    pub last_lines: Vec<String>,
    pub duration: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum FailReason {
    #[error("the build ended with exit code {0}")]
    ExitCode(i32),
    /// In the engine's own words, of an image that it was to build.
    #[error("the build failed: {0}")]
    Engine(String),
    #[error("the build was ended by signal {0}")]
    Signal(i32),
    #[error("the build was ended: {0}")]
    Limit(#[from] Limit),
    #[error("the build was cancelled")]
    Cancelled,
    #[error("the build succeeded, but {0}")]
    Artifact(#[from] ArtifactError),
    #[error("another build of this app is running: wait for it, or cancel it")]
    Busy,
    #[error("the folder of sources {} cannot be used", folder.display())]
    Tree {
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the sandbox could not be set up")]
    NotStarted,
    #[error("the build could not be carried out")]
    Platform(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The limit that a build has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    #[error("it took longer than {}", Span::from_millis(millis(*.0)))]
    WallClock(Duration),
    #[error("it used more than {} of CPU time", Span::from_millis(millis(*.0)))]
    Cpu(Duration),
    #[error("it used more than {} of memory", ByteSize::bytes(*.0))]
    Memory(u64),
    #[error("its files, with its cache, took more than {}", ByteSize::bytes(*.0))]
    Disk(u64),
    #[error("there was less than {} left on the disk", ByteSize::bytes(*.0))]
    DiskFree(u64),
    #[error("it made more than {0} files, with its cache")]
    Files(u64),
    #[error("it made a folder that cannot be measured: one too deep, or closed to its owner")]
    Unmeasurable,
    #[error("it printed more than {}", ByteSize::bytes(*.0))]
    Output(u64),
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl FailReason {
    /// Whether the sources have nothing to do with it, so that the same build may succeed elsewhere or later.
    pub fn is_platforms(&self) -> bool {
        match self {
            Self::Tree { .. } | Self::NotStarted | Self::Platform(_) | Self::Busy | Self::Cancelled => true,
            Self::Limit(limit) => matches!(limit, Limit::DiskFree(_)),
            Self::ExitCode(_) | Self::Engine(_) | Self::Signal(_) | Self::Artifact(_) => false,
        }
    }
}

impl fmt::Display for BuildFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if !self.last_lines.is_empty() {
            f.write_str(". It printed last:")?;
        }
        self.last_lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for BuildFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.reason.source()
    }
}

//! Runs a build to its end, and says what came of it.

mod artifact;
mod failure;
mod output;
mod prepare;
mod process;
mod watch;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

pub use self::artifact::{ArtifactError, find_pushed};
use self::artifact::{FoundArtifact, Owner, Places};
pub use self::failure::{BuildFailed, FailReason, Limit};
pub use self::output::{Output, TooMuch};
use self::prepare::{Prepared, confine, unconfined};
use self::process::{Exit, Process, Start};
use crate::cache::CacheUse;
use crate::plan::{BuildLimits, BuildPlan};
use crate::sandbox::{Enforced, Group, Sandbox};

/// What may be printed after all processes have ended: what is left in the pipe.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// What a build that was killed may take to be gone.
const END_MAX: Duration = Duration::from_secs(30);

/// A build that has made its artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// A regular file in the tree; of a user's own build, wherever the user says.
    pub artifact: PathBuf,
    pub artifact_bytes: u64,
    pub duration: Duration,
    /// Of all processes together. None: nobody counted.
    pub memory_peak_bytes: Option<u64>,
    pub cache: CacheUse,
    pub enforced: Enforced,
}

/// Runs a build. Each line that it prints goes to `on_line`, which must not wait.
///
/// All processes of a build in a sandbox have ended when this returns; when it is dropped they are killed.
///
/// # Errors
/// When there is no artifact in the end. See [`FailReason`].
pub async fn run(
    plan: &BuildPlan,
    sandbox: &Sandbox,
    on_line: &mut (dyn FnMut(&str) + Send),
    cancel: &CancellationToken,
) -> Result<Built, BuildFailed> {
    let since = Instant::now();
    let output = match sandbox {
        Sandbox::Confined(_) => Output::new(plan.limits.lines_max, plan.limits.output_max_bytes),
        // What users print on their own machine is up to them.
        Sandbox::Unconfined => Output::new(usize::MAX, u64::MAX),
    };
    let mut printed = Printed { reader: None, output, on_line };
    let built = build(plan, sandbox, &mut printed, cancel, since).await;
    built.map_err(|reason| BuildFailed {
        reason,
        last_lines: printed.output.into_last(),
        duration: since.elapsed(),
    })
}

async fn build(
    plan: &BuildPlan,
    sandbox: &Sandbox,
    printed: &mut Printed<'_>,
    cancel: &CancellationToken,
    since: Instant,
) -> Result<Built, FailReason> {
    let Some(command) = plan.steps.command.clone() else { return prebuilt(plan, sandbox, since) };
    let (copy, sandbox) = (plan.clone(), sandbox.clone());
    let prepared = blocking(move || match &sandbox {
        Sandbox::Confined(confined) => confine(&copy, confined, &command),
        Sandbox::Unconfined => unconfined(&copy, &command),
    });
    let Prepared { command, control, places, owner, written, cache, group, enforced } = prepared.await??;
    let (reader, command) = with_output(command).map_err(platform)?;
    printed.reader = Some(pipe::Receiver::from_owned_fd(reader).map_err(platform)?);
    let held = Box::new((cache.clone(), group.clone()));
    let process = Process::spawn(Start { command, control, held }).map_err(platform)?;
    let passes = passed_limit(plan.limits.clone(), owner, written.clone(), group.clone());
    let exit = follow(process, printed, passes, cancel).await?;
    let ran_out = group.as_ref().is_some_and(|group| group.ran_out_of_memory());
    verdict(exit, ran_out, &plan.limits, owner)?;
    let (copy, kept) = (plan.clone(), cache.clone());
    let found = blocking(move || {
        if owner == Owner::Stranger
            && let Some(limit) = watch::passed(&written, &copy.limits, None)
        {
            return Err(limit.into());
        }
        let found = places.find(&copy.steps.artifact, copy.limits.artifact_max_bytes, owner)?;
        let found = take_out(found).map_err(platform);
        // Held until here, because the next build of the app writes to the same folder.
        drop(kept);
        found
    });
    let found = found.await??;
    Ok(Built {
        artifact: found.path,
        artifact_bytes: found.bytes,
        duration: since.elapsed(),
        memory_peak_bytes: group.and_then(|group| group.memory_peak_bytes()),
        cache: cache.map_or(CacheUse::None, |cache| cache.found),
        enforced,
    })
}

fn prebuilt(plan: &BuildPlan, sandbox: &Sandbox, since: Instant) -> Result<Built, FailReason> {
    let owner = match sandbox {
        Sandbox::Confined(_) => Owner::Stranger,
        Sandbox::Unconfined => Owner::User,
    };
    let places = Places { tree: canonical(&plan.tree)?, kept: Vec::new() };
    let found = places.find(&plan.steps.artifact, plan.limits.artifact_max_bytes, owner)?;
    Ok(Built {
        artifact: found.path,
        artifact_bytes: found.bytes,
        duration: since.elapsed(),
        memory_peak_bytes: None,
        cache: CacheUse::None,
        enforced: Enforced::NOTHING,
    })
}

/// Lets a command print to a pipe: both streams to the same one, so that lines stay in order.
fn with_output(mut command: Command) -> io::Result<(OwnedFd, Command)> {
    let (reader, writer) = io::pipe()?;
    command
        .stdout(Stdio::from(OwnedFd::from(writer.try_clone()?)))
        .stderr(Stdio::from(OwnedFd::from(writer)));
    Ok((OwnedFd::from(reader), command))
}

/// The limit that a stranger's build passes, once it does.
async fn passed_limit(
    limits: BuildLimits,
    owner: Owner,
    written: Vec<PathBuf>,
    group: Option<Arc<Group>>,
) -> Limit {
    if owner == Owner::User {
        return std::future::pending().await;
    }
    let wall_max = limits.wall_max;
    tokio::select! {
        limit = watch::watch(written, limits, group) => limit,
        () = tokio::time::sleep(wall_max) => Limit::WallClock(wall_max),
    }
}

/// Waits for the end, and brings it about where a limit is passed or nobody wants it any more.
async fn follow(
    mut process: Process,
    printed: &mut Printed<'_>,
    passes: impl Future<Output = Limit>,
    cancel: &CancellationToken,
) -> Result<Exit, FailReason> {
    tokio::pin!(passes);
    let reason = tokio::select! {
        exit = &mut process.exit => {
            printed.drain().await;
            return exit.map_err(platform)?.map_err(platform);
        }
        () = cancel.cancelled() => FailReason::Cancelled,
        limit = &mut passes => limit.into(),
        limit = printed.read() => limit.into(),
    };
    process.kill();
    // Should this not be enough, all that the build has stays with the thread that keeps it.
    let _ = tokio::time::timeout(END_MAX, &mut process.exit).await;
    printed.drain().await;
    Err(reason)
}

/// What a build prints, on its way to whoever wants to read it.
struct Printed<'a> {
    reader: Option<pipe::Receiver>,
    output: Output,
    on_line: &'a mut (dyn FnMut(&str) + Send),
}

impl Printed<'_> {
    /// Reads for as long as it is not too much. Nothing is lost when this is dropped.
    async fn read(&mut self) -> Limit {
        let mut buffer = vec![0; 64 << 10];
        while let Some(reader) = &mut self.reader {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => self.reader = None,
                Ok(count) => {
                    if let Err(TooMuch { max_bytes }) = self.output.take(&buffer[..count], self.on_line) {
                        return Limit::Output(max_bytes);
                    }
                }
            }
        }
        std::future::pending().await
    }

    /// Reads what is left after the end. Of a user's own build something may live on and hold the pipe.
    async fn drain(&mut self) {
        let is_read = async {
            let mut buffer = vec![0; 64 << 10];
            while let Some(reader) = &mut self.reader
                && let Ok(count @ 1..) = reader.read(&mut buffer).await
                && self.output.take(&buffer[..count], self.on_line).is_ok()
            {}
        };
        let _ = tokio::time::timeout(DRAIN_MAX, is_read).await;
        self.output.finish(self.on_line);
    }
}

/// What a shell adds to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

fn verdict(
    exit: Exit,
    ran_out_of_memory: bool,
    limits: &BuildLimits,
    owner: Owner,
) -> Result<(), FailReason> {
    use nix::libc::{SIGXCPU, SIGXFSZ};
    match exit {
        Exit::Code(0) => Ok(()),
        _ if ran_out_of_memory => Err(Limit::Memory(limits.memory_max_bytes).into()),
        Exit::NotStarted => Err(FailReason::NotStarted),
        Exit::Code(code) if owner == Owner::Stranger && code == BY_SIGNAL + SIGXCPU => {
            Err(Limit::Cpu(limits.cpu_max).into())
        }
        Exit::Code(code) if owner == Owner::Stranger && code == BY_SIGNAL + SIGXFSZ => {
            Err(Limit::Disk(limits.disk_max_bytes).into())
        }
        Exit::Code(code) => Err(FailReason::ExitCode(code)),
        Exit::Signal(signal) => Err(FailReason::Signal(signal)),
    }
}

/// Copies an artifact from a kept folder to where the tree has it, in a folder that was empty before the build and hidden from it.
fn take_out(found: FoundArtifact) -> io::Result<FoundArtifact> {
    let Some(place) = found.kept_as else { return Ok(found) };
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::copy(&found.path, &place)?;
    Ok(FoundArtifact { path: place, bytes: found.bytes, kept_as: None })
}

fn canonical(tree: &Path) -> Result<PathBuf, FailReason> {
    let unusable = |source| FailReason::Tree { folder: tree.to_owned(), source };
    let canonical = tree.canonicalize().map_err(unusable)?;
    if canonical.is_dir() { Ok(canonical) } else { Err(unusable(io::ErrorKind::NotADirectory.into())) }
}

fn platform(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FailReason {
    FailReason::Platform(error.into())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FailReason> {
    tokio::task::spawn_blocking(work).await.map_err(platform)
}

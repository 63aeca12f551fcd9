//! Runs a build to its end, and says what came of it.

mod artifact;
mod failure;
mod output;
mod process;
mod watch;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

pub use self::artifact::ArtifactError;
use self::artifact::{FoundArtifact, Owner, Places};
pub use self::failure::{BuildFailed, FailReason, Limit};
use self::output::{Output, TooMuch};
use self::process::{Exit, Process, Start};
use crate::cache::{Cache, CacheError, CacheUse};
use crate::disk;
use crate::plan::{BuildLimits, BuildPlan, Network};
use crate::sandbox::{Confined, Control, Enforced, Group, HOME, Launch, Sandbox, View, mounts};

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
    let mut output = Output::new(plan.limits.lines_max, plan.limits.output_max_bytes);
    let built = match sandbox {
        Sandbox::Confined(_) => build(plan, sandbox, &mut output, on_line, cancel, since).await,
        Sandbox::Unconfined => {
            // What users print on their own machine is up to them.
            output = Output::new(usize::MAX, u64::MAX);
            build(plan, sandbox, &mut output, on_line, cancel, since).await
        }
    };
    let last_lines = || output.into_last();
    built.map_err(|reason| BuildFailed { reason, last_lines: last_lines(), duration: since.elapsed() })
}

/// A build that is ready to start.
struct Prepared {
    command: Command,
    control: Option<Control>,
    places: Places,
    owner: Owner,
    /// Folders that are watched.
    written: Vec<PathBuf>,
    cache: Option<Arc<Cache>>,
    group: Option<Arc<Group>>,
    enforced: Enforced,
}

async fn build(
    plan: &BuildPlan,
    sandbox: &Sandbox,
    output: &mut Output,
    on_line: &mut (dyn FnMut(&str) + Send),
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
    let mut reader = pipe::Receiver::from_owned_fd(reader).map_err(platform)?;
    let held = Box::new((cache.clone(), group.clone()));
    let start = Start { command, control, held };
    let mut process = Process::spawn(start).map_err(platform)?;
    let end = follow(
        plan,
        owner,
        &mut process,
        &mut reader,
        output,
        on_line,
        cancel,
        written.clone(),
        group.clone(),
    );
    let exit = end.await?;
    drain(&mut reader, output, on_line).await;
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
        // Held until here, because the next build of the app writes to the same folder.
        let found = take_out(found).map_err(platform);
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

fn unconfined(plan: &BuildPlan, shell_command: &str) -> Result<Prepared, FailReason> {
    let tree = canonical(&plan.tree)?;
    let mut command = Command::new("sh");
    command.args(["-c", shell_command]).current_dir(&tree).envs(&plan.env).stdin(Stdio::null());
    // The artifact would be elsewhere.
    command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
    // So that all that it starts can be ended together.
    command.process_group(0);
    Ok(Prepared {
        command,
        control: None,
        places: Places { tree, kept: Vec::new() },
        owner: Owner::User,
        written: Vec::new(),
        cache: None,
        group: None,
        enforced: Enforced::NOTHING,
    })
}

fn confine(plan: &BuildPlan, confined: &Confined, command: &str) -> Result<Prepared, FailReason> {
    let tree = canonical(&plan.tree)?;
    let unusable = |source| FailReason::Tree { folder: plan.tree.clone(), source };
    let uid = confined.uids.map(|uids| uids.of(plan.app));
    let limits = &plan.limits;
    let caches = &confined.settings.caches;
    let cache = Cache::open(caches, plan.app, uid, limits.cache_max_bytes, limits.files_max);
    let cache = cache.map_err(|error| match error {
        CacheError::Busy => FailReason::Busy,
        CacheError::Io { .. } => platform(error),
    })?;
    if let Some(uid) = uid {
        disk::hand_over(&tree, uid).map_err(unusable)?;
    }
    let kept = kept_folders(plan, &tree, &cache, uid).map_err(platform)?;
    let places = Places { tree: tree.clone(), kept };
    places.forget(&plan.steps.artifact).map_err(platform)?;
    let group =
        confined.cgroups.as_ref().map(|cgroups| cgroups.make(limits)).transpose().map_err(platform)?;
    let doors = group.as_ref().map(Group::doors).transpose().map_err(platform)?.unwrap_or_default();
    let view = View {
        system: confined.system.clone(),
        mounts: mounts(&confined.settings.toolchains, &tree, &cache.home(), &places.kept),
        network: plan.network,
        tmp_max_bytes: limits.tmp_max_bytes,
        env: environment(plan, confined),
    };
    let launch = Launch {
        bwrap: &confined.bwrap,
        view,
        command,
        uid,
        limits,
        bound_each_memory: !group.as_ref().is_some_and(Group::has_memory),
        doors,
    };
    let (command, control) = launch.prepare().map_err(platform)?;
    let mut written = vec![tree, cache.home()];
    written.extend(places.kept.iter().map(|(_, folder)| folder.clone()));
    Ok(Prepared {
        command,
        control: Some(control),
        places,
        owner: Owner::Stranger,
        written,
        cache: Some(Arc::new(cache)),
        group: group.map(Arc::new),
        enforced: confined.enforced(),
    })
}

/// Folders of the cache that stand in the place of folders of the tree. One that the tree has something in is left alone, because it may
/// be anything, such as a link that leads elsewhere.
fn kept_folders(
    plan: &BuildPlan,
    tree: &Path,
    cache: &Cache,
    uid: Option<u32>,
) -> io::Result<Vec<(String, PathBuf)>> {
    let mut kept = Vec::new();
    for name in &plan.steps.kept {
        let place = tree.join(name);
        let is_free = match std::fs::symlink_metadata(&place) {
            Ok(metadata) => metadata.is_dir() && std::fs::read_dir(&place)?.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let is_one_name = Path::new(name).components().count() == 1 && !name.contains("..");
        if is_free && is_one_name {
            kept.push((name.clone(), cache.kept(name, uid)?));
        }
    }
    Ok(kept)
}

fn environment(plan: &BuildPlan, confined: &Confined) -> Vec<(String, String)> {
    let mut path: Vec<String> = confined.settings.toolchains.iter().map(|it| it.path_entry()).collect();
    path.extend(["/usr/local/bin", "/usr/bin", "/bin"].map(str::to_owned));
    path.dedup();
    let in_home = |name: &str| format!("{HOME}/{name}");
    let mut env = vec![
        ("PATH", path.join(":")),
        ("HOME", HOME.to_owned()),
        ("USER", "build".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("TERM", "dumb".to_owned()),
        ("CI", "true".to_owned()),
        ("CARGO_HOME", in_home("cargo")),
        ("CARGO_TERM_COLOR", "never".to_owned()),
        ("PIP_CACHE_DIR", in_home("pip")),
        ("npm_config_cache", in_home("npm")),
    ];
    if plan.network == Network::None {
        env.push(("CARGO_NET_OFFLINE", "true".to_owned()));
    }
    let mut env: Vec<(String, String)> =
        env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    env.extend(plan.env.clone());
    env
}

/// Lets a command print to a pipe: both streams to the same one, so that lines stay in order.
fn with_output(mut command: Command) -> io::Result<(OwnedFd, Command)> {
    let (reader, writer) = io::pipe()?;
    command
        .stdout(Stdio::from(OwnedFd::from(writer.try_clone()?)))
        .stderr(Stdio::from(OwnedFd::from(writer)));
    Ok((OwnedFd::from(reader), command))
}

/// Waits for the end, and brings it about where a limit is passed.
#[allow(clippy::too_many_arguments, reason = "it is the inner part of one function")]
async fn follow(
    plan: &BuildPlan,
    owner: Owner,
    process: &mut Process,
    reader: &mut pipe::Receiver,
    output: &mut Output,
    on_line: &mut (dyn FnMut(&str) + Send),
    cancel: &CancellationToken,
    written: Vec<PathBuf>,
    group: Option<Arc<Group>>,
) -> Result<Exit, FailReason> {
    let limits = &plan.limits;
    let watched = async {
        match owner {
            Owner::User => std::future::pending().await,
            Owner::Stranger => tokio::select! {
                limit = watch::watch(written, limits.clone(), group.clone()) => limit,
                () = tokio::time::sleep(limits.wall_max) => Limit::WallClock(limits.wall_max),
            },
        }
    };
    tokio::pin!(watched);
    let mut buffer = vec![0; 64 << 10];
    let mut is_open = true;
    let reason = loop {
        tokio::select! {
            exit = &mut process.exit => return exit_of(exit),
            () = cancel.cancelled() => break FailReason::Cancelled,
            limit = &mut watched => break limit.into(),
            read = reader.read(&mut buffer), if is_open => match read {
                Ok(0) | Err(_) => is_open = false,
                Ok(count) => if let Err(TooMuch) = output.take(&buffer[..count], on_line) {
                    break Limit::Output(limits.output_max_bytes).into();
                },
            },
        }
    };
    process.kill();
    if let Some(group) = &group {
        group.kill();
    }
    // Everything it had goes with the thread that keeps it, should this not be enough.
    let _ = tokio::time::timeout(END_MAX, &mut process.exit).await;
    output.finish(on_line);
    Err(reason)
}

fn exit_of(
    exit: Result<io::Result<Exit>, tokio::sync::oneshot::error::RecvError>,
) -> Result<Exit, FailReason> {
    exit.map_err(platform)?.map_err(platform)
}

/// Reads what is left after the end.
async fn drain(reader: &mut pipe::Receiver, output: &mut Output, on_line: &mut (dyn FnMut(&str) + Send)) {
    let mut buffer = vec![0; 64 << 10];
    let read = async {
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            if output.take(&buffer[..count], on_line).is_err() {
                break;
            }
        }
    };
    // Of a user's own build something may live on and hold the pipe.
    let _ = tokio::time::timeout(DRAIN_MAX, read).await;
    output.finish(on_line);
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

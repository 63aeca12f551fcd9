//! Compiles artifacts, once, in a process of their own, and maps the results.
//!
//! Compiling a hostile module may take gigabytes and minutes, so neither worker nor control plane does it: a child process with
//! limits on address space, CPU time and file size reads the artifact from its stdin and writes machine code to a file.
//! Machine code is trusted when it is mapped, so each file has a keyed hash beside it, made with a key that only this
//! worker has; a file that was changed or came from elsewhere is compiled again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::resource::{Resource, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wasmtime::Engine;
use wasmtime::component::Component;
use wharf_types::Digest;
use wharf_types::node::ReasonKind;

use super::engine::{MEMORY_MAX_BYTES, Purpose, config};
use crate::backend::Failure;

/// First argument of the process that compiles, after the program's own name.
pub const CHILD_ARGUMENT: &str = "__compile";

/// Largest artifact in octets.
pub const ARTIFACT_MAX_BYTES: u64 = 256 << 20;

/// Bounds of one compilation.
const ADDRESS_SPACE_MAX_BYTES: u64 = 8 << 30;
const CPU_MAX_SECS: u64 = 120;
const OUTPUT_MAX_BYTES: u64 = 1 << 30;
const WALL_MAX: Duration = Duration::from_secs(120);

/// Exit code of the child for an artifact that it refuses; stderr says why.
const REFUSED: u8 = 10;

/// How to start the process that compiles.
#[derive(Clone, Debug)]
pub struct CompileCommand {
    pub program: PathBuf,
    pub args: Vec<String>,
}

impl CompileCommand {
    /// This program again, as it is now on disk or, after an upgrade, as it was when it started.
    pub fn this_program() -> Self {
        Self { program: "/proc/self/exe".into(), args: vec![CHILD_ARGUMENT.to_owned()] }
    }
}

/// Compiled artifacts in a folder, `ENGINE/DIGEST.cwasm`.
pub struct Compiler {
    engine: Engine,
    folder: PathBuf,
    key: [u8; 32],
    command: CompileCommand,
    /// One lock an artifact, so that it is compiled once however many instances wait for it.
    under_way: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// One compilation at a time: each uses all cores.
    turn: tokio::sync::Semaphore,
}

impl Compiler {
    /// `key` authenticates what is in `folder`; whoever has it can make this process run any code.
    pub fn new(
        engine: Engine,
        folder: &Path,
        key: [u8; 32],
        command: CompileCommand,
    ) -> std::io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let folder = folder.join(format!("{:016x}", hasher.finish()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            engine,
            folder,
            key,
            command,
            under_way: Mutex::default(),
            turn: tokio::sync::Semaphore::new(1),
        })
    }

    /// The compiled artifact; `fetch` is called for its bytes only if it has not been compiled before.
    pub async fn load<F>(&self, digest: Digest, fetch: impl FnOnce() -> F) -> Result<Component, Failure>
    where
        F: Future<Output = Result<Bytes, Failure>>,
    {
        if let Some(component) = self.map(digest).await? {
            return Ok(component);
        }
        let lock =
            self.under_way.lock().unwrap_or_else(PoisonError::into_inner).entry(digest).or_default().clone();
        let compiled = async {
            let _guard = lock.lock().await;
            // Somebody else may have compiled it meanwhile.
            if let Some(component) = self.map(digest).await? {
                return Ok(component);
            }
            let bytes = fetch().await?;
            self.compile(digest, &bytes).await?;
            let missing =
                || Failure::new(ReasonKind::Platform, format!("the compiled form of {digest} has vanished"));
            self.map(digest).await?.ok_or_else(missing)
        }
        .await;
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        compiled
    }

    fn file(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{}.cwasm", digest.hex()))
    }

    async fn map(&self, digest: Digest) -> Result<Option<Component>, Failure> {
        let (engine, file, key) = (self.engine.clone(), self.file(digest), self.key);
        let mapped = tokio::task::spawn_blocking(move || {
            let Ok(tag) = std::fs::read(file.with_extension("tag")) else { return Ok(None) };
            if !file.exists() {
                return Ok(None);
            }
            let found = keyed_hash(&key, &file)?;
            if tag != found.as_bytes() {
                tracing::warn!(file = %file.display(), "a compiled artifact was changed; it is compiled again");
                return Ok(None);
            }
            // SAFETY: the file was written by our own compiler process: its keyed hash says so, and the folder can be
            // written by this user only.
            let component = unsafe { Component::deserialize_file(&engine, &file) }.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(Some(component))
        })
        .await;
        match mapped {
            Ok(Ok(component)) => Ok(component),
            Ok(Err(error)) => Err(Failure::new(
                ReasonKind::Platform,
                format!("could not map the compiled form of {digest}: {error}"),
            )),
            Err(_) => {
                Err(Failure::new(ReasonKind::Platform, "mapping a compiled artifact failed on our side"))
            }
        }
    }

    async fn compile(&self, digest: Digest, artifact: &[u8]) -> Result<(), Failure> {
        let platform = |what: &str, error: std::io::Error| {
            Failure::new(ReasonKind::Platform, format!("could not {what} to compile {digest}: {error}"))
        };
        let _turn = self
            .turn
            .acquire()
            .await
            .map_err(|_| Failure::new(ReasonKind::Platform, "the worker is stopping"))?;
        let output = tempfile::Builder::new()
            .prefix("compiling-")
            .tempfile_in(&self.folder)
            .map_err(|error| platform("make a file", error))?
            .into_temp_path();
        let mut child = tokio::process::Command::new(&self.command.program)
            .args(&self.command.args)
            .arg(&output)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| platform("start a process", error))?;
        let stdin = child.stdin.take();
        let stderr = child.stderr.take();
        let work = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A child that refuses early does not read to the end; its exit code says why.
                    let _ = stdin.write_all(artifact).await;
                }
            };
            let listen = async {
                let mut said = Vec::new();
                if let Some(stderr) = stderr {
                    let _ = stderr.take(16 << 10).read_to_end(&mut said).await;
                }
                String::from_utf8_lossy(&said).trim().to_owned()
            };
            let ((), said, status) = tokio::join!(feed, listen, child.wait());
            (said, status)
        };
        let (said, status) = tokio::time::timeout(WALL_MAX, work).await.map_err(|_| too_much(digest))?;
        let status = status.map_err(|error| platform("wait for the process", error))?;
        match status.code() {
            Some(0) => {
                self.keep(digest, output).await.map_err(|error| platform("keep what was compiled", error))
            }
            Some(code) if code == i32::from(REFUSED) => Err(Failure::new(ReasonKind::Artifact, said)),
            Some(code) => Err(Failure::new(
                ReasonKind::Platform,
                format!("the compiler of {digest} ended with exit code {code}: {said}"),
            )),
            // Ended by a signal: out of memory aborts, out of CPU time or file size is killed.
            None => Err(too_much(digest)),
        }
    }

    async fn keep(&self, digest: Digest, output: tempfile::TempPath) -> std::io::Result<()> {
        let (file, key) = (self.file(digest), self.key);
        let kept = tokio::task::spawn_blocking(move || {
            let tag = keyed_hash(&key, &output)?;
            let folder = file.parent().unwrap_or(Path::new("."));
            let mut tag_file = tempfile::NamedTempFile::new_in(folder)?;
            tag_file.write_all(tag.as_bytes())?;
            output.persist(&file)?;
            tag_file.persist(file.with_extension("tag"))?;
            Ok(())
        });
        kept.await.map_err(std::io::Error::other)?
    }
}

fn too_much(digest: Digest) -> Failure {
    Failure::new(
        ReasonKind::Artifact,
        format!(
            "compiling {digest} takes more than {CPU_MAX_SECS} s of CPU time or {} GiB of memory, which no artifact may; \
             make its functions smaller or leave some of it out",
            ADDRESS_SPACE_MAX_BYTES >> 30
        ),
    )
}

fn keyed_hash(key: &[u8; 32], file: &Path) -> std::io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new_keyed(key);
    std::io::copy(&mut std::fs::File::open(file)?, &mut hasher)?;
    Ok(hasher.finalize())
}

/// The key in `file`, readable by this user only; made at the first call.
pub fn key_in(file: &Path) -> std::io::Result<[u8; 32]> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::read(file) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("{} is not a key of 32 bytes; delete it", file.display()),
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            getrandom::fill(&mut key).map_err(std::io::Error::other)?;
            let folder = file.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)?;
            // Two processes may make it at once: the first to link it wins, and both use that one.
            let draft = folder.join(format!(".key-{}", std::process::id()));
            std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?
                .write_all(&key)?;
            let linked = std::fs::hard_link(&draft, file);
            std::fs::remove_file(&draft)?;
            match linked {
                Ok(()) => Ok(key),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => key_in(file),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// What the child process does: `… __compile OUTPUT`, artifact on stdin.
pub fn child_main() -> ExitCode {
    let Some(output) = std::env::args_os().nth(2) else { return ExitCode::from(2) };
    match limit_self().and_then(|()| compile_to(Path::new(&output))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ChildError::Refused(why)) => {
            eprintln!("{why}");
            ExitCode::from(REFUSED)
        }
        Err(ChildError::Io(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

enum ChildError {
    Refused(String),
    Io(std::io::Error),
}

impl From<std::io::Error> for ChildError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn limit_self() -> Result<(), ChildError> {
    for (resource, limit) in [
        (Resource::RLIMIT_AS, ADDRESS_SPACE_MAX_BYTES),
        (Resource::RLIMIT_CPU, CPU_MAX_SECS),
        (Resource::RLIMIT_FSIZE, OUTPUT_MAX_BYTES),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, 64),
    ] {
        setrlimit(resource, limit, limit).map_err(std::io::Error::from)?;
    }
    // The worker may be killed without being able to end this process.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from)?;
    Ok(())
}

fn compile_to(output: &Path) -> Result<(), ChildError> {
    let mut artifact = Vec::new();
    std::io::stdin().lock().take(ARTIFACT_MAX_BYTES + 1).read_to_end(&mut artifact)?;
    if artifact.len() as u64 > ARTIFACT_MAX_BYTES {
        return Err(ChildError::Refused(format!(
            "the artifact is larger than {} MiB",
            ARTIFACT_MAX_BYTES >> 20
        )));
    }
    if wasmparser::Parser::is_core_wasm(&artifact) {
        artifact = crate::componentize::componentize(&artifact)
            .map_err(|error| ChildError::Refused(with_sources(&error)))?;
    }
    let engine = Engine::new(&config(Purpose::Compile)).map_err(std::io::Error::other)?;
    let compiled = engine.precompile_component(&artifact).map_err(|error| {
        ChildError::Refused(format!("it does not compile: {}", super::failure::chain(&error)))
    })?;
    let mut file = std::fs::File::create(output)?;
    file.write_all(&compiled)?;
    file.sync_all()?;
    Ok(())
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Whether the engine's pool has room for what the component needs at once; the text says what it lacks.
pub(super) fn check_resources(component: &Component, memory_max_bytes: u64) -> Result<(), Failure> {
    let Some(needs) = component.resources_required() else { return Ok(()) };
    let refuse = |text: String| Err(Failure::new(ReasonKind::Artifact, text));
    if needs.num_memories > 16 {
        return refuse(format!("it has {} memories, and 16 is the most", needs.num_memories));
    }
    if needs.num_tables > 64 {
        return refuse(format!("it has {} tables, and 64 is the most", needs.num_tables));
    }
    if let Some(table) = needs.max_initial_table_size
        && table > 100_000
    {
        return refuse(format!("it has a table of {table} elements, and 100000 is the most"));
    }
    let initial = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(64 << 10);
    if initial > memory_max_bytes.min(MEMORY_MAX_BYTES as u64) {
        return refuse(format!(
            "its memory begins with {} MiB, more than `limits.memory`, {}; raise the limit",
            initial >> 20,
            wharf_types::quantity::ByteSize::bytes(memory_max_bytes)
        ));
    }
    Ok(())
}

//! Compiles artifacts, once, in a process of their own, and maps the results.
//!
//! Compiling a hostile module may take gigabytes and minutes, so neither worker nor control plane does it: a child process with
//! limits on address space, CPU time and file size reads the artifact from its stdin and writes machine code to a file.
//! Machine code is trusted when it is mapped, so each file has a keyed hash beside it, made with a key that only this
//! worker has; a file that was changed or came from elsewhere is compiled again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use wasmtime::Engine;
use wasmtime::component::Component;
use wharf_types::Digest;
use wharf_types::node::ReasonKind;

use super::compile_child::{ADDRESS_SPACE_MAX_BYTES, CPU_MAX_SECS, REFUSED};
use super::engine::{Engines, MEMORY_MAX_BYTES, Profile, Purpose, config};
use super::failure::chain;
use super::host::HostError;
use crate::backend::Failure;

/// How long a compilation may take.
const WALL_MAX: Duration = Duration::from_secs(120);

/// How to start the process that compiles.
#[derive(Clone, Debug)]
pub struct CompileCommand {
    pub program: PathBuf,
    pub args: Vec<String>,
}

impl CompileCommand {
    /// This program again, as it is now on disk or, after an upgrade, as it was when it started.
    pub fn this_program() -> Self {
        Self { program: "/proc/self/exe".into(), args: vec![super::compile_child::ARGUMENT.to_owned()] }
    }
}

/// Compiled artifacts in a folder, `ENGINE/DIGEST.cwasm`; each is there for one engine.
pub struct Compiler {
    engines: Arc<Engines>,
    folders: [(Profile, PathBuf); Profile::ALL.len()],
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
        engines: Arc<Engines>,
        folder: &Path,
        key: [u8; 32],
        command: CompileCommand,
    ) -> Result<Self, HostError> {
        // A folder for each engine, also for one that is not there yet.
        let mut folders = Profile::ALL.map(|profile| (profile, PathBuf::new()));
        for (profile, of_engine) in &mut folders {
            let engine = Engine::new(&config(*profile, Purpose::Compile))
                .map_err(|error| HostError::Engine(chain(&error)))?;
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            *of_engine = folder.join(format!("{:016x}", hasher.finish()));
            std::fs::create_dir_all(&*of_engine).map_err(HostError::Folder)?;
        }
        Ok(Self {
            engines,
            folders,
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

    async fn map(&self, digest: Digest) -> Result<Option<Component>, Failure> {
        for (profile, folder) in &self.folders {
            if let Some(component) = self.map_in(folder, *profile, digest).await? {
                return Ok(Some(component));
            }
        }
        Ok(None)
    }

    async fn map_in(
        &self,
        folder: &Path,
        profile: Profile,
        digest: Digest,
    ) -> Result<Option<Component>, Failure> {
        let (engines, file, key) = (self.engines.clone(), file(folder, digest), self.key);
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
            let engine = &engines.get(profile).map_err(std::io::Error::other)?.engine;
            // SAFETY: the file was written by our own compiler process: its keyed hash says so, and the folder can be
            // written by this user only.
            let component = unsafe { Component::deserialize_file(engine, &file) }.map_err(std::io::Error::other)?;
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
            .tempfile_in(&self.folders[0].1)
            .map_err(|error| platform("make a file", error))?
            .into_temp_path();
        let mut child = tokio::process::Command::new(&self.command.program)
            .args(&self.command.args)
            .arg(&output)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| platform("start a process", error))?;
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A child that refuses early does not read to the end; its exit code says why.
                    let _ = stdin.write_all(artifact).await;
                }
            };
            let ((), answer, said, status) = tokio::join!(feed, words(stdout), words(stderr), child.wait());
            (answer, said, status)
        };
        let (answer, said, status) =
            tokio::time::timeout(WALL_MAX, work).await.map_err(|_| too_much(digest))?;
        let status = status.map_err(|error| platform("wait for the process", error))?;
        match status.code() {
            Some(0) => {
                let folder = self.folders.iter().find(|(profile, _)| profile.as_str() == answer);
                let (_, folder) = folder.ok_or_else(|| {
                    Failure::new(
                        ReasonKind::Platform,
                        format!("the compiler of {digest} answered `{answer}`, which is no profile"),
                    )
                })?;
                self.keep(file(folder, digest), output)
                    .await
                    .map_err(|error| platform("keep what was compiled", error))
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

    async fn keep(&self, file: PathBuf, output: tempfile::TempPath) -> std::io::Result<()> {
        let key = self.key;
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

fn file(folder: &Path, digest: Digest) -> PathBuf {
    folder.join(format!("{}.cwasm", digest.hex()))
}

/// What a child says on one of its streams, up to a limit.
async fn words(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut said = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(16 << 10).read_to_end(&mut said).await;
    }
    String::from_utf8_lossy(&said).trim().to_owned()
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

//! Compiles artifacts, once, in a process of their own, and maps the results.
//!
//! Compiling a hostile module may take gigabytes and minutes, so neither worker nor control plane does it: a child process that
//! is limited and confined reads the artifact from its stdin and writes machine code to a file that is its stdout.
//! Machine code is trusted when it is mapped, so each file has a keyed hash beside it, made with a key that only this
//! worker has; a file that was changed or came from elsewhere is compiled again.

pub mod key;
mod old;
mod outcome;
mod turns;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use wasmtime::Engine;
use wharf_types::node::ReasonKind;
use wharf_types::{Digest, NamespaceName};

use self::outcome::{Outcome, Trouble, too_much};
use self::turns::Turns;
use super::compile_child::{CompileLimits, is_full};
use super::compiled::Compiled;
use super::engine::{Engines, Profile, Purpose, config};
use super::failure::chain;
use super::host::HostError;
use crate::backend::Failure;
use crate::space::decide::Need;
use crate::space::{Space, touch_code};

/// Counts what this program does to a module before the engine gets it; what was compiled by another recipe is compiled again.
const RECIPE: u32 = 4;

/// How much larger than an artifact its code is, in most cases.
const CODE_PER_ARTIFACT: u64 = 4;

/// How to start the process that compiles.
#[derive(Clone, Debug)]
pub struct CompileCommand {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub limits: CompileLimits,
}

impl CompileCommand {
    /// This program again, as it is now on disk or, after an upgrade, as it was when it started.
    pub fn this_program() -> Self {
        let args = vec![super::compile_child::ARGUMENT.to_owned()];
        Self { program: "/proc/self/exe".into(), args, limits: CompileLimits::default() }
    }

    /// The same, giving way to everything else on this machine.
    #[must_use]
    pub fn in_the_background(mut self) -> Self {
        self.limits.niceness = 19;
        self
    }
}

/// What is compiled, and what for.
type Job = (Digest, Profile);

/// Compiled artifacts in a folder, `ENGINE/DIGEST.cwasm`; each is there for one engine.
pub struct Compiler {
    engines: Arc<Engines>,
    folders: [(Profile, PathBuf); Profile::ALL.len()],
    key: [u8; 32],
    command: CompileCommand,
    space: Arc<Space>,
    /// One lock an artifact, so that it is compiled once however many instances wait for it.
    under_way: Mutex<HashMap<Job, Arc<tokio::sync::Mutex<()>>>>,
    /// One compilation at a time: each uses all cores.
    turns: Arc<Turns>,
    /// Files whose keyed hash was found right, as they were then: hashing is most of what mapping takes.
    known: Mutex<HashMap<Job, FileState>>,
    /// Whether it has been said that the child cannot be confined.
    warned: AtomicBool,
}

impl Compiler {
    /// `key` authenticates what is in `folder`; whoever has it can make this process run any code.
    pub fn new(
        engines: Arc<Engines>,
        folder: &Path,
        key: [u8; 32],
        command: CompileCommand,
        space: Arc<Space>,
    ) -> Result<Self, HostError> {
        // A folder for each engine, also for one that is not there yet.
        let mut folders = Profile::ALL.map(|profile| (profile, PathBuf::new()));
        for (profile, of_engine) in &mut folders {
            let engine = Engine::new(&config(*profile, Purpose::Compile))
                .map_err(|error| HostError::Engine(chain(&error)))?;
            let mut hasher = DefaultHasher::new();
            (RECIPE, engine.precompile_compatibility_hash()).hash(&mut hasher);
            *of_engine = folder.join(format!("{:016x}", hasher.finish()));
            make_folder(of_engine).and_then(|()| remove_drafts(of_engine)).map_err(HostError::Folder)?;
        }
        space.set_engines(folders.iter().map(|(_, folder)| folder.clone()));
        Ok(Self {
            engines,
            folders,
            key,
            command,
            space,
            under_way: Mutex::default(),
            turns: Arc::default(),
            known: Mutex::default(),
            warned: AtomicBool::new(false),
        })
    }

    /// The name of what compiles here, which is another one after an upgrade that changes what is compiled.
    pub fn engine(&self) -> String {
        let (_, folder) = &self.folders[0];
        folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Removes what other engines have compiled, a week after the first start without them. A failure costs room and nothing else.
    pub fn give_up_old(&self) {
        let current: Vec<&Path> = self.folders.iter().map(|(_, folder)| folder.as_path()).collect();
        if let Err(error) = old::give_up(&current, SystemTime::now()) {
            tracing::warn!("what an older engine had compiled could not be removed: {error}");
        }
    }

    /// The artifact compiled for the profile that is wanted, or for the one that it needs; `fetch` is called for its bytes only if it
    /// has not been compiled before. Who compiles for `namespace` waits for one compilation of each other namespace at most.
    pub async fn load<F>(
        &self,
        namespace: &NamespaceName,
        digest: Digest,
        wanted: Profile,
        fetch: impl FnOnce() -> F,
    ) -> Result<(Compiled, Profile), Failure>
    where
        F: Future<Output = Result<Bytes, Failure>>,
    {
        if let Some(found) = self.map(digest, wanted).await? {
            return Ok(found);
        }
        let key = (digest, wanted);
        let lock =
            self.under_way.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let compiled = async {
            let _guard = lock.lock().await;
            // Somebody else may have compiled it meanwhile.
            if let Some(found) = self.map(digest, wanted).await? {
                return Ok(found);
            }
            // Before the bytes are here, so that those of one artifact at a time take memory.
            let _turn = self.turns.take(namespace).await;
            let bytes = fetch().await?;
            self.compile_with_room(digest, wanted, &bytes).await?;
            let missing =
                || Failure::new(ReasonKind::Platform, format!("the compiled form of {digest} has vanished"));
            self.map(digest, wanted).await?.ok_or_else(missing)
        }
        .await;
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        compiled
    }

    /// What is compiled already.
    pub async fn map(&self, digest: Digest, wanted: Profile) -> Result<Option<(Compiled, Profile)>, Failure> {
        for (profile, folder) in &self.folders {
            if (*profile == wanted || *profile == Profile::Concurrent)
                && let Some(compiled) = self.map_in(folder, *profile, digest).await?
            {
                return Ok(Some((compiled, *profile)));
            }
        }
        Ok(None)
    }

    async fn map_in(
        &self,
        folder: &Path,
        profile: Profile,
        digest: Digest,
    ) -> Result<Option<Compiled>, Failure> {
        let file = file(folder, digest);
        let Ok(state) = FileState::of(&file) else { return Ok(None) };
        let is_known = self.known().get(&(digest, profile)) == Some(&state);
        if !is_known {
            // Reads all of the file, so it is not for a thread that serves requests. What is known is mapped where the request is:
            // that reads a few pages of it, which the guest would wait for on this thread anyway.
            let (key, hashed) = (self.key, file.clone());
            let is_ours = tokio::task::spawn_blocking(move || is_ours(&key, &hashed)).await;
            match is_ours.map_err(std::io::Error::other).flatten() {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                // Such as a folder of that name, or a disk that fails there.
                Err(error) => {
                    tracing::warn!(file = %file.display(), "a compiled artifact cannot be read, and is compiled again: {error}");
                    put_away(&file);
                    return Ok(None);
                }
            }
            self.known().insert((digest, profile), state);
        }
        touch_code(&file);
        let engine = self.engines.get(profile).map_err(|error| unmapped(digest, error))?;
        // SAFETY: the file was written by our own compiler process: its keyed hash says so, or said so before anything about it
        // changed, and the folder can be written by this user only.
        match unsafe { Compiled::map(&engine.engine, &file) } {
            Ok(compiled) => Ok(Some(compiled)),
            // It is what our compiler made for this engine, so it is the pool that has no room for it.
            Err(error) => Err(Failure::new(
                ReasonKind::Artifact,
                format!("it does not fit into any place of the pool: {}", chain(&error)),
            )),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Job, FileState>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles, once more where the disk was full and something unused could go.
    async fn compile_with_room(
        &self,
        digest: Digest,
        wanted: Profile,
        artifact: &[u8],
    ) -> Result<(), Failure> {
        let what = || format!("the code of {digest}");
        let expected = artifact.len() as u64 * CODE_PER_ARTIFACT;
        // It is only a guess, so what comes of it is seen when the code is there.
        let _ = self.space.make_room(Need { cache_bytes: 0, disk_bytes: expected }).await;
        for is_last in [false, true] {
            match self.compile(digest, wanted, artifact).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Full) if !is_last => self.space.drop_unused().await,
                Err(Trouble::Full) => break,
                Err(Trouble::Failure(failure)) => return Err(failure),
            }
        }
        Err(self.space.disk_is_full(&what(), expected))
    }

    async fn compile(&self, digest: Digest, wanted: Profile, artifact: &[u8]) -> Result<(), Trouble> {
        let platform = |what: &str, error: std::io::Error| match is_full(&error) {
            true => Trouble::Full,
            false => {
                let text = format!("could not {what} to compile {digest}: {error}");
                Trouble::Failure(Failure::new(ReasonKind::Platform, text))
            }
        };
        // Somebody may have cleared them away.
        for (_, folder) in &self.folders {
            make_folder(folder).map_err(|error| platform("make a folder", error))?;
        }
        let (output, output_path) = tempfile::Builder::new()
            .prefix(DRAFT)
            .tempfile_in(&self.folders[0].1)
            .map_err(|error| platform("make a file", error))?
            .into_parts();
        // Held by the child as well, for as long as one of the two has it open.
        output.try_lock().map_err(|error| platform("lock a file", error.into()))?;
        let limits = &self.command.limits;
        let mut child = tokio::process::Command::new(&self.command.program)
            .args(&self.command.args)
            .arg(wanted.as_str())
            .args(limits.to_args())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| platform("start a process", error))?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let work = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A child that refuses early does not read to the end; its exit code says why.
                    let _ = stdin.write_all(artifact).await;
                }
            };
            let ((), said, status) = tokio::join!(feed, words(stderr), child.wait());
            (said, status)
        };
        let (said, status) =
            tokio::time::timeout(limits.wall_max, work).await.map_err(|_| too_much(digest, limits))?;
        match Outcome::of(status.map_err(|error| platform("wait for the process", error))?) {
            Outcome::Compiled => {
                let folder = self.folder_of(digest, &said)?;
                let bytes = output_path.metadata().map_or(0, |metadata| metadata.len());
                let room = self.space.make_room(Need { cache_bytes: bytes, disk_bytes: 0 }).await;
                room.map_err(|short| self.space.failure(&format!("the code of {digest}"), bytes, short))?;
                self.keep(file(folder, digest), output_path)
                    .await
                    .map_err(|error| platform("keep what was compiled", error))
            }
            Outcome::Refused => Err(Failure::new(ReasonKind::Artifact, said).into()),
            Outcome::TooMuch => Err(too_much(digest, limits).into()),
            Outcome::Full => Err(Trouble::Full),
            Outcome::Failed(how) => {
                let text = format!("the compiler of {digest} ended with {how}: {said}");
                Err(Failure::new(ReasonKind::Platform, text).into())
            }
        }
    }

    /// The folder for what a child has compiled, after what it said.
    fn folder_of(&self, digest: Digest, said: &str) -> Result<&Path, Failure> {
        let mut said = said.split_whitespace();
        let profile = said.next().unwrap_or_default();
        let within_reach: Vec<&str> = said.collect();
        if !within_reach.is_empty() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "this system does not let the compiler give up its access to {}: a newer kernel, or the right to make user \
                 namespaces, would",
                within_reach.join(" and ")
            );
        }
        let folder = self.folders.iter().find(|(known, _)| known.as_str() == profile);
        folder.map(|(_, folder)| folder.as_path()).ok_or_else(|| {
            let text = format!("the compiler of {digest} answered `{profile}`, which is no profile");
            Failure::new(ReasonKind::Platform, text)
        })
    }

    async fn keep(&self, file: PathBuf, output: tempfile::TempPath) -> std::io::Result<()> {
        let key = self.key;
        let kept = tokio::task::spawn_blocking(move || {
            let tag = key::keyed_hash(&key, &output)?;
            let folder = file.parent().unwrap_or(Path::new("."));
            let mut tag_file = tempfile::Builder::new().prefix(DRAFT).tempfile_in(folder)?;
            tag_file.as_file().try_lock()?;
            tag_file.write_all(tag.as_bytes())?;
            output.persist(&file)?;
            tag_file.persist(file.with_extension("tag"))?;
            Ok(())
        });
        kept.await.map_err(std::io::Error::other)?
    }
}

/// Whether a file carries the keyed hash that was made of it.
fn is_ours(key: &[u8; 32], file: &Path) -> std::io::Result<bool> {
    let Ok(tag) = std::fs::read(file.with_extension("tag")) else { return Ok(false) };
    let is_ours = tag == key::keyed_hash(key, file)?.as_bytes();
    if !is_ours {
        tracing::warn!(file = %file.display(), "a compiled artifact was changed; it is compiled again");
    }
    Ok(is_ours)
}

/// Removes what stands where compiled code should. What cannot be removed is told when the code is kept.
fn put_away(file: &Path) {
    let _ = std::fs::remove_file(file).or_else(|_| std::fs::remove_dir_all(file));
}

fn unmapped(digest: Digest, error: impl std::fmt::Display) -> Failure {
    Failure::new(ReasonKind::Platform, format!("could not map the compiled form of {digest}: {error}"))
}

/// What changes when anybody writes to a file, or puts another one in its place. The time of the last change (ctime) cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl FileState {
    fn of(file: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(file)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// How the name of a file begins that a compilation is writing.
const DRAFT: &str = "compiling-";

/// Removes what compilations left whose worker was killed.
fn remove_drafts(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Whoever is still at it has the lock: commands of one user share a folder.
        if entry.file_name().to_string_lossy().starts_with(DRAFT)
            && std::fs::File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn make_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    /// A compiler whose children are shell scripts.
    fn compiler(folder: &Path, script: &str) -> Compiler {
        let args = vec!["-c".to_owned(), script.to_owned()];
        let limits = CompileLimits { wall_max: Duration::from_millis(500), ..CompileLimits::default() };
        let command = CompileCommand { program: "/bin/sh".into(), args, limits };
        let space = Space::new(folder.parent().unwrap().into(), None);
        Compiler::new(Arc::new(Engines::new().unwrap()), folder, [7; 32], command, space).unwrap()
    }

    async fn failure_of(script: &str) -> (ReasonKind, String) {
        let folder = tempfile::tempdir().unwrap();
        let compiler = compiler(folder.path(), script);
        let loaded = compiler
            .load(&NamespaceName::default_namespace(), Digest::of(b""), Profile::Short, || async {
                Ok(Bytes::new())
            })
            .await;
        let left: Vec<_> = walk(folder.path()).collect();
        assert!(left.is_empty(), "{left:?}");
        let reason = loaded.err().unwrap().reason;
        (reason.kind, reason.message)
    }

    /// The files in the folders of a folder.
    fn walk(folder: &Path) -> impl Iterator<Item = PathBuf> {
        let paths = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths(folder).flat_map(move |folder| paths(&folder).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn what_an_artifact_does_is_its_fault_and_what_the_system_does_is_not() {
        let (kind, message) = failure_of("cat >/dev/null; echo it is broken >&2; exit 10").await;
        assert_eq!((kind, message.as_str()), (ReasonKind::Artifact, "it is broken"));
        for signal in ["XCPU", "XFSZ", "ABRT"] {
            let (kind, message) = failure_of(&format!("kill -{signal} $$")).await;
            assert_eq!(kind, ReasonKind::Artifact, "{signal}: {message}");
            assert!(message.contains("120 s of CPU time"), "{message}");
        }
        for script in ["kill -KILL $$", "kill -TERM $$", "exit 3", "exit 0", "echo fast >&2"] {
            let (kind, message) = failure_of(script).await;
            assert_eq!(kind, ReasonKind::Platform, "{script}: {message}");
        }
    }

    #[tokio::test]
    async fn who_compiles_for_too_long_is_stopped() {
        let (kind, message) = failure_of("exec sleep 1000").await;
        assert_eq!(kind, ReasonKind::Artifact, "{message}");
    }

    #[tokio::test]
    async fn a_compiled_file_that_was_changed_is_compiled_again() {
        let folder = tempfile::tempdir().unwrap();
        let compiled = folder.path().join("compiled");
        let engine = Engine::new(&config(Profile::Short, Purpose::Compile)).unwrap();
        let code = engine.precompile_component(&wat::parse_str("(component)").unwrap()).unwrap();
        let code_file = folder.path().join("code");
        std::fs::write(&code_file, code).unwrap();
        let compiler = compiler(&compiled, &format!("cat {}; echo short >&2", code_file.display()));
        assert_eq!(std::fs::metadata(&compiled).unwrap().permissions().mode() & 0o777, 0o700);

        let (digest, fetched) = (Digest::of(b"x"), AtomicUsize::new(0));
        let load = || async {
            let fetch = || async {
                fetched.fetch_add(1, Ordering::Relaxed);
                Ok(Bytes::new())
            };
            compiler
                .load(&NamespaceName::default_namespace(), digest, Profile::Short, fetch)
                .await
                .map(drop)
                .unwrap();
            fetched.load(Ordering::Relaxed)
        };
        assert_eq!((load().await, load().await), (1, 1), "the second time it is there");
        let code_file =
            walk(&compiled).find(|path| path.extension().is_some_and(|end| end == "cwasm")).unwrap();
        let mut code = std::fs::read(&code_file).unwrap();
        *code.last_mut().unwrap() ^= 1;
        std::fs::write(&code_file, code).unwrap();
        assert_eq!((load().await, load().await), (2, 2));
    }
}

//! The code of one artifact: mapped when it is needed, and let go when it has not been used for a while.
//!
//! An app that nobody calls then costs an entry in a table and a file. Mapping a component of a megabyte takes about half a
//! millisecond, so the next request hardly notices.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwapOption, Guard};
use bytes::Bytes;
use wharf_types::node::ReasonKind;
use wharf_types::{Digest, NamespaceName};

use super::compiled::Compiled;
use super::engine::Profile;
use super::host::{Guest, WasmHost};
use crate::backend::Failure;

type Fetched = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send>>;

/// Brings the artifact's bytes, where it is not compiled here.
pub type Fetch = Arc<dyn Fn() -> Fetched + Send + Sync>;

/// What is mapped of an artifact.
pub struct Mapped {
    pub(super) compiled: Compiled,
    pub(super) guest: Guest,
    pub(super) profile: Profile,
}

/// One artifact for one profile, whether or not it is mapped.
pub struct Code {
    host: Arc<WasmHost>,
    /// Who waits for its turn where it has to be compiled.
    namespace: NamespaceName,
    digest: Digest,
    wanted: Profile,
    fetch: Fetch,
    mapped: ArcSwapOption<Mapped>,
    mapping: Arc<tokio::sync::Mutex<()>>,
    /// Used since the last look at it. Written only where that changes it, as it is on the way of each request.
    is_used: AtomicBool,
    /// Looks since it was used.
    idle_looks: AtomicU32,
}

impl Code {
    pub(super) fn new(
        host: Arc<WasmHost>,
        namespace: NamespaceName,
        digest: Digest,
        wanted: Profile,
        fetch: Fetch,
    ) -> Self {
        Self {
            host,
            namespace,
            digest,
            wanted,
            fetch,
            mapped: ArcSwapOption::empty(),
            mapping: Arc::default(),
            is_used: AtomicBool::new(true),
            idle_looks: AtomicU32::new(0),
        }
    }

    pub(super) fn host(&self) -> &Arc<WasmHost> {
        &self.host
    }

    pub(super) fn wanted(&self) -> Profile {
        self.wanted
    }

    /// The code of the same artifact for another profile.
    pub(super) fn for_profile(&self, wanted: Profile) -> Arc<Self> {
        self.host.code(&self.namespace, self.digest, wanted, self.fetch.clone())
    }

    /// The profile of what is mapped now, without counting as a use.
    pub(super) fn mapped_for(&self) -> Option<Profile> {
        self.mapped.load().as_ref().map(|mapped| mapped.profile)
    }

    /// What is mapped now, if anything is.
    pub(super) fn now(&self) -> Guard<Option<Arc<Mapped>>> {
        if !self.is_used.load(Relaxed) {
            self.is_used.store(true, Relaxed);
        }
        self.mapped.load()
    }

    /// Maps the code where it is not, and compiles it where even that is to be done. That goes on when whoever waits for it goes away: the next
    /// one would begin anew, and where nobody waits for long enough the code would never be there.
    pub async fn get(self: &Arc<Self>) -> Result<Arc<Mapped>, Failure> {
        if let Some(mapped) = &*self.now() {
            return Ok(mapped.clone());
        }
        let mapping = self.mapping.clone().lock_owned().await;
        if let Some(mapped) = &*self.now() {
            return Ok(mapped.clone());
        }
        if let Some((compiled, profile)) = self.host.compiled(self.digest, self.wanted).await? {
            return self.take_in(compiled, profile);
        }
        let code = self.clone();
        let compiling = tokio::spawn(async move {
            let _mapping = mapping;
            let loaded = code.host.load(&code.namespace, code.digest, code.wanted, || (code.fetch)());
            let (compiled, profile) = loaded.await?;
            code.take_in(compiled, profile)
        });
        compiling.await.unwrap_or_else(|error| {
            Err(Failure::new(ReasonKind::Platform, format!("compiling {} has ended: {error}", self.digest)))
        })
    }

    fn take_in(&self, compiled: Compiled, profile: Profile) -> Result<Arc<Mapped>, Failure> {
        let guest = self.host.link(&compiled, profile)?;
        let mapped = Arc::new(Mapped { compiled, guest, profile });
        self.mapped.store(Some(mapped.clone()));
        Ok(mapped)
    }

    /// Lets go of code that was not used for so many looks. Stores that have it keep what they need of it.
    fn look(&self, idle_looks_max: u32) {
        if self.is_used.swap(false, Relaxed) {
            self.idle_looks.store(0, Relaxed);
        } else if self.idle_looks.fetch_add(1, Relaxed) >= idle_looks_max {
            self.mapped.store(None);
        }
    }
}

/// The code of a worker, each once however many instances run it.
#[derive(Default)]
pub(super) struct Codes(Mutex<HashMap<(Digest, Profile), Weak<Code>>>);

impl Codes {
    pub(super) fn find_or(&self, digest: Digest, wanted: Profile, make: impl FnOnce() -> Code) -> Arc<Code> {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = codes.entry((digest, wanted)).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let code = Arc::new(make());
            *entry = Arc::downgrade(&code);
            code
        })
    }

    /// How many of them are mapped.
    pub(super) fn mapped(&self) -> u64 {
        let codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.values().filter(|code| code.upgrade().is_some_and(|code| code.mapped_for().is_some())).count()
            as u64
    }

    /// Called once in a while; each call is one look at each code.
    pub(super) fn look(&self, idle_looks_max: u32) {
        let codes: Vec<_> = {
            let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            codes.retain(|_, code| code.strong_count() > 0);
            codes.values().filter_map(Weak::upgrade).collect()
        };
        for code in codes {
            code.look(idle_looks_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use wasmtime::Engine;

    use super::super::compile_child::CompileLimits;
    use super::super::compiler::CompileCommand;
    use super::super::engine::{Purpose, config};
    use super::*;
    use crate::logs::LogSink;
    use crate::space::Space;

    const COMMAND: &str = r#"(component
        (core module $guest (func (export "run") (result i32) i32.const 0))
        (core instance $guest (instantiate $guest))
        (func $run (result (result)) (canon lift (core func $guest "run")))
        (instance $exported (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $exported)))"#;

    /// A host whose compiler gives out a file.
    fn host(folder: &Path) -> Arc<WasmHost> {
        let engine = Engine::new(&config(Profile::Short, Purpose::Compile)).unwrap();
        let code = engine.precompile_component(&wat::parse_str(COMMAND).unwrap()).unwrap();
        let file = folder.join("code");
        std::fs::write(&file, code).unwrap();
        let script = format!("cat {}; echo short >&2", file.display());
        let command = CompileCommand {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script],
            limits: CompileLimits::default(),
        };
        let unload_after = Duration::from_secs(2);
        let space = Space::new(folder.into(), None);
        WasmHost::new(&folder.join("compiled"), [7; 32], command, LogSink::new(), unload_after, space)
            .unwrap()
    }

    #[tokio::test]
    async fn a_compilation_goes_on_when_nobody_waits_for_it_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path());
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (go_on, goes_on) = tokio::sync::oneshot::channel();
        // Of which there is one each: a second beginning would fail.
        let once = Mutex::new(Some((begin, goes_on)));
        let fetch: Fetch = Arc::new(move || {
            let (begin, goes_on) = once.lock().unwrap().take().expect("it is fetched once");
            Box::pin(async move {
                begin.send(()).unwrap();
                goes_on.await.unwrap();
                Ok(Bytes::new())
            })
        });
        let code = host.code(&NamespaceName::default_namespace(), Digest::of(b"x"), Profile::Short, fetch);
        tokio::select! {
            _ = code.get() => panic!("nothing is compiled yet"),
            begun = begun => begun.unwrap(),
        }
        go_on.send(()).unwrap();
        let got = tokio::time::timeout(Duration::from_secs(60), code.get()).await;
        assert!(matches!(got.unwrap().unwrap().guest, Guest::Command(_)));
    }

    #[tokio::test]
    async fn code_that_nobody_uses_is_let_go_and_comes_back_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path());
        let fetched = Arc::new(AtomicU32::new(0));
        let fetch: Fetch = {
            let fetched = fetched.clone();
            Arc::new(move || {
                fetched.fetch_add(1, Relaxed);
                Box::pin(std::future::ready(Ok(Bytes::new())))
            })
        };
        let namespace = NamespaceName::default_namespace();
        let code = host.code(&namespace, Digest::of(b"x"), Profile::Short, fetch.clone());
        assert!(Arc::ptr_eq(&code, &host.code(&namespace, Digest::of(b"x"), Profile::Short, fetch)));
        let mapped = Arc::downgrade(&code.get().await.unwrap());
        for _ in 0..3 {
            host.sweep();
            assert!(mapped.upgrade().is_some());
        }
        host.sweep();
        assert!(mapped.upgrade().is_none(), "nothing has it after two seconds");
        assert!(matches!(code.get().await.unwrap().guest, Guest::Command(_)));
        assert_eq!(fetched.load(Relaxed), 1, "the second time it was in its file");
    }
}

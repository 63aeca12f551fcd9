//! The side that embeds guests: the engines, their clock and their compiler.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmtime::component::{Component, InstancePre, Linker};
use wharf_types::figures::NodeFigures;
use wharf_types::node::ReasonKind;
use wharf_types::spec::EngineProfile;
use wharf_types::world::World;
use wharf_types::{Digest, NamespaceName};

use super::code::{Code, Codes, Fetch};
use super::command::Command;
use super::compiled::Compiled;
use super::compiler::{CompileCommand, Compiler};
use super::engine::{Activity, Engines, Profile, Ticker};
use super::failure::chain;
use super::memory::is_host_short_of_memory;
use super::module;
use super::outbound;
use super::shared::Shared;
use super::state::State;
use super::{surface, tuning};
use crate::backend::Failure;
use crate::logs::LogSink;
use crate::space::Space;

/// How often idle stores and idle code are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Sweeps until nobody else has the host.
pub(super) async fn keep_swept(host: Weak<WasmHost>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD).await;
        let Some(host) = host.upgrade() else { return };
        host.sweep();
    }
}

/// Everything that guests of this process share.
pub struct WasmHost {
    pub(super) shared: Arc<Shared>,
    engines: Arc<Engines>,
    compiler: Compiler,
    codes: Codes,
    unload_after: Duration,
    pub(super) space: Arc<Space>,
    _ticker: Ticker,
}

/// A component or module with everything it imports, of one of the worlds that we run.
pub enum Guest {
    Http02(wasmtime_wasi_http::p2::bindings::ProxyPre<State>),
    Http03(wasmtime_wasi_http::p3::bindings::ServicePre<State>),
    Command(Command),
}

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("could not make the Wasm engine: {0}")]
    Engine(String),
    #[error("could not make the folder for compiled artifacts")]
    Folder(#[source] std::io::Error),
    #[error("could not start the engine's clock")]
    Ticker(#[source] std::io::Error),
}

impl WasmHost {
    /// `compiled` is the folder of compiled artifacts, authenticated by `key`. Code that was not used for `unload_after` is let go.
    pub fn new(
        compiled: &Path,
        key: [u8; 32],
        command: CompileCommand,
        logs: LogSink,
        unload_after: Duration,
        space: Arc<Space>,
    ) -> Result<Arc<Self>, HostError> {
        // A guest may ask for an error in full (`to-debug-string`), and the way of this program to it, with the paths of whoever built it, is
        // none of its business. It would only be there with RUST_BACKTRACE set.
        wasmtime::error::disable_backtrace();
        let engines = Arc::new(Engines::new().map_err(|error| HostError::Engine(chain(&error)))?);
        let compiler = Compiler::new(engines.clone(), compiled, key, command, space.clone())?;
        let activity = Arc::new(Activity::default());
        let ticker = Ticker::spawn(engines.clone(), activity.clone()).map_err(HostError::Ticker)?;
        Ok(Arc::new(Self {
            shared: Arc::new(Shared::new(activity, logs)),
            engines,
            compiler,
            codes: Codes::default(),
            unload_after,
            space,
            _ticker: ticker,
        }))
    }

    /// The code of an artifact for a profile, which others may have as well.
    pub fn code(
        self: &Arc<Self>,
        namespace: &NamespaceName,
        digest: Digest,
        wanted: Profile,
        fetch: Fetch,
    ) -> Arc<Code> {
        self.codes
            .find_or(digest, wanted, || Code::new(self.clone(), namespace.clone(), digest, wanted, fetch))
    }

    /// Compiles an artifact as an instance with this wish will want it first, unless that was done before; whether it had to be done.
    /// Nothing of it runs.
    pub async fn precompile(
        &self,
        namespace: &NamespaceName,
        wish: EngineProfile,
        bytes: Bytes,
    ) -> Result<bool, Failure> {
        let compiled = AtomicBool::new(false);
        let wanted = tuning::first(wish, surface::is_http(&bytes));
        let fetch = || {
            compiled.store(true, Ordering::Relaxed);
            std::future::ready(Ok(bytes.clone()))
        };
        self.compiler.load(namespace, Digest::of(&bytes), wanted, fetch).await?;
        Ok(compiled.into_inner())
    }

    /// The name of the engine, under which it finds what was compiled for it.
    pub fn engine(&self) -> String {
        self.compiler.engine()
    }

    /// Removes what engines of older versions had compiled, a week after they were last of use. Only for who owns the folder.
    pub fn give_up_old_engines(&self) {
        self.compiler.give_up_old();
    }

    /// Drops what has been idle for long: stores that wait for requests, and code. Called every [`SWEEP_PERIOD`].
    pub(super) fn sweep(&self) {
        self.shared.sweep(Instant::now());
        let looks_max = match is_host_short_of_memory() {
            true => 0,
            false => self.unload_after.as_millis() / SWEEP_PERIOD.as_millis(),
        };
        self.codes.look(u32::try_from(looks_max).unwrap_or(u32::MAX));
    }

    /// What is in use of what all guests share.
    pub(super) fn figures(&self) -> NodeFigures {
        NodeFigures {
            stores: self.shared.places(),
            idle_stores: self.shared.idle_stores(),
            stores_refused: self.shared.refused(),
            memory_bytes: self.shared.memory.share(),
            memory_refused: self.shared.memory.refused(),
            pool_kept_bytes: self.engines.kept_bytes(),
            outbound_connections: outbound::connections(),
            artifacts: self.codes.mapped(),
            ..NodeFigures::default()
        }
    }

    /// The compiled artifact, from the cache or made from what `fetch` brings.
    pub(super) async fn load<F>(
        &self,
        namespace: &NamespaceName,
        digest: Digest,
        wanted: Profile,
        fetch: impl FnOnce() -> F,
    ) -> Result<(Compiled, Profile), Failure>
    where
        F: Future<Output = Result<Bytes, Failure>>,
    {
        self.compiler.load(namespace, digest, wanted, fetch).await
    }

    /// What is compiled already.
    pub(super) async fn compiled(
        &self,
        digest: Digest,
        wanted: Profile,
    ) -> Result<Option<(Compiled, Profile)>, Failure> {
        self.compiler.map(digest, wanted).await
    }

    /// Links the guest and finds its world; HTTP comes before commands, WASI 0.3 before 0.2. A core module is a command.
    pub(super) fn link(&self, compiled: &Compiled, profile: Profile) -> Result<Guest, Failure> {
        let hall = self.engines.get(profile).map_err(|why| Failure::new(ReasonKind::Platform, why))?;
        match compiled {
            Compiled::Component(component) => link_component(&hall.linker, component),
            Compiled::Module(module) => {
                module::link(&hall.modules, module).map(|pre| Guest::Command(Command::P1(pre)))
            }
        }
    }
}

fn link_component(linker: &Linker<State>, component: &Component) -> Result<Guest, Failure> {
    let pre: InstancePre<State> = linker.instantiate_pre(component).map_err(|error| {
        Failure::new(ReasonKind::Artifact, format!("the component cannot be linked: {}", chain(&error)))
    })?;
    if let Ok(pre) = wasmtime_wasi_http::p3::bindings::ServicePre::new(pre.clone()) {
        return Ok(Guest::Http03(pre));
    }
    if let Ok(pre) = wasmtime_wasi_http::p2::bindings::ProxyPre::new(pre.clone()) {
        return Ok(Guest::Http02(pre));
    }
    let none = || {
        let worlds =
            [World::HttpProxy, World::HttpService, World::CommandP2, World::CommandP3].map(World::describe);
        Failure::new(ReasonKind::Artifact, format!("the component is none of: {}", worlds.join("; ")))
    };
    Command::new(&pre).map(Guest::Command).ok_or_else(none)
}

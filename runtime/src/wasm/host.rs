//! The side that embeds guests: the engines, their clock and their compiler.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{Component, InstancePre};
use wharf_types::figures::NodeFigures;
use wharf_types::node::ReasonKind;
use wharf_types::world::World;
use wharf_types::{Digest, NamespaceName};

use super::app::Linked;
use super::command::Command;
use super::compiler::{CompileCommand, Compiler};
use super::engine::{Activity, Engines, Ticker};
use super::failure::chain;
use super::outbound;
use super::shared::Shared;
use super::state::State;
use crate::backend::Failure;
use crate::logs::LogSink;

/// Everything that guests of this process share.
pub struct WasmHost {
    pub(super) shared: Arc<Shared>,
    engines: Arc<Engines>,
    compiler: Compiler,
    _ticker: Ticker,
}

/// A component with everything it imports, of one of the worlds that we run.
pub enum Guest {
    Http(Linked),
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
    /// `compiled` is the folder of compiled artifacts, authenticated by `key`.
    pub fn new(
        compiled: &Path,
        key: [u8; 32],
        command: CompileCommand,
        logs: LogSink,
    ) -> Result<Self, HostError> {
        let engines = Arc::new(Engines::new().map_err(|error| HostError::Engine(chain(&error)))?);
        let compiler = Compiler::new(engines.clone(), compiled, key, command)?;
        let activity = Arc::new(Activity::default());
        let ticker = Ticker::spawn(engines.clone(), activity.clone()).map_err(HostError::Ticker)?;
        Ok(Self { shared: Arc::new(Shared::new(activity, logs)), engines, compiler, _ticker: ticker })
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
            ..NodeFigures::default()
        }
    }

    /// The compiled component, from the cache or made from what `fetch` brings.
    pub async fn load<F>(
        &self,
        namespace: &NamespaceName,
        digest: Digest,
        fetch: impl FnOnce() -> F,
    ) -> Result<Component, Failure>
    where
        F: Future<Output = Result<Bytes, Failure>>,
    {
        self.compiler.load(namespace, digest, fetch).await
    }

    /// Links the component and finds its world; HTTP comes before commands, WASI 0.3 before 0.2.
    pub fn link(&self, component: &Component) -> Result<Guest, Failure> {
        let linker = &self.engines.of(component).linker;
        let pre: InstancePre<State> = linker.instantiate_pre(component).map_err(|error| {
            Failure::new(ReasonKind::Artifact, format!("the component cannot be linked: {}", chain(&error)))
        })?;
        if let Ok(pre) = wasmtime_wasi_http::p3::bindings::ServicePre::new(pre.clone()) {
            return Ok(Guest::Http(Linked::P3(pre)));
        }
        if let Ok(pre) = wasmtime_wasi_http::p2::bindings::ProxyPre::new(pre.clone()) {
            return Ok(Guest::Http(Linked::P2(pre)));
        }
        let none = || {
            let worlds = [World::HttpProxy, World::HttpService, World::CommandP2, World::CommandP3]
                .map(World::describe);
            Failure::new(ReasonKind::Artifact, format!("the component is none of: {}", worlds.join("; ")))
        };
        Command::new(&pre).map(Guest::Command).ok_or_else(none)
    }
}

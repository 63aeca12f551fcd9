//! The Docker engine of this machine, if there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use wharf_docker::{Engine, EngineError, Settings};
use wharf_platform_api::{ImageResolver, NotResolved};
use wharf_types::NodeId;
use wharf_types::image::{ImageDocument, Platform};

use crate::exit::{Exit, Failure};

/// An engine that does not answer within this time is taken to be none, unless it was asked for.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

#[derive(Args, Clone, Debug, Default)]
pub struct EngineArgs {
    /// The socket of the Docker engine that runs containers, or `off` [default: /var/run/docker.sock, if an engine answers there]
    #[arg(long, value_name = "SOCKET", env = "WHARF_DOCKER")]
    pub docker: Option<PathBuf>,
}

/// An engine, and what it runs.
#[derive(Clone)]
pub struct Found {
    pub engine: Engine,
    pub platform: Platform,
}

/// The engine that this node has. None: it has none, or is not to use it.
pub async fn find(args: &EngineArgs, node: NodeId) -> anyhow::Result<Option<Found>> {
    let usual = Path::new("/var/run/docker.sock");
    let (socket, is_asked) = match &args.docker {
        Some(socket) if socket.as_os_str() == "off" => return Ok(None),
        Some(socket) => (socket.clone(), true),
        None if usual.exists() => (usual.to_owned(), false),
        None => return Ok(None),
    };
    let settings = Settings { socket, platform: node.to_string(), files: files_folder(node) };
    let connected = async {
        let engine = Engine::connect(settings).await?;
        let platform = engine.info().await?.platform;
        Ok::<_, EngineError>(Found { engine, platform })
    };
    let problem = match tokio::time::timeout(CONNECT_LIMIT, connected).await {
        Ok(Ok(found)) => return Ok(Some(found)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the Docker engine did not answer within {CONNECT_LIMIT:?}"),
    };
    if is_asked {
        let failure = Failure::new(Exit::Platform, problem);
        return Err(failure.help("`--docker off` runs without containers").into());
    }
    tracing::warn!("this node runs no containers: {problem}");
    Ok(None)
}

/// In memory: what is in there must not reach a disk.
fn files_folder(node: NodeId) -> PathBuf {
    let base = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(own) if !nix::unistd::geteuid().is_root() => PathBuf::from(own),
        _ if nix::unistd::geteuid().is_root() => PathBuf::from("/run"),
        _ => PathBuf::from("/dev/shm"),
    };
    base.join("wharf").join(node.to_string())
}

/// Asks the engine which image a name means.
pub struct EngineResolver(pub Engine);

impl EngineResolver {
    pub fn new(found: &Found) -> Arc<Self> {
        Arc::new(Self(found.engine.clone()))
    }
}

#[async_trait]
impl ImageResolver for EngineResolver {
    async fn resolve(&self, reference: &str) -> Result<ImageDocument, NotResolved> {
        self.0
            .resolve(reference, None)
            .await
            .map_err(|error| NotResolved { is_retryable: error.is_retryable(), problem: error.to_string() })
    }
}

//! The Docker engine of this machine, if there is one.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use wharf_docker::{Credentials, Engine, EngineError, ImageError, Settings};
use wharf_platform_api::{ImageResolver, NotResolved};
use wharf_runtime::reach::door::Door;
use wharf_runtime::reach::{Block, InvalidBlock};
use wharf_types::NodeId;
use wharf_types::image::{ImageDocument, Platform};
use wharf_types::secret::SecretValue;

use crate::exit::{Exit, Failure};
use crate::exposed;

/// An engine that does not answer within this time is taken to be none, unless it was asked for. One that is just being started, as at the
/// boot of a machine, takes connections long before it answers.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

#[derive(Args, Clone, Debug, Default)]
pub struct EngineArgs {
    /// The socket of the Docker engine that runs containers, or `off` [default: /var/run/docker.sock, if an engine answers there]
    #[arg(long, value_name = "SOCKET", env = "WHARF_DOCKER")]
    pub docker: Option<PathBuf>,
}

#[derive(Args, Clone, Debug, Default)]
pub struct InternalArgs {
    /// Addresses at which containers reach apps of their namespace by name, of which the node takes a part, or `off` [default: 198.18.0.0/15]
    #[arg(long, value_name = "BLOCK", env = "WHARF_INTERNAL_ADDRESSES")]
    pub internal_addresses: Option<InternalAddresses>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InternalAddresses {
    Off,
    In(Block),
}

impl FromStr for InternalAddresses {
    type Err = InvalidBlock;

    fn from_str(text: &str) -> Result<Self, InvalidBlock> {
        if text == "off" { Ok(Self::Off) } else { text.parse().map(Self::In) }
    }
}

/// For tests of networks (RFC 2544), so that nobody has them.
const INTERNAL_ADDRESSES: &str = "198.18.0.0/15";

impl InternalArgs {
    /// Lets the containers of this node reach apps by name, where it has any.
    pub async fn open(&self, has_engine: bool, node: NodeId) -> anyhow::Result<Option<Door>> {
        let block = match self.internal_addresses {
            Some(InternalAddresses::Off) => return Ok(None),
            Some(InternalAddresses::In(block)) => block,
            None => INTERNAL_ADDRESSES.parse()?,
        };
        Ok(if has_engine { Door::open(node, block).await } else { None })
    }
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
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let base = match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if is_root && is_in_memory("/run", &mounts) => PathBuf::from("/run"),
        Some(own) if !is_root => PathBuf::from(own),
        _ => PathBuf::from("/dev/shm"),
    };
    base.join("wharf").join(node.to_string())
}

/// Whether a file system in memory is mounted there, by a table like `/proc/mounts`. On some machines `/run` is a folder of the disk.
fn is_in_memory(folder: &str, mounts: &str) -> bool {
    let mut found = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next()? == folder).then(|| words.next() == Some("tmpfs"))
    });
    // What was mounted last is on top.
    found.next_back().unwrap_or(false)
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
    async fn resolve(
        &self,
        reference: &str,
        login: Option<&SecretValue>,
    ) -> Result<ImageDocument, NotResolved> {
        let credentials = login.map(|login| Credentials::parse(login.reveal())).transpose();
        let credentials = credentials.map_err(|error| NotResolved {
            problem: format!("image `{reference}`: {error}"),
            is_retryable: false,
        })?;
        self.0.resolve(reference, credentials.as_ref()).await.map_err(|error| {
            let way_out = match error {
                ImageError::Denied { .. } => {
                    "; `container.registry_login` gives the platform a secret with the credentials"
                }
                _ => "",
            };
            NotResolved { is_retryable: error.is_retryable(), problem: format!("{error}{way_out}") }
        })
    }

    async fn exposed_ports(&self, document: &ImageDocument) -> Option<Vec<u16>> {
        match self.0.exposed_ports(document).await {
            Ok(exposed) => exposed.map(|exposed| exposed::tcp_ports(&exposed)),
            Err(error) => {
                tracing::warn!("what the image `{}` exposes is not known: {error}", document.image);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_in_memory_if_the_last_mount_on_it_is() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\ntmpfs /run/lock tmpfs rw 0 0\n";
        assert!(
            is_in_memory("/run", mounts) && !is_in_memory("/", mounts) && !is_in_memory("/dev/shm", mounts)
        );
        let covered = format!("{mounts}/dev/vdb /run ext4 rw 0 0\n");
        assert!(!is_in_memory("/run", &covered));
    }
}

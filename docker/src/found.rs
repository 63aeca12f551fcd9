//! What of ours is in the engine: how a worker that was killed finds what goes on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary};
use bollard::query_parameters::{ListContainersOptionsBuilder, StopContainerOptions};
use futures::{StreamExt as _, TryStreamExt as _};
use wharf_types::{InstanceId, Timestamp};

use crate::container::{Exit, exit_of, labels_of, name_of, status};
use crate::engine::{Engine, LONG, SHORT};
use crate::error::EngineError;
use crate::image::ImageId;
use crate::labels::{self, Owner};
use crate::secret_files;

/// The container's own signal, and its own time.
const NO_OPTIONS: Option<StopContainerOptions> = None;
/// How many containers are looked at, at once.
const LOOKS_AT_ONCE: usize = 8;

/// A container of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub instance: InstanceId,
    pub owner: Owner,
    pub image: Option<ImageId>,
    pub state: FoundState,
    /// None: never.
    pub started_at: Option<Timestamp>,
    /// By the engine's name of the network. Only of a container that runs.
    pub addresses: BTreeMap<String, IpAddr>,
    /// Whether it has the host's network, where its address is that of the host.
    pub is_on_host_network: bool,
    /// The TCP ports that its image says it listens at.
    pub ports: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundState {
    /// Made, and never started.
    Created,
    Running,
    Ended(Exit),
}

impl Engine {
    /// All instances of this platform.
    pub async fn list(&self) -> Result<Vec<Found>, EngineError> {
        let names =
            self.summaries().await?.into_iter().filter_map(|it| Some(name_of(labels::read(&it.labels?)?.0)));
        let looks = names.map(|name| async move { self.inspect(&name).await });
        // What has gone since is left out.
        let found: Vec<_> =
            futures::stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE).try_collect().await?;
        Ok(found.iter().flatten().filter_map(read).collect())
    }

    /// One instance. None: it has no container.
    pub async fn find(&self, id: InstanceId) -> Result<Option<Found>, EngineError> {
        let found = self.inspect(&name_of(id)).await?;
        let ours = found.filter(|it| self.is_ours(labels_of(it)));
        Ok(ours.as_ref().and_then(read))
    }

    /// Removes the containers and files of this platform that serve no wanted instance; returns how many containers. Others are not touched.
    /// What runs is told to end first, and has the time for that which it was started with. `is_wanted` is asked of each just before.
    pub async fn remove_unwanted(
        &self,
        is_wanted: impl Fn(InstanceId) -> bool + Send + Sync,
    ) -> Result<usize, EngineError> {
        let mut removed = 0;
        for container in self.summaries().await? {
            let instance = container.labels.as_ref().and_then(labels::serves);
            if instance.is_some_and(&is_wanted) {
                continue;
            }
            if let Some(id) = container.id {
                // However that ends, it is removed then.
                let _ =
                    self.call("stop a container", LONG, self.docker.stop_container(&id, NO_OPTIONS)).await;
                self.remove_container(&id).await?;
                removed += 1;
            }
        }
        let files = &self.settings.files;
        for instance in secret_files::instances(files) {
            if !is_wanted(instance) && self.inspect(&name_of(instance)).await?.is_none() {
                let _ = secret_files::remove(files, instance);
            }
        }
        Ok(removed)
    }

    async fn summaries(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&self.ours()).build();
        self.call("list containers", SHORT, self.docker.list_containers(Some(options))).await
    }
}

fn read(found: &ContainerInspectResponse) -> Option<Found> {
    let config = found.config.as_ref()?;
    let (instance, owner) = labels::read(labels_of(found)?)?;
    let state = match (exit_of(found), status(found)) {
        (Some(exit), _) => FoundState::Ended(exit),
        (None, ContainerStateStatusEnum::CREATED) => FoundState::Created,
        (None, _) => FoundState::Running,
    };
    let started_at = found.state.as_ref().and_then(|state| state.started_at.as_deref());
    let host_config = found.host_config.as_ref();
    Some(Found {
        instance,
        owner,
        image: found.image.as_deref().and_then(|image| image.parse().ok()),
        // The engine writes the year 1 where there is no time.
        started_at: started_at.and_then(|at| at.parse::<Timestamp>().ok()).filter(|at| at.as_second() > 0),
        addresses: if state == FoundState::Running { addresses(found) } else { BTreeMap::new() },
        is_on_host_network: host_config.and_then(|it| it.network_mode.as_deref()) == Some("host"),
        ports: ports(config.exposed_ports.iter().flatten()),
        state,
    })
}

fn addresses(found: &ContainerInspectResponse) -> BTreeMap<String, IpAddr> {
    let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let address = |endpoint: &bollard::models::EndpointSettings| endpoint.ip_address.as_deref()?.parse().ok();
    networks.into_iter().flatten().filter_map(|(name, it)| Some((name.clone(), address(it)?))).collect()
}

fn ports<'a>(exposed: impl Iterator<Item = &'a String>) -> Vec<u16> {
    let mut ports: Vec<u16> =
        exposed.filter_map(|port| port.strip_suffix("/tcp").unwrap_or(port).parse().ok()).collect();
    ports.sort_unstable();
    ports
}

//! What a container uses.

use std::path::PathBuf;

use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::{InspectContainerOptionsBuilder, StatsOptionsBuilder};
use futures::StreamExt as _;
use wharf_types::InstanceId;

use crate::container::name_of;
use crate::engine::{Engine, LONG, SHORT, existing};
use crate::error::EngineError;

/// Totals since the start, but for memory and processes, which are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Without what the kernel only keeps of files and gives up when it is needed.
    pub memory_bytes: u64,
    pub cpu_nanos: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub processes: u64,
}

impl Engine {
    /// None: there is no such container, or it does not run. Engines before 23 take up to a second to answer.
    pub async fn usage(&self, id: InstanceId) -> Result<Option<Usage>, EngineError> {
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let mut stats = self.docker.stats(&name_of(id), Some(options));
        let read = async { stats.next().await.transpose() };
        let found = existing(self.call("measure the container", SHORT, read).await)?.flatten();
        Ok(found.filter(is_running).map(|stats| usage_of(&stats)))
    }
}

impl Engine {
    /// What a container has written outside its volumes, in octets. None: there is no such container. The engine walks through all of it to know.
    pub async fn written(&self, id: InstanceId) -> Result<Option<u64>, EngineError> {
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let name = name_of(id);
        let looked = self.docker.inspect_container(&name, Some(options));
        let found = existing(self.call("measure what the container has written", LONG, looked).await)?;
        Ok(found.and_then(|found| u64::try_from(found.size_rw?).ok()))
    }

    /// Where the engine has images, and what containers write.
    pub async fn folder(&self) -> Result<Option<PathBuf>, EngineError> {
        let info = self.call("ask for its state", SHORT, self.docker.info()).await?;
        Ok(info.docker_root_dir.map(PathBuf::from))
    }
}

/// Of one that does not run the engine gives noughts.
fn is_running(stats: &ContainerStatsResponse) -> bool {
    stats.pids_stats.as_ref().and_then(|pids| pids.current).is_some_and(|current| current > 0)
}

fn usage_of(stats: &ContainerStatsResponse) -> Usage {
    let memory = stats.memory_stats.as_ref();
    let of_memory = |name| memory.and_then(|memory| memory.stats.as_ref()?.get(name).copied());
    // As version 1 and version 2 of control groups call it.
    let files = of_memory("total_inactive_file").or_else(|| of_memory("inactive_file")).unwrap_or(0);
    let networks = stats.networks.iter().flat_map(|networks| networks.values());
    Usage {
        memory_bytes: memory.and_then(|memory| memory.usage).unwrap_or(0).saturating_sub(files),
        cpu_nanos: stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage).unwrap_or(0),
        received_bytes: networks.clone().filter_map(|network| network.rx_bytes).sum(),
        sent_bytes: networks.filter_map(|network| network.tx_bytes).sum(),
        processes: stats.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or(0),
    }
}

//! `resources` of a container: what is set aside for it, and what bounds it.

use wharf_types::quantity::{ByteSize, CpuShare};
use wharf_types::spec::ContainerSpec;

use crate::at::At;
use crate::finding::Sink;
use crate::quantity::{bytes, processors};
use crate::workload::Workload;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amounts {
    pub(crate) memory: Option<ByteSize>,
    pub(crate) cpu: Option<CpuShare>,
    /// Beside its volumes.
    pub(crate) disk: Option<ByteSize>,
}

/// Requests and limits.
pub(crate) fn resources(workload: &Workload<'_>, sink: &mut Sink) -> (Amounts, Amounts) {
    let Some(resources) = workload.container.get("resources") else { return Default::default() };
    let limits = amounts(&resources, "limits", workload.is_wasm, sink);
    let requests = amounts(&resources, "requests", workload.is_wasm, sink);
    if let (Some(request), Some(limit)) = (requests.memory, limits.memory)
        && request > limit
    {
        sink.refuse(&resources.near("requests.memory"), format!("it is more than the limit, {limit}"));
    }
    if let Some(cpu) = limits.cpu.filter(|_| workload.is_wasm) {
        let message = format!(
            "guests share the processors of their node in short turns, and have no limit such as {cpu} of their own"
        );
        sink.notice(&resources.near("limits.cpu"), message);
    }
    // As a cluster has it: what has a limit only requests that.
    let requests =
        Amounts { memory: requests.memory.or(limits.memory), cpu: requests.cpu.or(limits.cpu), disk: None };
    (requests, limits)
}

fn amounts(resources: &At<'_>, field: &str, is_wasm: bool, sink: &mut Sink) -> Amounts {
    let mut amounts = Amounts::default();
    for (name, at) in resources.entries(field) {
        match name {
            "memory" => amounts.memory = bytes(&at, sink),
            "cpu" => amounts.cpu = processors(&at, sink),
            "ephemeral-storage" if field == "limits" && !is_wasm => amounts.disk = bytes(&at, sink),
            "ephemeral-storage" if is_wasm => {
                sink.notice(&at, "a guest writes to its volumes only; it is left out");
            }
            "ephemeral-storage" => {
                sink.notice(&at, "nodes set no disk aside for an instance; it is left out");
            }
            _ => sink.refuse(
                &at,
                "nodes count memory and processors only; leave it out, and choose nodes by a label",
            ),
        }
    }
    amounts
}

/// The bound of a container's memory.
pub(crate) fn memory(
    workload: &Workload<'_>,
    requests: &Amounts,
    limits: &Amounts,
    sink: &mut Sink,
) -> ByteSize {
    limits.memory.unwrap_or_else(|| {
        let usual = ContainerSpec::MEMORY_USUAL;
        let memory = requests.memory.map_or(usual, |asked| asked.max(usual));
        let message = format!(
            "the container has no limit of its memory, and an app always has one: it is {memory}; write `limits.memory` if that is not enough"
        );
        sink.notice(&workload.container.near("resources"), message);
        memory
    })
}

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
}

/// Requests and limits.
pub(crate) fn resources(workload: &Workload<'_>, sink: &mut Sink) -> (Amounts, Amounts) {
    let Some(resources) = workload.container.get("resources") else { return Default::default() };
    let limits = amounts(&resources, "limits", sink);
    let requests = amounts(&resources, "requests", sink);
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
    let requests = Amounts { memory: requests.memory.or(limits.memory), cpu: requests.cpu.or(limits.cpu) };
    (requests, limits)
}

fn amounts(resources: &At<'_>, field: &str, sink: &mut Sink) -> Amounts {
    let mut amounts = Amounts::default();
    for (name, at) in resources.entries(field) {
        match name {
            "memory" => amounts.memory = bytes(&at, sink),
            "cpu" => amounts.cpu = processors(&at, sink),
            "ephemeral-storage" => {
                sink.notice(
                    &at,
                    "what an instance writes beside its volumes is not counted by app; it is left out",
                );
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

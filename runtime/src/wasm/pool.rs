//! The pool that stores are made from: how much of it there is, and what a guest needs of it.

use wasmtime::{Enabled, PoolingAllocationConfig};
use wharf_types::node::ReasonKind;
use wharf_types::quantity::ByteSize;

use super::compiled::Compiled;
use crate::backend::Failure;

/// Stores that may live at once; each needs at least one component instance, memory and stack of the pool.
pub(super) const STORES_MAX: usize = 1000;

/// Largest memory of a guest, which is also the address space that a slot of the pool reserves.
pub(super) const MEMORY_MAX_BYTES: usize = 4 << 30;

/// Largest table of a guest. JavaScript and Python guests need more than wasmtime's 20,000.
pub(super) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Slots that nobody uses and that keep up to 10 MiB of their last guest, so at most about 1 GiB.
const WARM_SLOTS_MAX: u32 = 100;

pub(super) fn pool() -> PoolingAllocationConfig {
    let stores = STORES_MAX as u32;
    let mut pool = PoolingAllocationConfig::new();
    // A component has several core instances and tables: the guest, adapters, shims.
    pool.total_component_instances(stores)
        .total_core_instances(8 * stores)
        .total_memories(2 * stores)
        .total_tables(4 * stores)
        .total_stacks(2 * stores)
        .max_memories_per_component(16)
        .max_tables_per_component(64)
        .max_core_instances_per_component(200)
        .max_memories_per_module(2)
        .max_tables_per_module(8)
        .max_memory_size(MEMORY_MAX_BYTES)
        .table_elements(TABLE_ELEMENTS_MAX)
        // Those guests need more than wasmtime's 1 MiB, too.
        .max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        .max_unused_warm_slots(WARM_SLOTS_MAX)
        .linear_memory_keep_resident(10 << 20)
        .table_keep_resident(1 << 20)
        .async_stack_keep_resident(256 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Places that a store of this takes, 1 for nearly all: the pool has two memories and four tables for each place.
pub(super) fn places_for(compiled: &Compiled) -> u32 {
    let Some(needs) = compiled.needs() else { return 1 };
    needs.num_memories.div_ceil(2).max(needs.num_tables.div_ceil(4)).max(1)
}

/// Whether the engine's pool has room for what a store of this needs at once; the text says what it lacks.
pub(super) fn check_resources(compiled: &Compiled, memory_max_bytes: u64) -> Result<(), Failure> {
    let Some(needs) = compiled.needs() else { return Ok(()) };
    let refuse = |text: String| Err(Failure::new(ReasonKind::Artifact, text));
    if needs.num_memories > 16 {
        return refuse(format!("it has {} memories, and 16 is the most", needs.num_memories));
    }
    if needs.num_tables > 64 {
        return refuse(format!("it has {} tables, and 64 is the most", needs.num_tables));
    }
    if let Some(table) = needs.max_initial_table_size
        && table > TABLE_ELEMENTS_MAX as u64
    {
        return refuse(format!("it has a table of {table} elements, and {TABLE_ELEMENTS_MAX} is the most"));
    }
    let initial = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(64 << 10);
    if initial > memory_max_bytes.min(MEMORY_MAX_BYTES as u64) {
        return refuse(too_large(initial, memory_max_bytes));
    }
    Ok(())
}

/// In words: a limit that no guest reaches is the platform's own.
fn too_large(initial: u64, memory_max_bytes: u64) -> String {
    let (begins, limit) = (ByteSize::bytes(initial), ByteSize::bytes(memory_max_bytes));
    if initial <= memory_max_bytes {
        let most = ByteSize::bytes(MEMORY_MAX_BYTES as u64);
        return format!("its memory begins with {begins}, and {most} is the most that any app gets");
    }
    format!("its memory begins with {begins}, more than `limits.memory`, {limit}; raise the limit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_differ_are_written_so_that_they_do() {
        let told = too_large(17 << 16, 1 << 20);
        assert!(told.contains("begins with 1088KiB, more than `limits.memory`, 1MiB"), "{told}");
        let told = too_large(5 << 30, 6 << 30);
        assert!(told.contains("4GiB is the most") && !told.contains("raise"), "{told}");
    }
}

//! The pool that stores are made from: how much of it there is, and what a guest needs of it.

use wasmtime::{Enabled, PoolingAllocationConfig};
use wharf_types::node::ReasonKind;
use wharf_types::quantity::ByteSize;

use super::compiled::Compiled;
use super::engine::Profile;
use crate::backend::Failure;

/// Stores that may live at once; each needs at least one component instance, memory and stack of the pool.
pub(super) const STORES_MAX: usize = 1000;

/// Memories and tables of a component.
const MEMORIES_MAX: u32 = 16;
const TABLES_MAX: u32 = 64;

/// Core instances of a component. Of Python there may be dozens: each library is one.
const CORE_INSTANCES_MAX: u32 = 200;

/// Stacks for each place.
const STACKS_EACH: u32 = 2;

/// Requests that may be in stores where another one was before them. Each may have a stack, if it waits in a call that blocks.
pub(super) const JOINED_MAX: u64 = 2 * STORES_MAX as u64;

/// Largest memory of a guest, which is also the address space that a slot of the pool reserves.
pub(super) const MEMORY_MAX_BYTES: usize = 4 << 30;

/// Largest table of a guest. JavaScript and Python guests need more than wasmtime's 20,000.
pub(super) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Slots that nobody uses and that keep up to 10 MiB of their last guest, so at most about 1 GiB.
const WARM_SLOTS_MAX: u32 = 100;

pub(super) fn pool(profile: Profile) -> PoolingAllocationConfig {
    let stores = STORES_MAX as u32;
    let mut pool = PoolingAllocationConfig::new();
    // Only there do requests share a store, and only there does a store have more than one stack.
    let joined = if profile == Profile::Concurrent { JOINED_MAX as u32 } else { 0 };
    // A component has several core instances and tables: the guest, adapters, shims. The pool sets nothing aside for core instances, it only counts them;
    // so there are as many as stores could have at the most, and nobody can use up what others need of them.
    pool.total_component_instances(stores)
        .total_core_instances(CORE_INSTANCES_MAX * stores)
        .total_memories(2 * stores)
        .total_tables(4 * stores)
        .total_stacks(STACKS_EACH * stores + joined)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
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
    // It may need whatever the pool lets any component have.
    let Some(needs) = compiled.needs() else { return places(MEMORIES_MAX, TABLES_MAX) };
    places(needs.num_memories, needs.num_tables)
}

fn places(memories: u32, tables: u32) -> u32 {
    memories.div_ceil(2).max(tables.div_ceil(4)).max(1)
}

/// Whether the engine's pool has room for what a store of this needs at once; the text says what it lacks.
pub(super) fn check_resources(compiled: &Compiled, memory_max_bytes: u64) -> Result<(), Failure> {
    let Some(needs) = compiled.needs() else { return Ok(()) };
    let refuse = |text: String| Err(Failure::new(ReasonKind::Artifact, text));
    if needs.num_memories > MEMORIES_MAX {
        return refuse(format!("it has {} memories, and {MEMORIES_MAX} is the most", needs.num_memories));
    }
    if needs.num_tables > TABLES_MAX {
        return refuse(format!("it has {} tables, and {TABLES_MAX} is the most", needs.num_tables));
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
    fn a_store_takes_as_many_places_as_its_part_of_the_pool_needs() {
        assert_eq!([places(0, 0), places(1, 3), places(2, 4), places(3, 4), places(2, 5)], [1, 1, 1, 2, 2]);
        assert_eq!(places(MEMORIES_MAX, TABLES_MAX), 16);
    }

    #[test]
    fn sizes_that_differ_are_written_so_that_they_do() {
        let told = too_large(17 << 16, 1 << 20);
        assert!(told.contains("begins with 1088KiB, more than `limits.memory`, 1MiB"), "{told}");
        let told = too_large(5 << 30, 6 << 30);
        assert!(told.contains("4GiB is the most") && !told.contains("raise"), "{told}");
    }
}

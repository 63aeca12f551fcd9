//! The wasmtime engine, its pool and its clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Length of one epoch. A guest that has computed for two of them is moved off the request threads, so this bounds
/// how long it can keep one of them; shorter ticks cost wake-ups.
pub const TICK: Duration = Duration::from_millis(1);

/// Stores that may live at once; each needs at least one component instance, memory and stack of the pool.
pub const STORES_MAX: usize = 1000;

/// Largest memory of a guest, which is also the address space that a slot of the pool reserves.
pub const MEMORY_MAX_BYTES: usize = 4 << 30;

/// Whether an engine only compiles, or also runs what was compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reserves no pool. What it compiles is what a `Run` engine accepts.
    Compile,
    Run,
}

/// The engine for short requests: memory accesses are checked explicitly, so that growing a memory needs no system call,
/// and resetting a slot touches only pages that were written.
///
/// Measured against guard pages on a hello-world component with a new instance per request: about twice the requests a
/// second, for about 1.5 times the time in loops that live in memory.
pub fn config(purpose: Purpose) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.wasm_component_model_async(true);
    config.epoch_interruption(true);
    config.signals_based_traps(false);
    config.memory_guard_size(0);
    config.memory_reservation(MEMORY_MAX_BYTES as u64);
    config.memory_reservation_for_growth(0);
    config.memory_init_cow(true);
    // Registering unwind tables is quadratic in the number of loaded components, and nothing of ours unwinds by them.
    config.native_unwind_info(false);
    config.generate_address_map(false);
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16));
    if purpose == Purpose::Run {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
    }
    config
}

fn pool() -> PoolingAllocationConfig {
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
        // JavaScript and Python guests need more than wasmtime's 20,000 elements and 1 MiB.
        .table_elements(100_000)
        .max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        .max_unused_warm_slots(stores)
        .linear_memory_keep_resident(10 << 20)
        .table_keep_resident(1 << 20)
        .async_stack_keep_resident(256 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Advances the engine's epoch from a thread of its own, so that guests cannot starve it.
///
/// While no guest runs it ticks every 10 ms only, which is next to no work on an idle host.
#[derive(Debug)]
pub struct Ticker {
    running: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ticker {
    /// `active` counts the guests that are being polled or wait to be.
    pub fn spawn(engine: Engine, active: Arc<AtomicU64>) -> std::io::Result<Self> {
        let running = Arc::new(AtomicBool::new(true));
        let thread = std::thread::Builder::new().name("epoch".into()).spawn({
            let running = running.clone();
            move || {
                let mut idle_ticks = 0_u32;
                while running.load(Ordering::Relaxed) {
                    std::thread::sleep(if idle_ticks > 50 { 10 * TICK } else { TICK });
                    if active.load(Ordering::Relaxed) == 0 {
                        idle_ticks = idle_ticks.saturating_add(1);
                    } else {
                        idle_ticks = 0;
                        engine.increment_epoch();
                    }
                }
            }
        })?;
        Ok(Self { running, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the ticker has been printed already, and there is nothing left to save.
            let _ = thread.join();
        }
    }
}

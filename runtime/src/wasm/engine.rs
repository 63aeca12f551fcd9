//! The wasmtime engines, their pools and their clock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy};

use super::failure::chain;
use super::module::{self, ModuleState};
use super::pool::{MEMORY_MAX_BYTES, pool};
use super::state::{State, linker};

/// Length of one epoch. A guest that has computed for two of them is moved off the request threads, so this bounds
/// how long it can keep one of them; shorter ticks cost wake-ups.
pub const TICK: Duration = Duration::from_millis(1);

/// What an engine is good at. What is compiled for one of them does not run in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Short requests, each in a new instance. One call at a time, which is all that WASI 0.2 knows: each call between guest and
    /// host is spared the bookkeeping of concurrent tasks, which is a large part of what a short request costs. Memory
    /// accesses are checked by instructions, so that growing a memory needs no system call.
    Short,
    /// Long computations: as before, but memory accesses out of bounds end in guard pages, which makes loops that live in memory
    /// faster, and a new instance dearer.
    Long,
    /// Asynchronous functions, streams and futures of the component model: WASI 0.3. Guard pages, since many requests share an
    /// instance.
    Concurrent,
}

impl Profile {
    pub const ALL: [Self; 3] = [Self::Short, Self::Long, Self::Concurrent];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::Concurrent => "concurrent",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.as_str() == name)
    }
}

/// Whether an engine only compiles, or also runs what was compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reserves no pool. What it compiles is what a `Run` engine accepts.
    Compile,
    Run,
}

/// An engine's settings. Resetting a slot of its pool touches only pages that were written.
///
/// Explicit bounds checks were measured against guard pages on a hello-world component with a new instance per request: about twice
/// the requests a second, for about 1.5 times the time in loops that live in memory.
pub fn config(profile: Profile, purpose: Purpose) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    let is_concurrent = profile == Profile::Concurrent;
    config.wasm_component_model_async(is_concurrent);
    config.concurrency_support(is_concurrent);
    config.epoch_interruption(true);
    if profile == Profile::Short {
        config.signals_based_traps(false);
        config.memory_guard_size(0);
    }
    config.memory_reservation(MEMORY_MAX_BYTES as u64);
    config.memory_reservation_for_growth(0);
    config.memory_init_cow(true);
    // Registering unwind tables is quadratic in the number of loaded components, and nothing of ours unwinds by them.
    config.native_unwind_info(false);
    config.generate_address_map(false);
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16));
    if purpose == Purpose::Run {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(profile)));
    }
    config
}

/// Whether guests run, which is what the ticker needs to know.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Stores that may run at any time, however long it is since they were polled.
    stores: AtomicU64,
    /// Whether a guest has been polled since the last look. Counting polls would make all cores write to one cache line for
    /// each request.
    polled: AtomicBool,
}

impl Activity {
    /// A guest is about to be polled.
    pub(super) fn note_poll(&self) {
        if !self.polled.load(Ordering::Relaxed) {
            self.polled.store(true, Ordering::Relaxed);
        }
    }

    /// A store that may run at any time exists until the result is dropped.
    pub(super) fn hold(self: &Arc<Self>) -> Held {
        self.stores.fetch_add(1, Ordering::Relaxed);
        Held(self.clone())
    }

    fn look(&self) -> bool {
        (self.polled.load(Ordering::Relaxed) && self.polled.swap(false, Ordering::Relaxed))
            || self.stores.load(Ordering::Relaxed) > 0
    }
}

/// Keeps the ticker awake.
pub(super) struct Held(Arc<Activity>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.stores.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long the ticker waits: an epoch, or, where no guest has been seen for [`DOZE_AFTER`] epochs, ten of them, which is next to
/// no work on an idle host. A guest that computes is polled anew at the end of each epoch, and so is seen.
#[derive(Debug, Default)]
struct Pace {
    idle_ticks: u32,
}

const DOZE_AFTER: u32 = 50;

impl Pace {
    fn next(&mut self, has_guests: bool) -> Duration {
        self.idle_ticks = if has_guests { 0 } else { self.idle_ticks.saturating_add(1) };
        if self.idle_ticks > DOZE_AFTER { 10 * TICK } else { TICK }
    }
}

/// One engine for each profile. Those that not every platform needs are made when the first component needs them: a pool
/// takes memory and time.
pub struct Engines {
    short: Hall,
    long: OnceLock<Result<Hall, String>>,
    concurrent: OnceLock<Result<Hall, String>>,
}

/// An engine with what its guests can import.
pub(super) struct Hall {
    pub(super) engine: Engine,
    pub(super) linker: Linker<State>,
    /// For core modules.
    pub(super) modules: wasmtime::Linker<ModuleState>,
}

impl Hall {
    fn new(profile: Profile) -> wasmtime::Result<Self> {
        let engine = Engine::new(&config(profile, Purpose::Run))?;
        let linker = linker(&engine, profile)?;
        let modules = module::linker(&engine)?;
        Ok(Self { engine, linker, modules })
    }
}

impl Engines {
    pub fn new() -> wasmtime::Result<Self> {
        Ok(Self { short: Hall::new(Profile::Short)?, long: OnceLock::new(), concurrent: OnceLock::new() })
    }

    /// The text of the error says why there is no such engine.
    pub(super) fn get(&self, profile: Profile) -> Result<&Hall, String> {
        let later = match profile {
            Profile::Short => return Ok(&self.short),
            Profile::Long => &self.long,
            Profile::Concurrent => &self.concurrent,
        };
        later.get_or_init(|| Hall::new(profile).map_err(|error| chain(&error))).as_ref().map_err(Clone::clone)
    }

    /// Memory that nobody uses and the pools keep for their next guests, in octets.
    pub(super) fn kept_bytes(&self) -> u64 {
        let kept = self.made().filter_map(|hall| hall.engine.pooling_allocator_metrics()).map(|pool| {
            pool.unused_memory_bytes_resident()
                + pool.unused_table_bytes_resident()
                + pool.unused_stack_bytes_resident().unwrap_or(0)
        });
        kept.sum::<usize>() as u64
    }

    fn end_epoch(&self) {
        self.made().for_each(|hall| hall.engine.increment_epoch());
    }

    /// Those that are there.
    fn made(&self) -> impl Iterator<Item = &Hall> {
        let later = [&self.long, &self.concurrent].into_iter().filter_map(|later| later.get()?.as_ref().ok());
        std::iter::once(&self.short).chain(later)
    }
}

/// Ends epochs from a thread of its own, so that guests cannot starve it.
#[derive(Debug)]
pub struct Ticker {
    running: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ticker {
    pub(super) fn spawn(engines: Arc<Engines>, activity: Arc<Activity>) -> std::io::Result<Self> {
        let running = Arc::new(AtomicBool::new(true));
        let thread = std::thread::Builder::new().name("epoch".into()).spawn({
            let running = running.clone();
            move || {
                let mut pace = Pace::default();
                while running.load(Ordering::Relaxed) {
                    std::thread::sleep(pace.next(activity.look()));
                    engines.end_epoch();
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

#[cfg(test)]
mod tests {
    use wasmtime::component::Component;

    use super::*;

    #[test]
    fn the_ticker_dozes_while_nothing_runs_and_wakes_with_the_next_guest() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(true), TICK);
        let awake = (0..1000).take_while(|_| pace.next(false) == TICK).count();
        assert_eq!(awake, DOZE_AFTER as usize);
        assert_eq!(pace.next(false), 10 * TICK);
        assert_eq!(pace.next(true), TICK);
    }

    #[test]
    fn an_engine_that_not_everybody_needs_is_made_when_it_is_needed() {
        let engines = Engines::new().unwrap();
        assert!(engines.long.get().is_none() && engines.concurrent.get().is_none());
        let empty = wat::parse_str("(component)").unwrap();
        for profile in Profile::ALL {
            let hall = engines.get(profile).unwrap();
            Component::new(&hall.engine, &empty).unwrap();
            assert_eq!(Profile::from_name(profile.as_str()), Some(profile));
        }
        assert!(engines.long.get().is_some() && engines.concurrent.get().is_some());
    }

    #[test]
    fn a_poll_is_seen_once_and_a_held_store_all_the_time() {
        let activity = Arc::new(Activity::default());
        activity.note_poll();
        assert!(activity.look() && !activity.look());
        let held = activity.hold();
        assert!(activity.look() && activity.look());
        drop(held);
        assert!(!activity.look());
    }
}

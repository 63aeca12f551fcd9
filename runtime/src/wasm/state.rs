//! What the host keeps for one guest store: its WASI context, its limits, its grants.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{AsContextMut, Engine, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::cpu::{EpochEnd, at_epoch_end};
use super::engine::Profile;
use super::failure::CpuExhausted;
use super::files::Mount;
use super::keyvalue::{KeyValue, KeyValueHost};
use super::memory::{Denied, HANDLE_BYTES, HostMemory, Limits};
use super::meter::Meter;
use super::outbound::{
    Hooks, Outbound, Policy, bound_sockets, count_sockets, lead_connections, look_up_names,
    tell_codes_of_bodies,
};
use super::places::Place;
use super::profiler::Profiler;
use super::shared::StorePlace;
use super::volumes::{self, Mounts, VolumeHandles};

/// Handles of a store over all its resource tables: streams, bodies, pollables.
pub(super) const HANDLES_MAX: usize = 10_000;
/// What one host call may copy out of the guest.
const HOSTCALL_BYTES_MAX: usize = 64 << 20;

/// The data of a component's store.
pub struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    pub(super) table: ResourceTable,
    pub(super) volumes: VolumeHandles,
    pub(super) hooks: Hooks,
    pub(super) policy: Arc<Policy>,
    /// The sockets of WASI 0.3, by their places in the table, whose octets count once they send.
    pub(super) paying: HashSet<u32>,
    keyvalue: KeyValueHost,
    config: Arc<WasiConfigVariables>,
    pub(super) bounds: Bounds,
}

/// What bounds the guest of a store, whatever else that may use.
pub(super) struct Bounds {
    limits: Limits,
    /// The CPU time that an invocation may use.
    cpu_max: Duration,
    profiler: Option<Arc<Profiler>>,
    /// The store's place in the engine's pool.
    place: Option<Place>,
}

impl Bounds {
    pub(super) fn new(template: &Template) -> Self {
        let Template { meter, host_memory, memory_max_bytes, cpu_max, profiler, .. } = template;
        Self {
            limits: Limits::new(meter.clone(), host_memory.clone(), *memory_max_bytes),
            cpu_max: *cpu_max,
            profiler: profiler.clone(),
            place: None,
        }
    }

    /// Keeps the store's place in the pool until the store is gone.
    pub(super) fn hold(&mut self, place: impl Into<Option<Place>>) {
        self.place = place.into();
    }

    /// The same, with the memory that was set aside for it.
    pub(super) fn settle(&mut self, StorePlace { pool, room }: StorePlace) {
        self.place = Some(pool);
        self.limits.settle(room);
    }

    /// The guest is about to get a request, and has none: what it was refused before says nothing of how this one ends.
    pub(super) fn forget_denied(&mut self) {
        self.limits.denied = None;
    }

    /// The CPU time that an invocation may use.
    pub(super) fn cpu_max(&self) -> Duration {
        self.cpu_max
    }

    /// Why the guest was refused memory, if it was.
    pub(super) fn denied(&self) -> Option<Denied> {
        self.limits.denied
    }
}

/// The data of a store whose guest is bounded.
pub(super) trait Bounded: Send + 'static {
    fn bounds(&mut self) -> &mut Bounds;
    /// What the host keeps for the guest until it is given back.
    fn handles(&mut self) -> &mut ResourceTable;
}

impl Bounded for State {
    fn bounds(&mut self) -> &mut Bounds {
        &mut self.bounds
    }

    fn handles(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

/// Everything that the stores of one release have in common.
pub struct Template {
    pub(super) config: Arc<WasiConfigVariables>,
    pub(super) keyvalue: KeyValueHost,
    pub(super) outbound: Arc<Outbound>,
    pub(super) meter: Arc<Meter>,
    pub(super) host_memory: Arc<HostMemory>,
    pub(super) memory_max_bytes: u64,
    pub(super) cpu_max: Duration,
    pub(super) profiler: Option<Arc<Profiler>>,
    /// Files that the guest can read.
    pub(super) mount: Option<Mount>,
    pub(super) volumes: Option<Arc<Mounts>>,
}

impl State {
    pub(super) fn new(wasi: WasiCtx, template: &Template) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        Self {
            wasi,
            http: WasiHttpCtx::new(),
            table,
            volumes: VolumeHandles::new(template.volumes.clone()),
            hooks: Hooks::new(template.outbound.clone()),
            policy: template.outbound.policy().clone(),
            paying: HashSet::new(),
            keyvalue: template.keyvalue.clone(),
            config: template.config.clone(),
            bounds: Bounds::new(template),
        }
    }
}

/// A store that interrupts its guest: at the end of each epoch it yields, and when the CPU budget is used up it ends.
pub(super) fn new_store<T: Bounded>(engine: &Engine, state: T) -> Store<T> {
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.bounds().limits);
    store.set_max_component_handles(HANDLES_MAX);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    begin_epoch(&mut store);
    store.epoch_deadline_callback(|mut context| {
        if let Some(profiler) = context.data_mut().bounds().profiler.clone() {
            profiler.sample(&context);
        }
        let state = context.data_mut();
        // Here, because what a guest opens and keeps takes time, and each guest that takes time comes by.
        let open = state.handles().iter_mut().count() as u64;
        let bounds = state.bounds();
        if !bounds.limits.count_handles(open) {
            return Err(TooManyHandles(open).into());
        }
        let cpu_max = bounds.cpu_max;
        // A guest that nobody times is one that is made and not called.
        let end = at_epoch_end().unwrap_or(EpochEnd { spent: Duration::ZERO, just_resumed: false });
        if end.spent >= cpu_max {
            return Err(CpuExhausted(cpu_max).into());
        }
        if end.just_resumed {
            return Ok(UpdateDeadline::Continue(1));
        }
        Ok(match bounds.limits.owed() {
            // The guests of the namespace have computed for as long as they may together.
            Some(owed) => UpdateDeadline::YieldCustom(1, Box::pin(tokio::time::sleep(owed))),
            None => UpdateDeadline::Yield(1),
        })
    });
    store
}

/// The guest is about to get something to do; the epochs in which it waited are over.
pub(super) fn begin_epoch(mut store: impl AsContextMut<Data: Bounded>) {
    let mut store = store.as_context_mut();
    // Two, because the epoch may tick a moment after the guest has started; that is just what a profiler wants to see.
    let epochs = if store.data_mut().bounds().profiler.is_some() { 1 } else { 2 };
    store.set_epoch_deadline(epochs);
}

/// Ends a guest whose open handles, with what the host may keep behind them, do not fit beside its memory.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it has {open} open handles, which count {each} KiB each", open = .0, each = HANDLE_BYTES >> 10)]
struct TooManyHandles(u64);

impl State {
    pub(super) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// A linker with everything that [`wharf_types::world::is_provided`] promises, as far as the profile allows it.
pub fn linker(engine: &Engine, profile: Profile) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if profile == Profile::Concurrent {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    bound_sockets(&mut linker, profile)?;
    look_up_names(&mut linker, profile)?;
    lead_connections(&mut linker, profile)?;
    count_sockets(&mut linker, profile)?;
    tell_codes_of_bodies(&mut linker)?;
    volumes::link(&mut linker, profile)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |state: &mut State| WasiConfig::new(&state.config))?;
    super::keyvalue::add_to_linker(&mut linker, |state: &mut State| {
        KeyValue::new(&state.keyvalue, &mut state.table, &mut state.bounds.limits)
    })?;
    Ok(linker)
}

/// A WASI context that reaches nothing: no files, no sockets, an empty stdin.
pub(super) fn closed_wasi() -> WasiCtxBuilder {
    let mut wasi = WasiCtxBuilder::new();
    wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    wasi
}

#[cfg(test)]
mod tests {
    use super::super::engine::{Purpose, config};
    use super::*;

    /// Links a component that imports one function without arguments that returns a `u64`.
    fn links(profile: Profile, interface: &str, function: &str) -> wasmtime::Result<()> {
        let engine = Engine::new(&config(profile, Purpose::Compile))?;
        let text = format!(
            r#"(component (import "{interface}" (instance (export "{function}" (func (result u64))))))"#
        );
        let component = wasmtime::component::Component::new(&engine, wat::parse_str(text)?)?;
        linker(&engine, profile)?.instantiate_pre(&component).map(drop)
    }

    #[test]
    fn later_patch_versions_link_and_are_promised() {
        for (version, profiles) in [
            ("0.2.0", Profile::ALL.as_slice()),
            ("0.2.12", &Profile::ALL),
            ("0.3.0", &[Profile::Concurrent]),
            ("0.3.2", &[Profile::Concurrent]),
        ] {
            let random = format!("wasi:random/random@{version}");
            assert!(wharf_types::world::is_provided(&random), "{random}");
            for profile in profiles {
                if let Err(error) = links(*profile, &random, "get-random-u64") {
                    panic!("{random}: {error:#}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_promised_does_not_link() {
        for interface in
            ["wasi:nn/tensor@0.2.0", "wasi:random/random@0.4.0", "wasi:random/random@0.3.0-rc-2026-03-15"]
        {
            assert!(!wharf_types::world::is_provided(interface), "{interface}");
            for profile in Profile::ALL {
                assert!(links(profile, interface, "get-random-u64").is_err(), "{interface}");
            }
        }
    }
}

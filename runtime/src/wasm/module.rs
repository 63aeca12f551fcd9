//! Core modules of WASI 0.1: commands that run as they are, without being made into components.
//!
//! They get `wasi_snapshot_preview1` and nothing else of what components get: no sockets, no HTTP, no key-value store. Whatever
//! bounds a component bounds them too.

use wasmtime::{Engine, InstancePre, Linker, Module, Store};
use wasmtime_wasi::p1::{WasiP1Ctx, add_to_linker_async};
use wasmtime_wasi::{I32Exit, ResourceTable, WasiCtxBuilder, WasiView};
use wharf_types::node::ReasonKind;
use wharf_types::world::{WASI_P1, is_provided_function};

use super::failure::chain;
use super::state::{Bounded, Bounds, Template};
use crate::backend::Failure;

/// What a command exports to be run.
const START: &str = "_start";

/// Handles of a module, nearly all of them open files. The engine's `path_open` cannot be asked to leave file handles of this process to
/// others, as the functions for components are, so a module gets fewer.
const HANDLES_MAX: usize = 1_000;

/// The data of a module's store.
pub struct ModuleState {
    wasi: WasiP1Ctx,
    pub(super) bounds: Bounds,
}

impl ModuleState {
    pub(super) fn new(wasi: &mut WasiCtxBuilder, template: &Template) -> Self {
        let mut state = Self { wasi: wasi.build_p1(), bounds: Bounds::new(template) };
        state.handles().set_max_capacity(HANDLES_MAX);
        state
    }
}

impl Bounded for ModuleState {
    fn bounds(&mut self) -> &mut Bounds {
        &mut self.bounds
    }

    fn handles(&mut self) -> &mut ResourceTable {
        self.wasi.ctx().table
    }
}

/// A linker with all of WASI 0.1.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<ModuleState>> {
    let mut linker = Linker::new(engine);
    add_to_linker_async(&mut linker, |state: &mut ModuleState| &mut state.wasi)?;
    // Theirs takes codes above 125 for a mistake of the guest.
    linker.allow_shadowing(true);
    linker
        .func_wrap(WASI_P1, "proc_exit", |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) })?;
    Ok(linker)
}

/// Links a module that is a command; the refusal says why it is none.
pub(super) fn link(
    linker: &Linker<ModuleState>,
    module: &Module,
) -> Result<InstancePre<ModuleState>, Failure> {
    let refuse = |text: String| Failure::new(ReasonKind::Artifact, text);
    let is_known =
        |import: &wasmtime::ImportType<'_>| import.module() == WASI_P1 && is_provided_function(import.name());
    if let Some(import) = module.imports().find(|import| !is_known(import)) {
        return Err(refuse(format!(
            "the core module imports `{}` from `{}`, and a core module gets nothing but WASI 0.1 (`{WASI_P1}`); leave it out, or build a \
             component",
            import.name(),
            import.module()
        )));
    }
    let start = module.get_export(START);
    let start = start.as_ref().and_then(wasmtime::ExternType::func);
    if !start.is_some_and(|start| start.params().len() == 0 && start.results().len() == 0) {
        return Err(refuse(format!(
            "the core module exports no function `{START}` without parameters and results, so it is no command; build a program with \
             a `main`, or a component"
        )));
    }
    let linked = linker.instantiate_pre(module);
    linked.map_err(|error| refuse(format!("the core module cannot be linked: {}", chain(&error))))
}

/// Runs a command to its end, which is an error where it ends itself.
pub(super) async fn run(
    pre: &InstancePre<ModuleState>,
    store: &mut Store<ModuleState>,
) -> wasmtime::Result<()> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let start = instance.get_typed_func::<(), ()>(&mut *store, START)?;
    start.call_async(&mut *store, ()).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use wasmtime_wasi_config::WasiConfigVariables;
    use wharf_types::NamespaceName;
    use wharf_types::world::WASI_01;

    use super::super::command::{Command, CommandEnd};
    use super::super::engine::{Engines, Profile, Purpose, Ticker, config};
    use super::super::failure::InvokeError;
    use super::super::keyvalue::KeyValueHost;
    use super::super::lane::Laned;
    use super::super::memory::HostMemory;
    use super::super::meter::Meter;
    use super::super::outbound::Outbound;
    use super::super::state::closed_wasi;
    use super::*;

    fn linked(text: &str) -> Result<(), String> {
        let engine = Engine::new(&config(Profile::Long, Purpose::Compile)).unwrap();
        let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        link(&linker(&engine).unwrap(), &module).map(drop).map_err(|failure| failure.reason.message)
    }

    fn template() -> Template {
        Template {
            config: Arc::new(WasiConfigVariables::new()),
            keyvalue: KeyValueHost::local(NamespaceName::default_namespace(), "app".parse().unwrap()),
            outbound: Arc::new(Outbound::new(&[], None)),
            meter: Arc::default(),
            host_memory: Arc::new(HostMemory::of_this_host()),
            memory_max_bytes: 1 << 20,
            cpu_max: Duration::MAX,
            profiler: None,
            mount: None,
            volumes: None,
        }
    }

    #[tokio::test]
    async fn exactly_what_is_promised_of_wasi_0_1_is_linked() {
        let engine = Engine::new(&config(Profile::Long, Purpose::Compile)).unwrap();
        let mut store = Store::new(&engine, ModuleState::new(&mut closed_wasi(), &template()));
        let linker = linker(&engine).unwrap();
        let linked: BTreeSet<_> = linker.iter(&mut store).map(|(module, name, _)| (module, name)).collect();
        assert_eq!(linked, WASI_01.iter().map(|name| (WASI_P1, *name)).collect());
    }

    #[tokio::test]
    async fn a_program_ends_with_any_code_by_itself() {
        let engine = Engine::new(&config(Profile::Long, Purpose::Compile)).unwrap();
        for code in 0..=255 {
            let text = format!(
                r#"(module (import "{WASI_P1}" "proc_exit" (func $exit (param i32)))
                    (func (export "_start") (call $exit (i32.const {code}))))"#
            );
            let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
            let command = Command::P1(link(&linker(&engine).unwrap(), &module).unwrap());
            assert_eq!(command.run(closed_wasi(), &template(), None).await, CommandEnd::Exit(code));
        }
    }

    #[tokio::test]
    async fn a_budget_of_cpu_time_ends_a_program_with_the_reason() {
        let engines = Arc::new(Engines::new().unwrap());
        let _ticker = Ticker::spawn(engines.clone(), Arc::default()).unwrap();
        let hall = engines.get(Profile::Short).unwrap();
        let text = r#"(module (func (export "_start") (loop $l (br $l))))"#;
        let module = Module::new(&hall.engine, wat::parse_str(text).unwrap()).unwrap();
        let command = Command::P1(link(&hall.modules, &module).unwrap());
        let cpu_max = Duration::from_millis(20);
        let template = Template { cpu_max, ..template() };
        let guest = async move { command.run(closed_wasi(), &template, None).await };
        let end = Laned::new(Box::pin(guest), Arc::<Meter>::default(), 0).await;
        assert_eq!(end, Some(CommandEnd::Trap(InvokeError::Cpu(cpu_max))));
    }

    #[test]
    fn a_module_that_is_no_command_hears_why() {
        let command = r#"(func (export "_start"))"#;
        assert_eq!(linked(&format!("(module {command})")), Ok(()));
        let refused = |text: String| linked(&text).unwrap_err();
        for start in ["", r#"(func (export "_start") (param i32))"#, r#"(memory (export "_start") 1)"#] {
            let error = refused(format!("(module {start})"));
            assert!(error.contains("exports no function `_start`"), "{error}");
        }
        let error = refused(format!(r#"(module (import "env" "light" (func)) {command})"#));
        assert!(error.contains("imports `light` from `env`"), "{error}");
        let error = refused(format!(r#"(module (import "{WASI_P1}" "sock_open" (func)) {command})"#));
        assert!(error.contains("imports `sock_open`"), "{error}");
        let error = refused(format!(r#"(module (import "{WASI_P1}" "sched_yield" (func)) {command})"#));
        assert!(error.contains("cannot be linked") && error.contains("sched_yield"), "{error}");
    }
}

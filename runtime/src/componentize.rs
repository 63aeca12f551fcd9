//! Makes core modules of WASI 0.1 into components, for what WASI 0.1 does not have: HTTP handlers, sockets, the key-value store.
//!
//! A command that needs nothing of the kind runs as it is. As a component it shares its memory with the adapter, which not every
//! language's runtime allows for, and its exit codes become success and failure.
//!
//! The adapters are those of the engine's own version. What a module exports decides between them: an HTTP handler that was
//! bound with a component's types (by `wit-bindgen`, in custom sections that stay readable here), or the `_start` of a
//! command. This module does not check that the host provides what the component imports.

use std::collections::BTreeSet;

use wasi_preview1_component_adapter_provider as adapters;
use wasmparser::{Encoding, ExternalKind, Parser, Payload};
use wit_component::{ComponentEncoder, metadata};

/// Functions of WASI 0.1 that the small proxy adapter carries out. It knows the others only to refuse them (its environment
/// is empty, its exit traps), so a module that imports one of those gets the reactor adapter.
const PROXY_FUNCTIONS: &[&str] =
    &["clock_res_get", "clock_time_get", "fd_write", "random_get", "sched_yield"];

/// Why a module cannot be made into a component.
#[derive(Debug, thiserror::Error)]
pub enum ComponentizeError {
    #[error("the file is not a WebAssembly module; build the app for wasm32-wasip1 or wasm32-wasip2")]
    NotWasm(#[source] wasmparser::BinaryReaderError),
    #[error("the file is a component already; deploy it as it is")]
    AlreadyComponent,
    #[error(
        "the module exports neither `_start` nor an HTTP handler; build a program with a `main`, or an app that exports \
         `wasi:http/incoming-handler` or `wasi:http/handler`"
    )]
    NothingToRun,
    #[error("the module cannot be made into a component")]
    Encode(#[source] anyhow::Error),
}

/// The component of a core module, with the adapter that fits it.
///
/// # Errors
/// When the bytes are no core module, when it has nothing to run, and when its imports are neither WASI 0.1 nor described
/// by embedded component types.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, ComponentizeError> {
    let outline = Outline::read(module)?;
    let adapter = outline.adapter().ok_or(ComponentizeError::NothingToRun)?;
    encode(module, adapter).map_err(ComponentizeError::Encode)
}

fn encode(module: &[u8], adapter: Adapter) -> anyhow::Result<Vec<u8>> {
    ComponentEncoder::default()
        .module(module)?
        .adapter(adapters::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter.bytes())?
        .validate(true)
        .encode()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adapter {
    /// Adds the export `wasi:cli/run`, which calls `_start`.
    Command,
    /// WASI 0.1 without environment and files.
    Proxy,
    /// All of WASI 0.1.
    Reactor,
}

impl Adapter {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Command => adapters::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
            Self::Proxy => adapters::WASI_SNAPSHOT_PREVIEW1_PROXY_ADAPTER,
            Self::Reactor => adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
        }
    }
}

/// What decides about the adapter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outline {
    has_start: bool,
    /// Whether embedded component types export an HTTP handler.
    has_handler: bool,
    /// What the module imports from WASI 0.1.
    wasi_functions: BTreeSet<String>,
}

impl Outline {
    fn read(module: &[u8]) -> Result<Self, ComponentizeError> {
        let mut outline = Self::default();
        let mut has_types = false;
        for payload in Parser::new(0).parse_all(module) {
            match payload.map_err(ComponentizeError::NotWasm)? {
                Payload::Version { encoding: Encoding::Component, .. } => {
                    return Err(ComponentizeError::AlreadyComponent);
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import.map_err(ComponentizeError::NotWasm)?;
                        if import.module == adapters::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME {
                            outline.wasi_functions.insert(import.name.to_owned());
                        }
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export.map_err(ComponentizeError::NotWasm)?;
                        outline.has_start |= export.name == "_start" && export.kind == ExternalKind::Func;
                    }
                }
                Payload::CustomSection(section) => has_types |= section.name().starts_with("component-type"),
                _ => {}
            }
        }
        if has_types {
            outline.has_handler = exports_handler(module).map_err(ComponentizeError::Encode)?;
        }
        Ok(outline)
    }

    /// A handler comes before `_start`: a Rust program has both when its handler is bound in `main.rs`.
    fn adapter(&self) -> Option<Adapter> {
        let proxy_suffices = self.wasi_functions.iter().all(|name| PROXY_FUNCTIONS.contains(&name.as_str()));
        match self {
            Self { has_handler: true, .. } if proxy_suffices => Some(Adapter::Proxy),
            Self { has_handler: true, .. } => Some(Adapter::Reactor),
            Self { has_start: true, .. } => Some(Adapter::Command),
            _ => None,
        }
    }
}

/// Whether the component types inside a module export `wasi:http/incoming-handler` or `wasi:http/handler`.
fn exports_handler(module: &[u8]) -> anyhow::Result<bool> {
    let (_, types) = metadata::decode(module)?;
    let world = &types.resolve.worlds[types.world];
    Ok(world.exports.keys().any(|key| {
        let name = types.resolve.name_world_key(key);
        let path = name.split_once('@').map_or(name.as_str(), |(path, _)| path);
        matches!(path, "wasi:http/incoming-handler" | "wasi:http/handler")
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A module with one function of no parameters and no results, exported under a name.
    fn module_exporting(name: &str) -> Vec<u8> {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        module.extend([1, 4, 1, 0x60, 0, 0]); // type: () -> ()
        module.extend([3, 2, 1, 0]); // function 0 of type 0
        module.extend([5, 3, 1, 0, 1]); // a memory of one page
        let length = u8::try_from(name.len()).unwrap();
        module.extend([7, length + 13, 2, length]);
        module.extend(name.bytes());
        module.extend([0, 0, 6]);
        module.extend(b"memory");
        module.extend([2, 0]);
        module.extend([10, 4, 1, 2, 0, 0x0b]); // an empty body
        module
    }

    fn outline(has_start: bool, has_handler: bool, functions: &[&str]) -> Outline {
        let wasi_functions = functions.iter().map(|&name| name.to_owned()).collect();
        Outline { has_start, has_handler, wasi_functions }
    }

    #[test]
    fn a_program_becomes_a_command() {
        let component = componentize(&module_exporting("_start")).unwrap();
        let exports: Vec<String> = Parser::new(0)
            .parse_all(&component)
            .filter_map(|payload| match payload.unwrap() {
                Payload::ComponentExportSection(section) => Some(section),
                _ => None,
            })
            .flat_map(|section| section.into_iter().map(|export| export.unwrap().name.name.to_owned()))
            .collect();
        assert!(exports.iter().any(|name| name.starts_with("wasi:cli/run@0.2.")), "{exports:?}");
    }

    #[test]
    fn an_exit_of_another_type_is_refused() {
        let program = r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i64)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (i64.const 3))))"#;
        let refused = componentize(&wat::parse_str(program).unwrap());
        assert!(matches!(refused, Err(ComponentizeError::Encode(_))));
    }

    #[test]
    fn a_library_has_nothing_to_run() {
        assert!(matches!(componentize(&module_exporting("add")), Err(ComponentizeError::NothingToRun)));
    }

    #[test]
    fn a_component_is_refused_because_it_needs_nothing() {
        let component = componentize(&module_exporting("_start")).unwrap();
        assert!(matches!(componentize(&component), Err(ComponentizeError::AlreadyComponent)));
    }

    #[test]
    fn a_truncated_module_is_not_wasm() {
        let module = module_exporting("_start");
        assert!(matches!(componentize(&module[..module.len() - 3]), Err(ComponentizeError::NotWasm(_))));
        assert!(matches!(componentize(b""), Err(ComponentizeError::NotWasm(_))));
        assert!(matches!(componentize(b"#!/bin/sh"), Err(ComponentizeError::NotWasm(_))));
    }

    #[test]
    fn a_handler_that_reads_its_environment_gets_the_whole_adapter() {
        assert_eq!(outline(false, true, &["fd_write", "random_get"]).adapter(), Some(Adapter::Proxy));
        assert_eq!(outline(false, true, &["fd_write", "environ_get"]).adapter(), Some(Adapter::Reactor));
    }

    #[test]
    fn a_handler_comes_before_a_main_function() {
        assert_eq!(outline(true, true, &["environ_get"]).adapter(), Some(Adapter::Reactor));
        assert_eq!(outline(true, false, &["environ_get"]).adapter(), Some(Adapter::Command));
    }

    proptest! {
        #[test]
        fn damaged_modules_do_not_panic(position in 8_usize..64, octet in any::<u8>()) {
            let mut module = module_exporting("_start");
            let position = position % module.len();
            module[position] = octet;
            let _ = componentize(&module);
        }
    }
}

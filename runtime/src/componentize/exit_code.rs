//! Lets a program of WASI 0.1 end with any exit code.
//!
//! The command adapter turns `proc_exit` into `wasi:cli/exit#exit`, which knows success and failure only. WASI 0.2.12 has a
//! function that takes a code, and its canonical form has the type of `proc_exit`. So the module is made to import that function
//! itself, and component types that say so are added to it.

use wasm_encoder::reencode::{Reencode as _, RoundtripReencoder};
use wasm_encoder::{ImportSection, Module, RawSection};
use wasmparser::{Parser, Payload};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Where a module of WASI 0.1 finds its exit.
pub(super) const OLD: (&str, &str) = ("wasi_snapshot_preview1", "proc_exit");
/// Where it finds it afterwards.
const NEW: (&str, &str) = ("wasi:cli/exit@0.2.12", "exit-with-code");

/// The interface as WASI has it, so that it is the same as the adapter's.
const TYPES: &str = "
package wharf:program;
world program { import wasi:cli/exit@0.2.12; }
package wasi:cli@0.2.12 {
    interface exit {
        exit: func(status: result);
        exit-with-code: func(status-code: u8);
    }
}";

/// The same module with the new import in the place of the old one.
pub(super) fn keep_exit_code(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut kept = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        if let Payload::ImportSection(section) = payload {
            let mut imports = ImportSection::new();
            for import in section.into_imports() {
                let import = import?;
                let (from, name) = match (import.module, import.name) {
                    OLD => NEW,
                    other => other,
                };
                imports.import(from, name, RoundtripReencoder.entity_type(import.ty)?);
            }
            kept.section(&imports);
        } else if let Some((id, range)) = payload.as_section() {
            kept.section(&RawSection { id, data: &module[range] });
        }
    }
    let mut kept = kept.finish();
    let mut types = Resolve::default();
    let package = types.push_str("program.wit", TYPES)?;
    let world = types.select_world(&[package], None)?;
    embed_component_metadata(&mut kept, &types, world, StringEncoding::UTF8)?;
    Ok(kept)
}

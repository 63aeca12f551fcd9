//! What the readers of artifacts are asked by [`crate::fuzzing`].

use arbitrary::Unstructured;
use wasmparser::{Validator, WasmFeatures};

use super::compile_child::unroll;
use super::surface;

/// What comes out is valid, whatever went in.
pub(crate) fn unrolled(artifact: &[u8]) {
    let Some(after) = unroll(artifact) else { return };
    // Each loop is copied a few times, and everything else once; indices and lengths are written anew.
    assert!(after.len() <= artifact.len() * 8 + 1024, "{} octets became {}", artifact.len(), after.len());
    let valid = |wasm: &[u8]| Validator::new_with_features(WasmFeatures::all()).validate_all(wasm);
    valid(&after).expect("what was valid is valid unrolled");
}

/// The same for modules that are valid from the start: the octets only choose among these.
pub(crate) fn unrolled_modules(choices: &[u8]) {
    let config = wasm_smith::Config { max_imports: 0, ..Default::default() };
    if let Ok(module) = wasm_smith::Module::new(config, &mut Unstructured::new(choices)) {
        unrolled(&module.to_bytes());
    }
}

/// Names at the outermost level are looked for before anything is validated.
pub(crate) fn names(component: &[u8]) {
    let names = surface::names(component);
    assert!(names.iter().map(|name| name.text.len()).sum::<usize>() <= component.len());
    let is_http = surface::is_http(component);
    assert!(!is_http || names.iter().any(|name| name.is_export));
    let _ = super::compiled::is_core_module(component);
}

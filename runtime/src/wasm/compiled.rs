//! What the compiler makes of an artifact: a component, or a core module of WASI 0.1.

use std::path::Path;

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled, ResourcesRequired};

/// Machine code of an artifact, mapped.
#[derive(Clone)]
pub enum Compiled {
    Component(Component),
    Module(Module),
}

impl Compiled {
    /// Compiles an artifact into what [`Self::map`] takes.
    pub(super) fn compile(engine: &Engine, artifact: &[u8]) -> wasmtime::Result<Vec<u8>> {
        match is_core_module(artifact) {
            true => engine.precompile_module(artifact),
            false => engine.precompile_component(artifact),
        }
    }

    /// Maps a file that [`Self::compile`] has made.
    ///
    /// # Safety
    ///
    /// The file is trusted: it was made by the compiler, and nobody has changed it or does so while it is mapped.
    pub(super) unsafe fn map(engine: &Engine, file: &Path) -> wasmtime::Result<Self> {
        // SAFETY: the caller answers for the file.
        unsafe {
            match Engine::detect_precompiled_file(file)? {
                Some(Precompiled::Module) => Module::deserialize_file(engine, file).map(Self::Module),
                _ => Component::deserialize_file(engine, file).map(Self::Component),
            }
        }
    }

    /// What one store of it takes of the pool. None: a component that has others instantiated for it.
    pub(super) fn needs(&self) -> Option<ResourcesRequired> {
        match self {
            Self::Component(component) => component.resources_required(),
            Self::Module(module) => Some(module.resources_required()),
        }
    }
}

/// Whether these are the octets of a core module.
pub(super) fn is_core_module(artifact: &[u8]) -> bool {
    wasmparser::Parser::is_core_wasm(artifact)
}

#[cfg(test)]
mod tests {
    use super::super::engine::{Profile, Purpose, config};
    use super::*;

    #[test]
    fn a_module_stays_a_module_and_a_component_a_component() {
        let engine = Engine::new(&config(Profile::Long, Purpose::Compile)).unwrap();
        let mapped = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let code = Compiled::compile(&engine, &wat::parse_str(text).unwrap()).unwrap();
            std::fs::write(file.path(), code).unwrap();
            // SAFETY: this test has just made the file.
            unsafe { Compiled::map(&engine, file.path()) }.unwrap()
        };
        let module = mapped("(module (memory 3))");
        assert!(matches!(module, Compiled::Module(_)));
        assert_eq!(module.needs().unwrap().max_initial_memory_size, Some(3));
        assert!(matches!(mapped("(component)"), Compiled::Component(_)));
    }
}

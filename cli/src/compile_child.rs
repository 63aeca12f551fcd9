//! The process that compiles artifacts: `wharf __compile LIMITS`, started by the worker.

use std::process::ExitCode;

/// Must be called before any thread or runtime is started: it limits this process.
pub fn main() -> ExitCode {
    wharf_runtime::wasm::compile_child::main()
}

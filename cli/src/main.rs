//! The `wharf` binary. All of it is the library beside it, so that what reads octets from outside can be given to a fuzzer.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    wharf::main()
}

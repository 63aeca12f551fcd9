//! Asks its host about the corners of a command, and tells what it was answered: the suite in `tests/` compares that with the
//! specification. The first argument says about what.

mod clocks;
mod files;
mod sockets;
mod stdio;

use wasip2::cli::exit;
use wasip2::random::{insecure, insecure_seed, random};

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exit", "ok"] => exit::exit(Ok(())),
        ["exit", "err"] => exit::exit(Err(())),
        ["exit", code] => exit::exit_with_code(code.parse().map_err(|_| "it is no exit code")?),
        ["return", "err"] => return Err("asked to fail".to_owned()),
        ["world", ..] => world(),
        ["stdin"] => stdio::count_stdin(),
        ["stdout", lines] => stdio::print(lines.parse().map_err(|_| "it is no number")?),
        ["terminals"] => stdio::tell_terminals(),
        ["clocks"] => clocks::report(),
        ["random"] => tell_random(),
        ["files"] => files::report(),
        ["sockets", port] => sockets::report(port),
        ["keep-asking", name, port, path] => sockets::keep_asking(name, port, path),
        ["flood", by, port, octets] => sockets::flood(by, port, octets),
        _ => return Err(format!("unknown: {arguments:?}")),
    }
    Ok(())
}

/// Arguments and environment as the bindings have them, without what the standard library makes of them.
fn world() {
    for argument in wasip2::cli::environment::get_arguments().iter().skip(2) {
        println!("argument {argument:?}");
    }
    for (name, value) in wasip2::cli::environment::get_environment() {
        println!("variable {name:?} = {value:?}");
    }
    println!("working folder: {:?}", wasip2::cli::environment::initial_cwd());
}

fn tell_random() {
    for length in [0, 1, 100, 100 << 10] {
        let (secure, other) = (random::get_random_bytes(length), insecure::get_insecure_random_bytes(length));
        println!("{length}: {} {}", secure.len(), other.len());
    }
    let differs = random::get_random_bytes(32) != random::get_random_bytes(32);
    println!("secure differs: {differs}");
    println!("secure number differs: {}", random::get_random_u64() != random::get_random_u64());
    println!(
        "insecure number differs: {}",
        insecure::get_insecure_random_u64() != insecure::get_insecure_random_u64()
    );
    println!("seed: {:?}", insecure_seed::insecure_seed());
}

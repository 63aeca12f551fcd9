//! Standard input and output.

use std::io::{Read as _, Write as _};

use wasip2::cli::{terminal_stderr, terminal_stdin, terminal_stdout};

pub(crate) fn count_stdin() {
    let mut octets = Vec::new();
    match std::io::stdin().read_to_end(&mut octets) {
        Ok(_) => println!("{} octets", octets.len()),
        Err(error) => println!("failed: {error}"),
    }
    println!("again: {:?}", std::io::stdin().read(&mut [0; 8]).ok());
}

/// So many lines, or as many as the reader takes; the latter ends with exit code 9.
pub(crate) fn print(lines: u64) {
    let mut out = std::io::stdout().lock();
    for line in 0..lines {
        if writeln!(out, "line {line}").is_err() {
            eprintln!("the reader has gone");
            wasip2::cli::exit::exit_with_code(9);
        }
    }
}

pub(crate) fn tell_terminals() {
    println!("stdin: {}", terminal_stdin::get_terminal_stdin().is_some());
    println!("stdout: {}", terminal_stdout::get_terminal_stdout().is_some());
    println!("stderr: {}", terminal_stderr::get_terminal_stderr().is_some());
}

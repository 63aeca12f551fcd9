//! Asks its host about the corners of a command of WASI 0.3, and tells what it was answered: the suite in `tests/` compares that with
//! the specification. The first argument says about what.

mod files;
mod sockets;

use std::fmt::{Debug, Write as _};

use wasip3::cli::{environment, exit, stdin, stdout, terminal_stdin, terminal_stdout};
use wasip3::clocks::{monotonic_clock, system_clock};
use wasip3::random::{insecure, insecure_seed, random};
use wasip3::wit_bindgen::{StreamReader, StreamResult};
use wasip3::wit_stream;

struct Conformance;

wasip3::cli::command::export!(Conformance with_types_in wasip3);

impl wasip3::exports::cli::run::Guest for Conformance {
    async fn run() -> Result<(), ()> {
        let arguments = environment::get_arguments();
        let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
        let mut told = Told::default();
        match words.as_slice() {
            ["exit", "ok"] => exit::exit(Ok(())),
            ["exit", "err"] => exit::exit(Err(())),
            ["exit", code] => exit::exit_with_code(code.parse().map_err(drop)?),
            ["world", ..] => world(&arguments, &mut told),
            ["stdin"] => count_stdin(&mut told).await,
            ["terminals"] => {
                told.line("stdin", terminal_stdin::get_terminal_stdin().is_some());
                told.line("stdout", terminal_stdout::get_terminal_stdout().is_some());
            }
            ["clocks"] => clocks(&mut told).await,
            ["random"] => tell_random(&mut told),
            ["files"] => files::report(&mut told).await,
            ["sockets", port] => sockets::report(port.parse().map_err(drop)?, &mut told).await,
            ["flood", by, port, octets] => {
                let (port, octets) = (port.parse().map_err(drop)?, octets.parse().map_err(drop)?);
                sockets::flood(by, port, octets).await.map_err(drop)?;
            }
            // Also what is asked to fail.
            _ => return Err(()),
        }
        told.print().await
    }
}

/// What will be printed.
#[derive(Default)]
struct Told(String);

impl Told {
    fn line(&mut self, what: &str, answer: impl Debug) {
        let _ = writeln!(self.0, "{what}: {answer:?}");
    }

    /// The value, or the name of the error.
    fn answer<T: Debug, E: Debug>(&mut self, what: &str, answer: Result<T, E>) {
        match answer {
            Ok(value) => self.line(what, value),
            Err(code) => self.line(what, code),
        }
    }

    async fn print(self) -> Result<(), ()> {
        let (mut out, reader) = wit_stream::new();
        let printed = stdout::write_via_stream(reader);
        let unread = out.write_all(self.0.into_bytes()).await;
        drop(out);
        printed.await.map_err(drop)?;
        if unread.is_empty() { Ok(()) } else { Err(()) }
    }
}

/// All of a stream.
async fn read(mut stream: StreamReader<u8>) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let (result, octets) = stream.read(Vec::with_capacity(64 << 10)).await;
        all.extend(octets);
        if !matches!(result, StreamResult::Complete(_)) {
            return all;
        }
    }
}

fn world(arguments: &[String], told: &mut Told) {
    for argument in arguments.iter().skip(2) {
        told.line("argument", argument);
    }
    for (name, value) in environment::get_environment() {
        told.line(&format!("variable {name}"), value);
    }
    told.line("working folder", environment::get_initial_cwd());
}

async fn count_stdin(told: &mut Told) {
    let (stream, end) = stdin::read_via_stream();
    told.line("octets", read(stream).await.len());
    told.answer("end", end.await);
}

async fn clocks(told: &mut Told) {
    let start = monotonic_clock::now();
    let mut last = start;
    let mut went_back = false;
    for _ in 0..10_000 {
        let now = monotonic_clock::now();
        went_back |= now < last;
        last = now;
    }
    told.line("went back", went_back);
    told.line("resolutions", (monotonic_clock::get_resolution() > 0, system_clock::get_resolution() > 0));
    let before = monotonic_clock::now();
    monotonic_clock::wait_for(30_000_000).await;
    told.line("waited", monotonic_clock::now() - before >= 30_000_000);
    monotonic_clock::wait_until(start).await;
    let now = system_clock::now();
    told.line("nanoseconds in bounds", now.nanoseconds < 1_000_000_000);
    told.line("seconds", now.seconds);
}

fn tell_random(told: &mut Told) {
    told.line("none", (random::get_random_bytes(0).len(), insecure::get_insecure_random_bytes(0).len()));
    // The host may give fewer than asked for, but some.
    let many =
        (random::get_random_bytes(100 << 10).len(), insecure::get_insecure_random_bytes(100 << 10).len());
    told.line("many", (1..=100 << 10).contains(&many.0) && (1..=100 << 10).contains(&many.1));
    told.line("secure differs", random::get_random_bytes(32) != random::get_random_bytes(32));
    told.line("insecure differs", insecure::get_insecure_random_u64() != insecure::get_insecure_random_u64());
    told.line("seed", insecure_seed::get_insecure_seed());
}

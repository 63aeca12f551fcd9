//! Runs many seeds on all processors, or one with its whole trace. See `make simulate`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use wharf_simulator::{EXTRAS_FROM, SCALING_FROM, TENANTS_FROM, simulate};

/// How much of a failing seed's trace is printed.
const LINES: usize = 60;
const PROGRESS: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let numbers: Option<Vec<u64>> = std::env::args().skip(1).map(|text| text.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[seed]) => replay(seed),
        Some(&[from, seeds]) => run(from, seeds),
        _ => {
            eprintln!("usage: wharf-simulator SEED, or wharf-simulator FROM SEEDS");
            eprintln!("seeds from {EXTRAS_FROM} on: also clocks, priorities, labels and drains");
            eprintln!("seeds from {SCALING_FROM} on: also scaling by open requests");
            eprintln!("seeds from {TENANTS_FROM} on: also quotas, secrets and configs of namespaces");
            ExitCode::FAILURE
        }
    }
}

fn replay(seed: u64) -> ExitCode {
    let outcome = simulate(seed, true);
    outcome.trace.iter().for_each(|line| println!("{line}"));
    match outcome.violation {
        Some(violation) => {
            println!("seed {seed}: {violation}");
            ExitCode::FAILURE
        }
        None => {
            println!("seed {seed}: {} events, and everything held", outcome.events);
            ExitCode::SUCCESS
        }
    }
}

fn run(from: u64, seeds: u64) -> ExitCode {
    let began = Instant::now();
    let (next, done, failed) = (AtomicU64::new(from), AtomicU64::new(0), AtomicBool::new(false));
    let cuts = AtomicU64::new(0);
    let end = from.saturating_add(seeds);
    // What a panic would say of itself is in the outcome.
    std::panic::set_hook(Box::new(|_| {}));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !failed.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = simulate(seed, false);
                    cuts.fetch_add(outcome.cuts, Relaxed);
                    if outcome.violation.is_some() {
                        failed.store(true, Relaxed);
                        tell(seed);
                    }
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        scope.spawn(|| {
            let mut told = Instant::now();
            while !failed.load(Relaxed) && done.load(Relaxed) < seeds {
                thread::sleep(Duration::from_millis(20));
                if told.elapsed() >= PROGRESS {
                    told = Instant::now();
                    progress(done.load(Relaxed), seeds, began);
                }
            }
        });
    });
    progress(done.load(Relaxed), seeds, began);
    println!("workers were cut off {} times", cuts.load(Relaxed));
    if failed.load(Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn progress(done: u64, seeds: u64, began: Instant) {
    let rate = done as f64 / began.elapsed().as_secs_f64();
    println!("{done} of {seeds} seeds, {rate:.0} a second");
}

/// The seed once more, for what led to its end.
fn tell(seed: u64) {
    let outcome = simulate(seed, true);
    let skipped = outcome.trace.len().saturating_sub(LINES);
    let mut text: Vec<String> = outcome.trace[skipped..].to_vec();
    if let Some(violation) = outcome.violation {
        text.push(format!("seed {seed}: {violation}"));
    }
    text.push(format!("the whole course of events: make simulate SEED={seed}"));
    println!("{}", text.join("\n"));
}

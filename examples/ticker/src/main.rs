//! A command, not an HTTP app: prints a line each second until it is stopped, or fails when the variable `FAIL` is `1`.
//!
//! `PERIOD_MS` is the time between two lines in milliseconds (default 1000), `TICKS` the number of lines (default: no end).
//! `BANNER_FILE` is a file that is printed before the first one.

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    if std::env::var("FAIL").is_ok_and(|fail| fail == "1") {
        eprintln!("failing, because FAIL=1");
        return ExitCode::FAILURE;
    }
    if let Ok(file) = std::env::var("BANNER_FILE") {
        match std::fs::read_to_string(&file) {
            Ok(banner) => println!("{}", banner.trim_end()),
            Err(error) => eprintln!("{file}: {error}"),
        }
    }
    let period = Duration::from_millis(number("PERIOD_MS").unwrap_or(1000));
    let ticks = number("TICKS").unwrap_or(u64::MAX);
    for tick in 1..=ticks {
        println!("tick {tick}");
        std::thread::sleep(period);
    }
    ExitCode::SUCCESS
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

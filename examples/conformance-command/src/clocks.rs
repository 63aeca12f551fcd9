//! Clocks.

use wasip2::clocks::{monotonic_clock, wall_clock};

pub(crate) fn report() {
    let mut last = monotonic_clock::now();
    let mut went_back = false;
    for _ in 0..10_000 {
        let now = monotonic_clock::now();
        went_back |= now < last;
        last = now;
    }
    println!("went back: {went_back}");
    println!("resolutions: {} {}", monotonic_clock::resolution() > 0, resolution_of_the_wall());
    let start = monotonic_clock::now();
    monotonic_clock::subscribe_duration(30_000_000).block();
    println!("waited: {}", monotonic_clock::now() - start >= 30_000_000);
    let past = monotonic_clock::subscribe_instant(start);
    past.block();
    println!("the past is over: {}", monotonic_clock::now() - start < 10_000_000_000);
    let now = wall_clock::now();
    println!("nanoseconds in bounds: {}", now.nanoseconds < 1_000_000_000);
    println!("seconds: {}", now.seconds);
}

fn resolution_of_the_wall() -> bool {
    let resolution = wall_clock::resolution();
    resolution.seconds > 0 || resolution.nanoseconds > 0
}

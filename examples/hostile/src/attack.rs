//! Attacks on the memory, the handles, the time and the log of the host.

use std::hint::black_box;
use std::mem::forget;

use wasip2::clocks::monotonic_clock;
use wasip2::http::types::{Fields, OutgoingRequest};
use wasip2::io::poll::poll;

/// Ends when the stack does.
#[inline(never)]
pub(crate) fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 8]);
    if frame[0] == 0 { 0 } else { recurse(depth + 1) + frame[1] }
}

/// A handle that is never closed, as often as it is granted. The host ends the guest at one too many.
pub(crate) fn take_handles() -> ! {
    loop {
        forget(Fields::new());
    }
}

/// As much in the host's memory as header fields take, which are not in the guest's.
pub(crate) fn keep_fields() -> ! {
    // More in one map would end the guest at once.
    let value = vec![b'x'; 60 << 10];
    loop {
        let fields = Fields::new();
        for name in ["x-large", "x-larger"] {
            if fields.append(name, &value).is_err() {
                break;
            }
        }
        forget(fields);
    }
}

/// The same with bodies of requests that are never sent.
pub(crate) fn keep_bodies() -> ! {
    let chunk = vec![b'x'; 1 << 20];
    loop {
        let request = OutgoingRequest::new(Fields::new());
        let body = request.body().expect("nobody has taken it");
        let stream = body.write().expect("nobody has taken it");
        while let Ok(room @ 1..) = stream.check_write() {
            let length = usize::try_from(room).unwrap_or(chunk.len()).min(chunk.len());
            if stream.write(&chunk[..length]).is_err() {
                break;
            }
        }
        forget((request, body, stream));
    }
}

pub(crate) fn random() -> usize {
    wasip2::random::random::get_random_bytes(u64::MAX >> 1).len()
}

/// One call of the host that takes long, over and over.
pub(crate) fn poll_for_ever() -> ! {
    let now = monotonic_clock::subscribe_duration(0);
    let many = vec![&now; 1 << 20];
    loop {
        black_box(poll(&many));
    }
}

pub(crate) fn print(lines: u64) {
    for line in 0..lines {
        println!("line {line} of a flood that nobody will ever read to its end");
    }
}

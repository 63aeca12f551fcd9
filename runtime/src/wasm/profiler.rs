//! Where a guest spends its CPU time: its stack at the end of each epoch, in the format that browsers open.
//!
//! The result is a processed profile of the Firefox profiler: <https://profiler.firefox.com> shows it, as do other viewers.
//! Samples are taken where the engine looks at the epoch, at loop heads and function entries, and never in host calls.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use fxprof_processed_profile::{
    CategoryHandle, CpuDelta, Frame, FrameFlags, FrameInfo, Profile, SamplingInterval, ThreadHandle,
    Timestamp,
};
use wasmtime::{AsContext, WasmBacktrace};

use super::engine::TICK;

/// Samples that are kept, twenty minutes of computing; later ones are counted only.
const SAMPLES_MAX: u64 = 1_200_000;

/// Takes samples of one guest, in however many stores.
pub struct Profiler {
    start: Instant,
    taken: Mutex<Taken>,
}

struct Taken {
    profile: Profile,
    thread: ThreadHandle,
    last: Instant,
    samples: u64,
}

impl Profiler {
    /// `name` is the guest's, as the viewer shows it.
    pub fn new(name: &str) -> Self {
        let start = Instant::now();
        let interval = SamplingInterval::from_nanos(TICK.as_nanos() as u64);
        let mut profile = Profile::new("wharf", SystemTime::now().into(), interval);
        profile.set_symbolicated(true);
        let begin = Timestamp::from_nanos_since_reference(0);
        let process = profile.add_process(name, 1, begin);
        let thread = profile.add_thread(process, 1, begin, true);
        profile.set_thread_name(thread, name);
        Self { start, taken: Mutex::new(Taken { profile, thread, last: start, samples: 0 }) }
    }

    /// Called from within the guest, at the end of an epoch.
    pub(super) fn sample(&self, store: impl AsContext) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = &mut *taken;
        taken.samples += 1;
        if taken.samples > SAMPLES_MAX {
            return;
        }
        let now = Instant::now();
        // The oldest frame comes first. Nameless functions have the number that tools show.
        let names: Vec<String> =
            WasmBacktrace::force_capture(store).frames().iter().rev().map(name).collect();
        let frames: Vec<_> = names.iter().map(|name| label(taken.profile.intern_string(name))).collect();
        let stack = taken.profile.intern_stack_frames(taken.thread, frames.into_iter());
        let spent = (now - taken.last).min(2 * TICK);
        taken.last = now;
        let at = Timestamp::from_nanos_since_reference((now - self.start).as_nanos() as u64);
        let spent = CpuDelta::from_nanos(spent.as_nanos() as u64);
        taken.profile.add_sample(taken.thread, at, stack, spent, 1);
    }

    /// Writes what was taken so far, as JSON; the result is the number of samples, and of those that were too many to be kept.
    pub fn write(&self, output: impl Write) -> std::io::Result<(u64, u64)> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (thread, now) = (taken.thread, self.start.elapsed().as_nanos() as u64);
        taken.profile.set_thread_end_time(thread, Timestamp::from_nanos_since_reference(now));
        serde_json::to_writer(output, &taken.profile)?;
        let kept = taken.samples.min(SAMPLES_MAX);
        Ok((kept, taken.samples - kept))
    }
}

fn name(frame: &wasmtime::FrameInfo) -> String {
    match frame.func_name() {
        // As it was written in the source.
        Some(name) => {
            rustc_demangle::try_demangle(name).map_or_else(|_| name.to_owned(), |it| format!("{it:#}"))
        }
        None => format!("function {}", frame.func_index()),
    }
}

fn label(name: fxprof_processed_profile::StringHandle) -> FrameInfo {
    FrameInfo {
        frame: Frame::Label(name),
        category_pair: CategoryHandle::OTHER.into(),
        flags: FrameFlags::empty(),
    }
}

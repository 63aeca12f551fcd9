//! What containers use, as the meters of their releases have it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use wharf_docker::Usage;
use wharf_types::InstanceId;

use super::backend::ContainerBackend;
use crate::wasm::meter::Meter;

/// How often every container is measured.
const PERIOD: Duration = Duration::from_secs(5);

/// What was measured last of one container. When it is dropped its memory is free.
#[derive(Debug)]
pub(super) struct Measured {
    meter: Arc<Meter>,
    last: Usage,
    /// Whether what it used before is known to nobody, and counted to nobody.
    is_adopted: bool,
}

impl Measured {
    pub(super) fn new(meter: Arc<Meter>, is_adopted: bool) -> Self {
        Self { meter, last: Usage::default(), is_adopted }
    }

    /// Adds what has come since. A container that was started by a process before this one counts from now on.
    pub(super) fn take(&mut self, now: Usage) {
        let before = self.last;
        if !std::mem::take(&mut self.is_adopted) {
            let cpu = now.cpu_nanos.saturating_sub(before.cpu_nanos);
            self.meter.add_cpu(Duration::from_nanos(cpu));
        }
        self.meter.free_memory(before.memory_bytes);
        self.meter.add_memory(now.memory_bytes);
        self.last = now;
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.meter.free_memory(self.last.memory_bytes);
    }
}

/// Measures for as long as the backend is there.
pub(super) async fn keep_measured(backend: Weak<ContainerBackend>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(backend) = backend.upgrade() else { return };
        let ids: Vec<InstanceId> = backend.running_ids();
        for id in ids {
            if let Ok(Some(usage)) = backend.engine().usage(id).await {
                backend.measured(id, usage);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_adds_up_and_memory_is_what_it_is_now() {
        let meter = Arc::<Meter>::default();
        let mut measured = Measured::new(meter.clone(), true);
        let usage = |cpu_nanos, memory_bytes| Usage { cpu_nanos, memory_bytes, ..Usage::default() };
        measured.take(usage(5_000_000_000, 100));
        measured.take(usage(5_250_000_000, 70));
        let seen = meter.usage("default".parse().unwrap(), "a".parse().unwrap(), 1);
        assert_eq!((seen.cpu_millis, seen.memory_bytes), (250, 70));
        drop(measured);
        assert_eq!(meter.memory_bytes(), 0);
        Measured::new(meter.clone(), false).take(usage(1_000_000_000, 1));
        let seen = meter.usage("default".parse().unwrap(), "a".parse().unwrap(), 1);
        assert_eq!((seen.cpu_millis, seen.memory_bytes), (1250, 0));
    }
}

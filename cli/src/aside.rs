//! Threads beside those of the front door, which give way to them.
//!
//! Where control plane and front door are one process, what the one does for long (a push, twenty deploys, a file of ten thousand apps) must not keep
//! requests to apps waiting. On threads of its own that the kernel serves after the others it does not.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// As nice(1) has it: a third of the weight of the others. It still has to hear of what runs where each of them is busy.
const NICENESS: i32 = 5;

/// Twice what is usual: a deploy is many futures in each other, and what is not used of a stack takes no memory.
pub const STACK_BYTES: usize = 4 << 20;

/// A runtime of such threads. What runs there when this is dropped is given up.
pub struct Aside(Option<Runtime>);

impl Aside {
    pub fn start(name: &'static str) -> io::Result<Self> {
        // Threads begin with what the one has that starts them, which may be one of these.
        let nicer = niceness() + NICENESS;
        let runtime = Builder::new_multi_thread()
            .thread_name(name)
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(move || give_way(nicer))
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime().spawn(future)
    }

    /// The same for a future that has to stay on its thread.
    pub fn spawn_local<F>(&self, start: impl FnOnce() -> F + Send + 'static) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + 'static,
    {
        self.runtime().spawn_blocking(|| Handle::current().block_on(start()))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until this is dropped")
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// That the kernel does not allow it is no reason to fail. Threads and processes that are started from here are as nice.
fn give_way(niceness: i32) {
    // SAFETY: a plain system call. On Linux, 0 means the calling thread alone.
    unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, niceness) };
}

/// Of the calling thread.
fn niceness() -> i32 {
    // SAFETY: a plain system call.
    unsafe { nix::libc::getpriority(nix::libc::PRIO_PROCESS, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_runs_aside_gives_way_and_what_it_starts_does_too() {
        let before = niceness();
        let aside = Aside::start("aside").unwrap();
        let (ours, blocking) = aside
            .spawn(async { (niceness(), tokio::task::spawn_blocking(niceness).await.unwrap()) })
            .await
            .unwrap();
        assert_eq!([ours, blocking], [(before + NICENESS).min(19); 2]);
        assert_eq!(niceness(), before);
    }
}

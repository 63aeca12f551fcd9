//! The runtime where requests arrive.

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

/// Where work runs that serves more than one guest. A guest that computes for long goes on in threads that hardly get CPU time,
/// and what is started there stays there: a connection that others use afterwards must not be among it.
#[derive(Clone, Debug)]
pub(super) struct Home(Handle);

impl Home {
    /// # Panics
    /// Outside of a runtime.
    pub(super) fn here() -> Self {
        Self(Handle::current())
    }

    pub(super) fn is_here(&self) -> bool {
        Handle::try_current().is_ok_and(|here| here.id() == self.0.id())
    }

    /// Starts work that ends when the handle is dropped.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(self.0.spawn(work))
    }
}

impl<F> hyper::rt::Executor<F> for Home
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, work: F) {
        self.0.spawn(work);
    }
}

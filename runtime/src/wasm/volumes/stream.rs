//! A stream into a file of a volume, which asks the quota before each write.

use std::fs::File;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::quota::{Quota, growth, no_space};

/// As much as a guest may write at once: it is kept here while the folder is measured.
const WRITE_MAX: usize = 64 << 10;

pub(super) struct QuotaStream {
    inner: DynOutputStream,
    quota: Arc<Quota>,
    file: Arc<File>,
    /// Where the next octet goes. None: to the end of the file.
    position: Option<u64>,
    /// How much the guest was told that it may write now.
    permit: usize,
    state: Asked,
}

enum Asked {
    Nothing,
    /// A write that did not fit at once: the folder has to be measured first.
    Held(Bytes),
    /// It does not fit, or could not be written.
    Failed(StreamError),
}

impl QuotaStream {
    pub(super) fn new(
        inner: DynOutputStream,
        quota: Arc<Quota>,
        file: Arc<File>,
        position: Option<u64>,
    ) -> Self {
        Self { inner, quota, file, position, permit: 0, state: Asked::Nothing }
    }

    fn growth(&self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        self.position.map_or(bytes, |position| growth(&self.file, position.saturating_add(bytes)))
    }

    fn advance(&mut self, bytes: usize) {
        self.position = self.position.map(|position| position.saturating_add(bytes as u64));
    }

    fn pass_on(&mut self, bytes: Bytes) -> StreamResult<()> {
        let length = bytes.len();
        self.inner.write(bytes)?;
        self.advance(length);
        Ok(())
    }

    /// Whether nothing is asked any more; the error, if that is how it ended.
    fn answered(&mut self) -> StreamResult<bool> {
        match mem::replace(&mut self.state, Asked::Nothing) {
            Asked::Nothing => Ok(true),
            Asked::Failed(error) => Err(error),
            held @ Asked::Held(_) => {
                self.state = held;
                Ok(false)
            }
        }
    }
}

fn refusal() -> StreamError {
    StreamError::LastOperationFailed(no_space().into())
}

#[async_trait]
impl OutputStream for QuotaStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !matches!(self.state, Asked::Nothing) || bytes.len() > mem::take(&mut self.permit) {
            return Err(StreamError::trap("cannot write more than the last `check-write` allowed"));
        }
        if self.quota.try_reserve(self.growth(bytes.len())) {
            return self.pass_on(bytes);
        }
        self.state = Asked::Held(bytes);
        Ok(())
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.ready().await;
        self.flush()?;
        self.quota.reserve(self.growth(bytes.len())).await.map_err(|_| refusal())?;
        let length = bytes.len();
        self.inner.blocking_write_and_flush(bytes).await?;
        self.advance(length);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        if self.answered()? { self.inner.flush() } else { Ok(()) }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.permit = 0;
        if self.answered()? {
            self.permit = self.inner.check_write()?.min(WRITE_MAX);
        }
        Ok(self.permit)
    }

    async fn cancel(&mut self) {
        self.state = Asked::Nothing;
        self.inner.cancel().await;
    }
}

#[async_trait]
impl Pollable for QuotaStream {
    async fn ready(&mut self) {
        // Kept until the answer is there, because this may be dropped and asked again.
        if let Asked::Held(bytes) = &self.state {
            let bytes = bytes.clone();
            let fits = self.quota.reserve(self.growth(bytes.len())).await;
            let done = fits.map_err(|_| refusal()).and_then(|()| self.pass_on(bytes));
            self.state = done.map_or_else(Asked::Failed, |()| Asked::Nothing);
        }
        self.inner.ready().await;
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A file that takes anything at once, and cannot be written.
    struct Broken;

    #[async_trait]
    impl OutputStream for Broken {
        fn write(&mut self, _: Bytes) -> StreamResult<()> {
            Err(StreamError::LastOperationFailed(io::Error::from(io::ErrorKind::PermissionDenied).into()))
        }

        fn flush(&mut self) -> StreamResult<()> {
            Ok(())
        }

        fn check_write(&mut self) -> StreamResult<usize> {
            Ok(usize::MAX)
        }
    }

    #[async_trait]
    impl Pollable for Broken {
        async fn ready(&mut self) {}
    }

    /// A stream to the end of a file, in a volume of so many octets that holds nothing.
    fn stream(size: u64) -> (tempfile::TempDir, QuotaStream) {
        let folder = tempfile::tempdir().unwrap();
        let root = Arc::new(File::open(folder.path()).unwrap());
        let quota = Arc::new(Quota::new(root, size));
        let file = Arc::new(tempfile::tempfile().unwrap());
        (folder, QuotaStream::new(Box::new(Broken), quota, file, None))
    }

    fn kind(error: StreamError) -> Option<io::ErrorKind> {
        match error {
            StreamError::LastOperationFailed(error) => error.downcast_ref().map(io::Error::kind),
            StreamError::Closed | StreamError::Trap(_) => None,
        }
    }

    #[tokio::test]
    async fn more_than_was_allowed_is_a_trap_and_nothing_of_it_is_kept() {
        let (_folder, mut stream) = stream(1);
        let trapped = |result| matches!(result, Err(StreamError::Trap(_)));
        assert!(trapped(stream.write(Bytes::from_static(b"x"))), "nothing was allowed");
        assert_eq!(stream.check_write().unwrap(), WRITE_MAX);
        assert!(trapped(stream.write(Bytes::from(vec![0; WRITE_MAX + 1]))));
        assert_eq!(stream.check_write().unwrap(), WRITE_MAX);
        stream.write(Bytes::from(vec![0; WRITE_MAX])).unwrap();
        assert_eq!(stream.check_write().unwrap(), 0, "the folder is measured first");
        assert!(trapped(stream.write(Bytes::from_static(b"x"))));
        stream.ready().await;
        assert_eq!(kind(stream.check_write().unwrap_err()), Some(io::ErrorKind::StorageFull));
        assert_eq!(stream.check_write().unwrap(), WRITE_MAX);
    }

    #[tokio::test]
    async fn what_fails_after_the_folder_was_measured_fails_for_its_own_reason() {
        let (_folder, mut stream) = stream(10);
        // Counted, and never written.
        assert!(stream.quota.try_reserve(10));
        stream.check_write().unwrap();
        stream.write(Bytes::from_static(b"x")).unwrap();
        stream.ready().await;
        assert_eq!(kind(stream.flush().unwrap_err()), Some(io::ErrorKind::PermissionDenied));
    }
}

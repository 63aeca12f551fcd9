//! A stream into a file of a volume, which asks the quota before each write.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::quota::{Quota, growth, no_space};

pub(super) struct QuotaStream {
    inner: DynOutputStream,
    quota: Arc<Quota>,
    file: Arc<File>,
    /// Where the next octet goes. None: to the end of the file.
    position: Option<u64>,
    state: Asked,
    /// Octets that the guest may write before it asks again. The engine leaves it to streams to insist.
    permitted: usize,
}

/// A write at most, which a stream may keep while the volume is measured: as much as a handle counts.
const WRITE_MAX: usize = 64 << 10;

enum Asked {
    Nothing,
    /// A write that did not fit at once: the folder has to be measured first.
    Held(Bytes),
    Failed(StreamError),
}

impl QuotaStream {
    pub(super) fn new(
        inner: DynOutputStream,
        quota: Arc<Quota>,
        file: Arc<File>,
        position: Option<u64>,
    ) -> Self {
        Self { inner, quota, file, position, state: Asked::Nothing, permitted: 0 }
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
}

fn refusal() -> StreamError {
    StreamError::LastOperationFailed(no_space().into())
}

#[async_trait]
impl OutputStream for QuotaStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !matches!(self.state, Asked::Nothing) || bytes.len() > self.permitted {
            return Err(StreamError::trap("write of more than check_write has permitted"));
        }
        self.permitted = 0;
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
        match std::mem::replace(&mut self.state, Asked::Nothing) {
            Asked::Nothing => self.inner.flush(),
            held @ Asked::Held(_) => {
                self.state = held;
                Ok(())
            }
            Asked::Failed(error) => Err(error),
        }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.permitted = 0;
        match std::mem::replace(&mut self.state, Asked::Nothing) {
            Asked::Nothing => {
                self.permitted = self.inner.check_write()?.min(WRITE_MAX);
                Ok(self.permitted)
            }
            held @ Asked::Held(_) => {
                self.state = held;
                Ok(0)
            }
            Asked::Failed(error) => Err(error),
        }
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
            let fits = self.quota.reserve(self.growth(bytes.len())).await.is_ok();
            let passed = if fits { self.pass_on(bytes) } else { Err(refusal()) };
            self.state = passed.err().map_or(Asked::Nothing, Asked::Failed);
        }
        self.inner.ready().await;
    }
}

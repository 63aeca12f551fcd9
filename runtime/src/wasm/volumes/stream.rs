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
}

enum Asked {
    Nothing,
    /// A write that did not fit at once: the folder has to be measured first.
    Held(Bytes),
    Refused,
}

impl QuotaStream {
    pub(super) fn new(
        inner: DynOutputStream,
        quota: Arc<Quota>,
        file: Arc<File>,
        position: Option<u64>,
    ) -> Self {
        Self { inner, quota, file, position, state: Asked::Nothing }
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
        if !matches!(self.state, Asked::Nothing) {
            return Err(StreamError::trap("write not permitted: check_write not called first"));
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
        match self.state {
            Asked::Nothing => self.inner.flush(),
            Asked::Held(_) => Ok(()),
            Asked::Refused => {
                self.state = Asked::Nothing;
                Err(refusal())
            }
        }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match self.state {
            Asked::Nothing => self.inner.check_write(),
            Asked::Held(_) => Ok(0),
            Asked::Refused => {
                self.state = Asked::Nothing;
                Err(refusal())
            }
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
            self.state = Asked::Nothing;
            if !fits || self.pass_on(bytes).is_err() {
                self.state = Asked::Refused;
            }
        }
        self.inner.ready().await;
    }
}

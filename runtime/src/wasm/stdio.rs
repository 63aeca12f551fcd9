//! A guest's stdout and stderr, as log records.

use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::logs::LineBuffer;

/// Octets that are taken in one call of the guest. Each may be a line of its own, and the thread serves others too.
const WRITE_MAX_BYTES: usize = 4 << 10;

/// Both WASI versions write here. Never blocks the guest: what the log cannot take is counted as dropped there.
#[derive(Clone)]
pub(crate) struct GuestOutput(Arc<Sink>);

enum Sink {
    Log(Mutex<LineBuffer>),
    /// This process's own stderr, for a guest that runs without a platform.
    Stderr,
}

impl GuestOutput {
    pub(super) fn log(lines: LineBuffer) -> Self {
        Self(Arc::new(Sink::Log(Mutex::new(lines))))
    }

    pub(super) fn stderr() -> Self {
        Self(Arc::new(Sink::Stderr))
    }

    fn write_bytes(&self, bytes: &[u8]) {
        match &*self.0 {
            Sink::Log(lines) => lines.lock().unwrap_or_else(PoisonError::into_inner).write(bytes),
            // Without a stderr there is nobody to tell.
            Sink::Stderr => drop(std::io::stderr().write_all(bytes)),
        }
    }

    /// Writes one whole line.
    pub(crate) fn say(&self, line: &str) {
        self.write_bytes(format!("{line}\n").as_bytes());
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_bytes(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_MAX_BYTES)
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let taken = &bytes[..bytes.len().min(WRITE_MAX_BYTES)];
        self.write_bytes(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use wharf_types::log::LogStream;
    use wharf_types::{InstanceId, NamespaceName};

    use super::*;
    use crate::logs::LogSink;

    #[tokio::test]
    async fn one_call_of_a_guest_makes_no_more_than_a_few_thousand_lines() {
        let (namespace, app) = (NamespaceName::default_namespace(), "hello".parse().unwrap());
        let (id, stream, seq) = (InstanceId::new(), LogStream::Stdout, Arc::default());
        let lines = LineBuffer::new(LogSink::new(), namespace, app, 1, id, stream, Arc::clone(&seq));
        let mut output = GuestOutput::log(lines);
        assert_eq!(output.check_write().unwrap(), 4096);
        let taken = AsyncWriteExt::write(&mut output, &[b'\n'; 64 << 10]).await.unwrap();
        assert_eq!((taken, seq.load(std::sync::atomic::Ordering::Relaxed)), (4096, 4096));
    }
}

//! What people want done on this node beside its instances: which orders there are, and the way to whoever waits for one.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::Method;
use http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wharf_types::exec::MEDIA_TYPE;
use wharf_types::{ExecId, ProcessId};

use super::lines::Lines;
use super::{ANSWER_MAX_BYTES, ControlClient, ControlError, line_error};

/// A kind of orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orders {
    /// Commands to run in containers.
    Execs,
    /// Volumes to write to archives, or to fill from them.
    Transfers,
    /// Files to copy out of containers, or into them.
    Copies,
}

impl Orders {
    fn path(self) -> &'static str {
        match self {
            Self::Execs => "/execs",
            Self::Transfers => "/transfers",
            Self::Copies => "/copies",
        }
    }
}

impl ControlClient {
    /// The orders of a kind for this node. Ends as [`Self::assignments`] does.
    pub async fn orders<O: DeserializeOwned + 'static>(
        &self,
        kind: Orders,
        process: ProcessId,
    ) -> Result<impl Stream<Item = Result<O, ControlError>> + Send + use<O>, ControlError> {
        let what = "follow orders";
        if !self.speaks().knows(2) {
            // Whoever is of version 1 has never heard of any.
            std::future::pending::<()>().await;
        }
        let request = self.request(Method::GET, &self.node_path(kind.path())).query(&[("process", process)]);
        let response = self.send(what, request).await?;
        let lines = Lines::new(response.bytes_stream(), ANSWER_MAX_BYTES);
        Ok(lines.into_stream().map(move |line| {
            let line = line.map_err(|error| line_error(what, error))?;
            serde_json::from_slice(&line).map_err(|source| ControlError::Decode { what, source })
        }))
    }

    /// Comes for an order: what is in `said` goes to whoever waits for it, and the answer is what they say. Both are frames.
    pub async fn join(
        &self,
        kind: Orders,
        id: ExecId,
        said: mpsc::Receiver<Bytes>,
    ) -> Result<impl Stream<Item = Result<Bytes, ControlError>> + Send + use<>, ControlError> {
        let what = "come for an order";
        let path = self.node_path(&format!("{}/{id}", kind.path()));
        let said = reqwest::Body::wrap_stream(ReceiverStream::new(said).map(Ok::<_, Infallible>));
        let request = self.request_by(&self.0.apart.load(), Method::POST, &path);
        let response = self.send(what, request.header(CONTENT_TYPE, MEDIA_TYPE).body(said)).await?;
        Ok(response.bytes_stream().map_err(move |source| ControlError::Unreachable { what, source }))
    }
}

//! Commands to run in containers: which there are, and the way to whoever wants one run.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::Method;
use http::header::CONTENT_TYPE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wharf_types::exec::{ExecOrder, MEDIA_TYPE};
use wharf_types::{ExecId, ProcessId};

use super::lines::Lines;
use super::{ANSWER_MAX_BYTES, ControlClient, ControlError, line_error};

impl ControlClient {
    /// The commands that people want run in containers of this node. Ends as [`Self::assignments`] does.
    pub async fn exec_orders(
        &self,
        process: ProcessId,
    ) -> Result<impl Stream<Item = Result<ExecOrder, ControlError>> + Send + use<>, ControlError> {
        let what = "follow the commands to run";
        let request = self.request(Method::GET, &self.node_path("/execs")).query(&[("process", process)]);
        let response = self.send(what, request).await?;
        let lines = Lines::new(response.bytes_stream(), ANSWER_MAX_BYTES);
        Ok(lines.into_stream().map(move |line| {
            let line = line.map_err(|error| line_error(what, error))?;
            serde_json::from_slice(&line).map_err(|source| ControlError::Decode { what, source })
        }))
    }

    /// Comes for a command: what is in `said` goes to whoever wants it run, and the answer is what they say. Both are frames.
    pub async fn join_exec(
        &self,
        id: ExecId,
        said: mpsc::Receiver<Bytes>,
    ) -> Result<impl Stream<Item = Result<Bytes, ControlError>> + Send + use<>, ControlError> {
        let what = "come for a command";
        let path = self.node_path(&format!("/execs/{id}"));
        let said = reqwest::Body::wrap_stream(ReceiverStream::new(said).map(Ok::<_, Infallible>));
        let request = self.request_by(&self.0.apart.load(), Method::POST, &path);
        let response = self.send(what, request.header(CONTENT_TYPE, MEDIA_TYPE).body(said)).await?;
        Ok(response.bytes_stream().map_err(move |source| ControlError::Unreachable { what, source }))
    }
}

//! Frames out of the body of a request.

use axum::body::{Body, BodyDataStream};
use futures::StreamExt;
use wharf_types::exec::{Decoder, Frame, FrameError};

pub(crate) struct Frames {
    body: BodyDataStream,
    decoder: Decoder,
}

impl Frames {
    pub(crate) fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), decoder: Decoder::default() }
    }

    /// None: the other side has ended, or is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match self.body.next().await {
                Some(Ok(octets)) => self.decoder.push(&octets),
                Some(Err(_)) => return Ok(None),
                None => return self.decoder.finish().map(|()| None),
            }
        }
    }
}

//! What the platform says while something is carried to a node or from there, in the frames of a connection that was taken over.

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use wharf_types::exec::{Decoder, Frame};

use crate::exit::{Exit, Failure};
use crate::output::{self, printable};

/// What is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What is carried.
#[derive(Clone, Copy, Debug)]
pub struct Of {
    /// In a word.
    pub what: &'static str,
    /// What to know, and to do, where the connection broke.
    pub broken: &'static str,
}

pub struct Said<R> {
    from: R,
    of: Of,
    decoder: Decoder,
    chunk: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Said<R> {
    pub fn new(from: R, of: Of) -> Self {
        Self { from, of, decoder: Decoder::default(), chunk: vec![0; CHUNK_BYTES] }
    }

    /// What comes on stdout; what is on stderr is printed. None: that was all of it. To be waited for again where it was given up.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let what = self.of.what;
        loop {
            while let Some(frame) =
                self.decoder.next_frame().context("what the platform says is no answer to this")?
            {
                match frame {
                    Frame::Stdout(octets) => return Ok(Some(octets)),
                    Frame::Stderr(octets) => {
                        let text = String::from_utf8_lossy(&octets);
                        text.lines().for_each(|line| output::note(format!("note: {}", printable(line))));
                    }
                    Frame::Exit(0) => return Ok(None),
                    Frame::Exit(code) => {
                        let message = format!("the {what} ended with the code {code}");
                        return Err(Failure::new(Exit::Platform, message).into());
                    }
                    Frame::Error(problem) => return Err(problem.into()),
                    Frame::Ping | Frame::Start(_) | Frame::Stdin(_) | Frame::Resize(_) => {}
                }
            }
            match self.from.read(&mut self.chunk).await {
                Ok(count @ 1..) => self.decoder.push(&self.chunk[..count]),
                Ok(0) | Err(_) => {
                    let message = format!("the connection ended before the {what} did");
                    return Err(Failure::new(Exit::Unreachable, message).help(self.of.broken).into());
                }
            }
        }
    }
}

//! Newline-delimited documents out of a stream of chunks.

use bytes::{Bytes, BytesMut};
use futures::{Stream, TryStreamExt, stream};

/// Cuts chunks into lines. Empty lines, which keep a connection alive, are left out.
pub(super) struct Lines<S> {
    chunks: S,
    max_bytes: usize,
    buffer: BytesMut,
    /// How much of the buffer has been searched for the end of its line.
    searched: usize,
}

#[derive(Debug)]
pub(super) enum LineError<E> {
    Read(E),
    TooLong(TooLong),
}

/// A line is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong {
    pub(super) max_bytes: usize,
}

impl<S, E> Lines<S>
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Send + 'static,
{
    pub(super) fn new(chunks: S, max_bytes: usize) -> Self {
        Self { chunks, max_bytes, buffer: BytesMut::new(), searched: 0 }
    }

    /// What follows the last line end is left out: it was cut off, and is no whole document.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, LineError<E>>> + Send {
        let lines = Lines {
            chunks: Box::pin(self.chunks),
            max_bytes: self.max_bytes,
            buffer: self.buffer,
            searched: self.searched,
        };
        stream::try_unfold(lines, |mut lines| async move {
            loop {
                if let Some(line) = lines.next_buffered().map_err(LineError::TooLong)? {
                    return Ok(Some((line, lines)));
                }
                match lines.chunks.try_next().await.map_err(LineError::Read)? {
                    Some(chunk) => lines.buffer.extend_from_slice(&chunk),
                    None => return Ok(None),
                }
            }
        })
    }
}

impl<S> Lines<S> {
    fn next_buffered(&mut self) -> Result<Option<Bytes>, TooLong> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let length = end.map_or(self.buffer.len(), |end| self.searched + end);
            if length > self.max_bytes {
                return Err(TooLong { max_bytes: self.max_bytes });
            }
            if end.is_none() {
                self.searched = length;
                return Ok(None);
            }
            let line = self.buffer.split_to(length + 1).freeze().slice(..length);
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, StreamExt};
    use proptest::prelude::*;

    fn lines(text: &[u8], chunk: usize, max_bytes: usize) -> Vec<Result<Vec<u8>, TooLong>> {
        let chunks: Vec<Result<Bytes, std::io::Error>> =
            text.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let lines = Lines::new(stream::iter(chunks), max_bytes).into_stream().map(|line| match line {
            Ok(line) => Ok(line.to_vec()),
            Err(LineError::TooLong(error)) => Err(error),
            Err(LineError::Read(error)) => panic!("{error}"),
        });
        lines.collect().now_or_never().expect("every chunk is there")
    }

    #[test]
    fn a_line_that_is_too_long_ends_the_stream() {
        let found = lines(b"ok\ntoolong\nok\n", 3, 4);
        assert_eq!(found, [Ok(b"ok".to_vec()), Err(TooLong { max_bytes: 4 })]);
    }

    #[test]
    fn what_was_cut_off_is_left_out() {
        assert_eq!(lines(b"a\n\n\r\nb", 100, 10), [Ok(b"a".to_vec())]);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(documents in proptest::collection::vec("[a-z]{1,20}", 0..20), chunk in 1..50_usize) {
            let text: String = documents.iter().map(|document| format!("{document}\n")).collect();
            let found: Vec<Vec<u8>> = lines(text.as_bytes(), chunk, 100).into_iter().map(Result::unwrap).collect();
            let expected: Vec<Vec<u8>> = documents.into_iter().map(String::into_bytes).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

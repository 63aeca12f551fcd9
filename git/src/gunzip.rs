//! Bodies as they travel: git compresses what it sends to fetch.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::write::GzDecoder;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};

/// Compressed octets that are unpacked at once. A thousand times as many can come out of them before anybody has counted.
const STEP_BYTES: usize = 1 << 10;

#[derive(Debug, thiserror::Error)]
#[error("the body is encoded as `{}`: send it plain, or as gzip", .0.escape_debug())]
pub struct UnknownEncoding(String);

#[derive(Debug, thiserror::Error)]
#[error("the body unpacks to more than {max_bytes} octets")]
struct TooLarge {
    max_bytes: u64,
}

/// The plain octets of a body with this `Content-Encoding`. What unpacks to more than `max_bytes` ends in an error.
pub fn decoded(
    encoding: Option<&str>,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    max_bytes: u64,
) -> Result<BoxStream<'static, io::Result<Bytes>>, UnknownEncoding> {
    match encoding.map(str::trim) {
        None | Some("" | "identity") => Ok(body.boxed()),
        Some("gzip" | "x-gzip") => Ok(gunzip(body.boxed(), max_bytes).boxed()),
        Some(other) => Err(UnknownEncoding(other.chars().take(50).collect())),
    }
}

struct Gunzip {
    body: BoxStream<'static, io::Result<Bytes>>,
    /// Gone once the end was seen.
    decoder: Option<GzDecoder<Vec<u8>>>,
    packed: Bytes,
    left_bytes: u64,
    max_bytes: u64,
}

fn gunzip(
    body: BoxStream<'static, io::Result<Bytes>>,
    max_bytes: u64,
) -> impl Stream<Item = io::Result<Bytes>> {
    let decoder = Some(GzDecoder::new(Vec::new()));
    let state = Gunzip { body, decoder, packed: Bytes::new(), left_bytes: max_bytes, max_bytes };
    futures::stream::try_unfold(state, |mut state| async move {
        Ok(state.next().await?.map(|bytes| (bytes, state)))
    })
}

impl Gunzip {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(decoder) = &mut self.decoder {
            let unpacked = if self.packed.is_empty() {
                match self.body.next().await.transpose()? {
                    Some(packed) => {
                        self.packed = packed;
                        continue;
                    }
                    None => self.decoder.take().expect("it was there a moment ago").finish()?,
                }
            } else {
                let step = self.packed.split_to(STEP_BYTES.min(self.packed.len()));
                decoder.write_all(&step)?;
                std::mem::take(decoder.get_mut())
            };
            let length = unpacked.len() as u64;
            self.left_bytes = self
                .left_bytes
                .checked_sub(length)
                .ok_or_else(|| io::Error::other(TooLarge { max_bytes: self.max_bytes }))?;
            if length > 0 {
                return Ok(Some(unpacked.into()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures::TryStreamExt as _;

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn unpacked(packed: &[u8], step: usize, max_bytes: u64) -> io::Result<Vec<u8>> {
        let chunks: Vec<_> = packed.chunks(step).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let body = decoded(Some("gzip"), futures::stream::iter(chunks), max_bytes).unwrap();
        body.try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
    }

    #[tokio::test]
    async fn what_was_packed_is_unpacked_however_it_arrives() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for step in [1, 7, 1 << 20] {
            assert_eq!(unpacked(&packed(&text), step, 400_000).await.unwrap(), text);
        }
        assert_eq!(unpacked(&packed(b""), 100, 0).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_bomb_is_stopped() {
        let bomb = packed(&vec![0; 100 << 20]);
        let error = unpacked(&bomb, 1 << 20, 1 << 20).await.unwrap_err();
        assert!(error.to_string().contains("more than 1048576 octets"), "{error}");
    }

    #[tokio::test]
    async fn what_is_cut_off_damaged_or_followed_by_more_is_an_error() {
        let whole = packed(&[7; 5000]);
        assert!(unpacked(&whole[..whole.len() - 3], 100, 10_000).await.is_err());
        assert!(unpacked(b"not gzip at all", 100, 10_000).await.is_err());
        assert!(unpacked(&[&whole[..], b"more"].concat(), 1 << 20, 10_000).await.is_err());
    }

    #[tokio::test]
    async fn an_unknown_encoding_is_refused_by_name() {
        let body = || futures::stream::empty();
        let error = decoded(Some("br"), body(), 1).err().unwrap();
        assert!(error.to_string().contains("`br`"), "{error}");
        assert!(decoded(None, body(), 1).is_ok());
    }
}

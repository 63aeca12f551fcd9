//! Frames that are fit for a connection that many share.
//!
//! The window of a stream counts octets, but each frame takes memory of its own at the other side, however short it is. A client that takes nothing of
//! a body which comes octet by octet could make the other side hold hundreds of thousands of frames; HTTP/2 libraries end the whole
//! connection over it, with everybody's requests. So short frames have a rate: what is above it waits, and is joined.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::wire;
use crate::BoxError;

/// Frames from this length on cost the other side little beside what the window counts.
const SHORT_BYTES: usize = 256;
/// As many short frames may come at once,
const BURST: u32 = 256;
/// and one for each span of this length.
const EVERY: Duration = Duration::from_millis(20);

/// How many short frames may leave.
#[derive(Debug)]
struct Rate {
    left: u32,
    /// Up to when those that have come due are counted in.
    counted: Instant,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { left: BURST, counted: now }
    }

    /// Whether a short frame may leave now, which is then counted.
    fn take(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.counted).as_nanos() / EVERY.as_nanos();
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        if self.left.saturating_add(due) >= BURST {
            (self.left, self.counted) = (BURST, now);
        } else {
            self.left += due;
            self.counted += EVERY * due;
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

pin_project! {
    /// A body without empty frames, with few short ones, and with trailers that the other side takes.
    pub(super) struct Gather<B> {
        #[pin]
        body: B,
        rate: Rate,
        held: BytesMut,
        wait: Option<Pin<Box<Sleep>>>,
        // What came after the octets that are held.
        then: Option<Then>,
    }
}

enum Then {
    End,
    Trailers(HeaderMap),
    Error(BoxError),
}

#[derive(Debug, thiserror::Error)]
#[error("the trailers are larger than {} octets", wire::FIELDS_MAX_BYTES)]
struct TrailersTooLarge;

impl<B> Gather<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, rate: Rate::new(Instant::now()), held: BytesMut::new(), wait: None, then: None }
    }
}

impl<B> Body for Gather<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        loop {
            if this.then.is_some() {
                if !this.held.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(this.held.split().freeze()))));
                }
                return Poll::Ready(match this.then.replace(Then::End) {
                    None | Some(Then::End) => None,
                    Some(Then::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                    Some(Then::Error(error)) => Some(Err(error)),
                });
            }
            let frame = match this.body.as_mut().poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let Some(wait) = this.wait else { return Poll::Pending };
                    ready!(wait.as_mut().poll(cx));
                    *this.wait = None;
                    this.rate.take(Instant::now());
                    return Poll::Ready(Some(Ok(Frame::data(this.held.split().freeze()))));
                }
            };
            let data = match frame.transpose().map_err(Into::into) {
                Ok(None) => {
                    *this.then = Some(Then::End);
                    continue;
                }
                Err(error) => {
                    *this.then = Some(Then::Error(error));
                    continue;
                }
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(other) => {
                        if let Ok(trailers) = other.into_trailers() {
                            let fits = wire::fields_bytes(&trailers) <= wire::FIELDS_MAX_BYTES;
                            *this.then = Some(match fits {
                                true => Then::Trailers(trailers),
                                false => Then::Error(TrailersTooLarge.into()),
                            });
                        }
                        continue;
                    }
                },
            };
            if data.is_empty() {
                continue;
            }
            if this.held.is_empty() && (data.len() >= SHORT_BYTES || this.rate.take(Instant::now())) {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            this.held.extend_from_slice(&data);
            if this.held.len() >= SHORT_BYTES {
                *this.wait = None;
                return Poll::Ready(Some(Ok(Frame::data(this.held.split().freeze()))));
            }
            if this.wait.is_none() {
                *this.wait = Some(Box::pin(tokio::time::sleep(EVERY)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.then {
            Some(then) => self.held.is_empty() && matches!(then, Then::End),
            None => self.held.is_empty() && self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, held) = (self.body.size_hint(), self.held.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint.set_lower(hint.lower().saturating_add(held));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;

    use super::*;

    fn body(pieces: Vec<Vec<u8>>) -> Gather<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))));
        Gather::new(StreamBody::new(futures::stream::iter(frames)))
    }

    async fn lengths(mut body: Gather<impl Body<Data = Bytes, Error = Infallible> + Unpin>) -> Vec<usize> {
        let mut lengths = Vec::new();
        while let Some(frame) = body.frame().await {
            lengths.push(frame.unwrap().into_data().unwrap().len());
        }
        lengths
    }

    #[tokio::test]
    async fn a_flood_of_single_octets_is_joined_and_an_empty_frame_never_leaves() {
        let pieces = (0..100_000).map(|n| vec![0; usize::from(n % 3 != 0)]).collect();
        let lengths = lengths(body(pieces)).await;
        assert_eq!(lengths.iter().sum::<usize>(), 66_666);
        assert!(lengths.iter().all(|length| *length > 0));
        let short = lengths.iter().filter(|length| **length < SHORT_BYTES).count();
        assert!(short <= BURST as usize + 10, "{short}");
    }

    #[tokio::test]
    async fn a_few_short_frames_and_all_long_ones_pass_as_they_are() {
        assert_eq!(lengths(body(vec![vec![0; 3], vec![0; 5000], vec![0; 1]])).await, [3, 5000, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_leaves_when_nothing_more_comes() {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        let mut body = Gather::new(StreamBody::new(receiver.map(Ok::<_, Infallible>)));
        for _ in 0..=BURST {
            sender.unbounded_send(Frame::data(Bytes::from_static(b"x"))).unwrap();
        }
        for _ in 0..BURST {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        }
        let began = Instant::now();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        assert_eq!(began.elapsed().as_millis(), EVERY.as_millis());
        // One that comes once in a while waits for nothing.
        tokio::time::advance(EVERY * 2).await;
        let began = Instant::now();
        sender.unbounded_send(Frame::data(Bytes::from_static(b"y"))).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "y");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn trailers_that_the_other_side_would_not_take_are_an_error_and_others_pass() {
        let with = |length: usize| {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "a".repeat(length).parse().unwrap());
            let frames = [Frame::data(Bytes::from_static(b"x")), Frame::trailers(trailers)];
            Gather::new(StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>))))
        };
        assert!(with(wire::FIELDS_MAX_BYTES).collect().await.is_err());
        let collected = with(10).collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "aaaaaaaaaa");
    }

    proptest! {
        #[test]
        fn octets_stay_as_they_are_and_in_their_order(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..400)
        ) {
            let expected = pieces.concat();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let collected = runtime.block_on(async { body(pieces).collect().await.unwrap().to_bytes() });
            prop_assert_eq!(collected, expected);
        }

        #[test]
        fn never_more_short_frames_than_the_rate_and_a_burst(gaps in prop::collection::vec(0_u64..100, 1..600)) {
            let start = Instant::now();
            let (mut rate, mut now, mut passed) = (Rate::new(start), start, 0_u128);
            for gap in gaps {
                now += Duration::from_millis(gap);
                passed += u128::from(rate.take(now));
                prop_assert!(passed <= u128::from(BURST) + (now - start).as_millis() / EVERY.as_millis());
            }
        }
    }
}

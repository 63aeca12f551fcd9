//! Takes a client's connection over for `wharf exec` and `wharf cp`, and for backups and restores of volumes.
//!
//! What is behind this, on this server or on the one that leads, gets a request whose body goes on for as long as the client speaks, and
//! answers with a body that does the same. Neither knows of the connection.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::FusedFuture;
use futures::{FutureExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;
use wharf_types::exec::{FRAME_MAX_BYTES, Frame, MEDIA_TYPE, PROTOCOL};

use crate::execs::relay::FRAMES_MAX;

/// How long the request's own body may take.
const BODY_MAX: Duration = Duration::from_secs(30);
/// How long the client may take to read that it may go on.
const UPGRADE_MAX: Duration = Duration::from_secs(10);
/// How long a client may take to close a connection after the last word.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;

pub(super) async fn take_over(mut request: Request, next: Next) -> Response {
    if !is_asked(request.headers()) {
        return next.run(request).await;
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    for name in [header::CONNECTION, header::UPGRADE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    let (from_client, mut said) = mpsc::channel::<Bytes>(FRAMES_MAX);
    // It is read by whoever answers, and so after the token was looked at.
    let speaks = async_stream::stream! {
        let Ok(Ok(spec)) = timeout(BODY_MAX, to_bytes(body, FRAME_MAX_BYTES)).await else { return };
        yield Ok::<Bytes, Infallible>(Frame::Start(spec.to_vec()).encode().into());
        while let Some(octets) = said.recv().await {
            yield Ok(octets);
        }
    };
    let answer = next.run(Request::from_parts(parts, Body::from_stream(speaks))).await;
    if answer.status() != StatusCode::OK {
        return answer;
    }
    tokio::spawn(carry(upgrade, answer.into_body(), from_client));
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn is_asked(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|protocol| protocol == PROTOCOL)
}

/// Until the answer has ended, or the client is gone.
async fn carry(upgrade: OnUpgrade, said: Body, from_client: mpsc::Sender<Bytes>) {
    let upgraded = match timeout(UPGRADE_MAX, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return debug!("a connection could not be taken over: {error}"),
        Err(_) => return debug!("a client did not read that its connection is taken over"),
    };
    pass(TokioIo::new(upgraded), said, from_client).await;
}

/// What the client says to whoever answers, and the answer to the client.
async fn pass(connection: impl AsyncRead + AsyncWrite, said: Body, from_client: mpsc::Sender<Bytes>) {
    let (mut reader, mut writer) = tokio::io::split(connection);
    let reading = async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(read @ 1..) = reader.read(&mut chunk).await {
            // Where nobody listens any more it is still read: closing a connection with something unread takes the last word with it.
            let _ = from_client.send(Bytes::copy_from_slice(&chunk[..read])).await;
        }
    };
    let writing = async move {
        let mut said = said.into_data_stream();
        while let Some(Ok(octets)) = said.next().await {
            if writer.write_all(&octets).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    // Either may end first, and neither can be asked again after that.
    let reading = reading.fuse();
    tokio::pin!(reading, writing);
    tokio::select! {
        () = &mut writing => {}
        // The answer goes on after the client's last word, and is over soon.
        () = &mut reading => writing.await,
    }
    if !reading.is_terminated() {
        let _ = timeout(CLOSE_MAX, reading).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    /// Passes on between a client and an answer that repeats what the client says, and ends with it.
    async fn passed(client_says: &[u8], closes: bool) -> Vec<u8> {
        let (mut client, connection) = duplex(1 << 10);
        let (from_client, mut heard) = mpsc::channel::<Bytes>(4);
        let answer = async_stream::stream! {
            while let Some(octets) = heard.recv().await {
                yield Ok::<Bytes, Infallible>(octets);
                if !closes {
                    break;
                }
            }
        };
        let passing = tokio::spawn(pass(connection, Body::from_stream(answer), from_client));
        client.write_all(client_says).await.unwrap();
        if closes {
            client.shutdown().await.unwrap();
        }
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        drop(client);
        passing.await.expect("nothing panics");
        said
    }

    #[tokio::test]
    async fn an_answer_that_ends_before_its_client_ends_the_connection() {
        assert_eq!(passed(b"all", false).await, b"all");
    }

    #[tokio::test]
    async fn a_client_that_ends_before_its_answer_hears_the_rest() {
        assert_eq!(passed(b"all", true).await, b"all");
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_no_panic() {
        let (client, connection) = duplex(1 << 10);
        let (from_client, mut heard) = mpsc::channel::<Bytes>(4);
        let answer = async_stream::stream! {
            while let Some(octets) = heard.recv().await {
                yield Ok::<Bytes, Infallible>(octets);
            }
            yield Ok(Bytes::from_static(b"nobody reads this"));
        };
        drop(client);
        pass(connection, Body::from_stream(answer), from_client).await;
    }
}

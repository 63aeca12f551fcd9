//! The connection of a command that has a terminal.
//!
//! What such a command prints comes as it is, and may be anything. The client that is used elsewhere here takes some of that for the head of a
//! frame, and keeps all that follows for as long as that says: so this speaks to the engine itself.

use std::io;
use std::path::Path;

use bollard::errors::Error as ClientError;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The longest head of an answer, in octets.
const HEAD_MAX_BYTES: usize = 16 << 10;
/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Starts a command that was made, and returns what it prints, and what is typed.
pub(crate) async fn start(
    socket: &Path,
    exec: &str,
) -> Result<(impl Stream<Item = io::Result<Bytes>> + Send + use<>, OwnedWriteHalf), ClientError> {
    let mut connection = UnixStream::connect(socket).await?;
    let body = r#"{"Detach":false,"Tty":true}"#;
    let request = format!(
        "POST /exec/{exec}/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await?;
    let (status, first) = read_head(&mut connection).await?;
    // An engine that does not say that it goes over does so all the same.
    if !matches!(status, 101 | 200) {
        let said: serde_json::Value = serde_json::from_slice(&first).unwrap_or_default();
        let message = said["message"]
            .as_str()
            .map_or_else(|| String::from_utf8_lossy(&first).trim().to_owned(), |message| message.to_owned());
        return Err(ClientError::DockerResponseServerError { status_code: status, message });
    }
    let (read, write) = connection.into_split();
    Ok((octets(first, read), write))
}

/// The status of the answer, and what has come of its body.
async fn read_head(connection: &mut UnixStream) -> io::Result<(u16, Bytes)> {
    let mut head = Vec::new();
    let mut chunk = vec![0; 4096];
    loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let status = status_of(&head[..end]).ok_or(io::ErrorKind::InvalidData)?;
            return Ok((status, Bytes::copy_from_slice(&head[end + 4..])));
        }
        if head.len() > HEAD_MAX_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let count = connection.read(&mut chunk).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&chunk[..count]);
    }
}

/// `HTTP/1.1 101 UPGRADED`
pub(crate) fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|octet| *octet == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

fn octets(first: Bytes, read: OwnedReadHalf) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let rest = stream::try_unfold(read, |mut read| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = read.read(&mut chunk).await?;
        chunk.truncate(count);
        Ok::<_, io::Error>((count > 0).then_some((Bytes::from(chunk), read)))
    });
    stream::iter((!first.is_empty()).then_some(Ok(first))).chain(rest)
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use tokio::net::UnixListener;

    use super::*;

    /// An engine that answers one request with this, and then says what was typed.
    async fn asked(answer: &'static [u8], typed: &'static [u8]) -> Result<Vec<u8>, ClientError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let engine = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let (mut request, mut chunk) = (Vec::new(), vec![0; 1024]);
            while !request.ends_with(b"\"Tty\":true}") {
                let count = connection.read(&mut chunk).await.unwrap();
                request.extend_from_slice(&chunk[..count]);
            }
            assert!(request.starts_with(b"POST /exec/abc/start HTTP/1.1\r\n"));
            connection.write_all(answer).await.unwrap();
            let mut typed = Vec::new();
            let _ = connection.read_to_end(&mut typed).await;
            let _ = connection.write_all(&typed).await;
        });
        let (printed, mut input) = start(&socket, "abc").await?;
        input.write_all(typed).await.unwrap();
        input.shutdown().await.unwrap();
        let printed: Vec<Bytes> = printed.try_collect().await.unwrap();
        engine.await.unwrap();
        Ok(printed.concat())
    }

    #[tokio::test]
    async fn what_is_printed_comes_as_it_is() {
        let printed =
            asked(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n\x01\0\0\0\xff\xff\xff\xff", b"x").await;
        assert_eq!(printed.unwrap(), b"\x01\0\0\0\xff\xff\xff\xffx");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_engines_words() {
        let refused = asked(b"HTTP/1.1 409 Conflict\r\n\r\n{\"message\":\"it is paused\"}", b"").await;
        let Err(ClientError::DockerResponseServerError { status_code: 409, message }) = &refused else {
            panic!("{refused:?}")
        };
        assert_eq!(message, "it is paused");
        assert!(asked(b"nonsense\r\n\r\n", b"").await.is_err());
    }
}

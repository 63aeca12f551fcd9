//! A client that sends octets as they are, where the other one would put them right or refuse to.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{Platform, SHORT, within};

/// A reply as it came over the connection.
#[derive(Clone, Debug)]
pub struct RawReply {
    /// Status line and fields, each with its line's end.
    pub head: String,
    /// Everything after the empty line, with the marks of chunks. Octets beyond ASCII are escaped.
    pub body: String,
}

impl RawReply {
    pub fn has(&self, line: &str) -> bool {
        self.head.lines().chain(self.body.lines()).any(|had| had == line)
    }

    /// # Panics
    ///
    /// When one of the lines is missing.
    #[track_caller]
    pub fn tells(&self, lines: &[&str]) {
        for line in lines {
            assert!(self.has(line), "`{line}` is not told: {}\n{}", self.head, self.body);
        }
    }
}

impl Platform {
    /// Sends this over a connection of its own to the front door, and reads until that closes it: `connection: close` is the caller's to say.
    pub async fn raw(&self, request: impl AsRef<[u8]>) -> RawReply {
        let address = self.ready.http.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_ref()).await.unwrap();
        let mut octets = Vec::new();
        // Whoever closes early may reset the connection; what came before is there.
        let _ = within(SHORT, "the end of the connection", stream.read_to_end(&mut octets)).await;
        let octets: String = octets
            .iter()
            .map(
                |&octet| {
                    if octet.is_ascii() { char::from(octet).to_string() } else { format!("\\x{octet:02x}") }
                },
            )
            .collect();
        let (head, body) = octets.split_once("\r\n\r\n").unwrap_or((&octets, ""));
        RawReply { head: head.to_owned(), body: body.to_owned() }
    }

    /// A request without a body for this app, with these lines after the request line, each with its end.
    pub async fn raw_to(&self, app: &str, request_line: &str, fields: &str) -> RawReply {
        let host = format!("{app}.default.localhost");
        self.raw(format!("{request_line}\r\nhost: {host}\r\nconnection: close\r\n{fields}\r\n")).await
    }
}

//! A server for tests: answers each request with the next of its replies, and keeps what was asked.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::client::Client;

pub struct TestServer {
    requests: Arc<Mutex<Vec<String>>>,
    api: String,
}

impl TestServer {
    /// Each reply is sent as it is, then the connection is closed. An empty one closes it without a word.
    pub async fn spawn(replies: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let asked = requests.clone();
        tokio::spawn(async move {
            for reply in replies {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !is_whole(&request) {
                    let mut chunk = [0; 4096];
                    match stream.read(&mut chunk).await.unwrap() {
                        0 => break,
                        read => request.extend_from_slice(&chunk[..read]),
                    }
                }
                asked.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        Self { requests, api }
    }

    pub fn client(&self) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::with_token(&self.api, Some("secret".to_owned().into())).unwrap()
    }

    /// Heads and bodies of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// A reply with a JSON body.
pub fn json(status: &str, body: &impl serde::Serialize) -> String {
    let body = serde_json::to_string(body).unwrap();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A stream that breaks after these octets.
pub fn stream(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000000\r\n\r\n{body}")
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.trim().parse().unwrap())
}

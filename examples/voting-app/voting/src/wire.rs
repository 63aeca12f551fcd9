//! A TCP connection on which every wait has a limit.
//!
//! The standard library opens no sockets on some of the targets that guests are built for, so this uses those of WASI 0.2, by `wstd`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode, IpAddress};
use wstd::future::FutureExt;
use wstd::io::{AsyncRead, AsyncWrite};
use wstd::net::TcpStream;
use wstd::runtime::AsyncPollable;

use crate::error::{Error, Result};

/// Looking the name up, and connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Until the server takes what is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer of a server.
const ANSWER_MAX_BYTES: usize = 1 << 20;

pub struct Wire {
    address: String,
    stream: TcpStream,
    /// What came, and was not understood yet.
    received: BytesMut,
}

impl Wire {
    /// Connects to `host:port`, where the host is a name or an address.
    pub async fn connect(address: &str) -> Result<Self> {
        let connected = connect(address).timeout(wstd::time::Duration::from(CONNECT_TIMEOUT)).await;
        match connected.flatten() {
            Ok(stream) => Ok(Self { address: address.to_owned(), stream, received: BytesMut::new() }),
            Err(source) => Err(Error::Connect { address: address.to_owned(), source }),
        }
    }

    pub async fn send(&mut self, octets: &[u8]) -> Result<()> {
        let sending = self.stream.write_all(octets).timeout(wstd::time::Duration::from(SEND_TIMEOUT)).await;
        sending.flatten().map_err(|source| self.broken(source))
    }

    /// Reads until `parse` finds an answer at the beginning of what came, which it takes away.
    pub async fn receive<T>(
        &mut self,
        limit: Duration,
        mut parse: impl FnMut(&mut BytesMut) -> io::Result<Option<T>>,
    ) -> Result<T> {
        let mut chunk = [0; 4096];
        loop {
            match parse(&mut self.received) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) if self.received.len() > ANSWER_MAX_BYTES => {
                    return Err(self.unexpected("an answer is too long"));
                }
                Ok(None) => {}
                Err(source) => return Err(self.broken(source)),
            }
            let reading = self.stream.read(&mut chunk).timeout(wstd::time::Duration::from(limit)).await;
            match reading.flatten() {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => self.received.extend_from_slice(&chunk[..length]),
                Err(source) => return Err(self.broken(source)),
            }
        }
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Broken { address: self.address.clone(), source }
    }

    pub fn refused(&self, code: &str, message: &str) -> Error {
        let Self { address, .. } = self;
        Error::Refused { address: address.clone(), code: code.to_owned(), message: message.to_owned() }
    }

    pub fn unexpected(&self, what: &'static str) -> Error {
        Error::Unexpected { address: self.address.clone(), what }
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let (host, port) = split(address)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address of IPv4");
    for ip in lookup(host).await? {
        match TcpStream::connect_addr(SocketAddr::new(ip.into(), port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn split(address: &str) -> io::Result<(&str, u16)> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parts.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an address is `host:port`"))
}

/// The addresses of IPv4, the only ones that `wstd` connects to.
async fn lookup(host: &str) -> io::Result<Vec<Ipv4Addr>> {
    match host.parse() {
        Ok(IpAddr::V4(address)) => return Ok(vec![address]),
        Ok(IpAddr::V6(_)) => return Ok(Vec::new()),
        Err(_) => {}
    }
    let failed = |code: ErrorCode| io::Error::other(format!("the name was not found ({})", code.name()));
    let found = resolve_addresses(&instance_network(), host).map_err(failed)?;
    // Declared after what it waits for, so that it goes first.
    let ready = AsyncPollable::new(found.subscribe());
    let mut addresses = Vec::new();
    loop {
        match found.resolve_next_address() {
            Ok(Some(IpAddress::Ipv4((a, b, c, d)))) => addresses.push(Ipv4Addr::new(a, b, c, d)),
            Ok(Some(IpAddress::Ipv6(_))) => {}
            Ok(None) => return Ok(addresses),
            Err(ErrorCode::WouldBlock) => ready.wait_for().await,
            Err(code) => return Err(failed(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        assert_eq!(split("redis:6379").unwrap(), ("redis", 6379));
        assert!(split("redis").is_err() && split("redis:x").is_err());
    }
}

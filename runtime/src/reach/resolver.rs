//! The name server of this node's containers: it answers names of apps, and asks the machine's own name servers for all others.
//!
//! The engine asks it from within the network of a container, whose address says who wants to know.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::Places;
use super::directory::Meaning;
use super::dns::{self, Answer, Question};
use super::door::Served;

/// Questions at once, of all containers.
const QUESTIONS_MAX: usize = 1024;
/// How long a name server may take, and how many are asked for one question.
const SERVER_MAX: Duration = Duration::from_millis(1500);
const TRIES_MAX: usize = 3;
const SERVERS_MAX: usize = 3;
/// How long the settings of the machine are believed to be as they were.
const SETTINGS_FOR: Duration = Duration::from_secs(5);
/// How long a container that has just started may take to be known.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);
/// A connection on which nothing is asked ends.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// What fits into a datagram of any network (RFC 1035 §4.2.1); more where the resolver said so, which is passed on as it is.
const DATAGRAM_MAX_BYTES: usize = 4096;

/// The settings of the machine's own resolver, and those of which it makes them.
const SETTINGS: &str = "/etc/resolv.conf";
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
const DNS_PORT: u16 = 53;

/// What answers.
#[derive(Debug)]
pub(super) struct Resolver {
    places: Places,
    servers: Mutex<Option<(Instant, Vec<IpAddr>)>>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { places: Places::new(QUESTIONS_MAX), servers: Mutex::default() }
    }
}

/// The name servers in a text like `/etc/resolv.conf`.
pub(super) fn name_servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        // An address of one link says which one behind a `%`.
        (words.next()? == "nameserver").then(|| words.next()?.split('%').next()?.parse().ok())?
    };
    text.lines().filter_map(server).take(SERVERS_MAX).collect()
}

/// Those of this machine that a container reaches as well: for while nobody answers here.
pub(super) fn beside() -> Vec<IpAddr> {
    let reached = |path: &str| -> Vec<IpAddr> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        name_servers(&text)
            .into_iter()
            .filter(|address| address.is_ipv4() && !address.is_loopback())
            .collect()
    };
    let own = reached(SETTINGS);
    let mut found = if own.is_empty() { reached(BEHIND_STUB) } else { own };
    found.truncate(SERVERS_MAX - 1);
    found
}

impl Resolver {
    /// Answers the datagrams that come to a socket, for ever.
    pub(super) async fn answer_datagrams(served: Arc<Served>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; DATAGRAM_MAX_BYTES];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // Of a datagram that could not be delivered: another is not touched by it.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let query = buffer[..length].to_vec();
            // Whoever has too many questions asks again.
            let Some(place) = served.resolver.places.take(from.ip()) else { continue };
            let (served, socket) = (served.clone(), socket.clone());
            tokio::spawn(async move {
                let _place = place;
                if let Some(answer) = answer(&served, &query, from.ip(), false).await {
                    let _ = socket.send_to(&answer, from).await;
                }
            });
        }
    }

    /// The same over a connection, until it ends.
    pub(super) async fn answer_stream(
        served: &Served,
        mut stream: TcpStream,
        from: IpAddr,
    ) -> io::Result<()> {
        loop {
            let Ok(query) = tokio::time::timeout(IDLE_MAX, read_message(&mut stream)).await else {
                return Ok(());
            };
            let query = query?;
            let Some(answer) = answer(served, &query, from, true).await else { return Ok(()) };
            tokio::time::timeout(IDLE_MAX, write_message(&mut stream, &answer)).await??;
        }
    }

    fn servers(&self) -> Vec<IpAddr> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, known)) = &*servers
            && read.elapsed() < SETTINGS_FOR
        {
            return known.clone();
        }
        let text = std::fs::read_to_string(Path::new(SETTINGS)).unwrap_or_default();
        let mut read = name_servers(&text);
        if read.is_empty() {
            // As every resolver does.
            read.push(Ipv4Addr::LOCALHOST.into());
        }
        *servers = Some((Instant::now(), read.clone()));
        read
    }
}

/// None: it is no question.
async fn answer(served: &Served, query: &[u8], from: IpAddr, is_stream: bool) -> Option<Vec<u8>> {
    if !dns::is_query(query) {
        return None;
    }
    let Some(question) = dns::question(query) else {
        return Some(dns::answer(query, None, Answer::Malformed));
    };
    let container = served.reach.containers.at_source_soon(from, KNOWN_WITHIN).await;
    let Some(container) = container.filter(|it| it.has_way_out) else {
        return Some(dns::answer(query, Some(&question), Answer::Refused));
    };
    let meaning = served.reach.directory.load().meaning(&container.asker, &question.name);
    let said = match meaning {
        Meaning::App(app) => match served.address(&container.asker.namespace, &app) {
            Some(address) => Answer::Address(address),
            None => Answer::Failed,
        },
        Meaning::Nobody => Answer::NoSuchName,
        Meaning::Elsewhere => return Some(ask_others(&served.resolver, query, &question, is_stream).await),
    };
    Some(dns::answer(query, Some(&question), said))
}

/// Asks the machine's name servers, one after the other.
async fn ask_others(resolver: &Resolver, query: &[u8], question: &Question, is_stream: bool) -> Vec<u8> {
    let servers = resolver.servers();
    for server in servers.iter().cycle().take(TRIES_MAX) {
        let at = SocketAddr::new(*server, DNS_PORT);
        let asked = async {
            match is_stream {
                true => ask_stream(at, query, question).await,
                false => ask_datagram(at, query, question).await,
            }
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(SERVER_MAX, asked).await {
            return answer;
        }
    }
    dns::answer(query, Some(question), Answer::Failed)
}

/// A socket and a number of its own for each question, so that nobody else can answer it.
async fn ask_datagram(server: SocketAddr, query: &[u8], question: &Question) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let asked = dns::with_id(query, rand::random());
    socket.send(&asked).await?;
    let mut buffer = vec![0; DATAGRAM_MAX_BYTES + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = &buffer[..length];
        if !dns::answers(&asked, question, answer) {
            continue;
        }
        let answer = match length > DATAGRAM_MAX_BYTES {
            true => dns::truncated(answer, question),
            false => answer.to_vec(),
        };
        return Ok(dns::with_id(&answer, id_of(query)));
    }
}

async fn ask_stream(server: SocketAddr, query: &[u8], question: &Question) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let asked = dns::with_id(query, rand::random());
    write_message(&mut stream, &asked).await?;
    let answer = read_message(&mut stream).await?;
    if !dns::answers(&asked, question, &answer) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(dns::with_id(&answer, id_of(query)))
}

fn id_of(query: &[u8]) -> [u8; 2] {
    [query.first().copied().unwrap_or(0), query.get(1).copied().unwrap_or(0)]
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let whole = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&whole).await
}

#[cfg(test)]
mod tests {
    use super::super::dns::tests::query;
    use super::*;

    #[test]
    fn the_machines_name_servers_are_read() {
        let text = "# of somebody\nsearch example.com\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\n\
            nameserver nonsense\noptions timeout:1\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n";
        let servers: Vec<_> = name_servers(text).iter().map(IpAddr::to_string).collect();
        assert_eq!(servers, ["10.0.0.2", "fe80::1", "10.0.0.3"]);
        assert!(name_servers("nameserver").is_empty());
    }

    /// A name server that sends a wrong answer before the right one, which says `Failed`.
    async fn name_server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let asked = &buffer[..length];
            let question = dns::question(asked).unwrap();
            let right = dns::answer(asked, Some(&question), Answer::NoSuchName);
            let [one, other] = id_of(asked);
            socket.send_to(&dns::with_id(&right, [one, other.wrapping_add(1)]), from).await.unwrap();
            socket.send_to(asked, from).await.unwrap();
            socket.send_to(&right, from).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn an_answer_comes_back_under_the_number_of_its_question() {
        let asked = query("example.com", 1);
        let question = dns::question(&asked).unwrap();
        let answer = ask_datagram(name_server().await, &asked, &question).await.unwrap();
        assert_eq!((&answer[..2], answer[3] & 0xf), (&asked[..2], 3));
    }
}

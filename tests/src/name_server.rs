//! A name server that says what a test wants, and counts how often it was asked.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
/// The header of a message, before the question.
const HEADER_BYTES: usize = 12;

/// Answers to a name: the first question gets the first, the next one the second, and so on around. Where there is none, nothing
/// is ever said.
type Answers = HashMap<&'static str, Vec<Vec<IpAddr>>>;

/// Ends with the test.
#[derive(Debug)]
pub struct NameServer {
    pub address: IpAddr,
    asked: Arc<Mutex<HashMap<(String, u16), usize>>>,
    task: JoinHandle<()>,
}

impl NameServer {
    /// None, with a word about it on stderr: this user may not listen on the port, or change where the platform asks.
    pub async fn spawn(answers: Answers) -> Option<Self> {
        // Each test its own address: the port is the same for all.
        let [.., a, b] = std::process::id().to_be_bytes();
        let taken = async |address: IpAddr| UdpSocket::bind((address, 53)).await;
        let mut bound = None;
        for last in 2..100 {
            let address = IpAddr::from(Ipv4Addr::new(127, a, b, last));
            bound = taken(address).await.ok().map(|socket| (address, socket));
            if bound.is_some() {
                break;
            }
        }
        let may_mount = std::process::Command::new("unshare").args(["--mount", "true"]).status();
        let (Some((address, socket)), true) = (bound, may_mount.is_ok_and(|status| status.success())) else {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            let told = format!("SKIPPED {test}: only root can give the platform a name server of its own\n");
            std::io::stderr().write_all(told.as_bytes()).unwrap();
            return None;
        };
        let asked = Arc::<Mutex<HashMap<(String, u16), usize>>>::default();
        let counted = asked.clone();
        let task = tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                if let Some(reply) = reply(&question[..length], &answers, &counted) {
                    let _ = socket.send_to(&reply, from).await;
                }
            }
        });
        Some(Self { address, asked, task })
    }

    /// How often the name's IPv4 addresses were asked for.
    pub fn asked(&self, name: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(&(name.to_owned(), TYPE_A)).copied().unwrap_or_default()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// RFC 1035 §4, as much of it as a resolver needs to be content.
fn reply(
    question: &[u8],
    answers: &Answers,
    asked: &Mutex<HashMap<(String, u16), usize>>,
) -> Option<Vec<u8>> {
    let (mut name, mut at) = (String::new(), HEADER_BYTES);
    while let length @ 1.. = usize::from(*question.get(at)?) {
        let label = std::str::from_utf8(question.get(at + 1..at + 1 + length)?).ok()?;
        name.push_str(if name.is_empty() { "" } else { "." });
        name.push_str(label);
        at += 1 + length;
    }
    let kind = u16::from_be_bytes(question.get(at + 1..at + 3)?.try_into().ok()?);
    let time = {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let count = asked.entry((name.clone(), kind)).or_default();
        *count += 1;
        *count - 1
    };
    let known = answers.get(name.as_str());
    if known.is_some_and(Vec::is_empty) {
        return None;
    }
    let addresses: Vec<IpAddr> = known.map(|turns| turns[time % turns.len()].clone()).unwrap_or_default();
    let fitting =
        addresses.iter().filter(|address| kind == if address.is_ipv4() { TYPE_A } else { TYPE_AAAA });
    let records: Vec<Vec<u8>> = fitting.map(|address| record(*address, kind)).collect();
    let mut reply = question[..2].to_vec();
    // A response with authority; names that nobody knows do not exist.
    reply.extend([
        0x84,
        if known.is_some() { 0 } else { 3 },
        0,
        1,
        0,
        u8::try_from(records.len()).ok()?,
        0,
        0,
        0,
        0,
    ]);
    reply.extend(question.get(HEADER_BYTES..at + 5)?);
    reply.extend(records.concat());
    Some(reply)
}

/// An answer for the name in the question, which nobody may remember.
fn record(address: IpAddr, kind: u16) -> Vec<u8> {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let [_, kind] = kind.to_be_bytes();
    let length = if address.is_ipv4() { 4 } else { 16 };
    [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, length], octets.as_slice()].concat()
}

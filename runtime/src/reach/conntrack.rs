//! Asks the kernel where a datagram was to go that the packet filter has brought here: for TCP a socket knows that, for UDP only the kernel's list of
//! connections does.
//!
//! The few words of netlink (RFC 3549) for that are written and read by hand: one question about one pair of ends, and its answer.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

/// Of `nfnetlink`: the list of connections, and that one of them is asked for.
const GET: u16 = (1 << 8) | 1;
const GOT: u16 = 1 << 8;
const ERROR: u16 = 2;
const IS_REQUEST: u16 = 1;
const HEADER_BYTES: usize = 16;
/// Behind the header of a message: family, version, and number of what is asked.
const FAMILY_BYTES: usize = 4;
const ANSWER_MAX_BYTES: usize = 4096;

/// Attributes, which are numbered anew within each. One with others in it has a bit for that.
const IS_NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;
const AS_SENT: u16 = 1;
const AS_ANSWERED: u16 = 2;
const ADDRESSES: u16 = 1;
const SOURCE: u16 = 1;
const DESTINATION: u16 = 2;
const PORTS: u16 = 2;
const PROTOCOL: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const UDP: u8 = 17;

/// A way to ask.
#[derive(Debug)]
pub(super) struct Conntrack(Mutex<Asking>);

#[derive(Debug)]
struct Asking {
    socket: Socket,
    /// Of the last question.
    number: u32,
}

/// What a message says to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Meant(SocketAddrV4),
    /// The kernel knows of no such connection.
    Nobody,
    Failed(i32),
    Unreadable,
}

impl Conntrack {
    /// An error: this kernel does not say it, or not to this user.
    pub(super) fn open() -> io::Result<Self> {
        let (family, protocol) = (Domain::from(libc::AF_NETLINK), Protocol::from(libc::NETLINK_NETFILTER));
        let socket = Socket::new(family, Type::RAW, Some(protocol))?;
        // The kernel has answered when it has taken the question: nobody waits.
        socket.set_nonblocking(true)?;
        let conntrack = Self(Mutex::new(Asking { socket, number: 0 }));
        let nobody = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        conntrack.meant(nobody, nobody)?;
        Ok(conntrack)
    }

    /// Where a datagram was to go that has come here, `at` one of our ports. None: nobody has sent one from there.
    pub(super) fn meant(&self, at: SocketAddrV4, from: SocketAddrV4) -> io::Result<Option<SocketAddrV4>> {
        let mut asking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asking.number = asking.number.wrapping_add(1);
        let number = asking.number;
        asking.socket.send(&question(number, at, from))?;
        let mut buffer = [0; ANSWER_MAX_BYTES];
        loop {
            let length = asking.socket.read(&mut buffer)?;
            match answer(&buffer[..length], number) {
                // To a question of before, whose asker has left.
                None => {}
                Some(Answer::Meant(meant)) => return Ok(Some(meant)),
                Some(Answer::Nobody) => return Ok(None),
                Some(Answer::Failed(code)) => return Err(io::Error::from_raw_os_error(code)),
                Some(Answer::Unreadable) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// Asks for the connection whose answers go from `at` to `from`.
fn question(number: u32, at: SocketAddrV4, from: SocketAddrV4) -> Vec<u8> {
    let addresses =
        [attribute(SOURCE, &at.ip().octets()), attribute(DESTINATION, &from.ip().octets())].concat();
    let ports = [
        attribute(PROTOCOL, &[UDP]),
        attribute(SOURCE_PORT, &at.port().to_be_bytes()),
        attribute(DESTINATION_PORT, &from.port().to_be_bytes()),
    ]
    .concat();
    let ends = [attribute(ADDRESSES | IS_NESTED, &addresses), attribute(PORTS | IS_NESTED, &ports)].concat();
    let ends = attribute(AS_ANSWERED | IS_NESTED, &ends);
    let length = (HEADER_BYTES + FAMILY_BYTES + ends.len()) as u32;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(GET.to_ne_bytes());
    message.extend(IS_REQUEST.to_ne_bytes());
    message.extend(number.to_ne_bytes());
    // From whom: the kernel knows.
    message.extend(0_u32.to_ne_bytes());
    message.extend([libc::AF_INET as u8, 0, 0, 0]);
    message.extend(ends);
    message
}

/// None: it is no answer to the question of this number.
fn answer(message: &[u8], number: u32) -> Option<Answer> {
    let asked = message.get(8..12)?;
    if asked != number.to_ne_bytes() {
        return None;
    }
    let rest = message.get(HEADER_BYTES..)?;
    Some(match word(message.get(4..)?)? {
        GOT => meant(rest.get(FAMILY_BYTES..).unwrap_or_default()).map_or(Answer::Unreadable, Answer::Meant),
        ERROR => match rest.first_chunk().map(|code| i32::from_ne_bytes(*code).wrapping_neg()) {
            Some(libc::ENOENT) => Answer::Nobody,
            Some(code) => Answer::Failed(code),
            None => Answer::Unreadable,
        },
        _ => Answer::Unreadable,
    })
}

/// Where the first datagram was sent to, in the attributes of a connection.
fn meant(attributes: &[u8]) -> Option<SocketAddrV4> {
    let sent = content(attributes, AS_SENT)?;
    let address: [u8; 4] = content(content(sent, ADDRESSES)?, DESTINATION)?.try_into().ok()?;
    let port = content(content(sent, PORTS)?, DESTINATION_PORT)?.first_chunk()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(address), u16::from_be_bytes(*port)))
}

/// An attribute, with what fills it up to a whole word of the kernel's.
fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = (content.len() + 4) as u16;
    let mut attribute = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), content].concat();
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// What an attribute has in it, the first of its kind among others.
fn content(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(word(attributes)?);
        let found = word(attributes.get(2..)?)? & KIND;
        // One that is shorter than its own head is none.
        let content = attributes.get(4..length)?;
        if found == kind {
            return Some(content);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn word(octets: &[u8]) -> Option<u16> {
    octets.first_chunk().map(|word| u16::from_ne_bytes(*word))
}

/// Reads whatever comes.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_any(octets: &[u8]) {
    let number = octets.get(8..12).and_then(|number| number.first_chunk()).map(|it| u32::from_ne_bytes(*it));
    let read = answer(octets, number.unwrap_or(0));
    assert!(read.is_none() || number.is_some());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    /// As a kernel has said it, up to where the datagram's answers go.
    fn said(number: u32) -> Vec<u8> {
        let ends = |from: &str, to: &str| {
            let addresses =
                [attribute(SOURCE, &at(from).ip().octets()), attribute(DESTINATION, &at(to).ip().octets())];
            let ports = [
                attribute(PROTOCOL, &[UDP]),
                attribute(SOURCE_PORT, &at(from).port().to_be_bytes()),
                attribute(DESTINATION_PORT, &at(to).port().to_be_bytes()),
            ];
            [
                attribute(ADDRESSES | IS_NESTED, &addresses.concat()),
                attribute(PORTS | IS_NESTED, &ports.concat()),
            ]
            .concat()
        };
        let (container, app, here) = ("172.20.0.2:5555", "198.18.16.7:8125", "198.18.16.1:4000");
        let attributes = [
            attribute(AS_SENT | IS_NESTED, &ends(container, app)),
            attribute(AS_ANSWERED | IS_NESTED, &ends(here, container)),
        ]
        .concat();
        [&head(GOT, number)[..], &[2, 0, 0, 0], &attributes].concat()
    }

    /// Of a message; nobody reads the length.
    fn head(kind: u16, number: u32) -> Vec<u8> {
        [&[0; 4][..], &kind.to_ne_bytes(), &[0; 2], &number.to_ne_bytes(), &[0; 4]].concat()
    }

    fn error(code: i32) -> Vec<u8> {
        [&head(ERROR, 7)[..], &code.to_ne_bytes(), &[0; 16]].concat()
    }

    #[test]
    fn what_was_meant_is_read_from_the_answer_to_the_question_and_from_no_other() {
        let message = said(7);
        assert_eq!(answer(&message, 7), Some(Answer::Meant(at("198.18.16.7:8125"))));
        assert_eq!(answer(&message, 8), None);
        assert_eq!(answer(&error(-libc::ENOENT), 7), Some(Answer::Nobody));
        assert_eq!(answer(&error(-libc::EPERM), 7), Some(Answer::Failed(libc::EPERM)));
        for end in 0..message.len() {
            // Of one that breaks off, what was meant stands in front.
            let read = answer(&message[..end], 7);
            assert!(!matches!(read, Some(Answer::Nobody | Answer::Failed(_))), "{end}: {read:?}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_question_stands_as_the_kernel_reads_it() {
        let asked = question(7, at("198.18.16.1:4000"), at("172.20.0.2:5555"));
        // Length, what is asked, and the family; then both addresses, and UDP with both ports.
        let head = ["48000000", "0101", "0100", "07000000", "00000000", "02000000", "34000280"].concat();
        let addresses = ["14000180", "08000100c6121001", "08000200ac140002"].concat();
        let ports = ["1c000280", "0500010011000000", "060002000fa00000", "0600030015b30000"].concat();
        let shown: String = asked.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(shown, format!("{head}{addresses}{ports}"));
    }
}

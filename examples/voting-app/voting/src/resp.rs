//! RESP, the protocol of Redis: commands as octets, and octets as replies. Nothing is sent or received here.

use std::io;

use bytes::{Buf, BytesMut};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Status(String),
    /// A word such as `LOADING`, and what it means.
    Error(String),
    Number(i64),
    Text(Vec<u8>),
    List(Vec<Reply>),
    Nothing,
}

/// Lists in lists in lists; this app asks for none deeper than one.
const DEPTH_MAX: usize = 4;
const TEXT_MAX_BYTES: usize = 1 << 20;
const LIST_MAX: usize = 10_000;

pub fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut octets = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        octets.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        octets.extend_from_slice(word);
        octets.extend_from_slice(b"\r\n");
    }
    octets
}

/// Takes a whole reply from the beginning of `octets`. None: it has not arrived to its end.
///
/// # Errors
/// When this is not RESP.
pub fn parse(octets: &mut BytesMut) -> io::Result<Option<Reply>> {
    let mut rest = &octets[..];
    let Some(reply) = reply(&mut rest, 0)? else { return Ok(None) };
    let length = octets.len() - rest.len();
    octets.advance(length);
    Ok(Some(reply))
}

fn reply(rest: &mut &[u8], depth: usize) -> io::Result<Option<Reply>> {
    let Some(line) = line(rest)? else { return Ok(None) };
    let (kind, text) = line.split_first().ok_or_else(|| malformed("a line is empty"))?;
    let text = std::str::from_utf8(text).map_err(|_| malformed("a line is not text"))?;
    Ok(Some(match kind {
        b'+' => Reply::Status(text.to_owned()),
        b'-' => Reply::Error(text.to_owned()),
        b':' => Reply::Number(text.parse().map_err(|_| malformed("a number is not one"))?),
        b'$' | b'*' if text == "-1" => Reply::Nothing,
        b'$' => {
            let length = length(text, TEXT_MAX_BYTES)?;
            let Some((content, end)) = rest.split_at_checked(length) else { return Ok(None) };
            let Some((end, after)) = end.split_at_checked(2) else { return Ok(None) };
            if end != b"\r\n" {
                return Err(malformed("a text does not end where it should"));
            }
            *rest = after;
            Reply::Text(content.to_vec())
        }
        b'*' if depth < DEPTH_MAX => {
            let mut items = Vec::new();
            for _ in 0..length(text, LIST_MAX)? {
                let Some(item) = reply(rest, depth + 1)? else { return Ok(None) };
                items.push(item);
            }
            Reply::List(items)
        }
        b'*' => return Err(malformed("lists are too deep")),
        _ => return Err(malformed("a reply is of no known kind")),
    }))
}

/// Up to the end of the line, which is taken away, too.
fn line<'a>(rest: &mut &'a [u8]) -> io::Result<Option<&'a [u8]>> {
    let Some(end) = rest.iter().position(|&octet| octet == b'\n') else { return Ok(None) };
    let (line, after) = rest.split_at(end + 1);
    *rest = after;
    line.strip_suffix(b"\r\n").map(Some).ok_or_else(|| malformed("a line does not end as it should"))
}

fn length(text: &str, max: usize) -> io::Result<usize> {
    text.parse().ok().filter(|length| *length <= max).ok_or_else(|| malformed("a length is out of bounds"))
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn parsed(octets: &[u8]) -> io::Result<Option<Reply>> {
        parse(&mut BytesMut::from(octets))
    }

    #[test]
    fn a_command_is_a_list_of_texts() {
        assert_eq!(
            command(&[b"RPUSH", b"votes", b"a\r\nb"]),
            b"*3\r\n$5\r\nRPUSH\r\n$5\r\nvotes\r\n$4\r\na\r\nb\r\n"
        );
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        for (octets, reply) in [
            (&b"+OK\r\n"[..], Reply::Status("OK".to_owned())),
            (b"-LOADING not yet\r\n", Reply::Error("LOADING not yet".to_owned())),
            (b":-7\r\n", Reply::Number(-7)),
            (b"$2\r\n\r\n\r\n", Reply::Text(b"\r\n".to_vec())),
            (b"$0\r\n\r\n", Reply::Text(Vec::new())),
            (b"$-1\r\n", Reply::Nothing),
            (b"*-1\r\n", Reply::Nothing),
            (b"*2\r\n:1\r\n*0\r\n", Reply::List(vec![Reply::Number(1), Reply::List(Vec::new())])),
        ] {
            assert_eq!(parsed(octets).unwrap(), Some(reply));
        }
    }

    #[test]
    fn a_reply_that_arrives_in_pieces_is_waited_for_and_the_next_one_is_left() {
        let whole = b"*2\r\n$5\r\nhello\r\n:42\r\n";
        for length in 0..whole.len() {
            assert_eq!(parsed(&whole[..length]).unwrap(), None, "{length} octets");
        }
        let mut octets = BytesMut::from(&[&whole[..], b"+next"].concat()[..]);
        assert!(parse(&mut octets).unwrap().is_some());
        assert_eq!(&octets[..], b"+next");
    }

    #[test]
    fn what_is_not_the_protocol_is_an_error() {
        for octets in [
            &b"HTTP/1.1 400\r\n"[..],
            b"\r\n",
            b"+OK\n",
            b":x\r\n",
            b"$1\r\nabc",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        ] {
            assert!(parsed(octets).is_err(), "{octets:?}");
        }
    }
}

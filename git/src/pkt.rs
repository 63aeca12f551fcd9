//! pkt-lines, the frames of git's protocols: four hexadecimal digits that count themselves and what follows.

use bytes::{BufMut as _, Bytes, BytesMut};

/// What ends a list of lines.
pub(crate) const FLUSH: &[u8] = b"0000";
/// The most that one line holds.
const DATA_MAX_BYTES: usize = 65_516;

/// The channels that are laid over an answer.
#[derive(Clone, Copy)]
pub(crate) enum Band {
    Data = 1,
    /// What a client shows behind `remote:`.
    Progress = 2,
}

/// What stands at the beginning of some octets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// More octets are needed.
    Incomplete,
    /// Flush, or another mark without data.
    Mark,
    /// A line of so many octets, the four digits among them.
    Line(usize),
}

#[derive(Debug, thiserror::Error)]
#[error("a pkt-line begins with four hexadecimal digits that say its length, not with `{}`", .0.escape_ascii())]
pub struct InvalidFrame([u8; 4]);

pub(crate) fn frame(bytes: &[u8]) -> Result<Frame, InvalidFrame> {
    let Some(&digits) = bytes.first_chunk::<4>() else { return Ok(Frame::Incomplete) };
    let mut length = 0;
    for digit in digits {
        let digit = char::from(digit).to_digit(16).ok_or(InvalidFrame(digits))?;
        length = length << 4 | digit as usize;
    }
    match length {
        0..=2 => Ok(Frame::Mark),
        3 => Err(InvalidFrame(digits)),
        _ if bytes.len() < length => Ok(Frame::Incomplete),
        _ => Ok(Frame::Line(length)),
    }
}

/// Appends a line.
pub(crate) fn put_line(to: &mut BytesMut, data: &[u8]) {
    debug_assert!(data.len() <= DATA_MAX_BYTES);
    to.put_slice(format!("{:04x}", data.len() + 4).as_bytes());
    to.put_slice(data);
}

/// Appends data on a channel, in as many lines as it takes.
pub(crate) fn put_band(to: &mut BytesMut, band: Band, data: &[u8]) {
    for part in data.chunks(DATA_MAX_BYTES - 1) {
        to.put_slice(format!("{:04x}", part.len() + 5).as_bytes());
        to.put_u8(band as u8);
        to.put_slice(part);
    }
}

/// Follows an answer as it passes, to know where something of our own may stand.
#[derive(Debug, Default)]
pub(crate) struct Boundaries {
    digits: Vec<u8>,
    left: usize,
}

impl Boundaries {
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            self.digits.push(bytes[0]);
            bytes = &bytes[1..];
            if self.digits.len() == 4 {
                let length = std::str::from_utf8(&self.digits)
                    .ok()
                    .and_then(|digits| usize::from_str_radix(digits, 16).ok());
                // What is not a length is not followed: then nothing of ours may ever stand there.
                self.left = length.map_or(usize::MAX, |length| length.saturating_sub(4));
                self.digits.clear();
            }
        }
    }

    /// Whether all that has passed are whole lines.
    pub(crate) fn is_between_lines(&self) -> bool {
        self.left == 0 && self.digits.is_empty()
    }
}

/// The first lines of an advertisement: which service it is of.
pub(crate) fn service_line(name: &str) -> Bytes {
    let mut line = BytesMut::new();
    put_line(&mut line, format!("# service={name}\n").as_bytes());
    line.put_slice(FLUSH);
    line.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_once_it_is_whole() {
        assert_eq!(frame(b"000").unwrap(), Frame::Incomplete);
        assert_eq!(frame(b"0006a").unwrap(), Frame::Incomplete);
        assert_eq!(frame(b"0006ab0000").unwrap(), Frame::Line(6));
        assert_eq!(frame(b"0000PACK").unwrap(), Frame::Mark);
        assert!(frame(b"0003").is_err());
        assert!(frame(b"PACK").is_err());
    }

    #[test]
    fn the_first_line_of_an_advertisement_names_the_service() {
        assert_eq!(service_line("git-upload-pack"), &b"001e# service=git-upload-pack\n0000"[..]);
    }

    #[test]
    fn long_data_takes_several_lines_on_its_channel() {
        let mut out = BytesMut::new();
        put_band(&mut out, Band::Progress, &[b'x'; 70_000]);
        assert_eq!(&out[..5], b"fff0\x02");
        assert_eq!(out.len(), 70_000 + 2 * 5);
    }

    proptest::proptest! {
        #[test]
        fn boundaries_do_not_depend_on_how_octets_arrive(lines in proptest::collection::vec(0..300usize, 1..20), cut in 0..6000usize) {
            let mut out = BytesMut::new();
            let mut ends = vec![0];
            for length in lines {
                put_line(&mut out, &vec![b'x'; length]);
                ends.push(out.len());
            }
            let cut = cut.min(out.len());
            let mut boundaries = Boundaries::default();
            out[..cut].iter().for_each(|&octet| boundaries.pass(&[octet]));
            assert_eq!(boundaries.is_between_lines(), ends.contains(&cut));
            boundaries.pass(&out[cut..]);
            assert!(boundaries.is_between_lines());
        }
    }
}

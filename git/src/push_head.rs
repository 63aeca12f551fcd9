//! What stands before the pack in a push: the refs it is about, what the client can do, options, and how many objects follow.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};

use crate::object_id::{InvalidObjectId, ObjectId};
use crate::pkt::{self, Frame, InvalidFrame};
use crate::ref_name::{InvalidRefName, RefName, RefUpdate};

/// A head of ten thousand refs with long names.
const MAX_BYTES: usize = 4 << 20;
/// The head of a pack: `PACK`, a version and a count.
const PACK_HEAD_BYTES: usize = 12;

/// What a client wants to push.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PushHead {
    pub(crate) updates: Vec<RefUpdate>,
    /// As given with `git push -o`.
    pub(crate) options: Vec<String>,
    /// How many objects follow. None: nothing does, as where refs are only deleted.
    pub(crate) objects: Option<u32>,
    pub(crate) reports_status: bool,
    pub(crate) takes_side_band: bool,
}

/// Why octets are not a push.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPush {
    #[error("the push broke off before it had said what it is about")]
    Truncated,
    #[error("the push names refs and options of more than {} MiB: push fewer at once", MAX_BYTES >> 20)]
    Long,
    #[error("the push is not in git's protocol")]
    Frame(#[from] InvalidFrame),
    #[error("the push is not in git's protocol: it says `{0}` where the change of a ref stands")]
    Command(String),
    #[error(transparent)]
    Id(#[from] InvalidObjectId),
    #[error(transparent)]
    Name(#[from] InvalidRefName),
    #[error("`{0}` is there twice in one push")]
    Twice(RefName),
    #[error("the push is signed, which is not supported: push it again with --no-signed")]
    Signed,
    #[error("there is no pack behind the refs of the push")]
    NoPack,
}

enum Next {
    Commands,
    Options,
    Pack,
    Nothing,
}

/// Reads a head as it arrives.
pub(crate) struct Reader {
    bytes: BytesMut,
    at: usize,
    next: Next,
    has_options: bool,
    head: PushHead,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self {
            bytes: BytesMut::new(),
            at: 0,
            next: Next::Commands,
            has_options: false,
            head: PushHead::default(),
        }
    }

    /// Takes what has arrived. True: the head is complete.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<bool, InvalidPush> {
        self.bytes.extend_from_slice(bytes);
        while !matches!(self.next, Next::Nothing) {
            if matches!(self.next, Next::Pack) {
                let Some(head) = self.bytes.get(self.at..self.at + PACK_HEAD_BYTES) else { break };
                self.head.objects = Some(objects(head).ok_or(InvalidPush::NoPack)?);
                self.next = Next::Nothing;
                break;
            }
            match pkt::frame(&self.bytes[self.at..])? {
                Frame::Incomplete if self.bytes.len() > MAX_BYTES => return Err(InvalidPush::Long),
                Frame::Incomplete => break,
                Frame::Mark => {
                    self.at += 4;
                    self.next = self.after_mark()?;
                }
                Frame::Line(length) => {
                    let line = self.at + 4..self.at + length;
                    self.at = line.end;
                    if self.at > MAX_BYTES {
                        return Err(InvalidPush::Long);
                    }
                    let line = String::from_utf8_lossy(&self.bytes[line]).into_owned();
                    self.line(&line)?;
                }
            }
        }
        Ok(matches!(self.next, Next::Nothing))
    }

    /// All that has arrived, which git needs from its beginning, and what it says.
    pub(crate) fn finish(self) -> (PushHead, Bytes) {
        (self.head, self.bytes.freeze())
    }

    fn after_mark(&self) -> Result<Next, InvalidPush> {
        let updates = &self.head.updates;
        if matches!(self.next, Next::Commands) {
            let mut names = HashSet::new();
            if let Some(twice) = updates.iter().find(|update| !names.insert(&update.name)) {
                return Err(InvalidPush::Twice(twice.name.clone()));
            }
            if self.has_options {
                return Ok(Next::Options);
            }
        }
        Ok(if updates.iter().any(|update| update.new.is_some()) { Next::Pack } else { Next::Nothing })
    }

    fn line(&mut self, line: &str) -> Result<(), InvalidPush> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        if matches!(self.next, Next::Options) {
            self.head.options.push(line.to_owned());
            return Ok(());
        }
        if line.starts_with("shallow ") {
            return Ok(());
        }
        if line.starts_with("push-cert") {
            return Err(InvalidPush::Signed);
        }
        let (command, capabilities) = line.split_once('\0').unwrap_or((line, ""));
        for capability in capabilities.split(' ') {
            match capability {
                "report-status" | "report-status-v2" => self.head.reports_status = true,
                "side-band-64k" => self.head.takes_side_band = true,
                "push-options" => self.has_options = true,
                _ => {}
            }
        }
        self.head.updates.push(update(command)?);
        Ok(())
    }
}

/// Reads `OLD NEW NAME`.
pub(crate) fn update(line: &str) -> Result<RefUpdate, InvalidPush> {
    let mut words = line.splitn(3, ' ');
    let (Some(old), Some(new), Some(name)) = (words.next(), words.next(), words.next()) else {
        return Err(InvalidPush::Command(crate::text::shown(line, 100)));
    };
    Ok(RefUpdate {
        old: old.parse::<ObjectId>()?.unless_zero(),
        new: new.parse::<ObjectId>()?.unless_zero(),
        name: name.parse()?,
    })
}

fn objects(head: &[u8]) -> Option<u32> {
    let count = head.strip_prefix(b"PACK")?.get(4..8)?;
    Some(u32::from_be_bytes(count.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "1111111111111111111111111111111111111111";
    const B: &str = "2222222222222222222222222222222222222222";
    const ZERO: &str = "0000000000000000000000000000000000000000";

    fn push(lines: &[String], rest: &[u8]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        lines.iter().for_each(|line| pkt::put_line(&mut bytes, line.as_bytes()));
        bytes.extend_from_slice(rest);
        bytes.to_vec()
    }

    fn read(bytes: &[u8]) -> Result<Option<PushHead>, InvalidPush> {
        let mut reader = Reader::new();
        Ok(reader.take(bytes)?.then(|| reader.finish().0))
    }

    #[test]
    fn updates_options_and_the_number_of_objects_are_read() {
        let mut options = BytesMut::new();
        pkt::put_line(&mut options, b"env=staging");
        let rest = [b"0000", &options[..], b"0000PACK\0\0\0\x02\0\0\x01\0", b"more"].concat();
        let lines = [
            format!("{A} {B} refs/heads/main\0 report-status-v2 side-band-64k push-options agent=x"),
            format!("{ZERO} {A} refs/tags/v1"),
        ];
        let head = read(&push(&lines, &rest)).unwrap().unwrap();
        assert_eq!(head.updates.len(), 2);
        assert_eq!(head.updates[1].old, None);
        assert_eq!((head.options, head.objects), (vec!["env=staging".to_owned()], Some(256)));
        assert!(head.reports_status && head.takes_side_band);
    }

    #[test]
    fn a_push_that_only_deletes_has_no_pack() {
        let head = read(&push(&[format!("{A} {ZERO} refs/heads/old\0report-status")], b"0000")).unwrap();
        assert_eq!(head.unwrap().objects, None);
    }

    #[test]
    fn the_probe_of_git_is_a_push_of_nothing() {
        assert_eq!(read(b"0000").unwrap().unwrap(), PushHead::default());
    }

    #[test]
    fn a_shallow_client_says_so_before_its_refs() {
        let lines = [format!("shallow {A}"), format!("{A} {ZERO} refs/heads/old\0report-status")];
        assert_eq!(read(&push(&lines, b"0000")).unwrap().unwrap().updates.len(), 1);
    }

    #[test]
    fn what_is_not_a_push_is_refused() {
        let refused = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        let command = |text: &str| refused(&push(&[text.to_owned()], b"0000"));
        assert!(refused(b"<html>").contains("git's protocol"));
        assert!(command("hello").contains("`hello`"));
        assert!(command("push-cert\0x").contains("--no-signed"));
        assert!(command(&format!("{A} {B} refs/heads/../x")).contains("not a name for a ref"));
        assert!(command(&format!("{A} nothing refs/heads/x")).contains("`nothing`"));
        let twice = [format!("{A} {B} refs/heads/x"), format!("{B} {A} refs/heads/x")];
        assert!(refused(&push(&twice, b"0000")).contains("`refs/heads/x` is there twice"));
        assert!(refused(&push(&vec![format!("shallow {A}"); 100_000], b"0000")).contains("4 MiB"));
        assert!(refused(&push(&[format!("{A} {B} refs/heads/x")], b"0000KCAP00000000")).contains("no pack"));
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }

        #[test]
        fn the_head_does_not_depend_on_how_octets_arrive(step in 1..50usize) {
            let bytes = push(&[format!("{A} {B} refs/heads/main\0report-status")], b"0000PACK\0\0\0\x02\0\0\0\x07rest");
            let mut reader = Reader::new();
            bytes.chunks(step).for_each(|chunk| { reader.take(chunk).unwrap(); });
            let (head, all) = reader.finish();
            assert_eq!((head.objects, &all[..]), (Some(7), &bytes[..]));
        }
    }
}

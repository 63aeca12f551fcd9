//! Commands that people run in a container of an app, and what is said while one runs.
//!
//! A [`Frame`] is one octet that says its kind, four octets with the length of what follows, the highest first, and that. It goes the same way
//! between client and server as between server and worker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{ExecId, InstanceId};
use crate::problem::Problem;

/// What a client asks to go over to, in `Upgrade`.
pub const PROTOCOL: &str = "wharf-exec/1";
/// The media type of frames in the body of a request or an answer.
pub const MEDIA_TYPE: &str = "application/vnd.wharf.exec";
/// The longest content of a frame, in octets.
pub const FRAME_MAX_BYTES: usize = 64 << 10;
/// Of the kind and the length.
const HEAD_BYTES: usize = 5;
/// The longest sentence of a problem that is sent, in characters.
const DETAIL_MAX_CHARS: usize = 2000;

/// `POST …/apps/{app}/exec`: what is to be run, and in which of the app's containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// A program and its arguments.
    pub command: Vec<String>,
    /// Whether something is written to it.
    #[serde(default)]
    pub stdin: bool,
    /// Whether it gets a terminal; all that it prints is stdout then.
    #[serde(default)]
    pub tty: bool,
    /// Null: that of the container, as for the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Variables beside those of the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// In the instance of this slot, counted from 1. Null, and no `instance`: the lowest slot that is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// In this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
}

/// Why a command cannot be run by anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExec {
    #[error("command: name a program")]
    NoCommand,
    #[error("command, user, workdir and env take no NUL character")]
    Nul,
    #[error("env: the name of a variable is not empty and holds no `=`")]
    Variable,
    #[error("slot and instance: say one of the two")]
    Both,
    #[error("slot: slots are counted from 1")]
    SlotZero,
}

impl ExecSpec {
    /// Checks what the field types do not.
    pub fn validate(&self) -> Result<(), InvalidExec> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err(InvalidExec::NoCommand);
        }
        if self.env.keys().any(|name| name.is_empty() || name.contains('=')) {
            return Err(InvalidExec::Variable);
        }
        let variables = self.env.iter().flat_map(|(name, value)| [name, value]);
        if self
            .command
            .iter()
            .chain(&self.user)
            .chain(&self.workdir)
            .chain(variables)
            .any(|it| it.contains('\0'))
        {
            return Err(InvalidExec::Nul);
        }
        match (self.slot, self.instance) {
            (Some(_), Some(_)) => Err(InvalidExec::Both),
            (Some(0), None) => Err(InvalidExec::SlotZero),
            _ => Ok(()),
        }
    }
}

/// What a worker is told of a command, one JSON document a line. It then comes for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOrder {
    pub id: ExecId,
    pub instance: InstanceId,
    pub spec: ExecSpec,
}

/// Of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    pub columns: u16,
    pub rows: u16,
}

/// One piece of what is said while a command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// An [`ExecSpec`] in JSON, not read yet. It comes first, and from the client.
    Start(Vec<u8>),
    /// For the command; nothing is the end.
    Stdin(Vec<u8>),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// The client's terminal has this size from now on.
    Resize(WindowSize),
    /// The command has ended, and gave this back.
    Exit(i32),
    /// It cannot be run, or not any longer.
    Error(Problem),
    /// Whoever sends this is there.
    Ping,
}

/// Octets that are no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame has {0} octets, more than {max}", max = FRAME_MAX_BYTES)]
    TooLong(u32),
    #[error("there is no frame of the kind {0}")]
    UnknownKind(u8),
    #[error("the content of a frame of the kind {0} is not what it should be")]
    Content(u8),
    #[error("the last frame was cut off")]
    CutOff,
}

const START: u8 = 0;
const STDIN: u8 = 1;
const STDOUT: u8 = 2;
const STDERR: u8 = 3;
const RESIZE: u8 = 4;
const EXIT: u8 = 5;
const ERROR: u8 = 6;
const PING: u8 = 7;

impl Frame {
    /// The octets of it. What is longer than [`FRAME_MAX_BYTES`] has to be sent in several.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Start(octets) => framed(START, octets),
            Self::Stdin(octets) => framed(STDIN, octets),
            Self::Stdout(octets) => framed(STDOUT, octets),
            Self::Stderr(octets) => framed(STDERR, octets),
            Self::Resize(WindowSize { columns, rows }) => {
                framed(RESIZE, &[columns.to_be_bytes(), rows.to_be_bytes()].concat())
            }
            Self::Exit(code) => framed(EXIT, &code.to_be_bytes()),
            Self::Error(problem) => {
                let detail = problem.detail.chars().take(DETAIL_MAX_CHARS).collect();
                let problem = Problem { detail, ..problem.clone() };
                framed(
                    ERROR,
                    &serde_json::to_vec(&problem).expect("a problem has text keys only, so it is JSON"),
                )
            }
            Self::Ping => framed(PING, &[]),
        }
    }

    fn read(kind: u8, content: &[u8]) -> Result<Self, FrameError> {
        let invalid = FrameError::Content(kind);
        Ok(match kind {
            START => Self::Start(content.to_vec()),
            STDIN => Self::Stdin(content.to_vec()),
            STDOUT => Self::Stdout(content.to_vec()),
            STDERR => Self::Stderr(content.to_vec()),
            RESIZE => {
                let [a, b, c, d]: [u8; 4] = content.try_into().map_err(|_| invalid)?;
                let (columns, rows) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Self::Resize(WindowSize { columns, rows })
            }
            EXIT => Self::Exit(i32::from_be_bytes(content.try_into().map_err(|_| invalid)?)),
            ERROR => Self::Error(serde_json::from_slice(content).map_err(|_| invalid)?),
            PING if content.is_empty() => Self::Ping,
            PING => return Err(invalid),
            _ => return Err(FrameError::UnknownKind(kind)),
        })
    }
}

fn framed(kind: u8, content: &[u8]) -> Vec<u8> {
    debug_assert!(content.len() <= FRAME_MAX_BYTES);
    let length = u32::try_from(content.len()).expect("a frame is bounded");
    let mut octets = Vec::with_capacity(HEAD_BYTES + content.len());
    octets.push(kind);
    octets.extend_from_slice(&length.to_be_bytes());
    octets.extend_from_slice(content);
    octets
}

/// Cuts octets into frames, however they come. It keeps less than a frame beside what it was given last.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    pub fn push(&mut self, octets: &[u8]) {
        self.pending.extend_from_slice(octets);
    }

    /// None: more octets are needed. After an error there is nothing more to be had.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((head, rest)) = self.pending.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [kind, a, b, c, d] = *head;
        if kind > PING {
            return Err(FrameError::UnknownKind(kind));
        }
        let announced = u32::from_be_bytes([a, b, c, d]);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if length > FRAME_MAX_BYTES {
            return Err(FrameError::TooLong(announced));
        }
        let Some(content) = rest.get(..length) else { return Ok(None) };
        let frame = Frame::read(kind, content)?;
        self.pending.drain(..HEAD_BYTES + length);
        Ok(Some(frame))
    }

    /// To be asked when no more octets come.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.pending.is_empty() { Ok(()) } else { Err(FrameError::CutOff) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::problem::ProblemCode;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let octets = || proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            octets().prop_map(Frame::Start),
            octets().prop_map(Frame::Stdin),
            octets().prop_map(Frame::Stdout),
            octets().prop_map(Frame::Stderr),
            any::<(u16, u16)>().prop_map(|(columns, rows)| Frame::Resize(WindowSize { columns, rows })),
            any::<i32>().prop_map(Frame::Exit),
            ".{0,40}".prop_map(|detail| Frame::Error(Problem::new(ProblemCode::Conflict, detail))),
            Just(Frame::Ping),
        ]
    }

    fn decoded(octets: &[u8], chunk: usize) -> Result<Vec<Frame>, FrameError> {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for chunk in octets.chunks(chunk) {
            decoder.push(chunk);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        decoder.finish()?;
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_are_read_as_they_were_written_however_they_come(
            frames in proptest::collection::vec(any_frame(), 0..8), chunk in 1..64_usize,
        ) {
            let octets: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            prop_assert_eq!(decoded(&octets, chunk), Ok(frames));
        }

        #[test]
        fn what_is_cut_off_is_no_frame(frame in any_frame(), at in any::<prop::sample::Index>()) {
            let octets = frame.encode();
            let cut = &octets[..at.index(octets.len())];
            let expected = if cut.is_empty() { Ok(Vec::new()) } else { Err(FrameError::CutOff) };
            prop_assert_eq!(decoded(cut, 7), expected);
        }

        #[test]
        fn nonsense_is_an_error_or_frames_and_never_a_fault(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(frames) = decoded(&octets, 9) {
                let again: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
                prop_assert_eq!(decoded(&again, 9), Ok(frames));
            }
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_head() {
        let announced = u32::try_from(FRAME_MAX_BYTES).unwrap() + 1;
        let head = [&[STDOUT][..], &announced.to_be_bytes()].concat();
        assert_eq!(decoded(&head, 5), Err(FrameError::TooLong(announced)));
        let longest = Frame::Stdout(vec![b'x'; FRAME_MAX_BYTES]);
        assert_eq!(decoded(&longest.encode(), 4096), Ok(vec![longest]));
    }

    #[test]
    fn unknown_kinds_and_wrong_contents_are_refused() {
        assert_eq!(decoded(&[8, 0, 0, 0, 0], 5), Err(FrameError::UnknownKind(8)));
        let wrong: [(u8, &[u8]); 5] =
            [(RESIZE, b"123"), (EXIT, b"12345"), (ERROR, b"{}"), (ERROR, b"\xff"), (PING, b"x")];
        for (kind, content) in wrong {
            assert_eq!(decoded(&framed(kind, content), 3), Err(FrameError::Content(kind)));
        }
    }

    #[test]
    fn a_long_sentence_fits_into_a_frame() {
        let problem = Problem::new(ProblemCode::Internal, "\u{1f980}".repeat(FRAME_MAX_BYTES));
        let frames = decoded(&Frame::Error(problem).encode(), 999).unwrap();
        assert!(
            matches!(&frames[..], [Frame::Error(problem)] if problem.detail.chars().count() == DETAIL_MAX_CHARS)
        );
    }

    #[test]
    fn what_nobody_could_run_is_refused() {
        let spec = |edit: &dyn Fn(&mut ExecSpec)| {
            let mut spec = ExecSpec { command: vec!["id".into()], ..ExecSpec::default() };
            edit(&mut spec);
            spec.validate()
        };
        assert_eq!(spec(&|_| ()), Ok(()));
        assert_eq!(spec(&|spec| spec.command.clear()), Err(InvalidExec::NoCommand));
        assert_eq!(spec(&|spec| spec.command = vec![String::new()]), Err(InvalidExec::NoCommand));
        assert_eq!(spec(&|spec| spec.command.push("a\0b".into())), Err(InvalidExec::Nul));
        assert_eq!(spec(&|spec| spec.user = Some("\0".into())), Err(InvalidExec::Nul));
        let variable = |name: &str| {
            let name = name.to_owned();
            spec(&move |spec| drop(spec.env.insert(name.clone(), "1".into())))
        };
        assert_eq!((variable(""), variable("A=")), (Err(InvalidExec::Variable), Err(InvalidExec::Variable)));
        assert_eq!(variable("A"), Ok(()));
        assert_eq!(spec(&|spec| spec.slot = Some(0)), Err(InvalidExec::SlotZero));
        let both = |spec: &mut ExecSpec| (spec.slot, spec.instance) = (Some(1), Some(InstanceId::new()));
        assert_eq!(spec(&both), Err(InvalidExec::Both));
    }
}

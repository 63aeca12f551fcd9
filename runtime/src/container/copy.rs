//! Files that people copy out of the containers of this node, or into them.
//!
//! It goes as for commands ([`super::exec`]): one task follows the orders of the control plane, and each copy has a connection of its own. The
//! archive passes through from the engine to that or back, and nothing of it is kept.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use wharf_docker::{Engine, EngineError, PathKind, PathLook};
use wharf_types::copy::{COPY_MAX_BYTES, CopyOrder, CopyWay, Landing};
use wharf_types::exec::{Decoder, FRAME_MAX_BYTES, Frame};
use wharf_types::problem::ProblemCode;
use wharf_types::{ExecId, Problem, ProcessId};

use super::backend::ContainerBackend;
use crate::control::ControlClient;
use crate::control::orders::Orders;
use crate::orders::{Carrier, Follower, ToServer, Told, ping};

/// Pieces of an archive on their way to the engine.
const PIECES_MAX: usize = 4;
/// An engine looks at so much of an archive to see whether it is compressed, and unpacks it then to whatever it holds.
const BEGIN_BYTES: usize = 10;
/// How long the engine may take for the piece that breaks an archive off.
const BREAK_MAX: Duration = Duration::from_secs(10);

/// Copies the files.
pub struct Copies {
    containers: Arc<ContainerBackend>,
}

impl Copies {
    pub fn spawn(control: ControlClient, process: ProcessId, containers: Arc<ContainerBackend>) -> Follower {
        Follower::spawn(control, process, Self { containers })
    }
}

impl Carrier for Copies {
    const KIND: Orders = Orders::Copies;
    type Order = CopyOrder;

    fn id(order: &CopyOrder) -> ExecId {
        order.id
    }

    async fn carry_out(
        &self,
        order: CopyOrder,
        told: &mut Told,
        to_server: &ToServer,
        cancel: &CancellationToken,
    ) -> Option<Frame> {
        tokio::select! {
            went = carry_out(&self.containers, &order, told, to_server) => match went {
                Ok(Went::Whole) => Some(Frame::Exit(0)),
                Ok(Went::Unwanted) => None,
                Err(problem) => Some(Frame::Error(problem)),
            },
            () = to_server.closed() => None,
            () = ping(to_server) => None,
            () = cancel.cancelled() => {
                let detail = "the worker is stopping, so the copy was broken off";
                Some(Frame::Error(Problem::new(ProblemCode::Unavailable, detail)))
            }
        }
    }
}

/// How it went with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    Whole,
    /// Nobody wants it any more.
    Unwanted,
}

async fn carry_out(
    containers: &ContainerBackend,
    order: &CopyOrder,
    told: &mut Told,
    to_server: &ToServer,
) -> Result<Went, Problem> {
    containers.must_run(order.instance)?;
    match order.way {
        CopyWay::Out => send(containers.engine(), order, told, to_server).await,
        CopyWay::In => take(containers.engine(), order, told, to_server).await,
    }
}

/// Sends what is at a path.
async fn send(
    engine: &Engine,
    order: &CopyOrder,
    told: &mut Told,
    to_server: &ToServer,
) -> Result<Went, Problem> {
    let looked = engine.look_at(order.instance, without_end(&order.path)).await;
    let look = looked.map_err(|error| refused(&error))?;
    check_source(&look, &order.path)?;
    let mut archive = engine.copy_out(order.instance, &look.path);
    let sending = async {
        let mut bytes = 0;
        while let Some(octets) = archive.next().await {
            let octets = octets.map_err(|error| refused(&error))?;
            bytes += octets.len() as u64;
            if bytes > COPY_MAX_BYTES {
                return Err(too_much());
            }
            for piece in octets.chunks(FRAME_MAX_BYTES) {
                if to_server.send(Frame::Stdout(piece.to_vec()).encode().into()).await.is_err() {
                    return Ok(Went::Unwanted);
                }
            }
        }
        Ok::<Went, Problem>(Went::Whole)
    };
    tokio::select! {
        sent = sending => sent,
        // Whoever gets an archive says nothing, so this is their end.
        () = async { while let Some(Ok(_)) = told.next().await {} } => Ok(Went::Unwanted),
    }
}

/// Takes what is to be at a path.
async fn take(
    engine: &Engine,
    order: &CopyOrder,
    told: &mut Told,
    to_server: &ToServer,
) -> Result<Went, Problem> {
    let looked = engine.look_at(order.instance, without_end(&order.path)).await;
    let (folder, landing) = land(looked.map_err(|error| refused(&error))?, order.path.ends_with('/'))?;
    let landing = serde_json::to_vec(&landing).expect("it has texts only, so it is JSON");
    if to_server.send(Frame::Stdout(landing).encode().into()).await.is_err() {
        return Ok(Went::Unwanted);
    }
    let (pieces, archive) = mpsc::channel(PIECES_MAX);
    let written = async {
        let written = engine.copy_in(order.instance, &folder, ReceiverStream::new(archive)).await;
        written.map(|()| Went::Whole).map_err(|error| refused(&error))
    };
    tokio::pin!(written);
    let heard = tokio::select! {
        biased;
        heard = hand_on(told, pieces) => heard,
        // The engine has had enough, or takes no more.
        written = &mut written => return written,
    };
    match heard {
        Heard::All => written.await,
        Heard::Half => Ok(Went::Unwanted),
        Heard::TooMuch => Err(too_much()),
        Heard::Compressed => {
            let detail = "the archive is compressed: send it plain";
            Err(Problem::new(ProblemCode::InvalidRequest, detail))
        }
    }
}

/// What has come of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    All,
    Half,
    TooMuch,
    Compressed,
}

/// Hands on the archive as it comes. What is cut off has no end here either.
async fn hand_on(told: &mut Told, pieces: mpsc::Sender<io::Result<Bytes>>) -> Heard {
    let (mut decoder, mut bytes) = (Decoder::default(), 0);
    // Held until all that the engine would look at has come.
    let mut begin = Some(Vec::new());
    let heard = loop {
        let octets = match decoder.next_frame() {
            Ok(Some(Frame::Stdin(octets))) => octets,
            Ok(Some(_)) => continue,
            Ok(None) => match told.next().await {
                Some(Ok(octets)) => {
                    decoder.push(&octets);
                    continue;
                }
                Some(Err(_)) | None => break Heard::Half,
            },
            Err(_) => break Heard::Half,
        };
        bytes += octets.len() as u64;
        if bytes > COPY_MAX_BYTES {
            break Heard::TooMuch;
        }
        let is_end = octets.is_empty();
        let piece = match begin.take() {
            Some(mut held) => {
                held.extend_from_slice(&octets);
                if held.len() < BEGIN_BYTES && !is_end {
                    begin = Some(held);
                    continue;
                }
                if is_compressed(&held) {
                    break Heard::Compressed;
                }
                held
            }
            None => octets,
        };
        if !piece.is_empty() && pieces.send(Ok(piece.into())).await.is_err() {
            // Why the engine takes no more is said by its answer.
            return pending().await;
        }
        if is_end {
            return Heard::All;
        }
    };
    // Without this the engine would take the end of the pieces for that of the archive.
    let _ = timeout(BREAK_MAX, pieces.send(Err(io::ErrorKind::UnexpectedEof.into()))).await;
    heard
}

/// Whether an archive begins as what engines unpack by themselves: gzip, bzip2, xz and zstd. What was counted here would be any multiple of it there.
fn is_compressed(begin: &[u8]) -> bool {
    let is_skippable = matches!(begin, [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50);
    let magics: [&[u8]; 4] = [b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    is_skippable || magics.iter().any(|magic| begin.starts_with(magic))
}

fn check_source(look: &PathLook, path: &str) -> Result<(), Problem> {
    match look.kind {
        None => {
            let detail = format!("there is nothing at {path} in the container");
            Err(Problem::new(ProblemCode::NotFound, detail))
        }
        Some(PathKind::File) if path.ends_with('/') => Err(no_folder(path)),
        Some(_) => Ok(()),
    }
}

/// The folder that an archive is unpacked into, and what the client is told of the path.
fn land(look: PathLook, is_folders: bool) -> Result<(String, Landing), Problem> {
    let PathLook { path, kind } = look;
    if kind == Some(PathKind::Folder) {
        return Ok((path, Landing::Folder));
    }
    if is_folders {
        return Err(no_folder(&path));
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let folder = if folder.is_empty() { "/" } else { folder };
    let name = name.to_owned();
    let landing = match kind {
        Some(_) => Landing::File { name },
        None => Landing::Nothing { name },
    };
    Ok((folder.to_owned(), landing))
}

fn without_end(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

fn no_folder(path: &str) -> Problem {
    Problem::new(ProblemCode::NotFound, format!("there is no folder {path} in the container"))
}

fn too_much() -> Problem {
    let detail = format!("there is more than {} GiB: copy it in parts", COPY_MAX_BYTES >> 30);
    Problem::new(ProblemCode::TooLarge, detail)
}

fn refused(error: &EngineError) -> Problem {
    let code = match error {
        EngineError::NotFound { .. } => ProblemCode::NotFound,
        EngineError::DiskFull { .. } => ProblemCode::StorageFull,
        error if error.is_retryable() => ProblemCode::Unavailable,
        _ => ProblemCode::InvalidRequest,
    };
    Problem::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ControlError;

    fn look(path: &str, kind: Option<PathKind>) -> PathLook {
        PathLook { path: path.to_owned(), kind }
    }

    fn landed(path: &str, kind: Option<PathKind>) -> (String, Landing) {
        land(look(path, kind), false).unwrap()
    }

    #[test]
    fn what_comes_lands_in_a_folder_or_in_the_place_of_what_is_there() {
        let name = |name: &str| name.to_owned();
        assert_eq!(landed("/srv", Some(PathKind::Folder)), (name("/srv"), Landing::Folder));
        assert_eq!(landed("/", Some(PathKind::Folder)), (name("/"), Landing::Folder));
        let file = Landing::File { name: name("a.txt") };
        assert_eq!(landed("/srv/a.txt", Some(PathKind::File)), (name("/srv"), file));
        assert_eq!(landed("/new", None), (name("/"), Landing::Nothing { name: name("new") }));
        for kind in [Some(PathKind::File), None] {
            let problem = land(look("/srv/a", kind), true).unwrap_err();
            assert!(problem.detail.contains("no folder /srv/a"), "{problem:?}");
        }
        assert_eq!((without_end("/srv//"), without_end("//"), without_end("/a")), ("/srv", "/", "/a"));
    }

    #[test]
    fn what_is_not_there_is_not_copied() {
        assert!(check_source(&look("/a", Some(PathKind::File)), "/a").is_ok());
        assert!(check_source(&look("/a", Some(PathKind::Folder)), "/a/").is_ok());
        let problem = check_source(&look("/a", None), "/a").unwrap_err();
        assert_eq!(
            (problem.code, &problem.detail[..]),
            (ProblemCode::NotFound, "there is nothing at /a in the container")
        );
        assert!(check_source(&look("/a", Some(PathKind::File)), "/a/").is_err());
    }

    /// What the engine gets of frames that are told, and how it ends.
    async fn handed_on(frames: &[Frame]) -> (Heard, Vec<io::Result<Bytes>>) {
        let octets: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut told: Told = Box::pin(futures::stream::iter([Ok::<_, ControlError>(Bytes::from(octets))]));
        let (pieces, mut came) = mpsc::channel(8);
        let heard = hand_on(&mut told, pieces).await;
        let mut all = Vec::new();
        while let Some(piece) = came.recv().await {
            all.push(piece);
        }
        (heard, all)
    }

    #[tokio::test]
    async fn a_compressed_archive_is_refused_however_its_beginning_comes() {
        let frames = |octets: &[u8]| {
            let mut frames: Vec<_> = octets.iter().map(|octet| Frame::Stdin(vec![*octet])).collect();
            frames.push(Frame::Stdin(Vec::new()));
            frames
        };
        let magics: [&[u8]; 5] =
            [b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x5e\x2a\x4d\x18"];
        for magic in magics {
            for rest in [&b""[..], b"0123456789"] {
                let (heard, came) = handed_on(&frames(&[magic, rest].concat())).await;
                assert!(heard == Heard::Compressed && matches!(&came[..], [Err(_)]), "{magic:x?}: {came:?}");
            }
        }
        for plain in [&b"a.txt\0\0\0\0\0\0\0"[..], b"\x1f\x8b", b"BZ", b""] {
            let (heard, came) = handed_on(&frames(plain)).await;
            let came: Vec<u8> = came.into_iter().flat_map(|piece| piece.unwrap()).collect();
            assert!(heard == Heard::All && came == plain, "{plain:x?}: {came:x?}");
        }
    }

    #[tokio::test]
    async fn an_archive_that_is_cut_off_is_broken_off_for_the_engine_too() {
        let half = Frame::Stdin(b"half of it".to_vec());
        let (heard, came) = handed_on(&[half.clone(), Frame::Stdin(Vec::new())]).await;
        assert!(heard == Heard::All && matches!(&came[..], [Ok(piece)] if piece == "half of it"), "{came:?}");
        let (heard, came) = handed_on(&[half]).await;
        assert!(heard == Heard::Half && matches!(&came[..], [Ok(_), Err(_)]), "{came:?}");
    }
}

//! `wharf cp`: files out of a container of an app, and into one.
//!
//! Either way they go as a tar archive in the frames of a connection. [`pack`] makes one of what is here and [`unpack`] writes one out here,
//! piece by piece, and a copy is whole only when the platform has said so.

mod pack;
mod place;
mod unpack;

use std::future::pending;
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use wharf_types::InstanceId;
use wharf_types::copy::{COPY_MAX_BYTES, CopyWay, Landing};
use wharf_types::exec::{FRAME_MAX_BYTES, Frame};

use self::pack::{Tally, pack};
use self::place::{Owner, Place, There};
use crate::args::parse_instance;
use crate::exit::{Exit, Failure};
use crate::output::{self, bytes, count};
use crate::said::{Of, Said};
use crate::session::Session;
use crate::unpack::Limits;

const COPY: Of = Of {
    what: "copy",
    broken: "the platform went away, or this token may not copy there any more; what has come already stays where it is",
};
/// What may come out of a container at once. Nothing of it is kept in memory.
const LIMITS: Limits = Limits { bytes: COPY_MAX_BYTES, entries: 1_000_000 };
/// Pieces of an archive that wait for the disk or for the network.
const PIECES_MAX: usize = 4;
/// What is said of single files; of more it is only said how many there are.
const NOTICES_MAX: usize = 20;

#[derive(Args, Debug)]
pub struct CpArgs {
    /// APP:PATH or APP.SLOT:PATH, a file or folder here, or `-` for a tar archive on stdin
    #[arg(value_name = "FROM")]
    pub from: Place,
    /// The same; `-` writes a tar archive to stdout
    #[arg(value_name = "TO")]
    pub to: Place,
    /// Whose the files are in the container, by numbers; those of an archive on stdin keep theirs
    #[arg(long, value_name = "UID[:GID]", default_value = "0")]
    pub owner: Owner,
    /// In which instance, by its id
    #[arg(long, value_name = "ID", value_parser = parse_instance)]
    pub instance: Option<InstanceId>,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Copied {
    /// Files, folders and links.
    entries: u64,
    /// Of all files together.
    bytes: u64,
}

pub async fn run(session: &Session, args: CpArgs) -> anyhow::Result<()> {
    let CpArgs { from, to, owner, instance } = args;
    match (from, to) {
        (Place::There(_), Place::There(_)) => Err(Failure::usage("both are in containers")
            .help("copy to a file here first, or through a pipe: `wharf cp A:PATH - | wharf cp - B:PATH`")
            .into()),
        (Place::There(from), to) => fetch(session, &from, to, instance).await,
        (from, Place::There(to)) => put(session, from, &to, owner, instance).await,
        _ => Err(Failure::usage("neither of the two is in a container")
            .help("write that one as APP:PATH, such as `wharf cp web:/etc/nginx/nginx.conf .`")
            .into()),
    }
}

/// Out of a container.
async fn fetch(
    session: &Session,
    from: &There,
    to: Place,
    instance: Option<InstanceId>,
) -> anyhow::Result<()> {
    let spec = from.spec(CopyWay::Out, instance)?;
    let place = match &to {
        Place::Here(to) => Some(unpack::place(to, from.name())?),
        _ if output::stdout_is_terminal() => {
            return Err(Failure::usage("an archive is nothing for a terminal")
                .help("name a file or a folder, or pipe it into something, such as `tar -t`")
                .into());
        }
        _ if session.json => {
            return Err(
                Failure::usage("--json needs a file or a folder, because an archive is on stdout").into()
            );
        }
        _ => None,
    };
    let app = session.app(Some(from.app.clone()))?;
    let connection = session.client.copy(&app, &spec).await?;
    // Closing the way there would end it.
    let (said, _to) = tokio::io::split(connection);
    let said = Said::new(said, COPY);
    let Some(place) = place else { return pass_on(said, tokio::io::stdout()).await };
    let shown = place.display().to_string();
    let copied = receive(said, place).await?;
    tell(session, (&from.to_string(), &shown), copied)
}

async fn pass_on(
    mut said: Said<impl AsyncRead + Unpin>,
    mut to: impl AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    let could_not = "could not write the archive, which is not whole";
    while let Some(octets) = said.next().await? {
        to.write_all(&octets).await.context(could_not)?;
    }
    to.flush().await.context(could_not)
}

/// Unpacks what comes.
async fn receive(mut said: Said<impl AsyncRead + Unpin>, place: PathBuf) -> anyhow::Result<Copied> {
    let (pieces, came) = mpsc::channel(PIECES_MAX);
    let work = spawn_blocking(move || {
        let mut notices = Notices::default();
        let from = Pieces { from: came, piece: Bytes::new(), has_ended: false };
        let copied = unpack::unpack(from, &place, LIMITS, &mut |notice| notices.say(&notice));
        notices.finish();
        copied
    });
    let told = async move {
        while let Some(octets) = said.next().await? {
            if pieces.send(Some(octets)).await.is_err() {
                // Why nobody takes them any more is said by the work.
                return Ok(());
            }
        }
        let _ = pieces.send(None).await;
        Ok::<(), anyhow::Error>(())
    };
    let told = told.await;
    let copied = work.await.context("what came could not be unpacked")?;
    told?;
    copied
}

/// Into a container.
async fn put(
    session: &Session,
    from: Place,
    to: &There,
    owner: Owner,
    instance: Option<InstanceId>,
) -> anyhow::Result<()> {
    let spec = to.spec(CopyWay::In, instance)?;
    let source = match &from {
        Place::Here(path) => Some(Source::of(path)?),
        _ if io::stdin().is_terminal() => {
            return Err(Failure::usage("there is no archive on stdin, but a terminal").into());
        }
        _ => None,
    };
    let app = session.app(Some(to.app.clone()))?;
    let connection = session.client.copy(&app, &spec).await?;
    let (said, connection) = tokio::io::split(connection);
    let mut said = Said::new(said, COPY);
    let landing = said.next().await?.unwrap_or_default();
    let landing: Landing =
        serde_json::from_slice(&landing).context("what the platform says is no answer to this")?;
    let tally = Arc::new(Tally::default());
    let (pieces, packed) = mpsc::channel(PIECES_MAX);
    let work = match source {
        Some(source) => {
            let name = source.name_at(landing, to)?;
            let tally = tally.clone();
            spawn_blocking(move || {
                let mut notices = Notices::default();
                let to = io::BufWriter::with_capacity(FRAME_MAX_BYTES, ToPieces(pieces));
                let packed = pack(&source.path, &name, (owner, tally.as_ref()), to, &mut |notice| {
                    notices.say(&notice)
                });
                notices.finish();
                packed
            })
        }
        None => {
            if landing != Landing::Folder {
                let message =
                    format!("there is no folder {} in the container, and an archive needs one", to.path);
                return Err(Failure::new(Exit::NotFound, message).into());
            }
            tokio::spawn(read_all(tokio::io::stdin(), pieces, tally.clone()))
        }
    };
    let sending = send(packed, work, connection);
    tokio::select! {
        biased;
        // It may have had enough before it has read the last octets, which say nothing.
        ended = said.next() => done(ended?)?,
        sent = sending => {
            sent?;
            done(said.next().await?)?;
        }
    }
    let shown = match &from {
        Place::Here(path) => path.display().to_string(),
        _ => "-".to_owned(),
    };
    tell(session, (&shown, &to.to_string()), tally.copied())
}

/// Whether that was the end, where nothing else is to be said.
fn done(said: Option<Vec<u8>>) -> anyhow::Result<()> {
    match said {
        None => Ok(()),
        Some(_) => Err(anyhow::anyhow!("what the platform says is no answer to this")),
    }
}

/// What is copied from here.
#[derive(Debug)]
struct Source {
    /// With links followed.
    path: PathBuf,
    name: String,
    is_folder: bool,
}

impl Source {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let could_not =
            |error: io::Error| Failure::invalid(format!("could not open {}: {error}", path.display()));
        let resolved = path.canonicalize().map_err(could_not)?;
        let is_folder = resolved.metadata().map_err(could_not)?.is_dir();
        if !is_folder && path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(Failure::invalid(format!("{} is no folder", path.display())).into());
        }
        // Of `.` and the like, what the folder is called.
        let Some(name) = path.file_name().or(resolved.file_name()) else {
            return Err(Failure::usage(format!("{} has no name", path.display()))
                .help("copy what is in it: `tar -C / -c … | wharf cp - APP:PATH`")
                .into());
        };
        let Some(name) = name.to_str().map(str::to_owned) else {
            return Err(Failure::invalid(format!("the name of {} is not UTF-8", path.display())).into());
        };
        Ok(Self { path: resolved, name, is_folder })
    }

    /// What it is called in the archive.
    fn name_at(&self, landing: Landing, to: &There) -> anyhow::Result<String> {
        match landing {
            Landing::Folder => Ok(self.name.clone()),
            Landing::File { .. } if self.is_folder => {
                let message = format!("{} is a file in the container, and `{}` a folder", to.path, self.name);
                Err(Failure::new(Exit::Conflict, message).into())
            }
            Landing::File { name } | Landing::Nothing { name } => Ok(name),
        }
    }
}

/// Reads an archive as it is.
async fn read_all(
    mut from: impl AsyncRead + Unpin,
    pieces: mpsc::Sender<Vec<u8>>,
    tally: Arc<Tally>,
) -> anyhow::Result<()> {
    let mut chunk = vec![0; FRAME_MAX_BYTES];
    loop {
        let read = from.read(&mut chunk).await.context("could not read stdin")?;
        if read == 0 || pieces.send(chunk[..read].to_vec()).await.is_err() {
            return Ok(());
        }
        tally.add(0, read as u64);
    }
}

/// Sends what was packed, and that it is whole, if it is. What is written to nobody is waited for without an end: why is to be read then.
async fn send(
    mut packed: mpsc::Receiver<Vec<u8>>,
    work: tokio::task::JoinHandle<anyhow::Result<()>>,
    mut to: impl AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    while let Some(octets) = packed.recv().await {
        if write(&mut to, &Frame::Stdin(octets)).await.is_err() {
            return pending().await;
        }
    }
    work.await.context("what is here could not be packed")??;
    if write(&mut to, &Frame::Stdin(Vec::new())).await.is_err() {
        return pending().await;
    }
    Ok(())
}

async fn write(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    to.write_all(&frame.encode()).await?;
    to.flush().await
}

fn tell(session: &Session, (from, to): (&str, &str), copied: Copied) -> anyhow::Result<()> {
    let Copied { entries, bytes: octets } = copied;
    if session.json {
        let said = serde_json::json!({"from": from, "to": to, "entries": entries, "bytes": octets});
        return output::json(&said);
    }
    // Nobody has counted what is in an archive that only passes.
    let what = match entries {
        0 => bytes(octets),
        1 => format!("1 file or folder, {}", bytes(octets)),
        entries => format!("{}, folders and links, {}", count(entries, "file"), bytes(octets)),
    };
    output::line(format!("copied {from} to {to}: {what}"))
}

/// What people should know of single files.
#[derive(Default)]
struct Notices {
    count: usize,
}

impl Notices {
    fn say(&mut self, notice: &str) {
        self.count += 1;
        if self.count <= NOTICES_MAX {
            output::note(format!("note: {notice}"));
        }
    }

    fn finish(&self) {
        if self.count > NOTICES_MAX {
            output::note(format!("note: the same holds for {} more", self.count - NOTICES_MAX));
        }
    }
}

/// The archive as it comes. None is its end.
struct Pieces {
    from: mpsc::Receiver<Option<Vec<u8>>>,
    piece: Bytes,
    has_ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.has_ended {
            match self.from.blocking_recv() {
                Some(Some(octets)) => self.piece = octets.into(),
                Some(None) => self.has_ended = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let read = self.piece.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.piece.split_to(read));
        Ok(read)
    }
}

/// Where an archive goes that is made here.
struct ToPieces(mpsc::Sender<Vec<u8>>);

impl Write for ToPieces {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let octets = &octets[..octets.len().min(FRAME_MAX_BYTES)];
        let sent = self.0.blocking_send(octets.to_vec());
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody wants it any more"))?;
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wharf_types::Problem;
    use wharf_types::problem::ProblemCode;

    use super::*;

    #[test]
    fn what_is_copied_has_the_name_that_it_is_to_have_there() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "").unwrap();
        let source = Source::of(&folder.path().join("a")).unwrap();
        let to = There { app: "web".parse().unwrap(), slot: None, path: "/b".to_owned() };
        let name = |source: &Source, landing| source.name_at(landing, &to);
        let (file, nothing) = (Landing::File { name: "b".into() }, Landing::Nothing { name: "b".into() });
        assert_eq!(name(&source, Landing::Folder).unwrap(), "a");
        assert_eq!(name(&source, file.clone()).unwrap(), "b");
        assert_eq!(name(&source, nothing.clone()).unwrap(), "b");
        let source = Source::of(&folder.path().join(".")).unwrap();
        assert_eq!(name(&source, nothing).unwrap(), "b");
        assert_eq!(Exit::of(&name(&source, file).unwrap_err()), Exit::Conflict);
        let name_of_folder = folder.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(name(&source, Landing::Folder).unwrap(), name_of_folder);
        assert!(Source::of(&folder.path().join("a/")).is_err());
    }

    fn octets(frames: &[Frame]) -> Vec<u8> {
        frames.iter().flat_map(Frame::encode).collect()
    }

    /// The archive of one file.
    fn archive() -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "there", &b"hi"[..]).unwrap();
        archive.into_inner().unwrap()
    }

    #[tokio::test]
    async fn a_copy_is_whole_when_the_platform_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("here");
        let came = async |last: Option<Frame>| {
            let frames: Vec<Frame> = [Frame::Stdout(archive())].into_iter().chain(last).collect();
            let octets = octets(&frames);
            receive(Said::new(&octets[..], COPY), place.clone()).await
        };
        let copied = came(Some(Frame::Exit(0))).await.unwrap();
        assert_eq!(copied, Copied { entries: 1, bytes: 2 });
        assert_eq!(std::fs::read(&place).unwrap(), b"hi");
        let problem = Problem::new(ProblemCode::Unavailable, "the worker is stopping");
        let error = came(Some(Frame::Error(problem.clone()))).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Problem>(), Some(&problem));
        assert_eq!(Exit::of(&came(None).await.unwrap_err()), Exit::Unreachable);
    }

    #[tokio::test]
    async fn what_is_sent_has_an_end_only_where_it_is_whole() {
        for (is_whole, last) in [(true, Some(Frame::Stdin(Vec::new()))), (false, None)] {
            let (pieces, packed) = mpsc::channel(1);
            let work = tokio::spawn(async move {
                pieces.send(b"archive".to_vec()).await.unwrap();
                if is_whole { Ok(()) } else { Err(anyhow::anyhow!("it cannot be read")) }
            });
            let mut sent = Vec::new();
            assert_eq!(send(packed, work, &mut sent).await.is_ok(), is_whole);
            let frames: Vec<Frame> = [Frame::Stdin(b"archive".to_vec())].into_iter().chain(last).collect();
            assert_eq!(sent, octets(&frames));
        }
    }
}
